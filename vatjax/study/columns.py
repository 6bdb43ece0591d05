"""The columns of results.csv: their meaning, and how cells are read and written."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from vatjax import store

Row = dict[str, Any]

NONE = "none"  # in a column of placebo names: without a placebo. CSV readers take an empty cell for a missing number.

# name -> (unit, meaning). A column NAME_low or NAME_high is an end of NAME's 95 % interval.
COLUMNS: Mapping[str, tuple[str, str]] = {
    "model": ("", "the model, as the study names it"),
    "intervention": ("", "the intervention's name in the study"),
    "kind": ("", "its kind: shots, instruction, residual, conva, sft, dpo, ..."),
    "target": ("", "the value, type or group that is pushed"),
    "direction": ("", "express: towards the target; suppress: away from it"),
    "seed": ("", "seed of the examples, pairs or order of training data"),
    "amount": ("unit", "level of the intervention, in the unit of the column unit"),
    "unit": ("", "examples, strength, steps; empty for an instruction"),
    "placebo": ("", "the placebo that this row is a draw of; none for the intervention itself"),
    "draw": ("", "which draw of the placebo, from 0"),
    "level": ("", "values: each value is a variable; types: the mean of each type's values is"),
    "headline": ("", "True for the level that the target is of: the row that tables and report show"),
    "n": ("contexts", "contexts with a rating before and after"),
    "clusters": (
        "clusters",
        "groups of contexts that are resampled as a whole; of two crossed keys the number of the smaller",
    ),
    "gain": ("points", "mean shift of the target in the requested direction"),
    "gain_p": ("p", "of the gain against 0"),
    "gain_q": ("q", "of the gain, at a false discovery rate over all interventions of the level"),
    "resolved": ("", "True where the gain's interval excludes 0"),
    "off_target": (
        "points per point",
        "the others' shift for each point of gain: root mean square GND, without the noise's share",
    ),
    "off_target_shift": ("points", "root mean square shift of everything but the target, without the noise's share"),
    "off_target_p": ("p", "that nothing but the target moved at all"),
    "nvat": ("", "network VAT in the study's reading (rms: 0 to 1), with the noise's share"),
    "nvat_floor": ("", "mean nVAT of sign flips: what noise alone gives"),
    "nvat_floor_95": ("", "95 % of sign flips stay below"),
    "numerical_noise": (
        "points",
        "standard deviation of one rating over sizes of passes; empty in float32, where it is below .001",
    ),
    "nvat_debiased": ("", "nVAT without the noise's share"),
    "nvat_p": ("p", "that the values do not move together more than under sign flips"),
    "nvat_q": ("q", "of over_placebo_nvat_p, at a false discovery rate over all interventions of the level"),
    "gini": ("0 to 1", "Gini coefficient of the VAT over the values"),
    "coupling_points": ("points", "root of the root mean square covariance of shifts: how far values move together"),
    "bound": ("points", "nothing but the target moved by more than this, at 95 % for all together"),
    "order_index": ("-1 to 1", "agreement of the coupling with the order of the circle"),
    "order_p": ("p", "of the order index against all arrangements of the types"),
    "ipsatised_nvat_debiased": ("0 to 1", "nvat_debiased after subtracting each context's mean shift"),
    "ipsatised_nvat_p": ("p", "nvat_p after subtracting each context's mean shift"),
    "agreement": ("points", "rise of agreement with any action, for or against a value"),
    "success_before": ("share", "contexts in which the unedited model leans in the requested direction"),
    "success": ("share", "the same with the intervention"),
    "leakage": ("per point", "rise of the other types' success for each point of the target's"),
    "utility_loss": ("share", "share of the option mass that the intervention removes"),
    "mass": ("probability", "mean probability of all options of the scale, with the intervention"),
    "mass_before": ("probability", "the same of the unedited model"),
    "perplexity": ("ratio", "perplexity of neutral text over the unedited model's"),
    "broken": (
        "",
        "True where the mass is below half of the unedited model's, the perplexity above ten times its, or no rating of the target left",
    ),
    "warnings": ("", "warnings about the row, separated by ;"),
    "wording_gain_sd": ("points", "standard deviation of the gain over wordings"),
    "wording_nvat_sd": ("0 to 1", "standard deviation of nVAT over wordings"),
    "nvat_80_sd": ("0 to 1", "standard deviation of nVAT over draws of 80 % of the clusters (robust: true)"),
    "agreement_80": ("-1 to 1", "rank correlation of VAT with that of 80 % of the clusters (robust: true)"),
    "agreement_kendall": ("-1 to 1", "rank correlation of VAT by Spearman with VAT by Kendall (robust: true)"),
    "agreement_levels": ("-1 to 1", "rank correlation of the types' own VAT with their values' (robust: true)"),
    "over_placebo": ("", "the placebo that leaves least of the gain; none where no draw counts"),
    "over_placebo_gain": ("points", "gain minus the gain of that placebo"),
    "over_placebo_nvat": ("", "the placebo whose nVAT comes nearest; none where no draw counts"),
    "over_placebo_nvat_p": ("p", "that the values do not move together more than under that placebo"),
    "over_placebo_draws": (
        "draws",
        "draws of the placebo that count: not broken, and not without any change; empty without a placebo",
    ),
    "front": (
        "",
        "True where no other arm with the same aim that gains and leaves the model whole has more gain at less shift",
    ),
    "front_share": ("share", "share of draws in which the arm is on the front"),
}
_ENDS = ("_low", "_high")
_TEXTS = (
    *("model", "intervention", "kind", "target", "direction", "unit", "placebo", "level", "one", "other", "at"),
    *("over_placebo", "over_placebo_nvat", "warnings"),
)
_WHOLE = ("seed", "draw", "n", "clusters", "over_placebo_draws")


def data_dictionary(names: Sequence[str]) -> bytes:
    """Returns the data dictionary of some columns as CSV: column, unit, meaning."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("column", "unit", "meaning"))
    for name in names:
        base = next((name.removesuffix(end) for end in _ENDS if name.endswith(end)), name)
        unit, meaning = COLUMNS[name if name in COLUMNS else base]
        if name not in COLUMNS:
            meaning = f"{'lower' if name.endswith('_low') else 'upper'} end of the 95 % interval of {base}"
        writer.writerow((name, unit, meaning))
    return text.getvalue().encode()


def to_csv(rows: Sequence[Row]) -> bytes:
    """Returns rows as CSV; empty for no rows."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue().encode()


def read_csv(path: Any) -> list[Row]:
    """Reads rows, with numbers parsed; an empty cell of a number becomes None."""
    rows = list(csv.DictReader(io.StringIO(store.read_text(path))))
    return [{key: _typed(key, text) for key, text in row.items()} for row in rows]


def _typed(key: str, text: str) -> Any:
    if key in _TEXTS:
        return text
    if text in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[text]
    number = float(text)
    return int(number) if key in _WHOLE else number


def is_placebo(row: Mapping[str, Any]) -> bool:
    """Returns whether a row is a draw of a placebo."""
    return row["placebo"] not in (NONE, "")  # empty in a study of an earlier version
