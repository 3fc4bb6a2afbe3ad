"""A batch of mixtures as an object: evaluate, sample, query, transform."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sequence
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cymdn import _affine, _distribution_kernels, _quadrature
from cymdn._arrays import (
    FLOAT32,
    FLOAT64,
    MOST_AXES,
    Checked,
    FloatArray,
    Floor,
    check_arguments,
    check_arguments_of,
    check_each,
    check_floor,
    check_size,
    methods_in_ieee_arithmetic,
)
from cymdn._batch import Batch
from cymdn._estimation import estimate
from cymdn._layout import MEAN, PARAMETERS, RAW, Pens, check_pens, components_of, pack, planes
from cymdn._parameters import SMALLEST_STDDEV, SUM_TOLERANCE, Natural, Parameters, Unconstrained, floored
from cymdn._running import Kernel, check_done, check_workers, run_over_batch
from cymdn._sampling import (
    Seed,
    Sharpening,
    Temperature,
    check_rng,
    check_sharpening,
    draw,
)
from cymdn._univariate import (
    Doubles,
    UnivariateMixture,
    log_normal,
    normalised,
    standardised,
    weighted_sum,
)

if TYPE_CHECKING:  # imported on demand
    from cymdn._plot import Axes, PlotArtists

CORES = {"weights": ("M",), "means": ("M", 2), "stddevs": ("M", 2), "correlations": ("M",)}
COVARIANCE_CORES = {"weights": ("M",), "means": ("M", 2), "covariances": ("M", 2, 2)}

VALUE, RESPONSIBILITIES, SCORE = range(3)  # outputs of the kernel packed_mixture

MODE_PIECE = 1_000_000  # components times steps uphill in one call of the kernel `modes`
RECTANGLE_COST = 300  # of one component, in units of its density's cost


@methods_in_ieee_arithmetic
class BivariateMixture(Batch):
    r"""A batch of mixtures of correlated 2-D Gaussians. Immutable, sliceable over its batch, compared by value.

    Parameters
    ----------
    weights : array_like, shape (..., M)
        Weights of the components, >= 0, with sum 1 to within 1e-6.
    means : array_like, shape (..., M, 2)
        Means.
    stddevs : array_like, shape (..., M, 2)
        Standard deviations, > 2.23e-308, so that a component has a density.
    correlations : array_like, shape (..., M)
        Correlations of the two coordinates, between -1 and 1.

    Attributes
    ----------
    weights, means, stddevs, correlations, covariances, log_stddevs, atanh_correlations : ndarray
        Parameters of the components, read-only. Their leading axes are those of the batch.
    n_components : int
        M.
    batch_shape : tuple of int
        Shape of the batch of mixtures: the leading axes of the parameters, broadcast.
    dtype : dtype
        float32 if all parameters are float32 (or bool, float16 and integers that float32 holds), else float64. Results
        have the same dtype, or float64 if the points are float64.

    Raises
    ------
    TypeError
        An array is masked or does not hold real numbers of at most 64 bits.
    ValueError
        A shape does not fit; there are no components; a value is not finite or outside its domain. The message has
        the index of the first such value.

    See Also
    --------
    mixture_logpdf, mixture_logpdf_and_gradient : Functions of arrays, with all derivatives.

    Notes
    -----
    A mixture made from raw network output keeps the unconstrained parameters, and its densities are as exact as
    `mdn_loss`. The arithmetic is float64.

    Pickle stores a mixture exactly. In a file of arrays (`numpy.savez`, JSON) store `to_network_output()` of a mixture
    made by `from_network_output` or `transform`, and the four parameters of one made from these. This is exact too,
    except for a float32 mixture after `transform`, bias, temperature or floor: it holds float64 numbers, which are
    rounded to float32 in the file.

    Examples
    --------
    >>> import numpy as np
    >>> from cymdn import BivariateMixture
    >>> mixture = BivariateMixture([0.25, 0.75], [[0.0, 0.0], [3.0, 1.0]], [[1.0, 1.0], [0.5, 2.0]], [0.0, 0.6])
    >>> mixture
    BivariateMixture(n_components=2, batch_shape=(), dtype=float64)
    >>> mixture.mean()
    array([2.25, 0.75])
    >>> mixture.mode().round(4)
    array([2.9975, 0.9895])
    """

    __slots__ = ("_dtype", "_parameters")

    _parameters: Parameters
    _dtype: np.dtype[Any]

    def __init__(self, weights: ArrayLike, means: ArrayLike, stddevs: ArrayLike, correlations: ArrayLike) -> None:
        checked = check_arguments(CORES, (weights, means, stddevs, correlations))
        _check_some_components("weights", checked.sizes["M"])
        w, m, s, r = checked.arrays
        _check_weights(w)
        _check_finite("means", m)
        check_each("stddevs", s, np.isfinite(s) & (s > SMALLEST_STDDEV), f"finite numbers > {SMALLEST_STDDEV:.3g}")
        check_each("correlations", r, (r > -1) & (r < 1), "numbers between -1 and 1")
        self._set(Natural(pack(checked.batch_shape, w, m[..., 0], m[..., 1], s[..., 0], s[..., 1], r)), checked.dtype)

    @classmethod
    def from_network_output(
        cls,
        raw: ArrayLike,
        *,
        pen: Pens = 0,
        bias: float = 0.0,
        temperature: Temperature = 1.0,
        stddev_floor: Floor = None,
    ) -> BivariateMixture:
        r"""Make a batch of mixtures from raw network output.

        Parameters
        ----------
        raw : array_like, shape (..., P + 6 M)
            Raw output of the network, as in `mdn_loss`; finite, except that a mixture logit may be -inf, which excludes
            its component whatever its other parameters are.
        pen : {0, 1, 3}, optional
            The number P of pen logits, which are ignored.
        bias, temperature : float, optional
            As in `mdn_sample`, but bias must be finite and temperature above 0, because greedy samples have no density.
        stddev_floor : float or pair of floats, optional
            As in `mdn_loss`: each component is convolved with N(0, diag(f0^2, f1^2)) before bias and temperature are
            applied.

        Returns
        -------
        BivariateMixture
            Of batch shape (...). Log standard deviations outside -708 to 708 are replaced by these bounds in
            standardised offsets of points, in `stddevs` and in samples, moments and conditional means, but not in the
            normalisation of densities.

        Raises
        ------
        TypeError, ValueError
            As in `mdn_sample`; also if `raw` is not finite, or all components of a row are excluded.

        Examples
        --------
        >>> import numpy as np
        >>> from cymdn import BivariateMixture
        >>> BivariateMixture.from_network_output(np.zeros((5, 1 + 6 * 20)), pen=1)
        BivariateMixture(n_components=20, batch_shape=(5,), dtype=float64)
        """
        pen = check_pens(pen)
        checked = check_arguments(RAW, (raw,))
        (array,) = checked.arrays
        components = components_of(array.shape, pen)
        absent = array[..., pen : pen + components] == -np.inf
        in_absent = np.concatenate([np.zeros_like(array[..., :pen], bool), *[absent] * PARAMETERS], axis=-1)
        check_each("raw", array, np.isfinite(array) | in_absent, "finite numbers, or -inf for a mixture logit")
        check_each("raw", array, ~absent.all(axis=-1), "a mixture logit above -inf")
        parameters = np.where(in_absent, 0.0, array)[..., pen:].astype(np.float64)
        logits, _, _, log_stddev0, log_stddev1, a = planes(parameters)
        logits[absent] = -np.inf
        floor = check_floor(stddev_floor)
        if floor != (0.0, 0.0):
            log_stddev0[...], log_stddev1[...], a[...] = floored(log_stddev0, log_stddev1, a, floor)
        sharpening = check_sharpening(bias, temperature)
        if not np.isfinite(sharpening).all():  # greedy samples have no density
            name, value = ("bias", bias) if bias == np.inf else ("temperature", temperature)
            raise ValueError(f"{name}: expected finite numbers, of temperatures above 0, got {value}")
        if sharpening != Sharpening():
            with np.errstate(over="ignore"):
                logits -= logits.max(axis=-1, keepdims=True)  # first, so that no product overflows to inf - inf
                logits *= sharpening.logits
                for log_stddev in (log_stddev0, log_stddev1):
                    log_stddev += sharpening.log_stddev
                    # -inf would meet the -inf of an excluded component's logit
                    np.maximum(log_stddev, -sys.float_info.max, out=log_stddev)
        return cls._made_of(Unconstrained(parameters), checked.dtype)

    @classmethod
    def from_covariances(cls, weights: ArrayLike, means: ArrayLike, covariances: ArrayLike) -> BivariateMixture:
        """Make a batch of mixtures from covariance matrices.

        Parameters
        ----------
        weights, means : array_like, shape (..., M) and (..., M, 2)
            As in `BivariateMixture`.
        covariances : array_like, shape (..., M, 2, 2)
            Positive definite, and symmetric to within rounding of float32; the mean of the two covariances is used.

        Returns
        -------
        BivariateMixture

        Raises
        ------
        TypeError, ValueError
            As in `BivariateMixture`; also if a matrix is not symmetric and positive definite.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> mixture = BivariateMixture.from_covariances([1.0], [[0.0, 0.0]], [[[4.0, 1.0], [1.0, 1.0]]])
        >>> mixture.stddevs, mixture.correlations
        (array([[2., 1.]]), array([0.5]))
        """
        checked = check_arguments(COVARIANCE_CORES, (weights, means, covariances))
        w, m, c = checked.arrays
        c = c.astype(np.float64)
        variances = np.stack([c[..., 0, 0], c[..., 1, 1]], axis=-1)
        expected = "symmetric, positive definite matrices"
        check_each("covariances", c, np.isfinite(c).all(axis=(-2, -1)) & (variances > 0).all(axis=-1), expected)
        stddevs = np.sqrt(variances)  # of denormal variances too they are far above the smallest one
        scale = stddevs[..., 0] * stddevs[..., 1]
        # a matrix computed in float32, whatever its dtype now, need not be symmetric to the last bit
        asymmetry = np.abs(c[..., 0, 1] - c[..., 1, 0])
        good = asymmetry <= 16 * np.finfo(np.float32).eps * scale
        correlations = (0.5 * c[..., 0, 1] + 0.5 * c[..., 1, 0]) / scale
        check_each("covariances", c, good & (np.abs(correlations) < 1), expected)
        mixture = cls(w, m, stddevs, correlations)
        mixture._dtype = checked.dtype
        return mixture

    @classmethod
    def fit(
        cls,
        points: ArrayLike,
        n_components: int,
        *,
        sample_weight: ArrayLike | None = None,
        rng: Seed = None,
        stddev_floor: ArrayLike | None = None,
        restarts: int = 8,
        workers: int | None = None,
    ) -> BivariateMixture:
        """Fit a mixture to points by maximum likelihood; `fit_mixture` has more options and returns a report.

        Parameters
        ----------
        points : array_like, shape (..., n, 2)
            Finite points, n >= `n_components`. Leading axes are a batch.
        n_components : int
            Number of components.
        sample_weight, rng, stddev_floor, restarts, workers : optional
            As in `fit_mixture`.

        Returns
        -------
        BivariateMixture
            Of the batch shape of the points. Components are sorted by weight, the largest first.

        Raises
        ------
        TypeError, ValueError
            As in `fit_mixture`.

        Warns
        -----
        RuntimeWarning
            The likelihood still increased after 1000 steps.

        Examples
        --------
        >>> import numpy as np
        >>> from cymdn import BivariateMixture
        >>> rng = np.random.default_rng(0)
        >>> points = np.concatenate([rng.normal(0.0, 1.0, (300, 2)), rng.normal(8.0, 1.0, (100, 2))])
        >>> BivariateMixture.fit(points, 2, rng=0).weights.round(2)
        array([0.75, 0.25])
        """
        found = estimate(
            points,
            n_components,
            sample_weight=sample_weight,
            rng=rng,
            stddev_floor=stddev_floor,
            restarts=restarts,
            workers=workers,
        )
        if not found.converged.all():
            warnings.warn(
                f"the likelihood still rose after {found.steps.max()} steps; see max_steps of fit_mixture",
                RuntimeWarning,
                stacklevel=3,  # past the wrapper that sets the arithmetic
            )
        return cls._made_of(found.parameters, found.dtype)

    # Parameters

    @property
    def weights(self) -> FloatArray:
        """Weights of the components, (..., M)."""
        return self._read_only(self._parameters.weights())

    @property
    def means(self) -> FloatArray:
        """Means of the components, (..., M, 2)."""
        return self._read_only(self._parameters.means())

    @property
    def stddevs(self) -> FloatArray:
        """Standard deviations of the components, (..., M, 2)."""
        return self._read_only(self._parameters.stddevs())

    @property
    def correlations(self) -> FloatArray:
        """Correlations of the components, (..., M); always between -1 and 1, also after rounding."""
        limit = np.nextafter(self._dtype.type(1), self._dtype.type(0))
        return self._read_only(np.clip(self._parameters.correlations(), -limit, limit))

    @property
    def log_stddevs(self) -> FloatArray:
        """Logarithms of the standard deviations, (..., M, 2)."""
        return self._read_only(self._parameters.log_stddevs())

    @property
    def atanh_correlations(self) -> FloatArray:
        """Inverse hyperbolic tangents of the correlations, (..., M); exact where a correlation rounds to 1."""
        return self._read_only(self._parameters.atanh_correlations())

    @property
    def covariances(self) -> FloatArray:
        """Covariance matrices of the components, (..., M, 2, 2)."""
        return self._read_only(self._covariances())

    @property
    def n_components(self) -> int:
        """Number of components."""
        return self._parameters.n_components

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch."""
        return self._parameters.packed.shape[:-1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self._dtype

    def to_network_output(self) -> FloatArray:
        """Return the unconstrained parameters in the order of raw network output, without pen logits.

        Returns
        -------
        ndarray, shape (..., 6 M)
            `from_network_output` turns it into an equal mixture, if this one holds unconstrained parameters of its
            dtype. Logits are logarithms of weights, unless the mixture was made from other logits.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> BivariateMixture([1.0], [[3.0, 4.0]], [[1.0, 1.0]], [0.0]).to_network_output()
        array([0., 3., 4., 0., 0., 0.])
        """
        return self._rounded(self._parameters.as_unconstrained().packed.copy())

    # The batch

    def __repr__(self) -> str:
        return f"BivariateMixture(n_components={self.n_components}, batch_shape={self.batch_shape}, dtype={self.dtype})"

    def __getitem__(self, index: Any) -> BivariateMixture:
        self._check_batch("batch to take from")
        # of one item a mixture, so that no index reaches the axis of parameters
        packed = self._parameters.packed
        item = np.dtype((np.void, packed.shape[-1] * packed.itemsize))
        taken = np.asarray(packed.view(item)[..., 0][index], item)
        return type(self)._made_of(type(self._parameters)(taken[..., None].view(np.float64)), self._dtype)

    def _key(self) -> tuple[Any, ...]:
        return self._parameters.packed, self._parameters.unconstrained, self._dtype

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.__slots__:
            object.__setattr__(self, name, value)
            return
        raise AttributeError(f"BivariateMixture is immutable: cannot set {name!r}")

    def __getstate__(self) -> tuple[Doubles, bool, np.dtype[Any]]:
        return self._parameters.packed, self._parameters.unconstrained, self._dtype

    def __setstate__(self, state: tuple[Doubles, bool, np.dtype[Any]]) -> None:
        try:
            packed, unconstrained, of_results = state
            array, kind = np.asarray(packed), {False: Natural, True: Unconstrained}[unconstrained]
            dtype = np.dtype(of_results)
            good = array.dtype == FLOAT64 and dtype in (FLOAT32, FLOAT64) and 0 < array.ndim <= MOST_AXES + 1
            good = good and array.shape[-1] > 0 and array.shape[-1] % PARAMETERS == 0
            parameters = kind(array if good else np.zeros(PARAMETERS))
        except (TypeError, ValueError, KeyError, RuntimeError) as error:
            raise ValueError(f"state: expected that of a BivariateMixture, got {type(state).__name__}") from error
        if not (good and parameters.are_valid()):
            raise ValueError("state: expected that of a BivariateMixture, got other arrays or values")
        self._set(parameters, dtype)

    # Evaluation

    def logpdf(self, x: ArrayLike, *, workers: int | None = None) -> FloatArray:
        """Logarithm of the density at x; parameters as in `pdf`.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> BivariateMixture([1.0], [[0.0, 0.0]], [[1.0, 1.0]], [0.0]).logpdf([100.0, 0.0]).round(4)
        np.float64(-5001.8379)
        """
        return self._evaluate(x, workers, VALUE)[()]

    def pdf(self, x: ArrayLike, *, workers: int | None = None) -> FloatArray:
        """Density at x.

        Parameters
        ----------
        x : array_like, shape (..., 2)
            Points; their leading axes broadcast with the batch.
        workers : int, optional
            As in `mdn_loss`.

        Returns
        -------
        ndarray or scalar, shape (...)
            In 1 over the square of the units of x.

        Raises
        ------
        TypeError, ValueError
            `x` does not hold real numbers, or its shape does not fit.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> BivariateMixture([1.0], [[0.0, 0.0]], [[1.0, 1.0]], [0.0]).pdf([0.0, 0.0]).round(6)
        np.float64(0.159155)
        """
        return self._evaluate(x, workers, VALUE, density=True)[()]

    def component_logpdf(self, x: ArrayLike, *, workers: int | None = None) -> FloatArray:
        """Log-densities of the components at x, without their weights; parameters as in `pdf`.

        Returns
        -------
        ndarray, shape (..., M)

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> mixture = BivariateMixture([0.5, 0.5], [[0.0, 0.0], [2.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [0.0, 0.0])
        >>> mixture.component_logpdf([0.0, 0.0]).round(4)
        array([-1.8379, -3.8379])
        """
        workers = check_workers(workers)
        checked = self._with_points(x)
        value = np.empty((*checked.batch_shape, self.n_components), checked.dtype)
        self._run("packed_components", checked, [value], workers)
        return value

    def responsibilities(self, x: ArrayLike, *, workers: int | None = None) -> FloatArray:
        """Posterior probability of each component, given a point at x; parameters as in `pdf`.

        Returns
        -------
        ndarray, shape (..., M)
            Probabilities with sum 1. For a point so far away that the log-densities of all components are -inf, they
            are the weights.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> mixture = BivariateMixture([0.5, 0.5], [[0.0, 0.0], [2.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [0.0, 0.0])
        >>> mixture.responsibilities([[1.0, 5.0], [0.0, 0.0]]).round(4).tolist()
        [[0.5, 0.5], [0.8808, 0.1192]]
        """
        return self._evaluate(x, workers, RESPONSIBILITIES, (self.n_components,))

    def score(self, x: ArrayLike, *, workers: int | None = None) -> FloatArray:
        """Gradient of the log-density with respect to x; parameters as in `pdf`.

        Returns
        -------
        ndarray, shape (..., 2)

        Notes
        -----
        This is the score of score matching. In scikit-learn `score` is the mean log-density, ``logpdf(x).mean()`` here.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> BivariateMixture([1.0], [[0.0, 0.0]], [[1.0, 2.0]], [0.0]).score([1.0, 2.0])
        array([-1. , -0.5])
        """
        return self._evaluate(x, workers, SCORE, (2,))

    def predict(self, x: ArrayLike, *, workers: int | None = None) -> NDArray[np.int64]:
        """Index of the most probable component, given a point at x; parameters as in `pdf`.

        Returns
        -------
        ndarray or scalar of int64, shape (...)
            -1 where a point is NaN.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> mixture = BivariateMixture([0.5, 0.5], [[0.0, 0.0], [9.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [0.0, 0.0])
        >>> mixture.predict([[1.0, 5.0], [8.0, -2.0]])
        array([0, 1])
        """
        shares = self.responsibilities(x, workers=workers)
        labels: NDArray[np.int64] = np.where(np.isnan(shares[..., 0]), -1, shares.argmax(axis=-1))
        return labels[()]

    def probability(self, lower: ArrayLike, upper: ArrayLike, *, workers: int | None = None) -> FloatArray:
        r"""Probability of a point in a rectangle.

        Parameters
        ----------
        lower, upper : array_like, shape (..., 2)
            Opposite corners, which may be infinite; their leading axes broadcast with the batch.
        workers : int, optional
            As in `mdn_loss`.

        Returns
        -------
        ndarray or scalar, shape (...)
            0 if `upper` is not above `lower` in both coordinates, NaN if one of them is NaN.

        Raises
        ------
        TypeError, ValueError
            The corners do not hold real numbers, or their shapes do not fit.

        See Also
        --------
        log_probability : For probabilities below the smallest number.
        marginal : For strips, which are intervals of one coordinate.

        Notes
        -----
        The relative accuracy is high, also in the tails and beside a narrow ridge: the rectangle is cut into slices,
        the probability of a slice is a difference of Mills' ratios, and the slices are added by Gauss-Legendre
        quadrature (see docs/formulas.md). The relative error of the logarithm is about 1e-15, plus the effect of
        rounding the limits and means. Each component takes one to three microseconds.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> mixture = BivariateMixture([1.0], [[0.0, 0.0]], [[1.0, 1.0]], [0.5])
        >>> mixture.probability([0.0, 0.0], [float("inf"), float("inf")]).round(12)  # 1 / 4 + asin(r) / (2 pi)
        np.float64(0.333333333333)
        >>> mixture.probability([15.0, -15.5], [16.0, -15.0]) > 0.0  # about 1e-199
        np.True_
        """
        return self._rectangles(lower, upper, workers, logarithm=False)

    def log_probability(self, lower: ArrayLike, upper: ArrayLike, *, workers: int | None = None) -> FloatArray:
        """Logarithm of `probability`, with the same parameters.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> mixture = BivariateMixture([1.0], [[0.0, 0.0]], [[1.0, 1.0]], [0.0])
        >>> mixture.log_probability([50.0, 0.0], [51.0, 1.0]).round(4)
        np.float64(-1255.9062)
        """
        return self._rectangles(lower, upper, workers, logarithm=True)

    def cdf(self, x: ArrayLike, *, workers: int | None = None) -> FloatArray:
        """Probability of a point below x in both coordinates; parameters as in `pdf`, accuracy as in `probability`.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> BivariateMixture([1.0], [[0.0, 0.0]], [[1.0, 1.0]], [0.5]).cdf([0.0, 0.0]).round(12)
        np.float64(0.333333333333)
        """
        workers = check_workers(workers)
        checked = self._with({"x": (2,)}, x)
        below = checked._replace(
            arrays=[np.full(2, -np.inf), *checked.arrays], batch_shapes=[(), *checked.batch_shapes]
        )
        return self._rectangles_of(below, workers, logarithm=False)

    # Samples

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
        ndarray, shape (\*size, ..., 2)

        See Also
        --------
        mdn_sample : Also pens, and which component a point is from.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> mixture = BivariateMixture([1.0], [[0.0, 0.0]], [[1.0, 1.0]], [0.9])
        >>> mixture.sample(3, rng=0).shape
        (3, 2)
        """
        shape = check_size("size", size, self.batch_shape)
        p = self._parameters
        x, _, _ = draw(p.rows(), 0, p.unconstrained, Sharpening(), shape, check_rng(rng))
        return self._rounded(x)

    # The mixture as a whole

    def mean(self) -> FloatArray:
        """Mean, (..., 2).

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> BivariateMixture([0.25, 0.75], [[0.0, 0.0], [4.0, 8.0]], [[1.0, 1.0], [1.0, 1.0]], [0.0, 0.0]).mean()
        array([3., 6.])
        """
        return self._rounded(self._mean())

    def covariance(self) -> FloatArray:
        """Covariance matrix, (..., 2, 2): the mean of the components' matrices plus the covariance of their means.

        Notes
        -----
        A variance that overflows is inf; the covariance is then inf or NaN.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> BivariateMixture([0.5, 0.5], [[0.0, 0.0], [2.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]], [0.0, 0.0]).covariance()
        array([[2., 1.],
               [1., 2.]])
        """
        with np.errstate(over="ignore", invalid="ignore"):
            offset = self._parameters.means() - self._mean()[..., None, :]
            spread = self._covariances() + offset[..., :, None] * offset[..., None, :]
            weights = np.exp(self._parameters.log_weights())[..., None, None, :]
            return self._rounded(weighted_sum(weights, np.moveaxis(spread, -3, -1)))

    def entropy(self, *, workers: int | None = None) -> FloatArray:
        """Differential entropy in nats, of the batch's shape.

        Parameters
        ----------
        workers : int, optional
            As in `mdn_loss`.

        Returns
        -------
        ndarray or scalar

        Notes
        -----
        The contribution of overlaps is a sum over 4,096 to 262,144 points for each component, as many as it takes until
        four times as many make no difference; the rest is exact. The error is below 2e-4 if no component is narrower
        than a hundredth of one that it overlaps. The work grows with the square of the number of components.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> BivariateMixture([1.0], [[0.0, 0.0]], [[1.0, 1.0]], [0.0]).entropy().round(6)  # 1 + log(2 pi)
        np.float64(2.837877)
        """
        values = [_quadrature.entropy(single, workers) for single in self._singles()]
        return self._rounded(np.array(values, np.float64).reshape(self.batch_shape))[()]

    def kl_divergence(self, other: BivariateMixture, *, workers: int | None = None) -> FloatArray:
        """Kullback-Leibler divergence from this mixture to another one, in nats.

        Parameters
        ----------
        other : BivariateMixture
            The other mixture; the batches broadcast.
        workers : int, optional
            As in `mdn_loss`.

        Returns
        -------
        ndarray or scalar
            The expectation of ``self.logpdf(x) - other.logpdf(x)`` for points x of this mixture, >= 0.

        Raises
        ------
        TypeError, ValueError
            `other` is not a BivariateMixture, or the batches do not broadcast.

        Notes
        -----
        Computed like `entropy`, with the same accuracy if no component of either mixture is much narrower than one that
        it overlaps.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> p = BivariateMixture([1.0], [[0.0, 0.0]], [[1.0, 1.0]], [0.0])
        >>> p.kl_divergence(p.transform(offset=[2.0, 0.0])).round(6)  # 2 ** 2 / 2
        np.float64(2.0)
        """
        if not isinstance(other, BivariateMixture):
            raise TypeError(f"other: expected a BivariateMixture, got {type(other).__name__}")
        try:
            batch_shape = np.broadcast_shapes(self.batch_shape, other.batch_shape)
        except ValueError:
            raise ValueError(
                f"other: expected a batch shape that broadcasts with {self.batch_shape}, got {other.batch_shape}"
            ) from None
        mine, its = (
            np.broadcast_to(np.arange(len(each._parameters.rows())).reshape(each.batch_shape), batch_shape).reshape(-1)
            for each in (self, other)
        )
        singles, others = self._singles(), other._singles()
        values = [_quadrature.kl_divergence(singles[i], others[j], workers) for i, j in zip(mine, its, strict=True)]
        array = np.array(values, np.float64).reshape(batch_shape)
        return (self._rounded(array) if other._dtype == self._dtype else array)[()]

    def mode(self) -> FloatArray:
        """Point of highest density, (..., 2).

        Notes
        -----
        This is the highest of the maxima that a local search reaches from the mean of every component, from the meeting
        point of each pair of components, and from that of all components that matter there. The search uses Newton's
        method, or a mean-shift step if that does not ascend. A mixture can have more maxima than components, and no
        method is known to find all of them, so the highest one may be missed. Low meeting points and those close to an
        earlier start are skipped. It takes half a millisecond for M = 20 components, a second for M = 400, and ten
        seconds for M = 1000. Ctrl-C interrupts it.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> means, stddevs = [[0.0, 0.0], [1.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]
        >>> BivariateMixture([0.5, 0.5], means, stddevs, [0.0, 0.0]).mode()
        array([0.5, 0. ])
        """
        rows = self._parameters.rows()
        point = np.empty((len(rows), 2))
        m = self.n_components
        scratch, highest = np.empty((_distribution_kernels.MODE_PLANES, m)), np.empty(len(rows))
        # about 50 ms of work in each call, so that Ctrl-C is noticed between two. Scratch memory carries over to the
        # next call of the same mixture: one that needs several calls has them to itself, as its starts exceed its piece
        mixtures, starts = max(1, MODE_PIECE // m**3), max(1, MODE_PIECE // m**2)
        for i in range(0, len(rows), mixtures):
            piece = slice(i, i + mixtures)
            for first in range(0, 2 * m, starts):
                last = min(first + starts, 2 * m)
                done = _distribution_kernels.modes(
                    rows[piece], self._parameters.unconstrained, first, last, scratch, highest[piece], point[piece]
                )
                check_done(done)
        return self._rounded(point.reshape(*self.batch_shape, 2))

    def credible_level(self, mass: ArrayLike) -> FloatArray:
        """Density at the boundary of the smallest region that holds a given probability mass.

        Parameters
        ----------
        mass : array_like, shape (...)
            Probabilities, between 0 and 1.

        Returns
        -------
        ndarray or scalar
            Densities of the batch's shape followed by that of `mass`, in 1 over the square of the units of x. The
            region is where `pdf` is at least this density.

        Notes
        -----
        This is a weighted quantile of the density over 4096 points for each component, equally probable and evenly
        distributed (a Fibonacci spiral, rotated by an angle that depends on all parameters, so that no component lies
        on the points of another). In all mixtures tried the region holds the mass to within 0.002, in most of them to
        within 0.0005. The work grows with the square of the number of components.

        Examples
        --------
        >>> import numpy as np
        >>> from cymdn import BivariateMixture
        >>> level = BivariateMixture([1.0], [[0.0, 0.0]], [[1.0, 1.0]], [0.0]).credible_level(0.5)
        >>> np.isclose(level, 0.5 / (2 * np.pi), rtol=1e-3)  # half of the peak
        np.True_
        """
        checked = check_arguments({"mass": ()}, (mass,))
        masses = checked.arrays[0].astype(np.float64)
        check_each("mass", masses, (masses > 0) & (masses < 1), "numbers between 0 and 1")
        levels = np.empty((len(self._parameters.rows()), masses.size))
        for single, level in zip(self._singles(), levels, strict=True):
            level[:] = _quadrature.levels(single, masses.reshape(-1))
        with np.errstate(over="ignore"):
            return self._rounded(np.exp(levels).reshape(self.batch_shape + masses.shape))[()]

    def marginal(self, axis: int) -> UnivariateMixture:
        """Return the distribution of one coordinate.

        Parameters
        ----------
        axis : {0, 1}
            Which coordinate.

        Returns
        -------
        UnivariateMixture
            With `pdf`, `logpdf`, `cdf`, `ppf`, `probability`, `mean`, `variance` and `sample`.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> mixture = BivariateMixture([1.0], [[0.0, 3.0]], [[1.0, 2.0]], [0.5])
        >>> mixture.marginal(1).mean(), mixture.marginal(1).variance()
        (np.float64(3.0), np.float64(4.0))
        """
        axis = check_axis(axis)
        return UnivariateMixture(
            self._parameters.log_weights(),
            self._parameters.plane(MEAN + axis),
            self._parameters.log_stddevs()[..., axis],
            self._dtype,
        )

    def conditional(self, axis: int, value: ArrayLike) -> UnivariateMixture:
        r"""Return the distribution of one coordinate, given the other.

        Parameters
        ----------
        axis : {0, 1}
            Which coordinate is given.
        value : array_like, shape (...)
            Its value; broadcasts with the batch.

        Returns
        -------
        UnivariateMixture
            Of the other coordinate, of the broadcast batch shape.

        Notes
        -----
        A component's weight becomes proportional to its weight times its marginal density at the value, its mean
        :math:`\mu_b + r \sigma_b u` with the value's standardised offset u, its standard deviation
        :math:`\sigma_b \sqrt{1 - r^2}`. Where the value is so far away that every density is 0 even in the log domain,
        the weights stay.

        Examples
        --------
        >>> from cymdn import BivariateMixture
        >>> mixture = BivariateMixture([1.0], [[0.0, 3.0]], [[1.0, 2.0]], [0.5])
        >>> mixture.conditional(0, 1.0).mean(), mixture.conditional(0, 1.0).variance().round(12)
        (np.float64(4.0), np.float64(3.0))
        """
        axis = check_axis(axis)
        checked = self._with({"value": ()}, value)
        given = checked.arrays[0][..., None].astype(np.float64)
        p = self._parameters
        log_weights, log_stddevs = p.log_weights(), p.log_stddevs()
        with np.errstate(over="ignore"):
            u = standardised(given - p.plane(MEAN + axis), log_stddevs[..., axis])
            terms = log_weights + log_normal(u, log_stddevs[..., axis])
            mean = p.plane(MEAN + 1 - axis) + p.stddevs()[..., 1 - axis] * (p.correlations() * u)
            mean = np.clip(mean, -sys.float_info.max, sys.float_info.max)
            others = log_stddevs[..., 1 - axis] - p.log_kappa()
        nowhere = terms.max(axis=-1, keepdims=True) == -np.inf
        log_weights = np.where(nowhere, log_weights, normalised(np.where(nowhere, 0.0, terms)))
        return UnivariateMixture(
            log_weights,
            mean,
            others,
            checked.dtype,
        )

    def plot(self, ax: Axes | None = None, *, mass: ArrayLike = (0.5, 0.9, 0.99)) -> PlotArtists | list[PlotArtists]:
        """Plot the components and the contours of the smallest regions that hold given masses; a batch as panels.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, or array of them for a batch, optional
            Where to plot. The default is the current axes, as in matplotlib's own functions, or a new figure with a
            panel for each mixture of a batch.
        mass : array_like, shape () or (n,), optional
            Probability masses of the regions.

        Returns
        -------
        PlotArtists, or a list of them for a batch
            Named tuple `(contours, components)`: matplotlib's ContourSet, of log-densities, and an EllipseCollection of
            the components' ellipses of one standard deviation, whose opacity is the weight. A legend, below the panels
            of a new figure, else on the first axes, names the masses.

        Raises
        ------
        ImportError
            matplotlib is not installed.
        TypeError, ValueError
            `mass` is invalid, a batch has no mixture or more than 64, or `ax` has another number of axes.

        Notes
        -----
        Contours are interpolated on a triangular grid that is refined where they bend, down to 1/2048 of the picture. A
        peak or ridge narrower than 1/2000 of the picture may be ragged or missing.
        """
        from cymdn import _plot

        return _plot.plot(self, ax, mass)

    # Other mixtures

    def transform(self, matrix: ArrayLike | None = None, offset: ArrayLike | None = None) -> BivariateMixture:
        r"""Return the distribution of y = matrix x + offset.

        Parameters
        ----------
        matrix : array_like, shape (..., 2, 2), optional
            An invertible matrix: a rotation, a change of units, a shear. Its leading axes broadcast with the batch. The
            default is the identity.
        offset : array_like, shape (..., 2), optional
            Its leading axes broadcast with the batch. The default is 0.

        Returns
        -------
        BivariateMixture
            Of the broadcast batch shape, with unconstrained parameters; float32 if mixture, matrix and offset are.

        Raises
        ------
        TypeError, ValueError
            The arrays do not hold finite real numbers, or their shapes do not fit; a matrix is singular; a mean
            overflows. The message has the index of the first such value.

        Notes
        -----
        No covariance matrix is formed, because its rounding errors would make narrow components wrong or indefinite.
        Instead the rows of T L are scaled and multiplied exactly, and their determinant is known (see
        docs/formulas.md). The error is smaller than the effect of rounding the arguments. Densities change with the
        area: ``mixture.transform(matrix).logpdf(matrix @ x)`` is ``mixture.logpdf(x) - log(abs(det(matrix)))``.

        Examples
        --------
        A mixture for normalised points, converted to the units of the data:

        >>> from cymdn import BivariateMixture
        >>> learned = BivariateMixture([1.0], [[0.5, -1.0]], [[1.0, 1.0]], [0.0])
        >>> data = learned.transform([[20.0, 0.0], [0.0, 5.0]], [320.0, 240.0])
        >>> data.means, data.stddevs.round(12)
        (array([[330., 235.]]), array([[20.,  5.]]))
        """
        identity = np.eye(2, dtype=self._dtype)
        checked = self._with(
            {"matrix": (2, 2), "offset": (2,)},
            identity if matrix is None else matrix,
            np.zeros(2, self._dtype) if offset is None else offset,
        )
        t, b = (array.astype(np.float64) for array in checked.arrays)
        check_each("matrix", t, np.isfinite(t), "finite numbers")
        check_each("offset", b, np.isfinite(b), "finite numbers")
        with np.errstate(all="ignore"):
            invertible = _affine.determinant(_affine.rows_of(t)[0]) != 0.0
            check_each("matrix", t, invertible, "an invertible matrix")
            moved = self._parameters.as_unconstrained().mapped(t, b, checked.batch_shape)
            means = moved.means().astype(checked.dtype)
        check_each("offset", means, np.isfinite(means), "means within the range of numbers")
        return self._made_of(moved, checked.dtype)

    @classmethod
    def concatenate(cls, mixtures: Sequence[BivariateMixture], weights: ArrayLike | None = None) -> BivariateMixture:
        """Return a mixture of mixtures, which has the components of all of them.

        Parameters
        ----------
        mixtures : sequence of BivariateMixture
            At least one, with batch shapes that broadcast.
        weights : array_like, shape (..., n), optional
            Weights of the n mixtures, >= 0, with sum 1 to within 1e-6; their leading axes broadcast with the batch. By
            default they are equal.

        Returns
        -------
        BivariateMixture
            Of the broadcast batch shape; float32 if all mixtures are. It has unconstrained parameters if one of them
            has.

        Raises
        ------
        TypeError, ValueError
            An element is not a BivariateMixture, there is none, the shapes do not fit, or the weights are invalid.

        Examples
        --------
        The prediction of an ensemble:

        >>> from cymdn import BivariateMixture
        >>> first = BivariateMixture([1.0], [[0.0, 0.0]], [[1.0, 1.0]], [0.0])
        >>> second = BivariateMixture([0.5, 0.5], [[4.0, 0.0], [8.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [0.0, 0.0])
        >>> BivariateMixture.concatenate([first, second], [0.2, 0.8]).weights
        array([0.2, 0.4, 0.4])
        """
        several: object = mixtures
        if isinstance(several, BivariateMixture) or not isinstance(several, Iterable):
            raise TypeError(f"mixtures: expected a sequence of BivariateMixture, got {type(mixtures).__name__}")
        given = list(mixtures)
        for k, mixture in enumerate(given):
            if not isinstance(mixture, BivariateMixture):
                raise TypeError(f"mixtures: expected BivariateMixture, got {type(mixture).__name__} at index {k}")
        if not given:
            raise ValueError("mixtures: expected at least one mixture, got none")
        shares = np.full(len(given), 1.0 / len(given)) if weights is None else weights
        (array,) = check_arguments({"weights": (len(given),)}, (shares,)).arrays
        _check_weights(array, "mixtures")
        shapes = [mixture.batch_shape for mixture in given]
        try:
            batch_shape = np.broadcast_shapes(array.shape[:-1], *shapes)
        except ValueError:
            raise ValueError(
                f"mixtures: expected batch shapes that broadcast, with {array.shape[:-1]} of the weights, got {shapes}"
            ) from None
        kind = Unconstrained if any(mixture._parameters.unconstrained for mixture in given) else Natural
        joined = kind.joined([mixture._parameters for mixture in given], array.astype(np.float64), batch_shape)
        return cls._made_of(joined, np.result_type(*(mixture._dtype for mixture in given)))

    # Implementation

    def _rectangles(self, lower: ArrayLike, upper: ArrayLike, workers: int | None, logarithm: bool) -> FloatArray:
        workers = check_workers(workers)
        return self._rectangles_of(self._with({"lower": (2,), "upper": (2,)}, lower, upper), workers, logarithm)

    def _rectangles_of(self, limits: Checked, workers: int, logarithm: bool) -> FloatArray:
        values = np.empty(limits.batch_shape)
        problem = self._with_parameters(limits, FLOAT64)
        self._run("rectangles", problem, [values], workers, cost=RECTANGLE_COST, logarithm=logarithm)
        return self._rounded(values)[()] if limits.dtype == self._dtype else values[()]

    def _singles(self) -> list[BivariateMixture]:
        """Return the mixtures one by one, in float64."""
        return [self._made_of(type(self._parameters)(row), FLOAT64) for row in self._parameters.rows()]

    @classmethod
    def _made_of(cls, parameters: Parameters, dtype: np.dtype[Any]) -> BivariateMixture:
        mixture = cls.__new__(cls)
        mixture._set(parameters, dtype)
        return mixture

    def _set(self, parameters: Parameters, dtype: np.dtype[Any]) -> None:
        self._parameters = parameters
        self._dtype = dtype

    def _covariances(self) -> Doubles:
        stddevs = self._parameters.stddevs()
        correlations = np.ones((*stddevs.shape, 2))
        correlations[..., 0, 1] = correlations[..., 1, 0] = self._parameters.correlations()
        with np.errstate(over="ignore"):
            # multiply by r first: 0 * inf is NaN
            covariances: Doubles = stddevs[..., :, None] * correlations * stddevs[..., None, :]
        covariances[..., 1, 0] = covariances[..., 0, 1]
        return covariances

    def _mean(self) -> Doubles:
        weights = np.exp(self._parameters.log_weights())
        return np.stack([weighted_sum(weights, self._parameters.plane(MEAN + k)) for k in (0, 1)], axis=-1)

    def _with(self, cores: dict[str, tuple[int, ...]], *values: ArrayLike) -> Checked:
        """Return arguments whose batch shapes broadcast with that of the mixtures, and the dtype of results."""
        checked = check_arguments_of(self.batch_shape, cores, values)
        return checked._replace(dtype=np.result_type(checked.dtype, self._dtype))

    def _with_parameters(self, checked: Checked, dtype: np.dtype[Any]) -> Checked:
        """Return points and parameters in the form that `run_over_batch` takes."""
        return Checked(
            [*(array.astype(dtype, copy=False) for array in checked.arrays), self._parameters.packed],
            checked.dtype,
            [*checked.batch_shapes, self.batch_shape],
            checked.batch_shape,
            {"M": self.n_components},
        )

    def _with_points(self, x: ArrayLike) -> Checked:
        checked = self._with({"x": (2,)}, x)
        return self._with_parameters(checked, checked.dtype)

    def _run(
        self,
        kernel: str | Kernel,
        checked: Checked,
        outputs: list[FloatArray | None],
        workers: int,
        **options: int,
    ) -> None:
        options["unconstrained"] = self._parameters.unconstrained
        run_over_batch(kernel, checked, outputs, workers, **options)

    def _evaluate(
        self, x: ArrayLike, workers: int | None, output: int, core: tuple[int, ...] = (), **options: int
    ) -> FloatArray:
        """Return one of the outputs of packed_mixture, whose last axes are `core`."""
        workers = check_workers(workers)
        checked = self._with_points(x)
        outputs: list[FloatArray | None] = [None, None, None]
        array: FloatArray = np.empty((*checked.batch_shape, *core), checked.dtype)
        outputs[output] = array
        self._run("packed_mixture", checked, outputs, workers, **options)
        return array

    def _read_only(self, values: Doubles) -> FloatArray:
        # never a view of what the kernels read
        with np.errstate(over="ignore"):
            array: FloatArray = values.astype(self._dtype)
        array.flags.writeable = False
        return array

    def _rounded(self, values: NDArray[Any]) -> FloatArray:
        with np.errstate(over="ignore"):
            array: FloatArray = values.astype(self._dtype, copy=False)
        return array


def check_axis(axis: object) -> int:
    """Return the number of a coordinate."""
    number = index(axis) if isinstance(axis, (int, np.integer)) else -1  # of a bool too, which would index otherwise
    if number not in (0, 1):
        raise ValueError(f"axis: expected 0 or 1, got {axis!r}")
    return number


def _check_some_components(name: str, components: int) -> None:
    if components == 0:
        raise ValueError(f"{name}: expected at least one component, got M = 0")


def _check_finite(name: str, array: FloatArray) -> None:
    check_each(name, array, np.isfinite(array), "finite numbers")


def _check_weights(weights: FloatArray, of: str = "components") -> None:
    check_each("weights", weights, np.isfinite(weights) & (weights >= 0), "finite numbers >= 0")
    total = weights.sum(axis=-1, dtype=np.float64)
    check_each("weights", total, np.abs(total - 1.0) <= SUM_TOLERANCE, f"a sum of 1 over the {of}")
