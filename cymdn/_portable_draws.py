"""Random samples from raw output, for PyTorch and jax.numpy: all steps except the random numbers.

`xp` is the module `torch` or `jax.numpy`. Formulas and symbols are those of docs/formulas.md, "Samples".
"""

import math
from typing import Any

from cymdn._layout import planes
from cymdn._portable import EXPONENT, constant, sigmoid
from cymdn._sampling import Sharpening


def scores(xp: Any, logits: Any, factor: float, exponential: Any) -> Any:
    """Return numbers whose argmax over the last axis is a sample from softmax(factor logits); NaN if it is undefined.

    exponential: numbers from the standard exponential distribution, of the shape of the result; None for the mode.
    """
    factor = 1.0 if factor == math.inf else _within_range(xp, logits, factor)
    # factors below 1 are applied before the difference, which may overflow, others after it: no 0 * inf, no inf - inf
    logits = constant(logits) * min(factor, 1.0)
    logits = (logits - xp.amax(logits, -1, keepdims=True)) * max(factor, 1.0)
    # argmax of -log(E / weight)
    return (
        logits
        if exponential is None
        else logits - xp.log(xp.clip(exponential, float(xp.finfo(logits.dtype).tiny), None))
    )


def ends(xp: Any, logit: Any, factor: float, uniform: Any) -> Any:
    """Return 1 where a stroke ends and 0 elsewhere, from uniform numbers in [0, 1); NaN if the logit is NaN."""
    logit = constant(logit)
    drawn = logit > 0 if factor == math.inf else uniform > sigmoid(xp, -logit * _within_range(xp, logit, factor))
    return xp.where(xp.isnan(logit), math.nan, drawn * xp.ones_like(logit))


def _within_range(xp: Any, logits: Any, factor: float) -> float:
    """Return the factor, bounded to the normal numbers of the dtype: no 0 * inf."""
    limits = xp.finfo(logits.dtype)
    return min(max(factor, float(limits.tiny)), float(limits.max))


def points(xp: Any, raw: Any, pens: int, component: Any, normal: Any, sharpening: Sharpening, noise: Any = None) -> Any:
    """Return points (..., 2) of the components (...), -1 for none, from standard normal numbers (..., 2).

    noise (..., 2): normal numbers of the floor's standard deviations, or None.
    """
    take = getattr(xp, "take_along_axis", None) or xp.take_along_dim
    index = xp.clip(component, 0, None)[..., None]
    mean0, mean1, log_s0, log_s1, a = (take(plane, index, -1)[..., 0] for plane in planes(raw[..., pens:])[1:])
    x = xp.stack([mean0, mean1], -1)
    if sharpening.log_stddev > -math.inf:
        exponent = EXPONENT[xp.finfo(raw.dtype).bits]
        inner_a = xp.clip(a, -exponent, exponent)
        r, sech = xp.tanh(a), 2.0 / (xp.exp(inner_a) + xp.exp(-inner_a))
        number = xp.stack([normal[..., 0], r * normal[..., 0] + sech * normal[..., 1]], -1)
        # sigma is the square of its root: products with numbers of moderate size do not overflow early, or give 0 * inf
        log_s = xp.stack([log_s0, log_s1], -1) + sharpening.log_stddev
        root = xp.exp(0.5 * xp.clip(log_s, -2 * exponent, 2 * exponent))
        x = x + number * root * root
        x = x if noise is None else x + noise * math.exp(sharpening.log_stddev)
    return xp.where(component[..., None] < 0, math.nan, x)
