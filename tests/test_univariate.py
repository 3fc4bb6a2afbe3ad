"""Marginals and conditionals of a BivariateMixture: one-dimensional mixtures, against 60-digit arithmetic.

The exact numbers are by the textbook: each component's marginal, and its regression on the coordinate that is given.
That conditional times marginal is the joint density is tested apart.

Errors are measured in eps of the sum of the magnitudes of the terms a number is made of, as in test_accuracy.py; but
here logarithms of weights and standard deviations are terms: this is plain NumPy, which takes them and goes back.
"""

import itertools
from typing import NamedTuple

import mpmath
import numpy as np
import pytest
from checks import FALSE_ALARM, FLOATS
from mpmath import mp
from problems import mixture, network_output, parameters
from reference import EPS, EXACT, raw_mixture
from scipy import stats

from cymdn import BivariateMixture


class Line(NamedTuple):
    """A one-dimensional mixture in 60 digits."""

    weights: np.ndarray
    means: np.ndarray
    stddevs: np.ndarray

    def mean(self):
        return (self.weights * self.means).sum()

    def variance(self):
        return (self.weights * (self.stddevs**2 + (self.means - self.mean()) ** 2)).sum()

    def pdf(self, x):
        return (self.weights * normal_pdf(x, self.means, self.stddevs)).sum()

    def cdf(self, x):
        # erfc of a positive argument, so that no tail is a difference from 1
        z = (self.means - x) / (self.stddevs * mpmath.sqrt(2))
        return (self.weights * np.frompyfunc(mpmath.erfc, 1, 1)(z)).sum() / 2


def normal_pdf(x, mean, sigma):
    return EXACT.exp(-(((x - mean) / sigma) ** 2) / 2) / (sigma * mpmath.sqrt(2 * mp.pi))


def marginal_exact(arrays, axis):
    weights, means, stddevs, _ = map(EXACT.real, arrays)
    return Line(weights, means[:, axis], stddevs[:, axis])


def conditional_exact(arrays, axis, value):
    """By the textbook: regression on the given coordinate."""
    weights, means, stddevs, r = map(EXACT.real, arrays)
    (given, other), (s_given, s_other) = ((a[:, axis], a[:, 1 - axis]) for a in (means, stddevs))
    shares = weights * normal_pdf(value, given, s_given)
    regression = other + r * s_other * (value - given) / s_given
    return Line(shares / shares.sum(), regression, s_other * EXACT.sqrt(1 - r**2))


X = (-37.0, -8.0, -1.0, 0.0, 0.3, 2.0, 9.0, 40.0)
SEEDS = range(4)
# eps of the terms: log, exp and their sums over some components, each rounded a few times
BOUND = 16


def assert_line(line, exact):
    """Assert all values of a one-dimensional mixture against the exact one."""
    log_sigma = abs(EXACT.log(exact.stddevs))
    for x in X:
        z = (abs(x) + abs(exact.means)) / exact.stddevs  # both are rounded before they are subtracted
        # log sigma is rounded, and exp makes that a relative error of z, twice one of its square
        terms = EPS * BOUND * (1 + log_sigma + z**2 / 2 * (2 + 2 * log_sigma)).max()
        density, below = exact.pdf(x), exact.cdf(x)
        assert abs(line.logpdf(x) - mpmath.log(density)) <= terms
        assert abs(line.pdf(x) - density) <= terms * density + 1e-300
        # the slope of the log of a normal tail is that of its density
        assert abs(line.cdf(x) - below) <= terms * below + 1e-300
    assert abs(line.mean() - exact.mean()) <= BOUND * EPS * (exact.weights * abs(exact.means)).sum()
    spread = (exact.weights * (exact.stddevs**2 + (abs(exact.means) + abs(exact.mean())) ** 2)).sum()
    assert abs(line.variance() - exact.variance()) <= BOUND * EPS * spread


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("m", [1, 4])
def test_marginals_and_conditionals_are_exact_to_rounding(m, axis):
    for seed in SEEDS:
        arrays = parameters(m, seed=seed)
        assert_line(BivariateMixture(*arrays).marginal(axis), marginal_exact(arrays, axis))
        for value in (0.25, -3.0):
            assert_line(BivariateMixture(*arrays).conditional(axis, value), conditional_exact(arrays, axis, value))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_conditional_times_marginal_of_raw_output_is_the_joint_density(scale, axis):
    # correlations up to 1 - 1e-5
    for seed in SEEDS:
        raw, point = network_output(3, seed=seed), np.random.default_rng(seed).normal(size=2)
        raw[-3:] *= scale
        single = BivariateMixture.from_network_output(raw)
        given, other = point[axis], point[1 - axis]
        product = single.conditional(axis, given).logpdf(other) + single.marginal(axis).logpdf(given)
        exact = raw_mixture(EXACT, point[None], raw[None]).value.exact[0]
        # conditioning on the offset: its rounding, divided by the conditional sigma
        a = abs(raw[-3:]).max()
        assert abs(product - exact) <= 64 * EPS * np.exp(2 * a) * (1 + abs(exact))


def test_cdf_has_the_limits_of_a_distribution_function_whatever_the_rounding_of_the_weights():
    for line in (mixture(20).marginal(0), mixture(20).conditional(0, 1.0)):
        np.testing.assert_array_equal(line.cdf([-np.inf, -1e300]), 0.0)
        np.testing.assert_allclose(line.cdf([1e300, np.inf]), 1.0, rtol=0, atol=4 * EPS)
        assert (line.cdf([1e300, np.inf]) <= 1.0).all()
        assert np.isnan(line.cdf(np.nan))
        assert (np.diff(line.cdf(np.linspace(-30, 30, 1000))) >= 0).all()
    many = BivariateMixture.from_network_output(np.random.default_rng(0).normal(size=(200, 6 * 7))).marginal(0)
    assert np.exp(many._log_weights).sum(axis=-1).max() > 1  # by rounding
    assert many.cdf(1e9).max() == 1


@pytest.mark.parametrize("axis", [0, 1])
def test_parameters_and_moments_of_a_marginal_are_those_of_the_coordinate(axis):
    batch = mixture(5, (4,))
    line = batch.marginal(axis)
    # through the logarithm and back: exp of a number below 4 is off by 2 eps more
    np.testing.assert_allclose(line.weights, batch.weights, rtol=4 * EPS, atol=0)
    np.testing.assert_array_equal(line.means, batch.means[..., axis])
    np.testing.assert_allclose(line.stddevs, batch.stddevs[..., axis], rtol=4 * EPS, atol=0)
    assert (line.n_components, line.batch_shape, line.dtype) == (5, (4,), np.float64)
    np.testing.assert_allclose(line.mean(), batch.mean()[..., axis], rtol=8 * EPS, atol=8 * EPS)
    np.testing.assert_allclose(line.variance(), batch.covariance()[..., axis, axis], rtol=16 * EPS, atol=0)


# Far values


def test_far_away_the_conditional_is_that_of_the_widest_component():
    arrays = [[0.5, 0.5], [[0.0, 0.0], [1.0, 5.0]], [[1.0, 1.0], [2.0, 3.0]], [0.5, -0.25]]
    for value in (50.0, -1e3, 1e6):
        line = BivariateMixture(*arrays).conditional(0, value)
        np.testing.assert_array_equal(line.weights, [0.0, 1.0])
        np.testing.assert_allclose(line.mean(), 5.0 - 0.75 * (value - 1.0) / 2, rtol=8 * EPS, atol=0)
        np.testing.assert_allclose(line.variance(), 9.0 * (1 - 0.0625), rtol=8 * EPS, atol=0)
    # logarithms of 5e15 cost the weights of equal densities no digit
    line = BivariateMixture([0.5, 0.5], [[0.0, 0.0], [0.0, 5.0]], np.ones((2, 2)), [0.5, -0.25]).conditional(0, 1e8)
    np.testing.assert_allclose(line.weights, [0.5, 0.5], rtol=4 * EPS, atol=0)


def test_beyond_all_densities_the_weights_stay_and_an_independent_coordinate_does_not_depend_on_the_value():
    many, single = mixture(3), BivariateMixture([1.0], [[1.0, 2.0]], [[3.0, 4.0]], [0.0])
    for value in (1e200, np.inf, -np.inf):
        np.testing.assert_allclose(many.conditional(0, value).weights, many.weights, rtol=4 * EPS, atol=0)
    for value in (0.0, 1e100, np.inf, -np.inf):
        line = single.conditional(0, value)
        assert line.mean() == 2.0
        np.testing.assert_allclose(line.variance(), 16.0, rtol=4 * EPS, atol=0)


def test_a_nan_value_gives_nan_and_touches_no_other():
    single, values = mixture(3), np.array([0.5, np.nan, -0.5])
    line = single.conditional(0, values)
    good = single.conditional(0, values[[0, 2]])
    for ask in ("mean", "variance"):
        assert np.isnan(getattr(line, ask)()[1])
        np.testing.assert_array_equal(getattr(line, ask)()[[0, 2]], getattr(good, ask)())
    for ask in ("pdf", "logpdf", "cdf"):
        assert np.isnan(getattr(line, ask)(0.25)[1])
        np.testing.assert_array_equal(getattr(line, ask)(0.25)[[0, 2]], getattr(good, ask)(0.25))


@pytest.mark.parametrize("a", [16.0, -16.0])
def test_given_one_coordinate_the_other_is_as_good_as_known_at_a_correlation_of_1(a):
    line = BivariateMixture.from_network_output([0.0, 1.0, 2.0, 0.0, np.log(2.0), a]).conditional(0, 1.5)
    np.testing.assert_allclose(line.mean(), 2.0 + 2.0 * np.tanh(a) * 0.5, rtol=4 * EPS, atol=0)
    # sigma sech a, where 1 - tanh(a)^2 has no digit left
    np.testing.assert_allclose(line.stddevs, [2.0 / np.cosh(16.0)], rtol=32 * EPS, atol=0)


LINES = {
    "marginal": mixture(4).marginal(1),
    "given": mixture(4).conditional(0, 0.5),
    "given each": mixture(3).conditional(0, np.array([[-1.0, 0.0], [2.0, 5.0]])),
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_each_element_is_sampled_from_its_own_distribution(line):
    shares = line.cdf(line.sample(50_000, rng=3))
    for index in np.ndindex(line.batch_shape):
        assert stats.kstest(shares[(slice(None), *index)], "uniform", method="asymp").pvalue > FALSE_ALARM


# Shapes, dtypes, layouts


def test_dtypes_are_promoted_with_those_of_arguments():
    for ours, theirs in itertools.product(FLOATS, FLOATS):
        line, common = mixture(dtype=ours).conditional(0, theirs(0.5)), np.result_type(ours, theirs)
        assert {line.dtype, line.mean().dtype, line.sample(rng=0).dtype, line.weights.dtype} == {common}
        assert mixture(dtype=ours).marginal(0).pdf(theirs(0.5)).dtype == common


@pytest.mark.parametrize("sigma", [2.3e-308, 1e-200, 1e-30, 1e30, 1e150, 1.7e308])
def test_extreme_sigmas_are_right_not_only_numbers(sigma):
    line = BivariateMixture([1.0], [[0.0, 0.0]], [[sigma, 1.0]], [0.5]).marginal(0)
    np.testing.assert_allclose(line.logpdf(0.0), -0.5 * np.log(2 * np.pi) - np.log(sigma), rtol=1e-12, atol=0)
    np.testing.assert_allclose(line.cdf([-sigma, 0.0, sigma]), stats.norm.cdf([-1, 0, 1]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("a", [5.0, 18.0, 300.0])
def test_a_conditional_narrower_than_any_float64_has_its_density(a):
    # log sigma of the conditional one is -700 - log cosh a: its density at the mean is exp of as much
    line = BivariateMixture.from_network_output([0.0, 0.0, 0.0, 0.0, -700.0, a]).conditional(0, 0.0)
    log_sigma = -700.0 - a + np.log(2.0) - np.log1p(np.exp(-2.0 * a))
    np.testing.assert_allclose(line.logpdf(0.0), -0.5 * np.log(2 * np.pi) - log_sigma, rtol=1e-15, atol=0)
    assert line.logpdf(1e-150) == -np.inf
    np.testing.assert_array_equal(line.cdf([-1e-150, 0.0, 1e-150]), [0.0, 0.5, 1.0])


def test_a_component_of_no_share_adds_nothing_to_moments_that_overflow():
    single = BivariateMixture([0.5, 0.5], np.zeros((2, 2)), [[1.0, 1.0], [1e-200, 1e200]], [0.0, 0.5])
    line = single.conditional(0, 1.0)
    np.testing.assert_array_equal(line.weights, [1.0, 0.0])
    assert line.mean() == 0.0
    np.testing.assert_allclose(line.variance(), 1.0, rtol=4 * EPS, atol=0)
    line = BivariateMixture([1.0, 0.0], [[0.0, 0.0], [1e200, 0.0]], np.ones((2, 2)), np.zeros(2)).marginal(0)
    assert line.mean() == 0.0
    assert line.variance() == 1.0
