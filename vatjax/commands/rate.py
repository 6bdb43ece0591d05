"""`vatjax rate`."""

from __future__ import annotations

import dataclasses
import sys
import time
import warnings
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes

from vatjax import errors, prompts, store
from vatjax.commands import show
from vatjax.items import Source, open_source
from vatjax.prompts import How


@dataclasses.dataclass(frozen=True)
class Rate:
    """Asks a model about items and writes its value state. What is done is kept in a folder beside the state until all of
    it is: the same command again goes on where it was."""

    model: str
    """A folder in Hugging Face's layout, or owner/name on the Hub."""
    out: str
    """Where the state goes: a path or bucket address ending in .npz."""
    items: str = ""
    """The items, in place of --file: "bundled", or a path or bucket address."""
    part: Literal["all", "train", "test"] = "all"
    """Which side of the division by scene."""
    source: Annotated[Source, OmitArgPrefixes] = dataclasses.field(default_factory=Source)
    """Which items, and how to read them."""
    how: Annotated[How, OmitArgPrefixes] = dataclasses.field(default_factory=How)
    """How the model is asked."""
    shots: int = 0
    """Examples with answers before every prompt, drawn from the train side by --seed; they ask for --part test."""
    towards: str = ""
    """What the examples push: a value, a type or a group."""
    direction: Literal["express", "suppress"] = "express"
    """Which way they push it."""
    labels: str = ""
    """For the protocol labelled: an .npz with `labels`, -1, 0 or 1 for each item and value."""
    adapter: str = ""
    """A PEFT adapter to ask the model with."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights."""
    tokens: int = 0
    """Tokens of one pass; by default what suits the device. It decides the last bits of the numbers."""
    json: bool = False
    """Print one JSON document about the state instead of a table."""

    def run(self) -> int:
        if not self.out.endswith(".npz"):
            raise errors.InputError(f"out: a value state is an .npz, found {self.out!r}")
        if self.items and self.source.file not in (Source.file, self.items):
            raise errors.InputError(f"two files are given: {self.items!r} and {self.source.file!r}")
        source = dataclasses.replace(self.source, file=self.items) if self.items else self.source
        whole = data = open_source(source)
        if self.part != "all":
            data = data.split(source.test, source.seed)[self.part == "test"]
            if not len(data):
                raise errors.InputError(f"{source.file}: no item falls to the {self.part} side")
        shots = self._shots(whole, source)
        from vatjax import elicit, models, states

        if store.path(self.out).exists():
            raise errors.InputError(f"{self.out}: a state is there already; remove it, or write to another file")
        model = models.load(self.model, self.dtype)
        edit = models.load_adapter(self.adapter, model.config) if self.adapter else None
        size = elicit.size_for(model, self.tokens)
        folder, progress = f"{self.out}.shards", _Progress(model)
        with warnings.catch_warnings():
            warnings.filterwarnings("always", category=UserWarning, module=r"vatjax\.")
            warnings.showwarning = _warned
            try:
                rated = elicit.ratings(
                    model,
                    data,
                    self.how,
                    shots=shots,
                    edit=edit,
                    labels=_labels(self.labels),
                    size=size,
                    keep=folder,
                    told=progress.told,
                    done=progress.done,
                )
                states.save(rated.state, self.out)
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise errors.InputError(
                    f"{error.filename or self.out}: {reason}; finished shards are kept in {folder}, and the same command "
                    "goes on from there"
                ) from None
            finally:
                progress.close()
        elicit.drop(folder)
        summary = _summary(self.out, rated)
        show.as_json(summary) if self.json else _print(summary)
        return 0

    def _shots(self, whole: Any, source: Source) -> list[prompts.Shot]:
        if not self.shots and not self.towards:
            return []
        if not self.shots or not self.towards:
            raise errors.InputError("--shots and --towards go together: how many examples, and what they push")
        if self.part != "test":
            raise errors.InputError(
                "examples come from the train side, which they would be judged on: give --part test"
            )
        if self.how.protocol == "stated":
            raise errors.InputError("examples show actions, and the protocol stated asks about none")
        direction = 1 if self.direction == "express" else -1
        scale = prompts.Scale(self.how.low, self.how.high)
        return prompts.demonstrations(whole, self.towards, direction, self.shots, scale, source.test, source.seed)


def _labels(where: str) -> Any:
    if not where:
        return None
    try:
        return store.load_npz(where)["labels"]
    except errors.InputError:
        raise
    except (ValueError, KeyError):
        raise errors.InputError(f"{where}: expected an .npz with the array `labels`") from None


def _warned(message: Any, *_: Any, **__: Any) -> None:
    print(f"vatjax: {message}", file=sys.stderr)


class _Progress:
    """What a run will cost, said before it starts, and how far it is, on a terminal."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.bar: Any = None
        self.task: Any = None

    def told(self, plan: Any, ready: int) -> None:
        from vatjax.elicit import seconds_for

        cost = plan.cost
        left = sum(t for t, shard in zip(plan.shard_tokens, plan.shards, strict=True)) * (1 - ready / cost.prompts)
        kept = f"; {ready:,} answers are kept already" if ready else ""
        print(
            f"{cost.prompts:,} prompts: {cost.distinct:,} distinct tokens of {cost.full:,} in full "
            f"({cost.full / cost.distinct:.1f} x), {cost.computed:,} computed; about "
            f"{_time(seconds_for(self.model, left))}{kept}",
            file=sys.stderr,
        )
        if sys.stderr.isatty():
            self._begin(cost.prompts, ready)

    def _begin(self, prompts: int, ready: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.close()
        speed = TextColumn("{task.fields[rate]}")
        self.bar = Progress(
            BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn(), console=Console(stderr=True)
        )
        self.task = self.bar.add_task("", total=prompts, completed=ready, rate="")
        self.start, self.count = time.monotonic(), 0
        self.bar.start()

    def done(self, prompts: int) -> None:
        if self.bar is not None:
            self.count += prompts
            rate = f"{self.count / (time.monotonic() - self.start):,.0f} a second"
            self.bar.update(self.task, advance=prompts, rate=rate)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _summary(out: str, rated: Any) -> dict[str, Any]:
    state = rated.state
    return {
        "state": out,
        "contexts": len(state.clusters),
        "values": len(state.values),
        "missing": int((~state.mask).sum()),
        "mean": float(state.state[state.mask].mean()),
        "meta": dict(state.meta),
    }


def _print(summary: dict[str, Any]) -> None:
    meta = summary["meta"]
    mass, cost = meta["mass"], meta["cost"]
    rows = [
        ("state", f"{summary['contexts']:,} contexts x {summary['values']} values, {summary['missing']:,} missing"),
        ("mean", f"{summary['mean']:+.3f}"),
        ("option mass", f"{mass['mean']:.2f} on average, {mass['least']:.2f} at least"),
        ("tokens", f"{cost['distinct'] / cost['computed']:.1%} of {cost['computed']:,} computed ones are distinct"),
        ("weights", meta["model"]["weights"]),
    ]
    show.table((summary["state"], ""), rows)
