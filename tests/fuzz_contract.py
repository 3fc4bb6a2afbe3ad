"""What the contract says of results, and how a fuzzer holds them to it: NaN, inf and the promised accuracy.

Everything here works on rows: points with their mixtures, or single components at points. A row is one of

    nan     holds a NaN where it counts, or is outside the domain: value and gradient must be NaN
    finite  holds nothing but finite numbers of the domain: nothing may be NaN
    known   is finite, and inside the domain of the promised accuracy: the numbers are those of reference.py

and of others, which hold an infinity or weights that are all 0, nothing is said here.
"""

from typing import NamedTuple

import numpy as np
import reference
from checks import INF
from reference import LONG, PROMISED, Number, raw_parts, scaled

from cymdn import BivariateMixture

EPS = 2.0**-52
SMALLEST_STDDEV = 2.0**-1022  # the domain begins above it
BOUND = PROMISED / EPS
MORE_IF_WEIGHTED = 2  # a weight, or that over the sum of the weights, is rounded, and so is its product
FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
MAX = {dtype: float(np.finfo(dtype).max) for dtype in (FLOAT32, FLOAT64)}
# Between these, rounding decides what becomes inf; and whether Q does in float64, which is summed before it is halved
NEAR = {FLOAT32: MAX[FLOAT32] * (1 - 1e-6), FLOAT64: MAX[FLOAT64] * 0.45}
BEYOND = {dtype: np.longdouble(largest) * (1 + 1e-6) for dtype, largest in MAX.items()}


class Rows(NamedTuple):
    """What is expected of rows."""

    value: Number  # (rows,)
    gradient: Number  # (rows, k)
    nan: np.ndarray
    finite: np.ndarray
    known: np.ndarray


def flat_rows(value, gradient, *classes):
    """Flatten the batch; the derivatives of a row stay side by side."""
    count = classes[0].size
    return Rows(
        Number(*map(np.ravel, value)), Number(*(a.reshape(count, -1) for a in gradient)), *map(np.ravel, classes)
    )


# Inside the domain of the promised accuracy


def moderate(*coordinates):
    """Whether squares of coordinates and of their differences neither overflow nor underflow."""
    return np.all([(abs(c) <= 1e150) & ((abs(c) >= 1e-130) | (c == 0)) for c in coordinates], axis=0)


def promised_stddev(stddev):
    return (stddev >= np.exp(-40)) & (stddev <= np.exp(40))


def promised_raw(raw, pens):
    _, mean, log_stddev, a = raw_parts(raw, pens)
    known = (abs(raw) <= 1e300).all(axis=-1) & (abs(a) <= 18).all(axis=-1)
    return known & ((abs(log_stddev) <= 40) & moderate(mean)).all(axis=(-1, -2))


# What is expected


def expect_components(x, mean, stddev, correlation):
    """Rows are components at points."""
    value, gradient = reference.gaussian(LONG, x, mean, stddev, correlation)
    x = np.broadcast_to(x[..., None, :], mean.shape)
    outside = ~(stddev > SMALLEST_STDDEV).all(axis=-1) | ~(abs(correlation) < 1)
    nan = outside | (np.isnan(x) | np.isnan(mean)).any(axis=-1)
    finite = ~nan & (np.isfinite(x) & np.isfinite(mean) & np.isfinite(stddev)).all(axis=-1)
    known = finite & (moderate(x, mean) & promised_stddev(stddev)).all(axis=-1)
    return flat_rows(value, gradient, nan, finite, known)


def expect_mixtures(x, weights, mean, stddev, correlation):
    """Rows, and the mixtures themselves."""
    excluded = weights == 0
    mean, stddev = np.where(excluded[..., None], 0.0, mean), np.where(excluded[..., None], 1.0, stddev)
    correlation = np.where(excluded, 0.0, correlation)
    outside = ~(weights >= 0) | ~(stddev > SMALLEST_STDDEV).all(axis=-1) | ~(abs(correlation) < 1)
    nan = outside.any(axis=-1) | (np.isnan(x) | np.isnan(mean).any(axis=-2)).any(axis=-1)
    finite = ~nan & np.isfinite(x).all(axis=-1) & np.isfinite(weights).all(axis=-1)
    finite &= (np.isfinite(mean) & np.isfinite(stddev)).all(axis=(-1, -2))
    known = finite & moderate(x).all(axis=-1) & (moderate(mean) & promised_stddev(stddev)).all(axis=(-1, -2))
    known &= (weights <= 1e200).all(axis=-1) & ~excluded.all(axis=-1)
    arguments = x, weights, mean, stddev, correlation
    mixed = reference.natural_mixture(LONG, *arguments)
    return flat_rows(*reference.mixture(LONG, *arguments, mixed), nan, finite, known), mixed


def expect_network_mixtures(x, raw, pens):
    """The same from raw network output, without a gradient: the shares stand in its place."""
    mixed, parameters = reference.raw_mixture(LONG, x, raw, pens), raw[..., pens:]
    nan = np.isnan(parameters).any(axis=-1) | np.isnan(x).any(axis=-1)
    finite = np.isfinite(parameters).all(axis=-1) & np.isfinite(x).all(axis=-1)
    known = finite & promised_raw(raw, pens) & moderate(x).all(axis=-1)
    return flat_rows(mixed.value, mixed.shares, nan, finite, known), mixed


def expect_losses(raw, x, pen):
    """pen (rows, P) or None."""
    pens = 0 if pen is None else pen.shape[1]
    rows, mixed = expect_network_mixtures(x, raw, pens)
    nan, finite, known = rows.nan | np.isnan(raw).any(axis=1), rows.finite & np.isfinite(raw).all(axis=1), rows.known
    if pens:
        outside = ~((pen >= 0) & (pen <= 1)).all(axis=1)
        nan, finite, known = nan | outside, finite & ~outside, known & finite & ~outside
    return flat_rows(*reference.loss(LONG, raw, x, pen, mixed), nan, finite, known)


# Holding results to it


def assert_near(what, got, number, dtype, known, bound=BOUND):
    """Check the promised accuracy: 8 eps of the terms; in float32, one place more."""
    if not reference.EXTENDED:
        return
    size = abs(number.exact)
    # in float64: what products on the way that are denormal lose, times 1 / sigma of at most exp(40), twice
    place = np.spacing(np.minimum(size, MAX[dtype]).astype(dtype)) if dtype == FLOAT32 else 1e-288
    error = abs(np.longdouble(got) - number.exact)
    wrong = known & (size <= NEAR[dtype]) & ~(error <= bound * EPS * number.terms + place)
    if wrong.any():
        i = tuple(int(axis[0]) for axis in np.nonzero(np.atleast_1d(wrong)))
        came, due, off, terms = (
            np.broadcast_to(np.atleast_1d(a), np.atleast_1d(wrong).shape)[i]
            for a in (got, *number[:1], error, number.terms)
        )
        raise AssertionError(f"{what} at {i}: {came!r}, not {due!r}: {off / (EPS * terms):.3g} eps of the terms")


def assert_nan_where_due(what, rows, array, counts):
    assert not array[~counts].any(), f"{what}: not 0 in a row of weight 0"
    assert np.isnan(array[rows.nan & counts]).all(), f"{what}: not NaN in a row that has to be"
    assert not np.isnan(array[rows.finite & counts]).any(), f"{what}: NaN for finite arguments"


def assert_values(rows, dtype, value, weight):
    """Check values of rows, (rows,), which are multiplied by their weights; a row of weight 0 is skipped."""
    counts = weight != 0
    assert_nan_where_due("value", rows, value, counts)
    known, size = rows.known & counts, abs(rows.value.exact)
    beyond, near = known & (size > BEYOND[dtype]), known & (size < NEAR[dtype])
    sign = np.sign(rows.value.exact[beyond]).astype(float)
    assert (value[beyond] == sign * INF).all(), "value: not inf in a row beyond the dtype"
    bound = BOUND + MORE_IF_WEIGHTED * (weight != 1).any()
    assert_near("value", value, scaled(rows.value, weight), dtype, near, bound)


def assert_gradients(rows, dtype, gradient, weight):
    """Check gradients of rows, (rows, k), in the same way."""
    counts = weight != 0
    assert_nan_where_due("gradient", rows, gradient, counts)
    known, size = rows.known & counts, abs(rows.value.exact)
    assert not gradient[known & (size > BEYOND[dtype])].any(), "gradient: not 0 in a row beyond the dtype"
    near, bound = known & (size < NEAR[dtype]), BOUND + MORE_IF_WEIGHTED * (weight != 1).any()
    due = scaled(rows.gradient, weight[:, None])
    # a weight of 1e300 takes derivatives of far points out of float64; then others of the row may have been on the way
    near &= (due.terms < NEAR[FLOAT64]).all(axis=1)
    assert_near("gradient", gradient, due, dtype, near[:, None], bound)


def assert_total(rows, dtype, loss, weight, divisor):
    """Check a sum of weighted rows over a divisor."""
    counts, value = weight != 0, scaled(rows.value, weight / divisor)
    size = abs(rows.value.exact[counts])
    signs = set(np.sign(rows.value.exact[counts][size > NEAR[dtype]]))
    if rows.nan[counts].any():
        assert np.isnan(loss), "total: not NaN where a row is"
    elif rows.finite[counts].all() and len(signs) < 2:  # inf - inf is no number
        assert not np.isnan(loss), "total: NaN for finite arguments"
    if not rows.known[counts].all():
        return
    if (size < NEAR[dtype]).all():
        exact_sum = value.exact[counts].sum()
        total = Number(exact_sum, value.terms[counts].sum() + abs(exact_sum))
        assert_near("total", loss, total, dtype, np.True_, BOUND + MORE_IF_WEIGHTED)
    elif (size > BEYOND[dtype]).any() and len(signs) < 2:
        assert np.isinf(loss), "total: not inf where a row is"


def assert_outputs(rows, dtype, outputs):
    """Check values and, if there are more arrays, gradients, of rows without weights."""
    value = outputs[0].reshape(-1)
    weight = np.ones(value.size)
    assert_values(rows, dtype, value, weight)
    if outputs[1:]:
        assert_gradients(rows, dtype, np.concatenate([a.reshape(value.size, -1) for a in outputs[1:]], axis=1), weight)


# Each function: arguments as doubles, of the whole batch each, and results


def judge_density(arrays, outputs, dtype, smooth_eps):
    """The drop-in level promises accuracy, but NaN and inf only as far as its formulas have them."""
    x, mean, stddev, r = (arrays[name] for name in ("x", "mean", "stddev", "correlation"))
    x, r = np.broadcast_to(x, mean.shape), r[..., 0]
    nan = (~(stddev >= 0) | np.isnan(x) | np.isnan(mean)).any(axis=-1) | np.isnan(r)
    known = ~nan & (moderate(x, mean) & promised_stddev(stddev)).all(axis=-1) & (abs(r) <= 1)
    if smooth_eps < 1e-30:
        known &= abs(r) < 1
    pairs = [np.moveaxis(pair, -1, 0) for pair in outputs[1:3]]
    got = [outputs[0][..., 0], *(part for pair in pairs for part in pair), *(out[..., 0] for out in outputs[3:])]
    numbers = reference.density(LONG, x, mean, stddev, r, smooth_eps)
    for k, (name, result) in enumerate(zip(reference.OUTPUTS, got, strict=False)):
        number = Number(*(part[..., k] for part in numbers))
        assert np.isnan(result[nan]).all() or name != "density", "density: not NaN in a component that has to be"
        # a density whose exponential is denormal has lost digits
        assert_near(name, result, number, dtype, known & (number.exact > 1e-250) if name == "density" else known)


def judge_gaussian(arrays, outputs, dtype):
    assert_outputs(expect_components(*in_order(arrays, "x mean stddev correlation")), dtype, outputs)


def judge_mixture(arrays, outputs, dtype):
    rows, _ = expect_mixtures(*in_order(arrays, "x weights mean stddev correlation"))
    assert_outputs(rows, dtype, outputs)


def in_order(arrays, names):
    return [arrays[name] for name in names.split()]


def judge_loss(arrays, outputs, dtype, reduction, pens):
    count, width = arrays["x"].size // 2, arrays["raw"].shape[-1]
    raw, x = arrays["raw"].reshape(count, width), arrays["x"].reshape(count, 2)
    pen = arrays["pen"].reshape(count, pens) if pens else None
    weight = arrays["sample_weight"].reshape(count) if "sample_weight" in arrays else np.ones(count)
    sure, divisor = np.ones(count, bool), 1.0
    if reduction == "mean":  # the proportions of weights are what matters; one that is denormal may come out as 0
        sure, weight = weight == 0, weight / weight.max()
        sure |= weight > 1e-290
        divisor = weight.sum()
    rows = expect_losses(raw[sure], x[sure], None if pen is None else pen[sure])
    weight = weight[sure]
    if reduction == "none":
        assert_values(rows, dtype, outputs[0].reshape(count), weight)
    elif sure.all():
        assert_total(rows, dtype, outputs[0], weight, divisor)
    if outputs[1:]:
        assert_gradients(rows, dtype, outputs[1].reshape(count, width)[sure], weight / divisor)


def judge_sample(arrays, outputs, dtype, pens, sharpened):
    (x, *pen, component), raw = outputs, arrays["raw"]
    raw = np.broadcast_to(raw, (*component.shape, raw.shape[-1]))
    logits, mean, log_stddev, _ = raw_parts(raw, pens)
    finite = np.isfinite(raw).all(axis=-1)
    assert component.dtype == np.int64
    assert ((component >= -1) & (component < logits.shape[-1])).all()
    assert (component[finite] >= 0).all(), "no component of a finite row"
    assert not np.isnan(x[finite]).any(), "NaN drawn from a finite row"
    assert (component[np.isnan(logits).any(axis=-1)] == -1).all()
    assert np.isnan(x[component == -1]).all()
    for drawn in pen:
        assert np.isin(drawn[finite], (0, 1)).all()
        assert pens == 1 or (drawn[finite].sum(axis=-1) == 1).all(), "a pen state is not one-hot"
    if sharpened:
        return
    drawn = np.maximum(component, 0)[..., None]
    less_top = np.take_along_axis(logits, drawn, axis=-1)[..., 0] - logits.max(axis=-1)
    assert (less_top[finite] > -60).all(), "drawn from a component of weight exp(-60)"
    mean, log_stddev = (np.take_along_axis(b, drawn[..., None], axis=-2)[..., 0, :] for b in (mean, log_stddev))
    # no normal number is beyond 12; the point is rounded to its dtype
    reach = 12 * np.exp(log_stddev) + 2 * np.finfo(dtype).eps * abs(mean)
    known = finite & promised_raw(raw, pens) & (abs(mean) < MAX[dtype]).all(axis=-1)
    assert (abs(x - mean) <= reach)[known].all(), "drawn beyond 12 sigma"


def judge_at_points(arrays, outputs, dtype, method, options):
    """Methods of BivariateMixture that take points; bias and temperature make parameters that are not known here."""
    x = arrays["x"]
    if "raw" in arrays:
        _, mean, log_stddev, a = raw_parts(arrays["raw"], options["pen"])
        rows, mixed = expect_network_mixtures(x, arrays["raw"], options["pen"])
        components = reference.raw_components(LONG, x[..., None, :], mean, log_stddev, a).value
    else:
        weights, *parameters = in_order(arrays, "weights means stddevs correlations")
        rows, mixed = expect_mixtures(x, weights, *parameters)
        components = reference.natural_components(LONG, x[..., None, :], *parameters).value
    if "bias" in options:
        rows = rows._replace(known=rows.known & False)
    count = rows.nan.size
    output, value = outputs[0].reshape(count, -1), rows.value
    if method == "pdf":  # exp makes an absolute error a relative one
        value = Number(np.exp(value.exact), np.exp(value.exact) * (1 + value.terms))
    if method in ("logpdf", "pdf"):
        assert_values(rows._replace(value=value), dtype, output[:, 0], np.ones(count))
        return
    numbers = {"component_logpdf": components, "responsibilities": mixed.shares, "score": reference.score(mixed)}
    number = Number(*(part.reshape(count, -1) for part in numbers[method]))
    if method == "score":
        assert_gradients(rows._replace(gradient=number), dtype, output, np.ones(count))
        return
    assert_near(method, output, number, dtype, (rows.known & (abs(rows.value.exact) < NEAR[FLOAT64]))[:, None])
    if method == "responsibilities":
        assert_nan_where_due(method, rows, output, np.ones(count, bool))
        within = rows.finite & (abs(rows.value.exact) < NEAR[FLOAT64])  # beyond, the weights, of sum 1 to 1e-6
        assert (abs(output[within].sum(axis=1) - 1) <= 8 * np.finfo(dtype).eps).all(), "shares of another sum than 1"


def judge_whole(arrays, outputs, dtype, method, options):
    """Other methods of BivariateMixture, and what mixtures of one dimension say of themselves."""
    given = arrays.get("x", arrays.get("value", np.zeros(())))
    for output in outputs if np.isfinite(given).all() else ():
        unknown = method == "covariance" and np.isinf(output).any(axis=(-1, -2))[..., None, None]  # inf - inf
        assert not (np.isnan(output) & np.logical_not(unknown)).any(), f"{method}: NaN for finite arguments"
    if method == "credible_level":
        assert (outputs[0] >= 0).all()
        assert (outputs[0][..., 1:] <= outputs[0][..., :-1]).all(), "a larger mass has a higher level"
    if method == "mode" and "bias" not in options:
        judge_mode(arrays, outputs[0], options)


def judge_mode(arrays, mode, options):
    if "raw" in arrays:
        mixture = BivariateMixture.from_network_output(arrays["raw"], **options)
        known = promised_raw(arrays["raw"], options["pen"])
    else:
        mixture = BivariateMixture(*arrays.values())
        known = (promised_stddev(mixture.stddevs) & moderate(mixture.means)).all(axis=(-1, -2))
    at_mode = mixture.logpdf(mode)
    at_means = np.max([mixture.logpdf(mixture.means[..., j, :]) for j in range(mixture.n_components)], axis=0)
    # coordinates are rounded, which costs the square of that in standard deviations, the narrowest of the component
    narrowest = mixture.stddevs.min(axis=-1) * np.sqrt((1 - mixture.correlations) * (1 + mixture.correlations))
    rounding = (np.finfo(mode.dtype).eps * abs(mode).max(axis=-1)[..., None] / narrowest).max(axis=-1)
    assert (at_mode >= at_means - 1e-9 - rounding**2)[known].all(), "mode: lower than at a mean"


def judge_covariances(arrays, outputs, dtype):
    """Parameters from covariance matrices: these come back."""
    given, came = arrays["covariances"], outputs[4]
    size = np.sqrt(given[..., 0, 0] * given[..., 1, 1])[..., None, None]
    # roots, quotient and products: some ten roundings in float64, and those to the dtype
    assert (abs(came - given) <= 8 * np.finfo(dtype).eps * np.maximum(size, abs(given))).all(), "other covariances"


def judge_fit(arrays, outputs, dtype):
    """A fitted mixture: legal, the heaviest component first."""
    weights, _, stddevs, correlations, _ = outputs
    assert abs(weights.sum() - 1) <= 8 * np.finfo(dtype).eps
    assert (np.diff(weights) <= 0).all()
    assert (stddevs > 0).all()
    assert (abs(correlations) <= 1).all()
