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
    """Says what a checkpoint is, what it takes, and whether this port computes it; with --prompt it is loaded and
    continues a text. Status 2 where something is wrong."""

    model: Annotated[str, Positional]
    """A folder in Hugging Face's layout, a .gguf file, "pocket", or owner/name on the Hub (@revision behind it where one is
    wanted)."""
    prompt: str = ""
    """Load the weights and continue this text, each token the likeliest."""
    chat: bool = False
    """Put the prompt into the model's chat template, as a user's message."""
    tokens: int = 32
    """How many tokens are written at most."""
    ignore: tuple[str, ...] = ()
    """Attributes of config.json that the port does not know, and that are taken to change nothing."""
    context: int = 0
    """The longest text that is read, in tokens; 0 is what the model's usual rotary positions allow. Phi 3 takes others for all
    texts where more than 4,096 are asked for."""
    dtype: Dtype = "float32"
    """Of the weights when they are loaded."""
    json: bool = False
    """Print one JSON document instead of a table."""

    def run(self) -> int:
        from vatjax import models
        from vatjax.models import tokens

        sampling = models.Sampling(tokens=self.tokens)
        found = models.look(self.model, self.ignore, self.context)
        summary = summarise(found)
        models.stop_tokens(found)  # is it there, and one that can be used
        if summary["tokenizer"] is not None and summary["tokenizer"]["chat_template"]:
            tokens.chat(found.tokenizer, [{"role": "user", "content": "hello"}])
        if self.chat and not self.prompt:
            raise errors.InputError("--chat is about a prompt: give one with --prompt")
        if self.prompt:
            summary["prompt"], summary["written"] = self._write(found, sampling)
        if self.json:
            show.as_json(summary)
        else:
            _print(summary)
        if found.tokenizer is None:
            print(f"vatjax: {self.model}: no tokenizer there, so it can't be asked in words", file=sys.stderr)
        elif len(found.tokenizer) > found.config.vocabulary:
            beyond = len(found.tokenizer) - found.config.vocabulary
            print(
                f"vatjax: {self.model}: {beyond} added tokens have no embedding; texts with them are refused",
                file=sys.stderr,
            )
        return 0

    def _write(self, found: Any, sampling: Any) -> tuple[str, str]:
        """The prompt as the model sees it, and what it writes."""
        import jax.numpy as jnp

        from vatjax import models
        from vatjax.models import generation, tokens

        if found.tokenizer is None:
            raise errors.InputError(f"{self.model}: no tokenizer there, so there is nothing to read the prompt with")
        text = self.prompt
        if self.chat:
            text = tokens.chat(found.tokenizer, [{"role": "user", "content": text}])
        ids = tokens.encode(found.tokenizer, text, self.chat, found.config)
        if not ids:
            raise errors.InputError("the prompt has no tokens")
        generation.check_room(found.config, len(ids), sampling.tokens)
        model = models.load(found, self.dtype)
        written = models.generate(model, jnp.asarray([ids], jnp.int32), sampling=sampling)
        return text, found.tokenizer.decode(written.tokens[0, : int(written.lengths[0])].tolist())


@dataclasses.dataclass(frozen=True)
class Convert:
    """Writes a GGUF file as a checkpoint in Hugging Face's layout: configuration, tokenizer, and weights as numbers.

    vatjax models convert model.gguf FOLDER; --model reads GGUF files as they are too."""

    model: Annotated[str, Positional]
    """A .gguf file."""
    out: Annotated[str, Positional]
    """A folder to write."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights that are written; bfloat16 halves the folder and rounds them."""
    overwrite: bool = False
    """Replace a checkpoint that is there."""
    json: bool = False
    """Print one JSON document instead of the folder."""

    def run(self) -> int:
        from vatjax import models, store
        from vatjax.models import gguf, saving

        if not gguf.is_gguf(self.model):
            raise errors.InputError(f"{self.model}: expected a file whose name ends in .gguf")
        found = models.look(self.model)
        if not self.overwrite:
            saving.make_room(store.path(self.out), False)
        size = summarise(found)["bytes"][self.dtype]
        print(f"vatjax: {self.model}: writing {size / 1e9:.2f} GB to {self.out}", file=sys.stderr)
        models.save(models.load(found, self.dtype), self.out, self.overwrite)
        if self.json:
            show.as_json({**summarise(found), "folder": self.out, "dtype": self.dtype})
        else:
            print(self.out)
        return 0


def summarise(found: Any) -> dict[str, Any]:
    """What a checkpoint is, as plain data."""
    import math

    from vatjax.models import weights as wt

    config = found.config
    count = sum(math.prod(p.shape) * (config.layers if p.stacked else 1) for p in wt.parameters(config))
    fields = dataclasses.fields(config)
    template = getattr(found.tokenizer, "chat_template", None)
    return {
        "folder": str(found.folder),
        "family": config.family,
        "parameters": count,
        "stored": sorted({tensor.dtype for tensor in found.tensors.values()}),
        "bytes": {"float32": 4 * count, "bfloat16": 2 * count},
        "shape": {field.name: getattr(config, field.name) for field in fields if field.type == "int"},
        "windows": sorted(set(config.windows) - {0}),
        "options": {
            field.name: getattr(config, field.name)
            for field in fields
            if field.default is not dataclasses.MISSING and getattr(config, field.name) != field.default
        },
        "tokenizer": None
        if found.tokenizer is None
        else {"tokens": len(found.tokenizer), "chat_template": bool(template)},
    }


def _print(summary: dict[str, Any]) -> None:
    sizes = ", ".join(f"{size / 1e9:.2f} GB in {name}" for name, size in summary["bytes"].items())
    tokenizer = summary["tokenizer"]
    said = "none"
    if tokenizer is not None:
        said = f"{tokenizer['tokens']:,} tokens, {'with' if tokenizer['chat_template'] else 'without'} a chat template"
    rows = [
        ("folder", summary["folder"]),
        ("parameters", f"{summary['parameters']:,}"),
        ("weights", f"{sizes}; stored as {', '.join(summary['stored'])}"),
        ("shape", ", ".join(f"{name} {size:,}" for name, size in summary["shape"].items())),
        ("windows", ", ".join(map(str, summary["windows"])) or "none"),
        ("options", ", ".join(f"{name} {value}" for name, value in summary["options"].items()) or "none"),
        ("tokenizer", said),
    ]
    show.table((summary["family"], ""), rows)
    if "written" in summary:
        print(f"{summary['prompt']}|{summary['written']}")
