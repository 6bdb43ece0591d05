import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vatjax import errors, values

MEMBERS = """
Self-direction: Creativity, Curious, Freedom, Choosing Own Goals, Independent
Stimulation: Daring, A Varied Life, An Exciting Life
Hedonism: Pleasure, Enjoying Life
Achievement: Successful, Capable, Ambitious, Influential, Intelligent, Self-Respect
Power: Social Power, Authority, Wealth, Preserving my Public Image, Social Recognition
Security: Clean, National Security, Social Order, Family Security, Reciprocation of Favors, Healthy, Sense of Belonging
Conformity: Politeness, Honoring of Parents and Elders, Obedient, Self-Discipline
Tradition: Devout, Accepting my Portion in Life, Humble, Moderate, Respect for Tradition, Detachment
Benevolence: Helpful, Honest, Forgiving, Loyal, Responsible, True Friendship, A Spiritual Life, Mature Love, Meaning in Life
Universalism: Protecting the Environment, A World of Beauty, Broad-Minded, Social Justice, Wisdom, Equality, A World at Peace, Inner Harmony, Unity With Nature
"""


@pytest.fixture(scope="module")
def tax():
    return values.schwartz()


def write(folder, text):
    path = folder / "taxonomy.yaml"
    path.write_text(text)
    return path


def test_schwartz_has_the_published_members_in_circle_order(tax):
    expected = {line.split(": ")[0]: line.split(": ")[1].split(", ") for line in MEMBERS.strip().splitlines()}
    assert list(tax.types) == list(expected)
    assert {t: [tax.names[i] for i in group] for t, group in zip(tax.types, tax.members(), strict=True)} == expected
    assert len(tax.names) == 56
    assert tax.type_of.shape == (56,)


def test_schwartz_groups_and_sectors(tax):
    groups = [tax.groups[i] for i in tax.group_of]
    assert dict(zip(tax.types, groups, strict=True)) == {
        "Self-direction": "Openness",
        "Stimulation": "Openness",
        "Hedonism": "Openness",
        "Achievement": "Self-enhancement",
        "Power": "Self-enhancement",
        "Security": "Conservation",
        "Conformity": "Conservation",
        "Tradition": "Conservation",
        "Benevolence": "Self-transcendence",
        "Universalism": "Self-transcendence",
    }
    assert tax.sector_of.tolist() == [0, 1, 2, 3, 4, 5, 6, 6, 7, 8]
    np.testing.assert_allclose(np.diff(tax.angles)[[0, 5, 6]], [2 * np.pi / 9, 2 * np.pi / 9, 0.0], atol=1e-12)


def test_every_value_has_a_definition_of_its_own(tax):
    assert all(len(text.split()) >= 3 and text.endswith(".") for text in tax.definitions)
    assert len(set(tax.definitions)) == 56


@pytest.mark.parametrize("name", ["Self-direction", "self direction", "SELF_DIRECTION"])
def test_a_target_is_found_in_any_spelling(tax, name):
    assert tax.mask(name).sum() == 5


def test_masks_of_value_type_and_group(tax):
    assert np.flatnonzero(tax.mask("Wealth")).tolist() == [tax.names.index("Wealth")]
    assert [tax.names[i] for i in np.flatnonzero(tax.mask("Power"))] == [
        "Social Power",
        "Authority",
        "Wealth",
        "Preserving my Public Image",
        "Social Recognition",
    ]
    assert tax.mask("openness to change").sum() == 10
    assert tax.mask("Power").dtype == bool


def test_an_unknown_name_offers_the_nearest(tax):
    with pytest.raises(errors.InputError, match="did you mean 'Benevolence'"):
        tax.mask("Benevolance")
    with pytest.raises(errors.InputError, match="did you mean 'Broad-Minded'"):
        tax.index("broadmindd")
    assert tax.match("Honour of parents") is None
    assert tax.match("honouring parents and elders") == "Honoring of Parents and Elders"


def test_aggregate_is_the_mean_over_members(tax):
    x = np.random.default_rng(0).normal(size=(3, 7, 56))
    expected = np.stack([x[..., tax.type_of == t].mean(-1) for t in range(10)], -1)
    np.testing.assert_allclose(tax.aggregate(x), expected, rtol=1e-12)
    by_group = np.stack([x[..., tax.group_of[tax.type_of] == g].mean(-1) for g in range(4)], -1)
    np.testing.assert_allclose(tax.aggregate(x, level="groups"), by_group, rtol=1e-12)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_aggregate_heeds_the_mask(tax, kind):
    rng = np.random.default_rng(1)
    x, mask = rng.normal(size=(40, 56)).astype(np.float32), rng.random((40, 56)) < 0.5
    mask[0, tax.mask("Hedonism")] = False
    dirty = np.where(mask, x, np.nan)
    expected = np.array(
        [
            [row[m & (tax.type_of == t)].mean() if (m & (tax.type_of == t)).any() else np.nan for t in range(10)]
            for row, m in zip(x, mask, strict=True)
        ]
    )
    assert np.isnan(expected[0, tax.types.index("Hedonism")])
    result = tax.aggregate(kind(dirty), kind(mask))
    assert type(result) is type(kind(x))
    np.testing.assert_allclose(result, expected, rtol=2e-6, atol=1e-6)


def test_a_nan_without_a_mask_stays_in_its_type(tax):
    x = np.zeros(56)
    x[tax.index("Wealth")] = np.nan
    assert np.flatnonzero(np.isnan(tax.aggregate(x))).tolist() == [tax.types.index("Power")]


def test_aggregate_composes_and_is_differentiable(tax):
    x = jnp.asarray(np.random.default_rng(2).normal(size=(4, 6, 56)), jnp.float32)
    mask = jnp.asarray(np.random.default_rng(3).random((4, 6, 56)) < 0.7)
    batched = jax.jit(jax.vmap(lambda x, mask: tax.aggregate(x, mask)))(x, mask)
    np.testing.assert_allclose(batched, tax.aggregate(x, mask), rtol=1e-6)
    power = tax.types.index("Power")
    gradient = jax.grad(lambda row: tax.aggregate(row)[power])(x[0, 0])
    np.testing.assert_allclose(gradient, np.where(tax.mask("Power"), 0.2, 0.0), rtol=1e-6)
    empty = jnp.zeros(56, bool)
    masked = jax.grad(lambda row: jnp.nansum(tax.aggregate(row, empty)))(x[0, 0])
    assert np.isfinite(masked).all()


@pytest.mark.thorough
def test_aggregate_takes_integers(tax):
    assert tax.aggregate(jnp.ones((2, 56), jnp.int32), jnp.ones((2, 56), bool)).dtype == jnp.float32
    assert tax.aggregate(np.ones(56, np.int8)).tolist() == [1.0] * 10
    flags = jnp.asarray(tax.mask("Power"))
    assert tax.aggregate(flags, jnp.ones(56, bool)).tolist() == (np.array(tax.types) == "Power").tolist()


def test_aggregate_refuses_other_widths(tax):
    with pytest.raises(ValueError, match="56 values"):
        tax.aggregate(np.zeros((3, 55)))
    with pytest.raises(errors.InputError, match="did you mean 'types'"):
        tax.aggregate(np.zeros(56), level="type")


def test_a_taxonomy_can_be_a_static_argument(tax):
    traces = []

    def run(x, taxonomy):
        traces.append(1)
        return taxonomy.aggregate(x)

    compiled = jax.jit(run, static_argnums=1)
    compiled(jnp.zeros(56), tax)
    compiled(jnp.ones(56), pickle.loads(pickle.dumps(tax)))
    assert len(traces) == 1


def test_a_users_taxonomy_has_the_same_functions(root):
    own = values.load(root / "configs" / "taxonomies" / "moral_foundations.yaml")
    assert own.names == ("Care", "Equality", "Proportionality", "Loyalty", "Authority", "Purity")
    assert own.mask("Binding").sum() == 3
    assert own.match("care/harm") == "Care"
    np.testing.assert_allclose(own.aggregate(np.arange(6.0), level="groups"), [1.0, 4.0])
    with pytest.raises(errors.InputError, match="no circle"):
        _ = own.angles


def test_angles_of_a_file_are_used(tmp_path):
    own = values.load(
        write(
            tmp_path,
            "name: a\ntypes:\n- {name: T, angle: 90, values: [{name: x}]}\n- {name: U, angle: 180, values: [{name: y}]}\n",
        )
    )
    np.testing.assert_allclose(own.angles, [np.pi / 2, np.pi])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\ntypes: []", "at least one type"),
        ("name: a\ntypes: [{name: T, values: []}]", "'T' has no values"),
        ("name: a\ntypes: [{name: T, values: [{name: x}, {name: X}]}]", "the values 'x' and 'X' share a name"),
        ("name: a\ntypes: [{name: T, values: [{name: '!'}]}]", "at least one letter"),
        ("name: a\ntypes: [{name: T, group: G, values: [{name: x}]}]", "unknown group 'G'"),
        ("name: a\ntypes: [{name: x, values: [{name: x}, {name: y}]}]", "'x' names a value and also a type"),
        ("name: a\ngroups: [{name: G}]\ntypes: [{name: T, values: [{name: x}]}]", "the group 'G' has no types"),
        (
            "name: a\ntypes: [{name: T, angle: 9, values: [{name: x}]}, {name: U, values: [{name: y}]}]",
            "'U' has no angle and others have",
        ),
        (
            "name: a\ntypes: [{name: T, sector: s, values: [{name: x}]}, {name: U, values: [{name: y}]}, "
            "{name: W, sector: s, values: [{name: z}]}]",
            "the types of the sector 's' are not adjacent",
        ),
        ("name: a\ntypes: [{name: T, valeus: []}]", "unknown key 'types[0].valeus'"),
        (
            "name: a\ngroups: [{name: T}]\ntypes:\n- {name: T, group: T, values: [{name: x}]}\n"
            "- {name: U, group: T, values: [{name: y}]}",
            "'T' names a type and also a different group",
        ),
    ],
)
def test_a_taxonomy_that_contradicts_itself_is_refused(tmp_path, text, expected):
    with pytest.raises(errors.InputError) as caught:
        values.load(write(tmp_path, text))
    assert expected in str(caught.value)
    assert "taxonomy.yaml" in str(caught.value)
