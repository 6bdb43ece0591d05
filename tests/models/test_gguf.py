"""GGUF files: the same logits and tokens as the model that wrote them, and as transformers' own reading."""

import json

import numpy as np
import pytest

from tests.models.checkpoints import checkpoint, torch, transformers
from tests.test_cli import run
from vatjax import errors, models
from vatjax.models import gguf as files
from vatjax.models import gguf_tokenizer

pytestmark = pytest.mark.fast_compile

gguf = pytest.importorskip("gguf")
from tests.models import gguf_files  # noqa: E402

TOKENS = np.random.default_rng(0).integers(3, 96, (2, 24))
PLAIN = {"rope_type": "default", "rope_theta": 1e4}
# name: checkpoint, its changes, metadata besides.
CASES = {
    "llama": ("llama", {"rope_parameters": PLAIN, "tie_word_embeddings": False}, {"rope.freq_base": 1e4}),
    "llama tied, with biases": ("llama with biases", {"tie_word_embeddings": True, "head_dim": 16}, {}),
    "llama linear": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    "qwen2": ("qwen2", {"use_sliding_window": False, "rope_parameters": PLAIN}, {"rope.freq_base": 1e4}),
    "qwen2 yarn": (
        "qwen2",
        {"use_sliding_window": False},
        {
            "rope.freq_base": 1e6,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 16.0,
            "rope.scaling.original_context_length": 16,
        },
    ),
    "qwen3": ("qwen3", {}, {"rope.freq_base": 1e6}),
    "gemma2": (
        "gemma2",
        {"query_pre_attn_scalar": 32},
        {"attention.sliding_window": 6, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3": (
        "gemma3",
        {"query_pre_attn_scalar": 32},
        {
            "attention.sliding_window": 6,
            "rope.freq_base": 1e6,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
    ),
}


def written(tmp_path, case, kind="F32", **changes):
    name, options, facts = CASES[case]
    source = checkpoint(name, **json_safe(options), **changes)
    path = tmp_path / "tiny.gguf"
    gguf_files.write(path, source.torch, case.split()[0], kind, facts)
    return path, source


def json_safe(options):
    """Checkpoints are cached by their options, which must be hashable."""
    return {key: Frozen(value) if isinstance(value, dict) else value for key, value in options.items()}


class Frozen(dict):
    def __hash__(self):
        return hash(json.dumps(self, sort_keys=True))


def logits(model):
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.float().numpy()


def close(ours, theirs):
    assert np.abs(ours - theirs).max() <= 2e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("case", CASES)
def test_a_file_has_the_logits_of_the_model_that_wrote_it(tmp_path, case):
    path, source = written(tmp_path, case)
    close(models.logits(models.load(path), TOKENS), logits(source.torch))


def test_llama_3_factors_are_recognised_and_others_refused(tmp_path):
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope["original_max_position_embeddings"] = 8192
    source = checkpoint("llama", rope_parameters=Frozen(rope), max_position_embeddings=16384)
    plain = 5e5 ** -(np.arange(0, 16, 2) / 16)
    factors = plain / source.torch.model.rotary_emb.inv_freq.numpy()
    path, facts = tmp_path / "tiny.gguf", {"rope.freq_base": 5e5}
    gguf_files.write(path, source.torch, "llama", facts=facts, extra={"rope_freqs.weight": factors})
    close(models.logits(models.load(path), TOKENS), logits(source.torch))
    gguf_files.write(path, source.torch, "llama", facts=facts, extra={"rope_freqs.weight": factors * 1.01})
    with pytest.raises(errors.InputError, match="not those of a published Llama 3"):
        models.open_checkpoint(path)


def test_phi_3_has_fused_projections_and_factors_for_long_texts(tmp_path):
    source = checkpoint("phi3", sliding_window=None)
    options = source.torch.config.rope_parameters
    extra = {f"rope_factors_{kind}.weight": options[f"{kind}_factor"] for kind in ("long", "short")}
    facts = {"rope.freq_base": 1e4, "rope.dimension_count": 8, "rope.scaling.original_context_length": 128}
    path = tmp_path / "tiny.gguf"
    gguf_files.write(path, source.torch, "phi3", facts=facts, extra=extra)
    close(models.logits(models.load(path), TOKENS), logits(source.torch))


@pytest.mark.parametrize("case", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("kind", ["F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_quantised_weights_are_those_that_transformers_reads(tmp_path, case, kind):
    path, _ = written(tmp_path, case, kind, intermediate_size=128, **({"head_dim": 128} if case == "qwen3" else {}))
    with_torch = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    ours = models.load(path)
    close(models.logits(ours, TOKENS), logits(with_torch))


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"])
def test_blocks_are_those_of_a_second_implementation(tmp_path, kind):
    dequant = pytest.importorskip("transformers.integrations.gguf.dequant")
    quantisation = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[quantisation]
    stored = np.random.default_rng(0).integers(0, 256, (8, 4 * size), np.uint8)
    # Scales are half floats: no infinities among them.
    halves = stored.reshape(8, 4, size)
    where = {"Q6_K": [size - 2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q4_1": [0, 2], "Q5_1": [0, 2]}.get(kind, [0])
    for place in where:
        halves[..., place : place + 2] = np.float16(0.01).tobytes()[0], np.float16(0.01).tobytes()[1]
    tensor = files.QuantizedTensor(tmp_path, kind, (8, 4 * block), stored, lambda x: x)
    theirs = dequant.dequantize(torch.tensor(stored), quantisation).float().numpy()
    np.testing.assert_allclose(tensor.open(), theirs.reshape(8, 4 * block), rtol=1e-6, atol=1e-7)


def test_a_converted_file_is_a_checkpoint_that_transformers_loads(tmp_path, capsys):
    path, _ = written(tmp_path, "llama", "Q8_0", intermediate_size=128)
    ours = models.load(path)
    status, out, said = run(capsys, "models", "convert", str(path), str(tmp_path / "folder"))
    assert status == 0
    assert "writing 0.00 GB" in said
    assert out.strip() == str(tmp_path / "folder")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "folder", dtype=torch.float32)
    close(models.logits(ours, TOKENS), logits(theirs))
    assert models.fingerprint(models.load(tmp_path / "folder").arrays) == models.fingerprint(ours.arrays)
    status, _, said = run(capsys, "models", "convert", str(path), str(tmp_path / "folder"))
    assert status == 2
    assert "there is a checkpoint already" in said
    status, _, said = run(capsys, "models", "convert", str(tmp_path), str(tmp_path / "other"))
    assert status == 2
    assert "expected a file whose name ends in .gguf" in said
    status, out, _ = run(capsys, "models", "check", str(path))
    assert status == 0
    assert "stored as F32, Q8_0" in out


# Tokenizers ---------------------------------------------------------------------------------------------------------

TEXTS = [
    "Hello world, it's 12345 o'clock.\n\nNew  line",
    "<s>[INST] Rating: 5</s>",
    "Ünïcödé ﬁne \t tab 中文 🙂",
    "  leading and trailing  ",
    "",
    "don't DON'T we'll 3,141.59",
]
CORPUS = [*TEXTS, *("the world of new ratings and actions is wide " * 3 for _ in range(4))]


def byte_level(size=400):
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=["<|end|>", "<|user|>"], show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    content = json.loads(made.to_str())["model"]
    tokens = [word for word, _ in sorted(content["vocab"].items(), key=lambda one: one[1])]
    return tokens, [" ".join(merge) for merge in content["merges"]]


@pytest.mark.parametrize("split", ["gpt-2", "smollm", "qwen2", "llama-bpe"])
def test_byte_level_words_are_those_of_transformers(tmp_path, split):
    tokens, merges = byte_level()
    kinds = [3 if token in ("<|end|>", "<|user|>") else 1 for token in tokens]
    path = tmp_path / "words.gguf"
    gguf_files.write_words(
        path, tokens, kinds, merges, split=split, template="{{ messages[0].content }}", eos_token_id=0, pad_token_id=0
    )
    facts = {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}
    ours = gguf_tokenizer.build_tokenizer(facts, "here")
    for text in [*TEXTS, "<|user|>hi<|end|>"]:
        ids = ours(text)["input_ids"]
        assert ours.decode(ids) == text or "ﬁ" in text
    assert ours("<|user|>")["input_ids"] == [1]
    assert ours.eos_token == "<|end|>"
    assert ours.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "x"
    digits = ours.tokenize("12345")
    assert (digits == list("12345")) >= (split in ("smollm", "qwen2"))


def test_pieces_with_scores_are_merged_as_by_transformers(tmp_path):
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("\u2581"), tokenizers.normalizers.Replace(" ", "\u2581")]
    )
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))],
        show_progress=False,
    )
    made.train_from_iterator(CORPUS, trainer)
    content = json.loads(made.to_str())["model"]
    tokens = [word for word, _ in sorted(content["vocab"].items(), key=lambda one: one[1])]
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)]
    scores = [0.0] * 259 + [-float(i) for i in range(len(tokens) - 259)]
    path = tmp_path / "words.gguf"
    gguf_files.write_words(
        path, tokens, kinds, scores=scores, bos_token_id=1, eos_token_id=2, unk_token_id=0, add_bos_token=True
    )
    facts = {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}
    ours = gguf_tokenizer.build_tokenizer(facts, "here")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    for text in TEXTS:
        found = ours(text)["input_ids"]
        assert found[0] == 1
        if text.startswith((" ", "<s>")):  # there llama.cpp and transformers differ by a space; ours are llama.cpp's
            assert ours.convert_ids_to_tokens(found)[2 - (text[0] == " ")].startswith("\u2581")
            continue
        assert found == theirs(text)["input_ids"]
        assert ours.decode(found, skip_special_tokens=True) == theirs.decode(found, skip_special_tokens=True)


# Mistakes -----------------------------------------------------------------------------------------------------------


def test_damaged_files_are_refused_in_one_sentence(tmp_path):
    path, _ = written(tmp_path, "llama")
    whole = path.read_bytes()
    for size in (2, 10, 100, 1000, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:size])
        with pytest.raises(errors.InputError, match=r"tiny\.gguf: (damaged or cut short|not a GGUF file)"):
            models.load(path)
    path.write_bytes(b"no" * 100)
    with pytest.raises(errors.InputError, match="not a GGUF file"):
        models.open_checkpoint(path)


def test_what_is_not_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "other.gguf"
    source = checkpoint("llama")
    writer = gguf.GGUFWriter(path, "mamba")
    gguf_files.finish(writer)
    with pytest.raises(errors.InputError, match=r"unknown architecture 'mamba'.*load its Hugging Face checkpoint"):
        models.open_checkpoint(path)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", np.zeros((8, 84), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q2_K)
    gguf_files.finish(writer)
    with pytest.raises(errors.InputError, match="the quantisation Q2_K is not read; read are F32, F16"):
        models.open_checkpoint(path)
    gguf_files.finish(gguf.GGUFWriter(path, "llama"))
    with pytest.raises(errors.InputError, match=r"llama\.attention\.head_count is missing"):
        models.open_checkpoint(path)
    gguf_files.write(path, source.torch, "llama", extra={"blk.0.attn_strange.weight": np.ones(3)})
    with pytest.raises(errors.InputError, match="attn_strange"):
        models.open_checkpoint(path)
    tokens, merges = byte_level()
    facts = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smolm", "tokenizer.ggml.tokens": tokens}
    with pytest.raises(errors.InputError, match="unknown way to split words 'smolm'; did you mean 'smollm'"):
        gguf_tokenizer.build_tokenizer({**facts, "tokenizer.ggml.merges": merges}, "here")
    with pytest.raises(errors.InputError, match="unknown tokenizer 'bert'"):
        gguf_tokenizer.build_tokenizer({"tokenizer.ggml.model": "bert"}, "here")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(errors.InputError, match=r"pip install \"vatjax\[gguf\]\""):
        models.open_checkpoint(path)
