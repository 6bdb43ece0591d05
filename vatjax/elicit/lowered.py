"""The programs of a rating, compiled for devices that need not be here, from shapes alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from vatjax.elicit import running
from vatjax.elicit.passes import Pass
from vatjax.elicit.running import Part
from vatjax.models import Model, sharding
from vatjax.models.packed import Rows

Compile = Callable[[str, Any], Any]


def programs(model: Model, parts: Sequence[Part], compiled: Compile) -> None:
    """What a rating runs: the beginning that all prompts share, passes of both sizes, and the answers.

    Args:
        model: may be an outline.
        parts: of `layout`.
        compiled: is given each program's name and the program, lowered, and gives it back compiled; None where it does not
            fit, and what takes its results is left out.
    """
    done = set()
    for part in parts:
        shapes = part.plan.shapes
        wanted = len({token for option in part.options for token in option.tokens})
        if (shapes, wanted) in done:
            continue
        done.add((shapes, wanted))
        scalar, tokens = _shape((), np.int32), _shape((shapes.trunk,), np.int32)
        given = (model, tokens, scalar, None)
        sizes = (shapes.store, shapes.answers)
        begun = compiled(f"the first {shapes.trunk} tokens", running.begin.lower(*given, *sizes))
        if begun is None:
            continue
        trunk, store, read = jax.tree.map(
            sharding.shape_of,
            jax.eval_shape(functools.partial(running.begin, places=sizes[0], answers=sizes[1]), *given),
            begun.output_shardings,
        )
        for rows in dict.fromkeys((shapes.many, shapes.few)):
            one = _pass(rows, shapes.time, shapes.path, model)
            lowered = running.advance.lower(model, trunk, store, read, one.rows, one.answers, None)
            compiled(f"a pass of {rows} x {shapes.time} tokens", lowered)
        compiled("the answers", running.answers.lower(model, read, _shape((wanted,), np.int32)))


def _pass(rows: int, time: int, path: int, model: Model) -> Pass:
    """The arrays of a pass, as shapes."""
    whole, seen = np.int32, np.bool_
    tokens, sees_row = _shape((rows, time), whole), _shape((rows, time, time), seen)
    looked, sees_path = _shape((rows, path), whole), _shape((rows, time, path), seen)
    one = Rows(tokens, tokens, looked, sees_path, sees_row, tokens, _shape((rows, time), np.int8))
    made: Pass = sharding.shared_shapes(Pass(one, tokens), model.arrays)
    return made


def _shape(shape: tuple[int, ...], dtype: Any) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]
