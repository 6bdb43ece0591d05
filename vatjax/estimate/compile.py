"""Compiles a study's largest programs, also for devices that are not attached: shows in advance if they fit."""

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

from vatjax import elicit, errors, models, prefix, train
from vatjax.estimate import accelerators
from vatjax.estimate.schedule import SIZE
from vatjax.interventions import TrainedIntervention
from vatjax.models import Model
from vatjax.runtime.memory import is_out_of_memory
from vatjax.study.design import Design
from vatjax.study.graph import cells
from vatjax.study.planning import load_items

HERE = "here"


class Program(NamedTuple):
    """One compiled program.

    Attributes:
        model: as the design names it.
        label: its purpose.
        held: bytes of its arguments on a device, mostly weights; 0 if it does not fit.
        working: further bytes on a device; 0 if it does not fit.
        seconds: compile time.
        why: the compiler's reason if it does not fit; else empty.
    """

    model: str
    label: str
    held: int
    working: int
    seconds: float
    why: str = ""


def topology_devices(name: str) -> Sequence[Any]:
    """Returns the devices of a slice that JAX can compile for from this machine.

    Args:
        name: such as v5e-256.

    Raises:
        InputError: if the name is not a TPU slice, or if JAX cannot compile for it.
    """
    tpu_slice = accelerators.parse_slice(name)
    if not tpu_slice.topology:
        raise errors.InputError(f"compile_only: expected a slice of TPUs such as v5e-256, or here; found {name!r}")
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # no metadata server: this machine is not a TPU
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # its lock guards a TPU; several processes may compile
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=tpu_slice.topology).devices)
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        hint = "" if importlib.util.find_spec("libtpu") else "; it needs libtpu: pip install libtpu"
        raise errors.InputError(
            f"compile_only: JAX can't compile for {tpu_slice.topology} here ({first}){hint}"
        ) from None


def compile_programs(
    design: Design, mesh: jax.sharding.Mesh | None, on_program: Callable[[Program], None] = lambda _: None
) -> list[Program]:
    """Compiles a rating of each model, and a step of each training, without its price, for one adapter.

    Programs that a study runs on several edits or adapters at once need more memory than these.

    Args:
        design: the study; no weights are read.
        mesh: of devices, attached or not; None for the first attached one.
        on_program: called with each compiled program.

    Raises:
        InputError: if the design cannot be run.
    """
    elsewhere = mesh is not None and not set(mesh.devices.flat) <= set(jax.devices())
    compiled_programs: list[Program] = []

    def compiled(model: str, label: str, lowered: Any) -> Any:
        program, executable = _compile(model, label, lowered)
        compiled_programs.append(program)
        on_program(program)
        return executable

    with _without_cache() if elsewhere else contextlib.nullcontext():
        _compile_all(design, mesh, SIZE if elsewhere else None, compiled)
    return compiled_programs


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """Disables the compilation cache: programs for devices that are not attached cannot be read back."""
    from jax.experimental.compilation_cache import compilation_cache

    before = bool(jax.config.values["jax_enable_compilation_cache"])
    jax.config.update("jax_enable_compilation_cache", False)  # type: ignore[no-untyped-call]
    compilation_cache.reset_cache()  # it caches the setting
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)  # type: ignore[no-untyped-call]
        compilation_cache.reset_cache()


def _compile_all(
    design: Design, mesh: jax.sharding.Mesh | None, size: prefix.Size | None, compiled: Callable[[str, str, Any], Any]
) -> None:
    items, test_items = load_items(design)
    tokenizer = models.stand_in_tokenizer(" ".join(text) for text in zip(items.scene, items.action, strict=True))
    for name in design.models:
        model = models.abstract_model(name, design.dtype, mesh, tokenizer, design.ignore, design.context)
        for wording in design.wordings():
            parts = elicit.plan_ratings(model, test_items, dataclasses.replace(design.how, wording=wording), size=size)
            prefix.compile_programs(model, parts, functools.partial(compiled, name))
        trained = {cell.name: cell for cell in reversed(cells(design, name, items))}
        for cell in reversed(trained.values()):
            if isinstance(cell.intervention, TrainedIntervention):
                compiled(name, f"a step of {cell.name}", _lower_step(model, cell.intervention.run(cell, design)))


def _lower_step(model: Model, run: train.Training) -> Any:
    """Lowers a step of a training."""
    _, data, _, loss = train.prepare_data(model, run)
    data = train.without_reference(data) if loss.reference else data
    state = train.abstract_state(model, run.trained.to_trainable(), run.adam, run.course.steps)
    first = train.batch(data, train.rows_at_step(data, 0, run.course.seed))
    return train.lower(state, first, loss, parts=run.course.parts, memory=run.memory)


def _compile(model: str, label: str, lowered: Any) -> tuple[Program, Any]:
    start = time.monotonic()
    try:
        executable = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        why = str(error).splitlines()[0].partition("RESOURCE_EXHAUSTED: ")[2]
        return Program(model, label, 0, 0, time.monotonic() - start, why), None
    used = executable.memory_analysis()
    held, working = int(used.argument_size_in_bytes), int(used.temp_size_in_bytes + used.output_size_in_bytes)
    working -= int(used.alias_size_in_bytes)  # donated buffers, which are overwritten
    return Program(model, label, held, working, time.monotonic() - start), executable
