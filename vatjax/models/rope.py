"""Rotary position embeddings, and their extensions to longer texts.

    angle[p, i] = p * f_i            f_i = theta^(-2 i / d)

Each function gives the frequencies of a `rope_type` of Hugging Face configurations, in float32 as there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vatjax.models.config import Rope

Array = jax.Array


def base_frequencies(theta: float, size: int) -> np.ndarray:
    """Computes `theta^(-2 i / size)`, [size / 2].

    The exponent is rounded to float32 as torch has it, and the power once: an error in the last bit of a frequency is
    one of a thousandth in the angle at position 100,000.
    """
    exponent = (np.arange(0, size, 2, dtype=np.float32) / np.float32(size)).astype(np.float64)
    power = np.power(float(theta), exponent).astype(np.float32)
    frequencies: np.ndarray = np.float32(1) / power
    return frequencies


def linear(theta: float, size: int, options: Mapping[str, Any]) -> Rope:
    """Divides all frequencies by a factor."""
    return Rope(_tuple(base_frequencies(theta, size) / np.float32(options["factor"])))


def llama3(theta: float, size: int, options: Mapping[str, Any]) -> Rope:
    """Divides slow frequencies by a factor, keeps fast ones, and interpolates between them."""
    frequency = base_frequencies(theta, size)
    factor, low, high = (np.float32(options[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = np.float32(options["original_max_position_embeddings"]) * frequency / np.float32(2 * math.pi)
    share = np.clip((turns - low) / (high - low), 0, 1)
    return Rope(_tuple((1 - share) * frequency / factor + share * frequency))


def yarn(theta: float, size: int, options: Mapping[str, Any]) -> Rope:
    """Interpolates as `llama3`, by a ramp over dimensions (Peng et al. 2023), with a factor on queries and keys."""
    frequency, original = base_frequencies(theta, size), options["original_max_position_embeddings"]
    factor = options["factor"]

    def dimension(turns: float) -> float:
        """Returns the dimension that turns so many times within the original length."""
        return size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(options.get("beta_fast") or 32), dimension(options.get("beta_slow") or 1)
    if options.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    ramp = np.clip((np.arange(size // 2, dtype=np.float32) - low) / ((high - low) or 0.001), 0, 1)
    scale = options.get("attention_factor")
    if scale is None:
        over, under = options.get("mscale"), options.get("mscale_all_dim")
        scale = _yarn_scale(factor, over) / _yarn_scale(factor, under) if over and under else _yarn_scale(factor, 1)
    return Rope(_tuple(ramp * frequency / np.float32(factor) + (1 - ramp) * frequency), float(scale))


def _yarn_scale(factor: float, by: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * by * math.log(factor) + 1.0


def longrope(theta: float, size: int, options: Mapping[str, Any], context: int, longest: int) -> Rope:
    """Divides each dimension by its own factor, from one set for short and one for long texts: chosen once for a model.

    Args:
        theta, size, options: as elsewhere.
        context: of the model.
        longest: the longest text that will be read.
    """
    original = options["original_max_position_embeddings"]
    factors = np.asarray(options["long_factor" if longest > original else "short_factor"], np.float32)
    factor, scale = options.get("factor") or context / original, options.get("attention_factor")
    if scale is None:
        scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return Rope(_tuple(base_frequencies(theta, size) / factors), float(scale))


def _tuple(frequency: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f) for f in frequency.astype(np.float32))


def cos_sin_tables(ropes: tuple[Rope, ...], positions: Array) -> tuple[Array, Array]:
    """Computes cosines and sines of every rope at every position, each [ropes, batch, time, head size / 2] float32.

    Args:
        ropes: of the configuration.
        positions: [batch, time].
    """
    cosines, sines = [], []
    for rope in ropes:
        frequency = jnp.asarray(rope.frequencies, jnp.float32)
        angle = positions[..., None].astype(jnp.float32) * frequency[None, None, :]
        cosines.append(jnp.cos(angle) * rope.scale)
        sines.append(jnp.sin(angle) * rope.scale)
    return jnp.stack(cosines), jnp.stack(sines)


def rotate(x: Array, cosine: Array, sine: Array) -> Array:
    """Turns the pairs (i, i + d / 2) of the first d dimensions of each head; the others stay.

    Args:
        x: [batch, time, heads, head size].
        cosine, sine: [batch, time, d / 2].
    """
    half = cosine.shape[-1]
    cosine, sine = (part[:, :, None, :].astype(x.dtype) for part in (cosine, sine))
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine, rest], axis=-1)
