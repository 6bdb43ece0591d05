"""Shards on a simulated store, interleaved at every request: slow, lost and repeated requests, stalls, kills, skewed clocks.

The code under test is that of a run: the scheduler's leases, the executor, and the artifact store. Only the store's
requests, the clocks and the computation are simulated. One schedule is one seed.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import threading
import types
from typing import Any

import pytest

from tests.tiers import quick
from vatjax import errors, store
from vatjax.store import artifacts, claims, files, leases
from vatjax.store.artifacts import Artifact, ArtifactStore
from vatjax.study import executor, runner
from vatjax.study.batches import Batch
from vatjax.study.failures import Failures
from vatjax.study.status import ArtifactStatus

LIFETIME = 100.0  # seconds of a lease
ARTIFACT = Artifact("result", "one", {"x": 1})


class Killed(BaseException):
    """The process is gone: nothing that it would still do has an effect."""


class Host:
    """One process, with clocks of its own.

    Attributes:
        frozen: seconds for which its clocks stood still.
        skew, rate: of its clocks.
    """

    def __init__(self, world: World, number: int) -> None:
        self.world, self.number, self.name = world, number, f"host{number}"
        self.skew, self.rate = world.random.uniform(-1e6, 1e6), 1 + world.random.uniform(-1e-4, 1e-4)
        self.frozen, self.wakes, self.killed, self.ended = 0.0, 0.0, False, False
        self.frozen_at = self.began = 0.0
        self.executor: Any = None
        self.go, self.error = threading.Semaphore(0), None

    def clock(self) -> float:
        return self.skew + (self.world.now - self.frozen) * self.rate

    def pause(self, seconds: float = 0.0) -> None:
        """Lets others run, for at least this time."""
        self.wakes = self.world.now + seconds
        self.world.back.release()
        self.go.acquire()
        if self.killed:
            raise Killed

    def holds(self) -> bool:
        """Returns True if the process believes that it holds its lease."""
        held = None if self.executor is None else self.executor.leases
        if self.killed or self.ended or held is None or not held._claims or held._ended.is_set():
            return False
        self.world.current, before = self, self.world.current
        try:
            return not held.lost()
        finally:
            self.world.current = before


class World:
    """The store's content, the time, and the one process that runs."""

    def __init__(self, seed: int, faults: bool = True) -> None:
        self.random, self.faults = random.Random(seed), faults
        self.now, self.content, self.records = 0.0, {}, 0
        self.back, self.hosts, self.current = threading.Semaphore(0), [], None

    def request(self, effect):
        """A request that takes effect at some moment; its answer may be lost, and then the client repeats it."""
        host, chance = self.current, self.random.random
        for _ in range(4):
            self.wait(host)
            if self.faults and chance() < 0.05:
                continue  # the request was lost
            found = effect()
            self.wait(host)
            if not (self.faults and chance() < 0.05):
                return found
            if chance() < 0.2:
                raise TimeoutError("no answer")
        return effect()

    def wait(self, host):
        """A moment, seldom a stall, and more seldom the end of the process."""
        chance = self.random.random() if self.faults else 1.0
        if chance < 0.002:
            host.killed = True
        frozen = chance > 0.99 and self.faults and self.random.random() < 0.3
        seconds = self.random.uniform(0, 3 * LIFETIME) if 0.985 < chance < 1 else self.random.expovariate(1)
        host.pause(seconds)
        if frozen:
            host.frozen, host.frozen_at = host.frozen + seconds, self.now

    def run(self, programs):
        """Runs one program on each host until all have ended."""
        self.hosts = [Host(self, number) for number in range(len(programs))]
        for host, program in zip(self.hosts, programs, strict=True):
            threading.Thread(target=self._thread, args=(host, program), daemon=True).start()
        while any(not host.ended for host in self.hosts):
            ready = [host for host in self.hosts if not host.ended and host.wakes <= self.now]
            if not ready:
                self.now = min(host.wakes for host in self.hosts if not host.ended)
                continue
            self.current = self.random.choice(ready)
            self.now += 1e-3
            self.current.go.release()
            self.back.acquire()
            self.check()
        for host in self.hosts:
            if host.error is not None:
                raise host.error

    def _thread(self, host, program):
        host.go.acquire()
        try:
            program(host)
        except Killed:
            pass
        except BaseException as error:
            host.error = error
        host.ended = True
        self.back.release()

    def check(self):
        # A clock that stood still in this batch can't know that its lease is over.
        holders = [host.name for host in self.hosts if host.frozen_at <= host.began and host.holds()]
        assert len(holders) < 2, f"{holders} hold one lease"
        assert self.records < 2, "two processes committed"


class SimulatedPath:
    """A path in the simulated store, with the methods of an epath.Path."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.text = world, name

    def __truediv__(self, part):
        return SimulatedPath(self.world, f"{self.text}/{part}")

    def __str__(self):
        return self.text

    @property
    def name(self):
        return self.text.rpartition("/")[2]

    @property
    def suffix(self):
        return "." + self.name.rpartition(".")[2]

    @property
    def parent(self):
        return SimulatedPath(self.world, self.text.rpartition("/")[0])

    def _below(self):
        names = [name[len(self.text) + 1 :] for name in self.world.content if name.startswith(self.text + "/")]
        return sorted({name.partition("/")[0] for name in names})

    def exists(self):
        return self.world.request(lambda: self.text in self.world.content or bool(self._below()))

    def is_dir(self):
        return bool(self._below())

    def iterdir(self):
        return [self / name for name in self.world.request(self._below)]

    def stat(self):
        return types.SimpleNamespace(length=len(self.world.content[self.text]))

    def open(self, _mode):
        return io.BytesIO(self.read_bytes())

    def read_bytes(self):
        def read():
            if self.text not in self.world.content:
                raise FileNotFoundError(2, "No such file", self.text)
            return self.world.content[self.text]

        return self.world.request(read)

    def write_bytes(self, data):
        self.world.request(lambda: self.world.content.__setitem__(self.text, bytes(data)))

    def unlink(self):
        self.world.request(lambda: self.world.content.pop(self.text, None))

    def rmdir(self):
        pass


class Client:
    """The part of a bucket's client that claims use."""

    def __init__(self, world):
        self.world = world

    def invalidate_cache(self):
        pass

    def ls(self, name, detail=False):
        return [str(path) for path in SimulatedPath(self.world, name).iterdir()]

    def cat_file(self, name):
        return SimulatedPath(self.world, name).read_bytes()

    def rm_file(self, name):
        SimulatedPath(self.world, name).unlink()

    def pipe_file(self, name, data, mode="overwrite"):
        def create():
            if mode == "create" and name in self.world.content:
                raise FileExistsError(17, "File exists", name)
            self.world.content[name] = bytes(data)
            self.world.records += name.endswith("piece.json")

        self.world.request(create)


class Computing(executor.Executor):
    """An executor whose computation takes time, and writes two files with bytes of its own."""

    host: Host

    def _make_statistics(self, batch):
        renewed = self.host.world.now
        for part in range(2):
            for _ in range(self.host.world.random.randrange(12)):
                self.host.pause(self.host.world.random.uniform(0, 8))
                if self.host.world.now > renewed + LIFETIME / 10:  # what the thread of a lease does
                    renewed = self.host.world.now
                    with contextlib.suppress(Exception):
                        self.leases.renew()
            self._check_leases()  # a step of a computation that writes elsewhere
            store.commit(self.artifact_store.path(ARTIFACT) / f"part{part}", f"{self.host.name} {part}".encode())


def shard(host):
    """What one shard does with one batch, until the artifact is complete; errors of the store end it, and it starts anew."""
    world = host.world
    host.executor = None
    for _ in range(60):
        shelf = ArtifactStore(SimulatedPath(world, "pieces"))
        shelf.claims = store.Claims(shelf.folder / "claims", LIFETIME, host.clock)
        with contextlib.suppress(errors.InputError, OSError):
            status = ArtifactStatus([], shelf, Failures(SimulatedPath(world, "failed")))
            planned = types.SimpleNamespace(design=types.SimpleNamespace(out="s"))
            host.executor = Computing(planned, status, None, executor.Callbacks())
            host.executor.host = host
            for _ in range(60):
                host.began = world.now + 1e-9
                if runner._compute_if_ready(Batch(0, (ARTIFACT,)), host.executor, leases.Leases()):
                    if not status.failed:
                        return
                    break  # a write had no answer: the next run tries again
                host.pause(world.random.uniform(1, 20))
        host.pause(world.random.uniform(1, 50))


@pytest.fixture
def simulated(monkeypatch):
    """Returns a function that makes a world, in which the store's code then runs."""
    world: list[World] = []

    def make(seed, faults=True):
        world[:] = [World(seed, faults)]
        return world[0]

    def client(target):
        return Client(world[0]), str(target)

    for module in (claims, files):
        monkeypatch.setattr(module, "bucket_client", client)
    monkeypatch.setattr(claims, "_space", lambda: "")  # nobody can look up another's process
    monkeypatch.setattr(leases, "_clocks", lambda: (world[0].current.clock(),))
    monkeypatch.setattr(leases.Leases, "start", lambda self: None)
    monkeypatch.setattr(executor, "_environment", dict)
    monkeypatch.setattr(artifacts, "SCRATCH", ())
    return make


def run_schedule(world, hosts):
    """Runs one schedule, and then one process without faults; returns whether an artifact was found damaged."""
    world.run([shard] * hosts)
    world.faults = False
    shelf = ArtifactStore(SimulatedPath(world, "pieces"))
    found: list[Any] = []

    def read(_):
        found.append(shelf._is_intact(ARTIFACT))

    world.run([read])
    if found[0] is False:  # as the next run does
        world.records = 0
        world.run([lambda _: shelf.drop(ARTIFACT)])
    world.run([shard])
    world.run([read])
    assert found[1] is True
    record = json.loads(world.content[f"{shelf.path(ARTIFACT)}/piece.json"])
    for name, about in record["files"].items():
        content = world.content[f"{shelf.path(ARTIFACT)}/{name}"]
        assert store.addresses.bytes_address(content) == about["sha256"]
    assert len({world.content[f"{shelf.path(ARTIFACT)}/part{part}"].split()[0] for part in range(2)}) == 1, (
        "two writers"
    )
    return found[0]


@pytest.mark.parametrize("count", quick([300, 10_000], [300]))
def test_no_schedule_loses_an_artifact_or_has_two_holders(simulated, count):
    """A process that stalls within a write can change a file of a finished artifact: its sums tell, and it is computed
    again."""
    outcomes = {True: 0, False: 0, None: 0}
    for seed in range(count):
        try:
            outcomes[run_schedule(simulated(seed), 2 + seed % 3)] += 1
        except BaseException as error:
            raise AssertionError(f"schedule {seed}: {error!r}") from error
    print(
        f"{count} schedules: {outcomes[True]} intact, {outcomes[False]} damaged and computed again, {outcomes[None]} killed"
    )
    assert outcomes[True] > 0.9 * count
    assert outcomes[False] < 0.04 * count


def test_without_checks_before_writes_more_artifacts_are_damaged(simulated, monkeypatch):
    monkeypatch.setattr(leases.Leases, "check", lambda *_: None)
    monkeypatch.setattr(leases.Leases, "check_generation", lambda *_: None)
    assert sum(run_schedule(simulated(seed), 2 + seed % 3) is False for seed in range(300)) > 0.06 * 300


def replace(where, data):
    """Writes a record without looking for another."""
    world = where.world
    world.request(lambda: world.content.__setitem__(str(where), data))
    world.records += str(where).endswith("piece.json")
    return True


MUTANTS = {
    "a record that is replaced": (store, "create", replace),
    "a claim that is replaced": (claims, "create", replace),
    "a holder that stops late": (leases, "_MARGIN", 1.5),
    "an observer that waits too little": (
        claims.Claims,
        "expires_in",
        lambda self, task: self._seen[task][1] + LIFETIME / 2 - self._monotonic(),
    ),
    "a holder that never stops": (leases.Leases, "lost", lambda _: False),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_simulation_finds_a_wrong_protocol(simulated, monkeypatch, mutant):
    monkeypatch.setattr(*MUTANTS[mutant])

    def search():
        for seed in range(2000):
            run_schedule(simulated(seed), 2 + seed % 3)

    with pytest.raises(AssertionError, match=r"two processes committed|hold one lease"):
        search()
