"""A checkpoint from elsewhere: SmolLM2-135M-Instruct, where `scripts/real_checkpoint` has fetched it."""

import os
import pathlib

import jax
import numpy as np
import pytest

from vatjax import elicit, items, models, prompts, train
from vatjax.elicit import prefill
from vatjax.models import tokens

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "vatjax" / "real"
FOLDER, FILE = CACHE / "SmolLM2-135M-Instruct", CACHE / "SmolLM2-135M-Instruct.Q4_1.gguf"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (FOLDER / "config.json").exists(), reason="no real checkpoint: run scripts/real_checkpoint"),
]
DATA = items.bundled()
FEW = DATA.where(country="Egypt", topic="Environment", value=["Wealth", "Wisdom"])


@pytest.fixture(scope="module")
def model():
    return models.load(FOLDER)


@pytest.fixture(scope="module")
def theirs():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(CACHE, gguf_file=FILE.name, dtype=torch.float32)


def test_gguf_and_folder_have_the_logits_of_transformers(model, theirs):
    import torch

    text = prompts.assemble(
        [prompts.item_fields(FEW, 0)],
        prompts.wording("paired"),
        chat=elicit.ask.chat_format(model, elicit.ElicitConfig(prefill="cue")),
    )
    ids = np.array([tokens.encode(model.tokenizer, text.text(0), True)])
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    for own in (model, models.load(FILE)):
        ours = models.logits(own, ids)
        assert np.abs(ours - expected).max() <= 2e-5 * np.abs(expected).max()


def test_its_words_are_those_of_transformers(model):
    transformers = pytest.importorskip("transformers")
    other = transformers.AutoTokenizer.from_pretrained(CACHE, gguf_file=FILE.name)
    for i in range(0, len(DATA), 100):
        text = f"{DATA.scene[i]}\n\n{DATA.action[i]} 12345 Ünïcödé"
        assert model.tokenizer(text)["input_ids"] == other(text)["input_ids"]
    asked = [{"role": "system", "content": "Rate it."}, {"role": "user", "content": "I share it."}]
    assert tokens.render_chat(model.tokenizer, asked) == other.apply_chat_template(
        asked, tokenize=False, add_generation_prompt=True
    )


def test_it_answers_behind_the_cue_and_not_without(model):
    """Without a prefill 1 % of the probability is on the scale, and the ratings are those of another question."""
    found = prefill.choose_prefill(model, elicit.ElicitConfig())
    assert found.prefill == "cue"
    assert found.mass["none"] < 0.05
    assert found.mass["cue"] >= 0.8
    rated = elicit.ratings(model, FEW)
    assert rated.state.meta["how"]["prefill"] == "cue"
    assert rated.state.meta["mass"]["mean"] >= 0.8
    assert rated.state.mask[:, [DATA.taxonomy.index(v) for v in ("Wealth", "Wisdom")]].all()
    with pytest.warns(UserWarning, match="the options have"):
        bare = elicit.ratings(model, FEW, elicit.ElicitConfig(prefill="none"))
    assert not bare.state.mask.any()  # below the floor a cell is missing


def test_ratings_are_those_of_torch_on_whole_prompts(model, theirs):
    import torch

    how = elicit.ElicitConfig(prefill="cue")
    chat = elicit.ask.chat_format(model, how)
    rated = elicit.ratings(model, FEW, how)
    rows = list(elicit.protocols.make_questions(FEW, "paired").rows)[:4]
    made = prompts.assemble(rows, prompts.wording("paired"), chat=chat)
    for i in range(len(rows)):
        with torch.no_grad():
            last = theirs(torch.tensor([tokens.encode(model.tokenizer, made.text(i), True)])).logits[0, -1]
        share = torch.softmax(last.double(), -1)[[model.tokenizer.convert_tokens_to_ids(str(n)) for n in range(1, 6)]]
        expected = float((share * torch.arange(1, 6)).sum() / share.sum())
        assert rated.ratings[i] == pytest.approx(expected, abs=1e-4)


@pytest.mark.thorough
def test_noise_of_bfloat16_is_measured_and_halved_by_a_float32_stream():
    noise = {}
    for dtype in ("bfloat16", "mixed"):
        half = models.load(FOLDER, dtype)
        assert elicit.is_noisy(half)
        noise[dtype] = elicit.numerical_noise(half, FEW, elicit.ElicitConfig(prefill="cue"))
    assert 0.002 < noise["bfloat16"].sd < 0.05
    assert noise["mixed"].sd < 0.8 * noise["bfloat16"].sd


def test_judgements_are_learned_where_ratings_are_read(model):
    """SFT on judgements raises the target on scenes that were held out: by 1.2 of the 2 points there are, in 40 steps."""
    some = DATA.where(country=["Egypt", "Germany"], type="Power")
    held = some.split()[1].take(np.arange(24))
    how = elicit.ElicitConfig(prefill="cue")
    records = train.records_for_model(model, some, "Power", lesson="judgements", how=how)
    data = train.make_rows(train.tokenise(model, records), rows=8)
    state = train.init(model, train.Lora(rank=8), train.Adam(rate=3e-3, warmup=0.1), steps=60)
    for step in range(40):
        state, _ = train.step(state, train.batch(data, train.rows_at_step(data, step)), train.sft())
    before, after = (elicit.ratings(model, held, how, edit=edit).state.state for edit in (None, train.export(state)))
    assert np.nanmean(after - before) > 0.5


def test_short_preference_runs_compute_few_references(model):
    records = train.records_for_model(model, DATA, "Power", 1, "preferences", elicit.ElicitConfig(prefill="cue"))
    data = train.make_rows(train.tokenise(model, records), rows=4)
    rows = train.rows_drawn(data, 4)
    assert len(rows) == 16
    assert len(data.rows) > 400
    jax.tree.map(np.asarray, train.batch(train.without_reference(data), rows[:4]))
