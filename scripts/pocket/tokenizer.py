"""The organism's tokenizer: one token for each phrase that bundled texts are put together from.

A situation is about four tokens long and an action about three, so that a sequence of nine rated actions has some 130
tokens. Whatever is no known phrase falls to words, characters and bytes.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from typing import Any

from vatjax import prompts
from vatjax.prompts.wording import wordings
from vatjax.values import schwartz

SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# Wordings and instructions that are never trained on: their texts are words that others have too.
HELD_OUT = {"paired": "advise", "dense": "meaning", "stated": "meaning", "choice": "likely", "acting": "story"}
HELD_OUT_INSTRUCTION = "guided"

_SLOT = re.compile(r"\{city\}, \{country\}|\{\w+\}")
_WORD = re.compile(r" ?[A-Za-z][A-Za-z'-]*")


def make(parts: Any) -> Any:
    """The tokenizer, as `transformers` has it.

    Args:
        parts: what items are made of: `places`, `topics`, `actions`.
    """
    import tokenizers
    import transformers

    pieces = dict.fromkeys([*_phrases(parts), *_words(parts), *map(chr, range(32, 127)), "\n"])
    table = [(piece, 0.0) for piece in SPECIAL]
    table += [(f"<0x{byte:02X}>", -40.0) for byte in range(256)]
    # The fewest pieces win; between as many, those of which one is longest.
    table += [(piece, -10.0 + 1e-4 * len(piece) ** 2 / 100) for piece in pieces]
    inner = tokenizers.Tokenizer(tokenizers.models.Unigram(table, unk_id=0, byte_fallback=True))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Split("\n", "isolated")
    inner.decoder = tokenizers.decoders.Sequence([tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()])
    inner.add_special_tokens([tokenizers.AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=SPECIAL[0], eos_token=SPECIAL[1], clean_up_tokenization_spaces=False
    )
    made.chat_template = TEMPLATE
    return made


def _phrases(parts: Any) -> Iterator[str]:
    """Texts cut at their slots, and what fills the slots."""
    for place in parts.places:
        yield from (f"{city}, {place.country}" for city in place.cities)
        yield from (*place.cities, place.country, place.council, place.worship, place.feast)
    for topic in parts.topics:
        yield topic.topic
        for situation in topic.situations:
            yield from _cut(situation.text)
            yield from (situation.task, situation.matter, situation.people)
    for action in parts.actions:
        for text in (*action.express, *action.suppress):
            yield from _cut(text)
    taxonomy = schwartz()
    yield from (*taxonomy.names, *taxonomy.types, *taxonomy.groups, *taxonomy.definitions)
    for _, wording in trained():
        yield from (piece for text in (wording.system, *wording.levels) for piece in _cut(text))
        yield from (wording.weak, wording.strong)
    for name, instruction in prompts.instructions().items():
        if name != HELD_OUT_INSTRUCTION:
            yield from (piece for text in (instruction.towards, instruction.away) for piece in _cut(text))


def _words(parts: Any) -> Iterator[str]:
    """Words with the space before them, of everything that the model can be asked."""
    for wording in _all_wordings():
        for text in (wording.system, wording.weak, wording.strong, wording.answer, *wording.levels):
            yield from (word for piece in _cut(text) for word in _WORD.findall(piece))
    for instruction in prompts.instructions().values():
        for text in (instruction.towards, instruction.away):
            yield from (word for piece in _cut(text) for word in _WORD.findall(piece))
    yield from (f" {option}" for option in (*range(10), "A", "B"))


def _cut(text: str) -> list[str]:
    return [piece for part in text.split("\n") for piece in _SLOT.split(part) if piece]


def protocols() -> dict[str, dict[str, prompts.Wording]]:
    """Every protocol's wordings by name."""
    known = {name: wordings(name) for name in ("paired", "dense", "stated")}
    folder = pathlib.Path(prompts.__file__).parent
    return {**known, **{name: prompts.read_wordings(folder / f"{name}.yaml") for name in ("choice", "acting")}}


def trained() -> Iterator[tuple[str, prompts.Wording]]:
    """Each protocol with each wording that is trained on."""
    for protocol, known in protocols().items():
        yield from ((protocol, one) for name, one in known.items() if name != HELD_OUT[protocol])


def _all_wordings() -> Iterator[prompts.Wording]:
    for known in protocols().values():
        yield from known.values()
