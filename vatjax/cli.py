"""The command line: a thin face over the packages.

Messages go to standard error, data to standard output; `--json` puts one JSON document there and nothing else. A user's
mistake ends with one readable error and status 2. Nothing heavy is imported before a command is known.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn


@dataclasses.dataclass(frozen=True)
class Command:
    """A command: its words, its line in the help, and where its options (a dataclass with `run`) live."""

    words: tuple[str, ...]
    about: str
    module: str
    options: str


_COMMON = " --config FILE reads the options from YAML, flags go before it; --print-config shows what they come to."

COMMANDS = (
    Command(
        ("doctor",), "versions, devices, memory; what is missing and how to get it", "vatjax.commands.doctor", "Doctor"
    ),
    Command(
        ("items", "check"), "read items and say what is in them and what is wrong", "vatjax.commands.items", "Check"
    ),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits with its status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        status = 128 + signal.SIGINT
    sys.exit(status)


def _run(arguments: list[str]) -> int:
    from vatjax.errors import InputError

    try:
        command, rest = _command(arguments)
        if command is None:
            print(_help())
            return 0
        options = getattr(importlib.import_module(command.module), command.options)
        return _parsed(command, options, rest)
    except InputError as error:
        print(f"vatjax: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"vatjax: {place}{(error.strerror or str(error)).lower()}", file=sys.stderr)
        return 2


def _command(arguments: list[str]) -> tuple[Command | None, list[str]]:
    """The command that the first words name, and the arguments after them; None asks for help."""
    from vatjax.errors import InputError
    from vatjax.names import unknown

    if not arguments or arguments[0] in ("-h", "--help", "help"):
        return None, []
    if arguments[0] == "--version":
        _version()
    for command in COMMANDS:
        count = len(command.words)
        if tuple(arguments[:count]) == command.words:
            return command, arguments[count:]
    family = [command.words[1] for command in COMMANDS if command.words[0] == arguments[0]]
    if family:
        if len(arguments) == 1 or arguments[1] in ("-h", "--help"):
            raise InputError(f"{arguments[0]} needs one of: {', '.join(family)} (see vatjax --help)")
        raise InputError(unknown(f"{arguments[0]} command", arguments[1], family))
    known = [" ".join(command.words) for command in COMMANDS]
    raise InputError(f"{unknown('command', arguments[0], known)} (see vatjax --help)")


def _version() -> NoReturn:
    import vatjax

    print(f"vatjax {vatjax.__version__}")
    sys.exit(0)


def _help() -> str:
    width = max(len(" ".join(command.words)) for command in COMMANDS)
    lines = [f"  {' '.join(command.words):<{width}}  {command.about}" for command in COMMANDS]
    return "\n".join(
        [
            "usage: vatjax COMMAND [options]",
            "",
            "Measures what an alignment intervention costs a language model's other values.",
            "",
            *lines,
            "",
            "vatjax COMMAND --help lists a command's options; --version prints the version.",
        ]
    )


def _parsed(command: Command, options: Any, rest: list[str]) -> int:
    """Reads `--config FILE` first, lays the flags over it, and runs the command or prints what it would run with."""
    import tyro

    from vatjax import config

    rest, file = _taken(rest, "--config")
    rest, printing = _taken_flag(rest, "--print-config")
    default = config.read(options, file) if file is not None else options()
    chosen = tyro.cli(
        options,
        args=rest,
        default=default,
        prog=" ".join(("vatjax", *command.words)),
        description=" ".join((options.__doc__ or "").split()) + _COMMON,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    if printing:
        print(config.to_yaml(chosen), end="")
        return 0
    return int(chosen.run())


def _taken(arguments: list[str], flag: str) -> tuple[list[str], str | None]:
    """The arguments without `flag VALUE` or `flag=VALUE`, and the value."""
    from vatjax.errors import InputError

    for i, argument in enumerate(arguments):
        if argument == flag:
            if i + 1 == len(arguments):
                raise InputError(f"{flag} needs a file")
            return arguments[:i] + arguments[i + 2 :], arguments[i + 1]
        if argument.startswith(f"{flag}="):
            return arguments[:i] + arguments[i + 1 :], argument[len(flag) + 1 :]
    return arguments, None


def _taken_flag(arguments: list[str], flag: str) -> tuple[list[str], bool]:
    return [argument for argument in arguments if argument != flag], flag in arguments
