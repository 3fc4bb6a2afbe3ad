"""Every kind of bad input is refused with the right exception and a message that says what is wrong.

One table. A row is a function, what is changed in a good call of it, and a pattern for the message: it begins with the
name of the argument, says what was expected, and ends in what came (a shape, a dtype or a value). No refused call may
have modified an argument.

To add a public function: give it a good call in GOOD_CALLS, its array arguments in ARRAYS (the rows of NOT_NUMBERS then
come by themselves), and rows of its own.
"""

import collections
import decimal
import fractions
import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest
from checks import INF, NAN
from problems import (
    Forged,
    HasArray,
    component_problem,
    density_problem,
    loss_problem,
    mixture,
    mixture_problem,
    network_output,
    parameters,
)
from scipy import sparse

import cymdn
from cymdn import BivariateMixture

EITHER = (TypeError, ValueError)


# Good calls


def named(names, make, *arguments):
    return lambda: dict(zip(names.split(), make(*arguments), strict=True))


def loss_call():
    """Two batch axes, three pen states and two components."""
    rng = np.random.default_rng(0)
    return {
        "raw": rng.normal(size=(4, 3, 3 + 6 * 2)),
        "x": rng.normal(size=(4, 3, 2)),
        "pen": np.eye(3)[rng.integers(0, 3, size=(4, 3))],
        "sample_weight": rng.exponential(size=(4, 3)),
    }


def covariances_call():
    return {"weights": np.full(2, 0.5), "means": np.zeros((2, 2)), "covariances": np.tile(np.eye(2), (3, 2, 1, 1))}


def fit_call():
    return {"points": np.random.default_rng(0).normal(size=(20, 2)), "n_components": 2}


def of(name):
    """A method of a batch of three mixtures."""
    return lambda **keywords: getattr(mixture(2, (3,)), name)(**keywords)


POINT = {"x": np.zeros((3, 2))}
OF_POINTS = ("pdf", "logpdf", "component_logpdf", "responsibilities", "score", "predict", "cdf")
GOOD_CALLS = {  # the function, and its arguments by name
    "gaussian_density_batch": (cymdn.gaussian_density_batch, density_problem),  # n = 4, m = 3
    **{
        f"{level}{gradient}": (getattr(cymdn, f"{level}{gradient}"), named(names, make, (4,)))
        for gradient in ("", "_and_gradient")
        for level, names, make in (
            ("gaussian_logpdf", "x mean stddev correlation", component_problem),
            ("mixture_logpdf", "x weights mean stddev correlation", mixture_problem),
        )
    },
    "mdn_loss": (cymdn.mdn_loss, loss_call),
    "mdn_loss_and_gradient": (cymdn.mdn_loss_and_gradient, loss_call),
    # rows of plain arrays, which the kernel checks by itself
    "mdn_loss of rows": (cymdn.mdn_loss, named("raw x pen", loss_problem)),
    "mdn_loss_and_gradient of rows": (cymdn.mdn_loss_and_gradient, named("raw x pen", loss_problem)),
    "mdn_sample": (cymdn.mdn_sample, lambda: {"raw": np.zeros((4, 6)), "rng": 0}),
    "BivariateMixture": (BivariateMixture, named("weights means stddevs correlations", parameters, 2, (3,))),
    "from_network_output": (BivariateMixture.from_network_output, lambda: {"raw": network_output(2, (2, 3))}),
    "from_covariances": (BivariateMixture.from_covariances, covariances_call),
    "fit": (BivariateMixture.fit, fit_call),
    "fit_mixture": (cymdn.fit_mixture, fit_call),
    **{name: (of(name), lambda: dict(POINT)) for name in OF_POINTS},
    **{
        name: (of(name), lambda: {"lower": -np.ones(2), "upper": np.ones(2)})
        for name in ("probability", "log_probability")
    },
    "transform": (of("transform"), lambda: {"matrix": np.eye(2), "offset": np.zeros(2)}),
    "concatenate": (BivariateMixture.concatenate, lambda: {"mixtures": [mixture(), mixture()]}),
    "kl_divergence": (of("kl_divergence"), lambda: {"other": mixture()}),
    "sample": (of("sample"), lambda: {"size": 1, "rng": 0}),
    "marginal": (of("marginal"), lambda: {"axis": 0}),
    "conditional": (of("conditional"), lambda: {"axis": 0, "value": np.zeros(3)}),
    "credible_level": (of("credible_level"), lambda: {"mass": 0.5}),
    "marginal().cdf": (lambda **k: mixture(2, (3,)).marginal(0).cdf(**k), lambda: {"x": 0.5}),
    "marginal().ppf": (lambda **k: mixture(2, (3,)).marginal(0).ppf(**k), lambda: {"p": np.full(3, 0.5)}),
    "marginal().probability": (
        lambda **k: mixture(2, (3,)).marginal(0).probability(**k),
        lambda: {"lower": np.zeros(3), "upper": np.ones(3)},
    ),
    "marginal().sample": (lambda **k: mixture(2, (3,)).marginal(0).sample(**k), lambda: {"size": 1, "rng": 0}),
}
ARRAYS = {
    "gaussian_density_batch": ("x", "mean", "stddev", "correlation"),
    "mixture_logpdf": ("x", "weights", "mean", "stddev", "correlation"),
    "mdn_loss": ("raw", "x", "pen", "sample_weight"),
    "mdn_loss of rows": ("raw", "x", "pen"),
    "mdn_sample": ("raw",),
    "BivariateMixture": ("weights", "means", "stddevs", "correlations"),
    "logpdf": ("x",),
    "probability": ("lower", "upper"),
    "marginal().ppf": ("p",),
    "marginal().probability": ("lower", "upper"),
}


# What is changed in a good call: a dict of other values, or a function that changes the dict of arguments in place


def made(name, change):
    """Give the argument a value made of the good one."""

    def spoil(arguments):
        arguments[name] = change(arguments[name])

    return spoil


def shapes(**wanted):
    """Give the arguments arrays of ones of these shapes."""
    return {name: np.ones(shape) for name, shape in wanted.items()}


def without(*names):
    def spoil(arguments):
        for name in names:
            del arguments[name]

    return spoil


def positional(*more, **keywords):
    """Pass the good arguments by position, and these after them."""

    def spoil(arguments):
        good = tuple(arguments.values())
        arguments.clear()
        arguments.update({"*": (*good, *more), **keywords})

    return spoil


def call(function, arguments):
    """Call with keywords; those under "*" go by position."""
    keywords = dict(arguments)
    return GOOD_CALLS[function][0](*keywords.pop("*", ()), **keywords)


# What is no array of real numbers


def refuses(error):
    """Has __array__, which raises: as a PyTorch tensor does that requires grad (RuntimeError)."""

    def convert():
        raise error

    return HasArray(convert)


def holds_itself():
    rows = []
    rows.append(rows)
    return rows


class SparseLike:
    """Has a shape and a dtype and arithmetic, as sparse matrices do, but no __array__."""

    shape, ndim, dtype = (4, 1, 2), 3, np.dtype(float)

    def __add__(self, other):
        return self


def with_last(array, item):
    """Return the array as nested lists, in which the last number is something else."""
    rows = row = array.tolist()
    while isinstance(row[-1], list):
        row = row[-1]
    row[-1] = item
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
    "sparse matrix": (lambda good: sparse.csr_array(good.reshape(len(good), -1)), "(csr_array|dtype object)"),
    "sparse-like object": (lambda good: SparseLike(), "(SparseLike|dtype object)"),
    "__array__ that raises RuntimeError": (lambda good: refuses(RuntimeError("use detach")), "HasArray .*use detach"),
    "__array__ that raises TypeError": (lambda good: refuses(TypeError("use get")), "HasArray .*use get"),
    "__array__ that raises ValueError": (lambda good: refuses(ValueError("no")), "HasArray .*no"),
    "__array__ that returns no array": (lambda good: HasArray(lambda: "no array"), "HasArray"),
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


MAY_BE_NONE = {("mdn_loss", "pen"), ("mdn_loss", "sample_weight"), ("mdn_loss of rows", "pen")}


def rows_of_not_numbers():
    """Rows in which one array argument is no array of real numbers."""
    longdouble = np.dtype(np.longdouble)
    for function, argument in ((function, name) for function, names in ARRAYS.items() for name in names):
        for what, (change, came) in NOT_NUMBERS.items():
            if what != "None" or (function, argument) not in MAY_BE_NONE:
                pattern = rf"{argument}: expected an array of (real )?numbers.*, got {came}"
                yield function, f"{argument} is {what}", made(argument, change), TypeError, pattern
        if longdouble.itemsize > 8:  # not float64 under another name
            pattern = f"{argument}: expected an array of real numbers of at most 64 bits, got dtype {longdouble}$"
            yield function, f"{argument} is longdouble", made(argument, longdouble.type), TypeError, pattern


# Shapes: of arguments to blame, what the message says of it, and shapes that it may not have


X, PAIR, SINGLE = r"shape \(n, 1, 2\)", r"shape \(n, m, 2\)", r"shape \(n, m, 1\)"  # as in the documentation
PAIR_3, SINGLE_3 = f"{PAIR} with m = 3", f"{SINGLE} with m = 3"
PAIR_43, SINGLE_43 = (f"{shape} with n = 4, m = 3 \\(or n = 1\\)" for shape in (PAIR, SINGLE))
RAW, POINTS = r"shape \(\.\.\., P \+ 6 M\)", r"shape \(4, 3, 2\)"
OF_PARAMETERS = ("gaussian_logpdf", "mixture_logpdf")
SHAPES = [
    # wrong number of axes, wrong size of the last axis, of the middle axis
    ("gaussian_density_batch", "x", X, [(), (2,), (4, 2), (1, 4, 1, 2)]),
    ("gaussian_density_batch", "x", X, [(4, 1, 1), (4, 1, 3), (4, 1, 0), (4, 3, 2), (4, 0, 2), (1, 4, 2)]),
    ("gaussian_density_batch", "mean", PAIR, [(), (2,), (3, 2), (4, 3, 2, 1), (4, 3, 1), (4, 3, 3), (4, 2, 3)]),
    ("gaussian_density_batch", "stddev", PAIR_3, [(), (2,), (4, 3), (4, 3, 2, 1), (4, 3, 1), (4, 3, 3), (4, 2, 3)]),
    ("gaussian_density_batch", "stddev", PAIR_3, [(4, 2, 2), (4, 4, 2), (4, 1, 2), (4, 0, 2)]),
    ("gaussian_density_batch", "correlation", SINGLE_3, [(), (3,), (4, 3), (4, 3, 1, 1), (4, 3, 2), (4, 3, 0)]),
    ("gaussian_density_batch", "correlation", SINGLE_3, [(4, 1, 3), (4, 2, 1), (4, 4, 1), (4, 1, 1), (4, 0, 1)]),
    # wrong size of the first axis: neither 1 nor that of the arguments before
    ("gaussian_density_batch", "mean", PAIR_43, [(3, 3, 2), (8, 3, 2), (0, 3, 2)]),
    ("gaussian_density_batch", "stddev", PAIR_43, [(2, 3, 2), (0, 3, 2)]),
    ("gaussian_density_batch", "correlation", SINGLE_43, [(3, 3, 1), (0, 3, 1)]),
    *((f, "x", r"shape \(\.\.\., 2\)", [(), (4, 3)]) for f in ("gaussian_logpdf", "mixture_logpdf", "logpdf", "cdf")),
    ("gaussian_logpdf", "mean", r"shape \(\.\.\., M, 2\)", [(3,), (4, 3, 3)]),
    ("mixture_logpdf", "weights", r"shape \(\.\.\., M\)", [()]),
    ("mixture_logpdf", "mean", r"shape \(\.\.\., M, 2\) with M = 3", [(3,), (4, 3, 3), (4, 2, 2)]),
    *((f, "stddev", r"shape \(\.\.\., M, 2\) with M = 3", [(4, 3, 1), (4, 2, 2)]) for f in OF_PARAMETERS),
    *((f, "stddev", r"leading axes that broadcast with \(4,\) .*", [(5, 3, 2)]) for f in OF_PARAMETERS),
    *((f, "correlation", r"shape \(\.\.\., M\) with M = 3", [(), (4, 2)]) for f in OF_PARAMETERS),
    ("mdn_loss", "raw", RAW, [()]),
    ("mdn_loss", "raw", f"{RAW}, P = 3 pen logits and M >= 1", [(4, 3, 3)]),
    ("mdn_loss", "raw", f"{RAW}, P = 3 .*", [(4, 3, 14)]),
    ("mdn_loss", "x", POINTS, [(), (4, 3, 3), (4, 1, 2), (3, 2)]),
    ("mdn_loss", "pen", r"shape \(4, 3\)", [(4, 1)]),
    ("mdn_loss", "pen", r"shape \(4, 3, 3\)", [(4, 3, 2)]),
    ("mdn_loss", "sample_weight", r"shape \(4, 3\)", [(4, 1)]),
    ("mdn_loss of rows", "raw", f"{RAW}, P = 1 .*", [(6, 20), (6, 1), (6, 0)]),
    ("mdn_loss of rows", "x", ".*", [(5, 2), (1, 2), (6, 3), (6,)]),
    ("mdn_loss of rows", "pen", ".*", [(5,), (1,)]),
    ("probability", "lower", r"shape \(\.\.\., 2\)", [(), (3,), (3, 1)]),
    ("transform", "matrix", r"shape \(\.\.\., 2, 2\)", [(), (2,), (3, 2), (2, 3)]),
    ("transform", "offset", r"shape \(\.\.\., 2\)", [(), (3,)]),
]
# The same where others have another shape too, or the one to blame is not the one that differs
OTHER_SHAPES = {
    "mean of fewer components": ("stddev", f"{PAIR} with m = 2", {"mean": (4, 2, 2)}),
    "mean of one component does not broadcast": ("stddev", f"{PAIR} with m = 1", {"mean": (4, 1, 2)}),
    "mean of no components": ("stddev", f"{PAIR} with m = 0", {"mean": (4, 0, 2)}),
    "x of fewer rows": ("mean", f"{PAIR} with n = 3.*", {"x": (3, 1, 2)}),
    "x of no rows": ("mean", f"{PAIR} with n = 0.*", {"x": (0, 1, 2)}),
    "one x, rows differ": ("stddev", PAIR_43, {"x": (1, 1, 2), "stddev": (2, 3, 2)}),
    "one x and mean": ("correlation", SINGLE_43, {"x": (1, 1, 2), "mean": (1, 3, 2), "correlation": (3, 3, 1)}),
    # shapes are checked where there is nothing to compute too
    "no rows": (
        *("correlation", SINGLE_3),
        {"x": (0, 1, 2), "mean": (0, 3, 2), "stddev": (0, 3, 2), "correlation": (0, 2, 1)},
    ),
    "no components": ("x", X, {"x": (4, 2), "mean": (4, 0, 2), "stddev": (4, 0, 2), "correlation": (4, 0, 1)}),
}


def rows_of_shapes():
    cases = [
        *((f, f"{name} of shape {s}", name, expected, {name: s}) for f, name, expected, many in SHAPES for s in many),
        *(("gaussian_density_batch", what, *case) for what, case in OTHER_SHAPES.items()),
    ]
    for function, what, name, expected, wanted in cases:
        came = wanted.get(name, np.shape(GOOD_CALLS[function][1]()[name]))
        pattern = f"{name}: expected {expected}, got {re.escape(str(came))}$"
        yield function, what, shapes(**wanted), ValueError, pattern


# Values, numbers among the options, signatures. Each: what is changed, and the message; TypeError or ValueError


NO_ROWS = shapes(x=(0, 1, 2), mean=(0, 3, 2), stddev=(0, 3, 2), correlation=(0, 3, 1))
NOT_REAL = (bytearray(b"1"), memoryview(b"1"), [0.1], {"e": 1}, np.datetime64("2020"), np.timedelta64(1, "s"))
NOT_REAL += (0.1 + 0j, np.complex128(0.1), np.complex64(0.1))
SMOOTH_EPS = {
    ValueError: {
        **{f"{bad!r}": (bad, f"{bad!r}$") for bad in (-1e-10, -5e-324, -1, NAN, INF, -INF)},
        "NaN in float32": (np.float32("nan"), "nan$"),
        "an int above float64": (10**400, ""),
    },
    TypeError: {
        **{f"{bad!r}": (bad, re.escape(repr(bad)) + "$") for bad in ("small", "1e-10", b"1e-10")},
        **{type(bad).__name__: (bad, type(bad).__name__) for bad in NOT_REAL},
        "None": (None, "None"),
        "array of a str": (np.array("1e-10"), ""),
        "array of one axis": (np.full(1, 1e-10), "ndarray"),
        "array of three axes": (np.full((4, 3, 1), 1e-10), "ndarray"),
        "the masked constant": (np.ma.masked, "(MaskedConstant|a masked)"),
        "object": (object(), "object"),
    },
}
WORKERS = {
    ValueError: {"0": (0, "0"), "far below 0": (-(10**6), "-1000000")},
    TypeError: {
        "float": (2.0, "float"),
        "NaN": (NAN, "float"),
        "str": ("2", "str"),
        "array": (np.ones(2, int), "ndarray"),
    },
}
TAKE_WORKERS = [
    name for name in GOOD_CALLS if re.search("density|logpdf|loss|^pdf|responsib|score|fit|prob|ppf|predict|^cdf", name)
]


def at(index, value):
    """Change a number of an array."""

    def change(good):
        good = np.array(good)
        good[index] = value
        return good

    return change


RNG = r"expected a numpy.random.Generator, a seed or None, got {}"
PEN = r"expected the number of pen logits, 0, 1 or 3, got "
FINITE = "expected finite numbers.*, got {}"
PENS = {
    **{repr(bad): (bad, PEN) for bad in (2, 1.0, np.float64(3.0), "1", [1], np.array(1.0))},
    "targets": (np.zeros(4), PEN + r"an array of shape \(4,\)$"),
}
RAWS = {
    "of width 7": (np.zeros((3, 7)), rf"expected {RAW}, P = 0 .*, got \(3, 7\); P = 1 would fit$"),
    "of no columns": (np.zeros((4, 0)), r"expected shape .*got \(4, 0\)$"),
    "a number": (1.0, rf"expected {RAW}, got \(\)$"),
}
PENLESS = {
    "raw without its pen": ({"raw": np.zeros((4, 12)), "pen": 1}, r"raw: .*P = 1 .*, got \(4, 12\); P = 0 would fit$"),
    "raw of pens only": ({"raw": np.zeros(3), "pen": 3}, r"raw: .*M >= 1, got \(3,\)$"),
}
SHARPENING = {
    "pen": PENS,
    "bias": {
        "negative": (-0.5, r"expected a finite number >= 0, got -0.5$"),
        "NaN": (NAN, r"expected a finite number >= 0, got nan$"),
        "None": (None, r"expected a real number, got NoneType$"),
        "an array": (np.zeros(2), r"expected a real number, got ndarray$"),
    },
    "temperature": {
        "negative": (-1.0, r"expected a finite number >= 0, got -1.0$"),
        "three": ((1.0, 1.0, 1.0), r"expected a number or a pair, got 3 numbers$"),
        "one of a pair negative": ((1.0, -1.0), r"expected a finite number >= 0, got -1.0$"),
        "inf": (INF, r"expected a finite number >= 0, got inf$"),
        "NaN": (NAN, r"expected a finite number .*, got nan$"),
        "None": (None, r"expected a real number, got NoneType$"),
        "text": ("1", r"expected a real number, got '1'$"),
    },
}
FLOORS = {
    "negative": (-0.1, r"expected a finite number >= 0, got -0.1$"),
    "NaN in part": ((1.0, NAN), r"expected a finite number >= 0, got nan$"),
    "inf": (INF, r"expected a finite number >= 0, got inf$"),
    "huge": (np.array([0.0, 1e301]), r"expected numbers of at most 1e\+300, got 1e\+301$"),
    "three": ([1.0, 1.0, 1.0], r"expected a number or a pair of numbers, got 3 numbers$"),
    "text": ("1", r"expected a real number, got '1'$"),
}
SIZES = {
    "negative": (-1, r"expected an integer of at least 0, got -1$"),
    "negative in part": ((2, -3), r"expected an integer of at least 0, got -3$"),
    "fractional": (2.5, r"expected an integer, got float$"),
    "fractional in part": ((2, 1.5), r"expected an integer, got float$"),
    "a list": ([2, 3], r"expected an integer, got list$"),
    **{
        f"beyond all memory, {bad}": (
            bad,
            rf"expected at most 32 axes and 2\*\*58 samples .*, got {re.escape(str(bad))}$",
        )
        for bad in (10**30, 2**62, (0, 2**62), (2**31, 2**31), (1,) * 33)
    },
}
RNGS = {
    "text": ("seed", RNG.format("str$")),
    "negative": (-1, RNG.format("-1")),
    "fractional": (1.5, RNG.format("float$")),
    "a module": (np.random, RNG.format("module$")),
}


FORGED = {
    "too few numbers": (Forged(lambda size: np.zeros((1,) * len(size))), "expected arrays of the shapes asked for .*"),
    "no axes": (Forged(lambda size: np.zeros(())), "expected arrays of the shapes asked for .*Forged$"),
    "integers": (Forged(lambda size: np.ones(size, np.int64)), "expected arrays of float64 .*Forged$"),
    "float32": (Forged(lambda size: np.zeros(size, np.float32)), "expected arrays of float64 .*Forged$"),
    "a list": (Forged(lambda size: np.zeros(size).tolist()), "expected arrays of float64 .*Forged$"),
    "a number": (Forged(lambda size: 0.5), "expected arrays of float64 .*Forged$"),
}
BOOLS = {type(bad).__name__: (bad, f"expected a bool, got {type(bad).__name__}$") for bad in (np.ones(3), 0.1, "no")}
AXES = {
    repr(bad): (bad, r"expected 0 or 1, got ")
    for bad in (2, -1, None, 0.0, 1.0, "0", [0], np.array([0, 1]), np.float64(1.0))
}
TEXT = {"of text": ("ab", r"expected an array of real numbers")}
# By function and argument: a value, or a function of the good one, and what the message says of it
BAD = {
    "gaussian_density_batch": {
        "x": {  # what is not an array has a shape too
            **{
                repr(bad): (bad, rf"expected {X}, got \({shape}\)$")
                for bad, shape in (([], "0,"), (1.5, ""), (True, ""), ((0.5, 1), "2,"), (range(4), "4,"))
            },
            "bytearray": (bytearray(8), rf"expected {X}, got \(8,\)$"),
        }
    },
    "mdn_loss": {
        "sample_weight": {
            **{
                repr(bad): (at((2, 1), bad), rf"expected finite numbers >= 0, got {bad} at index \(2, 1\)$")
                for bad in (-1.0, -5e-324, NAN, INF, -INF)
            },
            "0 before a bad one": (at(([0, 2], [0, 1]), (0.0, -1.0)), FINITE.format(r"-1.0 at index \(2, 1\)$")),
        },
        "reduction": {
            repr(bad): (bad, f"expected one of 'none', 'sum', 'mean', got {re.escape(repr(bad))}$")
            for bad in ("average", "Mean", "", None, 1)
        },
        "stddev_floor": FLOORS,
        "pen_weight": {
            "negative": (-1.0, r"expected finite numbers >= 0, got -1.0$"),
            "of another shape": (np.ones(5), r"expected shape \(.*\), got \(5,\)$"),
        },
        "n_components": {
            "0": (0, r"expected an integer of at least 1, got 0$"),
            "a fraction": (2.5, r"expected an integer, got float$"),
        },
    },
    "gaussian_logpdf": dict.fromkeys(("x", "mean", "stddev", "correlation"), TEXT),
    "mdn_sample": {"raw": RAWS, **SHARPENING, "stddev_floor": FLOORS, "size": SIZES, "rng": RNGS | FORGED},
    "BivariateMixture": {
        "weights": {
            "negative": (at((1, 0), -0.25), r".*>= 0, got -0.25 at index \(1, 0\)$"),
            "NaN": (at((2, 1), NAN), FINITE.format(r"nan at index \(2, 1\)$")),
            "inf": (at((2, 1), INF), FINITE.format(r"inf at index \(2, 1\)$")),
            "of sum 1.2": ([[0.5, 0.5], [0.5, 0.7], [1.0, 0.5]], r"expected a sum of 1.*, got 1.2 at index \(1,\)$"),
            "all 0": (np.zeros(2), r"expected a sum of 1.*, got 0.0$"),
            "a number": (1.0, r"expected shape \(\.\.\., M\), got \(\)$"),
        },
        "means": {
            "of another M": (np.zeros((3, 2)), r".*with M = 2, got \(3, 2\)$"),
            "of another batch": (np.zeros((5, 2, 2)), r".*axes that broadcast with \(3,\).*\(5, 2, 2\)$"),
            "NaN": (at((0, 1, 1), NAN), FINITE.format(r"nan at index \(0, 1, 1\)$")),
            "inf": (at((0, 1, 1), -INF), FINITE.format(r"-inf at index \(0, 1, 1\)$")),
            "of 3 coordinates": (np.zeros((2, 3)), r"expected shape \(\.\.\., M, 2\)"),
        },
        "stddevs": {
            **{
                repr(b): (at((1, 1, 0), b), rf".*> 2.23e-308, got {b} at index \(1, 1, 0\)$")
                for b in (0.0, -1.0, NAN, INF, 1e-310)
            },
            "of no axis of 2": (np.ones(2), r"expected shape \(\.\.\., M, 2\)"),
        },
        "correlations": {
            repr(bad): (at((2, 0), bad), rf".*, got {bad} at index \(2, 0\)$") for bad in (1.0, -1.0, NAN)
        },
    },
    "from_network_output": {
        "raw": {
            **{
                f"NaN in column {k}": (at((1, 2, k), NAN), FINITE.format(rf"nan at index \(1, 2, {k}\)$"))
                for k in range(12)
            },
            "inf": (at((1, 2, 7), INF), FINITE.format(r"inf at index \(1, 2, 7\)$")),
            **RAWS,
            "of objects": (np.array([None] * 6), r".*dtype object$"),
            "without a component": (at((1, 2, slice(0, 2)), -INF), r".*logit above -inf.* at index \(1, 2\)$"),
        },
        **SHARPENING,
        "stddev_floor": FLOORS,
    },
    "from_covariances": {
        "covariances": {
            "asymmetric": (at((1, 0, 0, 1), 0.25), r"expected symmetric, positive definite .* at index \(1, 0\)$"),
            "singular": (at((1, 1), np.ones((2, 2))), r".* at index \(1, 1\)$"),
            "indefinite": (at((2, 0), [[1, 2], [2, 1]]), r".* at index \(2, 0\)$"),
            "with a variance of 0": (at((0, 1, 1, 1), 0.0), r".* at index \(0, 1\)$"),
            "NaN": (at((0, 1, 0, 1), NAN), r".* at index \(0, 1\)$"),
            "of no axis of M": (np.ones((2, 2)), r"expected shape \(\.\.\., M, 2, 2\)"),
        },
        "weights": {"of sum 0.75": ([0.5, 0.25], r"expected a sum of 1.*, got 0.75$")},
    },
    "fit": {
        "points": {
            "NaN": (at((1, 1), NAN), FINITE.format(r"nan at index \(1, 1\)$")),
            "inf": (at((1, 1), INF), FINITE.format(r"inf at index \(1, 1\)$")),
            **{
                f"of shape {s}": (np.ones(s), rf"expected shape \(\.\.\., n, 2\), got {re.escape(str(s))}$")
                for s in ((9, 3), (2,))
            },
            "none": (np.zeros((0, 2)), r"expected at least n_components = 2 .*got 0$"),
            "fewer than components": ([[0, 1]], r"expected at least n_components = 2 .*got 1$"),
            "denormal": (lambda good: 1e-318 * good, r"expected such that standard deviations are above 2.23e-308"),
        },
        "n_components": {
            "0": (0, r"expected an integer of at least 1, got 0$"),
            "2.0": (2.0, r"expected an integer, got float$"),
        },
        "sample_weight": {
            "negative": ([1.0, -1.0, *[1.0] * 18], r"expected finite numbers >= 0, got -1.0 at index \(1,\)$"),
            "NaN": ([NAN] * 20, r".*got nan at index \(0,\)$"),
            "of another length": (np.ones(19), r"expected shape \(20,\)"),
            "of two axes": (np.ones((20, 1)), r"expected shape \(20,\)"),
        },
        "stddev_floor": {
            "0": (0.0, r"expected finite numbers > 0, got 0.0$"),
            "of 3": ([1, 1, 1], r"expected shape \(\) or \(2,\), got \(3,\)$"),
        },
        "restarts": {
            "0": (0, r"expected an integer of at least 1, got 0$"),
            "endless": (10**12, r"expected an integer of at most 1000000, got 1000000000000$"),
        },
        "rng": RNGS,
    },
    "fit_mixture": {
        "points": {
            "NaN": (at((1, 1), NAN), r"expected finite numbers \(allow_missing=.*\), got nan at index \(1, 1\)$"),
            "NaN in a batch": (lambda good: [good, at((3, 0), NAN)(good)], r".*got nan at index \(1, 3, 0\)$"),
        },
        "covariance_type": {
            "another": ("round", r"expected one of 'full', 'diag', 'tied', 'spherical', got 'round'$"),
            "None": (None, r"expected one of .*, got None$"),
            "array": (np.ones(3), r"expected one of .*, got array"),
        },
        "covariance": {
            "of shape (3, 3)": (np.eye(3), r"expected shape \(2, 2\) or \(2, 2, 2\), got \(3, 3\)$"),
            "of another M": (np.tile(np.eye(2), (3, 1, 1)), r"expected shape .*, got \(3, 2, 2\)$"),
            "indefinite": ([np.eye(2), [[1, 2], [2, 1]]], r"expected symmetric, positive definite .* at index \(1,\)$"),
            "text": ("eye", r"expected an array of real numbers"),
            "masked": (np.ma.masked_array(np.eye(2), mask=np.eye(2)), r"expected an array of numbers, got a masked"),
            "tiny": (np.eye(2) * 1e-180, r"expected matrices of the size of the points"),
        },
        "init": {
            "array": (np.ones(12), r"expected a BivariateMixture, got ndarray$"),
            "of another M": (mixture(3), r"expected n_components = 2 components, got 3$"),
            "of a batch": (mixture(2, (3,)), r"expected batch shape \(\) or \(\), that of the points; got \(3,\)$"),
        },
        "background": BOOLS,
        "allow_missing": BOOLS,
        "tolerance": {
            "negative": (-1.0, r"expected a finite number >= 0, got -1.0$"),
            "None": (None, r"expected a real number, got NoneType$"),
        },
        "max_steps": {"0": (0, r"expected an integer of at least 1, got 0$")},
        "callback": {"number": (3, r"expected a callable or None, got int$")},
        "rng": RNGS,
    },
    **{
        name: {
            "x": {
                **TEXT,
                "of another batch": (np.zeros((4, 2)), r".*broadcast with \(3,\) .*got shape \(4, 2\)$"),
            }
        }
        for name in OF_POINTS
    },
    "sample": {"size": SIZES, "rng": RNGS | FORGED},
    "marginal": {"axis": AXES},
    "conditional": {
        "axis": AXES,
        "value": {
            **TEXT,
            "of another batch": (np.zeros(4), r"expected a shape that broadcasts with \(3,\) .*, got \(4,\)$"),
        },
    },
    "credible_level": {
        "mass": {
            "0": ([0.5, 0.0], r"expected numbers between 0 and 1, got 0.0 at index \(1,\)$"),
            "1": (1, r"expected numbers between 0 and 1, got 1.*$"),
            "NaN": ([[NAN]], r"expected numbers between 0 and 1, got nan at index \(0, 0\)$"),
        }
    },
    "marginal().cdf": {"x": {"of another batch": (np.zeros(4), r".*broadcasts with \(3,\).*got \(4,\)$")}},
    "marginal().ppf": {"p": {"of another batch": (np.zeros(4), r".*broadcasts with \(3,\).*got \(4,\)$")}},
    "marginal().probability": {"upper": {"of another batch": (np.zeros(4), r".*with \(3,\) of the.*, got \(4,\)$")}},
    "probability": {
        "upper": {"of another batch": (np.zeros((4, 2)), r".*that broadcast with \(3,\).*got shape \(4, 2\)$")}
    },
    "marginal().sample": {"size": SIZES, "rng": RNGS | FORGED},
    "transform": {
        "matrix": {
            "singular": ([[1.0, 2.0], [2.0, 4.0]], r"expected an invertible matrix, got \[\[1. 2.\]\n \[2. 4.\]\]$"),
            "singular in a batch": (at(1, 0.0)(np.ones((3, 1, 1)) * np.eye(2)), r".*invertible.* at index \(1,\)$"),
            "NaN": ([[1.0, NAN], [2.0, 4.0]], FINITE.format(r"nan at index \(0, 1\)$")),
            **TEXT,
            "of another batch": (np.ones((5, 2, 2)), r".*with \(3,\) of the mixtures, got shape \(5, 2, 2\)$"),
        },
        "offset": {"inf": ([0.0, INF], FINITE.format(r"inf at index \(1,\)$")), **TEXT},
    },
    "concatenate": {
        "mixtures": {
            "none": ([], r"expected at least one mixture, got none$"),
            "one of them a number": ([mixture(), 3], r"expected BivariateMixture, got int at index 1$"),
            "a mixture": (mixture(), r"expected a sequence of BivariateMixture, got BivariateMixture$"),
            "None": (None, r"expected a sequence of BivariateMixture, got NoneType$"),
            "of other batches": ([mixture(1, (2,)), mixture(1, (3,))], r".*that broadcast, with \(\) of the"),
        },
        "weights": {
            "of sum 1.1": ([0.5, 0.6], r"expected a sum of 1 over the mixtures, got 1.1$"),
            "of another number": ([0.5], r"expected shape \(..., 2\), got \(1,\)$"),
        },
    },
    "kl_divergence": {
        "other": {
            "a number": (1.0, r"expected a BivariateMixture, got float$"),
            "of another batch": (mixture(2, (2,)), r".*shape that broadcasts with \(3,\), got \(2,\)$"),
        }
    },
}
NO_COMPONENT, MANY_AXES = (
    "expected at least one component, got M = 0$",
    r"expected at most 32 batch axes, got shape \(1,.*",
)
NO_MEAN = r'reduction: the "mean" {} is undefined; use "sum" or "none"$'
# Where another argument is blamed than the one that differs, or there is more to it; Python's own messages
OTHER_CASES = {
    "gaussian_density_batch": {
        "smooth_eps and nothing to compute": (NO_ROWS | {"smooth_eps": -1.0}, r"smooth_eps: .* >= 0, got -1.0$"),
        "workers and nothing to compute": (NO_ROWS | {"workers": 0}, r"workers: expected .*got 0$"),
        "text for workers and nothing to compute": (NO_ROWS | {"workers": "2"}, r"workers: expected .*got str$"),
        **{f"no {name}": (without(name), f".*missing.*'{name}'") for name in ("x", "mean", "stddev", "correlation")},
        "nothing": (lambda a: a.clear(), ".*missing 4.*'x', 'mean', 'stddev', and 'correlation'"),
        "smooth_eps by position": (positional(True, 1e-10), ".*4 to 5.*6 were given"),
        "unknown keyword": ({"weights": 1.0}, ".*unexpected.*'weights'"),
        "out": ({"out": np.ones((4, 3, 1))}, ".*unexpected.*'out'"),
        "x twice": (positional(x=1.0), ".*multiple.*'x'"),
        # the weights of a mixture, say, passed by position as a fifth array
        "weights for a bool": (positional(np.ones((4, 3, 1))), "compute_derivatives: expected a bool, got ndarray$"),
    },
    "mixture_logpdf": {
        "no components": (shapes(weights=0, mean=(0, 2), stddev=(0, 2), correlation=0), f"weights: {NO_COMPONENT}"),
        "too many axes": (shapes(stddev=(1,) * 33 + (3, 2)), f"stddev: {MANY_AXES}"),
    },
    "mdn_loss": {
        "too many axes": (shapes(raw=(1,) * 33 + (6,)), f"raw: {MANY_AXES}"),
        "a list that holds itself": (lambda a: a.update(x=holds_itself()), "x: expected an array of numbers, got list"),
        "another n_components": (
            {"n_components": 3},
            r"raw: expected shape \(\.\.\., 21\) for n_components = 3, P = 3, got \(4, 3, 15\)$",
        ),
        "a pen with an axis of 1": (
            shapes(pen=(4, 3, 1)),
            r"pen: expected shape \(4, 3\) or \(4, 3, 3\), got \(4, 3, 1\); pass pen\[\.\.\., 0\]$",
        ),
        "one pen for three logits": (shapes(pen=(4, 3)), r"raw: .*P = 1 .*got \(4, 3, 15\); P = 3 would fit$"),
        "no pen for three logits": ({"pen": None}, rf"raw: expected {RAW}, P = 0 .*"),
        **{
            f"the mean of no rows, {weight}": (
                shapes(raw=(0, 15), x=(0, 2), pen=(0, 3)) | {"sample_weight": weight},
                NO_MEAN.format("of no rows"),
            )
            for weight in (None, np.ones(0))
        },
        "the mean of rows of weight 0": (
            made("sample_weight", np.zeros_like),
            NO_MEAN.format("over rows of total weight 0"),
        ),
    },
    "mdn_sample": {**PENLESS, "pen None": ({"pen": None}, "pen: " + PEN)},
    "mdn_loss of rows": {"no pen for a logit": ({"pen": None}, r"raw: .*P = 0 .*got \(6, 19\); P = 1 would fit$")},
    "from_network_output": PENLESS
    | {  # a greedy draw has no density
        "bias inf": ({"bias": INF}, "bias: expected finite numbers, .*, got inf$"),
        "temperature 0": ({"temperature": 0.0}, "temperature: expected .* temperatures above 0, got 0.0$"),
    },
    "BivariateMixture": {
        "no components": (shapes(weights=0, means=(0, 2), stddevs=(0, 2), correlations=0), f"weights: {NO_COMPONENT}")
    },
    "transform": {
        "means beyond the numbers": ({"matrix": np.diag([1e308, 1.0])}, "offset: .* the range of numbers, got -?inf")
    },
    "fit": {"weights all 0": ({"sample_weight": np.zeros(20)}, r"points: .*with a weight > 0, got 0$")},
    "fit_mixture": {
        "a set of a batch": (
            made("points", lambda good: np.stack([good, 0 * good])),
            r"stddev_floor: expected a value, .* coordinate 0; got None of points\[1\]$",
        ),
        "inf where NaN is missing": (
            {"points": at((2, 0), INF)(np.ones((20, 2))), "allow_missing": True},
            r"points: expected finite numbers, or NaN .*, got inf at index \(2, 0\)$",
        ),
        "a coordinate that is always missing": (
            {"points": np.column_stack([np.arange(9.0), np.full(9, NAN)]), "allow_missing": True},
            r"points: expected some whose coordinate 1 is not missing, got none$",
        ),
        "floor and known covariance": (
            {"covariance": np.eye(2), "stddev_floor": 1.0},
            r"stddev_floor: expected None with a known covariance",
        ),
        "background of a line": (
            {"points": np.column_stack([np.ones(9), np.arange(9.0)]), "stddev_floor": 0.1, "background": True},
            r"background: expected False, because all points agree in coordinate 0; got True$",
        ),
    },
}


def rows_of_options():
    """Rows of smooth_eps, and of workers of every function that takes them."""
    for exception, cases in SMOOTH_EPS.items():
        for what, (bad, came) in cases.items():
            pattern = rf"smooth_eps: expected a (real|finite) number.*, got {came}"
            yield "gaussian_density_batch", f"smooth_eps {what}", {"smooth_eps": bad}, exception, pattern
    for exception, cases in WORKERS.items():
        for function, (what, (bad, came)) in itertools.product(TAKE_WORKERS, cases.items()):
            yield function, f"workers {what}", {"workers": bad}, exception, rf"workers: expected .*got {came}$"


def rows():
    yield from rows_of_not_numbers()
    yield from rows_of_shapes()
    yield from rows_of_options()
    for function, arguments in BAD.items():
        for argument, cases in arguments.items():
            for what, (bad, rest) in cases.items():
                spoil = made(argument, bad) if callable(bad) else {argument: bad}
                yield function, f"{argument} {what}", spoil, EITHER, f"{argument}: {rest}"
    for function, cases in OTHER_CASES.items():
        for what, (spoil, pattern) in cases.items():
            yield function, what, spoil, EITHER, pattern


def contents(arguments):
    """The memory of all arguments that are arrays, masks included."""
    arrays = [a for a in (*arguments.get("*", ()), *arguments.values()) if isinstance(a, np.ndarray)]
    return [(np.asarray(a).tobytes(), np.ma.getmaskarray(a).tobytes()) for a in arrays if a.dtype.kind != "T"]


@pytest.mark.parametrize(
    ("function", "spoil", "exception", "pattern"),
    [pytest.param(f, *case, id=f"{f}: {what}") for f, what, *case in rows()],
)
def test_bad_input_is_refused_with_a_message_that_names_it(function, spoil, exception, pattern):
    arguments = GOOD_CALLS[function][1]()
    if callable(spoil):
        spoil(arguments)
    else:
        arguments |= spoil
    before = contents(arguments)
    with_gradient = function.replace("mdn_loss", "mdn_loss_and_gradient").replace("logpdf", "logpdf_and_gradient")
    for name in {function, with_gradient} & GOOD_CALLS.keys():
        with pytest.raises(exception, match=re.compile(rf"^{pattern}", re.DOTALL)):
            call(name, arguments)
    assert contents(arguments) == before


@pytest.mark.parametrize("function", GOOD_CALLS)
def test_the_call_that_rows_spoil_is_a_good_one(function):
    call(function, GOOD_CALLS[function][1]())


@pytest.mark.parametrize("function", ARRAYS)
def test_the_first_bad_argument_is_the_one_named(function):
    bad = GOOD_CALLS[function][1]() | dict.fromkeys(ARRAYS[function], "no numbers")
    with pytest.raises(TypeError, match=f"^{ARRAYS[function][0]}: "):
        call(function, bad)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9 + 0.3, -1e-7])
@pytest.mark.parametrize("axis", [0, 1])
def test_points_that_agree_in_a_coordinate_need_a_floor(axis, value):
    points = np.random.default_rng(0).normal(size=(7, 2))
    points[:, axis] = value
    pattern = rf"^stddev_floor: expected a value, because all points agree in coordinate {axis}; got None$"
    with pytest.raises(ValueError, match=pattern):
        BivariateMixture.fit(points, 1)
    fitted = BivariateMixture.fit(points, 1, stddev_floor=0.25)
    assert fitted.means[0, axis] == value
    np.testing.assert_allclose(fitted.stddevs[0, axis], 0.25, rtol=1e-12, atol=0)
