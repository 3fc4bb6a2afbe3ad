"""The log-domain levels against 60-digit arithmetic: errors in eps of the terms that each number is made of."""

import mpmath
import numpy as np
import pytest
from reference_mixture import gaussian_exact, mdn_exact, mixture_exact

from cymdn import (
    gaussian_logpdf,
    gaussian_logpdf_and_gradient,
    mdn_loss,
    mdn_loss_and_gradient,
    mixture_logpdf,
    mixture_logpdf_and_gradient,
)

EPS = 2.0**-52
BOUND = 8.0  # eps of the terms: the promise of the contract
COMPONENTS = {1: 34, 2: 33, 5: 33}  # rows for each number of components: 100 a group
PENS = ("none", "bernoulli", "categorical")
FLOATS = (np.float32, np.float64)

# Largest |atanh r| whose r is not 1 in the dtype, for functions that take r itself
LARGEST_ATANH = {np.float32: 8.3, np.float64: 18.0}


def ordinary(rng, n, m):
    """Unconstrained parameters (n, M, ...) and points (n, 2) about 1 sigma from the first component."""
    mean, log_stddev = rng.normal(size=(n, m, 2)), rng.normal(size=(n, m, 2))
    x = mean[:, 0] + np.exp(log_stddev[:, 0]) * rng.normal(size=(n, 2))
    logits, a = rng.normal(size=(n, m)), rng.normal(size=(n, m))
    return {"x": x, "logits": logits, "mean": mean, "log_stddev": log_stddev, "a": a}


def out_to_10000_sigma(rng, n, m):
    p = ordinary(rng, n, m)
    direction = rng.normal(size=(n, 2))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    distance = 10.0 ** rng.uniform(0, 4, size=(n, 1))
    p["x"] = p["mean"][:, 0] + np.exp(p["log_stddev"][:, 0]) * distance * direction
    return p


def correlation_up_to_18(rng, n, m):
    """Half of the points lie along the main axis of the first component, where u - v cancels."""
    p = ordinary(rng, n, m)
    p["a"] = rng.uniform(-18, 18, size=(n, m))
    u = rng.normal(size=(n, 2))
    u[::2, 1] = np.tanh(p["a"][::2, 0]) * u[::2, 0]
    p["x"] = p["mean"][:, 0] + np.exp(p["log_stddev"][:, 0]) * u
    return p


def correlation_18_along_the_axis_far_away(rng, n, m):
    p = correlation_up_to_18(rng, n, m)
    p["a"] = rng.choice([-1.0, 1.0], size=(n, m)) * rng.uniform(12, 18, size=(n, m))
    u = 10.0 ** rng.uniform(-2, 4, size=n)
    p["mean"][:, 0] = 0.0  # the points stay where they are put
    sigma = np.exp(p["log_stddev"][:, 0])
    p["x"] = np.stack([sigma[:, 0] * u, sigma[:, 1] * u * np.sign(p["a"][:, 0])], axis=-1)
    return p


def log_stddev_up_to_40(rng, n, m):
    p = ordinary(rng, n, m)
    p["log_stddev"] = rng.uniform(-40, 40, size=(n, m, 2))
    sigma = np.exp(p["log_stddev"][:, 0])
    p["mean"][:, 0] = sigma * rng.normal(size=(n, 2))
    p["x"] = p["mean"][:, 0] + sigma * rng.normal(size=(n, 2))
    return p


def stddev_1e_8(rng, n, m):
    p = ordinary(rng, n, m)
    p["log_stddev"] += np.log(1e-8)
    p["mean"] *= 1e-7
    p["x"] = p["mean"][:, 0] + 1e-8 * rng.normal(size=(n, 2))
    return p


def logits_1000_apart(rng, n, m):
    p = ordinary(rng, n, m)
    p["logits"] = rng.choice([-1000.0, 0.0, 1000.0], size=(n, m)) + rng.normal(size=(n, m))
    return p


def responsibilities_that_underflow(rng, n, m):
    """Components some 10 to 1000 sigma away, beside one nearby: exponents on both sides of where exp is denormal."""
    p = ordinary(rng, n, m)
    p["mean"][:, 1:] += np.exp(p["log_stddev"][:, 1:]) * 10.0 ** rng.uniform(1, 3, size=(n, m - 1, 1))
    # the second one where its responsibility is between 1e-330 and 1e-290
    for k in range(n if m > 1 else 0):
        p["log_stddev"][k, 1] = p["a"][k, 1] = 0.0
        p["mean"][k, 1] = p["x"][k] + [np.sqrt(2 * rng.uniform(668, 760)), 0.0]
    return p


def near_the_mean(rng, n, m):
    """A quarter of the points exactly at the mean of the first component."""
    p = ordinary(rng, n, m)
    p["mean"][:, 0] *= 1e-3
    distance = 10.0 ** rng.uniform(-12, -3, size=(n, 1)) * (np.arange(n)[:, None] % 4 > 0)
    p["x"] = p["mean"][:, 0] + np.exp(p["log_stddev"][:, 0]) * distance * rng.normal(size=(n, 2))
    return p


GROUPS = {
    "ordinary": ordinary,
    "points out to 1e4 sigma": out_to_10000_sigma,
    "abs(a) up to 18": correlation_up_to_18,
    "abs(a) of 12 to 18, points along the axis out to 1e4 sigma": correlation_18_along_the_axis_far_away,
    "log sigma in [-40, 40]": log_stddev_up_to_40,
    "sigma 1e-8": stddev_1e_8,
    "logits 1000 apart": logits_1000_apart,
    "responsibilities that underflow": responsibilities_that_underflow,
    "x near the mean": near_the_mean,
}


def problems(group, dtype):
    """For each M the unconstrained parameters of a group, rounded to the dtype."""
    for m, n in COMPONENTS.items():
        p = GROUPS[group](np.random.default_rng(m), n, m)
        yield {name: array.astype(dtype) for name, array in p.items()}


def natural(p):
    """x, weights, mean, stddev, correlation, rounded to the dtype and inside the domain."""
    dtype = p["x"].dtype
    limit = LARGEST_ATANH[dtype.type]
    wide = {name: array.astype(np.float64) for name, array in p.items()}
    weights = np.exp(wide["logits"] - wide["logits"].max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    correlation = np.tanh(np.clip(wide["a"], -limit, limit)).astype(dtype)
    assert (abs(correlation) < 1).all()
    return p["x"], weights.astype(dtype), p["mean"], np.exp(wide["log_stddev"]).astype(dtype), correlation


def raw_output(p, pen):
    """raw, x and pen of a call of mdn_loss; pens certain and uncertain, logits small and large."""
    n = len(p["x"])
    columns = [p["logits"], *np.moveaxis(p["mean"], -1, 0), *np.moveaxis(p["log_stddev"], -1, 0), p["a"]]
    rng = np.random.default_rng(7)
    pens, target = {
        "none": (0, None),
        "bernoulli": (1, rng.choice([0.0, 1.0, 0.25], size=n)),
        "categorical": (3, np.eye(3)[rng.integers(0, 3, size=n)]),
    }[pen]
    pen_logits = (rng.normal(size=(n, pens)) * 10.0 ** rng.uniform(-2, 3, size=(n, 1))).astype(p["x"].dtype)
    return np.concatenate([pen_logits, *columns], axis=-1), p["x"], target


# Each level: problems -> rows of (numbers computed, numbers exact), the value first


def gaussian_rows(p):
    x, _, mean, stddev, correlation = natural(p)
    value, gradient = gaussian_logpdf_and_gradient(x, mean, stddev, correlation)
    np.testing.assert_array_equal(gaussian_logpdf(x, mean, stddev, correlation), value)
    for i, j in np.ndindex(value.shape):
        got = [value[i, j], *gradient.mean[i, j], *gradient.log_stddev[i, j], gradient.atanh_correlation[i, j]]
        yield [*got, *gradient.x[i, j]], gaussian_exact(x[i], mean[i, j], stddev[i, j], correlation[i, j])


def mixture_rows(p):
    arguments = natural(p)
    value, gradient = mixture_logpdf_and_gradient(*arguments)
    np.testing.assert_array_equal(mixture_logpdf(*arguments), value)
    for i in range(len(value)):
        got = np.concatenate([[value[i]], *(array[i].ravel() for array in gradient)])
        yield got, mixture_exact(*(array[i] for array in arguments))


def mdn_rows(pen):
    def rows(p):
        raw, x, target = raw_output(p, pen)
        loss, gradient = mdn_loss_and_gradient(raw, x, target, reduction="none")
        np.testing.assert_array_equal(mdn_loss(raw, x, target, reduction="none"), loss)
        for i in range(len(loss)):
            yield [loss[i], *gradient[i]], mdn_exact(raw[i], x[i], None if target is None else target[i])

    return rows


LEVELS = {
    "gaussian_logpdf": gaussian_rows,
    "mixture_logpdf": mixture_rows,
    **{f"mdn_loss, pen {pen}": mdn_rows(pen) for pen in PENS},
}


def error64(got, number):
    """The error of a float64 number in eps of its terms."""
    if not np.isfinite(got):
        return np.inf
    error = abs(mpmath.mpf(float(got)) - number.exact)
    return float(error / (EPS * number.terms)) if error else 0.0


def error32(got, number):
    """The error of a float32 number in units of its last place, above what its terms in float64 allow."""
    exact = float(number.exact)
    with np.errstate(over="ignore"):
        rounded = np.float32(exact)
    if np.isinf(rounded):
        return 0.0 if got == rounded else np.inf
    if not np.isfinite(got):
        return np.inf
    error = max(0.0, float(abs(mpmath.mpf(float(got)) - number.exact) - BOUND * EPS * number.terms))
    return error / float(np.spacing(abs(rounded)))


ERROR = {np.float64: error64, np.float32: error32}
LIMIT = {np.float64: BOUND, np.float32: 1.0}


def row_errors(got, exact, dtype):
    """Errors of the numbers of a row; where its value is beyond the dtype, the gradient is to be exactly 0."""
    if abs(exact[0].exact) > float(np.finfo(dtype).max):
        return [0.0 if np.isinf(got[0]) else np.inf, *(np.inf if derivative else 0.0 for derivative in got[1:])]
    return [ERROR[dtype](*pair) for pair in zip(got, exact, strict=True)]


def worst_errors(level, group, dtype):
    """Largest errors over a group: of the values, of the derivatives."""
    errors = [row_errors(*row, dtype) for p in problems(group, dtype) for row in LEVELS[level](p)]
    return max(row[0] for row in errors), max(max(row[1:]) for row in errors)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("level", LEVELS)
def test_error_is_within_the_promise(level, group, dtype):
    value, derivative = worst_errors(level, group, dtype)
    assert value <= LIMIT[dtype]
    assert derivative <= LIMIT[dtype]


# Where the standardised offsets are exact, p = u + v and m = u - v are too, up to one rounding. The terms are those of
# the formulas in p and m, which do not cancel: right digits of Q are left where the expanded form has none.


def exact_offsets():
    """Points and correlations up to atanh 18, half of the points along the main axis; mean 0 and sigma 1."""
    rng = np.random.default_rng(11)
    a = rng.uniform(-18, 18, size=200)
    x = rng.choice([-1.0, 1.0], size=(200, 1)) * 10.0 ** rng.uniform(-3, 3, size=(200, 2))
    x[::2, 1] = x[::2, 0] * np.sign(a[::2])
    return x, a


def assert_within_eps_of_terms_in_p_and_m(got, exact, x, a):
    """Value, mean 0, 1, log stddev 0, 1, atanh correlation of the standard normal with this correlation."""
    (u, v), e = abs(x), np.exp(2 * a)
    p, m = abs(x[0] + x[1]), abs(x[0] - x[1])
    dmean = (p * (1 + 1 / e) + m * (1 + e)) / 4
    q = p**2 * (1 + 1 / e) / 4 + m**2 * (1 + e) / 4
    terms = [2 + abs(a) + q / 2, dmean, dmean, u * dmean + 1, v * dmean + 1, 1 + (p**2 / e + m**2 * e) / 4]
    for number, (value, _), size in zip(got, exact, terms, strict=True):
        assert abs(mpmath.mpf(float(number)) - value) <= BOUND * EPS * size


def test_exact_offsets_lose_nothing_from_raw_output():
    x, a = exact_offsets()
    raw = np.stack([0 * a] * 5 + [a], axis=-1)
    loss, gradient = mdn_loss_and_gradient(raw, x, reduction="none")
    for i in range(len(x)):
        exact = mdn_exact(raw[i], x[i])
        assert_within_eps_of_terms_in_p_and_m([loss[i], *gradient[i, 1:]], [exact[0], *exact[2:]], x[i], a[i])


def test_exact_offsets_lose_nothing_from_natural_parameters():
    x, a = exact_offsets()
    correlation = np.tanh(a)
    value, gradient = gaussian_logpdf_and_gradient(x, np.zeros((200, 1, 2)), np.ones((200, 1, 2)), correlation[:, None])
    for i in range(len(x)):
        got = [*value[i], *gradient.mean[i, 0], *gradient.log_stddev[i, 0], *gradient.atanh_correlation[i]]
        exact = gaussian_exact(x[i], [0, 0], [1, 1], correlation[i])[:6]
        # sizes of terms need no digits, but must be those of the rounded correlation: beyond 10, atanh has lost some
        a_of_rounded = np.copysign(0.5 * np.log((1 + abs(correlation[i])) / (1 - abs(correlation[i]))), a[i])
        assert_within_eps_of_terms_in_p_and_m(got, exact, x[i], a_of_rounded)
