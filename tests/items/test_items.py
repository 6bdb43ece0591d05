import collections
import dataclasses
import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vatjax import errors, items, values

HEADER = "country,topic,scene,value,polarity,action\n"


def write(folder, rows, name="items.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(**changes):
    return {
        "country": "Egypt",
        "topic": "Religion",
        "scene": "A hall is shared.",
        "value": "Wealth",
        "polarity": "express",
        "action": "I ask for money.",
    } | changes


def refused(path, **options):
    with pytest.raises(errors.InputError) as caught:
        items.read(path, **options)
    return str(caught.value)


# The bundled items --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundled():
    return items.bundled()


def test_the_bundled_items_are_a_full_crossing(bundled):
    assert len(bundled) == 29_568
    assert len(bundled.scenes) == 264
    assert len(bundled.counts("country")) == 12
    assert len(bundled.counts("topic")) == 11
    cells = collections.Counter(zip(bundled.scene_of, bundled.value, bundled.polarity, strict=True))
    assert len(cells) == 264 * 56 * 2
    assert set(cells.values()) == {1}
    places = collections.Counter((scene.country, scene.topic) for scene in bundled.scenes)
    assert set(places.values()) == {2}
    assert len(places) == 132


def test_the_bundled_text_reads_as_plain_english(bundled):
    for text in (*bundled.action, *(scene.text for scene in bundled.scenes)):
        assert "{" not in text
        assert "  " not in text
        assert text[0].isupper()
        assert text.endswith(".")
    assert max(len(action.split()) for action in bundled.action) <= 50


def test_each_value_and_polarity_has_several_phrasings_in_use(bundled):
    parts = json.loads(items.asset.ASSET.read_text())["parts"]
    for name, sides in parts["actions"].items():
        for side, phrasings in sides.items():
            assert len(set(phrasings)) >= 2, (name, side)
    first = {scene["scene"]: scene for scene in parts["scenes"]}
    used = collections.defaultdict(set)
    for item in bundled:
        scene = first[item.scene]
        text = item.action
        for slot in ("task", "matter", "people"):
            text = text.replace(scene[slot], slot)
        used[item.value, item.polarity].add(text)
    assert all(len(texts) >= 2 for texts in used.values())
    scenes = parts["scenes"]
    same = [
        [
            bundled.action[i + j].format() == (phrasings[side][0].format_map(scenes[i // 112]))
            for j, (phrasings, side) in enumerate(sides)
        ]
        for i in (0, 112)
        for sides in [[(p, s) for p in parts["actions"].values() for s in ("express", "suppress")]]
    ]
    assert 30 < sum(same[0]) < 82  # within one scene some actions take the first phrasing and some the second
    assert same[0] != same[1]


def test_express_and_suppress_differ_in_every_pair(bundled):
    pairs = bundled.pair()
    assert len(pairs.express) == 264 * 56
    assert len(pairs.unpaired) == 0
    assert (bundled.action[pairs.express] != bundled.action[pairs.suppress]).all()
    assert (bundled.scene_of[pairs.express] == bundled.scene_of[pairs.suppress]).all()
    assert (bundled.value[pairs.express] == bundled.value[pairs.suppress]).all()
    assert (bundled.polarity[pairs.express] == 1).all()
    assert (bundled.polarity[pairs.suppress] == -1).all()


def test_a_damaged_asset_is_refused(monkeypatch, tmp_path):
    asset, whole = tmp_path / "items.json", items.asset.ASSET.read_text()
    monkeypatch.setattr(items.asset, "ASSET", asset)
    content = json.loads(whole)
    content["parts"]["scenes"][0]["scene"] += "!"
    asset.write_text(json.dumps(content))
    items.bundled.cache_clear()
    try:
        with pytest.raises(errors.InputError, match="bundled items are damaged"):
            items.bundled()
        asset.unlink()
        with pytest.raises(errors.InputError, match="bundled items are damaged"):
            items.bundled()
    finally:
        items.bundled.cache_clear()


# Reading ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.jsonl.gz", "a.csv.gz"])
def test_items_survive_writing_and_reading(bundled, tmp_path, name):
    some = bundled.take(np.arange(0, len(bundled), 37))
    items.write(some, tmp_path / name)
    again = items.read(tmp_path / name)
    assert list(again) == list(some)


def test_writing_is_deterministic(bundled, tmp_path):
    some = bundled.take(np.arange(100))
    for name in ("a.csv.gz", "b.csv.gz"):
        items.write(some, tmp_path / name)
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()


def test_a_column_map_opens_a_foreign_schema(tmp_path):
    path = tmp_path / "foreign.csv"
    path.write_text("land,subject,story,target,stance,text,rater\nEgypt,Religion,S.,wealth,-1,I give.,7\n")
    columns = {
        "country": "land",
        "topic": "subject",
        "scene": "story",
        "value": "target",
        "polarity": "stance",
        "action": "text",
    }
    read = items.read(path, columns=columns)
    assert read[0] == items.Item("Egypt", "Religion", "S.", "Wealth", "suppress", "I give.")
    assert read.extra["rater"].tolist() == ["7"]
    items.write(read, tmp_path / "out.csv")
    assert items.read(tmp_path / "out.csv").extra["rater"].tolist() == ["7"]


def test_data_without_scenes_have_country_and_topic_for_one(tmp_path):
    rows = [row(value=value) for value in ("Wealth", "Clean")]
    for entry in rows:
        del entry["scene"]
    read = items.read(write(tmp_path, rows))
    assert len(read.scenes) == 1
    assert "Egypt" in read.scenes[0].text
    assert "Religion" in read.scenes[0].text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": "Welth"}, "unknown value 'Welth'; did you mean 'Wealth'?"),
        ({"value": ""}, "value: empty text"),
        ({"value": 3}, "value: expected text, found 3"),
        ({"action": "  "}, "action: empty text"),
        ({"action": None}, "action: expected text, found None"),
        ({"scene": ["a"]}, "scene: expected text, found ['a']"),
        ({"polarity": "maybe"}, "polarity: expected 'express' or 'suppress' (or +1, -1), found 'maybe'"),
        ({"polarity": True}, "polarity: expected 'express'"),
    ],
)
def test_a_bad_row_is_named_with_file_line_and_column(tmp_path, change, message):
    path = write(tmp_path, [row(), row(action="another") | change])
    assert f"{path}:2: {message}" in refused(path)


def test_a_row_without_a_column_is_named(tmp_path):
    short = row()
    del short["action"]
    assert ":2: no column 'action'" in refused(write(tmp_path, [row(), short]))


def test_a_duplicate_item_names_the_first_one(tmp_path):
    assert ":3: the same item as on line 1" in refused(write(tmp_path, [row(), row(polarity="suppress"), row()]))


def test_a_scene_that_crosses_the_split_is_named(tmp_path):
    rows = [row(split="train"), row(split="test", value="Clean"), row(split="test", scene="Another.")]
    message = refused(write(tmp_path, rows))
    assert ":2: the scene crosses the split: 'test' here and 'train' on line 1" in message
    assert ":3:" not in message
    with pytest.warns(UserWarning, match="skipped 1 of 3 rows"):
        kept = items.read(tmp_path / "items.jsonl", skip_bad=True)
    assert kept.extra["split"].tolist() == ["train", "test"]


def test_missing_columns_are_named_with_what_was_found(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("country,topic,scene,values,polarity,text\nEgypt,Religion,S.,Wealth,express,I ask.\n")
    message = refused(path)
    assert "missing columns 'value', 'action'" in message
    assert "found 'country', 'topic', 'scene', 'values', 'polarity', 'text'" in message
    assert "value: values" in message


def test_headers_match_in_any_spelling(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("Country,TOPIC,Scene,Value,Polarity,Action\nEgypt,Religion,S.,Wealth,express,I ask.\n")
    assert items.read(path)[0] == items.Item("Egypt", "Religion", "S.", "Wealth", "express", "I ask.")


@pytest.mark.parametrize("column", ["scenes", "scenario", "scen"])
def test_scenes_under_another_name_are_never_replaced_in_silence(tmp_path, column):
    path = tmp_path / "a.csv"
    path.write_text(f"country,topic,{column},value,polarity,action\nEgypt,Religion,S.,Wealth,express,I ask.\n")
    assert "missing column 'scene'" in refused(path)


def test_a_files_own_column_of_a_mapped_name_is_kept_beside(tmp_path):
    rows = [row(text="The real text.", action="LABEL7")]
    read = items.read(write(tmp_path, rows), columns={"action": "text"})
    assert read.action.tolist() == ["The real text."]
    for name in ("out.jsonl", "out.csv"):
        items.write(read, tmp_path / name)
        again = items.read(tmp_path / name)
        assert again.action.tolist() == ["The real text."]
        assert again.extra["other_action"].tolist() == ["LABEL7"]


def test_spellings_of_one_country_and_one_scene_are_one(tmp_path):
    rows = [
        row(),
        row(country="egypt", topic="religion", scene="A  hall is shared. ", polarity="suppress"),
        row(country="EGYPT", scene="Cafe\u0301.", value="Clean"),
        row(scene="Caf\u00e9.", value="Clean", polarity="suppress"),
    ]
    read = items.read(write(tmp_path, rows))
    assert read.counts("country") == {"Egypt": 4}
    assert len(read.scenes) == 2
    assert len(read.pair().express) == 2


def test_a_scene_under_two_topics_stays_on_one_side(tmp_path):
    rows = [row(topic=topic) for topic in ("Religion", "Politics", "Environment", "Citizenship")]
    read = items.read(write(tmp_path, rows))
    for seed in range(20):
        assert 0 in {len(part) for part in read.split(test=0.5, seed=seed)}


def test_several_problems_of_a_row_are_one_skipped_row(tmp_path):
    path = write(tmp_path, [row(value="x", action="", polarity="?"), row()])
    assert len(refused(path).splitlines()) == 4
    with pytest.warns(UserWarning, match="skipped 1 of 2 rows"):
        items.read(path, skip_bad=True)


def test_items_can_not_be_changed_for_everybody(bundled):
    with pytest.raises(ValueError, match="read-only"):
        bundled.action[0] = "changed"


def test_wrong_options_are_named(tmp_path):
    path = write(tmp_path, [row()])
    assert "did you mean 'action'" in refused(path, columns={"acton": "text"})
    assert "unknown layout 'via'" in refused(path, layout="via")
    assert "missing column 'txt'" in refused(path, columns={"action": "txt"})


def test_embedded_newlines_are_read_and_lines_stay_right(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        HEADER + 'Egypt,Religion,"two\nlines",Wealth,express,"I\nask."\nEgypt,Religion,S.,Welth,express,I ask.\n'
    )
    assert refused(path).startswith(f"{path}:5: unknown value 'Welth'")


def test_bad_rows_are_skipped_only_when_asked_and_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    good = [json.dumps(row(action=f"I do {i}.")) for i in range(3)]
    path.write_bytes("\n".join([good[0], "{oops", good[1], json.dumps(row(value="x")), good[2]]).encode() + b"\n\xff\n")
    message = refused(path)
    assert [f":{line}:" in message for line in (2, 4, 6)] == [True] * 3
    with pytest.warns(UserWarning, match="skipped 3 of 6 rows"):
        read = items.read(path, skip_bad=True)
    assert len(read) == 3
    assert read.line.tolist() == [1, 3, 5]


def test_a_truncated_gzip_is_an_error_and_what_came_before_can_be_kept(bundled, tmp_path):
    items.write(bundled, tmp_path / "all.jsonl.gz")
    packed = (tmp_path / "all.jsonl.gz").read_bytes()
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    assert "damaged or ends early" in refused(tmp_path / "cut.jsonl.gz")
    with pytest.warns(UserWarning, match="the rest of the file could not be read"):
        read = items.read(tmp_path / "cut.jsonl.gz", skip_bad=True)
    assert list(read) == list(bundled.take(np.arange(len(read))))


def test_a_file_without_items_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text(HEADER)
    assert "no items" in refused(tmp_path / "a.csv")
    (tmp_path / "b.jsonl").write_text("")
    assert "no items" in refused(tmp_path / "b.jsonl")


def test_another_taxonomy_decides_which_values_are_known(tmp_path, root):
    own = values.load(root / "configs" / "taxonomies" / "moral_foundations.yaml")
    read = items.read(write(tmp_path, [row(value="sanctity")]), taxonomy=own)
    assert read[0].value == "Purity"
    assert "unknown value 'Wealth'" in refused(write(tmp_path, [row()]), taxonomy=own)


fields = st.one_of(
    st.text(max_size=8), st.none(), st.integers(-1, 1), st.booleans(), st.sampled_from(["Wealth", "express"])
)
rows = st.lists(
    st.dictionaries(st.sampled_from([*items.COLUMNS, "split", "other"]), fields, max_size=8) | st.builds(row),
    max_size=6,
)


@given(rows, st.booleans())
def test_every_row_is_an_item_or_a_problem(tmp_path_factory, rows, packed):
    path = tmp_path_factory.mktemp("t") / "a.jsonl"
    content = "".join(json.dumps(entry) + "\n" for entry in rows).encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    try:
        found = items.inspect(path)
    except errors.InputError as error:
        assert str(path) in str(error)
        return
    broken = {problem.line for problem in found.problems}
    assert broken | set(found.items.line.tolist()) == set(range(1, len(rows) + 1))
    assert not broken & set(found.items.line.tolist())
    assert found.skipped + len(found.items) == found.rows == len(rows)


# Split, filters, pairs, protocols -----------------------------------------------------------------------------------


def test_the_split_keeps_scenes_whole(bundled):
    train, test = bundled.split(test=0.25, seed=0)
    assert not set(train.scenes) & set(test.scenes)
    assert len(train) + len(test) == len(bundled)
    assert 0.15 < len(test.scenes) / 264 < 0.35


def test_no_test_scene_copies_a_situation_of_the_train_side(bundled):
    for seed in range(3):
        train, test = bundled.split(seed=seed)
        assert not set(train.extra["situation"]) & set(test.extra["situation"])
        assert set(test.country) == set(bundled.country)


def test_a_scene_of_two_situations_cannot_be_split(bundled):
    twice = bundled.take(np.flatnonzero(bundled.scene_of == 0)[:2])
    twice = dataclasses.replace(twice, extra={"situation": np.array(["one", "two"])})
    with pytest.raises(errors.InputError, match="copies 'one' and 'two'"):
        twice.split()


def test_adding_data_moves_no_scene(bundled):
    whole = set(bundled.split(seed=3)[1].scenes)
    rng = np.random.default_rng(0)
    part = bundled.take(rng.permutation(np.flatnonzero(rng.random(len(bundled)) < 0.3)))
    assert set(part.split(seed=3)[1].scenes) == whole & set(part.scenes)
    assert set(bundled.split(seed=4)[1].scenes) != whole


def test_the_split_is_the_same_on_every_machine(bundled):
    """Drawn from the text alone; a change here would move evaluated scenes into training data of older runs."""
    draw = items.table._draw
    assert draw("A hall is  shared.", 0) == draw(" A hall is shared. ", 0) == draw("a HALL is shared.", 0)
    assert round(draw("A hall is shared.", 0), 12) == 0.592348129228


@pytest.mark.parametrize("share", [0, 1, -1, 2, float("nan")])
def test_a_share_outside_zero_and_one_is_refused(bundled, share):
    with pytest.raises(errors.InputError, match="more than 0 and less than 1"):
        bundled.split(test=share)


def test_filters_match_forgivingly_and_combine(bundled):
    some = bundled.where(country="united  states", type=["power", "Self direction"], polarity="suppress")
    assert len(some) == 22 * 10
    assert set(some.counts("country")) == {"United States"}
    assert bundled.where(value="Curiosity").counts("value")["Curious"] == 528
    assert len(bundled.where(group="openness to change")) == 264 * 10 * 2
    with pytest.raises(errors.InputError, match="unknown type 'Wealth'"):
        bundled.where(type="Wealth")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"country": "Egpt"}, "unknown country 'Egpt'; did you mean 'Egypt'?"),
        ({"colour": "red"}, "unknown filter 'colour'"),
        ({"polarity": "neutral"}, "unknown polarity 'neutral'; known are: express, suppress"),
    ],
)
def test_a_filter_that_names_nothing_is_refused(bundled, wanted, message):
    with pytest.raises(errors.InputError) as caught:
        bundled.where(**wanted)
    assert message in str(caught.value)


def test_pairs_match_in_order_and_name_the_rest(tmp_path):
    rows = [
        row(action="e1"),
        row(action="s1", polarity="suppress"),
        row(action="e2"),
        row(action="e3", value="Clean"),
        row(action="s2", polarity="suppress"),
        row(action="e4"),
    ]
    pairs = items.read(write(tmp_path, rows)).pair()
    assert list(zip(pairs.express, pairs.suppress, strict=True)) == [(0, 1), (2, 4)]
    assert pairs.unpaired.tolist() == [3, 5]


def test_protocols_of_the_bundled_items(bundled):
    found = {protocol.name: protocol for protocol in items.protocols(bundled)}
    assert {name: (p.allowed, p.contexts, p.clusters) for name, p in found.items()} == {
        "paired": (True, 264, 264),
        "labelled": (True, 29_568, 264),
        "dense": (True, 14_784, 264),
        "stated": (True, 132, 132),
    }


def test_one_value_a_scene_makes_country_and_topic_the_context(tmp_path):
    rows = [
        row(scene=f"{value} scene", value=value, polarity=polarity)
        for value in ("Wealth", "Clean")
        for polarity in ("express", "suppress")
    ]
    found = {protocol.name: protocol for protocol in items.protocols(items.read(write(tmp_path, rows)))}
    assert found["paired"].contexts == 1
    assert "country and topic are the context" in found["paired"].reason
    assert found["dense"].contexts == 2


def test_two_values_a_scene_make_the_scene_the_context(tmp_path):
    rows = [
        row(scene=f"{scene} scene", value=value, polarity=polarity)
        for scene in ("one", "another")
        for value in ("Wealth", "Clean")
        for polarity in ("express", "suppress")
    ]
    rows.append(row(scene="a third scene"))
    found = {protocol.name: protocol for protocol in items.protocols(items.read(write(tmp_path, rows)))}
    assert (found["paired"].contexts, found["paired"].clusters) == (2, 2)
    assert "a scene is a context" in found["paired"].reason
    assert "1 items have no partner" in found["paired"].reason
    assert (found["dense"].contexts, found["dense"].clusters) == (4, 2)


def test_problems_come_in_the_order_of_the_file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([json.dumps(row(value="x")), "{oops", json.dumps(row(action=""))]))
    assert [problem.line for problem in items.inspect(path).problems] == [1, 2, 3]


def test_without_pairs_only_labelled_and_stated_remain(tmp_path):
    rows = [row(value=value) for value in ("Wealth", "Clean")]
    found = {protocol.name: protocol for protocol in items.protocols(items.read(write(tmp_path, rows)))}
    assert {name for name, protocol in found.items() if protocol.allowed} == {"labelled", "stated"}
    assert "no scene has both" in found["paired"].reason


# The published data -------------------------------------------------------------------------------------------------


def test_the_published_value_actions_are_read(value_actions):
    read = items.read(value_actions)
    assert len(read) == 14_721
    assert len(read.scenes) == 132
    assert read.counts("polarity") == {"express": 7390, "suppress": 7331}
    assert min(read.counts("value").values()) == 233
    pairs = read.pair()
    assert len(pairs.express) == 7329
    assert len(pairs.unpaired) == 14_721 - 2 * 7329
    assert {protocol.name for protocol in items.protocols(read) if protocol.allowed} == {
        "paired",
        "labelled",
        "dense",
        "stated",
    }
