"""From a sample of items to sheets, and from sheets to what they say."""

import collections
import csv
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from tests.test_cli import run
from vatjax import errors, human, items

DATA = items.bundled().where(country=["Egypt", "France"])
NAMES = human.questions().names


@pytest.fixture
def folder(tmp_path):
    """A sample with three sheets."""
    drawn = human.sample(DATA, 40)
    human.save(drawn, tmp_path)
    human.write(drawn, ["ann", "bob", "eve"], tmp_path)
    return tmp_path


def filled(folder, who, answer):
    """Fills a sheet in: `answer` of a case and a question."""
    path = folder / f"sheet-{who}.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row |= {name: answer(row["case"], name) for name in NAMES}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def truth(case, name):
    return int(case + str(NAMES.index(name)), 16) % 5 + 1


def near(random):
    return lambda case, name: int(np.clip(truth(case, name) + random.choice([-1, 0, 0, 0, 1]), 1, 5))


def test_strata_have_their_shares():
    drawn = human.sample(items.bundled(), 264, ["country", "topic"])
    sizes = collections.Counter((case.country, case.topic) for case in drawn.cases)
    assert len(sizes) == 132
    assert set(sizes.values()) == {2}
    uneven = DATA.take(np.flatnonzero((DATA.country == "Egypt") | (np.arange(len(DATA)) % 4 == 0)))
    shares = collections.Counter(case.country for case in human.sample(uneven, 50, ["country"]).cases)
    egypt = (uneven.country == "Egypt").sum() * 50 / len(uneven)
    assert abs(shares["Egypt"] - egypt) < 1
    assert shares.total() == 50


def test_a_draw_is_its_seed(tmp_path):
    one, again, other = (human.sample(DATA, 20, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert {case.name for case in one.cases} != {case.name for case in other.cases}
    human.save(one, tmp_path)
    assert human.load(tmp_path) == one


def test_everybody_sees_the_same_cases_in_another_order(folder):
    seen = []
    for who in ("ann", "bob", "eve"):
        with (folder / f"sheet-{who}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert {row["annotator"] for row in rows} == {who}
        seen.append([row["case"] for row in rows])
    assert len({tuple(sorted(own)) for own in seen}) == 1
    assert len({tuple(own) for own in seen}) == 3


def test_the_page_holds_all_it_needs_and_nothing_can_end_its_script(tmp_path):
    drawn = human.sample(DATA, 3)
    bad = drawn.cases[0]._replace(action="</script><script>alert(1)</script><!-- & \u2028")
    human.write(drawn._replace(cases=(bad, *drawn.cases[1:])), ["ann"], tmp_path)
    page = (tmp_path / "sheet-ann.html").read_text()
    assert "<script>alert" not in page
    assert not re.search(r"(src|href)\s*=\s*[\"']?(http|//)", page)
    data = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    assert {case["action"] for case in data["cases"]} >= {bad.action}
    assert [question["name"] for question in data["questions"]] == list(NAMES)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser here")
def test_what_the_page_saves_is_a_sheet(folder):
    """In a browser: answers are given, and the text that would be saved is read back."""
    page = (folder / "sheet-ann.html").read_text()
    script = """
    <script>
    for (let i = 0; i < data.cases.length; i++) {
      document.querySelectorAll("fieldset").forEach((group, k) => group.querySelectorAll("input")[(i + k) % 5].click());
      document.getElementById("next").click();
    }
    document.title = document.getElementById("count").textContent;
    document.body.replaceChildren(Object.assign(document.createElement("pre"), { textContent: JSON.stringify(sheet()) }));
    </script>"""
    driven = folder / "driven.html"
    driven.write_text(page.replace("</body>", script + "</body>"))
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", driven.as_uri()]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<title>40 of 40</title>" in shown
    import html

    text = json.loads(html.unescape(shown.split("<pre>")[1].split("</pre>")[0]))
    (folder / "saved.csv").write_text(text)
    answers = human.read(human.load(folder), [folder / "saved.csv"])
    assert answers.annotators == ("ann",)
    assert not np.isnan(answers.ratings).any()
    assert set(np.unique(answers.ratings)) == {1, 2, 3, 4, 5}
    data = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    places = {name: i for i, name in enumerate(answers.cases)}
    for i, case in enumerate(data["cases"]):
        np.testing.assert_array_equal(answers.ratings[:, places[case["name"]], 0], [(i + k) % 5 + 1 for k in range(8)])


def test_an_annotator_who_guesses_and_one_who_leans_stand_out(folder):
    random = np.random.default_rng(0)
    files = [filled(folder, "ann", near(random)), filled(folder, "bob", near(random))]
    files.append(filled(folder, "eve", lambda *_: int(random.integers(1, 6))))
    drawn = human.load(folder)
    found = human.score(human.read(drawn, files), draws=200)
    by_name = {one.name: one for one in found.annotators}
    assert by_name["ann"].remarks == by_name["bob"].remarks == ()
    assert "from the others, whose middle is" in by_name["eve"].remarks[0]
    assert by_name["eve"].alpha_without > 0.2 > 0 > by_name["ann"].alpha_without
    files[2] = filled(folder, "eve", lambda case, name: min(5, truth(case, name) + 2))
    found = human.score(human.read(drawn, files), draws=200)
    assert any("points above the others" in remark for remark in found.annotators[2].remarks)
    files[2] = filled(folder, "eve", lambda case, name: 3 if case < "4" else "")
    found = human.score(human.read(drawn, files), draws=200)
    assert [("same rating" in r, "cases are answered" in r) for r in found.annotators[2].remarks][-2:] == [
        (True, False),
        (False, True),
    ]


def test_numbers_are_those_of_the_formulas(folder):
    random = np.random.default_rng(0)
    files = [filled(folder, who, near(random)) for who in ("ann", "bob", "eve")]
    answers = human.read(human.load(folder), files)
    found = human.score(answers, draws=200)
    for one, ratings in zip(found.questions, answers.ratings, strict=True):
        counts = human.counted(ratings, 1, 5)
        assert one.alpha.estimate == human.alpha(counts, np.ones((1, 40)))[0]
        assert one.alpha.low < one.alpha.estimate < one.alpha.high
        assert one.mean.estimate == pytest.approx(ratings.mean())
        assert (one.cases, one.twice) == (40, 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace("realism", "realizm", 1),
            r"sheet-ann.csv:1: no column 'realism'; did you mean 'realizm'",
        ),
        (
            lambda text: re.sub(r",3,", ",7,", text, count=1),
            r"sheet-ann.csv:2: realism: expected a whole number from 1 to 5",
        ),
        (
            lambda text: re.sub(r",3,", ",3.5,", text, count=1),
            r"expected a whole number from 1 to 5, or nothing; found '3.5'",
        ),
        (
            lambda text: text + text.splitlines()[1] + "\n",
            r"sheet-ann.csv:42: ann has rated the case \w+ already, in \S+:2",
        ),
        (
            lambda text: re.sub(r"\n\w{10},", "\n0123456789,", text, count=1),
            r"the case '0123456789' is not in the sample",
        ),
        (lambda text: text.replace(",express,", ",suppress,", 1), r"polarity: not what the case \w+ has in the sample"),
        (lambda text: text.replace(",ann,", ",,", 1), r"sheet-ann.csv:2: no annotator is named"),
    ],
    ids=["column", "range", "half", "twice", "case", "edited", "nobody"],
)
def test_bad_sheets_are_named_with_their_lines(folder, capsys, change, message):
    path = filled(folder, "ann", lambda *_: 3)
    path.write_text(change(path.read_text().replace("\r\n", "\n")))
    with pytest.raises(errors.InputError, match=message):
        human.read(human.load(folder), [path])
    status, out, said = run(capsys, "human", "score", str(path), "--sample", str(folder))
    assert status == 2
    assert out == ""
    assert re.search(message, said)


def test_blank_rows_and_the_page_itself(folder):
    path = filled(folder, "ann", lambda *_: 3)
    path.write_text(path.read_text() + "," * 16 + "\n")
    assert human.read(human.load(folder), [path]).annotators == ("ann",)
    with pytest.raises(errors.InputError, match=r"sheet-ann.html: this is the page; give the CSV that it saves"):
        human.read(human.load(folder), [folder / "sheet-ann.html"])


def test_two_sheets_of_one_annotator(folder):
    path = filled(folder, "ann", lambda *_: 3)
    copy = folder / "again.csv"
    copy.write_text(path.read_text().replace(",ann,", ",Ann ,"))
    with pytest.raises(errors.InputError) as caught:
        human.read(human.load(folder), [path, copy])
    assert "ann has rated the case" in str(caught.value)
    assert "... and 20 more problems" in str(caught.value)


def test_the_commands(tmp_path, capsys):
    out = tmp_path / "check"
    words = [
        "human",
        "sample",
        "--out",
        str(out),
        "--annotators",
        "ann",
        "bob",
        "eve",
        "--cases",
        "12",
        "--country",
        "Egypt",
    ]
    status, told, _ = run(capsys, *words)
    assert status == 0
    assert len(told.splitlines()) == 7
    status, _, said = run(capsys, *words)
    assert status == 2
    assert "a sample is there already" in said
    random = np.random.default_rng(0)
    files = [str(filled(out, who, near(random))) for who in ("ann", "bob", "eve")]
    status, told, _ = run(capsys, "human", "score", *files, "--sample", str(out), "--json")
    assert status == 0
    content = json.loads(told)
    assert [one["name"] for one in content["questions"]] == list(NAMES)
    status, told, _ = run(capsys, "human", "score", *files, "--sample", str(out))
    assert status == 0
    assert "alpha without" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--annotators", "ann", "Ann"], "none twice"),
        (["--annotators", "../ann"], "expected names of letters"),
        (["--annotators", "ann", "--cases", "0"], "cases: expected 1 to 29,568, found 0"),
    ],
)
def test_samples_that_can_not_be(tmp_path, capsys, words, message):
    status, _, said = run(capsys, "human", "sample", "--out", str(tmp_path / "x"), *words)
    assert status == 2
    assert message in said
    assert not (tmp_path / "x").exists()


def test_no_sample(tmp_path, capsys):
    status, _, said = run(capsys, "human", "score", "a.csv", "--sample", str(tmp_path))
    assert status == 2
    assert "no sample.json there; `vatjax human sample` writes it" in said
