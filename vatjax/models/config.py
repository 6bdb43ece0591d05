"""Decoder configuration: one class for all families, with every quirk as a field.

A `Config` is hashable and holds no array, so that it can be a static argument of a compiled function.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax

Activation = Literal["silu", "gelu", "gelu_tanh"]


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary positions: pairs of a head's dimensions turn by an angle that grows with the position.

    Attributes:
        frequencies: radians for each position step, one for each pair of dimensions; all 0 for a layer without positions.
        scale: factor on the rotated queries and keys (`attention_factor`).
    """

    frequencies: tuple[float, ...]
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Config:
    """Shape and quirks of a decoder. Lengths are named: vocabulary, width, layers, heads, ...

    Attributes:
        family: Hugging Face's `model_type`.
        vocabulary, width, layers: tokens, residual stream, depth.
        heads, kv_heads, head_size: attention; each key and value head serves `heads / kv_heads` query heads.
        hidden: the MLP's inner width.
        context: the longest text the model was made for.
        activation: of the MLP's gate.
        norm_epsilon: added to a mean square before its root.
        norm_offset: added to a norm's weight (Gemma stores weights around 0).
        norm_wide: whether a norm multiplies by its weight before it rounds to the model's dtype, or afterwards.
        pre_norm, post_norm: whether a block's input and its output are normed.
        head_norm: whether queries and keys are normed before they are rotated: each head, or all heads as one vector.
        qkv_bias, output_bias, mlp_bias: which projections have a bias.
        attention_scale: factor on the products of queries and keys.
        attention_cap, logit_cap: `cap * tanh(x / cap)` on those products and on the logits; 0 is none.
        windows: for each layer how many positions back it looks, its own included; 0 for unlimited.
        ropes: the kinds of rotary positions.
        rope_of: for each layer the index of its kind.
        embedding_scale, residual_scale, logit_scale: factors on embeddings, on what a block adds, and on the logits.
        embedding_scale_rounded: whether that factor is itself rounded to the model's dtype.
        tied: whether the head is the embedding table.
        float32_residual: whether the residual stream is float32 over weights of another dtype. It does not belong to
            the checkpoint, and so is not in `repr`, which identifies the checkpoint's configuration.
        mesh: the devices that the weights are spread over, to which compiled functions constrain activations; None for one device.
    """

    family: str
    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    hidden: int
    context: int
    ropes: tuple[Rope, ...]
    rope_of: tuple[int, ...]
    windows: tuple[int, ...]
    attention_scale: float
    activation: Activation = "silu"
    norm_epsilon: float = 1e-6
    norm_offset: float = 0.0
    norm_wide: bool = False
    pre_norm: bool = True
    post_norm: bool = False
    head_norm: Literal["none", "each", "whole"] = "none"
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    attention_cap: float = 0.0
    logit_cap: float = 0.0
    embedding_scale: float = 1.0
    embedding_scale_rounded: bool = False
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    tied: bool = False
    float32_residual: bool = dataclasses.field(default=False, repr=False)
    mesh: jax.sharding.Mesh | None = dataclasses.field(default=None, repr=False)
