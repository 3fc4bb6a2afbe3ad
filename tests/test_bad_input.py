"""Every kind of bad input is refused with the right exception and a message that says what is wrong.

One table. A row is a good call, a function that spoils its arguments, the exception, and a pattern for the message: it
begins with the name of the argument, says what was expected, and ends in what came (a shape, a dtype or a value).
No refused call may have modified an argument.

To add a public function: give it a good call in GOOD_CALLS, its array arguments in ARRAYS (the rows of NOT_NUMBERS then
come by themselves), and rows of its own made with `wrong_shape` and `row`.
"""

import collections
import decimal
import fractions
import re
from types import SimpleNamespace

import numpy as np
import pytest
from problems import density_problem
from scipy import sparse

import cymdn


def loss_problem():
    """Arguments of a good call of mdn_loss with two batch axes, three pen states and two components, by name."""
    rng = np.random.default_rng(0)
    return {
        "raw": rng.normal(size=(4, 3, 3 + 6 * 2)),
        "x": rng.normal(size=(4, 3, 2)),
        "pen": np.eye(3)[rng.integers(0, 3, size=(4, 3))],
        "sample_weight": rng.exponential(size=(4, 3)),
    }


GOOD_CALLS = {"gaussian_density_batch": density_problem, "mdn_loss": loss_problem}  # n = 4, m = 3, float64
ARRAYS = {"gaussian_density_batch": ("x", "mean", "stddev", "correlation"), "mdn_loss": ("raw", "x")}


# Functions that spoil the arguments of a good call, a dict that is changed in place


def value(name, bad):
    """Give the argument another value, whatever the good one is."""

    def spoil(arguments):
        arguments[name] = bad

    return spoil


def made(name, change):
    """Give the argument a value made of the good one."""

    def spoil(arguments):
        arguments[name] = change(arguments[name])

    return spoil


def shapes(**wanted):
    """Give the arguments arrays of ones of these shapes."""

    def spoil(arguments):
        arguments.update({name: np.ones(shape) for name, shape in wanted.items()})

    return spoil


def without(*names):
    def spoil(arguments):
        for name in names:
            del arguments[name]

    return spoil


def positional(*more):
    """Pass the good arguments by position, and these after them."""

    def spoil(arguments):
        good = tuple(arguments.values())
        arguments.clear()
        arguments["*"] = (*good, *more)

    return spoil


def both(first, second):
    def spoil(arguments):
        first(arguments)
        second(arguments)

    return spoil


def call(function, arguments):
    """Call with keywords; those under "*" go by position."""
    keywords = dict(arguments)
    return getattr(cymdn, function)(*keywords.pop("*", ()), **keywords)


# Rows


def row(function, what, spoil, exception, pattern, marks=()):
    return pytest.param(function, spoil, exception, pattern, id=f"{function}: {what}", marks=marks)


def wrong_shape(function, what, argument, expected, **wanted):
    """Row with arrays of the wanted shapes: `argument` is to blame, `expected` is what the message says of it."""
    came = wanted.get(argument, GOOD_CALLS[function]()[argument].shape)
    pattern = f"^{argument}: expected {expected}, got {re.escape(str(came))}$"
    return row(function, what, shapes(**wanted), ValueError, pattern)


class Refuses:
    """Has __array__, which raises: as a PyTorch tensor does that requires grad (RuntimeError)."""

    def __init__(self, error):
        self.error = error

    def __array__(self, dtype=None, copy=None):
        raise self.error


class Lies:
    """Has __array__, which does not return an array."""

    def __array__(self, dtype=None, copy=None):
        return "no array"


class SparseLike:
    """Has a shape and a dtype and arithmetic, as sparse matrices do, but no __array__."""

    shape, ndim, dtype = (4, 1, 2), 3, np.dtype(float)

    def __add__(self, other):
        return self


def with_last(array, item):
    """Return the array as nested lists, in which the last number is something else."""
    rows = array.tolist()
    rows[-1][-1][-1] = item
    return rows


def masked(array, mask):
    return np.ma.masked_array(array, np.full(array.shape, mask))


# What is no array of real numbers: how to make it of a good argument, and what the message says came.
NOT_NUMBERS = {
    "None": (lambda good: None, "(None|dtype object)"),
    "str": (lambda good: "1.0", r"(str|dtype [<>]U3)"),
    "bytes": (lambda good: b"1.0", r"(bytes|dtype \|S3)"),
    "Ellipsis": (lambda good: ..., "(ellipsis|dtype object)"),
    "object": (lambda good: object(), "dtype object"),
    "function": (lambda good: len, "dtype object"),
    "class": (lambda good: float, "dtype object"),
    "module": (lambda good: np, "dtype object"),
    "dict": (lambda good: {"values": good}, "(dict|dtype object)"),
    "set": (lambda good: {1.0, 2.0}, "(set|dtype object)"),
    "generator": (lambda good: (row for row in good), "(generator|dtype object)"),
    "map": (lambda good: map(list, good), "(map|dtype object)"),
    "dict view": (lambda good: collections.OrderedDict(a=good).values(), "(odict_values|dtype object)"),
    "namespace": (lambda good: SimpleNamespace(shape=good.shape), "(SimpleNamespace|dtype object)"),
    "sparse matrix": (lambda good: sparse.csr_array(good[:, 0]), "(csr_array|dtype object)"),
    "sparse-like object": (lambda good: SparseLike(), "(SparseLike|dtype object)"),
    "__array__ that raises RuntimeError": (lambda good: Refuses(RuntimeError("use detach")), "Refuses .*use detach"),
    "__array__ that raises TypeError": (lambda good: Refuses(TypeError("use get")), "Refuses .*use get"),
    "__array__ that raises ValueError": (lambda good: Refuses(ValueError("no")), "Refuses .*no"),
    "__array__ that returns no array": (lambda good: Lies(), "Lies"),
    "object array of floats": (lambda good: good.astype(object), "dtype object"),
    "object array of None": (lambda good: np.full(good.shape, None), "dtype object"),
    "complex128": (lambda good: good.astype(np.complex128), "dtype complex128"),
    "complex64": (lambda good: good.astype(np.complex64), "dtype complex64"),
    "list with a complex": (lambda good: with_last(good, 1j), "dtype complex128"),
    "datetime64": (lambda good: good.astype("M8[s]"), r"dtype datetime64\[s\]"),
    "timedelta64": (lambda good: good.astype("m8[s]"), r"dtype timedelta64\[s\]"),
    "structured": (lambda good: good.astype([("a", float)]), r"dtype \[\('a', '[<>]f8'\)\]"),
    "records": (lambda good: good.astype([("a", float)]).view(np.recarray), r"dtype \(numpy.record, .*\)"),
    "void": (lambda good: good.view("V8"), r"dtype \|V8"),
    "array of str": (lambda good: good.astype(str), "dtype [<>]U"),
    "array of bytes": (lambda good: good.astype("S"), r"dtype \|S"),
    "StringDType": (lambda good: good.astype(np.dtypes.StringDType()), r"dtype StringDType\(\)"),
    "masked array": (lambda good: masked(good, True), "a masked array"),
    "masked array without a masked entry": (lambda good: masked(good, False), "a masked array"),
    "the masked constant": (lambda good: np.ma.masked, "a masked array"),
    "list of masked arrays": (lambda good: [masked(matrix, True) for matrix in good], "a masked"),
    "list with the masked constant": (lambda good: with_last(good, np.ma.masked), "a masked"),
    "list with None": (lambda good: with_last(good, None), "dtype object"),
    "list with a str": (lambda good: with_last(good, "1.0"), "dtype [<>]U"),
    "list with an int above uint64": (lambda good: with_last(good.astype(int), 2**64), "dtype object"),
    "list with an int above float64": (lambda good: with_last(good, 10**400), "dtype object"),
    "list with a Decimal": (lambda good: with_last(good, decimal.Decimal(1)), "dtype object"),
    "list with a Fraction": (lambda good: with_last(good, fractions.Fraction(1)), "dtype object"),
    "ragged list": (lambda good: with_last(good, [1.0, 2.0]), r"list \(.*inhomogeneous"),
    "ragged rows": (lambda good: [good[0].tolist(), [[1.0]]], r"list \(.*inhomogeneous"),
    "list of arrays of different sizes": (lambda good: [np.ones(2), np.ones(3)], r"list \(.*inhomogeneous"),
}


def rows_of_not_numbers(function):
    """Rows in which one array argument is no array of real numbers."""
    for argument in ARRAYS[function]:
        for what, (change, came) in NOT_NUMBERS.items():
            pattern = rf"(?s)^{argument}: expected an array of (real )?numbers.*, got {came}"
            yield row(function, f"{argument} is {what}", made(argument, change), TypeError, pattern)
        yield row(
            function,
            f"{argument} is longdouble",
            made(argument, lambda good: good.astype(np.longdouble)),
            TypeError,
            rf"^{argument}: expected an array of real numbers of at most 64 bits, got dtype {np.dtype(np.longdouble)}$",
            marks=pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="longdouble is float64 here"),
        )


X, PAIR, SINGLE = r"shape \(n, 1, 2\)", r"shape \(n, m, 2\)", r"shape \(n, m, 1\)"  # as in the documentation
OF_4 = r"with n = 4, m = 3 \(or n = 1\)"  # when all has been seen that fixes a size


def density_shape(what, argument, expected, **wanted):
    return wrong_shape("gaussian_density_batch", what, argument, expected, **wanted)


DENSITY_SHAPES = [
    # wrong number of axes
    density_shape("x is 0-d", "x", X, x=()),
    density_shape("x is 1-d", "x", X, x=(2,)),
    density_shape("x without the axis of 1", "x", X, x=(4, 2)),
    density_shape("x is 4-d", "x", X, x=(1, 4, 1, 2)),
    density_shape("mean is 0-d", "mean", PAIR, mean=()),
    density_shape("mean is 1-d", "mean", PAIR, mean=(2,)),
    density_shape("mean of one row without its axis", "mean", PAIR, mean=(3, 2)),
    density_shape("mean is 4-d", "mean", PAIR, mean=(4, 3, 2, 1)),
    density_shape("stddev is 0-d", "stddev", f"{PAIR} with m = 3", stddev=()),
    density_shape("stddev is 1-d", "stddev", f"{PAIR} with m = 3", stddev=(2,)),
    density_shape("stddev without the last axis", "stddev", f"{PAIR} with m = 3", stddev=(4, 3)),
    density_shape("stddev is 4-d", "stddev", f"{PAIR} with m = 3", stddev=(4, 3, 2, 1)),
    density_shape("correlation is 0-d", "correlation", f"{SINGLE} with m = 3", correlation=()),
    density_shape("correlation is 1-d", "correlation", f"{SINGLE} with m = 3", correlation=(3,)),
    density_shape("correlation without the axis of 1", "correlation", f"{SINGLE} with m = 3", correlation=(4, 3)),
    density_shape("correlation is 4-d", "correlation", f"{SINGLE} with m = 3", correlation=(4, 3, 1, 1)),
    # wrong size of the last axis
    density_shape("x has one coordinate", "x", X, x=(4, 1, 1)),
    density_shape("x has three coordinates", "x", X, x=(4, 1, 3)),
    density_shape("x has no coordinates", "x", X, x=(4, 1, 0)),
    density_shape("mean has one coordinate", "mean", PAIR, mean=(4, 3, 1)),
    density_shape("mean has three coordinates", "mean", PAIR, mean=(4, 3, 3)),
    density_shape("mean has coordinates before components", "mean", PAIR, mean=(4, 2, 3)),
    density_shape("stddev has one coordinate", "stddev", f"{PAIR} with m = 3", stddev=(4, 3, 1)),
    density_shape("stddev has three coordinates", "stddev", f"{PAIR} with m = 3", stddev=(4, 3, 3)),
    density_shape("stddev has coordinates before components", "stddev", f"{PAIR} with m = 3", stddev=(4, 2, 3)),
    density_shape("correlation of two numbers", "correlation", f"{SINGLE} with m = 3", correlation=(4, 3, 2)),
    density_shape("correlation of no numbers", "correlation", f"{SINGLE} with m = 3", correlation=(4, 3, 0)),
    density_shape("correlation with its axes swapped", "correlation", f"{SINGLE} with m = 3", correlation=(4, 1, 3)),
    # wrong size of the middle axis
    density_shape("x has a point for each component", "x", X, x=(4, 3, 2)),
    density_shape("x has no points", "x", X, x=(4, 0, 2)),
    density_shape("x has its axes of 4 and 1 swapped", "x", X, x=(1, 4, 2)),
    density_shape("mean of fewer components", "stddev", f"{PAIR} with m = 2", mean=(4, 2, 2)),
    density_shape("mean of one component does not broadcast", "stddev", f"{PAIR} with m = 1", mean=(4, 1, 2)),
    density_shape("mean of no components", "stddev", f"{PAIR} with m = 0", mean=(4, 0, 2)),
    density_shape("stddev of fewer components", "stddev", f"{PAIR} with m = 3", stddev=(4, 2, 2)),
    density_shape("stddev of more components", "stddev", f"{PAIR} with m = 3", stddev=(4, 4, 2)),
    density_shape("stddev of one component does not broadcast", "stddev", f"{PAIR} with m = 3", stddev=(4, 1, 2)),
    density_shape("stddev of no components", "stddev", f"{PAIR} with m = 3", stddev=(4, 0, 2)),
    density_shape("correlation of fewer components", "correlation", f"{SINGLE} with m = 3", correlation=(4, 2, 1)),
    density_shape("correlation of more components", "correlation", f"{SINGLE} with m = 3", correlation=(4, 4, 1)),
    density_shape("correlation of one component", "correlation", f"{SINGLE} with m = 3", correlation=(4, 1, 1)),
    density_shape("correlation of no components", "correlation", f"{SINGLE} with m = 3", correlation=(4, 0, 1)),
    # wrong size of the first axis: neither 1 nor that of the arguments before
    density_shape("x of fewer rows", "mean", f"{PAIR} with n = 3.*", x=(3, 1, 2)),
    density_shape("x of no rows", "mean", f"{PAIR} with n = 0.*", x=(0, 1, 2)),
    density_shape("mean of fewer rows", "mean", f"{PAIR} {OF_4}", mean=(3, 3, 2)),
    density_shape("mean of more rows", "mean", f"{PAIR} {OF_4}", mean=(8, 3, 2)),
    density_shape("mean of no rows", "mean", f"{PAIR} {OF_4}", mean=(0, 3, 2)),
    density_shape("stddev of fewer rows", "stddev", f"{PAIR} {OF_4}", stddev=(2, 3, 2)),
    density_shape("stddev of no rows", "stddev", f"{PAIR} {OF_4}", stddev=(0, 3, 2)),
    density_shape("correlation of fewer rows", "correlation", f"{SINGLE} {OF_4}", correlation=(3, 3, 1)),
    density_shape("correlation of no rows", "correlation", f"{SINGLE} {OF_4}", correlation=(0, 3, 1)),
    density_shape("one x, rows differ", "stddev", f"{PAIR} {OF_4}", x=(1, 1, 2), stddev=(2, 3, 2)),
    density_shape(
        "one x and mean", "correlation", f"{SINGLE} {OF_4}", x=(1, 1, 2), mean=(1, 3, 2), correlation=(3, 3, 1)
    ),
    # shapes are checked where there is nothing to compute too
    density_shape(
        "no rows",
        "correlation",
        f"{SINGLE} with m = 3",
        x=(0, 1, 2),
        mean=(0, 3, 2),
        stddev=(0, 3, 2),
        correlation=(0, 2, 1),
    ),
    density_shape("no components", "x", X, x=(4, 2), mean=(4, 0, 2), stddev=(4, 0, 2), correlation=(4, 0, 1)),
]

DENSITY_LISTS = [
    # what is not an array has a shape too
    row("gaussian_density_batch", "x is an empty list", value("x", []), ValueError, rf"^x: expected {X}, got \(0,\)$"),
    row("gaussian_density_batch", "x is a number", value("x", 1.5), ValueError, rf"^x: expected {X}, got \(\)$"),
    row("gaussian_density_batch", "x is a bool", value("x", True), ValueError, rf"^x: expected {X}, got \(\)$"),
    row("gaussian_density_batch", "x is a pair", value("x", (0.5, 1)), ValueError, rf"^x: expected {X}, got \(2,\)$"),
    row("gaussian_density_batch", "x is a range", value("x", range(4)), ValueError, rf"^x: expected {X}, got \(4,\)$"),
    row(
        "gaussian_density_batch",
        "x is a bytearray",
        value("x", bytearray(8)),
        ValueError,
        rf"^x: expected {X}, got \(8,\)$",
    ),
]


EMPTY = shapes(x=(0, 1, 2), mean=(0, 3, 2), stddev=(0, 3, 2), correlation=(0, 3, 1))


def eps_row(what, bad, exception, came):
    pattern = rf"^smooth_eps: expected a (real|finite) number.*, got {came}"
    return row("gaussian_density_batch", f"smooth_eps is {what}", value("smooth_eps", bad), exception, pattern)


DENSITY_SMOOTH_EPS = [
    eps_row("negative", -1e-10, ValueError, "-1e-10$"),
    eps_row("the smallest negative number", -5e-324, ValueError, "-5e-324$"),
    eps_row("a negative int", -1, ValueError, "-1"),
    eps_row("NaN", np.nan, ValueError, "nan$"),
    eps_row("NaN in float32", np.float32("nan"), ValueError, "nan$"),
    eps_row("inf", np.inf, ValueError, "inf$"),
    eps_row("-inf", -np.inf, ValueError, "-inf$"),
    eps_row("an int above float64", 10**400, ValueError, ""),
    eps_row("None", None, TypeError, "None"),
    eps_row("str", "small", TypeError, "'small'$"),
    eps_row("str of a number", "1e-10", TypeError, "'1e-10'$"),
    eps_row("array of a str", np.array("1e-10"), TypeError, ""),
    eps_row("bytes", b"1e-10", TypeError, "b'1e-10'$"),
    eps_row("bytearray", bytearray(b"1e-10"), TypeError, "bytearray"),
    eps_row("memoryview", memoryview(b"1e-10"), TypeError, "memoryview"),
    eps_row("array of one axis", np.full(1, 1e-10), TypeError, "ndarray"),
    eps_row("array of three axes", np.full((4, 3, 1), 1e-10), TypeError, "ndarray"),
    eps_row("list", [1e-10], TypeError, "list"),
    eps_row("dict", {"eps": 1e-10}, TypeError, "dict"),
    eps_row("complex", 1e-10 + 0j, TypeError, "complex"),
    eps_row("NumPy's complex128", np.complex128(1e-10), TypeError, "complex128"),
    eps_row("NumPy's complex64", np.complex64(1e-10), TypeError, "complex64"),
    eps_row("datetime64", np.datetime64("2020-02-20"), TypeError, "datetime64"),
    eps_row("timedelta64", np.timedelta64(1, "s"), TypeError, "timedelta64"),
    eps_row("the masked constant", np.ma.masked, TypeError, "(MaskedConstant|a masked)"),
    eps_row("object", object(), TypeError, "object"),
    row(
        "gaussian_density_batch",
        "smooth_eps is bad and there is nothing to compute",
        both(EMPTY, value("smooth_eps", -1.0)),
        ValueError,
        "^smooth_eps: expected a finite number >= 0, got -1.0$",
    ),
]


def workers_row(what, bad, exception, came, before=None):
    spoil = value("workers", bad) if before is None else both(before, value("workers", bad))
    pattern = rf"^workers: expected .*got {came}$"
    return row("gaussian_density_batch", f"workers is {what}", spoil, exception, pattern)


DENSITY_WORKERS = [
    workers_row("0", 0, ValueError, "0"),
    workers_row("far below 0", -(10**6), ValueError, "-1000000"),
    workers_row("a float", 2.0, TypeError, "float"),
    workers_row("NaN", np.nan, TypeError, "float"),
    workers_row("str", "2", TypeError, "str"),
    workers_row("an array", np.ones(2, int), TypeError, "ndarray"),
    workers_row("0 and there is nothing to compute", 0, ValueError, "0", before=EMPTY),
    workers_row("str and there is nothing to compute", "2", TypeError, "str", before=EMPTY),
]

DENSITY_SIGNATURE = [
    # Python's own messages name the arguments; for too many they count them
    row("gaussian_density_batch", "no x", without("x"), TypeError, "missing.*'x'"),
    row("gaussian_density_batch", "no mean", without("mean"), TypeError, "missing.*'mean'"),
    row("gaussian_density_batch", "no stddev", without("stddev"), TypeError, "missing.*'stddev'"),
    row("gaussian_density_batch", "no correlation", without("correlation"), TypeError, "missing.*'correlation'"),
    row(
        "gaussian_density_batch",
        "nothing",
        without("x", "mean", "stddev", "correlation"),
        TypeError,
        "missing 4.*'x', 'mean', 'stddev', and 'correlation'",
    ),
    row("gaussian_density_batch", "smooth_eps by position", positional(True, 1e-10), TypeError, "4 to 5.*6 were given"),
    row("gaussian_density_batch", "unknown keyword", value("weights", 1.0), TypeError, "unexpected.*'weights'"),
    row("gaussian_density_batch", "out", value("out", np.ones((4, 3, 1))), TypeError, "unexpected.*'out'"),
    row("gaussian_density_batch", "x twice", both(positional(), value("x", 1.0)), TypeError, "multiple.*'x'"),
    # the weights of a mixture, say, passed by position as a fifth array
    row(
        "gaussian_density_batch",
        "compute_derivatives is an array",
        positional(np.ones((4, 3, 1))),
        (TypeError, ValueError),
        "^compute_derivatives: expected a bool, got ndarray$",
    ),
]


def loss_row(what, spoil, exception, pattern):
    return row("mdn_loss", what, spoil, exception, f"^{pattern}$")


def loss_shape(what, argument, expected, **wanted):
    return wrong_shape("mdn_loss", what, argument, expected, **wanted)


def weight_row(bad):
    def change(good):
        good = good.copy()
        good[0, 0], good[2, 1] = 0.0, bad
        return good

    pattern = rf"sample_weight: expected finite numbers >= 0, got {bad} at index \(2, 1\)"
    return loss_row(f"a sample_weight of {bad}", made("sample_weight", change), ValueError, pattern)


RAW = r"shape \(\.\.\., P \+ 6 M\)"
NO_MEAN = r'reduction: the "mean" {} is undefined; use "sum" or "none"'

LOSS = [
    loss_shape("raw is 0-d", "raw", RAW, raw=()),
    loss_shape("raw of pen logits alone", "raw", f"{RAW}, P = 3 pen logits with this pen and M >= 1", raw=(4, 3, 3)),
    loss_shape("raw of half a component", "raw", f"{RAW}, P = 3 .*", raw=(4, 3, 12)),
    loss_shape("x is 0-d", "x", r"shape \(\.\.\., 2\)", x=()),
    loss_shape("x has three coordinates", "x", r"shape \(\.\.\., 2\)", x=(4, 3, 3)),
    loss_shape("x of another batch", "x", r"shape \(4, 3, 2\)", x=(4, 1, 2)),
    loss_shape("x of fewer batch axes", "x", r"shape \(4, 3, 2\)", x=(3, 2)),
    loss_shape("pen of another batch", "pen", r"shape \(4, 3\)", pen=(4, 1)),
    loss_shape("pen of two states", "pen", r"shape \(4, 3, 3\)", pen=(4, 3, 2)),
    loss_shape("one pen for three pen logits", "raw", f"{RAW}, P = 1 .*", pen=(4, 3)),
    loss_row("no pen for three pen logits", value("pen", None), ValueError, rf"raw: expected {RAW}, P = 0 .*"),
    loss_shape("sample_weight of another batch", "sample_weight", r"shape \(4, 3\)", sample_weight=(4, 1)),
    loss_row(
        "sample_weight is masked", made("sample_weight", np.ma.masked_array), TypeError, "sample_weight: .*masked.*"
    ),
    loss_row(
        "sample_weight is complex", made("sample_weight", lambda w: w * 1j), TypeError, "sample_weight: .*complex128"
    ),
    *map(weight_row, (-1.0, -5e-324, np.nan, np.inf, -np.inf)),
    *(
        loss_row(
            f"reduction is {bad!r}",
            value("reduction", bad),
            ValueError,
            f"reduction: expected one of 'none', 'sum', 'mean', got {re.escape(repr(bad))}",
        )
        for bad in ("average", "Mean", "", None, 1)
    ),
    loss_row(
        "the mean of no rows",
        shapes(raw=(0, 15), x=(0, 2), pen=(0, 3), sample_weight=(0,)),
        ValueError,
        NO_MEAN.format("of no rows"),
    ),
    loss_row(
        "the mean of rows of weight 0",
        made("sample_weight", np.zeros_like),
        ValueError,
        NO_MEAN.format("over rows of total weight 0"),
    ),
]

ROWS = [
    *(entry for function in ARRAYS for entry in rows_of_not_numbers(function)),
    *DENSITY_SHAPES,
    *DENSITY_LISTS,
    *DENSITY_SMOOTH_EPS,
    *DENSITY_WORKERS,
    *DENSITY_SIGNATURE,
    *LOSS,
]


def contents(arguments):
    """The memory of all arguments that are arrays, masks included."""
    arrays = [a for a in (*arguments.get("*", ()), *arguments.values()) if isinstance(a, np.ndarray)]
    return [(np.asarray(a).tobytes(), np.ma.getmaskarray(a).tobytes()) for a in arrays if a.dtype.kind != "T"]


@pytest.mark.parametrize(("function", "spoil", "exception", "pattern"), ROWS)
def test_bad_input_is_refused_with_a_message_that_names_it(function, spoil, exception, pattern):
    arguments = GOOD_CALLS[function]()
    spoil(arguments)
    before = contents(arguments)
    with pytest.raises(exception, match=pattern):
        call(function, arguments)
    assert contents(arguments) == before


@pytest.mark.parametrize("function", GOOD_CALLS)
def test_the_call_that_rows_spoil_is_a_good_one(function):
    call(function, GOOD_CALLS[function]())


@pytest.mark.parametrize("function", GOOD_CALLS)
def test_the_first_bad_argument_is_the_one_named(function):
    first = ARRAYS[function][0]
    bad = dict.fromkeys(ARRAYS[function], "no numbers")
    with pytest.raises(TypeError, match=f"^{first}: "):
        call(function, bad)
