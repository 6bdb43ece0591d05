"""Every parameter of a decoder in one table: its name here and in a Hugging Face checkpoint, its shape, its axes.

Matrices are [in, out] here and [out, in] there; parameters of layers are stacked along a leading layer axis. Phi 3
stores queries, keys and values as one matrix, and gate and up as another: those are rows of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from vatjax.models.config import Config
from vatjax.models.edit import PROJECTIONS, Edit


class Parameter(NamedTuple):
    """One parameter.

    Attributes:
        name: here; those of layers stand under "layers".
        source: in a checkpoint, with `{}` for the layer.
        shape: of one layer's, without the layer axis.
        axes: the logical name of each of its axes, which a mesh's rules turn into a placement.
        stacked: whether each layer has one.
        rows: its rows of the source, start and stop; None for all.
        heads: the number of heads along its axis of heads, between which a mesh may cut.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    stacked: bool
    rows: tuple[int, int] | None = None
    heads: int = 0


def parameters(config: Config) -> Iterator[Parameter]:
    """Yields all parameters of a model, in the order of the computation."""
    yield Parameter(
        "embedding", "model.embed_tokens.weight", (config.vocabulary, config.width), ("vocabulary", "width"), False
    )
    yield from _attention(config)
    yield from _mlp(config)
    yield from _norms(config)
    yield Parameter("norm", "model.norm.weight", (config.width,), ("width",), False)
    if not config.tied:
        yield Parameter("head", "lm_head.weight", (config.width, config.vocabulary), ("width", "vocabulary"), False)


def _attention(config: Config) -> Iterator[Parameter]:
    place = "model.layers.{}.self_attn."
    queries, pairs = config.heads * config.head_size, config.kv_heads * config.head_size
    start = 0
    for name, size, heads in (
        ("query", queries, config.heads),
        ("key", pairs, config.kv_heads),
        ("value", pairs, config.kv_heads),
    ):
        source, rows = f"{place}{name[0]}_proj", None
        if config.family == "phi3":
            source, rows = f"{place}qkv_proj", (start, start + size)
        start += size
        yield Parameter(name, f"{source}.weight", (config.width, size), ("width", "heads"), True, rows, heads)
        if config.qkv_bias:
            yield Parameter(f"{name}_bias", f"{source}.bias", (size,), ("heads",), True, rows, heads)
        if config.head_norm != "none" and name != "value":
            length, axis = (config.head_size, "head") if config.head_norm == "each" else (size, "heads")
            yield Parameter(f"{name}_norm", f"{place}{name[0]}_norm.weight", (length,), (axis,), True, heads=heads)
    yield Parameter(
        "output", f"{place}o_proj.weight", (queries, config.width), ("heads", "width"), True, heads=config.heads
    )
    if config.output_bias:
        yield Parameter("output_bias", f"{place}o_proj.bias", (config.width,), ("width",), True)


def _mlp(config: Config) -> Iterator[Parameter]:
    place = "model.layers.{}.mlp."
    for i, name in enumerate(("gate", "up")):
        source, rows = f"{place}{name}_proj", None
        if config.family == "phi3":
            source, rows = f"{place}gate_up_proj", (i * config.hidden, (i + 1) * config.hidden)
        yield Parameter(name, f"{source}.weight", (config.width, config.hidden), ("width", "hidden"), True, rows)
        if config.mlp_bias:
            yield Parameter(f"{name}_bias", f"{source}.bias", (config.hidden,), ("hidden",), True, rows)
    yield Parameter("down", f"{place}down_proj.weight", (config.hidden, config.width), ("hidden", "width"), True)
    if config.mlp_bias:
        yield Parameter("down_bias", f"{place}down_proj.bias", (config.width,), ("width",), True)


def _norms(config: Config) -> Iterator[Parameter]:
    """Yields norms. `post_attention_layernorm` follows attention in some families and precedes the MLP in others."""
    sources = {}
    if config.pre_norm:
        sources["attention_norm"] = "input_layernorm"
        sources["mlp_norm"] = "pre_feedforward_layernorm" if config.post_norm else "post_attention_layernorm"
    if config.post_norm:
        sources["attention_post_norm"] = "post_attention_layernorm"
        sources["mlp_post_norm"] = "post_feedforward_layernorm"
    for name, source in sources.items():
        yield Parameter(name, f"model.layers.{{}}.{source}.weight", (config.width,), ("width",), True)


def transpose(parameter: Parameter, matrix: Any) -> Any:
    """Transposes a parameter to a checkpoint's layout or back, [in, out] and [out, in]; the embedding is the same."""
    return matrix if parameter.name == "embedding" else matrix.T


def check_edit(edit: Edit, config: Config) -> None:
    """Raises InputError for an edit of a model of another shape."""
    projections = {p.name: (p.shape[0], p.shape[1]) for p in parameters(config) if p.name in PROJECTIONS}
    edit.check(config.layers, config.width, config.hidden, projections)


def assemble(arrays: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Builds the tree that the decoder takes from parameters by name."""
    tree: dict[str, Any] = {"layers": {}}
    for parameter in parameters(config):
        (tree["layers"] if parameter.stacked else tree)[parameter.name] = arrays[parameter.name]
    return tree
