"""The levels against themselves: differences, symmetries, each other, what densities must integrate to."""

import numpy as np
import pytest
from checks import PENS, each_pen
from problems import softmax

import cymdn
from cymdn import gaussian_logpdf_and_gradient, mdn_loss, mdn_loss_and_gradient, mixture_logpdf_and_gradient

EPS = 2.0**-52

# A few tens of roundings of terms of size 1 to 100: for two ways of computing the same ordinary numbers
FEW_EPS = {"rtol": 1e-13, "atol": 1e-13}
# The same where derivatives are up to 1e4, or responsibilities exp of distances
MORE_EPS = {"rtol": 1e-12, "atol": 1e-12}


def parameters(n=60, m=4, seed=0):
    """Unconstrained: logits (n, m), mean (n, m, 2), log stddev (n, m, 2), atanh correlation (n, m), x (n, 2)."""
    rng = np.random.default_rng(seed)
    logits, mean, log_stddev = rng.normal(size=(n, m)), rng.normal(size=(n, m, 2)), 0.5 * rng.normal(size=(n, m, 2))
    return logits, mean, log_stddev, rng.normal(size=(n, m)), rng.normal(size=(n, 2))


def arguments(logits, mean, log_stddev, a, x):
    """The same as arguments of mixture_logpdf."""
    return x, softmax(logits), mean, np.exp(log_stddev), np.tanh(a)


def raw_output(logits, mean, log_stddev, a, _x=None):
    """The same as raw output without pen logits."""
    pairs = (pair[..., k] for pair in (mean, log_stddev) for k in (0, 1))
    return np.concatenate([logits, *pairs, a], axis=-1)


def pen_problem(pen, n, seed=1):
    rng = np.random.default_rng(seed)
    targets = {"none": None, "bernoulli": rng.random(n), "categorical": rng.dirichlet([1, 1, 1], size=n)}
    return rng.normal(size=(n, PENS[pen])), targets[pen]


def drop_in(x, mean, stddev, correlation):
    """The drop-in level without smoothing, as log-density and gradient."""
    density, (dmean, dlog_stddev, da) = cymdn.gaussian_density_batch(
        x[:, None], mean, stddev, correlation[..., None], True, smooth_eps=0.0
    )
    with np.errstate(divide="ignore"):
        return np.log(density[..., 0]), (dmean, dlog_stddev, da[..., 0], -dmean)


COMPONENTS = {"log-domain": gaussian_logpdf_and_gradient, "drop-in": drop_in}
each_level = pytest.mark.parametrize("level", COMPONENTS)


# Derivatives by differences


def central_difference(function, theta, h=1e-3):
    """Fourth-order differences of function (n,) along each column of theta (n, k): (n, k)."""
    columns = []
    for step in h * np.eye(theta.shape[-1]):
        f = [function(theta + j * step) for j in (-2, -1, 1, 2)]
        columns.append((f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h))
    return np.stack(columns, axis=-1)


def assert_is_gradient(gradient, function, theta):
    # fourth order: h^4 / 30 of a fifth derivative, some 1e3 times the value here, and the value's rounding over h
    scale = 1 + abs(function(theta))[:, None]
    assert (abs(central_difference(function, theta) - gradient) / scale).max() < 1e-8


def packed(arrays):
    return np.concatenate([a.reshape(len(a), -1) for a in arrays], axis=-1)


def unpacked(theta, arrays):
    ends = np.cumsum([a[0].size for a in arrays])[:-1]
    return [part.reshape(a.shape) for part, a in zip(np.split(theta, ends, axis=-1), arrays, strict=True)]


@each_level
@pytest.mark.parametrize("correlation", [None, 0.9, -0.9])
def test_gradient_of_a_component_is_that_of_its_log_density(correlation, level):
    mean, log_stddev, a, x = parameters(m=1)[1:]
    if correlation:
        a = np.full_like(a, np.arctanh(correlation))
    x = mean[:, 0] + np.exp(log_stddev[:, 0]) * x  # some sigmas away, so that the density has its digits
    p = mean, log_stddev, a, x

    def log_density(theta):
        mean, log_stddev, a, x = unpacked(theta, p)
        return COMPONENTS[level](x, mean, np.exp(log_stddev), np.tanh(a))[0][:, 0]

    _, gradient = COMPONENTS[level](x, mean, np.exp(log_stddev), np.tanh(a))
    assert_is_gradient(packed(gradient), log_density, packed(p))


@pytest.mark.parametrize("m", [1, 4])
def test_gradient_of_a_mixture_is_that_of_its_log_density(m):
    p = parameters(m=m)
    _, gradient = mixture_logpdf_and_gradient(*arguments(*p))
    assert_is_gradient(packed(gradient), lambda theta: cymdn.mixture_logpdf(*arguments(*unpacked(theta, p))), packed(p))


@pytest.mark.parametrize("m", [1, 4])
@each_pen
def test_gradient_of_the_loss_is_that_of_each_row(pen, m):
    p = parameters(m=m)
    logits, targets = pen_problem(pen, 60)
    raw, x = np.concatenate([logits, raw_output(*p)], axis=-1), p[-1]
    _, gradient = mdn_loss_and_gradient(raw, x, targets, reduction="none")
    assert_is_gradient(gradient, lambda theta: mdn_loss(theta, x, targets, reduction="none"), raw)


# Agreement between levels


def test_drop_in_level_without_smoothing_is_the_log_domain_level():
    x, _, *rest = arguments(*parameters())
    (log_density, drop_in_gradient), (value, gradient) = drop_in(x, *rest), gaussian_logpdf_and_gradient(x, *rest)
    # exp makes the errors of its argument, below 100 here but for a few points, relative ones
    np.testing.assert_allclose(np.exp(value), np.exp(log_density), rtol=1e-11, atol=1e-300)
    for ours, theirs in zip(gradient, drop_in_gradient, strict=True):
        np.testing.assert_allclose(ours, theirs, **MORE_EPS)


def test_mixture_is_the_log_of_the_weighted_sum_of_components():
    x, weights, *rest = arguments(*parameters())
    t = np.log(weights) + cymdn.gaussian_logpdf(x, *rest)
    top = t.max(axis=-1)
    expected = top + np.log(np.exp(t - top[:, None]).sum(axis=-1))
    np.testing.assert_allclose(cymdn.mixture_logpdf(x, weights, *rest), expected, **FEW_EPS)


@pytest.mark.parametrize("m", [1, 4])
def test_gradient_of_a_mixture_is_that_of_its_components_times_responsibilities(m):
    x, weights, *rest = arguments(*parameters(m=m))
    value, gradient = mixture_logpdf_and_gradient(x, weights, *rest)
    own_value, own = gaussian_logpdf_and_gradient(x, *rest)
    g = np.exp(np.log(weights) + own_value - value[:, None])
    # the exponent's error, some 100 eps, is relative; derivatives are up to 1e4
    expected = (
        g - weights,
        g[..., None] * own.mean,
        g[..., None] * own.log_stddev,
        g * own.atanh_correlation,
        (g[..., None] * own.x).sum(axis=1),
    )
    for ours, theirs in zip(gradient, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, **MORE_EPS)


def test_loss_is_the_negative_log_density_of_the_mixture_with_softmax_weights():
    p = parameters()
    loss, gradient = mdn_loss_and_gradient(raw_output(*p), p[-1], reduction="none")
    value, of_mixture = mixture_logpdf_and_gradient(*arguments(*p))
    np.testing.assert_allclose(loss, -value, **FEW_EPS)
    # tanh and its rounding: 1 - r^2 is off by eps / (1 - r^2), below 1e3 here; derivatives are up to 1e4
    np.testing.assert_allclose(gradient, -raw_output(*of_mixture), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("pen", ["bernoulli", "categorical"])
def test_pen_adds_its_cross_entropy_and_changes_no_other_derivative(pen):
    p = parameters()
    logits, targets = pen_problem(pen, 60)
    alone, gradient_alone = mdn_loss_and_gradient(raw_output(*p), p[-1], reduction="none")
    raw = np.concatenate([logits, raw_output(*p)], axis=-1)
    loss, gradient = mdn_loss_and_gradient(raw, p[-1], targets, reduction="none")
    if pen == "bernoulli":
        share = 1 / (1 + np.exp(-logits))
        cross_entropy = -targets * np.log(share[:, 0]) - (1 - targets) * np.log(1 - share[:, 0])
        targets = targets[:, None]
    else:
        share = softmax(logits)
        cross_entropy = -(targets * np.log(share)).sum(axis=-1)
    np.testing.assert_allclose(loss - alone, cross_entropy, **FEW_EPS)
    np.testing.assert_allclose(gradient[:, : logits.shape[1]], share - targets, **FEW_EPS)
    np.testing.assert_array_equal(gradient[:, logits.shape[1] :], gradient_alone)


# Identities of the gradient


@each_level
def test_derivatives_of_the_log_stddevs_sum_to_the_distance_less_2_and_so_give_the_log_density(level):
    p = parameters()
    x, _, mean, stddev, r = arguments(*p)
    u, v = np.moveaxis((x[:, None] - mean) / stddev, -1, 0)
    distance = (u**2 + v**2 - 2 * r * u * v) / (1 - r**2)
    value, gradient = COMPONENTS[level](x, mean, stddev, r)
    # eps of the terms of the textbook form
    np.testing.assert_allclose(gradient[1].sum(axis=-1), distance - 2, **MORE_EPS)
    # log N = -log 2 pi - log sigma0 - log sigma1 + log cosh a - Q / 2
    expected = -np.log(2 * np.pi) - p[2].sum(axis=-1) + np.log(np.cosh(p[3])) - gradient[1].sum(axis=-1) / 2 - 1
    normal = expected > -700  # where the density has all its digits
    np.testing.assert_allclose(value[normal], expected[normal], **MORE_EPS)


def test_derivative_of_x_is_minus_that_of_the_mean():
    x, weights, *rest = arguments(*parameters())
    _, gradient = gaussian_logpdf_and_gradient(x, *rest)
    np.testing.assert_array_equal(gradient.x, -gradient.mean)
    _, gradient = mixture_logpdf_and_gradient(x, weights, *rest)
    np.testing.assert_allclose(gradient.x, -gradient.mean.sum(axis=1), **FEW_EPS)


@pytest.mark.parametrize("m", [1, 4])
def test_derivatives_of_logits_and_of_pen_states_sum_to_0(m):
    p = parameters(m=m)
    logits, _ = pen_problem("categorical", 60)
    raw, one_hot = np.concatenate([logits, raw_output(*p)], axis=-1), np.eye(3)[np.arange(60) % 3]
    _, of_mixture = mixture_logpdf_and_gradient(*arguments(*p))
    _, gradient = mdn_loss_and_gradient(raw, p[-1], one_hot, reduction="none")
    for part in (of_mixture.logits, gradient[:, :3], gradient[:, 3 : 3 + m]):
        # sums of up to 8 terms below 1; of one, which is rounded
        np.testing.assert_allclose(part.sum(axis=-1), 0, rtol=0, atol=(8 if part.shape[1] > 1 else 1) * EPS)


# Symmetries


def level_and_arguments(level, *p):
    """A level's function and its arguments made of parameters; derivatives lack those to logits but for a mixture."""
    x, weights, *rest = arguments(*p)
    if level == "mixture":
        return mixture_logpdf_and_gradient(x, weights, *rest)
    return COMPONENTS[level](x, *rest)


each_natural_level = pytest.mark.parametrize("level", ["mixture", *COMPONENTS])


@each_natural_level
def test_swapping_the_axes_swaps_the_outputs(level):
    logits, mean, log_stddev, a, x = parameters()
    value, gradient = level_and_arguments(level, logits, mean, log_stddev, a, x)
    swapped = logits, mean[..., ::-1], log_stddev[..., ::-1], a, x[:, ::-1]
    swapped_value, swapped = level_and_arguments(level, *swapped)
    # Q is u^2 + k1^2 or v^2 + k0^2, Z q u^2 + w1^2 or q v^2 + w0^2; no such choice in derivatives of the drop-in level
    np.testing.assert_allclose(swapped_value, value, **MORE_EPS)
    for ours, theirs in zip(swapped, gradient, strict=True):
        ours = ours[..., ::-1] if ours.shape[-1] == 2 else ours
        close = {"rtol": 0, "atol": 0} if level == "drop-in" else MORE_EPS
        np.testing.assert_allclose(ours, theirs, **close)


@each_natural_level
@pytest.mark.parametrize("axis", [0, 1])
def test_mirroring_an_axis_flips_signs_exactly(axis, level):
    logits, mean, log_stddev, a, x = parameters()
    mirror = np.where(np.arange(2) == axis, -1.0, 1.0)
    value, gradient = level_and_arguments(level, logits, mean, log_stddev, a, x)
    mirrored_value, mirrored = level_and_arguments(level, logits, mean * mirror, log_stddev, -a, x * mirror)
    np.testing.assert_array_equal(mirrored_value, value)
    for ours, theirs, sign in zip(mirrored[::-1], gradient[::-1], (mirror, -1, 1, mirror, 1), strict=False):
        np.testing.assert_array_equal(ours, sign * theirs)


@pytest.mark.parametrize("axis", [0, 1])
def test_mirroring_an_axis_flips_signs_of_the_gradient_of_the_loss_exactly(axis):
    logits, mean, log_stddev, a, x = parameters()
    mirror = np.where(np.arange(2) == axis, -1.0, 1.0)
    loss, gradient = mdn_loss_and_gradient(raw_output(logits, mean, log_stddev, a), x, reduction="none")
    mirrored_loss, mirrored = mdn_loss_and_gradient(
        raw_output(logits, mean * mirror, log_stddev, -a), x * mirror, reduction="none"
    )
    signs = np.repeat([1.0, *mirror, 1.0, 1.0, -1.0], 4)
    np.testing.assert_array_equal(mirrored_loss, loss)
    np.testing.assert_array_equal(mirrored, gradient * signs)


@each_natural_level
def test_permuting_components_permutes_gradients(level):
    p = parameters(m=7)
    order = np.random.default_rng(2).permutation(7)
    value, gradient = level_and_arguments(level, *p)
    permuted_value, permuted = level_and_arguments(level, *(a[:, order] for a in p[:4]), p[4])
    if level == "mixture":  # another order of summation
        np.testing.assert_allclose(permuted_value, value, **FEW_EPS)
        for ours, theirs in zip(permuted[:4], gradient[:4], strict=True):
            np.testing.assert_allclose(ours, theirs[:, order], **FEW_EPS)
        return
    for ours, theirs in zip((permuted_value, *permuted), (value, *gradient), strict=True):
        np.testing.assert_array_equal(ours, theirs[:, order])


def test_duplicating_a_component_with_halved_weight_changes_nothing():
    x, weights, *rest = arguments(*parameters(m=3))
    value, gradient = mixture_logpdf_and_gradient(x, weights, *rest)
    twice = [0, 1, 2, 2]
    halved = weights[:, twice] * [1, 1, 0.5, 0.5]
    doubled_value, doubled = mixture_logpdf_and_gradient(x, halved, *(a[:, twice] for a in rest))
    np.testing.assert_allclose(doubled_value, value, **FEW_EPS)
    for ours, theirs in zip(doubled[:4], gradient[:4], strict=True):
        np.testing.assert_allclose(ours[:, :2], theirs[:, :2], **FEW_EPS)
        np.testing.assert_allclose(ours[:, 2], 0.5 * theirs[:, 2], **FEW_EPS)
        np.testing.assert_array_equal(ours[:, 2], ours[:, 3])
    np.testing.assert_allclose(doubled.x, gradient.x, **FEW_EPS)


@pytest.mark.parametrize("k", [1e-6, 0.25, 3.0, 1e8])
def test_scaling_data_and_sigma_by_k_adds_2_log_k_to_the_loss(k):
    logits, mean, log_stddev, a, x = parameters()
    loss, gradient = mdn_loss_and_gradient(raw_output(logits, mean, log_stddev, a), x, reduction="none")
    scaled_loss, scaled = mdn_loss_and_gradient(
        raw_output(logits, k * mean, log_stddev + np.log(k), a), k * x, reduction="none"
    )
    # rounding k mean, k x and log k moves u by eps of its terms, up to 100 eps u, and the derivatives are up to 1e4
    close = {"rtol": 1e-11, "atol": 1e-11}
    np.testing.assert_allclose(scaled_loss, loss + 2 * np.log(k), **close)
    scales = np.repeat([1, k, k, 1, 1, 1], 4)
    np.testing.assert_allclose(scaled * scales, gradient, **close)


@each_level
def test_scaling_by_a_power_of_2_changes_no_bit_of_the_derivatives(level):
    x, weights, mean, stddev, r = arguments(*parameters())
    (value, own), (scaled_value, scaled) = (COMPONENTS[level](k * x, k * mean, k * stddev, r) for k in (1, 8))
    normal = value > -700
    np.testing.assert_allclose(scaled_value[normal], (value - 2 * np.log(8))[normal], **FEW_EPS)
    for ours, theirs, k in zip(scaled, own, (8, 1, 1, 8), strict=True):
        np.testing.assert_array_equal(k * ours, theirs)
    # log k rounds responsibilities
    (value, gradient), (scaled_value, scaled) = (
        mixture_logpdf_and_gradient(k * x, weights, k * mean, k * stddev, r) for k in (1, 8)
    )
    np.testing.assert_allclose(scaled_value, value - 2 * np.log(8), **FEW_EPS)
    np.testing.assert_allclose(8 * scaled.mean, gradient.mean, **FEW_EPS)
    np.testing.assert_allclose(scaled.log_stddev, gradient.log_stddev, **FEW_EPS)


def test_scaling_by_a_power_of_2_scales_the_density_by_its_square():
    x, _, mean, stddev, r = arguments(*parameters())
    one, eight = (
        cymdn.gaussian_density_batch(k * x[:, None], k * mean, k * stddev, r[..., None], smooth_eps=0.0)[0]
        for k in (1, 8)
    )
    normal = one > 64 * np.finfo(np.float64).tiny
    assert normal.mean() > 0.5
    np.testing.assert_array_equal(64 * eight[normal], one[normal])


def test_moving_points_and_means_together_changes_nothing():
    logits, mean, log_stddev, a, x = parameters()
    mean, x = np.round(mean * 2**20) / 2**20, np.round(x * 2**20) / 2**20  # so that the sums are exact
    result = mdn_loss_and_gradient(raw_output(logits, mean, log_stddev, a), x, reduction="none")
    moved = mdn_loss_and_gradient(raw_output(logits, mean + 1000, log_stddev, a), x + 1000, reduction="none")
    for ours, theirs in zip(moved, result, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("shift", [-1e6, 700.0, 1e6])
def test_adding_a_constant_to_all_logits_changes_nothing(shift):
    logits, *rest, x = parameters()
    logits = np.round(logits * 2**20) / 2**20  # so that the sums are exact
    pen_logits, targets = pen_problem("categorical", 60)
    pen_logits = np.round(pen_logits * 2**20) / 2**20

    def result(extra):
        raw = np.concatenate([pen_logits + extra, raw_output(logits + extra, *rest)], axis=-1)
        return mdn_loss_and_gradient(raw, x, targets, reduction="none")

    for ours, theirs in zip(result(shift), result(0.0), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_negating_the_pen_logit_and_the_target_changes_nothing():
    p = parameters()
    logits, _ = pen_problem("bernoulli", 60)
    raw, mirrored = (np.concatenate([sign * logits, raw_output(*p)], axis=-1) for sign in (1, -1))
    target = np.arange(60) % 5 / 4  # 1 - target is exact
    loss, gradient = mdn_loss_and_gradient(raw, p[-1], target, reduction="none")
    mirrored_loss, mirrored_gradient = mdn_loss_and_gradient(mirrored, p[-1], 1 - target, reduction="none")
    np.testing.assert_array_equal(mirrored_loss, loss)
    np.testing.assert_allclose(mirrored_gradient[:, 0], -gradient[:, 0], rtol=0, atol=2 * EPS)  # 1 - sigmoid(-l)
    np.testing.assert_array_equal(mirrored_gradient[:, 1:], gradient[:, 1:])


# Integrals

STDDEV = np.array([0.5, 3.0])
CORRELATIONS = [0.0, 0.6, -0.9]


def gauss_hermite(r, order=20):
    """Nodes and weights of the expectation under the component of stddev STDDEV and correlation r at the origin."""
    t, w = np.polynomial.hermite_e.hermegauss(order)
    z0, z1 = (axis.ravel() for axis in np.meshgrid(t, t, indexing="ij"))
    weight = np.outer(w, w).ravel() / (2 * np.pi)
    x = STDDEV * np.stack([z0, r * z0 + np.sqrt(1 - r**2) * z1], axis=-1)
    return x, weight


def scores(r):
    """Nodes' weights, and at the nodes the derivatives to mean 0, 1, log stddev 0, 1, atanh correlation."""
    x, weight = gauss_hermite(r)
    _, gradient = gaussian_logpdf_and_gradient(x, np.zeros((1, 2)), STDDEV[None], np.array([r]))
    return weight, np.concatenate([gradient.mean[:, 0], gradient.log_stddev[:, 0], gradient.atanh_correlation], axis=-1)


# The integrands are polynomials of degree 4 at most: exact but for roundings, of terms up to 1e3 at the nodes' ends
QUADRATURE = {"rtol": 1e-12, "atol": 1e-12}


@pytest.mark.parametrize("r", CORRELATIONS)
def test_expected_score_is_0_its_products_the_fisher_information_and_the_log_density_minus_the_entropy(r):
    weight, score = scores(r)
    np.testing.assert_allclose(weight @ score, 0, **QUADRATURE)
    c, information = 1 / (1 - r**2), score.T @ (weight[:, None] * score)
    expected = np.zeros((5, 5))
    cross = r * STDDEV.prod()
    expected[:2, :2] = np.linalg.inv(np.diag(STDDEV**2) + cross * (1 - np.eye(2)))
    expected[2:, 2:] = [[1 + c, 1 - c, -r], [1 - c, 1 + c, -r], [-r, -r, 1 + r**2]]
    np.testing.assert_allclose(information, expected, **QUADRATURE)
    # the inverse is bounded, whatever r; the condition number of the matrix, some 100, times the above
    inverse = [[0.5, r**2 / 2, r / 2], [r**2 / 2, 0.5, r / 2], [r / 2, r / 2, 1]]
    np.testing.assert_allclose(np.linalg.inv(information[2:, 2:]), inverse, rtol=1e-10, atol=1e-10)
    x, weight = gauss_hermite(r)
    value = cymdn.gaussian_logpdf(x, np.zeros((1, 2)), STDDEV[None], np.array([r]))[:, 0]
    entropy = 1 + np.log(2 * np.pi) + np.log(STDDEV).sum() + 0.5 * np.log(1 - r**2)
    np.testing.assert_allclose(weight @ value, -entropy, **QUADRATURE)


def mixture_on_a_grid():
    """Log-density and gradient of one mixture on a grid that reaches 9 sigma, and the area of a cell."""
    mixture = (
        np.array([0.3, 0.5, 0.2]),
        np.array([[0.0, 0.0], [2.0, -1.0], [-1.0, 3.0]]),
        np.array([[1.0, 0.6], [0.7, 1.5], [0.5, 0.5]]),
        np.array([0.7, -0.8, 0.0]),
    )
    axis = np.linspace(-15, 15, 601)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    return *mixture_logpdf_and_gradient(grid, *mixture), (axis[1] - axis[0]) ** 2


def test_density_of_a_mixture_integrates_to_1_and_its_gradient_to_0():
    value, gradient, cell = mixture_on_a_grid()
    # the trapezoidal rule converges geometrically for Gaussians: only roundings are left
    mass = np.exp(value) * cell
    np.testing.assert_allclose(mass.sum(), 1, rtol=1e-12, atol=0)
    for array in gradient:
        np.testing.assert_allclose(np.tensordot(mass, array, 2), 0, rtol=0, atol=1e-12)
