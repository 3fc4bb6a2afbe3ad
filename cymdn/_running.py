"""Runs kernels: workers, scratch memory, and batches of arguments that broadcast."""

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from operator import index
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cymdn import _builds
from cymdn._arrays import Checked, FloatArray, Shape

# Minimum number of components per worker. Starting the threads takes about 100 us, as long as 10,000 components.
WORKER_COMPONENTS = 20_000

# Minimum number of rows in one call of a kernel; with fewer, arguments are broadcast by copies, for so many components
# at a time.
FEWEST_ROWS = 64
COPIED = 1 << 14

PIECE_COMPONENTS = 1 << 19  # of one call of a kernel, at most

_thread = threading.local()


# Workers


def check_workers(workers: int | None) -> int:
    """Return a number of workers: 1 for None, counted from the number of CPUs if negative, as in scipy.fft."""
    if workers is None:
        return 1
    try:
        number = index(workers)
    except TypeError:
        raise TypeError(f"workers: expected an integer or None, got {type(workers).__name__}") from None
    cpus = _builds.cpu_count()
    if number == 0 or number < -cpus:
        raise ValueError(f"workers: expected a number other than 0 and not below -{cpus}, the CPUs here; got {number}")
    return number if number > 0 else number + 1 + cpus


def workers_for(components: int, workers: int) -> int:
    """Return how many of the workers have enough work."""
    return max(1, min(workers, components // WORKER_COMPONENTS))


def is_worth_sharing(components: int, workers: int | None) -> bool:
    """Whether more than one of the workers would have enough work."""
    return workers is not None and workers_for(components, check_workers(workers)) > 1


def is_one_call(components: int, workers: int | None) -> bool:
    """Whether one worker evaluates this many components in one call; False unless `workers` is an exact int or None."""
    if workers is not None and (type(workers) is not int or is_worth_sharing(components, workers)):
        return False
    return components <= PIECE_COMPONENTS


def split(rows: int, components: int, workers: int, multiple: int = 1) -> list[tuple[int, int]]:
    """Return a slice of rows for each worker, each with enough work and starting at a multiple."""
    parts = workers_for(rows * components, workers)
    bounds = [rows * part // parts // multiple * multiple for part in range(parts)] + [rows]
    return [(start, stop) for start, stop in pairwise(bounds) if start < stop]


# Kernels

Kernel: TypeAlias = Callable[..., bool]
"""A function of (rows, components, arrays, scratch memory, outputs)."""


def check_done(done: bool) -> None:
    """Raise if a kernel rejected its arrays, instead of returning memory that was never written."""
    if not done:  # not assert, which python -O removes
        raise AssertionError("arrays that were checked do not fit each other")


def scratch(components: int) -> NDArray[np.float64]:
    """Return scratch memory for a kernel: that of this thread, or new memory if a mixture needs several blocks."""
    if components > _builds.BLOCK:
        return np.empty(_builds.scratch_size(components))
    try:
        memory: NDArray[np.float64] = _thread.scratch
    except AttributeError:
        memory = _thread.scratch = np.empty(_builds.scratch_size(_builds.BLOCK))
    return memory


def piece_of(components: int, multiple: int = 1) -> int:
    """Return the number of rows that a kernel evaluates in about 10 ms: Python checks for Ctrl-C between calls."""
    return max(1, PIECE_COMPONENTS // components // multiple) * multiple


def run(
    call: Callable[[int, int, NDArray[np.float64]], bool], components: int, parts: Sequence[tuple[int, int]], piece: int
) -> None:
    """Call for pieces of each slice of rows, with scratch memory; several slices in threads, all ended at return.

    If a call raises or Ctrl-C is pressed, each thread ends after its current piece. If the system has no more threads,
    this one does all of the work.
    """
    ended: list[bool] = []

    def work(start: int, stop: int) -> None:
        memory = scratch(components)
        for first in range(start, stop, piece):
            if ended:
                return
            done = call(first, min(first + piece, stop), memory)
            check_done(done)

    if len(parts) > 1:
        futures: list[Future[None]] = []
        with ThreadPoolExecutor(len(parts) - 1) as pool:
            try:
                futures.extend(pool.submit(work, *part) for part in parts[1:])
            except RuntimeError:  # no thread can be started: there are too many, or the interpreter is shutting down
                ended.append(True)
            try:
                if not ended:
                    work(*parts[0])
                    for future in futures:
                        future.result()
                    return
            except BaseException:
                ended.append(True)
                raise
        ended.clear()
    for part in parts:
        work(*part)


def run_over_batch(
    kernel: str | Kernel,
    checked: Checked,
    outputs: Sequence[FloatArray | None],
    workers: int,
    *,
    cost: int = 1,
    **options: float,
) -> None:
    """Run a kernel, or that of this name in the build in use, over arguments whose batch shapes broadcast.

    `cost` is the cost of a component in units of a density's. Options are passed to the kernel. At least one output is
    an array.
    """
    batch_shape, (components,) = checked.batch_shape, checked.sizes.values()
    if 0 in batch_shape or components == 0:
        return
    call = partial(getattr(_builds.kernels, kernel) if isinstance(kernel, str) else kernel, **options)
    shapes = [(1,) * (len(batch_shape) - len(shape)) + shape for shape in checked.batch_shapes]
    arrays = [
        array.reshape(padded + array.shape[len(shape) :])
        for array, shape, padded in zip(checked.arrays, checked.batch_shapes, shapes, strict=True)
    ]
    leading = _leading_axes(shapes, batch_shape)
    copies = math.prod(batch_shape[leading:]) < FEWEST_ROWS
    if copies:
        leading = 0
    rest = batch_shape[leading:]
    for piece in np.ndindex(*batch_shape[:leading]):
        _run_rows(
            call,
            [_rows(array, shape, piece, rest) for array, shape in zip(arrays, shapes, strict=True)],
            [None if output is None else _rows_of_piece(output, piece, len(batch_shape)) for output in outputs],
            components,
            max(1, COPIED // components) if copies else piece_of(components * cost),
            workers,
            cost,
        )


def _leading_axes(shapes: Sequence[Shape], batch_shape: Shape) -> int:
    """Return how many leading axes to iterate over, so that in the other axes each argument has all rows or one."""
    return next(
        axes
        for axes in range(len(batch_shape) + 1)
        if all(shape[axes:] == batch_shape[axes:] or set(shape[axes:]) <= {1} for shape in shapes)
    )


Take = Callable[[int, int], FloatArray]


def _rows_of_piece(array: FloatArray, piece: Shape, axes: int) -> FloatArray:
    """Return the part of an array at these indices of its first axes, with the other batch axes flattened into one."""
    index: Any = (*piece, ...)  # with the ellipsis even a part without axes is a view
    part: FloatArray = array[index]
    return part.reshape(-1, *array.shape[axes:])


def _rows(array: FloatArray, shape: Shape, piece: Shape, batch_shape: Shape) -> Take:
    """Return a function that takes rows of a piece of an array: the single row for all, or a slice."""
    # an axis of length 1 broadcasts
    rows = _rows_of_piece(array, tuple(min(i, size - 1) for i, size in zip(piece, shape, strict=False)), len(shape))
    own = shape[len(piece) :]
    if len(rows) == 1:
        return lambda _start, _stop: rows
    if own == batch_shape:
        return lambda start, stop: rows[start:stop]

    def copy(start: int, stop: int) -> FloatArray:
        index = np.unravel_index(np.arange(start, stop), batch_shape)
        mine = [np.minimum(i, size - 1) for i, size in zip(index, own, strict=True)]
        return rows[np.ravel_multi_index(mine, own)]

    return copy


def _run_rows(
    kernel: Kernel,
    inputs: Sequence[Take],
    outputs: Sequence[FloatArray | None],
    components: int,
    piece: int,
    workers: int,
    cost: int,
) -> None:
    rows = next(len(output) for output in outputs if output is not None)

    def call(start: int, stop: int, memory: NDArray[np.float64]) -> bool:
        arrays = [take(start, stop) for take in inputs]
        written = (None if output is None else output[start:stop] for output in outputs)
        return kernel(stop - start, components, *arrays, memory, *written)

    run(call, components, split(rows, components * cost, workers), piece)
