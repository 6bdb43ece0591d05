"""Metrics of 50 interventions in one call, under jit and vmap."""

import jax
import numpy as np

from vatjax import metrics, values

target = values.schwartz().mask("Power")
random = np.random.default_rng(0)
pre = random.normal(size=(200, 56)).astype(np.float32)  # [contexts, values]; NaN is a missing rating
posts = pre + random.normal(size=(50, 200, 56)).astype(np.float32) + target  # [interventions, contexts, values]

tax = jax.jit(jax.vmap(metrics.tax, in_axes=(None, 0, None)))(pre, posts, target)
print({name: np.shape(x) for name, x in tax._asdict().items()})
result = metrics.infer(
    pre, posts[0], target, clusters=None, key=jax.random.key(0)
)  # intervals, floors and p of one intervention
print(result)
