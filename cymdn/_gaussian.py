"""Densities of single Gaussians and their derivatives, from natural parameters. Check, allocate, call, return."""

from __future__ import annotations

from math import inf
from typing import Any, Literal, NamedTuple, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike

from cymdn import _builds
from cymdn._arrays import (
    FLOAT32,
    FLOAT64,
    Core,
    FloatArray,
    check_arguments,
    check_flag,
    check_nonnegative,
    check_outputs,
    deliver,
    in_ieee_arithmetic,
)
from cymdn._running import check_workers, is_one_call, run_over_batch, scratch

Out: TypeAlias = FloatArray | tuple[Any, ...] | None

# The axes that arguments end in
BATCH_CORES: dict[str, Core] = {"x": (1, 2), "mean": ("m", 2), "stddev": ("m", 2), "correlation": ("m", 1)}
CORES: dict[str, Core] = {"x": (2,), "mean": ("M", 2), "stddev": ("M", 2), "correlation": ("M",)}


class DensityGradient(NamedTuple):
    """Derivatives of the log-density, with the shapes of the parameters; unpacks like a plain tuple."""

    dmean: FloatArray
    """With respect to the mean, (n, m, 2)."""
    dstddev: FloatArray
    """With respect to the logarithm of the standard deviation, (n, m, 2)."""
    dcorrelation: FloatArray
    """With respect to the inverse hyperbolic tangent of the correlation, (n, m, 1)."""


class GaussianGradient(NamedTuple):
    """Gradient of the log-density of each component in unconstrained coordinates.

    Examples
    --------
    >>> from cymdn import gaussian_logpdf_and_gradient
    >>> _, gradient = gaussian_logpdf_and_gradient([1.0, 0.0], [[0.0, 0.0]], [[1.0, 2.0]], [0.0])
    >>> gradient.mean, gradient.log_stddev, gradient.atanh_correlation
    (array([[1., 0.]]), array([[ 0., -1.]]), array([0.]))
    """

    mean: FloatArray
    """With respect to the means, (..., M, 2)."""
    log_stddev: FloatArray
    """With respect to the logarithms of the standard deviations, (..., M, 2)."""
    atanh_correlation: FloatArray
    """With respect to the inverse hyperbolic tangents of the correlations, (..., M)."""
    x: FloatArray
    """With respect to the point, (..., M, 2)."""


@overload
def gaussian_density_batch(
    x: ArrayLike,
    mean: ArrayLike,
    stddev: ArrayLike,
    correlation: ArrayLike,
    compute_derivatives: Literal[False] = False,
    *,
    smooth_eps: float = 1e-10,
    workers: int | None = None,
) -> tuple[FloatArray, None]: ...
@overload
def gaussian_density_batch(
    x: ArrayLike,
    mean: ArrayLike,
    stddev: ArrayLike,
    correlation: ArrayLike,
    compute_derivatives: Literal[True],
    *,
    smooth_eps: float = 1e-10,
    workers: int | None = None,
) -> tuple[FloatArray, DensityGradient]: ...
@overload
def gaussian_density_batch(
    x: ArrayLike,
    mean: ArrayLike,
    stddev: ArrayLike,
    correlation: ArrayLike,
    compute_derivatives: bool = False,
    *,
    smooth_eps: float = 1e-10,
    workers: int | None = None,
) -> tuple[FloatArray, DensityGradient | None]: ...
def gaussian_density_batch(
    x: ArrayLike,
    mean: ArrayLike,
    stddev: ArrayLike,
    correlation: ArrayLike,
    compute_derivatives: bool = False,
    *,
    smooth_eps: float = 1e-10,
    workers: int | None = None,
) -> tuple[FloatArray, DensityGradient | None]:
    r"""Smoothed density of correlated 2-D Gaussians, and the derivatives of its logarithm.

    Each of the n points is evaluated under the m Gaussians of its row.

    Parameters
    ----------
    x : array_like, shape (n, 1, 2)
        The points.
    mean : array_like, shape (n, m, 2)
        Means of the components.
    stddev : array_like, shape (n, m, 2)
        Standard deviations, in the units of `x`. A negative one gives NaN.
    correlation : array_like, shape (n, m, 1)
        Correlations, in [-1, 1].
    compute_derivatives : bool, default False
        Whether to return the derivatives as well.
    smooth_eps : float, default 1e-10
        Added to each divisor that could be 0. Finite and >= 0.
    workers : int, optional
        Number of threads, 1 by default; -1 uses all CPUs, -2 all but one, and so on. The result has the same bits for
        any number.

    Returns
    -------
    density : ndarray, shape (n, m, 1)
        The densities.
    derivatives : None or DensityGradient
        With `compute_derivatives`, a named tuple `(dmean, dstddev, dcorrelation)` of shapes (n, m, 2), (n, m, 2) and
        (n, m, 1): the derivatives of the logarithm of the density with respect to the mean, the *logarithm* of the
        standard deviation and the *inverse hyperbolic tangent* of the correlation.

    Raises
    ------
    TypeError
        An array is masked or does not hold real numbers of at most 64 bits.
    ValueError
        A shape does not fit, or `smooth_eps` is negative or not finite.

    Notes
    -----
    An n of 1 broadcasts against the other arguments' n. Results are float32 if all arrays are float32 (or bool, float16
    and integers that float32 holds), else float64; the arithmetic is float64 in both cases. Array values never raise: a
    NaN, or a value outside the domain, affects only its own component. Finite values give no NaN (with a `smooth_eps`
    of 0, if \|correlation\| < 1). Offsets that overflow, and results computed from them, are replaced by the largest
    number; with a `smooth_eps` of 0 so is the reciprocal of the product of both standard deviations. `gaussian_logpdf`
    uses logarithms and does not overflow.

    With offsets :math:`u, v` divided by :math:`\sigma + \epsilon`, :math:`Z = u^2 + v^2 - 2 r u v` (not below 0) and
    :math:`q = 1 - r^2`, the density is [1]_ (eq. 24, 25), smoothed,

    .. math:: \frac{\exp(-Z / (2 q + \epsilon))}{2 \pi \sigma_0 \sigma_1 \sqrt{q + \epsilon} + \epsilon},

    and the derivatives are those of the logarithm of the density *without* smoothing ([1]_, eq. 34 to 37), guarded by
    :math:`C = 1 / (q + \epsilon)`: :math:`C (u - r v) / (\sigma_0 + \epsilon)` for the mean,
    :math:`u \sigma_0` times that, less 1, for :math:`\log \sigma_0`, and :math:`u v + r (1 - C Z)` for
    :math:`\tanh^{-1} r`.

    References
    ----------
    .. [1] Graves, A., "Generating sequences with recurrent neural networks", arXiv:1308.0850, 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from cymdn import gaussian_density_batch
    >>> x = np.array([[[0.5, -0.5]]])
    >>> mean, stddev, correlation = np.zeros((1, 1, 2)), np.ones((1, 1, 2)), np.full((1, 1, 1), 0.5)
    >>> density, (dmean, dstddev, dcorrelation) = gaussian_density_batch(x, mean, stddev, correlation, True)
    >>> density.round(6)
    array([[[0.111466]]])
    >>> dmean.round(6)
    array([[[ 1., -1.]]])
    """
    done = _density_of_plain_arrays(x, mean, stddev, correlation, compute_derivatives, smooth_eps, workers)
    if done is not None:
        return done
    return _checked_density(x, mean, stddev, correlation, compute_derivatives, smooth_eps, workers)


@in_ieee_arithmetic
def _checked_density(
    x: ArrayLike,
    mean: ArrayLike,
    stddev: ArrayLike,
    correlation: ArrayLike,
    compute_derivatives: bool,
    smooth_eps: float,
    workers: int | None,
) -> tuple[FloatArray, DensityGradient | None]:
    compute_derivatives = check_flag("compute_derivatives", compute_derivatives)
    smooth_eps = check_nonnegative("smooth_eps", smooth_eps)
    workers = check_workers(workers)
    checked = check_arguments(BATCH_CORES, (x, mean, stddev, correlation), batch_axis="n")
    (n,), m = checked.batch_shape, checked.sizes["m"]
    density, derivatives = _allocate_density(n, m, checked.dtype, compute_derivatives)
    run_over_batch("density", checked, [density, *(derivatives or ())], workers, smooth_eps=smooth_eps)
    return density, derivatives


def _allocate_density(
    n: int, m: int, dtype: np.dtype[Any], compute_derivatives: bool
) -> tuple[FloatArray, DensityGradient | None]:
    density = np.empty((n, m, 1), dtype)
    if not compute_derivatives:
        return density, None
    return density, DensityGradient(np.empty((n, m, 2), dtype), np.empty((n, m, 2), dtype), np.empty((n, m, 1), dtype))


def _density_of_plain_arrays(
    x: ArrayLike,
    mean: ArrayLike,
    stddev: ArrayLike,
    correlation: ArrayLike,
    compute_derivatives: bool,
    smooth_eps: float,
    workers: int | None,
) -> tuple[FloatArray, DensityGradient | None] | None:
    """Call the kernel without the checks of Python, or return None if it does not accept the arguments as they are.

    Checks take most of the time of a call with one point, and the kernel has its own.
    """
    if type(x) is not np.ndarray or type(mean) is not np.ndarray:
        return None
    if type(stddev) is not np.ndarray or type(correlation) is not np.ndarray:
        return None
    dtype, shape = mean.dtype, mean.shape
    if (dtype is not FLOAT64 and dtype is not FLOAT32) or len(shape) != 3 or mean.size == 0:
        return None
    if not (x.dtype is stddev.dtype is correlation.dtype is dtype):
        return None
    if type(smooth_eps) is not float or not 0.0 <= smooth_eps < inf or type(compute_derivatives) is not bool:
        return None
    n, m, _ = shape
    if x.shape != (n, 1, 2) or not is_one_call(n * m, workers):
        return None
    density, derivatives = _allocate_density(n, m, dtype, compute_derivatives)
    outputs = derivatives or (None, None, None)
    try:
        done = _builds.kernels.density(n, m, x, mean, stddev, correlation, scratch(m), density, *outputs, smooth_eps)
    except ValueError:  # of the buffers: another layout
        return None
    return (density, derivatives) if done else None


@in_ieee_arithmetic
def gaussian_logpdf(
    x: ArrayLike,
    mean: ArrayLike,
    stddev: ArrayLike,
    correlation: ArrayLike,
    *,
    out: Out = None,
    workers: int | None = None,
) -> FloatArray:
    r"""Log-density of each of M correlated 2-D Gaussians.

    Parameters
    ----------
    x : array_like, shape (..., 2)
        The points.
    mean : array_like, shape (..., M, 2)
        Means of the components.
    stddev : array_like, shape (..., M, 2)
        Standard deviations, > 2.23e-308 (the smallest normal number), in the units of `x`.
    correlation : array_like, shape (..., M)
        Correlations, strictly between -1 and 1.
    out : ndarray, shape (..., M), optional
        Array for the result, of its shape and dtype, in any layout. It may overlap an argument.
    workers : int, optional
        Number of threads, 1 by default; -1 uses all CPUs, -2 all but one, and so on. The result has the same bits for
        any number.

    Returns
    -------
    ndarray, shape (..., M)
        The natural logarithms of the densities, in 1 over the square of the units of `x`. The leading axes of all
        arguments broadcast; for a grid of points and one set of components, the components are prepared once.

    Raises
    ------
    TypeError
        An array is masked or does not hold real numbers of at most 64 bits; `out` has another dtype than the result.
    ValueError
        A shape does not fit.

    See Also
    --------
    gaussian_logpdf_and_gradient : Also returns the gradient.
    mixture_logpdf : Of a mixture of the components.

    Notes
    -----
    The result is float32 if all arguments are float32 (or bool, float16 and integers that float32 holds), else float64;
    it is computed in float64. No epsilon is added ([1]_, eq. 24 and 25). Finite arguments within the domain never give
    NaN; the result of a component outside the domain is NaN. If `x - mean` overflows float64, the point counts as
    infinitely far away.

    References
    ----------
    .. [1] Graves, A., "Generating sequences with recurrent neural networks", arXiv:1308.0850, 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from cymdn import gaussian_logpdf
    >>> gaussian_logpdf(np.array([100.0, 0.0]), np.zeros((2, 2)), np.ones((2, 2)), np.array([0.0, -0.5])).round(3)
    array([-5001.838, -6668.361])
    """
    workers = check_workers(workers)
    checked = check_arguments(CORES, (x, mean, stddev, correlation))
    shape = (*checked.batch_shape, checked.sizes["M"])
    outputs = check_outputs(["value"], [shape], checked.dtype, out, checked.arrays)
    run_over_batch("gaussian_logpdf", checked, [output.array for output in outputs], workers)
    (value,) = deliver(outputs)
    return value


@in_ieee_arithmetic
def gaussian_logpdf_and_gradient(
    x: ArrayLike,
    mean: ArrayLike,
    stddev: ArrayLike,
    correlation: ArrayLike,
    *,
    out: Out = None,
    workers: int | None = None,
) -> tuple[FloatArray, GaussianGradient]:
    r"""Log-density of each of M correlated 2-D Gaussians and its gradient.

    Parameters
    ----------
    x, mean, stddev, correlation : array_like
        As in `gaussian_logpdf`.
    out : tuple of ndarray, optional
        Arrays for value and gradient, in the structure that is returned or as five arrays; None allocates one.
    workers : int, optional
        As in `gaussian_logpdf`.

    Returns
    -------
    value : ndarray, shape (..., M)
        As `gaussian_logpdf` returns it.
    gradient : GaussianGradient
        Named tuple `(mean, log_stddev, atanh_correlation, x)` of shapes (..., M, 2), (..., M, 2), (..., M),
        (..., M, 2): the derivatives of each log-density with respect to the means, the logarithms of the standard
        deviations, the inverse hyperbolic tangents of the correlations, and the point. Leading axes are those of the
        broadcast arguments: nothing is summed over a broadcast axis.

    Raises
    ------
    TypeError, ValueError
        As in `gaussian_logpdf`.

    Notes
    -----
    With standardised offsets u, v and :math:`C = 1 / (1 - r^2)` ([1]_, eq. 34 to 37): :math:`C (u - r v) / \sigma_0`
    for mean 0, :math:`u C (u - r v) - 1` for log stddev 0, and :math:`r + C (u - r v) (v - r u)` for the inverse
    hyperbolic tangent of the correlation. Where the log-density is below the range of the dtype, it is -inf and its
    gradient 0.

    References
    ----------
    .. [1] Graves, A., "Generating sequences with recurrent neural networks", arXiv:1308.0850, 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from cymdn import gaussian_logpdf_and_gradient
    >>> x, mean, stddev, correlation = np.array([2.0, 0.0]), np.zeros((1, 2)), np.ones((1, 2)), np.zeros(1)
    >>> value, gradient = gaussian_logpdf_and_gradient(x, mean, stddev, correlation)
    >>> print(value.round(4), gradient.mean, gradient.log_stddev, gradient.atanh_correlation)
    [-3.8379] [[2. 0.]] [[ 3. -1.]] [0.]
    """
    workers = check_workers(workers)
    checked = check_arguments(CORES, (x, mean, stddev, correlation))
    one = (*checked.batch_shape, checked.sizes["M"])
    two = (*one, 2)
    outputs = check_outputs(
        ["value", *GaussianGradient._fields], [one, two, two, one, two], checked.dtype, out, checked.arrays
    )
    run_over_batch("gaussian_logpdf", checked, [output.array for output in outputs], workers)
    value, *gradient = deliver(outputs)
    return value, GaussianGradient(*gradient)
