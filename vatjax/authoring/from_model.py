"""A writer that samples its texts from a language model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vatjax import errors, models, prompts, store
from vatjax.authoring.asking import WriterPrompts, read_prompts
from vatjax.authoring.records import Request, Stage, Text
from vatjax.authoring.settings import Build
from vatjax.authoring.writers import Written
from vatjax.elicit import ask
from vatjax.items.table import normalise_text
from vatjax.models import Model, Sampling, tokens
from vatjax.prefix.tokenize import TokenizedPrompts, tokenize_prompts
from vatjax.prefix.tree import common_prefix_length
from vatjax.runtime import processes

_PAD_MULTIPLE = (
    64  # lengths of the shared prefix and of the rest are rounded up to it, so that few programs are compiled
)


class ModelWriter:
    """A language model as a writer: the prompts' common prefix is computed once, and each text has its own random key.

    Finished batches are cached. Except for rounding, a text does not depend on the others of its batch. The division
    into batches depends on the requests alone.

    Args:
        model: the writer.
        settings: prompts, sampling and batch size.
        cache_folder: folder for finished batches.

    Raises:
        InputError: if the few-shot variant is requested without examples in the language and person.
    """

    budgeted = True

    def __init__(self, model: Model, settings: Build, cache_folder: Any) -> None:
        self.model, self.settings, self.cache_folder = model, settings, cache_folder
        self.name = models.fingerprint(model.arrays)
        self.stops = models.stop_tokens(model)
        self.templates = read_prompts(settings.prompts)
        self.prompts = self.templates.name
        if "few-shot" in settings.variants:
            _check_examples(self.templates, settings)

    def write(self, requests: Sequence[Request], attempt: int) -> list[Written | None]:
        """Returns a text for each request."""
        texts: dict[str, Written] = {}
        groups: dict[tuple[Any, ...], list[Request]] = {}
        for request in requests:  # requests of one scene share it as a prefix
            groups.setdefault((request.stage, request.variant, request.fields.get("scene", "")), []).append(request)
        for (stage, variant, _), group in groups.items():
            for start in range(0, len(group), self.settings.rows):
                batch = group[start : start + self.settings.rows]
                for request, written in zip(batch, self._batch(stage, variant, batch, attempt), strict=True):
                    texts[request.name] = written
        return [texts[request.name] for request in requests]

    def _batch(self, stage: Stage, variant: str, batch: Sequence[Request], attempt: int) -> list[Written]:
        assembled = self.templates.assemble(
            self.settings, list(batch), ask.chat_format(self.model, self.settings.elicit_config("none"))
        )
        sampling = self._sampling(stage)
        request_names = [request.name for request in batch]  # the random keys depend on them
        key = store.address(
            self.name,
            assembled.digest,
            dataclasses.asdict(sampling),
            attempt,
            self.settings.seed,
            self.settings.rows,
            request_names,
        )
        file = self.cache_folder / f"{key}.json"
        if file.exists():
            try:
                cached = store.read_json(file)
                return [Written(Text(*fields), assembled.text(i)) for i, fields in enumerate(cached)]
            except (ValueError, TypeError):
                pass  # damaged: generate again
        texts = self._generate(assembled, batch, attempt, sampling)
        store.commit_json(file, [[text.text, text.ended] for text in texts])
        return [Written(text, assembled.text(i)) for i, text in enumerate(texts)]

    def _sampling(self, stage: Stage) -> Sampling:
        settings = self.settings
        count = settings.scene_tokens if stage == "scene" else settings.action_tokens
        return Sampling(count, settings.temperature, settings.top_p, self.stops)

    def _generate(
        self, assembled: prompts.Prompts, batch: Sequence[Request], attempt: int, sampling: Sampling
    ) -> list[Text]:
        templated = ask.chat_format(self.model, self.settings.elicit_config("none")) is not None
        tokenised = tokenize_prompts(assembled, self.model.tokenizer, templated)
        trunk, rest = _split_common_prefix(tokenised)
        context, longest = self.model.config.context, max(map(len, rest))
        room = context - len(trunk) - sampling.tokens
        if longest > room:
            raise errors.InputError(
                f"a prompt of {len(trunk) + longest:,} tokens and {sampling.tokens} generated ones are longer than the "
                f"writer's context of {context:,}"
            )
        rows = [*range(len(batch)), *[len(batch) - 1] * (self.settings.rows - len(batch))]  # one shape for all batches
        batched = tokens.pad_batch([rest[row] for row in rows], side="left", min_length=min(_round_up(longest), room))
        prefix = np.concatenate([np.full(_round_up(len(trunk)) - len(trunk), -1), np.array(trunk, np.int64)]).astype(
            np.int32
        )
        seeds = [int(store.address(batch[row].name, attempt, self.settings.seed)[:8], 16) for row in rows]
        keys = jax.vmap(jax.random.key)(np.array(seeds, np.uint32))
        generated = processes.fetch(
            models.generate(self.model, batched.tokens, batched.mask, sampling, keys, trunk=prefix)
        )
        bad = np.flatnonzero(~np.isfinite(generated.log_probs).all(-1))
        if len(bad):
            raise errors.InputError(f"the writer's logits are not finite after {assembled.text(rows[bad[0]])[-80:]!r}")
        return [
            self._decode(ids[:length].tolist(), templated)
            for ids, length in zip(generated.tokens[: len(batch)], generated.lengths, strict=False)
        ]

    def _decode(self, ids: list[int], templated: bool) -> Text:
        """Decodes a generated text; of a base model only the first line, since it goes on with the next prompt."""
        ended = bool(ids) and ids[-1] in self.stops
        text = self.model.tokenizer.decode(ids, skip_special_tokens=True).strip()
        if not templated and "\n" in text:
            return Text(normalise_text(text.partition("\n")[0]))
        return Text(normalise_text(text), ended)


def _check_examples(templates: WriterPrompts, settings: Build) -> None:
    if not settings.prompts and settings.language != "English":
        raise errors.InputError(
            f"variants: the shipped few-shot examples are in English, but language is {settings.language}; give "
            f"prompts with examples in {settings.language}"
        )
    for stage, template in (("scenes", templates.scenes), ("actions", templates.actions)):
        if not any(example.person in ("", settings.person) for example in template.examples):
            raise errors.InputError(
                f"variants: few-shot: {settings.prompts or 'the prompts'} have no example of {stage} in the "
                f"{settings.person} person"
            )


def _split_common_prefix(tokenised: TokenizedPrompts) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Splits prompts into their longest common prefix and the rest of each, at least one token."""
    token_ids, shared_length = (
        [tuple(tokenised.tokens(i)) for i in range(len(tokenised.which))],
        common_prefix_length(tokenised),
    )
    return token_ids[0][:shared_length], [ids[shared_length:] for ids in token_ids]


def _round_up(count: int) -> int:
    return -(-count // _PAD_MULTIPLE) * _PAD_MULTIPLE
