"""Expectations over mixtures, as sums over quadrature points of each component.

Points are given in the coordinates in which a component is round, and are the same for all components.
"""

import zlib
from collections.abc import Callable
from functools import cache
from math import log, pi
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cymdn._parameters import Parameters
from cymdn._univariate import weighted_sum

Doubles = NDArray[np.float64]
Mixture = Any  # a BivariateMixture; its module imports this one

LEVEL_POINTS = 4096  # of each component, to find the level of a credible region
FEWEST, MOST = 64, 512  # radii, and angles, of the rules for expectations
FARTHEST = 9.0  # radius; the mass beyond it is 3e-18
SETTLED = 5e-5  # nats, from one rule to the next; widely different components need dense points


@cache
def polar_rule(count: int) -> tuple[Doubles, Doubles, Doubles]:
    """Return points (2 arrays) and weights of a rule for the expectation over the round normal distribution.

    Gauss-Legendre nodes as radii, equidistant angles, rotated by half a step at every second radius.
    """
    nodes, weights = np.polynomial.legendre.leggauss(count)
    radius = 0.5 * FARTHEST * (nodes[:, None] + 1.0)
    masses = 0.5 * FARTHEST * weights[:, None] * radius * np.exp(-0.5 * radius**2)
    angle = 2.0 * np.pi * (np.arange(count) + 0.5 * (np.arange(count)[:, None] % 2)) / count
    shares = np.repeat(masses / masses.sum() / count, count, axis=-1)
    return tuple(array.reshape(-1) for array in (radius * np.cos(angle), radius * np.sin(angle), shares))  # type: ignore[return-value]


def settled(expectation: Callable[[tuple[Doubles, Doubles, Doubles]], float]) -> float:
    """Return an expectation by rules of more and more points, until the next one makes no difference."""
    count = FEWEST
    last, value = np.nan, expectation(polar_rule(count))
    while count < MOST and not abs(value - last) <= SETTLED and abs(value) < np.inf:
        count *= 2
        last, value = value, expectation(polar_rule(count))
    return value


def points_of(p: Parameters, n0: Doubles, n1: Doubles) -> Doubles:
    """Return the points (M, k, 2) of the components of a single mixture at (n0, n1), (k,) or (M, k)."""
    (s0, s1), r = np.moveaxis(p.stddevs(), -1, 0), p.correlations()
    second = r[:, None] * n0 + np.exp(-p.log_kappa())[:, None] * n1
    with np.errstate(over="ignore"):
        offset = np.stack([s0[:, None] * n0, s1[:, None] * second], axis=-1)
        points: Doubles = p.means()[:, None, :] + offset
    return points


def log_heights(p: Parameters) -> Doubles:
    """Return the log-densities of components at their means, (..., M)."""
    heights: Doubles = p.log_kappa() - p.log_stddevs().sum(axis=-1) - log(2.0 * pi)
    return heights


def entropy(mixture: Mixture, workers: int | None) -> float:
    """Differential entropy of a single mixture, in nats.

    The entropy of each component is known; only the overlap is a sum, of logarithms of responsibilities. The entropy of
    the weights bounds it (Huber et al., "On entropy approximation for Gaussian mixture random variables", 2008, eq. 5).
    """
    p = mixture._parameters
    weights, log_weights, heights = np.exp(p.log_weights()), p.log_weights(), log_heights(p)

    def overlap(rule: tuple[Doubles, Doubles, Doubles]) -> float:
        n0, n1, shares = rule
        own = (log_weights + heights)[:, None] - 0.5 * (n0**2 + n1**2)
        return float(weighted_sum(weights, (own - mixture.logpdf(points_of(p, n0, n1), workers=workers)) @ shares))

    with np.errstate(invalid="ignore", over="ignore"):
        alone = float(weighted_sum(weights, 1.0 - heights))
        apart = -float(weighted_sum(weights, log_weights))
        return alone + float(np.clip(apart + settled(overlap), 0.0, apart))


def kl_divergence(p: Mixture, q: Mixture, workers: int | None) -> float:
    """Kullback-Leibler divergence of single mixtures, from p to q, in nats: at least 0; inf where q has no density."""
    weights = np.exp(p._parameters.log_weights())

    def difference(rule: tuple[Doubles, Doubles, Doubles]) -> float:
        n0, n1, shares = rule
        points = points_of(p._parameters, n0, n1)
        values = p.logpdf(points, workers=workers) - q.logpdf(points, workers=workers)
        return float(weighted_sum(weights, values @ shares))

    with np.errstate(invalid="ignore", over="ignore"):
        return max(settled(difference), 0.0)


def levels(mixture: Mixture, masses: Doubles) -> Doubles:
    """Return the levels, as log-densities, whose regions hold these masses, for a single mixture."""
    k = np.arange(LEVEL_POINTS)
    # equally probable radii, each rotated by the golden angle from the one before
    radius = np.sqrt(-2.0 * np.log1p(-(k + 0.5) / LEVEL_POINTS))
    angle = np.pi * (3.0 - np.sqrt(5.0)) * k
    p = mixture._parameters
    # a random rotation for each component, from a hash: no choice of parameters can make it unsuitable
    seed = zlib.crc32(np.concatenate([p.weights(), p.packed[p.n_components :]]).astype("<f8").tobytes())
    turn = np.random.default_rng(seed).uniform(0.0, 2.0 * np.pi, (p.n_components, 1))
    value = mixture.logpdf(points_of(p, radius * np.cos(angle + turn), radius * np.sin(angle + turn))).reshape(-1)
    order = np.argsort(-value)
    weights = np.repeat(np.exp(p.log_weights()), LEVEL_POINTS)[order] / LEVEL_POINTS
    held = np.cumsum(weights) - 0.5 * weights
    # exp of these bounds is 0 and inf; the result is clipped to its neighbours, because the interpolation is rounded
    value = np.clip(value[order], -1000.0, 1000.0)
    k = np.searchsorted(held, masses)
    found: Doubles = np.interp(masses, held, value)
    return np.clip(found, value[np.minimum(k, len(value) - 1)], value[np.maximum(k - 1, 0)])
