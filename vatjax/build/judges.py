"""Gates that ask a judge: the probability of yes, or the expected rating, where it answers at all.

score = sum_o p(o) r[o] / sum_o p(o)          mass = sum_o p(o)         below the least mass it abstains
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from vatjax import models, prompts, store
from vatjax.build.records import Stage, Verdict
from vatjax.build.settings import Gates
from vatjax.elicit import asking, prefill
from vatjax.models import Model
from vatjax.prompts import How, Letters, Scale, Wording

_YES = Letters("Yes", "No", ratings=(1.0, 0.0))
_TO_FIVE = Scale(1, 5)
_AT_ONCE = 2048  # prompts whose answers are kept together


class Judge(Protocol):
    """Says what it thinks of texts.

    Attributes:
        name: what tells it from others.
        prompts: the version of what it is asked with.
    """

    name: str
    prompts: str

    def judge(self, stage: Stage, fields: Sequence[Mapping[str, str]], settings: Gates) -> list[list[Verdict]]:
        """Of each text the verdicts of its gates."""
        ...


class _Gate(NamedTuple):
    name: str
    scale: Scale | Letters
    least: float


def _gates(stage: Stage, polarity: str, settings: Gates) -> list[_Gate]:
    if stage == "scene":
        return [
            _Gate("grounding", _TO_FIVE, settings.grounding),
            _Gate("richness", _TO_FIVE, settings.richness),
        ]
    return [_Gate("expressing" if polarity == "express" else "suppressing", _YES, settings.plausible)]


@functools.cache
def wordings() -> dict[str, Wording]:
    """What a judge is asked, by gate."""
    return prompts.read(pathlib.Path(__file__).parent / "judging.yaml")


class ModelJudge:
    """A model that judges.

    Args:
        model: the judge.
        keep: a folder for answers that are there.
    """

    def __init__(self, model: Model, keep: Any) -> None:
        self.model, self.keep = model, keep
        self.name = models.fingerprint(model.arrays)
        self.prefill = prefill.resolved(model, How()).prefill
        self.prompts = str(next(iter(wordings().values())).version)

    def judge(self, stage: Stage, fields: Sequence[Mapping[str, str]], settings: Gates) -> list[list[Verdict]]:
        """Of each text the verdicts of its gates."""
        found: list[list[Verdict]] = [[] for _ in fields]
        groups: dict[_Gate, list[int]] = {}
        for i, own in enumerate(fields):
            for gate in _gates(stage, own.get("polarity", ""), settings):
                groups.setdefault(gate, []).append(i)
        for gate, which in groups.items():
            for start in range(0, len(which), _AT_ONCE):
                some = which[start : start + _AT_ONCE]
                for i, score, mass in zip(some, *self._asked(gate, [fields[i] for i in some]), strict=True):
                    found[i].append(_said(gate, float(score), float(mass), settings.mass))
        return found

    def _asked(self, gate: _Gate, rows: Sequence[Mapping[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        """Scores and masses."""
        how = How(prefill=self.prefill)
        made = prompts.assemble(rows, wordings()[gate.name], gate.scale, (), asking.template(self.model, how))
        file = self.keep / f"{store.address(self.name, made.digest)}.npz"
        if file.exists():
            try:
                kept = store.load_npz(file)
                return kept["score"], kept["mass"]
            except (ValueError, KeyError):
                pass  # damaged: asked anew
        read = asking.tokenised(self.model, made, how)
        shares = np.exp(asking.scored(self.model, [made], [read]).logs[0])
        mass = shares.sum(-1)
        score = (shares * np.array(gate.scale.ratings)).sum(-1) / np.where(mass > 0, mass, 1)
        store.commit_npz(file, {"score": score, "mass": mass})
        return score, mass


def _said(gate: _Gate, score: float, mass: float, least: float) -> Verdict:
    if mass < least:
        return Verdict(
            gate.name, None, f"the judge abstains: its answers have {mass:.2f} of the probability", score, mass
        )
    passed = score >= gate.least
    return Verdict(gate.name, passed, "" if passed else f"{score:.2f}, expected {gate.least:g} or more", score, mass)
