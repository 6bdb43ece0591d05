"""Accelerators by name: the peak, memory and price of a chip, and the chips of a pod slice or a server."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from vatjax import errors, names


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
        peak: operations a second in bfloat16.
        memory: bytes.
        host: chips in a host.
        cores: cores of a chip, if a slice's name counts cores; else 1.
        price: dollars an hour that are assumed if none is given.
        shapes: topologies of slices by number of chips, as the manufacturer arranges them; empty for GPUs.
    """

    peak: float
    memory: float
    host: int
    cores: int
    price: float
    shapes: Mapping[int, str] = dataclasses.field(default_factory=dict)


_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBE = {
    4: "2x2x1",
    8: "2x2x2",
    16: "2x2x4",
    32: "2x4x4",
    64: "4x4x4",
    128: "4x4x8",
    256: "4x8x8",
    512: "8x8x8",
    1024: "8x8x16",
    2048: "8x16x16",
}

# Peaks and memories as the manufacturers state them; prices are rounded defaults.
CHIPS: Mapping[str, Chip] = {
    "v4": Chip(275e12, 32e9, 4, 2, 3.2, _CUBE),
    "v5e": Chip(197e12, 16e9, 4, 1, 1.2, _FLAT),
    "v5p": Chip(459e12, 95e9, 4, 2, 4.2, _CUBE),
    "v6e": Chip(918e12, 32e9, 4, 1, 2.7, _FLAT),
    "A100": Chip(312e12, 80e9, 8, 1, 2.0),
    "H100": Chip(989e12, 80e9, 8, 1, 4.0),
    "H200": Chip(989e12, 141e9, 8, 1, 5.0),
}

_TPU = re.compile(r"(?:tpu)?(v\d+[a-z]*)-(\d+)", re.IGNORECASE)
_GPU = re.compile(r"(\d+)\s*x\s*([a-z]+\d+)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Slice:
    """A group of identical accelerators.

    Attributes:
        name: as the user wrote it.
        chip: their type.
        chips: number of chips.
        topology: as JAX names it, such as v5e:16x16; empty for GPUs.
    """

    name: str
    chip: Chip
    chips: int
    topology: str

    @property
    def hosts(self) -> int:
        """Returns the number of machines that hold them."""
        return -(-self.chips // self.chip.host)


def parse_slice(text: str) -> Slice:
    """Parses the name of accelerators: v5e-256, v5p-128 (which counts cores: 64 chips), 8xH200.

    Raises:
        InputError: for an unknown accelerator or size.
    """
    tpu, gpu = _TPU.fullmatch(text.strip()), _GPU.fullmatch(text.strip())
    if tpu:
        kind, count = tpu[1].lower(), int(tpu[2])
        kind = {"v5litepod": "v5e", "v5lite": "v5e"}.get(kind, kind)
    elif gpu:
        kind, count = gpu[2].upper(), int(gpu[1])
    else:
        raise errors.InputError(
            f"expected a slice such as v5e-256 or v5p-128, or accelerators such as 8xH200; found {text!r}"
        )
    if kind not in CHIPS or bool(CHIPS[kind].shapes) != bool(tpu):
        candidates = [name for name, chip in CHIPS.items() if bool(chip.shapes) == bool(tpu)]
        raise errors.InputError(names.unknown_name("accelerator", kind, candidates))
    chip = CHIPS[kind]
    if not tpu:
        if not count:
            raise errors.InputError(f"expected at least one accelerator, found {text!r}")
        return Slice(text, chip, count, "")
    sizes = [chips * chip.cores for chips in chip.shapes]
    if count not in sizes:
        near = ", ".join(f"{kind}-{size}" for size in sizes)
        raise errors.InputError(f"unknown slice {text!r}; expected {near}")
    chips = count // chip.cores
    return Slice(text, chip, chips, f"{kind}:{chip.shapes[chips]}")
