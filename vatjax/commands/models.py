"""`vatjax models check` and `vatjax models convert`."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated, Any, Literal

from tyro.conf import Positional

from vatjax import errors
from vatjax.commands import show
from vatjax.dtypes import Dtype


@dataclasses.dataclass(frozen=True)
class Check:
    """Describes a checkpoint, its size, and whether this port computes it; with --prompt loads it and continues a text.
    Exits with status 2 if something is wrong."""

    model: Annotated[str, Positional]
    """A folder in Hugging Face's layout, a .gguf file, "pocket", or owner/name on the Hub, optionally followed by
    @revision."""
    prompt: str = ""
    """Load the weights and continue this text by greedy decoding."""
    chat: bool = False
    """Put the prompt into the model's chat template, as a user's message."""
    tokens: int = 32
    """Maximum number of generated tokens."""
    ignore: tuple[str, ...] = ()
    """Attributes of config.json that the port does not know, and that are assumed to have no effect."""
    context: int = 0
    """Longest text in tokens; 0 is the limit of the model's default rotary positions. If more than 4,096 are requested,
    Phi 3 uses its long-context positions for all texts."""
    dtype: Dtype = "float32"
    """Dtype of the loaded weights."""
    json: bool = False
    """Print one JSON document instead of a table."""

    def run(self) -> int:
        from vatjax import models
        from vatjax.models import tokens

        sampling = models.Sampling(tokens=self.tokens)
        checkpoint = models.open_checkpoint(self.model, self.ignore, self.context)
        summary = summarise(checkpoint)
        models.stop_tokens(checkpoint)  # raises InputError if they are invalid
        if summary["tokenizer"] is not None and summary["tokenizer"]["chat_template"]:
            tokens.render_chat(checkpoint.tokenizer, [{"role": "user", "content": "hello"}])
        if self.chat and not self.prompt:
            raise errors.InputError("--chat applies to a prompt: give one with --prompt")
        if self.prompt:
            summary["prompt"], summary["written"] = self._write(checkpoint, sampling)
        if self.json:
            show.print_json(summary)
        else:
            _print(summary)
        if checkpoint.tokenizer is None:
            show.print_text(f"vatjax: {self.model}: no tokenizer found, so the model takes no text", file=sys.stderr)
        elif len(checkpoint.tokenizer) > checkpoint.config.vocabulary:
            beyond = len(checkpoint.tokenizer) - checkpoint.config.vocabulary
            show.print_text(
                f"vatjax: {self.model}: {beyond} added tokens have no embedding; texts with them are refused",
                file=sys.stderr,
            )
        return 0

    def _write(self, checkpoint: Any, sampling: Any) -> tuple[str, str]:
        """Returns the prompt as the model sees it, and the generated text."""
        import jax.numpy as jnp

        from vatjax import models
        from vatjax.models import generation, tokens

        if checkpoint.tokenizer is None:
            raise errors.InputError(f"{self.model}: no tokenizer found, so the prompt can't be encoded")
        text = self.prompt
        if self.chat:
            text = tokens.render_chat(checkpoint.tokenizer, [{"role": "user", "content": text}])
        ids = tokens.encode(checkpoint.tokenizer, text, self.chat, checkpoint.config)
        if not ids:
            raise errors.InputError("the prompt has no tokens")
        generation.check_context_length(checkpoint.config, len(ids), sampling.tokens)
        model = models.load(checkpoint, self.dtype)
        written = models.generate(model, jnp.asarray([ids], jnp.int32), sampling=sampling)
        return text, checkpoint.tokenizer.decode(written.tokens[0, : int(written.lengths[0])].tolist())


@dataclasses.dataclass(frozen=True)
class Convert:
    """Writes a GGUF file as a checkpoint in Hugging Face's layout: configuration, tokenizer, and dequantised weights.

    vatjax models convert model.gguf FOLDER; --model also reads GGUF files directly."""

    model: Annotated[str, Positional]
    """A .gguf file."""
    out: Annotated[str, Positional]
    """A folder to write."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the written weights; bfloat16 halves the folder and rounds them."""
    overwrite: bool = False
    """Replace an existing checkpoint."""
    json: bool = False
    """Print one JSON document instead of the folder."""

    def run(self) -> int:
        from vatjax import models, store
        from vatjax.models import gguf, saving

        if not store.path(self.model).exists():
            raise errors.InputError(f"{self.model}: no such file")
        if not gguf.is_gguf(self.model):
            raise errors.InputError(f"{self.model}: expected a file whose name ends in .gguf")
        store.check_writable(store.path(self.out).parent, "out")
        checkpoint = models.open_checkpoint(self.model)
        if not self.overwrite:
            saving.remove_checkpoint(store.path(self.out), False)
        size = summarise(checkpoint)["bytes"][self.dtype]
        print(f"vatjax: {self.model}: writing {size / 1e9:.2f} GB to {self.out}", file=sys.stderr)
        models.save(models.load(checkpoint, self.dtype), self.out, self.overwrite)
        if self.json:
            show.print_json({**summarise(checkpoint), "folder": self.out, "dtype": self.dtype})
        else:
            show.print_text(self.out)
        return 0


def summarise(checkpoint: Any) -> dict[str, Any]:
    """Returns a description of a checkpoint as plain data."""
    import math

    from vatjax.models import weights

    config = checkpoint.config
    count = sum(math.prod(p.shape) * (config.layers if p.stacked else 1) for p in weights.parameters(config))
    fields = dataclasses.fields(config)
    template = getattr(checkpoint.tokenizer, "chat_template", None)
    return {
        "folder": str(checkpoint.folder),
        "family": config.family,
        "parameters": count,
        "stored": sorted({tensor.dtype for tensor in checkpoint.tensors.values()}),
        "bytes": {"float32": 4 * count, "bfloat16": 2 * count},
        "shape": {field.name: getattr(config, field.name) for field in fields if field.type == "int"},
        "windows": sorted(set(config.windows) - {0}),
        "options": {
            field.name: getattr(config, field.name)
            for field in fields
            if field.default is not dataclasses.MISSING and getattr(config, field.name) != field.default
        },
        "tokenizer": None
        if checkpoint.tokenizer is None
        else {"tokens": len(checkpoint.tokenizer), "chat_template": bool(template)},
    }


def _print(summary: dict[str, Any]) -> None:
    sizes = ", ".join(f"{size / 1e9:.2f} GB in {name}" for name, size in summary["bytes"].items())
    tokenizer = summary["tokenizer"]
    description = "none"
    if tokenizer is not None:
        description = (
            f"{tokenizer['tokens']:,} tokens, {'with' if tokenizer['chat_template'] else 'without'} a chat template"
        )
    rows = [
        ("folder", summary["folder"]),
        ("parameters", f"{summary['parameters']:,}"),
        ("weights", f"{sizes}; stored as {', '.join(summary['stored'])}"),
        ("shape", ", ".join(f"{name} {size:,}" for name, size in summary["shape"].items())),
        ("windows", ", ".join(map(str, summary["windows"])) or "none"),
        ("options", ", ".join(f"{name} {value}" for name, value in summary["options"].items()) or "none"),
        ("tokenizer", description),
    ]
    show.print_table((summary["family"], ""), rows)
    if "written" in summary:
        show.print_text(f"{summary['prompt']}|{summary['written']}")
