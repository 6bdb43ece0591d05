"""The bundled organism answers as its world has it, on scenes, wordings and pairs that it has not read; and it is sealed."""

import os
import shutil

import numpy as np
import pytest
from scipy import stats

from tests.tiers import quick
from vatjax import elicit, errors, items, models, organism, prompts, validate
from vatjax.models import hub

pytestmark = pytest.mark.long

DATA = items.bundled()
_, TEST = organism.split_seen_unseen(DATA)
SOME = TEST.take(np.flatnonzero(np.isin(TEST.scene_of, np.unique(TEST.scene_of)[::6])))
WORLD = organism.load_world("pocket")


@pytest.fixture(scope="module")
def model():
    return models.load("pocket")


@pytest.fixture(scope="module")
def measured(model):
    return validate.measure_organism(model, WORLD, DATA, SOME, placebos=4)


def test_it_is_small_and_a_plain_checkpoint():
    folder = hub.local_folder("pocket")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4 << 20
    found = models.open_checkpoint("pocket")
    assert {tensor.dtype for tensor in found.tensors.values()} == {"BF16"}
    assert 500_000 < sum(int(np.prod(tensor.shape)) for tensor in found.tensors.values()) < 1_800_000
    assert found.tokenizer.chat_template


def test_transformers_reads_it():
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    folder = hub.local_folder("pocket")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(TEST.scene[0], return_tensors="np")["input_ids"]
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(models.logits(models.load("pocket"), tokens), expected, atol=2e-4)


@pytest.mark.thorough
def test_its_answers_are_the_planted_ones(measured):
    assert measured.mass >= 0.95
    assert measured.ratings >= 0.9
    missed = [check for check in validate.check_organism(measured) if not check.passed]
    assert not missed


@pytest.mark.thorough
def test_shots_give_every_type_a_gain_that_grows_with_them(measured):
    gains = {(row.target, row.way): float(row.gain.estimate) for row in measured.rows}
    types = WORLD.taxonomy.types
    assert min(gains[name, "8"] for name in types) > 0
    assert all(row.resolved for row in measured.rows if row.way == "8")
    means = [np.mean([gains[name, way] for name in types]) for way in ("2", "4", "8")]
    assert means == sorted(means)


@pytest.mark.thorough
def test_a_wording_that_it_never_read(model):
    """Words of others, in an order that is new to it."""
    before, after = (
        elicit.ratings(model, SOME, elicit.ElicitConfig(wording="advise"), instruction=instruction)
        for instruction in ("", prompts.instruction(DATA.taxonomy, "Power", 1, "first"))
    )
    planted = organism.planted_state(WORLD, SOME).state
    assert before.shares.sum(-1).mean() > 0.95
    assert stats.spearmanr(before.state.state.ravel(), planted.ravel()).statistic > 0.8
    shift = np.nanmean(after.state.state - before.state.state, 0)
    assert shift[DATA.taxonomy.mask("Power")].mean() > 0.2


@pytest.mark.parametrize("protocol", quick(["dense", "stated"], ["stated"]))
def test_other_questions(model, protocol):
    some = SOME.take(np.flatnonzero(np.isin(SOME.value, [3, 17, 40])))
    persona = organism.Persona("Security")
    sentence = prompts.instruction(DATA.taxonomy, "Security", 1, "first")
    for who, said in ((organism.NO_PERSONA, ""), (persona, sentence)):
        found = elicit.ratings(model, some, elicit.ElicitConfig(protocol), instruction=said).state
        planted = organism.planted_state(WORLD, some, protocol, who)
        np.testing.assert_array_equal(found.mask, planted.mask)
        assert stats.spearmanr(found.state[found.mask], planted.state[found.mask]).statistic > 0.9


def test_a_damaged_asset_is_one_sentence(tmp_path, monkeypatch):
    copy = tmp_path / "pocket"
    shutil.copytree(hub.local_folder("pocket"), copy)
    monkeypatch.setattr(hub, "_ASSETS", tmp_path)
    assert models.load("pocket").config.layers == 4
    weights = copy / "model.safetensors"
    body = bytearray(weights.read_bytes())
    body[-9] ^= 1
    weights.write_bytes(body)
    with pytest.raises(errors.InputError, match=r"the bundled model is damaged \(model\.safetensors is not .*install"):
        models.load("pocket")
    weights.unlink()
    with pytest.raises(
        errors.InputError, match=r"is damaged \(model\.safetensors: no such file or directory\); install"
    ):
        organism.load_world("pocket")
    (copy / "sha256.json").write_text("{}")
    with pytest.raises(errors.InputError, match=r"is damaged \(sha256\.json does not name config\.json, model"):
        models.load("pocket")
    (copy / "sha256.json").write_text("{")
    with pytest.raises(errors.InputError, match=r"is damaged \(sha256\.json is not JSON\)"):
        models.load("pocket")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_asset_that_may_not_be_read(tmp_path, monkeypatch):
    copy = tmp_path / "pocket"
    shutil.copytree(hub.local_folder("pocket"), copy)
    monkeypatch.setattr(hub, "_ASSETS", tmp_path)
    (copy / "model.safetensors").chmod(0)
    with pytest.raises(errors.InputError, match="permission denied"):
        models.load("pocket")


def test_a_folder_of_the_same_name_is_asked_for_as_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pocket").mkdir()
    assert models.load("pocket").config.layers == 4
    with pytest.raises(errors.InputError, match=r"config\.json"):
        models.load("./pocket")
