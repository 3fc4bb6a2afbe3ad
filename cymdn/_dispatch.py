"""Picks the kernel build for this CPU, once; runs kernels: scratch memory, workers, pieces of a broadcast problem."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from operator import index
from types import SimpleNamespace
from typing import Any

import numpy as np

from cymdn._arrays import Checked, FloatArray

try:
    from cymdn import _kernels
except ImportError as error:
    raise ImportError(
        "cymdn: the compiled kernels cannot be imported. In the folder of its sources, Python imports these instead of "
        "the installed package: change to another folder."
    ) from error

BLOCK = _kernels.BLOCK
CHUNK = _kernels.CHUNK

LEVELS = ("baseline", "v3", "v4")
FORCE_LEVEL = "CYMDN_CPU_LEVEL"

# Components that a worker must have to do. Starting the threads costs some 100 us, as much as 10,000 components.
WORKER_COMPONENTS = 20_000


# The kernel build


def module_of(level: str) -> str:
    """Return the name of the module that holds the kernels of a level."""
    return "cymdn._kernels" if level == "baseline" else f"cymdn._kernels_{level}"


def why_not(level: str) -> str | None:
    """Return why a level cannot be used here; None if it can."""
    if level == "baseline":
        return None
    offered = _kernels.offered_level()
    if offered < int(level[1:]):
        here = f"x86-64-v{max(offered, 1)}" if offered else "none of the x86-64 levels"
        return f"this CPU and operating system offer {here}, {level} needs x86-64-{level}"
    if find_spec(module_of(level)) is None:
        return f"this wheel has no {level} build"
    return None


def choose(forced: str | None) -> tuple[str, str]:
    """Return the level to use, and why: the one asked for, or else the highest that can be used here."""
    if not forced:
        return [level for level in LEVELS if why_not(level) is None][-1], "the highest that this machine offers"
    if forced not in LEVELS:
        raise ImportError(f"{FORCE_LEVEL}: expected one of {', '.join(LEVELS)}, got {forced!r}")
    reason = why_not(forced)
    if reason:
        raise ImportError(f"{FORCE_LEVEL}: {forced!r} is impossible: {reason}")
    return forced, f"forced by {FORCE_LEVEL}"


def load(level: str) -> dict[str, Any]:
    """Return the kernels of a level by the type code of their arrays, without the cost of choosing at each call."""
    module = import_module(module_of(level))
    names = ("density", "gaussian_logpdf", "mixture_logpdf", "mdn_loss", "packed_components", "packed_mixture")
    return {
        np.dtype(dtype).char: SimpleNamespace(**{name: getattr(module, name)[c_type] for name in names})
        for dtype, c_type in ((np.float32, "float"), (np.float64, "double"))
    }


level, reason = choose(os.environ.get(FORCE_LEVEL))
kernels = load(level)


def show_config() -> None:
    """Print the version, the kernel build in use and why, what the machine offers, and the compiler.

    Examples
    --------
    >>> from cymdn import show_config
    >>> show_config()  # doctest: +SKIP
    cymdn 0.1.0, NumPy 2.4.6
    kernels: v3 (the highest that this machine offers)
      baseline  available
      v3        available
      v4        this CPU and operating system offer x86-64-v3, v4 needs x86-64-v4
    compiler: GCC 12.2.0
    CPUs: 2
    """
    from cymdn import __version__

    print(f"cymdn {__version__}, NumPy {np.__version__}")
    print(f"kernels: {level} ({reason})")
    for name in LEVELS:
        print(f"  {name:9} {why_not(name) or 'available'}")
    print(f"compiler: {_kernels.compiler()}")
    print(f"CPUs: {cpu_count()}")


# Workers


def cpu_count() -> int:
    """Return the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_workers(workers: int | None) -> int:
    """Return a number of workers: 1 for None, counted from the number of CPUs if negative, as in scipy.fft."""
    if workers is None:
        return 1
    try:
        number = index(workers)
    except TypeError:
        raise TypeError(f"workers: expected an integer or None, got {type(workers).__name__}") from None
    cpus = cpu_count()
    if number == 0 or number < -cpus:
        raise ValueError(f"workers: expected a number other than 0 and not below -{cpus}, the CPUs here; got {number}")
    return number if number > 0 else number + 1 + cpus


def workers_for(components: int, workers: int) -> int:
    """Return how many of the workers get enough to do."""
    return max(1, min(workers, components // WORKER_COMPONENTS))


def is_worth_sharing(components: int, workers: int | None) -> bool:
    """Whether more than one of the workers would get enough to do."""
    return workers is not None and workers_for(components, check_workers(workers)) > 1


def split(rows: int, components: int, workers: int, multiple: int = 1) -> list[tuple[int, int]]:
    """Return the slices of rows that workers do, each with enough to do and starting at a multiple."""
    parts = workers_for(rows * components, workers)
    bounds = [rows * part // parts // multiple * multiple for part in range(parts)] + [rows]
    return [(start, stop) for start, stop in pairwise(bounds) if start < stop]


def run(call: Callable[[int, int], None], parts: Sequence[tuple[int, int]]) -> None:
    """Call for each slice of rows, in threads if there are several. No thread outlives it."""
    if len(parts) < 2:
        for part in parts:
            call(*part)
        return
    with ThreadPoolExecutor(len(parts) - 1) as pool:
        futures = [pool.submit(call, *part) for part in parts[1:]]
        call(*parts[0])
        for future in futures:
            future.result()


# Kernels over broadcast batches


def scratch(components: int) -> FloatArray:
    """Return memory for the kernels' planes: a block of components, or a row of them where that is longer."""
    return np.empty((_kernels.PLANES, max(_kernels.BLOCK, components)))


def run_points_and_mixtures(
    name: str, checked: Checked, outputs: Sequence[FloatArray | None], workers: int, **options: bool
) -> None:
    """Run a kernel of points (n, 2) and parameters (n, ...), the points first, over any batch shapes.

    Not all outputs may be None. Options go to the kernel as they are.
    """
    batch_shape = checked.batch_shape
    components = checked.sizes["M"]
    if 0 in batch_shape or components == 0:
        return
    points, *parameters = checked.batch_shapes
    targets = [points, *[np.broadcast_shapes(*parameters)] * len(parameters)]
    arrays = [
        _with_batch(array, shape, target, len(batch_shape))
        for array, shape, target in zip(checked.arrays, checked.batch_shapes, targets, strict=True)
    ]
    kernel = partial(getattr(kernels[checked.dtype.char], name), **options)
    padded = [(1,) * (len(batch_shape) - len(target)) + target for target in targets[:2]]
    for piece in _pieces(*padded):
        axes = len(batch_shape) - len(piece)
        _run_rows(
            kernel,
            [_rows(array, piece, axes) for array in arrays],
            [None if output is None else _rows(output, piece, axes) for output in outputs],
            components,
            workers,
        )


def _run_rows(
    kernel: Callable[..., None],
    inputs: list[FloatArray],
    outputs: list[FloatArray | None],
    components: int,
    workers: int,
) -> None:
    rows = next(len(output) for output in outputs if output is not None)

    def call(start: int, stop: int) -> None:
        # an input of one row serves all
        mine = [array if len(array) < rows else array[start:stop] for array in inputs]
        theirs = [None if output is None else output[start:stop] for output in outputs]
        kernel(*mine, scratch(components), *theirs)

    run(call, split(rows, components, workers))


def _with_batch(array: FloatArray, shape: tuple[int, ...], target: tuple[int, ...], batch_ndim: int) -> FloatArray:
    """Return `array` with the batch axes `target`, preceded by ones up to `batch_ndim` of them."""
    core = array.shape[len(shape) :]
    if shape != target:
        array = np.ascontiguousarray(np.broadcast_to(array, target + core))
    return array.reshape((1,) * (batch_ndim - len(target)) + target + core)


def _pieces(points: tuple[int, ...], parameters: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield indices along leading batch axes, each of a piece that one kernel call can do.

    A kernel takes n points against n mixtures, n points against one, or one point against n. Axes that mix these are
    gone through one by one. Both shapes have the same number of axes.
    """
    if points == parameters or set(points) <= {1} or set(parameters) <= {1}:
        yield ()
        return
    for i in range(max(points[0], parameters[0])):
        for rest in _pieces(points[1:], parameters[1:]):
            yield (i, *rest)


def _rows(array: FloatArray, piece: tuple[int, ...], axes: int) -> FloatArray:
    """Return a piece with its remaining batch axes flattened into one; an axis of 1 serves every index."""
    # with the ellipsis even a piece without axes is a view
    part = array[(*(min(i, size - 1) for i, size in zip(piece, array.shape, strict=False)), ...)]
    return part.reshape(-1, *part.shape[axes:])
