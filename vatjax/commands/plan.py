"""`vatjax plan`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import tyro

from vatjax import errors, hardware
from vatjax.commands import show
from vatjax.study.design import Design, Intervention
from vatjax.study.scaling import Assumed, Estimate, Load


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(Design):
    """Says what a study takes on accelerators that are not here: tokens, operations, memory, hosts, hours, money. No weights
    are read: of a model a config.json is enough."""

    interventions: Annotated[Mapping[str, Intervention], tyro.conf.Suppress] = dataclasses.field(default_factory=dict)
    on: tuple[str, ...]
    """Which accelerators: slices such as v5e-256 or v5p-128 (which counts cores), and 8xH200."""
    count: int = 0
    """How many items are asked about, in place of those that the study asks: states are scaled."""
    assumed: Assumed = dataclasses.field(default_factory=Assumed)
    """What arithmetic does not tell."""
    json: bool = False
    """Print one JSON document instead of tables."""

    def run(self) -> int:
        from vatjax.study import scaling

        if not self.on:
            raise errors.InputError("on: expected accelerators, such as v5e-256 or 8xH200")
        if self.count < 0:
            raise errors.InputError(f"count: expected a number of items, 0 or more, found {self.count}")
        slices = [hardware.named(name) for name in self.on]
        design = Design(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Design)})
        taken = scaling.loads(design, self.count)
        found = [scaling.on(load, one, self.assumed) for load in taken for one in slices]
        if self.json:
            show.as_json({"assumed": dataclasses.asdict(self.assumed), "estimates": [_plain(one) for one in found]})
        else:
            _print(found, taken, self.assumed)
        return int(any(not one.copy for one in found))


def _plain(one: Estimate) -> dict[str, Any]:
    """An estimate as plain data."""
    load, on, chip = one.load, one.on, one.on.chip
    room = bool(one.copy)
    return {
        "model": load.model,
        "weights": load.weights,
        "weight_bytes": load.held,
        "stand_in_tokenizer": load.borrowed,
        "states": len(load.of("state")),
        "trainings": len(load.of("training")),
        "edits": len(load.of("edit")),
        "rating": load.work("state", "edit")._asdict(),
        "training": load.work("training")._asdict(),
        "answer_bytes": load.answers,
        "detectable": load.detectable,
        "on": {"name": on.name, "chips": on.chips, "hosts": on.hosts, "peak": chip.peak, "memory": chip.memory},
        "chips_a_copy": one.copy,
        "bytes_a_chip": one.memory,
        "shards": one.shards,
        "hours": one.hours if room else None,
        "dollars_a_chip_hour": one.price,
        "dollars": one.money if room else None,
    }


def _print(found: Sequence[Estimate], taken: Sequence[Load], assumed: Assumed) -> None:
    names = show.shortened(load.model for load in taken)
    rows = [
        (
            names[load.model],
            f"{load.weights / 1e9:.2f} B",
            *(f"{len(load.of(kind)):,}" for kind in ("state", "training", "edit")),
            f"{load.work('state', 'edit').tokens / 1e6:,.1f} M",
            f"{load.work('training').tokens / 1e6:,.1f} M",
            f"{load.work('state', 'edit', 'training').operations:.1e}",
            f"{load.answers / 1e9:.2f} GB",
        )
        for load in taken
    ]
    show.table(
        ("", "weights", "states", "trainings", "edits", "tokens rated", "trained", "operations", "answers"), rows
    )
    show.table(
        ("", "on", "chips", "hosts", "chips a copy", "a chip holds", "shards", "takes", "dollars"),
        [(names[one.load.model], *_cells(one)) for one in found],
    )
    prices = ", ".join(f"{name} {price:g}" for name, price in {one.on.name: one.price for one in found}.items())
    print(
        f"assumed: {assumed.rating:.0%} of the peak in bfloat16 while rating, {assumed.training:.0%} while training; "
        f"dollars for a chip and an hour: {prices}; {assumed.reading / 1e9:g} GB of weights a second and host"
    )
    print("trained: three forward passes for each token of a step, one for a reference")
    print("not counted: compiling, resampling, prices on trainings, waiting for machines; the memory of trainings")
    print(show.power(taken[0].detectable))
    borrowed = [load.model for load in taken if load.borrowed]
    if borrowed:
        print(f"vatjax: no tokenizer in {', '.join(borrowed)}: a stand-in counts the words", file=sys.stderr)


def _cells(one: Estimate) -> tuple[str, ...]:
    size = one.on.chip.memory / 1e9
    return (
        one.on.name,
        f"{one.on.chips:,}",
        f"{one.on.hosts:,}",
        f"{one.copy:,}" if one.copy else "no room",
        f"{one.memory / 1e9:.1f} of {size:.0f} GB",
        f"{one.shards:,}",
        show.duration(one.hours * 3600) if one.copy else "-",
        f"{one.money:,.2f}" if one.copy else "-",
    )
