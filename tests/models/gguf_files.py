"""Writes GGUF files as llama.cpp's own converter does: names from `gguf`'s table, rows of queries and keys in rotary pairs."""

import gguf
import numpy as np

ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "phi3": "phi3",
}


def paired(x, heads):
    """llama.cpp's `LlamaModel.permute`."""
    return x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def write(path, model, architecture, kind="F32", facts=(), extra=()):
    """Writes a torch model.

    Args:
        path: of the file.
        model: of transformers.
        architecture: llama.cpp's name.
        kind: quantisation of matrices.
        facts: more metadata below the architecture, {key: value}.
        extra: more tensors, {name: array}.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("a tiny model")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if architecture == "llama":
        writer.add_rope_dimension_count(size)
    elif architecture != "phi3":
        writer.add_key_length(size)
    writer.add_vocab_size(config.vocab_size)
    for key, value in dict(facts).items():
        add = {float: writer.add_float32, int: writer.add_uint32, str: writer.add_string}[type(value)]
        add(f"{architecture}.{key}", value)
    names = gguf.get_tensor_name_map(arch_of(architecture), config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        x = tensor.detach().numpy().astype(np.float32)
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if architecture == "llama" and (".q_proj." in name or ".k_proj." in name):
            x = paired(x, config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads)
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            x = x + np.float32(1)
        base, _, end = name.rpartition(".")
        add_tensor(writer, f"{names.get_name(base)}.{end}", x, kind if x.ndim == 2 else "F32")
    for name, x in dict(extra).items():
        writer.add_tensor(name, np.asarray(x, np.float32))
    finish(writer)


def arch_of(architecture):
    return next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)


def add_tensor(writer, name, x, kind):
    quantisation = gguf.GGMLQuantizationType[kind]
    if kind == "F32":
        writer.add_tensor(name, x)
    else:
        stored = gguf.quantize(x, quantisation)
        writer.add_tensor(name, stored, raw_dtype=quantisation)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_words(path, tokens, kinds, merges=None, scores=None, split="gpt-2", template=None, **special):
    """A file with a vocabulary and no model: what a tokenizer is read from."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2" if scores is None else "llama")
    if scores is None:
        writer.add_tokenizer_pre(split)
        writer.add_token_merges(merges)
    else:
        writer.add_token_scores(scores)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if template:
        writer.add_chat_template(template)
    for name, value in special.items():
        getattr(writer, f"add_{name}")(value)
    finish(writer)
