"""`vatjax validate`."""

from __future__ import annotations

import dataclasses
from typing import Any

from vatjax import errors, store
from vatjax.commands import show
from vatjax.values import schwartz


@dataclasses.dataclass(frozen=True)
class Validate:
    """Checks the metrics on planted answers, and the whole pipeline from prompts to tax on a model organism. Prints
    measured next to planted effects, and exits with status 1 if a check fails."""

    model: str = "pocket"
    """The organism: "pocket", or a folder that scripts/build_pocket.py wrote."""
    seeds: int = 40
    """Worlds to draw for the metrics alone; 0 leaves this part out."""
    seed: int = 0
    """Seed of the organism's examples, of the resampling and of the drawn worlds."""
    json: bool = False
    """Print one JSON document instead of tables."""

    def run(self) -> int:
        if self.seeds and self.seeds < 10:
            raise errors.InputError(f"seeds: at least 10 are needed for a rate, or 0 for none; found {self.seeds}")
        if not 0 <= self.seed < 1_000_000:
            raise errors.InputError(f"seed: expected 0 to 999,999, found {self.seed}")
        from vatjax import items, models, organism, validate

        world, model = organism.load_world(self.model), models.load(self.model)
        measured, pushed, style = None, None, None
        if world.kind == "circle":
            measured = validate.measure_organism(model, world, items.bundled(), seed=self.seed, on_message=_print_line)
            checks = validate.check_organism(measured)
        else:
            pushed = validate.push_organism(
                model, world, organism.split_seen_unseen(items.bundled())[1], seed=self.seed, on_message=_print_line
            )
            checks = validate.check_null_organism(world, pushed)
        if self.seeds:
            _print_line(f"{self.seeds} planted worlds of each kind, some minutes")
            more, style = validate.calibrate(self.seeds, self.seed)
            checks += more
        missed = [check for check in checks if not check.passed]
        if self.json:
            show.print_json(store.nonfinite_to_none(_content(measured, pushed, checks, style)))
        else:
            _print(measured, pushed, checks, style, len(missed))
        return 1 if missed else 0


def _print_line(line: str) -> None:
    show.print_message(line)


def _content(measured: Any, pushed: Any, checks: Any, style: Any) -> dict[str, Any]:
    rows = [] if measured is None else [{**row._asdict(), "gain": row.gain._asdict()} for row in measured.rows]
    rows += [] if pushed is None else [dict(zip(_KIND, _numbers(push), strict=True)) for push in pushed]
    return {
        "passed": all(check.passed for check in checks),
        "checks": [check._asdict() for check in checks],
        "interventions": rows,
        "response_style": None if style is None else style._asdict(),
    }


_KIND = ("target", "gain", "raw_nvat", "raw_p", "ipsatised_nvat", "ipsatised_p", "order_p")


def _numbers(push: Any) -> tuple[Any, ...]:
    raw, ipsatised = push.tax.raw, push.tax.ipsatised
    numbers = (
        push.tax.gain.estimate,
        raw.debiased.estimate,
        raw.p,
        ipsatised.debiased.estimate,
        ipsatised.p,
        push.order,
    )
    return push.target, *map(float, numbers)


def _print(measured: Any, pushed: Any, checks: Any, style: Any, missed: int) -> None:
    if measured is not None:
        _print_rows(measured.rows)
    if pushed is not None:
        rows = [(target, *(f"{x:.3f}" for x in numbers)) for target, *numbers in map(_numbers, pushed)]
        show.print_table(("pushed", "gain", "raw nVAT", "p", "ipsatised nVAT", "p", "order p"), rows)
    if style is not None:
        kinds = (("raw", style.raw, style.raw_alarms), ("ipsatised", style.ipsatised, style.ipsatised_alarms))
        show.print_table(
            ("mere agreement", "debiased nVAT", "p <= .05"), [(name, f"{n:.3f}", f"{p:.0%}") for name, n, p in kinds]
        )
    show.print_table(
        ("", "check", "found", "expected"),
        [
            ("ok" if check.passed else "MISSED", f"{check.part}: {check.name}", f"{check.found:.3g}", check.wanted)
            for check in checks
        ],
    )
    print(f"{len(checks) - missed} of {len(checks)} checks passed")


def _print_rows(rows: Any) -> None:
    cells = [
        (
            row.target,
            row.way if row.way == "words" else f"{row.way} shots",
            f"{row.planted_gain:.2f}",
            f"{row.gain.estimate:.2f} [{row.gain.low:.2f}, {row.gain.high:.2f}]",
            f"{row.profile:.3f}",
            f"{row.gnd:.3f}",
            f"{row.coupling:.3f}",
            f"{row.planted_nvat:.2f}",
            f"{row.nvat:.2f}",
        )
        for row in rows
    ]
    show.print_table(("target", "pushed by", "gain", "measured", "shifts", "GND", "R", "nVAT", "measured"), cells)
    print("gain, nVAT: planted, and measured   shifts, GND, R: correlation of measured with planted\n")
    each = []
    for row in rows:
        if row.way == "words":
            each.append((row.target, *(f"{x:.2f}" for x in row.planted_each)))
            each.append(("  measured", *(f"{x:.2f}" for x in row.each)))
    if each:
        types = [name[:5] for name in schwartz().types]
        show.print_table(("planted GND", *types), each)
