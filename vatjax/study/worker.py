"""Computes artifacts of one model: finds edits, trains adapters and elicits states, jointly where possible."""

from __future__ import annotations

import collections
import dataclasses
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vatjax import edits, elicit, errors, models, prompts, states, store, train
from vatjax.edits.candidates import Candidate, find_candidate, sample_target_scenes
from vatjax.elicit import prefill, protocols
from vatjax.items import Items
from vatjax.models import Edit, Model
from vatjax.prefix import score_edits
from vatjax.prompts import ElicitConfig, Shot
from vatjax.runtime import processes
from vatjax.runtime.progress import OnProgress, ignore_progress, stage_progress
from vatjax.study.arms import Arm, Cell, instruction
from vatjax.study.artifacts import REFERENCE, RUN, SHARDS, Artifact, ArtifactStore
from vatjax.study.design import Design


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
    ) -> None:
        self.design, self.model, self.items, self.test_items = design, model, items, test_items
        self.artifact_store, self.on_message, self.on_progress = artifact_store, on_message, on_progress
        self.how = prefill.resolve_prefill(model, design.how)
        self.candidates: dict[str, Candidate] = {}

    def make(self, batch: Sequence[Artifact]) -> None:
        """Computes a batch of artifacts and writes their files. The caller writes `piece.json`, which marks an artifact
        complete."""
        kind = batch[0].kind
        if kind == "edit":
            self._edit(batch[0])
        elif kind == "training":
            self._train(batch)
        elif kind == "texts":
            self._texts(batch[0])
        else:
            self._states(batch)

    # Edits ----------------------------------------------------------------------------------------------------------

    def _edit(self, artifact: Artifact) -> None:
        cell, exchanged = artifact.task
        place = self.artifact_store.path(artifact)
        if exchanged is not None:
            self._placebo_edit(artifact, exchanged)
            return
        tried = self._candidate(artifact)
        layers, points = self._choose_place(cell, tried)
        facts = {**tried.facts(layers), "layers": list(layers)}
        store.commit_json(place / "chosen.json", {"layers": list(layers), "sweep": points})
        models.save_edit(tried.make(layers), self.model, place / "edit", store.nonfinite_to_none(facts))
        processes.barrier("an edit is written")  # all processes read it for its placebos

    def _placebo_edit(self, artifact: Artifact, exchanged: int) -> None:
        """Finds an edit from shuffled labels; if the finder finds nothing, writes an edit that does nothing."""
        real = artifact.dependencies["real"]
        meta: dict[str, Any] = {"shuffled labels": exchanged}
        layers = tuple(self.artifact_store.read_json(real, "chosen.json")["layers"])
        try:
            edit = self._candidate(real).make_placebo(layers, exchanged)
        except errors.InputError as error:
            self.on_message(f"{artifact.label}: found nothing: {error}")
            edit, meta = (
                0.0 * models.load_edit(self.artifact_store.path(real) / "edit", self.model),
                {**meta, "none": str(error)},
            )
        models.save_edit(edit, self.model, self.artifact_store.path(artifact) / "edit", meta)

    def _candidate(self, artifact: Artifact) -> Candidate:
        """Returns the finder's result for a real edit; the last result is cached for its placebos."""
        if artifact.address not in self.candidates:
            cell = artifact.task[0]
            source, depth = self.design.items, self.model.config.layers
            finder = cell.intervention.finder(source.test, source.seed, cell.seed)
            self.candidates.clear()
            self.candidates[artifact.address] = find_candidate(
                self.model,
                self.items,
                cell.target,
                cell.sign,
                finder,
                cell.intervention.places(depth),
                self.how.of_pairs(),
            )
        return self.candidates[artifact.address]

    def _choose_place(self, cell: Cell, tried: Candidate) -> tuple[tuple[int, ...], list[dict[str, Any]]]:
        """Chooses the place with the largest gain on the train side, at a strength that does not break the model if one
        exists."""
        if len(tried.places) == 1:
            return tried.places[0], []
        source = self.design.items
        side, _ = self.items.split(source.test, source.seed)
        sampled_items = sample_target_scenes(side, cell.target, cell.intervention.scenes, source.seed)
        points = edits.sweep(
            self.model,
            sampled_items,
            cell.target,
            tried.make,
            tried.places,
            cell.intervention.strengths,
            cell.sign,
            how=self.how.of_pairs(),
            on_progress=stage_progress(self.on_progress, 0.2, 1),
        )
        chosen = edits.best_point(points) or max(points, key=lambda point: point.outcome.mass)
        sweep_points = [
            {"layers": list(p.layers), "strength": p.strength, **store.nonfinite_to_none(p.outcome._asdict())}
            for p in points
        ]
        return chosen.layers, sweep_points

    def edit_of(self, artifact: Artifact) -> Edit | None:
        """Returns the edit of a state's arm; None if the arm does not edit the model."""
        arm: Arm | None = artifact.task[0]
        if arm is None or not artifact.dependencies:
            return None
        if "training" in artifact.dependencies:
            return models.load_edit(
                self.artifact_store.path(artifact.dependencies["training"]) / step_folder(arm.level), self.model
            )
        edit = arm.level * models.load_edit(
            self.artifact_store.path(artifact.dependencies["edit"]) / "edit", self.model
        )
        if not float(edit.strength):
            return None
        return edits.random_like(edit, arm.cell.draw_seed(arm.draw)) if arm.placebo == "random" else edit

    # Training -------------------------------------------------------------------------------------------------------

    def _train(self, batch: Sequence[Artifact]) -> None:
        if len(batch) > 1:
            self._train_jointly(batch)
            return
        artifact = batch[0]
        run = self._training_settings(artifact)
        folder = self.artifact_store.path(artifact)
        prepared = train.prepare(self.model, run, folder / REFERENCE, on_message=self.on_message)
        every = min(artifact.task[0].intervention.training.measured_steps())
        course = dataclasses.replace(run.course, probe=every, save=every, log=max(1, every // 10))

        def keep(state: train.State, step: int) -> None:
            if step and not processes.global_all((folder / step_folder(step) / "edit.json").exists()):
                self._save_step(state, artifact, step)

        ended = train.run(
            prepared.state,
            prepared.data,
            prepared.loss,
            course,
            folder / RUN,
            prepared.penalty,
            probe=keep,
            memory=run.memory,
            on_step=lambda metrics, _: self.on_progress(metrics["step"] / course.steps),
            on_message=self.on_message,
            locked=True,  # by the lease on its batch
        )
        _commit_lines(folder / "metrics.jsonl", ended.metrics)

    def _train_jointly(self, batch: Sequence[Artifact]) -> None:
        """Trains adapters on one model, each with its own data and order, in one compiled step."""
        runs = [self._training_settings(artifact) for artifact in batch]
        prepared = [
            train.prepare(self.model, run, self.artifact_store.path(artifact) / REFERENCE, on_message=self.on_message)
            for run, artifact in zip(runs, batch, strict=True)
        ]
        data = train.pad_to_common_shape([run_inputs.data for run_inputs in prepared])
        state = train.stack([run_inputs.state for run_inputs in prepared])
        marks, lines = (
            batch[0].task[0].intervention.training.measured_steps(),
            [list[dict[str, float]]() for _ in batch],
        )
        course, loss, memory = runs[0].course, prepared[0].loss, runs[0].memory
        unread: collections.deque[Any] = collections.deque()
        for step in range(course.steps):
            rows = [
                train.batch(adapter_data, train.rows_at_step(adapter_data, step, run.course.seed))
                for adapter_data, run in zip(data, runs, strict=True)
            ]
            state, logs = train.step_many(
                state, train.stack_batches(rows), loss, parts=course.parts, memory=memory, donate=True
            )
            number = step + 1
            unread.append(logs["loss"])
            if (
                self.on_progress is not ignore_progress and len(unread) > 2
            ):  # two steps after the device: it is never idle
                unread.popleft().block_until_ready()
                self.on_progress((number - 2) / course.steps)
            if number == 1 or number in marks or number % max(1, min(marks) // 10) == 0:
                self._log_step(batch, number, processes.fetch(logs), lines)
            if number in marks:
                for artifact, adapter in zip(batch, train.unstack(state), strict=True):
                    self._save_step(adapter, artifact, number)
        for artifact, metric_lines in zip(batch, lines, strict=True):
            if self.artifact_store.has(artifact):
                continue
            _commit_lines(self.artifact_store.path(artifact) / "metrics.jsonl", metric_lines)

    def _log_step(self, batch: Sequence[Artifact], step: int, logs: Any, lines: list[list[dict[str, float]]]) -> None:
        for i, artifact in enumerate(batch):
            if not logs["finite"][i]:
                rate = artifact.task[0].intervention.training.adam.rate
                raise errors.InputError(
                    f"{artifact.label}: the loss is not finite at step {step}; lower the rate, {rate:g}"
                )
            metrics = {name: float(x[i]) for name, x in logs.items() if name not in ("finite", "empty", "tokens")}
            lines[i].append({"step": step, **metrics})

    def _training_settings(self, artifact: Artifact) -> train.Training:
        cell, draw = artifact.task
        settings: train.Training = cell.training(dataclasses.replace(self.design, how=self.how), draw)
        return settings

    def _save_step(self, state: train.State, artifact: Artifact, step: int) -> None:
        if self.artifact_store.has(artifact):
            return
        edit = train.export(state)
        assert isinstance(edit, Edit)
        models.save_edit(edit, self.model, self.artifact_store.path(artifact) / step_folder(step), {"step": step})

    # States ---------------------------------------------------------------------------------------------------------

    def _states(self, batch: Sequence[Artifact]) -> None:
        how = dataclasses.replace(self.how, wording=batch[0].task[1])
        like: dict[str, list[tuple[Artifact, Edit | None]]] = {}
        for artifact in batch:
            edit = self.edit_of(artifact)
            like.setdefault("" if edit is None else score_edits.edit_structure(edit), []).append((artifact, edit))
        finished = 0
        for form, group in like.items():
            if form and len(group) > 1:
                part = stage_progress(self.on_progress, finished / len(batch), (finished + len(group)) / len(batch))
                self._rate_under_edits(
                    [artifact for artifact, _ in group], [edit for _, edit in group if edit is not None], how, part
                )
                finished += len(group)
                continue
            for artifact, edit in group:
                part = stage_progress(self.on_progress, finished / len(batch), (finished + 1) / len(batch))
                self._rate_one(artifact, how, edit, part)
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

    def _rate_one(self, artifact: Artifact, how: ElicitConfig, edit: Edit | None, on_progress: OnProgress) -> None:
        """Elicits one state; finished shards are cached."""
        arm: Arm | None = artifact.task[0]
        place = self.artifact_store.path(artifact)
        shots, instruction = self._shots_and_instruction(arm, how)
        rated = elicit.ratings(
            self.model,
            self.test_items,
            how,
            shots=shots,
            instruction=instruction,
            edit=edit,
            keep=place / SHARDS,
            on_progress=on_progress,
        )
        perplexity = 1.0 if edit is None else float(edits.perplexities(self.model, [edit])[0])
        noise = None
        if arm is None and elicit.is_noisy(self.model):
            noise = elicit.numerical_noise(self.model, self.test_items, how)
        self._save_state(artifact, rated.state, rated.agreement, rated.shares.sum(-1).mean(0), perplexity, noise)

    def _shots_and_instruction(self, arm: Arm | None, how: ElicitConfig) -> tuple[list[Shot], str]:
        if arm is None or arm.cell.intervention.edits or arm.cell.intervention.trains:
            return [], ""
        cell, source = arm.cell, self.design.items
        if cell.intervention.kind == "instruction":
            return [], instruction(arm, self.items.taxonomy)
        drawn: dict[str, Any] = {"test": source.test, "seed": source.seed}
        count = int(arm.level)
        if arm.placebo:
            number = cell.draw_seed(arm.draw)
            return elicit.neutral_shots(self.model, self.items, count, cell.target, how, draw=number, **drawn), ""
        scale = prompts.Scale(how.low, how.high)
        return prompts.demonstrations(self.items, cell.target, cell.sign, count, scale, draw=cell.seed, **drawn), ""

    # Answers in words ------------------------------------------------------------------------------------------------

    def _texts(self, artifact: Artifact) -> None:
        """Writes, for the cells that moved most, the prompt that did, with its ratings and written answers before and
        after."""
        arm, after = artifact.task, artifact.dependencies["after"]
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
            self._before_and_after(arm, after, how, [[rows[i] for i in indices] for indices in members])
            if cells
            else []
        )
        for cell_texts, (context, value) in zip(content, cells, strict=True):
            x, y = (float(state.state[context, value]) for state in (was, now))
            keys = {key: str(column[context]) for key, column in was.contexts.items()}
            cell_texts |= {"value": was.values[value], "context": keys, "state_before": x, "state_after": y}
        store.commit_json(self.artifact_store.path(artifact) / "texts.json", store.nonfinite_to_none(content))

    def _before_and_after(
        self, arm: Arm, after: Artifact, how: ElicitConfig, cells: Sequence[Sequence[Mapping[str, str]]]
    ) -> list[dict[str, Any]]:
        """Returns, for each cell, the prompt whose rating moved most, as plain data."""
        shots, instruction = self._shots_and_instruction(arm, how)
        edit = self.edit_of(after)
        plain = elicit.Condition(edit=None if edit is None else 0.0 * edit)  # one program for both
        pushed = elicit.Condition(shots, instruction, edit)
        every = [row for members in cells for row in members]
        with warnings.catch_warnings():  # the row of an arm reports its mass
            warnings.filterwarnings("ignore", "the options have")
            was, now = (elicit.answers(self.model, every, how, condition) for condition in (plain, pushed))
        moved = np.abs(now.ratings - was.ratings)
        ends = np.cumsum([len(members) for members in cells])
        chosen = [
            int(end - len(members) + np.nan_to_num(moved[end - len(members) : end]).argmax())
            for members, end in zip(cells, ends, strict=True)
        ]
        picked = [every[i] for i in chosen]
        wrote = [elicit.free_answers(self.model, picked, how, condition) for condition in (plain, pushed)]
        scale = prompts.Scale(how.low, how.high)
        assembled = prompts.assemble(picked, how.wordings()[0], scale)
        content = []
        for number, i in enumerate(chosen):
            sides = {}
            for side, answers, texts in (("before", was, wrote[0]), ("after", now, wrote[1])):
                sides[side] = {
                    "rating": float(answers.ratings[i]),
                    "mass": float(answers.shares[:, i].sum(-1).mean()),
                    "prompt": texts[number].prompt,
                    "written": texts[number].text,
                }
            content.append({"asked": assembled.text(number), **sides})
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


def step_folder(step: float) -> str:
    """Returns the folder of the edit of a training step, relative to its artifact."""
    return f"step-{int(step):06d}"


def _commit_lines(path: Any, lines: Sequence[Any]) -> None:
    store.commit(path, "".join(json.dumps(store.nonfinite_to_none(dict(line))) + "\n" for line in lines).encode())
