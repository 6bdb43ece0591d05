"""`vatjax train`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from tyro.constructors import PrimitiveConstructorSpec

from vatjax import errors, store
from vatjax.commands import show
from vatjax.commands.devices import Devices
from vatjax.runtime.display import Display
from vatjax.train.settings import Training


def _settings(words: Sequence[str]) -> dict[str, float]:
    if len(words) % 2:
        raise ValueError("expected names and numbers in turn, such as beta 0.1")
    return {name: float(number) for name, number in zip(words[::2], words[1::2], strict=True)}


_SETTINGS = PrimitiveConstructorSpec[Mapping[str, float]](
    nargs="*",
    metavar="NAME NUMBER ...",
    instance_from_str=_settings,
    is_instance=lambda value: isinstance(value, Mapping),
    str_from_instance=lambda value: [word for name, number in value.items() for word in (name, str(number))],
)


@dataclasses.dataclass(frozen=True)
class Train(Training, Devices):
    """Trains a model towards a value or away from it, by SFT or by preferences. Writes the trained weights, a log and
    the trajectory of gain and tax to a folder; the same command resumes from the last checkpoint there."""

    settings: Annotated[Mapping[str, float], _SETTINGS] = dataclasses.field(default_factory=dict)
    """Loss settings, in place of all given elsewhere: beta of dpo, cdpo, robust_dpo, ipo, hinge, simpo, orpo, apo_zero
    and kto; flipped of cdpo and robust_dpo; margin of simpo; good and bad, their weights, of kto."""
    out: str = ""
    """Folder for the trained weights, checkpoints, the log and train.json; required without --dry-run."""
    dry_run: bool = False
    """Read the data, compile a step, print the cost, and stop."""
    json: bool = False
    """Print one JSON document instead of tables."""

    def run(self) -> int:
        if not self.out and not self.dry_run:
            raise errors.InputError("out: a folder is needed for the trained weights")
        from vatjax import models, train

        loss = self.build_loss()
        folder = store.path(self.out) if self.out else None
        if folder is not None and (folder / "train.json").exists():
            raise errors.InputError(f"{self.out}: a finished run already exists; remove it, or give another folder")
        if folder is not None and not self.dry_run:
            store.check_writable(folder, "--out")
            store.refuse_links(folder)
        show.print_message(f"{self.model}: loading")
        model = models.load(self.model, self.dtype, self.device_mesh(), self.ignore, self.context)
        prepared = train.prepare(
            model, self, None if folder is None else folder / "reference", self.dry_run, show.print_message
        )
        plan = train.run_cost(model, prepared, self, self.dry_run)
        for line in self._remarks(model, plan, folder):
            show.print_message(line)
        if self.dry_run:
            show.print_json(store.nonfinite_to_none(plan)) if self.json else _print_plan(plan)
            return 0
        assert folder is not None
        show.print_message(
            f"{plan['examples']:,} examples, {self.course.steps:,} steps of {loss.name}: {plan['tokens']:,} tokens"
        )
        probe = train.make_probes(model, prepared, self, folder, self._settings())
        with Display() as display:
            what = "rating before the first step, then training" if probe is not None else "training"
            display.stage(what, f"about {show.format_duration(plan['seconds'])} of steps and compiling")
            ended = train.run(
                prepared.state,
                prepared.data,
                prepared.loss,
                self.course,
                folder,
                prepared.penalty,
                prepared.validation,
                probe,
                self.memory,
                about={"target": self.target, "direction": self.direction},
                on_step=_Steps(self.course, display).on_step,
                on_message=display.message,
            )
        content = train.write_results(model, prepared, self, ended, probe, folder, self._settings())
        show.print_json(content) if self.json else _print(content)
        return 0

    def _remarks(self, model: Any, plan: dict[str, Any], folder: Any) -> list[str]:
        """Returns remarks on settings that are allowed but seldom intended."""
        remarks = []
        narrow = min(model.config.width, model.config.kv_heads * model.config.head_size)
        if self.trained.what == "lora" and self.trained.rank > narrow:
            remarks.append(
                f"rank {self.trained.rank:,} is more than the {narrow:,} of the narrowest matrix that it changes"
            )
        if plan["rows"] > plan["examples"]:
            remarks.append(
                f"a batch of {plan['rows']:,} rows has more than the {plan['examples']:,} examples: some twice"
            )
        if folder is not None and (folder / "checkpoints").exists():
            remarks.append(
                f"{self.out}: checkpoints of a run already exist; the same run continues, another one is refused"
            )
        return remarks

    def _settings(self) -> dict[str, Any]:
        """Returns the settings that determine a run, as plain data."""
        from vatjax import config

        plain: dict[str, Any] = config.to_dict(dataclasses.replace(self, out="", json=False))
        return {key: x for key, x in plain.items() if key not in {field.name for field in dataclasses.fields(Devices)}}


def _why(content: dict[str, Any]) -> str:
    """Explains why a run ended, if not at its last step."""
    if content["ended"] == "patience":
        return f", the run ended at {content['reached']:,}: no better validation"
    best = content["settings"]["course"]["best"]
    return (
        f" of {content['reached']:,}: the best by validation" if best and content["reached"] != content["steps"] else ""
    )


def _bytes(count: int) -> str:
    return f"{count / 2**30:,.2f} GiB" if count >= 2**29 else f"{count / 2**20:,.1f} MiB"


class _Steps:
    """Display of each step of a run: its loss, and tokens a second."""

    def __init__(self, course: Any, display: Display) -> None:
        self.course, self.display = course, display
        self.first: float | None = None
        self.before, self.spent = 0.0, 0.0

    def on_step(self, metrics: dict[str, float], seconds: float) -> None:
        step, steps = metrics["step"], self.course.steps
        if self.first is None:  # the first step compiles
            self.first, self.before = step, metrics["num_tokens"]
        else:  # of steps alone, without ratings and validation between them
            self.spent += seconds
        note = f"loss {metrics['loss']:.4g}"
        if step > self.first:
            rate = (metrics["num_tokens"] - self.before) / max(self.spent, 1e-9)
            note += f", {rate:,.0f} tokens a second"
        self.display.note(note)
        self.display.progress(step / steps)
        if not self.display.terminal and (step % self.course.log == 0 or step in (self.first, steps)):
            left = (steps - step) * self.spent / max(step - self.first, 1)
            more = f", about {show.format_duration(left)} left" if self.first < step < steps else ""
            self.display.message(f"step {step:,} of {steps:,}: {note}{more}")


def _print_plan(plan: dict[str, Any]) -> None:
    memory = plan["memory"]
    rows = [
        ("examples", f"{plan['examples']:,}, and {plan['validation']:,} for validation"),
        ("rows", f"{plan['rows']} x {plan['length']:,} tokens, {plan['filled']:.0%} filled"),
        ("epochs", f"{plan['epochs']:.2f}"),
        ("tokens", f"{plan['tokens']:,}"),
        ("trained", f"{plan['trained']:,} of {plan['weights']:,} weights"),
        ("operations", f"{plan['flops']:.2e} in all, at least {show.format_duration(plan['seconds'])} here"),
        (
            "memory",
            f"{_bytes(memory['total'])}: {_bytes(memory['arguments'])} held, {_bytes(memory['working'])} in a step",
        ),
    ]
    show.print_table((f"{plan['model']}, {plan['loss']}", ""), rows)


def _print(content: dict[str, Any]) -> None:
    last = content["metrics"]
    shown = ("loss", "eval_loss", "rewards/accuracies", "rewards/margins", "penalty", "num_tokens")
    rows = [("step", f"{content['steps']:,}{_why(content)}")]
    rows += [
        (name, f"{last[name]:,.0f}" if name == "num_tokens" else f"{last[name]:,.4g}")
        for name in shown
        if last.get(name) is not None
    ]
    rows += [("written", path) for path in content["written"]]
    settings = content["settings"]
    source = settings["file"] or f"{content['direction']} {content['target']}"
    show.print_table((f"{settings['loss']}: {source}", ""), rows)
    if "trajectory" not in content:
        return
    trajectory = content["trajectory"]
    show.print_table(
        ("step", "gain", "nVAT", "off-target GND"),
        [tuple(_shown(p[key]) for key in ("step", "gain", "nvat", "off_target")) for p in trajectory["points"]],
    )


def _shown(x: Any) -> str:
    return "-" if x is None else f"{x:,}" if isinstance(x, int) else f"{x:+.3f}"
