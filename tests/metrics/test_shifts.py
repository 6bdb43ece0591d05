import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vatjax import metrics, values

pytestmark = pytest.mark.fast_compile

D = np.array([[1.0, 0.5, -1.0], [2.0, np.nan, 0.0], [0.0, 0.5, 4.0]], np.float32)


class ShiftVariants(chex.TestCase):
    @chex.all_variants
    def test_gain_is_the_directed_mean_of_the_target(self):
        gain = self.variant(lambda d: metrics.gain(d, 0, direction=-1))
        np.testing.assert_allclose(gain(D), -1.0)

    @chex.all_variants
    def test_gnd_is_signed_and_divides_by_the_gains_size(self):
        gnd = self.variant(lambda d: metrics.gnd(d, 0, direction=-1))
        np.testing.assert_allclose(gnd(D), [1.0, 0.5, 1.0])

    @chex.all_variants
    def test_an_unresolved_gain_gives_nan(self):
        gnd = self.variant(lambda d, resolved: metrics.gnd(d, 0, resolved=resolved))
        assert np.isnan(gnd(D, jnp.asarray(False))).all()
        assert np.isnan(gnd(D * 0, jnp.asarray(True))).all()


def test_shift_is_post_minus_pre_and_refuses_other_shapes():
    np.testing.assert_array_equal(metrics.shift(np.ones((2, 2)), np.full((2, 2), 3)), np.full((2, 2), 2.0))
    with pytest.raises(ValueError, match="one shape"):
        metrics.shift(np.ones((2, 2)), np.ones((3, 2)))


def test_a_target_of_several_values_is_their_mean():
    mask = np.array([True, False, True])
    np.testing.assert_allclose(metrics.gain(D, mask), 1.0)
    np.testing.assert_allclose(metrics.gain(D, mask.astype(np.float32)), 1.0)


def test_missing_ratings_are_left_out_and_weights_count_contexts():
    np.testing.assert_allclose(metrics.mean_shift(D), [1.0, 0.5, 1.0])
    weights = np.array([2.0, 5.0, 0.0])
    np.testing.assert_allclose(metrics.mean_shift(D, weights), [12 / 7, 0.5, -2 / 7], rtol=1e-6)
    assert np.isnan(metrics.mean_shift(np.full((2, 1), np.nan, np.float32)))
    repeated = D[np.repeat(np.arange(3), [2, 5, 0])]
    np.testing.assert_allclose(metrics.gnd(D, 0, weights=weights), metrics.gnd(repeated, 0), rtol=1e-6)


def test_no_member_of_the_target_counts_as_off_target():
    gnd = np.array([9.0, -0.5, 0.1, np.nan], np.float32)
    np.testing.assert_allclose(metrics.off_target(gnd, 0), 0.3)
    np.testing.assert_allclose(metrics.off_target(gnd, np.array([True, True, False, False])), 0.1)


def test_ipsatising_takes_the_contexts_mean_and_has_a_mechanical_effect():
    plain = metrics.ipsatise(D)
    np.testing.assert_allclose(np.nanmean(plain, 1), 0, atol=1e-6)
    assert np.isnan(plain[1, 1])
    only_target = np.zeros((5, 10), np.float32)
    only_target[:, 3] = 2.0
    off = np.arange(10) != 3
    np.testing.assert_allclose(
        metrics.gnd(metrics.ipsatise(only_target), 3)[off], metrics.mechanical_gnd_complete(3, 10), rtol=1e-6
    )
    two = np.isin(np.arange(10), [3, 4])
    only_target[:, 4] = 2.0
    np.testing.assert_allclose(
        metrics.gnd(metrics.ipsatise(only_target), two)[~two], metrics.mechanical_gnd_complete(two, 10), rtol=1e-6
    )


def test_a_name_is_no_target_here():
    with pytest.raises(TypeError, match=r"taxonomy\.mask\('Power'\)"):
        metrics.gain(D, "Power")
    with pytest.raises(ValueError, match="one of 3 values, found the index 3"):
        metrics.gain(np.zeros((2, 3)), 3)
    with pytest.raises(ValueError, match="a mask of 3 values"):
        metrics.gain(D, values.schwartz().mask("Power"))


def test_gradients_are_finite_where_a_gain_is_zero_or_ratings_are_missing():
    gradient = jax.grad(lambda d: jnp.nansum(metrics.gnd(d, 0)))
    assert np.isfinite(gradient(jnp.zeros((3, 2)))).all()
    assert np.isfinite(gradient(jnp.asarray(D))).all()
    np.testing.assert_allclose(jax.grad(lambda d: metrics.gain(d, 0))(jnp.asarray(D))[:, 0], 1 / 3, rtol=1e-6)


def test_integers_and_doubles():
    assert metrics.gain(np.ones((2, 2), np.int32), 0).dtype == jnp.float32
    with jax.enable_x64(True):
        assert metrics.gain(np.ones((2, 2)), 0).dtype == jnp.float64


def test_vmap_over_interventions_and_targets():
    d = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6, 3)), jnp.float32)
    targets = jnp.array([0, 1, 2, -1])
    together = jax.vmap(metrics.gnd)(d, targets)
    one_by_one = jnp.stack([metrics.gnd(x, int(t)) for x, t in zip(d, targets, strict=True)])
    np.testing.assert_allclose(together, one_by_one, rtol=1e-6)
