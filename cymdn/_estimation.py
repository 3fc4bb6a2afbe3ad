"""From the arguments of a fit to its parameters: checks, search, ascent, and the report."""

import sys
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cymdn import _acceleration, _search
from cymdn._arrays import check_arguments, check_bool, check_count, check_each, check_nonnegative
from cymdn._parameters import SMALLEST_STDDEV, Natural, Parameters, Unconstrained
from cymdn._points import (
    COVARIANCE_TYPES,
    KNOWN,
    Doubles,
    Model,
    Points,
    Summary,
    Units,
    check_values,
    check_weights,
    ordered,
    sampled,
    summarise,
)
from cymdn._running import check_workers
from cymdn._sampling import Seed, check_rng
from cymdn._units import Callback, Options, log_jacobian, measure, settings, spread_out, to_estimate

MOST_RESTARTS = 1_000_000
STRONG = 9.0  # atanh correlation: beyond it 1 - r loses half of its digits


class Estimate(NamedTuple):
    """Fits to a batch of sets of points: arrays of the batch's shape."""

    parameters: Parameters
    dtype: np.dtype[Any]
    background: Doubles
    converged: NDArray[np.bool_]
    steps: NDArray[np.int64]
    log_likelihood: Doubles
    n_parameters: int
    stddev_floor: Doubles  # (..., 2)
    n_points: Doubles  # sums of weights


class One(NamedTuple):
    """A fit to one set of points; components are not sorted."""

    weights: Doubles
    means: Doubles
    stddevs: Doubles
    atanh_correlations: Doubles
    background: float
    converged: bool
    steps: int
    log_likelihood: float
    floor: Doubles
    n_points: float


class Memory(NamedTuple):
    """One set of points (n, 2) and their weights, in memory."""

    points: Doubles
    weight: Doubles

    def summary(self, key: int) -> Summary:
        """Return the statistics of all points that a fit needs."""
        return summarise(self.points, self.weight, 0, key)

    def in_units(self, units: Units) -> Points:
        """Return the points in these units, with a method that sums moments."""
        return ordered(self.points, self.weight, units)


def estimate(
    points: Any,
    n_components: int,
    *,
    covariance_type: str = "full",
    known: Parameters | None = None,
    init: Parameters | None = None,
    background: bool = False,
    allow_missing: bool = False,
    sample_weight: Any = None,
    rng: Seed = None,
    stddev_floor: ArrayLike | None = None,
    restarts: int = 8,
    tolerance: float = 1e-2,
    max_steps: int = 1000,
    workers: int | None = None,
    callback: Callback | None = None,
) -> Estimate:
    """Return the fits that `fit_mixture` documents; `known` has the covariance matrices, if they are known."""
    options = Options(
        check_count("n_components", n_components, 1),
        KNOWN if known else check_covariance_type(covariance_type),
        known,
        init,
        check_bool("background", background),
        check_floors(stddev_floor, known),
        check_count("restarts", restarts, 1, MOST_RESTARTS),
        check_nonnegative("tolerance", tolerance),
        check_count("max_steps", max_steps, 1),
        check_workers(workers),
        callback,
    )
    if not (callback is None or callable(callback)):
        raise TypeError(f"callback: expected a callable or None, got {type(callback).__name__}")
    generator, missing = check_rng(rng), check_bool("allow_missing", allow_missing)
    if is_chunked(points):
        from cymdn import _chunked

        source: Any = _chunked.source(points, sample_weight, missing)
        shape, dtype, sources = (), source.dtype, [source]
    else:
        dtype, array, weight = check_points(points, sample_weight, missing)
        shape = array.shape[:-2]
        sources = [Memory(array[index], weight[index]) for index in np.ndindex(shape)]
    keys = draw_keys(generator, len(sources))
    fits = [
        fit_one(
            source,
            at(options, shape, k),
            key,
            f" of points[{', '.join(map(str, np.unravel_index(k, shape)))}]" * bool(shape),
        )
        for k, (source, key) in enumerate(zip(sources, keys, strict=True))
    ]
    return gathered(fits, shape, dtype, options)


# Arguments


def is_chunked(points: object) -> bool:
    """Whether this is a Dask array, which can only exist if Dask is imported."""
    dask_array = sys.modules.get("dask.array")
    return dask_array is not None and isinstance(points, dask_array.Array)


def check_covariance_type(value: object) -> int:
    """Return the number of a covariance type in the kernels."""
    if not isinstance(value, str) or value not in COVARIANCE_TYPES:
        raise ValueError(f"covariance_type: expected one of {', '.join(map(repr, COVARIANCE_TYPES))}, got {value!r}")
    return COVARIANCE_TYPES.index(value)


def check_points(
    points: ArrayLike, sample_weight: ArrayLike | None, missing: bool
) -> tuple[np.dtype[Any], Doubles, Doubles]:
    """Return the dtype of the points, the points (..., n, 2), and the weights (..., n)."""
    checked = check_arguments({"points": ("n", 2)}, (points,))
    array = checked.arrays[0].astype(np.float64, copy=False)
    if sample_weight is None:
        sample_weight = np.ones(array.shape[-2])
    (given,) = check_arguments({"sample_weight": ("n",)}, (sample_weight,)).arrays
    if given.shape not in (array.shape[:-1], array.shape[-2:-1]):
        raise ValueError(f"sample_weight: expected shape {array.shape[:-1]}, got {given.shape}")
    weight = np.broadcast_to(given, array.shape[:-1]).astype(np.float64)
    check_values(array, weight, missing)
    check_weights(given)
    return checked.dtype, array, weight


def check_floors(stddev_floor: ArrayLike | None, known: Parameters | None) -> Doubles | None:
    """Return a floor for each coordinate, or None."""
    if stddev_floor is None:
        return None
    if known is not None:
        raise ValueError("stddev_floor: expected None with a known covariance, which is not blurred")
    (given,) = check_arguments({"stddev_floor": ()}, (stddev_floor,)).arrays
    if given.shape not in ((), (2,)):
        raise ValueError(f"stddev_floor: expected shape () or (2,), got {given.shape}")
    check_each("stddev_floor", given, np.isfinite(given) & (given > 0), "finite numbers > 0")
    return np.broadcast_to(given.astype(np.float64), 2)


def draw_keys(generator: np.random.Generator, count: int) -> list[list[int]]:
    """Return two integers for each set of points: the seed of all random numbers in its fit."""
    keys = np.asarray(generator.integers(0, 2**62, (count, 2)))
    if keys.shape != (count, 2) or keys.dtype.kind not in "iu" or (keys < 0).any():
        raise TypeError(f"rng: expected an array of integers of the shape asked for from {type(generator).__name__}")
    return [[int(number) for number in key] for key in keys]


def at(options: Options, shape: tuple[int, ...], k: int) -> Options:
    """Return the options of one set of points: an `init` with a batch has one mixture for each."""
    if options.init is None or options.init.packed.ndim == 1:
        return options
    return options._replace(init=type(options.init)(options.init.rows()[k]))


# One set of points


def fit_one(source: Any, options: Options, key: list[int], which: str) -> One:
    """Fit a mixture to one set of points."""
    m = options.components
    summary = source.summary(key[0])
    if summary.number < m:
        raise ValueError(
            f"points: expected at least n_components = {m} of them with a weight > 0, got {summary.number}{which}"
        )
    sample = sampled(summary)
    units, floor = measure(summary, sample, options, which)
    model = Model(options.covariance_type, settings(summary, units, floor, options.background, which), options.workers)
    points = source.in_units(units)
    if options.init is None:
        first = spread_out(options, units)
        small = ordered(np.ascontiguousarray(sample[:, :2]), sample[:, 2], units)
        found = _search.search(small, model, first, options.restarts, np.random.default_rng(key))
    else:
        found = to_estimate(options.init, options, units)
    scale = float(summary.masses.sum())
    jacobian = log_jacobian(summary, units)

    def in_total(likelihood: float) -> float:
        with np.errstate(over="ignore"):
            return float(np.ldexp(likelihood * scale - jacobian, units.weight))

    def callback(steps: int, likelihood: float) -> None:
        if options.callback is not None:
            options.callback(steps, in_total(likelihood))

    ascent = _acceleration.ascend(
        lambda estimate: points.expect(model, estimate),
        lambda sums, estimate: _search.maximise(model, sums, estimate),
        found,
        options.tolerance / summary.number,
        options.most,
        callback,
    )
    # the exact likelihood, of points without errors
    exact = model._replace(settings=np.concatenate([[0.0, 0.0], model.settings[2:]]))
    sums = points.expect(exact, ascent.estimate)
    return from_estimate(ascent, units, in_total(sums[-1] / _search.total(sums)), floor, summary)


# Estimates and parameters


def from_estimate(
    ascent: _acceleration.Ascent, units: Units, log_likelihood: float, floor: Doubles, summary: Summary
) -> One:
    """Return the fit in the user's units."""
    w, m0, m1, l00, l10, l11 = _search.components(ascent.estimate).T
    with np.errstate(over="ignore", under="ignore"):
        n_points = float(np.ldexp(summary.masses.sum(), summary.weight))
        means = units.to_points(np.stack([m0, m1], axis=-1))
        stddevs = units.to_lengths(np.stack([l00, np.hypot(l10, l11)], axis=-1))
    means, stddevs = (np.clip(a, -sys.float_info.max, sys.float_info.max) for a in (means, stddevs))
    if not (stddevs > SMALLEST_STDDEV).all():
        raise ValueError(
            f"points: expected such that standard deviations are above {SMALLEST_STDDEV:.3g}, got {stddevs.min()}; "
            "multiply points and floor by a power of ten"
        )
    return One(
        w / w.sum() if w.any() else np.full_like(w, 1.0 / len(w)),  # if the background has all the weight
        means,
        stddevs,
        np.arcsinh(l10 / l11),
        float(ascent.estimate[-1]),
        ascent.converged,
        ascent.steps,
        log_likelihood,
        floor,
        n_points,
    )


def gathered(fits: list[One], shape: tuple[int, ...], dtype: np.dtype[Any], options: Options) -> Estimate:
    """Return the fits of a batch, the components of each sorted by weight, the largest first."""
    rows = []
    strong = any((np.abs(one.atanh_correlations) > STRONG).any() for one in fits)
    for one in fits:
        order = np.argsort(-one.weights, kind="stable")
        w, m, s, a = (values[order] for values in one[:4])
        if strong:  # natural parameters would lose digits of 1 - r^2
            with np.errstate(divide="ignore"):
                planes = (np.log(w), *m.T, *np.log(s).T, a)
        else:
            planes = (w, *m.T, *s.T, np.tanh(a))
        rows.append(np.concatenate(planes))
    packed = np.reshape(rows, (*shape, 6 * options.components))
    return Estimate(
        (Unconstrained if strong else Natural)(packed),
        dtype,
        np.reshape(np.array([one.background for one in fits], np.float64), shape),
        np.reshape(np.array([one.converged for one in fits], np.bool_), shape),
        np.reshape(np.array([one.steps for one in fits], np.int64), shape),
        np.reshape(np.array([one.log_likelihood for one in fits], np.float64), shape),
        count_parameters(options),
        np.reshape([one.floor for one in fits], (*shape, 2)),
        np.reshape(np.array([one.n_points for one in fits], np.float64), shape),
    )


def count_parameters(options: Options) -> int:
    """Return the number of free parameters."""
    m = options.components
    of_covariances = (3 * m, 2 * m, 3, m, 0)[options.covariance_type]
    return m - 1 + 2 * m + of_covariances + options.background
