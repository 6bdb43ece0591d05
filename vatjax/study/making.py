"""How pieces are made: edits are found, adapters trained, states elicited, all of one model, together where they can be."""

from __future__ import annotations

import collections
import dataclasses
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vatjax import edits, elicit, errors, models, prompts, states, store, train
from vatjax.elicit import prefill, protocols, together
from vatjax.items import Items
from vatjax.models import Edit, Model
from vatjax.progress import OnProgress, silent, within
from vatjax.prompts import How, Shot
from vatjax.study.arms import Arm, Cell, instruction
from vatjax.study.design import Design
from vatjax.study.finding import Candidate, candidate, some_scenes
from vatjax.study.pieces import REFERENCE, RUN, SHARDS, Piece, Shelf


class Workshop:
    """One model, and what is made with it.

    Args:
        design: the study.
        model: the model.
        items: all items.
        asked: those of the test side that are asked about.
        shelf: where pieces go.
        on_message: is called with lines for the user.
        on_progress: is called with the completed fraction of the pieces that are being made.
    """

    def __init__(
        self,
        design: Design,
        model: Model,
        items: Items,
        asked: Items,
        shelf: Shelf,
        on_message: Callable[[str], None],
        on_progress: OnProgress = silent,
    ) -> None:
        self.design, self.model, self.items, self.asked = design, model, items, asked
        self.shelf, self.on_message, self.on_progress = shelf, on_message, on_progress
        self.how = prefill.resolved(model, design.how)
        self.candidates: dict[str, Candidate] = {}

    def make(self, batch: Sequence[Piece]) -> None:
        """Makes pieces that belong together; whatever was not on the shelf is there then, but for `piece.json`."""
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

    def _edit(self, piece: Piece) -> None:
        cell, exchanged = piece.task
        place = self.shelf.place(piece)
        if exchanged is not None:
            self._blind(piece, exchanged)
            return
        tried = self._candidate(piece)
        layers, points = self._place(cell, tried)
        facts = {**tried.facts(layers), "layers": list(layers)}
        store.commit_json(place / "chosen.json", {"layers": list(layers), "sweep": points})
        models.save_edit(tried.make(layers), self.model, place / "edit", store.finite(facts))
        models.hosts.meet("an edit is written")  # all of them read it for its placebos

    def _blind(self, piece: Piece, exchanged: int) -> None:
        """What the same finder makes of shuffled labels; where that is nothing, an edit that does nothing."""
        real = piece.needs["real"]
        meta: dict[str, Any] = {"shuffled labels": exchanged}
        layers = tuple(self.shelf.json(real, "chosen.json")["layers"])
        try:
            found = self._candidate(real).blind(layers, exchanged)
        except errors.InputError as error:
            self.on_message(f"{piece.label}: nothing is found: {error}")
            found, meta = (
                0.0 * models.load_edit(self.shelf.place(real) / "edit", self.model),
                {**meta, "none": str(error)},
            )
        models.save_edit(found, self.model, self.shelf.place(piece) / "edit", meta)

    def _candidate(self, piece: Piece) -> Candidate:
        """The finder's result for a real edit; what was found last is kept for its placebos."""
        if piece.address not in self.candidates:
            cell = piece.task[0]
            source, depth = self.design.items, self.model.config.layers
            finder = cell.what.finder(source.test, source.seed, cell.seed)
            self.candidates.clear()
            self.candidates[piece.address] = candidate(
                self.model,
                self.items,
                cell.target,
                cell.sign,
                finder,
                cell.what.places(depth),
                self.how.of_pairs(),
            )
        return self.candidates[piece.address]

    def _place(self, cell: Cell, tried: Candidate) -> tuple[tuple[int, ...], list[dict[str, Any]]]:
        """The place with the most gain on the train side, among strengths that leave the model whole if there are any."""
        if len(tried.places) == 1:
            return tried.places[0], []
        source = self.design.items
        side, _ = self.items.split(source.test, source.seed)
        asked = some_scenes(side, cell.target, cell.what.scenes, source.seed)
        points = edits.sweep(
            self.model,
            asked,
            cell.target,
            tried.make,
            tried.places,
            cell.what.strengths,
            cell.sign,
            how=self.how.of_pairs(),
            on_progress=within(self.on_progress, 0.2, 1),
        )
        chosen = edits.best(points) or max(points, key=lambda point: point.outcome.mass)
        said = [{"layers": list(p.layers), "strength": p.strength, **store.finite(p.outcome._asdict())} for p in points]
        return chosen.layers, said

    def edit_of(self, piece: Piece) -> Edit | None:
        """What the model is changed by in a state's arm; None for nothing."""
        arm: Arm | None = piece.task[0]
        if arm is None or not piece.needs:
            return None
        if "training" in piece.needs:
            return models.load_edit(self.shelf.place(piece.needs["training"]) / step_folder(arm.level), self.model)
        own = arm.level * models.load_edit(self.shelf.place(piece.needs["edit"]) / "edit", self.model)
        if not float(own.strength):
            return None
        return edits.random_like(own, arm.cell.key(arm.draw)) if arm.placebo == "random" else own

    # Training -------------------------------------------------------------------------------------------------------

    def _train(self, batch: Sequence[Piece]) -> None:
        if len(batch) > 1:
            self._side_by_side(batch)
            return
        piece = batch[0]
        run = self._run(piece)
        place = self.shelf.place(piece)
        made = train.prepared(self.model, run, place / REFERENCE, on_message=self.on_message)
        every = min(piece.task[0].what.training.marks())
        course = dataclasses.replace(run.course, probe=every, save=every, log=max(1, every // 10))

        def keep(state: train.State, step: int) -> None:
            if step and not models.hosts.everywhere((place / step_folder(step) / "edit.json").exists()):
                self._keep(state, piece, step)

        ended = train.run(
            made.state,
            made.data,
            made.loss,
            course,
            place / RUN,
            made.penalty,
            probe=keep,
            memory=run.memory,
            done=lambda metrics, _: self.on_progress(metrics["step"] / course.steps),
            told=self.on_message,
            held=True,  # by the claim on its batch
        )
        _commit_lines(place / "metrics.jsonl", ended.metrics)

    def _side_by_side(self, batch: Sequence[Piece]) -> None:
        """Adapters on one model, each with its own data and order, in one compiled step."""
        runs = [self._run(piece) for piece in batch]
        made = [
            train.prepared(self.model, run, self.shelf.place(piece) / REFERENCE, on_message=self.on_message)
            for run, piece in zip(runs, batch, strict=True)
        ]
        data = train.alike([one.data for one in made])
        state = train.stack([one.state for one in made])
        marks, lines = batch[0].task[0].what.training.marks(), [list[dict[str, float]]() for _ in batch]
        course, loss, memory = runs[0].course, made[0].loss, runs[0].memory
        unread: collections.deque[Any] = collections.deque()
        for step in range(course.steps):
            rows = [train.batch(own, train.at(own, step, run.course.seed)) for own, run in zip(data, runs, strict=True)]
            state, logs = train.step_many(
                state, train.beside(rows), loss, parts=course.parts, memory=memory, donate=True
            )
            number = step + 1
            unread.append(logs["loss"])
            if self.on_progress is not silent and len(unread) > 2:  # two steps after the device: it is never idle
                unread.popleft().block_until_ready()
                self.on_progress((number - 2) / course.steps)
            if number == 1 or number in marks or number % max(1, min(marks) // 10) == 0:
                self._look(batch, number, models.hosts.fetch(logs), lines)
            if number in marks:
                for piece, own in zip(batch, train.unstack(state), strict=True):
                    self._keep(own, piece, number)
        for piece, own_lines in zip(batch, lines, strict=True):
            if self.shelf.has(piece):
                continue
            _commit_lines(self.shelf.place(piece) / "metrics.jsonl", own_lines)

    def _look(self, batch: Sequence[Piece], step: int, logs: Any, lines: list[list[dict[str, float]]]) -> None:
        for i, piece in enumerate(batch):
            if not logs["finite"][i]:
                rate = piece.task[0].what.training.adam.rate
                raise errors.InputError(
                    f"{piece.label}: the loss is no number at step {step}; lower the rate, {rate:g}"
                )
            own = {name: float(x[i]) for name, x in logs.items() if name not in ("finite", "empty", "tokens")}
            lines[i].append({"step": step, **own})

    def _run(self, piece: Piece) -> train.Training:
        cell, draw = piece.task
        made: train.Training = cell.training(dataclasses.replace(self.design, how=self.how), draw)
        return made

    def _keep(self, state: train.State, piece: Piece, step: int) -> None:
        if self.shelf.has(piece):
            return
        edit = train.result(state)
        assert isinstance(edit, Edit)
        models.save_edit(edit, self.model, self.shelf.place(piece) / step_folder(step), {"step": step})

    # States ---------------------------------------------------------------------------------------------------------

    def _states(self, batch: Sequence[Piece]) -> None:
        how = dataclasses.replace(self.how, wording=batch[0].task[1])
        like: dict[str, list[tuple[Piece, Edit | None]]] = {}
        for piece in batch:
            edit = self.edit_of(piece)
            like.setdefault("" if edit is None else together.form(edit), []).append((piece, edit))
        made = 0
        for form, group in like.items():
            if form and len(group) > 1:
                part = within(self.on_progress, made / len(batch), (made + len(group)) / len(batch))
                self._under([piece for piece, _ in group], [edit for _, edit in group if edit is not None], how, part)
                made += len(group)
                continue
            for piece, edit in group:
                part = within(self.on_progress, made / len(batch), (made + 1) / len(batch))
                self._alone(piece, how, edit, part)
                made += 1

    def _under(self, batch: Sequence[Piece], own: Sequence[Edit], how: How, on_progress: OnProgress) -> None:
        """States under edits of one form, all at one time."""
        found = elicit.states_under(self.model, self.asked, own, how, on_progress=within(on_progress, 0, 0.97))
        perplexity = edits.perplexities(self.model, own)
        for i, piece in enumerate(batch):
            agreement = None if found.agreement is None else found.state(i, reads="agreement")
            self._put(piece, found.state(i), agreement, found.mass[i], float(perplexity[i]))

    def _alone(self, piece: Piece, how: How, edit: Edit | None, on_progress: OnProgress) -> None:
        """A state by itself; what is done of it is kept shard by shard."""
        arm: Arm | None = piece.task[0]
        place = self.shelf.place(piece)
        shots, instruction = self._said(arm, how)
        rated = elicit.ratings(
            self.model,
            self.asked,
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
            noise = elicit.numerical_noise(self.model, self.asked, how)
        self._put(piece, rated.state, rated.agreement, rated.shares.sum(-1).mean(0), perplexity, noise)

    def _said(self, arm: Arm | None, how: How) -> tuple[list[Shot], str]:
        if arm is None or arm.cell.what.edits or arm.cell.what.trains:
            return [], ""
        cell, source = arm.cell, self.design.items
        if cell.what.kind == "instruction":
            return [], instruction(arm, self.items.taxonomy)
        drawn: dict[str, Any] = {"test": source.test, "seed": source.seed}
        count = int(arm.level)
        if arm.placebo:
            number = cell.key(arm.draw)
            return elicit.neutral_shots(self.model, self.items, count, cell.target, how, draw=number, **drawn), ""
        scale = prompts.Scale(how.low, how.high)
        return prompts.demonstrations(self.items, cell.target, cell.sign, count, scale, draw=cell.seed, **drawn), ""

    # Answers in words ------------------------------------------------------------------------------------------------

    def _texts(self, piece: Piece) -> None:
        """Of the cells that moved most the prompt that did, with its ratings and written answers before and after."""
        arm, after = piece.task, piece.needs["after"]
        how = dataclasses.replace(self.how, wording=after.task[1])
        was, now = (states.load(self.shelf.place(piece.needs[when]) / "state.npz") for when in ("before", "after"))
        cells = _moved_most(was, now, piece.decides["items"])
        asked = protocols.ask(self.asked, how.protocol)
        rows = list(asked.rows)
        members = [np.flatnonzero((asked.context == c) & (asked.value == v)) for c, v in cells]
        content = self._before_and_after(arm, after, how, [[rows[i] for i in own] for own in members]) if cells else []
        for one, (context, value) in zip(content, cells, strict=True):
            x, y = (float(state.state[context, value]) for state in (was, now))
            keys = {key: str(column[context]) for key, column in was.contexts.items()}
            one |= {"value": was.values[value], "context": keys, "state_before": x, "state_after": y}
        store.commit_json(self.shelf.place(piece) / "texts.json", store.finite(content))

    def _before_and_after(
        self, arm: Arm, after: Piece, how: How, cells: Sequence[Sequence[Mapping[str, str]]]
    ) -> list[dict[str, Any]]:
        """Of the prompts of each cell the one whose rating moved most, as plain data."""
        shots, instruction = self._said(arm, how)
        edit = self.edit_of(after)
        plain = elicit.Condition(edit=None if edit is None else 0.0 * edit)  # one program for both
        pushed = elicit.Condition(shots, instruction, edit)
        every = [row for own in cells for row in own]
        with warnings.catch_warnings():  # what the mass of an arm is stands in its row
            warnings.filterwarnings("ignore", "the options have")
            was, now = (elicit.answers(self.model, every, how, condition) for condition in (plain, pushed))
        moved = np.abs(now.ratings - was.ratings)
        ends = np.cumsum([len(own) for own in cells])
        chosen = [
            int(end - len(own) + np.nan_to_num(moved[end - len(own) : end]).argmax())
            for own, end in zip(cells, ends, strict=True)
        ]
        picked = [every[i] for i in chosen]
        wrote = [elicit.free_answers(self.model, picked, how, condition) for condition in (plain, pushed)]
        scale = prompts.Scale(how.low, how.high)
        asked = prompts.assemble(picked, how.wordings()[0], scale)
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
            content.append({"asked": asked.text(number), **sides})
        return content

    def _put(
        self,
        piece: Piece,
        state: states.ValueState,
        agreement: states.ValueState | None,
        mass: np.ndarray,
        perplexity: float,
        noise: elicit.Noise | None = None,
    ) -> None:
        if self.shelf.has(piece):
            return
        place = self.shelf.place(piece)
        # What decides it, and nothing of how it came to be computed: alone or among others it is the same state.
        meta = {**piece.decides, "needs": {name: need.address for name, need in piece.needs.items()}}
        states.save(dataclasses.replace(state, meta=meta), place / "state.npz")
        if agreement is not None:
            states.save(dataclasses.replace(agreement, meta={**meta, "reads": "agreement"}), place / "agreement.npz")
        asked = protocols.ask(self.asked, self.design.how.protocol)
        scene = np.asarray(asked.clusters)[asked.context]
        store.commit_npz(place / "mass.npz", {"mass": np.asarray(mass, np.float32), "scene": scene})
        about: dict[str, Any] = {"mass": float(mass.mean()), "perplexity": perplexity}
        about |= {} if noise is None else {"numerical_noise": noise._asdict()}
        store.commit_json(place / "about.json", store.finite(about))


def _moved_most(before: states.ValueState, after: states.ValueState, count: int) -> list[tuple[int, int]]:
    """The cells with the largest shift, (context, value), at most one of each value; where an arm answers nothing, those with
    the strongest ratings before it."""
    both = before.mask & after.mask
    moved = np.float64(after.state) - before.state if both.any() else np.float64(before.state)
    shift = np.where(both if both.any() else before.mask, np.abs(moved), -1.0)
    order = np.argsort(-shift.max(0), kind="stable")[:count]
    return [(int(shift[:, value].argmax()), int(value)) for value in order if shift[:, value].max() > 0]


def step_folder(step: float) -> str:
    """Where the edit of a training's step is, within its piece."""
    return f"step-{int(step):06d}"


def _commit_lines(where: Any, lines: Sequence[Any]) -> None:
    store.commit(where, "".join(json.dumps(store.finite(dict(line))) + "\n" for line in lines).encode())
