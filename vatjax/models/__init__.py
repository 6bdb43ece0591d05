"""Decoders that compute what their Hugging Face checkpoints compute, as Flax modules over pure functions.

from vatjax import models

model = models.load("folder or owner/name")          # .config, .tokenizer; a pytree
models.logits(model, tokens, mask)                   # [batch, time, vocabulary]
"""

from vatjax.models.checkpoint import load
from vatjax.models.config import Config, Rope
from vatjax.models.edit import Edit, LowRank
from vatjax.models.generation import Sampling, Written, generate, stop_tokens
from vatjax.models.model import Model, logits, positions_of
from vatjax.models.sharding import mesh

__all__ = [
    "Config",
    "Edit",
    "LowRank",
    "Model",
    "Rope",
    "Sampling",
    "Written",
    "generate",
    "load",
    "logits",
    "mesh",
    "positions_of",
    "stop_tokens",
]
