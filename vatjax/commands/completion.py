"""`vatjax completion`."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import re
from typing import Annotated, Any, Literal, NamedTuple

from tyro.conf import Positional, arg

from vatjax.commands.catalog import COMMANDS, SHORT_OPTIONS, Command

# A flag at the start of a line of a command's help, its negation, and its choices.
_FLAG = re.compile(r"^\W*? (--\w[\w.-]*)(?:, (--\w[\w.-]*))?(?: \[?\{([^}]*)\})?", re.MULTILINE)


class Flag(NamedTuple):
    """A flag of a command, and the words that it takes; none if it takes any."""

    name: str
    choices: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Completion:
    """Prints a script that completes commands, flags and their choices in a shell. Where a flag takes a path, the shell
    completes files."""

    shell: Annotated[Literal["bash", "zsh", "fish"], Positional, arg(metavar="SHELL")]
    """The shell."""

    def run(self) -> int:
        commands = {command.words: _flags(command) for command in COMMANDS}
        print(_fish(commands) if self.shell == "fish" else _bash(commands, self.shell == "zsh"))
        return 0


def _flags(command: Command) -> list[Flag]:
    """Returns the flags of a command, read from its help."""
    import tyro

    options: Any = getattr(importlib.import_module(command.module), command.options)
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        tyro.cli(options, args=["--help"], prog="vatjax", description="")
    flags = [Flag("--config", ()), Flag("--print-config", ())]
    for name, negation, choices in _FLAG.findall(text.getvalue()):
        flags.append(Flag(name, tuple(choices.split(",")) if choices else ()))
        flags += [Flag(negation, ())] * bool(negation)
        flags += [Flag(short, ()) for short, full in SHORT_OPTIONS.items() if full == name]
    return flags


def _bash(commands: dict[tuple[str, ...], list[Flag]], zsh: bool) -> str:
    """Returns a function for bash's `complete`; zsh reads it by its `bashcompinit`."""
    cases, values = [], []
    for words, flags in commands.items():
        cases.append(f'    "{" ".join(words)}") flags="{" ".join(flag.name for flag in flags)}" ;;')
        values += [
            f'    "{" ".join(words)} {flag.name}") COMPREPLY=($(compgen -W "{" ".join(flag.choices)}" -- "$word")); return ;;'
            for flag in flags
            if flag.choices
        ]
    first = " ".join(sorted({words[0] for words in commands}))
    families = sorted({words[0] for words in commands if len(words) > 1})
    second = [
        f'    "{family}") COMPREPLY=($(compgen -W "{" ".join(w[1] for w in commands if w[0] == family)}" -- "$word")); return ;;'
        for family in families
    ]
    return "\n".join(
        [
            *(["autoload -U +X bashcompinit && bashcompinit"] * zsh),
            "_vatjax() {",
            '  local word="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" command="${COMP_WORDS[1]}" flags=""',
            "  COMPREPLY=()",
            f'  if [ "$COMP_CWORD" -eq 1 ]; then COMPREPLY=($(compgen -W "{first} --help --version" -- "$word")); return; fi',
            '  if [ "$COMP_CWORD" -eq 2 ]; then',
            '    case "$command" in',
            *second,
            "    esac",
            "  fi",
            f'  case "$command" in {"|".join(families)}) command="$command ${{COMP_WORDS[2]}}" ;; esac',
            '  case "$command $previous" in',
            *values,
            "  esac",
            '  case "$command" in',
            *cases,
            "  esac",
            '  case "$word" in -*) COMPREPLY=($(compgen -W "$flags --help" -- "$word")) ;; esac',
            "}",
            "complete -o default -F _vatjax vatjax",
        ]
    )


def _fish(commands: dict[tuple[str, ...], list[Flag]]) -> str:
    about = {command.words: command.about.replace("'", "") for command in COMMANDS}
    lines = []
    for words, flags in commands.items():
        seen = f"__fish_seen_subcommand_from {words[0]}"
        if len(words) == 1:
            lines.append(f"complete -c vatjax -n __fish_use_subcommand -a {words[0]} -d '{about[words]}'")
        else:
            family = [each[1] for each in commands if each[0] == words[0]]
            lines.append(f"complete -c vatjax -n __fish_use_subcommand -a {words[0]}")
            missing = f"{seen}; and not __fish_seen_subcommand_from {' '.join(family)}"
            lines.append(f"complete -c vatjax -n '{missing}' -a {words[1]} -d '{about[words]}'")
            seen += f"; and __fish_seen_subcommand_from {words[1]}"
        for flag in flags:
            choices = f" -x -a '{' '.join(flag.choices)}'" if flag.choices else ""
            lines.append(f"complete -c vatjax -n '{seen}' -l {flag.name.removeprefix('--')}{choices}")
    return "\n".join(dict.fromkeys(lines))
