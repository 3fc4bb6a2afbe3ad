"""The contract of the log-domain levels, clause by clause: never NaN, exclusion, reductions, shapes, out=."""

import itertools
import re
from functools import partial

import builds
import mpmath
import numpy as np
import pytest
import reference
from checks import (
    EPS,
    FLOATS,
    INF,
    NAN,
    PENS,
    assert_no_nan,
    assert_same_bits,
    each_dtype,
    each_pen,
    each_reduction,
    flat,
    rows_of,
    without_row,
)
from problems import LAYOUTS, component_problem, lie, loss_problem, mixture_problem, network_output

import cymdn
from cymdn import gaussian_logpdf_and_gradient, mdn_loss, mdn_loss_and_gradient, mixture_logpdf_and_gradient


def loss_rows(raw, x, pen=None, **keywords):
    return mdn_loss_and_gradient(raw, x, pen, reduction="none", **keywords)


# The levels: a function with its gradient, one without, and good arguments from a batch shape, M and a dtype
LEVELS = {
    "components": (gaussian_logpdf_and_gradient, cymdn.gaussian_logpdf, component_problem),
    "mixture": (mixture_logpdf_and_gradient, cymdn.mixture_logpdf, mixture_problem),
    **{
        f"loss, pen {pen}": (
            loss_rows,
            lambda *a: mdn_loss(*a, reduction="none"),
            lambda batch=(6,), m=3, dtype=np.float64, pen=pen: loss_problem(batch, m, pen, dtype),
        )
        for pen in PENS
    },
}
each_level = pytest.mark.parametrize("level", LEVELS)


def changed(arguments, slot, index, value):
    """The arguments, one of them a copy with other numbers at an index."""
    array = arguments[slot].copy()
    with np.errstate(over="ignore"):
        array[index] = value
    return [*arguments[:slot], array, *arguments[slot + 1 :]]


def assert_nan_in_its_row_alone(function, arguments, slot, row, index=(), value=NAN, expected=None):
    """A value in a row makes value and gradient of the row NaN, and leaves the bits of all others."""
    got = function(*changed(arguments, slot, (row, *index), value))
    for array in flat(got):
        assert np.isnan(array[row]).all()
    assert_same_bits(without_row(got, row), without_row(expected or function(*arguments), row))


# Finite arguments never give NaN: named cases


# Columns of raw, x, and the dtypes. At the mean; off the main axis; on it, where Q = 1 whatever a, and the derivatives
# to the means are those of sigma = 1, shared by both coordinates. Then offsets that are out of reach of a component far
# narrower: Q is exp(2e4) 1e-200 and more, beyond any float. (docs/formulas.md: log sigma and a count as bounded by 708
# in Q; within 1e-150 of the mean it comes out finite.)
EXTREME_ROWS = [
    *(((0, 0.5, -0.25, 0, 0, a), (0.5, -0.25), dtype) for a in (400.0, -400.0, 1e30, -1e30) for dtype in FLOATS),
    *(
        ((0, 0, 0, 0, 0, a), x, dtype)
        for a in (20.0, 100.0, 400.0, 1e30)
        for x in ((1.0, 0.0), (-1e-3, 1e-3), (1e-100, 0.0), (0.0, 5.0))
        for dtype in FLOATS
    ),
    *(
        ((0, 0, 0, 0, 0, sign * a), (1.0, sign), dtype)
        for a in (20.0, 100.0, 350.0, 360.0, 370.0, 400.0, 708.0, 1e30)
        for sign in (-1, 1)
        for dtype in FLOATS
    ),
    *(((0, 0, 0, -size, 0, 0), (1e-100, 0.0), np.float64) for size in (1e4, 1e30)),
    *(((0, 0, 0, 0, 0, size), (1e-100, 0.0), np.float64) for size in (1e4, 1e30)),
    *(((0, 0, 0, 0, 0, 0), (3e19, 0.0), dtype) for dtype in FLOATS),  # u^2 / 2 = 4.5e38, beyond float32
]


@pytest.mark.parametrize(("raw", "x", "dtype"), EXTREME_ROWS)
def test_a_row_far_outside_is_the_exact_one_or_inf_with_gradient_0(raw, x, dtype):
    raw, x, largest = np.array([raw], dtype), np.array([x], dtype), float(np.finfo(dtype).max)
    loss, gradient = loss_rows(raw, x)
    assert loss.dtype == dtype
    with mpmath.workdps(700):  # 1 - tanh(708) is 1e-615
        value, slopes = reference.loss(reference.EXACT, raw, x)
    if abs(value.exact[0]) > largest:
        assert loss[0] == INF
        np.testing.assert_array_equal(gradient, 0)
        return
    # 8 eps of the terms in p and m, which do not cancel: on the axis there is one of them, of size 1; across it the
    # other one is the value itself; beside them stand log 2 pi, |a|, -1 and r
    exact = float(value.exact[0])
    assert abs(loss[0] - exact) <= 8 * EPS[dtype] * (2 + abs(exact) + abs(float(raw[0, 5])))
    for got, number in zip(gradient[0], slopes.exact[0], strict=True):
        if abs(number) > largest:  # the largest number or inf
            assert got * np.sign(float(number)) >= np.finfo(dtype).max
        else:
            assert abs(got - float(number)) <= 8 * EPS[dtype] * (2 + abs(float(number)))


@each_level
@each_dtype
@pytest.mark.parametrize("position", [(INF, 0.0), (0.0, -INF), (INF, INF), (INF, -INF), (-INF, -INF)])
def test_infinite_x_has_density_0_and_gradient_0(position, dtype, level):
    function, _, make = LEVELS[level]
    arguments = make((4,), 3, dtype)
    k = list(map(np.shape, arguments)).index((4, 2))
    value, gradient = function(*changed(arguments, k, 1, position))
    assert (value[1] == (INF if "loss" in level else -INF)).all()
    assert np.isfinite(np.delete(value, 1, axis=0)).all()
    for array in flat(gradient)[level == "mixture" :]:  # but its logits: the weights are left
        np.testing.assert_array_equal(array[1], 0)


@pytest.mark.parametrize("scale", [2.3e-308, 1e-200, 1e200, 1e308])
def test_extreme_stddevs_are_right_not_only_numbers(scale):
    x, mean, stddev = np.array([[scale, -scale]]), np.zeros((1, 1, 2)), np.full((1, 1, 2), scale)
    value, gradient = gaussian_logpdf_and_gradient(x, mean, stddev, np.zeros((1, 1)))
    # u = 1, v = -1
    np.testing.assert_allclose(value, -np.log(2 * np.pi) - 2 * np.log(scale) - 1, rtol=4 * EPS[np.float64], atol=0)
    np.testing.assert_allclose(gradient.mean, [[[1 / scale, -1 / scale]]], rtol=4 * EPS[np.float64], atol=5e-324)
    np.testing.assert_allclose(gradient.log_stddev, 0, rtol=0, atol=4 * EPS[np.float64])  # 1 - 1
    np.testing.assert_allclose(gradient.atanh_correlation, -1, rtol=4 * EPS[np.float64], atol=0)


@pytest.mark.parametrize("weight", [5e-324, 1e-310, 1e-20, 3.0, 1e289, 1.7e308])
def test_a_weight_of_any_size_is_taken_as_it_is(weight):
    x, weights, *rest = mixture_problem((4,), 3)
    weights[...] = weight
    plain, _ = mixture_logpdf_and_gradient(x, np.ones((4, 3)), *rest)
    value, gradient = mixture_logpdf_and_gradient(x, weights, *rest)
    np.testing.assert_allclose(value, plain + np.log(weight), rtol=4 * EPS[np.float64], atol=4e-15)
    assert_no_nan(gradient)
    for infinite in (INF, NAN):
        assert_nan_in_its_row_alone(mixture_logpdf_and_gradient, [x, weights, *rest], 1, 2, (1,), infinite)


FAR = [  # x, mean, sigma, r: offsets whose squares, or that themselves, are beyond float64
    *(
        (x, 0.0, sigma, r)
        for x in (1e155, 1e200, 1.7e308)
        for sigma in (1e-200, 1e-9, 1.0)
        for r in (0.0, 0.999, -0.999)
    ),
    *((1.7e308, -1.7e308, 1.0, r) for r in (0.0, 0.9)),
    (1.0, 0.0, 5e-324, 0.5),
]


@pytest.mark.parametrize("eps", [0.0, 1e-10])
@pytest.mark.parametrize("axes", [(1, 0), (0, 1), (1, 1), (1, -1)])
@pytest.mark.parametrize(("x", "mean", "sigma", "r"), FAR)
def test_smoothed_densities_of_far_points_are_0_with_derivatives_that_are_numbers(x, mean, sigma, r, axes, eps):
    # beside a point that is near, whose bits it does not change
    points, means = (np.array([[np.multiply(axes, far)], [[0.5, -0.5]]]) for far in (x, mean))
    stddev, correlation = np.array([[[sigma, sigma]], [[1.0, 2.0]]]), np.array([[[r]], [[0.5]]])
    density, derivatives = cymdn.gaussian_density_batch(points, means, stddev, correlation, True, smooth_eps=eps)
    assert density[0] == 0
    assert_no_nan(derivatives)
    near = [a[1:] for a in (points, means, stddev, correlation)]
    assert_same_bits(
        rows_of((density, *derivatives), slice(1, None)), cymdn.gaussian_density_batch(*near, True, smooth_eps=eps)
    )


@pytest.mark.parametrize("logit", [-1e308, -1e3, 1e3, 1e308])
@pytest.mark.parametrize("target", [0.0, 0.5, 1.0])
def test_pen_logits_however_large(logit, target):
    raw, x = np.array([[logit, 0, 0, 0, 0, 0, 0]]), np.zeros((1, 2))
    loss, gradient = loss_rows(raw, x, np.array([target]))
    certain = float(logit > 0)
    np.testing.assert_allclose(loss, [np.log(2 * np.pi) + abs(logit) * abs(certain - target)], rtol=1e-15, atol=0)
    np.testing.assert_array_equal(gradient[0, 0], certain - target)


# Finite arguments never give NaN: any, by the ten thousand


def any_finite(rng, shape, dtype):
    """Finite numbers: ordinary ones, special and extreme ones, random bits."""
    largest = np.finfo(dtype).max
    special = [0.0, -0.0, 1.0, -1.0, 400.0, -400.0, 708.5, -745.2, 1e-30, 2.0**-149, 1e30, -1e30]
    special = np.array([*special, largest, -largest, largest / 2, -largest / 2]).astype(dtype)
    bits = rng.integers(0, 2 ** (8 * dtype().itemsize), shape, np.dtype(f"u{dtype().itemsize}")).view(dtype)
    kinds = rng.uniform(-4, 4, shape).astype(dtype), rng.choice(special, shape), np.where(np.isfinite(bits), bits, 1)
    return np.choose(rng.integers(0, 3, shape), kinds).astype(dtype)


@each_dtype
@each_pen
@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_any_finite_raw_output_gives_no_nan(m, pen, dtype):
    rng, n = np.random.default_rng(m), 10_000
    raw, x = any_finite(rng, (n, PENS[pen] + 6 * m), dtype), any_finite(rng, (n, 2), dtype)
    raw[::2, PENS[pen] :][:, : m * int(rng.integers(1, 6))] = 0.5  # so that not all losses are infinite
    x[::7] = raw[::7, PENS[pen] + m : PENS[pen] + 3 * m : m]  # on a mean
    targets = {
        "none": None,
        "bernoulli": rng.choice([0.0, 0.3, 1.0], n),
        "categorical": np.eye(3)[rng.integers(0, 3, n)],
    }[pen]
    loss, gradient = loss_rows(raw, x, targets)
    assert_no_nan((loss, gradient))
    np.testing.assert_array_equal(mdn_loss(raw, x, targets, reduction="none"), loss)
    assert not gradient[loss == INF].any()
    assert 0.05 < np.isfinite(loss).mean() < 0.95


@each_dtype
@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_any_finite_mixture_in_the_domain_gives_no_nan(m, dtype):
    rng, n = np.random.default_rng(m), 10_000
    x, mean, stddev = (any_finite(rng, shape, dtype) for shape in ((n, 2), (n, m, 2), (n, m, 2)))
    stddev = np.maximum(abs(stddev), {np.float32: dtype(2.0**-149), np.float64: dtype(2.3e-308)}[dtype])
    weights, largest = abs(any_finite(rng, (n, m), dtype)), np.nextafter(dtype(1), dtype(0))
    correlation = np.clip(any_finite(rng, (n, m), dtype), -largest, largest)
    x[::7] = mean[::7, 0]
    value, gradient = mixture_logpdf_and_gradient(x, weights, mean, stddev, correlation)
    assert_no_nan((value, gradient))
    np.testing.assert_array_equal(cymdn.mixture_logpdf(x, weights, mean, stddev, correlation), value)
    assert_no_nan(gaussian_logpdf_and_gradient(x, mean, stddev, correlation))


# A loss beyond the dtype


def test_log_density_beyond_float32_is_minus_inf_with_gradient_0():
    x, weights = np.array([3e19, 0.0], np.float32), np.ones(1, np.float32)
    rest = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32), np.zeros(1, np.float32)
    for value, gradient in (mixture_logpdf_and_gradient(x, weights, *rest), gaussian_logpdf_and_gradient(x, *rest)):
        assert (value == -INF).all()
        for array in gradient:
            np.testing.assert_array_equal(array, 0)


LARGEST = np.finfo(np.float32).max


@each_reduction
@pytest.mark.parametrize(("log_stddev", "expected"), [(-3e38, -INF), (LARGEST / 2, LARGEST)])
def test_a_density_beyond_float32_has_loss_minus_inf_and_the_largest_loss_is_finite(log_stddev, expected, reduction):
    # both log stddevs, at the mean: their sum is the loss
    raw = np.zeros((1, 6), np.float32)
    raw[0, 3:5] = log_stddev
    loss = mdn_loss(raw, np.zeros((1, 2), np.float32), reduction=reduction)
    assert loss.dtype == np.float32
    np.testing.assert_array_equal(loss, expected)


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
    rows = builds.CHUNK
    raw, weight = np.zeros((3 * rows, 6)), np.zeros(3 * rows)
    raw[::rows, 3], weight[::rows] = losses, 1
    small = np.abs(losses) < 1e300
    raw[::rows, 3][small] -= np.log(2 * np.pi)
    loss = flat(function(raw, np.zeros((3 * rows, 2)), sample_weight=weight, reduction="sum"))[0]
    np.testing.assert_allclose(loss, total, rtol=4 * EPS[np.float64], atol=0)


# Components that take no part


@each_dtype
@pytest.mark.parametrize(
    ("mean", "log_stddev", "a"),
    [(100.0, -20.0, 8.0), (1e300, -700.0, 400.0), (-1.7e308, -700.0, 400.0)],
    ids=["derivatives of 1e20", "derivatives that overflow", "offsets that overflow"],
)
def test_component_of_responsibility_0_contributes_exactly_0(mean, log_stddev, a, dtype):
    largest = float(np.finfo(dtype).max)
    mean = np.clip(mean, -largest, largest)
    raw = np.array([[0, 0, 0, mean, 0, mean, 0, log_stddev, 0, log_stddev, 0, a]], dtype)
    x = np.array([[0.125, -0.25]], dtype)
    loss, gradient = loss_rows(raw, x)
    loss_without, gradient_without = loss_rows(raw[:, ::2].copy(), x)
    np.testing.assert_array_equal(gradient[0, 3::2], 0)  # all but its logit
    np.testing.assert_array_equal(gradient[0, 2::2], gradient_without[0, 1:])
    # its weight of 1/2 costs log 2
    np.testing.assert_allclose(loss - loss_without, np.log(2), rtol=8 * EPS[dtype], atol=0)


@pytest.mark.parametrize("held", [NAN, INF, -INF, 0.0, -1.0, 1e308, 5e-324])
@pytest.mark.parametrize("slot", [2, 3, 4], ids=["mean", "stddev", "correlation"])
@each_dtype
def test_weight_of_exactly_0_excludes_its_component_whatever_it_holds(held, slot, dtype):
    arguments = changed(mixture_problem((5,), 3, dtype), 1, (slice(None), 1), 0)
    expected = mixture_logpdf_and_gradient(*arguments)
    assert_same_bits(mixture_logpdf_and_gradient(*changed(arguments, slot, (slice(None), 1), held)), expected)
    x, *others = arguments
    value, gradient = mixture_logpdf_and_gradient(x, *(np.delete(a, 1, axis=1) for a in others))
    assert_same_bits(expected[0], value)
    for array, fewer in zip(expected[1][:4], gradient[:4], strict=True):
        np.testing.assert_array_equal(array[:, 1], 0)
        np.testing.assert_array_equal(np.delete(array, 1, axis=1), fewer)


@pytest.mark.parametrize("held", [0.0, NAN])
def test_all_components_excluded_gives_minus_inf_and_gradient_0(held):
    arguments = changed(changed(mixture_problem((3,), 2), 1, 1, 0), 2, 1, held)
    value, gradient = mixture_logpdf_and_gradient(*arguments)
    assert value[1] == -INF
    assert np.isfinite(value[[0, 2]]).all()
    for array in gradient:
        np.testing.assert_array_equal(array[1], 0)


@each_dtype
@pytest.mark.parametrize("slot", [2, 3], ids=["mean", "stddev"])
@pytest.mark.parametrize("axis", [0, 1])
def test_an_infinite_mean_or_stddev_leaves_its_component_no_density(axis, slot, dtype):
    x, weights, *parameters = changed(mixture_problem((4,), 3, dtype), slot, (slice(None), 2, axis), INF)
    value, gradient = gaussian_logpdf_and_gradient(x, *parameters)
    np.testing.assert_array_equal(value[:, 2], -INF)
    for array in gradient:
        assert not array[:, 2].any()
    others = [a[:, :2] for a in (weights, *parameters)]
    got, expected = (mixture_logpdf_and_gradient(x, *arrays) for arrays in ((weights, *parameters), others))
    assert_same_bits((got[0], got[1].x), (expected[0], expected[1].x))
    for array in got[1][1:4]:
        assert not array[:, 2].any()


# Outside the domain, and NaN


@each_dtype
@pytest.mark.parametrize(
    ("slot", "held"), [(2, 0.0), (2, -0.0), (2, 1e-310), (2, -1.0), (2, -INF), (3, 1.0), (3, -1.0), (3, 1.5), (3, INF)]
)
def test_component_outside_the_domain_has_log_density_nan(slot, held, dtype):
    arguments = component_problem((4,), 3, dtype)
    expected = gaussian_logpdf_and_gradient(*arguments)
    got = gaussian_logpdf_and_gradient(*changed(arguments, slot, (1, 2), held))
    for array, before in zip(flat(got), flat(expected), strict=True):
        assert np.isnan(array[1, 2]).all()
        array[1, 2] = before[1, 2]
    assert_same_bits(got, expected)  # no other component is touched


@pytest.mark.parametrize(
    ("slot", "held"),
    [
        *((1, -1.0), (1, -5e-324), (3, 0.0), (3, -1.0), (4, 1.0), (4, -1.0), (4, 1.5), (4, -INF)),
        *((slot, NAN) for slot in range(5)),
    ],
)
@pytest.mark.parametrize("m", [1, 3, 300])
def test_a_component_outside_the_domain_or_nan_makes_its_mixture_nan_and_touches_no_other(m, slot, held):
    arguments = mixture_problem((5,), m)
    for last in (0, -1):
        index = np.unravel_index(last % arguments[slot][0].size, arguments[slot][0].shape)
        assert_nan_in_its_row_alone(mixture_logpdf_and_gradient, arguments, slot, 2, index, held)


@pytest.mark.parametrize("logits", [(1.0, -INF), (1.0, -1.7e308), (1.7e308, -1.7e308)])
def test_a_pen_state_of_target_0_adds_nothing_however_unlikely(logits):
    # its cross-entropy is infinite, or overflows
    raw, x, _ = loss_problem((1,), 2, "categorical")
    certain, impossible = logits
    raw[0, :3] = certain, impossible, certain - 1
    targets = np.array([[1.0, 0.0, 0.0]])
    loss, gradient = loss_rows(raw, x, targets)
    raw[0, 1] = -1e6  # far below the others too, but finite and no overflow
    assert_same_bits((loss, gradient), loss_rows(raw, x, targets))
    assert gradient[0, 1] == 0


@pytest.mark.parametrize("pen", ["bernoulli", "categorical"])
@each_dtype
@pytest.mark.parametrize("target", [-0.1, 1.1, INF, -INF, NAN])
def test_a_pen_outside_0_to_1_makes_its_row_nan_and_touches_no_other(target, dtype, pen):
    arguments = loss_problem((7,), 3, pen, dtype)
    for index in [(k,) for k in range(3)] if pen == "categorical" else [()]:
        assert_nan_in_its_row_alone(loss_rows, arguments, 2, 3, index, target)


@each_dtype
@pytest.mark.parametrize("m", [1, 3, 20, 300])
@each_pen
def test_nan_in_raw_output_or_x_makes_its_row_nan_and_touches_no_other(pen, m, dtype):
    arguments = loss_problem((4,), m, pen, dtype)
    width, expected = arguments[0].shape[1], loss_rows(*arguments)
    for column in range(width) if m < 20 else np.linspace(0, width - 1, 24).astype(int):
        assert_nan_in_its_row_alone(loss_rows, arguments, 0, column % 4, (column,), expected=expected)
    for axis in (0, 1):
        assert_nan_in_its_row_alone(loss_rows, arguments, 1, 2, (axis,), expected=expected)


@each_dtype
@pytest.mark.parametrize("huge", [1e308, INF])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("slot", [0, 1, 2, 3], ids=["x", "mean", "stddev", "correlation"])
def test_nan_beats_a_stddev_without_density(slot, axis, huge, dtype):
    # 1 / sigma is denormal or 0 (float32 has no such number but inf); the NaN is in the other coordinate
    arguments = changed(component_problem((4,), 3, dtype), 2, (1, 2, axis), huge)
    arguments = changed(arguments, slot, (1, *{0: (1 - axis,), 3: (2,)}.get(slot, (2, 1 - axis))), NAN)
    for array in flat(gaussian_logpdf_and_gradient(*arguments)):
        assert np.isnan(array[1, 2]).all()
    result = mixture_logpdf_and_gradient(arguments[0], np.full((4, 3), 1 / 3, dtype), *arguments[1:])
    for array in flat(result):
        assert np.isnan(array[1]).all()
    assert_no_nan(without_row(result, 1))


@pytest.mark.parametrize("held", [(NAN, 0.0), (NAN, INF), (1e300, NAN)])
def test_nan_beats_inf(held):
    arguments = loss_problem((3,), 2, "none")
    assert_nan_in_its_row_alone(loss_rows, arguments, 1, 1, (), held)
    # mean 0 and log stddev 0 of the first component
    assert_nan_in_its_row_alone(loss_rows, arguments, 0, 1, ([2, 6],), (NAN, INF))


# Rows of weight 0, reductions


@each_dtype
@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_loss_that_is_inf_by_itself_or_by_its_weight_has_gradient_0_and_leaves_other_rows(weighted, reduction, dtype):
    raw, x, largest = np.zeros((3, 6), dtype), np.array([[60, 0], [1, 0], [60, 0]], dtype), np.finfo(dtype).max
    weight = np.array([largest / 1000, 2.0, 1.0]) if weighted else None
    if not weighted:
        x[0] = 2 * np.sqrt(largest)
    loss, gradient = mdn_loss_and_gradient(raw, x, sample_weight=weight, reduction=reduction)
    rows, expected = loss_rows(raw, x, sample_weight=[0.0, 2.0, 1.0] if weighted else [0.0, 1.0, 1.0])
    assert (loss[0] if reduction == "none" else loss) == INF
    np.testing.assert_array_equal(gradient, expected)
    if reduction == "none":
        np.testing.assert_array_equal(loss[1:], rows[1:])


@pytest.mark.parametrize("weight", [1e200, 1e308, 1.7e308])
def test_a_weight_of_any_size_multiplies_the_gradient_of_its_row(weight):
    # components without a share, nearly singular and narrow: 0 stays 0
    raw = np.array([[0.5, 0, 0, 0, 50, 0, 0, 0, 0, -3, 0, 20, 20]])
    x, pen = np.zeros((1, 2)), np.array([0.0])
    loss, gradient = loss_rows(raw, x, pen)
    for reduction in ("none", "sum"):
        heavy, scaled = mdn_loss_and_gradient(raw, x, pen, sample_weight=[weight], reduction=reduction)
        with np.errstate(over="ignore"):
            np.testing.assert_allclose(heavy, np.multiply(weight, loss[0]), rtol=4 * EPS[np.float64], atol=0)
            np.testing.assert_allclose(scaled, weight * gradient, rtol=4 * EPS[np.float64], atol=0)


def test_weighted_losses_beyond_float64_of_both_signs_have_a_sum():
    raw, x = np.zeros((3, 6)), np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    raw[1, 3] = -1000.0  # log sigma; at the mean
    x[1] = 0.0
    rows = mdn_loss(raw, x, reduction="none")
    weight = np.array([1.7e308, 1.7e308 * (-rows[0] / rows[1]), 0.0])
    weight[:2] *= 0.9
    for keep, expected in ((slice(2), 0.0), (slice(1, 3), -INF), (slice(0, 1), INF)):
        loss = mdn_loss(raw[keep], x[keep], sample_weight=weight[keep], reduction="sum")
        np.testing.assert_allclose(loss, expected, rtol=0, atol=1e296)


@each_dtype
@each_pen
@pytest.mark.parametrize("held", [NAN, INF, -INF, 1e30])
@each_reduction
def test_row_of_weight_0_adds_exactly_0_whatever_it_holds(reduction, held, pen, dtype):
    raw, x, targets = loss_problem((6,), 3, pen, dtype)
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


@each_dtype
@pytest.mark.parametrize(
    ("n", "pen"), [(1, "none"), (7, "bernoulli"), (100, "categorical"), (5000, "bernoulli"), (10000, "none")]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_and_gradients_are_those_of_the_rows_weighted_and_reduced(weighted, n, pen, dtype):
    arguments = raw, x, targets = loss_problem((n,), 2, pen, dtype)
    weight = np.random.default_rng(1).exponential(size=n) if weighted else None
    w = np.ones(n) if weight is None else weight
    loss, gradient = loss_rows(*arguments)
    np.testing.assert_allclose(loss_rows(*arguments, sample_weight=weight)[0], w * loss, rtol=2 * EPS[dtype], atol=0)
    rows = mdn_loss(*(a.astype(np.float64) for a in (raw, x)), targets, reduction="none").astype(np.float64)
    total = float(mpmath.fsum(map(mpmath.mpf, w * rows)))
    for reduction, divisor in (("none", 1), ("sum", 1), ("mean", w.sum())):
        loss, got = mdn_loss_and_gradient(*arguments, sample_weight=weight, reduction=reduction)
        if n <= 100:
            # a few roundings of the factors, or those of float32; softmax less responsibility cancels
            np.testing.assert_allclose(got, w[:, None] * gradient / divisor, rtol=8 * EPS[dtype], atol=1e-15)
        assert loss.dtype == dtype
        if reduction != "none":
            # one rounding of each product, and a few of the sum, which is carried with what it loses
            atol = 4 * EPS[np.float64] * abs(w * rows).sum() / n
            np.testing.assert_allclose(loss, total / divisor, rtol=EPS[dtype], atol=atol)
            assert_same_bits(mdn_loss(*arguments, sample_weight=weight, reduction=reduction), loss)


@pytest.mark.parametrize("scale", [5e-324, 2.0**-1022, 2.0**-450, 2.0**450, 2.0**600, 2.0**1023])
def test_mean_depends_on_the_proportions_of_weights_alone(scale):
    raw, x, targets = loss_problem((4,), 3)
    x[2] = 1e140  # a loss of some 1e280, which times the largest weight is out of range
    weight = np.array([1.0, 0.0, 1.0, 1.0])
    expected = mdn_loss_and_gradient(raw, x, targets, sample_weight=weight)
    assert_same_bits(mdn_loss_and_gradient(raw, x, targets, sample_weight=scale * weight), expected)
    assert mdn_loss(raw, x, targets, sample_weight=scale * weight) == expected[0]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int8, np.uint64, np.bool_])
@pytest.mark.parametrize("seed", range(10))  # sums in another order often have the same bits
def test_layout_and_dtype_of_the_weights_do_not_matter_to_a_bit_of_the_mean(seed, dtype):
    arguments = loss_problem((3, 200))
    weight = (100 * np.random.default_rng(seed).random((3, 200))).astype(dtype)
    expected = mdn_loss_and_gradient(*arguments, sample_weight=weight.astype(np.float64))
    for order in ("F", "C"):
        for laid_out in (np.array(weight, order=order), np.array(weight[::-1, ::-1], order=order)[::-1, ::-1]):
            assert_same_bits(mdn_loss_and_gradient(*arguments, sample_weight=laid_out), expected)


@each_dtype
@each_reduction
@pytest.mark.parametrize("pen", ["bernoulli", "categorical"])
def test_pens_may_have_weights_of_their_own(pen, reduction, dtype):
    raw, x, targets = loss_problem((40,), 3, pen, dtype)
    pens, rng = PENS[pen], np.random.default_rng(3)
    w, v = rng.uniform(0, 2, 40), rng.uniform(0, 2, 40)
    w[:10] = v[5:15] = 0
    wide = raw.astype(np.float64), x.astype(np.float64)
    both, of_both = mdn_loss_and_gradient(*wide, targets, reduction="none")
    points, of_points = mdn_loss_and_gradient(wide[0][:, pens:], wide[1], reduction="none")
    raw[:5, pens:], raw[10:15, 0] = NAN, NAN  # of what is skipped
    raw[5:10, 0], raw[:5, 0] = wide[0][5:10, 0], wide[0][:5, 0]
    x[:10] = INF
    losses, gradients = np.zeros(40), np.zeros_like(of_both)
    losses[w > 0] += (w * points)[w > 0]
    losses[v > 0] += (v * (both - points))[v > 0]
    gradients[:, pens:], gradients[:, :pens] = w[:, None] * of_points, v[:, None] * of_both[:, :pens]
    total = w.sum() if reduction == "mean" else 1.0
    expected = losses if reduction == "none" else losses.sum() / total
    # pens' losses are differences here, of up to 1e3
    close = {"rtol": 2 * EPS[dtype], "atol": 1e-12}
    for keywords in ({"workers": 1}, {"workers": 2}):
        keywords |= {"sample_weight": w, "pen_weight": v, "reduction": reduction}
        loss, gradient = mdn_loss_and_gradient(raw, x, targets, **keywords)
        np.testing.assert_allclose(loss, expected, **close)
        np.testing.assert_allclose(gradient, gradients / total, **close)
        assert_same_bits(mdn_loss(raw, x, targets, **keywords), loss)
    # a number for all; the same weights
    weights = {"sample_weight": v, "reduction": reduction}
    np.testing.assert_allclose(
        mdn_loss(*wide, targets, pen_weight=v, **weights), mdn_loss(*wide, targets, **weights), rtol=1e-13, atol=1e-13
    )
    assert_same_bits(
        mdn_loss(*wide, targets, pen_weight=2, **weights),
        mdn_loss(*wide, targets, pen_weight=np.full(40, 2), **weights),
    )


def test_what_pens_weigh_is_no_part_of_what_the_mean_divides_by():
    raw, x, pen = np.zeros((3, 7)), np.zeros((3, 2)), np.ones(3)
    point, of_pen = np.log(2 * np.pi), np.log(2)
    np.testing.assert_allclose(mdn_loss(raw, x, pen, pen_weight=5), point + 5 * of_pen, rtol=1e-15)
    np.testing.assert_allclose(mdn_loss(raw, x, pen, sample_weight=[2, 0, 0], pen_weight=5), point + 7.5 * of_pen)
    with pytest.raises(ValueError, match=r'"mean" over rows of total weight 0'):
        mdn_loss(raw, x, pen, sample_weight=[0, 0, 0], pen_weight=1)
    with pytest.raises(ValueError, match=r"^pen_weight: expected None where there is no pen"):
        mdn_loss(raw[:, 1:], x, pen_weight=1)


@each_dtype
def test_an_infinite_term_of_a_pen_of_its_own_weight_is_an_infinite_loss_and_nan_stays_nan(dtype):
    raw, x, largest = np.zeros((3, 7), dtype), np.zeros((3, 2), dtype), np.finfo(dtype).max
    raw[:, 0] = -largest  # the loss of the pen, of which two are beyond the dtype
    raw[0, 4:6] = -largest  # log stddevs: the loss of the point is -inf
    raw[2, 4] = NAN
    loss, gradient = loss_rows(raw, x, np.ones(3), pen_weight=2.0)
    np.testing.assert_array_equal(loss, [INF, INF, NAN])
    np.testing.assert_array_equal(gradient[:2], 0)


@each_reduction
def test_the_number_of_components_may_be_stated(reduction):
    arguments = loss_problem((6,), 3, "categorical")
    stated, plain = ({"reduction": reduction, **more} for more in ({"n_components": 3}, {}))
    assert_same_bits(mdn_loss_and_gradient(*arguments, **stated), mdn_loss_and_gradient(*arguments, **plain))


@each_dtype
def test_a_pen_that_is_rounded_beyond_a_bound_counts_as_the_bound(dtype):
    raw, x = np.full((4, 7), 0.5, dtype), np.zeros((4, 2), dtype)
    got = mdn_loss_and_gradient(raw, x, [1 + 1e-6, -1e-6, 1 + 2e-6, -2e-6], reduction="none")
    assert_same_bits([a[:2] for a in got], mdn_loss_and_gradient(raw[:2], x[:2], [1, 0], reduction="none"))
    assert np.isnan(got[0][2:]).all()
    raw, states = np.full((2, 9), 0.5, dtype), np.array([[1 + 1e-7, -1e-7, 0.0], [1 + 1e-4, -1e-4, 0.0]])
    got = mdn_loss(raw, x[:2], states, reduction="none")
    assert_same_bits(got[0], mdn_loss(raw[:1], x[:1], [[1, 0, 0]], reduction="none")[0])
    assert np.isnan(got[1])


@pytest.mark.parametrize("weight", [None, np.zeros(0)])
def test_sum_of_no_rows_and_of_rows_without_weight_is_0_and_none_of_them_empty(weight):
    loss, gradient = mdn_loss_and_gradient(np.zeros((0, 6)), np.zeros((0, 2)), sample_weight=weight, reduction="sum")
    assert loss == 0
    assert gradient.shape == (0, 6)
    arguments = loss_problem((3,), 1, "none")
    loss, gradient = mdn_loss_and_gradient(*arguments, sample_weight=np.zeros(3), reduction="sum")
    assert loss == 0
    np.testing.assert_array_equal(gradient, 0)
    loss, gradient = loss_rows(np.zeros((3, 0, 12)), np.zeros((3, 0, 2)))
    assert loss.shape == (3, 0)
    assert gradient.shape == (3, 0, 12)


# Single calls, shapes, broadcasting


@each_level
@each_dtype
@pytest.mark.parametrize("m", [1, 2, 3, 20, 100, 257])
def test_single_calls_equal_batched_calls_bit_for_bit_with_and_without_gradient(m, dtype, level):
    function, value_only, make = LEVELS[level]
    arguments = make((9,), m, dtype)
    batched = function(*arguments)
    assert_same_bits(value_only(*arguments), batched[0])
    for i in range(9):
        single = [None if a is None else a[i] for a in arguments]
        assert_same_bits(function(*single), rows_of(batched, i))
        assert_same_bits(value_only(*single), batched[0][i])


BATCHES = [(), (1,), (4,), (1, 1), (5, 1), (1, 4), (5, 4), (3, 5, 4), (3, 1, 4), (3, 1, 1), (3, 5, 1)]
POINTS_AND_PARAMETERS = [
    *itertools.product(BATCHES, BATCHES, [1, 3]),
    *itertools.product([(2, 2), (2, 1)], [(2, 1), (2, 2)], [1, 3]),
    *itertools.product([(2, 0)], [(1,)], [1, 3]),
    *itertools.product([(0,)], [(3, 1)], [1, 3]),
    *itertools.product([(7,)], [(0, 1)], [1, 3]),
    *itertools.product([(40, 30)], [()], [1, 20, 300]),  # a grid against one mixture
    *itertools.product([()], [(600,)], [1, 20, 300]),  # one point against many
]


def assert_broadcast(shapes, m):
    """Arguments of these batch shapes, each with its own numbers, give the bits of the full call."""
    rng, batch = np.random.default_rng(3), np.broadcast_shapes(*shapes)
    problem = mixture_problem((50,), m)
    arguments = [a[rng.integers(0, len(a), size=shape)] for a, shape in zip(problem, shapes, strict=True)]
    whole = [
        np.broadcast_to(a, batch + a.shape[len(shape) :]).copy() for a, shape in zip(arguments, shapes, strict=True)
    ]
    for function in (mixture_logpdf_and_gradient, cymdn.mixture_logpdf):
        assert_same_bits(function(*arguments), function(*whole))
    del arguments[1], whole[1]
    if np.broadcast_shapes(*(shapes[k] for k in (0, 2, 3, 4))) == batch:
        assert_same_bits(gaussian_logpdf_and_gradient(*arguments), gaussian_logpdf_and_gradient(*whole))


@pytest.mark.parametrize(("points", "parameters", "m"), POINTS_AND_PARAMETERS)
def test_broadcast_points_and_parameters_give_the_bits_of_the_full_call(points, parameters, m):
    assert_broadcast([points, *[parameters] * 4], m)


@pytest.mark.parametrize("slot", range(5))
@pytest.mark.parametrize("shape", [(), (1,), (4,), (5, 1), (1, 4), (5, 4), (2, 1, 1)])
@pytest.mark.parametrize("others", [(), (4,), (5, 1)])
def test_each_argument_broadcasts_by_itself(slot, shape, others):
    assert_broadcast([shape if k == slot else others for k in range(5)], 3)


# Scalars


@each_dtype
@each_reduction
def test_results_without_batch_axes_are_numpy_scalars(reduction, dtype):
    arguments = loss_problem((), 3, "bernoulli", dtype)
    loss, gradient = mdn_loss_and_gradient(*arguments, reduction=reduction)
    assert type(mdn_loss(*arguments, reduction=reduction)) is type(loss) is dtype
    assert (gradient.shape, gradient.dtype) == ((19,), dtype)
    if reduction != "none":
        arguments = loss_problem((5,), 1, "none", dtype)
        assert type(mdn_loss(*arguments, reduction=reduction)) is dtype
        assert type(mdn_loss_and_gradient(*arguments, reduction=reduction)[0]) is dtype
    arguments = mixture_problem((), 3, dtype)
    value, gradient = mixture_logpdf_and_gradient(*arguments)
    assert type(cymdn.mixture_logpdf(*arguments)) is type(value) is dtype
    assert [a.shape for a in gradient] == [(3,), (3, 2), (3, 2), (3,), (2,)]
    assert {a.dtype for a in gradient} == {np.dtype(dtype)}


# Kernels decline what does not fit, a last line of defence behind the checks; plain arrays go to the kernels at once:
# Python's checks would take most of the time of a small call


DIRECT_CALLS = {
    "mdn_loss": mdn_loss,
    "mdn_loss_and_gradient": mdn_loss_and_gradient,
    "two workers, who have not enough to do": partial(mdn_loss_and_gradient, workers=2),
}


def loss_arguments(pen, dtype_of_pen, dtype):
    raw, x, targets = loss_problem((6,), 3, pen, dtype)
    return raw, x, None if targets is None else targets.astype(dtype_of_pen)


def drop_in_arguments(dtype=np.float64):
    x, mean, stddev, correlation = component_problem((6,), 3, dtype)
    return x[:, None], mean, stddev, correlation[..., None]


def raw_to_draw_from(dtype):
    return (network_output(3, (4,), 1, dtype),)


LEFT_TO_KERNELS = {
    **{
        f"{name}, pen {pen} of {of.__name__}": (call, partial(loss_arguments, pen, of))
        for name, call in DIRECT_CALLS.items()
        for pen, of in itertools.product(PENS, (np.float64, np.float32, np.int64, np.bool_))
    },
    **{
        f"densities, derivatives {also}, smooth_eps {eps}": (
            partial(cymdn.gaussian_density_batch, compute_derivatives=also, smooth_eps=eps),
            drop_in_arguments,
        )
        for also, eps in itertools.product((False, True), (0.0, 1e-10, 1e300))
    },
    "draws": (partial(cymdn.mdn_sample, pen=1, rng=0), raw_to_draw_from),
}


@each_dtype
@pytest.mark.parametrize(("call", "make"), LEFT_TO_KERNELS.values(), ids=LEFT_TO_KERNELS)
def test_plain_arrays_are_left_to_the_checks_of_the_kernel(call, make, dtype, monkeypatch):
    first, *others = make(dtype)
    expected = call(np.asfortranarray(first), *others)  # not plain
    builds.forbid_checks(monkeypatch)
    assert_same_bits(call(first, *others), expected)


def test_what_no_kernel_computed_is_not_returned(monkeypatch):
    builds.decline(monkeypatch)
    calls = [partial(call, *loss_problem()) for call in DIRECT_CALLS.values()]
    for call in [*calls, partial(cymdn.gaussian_density_batch, *drop_in_arguments())]:
        with pytest.raises(AssertionError, match=r"^arrays that were checked do not fit each other$"):
            call()


@pytest.mark.parametrize("kernel", builds.misfits())
def test_kernels_decline_outputs_of_another_size(kernel):
    assert builds.misfits()[kernel]() is False


# out=


CALLS = {
    "mdn_loss": (mdn_loss, loss_problem, {"reduction": "none"}),
    "mdn_loss, mean": (mdn_loss, loss_problem, {}),
    "mdn_loss_and_gradient": (mdn_loss_and_gradient, loss_problem, {"reduction": "none"}),
    "mdn_loss_and_gradient, mean": (mdn_loss_and_gradient, loss_problem, {}),
    "mixture_logpdf": (cymdn.mixture_logpdf, mixture_problem, {}),
    "mixture_logpdf_and_gradient": (mixture_logpdf_and_gradient, mixture_problem, {}),
    "gaussian_logpdf": (cymdn.gaussian_logpdf, component_problem, {}),
    "gaussian_logpdf_and_gradient": (gaussian_logpdf_and_gradient, component_problem, {}),
}
SEVERAL = [name for name in CALLS if "_and_gradient" in name]
each_call = pytest.mark.parametrize("name", CALLS)
each_call_with_several_outputs = pytest.mark.parametrize("name", SEVERAL)

# To write to, all with what is not to stay; those that arrays without axes have too
OUT_LAYOUTS = ("contiguous", "strided", "reversed_everywhere", "fortran_ordered", "byte_swapped", "misaligned")
OUT_LAYOUTS += ("offset_by_one_element", "field_of_records")


def called(name, dtype=np.float64):
    """A call of CALLS to be given `out`, what it returns without, and its arguments."""
    function, make, keywords = CALLS[name]
    arguments = make(dtype=dtype)

    def call(out):
        return function(*arguments, **keywords, out=out)

    return call, function(*arguments, **keywords), arguments


def outputs_like(result, layout="contiguous"):
    return [LAYOUTS[layout](np.full(np.shape(a), 99, a.dtype)) for a in flat(result)]


def nested(result, arrays):
    """Arrange arrays as `result` is: a value and an array, or a value and a tuple."""
    if not isinstance(result, tuple):
        return arrays[0]
    _, gradient = result
    return arrays[0], tuple(arrays[1:]) if isinstance(gradient, tuple) else arrays[1]


def assert_filled(arrays, returned, expected):
    """The arrays given were returned, and hold what is expected; where None was given, so does an array of ours."""
    for array, ours, theirs in zip(arrays, flat(returned), flat(expected), strict=True):
        assert array is None or ours is array
        np.testing.assert_array_equal(ours, theirs)


@each_dtype
@pytest.mark.parametrize("layout", OUT_LAYOUTS)
@each_call
def test_out_is_filled_with_the_same_bits_and_returned(name, layout, dtype):
    call, expected, _ = called(name, dtype)
    arrays = outputs_like(expected, layout)
    assert_filled(arrays, call(nested(expected, arrays)), expected)


@each_dtype
@each_call_with_several_outputs
def test_out_may_be_flat_or_an_earlier_result_or_none_in_parts(name, dtype):
    call, expected, _ = called(name, dtype)
    arrays = outputs_like(expected)
    returned = call(tuple(arrays))
    assert type(returned[1]) is type(expected[1])
    assert_filled(arrays, returned, expected)
    assert_filled(arrays, call(returned), expected)
    for k in range(len(arrays)):
        some = [None if i == k else array for i, array in enumerate(outputs_like(expected))]
        assert_filled(some, call(tuple(some)), expected)


@each_call_with_several_outputs
def test_of_outputs_that_overlap_each_other_the_last_is_whole(name):
    call, expected, _ = called(name)
    shapes = [np.shape(array) for array in flat(expected)]
    memory = np.empty(len(shapes) + max(int(np.prod(shape)) for shape in shapes))
    outputs = [memory[k : k + int(np.prod(shape))].reshape(shape) for k, shape in enumerate(shapes)]
    call(tuple(outputs))
    assert_same_bits(outputs[-1], flat(expected)[-1])


@each_call
@pytest.mark.parametrize("rows", [6, 300])  # of one block, which kernels read before they write, and of several
def test_out_that_overlaps_each_argument_gives_the_same_bits(rows, name):
    function, make, keywords = CALLS[name]
    arguments = make((rows,))
    expected = function(*arguments, **keywords)
    for k, step in itertools.product(range(len(arguments)), (0, 1)):
        # argument and output share memory, shifted against each other
        for position, theirs in enumerate(flat(expected)):
            memory = np.zeros(arguments[k].size + theirs.size + 2)
            held = memory[: arguments[k].size].reshape(arguments[k].shape)
            held[...] = arguments[k]
            given = outputs_like(expected)
            given[position] = memory[step : step + theirs.size].reshape(theirs.shape)
            with_held = [held if i == k else a for i, a in enumerate(arguments)]
            returned = function(*with_held, **keywords, out=nested(expected, given))
            assert_filled(given, returned, expected)


# How an output is spoilt, and what the message says of it
SPOILT = {
    "dtype": (lambda a: a.astype(np.float32), r"expected dtype float64, got float32"),
    "shape": (lambda a: np.zeros((*a.shape, 1)), r"expected shape \(.*\), got \(.*1,?\)"),
    "read-only": (lambda a: np.broadcast_to(a, a.shape), r"expected a writeable array, got a read-only one"),
    "a subclass that lies": (lambda a: lie(np.zeros(a.size + 9), a), r"expected shape \(.*\), got \(\d+,\)"),
    "masked": (np.ma.masked_array, r"expected an array, got MaskedArray"),
    "list": (lambda a: a.tolist() if a.ndim else [0.0], r"expected an array, got list"),
    "scalar": (lambda a: 1.0, r"expected an array, got float"),
}


def names_of_outputs(name):
    """What messages call the arrays that a call of CALLS returns."""
    if name.startswith("mdn"):
        return ["loss", "gradient"]
    return ["value", *called(name.removesuffix("_and_gradient") + "_and_gradient")[1][1]._fields]


@each_call
def test_what_a_subclass_says_of_itself_does_not_matter(name):
    function, make, keywords = CALLS[name]
    arguments, expected = make(), function(*make(), **keywords)
    false = np.zeros((2, 5), np.float32)
    outputs = [lie(array, false) for array in outputs_like(expected)]
    returned = function(*(lie(a, false) for a in arguments), **keywords, out=nested(expected, outputs))
    for array, ours, theirs in zip(outputs, flat(returned), flat(expected), strict=True):
        assert ours is array
        np.testing.assert_array_equal(np.asarray(array), theirs)


@each_call
@pytest.mark.parametrize("spoilt", SPOILT)
def test_each_wrong_out_is_refused_by_name(spoilt, name):
    call, expected, _ = called(name)
    change, pattern = SPOILT[spoilt]
    for k, output in enumerate(names_of_outputs(name)[: len(flat(expected))]):
        given = outputs_like(expected)
        given[k] = change(given[k])
        with pytest.raises((TypeError, ValueError), match=rf"^out \({output}\): {pattern}$"):
            call(nested(expected, given))


@each_call_with_several_outputs
@pytest.mark.parametrize("change", [-1, 1])
def test_wrong_number_of_outs_is_refused_by_name(change, name):
    call, expected, _ = called(name)
    names = names_of_outputs(name)
    given = [*outputs_like(expected), np.zeros(3)][: len(names) + change]
    message = re.escape(f"out: expected {len(names)} arrays ({', '.join(names)}), got {len(given)}")
    with pytest.raises(ValueError, match=f"^{message}$"):
        call(tuple(given))
    with pytest.raises((TypeError, ValueError), match=r"^out"):
        call(given[0])
