"""One-dimensional mixtures of Gaussians: marginal and conditional distributions of mixtures in the plane.

Plain NumPy except for `cdf`, `probability` and `ppf`: the last axis is that of components, everything is float64 and in
the log domain.
"""

from __future__ import annotations

import sys
from math import log, pi
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cymdn import _distribution_kernels
from cymdn._arrays import (
    FLOAT32,
    FLOAT64,
    MOST_AXES,
    Checked,
    FloatArray,
    check_arguments_of,
    check_size,
    methods_in_ieee_arithmetic,
)
from cymdn._batch import Batch
from cymdn._layout import pack
from cymdn._running import Kernel, check_workers, run_over_batch
from cymdn._sampling import Seed, Sharpening, check_rng, draw

Doubles = NDArray[np.float64]

LOG_SQRT_TWO_PI = 0.5 * log(2.0 * pi)
# Logarithms of standard deviations: exp of the limits is neither 0 nor inf; exp of half the largest scale is normal
STDDEV_LIMITS = -745.0, log(sys.float_info.max)
LARGEST_LOG_SCALE = 1400.0
LARGEST_OFFSET = 1e300  # its square is inf
# Of one component, in units of its density's cost
INTERVAL_COST, QUANTILE_COST = 10, 200


def log_normal(z: Doubles, log_stddev: Doubles) -> Doubles:
    """Log-density of a normal distribution from the standardised offset; -inf where its square overflows."""
    with np.errstate(over="ignore"):
        return -0.5 * z * z - log_stddev - LOG_SQRT_TWO_PI


def standardised(offset: Doubles, log_stddev: Doubles) -> Doubles:
    """Return offset / stddev, although stddev or its inverse may overflow; bounded by a number whose square is inf.

    An infinite quotient times a correlation of 0 would be NaN.
    """
    root = np.exp(-0.5 * np.clip(log_stddev, -LARGEST_LOG_SCALE, LARGEST_LOG_SCALE))
    with np.errstate(over="ignore"):
        quotient: Doubles = np.clip(offset * root * root, -LARGEST_OFFSET, LARGEST_OFFSET)
    return quotient


def logsumexp(terms: Doubles) -> Doubles:
    """Logarithm of the sum of exponentials over the last axis; -inf where all terms are."""
    top = terms.max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", over="ignore"):
        shifted = np.exp(terms - np.where(top == -np.inf, 0.0, top)).sum(axis=-1)
        logarithm: Doubles = top[..., 0] + np.log(np.where(top[..., 0] == -np.inf, 1.0, shifted))
    return logarithm


def normalised(terms: Doubles) -> Doubles:
    """Terms minus their logsumexp; the largest is subtracted first, so that a common offset costs no digits."""
    with np.errstate(over="ignore"):
        shifted = terms - terms.max(axis=-1, keepdims=True)
        logarithms: Doubles = shifted - logsumexp(shifted)[..., None]
    return logarithms


def weighted_sum(weights: Doubles, values: Doubles) -> Doubles:
    """Weighted sum over the last axis, the components; a weight of 0 contributes 0 even if its value overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        total: Doubles = np.where(weights == 0.0, 0.0, weights * values).sum(axis=-1)
    return total


@methods_in_ieee_arithmetic
class UnivariateMixture(Batch):
    """A batch of one-dimensional mixtures of Gaussians.

    Made by `BivariateMixture.marginal` and `BivariateMixture.conditional`. Immutable, sliceable over its batch,
    compared by value.

    Attributes
    ----------
    weights, means, stddevs : ndarray, shape (..., M)
        Parameters of the components, read-only.
    n_components : int
        M.
    batch_shape : tuple of int
        Shape of the batch of mixtures, the leading axes.
    dtype : dtype
        float32 or float64. Results have the same dtype, or float64 if an argument is float64.

    Examples
    --------
    >>> from cymdn import BivariateMixture
    >>> line = BivariateMixture([1.0], [[0.0, 3.0]], [[1.0, 2.0]], [0.5]).marginal(1)
    >>> line
    UnivariateMixture(n_components=1, batch_shape=(), dtype=float64)
    >>> line.probability(1.0, 5.0).round(4), line.ppf(0.975).round(4)
    (np.float64(0.6827), np.float64(6.9199))
    """

    __slots__ = ("_dtype", "_log_stddevs", "_log_weights", "_means")

    def __init__(self, log_weights: Doubles, means: Doubles, log_stddevs: Doubles, dtype: np.dtype[Any]) -> None:
        self._set(log_weights, means, log_stddevs, dtype)

    def _set(self, log_weights: Doubles, means: Doubles, log_stddevs: Doubles, dtype: np.dtype[Any]) -> None:
        # infinite values could be subtracted from infinite logarithms of weights or densities
        finite = np.clip(log_stddevs, -sys.float_info.max, sys.float_info.max)
        self._log_weights, self._means, self._log_stddevs = np.broadcast_arrays(log_weights, means, finite)
        self._dtype = dtype

    def __getitem__(self, index: Any) -> UnivariateMixture:
        self._check_batch("batch to take from")
        rows = np.arange(self._means[..., 0].size).reshape(self.batch_shape)[index]
        flat = (array.reshape(-1, self.n_components) for array in (self._log_weights, self._means, self._log_stddevs))
        weights, means, log_stddevs = (array[rows] for array in flat)
        return UnivariateMixture(weights, means, log_stddevs, self._dtype)

    def _key(self) -> tuple[Any, ...]:
        return self._log_weights, self._means, self._log_stddevs, self._dtype

    def __getstate__(self) -> tuple[Any, ...]:
        return self._key()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        try:
            *given, of_results = state
            log_weights, means, log_stddevs = map(np.asarray, given)
            arrays, dtype = (log_weights, means, log_stddevs), np.dtype(of_results)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"state: expected that of a UnivariateMixture, got {type(state).__name__}") from error
        good = dtype in (FLOAT32, FLOAT64) and 0 < means.ndim <= MOST_AXES + 1 and means.shape[-1] > 0
        good = good and all(array.dtype == FLOAT64 and array.shape == means.shape for array in arrays)
        with np.errstate(over="ignore"):
            # NaN is of a value that is given as NaN
            if not good or np.isnan(log_stddevs).any() or (abs(np.exp(log_weights).sum(axis=-1) - 1.0) > 2e-6).any():
                raise ValueError("state: expected that of a UnivariateMixture, got other arrays or values")
        self._set(log_weights, means, log_stddevs, dtype)

    @property
    def weights(self) -> FloatArray:
        """Weights of the components, which sum to 1."""
        return self._read_only(np.exp(self._log_weights))

    @property
    def means(self) -> FloatArray:
        """Means of the components."""
        return self._read_only(self._means)

    @property
    def stddevs(self) -> FloatArray:
        """Standard deviations of the components."""
        return self._read_only(self._stddevs())

    @property
    def n_components(self) -> int:
        """Number of components."""
        return int(self._means.shape[-1])

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch."""
        return self._means.shape[:-1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self._dtype

    def __repr__(self) -> str:
        return (
            f"UnivariateMixture(n_components={self.n_components}, batch_shape={self.batch_shape}, dtype={self.dtype})"
        )

    def pdf(self, x: ArrayLike) -> FloatArray:
        """Density at x.

        Parameters
        ----------
        x : array_like, shape (...)
            Points; broadcast with the batch.

        Returns
        -------
        ndarray or scalar, shape (...)
            In 1 over the unit of x.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> line = BivariateMixture([1.0], [[0.0, 0.0]], [[1.0, 1.0]], [0.0]).marginal(0)
        >>> line.pdf([0.0, 1.0]).round(6)
        array([0.398942, 0.241971])
        """
        value, dtype = self._log_density(x)
        with np.errstate(over="ignore"):
            return _rounded(np.exp(value), dtype)

    def logpdf(self, x: ArrayLike) -> FloatArray:
        """Logarithm of the density at x; parameters as in `pdf`.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> line = BivariateMixture([1.0], [[0.0, 0.0]], [[1.0, 1.0]], [0.0]).marginal(0)
        >>> line.logpdf([0.0, 100.0]).round(4).tolist()
        [-0.9189, -5000.9189]
        """
        return _rounded(*self._log_density(x))

    def cdf(self, x: ArrayLike) -> FloatArray:
        """Probability of a number below x; parameters as in `pdf`.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> line = BivariateMixture([1.0], [[0.0, 0.0]], [[1.0, 1.0]], [0.0]).marginal(0)
        >>> line.cdf([-2.0, 0.0, 2.0]).round(6).tolist()
        [0.02275, 0.5, 0.97725]
        """
        return self._run(_distribution_kernels.intervals, {"x": x}, before=-np.inf, cost=INTERVAL_COST, logarithm=False)

    def probability(self, lower: ArrayLike, upper: ArrayLike, *, workers: int | None = None) -> FloatArray:
        """Probability of a number between two limits.

        Parameters
        ----------
        lower, upper : array_like, shape (...)
            The limits, which may be infinite; broadcast with the batch.
        workers : int, optional
            As in `mdn_loss`.

        Returns
        -------
        ndarray or scalar, shape (...)
            0 if `upper` is not above `lower`.

        Notes
        -----
        The relative accuracy is high, also in the tails, because Mills' ratios are used instead of a difference of
        distribution functions.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> line = BivariateMixture([1.0], [[0.0, 0.0]], [[1.0, 1.0]], [0.0]).marginal(0)
        >>> line.probability([-1.0, 8.0], [1.0, 9.0])
        array([6.82689492e-01, 6.21983199e-16])
        """
        limits = {"lower": lower, "upper": upper}
        return self._run(_distribution_kernels.intervals, limits, workers=workers, cost=INTERVAL_COST, logarithm=False)

    def log_probability(self, lower: ArrayLike, upper: ArrayLike, *, workers: int | None = None) -> FloatArray:
        """Logarithm of `probability`, with the same parameters; finite also if the probability underflows.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> line = BivariateMixture([1.0], [[0.0, 0.0]], [[1.0, 1.0]], [0.0]).marginal(0)
        >>> line.log_probability(100.0, np.inf).round(4)
        np.float64(-5005.5242)
        """
        limits = {"lower": lower, "upper": upper}
        return self._run(_distribution_kernels.intervals, limits, workers=workers, cost=INTERVAL_COST, logarithm=True)

    def ppf(self, p: ArrayLike, *, workers: int | None = None) -> FloatArray:
        """Quantile, the number below which the probability is p: the inverse of `cdf`.

        Parameters
        ----------
        p : array_like, shape (...)
            Probabilities; broadcast with the batch.
        workers : int, optional
            As in `mdn_loss`.

        Returns
        -------
        ndarray or scalar, shape (...)
            In the unit of x; -inf and inf for 0 and 1, NaN outside of these.

        Notes
        -----
        Found by Newton's method for the logarithm of the smaller tail, within a bracket that shrinks. `cdf(ppf(p))` is
        p to a relative error of 1e-12, down to p = 1e-300.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> line = BivariateMixture([0.5, 0.5], [[-4.0, 0.0], [4.0, 0.0]], [[1.0, 1.0]] * 2, [0.0, 0.0]).marginal(0)
        >>> line.ppf([0.25, 0.5, 1e-300]).round(4).tolist()
        [-4.0, 0.0, -41.0284]
        """
        return self._run(_distribution_kernels.quantiles, {"p": p}, workers=workers, cost=QUANTILE_COST)

    def mean(self) -> FloatArray:
        """Mean, of the batch's shape.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> BivariateMixture([1.0], [[0.0, 3.0]], [[1.0, 2.0]], [0.5]).marginal(1).mean()
        np.float64(3.0)
        """
        return _rounded(weighted_sum(np.exp(self._log_weights), self._means), self._dtype)

    def variance(self) -> FloatArray:
        """Variance, of the batch's shape: the mean of the components' variances plus the variance of their means.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> BivariateMixture([1.0], [[0.0, 3.0]], [[1.0, 2.0]], [0.5]).marginal(1).variance()
        np.float64(4.0)
        """
        weights = np.exp(self._log_weights)
        with np.errstate(over="ignore"):
            offset = self._means - weighted_sum(weights, self._means)[..., None]
            squares = self._stddevs() ** 2 + offset**2
        return _rounded(weighted_sum(weights, squares), self._dtype)

    def sample(self, size: int | tuple[int, ...] | None = None, rng: Seed = None) -> FloatArray:
        r"""Sample points.

        Parameters
        ----------
        size : int or tuple of int, optional
            Axes before those of the batch: the number of samples from each mixture.
        rng : numpy.random.Generator or seed, optional
            As in `mdn_sample`.

        Returns
        -------
        ndarray or scalar, shape (\*size, ...)

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> mixture = BivariateMixture([1.0], [[0.0, 3.0]], [[1.0, 2.0]], [0.5])
        >>> mixture.marginal(1).sample(100_000, rng=0).mean().round(1)
        np.float64(3.0)
        """
        zero = np.zeros_like(self._means)
        columns = [np.exp(self._log_weights), self._means, zero, self._stddevs(), zero + 1.0, zero]
        # sampled as the first coordinate of a mixture in the plane
        parameters = pack(self.batch_shape, *columns)
        shape = check_size("size", size, self.batch_shape)
        x, _, _ = draw(parameters.reshape(-1, parameters.shape[-1]), 0, False, Sharpening(), shape, check_rng(rng))
        return _rounded(x[..., 0], self._dtype)

    def _stddevs(self) -> Doubles:
        stddevs: Doubles = np.exp(np.clip(self._log_stddevs, *STDDEV_LIMITS))
        return stddevs

    def _with(self, arguments: dict[str, ArrayLike]) -> Checked:
        """Return checked numbers, whose batch shapes broadcast with that of the mixtures."""
        checked = check_arguments_of(self.batch_shape, dict.fromkeys(arguments, ()), list(arguments.values()))
        return checked._replace(dtype=np.result_type(checked.dtype, self._dtype))

    def _run(
        self,
        kernel: Kernel,
        arguments: dict[str, ArrayLike],
        *,
        before: float | None = None,
        workers: int | None = None,
        **options: int,
    ) -> FloatArray:
        """Return a kernel's results for numbers and each mixture; `before` is a constant first argument."""
        share = check_workers(workers)
        checked = self._with(arguments)
        lines = np.concatenate([self._log_weights, self._means, self._log_stddevs], axis=-1)
        arrays = [array.astype(np.float64) for array in checked.arrays]
        first = [] if before is None else [np.array(before)]
        shapes = [*(() for _ in first), *checked.batch_shapes, self.batch_shape]
        problem = Checked([*first, *arrays, lines], FLOAT64, shapes, checked.batch_shape, {"M": self.n_components})
        values = np.empty(checked.batch_shape)
        run_over_batch(kernel, problem, [values], share, **options)
        return _rounded(values, checked.dtype)

    def _standardise(self, x: ArrayLike) -> tuple[Doubles, np.dtype[Any]]:
        """Return (x - mean) / stddev (..., M), and the dtype of results."""
        checked = self._with({"x": x})
        with np.errstate(over="ignore"):
            offset = checked.arrays[0][..., None].astype(np.float64) - self._means
        return standardised(offset, self._log_stddevs), checked.dtype

    def _log_density(self, x: ArrayLike) -> tuple[Doubles, np.dtype[Any]]:
        z, dtype = self._standardise(x)
        with np.errstate(over="ignore"):
            return logsumexp(self._log_weights + log_normal(z, self._log_stddevs)), dtype

    def _read_only(self, values: Doubles) -> FloatArray:
        with np.errstate(over="ignore"):
            array: FloatArray = values.astype(self._dtype)
        array.flags.writeable = False
        return array


def _rounded(values: FloatArray, dtype: np.dtype[Any]) -> FloatArray:
    """Return results in the dtype, a scalar if they have no axes; what is too large for it is inf."""
    with np.errstate(over="ignore"):
        array: FloatArray = np.asarray(values, np.float64).astype(dtype)
    return array[()]
