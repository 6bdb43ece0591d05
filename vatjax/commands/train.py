"""`vatjax train`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from tyro.constructors import PrimitiveConstructorSpec

from vatjax import errors, store
from vatjax.commands import show
from vatjax.commands.display import Display
from vatjax.devices import Devices
from vatjax.train.settings import Training


def _settings(words: Sequence[str]) -> dict[str, float]:
    if len(words) % 2:
        raise ValueError("expected names and numbers in turn, such as beta 0.1")
    return {name: float(number) for name, number in zip(words[::2], words[1::2], strict=True)}


_SETTINGS = PrimitiveConstructorSpec[Mapping[str, float]](
    nargs="*",
    metavar="NAME NUMBER ...",
    instance_from_str=_settings,
    is_instance=lambda found: isinstance(found, Mapping),
    str_from_instance=lambda found: [word for name, number in found.items() for word in (name, str(number))],
)


@dataclasses.dataclass(frozen=True)
class Train(Training, Devices):
    """Trains a model towards a value or away from it, by SFT or by preferences. What was trained, its log and the way of its
    gain and tax go into a folder; the same command again goes on from the last checkpoint there."""

    settings: Annotated[Mapping[str, float], _SETTINGS] = dataclasses.field(default_factory=dict)
    """Of the loss, in place of all that are given elsewhere: beta of dpo, cdpo, robust_dpo, ipo, hinge, simpo, orpo, apo_zero
    and kto; flipped of cdpo and robust_dpo; margin of simpo; good and bad, their weights, of kto."""
    out: str = ""
    """A folder for what was trained, checkpoints, the log and train.json; needed but for --dry-run."""
    dry_run: bool = False
    """Read the data, compile a step, say what it takes, and stop."""
    json: bool = False
    """Print one JSON document instead of tables."""

    resumes: ClassVar[bool] = True

    def run(self) -> int:
        if not self.out and not self.dry_run:
            raise errors.InputError("out: a folder is needed for what is trained")
        from vatjax import models, train

        loss = self.made_loss()
        folder = store.path(self.out) if self.out else None
        if folder is not None and (folder / "train.json").exists():
            raise errors.InputError(f"{self.out}: a finished run is there already; remove it, or give another folder")
        show.told(f"{self.model}: loading")
        model = models.load(self.model, self.dtype, self.spread(), self.ignore, self.context)
        made = train.prepared(model, self, None if folder is None else folder / "reference", self.dry_run, show.told)
        plan = self._plan(model, made)
        for line in self._remarks(model, plan, folder):
            show.told(line)
        if self.dry_run:
            show.as_json(store.finite(plan)) if self.json else _print_plan(plan)
            return 0
        assert folder is not None
        show.told(
            f"{plan['examples']:,} examples, {self.course.steps:,} steps of {loss.name}: {plan['tokens']:,} tokens"
        )
        probe = self._probe(model, made, folder)
        with Display() as display:
            what = "rating before the first step, then training" if probe is not None else "training"
            display.stage(what, f"about {show.duration(plan['seconds'])} of steps and compiling")
            ended = train.run(
                made.state,
                made.data,
                made.loss,
                self.course,
                folder,
                made.penalty,
                made.validation,
                probe,
                self.memory,
                about={"target": self.target, "direction": self.direction},
                done=_Steps(self.course, display).done,
                told=display.message,
            )
        content = self._written(model, made, ended, probe, folder)
        show.as_json(content) if self.json else _print(content)
        return 0

    def _plan(self, model: Any, made: Any) -> dict[str, Any]:
        """What a run will take: texts, tokens, floating-point operations, and the memory of a step as it is compiled."""
        import jax

        from vatjax import elicit, train

        course, data = self.course, made.data
        tokens = train.tokens_until(data, course.steps, course.seed)
        weights = sum(x.size for x in jax.tree.leaves(model.arrays))
        own = sum(x.size for x in jax.tree.leaves(made.state.progress.trained))
        # For each token 2 per weight forward, 2 backward, and 2 for its gradient; low-rank changes are weights beside others.
        flops = tokens * (4 * weights + (6 if self.trained.what == "lora" else 2) * own)
        plan = {
            "model": self.model,
            "loss": made.loss.name,
            "examples": len(data.examples),
            "validation": 0 if made.validation is None else len(made.validation.examples),
            "rows": data.shape.rows,
            "length": data.shape.time,
            "filled": data.tokens / (len(data.rows) * data.shape.time),
            "epochs": course.steps / data.steps,
            "tokens": tokens,
            "weights": weights,
            "trained": own,
            "flops": flops,
            "seconds": elicit.seconds_for(model, 3 * tokens),
        }
        if self.dry_run:
            first = train.batch(data, train.at(data, 0, course.seed))
            plan["memory"] = train.memory_of(made.state, first, made.loss, made.penalty, course.parts, self.memory)
        return plan

    def _remarks(self, model: Any, plan: dict[str, Any], folder: Any) -> list[str]:
        """What is allowed, and seldom meant."""
        found = []
        narrow = min(model.config.width, model.config.kv_heads * model.config.head_size)
        if self.trained.what == "lora" and self.trained.rank > narrow:
            found.append(
                f"rank {self.trained.rank:,} is more than the {narrow:,} of the narrowest matrix that it changes"
            )
        if plan["rows"] > plan["examples"]:
            found.append(
                f"a batch of {plan['rows']:,} rows has more than the {plan['examples']:,} examples: some twice"
            )
        if folder is not None and (folder / "checkpoints").exists():
            found.append(
                f"{self.out}: there are checkpoints of a run already; the same run goes on, another one is refused"
            )
        return found

    def _settings(self) -> dict[str, Any]:
        """What decides a run, as plain data."""
        from vatjax import config

        plain: dict[str, Any] = config.to_dict(dataclasses.replace(self, out="", json=False))
        return {key: x for key, x in plain.items() if key not in {field.name for field in dataclasses.fields(Devices)}}

    def _probe(self, model: Any, made: Any, folder: Any) -> Any:
        import numpy as np

        from vatjax import train
        from vatjax.elicit import prefill

        if not self.course.probe:
            return None
        _, test = made.items.split(self.source.test, self.source.seed)
        scenes = np.random.default_rng(self.source.seed).permutation(np.unique(test.scene_of))
        scenes = scenes[: self.probe_scenes or None]
        about = {**self._settings(), "scenes": scenes.tolist()}
        asked = test.take(np.flatnonzero(np.isin(test.scene_of, scenes)))
        # The base model's prefill: weights that change must not change how they are asked.
        return train.Probes(asked, folder / "trajectory", about, prefill.resolved(model, self.how))

    def _written(self, model: Any, made: Any, ended: Any, probe: Any, folder: Any) -> dict[str, Any]:
        from vatjax import models, train

        result = train.result(ended.state)
        content: dict[str, Any] = {
            "target": self.target,
            "direction": self.direction,
            "steps": int(ended.state.progress.step),
            "ended": ended.why,
            "reached": int(ended.metrics[-1]["step"]) if ended.metrics else int(ended.state.progress.step),
            "metrics": _last(ended),
        }
        if isinstance(result, models.Edit):
            models.save_edit(result, model, folder / "edit", {"target": self.target, "loss": made.loss.name})
            models.save_adapter(result, model.config, folder / "adapter", model.name)
            content["written"] = [str(folder / "edit"), str(folder / "adapter")]
        else:
            models.save(result, folder / "model", overwrite=True)
            content["written"] = [str(folder / "model")]
        if probe is not None:
            models.hosts.meet("the trajectory is written")
            taxonomy = made.items.taxonomy
            way = train.trajectory(probe.states(), taxonomy, self.target, self.way)
            content["trajectory"] = way.as_dict(taxonomy)
        content["settings"] = self._settings()
        content = store.finite(content)
        store.commit_json(folder / "train.json", content)
        return content


def _why(content: dict[str, Any]) -> str:
    """Why a run ended where it did, if that is not its last step."""
    if content["ended"] == "patience":
        return f", the run ended at {content['reached']:,}: no better validation"
    best = content["settings"]["course"]["best"]
    return (
        f" of {content['reached']:,}: the best by validation" if best and content["reached"] != content["steps"] else ""
    )


def _bytes(count: int) -> str:
    return f"{count / 2**30:,.2f} GiB" if count >= 2**29 else f"{count / 2**20:,.1f} MiB"


def _last(ended: Any) -> dict[str, Any]:
    """The line of the step whose state was taken."""
    step = int(ended.state.progress.step)
    found: dict[str, Any] = next((line for line in reversed(ended.metrics) if line["step"] == step), {})
    return found


class _Steps:
    """Shows each step of a run: its loss, and tokens a second."""

    def __init__(self, course: Any, display: Display) -> None:
        self.course, self.display = course, display
        self.first: float | None = None
        self.before, self.spent = 0.0, 0.0

    def done(self, metrics: dict[str, float], seconds: float) -> None:
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
            more = f", about {show.duration(left)} left" if self.first < step < steps else ""
            self.display.message(f"step {step:,} of {steps:,}: {note}{more}")


def _print_plan(plan: dict[str, Any]) -> None:
    memory = plan["memory"]
    rows = [
        ("examples", f"{plan['examples']:,}, and {plan['validation']:,} for validation"),
        ("rows", f"{plan['rows']} x {plan['length']:,} tokens, {plan['filled']:.0%} filled"),
        ("epochs", f"{plan['epochs']:.2f}"),
        ("tokens", f"{plan['tokens']:,}"),
        ("trained", f"{plan['trained']:,} of {plan['weights']:,} weights"),
        ("operations", f"{plan['flops']:.2e} in all, at least {show.duration(plan['seconds'])} here"),
        (
            "memory",
            f"{_bytes(memory['total'])}: {_bytes(memory['arguments'])} held, {_bytes(memory['working'])} in a step",
        ),
    ]
    show.table((f"{plan['model']}, {plan['loss']}", ""), rows)


def _print(content: dict[str, Any]) -> None:
    last = content["metrics"]
    shown = ("loss", "eval_loss", "rewards/accuracies", "rewards/margins", "penalty", "num_tokens")
    rows = [("step", f"{content['steps']:,}{_why(content)}")]
    rows += [
        (name, f"{last[name]:,.0f}" if name == "num_tokens" else f"{last[name]:,.4g}")
        for name in shown
        if last.get(name) is not None
    ]
    rows += [("written", where) for where in content["written"]]
    settings = content["settings"]
    source = settings["file"] or f"{content['direction']} {content['target']}"
    show.table((f"{settings['loss']}: {source}", ""), rows)
    if "trajectory" not in content:
        return
    found = content["trajectory"]
    show.table(
        ("step", "gain", "nVAT", "off-target GND"),
        [tuple(_shown(p[key]) for key in ("step", "gain", "nvat", "off_target")) for p in found["points"]],
    )


def _shown(x: Any) -> str:
    return "-" if x is None else f"{x:,}" if isinstance(x, int) else f"{x:+.3f}"
