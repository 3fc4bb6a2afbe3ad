"""Probabilities of rectangles and intervals, and quantiles: against 40 digits, and by what must hold of them."""

import math
from functools import partial

import mpmath
import numpy as np
import pytest
from checks import INF, NAN, assert_same_bits
from mpmath import mp, mpf
from problems import mixture, network_output
from reference import EPS

from cymdn import BivariateMixture

SINGLE = [0.0, 0.0, 0.0, 0.0, 0.0]  # raw output of a standard component, but for its atanh correlation


def standard(a):
    """One component of means 0 and stddevs 1."""
    return BivariateMixture.from_network_output([*SINGLE, a])


# Against 40 digits. The integral over the first coordinate of its density times the conditional probability of the
# second is log-concave: between the points where it has fallen by so many nats, Gauss-Legendre quadrature is exact.


def between(low, high):
    """Probability of an interval under the standard normal distribution."""
    if low + high > 0:
        low, high = -high, -low
    return (mpmath.erfc(-high / mpmath.sqrt(2)) - mpmath.erfc(-low / mpmath.sqrt(2))) / 2


def bisected(holds, inside, outside):
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if holds(middle) else (inside, middle)
    return inside


def exact_log_probability(lower, upper, a):
    with mp.workdps(40):
        a, far = mpf(float(a)), mpf(10) ** 8
        r, s = mpmath.tanh(a), mpmath.sech(a)
        (l0, l1), (u0, u1) = ([min(max(mpf(float(k)), -far), far) for k in limits] for limits in (lower, upper))

        def density(x):
            return mpmath.npdf(x) * between((l1 - r * x) / s, (u1 - r * x) / s)

        low, high = l0, u0
        for _ in range(150):
            left, right = low + (high - low) * mpf("0.4"), low + (high - low) * mpf("0.6")
            # where both are 0 to all digits, toward the strip
            f, g = density(left), density(right)
            low, high = (left, high) if f < g or (f == g == 0 and right < l1 / r) else (low, right)
        top = (low + high) / 2
        peak = density(top)
        cuts = {top, l0, u0}
        for end in (l0, u0):
            for fall in (0.5, 2, 5, 10, 18, 28, 40, 60, 90):
                cuts.add(bisected(lambda x, fall=fall: density(x) > peak * mpmath.exp(-fall), top, end))
        cuts = sorted(cut for cut in cuts if density(cut) > peak * mpmath.exp(-91) or cut == top)
        # quad stops at an absolute error
        return mpmath.log(peak) + mpmath.log(mpmath.quad(lambda x: density(x) / peak, cuts, maxdegree=6))


CASES = {
    "ordinary": ((-1.0, -0.5), (0.75, 1.5), 0.625),
    "negative correlation": ((-0.25, -2.0), (1.0, 0.125), -1.5),
    "quadrant in the tail": ((-INF, -INF), (-9.0, -6.5), 0.75),
    "15 standard deviations away": ((10.0, -12.0), (11.0, -11.0), -0.5),
    "against the correlation": ((12.0, -16.0), (12.5, -15.0), 1.25),
    "a corner 34 standard deviations away": ((30.5, 14.75), (37.25, 22.75), 1.0),
    "a side that ends in such a corner": ((28.25, 17.25), (32.75, 22.75), 1.0),
    "tiny": ((1.0, -1.0), (1.0 + 2.0**-10, -1.0 + 2.0**-10), 1.0),
    "across a ridge": ((-0.5, -0.625), (0.75, 0.5), 12.0),
    "beside a ridge": ((0.25, 0.5), (0.75, 1.0), 3.5),
    "on a ridge, as wide": ((0.5, 0.5), (0.5 + 2.0**-30, 0.5 + 2.0**-30), -14.0),
    "a corner on a ridge": ((0.5, 0.5), (INF, INF), 16.0),
    "a corner on a ridge, and another beside it": ((0.5, 0.5), (1.5, 0.5 + 2.0**-20), 15.0),
    "half plane of a ridge": ((-INF, -INF), (0.5, 0.25), 9.0),
}


@pytest.mark.parametrize("case", CASES)
def test_rectangles_are_exact(case):
    lower, upper, a = CASES[case]
    exact = exact_log_probability(lower, upper, a)
    got = standard(a).log_probability(lower, upper)
    assert abs(mpf(float(got)) - exact) <= 8 * EPS * (1 + abs(exact))
    np.testing.assert_allclose(
        standard(a).probability(lower, upper), float(mpmath.exp(exact)), rtol=8 * EPS * (1 + abs(float(exact))), atol=0
    )


def test_a_tail_of_34000_nats_is_known_to_its_last_digits():
    # the corner (-200, -200) of independent coordinates: two tails
    exact = 2 * mpmath.log(between(mpf(-(10**4)), mpf(-200)))
    got = standard(0.0).log_probability([-INF, -INF], [-200.0, -200.0])
    assert abs(mpf(float(got)) / exact - 1) <= 2 * EPS


@pytest.mark.parametrize("a", [0.0, 0.1, -0.9, 2.0, -5.0, 12.0, 18.0, -40.0])
def test_a_quadrant_has_the_known_probability(a):
    # Sheppard 1899: 1/4 + asin(r) / (2 pi)
    exact = mpf("0.25") + mpmath.asin(mpmath.tanh(mpf(a))) / (2 * mp.pi)
    assert abs(mpf(float(standard(a).cdf([0.0, 0.0]))) - exact) <= 4 * EPS * exact + 1e-17


def test_a_mixture_adds_what_its_components_hold():
    m = mixture(4)
    lower, upper = np.array([-1.0, -2.0]), np.array([2.0, 0.5])
    parts = [
        w * BivariateMixture([1.0], mean[None], stddev[None], [r]).probability(lower, upper)
        for w, mean, stddev, r in zip(m.weights, m.means, m.stddevs, m.correlations, strict=True)
    ]
    np.testing.assert_allclose(m.probability(lower, upper), sum(parts), rtol=4 * EPS, atol=0)
    raw = network_output(4)
    shifted = raw + np.repeat([300.0, 0.0], [4, 20])  # softmax does not see it
    shares = [BivariateMixture.from_network_output(r).log_probability(lower, upper) for r in (raw, shifted)]
    np.testing.assert_allclose(*shares, rtol=0, atol=500 * EPS)


# What must hold, of nasty numbers


def nasty(rng, n):
    """Mixtures of one component far from all that is ordinary, and rectangles around and beside them."""
    log_stddev = rng.uniform(-690, 690, (n, 2))
    sigma = np.exp(log_stddev)
    mean = np.where(rng.random((n, 2)) < 0.5, 0.0, sigma * rng.normal(size=(n, 2)))
    a = rng.choice([-1, 1], n) * 10.0 ** rng.uniform(-3, 2.9, n)
    lower = mean + sigma * rng.normal(size=(n, 2)) * 10.0 ** rng.uniform(-3, 3, (n, 1))
    upper = lower + sigma * 10.0 ** rng.uniform(-3, 3, (n, 2))
    middle = lower + (upper - lower) * rng.random((n, 2))
    lower[rng.random((n, 2)) < 0.2] = -INF
    upper[rng.random((n, 2)) < 0.2] = INF
    raw = np.concatenate([np.zeros((n, 1)), mean, log_stddev, a[:, None]], axis=-1)
    return BivariateMixture.from_network_output(raw), lower, middle, upper


@pytest.mark.parametrize("seed", range(4))
def test_the_parts_of_a_rectangle_add_up_to_the_whole(seed):
    mixtures, lower, middle, upper = nasty(np.random.default_rng(seed), 5000)
    whole = mixtures.log_probability(lower, upper)
    assert (whole <= 0).all()
    parts = []
    for side in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        right = np.array(side, bool)
        parts.append(mixtures.log_probability(np.where(right, middle, lower), np.where(right, upper, middle)))
    with np.errstate(over="ignore"):
        total = np.logaddexp.reduce(parts, axis=0)
    # what an ulp of the limits does to a rectangle that is narrow beside its distance from the mean
    np.testing.assert_allclose(total, whole, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("a", "far"), [(12.0, 1e4), (15.0, 1e4), (18.0, 30.0), (-25.0, 1.0), (40.0, 1.0)])
def test_a_tiny_rectangle_beside_a_ridge_holds_no_more_than_a_strip(a, far):
    rng = np.random.default_rng(0)
    m, lower = standard(a), far * rng.normal(size=(20_000, 2))
    for ulps in (1, 64, 4096):
        upper = lower + ulps * np.spacing(lower)
        upper, low = np.maximum(lower, upper), np.minimum(lower, upper)
        value = m.log_probability(low, upper)
        assert not np.isnan(value).any()
        for axis in (0, 1):
            strip = m.marginal(axis).log_probability(low[:, axis], upper[:, axis])
            assert (value <= strip + 1e-9 * (1 + abs(strip))).all()


def test_turning_and_mirroring_the_plane_changes_nothing():
    rng = np.random.default_rng(0)
    a, lower = rng.uniform(-15, 15, 500), rng.normal(size=(500, 2))
    upper = lower + rng.exponential(size=(500, 2))
    raw = np.concatenate([np.zeros((500, 5)), a[:, None]], axis=-1)
    value = BivariateMixture.from_network_output(raw).log_probability(lower, upper)
    swapped = BivariateMixture.from_network_output(raw).log_probability(lower[:, ::-1], upper[:, ::-1])
    turned = BivariateMixture.from_network_output(raw).log_probability(-upper, -lower)
    raw[:, 5] = -a
    mirrored = BivariateMixture.from_network_output(raw).log_probability(
        np.stack([-upper[:, 0], lower[:, 1]], axis=-1), np.stack([-lower[:, 0], upper[:, 1]], axis=-1)
    )
    for other in (swapped, turned, mirrored):
        # the corner of a rectangle beside a ridge is off by an ulp over sech a standard deviations
        np.testing.assert_allclose(other, value, rtol=1e-9, atol=1e-9)


def test_a_strip_is_an_interval_of_a_coordinate():
    m = mixture(3, (5,))
    strip = m.probability([-0.5, -INF], [1.25, INF])
    np.testing.assert_allclose(strip, m.marginal(0).probability(-0.5, 1.25), rtol=16 * EPS, atol=0)
    strip = m.log_probability([-INF, 30.0], [INF, INF])
    np.testing.assert_allclose(strip, m.marginal(1).log_probability(30.0, INF), rtol=16 * EPS, atol=0)
    np.testing.assert_allclose(m.probability([-INF, -INF], [INF, INF]), 1.0, rtol=4 * EPS, atol=0)
    np.testing.assert_array_equal(m.cdf([0.25, 0.5]), m.probability([-INF, -INF], [0.25, 0.5]))


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        ([0.0, 0.0], [0.0, 1.0], 0.0),
        ([0.0, 1.0], [1.0, 0.0], 0.0),
        ([INF, 0.0], [INF, 1.0], 0.0),
        ([-INF, -INF], [-INF, 1.0], 0.0),
        ([NAN, 0.0], [1.0, 1.0], NAN),
        ([0.0, 0.0], [1.0, NAN], NAN),
        ([1e200, 0.0], [1e300, 1.0], 0.0),
    ],
)
def test_limits_of_limits(lower, upper, expected):
    np.testing.assert_array_equal(mixture().probability(lower, upper), expected)
    with np.errstate(divide="ignore"):
        np.testing.assert_array_equal(mixture().log_probability(lower, upper), np.log(expected))


def test_limits_broadcast_with_the_batch():
    m, upper = mixture(2, (3, 1)), np.ones(2)
    lower = np.random.default_rng(0).normal(size=(4, 2)) - 1.0
    assert_same_bits(m[2, 0].probability(lower, upper), m.probability(lower, upper)[2])
    assert m.probability(np.empty((0, 3, 1, 2)), upper).shape == (0, 3, 1)
    assert isinstance(m[0, 0].probability([0.0, 0.0], [1.0, 1.0]), np.float64)


def test_workers_give_the_same_bits():
    m, rng = mixture(5), np.random.default_rng(0)
    lower = rng.normal(size=(2000, 2)) - 1.0
    assert_same_bits(m.probability(lower, [1.0, 1.0], workers=3), m.probability(lower, [1.0, 1.0]))
    line, p = m.marginal(0), rng.random(2000)
    assert_same_bits(line.ppf(p, workers=3), line.ppf(p))
    assert_same_bits(line.probability(lower[:, 0], 1.0, workers=3), line.probability(lower[:, 0], 1.0))


# On a line


@pytest.mark.parametrize(
    ("low", "high"),
    [(-1.0, 1.0), (0.25, 0.26), (-INF, -37.0), (8.0, 9.0), (-0.5, INF), (30.0, 30.0 + 2.0**-20), (-1e-3, 1e-3)],
)
def test_an_interval_is_exact(low, high):
    line = standard(0.0).marginal(0)
    exact = between(*(mpf(float(np.clip(k, -1e4, 1e4))) for k in (low, high)))
    got = line.probability(low, high)
    assert abs(mpf(float(got)) - exact) <= 4 * EPS * exact * (1 + abs(mpmath.log(exact)))
    assert abs(mpf(float(line.log_probability(low, high))) - mpmath.log(exact)) <= 4 * EPS * (
        1 + abs(mpmath.log(exact))
    )


def test_limits_of_an_interval():
    line = mixture(3, (2,)).marginal(1)
    np.testing.assert_array_equal(line.probability([1.0, NAN], [0.0, 1.0]), [0.0, NAN])
    np.testing.assert_array_equal(line.log_probability(1.0, 1.0), [-INF, -INF])
    np.testing.assert_allclose(line.probability(-INF, INF), 1.0, rtol=4 * EPS, atol=0)
    np.testing.assert_allclose(line.cdf([-INF, INF]), [0.0, 1.0], rtol=4 * EPS, atol=0)


P = [1e-300, 1e-100, 1e-20, 1e-3, 0.1, 0.29999, 0.3, 0.5, 0.8999, 0.9, 1 - 1e-9, 1 - EPS]
LINES = {
    "overlapping": ([0.2, 0.5, 0.3], [-1.0, 0.0, 2.0], [1.0, 0.5, 2.0]),
    "far apart": ([0.3, 0.6, 0.1], [-3.0, 0.0, 50.0], [1.0, 0.01, 2.0]),
    "wide and narrow": ([0.9, 0.1], [0.0, 0.25], [1e-200, 1e200]),
    "at a distance": ([0.5, 0.5], [1e9, 1e9 + 1.0], [1.0, 2.0]),
    "beside one of weight 0": ([1.0, 0.0], [5.0, 0.0], [1e-8, 1.0]),
}


@pytest.mark.parametrize("name", LINES)
def test_the_distribution_function_of_a_quantile_is_the_probability(name):
    w, means, stddevs = map(np.array, LINES[name])
    pair = partial(np.stack, axis=-1)
    line = BivariateMixture(w, pair([means, means]), pair([stddevs, stddevs]), np.zeros(len(w))).marginal(0)
    x = line.ppf(P)
    assert (np.diff(x) >= 0).all()
    # numbers next to each other may be apart in what the distribution function tells apart
    step = np.abs(line.pdf(x) * np.spacing(x))
    assert (abs(line.cdf(x) - P) <= 1e-12 * np.array(P) + step).all()
    above = 1 - np.array(P)
    assert (abs(line.probability(x, INF) - above) <= 1e-12 * above + step).all()


@pytest.mark.parametrize("total", [1 - 9e-7, 1 + 9e-7])
def test_quantiles_of_weights_that_are_rounded_are_the_inverse_too(total):
    line = BivariateMixture(
        [0.3 * total, 0.7 * total], [[0.0, 0.0], [3.0, 1.0]], [[1.0, 1.0]] * 2, [0.0, 0.0]
    ).marginal(0)
    p = np.array([1e-9, 0.25, 0.4999999, 0.5, 0.5000001, 0.6, 0.99])
    assert (np.diff(line.ppf(p)) > 0).all()
    np.testing.assert_allclose(line.cdf(line.ppf(p)), p, rtol=1e-12, atol=0)
    assert line.ppf(1 - 1e-9) == INF if total < 1 else np.isfinite(line.ppf(1 - 1e-9))


def test_limits_of_quantiles():
    line = mixture(3, (2,)).marginal(0)
    np.testing.assert_array_equal(line.ppf([[0.0], [1.0], [-0.1], [1.1], [NAN]])[:, 0], [-INF, INF, NAN, NAN, NAN])
    assert line.ppf(np.full((4, 1), 0.5)).shape == (4, 2)
    assert math.isclose(standard(0.0).marginal(0).ppf(0.975), 1.959963984540054, rel_tol=4 * EPS)
    symmetric = BivariateMixture([0.5, 0.5], [[-4.0, 0.0], [4.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [0.0, 0.0])
    assert symmetric.marginal(0).ppf(0.5) == 0.0
