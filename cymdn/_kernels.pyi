from typing import Any

import numpy as np
from numpy.typing import NDArray

from cymdn._arrays import FloatArray

BLOCK: int
CHUNK: int

def scratch_size(m: int) -> int: ...
def density(
    n: int,
    m: int,
    x: FloatArray,
    mean: FloatArray,
    stddev: FloatArray,
    correlation: FloatArray,
    scratch: NDArray[np.float64],
    density_out: FloatArray,
    dmean_out: FloatArray | None = None,
    dstddev_out: FloatArray | None = None,
    dcorrelation_out: FloatArray | None = None,
    smooth_eps: float = ...,
) -> bool: ...
def gaussian_logpdf(
    n: int,
    m: int,
    x: FloatArray,
    mean: FloatArray,
    stddev: FloatArray,
    correlation: FloatArray,
    scratch: NDArray[np.float64],
    value_out: FloatArray,
    mean_out: FloatArray | None = None,
    log_stddev_out: FloatArray | None = None,
    atanh_correlation_out: FloatArray | None = None,
    x_out: FloatArray | None = None,
) -> bool: ...
def mixture_logpdf(
    n: int,
    m: int,
    x: FloatArray,
    weights: FloatArray,
    mean: FloatArray,
    stddev: FloatArray,
    correlation: FloatArray,
    scratch: NDArray[np.float64],
    value_out: FloatArray,
    logits_out: FloatArray | None = None,
    mean_out: FloatArray | None = None,
    log_stddev_out: FloatArray | None = None,
    atanh_correlation_out: FloatArray | None = None,
    x_out: FloatArray | None = None,
) -> bool: ...
def packed_components(
    n: int,
    m: int,
    x: FloatArray,
    parameters: NDArray[np.float64],
    scratch: NDArray[np.float64],
    value_out: FloatArray,
    unconstrained: bool,
) -> bool: ...
def packed_mixture(
    n: int,
    m: int,
    x: FloatArray,
    parameters: NDArray[np.float64],
    scratch: NDArray[np.float64],
    value_out: FloatArray | None,
    responsibilities_out: FloatArray | None,
    score_out: FloatArray | None,
    unconstrained: bool,
    density: bool = ...,
) -> bool: ...
def rectangles(
    n: int,
    m: int,
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    packed: NDArray[np.float64],
    scratch: NDArray[np.float64],
    out: NDArray[np.float64],
    unconstrained: bool,
    logarithm: bool,
) -> bool: ...
def mdn_loss(
    n: int,
    m: int,
    raw: FloatArray,
    x: FloatArray,
    pen: NDArray[np.float64] | None,
    sample_weight: NDArray[np.float64] | None,
    pen_weight: NDArray[np.float64] | None,
    scale: float,
    floor0: float,
    floor1: float,
    scratch: NDArray[np.float64],
    loss_out: FloatArray | None,
    sums_out: NDArray[Any] | None,
    gradient_out: FloatArray | None,
    x_gradient_out: FloatArray | None = None,
) -> bool: ...
def apply_elementary(name: str, x: NDArray[np.float64], values_out: NDArray[np.float64]) -> bool: ...
def offered_level() -> int: ...
def fused() -> bool: ...
def compiler() -> str: ...
