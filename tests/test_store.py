import dataclasses
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
import zipfile

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vatjax import errors, store

SPAWN = multiprocessing.get_context("spawn")


def leftovers(folder):
    return [path.name for path in pathlib.Path(folder).rglob("*.tmp")]


# Committing ---------------------------------------------------------------------------------------------------------


def test_commit_replaces_and_makes_folders(tmp_path):
    target = tmp_path / "a" / "b" / "state"
    store.commit(target, b"one")
    store.commit(target, lambda file: file.write(b"two"))
    assert target.read_bytes() == b"two"
    assert leftovers(tmp_path) == []


def test_a_writer_that_fails_leaves_the_old_content(tmp_path):
    target = tmp_path / "state"
    store.commit(target, b"old")

    def fail(file):
        file.write(b"half of the new")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        store.commit(target, fail)
    assert target.read_bytes() == b"old"
    assert leftovers(tmp_path) == []


def test_a_kill_in_the_middle_leaves_the_old_content(tmp_path):
    target = tmp_path / "state"
    store.commit(target, b"old")
    code = f"""
        import os, signal
        from vatjax import errors, store
        def half(file):
            file.write(b"new" * 1000)
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        store.commit({str(target)!r}, half)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert result.returncode == -signal.SIGKILL
    assert target.read_bytes() == b"old"
    store.commit(target, b"new")
    assert target.read_bytes() == b"new"


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="the system doesn't say which file a number is")
def test_commit_syncs_the_file_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), replace(a, b)))
    store.commit(tmp_path / "state", b"x")
    assert calls[0].endswith(".tmp")
    assert calls[1:] == ["rename", str(tmp_path)]


def test_a_committed_file_has_ordinary_permissions(tmp_path):
    store.commit(tmp_path / "committed", b"")
    (tmp_path / "ordinary").write_bytes(b"")
    assert (tmp_path / "committed").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_replacing_keeps_permissions_and_links(tmp_path):
    secret = tmp_path / "secret"
    store.commit(secret, b"one")
    secret.chmod(0o600)
    (tmp_path / "link").symlink_to(secret)
    store.commit(tmp_path / "link", b"two")
    assert secret.read_bytes() == b"two"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "link").is_symlink()


def test_new_folders_are_synced_too(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(store.files, "_sync_folder", synced.append)
    store.commit(tmp_path / "a" / "b" / "state", b"")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


def test_create_syncs_its_content(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    store.create(tmp_path / "claim", b"x")
    assert len(synced) == 2


def test_create_works_without_hard_links(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert store.create(tmp_path / "claim", b"first")
    assert not store.create(tmp_path / "claim", b"second")
    assert (tmp_path / "claim").read_bytes() == b"first"


def test_an_error_names_the_file_and_not_its_temporary(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file") as caught:
        store.commit(tmp_path / "file" / "below", b"x")
    assert ".tmp" not in str(caught.value)


@pytest.mark.parametrize("data", [b"x", bytearray(b"x"), memoryview(b"x"), lambda file: file.write(b"x")])
def test_anything_with_bytes_can_be_committed(tmp_path, data, bucket):
    for where in (tmp_path / ("n" * 240), f"{bucket}/state"):
        store.commit(where, data)
        assert store.path(where).read_bytes() == b"x"


def test_create_lets_only_the_first_in(tmp_path):
    assert store.create(tmp_path / "claim", b"first")
    assert not store.create(tmp_path / "claim", b"second")
    assert (tmp_path / "claim").read_bytes() == b"first"
    assert leftovers(tmp_path) == []


def test_json_refuses_nan_and_has_stable_bytes(tmp_path):
    store.commit_json(tmp_path / "a.json", {"b": 1, "a": [None, "é"]})
    store.commit_json(tmp_path / "b.json", {"a": [None, "é"], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        store.commit_json(tmp_path / "a.json", float("nan"))
    assert json.loads((tmp_path / "a.json").read_text())["b"] == 1


def test_npz_has_stable_bytes_and_no_pickles(tmp_path):
    arrays = {"x": np.arange(5.0), "file": np.array(["a", "é"])}
    store.commit_npz(tmp_path / "a.npz", arrays)
    store.commit_npz(tmp_path / "b.npz", dict(reversed(arrays.items())))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    loaded = store.load_npz(tmp_path / "a.npz")
    assert loaded["file"].tolist() == ["a", "é"]
    with np.load(tmp_path / "a.npz", allow_pickle=False) as plain:
        assert plain["x"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    with pytest.raises(TypeError, match="pickle"):
        store.commit_npz(tmp_path / "a.npz", {"x": np.array([object()])})
    with pytest.raises(TypeError, match="bfloat16"):
        store.commit_npz(tmp_path / "a.npz", {"x": np.zeros(3, ml_dtypes.bfloat16)})


def test_a_pickled_array_is_refused(tmp_path):
    np.savez(tmp_path / "evil.npz", x=np.array([{"a": 1}], object))
    with pytest.raises(ValueError, match="Python objects"):
        store.load_npz(tmp_path / "evil.npz")


def test_a_bucket_holds_whole_files_only(bucket):
    target = f"{bucket}/state"
    store.commit(target, b"old")

    def fail(file):
        file.write(b"half")
        raise OSError("connection lost")

    with pytest.raises(OSError, match="connection lost"):
        store.commit(target, fail)
    assert store.path(target).read_bytes() == b"old"
    store.commit_npz(f"{bucket}/a.npz", {"x": np.arange(3)})
    assert store.load_npz(f"{bucket}/a.npz")["x"].tolist() == [0, 1, 2]
    assert store.create(f"{bucket}/claim", b"1")
    assert not store.create(f"{bucket}/claim", b"2")


# Content addresses --------------------------------------------------------------------------------------------------

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)


def typed(part):
    """Equality that tells 1 from 1.0 and True."""
    if isinstance(part, dict):
        return {key: typed(value) for key, value in part.items()}
    if isinstance(part, list):
        return [typed(value) for value in part]
    return (type(part).__name__, repr(part))


@given(plain, plain)
def test_addresses_are_equal_exactly_where_content_is(one, other):
    assert (store.address(one) == store.address(other)) == (typed(one) == typed(other))


@given(st.dictionaries(st.text(max_size=3), st.integers(), max_size=5))
def test_an_address_ignores_dictionary_order(content):
    assert store.address(content) == store.address(dict(reversed(content.items())))


def test_addresses_of_arrays_know_type_and_shape():
    x = np.arange(6, dtype=np.float32)
    seen = {store.address(y) for y in (x, x.astype(np.float64), x.reshape(2, 3), x[::-1], x.tolist())}
    assert len(seen) == 5
    assert store.address(x[::2]) == store.address(x[::2].copy())
    assert store.address(np.asfortranarray(x.reshape(2, 3))) == store.address(x.reshape(2, 3))
    assert store.address(jnp.asarray(x)) == store.address(x)
    assert store.address(np.float64(0.1)) == store.address(np.array(0.1))
    assert store.address(np.array(["a", "b", "ccc"])[:2]) == store.address(np.array(["a", "b"]))
    kinds = (ml_dtypes.int4, ml_dtypes.float8_e4m3fn, np.int8, [("a", "<i1")], [("b", "<i1")])
    assert len({store.address(np.zeros(2, kind)) for kind in kinds}) == len(kinds)


def test_an_address_is_the_same_in_another_process():
    content = {"seed": 1, "names": ["a", "b"], "rate": 0.1}
    code = f"from vatjax import errors, store; print(store.address({content!r}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == store.address(content)


@dataclasses.dataclass(frozen=True)
class Settings:
    rate: float = 0.1


def test_dataclasses_have_addresses_and_paths_have_none(tmp_path):
    assert store.address(Settings()) == store.address(Settings(0.1)) != store.address(Settings(0.2))
    with pytest.raises(TypeError, match="file_address"):
        store.address(tmp_path)
    with pytest.raises(TypeError, match="object"):
        store.address(object())


def test_file_address_is_of_the_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x" * (1 << 21))
    assert store.file_address(tmp_path / "a") == store.file_address(tmp_path / "b")
    (tmp_path / "b").write_bytes(b"x" * (1 << 21) + b"y")
    assert store.file_address(tmp_path / "a") != store.file_address(tmp_path / "b")


# Claims -------------------------------------------------------------------------------------------------------------


def elsewhere(folder, name, generation=0, until=60.0):
    """A claim as another machine would have left it."""
    content = {
        "token": "other",
        "host": "elsewhere",
        "space": "",
        "pid": 1,
        "started": "",
        "since": 0.0,
        "until": time.time() + until,
    }
    store.commit(f"{folder}/{name}/{generation}.claim", json.dumps(content).encode())


@pytest.fixture(params=["local", "bucket"])
def folder(request, tmp_path):
    return str(tmp_path / "claims") if request.param == "local" else request.getfixturevalue("bucket")


def test_a_piece_whose_folder_is_tidied_away_meanwhile_is_not_taken(tmp_path, monkeypatch):
    def gone(*_):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("vatjax.store.claims.create", gone)
    assert store.claim(tmp_path, "piece") is None


def test_one_at_a_time(folder):
    with store.claim(folder, "piece-1") as mine:
        assert mine is not None
        assert store.claim(folder, "piece-1") is None
        assert store.holder(folder, "piece-1").pid == os.getpid()
        assert store.claim(folder, "piece-2") is not None
    assert store.holder(folder, "piece-1") is None
    assert store.claim(folder, "piece-1") is not None


def test_names_that_contain_each_other_are_different_pieces(folder):
    assert store.claim(folder, "a") is not None
    assert store.claim(folder, "a.0") is not None
    assert store.claim(folder, "a") is None


def test_a_live_claim_of_another_machine_is_respected(folder):
    elsewhere(folder, "piece")
    assert store.claim(folder, "piece") is None
    assert store.holder(folder, "piece").host == "elsewhere"


def test_an_expired_claim_is_taken_over_and_its_holder_learns_of_it(folder):
    first = store.claim(folder, "piece", seconds=0.05)
    time.sleep(0.1)
    second = store.claim(folder, "piece")
    assert second is not None
    assert second.holder.generation == 1
    assert not first.renew()
    assert second.renew()
    first.release()
    assert store.claim(folder, "piece") is None
    second.release()
    assert store.claim(folder, "piece").holder.generation == 2


def test_a_takeover_during_a_renewal_leaves_at_most_one(folder, monkeypatch):
    """The other one looks before the renewal is written, and creates its claim after."""
    first = store.claim(folder, "piece", seconds=0.05)
    time.sleep(0.1)
    taken = []
    overwrite = store.claims._overwrite

    def interleaved(file, content):
        if not taken:
            taken.append(None)
            taken.append(store.claim(folder, "piece"))
        overwrite(file, content)

    monkeypatch.setattr(store.claims, "_overwrite", interleaved)
    assert not first.renew()
    assert taken[1] is not None
    assert taken[1].renew()


def test_a_live_claim_of_a_lower_generation_is_respected(folder, monkeypatch):
    create = store.create

    def racing(where, data):
        elsewhere(folder, "piece", generation=0)
        return create(where, data)

    elsewhere(folder, "piece", generation=4, until=-1.0)
    monkeypatch.setattr(store.claims, "create", racing)
    assert store.claim(folder, "piece") is None


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_claim_lives_for_a_positive_time(tmp_path, seconds):
    with pytest.raises(ValueError, match="positive time"):
        store.claim(tmp_path, "piece", seconds)


def test_a_process_number_that_was_given_again_is_another_process(tmp_path):
    here = store.claims._this_process(0, 60.0)
    assert here.live
    assert not here._replace(started="1").live or not here.started
    assert here._replace(space="").live  # where a process can't be looked at, time alone decides
    assert not here._replace(pid=2**22 + 1).live


def test_another_clients_claims_are_seen_through_a_cached_listing(bucket):
    """Bucket clients keep listings in memory; a claim must be seen as it is now."""
    import fsspec

    system, prefix = fsspec.core.url_to_fs(f"{bucket}/claims/piece")
    assert store.claim(f"{bucket}/claims", "piece") is not None
    system.frozen = {prefix: system.ls(prefix, detail=False)}
    elsewhere(f"{bucket}/claims", "piece", generation=3)
    assert store.holder(f"{bucket}/claims", "piece").generation == 3


def test_renewing_keeps_a_claim_alive(folder):
    mine = store.claim(folder, "piece", seconds=0.2)
    for _ in range(3):
        time.sleep(0.1)
        assert mine.renew()
    assert store.claim(folder, "piece") is None


def test_a_claim_that_cannot_be_read_counts_as_dead(folder):
    store.commit(f"{folder}/piece/0.claim", b"")
    for i, content in enumerate((b"[]", b'{"until": "x"}', b'{"until": 9e99}', b"\xff"), 1):
        store.commit(f"{folder}/piece/{i}.claim", content)
    assert store.claim(folder, "piece").holder.generation == 5
    assert len(list((store.path(folder) / "piece").iterdir())) == 1


def test_two_claims_at_once_withdraw_rather_than_both_hold(folder, monkeypatch):
    """The other one appears between our first look and our second."""
    create = store.create

    def racing(where, data):
        elsewhere(folder, "piece", generation=7)
        return create(where, data)

    monkeypatch.setattr(store.claims, "create", racing)
    assert store.claim(folder, "piece") is None
    assert store.holder(folder, "piece").generation == 7


def test_a_process_that_looked_long_ago_withdraws(folder, monkeypatch):
    """Between our first look and our creation the piece was claimed, released and its files tidied away."""
    create = store.create

    def late(where, data):
        elsewhere(folder, "piece", generation=5, until=-1.0)
        return create(where, data)

    monkeypatch.setattr(store.claims, "create", late)
    assert store.claim(folder, "piece") is None
    monkeypatch.undo()
    assert store.claim(folder, "piece").holder.generation == 6


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a*"])
def test_a_claims_name_stays_in_its_folder(tmp_path, name):
    with pytest.raises(ValueError, match="name"):
        store.claim(tmp_path, name)


def hold(folder, pipe):
    claim = store.claim(folder, "piece", seconds=3600)
    pipe.send(claim is not None)
    time.sleep(60)


def test_a_killed_process_on_this_machine_is_replaced_at_once(tmp_path):
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=hold, args=(str(tmp_path), there))
    process.start()
    try:
        assert here.recv()
        assert store.claim(tmp_path, "piece") is None
        os.kill(process.pid, signal.SIGKILL)
        while store.claims._started(process.pid) not in ("dead", ""):  # dead, but not reaped: a zombie holds nothing
            time.sleep(0.01)
        assert store.claim(tmp_path, "piece") is not None
    finally:
        process.kill()
        process.join()


def work(folder, attempts, all_started):
    all_started.wait(60)  # on a busy machine the first would end before the last begins
    with open(f"{folder}/log", "ab", buffering=0) as log:
        for _ in range(attempts):
            claim = store.claim(f"{folder}/claims", "piece")
            if claim is not None:
                log.write(f"enter {os.getpid()}\n".encode())
                time.sleep(0.0005)
                log.write(f"leave {os.getpid()}\n".encode())
                claim.release()


def test_processes_that_race_are_never_inside_together(tmp_path):
    elsewhere(tmp_path / "claims", "piece", generation=3, until=-1.0)
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


def test_a_creation_whose_answer_was_lost_was_made(tmp_path, monkeypatch):
    """NFS repeats the request, and finds the name taken by its own file."""
    link = os.link

    def repeated(source, target):
        link(source, target)
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(os, "link", repeated)
    assert store.create(tmp_path / "a", b"mine")
    monkeypatch.undo()
    assert not store.create(tmp_path / "a", b"other")
    assert (tmp_path / "a").read_bytes() == b"mine"


def test_a_displaced_holder_does_not_write_its_claim_again(folder):
    mine = store.claim(folder, "piece", seconds=60)
    (store.path(folder) / "piece" / "0.claim").unlink()
    assert not mine.renew()
    assert store.claim(folder, "piece").holder.generation == 0


def test_a_lease_that_was_not_renewed_for_its_lifetime_is_lost(tmp_path, monkeypatch):
    leases = store.acquire_all(tmp_path, ["piece"], seconds=60)
    assert not leases.lost()
    clocks = store.leases._clocks
    monkeypatch.setattr(store.leases, "_clocks", lambda: tuple(now + 61 for now in clocks()))  # the process was stopped
    assert leases.lost()
    with pytest.raises(errors.InputError, match="another run has taken this folder over"):
        leases.raise_if_lost("runs/a")
    monkeypatch.undo()
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
