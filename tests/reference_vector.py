"""The numbers and terms of reference_mixture.py for whole arrays at once, in long double: fast enough for a fuzzer.

The formulas are those of docs/formulas.md as they stand there, and the terms those that reference_mixture.py lists.
Long double has 64 bits on x86-64 and 113 on 64-bit ARM under Linux: there, errors of these formulas are a few 2^-64 of
their terms, a thousandth of what the promise allows. Its exponents reach 2^16383, so that nothing overflows on the way
to a number that a double holds. Where long double is double, EXTENDED is False and these numbers are no reference.

Arguments are arrays of real numbers with an axis of components, and one of the two coordinates after it where there is
one; leading axes broadcast. What is outside the domain is not looked at: it gives anything.
"""

from typing import NamedTuple

import numpy as np
from reference_mixture import PROMISED, Number

WIDE = np.longdouble
EXTENDED = np.finfo(WIDE).nmant >= 63
TWO_PI = 8 * np.arctan(WIDE(1))
SMALLEST_SHARE = WIDE(2) ** -940  # digits go where denormal numbers begin: reference_mixture.py
LARGEST_EXPONENT = WIDE(708)  # beyond it, raw log stddevs and atanh correlations count as that in Q: docs/formulas.md


class Component(NamedTuple):
    """log N, and its derivatives to mean 0, 1, log sigma 0, 1, atanh correlation."""

    value: Number
    derivatives: list[Number]


class Mixture(NamedTuple):
    """The log-density; responsibilities; for each of the five kinds of derivatives, those of all components."""

    value: Number
    shares: Number
    derivatives: list[Number]


def natural_components(x, mean, stddev, correlation):
    """Components (..., M) at points (..., 1 or M, 2)."""
    stddev, r = WIDE(stddev), WIDE(correlation)
    return _components(x, mean, stddev, np.log(stddev), r, (1 - r) * (1 + r), -(np.log1p(r) + np.log1p(-r)) / 2)


def raw_components(x, mean, log_stddev, atanh_correlation):
    """The same from unconstrained parameters."""
    log_stddev, a = WIDE(log_stddev), WIDE(atanh_correlation)
    stddev = np.exp(np.clip(log_stddev, -LARGEST_EXPONENT, LARGEST_EXPONENT))
    q = 1 / np.cosh(np.clip(a, -LARGEST_EXPONENT, LARGEST_EXPONENT)) ** 2
    return _components(
        x, mean, stddev, log_stddev, np.tanh(a), q, abs(a) + np.log1p(np.exp(-2 * abs(a))) - np.log(WIDE(2))
    )


def _components(x, mean, stddev, log_stddev, r, q, log_kappa):
    u, v = np.moveaxis((WIDE(x) - WIDE(mean)) / stddev, -1, 0)
    s0, s1 = np.moveaxis(stddev, -1, 0)
    slope0, slope1 = (u - r * v) / q, (v - r * u) / q
    size0, size1 = (abs(u) + abs(r * v)) / q, (abs(v) + abs(r * u)) / q
    value = Number(
        log_kappa - np.log(TWO_PI) - log_stddev.sum(axis=-1) - (u**2 + v**2 - 2 * r * u * v) / (2 * q),
        log_kappa + np.log(TWO_PI) + abs(log_stddev).sum(axis=-1) + (u**2 + v**2 + 2 * abs(r * u * v)) / (2 * q),
    )
    exact = [slope0 / s0, slope1 / s1, u * slope0 - 1, v * slope1 - 1, r + q * slope0 * slope1]
    terms = [size0 / s0, size1 / s1, abs(u) * size0 + 1, abs(v) * size1 + 1, abs(r) + q * size0 * size1]
    return Component(value, [Number(*pair) for pair in zip(exact, terms, strict=True)])


def log_weights(weights):
    """Logarithms of natural weights; -inf, of no terms, where a component is excluded."""
    logarithm = np.log(WIDE(weights))
    return Number(logarithm, np.where(weights == 0, 0, abs(logarithm)))


def log_softmax(logits):
    """Logarithms of the softmax over the last axis."""
    less_top = WIDE(logits) - WIDE(logits).max(axis=-1, keepdims=True)
    total = np.log(np.exp(less_top).sum(axis=-1, keepdims=True))
    return Number(less_top - total, abs(less_top) + total)


def share_of(log_share, more_terms=0):
    """exp of the logarithm of a share of 1; of one that is excluded, 0 without an error."""
    share = np.exp(log_share.exact)
    factor = np.expm1(np.minimum(PROMISED * (1 + log_share.terms + more_terms), LARGEST_EXPONENT))
    error = np.minimum(np.maximum(share, SMALLEST_SHARE) * factor, 1)
    return Number(share, np.where(np.isneginf(log_share.exact), 0, error / PROMISED))


def mix(log_weight, component):
    """Mixtures of components; one of log weight -inf is excluded, whatever it holds."""
    excluded = np.isneginf(log_weight.exact)
    t = Number(
        np.where(excluded, -np.inf, log_weight.exact + component.value.exact),
        np.where(excluded, 0, log_weight.terms + component.value.terms),
    )
    top = t.exact.max(axis=-1, keepdims=True)
    lse = top + np.log(np.exp(t.exact - top).sum(axis=-1, keepdims=True))
    g = np.exp(t.exact - lse)
    value = Number(lse[..., 0], np.where(g == 0, 0, g * t.terms).sum(axis=-1))
    shares = share_of(Number(t.exact - lse, t.terms), value.terms[..., None])
    derivatives = [
        Number(np.where(excluded, 0, g * d.exact), np.where(excluded, 0, shares.terms * d.terms))
        for d in component.derivatives
    ]
    return Mixture(value, shares, derivatives)


def bernoulli(logit, target):
    """Cross-entropy of a pen, and its derivative with respect to the logit."""
    logit, target = WIDE(logit), WIDE(target)
    loss = target * softplus(-logit) + (1 - target) * softplus(logit)
    sigmoid = 1 / (1 + np.exp(-logit))
    return Number(loss, loss), Number(sigmoid - target, sigmoid + target)


def softplus(logit):
    return np.maximum(logit, 0) + np.log1p(np.exp(-abs(logit)))


def categorical(logits, targets):
    """Cross-entropy of a pen state (..., 3), and its gradient."""
    targets, log_share = WIDE(targets), log_softmax(logits)
    total, shares = targets.sum(axis=-1, keepdims=True), share_of(log_share)
    loss = Number(
        -np.where(targets == 0, 0, targets * log_share.exact).sum(axis=-1),
        np.where(targets == 0, 0, targets * (1 + log_share.terms)).sum(axis=-1),
    )
    return loss, Number(shares.exact * total - targets, shares.terms * total + targets)


def density(x, mean, stddev, correlation, smooth_eps):
    """The drop-in level at points (..., 1 or M, 2): density, dmean 0, 1, dstddev 0, 1, dcorrelation."""
    e, stddev, r = WIDE(smooth_eps), WIDE(stddev), WIDE(correlation)
    u, v = np.moveaxis((WIDE(x) - WIDE(mean)) / (stddev + e), -1, 0)
    s0, s1 = np.moveaxis(stddev, -1, 0)
    q = (1 - r) * (1 + r)
    c = 1 / (q + e)
    z, size = np.maximum(u**2 + v**2 - 2 * r * u * v, 0), u**2 + v**2 + 2 * abs(r * u * v)
    value = np.exp(-z / (2 * q + e)) / (TWO_PI * s0 * s1 * np.sqrt(q + e) + e)
    dmean0, dmean1 = c / (s0 + e) * (u - r * v), c / (s1 + e) * (v - r * u)
    size0, size1 = c / (s0 + e) * (abs(u) + abs(r * v)), c / (s1 + e) * (abs(v) + abs(r * u))
    return [
        Number(value, value * (1 + size / (2 * q + e))),
        Number(dmean0, size0),
        Number(dmean1, size1),
        Number(u * s0 * dmean0 - 1, abs(u) * s0 * size0 + 1),
        Number(v * s1 * dmean1 - 1, abs(v) * s1 * size1 + 1),
        Number(u * v + r * (1 - c * z), abs(u * v) + abs(r) * (1 + c * size)),
    ]
