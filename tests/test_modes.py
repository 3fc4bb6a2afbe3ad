"""BivariateMixture.mode: the highest maximum, to the accuracy that its flatness allows."""

import mpmath
import numpy as np
import pytest
from mpmath import mpf
from problems import mixture, network_output, parameters
from reference import EPS, EXACT, natural_mixture, score

from cymdn import BivariateMixture


def steepness(single, x):
    """Length of the score, in inverse standard deviations of the component that a point is likeliest from."""
    component = single.responsibilities(x).argmax()
    score = single.score(x)
    return np.sqrt(score @ single.covariances[component] @ score)


def highest_found(single, count=100):
    """The highest log-density above the best of many points, each moved uphill by 60 steps of mean shift."""
    grid = np.stack(np.meshgrid(*[np.linspace(-3, 3, 25)] * 2), axis=-1).reshape(-1, 2)
    x = (single.means[:, None] + grid @ np.swapaxes(np.linalg.cholesky(single.covariances), -1, -2)).reshape(-1, 2)
    x = np.concatenate([x, single.sample(2000, rng=0)])
    x = x[np.argsort(-single.logpdf(x))[:count]]
    precision = np.linalg.inv(single.covariances)
    for _ in range(60):
        shares = single.responsibilities(x)
        matrix = np.einsum("nj,jab->nab", shares, precision)
        x = np.linalg.solve(matrix, np.einsum("nj,jab,jb->na", shares, precision, single.means)[..., None])[..., 0]
    return single.logpdf(x).max()


def assert_is_the_mode(single):
    x = single.mode()
    value = single.logpdf(x)
    # both heights are rounded at the size of the log-density's terms, some tens
    assert value >= highest_found(single) - 100 * EPS * (1 + abs(value))
    assert value >= single.logpdf(single.means).max()
    # a slope of s sigma^-1 means a distance of s sigma from the maximum, and s^2 / 2 in height, at ordinary curvature
    assert steepness(single, x) < 1e-7


def overlapping(rng, m):
    weights, means, stddevs, _ = parameters(m, seed=int(rng.integers(100)))
    correlations = np.tanh(rng.choice([0.5, 1.0, 2.0]) * rng.normal(size=m))
    return BivariateMixture(weights, rng.choice([0.2, 1.0]) * means, stddevs, correlations)


def long_and_crossing(rng, m):
    angle, length = rng.uniform(0, np.pi, m), rng.choice([3.0, 10.0, 30.0]) * np.exp(0.3 * rng.normal(size=m))
    axes = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=-1).reshape(m, 2, 2)
    spread = np.stack([length, np.exp(0.1 * rng.normal(size=m))], axis=-1)
    covariances = (axes * spread[:, None] ** 2) @ np.swapaxes(axes, -1, -2)
    covariances[:, 1, 0] = covariances[:, 0, 1]
    means = 0.3 * length[:, None] * rng.normal(size=(m, 2))
    return BivariateMixture.from_covariances(rng.dirichlet(np.full(m, 10.0)), means, covariances)


def triangle(rng, m):
    # just close enough that its centre is the highest: 3 exp(-d^2 / 2)
    corners = 1.02 * np.array([[np.cos(t), np.sin(t)] for t in np.pi * np.array([0.5, 7 / 6, 11 / 6])])
    return BivariateMixture(np.full(m, 1 / m), corners, np.ones((m, 2)), np.zeros(m))


DRAWN = [*((overlapping, m) for m in (1, 2, 3, 8, 20)), *((long_and_crossing, m) for m in (2, 3, 6)), (triangle, 3)]


@pytest.mark.parametrize(("draw", "m"), DRAWN)
def test_no_point_is_higher_than_the_mode(draw, m):
    for seed in range(6 if draw is not triangle else 1):
        assert_is_the_mode(draw(np.random.default_rng(seed), m))


def test_the_mode_of_crossing_components_is_at_the_crossing():
    single = BivariateMixture([0.5, 0.5], [[30.0, 0.0], [0.0, 30.0]], [[100.0, 1.0], [1.0, 100.0]], [0.0, 0.0])
    x = single.mode()
    # on the diagonal, by symmetry; each component pulls along its own axis, where the other holds the point: 30 / 100^2
    np.testing.assert_allclose(x, [0.003, 0.003], rtol=1e-3, atol=0)
    assert single.logpdf(x) > single.logpdf(single.means).max() + 0.6
    assert steepness(single, x) < 1e-12


@pytest.mark.parametrize("turn", [0.1, 0.6, 1.1])
def test_the_mode_amid_three_long_components_is_the_centre_of_their_triangle(turn):
    # each passes the centre at 0.86 sigma; there is a lower maximum in each corner
    angle = turn + 2 * np.pi * np.arange(3) / 3
    across, along = (
        np.stack([np.cos(angle), np.sin(angle)], axis=-1),
        np.stack([-np.sin(angle), np.cos(angle)], axis=-1),
    )
    covariances = 300.0**2 * along[:, :, None] * along[:, None, :] + across[:, :, None] * across[:, None, :]
    covariances[:, 1, 0] = covariances[:, 0, 1]
    single = BivariateMixture.from_covariances(np.full(3, 1 / 3), 0.86 * across + 150.0 * along, covariances)
    np.testing.assert_allclose(single.mode(), 0.0, rtol=0, atol=1e-8)


def test_the_mode_of_one_component_and_of_equal_ones_is_their_mean():
    for a in (0.0, 3.0, -15.0, 30.0):
        raw = np.array([0.3, 1.25, -2.5, -1.0, 2.0, a])
        np.testing.assert_array_equal(BivariateMixture.from_network_output(raw).mode(), raw[1:3])
    weights, means, stddevs, correlations = parameters(1)
    np.testing.assert_array_equal(BivariateMixture(weights, means, stddevs, correlations).mode(), means[0])
    single = BivariateMixture([0.25, 0.5, 0.25], *(np.repeat(a, 3, axis=0) for a in (means, stddevs, correlations)))
    np.testing.assert_array_equal(single.mode(), means[0])


# Two round components of sigma 1 at -d/2 and d/2 have one mode up to d = 2, where it is of fourth order, then two, at
# the solutions of x = d/2 tanh(d x / 2)


def pair(distance):
    return BivariateMixture([0.5, 0.5], [[-distance / 2, 0.5], [distance / 2, 0.5]], np.ones((2, 2)), np.zeros(2))


def exact_mode(distance):
    half = mpf(distance) / 2
    if distance <= 2:
        return mpf(0)
    # bracketed: right of the branch point, left of the mean
    return mpmath.findroot(lambda x: half * mpmath.tanh(half * x) - x, (mpf("1e-9"), half), solver="anderson")


@pytest.mark.parametrize("distance", [0.0, 1e-9, 0.5, 1.0, 1.5, 1.9, 1.99, 2.01, 2.1, 2.5, 3.0, 6.0, 8.0, 20.0])
def test_two_components_merge_as_their_equation_says(distance):
    x = pair(distance).mode()
    exact = float(exact_mode(distance))
    # 8 eps of slope, divided by the curvature
    curvature = abs(1 - (distance / 2) ** 2 / np.cosh(distance / 2 * exact) ** 2)
    np.testing.assert_allclose(abs(x[0]), exact, rtol=0, atol=8 * EPS * (1 + distance) / curvature)
    np.testing.assert_allclose(x[1], 0.5, rtol=0, atol=4 * EPS)
    # of two that mirror each other, either is right
    assert pair(distance).logpdf(x) == pytest.approx(pair(distance).logpdf(x * [-1, 1]), rel=4 * EPS)


@pytest.mark.parametrize("off", [0.0, 1e-15, -1e-15, 1e-12, -1e-12, 1e-9, -1e-9])
def test_two_components_on_the_verge_of_merging_have_a_mode_where_its_flatness_puts_it(off):
    single = pair(2.0 + off)
    x = single.mode()
    # the slope is x^3 / 3 - off x: eps of it leave x free within (some 10 eps)^(1/3), and sqrt(3 off)
    assert abs(x[0]) <= (30 * EPS) ** (1 / 3) + np.sqrt(3 * abs(off))
    assert x[1] == 0.5
    assert single.logpdf(x) >= single.logpdf([0.0, 0.5]) - 2 * EPS
    assert abs(single.score(x)).max() <= 8 * EPS


@pytest.mark.parametrize("lighter", [0.49, 0.3, 1e-3])
def test_of_two_modes_the_higher_is_taken(lighter):
    for weights in ([lighter, 1 - lighter], [1 - lighter, lighter]):
        single = BivariateMixture(weights, [[-3.0, 0.0], [3.0, 0.0]], np.ones((2, 2)), np.zeros(2))
        assert np.sign(single.mode()[0]) == (1 if weights[1] > 0.5 else -1)
    # a light, narrow component can be the highest
    stddevs = [[1.0, 1.0], [lighter**2 / 1000, lighter**2 / 1000]]
    single = BivariateMixture([1 - lighter, lighter], [[0.0, 0.0], [2.0, 1.0]], stddevs, [0.0, 0.0])
    np.testing.assert_allclose(single.mode(), [2.0, 1.0], rtol=0, atol=1e-5)


# Nearly singular and extreme components


def polished(arrays, x):
    """The maximum next to x, by Newton's method on the exact slope."""

    def slope(*x):
        (found,) = score(natural_mixture(EXACT, np.array([x], object), *(array[None] for array in arrays))).exact
        return list(found)

    return mpmath.findroot(slope, tuple(mpf(float(v)) for v in x), tol=1e-25)


@pytest.mark.parametrize("seed", range(4))
def test_the_mode_is_that_of_60_digit_arithmetic(seed):
    arrays = parameters(3, seed=seed)
    single = BivariateMixture(*arrays)
    exact = np.array([float(v) for v in polished(arrays, single.mode())])
    # a slope of some eps, by a curvature of order 1
    np.testing.assert_allclose(single.mode(), exact, rtol=0, atol=1e-13)


def test_a_hundred_components_have_a_mode():
    single = mixture(100)
    assert single.logpdf(single.mode()) >= single.logpdf(single.means).max()
    assert steepness(single, single.mode()) < 1e-9


@pytest.mark.parametrize("largest", [1 - 1e-12, 1 - 2.0**-53])
def test_nearly_singular_components_beside_a_round_one(largest):
    for seed in range(4):
        weights, means, stddevs, _ = parameters(3, seed=seed)
        single = BivariateMixture(weights, means, stddevs, [largest, -largest, 0.0])
        x = single.mode()
        assert single.logpdf(x) >= single.logpdf(single.means).max()
        assert steepness(single, x) <= 1e-7


@pytest.mark.parametrize("a", [15.0, 17.0])
def test_nearly_singular_raw_components_cross(a):
    # two needles through the origin, each mean far along it
    raw = np.array([0, 0, 0.5, 0.5, 0.5, -0.5, 0, 0, 0, 0, a, -a], float)
    single = BivariateMixture.from_network_output(raw)
    x = single.mode()
    # the density at a mean lacks what both have at the crossing, times exp(-1/8)
    assert single.logpdf(x) >= single.logpdf([0.0, 0.0])
    assert single.logpdf(x) > single.logpdf(single.means).max() + np.log(2) - 0.126
    np.testing.assert_allclose(x, [0.0, 0.0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1e30, 1e150])
def test_the_mode_scales_with_its_mixture(scale):
    weights, means, stddevs, correlations = parameters(4)
    plain = BivariateMixture(weights, means, stddevs, correlations).mode()
    scaled = BivariateMixture(weights, scale * means, scale * stddevs, correlations).mode()
    np.testing.assert_allclose(scaled, scale * plain, rtol=1e-9, atol=1e-12 * scale)


def test_sigmas_of_1e_30_and_of_1e30_do_not_meet():
    means, stddevs = [[1.0, 2.0], [1e30, 1.0]], [[1e-30, 1e-30], [1e30, 1e30]]
    np.testing.assert_array_equal(BivariateMixture([0.5, 0.5], means, stddevs, [0.5, 0.5]).mode(), means[0])
    # 1e-200 as likely, and 1e120 as dense
    np.testing.assert_allclose(
        BivariateMixture([1e-200, 1.0], means, stddevs, [0.5, 0.5]).mode(), means[1], rtol=1e-12, atol=1e18
    )


@pytest.mark.parametrize("log_sigma", [-1e308, -1e4, 1e4, 1e308])
def test_sigmas_beyond_all_bounds_have_a_mode(log_sigma):
    raw = np.array([0.0, 1.5, -2.5, log_sigma, log_sigma, 0.5])
    np.testing.assert_array_equal(BivariateMixture.from_network_output(raw).mode(), [1.5, -2.5])


def test_modes_of_raw_output_are_those_of_its_natural_parameters():
    network = BivariateMixture.from_network_output(network_output(4, (20,)))
    natural = BivariateMixture(network.weights, network.means, network.stddevs, network.correlations)
    # parameters rounded by some eps move a maximum of curvature 1 by as much
    np.testing.assert_allclose(network.mode(), natural.mode(), rtol=0, atol=1e-12)
