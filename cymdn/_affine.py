r"""Components under an affine map, without a covariance matrix.

A component has the points mean + L z with standard normal z, L = [[s0, 0], [s1 r, s1 s]] and s = sech a. The mapped
component has T mean + b + (T L) z. With the rows p and q of T L:

    sigma0' = |p|    sigma1' = |q|    sinh a' = p . q / (|det T| s0 s1 s)

The determinant of T L is computed as a product, never from the rows, which may be nearly parallel. Sums that may cancel
use exact products: the first element of a row, the product of the rows, the determinant of T. Each row of T is scaled
by a power of two, and each row of T L by the larger of the stddevs that enter it.
"""

import sys
from math import log

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

SPLITTER = 2.0**27 + 1.0
LOG_TWO = log(2.0)
LARGEST_SINH = 1e100  # beyond it asinh is a logarithm
LARGEST_EXPONENT = 708.0  # of raw output, as in the kernels: exp of it and of its negative are normal numbers


def exact_product(a: Doubles, b: Doubles) -> tuple[Doubles, Doubles]:
    """Return a b, rounded, and its rounding error (Dekker, 1971); for numbers of moderate size."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    lost: Doubles = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, lost


def _halves(a: Doubles) -> tuple[Doubles, Doubles]:
    high = a * SPLITTER
    high = high - (high - a)
    return high, a - high


def sum_of_products(a: Doubles, b: Doubles, c: Doubles, d: Doubles) -> Doubles:
    """Return a b + c d to 1.5 ulp, even if the terms cancel (Kahan's determinant)."""
    (first, lost), (second, lost_too) = exact_product(a, b), exact_product(c, d)
    total: Doubles = (first + second) + (lost + lost_too)
    return total


def rows_of(matrix: Doubles) -> tuple[Doubles, Doubles]:
    """Return rows (..., 2, 2) scaled to a largest element in [1/2, 1), and the logarithms of the scales (..., 2)."""
    _, exponents = np.frexp(np.abs(matrix).max(axis=-1))
    return np.ldexp(matrix, -exponents[..., None]), LOG_TWO * exponents


def determinant(rows: Doubles) -> Doubles:
    """Return the determinants (...) of matrices that `rows_of` returns; 0 exactly where they are singular."""
    return sum_of_products(rows[..., 0, 0], rows[..., 1, 1], -rows[..., 0, 1], rows[..., 1, 0])


def mapped_means(matrix: Doubles, offset: Doubles, means: Doubles) -> Doubles:
    """Return T mean + b, (..., M, 2); inf where that overflows."""
    rows, logs = rows_of(matrix)
    _, exponents = np.frexp(np.abs(means).max(axis=-1, initial=1.0))
    scaled = np.ldexp(means, -exponents[..., None])
    back = np.rint(logs / LOG_TWO).astype(np.int32)
    sums = [sum_of_products(rows[..., i, 0], scaled[..., 0], rows[..., i, 1], scaled[..., 1]) for i in (0, 1)]
    total: Doubles = np.ldexp(np.stack(sums, axis=-1), back + exponents[..., None]) + offset
    return total


def mapped_spreads(matrix: Doubles, log_stddevs: Doubles, a: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Return log stddevs 0 and 1 and atanh correlations of components under matrices (..., 2, 2) that broadcast.

    Components have log stddevs (..., 2) and atanh correlations (...).
    """
    rows, logs = rows_of(matrix)
    log_stddev0, log_stddev1 = log_stddevs[..., 0], log_stddevs[..., 1]
    n = np.exp(-np.minimum(np.abs(a), LARGEST_EXPONENT))  # otherwise a row of T L could be 0
    s = 2.0 * n / (1.0 + n * n)
    log_s = LOG_TWO - np.abs(a) - np.log1p(n * n)
    r = np.tanh(a)
    t = np.rint(r)
    d = np.where(t == 0.0, r, -t * 2.0 * n * n / (1.0 + n * n))  # r - t
    scales, shifts, first, second = [], [], [], []
    for i in (0, 1):
        t0, t1 = rows[..., i, 0], rows[..., i, 1]
        scale = np.maximum(np.where(t0 == 0.0, -np.inf, log_stddev0), np.where(t1 == 0.0, -np.inf, log_stddev1))
        e0, e1 = (np.exp(np.minimum(log_stddev - scale, 0.0)) for log_stddev in (log_stddev0, log_stddev1))
        p, q = sum_of_products(t0, e0, t1, e1 * t) + t1 * e1 * d, t1 * e1 * s
        _, exponents = np.frexp(np.maximum(np.abs(p), np.abs(q)))  # so that no product below underflows
        first.append(np.ldexp(p, -exponents))
        second.append(np.ldexp(q, -exponents))
        scales.append(scale)
        shifts.append(exponents)
    log_length0, log_length1 = (
        np.log(np.hypot(p, q)) + LOG_TWO * k for p, q, k in zip(first, second, shifts, strict=True)
    )
    product = sum_of_products(first[0], first[1], second[0], second[1])
    area = np.abs(determinant(rows))
    # the sum of both scales less that of both log stddevs, without overflow: the first scale is one of these
    lift = scales[1] - np.where(scales[0] == log_stddev0, log_stddev1, log_stddev0)
    lift = np.minimum(lift + LOG_TWO * (shifts[0] + shifts[1]), sys.float_info.max)
    sinh = product / (area * s) * np.exp(lift)
    logarithm = np.log(2.0 * np.abs(product)) - np.log(area) - log_s + lift
    inside = np.abs(sinh) < LARGEST_SINH  # False for a NaN of 0 * inf, where the logarithm is right
    mapped = np.where(inside, np.arcsinh(np.where(inside, sinh, 0.0)), np.copysign(np.maximum(logarithm, 0.0), product))
    mapped = np.where(product == 0.0, 0.0, mapped)
    return (scales[0] + logs[..., 0]) + log_length0, (scales[1] + logs[..., 1]) + log_length1, mapped
