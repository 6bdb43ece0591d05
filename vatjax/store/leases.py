"""Leases: claims that a thread renews until they are released."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence

from vatjax import errors
from vatjax.store.claims import Claim, claim, holders
from vatjax.store.files import Path, path, reason

LEASE_SECONDS = 300.0  # until the claim of a lost machine expires; a stalled machine has its work done twice
_RENEWALS = 10  # per lifetime of a claim
_POLL_SECONDS = 5.0  # between two checks of another process's claim


class Leases:
    """Claims that a thread renews until they are released."""

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = LEASE_SECONDS if seconds is None else seconds
        self._claims: list[Claim] = []
        self._ended, self._lost = threading.Event(), False
        self._renewed = _clocks()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def add(self, lease: Claim) -> None:
        """Adds a claim to those that are renewed."""
        self._claims.append(lease)

    def _renew(self) -> None:
        """Renews all claims until release. After any exception it tries again, for as long as the claims live."""
        while not self._ended.wait(self._seconds / _RENEWALS):
            try:
                begun = _clocks()
                renewed = [lease.renew() for lease in list(self._claims)]
                if not all(renewed):
                    self._lost = True
                    return
                self._renewed = begun
            except Exception:
                if self._is_overdue():
                    self._lost = True
                    return

    def _is_overdue(self) -> bool:
        """Returns True if the last renewal is a lifetime ago by any clock: a stopped machine stops some of them."""
        return any(now - then > self._seconds for now, then in zip(_clocks(), self._renewed, strict=True))

    def lost(self) -> bool:
        """Returns True if another process has taken over any of these claims, or they expired unrenewed."""
        if not self._ended.is_set() and self._is_overdue():
            self._lost = True
        return self._lost

    def raise_if_lost(self, folder: str) -> None:
        """Raises InputError if a claim is lost: another run may use the folder."""
        if self.lost():
            raise errors.InputError(f"{folder}: another run has taken this folder over; this one stops")

    def release(self, done: bool = False) -> None:
        """Stops renewing and releases the claims. If `done`, removes their files: the work is never claimed again."""
        self._ended.set()
        self._thread.join()
        for lease in self._claims if done or not self._lost else ():
            with contextlib.suppress(OSError):
                lease.delete() if done else lease.release()


def _clocks() -> tuple[float, float]:
    """Returns the seconds of two clocks that are never set: one stands still while a machine sleeps, the other may not."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic(), time.monotonic() if boot is None else time.clock_gettime(boot)


def acquire_all(folder: Path, names: Sequence[str], seconds: float | None = None) -> Leases | None:
    """Acquires leases on all `names`, or returns None if any is taken.

    A lease expires LEASE_SECONDS after its last renewal.
    """
    seconds = LEASE_SECONDS if seconds is None else seconds
    leases = Leases(seconds)
    for name in names:
        lease = claim(folder, name, seconds)
        if lease is None:
            leases.release()
            return None
        leases.add(lease)
    return leases


def acquire_exclusive(
    folder: Path,
    name: str = "run",
    is_rival: Callable[[str], bool] = lambda _: False,
    describe: Callable[[str], str] = lambda _: "a run",
    on_message: Callable[[str], None] = lambda _: None,
) -> Leases:
    """Acquires the lease of a folder in which only one run may work.

    Waits until the claim of a lost machine has expired. A claim that is renewed meanwhile belongs to a live process.

    Args:
        folder: of the run.
        name: of the claim.
        is_rival: returns True for the name of any other claim that excludes this run.
        describe: returns the user-readable form of a claim's name.
        on_message: callback; receives which process is waited for.

    Raises:
        InputError: if another process works in the folder, or the folder can't be written to.
    """
    claims = path(folder) / "claims"
    seen: dict[str, float] = {}
    while True:
        try:
            leases = acquire_all(claims, [name])
            claims_by_name = holders(claims)
        except OSError as error:
            raise errors.LocalError(f"{folder}: {reason(error)}") from None
        others = {
            other: who for other, who in claims_by_name.items() if (leases is None and other == name) or is_rival(other)
        }
        if leases is not None and not others:
            return leases
        if leases is not None:
            leases.release(done=True)
        descriptions = [
            f"{describe(other)} is at work there: process {who.pid} on {who.host}" for other, who in others.items()
        ]
        alive = [other for other, who in others.items() if who.is_local or who.until > seen.get(other, who.until)]
        if alive:
            raise errors.InputError(f"{folder}: {'; '.join(descriptions)}; wait for it, or end it")
        if not seen and descriptions:
            left = max(who.until for who in others.values()) - time.time()
            on_message(f"{folder}: {'; '.join(descriptions)}; if it is gone, the folder is free in {left:.0f} seconds")
        seen |= {other: who.until for other, who in others.items() if other not in seen}
        time.sleep(_POLL_SECONDS)
