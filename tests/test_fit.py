"""fit_mixture, BivariateMixture.fit: maximum likelihood, where that is known; what arguments and units do to it."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from checks import INF, NAN, assert_same_bits, each_dtype
from problems import each_layout, parameters

from cymdn import BivariateMixture, _points, fit_mixture

OLD_FAITHFUL = Path(__file__).resolve().parents[1] / "examples" / "old_faithful.csv"

# The maximum of the likelihood of two components, to the digits given: weights, means, stddevs, correlations
WEIGHTS = (0.64412711, 0.35587289)
MEANS = ((4.28966204, 79.968116), (2.03638853, 54.47851715))
STDDEVS = ((0.41227218, 6.00384868), (0.26299759, 5.80493638))
CORRELATIONS = (0.38000998, 0.28504142)


@pytest.fixture(scope="module")
def eruptions():
    """272 eruptions of Old Faithful: their minutes, and those to the next (Azzalini and Bowman 1990)."""
    return np.loadtxt(OLD_FAITHFUL, delimiter=",", skiprows=1)


def clusters(n=600, m=3, seed=0):
    """Points of m well-separated components, and the mixture that they were drawn from, the heaviest first."""
    weights = np.arange(m, 0, -1) / (m * (m + 1) / 2)
    _, _, stddevs, correlations = parameters(m, seed=seed)
    means = 12.0 * np.stack([np.cos(np.arange(m)), np.sin(np.arange(m))], axis=-1)
    true = BivariateMixture(weights, means, stddevs, correlations)
    return true.sample(n, rng=seed), true


def assert_same_mixture(got, expected, rtol=1e-6, atol=1e-6):
    """Assert the same parameters, of components in the same order."""
    for name in ("weights", "means", "stddevs", "correlations"):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize("seed", range(5))
def test_old_faithful_is_fitted_to_the_maximum(eruptions, seed):
    fitted = fit_mixture(eruptions, 2, rng=seed, stddev_floor=1e-6, tolerance=1e-9).mixture
    # -1130.26396 in all; five steps together gained less than 1e-9
    assert fitted.logpdf(eruptions).sum() == pytest.approx(-1130.263960185, abs=1e-6)
    # near a maximum, parameters are as far off as the square root of that: 1e-4 of their standard errors
    assert_same_mixture(fitted, BivariateMixture(WEIGHTS, MEANS, STDDEVS, CORRELATIONS), rtol=1e-5, atol=0)
    # neither the default floor nor the default tolerance shows
    fitted = BivariateMixture.fit(eruptions, 2, rng=seed)
    assert fitted.logpdf(eruptions).sum() == pytest.approx(-1130.26396, abs=1e-2)


@pytest.mark.parametrize("floor", [1e-9, 0.1, (0.5, 3.0), 1e3])
def test_one_component_has_the_moments_of_the_points_and_the_floor_in_its_variances(eruptions, floor):
    fitted = BivariateMixture.fit(eruptions, 1, rng=0, stddev_floor=floor)
    covariance = np.cov(eruptions.T, bias=True) + np.diag(np.broadcast_to(np.square(floor), 2))
    np.testing.assert_array_equal(fitted.weights, [1.0])
    # sums over 272 points
    np.testing.assert_allclose(fitted.means[0], eruptions.mean(axis=0), rtol=1e-14, atol=0)
    np.testing.assert_allclose(fitted.covariances[0], covariance, rtol=1e-12, atol=0)


@pytest.mark.parametrize("m", [2, 3, 5])
def test_a_known_mixture_is_recovered_from_all_of_more_points_than_the_search_looks_at(m):
    points, true = clusters(20_000, m)
    fit = fit_mixture(points, m, rng=0)
    fitted = fit.mixture
    assert fit.n_points == 20_000
    # 20,000 points over at most 15 shares: 5 standard errors of the lightest component
    assert_same_mixture(fitted, true, rtol=0, atol=0.25)
    assert fitted.logpdf(points).mean() >= true.logpdf(points).mean()


def test_more_points_than_are_held_at_once_give_the_same_fit(monkeypatch):
    points, _ = clusters(1000)
    whole = BivariateMixture.fit(points, 3, rng=0)
    monkeypatch.setattr(_points, "PIECE", 64)
    # sums in another order: the number of steps to the end may differ by one
    assert_same_mixture(BivariateMixture.fit(points, 3, rng=0), whole, rtol=1e-5, atol=1e-5)


def expectation_step(single, points, floor, covariance_type="full"):
    """A step of expectation-maximisation in plain NumPy, for points with errors of the floor's size.

    Returns the mixture after it, and the log-likelihood a point before it, where a component's density is exp of its
    expected log-density.
    """
    precision, squares = np.linalg.inv(single.covariances), np.diag(np.broadcast_to(np.square(floor), 2))
    offset = points[:, None] - single.means
    half = (np.einsum("nja,jab,njb->nj", offset, precision, offset) + np.einsum("ab,jab->j", squares, precision)) / 2
    terms = single.weights * np.exp(-half) * np.sqrt(np.linalg.det(precision)) / (2 * np.pi)
    density = terms.sum(axis=-1)
    shares = terms / density[:, None]
    mass = shares.sum(axis=0)
    means = shares.T @ points / mass[:, None]
    offset = points[:, None] - means
    scatter = np.einsum("nj,nja,njb->jab", shares, offset, offset)
    if covariance_type == "tied":
        scatter = mass[:, None, None] * (scatter.sum(axis=0) / mass.sum())
    covariances = scatter / mass[:, None, None] + squares
    covariances[:, 1, 0] = covariances[:, 0, 1]
    if covariance_type in ("diag", "spherical"):
        covariances *= np.eye(2)
    if covariance_type == "spherical":
        covariances = np.trace(covariances, axis1=1, axis2=2)[:, None, None] / 2 * np.eye(2)
    after = BivariateMixture.from_covariances(mass / mass.sum(), means, covariances)
    return after, np.log(density).mean()


# The floor


@pytest.mark.parametrize("floor", [(0.01, 0.1), (0.1, 2.0), (0.3, 3.0), (0.5, 5.0)])
@pytest.mark.parametrize("seed", range(3))
def test_a_fit_with_a_floor_ends_at_a_maximum_whatever_its_size(eruptions, floor, seed):
    fitted = fit_mixture(eruptions, 2, rng=seed, stddev_floor=floor, tolerance=1e-6).mixture
    further, gained = expectation_step(fitted, eruptions, floor)
    for _ in range(200):
        further, likelihood = expectation_step(further, eruptions, floor)
    # in all; the last five steps gained less than 1e-6, and no 200 more of another kind gain much more
    assert (likelihood - gained) * len(eruptions) < 1e-4


@pytest.mark.parametrize("floor", [0.1, 1.0, 4.0])
def test_separate_components_have_the_floor_in_their_variances(floor):
    # 200 sigma apart: each component has exactly its own points
    rng = np.random.default_rng(0)
    groups = [rng.normal(size=(60, 2)) * [1.0, 2.0], 1000.0 + rng.normal(size=(40, 2))]
    fitted = BivariateMixture.fit(np.concatenate(groups), 2, rng=0, stddev_floor=floor)
    for covariance, group in zip(fitted.covariances, groups, strict=True):
        # digits go with the points' spread: they are 1000 apart, of sigma 1
        expected = np.cov(group.T, bias=True) + floor**2 * np.eye(2)
        np.testing.assert_allclose(covariance, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("copies", [2, 30, 60])
def test_the_floor_keeps_a_component_from_collapsing_onto_equal_points(copies):
    cloud = np.random.default_rng(0).normal(size=(100, 2))
    for seed, place in itertools.product(range(3), (3.0, 30.0)):
        points = np.concatenate([cloud, np.full((copies, 2), place)])
        fitted, *_, floor = fit_mixture(points, 2, rng=seed)
        assert np.isfinite(fitted.logpdf(points)).all()
        # the square root rounds
        assert (fitted.stddevs >= floor * (1 - 1e-15)).all()
        assert (abs(fitted.correlations) < 1).all()
    fitted = BivariateMixture.fit(points, 2, rng=0, stddev_floor=(0.25, 0.5))
    np.testing.assert_allclose(fitted.weights[1], copies / (100 + copies), rtol=1e-12, atol=0)
    np.testing.assert_allclose(fitted.means[1], [30.0, 30.0], rtol=1e-12, atol=0)
    np.testing.assert_allclose(fitted.stddevs[1], [0.25, 0.5], rtol=1e-9, atol=0)
    np.testing.assert_allclose(fitted.correlations[1], 0.0, rtol=0, atol=1e-9)


def test_points_on_a_line_are_fitted():
    t = np.random.default_rng(0).normal(size=200)
    points = np.stack([t, 2.0 * t], axis=-1)
    fitted, *_, floor = fit_mixture(points, 2, rng=0)
    assert np.isfinite(fitted.logpdf(points)).all()
    # a component of points (t, 2 t) with the floor in its variances
    v0, v1 = fitted.stddevs[:, 0] ** 2, fitted.stddevs[:, 1] ** 2
    np.testing.assert_allclose(v1 - floor[1] ** 2, 4 * (v0 - floor[0] ** 2), rtol=1e-9, atol=0)
    np.testing.assert_allclose(fitted.covariances[:, 0, 1], 2 * (v0 - floor[0] ** 2), rtol=1e-9, atol=0)


@pytest.mark.parametrize("floor", [1e-300, 1e-120, 1e-20])
def test_a_floor_that_is_next_to_nothing_does_no_harm(floor):
    points, _ = clusters(300)
    fitted = BivariateMixture.fit(points, 3, rng=0, stddev_floor=floor)
    assert_same_mixture(fitted, BivariateMixture.fit(points, 3, rng=0, stddev_floor=1e-9), 1e-9, 1e-9)
    collapsed = BivariateMixture.fit(np.repeat(points[:3], 5, axis=0), 4, rng=0, stddev_floor=floor)
    assert np.isfinite(collapsed.logpdf(points[:3])).all()


@pytest.mark.parametrize("floor", [1e6, 1e160, (1e-300, 1e300)])
def test_a_floor_far_above_the_spread_is_the_spread(floor):
    points, _ = clusters(300)
    fitted = BivariateMixture.fit(points, 2, rng=0, stddev_floor=floor)
    np.testing.assert_allclose(fitted.stddevs[:, 1], np.broadcast_to(floor, 2)[1], rtol=1e-6, atol=0)


# Weights


def test_a_whole_weight_counts_as_so_many_points_and_one_of_0_as_none():
    points, _ = clusters(300)
    times = np.random.default_rng(1).integers(1, 4, 300)
    weighted = fit_mixture(points, 3, sample_weight=times, rng=0, stddev_floor=1e-3, tolerance=1e-8)
    repeated = fit_mixture(np.repeat(points, times, axis=0), 3, rng=0, stddev_floor=1e-3, tolerance=1e-8)
    # from other starts to the same maximum, as far off as the last gain of 1e-8 tells
    assert_same_mixture(weighted.mixture, repeated.mixture, rtol=1e-4, atol=1e-4)
    assert weighted.n_points == times.sum()
    assert weighted.log_likelihood == pytest.approx(repeated.log_likelihood, abs=1e-6)
    weight = np.where(np.arange(300) % 3, 1.0, 0.0)
    expected = BivariateMixture.fit(points[weight > 0], 3, rng=0)
    points[::6], points[3::6] = NAN, INF  # those of weight 0
    got = BivariateMixture.fit(points, 3, sample_weight=weight, rng=0)
    assert_same_bits(got._parameters.packed, expected._parameters.packed)


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 7.0, 1.7e308])
def test_only_ratios_of_weights_count(scale):
    points, _ = clusters(300)
    expected = BivariateMixture.fit(points, 3, rng=0)
    assert_same_mixture(BivariateMixture.fit(points, 3, sample_weight=np.full(300, scale), rng=0), expected, 1e-9, 1e-9)


@pytest.mark.parametrize("ratio", [1e-30, 1e-300, 5e-324])
def test_a_point_that_outweighs_all_others_is_where_the_mixture_is(ratio):
    points, _ = clusters(50)
    weight = np.full(50, ratio)
    weight[7] = 1.0
    for m in (1, 2, 3):
        fitted = BivariateMixture.fit(points, m, sample_weight=weight, rng=0)
        np.testing.assert_allclose(fitted.means[0], points[7], rtol=1e-12, atol=0)
        assert fitted.weights[0] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("scale", [(1e-300, 1e-300), (1e-200, 1.0), (1e-3, 1e5), (1e200, 1e-200), (1e300, 1e300)])
def test_units_do_not_matter(scale):
    points, _ = clusters(300)
    plain = BivariateMixture.fit(points, 3, rng=0)
    scaled = BivariateMixture.fit(points * scale, 3, rng=0)
    np.testing.assert_allclose(scaled.weights, plain.weights, rtol=1e-6, atol=0)
    np.testing.assert_allclose(scaled.means / scale, plain.means, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scaled.stddevs / scale, plain.stddevs, rtol=1e-5, atol=0)
    np.testing.assert_allclose(scaled.correlations, plain.correlations, rtol=0, atol=1e-5)


@pytest.mark.parametrize("exponent", [-1000, 1000, 1019])
def test_powers_of_two_change_no_bit_up_to_the_largest_numbers(exponent):
    points, _ = clusters(300)  # the largest coordinate is below 2^4
    plain, scaled = (BivariateMixture.fit(np.ldexp(points, e), 2, rng=0) for e in (0, exponent))
    assert_same_bits(
        (scaled.weights, scaled.means, scaled.stddevs),
        (plain.weights, np.ldexp(plain.means, exponent), np.ldexp(plain.stddevs, exponent)),
    )


def test_the_origin_and_the_order_of_the_axes_do_not_matter():
    points, _ = clusters(300)
    plain, offset = BivariateMixture.fit(points, 3, rng=0), np.array([1e6, -1e6])
    shifted, swapped = (BivariateMixture.fit(moved, 3, rng=0) for moved in (points + offset, points[:, ::-1]))
    # 1e6 takes six of sixteen digits from the points
    np.testing.assert_allclose(shifted.means - offset, plain.means, rtol=0, atol=1e-5)
    np.testing.assert_allclose(shifted.covariances, plain.covariances, rtol=0, atol=1e-5)
    np.testing.assert_allclose(swapped.means[:, ::-1], plain.means, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(swapped.covariances[:, ::-1, ::-1], plain.covariances, rtol=1e-5, atol=1e-5)


# Reproducible, of any layout


def test_the_same_seed_gives_the_same_bits_and_a_generator_advances():
    points, _ = clusters(300)
    first = BivariateMixture.fit(points, 4, rng=7)
    assert_same_bits(BivariateMixture.fit(points, 4, rng=7)._parameters.packed, first._parameters.packed)
    rng = np.random.default_rng(7)
    assert_same_bits(BivariateMixture.fit(points, 4, rng=rng)._parameters.packed, first._parameters.packed)
    assert rng.bit_generator.state != np.random.default_rng(7).bit_generator.state


@each_layout
def test_layout_does_not_matter(layout):
    points, _ = clusters(60, 2)
    expected = BivariateMixture.fit(points, 2, rng=0)
    odd = layout(points)
    before = odd.tobytes()
    assert_same_bits(BivariateMixture.fit(odd, 2, rng=0)._parameters.packed, expected._parameters.packed)
    assert odd.tobytes() == before


@each_dtype
def test_dtype_is_that_of_the_points(dtype):
    points = clusters(60, 2)[0].astype(dtype)
    fitted = BivariateMixture.fit(points, 2, rng=0, sample_weight=np.ones(60))
    assert fitted.dtype == dtype
    wide = BivariateMixture.fit(points.astype(np.float64), 2, rng=0)
    assert_same_bits(fitted.means, wide.means.astype(dtype))


@pytest.mark.parametrize("m", [1, 2, 5])
def test_as_many_components_as_points_sit_on_them(m):
    points = np.random.default_rng(0).normal(size=(m, 2)) * 100
    fitted = BivariateMixture.fit(points, m, rng=0, stddev_floor=0.1)
    np.testing.assert_allclose(fitted.weights, np.full(m, 1 / m), rtol=1e-12, atol=0)
    order = np.lexsort(fitted.means.T)
    np.testing.assert_allclose(fitted.means[order], points[np.lexsort(points.T)], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(fitted.stddevs, 0.1, rtol=1e-9, atol=0)


def test_more_components_than_distinct_points_leave_some_without_weight():
    distinct = np.array([[0.0, 0.0], [10.0, 5.0]])
    points = np.repeat(distinct, [30, 10], axis=0)
    fitted = BivariateMixture.fit(points, 5, rng=0)
    np.testing.assert_allclose(fitted.weights[:2], [0.75, 0.25], rtol=1e-9, atol=0)
    np.testing.assert_array_equal(fitted.weights[2:], 0.0)
    np.testing.assert_allclose(fitted.means[:2], distinct, rtol=0, atol=1e-9)
    assert np.isfinite(fitted.logpdf(points)).all()
    assert np.isfinite(fitted.sample(20, rng=0)).all()
    equal = BivariateMixture.fit(np.full((20, 2), 0.1), 3, rng=0, stddev_floor=0.5)
    np.testing.assert_array_equal(equal.means[0], [0.1, 0.1])
    np.testing.assert_allclose(equal.stddevs[0], 0.5, rtol=1e-12, atol=0)
