"""Decoders that compute what their Hugging Face checkpoints compute, as Flax modules over pure functions.

from vatjax import models

model = models.load("folder or owner/name")          # .config, .tokenizer; a pytree
models.logits(model, tokens, mask)                   # [batch, time, vocabulary]
models.log_probs(model, tokens, mask)                # [batch, time], and never the logits of a whole batch
models.generate(model, tokens, mask)                 # .tokens, .log_probs, .lengths
models.save(model, "folder")                         # what transformers loads
"""

from vatjax.models.abstract import abstract_model, stand_in_tokenizer
from vatjax.models.adapters import load_adapter, save_adapter
from vatjax.models.checkpoint import Checkpoint, load, open_checkpoint
from vatjax.models.config import Config
from vatjax.models.edit import Edit, LowRank, Step
from vatjax.models.edit_files import edit_facts, load_edit, save_edit
from vatjax.models.families import register_family
from vatjax.models.fingerprint import fingerprint
from vatjax.models.generation import Completions, Sampling, generate, stop_tokens
from vatjax.models.model import Model, computation_key, dtype_of, logits, positions_of
from vatjax.models.saving import save
from vatjax.models.scoring import log_probs
from vatjax.models.sharding import mesh

__all__ = [
    "Checkpoint",
    "Completions",
    "Config",
    "Edit",
    "LowRank",
    "Model",
    "Sampling",
    "Step",
    "abstract_model",
    "computation_key",
    "dtype_of",
    "edit_facts",
    "fingerprint",
    "generate",
    "load",
    "load_adapter",
    "load_edit",
    "log_probs",
    "logits",
    "mesh",
    "open_checkpoint",
    "positions_of",
    "register_family",
    "save",
    "save_adapter",
    "save_edit",
    "stand_in_tokenizer",
    "stop_tokens",
]
