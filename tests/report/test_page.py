"""The report: nothing in it is fetched or cut off, what comes from data stays text, and its words are those of its numbers."""

import csv
import dataclasses
import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from tests.tiers import quick
from vatjax import analysis, drawing, errors, items, organism, report, store
from vatjax.interventions import Arm, Cell, TrainingSettings, of_kind
from vatjax.report import page, sentences, verdict
from vatjax.study import Study, arm_groups, results
from vatjax.study.design import Design

DATA = items.bundled()
_, TEST = DATA.split()
# As many contexts and draws as in `test_tax`: what one of them compiles serves both.
SCENES, DRAWS = 58, 200
SOME = TEST.take(np.flatnonzero(np.isin(TEST.scene_of, np.unique(TEST.scene_of)[:SCENES])))
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
EVIL = '<script>alert("x")</script>&$x$'


class Made(Study):
    """A study whose results are in memory."""

    def result(self, row):
        """As they were made."""
        return self.contents[row["intervention"], row["amount"], row["placebo"], row["draw"]]

    def texts(self, row):
        """One item, whose words are as evil."""
        side = {"rating": 2.0, "mass": 0.9, "prompt": EVIL, "written": EVIL}
        context = {"country": EVIL, "topic": "t", "scene": "s"}
        after = {**side, "rating": 4.5}
        return [{"value": "Wealth", "context": context, "asked": EVIL, "before": side, "after": after}]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Planted states under planted pushes, as though they had been measured; names are as evil as data can be."""
    folder = tmp_path_factory.mktemp("report")
    kinds = {
        "examples with a long name": of_kind("shots")(counts=(2, 8)),
        "vector": of_kind("residual")(strengths=(0.5, 1.0)),
        "dpo": of_kind("dpo")(training=TrainingSettings(steps=30, checkpoints=3)),
    }
    design = Design(models=(EVIL,), interventions=kinds, out=str(folder), targets=("Power",), resamples=100)
    world, random = organism.load_world("pocket"), np.random.default_rng(0)
    before = organism.planted_state(world, SOME, random=random)
    rows, contents = [], {}
    for name, what in kinds.items():
        cell = Cell(EVIL, name, what, "Power", "express", 0)
        for place, level in enumerate(what.levels(), 1):
            for placebo in ("", "random"):
                size = 0.0 if placebo else place / len(what.levels())
                persona = organism.Persona("Power", 1, size)
                after = organism.planted_state(world, SOME, persona=persona, random=random)
                levels = ("types",) if placebo else analysis.LEVELS
                found = analysis.analyse(
                    before, after, DATA.taxonomy, "Power", 1, resamples=DRAWS, levels=levels, order=False
                )
                estimate = {"estimate": 0.5, "low": 0.4, "high": 0.6}
                content = analysis.as_json(found) | {
                    "success": {**estimate, "before": 0.3},
                    "leakage": estimate,
                    "utility_loss": estimate,
                    "agreement": None,
                    "wordings": {},
                    "robust": None,
                    "mass_before": 0.99,
                    "mass": 0.3 if name == "dpo" and place == 3 else 0.98,
                    "perplexity": None,
                    "broken": name == "dpo" and place == 3,
                }
                arm = Arm(cell, level, placebo)
                contents[name, level, placebo or "none", 0] = content
                for own in levels:
                    blind = {"over_placebo": "none", **results._with_interval("over_placebo_gain", {})}
                    blind |= {"over_placebo_nvat": "none", "over_placebo_nvat_p": None, "over_placebo_draws": None}
                    rows.append(results._row(arm, content, own, own == "types") | blind)
    results._add_q_values(rows)
    results._mark_front(rows, [None] * len(rows), [{}] * len(rows), design)
    same = {"model": EVIL, "target": "Power", "direction": "express", "seed": 0, "same_gain": 0.5}
    off = {"off_target": 0.2, "off_target_low": 0.1, "off_target_high": 0.3}
    against = [{**same, "one": "vector", "other": "dpo", "at": "same gain", **off}]
    time = {"seconds": 1.5, "vatjax": "1", "jax": "2", "python": "3", "device": EVIL, "system": "s"}
    with open(folder / "time.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(time))
        writer.writeheader()
        writer.writerow(time)
    store.commit(folder / "study.yaml", f"models: ['{EVIL}']\n".encode())
    made = Made(folder, design, rows, against, [f"{EVIL}: failed"], [])
    object.__setattr__(made, "contents", contents)
    return made


@pytest.fixture(scope="module")
def written(study):
    """The page."""
    return report.write(study).read_text()


class Reader(html.parser.HTMLParser):
    """What a page is made of."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.ids, self.said = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for key, value in attrs:
            if key in ("href", "src", "xlink:href"):
                self.links.append(value)
            if key == "id":
                self.ids.append(value)
            assert not key.startswith("on")

    def handle_data(self, data):
        self.said.append(data)


def test_nothing_is_fetched_and_nothing_runs(written):
    found = Reader(written)
    assert "script" not in found.tags
    assert "link" not in found.tags
    beside = [link for link in found.links if not link.startswith(("#", "data:"))]
    assert beside == list(report._FILES)  # next to the page, and by relative names
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))
    assert "url(http" not in written
    assert "@import" not in written
    assert found.tags.count("svg") == 5  # the plane, the courses, and three arms
    assert EVIL in "".join(found.said)
    assert '<script>alert("x")' not in written


@pytest.mark.thorough
def test_a_page_is_the_same_every_time(study, written):
    assert report.write(study).read_text() == written


def test_figures_are_files_too(study, written):
    names = sorted(path.name for path in (study.folder / "figures").iterdir())
    assert len(names) == 10
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in (study.folder / "figures").glob("*.png"))
    assert all(b"<svg" in path.read_bytes() for path in (study.folder / "figures").glob("*.svg"))
    assert drawing.INK not in written.split("</style>")[1]


def test_a_study_draws_the_plane_of_one_push(study, tmp_path):
    study.plot(tmp_path / "plane.svg", target="Power")
    drawn = (tmp_path / "plane.svg").read_text()
    row = next(row for row in study.where(target="Power", headline=True, placebo="none") if row["gain"] is not None)
    assert f"{row['intervention']} {row['amount']:g}" in drawn
    with pytest.raises(errors.InputError, match="Wisdom: no such push in the study; it has express Power"):
        study.plot(tmp_path / "plane.svg", target="Wisdom")


def test_words_are_those_of_the_numbers(study, written):
    aim = arm_groups.arm_groups(study)[0]
    said = dict(line.split(": ", 1) for line in sentences.describe_arms(aim))
    best = aim.best_arms()["examples with a long name"]
    assert best["amount"] == 8
    assert f"Power rose by {best['gain']:.2f}" in said["examples with a long name, 8 examples"]
    assert aim.best_arms()["dpo"]["amount"] == 20  # at 30 steps it is broken
    untold = sentences.describe_inconclusive([aim])
    assert any(line.startswith("1 arm leaves the model broken: dpo +Power, 30 steps") for line in untold)
    columns, rows = verdict.comparison_matrix(study, aim)
    assert columns == ["", "vector", "dpo"]
    assert [cells for _, cells in rows] == [["vector", "", "+0.20* at 0.50"], ["dpo", "-0.20* at 0.50", ""]]
    drift = list(sentences.describe_drift(study, aim))
    assert re.fullmatch(
        r"dpo: half of the target's values had 95 % of their last shift by step 30, .* of 30\.", drift[0]
    )
    blank = dict(best, resolved=False)
    assert "cannot be distinguished from 0, so nothing is said about its price" in sentences._did(blank, "Power")
    fell = sentences._did(dict(best, direction="suppress", off_target_shift=None), "Power")
    assert fell.startswith(f"Power fell by {best['gain']:.2f} [")
    assert "It has no placebo" in fell
    none = sentences._did(dict(best, over_placebo_draws=0), "Power")
    assert "No draw of a placebo counts next to it." in none
    over = {
        "over_placebo": "random",
        "over_placebo_draws": 2,
        "over_placebo_gain": 0.1,
        "over_placebo_gain_low": 0.05,
        "over_placebo_gain_high": 0.15,
    }
    beyond = sentences._did(best | over, "Power")
    assert "Beyond its placebo (random) that is 0.10 [0.05, 0.15] of gain, and so most of the gain is what" in beyond
    one = sentences._did(best | over | {"over_placebo_gain_low": None, "over_placebo_gain_high": None}, "Power")
    assert "that is 0.10 of gain, and so most of the gain is what any such push does (one draw of it" in one
    blank = dict(best, nvat_p=0.4)
    assert sentences._did(blank, "Power").endswith("That values moved together cannot be distinguished from noise.")


def test_moving_together_is_only_said_against_a_placebo():
    row = {
        "nvat_p": 0.001,
        "ipsatised_nvat_p": 0.001,
        "nvat_debiased": 0.4,
        "coupling_points": 0.2,
        "over_placebo_nvat": "random",
        "over_placebo_nvat_p": 0.6,
    }
    assert sentences._together(row).startswith("Values moved together no more than under the placebo random")
    assert "more than under the placebo random (nVAT 0.40" in sentences._together(row | {"over_placebo_nvat_p": 0.01})
    assert "without a placebo nothing says" in sentences._together(row | {"over_placebo_nvat_p": None})
    assert "a common style of answering may explain it" in sentences._together(row | {"ipsatised_nvat_p": 0.2})
    assert "cannot be distinguished from noise" in sentences._together(row | {"nvat_p": 0.2})
    assert "p below .001" not in sentences._together(row)


def test_what_is_left_out_is_said(study):
    text = report.write(study, portraits=1).read_text()
    assert "2 more arms have no figure of their own here." in text
    assert Reader(text).tags.count("svg") == 3


def test_pieces_of_the_page_escape():
    assert page.escape('<a b="c">\'') == "&lt;a b=&quot;c&quot;&gt;&#x27;"
    for made in (
        page.heading(EVIL, 2, EVIL),
        page.paragraph(EVIL),
        page.bullet_list([EVIL]),
        page.links([(EVIL, EVIL)]),
        page.table([EVIL], [("", [EVIL])], EVIL),
        page.collapsible(EVIL, []),
        page.figure(page.Figure(b"<svg ></svg>", EVIL), 1),
        page.page(EVIL, []).decode(),
    ):
        assert "<script" not in made
        assert "&lt;script&gt;" in made


MEASURE = """
<script>
window.addEventListener("load", () => {
  for (const one of document.querySelectorAll("details")) one.open = true;
  const cut = [];
  for (const one of document.querySelectorAll("h1, h2, h3, p, li, summary, td, th, figcaption, a, pre")) {
    if (one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).display !== "inline") cut.push(one.textContent);
    const box = one.getBoundingClientRect();
    if (!one.closest(".wide") && box.right > window.innerWidth + 1) cut.push(one.textContent);
  }
  for (const drawing of document.querySelectorAll("svg")) {
    const frame = drawing.getBoundingClientRect();
    for (const one of drawing.querySelectorAll("g[id*='text']")) {
      const box = one.getBoundingClientRect();
      const inside = box.left >= frame.left - 1 && box.right <= frame.right + 1;
      if (!inside || box.top < frame.top - 1 || box.bottom > frame.bottom + 1) cut.push("drawn: " + one.id);
    }
  }
  const found = document.createElement("pre");
  found.id = "measured";
  found.textContent = JSON.stringify({
    cut, width: window.innerWidth, wide: document.documentElement.scrollWidth, texts: document.querySelectorAll("g[id*='text']").length
  });
  document.body.append(found);
  if (window.parent !== window) window.parent.postMessage(found.textContent, "*");
});
</script>
"""


# A browser's window is no narrower than 500 pixels, a frame in it is.
PHONE = """<!DOCTYPE html><iframe src="{name}" width="{width}" height="800" style="border: 0"></iframe>
<pre id="measured"></pre><script>
window.addEventListener("message", (event) => document.querySelector("#measured").textContent = event.data);
</script>"""


def browse(where, width, *more):
    if width < 500:
        frame = where.parent / f"frame-{where.name}"
        frame.write_text(PHONE.format(name=where.name, width=width))
        where = frame
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
    ]
    command += [
        f"--window-size={max(width, 500)},900",
        "--virtual-time-budget=20000",
        "--enable-logging=stderr",
        "--dump-dom",
        *more,
    ]
    done = subprocess.run([*command, where.as_uri()], capture_output=True, text=True, timeout=180, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to render the report with")
@pytest.mark.parametrize("width", quick([1280, 390], [390]))
def test_nothing_is_cut_off_in_a_browser(written, width, tmp_path):
    plain = tmp_path / "plain.html"
    plain.write_text(written)
    dom, errors = browse(plain, width)
    assert errors == []
    assert "</html>" in dom
    for scheme in ("light", "dark") if width > 500 else ("light",):
        shown = tmp_path / f"{scheme}.html"
        without = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", written)
        shown.write_text(without.replace("</main>", f"</main>{MEASURE}"))
        dom, errors = browse(shown, width, *(["--force-dark-mode"] if scheme == "dark" else []))
        assert errors == []
        found = json.loads(re.search(r'<pre id="measured">(.*?)</pre>', dom, re.DOTALL)[1].replace("&quot;", '"'))
        assert found["width"] == width
        assert found["wide"] <= width
        assert found["texts"] > 100
        assert found["cut"] == []


def test_a_study_without_any_row_has_a_page(study, tmp_path):
    store.commit(tmp_path / "time.csv", b"")
    store.commit(tmp_path / "study.yaml", b"models: [x]\n")
    empty = dataclasses.replace(Study(tmp_path, study.design, [], [], ["everything: failed"], []))
    text = report.write(empty).read_text()
    assert "everything: failed" in text
