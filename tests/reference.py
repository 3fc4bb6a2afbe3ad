"""What results are measured against: the formulas of docs/formulas.md, in mpmath at 60 digits and in long double.

The formulas are those of textbooks, with 1 - r^2 and u - r v, not the rearrangements of the kernels. They are written
once, over arrays, for two kinds of real numbers. EXACT has arrays of mpmath's, whose 60 digits hide what the formulas
cancel (of an atanh correlation beyond 60, more are needed). LONG has NumPy's long double, fast enough to search: 64
bits on x86-64, 113 on 64-bit ARM under Linux, so that errors are a few 2^-64 of the terms, a thousandth of what the
promise allows. Where long double is double, EXTENDED is False and LONG is no reference.

Every number comes with `terms`, the sum of the magnitudes of the terms that it is made of; an error is measured in eps
times these. The terms, with C = 1 / (1 - r^2):

    Q                     C (u^2 + v^2 + 2 |r u v|): u and v are rounded before they are subtracted, so the expanded
                          form is what the conditioning of the arguments allows
    log N                 log 2 pi + |log sigma0| + |log sigma1| + |log(1 - r^2)| / 2 + terms of Q / 2
    sigma0 d/dmean0       C (|u| + |r v|)
    d/dlog sigma0         |u| C (|u| + |r v|) + 1
    d/datanh r            |r| + C (|u| + |r v|) (|v| + |r u|)
    t_j                   terms of log weight_j + terms of log N_j
    log weight_j          itself; from logits l: |l_j - max l| + log sum exp(l - max l)
    lse = log sum exp t   sum of g_j times the terms of t_j: its derivatives are the responsibilities g_j
    g_j = exp(t_j - lse)  g_j (1 + terms of t_j + terms of lse): exp turns an absolute error into a relative one
    g_j times d           the same times the terms of d
    softmax_j of l        softmax_j (1 + |l_j - max l| + log sum exp(l - max l))
    Bernoulli pen         its two terms are >= 0: the loss itself; sigmoid + target for the derivative
    categorical pen       target_k (1 + |l_k - max l| + log sum exp(l - max l)): the sum in the log is rounded at 1
    density               density (1 + |argument of exp|), for the same reason as g_j
    under a floor         those of the component with the floored parameters, times the derivatives of these

log sigma is an argument and exact: u = offset exp(-log sigma) is off by the rounding of exp alone, so that neither
|log sigma| eps is granted to u nor |a| eps to 1 - r^2. A responsibility, or another share of 1, below 2^-940 counts as
that: digits go where denormal numbers begin. Its error in whole, for terms of 10^15 and more, where distances tie in
float64 and any component may take the place of any other, is exp(9 eps terms) - 1 times the share, at most 1.

Arguments are arrays of real numbers with an axis of components where there is one, and one of the two coordinates after
it; leading axes broadcast. What is outside the domain is not looked at: it gives anything.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import mpmath
import numpy as np
from mpmath import mp, mpf

mp.dps = 60  # for all of the tests: nothing here or there works with less

EPS = 2.0**-52
PROMISED = 9 * EPS  # the error of a number, of its terms: searches of ten million steps found 8.2 (climb.py)
SMALLEST_SHARE = {EPS: 2.0**-940, 2.0**-23: 2.0**-103}  # by the eps of the arithmetic
LARGEST_EXPONENT = 708  # beyond it, raw log stddevs and atanh correlations count as that in Q
EXTENDED = np.finfo(np.longdouble).nmant >= 63


class Arithmetic(NamedTuple):
    """Functions of arrays of one kind of real numbers; `real` makes these of doubles."""

    real: Callable
    exp: Callable
    log: Callable
    log1p: Callable
    expm1: Callable
    tanh: Callable
    sqrt: Callable


def _of_objects(function):
    return np.frompyfunc(function, 1, 1)


LONG = Arithmetic(np.longdouble, np.exp, np.log, np.log1p, np.expm1, np.tanh, np.sqrt)
EXACT = Arithmetic(
    _of_objects(lambda x: x if isinstance(x, mpf) else mpf(float(x))),
    *map(_of_objects, (mpmath.exp, mpmath.log, mpmath.log1p, mpmath.expm1, mpmath.tanh, mpmath.sqrt)),
)
PI = {LONG: 4 * np.arctan(np.longdouble(1)), EXACT: +mp.pi}


class Number(NamedTuple):
    """Exact numbers and the sums of the magnitudes of their terms: two arrays of one shape."""

    exact: np.ndarray
    terms: np.ndarray


def negative(n):
    return Number(-n.exact, n.terms)


def scaled(n, factor):
    return Number(n.exact * factor, n.terms * abs(factor))


def paired(first, second):
    return Number(*(np.stack(pair, axis=-1) for pair in zip(first, second, strict=True)))


def side_by_side(batch, numbers):
    """Numbers with these batch axes and others behind them, flat along one last axis."""
    return Number(
        *(np.concatenate([np.reshape(a, (*batch, -1)) for a in arrays], -1) for arrays in zip(*numbers, strict=True))
    )


# One component at one point


class Component(NamedTuple):
    """log N; its derivatives to mean 0, 1, log sigma 0, 1, atanh correlation."""

    value: Number
    derivatives: list[Number]


def natural_components(of, x, mean, stddev, correlation):
    """Components (..., M) at points (..., 1 or M, 2)."""
    stddev, r = of.real(stddev), of.real(correlation)
    log_kappa = -(of.log1p(r) + of.log1p(-r)) / 2
    return _components(of, x, mean, stddev, of.log(stddev), r, (1 - r) * (1 + r), log_kappa)


def raw_components(of, x, mean, log_stddev, atanh_correlation):
    """The same from unconstrained parameters."""
    log_stddev, a = of.real(log_stddev), of.real(atanh_correlation)
    bounded_log, bounded = (np.clip(number, -LARGEST_EXPONENT, LARGEST_EXPONENT) for number in (log_stddev, a))
    q = 4 / (of.exp(bounded) + of.exp(-bounded)) ** 2
    log_kappa = abs(a) + of.log1p(of.exp(-2 * abs(a))) - of.log(of.real(2))
    return _components(of, x, mean, of.exp(bounded_log), log_stddev, of.tanh(bounded), q, log_kappa)


def floored_components(of, x, mean, log_stddev, atanh_correlation, floor):
    """Components convolved with N(0, diag(floor^2)); derivatives with respect to their own parameters."""
    stddev, a, floor = of.exp(of.real(log_stddev)), of.real(atanh_correlation), of.real(np.asarray(floor, float))
    wide = of.sqrt(stddev**2 + floor**2)
    (c0, c1), (s0, s1) = np.moveaxis(stddev / wide, -1, 0), np.moveaxis((floor / wide) ** 2, -1, 0)
    q = 4 / (of.exp(a) + of.exp(-a)) ** 2
    r, q_wide = of.tanh(a) * c0 * c1, q * (c0 * c1) ** 2 + s0 + s1 * c0**2
    value, d = _components(of, x, mean, wide, of.log(wide), r, q_wide, -of.log(q_wide) / 2)
    turned = [r * s0 / q_wide, r * s1 / q_wide, q * c0 * c1 / q_wide]
    by_log = [
        Number(c**2 * own.exact + k * d[4].exact, c**2 * own.terms + abs(k) * d[4].terms)
        for c, own, k in zip((c0, c1), d[2:4], turned[:2], strict=True)
    ]
    return Component(value, [*d[:2], *by_log, scaled(d[4], turned[2])])


def _components(of, x, mean, stddev, log_stddev, r, q, log_kappa):
    """q is 1 - r^2, and log kappa half of its logarithm's negative."""
    u, v = np.moveaxis((of.real(x) - of.real(mean)) / stddev, -1, 0)
    s0, s1 = np.moveaxis(stddev, -1, 0)
    log_two_pi = of.log(2 * PI[of])
    slope0, slope1 = (u - r * v) / q, (v - r * u) / q
    size0, size1 = (abs(u) + abs(r * v)) / q, (abs(v) + abs(r * u)) / q
    value = Number(
        log_kappa - log_two_pi - log_stddev.sum(axis=-1) - (u**2 + v**2 - 2 * r * u * v) / (2 * q),
        log_kappa + log_two_pi + abs(log_stddev).sum(axis=-1) + (u**2 + v**2 + 2 * abs(r * u * v)) / (2 * q),
    )
    exact = [slope0 / s0, slope1 / s1, u * slope0 - 1, v * slope1 - 1, r + q * slope0 * slope1]
    terms = [size0 / s0, size1 / s1, abs(u) * size0 + 1, abs(v) * size1 + 1, abs(r) + q * size0 * size1]
    return Component(value, [Number(*pair) for pair in zip(exact, terms, strict=True)])


# Mixtures


class Mixture(NamedTuple):
    """The log-density; responsibilities; for each of the five kinds of derivatives, those of all components."""

    value: Number
    shares: Number
    derivatives: list[Number]


def log_weights(of, weights):
    """Logarithms of natural weights; -inf, of no terms, where a component is excluded."""
    logarithm = of.log(of.real(weights))
    return Number(logarithm, np.where(weights == 0, 0, abs(logarithm)))


def log_softmax(of, logits):
    """Logarithms of the softmax over the last axis."""
    logits = of.real(logits)
    less_top = logits - logits.max(axis=-1, keepdims=True)
    total = of.log(of.exp(less_top).sum(axis=-1, keepdims=True))
    return Number(less_top - total, abs(less_top) + total)


def share_of(of, log_share, more_terms=0, eps=EPS):
    """exp of the logarithm of a share of 1; of one that is excluded, 0 without an error."""
    share = of.exp(log_share.exact)
    # a larger exponent makes no difference: the smallest share times this factor is 1 already
    factor = of.expm1(np.minimum(8 * eps * (1 + log_share.terms + more_terms), LARGEST_EXPONENT))
    error = np.minimum(np.maximum(share, SMALLEST_SHARE[eps]) * factor, 1)
    return Number(share, np.where(log_share.exact == -np.inf, 0, error / (8 * eps)))


def mix(of, log_weight, component, eps=EPS):
    """Mixtures of components; one of log weight -inf is excluded, whatever it holds."""
    excluded = log_weight.exact == -np.inf
    t = Number(
        np.where(excluded, -np.inf, log_weight.exact + component.value.exact),
        np.where(excluded, 0, log_weight.terms + component.value.terms),
    )
    top = t.exact.max(axis=-1, keepdims=True)
    lse = top + of.log(of.exp(t.exact - top).sum(axis=-1, keepdims=True))
    g = of.exp(t.exact - lse)
    value = Number(lse[..., 0], np.where(g == 0, 0, g * t.terms).sum(axis=-1))
    shares = share_of(of, Number(t.exact - lse, t.terms), value.terms[..., None], eps)
    # what a share gains the others lose: a component that stands alone has that of 1, rounded
    others = shares.terms.sum(axis=-1, keepdims=True) - shares.terms
    shares = Number(shares.exact, np.minimum(shares.terms, others + shares.exact))
    derivatives = [
        Number(np.where(excluded, 0, g * d.exact), np.where(excluded, 0, shares.terms * d.terms))
        for d in component.derivatives
    ]
    return Mixture(value, shares, derivatives)


def raw_parts(raw, pens=0):
    """Logits (..., M), means and log stddevs (..., M, 2), atanh correlations (..., M) of raw output."""
    logits, mean0, mean1, log_stddev0, log_stddev1, a = np.split(raw[..., pens:], 6, axis=-1)
    return logits, np.stack([mean0, mean1], axis=-1), np.stack([log_stddev0, log_stddev1], axis=-1), a


def natural_mixture(of, x, weights, mean, stddev, correlation):
    return mix(of, log_weights(of, weights), natural_components(of, x[..., None, :], mean, stddev, correlation))


def raw_mixture(of, x, raw, pens=0, eps=EPS, floor=None):
    logits, *parameters = raw_parts(raw, pens)
    arguments = of, x[..., None, :], *parameters
    components = raw_components(*arguments) if floor is None else floored_components(*arguments, floor)
    return mix(of, log_softmax(of, logits), components, eps)


def score(mixture):
    """The gradient of a mixture's log-density in x."""
    return paired(*(Number(-d.exact.sum(axis=-1), d.terms.sum(axis=-1)) for d in mixture.derivatives[:2]))


# The functions: value and gradient, whose parts lie side by side in the order of the results. `mixed` is the mixture of
# the arguments, and `components` are its components, where these are known already.


def gaussian(of, x, mean, stddev, correlation, components=None):
    """Log-densities (..., M) of components; gradients (..., M, 7)."""
    value, d = components or natural_components(of, x[..., None, :], mean, stddev, correlation)
    dmean = paired(*d[:2])
    return value, side_by_side(value.exact.shape, [dmean, paired(*d[2:4]), d[4], negative(dmean)])


def mixture(of, x, weights, mean, stddev, correlation, mixed=None):
    """Log-densities (...) of mixtures; gradients to logits, means, log stddevs, atanh correlations, x."""
    value, shares, d = mixed = mixed or natural_mixture(of, x, weights, mean, stddev, correlation)
    weights = of.real(weights)
    logits = Number(shares.exact - weights, shares.terms + weights)
    parts = [logits, paired(*d[:2]), paired(*d[2:4]), d[4], score(mixed)]
    return value, side_by_side(np.shape(value.exact), parts)


def loss(of, raw, x, pen=None, mixed=None, eps=EPS):
    """Losses (n,) of rows; gradients in the order of raw. pen (n, P)."""
    pens = 0 if pen is None else pen.shape[1]
    mixed = mixed or raw_mixture(of, x, raw, pens, eps)
    weight = share_of(of, log_softmax(of, raw_parts(raw, pens)[0]), eps=eps)
    value = negative(mixed.value)
    logits = Number(weight.exact - mixed.shares.exact, weight.terms + mixed.shares.terms)
    gradient = [logits, *map(negative, mixed.derivatives)]
    if pens:
        of_pen, slope = (bernoulli if pens == 1 else partial(categorical, eps=eps))(of, raw[:, :pens], pen)
        value = Number(*(ours + theirs for ours, theirs in zip(value, of_pen, strict=True)))
        gradient.insert(0, slope)
    return value, side_by_side(np.shape(value.exact), gradient)


def bernoulli(of, logit, target):
    """Cross-entropy of a pen, from columns of one logit and one target; its derivative."""
    logit, target = of.real(logit), of.real(target)
    loss = (target * _softplus(of, -logit) + (1 - target) * _softplus(of, logit))[..., 0]
    sigmoid = 1 / (1 + of.exp(-logit))
    return Number(loss, loss), Number(sigmoid - target, sigmoid + target)


def _softplus(of, logit):
    return np.maximum(logit, 0) + of.log1p(of.exp(-abs(logit)))


def categorical(of, logits, targets, eps=EPS):
    """Cross-entropy of a pen state (..., 3); its gradient."""
    targets, log_share = of.real(targets), log_softmax(of, logits)
    total, shares = targets.sum(axis=-1, keepdims=True), share_of(of, log_share, eps=eps)
    loss = Number(
        -np.where(targets == 0, 0, targets * log_share.exact).sum(axis=-1),
        np.where(targets == 0, 0, targets * (1 + log_share.terms)).sum(axis=-1),
    )
    return loss, Number(shares.exact * total - targets, shares.terms * total + targets)


OUTPUTS = ("density", "dmean0", "dmean1", "dstddev0", "dstddev1", "dcorrelation")


def density(of, x, mean, stddev, correlation, smooth_eps=1e-10):
    """The drop-in level at points (..., 1 or M, 2): OUTPUTS, side by side."""
    e, stddev, r = of.real(smooth_eps), of.real(stddev), of.real(correlation)
    u, v = np.moveaxis((of.real(x) - of.real(mean)) / (stddev + e), -1, 0)
    s0, s1 = np.moveaxis(stddev, -1, 0)
    q = (1 - r) * (1 + r)
    c = 1 / (q + e)
    z, size = np.maximum(u**2 + v**2 - 2 * r * u * v, 0), u**2 + v**2 + 2 * abs(r * u * v)
    value = of.exp(-z / (2 * q + e)) / (2 * PI[of] * s0 * s1 * of.sqrt(q + e) + e)
    dmean0, dmean1 = c / (s0 + e) * (u - r * v), c / (s1 + e) * (v - r * u)
    size0, size1 = c / (s0 + e) * (abs(u) + abs(r * v)), c / (s1 + e) * (abs(v) + abs(r * u))
    numbers = [
        Number(value, value * (1 + size / (2 * q + e))),
        Number(dmean0, size0),
        Number(dmean1, size1),
        Number(u * s0 * dmean0 - 1, abs(u) * s0 * size0 + 1),
        Number(v * s1 * dmean1 - 1, abs(v) * s1 * size1 + 1),
        Number(u * v + r * (1 - c * z), abs(u * v) + abs(r) * (1 + c * size)),
    ]
    return Number(*(np.stack(parts, axis=-1) for parts in zip(*numbers, strict=True)))


def error_in_terms(got, number):
    """Errors of float64 numbers in eps of their terms; inf where one is no finite number."""
    got, of = np.asarray(got), EXACT if number.exact.dtype == object else LONG
    error = abs(of.real(got) - number.exact) / EPS
    eps = np.where(error == 0, 0, error / np.where(number.terms == 0, 2.0**-1000, number.terms))
    return np.where(np.isfinite(got), eps, np.inf).astype(float)
