"""Claims that are renewed while their work lasts, however long that is."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence

from vatjax import errors
from vatjax.store.claims import Claim, claim, holders
from vatjax.store.files import Path, path, reason

LIFE = 300.0  # seconds that a lost machine is waited for; work of one that only stalled is done twice
_RENEWED = 10  # times in a life
_LOOK = 5.0  # seconds between two looks at somebody else's claim


class Held:
    """Claims that are renewed by a thread until they end."""

    def __init__(self, life: float | None = None) -> None:
        self._life = LIFE if life is None else life
        self._claims: list[Claim] = []
        self._ended, self._lost = threading.Event(), False
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def add(self, one: Claim) -> None:
        """Renews one more."""
        self._claims.append(one)

    def _renew(self) -> None:
        """A folder that can't be reached is tried again, in whatever words its client says so, for as long as claims live."""
        reached = time.monotonic()
        while not self._ended.wait(self._life / _RENEWED):
            try:
                kept = [one.renew() for one in list(self._claims)]
                if not all(kept):
                    self._lost = True
                    return
                reached = time.monotonic()
            except Exception:
                if time.monotonic() - reached > self._life:
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


def hold(folder: Path, names: Sequence[str], life: float | None = None) -> Held | None:
    """Claims on all of some names, or on none where somebody has one of them; without renewal they live for `LIFE`."""
    life = LIFE if life is None else life
    held = Held(life)
    for name in names:
        one = claim(folder, name, life)
        if one is None:
            held.end()
            return None
        held.add(one)
    return held


def alone(
    folder: Path,
    name: str = "run",
    rival: Callable[[str], bool] = lambda _: False,
    called: Callable[[str], str] = lambda _: "a run",
    told: Callable[[str], None] = lambda _: None,
) -> Held:
    """Holds a folder that one run works in.

    A claim of a machine that is gone is waited for until it has run out; one that is renewed meanwhile is somebody's.

    Args:
        folder: of the run.
        name: of the claim.
        rival: which other claims there stand in its way.
        called: what a claim is called to a person.
        told: is told who is waited for.

    Raises:
        InputError: where somebody is at work there, and where the folder can't be written to.
    """
    claims = path(folder) / "claims"
    seen: dict[str, float] = {}
    while True:
        try:
            held = hold(claims, [name])
            every = holders(claims)
        except OSError as error:
            raise errors.LocalError(f"{folder}: {reason(error)}") from None
        others = {other: who for other, who in every.items() if (held is None and other == name) or rival(other)}
        if held is not None and not others:
            return held
        if held is not None:
            held.end(done=True)
        said = [f"{called(other)} is at work there: process {who.pid} on {who.host}" for other, who in others.items()]
        alive = [other for other, who in others.items() if who.here or who.until > seen.get(other, who.until)]
        if alive:
            raise errors.InputError(f"{folder}: {'; '.join(said)}; wait for it, or end it")
        if not seen and said:
            left = max(who.until for who in others.values()) - time.time()
            told(f"{folder}: {'; '.join(said)}; if it is gone, the folder is free in {left:.0f} seconds")
        seen |= {other: who.until for other, who in others.items() if other not in seen}
        time.sleep(_LOOK)
