"""The model: weights as a Flax module, its configuration and its tokenizer; and its logits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vatjax import errors
from vatjax.models import decoder
from vatjax.models.config import Config
from vatjax.models.edit import LAST, PROMPT, WRITTEN, Edit
from vatjax.text_table import html_table

Array = jax.Array


class Model(nnx.Module):
    """A decoder: a pytree of weights that `jax.jit`, `jax.grad` and `jax.vmap` take as it is.

    Attributes:
        weights: parameters by name, those of layers stacked under "layers".
        config: what the decoder computes; static.
        tokenizer: from `transformers`; static, may be None.
        source: `config.json` as Hugging Face wrote it, for writing it back; static.
        generation: `generation_config.json` likewise, with further tokens that end a text; static.
        name: where it came from: a folder, or a name on the Hub; static.
        ignored: attributes of `config.json` that were treated as having no effect; static.
    """

    def __init__(
        self,
        weights: Any,
        config: Config,
        tokenizer: Any = None,
        source: str = "{}",
        generation: str = "{}",
        name: str = "",
        ignored: tuple[str, ...] = (),
    ) -> None:
        self.weights = nnx.data(jax.tree.map(nnx.Param, weights))
        self.config = nnx.static(config)
        self.tokenizer = nnx.static(tokenizer)
        self.source = nnx.static(source)
        self.generation = nnx.static(generation)
        self.name = nnx.static(name)
        self.ignored = nnx.static(ignored)

    def __repr__(self) -> str:
        config, weights = self.config, sum(leaf.size for leaf in jax.tree.leaves(self.arrays))
        chat = "chat template" if getattr(self.tokenizer, "chat_template", None) else "no chat template"
        return (
            f"Model({self.name!r}: {config.layers} layers x {config.width}, {weights:,} weights in {dtype_of(self)}, "
            f"{'no tokenizer' if self.tokenizer is None else chat})"
        )

    __str__ = __repr__

    def _repr_html_(self) -> str:
        config = self.config
        rows = {
            "family": config.family,
            "layers": config.layers,
            "width": config.width,
            "heads": f"{config.heads} of {config.head_size}, {config.kv_heads} for keys and values",
            "vocabulary": f"{config.vocabulary:,}",
            "context": f"{config.context:,} tokens",
            "weights": f"{sum(leaf.size for leaf in jax.tree.leaves(self.arrays)):,} in {dtype_of(self)}",
            "chat template": "yes" if getattr(self.tokenizer, "chat_template", None) else "none",
        }
        return html_table((self.name, ""), [(name, str(value)) for name, value in rows.items()])

    @property
    def arrays(self) -> dict[str, Any]:
        """Returns the weights as plain arrays."""
        plain: dict[str, Any] = jax.tree.map(
            lambda p: p.get_value(), self.weights, is_leaf=lambda x: isinstance(x, nnx.Variable)
        )
        return plain


def computation_key(model: Model) -> str:
    """Returns the computation and its dtype as text: with the fingerprint of the weights it decides every number.

    The mesh is left out: it changes only the order of additions.
    """
    return f"{model.config!r} {dtype_of(model)}"


def dtype_of(model: Model) -> str:
    """Returns the dtype as `load` takes it."""
    return "mixed" if model.config.float32_residual else str(model.arrays["embedding"].dtype)


def present_of(tokens: Array, mask: Any) -> Array:
    """Returns which tokens are not padding, [batch, time] bool; without a mask all."""
    return jnp.ones(tokens.shape, bool) if mask is None else jnp.asarray(mask).astype(bool)


def positions_of(mask: Array) -> Array:
    """Returns positions of tokens, counted from the first that is not padding, [batch, time]; padding has 0."""
    return jnp.maximum(jnp.cumsum(mask.astype(jnp.int32), axis=-1) - 1, 0)


def logits(
    model: Model,
    tokens: Any,
    mask: Any = None,
    edit: Edit | None = None,
    positions: Array | None = None,
    written: Any = None,
) -> Array:
    """Computes logits after each token, [batch, time, vocabulary] float32.

    Args:
        model: the model.
        tokens: [batch, time] int32, left- or right-padded; ids outside the vocabulary give NaN.
        mask: [batch, time], 0 for padding; by default nothing is.
        edit: a change of the computation.
        positions: [batch, time]; by default from the mask.
        written: [batch, time], 1 for tokens written after each prompt: for edits that treat them differently; by
            default all is prompt.
    """
    tokens, present = validate_tokens(model.config, tokens, mask, positions is None)
    result: Array = _logits(model, tokens, present, edit, positions, token_kinds(present, written))
    return result


def token_kinds(present: Array, written: Any = None) -> Array:
    """Returns each token's role in its prompt, for edits that touch some, [batch, time] of PROMPT, LAST and WRITTEN.

    Args:
        present: [batch, time] bool.
        written: [batch, time], 1 for tokens written after the prompt.
    """
    written = jnp.zeros(present.shape, bool) if written is None else jnp.asarray(written).astype(bool) & present
    prompt = present & ~written
    places = jnp.arange(present.shape[1])[None, :]
    last = jnp.max(jnp.where(prompt, places, -1), axis=1, keepdims=True)
    return jnp.where(written, WRITTEN, jnp.where(places == last, LAST, PROMPT))


def validate_tokens(config: Config, tokens: Any, mask: Any, bounded: bool = True) -> tuple[Array, Array]:
    """Returns tokens and which of them are not padding, [batch, time] each.

    Raises:
        InputError: for other shapes, for tokens that are not integers, and if `bounded` for texts beyond the model's
            context.
    """
    tokens = jnp.asarray(tokens)
    shape = tokens.shape
    if tokens.ndim != 2 or not tokens.size or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise errors.InputError(f"expected tokens [batch, time] as whole numbers, found {list(shape)} {tokens.dtype}")
    if bounded and shape[1] > config.context:
        raise errors.InputError(
            f"a text of {shape[1]:,} tokens is longer than the model's context of {config.context:,}"
        )
    present = present_of(tokens, mask)
    if present.shape != shape:
        raise errors.InputError(f"expected a mask of the tokens' shape {list(shape)}, found {list(present.shape)}")
    return tokens.astype(jnp.int32), present


@jax.jit
def _logits(
    model: Model, tokens: Array, present: Array, edit: Edit | None, positions: Array | None, kind: Array
) -> Array:
    weights, config = model.arrays, model.config
    positions = positions_of(present) if positions is None else positions
    hidden = decoder.embed(weights, config, tokens)
    run = decoder.run_layers(weights, config, hidden, decoder.Layout(positions, present, kind), edit=edit)
    return decoder.head(weights, config, run.hidden)
