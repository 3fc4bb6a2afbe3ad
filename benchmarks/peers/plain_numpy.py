"""NumPy array operations, as people write them by hand; in the dtype of the input."""

import math

import numpy as np

LOG_2PI = math.log(2 * math.pi)


def density(problem):
    """Densities and derivatives of each component."""
    return lambda: density_and_derivatives(np, *problem)


def density_and_derivatives(xp, x, mean, stddev, correlation, eps=1e-10):
    """Evaluate the formulas of docs/formulas.md in any namespace `xp` that looks like NumPy."""
    offset = (x - mean) / (stddev + eps)
    u, v = offset[..., :1], offset[..., 1:]
    z = xp.maximum(u * u + v * v - 2 * correlation * u * v, 0)
    q = 1 - correlation * correlation
    norm = 2 * math.pi * stddev[..., :1] * stddev[..., 1:] * xp.sqrt(q + eps) + eps
    value = xp.exp(-z / (2 * q + eps)) / norm
    c = 1 / (q + eps)
    dmean = c / (stddev + eps) * (offset - correlation * offset[..., ::-1])
    dstddev = offset * stddev * dmean - 1
    dcorrelation = u * v + correlation * (1 - c * z)
    return value, (dmean, dstddev, dcorrelation)


def mdn(problem):
    """Mean loss and its gradient with respect to the raw output."""
    return lambda: mdn_loss_and_gradient(*problem)


def mdn_loss_and_gradient(raw, x):
    """Loss and gradient by hand, every exponential taken once."""
    n = len(raw)
    logits, mean0, mean1, log_s0, log_s1, a = np.moveaxis(raw.reshape(n, 6, -1), 1, 0)  # (n, m) each
    inverse_s0, inverse_s1, r = np.exp(-log_s0), np.exp(-log_s1), np.tanh(a)
    u, v, q = (x[:, :1] - mean0) * inverse_s0, (x[:, 1:] - mean1) * inverse_s1, 1 - r * r
    du, dv = (u - r * v) / q, (v - r * u) / q
    log_normal = -LOG_2PI - log_s0 - log_s1 - 0.5 * (np.log(q) + u * du + v * dv)
    weights, log_weight_sum = softmax(logits)
    share, log_sum = softmax(logits + log_normal)
    gradient = np.empty((n, 6, logits.shape[1]), raw.dtype)
    gradient[:, 0] = weights - share
    gradient[:, 1] = -share * du * inverse_s0
    gradient[:, 2] = -share * dv * inverse_s1
    gradient[:, 3] = share * (1 - u * du)
    gradient[:, 4] = share * (1 - v * dv)
    gradient[:, 5] = -share * (r + q * du * dv)
    gradient /= n
    return np.mean(log_weight_sum - log_sum), gradient.reshape(raw.shape)


def softmax(t):
    """Return the rows' softmax and the logarithms of the rows' sums of exponentials."""
    top = t.max(axis=1, keepdims=True)
    terms = np.exp(t - top)
    total = terms.sum(axis=1, keepdims=True)
    return terms / total, top + np.log(total)
