"""A study's largest programs, compiled for devices that need not be here: whether they fit is known before these are paid for."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from vatjax import elicit, errors, hardware, models, train
from vatjax.models import Model
from vatjax.study.arms import cells
from vatjax.study.design import Design
from vatjax.study.planned import opened
from vatjax.study.scaling import SIZE

HERE = "here"


class Program(NamedTuple):
    """One compiled program.

    Attributes:
        model: as the design names it.
        label: what it does.
        held: bytes on a device of what goes into it, weights first of all; 0 where it does not fit.
        working: bytes on a device beside them; 0 where it does not fit.
        seconds: that compiling took.
        why: why it does not fit, in the compiler's words; empty where it does.
    """

    model: str
    label: str
    held: int
    working: int
    seconds: float
    why: str = ""


def devices(name: str) -> Sequence[Any]:
    """The devices of a slice that JAX can compile for from here.

    Args:
        name: such as v5e-256.

    Raises:
        InputError: for what is no TPU slice, and where JAX lacks what it needs to compile for one.
    """
    found = hardware.named(name)
    if not found.topology:
        raise errors.InputError(f"compile_only: expected a slice of TPUs such as v5e-256, or here; found {name!r}")
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # nothing is asked of a machine that is none
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # its lock is on a TPU, and several may compile at a time
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=found.topology).devices)
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        hint = "" if importlib.util.find_spec("libtpu") else "; it needs libtpu: pip install libtpu"
        raise errors.InputError(f"compile_only: JAX can't compile for {found.topology} here ({first}){hint}") from None


def programs(
    design: Design, mesh: jax.sharding.Mesh | None, done: Callable[[Program], None] = lambda _: None
) -> list[Program]:
    """Compiles a rating of each model, and a step of each training, without its price, for one adapter.

    What a study computes of several edits or adapters at one time takes more than these.

    Args:
        design: the study; no weights are read.
        mesh: of devices that need not be here; None for the first one that is.
        done: is told of each program.

    Raises:
        InputError: for a design that can't be carried out.
    """
    elsewhere = mesh is not None and not set(mesh.devices.flat) <= set(jax.devices())
    found: list[Program] = []

    def compiled(model: str, label: str, lowered: Any) -> Any:
        program, made = _compiled(model, label, lowered)
        found.append(program)
        done(program)
        return made

    with _uncached() if elsewhere else contextlib.nullcontext():
        _every(design, mesh, SIZE if elsewhere else None, compiled)
    return found


@contextlib.contextmanager
def _uncached() -> Iterator[None]:
    """What is compiled for devices that are not here can't be read back here."""
    from jax.experimental.compilation_cache import compilation_cache

    before = bool(jax.config.values["jax_enable_compilation_cache"])
    jax.config.update("jax_enable_compilation_cache", False)  # type: ignore[no-untyped-call]
    compilation_cache.reset_cache()  # it remembers whether it is wanted
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)  # type: ignore[no-untyped-call]
        compilation_cache.reset_cache()


def _every(
    design: Design, mesh: jax.sharding.Mesh | None, size: elicit.Size | None, compiled: Callable[[str, str, Any], Any]
) -> None:
    items, asked = opened(design)
    words = models.stand_in(" ".join(own) for own in zip(items.scene, items.action, strict=True))
    for name in design.models:
        model = models.outline(name, design.dtype, mesh, words, design.ignore, design.context)
        for wording in design.wordings():
            parts = elicit.layout(model, asked, dataclasses.replace(design.how, wording=wording), size=size)
            elicit.programs(model, parts, functools.partial(compiled, name))
        trained = {cell.name: cell for cell in reversed(cells(design, name, items)) if cell.what.trains}
        for cell in reversed(trained.values()):
            compiled(name, f"a step of {cell.name}", _step(model, cell.training(design)))


def _step(model: Model, run: train.Training) -> Any:
    """A step of a training, lowered."""
    _, data, _, loss = train.laid(model, run)
    data = train.without_reference(data) if loss.reference else data
    state = train.outlined(model, run.trained.choice(), run.adam, run.course.steps)
    first = train.batch(data, train.at(data, 0, run.course.seed))
    return train.lowered(state, first, loss, parts=run.course.parts, memory=run.memory)


def _compiled(model: str, label: str, lowered: Any) -> tuple[Program, Any]:
    start = time.monotonic()
    try:
        made = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        why = str(error).splitlines()[0].partition("RESOURCE_EXHAUSTED: ")[2]
        return Program(model, label, 0, 0, time.monotonic() - start, why), None
    used = made.memory_analysis()
    held, working = int(used.argument_size_in_bytes), int(used.temp_size_in_bytes + used.output_size_in_bytes)
    working -= int(used.alias_size_in_bytes)  # what is given away and written over
    return Program(model, label, held, working, time.monotonic() - start), made
