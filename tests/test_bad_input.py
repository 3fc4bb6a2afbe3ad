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
from problems import (
    INF,
    NAN,
    component_problem,
    density_problem,
    mixture,
    mixture_problem,
    network_output,
    parameters,
    planes,
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


POINT = {"x": np.zeros(2)}
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
    "mdn_sample": (cymdn.mdn_sample, lambda: {"raw": np.zeros((4, 6)), "rng": 0}),
    "BivariateMixture": (BivariateMixture, named("weights means stddevs correlations", parameters, 2, (3,))),
    "from_network_output": (BivariateMixture.from_network_output, lambda: {"raw": network_output(2, (2, 3))}),
    "from_covariances": (BivariateMixture.from_covariances, covariances_call),
    "fit": (BivariateMixture.fit, fit_call),
    **{
        name: (of(name), lambda: dict(POINT))
        for name in ("pdf", "logpdf", "component_logpdf", "responsibilities", "score")
    },
    "sample": (of("sample"), lambda: {"size": 1, "rng": 0}),
    "marginal": (of("marginal"), lambda: {"axis": 0}),
    "conditional": (of("conditional"), lambda: {"axis": 0, "value": 0.5}),
    "credible_level": (of("credible_level"), lambda: {"mass": 0.5}),
    "marginal().cdf": (lambda **k: mixture(2, (3,)).marginal(0).cdf(**k), lambda: {"x": 0.5}),
    "marginal().sample": (lambda **k: mixture(2, (3,)).marginal(0).sample(**k), lambda: {"size": 1, "rng": 0}),
}
ARRAYS = {
    "gaussian_density_batch": ("x", "mean", "stddev", "correlation"),
    "mdn_loss": ("raw", "x", "pen", "sample_weight"),
    "mdn_sample": ("raw",),
    "BivariateMixture": ("weights", "means", "stddevs", "correlations"),
}


# What is changed in a good call: a dict of other values, or a function that changes the dict of arguments in place


def made(name, change):
    """Give the argument a value made of the good one."""

    def spoil(arguments):
        arguments[name] = change(arguments[name])

    return spoil


def at(name, index, value):
    """Change a number of an argument."""

    def change(good):
        good = np.array(good)
        good[index] = value
        return good

    return made(name, change)


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


OTHERS_ARE_LEGAL = {("mdn_loss", "pen", "None"), ("mdn_loss", "sample_weight", "None")}


def rows_of_not_numbers():
    """Rows in which one array argument is no array of real numbers."""
    longdouble = np.dtype(np.longdouble)
    for function, argument in ((function, name) for function, names in ARRAYS.items() for name in names):
        for what, (change, came) in NOT_NUMBERS.items():
            if (function, argument, what) not in OTHERS_ARE_LEGAL:
                pattern = rf"{argument}: expected an array of (real )?numbers.*, got {came}"
                yield function, f"{argument} is {what}", made(argument, change), TypeError, pattern
        if longdouble.itemsize > 8:  # not float64 under another name
            pattern = f"{argument}: expected an array of real numbers of at most 64 bits, got dtype {longdouble}$"
            yield function, f"{argument} is longdouble", made(argument, longdouble.type), TypeError, pattern


# Shapes: of arguments to blame, what the message says of it, and shapes that it may not have


X, PAIR, SINGLE = r"shape \(n, 1, 2\)", r"shape \(n, m, 2\)", r"shape \(n, m, 1\)"  # as in the documentation
PAIR_3, SINGLE_3 = f"{PAIR} with m = 3", f"{SINGLE} with m = 3"
PAIR_43, SINGLE_43 = (f"{shape} with n = 4, m = 3 \\(or n = 1\\)" for shape in (PAIR, SINGLE))
RAW, POINTS, MIXED = r"shape \(\.\.\., P \+ 6 M\)", r"shape \(\.\.\., 2\)", r"shape \(4, 3, 2\)"
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
    ("mdn_loss", "raw", RAW, [()]),
    ("mdn_loss", "raw", f"{RAW}, P = 3 pen logits and M >= 1", [(4, 3, 3)]),
    ("mdn_loss", "raw", f"{RAW}, P = 3 .*", [(4, 3, 12)]),
    ("mdn_loss", "x", POINTS, [(), (4, 3, 3)]),
    ("mdn_loss", "x", MIXED, [(4, 1, 2), (3, 2)]),
    ("mdn_loss", "pen", r"shape \(4, 3\)", [(4, 1)]),
    ("mdn_loss", "pen", r"shape \(4, 3, 3\)", [(4, 3, 2)]),
    ("mdn_loss", "sample_weight", r"shape \(4, 3\)", [(4, 1)]),
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
SMOOTH_EPS = {
    ValueError: {
        **{f"{bad!r}": (bad, f"{bad!r}$") for bad in (-1e-10, -5e-324, -1, NAN, INF, -INF)},
        "NaN in float32": (np.float32("nan"), "nan$"),
        "an int above float64": (10**400, ""),
    },
    TypeError: {
        **{f"{bad!r}": (bad, re.escape(repr(bad)) + "$") for bad in ("small", "1e-10", b"1e-10")},
        **{
            type(bad).__name__: (bad, type(bad).__name__)
            for bad in (bytearray(b"1"), memoryview(b"1"), [0.1], {"e": 1})
        },
        **{type(bad).__name__: (bad, type(bad).__name__) for bad in (0.1 + 0j, np.complex128(0.1), np.complex64(0.1))},
        **{type(bad).__name__: (bad, type(bad).__name__) for bad in (np.datetime64("2020"), np.timedelta64(1, "s"))},
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
TAKE_WORKERS = [name for name in GOOD_CALLS if re.search("density|logpdf|loss|^pdf|responsib|score|fit", name)]
REDUCTION = r"reduction: expected one of 'none', 'sum', 'mean', got {}$"
NO_MEAN = r'reduction: the "mean" {} is undefined; use "sum" or "none"$'
OF_TOO_FEW = r"points: expected at least n_components = {} .*got {}$"
PEN = r"pen: expected the number of pen logits, 0, 1 or 3, got {}$"
RNG = r"rng: expected a numpy.random.Generator, a seed or None, got {}"
BAD = {
    "gaussian_density_batch": {
        # what is not an array has a shape too
        **{
            f"x is {bad!r}": ({"x": bad}, rf"x: expected {X}, got \({re.escape(shape)}\)$")
            for bad, shape in (([], "0,"), (1.5, ""), (True, ""), ((0.5, 1), "2,"), (range(4), "4,"))
        },
        "x is a bytearray": ({"x": bytearray(8)}, rf"x: expected {X}, got \(8,\)$"),
        "smooth_eps and nothing to compute": (
            {**NO_ROWS, "smooth_eps": -1.0},
            r"smooth_eps: expected a finite number >= 0, got -1.0$",
        ),
        "workers and nothing to compute": ({**NO_ROWS, "workers": 0}, r"workers: expected .*got 0$"),
        "text for workers and nothing to compute": ({**NO_ROWS, "workers": "2"}, r"workers: expected .*got str$"),
        # Python's own messages name the arguments; for too many they count them
        "no x": (without("x"), ".*missing.*'x'"),
        "no mean": (without("mean"), ".*missing.*'mean'"),
        "no stddev": (without("stddev"), ".*missing.*'stddev'"),
        "no correlation": (without("correlation"), ".*missing.*'correlation'"),
        "nothing": (
            without("x", "mean", "stddev", "correlation"),
            ".*missing 4.*'x', 'mean', 'stddev', and 'correlation'",
        ),
        "smooth_eps by position": (positional(True, 1e-10), ".*4 to 5.*6 were given"),
        "unknown keyword": ({"weights": 1.0}, ".*unexpected.*'weights'"),
        "out": ({"out": np.ones((4, 3, 1))}, ".*unexpected.*'out'"),
        "x twice": (positional(x=1.0), ".*multiple.*'x'"),
        # the weights of a mixture, say, passed by position as a fifth array
        "compute_derivatives an array": (
            positional(np.ones((4, 3, 1))),
            "compute_derivatives: expected a bool, got ndarray$",
        ),
    },
    "mixture_logpdf": {
        "no components": (
            {k: np.ones(s) for k, s in {"weights": 0, "mean": (0, 2), "stddev": (0, 2), "correlation": 0}.items()},
            r"weights: expected at least one component, got M = 0$",
        ),
    },
    "mdn_loss": {
        "one pen for three pen logits": (shapes(pen=(4, 3)), rf"raw: expected {RAW}, P = 1 .*got \(4, 3, 15\)$"),
        "no pen for three pen logits": ({"pen": None}, rf"raw: expected {RAW}, P = 0 .*"),
        **{
            f"a sample_weight of {bad}": (
                at("sample_weight", (2, 1), bad),
                rf"sample_weight: expected finite numbers >= 0, got {bad} at index \(2, 1\)$",
            )
            for bad in (-1.0, -5e-324, NAN, INF, -INF)
        },
        "sample_weight of 0 before a bad one": (
            at("sample_weight", ([0, 2], [0, 1]), (0.0, -1.0)),
            r"sample_weight: expected finite numbers >= 0, got -1.0 at index \(2, 1\)$",
        ),
        **{
            f"reduction {bad!r}": ({"reduction": bad}, REDUCTION.format(re.escape(repr(bad))))
            for bad in ("average", "Mean", "", None, 1)
        },
        "the mean of no rows": (
            shapes(raw=(0, 15), x=(0, 2), pen=(0, 3), sample_weight=(0,)),
            NO_MEAN.format("of no rows"),
        ),
        "the mean of no rows without weights": (
            {**shapes(raw=(0, 15), x=(0, 2), pen=(0, 3)), "sample_weight": None},
            NO_MEAN.format("of no rows"),
        ),
        "the mean of rows of weight 0": (
            made("sample_weight", np.zeros_like),
            NO_MEAN.format("over rows of total weight 0"),
        ),
    },
    "mdn_sample": {
        "raw of width 7": ({"raw": np.zeros((4, 7))}, r"raw: expected shape .*P = 0 .*got \(4, 7\)$"),
        "raw without its pen": ({"raw": np.zeros((4, 12)), "pen": 1}, r"raw: .*P = 1 pen.*got \(4, 12\)$"),
        "raw of pens only": ({"raw": np.zeros(3), "pen": 3}, r"raw: expected shape .*M >= 1, got \(3,\)$"),
        "raw of no columns": ({"raw": np.zeros((4, 0))}, r"raw: expected shape .*got \(4, 0\)$"),
        "raw a number": ({"raw": 1.0}, r"raw: expected shape \(\.\.\., P \+ 6 M\), got \(\)$"),
        **{
            f"pen {bad!r}": ({"pen": bad, "raw": np.zeros((4, 9))}, PEN.format(".*"))
            for bad in (2, None, 1.0, np.float64(3.0), "1", [1], np.array(1.0))
        },
        "pen targets": ({"pen": np.zeros(4)}, PEN.format(r"an array of shape \(4,\)")),
        "bias negative": ({"bias": -1.0}, r"bias: expected a finite number >= 0, got -1.0$"),
        "bias inf": ({"bias": INF}, r"bias: expected a finite number >= 0, got inf$"),
        "bias an array": ({"bias": np.zeros(2)}, r"bias: expected a real number, got ndarray$"),
        "temperature 0": ({"temperature": 0}, r"temperature: expected a finite number > 0, got 0$"),
        "temperature NaN": ({"temperature": NAN}, r"temperature: expected a finite number .*, got nan$"),
        "temperature None": ({"temperature": None}, r"temperature: expected a real number, got NoneType$"),
        "size negative": ({"size": (2, -3)}, r"size: expected an integer of at least 0, got -3$"),
        "size fractional": ({"size": 2.5}, r"size: expected an integer, got float$"),
        "size a list": ({"size": [2, 3]}, r"size: expected an integer, got list$"),
        "rng text": ({"rng": "seed"}, RNG.format("str$")),
        "rng negative": ({"rng": -1}, RNG.format("-1")),
        "rng a module": ({"rng": np.random}, RNG.format("module$")),
    },
    "BivariateMixture": {
        "weights negative": (at("weights", (1, 0), -0.25), r"weights: .*>= 0, got -0.25 at index \(1, 0\)$"),
        "weights NaN": (at("weights", (2, 1), NAN), r"weights: .*finite.*, got nan at index \(2, 1\)$"),
        "weights inf": (at("weights", (2, 1), INF), r"weights: .*finite.*, got inf at index \(2, 1\)$"),
        "weights of sum 1.2": (
            {"weights": [[0.5, 0.5], [0.5, 0.7], [1.0, 0.5]]},
            r"weights: expected a sum of 1.*, got 1.2 at index \(1,\)$",
        ),
        "weights all 0": ({"weights": np.zeros(2)}, r"weights: expected a sum of 1.*, got 0.0 at index \(\)$"),
        "weights a number": ({"weights": 1.0}, r"weights: expected shape \(\.\.\., M\), got \(\)$"),
        "weights of another M": ({"means": np.zeros((3, 2))}, r"means: .*with M = 2, got \(3, 2\)$"),
        "weights of another batch": (
            {"means": np.zeros((5, 2, 2))},
            r"means: expected leading axes that broadcast with \(3,\).*, got \(5, 2, 2\)$",
        ),
        "no components": (
            shapes(weights=0, means=(0, 2), stddevs=(0, 2), correlations=0),
            r"weights: expected at least one component, got M = 0$",
        ),
        "means NaN": (at("means", (0, 1, 1), NAN), r"means: .*finite.*, got nan at index \(0, 1, 1\)$"),
        "means inf": (at("means", (0, 1, 1), -INF), r"means: .*finite.*, got -inf at index \(0, 1, 1\)$"),
        "means of 3 coordinates": ({"means": np.zeros((2, 3))}, r"means: expected shape \(\.\.\., M, 2\)"),
        "stddevs 0": (at("stddevs", (1, 1, 0), 0.0), r"stddevs: .*> 0, got 0.0 at index \(1, 1, 0\)$"),
        "stddevs negative": (at("stddevs", (1, 1, 0), -1.0), r"stddevs: .*> 0, got -1.0 at"),
        "stddevs NaN": (at("stddevs", (1, 1, 0), NAN), r"stddevs: .*, got nan at index \(1, 1, 0\)$"),
        "stddevs inf": (at("stddevs", (1, 1, 0), INF), r"stddevs: .*, got inf at index \(1, 1, 0\)$"),
        "stddevs of no axis of 2": ({"stddevs": np.ones(2)}, r"stddevs: expected shape \(\.\.\., M, 2\)"),
        "correlations 1": (at("correlations", (2, 0), 1.0), r"correlations: .*, got 1.0 at index \(2, 0\)$"),
        "correlations -1": (at("correlations", (2, 0), -1.0), r"correlations: .*, got -1.0 at index"),
        "correlations NaN": (at("correlations", (2, 0), NAN), r"correlations: .*, got nan at index"),
    },
    "from_network_output": {
        "raw NaN": (at("raw", (1, 2, 7), NAN), r"raw: expected finite numbers, got nan at index \(1, 2, 7\)$"),
        "raw inf": (at("raw", (1, 2, 7), INF), r"raw: expected finite numbers, got inf at index \(1, 2, 7\)$"),
        "raw of width 7": ({"raw": np.zeros((3, 7))}, rf"raw: expected {RAW}, P = 0 .*, got \(3, 7\)$"),
        "raw without its pen": ({"raw": np.zeros((3, 12)), "pen": 1}, r"raw: .*P = 1 pen.*, got \(3, 12\)$"),
        "raw of pens only": ({"raw": np.zeros(3), "pen": 3}, r"raw: .*M >= 1, got \(3,\)$"),
        "raw a number": ({"raw": 0.0}, r"raw: expected shape .*, got \(\)$"),
        "raw of objects": ({"raw": np.array([None] * 6)}, r"raw: .*dtype object$"),
        **{
            f"pen {bad!r}": ({"pen": bad, "raw": np.zeros((4, 9))}, PEN.format(".*"))
            for bad in (2, 1.0, np.float64(3.0), "1", [1], np.array(1.0))
        },
        "pen an array": ({"pen": np.zeros(4)}, r"pen: .*, got an array of shape \(4,\)$"),
        "bias negative": ({"bias": -0.5}, r"bias: expected a finite number >= 0, got -0.5$"),
        "bias NaN": ({"bias": NAN}, r"bias: expected a finite number >= 0, got nan$"),
        "bias None": ({"bias": None}, r"bias: expected a real number, got NoneType$"),
        "temperature 0": ({"temperature": 0.0}, r"temperature: expected a finite number > 0, got 0.0$"),
        "temperature inf": ({"temperature": INF}, r"temperature: expected a finite number >= 0, got inf$"),
        "temperature text": ({"temperature": "1"}, r"temperature: expected a real number, got '1'$"),
    },
    "from_covariances": {
        "asymmetric": (
            at("covariances", (1, 0, 0, 1), 0.25),
            r"covariances: expected symmetric, positive definite matrices, got .* at index \(1, 0\)$",
        ),
        "singular": (at("covariances", (1, 1), np.ones((2, 2))), r"covariances: .* at index \(1, 1\)$"),
        "indefinite": (at("covariances", (2, 0), [[1, 2], [2, 1]]), r"covariances: .* at index \(2, 0\)$"),
        "a variance of 0": (at("covariances", (0, 1, 1, 1), 0.0), r"covariances: .* at index \(0, 1\)$"),
        "NaN": (at("covariances", (0, 1, 0, 1), NAN), r"covariances: .* at index \(0, 1\)$"),
        "no axis of M": ({"covariances": np.ones((2, 2))}, r"covariances: expected shape \(\.\.\., M, 2, 2\)"),
        "weights of sum 0.75": ({"weights": [0.5, 0.25]}, r"weights: expected a sum of 1.*, got 0.75 at index \(\)$"),
    },
    "fit": {
        "points NaN": (at("points", (1, 1), NAN), r"points: expected finite numbers, got nan at index \(1, 1\)$"),
        "points inf": (at("points", (1, 1), INF), r"points: expected finite numbers, got inf at index \(1, 1\)$"),
        **{
            f"points of shape {s}": (
                {"points": np.ones(s)},
                rf"points: expected shape \(n, 2\), got {re.escape(str(s))}$",
            )
            for s in ((9, 3), (4, 9, 2), (2,))
        },
        "no points": ({"points": np.zeros((0, 2)), "n_components": 1}, OF_TOO_FEW.format(1, 0)),
        "fewer points than components": ({"points": [[0, 1], [1, 0]], "n_components": 3}, OF_TOO_FEW.format(3, 2)),
        "n_components 0": ({"n_components": 0}, r"n_components: expected an integer of at least 1, got 0$"),
        "n_components 2.0": ({"n_components": 2.0}, r"n_components: expected an integer, got float$"),
        "sample_weight negative": (
            {"sample_weight": [1.0, -1.0, *[1.0] * 18]},
            r"sample_weight: expected finite numbers >= 0, got -1.0 at index \(1,\)$",
        ),
        "sample_weight NaN": ({"sample_weight": [NAN] * 20}, r"sample_weight: .*got nan at index \(0,\)$"),
        "sample_weight of another length": ({"sample_weight": np.ones(19)}, r"sample_weight: expected shape \(20,\)"),
        "sample_weight of two axes": ({"sample_weight": np.ones((20, 1))}, r"sample_weight: expected shape \(20,\)"),
        "sample_weight all 0": ({"sample_weight": np.zeros(20)}, r"points: .*with a weight > 0, got 0$"),
        "stddev_floor 0": ({"stddev_floor": 0.0}, r"stddev_floor: expected finite numbers > 0, got 0.0 at index \(\)$"),
        "stddev_floor of 3": (
            {"stddev_floor": [1, 1, 1]},
            r"stddev_floor: expected shape \(\) or \(2,\), got \(3,\)$",
        ),
        "restarts 0": ({"restarts": 0}, r"restarts: expected an integer of at least 1, got 0$"),
        "rng": ({"rng": "seed"}, RNG.format("str$")),
    },
    "pdf": {"x of 3 coordinates": ({"x": np.zeros(3)}, r"x: expected shape \(\.\.\., 2\), got \(3,\)$")},
    "logpdf": {"x a number": ({"x": 1.0}, r"x: expected shape \(\.\.\., 2\), got \(\)$")},
    "score": {"x of another batch": ({"x": np.zeros((4, 2))}, r"x: .*broadcast with \(3,\) .*got shape \(4, 2\)$")},
    "responsibilities": {"x of text": ({"x": "ab"}, r"x: expected an array of real numbers")},
    "component_logpdf": {"x masked": ({"x": np.ma.masked_array(np.zeros((3, 2)))}, r"x: .*masked")},
    "sample": {
        "size negative": ({"size": -1}, r"size: expected an integer of at least 0, got -1$"),
        "size a list": ({"size": [2]}, r"size: expected an integer, got list$"),
        "size fractional": ({"size": (2, 1.5)}, r"size: expected an integer, got float$"),
        "rng negative": ({"rng": -1}, RNG.format("-1")),
        "rng fractional": ({"rng": 1.5}, RNG.format("float$")),
    },
    **{
        name: {
            f"axis {bad!r}": ({"axis": bad}, r"axis: expected 0 or 1, got ")
            for bad in (2, -1, None, 0.0, 1.0, "0", [0], np.array([0, 1]), np.float64(1.0))
        }
        for name in ("marginal", "conditional")
    },
    "credible_level": {
        "mass 0": ({"mass": [0.5, 0.0]}, r"mass: expected numbers between 0 and 1, got 0.0 at index \(1,\)$"),
        "mass 1": ({"mass": 1}, r"mass: expected numbers between 0 and 1, got 1.* at index \(\)$"),
        "mass NaN": ({"mass": [[NAN]]}, r"mass: expected numbers between 0 and 1, got nan at index \(0, 0\)$"),
    },
    "marginal().cdf": {"x": ({"x": np.zeros(4)}, r"x: .*broadcasts with \(3,\).*got \(4,\)$")},
    "marginal().sample": {
        "size": ({"size": -1}, r"size: expected an integer of at least 0, got -1$"),
        "rng": ({"rng": "a"}, RNG.format("")),
    },
}
BAD["conditional"] |= {
    "value of another batch": (
        {"value": np.zeros(4)},
        r"value: expected a shape that broadcasts with \(3,\) of the mixtures, got \(4,\)$",
    ),
    "value of text": ({"value": "x"}, r"value: expected an array of real numbers"),
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
    for function, cases in BAD.items():
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
    names = [function, f"{function}_and_gradient"] if f"{function}_and_gradient" in GOOD_CALLS else [function]
    for name in names:
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
    pattern = rf"^stddev_floor: expected one, because all points agree in coordinate {axis}; got None$"
    with pytest.raises(ValueError, match=pattern):
        BivariateMixture.fit(points, 1)
    fitted = BivariateMixture.fit(points, 1, stddev_floor=0.25)
    assert fitted.means[0, axis] == value
    np.testing.assert_allclose(fitted.stddevs[0, axis], 0.25, rtol=1e-12, atol=0)


@pytest.mark.parametrize("plane", range(6))
def test_a_row_that_no_mixture_can_be_made_of_is_named(plane):
    raw = network_output(2, (2, 3), 1)
    planes(raw, 1)[plane][1, 2, 1] = NAN
    with pytest.raises(
        ValueError, match=rf"^raw: expected finite numbers, got nan at index \(1, 2, {2 + 2 * plane}\)$"
    ):
        BivariateMixture.from_network_output(raw, pen=1)
