"""Ratios of the metrics against what a user would write with SciPy, each pair timed in turn in one process.

    python scripts/bench_metrics.py              # everything, a few minutes
    python scripts/bench_metrics.py --quick      # without the curve over contexts

Bootstrap: `metrics.bootstrap(metrics.spearman, ...)`, 1,000 cluster-bootstrap matrices, against a Python loop of resampling
and `scipy.stats.spearmanr` on the same resamples (20 of them are timed and scaled). `few` are Likert differences, `many`
expected ratings. `products` is the time of the matrix products alone, which no method can do without.

Missing: `metrics.infer` of a table with 1 % of its cells missing against the complete one. Command: `vatjax tax` as a whole
process, first with an empty cache of compiled programs, then with a full one, and how many programs it compiles.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from vatjax import metrics, values

VALUES, CLUSTERS, RESAMPLES, TIMED = 56, 264, 1000, 20


def seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """The best of a few rounds, after one that compiles."""
    jax.block_until_ready(work())
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(work())
        times.append(time.perf_counter() - start)
    return min(times)


def ratings(contexts: int, few: bool, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(contexts, VALUES))
    return (np.clip(np.round(x * 2) / 2, -4, 4) if few else x).astype(np.float32)


def bootstrap(contexts: int, few: bool) -> None:
    x, clusters = ratings(contexts, few), np.arange(contexts) % CLUSTERS
    weights = metrics.bootstrap_weights(jax.random.key(0), CLUSTERS, RESAMPLES, jnp.float32)
    resamples = [np.repeat(np.arange(contexts), w[clusters].astype(int)) for w in np.asarray(weights[:TIMED])]

    def loop() -> list[np.ndarray]:
        return [stats.spearmanr(x[rows]).statistic for rows in resamples]

    def ours() -> jax.Array:
        return metrics.bootstrap(metrics.spearman, x, clusters, jax.random.key(0), RESAMPLES)

    z = jnp.asarray(np.random.default_rng(1).normal(size=(contexts, VALUES)), jnp.float32)
    scales = jnp.linspace(0.5, 1, RESAMPLES)
    products = jax.jit(lambda z: jax.lax.map(lambda s: jnp.einsum("nv,nw->vw", z * s, z, precision="highest"), scales))
    ratios = []
    for _ in range(3):
        taken = seconds(ours, 1)
        ratios.append(seconds(loop, 1) / TIMED * RESAMPLES / taken)
    alone = seconds(lambda: products(z), 1)
    error = max(np.abs(a - b).max() for a, b in zip(loop(), ours(), strict=False))
    print(
        f"bootstrap {contexts:>6} x {VALUES}, {'few ' if few else 'many'} levels: {taken:7.3f} s; SciPy loop "
        f"{np.median(ratios):5.1f} x ({min(ratios):.1f} to {max(ratios):.1f}); products alone {taken / alone:.2f} x; "
        f"largest difference {error:.0e}",
        flush=True,
    )


def missing(contexts: int = 1056) -> None:
    x = ratings(contexts, False)
    gappy = x.copy()
    gappy[np.random.default_rng(1).random(x.shape) < 0.01] = np.nan
    clusters = np.arange(contexts) // 4
    pairs = []
    for _ in range(3):
        whole, holes = (
            seconds(lambda d=d: metrics.infer_shift(d, 0, clusters, jax.random.key(0)).raw.p, 1) for d in (x, gappy)
        )
        pairs.append((whole, holes))
    ratio = [holes / whole for whole, holes in pairs]
    print(
        f"infer {contexts} x {VALUES} with 1 % missing: {np.median(ratio):.2f} x the complete table "
        f"({min(ratio):.2f} to {max(ratio):.2f}; {pairs[-1][0]:.2f} s)",
        flush=True,
    )


def command(contexts: int = 264) -> None:
    """`vatjax tax` from the shell, with an empty and with a full cache of compiled programs."""
    names = values.schwartz().names
    with tempfile.TemporaryDirectory() as folder:
        rng, files = np.random.default_rng(0), []
        for name in ("pre", "post"):
            file = pathlib.Path(folder) / f"{name}.csv"
            rows = [",".join(["scene", *names])]
            rows += [
                ",".join([f"s{i // 2}.{i % 2}", *map(str, row)])
                for i, row in enumerate(rng.integers(1, 6, (contexts, VALUES)))
            ]
            file.write_text("\n".join(rows))
            files.append(str(file))
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache", "JAX_PLATFORMS": "cpu"}
        line = [sys.executable, "-m", "vatjax", "tax", *files, "--target", "Power", "--json"]
        times = []
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run(line, env=environment, check=True, capture_output=True)
            times.append(time.perf_counter() - start)
        environment |= {"JAX_LOG_COMPILES": "1", "JAX_ENABLE_COMPILATION_CACHE": "false"}
        told = subprocess.run(line, env=environment, check=True, capture_output=True, text=True).stderr
    programs = re.findall(r"Finished XLA compilation of jit\((\S+)\) in ([\d.]+) sec", told)
    long = sum(float(taken) > 0.1 for _, taken in programs)
    print(
        f"vatjax tax of {contexts} x {VALUES}: {times[0]:.1f} s with an empty cache, {min(times[1:]):.1f} s with a full one; "
        f"{len(programs)} compiled programs, {long} of them longer than a tenth of a second",
        flush=True,
    )


def interventions(count: int = 200, contexts: int = 264) -> None:
    x = jnp.asarray(np.stack([ratings(contexts, False, seed) for seed in range(count)]))
    one, together = jax.jit(metrics.spearman), jax.jit(jax.vmap(metrics.spearman))
    pairs = [(seconds(lambda: [one(y) for y in x], 1), seconds(lambda: together(x), 1)) for _ in range(3)]
    ratios = [loop / batch for loop, batch in pairs]
    print(
        f"{count} interventions of {contexts} x {VALUES} in one call: {np.median(ratios):.2f} x a loop of compiled calls",
        flush=True,
    )


def curve() -> None:
    print("contexts  resamples  seconds  peak memory of the process")
    for contexts in (1_000, 10_000, 100_000, 1_000_000):
        x, clusters = ratings(contexts, True), np.arange(contexts) % CLUSTERS
        for resamples in (4, 16):
            weights = metrics.bootstrap_weights(jax.random.key(0), CLUSTERS, resamples, jnp.float32)
            taken = seconds(lambda x=x, w=weights, c=clusters: metrics.couplings(x, w, c), 1)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"{contexts:>8}  {resamples:>9}  {taken:7.3f}  {memory:.2f} GiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind} ({jax.default_backend()})")
    for contexts in (9_002, 264):
        for few in (True, False):
            bootstrap(contexts, few)
    interventions()
    missing()
    command()
    if not quick:
        curve()


if __name__ == "__main__":
    main()
