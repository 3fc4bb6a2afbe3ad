"""Measure the effect of the guards in public code on the loss and its gradient.

    python tools/where_others_break.py                                   print the tables of docs/where-others-break.md
    python tools/where_others_break.py --check docs/where-others-break.md   exit with 1 if a line is not in that file

Each guard is written anew from the formula in the file that the page names; no code is taken from there. The exact
values are computed by mpmath from the same raw output. exp, log and tanh in float32 are those of float64, rounded:
NumPy's own differ between machines.
"""

import argparse
import sys
from math import pi, sqrt
from pathlib import Path
from typing import NamedTuple

import mpmath
import numpy as np

from cymdn import mdn_loss, mdn_loss_and_gradient

DIGITS = 60
TOLERANCE = 1e-3  # nats: error of a correct value in the first table
TWO_PI, LOG_TWO_PI = 2 * pi, float(np.log(2 * pi))


class Raw(NamedTuple):
    """One component in float32, as a network returns it, and a point."""

    x: tuple[float, float]
    log_stddev: tuple[float, float] = (0.0, 0.0)
    a: float = 0.0  # atanh of the correlation


class Component(NamedTuple):
    """Its parameters in the dtype of an implementation: offsets from the mean, standard deviations, correlation."""

    d0: np.floating
    d1: np.floating
    s0: np.floating
    s1: np.floating
    r: np.floating


def component(raw, dtype):
    def rounded(value):
        return dtype(float(value))

    float32 = [[float(np.float32(value)) for value in pair] for pair in (raw.x, raw.log_stddev, [raw.a])]
    (d0, d1), (l0, l1), (a,) = float32
    return Component(rounded(d0), rounded(d1), rounded(np.exp(l0)), rounded(np.exp(l1)), rounded(np.tanh(a)))


def exact(raw):
    """The loss of one component of weight 1, from raw output rounded to float32, to 60 digits."""
    with mpmath.workdps(DIGITS):
        d0, d1, l0, l1, a = (mpmath.mpf(float(np.float32(value))) for value in (*raw.x, *raw.log_stddev, raw.a))
        u, v = d0 * mpmath.exp(-l0), d1 * mpmath.exp(-l1)
        distance = (u**2 + v**2 - 2 * mpmath.tanh(a) * u * v) * mpmath.cosh(a) ** 2
        return mpmath.log(2 * mpmath.pi) + l0 + l1 - mpmath.log(mpmath.cosh(a)) + distance / 2


def exp(x):
    return type(x)(np.exp(np.float64(x)))


def log(x):
    return type(x)(np.log(np.float64(x)))


# The forms without guards


def density(c):
    u, v = c.d0 / c.s0, c.d1 / c.s1
    q = 1 - c.r * c.r
    z = u * u + v * v - 2 * c.r * u * v
    return exp(-z / (2 * q)) / (TWO_PI * c.s0 * c.s1 * np.sqrt(q))


def log_form(c, q=None):
    u, v = c.d0 / c.s0, c.d1 / c.s1
    q = 1 - c.r * c.r if q is None else q
    return LOG_TWO_PI + log(c.s0) + log(c.s1) + log(q) / 2 + (u * u + v * v - 2 * c.r * u * v) / (2 * q)


def cholesky(c, jitter=0.0):
    """The loss from the covariance matrix plus a multiple of the identity."""
    l00 = np.sqrt(c.s0 * c.s0 + jitter)
    l10 = c.r * c.s0 * c.s1 / l00
    square = c.s1 * c.s1 + jitter - l10 * l10
    if square <= 0:
        raise np.linalg.LinAlgError("not positive definite")
    l11 = np.sqrt(square)
    y0 = c.d0 / l00
    y1 = (c.d1 - l10 * y0) / l11
    return LOG_TWO_PI + log(l00) + log(l11) + (y0 * y0 + y1 * y1) / 2


# The guards


def clipped_everywhere(c):
    """Clips of sigma at 1e-4, of the correlation at 1 - 1e-8, of the density at 1e-8."""
    limit = type(c.r)(1 - 1e-8)
    p = density(c._replace(s0=max(c.s0, 1e-4), s1=max(c.s1, 1e-4), r=np.clip(c.r, -limit, limit)))
    return -log(np.maximum(p, 1e-8))


def five_epsilons(c):
    u, v, e = c.d0 / (c.s0 + 1e-8), c.d1 / (c.s1 + 1e-8), 1e-8
    q = 1 - c.r * c.r
    z = u * u + v * v - 2 * c.r * c.d0 * c.d1 / (c.s0 * c.s1 + e)
    p = exp(-z / (2 * q + e)) / (TWO_PI * c.s0 * c.s1 * np.sqrt(q) + e)
    return -log(p + 1e-16 + 1e-16)


def epsilons_in_the_logarithm(c):
    u, v, q, e = c.d0 / (c.s0 + 1e-6), c.d1 / (c.s1 + 1e-6), 1 - c.r * c.r, 1e-6
    z = u * u + v * v - 2 * c.r * u * v
    return LOG_TWO_PI + log(c.s0) + log(c.s1) + log(q + e) / 2 + z / (2 * q + e)


def narrow_ranges(c):
    """Log sigma within [-1.609, 5], correlation within 1/2; its missing log 2 pi is added."""
    dtype = type(c.r)
    s0, s1 = (np.clip(s, dtype(exp(-1.609)), dtype(exp(5.0))) for s in (c.s0, c.s1))
    return log_form(c._replace(s0=s0, s1=s1, r=np.clip(c.r, dtype(-0.5), dtype(0.5))))


def smoothed(c):
    e = 1e-10
    u, v, q = c.d0 / (c.s0 + e), c.d1 / (c.s1 + e), 1 - c.r**2
    z = np.maximum(u**2 + v**2 - 2 * c.r * u * v, 0)
    return -log(exp(-z / (2 * q + e)) / (TWO_PI * c.s0 * c.s1 * np.sqrt(q + e) + e))


def in_float32(loss):
    return lambda raw: loss(component(raw, np.float32))


LOSSES = {
    "`log(p)`": in_float32(lambda c: -log(density(c))),
    "`log(max(p, 1e-20))`": in_float32(lambda c: -log(np.maximum(density(c), 1e-20))),
    "`log(p + 1e-8)`": in_float32(lambda c: -log(density(c) + 1e-8)),
    "`log(p + 1e-6)`": in_float32(lambda c: -log(density(c) + 1e-6)),
    "`log(p + 1e-5)`": in_float32(lambda c: -log(density(c) + 1e-5)),
    "clips of sigma, r, p": in_float32(clipped_everywhere),
    "epsilons in five places": in_float32(five_epsilons),
    "covariance + 1e-6 I, then `log(p + 1e-5)`": in_float32(lambda c: -log(exp(-cholesky(c, 1e-6)) + 1e-5)),
    "log form": in_float32(log_form),
    "log form, 1e-6 on sigma and 1 - r^2": in_float32(epsilons_in_the_logarithm),
    "log form, 1 - r^2 at least 1e-5": in_float32(lambda c: log_form(c, np.maximum(1 - c.r * c.r, 1e-5))),
    "log form, sigma and r in narrow ranges": in_float32(narrow_ranges),
    "covariance matrix, Cholesky": in_float32(cholesky),
    "the original function, in float64": lambda raw: smoothed(component(raw, np.float64)),
    "`cymdn.mdn_loss`": lambda raw: mdn_loss(*cymdn_arguments(raw, np.float32)),
}

CASES = {
    "5 sigma": Raw((5.0, 0.0)),
    "15 sigma": Raw((15.0, 0.0)),
    "a = 4": Raw((0.7, 0.72), a=4.0),
    "a = 8": Raw((0.7, 0.7004), a=8.0),
    "a = -8": Raw((0.7, -0.7004), a=-8.0),
    "a = 10": Raw((0.7, 0.7), a=10.0),
    "sigma 1e-5": Raw((1e-5, 0.0), (-11.5, -11.5)),
    "sigma 1e-8": Raw((1e-8, 0.0), (-18.4, -18.4)),
}


def cymdn_arguments(raw, dtype):
    """Raw output (1, 6) of one component with mean 0, and the point."""
    (l0, l1), a = raw.log_stddev, raw.a
    rows = np.array([[0.0, 0.0, 0.0, l0, l1, a]], np.float32), np.array([raw.x], np.float32)
    return [row.astype(dtype) for row in rows]


def cell(loss, raw):
    """Return "ok", or the wrong result."""
    try:
        value = float(loss(raw))
    except np.linalg.LinAlgError:
        return "error"
    if np.isnan(value):
        return "NaN"
    return "ok" if abs(value - exact(raw)) <= TOLERANCE else f"{value:.4g}"


def table_of_losses():
    yield f"| loss in nats | {' | '.join(CASES)} |"
    yield "|---" * (len(CASES) + 1) + "|"
    yield f"| **exact** | {' | '.join(f'{float(exact(raw)):.4g}' for raw in CASES.values())} |"
    for name, loss in LOSSES.items():
        yield f"| {name} | {' | '.join(cell(loss, raw) for raw in CASES.values())} |"


# The share of the gradient of log p that remains with a guard around p in float32
SHARES = {
    "`log(p)`": lambda p: p / p,
    "`log(max(p, 1e-20))`": lambda p: float(p > 1e-20),
    "`log(p + 2e-16)`": lambda p: p / (p + 2e-16),
    "`log(max(p, 1e-8))`": lambda p: float(p > 1e-8),
    "`log(p + 1e-8)`": lambda p: p / (p + 1e-8),
    "`log(p + 1e-6)`": lambda p: p / (p + 1e-6),
    "`log(p + 1e-5)`": lambda p: p / (p + 1e-5),
}
DISTANCES = (2, 3, 4, 5, 6, 8, 10, 15, 40)


def share_cell(share):
    return "NaN" if np.isnan(share) else f"{share:.2g}" if share > 1e-3 or share == 0 else f"{share:.0e}"


def table_of_gradients():
    yield f"| share left at a distance (sigma) of | {' | '.join(map(str, DISTANCES))} |"
    yield "|---" * (len(DISTANCES) + 1) + "|"
    for name, share in SHARES.items():
        # float32, denormal numbers included
        densities = [np.float32(np.exp(-0.5 * d * d - LOG_TWO_PI)) for d in DISTANCES]
        yield f"| {name} | {' | '.join(share_cell(share(p)) for p in densities)} |"
    shares = []
    for d in DISTANCES:
        _, gradient = mdn_loss_and_gradient(*cymdn_arguments(Raw((d, 0.0)), np.float32))
        shares.append(gradient[0, 1] / -d)  # d loss / d mean = -(x - mean) / sigma^2
    yield f"| `cymdn.mdn_loss_and_gradient` | {' | '.join(map(share_cell, shares))} |"


def typical_points(a, radii=8, angles=25):
    """Points distributed like samples of the component, but not random."""
    radius = np.sqrt(-2 * np.log1p(-(np.arange(radii) + 0.5) / radii))[:, None]
    angle = 2 * pi * (np.arange(angles) + 0.5) / angles
    n0, n1 = (radius * np.cos(angle)).ravel(), (radius * np.sin(angle)).ravel()
    return zip(n0.tolist(), (np.tanh(a) * n0 + n1 / np.cosh(a)).tolist(), strict=True)


def error_cell(error):
    if np.isnan(error):
        return "NaN"
    return f"{error:.0e}" if error > 1e-13 else "< 1e-13"


def worst_error(a, dtype, loss):
    points = [Raw(x, a=a) for x in typical_points(a)]
    errors = [abs(mpmath.mpf(float(loss(raw, dtype))) - exact(raw)) for raw in points]
    return float("nan") if any(map(mpmath.isnan, errors)) else float(max(errors))


def table_of_errors():
    yield "| a | 1 - tanh(a)^2 | log form, float32 | log form, float64 | cymdn, float32 | cymdn, float64 |"
    yield "|---|---|---|---|---|---|"
    evaluations = [
        lambda raw, dtype: log_form(component(raw, dtype)),
        lambda raw, dtype: mdn_loss(*cymdn_arguments(raw, dtype)),
    ]
    for a in (0.5, 2.0, 4.0, 6.0, 8.0, 10.0, 14.0, 18.0):
        errors = [worst_error(a, dtype, loss) for loss in evaluations for dtype in (np.float32, np.float64)]
        yield f"| {a:g} | {1 / np.cosh(a) ** 2:.1e} | {' | '.join(map(error_cell, errors))} |"


def limits():
    """Distances at which a standard normal density in the plane underflows in a dtype."""
    for dtype in (np.float32, np.float64):
        info = np.finfo(dtype)
        normal, denormal = (
            sqrt(2 * (-float(np.log(np.float64(tiny))) - LOG_TWO_PI)) for tiny in (info.tiny, info.smallest_subnormal)
        )
        yield f"- {dtype.__name__}: loses digits beyond {normal:.1f} sigma, is 0 beyond {denormal:.1f}."


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", type=Path, metavar="PAGE")
    page = parser.parse_args().check
    with np.errstate(all="ignore"):
        blocks = [list(block()) for block in (table_of_losses, table_of_gradients, table_of_errors, limits)]
    if page is None:
        print("\n\n".join("\n".join(block) for block in blocks))
        return 0
    present = set(page.read_text().splitlines())
    missing = [line for block in blocks for line in block if line not in present]
    print(*(f"not in {page}: {line}" for line in missing), sep="\n", end="\n" * bool(missing))
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main())
