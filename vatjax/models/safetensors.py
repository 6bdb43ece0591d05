"""safetensors files: validated before use, read slice by slice, and written tensor by tensor.

A file is eight bytes with the length of a header, the header (JSON: name -> dtype, shape, offsets), and the data. The
header is checked against the file's size and the shapes before any data is read, and data is read through a memory map,
so that only the rows and columns that a device needs are ever touched.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from vatjax import errors, store

DTYPES: Mapping[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
_MOST_TENSORS = 200_000
_LARGEST_HEADER = 100_000_000


class Tensor(NamedTuple):
    """Location of a tensor in a file.

    Attributes:
        file: its path, local or in a bucket.
        dtype: as the file names it.
        shape: of the tensor.
        start: of its data, in bytes from the beginning of the file.
    """

    file: Any
    dtype: str
    shape: tuple[int, ...]
    start: int

    def open(self) -> np.ndarray:
        """Returns a view of the data that reads only accessed parts; from a bucket it reads the whole tensor."""
        if isinstance(self.file, Path):
            return np.memmap(self.file, DTYPES[self.dtype], "r", self.start, self.shape)
        count = int(np.prod(self.shape, dtype=object))
        with store.open_binary(self.file) as opened:
            opened.seek(self.start)
            content = opened.read(count * np.dtype(DTYPES[self.dtype]).itemsize)
        return np.frombuffer(content, DTYPES[self.dtype], count).reshape(self.shape)


class Pending(NamedTuple):
    """A tensor to be written.

    Attributes:
        name: in the file.
        dtype: NumPy's.
        shape: of the tensor.
        make: returns its data; called when the tensor is written.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """Returns the size in bytes."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


def write(path: store.Path, pending: Sequence[Pending], metadata: Mapping[str, str] | None = None) -> None:
    """Commits a file of tensors, of which one at a time is in memory.

    Args:
        path: local path or bucket URI.
        pending: the tensors in the file's order.
        metadata: texts for the header; torch's readers look for `format: pt`.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    start = 0
    for tensor in pending:
        offsets = [start, start + tensor.size]
        header[tensor.name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        start = offsets[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # readers map the data, which should be aligned

    def content(file: BinaryIO) -> None:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in pending:
            data = np.ascontiguousarray(tensor.make())
            assert (data.dtype, data.shape) == (tensor.dtype, tensor.shape), tensor.name
            file.write(data.reshape(-1).view(np.uint8).data)

    if store.writes_enabled():
        store.commit(path, content)
        return
    for tensor in pending:  # gathering arrays of several processes needs all of them at the same time
        tensor.make()


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Reads the location of every tensor of a file, by name.

    Raises:
        InputError: for a file that is cut short, or whose header is invalid or does not fit the data.
    """
    size = store.size(file)
    with store.open_binary(file) as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(size - 8, _LARGEST_HEADER):
            raise errors.InputError(
                f"{file}: not a safetensors file, or cut short: its header claims {length:,} bytes, "
                f"the file has {size:,}"
            )
        try:
            header = json.loads(opened.read(length), object_pairs_hook=_once)
        except (ValueError, UnicodeDecodeError, RecursionError):
            raise errors.InputError(
                f"{file}: its header is not valid JSON with each name once, so it is not a safetensors file"
            ) from None
    if not isinstance(header, dict):
        raise errors.InputError(f"{file}: expected tensors by name in the header")
    header.pop("__metadata__", None)
    if len(header) > _MOST_TENSORS:
        raise errors.InputError(
            f"{file}: {len(header):,} tensors in its header; at most {_MOST_TENSORS:,} are expected"
        )
    problems, located = [], {}
    available = size - 8 - length
    places = _places(header, available)
    for name, entry in header.items():
        message = _check(entry, available) or places.get(name, "")
        if message:
            problems.append(errors.Problem(str(file), None, f"{name}: {message}"))
        else:
            located[name] = Tensor(file, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
    if problems:
        raise errors.all_of(problems, "The file is damaged, or of another kind; fetch it again.")
    return located


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds a JSON object, in which no name may occur twice."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a name occurs twice")
    return entries


def _places(header: Mapping[str, Any], available: int) -> dict[str, str]:
    """Returns messages about the tensors' places: one after the other they must fill the file, as they were written."""
    try:
        spans = sorted((*entry["data_offsets"], name) for name, entry in header.items())
        problems, end = {}, 0
        for start, stop, name in spans:
            if start != end:
                problems[name] = f"its data begin at {start:,}, where the tensor before it ends at {end:,}"
            end = max(end, stop)
        if end < available and spans:
            problems[spans[-1][2]] = f"{available - end:,} bytes after it belong to no tensor"
    except (TypeError, KeyError, ValueError):
        return {}  # reported for the entry itself
    return problems


def _check(entry: Any, available: int) -> str:
    """Returns the problem of one entry of a header; empty if it is valid."""
    try:
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = all(isinstance(x, int) and not isinstance(x, bool) and x >= 0 for x in (*shape, start, stop))
    except (TypeError, KeyError, ValueError):
        return "expected dtype, shape and data_offsets"
    if not whole:
        return f"expected whole numbers in shape {shape} and offsets"
    if stop > available:
        return f"its data would end {stop - available:,} bytes after the end of the file, which is cut short"
    if not isinstance(dtype, str) or dtype not in DTYPES:
        return f"is stored as {dtype}; expected {', '.join(DTYPES)} (quantised weights can't be read)"
    if not shape or 0 in shape:
        return f"has the shape {shape}, which holds no matrix and no vector"
    needed = int(np.prod(shape, dtype=object)) * np.dtype(DTYPES[dtype]).itemsize
    if stop - start != needed:
        return f"shape {shape} of {dtype} takes {needed:,} bytes, its offsets say {stop - start:,}"
    return ""


def read_folder(path: Path) -> dict[str, Tensor]:
    """Reads the location of every tensor of a checkpoint's folder: one file, or the shards that an index lists.

    Raises:
        InputError: for a missing or damaged file, and for a folder without safetensors.
    """
    index, single = path / "model.safetensors.index.json", path / "model.safetensors"
    if not index.exists():
        if single.exists():
            return read_tensors(single)
        others = sorted(
            p.name for p in path.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf")
        )
        hint = f"; {', '.join(others)} is not read, since only safetensors is" if others else ""
        raise errors.InputError(f"{path}: no model.safetensors there and no model.safetensors.index.json{hint}")
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(weight_map.values()))
        outside = [shard for shard in shards if Path(shard).name != shard]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise errors.InputError(f"{index}: expected JSON with a weight_map of tensor names to file names") from None
    if outside:
        raise errors.InputError(f"{index}: shards must lie next to it, found {', '.join(outside)}")
    absent = [shard for shard in shards if not (path / shard).exists()]
    if absent:
        raise errors.InputError(f"{path}: {len(absent)} of {len(shards)} shards are missing: {', '.join(absent)}")
    located: dict[str, Tensor] = {}
    for shard in shards:
        located |= read_tensors(path / shard)
    lost = sorted(set(weight_map) - set(located))
    if lost:
        raise errors.InputError(f"{index}: no shard has {', '.join(lost[:5])}" + (" ..." if len(lost) > 5 else ""))
    return located
