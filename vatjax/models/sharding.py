"""How a model lies on a mesh of devices: one table from the names of axes to the axes of the mesh.

    data      whole copies of the model, each with its share of the texts
    fsdp      weights in slices that are gathered when they are used; texts are shared out over it as well
    tensor    heads, the MLP's inner width and the vocabulary in slices that stay where they are

Weights and texts are placed, and compiled functions constrain the residual stream, the heads and the MLP's inner activations
(`constrain`): what XLA derives by itself gathers texts where it should gather weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vatjax import errors
from vatjax.models import hosts
from vatjax.models import weights as wt

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
    """A mesh of all devices over the three axes; one of the sizes may be -1, which takes what is left.

    Raises:
        InputError: where the sizes don't make up the number of devices.
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
    """A placement by axes of the mesh."""
    found: PartitionSpec = PartitionSpec(*cut)  # type: ignore[no-untyped-call]
    return found


def spec(parameter: wt.Parameter, mesh: jax.sharding.Mesh) -> PartitionSpec:
    """Where the axes of a parameter go, without its layer axis; an axis that can't be cut evenly, or between heads, is not
    cut."""
    if len(parameter.shape) == 1 and parameter.axes == ("width",):
        return partition(None)
    cut = []
    for length, axis in zip(parameter.shape, parameter.axes, strict=True):
        name = RULES[axis]
        parts = parameter.heads if axis == "heads" else length
        cut.append(name if name is not None and parts % mesh.shape[name] == 0 else None)
    return partition(*cut)


def of(parameter: wt.Parameter, mesh: jax.sharding.Mesh | None) -> tuple[Any, Any]:
    """The placement of one layer's parameter, and of the stacked one."""
    if mesh is None:
        one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return one, one
    cut = spec(parameter, mesh)
    return NamedSharding(mesh, cut), NamedSharding(mesh, partition(None, *cut) if parameter.stacked else cut)


def constrain(x: Array, mesh: jax.sharding.Mesh | None, *axes: str | None) -> Array:
    """Cuts an array by logical axes, inside of a compiled function.

    Args:
        x: the array.
        mesh: of the weights; None leaves the array as it is.
        axes: the logical name of each axis; None for one that every device holds whole. An axis that can't be cut evenly is
            left to the compiler.
    """
    if mesh is None:
        return x
    cut: list[Any] = []
    for length, axis in zip(x.shape, axes, strict=True):
        rule = None if axis is None else RULES[axis]
        names = (rule,) if isinstance(rule, str) else rule or ()
        parts = int(np.prod([mesh.shape[name] for name in names]))
        cut.append(rule if length % parts == 0 else PartitionSpec.UNCONSTRAINED)
    found: Array = jax.lax.with_sharding_constraint(x, NamedSharding(mesh, partition(*cut)))  # type: ignore[no-untyped-call]
    return found


def rows_of_table(table: Array, tokens: Array, mesh: jax.sharding.Mesh | None) -> Array:
    """Rows of an embedding, [batch, time, width]; a token that the table does not have becomes NaN, and not another row.

    On a mesh the table stays cut by vocabulary and width. Each device looks up the tokens of all texts of its slice in its own
    part, and the parts of a text are exchanged: what moves is the size of the texts, and not that of the table.

    Args:
        table: [vocabulary, width].
        tokens: [batch, time] int32.
        mesh: of the weights.
    """
    vocabulary, width = table.shape

    def looked_up(part: Array, own: Array) -> Array:
        found: Array = part.at[own].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        return found

    if mesh is None:
        return looked_up(table, tokens)
    sizes = mesh.shape
    even = vocabulary % sizes["tensor"] == width % sizes["fsdp"] == 0
    if not even or tokens.shape[0] % devices_of_rows(mesh):
        return looked_up(table, tokens)

    def one(part: Array, own: Array) -> Any:
        every = jax.lax.all_gather(own, "fsdp", axis=0, tiled=True) if sizes["fsdp"] > 1 else own
        place = every - jax.lax.axis_index("tensor") * part.shape[0]
        here = (place >= 0) & (place < part.shape[0])
        found = jnp.where(here[..., None], part[jnp.where(here, place, 0)], 0)
        found = jax.lax.psum(found, "tensor") if sizes["tensor"] > 1 else found  # type: ignore[no-untyped-call]
        found = jnp.where(((every >= 0) & (every < vocabulary))[..., None], found, jnp.nan)
        if sizes["fsdp"] == 1:
            return found
        return jax.lax.all_to_all(found, "fsdp", split_axis=0, concat_axis=2, tiled=True)  # type: ignore[no-untyped-call]

    cut = partition(RULES["vocabulary"], RULES["width"]), partition(RULES["text"], None)
    mapped = jax.shard_map(
        one, mesh=mesh, in_specs=cut, out_specs=partition(RULES["text"], None, None), check_vma=False
    )
    rows: Array = mapped(table, tokens)
    return rows


def texts(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Where the rows of a batch go."""
    return NamedSharding(mesh, partition(RULES["text"]))


def shared(batch: Any, arrays: Any) -> Any:
    """The rows of a batch shared out over the mesh that weights lie on; as they are for one device.

    Raises:
        InputError: where they can't be shared out evenly.
    """
    found = mesh_of(arrays)
    if found is None:
        return batch
    _check_even(batch, arrays)
    return hosts.put(batch, texts(found))


def filled(batch: Any, mesh: jax.sharding.Mesh | None) -> Any:
    """The rows of a batch shared out over a mesh, with the last one repeated until they can be; as they are for one device,
    and inside of a compiled function.
    """
    leaves = jax.tree.leaves(batch)
    if mesh is None or any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return batch
    more = -leaves[0].shape[0] % devices_of_rows(mesh)
    if more:
        batch = jax.tree.map(lambda x: jnp.concatenate([x, jnp.repeat(x[-1:], more, axis=0)]), batch)
    return hosts.put(batch, texts(mesh))


def shared_shapes(batch: Any, arrays: Any) -> Any:
    """What `shared` would give, as shapes; of weights that may be shapes themselves."""
    found = mesh_of(arrays)
    _check_even(batch, arrays)
    where = jax.tree.leaves(arrays)[0].sharding if found is None else texts(found)
    return jax.tree.map(lambda x: shape_of(x, where), batch)


def shape_of(x: Any, where: Any) -> jax.ShapeDtypeStruct:
    """An array's shape and type, with a placement."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)  # type: ignore[no-untyped-call]


def _check_even(batch: Any, arrays: Any) -> None:
    rows, share = jax.tree.leaves(batch)[0].shape[0], shares(arrays)
    if rows % share:
        raise errors.InputError(f"{rows} rows can't be shared out over {share} devices; expected a multiple of {share}")


def shares(arrays: Any) -> int:
    """How many devices share the rows of a batch; 1 where weights lie on one device."""
    return devices_of_rows(mesh_of(arrays))


def devices_of_rows(mesh: jax.sharding.Mesh | None) -> int:
    """Over how many devices a mesh divides the rows of a batch."""
    return 1 if mesh is None else int(np.prod([mesh.shape[axis] for axis in RULES["text"]]))


def row_shares(mesh: jax.sharding.Mesh | None, rows: int) -> int:
    """How many devices share so many rows; 1 where they can't be shared out evenly."""
    share = devices_of_rows(mesh)
    return share if rows % share == 0 else 1


def mesh_of(arrays: Any) -> jax.sharding.Mesh | None:
    """The mesh that weights lie on; None for one device."""
    for leaf in jax.tree.leaves(arrays):
        if isinstance(leaf.sharding, NamedSharding) and isinstance(leaf.sharding.mesh, jax.sharding.Mesh):
            return leaf.sharding.mesh
    return None
