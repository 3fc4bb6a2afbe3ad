"""Component level: densities of single Gaussians and their derivatives. Check, allocate, call, return."""

from typing import Literal, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike

from cymdn import _kernels
from cymdn._arrays import Argument, FloatArray, check_arguments, check_nonnegative, repeat_rows


class DensityGradient(NamedTuple):
    """Derivatives of the log-density, with the shapes of the parameters; unpacks like a plain tuple."""

    dmean: FloatArray
    """With respect to the mean, (n, m, 2)."""
    dstddev: FloatArray
    """With respect to the logarithm of the standard deviation, (n, m, 2)."""
    dcorrelation: FloatArray
    """With respect to the inverse hyperbolic tangent of the correlation, (n, m, 1)."""


@overload
def gaussian_density_batch(
    x: ArrayLike,
    mean: ArrayLike,
    stddev: ArrayLike,
    correlation: ArrayLike,
    compute_derivatives: Literal[False] = False,
    *,
    smooth_eps: float = 1e-10,
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
) -> tuple[FloatArray, DensityGradient | None]: ...
def gaussian_density_batch(
    x: ArrayLike,
    mean: ArrayLike,
    stddev: ArrayLike,
    correlation: ArrayLike,
    compute_derivatives: bool = False,
    *,
    smooth_eps: float = 1e-10,
) -> tuple[FloatArray, DensityGradient | None]:
    r"""Smoothed density of correlated 2-D Gaussians, and the derivatives of its logarithm.

    Each of the n points is put into the m Gaussians of its row.

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
        Whether to return the derivatives too.
    smooth_eps : float, default 1e-10
        Added where a division could otherwise be by zero. Finite and >= 0.

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
        An array is not of real numbers of at most 64 bits, or is masked.
    ValueError
        A shape does not fit, or `smooth_eps` is negative or not finite.

    Notes
    -----
    An n of 1 broadcasts against the other arguments' n. Results are float32 if all arrays are float32 (or bool, float16
    and integers that float32 holds), else float64; the arithmetic is float64 either way. The values of the arrays never
    raise: a NaN, or a value outside the domain, stays in its own component.

    With offsets :math:`u, v` divided by :math:`\sigma + \epsilon`, :math:`Z = u^2 + v^2 - 2 r u v` (not below 0) and
    :math:`q = 1 - r^2`, the density is [1]_ (eq. 24, 25), smoothed,

    .. math:: \frac{\exp(-Z / (2 q + \epsilon))}{2 \pi \sigma_0 \sigma_1 \sqrt{q + \epsilon} + \epsilon},

    and the derivatives are those of the logarithm of the density *without* smoothing ([1]_, eq. 34 to 37), guarded by
    :math:`C = 1 / (q + \epsilon)`: :math:`C (u - r v) / (\sigma_0 + \epsilon)` for the mean,
    :math:`u \sigma_0` times that, less 1, for :math:`\log \sigma_0`, and :math:`u v + r (1 - C Z)` for
    :math:`\tanh^{-1} r`.

    References
    ----------
    .. [1] A. Graves, "Generating sequences with recurrent neural networks", arXiv:1308.0850, 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from cymdn import gaussian_density_batch
    >>> x = np.array([[[0.5, -0.5]]])
    >>> mean, stddev, correlation = np.zeros((1, 1, 2)), np.ones((1, 1, 2)), np.full((1, 1, 1), 0.5)
    >>> density, (dmean, dstddev, dcorrelation) = gaussian_density_batch(x, mean, stddev, correlation, True)
    >>> density.round(6)
    array([[[0.111465]]])
    >>> dmean.round(6)
    array([[[ 1., -1.]]])
    """
    smooth_eps = check_nonnegative("smooth_eps", smooth_eps)
    (points, *parameters), dtype, batch_shapes, sizes = check_arguments(
        [
            Argument("x", x, (1, 2)),
            Argument("mean", mean, ("m", 2)),
            Argument("stddev", stddev, ("m", 2)),
            Argument("correlation", correlation, ("m", 1)),
        ],
        batch_axis="n",
    )
    (n,) = np.broadcast_shapes(*batch_shapes)
    m = sizes["m"]
    density = np.empty((n, m, 1), dtype)
    derivatives = (
        DensityGradient(np.empty((n, m, 2), dtype), np.empty((n, m, 2), dtype), np.empty((n, m, 1), dtype))
        if compute_derivatives
        else None
    )
    if density.size:
        rows = _parameter_rows(n, m, batch_shapes[1:])
        means, stddevs, correlations = (repeat_rows(parameter, rows) for parameter in parameters)
        _kernels.density(points, means, stddevs, correlations, smooth_eps, density, *(derivatives or ()))
    return density, derivatives


def _parameter_rows(n: int, m: int, batch_shapes: tuple[tuple[int, ...], ...]) -> int:
    """Rows of parameters that the kernel wants: all n, or where one row serves all points, a block of copies of it."""
    if all(shape == (1,) for shape in batch_shapes):
        return min(n, max(1, _kernels.BLOCK // m))
    return n
