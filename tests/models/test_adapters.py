"""LoRA to `peft` and from it, with the same logits."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.models.checkpoints import SHAPE, checkpoint, torch, transformers
from vatjax import errors, models
from vatjax.models import weights as wt
from vatjax.models.edit import PROJECTIONS

peft = pytest.importorskip("peft")

# peft asks transformers by a name that is about to change.
pytestmark = [pytest.mark.fast_compile, pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")]

TOKENS = np.random.default_rng(0).integers(3, SHAPE["vocab_size"], (2, 24))


def random_lora(config, ranks, seed=0):
    random = np.random.default_rng(seed)
    shapes = {p.name: p.shape for p in wt.parameters(config)}

    def drawn(*shape):
        return jnp.asarray(random.normal(scale=0.1, size=shape), jnp.float32)

    lora = {}
    for name, rank in ranks.items():
        width, out = shapes[name]
        lora[name] = models.LowRank(drawn(config.layers, width, rank), drawn(config.layers, rank, out))
    return models.Edit(jnp.asarray(0.7), lora=lora)


def fresh(family):
    """A torch model that `peft` may change, equal to the shared one."""
    return transformers.AutoModelForCausalLM.from_pretrained(checkpoint(family).folder, attn_implementation="eager")


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma3"])
def test_what_is_written_runs_under_peft(family, tmp_path):
    model = models.load(checkpoint(family).folder)
    edit = random_lora(model.config, dict(zip(PROJECTIONS, (2, 3, 2, 4, 2, 5, 2), strict=True)))
    models.save_adapter(edit, model.config, tmp_path, base="owner/base")
    theirs = peft.PeftModel.from_pretrained(fresh(family), tmp_path).eval()
    with torch.no_grad():
        expected = theirs(torch.tensor(TOKENS)).logits.numpy()
    ours = models.logits(model, TOKENS, edit=edit)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=5e-5)
    assert np.abs(ours - models.logits(model, TOKENS)).max() > 0.05
    back = models.load_adapter(tmp_path, model.config)
    np.testing.assert_allclose(models.logits(model, TOKENS, edit=back), expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "down_proj"], "r": 4, "lora_alpha": 12},
        {"target_modules": ["q_proj", "v_proj"], "r": 4, "use_rslora": True},
        {
            "target_modules": ["k_proj", "up_proj"],
            "rank_pattern": {"k_proj": 2},
            "alpha_pattern": {"layers.1.mlp.up_proj": 32},
        },
        {"target_modules": ["o_proj", "gate_proj"], "layers_to_transform": [1, 2]},
    ],
)
def test_what_peft_writes_runs_here(options, tmp_path):
    theirs = peft.get_peft_model(fresh("llama"), peft.LoraConfig(task_type="CAUSAL_LM", **options)).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
        expected = theirs(torch.tensor(TOKENS)).logits.numpy()
    theirs.save_pretrained(tmp_path)
    model = models.load(checkpoint("llama").folder)
    edit = models.load_adapter(tmp_path, model.config)
    np.testing.assert_allclose(models.logits(model, TOKENS, edit=edit), expected, rtol=0, atol=3e-5)
    assert np.abs(expected - models.logits(model, TOKENS)).max() > 0.02


def test_a_fresh_adapter_keeps_its_first_factor(tmp_path):
    peft.get_peft_model(fresh("llama"), peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    edit = models.load_adapter(tmp_path, models.load(checkpoint("llama").folder).config)
    assert np.abs(edit.lora["query"].down).max() > 0
    assert np.abs(edit.lora["query"].up).max() == 0


@pytest.fixture
def adapter(tmp_path):
    config = models.load(checkpoint("llama").folder).config
    models.save_adapter(random_lora(config, {"query": 2}), config, tmp_path)

    def refused(options=None, change=None):
        file, weights = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
        kept, tensors = file.read_text(), load_file(weights)
        if options is not None:
            file.write_text(options if isinstance(options, str) else json.dumps({**json.loads(kept), **options}))
        if change is not None:
            content = dict(tensors)
            change(content)
            save_file(content, weights)
        with pytest.raises(errors.InputError) as caught:
            models.load_adapter(tmp_path, config)
        file.write_text(kept)
        save_file(tensors, weights)
        return str(caught.value)

    return refused


A = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


def test_what_is_no_plain_lora_is_refused_by_name(adapter, tmp_path):
    assert "use_dora: True" in adapter({"use_dora": True})
    assert "lora_alpha: expected a positive number, found 'x'" in adapter({"lora_alpha": "x"})
    assert "r: expected a positive whole number, found 0" in adapter({"r": 0})
    assert "alpha_pattern: expected alphas by module" in adapter({"alpha_pattern": {"q_proj": None}})
    assert "use_rslora: expected true or false" in adapter({"use_rslora": "no"})
    assert "expected the shape [5, 64], found [2, 64]" in adapter({"r": 5})
    assert "init_lora_weights: 'pissa'" in adapter({"init_lora_weights": "pissa"})
    assert "use_future_thing: True" in adapter({"use_future_thing": True})
    assert "modules_to_save: ['lm_head']" in adapter({"modules_to_save": ["lm_head"]})
    assert "expected peft_type LORA" in adapter({"peft_type": "IA3"})
    assert "not a JSON object" in adapter("[")
    assert "not a JSON object" in adapter("[]")
    assert f"{A} is missing" in adapter(change=lambda x: x.pop(A))
    assert "is not a projection of this llama" in adapter(
        change=lambda x: x.update({"base_model.model.lm_head.x": x[A]})
    )
    wide = {A: np.zeros((2, 63), np.float32)}
    assert "expected the shape [2, 64], found [2, 63]" in adapter(change=lambda x: x.update(wide))
    (tmp_path / "adapter_model.safetensors").unlink()
    config = models.load(checkpoint("llama").folder).config
    with pytest.raises(errors.InputError, match=r"no adapter_model\.safetensors there"):
        models.load_adapter(tmp_path, config)
    with pytest.raises(errors.InputError, match="so it is not an adapter"):
        models.load_adapter(tmp_path / "nowhere", config)


def test_an_edit_that_is_no_lora_has_no_adapter(tmp_path):
    config = models.load(checkpoint("llama").folder).config
    for edit, found in (
        (models.Edit(jnp.ones(())), "nothing"),
        (models.Edit(jnp.ones(()), residual=jnp.ones((4, 64))), "residual"),
    ):
        with pytest.raises(errors.InputError, match=f"low-rank changes alone; this edit has {found}"):
            models.save_adapter(edit, config, tmp_path)
    stack = jax.tree.map(lambda x: jnp.stack([x, x]), random_lora(config, {"query": 2}))
    (tmp_path / "file").write_text("")
    for act in (
        lambda: models.save_adapter(random_lora(config, {"query": 2}), config, tmp_path / "file"),
        lambda: models.load_adapter(tmp_path / "file", config),
    ):
        with pytest.raises(errors.InputError, match="this is a file"):
            act()
    with pytest.raises(errors.InputError, match="a stack of them"):
        models.save_adapter(stack, config, tmp_path)
