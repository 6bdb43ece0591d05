"""`vatjax validate`."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from vatjax import errors
from vatjax.commands import show


@dataclasses.dataclass(frozen=True)
class Validate:
    """Measures what was planted: the metrics on planted answers, and the whole way from prompts to tax on a model organism.
    Prints what was found beside what was planted, and ends with status 1 where the instrument misses."""

    model: str = "pocket"
    """The organism: "pocket", or a folder that scripts/build_pocket.py has made."""
    seeds: int = 40
    """Worlds to draw for the metrics alone; 0 leaves this part out."""
    seed: int = 0
    """Of the organism's examples and of the resampling."""
    json: bool = False
    """Print one JSON document instead of tables."""

    def run(self) -> int:
        if self.seeds and self.seeds < 10:
            raise errors.InputError(f"seeds: at least 10 are needed to tell a rate, or 0 for none; found {self.seeds}")
        from vatjax import items, models, organism, study

        world = organism.world(self.model)
        if world.kind != "circle":
            raise errors.InputError(
                f"{self.model}: an organism of the kind {world.kind}; the check wants one on the circle"
            )
        model = models.load(self.model)
        measured = study.measure(model, world, items.bundled(), seed=self.seed, done=_said)
        checks = study.judge(measured)
        style = None
        if self.seeds:
            _said(f"{self.seeds} planted worlds of each kind")
            more, style = study.calibrate(self.seeds)
            checks += more
        missed = [check for check in checks if not check.passed]
        if self.json:
            show.as_json(_content(measured, checks, style))
        else:
            _print(measured, checks, style, len(missed))
        return 1 if missed else 0


def _said(line: str) -> None:
    print(f"vatjax: {line}", file=sys.stderr)


def _content(measured: Any, checks: Any, style: Any) -> dict[str, Any]:
    rows = [{**row._asdict(), "gain": row.gain._asdict()} for row in measured.rows]
    return {
        "passed": all(check.passed for check in checks),
        "checks": [check._asdict() for check in checks],
        "interventions": show.finite(rows),
        "response_style": None if style is None else style._asdict(),
    }


def _print(measured: Any, checks: Any, style: Any, missed: int) -> None:
    rows = [
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
        for row in measured.rows
    ]
    show.table(("target", "pushed by", "gain", "measured", "shifts", "GND", "R", "nVAT", "measured"), rows)
    print("gain, nVAT: planted, and measured   shifts, GND, R: correlation of measured with planted\n")
    if style is not None:
        kinds = (("raw", style.raw, style.raw_alarms), ("ipsatised", style.ipsatised, style.ipsatised_alarms))
        show.table(
            ("mere agreement", "debiased nVAT", "p <= .05"), [(name, f"{n:.3f}", f"{p:.0%}") for name, n, p in kinds]
        )
    show.table(
        ("", "check", "found", "wanted"),
        [
            ("ok" if check.passed else "MISSED", f"{check.part}: {check.name}", f"{check.found:.3g}", check.wanted)
            for check in checks
        ],
    )
    print(f"{len(checks) - missed} of {len(checks)} checks passed")
