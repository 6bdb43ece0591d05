"""`vatjax run`."""

from __future__ import annotations

import collections
import dataclasses
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import tyro

from vatjax import store
from vatjax.commands import show
from vatjax.commands.devices import Devices
from vatjax.interventions import Intervention, kind_names
from vatjax.runtime.cluster import Cluster
from vatjax.runtime.display import Display
from vatjax.study.design import Design


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Design, Devices):
    """Runs a study: every model under every intervention, towards every target. Prints the cost first, and stores each
    artifact when it is computed, so that the same command resumes after a kill, and other studies reuse it."""

    interventions: Annotated[Mapping[str, Intervention], tyro.conf.Suppress] = dataclasses.field(default_factory=dict)
    shard: str = ""
    """Index and number of this study's runs, such as 3/16: started together, on machines that share one folder or
    bucket, they divide the work, take over the unfinished work of a lost one, and the last writes the report."""
    compile_only: str = ""
    """Compile the rating and the trainings for a slice such as v5e-256, which need not be here (libtpu must), or for
    `here`; print the memory that each program needs on a device, and stop. Weights are not read."""
    dry_run: bool = False
    """Print the artifacts and their cost, and stop."""
    json: bool = False
    """Print one JSON document instead of tables."""

    def cluster(self) -> Cluster:
        """Returns the cluster; a shard without --distributed is a single process: its cluster's others are shards."""
        single_process = self.shard and self.distributed == Cluster()
        return Cluster("off") if single_process else self.distributed

    @classmethod
    def more_help(cls) -> str:
        """Returns the kinds of interventions, for the help."""
        return (
            " Interventions are given in the file; --interventions.NAME.KEY changes a setting of one. Their kinds: "
            f"{', '.join(kind_names())}; `vatjax interventions KIND` prints the settings of one."
        )

    def run(self) -> int:
        from vatjax import estimate, report, study
        from vatjax.runtime import processes

        design = Design(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Design)})
        with warnings.catch_warnings():
            warnings.filterwarnings("always", category=UserWarning, module=r"vatjax\.")
            warnings.showwarning = lambda message, *_, **__: show.print_message(str(message))
            shard = study.parse_shard(self.shard)
            if not self.compile_only:
                processes.run_on_first(lambda: study.check_folder(design))
            if self.compile_only:
                return self._compile(design)
            load = study.loader(design, self.device_mesh())
            with Display() as display:
                display.stage("opening the models")
                planned = study.plan(design, load, on_message=display.message)
                display.stage("counting the tokens of each artifact")
                costs = estimate.costs(planned, load, display.progress)
            show.print_json(costs) if self.json and self.dry_run else _print_plan(costs)
            if self.dry_run:
                return int(any(piece["fails"] for piece in costs["artifacts"]))
            with Display() as display:
                batches = _Batches(costs, display)
                ran = study.run(
                    planned, display.message, batches.on_artifact, load, shard, batches.on_batch, display.progress
                )

            def write_report() -> None:
                if shard is None:
                    report.write(study.write(ran))
                else:
                    study.run_once(store.path(self.out), ran.content_hash(), lambda: report.write(study.write(ran)))

            with Display() as display:
                display.stage("writing the results and the report")
                processes.run_on_first(write_report)
            opened = study.open_study(self.out)
            page = opened.folder / report.PAGE
        content = {
            "out": self.out,
            "made": ran.computed,
            "reused": ran.reused,
            "failed": opened.failed,
            "report": str(page),
            "rows": store.nonfinite_to_none(opened.rows),
        }
        show.print_json(content) if self.json else _print(opened, ran, page, shard)
        return 1 if ran.failed else 0

    def _compile(self, design: Design) -> int:
        from vatjax.estimate import compile

        devices = None if self.compile_only == compile.HERE else compile.topology_devices(self.compile_only)
        programs = compile.compile_programs(
            design, self.device_mesh(devices), lambda program: show.print_message(f"{program.model}: {program.label}")
        )
        if self.json:
            show.print_json([program._asdict() for program in programs])
        else:
            names = show.short_names(program.model for program in programs)
            rows = [
                (names[program.model], program.label, *_sizes(program), show.format_duration(program.seconds))
                for program in programs
            ]
            show.print_table(("", "program", "GB held", "GB working", "compiled in"), rows)
        for program in programs:
            if program.why:
                show.print_message(f"{program.model}: {program.label} does not fit: {program.why}")
        return int(any(program.why for program in programs))


def _sizes(program: Any) -> tuple[str, ...]:
    return ("no room", "-") if program.why else (f"{program.held / 1e9:.2f}", f"{program.working / 1e9:.2f}")


class _Batches:
    """Display of each batch of artifacts with its time left, and the time left of all.

    Args:
        costs: from `estimate.costs`; the times of finished artifacts correct its seconds.
        display: the display of the command.
    """

    def __init__(self, costs: Mapping[str, Any], display: Display) -> None:
        self.display = display
        self.seconds = {piece["address"]: piece["seconds"] for piece in costs["artifacts"] if not piece["present"]}
        self.total, self.count = len(self.seconds), 0
        self.expected = self.taken = 0.0

    def on_batch(self, pieces: Sequence[Any]) -> None:
        """Shows the next batch."""
        batch_seconds = sum(self.seconds.get(piece.address, 0.0) for piece in pieces)
        first, last = self.count + 1, self.count + len(pieces)
        numbers = f"{first}" if first == last else f"{first} to {last}"
        more = f" and {len(pieces) - 1} more" if len(pieces) > 1 else ""
        estimate = (
            f"{self._about(batch_seconds)}; {self._about(sum(self.seconds.values()))} left in all"
            if batch_seconds
            else ""
        )
        self.display.stage(f"{numbers} of {self.total}: {pieces[0].label}{more}", estimate, quiet=not batch_seconds)

    def on_artifact(self, progress: Any) -> None:
        """Records a finished artifact, and prints its time."""
        self.count = progress.done
        expected = self.seconds.pop(progress.artifact.address, 0.0)
        if expected:
            self.expected, self.taken = self.expected + expected, self.taken + progress.seconds
        if not self.display.terminal:
            took = show.format_duration(progress.seconds)
            self.display.message(f"{progress.done} of {progress.of}: {progress.artifact.label} ({took})")

    def _about(self, seconds: float) -> str:
        pace = self.taken / self.expected if self.expected else 1.0
        return f"about {show.format_duration(seconds * pace)}"


def _print_plan(costs: Mapping[str, Any]) -> None:
    """Prints the artifacts to compute, by kind; on standard error, apart from the results."""
    rows = []
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = collections.defaultdict(list)
    for piece in costs["artifacts"]:
        groups[piece["group"], piece["kind"]].append(piece)
    for (group, kind), pieces in groups.items():
        ready = sum(piece["present"] for piece in pieces)
        tokens = sum(piece["tokens"] for piece in pieces if not piece["present"])
        seconds = sum(piece["seconds"] for piece in pieces if not piece["present"])
        worth = (f"{tokens:,}", show.format_duration(seconds)) if tokens or kind in ("state", "texts") else ("-", "-")
        rows.append((group, kind, f"{len(pieces):,}", f"{ready:,}", *worth))
    ready, tokens, seconds = (
        sum(piece[key] for piece in costs["artifacts"]) for key in ("present", "tokens", "seconds")
    )
    rows.append(
        ("in all", "", f"{len(costs['artifacts']):,}", f"{ready:,}", f"{tokens:,}", show.format_duration(seconds))
    )
    for why in dict.fromkeys(piece["fails"] for piece in costs["artifacts"] if piece["fails"]):
        show.print_message(f"will fail: {why}")
    show.print_table(("", "artifact", "count", "cached", "tokens to compute", "at least"), rows, sys.stderr)
    disk = sum(piece["disk_bytes"] for piece in costs["artifacts"] if not piece["present"])
    if disk:
        show.print_message(f"checkpoints of whole weights take {disk / 1e9:.1f} GB in {costs['artifact_store']}")
    show.print_message(
        "at least: the time of the model's arithmetic; on a small model compiling and resampling take more"
    )
    show.print_message(show.power_sentence(costs["detectable"]))


def _print(opened: Any, ran: Any, page: Any, shard: Any) -> None:
    several = len(opened.design.models) > 1
    rows = [_cells(arm_rows, several) for arm_rows in _groups(opened.rows)]
    show.print_table(("", "amount", "gain", "others", "nVAT", "mass"), rows)
    print("~ cannot be distinguished from 0   others: root mean square shift, in points   nVAT: debiased")
    print("* on the front of gain and shift, in so many of 100 draws   placebos: the range of their draws")
    for line in opened.failed:
        show.print_text(f"FAILED {line}")
    others = "" if shard is None else " or computed by other shards"
    print(f"\n{ran.computed} artifacts computed, {ran.reused} reused{others}")
    present = [name for name in _WRITTEN if (opened.folder / name).exists()]
    show.print_text(f"{opened.folder}: {', '.join(present)}")
    show.print_text(f"the report: {page}")


_WRITTEN = ("results.csv", "columns.csv", "comparisons.csv", "texts.jsonl", "states", "edits", "figures")


def _groups(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Returns the rows of each arm, followed by those of each of its placebos, all draws together."""
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    keys = ("model", "intervention", "target", "direction", "seed", "amount", "placebo")
    for row in rows:
        if row["headline"]:
            groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return list(groups.values())


def _cells(rows: Sequence[Mapping[str, Any]], several: bool) -> tuple[str, ...]:
    from vatjax.study.arm_groups import front_mark
    from vatjax.study.columns import is_placebo

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
        _number(first["mass"]) + (" BROKEN" if first["broken"] else ""),
    )


def _range(numbers: Sequence[float | None]) -> str:
    present = [x for x in numbers if x is not None]
    if not present:
        return "-"
    low, high = (f"{x:.2f}" for x in (min(present), max(present)))
    return low if low == high else f"{low} to {high}"


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.2f}"
