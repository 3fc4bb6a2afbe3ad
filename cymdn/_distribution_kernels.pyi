from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cymdn._arrays import FloatArray

DRAW_PLANES: int
MODE_PLANES: int
FIT_PLANES: int

def draw(
    s: int,
    n: int,
    m: int,
    parameters: FloatArray,
    pens: int,
    unconstrained: bool,
    sharpness: float,
    pen_sharpness: float,
    log_scale: float,
    uniform: NDArray[np.float64],
    normal: NDArray[np.float64],
    scratch: NDArray[np.float64],
    x_out: FloatArray,
    pen_out: FloatArray | None,
    component_out: NDArray[np.int64],
) -> bool: ...
def modes(
    parameters: NDArray[np.float64],
    unconstrained: bool,
    first: int,
    last: int,
    scratch: NDArray[np.float64],
    highest_out: NDArray[np.float64],
    mode_out: NDArray[np.float64],
) -> bool: ...
def expect_moments(
    planes: NDArray[np.float64],
    both: int,
    first: int,
    covariance_type: int,
    settings: NDArray[np.float64],
    estimate: NDArray[np.float64],
    scratch: NDArray[np.float64],
    begin: int,
    end: int,
    sums_out: NDArray[np.float64],
) -> bool: ...
def maximise_moments(
    sums: NDArray[np.float64], covariance_type: int, settings: NDArray[np.float64], estimate: NDArray[np.float64]
) -> bool: ...
def climb(
    planes: NDArray[np.float64],
    both: int,
    first: int,
    covariance_type: int,
    settings: NDArray[np.float64],
    estimate: NDArray[np.float64],
    scratch: NDArray[np.float64],
    steps: int,
    gain: float,
    last: float,
    sums_out: NDArray[np.float64],
) -> bool: ...
def inspect_components(
    planes: NDArray[np.float64],
    both: int,
    first: int,
    covariance_type: int,
    settings: NDArray[np.float64],
    estimate: NDArray[np.float64],
    scratch: NDArray[np.float64],
    worth_out: NDArray[np.float64],
) -> bool: ...
def call_in_ieee_arithmetic(
    function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> Any: ...
def intervals(
    n: int,
    m: int,
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    lines: NDArray[np.float64],
    scratch: NDArray[np.float64],
    out: NDArray[np.float64],
    logarithm: bool,
) -> bool: ...
def quantiles(
    n: int,
    m: int,
    p: NDArray[np.float64],
    lines: NDArray[np.float64],
    scratch: NDArray[np.float64],
    out: NDArray[np.float64],
) -> bool: ...
