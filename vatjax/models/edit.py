"""Edits of a model's computation, and how one layer applies them.

A linear layer computes `W h + b`; an intervention makes it `(W + dW) h + (b + db)`: a steering vector is a `db`, LoRA a
low-rank `dW`. So an edit is data: a pytree whose arrays have a leading layer axis, scanned along with the layers, and a
strength. Strength 0 goes through `where`, and so is bit for bit the unedited model.

    residual    h <- h + s v                       after a layer, on the residual stream
    neurons     a <- a + s n                       inside the MLP, before its down projection
    gains       a <- a + s g a                     likewise
    lora        W x <- W x + s (x A) B             in any projection
    steps       after these, one by one, changes that are not plain sums; see `Step`

An edit touches all tokens, or those that `positions` names: the prompt's, the prompt's last one, or those written after
it.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from vatjax import errors, names
from vatjax.text_table import html_table

Array = jax.Array

# The projections that a low-rank change can be added to.
PROJECTIONS = ("query", "key", "value", "output", "gate", "up", "down")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRank:
    """A low-rank change of one projection in every layer: `x A B`, with LoRA's `alpha / rank` already in B.

    Attributes:
        down: A, [layers, in, rank].
        up: B, [layers, rank, out].
    """

    down: Array
    up: Array

    def concat_ranks(self, other: LowRank) -> LowRank:
        """Returns the sum of both changes: their ranks are concatenated."""
        down = jnp.concatenate([self.down, other.down], axis=-1)
        return LowRank(down, jnp.concatenate([self.up, other.up], axis=-2))


Kind = Literal["add", "project", "set", "raise", "turn"]
Positions = Literal["all", "prompt", "last", "written"]
KINDS: tuple[Kind, ...] = get_args(Kind)
POSITIONS: tuple[Positions, ...] = get_args(Positions)

# The role of a token: part of the prompt, its last token, or written after it.
PROMPT, LAST, WRITTEN = 0, 1, 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Step:
    """A change of the residual stream along a unit vector u after some layers, c = u . h.

        add        h + s a u
        project    h - s c u                               removes the component along u
        set        h + s (a - c) u                         replaces that component by a
        raise      h + s max(0, a - c) u                   only if the component is less
        turn       (h + s a u) |h| / |h + s a u|           keeps the length

    With a gate, only tokens whose hidden state passes it are changed: `g . h >= threshold`, or its cosine.

    Attributes:
        direction: u, [layers, width].
        amount: a, [layers].
        share: [layers], factor on the edit's strength; 0 in unchanged layers.
        gate: g, [layers, width]; None lets every token pass.
        threshold: [layers], with a gate.
        kind: which of the five; static.
        cosine: whether the threshold applies to the cosine; static.
    """

    direction: Array
    amount: Array
    share: Array
    gate: Array | None = None
    threshold: Array | None = None
    kind: Kind = dataclasses.field(default="add", metadata={"static": True})
    cosine: bool = dataclasses.field(default=True, metadata={"static": True})

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise errors.InputError(names.unknown_name("kind of step", self.kind, KINDS))
        if (self.gate is None) != (self.threshold is None):
            raise errors.InputError("a gate and its threshold go together")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Edit:
    """A change of a model's computation; parts that are None or empty do nothing.

    Attributes:
        strength: scalar; 0 is exactly the unedited model.
        residual: [layers, width], added to the residual stream after each layer.
        neurons: [layers, hidden], added to the MLP's inner activations.
        lora: low-rank changes by the name of the projection.
        gains: [layers, hidden], factors by which inner activations grow.
        steps: changes of the residual stream, applied in order.
        positions: which tokens are touched; static.
    """

    strength: Array
    residual: Array | None = None
    neurons: Array | None = None
    lora: Mapping[str, LowRank] = dataclasses.field(default_factory=dict)
    gains: Array | None = None
    steps: tuple[Step, ...] = ()
    positions: Positions = dataclasses.field(default="all", metadata={"static": True})

    def __post_init__(self) -> None:
        if self.positions not in POSITIONS:
            raise errors.InputError(names.unknown_name("positions", self.positions, POSITIONS))

    def __repr__(self) -> str:
        arrays = {name: getattr(self, name) for name in ("residual", "neurons", "gains")}
        parts = [f"{name} {jnp.shape(array)}" for name, array in arrays.items() if array is not None]
        parts += [f"LoRA on {', '.join(self.lora)}"] if self.lora else []
        parts += [f"{len(self.steps)} steps"] if self.steps else []
        known = jnp.ndim(self.strength) == 0 and not isinstance(self.strength, jax.core.Tracer)
        strength = f"{float(self.strength):g}" if known else f"of shape {jnp.shape(self.strength)}"
        return f"Edit(strength {strength}: {'; '.join(parts) or 'nothing'}; on {self.positions} tokens)"

    def _repr_html_(self) -> str:
        named = {"residual": self.residual, "neurons": self.neurons, "gains": self.gains, **(self.lora or {})}
        rows = [
            (name, ", ".join(str(jnp.shape(leaf)) for leaf in jax.tree.leaves(part)))
            for name, part in named.items()
            if part is not None
        ]
        rows += [(f"step {number}", step.kind) for number, step in enumerate(self.steps, 1)]
        return f"<p>{html.escape(repr(self))}</p>" + html_table(("part", "shapes"), rows)

    # A vector space, and an order -----------------------------------------------------------------------------------

    @property
    def additive(self) -> bool:
        """Returns True if the edit is a sum, which can be scaled, added and negated."""
        return not self.steps

    def __mul__(self, factor: float | Array) -> Edit:
        """Returns the edit with its strength multiplied by `factor`."""
        return dataclasses.replace(self, strength=self.strength * factor)

    __rmul__ = __mul__

    def __neg__(self) -> Edit:
        return self * -1.0

    def __add__(self, other: Edit) -> Edit:
        """Adds two edits. Edits with steps have no sum, since their order matters: use `then`."""
        if not (self.additive and other.additive):
            raise errors.InputError("edits that gate, project or turn have no sum: give their order with `then`")
        return self._joined(other)

    def then(self, other: Edit) -> Edit:
        """Returns this edit's steps followed by the other's, and the sum of their additive parts."""
        return self._joined(other)

    def __sub__(self, other: Edit) -> Edit:
        return self + -other

    def only_layers(self, layers: Sequence[int]) -> Edit:
        """Restricts the edit to some layers.

        Args:
            layers: by number; negative ones count from the last.
        """
        count = self.depth
        wrong = [layer for layer in layers if not -count <= layer < count]
        if wrong:
            raise errors.InputError(f"layer {wrong[0]}: the model has layers 0 to {count - 1}")
        keep = jnp.zeros(count, bool).at[jnp.asarray(layers, jnp.int32)].set(True)

        def masked(x: Array) -> Array:
            return jnp.where(keep.reshape(-1, *(1,) * (x.ndim - 1)), x, 0)

        plain = jax.tree.map(masked, (self.residual, self.neurons, self.gains, self.lora))
        steps = tuple(dataclasses.replace(step, share=masked(step.share)) for step in self.steps)
        residual, neurons, gains, lora = plain
        return dataclasses.replace(self, residual=residual, neurons=neurons, gains=gains, lora=lora, steps=steps)

    @property
    def depth(self) -> int:
        """Returns the number of layers of the model that the edit is for."""
        parts = (self.residual, self.neurons, self.gains, self.lora, self.steps)
        return int(jax.tree.leaves(parts)[0].shape[0])

    def _joined(self, other: Edit) -> Edit:
        if self.positions != other.positions:
            raise errors.InputError(f"edits of {self.positions} and of {other.positions} tokens can't be one edit")
        mine, theirs = self._at_one(), other._at_one()
        lora = dict(mine.lora)
        for name, change in theirs.lora.items():
            lora[name] = lora[name].concat_ranks(change) if name in lora else change
        return dataclasses.replace(
            mine,
            residual=_sum(mine.residual, theirs.residual),
            neurons=_sum(mine.neurons, theirs.neurons),
            gains=_sum(mine.gains, theirs.gains),
            lora=lora,
            steps=(*mine.steps, *theirs.steps),
        )

    def _at_one(self) -> Edit:
        """Returns the same edit at strength 1, with its strength multiplied into its parts."""
        s = self.strength
        plain = jax.tree.map(lambda x: s * x, (self.residual, self.neurons, self.gains))
        lora = {name: LowRank(change.down, s * change.up) for name, change in self.lora.items()}
        steps = tuple(dataclasses.replace(step, share=s * step.share) for step in self.steps)
        residual, neurons, gains = plain
        return dataclasses.replace(
            self, strength=jnp.ones(()), residual=residual, neurons=neurons, gains=gains, lora=lora, steps=steps
        )

    # For the decoder ------------------------------------------------------------------------------------------------

    def touched(self, kind: Array) -> Array | None:
        """Returns which tokens the edit touches, by their role in the prompt; None for all.

        Args:
            kind: [batch, time] of PROMPT, LAST and WRITTEN.
        """
        if self.positions == "all":
            return None
        if self.positions == "prompt":
            return kind != WRITTEN
        return kind == (LAST if self.positions == "last" else WRITTEN)

    def check(self, layers: int, width: int, hidden: int, projections: Mapping[str, tuple[int, int]]) -> None:
        """Raises an error if the edit does not fit a model.

        Args:
            layers, width, hidden: of the model.
            projections: [in, out] of each projection.

        Raises:
            InputError: with the shape of the part that does not fit, and the model's.
        """
        expected: list[tuple[str, Array, tuple[int, ...]]] = [("strength", self.strength, ())]
        expected += [("residual", self.residual, (layers, width))] if self.residual is not None else []
        expected += [("neurons", self.neurons, (layers, hidden))] if self.neurons is not None else []
        expected += [("gains", self.gains, (layers, hidden))] if self.gains is not None else []
        for number, step in enumerate(self.steps):
            label = f"step {number} ({step.kind})"
            expected += [(f"{label}: {key}", getattr(step, key), (layers,)) for key in ("amount", "share")]
            expected.append((f"{label}: direction", step.direction, (layers, width)))
            if step.gate is not None and step.threshold is not None:
                expected += [(f"{label}: gate", step.gate, (layers, width))]
                expected += [(f"{label}: threshold", step.threshold, (layers,))]
        for name, factors in self.lora.items():
            if name not in projections:
                raise errors.InputError(f"lora: {names.unknown_name('projection', name, list(projections))}")
            rank = jnp.shape(factors.down)[-1] if jnp.ndim(factors.down) else 0
            size_in, size_out = projections[name]
            expected.append((f"lora of {name}: down", factors.down, (layers, size_in, rank)))
            expected.append((f"lora of {name}: up", factors.up, (layers, rank, size_out)))
        for what, value, shape in expected:
            if jnp.shape(value) != shape:
                raise errors.InputError(
                    f"the edit does not fit the model: {what} has the shape {list(jnp.shape(value))}, expected {list(shape)}"
                )

    def slice_layers(self, first: int, last: int) -> Edit:
        """Returns the parts of the layers from `first` to before `last`."""
        return self._at(slice(first, last))

    def take_layer(self, number: Array | int) -> Edit:
        """Returns the part of one layer; its number may be traced."""
        return self._at(number)

    def _at(self, place: Any) -> Edit:
        parts = (self.residual, self.neurons, self.gains, self.lora, self.steps)
        residual, neurons, gains, lora, steps = jax.tree.map(lambda x: x[place], parts)
        return dataclasses.replace(self, residual=residual, neurons=neurons, gains=gains, lora=lora, steps=steps)


def _sum(a: Array | None, b: Array | None) -> Array | None:
    return b if a is None else a if b is None else a + b


# One layer's part of an edit -----------------------------------------------------------------------------------------


def edit_residual(h: Array, edit: Edit, touched: Array | None) -> Array:
    """Applies one layer's part of an edit to the residual stream after the layer: what it adds, then each of its steps.

    Args:
        h: [batch, time, width].
        edit: one layer's part.
        touched: [batch, time]; None for all.
    """
    if edit.residual is not None:
        change = _row(edit.strength * edit.residual).astype(h.dtype)
        h = _where(touched, h, unless_zero(edit.strength, h, h + change))
    for step in edit.steps:
        s = jnp.where(edit.strength == 0, 0, edit.strength * step.share)
        h = _where(touched, h, _stepped(h, step, s))
    return h


def _stepped(h: Array, step: Step, s: Array) -> Array:
    wide, u = h.astype(jnp.float32), _row(step.direction)
    along = jnp.sum(wide * u, -1, keepdims=True)
    if step.kind == "turn":
        new = wide + s * step.amount * u
        length, longer = (jnp.sqrt(jnp.sum(x**2, -1, keepdims=True)) for x in (wide, new))
        new = new * length / jnp.where(longer > 0, longer, 1)
    else:
        far = step.amount - along
        change = {"add": step.amount, "project": -along, "set": far, "raise": jnp.maximum(far, 0)}[step.kind]
        new = wide + s * change * u
    return unless_zero(s, h, _where(_passed(wide, step), h, new.astype(h.dtype)))


def _passed(h: Array, step: Step) -> Array | None:
    """Returns which tokens a step's gate lets through, [batch, time]; None for all."""
    gate, threshold = step.gate, step.threshold
    if gate is None or threshold is None:
        return None
    score = jnp.sum(h * _row(gate), -1)
    if step.cosine:
        lengths = jnp.sqrt(jnp.sum(h**2, -1) * jnp.sum(gate**2))
        score = score / jnp.where(lengths > 0, lengths, 1)
    return score >= threshold


def edit_neurons(a: Array, edit: Edit, touched: Array | None) -> Array:
    """Applies one layer's part of an edit to the MLP's inner activations, [batch, time, hidden]."""
    change = None
    if edit.neurons is not None:
        change = _row(edit.strength * edit.neurons)
    if edit.gains is not None:
        grown = _row(edit.strength * edit.gains) * a.astype(jnp.float32)
        change = grown if change is None else change + grown
    if change is None:
        return a
    return _where(touched, a, unless_zero(edit.strength, a, a + change.astype(a.dtype)))


def _row(x: Array) -> Array:
    """Reshapes a vector to broadcast over tokens, [1, 1, width] float32."""
    return x.astype(jnp.float32)[None, None, :]


def _where(touched: Array | None, plain: Array, changed: Array) -> Array:
    return changed if touched is None else jnp.where(touched[..., None], changed, plain)


@jax.custom_jvp
def unless_zero(strength: Array, unmoved: Array, moved: Array) -> Array:
    """Returns `moved`, or bit for bit `unmoved` at strength 0; its derivative is always that of `moved`."""
    return jnp.where(strength == 0, unmoved, moved)


@unless_zero.defjvp
def _unless_zero_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    return unless_zero(*primals), tangents[2]


def add_low_rank(product: Array, x: Array, change: LowRank | None, strength: Array, touched: Array | None) -> Array:
    """Returns `product + strength * (x A) B`, and exactly the product at strength 0; one layer's A and B.

    Both products are of plain matrices: on a CPU their gradients are faster than those of products with three axes.
    """
    if change is None:
        return product
    exact = jax.lax.Precision.HIGHEST
    flat = x.reshape(-1, x.shape[-1])
    inner = jnp.matmul(flat, change.down.astype(x.dtype), preferred_element_type=jnp.float32, precision=exact)
    outer = jnp.matmul(inner, change.up.astype(jnp.float32), precision=exact).reshape(product.shape)
    return _where(touched, product, unless_zero(strength, product, product + (strength * outer).astype(product.dtype)))
