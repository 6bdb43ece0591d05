"""The whole measurement on a model organism: what was planted, against what is measured.

A persona is asked for in words (an instruction) and shown by examples (shots); every state is elicited on scenes that the
organism never saw, and joined and analysed as any model's states are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from vatjax import edits, elicit, metrics, organism, prompts
from vatjax.items import Items
from vatjax.models import Model
from vatjax.organism import Persona, World
from vatjax.states import ValueState
from vatjax.study.checks import Check, at_least, at_most
from vatjax.values import Taxonomy

SHOTS = (2, 4, 8)
RESAMPLES = 500
_WORDS = "first"  # the shipped instruction that the organism knows


class Row(NamedTuple):
    """One intervention: planted against measured.

    Attributes:
        target: a type.
        way: "words", or a number of shots.
        planted_gain, gain: of the target; the measured one with its interval.
        resolved: whether the measured one is told from 0.
        profile: correlation of planted and measured mean shifts over the values.
        gnd: correlation of planted and measured GND over the types; NaN where the gain is unresolved.
        coupling: correlation of planted and measured R over pairs of types.
        planted_nvat, nvat: of the types, debiased.
        p: of the order test on the measured R; NaN of fewer shots than the most.
        planted_each, each: GND of each type.
    """

    target: str
    way: str
    planted_gain: float
    gain: metrics.Estimate
    resolved: bool
    profile: float
    gnd: float
    coupling: float
    planted_nvat: float
    nvat: float
    p: float
    planted_each: tuple[float, ...]
    each: tuple[float, ...]


class Measured(NamedTuple):
    """What the organism answered, against what was planted.

    Attributes:
        mass: option mass, the mean over its answers.
        ratings: Spearman correlation of its ratings with the planted ones, over scenes and values.
        rows: of the interventions.
        placebos: by name, [draws, types], mean shifts under examples that push nothing, and under random vectors as long
            as one that pushes.
    """

    mass: float
    ratings: float
    rows: list[Row]
    placebos: dict[str, np.ndarray]


def measure(
    model: Model,
    world: World,
    items: Items,
    asked: Items | None = None,
    seed: int = 0,
    targets: Sequence[str] | None = None,
    shots: Sequence[int] = SHOTS,
    placebos: int = 8,
    done: Callable[[str], None] = lambda _: None,
) -> Measured:
    """Asks an organism as nobody, and under each intervention.

    Args:
        model: the organism.
        world: what was planted in it.
        items: all items; examples are of scenes that the organism has read.
        asked: what is asked about; by default the items whose scenes it has not read.
        seed: of the examples and of the resampling.
        targets: types to push; all of them by default.
        shots: how many examples.
        placebos: how many draws of each placebo.
        done: is told each intervention that is done.
    """
    items, unread = organism.unread(items)
    test = unread if asked is None else asked
    base = elicit.ratings(model, test)
    planted = organism.state(world, test)
    mass = base.shares.sum(-1)
    seen = planted.mask & base.state.mask
    agree = stats.spearmanr(planted.state[seen], base.state.state[seen]).statistic
    rows = []
    for target in targets or world.taxonomy.types:
        truth = organism.state(world, test, "paired", Persona(target))
        for way in ("words", *map(str, shots)):
            if way == "words":
                after = elicit.ratings(model, test, instruction=prompts.instruction(items.taxonomy, target, 1, _WORDS))
            else:
                shown = prompts.demonstrations(items, target, 1, int(way), draw=seed)
                after = elicit.ratings(model, test, shots=shown)
            judged = way in ("words", str(shots[-1]))
            rows.append(_row(world, target, way, (planted, truth), (base.state, after.state), seed, judged))
            done(f"{target}, {way}")
    neutral = [elicit.neutral_shots(model, items, max(shots), draw=seed * placebos + draw) for draw in range(placebos)]
    moved = [_shift(base.state, elicit.ratings(model, test, shots=one).state) for one in neutral]
    blind = {"neutral shots": np.array(moved), "random vectors": _random(model, items, test, placebos)}
    types = {name: np.asarray(world.taxonomy.aggregate(one, level="types")) for name, one in blind.items()}
    return Measured(float(mass.mean()), float(agree), rows, types)


def _random(model: Model, items: Items, test: Items, draws: int) -> np.ndarray:
    """Mean shifts under random vectors, each as long as the mean difference of a type's contrast pairs, [draws, values]."""
    found = edits.directions(edits.contrast(model, items, items.taxonomy.types[0]))
    real = edits.steer(found, [0])
    drawn = [edits.random_like(real, jax.random.key(number)) for number in range(draws)]
    states = elicit.states_under(model, test, [0.0 * real, *drawn]).states
    moved: np.ndarray = np.nanmean(states[1:] - states[0], 1)
    return moved


def _row(
    world: World,
    target: str,
    way: str,
    planted: tuple[ValueState, ValueState],
    measured: tuple[ValueState, ValueState],
    seed: int,
    judged: bool,
) -> Row:
    taxonomy = world.taxonomy
    member = jnp.asarray(taxonomy.columns(target))
    (a, b), (x, y) = ([_types(taxonomy, one) for one in pair] for pair in (planted, measured))
    truth = metrics.tax(a, b, member)
    own = metrics.infer(x, y, member, measured[0].clusters, jax.random.key(seed), resamples=RESAMPLES)
    sectors = tuple(taxonomy.sector_of.tolist())
    p = float(metrics.order_test(own.raw.coupling.estimate, sectors).p) if judged else float("nan")
    off = ~np.eye(len(member), dtype=bool)
    shifts = [_shift(*pair) for pair in (planted, measured)]
    return Row(
        target,
        way,
        float(truth.gain),
        jax.tree.map(float, own.gain),
        bool(own.resolved),
        _correlation(*shifts),
        _correlation(np.asarray(truth.gnd), np.asarray(own.gnd.estimate)) if own.resolved else float("nan"),
        _correlation(np.asarray(truth.coupling)[off], np.asarray(own.raw.coupling.estimate)[off]),
        float(truth.nvat),
        float(own.raw.debiased.estimate),
        p,
        tuple(np.asarray(truth.gnd, float).tolist()),
        tuple(np.asarray(own.gnd.estimate, float).tolist()),
    )


def _types(taxonomy: Taxonomy, state: ValueState) -> jax.Array:
    """A state by type, [contexts, types]."""
    return jnp.asarray(taxonomy.aggregate(np.float32(state.state), state.mask, "types"))


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def _shift(before: ValueState, after: ValueState) -> np.ndarray:
    """Each value's mean shift, [values]."""
    moved: np.ndarray = np.nanmean(after.state - before.state, 0)
    return moved


# What must come out -------------------------------------------------------------------------------------------------


def judge(measured: Measured) -> list[Check]:
    """What an organism on the circle must show, and an instrument on it."""
    part = "answers on scenes that it never saw"
    found = [
        at_least(part, "option mass", measured.mass, 0.95),
        at_least(part, "rank correlation of ratings with the planted ones", measured.ratings, 0.9),
    ]
    ways = list(dict.fromkeys(row.way for row in measured.rows))
    for way in (ways[0], ways[-1]):
        rows = [row for row in measured.rows if row.way == way]
        part = "pushed in words" if way == "words" else f"pushed by {way} shots"
        found += [
            at_least(
                part, f"of {len(rows)} types, gains above 0", sum(float(row.gain.low) > 0 for row in rows), len(rows)
            ),
            at_least(part, "mean shifts, correlation with the planted ones", _least(row.profile for row in rows), 0.8),
            at_least(part, "GND of the types, the same", _least(row.gnd for row in rows), 0.8),
            at_least(part, "coupling R of the types, the same", _least(row.coupling for row in rows), 0.8),
            at_most(
                part,
                "debiased nVAT, difference from the planted",
                -_least(-abs(r.nvat - r.planted_nvat) for r in rows),
                0.1,
            ),
            at_most(part, "order of the circle, p", -_least(-row.p for row in rows), 0.01),
        ]
    found += _growing(measured.rows, [way for way in ways if way != "words"])
    return found + _unpushed(measured.placebos, measured.rows)


def _least(numbers: Iterable[float]) -> float:
    """The smallest, and NaN where any is."""
    return float(np.min(list(numbers)))


def _growing(rows: Sequence[Row], ways: Sequence[str]) -> list[Check]:
    """More examples must give more, on average over the types."""
    means = [float(np.mean([row.gain.estimate for row in rows if row.way == way])) for way in ways]
    return [
        at_least("more shots", f"mean gain of {more} shots over that of {fewer}", after - before, 0)
        for (fewer, before), (more, after) in itertools.pairwise(zip(ways, means, strict=True))
    ]


def _unpushed(placebos: Mapping[str, np.ndarray], rows: Sequence[Row]) -> list[Check]:
    """No type may be shown to move by more than a twentieth of what a push gains, all types and all placebos together.

    Examples that push nothing move every type a little (.02 points in the bundled organism): enough draws distinguish any
    placebo from 0, so that the question is how far it moves for certain.
    """
    found = []
    gain = float(np.mean([row.gain.estimate for row in rows]))
    for name, moved in placebos.items():
        draws, types = moved.shape
        if draws > 1:
            t = stats.t.ppf(1 - 0.05 / (2 * types * len(placebos)), draws - 1)
            certain = np.abs(moved.mean(0)) - t * moved.std(0, ddof=1) / np.sqrt(draws)
            share = max(0.0, float(certain.max())) / gain
            found.append(at_most("placebo", f"{draws} draws of {name}: certain shift of a type, in gains", share, 0.05))
    return found
