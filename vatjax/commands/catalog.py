"""The commands: what the help lists, completions complete and `cli` runs."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Command:
    """A command: its words, its line in the help, where its options (a dataclass with `run`) live, and examples."""

    words: tuple[str, ...]
    about: str
    module: str
    options: str
    examples: tuple[str, ...]
    file: bool = False
    """True if the first argument may be a configuration file: short for --config."""
    resumes: bool = False
    """True if the same command continues after it was stopped; it then ends with status 75 after a SIGTERM."""


# Options whose value is that of their first setting.
SHORT_OPTIONS = {"--distributed": "--distributed.coordinator", "--items": "--items.file"}

COMMANDS = (
    Command(
        ("run",),
        "run a study: models x interventions x targets, with its report",
        "vatjax.commands.run",
        "Run",
        (
            "vatjax run configs/quickstart.yaml --out runs/mine",
            "vatjax run configs/quickstart.yaml --targets Power Security --dry-run",
        ),
        file=True,
        resumes=True,
    ),
    Command(
        ("plan",),
        "estimate a study's hours, memory and money on accelerators that are not here",
        "vatjax.commands.plan",
        "Plan",
        (
            "vatjax plan configs/scale.yaml --on v5e-256",
            "vatjax plan configs/quickstart.yaml --on v5e-8 8xH200 --json",
        ),
        file=True,
    ),
    Command(
        ("interventions",),
        "list the kinds of interventions of a study, or the settings of one",
        "vatjax.commands.interventions",
        "Interventions",
        (
            "vatjax interventions",
            "vatjax interventions conva",
        ),
    ),
    Command(
        ("report",),
        "write the page and the figures of a study",
        "vatjax.commands.report",
        "Report",
        (
            "vatjax report runs/quickstart",
            "vatjax report runs/quickstart --portraits 6",
        ),
    ),
    Command(
        ("rate",),
        "ask a model about items and write its value state",
        "vatjax.commands.rate",
        "Rate",
        (
            "vatjax rate --model pocket --out before.npz --part test",
            "vatjax rate --model Qwen/Qwen3-0.6B --out after.npz --part test --shots 8 --towards Power",
        ),
        resumes=True,
    ),
    Command(
        ("tax",),
        "measure an intervention from ratings before and after",
        "vatjax.commands.tax",
        "Tax",
        (
            "vatjax tax example/before.csv example/after.csv --target Power --placebo example/placebo.csv",
            "vatjax tax before.npz after.npz --target Security --direction suppress --json",
        ),
    ),
    Command(
        ("compare",),
        "compare interventions from ratings before, and after each of them",
        "vatjax.commands.compare",
        "Compare",
        (
            "vatjax compare example/before.csv example/after.csv example/placebo.csv --target Power",
            "vatjax compare before.npz dpo.npz sft.npz --target Power --json",
        ),
    ),
    Command(
        ("example",),
        "write small files to try the other commands on",
        "vatjax.commands.example",
        "Example",
        (
            "vatjax example ratings",
            "vatjax example items data",
        ),
    ),
    Command(
        ("steer",),
        "find an edit that pushes a model, and compare it with placebos",
        "vatjax.commands.steer",
        "Steer",
        (
            "vatjax steer --model pocket --target Power --out edits/power",
            "vatjax steer --model pocket --target Security --method conva --direction suppress --out edits/security",
        ),
    ),
    Command(
        ("train",),
        "train by SFT or preferences, with a log, checkpoints and the tax over the steps",
        "vatjax.commands.train",
        "Train",
        (
            "vatjax train configs/dpo.yaml --out runs/dpo",
            "vatjax train --model pocket --target Power --loss ipo --file example/pairs.jsonl --out runs/ipo",
        ),
        file=True,
        resumes=True,
    ),
    Command(
        ("validate",),
        "check the metrics against effects planted in a model",
        "vatjax.commands.validate",
        "Validate",
        (
            "vatjax validate",
            "vatjax validate --model runs/my-organism --seeds 0 --json",
        ),
    ),
    Command(
        ("doctor",),
        "check versions, devices, memory; report missing packages",
        "vatjax.commands.doctor",
        "Doctor",
        (
            "vatjax doctor",
            "vatjax doctor --json",
        ),
    ),
    Command(
        ("items", "check"),
        "read items and report their contents and problems",
        "vatjax.commands.items",
        "Check",
        (
            "vatjax items check example/actions.csv --items.columns action text value target",
            "vatjax items check --items.country Egypt France --items.type Power",
        ),
    ),
    Command(
        ("build-items",),
        "build your own items: scenes, actions, gates, a data card",
        "vatjax.commands.build_items",
        "BuildItems",
        (
            "vatjax build-items configs/build_items.yaml",
            "vatjax build-items --out items --writer pocket --each 1",
        ),
        file=True,
        resumes=True,
    ),
    Command(
        ("human", "sample"),
        "draw items, and write sheets for people to judge them",
        "vatjax.commands.human",
        "Sample",
        (
            "vatjax human sample --out check --annotators ann bob eve",
            "vatjax human sample --out check --annotators ann bob --cases 120 --items example/items.jsonl",
        ),
    ),
    Command(
        ("human", "score"),
        "measure annotator agreement, and name outliers",
        "vatjax.commands.human",
        "Score",
        (
            "vatjax human score check/ann.csv check/bob.csv check/eve.csv --sample check",
            "vatjax human score check/ann.csv check/bob.csv --sample check --json",
        ),
    ),
    Command(
        ("models", "check"),
        "describe a checkpoint and check that it runs here",
        "vatjax.commands.models",
        "Check",
        (
            "vatjax models check pocket",
            "vatjax models check Qwen/Qwen3-0.6B --prompt 'The capital of France is'",
        ),
    ),
    Command(
        ("models", "convert"),
        "write a GGUF file in Hugging Face's layout",
        "vatjax.commands.models",
        "Convert",
        (
            "vatjax models convert model.gguf folder",
            "vatjax models convert model.gguf folder --dtype bfloat16",
        ),
    ),
    Command(
        ("completion",),
        "print completions for a shell: bash, zsh or fish",
        "vatjax.commands.completion",
        "Completion",
        (
            'eval "$(vatjax completion bash)"  # in ~/.bashrc; for zsh the same in ~/.zshrc',
            "vatjax completion fish > ~/.config/fish/completions/vatjax.fish",
        ),
    ),
)
