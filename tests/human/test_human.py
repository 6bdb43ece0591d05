"""From a sample of items to sheets, and from sheets to what they say."""

import codecs
import collections
import csv
import html
import json
import math
import re
import shutil
import subprocess

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from tests.test_cli import run
from vatjax import errors, human, items
from vatjax.human import agreement

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
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row |= {name: answer(row["case"], name) for name in NAMES}
    with path.open("w", newline="", encoding="utf-8-sig") as file:
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


@pytest.mark.parametrize("count", [24, 60, 61, 100])
def test_few_cases_of_many_strata_are_balanced_in_every_key(count):
    """The default: 264 combinations of country, topic and polarity, and fewer cases than these."""
    drawn = human.sample(items.bundled(), count)
    for keys in (("country",), ("topic",), ("polarity",), ("country", "topic"), ("country", "polarity")):
        sizes = collections.Counter(tuple(getattr(case, key) for key in keys) for case in drawn.cases)
        every = {tuple(getattr(item, key) for key in keys) for item in items.bundled()}
        share = count / len(every)
        assert all(math.floor(share) <= sizes[one] <= math.ceil(share) for one in every), (keys, sizes)


@hypothesis.given(st.data())
def test_shares_are_whole_next_to_exact_and_nearer_than_by_lot(data):
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    sizes = random.integers(0, 9, (random.integers(1, 5), random.integers(1, 5), random.integers(1, 4)))
    cells = [tuple(place) for place in np.argwhere(sizes).tolist()]
    hypothesis.assume(cells)
    own = sizes[sizes > 0].tolist()
    count = int(random.integers(1, sum(own) + 1))
    found = np.array(human.proportional_allocation(cells, own, count, random))
    exact = np.array(own) * count / sum(own)
    assert found.sum() == count
    assert (np.abs(found - exact) < 1 + 1e-9).all()
    assert (found <= own).all()
    lots = [np.floor(exact) + _lot(exact, count, random) for _ in range(20)]
    assert _off(cells, found - exact) <= np.median([_off(cells, lot - exact) for lot in lots]) + 1e-6


def _lot(exact, count, random):
    """Who has one more where it is drawn by lot."""
    more = np.zeros(len(exact))
    open_ = np.flatnonzero(exact - np.floor(exact) > 1e-9)
    more[random.permutation(open_)[: count - int(np.floor(exact + 1e-9).sum())]] = 1
    return more


def _off(cells, wrong):
    """The sum of squares of what all margins, and all of two keys, have too much."""
    total = 0.0
    for keys in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2)):
        margins = collections.Counter()
        for cell, own in zip(cells, wrong, strict=True):
            margins[tuple(cell[key] for key in keys)] += own
        total += sum(own**2 for own in margins.values())
    return total


def test_a_draw_is_its_seed(tmp_path):
    one, again, other = (human.sample(DATA, 20, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert {case.name for case in one.cases} != {case.name for case in other.cases}
    human.save(one, tmp_path)
    assert human.load(tmp_path) == one


def test_everybody_sees_the_same_cases_in_another_order(folder):
    seen = []
    for who in ("ann", "bob", "eve"):
        with (folder / f"sheet-{who}.csv").open(newline="", encoding="utf-8-sig") as file:
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


@pytest.mark.parametrize("text", ["=1+1", "+49 is what I dial", "-3 degrees, and I stay", "@home I stay"])
def test_a_text_that_a_spreadsheet_takes_for_a_formula_comes_back(tmp_path, text):
    drawn = human.sample(DATA, 3)
    drawn = drawn._replace(cases=(drawn.cases[0]._replace(action=text), *drawn.cases[1:]))
    human.write(drawn, ["ann"], tmp_path)
    content = (tmp_path / "sheet-ann.csv").read_bytes()
    assert content.startswith(codecs.BOM_UTF8)
    with (tmp_path / "sheet-ann.csv").open(newline="", encoding="utf-8-sig") as file:
        shown = {row["action"] for row in csv.DictReader(file)}
    assert "'" + text in shown
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in shown)
    filled(tmp_path, "ann", lambda *_: 3)
    assert human.read(drawn, [tmp_path / "sheet-ann.csv"]).annotators == ("ann",)


def test_no_spreadsheet_takes_a_cases_name_for_a_number():
    names = [case.name for case in human.sample(DATA, len(DATA)).cases]
    assert all(name[0].isalpha() for name in names)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser here")
def test_what_the_page_saves_is_a_sheet(tmp_path):
    """In a browser: answers are given, taken back, kept and saved, and the file is read back."""
    drawn = human.sample(DATA, 10)
    bad = drawn.cases[0]._replace(action='=1+1, "quoted", \u00c5lesund')
    drawn = drawn._replace(cases=(bad, *drawn.cases[1:]))
    human.write(drawn, ["ann"], tmp_path)
    page = (tmp_path / "sheet-ann.html").read_text()
    script = """
    <script>
    for (let i = 0; i < data.cases.length; i++) {
      document.querySelectorAll("fieldset").forEach((group, k) => group.querySelectorAll("input")[(i + k) % 5].click());
      document.getElementById("next").click();
    }
    const full = document.getElementById("count").textContent;
    document.querySelector("input:checked").click(); // the first answer of the last case is taken back
    const fewer = document.getElementById("count").textContent;
    const kept = JSON.parse(localStorage.getItem(key));
    let saved, named;
    URL.createObjectURL = blob => { saved = blob; return "#"; };
    HTMLAnchorElement.prototype.click = function () { named = this.download; };
    document.getElementById("save").click();
    saved.arrayBuffer().then(bytes => {
      const told = { full, fewer, kept, named, bytes: [...new Uint8Array(bytes)] };
      document.body.replaceChildren(Object.assign(document.createElement("pre"), { textContent: JSON.stringify(told) }));
    });
    </script>"""
    driven = tmp_path / "driven.html"
    driven.write_text(page.replace("</body>", script + "</body>"))
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    shown = subprocess.run([*words, driven.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout
    told = json.loads(html.unescape(shown.split("<pre>")[1].split("</pre>")[0]))
    assert (told["full"], told["fewer"], told["named"]) == ("10 of 10", "9 of 10", "sheet-ann.csv")
    (tmp_path / "saved.csv").write_bytes(bytes(told["bytes"]))
    assert bytes(told["bytes"]).startswith(codecs.BOM_UTF8)
    answers = human.read(drawn, [tmp_path / "saved.csv"])
    assert answers.annotators == ("ann",)
    data = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    places = {name: i for i, name in enumerate(answers.cases)}
    for i, case in enumerate(data["cases"]):
        expected = [(i + k) % 5 + 1.0 for k in range(8)]
        if i == 9:
            expected[0] = np.nan
        np.testing.assert_array_equal(answers.ratings[:, places[case["name"]], 0], expected)
        of_case = dict(zip(NAMES, expected, strict=True))
        assert told["kept"][case["name"]] == {name: own for name, own in of_case.items() if own == own}


def remarks(folder, **answers):
    """What is said of each annotator, by how they answer."""
    files = [filled(folder, who, answer) for who, answer in answers.items()]
    found = human.score(human.read(human.load(folder), files), draws=200)
    return {one.name: one.remarks for one in found.annotators}, found


def test_an_annotator_who_guesses_stands_out(folder):
    random = np.random.default_rng(0)
    said, found = remarks(folder, ann=near(random), bob=near(random), eve=lambda *_: int(random.integers(1, 6)))
    assert said["ann"] == said["bob"] == ()
    assert "from the others, whose median is" in said["eve"][0]
    by_name = {one.name: one for one in found.annotators}
    assert by_name["eve"].alpha_without > 0.2 > 0 > by_name["ann"].alpha_without


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda case, name: min(5, truth(case, name) + 2), ["from the others", "points above the median of all"]),
        (lambda *_: 5, ["from the others", "points above the median", "100% of the answers are the same rating"]),
        (lambda case, name: truth(case, name) if name == "realism" else "", ["12% of the questions are answered"]),
    ],
    ids=["leans", "same", "few"],
)
def test_one_who_leans_says_the_same_or_little_stands_out_and_nobody_else_does(folder, answer, words):
    random = np.random.default_rng(0)
    said, _ = remarks(folder, ann=near(random), bob=near(random), eve=answer)
    assert said["ann"] == said["bob"] == ()
    assert len(said["eve"]) == len(words)
    assert all(word in remark for word, remark in zip(words, said["eve"], strict=True))


def test_honest_annotators_of_good_data_are_not_accused_nor_either_of_two(folder):
    random = np.random.default_rng(0)

    def good(*_):
        return 5 if random.random() < 0.95 else 4

    assert set(remarks(folder, ann=good, bob=good, eve=good)[0].values()) == {()}
    assert set(remarks(folder, ann=lambda *_: 5, bob=near(random))[0].values()) == {()}


def test_an_interval_that_draws_can_not_have_is_left_out():
    """One rating of 180 is another: every third draw of the cases has none of it, and no alpha."""
    ratings = np.full((60, 3), 5.0)
    ratings[0, 0] = 4
    counts = human.count_ratings(ratings, 1, 5)
    draws = agreement.bootstrap_weights(60, 500, 0)
    found = agreement.bootstrap_interval(human.alpha, counts, draws)
    assert found.without == pytest.approx((draws[:, 0] == 0).mean())
    assert 0.3 < found.without < 0.45
    assert np.isnan([found.low, found.high]).all()
    assert found.estimate == human.alpha(counts, np.ones((1, 60)))[0]
    same = agreement.bootstrap_interval(human.two_agree, counts, draws)
    assert (same.low, same.high, same.without) == (1, 1, 0)


def test_intervals_are_the_middle_of_the_statistics_of_drawn_cases(folder):
    """Every number again from ratings in which cases stand as often as they were drawn."""
    random = np.random.default_rng(0)
    files = [filled(folder, who, near(random)) for who in ("ann", "bob", "eve")]
    answers = human.read(human.load(folder), files)
    found = human.score(answers, draws=100, seed=3)
    draws = agreement.bootstrap_weights(len(answers.cases), 100, 3).astype(int)
    one = np.ones((1, len(answers.cases)))
    plain = (human.two_agree, human.alpha, human.ac2, lambda counts, _: [np.nanmean(counts @ np.arange(1, 6) / 3)])
    for statistic, field in zip(plain, ("two_agree", "alpha", "ac2", "mean"), strict=True):
        values = [statistic(human.count_ratings(np.repeat(answers.ratings[2], own, 0), 1, 5), one)[0] for own in draws]
        expected = np.quantile(values, [0.025, 0.975])
        own = getattr(found.questions[2], field)
        np.testing.assert_allclose([own.low, own.high], expected, rtol=1e-12)
    off = answers.ratings[..., 0] - np.median(answers.ratings, 2)
    values = [np.repeat(off, own, 1).mean() for own in draws]
    own = found.annotators[0].leaning
    np.testing.assert_allclose([own.estimate, own.low, own.high], [off.mean(), *np.quantile(values, [0.025, 0.975])])


def test_numbers_are_those_of_the_formulas(folder):
    random = np.random.default_rng(0)
    files = [filled(folder, who, near(random)) for who in ("ann", "bob", "eve")]
    answers = human.read(human.load(folder), files)
    found = human.score(answers, draws=200)
    for one, ratings in zip(found.questions, answers.ratings, strict=True):
        counts = human.count_ratings(ratings, 1, 5)
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
            lambda text: re.sub(r"\n\w{11},", "\ncase123456,", text, count=1),
            r"the case 'case123456' is not in the sample",
        ),
        (lambda text: text.replace(",express,", ",suppress,", 1), r"polarity: differs from the case \w+ of the sample"),
        (lambda text: text.replace(",ann,", ",,", 1), r"sheet-ann.csv:2: annotator: expected a name, found nothing"),
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


def test_a_sheet_that_was_saved_when_it_was_blank_is_no_second_one(folder):
    blank = folder / "blank.csv"
    blank.write_bytes((folder / "sheet-ann.csv").read_bytes())
    path = filled(folder, "ann", lambda *_: 3)
    for files in ([path, blank], [blank, path]):
        answers = human.read(human.load(folder), files)
        assert answers.annotators == ("ann",)
        assert (answers.ratings == 3).all()
    with pytest.raises(errors.InputError, match="the sheets contain no ratings"):
        human.score(human.read(human.load(folder), [blank]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.splitlines()[0] + "\n", r"sheet-ann.csv:1: a header without rows"),
        (lambda text: re.sub(r",3,", f",{'3' * 400},", text, count=1), r"expected a whole number from 1 to 5"),
    ],
    ids=["rows", "digits"],
)
def test_sheets_that_hold_nothing_to_count(folder, change, message):
    path = filled(folder, "ann", lambda *_: 3)
    path.write_text(change(path.read_text()))
    with pytest.raises(errors.InputError, match=message):
        human.read(human.load(folder), [path])


@pytest.mark.parametrize("text", ["null", '"a"', "[]", "{}", "[1]", "{"])
def test_a_damaged_sample_is_named(folder, text):
    (folder / "sample.json").write_text(text)
    with pytest.raises(errors.InputError, match=r"sample.json: not a sample, or damaged"):
        human.load(folder)


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
        "--items.country",
        "Egypt",
    ]
    status, told, _ = run(capsys, *words)
    assert status == 0
    assert len(told.splitlines()) == 7
    status, _, said = run(capsys, *words)
    assert status == 2
    assert "a sample already exists" in said
    random = np.random.default_rng(0)
    files = [str(filled(out, who, near(random))) for who in ("ann", "bob", "eve")]
    status, told, _ = run(capsys, "human", "score", *files, "--sample", str(out), "--json")
    assert status == 0
    content = json.loads(told)
    assert [one["name"] for one in content["questions"]] == list(NAMES)
    status, _, said = run(capsys, "human", "score", *files, "--sample", str(out), "--seed", "-1")
    assert (status, "seed: expected 0 or more, found -1" in said) == (2, True)
    status, told, _ = run(capsys, "human", "score", *files, "--sample", str(out))
    assert status == 0
    assert "alpha without" in told
    rows = {
        line.split()[0]: line.count("]") for line in told.splitlines() if line.split()[:1] and line.split()[0] in NAMES
    }
    assert rows == dict.fromkeys(NAMES, 4)  # every interval is on the line of its question


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--annotators", "ann", "Ann"], "without duplicates"),
        (["--annotators", "../ann"], "expected names of letters"),
        (["--annotators", "ann", "--draw", "-1"], "draw: expected 0 or more, found -1"),
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
    assert "sample.json not found; `vatjax human sample` writes it" in said
