"""`vatjax plan`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import tyro

from vatjax import errors
from vatjax.commands import show
from vatjax.estimate import accelerators
from vatjax.estimate.schedule import Assumed, Estimate, Workload
from vatjax.interventions import Intervention
from vatjax.study.design import Design


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(Design):
    """Estimates a study's tokens, operations, memory, hosts, hours and money on accelerators that are not here. Reads
    no weights: a model's config.json is enough."""

    interventions: Annotated[Mapping[str, Intervention], tyro.conf.Suppress] = dataclasses.field(default_factory=dict)
    on: tuple[str, ...]
    """Accelerators: slices such as v5e-256 or v5p-128 (which counts cores), and 8xH200."""
    count: int = 0
    """Number of items to rate, in place of the study's own number: the cost of states is scaled."""
    assumed: Assumed = dataclasses.field(default_factory=Assumed)
    """Assumptions that arithmetic does not give."""
    json: bool = False
    """Print one JSON document instead of tables."""

    def run(self) -> int:
        from vatjax.estimate import schedule

        if not self.on:
            raise errors.InputError("on: expected accelerators, such as v5e-256 or 8xH200")
        if self.count < 0:
            raise errors.InputError(f"count: expected a number of items, 0 or more, found {self.count}")
        slices = [accelerators.parse_slice(name) for name in self.on]
        design = Design(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Design)})
        loads = schedule.workloads(design, self.count)
        estimates = [schedule.estimate_on(load, chips, self.assumed) for load in loads for chips in slices]
        if self.json:
            show.print_json(
                {"assumed": dataclasses.asdict(self.assumed), "estimates": [_plain(estimate) for estimate in estimates]}
            )
        else:
            _print(estimates, loads, self.assumed)
        return int(any(not estimate.copy for estimate in estimates))


def _plain(estimate: Estimate) -> dict[str, Any]:
    """Returns an estimate as plain data."""
    load, on, chip = estimate.load, estimate.on, estimate.on.chip
    room = bool(estimate.copy)
    return {
        "model": load.model,
        "weights": load.weights,
        "weight_bytes": load.held,
        "stand_in_tokenizer": load.borrowed,
        "states": len(load.of_kind("state")),
        "trainings": len(load.of_kind("training")),
        "edits": len(load.of_kind("edit")),
        "rating": load.work("state", "edit")._asdict(),
        "training": load.work("training")._asdict(),
        "answer_bytes": load.answers,
        "detectable": load.detectable,
        "on": {"name": on.name, "chips": on.chips, "hosts": on.hosts, "peak": chip.peak, "memory": chip.memory},
        "chips_a_copy": estimate.copy,
        "bytes_a_chip": estimate.memory,
        "shards": estimate.shards,
        "hours": estimate.hours if room else None,
        "dollars_a_chip_hour": estimate.price,
        "dollars": estimate.money if room else None,
    }


def _print(estimates: Sequence[Estimate], loads: Sequence[Workload], assumed: Assumed) -> None:
    names = show.short_names(load.model for load in loads)
    rows = [
        (
            names[load.model],
            f"{load.weights / 1e9:.2f} B",
            *(f"{len(load.of_kind(kind)):,}" for kind in ("state", "training", "edit")),
            f"{load.work('state', 'edit').tokens / 1e6:,.1f} M",
            f"{load.work('training').tokens / 1e6:,.1f} M",
            f"{load.work('state', 'edit', 'training').operations:.1e}",
            f"{load.answers / 1e9:.2f} GB",
        )
        for load in loads
    ]
    show.print_table(
        ("", "weights", "states", "trainings", "edits", "tokens rated", "trained", "operations", "answers"), rows
    )
    show.print_table(
        ("", "on", "chips", "hosts", "chips a copy", "a chip holds", "shards", "takes", "dollars"),
        [(names[estimate.load.model], *_cells(estimate)) for estimate in estimates],
    )
    prices = ", ".join(
        f"{name} {price:g}" for name, price in {estimate.on.name: estimate.price for estimate in estimates}.items()
    )
    print(
        f"assumed: {assumed.rating:.0%} of the peak in bfloat16 while rating, {assumed.training:.0%} while training; "
        f"dollars for a chip and an hour: {prices}; {assumed.reading / 1e9:g} GB of weights a second and host"
    )
    print("trained: three forward passes for each token of a step, one for a reference")
    print("not counted: compiling, resampling, prices on trainings, waiting for machines; the memory of trainings")
    print(show.power_sentence(loads[0].detectable))
    borrowed = [load.model for load in loads if load.borrowed]
    if borrowed:
        print(f"vatjax: no tokenizer in {', '.join(borrowed)}: a stand-in counts the words", file=sys.stderr)


def _cells(estimate: Estimate) -> tuple[str, ...]:
    size = estimate.on.chip.memory / 1e9
    return (
        estimate.on.name,
        f"{estimate.on.chips:,}",
        f"{estimate.on.hosts:,}",
        f"{estimate.copy:,}" if estimate.copy else "no room",
        f"{estimate.memory / 1e9:.1f} of {size:.0f} GB",
        f"{estimate.shards:,}",
        show.format_duration(estimate.hours * 3600) if estimate.copy else "-",
        f"{estimate.money:,.2f}" if estimate.copy else "-",
    )
