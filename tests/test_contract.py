"""The contract of the log-domain levels, clause by clause: never NaN, exclusion, reductions, shapes, out=."""

import itertools
import re

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_mixture import mdn_exact

from cymdn import (
    _dispatch,
    _gaussian,
    _mdn,
    _mixture,
    gaussian_density_batch,
    gaussian_logpdf,
    gaussian_logpdf_and_gradient,
    mdn_loss,
    mdn_loss_and_gradient,
    mixture_logpdf,
    mixture_logpdf_and_gradient,
)

FLOATS = (np.float32, np.float64)
EPS = {np.float32: 2.0**-23, np.float64: 2.0**-52}
PENS = ("none", "bernoulli", "categorical")
PEN_LOGITS = {"none": 0, "bernoulli": 1, "categorical": 3}
INF, NAN = np.inf, np.nan


# Good arguments to start from


def network_output(n=6, m=3, pen="bernoulli", dtype=np.float64, seed=0):
    """raw, x and pen of n rows."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(n, PEN_LOGITS[pen] + 6 * m)).astype(dtype)
    x = rng.normal(size=(n, 2)).astype(dtype)
    targets = {
        "none": None,
        "bernoulli": rng.integers(0, 2, size=n).astype(float),
        "categorical": np.eye(3)[rng.integers(0, 3, size=n)],
    }
    return raw, x, targets[pen]


def mixture(batch=(6,), m=3, dtype=np.float64, seed=0):
    """x, weights, mean, stddev, correlation."""
    rng = np.random.default_rng(seed)
    weights = rng.exponential(size=(*batch, m))
    arguments = (
        rng.normal(size=(*batch, 2)),
        weights / weights.sum(axis=-1, keepdims=True),
        rng.normal(size=(*batch, m, 2)),
        np.exp(rng.normal(size=(*batch, m, 2))),
        np.tanh(rng.normal(size=(*batch, m))),
    )
    return tuple(a.astype(dtype) for a in arguments)


def components(*args, **keywords):
    """x, mean, stddev, correlation."""
    x, _, *rest = mixture(*args, **keywords)
    return x, *rest


def flat(result):
    """The arrays of a result, nested or not, as a list."""
    return [a for part in result for a in flat(part)] if isinstance(result, tuple) else [result]


def assert_same_bits(got, expected):
    for ours, theirs in zip(flat(got), flat(expected), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs, strict=False)
        np.testing.assert_array_equal(np.signbit(ours), np.signbit(theirs))


def assert_no_nan(result):
    for array in flat(result):
        assert not np.isnan(array).any()


def loss_rows(raw, x, pen=None, **keywords):
    return mdn_loss_and_gradient(raw, x, pen, reduction="none", **keywords)


# Finite arguments never give NaN: named cases


@pytest.mark.parametrize("pen", PENS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scale", [1e2, 1e4, 1e8, 1e15, 1e30])
def test_raw_output_however_large_gives_no_nan(scale, dtype, pen):
    raw, x, targets = network_output(100, 3, pen, dtype)
    assert_no_nan(loss_rows(raw * dtype(scale), x, targets))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("a", [400.0, -400.0, 1e30, -1e30])
def test_x_at_the_mean_with_a_huge_atanh_correlation(a, dtype):
    # log N = -log 2 pi + log cosh a, whose derivative to a is tanh a; the others are those of a point at the mean
    raw, x = np.array([[0.0, 0.5, -0.25, 0.0, 0.0, a]], dtype), np.array([[0.5, -0.25]], dtype)
    loss, gradient = loss_rows(raw, x)
    exact = np.log(2 * np.pi) - (abs(float(raw[0, 5])) - np.log(2))
    np.testing.assert_allclose(loss, [exact], rtol=2 * EPS[dtype], atol=0)  # of the sum of four terms, the largest |a|
    np.testing.assert_array_equal(gradient, [[0, 0, 0, 1, 1, -np.sign(a)]])


def assert_matches_the_exact_row(raw, x, dtype):
    """Loss and gradient are the exact ones, or inf and 0 where the exact loss is beyond the dtype."""
    loss, gradient = loss_rows(raw[None], x[None])
    exact = mdn_exact(raw, x)
    if abs(exact[0].exact) > float(np.finfo(dtype).max):
        assert loss[0] == INF
        np.testing.assert_array_equal(gradient, 0)
        return
    a = abs(float(raw[5]))
    for got, number in zip([loss[0], *gradient[0]], exact, strict=True):
        value = float(number.exact)
        if abs(number.exact) > float(np.finfo(dtype).max):  # of a derivative: the largest number or inf
            assert got * np.sign(value) >= np.finfo(dtype).max
            continue
        # 8 eps of the terms in p and m, which do not cancel: on the axis there is one of them, of size 1; across it the
        # other one is the value itself; beside them stand log 2 pi, |a|, -1 and r
        assert abs(got - value) <= 8 * EPS[dtype] * (2 + abs(value) + (a if number is exact[0] else 0))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("x", [(1.0, 0.0), (-1e-3, 1e-3), (1e-100, 0.0), (0.0, 5.0)])
@pytest.mark.parametrize("a", [20.0, 100.0, 400.0, 1e30])
def test_x_off_the_main_axis_with_a_huge_atanh_correlation(a, x, dtype):
    assert_matches_the_exact_row(np.array([0, 0, 0, 0, 0, a], dtype), np.array(x, dtype), dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("a", [20.0, 100.0, 350.0, 360.0, 370.0, 400.0, 708.0, 1e30])
def test_x_on_the_main_axis_with_a_huge_atanh_correlation(a, sign, dtype):
    # Q = 1 there, whatever a: the derivatives to the means are those of sigma = 1, shared by both coordinates
    assert_matches_the_exact_row(np.array([0, 0, 0, 0, 0, sign * a], dtype), np.array([1.0, sign], dtype), dtype)


@pytest.mark.parametrize("column", [3, 5])
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_a_tiny_offset_is_out_of_reach_of_a_component_that_is_far_narrower(size, column):
    # log sigma = -size, or atanh r = size: Q is exp(2 size) 1e-200, beyond any float. (They count as bounded by 708 in
    # Q, as docs/formulas.md says: within 1e-150 of the mean it comes out finite.)
    raw, x = np.zeros(6), np.array([1e-100, 0.0])
    raw[column] = size if column == 5 else -size
    assert_matches_the_exact_row(raw, x, np.float64)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("position", [(INF, 0.0), (0.0, -INF), (INF, INF), (INF, -INF), (-INF, -INF)])
@pytest.mark.parametrize("pen", PENS)
def test_infinite_x_has_loss_inf_and_gradient_0(position, dtype, pen):
    raw, x, targets = network_output(4, 3, pen, dtype)
    x[1] = position
    loss, gradient = loss_rows(raw, x, targets)
    assert loss[1] == INF
    np.testing.assert_array_equal(gradient[1], 0)
    assert np.isfinite(loss[[0, 2, 3]]).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("position", [(INF, 0.0), (0.0, -INF), (INF, INF), (INF, -INF), (-INF, -INF)])
def test_infinite_x_has_log_density_minus_inf_and_gradient_0(position, dtype):
    x, weights, *rest = mixture(dtype=dtype)
    x[2] = position
    for value, gradient in (
        mixture_logpdf_and_gradient(x, weights, *rest),
        gaussian_logpdf_and_gradient(x, *rest),
    ):
        assert (value[2] == -INF).all()
        assert np.isfinite(np.delete(value, 2, axis=0)).all()
        logits_aside = gradient if len(gradient) == 4 else gradient[1:]
        for array in logits_aside:
            np.testing.assert_array_equal(array[2], 0)


@pytest.mark.parametrize("scale", [1e-323, 1e-310, 1e-200, 1e-30, 1e30, 1e200, 1.7e308])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_denormal_to_huge_stddevs_give_no_nan(scale, offset):
    mean, stddev = np.zeros((3, 2)), np.array([[scale, 1.0], [1.0, scale], [scale, scale]])
    x, weights, correlation = np.full(2, offset), np.full(3, 1 / 3), np.array([0.0, 0.9, -0.9])
    assert_no_nan(mixture_logpdf_and_gradient(x, weights, mean, stddev, correlation))
    assert_no_nan(gaussian_logpdf_and_gradient(x, mean, stddev, correlation))


@pytest.mark.parametrize("log_sigma", [-1e308, -1e4, -745.0, -709.0, 709.0, 745.0, 1e4, 1e308])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_log_stddevs_whose_exp_is_0_or_inf_give_no_nan(log_sigma, offset):
    raw = np.array([[0, 0, 0, log_sigma, 0, 0], [0, 0, 0, 0, log_sigma, 1], [0, 0, 0, log_sigma, log_sigma, 0]])
    assert_no_nan(loss_rows(raw, np.full((3, 2), offset)))


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e200, 1e300])
def test_extreme_stddevs_are_right_not_only_numbers(scale):
    x, mean, stddev = np.array([[scale, -scale]]), np.zeros((1, 1, 2)), np.full((1, 1, 2), scale)
    value, gradient = gaussian_logpdf_and_gradient(x, mean, stddev, np.zeros((1, 1)))
    # u = 1, v = -1
    np.testing.assert_allclose(value, -np.log(2 * np.pi) - 2 * np.log(scale) - 1, rtol=4 * EPS[np.float64], atol=0)
    np.testing.assert_allclose(gradient.mean, [[[1 / scale, -1 / scale]]], rtol=4 * EPS[np.float64], atol=0)
    np.testing.assert_allclose(gradient.log_stddev, 0, rtol=0, atol=4 * EPS[np.float64])  # 1 - 1
    np.testing.assert_allclose(gradient.atanh_correlation, -1, rtol=4 * EPS[np.float64], atol=0)


@pytest.mark.parametrize("logit", [-1e308, -1e3, 1e3, 1e308])
@pytest.mark.parametrize("target", [0.0, 0.5, 1.0])
def test_pen_logits_however_large(logit, target):
    raw, x = np.array([[logit, 0, 0, 0, 0, 0, 0]]), np.zeros((1, 2))
    loss, gradient = loss_rows(raw, x, np.array([target]))
    certain = float(logit > 0)
    np.testing.assert_allclose(loss, [np.log(2 * np.pi) + abs(logit) * abs(certain - target)], rtol=1e-15, atol=0)
    np.testing.assert_array_equal(gradient[0, 0], certain - target)


# Finite arguments never give NaN: any


MAX = {np.float32: float(np.finfo(np.float32).max), np.float64: float(np.finfo(np.float64).max)}


def finite(dtype, **bounds):
    """Any finite float, and often an extreme, a special or an ordinary one."""
    extremes = [s * f * MAX[dtype] for s in (-1, 1) for f in (1, 0.5)]
    special = [0.0, -0.0, 1.0, -1.0, 400.0, -400.0, 708.5, -745.2, 1e-30, 2.0**-149, 1e30, -1e30, *extremes]
    width = 32 if dtype is np.float32 else 64
    return st.one_of(
        st.floats(-4, 4, width=width),
        st.sampled_from([float(dtype(s)) for s in special]),
        st.floats(allow_nan=False, allow_infinity=False, width=width),
    )


@pytest.mark.parametrize("dtype", FLOATS)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_finite_raw_output_gives_no_nan(dtype, data):
    m, pen = data.draw(st.integers(1, 5)), data.draw(st.sampled_from(PENS))
    numbers = data.draw(st.lists(finite(dtype), min_size=PEN_LOGITS[pen] + 6 * m, max_size=PEN_LOGITS[pen] + 6 * m))
    x = data.draw(st.lists(finite(dtype), min_size=2, max_size=2))
    targets = {
        "none": st.none(),
        "bernoulli": st.sampled_from([0.0, 0.3, 1.0]).map(lambda target: [target]),
        "categorical": st.integers(0, 2).map(lambda k: np.eye(3)[[k]]),
    }
    arguments = np.array([numbers], dtype), np.array([x], dtype), data.draw(targets[pen])
    loss, gradient = loss_rows(*arguments)
    assert_no_nan((loss, gradient))
    np.testing.assert_array_equal(mdn_loss(*arguments, reduction="none"), loss)
    if loss[0] == INF:
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("dtype", FLOATS)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_finite_mixture_in_the_domain_gives_no_nan(dtype, data):
    m = data.draw(st.integers(1, 5))
    numbers = st.lists(finite(dtype), min_size=2 * m, max_size=2 * m)
    tiny = float(np.nextafter(dtype(0), dtype(1)))
    x = np.array(data.draw(st.lists(finite(dtype), min_size=2, max_size=2)), dtype)
    mean = np.array(data.draw(numbers), dtype).reshape(m, 2)
    stddev = np.maximum(abs(np.array(data.draw(numbers), dtype)), dtype(tiny)).reshape(m, 2)
    weights = abs(np.array(data.draw(numbers), dtype)[:m])
    largest = np.nextafter(dtype(1), dtype(0))
    correlation = np.clip(np.array(data.draw(numbers), dtype)[:m], -largest, largest)
    value, gradient = mixture_logpdf_and_gradient(x, weights, mean, stddev, correlation)
    assert_no_nan((value, gradient))
    np.testing.assert_array_equal(mixture_logpdf(x, weights, mean, stddev, correlation), value)
    assert_no_nan(gaussian_logpdf_and_gradient(x, mean, stddev, correlation))


# A loss beyond the dtype


def test_loss_beyond_float32_is_inf_with_gradient_0():
    raw, x = np.zeros((2, 6), np.float32), np.array([[1.0, 0.0], [3e19, 0.0]], np.float32)
    loss, gradient = loss_rows(raw, x)  # u^2 / 2 = 4.5e38 > 3.4e38
    assert loss.dtype == np.float32
    assert np.isfinite(loss[0])
    assert loss[1] == INF
    assert gradient[0].any()
    np.testing.assert_array_equal(gradient[1], 0)


def test_the_same_loss_within_float64_is_finite_with_its_gradient():
    loss, gradient = loss_rows(np.zeros((1, 6)), np.array([[3e19, 0.0]]))
    np.testing.assert_allclose(loss, [4.5e38], rtol=4 * EPS[np.float64], atol=0)
    np.testing.assert_allclose(gradient[0, [1, 3]], [-3e19, -9e38], rtol=4 * EPS[np.float64], atol=0)


def test_log_density_beyond_float32_is_minus_inf_with_gradient_0():
    x, weights = np.array([3e19, 0.0], np.float32), np.ones(1, np.float32)
    rest = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32), np.zeros(1, np.float32)
    for value, gradient in (
        mixture_logpdf_and_gradient(x, weights, *rest),
        gaussian_logpdf_and_gradient(x, *rest),
    ):
        assert (value == -INF).all()
        for array in gradient:
            np.testing.assert_array_equal(array, 0)


def test_a_row_beyond_the_dtype_makes_the_sum_inf_and_leaves_other_gradients():
    raw, x = np.zeros((2, 6)), np.array([[1.0, 0.0], [1e200, 0.0]])
    loss, gradient = mdn_loss_and_gradient(raw, x, reduction="sum")
    assert loss == INF
    np.testing.assert_array_equal(gradient, [loss_rows(raw[:1], x[:1])[1][0], np.zeros(6)])


LOSSES = {  # of the first row of each of three chunks, whose sums are added up
    "beyond float64": ((1e308, 1e308, 1e308), INF),
    "beyond float64 on the way": ((1e308, 1e308, -1e308), 1e308),
    "of one that is beyond it": ((1e308, INF, 1e308), INF),
    "that cancel but for the last": ((1e300, -1e300, 3.0), 3.0),
    "that cancel but for the second": ((1e300, 3.0, -1e300), 3.0),
}


@pytest.mark.parametrize(("losses", "total"), LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("function", [mdn_loss, mdn_loss_and_gradient])
def test_the_sum_of_many_losses_is_rounded_once_and_too_large_it_is_inf(function, losses, total):
    # at the mean a loss is log sigma, plus log 2 pi, which is lost beside 1e300
    rows = _dispatch.CHUNK
    raw, weight = np.zeros((3 * rows, 6)), np.zeros(3 * rows)
    raw[::rows, 3], weight[::rows] = losses, 1
    small = np.abs(losses) < 1e300
    raw[::rows, 3][small] -= np.log(2 * np.pi)
    loss = flat(function(raw, np.zeros((3 * rows, 2)), sample_weight=weight, reduction="sum"))[0]
    np.testing.assert_allclose(loss, total, rtol=4 * EPS[np.float64], atol=0)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_a_loss_of_the_largest_float32_is_not_beyond_it(reduction):
    largest = np.finfo(np.float32).max
    raw = np.zeros((1, 6), np.float32)
    raw[0, 3:5] = largest / 2
    np.testing.assert_array_equal(mdn_loss(raw, np.zeros((1, 2), np.float32), reduction=reduction), largest)


# Components that take no part


@pytest.mark.parametrize("dtype", FLOATS)
def test_component_of_responsibility_0_contributes_exactly_0(dtype):
    # the second one is 1e4 sigma away with derivatives of 1e20 and more
    raw, x, _ = network_output(1, 2, "none", dtype)
    raw[0] = [0, 0, 0, 100, 0, 100, 0, -20, 0, -20, 0, 8]
    loss, gradient = loss_rows(raw, x)
    without = raw[:, ::2].copy()
    loss_without, gradient_without = loss_rows(without, x)
    np.testing.assert_array_equal(gradient[0, 3::2], 0)  # all but its logit
    np.testing.assert_array_equal(gradient[0, 2::2], gradient_without[0, 1:])
    # its weight of 1/2 costs log 2
    np.testing.assert_allclose(loss - loss_without, np.log(2), rtol=8 * EPS[dtype], atol=0)


@pytest.mark.parametrize("mean", [1e300, -1.7e308])
def test_component_whose_own_derivative_overflows_contributes_exactly_0(mean):
    raw = np.array([[0.0, 0, 0, mean, 0, mean, 0, -700, 0, -700, 0, 400]])
    loss, gradient = loss_rows(raw, np.zeros((1, 2)))
    assert np.isfinite(loss).all()
    np.testing.assert_array_equal(gradient[0, 3::2], 0)
    assert np.isfinite(gradient).all()


def test_component_at_infinity_takes_no_part():
    x, weights, mean, stddev, correlation = mixture((1,), 2)
    mean[0, 1] = INF
    value, gradient = mixture_logpdf_and_gradient(x, weights, mean, stddev, correlation)
    assert np.isfinite(value).all()
    for array in gradient[1:4]:
        np.testing.assert_array_equal(array[0, 1], 0)


@pytest.mark.parametrize("held", [NAN, INF, -INF, 0.0, -1.0, 1e308, 5e-324])
@pytest.mark.parametrize("slot", ["mean", "stddev", "correlation"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_weight_of_exactly_0_excludes_its_component_whatever_it_holds(held, slot, dtype):
    x, weights, *rest = mixture((5,), 4, dtype)
    names = ("mean", "stddev", "correlation")
    weights[:, 2] = 0
    expected = mixture_logpdf_and_gradient(x, weights, *rest)
    with np.errstate(over="ignore"):
        rest[names.index(slot)][:, 2] = held
    assert_same_bits(mixture_logpdf_and_gradient(x, weights, *rest), expected)
    _, gradient = expected
    for array in gradient[:4]:
        np.testing.assert_array_equal(array[:, 2], 0)


def test_excluded_component_is_as_if_it_were_not_there():
    x, weights, *rest = mixture((20,), 3)
    weights[:, 1] = 0
    kept = [0, 2]
    value, gradient = mixture_logpdf_and_gradient(x, weights, *rest)
    fewer, fewer_gradient = mixture_logpdf_and_gradient(x, weights[:, kept], *(a[:, kept] for a in rest))
    np.testing.assert_array_equal(value, fewer)
    for array, other in zip(gradient[:4], fewer_gradient[:4], strict=True):
        np.testing.assert_array_equal(array[:, kept], other)


@pytest.mark.parametrize("held", [0.0, NAN])
def test_all_components_excluded_gives_minus_inf_and_gradient_0(held):
    x, weights, mean, stddev, correlation = mixture((3,), 2)
    weights[1] = 0
    mean[1] = held
    value, gradient = mixture_logpdf_and_gradient(x, weights, mean, stddev, correlation)
    assert value[1] == -INF
    assert np.isfinite(value[[0, 2]]).all()
    for array in gradient:
        np.testing.assert_array_equal(array[1], 0)


# Outside the domain


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("slot", "held"), [(2, 0.0), (2, -0.0), (2, -1.0), (2, -INF), (3, 1.0), (3, -1.0), (3, 1.5), (3, INF)]
)
def test_component_outside_the_domain_has_log_density_nan(slot, held, dtype):
    arguments = components((4,), 3, dtype)
    expected = gaussian_logpdf_and_gradient(*arguments)
    arguments[slot][1, 2] = held
    got = gaussian_logpdf_and_gradient(*arguments)
    for array, before in zip(flat(got), flat(expected), strict=True):
        assert np.isnan(array[1, 2]).all()
        array[1, 2] = before[1, 2]
    assert_same_bits(got, expected)  # no other component is touched


@pytest.mark.parametrize(
    ("slot", "held"), [(1, -1.0), (1, -5e-324), (3, 0.0), (3, -1.0), (4, 1.0), (4, -1.0), (4, 1.5), (4, -INF)]
)
def test_mixture_with_a_component_outside_the_domain_is_nan(slot, held):
    arguments = mixture((4,), 3)
    expected = mixture_logpdf_and_gradient(*arguments)
    arguments[slot][1, 2] = held
    got = mixture_logpdf_and_gradient(*arguments)
    for array, before in zip(flat(got), flat(expected), strict=True):
        assert np.isnan(array[1]).all()
        array[1] = before[1]
    assert_same_bits(got, expected)


@pytest.mark.parametrize("logits", [(1.0, -INF), (1.0, -1.7e308), (1.7e308, -1.7e308)])
def test_a_pen_state_of_target_0_adds_nothing_however_unlikely(logits):
    # its cross-entropy is infinite, or overflows
    raw, x, _ = network_output(1, 2, "categorical")
    certain, impossible = logits
    raw[0, :3] = certain, impossible, certain - 1
    targets = np.array([[1.0, 0.0, 0.0]])
    loss, gradient = loss_rows(raw, x, targets)
    raw[0, 1] = -1e6  # far below the others too, but finite and no overflow
    assert_same_bits((loss, gradient), loss_rows(raw, x, targets))
    assert gradient[0, 1] == 0


@pytest.mark.parametrize("target", [-0.1, 1.1, INF, -INF])
def test_pen_outside_0_to_1_makes_its_row_nan(target):
    for pen in ("bernoulli", "categorical"):
        raw, x, targets = network_output(4, 2, pen)
        expected = loss_rows(raw, x, targets)
        targets[2] = target
        loss, gradient = loss_rows(raw, x, targets)
        assert np.isnan(loss[2])
        assert np.isnan(gradient[2]).all()
        assert_same_bits((np.delete(loss, 2), np.delete(gradient, 2, 0)), tuple(np.delete(a, 2, 0) for a in expected))


# NaN


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("m", [1, 3, 20, 300])
@pytest.mark.parametrize("pen", PENS)
def test_nan_in_raw_output_makes_its_row_nan_and_touches_no_other(pen, m, dtype):
    width = PEN_LOGITS[pen] + 6 * m
    columns = np.arange(width) if m < 20 else np.linspace(0, width - 1, 24).astype(int)
    raw, x, targets = network_output(2 * len(columns), m, pen, dtype)
    expected = loss_rows(raw, x, targets)
    raw[1::2][np.arange(len(columns)), columns] = NAN
    loss, gradient = loss_rows(raw, x, targets)
    assert np.isnan(loss[1::2]).all()
    assert np.isnan(gradient[1::2]).all()
    assert_same_bits((loss[::2], gradient[::2]), tuple(a[::2] for a in expected))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("pen", PENS)
@pytest.mark.parametrize("axis", [0, 1])
def test_nan_in_x_makes_its_row_nan_and_touches_no_other(axis, pen, dtype):
    raw, x, targets = network_output(7, 3, pen, dtype)
    expected = loss_rows(raw, x, targets)
    x[3, axis] = NAN
    loss, gradient = loss_rows(raw, x, targets)
    assert np.isnan(loss[3])
    assert np.isnan(gradient[3]).all()
    assert_same_bits((np.delete(loss, 3), np.delete(gradient, 3, 0)), tuple(np.delete(a, 3, 0) for a in expected))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("pen", ["bernoulli", "categorical"])
def test_nan_in_pen_makes_its_row_nan_and_touches_no_other(pen, dtype):
    raw, x, targets = network_output(7, 3, pen, dtype)
    expected = loss_rows(raw, x, targets)
    for k in range(PEN_LOGITS[pen]):
        spoilt = targets.reshape(7, -1).copy()
        spoilt[3, k] = NAN
        loss, gradient = loss_rows(raw, x, spoilt.reshape(targets.shape))
        assert np.isnan(loss[3])
        assert np.isnan(gradient[3]).all()
        assert_same_bits((np.delete(loss, 3), np.delete(gradient, 3, 0)), tuple(np.delete(a, 3, 0) for a in expected))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("huge", [1e308, INF])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("slot", ["x", "mean", "stddev", "correlation"])
def test_nan_beats_a_stddev_without_density(slot, axis, huge, dtype):
    # 1 / sigma is denormal or 0 (float32 has no such number but inf); the NaN is in the other coordinate
    with np.errstate(over="ignore"):
        arguments = components((4,), 3, dtype)
        arguments[2][1, 2, axis] = huge
    spoilt = arguments[("x", "mean", "stddev", "correlation").index(slot)][1]
    spoilt[{"x": 1 - axis, "correlation": 2}.get(slot, (2, 1 - axis))] = NAN
    value, gradient = gaussian_logpdf_and_gradient(*arguments)
    for array in (value, *gradient):
        assert np.isnan(array[1, 2]).all()
    value, gradient = mixture_logpdf_and_gradient(arguments[0], np.full((4, 3), 1 / 3, dtype), *arguments[1:])
    for array in (value, *gradient):
        assert np.isnan(array[1]).all()
        assert not np.isnan(np.delete(array, 1, 0)).any()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("huge", [1e308, INF])
@pytest.mark.parametrize("axis", [0, 1])
def test_one_stddev_without_density_leaves_its_component_none(axis, huge, dtype):
    with np.errstate(over="ignore"):
        x, weights, *parameters = mixture((4,), 3, dtype)
        parameters[1][:, 2, axis] = huge
    value, gradient = gaussian_logpdf_and_gradient(x, *parameters)
    np.testing.assert_array_equal(value[:, 2], -INF)
    for array in gradient:
        assert not array[:, 2].any()
    others = [a[:, :2] for a in (weights, *parameters)]
    got, expected = (mixture_logpdf_and_gradient(x, *arrays) for arrays in ((weights, *parameters), others))
    assert_same_bits((got[0], got[1].x), (expected[0], expected[1].x))
    for name in ("mean", "log_stddev", "atanh_correlation"):
        assert not getattr(got[1], name)[:, 2].any()


def test_nan_in_raw_output_beats_a_log_stddev_of_inf():
    raw, x, _ = network_output(3, 2, "none")
    raw[1, [2, 6]] = NAN, INF  # mean 0 and log stddev 0 of the first component
    loss, gradient = loss_rows(raw, x)
    np.testing.assert_array_equal(np.isnan(loss), [False, True, False])
    assert np.isnan(gradient[1]).all()


@pytest.mark.parametrize("x_held", [(NAN, 0.0), (NAN, INF), (1e300, NAN)])
def test_nan_beats_inf(x_held):
    raw, x, _ = network_output(2, 2, "none")
    x[1] = x_held
    loss, gradient = loss_rows(raw, x)
    assert np.isnan(loss[1])
    assert np.isnan(gradient[1]).all()


@pytest.mark.parametrize("m", [1, 3, 300])
@pytest.mark.parametrize("slot", range(5))
def test_nan_in_a_mixture_makes_its_row_nan_and_touches_no_other(slot, m):
    arguments = mixture((5,), m)
    expected = mixture_logpdf_and_gradient(*arguments)
    arguments[slot].reshape(5, -1)[2, -1] = NAN
    got = mixture_logpdf_and_gradient(*arguments)
    for array, before in zip(flat(got), flat(expected), strict=True):
        assert np.isnan(array[2]).all()
        array[2] = before[2]
    assert_same_bits(got, expected)


# Rows of weight 0, reductions


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("pen", PENS)
@pytest.mark.parametrize("held", [NAN, INF, -INF, 1e30])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_row_of_weight_0_adds_exactly_0_whatever_it_holds(reduction, held, pen, dtype):
    raw, x, targets = network_output(6, 3, pen, dtype)
    weight = np.array([1.0, 0.0, 2.0, 0.0, 0.5, 1.0])
    expected = mdn_loss_and_gradient(raw, x, targets, sample_weight=weight, reduction=reduction)
    raw[1], x[3] = held, held
    if targets is not None:
        targets[1] = held
    loss, gradient = mdn_loss_and_gradient(raw, x, targets, sample_weight=weight, reduction=reduction)
    assert_same_bits((loss, gradient), expected)
    np.testing.assert_array_equal(gradient[weight == 0], 0)
    if reduction == "none":
        np.testing.assert_array_equal(loss[weight == 0], 0)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", [1, 7, 5000, 10000])
@pytest.mark.parametrize("weighted", [False, True])
def test_reductions_are_those_of_the_losses_of_the_rows(weighted, n, dtype):
    raw, x, targets = network_output(n, 2, "bernoulli", dtype)
    weight = np.random.default_rng(1).exponential(size=n) if weighted else None
    rows = mdn_loss(*(a.astype(np.float64) for a in (raw, x)), targets, reduction="none").astype(np.float64)
    w = np.ones(n) if weight is None else weight
    total = float(mpmath.fsum(map(mpmath.mpf, w * rows)))
    for reduction, expected in (("sum", total), ("mean", total / w.sum())):
        loss = mdn_loss(raw, x, targets, sample_weight=weight, reduction=reduction)
        assert loss.dtype == dtype
        # one rounding of each product, and a few of the sum, which is carried with what it loses
        np.testing.assert_allclose(loss, expected, rtol=EPS[dtype], atol=4 * EPS[np.float64] * abs(w * rows).sum() / n)


@pytest.mark.parametrize("dtype", FLOATS)
def test_weights_multiply_the_losses_of_the_rows(dtype):
    raw, x, targets = network_output(100, 3, "categorical", dtype)
    weight = np.random.default_rng(1).exponential(size=100)
    loss, gradient = loss_rows(raw, x, targets)
    weighted_loss, weighted_gradient = loss_rows(raw, x, targets, sample_weight=weight)
    # the roundings of float32, or a few of the factors; softmax less responsibility cancels
    np.testing.assert_allclose(weighted_loss, weight * loss, rtol=2 * EPS[dtype], atol=0)
    np.testing.assert_allclose(weighted_gradient, weight[:, None] * gradient, rtol=6 * EPS[dtype], atol=1e-15)


@pytest.mark.parametrize("scale", [5e-324, 2.0**-1022, 2.0**-450, 2.0**450, 2.0**600, 2.0**1023])
def test_mean_depends_on_the_proportions_of_weights_alone(scale):
    raw, x, targets = network_output(4, 3)
    x[2] = 1e140  # a loss of some 1e280, which times the largest weight is out of range
    weight = np.array([1.0, 0.0, 1.0, 1.0])
    expected = mdn_loss_and_gradient(raw, x, targets, sample_weight=weight)
    assert_same_bits(mdn_loss_and_gradient(raw, x, targets, sample_weight=scale * weight), expected)
    assert mdn_loss(raw, x, targets, sample_weight=scale * weight) == expected[0]


@pytest.mark.parametrize("seed", range(10))  # sums in another order often have the same bits
def test_layout_of_the_weights_does_not_matter_to_a_bit_of_the_mean(seed):
    raw, x, targets = network_output(600, 3)
    weight = np.random.default_rng(seed).exponential(size=(3, 200))
    arguments = raw.reshape(3, 200, -1), x.reshape(3, 200, 2), targets.reshape(3, 200)
    expected = mdn_loss_and_gradient(*arguments, sample_weight=weight)
    for order in ("F", "C"):
        for laid_out in (np.array(weight, order=order), np.array(weight[::-1, ::-1], order=order)[::-1, ::-1]):
            assert_same_bits(mdn_loss_and_gradient(*arguments, sample_weight=laid_out), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.uint64, np.bool_])
def test_dtype_of_the_weights_does_not_matter_to_a_bit_of_the_mean(dtype):
    raw, x, targets = network_output(600, 3)
    weight = (100 * np.random.default_rng(1).random(600)).astype(dtype)
    expected = mdn_loss_and_gradient(raw, x, targets, sample_weight=weight.astype(np.float64))
    assert_same_bits(mdn_loss_and_gradient(raw, x, targets, sample_weight=weight), expected)


@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_is_that_of_the_reduced_loss(weighted):
    raw, x, targets = network_output(50, 3)
    weight = np.random.default_rng(1).exponential(size=50) if weighted else None
    rows = loss_rows(raw, x, targets, sample_weight=weight)[1]
    divisor = 50 if weight is None else weight.sum()
    # a few roundings of the factors, and those of differences near 0
    close = {"rtol": 8 * EPS[np.float64], "atol": 1e-16}
    np.testing.assert_allclose(
        mdn_loss_and_gradient(raw, x, targets, sample_weight=weight, reduction="sum")[1], rows, **close
    )
    np.testing.assert_allclose(mdn_loss_and_gradient(raw, x, targets, sample_weight=weight)[1], rows / divisor, **close)


def test_mean_is_the_default_reduction():
    raw, x, targets = network_output()
    assert mdn_loss(raw, x, targets) == mdn_loss(raw, x, targets, reduction="mean")


@pytest.mark.parametrize("function", [mdn_loss, mdn_loss_and_gradient])
def test_mean_of_no_rows_is_an_error(function):
    with pytest.raises(ValueError, match="mean"):
        function(np.zeros((0, 6)), np.zeros((0, 2)))


@pytest.mark.parametrize("function", [mdn_loss, mdn_loss_and_gradient])
def test_mean_over_a_total_weight_of_0_is_an_error(function):
    raw, x, _ = network_output(3, 1, "none")
    with pytest.raises(ValueError, match="weight 0"):
        function(raw, x, sample_weight=np.zeros(3))


@pytest.mark.parametrize("weight", [None, np.zeros(0)])
def test_sum_of_no_rows_is_0_with_an_empty_gradient(weight):
    loss, gradient = mdn_loss_and_gradient(np.zeros((0, 6)), np.zeros((0, 2)), sample_weight=weight, reduction="sum")
    assert loss == 0
    assert gradient.shape == (0, 6)


def test_none_of_no_rows_is_empty():
    loss, gradient = loss_rows(np.zeros((3, 0, 12)), np.zeros((3, 0, 2)))
    assert loss.shape == (3, 0)
    assert gradient.shape == (3, 0, 12)


def test_sum_over_a_total_weight_of_0_is_0_with_gradient_0():
    raw, x, _ = network_output(3, 1, "none")
    loss, gradient = mdn_loss_and_gradient(raw, x, sample_weight=np.zeros(3), reduction="sum")
    assert loss == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("value_only", [mdn_loss, mixture_logpdf, gaussian_logpdf])
def test_value_alone_has_the_bits_of_the_value_with_its_gradient(value_only):
    both, arguments = {
        mdn_loss: (mdn_loss_and_gradient, network_output(300, 7)),
        mixture_logpdf: (mixture_logpdf_and_gradient, mixture((300,), 7)),
        gaussian_logpdf: (gaussian_logpdf_and_gradient, components((300,), 7)),
    }[value_only]
    np.testing.assert_array_equal(value_only(*arguments), both(*arguments)[0])


# Single calls, shapes, broadcasting


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("pen", PENS)
@pytest.mark.parametrize("m", [1, 2, 3, 20, 100, 257])
def test_single_losses_equal_batched_losses_bit_for_bit(m, pen, dtype):
    raw, x, targets = network_output(9, m, pen, dtype)
    loss, gradient = loss_rows(raw, x, targets)
    for i in range(9):
        target = None if targets is None else targets[i]
        assert_same_bits(loss_rows(raw[i], x[i], target), (loss[i], gradient[i]))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("m", [1, 2, 3, 20, 100, 257])
def test_single_mixtures_equal_batched_mixtures_bit_for_bit(m, dtype):
    arguments = mixture((9,), m, dtype)
    value, gradient = mixture_logpdf_and_gradient(*arguments)
    for i in range(9):
        single = mixture_logpdf_and_gradient(*(a[i] for a in arguments))
        assert_same_bits(single, (value[i], *(a[i] for a in gradient)))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("m", [1, 2, 3, 20, 100, 257])
def test_single_components_equal_batched_components_bit_for_bit(m, dtype):
    arguments = components((9,), m, dtype)
    value, gradient = gaussian_logpdf_and_gradient(*arguments)
    for i in range(9):
        single = gaussian_logpdf_and_gradient(*(a[i] for a in arguments))
        assert_same_bits(single, (value[i], *(a[i] for a in gradient)))


@pytest.mark.parametrize("workers", [1, 2, -1])
def test_any_number_of_workers_gives_the_same_bits(workers):
    raw, x, targets = network_output(20000, 4)
    for reduction in ("none", "sum", "mean"):
        expected = mdn_loss_and_gradient(raw, x, targets, reduction=reduction)
        assert_same_bits(mdn_loss_and_gradient(raw, x, targets, reduction=reduction, workers=workers), expected)
    arguments = mixture((20000,), 4)
    assert_same_bits(mixture_logpdf_and_gradient(*arguments, workers=workers), mixture_logpdf_and_gradient(*arguments))


BATCHES = [(), (1,), (4,), (1, 1), (5, 1), (1, 4), (5, 4), (3, 5, 4), (3, 1, 4), (3, 1, 1), (3, 5, 1)]
TWOS = [((2, 2), (2, 1)), ((2, 1), (2, 2))]
POINTS_AND_PARAMETERS = [*itertools.product(BATCHES, BATCHES), *TWOS, ((2, 0), (1,)), ((0,), (3, 1)), ((7,), (0, 1))]


def taken(arguments, shapes):
    """Each argument with a batch shape of its own, from a number of its own."""
    rng = np.random.default_rng(3)
    for a, shape in zip(arguments, shapes, strict=True):
        yield a[rng.integers(0, len(a), size=shape)]


def fully_broadcast(arguments, shapes):
    batch = np.broadcast_shapes(*shapes)
    for a, shape in zip(arguments, shapes, strict=True):
        yield np.broadcast_to(a, batch + a.shape[len(shape) :]).copy()


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize(("points", "parameters"), POINTS_AND_PARAMETERS)
def test_broadcast_points_and_parameters_give_the_bits_of_the_full_call(points, parameters, m):
    shapes = [points, *[parameters] * 4]
    arguments = list(taken(mixture((50,), m), shapes))
    whole = list(fully_broadcast(arguments, shapes))
    assert_same_bits(mixture_logpdf_and_gradient(*arguments), mixture_logpdf_and_gradient(*whole))
    assert_same_bits(mixture_logpdf(*arguments), mixture_logpdf(*whole))
    del arguments[1], whole[1]
    assert_same_bits(gaussian_logpdf_and_gradient(*arguments), gaussian_logpdf_and_gradient(*whole))


@pytest.mark.parametrize("slot", range(5))
@pytest.mark.parametrize("shape", [(), (1,), (4,), (5, 1), (1, 4), (5, 4), (2, 1, 1)])
@pytest.mark.parametrize("others", [(), (4,), (5, 1)])
def test_each_argument_broadcasts_by_itself(slot, shape, others):
    shapes = [shape if k == slot else others for k in range(5)]
    arguments = list(taken(mixture((50,), 3), shapes))
    whole = list(fully_broadcast(arguments, shapes))
    assert_same_bits(mixture_logpdf_and_gradient(*arguments), mixture_logpdf_and_gradient(*whole))


@pytest.mark.parametrize("m", [1, 20, 300])
def test_grid_of_points_against_one_mixture_gives_the_bits_of_the_full_call(m):
    shapes = [(40, 30), *[()] * 4]
    arguments = list(taken(mixture((50,), m), shapes))
    whole = list(fully_broadcast(arguments, shapes))
    assert_same_bits(mixture_logpdf_and_gradient(*arguments), mixture_logpdf_and_gradient(*whole))


@pytest.mark.parametrize("m", [1, 20, 300])
def test_one_point_against_many_mixtures_gives_the_bits_of_the_full_call(m):
    shapes = [(), *[(600,)] * 4]
    arguments = list(taken(mixture((50,), m), shapes))
    whole = list(fully_broadcast(arguments, shapes))
    assert_same_bits(mixture_logpdf_and_gradient(*arguments), mixture_logpdf_and_gradient(*whole))


@pytest.mark.parametrize("batch", [(3, 4), (2, 3, 2), (12, 1), (1, 1, 12)])
@pytest.mark.parametrize("pen", PENS)
def test_losses_of_several_batch_axes_are_those_of_the_flat_batch(batch, pen):
    raw, x, targets = network_output(12, 2, pen)
    loss, gradient = loss_rows(raw, x, targets)
    shaped = None if targets is None else targets.reshape(*batch, *targets.shape[1:])
    result = loss_rows(raw.reshape(*batch, -1), x.reshape(*batch, 2), shaped)
    assert_same_bits(result, (loss.reshape(batch), gradient.reshape(*batch, -1)))


# Scalars


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_loss_without_batch_axes_is_a_numpy_scalar(reduction, dtype):
    raw, x, targets = network_output(1, 3, "bernoulli", dtype)
    loss = mdn_loss(raw[0], x[0], targets[0], reduction=reduction)
    assert type(loss) is dtype
    loss, gradient = mdn_loss_and_gradient(raw[0], x[0], targets[0], reduction=reduction)
    assert type(loss) is dtype
    assert gradient.shape == (19,)
    assert gradient.dtype == dtype


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_reduced_loss_of_a_batch_is_a_numpy_scalar(reduction, dtype):
    raw, x, _ = network_output(5, 1, "none", dtype)
    assert type(mdn_loss(raw, x, reduction=reduction)) is dtype
    assert type(mdn_loss_and_gradient(raw, x, reduction=reduction)[0]) is dtype


@pytest.mark.parametrize("dtype", FLOATS)
def test_log_density_without_batch_axes_is_a_numpy_scalar(dtype):
    arguments = mixture((), 3, dtype)
    assert type(mixture_logpdf(*arguments)) is dtype
    value, gradient = mixture_logpdf_and_gradient(*arguments)
    assert type(value) is dtype
    assert [a.shape for a in gradient] == [(3,), (3, 2), (3, 2), (3,), (2,)]
    assert {a.dtype for a in gradient} == {np.dtype(dtype)}


# Kernels decline what does not fit: a last line of defence, behind the checks


NOT_DONE = r"^arrays that were checked do not fit each other$"


class Declining:
    """Kernels that do nothing, and say so."""

    def __getattr__(self, name):
        return lambda *arguments: False


@pytest.mark.parametrize("function", [mdn_loss, mdn_loss_and_gradient])
def test_a_loss_that_no_kernel_computed_is_not_returned(function, monkeypatch):
    monkeypatch.setattr(_dispatch, "kernels", {"f": Declining(), "d": Declining()})
    with pytest.raises(AssertionError, match=NOT_DONE):
        function(*network_output())


def test_densities_that_no_kernel_computed_are_not_returned(monkeypatch):
    x, mean, stddev, correlation = components()
    monkeypatch.setattr(_dispatch, "kernels", {"f": Declining(), "d": Declining()})
    with pytest.raises(AssertionError, match=NOT_DONE):
        gaussian_density_batch(x[:, None], mean, stddev, correlation[..., None])


# Plain arrays go to the kernels at once: Python's checks would take most of the time of a small call


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("pen", PENS)
@pytest.mark.parametrize("dtype_of_pen", [np.float64, np.float32, np.int64, np.bool_])
@pytest.mark.parametrize("workers", [None, 1, 2])  # who have not enough to do
@pytest.mark.parametrize("function", [mdn_loss, mdn_loss_and_gradient])
def test_the_mean_loss_of_plain_arrays_is_left_to_the_checks_of_the_kernel(
    function, workers, dtype_of_pen, pen, dtype, monkeypatch
):
    raw, x, targets = network_output(6, 3, pen, dtype)
    targets = None if targets is None else targets.astype(dtype_of_pen)
    expected = function(np.asfortranarray(raw), x, targets)  # not plain
    monkeypatch.setattr(_mdn, "_check_problem", None)
    assert_same_bits(function(raw, x, targets, workers=workers), expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("eps", [0.0, 1e-10, 1e300])
@pytest.mark.parametrize("derivatives", [False, True])
def test_densities_of_plain_arrays_are_left_to_the_checks_of_the_kernel(derivatives, eps, dtype, monkeypatch):
    x, mean, stddev, correlation = components((6,), 3, dtype)
    x, correlation = x[:, None], correlation[..., None]
    expected = gaussian_density_batch(x, np.asfortranarray(mean), stddev, correlation, derivatives, smooth_eps=eps)
    monkeypatch.setattr(_gaussian, "check_arguments", None)
    density, gradient = gaussian_density_batch(x, mean, stddev, correlation, derivatives, smooth_eps=eps)
    assert_same_bits(density, expected[0])
    assert_same_bits(gradient or (), expected[1] or ())


@pytest.mark.parametrize("slot", ["x", "pen"])
@pytest.mark.parametrize("bad", [np.complex64, np.longdouble, "m8[s]", [("a", float)]], ids=str)
def test_plain_arrays_of_no_real_numbers_of_64_bits_are_refused(bad, slot):
    if np.dtype(bad) == np.float64:
        pytest.skip("longdouble is float64 here")
    raw, x, pen = network_output()
    arguments = {"raw": raw, "x": x, "pen": pen}
    arguments[slot] = arguments[slot].astype(bad)
    with pytest.raises(TypeError, match=f"^{slot}: expected an array of real numbers of at most 64 bits, got dtype "):
        mdn_loss(**arguments)


# out=


CALLS = {
    "mdn_loss": (mdn_loss, network_output, {"reduction": "none"}),
    "mdn_loss, mean": (mdn_loss, network_output, {}),
    "mdn_loss_and_gradient": (mdn_loss_and_gradient, network_output, {"reduction": "none"}),
    "mdn_loss_and_gradient, mean": (mdn_loss_and_gradient, network_output, {}),
    "mixture_logpdf": (mixture_logpdf, mixture, {}),
    "mixture_logpdf_and_gradient": (mixture_logpdf_and_gradient, mixture, {}),
    "gaussian_logpdf": (gaussian_logpdf, components, {}),
    "gaussian_logpdf_and_gradient": (gaussian_logpdf_and_gradient, components, {}),
}
SEVERAL = [name for name in CALLS if "_and_gradient" in name]

# Arrays of a shape and dtype to write to, filled with what is not to stay. The ellipsis keeps arrays of no axes arrays.
LAYOUTS = {
    "contiguous": lambda shape, dtype: np.full(shape, 99, dtype),
    "every other element": lambda shape, dtype: np.full([2 * k for k in shape], 99, dtype)[
        (..., *[slice(None, None, 2)] * len(shape))
    ],
    "Fortran order": lambda shape, dtype: np.full(shape, 99, dtype, order="F"),
    "reversed": lambda shape, dtype: np.full(shape, 99, dtype)[(..., *[slice(None, None, -1)] * len(shape))],
    "byte-swapped": lambda shape, dtype: np.full(shape, 99, np.dtype(dtype).newbyteorder()),
    "misaligned": lambda shape, dtype: np.frombuffer(
        bytearray(1 + int(np.prod(shape)) * dtype.itemsize), dtype, offset=1
    ).reshape(shape),
}


def called(name, dtype=np.float64):
    """A call of CALLS to be given `out`, and what it returns without."""
    function, make, keywords = CALLS[name]
    arguments = make(dtype=dtype)

    def call(out):
        return function(*arguments, **keywords, out=out)

    return call, function(*arguments, **keywords), arguments


def outputs_like(result, layout="contiguous"):
    return [LAYOUTS[layout](np.shape(a), a.dtype) for a in flat(result)]


def nested(result, arrays):
    """Arrange arrays as `result` is: a value and an array, or a value and a tuple."""
    if not isinstance(result, tuple):
        return arrays[0]
    _, gradient = result
    return arrays[0], tuple(arrays[1:]) if isinstance(gradient, tuple) else arrays[1]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CALLS)
def test_out_is_filled_with_the_same_bits_and_returned(name, layout, dtype):
    call, expected, _ = called(name, dtype)
    arrays = outputs_like(expected, layout)
    returned = call(nested(expected, arrays))
    for array, ours, theirs in zip(arrays, flat(returned), flat(expected), strict=True):
        assert ours is array
        np.testing.assert_array_equal(array, theirs)


@pytest.mark.parametrize("name", SEVERAL)
def test_out_may_be_a_flat_tuple(name):
    call, expected, _ = called(name)
    arrays = outputs_like(expected)
    returned = call(tuple(arrays))
    assert type(returned[1]) is type(expected[1])
    for array, ours, theirs in zip(arrays, flat(returned), flat(expected), strict=True):
        assert ours is array
        np.testing.assert_array_equal(array, theirs)


@pytest.mark.parametrize("name", SEVERAL)
def test_out_may_be_the_result_of_an_earlier_call(name):
    call, expected, _ = called(name)
    if np.ndim(expected[0]) == 0:
        expected = (np.empty(()), *expected[1:])
    first = tuple(outputs_like(expected))
    again = call(call(first))
    for array, ours in zip(first, flat(again), strict=True):
        assert ours is array


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", SEVERAL)
def test_none_in_out_allocates_that_array(name, dtype):
    call, expected, _ = called(name, dtype)
    count = len(flat(expected))
    for k in range(count):
        given = outputs_like(expected)
        given[k] = None
        returned = call(tuple(given))
        for array, ours, theirs in zip(given, flat(returned), flat(expected), strict=True):
            assert array is None or ours is array
            assert_same_bits(ours, theirs)


@pytest.mark.parametrize("name", SEVERAL)
def test_of_outputs_that_overlap_each_other_the_last_is_whole(name):
    call, expected, _ = called(name)
    shapes = [np.shape(array) for array in flat(expected)]
    memory = np.empty(len(shapes) + max(int(np.prod(shape)) for shape in shapes))
    outputs = [memory[k : k + int(np.prod(shape))].reshape(shape) for k, shape in enumerate(shapes)]
    call(tuple(outputs))
    assert_same_bits(outputs[-1], flat(expected)[-1])


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("rows", [6, 300])  # of one block, which kernels read before they write, and of several
def test_out_that_overlaps_each_argument_gives_the_same_bits(rows, name):
    function, make, keywords = CALLS[name]
    n = rows if make is network_output else (rows,)
    expected = function(*make(n), **keywords)
    for k in range(len(make(n))):
        for step in (0, 1):
            arguments = list(make(n))
            # argument and output share memory, shifted against each other
            for position, theirs in enumerate(flat(expected)):
                memory = np.zeros(arguments[k].size + theirs.size + 2)
                held = memory[: arguments[k].size].reshape(arguments[k].shape)
                held[...] = arguments[k]
                overlapping = memory[step : step + theirs.size].reshape(theirs.shape)
                given = outputs_like(expected)
                given[position] = overlapping
                with_held = [held if i == k else a for i, a in enumerate(arguments)]
                function(*with_held, **keywords, out=nested(expected, given))
                for array, wanted in zip(given, flat(expected), strict=True):
                    np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize("name", CALLS)
def test_arguments_are_not_modified(name):
    call, expected, arguments = called(name)
    before = [None if a is None else a.copy() for a in arguments]
    call(nested(expected, outputs_like(expected)))
    for a, copy in zip(arguments, before, strict=True):
        np.testing.assert_array_equal(a, copy)


# How an output is spoilt, and what the message says of it
SPOILT = {
    "dtype": (lambda a: a.astype(np.float32), r"expected dtype float64, got float32"),
    "shape": (lambda a: np.zeros((*a.shape, 1)), r"expected shape \(.*\), got \(.*1,?\)"),
    "read-only": (lambda a: np.broadcast_to(a, a.shape), r"expected a writeable array, got a read-only one"),
    "list": (lambda a: a.tolist() if a.ndim else [0.0], r"expected an array, got list"),
    "scalar": (lambda a: 1.0, r"expected an array, got float"),
}


def names_of_outputs(name):
    """What messages call the arrays that a call of CALLS returns."""
    if name.startswith("mdn"):
        return ["loss", "gradient"]
    return ["value", *(_mixture.MixtureGradient if name.startswith("mixture") else _gaussian.GaussianGradient)._fields]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("spoilt", SPOILT)
def test_each_wrong_out_is_refused_by_name(spoilt, name):
    call, expected, _ = called(name)
    change, pattern = SPOILT[spoilt]
    for k, output in enumerate(names_of_outputs(name)[: len(flat(expected))]):
        given = outputs_like(expected)
        given[k] = change(given[k])
        with pytest.raises((TypeError, ValueError), match=rf"^out \({output}\): {pattern}$"):
            call(nested(expected, given))


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_number_of_workers_is_refused_by_name(name):
    function, make, keywords = CALLS[name]
    with pytest.raises(ValueError, match=r"^workers: expected a number other than 0 and not below -\d+, .*; got 0$"):
        function(*make(), **keywords, workers=0)


@pytest.mark.parametrize("function", [mixture_logpdf, mixture_logpdf_and_gradient])
def test_a_mixture_of_no_components_is_refused_by_name(function):
    with pytest.raises(ValueError, match=r"^weights: expected at least one component, got M = 0$"):
        function(*mixture(m=0))


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("change", [-1, 1])
def test_wrong_number_of_outs_is_refused_by_name(change, name):
    call, expected, _ = called(name)
    names = names_of_outputs(name)
    given = [*outputs_like(expected), np.zeros(3)][: len(names) + change]
    message = re.escape(f"out: expected {len(names)} arrays ({', '.join(names)}), got {len(given)}")
    with pytest.raises(ValueError, match=f"^{message}$"):
        call(tuple(given))


@pytest.mark.parametrize("name", SEVERAL)
def test_one_array_for_several_outs_is_refused_by_name(name):
    call, expected, _ = called(name)
    with pytest.raises((TypeError, ValueError), match=r"^out"):
        call(outputs_like(expected)[0])


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_a_density_beyond_float32_has_loss_minus_inf_without_a_warning(reduction):
    # log sigma = -3e38 for both coordinates, at the mean: the log-density is 6e38
    raw = np.zeros((2, 6), np.float32)
    raw[:, 3:5] = -3e38
    loss = np.atleast_1d(mdn_loss(raw, np.zeros((2, 2), np.float32), reduction=reduction))
    assert loss.dtype == np.float32
    np.testing.assert_array_equal(loss, -INF)
