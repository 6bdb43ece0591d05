"""Gates that ask a judge: the probability of yes, or the expected rating.

score = sum_o p(o) r[o] / sum_o p(o)          mass = sum_o p(o)         below the minimum mass the judge abstains
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from vatjax import models, prompts, store
from vatjax.authoring.records import Stage, Verdict
from vatjax.authoring.settings import Gates
from vatjax.elicit import ask, prefill
from vatjax.models import Model
from vatjax.prompts import ElicitConfig, Letters, Scale, Wording

_YES = Letters("Yes", "No", ratings=(1.0, 0.0))
_TO_FIVE = Scale(1, 5)
_BATCH = 2048  # prompts scored and cached together


class Judge(Protocol):
    """Interface of a judge, which scores texts.

    Attributes:
        name: identifies the judge.
        prompts: the version of its prompts.
    """

    name: str
    prompts: str

    def judge(self, stage: Stage, fields: Sequence[Mapping[str, str]], settings: Gates) -> list[list[Verdict]]:
        """Returns the verdicts of each text's gates."""
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
def read_judge_wordings() -> dict[str, Wording]:
    """Reads the judge's prompts, by gate."""
    return prompts.read_wordings(pathlib.Path(__file__).parent / "judging.yaml")


class ModelJudge:
    """A language model as a judge.

    Args:
        model: the judge.
        cache_folder: folder for finished batches of scores.
        how: elicitation settings; of them prefill, chat and template count.
    """

    def __init__(self, model: Model, cache_folder: Any, how: ElicitConfig | None = None) -> None:
        self.model, self.cache_folder = model, cache_folder
        self.name = models.fingerprint(model.arrays)
        self.how = prefill.resolve_prefill(model, how or ElicitConfig())
        self.prompts = str(next(iter(read_judge_wordings().values())).version)

    def judge(self, stage: Stage, fields: Sequence[Mapping[str, str]], settings: Gates) -> list[list[Verdict]]:
        """Returns the verdicts of each text's gates."""
        verdicts: list[list[Verdict]] = [[] for _ in fields]
        groups: dict[_Gate, list[int]] = {}
        for i, row in enumerate(fields):
            for gate in _gates(stage, row.get("polarity", ""), settings):
                groups.setdefault(gate, []).append(i)
        for gate, indices in groups.items():
            for start in range(0, len(indices), _BATCH):
                batch = indices[start : start + _BATCH]
                for i, score, mass in zip(batch, *self._score_rows(gate, [fields[i] for i in batch]), strict=True):
                    verdicts[i].append(_make_verdict(gate, float(score), float(mass), settings.mass))
        return verdicts

    def _score_rows(self, gate: _Gate, rows: Sequence[Mapping[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        """Returns scores and masses of rows under one gate, from the cache if present."""
        how = self.how
        assembled = prompts.assemble(
            rows, read_judge_wordings()[gate.name], gate.scale, (), ask.chat_format(self.model, how)
        )
        file = self.cache_folder / f"{store.address(self.name, assembled.digest)}.npz"
        if file.exists():
            try:
                cached = store.load_npz(file)
                return cached["score"], cached["mass"]
            except (ValueError, KeyError):
                pass  # damaged: score again
        tokenised = ask.tokenize_with_spellings(self.model, assembled, how)
        shares = np.exp(ask.score_prompts(self.model, [assembled], [tokenised]).logs[0])
        mass = shares.sum(-1)
        score = (shares * np.array(gate.scale.ratings)).sum(-1) / np.where(mass > 0, mass, 1)
        store.commit_npz(file, {"score": score, "mass": mass})
        return score, mass


def _make_verdict(gate: _Gate, score: float, mass: float, least: float) -> Verdict:
    if mass < least:
        return Verdict(
            gate.name, None, f"the judge abstains: its answers have {mass:.2f} of the probability", score, mass
        )
    passed = score >= gate.least
    return Verdict(gate.name, passed, "" if passed else f"{score:.2f}, expected {gate.least:g} or more", score, mass)
