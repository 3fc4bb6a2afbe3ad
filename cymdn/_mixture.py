"""The log-density of mixtures and its gradient, from natural parameters. Check, allocate, call, return."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from numpy.typing import ArrayLike

from cymdn._arrays import Checked, Core, FloatArray, check_arguments, check_outputs, deliver, in_ieee_arithmetic
from cymdn._running import check_workers, run_over_batch

Out: TypeAlias = FloatArray | tuple[Any, ...] | None

# The axes that arguments end in
CORES: dict[str, Core] = {
    "x": (2,),
    "weights": ("M",),
    "mean": ("M", 2),
    "stddev": ("M", 2),
    "correlation": ("M",),
}


class MixtureGradient(NamedTuple):
    """Gradient of the log-density of mixtures in unconstrained coordinates.

    Examples
    --------
    >>> from cymdn import mixture_logpdf_and_gradient
    >>> _, gradient = mixture_logpdf_and_gradient([1.0, 0.0], [1.0], [[0.0, 0.0]], [[1.0, 2.0]], [0.0])
    >>> gradient.logits, gradient.mean, gradient.log_stddev
    (array([0.]), array([[1., 0.]]), array([[ 0., -1.]]))
    """

    logits: FloatArray
    """With respect to the logits whose softmax the weights are, (..., M)."""
    mean: FloatArray
    """With respect to the means, (..., M, 2)."""
    log_stddev: FloatArray
    """With respect to the logarithms of the standard deviations, (..., M, 2)."""
    atanh_correlation: FloatArray
    """With respect to the inverse hyperbolic tangents of the correlations, (..., M)."""
    x: FloatArray
    """With respect to the points, (..., 2)."""


@in_ieee_arithmetic
def mixture_logpdf(
    x: ArrayLike,
    weights: ArrayLike,
    mean: ArrayLike,
    stddev: ArrayLike,
    correlation: ArrayLike,
    *,
    out: Out = None,
    workers: int | None = None,
) -> FloatArray:
    r"""Log-density of mixtures of correlated 2-D Gaussians.

    Parameters
    ----------
    x : array_like, shape (..., 2)
        The points.
    weights : array_like, shape (..., M)
        Weights of the components, >= 0. They are not normalised, so they should sum to 1. A weight of 0 excludes its
        component, whatever its other parameters are.
    mean : array_like, shape (..., M, 2)
        Means of the components.
    stddev : array_like, shape (..., M, 2)
        Standard deviations, > 2.23e-308 (the smallest normal number), in the units of `x`.
    correlation : array_like, shape (..., M)
        Correlations, strictly between -1 and 1.
    out : ndarray, shape (...), optional
        Array for the result, of its shape and dtype, in any layout. It may overlap an argument.
    workers : int, optional
        Number of threads, 1 by default; -1 uses all CPUs, -2 all but one, and so on. The result has the same bits for
        any number.

    Returns
    -------
    ndarray or scalar, shape (...)
        The natural logarithms of the densities, in 1 over the square of the units of `x`. The leading axes of all
        arguments broadcast; for a grid of points and one mixture, the mixture is prepared once.

    Raises
    ------
    TypeError
        An array is masked or does not hold real numbers of at most 64 bits; `out` has another dtype than the result.
    ValueError
        A shape does not fit, or there are no components.

    See Also
    --------
    mixture_logpdf_and_gradient : Also returns the gradient.
    gaussian_logpdf : Of each component.
    mdn_loss : From raw network output.

    Notes
    -----
    The result is float32 if all arguments are float32 (or bool, float16 and integers that float32 holds), else float64.
    It is computed in float64 as the logarithm of :math:`\sum_j w_j N_j` ([1]_, eq. 20 to 25) relative to its largest
    term, so a point far from all components has a finite log-density. Finite arguments within the domain never give
    NaN. A component outside the domain (stddev <= 2.23e-308 or \|correlation\| >= 1) makes its row NaN unless its
    weight is 0, and so does an infinite weight. If `x - mean` overflows float64, the point counts as infinitely far
    away.

    References
    ----------
    .. [1] Graves, A., "Generating sequences with recurrent neural networks", arXiv:1308.0850, 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from cymdn import mixture_logpdf
    >>> weights, mean = np.array([0.25, 0.75]), np.array([[0.0, 0.0], [3.0, 1.0]])
    >>> stddev, correlation = np.array([[1.0, 1.0], [0.5, 2.0]]), np.array([0.0, 0.6])
    >>> x = np.array([[0.0, 0.0], [3.0, 1.0], [100.0, 0.0]])
    >>> mixture_logpdf(x, weights, mean, stddev, correlation).round(4).tolist()
    [-3.2242, -1.9006, -5003.2242]
    """
    workers = check_workers(workers)
    checked = _check_mixture(x, weights, mean, stddev, correlation)
    batch_shape = checked.batch_shape
    outputs = check_outputs(["value"], [batch_shape], checked.dtype, out, checked.arrays)
    run_over_batch("mixture_logpdf", checked, [output.array for output in outputs], workers)
    (value,) = deliver(outputs)
    return value if out is not None else value[()]


@in_ieee_arithmetic
def mixture_logpdf_and_gradient(
    x: ArrayLike,
    weights: ArrayLike,
    mean: ArrayLike,
    stddev: ArrayLike,
    correlation: ArrayLike,
    *,
    out: Out = None,
    workers: int | None = None,
) -> tuple[FloatArray, MixtureGradient]:
    r"""Log-density of mixtures of correlated 2-D Gaussians and its gradient.

    Parameters
    ----------
    x, weights, mean, stddev, correlation : array_like
        As in `mixture_logpdf`.
    out : tuple of ndarray, optional
        Arrays for value and gradient, in the structure that is returned or as six arrays; None allocates one.
    workers : int, optional
        As in `mixture_logpdf`.

    Returns
    -------
    value : ndarray or scalar, shape (...)
        As `mixture_logpdf` returns it.
    gradient : MixtureGradient
        Named tuple `(logits, mean, log_stddev, atanh_correlation, x)` of shapes (..., M), (..., M, 2), (..., M, 2),
        (..., M), (..., 2): the derivatives of the log-density with respect to the logits whose softmax the weights
        are, the means, the logarithms of the standard deviations, the inverse hyperbolic tangents of the
        correlations, and the point. Leading axes are those of the broadcast arguments: each point has its gradient,
        and nothing is summed over broadcast axes. It is the gradient of a log-density, not of a loss.

    Raises
    ------
    TypeError, ValueError
        As in `mixture_logpdf`.

    Notes
    -----
    With the responsibilities :math:`g_j = w_j N_j / \sum_k w_k N_k`, the derivative with respect to logit j is
    :math:`g_j - w_j`, and any other one is :math:`g_j` times that of :math:`\log N_j` ([1]_, eq. 27 to 37). A
    component with :math:`g_j = 0` contributes exactly 0. A log-density below the range of the dtype is -inf, and its
    gradient is 0.

    References
    ----------
    .. [1] Graves, A., "Generating sequences with recurrent neural networks", arXiv:1308.0850, 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from cymdn import mixture_logpdf_and_gradient
    >>> value, gradient = mixture_logpdf_and_gradient(
    ...     np.array([1.0, 1.0]), np.array([0.5, 0.5]), np.array([[0.0, 0.0], [2.0, 2.0]]), np.ones((2, 2)), np.zeros(2)
    ... )
    >>> print(value.round(4), gradient.x + 0.0, gradient.mean.tolist())
    -2.8379 [0. 0.] [[0.5, 0.5], [-0.5, -0.5]]
    """
    workers = check_workers(workers)
    checked = _check_mixture(x, weights, mean, stddev, correlation)
    batch_shape = checked.batch_shape
    one, two = (*batch_shape, checked.sizes["M"]), (*batch_shape, checked.sizes["M"], 2)
    outputs = check_outputs(
        ["value", *MixtureGradient._fields],
        [batch_shape, one, two, two, one, (*batch_shape, 2)],
        checked.dtype,
        out,
        checked.arrays,
    )
    run_over_batch("mixture_logpdf", checked, [output.array for output in outputs], workers)
    value, *gradient = deliver(outputs)
    return value if out is not None else value[()], MixtureGradient(*gradient)


def _check_mixture(
    x: ArrayLike, weights: ArrayLike, mean: ArrayLike, stddev: ArrayLike, correlation: ArrayLike
) -> Checked:
    checked = check_arguments(CORES, (x, weights, mean, stddev, correlation))
    if checked.sizes["M"] == 0:
        raise ValueError("weights: expected at least one component, got M = 0")
    return checked
