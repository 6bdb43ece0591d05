import dataclasses
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import zipfile

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vatjax import store

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
