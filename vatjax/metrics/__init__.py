"""The Value Alignment Tax as pure functions over arrays, to import alone.

    from vatjax import metrics

    metrics.gain(shift, target); metrics.gnd(shift, target)    # how far values moved
    metrics.spearman(shift); metrics.vat(r); metrics.nvat(r)   # whether they moved together
    metrics.tax(pre, post, target)                             # point estimates, one pytree
    metrics.infer(pre, post, target, clusters, key)            # with intervals, floor, debiased value and p

Arrays in, arrays out: contexts x values, NaN for a missing rating. Every function works under `jit` and `vmap`, and under
`grad` where it has a gradient; clusters are concrete, since their number decides shapes.
"""

from vatjax.metrics.circle import OrderTest, distance_profile, order_test
from vatjax.metrics.circumplex import Circumplex, circumplex
from vatjax.metrics.control import Control, control
from vatjax.metrics.coupling import READINGS, Reading, as_reading, gini, hubs, kendall, nvat, spearman, vat
from vatjax.metrics.difference import Difference, difference
from vatjax.metrics.inference import Coupled, Inference, Moved, Tax, infer, tax
from vatjax.metrics.intervals import Estimate
from vatjax.metrics.null import Null, floor
from vatjax.metrics.reading import (
    Amplification,
    Robustness,
    agreement,
    amplification,
    equal_membership_hubs,
    robustness,
    types_against_values,
)
from vatjax.metrics.regression import Regression, false_discovery, holm, regress
from vatjax.metrics.resample import bootstrap, bootstrap_weights, couplings, jackknife_weights, subsample_weights
from vatjax.metrics.scaling import CircleFit, circle_fit, congruence, mds, procrustes
from vatjax.metrics.shifts import gain, gnd, ipsatise, mean_shift, mechanical, off_target, shift
from vatjax.metrics.soft import shift_levels, soft_midranks, soft_nvat, soft_spearman
from vatjax.metrics.stated import Gap, gap

__all__ = [
    "READINGS",
    "Amplification",
    "CircleFit",
    "Circumplex",
    "Control",
    "Coupled",
    "Difference",
    "Estimate",
    "Gap",
    "Inference",
    "Moved",
    "Null",
    "OrderTest",
    "Reading",
    "Regression",
    "Robustness",
    "Tax",
    "agreement",
    "amplification",
    "as_reading",
    "bootstrap",
    "bootstrap_weights",
    "circle_fit",
    "circumplex",
    "congruence",
    "control",
    "couplings",
    "difference",
    "distance_profile",
    "equal_membership_hubs",
    "false_discovery",
    "floor",
    "gain",
    "gap",
    "gini",
    "gnd",
    "holm",
    "hubs",
    "infer",
    "ipsatise",
    "jackknife_weights",
    "kendall",
    "mds",
    "mean_shift",
    "mechanical",
    "nvat",
    "off_target",
    "order_test",
    "procrustes",
    "regress",
    "robustness",
    "shift",
    "shift_levels",
    "soft_midranks",
    "soft_nvat",
    "soft_spearman",
    "spearman",
    "subsample_weights",
    "tax",
    "types_against_values",
    "vat",
]
