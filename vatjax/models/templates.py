"""Chat templates of strangers: rendered in a child process with limits of memory, time and output."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import pathlib
import select
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from vatjax import errors

_SECONDS, _START_SECONDS = 5.0, 120.0
# Characters that a template may add to its messages, and how often it may repeat them.
_MOST_ADDED, _MOST_REPEATED = 200_000, 20


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    answering: bool,
    options: Mapping[str, Any],
    trusted: bool = False,
) -> str:
    """Renders messages as `transformers` does.

    Args:
        template: of the tokenizer.
        messages: each with `role` and `content`.
        answering: whether the text ends where an answer begins.
        options: what the template may read besides: special tokens, and options such as `enable_thinking`.
        trusted: True to render in this process, without limits.

    Raises:
        InputError: if the template refuses the messages, fails, or exceeds a limit.
    """
    given = sum(len(message.get("content") or "") for message in messages)
    request = {
        "template": template,
        "messages": [dict(message) for message in messages],
        "answering": answering,
        "options": dict(options),
        "most": _MOST_ADDED + _MOST_REPEATED * given,
    }
    if trusted:
        from transformers.utils.chat_template_utils import render_jinja_template

        from vatjax.models import template_child

        answer = template_child.answer(render_jinja_template, request)
    else:
        answer = _child(os.getpid()).ask(request)
    if "text" not in answer:
        raise errors.InputError(f"the chat template does not take these messages: {answer['error']}")
    return answer["text"]


@functools.cache
def _child(process: int) -> _Child:
    """Returns this process's child; one that was forked gets its own."""
    del process
    return _Child()


class _Child:
    """The child process, started when it is first needed, and again after one that exceeded a limit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.stop)

    def ask(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Sends a request, and returns the answer; the child is stopped if there is none in time."""
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", str(pathlib.Path(__file__).with_name("template_child.py"))],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env={key: value for key, value in os.environ.items() if "TOKEN" not in key and "KEY" not in key},
                )
                if not self._read(_START_SECONDS):
                    self.stop()
                    raise errors.InputError("the process that renders chat templates did not start")
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
                self._process.stdin.flush()
            line = self._read(_SECONDS)
            if line:
                answer: dict[str, str] = json.loads(line)
                return answer
            ended = self._process.poll() is not None
            self.stop()
            return {"error": "it takes more than 1 GB of memory" if ended else f"it takes longer than {_SECONDS:g} s"}

    def _read(self, seconds: float) -> bytes:
        """Returns the next line of the child; empty after so many seconds, or if the child has ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        return self._process.stdout.readline() if ready else b""

    def stop(self) -> None:
        """Ends the child."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
