"""`vatjax run`."""

from __future__ import annotations

import collections
import dataclasses
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import tyro

from vatjax import store
from vatjax.commands import show
from vatjax.commands.display import Display
from vatjax.devices import Cluster, Devices
from vatjax.study.design import Design, Intervention


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Design, Devices):
    """Runs a study: every model under every intervention, towards every target. What it takes is said first; what is done
    is kept piece by piece, so that the same command goes on after a kill, and other studies take it again."""

    interventions: Annotated[Mapping[str, Intervention], tyro.conf.Suppress] = dataclasses.field(default_factory=dict)
    shard: str = ""
    """Which of how many runs of this study, such as 3/16: started together, on as many machines as there are with one folder
    or bucket, they share the work out among themselves, take over what a lost one had begun, and the last writes the report."""
    compile_only: str = ""
    """Compile the rating and the trainings for a slice such as v5e-256, which need not be here (libtpu must), or for what is
    here, say what each program needs of a device, and stop. Weights are not read."""
    dry_run: bool = False
    """Say which pieces there are and what they take, and stop."""
    json: bool = False
    """Print one JSON document instead of tables."""

    resumes: ClassVar[bool] = True

    def processes(self) -> Cluster:
        """Of one shard those that are named; what a cluster starts beside it are other shards."""
        alone = self.shard and self.distributed == Cluster()
        return Cluster("off") if alone else self.distributed

    def run(self) -> int:
        from vatjax import models, report, study

        design = Design(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Design)})
        with warnings.catch_warnings():
            warnings.filterwarnings("always", category=UserWarning, module=r"vatjax\.")
            warnings.showwarning = lambda message, *_, **__: show.told(str(message))
            shard = study.shard(self.shard)
            if not self.compile_only:
                models.hosts.on_first(lambda: study.check(design))
            if self.compile_only:
                return self._compile(design)
            load = study.loader(design, self.spread())
            with Display() as display:
                display.stage("opening the models")
                planned = study.plan(design, load, on_message=display.message)
                display.stage("counting the tokens of each piece")
                costs = study.costs(planned, load, display.progress)
            show.as_json(costs) if self.json and self.dry_run else _print_plan(costs)
            if self.dry_run:
                return int(any(piece["fails"] for piece in costs["pieces"]))
            with Display() as display:
                batches = _Batches(costs, display)
                ran = study.run(planned, display.message, batches.done, load, shard, batches.start, display.progress)

            def written() -> None:
                if shard is None:
                    report.write(study.write(ran))
                else:
                    study.once(store.path(self.out), ran.name(), lambda: report.write(study.write(ran)))

            with Display() as display:
                display.stage("writing the results and the report")
                models.hosts.on_first(written)
            opened = study.open_study(self.out)
            page = opened.folder / report.PAGE
        content = {
            "out": self.out,
            "made": ran.made,
            "reused": ran.reused,
            "failed": opened.failed,
            "report": str(page),
            "rows": store.finite(opened.rows),
        }
        show.as_json(content) if self.json else _print(opened, ran, page, shard)
        return 1 if ran.failed else 0

    def _compile(self, design: Design) -> int:
        from vatjax.study import compiling

        own = None if self.compile_only == compiling.HERE else compiling.devices(self.compile_only)
        found = compiling.programs(design, self.spread(own), lambda one: show.told(f"{one.model}: {one.label}"))
        if self.json:
            show.as_json([one._asdict() for one in found])
        else:
            names = show.shortened(one.model for one in found)
            rows = [(names[one.model], one.label, *_sizes(one), show.duration(one.seconds)) for one in found]
            show.table(("", "program", "GB held", "GB beside", "compiled in"), rows)
        for one in found:
            if one.why:
                show.told(f"{one.model}: {one.label} does not fit: {one.why}")
        return int(any(one.why for one in found))


def _sizes(one: Any) -> tuple[str, ...]:
    return ("no room", "-") if one.why else (f"{one.held / 1e9:.2f}", f"{one.working / 1e9:.2f}")


class _Batches:
    """Shows each batch of pieces with its time left, and the time left of all.

    Args:
        costs: of `study.costs`; what finished pieces took corrects its seconds.
        display: where it is shown.
    """

    def __init__(self, costs: Mapping[str, Any], display: Display) -> None:
        self.display = display
        self.seconds = {piece["address"]: piece["seconds"] for piece in costs["pieces"] if not piece["there"]}
        self.of, self.count = len(self.seconds), 0
        self.expected = self.taken = 0.0

    def start(self, pieces: Sequence[Any]) -> None:
        """Shows a batch that is made next."""
        own = sum(self.seconds.get(piece.address, 0.0) for piece in pieces)
        first, last = self.count + 1, self.count + len(pieces)
        numbers = f"{first}" if first == last else f"{first} to {last}"
        more = f" and {len(pieces) - 1} more" if len(pieces) > 1 else ""
        estimate = f"{self._about(own)}; {self._about(sum(self.seconds.values()))} left in all" if own else ""
        self.display.stage(f"{numbers} of {self.of}: {pieces[0].label}{more}", estimate, quiet=not own)

    def done(self, progress: Any) -> None:
        """Takes a piece that was made."""
        self.count = progress.done
        expected = self.seconds.pop(progress.piece.address, 0.0)
        if expected:
            self.expected, self.taken = self.expected + expected, self.taken + progress.seconds
        if not self.display.terminal:
            took = show.duration(progress.seconds)
            self.display.message(f"{progress.done} of {progress.of}: {progress.piece.label} ({took})")

    def _about(self, seconds: float) -> str:
        pace = self.taken / self.expected if self.expected else 1.0
        return f"about {show.duration(seconds * pace)}"


def _print_plan(costs: Mapping[str, Any]) -> None:
    """What is to be made, by kind; on standard error, since it is no result."""
    rows = []
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = collections.defaultdict(list)
    for piece in costs["pieces"]:
        groups[piece["group"], piece["kind"]].append(piece)
    for (group, kind), pieces in groups.items():
        ready = sum(piece["there"] for piece in pieces)
        tokens = sum(piece["tokens"] for piece in pieces if not piece["there"])
        seconds = sum(piece["seconds"] for piece in pieces if not piece["there"])
        worth = (
            (f"{tokens:,}", show.duration(seconds)) if kind in ("edit", "training", "state", "texts") else ("-", "-")
        )
        rows.append((group, kind, f"{len(pieces):,}", f"{ready:,}", *worth))
    ready, tokens, seconds = (sum(piece[key] for piece in costs["pieces"]) for key in ("there", "tokens", "seconds"))
    rows.append(("in all", "", f"{len(costs['pieces']):,}", f"{ready:,}", f"{tokens:,}", show.duration(seconds)))
    for why in dict.fromkeys(piece["fails"] for piece in costs["pieces"] if piece["fails"]):
        show.told(f"sure to fail: {why}")
    show.table(("", "piece", "how many", "there", "tokens to compute", "at least"), rows, sys.stderr)
    show.told("at least: what the model's arithmetic takes; on a small model compiling and resampling take more")
    show.told(show.power(costs["detectable"]))


def _print(opened: Any, ran: Any, page: Any, shard: Any) -> None:
    several = len(opened.design.models) > 1
    rows = [_cells(own, several) for own in _groups(opened.rows)]
    show.table(("", "amount", "gain", "others", "nVAT", "mass"), rows)
    print("~ cannot be distinguished from 0   others: root mean square shift, in points   nVAT: debiased")
    print("* on the front of gain and shift, in so many of 100 draws   placebos: the range of their draws")
    for line in opened.failed:
        print(f"FAILED {line}")
    others = "" if shard is None else " or were made by other shards"
    print(f"\n{ran.made} pieces made, {ran.reused} were there{others}")
    there = [name for name in _WRITTEN if (opened.folder / name).exists()]
    print(f"{opened.folder}: {', '.join(there)}")
    print(f"the report: {page}")


_WRITTEN = ("results.csv", "columns.csv", "comparisons.csv", "texts.jsonl", "states", "edits", "figures")


def _groups(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Each arm by itself, and behind it the draws of each of its placebos together."""
    found: dict[Any, list[Mapping[str, Any]]] = {}
    keys = ("model", "intervention", "target", "direction", "seed", "amount", "placebo")
    for row in rows:
        if row["headline"]:
            found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return list(found.values())


def _cells(rows: Sequence[Mapping[str, Any]], several: bool) -> tuple[str, ...]:
    from vatjax.report.chosen import front_mark
    from vatjax.study.results import is_placebo

    first = rows[0]
    if is_placebo(first):
        return (
            f"  {first['placebo']}",
            f"{first['amount']:g}",
            *(_range([row[key] for row in rows]) for key in ("gain", "off_target_shift", "nvat_debiased")),
            _range([row["mass"] for row in rows]),
        )
    name = f"{first['intervention']} {'+' if first['direction'] == 'express' else '-'}{first['target']}"
    name = f"{first['model']}: {name}" if several else name
    low, high = first["gain_low"], first["gain_high"]
    gain = "-" if low is None else f"{first['gain']:.2f} [{low:.2f}, {high:.2f}]"
    return (
        name + (f" seed {first['seed']}" if first["seed"] else "") + front_mark(first),
        f"{first['amount']:g}",
        gain + ("" if first["resolved"] else " ~"),
        _number(first["off_target_shift"]),
        _number(first["nvat_debiased"]),
        f"{first['mass']:.2f}" + (" BROKEN" if first["broken"] else ""),
    )


def _range(numbers: Sequence[float | None]) -> str:
    there = [x for x in numbers if x is not None]
    if not there:
        return "-"
    low, high = (f"{x:.2f}" for x in (min(there), max(there)))
    return low if low == high else f"{low} to {high}"


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.2f}"
