"""Computes artifacts of one model: what interventions make, value states and answers in words, jointly where possible."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vatjax import edits, elicit, errors, models, prompts, states, store
from vatjax.elicit import prefill, protocols
from vatjax.interventions import Arm
from vatjax.items import Items
from vatjax.models import Edit, Model
from vatjax.models.weights import check_edit
from vatjax.prefix import score_edits
from vatjax.prompts import ElicitConfig
from vatjax.runtime import processes
from vatjax.runtime.progress import OnProgress, ignore_progress, stage_progress
from vatjax.store.artifacts import SHARDS, Artifact, ArtifactStore
from vatjax.study.design import Design
from vatjax.study.graph import StudyContext


class Worker:
    """Worker that computes artifacts with one model.

    Args:
        design: the study.
        model: the model.
        items: all items.
        test_items: items of the test side that are rated.
        artifact_store: where artifacts are written.
        on_message: called with lines for the user.
        on_progress: called with the completed fraction of the current batch.
        load: opens another model.
        context: of the plan; without one files are not checked for changes.
    """

    def __init__(
        self,
        design: Design,
        model: Model,
        items: Items,
        test_items: Items,
        artifact_store: ArtifactStore,
        on_message: Callable[[str], None],
        on_progress: OnProgress = ignore_progress,
        load: Callable[[str], Model] = models.load,
        context: StudyContext | None = None,
    ) -> None:
        self.load, self.context = load, context
        self.design, self.model, self.items, self.test_items = design, model, items, test_items
        self.artifact_store, self.on_message, self.on_progress = artifact_store, on_message, on_progress
        self.how = prefill.resolve_prefill(model, design.how)
        self.cache: dict[str, Any] = {}
        self.source, self.dtype = design.items, design.dtype

    def make(self, batch: Sequence[Artifact]) -> None:
        """Computes a batch of artifacts and writes their files. The caller writes `piece.json`, which marks an artifact
        complete."""
        if batch[0].maker is not None:
            batch[0].maker.make(batch, self)
            for artifact in batch:
                place = self.artifact_store.path(artifact)
                if processes.is_first_process() and not place.exists():
                    raise errors.InputError(
                        f"{artifact.label}: the kind {artifact.maker.kind} wrote no file into "
                        "work.artifact_store.path(artifact)"
                    )
        elif batch[0].kind == "texts":
            self._texts(batch[0])
        else:
            self._states(batch)

    def condition(self, artifact: Artifact) -> elicit.Condition | states.ValueState:
        """Returns what a value state is elicited under, or finished ratings; for an arm of nothing the unedited model."""
        arm: Arm | None = artifact.task[0]
        if arm is None:
            return elicit.Condition()
        intervention = arm.cell.intervention
        self._check_unchanged(arm, artifact)
        condition: Any = intervention.condition(arm, artifact, self)
        expected: Any = elicit.Condition if intervention.elicited else states.ValueState
        if not isinstance(condition, expected):
            module = expected.__module__.split(".")[1]
            raise errors.InputError(
                f"{arm}: the kind {intervention.kind} gives a {type(condition).__name__}, not "
                f"{'an' if module == 'elicit' else 'a'} {module}.{expected.__name__}"
            )
        if intervention.elicited:
            elicit.check_condition(condition, f"{arm}: the kind {intervention.kind}")
        if intervention.elicited and condition.edit is not None:
            check_edit(condition.edit, self.rated_model(artifact).config)
        checked: elicit.Condition | states.ValueState = condition
        return checked

    def _check_unchanged(self, arm: Arm, artifact: Artifact) -> None:
        """Raises InputError if a file that an arm reads has changed since the study was planned."""
        if self.context is None:
            return
        for name, value in arm.cell.intervention.state_inputs(arm, self.context).items():
            if store.address(artifact.inputs[name]) != store.address(value):
                raise errors.InputError(
                    f"{arm}: what it reads has changed since the study was planned; run the study again"
                )

    def rated_model(self, artifact: Artifact) -> Model:
        """Returns the model that a value state is elicited from: that of the study, unless the intervention is another."""
        arm: Arm | None = artifact.task[0]
        return self.model if arm is None else arm.cell.intervention.rated_model(arm, artifact, self)

    # States ---------------------------------------------------------------------------------------------------------

    def _states(self, batch: Sequence[Artifact]) -> None:
        how = dataclasses.replace(self.how, wording=batch[0].task[1])
        like: dict[str, list[tuple[Artifact, elicit.Condition]]] = {}
        for artifact in batch:
            condition = self.condition(artifact)
            if isinstance(condition, states.ValueState):
                self._save_given(artifact, condition)
                continue
            edit = condition.edit
            with_text = bool(condition.shots or condition.instruction or condition.turns)
            form = ""
            if edit is not None and not with_text and self.rated_model(artifact) is self.model:
                form = score_edits.edit_structure(edit)
            like.setdefault(form, []).append((artifact, condition))
        finished = 0
        for form, group in like.items():
            if form and len(group) > 1:
                part = stage_progress(self.on_progress, finished / len(batch), (finished + len(group)) / len(batch))
                arm_edits = [condition.edit for _, condition in group if condition.edit is not None]
                self._rate_under_edits([artifact for artifact, _ in group], arm_edits, how, part)
                finished += len(group)
                continue
            for artifact, condition in group:
                part = stage_progress(self.on_progress, finished / len(batch), (finished + 1) / len(batch))
                self._rate_one(artifact, how, condition, part)
                finished += 1

    def _rate_under_edits(
        self, batch: Sequence[Artifact], arm_edits: Sequence[Edit], how: ElicitConfig, on_progress: OnProgress
    ) -> None:
        """Elicits states under edits of one form, all at once."""
        elicited = elicit.states_under(
            self.model, self.test_items, arm_edits, how, on_progress=stage_progress(on_progress, 0, 0.97)
        )
        perplexity = edits.perplexities(self.model, arm_edits)
        for i, artifact in enumerate(batch):
            agreement = None if elicited.agreement is None else elicited.state(i, reads="agreement")
            self._save_state(artifact, elicited.state(i), agreement, elicited.mass[i], float(perplexity[i]))

    def _rate_one(
        self, artifact: Artifact, how: ElicitConfig, condition: elicit.Condition, on_progress: OnProgress
    ) -> None:
        """Elicits one state; finished shards are cached."""
        arm: Arm | None = artifact.task[0]
        place, edit, model = self.artifact_store.path(artifact), condition.edit, self.rated_model(artifact)
        rated = elicit.ratings(
            model,
            self.test_items,
            how,
            **condition._asdict(),
            keep=place / SHARDS,
            on_progress=on_progress,
        )
        perplexity = 1.0 if edit is None else float(edits.perplexities(model, [edit])[0])
        if model is not self.model:
            perplexity *= edits.relative_perplexity(self.model, model)
        noise = None
        if arm is None and elicit.is_noisy(self.model):
            noise = elicit.numerical_noise(self.model, self.test_items, how)
        self._save_state(artifact, rated.state, rated.agreement, rated.shares.sum(-1).mean(0), perplexity, noise)

    def _save_given(self, artifact: Artifact, state: states.ValueState) -> None:
        """Writes ratings that nothing was asked for, and so without option mass and perplexity."""
        if self.artifact_store.has(artifact):
            return
        place = self.artifact_store.path(artifact)
        states.save(state, place / "state.npz")
        store.commit_json(place / "about.json", {"given": True, "mass": None, "perplexity": None})

    # Answers in words ------------------------------------------------------------------------------------------------

    def _texts(self, artifact: Artifact) -> None:
        """Writes, for the cells that moved most, the prompt that did, with its ratings and written answers before and
        after."""
        after = artifact.dependencies["after"]
        how = dataclasses.replace(self.how, wording=after.task[1])
        was, now = (
            states.load(self.artifact_store.path(artifact.dependencies[when]) / "state.npz")
            for when in ("before", "after")
        )
        cells = _moved_most(was, now, artifact.inputs["items"])
        questions = protocols.make_questions(self.test_items, how.protocol)
        rows = list(questions.rows)
        members = [np.flatnonzero((questions.context == c) & (questions.value == v)) for c, v in cells]
        content = (
            self._before_and_after(
                artifact.dependencies["before"], after, how, [[rows[i] for i in indices] for indices in members]
            )
            if cells
            else []
        )
        for cell_texts, (context, value) in zip(content, cells, strict=True):
            x, y = (float(state.state[context, value]) for state in (was, now))
            keys = {key: str(column[context]) for key, column in was.contexts.items()}
            cell_texts |= {"value": was.values[value], "context": keys, "state_before": x, "state_after": y}
        store.commit_json(self.artifact_store.path(artifact) / "texts.json", store.nonfinite_to_none(content))

    def _before_and_after(
        self,
        before: Artifact,
        after: Artifact,
        how: ElicitConfig,
        cells: Sequence[Sequence[Mapping[str, str]]],
    ) -> list[dict[str, Any]]:
        """Returns, for each cell, the prompt whose rating moved most, as plain data."""
        pushed, plain = self.condition(after), self.condition(before)
        assert isinstance(pushed, elicit.Condition)  # given ratings have no answers in words
        assert isinstance(plain, elicit.Condition)
        if plain.edit is None and pushed.edit is not None:
            plain = plain._replace(edit=0.0 * pushed.edit)  # one program for both
        every = [row for members in cells for row in members]
        with warnings.catch_warnings():  # the row of an arm reports its mass
            warnings.filterwarnings("ignore", "the options have")
            sides = ((self.rated_model(before), plain), (self.rated_model(after), pushed))
            was, now = (elicit.answers(model, every, how, condition) for model, condition in sides)
        moved = np.abs(now.ratings - was.ratings)
        ends = np.cumsum([len(members) for members in cells])
        chosen = [
            int(end - len(members) + np.nan_to_num(moved[end - len(members) : end]).argmax())
            for members, end in zip(cells, ends, strict=True)
        ]
        picked = [every[i] for i in chosen]
        wrote = [elicit.free_answers(model, picked, how, condition) for model, condition in sides]
        scale = prompts.Scale(how.low, how.high)
        assembled = prompts.assemble(picked, how.wordings()[0], scale)
        content = []
        for number, i in enumerate(chosen):
            before_after = {}
            for side, answers, texts in (("before", was, wrote[0]), ("after", now, wrote[1])):
                before_after[side] = {
                    "rating": float(answers.ratings[i]),
                    "mass": float(answers.shares[:, i].sum(-1).mean()),
                    "prompt": texts[number].prompt,
                    "written": texts[number].text,
                }
            content.append({"asked": assembled.text(number), **before_after})
        return content

    def _save_state(
        self,
        artifact: Artifact,
        state: states.ValueState,
        agreement: states.ValueState | None,
        mass: np.ndarray,
        perplexity: float,
        noise: elicit.Noise | None = None,
    ) -> None:
        if self.artifact_store.has(artifact):
            return
        place = self.artifact_store.path(artifact)
        # Only its inputs, not how it was computed: alone or in a batch it is the same state.
        meta = {**artifact.inputs, "needs": {name: need.address for name, need in artifact.dependencies.items()}}
        states.save(dataclasses.replace(state, meta=meta), place / "state.npz")
        if agreement is not None:
            states.save(dataclasses.replace(agreement, meta={**meta, "reads": "agreement"}), place / "agreement.npz")
        questions = protocols.make_questions(self.test_items, self.design.how.protocol)
        scene = np.asarray(questions.clusters)[questions.context]
        store.commit_npz(place / "mass.npz", {"mass": np.asarray(mass, np.float32), "scene": scene})
        about: dict[str, Any] = {"mass": float(mass.mean()), "perplexity": perplexity}
        about |= {} if noise is None else {"numerical_noise": noise._asdict()}
        store.commit_json(place / "about.json", store.nonfinite_to_none(about))


def _moved_most(before: states.ValueState, after: states.ValueState, count: int) -> list[tuple[int, int]]:
    """Returns the cells with the largest shift, (context, value), at most one for each value; if an arm answers
    nothing, those with the strongest ratings before it."""
    both = before.mask & after.mask
    moved = np.float64(after.state) - before.state if both.any() else np.float64(before.state)
    shift = np.where(both if both.any() else before.mask, np.abs(moved), -1.0)
    order = np.argsort(-shift.max(0), kind="stable")[:count]
    return [(int(shift[:, value].argmax()), int(value)) for value in order if shift[:, value].max() > 0]
