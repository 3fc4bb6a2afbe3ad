"""The loss and its closed-form derivatives in operations that PyTorch and jax.numpy share: any device, any transform.

The compiled kernels are faster and exact to the last digits, on the CPU in float32 and float64. These functions are for
everything else; `xp` is the module `torch` or `jax.numpy`. The arithmetic is that of the arguments' dtype, float32 or
float64, so errors are in eps of that dtype. Formulas and symbols are those of docs/formulas.md.

Frameworks must not differentiate the loss of `rows` themselves: where a component has underflowed their derivative is
0 * inf. They use the gradient that `rows` returns, and differentiate that for second derivatives. For these, every
operation is smooth where the loss is: no abs at 0, and no maximum except a constant one.
"""

import math
from typing import Any, NamedTuple

from cymdn._layout import planes

LOG_TWO_PI = math.log(2 * math.pi)

# By the bits of the dtype. exp of `EXPONENT` and its reciprocal are normal numbers; offsets of `FAR` sigma have an
# infinite square, but finite multiples
EXPONENT = {32: 87.0, 64: 708.0}
ROUNDING = 1e-6  # how far a pen may be outside [0, 1]
FAR = {32: 1e30, 64: 1e300}


def rows(
    xp: Any,
    raw: Any,
    x: Any,
    pen: Any = None,
    derivatives: bool = True,
    floor: tuple[float, float] = (0.0, 0.0),
    weights: tuple[Any, Any] | None = None,
) -> tuple[Any, Any, Any]:
    """Return losses (...) of rows, and their gradients with respect to raw (..., P + 6 M) and x (..., 2), or None.

    Shapes are those of `cymdn.mdn_loss`. All arrays have one dtype, float32 or float64. `floor` is that of the stddevs.
    `weights` (...) are those of the points and of the pens, if these differ.
    """
    info = xp.finfo(raw.dtype)
    largest, far = float(info.max), FAR[info.bits]
    pens = count_pens(x, pen)
    z, mean0, mean1, log_s0, log_s1, a = planes(raw[..., pens:])

    def bounded(value: Any, bound: float = largest) -> Any:
        return xp.clip(value, -bound, bound)

    c = components(xp, log_s0, log_s1, a)
    through = None
    if floor != (0.0, 0.0):
        c, through = floored(xp, c, floor)
    u = bounded((x[..., :1] - mean0) * c.inverse0 * c.beyond0, far)
    v = bounded((x[..., 1:] - mean1) * c.inverse1 * c.beyond1, far)
    k0 = bounded(c.kappa * (u - c.t * v) + c.cross * v, far)
    k1 = bounded(c.kappa * (v - c.t * u) + c.cross * u, far)

    z = z - constant(xp.amax(z, -1, keepdims=True))
    log_scale = xp.clip(z - c.log_s0 - c.log_s1 + c.log_kappa, None, largest)
    s = log_scale - (0.5 * u * u + 0.5 * k1 * k1)
    top = constant(xp.clip(xp.amax(s, -1, keepdims=True), -largest, None))
    power, weight = xp.exp(s - top), xp.exp(z)
    total, total_weight = xp.sum(power, -1, keepdims=True), xp.sum(weight, -1, keepdims=True)
    loss = LOG_TWO_PI - (top + (xp.log(total) - xp.log(total_weight)))[..., 0]
    pen_loss, pen_gradient = _pens(xp, raw[..., :pens], pen)
    if weights is None:
        loss = loss + pen_loss
    else:
        terms = [product(xp, *pair) for pair in zip(weights, (loss, pen_loss), strict=True)]
        infinite = (terms[0] == math.inf) | (terms[1] == math.inf)
        # not inf - inf; a NaN propagates
        loss = xp.where(infinite & (loss == loss) & (pen_loss == pen_loss), math.inf, terms[0] + terms[1])
    if not derivatives:
        return loss, None, None

    live = power != 0
    g = power / xp.where(total == 0, 1.0, total)
    # terms without a share are set to 0 before they are multiplied, else their derivatives would be 0 * inf
    slope0, slope1, d_a = (xp.where(live, bounded(d), 0.0) for d in (c.kappa * k0, c.kappa * k1, c.r + k0 * k1))
    u, v = xp.where(live, u, 0.0), xp.where(live, v, 0.0)
    # in this order, because the product of the last three may overflow where that of all four does not
    part0, part1 = g * slope0 * c.beyond0, g * slope1 * c.beyond1
    d_mean0, d_mean1 = part0 * c.inverse0, part1 * c.inverse1
    d_log_s0, d_log_s1, d_a = g * bounded(u * slope0 - 1), g * bounded(v * slope1 - 1), g * d_a
    if through is not None:
        kept0, kept1, turned0, turned1, turned = through
        # one factor after the other: their product may be denormal, which XLA flushes to 0
        d_log_s0 = kept0 * (kept0 * d_log_s0 + kept1 * (turned0 * d_a))
        d_log_s1 = kept1 * (kept1 * d_log_s1 + kept0 * (turned1 * d_a))
        d_a = kept0 * (kept1 * (turned * d_a))
    of_points = [weight / total_weight - g, -d_mean0, -d_mean1, -d_log_s0, -d_log_s1, -d_a]
    pairs = (part0, c.inverse0), (part1, c.inverse1)
    x_gradient = xp.stack([_sum_of_products(xp, *pair, largest) for pair in pairs], -1)
    if weights is not None:
        pen_gradient = [scale(xp, part, weights[1]) for part in pen_gradient]
        of_points, x_gradient = [scale(xp, part, weights[0]) for part in of_points], scale(xp, x_gradient, weights[0])
    gradient = xp.concatenate([*pen_gradient, *of_points], -1)
    # the gradient of an infinite loss is 0, that of NaN is NaN
    column = constant(loss)[..., None]
    fallback = xp.where(column == math.inf, 0.0, math.nan)
    usual = (column == column) & (column != math.inf)
    return loss, xp.where(usual, gradient, fallback), xp.where(usual, x_gradient, fallback)


class Components(NamedTuple):
    """Components, without points. 1 / sigma is `inverse` times `beyond`, which is 1 unless the inverse overflows."""

    log_s0: Any
    log_s1: Any
    inverse0: Any
    inverse1: Any
    beyond0: Any
    beyond1: Any
    r: Any
    t: Any  # r rounded to -1, 0 or 1
    kappa: Any
    cross: Any  # kappa (t - r)
    log_kappa: Any


def components(xp: Any, log_s0: Any, log_s1: Any, a: Any) -> Components:
    """Return the quantities that do not depend on the points."""
    exponent = EXPONENT[xp.finfo(a.dtype).bits]
    within = [xp.clip(log_s, -exponent, exponent) for log_s in (log_s0, log_s1)]
    # one exp: the square of one of half as much would have twice its error
    inverse0, inverse1 = (xp.exp(-inner) for inner in within)
    beyond0, beyond1 = (
        xp.exp(inner - xp.clip(log_s, -2 * exponent, 2 * exponent))
        for inner, log_s in zip(within, (log_s0, log_s1), strict=True)
    )
    inner_a = xp.clip(a, -exponent, exponent)
    growing, falling = xp.exp(inner_a), xp.exp(-inner_a)
    # not cosh, which XLA computes from exp(a - log 2): the error at 18 is 10 eps
    r, kappa = xp.tanh(a), 0.5 * (growing + falling)
    t = xp.sign(a) * (xp.abs(a) > 0.55)
    cross = xp.where(t == 0, -kappa * r, xp.where(a > 0, falling, -growing))
    sizes = inverse0, inverse1, beyond0, beyond1
    return Components(log_s0, log_s1, *sizes, r, t, kappa, cross, xp.log(kappa) + xp.abs(a - inner_a))


class Through(NamedTuple):
    """Factors of the derivatives of floored log stddevs and atanh correlations."""

    kept0: Any
    kept1: Any
    turned0: Any
    turned1: Any
    turned: Any


def floored(xp: Any, c: Components, floor: tuple[float, float]) -> tuple[Components, Through]:
    """Return components convolved with N(0, diag(floor^2)), by the formulas of _bivariate.pxd."""
    info = xp.finfo(c.r.dtype)
    tiny, far = float(info.tiny), float(info.max) ** 0.4

    def of_stddev(f: float, log_s: Any, inverse: Any, beyond_it: Any) -> tuple[Any, ...]:
        ratio = xp.clip(f * inverse * beyond_it, None, 0.25 / tiny)  # has a normal inverse; sigma is negligible there
        # the derivative of the branch not taken is multiplied by 0, so it has to be finite
        near, beyond = xp.where(ratio < far, ratio, 1.0), xp.where(ratio < far, 1.0, ratio)
        kept = xp.where(ratio < far, 1.0 / xp.sqrt(1.0 + near * near), 1.0 / beyond)
        lost = ratio * kept
        small, large = xp.where(ratio < 1.0, kept, 1.0), xp.where(ratio < 1.0, 1.0, lost)
        scale = max(f, tiny)
        log_floored = xp.where(ratio < 1.0, log_s - xp.log(small), math.log(scale) - xp.log(large))
        floored_inverse = xp.where(ratio < 1.0, inverse * small, large / scale)
        return kept, lost * lost, log_floored, floored_inverse, xp.where(ratio < 1.0, beyond_it, 1.0)

    c0, lost0, log_s0, inverse0, beyond0 = of_stddev(floor[0], c.log_s0, c.inverse0, c.beyond0)
    c1, lost1, log_s1, inverse1, beyond1 = of_stddev(floor[1], c.log_s1, c.inverse1, c.beyond1)
    inverse = 1.0 / c.kappa
    product = c0 * c1 * inverse
    q = xp.clip(product * product + (lost0 + lost1 * (c0 * c0)), tiny, None)
    root = xp.sqrt(q)
    r, kappa = c.r * (c0 * c1), 1.0 / root
    t = xp.sign(r) * (xp.abs(r) > 0.5)
    cross = xp.where(t == 0, -kappa * r, t * (root / (1.0 + t * r)))
    wide = log_s0, log_s1, inverse0, inverse1, beyond0, beyond1
    floored = Components(*wide, r, t, kappa, cross, -0.5 * xp.log(q))
    through = Through(c0, c1, lost0 / q * c.r, lost1 / q * c.r, inverse / q * inverse)
    return floored, through


def _sum_of_products(xp: Any, one: Any, other: Any, largest: float) -> Any:
    """Return sums of products over the last axis, correct even if products overflow and their sum does not."""
    bound = largest * 2.0 ** -one.shape[-1].bit_length()  # no partial sum overflows: no inf - inf
    top = constant(xp.amax(xp.abs(one * other), -1, keepdims=True))
    # terms that become denormal are negligible against the largest
    scale = xp.where(top < bound, 1.0, 2.0**-64)
    return xp.sum(xp.clip(one * (other * scale), -bound, bound), -1) / scale[..., 0]


def _pens(xp: Any, logits: Any, pen: Any) -> tuple[Any, list[Any]]:
    """Return cross-entropies of pens, and a list of their gradients (..., P)."""
    if pen is None:
        return 0.0, []
    bound = xp.clip(pen, 0.0, 1.0)
    pen = xp.where(xp.abs(pen - bound) <= ROUNDING, bound, pen)
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
    """Return the number of pen logits, 0, 1 or 3, for arguments of checked shapes."""
    return 0 if pen is None else 1 if pen.ndim < x.ndim else 3


def row_factors(xp: Any, sample_weight: Any, reduction: str) -> Any:
    """Return the factor of each row's loss in the reduced loss; NaN if a weight is invalid."""
    weight = xp.where((sample_weight >= 0) & (sample_weight < math.inf), sample_weight, math.nan)
    if reduction == "none":
        return weight
    if reduction == "sum":  # for all rows, if one has an invalid weight
        return xp.where(xp.isnan(weight).any(), math.nan, weight)
    weight = _over_largest(xp, weight, weight)  # otherwise their sum may overflow
    return weight / xp.sum(weight)


def factors_apart(xp: Any, sample_weight: Any, pen_weight: Any, reduction: str) -> tuple[Any, Any]:
    """Return the factors of the terms of points and of pens; NaN if a weight is invalid."""
    factors, own = row_factors(xp, sample_weight, reduction), row_factors(xp, pen_weight, "none")
    if reduction != "mean":
        return factors, own
    return factors, _over_largest(xp, own, sample_weight) / xp.sum(_over_largest(xp, sample_weight, sample_weight))


def _over_largest(xp: Any, numbers: Any, weight: Any) -> Any:
    """Return numbers over the largest weight. XLA multiplies by its reciprocal, which must not be denormal."""
    largest = xp.amax(weight)
    shrink = xp.where(largest > 1, 0.125, 1.0)
    return numbers * shrink / (largest * shrink)


def live_factors(xp: Any, factors: Any, losses: Any) -> Any:
    """Return the factors of the rows' gradients: 0 where the weighted loss is inf."""
    return xp.where(factors * losses == math.inf, 0.0, factors)


def reduce_losses(xp: Any, losses: Any, sample_weight: Any, reduction: str) -> Any:
    """Return the reduced losses of rows. A row of weight 0 is skipped, even if its loss is inf or NaN."""
    if sample_weight is None:
        return losses if reduction == "none" else xp.sum(losses) if reduction == "sum" else xp.mean(losses)
    factors = row_factors(xp, sample_weight, reduction)
    weighted = factors * xp.where(factors == 0, 0.0, losses)
    weighted = xp.where(weighted == math.inf, math.inf, weighted)  # the constant has gradient 0
    return weighted if reduction == "none" else xp.sum(weighted)


def scale(xp: Any, gradient: Any, upstream: Any) -> Any:
    """Return rows (..., k) of a gradient times factors (...): the chain rule."""
    return product(xp, gradient, upstream[..., None])


def product(xp: Any, one: Any, other: Any) -> Any:
    """Return a product, with its derivatives, that is 0 if a factor is 0, even if the other is inf or NaN."""
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
