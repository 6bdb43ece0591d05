"""The results of a study: its table, the data of each row, and both loaded from a folder.

out/results.csv        a row for each arm and level of analysis; columns.csv documents the columns
out/comparisons.csv    a row for each two interventions with the same target
out/texts.jsonl        items that moved most in each intervention: prompt, ratings, written answers before and after
out/states/, edits/    the states and edits of the rows, under readable names
out/index.json         the artifacts that all of it comes from
out/failures.txt       artifacts that failed, and why
out/time.csv           compute time of each artifact
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vatjax import config, drawing, errors, metrics, models, names, states, store, tables
from vatjax.analysis import LEVELS
from vatjax.interventions import Arm
from vatjax.interventions.found import EDIT
from vatjax.models import Edit, Model
from vatjax.states import ValueState
from vatjax.store.artifacts import Artifact, ArtifactStore
from vatjax.study import plots
from vatjax.study.arm_groups import arm_groups
from vatjax.study.columns import NONE, Row, data_dictionary, is_placebo, read_csv, to_csv
from vatjax.study.design import Design
from vatjax.study.failures import failure_lines
from vatjax.study.graph import ArtifactGraph, before_of
from vatjax.study.planning import open_artifact_store
from vatjax.study.runner import RunResult
from vatjax.study.statistics import level_of
from vatjax.text_table import html_table

_KEYS = ("model", "intervention", "kind", "target", "direction", "seed", "amount", "unit", "placebo", "draw")


def write(ran: RunResult) -> Study:
    """Writes the table of a run, and all other files of its results."""
    design, folder = ran.planned.design, store.path(ran.planned.design.out)
    artifact_store = open_artifact_store(design)
    rows, index, trade_offs, starts = [], [], [], []
    for graph in ran.planned.graphs:
        for arm, artifact in graph.results.items():
            if artifact.address in ran.failed:
                continue
            content = artifact_store.read_json(artifact, "numbers.json")
            index.append(_index_entry(arm, artifact, graph, ran.failed))
            for level in content["levels"]:
                headline = level == level_of(ran.planned.items.taxonomy, arm.cell.target)
                beyond = _over_placebos(arm, headline, graph, artifact_store, ran.failed)
                rows.append(_row(arm, content, level, headline) | beyond)
                trade_offs.append((content.get("trade_off") or {}).get(level))
                starts.append(index[-1]["before"])
    _add_q_values(rows)
    _mark_front(rows, trade_offs, starts, design)
    against = [row for graph in ran.planned.graphs for row in _comparison_rows(graph, artifact_store, ran.failed)]
    store.commit(folder / "results.csv", to_csv(rows))
    store.commit(folder / "columns.csv", data_dictionary(list(rows[0]) if rows else []))
    store.commit(folder / "comparisons.csv", to_csv(against))
    store.commit(folder / "texts.jsonl", _texts(ran, artifact_store))
    times = [
        {"piece": p.label, "kind": p.kind, **_time(artifact_store, p)}
        for p in ran.planned.artifacts()
        if artifact_store.has(p)
    ]
    store.commit(folder / "time.csv", to_csv(times))
    store.commit(folder / "failures.txt", "".join(f"{line}\n" for line in failure_lines(ran.failed)).encode())
    _link_states_and_edits(ran, artifact_store, folder)
    # Last: a folder with an index is complete.
    store.commit_json(folder / "index.json", {"results": index, "failed": failure_lines(ran.failed)})
    return open_study(folder)


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """A study that was run.

    Attributes:
        folder: of its results.
        design: of the study.
        rows: of results.csv, numbers as numbers, None if missing.
        comparisons: of comparisons.csv, likewise.
        failed: artifacts that failed, and why.
        index: for each arm the artifacts that it comes from.
    """

    folder: Any
    design: Design
    rows: list[Row]
    comparisons: list[Row]
    failed: list[str]
    index: list[dict[str, Any]]

    def where(self, **entries: Any) -> list[Row]:
        """Returns the rows with the given entries, such as `study.where(target="Power", level="types",
        placebo="none")`."""
        for key, value in entries.items():
            if self.rows and key not in self.rows[0]:
                raise errors.InputError(names.unknown_name("column", key, list(self.rows[0])))
            present = list(dict.fromkeys(row[key] for row in self.rows))
            if self.rows and isinstance(value, str) and value not in present:
                raise errors.InputError(names.unknown_name(key, value, [str(name) for name in present]))
        return [row for row in self.rows if all(row[key] == value for key, value in entries.items())]

    def __repr__(self) -> str:
        arms = [row for row in self.rows if row["level"] == "types" and not is_placebo(row)]
        interventions = len({row["intervention"] for row in arms})
        return (
            f"Study({str(self.folder)!r}: {interventions} interventions in {len(arms)} arms, {len(self.failed)} failed)"
        )

    def _repr_html_(self) -> str:
        columns = (
            "intervention",
            "target",
            "direction",
            "amount",
            "placebo",
            "gain",
            "off_target_shift",
            "nvat_debiased",
        )
        cells = [[row[name] for name in columns] for row in self.rows if row["level"] == "types"]
        return html_table(columns, [[f"{x:.3g}" if isinstance(x, float) else str(x) for x in row] for row in cells])

    def frame(self) -> Any:
        """Returns `rows` as a `pandas.DataFrame`."""
        return tables.data_frame(self.rows)

    def plot(self, path: store.Path, target: str = "", direction: str = "") -> None:
        """Writes the gain-tax plane of one push as .svg or .png: of the first, or of a target and a direction.

        Raises:
            InputError: if the study has no such push.
        """
        groups = [
            group
            for group in arm_groups(self)
            if group.target == (target or group.target) and group.direction == (direction or group.direction)
        ]
        if not groups:
            pushes = sorted({f"{row['direction']} {row['target']}" for row in self.rows})
            push = " ".join(part for part in (direction, target) if part)
            raise errors.InputError(f"{push}: no such push in the study; it has {', '.join(pushes) or 'none'}")
        styles = plots.intervention_styles(list(self.design.interventions))
        drawing.save(plots.plot_gain_tax(groups[0], styles), path)

    def result(self, row: Row) -> dict[str, Any]:
        """Returns all statistics of an arm: the data of `vatjax tax --json`, and how far its target is controlled."""
        path = self._artifact_folder(self._index_entry(row)["piece"]) / "numbers.json"
        try:
            content: dict[str, Any] = store.read_json(path)
        except ValueError:
            raise errors.InputError(f"{path}: damaged; run the study again") from None
        return content

    def texts(self, row: Row) -> list[dict[str, Any]]:
        """Returns the items of an arm that moved most, each with its prompt, ratings and written answers before and
        after."""
        return self._texts.get(tuple(row[name] for name in _KEYS), [])

    @functools.cached_property
    def _texts(self) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
        """Returns the lines of texts.jsonl by arm."""
        path = self.folder / "texts.jsonl"
        texts: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for line in store.read_text(path).splitlines() if path.exists() else []:
            line_content = store.parse_json(line)
            texts.setdefault(tuple(line_content[name] for name in _KEYS), []).append(line_content)
        return texts

    def states(self, row: Row) -> tuple[ValueState, ValueState]:
        """Returns the value states before and after, in the first wording."""
        entry = self._index_entry(row)
        wording = next(iter(entry["after"]))
        before, after = (
            states.load(self._artifact_folder(entry[when][wording]) / "state.npz") for when in ("before", "after")
        )
        return before, after

    def edit(self, row: Row, model: Model) -> Edit:
        """Returns the edit of an arm, at its strength.

        Args:
            row: of an edit or a training.
            model: the model that it edits.
        """
        entry = self._index_entry(row)
        if "edit" not in entry:
            what = (
                f"a {row['placebo']} placebo is drawn anew each time"
                if is_placebo(row)
                else f"the study has no edit of its own for the kind {row['kind']}"
            )
            raise errors.InputError(f"{row['intervention']}: {what}")
        edit = models.load_edit(self._artifact_folder(entry["edit"]) / entry["inside"], model)
        return edit if entry["inside"] != EDIT else float(row["amount"]) * edit

    def _index_entry(self, row: Row) -> dict[str, Any]:
        key = [row[name] for name in _KEYS]
        return next(entry for entry in self.index if [entry[name] for name in _KEYS] == key)

    def _artifact_folder(self, address: str) -> Any:
        if not re.fullmatch(r"[0-9a-f]{16,64}", address):
            raise errors.InputError(f"{self.folder / 'index.json'}: damaged; run the study again")
        return (
            open_artifact_store(dataclasses.replace(self.design, out=str(self.folder))).folder / address[:2] / address
        )


def open_study(folder: store.Path) -> Study:
    """Opens the results of a study.

    Raises:
        InputError: if there are none.
    """
    path = store.path(folder)
    if not (path / "index.json").exists():
        what = "a study without results: run it to its end" if (path / "study.yaml").exists() else "no study there"
        raise errors.InputError(f"{folder}: {what}")
    design = config.read(Design, path / "study.yaml")
    try:
        index = store.read_json(path / "index.json")
        results, failed = index["results"], index["failed"]
    except (ValueError, KeyError, TypeError):
        raise errors.InputError(f"{path / 'index.json'}: damaged; run the study again") from None
    rows, against = (read_csv(path / name) for name in ("results.csv", "comparisons.csv"))
    return Study(path, design, rows, against, failed, results)


# Rows ---------------------------------------------------------------------------------------------------------------


def _arm_columns(arm: Arm) -> Row:
    cell = arm.cell
    return {
        "model": cell.model,
        "intervention": cell.name,
        "kind": cell.intervention.kind,
        "target": cell.target,
        "direction": cell.direction,
        "seed": cell.seed,
        "amount": arm.level,
        "unit": cell.unit,
        "placebo": arm.placebo or NONE,
        "draw": arm.draw,
    }


def _row(arm: Arm, content: Mapping[str, Any], level: str, headline: bool) -> Row:
    level_content = content["levels"][level]
    ipsatised = level_content["ipsatised"]
    wordings = content["wordings"].values() if headline else ()
    order = level_content["order_test"] or {}
    robust = (content["robust"] or {}).get(level, {})
    return {
        **_arm_columns(arm),
        "level": level,
        "headline": headline,
        "n": content["n"],
        "clusters": content["clusters"],
        **_with_interval("gain", level_content["gain"]),
        "gain_p": level_content["p"]["gain"],
        "resolved": level_content["resolved"],
        **_with_interval("off_target", level_content["off_target"]),
        **_with_interval("off_target_shift", level_content["off_target_shift"]),
        "off_target_p": level_content["p"]["off_target"],
        "nvat": level_content["nvat"]["estimate"],
        "nvat_floor": level_content["floor"]["nvat"],
        "nvat_floor_95": level_content["floor"]["nvat_95"],
        "numerical_noise": content.get("numerical_noise"),
        **_with_interval("nvat_debiased", level_content["nvat_debiased"]),
        "nvat_p": level_content["p"]["nvat"],
        "gini": level_content["gini"],
        "coupling_points": level_content["coupling_points"]["estimate"],
        "bound": level_content["bound"],
        "order_index": order.get("index"),
        "order_p": order.get("p"),
        "ipsatised_nvat_debiased": ipsatised["nvat_debiased"]["estimate"],
        "ipsatised_nvat_p": ipsatised["p"]["nvat"],
        **_with_interval("agreement", content["agreement"] or {}),
        "success_before": content["success"]["before"],
        **_with_interval("success", content["success"]),
        **_with_interval("leakage", content["leakage"]),
        **_with_interval("utility_loss", content["utility_loss"]),
        "mass": content["mass"],
        "mass_before": content["mass_before"],
        "perplexity": content["perplexity"],
        "broken": content["broken"],
        "warnings": "; ".join(line.replace("; ", ", ") for line in content["warnings"]),
        "wording_gain_sd": _sd(wording["gain"] for wording in wordings),
        "wording_nvat_sd": _sd(wording["nvat"] for wording in wordings),
        "nvat_80_sd": robust.get("nvat_80_sd"),
        "agreement_80": robust.get("agreement_80"),
        "agreement_kendall": robust.get("agreement_kendall"),
        "agreement_levels": (content["robust"] or {}).get("agreement_levels"),
    }


def _with_interval(name: str, estimate: Mapping[str, Any]) -> Row:
    return {
        name: estimate.get("estimate"),
        f"{name}_low": estimate.get("low"),
        f"{name}_high": estimate.get("high"),
    }


def _sd(numbers: Iterable[float | None]) -> float | None:
    present = [x for x in numbers if x is not None]
    return float(np.std(present, ddof=1)) if len(present) > 1 else None


def _over_placebos(
    arm: Arm, headline: bool, graph: ArtifactGraph, artifact_store: ArtifactStore, failed: Mapping[str, str]
) -> Row:
    """Returns how far an arm exceeds its placebos: the one that leaves least of the gain, and the one with the nearest
    co-movement."""
    empty: Row = {
        "over_placebo": NONE,
        **_with_interval("over_placebo_gain", {}),
        "over_placebo_nvat": NONE,
        "over_placebo_nvat_p": None,
        "over_placebo_draws": None,
    }
    if arm.placebo or not headline:
        return empty
    comparisons = []
    for (compared_arm, name), artifact in graph.placebos.items():
        if compared_arm == arm and artifact.address not in failed:
            comparisons.append((name, artifact_store.read_json(artifact, "numbers.json")))
    counted = [(name, content) for name, content in comparisons if content["draws"]]
    if not counted:  # no placebo at all, or draws that break the model or change nothing
        return {**empty, "over_placebo_draws": 0 if comparisons else None}
    comparisons = counted
    name, least = min(comparisons, key=lambda entry: _gain_low(entry[1]["gain"]))
    p, nearest = max(
        ((entry["p_nvat"], name) for name, entry in comparisons if entry["p_nvat"] is not None), default=(None, NONE)
    )
    return {
        "over_placebo": name,
        **_with_interval("over_placebo_gain", least["gain"]),
        "over_placebo_nvat": nearest,
        "over_placebo_nvat_p": p,
        "over_placebo_draws": least["draws"],
    }


def _gain_low(gain: Mapping[str, float | None]) -> float:
    """Returns the lower end of a gain over a placebo; the gain itself if a single draw gives no interval."""
    low = gain["estimate"] if gain["low"] is None else gain["low"]
    return -np.inf if low is None else low


def _add_q_values(rows: list[Row]) -> None:
    """Adds q, the false discovery rate over all arms that are not placebos, at each level of analysis.

    The q of nVAT is of the comparison with the placebo: values move together under any intervention.
    """
    for row in rows:
        row |= {"gain_q": None, "nvat_q": None}
    for level in LEVELS:
        tested_rows = [row for row in rows if row["level"] == level and not is_placebo(row)]
        for name, tested in (("gain", "gain_p"), ("nvat", "over_placebo_nvat_p")):
            p = np.array([np.nan if row[tested] is None else row[tested] for row in tested_rows], np.float32)
            for row, q in zip(tested_rows, np.asarray(metrics.false_discovery(p)) if tested_rows else (), strict=True):
                row[f"{name}_q"] = None if np.isnan(q) else float(f"{q:.7g}")


def _mark_front(
    rows: list[Row], trade_offs: Sequence[Mapping[str, Any] | None], starts: Sequence[Any], design: Design
) -> None:
    """Marks the arms for which no other arm with the same aim has more gain at less tax, and how certain that is.

    Arms that break the model, and gains that cannot be distinguished from 0, do not compete. An arm without seeds competes
    in the group of each seed, and is marked in the first. Arms compete if they start from the same ratings, and given
    ratings with those of the same contexts.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    contexts = [(trade_off or {}).get("contexts", "") for trade_off in trade_offs]
    elicited = [design.interventions[row["intervention"]].elicited for row in rows]
    rated = {context for context, mine in zip(contexts, elicited, strict=True) if mine}
    for place, row in enumerate(rows):
        row |= {"front": False, "front_share": None}
        tax = row["off_target_shift"]
        if not is_placebo(row) and row["resolved"] and not row["broken"] and tax is not None and row["gain"] > 0:
            seeded = design.interventions[row["intervention"]].seeded
            where = "" if elicited[place] or contexts[place] in rated else contexts[place]
            for seed in (row["seed"],) if seeded else design.seeds:
                key = (*(row[k] for k in ("model", "target", "direction", "level")), seed, str(starts[place]), where)
                groups.setdefault(key, []).append(place)
    for key, places in groups.items():
        group = [rows[place] for place in places]
        marked = [row for row in group if row["seed"] == key[4]]
        for row in marked:
            row["front"] = not any(
                other["gain"] >= row["gain"]
                and other["off_target_shift"] <= row["off_target_shift"]
                and (other["gain"], other["off_target_shift"]) != (row["gain"], row["off_target_shift"])
                for other in group
            )
        known = [trade_off for place in places if (trade_off := trade_offs[place])]
        points = [metrics.TradeOff(**{key: entry[key] for key in metrics.TradeOff._fields}) for entry in known]
        same_contexts = len({entry["contexts"] for entry in known}) == 1
        finite = all(np.isfinite(x).all() for point in points for x in (*point.gain_without, *point.square_without))
        if len(points) == len(group) and same_contexts and finite:
            for row, share in zip(group, metrics.front_shares(points), strict=True):
                if row["seed"] == key[4]:
                    row["front_share"] = round(float(share), 3)


def _comparison_rows(graph: ArtifactGraph, artifact_store: ArtifactStore, failed: Mapping[str, str]) -> list[Row]:
    rows = []
    for (first, second), artifact in graph.comparisons.items():
        if artifact.address in failed:
            continue
        content = artifact_store.read_json(artifact, "numbers.json")
        for at in ("last", "same_gain"):
            if at not in content:
                continue
            statistics = content[at]
            rows.append(
                {
                    **{key: _arm_columns(Arm(first, 0))[key] for key in ("model", "target", "direction")},
                    "seed": second.seed if second.intervention.seeded else first.seed,
                    "one": first.name,
                    "other": second.name,
                    "at": "last level" if at == "last" else "same gain",
                    "same_gain": statistics.get("at"),
                    **_with_interval("gain", statistics["gain"]),
                    **_with_interval("off_target", statistics["off_target"]),
                    **_with_interval("nvat", statistics["nvat"]),
                    "nvat_p": statistics["p_nvat"],
                }
            )
    return rows


# Files --------------------------------------------------------------------------------------------------------------


def _index_entry(arm: Arm, artifact: Artifact, graph: ArtifactGraph, failed: Mapping[str, str]) -> dict[str, Any]:
    """Returns the addresses of the artifacts of an arm's statistics."""
    wordings = {name: state for (state_arm, name), state in graph.states.items() if state_arm == arm}
    first = before_of(arm)
    before = {name: state.address for (state_arm, name), state in graph.states.items() if state_arm == first}
    entry = {**_arm_columns(arm), "piece": artifact.address, "before": before}
    entry["after"] = {name: state.address for name, state in wordings.items()}
    written = arm.cell.intervention.edit_folder(arm, next(iter(wordings.values())))
    if written is not None:
        entry |= {"edit": written[0].address, "inside": written[1]}
    return entry


def _texts(ran: RunResult, artifact_store: ArtifactStore) -> bytes:
    """Returns prompts and written answers of the items that moved most, as JSON lines."""
    lines = []
    for graph in ran.planned.graphs:
        for arm, artifact in graph.texts.items():
            if artifact.address not in ran.failed:
                lines += [{**_arm_columns(arm), **text} for text in artifact_store.read_json(artifact, "texts.json")]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def _time(artifact_store: ArtifactStore, artifact: Artifact) -> Row:
    about = artifact_store.read_json(artifact, "time.json")
    return {key: about.get(key) for key in ("seconds", "host", "device", "jax", "vatjax", "python", "system")}


def _link_states_and_edits(ran: RunResult, artifact_store: ArtifactStore, folder: Any) -> None:
    """Links states and edits under readable names; on one disk they are not copied."""
    for graph in ran.planned.graphs:
        befores = {before_of(arm) for arm in graph.results} - {None}
        for (arm, wording), artifact in graph.states.items():
            if (arm is not None and arm.placebo) or artifact.address in ran.failed or not artifact_store.has(artifact):
                continue
            name = f"{graph.model} unedited" if arm is None else str(arm)
            several = f", {wording}" if len(ran.planned.design.wordings()) > 1 else ""
            several += ", before" if arm in befores else ""
            named = _slug(name + several, artifact)
            _link(artifact_store.path(artifact) / "state.npz", folder / "states" / f"{named}.npz")
            written = None if arm is None else arm.cell.intervention.edit_folder(arm, artifact)
            if arm is None or written is None:
                continue
            label = str(arm.cell) if written[1] == EDIT else str(arm)  # at strength 1, for all levels
            for file in (artifact_store.path(written[0]) / written[1]).iterdir():
                _link(file, folder / "edits" / _slug(label, written[0]) / file.name)


def _slug(name: str, artifact: Artifact) -> str:
    """Returns a readable file name that is unique to an artifact."""
    return f"{re.sub(r'[^A-Za-z0-9_.+-]+', '-', name).strip('-.')[-120:]}-{artifact.address[:8]}"


def _link(source: Any, target: Any) -> None:
    if target.exists():
        if store.size(target) == store.size(source):
            return
        target.unlink()  # of an artifact that was damaged, and computed again
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, pathlib.Path) and isinstance(target, pathlib.Path):
        with contextlib.suppress(OSError):
            source.chmod(0o444)  # a write to one link would change the other, and other studies
            os.link(source, target)
            return
    store.commit(target, source.read_bytes())
