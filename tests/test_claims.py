"""Claims and leases: one holder at a time, whatever clocks, stores and processes do."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from vatjax import errors, store
from vatjax.store.artifacts import Artifact, ArtifactStore

SPAWN = multiprocessing.get_context("spawn")


class Clock:
    """A clock that tests set."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def elsewhere(folder, name, generation=0, seconds=60.0, renewals=0):
    """A claim as another machine would have left it; without seconds it was released."""
    content = {
        "token": "other",
        "renewals": renewals,
        "seconds": seconds,
        "since": 0.0,
        "host": "elsewhere",
        "space": "",
        "pid": 1,
        "started": "",
    }
    store.commit(f"{folder}/{name}/{generation}.claim", json.dumps(content).encode())


@pytest.fixture(params=["local", "bucket"])
def folder(request, tmp_path):
    return str(tmp_path / "claims") if request.param == "local" else request.getfixturevalue("bucket")


# Claims --------------------------------------------------------------------------------------------------------------


def test_one_at_a_time(folder):
    claims = store.Claims(folder)
    with claims.claim("piece-1") as mine:
        assert mine is not None
        assert claims.claim("piece-1") is None
        assert claims.holder("piece-1").pid == os.getpid()
        assert claims.claim("piece-2") is not None
    assert claims.holder("piece-1") is None
    assert sorted(claims.holders()) == ["piece-2"]
    assert claims.claim("piece-1").holder.generation == 1


def test_names_that_contain_each_other_are_different_pieces(folder):
    claims = store.Claims(folder)
    assert claims.claim("a") is not None
    assert claims.claim("a.0") is not None
    assert claims.claim("a") is None


def test_an_expired_claim_is_taken_over_and_its_holder_learns_of_it(folder):
    clock = Clock()
    elsewhere(folder, "piece")
    claims = store.Claims(folder, 60.0, clock)
    assert claims.claim("piece") is None
    assert claims.holder("piece").host == "elsewhere"
    clock.now += 59
    assert claims.claim("piece") is None
    clock.now += 2
    second = claims.claim("piece")
    assert second.holder.generation == 1
    elsewhere(folder, "piece", renewals=1)  # the first holder wakes up and writes its claim again
    assert store.Claims(folder).claim("piece") is None
    assert second.renew()
    second.release()
    assert claims.claim("piece").holder.generation == 2
    assert not second.renew()


def test_expiry_begins_anew_with_each_renewal_that_is_seen(folder):
    clock = Clock()
    claims = store.Claims(folder, 60.0, clock)
    for renewals in range(4):
        elsewhere(folder, "piece", renewals=renewals)
        assert claims.claim("piece") is None
        clock.now += 50
    assert claims.claim("piece") is None
    clock.now += 11
    assert claims.claim("piece") is not None


def test_a_claim_is_believed_for_an_hour_at_most(folder):
    """Whatever its file says."""
    clock = Clock()
    claims = store.Claims(folder, 60.0, clock)
    elsewhere(folder, "piece", seconds=1e300)
    assert claims.claim("piece") is None
    clock.now += 3601
    assert claims.claim("piece") is not None


@pytest.mark.parametrize("ahead", [-86_400, 86_400])
def test_a_wall_clock_that_is_wrong_changes_nothing(folder, monkeypatch, ahead):
    """One that was set back by a day, or is ahead of the others by a day."""
    mine = store.Claims(folder, 60.0, Clock()).claim("piece")
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + ahead)
    clock = Clock()
    other = store.Claims(folder, 60.0, clock)
    assert other.claim("piece") is None
    mine.renew()
    clock.now += 59
    assert other.claim("piece") is None
    mine.release()
    assert other.claim("piece") is not None


def test_a_takeover_during_a_renewal_leaves_at_most_one(folder, monkeypatch):
    """The other one looks before the renewal is written, and creates its claim after."""
    first, clock = store.Claims(folder, 60.0).claim("piece"), Clock()
    other = store.Claims(folder, 60.0, clock)
    assert other.claim("piece") is None
    clock.now += 61
    taken = []
    overwrite = store.claims._overwrite

    def interleaved(file, content):
        if not taken:
            taken.append(None)
            taken.append(other.claim("piece"))
        overwrite(file, content)

    monkeypatch.setattr(store.claims, "_overwrite", interleaved)
    assert not first.renew()
    assert taken[1] is not None
    assert taken[1].renew()


@pytest.mark.parametrize("seconds", [0.0, -1.0, 7200.0, float("nan"), float("inf")])
def test_a_claim_lives_for_a_positive_time(tmp_path, seconds):
    with pytest.raises(ValueError, match="positive time"):
        store.Claims(tmp_path, seconds)


def test_a_process_number_that_was_given_again_is_another_process():
    here = store.claims._this_process(0, 60.0)
    assert not here.ended
    assert here._replace(started="1").ended or not here.started
    assert not here._replace(space="", started="1").ended  # where a process can't be looked at, time alone decides
    assert here._replace(pid=2**22 + 1).ended


def test_another_clients_claims_are_seen_through_a_cached_listing(bucket):
    """Bucket clients keep listings in memory; a claim must be seen as it is now."""
    import fsspec

    system, prefix = fsspec.core.url_to_fs(f"{bucket}/claims/piece")
    claims = store.Claims(f"{bucket}/claims")
    assert claims.claim("piece") is not None
    system.frozen = {prefix: system.ls(prefix, detail=False)}
    elsewhere(f"{bucket}/claims", "piece", generation=3)
    assert claims.holder("piece").generation == 3


@pytest.mark.parametrize("content", [b"", b"[]", b'{"seconds": "x"}', b'{"seconds": 9e999}', b"\xff", b"[" * 10_000])
def test_a_claim_that_cannot_be_read_may_be_of_a_process_at_work(folder, content):
    """Without hard links a claim is empty for a moment; it expires like any other."""
    clock = Clock()
    claims = store.Claims(folder, 60.0, clock)
    store.commit(f"{folder}/piece/4.claim", content)
    assert claims.claim("piece") is None
    clock.now += 61
    assert claims.claim("piece").holder.generation == 5
    assert len(list((store.path(folder) / "piece").iterdir())) == 1


def test_two_claims_at_once_withdraw_rather_than_both_hold(folder, monkeypatch):
    """The other one appears between our first look and our second."""
    create = store.create

    def racing(where, data):
        elsewhere(folder, "piece", generation=7)
        return create(where, data)

    monkeypatch.setattr(store.claims, "create", racing)
    claims = store.Claims(folder)
    assert claims.claim("piece") is None
    assert claims.holder("piece").generation == 7


@pytest.mark.parametrize("made", [True, False])
def test_a_claim_whose_answer_was_lost_is_held_if_it_was_made(folder, monkeypatch, made):
    create = store.create

    def lossy(where, data):
        if made:
            create(where, data)
        raise TimeoutError("no answer")

    monkeypatch.setattr(store.claims, "create", lossy)
    if made:
        assert store.Claims(folder).claim("piece").renew()
    else:
        with pytest.raises(TimeoutError):
            store.Claims(folder).claim("piece")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a*"])
def test_a_claims_name_stays_in_its_folder(tmp_path, name):
    with pytest.raises(ValueError, match="name"):
        store.Claims(tmp_path).claim(name)


@pytest.mark.parametrize("level", ["claims", "claims/run"])
def test_a_link_is_not_followed(tmp_path, level):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / level).parent.mkdir(exist_ok=True)
    (tmp_path / level).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.InputError, match="a link, and claims would be written and removed where it leads"):
        store.Claims(tmp_path / "claims").claim("run")
    assert not list((tmp_path / "elsewhere").iterdir())


def hold(folder, pipe):
    claim = store.Claims(folder, 3600).claim("piece")
    pipe.send(claim is not None)
    time.sleep(60)


def test_a_killed_process_on_this_machine_is_replaced_at_once(tmp_path):
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=hold, args=(str(tmp_path), there))
    process.start()
    try:
        assert here.recv()
        assert store.Claims(tmp_path).claim("piece") is None
        os.kill(process.pid, signal.SIGKILL)
        while store.claims._started(process.pid) not in ("dead", ""):  # dead, but not reaped: a zombie holds nothing
            time.sleep(0.01)
        assert store.Claims(tmp_path).claim("piece") is not None
    finally:
        process.kill()
        process.join()


def work(folder, attempts, all_started):
    all_started.wait(60)  # on a busy machine the first would end before the last begins
    claims = store.Claims(f"{folder}/claims")
    with open(f"{folder}/log", "ab", buffering=0) as log:
        for _ in range(attempts):
            claim = claims.claim("piece")
            if claim is not None:
                log.write(f"enter {os.getpid()}\n".encode())
                time.sleep(0.0005)
                log.write(f"leave {os.getpid()}\n".encode())
                claim.release()


def test_processes_that_race_are_never_inside_together(tmp_path):
    elsewhere(tmp_path / "claims", "piece", generation=3, seconds=0)
    all_started = SPAWN.Barrier(4)
    processes = [SPAWN.Process(target=work, args=(str(tmp_path), 300, all_started)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) > 20
    for enter, leave in zip(lines[::2], lines[1::2], strict=True):
        assert enter.split() == ["enter", leave.split()[1]]
        assert leave.split()[0] == "leave"
    assert len({line.split()[1] for line in lines}) > 1


# Leases --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_lease_that_was_not_renewed_for_its_lifetime_is_lost(tmp_path, stopped):
    """One of the two clocks stands still while a machine sleeps. The holder stops before others see the claim expire."""
    clocks = [Clock(), Clock()]
    leases = store.Leases(60, lambda: [clock() for clock in clocks])
    leases.add(store.Claims(tmp_path, 60).claim("piece"))
    clocks[1 - stopped].now += 53
    assert not leases.lost()
    leases.renew()
    clocks[1 - stopped].now += 53
    assert not leases.lost()
    clocks[1 - stopped].now += 2
    assert leases.lost()
    with pytest.raises(store.LeaseLost, match="runs/a: another process has taken this work over"):
        leases.check("runs/a")
    with store.guard_writes(lambda: leases.check("runs/a")), pytest.raises(store.LeaseLost):
        store.commit(tmp_path / "late", b"x")
    with store.guard_writes(lambda: leases.check("runs/a")), pytest.raises(store.LeaseLost):
        store.append(tmp_path / "late", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["piece"]
    store.commit(tmp_path / "late", b"x")


def test_a_later_generation_in_the_store_ends_a_lease_that_no_clock_ends(folder):
    """A virtual machine that was stopped with all its clocks."""
    leases = store.Leases(60)
    leases.add(store.Claims(folder, 60).claim("piece"))
    leases.check_generation("runs/a")
    elsewhere(folder, "piece", generation=1)
    leases.check("runs/a")
    with pytest.raises(store.LeaseLost):
        leases.check_generation("runs/a")
    assert leases.lost()
    leases.release()
    assert store.Claims(folder).holder("piece").host == "elsewhere"


def test_a_folder_whose_machine_slept_is_kept_if_nobody_took_it(tmp_path):
    clock = Clock()
    leases = store.Leases(60, lambda: [clock()])
    leases.add(store.Claims(tmp_path, 60).claim("run"))
    clock.now += 3600
    leases.retain("runs/a")
    leases.check("runs/a")
    clock.now += 3600
    elsewhere(tmp_path, "run", generation=1)
    with pytest.raises(store.LeaseLost):
        leases.retain("runs/a")
    leases.release()


def test_renewal_goes_on_through_errors_of_the_client_until_the_lifetime_ends(tmp_path, monkeypatch):
    clock = Clock()
    leases = store.Leases(60, lambda: [clock()])
    leases.add(store.Claims(tmp_path, 60).claim("piece"))

    def fail(*_):
        raise RuntimeError("the token could not be refreshed")

    monkeypatch.setattr(store.claims, "_overwrite", fail)
    waits = iter([False, False, True])

    def wait(_):
        clock.now += 20
        return next(waits)

    monkeypatch.setattr(leases._ended, "wait", wait)
    leases._keep_renewing()
    assert leases.lost()  # after 60 seconds
    leases.release()


def test_a_bucket_that_overwrites_what_it_should_create_has_no_shards(bucket, monkeypatch, tmp_path):
    store.check_exclusive_creation(bucket)
    store.check_exclusive_creation(tmp_path)
    import fsspec

    system = type(fsspec.core.url_to_fs(bucket)[0])
    pipe_file = system.pipe_file
    monkeypatch.setattr(
        system, "pipe_file", lambda self, name, data, mode="overwrite", **_: pipe_file(self, name, data)
    )
    with pytest.raises(errors.InputError, match="does not refuse to create a file that exists"):
        store.check_exclusive_creation(bucket)


def test_claims_and_records_in_s3_through_its_own_client(monkeypatch):
    """`s3fs` against the S3 of `moto`: pip install s3fs 'moto[server]'."""
    pytest.importorskip("s3fs", reason="pip install s3fs 'moto[server]' for a server of S3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    import boto3

    server.start()
    host, port = server.get_host_and_port()
    for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    try:
        boto3.client("s3").create_bucket(Bucket="bucket")
        store.check_exclusive_creation("s3://bucket/claims")
        clock = Clock()
        first, other = store.Claims("s3://bucket/claims", 60), store.Claims("s3://bucket/claims", 60, clock)
        mine = first.claim("task")
        assert other.claim("task") is None
        assert mine.renew()
        assert other.claim("task") is None
        clock.now += 61
        assert other.claim("task").holder.generation == 1
        assert not mine.renew()
        shelf, artifact = ArtifactStore("s3://bucket/pieces"), Artifact("result", "one", {"x": 1})
        store.commit_json(shelf.path(artifact) / "numbers.json", {"gain": 1})
        assert shelf.mark_complete(artifact, 1.0, {}, 0)
        assert not shelf.mark_complete(artifact, 1.0, {}, 1)
        store.commit_json(shelf.path(artifact) / "numbers.json", {"gain": 2})
        assert shelf.status([artifact]) == (set(), [artifact])
    finally:
        server.stop()
