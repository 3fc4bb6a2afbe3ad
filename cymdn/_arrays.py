"""The border between users' arrays and the kernels: converts arrays and checks their shapes.

The result is a C-contiguous, aligned, native array of float32 or float64, whose shape the kernels can rely on.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from numbers import Real
from operator import index
from types import FunctionType
from typing import Any, NamedTuple, ParamSpec, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cymdn import _distribution_kernels

FloatArray: TypeAlias = NDArray[np.floating[Any]]
"""float32 or float64."""

Floor: TypeAlias = float | Sequence[float] | NDArray[Any] | None
"""A floor of the stddevs: a number, or one for each coordinate."""

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

# The trailing axes of an argument: sizes. The first may be a name, which stands for a size that arguments share.
Core: TypeAlias = tuple[int | str, ...]
Shape: TypeAlias = tuple[int, ...]

LARGEST_FLOOR = 1e300  # its inverse is normal
FLOAT64, FLOAT32 = np.dtype(np.float64), np.dtype(np.float32)

_FRAMEWORKS = {"torch": "cymdn.torch", "jax": "cymdn.jax", "jaxlib": "cymdn.jax"}
WITHOUT_ARITHMETIC = ("batch_shape", "dtype", "n_components")  # properties that are read often
MOST_AXES = 32  # of a batch: NumPy's functions that broadcast and index support no more
MOST_NUMBERS = 2**58  # of a result, so that its size in bytes does not overflow


class Checked(NamedTuple):
    """Arguments that fit each other: `arrays` of one dtype, their batch shapes, the broadcast batch shape, sizes."""

    arrays: Sequence[FloatArray]
    dtype: np.dtype[Any]
    batch_shapes: Sequence[tuple[int, ...]]
    batch_shape: tuple[int, ...]
    sizes: dict[str, int]


def in_ieee_arithmetic(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function use IEEE arithmetic, as the kernels do, whatever the mode of the calling thread.

    Otherwise conversions and sums around the kernels would depend on it: JAX's threads flush denormal numbers.
    """

    @wraps(function)
    def call(*arguments: P.args, **keywords: P.kwargs) -> R:
        result: R = _distribution_kernels.call_in_ieee_arithmetic(function, arguments, keywords)
        return result

    return call


def without_underflow(function: Callable[P, R]) -> Callable[P, R]:
    """Do the same, and ignore underflow, even if `numpy.seterr` makes it an error; 2 us, too much for one row."""

    @wraps(function)
    def call(*arguments: P.args, **keywords: P.kwargs) -> R:
        with np.errstate(under="ignore"):
            result: R = _distribution_kernels.call_in_ieee_arithmetic(function, arguments, keywords)
        return result

    return call


def methods_in_ieee_arithmetic(cls: type[T]) -> type[T]:
    """Make the public methods, the properties and the constructors of a class use IEEE arithmetic."""
    for name, value in list(vars(cls).items()):
        if name in WITHOUT_ARITHMETIC or (name.startswith("_") and name not in ("__init__", "__setstate__")):
            continue
        if isinstance(value, property) and value.fget:
            setattr(cls, name, property(without_underflow(value.fget)))
        elif isinstance(value, classmethod):
            setattr(cls, name, classmethod(without_underflow(value.__func__)))
        elif isinstance(value, FunctionType):
            setattr(cls, name, without_underflow(value))
    return cls


def check_arguments(
    cores: Mapping[str, Core], values: Sequence[ArrayLike], *, batch_axis: str | None = None
) -> Checked:
    """Convert array arguments to one float dtype and check their shapes against each other.

    `cores` has the arguments' names and their trailing axes. With `batch_axis`, each argument has exactly one axis
    before these, with this name in messages; otherwise any number of them.
    """
    numeric = check_numeric(list(cores), values)
    shapes = check_shapes(cores, [array.shape for array in numeric], batch_axis=batch_axis)
    arrays = convert(numeric)
    return Checked(arrays, arrays[0].dtype, *shapes)


def check_arguments_of(batch_shape: Shape, cores: Mapping[str, Core], values: Sequence[ArrayLike]) -> Checked:
    """Check array arguments against each other, and against the batch of the mixtures."""
    checked = check_arguments(cores, values)
    try:
        return checked._replace(batch_shape=np.broadcast_shapes(checked.batch_shape, batch_shape))
    except ValueError:
        # at least one argument does not broadcast with the batch
        blamed = next(k for k, own in enumerate(checked.batch_shapes) if not _do_broadcast(own, batch_shape))
    name, shape = list(cores)[blamed], checked.arrays[blamed].shape
    expected = "leading axes that broadcast" if cores[name] else "a shape that broadcasts"
    got = f"shape {shape}" if cores[name] else f"{shape}"
    raise ValueError(f"{name}: expected {expected} with {batch_shape} of the mixtures, got {got}")


def _do_broadcast(*shapes: Shape) -> bool:
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        return False
    return True


def check_numeric(names: Sequence[str], values: Sequence[ArrayLike]) -> Sequence[NDArray[Any]]:
    """Return array arguments as arrays of real numbers; an array is not copied, whatever its dtype and layout."""
    if are_plain(values):
        return values  # type: ignore[return-value]
    return [_as_numeric(name, value) for name, value in zip(names, values, strict=True)]


def convert(numeric: Sequence[NDArray[Any]]) -> Sequence[FloatArray]:
    """Convert arrays to one float dtype. Check shapes before: copies of wrong ones may be huge."""
    if are_plain(numeric):
        return numeric
    dtype = np.result_type(*(array.dtype for array in numeric), np.float32)
    return [_for_kernel(array, dtype) for array in numeric]


def check_shapes(
    cores: Mapping[str, Core], shapes: Sequence[Shape], *, batch_axis: str | None = None
) -> tuple[list[Shape], Shape, dict[str, int]]:
    """Check the shapes of arguments against each other; return their batch shapes, the broadcast one, and sizes."""
    sizes: dict[str, int] = {}
    batch_shapes = [
        _check_shape(name, core, shape, sizes, batch_axis)
        for (name, core), shape in zip(cores.items(), shapes, strict=True)
    ]
    return batch_shapes, _broadcast(cores, batch_shapes, sizes, batch_axis), sizes


def are_plain(values: Sequence[object]) -> bool:
    """Whether these are arrays of one float dtype that the kernels can read without conversion: the common case."""
    dtype = getattr(values[0], "dtype", None)
    if dtype is not FLOAT64 and dtype is not FLOAT32:
        return False
    for value in values:
        if type(value) is not np.ndarray or value.dtype is not dtype:
            return False
        flags = value.flags
        if not (flags.c_contiguous and flags.aligned):
            return False
    return True


def check_numbers(name: str, value: ArrayLike) -> NDArray[Any]:
    """Return an array argument, unconverted, that does not affect the dtype of the result."""
    return _as_numeric(name, value)


@in_ieee_arithmetic
def doubles(array: NDArray[Any]) -> NDArray[np.float64]:
    """Convert to float64 for the kernels."""
    converted: NDArray[np.float64] = _for_kernel(array, FLOAT64)
    return converted


def check_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Check a shape against a given one."""
    if shape != expected:
        raise ValueError(f"{name}: expected shape {expected}, got {shape}")


class Output(NamedTuple):
    """An array to return: the one that the kernel writes to, and the user's array."""

    array: FloatArray
    copy_to: FloatArray | None  # a plain view of the user's array, if that is another one
    own: FloatArray | None


def check_outputs(
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    dtype: np.dtype[Any],
    out: object,
    inputs: Sequence[NDArray[Any]],
) -> list[Output]:
    """Allocate arrays to return, or take them from `out`: an array for one, a tuple, nested or not, for several."""
    if out is None:
        return [Output(np.empty(shape, dtype), None, None) for shape in shapes]
    given = list(_flat(out)) if isinstance(out, tuple) else [out]
    if len(given) != len(names):
        raise ValueError(f"out: expected {len(names)} arrays ({', '.join(names)}), got {len(given)}")
    plain = [_plain_output(name, array) for name, array in zip(names, given, strict=True)]
    return [
        _check_output(name, shape, dtype, array, own, [*inputs, *plain[:k]])
        for k, (name, shape, array, own) in enumerate(zip(names, shapes, plain, given, strict=True))
    ]


def deliver(outputs: Sequence[Output]) -> list[FloatArray]:
    """Return the finished arrays: the user's, if there are any."""
    for array, copy_to, _ in outputs:
        if copy_to is not None:
            copy_to[...] = array
    return [array if own is None else own for array, _, own in outputs]


def check_nonnegative(name: str, value: object) -> float:
    """Return `value` as a float that is finite and >= 0."""
    if type(value) is float and 0.0 <= value < math.inf:
        return value
    # an array without axes counts as a scalar
    number = value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
    if isinstance(number, np.ma.core.MaskedConstant) or not isinstance(number, Real):
        came = repr(number) if isinstance(number, (str, bytes)) else type(value).__name__
        raise TypeError(f"{name}: expected a real number, got {came}")
    try:
        checked = float(number)
    except OverflowError:
        checked = math.inf
    except TypeError:  # NumPy's timedelta64 is registered as an integer
        raise TypeError(f"{name}: expected a real number, got {type(value).__name__}") from None
    if not (math.isfinite(checked) and checked >= 0.0):
        raise ValueError(f"{name}: expected a finite number >= 0, got {number}")
    return checked


def check_floor(value: Floor) -> tuple[float, float]:
    """Return a floor of the stddevs, a number or a pair, as a pair; (0, 0) is none."""
    if value is None:
        return (0.0, 0.0)
    given = value.tolist() if isinstance(value, np.ndarray) else value
    numbers = tuple(given) if isinstance(given, (tuple, list)) else (given, given)
    if len(numbers) != 2:
        raise ValueError(f"stddev_floor: expected a number or a pair of numbers, got {len(numbers)} numbers")
    first, second = (check_nonnegative("stddev_floor", number) for number in numbers)
    if max(first, second) > LARGEST_FLOOR:
        raise ValueError(f"stddev_floor: expected numbers of at most {LARGEST_FLOOR}, got {max(first, second)}")
    return first, second


def check_count(name: str, value: object, least: int, most: int | None = None) -> int:
    """Return `value` as an integer of at least `least`, and at most `most`."""
    try:
        number = index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None
    if number < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {number}")
    if most is not None and number > most:
        raise ValueError(f"{name}: expected an integer of at most {most}, got {number}")
    return number


def check_size(name: str, value: object, batch_shape: Shape = ()) -> Shape:
    """Return the axes given by None, an integer or a tuple of integers, followed by those of the batch."""
    if value is None:
        return batch_shape
    axes = tuple(check_count(name, axis, 0) for axis in (value if isinstance(value, tuple) else (value,)))
    shape = (*axes, *batch_shape)
    # next to an axis of size 0 others may be too large for an array
    if len(shape) > MOST_AXES or math.prod([axis for axis in shape if axis]) > MOST_NUMBERS:
        raise ValueError(
            f"{name}: expected at most {MOST_AXES} axes and 2**58 samples with those of the batch, got {value}"
        )
    return shape


def check_each(
    name: str, array: NDArray[Any], good: NDArray[np.bool_] | np.bool_, expected: str, start: int = 0
) -> None:
    """Raise if a value of an array is not `good`, whose axes are the first ones of the array.

    `start` is the index of the array's first item if it is a part of another array.
    """
    if not good.all():
        first = tuple(int(axis[0]) for axis in np.nonzero(np.atleast_1d(~good)))[: np.ndim(good)]
        place = (first[0] + start, *first[1:]) if start else first
        where = f" at index {place}" if place else ""
        raise ValueError(f"{name}: expected {expected}, got {array[first]}{where}")


def check_flag(name: str, value: object) -> bool:
    """Return bool(value); reject arrays."""
    try:
        return bool(value)
    except ValueError:
        raise TypeError(f"{name}: expected a bool, got {type(value).__name__}") from None


def check_bool(name: str, value: object) -> bool:
    """Return a bool; reject numbers and text."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")
    return bool(value)


def _flat(arrays: tuple[object, ...]) -> Iterator[object]:
    # with a stack, because tuples may be nested to any depth; without the methods of a subclass
    rest: list[object] = [arrays]
    while rest:
        array = rest.pop()
        if isinstance(array, tuple):
            rest.extend(reversed(tuple(tuple.__iter__(array))))
        else:
            yield array


def _plain_output(name: str, array: object) -> NDArray[Any] | None:
    """Return an output as a plain array, without the attributes of a subclass."""
    if array is None:
        return None
    if not issubclass(type(array), np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"out ({name}): expected an array, got {type(array).__name__}")
    return np.asarray(array)


def _check_output(
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    array: NDArray[Any] | None,
    own: Any,
    others: Sequence[NDArray[Any] | None],
) -> Output:
    if array is None:
        return Output(np.empty(shape, dtype), None, None)
    if array.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"out ({name}): expected dtype {dtype}, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"out ({name}): expected shape {shape}, got {array.shape}")
    if not array.flags.writeable:
        raise ValueError(f"out ({name}): expected a writeable array, got a read-only one")
    if array.size and not array.flags.c_contiguous and _overlaps_itself(array):
        raise ValueError(f"out ({name}): expected elements that do not overlap, got strides {array.strides}")
    overlaps = any(other is not None and np.may_share_memory(array, other) for other in others)
    if overlaps or not (array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative):
        return Output(np.empty(shape, dtype), array, own)
    return Output(array, None, own)


def _overlaps_itself(array: NDArray[Any]) -> bool:
    """Whether elements may share memory: the step of an axis is smaller than the span of those with smaller steps."""
    span = array.itemsize
    for step, size in sorted((abs(step), size) for step, size in zip(array.strides, array.shape, strict=True)):
        if size > 1:
            if step < span:
                return True
            span += step * (size - 1)
    return False


def _as_numeric(name: str, value: ArrayLike) -> NDArray[Any]:
    """Return an array of bool, integer or float up to 64 bits, which NumPy converts to float64 implicitly."""
    try:
        masked = _holds_masked(value)
        array = np.asarray(None if masked else value)
    except (TypeError, ValueError, RuntimeError) as error:
        came, module = type(value).__name__, _FRAMEWORKS.get(type(value).__module__.partition(".")[0])
        if module:  # a tensor that requires a gradient, a tracer
            raise TypeError(
                f"{name}: expected an array of numbers, got {came}; convert it to NumPy, or use {module}"
            ) from error
        raise TypeError(f"{name}: expected an array of numbers, got {came} ({error})") from error
    if masked:
        raise TypeError(f"{name}: expected an array of numbers, got a masked array; fill or drop its masked entries")
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError(f"{name}: expected an array of real numbers of at most 64 bits, got dtype {array.dtype}")
    return array


def _holds_masked(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_holds_masked, value))
    return isinstance(value, np.ma.MaskedArray)


def _check_shape(
    name: str, core: Core, shape: tuple[int, ...], sizes: dict[str, int], batch_axis: str | None
) -> tuple[int, ...]:
    """Check the core axes, record the sizes that they define, and return the batch axes before them."""
    batch_ndim = len(shape) - len(core)
    if batch_ndim > MOST_AXES:
        raise ValueError(f"{name}: expected at most {MOST_AXES} batch axes, got shape {shape}")
    if batch_ndim < 0 or (batch_axis and batch_ndim != 1):
        fits = False
    elif core and isinstance(core[0], str):
        tail = shape[batch_ndim:]
        fits = tail[1:] == core[1:] and sizes.setdefault(core[0], tail[0]) == tail[0]
    else:
        fits = shape[batch_ndim:] == core
    if not fits:
        raise ValueError(f"{name}: expected shape {_pattern(core, sizes, batch_axis)}, got {shape}")
    return shape[:batch_ndim]


def _pattern(core: Core, sizes: dict[str, int], batch_axis: str | None) -> str:
    axes = ", ".join([batch_axis or "...", *map(str, core)])
    known = [f"{axis} = {size}" for axis, size in sizes.items() if axis in core or axis == batch_axis]
    return f"({axes})" + (f" with {', '.join(known)}" if known else "")


def _broadcast(
    cores: Mapping[str, Core], batch_shapes: Sequence[tuple[int, ...]], sizes: dict[str, int], batch_axis: str | None
) -> tuple[int, ...]:
    """Broadcast the batch shapes, or name the first argument that does not broadcast with those before it."""
    so_far = batch_shapes[0]
    for (name, core), shape in zip(cores.items(), batch_shapes, strict=True):
        if shape == so_far:
            continue
        try:
            so_far = np.broadcast_shapes(so_far, shape)
        except ValueError:
            got = (*shape, *(sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in core))
            if batch_axis:
                expected = f"shape {_pattern(core, {batch_axis: so_far[0], **sizes}, batch_axis)} (or {batch_axis} = 1)"
            else:
                expected = f"leading axes that broadcast with {so_far} of the arguments before it"
            raise ValueError(f"{name}: expected {expected}, got {got}") from None
    return so_far


def _for_kernel(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    # does not copy an array that fits already; np.ascontiguousarray would accept a misaligned one
    return np.require(array, dtype, ["C_CONTIGUOUS", "ALIGNED"])
