"""Counts false alarms and coverage of every p and interval that vatjax prints, in worlds that its null does not assume.

    python scripts/calibrate.py                       # 400 data sets of each world, about an hour on two cores
    python scripts/calibrate.py --draws 100 --only inert

In the first table nothing is planted: a cell is the share of data sets with p <= .05. In the second, coupling, gain and
means are planted: a cell is the share of 95 % intervals that hold the truth. Cells outside the band that chance allows
(the exact binomial interval of 99.9 % around 3 to 7 %, or around 92 to 98 %) are marked.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import stats

from vatjax import metrics, values

TARGET = 4
TYPES = values.schwartz()
RESAMPLES = 499


class World(NamedTuple):
    """A way to draw data sets.

    Attributes:
        name: of the world.
        columns: values.
        draw: of a random generator; returns shifts [contexts, values] and clusters.
        labels: of a labelled state, made from the generator before the shifts; None elsewhere.
        types: whether columns are the 56 values, and the 10 types are analysed.
    """

    name: str
    columns: int
    draw: Callable[[np.random.Generator], tuple[np.ndarray, Any]]
    kind: str = "plain"


def clustered(rng: np.random.Generator, sizes: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns that are independent of each other, half of whose variance belongs to the cluster."""
    scene = np.repeat(np.arange(len(sizes)), sizes)
    if (sizes == 1).all():
        return rng.normal(size=(len(scene), columns)), scene
    common = rng.normal(size=(len(sizes), columns))
    return np.sqrt(0.5) * (rng.normal(size=(len(scene), columns)) + common[scene]), scene


def sizes_of(clusters: int, contexts: int, unequal: bool) -> np.ndarray:
    """Sizes of clusters, all alike or from 1 to 9."""
    each = contexts // clusters
    if not unequal:
        return np.full(clusters, each)
    weight = np.linspace(1, 9, clusters)
    return np.maximum(1, np.round(weight / weight.sum() * contexts)).astype(int)


def plain(clusters: int, contexts: int, columns: int, unequal: bool = False, dropped: int = 0, **change: Any) -> Any:
    """A world of independent columns, changed in one way."""

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        x, scene = clustered(rng, sizes_of(clusters, contexts, unequal), columns)
        count = scene.max() + 1
        if change.get("tails"):
            x = rng.standard_t(change["tails"], x.shape)
        if change.get("spreads"):
            x *= np.tile(change["spreads"], columns)[:columns]
        if change.get("inert"):
            x *= np.where(rng.random(count) < 0.5, 1, 0.1)[scene, None]
        if change.get("intensity"):
            x *= np.exp(change["intensity"] * rng.normal(size=count))[scene, None]
        if "coupling" in change:
            shared = rng.normal(size=(count, 1))[scene]
            x = np.sqrt(1 - change["coupling"]) * x + np.sqrt(change["coupling"]) * shared
        if "style" in change:
            low, high = change["style"]
            x = x + rng.normal(size=(count, 1))[scene] * rng.uniform(low, high, columns)
        if change.get("likert"):
            x = np.where(np.abs(x) < 1.28, 0, np.sign(x) * np.ceil(np.abs(x) - 1.28) / 2)
        if change.get("missing"):
            x[rng.random(x.shape) < change["missing"]] = np.nan
        return x[dropped:], scene[dropped:]

    return draw


def crossed(columns: int, countries: int = 12, topics: int = 11) -> Any:
    """Every country has effects of its own and every topic too; one context for each pair."""

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        country, topic = (part.ravel() for part in np.meshgrid(range(countries), range(topics), indexing="ij"))
        x = rng.normal(size=(len(country), columns))
        x += 0.7 * rng.normal(size=(countries, columns))[country] + 0.7 * rng.normal(size=(topics, columns))[topic]
        return x, np.stack([country, topic], 1)

    return draw


def dense(columns: int, scenes: int = 24) -> Any:
    """Each context is a scene seen from one value; values differ in level from viewpoint to viewpoint alike."""

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        scene = np.repeat(np.arange(scenes), 10)
        x = rng.normal(size=(scenes, columns))[scene] + rng.normal(size=(len(scene), columns))
        return x, scene

    return draw


def labels_of(rng: np.random.Generator, items: int = 200) -> np.ndarray:
    """Labels of the circle: an item supports a value and its neighbours, and violates those across."""
    angle = 2 * np.pi * np.arange(10) / 10
    near = np.cos(angle[None, :] - 2 * np.pi * rng.random((items, 1)))
    return np.where(near > 0.6, 1, np.where(near < -0.6, -1, 0)).astype(np.float32)


SIZES = ((12, 264), (33, 132), (66, 264), (264, 264))


def null_worlds() -> list[World]:
    found = []
    for columns in (10, 56):
        for clusters, contexts in SIZES:
            for unequal in (False, True) if contexts > clusters else (False,):
                name = f"{columns} values, {clusters} clusters of {contexts}" + (", sizes 1:9" if unequal else "")
                found.append(World(name, columns, plain(clusters, contexts, columns, unequal)))
        ways = {
            "one row dropped": {"dropped": 1, "clusters": 12, "contexts": 264},
            "5 % missing": {"missing": 0.05},
            "half of the scenes inert": {"inert": True, "clusters": 132, "contexts": 132},
            "half inert, 66 of 2": {"inert": True, "clusters": 66, "contexts": 132},
            "lognormal intensity": {"intensity": 0.7, "clusters": 132, "contexts": 132},
            "Likert, 80 % zeros": {"likert": True, "clusters": 132, "contexts": 132},
            "heavy tails (t with 3)": {"tails": 3, "clusters": 132, "contexts": 132},
            "spreads 2, .5, 1, 1": {"spreads": (2, 0.5, 1, 1), "clusters": 132, "contexts": 132},
        }
        for name, way in ways.items():
            options = {"clusters": 66, "contexts": 264, "columns": columns} | way
            found.append(World(f"{columns} values, {name}", columns, plain(**options)))
        found.append(World(f"{columns} values, crossed country and topic", columns, crossed(columns)))
        style = {"clusters": 132, "contexts": 132, "columns": columns}
        found.append(World(f"{columns} values, style, equal loadings", columns, plain(**style, style=(1, 1)), "style"))
        found.append(
            World(f"{columns} values, style, loadings .5 to 1.5", columns, plain(**style, style=(0.5, 1.5)), "style")
        )
        found.append(World(f"{columns} values, dense", columns, dense(columns)))
        for r, name in ((0.0, "no coupling"), (0.25, "equal coupling .25")):
            for clusters, contexts in ((12, 132), (66, 264)):
                draw = plain(clusters, contexts, columns, coupling=r)
                found.append(World(f"{columns} values, {name}, {clusters} clusters: two arms", columns, draw, "two"))
    types = {"clusters": 132, "contexts": 132, "columns": 56}
    found.append(World("types of unequal size", 56, plain(**types), "types"))
    found.append(World("types of unequal size, style", 56, plain(**types, style=(1, 1)), "types style"))
    found.append(World("labelled", 10, plain(200, 200, 1), "labelled"))
    found.append(World("labelled, scenes of 4", 10, plain(50, 200, 1), "labelled"))
    return found


def measure_null(world: World, draws: int, seed: int) -> dict[str, float]:
    """The share of data sets in which each p is at most .05."""
    rng = np.random.default_rng([seed, len(world.name), sum(map(ord, world.name))])
    alarms: dict[str, list[bool]] = {}
    for i in range(draws):
        x, clusters = world.draw(rng)
        if world.kind == "two":
            for name, p in two_arms(world, x, clusters, rng).items():
                alarms.setdefault(name, []).append(bool(p <= 0.05))
            continue
        options: dict[str, Any] = {}
        if world.kind == "labelled":
            options["labels"] = labels_of(rng, len(x))
            x = x * options["labels"]
        if "types" in world.kind:
            options["type_of"] = TYPES.type_of
        key = jax.random.fold_in(jax.random.key(seed), i)
        one = metrics.infer_shift(x.astype(np.float32), TARGET, clusters, key, resamples=RESAMPLES, **options)
        found = {
            "gain": one.first.gain_p,
            "off target": one.first.off_target_p,
            "band": 0 if np.any((one.first.band.low > 0) | (one.first.band.high < 0)) else 1,
            "nVAT": one.raw.p,
            "VAT": np.nanmin(one.raw.vat_together),
            "Gini": one.raw.gini_p,
            "hubs": np.nanmin(one.raw.hub_p),
            "R band": 0 if _beyond(one.raw.band) else 1,
            "ipsatised nVAT": one.ipsatised.p,
            "ipsatised VAT": np.nanmin(one.ipsatised.vat_together),
        }
        if world.kind == "labelled":  # labels make a coupling of their own: R is not 0
            del found["R band"]
        if "style" in world.kind:  # a style moves everything together: raw coupling is there
            found = {
                name: p
                for name, p in found.items()
                if name in ("gain", "off target", "ipsatised nVAT", "ipsatised VAT")
            }
        if "types" in world.kind:
            found["hubs, equal types"] = np.nanmin(one.equal.hub_p)
            found["order, equal types"] = metrics.order_test(one.equal.coupling, tuple(TYPES.sector_of.tolist())).p
            t = TYPES.aggregate(x, ~np.isnan(x), "types").astype(np.float32)
            own = metrics.infer_shift(t, TARGET, clusters, key, resamples=RESAMPLES)
            excess = np.asarray(own.ipsatised.coupling.estimate - own.ipsatised.expected)
            found["order, ipsatised"] = metrics.order_test(excess, tuple(TYPES.sector_of.tolist())).p
        for name, p in found.items():
            alarms.setdefault(name, []).append(bool(p <= 0.05))
    return {name: float(np.mean(flags)) for name, flags in alarms.items()}


def two_arms(world: World, x: np.ndarray, clusters: Any, rng: np.random.Generator) -> dict[str, float]:
    """Two interventions that do the same, which share half of their variance; hubs and regression of the first."""
    other, _ = world.draw(rng)
    third, _ = world.draw(rng)
    one, two = ((np.sqrt(0.5) * (x + y)).astype(np.float32) for y in (other, third))
    gap = metrics.difference(one, two, TARGET, clusters)
    arm = metrics.infer_shift(one, TARGET, clusters, jax.random.key(0), resamples=RESAMPLES)
    found = {"difference of nVAT": gap.p_nvat, "difference of gain": gap.p_gain, "hubs": np.nanmin(arm.raw.hub_p)}
    if world.columns == 10:
        fit = regression(one[:, 0], one[:, 1:], clusters) if ".25" not in world.name else None
        if fit is not None:
            found |= {"regression": fit.p[0], "regression, Holm": np.nanmin(fit.p_holm)}
    return found


@functools.cache
def _regression(clusters: bytes) -> Any:
    index = np.frombuffer(clusters, np.int64)
    return jax.jit(lambda y, x: metrics.regress(y, x, index))


def regression(y: np.ndarray, x: np.ndarray, clusters: np.ndarray) -> metrics.Regression:
    return jax.tree.map(np.asarray, _regression(clusters.astype(np.int64).tobytes())(y, x))


def _beyond(band: metrics.Estimate) -> bool:
    off = ~np.eye(len(band.low), dtype=bool)
    return bool(((band.low > 0) | (band.high < 0))[off].any())


# Coverage -----------------------------------------------------------------------------------------------------------


class Planted(NamedTuple):
    """A world with a shared factor: every pair of values has one correlation."""

    name: str
    columns: int
    clusters: int
    contexts: int
    correlation: float
    unequal: bool = False


PLANTED = tuple(
    Planted(
        f"{columns} values, {clusters} clusters of {contexts}{', sizes 1:9' if unequal else ''}, r {r:g}",
        columns,
        clusters,
        contexts,
        r,
        unequal,
    )
    for columns in (10, 56)
    for clusters, contexts, r, unequal in (
        (12, 264, 0.25, False),
        (33, 132, 0.25, False),
        (66, 264, 0.05, False),
        (66, 264, 0.25, True),
        (264, 264, 0.04, False),
        (264, 264, 0.15, False),
        (264, 264, 0.5, False),
    )
)


def measure_planted(world: Planted, draws: int, seed: int) -> dict[str, float]:
    """The share of 95 % intervals that hold the truth."""
    rng = np.random.default_rng([seed, len(world.name), sum(map(ord, world.name))])
    means = np.linspace(-0.3, 0.6, world.columns)
    target = world.columns - 1
    off = np.delete(means, target)
    truth = 6 / np.pi * np.arcsin(world.correlation / 2)  # Spearman's, of normal columns
    sizes = sizes_of(world.clusters, world.contexts, world.unequal)
    held: dict[str, list[float]] = {}
    for i in range(draws):
        shared, scene = clustered(rng, sizes, 1)
        own, _ = clustered(rng, sizes, world.columns)
        x = means + np.sqrt(world.correlation) * shared + np.sqrt(1 - world.correlation) * own
        key = jax.random.fold_in(jax.random.key(seed), i)
        one = metrics.infer_shift(x.astype(np.float32), target, scene, key, resamples=RESAMPLES)
        gain = means[target]
        gnd = np.delete(holds(one.gnd, means / gain), target)
        pairs = ~np.eye(world.columns, dtype=bool)
        found = {
            "gain": holds(one.gain, gain),
            "means": np.mean(holds(one.shift, means)),
            "band": np.all(holds(one.first.band, means)),
            "bound": one.first.bound >= np.abs(off).max(),
            "off-target shift": holds(one.first.off_target_shift, np.sqrt((off**2).mean())),
            "nVAT": holds(one.raw.debiased, truth),
            "VAT": np.mean(holds(one.raw.vat_debiased, truth)),
            "R": np.mean(holds(one.raw.coupling, truth)[pairs]),
            "R band": np.all(holds(one.raw.band, truth)[pairs]),
            "covariance": holds(one.raw.covariance, np.sqrt(world.correlation)),
        }
        if one.resolved:
            found["GND"] = np.mean(gnd)
            found["off target"] = holds(one.off_target, np.sqrt((off**2).mean()) / gain)
        for name, share in found.items():
            held.setdefault(name, []).append(float(share))
    return {name: float(np.mean(shares)) for name, shares in held.items()}


def holds(interval: metrics.Estimate, truth: Any) -> Any:
    return (interval.low <= truth) & (truth <= interval.high)


# Tables -------------------------------------------------------------------------------------------------------------


def mark(share: float, draws: int, low: float, high: float) -> str:
    """A cell, marked where chance does not explain that it lies outside the band."""
    least, most = stats.binom.ppf(0.0005, draws, low) / draws, stats.binom.ppf(0.9995, draws, high) / draws
    return f"{share:.3f}" + ("" if least <= share <= most else " !")


def table(title: str, rows: list[tuple[str, dict[str, float]]], draws: int, low: float, high: float) -> None:
    columns = list(dict.fromkeys(name for _, cells in rows for name in cells))
    print(f"\n{title}\n\n| world | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name, cells in rows:
        texts = [mark(cells[column], draws, low, high) if column in cells else "-" for column in columns]
        print(f"| {name} | {' | '.join(texts)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only worlds whose name contains this")
    parser.add_argument("--part", choices=("null", "planted", "both"), default="both")
    arguments = parser.parse_args()
    start = time.perf_counter()
    print(f"{arguments.draws} data sets of each world, {RESAMPLES} draws of the null, seed {arguments.seed}")
    for part, worlds, measure, title, low, high in (
        ("null", null_worlds(), measure_null, "False alarms at 5 %: nothing is planted", 0.03, 0.07),
        ("planted", PLANTED, measure_planted, "Coverage of 95 % intervals", 0.92, 0.98),
    ):
        if arguments.part not in (part, "both"):
            continue
        rows = []
        for world in worlds:
            if arguments.only in world.name:
                begun = time.perf_counter()
                rows.append((world.name, measure(world, arguments.draws, arguments.seed)))
                cells = ", ".join(f"{name} {share:.3f}" for name, share in rows[-1][1].items())
                print(f"{world.name} ({time.perf_counter() - begun:.0f} s): {cells}", flush=True)
        if rows:
            table(title, rows, arguments.draws, low, high)
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
