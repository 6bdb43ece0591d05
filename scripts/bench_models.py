"""Ratios of the decoder against torch `transformers` on one random checkpoint, each pair timed in turn in one process.

    python scripts/bench_models.py               # prefill, decoding, compiling, loading; some minutes
    python scripts/bench_models.py --only loading

The checkpoint is a Llama of 135 million parameters (30 layers, width 576, 9 heads, 3 KV heads, MLP 1536, vocabulary
49,152) in float32. Prefill gives the logits of the last place, as generation wants them; decoding is greedy, with a cache,
and its time includes the pass over its short prompts. Loading takes a random checkpoint of 1.5 GB, and prints the most
memory that was in use beyond the arrays that it ends with, against what one layer's tensors take.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vatjax import models
from vatjax.models import decoder, families, safetensors
from vatjax.models import weights as wt

SHAPE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LARGE = {"hidden_size": 1536, "num_attention_heads": 12, "num_key_value_heads": 4, "intermediate_size": 4096}
BATCH, PROMPT, WRITTEN, SHORT, ROUNDS = 8, 512, 64, 32, 3


def make_checkpoint(folder: pathlib.Path, **changes: Any) -> None:
    """A random checkpoint, written tensor by tensor."""
    shape = {**SHAPE, **changes}
    (folder / "config.json").write_text(json.dumps(shape))
    random = np.random.default_rng(0)
    pending = []
    config = families.parse(shape)
    for parameter in wt.parameters(config):
        stored = parameter.shape if parameter.name == "embedding" else parameter.shape[::-1]
        for layer in range(config.layers) if parameter.stacked else (0,):

            def make(size: tuple[int, ...] = stored) -> np.ndarray:
                if len(size) == 1:
                    return np.ones(size, np.float32)
                return random.standard_normal(size, np.float32) * np.float32(0.02)

            name = parameter.source.format(layer)
            pending.append(safetensors.Pending(name, np.dtype(np.float32), stored, make))
    safetensors.write(folder / "model.safetensors", pending)


def paired(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float]:
    """The best seconds of each, taken in turn after a round that compiles."""
    times: dict[int, list[float]] = {0: [], 1: []}
    for turn in range(ROUNDS + 1):
        for which, work in enumerate((ours, theirs)):
            start = time.perf_counter()
            jax.block_until_ready(work())
            if turn:
                times[which].append(time.perf_counter() - start)
    return min(times[0]), min(times[1])


def last_logits(model: models.Model, tokens: jax.Array) -> jax.Array:
    weights, config = model.arrays, model.config
    present = jnp.ones(tokens.shape, bool)
    hidden = decoder.embed(weights, config, tokens)
    run = decoder.run_layers(weights, config, hidden, decoder.Layout(models.positions_of(present), present))
    return decoder.head(weights, config, run.hidden[:, -1])


def speed(folder: pathlib.Path) -> None:
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model = models.load(folder)
    random = np.random.default_rng(0)
    tokens = random.integers(3, SHAPE["vocab_size"], (BATCH, PROMPT))
    ids, torch_ids = jnp.asarray(tokens, jnp.int32), torch.tensor(tokens)

    start = time.perf_counter()
    prefill = jax.jit(last_logits).lower(model, ids).compile()
    print(f"compile   prefill of {SHAPE['num_hidden_layers']} layers {time.perf_counter() - start:.1f} s", flush=True)

    with torch.no_grad():
        ours, other = paired(
            lambda: prefill(model, ids), lambda: theirs(torch_ids, logits_to_keep=1).logits[:, -1].numpy()
        )
        gap = np.abs(np.asarray(prefill(model, ids)) - theirs(torch_ids, logits_to_keep=1).logits[:, -1].numpy()).max()
    assert gap < 2e-5, f"the two compute different things: logits differ by {gap:.1e}"
    rate = BATCH * PROMPT / ours
    print(
        f"prefill   {BATCH} x {PROMPT}: vatjax {ours:.2f} s ({rate:,.0f} tokens/s), torch {other:.2f} s, "
        f"ratio {other / ours:.2f}; logits differ by {gap:.1e}",
        flush=True,
    )

    short, torch_short = ids[:, :SHORT], torch_ids[:, :SHORT]
    sampling = models.Sampling(tokens=WRITTEN, stop=())
    start = time.perf_counter()
    jax.block_until_ready(models.generate(model, short, sampling=sampling))
    print(f"compile   generation, with its first run {time.perf_counter() - start:.1f} s", flush=True)
    mask = torch.ones_like(torch_short)

    def write() -> Any:
        return theirs.generate(
            torch_short,
            attention_mask=mask,
            max_new_tokens=WRITTEN,
            min_new_tokens=WRITTEN,
            do_sample=False,
            pad_token_id=0,
        )

    with torch.no_grad():
        ours, other = paired(lambda: models.generate(model, short, sampling=sampling), write)
        same = np.mean(
            np.asarray(models.generate(model, short, sampling=sampling).tokens) == write()[:, SHORT:].numpy()
        )
    print(
        f"decoding  {BATCH} texts, {WRITTEN} tokens after {SHORT}: vatjax {ours:.2f} s "
        f"({BATCH * WRITTEN / ours:,.0f} tokens/s), torch {other:.2f} s, ratio {other / ours:.2f}; {same:.0%} of tokens alike",
        flush=True,
    )


def anonymous() -> int:
    """Bytes of memory that no file stands behind: arrays, but not what is mapped from the checkpoint."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this measurement reads Linux's /proc")


def loading(folder: pathlib.Path) -> None:
    """Run in a process of its own, whose memory holds nothing else."""
    config = families.read_config(folder)
    shapes = list(wt.parameters(config))
    total = sum(4 * int(np.prod(p.shape)) * (config.layers if p.stacked else 1) for p in shapes)
    layer = sum(4 * int(np.prod(p.shape)) for p in shapes if p.stacked)
    largest = max(4 * int(np.prod(p.shape)) for p in shapes)
    jnp.zeros(8).block_until_ready()
    before, most, done = anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, anonymous())
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    model = jax.block_until_ready(models.load(folder))
    taken = time.perf_counter() - start
    done.set()
    watcher.join()
    assert model is not None
    beyond, after = most - before - total, anonymous() - before - total
    print(
        f"loading   {total / 1e9:.2f} GB in {taken:.1f} s; at most {beyond / 1e6:.0f} MB beyond the arrays, of which "
        f"{after / 1e6:.0f} MB stay; one layer is {layer / 1e6:.0f} MB, the largest tensor {largest / 1e6:.0f} MB; "
        f"{beyond / (1.2 * layer + largest):.2f} of 1.2 layers and that tensor",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("speed", "loading"))
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.folder:
        loading(chosen.folder)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        if chosen.only != "loading":
            make_checkpoint(folder)
            speed(folder)
        if chosen.only != "speed":
            make_checkpoint(folder, **LARGE, num_hidden_layers=12)
            subprocess.run([sys.executable, __file__, "--folder", scratch], check=True)


if __name__ == "__main__":
    main()
