"""The results of a study: one table, what stands behind each of its rows, and both opened again from a folder.

out/results.csv        a row for each arm and level of analysis; columns.csv says what each column means
out/comparisons.csv    a row for each two interventions with the same target
out/texts.jsonl        of each intervention the items that moved most: prompt, ratings and written answers before and after
out/states/, edits/    what the rows were read from, under names that a person can read
out/index.json         which pieces all of it comes from
out/failures.txt       what could not be made, and why
out/time.csv           how long each piece took
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

from vatjax import config, errors, metrics, models, names, states, store
from vatjax.analysis import LEVELS
from vatjax.models import Edit, Model
from vatjax.states import ValueState
from vatjax.study.arms import Arm, Expanded
from vatjax.study.columns import NONE, Row, dictionary, read_csv, to_csv
from vatjax.study.design import Design
from vatjax.study.making import step_folder
from vatjax.study.numbers import level_of
from vatjax.study.pieces import Piece, Shelf
from vatjax.study.planned import shelf_of
from vatjax.study.runner import Ran, failures

_KEYS = ("model", "intervention", "kind", "target", "direction", "seed", "amount", "unit", "placebo", "draw")


def write(ran: Ran) -> Study:
    """Writes the table of a run, and everything beside it."""
    design, folder = ran.planned.design, store.path(ran.planned.design.out)
    shelf = shelf_of(design)
    rows, index, trade_offs = [], [], []
    for expanded in ran.planned.expanded:
        for arm, piece in expanded.results.items():
            if piece.address in ran.failed:
                continue
            content = shelf.json(piece, "numbers.json")
            index.append(_entry(arm, piece, expanded, ran.failed))
            for level in content["levels"]:
                headline = level == level_of(ran.planned.items.taxonomy, arm.cell.target)
                beyond = _beyond(arm, headline, expanded, shelf, ran.failed)
                rows.append(_row(arm, content, level, headline) | beyond)
                trade_offs.append((content.get("trade_off") or {}).get(level))
    _discoveries(rows)
    _front(rows, trade_offs)
    against = [row for expanded in ran.planned.expanded for row in _compared(expanded, shelf, ran.failed)]
    store.commit(folder / "results.csv", to_csv(rows))
    store.commit(folder / "columns.csv", dictionary(list(rows[0]) if rows else []))
    store.commit(folder / "comparisons.csv", to_csv(against))
    store.commit(folder / "texts.jsonl", _texts(ran, shelf))
    times = [{"piece": p.label, "kind": p.kind, **_time(shelf, p)} for p in ran.planned.pieces() if shelf.has(p)]
    store.commit(folder / "time.csv", to_csv(times))
    store.commit(folder / "failures.txt", "".join(f"{line}\n" for line in failures(ran)).encode())
    _beside(ran, shelf, folder)
    # Last: a folder with an index has all of it.
    store.commit_json(folder / "index.json", {"results": index, "failed": failures(ran)})
    return open_study(folder)


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """A study that was run.

    Attributes:
        folder: where its results are.
        design: what was studied.
        rows: of results.csv, numbers as numbers, None where there is none.
        comparisons: of comparisons.csv, likewise.
        failed: what could not be made.
        index: of each arm the pieces that it comes from.
    """

    folder: Any
    design: Design
    rows: list[Row]
    comparisons: list[Row]
    failed: list[str]
    index: list[dict[str, Any]]

    def where(self, **wanted: Any) -> list[Row]:
        """The rows with some entries, such as `study.where(target="Power", level="types", placebo="none")`."""
        for key in wanted:
            if self.rows and key not in self.rows[0]:
                raise errors.InputError(names.unknown("column", key, list(self.rows[0])))
        return [row for row in self.rows if all(row[key] == value for key, value in wanted.items())]

    def result(self, row: Row) -> dict[str, Any]:
        """Everything about an arm: the data of `vatjax tax --json`, and how far its target is controlled."""
        where = self._piece(self._of(row)["piece"]) / "numbers.json"
        try:
            found: dict[str, Any] = json.loads(store.read_text(where))
        except ValueError:
            raise errors.InputError(f"{where}: damaged; run the study again") from None
        return found

    def texts(self, row: Row) -> list[dict[str, Any]]:
        """The items of an arm that moved most, each with its prompt, and ratings and written answers before and after."""
        return self._texts.get(tuple(row[name] for name in _KEYS), [])

    @functools.cached_property
    def _texts(self) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
        """The lines of texts.jsonl by arm."""
        where = self.folder / "texts.jsonl"
        found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for line in store.read_text(where).splitlines() if where.exists() else []:
            one = json.loads(line)
            found.setdefault(tuple(one[name] for name in _KEYS), []).append(one)
        return found

    def states(self, row: Row) -> tuple[ValueState, ValueState]:
        """The value states before and after, in the first wording."""
        own = self._of(row)
        wording = next(iter(own["after"]))
        before, after = (states.load(self._piece(own[when][wording]) / "state.npz") for when in ("before", "after"))
        return before, after

    def edit(self, row: Row, model: Model) -> Edit:
        """The edit of an arm, at its strength.

        Args:
            row: of an edit or a training.
            model: that it is for.
        """
        own = self._of(row)
        if "edit" not in own:
            what = (
                f"a {row['placebo']} placebo is drawn anew each time"
                if is_placebo(row)
                else f"{row['kind']} is no edit"
            )
            raise errors.InputError(f"{row['intervention']}: {what}")
        found = models.load_edit(self._piece(own["edit"]) / own["inside"], model)
        return found if own["inside"] != "edit" else float(row["amount"]) * found

    def _of(self, row: Row) -> dict[str, Any]:
        key = [row[name] for name in _KEYS]
        return next(one for one in self.index if [one[name] for name in _KEYS] == key)

    def _piece(self, address: str) -> Any:
        return shelf_of(dataclasses.replace(self.design, out=str(self.folder))).folder / address[:2] / address


def open_study(folder: store.Path) -> Study:
    """Opens the results of a study.

    Raises:
        InputError: where there are none.
    """
    where = store.path(folder)
    if not (where / "index.json").exists():
        what = "a study without results: run it to its end" if (where / "study.yaml").exists() else "no study there"
        raise errors.InputError(f"{folder}: {what}")
    design = config.read(Design, where / "study.yaml")
    try:
        index = json.loads(store.read_text(where / "index.json"))
        own, failed = index["results"], index["failed"]
    except (ValueError, KeyError, TypeError):
        raise errors.InputError(f"{where / 'index.json'}: damaged; run the study again") from None
    rows, against = (read_csv(where / name) for name in ("results.csv", "comparisons.csv"))
    return Study(where, design, rows, against, failed, own)


def is_placebo(row: Mapping[str, Any]) -> bool:
    """Returns whether a row is a draw of a placebo."""
    return row["placebo"] not in (NONE, "")  # empty in a study of an earlier version


# Rows ---------------------------------------------------------------------------------------------------------------


def _named(arm: Arm) -> Row:
    cell = arm.cell
    return {
        "model": cell.model,
        "intervention": cell.name,
        "kind": cell.what.kind,
        "target": cell.target,
        "direction": cell.direction,
        "seed": cell.seed,
        "amount": arm.level,
        "unit": cell.unit,
        "placebo": arm.placebo or NONE,
        "draw": arm.draw,
    }


def _row(arm: Arm, content: Mapping[str, Any], level: str, headline: bool) -> Row:
    own = content["levels"][level]
    ipsatised = own["ipsatised"]
    wordings = content["wordings"].values() if headline else ()
    order = own["order_test"] or {}
    robust = (content["robust"] or {}).get(level, {})
    return {
        **_named(arm),
        "level": level,
        "headline": headline,
        "n": content["n"],
        "clusters": content["clusters"],
        **_three("gain", own["gain"]),
        "gain_p": own["p"]["gain"],
        "resolved": own["resolved"],
        **_three("off_target", own["off_target"]),
        **_three("off_target_shift", own["off_target_shift"]),
        "off_target_p": own["p"]["off_target"],
        "nvat": own["nvat"]["estimate"],
        "nvat_floor": own["floor"]["nvat"],
        "nvat_floor_95": own["floor"]["nvat_95"],
        "numerical_noise": content.get("numerical_noise"),
        **_three("nvat_debiased", own["nvat_debiased"]),
        "nvat_p": own["p"]["nvat"],
        "gini": own["gini"],
        "coupling_points": own["coupling_points"]["estimate"],
        "bound": own["bound"],
        "order_index": order.get("index"),
        "order_p": order.get("p"),
        "ipsatised_nvat_debiased": ipsatised["nvat_debiased"]["estimate"],
        "ipsatised_nvat_p": ipsatised["p"]["nvat"],
        **_three("agreement", content["agreement"] or {}),
        "success_before": content["success"]["before"],
        **_three("success", content["success"]),
        **_three("leakage", content["leakage"]),
        **_three("utility_loss", content["utility_loss"]),
        "mass": content["mass"],
        "mass_before": content["mass_before"],
        "perplexity": content["perplexity"],
        "broken": content["broken"],
        "warnings": "; ".join(line.replace("; ", ", ") for line in content["warnings"]),
        "wording_gain_sd": _spread(one["gain"] for one in wordings),
        "wording_nvat_sd": _spread(one["nvat"] for one in wordings),
        "nvat_80_sd": robust.get("nvat_80_sd"),
        "agreement_80": robust.get("agreement_80"),
        "agreement_kendall": robust.get("agreement_kendall"),
        "agreement_levels": (content["robust"] or {}).get("agreement_levels"),
    }


def _three(name: str, estimate: Mapping[str, Any]) -> Row:
    return {
        name: estimate.get("estimate"),
        f"{name}_low": estimate.get("low"),
        f"{name}_high": estimate.get("high"),
    }


def _spread(numbers: Iterable[float | None]) -> float | None:
    there = [x for x in numbers if x is not None]
    return float(np.std(there, ddof=1)) if len(there) > 1 else None


def _beyond(arm: Arm, headline: bool, expanded: Expanded, shelf: Shelf, failed: Mapping[str, str]) -> Row:
    """How far an arm goes beyond its placebos: of several the one that leaves least of the gain, and the one whose
    co-movement comes nearest."""
    empty: Row = {
        "over_placebo": NONE,
        **_three("over_placebo_gain", {}),
        "over_placebo_nvat": NONE,
        "over_placebo_nvat_p": None,
        "over_placebo_draws": None,
    }
    if arm.placebo or not headline:
        return empty
    found = []
    for (own, name), piece in expanded.placebos.items():
        if own == arm and piece.address not in failed:
            found.append((name, shelf.json(piece, "numbers.json")))
    found = [(name, content) for name, content in found if content["draws"]]
    if not found:
        return empty
    name, least = min(found, key=lambda one: _low(one[1]["gain"]))
    p, nearest = max(((one["p_nvat"], name) for name, one in found if one["p_nvat"] is not None), default=(None, NONE))
    return {
        "over_placebo": name,
        **_three("over_placebo_gain", least["gain"]),
        "over_placebo_nvat": nearest,
        "over_placebo_nvat_p": p,
        "over_placebo_draws": least["draws"],
    }


def _low(gain: Mapping[str, float | None]) -> float:
    """The low end of a gain over a placebo; the gain itself where one draw leaves it without an interval."""
    low = gain["estimate"] if gain["low"] is None else gain["low"]
    return -np.inf if low is None else low


def _discoveries(rows: list[Row]) -> None:
    """Adds q, the false discovery rate over everything that is meant to push, at each level of analysis.

    That of nVAT is of the comparison with the placebo: values move together under any intervention.
    """
    for row in rows:
        row |= {"gain_q": None, "nvat_q": None}
    for level in LEVELS:
        own = [row for row in rows if row["level"] == level and not is_placebo(row)]
        for name, tested in (("gain", "gain_p"), ("nvat", "over_placebo_nvat_p")):
            p = np.array([np.nan if row[tested] is None else row[tested] for row in own], np.float32)
            for row, q in zip(own, np.asarray(metrics.false_discovery(p)) if own else (), strict=True):
                row[f"{name}_q"] = None if np.isnan(q) else float(f"{q:.7g}")


def _front(rows: list[Row], trade_offs: Sequence[Mapping[str, Any] | None]) -> None:
    """Adds whether no other arm with the same aim has more gain at less tax, and how sure that is.

    Arms that break the model, and gains that cannot be distinguished from 0, do not compete.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, row in enumerate(rows):
        row |= {"front": False, "front_share": None}
        tax = row["off_target_shift"]
        if not is_placebo(row) and row["resolved"] and not row["broken"] and tax is not None and row["gain"] > 0:
            key = tuple(row[k] for k in ("model", "target", "direction", "seed", "level"))
            groups.setdefault(key, []).append(place)
    for places in groups.values():
        own = [rows[place] for place in places]
        for row in own:
            row["front"] = not any(
                other["gain"] >= row["gain"]
                and other["off_target_shift"] <= row["off_target_shift"]
                and (other["gain"], other["off_target_shift"]) != (row["gain"], row["off_target_shift"])
                for other in own
            )
        known = [found for place in places if (found := trade_offs[place])]
        points = [metrics.TradeOff(**{key: one[key] for key in metrics.TradeOff._fields}) for one in known]
        alike = len({one["contexts"] for one in known}) == 1
        finite = all(np.isfinite(x).all() for point in points for x in (*point.gain_without, *point.square_without))
        if len(points) == len(own) and alike and finite:
            for row, share in zip(own, metrics.front_shares(points), strict=True):
                row["front_share"] = round(float(share), 3)


def _compared(expanded: Expanded, shelf: Shelf, failed: Mapping[str, str]) -> list[Row]:
    rows = []
    for (one, other), piece in expanded.comparisons.items():
        if piece.address in failed:
            continue
        content = shelf.json(piece, "numbers.json")
        for where in ("last", "same_gain"):
            if where not in content:
                continue
            own = content[where]
            rows.append(
                {
                    **{key: _named(Arm(one, 0))[key] for key in ("model", "target", "direction", "seed")},
                    "one": one.name,
                    "other": other.name,
                    "at": "last level" if where == "last" else "same gain",
                    "same_gain": own.get("at"),
                    **_three("gain", own["gain"]),
                    **_three("off_target", own["off_target"]),
                    **_three("nvat", own["nvat"]),
                    "nvat_p": own["p_nvat"],
                }
            )
    return rows


# Files --------------------------------------------------------------------------------------------------------------


def _entry(arm: Arm, piece: Piece, expanded: Expanded, failed: Mapping[str, str]) -> dict[str, Any]:
    """Which pieces an arm's numbers come from."""
    wordings = {name: own for (one, name), own in expanded.states.items() if one == arm}
    before = {name: own.address for (one, name), own in expanded.states.items() if one is None}
    entry = {**_named(arm), "piece": piece.address, "before": before}
    entry["after"] = {name: own.address for name, own in wordings.items()}
    needs = next(iter(wordings.values())).needs
    if "edit" in needs and arm.placebo != "random":
        entry |= {"edit": needs["edit"].address, "inside": "edit"}
    if "training" in needs:
        entry |= {"edit": needs["training"].address, "inside": step_folder(arm.level)}
    return entry


def _texts(ran: Ran, shelf: Shelf) -> bytes:
    """What the items that moved most were asked, and how they were answered, as JSON lines."""
    lines = []
    for expanded in ran.planned.expanded:
        for arm, piece in expanded.texts.items():
            if piece.address not in ran.failed:
                lines += [{**_named(arm), **one} for one in shelf.json(piece, "texts.json")]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def _time(shelf: Shelf, piece: Piece) -> Row:
    about = shelf.json(piece, "time.json")
    return {key: about.get(key) for key in ("seconds", "host", "device", "jax", "vatjax", "python", "system")}


def _beside(ran: Ran, shelf: Shelf, folder: Any) -> None:
    """States and edits under names that a person can read; where they lie on one disk they are not copied."""
    for expanded in ran.planned.expanded:
        for (arm, wording), piece in expanded.states.items():
            if (arm is not None and arm.placebo) or piece.address in ran.failed or not shelf.has(piece):
                continue
            name = f"{expanded.model} unedited" if arm is None else str(arm)
            several = f", {wording}" if len(ran.planned.design.wordings()) > 1 else ""
            named = _slug(name + several, piece)
            _linked(shelf.place(piece) / "state.npz", folder / "states" / f"{named}.npz")
            if arm is None or not piece.needs:
                continue
            edit = (
                shelf.place(piece.needs["training"]) / step_folder(arm.level)
                if "training" in piece.needs
                else shelf.place(piece.needs["edit"]) / "edit"
            )
            label = str(arm) if "training" in piece.needs else str(arm.cell)
            for file in edit.iterdir():
                _linked(file, folder / "edits" / _slug(label, next(iter(piece.needs.values()))) / file.name)


def _slug(name: str, piece: Piece) -> str:
    """A file's name that a person can read, and that no other piece has."""
    return f"{re.sub(r'[^A-Za-z0-9_.+-]+', '-', name).strip('-.')[-120:]}-{piece.address[:8]}"


def _linked(source: Any, target: Any) -> None:
    if target.exists():
        if store.size(target) == store.size(source):
            return
        target.unlink()  # of a piece that was damaged, and made again
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, pathlib.Path) and isinstance(target, pathlib.Path):
        with contextlib.suppress(OSError):
            source.chmod(0o444)  # what is written into one name is there under the other, and in other studies
            os.link(source, target)
            return
    store.commit(target, source.read_bytes())
