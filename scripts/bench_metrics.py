"""Ratios of the metrics against what a user would write with SciPy, each pair timed in turn in one process.

    python scripts/bench_metrics.py              # everything, a few minutes
    python scripts/bench_metrics.py --quick      # without the curve over contexts

Bootstrap: 1,000 cluster-bootstrap Spearman matrices against a Python loop of resampling and `scipy.stats.spearmanr` on the
same resamples (20 of them are timed and scaled). `few` are Likert differences, `many` expected ratings. `products` is the
time of the matrix products alone, which no method can do without.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from vatjax import metrics

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

    z = jnp.asarray(np.random.default_rng(1).normal(size=(contexts, VALUES)), jnp.float32)
    scales = jnp.linspace(0.5, 1, RESAMPLES)
    products = jax.jit(lambda z: jax.lax.map(lambda s: jnp.einsum("nv,nw->vw", z * s, z, precision="highest"), scales))
    ratios = []
    for _ in range(3):
        ours = seconds(lambda: metrics.couplings(x, weights, clusters), 1)
        theirs = seconds(loop, 1) / TIMED * RESAMPLES
        ratios.append(theirs / ours)
    alone = seconds(lambda: products(z), 1)
    error = max(np.abs(a - b).max() for a, b in zip(loop(), metrics.couplings(x, weights, clusters), strict=False))
    print(
        f"bootstrap {contexts:>6} x {VALUES}, {'few ' if few else 'many'} levels: {ours:7.3f} s; SciPy loop "
        f"{np.median(ratios):5.1f} x ({min(ratios):.1f} to {max(ratios):.1f}); products alone {ours / alone:.2f} x; "
        f"largest difference {error:.0e}",
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
    if not quick:
        curve()


if __name__ == "__main__":
    main()
