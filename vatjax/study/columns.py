"""The columns of results.csv: their meaning, and how cells are read and written."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vatjax import errors, store, tables

Row = dict[str, Any]

NONE = "none"  # in a column of placebo names: without a placebo. CSV readers take an empty cell for a missing number.


class Column(NamedTuple):
    """Meaning of a column.

    Attributes:
        kind: str, int, float or bool; a missing cell is None but in a column of texts.
        unit: of its numbers.
        meaning: in words.
    """

    kind: type
    unit: str
    meaning: str


def _text(meaning: str) -> Column:
    return Column(str, "", meaning)


def _flag(meaning: str) -> Column:
    return Column(bool, "", meaning)


def _count(unit: str, meaning: str) -> Column:
    return Column(int, unit, meaning)


def _number(unit: str, meaning: str) -> Column:
    return Column(float, unit, meaning)


# The columns of results.csv, then those that only comparisons.csv has. NAME_low or NAME_high is an end of NAME's 95 %
# interval.
COLUMNS: Mapping[str, Column] = {
    "model": _text("the model, as the study names it"),
    "intervention": _text("the intervention's name in the study"),
    "kind": _text("its kind: shots, instruction, residual, conva, sft, dpo, ..."),
    "target": _text("the value, type or group that is pushed"),
    "direction": _text("express: towards the target; suppress: away from it"),
    "seed": _count("", "seed of the examples, pairs or order of training data"),
    "amount": _number("unit", "level of the intervention, in the unit of the column unit"),
    "unit": _text("examples, strength, steps; empty for an instruction"),
    "placebo": _text("the placebo that this row is a draw of; none for the intervention itself"),
    "draw": _count("", "which draw of the placebo, from 0"),
    "level": _text("values: each value is a variable; types: the mean of each type's values is"),
    "headline": _flag("True for the level that the target is of: the row that tables and report show"),
    "n": _count("contexts", "contexts with a rating before and after"),
    "clusters": _count(
        "clusters", "groups of contexts that are resampled as a whole; of two crossed keys the number of the smaller"
    ),
    "gain": _number("points", "mean shift of the target in the requested direction"),
    "gain_p": _number("p", "of the gain against 0"),
    "gain_q": _number("q", "of the gain, at a false discovery rate over all interventions of the level"),
    "resolved": _flag("True where the gain's interval excludes 0"),
    "off_target": _number(
        "points per point", "the others' shift for each point of gain: root mean square GND, without the noise's share"
    ),
    "off_target_shift": _number(
        "points", "root mean square shift of everything but the target, without the noise's share"
    ),
    "off_target_p": _number("p", "that nothing but the target moved at all"),
    "nvat": _number("", "network VAT in the study's reading (rms: 0 to 1), with the noise's share"),
    "nvat_floor": _number("", "mean nVAT of sign flips: what noise alone gives"),
    "nvat_floor_95": _number("", "95 % of sign flips stay below"),
    "numerical_noise": _number(
        "points", "standard deviation of one rating over sizes of passes; empty in float32, where it is below .001"
    ),
    "nvat_debiased": _number("", "nVAT without the noise's share"),
    "nvat_p": _number("p", "that the values do not move together more than under sign flips"),
    "nvat_q": _number("q", "of over_placebo_nvat_p, at a false discovery rate over all interventions of the level"),
    "gini": _number("0 to 1", "Gini coefficient of the VAT over the values"),
    "coupling_points": _number(
        "points", "root of the root mean square covariance of shifts: how far values move together"
    ),
    "bound": _number("points", "nothing but the target moved by more than this, at 95 % for all together"),
    "order_index": _number("-1 to 1", "agreement of the coupling with the order of the circle"),
    "order_p": _number("p", "of the order index against all arrangements of the types"),
    "ipsatised_nvat_debiased": _number("0 to 1", "nvat_debiased after subtracting each context's mean shift"),
    "ipsatised_nvat_p": _number("p", "nvat_p after subtracting each context's mean shift"),
    "agreement": _number("points", "rise of agreement with any action, for or against a value"),
    "success_before": _number("share", "contexts in which the unedited model leans in the requested direction"),
    "success": _number("share", "the same with the intervention"),
    "leakage": _number("per point", "rise of the other types' success for each point of the target's"),
    "utility_loss": _number("share", "share of the option mass that the intervention removes"),
    "mass": _number("probability", "mean probability of all options of the scale, with the intervention"),
    "mass_before": _number("probability", "the same of the unedited model"),
    "perplexity": _number("ratio", "perplexity of neutral text over the unedited model's"),
    "broken": _flag(
        "True where the mass is below half of the unedited model's, the perplexity above ten times its, or no rating of the target left"
    ),
    "warnings": _text("warnings about the row, separated by ;"),
    "wording_gain_sd": _number("points", "standard deviation of the gain over wordings"),
    "wording_nvat_sd": _number("0 to 1", "standard deviation of nVAT over wordings"),
    "nvat_80_sd": _number("0 to 1", "standard deviation of nVAT over draws of 80 % of the clusters (robust: true)"),
    "agreement_80": _number("-1 to 1", "rank correlation of VAT with that of 80 % of the clusters (robust: true)"),
    "agreement_kendall": _number("-1 to 1", "rank correlation of VAT by Spearman with VAT by Kendall (robust: true)"),
    "agreement_levels": _number("-1 to 1", "rank correlation of the types' own VAT with their values' (robust: true)"),
    "over_placebo": _text("the placebo that leaves least of the gain; none where no draw counts"),
    "over_placebo_gain": _number("points", "gain minus the gain of that placebo"),
    "over_placebo_nvat": _text("the placebo whose nVAT comes nearest; none where no draw counts"),
    "over_placebo_nvat_p": _number("p", "that the values do not move together more than under that placebo"),
    "over_placebo_draws": _count(
        "draws", "draws of the placebo that count: not broken, and not without any change; empty without a placebo"
    ),
    "front": _flag(
        "True where no other arm with the same aim that gains and leaves the model whole has more gain at less shift"
    ),
    "front_share": _number("share", "share of draws in which the arm is on the front"),
    "one": _text("the first of two interventions"),
    "other": _text("the second one, which is subtracted from the first"),
    "at": _text("where they are compared: at their last levels, or at the same gain"),
    "same_gain": _number("points", "the gain at which they are compared"),
}
_ENDS = ("_low", "_high")


def data_dictionary(names: Sequence[str]) -> bytes:
    """Returns the data dictionary of some columns as CSV: column, unit, meaning."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("column", "unit", "meaning"))
    for name in names:
        column = COLUMNS[_base(name)]
        meaning = column.meaning
        if name not in COLUMNS:
            meaning = f"{'lower' if name.endswith('_low') else 'upper'} end of the 95 % interval of {_base(name)}"
        writer.writerow((name, column.unit, meaning))
    return text.getvalue().encode()


def to_csv(rows: Sequence[Row]) -> bytes:
    """Returns rows as CSV; empty for no rows."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            guarded = {key: tables.guard_formula(x) if isinstance(x, str) else x for key, x in row.items()}
            writer.writerow(guarded)
    return text.getvalue().encode()


def read_csv(path: Any) -> list[Row]:
    """Reads rows, with numbers parsed; an empty cell of a number becomes None.

    Raises:
        InputError: if a row has other cells than the header, or a cell that should be a number cannot be parsed.
    """
    rows = []
    try:
        for row in csv.DictReader(io.StringIO(store.read_text(path))):
            if None in row or None in row.values():
                raise ValueError("another number of cells than the header")
            rows.append({key: _parse(key, text) for key, text in row.items()})
    except (ValueError, OverflowError, csv.Error) as error:
        raise errors.InputError(f"{path}: damaged ({error}); run the study again") from None
    return rows


def _base(name: str) -> str:
    """Returns the column that an end of an interval belongs to; any other column itself."""
    return name if name in COLUMNS else next((name.removesuffix(end) for end in _ENDS if name.endswith(end)), name)


def _parse(name: str, text: str) -> Any:
    """Returns a cell as its column's type; an unknown column is text."""
    kind = COLUMNS[_base(name)].kind if _base(name) in COLUMNS else str
    if kind is str:
        return tables.unguard_formula(text)
    if not text:
        return None
    return text == "True" if kind is bool else kind(float(text))


def is_placebo(row: Mapping[str, Any]) -> bool:
    """Returns whether a row is a draw of a placebo."""
    return row["placebo"] not in (NONE, "")  # empty in a study of an earlier version
