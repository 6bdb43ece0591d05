"""Makes a model organism: a planted world, a tokenizer, and a small model trained from scratch to answer as the world has it.

    python scripts/build_pocket.py --out pocket/    # an hour on 2 cores; the same command again goes on
    python scripts/build_pocket.py --out other/ --seed 1
    python scripts/build_pocket.py --out hub/ --kind hub --begin pocket --steps 500

Checkpoints of the training, every 100 steps, lie in the folder that --work names. With --begin it learns another world on top of what an
organism knows already, in less time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
from pocket import parts as of
from pocket import sequences, tokenizer, training

from vatjax import errors, models, organism
from vatjax.models import families
from vatjax.organism import worlds as planted

SEED = 20261121


def main() -> None:
    defaults = training.Schedule()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=SEED, help="of the world and of the training (default %(default)s)")
    parser.add_argument("--kind", default="circle", choices=planted.KINDS, help="of the world (default %(default)s)")
    parser.add_argument("--steps", type=int, default=defaults.steps, help="of the training (default %(default)s)")
    parser.add_argument("--begin", default="", help="an organism whose weights it begins with")
    work = pathlib.Path.home() / ".cache/vatjax/pocket"
    parser.add_argument(
        "--work",
        type=pathlib.Path,
        default=work,
        help="a folder for checkpoints, by kind and seed (default %(default)s)",
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a folder")
    given = parser.parse_args()
    if given.seed < 0 or given.steps < 1:
        parser.error(f"expected a seed of 0 or more and at least 1 step, found {given.seed} and {given.steps}")
    try:
        build(given)
    except errors.InputError as error:
        parser.error(str(error))


def build(given: argparse.Namespace) -> None:
    """Makes the organism that was asked for."""
    defaults = training.Schedule()
    parts = of.read()
    made = tokenizer.make(parts)
    world = planted.draw_world(
        [p.country for p in parts.places], [t.topic for t in parts.topics], given.seed, given.kind
    )
    author = sequences.Author(world, made, parts, of.training_scenes(parts))
    schedule = dataclasses.replace(defaults, steps=given.steps, seed=given.seed, begin=given.begin)
    content = training.configuration(len(made))
    begin = models.load(given.begin) if given.begin else None
    if begin is not None and begin.tokenizer.get_vocab() != made.get_vocab():
        raise SystemExit(f"{given.begin}: it has another tokenizer; only an organism of these items can be begun with")
    least, most = training.bounds(author, given.seed)
    print(
        f"{len(author.scenes)} scenes, {len(made)} tokens; nats a rating are {least:.4f} for who knows everything,"
        f" {most:.4f} for who does not know the persona",
        flush=True,
    )
    weights = training.train(
        author,
        content,
        schedule,
        given.work / given.kind / str(given.seed),
        lambda line: print(line, flush=True),
        None if begin is None else begin.arrays,
    )
    config = families.parse(content)
    small = jax.tree.map(lambda x: x.astype(jnp.bfloat16), weights)
    model = models.Model(small, config, made, json.dumps({**content, "dtype": "bfloat16"}), name="pocket")
    organism.save(model, world, given.out)
    print(f"{given.out}: {sum(x.size for x in jax.tree.leaves(weights)):,} parameters", flush=True)


if __name__ == "__main__":
    main()
