"""The loss in operations of a framework: near the exact numbers, never NaN, and the same contract as the kernels'.

Parametrised over the modules that `rows` runs on, both on the CPU.
"""

import math
from functools import cache

import numpy as np
import pytest
from reference_vector import bernoulli, categorical, log_softmax, raw_components

import cymdn
from cymdn import _portable

MODULES = ("torch", "jax")
FLOATS = (np.float32, np.float64)
PENS = {"none": 0, "bernoulli": 1, "categorical": 3}
NAN, INF = math.nan, math.inf
BOUND = 8.0  # eps of the terms
WIDE = np.longdouble


@cache
def jitted(derivatives):
    """One function, so that problems of one shape share what XLA compiles."""
    import jax

    return jax.jit(lambda *arrays: _portable.rows(jax.numpy, *arrays, derivatives))


@pytest.fixture(params=MODULES)
def portable(request):
    """`rows` of NumPy arrays, through a framework, in their own dtype."""
    framework = pytest.importorskip(request.param, reason=f"{request.param} is not installed")

    def by_torch(raw, x, pen=None, derivatives=True):
        tensors = [None if a is None else framework.from_numpy(np.asarray(a, raw.dtype)) for a in (raw, x, pen)]
        return [None if out is None else out.numpy() for out in _portable.rows(framework, *tensors, derivatives)]

    def by_jax(raw, x, pen=None, derivatives=True):
        with framework.enable_x64(True):
            arrays = [None if a is None else framework.numpy.asarray(a, raw.dtype) for a in (raw, x, pen)]
            return [None if out is None else np.asarray(out) for out in jitted(derivatives)(*arrays)]

    return {"torch": by_torch, "jax": by_jax}[request.param]


# Rows to try


def ordinary(rng, n, m):
    """Logits, means, log stddevs, atanh correlations, and points about 1 sigma from the first component."""
    means, log_stddevs = rng.normal(size=(2, n, m)), rng.normal(size=(2, n, m))
    x = means[:, :, 0] + np.exp(log_stddevs[:, :, 0]) * rng.normal(size=(2, n))
    return [rng.normal(size=(n, m)), *means, *log_stddevs, rng.normal(size=(n, m))], x.T


def far_points(rng, n, m):
    planes, x = ordinary(rng, n, m)
    return planes, x * 10.0 ** rng.uniform(0, 4, (n, 1))


def strong_correlation(rng, n, m):
    planes, x = ordinary(rng, n, m)
    return [*planes[:5], rng.uniform(-18, 18, (n, m))], x


def small_and_large_sigma(rng, n, m):
    planes, _ = ordinary(rng, n, m)
    log_stddevs = rng.uniform(-40, 40, (2, n, m))
    x = [
        mean[:, 0] + np.exp(log_s[:, 0]) * rng.normal(size=n)
        for mean, log_s in zip(planes[1:3], log_stddevs, strict=True)
    ]
    return [*planes[:3], *log_stddevs, planes[5]], np.transpose(x)


def logits_far_apart(rng, n, m):
    planes, x = ordinary(rng, n, m)
    return [rng.normal(size=(n, m)) * 1000, *planes[1:]], x


GROUPS = {
    "ordinary": ordinary,
    "points out to 1e4 sigma": far_points,
    "abs(a) up to 18": strong_correlation,
    "log sigma in [-40, 40]": small_and_large_sigma,
    "logits 1000 apart": logits_far_apart,
}


def problem(group, pen, dtype, n=400, m=3, seed=0):
    """raw, x, pen of n rows."""
    rng = np.random.default_rng(seed)
    planes, x = GROUPS[group](rng, n, m)
    logits = rng.normal(size=(n, PENS[pen])) * 10.0 ** rng.uniform(-2, 3, (n, 1))
    target = {
        "none": None,
        "bernoulli": rng.choice([0.0, 1.0, 0.25], n),
        "categorical": np.eye(3)[rng.integers(0, 3, n)],
    }[pen]
    return np.concatenate([logits, *planes], axis=-1).astype(dtype), x.astype(dtype), target


def nasty(dtype, pen, n=6_000, m=3, seed=0):
    """Finite numbers of all sizes, zeros among them; a third of the rows of ordinary exponents, but not small ones."""
    rng = np.random.default_rng(seed)
    limits = np.finfo(dtype)

    def numbers(width):
        exponent = rng.uniform(limits.minexp, limits.maxexp - 0.01, (n, width))
        exponent[: n // 3] = rng.uniform(-40, 12, (n // 3, width))
        exponent[n // 3 : n // 2] = rng.uniform(2, 10, (n // 2 - n // 3, width))
        return (np.exp2(exponent) * rng.choice([-1, 0, 1], exponent.shape, p=[0.4, 0.2, 0.4])).astype(dtype)

    raw, x = numbers(PENS[pen] + 6 * m), numbers(2)
    x[::7] = raw[::7, PENS[pen] + m : PENS[pen] + 3 * m : m]  # on a mean
    return raw, x, problem("ordinary", pen, dtype, n, m, seed)[2]


# What is expected: the formulas of docs/formulas.md in long double, and the sizes of their terms


def share_of(exact, terms, limits):
    """A share of 1, exp of a sum, and its terms: an error of the sum is a relative one of exp, and in whole at most 1.

    A share below tiny / eps counts as that: digits go where denormal numbers begin, which JAX flushes to 0.
    """
    promised, share = BOUND * WIDE(limits.eps), np.exp(exact)
    factor = np.expm1(np.minimum(promised * (1 + terms), 700))
    return share, np.minimum(np.maximum(share, limits.tiny / WIDE(limits.eps)) * factor, 1) / promised


def expected(raw, x, pen):
    """Exact loss, gradient to raw and to x, each with its terms."""
    pens, limits = 0 if pen is None else 1 if pen.ndim == 1 else 3, np.finfo(raw.dtype)
    z, mean0, mean1, log_s0, log_s1, a = np.moveaxis(raw[:, pens:].reshape(len(raw), 6, -1), 1, 0)
    of = raw_components(x[:, None], np.stack([mean0, mean1], -1), np.stack([log_s0, log_s1], -1), a)
    log_weight = log_softmax(z)
    t, terms = log_weight.exact + of.value.exact, log_weight.terms + of.value.terms
    top = t.max(-1, keepdims=True)
    lse = top + np.log(np.exp(t - top).sum(-1, keepdims=True))
    g = np.exp(t - lse)
    lse_terms = (g * terms).sum(-1, keepdims=True)
    g, g_terms = share_of(t - lse, terms + lse_terms, limits)
    weight, weight_terms = share_of(*log_weight, limits)
    loss, loss_terms = -lse[:, 0], lse_terms[:, 0]
    parts = [(weight - g, weight_terms + g_terms)] + [(-g * d.exact, g_terms * d.terms) for d in of.derivatives]
    of_means = of.derivatives[:2]
    to_x = [(g * d.exact).sum(-1) for d in of_means], [(g_terms * d.terms).sum(-1) for d in of_means]
    if pens:
        value, *_ = of_pen = bernoulli(raw[:, 0], pen) if pens == 1 else categorical(raw[:, :3], pen)
        loss, loss_terms = loss + value.exact, loss_terms + value.terms
        parts.insert(0, tuple(np.reshape(part, (len(raw), pens)) for part in of_pen[1]))
    return (
        (loss, loss_terms),
        tuple(np.concatenate(kind, -1) for kind in zip(*parts, strict=True)),
        tuple(np.stack(kind, -1) for kind in to_x),
    )


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("pen", PENS)
@pytest.mark.parametrize("group", GROUPS)
def test_errors_are_within_8_eps_of_the_terms(portable, group, pen, dtype):
    raw, x, target = problem(group, pen, dtype)
    limits = np.finfo(dtype)
    for got, (exact, terms) in zip(portable(raw, x, target), expected(raw, x, target), strict=True):
        # JAX flushes what is below the smallest normal number to 0
        assert (abs(got - exact) <= BOUND * limits.eps * terms + limits.tiny).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("pen", PENS)
@pytest.mark.parametrize("m", [1, 3])
def test_finite_rows_give_no_nan_and_an_infinite_loss_gradient_0(portable, m, pen, dtype):
    raw, x, target = nasty(dtype, pen, m=m)
    loss, gradient, x_gradient = portable(raw, x, target)
    for array in (loss, gradient, x_gradient):
        assert not np.isnan(array).any()
    beyond = loss == INF
    assert beyond.any()
    assert not beyond.all()
    assert not gradient[beyond].any()
    assert not x_gradient[beyond].any()


@pytest.mark.parametrize("dtype", FLOATS)
def test_value_alone_is_that_with_derivatives(portable, dtype):
    raw, x, target = problem("ordinary", "bernoulli", dtype)
    loss, *derivatives = portable(raw, x, target, derivatives=False)
    assert derivatives == [None, None]
    # XLA may fuse the two programs differently
    np.testing.assert_allclose(loss, portable(raw, x, target)[0], rtol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("pen", PENS)
@pytest.mark.parametrize("spoilt", ["raw", "x", "pen"])
def test_nan_stays_in_its_row(portable, spoilt, pen, dtype):
    raw, x, target = problem("ordinary", pen, dtype, n=6)
    if spoilt == "pen" and target is None:
        pytest.skip("no pen")
    before = portable(raw, x, target)
    {"raw": raw, "x": x, "pen": target}[spoilt][2] = 1.5 if spoilt == "pen" else NAN  # as any pen outside [0, 1]
    others = [0, 1, 3, 4, 5]
    for got, untouched in zip(portable(raw, x, target), before, strict=True):
        assert np.isnan(got[2]).all()
        np.testing.assert_array_equal(got[others], untouched[others])


@pytest.mark.parametrize("dtype", FLOATS)
def test_logit_of_minus_inf_excludes_its_component(portable, dtype):
    raw, x, _ = problem("ordinary", "none", dtype, n=6)
    without = raw.reshape(6, 6, 3)[..., [0, 2]].reshape(6, 12)
    raw[:, 1] = -INF
    loss, gradient, x_gradient = portable(raw, x)
    expected_loss, expected_gradient, expected_x = portable(without, x)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(loss, expected_loss, rtol=8 * eps)
    gradient = gradient.reshape(6, 6, 3)
    assert not gradient[..., 1].any()
    np.testing.assert_allclose(gradient[..., [0, 2]].reshape(6, 12), expected_gradient, rtol=64 * eps, atol=64 * eps)
    np.testing.assert_allclose(x_gradient, expected_x, rtol=64 * eps, atol=64 * eps)
    raw[:, :3] = -INF
    assert all(np.isnan(array).all() for array in portable(raw, x))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("m", [2, 64])
def test_opposite_overflowing_derivatives_give_x_no_nan(portable, m, dtype):
    exponent = {np.float32: 88.0, np.float64: 708.5}[dtype]
    raw = np.zeros((1, 6 * m), dtype)
    raw[0, m : 2 * m] = np.where(np.arange(m) < m // 2, 1, -1) * dtype(40 * np.exp(-exponent))
    raw[0, 3 * m : 5 * m] = -exponent
    loss, _, x_gradient = portable(raw, np.zeros((1, 2), dtype))
    assert np.isfinite(loss).all()
    assert not x_gradient.any()  # the terms cancel


def test_gradient_of_the_kernels_with_respect_to_x():
    raw, x, pen = problem("ordinary", "bernoulli", np.float32)
    keywords = {"sample_weight": None, "reduction": "none", "workers": None}
    _, gradient = cymdn.mdn_loss_and_gradient(raw, x, pen, **keywords)
    got = _portable.x_gradient_of_kernel((raw, x, pen), keywords, gradient)
    exact, terms = expected(raw, x, pen)[2]
    assert got.dtype == np.float32
    assert (abs(got - exact) <= np.spacing(abs(got)) + BOUND * 2.0**-52 * terms).all()
