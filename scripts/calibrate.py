"""Plants shifts whose coupling, gain and means are known, and counts how often the intervals cover them.

    python scripts/calibrate.py                     # 500 draws of each scenario
    python scripts/calibrate.py --draws 100 --only independent

Every scenario has 264 contexts and 10 values, and a shared factor that gives every pair of values the same correlation.
Scenes make contexts alike: half of each value's own variance, and of the shared factor's, belongs to the scene. `truth`
is the nVAT that was planted, `floor` what independent values show; `nVAT`, `gain` and `means` are the shares of 95 %
intervals that cover the truth, and `p uniform` is the p-value of a Kolmogorov-Smirnov test that the p-values of nVAT are
uniform (it should be above .01 where nothing is planted). At the end the same for the test of the circle's order, and its
largest p where values move together the more the nearer they lie on the circle.
"""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple

import jax
import numpy as np
from scipy import stats

from vatjax import metrics

CONTEXTS, VALUES, TARGET = 264, 10, 4
MEANS = np.linspace(-0.3, 0.6, VALUES)


class Scenario(NamedTuple):
    name: str
    sizes: tuple[int, ...]
    correlation: float


ALONE = (1,) * CONTEXTS
EQUAL = (4,) * (CONTEXTS // 4)
UNEQUAL = (1, 2, 3, 4, 6, 8) * (CONTEXTS // 24)

SCENARIOS = (
    Scenario("independent, alone", ALONE, 0.0),
    Scenario("independent, equal scenes", EQUAL, 0.0),
    Scenario("independent, unequal scenes", UNEQUAL, 0.0),
    Scenario("weak, alone", ALONE, 0.04),
    Scenario("weak, equal scenes", EQUAL, 0.05),
    Scenario("clear, alone", ALONE, 0.15),
    Scenario("clear, equal scenes", EQUAL, 0.25),
    Scenario("clear, unequal scenes", UNEQUAL, 0.25),
    Scenario("strong, alone", ALONE, 0.5),
    Scenario("strong, equal scenes", EQUAL, 0.5),
)


def plant(scenario: Scenario, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Shifts [contexts, values] and the scene of each context."""
    scene = np.repeat(np.arange(len(scenario.sizes)), scenario.sizes)

    def clustered(columns: int) -> np.ndarray:
        own, common = rng.normal(size=(CONTEXTS, columns)), rng.normal(size=(len(scenario.sizes), columns))
        return own if scenario.sizes == ALONE else np.sqrt(0.5) * (own + common[scene])

    shared = np.sqrt(scenario.correlation) * clustered(1)
    return MEANS + shared + np.sqrt(1 - scenario.correlation) * clustered(VALUES), scene


def truth(scenario: Scenario) -> float:
    """Spearman's correlation of two normal variables, which is here that of every pair."""
    return float(6 / np.pi * np.arcsin(scenario.correlation / 2))


def measure(scenario: Scenario, draws: int, resamples: int, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    covered: dict[str, list[bool]] = {"nVAT": [], "gain": [], "means": []}
    floors, p = [], []
    for i in range(draws):
        shift, scene = plant(scenario, rng)
        shift = shift.astype(np.float32)
        key = jax.random.fold_in(jax.random.key(seed), i)
        result = metrics.infer(np.zeros_like(shift), shift, TARGET, scene, key, resamples=resamples)
        result = jax.tree.map(np.asarray, result)
        inside = result.raw.debiased.low <= truth(scenario) <= result.raw.debiased.high
        covered["nVAT"].append(bool(inside))
        covered["gain"].append(bool(result.gain.low <= MEANS[TARGET] <= result.gain.high))
        covered["means"] += ((result.shift.low <= MEANS) & (result.shift.high >= MEANS)).tolist()
        floors.append(float(result.raw.floor))
        p.append(float(result.raw.p))
    uniform = stats.kstest(p, "uniform").pvalue if scenario.correlation == 0 else np.nan
    shares = {name: float(np.mean(flags)) for name, flags in covered.items()}
    return {"truth": truth(scenario), "floor": float(np.mean(floors)), **shares, "p uniform": float(uniform)}


def orders(draws: int, seed: int) -> tuple[float, float]:
    """Of the order test: whether p is uniform on noise, and the largest p on a planted circle."""
    rng = np.random.default_rng(seed)
    p_value = jax.jit(lambda shift: metrics.order_test(metrics.spearman(shift)).p)
    angle = 2 * np.pi * np.arange(VALUES) / VALUES
    noise, circle = [], []
    for _ in range(draws):
        noise.append(float(p_value(rng.normal(size=(CONTEXTS, VALUES)).astype(np.float32))))
        direction = rng.normal(size=(CONTEXTS, 2))
        planted = direction @ np.stack([np.cos(angle), np.sin(angle)]) + rng.normal(size=(CONTEXTS, VALUES))
        circle.append(float(p_value(planted.astype(np.float32))))
    return float(stats.kstest(noise, "uniform").pvalue), max(circle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--resamples", type=int, default=499)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only scenarios whose name contains this")
    arguments = parser.parse_args()
    print(f"{arguments.draws} draws of each scenario, {arguments.resamples} resamples, seed {arguments.seed}\n")
    print("| scenario | truth | floor | nVAT | gain | means | p uniform |\n|---|---|---|---|---|---|---|")
    start = time.perf_counter()
    for scenario in SCENARIOS:
        if arguments.only in scenario.name:
            row = measure(scenario, arguments.draws, arguments.resamples, arguments.seed)
            cells = ["-" if np.isnan(value) else f"{value:.3f}" for value in row.values()]
            print(f"| {scenario.name} | {' | '.join(cells)} |", flush=True)
    if arguments.only in "order":
        uniform, largest = orders(arguments.draws, arguments.seed)
        print(f"\norder test: p uniform on noise {uniform:.3f}; largest p on a planted circle {largest:.1e}")
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
