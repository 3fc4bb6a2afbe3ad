"""What the kernels are measured against: the formulas of docs/formulas.md in plain NumPy and in mpmath at 60 digits.

Both are written from the formulas as they stand there, without any of the rearrangements of the kernels.
"""

import mpmath
import numpy as np

DIGITS = 60


def density_numpy(x, mean, stddev, correlation, smooth_eps=1e-10):
    """The drop-in function in plain NumPy: what a user would write, in the dtype of the arguments."""
    eps = mean.dtype.type(smooth_eps)
    offset = (x - mean) / (stddev + eps)
    u, v = offset[..., :1], offset[..., 1:]
    z = np.maximum(u**2 + v**2 - 2 * correlation * u * v, 0)
    q = 1 - correlation**2
    norm = 2 * np.pi * stddev[..., :1] * stddev[..., 1:] * np.sqrt(q + eps) + eps
    density = np.exp(-z / (2 * q + eps)) / norm
    c = 1 / (q + eps)
    dmean = c / (stddev + eps) * (offset - correlation * offset[..., ::-1])
    dstddev = offset * stddev * dmean - 1
    dcorrelation = u * v + correlation * (1 - c * z)
    return density, dmean, dstddev, dcorrelation


def density_exact(x, mean, stddev, correlation, smooth_eps=1e-10):
    """The same for ONE component: x, mean, stddev pairs of floats; six mpf, in the order of the outputs."""
    with mpmath.workdps(DIGITS):
        e = mpmath.mpf(smooth_eps)
        s0, s1 = map(mpmath.mpf, map(float, stddev))
        r = mpmath.mpf(float(correlation))
        u = (mpmath.mpf(float(x[0])) - mpmath.mpf(float(mean[0]))) / (s0 + e)
        v = (mpmath.mpf(float(x[1])) - mpmath.mpf(float(mean[1]))) / (s1 + e)
        z = u**2 + v**2 - 2 * r * u * v
        q = 1 - r**2
        c = 1 / (q + e)
        density = mpmath.exp(-z / (2 * q + e)) / (2 * mpmath.pi * s0 * s1 * mpmath.sqrt(q + e) + e)
        dmean0, dmean1 = c / (s0 + e) * (u - r * v), c / (s1 + e) * (v - r * u)
        return [density, dmean0, dmean1, u * s0 * dmean0 - 1, v * s1 * dmean1 - 1, u * v + r * (1 - c * z)]


def density_terms(x, mean, stddev, correlation, smooth_eps=1e-10):
    """Sums of the magnitudes of the terms that each of the six outputs is made of, for ONE component, as floats.

    An error is measured in units of eps times these: a value that is a small difference of large terms cannot be
    nearer to the exact one than the terms' own rounding. exp turns the absolute error of its argument into a relative
    one, so the density's terms are density * (1 + |argument|).
    """
    density = float(density_exact(x, mean, stddev, correlation, smooth_eps)[0])
    s0, s1 = map(float, stddev)
    r, e = float(correlation), smooth_eps
    u = abs(float(x[0]) - float(mean[0])) / (s0 + e)
    v = abs(float(x[1]) - float(mean[1])) / (s1 + e)
    q = (1 - r) * (1 + r)
    c = 1 / (q + e)
    z = u**2 + v**2 + 2 * abs(r) * u * v
    dmean0, dmean1 = c / (s0 + e) * (u + abs(r) * v), c / (s1 + e) * (v + abs(r) * u)
    return [
        density * (1 + z / (2 * q + e)),
        dmean0,
        dmean1,
        u * s0 * dmean0 + 1,
        v * s1 * dmean1 + 1,
        u * v + abs(r) * (1 + c * z),
    ]
