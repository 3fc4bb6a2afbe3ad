"""The points of a fit, in units of their own size, sorted by their known coordinates."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cymdn import _distribution_kernels as kernels
from cymdn._arrays import check_each
from cymdn._running import run, workers_for

Doubles = NDArray[np.float64]

SAMPLE = 4096  # points that the search uses
PIECE = 1 << 14  # points whose moments are summed at once: the same sums for any number of workers
SMALLEST = 1e-70  # ratio of floor to size and of size to offsets: squares of their product are not denormal
RANDOM = 4  # numbers in each block of Philox

COVARIANCE_TYPES = ("full", "diag", "tied", "spherical")  # the kernels use their indices
KNOWN = len(COVARIANCE_TYPES)  # index for known covariance matrices


class Model(NamedTuple):
    """The constraints on components, in the units of the points: arguments of the kernels."""

    covariance_type: int
    settings: Doubles  # two floors; log-densities of the background for both coordinates, the first, the second
    workers: int = 1


class Units(NamedTuple):
    """A point x becomes 2^-scale (2^-size x - center), of size 1; powers of two cause no rounding."""

    size: NDArray[np.intc]  # (2,)
    center: Doubles  # (2,)
    scale: NDArray[np.intc]  # (2,)
    weight: int  # weights are multiplied by 2^-weight

    def of_points(self, points: Doubles) -> Doubles:
        """Return points (n, 2) in these units."""
        return np.asarray(np.ldexp(np.ldexp(points, -self.size) - self.center, -self.scale))

    def of_lengths(self, lengths: Doubles) -> Doubles:
        """Return lengths (..., 2) in these units."""
        return np.asarray(np.ldexp(lengths, -self.size - self.scale))

    def to_points(self, points: Doubles) -> Doubles:
        """Return points in the user's units."""
        return np.asarray(np.ldexp(self.center + np.ldexp(points, self.scale), self.size))

    def to_lengths(self, lengths: Doubles) -> Doubles:
        """Return lengths in the user's units."""
        return np.asarray(np.ldexp(lengths, self.size + self.scale))


class Points(NamedTuple):
    """Points in planes, for the kernels: first those with both coordinates, then the first alone, then the second."""

    planes: Doubles  # (3, n): coordinates, weights
    both: int
    first: int

    def expect(self, model: Model, estimate: Doubles) -> Doubles:
        """Return the moments of the components, the mass of the background and the log-likelihood: the E step."""
        n, m = self.planes.shape[1], len(estimate) // 6
        pieces = -(-n // PIECE)
        sums = np.empty((pieces, 6 * m + 2))

        def call(k: int, _: int, __: Doubles) -> bool:
            last = min((k + 1) * PIECE, n)
            return kernels.expect_moments(
                *self, *model[:2], estimate, np.empty((kernels.FIT_PLANES, m)), k * PIECE, last, sums[k]
            )

        workers = min(workers_for(n * m, model.workers), pieces)
        bounds = [pieces * k // workers for k in range(workers + 1)]
        run(call, m, list(pairwise(bounds)), 1)
        return sums[0] if pieces == 1 else np.asarray(sums.sum(axis=0))


class Summary(NamedTuple):
    """Statistics of all points, or of a chunk, that are needed before the first E step."""

    number: int  # of points with weight > 0 and at least one coordinate
    largest: Doubles  # (2,): absolute values
    low: Doubles  # (2,)
    high: Doubles  # (2,)
    weight: int  # power of two above all weights
    masses: Doubles  # (3,): weights of points with both coordinates, the first alone, the second, times 2^-weight
    sample: Doubles  # (at most SAMPLE + 1, 4): coordinates, weight, logarithm of its priority; in order of index
    indices: NDArray[np.int64]

    def merged(self, other: "Summary") -> "Summary":
        """Return the statistics of the points of both, in this order."""
        weight = max(self.weight, other.weight)
        sample, index = _highest(
            np.concatenate([self.sample, other.sample]), np.concatenate([self.indices, other.indices])
        )
        return Summary(
            self.number + other.number,
            np.maximum(self.largest, other.largest),
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            weight,
            np.ldexp(self.masses, self.weight - weight) + np.ldexp(other.masses, other.weight - weight),
            sample,
            index,
        )


def check_values(array: Doubles, weight: Doubles, missing: bool, start: int = 0) -> None:
    """Check the coordinates of points, except where the weight is 0; the first one has the index `start`."""
    good = np.isfinite(array) | (np.isnan(array) & missing) | (weight == 0)[..., None]
    expected = "finite numbers, or NaN for a coordinate that is missing" if missing else "finite numbers"
    hint = "" if missing or not np.isnan(array).any() else " (allow_missing=True takes NaN as missing)"
    check_each("points", array, good, expected + hint, start)


def check_weights(given: NDArray[Any], start: int = 0) -> None:
    """Check the weights of points; the first one has the index `start`."""
    check_each("sample_weight", given, np.isfinite(given) & (given >= 0), "finite numbers >= 0", start)


def summarise(points: Doubles, weight: Doubles, start: int, key: int) -> Summary:
    """Summarise points (n, 2) with these weights; the first one has the index `start`.

    This is priority sampling (Duffield, Lund & Thorup, J. ACM 54, 2007): the sample has the points with the highest
    priorities, weight / u with u uniform in (0, 1], each with the weight max(its own, the highest priority left out).
    Sums over it are unbiased estimates of those over all points; with equal weights it is a simple random sample. u
    depends on the index alone, not on the chunks.
    """
    bits = np.random.Philox(key=key)
    bits.advance(start // RANDOM)
    u = 1.0 - np.random.Generator(bits).random(len(points) + start % RANDOM)[start % RANDOM :]
    missing = np.isnan(points)
    counts = (weight > 0) & ~missing.all(axis=1)
    index = np.flatnonzero(counts)
    points, weight, missing, u = points[index], weight[index], missing[index], u[index]
    exponent = int(np.frexp(weight.max(initial=0.0))[1])
    scaled = np.ldexp(weight, -exponent)
    priority = np.log(weight) - np.log(u)
    masses = [scaled[~missing.any(axis=1)].sum(), scaled[missing[:, 1]].sum(), scaled[missing[:, 0]].sum()]
    sample, index = _highest(np.column_stack([points, weight, priority]), index + start)
    return Summary(
        len(points),
        np.where(missing, 0.0, np.abs(points)).max(axis=0, initial=0.0),
        np.where(missing, np.inf, points).min(axis=0, initial=np.inf),
        np.where(missing, -np.inf, points).max(axis=0, initial=-np.inf),
        exponent,
        np.array(masses),
        sample,
        index,
    )


def _highest(sample: Doubles, index: NDArray[np.int64]) -> tuple[Doubles, NDArray[np.int64]]:
    """Return the points of highest priority, one more than in a sample, in the order of their indices."""
    if len(sample) > SAMPLE + 1:
        kept = np.sort(np.argpartition(-sample[:, 3], SAMPLE)[: SAMPLE + 1])
        sample, index = sample[kept], index[kept]
    return sample, index


def sampled(summary: Summary) -> Doubles:
    """Return the sample: coordinates and weights (k, 3), k at most SAMPLE."""
    sample = summary.sample
    if len(sample) > SAMPLE:
        lowest = int(np.argmin(sample[:, 3]))
        threshold = np.exp(sample[lowest, 3])
        sample = np.delete(sample, lowest, axis=0)
        sample[:, 2] = np.maximum(sample[:, 2], threshold)
    return sample[:, :3]


def ordered(points: Doubles, weight: Doubles, units: Units) -> Points:
    """Return points (n, 2) in planes, without those of weight 0 or without coordinates."""
    missing = np.isnan(points)
    if missing.any() or not (weight > 0).all():
        kinds = [~missing.any(axis=1), ~missing[:, 0] & missing[:, 1], missing[:, 0] & ~missing[:, 1]]
        index = [np.flatnonzero(kind & (weight > 0)) for kind in kinds]
        order = np.concatenate(index)
        points, weight = points[order], weight[order]
        both, first = len(index[0]), len(index[0]) + len(index[1])
    else:
        both = first = len(points)
    planes = np.empty((3, len(points)))
    planes[:2] = np.nan_to_num(units.of_points(points).T, nan=0.0)
    planes[2] = np.ldexp(weight, -units.weight)
    return Points(planes, both, first)
