"""The levels against themselves: derivatives by differences, and symmetries that change no bit.

Values and derivatives are measured against 60-digit arithmetic in test_accuracy.py; differences show that the
derivatives there are those of the values.
"""

import numpy as np
import pytest
from checks import PENS, each_pen
from problems import softmax

import cymdn
from cymdn import gaussian_logpdf_and_gradient, mdn_loss, mdn_loss_and_gradient, mixture_logpdf_and_gradient

EPS = 2.0**-52


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
each_level_of_components = pytest.mark.parametrize("level", COMPONENTS)
each_level = pytest.mark.parametrize("level", [*COMPONENTS, "mixture", "loss"])


def evaluate(level, logits, mean, log_stddev, a, x):
    """The value of a level, and its derivatives by name."""
    if level == "loss":
        value, gradient = mdn_loss_and_gradient(raw_output(logits, mean, log_stddev, a), x, reduction="none")
        of_logits, mean0, mean1, log_stddev0, log_stddev1, of_a = np.split(gradient, 6, axis=-1)
        pairs = np.stack([mean0, mean1], axis=-1), np.stack([log_stddev0, log_stddev1], axis=-1)
        return value, {"logits": of_logits, "mean": pairs[0], "log_stddev": pairs[1], "a": of_a}
    x, weights, *rest = arguments(logits, mean, log_stddev, a, x)
    if level == "mixture":
        value, gradient = mixture_logpdf_and_gradient(x, weights, *rest)
        return value, dict(zip(("logits", "mean", "log_stddev", "a", "x"), gradient, strict=True))
    value, gradient = COMPONENTS[level](x, *rest)
    return value, dict(zip(("mean", "log_stddev", "a", "x"), gradient, strict=True))


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


@each_level_of_components
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


@pytest.mark.parametrize("m", [1, 5])  # of which vectors leave one
def test_gradient_of_a_mixture_is_that_of_its_log_density(m):
    p = parameters(m=m)
    _, gradient = mixture_logpdf_and_gradient(*arguments(*p))
    assert_is_gradient(packed(gradient), lambda theta: cymdn.mixture_logpdf(*arguments(*unpacked(theta, p))), packed(p))


@pytest.mark.parametrize("m", [1, 5])  # of which vectors leave one
@each_pen
def test_gradient_of_the_loss_is_that_of_each_row(pen, m):
    p = parameters(m=m)
    logits, targets = pen_problem(pen, 60)
    raw, x = np.concatenate([logits, raw_output(*p)], axis=-1), p[-1]
    _, gradient = mdn_loss_and_gradient(raw, x, targets, reduction="none")
    assert_is_gradient(gradient, lambda theta: mdn_loss(theta, x, targets, reduction="none"), raw)


def test_drop_in_level_without_smoothing_is_the_log_domain_level():
    x, _, *rest = arguments(*parameters())
    (log_density, drop_in_gradient), (value, gradient) = drop_in(x, *rest), gaussian_logpdf_and_gradient(x, *rest)
    # exp makes the errors of its argument, below 100 here but for a few points, relative ones
    np.testing.assert_allclose(np.exp(value), np.exp(log_density), rtol=1e-11, atol=1e-300)
    for ours, theirs in zip(gradient, drop_in_gradient, strict=True):  # up to 1e4
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


# Symmetries


def assert_same(level, changed, factors):
    """Assert that changed parameters give the value, and the derivatives by name times these factors, bit for bit."""
    (value, gradient), (changed_value, changed_gradient) = (
        evaluate(level, *p) for p in (parameters_on_a_grid(), changed)
    )
    np.testing.assert_array_equal(changed_value, value)
    for name, array in gradient.items():
        np.testing.assert_array_equal(changed_gradient[name], factors.get(name, 1) * array)


def parameters_on_a_grid():
    """Logits, means and points that are multiples of 2^-20: sums with others are exact."""
    logits, mean, log_stddev, a, x = parameters()
    logits, mean, x = (np.round(array * 2**20) / 2**20 for array in (logits, mean, x))
    return logits, mean, log_stddev, a, x


@each_level
@pytest.mark.parametrize("axis", [0, 1])
def test_mirroring_an_axis_flips_signs_exactly(axis, level):
    logits, mean, log_stddev, a, x = parameters_on_a_grid()
    mirror = np.where(np.arange(2) == axis, -1.0, 1.0)
    mirrored = logits, mean * mirror, log_stddev, -a, x * mirror
    assert_same(level, mirrored, {"mean": mirror, "a": -1, "x": mirror})


@each_level
def test_moving_points_and_means_together_changes_nothing(level):
    logits, mean, log_stddev, a, x = parameters_on_a_grid()
    assert_same(level, (logits, mean + 1000, log_stddev, a, x + 1000), {})


@each_level_of_components
def test_permuting_components_permutes_their_derivatives(level):
    p = parameters(m=7)
    order = np.random.default_rng(2).permutation(7)
    value, gradient = evaluate(level, *p)
    permuted_value, permuted = evaluate(level, *(array[:, order] for array in p[:4]), p[4])
    for ours, theirs in zip((permuted_value, *permuted.values()), (value, *gradient.values()), strict=True):
        np.testing.assert_array_equal(ours, theirs[:, order])


@each_level_of_components
def test_scaling_by_a_power_of_2_changes_no_bit_of_the_derivatives(level):
    x, _, mean, stddev, r = arguments(*parameters())
    (_, own), (_, scaled) = (COMPONENTS[level](k * x, k * mean, k * stddev, r) for k in (1, 8))
    for ours, theirs, k in zip(scaled, own, (8, 1, 1, 8), strict=True):
        np.testing.assert_array_equal(k * ours, theirs)
    one, eight = (
        cymdn.gaussian_density_batch(k * x[:, None], k * mean, k * stddev, r[..., None], smooth_eps=0.0)[0]
        for k in (1, 8)
    )
    normal = one > 64 * np.finfo(np.float64).tiny
    assert normal.mean() > 0.5
    np.testing.assert_array_equal(64 * eight[normal], one[normal])


@pytest.mark.parametrize("shift", [-1e6, 700.0, 1e6])
def test_adding_a_constant_to_all_logits_changes_nothing(shift):
    logits, *rest, x = parameters_on_a_grid()
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
