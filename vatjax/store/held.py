"""Claims that are renewed while their work lasts, however long that is."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence

from vatjax import errors
from vatjax.store.claims import Claim, claim, holders
from vatjax.store.files import Path, path, reason

LIFE = 300.0  # seconds that a lost machine is waited for; work of one that only stalled is done twice
FOLDER = 900.0  # the same for a folder that belongs to one run: more than any stall


class Held:
    """Claims that are renewed by a thread until they end."""

    def __init__(self, claims: Sequence[Claim], life: float) -> None:
        self._life = life
        self._claims, self._ended, self._lost = list(claims), threading.Event(), False
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        while not self._ended.wait(self._life / 10):
            for one in self._claims:
                with contextlib.suppress(OSError):  # a folder that can't be reached for a moment
                    if not one.renew():
                        self._lost = True
                        return

    def lost(self) -> bool:
        """Whether somebody else has one of them now."""
        return self._lost

    def check(self, where: str) -> None:
        """Stops a run whose folder somebody else has now."""
        if self._lost:
            raise errors.InputError(f"{where}: another run has taken this folder over; this one stops")

    def end(self, done: bool = False) -> None:
        """Gives them back; where their work is done for good, without a trace."""
        self._ended.set()
        self._thread.join()
        for one in self._claims if done or not self._lost else ():
            with contextlib.suppress(OSError):
                one.settle() if done else one.release()


def hold(folder: Path, names: Sequence[str], life: float = LIFE) -> Held | None:
    """Claims on all of some names, or on none where somebody has one of them."""
    found: list[Claim] = []
    for name in names:
        one = claim(folder, name, life)
        if one is None:
            for other in found:
                other.release()
            return None
        found.append(one)
    return Held(found, life)


def alone(
    folder: Path,
    name: str = "run",
    rival: Callable[[str], bool] = lambda _: False,
    called: Callable[[str], str] = lambda _: "a run",
) -> Held:
    """Holds a folder that one run works in.

    Args:
        folder: of the run.
        name: of the claim.
        rival: which other claims there stand in its way.
        called: what a claim is called to a person.

    Raises:
        InputError: where somebody is at work there, and where the folder can't be written to.
    """
    claims = path(folder) / "claims"
    try:
        held = hold(claims, [name], FOLDER)
        others = {
            other: who for other, who in holders(claims).items() if (held is None and other == name) or rival(other)
        }
    except OSError as error:
        raise errors.InputError(f"{folder}: {reason(error)}") from None
    if held is not None and not others:
        return held
    if held is not None:
        held.end(done=True)
    said = [f"{called(other)} is at work there: process {who.pid} on {who.host}" for other, who in others.items()]
    raise errors.InputError(
        f"{folder}: {'; '.join(said) or called(name) + ' is at work there: somebody'}; wait for it, or end it"
    )
