"""The Value Alignment Tax as pure functions over arrays, usable on their own.

    from vatjax import metrics

    metrics.gain(shift, target); metrics.gnd(shift, target)    # mean shifts of values
    metrics.spearman(shift); metrics.vat(r); metrics.nvat(r)   # coupling of shifts
    metrics.tax(pre, post, target)                             # point estimates, one pytree
    metrics.infer(pre, post, target, clusters, key)            # with intervals, floor, debiased value and p

Inputs and outputs are arrays, contexts x values, with NaN for a missing rating. Every function works under `jit` and
`vmap`, and under `grad` where it has a gradient. Cluster labels must be concrete.
"""

from vatjax.metrics.circle import OrderTest, distance_profile, order_test
from vatjax.metrics.circumplex import circumplex
from vatjax.metrics.control import control
from vatjax.metrics.corrections import false_discovery, holm
from vatjax.metrics.coupled import (
    Coupled,
    degrees_of_freedom,
    detectable_effects,
    has_dominant_cluster,
    noise_floor,
)
from vatjax.metrics.coupling import (
    READINGS,
    Reading,
    as_reading,
    gini,
    hubs,
    kendall,
    nvat,
    spearman,
    vat,
)
from vatjax.metrics.difference import Difference, difference, same_gain
from vatjax.metrics.front import TradeOff, front_shares, trade_off
from vatjax.metrics.inference import Inference, Tax, equal_size_coupling, infer, infer_shift, tax
from vatjax.metrics.intervals import Estimate
from vatjax.metrics.mds import circle_fit, congruence, mds
from vatjax.metrics.moved import Moved
from vatjax.metrics.network import compare_networks, excess_coupling
from vatjax.metrics.regression import Regression, regress
from vatjax.metrics.resample import bootstrap, bootstrap_weights, couplings, jackknife_weights, subsample_weights
from vatjax.metrics.robustness import (
    amplification,
    disattenuate,
    rank_agreement,
    reliability,
    robustness,
    stability,
    types_against_values,
)
from vatjax.metrics.shifts import (
    gain,
    gnd,
    ipsatise,
    mean_shift,
    mechanical_gnd_complete,
    off_target,
    shift,
    tied_shift,
)
from vatjax.metrics.soft import shift_levels, soft_nvat, soft_spearman
from vatjax.metrics.stated_vs_acted import stated_acted_gap

__all__ = [
    "READINGS",
    "Coupled",
    "Difference",
    "Estimate",
    "Inference",
    "Moved",
    "OrderTest",
    "Reading",
    "Regression",
    "Tax",
    "TradeOff",
    "amplification",
    "as_reading",
    "bootstrap",
    "bootstrap_weights",
    "circle_fit",
    "circumplex",
    "compare_networks",
    "congruence",
    "control",
    "couplings",
    "degrees_of_freedom",
    "detectable_effects",
    "difference",
    "disattenuate",
    "distance_profile",
    "equal_size_coupling",
    "excess_coupling",
    "false_discovery",
    "front_shares",
    "gain",
    "gini",
    "gnd",
    "has_dominant_cluster",
    "holm",
    "hubs",
    "infer",
    "infer_shift",
    "ipsatise",
    "jackknife_weights",
    "kendall",
    "mds",
    "mean_shift",
    "mechanical_gnd_complete",
    "noise_floor",
    "nvat",
    "off_target",
    "order_test",
    "rank_agreement",
    "regress",
    "reliability",
    "robustness",
    "same_gain",
    "shift",
    "shift_levels",
    "soft_nvat",
    "soft_spearman",
    "spearman",
    "stability",
    "stated_acted_gap",
    "subsample_weights",
    "tax",
    "tied_shift",
    "trade_off",
    "types_against_values",
    "vat",
]
