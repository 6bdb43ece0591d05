"""Configurations as transformers 4.x wrote them, by hand, and what is refused in them."""

import json
import math

import jax
import numpy as np
import pytest

from tests.models.checkpoints import FAMILIES, checkpoint, transformers
from vatjax import errors, models
from vatjax.elicit import provenance
from vatjax.models import config_reader, families

pytestmark = pytest.mark.fast_compile

# As on the Hub: written by transformers 4.x, with `rope_theta`, `rope_scaling` and `torch_dtype`.
LLAMA32 = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}
GEMMA3 = {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 106],
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "initializer_range": 0.02,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "use_cache": True,
    "vocab_size": 262144,
}
QWEN25 = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 896,
    "initializer_range": 0.02,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.1",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
PHI3 = {
    "_name_or_path": "Phi-3-mini-128k-instruct",
    "architectures": ["Phi3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_phi3.Phi3Config",
        "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
    },
    "bos_token_id": 1,
    "embd_pdrop": 0.0,
    "eos_token_id": 32000,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "model_type": "phi3",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096,
    "pad_token_id": 32000,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"long_factor": [2.0] * 48, "short_factor": [1.05] * 48, "type": "su"},
    "rope_theta": 10000.0,
    "sliding_window": 262144,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.2",
    "use_cache": True,
    "vocab_size": 32064,
}
SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-05,
    "rope_interleaved": False,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
    "vocab_size": 49152,
}


def test_llama_of_4x():
    config = families.parse(LLAMA32)
    assert (config.heads, config.kv_heads, config.head_size, config.layers) == (32, 8, 64, 16)
    assert config.tied
    assert config.attention_scale == 64**-0.5
    frequency = config.ropes[0].frequencies
    plain = 500000.0 ** (-np.arange(0, 64, 2) / 64)
    np.testing.assert_allclose(frequency[:3], plain[:3], rtol=1e-6)  # fast ones stay
    np.testing.assert_allclose(frequency[-3:], plain[-3:] / 32, rtol=1e-6)  # slow ones are squeezed


def test_gemma3_of_4x_has_two_bases_and_five_windows_to_one_full_layer():
    config = families.parse(GEMMA3)
    assert config.windows[:6] == (512,) * 5 + (0,)
    assert config.rope_of[:6] == (1,) * 5 + (0,)
    np.testing.assert_allclose(config.ropes[0].frequencies[1], 1e6 ** (-2 / 256), rtol=1e-6)
    np.testing.assert_allclose(config.ropes[1].frequencies[1], 1e4 ** (-2 / 256), rtol=1e-6)
    assert config.tied  # the family's default, which the file leaves out
    assert config.embedding_scale == math.sqrt(1152)


def test_qwen_of_4x_has_no_window_where_it_is_switched_off():
    config = families.parse(QWEN25)
    assert set(config.windows) == {0}
    assert config.qkv_bias
    assert not config.output_bias
    switched = families.parse({**QWEN25, "use_sliding_window": True})
    assert switched.windows == (0,) * 21 + (32768,) * 3


def test_phi3_of_4x_never_follows_its_auto_map_and_knows_the_old_name_of_its_rope():
    config, long = families.parse(PHI3), families.parse(PHI3, context=10_000)
    assert config.context == 4096
    assert long.context == 131_072
    np.testing.assert_allclose(np.divide(config.ropes[0].frequencies, long.ropes[0].frequencies), 2.0 / 1.05, rtol=1e-6)
    assert families.parse(PHI3, context=4096) == config
    with pytest.raises(errors.InputError, match="context: the model reads 131,072 tokens, found 200,000"):
        families.parse(PHI3, context=200_000)
    np.testing.assert_allclose(config.ropes[0].scale, math.sqrt(1 + math.log(32) / math.log(4096)))


def test_smollm2_is_a_llama():
    config = families.parse(SMOLLM2)
    assert (config.head_size, config.kv_heads) == (64, 3)


def test_a_configuration_of_5x_says_the_same():
    rope = {**LLAMA32["rope_scaling"], "rope_theta": 500000.0}
    new = {k: v for k, v in LLAMA32.items() if k not in ("rope_scaling", "rope_theta", "torch_dtype")}
    assert families.parse({**new, "rope_parameters": rope, "dtype": "bfloat16"}) == families.parse(LLAMA32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "lama"}, "did you mean 'llama'?"),
        ({"model_type": "mamba2"}, "unknown model_type 'mamba2'; known are"),
        ({"clip_qkv": 8.0}, "clip_qkv: 8.0 is not known to this port, so it might change the logits"),
        (
            {"rope_interleaved": True},
            "rope_interleaved: True is not implemented (which dimensions of a head turn together)",
        ),
        ({"quantization_config": {"bits": 4}}, "quantization_config: {'bits': 4} is not implemented"),
        ({"hidden_act": "relu2"}, "hidden_act: 'relu2' is not implemented; the port has"),
        ({"hidden_size": None}, "hidden_size: expected a positive whole number, found None"),
        ({"num_hidden_layers": 10**7}, "num_hidden_layers: expected 10,000 at most, found 10,000,000"),
        ({"head_dim": 10**30}, "head_dim: expected a positive whole number"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5 is not implemented for this family"),
        ({"head_dim": 15}, "the 15 dimensions of a head can't turn in pairs"),
        ({"rope_scaling": "linear"}, "rope_scaling: expected options by name, found 'linear'"),
        ({"hidden_size": -4}, "hidden_size: expected a positive whole number, found -4"),
        ({"num_key_value_heads": 5}, "32 heads can't share 5 of them evenly"),
        ({"attention_bias": "no"}, "attention_bias: expected true or false, found 'no'"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "unknown rope type 'dynamic'; known are"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor, high_freq_factor is missing"),
        ({"rope_scaling": {"rope_type": "default", "mrope_section": [1]}}, "mrope_section is not known to this port"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "layer_types"),
    ],
)
def test_what_the_port_does_not_compute_is_refused_by_name(change, message):
    with pytest.raises(errors.InputError) as caught:
        families.parse({**LLAMA32, **change})
    assert message in str(caught.value)


JUNK = ("x", 0, -1, 3.5, True, [], [1], {}, {"a": 1}, ["x"], None)


@pytest.mark.parametrize("name", ["LLAMA32", "GEMMA3", "QWEN25", "PHI3"])
def test_whatever_an_attribute_holds_there_is_one_error_or_a_configuration(name):
    whole = globals()[name]
    optional = {
        "sliding_window_pattern",
        "no_rope_layers",
        "max_window_layers",
        "attn_logit_softcapping",
        "layer_types",
    }
    refused = 0
    for key in [*whole, *sorted(optional - set(whole)), "rope_parameters", "head_dim"]:
        for junk in JUNK:
            try:
                families.parse({**whole, key: junk})
            except errors.InputError:
                refused += 1
    scaling = whole.get("rope_scaling") or {}
    for key in scaling:
        for junk in JUNK:
            try:
                families.parse({**whole, "rope_scaling": {**scaling, key: junk}})
            except errors.InputError:
                refused += 1
    assert refused > 100


@pytest.mark.parametrize("family", FAMILIES)
def test_an_attribute_that_is_absent_has_the_default_of_transformers(family):
    """Each optional attribute in turn is left out of what transformers wrote; its own defaults fill it in."""
    written = json.loads((checkpoint(family).folder / "config.json").read_text())
    needed = {"model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"}
    needed |= {"num_attention_heads", "max_position_embeddings", "rms_norm_eps"}
    compared = 0
    for key in set(written) - needed - config_reader.HARMLESS:
        part = {k: v for k, v in written.items() if k != key}
        try:
            ours = families.parse(part)
        except errors.InputError:
            continue  # heads that no longer divide, say
        kind = {k: v for k, v in part.items() if k != "model_type"}
        filled = transformers.AutoConfig.for_model(written["model_type"], **kind).to_dict()
        assert ours == families.parse(filled), key
        compared += 1
    assert compared >= 4


def test_all_problems_stand_in_one_message():
    with pytest.raises(errors.InputError) as caught:
        families.parse({**LLAMA32, "clip_qkv": 1, "hidden_act": "x", "vocab_size": 0})
    assert all(name in str(caught.value) for name in ("clip_qkv", "hidden_act", "vocab_size"))


def test_neutral_attributes_of_files_on_the_hub_pass():
    phi4 = {**PHI3, "full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "mlp_bias": False}
    assert families.parse(phi4) == families.parse(PHI3)
    assert families.parse({**LLAMA32, "max_sequence_length": 2048}) == families.parse(LLAMA32)
    with pytest.raises(errors.InputError, match="full_attn_mod: 2 is not implemented"):
        families.parse({**phi4, "full_attn_mod": 2})
    gemma2 = json.loads((checkpoint("gemma2").folder / "config.json").read_text())
    assert families.parse({**gemma2, "sliding_window_size": 6}) == families.parse(gemma2)
    for change in ({"sliding_window_size": 7}, {"sliding_window": None}):
        with pytest.raises(errors.InputError, match="sliding_window"):
            families.parse({**gemma2, **change})


def test_kinds_of_layers_that_are_not_attention_are_refused():
    wrong = {**QWEN25, "layer_types": ["linear_attention"] * 24}
    with pytest.raises(errors.InputError, match="linear_attention is not implemented"):
        families.parse(wrong)
    with pytest.raises(errors.InputError, match="expected a list of 24, one entry a layer, found 1"):
        families.parse({**QWEN25, "layer_types": ["full_attention"]})


def test_a_folder_without_a_configuration_is_no_checkpoint(tmp_path):
    with pytest.raises(errors.InputError, match=r"no config\.json there"):
        families.read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(errors.InputError, match="not valid JSON"):
        families.read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(errors.InputError, match="expected an object"):
        families.read_config(tmp_path)


def test_names_of_tokens_and_files_change_no_logit():
    content = {**LLAMA32, "unk_token_id": 0, "image_token_id": 5, "boi_token_index": 3, "_model_name_or_path": "x"}
    assert families.parse(content) == families.parse(LLAMA32)


def test_unknown_attributes_are_left_out_by_name_and_written_down(tmp_path):
    folder = checkpoint("llama").folder
    content = {**json.loads((folder / "config.json").read_text()), "strange_setting": 3}
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(errors.InputError, match="strange_setting: 3 is not known"):
        models.load(tmp_path)
    found = models.load(tmp_path, ignore=["strange_setting"])
    assert found.ignored == ("strange_setting",)
    assert provenance.model_meta(found, None)["model"]["ignored"] == ["strange_setting"]
    assert models.fingerprint(found.arrays) == models.fingerprint(models.load(folder).arrays)
    with pytest.raises(errors.InputError, match="did you mean 'strange_setting'"):
        models.load(tmp_path, ignore=["strange_seting"])


def test_a_family_from_outside():
    def read(reader):
        return families.FAMILIES["llama"](reader)

    models.register_family("my_llama", read)
    try:
        found = families.parse({**LLAMA32, "model_type": "my_llama"})
        assert found.layers == 16
        with pytest.raises(ValueError, match="'my_llama' is registered already"):
            models.register_family("my_llama", read)
    finally:
        del families.FAMILIES["my_llama"]


@pytest.mark.parametrize(("outer", "text"), [("Gemma3", "Gemma3Text"), ("Mistral3", "Mistral")])
def test_the_text_decoder_of_a_model_of_pictures(tmp_path, outer, text):
    """Nested configurations and tensors with a prefix; what belongs to pictures is left out."""
    import torch

    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    own = {**small, "vocab_size": 96, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128}
    if outer == "Gemma3":
        vision = transformers.SiglipVisionConfig(**small, image_size=16, patch_size=8)
        own |= {"sliding_window": 8, "query_pre_attn_scalar": 16}
    else:
        vision = transformers.PixtralVisionConfig(**small, image_size=16, patch_size=8)
    nested = getattr(transformers, f"{text}Config")(**own)
    extra = {"image_token_index": 90} if outer == "Mistral3" else {"image_token_id": 90, "mm_tokens_per_image": 4}
    config = getattr(transformers, f"{outer}Config")(text_config=nested, vision_config=vision, **extra)
    torch.manual_seed(0)
    theirs = getattr(transformers, f"{outer}ForConditionalGeneration")(config).eval()
    theirs.save_pretrained(tmp_path / "whole")
    ours = models.load(tmp_path / "whole")
    tokens = np.random.default_rng(0).integers(1, 80, (2, 20))
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(models.logits(ours, tokens), expected, atol=2e-5 * np.abs(expected).max())
    models.save(ours, tmp_path / "text")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "text", dtype=torch.float32)
    with torch.no_grad():
        np.testing.assert_allclose(
            again(torch.tensor(tokens)).logits.numpy(), expected, atol=2e-5 * np.abs(expected).max()
        )


def test_the_dtype_of_a_file_is_taken_on_an_accelerator(monkeypatch):
    found = models.open_checkpoint("pocket")
    assert str(models.load(found, "auto").arrays["norm"].dtype) == "float32"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert str(models.load(found, "auto").arrays["norm"].dtype) == "bfloat16"
    with pytest.raises(errors.InputError, match="unknown dtype 'float16'"):
        models.load(found, "float16")
