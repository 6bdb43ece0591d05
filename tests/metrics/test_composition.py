"""Every metric composes: plain and compiled, over a stack of interventions, in doubles, on shards of the contexts."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiers import quick
from vatjax import metrics

pytestmark = [pytest.mark.long, pytest.mark.fast_compile]

CONTEXTS, VALUES = 48, 5
KEY = jax.random.key(0)
CLUSTERS = np.arange(CONTEXTS) // 2
ANGLES = np.arange(VALUES) * 2 * np.pi / VALUES
LABELS = np.where(np.arange(CONTEXTS * VALUES).reshape(CONTEXTS, VALUES) % 3, 1, -1)


def soft(x):
    """Probabilities of five levels, from ratings."""
    return jax.nn.softmax(jnp.stack([x * level for level in (-2, -1, 0, 1, 2)], -1), -1)


# Of a shift [contexts, values].
FUNCTIONS = {
    "shift": lambda x: metrics.shift(0 * x, x),
    "mean_shift": metrics.mean_shift,
    "gain": lambda x: metrics.gain(x, 1),
    "gnd": lambda x: metrics.gnd(x, 1),
    "off_target": lambda x: metrics.off_target(metrics.gnd(x, 1), 1),
    "ipsatise": metrics.ipsatise,
    "spearman": metrics.spearman,
    "spearman of pairs": lambda x: metrics.spearman(x, missing=True),
    "kendall": lambda x: metrics.kendall(jnp.round(x), levels=16),
    "vat": lambda x: metrics.vat(metrics.spearman(x)),
    "nvat": lambda x: [metrics.nvat(metrics.spearman(x), reading) for reading in metrics.READINGS],
    "gini": lambda x: metrics.gini(metrics.vat(metrics.spearman(x))),
    "hubs": lambda x: metrics.hubs(metrics.vat(metrics.spearman(x))),
    "tax": lambda x: metrics.tax(0 * x, x, 1),
    "couplings": lambda x: metrics.couplings(x, metrics.jackknife_weights(24, x.dtype), CLUSTERS),
    "bootstrap": lambda x: metrics.bootstrap(lambda d, w: metrics.gain(d, 1, weights=w), x, CLUSTERS, KEY, 20),
    "noise_floor": lambda x: metrics.noise_floor(x, CLUSTERS, KEY, 20),
    "noise_floor of labels": lambda x: metrics.noise_floor(
        x[:, :1] * LABELS.astype(x.dtype), CLUSTERS, KEY, 20, labels=LABELS
    ),
    "regress": lambda x: metrics.regress(x[:, 0], x[:, 1:], CLUSTERS),
    "amplification": lambda x: metrics.amplification(x, 1, CLUSTERS, KEY, 3),
    "robustness": lambda x: metrics.robustness(x, CLUSTERS, KEY, draws=10),
    "stability": lambda x: metrics.stability(x, CLUSTERS, KEY, 5),
    "compare_networks": lambda x: metrics.compare_networks(x, x[::-1] + x, CLUSTERS, KEY, 10),
    "equal_size_coupling": lambda x: metrics.equal_size_coupling(metrics.spearman(x), np.array([0, 0, 1, 1, 2])),
    "reliability": lambda x: metrics.reliability(jnp.stack([x, x + x[::-1]])),
    "tied_shift": lambda x: metrics.tied_shift(0 * x, x),
    "difference": lambda x: metrics.difference(x, x[::-1], 1, CLUSTERS),
    "control": lambda x: metrics.control(x, x + 0.7, 1, CLUSTERS, distance=[1, 0, 1, 2, 1]),
    "order_test": lambda x: metrics.order_test(metrics.spearman(x)),
    "distance_profile": lambda x: metrics.distance_profile(metrics.spearman(x)),
    "circle_fit": lambda x: metrics.circle_fit(metrics.spearman(x), ANGLES, KEY, draws=10, steps=20).congruence,
    "ordinal circle_fit": lambda x: metrics.circle_fit(metrics.spearman(x), ANGLES, KEY, True, 5, 20).stress,
    "circumplex": lambda x: metrics.circumplex(metrics.spearman(x), ANGLES, KEY, 1, 3, 60).rmsr,
    "soft_spearman": lambda x: metrics.soft_spearman(soft(x)),
    "soft_nvat": lambda x: metrics.soft_nvat(metrics.soft_spearman(soft(x))),
    "stated_acted_gap": lambda x: metrics.stated_acted_gap(x, x[::-1]),
    "shift_levels": lambda x: metrics.shift_levels(soft(x), soft(-x)),
}
WITH_A_GRADIENT = ("gain", "gnd", "off_target", "ipsatise", "soft_spearman", "soft_nvat", "shift_levels", "regress")


# Of these every program takes seconds to compile.
LONG = (
    "noise_floor of labels",
    "amplification",
    "robustness",
    "difference",
    "circumplex",
    "circle_fit",
    "ordinal circle_fit",
    "regress",
    "noise_floor",
    "control",
    "stability",
    "compare_networks",
)
SHORT = [name for name in FUNCTIONS if name not in LONG]
ALONE = [name for name in FUNCTIONS if name not in ("bootstrap", "mean_shift")]
CORE = ("gnd", "spearman", "kendall", "nvat", "tax", "bootstrap", "order_test", "soft_nvat", "control")


def shifts(count=None, dtype=np.float32):
    shape = (CONTEXTS, VALUES) if count is None else (count, CONTEXTS, VALUES)
    rng = np.random.default_rng(0)
    return (rng.normal(0.4, 1, shape) + 0.6 * rng.normal(size=(*shape[:-1], 1))).astype(dtype)


@functools.cache
def compiled(name):
    return jax.jit(FUNCTIONS[name])


def close(one, other):
    chex.assert_trees_all_close(*(jax.tree.map(np.asarray, tree) for tree in (one, other)), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", quick(FUNCTIONS, SHORT))
def test_compiled_or_not_it_gives_one_result(name):
    x = shifts()
    close(compiled(name)(x), FUNCTIONS[name](x))


@pytest.mark.parametrize("name", quick(FUNCTIONS, CORE))
def test_a_stack_of_interventions_is_a_loop_over_them(name):
    x = jnp.asarray(shifts(3))
    together = jax.jit(jax.vmap(FUNCTIONS[name]))(x)
    for i in range(3):
        close(jax.tree.map(lambda y, i=i: y[i], together), compiled(name)(x[i]))


@pytest.mark.parametrize("name", quick(FUNCTIONS, CORE))
def test_doubles_in_doubles_out_and_the_same_numbers(name):
    with jax.enable_x64(True):
        double = jax.jit(FUNCTIONS[name])(jnp.asarray(shifts(dtype=np.float64)))
        for leaf in jax.tree.leaves(double):
            assert leaf.dtype not in (jnp.float32, jnp.float16), leaf.dtype
    if not name.startswith(
        ("boot", "noise", "ampl", "robust", "stab", "compare_n", "circ", "ord")
    ):  # those draw other numbers
        single = compiled(name)(jnp.asarray(shifts()))
        for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(double), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", quick(FUNCTIONS, CORE))
def test_shards_of_the_contexts_give_what_one_device_gives(name):
    x = shifts()
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("contexts",))
    spread = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("contexts")))
    assert len(spread.sharding.device_set) == 8
    close(compiled(name)(spread), compiled(name)(jnp.asarray(x)))


@pytest.mark.parametrize("name", WITH_A_GRADIENT)
@pytest.mark.parametrize("kind", ["plain", "constant", "ties"])
def test_gradients_are_finite(name, kind):
    x = {"plain": shifts(), "constant": np.full((CONTEXTS, VALUES), 0.5, np.float32), "ties": np.round(shifts())}[kind]

    def total(x):
        leaves = jax.tree.leaves(FUNCTIONS[name](x))
        return sum(jnp.sum(jnp.where(jnp.isnan(leaf), 0, leaf) ** 2) for leaf in leaves)

    gradient = jax.jit(jax.grad(total))(jnp.asarray(x))
    if name == "regress":  # undefined where a column is constant
        assert kind == "constant" or np.isfinite(gradient).all()
    else:
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", quick(ALONE, [name for name in ALONE if name in SHORT]))
def test_called_alone_it_compiles_once(name, caplog):
    x, y = shifts(2)
    FUNCTIONS[name](x)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        FUNCTIONS[name](y)
    found = [record.message for record in caplog.records if record.message.startswith("Compiling jit(")]
    assert not found


def test_every_metric_is_here():
    """But those that only combine numbers of others, or need more than a shift."""
    others = {
        "infer",
        "infer_shift",
        "same_gain",
        "trade_off",
        "front_shares",
        "has_dominant_cluster",
        "degrees_of_freedom",
        "detectable_effects",
        "excess_coupling",
        "disattenuate",
        "mechanical_gnd_complete",
        "rank_agreement",
        "types_against_values",
        "holm",
        "false_discovery",
        "congruence",
        "mds",
    }
    others |= {
        "procrustes",
        "as_reading",
        "bootstrap_weights",
        "jackknife_weights",
        "subsample_weights",
        "soft_midranks",
    }
    functions = {name for name in metrics.__all__ if name[0].islower()}
    assert functions - others == {name.split(" ")[0] for name in FUNCTIONS} - {"ordinal"}
