"""What the log-domain levels are measured against: values, derivatives and the sizes of their terms, in mpmath.

The formulas are those of docs/formulas.md as they stand there (p, m, E, A, B), not the rearrangements of the kernels;
60 digits hide what they cancel. Every number comes with `terms`, the sum of the magnitudes of the terms that it is made
of; an error is measured in units of eps times these. The terms, with C = 1 / (1 - r^2):

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

log sigma is an argument and exact: u = offset exp(-log sigma) is off by the rounding of exp alone, so that neither
|log sigma| eps is granted to u nor |a| eps to 1 - r^2. A responsibility, or another share of 1, below 2^-940 counts as
that: digits go where denormal numbers begin. Its error in whole, for terms of 10^15 and more, where distances tie in
float64 and any component may take the place of any other, is exp(8 eps terms) - 1 times the share, at most 1.
"""

from functools import cache
from typing import NamedTuple

import mpmath
from mpmath import mp, mpf

DIGITS = 60
PROMISED = 8 * 2.0**-52  # the error of a number, of its terms
SMALLEST_SHARE = mpf(2) ** -940


class Number(NamedTuple):
    """An exact number and the sum of the magnitudes of its terms."""

    exact: mpf
    terms: mpf


class Component(NamedTuple):
    """log N of one component at one point; derivatives to mean 0, 1, log sigma 0, 1, atanh correlation."""

    value: Number
    derivatives: list[Number]


def natural_component(x, mean, stddev, correlation):
    """One component from natural parameters."""
    with mp.workdps(DIGITS):
        s0, s1 = (mpf(float(s)) for s in stddev)
        r = mpf(float(correlation))
        return _component(x, mean, s0, s1, mpmath.log(s0), mpmath.log(s1), r, 1 + r, 1 - r)


def raw_component(x, mean, log_stddev, atanh_correlation):
    """One component from unconstrained parameters."""
    with mp.workdps(DIGITS):
        l0, l1 = (mpf(float(log_sigma)) for log_sigma in log_stddev)
        a = mpf(float(atanh_correlation))
        one_plus_r, one_minus_r = 2 / (1 + mpmath.exp(-2 * a)), 2 / (1 + mpmath.exp(2 * a))
        return _component(x, mean, mpmath.exp(l0), mpmath.exp(l1), l0, l1, mpmath.tanh(a), one_plus_r, one_minus_r)


def _component(x, mean, s0, s1, log_s0, log_s1, r, one_plus_r, one_minus_r):
    u = (mpf(float(x[0])) - mpf(float(mean[0]))) / s0
    v = (mpf(float(x[1])) - mpf(float(mean[1]))) / s1
    p, m = u + v, u - v
    q = p**2 / (2 * one_plus_r) + m**2 / (2 * one_minus_r)
    half_log = -mpmath.log(one_plus_r * one_minus_r) / 2
    log_two_pi = mpmath.log(2 * mp.pi)
    e = one_plus_r / one_minus_r
    a, b = p * (1 + 1 / e) / 2, m * (1 + e) / 2
    exact = [
        (a + b) / (2 * s0),
        (a - b) / (2 * s1),
        u * (a + b) / 2 - 1,
        v * (a - b) / 2 - 1,
        r + (p**2 / e - m**2 * e) / 4,
    ]
    c = 1 / (one_plus_r * one_minus_r)
    w0, w1 = abs(u) + abs(r * v), abs(v) + abs(r * u)
    terms = [c * w0 / s0, c * w1 / s1, abs(u) * c * w0 + 1, abs(v) * c * w1 + 1, abs(r) + c * w0 * w1]
    value = Number(
        -log_two_pi - log_s0 - log_s1 + half_log - q / 2,
        log_two_pi + abs(log_s0) + abs(log_s1) + half_log + c * (u**2 + v**2 + 2 * abs(r * u * v)) / 2,
    )
    return Component(value, [Number(*pair) for pair in zip(exact, terms, strict=True)])


def gaussian_exact(x, mean, stddev, correlation):
    """log N of one component, then d/d mean 0, 1, log sigma 0, 1, atanh correlation, x 0, 1."""
    value, derivatives = natural_component(x, mean, stddev, correlation)
    with mp.workdps(DIGITS):  # a change of sign rounds too
        return [value, *derivatives, *(Number(-d.exact, d.terms) for d in derivatives[:2])]


def mixture_exact(x, weights, mean, stddev, correlation):
    """Log-density of one mixture, then its gradient: logits, mean (M, 2), log stddev (M, 2), atanh r, x."""
    with mp.workdps(DIGITS):
        value, shares, derivatives = _mix(*_natural_mixture(x, weights, mean, stddev, correlation))
        logits = [
            Number(share.exact - mpf(float(w)), share.terms + mpf(float(w)))
            for share, w in zip(shares, weights, strict=True)
        ]
        pairs = [[row[k] for row in derivatives] for k in range(5)]
        x_gradient = [Number(-sum(d.exact for d in pairs[k]), sum(d.terms for d in pairs[k])) for k in (0, 1)]
        interleaved = [
            d for first, second in ((0, 1), (2, 3)) for row in derivatives for d in (row[first], row[second])
        ]
        return [value, *logits, *interleaved, *pairs[4], *x_gradient]


def _natural_mixture(x, weights, mean, stddev, correlation):
    """Logarithms of the weights, and the components."""
    log_weights, components = [], []
    for j, weight in enumerate(weights):
        w = mpf(float(weight))
        log_weights.append(Number(mpmath.log(w), abs(mpmath.log(w))) if w else None)
        components.append(natural_component(x, mean[j], stddev[j], correlation[j]) if w else None)
    return log_weights, components


def mdn_exact(raw, x, pen=None):
    """Loss of one row of raw output, then its gradient in the order of raw; pen: None, a number or three."""
    targets = [] if pen is None else [pen] if not hasattr(pen, "__len__") else list(pen)
    pens = len(targets)
    value, _, gradient = _network(tuple(map(float, raw[pens:])), tuple(map(float, x)))
    with mp.workdps(DIGITS):
        pen_loss, pen_gradient = _pen([mpf(float(logit)) for logit in raw[:pens]], targets)
        loss = Number(pen_loss.exact - value.exact, pen_loss.terms + value.terms)
        return [loss, *pen_gradient, *gradient]


def natural_responsibilities(x, weights, mean, stddev, correlation):
    """The g_j of one mixture."""
    with mp.workdps(DIGITS):
        return _mix(*_natural_mixture(x, weights, mean, stddev, correlation))[1]


def network_responsibilities(raw, x):
    """The g_j of one row of raw output without a pen."""
    return _network(tuple(map(float, raw)), tuple(map(float, x)))[1]


@cache  # the same for every pen
def _network(raw, x):
    """Log-density, responsibilities, and the gradient of the log-density's negative in the order of raw."""
    m = len(raw) // 6
    columns = [raw[k * m : (k + 1) * m] for k in range(6)]
    with mp.workdps(DIGITS):
        log_weights = _log_softmax([mpf(logit) for logit in columns[0]])
        components = [
            raw_component(x, (columns[1][j], columns[2][j]), (columns[3][j], columns[4][j]), columns[5][j])
            for j in range(m)
        ]
        value, shares, derivatives = _mix(log_weights, components)
        logits = []
        for share, log_weight in zip(shares, log_weights, strict=True):
            w = _share(log_weight)
            logits.append(Number(w.exact - share.exact, w.terms + share.terms))
        rest = [Number(-row[k].exact, row[k].terms) for k in range(5) for row in derivatives]
        return value, shares, [*logits, *rest]


def _log_softmax(logits):
    top = max(logits)
    total = mpmath.log(sum(mpmath.exp(logit - top) for logit in logits))
    return [Number(logit - top - total, abs(logit - top) + total) for logit in logits]


def _share(log_share, more_terms=0):
    """exp of the logarithm of a share."""
    share = mpmath.exp(log_share.exact)
    # a larger exponent makes no difference: the smallest share times this factor is 1 already
    exponent = min(PROMISED * (1 + log_share.terms + more_terms), 1 - mpmath.log(SMALLEST_SHARE))
    factor = mpmath.expm1(exponent)
    return Number(share, min(max(share, SMALLEST_SHARE) * factor, 1) / PROMISED)


def _mix(log_weights, components):
    """log sum exp of the t_j; the g_j; for each component its derivatives times g_j. None stands for weight 0."""
    t = [
        None if w is None else Number(w.exact + component.value.exact, w.terms + component.value.terms)
        for w, component in zip(log_weights, components, strict=True)
    ]
    top = max(s.exact for s in t if s is not None)
    lse = top + mpmath.log(sum(mpmath.exp(s.exact - top) for s in t if s is not None))
    g = [mpf(0) if s is None else mpmath.exp(s.exact - lse) for s in t]
    value = Number(lse, sum(share * s.terms for share, s in zip(g, t, strict=True) if s is not None))
    shares, derivatives = [], []
    for s, component in zip(t, components, strict=True):
        if s is None:
            shares.append(Number(mpf(0), mpf(0)))
            derivatives.append([Number(mpf(0), mpf(0))] * 5)
            continue
        share = _share(Number(s.exact - lse, s.terms), value.terms)
        shares.append(share)
        derivatives.append([Number(share.exact * d.exact, share.terms * d.terms) for d in component.derivatives])
    return value, shares, derivatives


def _pen(logits, targets):
    targets = [mpf(float(target)) for target in targets]
    if not logits:
        return Number(mpf(0), mpf(0)), []
    if len(logits) == 1:
        (logit,), (target,) = logits, targets
        loss = target * _softplus(-logit) + (1 - target) * _softplus(logit)
        sigmoid = 1 / (1 + mpmath.exp(-logit))
        return Number(loss, loss), [Number(sigmoid - target, sigmoid + target)]
    log_shares = _log_softmax(logits)
    loss = -sum(target * log_share.exact for target, log_share in zip(targets, log_shares, strict=True))
    terms = sum(target * (1 + log_share.terms) for target, log_share in zip(targets, log_shares, strict=True))
    total = sum(targets)
    shares = [_share(log_share) for log_share in log_shares]
    gradient = [
        Number(share.exact * total - target, share.terms * total + target)
        for target, share in zip(targets, shares, strict=True)
    ]
    return Number(loss, terms), gradient


def _softplus(logit):
    return mpmath.log1p(mpmath.exp(logit)) if logit <= 0 else logit + mpmath.log1p(mpmath.exp(-logit))
