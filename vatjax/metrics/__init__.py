"""The Value Alignment Tax as pure functions over arrays, to import alone.

    from vatjax import metrics

    metrics.gain(shift, target); metrics.gnd(shift, target)    # how far values moved
    metrics.spearman(shift); metrics.vat(r); metrics.nvat(r)   # whether they moved together
    metrics.tax(pre, post, target)                             # point estimates, one pytree
    metrics.infer(pre, post, target, clusters, key)            # with intervals, floor, debiased value and p

Arrays in, arrays out: contexts x values, NaN for a missing rating. Every function works under `jit` and `vmap`, and under
`grad` where it has a gradient; cluster labels are concrete.
"""

from vatjax.metrics.circle import OrderTest, distance_profile, order_test
from vatjax.metrics.circumplex import Circumplex, circumplex
from vatjax.metrics.control import Control, control
from vatjax.metrics.corrections import false_discovery, holm
from vatjax.metrics.coupled import Coupled, Detectable, detectable, dominated, floor, freedom
from vatjax.metrics.coupling import (
    READINGS,
    VAT_READINGS,
    Reading,
    VatReading,
    as_reading,
    gini,
    hubs,
    kendall,
    nvat,
    spearman,
    vat,
)
from vatjax.metrics.difference import Difference, SameGain, difference, same_gain
from vatjax.metrics.front import TradeOff, front_shares, trade_off
from vatjax.metrics.inference import EqualTypes, Inference, Tax, equal_size_coupling, infer, infer_shift, tax
from vatjax.metrics.intervals import Estimate
from vatjax.metrics.mds import CircleFit, circle_fit, congruence, mds, procrustes
from vatjax.metrics.moved import Moved
from vatjax.metrics.network import NetworkComparison, compare_networks, excess
from vatjax.metrics.null import Null
from vatjax.metrics.regression import Regression, regress
from vatjax.metrics.resample import bootstrap, bootstrap_weights, couplings, jackknife_weights, subsample_weights
from vatjax.metrics.robustness import (
    Amplification,
    Robustness,
    Stability,
    agreement,
    amplification,
    disattenuate,
    reliability,
    robustness,
    stability,
    types_against_values,
)
from vatjax.metrics.shifts import gain, gnd, ipsatise, mean_shift, mechanical, off_target, shift, tied_shift
from vatjax.metrics.soft import shift_levels, soft_midranks, soft_nvat, soft_spearman
from vatjax.metrics.stated_vs_acted import Gap, gap

__all__ = [
    "READINGS",
    "VAT_READINGS",
    "Amplification",
    "CircleFit",
    "Circumplex",
    "Control",
    "Coupled",
    "Detectable",
    "Difference",
    "EqualTypes",
    "Estimate",
    "Gap",
    "Inference",
    "Moved",
    "NetworkComparison",
    "Null",
    "OrderTest",
    "Reading",
    "Regression",
    "Robustness",
    "SameGain",
    "Stability",
    "Tax",
    "TradeOff",
    "VatReading",
    "agreement",
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
    "detectable",
    "difference",
    "disattenuate",
    "distance_profile",
    "dominated",
    "equal_size_coupling",
    "excess",
    "false_discovery",
    "floor",
    "freedom",
    "front_shares",
    "gain",
    "gap",
    "gini",
    "gnd",
    "holm",
    "hubs",
    "infer",
    "infer_shift",
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
    "reliability",
    "robustness",
    "same_gain",
    "shift",
    "shift_levels",
    "soft_midranks",
    "soft_nvat",
    "soft_spearman",
    "spearman",
    "stability",
    "subsample_weights",
    "tax",
    "tied_shift",
    "trade_off",
    "types_against_values",
    "vat",
]
