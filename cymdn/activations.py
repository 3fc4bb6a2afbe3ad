"""Log stddevs and atanh correlations of networks whose heads use other functions than exp and tanh.

Written by hand, they overflow: log(softplus(-200)) is -inf in float32, and log(elu(-40) + 1) is -inf in float64. These
functions are finite for every finite number. They take arrays of NumPy, PyTorch and JAX, and compute in their dtype. In
float64 their errors are at most 1 eps of the value, or of 1 if that is larger, in NumPy and PyTorch. In float32, in
JAX, and for derivatives (those of automatic differentiation too) it is 3 eps, because exp and log are less exact there.

Scaled functions need no function of their own. For a log variance s, the log stddev is s / 2. For a correlation
2 sigmoid(s) - 1, the atanh correlation is s / 2. A factor of the stddev adds its logarithm.
"""

from typing import Any

from cymdn._layout import namespace_of

__all__ = ["atanh_softsign", "log_elu_plus_one", "log_softplus"]

NEGLIGIBLE = -40.0  # below it, log(softplus(s)) is s to every digit


def log_softplus(s: Any, compute_derivative: bool = False) -> Any:
    """Return log(softplus(s)) = log(log(1 + exp(s))): the log stddev of a head whose stddev is softplus(s).

    Parameters
    ----------
    s : array or tensor
        Of NumPy, PyTorch or JAX.
    compute_derivative : bool, optional
        Whether to return the derivative as well, if no framework differentiates.

    Returns
    -------
    array or tensor, or a pair of them
        The value, and with `compute_derivative` its derivative, sigmoid(s) / softplus(s).

    See Also
    --------
    log_elu_plus_one : The same for elu(s) + 1.

    Examples
    --------
    >>> import numpy as np
    >>> from cymdn.activations import log_softplus
    >>> log_softplus(np.float32([-200.0, 0.0, 200.0])).round(4)
    array([-200.    ,   -0.3665,    5.2983], dtype=float32)
    """
    array, xp, _ = namespace_of(s)
    negative = array < 0
    # each branch stays finite where the other is used, for its derivative is multiplied by 0 there
    low, high = xp.where(negative, array, -1.0), xp.where(negative, 0.0, array)
    power, decay = xp.exp(xp.clip(low, NEGLIGIBLE, None)), xp.exp(-high)
    small, large = xp.log1p(power), high + xp.log1p(decay)
    # the quotient, a rounding more, is for the digits that log(small) of a tiny number lacks
    value = xp.where(array < -2, low + xp.log(small / power), xp.log(xp.where(negative, small, large)))
    if not compute_derivative:
        return value
    derivative = xp.where(negative, power / ((1 + power) * small), 1 / ((1 + decay) * large))
    return value, derivative


def log_elu_plus_one(s: Any, compute_derivative: bool = False) -> Any:
    """Return log(elu(s) + 1): the log stddev of a head whose stddev is exp(s) for s < 0 and s + 1 from there.

    Parameters
    ----------
    s : array or tensor
        Of NumPy, PyTorch or JAX.
    compute_derivative : bool, optional
        Whether to return the derivative as well, if no framework differentiates.

    Returns
    -------
    array or tensor, or a pair of them
        The value, and with `compute_derivative` its derivative.

    See Also
    --------
    log_softplus : The same for softplus(s).

    Examples
    --------
    >>> import numpy as np
    >>> from cymdn.activations import log_elu_plus_one
    >>> log_elu_plus_one(np.array([-40.0, 0.0, 1.0]), True)
    (array([-40.        ,   0.        ,   0.69314718]), array([1. , 1. , 0.5]))
    """
    array, xp, _ = namespace_of(s)
    negative = array < 0
    low, high = xp.where(negative, array, 0.0), xp.where(negative, 0.0, array)
    value = low + xp.log1p(high)
    return (value, 1 / (1 + high)) if compute_derivative else value


def atanh_softsign(s: Any, compute_derivative: bool = False) -> Any:
    """Return atanh(s / (1 + abs(s))): the atanh correlation of a head whose correlation is softsign(s).

    Parameters
    ----------
    s : array or tensor
        Of NumPy, PyTorch or JAX.
    compute_derivative : bool, optional
        Whether to return the derivative as well, if no framework differentiates.

    Returns
    -------
    array or tensor, or a pair of them
        The value, and with `compute_derivative` its derivative, 1 / (1 + 2 abs(s)).

    See Also
    --------
    log_softplus : For the stddevs.

    Examples
    --------
    >>> import numpy as np
    >>> from cymdn.activations import atanh_softsign
    >>> a = atanh_softsign(np.array([-1.0, 0.0, 1e300]))
    >>> np.tanh(a[:2]).round(6), a[2].round(6)
    (array([-0.5,  0. ]), np.float64(345.734338))
    """
    array, xp, _ = namespace_of(s)
    size = xp.where(array < 0, -array, array)  # abs has no derivative at 0
    half = 0.5 * xp.log1p(2 * size)
    value = xp.where(array < 0, -half, half)
    return (value, 1 / (1 + 2 * size)) if compute_derivative else value
