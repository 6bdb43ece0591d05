"""What the published table says against chance.

    python scripts/published.py                 # a few seconds
    python scripts/published.py --scenes 80     # how many test scenes stand behind each number

Table 2 of Chen and Shen 2026 (arXiv 2602.12134), in published_table2.csv, has gain, nVAT, Gini and the standard deviation of
nVAT over 80 % subsamples for four models, four targets and 2, 4 and 8 shots. Printed beside them: the Gini of VAT(v) when the
ten types have exchangeable random correlations, so that there are no hubs, and the nVAT of independent types under each
reading. The printed formula has the unit diagonal in it and cannot give these numbers; which reading was used is not said.
"""

from __future__ import annotations

import argparse
import csv
import pathlib

import jax
import numpy as np

from vatjax import metrics

TABLE = pathlib.Path(__file__).parent / "published_table2.csv"
TYPES = 10


def read() -> dict[str, np.ndarray]:
    """The columns of the table."""
    with TABLE.open() as file:
        rows = list(csv.DictReader(file))
    return {
        name: np.array([row[name] for row in rows])
        if name in ("model", "target", "direction")
        else np.array([float(row[name]) for row in rows])
        for name in rows[0]
    }


def exchangeable(size: float, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Gini of VAT(v) of matrices whose correlations are drawn alike, with a root mean square, [draws]."""
    r = np.zeros((draws, TYPES, TYPES), np.float32)
    first, second = np.triu_indices(TYPES, 1)
    r[:, first, second] = r[:, second, first] = rng.normal(0, size, (draws, len(first)))
    r[:, range(TYPES), range(TYPES)] = 1
    return np.asarray(metrics.gini(metrics.vat(r, "l2")))


def floors(scenes: int, draws: int, seed: int) -> dict[str, np.ndarray]:
    """nVAT of independent types over so many scenes, under each reading, [draws]."""
    rng = np.random.default_rng(seed)
    spearman = jax.jit(jax.vmap(metrics.spearman))
    r = np.asarray(spearman(rng.normal(size=(draws, scenes, TYPES)).astype(np.float32)))
    return {reading: np.asarray(metrics.nvat(r, reading)) for reading in metrics.READINGS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=80)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    table = read()
    rng = np.random.default_rng(arguments.seed)
    chance = exchangeable(float(table["nvat"].mean()), arguments.draws, rng)
    print(f"{len(table['gini'])} published rows; {arguments.draws} draws of chance, seed {arguments.seed}\n")
    print("| quantity | published: mean (sd over rows), range | chance: mean (sd), 5 to 95 % |\n|---|---|---|")
    print(f"| Gini of VAT | {summary(table['gini'])} | no hubs: {spread(chance)} |")
    for reading, drawn in floors(arguments.scenes, arguments.draws, arguments.seed).items():
        print(
            f"| nVAT, reading {reading} | {summary(table['nvat'])} | independent, {arguments.scenes} scenes: {spread(drawn)} |"
        )
    print(f"| sd of nVAT over 80 % subsamples | {summary(table['nvat_sd'])} | - |")
    print("\n| model | gain by shots 2, 4, 8 (mean of targets) | correlation of gain with nVAT |\n|---|---|---|")
    for model in dict.fromkeys(table["model"].tolist()):
        own = table["model"] == model
        gains = [table["gain"][own & (table["shots"] == shots)].mean() for shots in (2, 4, 8)]
        together = np.corrcoef(table["gain"][own], table["nvat"][own])[0, 1]
        print(f"| {model} | {', '.join(f'{gain:.2f}' for gain in gains)} | {together:.2f} |")


def summary(x: np.ndarray) -> str:
    return f"{x.mean():.3f} ({x.std(ddof=1):.3f}), {x.min():.2f} to {x.max():.2f}"


def spread(x: np.ndarray) -> str:
    low, high = np.quantile(x, [0.05, 0.95])
    return f"{x.mean():.3f} ({x.std(ddof=1):.3f}), {low:.3f} to {high:.3f}"


if __name__ == "__main__":
    main()
