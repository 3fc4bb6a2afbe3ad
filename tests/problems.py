"""Good calls to spoil, and the same arrays laid out in memory in every way NumPy knows: shared by the test files."""

import numpy as np

FLOATS = (np.float32, np.float64)


def density_problem(n=4, m=3, dtype=np.float64, seed=0):
    """Arguments of a good call of gaussian_density_batch, by name."""
    rng = np.random.default_rng(seed)
    arguments = {
        "x": rng.normal(size=(n, 1, 2)),
        "mean": rng.normal(size=(n, m, 2)),
        "stddev": np.exp(rng.normal(size=(n, m, 2))),
        "correlation": np.tanh(rng.normal(size=(n, m, 1))),
    }
    return {name: array.astype(dtype) for name, array in arguments.items()}


def integer_density_problem(n=4, m=3, dtype=np.int8, seed=0):
    """The same with small integers >= 0, which every dtype holds exactly; correlations are 0 and 1, stddevs 1."""
    rng = np.random.default_rng(seed)
    arguments = {
        "x": rng.integers(0, 2, (n, 1, 2)),
        "mean": rng.integers(0, 2, (n, m, 2)),
        "stddev": np.ones((n, m, 2)),
        "correlation": rng.integers(0, 2, (n, m, 1)),
    }
    return {name: array.astype(dtype) for name, array in arguments.items()}


def density_outputs(result):
    """The four arrays that gaussian_density_batch(..., compute_derivatives=True) returns, by name."""
    density, derivatives = result
    return {"density": density, **derivatives._asdict()}


def assert_same_bits(actual, expected):
    """Assert that two arrays agree in dtype, shape and every bit; all NaNs count as one."""
    np.testing.assert_array_equal(actual, expected, strict=True)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(actual[number]), np.signbit(expected[number]), "signs of zeros")


def assert_same_outputs(actual, expected):
    """Assert the same of all outputs in two dicts of them."""
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert type(actual[name]) is np.ndarray, name
        assert_same_bits(actual[name], array)


def plain(array, dtype=None):
    """Return a contiguous, aligned, native, writeable, fresh copy."""
    array = np.asarray(array)
    return np.array(array, dtype=dtype or array.dtype.newbyteorder("="), order="C", copy=True)


# Layouts: each takes an array to one of the same dtype and values that lies differently in memory.


def contiguous(array):
    return array.copy()


def strided(array):
    """Every other element of every axis of a larger array, whose other elements are 99."""
    larger = np.full([2 * size for size in array.shape], 99, array.dtype)
    view = larger[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def columns_of_a_table(array):
    """The first columns of a wider array: rows are contiguous, the whole is not."""
    wider = np.full((*array.shape[:-1], array.shape[-1] + 3), 99, array.dtype)
    wider[..., : array.shape[-1]] = array
    return wider[..., : array.shape[-1]]


def reversed_rows(array):
    return array[::-1].copy()[::-1]


def reversed_everywhere(array):
    backwards = tuple(slice(None, None, -1) for _ in array.shape)
    return array[backwards].copy()[backwards]


def fortran_ordered(array):
    return np.asfortranarray(array).copy(order="F")


def transposed(array):
    """The middle axis varies slowest."""
    return np.moveaxis(np.moveaxis(array, 1, 0).copy(), 0, 1)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def byte_swapped(array):
    # copies twice, so that the strides of the argument stay as they are
    swapped = array.byteswap()
    return swapped.view(swapped.dtype.newbyteorder())


def _at_byte(offset, array):
    memory = np.zeros(offset + array.nbytes, np.uint8)
    view = np.frombuffer(memory.data, array.dtype, array.size, offset).reshape(array.shape)
    view[...] = array
    return view


def misaligned(array):
    """Starts one byte after an address that suits the dtype."""
    return _at_byte(1, array)


def offset_by_one_element(array):
    """Aligned for its dtype, but for no vector load."""
    return _at_byte(array.itemsize, array)


def field_of_records(array):
    """A field of a packed structured array: strided and misaligned."""
    records = np.zeros(array.shape, [("flag", "i1"), ("value", array.dtype)])
    records["value"] = array
    return records["value"]


class Subclass(np.ndarray):
    """An array that other libraries could have made; arithmetic with it is an error."""

    __array_ufunc__ = None


def subclass(array):
    return array.copy().view(Subclass)


LAYOUTS = (
    contiguous,
    strided,
    columns_of_a_table,
    reversed_rows,
    reversed_everywhere,
    fortran_ordered,
    transposed,
    read_only,
    byte_swapped,
    misaligned,
    offset_by_one_element,
    field_of_records,
    subclass,
)
