"""Text to tokens: `transformers`' tokenizers and chat templates, with one BOS, padding on either side, and a mask."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from vatjax import errors
from vatjax.models import hub, templates
from vatjax.models.config import Config

Message = Mapping[str, str]


class Batch(NamedTuple):
    """Texts as tokens.

    Attributes:
        tokens: [batch, time] int32.
        mask: [batch, time] int32, 0 for padding.
    """

    tokens: np.ndarray
    mask: np.ndarray


def load_tokenizer(folder: Path | str) -> Any:
    """Loads the tokenizer of a checkpoint; None if the folder has none. Never runs code from the folder."""
    folder = Path(folder)
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        if (folder / "tokenizer_config.json").exists():
            raise errors.InputError(f"{folder}: a tokenizer_config.json, and no tokenizer.json or vocabulary with it")
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        _check_normalizer(tokenizer, folder)
        return tokenizer
    except errors.InputError:
        raise
    except Exception as error:
        if not (folder / "tokenizer.json").exists() and importlib.util.find_spec("sentencepiece") is None:
            raise errors.InputError(
                f"{folder}: to read its tokenizer.model, install sentencepiece: pip install 'vatjax[sentencepiece]'"
            ) from None
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise errors.InputError(f"{folder}: its tokenizer can't be read ({first})") from None


# How much longer the replacements of a tokenizer may make a text, all together, and how many of them there may be.
_MOST_GROWTH, _MOST_STEPS = 64, 100


def _check_normalizer(tokenizer: Any, folder: Path) -> None:
    """Raises InputError for a normalizer or decoder that would blow a text up: replacements may follow one another."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    for name in ("normalizer", "decoder"):
        part = getattr(backend, name, None)
        pending = [json.loads(part.__getstate__())] if part is not None else []
        growth, steps = 1.0, 0
        while pending:
            entry = pending.pop()
            pending += [*(entry.get("normalizers") or []), *(entry.get("decoders") or [])]
            pattern = entry.get("pattern")
            literal = pattern.get("String") if isinstance(pattern, dict) else None
            content = entry.get("content") if pattern is not None else entry.get("prepend")
            if isinstance(content, str):
                # A regular expression may match nothing, between all characters.
                growth *= max(1, len(content) / len(literal)) if literal else 1 + len(content)
            steps += 1
        if growth > _MOST_GROWTH or steps > _MOST_STEPS:
            raise errors.InputError(
                f"{folder}: the {name} of its tokenizer has {steps:,} steps and can make a text {growth:,.3g} times as long; "
                f"at most {_MOST_STEPS} and {_MOST_GROWTH} are expected"
            )


def check_tokenizer(tokenizer: Any, config: Config, path: str) -> None:
    """Raises InputError for a tokenizer whose tokens the model has no embeddings for.

    Tokens that were added to it may lie beyond (Gemma 3's text models lack the image token of their tokenizer): they
    are refused when a text contains one.
    """
    if tokenizer is not None and tokenizer.vocab_size > config.vocabulary:
        raise errors.InputError(
            f"{path}: its tokenizer has {tokenizer.vocab_size:,} tokens, its model embeddings for "
            f"{config.vocabulary:,}; they belong to different models"
        )


def render_chat(tokenizer: Any, messages: Sequence[Message], **options: Any) -> str:
    """Renders messages with the model's chat template, up to where its answer begins.

    Args:
        tokenizer: of the model.
        messages: each with `role` and `content`.
        options: of the template, such as `enable_thinking=False`.
    """
    return _templated(tokenizer, messages, True, options)


def _templated(tokenizer: Any, messages: Sequence[Message], answering: bool, options: Mapping[str, Any]) -> str:
    if getattr(tokenizer, "chat_template", None) is None:
        name = getattr(tokenizer, "name_or_path", "") or "this tokenizer"
        raise errors.InputError(f"{name}: no chat template; give plain text, as to a base model")
    name = str(getattr(tokenizer, "name_or_path", ""))
    return templates.render(
        tokenizer.get_chat_template(),
        [{key: value for key, value in message.items() if value is not None} for message in messages],
        answering,
        {**tokenizer.special_tokens_map, **options},
        trusted=name == str(hub.POCKET_FOLDER),
    )


def render_conversation(tokenizer: Any, messages: Sequence[Message], **options: Any) -> str:
    """Renders a whole conversation with the model's chat template; arguments as in `render_chat`."""
    return _templated(tokenizer, messages, False, options)


def turn_end(tokenizer: Any, **options: Any) -> str:
    """Returns the text that the model's chat template writes after an answer."""
    mark = "\u2063answer\u2063"
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}]
    return _templated(tokenizer, messages, False, options).partition(mark)[2]


def tokenize(tokenizer: Any, texts: str | Sequence[str], add_special_tokens: bool = False, **options: Any) -> Any:
    """Calls a tokenizer, and reports a failure within its compiled code, such as of a regular expression, as an InputError.

    Args:
        tokenizer: of the model.
        texts: one or more.
        add_special_tokens, options: of the tokenizer.
    """
    try:
        return tokenizer(texts, add_special_tokens=add_special_tokens, **options)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of pyo3, and no Exception
            raise
        raise errors.InputError(f"the tokenizer failed on a text ({str(error).splitlines()[0][:200]})") from None


def encode(tokenizer: Any, text: str, templated: bool = False, config: Config | None = None) -> list[int]:
    """Returns the tokens of one text, with the tokenizer's BOS in front exactly once.

    A chat template writes the BOS into its text if the model needs one, and the tokenizer would put another in front of
    it: two of them make a text that the model never saw.

    Args:
        tokenizer: of the model.
        text: the text.
        templated: whether a chat template made it: then nothing is added.
        config: of the model; if given, a text that is too long for it is refused, and so are tokens without embeddings.
    """
    begin = tokenizer.bos_token
    written = templated or (bool(begin) and text.startswith(begin))
    ids: list[int] = tokenize(tokenizer, text)["input_ids"]
    if not written and _puts_bos(tokenizer):
        ids = [tokenizer.bos_token_id, *ids]
    if config is not None and len(ids) > config.context:
        raise errors.InputError(
            f"a text of {len(ids):,} tokens is longer than the model's context of {config.context:,}"
        )
    if config is not None and max(ids, default=0) >= config.vocabulary:
        strange = tokenizer.convert_ids_to_tokens(max(ids))
        raise errors.InputError(f"the model has no embedding for the token {strange!r}")
    return ids


def _puts_bos(tokenizer: Any) -> bool:
    """Returns True if the tokenizer itself puts a BOS in front.

    An EOS that it puts at the end is left out: a prompt goes on.
    """
    begin = tokenizer.bos_token_id
    return begin is not None and tokenize(tokenizer, "a", add_special_tokens=True)["input_ids"][:1] == [begin]


def encode_continuation(tokenizer: Any, before: str, text: str) -> list[int] | None:
    """Returns the tokens of a text as they are after another one; None if a token spans the seam.

    Alone, a text may have other tokens: SentencePiece puts a mark for a space in front of the first word.

    Args:
        tokenizer: of the model.
        before: the end of the preceding text, enough for the tokenizer to see a boundary.
        text: the text.
    """
    first, both = (tokenize(tokenizer, part)["input_ids"] for part in (before, before + text))
    return both[len(first) :] if both[: len(first)] == first else None


def pad_batch(
    texts: Sequence[Sequence[int]],
    pad: int = 0,
    side: Literal["left", "right"] = "right",
    min_length: int = 0,
    multiple: int = 1,
) -> Batch:
    """Pads token lists to one batch.

    Args:
        texts: token ids.
        pad: the id of padding, which the mask marks.
        side: where padding goes; generation needs it on the left.
        min_length: the least length.
        multiple: the length is rounded up to a multiple of it: batches of similar length share compilations.
    """
    longest = -(-max([min_length, *map(len, texts)]) // multiple) * multiple
    tokens = np.full((len(texts), longest), pad, np.int32)
    mask = np.zeros((len(texts), longest), np.int32)
    for row, text in enumerate(texts):
        place = slice(longest - len(text), longest) if side == "left" else slice(0, len(text))
        tokens[row, place], mask[row, place] = text, 1
    return Batch(tokens, mask)
