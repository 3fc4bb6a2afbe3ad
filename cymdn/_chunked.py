"""Fits to more points than fit on one machine: Dask computes sums over chunks where they are stored."""

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from cymdn._arrays import check_arguments
from cymdn._points import Doubles, Model, Summary, Units, check_values, check_weights, ordered, summarise


class Chunk(NamedTuple):
    """Points (n, 2), their weights (n,) or None, and the index of the first one."""

    points: Any
    weight: Any
    start: int


class Chunks(NamedTuple):
    """A Dask array of points, as chunks, with the methods of `_estimation.Memory` and `_points.Points`."""

    chunks: list[Chunk]
    dtype: np.dtype[Any]
    missing: bool
    units: Units | None = None

    def summary(self, key: int) -> Summary:
        """Check all points, and return their statistics."""
        tasks = self.each(_summarise_chunk, self.missing, key)
        while len(tasks) > 1:  # in pairs, where they are stored: the caller gets one sample for any number of chunks
            pairs = zip(tasks[::2], tasks[1::2], strict=False)
            tasks = [_delayed(Summary.merged)(*pair) for pair in pairs] + tasks[len(tasks) // 2 * 2 :]
        summary: Summary = _compute(tasks)[0]
        return summary

    def in_units(self, units: Units) -> "Chunks":
        """Return the chunks with these units, in which they sum moments."""
        return self._replace(units=units)

    def expect(self, model: Model, estimate: Doubles) -> Doubles:
        """Return the sums of the E step, added up in the order of the chunks."""
        sums = _compute(self.each(_expect_chunk, self.units, model._replace(workers=1), estimate))
        return np.asarray(reduce(np.add, sums))

    def each(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return a task for each chunk: the call of a function of the chunk and these arguments."""
        call = _delayed(function)
        return [call(*chunk, *arguments) for chunk in self.chunks]


def _delayed(function: Callable[..., Any]) -> Any:
    import dask

    untyped: Any = dask
    return untyped.delayed(function, pure=False)


def _compute(tasks: list[Any]) -> Any:
    import dask

    untyped: Any = dask
    return untyped.compute(*tasks)


def source(points: Any, sample_weight: Any, missing: bool) -> Chunks:
    """Return the chunks of a Dask array (n, 2), each with its weights."""
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points: expected shape (n, 2) of a Dask array, got {points.shape}")
    if np.isnan(points.shape[0]):
        raise ValueError(
            "points: expected a Dask array of known chunks, got unknown ones; see its compute_chunk_sizes()"
        )
    points = points.rechunk({1: 2})
    blocks = points.to_delayed()[:, 0]
    starts = np.cumsum([0, *points.chunks[0]])
    weights: Any = [None] * len(blocks)
    if sample_weight is not None:
        if np.shape(sample_weight) != (len(points),):
            raise ValueError(f"sample_weight: expected shape ({len(points)},), got {np.shape(sample_weight)}")
        if hasattr(sample_weight, "to_delayed"):
            weights = sample_weight.rechunk((points.chunks[0],)).to_delayed()
        else:
            weights = np.split(np.asarray(sample_weight), starts[1:-1])
    dtype = np.result_type(points.dtype, np.float32)
    return Chunks([Chunk(*chunk) for chunk in zip(blocks, weights, map(int, starts[:-1]), strict=True)], dtype, missing)


def _arrays_of(points: Any, weight: Any) -> tuple[Doubles, Doubles]:
    """Return a chunk in float64, after checks of shapes and dtypes."""
    (array,) = check_arguments({"points": (2,)}, (points,), batch_axis="n").arrays
    given = np.ones(len(array)) if weight is None else check_arguments({"sample_weight": ()}, (weight,)).arrays[0]
    return array.astype(np.float64, copy=False), given.astype(np.float64, copy=False)


def _summarise_chunk(points: Any, weight: Any, start: int, missing: bool, key: int) -> Summary:
    array, weights = _arrays_of(points, weight)
    check_values(array, weights, missing, start)
    check_weights(weights, start)
    return summarise(array, weights, start, key)


def _expect_chunk(points: Any, weight: Any, _: int, units: Units, model: Model, estimate: Doubles) -> Doubles:
    ready = ordered(*_arrays_of(points, weight), units)
    return ready.expect(model, estimate) if ready.planes.size else np.zeros(len(estimate) + 1)
