"""The layout of raw network output, and of packed parameters: P pen logits, then six columns of M numbers.

The kernels know it too: `packed` in _kernels.pyx and `component` in _draws.pxd.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cymdn._arrays import Core, Shape

# logit (or weight), means 0, means 1, log stddevs (or stddevs) 0, the same 1, atanh correlations (or correlations)
PARAMETERS = 6
WEIGHT, MEAN, STDDEV, CORRELATION = 0, 1, 3, 5

RAW: dict[str, Core] = {"raw": ("P + 6 M",)}


def components_of(raw: Shape, pens: int) -> int:
    """Return M of raw network output with so many pen logits."""
    components, rest = divmod(raw[-1] - pens if raw else 0, PARAMETERS)
    if components < 1 or rest:
        raise ValueError(f"raw: expected shape (..., P + 6 M), P = {pens} pen logits and M >= 1, got {raw}")
    return components


def planes(parameters: NDArray[Any]) -> list[NDArray[Any]]:
    """Return views (..., M) of the six columns of packed parameters (..., 6 M)."""
    m = parameters.shape[-1] // PARAMETERS
    return [parameters[..., k * m : (k + 1) * m] for k in range(PARAMETERS)]


def pack(batch_shape: Shape, *columns: NDArray[Any]) -> NDArray[np.float64]:
    """Return six columns (..., M) that broadcast with the batch as packed parameters."""
    parameters = np.empty((*batch_shape, PARAMETERS * columns[0].shape[-1]))
    for plane, column in zip(planes(parameters), columns, strict=True):
        plane[...] = column
    return parameters
