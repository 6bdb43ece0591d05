"""The collectives of a compiled program, read from its own text."""

import re

_LINE = re.compile(r" = (.*?) (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(?:-start)?\(")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")


def collectives(compiled):
    """(kind, dtype, shape) of everything that devices exchange."""
    found = []
    for line in compiled.as_text().splitlines():
        if match := _LINE.search(line):
            for dtype, shape in _SHAPE.findall(match[1]):
                found.append((match[2], dtype, tuple(int(n) for n in shape.split(",") if n)))
    return found


def of_all_rows(found, rows, time):
    """Those of numbers that are as large as all rows with all of their tokens; tokens themselves are whole numbers."""
    return [
        one
        for one in found
        if one[1].startswith(("f", "bf")) and (one[2][:2] == (rows, time) or rows * time in one[2][:2])
    ]
