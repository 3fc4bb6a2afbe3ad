"""Runs the kernels: gives them scratch memory and cuts a broadcast problem into pieces that they can do."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cymdn import _kernels as kernels
from cymdn._arrays import Checked, FloatArray


def scratch(components: int) -> FloatArray:
    """Return memory for the kernels' planes: a block of components, or a row of them where that is longer."""
    return np.empty((kernels.PLANES, max(kernels.BLOCK, components)))


def run_points_and_mixtures(kernel: Callable[..., None], checked: Checked, outputs: Sequence[FloatArray]) -> None:
    """Run a kernel that takes points (n, 2) and parameters (n, m, ...), the points first, over any batch shapes."""
    batch_shape = np.broadcast_shapes(*checked.batch_shapes)
    if 0 in batch_shape or checked.sizes["M"] == 0:
        return
    points_shape, *parameter_shapes = checked.batch_shapes
    parameters_shape = np.broadcast_shapes(*parameter_shapes)
    x, *parameters = (
        _with_batch(array, shape, target, len(batch_shape))
        for array, shape, target in zip(
            checked.arrays,
            checked.batch_shapes,
            [points_shape, *(parameters_shape for _ in parameter_shapes)],
            strict=True,
        )
    )
    memory = scratch(checked.sizes["M"])
    padded = [(1,) * (len(batch_shape) - len(shape)) + shape for shape in (points_shape, parameters_shape)]
    for index in _pieces(*padded):
        axes = len(batch_shape) - len(index)
        kernel(
            _rows(x, index, axes),
            *(_rows(parameter, index, axes) for parameter in parameters),
            memory,
            *(_rows(output, index, axes) for output in outputs),
        )


def _with_batch(
    array: FloatArray, shape: tuple[int, ...], target: tuple[int, ...], batch_ndim: int
) -> FloatArray:
    """Return `array` with the batch axes `target`, preceded by ones up to `batch_ndim` of them."""
    core = array.shape[len(shape) :]
    if shape != target:
        array = np.ascontiguousarray(np.broadcast_to(array, target + core))
    return array.reshape((1,) * (batch_ndim - len(target)) + target + core)


def _pieces(points: tuple[int, ...], parameters: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Indices along leading batch axes, each of a piece that one kernel call can do.

    A kernel takes n points against n mixtures, n points against one, or one point against n. Axes that mix these are gone
    through one by one. Both shapes have the same number of axes.
    """
    if points == parameters or set(points) <= {1} or set(parameters) <= {1}:
        yield ()
        return
    for i in range(max(points[0], parameters[0])):
        for rest in _pieces(points[1:], parameters[1:]):
            yield (i, *rest)


def _rows(array: FloatArray, index: tuple[int, ...], axes: int) -> FloatArray:
    """Return a piece with its remaining batch axes flattened into one; an axis of 1 serves every index."""
    # with the ellipsis even a piece without axes is a view
    piece = array[(*(min(i, size - 1) for i, size in zip(index, array.shape, strict=False)), ...)]
    return piece.reshape(-1, *piece.shape[axes:])
