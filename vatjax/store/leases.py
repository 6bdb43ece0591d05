"""Leases: claims that a thread renews until they are released."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence

from vatjax import errors
from vatjax.store.claims import LEASE_SECONDS, Claim, Claims, Holder
from vatjax.store.files import Path, path, reason

_RENEWALS = 10  # per lifetime of a claim
_MARGIN = 0.9  # of the lifetime, after which a holder stops: before any other process can see the claim expire
_POLL_SECONDS = 5.0  # between two checks of another process's claim


class LeaseLost(errors.LocalError):
    """Work that another process has taken over, after this one was stopped for long."""


class Leases:
    """Claims that a thread renews until they are released.

    Args:
        seconds: their lifetime without a renewal.
        clocks: return seconds of clocks that are never set; the claims are lost if any of them says so.
    """

    def __init__(self, seconds: float = LEASE_SECONDS, clocks: Callable[[], Sequence[float]] | None = None) -> None:
        self._seconds, self._clocks = seconds, clocks or _clocks
        self._claims: list[Claim] = []
        self._ended, self._lost, self._taken = threading.Event(), False, False
        self._renewed = self._clocks()
        self._thread: threading.Thread | None = None

    def add(self, lease: Claim) -> None:
        """Adds a claim to those that are renewed."""
        self._claims.append(lease)

    def start(self) -> None:
        """Starts the thread that renews the claims."""
        self._thread = threading.Thread(target=self._keep_renewing, daemon=True)
        self._thread.start()

    def _keep_renewing(self) -> None:
        """Renews all claims until release. After any exception it tries again, for as long as the claims live."""
        while not self._ended.wait(self._seconds / _RENEWALS) and not self.lost():
            with contextlib.suppress(Exception):
                self.renew()

    def renew(self) -> None:
        """Renews all claims once."""
        begun = self._clocks()
        if not all(lease.renew() for lease in list(self._claims)):
            self._lost = self._taken = True
        self._renewed = begun

    def lost(self) -> bool:
        """Returns True if another process has taken over any of these claims, or may do so: they were not renewed for
        nearly their lifetime by any clock. A machine that is stopped stops some of its clocks."""
        passed = [now - then for now, then in zip(self._clocks(), self._renewed, strict=True)]
        if self._claims and not self._ended.is_set() and any(seconds > _MARGIN * self._seconds for seconds in passed):
            self._lost = True
        return self._lost

    def check(self, what: str) -> None:
        """Raises LeaseLost if a claim is lost. Asks only this process's clocks, and so costs nothing.

        Args:
            what: the work, for the message.
        """
        if self.lost():
            raise LeaseLost(f"{what}: another process has taken this work over")

    def check_generation(self, what: str) -> None:
        """Raises LeaseLost if a claim is lost, or if the store has a claim of a later generation."""
        self.check(what)
        with contextlib.suppress(
            Exception
        ):  # a store that doesn't answer: the clocks decide, and the record is exclusive
            if not all(lease.is_highest() for lease in self._claims):
                self._lost = self._taken = True
        self.check(what)

    def retain(self, what: str) -> None:
        """Renews claims that were not renewed in time and that no other process has; raises LeaseLost for all others.

        For a folder: its run goes on after the machine slept. For work that is committed `check` is stricter.
        """
        if self.lost() and not self._taken:
            with contextlib.suppress(Exception):
                self.renew()
                self._lost = self._taken
                if not self._lost:
                    self.start()
        self.check(what)

    def generation(self) -> int:
        """Returns the highest generation of the claims."""
        return max((lease.holder.generation for lease in self._claims), default=0)

    def release(self) -> None:
        """Stops renewing and releases the claims."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        for lease in () if self._lost else self._claims:
            with contextlib.suppress(Exception):  # it expires
                lease.release()


def _clocks() -> tuple[float, float]:
    """Returns the seconds of two clocks that are never set: one stands still while a machine sleeps, the other may not."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic(), time.monotonic() if boot is None else time.clock_gettime(boot)


def acquire_all(claims: Claims, names: Sequence[str]) -> Leases | None:
    """Acquires leases on all `names`, or returns None if any is taken.

    Args:
        claims: what this process has observed; the same object at each attempt, so that it sees claims expire.
        names: of the tasks.
    """
    leases = Leases(claims.seconds)
    leases.start()  # the first claims must outlive the last one's way to a slow store
    try:
        for name in names:
            lease = claims.claim(name)
            if lease is None:
                leases.release()
                return None
            leases.add(lease)
    except BaseException:
        leases.release()
        raise
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
    claims = Claims(path(folder) / "claims")
    first_seen: dict[str, Holder] = {}
    while True:
        try:
            leases = acquire_all(claims, [name])
            holder_of = claims.holders()
        except OSError as error:
            raise errors.LocalError(f"{folder}: {reason(error)}") from None
        others = {
            other: who for other, who in holder_of.items() if (leases is None and other == name) or is_rival(other)
        }
        if leases is not None and not others:
            return leases
        if leases is not None:
            leases.release()
        descriptions = [
            f"{describe(other)} is at work there: process {who.pid} on {who.host}" for other, who in others.items()
        ]
        renewed = [other for other, who in others.items() if who.is_local or first_seen.get(other, who) != who]
        if renewed:
            raise errors.InputError(f"{folder}: {'; '.join(descriptions)}; wait for it, or end it")
        if not first_seen and descriptions:
            left = max(claims.expires_in(other) for other in others)
            on_message(f"{folder}: {'; '.join(descriptions)}; if it is gone, the folder is free in {left:.0f} seconds")
        first_seen = others | first_seen
        time.sleep(_POLL_SECONDS)
