"""Numba: the same work as manually fused loops, with fastmath, in one thread.

Constants have the dtype of the arrays, because a literal would promote float32 arithmetic to float64.
`error_model="numpy"` removes the checks for division by zero, and their branches, from the loops.
"""

import numpy as np
from numba import njit


@njit(fastmath=True, error_model="numpy")
def density_and_derivatives(x, mean, stddev, correlation):
    """One pass over the components, without intermediate arrays."""
    n, m, _ = mean.shape
    real = mean.dtype.type
    one, two, two_pi, eps, zero = real(1), real(2), real(2 * np.pi), real(1e-10), real(0)
    value, dcorrelation = np.empty_like(correlation), np.empty_like(correlation)
    dmean, dstddev = np.empty_like(mean), np.empty_like(mean)
    for i in range(n):
        for j in range(m):
            s0, s1, r = stddev[i, j, 0], stddev[i, j, 1], correlation[i, j, 0]
            inverse0, inverse1 = one / (s0 + eps), one / (s1 + eps)
            u, v = (x[i, 0, 0] - mean[i, j, 0]) * inverse0, (x[i, 0, 1] - mean[i, j, 1]) * inverse1
            z = max(u * u + v * v - two * r * u * v, zero)
            q = one - r * r
            c = one / (q + eps)
            value[i, j, 0] = np.exp(-z / (two * q + eps)) / (two_pi * s0 * s1 * np.sqrt(q + eps) + eps)
            dmean0, dmean1 = c * inverse0 * (u - r * v), c * inverse1 * (v - r * u)
            dmean[i, j, 0], dmean[i, j, 1] = dmean0, dmean1
            dstddev[i, j, 0], dstddev[i, j, 1] = u * s0 * dmean0 - one, v * s1 * dmean1 - one
            dcorrelation[i, j, 0] = u * v + r * (one - c * z)
    return value, (dmean, dstddev, dcorrelation)


@njit(fastmath=True, error_model="numpy")
def mdn_loss_and_gradient(raw, x):
    """Row by row; the row's gradient holds the intermediate values that the second pass needs."""
    n, m = raw.shape[0], raw.shape[1] // 6
    gradient = np.empty_like(raw)
    weights, share = np.empty(m, raw.dtype), np.empty(m, raw.dtype)
    loss = 0.0
    for i in range(n):
        row, out = raw[i], gradient[i]
        for j in range(m):
            weights[j] = row[j]
            share[j] = row[j] + component(row, x[i], out, j, m)
        loss += softmax(weights) - softmax(share)
        for j in range(m):
            g = share[j] / raw.dtype.type(n)
            out[j] = weights[j] / raw.dtype.type(n) - g
            for k in range(1, 6):
                out[k * m + j] *= g
    return loss / n, gradient


@njit(fastmath=True, error_model="numpy", inline="always")
def component(row, x, out, j, m):
    """Return log N of component j of a row, and write the gradient of -log N into `out`."""
    real = row.dtype.type
    one, half, log_2pi = real(1), real(0.5), real(np.log(2 * np.pi))
    log_s0, log_s1, r = row[3 * m + j], row[4 * m + j], np.tanh(row[5 * m + j])
    inverse0, inverse1, q = np.exp(-log_s0), np.exp(-log_s1), one - r * r
    u, v = (x[0] - row[m + j]) * inverse0, (x[1] - row[2 * m + j]) * inverse1
    du, dv = (u - r * v) / q, (v - r * u) / q
    out[m + j], out[2 * m + j] = -du * inverse0, -dv * inverse1
    out[3 * m + j], out[4 * m + j] = one - u * du, one - v * dv
    out[5 * m + j] = -(r + q * du * dv)
    return -log_2pi - log_s0 - log_s1 - half * (np.log(q) + u * du + v * dv)


@njit(fastmath=True, error_model="numpy", inline="always")
def softmax(t):
    """Replace `t` by its softmax; return the logarithm of its sum of exponentials."""
    top, total = t[0], t.dtype.type(0)
    for j in range(1, t.size):
        top = max(top, t[j])
    for j in range(t.size):
        t[j] = np.exp(t[j] - top)
        total += t[j]
    for j in range(t.size):
        t[j] /= total
    return top + np.log(total)
