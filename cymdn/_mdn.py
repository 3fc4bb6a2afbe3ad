"""Network head: the loss of a mixture density network from its raw output. Check, allocate, call, return."""

from __future__ import annotations

from math import copysign, frexp, fsum, inf, isnan, ldexp, prod
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cymdn import _builds
from cymdn._arrays import (
    FLOAT32,
    FLOAT64,
    FloatArray,
    Floor,
    Output,
    Shape,
    check_each,
    check_floor,
    check_numbers,
    check_numeric,
    check_outputs,
    check_shape,
    check_shapes,
    convert,
    deliver,
    doubles,
    in_ieee_arithmetic,
)
from cymdn._layout import PARAMETERS, RAW, components_of
from cymdn._running import check_workers, is_one_call, piece_of, run, scratch, split

Reduction: TypeAlias = Literal["none", "sum", "mean"]
Out: TypeAlias = FloatArray | tuple[Any, ...] | None

PIECE = 8 * _builds.CHUNK  # rows whose pens and weights are converted together, at most
SMALL = 2.0**-600  # times the largest weight, and that times most losses, it is a number
FLOAT32_MAX = float(np.finfo(np.float32).max)
REDUCTIONS: tuple[Reduction, ...] = ("none", "sum", "mean")


class Sizes(NamedTuple):
    """What the shapes of arguments say."""

    batch_shape: Shape
    pens: int  # pen logits: 0, 1 or 3
    components: int


class _Problem(NamedTuple):
    """Checked arguments, flattened to n rows."""

    raw: FloatArray  # (n, P + 6 M)
    x: FloatArray  # (n, 2)
    pen: NDArray[Any] | None  # (n, P), of any real dtype, as is
    sample_weight: NDArray[Any] | None  # (n,)
    pen_weight: NDArray[Any] | None  # (n,)
    batch_shape: tuple[int, ...]
    raw_shape: tuple[int, ...]
    components: int
    floor: tuple[float, float]
    weight_factor: float  # of the weights, a power of two
    divisor: float  # of the summed loss


def mdn_loss(
    raw: ArrayLike,
    x: ArrayLike,
    pen: ArrayLike | None = None,
    *,
    sample_weight: ArrayLike | None = None,
    pen_weight: ArrayLike | None = None,
    stddev_floor: Floor = None,
    n_components: int | None = None,
    reduction: Reduction = "mean",
    out: Out = None,
    workers: int | None = None,
) -> FloatArray:
    """Loss of a mixture density network over correlated 2-D Gaussians, from its raw output.

    Parameters
    ----------
    raw : array_like, shape (..., P + 6 M)
        Raw output of the network. Along the last axis: P pen logits, then M each of mixture logits, mean 0, mean 1,
        log stddev 0, log stddev 1, atanh correlation.
    x : array_like, shape (..., 2)
        The points to be predicted.
    pen : array_like, shape (...) or (..., 3), optional
        None: P is 0. Of shape (...): P is 1, and `pen` in [0, 1] is the probability (mostly 0 or 1) that the stroke
        ends, predicted as sigmoid of the pen logit. Of shape (..., 3): P is 3, and `pen` is the one-hot pen state,
        predicted as softmax of the pen logits.
    sample_weight : array_like, shape (...), optional
        Weights of the rows, finite and >= 0. A row of weight 0 is skipped, whatever its values, so a mask can be
        passed as weights.
    pen_weight : float or array_like of shape (...), optional
        Weights v of the pens' terms, if they differ from those of the points: a row's loss is then w l + v p, with the
        loss l of its point and p of its pen.
    stddev_floor : float or pair of floats, optional
        Standard deviation f >= 0 of an error of the points, or one for each coordinate: every component is convolved
        with N(0, diag(f0^2, f1^2)). The loss is then at least log(2 pi f0 f1), and no component gains by collapsing
        onto repeated points. For points on a grid use the grid step / sqrt(12).
    n_components : int, optional
        The number M, to be checked against the width of `raw`.
    reduction : {"mean", "sum", "none"}
        With losses l and weights w of the rows (1 without `sample_weight`): sum(w l) / sum(w), sum(w l), or w l. With
        `pen_weight` the sum is that of w l + v p, and the "mean" is still divided by sum(w).
    out : ndarray, optional
        Array for the result, of its shape and dtype, in any layout. It may overlap an argument.
    workers : int, optional
        Number of threads, 1 by default; -1 uses all CPUs, -2 all but one, and so on. The result has the same bits for
        any number.

    Returns
    -------
    scalar or ndarray
        A scalar, or for "none" an array of shape (...), in nats. float32 if `raw` and `x` are float32 (or bool, float16
        and integers that float32 holds), else float64.

    Raises
    ------
    TypeError
        An array is masked or does not hold real numbers of at most 64 bits; `out` has another dtype than the result.
    ValueError
        A shape does not fit; a `sample_weight`, `pen_weight` or `stddev_floor` is negative or not finite; there is a
        `pen_weight` and no `pen`; `reduction` is none of the three; it is "mean" and there are no rows, or their total
        weight is 0.

    See Also
    --------
    mdn_loss_and_gradient : Also returns the gradient.
    mixture_logpdf : From weights, means, standard deviations and correlations.

    Notes
    -----
    A row's loss is the negative log-density of its mixture at its point ([1]_, eq. 26, with the constant log 2 pi),
    plus the cross-entropy of its pen. In [1]_ the end-of-stroke probability is 1 / (1 + exp(+logit)), eq. 18; here, as
    in all code that followed, it is 1 / (1 + exp(-logit)). Three pen states are those of [2]_, section 3.2.

    Finite arguments never give NaN. A loss beyond the range of the dtype is inf. A NaN in a row gives NaN for that row
    and affects no other. A `pen` outside [0, 1] makes its row NaN; a pen that is outside by at most 1e-6 counts as the
    bound.

    A loss can be negative, because a density exceeds 1 where the standard deviations are small.

    References
    ----------
    .. [1] Graves, A., "Generating sequences with recurrent neural networks", arXiv:1308.0850, 2013.
    .. [2] Ha, D. and Eck, D., "A neural representation of sketch drawings", arXiv:1704.03477, 2017.

    Examples
    --------
    A standard normal distribution at its mean, and a pen that is as likely up as down: log(2 pi) + log(2).

    >>> import numpy as np
    >>> from cymdn import mdn_loss
    >>> mdn_loss(np.zeros((5, 1 + 6)), np.zeros((5, 2)), np.ones(5)).round(6)
    np.float64(2.531024)
    """
    floor = check_floor(stddev_floor)
    if out is None and sample_weight is pen_weight is n_components is None and reduction == "mean":
        done = _mean_of_plain_arrays(raw, x, pen, floor, workers, gradient=False)
        if done:
            return done[0]
    asked = _Asked(raw, x, pen, sample_weight, pen_weight, floor, n_components, reduction)
    (loss,) = _checked_loss(asked, out, workers, gradients=0)
    return loss if out is not None else loss[()]


def mdn_loss_and_gradient(
    raw: ArrayLike,
    x: ArrayLike,
    pen: ArrayLike | None = None,
    *,
    sample_weight: ArrayLike | None = None,
    pen_weight: ArrayLike | None = None,
    stddev_floor: Floor = None,
    n_components: int | None = None,
    reduction: Reduction = "mean",
    out: Out = None,
    workers: int | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Loss of a mixture density network and its gradient with respect to the network's raw output.

    Parameters
    ----------
    raw, x, pen, sample_weight, pen_weight, stddev_floor, n_components, reduction
        As in `mdn_loss`.
    out : tuple of ndarray, optional
        Arrays for loss and gradient; None for one of them allocates it.
    workers : int, optional
        As in `mdn_loss`.

    Returns
    -------
    loss : scalar or ndarray
        As `mdn_loss` returns it.
    gradient : ndarray, shape (..., P + 6 M)
        Derivatives of the reduced loss with respect to `raw`; for "none" those of each row's own weighted loss.

    Raises
    ------
    TypeError, ValueError
        As in `mdn_loss`.

    Notes
    -----
    The gradient is that of [1]_, eq. 27 to 37, in closed form. A component whose responsibility is 0 contributes
    exactly 0. A row whose loss or weighted loss is inf, beyond the range of the dtype, has gradient 0, and so has a row
    of weight 0. A row whose loss is NaN has gradient NaN.

    References
    ----------
    .. [1] Graves, A., "Generating sequences with recurrent neural networks", arXiv:1308.0850, 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from cymdn import mdn_loss_and_gradient
    >>> raw, x = np.zeros((1, 6)), np.array([[2.0, 0.0]])
    >>> loss, gradient = mdn_loss_and_gradient(raw, x)  # logit, mean 0 and 1, log stddev 0 and 1, atanh correlation
    >>> print(loss.round(4), gradient + 0.0)
    3.8379 [[ 0. -2.  0. -3.  1.  0.]]
    """
    floor = check_floor(stddev_floor)
    if out is None and sample_weight is pen_weight is n_components is None and reduction == "mean":
        done = _mean_of_plain_arrays(raw, x, pen, floor, workers, gradient=True)
        if done and done[1] is not None:
            return done[0], done[1]
    asked = _Asked(raw, x, pen, sample_weight, pen_weight, floor, n_components, reduction)
    loss, gradient = _checked_loss(asked, out, workers, gradients=1)
    return loss if out is not None else loss[()], gradient


def loss_and_gradients(
    raw: ArrayLike,
    x: ArrayLike,
    pen: ArrayLike | None,
    *,
    sample_weight: ArrayLike | None = None,
    pen_weight: ArrayLike | None = None,
    stddev_floor: Floor = None,
    reduction: Reduction = "mean",
    workers: int | None = None,
    out: Out = None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return what `mdn_loss_and_gradient` does, and the gradient with respect to x, for frameworks."""
    asked = _Asked(raw, x, pen, sample_weight, pen_weight, check_floor(stddev_floor), None, reduction)
    loss, gradient, x_gradient = _checked_loss(asked, out, workers, gradients=2)
    return loss, gradient, x_gradient


class _Asked(NamedTuple):
    """Arguments as given, except for the floor, which is checked."""

    raw: ArrayLike
    x: ArrayLike
    pen: ArrayLike | None
    sample_weight: ArrayLike | None
    pen_weight: ArrayLike | None
    floor: tuple[float, float]
    n_components: int | None
    reduction: Reduction


@in_ieee_arithmetic
def _checked_loss(asked: _Asked, out: Out, workers: int | None, *, gradients: int) -> list[FloatArray]:
    """Return the loss and its first `gradients` gradients: with respect to raw, with respect to x."""
    workers, reduction = check_workers(workers), check_reduction(asked.reduction)
    problem = _check_problem(asked._replace(reduction=reduction))
    outputs = _allocate(problem, reduction, out, gradient=gradients > 0)
    x_gradient = np.empty((*problem.batch_shape, 2), problem.raw.dtype) if gradients > 1 else None
    _run(problem, reduction, outputs, workers, x_gradient)
    return [*deliver(outputs), *([] if x_gradient is None else [x_gradient])]


def _mean_of_plain_arrays(
    raw: ArrayLike,
    x: ArrayLike,
    pen: ArrayLike | None,
    floor: tuple[float, float],
    workers: int | None,
    *,
    gradient: bool,
) -> tuple[FloatArray, FloatArray | None] | None:
    """Call the kernel without the checks of Python, or return None if it does not accept the arrays as they are.

    Checks take most of the time of a call with one row, and the kernel has its own.
    """
    if type(raw) is not np.ndarray or type(x) is not np.ndarray or raw.ndim != 2 or raw.size == 0:
        return None
    dtype, (rows, width) = raw.dtype, raw.shape
    if (dtype is not FLOAT64 and dtype is not FLOAT32) or x.dtype is not dtype or len(x) != rows:
        return None
    components, pens = divmod(width, PARAMETERS)  # pen logits are fewer than a component's numbers
    if not is_one_call(rows * components, workers):
        return None
    if pen is not None:
        if type(pen) is not np.ndarray or pen.shape != ((rows,) if pens == 1 else (rows, 3)) or pens not in (1, 3):
            return None
        if pen.dtype is not FLOAT64:
            if pen.dtype.kind not in "biuf" or pen.dtype.itemsize > 8:
                return None
            pen = doubles(pen)
        pen = pen.reshape(rows, pens)
    elif pens:
        return None
    sums = np.empty(-(-rows // _builds.CHUNK))
    gradient_out = np.empty(raw.shape, dtype) if gradient else None
    memory = scratch(components)
    try:
        done = _builds.kernels.mdn_loss(
            rows, components, raw, x, pen, None, None, 1.0 / rows, *floor, memory, None, sums, gradient_out
        )
    except ValueError:  # of the buffers: another layout
        return None
    return (_reduced(sums, rows, dtype), gradient_out) if done else None


def _reduced(sums: NDArray[np.float64], divisor: float, dtype: np.dtype[Any]) -> Any:
    """Return the sum of sums over a divisor, as a scalar; inf if it is too large for the dtype."""
    # Python's floats: NumPy's would warn of overflow, and of underflow if it is asked to
    value = (float(sums[0]) if len(sums) == 1 else _total(sums)) / divisor
    return dtype.type(copysign(inf, value) if dtype.char == "f" and abs(value) > FLOAT32_MAX else value)


def _total(sums: NDArray[np.float64]) -> float:
    """Return the correctly rounded sum, which does not depend on the order; inf if it is too large."""
    if not np.isfinite(sums).all():
        return float(sums.sum())
    try:
        return fsum(sums)
    except OverflowError:  # of the sum or a partial sum; scaling by a power of two is exact except for denormals
        with np.errstate(under="ignore"):
            return fsum(sums * 2.0**-32) * 2.0**32


def _check_problem(asked: _Asked) -> _Problem:
    raw, x, pen, sample_weight, pen_weight, floor, n_components, reduction = asked
    raw_array, x_array = check_numeric(["raw", "x"], (raw, x))
    targets = None if pen is None else check_numbers("pen", pen)
    weight = None if sample_weight is None else check_numbers("sample_weight", sample_weight)
    of_pens = None if pen_weight is None else check_numbers("pen_weight", pen_weight)
    shapes = (None if array is None else array.shape for array in (targets, weight, of_pens))
    sizes = check_layout(raw_array.shape, x_array.shape, *shapes, n_components=n_components)
    raw_array, x_array = convert((raw_array, x_array))
    rows = prod(sizes.batch_shape)
    if weight is not None:
        check_weights("sample_weight", weight)
        weight = weight.reshape(rows)  # before it is summed, so that the order is that of the rows, not of the memory
    if of_pens is not None:
        check_weights("pen_weight", of_pens)
        of_pens = np.broadcast_to(of_pens, sizes.batch_shape).reshape(rows)
    return _Problem(
        raw_array.reshape(rows, raw_array.shape[-1]),
        x_array.reshape(rows, 2),
        None if targets is None else targets.reshape(rows, sizes.pens),
        weight,
        of_pens,
        sizes.batch_shape,
        raw_array.shape,
        sizes.components,
        floor,
        *(factor_and_divisor(rows, weight) if reduction == "mean" else (1.0, 1.0)),
    )


def check_reduction(reduction: object) -> Reduction:
    """Return the name of a reduction."""
    for name in REDUCTIONS:
        if isinstance(reduction, str) and reduction == name:
            return name
    raise ValueError(f"reduction: expected one of {', '.join(map(repr, REDUCTIONS))}, got {reduction!r}")


def check_layout(
    raw: Shape,
    x: Shape,
    pen: Shape | None,
    sample_weight: Shape | None,
    pen_weight: Shape | None = None,
    *,
    n_components: int | None = None,
) -> Sizes:
    """Check the shapes of arguments against each other; frameworks that trace know only shapes."""
    (batch_shape,), _, _ = check_shapes(RAW, (raw,))
    check_shape("x", x, (*batch_shape, 2))
    pens = 0
    if pen is not None:  # one pen logit or three, told apart by the number of axes
        pens = 3 if len(pen) > len(batch_shape) else 1
        if pen == (*batch_shape, 1):
            raise ValueError(f"pen: expected shape {batch_shape} or {(*batch_shape, 3)}, got {pen}; pass pen[..., 0]")
        check_shape("pen", pen, (*batch_shape, 3) if pens == 3 else batch_shape)
    if sample_weight is not None:
        check_shape("sample_weight", sample_weight, batch_shape)
    if pen_weight is not None and pen is None:
        raise ValueError("pen_weight: expected None where there is no pen")
    if pen_weight:  # of more than one number
        check_shape("pen_weight", pen_weight, batch_shape)
    return Sizes(batch_shape, pens, components_of(raw, pens, n_components))


def check_weights(name: str, weight: NDArray[Any]) -> None:
    """Check the values of weights."""
    # a NaN fails both comparisons; valid weights need no temporary array
    if weight.size and not (weight.min() >= 0 and weight.max() < inf):
        check_each(name, weight, np.isfinite(weight) & (weight >= 0), "finite numbers >= 0")


def factor_and_divisor(rows: int, weight: NDArray[Any] | None) -> tuple[float, float]:
    """Return a factor for the weights, and the divisor of the "mean": their total times that factor."""
    factor, total = 1.0, float(rows)
    if weight is not None:
        with np.errstate(over="ignore", under="ignore"):
            total = float(weight.sum(dtype=np.float64))
            if not 2.0**-400 < total < 2.0**400 and total > 0.0:
                # weighted losses could overflow although the mean does not; weights close to 1 prevent that
                factor = ldexp(1.0, -max(frexp(float(weight.max()))[1], -1022))
                total = float((weight * factor).sum(dtype=np.float64))
    if total == 0.0:
        what = "of no rows" if rows == 0 else "over rows of total weight 0"
        raise ValueError(f'reduction: the "mean" {what} is undefined; use "sum" or "none"')
    return factor, total


def _weights(weight: NDArray[Any] | None, rows: slice, factor: float) -> NDArray[np.float64] | None:
    if weight is None:
        return None
    if factor == 1.0:
        return doubles(weight[rows])
    with np.errstate(under="ignore"):
        return doubles(weight[rows]) * factor


def _allocate(problem: _Problem, reduction: Reduction, out: Out, *, gradient: bool) -> list[Output]:
    loss_shape = problem.batch_shape if reduction == "none" else ()
    names, shapes = ["loss"], [loss_shape]
    if gradient:
        names, shapes = ["loss", "gradient"], [loss_shape, problem.raw_shape]
    inputs = [array for array in problem[:5] if array is not None]
    return check_outputs(names, shapes, problem.raw.dtype, out, inputs)


def _run(
    problem: _Problem,
    reduction: Reduction,
    outputs: list[Output],
    workers: int,
    x_gradient: FloatArray | None = None,
) -> None:
    loss = outputs[0].array
    losses = loss.reshape(-1) if reduction == "none" else None
    sums = None if reduction == "none" else np.zeros(-(-len(problem.raw) // _builds.CHUNK))
    gradient = outputs[1].array.reshape(problem.raw.shape) if len(outputs) > 1 else None
    of_points = None if x_gradient is None else x_gradient.reshape(problem.x.shape)
    kernel = _builds.kernels.mdn_loss

    def call(start: int, stop: int, memory: NDArray[np.float64]) -> bool:
        rows = slice(start, stop)
        # pens and weights may have to be converted; doing so piece by piece bounds the memory
        done: bool = kernel(
            stop - start,
            problem.components,
            problem.raw[rows],
            problem.x[rows],
            None if problem.pen is None else doubles(problem.pen[rows]),
            _weights(problem.sample_weight, rows, problem.weight_factor),
            _weights(problem.pen_weight, rows, problem.weight_factor),
            1.0 / problem.divisor,
            *problem.floor,
            memory,
            None if losses is None else losses[rows],
            None if sums is None else sums[start // _builds.CHUNK : -(-stop // _builds.CHUNK)],
            None if gradient is None else gradient[rows],
            None if of_points is None else of_points[rows],
        )
        return done

    # slices and pieces begin at a chunk, whose rows are summed together, so that sums do not depend on the workers
    parts = split(len(problem.raw), problem.components, workers, _builds.CHUNK)
    run(call, problem.components, parts, min(PIECE, piece_of(problem.components, _builds.CHUNK)))
    if sums is None:
        return
    weighted = problem.sample_weight is not None or problem.pen_weight is not None
    if reduction == "sum" and weighted and problem.divisor == 1.0 and isnan(_total(sums)):
        # weighted losses of both signs overflowed; repeat in smaller units. The result is NaN only if a loss is
        units = problem._replace(weight_factor=SMALL, divisor=SMALL)
        _run(units, reduction, outputs[:1], workers)
    else:
        loss[...] = _reduced(sums, problem.divisor, loss.dtype)
