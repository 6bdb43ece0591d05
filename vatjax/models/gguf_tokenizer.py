"""The tokenizer of a GGUF file: its vocabulary and merges as one of `tokenizers`, without torch.

Byte-level BPE ("gpt2") splits words by a regular expression that llama.cpp keeps by name. SentencePiece ("llama") keeps
scores, from which its merges follow: a piece is merged from any two others that it is made of, the best score first. Gemma's
scores do not follow its merges: the order of its pieces does. As in llama.cpp a space is put before each stretch of text
between control tokens, if the file asks for one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vatjax import errors, names

_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# llama.cpp's name -> how text is split before merges: a pattern, whether digits stand alone, whether whole words of the
# vocabulary are taken without merging.
_SPLITS: Mapping[str, tuple[str, bool, bool]] = {
    "default": (_GPT2, False, False),
    "gpt-2": (_GPT2, False, False),
    "smollm": (_GPT2, True, False),
    "llama-bpe": (_LLAMA3, False, True),
    "llama3": (_LLAMA3, False, True),
    "qwen2": (_QWEN2, False, False),
    "deepseek-r1-qwen": (_QWEN2, False, False),
}
_UNKNOWN, _CONTROL, _USER, _BYTE = 2, 3, 4, 6
_SPACE = "\u2581"


def build_tokenizer(facts: Mapping[str, Any], path: str) -> Any:
    """Returns the tokenizer that a file's metadata describe, as one of transformers; None if they describe none.

    Args:
        facts: the metadata.
        path: names the file in messages.
    """
    kind = facts.get("tokenizer.ggml.model")
    if kind is None:
        return None
    if kind not in ("gpt2", "llama"):
        raise errors.InputError(f"{path}: {names.unknown_name('tokenizer', str(kind), ['gpt2', 'llama'])}")
    needed = ("tokens", "merges") if kind == "gpt2" else ("tokens", "scores")
    lacking = [f"tokenizer.ggml.{name}" for name in needed if f"tokenizer.ggml.{name}" not in facts]
    if lacking:
        raise errors.InputError(f"{path}: the tokenizer lacks {', '.join(lacking)}")
    import transformers

    pieces: list[str] = list(facts["tokenizer.ggml.tokens"])
    if str(facts.get("general.architecture")).startswith("gemma"):  # runs of spaces are stored as they are
        pieces = [_SPACE * len(piece) if piece.isspace() and set(piece) == {" "} else piece for piece in pieces]
    bpe = _byte_level(facts, pieces, path) if kind == "gpt2" else _sentence_piece(facts, pieces)
    _add_tokens(bpe, facts, pieces)
    special = {
        name: pieces[token]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if (token := facts.get(f"tokenizer.ggml.{key}_token_id")) is not None and 0 <= token < len(pieces)
    }
    if special.get("bos") and facts.get("tokenizer.ggml.add_bos_token", kind == "llama"):
        from tokenizers import processors

        token = special["bos"]
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, pieces.index(token))]
        )
    wrapper: Any = transformers.PreTrainedTokenizerFast
    wrapped = wrapper(
        tokenizer_object=bpe,
        clean_up_tokenization_spaces=False,
        **{f"{name}_token": token for name, token in special.items()},
    )
    template = facts.get("tokenizer.chat_template")
    if template:
        wrapped.chat_template = template
    return wrapped


def _byte_level(facts: Mapping[str, Any], pieces: list[str], path: str) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    split = str(facts.get("tokenizer.ggml.pre", "default"))
    if split not in _SPLITS:
        raise errors.InputError(
            f"{path}: tokenizer.ggml.pre: {names.unknown_name('way to split words', split, list(_SPLITS))}"
        )
    pattern, digits, whole = _SPLITS[split]
    merges = [tuple(merge.split(" ", 1)) for merge in facts["tokenizer.ggml.merges"]]
    bpe = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, ignore_merges=whole))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    if pattern == _GPT2:
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True))
    else:
        steps.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(steps)
    bpe.decoder = decoders.ByteLevel()
    if pattern == _QWEN2:
        bpe.normalizer = normalizers.NFC()
    return bpe


def _sentence_piece(facts: Mapping[str, Any], pieces: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    gemma = str(facts.get("general.architecture")).startswith("gemma")
    scores = [-i for i in range(len(pieces))] if gemma else facts["tokenizer.ggml.scores"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    unknown = facts.get("tokenizer.ggml.unknown_token_id", 0)
    bpe = Tokenizer(
        models.BPE(
            vocabulary,
            _merges(pieces, scores, vocabulary),
            unk_token=pieces[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = bool(facts.get("tokenizer.ggml.add_space_prefix", not gemma))
    before = [normalizers.Prepend(_SPACE)] if prefix else []
    bpe.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", _SPACE)])
    after = [decoders.Strip(" ", 1, 0)] if prefix else []
    bpe.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *after])
    return bpe


def _merges(pieces: list[str], scores: Sequence[float], vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """Returns every way to make a piece of two others, in the order of the piece's score, then of the parts' places."""
    scored = []
    for piece, score in zip(pieces, scores, strict=True):
        ways = [
            (piece[:cut], piece[cut:])
            for cut in range(1, len(piece))
            if piece[:cut] in vocabulary and piece[cut:] in vocabulary
        ]
        ways.sort(key=lambda way: (vocabulary[way[0]], vocabulary[way[1]]))
        scored += [(way, score) for way in ways]
    return [way for way, _ in sorted(scored, key=lambda entry: -entry[1])]


def _add_tokens(bpe: Any, facts: Mapping[str, Any], pieces: list[str]) -> None:
    """Adds control tokens, and tokens that are taken whole wherever they occur."""
    from tokenizers import AddedToken

    kinds = facts.get("tokenizer.ggml.token_type") or [1] * len(pieces)
    control = [piece for piece, kind in zip(pieces, kinds, strict=True) if kind in (_CONTROL, _UNKNOWN)]
    user = [piece for piece, kind in zip(pieces, kinds, strict=True) if kind == _USER]
    bpe.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in control])
    bpe.add_tokens([AddedToken(piece, normalized=False, special=False) for piece in user])
