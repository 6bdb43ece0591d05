"""Ratings under 16 edits at one time against 16 runs, and directions for many values; paired, in one process.

    python scripts/bench_edits.py

The checkpoint is that of `bench_models.py` (135 million parameters, float32). One set of prompts is rated under 16
vectors in one layer: at the bottom, in the middle, at the top. Both ways must agree to 1e-4; each is timed warm, its
programs having been compiled before; and the compilations of both are counted, cold.
"""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench_elicit import make_tokenizer
from bench_models import make_checkpoint

from vatjax import edits, items, models, prompts
from vatjax.edits import pairs
from vatjax.elicit import ElicitConfig, ask, protocols
from vatjax.models import Edit, Model
from vatjax.prefix import score_edits, scorer

EDITS, ROUNDS = 16, 3


def rating_prompts(model: Model, actions: int) -> Any:
    """Prompts of some actions, and the ways to answer them."""
    data = items.bundled().where(country="Egypt", value=["Wealth", "Wisdom", "Social Power", "Loyalty"])
    rows = list(protocols.make_questions(data, "paired").rows)[:actions]
    how = ElicitConfig()
    made = prompts.assemble(rows, how.wordings()[0], how.scales()[0], chat=ask.chat_format(model, how))
    return ask.tokenize_with_spellings(model, made, how)


def vectors(model: Model, layer: int) -> list[Edit]:
    """Edits of one layer."""
    shape = (EDITS, model.config.layers, model.config.width)
    drawn = np.random.default_rng(layer).normal(scale=0.1, size=shape).astype(np.float32)
    return [Edit(jnp.float32(1), residual=jnp.asarray(one)).only_layers([layer]) for one in drawn]


def apart(model: Model, asked: Any, made: Sequence[Edit]) -> np.ndarray:
    """Each edit by itself, [edits, prompts, answers]."""
    found, ways = asked
    logs = []
    for edit in made:
        own = np.full((len(found.which), len({way.answer for way in ways})), np.nan)
        for shard in scorer.score(model, found, ways, edit):
            own[shard.prompts] = shard.log_probs
        logs.append(own)
    return np.stack(logs)


def timed(run: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Seconds and the result."""
    start = time.perf_counter()
    found = run(*arguments)
    return time.perf_counter() - start, found


def compilations(run: Callable[..., Any], *arguments: Any) -> int:
    """How many programs are compiled, from empty caches."""
    jax.clear_caches()
    count, listening = [0], [True]

    def heard(event: str, *_: Any, **__: Any) -> None:
        count[0] += bool(listening) and event.endswith("backend_compile_duration")

    jax.monitoring.register_event_duration_secs_listener(heard)
    run(*arguments)
    listening.clear()
    return count[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actions", type=int, nargs="+", default=[8, 24])
    parser.add_argument("--pairs", type=int, default=10, help="of each of 56 values, for the directions")
    given = parser.parse_args()
    print(f"{jax.default_backend()}, {jax.device_count()} device(s), {os.cpu_count()} cores", flush=True)
    with tempfile.TemporaryDirectory() as where:
        folder = pathlib.Path(where)
        make_checkpoint(folder)
        make_tokenizer(folder)
        model = models.load(folder)
    layers = model.config.layers
    middle = vectors(model, layers // 2)
    asked = rating_prompts(model, given.actions[0])
    programs = [compilations(run, model, asked, middle) for run in (apart, together_)]
    print(f"programs compiled: {programs[0]} apart, {programs[1]} together", flush=True)
    for actions in given.actions:
        asked = rating_prompts(model, actions)
        for layer in (0, layers // 2, layers - 2):
            made = vectors(model, layer)
            ratios = []
            for number in range(ROUNDS + 1):
                slow, one = timed(apart, model, asked, made)
                fast, other = timed(together_, model, asked, made)
                assert np.abs(np.exp(one) - np.exp(other)).max() < 1e-4
                ratios += [slow / fast] if number else []  # the first round compiles
            shown = " ".join(f"{ratio:.2f}" for ratio in ratios)
            print(
                f"{actions:3d} prompts, layer {layer:2d} of {layers}: {np.median(ratios):.2f} x ({shown})", flush=True
            )
    extraction(model, given.pairs)


def together_(model: Model, asked: Any, made: Sequence[Edit]) -> np.ndarray:
    """All edits at one time, [edits, prompts, answers]."""
    return score_edits.score_edits(model, *asked, made)


def extraction(model: Model, count: int) -> None:
    """Directions of all values from one pass over the distinct tokens of their pairs."""
    data = items.bundled()
    names = data.taxonomy.names
    prepared = [
        pairs.tokenize_pairs(model, data, name, 1, "acted", count, ElicitConfig(), 0.25, 0).prompts for name in names
    ]
    whole = pairs.concat_prompts(prepared)
    cost = scorer.plan_prompts(model, [(whole, (scorer.Spelling((0,), 0),))], scorer.size_for(model))[0].plan.cost
    spent, found = timed(functools.partial(edits.contrasts, pairs=count), model, data, names)
    print(
        f"{len(found)} values, {count} pairs each: {spent:.0f} s; {cost.full:,} tokens in full, {cost.distinct:,} distinct, "
        f"{cost.computed:,} computed"
    )


if __name__ == "__main__":
    main()
