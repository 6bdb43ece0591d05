"""Command line: a thin layer over the packages.

Messages go to standard error, data to standard output; `--json` puts one JSON document there and nothing else. A user's
mistake ends with one readable error and status 2. Nothing heavy is imported before a command is known.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from vatjax.commands.catalog import COMMANDS, SHORT_OPTIONS, Command

_COMMON = (
    " Two more: --config FILE reads the options from YAML, and flags override the file; "
    "--print-config prints the resolved options and stops."
)

_LONGEST_MESSAGE = 10_000

_FIRST = " The first argument may be a configuration: vatjax {} FILE.yaml."


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits with its status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names in any script must not end a run on a plain terminal
            stream.reconfigure(errors="backslashreplace")
    set_environment_defaults()
    from vatjax.runtime import peer_failure
    from vatjax.runtime.preemption import PREEMPTED

    if sys.stdout is None and arguments is None:
        sys.exit(_refuse("standard output is closed; redirect it, if only to /dev/null"))
    try:
        status = _run(list(sys.argv[1:] if arguments is None else arguments))
    except SystemExit as stop:
        if arguments is None and stop.code == PREEMPTED and not peer_failure.has_peers():
            peer_failure.exit_now(PREEMPTED)  # the interpreter's own end takes a second
        raise
    if arguments is None:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(status))  # the work is done
    if status > 1 and peer_failure.has_peers():
        peer_failure.exit_now(status)
    sys.exit(status)


def set_environment_defaults() -> None:
    """Sets default environment variables that packages read when they are imported later.

    A command's second run reuses the compiled functions of its first. `transformers`, which only reads tokenizers here,
    prints no advice to install torch.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(cache, "vatjax", "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def _run(arguments: list[str]) -> int:
    from vatjax.errors import InputError
    from vatjax.runtime import peer_failure
    from vatjax.runtime.preemption import Stopped

    try:
        status = _dispatch(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a full disk can still be reported
        return status
    except InputError as error:
        return _refuse(str(error))
    except BrokenPipeError:  # the reader of our output closed the pipe
        _drop_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        _drop_output()
        place = f"{error.filename}: " if error.filename else ""
        return _refuse(f"{place}{(error.strerror or str(error)).lower()}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "vatjax":
            raise
        return _refuse(f"the package {error.name} is not installed: pip install {error.name}")
    except Stopped as stop:
        print(f"stopped by {stop}: the same command continues from here", file=sys.stderr)
        sys.exit(stop.status)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        if peer_failure.has_peers():
            peer_failure.exit_after_error(error)
        raise


def _refuse(message: str) -> int:
    from vatjax import store
    from vatjax.names import printable

    # `cluster.start` silences the standard error of every process but the first.
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[:_LONGEST_MESSAGE]}... ({len(message):,} characters)"
    print(f"vatjax: {printable(message)}", file=sys.stderr if store.writes_enabled() else sys.__stderr__)
    return 2


def _drop_output() -> None:
    """Redirects standard output to the null device: the interpreter must not retry failed writes at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(arguments: list[str]) -> int:
    command, rest = _command(arguments)
    if command is None:
        print(_help(*rest))
        return 0
    from vatjax.runtime import preemption

    with preemption.handle_stop_signals() if command.resumes else contextlib.nullcontext():
        return _parse_and_run(command, getattr(importlib.import_module(command.module), command.options), rest)


def _command(arguments: list[str]) -> tuple[Command | None, list[str]]:
    """Returns the command that the first words name, and the other arguments; None asks for help (a family or all)."""
    from vatjax.errors import InputError
    from vatjax.names import unknown_name

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
        if arguments[1:2] in (["-h"], ["--help"]):
            return None, arguments[:1]
        if len(arguments) == 1:
            raise InputError(f"{arguments[0]} needs one of: {', '.join(family)} (see vatjax {arguments[0]} --help)")
        raise InputError(unknown_name(f"{arguments[0]} command", arguments[1], family))
    known = [" ".join(command.words) for command in COMMANDS]
    raise InputError(f"{unknown_name('command', arguments[0], known)} (see vatjax --help)")


def _version() -> NoReturn:
    import vatjax

    print(f"vatjax {vatjax.__version__}")
    sys.exit(0)


def _help(family: str = "") -> str:
    shown = [command for command in COMMANDS if not family or command.words[0] == family]
    width = max(len(" ".join(command.words)) for command in shown)
    lines = [f"  {' '.join(command.words):<{width}}  {command.about}" for command in shown]
    return "\n".join(
        [
            f"usage: vatjax {f'{family} ' * bool(family)}COMMAND [options]",
            "",
            "Measures what an alignment intervention costs a language model's other values.",
            "",
            *lines,
            "",
            "vatjax COMMAND --help lists a command's options; --version prints the version.",
        ]
    )


def _parse_and_run(command: Command, options: Any, rest: list[str]) -> int:
    """Reads `--config FILE`, overrides it with the flags, and runs the command or prints the resolved options."""
    import tyro

    from vatjax import config
    from vatjax.commands.devices import Devices
    from vatjax.runtime import cluster

    if command.file and rest and not rest[0].startswith("-"):
        rest = ["--config", *rest]
    rest, file = _pop_option(rest, "--config")
    rest, printing = _pop_flag(rest, "--print-config")
    for short, full in SHORT_OPTIONS.items():
        rest = [re.sub(rf"^{short}(?=$|=)", full, word) for word in rest]
    rest = [word for argument in rest for word in _expand_no_chat(argument)]
    rest, nested = _pop_settings(rest, "--interventions.")
    given: dict[str, Any] = {} if file is None else {"default": config.read(options, file, absent=tyro.MISSING)}
    if nested:
        given["default"] = _with_interventions(given.get("default"), nested)
    chosen = tyro.cli(
        options,
        args=rest,
        prog=" ".join(("vatjax", *command.words)),
        description=_description(command, options),
        **given,
    )
    if printing:
        print(config.to_yaml(chosen), end="")
        return 0
    if isinstance(chosen, Devices):
        cluster.start(chosen.cluster())
    return int(chosen.run())


def _description(command: Command, options: Any) -> str:
    about = " ".join((options.__doc__ or "").split())
    first = _FIRST.format(*command.words) if command.file else ""
    first += options.more_help() if hasattr(options, "more_help") else ""
    return "\n  ".join([f"{about}{first}{_COMMON}\n\nExamples:", *command.examples])


def _pop_option(arguments: list[str], flag: str) -> tuple[list[str], str | None]:
    """Returns the arguments without `flag VALUE` or `flag=VALUE`, and the value."""
    from vatjax.errors import InputError

    for i, argument in enumerate(arguments):
        if argument == flag:
            if i + 1 == len(arguments):
                raise InputError(f"{flag} needs a file")
            rest, value = arguments[:i] + arguments[i + 2 :], arguments[i + 1]
        elif argument.startswith(f"{flag}="):
            rest, value = arguments[:i] + arguments[i + 1 :], argument[len(flag) + 1 :]
        else:
            continue
        if any(other == flag or other.startswith(f"{flag}=") for other in rest):
            raise InputError(f"{flag} is given twice")
        return rest, value
    return arguments, None


def _expand_no_chat(argument: str) -> list[str]:
    """Returns `--chat False` for `--no-chat`, and likewise for settings such as `--how.no-chat`."""
    match = re.fullmatch(r"--((?:[\w-]+\.)*)no-chat", argument)
    return [f"--{match[1]}chat", "False"] if match else [argument]


def _pop_settings(arguments: list[str], prefix: str) -> tuple[list[str], dict[str, dict[str, list[str]]]]:
    """Returns the arguments without flags such as `--interventions.NAME.KEY WORD ...`, and their words by name and key."""
    from vatjax.errors import InputError

    rest: list[str] = []
    settings: dict[str, dict[str, list[str]]] = {}
    words: list[str] | None = None
    for argument in arguments:
        if argument.startswith(prefix):
            flag, _, value = argument.partition("=")
            name, _, key = flag.removeprefix(prefix).partition(".")
            if not key:
                raise InputError(f"{flag}: expected {prefix}NAME.SETTING")
            words = settings.setdefault(name, {}).setdefault(key.replace("-", "_"), [value] * bool(value))
        elif argument.startswith("--"):
            words = None
            rest.append(argument)
        else:
            (rest if words is None else words).append(argument)
    return rest, settings


def _with_interventions(chosen: Any, settings: dict[str, dict[str, list[str]]]) -> Any:
    """Returns a study with settings of its interventions replaced."""
    from vatjax import config
    from vatjax.errors import InputError
    from vatjax.names import unknown_name

    present = dict(getattr(chosen, "interventions", {}))
    for name, changes in settings.items():
        if name not in present:
            raise InputError(f"--interventions: {unknown_name('intervention', name, list(present))}")
        present[name] = config.with_settings(present[name], changes, f"--interventions.{name}")
    return dataclasses.replace(chosen, interventions=present)


def _pop_flag(arguments: list[str], flag: str) -> tuple[list[str], bool]:
    return [argument for argument in arguments if argument != flag], flag in arguments
