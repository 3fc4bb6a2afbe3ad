"""The loss of a mixture density network for PyTorch: any device, any precision, any transform of torch.func.

On the CPU the compiled kernels compute the loss and, where a derivative may be asked for, the gradient with it, in one
pass over the raw output. On other devices ``_portable.rows`` does, with PyTorch's operations. The backward pass only
multiplies by the chain rule's factor, one for each row or one for all. Second derivatives are those of
``_portable.rows`` everywhere.

In eager mode nothing of PyTorch's compiler is imported. The operators that torch.compile and torch.export put into
their graphs for the CPU are at the end of this file.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, TypeAlias

import numpy as np

from cymdn import BivariateMixture, _builds, _mdn, _portable, _portable_draws
from cymdn._arrays import Floor, check_count, check_floor, check_nonnegative, check_size
from cymdn._layout import PARAMETERS, Pens, check_pens, components_of
from cymdn._mdn import Reduction
from cymdn._sampling import MdnSample, Temperature, check_sharpening

try:
    import torch
    from torch import Tensor, nn
    from torch.autograd import forward_ad
except ModuleNotFoundError as _error:
    if _error.name != "torch":  # PyTorch is there, but lacks what it needs
        raise
    raise ImportError("cymdn.torch needs PyTorch: python -m pip install torch", name="torch") from _error

__all__ = ["MDNHead", "MDNLoss", "mdn_loss", "mdn_sample"]

FLOATS = (torch.float32, torch.float64)
Targets: TypeAlias = tuple[Tensor | None, Tensor | None, Tensor | None]
"""Pens, weights of the rows, or of their points, and weights of their pens."""

HALVES = (torch.float16, torch.bfloat16)
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def mdn_loss(
    raw: Tensor,
    x: Tensor,
    pen: Tensor | None = None,
    *,
    sample_weight: Tensor | None = None,
    pen_weight: Tensor | float | None = None,
    stddev_floor: Floor = None,
    n_components: int | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Loss of a mixture density network over correlated 2-D Gaussians, from its raw output.

    Parameters
    ----------
    raw : Tensor, shape (..., P + 6 M)
        Raw output of the network: float32, float64, float16 or bfloat16, on any device. Along the last axis: P pen
        logits, then M each of mixture logits, mean 0, mean 1, log stddev 0, log stddev 1, atanh correlation.
    x : Tensor, shape (..., 2)
        The points to be predicted, of the dtype of `raw`; half precision is converted to float32 in both.
    pen : Tensor, shape (...) or (..., 3), optional
        None: P is 0. Of shape (...): P is 1, and `pen` in [0, 1] is the probability (mostly 0 or 1) that the stroke
        ends, predicted as sigmoid of the pen logit. Of shape (..., 3): P is 3, and `pen` is the one-hot pen state,
        predicted as softmax of the pen logits. Of any real dtype.
    sample_weight : Tensor, shape (...), optional
        Weights of the rows, finite and >= 0, of any real dtype. A row of weight 0 is skipped, whatever its values, so a
        mask can be passed as weights.
    pen_weight : Tensor, shape (...), or float, optional
        Weights of the pens' terms, as in `cymdn.mdn_loss`.
    stddev_floor : float or pair of floats, optional
        Standard deviation of an error of the points, as in `cymdn.mdn_loss`.
    n_components : int, optional
        The number M, to be checked against the width of `raw`.
    reduction : {"mean", "sum", "none"}
        With losses l and weights w of the rows (1 without `sample_weight`): sum(w l) / sum(w), sum(w l), or w l.

    Returns
    -------
    Tensor
        Without axes, or for "none" of shape (...), in nats; float64 if `raw` is, else float32.

    Raises
    ------
    TypeError
        An argument is not a tensor, is not strided, is on another device than `raw`, or has an unsupported dtype.
    ValueError
        A shape does not fit; `reduction` is none of the three; it is "mean" and there are no rows; `pen` or
        `sample_weight` requires grad. On the CPU: a `sample_weight` is negative or not finite, or the "mean" is over a
        total weight of 0.
    NotImplementedError
        Forward mode within forward mode, whose result PyTorch gets wrong; forward mode in a compiled graph on the CPU;
        a derivative with respect to `pen` or `sample_weight`.

    See Also
    --------
    MDNLoss : As a module.
    cymdn.mdn_loss : For NumPy arrays; defines the loss.

    Notes
    -----
    On the CPU the loss and its gradient with respect to `raw` are bit-identical to those of
    `cymdn.mdn_loss_and_gradient`, after conversion of half precision to float32. On other devices PyTorch's operations
    compute them, in float64 for float64 and in float32 otherwise, with errors of at most 9 eps of the terms, 30 under a
    floor. The contract is the same: a row whose loss is inf has gradient 0, and so has a row of weight 0, and a row
    whose loss is multiplied by 0 later in the program, whatever its values. A gradient of 0 remains 0 if it is
    multiplied by inf later, so finite tensors never give NaN. On devices other than the CPU the values of weights are
    not checked, because that would synchronise with the device: invalid weights and a "mean" of total weight 0 give
    NaN.

    The gradient is computed with the loss, but only if `raw` or `x` requires grad while grad mode is on. Until the
    backward pass it takes as much memory as `raw` in the dtype of the arithmetic. On the CPU contiguous tensors are not
    copied, and large batches are divided among `torch.get_num_threads()` threads, at most one for each CPU; the result
    has the same bits for any number.

    Gradients can be differentiated to any order: ``create_graph=True``, `torch.func.grad`, `jacrev`, `jacfwd`,
    `hessian`, `jvp`, `vmap` of these and these of `vmap`. PyTorch's operations compute all second derivatives; those of
    a row with components that underflow may be NaN, and so may the `jvp` of a row whose derivatives overflow. Under
    `torch.vmap`, "none" is one call, and so is a slice of one row; "mean" and "sum" of more rows take one call for each
    slice.

    `torch.compile` and `torch.export` put the call into their graph, on the CPU as one operator; a program that loads
    such a graph has to import `cymdn.torch`. On other devices `torch.compile` fuses the operations. Apply `torch.func`
    to the compiled function, not inside of it: inside, a gradient on other devices is PyTorch's own, which is NaN where
    a component underflows, and on the CPU it is refused.

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
    _mdn.check_reduction(reduction)
    raw = _for_arithmetic("raw", raw)
    x = _for_arithmetic("x", x, raw)
    pen, sample_weight = _target("pen", pen, raw), _target("sample_weight", sample_weight, raw)
    own = _target("pen_weight", _pen_weights(pen_weight, raw), raw)
    if own is not None and pen is None:
        raise ValueError("pen_weight: expected None where there is no pen")
    own = own if own is None or own.ndim else own.expand(raw.shape[:-1])
    if n_components is not None:
        pens = 0 if pen is None else 1 if pen.ndim < x.ndim else 3
        components_of(tuple(raw.shape), pens, n_components)
    return _loss(raw, x, (pen, sample_weight, own), reduction, check_floor(stddev_floor))


class MDNLoss(nn.Module):
    """Loss of a mixture density network over correlated 2-D Gaussians, as a module without parameters.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        As in `mdn_loss`.
    stddev_floor : float or pair of floats, optional
        As in `mdn_loss`.

    Raises
    ------
    ValueError
        `reduction` is none of the three; `stddev_floor` is negative or not finite.

    See Also
    --------
    mdn_loss : The function; describes arguments, gradients and errors.

    Examples
    --------
    One layer whose output is a pen logit and two components for each of 100 points:

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

    def __init__(self, reduction: Reduction = "mean", stddev_floor: Floor = None) -> None:
        super().__init__()
        _mdn.check_reduction(reduction)
        self.reduction: Reduction = reduction
        self.stddev_floor: Floor = None if stddev_floor is None else check_floor(stddev_floor)

    def forward(
        self,
        raw: Tensor,
        x: Tensor,
        pen: Tensor | None = None,
        *,
        sample_weight: Tensor | None = None,
        pen_weight: Tensor | float | None = None,
    ) -> Tensor:
        """Return the loss of raw output at points, as `mdn_loss` does."""
        weights: Any = {"sample_weight": sample_weight, "pen_weight": pen_weight}
        return mdn_loss(raw, x, pen, **weights, stddev_floor=self.stddev_floor, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Return the arguments in the module's repr."""
        floor = "" if self.stddev_floor is None else f", stddev_floor={self.stddev_floor}"
        return f"reduction={self.reduction!r}{floor}"


def mdn_sample(
    raw: Tensor,
    *,
    pen: Pens = 0,
    bias: float = 0.0,
    temperature: Temperature = 1.0,
    stddev_floor: Floor = None,
    size: int | tuple[int, ...] | None = None,
    generator: torch.Generator | None = None,
    reparameterized: bool = False,
) -> MdnSample[Tensor]:
    r"""Sample points, and pen states, from raw network output.

    Parameters
    ----------
    raw : Tensor, shape (..., P + 6 M)
        Raw output of the network, as in `mdn_loss`, on any device.
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
    generator : torch.Generator, optional
        Source of random numbers, on the device of `raw`; PyTorch's default generator if omitted. `torch.compile` does
        not accept one in a graph.
    reparameterized : bool, optional
        Whether points are differentiable with respect to `raw`, as functions of the parameters of the sampled
        component for the sampled normal numbers. The choice of a component has no such derivative, so the logits have
        none.

    Returns
    -------
    MdnSample
        Named tuple `(x, pen, component)` of tensors, as `cymdn.mdn_sample` returns it: `x` of shape (\*size, ..., 2)
        and `pen`, which is None, of shape (\*size, ...) or one-hot of shape (\*size, ..., 3), float64 if `raw` is, else
        float32; `component` int64.

    Raises
    ------
    TypeError
        `raw` is not a tensor of floats; `bias` or `temperature` is not a real number, `size` is not one
        or more integers.
    ValueError
        The shape of `raw` does not fit; `pen` is none of the three; `bias` or `temperature` is negative or NaN, or
        `temperature` is inf.

    See Also
    --------
    cymdn.mdn_sample : For NumPy arrays, with other random numbers.

    Notes
    -----
    A NaN or inf among the mixture logits of a row gives NaN points of component -1. A NaN in a component gives NaN if
    that component is sampled, and one among the pen logits gives NaN pens. Other rows are not affected.

    Examples
    --------
    >>> import torch
    >>> from cymdn.torch import mdn_sample
    >>> raw = torch.zeros(1, 1 + 6 * 20)  # one step of a network: pen logit, 20 components
    >>> x, pen, component = mdn_sample(raw, pen=1, bias=0.5, generator=torch.Generator().manual_seed(7))
    >>> x.shape, pen.shape, component.shape
    (torch.Size([1, 2]), torch.Size([1]), torch.Size([1]))
    """
    pen = check_pens(pen)
    raw = _for_arithmetic("raw", raw)
    components = components_of(tuple(raw.shape), pen)
    sharpening, floor = check_sharpening(bias, temperature), check_floor(stddev_floor)
    shape = (*check_size("size", size), *raw.shape[:-1])
    raw = raw.expand(*shape, raw.shape[-1]) if reparameterized else raw.detach().expand(*shape, raw.shape[-1])

    def draw(logits: Tensor, factor: float) -> Tensor:
        noise = None if factor == math.inf else torch.empty_like(logits, memory_format=torch.contiguous_format)
        scores = _portable_draws.scores(
            torch, logits, factor, None if noise is None else noise.exponential_(generator=generator)
        )
        return torch.where(scores.isnan().any(-1), -1, scores.argmax(-1))

    component = draw(raw[..., pen : pen + components], sharpening.logits)
    options: Any = {"generator": generator, "dtype": raw.dtype, "device": raw.device}
    normal, noise = torch.randn((*shape, 2), **options), None
    if floor != (0.0, 0.0):
        noise = torch.randn((*shape, 2), **options) * torch.tensor(floor, dtype=raw.dtype, device=raw.device)
    x = _portable_draws.points(torch, raw, pen, component, normal, sharpening, noise)
    pens = None
    if pen == 1:
        pens = _portable_draws.ends(torch, raw[..., 0], sharpening.pen_logits, torch.rand(shape, **options))
    elif pen == 3:
        state = draw(raw[..., :3], sharpening.pen_logits)[..., None]
        pens = (state == torch.arange(3, device=raw.device)).to(raw.dtype)
        pens = torch.where(state < 0, math.nan, pens)
    return MdnSample(x, pens, component)


class MDNHead(nn.Module):
    """A linear layer for the output of a mixture density network, with loss, samples and mixtures.

    The layer works in units of the data: means are `offset + scale * output` and log stddevs `log(scale) + output`, so
    that training does not depend on the scale of the points. `init_from` sets these from data.

    Parameters
    ----------
    in_features : int
        Size of the last axis of its input.
    n_components : int
        The number M of Gaussians.
    pen : {0, 1, 3}, optional
        The number P of pen logits.

    Attributes
    ----------
    linear : torch.nn.Linear
        The layer, of P + 6 M outputs.
    offset, scale : Tensor, shape (P + 6 M)
        Buffers: raw output is ``linear(h) * scale + offset``.

    Raises
    ------
    TypeError, ValueError
        A number is not a positive integer, or `pen` none of the three.

    See Also
    --------
    mdn_loss : The loss, and the order of raw output.

    Notes
    -----
    The initial layer has small weights, equal mixture weights, no correlation, means spread over the data and standard
    deviations for which the components overlap. So the first loss is close to that of one Gaussian fitted to the data,
    and every component is used. Raw output is float32 under autocast.

    Examples
    --------
    Points 1000 apart, at pixel 5000:

    >>> import torch
    >>> from cymdn.torch import MDNHead
    >>> _ = torch.manual_seed(0)
    >>> h = torch.randn(500, 8)
    >>> x = 5000 + 1000 * (h[:, :2] + 0.1 * torch.randn(500, 2))
    >>> head = MDNHead(8, 3)
    >>> head.init_from(x)
    >>> loss = head.loss(h, x)
    >>> head.sample(h, size=10).x.shape, head.mixture(h[:1]).n_components
    (torch.Size([10, 500, 2]), 3)
    """

    n_components: int
    pen: Pens
    linear: nn.Linear
    offset: Tensor
    scale: Tensor

    def __init__(self, in_features: int, n_components: int, pen: Pens = 0) -> None:
        super().__init__()
        pen = check_pens(pen)
        self.n_components = check_count("n_components", n_components, 1)
        self.pen = pen
        width = pen + PARAMETERS * self.n_components
        self.linear = nn.Linear(check_count("in_features", in_features, 1), width)
        self.register_buffer("offset", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        angle = torch.arange(self.n_components) * (math.pi * (3 - math.sqrt(5)))  # a sunflower pattern
        radius = 1.5 * torch.sqrt((torch.arange(self.n_components) + 0.5) / self.n_components)
        self._start(radius * torch.cos(angle), radius * torch.sin(angle))

    @torch.no_grad()
    def _start(self, mean0: Tensor, mean1: Tensor) -> None:
        """Set weights and bias, means in units of the data."""
        self.linear.weight *= 0.1
        self.linear.bias.zero_()
        planes = self.linear.bias[self.pen :].view(PARAMETERS, self.n_components)
        planes[1], planes[2] = mean0, mean1
        planes[3:5] = -0.25 * math.log(self.n_components)

    @torch.no_grad()
    def init_from(self, x: Tensor) -> None:
        """Set scale and initial means from points (..., 2): all points that will be predicted, or a sample of them.

        Parameters
        ----------
        x : Tensor, shape (..., 2)
            The points; rows that are not finite are ignored.

        Raises
        ------
        ValueError
            There is no finite row.
        """
        points = x.detach().reshape(-1, 2).to(self.linear.bias)
        points = points[points.isfinite().all(-1)]
        if not len(points):
            raise ValueError(f"x: expected at least one finite row, got shape {tuple(x.shape)}")
        middle, spread = points.mean(0), points.std(0, correction=0)
        spread = torch.where(spread > 0, spread, 1.0)  # if all points are equal
        means = ((points - middle) / spread)[torch.randint(len(points), (self.n_components,))]
        self.linear.reset_parameters()
        self._start(*means.T)
        for row, unit in ((1, middle), (3, spread.log())):
            for axis in (0, 1):
                first = self.pen + (row + axis) * self.n_components
                self.offset[first : first + self.n_components] = unit[axis]
        for axis in (0, 1):
            first = self.pen + (1 + axis) * self.n_components
            self.scale[first : first + self.n_components] = spread[axis]

    def forward(self, h: Tensor) -> Tensor:
        """Return raw output (..., P + 6 M) for input (..., in_features)."""
        output = self.linear(h)
        return (output.float() if output.dtype in HALVES else output) * self.scale + self.offset

    def loss(
        self,
        h: Tensor,
        x: Tensor,
        pen: Tensor | None = None,
        *,
        sample_weight: Tensor | None = None,
        pen_weight: Tensor | float | None = None,
        stddev_floor: Floor = None,
        reduction: Reduction = "mean",
    ) -> Tensor:
        """Return `mdn_loss` of points x and pens for input h."""
        weights: Any = {"sample_weight": sample_weight, "pen_weight": pen_weight}
        return mdn_loss(self(h), x, pen, **weights, stddev_floor=stddev_floor, reduction=reduction)

    def sample(self, h: Tensor, **keywords: Any) -> MdnSample[Tensor]:
        """Return `mdn_sample` for input h; keywords are those of `mdn_sample` except `pen`."""
        return mdn_sample(self(h), pen=self.pen, **keywords)

    @torch.no_grad()
    def mixture(self, h: Tensor, **keywords: Any) -> BivariateMixture:
        """Return mixtures for input h; keywords are those of `BivariateMixture.from_network_output`."""
        return BivariateMixture.from_network_output(self(h).cpu().numpy(), pen=self.pen, **keywords)

    def extra_repr(self) -> str:
        """Return the arguments in the module's repr."""
        return f"n_components={self.n_components}, pen={self.pen}"


# Checks that only tensors need; shapes and values are checked where they are used


def _check_tensor(name: str, value: object, raw: object = None) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if value.layout != torch.strided:
        raise TypeError(f"{name}: expected a strided tensor, got layout {value.layout}; pass {name}.to_dense()")
    if isinstance(raw, Tensor) and value.device != raw.device:
        raise TypeError(f"{name}: expected a tensor on {raw.device}, where raw is, got one on {value.device}")


def _for_arithmetic(name: str, value: Tensor, raw: Tensor | None = None) -> Tensor:
    """Return raw, or the matching x, in float32 or float64; half precision becomes float32."""
    _check_tensor(name, value, raw)
    if value.dtype in HALVES:
        value = value.float()
    if value.dtype not in FLOATS:
        raise TypeError(f"{name}: expected dtype float32, float64, float16 or bfloat16, got {value.dtype}")
    if raw is not None and value.dtype != raw.dtype:
        raise TypeError(f"{name}: expected dtype {raw.dtype}, as raw has, got {value.dtype}; pass {name}.to(raw.dtype)")
    return value


def _target(name: str, value: Tensor | None, raw: Tensor) -> Tensor | None:
    """Return pen or sample_weight; converts half precision, which NumPy lacks."""
    if value is None:
        return None
    _check_tensor(name, value, raw)
    if value.dtype in HALVES:
        value = value.float()
    elif value.dtype not in FLOATS and value.dtype not in INTEGERS:
        raise TypeError(f"{name}: expected a dtype of real numbers, got {value.dtype}")
    if value.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name}: expected a tensor that does not require grad, got one that does: the loss has derivatives with "
            f"respect to raw and x only; pass {name}.detach()"
        )
    return value


def _pen_weights(value: object, raw: Tensor) -> Any:
    """Return a number as a tensor, anything else unchanged."""
    if value is None or isinstance(value, Tensor):
        return value
    return torch.tensor(check_nonnegative("pen_weight", value), dtype=raw.dtype, device=raw.device)


def _loss(raw: Tensor, x: Tensor, targets: Targets, reduction: Reduction, floor: tuple[float, float]) -> Tensor:
    """Return the loss of checked tensors, which are on one device and, except for targets, of one dtype."""
    compiling = torch.compiler.is_compiling()
    if _has_kernels(raw):
        call = _Call(reduction, floor, *_wants_gradients(raw, x))
        if compiling:
            if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in (raw, x)):
                raise NotImplementedError("mdn_loss: there is no forward mode in compiled graphs of the CPU")
            return _operate(raw, x, *targets, call)[0]
        try:
            return _EagerLoss.apply(raw, x, *targets, call)[0]
        except RuntimeError:  # torch.func needs a Function with setup_context; other errors are raised again
            return _Loss.apply(raw, x, *targets, call)[0]
    # the width is a constant of each graph, because TorchDynamo cannot divide a symbolic one
    shape = *raw.shape[:-1], *map(index, raw.shape[-1:])
    pen_shape, weight_shape, own_shape = (None if t is None else tuple(t.shape) for t in targets)
    _mdn.check_layout(shape, tuple(x.shape), pen_shape, weight_shape, own_shape)
    if reduction == "mean" and math.prod(shape[:-1]) == 0:
        _mdn.factor_and_divisor(0, None)  # raises; float() would fix a symbolic size
    pen, weight, own = (None if t is None else t.to(raw.dtype) for t in targets)
    function, call = _CompiledLoss if compiling else _Loss, _Call("none", floor, *_wants_gradients(raw, x))
    if own is None:
        losses = function.apply(raw, x, pen, None, None, call)[0]
        return _portable.reduce_losses(torch, losses, weight, reduction)
    weight = torch.ones_like(own) if weight is None else weight
    losses = function.apply(raw, x, pen, *_portable.factors_apart(torch, weight, own, reduction), call)[0]
    return losses if reduction == "none" else losses.sum()


def _wants_gradients(raw: Tensor, x: Tensor) -> tuple[bool, bool]:
    mode = torch.is_grad_enabled()
    return mode and raw.requires_grad, mode and x.requires_grad


# The functions of autograd


@dataclass
class _Call:
    """The arguments of `mdn_loss` that are not tensors."""

    reduction: Reduction
    floor: tuple[float, float]  # of the stddevs
    raw_wanted: bool  # whether the gradient with respect to raw is computed with the loss
    x_wanted: bool
    jvps: int = 0  # number of forward-mode derivatives so far


class _Loss(torch.autograd.Function):
    """The loss, and the gradients that are kept for the backward pass; empty if they are not needed.

    On the CPU the kernels reduce. Elsewhere the reduction is always "none", and there are weights only if pens have
    their own; otherwise weights and reduction are factors of the loss.
    """

    @staticmethod
    def forward(
        raw: Tensor,
        x: Tensor,
        pen: Tensor | None,
        weight: Tensor | None,
        pen_weight: Tensor | None,
        call: _Call,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if _has_kernels(raw):
            return (_calculate if _is_plain(raw, x) else _operate)(raw, x, pen, weight, pen_weight, call)
        wanted = call.raw_wanted or call.x_wanted
        weights = None if weight is None or pen_weight is None else (weight, pen_weight)
        loss, gradient, x_gradient = _portable.rows(torch, raw, x, pen, wanted, call.floor, weights)
        return (loss, gradient, x_gradient) if wanted else (loss, raw.new_empty(0), raw.new_empty(0))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        raw, x, *targets, ctx.call = inputs
        gradients = output[1:]
        ctx.save_for_backward(raw, x, *gradients)
        ctx.save_for_forward(raw, x, *gradients)
        # not saved: only second derivatives need them, and a caller may reuse a buffer of masks before backward
        ctx.targets = targets
        ctx.versions = list(map(_version, ctx.targets))
        ctx.mark_non_differentiable(*gradients)
        ctx.set_materialize_grads(False)  # otherwise zeros as large as the gradients would be made

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if upstream is None:
            return (None,) * 6
        needs = ctx.needs_input_grad[:2]
        raw, x, gradient, x_gradient = ctx.saved_tensors
        there = gradient.shape == raw.shape, x_gradient.shape == x.shape
        if torch.is_grad_enabled() or any(need > have for need, have in zip(needs, there, strict=True)):
            gradient, x_gradient = _differentiable_gradients(ctx, needs)
        scaled = (
            _scale(of_rows, upstream) if need else None
            for need, of_rows in zip(needs, (gradient, x_gradient), strict=True)
        )
        return *scaled, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, raw_tangent: Tensor | None, x_tangent: Tensor | None, *others: Any) -> tuple[Any, ...]:
        if any(tangent is not None for tangent in others[:3]):
            raise NotImplementedError("mdn_loss: there is no derivative with respect to pen or weights")
        ctx.call.jvps += 1
        if ctx.call.jvps > 1:  # observed with PyTorch 2.13: its issue 197867
            raise NotImplementedError(
                "mdn_loss: forward mode within forward mode would give wrong numbers, since PyTorch does not carry the "
                "outer derivative through a torch.autograd.Function; use reverse mode for one of the two, as "
                "torch.func.hessian does"
            )
        gradients = _differentiable_gradients(ctx, (raw_tangent is not None, x_tangent is not None))
        tangent: Any = sum(
            _portable.product(torch, gradient, direction).sum(-1)
            for gradient, direction in zip(gradients, (raw_tangent, x_tangent), strict=True)
            if direction is not None
        )
        return tangent if ctx.call.reduction == "none" else tangent.sum(), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        return _mapped(_Loss.apply, info, in_dims, *arguments)


class _EagerLoss(_Loss):
    """The same without setup_context, which takes 20 us in each call but is required by torch.func."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        output = _Loss.forward(*arguments)
        _Loss.setup_context(ctx, arguments, output)
        return output

    setup_context = torch.autograd.Function.setup_context


class _Gradients(torch.autograd.Function):
    """The gradients with respect to raw and x (the kept ones, if any), with derivatives of their own.

    One that is not needed may be 0.
    """

    @staticmethod
    def forward(
        raw: Tensor,
        x: Tensor,
        pen: Tensor | None,
        factors: Tensor,
        pen_factors: Tensor | None,
        gradient: Tensor,
        x_gradient: Tensor,
        floor: tuple[float, float],
        needs: tuple[bool, bool],
    ) -> tuple[Tensor, Tensor]:
        there = gradient.shape == raw.shape, x_gradient.shape == x.shape
        computed: list[Tensor] = []
        if any(need > have for need, have in zip(needs, there, strict=True)):
            of_rows = _gradients_of_rows(raw, x, pen, factors, pen_factors, floor)
            computed = _scaled_together(of_rows, factors, pen_factors)
        first = gradient.clone() if there[0] else computed[0] if computed else torch.zeros_like(raw)
        second = x_gradient.clone() if there[1] else computed[1] if computed else torch.zeros_like(x)
        return first, second

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs[:5])
        ctx.save_for_forward(*inputs[:5])
        ctx.floor = inputs[7]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        return *_hessian_times(ctx.floor, *ctx.saved_tensors, *upstream), *[None] * 7

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, Tensor]:
        return _hessian_times(ctx.floor, *ctx.saved_tensors, *tangents[:2])  # the Hessian is symmetric

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        *tensors, floor, needs = arguments
        return _Gradients.apply(*_to_front(tensors, in_dims, info.batch_size), floor, needs), (0, 0)


def _gradients_of_rows(
    raw: Tensor, x: Tensor, pen: Tensor | None, factors: Tensor, pen_factors: Tensor | None, floor: tuple[float, float]
) -> list[Tensor]:
    """Return the gradients of rows, scaled by their factors if pens have their own."""
    weights = None if pen_factors is None else (factors, pen_factors)
    _, *gradients = _portable.rows(torch, raw, x, None if pen is None else pen.to(raw.dtype), True, floor, weights)
    return gradients


def _scaled_together(gradients: Sequence[Tensor], factors: Tensor, pen_factors: Tensor | None) -> list[Tensor]:
    """Scale rows of gradients by their factors, unless `_gradients_of_rows` has."""
    if pen_factors is not None:
        return list(gradients)
    return [_portable.scale(torch, rows, factors) for rows in gradients]


def _differentiable_gradients(ctx: Any, needs: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
    raw, x, *gradients = ctx.saved_tensors
    pen, weight, pen_weight = ctx.targets
    if ctx.versions != list(map(_version, ctx.targets)):
        raise RuntimeError("mdn_loss: pen or weights were modified in place before the loss was differentiated again")
    weight = torch.ones_like(raw[..., 0]).detach() if weight is None else weight.to(raw.dtype)
    if pen_weight is None:
        factors = _portable.row_factors(torch, weight, ctx.call.reduction), None
    else:
        factors = _portable.factors_apart(torch, weight, pen_weight.to(raw.dtype), ctx.call.reduction)
    return _Gradients.apply(raw, x, pen, *factors, *gradients, ctx.call.floor, needs)


def _version(tensor: Tensor | None) -> int | None:
    """Return how often a tensor was modified in place; this is not counted in inference mode."""
    return None if tensor is None or tensor.is_inference() else tensor._version


def _hessian_times(
    floor: tuple[float, float],
    raw: Tensor,
    x: Tensor,
    pen: Tensor | None,
    factors: Tensor,
    pen_factors: Tensor | None,
    raw_part: Tensor | None,
    x_part: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the second derivatives of each row's weighted loss, times a vector for raw and one for x."""
    rest = pen, factors, pen_factors, floor
    product = torch.func.vjp(lambda raw, x: tuple(_gradients_of_rows(raw, x, *rest)), raw, x)[1]
    vector = (
        torch.zeros_like(like) if part is None else part
        for part, like in zip((raw_part, x_part), (raw, x), strict=True)
    )
    first, second = _scaled_together(product(tuple(vector)), factors, pen_factors)
    return first, second


def _scale(gradient: Tensor, upstream: Tensor) -> Tensor:
    """Multiply rows (..., k) by their factors (...), or by one; a product with 0 is 0, whatever the other factor.

    Otherwise the gradient of a row whose loss is inf, or that the caller masks, would be 0 * inf, which is NaN.
    """
    if gradient.device.type == "cpu" and not torch.is_grad_enabled():
        try:
            if upstream.ndim == 0:
                usual = 0.0 < abs(upstream.item()) < math.inf
            else:
                usual = bool((upstream.isfinite() & (upstream != 0)).all())
        except RuntimeError:  # under torch.vmap the values are unknown
            usual = False
        if usual:
            return gradient * upstream.unsqueeze(-1)  # in one pass
    if upstream.ndim < gradient.ndim - 1:
        upstream = upstream.expand(gradient.shape[:-1])
    return _portable.scale(torch, gradient, upstream)


def _mapped(function: Any, info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
    """Treat a mapped axis as one more axis of rows; if each slice is reduced, call slice by slice."""
    *tensors, weight, pen_weight = _to_front(arguments[:5], in_dims, info.batch_size)
    call, size = arguments[5], info.batch_size
    # in grad of vmap the tensors behind the mapped ones require grad, in vmap of grad those of the caller
    raw_wanted, x_wanted = _wants_gradients(*tensors[:2])
    wanted = raw_wanted or call.raw_wanted, x_wanted or call.x_wanted
    one_row = math.prod(tensors[0].shape[1:-1]) == 1 and (weight is None or call.reduction != "mean")
    if call.reduction == "none" or one_row:
        calls = [_Call("none", call.floor, *wanted)]
        loss, *gradients = function(*tensors, weight, pen_weight, *calls)
        outputs = loss if call.reduction == "none" else loss.reshape(size), *gradients
    else:
        calls = [_Call(call.reduction, call.floor, *wanted) for _ in range(size)]
        slices = [[None if t is None else t[i] for t in (*tensors, weight, pen_weight)] for i in range(size)]
        results = [function(*parts, part) for parts, part in zip(slices, calls, strict=True)]
        outputs = tuple(map(torch.stack, zip(*results, strict=True)))
    call.jvps += max(part.jvps for part in calls)
    return outputs, (0, *(0 if gradient.shape[:1] == (size,) else None for gradient in outputs[1:]))


def _to_front(tensors: Sequence[Any], in_dims: Sequence[int | None], size: int) -> list[Any]:
    """Return the tensors with the mapped axis first, repeated along it where a tensor is not mapped."""
    return [
        tensor if tensor is None else tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip(tensors, in_dims, strict=False)
    ]


# The compiled kernels


def _has_kernels(raw: Tensor) -> bool:
    return raw.device.type == "cpu"


def _is_plain(*tensors: Tensor) -> bool:
    """Whether the kernels can read these tensors: no subclass, and no mode that traces or fakes operators."""
    return torch._C._len_torch_dispatch_stack() == 0 and all(type(t) in (Tensor, nn.Parameter) for t in tensors)


def _calculate(
    raw: Tensor, x: Tensor, pen: Tensor | None, weight: Tensor | None, pen_weight: Tensor | None, call: _Call
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss and the requested gradients."""
    # arrays share the tensors' memory; force=True, because a tensor may require grad or have a lazy negation
    tensors = raw, x, pen, weight, pen_weight
    arrays: Any
    *arrays, weights, own = [None if tensor is None else tensor.numpy(force=True) for tensor in tensors]
    keywords: Any = {
        "sample_weight": weights,
        "pen_weight": own,
        "stddev_floor": call.floor,
        "reduction": call.reduction,
        "workers": min(torch.get_num_threads(), _builds.cpu_count()),
    }
    if not (call.raw_wanted or call.x_wanted):
        loss = _mdn.mdn_loss(*arrays, **keywords)
        return torch.from_numpy(np.asarray(loss)), raw.new_empty(0), raw.new_empty(0)
    if call.x_wanted:
        loss, gradient, x_gradient = _mdn.loss_and_gradients(*arrays, **keywords)
    else:
        loss, gradient = _mdn.mdn_loss_and_gradient(*arrays, **keywords)
        x_gradient = np.empty(0, loss.dtype)
    return torch.from_numpy(np.asarray(loss)), torch.from_numpy(gradient), torch.from_numpy(x_gradient)


# The operators of graphs. They must return new memory, and must not depend on whether a tensor requires grad.


ARGUMENTS = (
    "Tensor raw, Tensor x, Tensor? pen, Tensor? sample_weight, Tensor? pen_weight, str reduction, float[2] floor"
)
CPU: Any = {"mutates_args": (), "device_types": "cpu"}


@torch.library.custom_op("cymdn::mdn_loss", schema=f"({ARGUMENTS}) -> Tensor", **CPU)
def _loss_operator(
    raw: Tensor,
    x: Tensor,
    pen: Tensor | None,
    weight: Tensor | None,
    pen_weight: Tensor | None,
    reduction: Reduction,
    floor: Sequence[float],
) -> Tensor:
    return _calculate(raw, x, pen, weight, pen_weight, _Call(reduction, _pair(floor), False, False))[0]


@torch.library.custom_op(
    "cymdn::mdn_loss_and_gradient",
    schema=f"({ARGUMENTS}, bool x_wanted) -> (Tensor loss, Tensor gradient, Tensor x_gradient)",
    **CPU,
)
def _gradient_operator(
    raw: Tensor,
    x: Tensor,
    pen: Tensor | None,
    weight: Tensor | None,
    pen_weight: Tensor | None,
    reduction: Reduction,
    floor: Sequence[float],
    x_wanted: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _calculate(raw, x, pen, weight, pen_weight, _Call(reduction, _pair(floor), True, x_wanted))


@torch.library.custom_op(
    "cymdn::scale_gradient", schema="(Tensor gradient, Tensor upstream, Tensor loss) -> Tensor", **CPU
)
def _scale_operator(gradient: Tensor, upstream: Tensor, loss: Tensor) -> Tensor:
    # `loss` is not used: it leads a second derivative to this operator, which refuses it
    return _scale(gradient, upstream)


def _pair(numbers: Sequence[float]) -> tuple[float, float]:
    first, second = numbers
    return first, second


def _operate(
    raw: Tensor, x: Tensor, pen: Tensor | None, weight: Tensor | None, pen_weight: Tensor | None, call: _Call
) -> tuple[Tensor, Tensor, Tensor]:
    """Do the same as `_calculate`, with operators that can be traced."""
    arguments = raw, x, pen, weight, pen_weight, call.reduction, call.floor
    if call.raw_wanted or call.x_wanted:
        return _gradient_operator(*arguments, call.x_wanted)
    return _loss_operator(*arguments), raw.new_empty(0), raw.new_empty(0)


# Shapes and dtypes without values


@_loss_operator.register_fake
def _(
    raw: Tensor,
    x: Tensor,
    pen: Tensor | None,
    weight: Tensor | None,
    pen_weight: Tensor | None,
    reduction: Reduction,
    floor: Sequence[float],
) -> Tensor:
    return raw.new_empty(raw.shape[:-1] if reduction == "none" else ())


@_gradient_operator.register_fake
def _(
    raw: Tensor,
    x: Tensor,
    pen: Tensor | None,
    weight: Tensor | None,
    pen_weight: Tensor | None,
    reduction: Reduction,
    floor: Sequence[float],
    x_wanted: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    loss = raw.new_empty(raw.shape[:-1] if reduction == "none" else ())
    return loss, raw.new_empty(raw.shape), raw.new_empty(x.shape if x_wanted else (0,))


@_scale_operator.register_fake
def _(gradient: Tensor, upstream: Tensor, loss: Tensor) -> Tensor:
    return gradient.new_empty(gradient.shape)


# Derivatives


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    loss, *gradients = output
    ctx.save_for_backward(*gradients, loss)
    ctx.mark_non_differentiable(*gradients)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, upstream: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    *gradients, loss = ctx.saved_tensors
    scaled = (
        _scale_operator(gradient, upstream, loss) if need and upstream is not None else None
        for need, gradient in zip(ctx.needs_input_grad[:2], gradients, strict=True)
    )
    return *scaled, *[None] * 6


def _no_derivative(*_: Any) -> None:
    raise NotImplementedError(
        "mdn_loss: this graph has no such derivative. A graph made where gradients were off has none, and one of the "
        "CPU no second ones; call mdn_loss outside torch.compile for these"
    )


_loss_operator.register_autograd(_no_derivative)  # otherwise forward mode would take the derivative as 0
_gradient_operator.register_autograd(_backward, setup_context=_save)
_scale_operator.register_autograd(_no_derivative)


@_loss_operator.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Tensor, int]:
    (loss, *_), _ = _mapped(
        _operate, info, in_dims, *arguments[:5], _Call(arguments[5], _pair(arguments[6]), False, False)
    )
    return loss, 0


@_gradient_operator.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
    return _mapped(
        _operate, info, in_dims, *arguments[:5], _Call(arguments[5], _pair(arguments[6]), True, arguments[7])
    )


class _CompiledLoss(torch.autograd.Function):
    """`_Loss` on devices other than the CPU, for TorchDynamo, which does not support a Function with a jvp."""

    @staticmethod
    def forward(
        ctx: Any,
        raw: Tensor,
        x: Tensor,
        pen: Tensor | None,
        weight: Tensor | None,
        pen_weight: Tensor | None,
        call: _Call,
    ) -> tuple[Tensor, Tensor, Tensor]:
        outputs = _Loss.forward(raw, x, pen, weight, pen_weight, call)
        ctx.save_for_backward(*outputs[1:])
        ctx.mark_non_differentiable(*outputs[1:])
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        scaled = (
            _portable.scale(torch, gradient, upstream) if need else None
            for need, gradient in zip(ctx.needs_input_grad[:2], ctx.saved_tensors, strict=True)
        )
        return *scaled, None, None, None, None
