"""The search for a start: greedy k-means++, then removing and splitting components as long as the likelihood gains.

Each trial is a few steps of expectation-maximisation on a sample, in compiled code. Removing a component of low value
and splitting one that fits badly is the split-and-merge idea (Ueda, Nakano, Ghahramani & Hinton, Neural Comput. 12,
2000), here in random order, so that no trial is repeated.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from cymdn import _distribution_kernels as kernels
from cymdn._points import KNOWN, SMALLEST, Doubles, Model, Points
from cymdn._running import check_done, run

T = TypeVar("T")

SHORT = 15  # steps from each start
ROUNDS = 30  # of k-means
FINE = 60  # steps from the best start
STAGES = (5, 5, 10, 10)  # steps of a trial, which ends early if it falls behind
OPTIMISM = (3.0, 2.0, 1.0)  # a trial may be behind by this factor times the gain of its last stage
LEAST_GAIN = 1e-6  # nats per point that a trial must gain
SPIKE = 0.5  # trace of C^-1 F above which a component counts as collapsed: 1.4 floors wide in one direction
LEAST_POINTS = 2.5  # of a component: two are always on a line
FAILURES = 5  # in a row that end the search, plus one for each component
FEW = 4  # starts of each search after the first one
SEARCHES = 6  # at most
SEARCH_WORK = 1_500_000  # points times components times steps that searches after the first may take
WORK = 1 << 23  # points times components times steps of one call: Python checks for Ctrl-C between calls
HALF_NORMAL = 0.7978845608028654  # sqrt(2 / pi): the mean of a normal number's absolute value
# variances of two components that split one by width, in units of its variance
NARROW, WIDE = 0.3, 1.7
WORTH = 7  # numbers of the kernel's Worth: likelihood lost, mass, five fourth moments
ANGLES: Doubles = np.pi / 12 * np.arange(12.0)
TEMPERATURE = 0.1  # of removals, in units of the mean value of a component


class Climbed(NamedTuple):
    """An estimate, its log-likelihood per point, and the sums of its E step."""

    likelihood: float
    estimate: Doubles
    sums: Doubles


def components(estimate: Doubles) -> Doubles:
    """Return a view of the components, (M, 6): weight, mean, Cholesky factor."""
    return estimate[:-1].reshape(-1, 6)


def total(sums: Doubles) -> float:
    """Return the weight of all points: that of the components and of the background."""
    return float(sums[:-2:6].sum() + sums[-2])


def maximise(model: Model, sums: Doubles, estimate: Doubles) -> Doubles:
    """Return the estimate of the M step from the sums of the E step."""
    improved = estimate.copy()
    check_done(kernels.maximise_moments(sums, *model[:2], improved))
    return improved


def climb(points: Points, model: Model, estimate: Doubles, steps: int, gain: float = 0.0) -> Climbed:
    """Take steps until one gains less than `gain` nats per point."""
    improved, sums = estimate.copy(), np.empty(len(estimate) + 1)
    n, m = points.planes.shape[1], len(estimate) // 6
    weight = float(points.planes[2].sum())
    scratch, last = np.empty((kernels.FIT_PLANES, m)), -np.inf
    piece = max(2, WORK // (n * m))
    while steps > 0:
        these = min(steps, piece)
        check_done(kernels.climb(*points, *model[:2], improved, scratch, these, gain * weight, last, sums))
        steps -= these
        if sums[-1] - last < gain * weight:
            break
        last = sums[-1]
        if steps > 0:
            check_done(kernels.maximise_moments(sums, *model[:2], improved))
    return Climbed(float(sums[-1]) / weight, improved, sums)


# Starts


def start(points: Points, model: Model, first: Doubles, rng: np.random.Generator) -> Doubles:
    """Return an estimate whose components are k-means clusters, with coordinates scaled to variance 1.

    Parameters that the points do not determine are those of `first`, except means and weights.
    """
    weight = points.planes[2]
    m = len(first) // 6
    each_coordinate = points.planes[:2]
    spread = np.sqrt(each_coordinate**2 @ weight / weight.sum())[:, None] + SMALLEST  # their mean is near 0
    scaled = each_coordinate / spread
    centers = scaled[:, _seeds(scaled, weight, m, rng)]
    nearest = _nearest(scaled, centers)
    for _ in range(ROUNDS):
        mass = np.bincount(nearest, weight, m)
        moved = np.stack([np.bincount(nearest, weight * coordinate, m) for coordinate in scaled])
        centers = np.where(mass > 0, moved / np.maximum(mass, 1e-300), centers)
        before, nearest = nearest, _nearest(scaled, centers)
        if (nearest == before).all():
            break
    estimate = first.copy()
    each = components(estimate)
    each[:, 1:3] = (centers * spread).T
    m0, m1, l00, l10, l11 = each[nearest, 1:].T
    u = (each_coordinate[0] - m0) / l00
    k = (each_coordinate[1] - m1 - l10 * u) / l11
    sums = np.zeros(len(first) + 1)
    for column, values in enumerate((np.ones_like(u), u, k, u * u, u * k, k * k)):
        sums[column:-2:6] = np.bincount(nearest, weight * values, m)
    sums[-2] = estimate[-1] * weight.sum()
    return maximise(model, sums, estimate)


def _seeds(points: Doubles, weight: Doubles, m: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return indices of points (2, n) by greedy k-means++ (Arthur & Vassilvitskii, SODA 2007, section 7).

    Each is the best of a few candidates, sampled in proportion to the squared distance from those before.
    """
    chosen = _draw(weight, 1, rng)
    distance = _distances(points, points[:, chosen])[0]
    for _ in range(1, m):
        mass = weight * distance
        drawn = _draw(mass if mass.any() else weight, 2 + int(np.log(m)), rng)
        reached = np.minimum(distance, _distances(points, points[:, drawn]))
        best = int(np.argmin(reached @ weight))
        chosen, distance = np.append(chosen, drawn[best]), reached[best]
    return chosen


def _distances(points: Doubles, centers: Doubles) -> Doubles:
    """Return squared distances of points (2, n) from centers (2, m), (m, n)."""
    return np.asarray((points[0] - centers[0][:, None]) ** 2 + (points[1] - centers[1][:, None]) ** 2)


def _nearest(points: Doubles, centers: Doubles) -> NDArray[np.intp]:
    return np.asarray(np.argmin(_distances(points, centers), axis=0))


def _draw(mass: Doubles, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Sample indices in proportion to mass."""
    cumulative = np.cumsum(mass)
    places = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], "right")
    return np.asarray(np.minimum(places, len(mass) - 1))


# Remove and split


class Chances(NamedTuple):
    """For each component: probabilities of removal and of a split, and how its shape differs from a Gaussian."""

    removal: Doubles
    split: Doubles
    angle: Doubles  # of the direction in which the fourth moment is farthest from 3
    excess: Doubles  # of the fourth moment there


def remove_and_split(points: Points, model: Model, found: Climbed, rng: np.random.Generator) -> Climbed:
    """Improve an estimate by moving components, until several trials in a row have failed."""
    m = len(found.estimate) // 6
    effective = _effective_count(points)
    failures, chances = 0, None
    while m > 1 and failures < m + FAILURES:
        chances = chances or _chances(points, model, found, effective)
        removed = int(rng.choice(m, p=chances.removal))
        split = int(rng.choice(m, p=_without(chances.split, removed)))
        reached = _race(points, model, _moved(points, model, found, removed, split, chances, rng), found.likelihood)
        gains = reached.likelihood > found.likelihood + LEAST_GAIN
        if gains and _spikes(reached, model, effective) <= _spikes(found, model, effective):
            found, failures, chances = reached, 0, None
        else:
            failures += 1
    return found


def _spikes(found: Climbed, model: Model, effective: float) -> int:
    """Return how many components have too few points, or have shrunk to the size of the floor around a few points.

    The likelihood of such a spike is high only because the floor is small. Starts may lead to one; trials must not
    search for more. A narrow component of at least half the mean weight does not count: so many points are no accident.
    """
    weight, _, _, l00, l10, l11 = components(found.estimate).T
    floor0, floor1 = model.settings[:2]
    trace = (floor0 / l00) ** 2 + (floor0 * (l10 / l00) / l11) ** 2 + (floor1 / l11) ** 2  # of C^-1 F, at most 2
    shrunk = (trace > SPIKE) & (weight < 0.5 / len(weight))
    return int((shrunk | (weight * effective < LEAST_POINTS)).sum())


def _race(points: Points, model: Model, trial: Doubles, target: float) -> Climbed:
    """Climb from a trial as long as it may still exceed the target."""
    reached, before = climb(points, model, trial, STAGES[0]), -np.inf
    for steps, optimism in zip(STAGES[1:], OPTIMISM, strict=True):
        if reached.likelihood + optimism * (reached.likelihood - before) < target:
            break
        before = reached.likelihood
        reached = climb(points, model, maximise(model, reached.sums, reached.estimate), steps)
    return reached


def _effective_count(points: Points) -> float:
    """Return the effective sample size of the weights (Kish)."""
    weight = points.planes[2]
    return float(weight.sum() ** 2 / (weight @ weight))


def _chances(points: Points, model: Model, found: Climbed, effective: float) -> Chances:
    """Return the chances of removing and of splitting each component.

    A component is more likely to be removed if less likelihood is lost without it. It is more likely to be split if the
    fourth moment of its points in some direction differs more, in standard errors, from 3, that of a Gaussian: below 3
    there are two clusters side by side, above 3 a narrow cluster in a wide one.
    """
    m = len(found.estimate) // 6
    worth = np.empty((m, WORTH))
    scratch = np.empty((kernels.FIT_PLANES, m))
    check_done(kernels.inspect_components(*points, *model[:2], found.estimate, scratch, worth))
    lost, mass = worth[:, 0], np.maximum(worth[:, 1], 1e-300)
    removal = np.exp(-lost / (lost.min() + TEMPERATURE * lost.mean() + 1e-300))
    c, s = np.cos(ANGLES), np.sin(ANGLES)
    directions = np.stack([c**4, 4 * c**3 * s, 6 * c**2 * s**2, 4 * c * s**3, s**4])
    excess = np.clip(worth[:, 2:] @ directions / mass[:, None] - 3.0, -3.0, 1e6)
    which = np.argmax(np.abs(excess), axis=1)
    excess = excess[np.arange(m), which]
    # the fourth power of a Gaussian has the variance 96, of which the second power, which is known, explains 72
    split = np.where(worth[:, 1] > 0, 1.0 + effective * mass / points.planes[2].sum() * excess**2 / 24.0, 1e-300)
    return Chances(removal / removal.sum(), split / split.sum(), ANGLES[which], excess)


def _without(chances: Doubles, index: int) -> Doubles:
    rest = chances.copy()
    rest[index] = 0.0
    if not rest.any():
        rest[:] = 1.0
        rest[index] = 0.0
    return np.asarray(rest / rest.sum())


def _moved(
    points: Points,
    model: Model,
    found: Climbed,
    removed: int,
    split: int,
    chances: Chances,
    rng: np.random.Generator,
) -> Doubles:
    """Return an estimate in which the removed component becomes a part of the split one, or of its surroundings.

    One of three ways, at random: the halves of a Gaussian on both sides of a line through its mean; a narrow and a wide
    one at the same place; one of random shape around a point.
    """
    estimate, sums = found.estimate.copy(), found.sums.copy()
    each, moments = components(estimate), sums[:-2].reshape(-1, 6)
    if model.covariance_type == KNOWN:
        each[removed, :3] = each[split, :3]
    else:
        each[removed] = each[split]
    half = 0.5 * moments[split, 0]
    likely = (0, 0, 0, 1, 2) if chances.excess[split] < 0 else (0, 1, 1, 2, 2)
    kind = 0 if model.covariance_type == KNOWN else likely[rng.integers(5)]
    if kind == 0:
        angle = chances.angle[split] if rng.random() < 0.5 else rng.uniform(0.0, np.pi)
        away = HALF_NORMAL * np.array([np.cos(angle), np.sin(angle)])
        moments[split] = half * np.array([1.0, *away, 1.0, 0.0, 1.0])
        moments[removed] = half * np.array([1.0, *-away, 1.0, 0.0, 1.0])
    elif kind == 1:
        moments[split] = half * np.array([1.0, 0.0, 0.0, NARROW, 0.0, NARROW])
        moments[removed] = half * np.array([1.0, 0.0, 0.0, WIDE, 0.0, WIDE])
    else:
        _, m0, m1, l00, l10, l11 = each[split]
        dx, dy = points.planes[:2, rng.integers(points.planes.shape[1])] - (m0, m1)
        u = dx / l00
        k = (dy - l10 * u) / l11
        s0, s1 = 10.0 ** rng.uniform(-4.0, 0.0, 2)
        moments[removed] = half * np.array([1.0, u, k, u * u + s0, u * k, k * k + s1])
    return maximise(model, sums, estimate)


# The whole search


def search(points: Points, model: Model, first: Doubles, restarts: int, rng: np.random.Generator) -> Doubles:
    """Return the best estimate of one search from the best of several starts, or of several if points are few."""
    n, m = points.planes.shape[1], len(first) // 6
    searches = count_searches(n, m)
    starts = [restarts] + [min(restarts, FEW)] * (searches - 1)
    streams = rng.spawn(sum(starts) + searches)
    filled = points._replace(both=n, first=n)  # to choose starts, missing coordinates are 0, in the middle

    def climb_start(k: int) -> Climbed:
        return climb(points, model, start(filled, model, first, streams[k]), SHORT, 1e-4)

    def search_from(k: int) -> Climbed:
        mine = climbed[sum(starts[:k]) : sum(starts[: k + 1])]
        least = LEAST_POINTS / _effective_count(points)
        good = [found for found in mine if components(found.estimate)[:, 0].min() >= least] or mine
        best = max(good, key=lambda found: found.likelihood)
        best = climb(points, model, best.estimate, FINE, 1e-5)
        return remove_and_split(points, model, best, streams[k - searches])

    climbed = in_threads(climb_start, sum(starts), model.workers)
    found = in_threads(search_from, searches, model.workers)
    return max(found, key=lambda found: found.likelihood).estimate


def count_searches(n: int, m: int) -> int:
    """Return the number of searches: several for few points, which are fast and have many maxima."""
    steps = FEW * SHORT + FINE + sum(STAGES) * m // 2
    return min(1 + SEARCH_WORK // (n * m * steps), SEARCHES) if m > 1 else 1


def in_threads(call: Callable[[int], T], count: int, workers: int) -> list[T]:
    """Return call(0), call(1), ..., evaluated by this many workers."""
    results: list[Any] = [None] * count

    def work(k: int, _: int, __: Doubles) -> bool:
        results[k] = call(k)
        return True

    workers = min(workers, count)
    bounds = [count * k // workers for k in range(workers + 1)]
    run(work, 1, list(pairwise(bounds)), 1)
    return results
