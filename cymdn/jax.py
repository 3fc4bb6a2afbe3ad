"""The loss of a mixture density network as a JAX function, for jit, grad and vmap. Needs the extra `jax`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from math import prod
from operator import or_
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cymdn import _mdn, _portable, _portable_draws
from cymdn._arrays import Floor, check_floor, check_numbers, check_size
from cymdn._layout import Pens, check_pens, components_of
from cymdn._mdn import Reduction
from cymdn._sampling import MdnSample, Temperature, check_sharpening

try:
    import jax
    import jax.numpy as jnp
    from jax import Array
    from jax.custom_derivatives import SymbolicZero
    from jax.experimental.buffer_callback import buffer_callback
except ModuleNotFoundError as _error:
    if _error.name not in ("jax", "jax.experimental.buffer_callback"):  # JAX is there, but lacks what it needs
        raise
    raise ImportError("cymdn.jax needs JAX: python -m pip install jax", name="jax") from _error

__all__ = ["mdn_loss", "mdn_sample"]

# Size up to which results are copied into XLA's memory: that takes less time than checking that memory as `out`.
COPIED = 2**16
# Number of rows below which XLA computes on the CPU, too: a callback to the kernels takes 100 us or more
FEW = 200


def mdn_loss(
    raw: Array | ArrayLike,
    x: Array | ArrayLike,
    pen: Array | ArrayLike | None = None,
    *,
    sample_weight: Array | ArrayLike | None = None,
    pen_weight: Array | ArrayLike | None = None,
    stddev_floor: Floor = None,
    n_components: int | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Loss of a mixture density network over correlated 2-D Gaussians, from its raw output, differentiable by JAX.

    Parameters
    ----------
    raw : array, shape (..., P + 6 M), float32, float64, float16 or bfloat16
        Raw output of the network. Half precision is converted to float32.
        Along the last axis: P pen logits, then M each of mixture logits, mean 0, mean 1, log stddev 0, log stddev 1,
        atanh correlation.
    x : array, shape (..., 2), of the same dtypes
        The points to be predicted.
    pen : array, shape (...) or (..., 3), optional
        None: P is 0. Of shape (...): P is 1, and `pen` in [0, 1] is the probability (mostly 0 or 1) that the stroke
        ends, predicted as sigmoid of the pen logit. Of shape (..., 3): P is 3, and `pen` is the one-hot pen state,
        predicted as softmax of the pen logits. Floats, integers or bool.
    sample_weight : array, shape (...), optional
        Weights of the rows, finite and >= 0. A row of weight 0 is skipped, whatever its values, so a mask can be passed
        as weights. Floats, integers or bool.
    pen_weight : array, shape (...), or number, optional
        Weights of the pens' terms, as in `cymdn.mdn_loss`.
    stddev_floor : float or pair of floats, optional
        Standard deviation of an error of the points, as in `cymdn.mdn_loss`; static under `jax.jit`.
    n_components : int, optional
        The number M, to be checked against the width of `raw`.
    reduction : {"mean", "sum", "none"}
        With losses l and weights w of the rows (1 without `sample_weight`): sum(w l) / sum(w), sum(w l), or w l.
        Under `jax.vmap` each element of the mapped axes has its own. Under `jax.jit`, as an argument of the compiled
        function, it must be static (``static_argnames="reduction"``).

    Returns
    -------
    Array
        Without axes, or for "none" of shape (...), in nats. float64 if `raw` or `x` is, else float32.

    Raises
    ------
    TypeError
        `raw` or `x` does not hold floats, another array does not hold real numbers of at most 64 bits; `pen` or
        `sample_weight` depends on the variables of a derivative; the loss itself is differentiated in forward mode.
    ValueError
        A shape does not fit; `reduction` is none of the three; it is "mean" and there are no rows.

    See Also
    --------
    cymdn.mdn_loss_and_gradient : For NumPy arrays, without JAX.

    Notes
    -----
    On the CPU, for 200 rows and more, loss and gradient are bit-identical to those of `cymdn.mdn_loss_and_gradient`,
    except that JAX flushes denormal numbers to zero in what it computes from them. For fewer rows, where calling the
    kernels would take longer than the arithmetic, and on GPU and TPU, jax.numpy computes them: in the dtype of the
    arguments, with errors of at most 9 eps of the terms, 30 under a floor, and under the same contract. There
    intermediate numbers below the smallest normal one are flushed to zero, even if they are multiplied by a large
    1 / sigma or 1 / (1 - r^2) afterwards, and so are denormal losses and weights (but the proportions of weights in a
    "mean" are kept). The number of rows is that of the traced function, without the axes of `jax.vmap`.

    The gradient is with respect to `raw` and `x`. It is computed together with the loss, but only if JAX needs it. A
    row whose loss is not used in the result, as in ``jnp.where(mask, loss, 0)``, has gradient 0, whatever its values.

    Gradients can be differentiated to any order, in forward and reverse mode: `jax.hessian`, `jax.jacrev` twice. The
    loss itself has no forward mode: `jax.jvp` and `jax.jacfwd` raise a TypeError of JAX. JAX supports either a rule for
    reverse mode or one for forward mode, and no forward rule can give a masked row that holds NaN the gradient 0.

    All errors are raised when a function is traced. Values are not known then, so the result is NaN where
    `cymdn.mdn_loss` raises: if a `sample_weight` is negative or not finite, or a "mean" is over a total weight of 0.

    On the CPU XLA calls the compiled kernels in its own thread and on its own memory, so nothing large is copied. Large
    batches are divided among as many threads as there are CPUs.

    The implementation uses `jax.experimental.buffer_callback`. The functions of `jax.ffi` would need JAX's headers to
    compile against. `jax.pure_callback` deadlocks for large arrays if all threads of XLA are in callbacks, as with one
    CPU.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from cymdn.jax import mdn_loss
    >>> raw, x = jnp.zeros((1, 6)), jnp.array([[2.0, 0.0]])
    >>> loss, gradient = jax.jit(jax.value_and_grad(mdn_loss))(raw, x)
    >>> print(loss.round(4), gradient + 0.0)
    3.8379 [[ 0. -2.  0. -3.  1.  0.]]

    A batch of padded sequences, with one mean over all valid steps:

    >>> raw, x = jnp.zeros((3, 4, 6)), jnp.zeros((3, 4, 2))
    >>> mask = jnp.arange(4) < jnp.array([[4], [2], [1]])
    >>> print(f"{mdn_loss(raw, x, sample_weight=mask):.4f}")
    1.8379
    """
    _mdn.check_reduction(reduction)
    raw, x = _as_floats("raw", raw), _as_floats("x", x)
    pen = None if pen is None else _as_numbers("pen", pen)
    sample_weight = None if sample_weight is None else _as_numbers("sample_weight", sample_weight)
    pen_weight = None if pen_weight is None else _as_numbers("pen_weight", pen_weight)
    targets = pen, sample_weight, pen_weight
    shapes = (None if array is None else array.shape for array in targets)
    sizes = _mdn.check_layout(raw.shape, x.shape, *shapes, n_components=n_components)
    if pen_weight is not None:
        targets = pen, sample_weight, jnp.broadcast_to(pen_weight, sizes.batch_shape)
    if reduction == "mean":
        _mdn.factor_and_divisor(prod(sizes.batch_shape), None)
    loss: Array = _loss_of_checked(_Static(reduction, check_floor(stddev_floor), *sizes), raw, x, targets)
    return loss


def mdn_sample(
    key: Array,
    raw: Array | ArrayLike,
    *,
    pen: Pens = 0,
    bias: float = 0.0,
    temperature: Temperature = 1.0,
    stddev_floor: Floor = None,
    size: int | tuple[int, ...] | None = None,
    reparameterized: bool = False,
) -> MdnSample[Array]:
    r"""Sample points, and pen states, from raw network output.

    Parameters
    ----------
    key : Array
        A key of `jax.random`.
    raw : array, shape (..., P + 6 M), of floats
        Raw output of the network, as in `mdn_loss`.
    pen : {0, 1, 3}, optional
        The number P of pen logits: none, one for the end of a stroke, or three for pen states.
    bias : float, optional
        Probability bias b >= 0 of Graves: standard deviations are multiplied by exp(-b), mixture logits by 1 + b.
    temperature : float or pair of floats, optional
        Temperature T >= 0 of sketch-rnn: mixture and pen logits are divided by T, and variances are multiplied by T. A
        pair has the temperature of the logits and that of the variances. 0 is greedy: the mean of the component with
        the largest weight, and the most probable pen.
    stddev_floor : float or pair of floats, optional
        As in `cymdn.mdn_sample`.
    size : int or tuple of int, optional
        Axes before those of `raw`: the number of samples from each row.
    reparameterized : bool, optional
        Whether points are differentiable with respect to `raw`, as functions of the parameters of the sampled
        component for the sampled normal numbers. The logits have no derivative.

    Returns
    -------
    MdnSample
        Named tuple `(x, pen, component)` of arrays, as `cymdn.mdn_sample` returns it: `x` of shape (\*size, ..., 2) and
        `pen`, which is None, of shape (\*size, ...) or one-hot of shape (\*size, ..., 3), float64 if `raw` is, else
        float32; `component` of JAX's default integer dtype.

    Raises
    ------
    TypeError
        `raw` is not of floats; `bias` or `temperature` is not a real number, `size` is not one
        or more integers.
    ValueError
        The shape of `raw` does not fit; `pen` is none of the three; `bias` or `temperature` is negative or NaN, or
        `temperature` is inf.

    See Also
    --------
    cymdn.mdn_sample : For NumPy arrays, with other random numbers.

    Notes
    -----
    `bias`, `temperature` and `size` are Python numbers, static under `jax.jit`. A NaN or inf among the mixture logits
    of a row gives NaN points of component -1. A NaN in a component gives NaN if that component is sampled, and one
    among the pen logits gives NaN pens. Other rows are not affected.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from cymdn.jax import mdn_sample
    >>> raw = jnp.zeros((1, 1 + 6 * 20))  # one step of a network: pen logit, 20 components
    >>> x, pen, component = mdn_sample(jax.random.key(7), raw, pen=1, bias=0.5)
    >>> x.shape, pen.shape, component.shape
    ((1, 2), (1,), (1,))
    """
    pen = check_pens(pen)
    raw = _as_floats("raw", raw)
    components = components_of(raw.shape, pen)
    sharpening, floor = check_sharpening(bias, temperature), check_floor(stddev_floor)
    shape = (*check_size("size", size), *raw.shape[:-1])
    raw = jnp.broadcast_to(raw if reparameterized else jax.lax.stop_gradient(raw), (*shape, raw.shape[-1]))
    for_component, for_point, for_pen = jax.random.split(key, 3)

    def draw(key: Array, logits: Array, factor: float) -> Array:
        noise = None if factor == math.inf else jax.random.exponential(key, logits.shape, logits.dtype)
        scores = _portable_draws.scores(jnp, logits, factor, noise)
        return jnp.where(jnp.isnan(scores).any(-1), -1, jnp.argmax(scores, -1))

    component = draw(for_component, raw[..., pen : pen + components], sharpening.logits)
    normal = jax.random.normal(for_point, (*shape, 2), raw.dtype)
    noise = None
    if floor != (0.0, 0.0):
        for_noise = jax.random.fold_in(for_point, 1)
        noise = jax.random.normal(for_noise, normal.shape, raw.dtype) * jnp.asarray(floor, raw.dtype)
    x = _portable_draws.points(jnp, raw, pen, component, normal, sharpening, noise)
    pens = None
    if pen == 1:
        uniform = jax.random.uniform(for_pen, shape, raw.dtype)
        pens = _portable_draws.ends(jnp, raw[..., 0], sharpening.pen_logits, uniform)
    elif pen == 3:
        state = draw(for_pen, raw[..., :3], sharpening.pen_logits)[..., None]
        pens = jnp.where(state < 0, jnp.nan, (state == jnp.arange(3)).astype(raw.dtype))
    return MdnSample(x, pens, component)


def _as_array(name: str, value: Array | ArrayLike) -> Array:
    if isinstance(value, np.ndarray):  # JAX would treat a masked array as a plain one
        check_numbers(name, value)
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected an array of numbers, got {type(value).__name__} ({error})") from error


def _as_floats(name: str, value: Array | ArrayLike) -> Array:
    array = _as_array(name, value)
    if array.dtype in (jnp.float16, jnp.bfloat16):
        return array.astype(jnp.float32)
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(
            f"{name}: expected dtype float32, float64, float16 or bfloat16, got {array.dtype}; "
            f"convert it: {name}.astype(jnp.float32)"
        )
    return array


def _as_numbers(name: str, value: Array | ArrayLike) -> Array:
    array = _as_array(name, value)
    if array.dtype == jnp.bfloat16:
        return array.astype(jnp.float32)
    if array.dtype.kind not in "biuf":  # NumPy's kinds, not those that JAX adds
        raise TypeError(
            f"{name}: expected real numbers of a dtype of NumPy, got {array.dtype}; "
            f"convert it: {name}.astype(jnp.float32)"
        )
    return array


Targets: TypeAlias = tuple["Array | None", "Array | None", "Array | None"]
"""Pens, weights of the rows, or of their points, and weights of their pens."""


class _Static(NamedTuple):
    """What is known about a problem when it is traced, apart from its arrays."""

    reduction: Reduction
    floor: tuple[float, float]  # of the stddevs
    batch_shape: tuple[int, ...]
    pens: int
    components: int
    x_wanted: bool = False  # whether the gradient with respect to x is computed with that for raw


@partial(jax.jit, static_argnums=0)
def _loss_of_checked(static: _Static, raw: Array, x: Array, targets: Targets) -> Array:
    dtype = jnp.promote_types(raw.dtype, x.dtype)
    raw, x = _vary_alike([raw.astype(dtype), x.astype(dtype)], [raw, x, *targets])
    return _loss(static, raw, x, targets)


def _vary_alike(arrays: Sequence[Array], examples: Sequence[Array | None]) -> list[Array]:
    """Return arrays that `jax.shard_map` treats as device-varying wherever one of the examples is.

    It tracks this through operations, but assumes that a callback returns the same on all devices; then the loss of
    each device's own rows would be taken for the loss of all. XLA removes these operations.
    """
    never = reduce(or_, (jnp.any(example != example) for example in examples if example is not None)) & False
    return [jnp.where(never, 0, array) for array in arrays]


# Reverse mode: the rules of a custom_vjp. Only these can give gradient 0 to a row that does not affect the result.


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(static: _Static, raw: Array, x: Array, targets: Targets) -> Array:
    (loss,) = _evaluate(static, raw, x, targets, gradients=False)
    return loss


def _forward(static: _Static, raw: Any, x: Any, targets: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss and gradients; each argument knows whether it depends on the variables of a derivative."""
    _check_constant(argument is not None and argument.perturbed for argument in targets)
    static = static._replace(x_wanted=x.perturbed)
    values = tuple(None if argument is None else argument.value for argument in targets)
    loss, *gradients = _loss_and_gradients(static, raw.value, x.value, values)
    # JAX has one structure of residuals for all combinations of perturbed arguments: always two arrays
    return loss, (gradients[0], gradients[1] if x.perturbed else jnp.zeros_like(x.value))


def _backward(
    static: _Static, gradients: tuple[Array, ...], upstream: Array | SymbolicZero
) -> tuple[Array | None, ...]:
    if isinstance(upstream, SymbolicZero):
        return None, None, None
    raw_gradient, x_gradient = (_portable.scale(jnp, gradient, upstream) for gradient in gradients)
    return raw_gradient, x_gradient, None


_loss.defvjp(_forward, _backward, symbolic_zeros=True)


# The results of the rules above are differentiated by a custom_jvp, in jax.numpy, and so are their derivatives


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _loss_and_gradients(static: _Static, raw: Array, x: Array, targets: Targets) -> list[Array]:
    return _evaluate(static, raw, x, targets, gradients=True)


def _tangents(static: _Static, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Array], list[Array]]:
    raw, x, targets = primals
    of_raw, of_x, of_targets = tangents
    _check_constant(tangent is not None and not isinstance(tangent, SymbolicZero) for tangent in of_targets)
    of_raw, of_x = (
        jnp.zeros_like(primal) if isinstance(tangent, SymbolicZero) else tangent
        for primal, tangent in ((raw, of_raw), (x, of_x))
    )
    outputs = _loss_and_gradients(static._replace(x_wanted=True), raw, x, targets)
    # plain products, because transposition needs linearity in the tangents; finite factors, because inf * 0 is NaN
    largest = jnp.finfo(raw.dtype).max
    finite = (jnp.clip(gradient, -largest, largest) for gradient in outputs[1:])
    slope: Any = sum(jnp.sum(gradient * of, -1) for gradient, of in zip(finite, (of_raw, of_x), strict=True))
    slope = slope if static.reduction == "none" else jnp.sum(slope)

    def gradients(raw: Array, x: Array) -> list[Array]:
        return _evaluate_portably(static, raw, x, targets, gradients=True)[1:]

    _, second = jax.jvp(gradients, (raw, x), (of_raw, of_x))
    return outputs[: 2 + static.x_wanted], [slope, *second]


_loss_and_gradients.defjvp(_tangents, symbolic_zeros=True)


def _check_constant(differentiated: Iterable[bool]) -> None:
    """Refuse derivatives with respect to arguments that have none."""
    for name, wanted in zip(("pen", "sample_weight", "pen_weight"), differentiated, strict=True):
        if wanted:
            instead = ', or multiply the losses of reduction="none" by it' if name == "sample_weight" else ""
            raise TypeError(f"{name}: has no derivative here; pass jax.lax.stop_gradient({name}){instead}")


# The values: loss, gradient with respect to raw, and to x if requested


def _evaluate(static: _Static, raw: Array, x: Array, targets: Targets, *, gradients: bool) -> list[Array]:
    portably = partial(_evaluate_portably, static, gradients=gradients)
    if prod(static.batch_shape) < FEW:
        return portably(raw, x, targets)
    by_kernels = partial(_evaluate_by_kernels, static, gradients=gradients)
    outputs: list[Array] = jax.lax.platform_dependent(raw, x, targets, cpu=by_kernels, default=portably)
    return outputs


def _evaluate_portably(static: _Static, raw: Array, x: Array, targets: Targets, *, gradients: bool) -> list[Array]:
    pen, weight, pen_weight = (None if array is None else array.astype(raw.dtype) for array in targets)
    if pen_weight is not None:
        weight = jnp.ones_like(pen_weight) if weight is None else weight
        weights = _portable.factors_apart(jnp, weight, pen_weight, static.reduction)
        losses, *of_rows = _portable.rows(jnp, raw, x, pen, gradients, static.floor, weights)
        loss = losses if static.reduction == "none" else jnp.sum(losses)
        return [loss, *of_rows[: 1 + static.x_wanted]] if gradients else [loss]
    weight = _lifted(weight) if weight is not None and static.reduction == "mean" else weight
    losses, *of_rows = _portable.rows(jnp, raw, x, pen, gradients, static.floor)
    loss = _portable.reduce_losses(jnp, losses, weight, static.reduction)
    if not gradients:
        return [loss]
    weight = jnp.ones_like(losses) if weight is None else weight
    factors = _portable.live_factors(jnp, _portable.row_factors(jnp, weight, static.reduction), losses)
    return [loss, *(_portable.scale(jnp, rows, factors) for rows in of_rows[: 1 + static.x_wanted])]


def _lifted(weight: Array) -> Array:
    """Return weights of a mean, times a power of two if denormal ones matter, which XLA flushes to zero."""
    info, integer = jnp.finfo(weight.dtype), {32: jnp.int32, 64: jnp.int64}[jnp.finfo(weight.dtype).bits]
    bits = jax.lax.bitcast_convert_type(weight, integer)
    smallest = 2.0 ** (info.minexp - info.nmant + 64)  # 2^64 times the smallest denormal number
    lifted = jnp.where(bits >> info.nmant == 0, bits.astype(weight.dtype) * smallest, weight * 2.0**64)
    return jnp.where(jnp.max(weight, initial=0.0) < 1, lifted, weight)


def _evaluate_by_kernels(static: _Static, raw: Array, x: Array, targets: Targets, *, gradients: bool) -> list[Array]:
    loss_shape = static.batch_shape if static.reduction == "none" else ()
    shapes = [loss_shape, raw.shape, x.shape][: 1 + (1 + static.x_wanted) * gradients]
    results = [jax.ShapeDtypeStruct(shape, raw.dtype) for shape in shapes]
    callback = _Callback(static.reduction, static.floor, static.batch_shape)
    arrays = buffer_callback(callback, results, vmap_method="expand_dims")(raw, x, *targets)
    return _vary_alike(arrays, [raw])


# The callback of XLA, which works on XLA's memory


@dataclass(frozen=True)
class _Callback:
    """Fills the loss, and the gradients that have outputs. Equal callbacks share what JAX has compiled."""

    reduction: Reduction
    floor: tuple[float, float]
    batch_shape: tuple[int, ...]

    def __call__(self, context: object, outputs: Sequence[Any], *inputs: Any) -> None:
        del context
        results = [np.asarray(buffer) for buffer in outputs]
        loss = results[0]
        # vmap puts its axes first, with size 1 in arguments that it does not map
        mapped = loss.shape[: loss.ndim - len(self.batch_shape)] if self.reduction == "none" else loss.shape
        arrays = [None if buffer is None else _stretch(np.asarray(buffer), mapped) for buffer in inputs]
        if mapped and self._is_row_by_row(weighted=arrays[3] is not None):
            results[0] = loss.reshape(*mapped, *self.batch_shape)
            _score("none", self.floor, arrays, results)
            return
        for index in np.ndindex(mapped):
            # with the ellipsis even an element without axes is a view
            at = (*index, ...)
            _score(self.reduction, self.floor, [None if a is None else a[at] for a in arrays], [a[at] for a in results])

    def _is_row_by_row(self, *, weighted: bool) -> bool:
        """Whether each result belongs to one row, so that mapped axes are more rows of one call."""
        of_one_row = prod(self.batch_shape) == 1 and not (weighted and self.reduction == "mean")
        return self.reduction == "none" or of_one_row


def _stretch(array: NDArray[Any], mapped: tuple[int, ...]) -> NDArray[Any]:
    return np.broadcast_to(array, mapped + array.shape[len(mapped) :]) if mapped else array


def _score(
    reduction: Reduction,
    floor: tuple[float, float],
    arrays: Sequence[NDArray[Any] | None],
    results: Sequence[NDArray[Any]],
) -> None:
    """Fill the results from raw, x, pen and weights; with NaN if weights are invalid."""
    try:
        _fill(reduction, floor, arrays, results)
    except ValueError:
        # Shapes fit, so values of the weights are invalid. The effect of an exception in a callback is undefined.
        *others, weight, pen_weight = arrays
        bad: Any = ...
        if reduction == "none":
            weights = [None if a is None else np.asarray(a) for a in (weight, pen_weight)]
            bad = reduce(or_, (~(np.isfinite(a) & (a >= 0)) for a in weights if a is not None))
            weights = [None if a is None else np.where(bad, 0, a) for a in weights]
            _fill(reduction, floor, [*others, *weights], results)
        for result in results:
            result[bad] = np.nan


def _fill(
    reduction: Reduction,
    floor: tuple[float, float],
    arrays: Sequence[NDArray[Any] | None],
    results: Sequence[NDArray[Any]],
) -> None:
    arguments: Any
    *arguments, weight, pen_weight = arrays
    keywords: Any = {
        "sample_weight": weight,
        "pen_weight": pen_weight,
        "stddev_floor": floor,
        "reduction": reduction,
        "workers": -1,
    }
    if len(results) == 1:
        loss = results[0]
        loss[...] = _mdn.mdn_loss(*arguments, **keywords)
        return
    function: Any = _mdn.mdn_loss_and_gradient if len(results) == 2 else _mdn.loss_and_gradients
    if results[1].size > COPIED:
        keywords["out"] = tuple(results[:2])
    for result, computed in zip(results, function(*arguments, **keywords), strict=True):
        if computed is not result:
            result[...] = computed
