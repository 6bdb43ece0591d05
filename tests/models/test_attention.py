"""Attention against its formula in float64, and which implementation each device gets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vatjax.models import attention

pytestmark = pytest.mark.fast_compile


def written_out(query, key, value, allowed, scale, cap):
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    group = query.shape[2] // key.shape[2]
    key, value = (np.repeat(x, group, axis=2) for x in (key, value))
    score = np.einsum("bthd,bshd->bhts", query, key) * scale
    score = cap * np.tanh(score / cap) if cap else score
    score = np.where(np.asarray(allowed)[:, None], score, -np.inf)
    share = np.exp(score - score.max(-1, keepdims=True))
    return np.einsum("bhts,bshd->bthd", share / share.sum(-1, keepdims=True), value)


@pytest.mark.parametrize("cap", [0.0, 2.0])
def test_attention_is_its_formula(cap):
    query, key, value = (
        jax.random.normal(jax.random.key(i), (2, length, heads, 8)) * 2
        for i, (length, heads) in enumerate(((5, 6), (9, 2), (9, 2)))
    )
    present = jnp.ones((2, 9), bool).at[1, :3].set(False)
    allowed, back = attention.causal_mask(present, 5, 4)
    assert np.array_equal(back[0, 0], np.arange(4, -5, -1))
    found = attention.attend(query, key, value, allowed, 0.3, cap)
    np.testing.assert_allclose(found, written_out(query, key, value, allowed, 0.3, cap), rtol=0, atol=2e-6)


@pytest.mark.parametrize("cap", [0.0, 2.0])
def test_padding_that_sees_nothing_is_finite_and_has_finite_gradients(cap):
    x = jax.random.normal(jax.random.key(0), (1, 4, 2, 8))
    allowed = attention.causal_mask(jnp.array([[False, False, True, True]]), 4)[0]
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(attention.attend(x, x, x, allowed, 1.0, cap) ** 2))(x)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("device", "dtype", "shape", "expected"),
    [
        ("cpu", "bfloat16", (1, 8, 2, 64), "xla"),
        ("tpu", "bfloat16", (1, 8, 2, 64), "xla"),
        ("gpu", "float32", (1, 8, 2, 64), "xla"),
        ("gpu", "bfloat16", (1, 8, 2, 64), "cudnn"),
        ("gpu", "bfloat16", (1, 7, 2, 64), "xla"),
        ("gpu", "bfloat16", (1, 8, 2, 60), "xla"),
        ("gpu", "bfloat16", (1, 8, 2, 256), "xla"),
    ],
)
def test_each_device_gets_what_it_can_run(monkeypatch, device, dtype, shape, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: device)
    x = jnp.zeros(shape, dtype)
    assert attention.backend(x, x) == expected
