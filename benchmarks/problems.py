"""The inputs of all implementations, and the tolerances of their outputs."""

import functools
from typing import NamedTuple

import numpy as np

Size = tuple[int, int, str]  # n (for a grid its side), M, dtype

SEED = 20240601
SURELY_SHARED = 1_000_000  # components, which two workers share in any case

# Of the error that `disagreement` returns. Peers round differently, in a different order. With float32 input they also
# compute in float32, where 1 - tanh(a)^2 loses digits; cymdn computes in float64 and rounds once.
TOLERANCE = {"float64": 1e-10, "float32": 2e-3}
MOMENTS_TOLERANCE = 0.02  # of samples, which are random; eight times the random error of this many:
DRAWS_TO_CHECK = 200_000


class Density(NamedTuple):
    """Arguments of gaussian_density_batch: n points, each with the m components of its row."""

    x: np.ndarray  # (n, 1, 2)
    mean: np.ndarray  # (n, m, 2)
    stddev: np.ndarray  # (n, m, 2)
    correlation: np.ndarray  # (n, m, 1)


class Mdn(NamedTuple):
    """Arguments of mdn_loss_and_gradient: raw network output and the points to be predicted."""

    raw: np.ndarray  # (n, 6 m), with pens (n, 1 + 6 m)
    x: np.ndarray  # (n, 2)
    pen: np.ndarray | None = None  # (n,)


class Grid(NamedTuple):
    """Arguments of mixture_logpdf: a grid of points and one mixture."""

    x: np.ndarray  # (side, side, 2)
    weights: np.ndarray  # (m,)
    mean: np.ndarray  # (m, 2)
    stddev: np.ndarray  # (m, 2)
    correlation: np.ndarray  # (m,)


class Sample(NamedTuple):
    """Raw network output with pens, and the number of samples from each row."""

    raw: np.ndarray  # (n, 1 + 6 m)
    count: int


def density(n: int, m: int, dtype: str) -> Density:
    """Offsets of a few standard deviations, correlations mostly within 0.9."""
    rng = np.random.default_rng(SEED)
    return Density(
        rng.standard_normal((n, 1, 2), dtype),
        rng.standard_normal((n, m, 2), dtype),
        np.exp(0.3 * rng.standard_normal((n, m, 2), dtype)),
        np.tanh(0.7 * rng.standard_normal((n, m, 1), dtype)),
    )


def mdn(n: int, m: int, dtype: str) -> Mdn:
    """Raw output like that of a network early in training: no component dominates or is far away."""
    rng = np.random.default_rng(SEED)
    raw = rng.standard_normal((n, 6 * m), dtype)
    raw *= np.repeat([1.0, 1.0, 1.0, 0.3, 0.3, 0.7], m).astype(dtype)
    return Mdn(raw, rng.standard_normal((n, 2), dtype))


def mdn_with_pen(n: int, m: int, dtype: str) -> Mdn:
    """Return the same with an end-of-stroke logit in the first column; a tenth of the points end a stroke."""
    rng = np.random.default_rng(SEED + 1)
    raw, x, _ = mdn(n, m, dtype)
    logit = rng.standard_normal((n, 1), dtype)
    return Mdn(np.concatenate([logit, raw], axis=1), x, (rng.random(n) < 0.1).astype(dtype))


def grid(side: int, m: int, dtype: str) -> Grid:
    """Points of a square of half width 4, and one mixture."""
    rng = np.random.default_rng(SEED)
    axis = np.linspace(-4.0, 4.0, side)
    return Grid(
        np.stack(np.meshgrid(axis, axis), axis=-1).astype(dtype),
        rng.dirichlet(np.ones(m)).astype(dtype),
        rng.normal(size=(m, 2)).astype(dtype),
        np.exp(0.3 * rng.normal(size=(m, 2))).astype(dtype),
        np.tanh(0.7 * rng.normal(size=m)).astype(dtype),
    )


def sample(n: int, m: int, dtype: str) -> Sample:
    """One sample from each of n rows; n = 1 is a step of autoregressive sampling."""
    return Sample(mdn_with_pen(n, m, dtype).raw, 1)


def draws(count: int, m: int, dtype: str) -> Sample:
    """Many samples of one mixture."""
    return Sample(mdn_with_pen(1, m, dtype).raw, count)


WORKS = {"density": density, "mdn": mdn, "grid": grid, "sample": sample, "draws": draws}
DRAWN = ("sample", "draws")


@functools.lru_cache(maxsize=1)  # large ones take longer to make than to evaluate; peers run one after the other
def make(work: str, size: Size) -> Density | Mdn | Grid | Sample:
    """Return the problem of this kind and size. Peers must not write into it."""
    return WORKS[work](*size)


def for_check(work: str, size: Size) -> Density | Mdn | Grid | Sample:
    """Return the problem on which results are compared: the same one, except for samples."""
    return draws(DRAWS_TO_CHECK, *size[1:]) if work in DRAWN else make(work, size)


def arrays(output) -> list[np.ndarray]:
    """Flatten the results of an implementation (nested tuples of arrays, tensors, scalars) into NumPy arrays."""
    if isinstance(output, tuple):
        return [array for part in output for array in arrays(part)]
    return [] if output is None else [np.asarray(output)]


def nbytes(output) -> int:
    """Bytes of the arrays that a call returned."""
    return sum(array.nbytes for array in arrays(output))


def tolerance(work: str, size: Size) -> float:
    """Return the largest allowed `disagreement`."""
    return MOMENTS_TOLERANCE if work in DRAWN else TOLERANCE[size[2]]


def disagreement(work: str, ours, theirs) -> float:
    """Largest error, relative to the value or to the array's mean magnitude, whichever is larger."""
    if work in DRAWN:
        ours, theirs = _moments(ours), _moments(theirs)
    ours, theirs = arrays(ours), arrays(theirs)
    if len(ours) != len(theirs):
        raise ValueError(f"{len(theirs)} outputs, where cymdn has {len(ours)}")
    return max(map(_disagreement, ours, theirs))


def _moments(output) -> np.ndarray:
    """Mean and standard deviation of each coordinate and of the pen."""
    x, pen = arrays(output)[:2]
    columns = np.column_stack([x.reshape(-1, 2), pen.reshape(-1)]).astype(float)
    return np.concatenate([columns.mean(axis=0), columns.std(axis=0)])


def _disagreement(ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.dtype != theirs.dtype or ours.size != theirs.size:
        raise ValueError(f"output {theirs.dtype} {theirs.shape}, where cymdn has {ours.dtype} {ours.shape}")
    expected = ours.ravel().astype(float)
    error = np.abs(np.subtract(theirs.ravel(), expected))
    magnitude = np.abs(expected, out=expected)
    error /= np.maximum(magnitude, magnitude.mean(), out=magnitude)
    worst = float(error.max())
    return worst if np.isfinite(worst) else float("inf")
