"""Expectation-maximisation until convergence, accelerated by steps that never lower the likelihood.

A step of expectation-maximisation maps coordinates x to g(x). With f = g(x) - x, and the differences F and G of f and g
from step to step, three steps are tried in this order until one does not lower the likelihood:

    Anderson mixing  g - G c, where c minimises |f - F c|^2 + lambda |c|^2 (Anderson, J. ACM 12, 1965); lambda falls
                     with success, as in DAAREM (Henderson & Varadhan, J. Comput. Graph. Stat. 28, 2019)
    a long step      x + a f, a = |f before| / |f - f before|, the length of SQUAREM (Varadhan & Roland, Scand. J.
                     Stat. 35, 2008): it follows a ridge, where f hardly changes
    a plain step     g

The coordinates are unconstrained, so that any combination of them is a mixture.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cymdn._points import Doubles
from cymdn._search import components, total

WINDOW = 10  # remembered steps
LAST = 5  # steps over which the gain is measured
LONGEST = 64.0  # the limit of a, as in SQUAREM
SHORTEST = 1.5  # the a below which a plain step is as good
FURTHEST = 30.0  # largest change of a coordinate that is tried
SMALLEST_LOG = -690.0  # of weights; those below e^-600 are 0
MOST_DAMPING, LEAST_DAMPING = 1e2, 1e-14


class Ascent(NamedTuple):
    """Where an ascent ended."""

    estimate: Doubles
    steps: int
    converged: bool


class Place(NamedTuple):
    """An estimate, its coordinates, its log-likelihood per point, and the estimate after a plain step."""

    x: Doubles
    estimate: Doubles
    likelihood: float
    improved: Doubles

    @property
    def g(self) -> Doubles:
        """Coordinates after a plain step."""
        return coordinates(self.improved)


def coordinates(estimate: Doubles) -> Doubles:
    """Return logarithms of the weights and of the Cholesky factors' diagonals; means and l10 unchanged."""
    x = estimate.copy()
    each = components(x)
    with np.errstate(divide="ignore"):
        each[:, 0] = np.maximum(np.log(each[:, 0]), SMALLEST_LOG)
        x[-1] = max(np.log(x[-1]), SMALLEST_LOG)
    each[:, 3], each[:, 5] = np.log(each[:, 3]), np.log(each[:, 5])
    return x


def from_coordinates(x: Doubles, background: bool) -> Doubles:
    """Return the estimate with these coordinates."""
    estimate = x.copy()
    each = components(estimate)
    each[:, 3], each[:, 5] = np.exp(each[:, 3]), np.exp(each[:, 5])
    largest = max(each[:, 0].max(), x[-1])
    each[:, 0] = np.where(each[:, 0] < -600.0, 0.0, np.exp(each[:, 0] - largest))
    estimate[-1] = np.exp(x[-1] - largest) if background else 0.0
    weight = each[:, 0].sum() + estimate[-1]
    each[:, 0] /= weight
    estimate[-1] /= weight
    return estimate


def ascend(
    expect: Callable[[Doubles], Doubles],
    maximise: Callable[[Doubles, Doubles], Doubles],
    estimate: Doubles,
    tolerance: float,
    most: int,
    callback: Callable[[int, float], object],
) -> Ascent:
    """Ascend until five steps together gain less than `tolerance` nats per point, for at most `most` E steps.

    The last step is always a plain one, so that the variances include the floor.
    """
    background = bool(estimate[-1] > 0)
    steps = 0

    def evaluate(x: Doubles, estimate: Doubles) -> Place:
        nonlocal steps
        sums = expect(estimate)
        steps += 1
        likelihood = float(sums[-1]) / total(sums)
        callback(steps, likelihood)
        return Place(x, estimate, likelihood, maximise(sums, estimate))

    def reached(x: Doubles) -> Place | None:
        """Return the place with these coordinates, or None if it is lower or too far away."""
        if steps + 1 >= most or not np.isfinite(x).all() or np.abs(x - here.x).max() > FURTHEST:
            return None
        place = evaluate(x, from_coordinates(x, background))
        return place if place.likelihood >= here.likelihood else None

    here = evaluate(coordinates(estimate), estimate)
    g, history, damping = here.g, [here.likelihood], 1e-3
    f = g - here.x
    of_f: list[Doubles] = []
    of_g: list[Doubles] = []
    while steps < most:
        place = None
        if of_f:
            place = reached(g - mix(np.stack(of_f), f, damping) @ np.stack(of_g))
            damping = max(damping / 10, LEAST_DAMPING) if place else min(damping * 100, MOST_DAMPING)
            if place is None:
                length = min(norm(f - of_f[-1]) / max(norm(of_f[-1]), 1e-300), LONGEST)
                place = reached(here.x + length * f) if length > SHORTEST else None
        here = place or evaluate(g, here.improved)
        next_g = here.g
        next_f = next_g - here.x
        of_f, of_g = [*of_f, next_f - f][-WINDOW:], [*of_g, next_g - g][-WINDOW:]
        g, f = next_g, next_f
        history.append(here.likelihood)
        if len(history) > LAST and history[-1] - history[-1 - LAST] < tolerance:
            return Ascent(here.improved, steps, True)
    return Ascent(here.improved, steps, False)


def mix(differences: Doubles, f: Doubles, damping: float) -> Doubles:
    """Return c for the rows of F, scaled to length 1; damping is in units of their largest singular value."""
    sizes = np.sqrt((differences**2).sum(axis=1)) + 1e-300
    u, s, vt = np.linalg.svd(differences.T / sizes, full_matrices=False)
    # all differences may be 0, if a maximum is reached exactly
    return np.asarray(vt.T @ (s / (s * s + damping * s[0] ** 2 + 1e-300) * (u.T @ f)) / sizes)


def norm(vector: Doubles) -> float:
    """Return the length of a vector."""
    return float(np.sqrt(vector @ vector))
