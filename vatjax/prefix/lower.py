"""Compiles the programs of a rating from shapes alone, for devices that need not be present."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from vatjax.models import Model, sharding
from vatjax.prefix import execute
from vatjax.prefix.execute import Part
from vatjax.prefix.packed_attention import Rows
from vatjax.prefix.packing import Pass

Compile = Callable[[str, Any], Any]


def compile_programs(model: Model, parts: Sequence[Part], compile_program: Compile) -> None:
    """Compiles the programs that a rating runs: one for the trunk, passes of both sizes, and the answers.

    Args:
        model: may be abstract.
        parts: of `plan_ratings`.
        compile_program: is called with each program's name and the lowered program; returns it compiled, or None if it
            does not fit: programs that take its results are then left out.
    """
    seen = set()
    for part in parts:
        shapes = part.plan.shapes
        token_count = len({token for spelling in part.spellings for token in spelling.tokens})
        if (shapes, token_count) in seen:
            continue
        seen.add((shapes, token_count))
        scalar, tokens = _shape((), np.int32), _shape((shapes.trunk,), np.int32)
        given = (model, tokens, scalar, None)
        sizes = (shapes.store, shapes.answers)
        begun = compile_program(f"the first {shapes.trunk} tokens", execute.init_buffers.lower(*given, *sizes))
        if begun is None:
            continue
        trunk, store, read = jax.tree.map(
            sharding.shape_of,
            jax.eval_shape(functools.partial(execute.init_buffers, places=sizes[0], answers=sizes[1]), *given),
            begun.output_shardings,
        )
        for rows in dict.fromkeys((shapes.many, shapes.few)):
            pass_shapes = _pass(rows, shapes.time, shapes.path, model)
            lowered = execute.run_pass.lower(model, trunk, store, read, pass_shapes.rows, pass_shapes.answers, None)
            compile_program(f"a pass of {rows} x {shapes.time} tokens", lowered)
        compile_program("the answers", execute.token_log_probs.lower(model, read, _shape((token_count,), np.int32)))


def _pass(rows: int, time: int, path: int, model: Model) -> Pass:
    """Returns the arrays of a pass as shapes."""
    whole, seen = np.int32, np.bool_
    tokens, sees_row = _shape((rows, time), whole), _shape((rows, time, time), seen)
    looked, sees_path = _shape((rows, path), whole), _shape((rows, time, path), seen)
    row_arrays = Rows(tokens, tokens, looked, sees_path, sees_row, tokens, _shape((rows, time), np.int8))
    shapes: Pass = sharding.sharded_shapes(Pass(row_arrays, tokens), model.arrays)
    return shapes


def _shape(shape: tuple[int, ...], dtype: Any) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]
