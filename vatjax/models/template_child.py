"""Renders chat templates in a process of its own, whose memory is limited; see `templates`. Run as a script.

A template is a program that came with the checkpoint. Each line of standard input is a request in JSON, each line of
standard output its answer.
"""

from __future__ import annotations

import json
import sys
from typing import Any

_MEMORY = 1 << 30  # bytes beyond those of the interpreter


def limit_memory() -> None:
    """Limits the address space, where the system can."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            present = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (present + _MEMORY, present + _MEMORY))
    except (ImportError, OSError, ValueError):
        return


def answer(render: Any, request: dict[str, Any]) -> dict[str, str]:
    """Renders one conversation; any error is a text."""
    try:
        ((text,), _) = render(
            conversations=[request["messages"]],
            chat_template=request["template"],
            add_generation_prompt=request["answering"],
            **request["options"],
        )
    except MemoryError:
        return {"error": "it takes more than 1 GB of memory"}
    except Exception as error:
        return {"error": " ".join(str(error).split())[:300] or type(error).__name__}
    if len(text) > request["most"]:
        return {"error": f"it makes {len(text):,} characters, and at most {request['most']:,} are read"}
    return {"text": text}


def main() -> None:
    """Answers requests until standard input ends."""
    from transformers.utils.chat_template_utils import render_jinja_template

    limit_memory()
    out = sys.stdout
    sys.stdout = sys.stderr  # whatever prints must not break the protocol
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(render_jinja_template, json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main()
