import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vatjax import config, errors


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float
    name: str = "x"


@dataclasses.dataclass(frozen=True)
class Outer:
    count: int = 1
    on: bool = False
    mode: Literal["auto", "off"] = "auto"
    path: pathlib.Path | None = None
    limit: int | None = 3
    names: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    table: Mapping[str, int] = dataclasses.field(default_factory=dict)
    numbered: Mapping[int, str] = dataclasses.field(default_factory=dict)
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()
    either: float | str = 0.0

    def __post_init__(self):
        if self.count < 0:
            raise errors.InputError("count must not be negative")


def problem(text):
    with pytest.raises(errors.InputError) as caught:
        config.parse(Outer, text, "study.yaml")
    return str(caught.value)


def test_one_entry_needs_no_brackets():
    one = config.parse(Outer, "names: one\ncount: 1\ninner: {rate: 1}", "study.yaml")
    assert one.names == ("one",)


def test_every_kind_of_field_is_read():
    read = config.parse(
        Outer,
        """
count: 1_000
on: yes
mode: off
path: runs/a
limit: null
names: [no, 1e3, "true", Norway]
pair: [2, 1e-4]
table: {a: 1}
inner: {rate: 1e-4, name: null character}
many: [{rate: 1}, {rate: 2., name: "y"}]
either: text
""",
        "study.yaml",
    )
    assert read == Outer(
        count=1000,
        on=True,
        mode="off",
        path=pathlib.Path("runs/a"),
        limit=None,
        names=("no", "1e3", "true", "Norway"),
        pair=(2, 1e-4),
        table={"a": 1},
        inner=Inner(1e-4, "null character"),
        many=(Inner(1.0), Inner(2.0, "y")),
        either="text",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cuont: 3", "study.yaml:1: unknown key 'cuont'; did you mean 'count'?"),
        ("inner: {rate: 1, nmae: a}", "study.yaml:1: unknown key 'inner.nmae'; did you mean 'inner.name'?"),
        ("on: true\ncount: three", "study.yaml:2: count: expected a whole number, found 'three'"),
        ("count: 1.5", "study.yaml:1: count: expected a whole number, found '1.5'"),
        ('count: "3"', "study.yaml:1: count: expected a whole number, found the text '3'"),
        ("count: [1]", "study.yaml:1: count: expected a whole number, found a list"),
        ("on: maybe", "study.yaml:1: on: expected true or false, found 'maybe'"),
        ("mode: atuo", "study.yaml:1: mode: unknown choice 'atuo'; did you mean 'auto'?"),
        ("names: {a: b}", "study.yaml:1: names: expected a list, found a mapping"),
        ("names:", "study.yaml:1: names: expected a list, found nothing"),
        ("pair: [1]", "study.yaml:1: pair: expected 2 entries, found 1"),
        ("pair: [1, .inf]", "study.yaml:1: pair[1]: expected a number, found '.inf'"),
        ("table: {a: b}", "study.yaml:1: table.a: expected a whole number, found 'b'"),
        ("inner: {name: a}", "study.yaml:1: the key 'inner.rate' is missing (a number)"),
        ("inner: 3", "study.yaml:1: inner: expected keys of Inner (rate, name), found '3'"),
        ("many:\n- {rate: 1}\n- {rate: x}", "study.yaml:3: many[1].rate: expected a number, found 'x'"),
        ("count: 1\ncount: 2", "study.yaml:2: the key 'count' is given twice"),
        ("table: {a: 1, a: 2}", "study.yaml:1: the key 'table.a' is given twice"),
        ("count: -1", "study.yaml:1: count must not be negative"),
        ("- 1", "study.yaml:1: expected keys of Outer"),
        ("count:", "study.yaml:1: count: expected a whole number, found nothing"),
        ("on: true\na: [", "study.yaml:2: invalid YAML"),
        ("a: b: c", "study.yaml:1: invalid YAML"),
        ("a: *nowhere", "study.yaml:1: invalid YAML"),
        ("either: [1]", "either: expected"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_key(text, expected):
    assert expected in problem(text)


def test_all_mistakes_are_reported_at_once():
    assert len(problem("count: x\non: 3\nmdoe: auto").splitlines()) == 3


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch EXECUTED']",
        "!!python/name:os.system",
        "!!python/tuple [1, 2]",
        "!python/module:os",
        "!custom 3",
    ],
)
@pytest.mark.parametrize("key", ["count", "names", "inner", "either", "unknown"])
def test_no_tag_is_executed(tag, key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "study.yaml:1" in problem(f"{key}: {tag}")
    assert not (tmp_path / "EXECUTED").exists()


def test_a_missing_file_and_a_wrong_encoding_are_named(tmp_path):
    with pytest.raises(errors.InputError, match="no such file"):
        config.read(Outer, tmp_path / "absent.yaml")
    (tmp_path / "latin.yaml").write_bytes("names: [Zoë]".encode("latin-1"))
    with pytest.raises(errors.InputError, match=r"latin\.yaml:1: not UTF-8"):
        config.read(Outer, tmp_path / "latin.yaml")
    with pytest.raises(errors.InputError, match="is a directory"):
        config.read(Outer, tmp_path)


def test_an_empty_file_is_all_defaults():
    assert config.parse(Outer, "# nothing\n", "study.yaml") == Outer()


def test_what_a_file_leaves_out_can_come_from_elsewhere(tmp_path):
    path = tmp_path / "part.yaml"
    path.write_text("name: a")
    elsewhere = object()
    assert config.read(Inner, path, absent=elsewhere) == Inner(elsewhere, "a")
    with pytest.raises(errors.InputError, match="'rate' is missing"):
        config.read(Inner, path)


def test_deep_nesting_and_self_reference_end_in_an_error():
    assert "study.yaml" in problem("inner: " + "[" * 5000 + "]" * 5000)
    assert "study.yaml:1" in problem("names: &a [*a]")


finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=20)
inners = st.builds(Inner, finite, texts)
outers = st.builds(
    Outer,
    count=st.integers(0),
    on=st.booleans(),
    mode=st.sampled_from(["auto", "off"]),
    path=st.none() | st.sampled_from([pathlib.Path("a/b c"), pathlib.Path("null.yaml"), pathlib.Path("3")]),
    either=finite | texts | st.sampled_from(["1e-4", "null", "on", "3", ".5", "1_0"]),
    limit=st.none() | st.integers(),
    names=st.lists(texts).map(tuple),
    pair=st.tuples(st.integers(), finite),
    table=st.dictionaries(texts.filter(bool), st.integers(), max_size=3),
    numbered=st.dictionaries(st.integers(), texts, max_size=3),
    inner=st.none() | inners,
    many=st.lists(inners, max_size=3).map(tuple),
)


@given(outers)
def test_to_yaml_and_parse_are_inverse(outer):
    assert config.parse(Outer, config.to_yaml(outer), "round trip") == outer


@given(st.text())
def test_any_text_gives_a_configuration_or_a_readable_error(text):
    try:
        config.parse(Outer, text, "study.yaml")
    except errors.InputError as error:
        assert str(error).startswith("study.yaml")
