import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vatjax import errors, states, values


def make(rows=4, names=("Wealth", "Clean"), seed=0, missing=(), **changes):
    rng = np.random.default_rng(seed)
    state = rng.normal(size=(rows, len(names))).astype(np.float32)
    mask = np.ones(state.shape, bool)
    for at in missing:
        mask[at], state[at] = False, np.nan
    fields = {
        "state": state,
        "mask": mask,
        "clusters": np.arange(rows, dtype=np.int32) // 2,
        "values": tuple(names),
        "contexts": {"country": np.array([f"c{i}" for i in range(rows)], object)},
        "meta": {"protocol": "paired", "scale": [1, 5]},
    }
    return states.ValueState(**fields | changes)


def equal(one, other):
    np.testing.assert_array_equal(one.state, other.state)
    np.testing.assert_array_equal(one.mask, other.mask)
    np.testing.assert_array_equal(one.clusters, other.clusters)
    assert one.values == other.values
    assert {key: list(column) for key, column in one.contexts.items()} == {
        key: list(column) for key, column in other.contexts.items()
    }
    assert one.meta == other.meta


def refused(read, *arguments, **options):
    with pytest.raises(errors.InputError) as caught:
        read(*arguments, **options)
    return str(caught.value)


# On disk ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contexts", [{}, {"country": ["a", "é", "", "公\0"], "sce/ne": ["x\ny", " z", "w", "v"]}])
def test_a_state_survives_the_disk(tmp_path, contexts):
    state = make(missing=[(0, 1), (3, 0)], contexts={key: np.array(column, object) for key, column in contexts.items()})
    states.save(state, tmp_path / "state.npz")
    equal(states.load(tmp_path / "state.npz"), state)
    states.save(state, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "state.npz").read_bytes()


def test_the_file_is_what_the_contract_says(tmp_path):
    states.save(make(), tmp_path / "state.npz")
    with np.load(tmp_path / "state.npz", allow_pickle=False) as arrays:
        assert {"state", "mask", "clusters", "values", "meta"} <= set(arrays.files)
        assert arrays["state"].shape == (4, 2)
        assert arrays["values"].tolist() == ["Wealth", "Clean"]
        assert json.loads(str(arrays["meta"]))["protocol"] == "paired"


def test_a_file_with_the_contracts_arrays_alone_is_read(tmp_path):
    np.savez(
        tmp_path / "bare.npz",
        state=np.zeros((3, 1), np.float32),
        mask=np.ones((3, 1), bool),
        clusters=np.arange(3),
        values=np.array(["Wealth"]),
    )
    assert states.load(tmp_path / "bare.npz").values == ("Wealth",)


def test_a_state_in_a_bucket(bucket):
    states.save(make(), f"{bucket}/state.npz")
    equal(states.load(f"{bucket}/state.npz"), make())


def test_any_flipped_byte_gives_a_state_or_one_error(tmp_path):
    states.save(make(20), tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    rng, path = np.random.default_rng(0), tmp_path / "flipped.npz"
    refusals = 0
    for _ in range(400):
        content = bytearray(whole)
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        try:
            states.load(path)
        except errors.InputError as error:
            refusals += 1
            assert str(error).startswith(f"{path}: not a value state: ")
    assert refusals > 200


@pytest.mark.parametrize("kind", ["text", "truncated", "array", "other arrays", "pickle", "shape", "infinite"])
def test_what_is_no_state_is_refused(tmp_path, kind):
    path = tmp_path / "state.npz"
    states.save(make(), path)
    whole = path.read_bytes()
    if kind == "text":
        path.write_text("rating,1\n")
    elif kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "array":
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    elif kind == "other arrays":
        np.savez(path, x=np.zeros(3))
    elif kind == "pickle":
        np.savez(path, state=np.array([{}], object), mask=np.zeros(1), clusters=np.zeros(1), values=np.zeros(1))
    elif kind == "shape":
        np.savez(path, state=np.zeros((2, 2)), mask=np.ones((2, 2), bool), clusters=np.zeros(3), values=["a", "b"])
    elif kind == "infinite":
        np.savez(
            path,
            state=np.full((1, 1), np.inf),
            mask=np.ones((1, 1), bool),
            clusters=np.zeros(1),
            values=np.array(["a"]),
        )
    message = refused(states.load, path)
    assert message.startswith(f"{path}: not a value state: ")


def test_an_absent_file_is_named(tmp_path):
    assert refused(states.load, tmp_path / "absent.npz").endswith("no such file or directory")


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.floats(-2, 2, width=32)),
    st.data(),
)
def test_any_state_survives_the_disk(tmp_path_factory, state, data):
    mask = data.draw(hnp.arrays(bool, state.shape))
    clusters = data.draw(hnp.arrays(np.int32, len(state), elements=st.integers(0, 9)))
    made = states.ValueState(
        np.where(mask, state, np.nan), mask, clusters, tuple(f"v{i}" for i in range(state.shape[1]))
    )
    path = tmp_path_factory.mktemp("t") / "state.npz"
    states.save(made, path)
    equal(states.load(path), made)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": np.ones((4, 3), bool)}, "mask has the shape"),
        ({"mask": np.ones((4, 2))}, "mask bool"),
        ({"state": np.zeros((4, 2), np.int32)}, "must be floating"),
        ({"contexts": {"country": np.array(["a"], object)}}, "'country' has 1 entries"),
        ({"state": np.full((4, 2), np.inf, np.float32)}, "not finite"),
        ({"mask": np.zeros((4, 2), bool)}, "must be NaN"),
        ({"clusters": np.arange(4) / 2}, "one whole number a context"),
        ({"clusters": np.array([0, 1, 2, 2**32])}, "fit 32 bits"),
        ({"clusters": np.zeros((4, 1), np.int32)}, "one whole number a context"),
        ({"values": ("Wealth", "Wealth")}, "different names"),
    ],
)
def test_a_state_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_a_state_keeps_arrays_of_its_own():
    raw = np.zeros((2, 1), np.float32)
    state = states.ValueState(raw, np.ones((2, 1), bool), [0, 1], ("Wealth",))
    raw[0] = 9
    assert state.state[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        state.state[0] = 1


def test_taking_by_mask_and_aligning_with_the_taxonomy():
    tax = values.schwartz()
    state = make()
    assert state.take(np.array([True, False, True, False]), np.array([False, True])).values == ("Clean",)
    whole = states.align(state, tax)
    assert whole.values == tax.names
    np.testing.assert_array_equal(whole.state[:, tax.index("Clean")], state.state[:, 1])
    assert whole.mask.sum() == state.mask.sum()
    expected = state.state[:, state.values.index("Wealth")]
    np.testing.assert_allclose(tax.aggregate(whole.state, whole.mask)[:, tax.types.index("Power")], expected)
    assert "unknown value 'Nope'" in refused(states.align, make(names=("Wealth", "Nope")), tax)


# Ratings from anywhere ----------------------------------------------------------------------------------------------


def table(folder, text, name="ratings.csv"):
    path = folder / name
    path.write_text(text)
    return path


def test_a_table_of_ratings_becomes_a_state(tmp_path):
    path = table(tmp_path, "id,clean,scene,WEALTH\na,1,s1,5\nb,,s1,3.5\nc,NA,s2,4\n")
    state = states.read_ratings(path)
    assert state.values == ("Wealth", "Clean")
    np.testing.assert_array_equal(state.state, np.array([[2, -2], [0.5, np.nan], [1, np.nan]], np.float32))
    assert state.mask.tolist() == [[True, True], [True, False], [True, False]]
    assert state.clusters.tolist() == [0, 0, 1]
    assert list(state.contexts) == ["id", "scene"]


def test_a_turned_scale_turns_the_sign(tmp_path):
    path = table(tmp_path, "Wealth\n1\n4\n2\n")
    np.testing.assert_allclose(states.read_ratings(path, scale=(4, 1)).state[:, 0], [1.5, -1.5, 0.5])
    np.testing.assert_allclose(states.read_ratings(path, scale=(1, 4)).state[:, 0], [-1.5, 1.5, -0.5])


def test_json_ratings_may_be_numbers_text_or_null(tmp_path):
    rows = [{"Wealth": 1, "Clean": None}, {"Wealth": "2", "Clean": "null"}, {"Wealth": 3.5}]
    path = table(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "ratings.jsonl")
    state = states.read_ratings(path)
    np.testing.assert_allclose(state.state[:, 0], [-2, -1, 0.5])
    assert not state.mask[:, 1].any()


def test_clusters_are_any_columns(tmp_path):
    path = table(tmp_path, "country,topic,Wealth\na,x,1\na,y,2\nb,x,3\na,x,4\n")
    assert states.read_ratings(path).clusters.tolist() == [0, 1, 2, 3]
    assert states.read_ratings(path, clusters="country").clusters.tolist() == [0, 0, 1, 0]
    assert states.read_ratings(path, clusters=["country", "topic"]).clusters.tolist() == [0, 1, 2, 0]
    assert "did you mean 'country'" in refused(states.read_ratings, path, clusters=["contry"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,Wealth\na,6\n", ":2: Wealth: the rating 6 lies outside the scale 1:5"),
        ("id,Wealth\na,3\nb,0.5\n", ":3: Wealth: the rating 0.5 lies outside"),
        ("id,Wealth\na,inf\n", ":2: Wealth: expected a rating, found 'inf'"),
        ("id,Wealth\na,agree\n", ":2: Wealth: expected a rating, found 'agree'"),
        ("id,Wealth,wealth\na,1,2\n", "the columns 'Wealth' and 'wealth' are both 'Wealth'"),
        (
            "id,price\na,1\n",
            "no column is a value of the taxonomy 'schwartz' (such as 'Creativity'); found 'id', 'price'",
        ),
        ("id,Welth\na,1\n", "unknown column 'Welth'; did you mean 'Wealth'?"),
        ("id,Wealth\na,1_0\n", "expected a rating, found '1_0'"),
        ("id,Wealth\n", "no rows"),
        ("id,Wealth\na\n", ":2: expected 2 cells"),
    ],
)
def test_bad_ratings_are_named_with_file_line_and_column(tmp_path, text, message):
    path = table(tmp_path, text)
    assert message in refused(states.read_ratings, path)
    assert str(path) in refused(states.read_ratings, path)


def test_every_bad_cell_is_reported_at_once(tmp_path):
    path = table(tmp_path, "Wealth,Clean\n9,1\n1,x\n3,3\n7,8\n")
    assert len(refused(states.read_ratings, path).splitlines()) == 4


@pytest.mark.parametrize("scale", [(5, 5), (1, float("inf")), (1, 2, 3)])
def test_a_scale_is_two_different_numbers(tmp_path, scale):
    assert "two different numbers" in refused(states.read_ratings, table(tmp_path, "Wealth\n1\n"), scale=scale)


def test_a_column_like_a_value_can_be_said_to_be_a_key(tmp_path):
    path = table(tmp_path, "Welth,Clean\na,1\n")
    assert list(states.read_ratings(path, keys=["Welth"]).contexts) == ["Welth"]


@pytest.mark.parametrize("row", ['{"Wealth": 3}', '{"Wealth": 3, "country": null}', '{"Wealth": 3, "country": ["a"]}'])
def test_a_missing_context_key_is_named(tmp_path, row):
    path = table(tmp_path, f'{{"Wealth": 2, "country": "A"}}\n{row}\n', "ratings.jsonl")
    assert ":2: country: expected a context key" in refused(states.read_ratings, path)


def test_a_boolean_is_no_rating(tmp_path):
    path = table(tmp_path, '{"Wealth": true}\n', "ratings.jsonl")
    assert "expected a rating, found True" in refused(states.read_ratings, path)


def test_ratings_of_another_taxonomy(tmp_path, root):
    own = values.load(root / "configs" / "taxonomies" / "moral_foundations.yaml")
    path = table(tmp_path, "sanctity,Care/Harm\n1,5\n")
    assert states.read_ratings(path, own).values == ("Care", "Purity")


# Joining ------------------------------------------------------------------------------------------------------------


def shuffled(state, order, columns=None):
    return state.take(np.array(order), None if columns is None else np.array(columns))


def test_joining_matches_rows_by_key_and_columns_by_name():
    pre = make(seed=1)
    post = shuffled(make(seed=2, clusters=np.array([9, 8, 7, 6])), [3, 0, 2], [1, 0])
    joined = states.join(pre, post)
    assert joined.keys == ("country",)
    assert (joined.only_pre, joined.only_post) == (1, 0)
    assert states.join(post, pre)[3:] == (0, 1)
    assert list(joined.pre.contexts["country"]) == list(joined.post.contexts["country"]) == ["c0", "c2", "c3"]
    np.testing.assert_array_equal(joined.post.state, make(seed=2).state[[0, 2, 3]])
    assert joined.pre.clusters.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(joined.post.clusters, joined.pre.clusters)
    assert joined.post.values == pre.values


def test_joining_without_keys_goes_by_position():
    pre, post = make(contexts={}), make(seed=5, contexts={}, clusters=np.zeros(4, np.int32))
    joined = states.join(pre, post)
    assert joined.keys == ()
    np.testing.assert_array_equal(joined.post.state, post.state)
    np.testing.assert_array_equal(joined.post.clusters, pre.clusters)
    assert "equally many; found 4 and 3" in refused(states.join, pre, shuffled(post, [0, 1, 2]))


def test_joining_uses_only_the_keys_that_both_have():
    both = make().contexts["country"]
    pre = make(contexts={"country": both, "wave": np.array(["1"] * 4, object)})
    post = make(contexts={"country": both, "model": np.array(["m"] * 4, object)})
    assert states.join(pre, post).keys == ("country",)


def test_joining_refuses_what_does_not_fit():
    pre = make()
    other = dataclasses.replace(make(), contexts={"country": np.array(["x"] * 4, object)})
    assert "the second state: several rows for one context: country='x' (rows 1 and 2)" in refused(
        states.join, pre, other
    )
    apart = dataclasses.replace(make(), contexts={"country": np.array(["w", "x", "y", "z"], object)})
    assert "no context in common: country='c0' against country='w'" in refused(states.join, pre, apart)
    message = refused(states.join, pre, make(names=("Wealth", "Devout")))
    assert "only the first has Clean; only the second has Devout" in message


def test_joining_refuses_states_whose_numbers_mean_different_things():
    first = make(meta={"how": {"protocol": "paired", "low": 1, "high": 5}})
    for meta, message in (
        (
            {"how": {"protocol": "stated", "low": 1, "high": 5}},
            "the protocol of the first is paired, of the second stated",
        ),
        (
            {"how": {"protocol": "paired", "low": 1, "high": 7}},
            "the scale's high end of the first is 5, of the second 7",
        ),
        (
            {"how": {"protocol": "paired", "low": 1, "high": 5}, "reads": "agreement"},
            "of the first is none, of the second agr",
        ),
    ):
        with pytest.raises(errors.InputError, match=message):
            states.join(first, dataclasses.replace(first, meta=meta))
    states.join(first, dataclasses.replace(first, meta={"made by": "hand"}))


def test_joining_by_position_is_for_states_without_any_key():
    other = dataclasses.replace(make(), contexts={"land": make().contexts["country"]})
    message = refused(states.join, make(), other)
    assert "no context column in common: the first has 'country', the second 'land'" in message
    assert "no context column in common" in refused(states.join, make(), make(contexts={}))


def test_joining_matches_keys_in_any_spelling():
    other = dataclasses.replace(make(seed=4), contexts={"Country": make().contexts["country"]})
    joined = states.join(make(), shuffled(other, [3, 2, 1, 0]))
    np.testing.assert_array_equal(joined.post.state, other.state)


def test_joining_can_leave_out_what_tells_the_two_apart():
    country = make().contexts["country"]
    pre = make(contexts={"country": country, "model": np.array(["base"] * 4, object)})
    post = make(contexts={"country": country, "model": np.array(["tuned"] * 4, object)})
    message = refused(states.join, pre, post)
    assert "model='base' against model='tuned'; leave 'model' out: --on country" in message
    assert states.join(pre, post, on=["country"]).keys == ("country",)
    assert "did you mean 'country'" in refused(states.join, pre, post, on=["contry"])


def test_a_state_draws_and_shows_each_value_s_mean(tmp_path):
    state = states.ValueState(
        np.array([[1.0, np.nan], [2.0, np.nan], [-1.0, np.nan]]),
        np.array([[True, False]] * 3),
        np.arange(3, dtype=np.int32),
        ("A <b>", "B"),
    )
    shown = state._repr_html_()
    assert "<td>A &lt;b&gt;</td><td>0.67</td><td>1.25</td><td>3</td>" in shown
    assert "<td>B</td>" not in shown
    state.plot(tmp_path / "state.svg")
    written = (tmp_path / "state.svg").read_text()
    assert "<title>A &lt;b&gt;: 0.67, standard deviation 1.25</title>" in written
    state.plot(tmp_path / "state.png")
    assert (tmp_path / "state.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(errors.InputError, match=r"state.pdf: expected a path that ends in .svg or .png"):
        state.plot(tmp_path / "state.pdf")
