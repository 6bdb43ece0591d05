"""A writer that is a model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vatjax import errors, models, prompts, store
from vatjax.build.asking import Prompts, read
from vatjax.build.records import Request, Stage, Text
from vatjax.build.settings import Build
from vatjax.build.writers import Written
from vatjax.elicit import asking
from vatjax.elicit.pieces import Pieces, pieces
from vatjax.elicit.tree import common
from vatjax.items.table import plain
from vatjax.models import Model, Sampling, hosts, tokens
from vatjax.prompts import How

_WIDE = 64  # lengths of trunks and of what stands behind them are rounded up to it, so that few programs are compiled


class ModelWriter:
    """A model that writes: what prompts share is computed once, and every text has a key of its own.

    Finished batches are kept, and not written again; a text does not hang on what is written beside it but for rounding, and
    which texts stand together follows from the requests alone.

    Args:
        model: the writer.
        settings: how it is asked.
        keep: a folder for finished batches.

    Raises:
        InputError: where examples are wanted and there are none in the language.
    """

    budgeted = True

    def __init__(self, model: Model, settings: Build, keep: Any) -> None:
        self.model, self.settings, self.keep = model, settings, keep
        self.name = models.fingerprint(model.arrays)
        self.stops = models.stop_tokens(model)
        self.asking = read(settings.prompts)
        self.prompts = self.asking.name
        if "few-shot" in settings.variants:
            _check_examples(self.asking, settings)

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
        made = self.asking.assemble(self.settings, list(batch), asking.template(self.model, How(prefill="none")))
        sampling = self._sampling(stage)
        wanted = [request.name for request in batch]  # which decide what is drawn
        named = store.address(
            self.name,
            made.digest,
            dataclasses.asdict(sampling),
            attempt,
            self.settings.seed,
            self.settings.rows,
            wanted,
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

    def _generated(
        self, made: prompts.Prompts, batch: Sequence[Request], attempt: int, sampling: Sampling
    ) -> list[Text]:
        templated = asking.template(self.model, How(prefill="none")) is not None
        found = pieces(made, self.model.tokenizer, templated)
        trunk, rest = _parted(found)
        context, longest = self.model.config.context, max(map(len, rest))
        room = context - len(trunk) - sampling.tokens
        if longest > room:
            raise errors.InputError(
                f"a prompt of {len(trunk) + longest:,} tokens and {sampling.tokens} written ones are longer than the "
                f"writer's context of {context:,}"
            )
        rows = [*range(len(batch)), *[len(batch) - 1] * (self.settings.rows - len(batch))]  # one shape for all batches
        laid = tokens.batch([rest[row] for row in rows], side="left", to=min(_up(longest), room))
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
            return Text(plain(text.partition("\n")[0]))
        return Text(plain(text), ended)


def _check_examples(asked: Prompts, settings: Build) -> None:
    if not settings.prompts and settings.language != "English":
        raise errors.InputError(
            f"variants: the shipped examples are in English, and {settings.language} is asked for; give prompts with examples "
            "in it"
        )
    for stage, own in (("scenes", asked.scenes), ("actions", asked.actions)):
        if not any(one.person in ("", settings.person) for one in own.examples):
            raise errors.InputError(
                f"variants: few-shot, and {settings.prompts or 'the prompts'} have no example of {stage} in the "
                f"{settings.person} person"
            )


def _parted(found: Pieces) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """What all prompts begin with, and what each has behind it, at least one token."""
    every, same = [tuple(found.tokens(i)) for i in range(len(found.which))], common(found)
    return every[0][:same], [own[same:] for own in every]


def _up(count: int) -> int:
    return -(-count // _WIDE) * _WIDE
