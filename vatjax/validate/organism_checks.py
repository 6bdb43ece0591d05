"""Validates the measurement on a model organism: planted against measured numbers.

A persona is requested in words (an instruction) or shown by examples (shots). Every state is elicited on scenes that
the organism was not trained on, and joined and analysed like any model's states.
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
from vatjax.validate.checks import Check, at_least, at_most
from vatjax.values import Taxonomy

SHOTS = (2, 4, 8)
RESAMPLES = 500
_WORDS = "first"  # the shipped instruction that the organism was trained on


class Row(NamedTuple):
    """One intervention: planted against measured.

    Attributes:
        target: a type.
        way: "words", or a number of shots.
        planted_gain, gain: of the target; the measured one with its interval.
        resolved: True if the measured gain can be distinguished from 0.
        profile: correlation of planted and measured mean shifts over the values.
        gnd: correlation of planted and measured GND over the types; NaN if the gain is unresolved.
        coupling: correlation of planted and measured R over pairs of types.
        planted_nvat, nvat: of the types, debiased.
        p: of the order test on the measured R; NaN for fewer shots than the most.
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


class OrganismMeasurement(NamedTuple):
    """Measurement of an organism, against the planted numbers.

    Attributes:
        mass: mean option mass over its answers.
        ratings: Spearman correlation of its ratings with the planted ones, over scenes and values.
        rows: of the interventions.
        placebos: by name, [draws, types], mean shifts under neutral examples, and under random vectors with the norm of
            a real one.
    """

    mass: float
    ratings: float
    rows: list[Row]
    placebos: dict[str, np.ndarray]


def measure_organism(
    model: Model,
    world: World,
    items: Items,
    test_items: Items | None = None,
    seed: int = 0,
    targets: Sequence[str] | None = None,
    shots: Sequence[int] = SHOTS,
    placebos: int = 8,
    on_message: Callable[[str], None] = lambda _: None,
) -> OrganismMeasurement:
    """Rates an organism without a persona, and under each intervention.

    Args:
        model: the organism.
        world: the planted world.
        items: all items; examples are of scenes that the organism was trained on.
        test_items: rated items; by default those of scenes that it was not trained on.
        seed: of the examples and of the resampling.
        targets: types to push; all by default.
        shots: numbers of examples.
        placebos: number of draws of each placebo.
        on_message: called after each intervention.
    """
    items, unread = organism.split_seen_unseen(items)
    test = unread if test_items is None else test_items
    base = elicit.ratings(model, test)
    planted = organism.planted_state(world, test)
    mass = base.shares.sum(-1)
    seen = planted.mask & base.state.mask
    agree = stats.spearmanr(planted.state[seen], base.state.state[seen]).statistic
    rows = []
    for target in targets or world.taxonomy.types:
        truth = organism.planted_state(world, test, "paired", Persona(target))
        for way in ("words", *map(str, shots)):
            if way == "words":
                after = elicit.ratings(model, test, instruction=prompts.instruction(items.taxonomy, target, 1, _WORDS))
            else:
                shown = prompts.demonstrations(items, target, 1, int(way), draw=seed)
                after = elicit.ratings(model, test, shots=shown)
            judged = way in ("words", str(shots[-1]))
            rows.append(_row(world, target, way, (planted, truth), (base.state, after.state), seed, judged))
            on_message(f"{target}, {way}")
    neutral = [elicit.neutral_shots(model, items, max(shots), draw=seed * placebos + draw) for draw in range(placebos)]
    moved = [_shift(base.state, elicit.ratings(model, test, shots=drawn).state) for drawn in neutral]
    blind = {"neutral shots": np.array(moved), "random vectors": _random_vector_shifts(model, items, test, placebos)}
    types = {name: np.asarray(world.taxonomy.aggregate(drawn, level="types")) for name, drawn in blind.items()}
    return OrganismMeasurement(float(mass.mean()), float(agree), rows, types)


def _random_vector_shifts(model: Model, items: Items, test: Items, draws: int) -> np.ndarray:
    """Returns mean shifts under random vectors with the norm of the mean difference of a type's contrast pairs, [draws,
    values]."""
    directions = edits.directions(edits.contrast(model, items, items.taxonomy.types[0]))
    real = edits.steer(directions, [0])
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
    member = jnp.asarray(taxonomy.column_mask(target))
    (a, b), (x, y) = ([_types(taxonomy, state) for state in pair] for pair in (planted, measured))
    truth = metrics.tax(a, b, member)
    inference = metrics.infer(x, y, member, measured[0].clusters, jax.random.key(seed), resamples=RESAMPLES)
    sectors = tuple(taxonomy.sector_of.tolist())
    p = float(metrics.order_test(inference.raw.coupling.estimate, sectors).p) if judged else float("nan")
    off = ~np.eye(len(member), dtype=bool)
    shifts = [_shift(*pair) for pair in (planted, measured)]
    return Row(
        target,
        way,
        float(truth.gain),
        jax.tree.map(float, inference.gain),
        bool(inference.resolved),
        _correlation(*shifts),
        _correlation(np.asarray(truth.gnd), np.asarray(inference.gnd.estimate)) if inference.resolved else float("nan"),
        _correlation(np.asarray(truth.coupling)[off], np.asarray(inference.raw.coupling.estimate)[off]),
        float(truth.nvat),
        float(inference.raw.debiased.estimate),
        p,
        tuple(np.asarray(truth.gnd, float).tolist()),
        tuple(np.asarray(inference.gnd.estimate, float).tolist()),
    )


def _types(taxonomy: Taxonomy, state: ValueState) -> jax.Array:
    """Returns a state by type, [contexts, types]."""
    return jnp.asarray(taxonomy.aggregate(np.float32(state.state), state.mask, "types"))


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def _shift(before: ValueState, after: ValueState) -> np.ndarray:
    """Returns the mean shift of each value, [values]."""
    moved: np.ndarray = np.nanmean(after.state - before.state, 0)
    return moved


# Checks -------------------------------------------------------------------------------------------------------------


def check_organism(measured: OrganismMeasurement) -> list[Check]:
    """Checks the measurement of an organism on the circle."""
    part = "answers on scenes that it never saw"
    checks = [
        at_least(part, "option mass", measured.mass, 0.95),
        at_least(part, "rank correlation of ratings with the planted ones", measured.ratings, 0.9),
    ]
    ways = list(dict.fromkeys(row.way for row in measured.rows))
    for way in (ways[0], ways[-1]):
        rows = [row for row in measured.rows if row.way == way]
        part = "pushed in words" if way == "words" else f"pushed by {way} shots"
        checks += [
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
    checks += _check_more_shots(measured.rows, [way for way in ways if way != "words"])
    return checks + _check_placebos(measured.placebos, measured.rows)


def _least(numbers: Iterable[float]) -> float:
    """Returns the smallest number; NaN if any is."""
    return float(np.min(list(numbers)))


def _check_more_shots(rows: Sequence[Row], ways: Sequence[str]) -> list[Check]:
    """Checks that more examples give more gain, on average over the types."""
    means = [float(np.mean([row.gain.estimate for row in rows if row.way == way])) for way in ways]
    return [
        at_least("more shots", f"mean gain of {more} shots over that of {fewer}", after - before, 0)
        for (fewer, before), (more, after) in itertools.pairwise(zip(ways, means, strict=True))
    ]


def _check_placebos(placebos: Mapping[str, np.ndarray], rows: Sequence[Row]) -> list[Check]:
    """Checks that no type moves by more than a twentieth of a push's gain, over all types and all placebos together.

    Neutral examples move every type a little (.02 points in the bundled organism). Enough draws distinguish any placebo
    from 0, so the check is on the lower bound of the shift.
    """
    checks = []
    gain = float(np.mean([row.gain.estimate for row in rows]))
    for name, moved in placebos.items():
        draws, types = moved.shape
        if draws > 1:
            t = stats.t.ppf(1 - 0.05 / (2 * types * len(placebos)), draws - 1)
            certain = np.abs(moved.mean(0)) - t * moved.std(0, ddof=1) / np.sqrt(draws)
            share = max(0.0, float(certain.max())) / gain
            checks.append(
                at_most("placebo", f"{draws} draws of {name}: certain shift of a type, in gains", share, 0.05)
            )
    return checks
