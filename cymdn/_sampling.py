"""Network head: draws from the distribution that raw output describes."""

from __future__ import annotations

import math
import sys
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cymdn import _distribution_kernels
from cymdn._arrays import (
    FLOAT64,
    FloatArray,
    Floor,
    are_plain,
    check_arguments,
    check_floor,
    check_nonnegative,
    check_size,
    in_ieee_arithmetic,
)
from cymdn._layout import PARAMETERS, RAW, Pens, check_pens, components_of

Temperature: TypeAlias = float | tuple[float, float]
Seed: TypeAlias = Any
"""A NumPy Generator, or what `numpy.random.default_rng` makes one of."""

PIECE = 1 << 14  # draws whose random numbers are made together: half a MiB of them


Array_co = TypeVar("Array_co", covariant=True)  # of NumPy, PyTorch or JAX


class MdnSample(NamedTuple, Generic[Array_co]):
    """What `cymdn.mdn_sample` returns; for annotations, ``MdnSample[torch.Tensor]`` for example.

    Attributes
    ----------
    x : ndarray, shape (..., 2)
        Points.
    pen : ndarray or scalar, shape (...) or (..., 3), or None
        Ends of strokes, 0 or 1; pen states, one-hot; or None, without a pen.
    component : ndarray of int64 or scalar, shape (...)
        Which component each point is from; -1 where the logits hold a NaN, and the point is NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from cymdn import mdn_sample
    >>> x, pen, component = mdn_sample(np.zeros((5, 1 + 6 * 3)), pen=1, rng=0)
    >>> x.shape, pen.shape, component.shape
    ((5, 2), (5,), (5,))
    """

    x: Array_co
    pen: Any  # the same type, or None; not a union, so that `.pen.shape` passes type checkers
    component: Any


class Sharpening(NamedTuple):
    """The effect of bias and temperature on raw output: factors of logits, a term of log standard deviations.

    A factor of inf selects the largest logit, and a term of -inf the mean; only samples can have these.
    """

    logits: float = 1.0
    pen_logits: float = 1.0
    log_stddev: float = 0.0


NEUTRAL = Sharpening()
LARGEST = sys.float_info.max


@in_ieee_arithmetic
def mdn_sample(
    raw: ArrayLike,
    *,
    pen: Pens = 0,
    bias: float = 0.0,
    temperature: Temperature = 1.0,
    stddev_floor: Floor = None,
    size: int | tuple[int, ...] | None = None,
    rng: Seed = None,
) -> MdnSample[FloatArray]:
    r"""Sample points, and pen states, from raw network output.

    Parameters
    ----------
    raw : array_like, shape (..., P + 6 M)
        Raw output of the network, as in `mdn_loss`.
    pen : {0, 1, 3}, optional
        The number P of pen logits: none, one for the end of a stroke, or three for the pen states of sketch-rnn.
    bias : float, optional
        Probability bias b >= 0 of Graves ([1]_, eq. 61 and 62): standard deviations become
        :math:`\exp(\hat\sigma - b)`, and mixture logits are multiplied by 1 + b. 0 samples the network's own
        distribution. Larger numbers give neater, more probable points, and inf gives the mean of the component with the
        largest weight. Pens are sampled without bias.
    temperature : float or pair of floats, optional
        Temperature T >= 0 of sketch-rnn ([2]_, section 3.3): mixture and pen logits are divided by T, and variances
        are multiplied by T. A pair has the temperature of the logits and that of the variances. 0 is greedy: the mean
        of the component with the largest weight, and the most probable pen.
    stddev_floor : float or pair of floats, optional
        As in `mdn_loss`: the mixture is convolved with N(0, diag(f0^2, f1^2)) before bias and temperature are applied.
    size : int or tuple of int, optional
        Axes before those of `raw`: the number of samples from each row.
    rng : numpy.random.Generator or seed, optional
        Source of random numbers: a generator, or an argument of `numpy.random.default_rng`.

    Returns
    -------
    MdnSample
        Named tuple `(x, pen, component)`. `x` has shape (\*size, ..., 2) and the dtype of `raw`: float32 if that is
        float32 (or bool, float16 and integers that float32 holds), else float64. `pen` has the same dtype and the form
        that `mdn_loss` takes: None, 0 or 1 of shape (\*size, ...), or one-hot of shape (\*size, ..., 3). `component` is
        int64, of shape (\*size, ...).

    Raises
    ------
    TypeError
        `raw` is masked or does not hold real numbers of at most 64 bits; `bias` or `temperature` is not a real number,
        `size` is not one or more integers, or `rng` is not a generator or a seed.
    ValueError
        The shape of `raw` does not fit; `pen` is none of the three; `bias` or `temperature` is negative or NaN, or
        `temperature` is inf.

    See Also
    --------
    BivariateMixture.from_network_output : The distribution itself.

    Notes
    -----
    The component is sampled by its weight, the first coordinate from its marginal distribution, and the second from its
    conditional distribution given the first: mean1 + sigma1 (r n0 + sech(a) n1), with r = tanh a and two standard
    normal numbers n. No covariance matrix is formed, so none can fail to be positive definite.

    The arithmetic is float64. Each sample takes one uniform number (two with a pen) and two normal ones from the
    generator. Finite `raw` never gives NaN. A NaN among the mixture logits gives NaN points of component -1, one in a
    component gives NaN if that component is sampled, and one among the pen logits gives NaN pens; other rows are not
    affected. A logit of -inf is a weight of 0. A logit of inf has no weight and gives NaN, as in `mdn_loss`.

    If both bias and temperature are given, bias is applied after temperature. This temperature is not that of physics:
    a mixture's density to the power 1 / T is another distribution.

    References
    ----------
    .. [1] Graves, A., "Generating sequences with recurrent neural networks", arXiv:1308.0850, 2013.
    .. [2] Ha, D. and Eck, D., "A neural representation of sketch drawings", arXiv:1704.03477, 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from cymdn import mdn_sample
    >>> raw = np.zeros((1, 1 + 6 * 20))  # one step of a network: pen logit, 20 components
    >>> x, pen, component = mdn_sample(raw, pen=1, bias=0.5, rng=7)
    >>> x.shape, pen.shape, component.shape
    ((1, 2), (1,), (1,))

    A million points of the same distribution:

    >>> mdn_sample(raw[0], pen=1, size=1_000_000, rng=7).x.std(axis=0).round(2)
    array([1., 1.])
    """
    pen = check_pens(pen)
    # one step at a time, the checks of an array that needs none take longer than the draw
    array: Any = raw if are_plain((raw,)) else check_arguments(RAW, (raw,)).arrays[0]
    components_of(array.shape, pen)
    sharpening, floor = check_sharpening(bias, temperature), check_floor(stddev_floor)
    shape, generator = check_size("size", size, array.shape[:-1]), check_rng(rng)
    rows = array if array.ndim == 2 else array.reshape(math.prod(array.shape[:-1]), array.shape[-1])
    x, pens, component = draw(rows, pen, True, sharpening, shape, generator, floor)
    return MdnSample(x, None if pens is None else pens[()], component[()])


def draw(
    rows: FloatArray,
    pens: int,
    unconstrained: bool,
    sharpening: Sharpening,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    floor: tuple[float, float] = (0.0, 0.0),
) -> tuple[FloatArray, FloatArray | None, NDArray[np.int64]]:
    """Draw from rows of packed parameters (n, P + 6 M), to arrays whose first axes are `shape`, ending in the batch."""
    n, m = len(rows), (rows.shape[1] - pens) // PARAMETERS
    x, component = np.empty((*shape, 2), rows.dtype), np.empty(shape, np.int64)
    pen = np.empty((*shape, 3) if pens == 3 else shape, rows.dtype) if pens else None
    if not component.size:
        return x, pen, component
    scratch = np.empty((_distribution_kernels.DRAW_PLANES, m))
    options = _Options(pens, unconstrained, sharpening, floor)
    # (draws, n, ...)
    flat = (
        x.reshape(-1, n, 2),
        None if pen is None else pen.reshape(-1, n, pens),
        component.reshape(-1, n),
    )
    if component.size <= PIECE:
        _draw_piece(rows, m, options, scratch, flat, rng)
        return x, pen, component
    for s in range(0, len(flat[0]), max(1, PIECE // n)):
        for i in range(0, n, PIECE):
            piece = slice(s, s + max(1, PIECE // n)), slice(i, i + PIECE)
            outputs = tuple(None if output is None else output[piece] for output in flat)
            _draw_piece(rows[piece[1]], m, options, scratch, outputs, rng)
    return x, pen, component


class _Options(NamedTuple):
    pens: int
    unconstrained: bool
    sharpening: Sharpening
    floor: tuple[float, float]


def _draw_piece(
    rows: FloatArray,
    m: int,
    options: _Options,
    scratch: NDArray[np.float64],
    outputs: tuple[Any, ...],
    rng: np.random.Generator,
) -> None:
    s, n = outputs[2].shape
    pens, unconstrained, sharpening, floor = options
    chance = [rng.random((s, n, 2 if pens else 1)), rng.standard_normal((s, n, 2))]
    chance += [rng.standard_normal((s, n, 2))] if floor != (0.0, 0.0) else []
    # the kernel checks the buffers of whatever a generator returns
    if not all(type(numbers) is np.ndarray and numbers.dtype == FLOAT64 for numbers in chance):
        raise TypeError(f"rng: expected arrays of float64 from random and standard_normal of {type(rng).__name__}")
    uniform, normal, *noise = chance
    uniform, normal, factors = _without_chance(uniform, normal, sharpening)
    x, pen, component = outputs
    kernel: Any = _distribution_kernels.draw
    try:
        done = kernel(s, n, m, rows, pens, unconstrained, *factors, uniform, normal, scratch, x, pen, component)
    except ValueError:  # of the buffers: another layout
        done = False
    if not done or any(numbers.shape != x.shape for numbers in noise):
        raise ValueError(
            "rng: expected arrays of the shapes asked for and C-contiguous, from random and standard_normal of "
            f"{type(rng).__name__}"
        )
    for numbers in noise:
        with np.errstate(over="ignore", under="ignore"):
            x += np.exp(sharpening.log_stddev) * np.multiply(floor, numbers)


def _without_chance(uniform: Any, normal: Any, sharpening: Sharpening) -> tuple[Any, Any, Sharpening]:
    """Return the numbers and the factors to draw by: finite ones, and no chance where they are not."""
    logits, pen_logits, log_stddev = sharpening
    if max(logits, pen_logits, -log_stddev) == math.inf:
        # by a number of 0 the kernel takes the first component that has a weight
        uniform = uniform * [float(factor < math.inf) for factor in (logits, pen_logits)[: uniform.shape[-1]]]
        normal = normal * float(log_stddev > -math.inf)
    # finite factors: their product with a difference of 0 must be 0
    return uniform, normal, Sharpening(min(logits, LARGEST), min(pen_logits, LARGEST), log_stddev)


def check_rng(rng: Seed) -> np.random.Generator:
    """Return a generator, as SPEC 7 of the Scientific Python projects says."""
    if isinstance(rng, np.random.Generator):
        return rng
    try:
        return np.random.default_rng(rng)
    except TypeError:
        raise TypeError(f"rng: expected a numpy.random.Generator, a seed or None, got {type(rng).__name__}") from None
    except ValueError as error:
        raise ValueError(f"rng: expected a numpy.random.Generator, a seed or None, got {rng!r} ({error})") from None


def check_sharpening(bias: float, temperature: Temperature) -> Sharpening:
    """Return what bias and temperature do, the latter a number or a pair: of the logits, of the variances."""
    if type(bias) is float and type(temperature) is float and bias == 0.0 and temperature == 1.0:
        return NEUTRAL
    b = math.inf if type(bias) is float and bias == math.inf else check_nonnegative("bias", bias)
    pair = tuple(temperature) if isinstance(temperature, tuple) else (temperature, temperature)
    if len(pair) != 2:
        raise ValueError(f"temperature: expected a number or a pair, got {len(pair)} numbers")
    of_logits, of_variances = (check_nonnegative("temperature", number) for number in pair)
    # factors that are not asked to be infinite are not: ties stay ties
    return Sharpening(
        min((1.0 + b) / of_logits, LARGEST) if of_logits and b < math.inf else math.inf,
        min(1.0 / of_logits, LARGEST) if of_logits else math.inf,
        0.5 * math.log(of_variances) - b if of_variances else -math.inf,
    )
