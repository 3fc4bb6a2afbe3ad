"""gaussian_density_batch: exact values, nearness to 60-digit arithmetic, derivatives by differences, identities."""

import mpmath
import numpy as np
import pytest
from reference import density_exact, density_numpy, density_terms
from scipy.stats import multivariate_normal

from cymdn import gaussian_density_batch

EPS = {np.float32: 2.0**-23, np.float64: 2.0**-52}
OUTPUTS = ("density", "dmean0", "dmean1", "dstddev0", "dstddev1", "dcorrelation")


def problem(n, m, dtype=np.float64, seed=0, stddev=1.0, distance=1.0, correlation=None):
    """Random arguments; the points lie about `distance` standard deviations from the means."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=(n, m, 2))
    sigma = stddev * np.exp(rng.normal(size=(n, m, 2)))
    x = mean[:, :1] + distance * sigma[:, :1] * rng.normal(size=(n, 1, 2))
    r = np.tanh(rng.normal(size=(n, m, 1))) if correlation is None else np.full((n, m, 1), correlation)
    return tuple(a.astype(dtype) for a in (x, mean, sigma, r))


def outputs(function, *arguments):
    """The six outputs side by side, (n, m, 6), in float64."""
    result = function(*arguments)
    density, derivatives = result if len(result) == 2 else (result[0], result[1:])
    return np.concatenate([density, *derivatives], axis=-1, dtype=np.float64)


def compiled(*arguments, **keywords):
    return gaussian_density_batch(*arguments, True, **keywords)


# Values by hand


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_standard_normal_at_its_mean(dtype):
    x, mean, stddev, correlation = (np.zeros((1, 1, k), dtype) for k in (2, 2, 2, 1))
    density, (dmean, dstddev, dcorrelation) = gaussian_density_batch(x, mean, stddev + 1, correlation, True)
    # the smoothing is part of the function; 2 eps for the roundings of the two expressions
    by_hand = 1 / (2 * np.pi * np.sqrt(1 + 1e-10) + 1e-10)
    np.testing.assert_allclose(density, by_hand, rtol=2 * EPS[dtype], atol=0)
    np.testing.assert_array_equal(dmean, 0)
    np.testing.assert_array_equal(dstddev, -1)
    np.testing.assert_array_equal(dcorrelation, 0)


def test_correlated_value_by_hand():
    # u = 1/2, v = -1/2, r = 1/2 without smoothing: z = 3/4, q = 3/4, density = exp(-1/2) / (2 pi sqrt(3/4)),
    # dmean = (4/3) (3/4) (1, -1), dlog sigma = u dmean0 - 1 = -1/2, datanh r = -1/4 + 1/2 (1 - 1) = -1/4
    x, mean, stddev = np.array([[[0.5, -0.5]]]), np.zeros((1, 1, 2)), np.ones((1, 1, 2))
    density, derivatives = gaussian_density_batch(x, mean, stddev, np.full((1, 1, 1), 0.5), True, smooth_eps=0.0)
    by_hand = 1 / (2 * np.pi * np.sqrt(0.75) * np.exp(0.5))
    np.testing.assert_allclose(density, by_hand, rtol=4 * EPS[np.float64], atol=0)
    np.testing.assert_allclose(derivatives.dmean, [[[1.0, -1.0]]], rtol=2 * EPS[np.float64], atol=0)
    np.testing.assert_allclose(derivatives.dstddev, [[[-0.5, -0.5]]], rtol=4 * EPS[np.float64], atol=0)
    np.testing.assert_allclose(derivatives.dcorrelation, [[[-0.25]]], rtol=4 * EPS[np.float64], atol=0)


@pytest.mark.parametrize(("stddev", "peak"), [(1e-5, 0.862), (1e-6, 0.0591), (1e-8, 6.28e-6)])
def test_smoothing_lowers_the_peak_of_narrow_components(stddev, peak):
    # the smoothed density at the mean over the true one is 2 pi sigma^2 / (2 pi sigma^2 + eps): the function is so
    density, _ = gaussian_density_batch(
        np.zeros((1, 1, 2)), np.zeros((1, 1, 2)), np.full((1, 1, 2), stddev), np.zeros((1, 1, 1))
    )
    np.testing.assert_allclose(density * 2 * np.pi * stddev**2, peak, rtol=2e-3, atol=0)  # peak has three digits


def test_zero_stddev_is_smoothed_not_divided_by():
    x, mean, stddev, correlation = (np.zeros((1, 1, k)) for k in (2, 2, 2, 1))
    density, derivatives = gaussian_density_batch(x, mean, stddev, correlation, True)
    np.testing.assert_allclose(density, 1e10, rtol=EPS[np.float64], atol=0)
    assert all(np.isfinite(derivative).all() for derivative in derivatives)


# Nearness to the exact value


REGIONS = {
    "ordinary": {},
    "30 sigma away": {"distance": 30.0},
    "sigma near the epsilon": {"stddev": 1e-8},
    "wide": {"stddev": 1e6},
    "correlation 0": {"correlation": 0.0},
    "correlation 0.9": {"correlation": 0.9},
    "correlation -0.9": {"correlation": -0.9},
    "correlation 0.9999999": {"correlation": 0.9999999},
    "correlation -0.9999999": {"correlation": -0.9999999},
    "correlation 1": {"correlation": 1.0},
    "correlation -1": {"correlation": -1.0},
}


def worst_errors(values, arguments, dtype):
    """Per output, the largest error over the components, in eps of the dtype times the magnitudes of its terms."""
    x, mean, stddev, correlation = arguments
    worst = np.zeros(6)
    for i in range(len(mean)):
        one = (x[i, 0], mean[i, 0], stddev[i, 0], correlation[i, 0, 0])
        terms = density_terms(*one)
        for k, exact in enumerate(density_exact(*one)):
            if exact == 0 or abs(exact) > np.finfo(dtype).tiny:  # below, the spacing of numbers is what limits
                error = abs(mpmath.mpf(float(values[i, 0, k])) - exact) / EPS[dtype]
                worst[k] = max(worst[k], float(error / terms[k]) if terms[k] else float(error))
    return worst


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("region", REGIONS)
def test_as_near_to_the_exact_value_as_numpy(region, dtype):
    arguments = problem(200, 1, dtype, **REGIONS[region])
    kernel = worst_errors(outputs(compiled, *arguments), arguments, dtype)
    with np.errstate(all="ignore"):
        numpy = worst_errors(outputs(density_numpy, *arguments), arguments, dtype)
    for name, ours, theirs in zip(OUTPUTS, kernel, numpy, strict=True):
        # one eps is two roundings more or fewer in the order of evaluation: less than that says nothing
        assert ours <= theirs + 1.0, f"{name}: {ours:.2f} eps, NumPy {theirs:.2f} eps"


@pytest.mark.parametrize("region", REGIONS)
def test_error_is_a_few_eps_of_the_terms(region):
    arguments = problem(200, 1, np.float64, **REGIONS[region])
    # half an eps for each rounding on the longest way, to dcorrelation: 3 in u and v, 3 more in w0 and w1, both of
    # which go into the product, 3 in c, 4 after it
    assert worst_errors(outputs(compiled, *arguments), arguments, np.float64).max() <= 5.0


@pytest.mark.parametrize("region", REGIONS)
def test_float32_result_is_the_float64_result_rounded_once(region):
    arguments = problem(300, 3, np.float32, **REGIONS[region])
    wide = tuple(a.astype(np.float64) for a in arguments)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(
            outputs(compiled, *arguments), outputs(compiled, *wide).astype(np.float32), strict=False
        )


@pytest.mark.parametrize("sign", [-1, 1])
def test_float32_is_right_where_the_usual_rearrangement_loses_everything(sign):
    # u = -v at r near -1 (and mirrored): (u - v)^2 + 2 (1 - r) u v subtracts 4 u^2 from 4 u^2
    rng = np.random.default_rng(5)
    u = rng.normal(size=(100, 1, 1))
    x = np.concatenate([u, sign * u], axis=-1).astype(np.float32)
    mean, stddev = np.zeros_like(x), np.ones_like(x)
    correlation = np.full((100, 1, 1), sign * 0.9999999, np.float32)
    values = outputs(compiled, x, mean, stddev, correlation)
    for i in range(100):
        for k, exact in enumerate(density_exact(x[i, 0], mean[i, 0], stddev[i, 0], correlation[i, 0, 0])):
            # half an ulp: the one rounding to float32
            assert abs(values[i, 0, k] - float(exact)) <= 0.5001 * EPS[np.float32] * abs(float(exact)), OUTPUTS[k]


def test_tiny_densities_come_out_denormal_not_zero():
    # at 38.3 sigma the density is about 1e-320, below the smallest normal number
    x = np.array([[[38.3, 0.0]]])
    density, _ = gaussian_density_batch(x, np.zeros((1, 1, 2)), np.ones((1, 1, 2)), np.zeros((1, 1, 1)))
    exact = float(density_exact([38.3, 0.0], [0.0, 0.0], [1.0, 1.0], 0.0)[0])
    assert 0 < exact < 2.3e-308
    # eps of the terms (argument 733, 3 roundings) and the spacing of denormals
    np.testing.assert_allclose(density[0, 0, 0], exact, rtol=3 * 733 * EPS[np.float64], atol=2 * 5e-324)


# Derivatives by differences


@pytest.mark.parametrize("region", ["ordinary", "correlation 0.9", "correlation -0.9"])
def test_derivatives_are_those_of_the_log_density(region):
    x, mean, stddev, correlation = problem(80, 1, **REGIONS[region])

    def log_density(theta):  # theta (80, 1, 5): mean, log stddev, atanh correlation; no smoothing
        density, _ = gaussian_density_batch(
            x, theta[..., :2], np.exp(theta[..., 2:4]), np.tanh(theta[..., 4:]), smooth_eps=0.0
        )
        return np.log(density[..., 0])

    theta = np.concatenate([mean, np.log(stddev), np.arctanh(correlation)], axis=-1)
    derivatives = np.concatenate(compiled(x, mean, stddev, correlation, smooth_eps=0.0)[1], axis=-1)
    h = 1e-3
    for k in range(5):
        step = h * np.eye(5)[k] * (stddev[..., [k]] if k < 2 else 1.0)
        f = [log_density(theta + j * step) for j in (-2, -1, 1, 2)]
        difference = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step.sum(axis=-1))
        scale = 1 + np.abs(log_density(theta))
        # fourth order: h^4 times a fifth derivative of the size of the log-density, and its rounding over h
        assert (np.abs(difference - derivatives[..., k]) / scale * (stddev[..., k] if k < 2 else 1.0)).max() < 1e-9


# Identities


def test_derivatives_of_the_log_stddevs_sum_to_the_distance_less_2():
    x, mean, stddev, correlation = problem(200, 5)
    (u, v), r = np.moveaxis((x - mean) / stddev, -1, 0), correlation[..., 0]
    distance = (u**2 + v**2 - 2 * r * u * v) / (1 - r**2)
    dstddev = compiled(x, mean, stddev, correlation, smooth_eps=0.0)[1].dstddev
    # a few eps of the terms on either side
    np.testing.assert_allclose(dstddev.sum(axis=-1), distance - 2, rtol=1e-11, atol=1e-12)


def test_swapping_the_axes_swaps_the_outputs():
    x, mean, stddev, correlation = problem(200, 5)
    density, derivatives = compiled(x, mean, stddev, correlation)
    swapped_density, swapped = compiled(x[..., ::-1], mean[..., ::-1], stddev[..., ::-1], correlation)
    np.testing.assert_allclose(swapped_density, density, rtol=1e-12, atol=0)  # z is q u^2 + w1^2 or q v^2 + w0^2
    np.testing.assert_array_equal(swapped.dmean[..., ::-1], derivatives.dmean)
    np.testing.assert_array_equal(swapped.dstddev[..., ::-1], derivatives.dstddev)
    np.testing.assert_array_equal(swapped.dcorrelation, derivatives.dcorrelation)


def test_mirroring_one_axis_flips_signs_exactly():
    x, mean, stddev, correlation = problem(200, 5)
    mirror = np.array([1.0, -1.0])
    density, derivatives = compiled(x, mean, stddev, correlation)
    mirrored_density, mirrored = compiled(x * mirror, mean * mirror, stddev, -correlation)
    np.testing.assert_array_equal(mirrored_density, density)
    np.testing.assert_array_equal(mirrored.dmean, derivatives.dmean * mirror)
    np.testing.assert_array_equal(mirrored.dstddev, derivatives.dstddev)
    np.testing.assert_array_equal(mirrored.dcorrelation, -derivatives.dcorrelation)


def test_scaling_by_a_power_of_two_scales_the_density():
    x, mean, stddev, correlation = problem(200, 5)
    density, derivatives = compiled(x, mean, stddev, correlation, smooth_eps=0.0)
    scaled_density, scaled = compiled(8 * x, 8 * mean, 8 * stddev, correlation, smooth_eps=0.0)
    normal = density > 64 * np.finfo(np.float64).tiny
    assert normal.mean() > 0.5
    np.testing.assert_array_equal(64 * scaled_density[normal], density[normal])
    np.testing.assert_array_equal(8 * scaled.dmean, derivatives.dmean)
    np.testing.assert_array_equal(scaled.dcorrelation, derivatives.dcorrelation)


def test_permuting_components_permutes_everything():
    x, mean, stddev, correlation = problem(60, 7)
    order = np.random.default_rng(1).permutation(7)
    np.testing.assert_array_equal(
        outputs(compiled, x, mean[:, order], stddev[:, order], correlation[:, order]),
        outputs(compiled, x, mean, stddev, correlation)[:, order],
    )


@pytest.mark.parametrize("correlation", [0.0, 0.8, -0.99])
def test_density_integrates_to_1_and_the_score_to_0(correlation):
    mean, stddev = np.array([[[0.3, -0.2]]]), np.array([[[0.7, 1.9]]])
    axis = np.linspace(-9, 9, 401)  # sigmas; the trapezoidal rule converges faster than any power here
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 1, 2)
    shear = np.array([[1.0, 0.0], [correlation, np.sqrt(1 - correlation**2)]])  # grid along the component
    x = mean + stddev * (grid @ shear.T)
    density, derivatives = compiled(x, mean, stddev, np.full((1, 1, 1), correlation), smooth_eps=0.0)
    mass = density * (axis[1] - axis[0]) ** 2 * stddev.prod() * np.sqrt(1 - correlation**2)
    np.testing.assert_allclose(mass.sum(), 1, rtol=1e-12, atol=0)  # 160,801 roundings of eps at random, 9 sigma cut
    for derivative in derivatives:
        np.testing.assert_allclose((mass * derivative).sum(axis=(0, 1)), 0, rtol=0, atol=1e-11)


def test_agrees_with_scipy():
    x, mean, stddev, correlation = problem(30, 2)
    density, _ = gaussian_density_batch(x, mean, stddev, correlation, smooth_eps=0.0)
    for i in range(30):
        for j in range(2):
            cross = correlation[i, j, 0] * stddev[i, j].prod()
            covariance = np.diag(stddev[i, j] ** 2) + cross * (1 - np.eye(2))
            expected = multivariate_normal(mean[i, j], covariance).pdf(x[i, 0])
            np.testing.assert_allclose(density[i, j, 0], expected, rtol=1e-10, atol=0)  # SciPy's eigenvalues set it


@pytest.mark.parametrize("m", [1, 2, 20, 255, 256, 257, 600])
def test_single_calls_equal_batched_calls_bit_for_bit(m):
    arguments = problem(9, m)
    batched = outputs(compiled, *arguments)
    single = [outputs(compiled, *(a[i : i + 1] for a in arguments)) for i in range(9)]
    np.testing.assert_array_equal(np.concatenate(single), batched)


@pytest.mark.parametrize("m", [1, 2, 20, 255, 256, 257, 600])
@pytest.mark.parametrize("shared", ["x", "parameters", "mean", "stddev", "correlation"])
def test_n_of_1_broadcasts_bit_for_bit(m, shared):
    x, mean, stddev, correlation = problem(300 if m < 20 else 30, m)
    chosen = {"x": (0,), "parameters": (1, 2, 3), "mean": (1,), "stddev": (2,), "correlation": (3,)}[shared]
    arguments = [a[:1] if k in chosen else a for k, a in enumerate((x, mean, stddev, correlation))]
    whole = [np.repeat(a, len(x), axis=0) if len(a) == 1 else a for a in arguments]
    np.testing.assert_array_equal(outputs(compiled, *arguments), outputs(compiled, *whole))


def test_without_derivatives_the_density_has_the_same_bits():
    arguments = problem(100, 20)
    alone, none = gaussian_density_batch(*arguments)
    assert none is None
    np.testing.assert_array_equal(alone, gaussian_density_batch(*arguments, compute_derivatives=True)[0])
