"""Parameters of a batch of mixtures, packed for the kernels: natural ones, or those of raw network output."""

import sys
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cymdn import _affine, _portable
from cymdn._affine import LARGEST_EXPONENT
from cymdn._layout import CORRELATION, MEAN, PARAMETERS, STDDEV, WEIGHT, pack, planes
from cymdn._univariate import normalised

Doubles = NDArray[np.float64]

# How far from 1 a sum of weights may be: rounding errors of a softmax in float32, or of numbers with six digits.
SUM_TOLERANCE = 1e-6
SMALLEST_STDDEV = sys.float_info.min  # standard deviations are above it: the kernels divide by them


class Parameters:
    """Base class of both kinds of parameters; results are (..., M), in float64, unless they say otherwise."""

    __slots__ = ("packed",)

    unconstrained: ClassVar[bool]  # for the kernels
    packed: Doubles  # (..., 6 M), read-only

    def __init__(self, packed: Doubles) -> None:
        self.packed = np.ascontiguousarray(packed)
        self.packed.flags.writeable = False

    @property
    def n_components(self) -> int:
        """M."""
        return int(self.packed.shape[-1] // PARAMETERS)

    def rows(self) -> Doubles:
        """Return parameters of the mixtures (n, 6 M), without batch axes."""
        return self.packed.reshape(-1, self.packed.shape[-1])

    def plane(self, k: int) -> Doubles:
        """Return one column of the layout."""
        return planes(self.packed)[k]

    def pairs(self, k: int) -> Doubles:
        """Return two columns as pairs, (..., M, 2)."""
        return np.stack([self.plane(k), self.plane(k + 1)], axis=-1)

    def means(self) -> Doubles:
        """Return means, (..., M, 2)."""
        return self.pairs(MEAN)

    def weights(self) -> Doubles:
        """Return weights."""
        raise NotImplementedError

    def log_weights(self) -> Doubles:
        """Return logarithms of the weights."""
        raise NotImplementedError

    def stddevs(self) -> Doubles:
        """Return standard deviations, (..., M, 2), finite and not denormal."""
        raise NotImplementedError

    def log_stddevs(self) -> Doubles:
        """Return logarithms of the standard deviations, (..., M, 2), whose exp may be 0 or inf."""
        raise NotImplementedError

    def correlations(self) -> Doubles:
        """Return correlations."""
        raise NotImplementedError

    def log_kappa(self) -> Doubles:
        """Return -log(1 - r^2) / 2, which is log cosh a."""
        raise NotImplementedError

    def atanh_correlations(self) -> Doubles:
        """Return inverse hyperbolic tangents of the correlations."""
        raise NotImplementedError

    def as_unconstrained(self) -> "Unconstrained":
        """Return the same mixtures with unconstrained parameters; a weight of 0 has the logit -inf."""
        raise NotImplementedError

    def are_valid(self) -> bool:
        """Whether these are values that a constructor could have made."""
        raise NotImplementedError


class Natural(Parameters):
    """Weights, means, standard deviations and correlations."""

    __slots__ = ()
    unconstrained = False

    def weights(self) -> Doubles:
        return self.plane(WEIGHT)

    def log_weights(self) -> Doubles:
        with np.errstate(divide="ignore"):
            logarithms: Doubles = np.log(self.plane(WEIGHT))
        return logarithms

    def stddevs(self) -> Doubles:
        return self.pairs(STDDEV)

    def log_stddevs(self) -> Doubles:
        logarithms: Doubles = np.log(self.pairs(STDDEV))
        return logarithms

    def correlations(self) -> Doubles:
        return self.plane(CORRELATION)

    def log_kappa(self) -> Doubles:
        r = self.plane(CORRELATION)
        logarithms: Doubles = -0.5 * (np.log1p(-r) + np.log1p(r))
        return logarithms

    def atanh_correlations(self) -> Doubles:
        return np.arctanh(self.plane(CORRELATION))

    def as_unconstrained(self) -> "Unconstrained":
        log_stddevs, batch_shape = self.log_stddevs(), self.packed.shape[:-1]
        columns = [self.log_weights(), *np.moveaxis(self.means(), -1, 0), *np.moveaxis(log_stddevs, -1, 0)]
        return Unconstrained(_of_present(pack(batch_shape, *columns, self.atanh_correlations())))

    @classmethod
    def joined(cls, parts: Sequence[Parameters], shares: Doubles, batch_shape: tuple[int, ...]) -> "Natural":
        """Return the components of all parts, the weights of each part multiplied by its share."""
        return cls(
            _side_by_side(parts, [part.weights() * shares[..., k, None] for k, part in enumerate(parts)], batch_shape)
        )

    def are_valid(self) -> bool:
        w, s, r = self.plane(WEIGHT), self.pairs(STDDEV), self.plane(CORRELATION)
        good = bool(np.isfinite(self.packed).all() and (s > SMALLEST_STDDEV).all() and (abs(r) < 1).all())
        return good and bool((w >= 0).all() and (abs(w.sum(axis=-1) - 1.0) <= SUM_TOLERANCE).all())


class Unconstrained(Parameters):
    """Logits, means, logarithms of standard deviations, inverse hyperbolic tangents of correlations."""

    __slots__ = ()
    unconstrained = True

    def weights(self) -> Doubles:
        return np.exp(self.log_weights())

    def log_weights(self) -> Doubles:
        return normalised(self.plane(WEIGHT))

    def stddevs(self) -> Doubles:
        return np.exp(np.clip(self.pairs(STDDEV), -LARGEST_EXPONENT, LARGEST_EXPONENT))

    def log_stddevs(self) -> Doubles:
        return self.pairs(STDDEV)

    def correlations(self) -> Doubles:
        return np.tanh(self.plane(CORRELATION))

    def log_kappa(self) -> Doubles:
        size = np.abs(self.plane(CORRELATION))
        with np.errstate(over="ignore"):
            logarithms: Doubles = size + np.log1p(np.exp(-2.0 * size)) - np.log(2.0)
        return logarithms

    def atanh_correlations(self) -> Doubles:
        return self.plane(CORRELATION)

    def as_unconstrained(self) -> "Unconstrained":
        return self

    def mapped(self, matrix: Doubles, offset: Doubles, batch_shape: tuple[int, ...]) -> "Unconstrained":
        """Return the mixtures after affine maps (..., 2, 2) and (..., 2) that broadcast with the batch."""
        matrix, offset = matrix[..., None, :, :], offset[..., None, :]
        means = _affine.mapped_means(matrix, offset, self.means())
        spreads = _affine.mapped_spreads(matrix, self.log_stddevs(), self.atanh_correlations())
        limit = sys.float_info.max
        finite = (np.clip(spread, -limit, limit) for spread in spreads)
        packed = pack(batch_shape, self.plane(WEIGHT), *np.moveaxis(means, -1, 0), *finite)
        return Unconstrained(_of_present(packed))

    @classmethod
    def joined(cls, parts: Sequence[Parameters], shares: Doubles, batch_shape: tuple[int, ...]) -> "Unconstrained":
        """Return the components of all parts, the weights of each part multiplied by its share."""
        with np.errstate(divide="ignore"):
            logits = [part.log_weights() + np.log(shares[..., k, None]) for k, part in enumerate(parts)]
        return cls(_of_present(_side_by_side([part.as_unconstrained() for part in parts], logits, batch_shape)))

    def are_valid(self) -> bool:
        # a bias or a temperature can make a logit -inf, but never the largest one
        logits = self.plane(WEIGHT)
        rest = self.packed[..., self.n_components :]
        return bool((logits < np.inf).all() and (logits.max(axis=-1) > -np.inf).all() and np.isfinite(rest).all())


def _of_present(packed: Doubles) -> Doubles:
    """Set the parameters of excluded components to 0, as `from_network_output` does."""
    logits, *rest = planes(packed)
    absent = logits == -np.inf
    if absent.any():
        for plane in rest:
            plane[absent] = 0.0
    return packed


def _side_by_side(parts: Sequence[Parameters], weights: Sequence[Doubles], batch_shape: tuple[int, ...]) -> Doubles:
    """Return the packed parameters of all parts in one array, with these weights instead of theirs."""
    columns = [
        [first, *(part.plane(k) for k in range(1, PARAMETERS))] for part, first in zip(parts, weights, strict=True)
    ]
    return pack(
        batch_shape,
        *(
            np.concatenate([np.broadcast_to(c, (*batch_shape, c.shape[-1])) for c in column], axis=-1)
            for column in zip(*columns, strict=True)
        ),
    )


def floored(log_stddev0: Doubles, log_stddev1: Doubles, a: Doubles, floor: tuple[float, float]) -> tuple[Doubles, ...]:
    """Return log stddevs and atanh correlations of components convolved with N(0, diag(floor^2))."""
    with np.errstate(over="ignore", divide="ignore", under="ignore"):
        component, _ = _portable.floored(np, _portable.components(np, log_stddev0, log_stddev1, a), floor)
        return component.log_s0, component.log_s1, np.arcsinh(component.r * component.kappa)
