"""Ratings by the prefix tree against torch `transformers` on one checkpoint, in one process.

    python scripts/bench_elicit.py                                        # a random one
    python scripts/bench_elicit.py --model "$(scripts/real_checkpoint)"    # SmolLM2, behind its chat template and cue

The random checkpoint is that of `bench_models.py` (135 million parameters, float32). 24 actions are rated from the standpoint of
56 values each, behind a rubric with four examples. Against it stand two ways to do the same with torch:

    one by one    whole prompts in batches of 16, padded; some batches are timed and scaled
    prefix cache  the rubric once, each action's prefix once on a copy of its cache, then the 56 endings in one batch on
                  that cache repeated; some actions are timed and scaled

All three read the logits of the last place alone, and must agree on the log-probabilities of the options to 1e-3.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import pathlib
import tempfile
import time
import warnings
from typing import Any

import jax
import numpy as np
from bench_models import make_checkpoint

from vatjax import elicit, items, models, prompts
from vatjax.elicit import ask, prefill, protocols

BATCH, ROUNDS, BATCHES, ACTIONS = 16, 3, 2, 6


def make_tokenizer(folder: pathlib.Path) -> None:
    """Byte-level BPE of 8,000 tokens, trained on the bundled items; digits are tokens with a space and without."""
    import tokenizers
    import transformers

    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=8000,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    data = items.bundled()
    texts = [" ".join(data[i]) for i in range(0, len(data), 20)]
    inner.train_from_iterator([*texts, *[" 1 2 3 4 5"] * 1000, *data.taxonomy.names * 20], trainer)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    made.save_pretrained(folder)


def question() -> tuple[items.Items, list[prompts.Shot]]:
    """24 actions of two scenes, and four examples from elsewhere."""
    data = items.bundled()
    scenes = [scene for scene in data.scenes if scene.country == "Egypt"][:2]
    texts = {scene.text for scene in scenes}
    chosen = data.where(value=["Wealth", "Wisdom", "Social Power", "Loyalty", "Freedom", "Creativity"])
    chosen = chosen.take(np.array([scene in texts for scene in chosen.scene]))
    others = itertools.islice(data.where(country="Germany", value=["Pleasure", "Obedience"]), 4)
    shots = [
        prompts.Shot({"scene": i.scene, "action": i.action, "value": i.value}, 5 if i.polarity == "express" else 1)
        for i in others
    ]
    assert (len(chosen), len(shots)) == (24, 4)
    return chosen, shots


def one_by_one(model: Any, texts: list[list[int]], wanted: list[int]) -> tuple[float, np.ndarray]:
    """Seconds for all prompts, and log-probabilities of the first batches."""
    import torch

    found, spent = [], []
    for start in range(0, BATCHES * BATCH, BATCH):
        part = texts[start : start + BATCH]
        longest = max(map(len, part))
        ids = torch.tensor([[0] * (longest - len(text)) + text for text in part])
        mask = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in part])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        begun = time.perf_counter()
        logits = model(ids, attention_mask=mask, position_ids=positions, logits_to_keep=1).logits[:, -1]
        spent.append(time.perf_counter() - begun)
        found.append(logits.log_softmax(-1)[:, wanted].numpy())
    return min(spent) * len(texts) / BATCH, np.concatenate(found)


def prefix_cache(
    model: Any, rubric: list[int], texts: list[list[list[int]]], wanted: list[int]
) -> tuple[float, int, np.ndarray]:
    """Seconds for all actions, the tokens they compute, and log-probabilities of the first actions' values."""
    import torch

    def shared(texts: list[list[int]]) -> int:
        return next(
            (i for i, column in enumerate(zip(*texts, strict=False)) if len(set(column)) > 1), min(map(len, texts)) - 1
        )

    begun = time.perf_counter()
    trunk = model(torch.tensor([rubric]), use_cache=True, logits_to_keep=1).past_key_values
    first = time.perf_counter() - begun
    spent, tokens, found = [], len(rubric), []
    for number, action in enumerate(texts):
        depth = shared(action)
        prefix, endings = action[0][len(rubric) : depth], [text[depth:] for text in action]
        longest = max(map(len, endings))
        tokens += len(prefix) + longest * len(endings)
        if number >= ACTIONS:
            continue
        ids = torch.tensor([[0] * (longest - len(e)) + e for e in endings])
        mask = torch.tensor([[1] * depth + [0] * (longest - len(e)) + [1] * len(e) for e in endings])
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, depth:]
        begun = time.perf_counter()
        past = copy.deepcopy(trunk)
        past = model(torch.tensor([prefix]), past_key_values=past, use_cache=True, logits_to_keep=1).past_key_values
        past.batch_repeat_interleave(len(endings))
        out = model(ids, attention_mask=mask, position_ids=positions, past_key_values=past, logits_to_keep=1)
        spent.append(time.perf_counter() - begun)
        found.append(out.logits[:, -1].log_softmax(-1)[:, wanted].numpy())
    return first + float(np.median(spent)) * len(texts), tokens, np.concatenate(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder in Hugging Face's layout, in place of random weights")
    given = parser.parse_args()
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    data, shots = question()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.model or scratch
        if not given.model:
            make_checkpoint(pathlib.Path(scratch))
            make_tokenizer(pathlib.Path(scratch))
        model = models.load(folder)
        other = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    how = prefill.resolve_prefill(model, elicit.ElicitConfig("dense"))
    rows = list(protocols.make_questions(data, "dense").rows)
    (made,) = ask.build_prompts(rows, how, elicit.Condition(shots), ask.chat_format(model, how))
    found, ways = ask.tokenize_with_spellings(model, made, how)
    texts = [found.tokens(i) for i in range(len(made))]
    actions = [texts[i : i + 56] for i in range(0, len(texts), 56)]
    assert all(len(way.tokens) == 1 for way in ways), "an answer of several tokens is not compared here"
    wanted = [way.tokens[0] for way in ways]
    rubric = texts[0][: next(i for i, column in enumerate(zip(*texts, strict=False)) if len(set(column)) > 1)]

    def rate_all() -> elicit.Rated:
        return elicit.ratings(model, data, how, shots=shots)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        rated = rate_all()
        print(f"first run, with compilation {time.perf_counter() - start:.1f} s", flush=True)
        ours, alone, cached = [], [], []
        with torch.no_grad():
            for _ in range(ROUNDS):
                start = time.perf_counter()
                rated = rate_all()
                ours.append(time.perf_counter() - start)
                seconds, first = one_by_one(other, texts, wanted)
                alone.append(seconds)
                seconds, computed, second = prefix_cache(other, rubric, actions, wanted)
                cached.append(seconds)
    gap = 0.0
    for theirs in (first, second):
        share = np.zeros((len(theirs), 5))
        for column, way in enumerate(ways):
            share[:, way.answer] += np.exp(theirs[:, column].astype(np.float64))
        gap = max(gap, float(np.abs(np.log(rated.shares[0, : len(theirs)]) - np.log(share)).max()))
    assert gap < 1e-3, f"the ways to ask disagree by {gap:.1e}"
    cost, count = rated.cost, len(texts)
    mine, one, cache = min(ours), min(alone), min(cached)
    print(f"{count:,} ratings, {cost.distinct:,} distinct tokens, {cost.full:,} in full prompts; agreement {gap:.1e}")
    print(f"distinct-token efficiency    {cost.distinct / cost.computed:.3f} of {cost.computed:,} computed tokens")
    print(f"vatjax                       {mine:7.2f} s  {count / mine:7.1f} ratings/s")
    print(f"torch, one by one            {one:7.2f} s  {count / one:7.1f} ratings/s  ratio {one / mine:.1f}")
    print(
        f"torch, prefix cache          {cache:7.2f} s  {count / cache:7.1f} ratings/s  ratio {cache / mine:.2f}; it computes "
        f"{computed:,} tokens, {computed / cost.computed:.2f} x ours"
    )
    print(f"devices: {len(jax.devices())} {jax.default_backend()}, {torch.get_num_threads()} torch threads")


if __name__ == "__main__":
    main()
