"""Maximum likelihood by expectation-maximisation: kernels for what depends on points, NumPy for sums and components."""

import sys
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cymdn._arrays import Checked, FloatArray, check_arguments, check_count, check_each
from cymdn._layout import PARAMETERS
from cymdn._parameters import SMALLEST_STDDEV
from cymdn._running import check_workers, run_over_batch
from cymdn._sampling import Seed, check_rng

Doubles = NDArray[np.float64]

PIECE = 1 << 16  # points whose responsibilities are held at once
DEFAULT_FLOOR = 1e-3  # in standard deviations of the points
START_GAIN = 1e-3  # nats a point below which a step ends the comparison of starts
START_STEPS = 50
GAIN = 1e-10  # nats a point below which a step ends the fit
STEPS = 2000
MOST_RESTARTS = 1_000_000

SMALLEST = 1e-100  # ratio of floor to spread and of spread to offsets: products of four are no denormal numbers yet


class _Data(NamedTuple):
    """Points in units of their standard deviation, or of the floor where that is larger, from their mean."""

    points: Doubles  # (n, 2)
    weight: Doubles  # (n,), of sum 1
    floor: Doubles  # (2,)
    workers: int


def fit(
    points: ArrayLike,
    n_components: int,
    sample_weight: ArrayLike | None,
    rng: Seed,
    stddev_floor: ArrayLike | None,
    restarts: int,
    workers: int | None,
) -> tuple[np.dtype[Any], Doubles]:
    """Return the dtype of the points and packed parameters (6 M) of a mixture, the heaviest component first."""
    components = check_count("n_components", n_components, 1)
    attempts = check_count("restarts", restarts, 1, MOST_RESTARTS)
    dtype, array, weight = _check_points(points, sample_weight, components)
    given = _check_floor(stddev_floor)
    # in units, powers of two, in which nothing below is beyond float64 or denormal
    _, unit = np.frexp(np.maximum(abs(array).max(axis=0), 0.0 if given is None else given))
    array = np.ldexp(array, -unit)
    center, spread = _moments(array, weight)
    floor = _floor_of(spread) if given is None else np.ldexp(given, -unit)
    scale = np.maximum(spread, floor)
    data = _Data((array - center) / scale, weight, np.maximum(floor / scale, SMALLEST), check_workers(workers))
    generator = check_rng(rng)
    best, highest = _climb(data, _start(data, components, generator), START_GAIN, START_STEPS)
    for _ in range(attempts - 1):
        parameters, likelihood = _climb(data, _start(data, components, generator), START_GAIN, START_STEPS)
        if likelihood > highest:
            best, highest = parameters, likelihood
    parameters, _ = _climb(data, best, GAIN, STEPS)
    w, m0, m1, s0, s1, r = parameters.reshape(PARAMETERS, components)[:, np.argsort(-parameters[:components])]
    with np.errstate(over="ignore", under="ignore"):
        means = np.ldexp(center + scale * np.stack([m0, m1], axis=-1), unit)
        stddevs = np.ldexp(scale * np.stack([s0, s1], axis=-1), unit)
    means, stddevs = (np.clip(a, -sys.float_info.max, sys.float_info.max) for a in (means, stddevs))
    if not (stddevs > SMALLEST_STDDEV).all():
        raise ValueError(
            f"points: expected such that standard deviations are above {SMALLEST_STDDEV:.3g}, got {stddevs.min()}; "
            "multiply points and floor by a power of ten"
        )
    return dtype, np.concatenate([w, *means.T, *stddevs.T, r])


def _check_points(
    points: ArrayLike, sample_weight: ArrayLike | None, components: int
) -> tuple[np.dtype[Any], Doubles, Doubles]:
    """Return the dtype of the points, those of weight > 0, and these weights divided by their sum."""
    checked = check_arguments({"points": (2,)}, (points,), batch_axis="n")
    array = checked.arrays[0].astype(np.float64)
    check_each("points", array, np.isfinite(array), "finite numbers")
    weight = np.ones(len(array))
    if sample_weight is not None:
        (given,) = check_arguments({"sample_weight": ("n",)}, (sample_weight,)).arrays
        if given.shape != weight.shape:
            raise ValueError(f"sample_weight: expected shape {weight.shape}, got {given.shape}")
        check_each("sample_weight", given, np.isfinite(given) & (given >= 0), "finite numbers >= 0")
        weight = given.astype(np.float64)
        array, weight = array[weight > 0], weight[weight > 0]
    if len(array) < components:
        raise ValueError(
            f"points: expected at least n_components = {components} of them with a weight > 0, got {len(array)}"
        )
    return checked.dtype, array, weight / weight.max() / (weight / weight.max()).sum()


def _moments(array: Doubles, weight: Doubles) -> tuple[Doubles, Doubles]:
    """Return mean and standard deviation of each coordinate: exact where all points agree, in any units."""
    agree = (array == array[0]).all(axis=0)
    center = np.where(agree, array[0], weight @ array)
    offset = array - center
    size = np.abs(offset).max(axis=0)
    units = offset / np.where(agree, 1.0, size)  # squares of the offsets themselves may overflow, or be 0
    return center, size * np.maximum(np.sqrt(weight @ units**2), SMALLEST)


def _floor_of(spread: Doubles) -> Doubles:
    if not (spread > 0).all():
        axis = int(np.argmin(spread))
        raise ValueError(f"stddev_floor: expected one, because all points agree in coordinate {axis}; got None")
    return DEFAULT_FLOOR * spread


def _check_floor(stddev_floor: ArrayLike | None) -> Doubles | None:
    if stddev_floor is None:
        return None
    (given,) = check_arguments({"stddev_floor": ()}, (stddev_floor,)).arrays
    if given.shape not in ((), (2,)):
        raise ValueError(f"stddev_floor: expected shape () or (2,), got {given.shape}")
    check_each("stddev_floor", given, np.isfinite(given) & (given > 0), "finite numbers > 0")
    return np.broadcast_to(given.astype(np.float64), 2)


def _start(data: _Data, components: int, rng: np.random.Generator) -> Doubles:
    """Return a mixture whose means are points drawn by k-means++, its components made of the points nearest to each."""
    points, weight = data.points, data.weight
    chosen = [rng.choice(len(points), p=weight)]
    distance = np.full(len(points), np.inf)
    nearest = np.zeros(len(points), np.intp)
    for k in range(components):
        to_latest = ((points - points[chosen[k]]) ** 2).sum(axis=1)
        nearest[to_latest < distance] = k
        distance = np.minimum(distance, to_latest)
        mass = weight * distance
        # all points may be taken already, where many are equal
        chosen.append(rng.choice(len(points), p=mass / mass.sum() if mass.any() else weight))
    moments = np.zeros((components, PARAMETERS))
    np.add.at(moments, nearest, weight[:, None] * _monomials(points))
    return _maximise(data, moments, points[chosen[:components]])


def _climb(data: _Data, parameters: Doubles, gain: float, steps: int) -> tuple[Doubles, float]:
    """Improve parameters until a step gains too little; return them and the log-likelihood a point."""
    before = -np.inf
    for _ in range(steps):
        likelihood, moments = _expect(data, parameters)
        if likelihood - before < gain:
            break
        before = likelihood
        parameters = _maximise(data, moments, _means(parameters))
    return parameters, before


def _expect(data: _Data, parameters: Doubles) -> tuple[float, Doubles]:
    """Return the blurred log-likelihood a point, and each component's moments: sums of 1, x, y, x^2, xy, y^2 (M, 6)."""
    components = len(parameters) // PARAMETERS
    likelihood, moments, blurred = 0.0, np.zeros((components, PARAMETERS)), _blur(data, parameters)
    for first in range(0, len(data.points), PIECE):
        points, weight = data.points[first : first + PIECE], data.weight[first : first + PIECE]
        n = len(points)
        value, responsibilities = np.empty(n), np.empty((n, components))
        arrays: list[FloatArray] = [points, blurred]
        problem = Checked(arrays, points.dtype, [(n,), ()], (n,), {"M": components})
        outputs = [value, responsibilities, None]
        run_over_batch("packed_mixture", problem, outputs, data.workers, unconstrained=False)
        likelihood += float(weight @ value)
        moments += (responsibilities * weight[:, None]).T @ _monomials(points)
    return likelihood, moments


def _blur(data: _Data, parameters: Doubles) -> Doubles:
    """Return parameters whose densities are exp of the expected log-density, of points with errors of the floor's size.

    Each weight is multiplied by exp(-t / 2), t the trace of the squared floor times the component's precision matrix.
    It is this likelihood that _maximise raises; the likelihood itself may fall at a step, where the floor is not small.
    """
    weights, m0, m1, s0, s1, r = parameters.reshape(PARAMETERS, -1)
    f0, f1 = data.floor
    trace = ((f0 / s0) ** 2 + (f1 / s1) ** 2) / ((1.0 - r) * (1.0 + r))
    # at most 2, because the covariance matrix contains the floor; 1 - r^2 may have lost all digits
    return np.concatenate([weights * np.exp(-0.5 * np.minimum(trace, 2.0)), m0, m1, s0, s1, r])


def _monomials(points: Doubles) -> Doubles:
    x, y = points.T
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)


def _maximise(data: _Data, moments: Doubles, means: Doubles) -> Doubles:
    """Return packed parameters from moments; a component without mass keeps its mean, and weight 0."""
    mass = moments[:, 0]
    empty = mass <= 0.0
    x, y, xx, xy, yy = (moments[:, 1:] / np.where(empty, 1.0, mass)[:, None]).T
    # of points in units of their own spread these differences keep more digits than the floor leaves of them
    variance0 = np.maximum(xx - x * x, 0.0) + data.floor[0] ** 2
    variance1 = np.maximum(yy - y * y, 0.0) + data.floor[1] ** 2
    stddev0, stddev1 = np.sqrt(variance0), np.sqrt(variance1)
    limit = np.nextafter(1.0, 0.0)
    correlation = np.clip((xy - x * y) / (stddev0 * stddev1), -limit, limit)
    x, y = np.where(empty, means.T, [x, y])
    return np.concatenate([mass / mass.sum(), x, y, stddev0, stddev1, np.where(empty, 0.0, correlation)])


def _means(parameters: Doubles) -> Doubles:
    m = len(parameters) // PARAMETERS
    return np.stack([parameters[m : 2 * m], parameters[2 * m : 3 * m]], axis=-1)
