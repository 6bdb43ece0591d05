"""Who writes: a model, or a table of texts that are there already."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from vatjax import config, errors, models, names, prompts, store, tables
from vatjax.build.records import Request, Stage, Text
from vatjax.build.settings import Build
from vatjax.elicit import asking
from vatjax.elicit.pieces import Pieces, pieces
from vatjax.elicit.tree import common
from vatjax.items.read import polarity_of
from vatjax.models import Model, Sampling, hosts, tokens
from vatjax.prompts import How, Shot, Wording
from vatjax.values import Taxonomy

_WIDE = 64  # lengths of trunks and of what stands behind them are rounded up to it, so that few programs are compiled


@dataclasses.dataclass(frozen=True)
class Example:
    """An example: the fields of a prompt, and the text that is written for it."""

    fields: Mapping[str, str]
    text: str


@dataclasses.dataclass(frozen=True)
class Asking:
    """How one kind of text is asked for."""

    system: str
    levels: tuple[str, ...]
    answer: str
    examples: tuple[Example, ...]


@dataclasses.dataclass(frozen=True)
class Prompts:
    """The shipped prompts.

    Attributes:
        version: of their words.
        scenes, actions: of each stage.
    """

    version: int
    scenes: Asking
    actions: Asking


@functools.cache
def shipped() -> Prompts:
    """The prompts that a writer is asked with."""
    return config.read(Prompts, pathlib.Path(__file__).parent / "writing.yaml")


class Written(NamedTuple):
    """What a writer gave for a request, and what it was asked with."""

    text: Text
    prompt: str


class Writer(Protocol):
    """Gives texts."""

    name: str

    def write(self, requests: Sequence[Request], attempt: int) -> list[Written | None]:
        """A text for each request; None where there is no further one."""
        ...


class TableWriter:
    """Texts from a file. Of scenes each row is one; of actions the first row with its fields is taken, and where that fails
    the next.

    Args:
        file: the table.
        stage: what its texts are.
        taxonomy: of actions, the values that there are.

    Raises:
        InputError: for a table that lacks a column, and for every cell that is no text, no value, or no side.
    """

    def __init__(self, file: str, stage: Stage, taxonomy: Taxonomy | None = None) -> None:
        self.keys = ("country", "topic") if stage == "scene" else ("scene", "value", "polarity")
        self.name, self.file, self.stage = f"table {store.file_address(file)[:16]}", file, stage
        self.taxonomy = taxonomy
        table = tables.read(file)
        problems = [*table.problems, *table.lacking((*self.keys, stage))]
        self.texts: dict[tuple[str, ...], list[tuple[str, int]]] = {}
        self.used: set[int] = set()
        for row, line in zip(table.rows, table.lines, strict=True) if not problems else ():
            try:
                own = {column: self._cell(column, row.get(column)) for column in (*self.keys, stage)}
            except errors.InputError as error:
                problems.append(errors.Problem(table.source, line, str(error)))
                continue
            self.texts.setdefault(_key([own[key] for key in self.keys]), []).append((own[stage], line))
        if problems:
            raise errors.all_of(problems)
        rows = table.rows if stage == "scene" else []
        self.places = list(dict.fromkeys((row["country"].strip(), row["topic"].strip()) for row in rows))

    def _cell(self, column: str, entry: Any) -> str:
        if not isinstance(entry, str) or not entry.strip():
            raise errors.InputError(f"{column}: expected a text, found {names.shown(entry)}")
        text = " ".join(entry.split())
        if column == "polarity":
            return polarity_of(text)
        return self.taxonomy.names[self.taxonomy.index(text)] if column == "value" and self.taxonomy else text

    def count(self, country: str, topic: str) -> int:
        """How many scenes there are of a country and topic."""
        return len(self.texts.get(_key([country, topic]), ()))

    def write(self, requests: Sequence[Request], attempt: int) -> list[Written | None]:
        """The texts whose turn it is."""
        found: list[Written | None] = []
        for request in requests:
            own = self.texts.get(_key([request.fields[name] for name in self.keys]), [])
            place = attempt if self.stage == "action" else int(request.fields["number"]) - 1
            if place >= len(own) or (self.stage == "scene" and attempt):
                found.append(None)
                continue
            text, line = own[place]
            self.used.add(line)
            found.append(Written(Text(text), ""))
        return found

    def unused(self) -> list[int]:
        """Lines that nobody has asked for, in their order."""
        return sorted(line for own in self.texts.values() for _, line in own if line not in self.used)


def _key(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(names.canonical(text) if len(text) < 60 else " ".join(text.split()).casefold() for text in texts)


class ModelWriter:
    """A model that writes: what prompts share is computed once, and every text has a key of its own.

    Finished batches are kept, and not written again; a text does not hang on what is written beside it but for rounding, and
    which texts stand together follows from the requests alone.

    Args:
        model: the writer.
        settings: how it is asked.
        keep: a folder for finished batches.
    """

    def __init__(self, model: Model, settings: Build, keep: Any) -> None:
        self.model, self.settings, self.keep = model, settings, keep
        self.name = models.fingerprint(model.arrays)
        self.stops = models.stop_tokens(model)

    def write(self, requests: Sequence[Request], attempt: int) -> list[Written | None]:
        """A text for each request."""
        found: dict[str, Written] = {}
        groups: dict[tuple[Any, ...], list[Request]] = {}
        for request in requests:  # those of one scene share it
            groups.setdefault((request.stage, request.variant, request.fields.get("scene", "")), []).append(request)
        for (stage, variant, _), own in groups.items():
            for start in range(0, len(own), self.settings.rows):
                batch = own[start : start + self.settings.rows]
                for request, written in zip(batch, self._batch(stage, variant, batch, attempt), strict=True):
                    found[request.name] = written
        return [found[request.name] for request in requests]

    def _batch(self, stage: Stage, variant: str, batch: Sequence[Request], attempt: int) -> list[Written]:
        made = self._prompts(stage, variant, batch)
        sampling = self._sampling(stage)
        named = store.address(
            self.name, made.digest, dataclasses.asdict(sampling), attempt, self.settings.seed, self.settings.rows
        )
        file = self.keep / f"{named}.json"
        if file.exists():
            try:
                kept = json.loads(store.read_text(file))
                return [Written(Text(*own), made.text(i)) for i, own in enumerate(kept)]
            except (ValueError, TypeError):
                pass  # damaged: written anew
        texts = self._generated(made, batch, attempt, sampling)
        store.commit_json(file, [[text.text, text.ended] for text in texts])
        return [Written(text, made.text(i)) for i, text in enumerate(texts)]

    def _sampling(self, stage: Stage) -> Sampling:
        own = self.settings
        count = own.scene_tokens if stage == "scene" else own.action_tokens
        return Sampling(count, own.temperature, own.top_p, self.stops)

    def _prompts(self, stage: Stage, variant: str, batch: Sequence[Request]) -> prompts.Prompts:
        own = shipped().scenes if stage == "scene" else shipped().actions
        system = own.system.format(
            language=self.settings.language, person=self.settings.person, words=self.settings.gates.action_words[1]
        )
        wording = Wording(system, "", "", own.levels, own.answer)
        shots = [Shot(one.fields, one.text) for one in own.examples] if variant == "few-shot" else []
        chat = asking.template(self.model, How())
        return prompts.assemble([request.fields for request in batch], wording, None, shots, chat)

    def _generated(
        self, made: prompts.Prompts, batch: Sequence[Request], attempt: int, sampling: Sampling
    ) -> list[Text]:
        templated = asking.template(self.model, How()) is not None
        found = pieces(made, self.model.tokenizer, templated)
        trunk, rest = _parted(found)
        context = self.model.config.context
        longest = len(trunk) + max(map(len, rest)) + sampling.tokens
        if longest > context:
            raise errors.InputError(
                f"a prompt of {longest - sampling.tokens:,} tokens and {sampling.tokens} written ones are longer than the "
                f"writer's context of {context:,}"
            )
        rows = [*range(len(batch)), *[len(batch) - 1] * (self.settings.rows - len(batch))]  # one shape for all batches
        laid = tokens.batch([rest[row] for row in rows], side="left", to=_up(max(map(len, rest))))
        begin = np.concatenate([np.full(_up(len(trunk)) - len(trunk), -1), np.array(trunk, np.int64)]).astype(np.int32)
        seeds = [int(store.address(batch[row].name, attempt, self.settings.seed)[:8], 16) for row in rows]
        keys = jax.vmap(jax.random.key)(np.array(seeds, np.uint32))
        wrote = hosts.fetch(models.generate(self.model, laid.tokens, laid.mask, sampling, keys, trunk=begin))
        bad = np.flatnonzero(~np.isfinite(wrote.log_probs).all(-1))
        if len(bad):
            raise errors.InputError(f"the writer's logits are not finite behind {made.text(rows[bad[0]])[-80:]!r}")
        return [
            self._text(ids[:length].tolist(), templated)
            for ids, length in zip(wrote.tokens[: len(batch)], wrote.lengths, strict=False)
        ]

    def _text(self, ids: list[int], templated: bool) -> Text:
        """What was written; a base model goes on with the next prompt where it is done."""
        ended = bool(ids) and ids[-1] in self.stops
        text = self.model.tokenizer.decode(ids, skip_special_tokens=True).strip()
        if not templated and "\n" in text:
            return Text(text.partition("\n")[0].strip())
        return Text(text, ended)


def _parted(found: Pieces) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """What all prompts begin with, and what each has behind it, at least one token."""
    every, same = [tuple(found.tokens(i)) for i in range(len(found.which))], common(found)
    return every[0][:same], [own[same:] for own in every]


def _up(count: int) -> int:
    return -(-count // _WIDE) * _WIDE
