"""The loss and its closed-form derivatives in operations that PyTorch and jax.numpy share: any device, any transform.

The compiled kernels are faster and exact to the last digits, on the CPU in float32 and float64. These functions are for
everything else; `xp` is the module `torch` or `jax.numpy`. The arithmetic is that of the arguments' dtype, float32 or
float64, hence the errors are eps of that dtype. Formulas and symbols are those of docs/formulas.md.

Frameworks must not differentiate the loss of `rows` themselves: where a component has underflowed their derivative is
0 * inf. They use the gradient that `rows` returns, and differentiate that for second derivatives. For these, every
operation is smooth where the loss is: no abs at 0, no maximum but one that is held constant.
"""

import math
from typing import Any

from cymdn._layout import planes

LOG_TWO_PI = math.log(2 * math.pi)

# By the bits of the dtype. exp of `EXPONENT` and its reciprocal are normal numbers; offsets of `FAR` sigma have an
# infinite square, yet a finite multiple
EXPONENT = {32: 87.0, 64: 708.0}
FAR = {32: 1e30, 64: 1e300}


def rows(xp: Any, raw: Any, x: Any, pen: Any = None, derivatives: bool = True) -> tuple[Any, Any, Any]:
    """Return losses (...) of rows, and their gradients with respect to raw (..., P + 6 M) and x (..., 2), or None.

    Shapes are those of `cymdn.mdn_loss`. All arrays have one dtype, float32 or float64.
    """
    info = xp.finfo(raw.dtype)
    largest, exponent, far = float(info.max), EXPONENT[info.bits], FAR[info.bits]
    pens = count_pens(x, pen)
    z, mean0, mean1, log_s0, log_s1, a = planes(raw[..., pens:])

    def bounded(value: Any, bound: float = largest) -> Any:
        return xp.clip(value, -bound, bound)

    # 1 / sigma is the square of `root`: in range for every sigma whose offsets are
    root0, root1 = xp.exp(-0.5 * bounded(log_s0, 2 * exponent)), xp.exp(-0.5 * bounded(log_s1, 2 * exponent))
    u = bounded((x[..., :1] - mean0) * root0 * root0, far)
    v = bounded((x[..., 1:] - mean1) * root1 * root1, far)
    inner_a = bounded(a, exponent)
    growing, falling = xp.exp(inner_a), xp.exp(-inner_a)
    # not cosh, which XLA makes of exp(a - log 2): at 18 that is off by 10 eps
    r, kappa = xp.tanh(a), 0.5 * (growing + falling)
    t = xp.sign(a) * (xp.abs(a) > 0.55)  # r rounded to -1, 0 or 1
    cross = xp.where(t == 0, -kappa * r, xp.where(a > 0, falling, -growing))  # kappa (t - r)
    k0 = bounded(kappa * (u - t * v) + cross * v, far)
    k1 = bounded(kappa * (v - t * u) + cross * u, far)
    log_kappa = xp.log(kappa) + xp.abs(a - inner_a)

    z = z - constant(xp.amax(z, -1, keepdims=True))
    log_scale = xp.clip(z - log_s0 - log_s1 + log_kappa, None, largest)
    s = log_scale - (0.5 * u * u + 0.5 * k1 * k1)
    top = constant(xp.clip(xp.amax(s, -1, keepdims=True), -largest, None))
    power, weight = xp.exp(s - top), xp.exp(z)
    total, weights = xp.sum(power, -1, keepdims=True), xp.sum(weight, -1, keepdims=True)
    loss = LOG_TWO_PI - (top + (xp.log(total) - xp.log(weights)))[..., 0]
    pen_loss, pen_gradient = _pens(xp, raw[..., :pens], pen)
    loss = loss + pen_loss
    if not derivatives:
        return loss, None, None

    live = power != 0
    g = power / xp.where(total == 0, 1.0, total)
    # what has no share is made 0 before it is multiplied, else the derivatives of these would be 0 * inf
    slope0, slope1, d_a = (xp.where(live, bounded(d), 0.0) for d in (kappa * k0, kappa * k1, r + k0 * k1))
    u, v = xp.where(live, u, 0.0), xp.where(live, v, 0.0)
    # this order, for a product of the last three may overflow where all four do not
    part0, part1 = g * slope0 * root0, g * slope1 * root1
    d_mean0, d_mean1 = part0 * root0, part1 * root1
    d_log_s0, d_log_s1 = g * bounded(u * slope0 - 1), g * bounded(v * slope1 - 1)
    gradient = xp.concatenate(
        [*pen_gradient, weight / weights - g, -d_mean0, -d_mean1, -d_log_s0, -d_log_s1, -g * d_a], -1
    )
    x_gradient = xp.stack([_sum_of_products(xp, *pair, largest) for pair in ((part0, root0), (part1, root1))], -1)
    # the gradient of an infinite loss is 0, that of NaN is NaN
    column = constant(loss)[..., None]
    fallback = xp.where(column == math.inf, 0.0, math.nan)
    usual = (column == column) & (column != math.inf)
    return loss, xp.where(usual, gradient, fallback), xp.where(usual, x_gradient, fallback)


def _sum_of_products(xp: Any, one: Any, other: Any, largest: float) -> Any:
    """Return sums over the last axis, right where products overflow and their sum does not."""
    bound = largest * 2.0 ** -one.shape[-1].bit_length()  # of so many numbers no partial sum overflows: no inf - inf
    top = constant(xp.amax(xp.abs(one * other), -1, keepdims=True))
    # what this makes denormal is 0 beside the top one
    scale = xp.where(top < bound, 1.0, 2.0**-64)
    return xp.sum(xp.clip(one * (other * scale), -bound, bound), -1) / scale[..., 0]


def _pens(xp: Any, logits: Any, pen: Any) -> tuple[Any, list[Any]]:
    """Return cross-entropies of pens, and a list of their gradients (..., P)."""
    if pen is None:
        return 0.0, []
    target = xp.where((pen >= 0) & (pen <= 1), pen, math.nan)
    if logits.shape[-1] == 1:
        logit = logits[..., 0]
        size = xp.abs(logit)
        loss = size * xp.where(logit > 0, 1 - target, target) + xp.log1p(xp.exp(-size))
        return loss, [(sigmoid(xp, logit) - pen)[..., None]]
    logits = logits - constant(xp.amax(logits, -1, keepdims=True))
    power = xp.exp(logits)
    total = xp.sum(power, -1, keepdims=True)
    loss = xp.sum(xp.where(pen == 0, 0.0, target * (xp.log(total) - logits)), -1)
    return loss, [power / total * xp.sum(pen, -1, keepdims=True) - pen]


def count_pens(x: Any, pen: Any) -> int:
    """Return the number of pen logits, 0, 1 or 3, that arguments of checked shapes stand for."""
    return 0 if pen is None else 1 if pen.ndim < x.ndim else 3


def row_factors(xp: Any, sample_weight: Any, reduction: str) -> Any:
    """Return what the loss of each row is multiplied by in the reduced one; NaN where a weight is none."""
    weight = xp.where((sample_weight >= 0) & (sample_weight < math.inf), sample_weight, math.nan)
    if reduction == "none":
        return weight
    if reduction == "sum":  # of all rows, if one has no weight
        return xp.where(xp.isnan(weight).any(), math.nan, weight)
    weight = weight / xp.amax(weight)  # without this their sum may overflow
    return weight / xp.sum(weight)


def live_factors(xp: Any, factors: Any, losses: Any) -> Any:
    """Return the factors of the rows' gradients: 0 where the weighted loss is inf."""
    return xp.where(factors * losses == math.inf, 0.0, factors)


def reduce_losses(xp: Any, losses: Any, sample_weight: Any, reduction: str) -> Any:
    """Return the losses of rows reduced. A row of weight 0 is skipped, whatever it is."""
    if sample_weight is None:
        return losses if reduction == "none" else xp.sum(losses) if reduction == "sum" else xp.mean(losses)
    factors = row_factors(xp, sample_weight, reduction)
    weighted = factors * xp.where(factors == 0, 0.0, losses)
    weighted = xp.where(weighted == math.inf, math.inf, weighted)  # which has gradient 0
    return weighted if reduction == "none" else xp.sum(weighted)


def scale(xp: Any, gradient: Any, upstream: Any) -> Any:
    """Return rows (..., k) of a gradient times factors (...): the chain rule."""
    return product(xp, gradient, upstream[..., None])


def product(xp: Any, one: Any, other: Any) -> Any:
    """Return a product in which 0 is 0, whatever the other factor, and which has the derivatives of a product."""
    return xp.where((other == 0) & ~xp.isfinite(one), 0.0, one) * xp.where((one == 0) & ~xp.isfinite(other), 0.0, other)


def constant(array: Any) -> Any:
    """Return an array that the framework does not differentiate."""
    if hasattr(array, "detach"):
        return array.detach()
    from jax import lax

    return lax.stop_gradient(array)


def sigmoid(xp: Any, logit: Any) -> Any:
    """Return 1 / (1 + exp(-logit))."""
    if hasattr(xp, "sigmoid"):
        return xp.sigmoid(logit)
    from jax import nn

    return nn.sigmoid(logit)
