"""Ratings from elsewhere in a study: the rows are those of the arm that the ratings were written from."""

import csv
import dataclasses

import numpy as np
import pytest

from vatjax import config, elicit, errors, interventions, models, prompts, report, states, study
from vatjax.study.design import Design

pytestmark = pytest.mark.long

TEXT = """
models: [pocket]
targets: [Power]
out: {out}
scenes: 8
placebos: 1
resamples: 100
texts: 1
interventions:
  said: {{kind: instruction}}
  written: {{kind: ratings, after: ["{folder}/after.npz"]}}
  table: {{kind: ratings, after: ["{folder}/after.csv", "{folder}/before.csv"]}}
  both: {{kind: ratings, before: "{folder}/seven-before.csv", after: ["{folder}/seven-after.csv"], scale: [1, 7]}}
  seven: {{kind: ratings, after: ["{folder}/seven-after.csv"], scale: [1, 7]}}
  other: {{kind: ratings, after: ["{folder}/elsewhere.csv"]}}
"""


def write_table(state, path, low, high):
    keys = list(state.contexts)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*keys, *state.values])
        middle, stretch = (low + high) / 2, (high - low) / 4
        for i in reversed(range(len(state.clusters))):  # another order of the same contexts
            cells = ["" if np.isnan(x) else repr(float(x) * stretch + middle) for x in state.state[i]]
            rows.writerow([*(state.contexts[key][i] for key in keys), *cells])


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ratings")
    model = models.load("pocket")
    design = config.parse(Design, TEXT.format(out=folder / "s", folder=folder).partition("  written")[0], "study.yaml")
    test_items = study.plan(design).test_items
    sentence = prompts.instruction(test_items.taxonomy, "Power", 1)
    before = elicit.ratings(model, test_items).state
    after = elicit.ratings(model, test_items, instruction=sentence).state
    states.save(after, folder / "after.npz")
    for name, state in (("before", before), ("after", after)):
        write_table(state, folder / f"{name}.csv", 1, 5)
        write_table(state, folder / f"seven-{name}.csv", 1, 7)
    elsewhere = {
        key: np.array([f"{entry} again" for entry in column], object) for key, column in after.contexts.items()
    }
    write_table(dataclasses.replace(after, contexts=elsewhere), folder / "elsewhere.csv", 1, 5)
    outcome = study.run(study.plan(config.parse(Design, TEXT.format(out=folder / "s", folder=folder), "study.yaml")))
    return outcome, study.write(outcome)


def row(results, name, amount=1.0):
    (found,) = results.where(intervention=name, amount=amount, level="types", placebo="none")
    return found


def test_given_ratings_have_the_numbers_of_the_arm_that_they_come_from(ran):
    _, results = ran
    said = row(results, "said")
    for name, points in (("written", 1), ("table", 1), ("both", 6 / 4)):
        given = row(results, name)
        for column in ("gain", "gain_low", "off_target_shift"):
            assert given[column] == pytest.approx(points * said[column], abs=2e-4), (name, column)
        for column in ("nvat", "n", "clusters"):
            assert given[column] == pytest.approx(said[column], abs=2e-3), (name, column)
        assert given["nvat_p"] == pytest.approx(said["nvat_p"], abs=0.011)  # shifts are rounded: one draw of 101


def test_the_model_s_own_ratings_move_nothing(ran):
    _, results = ran
    assert abs(row(results, "table", 2.0)["gain"]) < 1e-6
    assert row(results, "table", 2.0)["unit"] == "table"


def test_nothing_is_said_of_mass_and_texts(ran):
    outcome, results = ran
    given = row(results, "written")
    assert (given["mass"], given["perplexity"], given["broken"]) == (None, None, False)
    assert not results.texts(given)
    assert results.texts(row(results, "said"))
    (graph,) = outcome.planned.graphs
    assert {arm.cell.name for arm in graph.texts} == {"said"}


def test_pairs_are_compared_where_they_start_from_the_same_ratings(ran):
    _, results = ran
    pairs = {(one["one"], one["other"]) for one in results.comparisons}
    assert ("said", "written") in pairs
    assert not any("both" in pair for pair in pairs)
    same = [one for one in results.comparisons if (one["one"], one["other"]) == ("said", "written")]
    assert all(abs(one["gain"]) < 1e-6 for one in same)


def test_the_states_before_are_those_that_were_given(ran):
    _, results = ran
    before, after = results.states(row(results, "both"))
    shift = np.nanmean(after.state[:, before.values.index("Wealth")] - before.state[:, before.values.index("Wealth")])
    plain = results.states(row(results, "said"))
    assert shift == pytest.approx(
        1.5 * np.nanmean((plain[1].state - plain[0].state)[:, plain[0].values.index("Wealth")]), abs=1e-4
    )
    page = report.write(results).read_text()
    assert all(f">{name}" in page for name in ("written", "table", "both"))


def test_what_does_not_match_ends_its_own_arm_with_one_line(ran):
    _, results = ran
    lines = [line for line in results.failed if "other" in line or "seven" in line]
    assert any("elsewhere.csv: the two states have no context in common" in line for line in lines)
    assert any(
        "seven-after.csv: its scale has 6 points, and that of the study 4; give the ratings before it too" in line
        for line in lines
    )


def test_the_command_shows_ratings_without_mass(ran, capsys):
    from vatjax import cli

    outcome, _ = ran
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", f"{outcome.planned.design.out}/study.yaml"])
    shown = capsys.readouterr().out
    assert ended.value.code in (0, 1)
    assert "written +Power" in shown


def test_other_scales_share_no_front(ran):
    _, results = ran
    assert row(results, "both")["front"]
    assert row(results, "written")["front"] or row(results, "said")["front"]


def test_a_state_of_another_scale_is_refused(ran, tmp_path):
    outcome, _ = ran
    state = elicit.ratings(models.load("pocket"), outcome.planned.test_items, elicit.ElicitConfig(high=7)).state
    states.save(state, tmp_path / "seven.npz")
    text = TEXT.format(out=tmp_path / "s", folder=tmp_path).partition("  written")[0]
    text += f'  npz: {{kind: ratings, after: ["{tmp_path}/seven.npz"]}}'
    results = study.write(study.run(study.plan(config.parse(Design, text, "study.yaml"))))
    assert any("seven.npz: its scale has 6 points, and that of the study 4" in line for line in results.failed)
    assert not results.comparisons


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "after: expected at least one file, and none twice"),
        ({"after": ("a", "a")}, "none twice, found ['a', 'a']"),
    ],
)
def test_a_setting_that_can_not_be_is_named(settings, message):
    with pytest.raises(errors.InputError) as caught:
        interventions.of_kind("ratings")(**settings)
    assert message in str(caught.value)


def test_a_file_that_is_not_there_ends_the_plan(tmp_path):
    design = Design(
        models=("pocket",),
        out=str(tmp_path / "s"),
        scenes=4,
        interventions={"gone": interventions.of_kind("ratings")(after=(str(tmp_path / "gone.csv"),))},
    )
    with pytest.raises(errors.InputError, match=r"interventions.gone: .*gone.csv: no such file"):
        study.plan(design)
