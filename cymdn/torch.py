"""The loss of a mixture density network for PyTorch: autograd, modules, torch.compile, torch.export, on the CPU.

Three operators are registered with PyTorch. Where no derivative is asked for, `cymdn::mdn_loss` computes the loss;
where one is, `cymdn::mdn_loss_and_gradient` computes the gradient with it, in the same pass over the raw output. What
is left to the backward pass is the chain rule's factor, one a row or one for all: `cymdn::scale_gradient`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cymdn import _builds, _mdn
from cymdn._layout import PARAMETERS
from cymdn._mdn import REDUCTIONS, Reduction

try:
    import torch
    from torch import Tensor, nn
    from torch.autograd import forward_ad
except ModuleNotFoundError as _error:
    if _error.name != "torch":  # PyTorch is there, and lacks something of its own
        raise
    raise ImportError('cymdn.torch needs PyTorch: python -m pip install "cymdn[torch]"', name="torch") from _error

__all__ = ["MDNLoss", "mdn_loss"]

FLOATS = (torch.float32, torch.float64)
HALVES = (torch.float16, torch.bfloat16)
# what NumPy has as well; what it cannot convert to float64 by itself, cymdn refuses
NUMBERS = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, *FLOATS,
)  # fmt: skip


def mdn_loss(
    raw: Tensor,
    x: Tensor,
    pen: Tensor | None = None,
    *,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Loss of a mixture density network over correlated 2-D Gaussians, from its raw output.

    Parameters
    ----------
    raw : Tensor, shape (..., P + 6 M)
        Raw output of the network, float32 or float64, on the CPU. Along the last axis: P pen logits, then M each of
        mixture logits, mean 0, mean 1, log stddev 0, log stddev 1, atanh correlation.
    x : Tensor, shape (..., 2)
        The points to be predicted, of the dtype of `raw`.
    pen : Tensor, shape (...) or (..., 3), optional
        None: P is 0. Of shape (...): P is 1, and `pen` in [0, 1] is the probability (mostly 0 or 1) that the stroke
        ends, predicted as sigmoid of the pen logit. Of shape (..., 3): P is 3, and `pen` is the one-hot pen state,
        predicted as softmax of the pen logits. Of any real dtype.
    sample_weight : Tensor, shape (...), optional
        Weights of the rows, finite and >= 0, of any real dtype. A row of weight 0 is skipped, whatever it holds: masks
        are weights.
    reduction : {"mean", "sum", "none"}
        With losses l and weights w of the rows (1 without `sample_weight`): sum(w l) / sum(w), sum(w l), or w l.

    Returns
    -------
    Tensor
        Without axes, or for "none" of shape (...), in nats; of the dtype of `raw`.

    Raises
    ------
    TypeError
        An argument is not a tensor, not on the CPU, not strided, or of a dtype that is not taken.
    ValueError
        A shape does not fit; a `sample_weight` is negative or not finite; `reduction` is none of the three; it is
        "mean" and there are no rows, or their total weight is 0; `pen` or `sample_weight` requires grad.
    NotImplementedError
        A second derivative is asked for, or one in forward mode.

    See Also
    --------
    MDNLoss : The same as a module.
    cymdn.mdn_loss : The same for NumPy arrays, where the loss is defined.

    Notes
    -----
    The loss and its gradient with respect to `raw` have the bits of `cymdn.mdn_loss_and_gradient`, and its contract: a
    row whose loss is inf has gradient 0, as has a row of weight 0. So has a row whose loss the rest of the program
    multiplies by 0, whatever it holds, and a gradient of 0 stays 0 if the rest of the program multiplies it by inf:
    finite tensors never give NaN.

    The gradient with respect to `x` is, from log N's dependence on x - mean, the negative sum of those with respect to
    the means, summed in float64.

    The gradient is computed with the loss, and only if `raw` or `x` requires grad while grad mode is on. It takes as
    much memory as `raw`, until the backward pass. Contiguous tensors are not copied. Large batches are shared among
    `torch.get_num_threads()` threads, at most one a CPU; the result has the same bits for any number.

    `torch.compile` and `torch.export` put the call into their graph as one operator; a program that loads such a graph
    has to import `cymdn.torch`. Under `torch.vmap`, "none" stays one call; "mean" and "sum" become one a slice. There
    is no forward-mode derivative. PyTorch itself (seen with 2.13) refuses registered operators under `torch.func.grad`
    and its kin, and asks for `setup_context`: use `torch.autograd.grad`. Under `torch.autocast` the output of a layer
    may be bfloat16: pass ``raw.float()``.

    Examples
    --------
    A standard normal distribution at its mean, and a pen that is as likely up as down: log(2 pi) + log(2).

    >>> import torch
    >>> from cymdn.torch import mdn_loss
    >>> raw = torch.zeros(5, 1 + 6, requires_grad=True)
    >>> loss = mdn_loss(raw, torch.zeros(5, 2), torch.ones(5))
    >>> loss.backward()
    >>> print(f"{loss.item():.6f} nats, derivative to the pen logits {raw.grad[:, 0].sum():.1f}")
    2.531024 nats, derivative to the pen logits -0.5
    """
    _check_point_tensor("raw", raw, raw)
    _check_point_tensor("x", x, raw)
    _check_target("pen", pen)
    _check_target("sample_weight", sample_weight)
    _check_no_tangent(raw, x)
    return _loss_fit_for_autograd(raw, x, pen, sample_weight, reduction)


class MDNLoss(nn.Module):
    """Loss of a mixture density network over correlated 2-D Gaussians, as a module without parameters.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        As in `mdn_loss`.

    Raises
    ------
    ValueError
        `reduction` is none of the three.

    See Also
    --------
    mdn_loss : The function, which says all about arguments, gradients and errors.

    Examples
    --------
    One layer that answers with a pen logit and two components for each of 100 points:

    >>> import torch
    >>> from cymdn.torch import MDNLoss
    >>> _ = torch.manual_seed(0)
    >>> network, criterion = torch.nn.Linear(3, 1 + 6 * 2), MDNLoss()
    >>> past, x, pen = torch.randn(100, 3), torch.randn(100, 2), torch.zeros(100)
    >>> loss = criterion(network(past), x, pen)
    >>> loss.backward()
    >>> network.weight.grad.shape
    torch.Size([13, 3])
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction: expected one of {', '.join(map(repr, REDUCTIONS))}, got {reduction!r}")
        self.reduction: Reduction = reduction

    def forward(
        self, raw: Tensor, x: Tensor, pen: Tensor | None = None, *, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of raw output at points, as `mdn_loss` does."""
        return mdn_loss(raw, x, pen, sample_weight=sample_weight, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Return what stands between the parentheses of the module's repr."""
        return f"reduction={self.reduction!r}"


def _loss_fit_for_autograd(raw: Tensor, x: Tensor, *rest: Any) -> Tensor:
    """Return the loss, computed with its gradient where the backward pass may ask for that."""
    if torch.is_grad_enabled() and (raw.requires_grad or x.requires_grad):
        loss, _ = _loss_and_gradient(raw, x, *rest)
        return loss
    return _loss(raw, x, *rest)


# Checks of what only tensors have; those of shapes and values are made where the arrays are used


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if value.device.type != "cpu":
        raise TypeError(f"{name}: expected a tensor on the CPU, got one on {value.device}; pass {name}.cpu()")
    if value.layout != torch.strided:
        raise TypeError(f"{name}: expected a strided tensor, got layout {value.layout}; pass {name}.to_dense()")


def _check_point_tensor(name: str, value: Tensor, raw: Tensor) -> None:
    """Check `raw`, or `x` against it."""
    _check_tensor(name, value)
    if value.dtype not in FLOATS:
        what_to_do = f"; pass {name}.float()" if value.dtype in HALVES else ""
        raise TypeError(f"{name}: expected dtype torch.float32 or torch.float64, got {value.dtype}{what_to_do}")
    if value.dtype != raw.dtype:
        raise TypeError(f"{name}: expected dtype {raw.dtype}, as raw has, got {value.dtype}; pass {name}.to(raw.dtype)")


def _check_target(name: str, value: Tensor | None) -> None:
    if value is None:
        return
    _check_tensor(name, value)
    if value.dtype not in NUMBERS:
        what_to_do = f"; pass {name}.float()" if value.dtype in HALVES else ""
        raise TypeError(f"{name}: expected a dtype of real numbers that NumPy has, got {value.dtype}{what_to_do}")
    if value.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name}: expected a tensor that does not require grad, got one that does: the loss has derivatives with "
            f"respect to raw and x only; pass {name}.detach()"
        )


def _check_no_tangent(*tensors: Tensor) -> None:
    # PyTorch itself says nothing: it takes the forward-mode derivative of a registered operator to be 0
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise NotImplementedError(
            "mdn_loss: its forward-mode derivative is not implemented; use the backward pass, torch.autograd.grad"
        )


# The operators. What they return must be new memory, and may not depend on whether a tensor requires grad.


ARGUMENTS = "(Tensor raw, Tensor x, Tensor? pen, Tensor? sample_weight, str reduction)"
CPU: Any = {"mutates_args": (), "device_types": "cpu"}


@torch.library.custom_op("cymdn::mdn_loss", schema=f"{ARGUMENTS} -> Tensor", **CPU)
def _loss(raw: Tensor, x: Tensor, pen: Tensor | None, sample_weight: Tensor | None, reduction: Reduction) -> Tensor:
    loss = _call(_mdn.mdn_loss, raw, x, pen, sample_weight, reduction)
    return torch.from_numpy(np.asarray(loss))


@torch.library.custom_op("cymdn::mdn_loss_and_gradient", schema=f"{ARGUMENTS} -> (Tensor loss, Tensor gradient)", **CPU)
def _loss_and_gradient(
    raw: Tensor, x: Tensor, pen: Tensor | None, sample_weight: Tensor | None, reduction: Reduction
) -> tuple[Tensor, Tensor]:
    loss, gradient = _call(_mdn.mdn_loss_and_gradient, raw, x, pen, sample_weight, reduction)
    return torch.from_numpy(np.asarray(loss)), torch.from_numpy(gradient)


@torch.library.custom_op(
    "cymdn::scale_gradient", schema="(Tensor gradient, Tensor upstream, Tensor loss) -> Tensor", **CPU
)
def _scale(gradient: Tensor, upstream: Tensor, loss: Tensor) -> Tensor:
    """Multiply rows (..., k) by their factors (...), or by one: a product with 0 is 0, whatever the other factor.

    In PyTorch 0 * inf is NaN, and so would be the gradient of a row whose loss is beyond its dtype, or of one that the
    caller masks. `loss` takes no part: it leads a second derivative to this operator, which refuses it.
    """
    factors = upstream.unsqueeze(-1)
    if factors.all() and factors.isfinite().all():  # the common case, in one pass
        return gradient * factors
    return torch.where((gradient == 0) | (factors == 0), 0.0, gradient * factors)


def _call(function: Callable[..., Any], *tensors_and_reduction: Any) -> Any:
    *tensors, reduction = tensors_and_reduction
    # the same memory; forced, for a tensor may require grad or carry a minus sign that is yet to be applied
    raw, x, pen, weight = (None if tensor is None else tensor.numpy(force=True) for tensor in tensors)
    workers = min(torch.get_num_threads(), _builds.cpu_count())
    return function(raw, x, pen, sample_weight=weight, reduction=reduction, workers=workers)


# For torch.compile and torch.export: shapes and dtypes alone


@_loss.register_fake
def _(raw: Tensor, x: Tensor, pen: Tensor | None, sample_weight: Tensor | None, reduction: Reduction) -> Tensor:
    return raw.new_empty(raw.shape[:-1] if reduction == "none" else ())


@_loss_and_gradient.register_fake
def _(
    raw: Tensor, x: Tensor, pen: Tensor | None, sample_weight: Tensor | None, reduction: Reduction
) -> tuple[Tensor, Tensor]:
    return raw.new_empty(raw.shape[:-1] if reduction == "none" else ()), raw.new_empty(raw.shape)


@_scale.register_fake
def _(gradient: Tensor, upstream: Tensor, loss: Tensor) -> Tensor:
    return gradient.new_empty(gradient.shape)


# Derivatives


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, x, pen, _, _ = inputs
    loss, gradient = output
    ctx.pens = 0 if pen is None else 1 if pen.ndim < x.ndim else 3
    ctx.save_for_backward(gradient, loss)
    ctx.mark_non_differentiable(gradient)
    ctx.set_materialize_grads(False)  # else zeros would be made, as many as there are in gradient


def _backward(ctx: Any, upstream: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    raw_gradient: Tensor | None = None
    x_gradient: Tensor | None = None
    if upstream is not None:
        raw_needs, x_needs = ctx.needs_input_grad[:2]
        gradient, loss = ctx.saved_tensors
        raw_gradient = _scale(gradient, upstream, loss) if raw_needs else None
        x_gradient = _scale(_point_gradient(gradient, ctx.pens), upstream, loss) if x_needs else None
    return raw_gradient, x_gradient, None, None, None


def _point_gradient(gradient: Tensor, pens: int) -> Tensor:
    """Return the derivatives with respect to x: minus the sums over those with respect to mean 0 and mean 1."""
    components = (gradient.shape[-1] - pens) // PARAMETERS
    means = gradient[..., pens + components : pens + 3 * components].unflatten(-1, (2, components))
    # no number is infinite and no sum of them overflows, so that none is inf - inf; a NaN stays one
    largest = torch.finfo(gradient.dtype).max
    shares = means.clamp(-largest, largest).double() / components
    return (-components * shares.sum(-1)).to(gradient.dtype)


def _no_second_derivative(*_: Any) -> None:
    raise NotImplementedError(
        "mdn_loss: its second derivative is not implemented. Where one is needed (a Hessian, a penalty on the "
        "gradient), take differences of the gradient, or write the loss in PyTorch's own operations, with "
        "torch.logsumexp"
    )


_loss_and_gradient.register_autograd(_backward, setup_context=_save)
_scale.register_autograd(_no_second_derivative)


# torch.vmap: rows are independent of each other, so that a mapped axis is one more axis of the batch


def _to_front(tensors: Sequence[Any], in_dims: Sequence[int | None], size: int) -> list[Any]:
    """Return the tensors with the mapped axis first, repeated along it where a tensor is not mapped."""
    return [
        tensor if tensor is None else tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip(tensors, in_dims, strict=True)
    ]


def _mapped(operator: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], arguments: Sequence[Any]) -> Any:
    """Return what the operator gives for each slice; a reduction ends at the slice, hence the calls one by one."""
    tensors, reduction = _to_front(arguments[:-1], in_dims[:-1], info.batch_size), arguments[-1]
    if reduction == "none":
        return operator(*tensors, reduction)
    return [
        operator(*(None if tensor is None else tensor[i] for tensor in tensors), reduction)
        for i in range(info.batch_size)
    ]


@_loss.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
    # a mapped tensor does not tell whether it requires grad, what it is mapped from does
    losses = _mapped(_loss_fit_for_autograd, info, in_dims, arguments)
    return losses if isinstance(losses, Tensor) else torch.stack(losses), 0


@_loss_and_gradient.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
    results = _mapped(_loss_and_gradient, info, in_dims, arguments)
    return results if isinstance(results, tuple) else tuple(map(torch.stack, zip(*results, strict=True))), (0, 0)


@_scale.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> tuple[Tensor, int]:
    gradient, upstream, loss = _to_front(tensors, in_dims, info.batch_size)
    # a factor a slice stands for all rows of the slice
    shape = *upstream.shape, *[1] * (gradient.ndim - 1 - upstream.ndim)
    return _scale(gradient, upstream.reshape(shape), loss), 0
