"""Two stages with writers that do everything wrong, with tables, and with the bundled model."""

import collections
import dataclasses
import json
import re

import numpy as np
import pytest
import yaml

from tests.test_cli import run
from vatjax import authoring, errors, items, models, values
from vatjax.authoring import asking, judge_gates, pipeline, writers
from vatjax.authoring.records import Verdict
from vatjax.elicit import ask

SCENES = {
    "Kenya": "The tenants in Nakuru must clean the water tank, and the caretaker is away. All of them look at me now.",
    "Norway": "A shift at the fish plant in Bodø is short of two people, and the leader asks who stays until midnight.",
}
GOOD = {
    "express": "I fetch the long ladder from the yard and carry the first bucket up.",
    "suppress": "I lock my door, turn the radio up and let them call.",
}


class Writing:
    """A writer that gives, at each attempt, what a function says."""

    name, prompts, budgeted = "test", "1", True

    def __init__(self, text):
        self.text, self.asked = text, []

    def write(self, requests, attempt):
        self.asked.append((attempt, len(requests)))
        found = [self.text(request, attempt) for request in requests]
        return [
            own if own is None else writers.Written(authoring.Text(*own), "Say one concrete thing.") for own in found
        ]


class Pleased:
    """A judge that passes everything but what a function refuses."""

    name, prompts = "pleased", "1"

    def __init__(self, refuse=lambda fields: None):
        self.refuse, self.seen = refuse, 0

    def judge(self, stage, fields, settings):
        self.seen += len(fields)
        return [[Verdict("judge", self.refuse(own) is None, self.refuse(own) or "", 1.0, 1.0)] for own in fields]


def settings(tmp_path, **changes):
    own = {"out": str(tmp_path), "countries": ("Kenya", "Norway"), "topics": ("Work",), "values": ("Wealth",)}
    return authoring.Build(**{**own, **changes})


def scene(request, attempt):
    return (SCENES[request.fields["country"]],)


def made(own, action, judge=None, scenes=scene):
    both = {"scene": Writing(scenes), "action": Writing(action)}
    return authoring.run_pipeline(own, values.schwartz(), both, judge or Pleased()), both


def told(request, attempt):
    """Good actions, another one in each scene."""
    place = request.fields["country"]
    return (f"{GOOD[request.fields['polarity']]} In {place} nobody minds, says the {place} of my mother.",)


def test_all_good(tmp_path):
    found, both = made(settings(tmp_path), told)
    assert (len(found.scenes), len(found.actions), found.apart) == (2, 4, [])
    assert both["action"].asked == [(0, 4)]
    data = authoring.to_items(found, values.schwartz())
    assert sorted({(item.country, item.polarity) for item in data}) == [
        (country, side) for country in ("Kenya", "Norway") for side in ("express", "suppress")
    ]
    assert len(data.pair().express) == 2


@pytest.mark.parametrize(
    ("text", "gate", "why"),
    [
        (lambda *_: ("",), "whole", "empty"),
        (lambda *_: ("I carry water up and " * 6, False), "whole", "does not end"),
        (lambda *_: ("Ich trage das Wasser nach oben und rufe den Hausmeister an.",), "language", "de with"),
        (lambda *_: ("Say one concrete thing.",), "echo", "100%"),
        (lambda *_: ("I carry the first bucket up and count my wealth.",), "leak", "names the value: 'wealth'"),
        (lambda *_: ("I carry the first bucket up to the tank and come back.",), "duplicate", "in the same scene"),
    ],
    ids=["empty", "endless", "language", "prompt", "leak", "same"],
)
def test_a_writer_that_never_learns_is_kept_apart_with_the_reason(tmp_path, text, gate, why):
    found, both = made(settings(tmp_path, countries=("Kenya",)), text)
    assert both["action"].asked[0] == (0, 2)
    assert len(both["action"].asked) == 3  # twice more, as the budget says
    assert found.apart
    assert all(one.why.startswith(gate) and why in one.why for one in found.apart)
    assert len(found.actions) + len(found.apart) == 2
    assert len(found.records) == 1 + 2 + 2 * len(found.apart)


def test_what_fails_once_is_written_again(tmp_path):
    found, both = made(settings(tmp_path), lambda request, attempt: told(request, attempt) if attempt else ("",))
    assert both["action"].asked == [(0, 4), (1, 4)]
    assert [one.attempt for one in found.actions] == [1] * 4
    assert [(one.attempt, one.passed) for one in found.records[2:]] == [(0, False)] * 4 + [(1, True)] * 4


@pytest.mark.parametrize(("side", "where"), [(False, "in another scene"), (True, "across the split")])
def test_the_same_action_in_another_scene_says_where(tmp_path, side, where):
    """Of two scenes that are on one side of the split, and of two that are not."""
    many = [f"{SCENES['Kenya']} It is the {number}. day of the drought, of all days." for number in range(20)]
    first = many[0]
    own = next(text for text in many[1:] if (items.table.on_test_side(text) != items.table.on_test_side(first)) == side)

    def scenes(request, attempt):
        return (first if request.fields["country"] == "Kenya" else own,)

    gates = authoring.Gates(duplicate=0.99)
    found, _ = made(
        settings(tmp_path, budget=0, gates=gates), lambda request, _: (GOOD[request.fields["polarity"]],), scenes=scenes
    )
    assert len(found.actions) == 2
    assert [one.request.fields["country"] for one in found.apart] == ["Norway"] * 2
    assert all(one.why.endswith(where) for one in found.apart)


def test_what_no_gate_passed_the_judge_is_not_asked_about(tmp_path):
    judge = Pleased(lambda fields: "no" if fields.get("polarity") == "suppress" else None)
    found, _ = made(settings(tmp_path, budget=0), told, judge)
    assert judge.seen == 2 + 4
    assert [one.why for one in found.apart] == ["judge: no"] * 2
    silent = Pleased()
    made(settings(tmp_path, budget=0), lambda *_: ("",), silent)
    assert silent.seen == 2


def test_what_a_judge_refused_is_no_twin_of_what_is_written_next(tmp_path):
    """The same text again, and a judge that has changed its mind: it comes to the judge once more."""
    writer = {"scene": Writing(scene), "action": Writing(told)}
    judge = Pleased(lambda fields: "not yet" if "action" in fields and len(writer["action"].asked) == 1 else None)
    found = authoring.run_pipeline(settings(tmp_path), values.schwartz(), writer, judge)
    assert (len(found.actions), found.apart) == (4, [])
    assert [one.attempt for one in found.actions] == [1] * 4


def test_what_a_judge_refuses_takes_nobody_with_it(tmp_path):
    """The same text for both sides, of which one is wrong: the other stays."""
    judge = Pleased(lambda fields: "no" if fields.get("polarity") == "express" else None)
    own = settings(tmp_path, countries=("Kenya",), budget=0)
    found, _ = made(own, lambda *_: ("I fetch the long ladder from the yard and climb up.",), judge)
    assert [one.request.fields["polarity"] for one in found.actions] == ["suppress"]
    assert [one.why for one in found.apart] == ["judge: no"]


@pytest.mark.parametrize("each", [1, 2, 3])
def test_every_country_topic_and_value_is_asked_for_in_both_ways(tmp_path, each):
    """So that the card compares ways to ask, and not topics or values."""
    own = settings(
        tmp_path, topics=("Work", "Health"), values=("Wealth", "Loyal"), variants=("zero-shot", "few-shot"), each=each
    )
    scenes = pipeline.scene_requests(own, Writing(scene))
    records = [authoring.Record(one, 0, str(i), (), {}) for i, one in enumerate(scenes)]
    actions = pipeline.action_requests(own, values.schwartz(), records, Writing(told))
    for requests, keys in (
        (scenes, ("country", "topic")),
        (actions, ("country", "topic", "scene", "value", "polarity")),
    ):
        for key in keys:
            ways = collections.Counter((one.fields[key], one.variant) for one in requests)
            levels = {level for level, _ in ways}
            assert all(ways[level, way] > 0 for level in levels for way in own.variants), (key, ways)
    pairs = collections.defaultdict(set)
    for one in actions:
        pairs[one.fields["scene"], one.fields["value"]].add(one.variant)
    assert all(len(ways) == 1 for ways in pairs.values())  # both sides of a pair are asked for in the same way


def test_no_scene_no_items(tmp_path):
    said = []
    both = {"scene": Writing(lambda *_: ("",)), "action": Writing(told)}
    found = authoring.run_pipeline(settings(tmp_path), values.schwartz(), both, Pleased(), said.append)
    assert said[-1] == "no scene has passed, so no actions are written: 2 fail at whole"
    (tmp_path / "items.jsonl").write_text("of an earlier build")
    content = authoring.publish(settings(tmp_path), found, values.schwartz())
    assert content["balance"]["items"] == 0
    assert not (tmp_path / "items.jsonl").exists()
    assert len((tmp_path / "apart.jsonl").read_text().splitlines()) == 2


def test_nothing_is_dropped(tmp_path):
    """Whatever happens at random, every request is an item, apart, or not in the table; and the card's sums are right."""
    random = np.random.default_rng(0)
    words = ["ladder", "bucket", "yard", "radio", "tank", "river", "market", "bus", "letter", "bread", "roof", "wall"]

    def anything(request, attempt):
        chance = random.random()
        if chance < 0.2:
            return ("",)
        if chance < 0.3:
            return None
        a, b, c, d = random.choice(words, 4)
        return (f"I take the {a} behind the {b} and bring it to the {c} near the {d} before dark.",)

    own = settings(tmp_path, values=("Power", "Security"), variants=("zero-shot", "few-shot"))
    found, _ = made(own, anything)
    wanted = 2 * (5 + 7) * 2
    assert len(found.actions) + len(found.apart) + len(found.unwritten) == wanted
    content = authoring.publish(own, found, values.schwartz())
    header = yaml.safe_load((tmp_path / "hub" / "README.md").read_text().split("---\n")[1])
    assert header["language"] == "en"
    files = {one["split"]: one["path"] for one in header["configs"][0]["data_files"]}
    assert set(files.values()) == {f"data/{path.name}" for path in (tmp_path / "hub" / "data").iterdir()}
    assert content["actions"]["wanted"] == wanted
    for key, more in (("countries", 2), ("topics", 2), ("types", 0)):
        outcomes = content[key].values()
        assert sum(one["passed"] + one["apart"] + one["unwritten"] for one in outcomes) == wanted + more
        assert sum(one["unwritten"] for one in outcomes) == len(found.unwritten) > 0
    refused = collections.Counter(f"{one.request.stage} {one.gate}" for one in found.records if not one.passed)
    assert {name: gate["failed"] for name, gate in content["gates"].items() if gate["failed"]} == refused
    first = collections.Counter((one.request.variant, one.passed) for one in found.records[2:] if not one.attempt)
    for way in own.variants:
        said = content["variants"][f"action {way}"]
        assert (said["asked"], said["passed"]) == (first[way, True] + first[way, False], first[way, True])
    back = items.read(tmp_path / "items.jsonl")
    assert len(back) == len(found.actions)
    assert set(back.extra) == {"id", "attempt", "variant", "prompts", "writer", "judging", "judge", "seed"}
    folder = tmp_path / "hub" / "data"
    sides = [items.read(folder / f"{side}.jsonl") for side in ("train", "test") if (folder / f"{side}.jsonl").exists()]
    assert sum(map(len, sides)) == len(back)
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == len(found.records)
    assert "| actions | 48 |" in (tmp_path / "card.md").read_text()


# Tables -------------------------------------------------------------------------------------------------------------


def tables(tmp_path):
    scenes = tmp_path / "scenes.csv"
    scenes.write_text("country,topic,scene\n" + "".join(f'{place},Work,"{text}"\n' for place, text in SCENES.items()))
    rows = [
        (text, "Wealth", side, told(pipeline.Request("action", {"country": place, "polarity": side}, ""), 0)[0])
        for place, text in SCENES.items()
        for side in GOOD
    ]
    actions = tmp_path / "actions.jsonl"
    keys = ("scene", "value", "polarity", "action")
    actions.write_text("".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows))
    return scenes, actions


def test_a_users_own_texts_pass_the_same_gates(tmp_path):
    scenes, actions = tables(tmp_path)
    own = settings(tmp_path / "out", countries=(), topics=(), scenes_file=str(scenes), actions_file=str(actions))
    both = {
        "scene": authoring.TableWriter(str(scenes), "scene"),
        "action": authoring.TableWriter(str(actions), "action"),
    }
    found = authoring.run_pipeline(own, values.schwartz(), both, Pleased())
    assert len(found.actions) == 4
    lines = actions.read_text().splitlines()
    actions.write_text("\n".join(lines[1:]) + "\n")
    both["action"] = authoring.TableWriter(str(actions), "action")
    found = authoring.run_pipeline(own, values.schwartz(), both, Pleased())
    assert [(one.fields["value"], one.fields["polarity"]) for one in found.unwritten] == [("Wealth", "express")]
    assert {(one.origin["prompts"], one.origin["seed"]) for one in found.records} == {(None, None)}  # nobody was asked


def test_every_row_is_tried_whatever_the_budget(tmp_path):
    scenes, actions = tables(tmp_path)
    rows = [json.loads(line) for line in actions.read_text().splitlines()]
    bad = [{**rows[0], "action": text} for text in ("I go.", rows[0]["scene"], "I count my wealth again.", "I sit.")]
    actions.write_text("".join(json.dumps(row) + "\n" for row in (*bad, *rows)))
    own = settings(tmp_path / "out", scenes_file=str(scenes), budget=0)
    both = {
        "scene": authoring.TableWriter(str(scenes), "scene"),
        "action": authoring.TableWriter(str(actions), "action"),
    }
    found = authoring.run_pipeline(own, values.schwartz(), both, Pleased())
    assert (len(found.actions), found.apart, found.unused) == (4, [], [])
    assert [one.gate for one in found.records if not one.passed] == ["length", "echo", "leak", "length"]


def test_a_place_is_one_in_any_spelling(tmp_path):
    file = tmp_path / "scenes.csv"
    kenya, norway = SCENES.values()
    file.write_text(f'country,topic,scene\nKenya,Work,"{kenya}"\n" kenya","wo\nrk","{norway}"\n')
    writer = authoring.TableWriter(str(file), "scene")
    assert writer.places == [("Kenya", "Work")]
    own = settings(tmp_path, countries=("KENYA",), topics=(), scenes_file=str(file))
    found = authoring.run_pipeline(own, values.schwartz(), {"scene": writer, "action": Writing(told)}, Pleased())
    assert [one.request.fields["country"] for one in found.scenes] == ["Kenya"] * 2
    for change, message in (({"countries": ("Kenia",)}, "did you mean 'Kenya'"), ({"topics": ("Play",)}, "'Play'")):
        with pytest.raises(errors.InputError, match=message):
            authoring.run_pipeline(
                dataclasses.replace(own, **change),
                values.schwartz(),
                {"scene": writer, "action": Writing(told)},
                Pleased(),
            )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("country,topik,scene\nKenya,Work,x\n", r"scenes.csv:1: no column 'topic'; did you mean 'topik'"),
        ("country,topic\nKenya,Work\n", r"scenes.csv:1: no column 'scene'"),
        ("country,topic,scene\nKenya,Work\n", r"scenes.csv:2: expected 3 cells"),
        ("country,topic,scene\n", r"scenes.csv:1: a header without rows"),
        ("country,topic,scene\nKenya,,x\n", r"scenes.csv:2: topic: expected a text, found ''"),
    ],
)
def test_tables_that_are_none(tmp_path, text, message):
    file = tmp_path / "scenes.csv"
    file.write_text(text)
    with pytest.raises(errors.InputError, match=message):
        authoring.TableWriter(str(file), "scene")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": "Welth"}, "did you mean 'Wealth'"),
        ({"polarity": "for"}, "polarity: expected 'express' or 'suppress'"),
        ({"action": 3}, "action: expected a text, found 3"),
        ({"scene": ""}, "scene: expected a text, found ''"),
    ],
)
def test_every_cell_of_a_table_is_looked_at(tmp_path, change, message):
    _, actions = tables(tmp_path)
    rows = [json.loads(line) for line in actions.read_text().splitlines()]
    rows[2] |= change
    actions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(errors.InputError, match=f"actions.jsonl:3: .*{message}"):
        authoring.TableWriter(str(actions), "action", values.schwartz())


def test_rows_that_nobody_wants_are_counted(tmp_path):
    scenes, actions = tables(tmp_path)
    with actions.open("a") as file:
        row = {"scene": "Nobody has told this one.", "value": "wealth", "polarity": "+1", "action": "I go."}
        file.write(json.dumps(row) + "\n")
    own = settings(tmp_path / "out", countries=(), topics=(), scenes_file=str(scenes), actions_file=str(actions))
    writer = authoring.TableWriter(str(actions), "action", values.schwartz())
    both = {"scene": authoring.TableWriter(str(scenes), "scene"), "action": writer}
    assert len(authoring.run_pipeline(own, values.schwartz(), both, Pleased()).actions) == 4
    assert writer.unused_lines() == [5]


def test_the_card_names_rows_that_were_not_needed(tmp_path):
    scenes, actions = tables(tmp_path)
    with actions.open("a") as file:
        file.write(actions.read_text().splitlines()[0] + "\n")
    own = settings(tmp_path / "out", scenes_file=str(scenes))
    both = {
        "scene": authoring.TableWriter(str(scenes), "scene"),
        "action": authoring.TableWriter(str(actions), "action"),
    }
    content = authoring.publish(own, authoring.run_pipeline(own, values.schwartz(), both, Pleased()), values.schwartz())
    assert content["variants"] == {}  # nobody was asked
    assert content["unused"] == [{"file": str(actions), "line": 5}]
    assert "1 rows of tables were not needed" in (tmp_path / "out" / "card.md").read_text()


# The bundled model --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pocket():
    return models.load("pocket")


def open_settings(tmp_path, **changes):
    gates = authoring.Gates(False, (1, 200), (1, 100), "", plausible=0, grounding=1, richness=1, duplicate=1, mass=0)
    own = {"temperature": 1.0, "top_p": 1.0, "scene_tokens": 12, "action_tokens": 12, "rows": 4, "gates": gates}
    return settings(tmp_path, **{**own, "budget": 0, **changes})


def on_pocket(own, model, folder):
    writer = authoring.ModelWriter(model, own, folder / "written")
    judge = authoring.ModelJudge(model, folder / "judged")
    return authoring.run_pipeline(own, values.schwartz(), {"scene": writer, "action": writer}, judge)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_settings_give_the_same_bytes_and_what_is_kept_is_not_written_again(pocket, tmp_path, monkeypatch):
    folders, found = [tmp_path / name for name in ("a", "b")], []
    for folder in folders:
        own = open_settings(tmp_path / "out")
        found.append(on_pocket(own, pocket, folder))
        authoring.publish(own, found[-1], values.schwartz())
        found[-1] = contents(tmp_path / "out")
    assert found[0] == found[1]
    written = sorted((folders[0] / "written").iterdir())
    assert len(written) == 3  # two scenes together, then two actions in each of them
    calls = collections.Counter()
    real = models.generate
    monkeypatch.setattr(
        models, "generate", lambda *args, **options: (calls.update(["call"]), real(*args, **options))[1]
    )
    written[-1].unlink()
    written[0].write_text("[")
    for file in (folders[0] / "judged").iterdir():
        file.write_bytes(b"torn")
    own = open_settings(tmp_path / "out")
    authoring.publish(own, on_pocket(own, pocket, folders[0]), values.schwartz())
    assert calls["call"] == 2
    assert contents(tmp_path / "out") == found[0]


def test_what_was_kept_for_other_requests_is_not_taken(pocket, tmp_path):
    """An action's prompt does not say its topic, but what is drawn hangs on it: as in an empty folder, so in one with a past."""
    scenes = tmp_path / "scenes.csv"

    def texts(topic, folder):
        scenes.write_text(f'country,topic,scene\nKenya,{topic},"{SCENES["Kenya"]}"\n')
        own = open_settings(tmp_path, countries=(), topics=(), scenes_file=str(scenes))
        both = {
            "scene": authoring.TableWriter(str(scenes), "scene"),
            "action": authoring.ModelWriter(pocket, own, folder / "written"),
        }
        return [one.text for one in authoring.run_pipeline(own, values.schwartz(), both, Pleased()).actions]

    before = texts("Work", tmp_path / "a")
    after = texts("Labour", tmp_path / "a")
    assert after == texts("Labour", tmp_path / "b") != before


def test_a_prompt_may_fill_the_context(pocket, tmp_path):
    """What is padded for the sake of few programs must not count."""
    own = open_settings(tmp_path, countries=("Kenya",))
    (request,) = pipeline.scene_requests(own, Writing(scene))

    def write(count):
        writer = authoring.ModelWriter(pocket, dataclasses.replace(own, scene_tokens=count), tmp_path / str(count))
        return writer.write([request], 0)

    context = pocket.config.context
    with pytest.raises(errors.InputError) as caught:
        write(context)
    length = int(re.match(r"a prompt of (\d+) tokens", str(caught.value))[1])
    assert length % 64
    with pytest.raises(
        errors.InputError, match=f"a prompt of {length} tokens and {context - length + 1} generated ones"
    ):
        write(context - length + 1)
    assert len(write(context - length)) == 1


def test_another_seed_writes_other_texts(pocket, tmp_path):
    one, other = (
        [scene.text for scene in on_pocket(open_settings(tmp_path, seed=seed), pocket, tmp_path / str(seed)).scenes]
        for seed in (0, 1)
    )
    assert one != other


def test_a_judge_that_does_not_answer_abstains(pocket, tmp_path):
    """The bundled model knows numbers and no yes or no."""
    own = open_settings(tmp_path)
    judge = authoring.ModelJudge(pocket, tmp_path / "judged")
    fields = {"scene": "x", "action": "y", "value": "Wealth", "definition": "z", "polarity": "express"}
    ((verdict,),) = judge.judge("action", [fields], dataclasses.replace(own.gates, mass=0.5))
    assert verdict.passed is None
    assert re.fullmatch(r"the judge abstains: its answers have 0\.\d\d of the probability", verdict.why)
    rich = judge.judge("scene", [{"country": "Egypt", "scene": "x"}], dataclasses.replace(own.gates, richness=5))[0]
    assert [one.gate for one in rich] == ["grounding", "richness"]
    assert [one.passed for one in rich] == [True, False]
    assert rich[1].mass > 0.9
    assert "expected 5 or more" in rich[1].why


def test_writer_and_judge_are_asked_without_the_chat_template_where_that_is_requested(pocket, tmp_path):
    prompts_written = {}
    for chat in (None, False):
        settings = open_settings(tmp_path / str(chat), chat=chat)
        writer = authoring.ModelWriter(pocket, settings, tmp_path / str(chat) / "written")
        fields = {"country": "Egypt", "topic": "Work Orientations", "number": "1"}
        request = pipeline.Request("scene", fields, "zero-shot")
        prompts_written[chat] = writer.write([request], 0)[0].prompt
        judge = authoring.ModelJudge(pocket, tmp_path / str(chat) / "judged", settings.elicit_config("auto"))
        assert judge.how.chat is chat
    assert prompts_written[None].endswith("<|assistant|>")
    assert "<|" not in prompts_written[False]


def test_a_judges_score_is_the_mean_of_its_options(pocket, tmp_path):
    """Asked one by one, from the model's own log-probabilities of the five numbers."""
    from vatjax import prompts
    from vatjax.prompts import ElicitConfig, Scale

    row = {"country": "Egypt", "scene": "In Cairo the office is closed."}
    judge = authoring.ModelJudge(pocket, tmp_path / "judged")
    found = judge.judge("scene", [row], authoring.Gates())[0][0]
    wording = judge_gates.read_judge_wordings()["grounding"]
    made = prompts.assemble([row], wording, Scale(), (), ask.chat_format(pocket, ElicitConfig()))
    ids = pocket.tokenizer(made.text(0), add_special_tokens=False)["input_ids"]
    logits = np.asarray(models.logits(pocket, np.array([ids])))[0, -1].astype(np.float64)
    share = np.exp(logits - logits.max())
    share /= share.sum()
    five = share[[pocket.tokenizer(str(n), add_special_tokens=False)["input_ids"][0] for n in range(1, 6)]]
    assert found.score == pytest.approx((five * [1, 2, 3, 4, 5]).sum() / five.sum(), abs=1e-4)
    assert found.mass == pytest.approx(five.sum(), abs=1e-3)


def test_the_command(tmp_path, capsys):
    file = tmp_path / "build.yaml"
    file.write_text(
        "countries: [Kenya]\ntopics: [Work]\nvalues: [Wealth]\nvariants: [zero-shot, few-shot]\nbudget: 0\n"
        f"scene_tokens: 12\naction_tokens: 12\nrows: 2\nout: {tmp_path / 'out'}\n"
        "gates: {ended: false, scene_words: [1, 200], action_words: [1, 100], language: '', plausible: 0, grounding: 1, "
        "richness: 1, duplicate: 1}\n"
    )
    status, out, said = run(capsys, "build-items", str(file))
    assert status == 0, said
    assert "the judge is the writer" in said
    assert "The judge is the writer" in (tmp_path / "out" / "card.md").read_text()
    assert "action expressing: the judge abstained from 1 of 1 texts" in said
    assert "set aside" in out
    assert len(items.read(tmp_path / "out" / "items.jsonl")) == 2
    status, out, _ = run(capsys, "build-items", str(file), "--json")
    assert status == 0
    assert json.loads(out)["actions"]["passed"] == 2


def test_flags_give_what_a_file_leaves_out(tmp_path, capsys):
    scenes, actions = tables(tmp_path)
    file = tmp_path / "build.yaml"
    file.write_text("values: [Wealth]\nbudget: 0\ngates: {richness: 1, grounding: 1, plausible: 0}\n")
    out = tmp_path / "out"
    words = ["--scenes-file", str(scenes), "--actions-file", str(actions), "--out", str(out)]
    status, _, said = run(capsys, "build-items", str(file), *words)
    assert status == 0, said
    assert len(items.read(out / "items.jsonl")) == 4
    status, _, said = run(capsys, "build-items", str(file), "--out", str(out))
    assert status == 2
    assert "countries and topics: expected at least one of each" in said
    status, _, said = run(capsys, "build-items", str(file), *words, "--writer", "no/such-model", "--countries", "Kenia")
    assert status == 2
    assert "did you mean 'Kenya'" in said  # before a model is asked for


# How a writer is asked --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("person", "own", "other"), [("first", "I ask", "She asks"), ("third", "She asks", "I ask")])
def test_the_shipped_prompts_say_what_is_wanted(tmp_path, person, own, other):
    wanted = settings(tmp_path, person=person, language="English", gates=authoring.Gates(action_words=(4, 33)))
    fields = {"scene": "The ferry is late.", "value": "Wealth", "definition": "riches", "deed": "serves"}
    few, none = (
        asking.read_prompts().assemble(wanted, [authoring.Request("action", fields, variant)], None).text(0)
        for variant in ("few-shot", "zero-shot")
    )
    assert all(word in none for word in ("The ferry is late.", "Wealth (riches)", f"the {person} person", "33 words"))
    assert "driver" not in none
    assert own in few
    assert other not in few


PROMPTS = """
version: 7
scenes:
  system: "Schreib in {language} eine Szene."
  levels: ["Ort: {country}. Thema: {topic}."]
  answer: "Szene:"
actions:
  system: "Sag in {language}, was getan wird, in der Person {person}, mit {words} Wörtern."
  levels: ["Szene: {scene}", "Wert: {value}; {deed}"]
  answer: "Tat:"
  examples:
    - {fields: {scene: Der Bus fährt., value: Hilfe, deed: dafür}, text: Ich halte die Tür auf.}
"""


def test_prompts_of_ones_own(pocket, tmp_path):
    file = tmp_path / "prompts.yaml"
    file.write_text(PROMPTS)
    own = open_settings(tmp_path, countries=("Kenya",), prompts=str(file), language="German")
    found = on_pocket(own, pocket, tmp_path)
    assert {one.origin["prompts"] for one in found.records} == {asking.read_prompts(str(file)).name}
    assert asking.read_prompts(str(file)).name.startswith("7-")
    assert asking.read_prompts(str(file)).name != asking.read_prompts().name
    with pytest.raises(errors.InputError, match=r"few-shot: .*prompts.yaml have no example of scenes in the first"):
        authoring.ModelWriter(pocket, dataclasses.replace(own, variants=("few-shot",)), tmp_path)
    with pytest.raises(errors.InputError, match="the shipped few-shot examples are in English, but language is German"):
        authoring.ModelWriter(pocket, dataclasses.replace(own, variants=("few-shot",), prompts=""), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("{topic}", "{theme}"),
            r"prompts.yaml: scenes: levels: 'theme' is not a field; known are country, topic, number",
        ),
        (
            ("in der Person {person}", "{"),
            r"prompts.yaml: actions: system: .* is not a field; known are language, person, words",
        ),
        (("value: Hilfe, ", ""), r"prompts.yaml: actions: example 1: fields: 'value' is missing"),
        (("auf.}", "auf., person: second}"), r"actions: example 1: person: expected first or third, found 'second'"),
        (('levels: ["Ort', 'levls: ["Ort'), r"levls"),
    ],
)
def test_prompts_that_can_not_be(tmp_path, change, message):
    assert change[0] in PROMPTS
    file = tmp_path / "prompts.yaml"
    file.write_text(PROMPTS.replace(*change))
    with pytest.raises(errors.InputError, match=message):
        asking.read_prompts(str(file))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--values"], "values: expected at least one"),
        (["--language", "German"], "gates.language: en, but language is German"),
        (["--scenes-file", "x.csv", "--each", "2"], "each: cannot be used with a scenes_file (x.csv)"),
        (["--topics"], "countries and topics: expected at least one of each"),
        (["--values", "Welth"], "did you mean 'Wealth'"),
        (["--gates.language", "klingon"], "unknown language 'klingon'"),
        (["--temperature", "-1"], "temperature: expected 0 or more"),
        (["--gates.duplicate", "2"], "duplicate: expected 0 to 1, found 2"),
        (["--gates.action-words", "9", "3"], "action_words: expected the minimum number of words, then the maximum"),
        (["--budget", "-1"], "budget: expected at least 0, found -1"),
        (["--temperature", "0"], "budget: at temperature 0"),
        (["--scenes-file", "nowhere.csv"], "nowhere.csv"),
        (["--scene-tokens", "2000"], "longer than the writer's context of 1,024"),
    ],
)
def test_settings_that_can_not_be(tmp_path, capsys, change, message):
    words = ["--out", str(tmp_path / "o"), "--countries", "Kenya", "--topics", "Work", "--values", "Wealth"]
    status, _, said = run(capsys, "build-items", *words, *change)
    assert status == 2
    assert message in " ".join(said.replace("│", " ").split())
    assert "Traceback" not in said
