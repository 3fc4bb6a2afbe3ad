"""fit_mixture: its report, covariance types, missing coordinates, background, batches; steps against plain NumPy."""

import signal
import time
from pathlib import Path

import mpmath
import numpy as np
import pytest
from checks import assert_same_bits
from test_fit import clusters, expectation_step

from cymdn import BivariateMixture, _points, fit_mixture
from cymdn import _distribution_kernels as kernels

TYPES = ("full", "diag", "tied", "spherical")
PARAMETERS = {"full": 17, "diag": 14, "tied": 11, "spherical": 11}  # of three components


def missing(points, share=0.3, seed=1):
    """The points, of some of which one coordinate or the other is NaN, and of one both."""
    rng, points = np.random.default_rng(seed), points.copy()
    chosen = rng.random(len(points)) < share
    points[chosen, rng.integers(0, 2, len(points))[chosen]] = np.nan
    points[0] = np.nan
    return points


def log_marginals(mixture, points):
    """Log-densities of points: of those of which a coordinate is missing, of the other one; 0 of those without both."""
    gone = np.isnan(points)
    filled = np.where(gone, 0.0, points)
    whole = mixture.logpdf(filled)
    first, second = (mixture.marginal(axis).logpdf(filled[:, axis]) for axis in (0, 1))
    return np.select([gone.all(axis=1), gone[:, 0], gone[:, 1]], [0.0, second, first], whole)


# What a fit says


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_report_is_that_of_the_mixture(covariance_type):
    points, _ = clusters(500)
    weight = np.random.default_rng(2).random(500)
    fit = fit_mixture(points, 3, covariance_type=covariance_type, sample_weight=weight, rng=0)
    mixture, background, converged, _, log_likelihood, n_parameters, floor = fit
    # sums of 500 terms of size 10
    assert log_likelihood == pytest.approx(weight @ mixture.logpdf(points), rel=1e-12)
    assert (background, converged, n_parameters) == (0.0, True, PARAMETERS[covariance_type])
    assert fit.n_points == pytest.approx(weight.sum(), rel=1e-14)
    assert fit.aic == pytest.approx(2 * n_parameters - 2 * log_likelihood, rel=1e-14)
    assert fit.bic == pytest.approx(n_parameters * np.log(weight.sum()) - 2 * log_likelihood, rel=1e-14)
    assert floor.shape == (2,)
    changed = fit._replace(steps=3)
    assert (changed.steps, changed.bic) == (3, fit.bic)
    assert fit.__replace__(steps=3) == changed != fit  # what copy.replace calls


def test_the_information_criterion_finds_the_number_of_components():
    points, _ = clusters(2000, 3)
    fits = [fit_mixture(points, m, rng=0) for m in range(1, 6)]
    assert min(fits, key=lambda fit: fit.bic).mixture.n_components == 3
    assert all(np.diff([fit.log_likelihood for fit in fits]) > 0)


def test_a_fit_that_has_not_converged_says_so():
    points = np.random.default_rng(0).normal(size=(2000, 2))
    fit = fit_mixture(points, 4, rng=0, max_steps=7)
    assert (fit.converged, fit.steps) == (False, 7)
    # a tolerance of 0 asks for more than rounding allows
    assert not fit_mixture(points, 4, rng=0, max_steps=50, tolerance=0.0).converged


def test_a_method_that_has_not_converged_warns(monkeypatch):
    namespace = BivariateMixture.fit.__func__.__wrapped__.__globals__
    estimate = namespace["estimate"]
    monkeypatch.setitem(namespace, "estimate", lambda *a, **k: estimate(*a, **k, max_steps=6))
    with pytest.warns(RuntimeWarning, match="still rose after 6 steps") as caught:
        BivariateMixture.fit(np.random.default_rng(0).normal(size=(2000, 2)), 4, rng=0)
    assert Path(caught[0].filename).name in ("test_fit_mixture.py", "_arrays.py")


def test_each_step_is_reported_and_what_the_callback_raises_ends_the_fit():
    points, _ = clusters(500)
    seen = []
    fit = fit_mixture(points, 3, rng=0, callback=lambda *step: seen.append(step))
    assert [step for step, _ in seen] == list(range(1, fit.steps + 1))
    # the last one is of the result, but that of points with errors of the floor's size
    assert max(likelihood for _, likelihood in seen) == pytest.approx(fit.log_likelihood, abs=0.1)

    def give_up(step, _):
        if step == 3:
            raise StopIteration("enough")

    with pytest.raises(StopIteration, match="enough"):
        fit_mixture(points, 3, rng=0, callback=give_up)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="only POSIX has interval timers")
@pytest.mark.thread_unsafe(reason="sets the handler of a signal")
@pytest.mark.parametrize("seconds", [0.1, 1.0])
@pytest.mark.parametrize("workers", [1, -1])
def test_a_signal_interrupts_search_and_steps(seconds, workers):
    points = np.random.default_rng(0).normal(size=(400_000, 2))

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, seconds)
        with pytest.raises(KeyboardInterrupt):
            fit_mixture(points, 20, rng=0, tolerance=0.0, workers=workers)
        assert time.monotonic() - start < seconds + 5.0  # a piece takes some 10 ms; the machine may be busy
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


# What is found


def nested(seed):
    rng = np.random.default_rng(seed)
    points = np.concatenate([rng.normal(0, s, (n, 2)) for s, n in ((1, 1500), (0.15, 500), (6, 500))])
    return points, BivariateMixture([0.6, 0.2, 0.2], np.zeros((3, 2)), [[1, 1], [0.15, 0.15], [6, 6]], np.zeros(3))


def sticks(seed):
    rng = np.random.default_rng(seed)
    angles, means = rng.uniform(0, np.pi, 6), rng.uniform(-4, 4, (6, 2))
    turns = np.stack([np.cos(angles), -np.sin(angles), np.sin(angles), np.cos(angles)], axis=-1).reshape(6, 2, 2)
    covariances = turns @ np.diag([9.0, 0.01]) @ turns.transpose(0, 2, 1)
    covariances = 0.5 * (covariances + covariances.transpose(0, 2, 1))
    true = BivariateMixture.from_covariances(np.full(6, 1 / 6), means, covariances)
    return true.sample(2400, rng), true


def grid(seed):
    means = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), axis=-1).reshape(25, 2)
    true = BivariateMixture(np.full(25, 0.04), means, np.full((25, 2), 0.2), np.zeros(25))
    return true.sample(2500, rng=seed), true


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("draw", [nested, sticks, grid])
def test_what_starts_by_k_means_miss_is_found(draw, seed):
    points, true = draw(seed)
    fit = fit_mixture(points, true.n_components, rng=seed)
    # the best of all mixtures is above the true one, by half the number of parameters in the mean; scikit-learn with
    # ten starts ends 0.19 nats a point below the nested one (470 nats)
    assert fit.log_likelihood > true.logpdf(points).sum()


@pytest.mark.parametrize("m", [1, 3])
def test_any_number_of_workers_gives_the_same_bits(m):
    points = missing(clusters(40_000)[0])
    alone, shared = (
        fit_mixture(points, m, background=True, allow_missing=True, rng=0, workers=workers) for workers in (None, -1)
    )
    assert_same_bits(shared.mixture._parameters.packed, alone.mixture._parameters.packed)
    assert shared[1:6] == alone[1:6]


# The floor


def test_two_small_clusters_far_apart_are_not_swamped():
    rng = np.random.default_rng(0)
    groups = [rng.normal((448262, 4424876), 4.0, (300, 2)), rng.normal((462100, 4439300), 4.0, (300, 2))]
    fit = fit_mixture(np.concatenate(groups), 2, rng=0)
    exact = np.stack([group.std(axis=0) for group in groups])
    order = np.argsort(fit.mixture.means[:, 0])
    # 20 km apart; the floor is a thousandth of the width of a cluster, and 1e-6 of its variance
    np.testing.assert_allclose(fit.mixture.stddevs[order], exact, rtol=1e-5, atol=0)
    assert (fit.stddev_floor < 0.01).all()


def test_one_point_far_away_does_not_set_the_floor():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(500, 2)), [[1e6, 1e6]]])
    fit = fit_mixture(points, 2, rng=0)
    np.testing.assert_allclose(fit.mixture.stddevs[0], points[:500].std(axis=0), rtol=1e-5, atol=0)
    np.testing.assert_allclose(fit.mixture.means[1], [1e6, 1e6], rtol=1e-12, atol=0)
    assert (fit.stddev_floor < 0.01).all()


def test_the_floor_of_rounded_points_is_their_rounding_error():
    rng = np.random.default_rng(0)
    points = np.round(np.concatenate([rng.normal(0, 4, (500, 2)), rng.normal((20_000, 5_000), 4, (500, 2))]))
    np.testing.assert_allclose(fit_mixture(points, 2, rng=0).stddev_floor, 1 / np.sqrt(12), rtol=1e-12, atol=0)
    # but it is at most a thousandth of the spread
    narrow = np.round(rng.normal(0, 4, (500, 2)))
    fit = fit_mixture(narrow, 2, rng=0)
    np.testing.assert_allclose(fit.stddev_floor, 1e-3 * narrow.std(axis=0), rtol=1e-12, atol=0)


LINES = {"diagonal": ([1, 2], [0, 0]), "anti": ([1, -1], [0, 0]), "road": ([512, 320], [448262, 4424876])}


@pytest.mark.parametrize("floor", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("line", LINES)
def test_points_on_a_line_keep_the_determinant(line, floor):
    direction, offset = LINES[line]
    points = np.linspace(-1, 1, 257)[:, None] * direction + offset  # of few bits: exactly on the line
    mixture = fit_mixture(points, 1, stddev_floor=floor).mixture
    exact = [[mpmath.mpf(float(number)) for number in point] for point in points - offset]
    variances = [sum(point[k] ** 2 for point in exact) / len(exact) for k in (0, 1)]
    f = mpmath.mpf(floor) ** 2
    # (v0 + f)(v1 + f) - v0 v1
    determinant = f * (variances[0] + variances[1]) + f * f
    at_mean = -2 * (float(mixture.logpdf(mixture.means[0])) + np.log(2 * np.pi))
    # rounding in one coordinate is 1e-16 of it, and 1e-9 of the floor's share is left of the other
    assert at_mean == pytest.approx(float(mpmath.log(determinant)), abs=1e-6 if line == "road" else 1e-8)


# Covariance types


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_fit_of_each_covariance_type_is_of_it_below_a_wider_one_and_reached_from_it(covariance_type):
    points, _ = clusters(1000)
    fit = fit_mixture(points, 3, covariance_type=covariance_type, rng=0, tolerance=1e-6)
    stddevs, correlations = fit.mixture.stddevs, fit.mixture.correlations
    if covariance_type in ("diag", "spherical"):
        np.testing.assert_array_equal(correlations, 0.0)
    if covariance_type == "spherical":
        # times one power of two
        np.testing.assert_array_equal(stddevs[:, 0], stddevs[:, 1])
    if covariance_type == "tied":
        np.testing.assert_array_equal(stddevs, stddevs[[0, 0, 0]])
        np.testing.assert_array_equal(correlations, correlations[0])
    wider = fit_mixture(points, 3, rng=0, tolerance=1e-6)
    assert fit.log_likelihood <= wider.log_likelihood + 1e-5
    again = fit_mixture(points, 3, init=wider.mixture, covariance_type=covariance_type, tolerance=1e-6)
    assert again.log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-4)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_one_step_from_a_mixture_is_that_of_plain_numpy(covariance_type):
    points, true = clusters(300)
    stddevs = {"tied": true.stddevs[[0, 0, 0]], "spherical": true.stddevs[:, [0, 0]]}.get(covariance_type, true.stddevs)
    correlations = {"full": true.correlations, "tied": true.correlations[[0, 0, 0]]}.get(covariance_type, np.zeros(3))
    init, floor = BivariateMixture(true.weights, true.means, stddevs, correlations), (0.01, 0.02)
    fit = fit_mixture(points, 3, init=init, covariance_type=covariance_type, stddev_floor=floor, max_steps=1)
    after, _ = expectation_step(init, points, floor, covariance_type)
    order = np.argsort(-after.weights)
    for name in ("weights", "means", "covariances"):
        np.testing.assert_allclose(getattr(fit.mixture, name), getattr(after, name)[order], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(2, 2), (3, 2, 2)])
def test_known_covariance_matrices_stay_as_they_are(shape):
    points, true = clusters(2000)
    known = true.covariances if len(shape) == 3 else np.array([[2.0, 0.5], [0.5, 1.0]])
    fit = fit_mixture(points, 3, covariance=known, rng=0)
    np.testing.assert_array_equal(fit.stddev_floor, 0.0)
    assert fit.n_parameters == 8
    if len(shape) == 3:
        # every component keeps its own matrix; which of them is where, the likelihood decides
        found = np.sort(fit.mixture.covariances[:, 0, 0])
        np.testing.assert_allclose(found, np.sort(known[:, 0, 0]), rtol=1e-12, atol=0)
        assert fit.log_likelihood >= true.logpdf(points).sum()
    else:
        np.testing.assert_allclose(fit.mixture.covariances, np.broadcast_to(known, (3, 2, 2)), rtol=1e-12, atol=0)


# Missing coordinates


@pytest.mark.parametrize("covariance_type", TYPES)
def test_points_of_which_a_coordinate_is_missing_count_by_their_marginal_density(covariance_type):
    points = missing(clusters(800)[0])
    fit = fit_mixture(points, 3, covariance_type=covariance_type, allow_missing=True, rng=0, tolerance=1e-6)
    assert fit.log_likelihood == pytest.approx(log_marginals(fit.mixture, points).sum(), rel=1e-12)
    assert fit.n_points == len(points) - 1  # one is without both


def test_no_parameter_could_raise_the_marginal_likelihood():
    # of one component, by differences: a maximum of what the report says is raised
    rng = np.random.default_rng(0)
    points = missing(rng.normal(size=(300, 2)) @ [[1.0, 0.8], [0.0, 0.6]], 0.5)
    mixture = fit_mixture(points, 1, allow_missing=True, stddev_floor=1e-6, tolerance=1e-12).mixture
    packed = np.concatenate([mixture.means[0], np.log(mixture.stddevs[0]), np.arctanh(mixture.correlations)])

    def likelihood(p):
        return log_marginals(BivariateMixture([1.0], [p[:2]], [np.exp(p[2:4])], [np.tanh(p[4])]), points).sum()

    for direction in np.eye(5) * 1e-4:
        slope = (likelihood(packed + direction) - likelihood(packed - direction)) / 2e-4
        # the second derivatives are some 300, and steps ended 1e-6 from the maximum
        assert abs(slope) < 1e-2


def test_a_point_without_both_coordinates_changes_no_bit():
    points = missing(clusters(300)[0])
    expected = fit_mixture(points[1:], 3, allow_missing=True, rng=0)
    got = fit_mixture(np.concatenate([points[1:], points[:1]]), 3, allow_missing=True, rng=0)
    assert_same_bits(got.mixture._parameters.packed, expected.mixture._parameters.packed)


# Background


@pytest.mark.parametrize("some_missing", [False, True])
def test_a_background_takes_what_is_uniform(some_missing):
    rng = np.random.default_rng(0)
    clean, true = clusters(2000, 2)
    points = np.concatenate([clean, rng.uniform(-20, 20, (300, 2))])
    points = missing(points) if some_missing else points
    fit = fit_mixture(points, 2, background=True, allow_missing=some_missing, rng=0)
    # 300 of 2300: a standard error is 0.007
    assert fit.background == pytest.approx(300 / 2300, abs=0.03)
    np.testing.assert_allclose(fit.mixture.stddevs, true.stddevs, rtol=0.15, atol=0)
    low, high = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
    gone = np.isnan(points)
    uniform = np.where(gone, 0.0, -np.log(high - low)).sum(axis=1)
    density = (1 - fit.background) * np.exp(log_marginals(fit.mixture, points)) + fit.background * np.exp(uniform)
    assert fit.log_likelihood == pytest.approx(np.log(density).sum(), rel=1e-12)
    assert fit.n_parameters == 12
    assert fit.log_likelihood > fit_mixture(points, 2, allow_missing=some_missing, rng=0).log_likelihood + 100


def test_without_uniform_points_a_background_is_next_to_nothing():
    points, _ = clusters(2000, 2)
    assert fit_mixture(points, 2, background=True, rng=0).background < 0.01


# Going on


def test_a_fit_goes_on_from_a_mixture():
    points, _ = clusters(1000)
    first = fit_mixture(points, 3, rng=0, tolerance=1e-8)
    again = fit_mixture(points, 3, init=first.mixture, tolerance=1e-8)
    assert again.log_likelihood >= first.log_likelihood - 1e-9
    assert again.steps < 10
    # points that come by and by
    more = np.concatenate([points, clusters(1000, seed=0)[1].sample(500, rng=5)])
    later = fit_mixture(more, 3, init=first.mixture)
    assert later.log_likelihood == pytest.approx(fit_mixture(more, 3, rng=0).log_likelihood, abs=0.05)


def test_a_start_that_is_far_too_narrow_or_wide_is_no_obstacle():
    points, _ = clusters(500, 1)
    for size in (1e-6, 1e6):
        init = BivariateMixture([1.0], [points[0]], [[size, size]], [0.99])
        fit = fit_mixture(points, 1, init=init)
        np.testing.assert_allclose(fit.mixture.covariances[0], np.cov(points.T, bias=True), rtol=1e-4, atol=1e-4)


# Batches


def test_a_batch_is_a_mixture_for_each_set():
    sets = np.stack([clusters(200, seed=seed)[0] for seed in range(6)]).reshape(2, 3, 200, 2)
    weight = np.random.default_rng(0).random((2, 3, 200))
    fit = fit_mixture(sets, 3, sample_weight=weight, background=True, rng=0)
    assert fit.mixture.batch_shape == (2, 3)
    for field in (fit.background, fit.converged, fit.steps, fit.log_likelihood, fit.n_points, fit.aic, fit.bic):
        assert field.shape == (2, 3)
    assert fit.stddev_floor.shape == (2, 3, 2)
    for index in np.ndindex(2, 3):
        alone = fit_mixture(
            sets[index], 3, sample_weight=weight[index], background=True, init=fit.mixture[index], tolerance=1e-3
        )
        assert alone.log_likelihood == pytest.approx(fit.log_likelihood[index], abs=0.5)
        np.testing.assert_array_equal(alone.stddev_floor, fit.stddev_floor[index])
    again = fit_mixture(sets, 3, sample_weight=weight, init=fit.mixture)
    assert again.mixture.batch_shape == (2, 3)
    assert BivariateMixture.fit(sets, 3, sample_weight=weight[0, 0], rng=0).batch_shape == (2, 3)


# The sample


def test_a_sample_by_priority_has_the_weights_of_all_points():
    rng = np.random.default_rng(0)
    points, weight = rng.normal(size=(50_000, 2)), rng.exponential(size=50_000) ** 2
    summary = _points.summarise(points, weight, 0, 1)
    sample = _points.sampled(summary)
    assert sample.shape == (_points.SAMPLE, 3)
    # the standard error of such a sum is at most 1 / sqrt(4096) of it
    assert sample[:, 2].sum() == pytest.approx(weight.sum(), rel=0.05)
    assert sample[:, 2] @ sample[:, 0] ** 2 == pytest.approx(weight @ points[:, 0] ** 2, rel=0.1)
    # the same in any chunks, which know where they begin
    for cuts in ([1], [17, 20_000], [49_999]):
        starts = [0, *cuts]
        parts = zip(np.split(points, cuts), np.split(weight, cuts), starts, strict=True)
        first, *rest = (_points.summarise(*part, 1) for part in parts)
        for other in rest:
            first = first.merged(other)
        assert_same_bits(_points.sampled(first), sample)
        np.testing.assert_array_equal(first.indices, summary.indices)
        assert first.number == summary.number
        np.testing.assert_allclose(np.ldexp(first.masses, first.weight), np.ldexp(summary.masses, summary.weight))


def test_equal_weights_make_a_simple_sample():
    points = np.random.default_rng(0).normal(size=(10_000, 2))
    sample = _points.sampled(_points.summarise(points, np.ones(10_000), 0, 1))
    np.testing.assert_array_equal(sample[:, 2], sample[0, 2])
    assert len(np.unique(sample[:, 0])) == _points.SAMPLE


# Extremes


@pytest.mark.parametrize("floor", [1e-200, 1e-74, 1e100])
@pytest.mark.parametrize("unit", [1e-290, 1.0, 1e290])
def test_floors_and_units_of_any_size_give_a_legal_mixture(unit, floor):
    points = np.round(np.random.default_rng(0).normal(size=(30, 2))) * unit
    for covariance_type in TYPES:
        fit = fit_mixture(points, 3, covariance_type=covariance_type, stddev_floor=floor, rng=0)
        assert fit.mixture._parameters.are_valid()
        np.testing.assert_array_equal(fit.stddev_floor, floor)
        assert not np.isnan(fit.log_likelihood)


FITTING = {"planes": (3, 10), "settings": 5, "estimate": 13, "scratch": (kernels.FIT_PLANES, 2), "sums": 14}
SMALLER = {"planes": (2, 10), "settings": 4, "estimate": 12, "scratch": (kernels.FIT_PLANES, 1), "sums": 13}


def taken(both=10, first=10, begin=0, end=10, **shapes):
    """Which kernels take numbers of points, places among ten of them and arrays of these shapes."""
    planes, settings, estimate, scratch, sums = map(np.ones, (FITTING | shapes).values())
    given = planes, both, first, 0, settings, estimate, scratch
    return [
        kernels.expect_moments(*given, begin, end, sums),
        kernels.climb(*given, 2, 0.0, -np.inf, sums),
        kernels.inspect_components(*given, np.empty((2, 7))),
    ]


@pytest.mark.parametrize("argument", SMALLER)
def test_kernels_decline_arrays_that_do_not_fit(argument):
    assert taken() == [True] * 3
    assert not taken(**{argument: SMALLER[argument]})[0]


@pytest.mark.parametrize("places", [(11, 11, 0, 10), (5, 4, 0, 10), (-1, 10, 0, 10), (10, 10, 0, 11), (10, 10, -1, 10)])
def test_kernels_decline_places_outside_of_the_points(places):
    assert not taken(*places)[0]


def test_fits_of_no_sets_of_points_have_the_dtypes_of_others():
    fit = fit_mixture(np.zeros((0, 10, 2)), 2)
    assert fit.mixture.batch_shape == (0,)
    assert [fit.converged.dtype, fit.steps.dtype, fit.background.dtype] == [np.bool_, np.int64, np.float64]
