"""Sharding of a model over a mesh of devices: one table from logical axes to the axes of the mesh.

    data      whole copies of the model, each with its share of the texts
    fsdp      weights in slices that are gathered when they are used; texts are shared out over it as well
    tensor    heads, the MLP's inner width and the vocabulary in slices that stay where they are

Weights and texts are placed, and compiled functions constrain the residual stream, the heads and the MLP's inner
activations (`constrain`): by itself XLA gathers texts where it should gather weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vatjax import errors
from vatjax.models import weights as weights
from vatjax.runtime import processes

Array = jax.Array

AXES = ("data", "fsdp", "tensor")

# Logical axes of parameters and texts. A norm's width is not cut: it is small, and every device needs all of it.
RULES: Mapping[str, Any] = {
    "vocabulary": "tensor",
    "heads": "tensor",
    "hidden": "tensor",
    "width": "fsdp",
    "head": None,
    "text": ("data", "fsdp"),
}


def mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """Returns a mesh of all devices over the three axes; one of the sizes may be -1 for the remaining devices.

    Raises:
        InputError: if the sizes don't make up the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = [data, fsdp, tensor]
    if sizes.count(-1) == 1:
        rest = int(np.prod([size for size in sizes if size != -1]))
        sizes[sizes.index(-1)] = len(devices) // rest if rest > 0 else 0
    if min(sizes) < 1 or int(np.prod(sizes)) != len(devices):
        shape = ", ".join(f"{name}={size}" for name, size in zip(AXES, (data, fsdp, tensor), strict=True))
        raise errors.InputError(f"mesh: {shape} does not make up {len(devices)} devices; one size may be -1")
    types = (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(sizes), AXES, axis_types=types, devices=devices)


def partition(*cut: Any) -> PartitionSpec:
    """Returns a placement by axes of the mesh."""
    placement: PartitionSpec = PartitionSpec(*cut)  # type: ignore[no-untyped-call]
    return placement


def parameter_spec(parameter: weights.Parameter, mesh: jax.sharding.Mesh) -> PartitionSpec:
    """Returns the placement of a parameter's axes, without its layer axis.

    An axis that can't be cut evenly, or between heads, is not cut.
    """
    if len(parameter.shape) == 1 and parameter.axes == ("width",):
        return partition(None)
    cut = []
    for length, axis in zip(parameter.shape, parameter.axes, strict=True):
        name = RULES[axis]
        parts = parameter.heads if axis == "heads" else length
        cut.append(name if name is not None and parts % mesh.shape[name] == 0 else None)
    return partition(*cut)


def parameter_shardings(parameter: weights.Parameter, mesh: jax.sharding.Mesh | None) -> tuple[Any, Any]:
    """Returns the placement of one layer's parameter, and of the stacked one."""
    if mesh is None:
        single = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return single, single
    cut = parameter_spec(parameter, mesh)
    return NamedSharding(mesh, cut), NamedSharding(mesh, partition(None, *cut) if parameter.stacked else cut)


def constrain(x: Array, mesh: jax.sharding.Mesh | None, *axes: str | None) -> Array:
    """Shards an array by logical axes, inside a compiled function.

    Args:
        x: the array.
        mesh: of the weights; None leaves the array as it is.
        axes: the logical name of each axis; None for one that every device holds whole. An axis that can't be cut
            evenly is left to the compiler.
    """
    if mesh is None:
        return x
    cut: list[Any] = []
    for length, axis in zip(x.shape, axes, strict=True):
        rule = None if axis is None else RULES[axis]
        names = (rule,) if isinstance(rule, str) else rule or ()
        parts = int(np.prod([mesh.shape[name] for name in names]))
        cut.append(rule if length % parts == 0 else PartitionSpec.UNCONSTRAINED)
    constrained: Array = jax.lax.with_sharding_constraint(x, NamedSharding(mesh, partition(*cut)))  # type: ignore[no-untyped-call]
    return constrained


def look_up_embeddings(table: Array, tokens: Array, mesh: jax.sharding.Mesh | None) -> Array:
    """Looks up rows of an embedding, [batch, time, width]; a token outside the table becomes NaN, and not another row.

    On a mesh the table stays cut by vocabulary and width. Each device looks up the tokens of all texts of its slice in
    its own part, and the parts of a text are exchanged: the traffic has the size of the texts, not that of the table.

    Args:
        table: [vocabulary, width].
        tokens: [batch, time] int32.
        mesh: of the weights.
    """
    vocabulary, width = table.shape

    def looked_up(part: Array, ids: Array) -> Array:
        vectors: Array = part.at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        return vectors

    if mesh is None:
        return looked_up(table, tokens)
    sizes = mesh.shape
    even = vocabulary % sizes["tensor"] == width % sizes["fsdp"] == 0
    if not even or tokens.shape[0] % devices_of_rows(mesh):
        return looked_up(table, tokens)

    def look_up_part(part: Array, ids: Array) -> Any:
        every = jax.lax.all_gather(ids, "fsdp", axis=0, tiled=True) if sizes["fsdp"] > 1 else ids
        place = every - jax.lax.axis_index("tensor") * part.shape[0]
        here = (place >= 0) & (place < part.shape[0])
        vectors = jnp.where(here[..., None], part[jnp.where(here, place, 0)], 0)
        vectors = jax.lax.psum(vectors, "tensor") if sizes["tensor"] > 1 else vectors  # type: ignore[no-untyped-call]
        vectors = jnp.where(((every >= 0) & (every < vocabulary))[..., None], vectors, jnp.nan)
        if sizes["fsdp"] == 1:
            return vectors
        return jax.lax.all_to_all(vectors, "fsdp", split_axis=0, concat_axis=2, tiled=True)  # type: ignore[no-untyped-call]

    cut = partition(RULES["vocabulary"], RULES["width"]), partition(RULES["text"], None)
    mapped = jax.shard_map(
        look_up_part, mesh=mesh, in_specs=cut, out_specs=partition(RULES["text"], None, None), check_vma=False
    )
    rows: Array = mapped(table, tokens)
    return rows


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Returns the placement of the rows of a batch."""
    return NamedSharding(mesh, partition(RULES["text"]))


def shard_batch(batch: Any, arrays: Any) -> Any:
    """Shards the rows of a batch over the mesh that weights lie on; leaves them as they are for one device.

    Raises:
        InputError: if they can't be shared out evenly.
    """
    weight_mesh = mesh_of(arrays)
    if weight_mesh is None:
        return batch
    _check_even(batch, arrays)
    return processes.put(batch, batch_sharding(weight_mesh))


def pad_and_shard_batch(batch: Any, mesh: jax.sharding.Mesh | None) -> Any:
    """Shards the rows of a batch over a mesh, repeating the last row until they divide evenly.

    The batch is unchanged for one device, and inside a compiled function.
    """
    leaves = jax.tree.leaves(batch)
    if mesh is None or any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return batch
    more = -leaves[0].shape[0] % devices_of_rows(mesh)
    if more:
        batch = jax.tree.map(lambda x: jnp.concatenate([x, jnp.repeat(x[-1:], more, axis=0)]), batch)
    return processes.put(batch, batch_sharding(mesh))


def sharded_shapes(batch: Any, arrays: Any) -> Any:
    """Returns the shapes that `shard_batch` would give; the weights may be shapes themselves."""
    weight_mesh = mesh_of(arrays)
    _check_even(batch, arrays)
    placement = jax.tree.leaves(arrays)[0].sharding if weight_mesh is None else batch_sharding(weight_mesh)
    return jax.tree.map(lambda x: shape_of(x, placement), batch)


def shape_of(x: Any, placement: Any) -> jax.ShapeDtypeStruct:
    """Returns an array's shape and type, with a placement."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement)  # type: ignore[no-untyped-call]


def _check_even(batch: Any, arrays: Any) -> None:
    rows, share = jax.tree.leaves(batch)[0].shape[0], count_batch_shards(arrays)
    if rows % share:
        raise errors.InputError(f"{rows} rows can't be shared out over {share} devices; expected a multiple of {share}")


def count_batch_shards(arrays: Any) -> int:
    """Returns the number of devices that share the rows of a batch; 1 if weights lie on one device."""
    return devices_of_rows(mesh_of(arrays))


def devices_of_rows(mesh: jax.sharding.Mesh | None) -> int:
    """Returns the number of devices over which a mesh divides the rows of a batch."""
    return 1 if mesh is None else int(np.prod([mesh.shape[axis] for axis in RULES["text"]]))


def row_shares(mesh: jax.sharding.Mesh | None, rows: int) -> int:
    """Returns the number of devices that share so many rows; 1 if they can't be shared out evenly."""
    share = devices_of_rows(mesh)
    return share if rows % share == 0 else 1


def mesh_of(arrays: Any) -> jax.sharding.Mesh | None:
    """Returns the mesh that weights lie on; None for one device."""
    for leaf in jax.tree.leaves(arrays):
        if isinstance(leaf.sharding, NamedSharding) and isinstance(leaf.sharding.mesh, jax.sharding.Mesh):
            return leaf.sharding.mesh
    return None
