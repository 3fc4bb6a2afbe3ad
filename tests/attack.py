"""An attack on the contract. `python tests/attack.py --minutes 1.5 --seed 0`; `--case 123` makes one case again.

Half of the time goes into random calls, half into a search for the worst errors (climb.py). Seed and number determine
a case, which holds a call to the same call made otherwise: of arrays of any layout and dtype, with `out=` of any layout
or over an argument, by any number of workers, of some of the rows, of the whole batch, without the gradient, in a
thread that flushes denormals: the same bits, outputs written whole and nothing beside them, arguments as they were. A
row that holds a NaN or is outside the domain is NaN, no other is; float32 is float64 rounded; what is beyond the dtype
is inf, with gradient 0; errors are within the promise at any number of components; objects that lie, of shapes, states,
numbers or draws, give right results or an error. (test_bad_input.py tests that an error names the bad argument.)

The cases run in a process of their own, so that one that ends it, as a sanitizer does, is named too.
"""

import argparse
import copy
import math
import multiprocessing
import time
import traceback
import warnings
from collections import Counter
from functools import partial

import climb
import numpy as np
from builds import running
from checks import CAN_FLUSH, INF, NAN, assert_same_bits, flat, flushing
from problems import LAYOUTS, OF_POINTS, Forged, lie, mixture, questions, questions_of_points
from reference import LONG

import cymdn
from cymdn import BivariateMixture

SENTINEL = -1.25e30  # in outputs before a call
OF_FEW_AXES = ("contiguous", "strided", "reversed_everywhere", "read_only", "byte_swapped", "misaligned")
ROOM = 1 << 14  # bytes behind an argument that outputs may lie over
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
OTHERS = tuple(map(np.dtype, ("?", "i1", "u1", "i4", "u8", "f2")))
COMPONENTS = (1, 1, 2, 2, 3, 3, 4, 5, 7, 8, 20, 100, 255, 256, 257, 300)  # about a block, and a vector register
ROWS = (1, 1, 2, 3, 5, 6, 33, 85, 129, 257, 2049)  # about a block's rows, and a chunk

NATURAL = {"x": (2,), "weights": ("M",), "mean": ("M", 2), "stddev": ("M", 2), "correlation": ("M",)}
OBJECT = {"weights": ("M",), "means": ("M", 2), "stddevs": ("M", 2), "correlations": ("M",)}
ODD = {
    "x": (NAN, INF, -INF, 1.7e308, 1e200, 5e-324),
    "mean": (NAN, INF, -1.7e308, 1e200, 5e-324),
    "stddev": (NAN, INF, 0.0, -1.0, 1e308),
    "correlation": (NAN, 1.0, -1.0, 1.5),
    "weights": (NAN, INF, -1.0, 0.0, 5e-324),
    "raw": (NAN, INF, -INF, 1.7e308, -1.7e308, 5e-324, 1e30, 745.0),
    "pen": (NAN, INF, -0.1, 1.1, -0.0, 5e-324),
    "sample_weight": (0.0, -0.0, 1e200),
}


def pick(rng, options):
    options = list(options)
    return options[rng.integers(len(options))]


def chance(rng, probability):
    return rng.random() < probability


# Drawing calls


class Call:
    """A function, its arguments, what they end in after the batch, and what may be done to it."""

    def __init__(self, function, arrays, cores, options, **about):
        self.function, self.arrays, self.cores, self.options = function, arrays, cores, options
        self.gradient = about.get("gradient", False)  # whether there is one behind the value
        self.out = about.get("out", True)
        self.by_rows = about.get("by_rows", True)
        self.uncounted = about.get("uncounted", ())  # arrays that do not count for the dtype
        self.workers = about.get("workers", True)
        self.value_only = about.get("value_only")
        self.refuses = about.get("refuses", False)  # what is NaN elsewhere

    @property
    def dtype(self):
        return np.result_type(*(a for name, a in self.arrays.items() if name not in self.uncounted), np.float32)

    @property
    def batch(self):
        return np.broadcast_shapes(*(a.shape[: a.ndim - len(self.cores[name])] for name, a in self.arrays.items()))

    def plain(self):
        """The arrays as the kernels see them."""
        return {name: a.astype(np.float64 if name in self.uncounted else self.dtype) for name, a in self.arrays.items()}

    def whole(self):
        """The same with the whole batch each, as rows."""
        batch = self.batch
        full = {}
        for name, a in self.plain().items():
            core = a.shape[a.ndim - len(self.cores[name]) :]
            full[name] = np.broadcast_to(a, batch + core).reshape(math.prod(batch), *core)
        return full

    def make(self, arrays, **more):
        with warnings.catch_warnings(action="error"), np.errstate(all="raise"):
            return flat(self.function(**arrays, **self.options, **more))


def draw_sizes(rng, most):
    m = pick(rng, COMPONENTS)
    n = pick(rng, [rows for rows in ROWS if rows * m <= most or rows == 1])
    return (0 if chance(rng, 0.02) else n), m


def draw_batch(rng, n):
    if n == 1 and chance(rng, 0.4):
        return ()
    factors = [d for d in (2, 3, 5) if n and n % d == 0]
    return (pick(rng, factors), n // factors[-1]) if len(factors) == 1 and chance(rng, 0.5) else (n,)


def spoilt(rng, arrays, probability=0.3):
    """Put odd numbers at a few places."""
    for name, a in arrays.items():
        odd = ODD.get(name.removesuffix("s") if name.endswith("ions") or name in ("means", "stddevs") else name)
        if a.size and odd and chance(rng, probability):
            for _ in range(int(rng.integers(1, 4))):
                a.reshape(-1)[rng.integers(a.size)] = pick(rng, odd)
    return arrays


def in_dtypes(rng, arrays):
    """Convert: mostly to one float dtype, at times each to its own."""
    one = pick(rng, FLOATS) if chance(rng, 0.8) else None
    return {name: converted(a, one or pick(rng, FLOATS * 3 + OTHERS)) for name, a in arrays.items()}


def converted(values, dtype):
    if dtype.kind in "iu":
        values = np.clip(np.nan_to_num(np.rint(values)), 0 if dtype.kind == "u" else -100, 100)
    return np.ascontiguousarray(np.asarray(values).astype(dtype)).reshape(np.shape(values))


def draw_natural(rng, n, m, batch, names=tuple(NATURAL)):
    """Points and natural parameters; some for the whole batch."""
    given = climb.split_natural(climb.draw_natural(rng, max(n, 1), m), m)
    if chance(rng, 0.3):  # few numbers: ties, points on means
        given["x"], given["mean"] = np.rint(given["x"].clip(-2, 2)), np.rint(given["mean"].clip(-2, 2))
    arrays = {}
    for name in names:
        a = given[name]
        arrays[name] = a[:1].reshape(a.shape[1:]) if chance(rng, 0.2) else a[:n].reshape(*batch, *a.shape[1:])
    if all(a.ndim == len(NATURAL[name]) for name, a in arrays.items()):
        arrays[names[-1]] = given[names[-1]][:n].reshape(*batch, *given[names[-1]].shape[1:])
    return arrays


def draw_mixture(rng):
    (n, m), weighted, gradient = draw_sizes(rng, 2000), chance(rng, 0.6), chance(rng, 0.7)
    names = tuple(NATURAL) if weighted else tuple(name for name in NATURAL if name != "weights")
    arrays = in_dtypes(rng, spoilt(rng, draw_natural(rng, n, m, draw_batch(rng, n), names)))
    name = "mixture_logpdf" if weighted else "gaussian_logpdf"
    return Call(
        getattr(cymdn, name + "_and_gradient" * gradient), arrays, {k: NATURAL[k] for k in names}, {},
        gradient=gradient, value_only=getattr(cymdn, name) if gradient else None,
    )  # fmt: skip


def draw_density(rng):
    n, m = draw_sizes(rng, 2000)
    arrays = draw_natural(rng, n, m, (n,), ("x", "mean", "stddev", "correlation"))
    arrays = {name: a if a.ndim > len(NATURAL[name]) else a[None] for name, a in arrays.items()}
    arrays["x"], arrays["correlation"] = arrays["x"][:, None], arrays["correlation"][..., None]
    options = {"smooth_eps": pick(rng, (1e-10, 0.0, 1e-3, 1)), "compute_derivatives": chance(rng, 0.7)}
    return Call(
        cymdn.gaussian_density_batch, in_dtypes(rng, spoilt(rng, arrays)),
        {"x": (1, 2), "mean": ("M", 2), "stddev": ("M", 2), "correlation": ("M", 1)}, options,
        out=False,
    )  # fmt: skip


def draw_loss(rng):
    (n, m), pens, gradient = draw_sizes(rng, 2000), pick(rng, (0, 1, 3)), chance(rng, 0.7)
    batch, reduction = draw_batch(rng, n), pick(rng, ("none", "none", "sum", "mean"))
    arrays = climb.split_raw(climb.draw_raw(rng, n, m, pens), m, pens)
    if pens == 1:
        arrays["pen"] = arrays["pen"][:, 0]
    if chance(rng, 0.3) and pens:
        arrays["pen"] = np.clip(rng.random(arrays["pen"].shape) * 1.2, 0, 1)
    if chance(rng, 0.4):
        arrays["sample_weight"] = rng.exponential(size=n)
    arrays = spoilt(rng, {name: a.reshape((*batch, *a.shape[1:])) for name, a in arrays.items()})
    arrays, options = in_dtypes(rng, arrays), draw_floor(rng)
    if "sample_weight" in arrays:
        arrays["sample_weight"] = np.nan_to_num(arrays["sample_weight"])
        if reduction == "mean" and not arrays["sample_weight"].any():
            reduction = "sum"
    elif pens and chance(rng, 0.2):
        options["pen_weight"] = pick(rng, (0.5, 2, np.float32(0.1)))
    return Call(
        cymdn.mdn_loss_and_gradient if gradient else cymdn.mdn_loss, arrays,
        {"raw": ("W",), "x": (2,), "pen": (3,) if pens == 3 else (), "sample_weight": ()},
        options | {"reduction": reduction},
        gradient=gradient, by_rows=reduction == "none", uncounted=("pen", "sample_weight"),
        value_only=cymdn.mdn_loss if gradient else None,
    )  # fmt: skip


def draw_sample(rng):
    (n, m), pens = draw_sizes(rng, 600), pick(rng, (0, 1, 3))
    raw = climb.split_raw(climb.draw_raw(rng, n, m, pens), m, pens)["raw"].reshape(*draw_batch(rng, n), pens + 6 * m)
    size = pick(rng, (None, 1, 3, (2, 3), (), 0))
    options = {"pen": pens, "size": size, "rng": int(rng.integers(1 << 30)), **draw_sharpening(rng)}
    return Call(
        cymdn.mdn_sample, in_dtypes(rng, spoilt(rng, {"raw": raw})), {"raw": ("W",)}, options,
        out=False, by_rows=False, workers=False,
    )  # fmt: skip


def draw_sharpening(rng):
    sharpening = {"bias": pick(rng, (0.0, 0.5, 3)), "temperature": pick(rng, (1, 0.1, 2.5))}
    return draw_floor(rng) | (sharpening if chance(rng, 0.3) else {})


def draw_floor(rng):
    floors = (0.3, (1e-3, 0.0), (0.0, 2.0), (1e300, 1e-300), np.float32([0.1, 5e-324]))
    return {"stddev_floor": pick(rng, floors)} if chance(rng, 0.25) else {}


OF_NO_POINTS = tuple(questions(mixture()))
OF_POINTS_TOO = tuple(questions_of_points(mixture(), np.zeros(2)))
DEAR = {"mode": 30, "credible_level": 4}  # components for which these may be asked


def use_mixture(mixtures, method, x=None, **options):
    """The answer to a question."""
    asked = questions(mixtures) if x is None else questions_of_points(mixtures, x)
    answer = asked[method](**options)
    if method == "credible_level":
        assert (answer[..., 1:] <= answer[..., :-1]).all(), "a larger mass has a higher level"
    if method in ("cdf", "probability"):
        assert not (answer > 1).any(), "a probability above 1"
    return answer


def of_natural(method, weights, means, stddevs, correlations, **given):
    return use_mixture(BivariateMixture(weights, means, stddevs, correlations), method, **given)


def of_network(method, raw, pen=0, bias=0.0, temperature=1.0, stddev_floor=None, **given):
    sharpening = {"bias": bias, "temperature": temperature, "stddev_floor": stddev_floor}
    return use_mixture(BivariateMixture.from_network_output(raw, pen=pen, **sharpening), method, **given)


def draw_object(rng):
    cheap = [name for name in OF_NO_POINTS if name != "credible_level"]
    method = "credible_level" if chance(rng, 0.01) else pick(rng, (*OF_POINTS, *OF_POINTS_TOO, *cheap))
    (n, m), pens = draw_sizes(rng, DEAR.get(method, 600)), pick(rng, (0, 1, 3))
    if method == "credible_level":
        m = min(m, 8)  # it evaluates some 1e5 points, several times
    batch, options = draw_batch(rng, n), {}
    if chance(rng, 0.5):
        given = draw_natural(rng, n, m, batch)
        arrays = dict(zip(OBJECT, [given[name] for name in ("weights", "mean", "stddev", "correlation")], strict=True))
        cores, function, x = OBJECT | {"x": (2,)}, partial(of_natural, method), given["x"]
    else:
        given = climb.split_raw(climb.draw_raw(rng, n, m, pens), m, pens)
        arrays, x = {"raw": given["raw"].reshape(*batch, pens + 6 * m)}, given["x"].reshape(*batch, 2)
        cores, function, options = (
            {"raw": ("W",), "x": (2,)},
            partial(of_network, method),
            {"pen": pens, **draw_sharpening(rng)},
        )
    arrays = in_dtypes(rng, spoilt(rng, arrays | ({"x": x} if method in OF_POINTS_TOO else {}), 0.1))
    more = {"by_rows": not method.startswith("sample"), "workers": method in OF_POINTS, "refuses": True}
    return Call(function, arrays, cores, options, out=False, **more)


DRAWS = (draw_mixture, draw_mixture, draw_loss, draw_loss, draw_density, draw_sample, draw_object, draw_object)


# What the contract says of a row


def classes(call):
    """Rows that must be NaN; those of finite numbers of the domain that must not; whether an object refuses them."""
    given = {name.removesuffix("s") if name != "weights" else name: a for name, a in call.whole().items()}
    with np.errstate(invalid="ignore"):
        if "weights" in given:
            excluded = given["weights"] == 0
            for name, value in (("mean", 0.0), ("stddev", 1.0), ("correlation", 0.0)):
                given[name] = np.where(
                    excluded.reshape(excluded.shape + (1,) * (given[name].ndim - 2)), value, given[name]
                )
        density = call.function is cymdn.gaussian_density_batch
        bad = {
            "stddev": lambda a: ~(a >= 0) if density else ~(a > 0),
            "correlation": lambda a: np.isnan(a) if density else ~(abs(a) < 1),
            "weights": lambda a: ~(a >= 0),
            "pen": lambda a: ~((a >= 0) & (a <= 1)),
        }
        n = len(next(iter(given.values())))
        nan, finite, refused = np.zeros(n, bool), np.ones(n, bool), False
        for name, a in given.items():
            rows = a.reshape(n, math.prod(a.shape[1:]))
            good = np.isfinite(rows)
            if name == "raw" and call.refuses:  # a logit may be -inf, which excludes all that its component holds
                pens = call.options.get("pen", 0)
                excluded = rows[:, pens : pens + (rows.shape[1] - pens) // 6] == -INF
                good[:, pens:] |= np.tile(excluded, 6)
            refused |= ~good.all() and name != "x"
            nan |= bad.get(name, np.isnan)(rows).any(axis=1)
            finite &= np.isfinite(rows).all(axis=1)
        if "weights" in given:
            finite &= (given["weights"] > 0).any(axis=1)
    return nan, finite & ~nan, refused


def check_plain(rng, call):
    """The call of contiguous arrays of one dtype; None where it has to be refused."""
    nan, finite, refused = classes(call)
    try:
        results = call.make(call.plain())
    except ValueError as error:
        refusal = str(error)
        # 0 / 0 of no rows or no weight; objects refuse what elsewhere gives NaN
        assert call.refuses or call.options.get("reduction") == "mean", f"refused: {refusal}"
        odd = (
            not finite.all()
            or 0 in call.batch
            or "weights" in str(error)
            or not call.arrays.get("weights", np.ones(1)).all()
        )
        assert not call.refuses or odd, f"refused: {refusal}"
        return None
    assert all(r.dtype in (call.dtype, np.int64) for r in map(np.asarray, results)), "a result of another dtype"
    assert not call.refuses or not refused, "not refused"
    if len(nan) and call.by_rows and not call.refuses:
        check_rows_of(call, [np.asarray(r).reshape(len(nan), -1) for r in results], nan, finite)
    return results


def check_rows_of(call, results, nan, finite):
    weight = call.whole().get("sample_weight", np.ones(len(nan)))
    value, stacked = results[0], np.concatenate(results, axis=1)
    density, single = call.function is cymdn.gaussian_density_batch, call.arrays.keys().isdisjoint({"weights", "raw"})
    assert not stacked[weight == 0].any(), "not 0 in a row of weight 0"
    finite = finite & (weight < 1e3)
    if not single:
        assert np.isnan(stacked[nan & (weight > 0)]).all(), "not NaN in a row that has to be"
    elif not density or len(value):
        assert np.isnan(value[nan]).any(axis=1).all(), "not NaN in a row that has to be"
    if not density:
        assert not np.isnan(stacked[finite]).any(), "NaN for finite arguments"
    if call.gradient and not single:
        # not where a stddev of 0, log stddev -inf, makes the density inf
        beyond = value[:, 0] == (INF if "raw" in call.arrays else -INF)
        assert not stacked[beyond & (weight < 1e3), 1:].any(), "not 0 beyond the dtype"
    if call.dtype == np.float32 and not density:
        doubles = np.asarray(call.make({k: a.astype(np.float64) for k, a in call.plain().items()})[0]).reshape(
            value.shape
        )
        # a row's loss beyond the dtype is inf, also if a weight below 1 brings it back
        beyond = np.abs(doubles) > float(np.finfo(np.float32).max) * weight[:, None]
        doubles[beyond] = np.copysign(INF, doubles[beyond])
        with np.errstate(over="ignore"):
            assert_same_bits(value[finite], doubles.astype(np.float32)[finite])


def check_sum(call):
    """A sum or mean of losses against the losses of rows."""
    if call.options.get("reduction") not in ("sum", "mean") or 0 in call.batch:
        return
    arrays, weight = call.plain(), np.asarray(call.arrays.get("sample_weight", np.ones(call.batch)), float)
    total, *gradient = map(np.asarray, call.make(arrays))
    rows, *row_gradient = map(np.asarray, flat(call.function(**arrays, **call.options | {"reduction": "none"})))
    divisor = math.fsum(weight.ravel()) if call.options["reduction"] == "mean" else 1.0
    small = np.finfo(call.dtype).tiny
    if (abs(rows) < 1e300).all() and weight.max() < 1e100:  # no sum of them overflows
        eps = 2.0**-52 if call.dtype == np.float64 else 2.0**-23
        size = math.fsum(abs(rows.astype(float)).ravel()) / divisor
        assert abs(float(total) - math.fsum(rows.astype(float).ravel()) / divisor) <= 8 * eps * size + small, (
            "another sum"
        )
        # under a floor a derivative is a sum of two, of the size of the distance, which may cancel
        more = abs(rows.astype(float)) if "stddev_floor" in call.options else 0.0
        for ours, theirs in zip(gradient, row_gradient, strict=True):
            near = (
                np.abs(ours.astype(float) - theirs.astype(float) / divisor)
                <= 8 * eps * (abs(theirs) + (weight + more)[..., None]) / divisor + small
            )
            assert (near | ~np.isfinite(theirs)).all(), "another gradient of a sum"


# The same call made otherwise


def laid_out(values, layout):
    if layout == "list":
        return values.tolist()
    if layout == "roomy":
        memory = np.zeros(values.nbytes + ROOM, np.uint8)
        array = memory[: values.nbytes].view(values.dtype).reshape(values.shape)
        array[...] = values
        return array
    return LAYOUTS[layout](values)


def memory_of(array):
    """The whole memory that an array is a view of, as bytes."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return np.frombuffer(array.base, np.uint8) if array.base is not None else array.ravel(order="K").view(np.uint8)


def layouts_of(values):
    return tuple(LAYOUTS) if values.ndim > 1 else OF_FEW_AXES if values.ndim else ("contiguous",)


def draw_out(rng, call, expected, arguments):
    """Return arrays to write to, some None; at times one in the memory of an argument."""
    out = []
    for a in expected:
        names = [name for name in layouts_of(a) if name not in ("read_only", "subclass")]
        given = laid_out(np.full(a.shape, SENTINEL, a.dtype), pick(rng, names))
        out.append(None if chance(rng, 0.2) and len(expected) > 1 else given)
    name, k = pick(rng, call.arrays), int(rng.integers(len(out)))
    if chance(rng, 0.3) and expected[k].nbytes + 16 <= ROOM:
        arguments[name] = laid_out(call.arrays[name], "roomy")
        offset = pick(rng, (0, 1, expected[k].itemsize, 16))
        memory = memory_of(arguments[name])[offset : offset + expected[k].nbytes]
        out[k] = memory.view(expected[k].dtype).reshape(expected[k].shape)
        return out, name
    return out, None


def check_otherwise(rng, call, expected):
    """The same numbers in any layout and dtype, written to any array, by any number of workers: the same bits."""
    expected = [np.asarray(a) for a in expected]
    arguments = {
        name: laid_out(
            a, "list" if chance(rng, 0.05) and 0 < a.size < 200 and a.dtype == np.float64 else pick(rng, layouts_of(a))
        )
        for name, a in call.arrays.items()
    }
    more, out, over = {}, [], None
    if call.workers and chance(rng, 0.6):
        more["workers"] = pick(rng, (1, 2, 3, 7, -1))
    if call.out and chance(rng, 0.7):
        out, over = draw_out(rng, call, expected, arguments)
        more["out"] = out[0] if len(out) == 1 else (out[0], tuple(out[1:])) if chance(rng, 0.5) else tuple(out)
        if len(out) == 2:
            more["out"] = tuple(out)
    inputs = {name: a.tobytes() for name, a in arguments.items() if isinstance(a, np.ndarray) and name != over}
    apart = [(a, memory_of(a).copy()) for a in out if a is not None and over is None]
    threshold, running.WORKER_COMPONENTS = running.WORKER_COMPONENTS, pick(rng, (1, 10, 100))
    try:
        results = call.make(arguments, **more)
    finally:
        running.WORKER_COMPONENTS = threshold
    for name, before in inputs.items():
        assert arguments[name].tobytes() == before, "an argument was modified"
    for result, array in zip(results, out or [None] * len(results), strict=True):
        assert array is None or result is array, "not the array given as out"
    for result, wanted in zip(results, expected, strict=True):
        assert_same_bits(np.asarray(result, wanted.dtype), wanted)
    for array, memory in apart:
        array[...] = SENTINEL
        assert (memory_of(array) == memory).all(), "written beside an output"


def check_alone(rng, call, expected):
    """Some rows alone, with their arguments in full; without the gradient; and where denormals are flushed."""
    if call.value_only:
        assert_same_bits(call.value_only(**call.plain(), **call.options), expected[0])
    if CAN_FLUSH and not call.refuses and call.arrays.keys() <= {"raw", *NATURAL}:
        with flushing():
            flushed = call.make(call.plain())
        assert_same_bits(flushed, expected)
    if not call.by_rows or 0 in call.batch:
        return
    batch, whole = call.batch, call.whole()
    total = math.prod(batch)
    rows = pick(rng, (rng.integers(total, size=1), np.arange(total)[::-1], rng.integers(total, size=min(total, 5))))
    results = call.make({name: a[rows] for name, a in whole.items()})
    for result, wanted in zip(results, map(np.asarray, expected), strict=True):
        assert_same_bits(result, wanted.reshape(total, *wanted.shape[len(batch) :])[rows])


# Errors at any number of components


def check_accuracy(rng):
    """Rows of the domain against long double, at numbers of components that the search has no time for."""
    name, m = pick(rng, climb.FUNCTIONS), pick(rng, (*COMPONENTS, 700, 5000))
    function, dtype = climb.FUNCTIONS[name], pick(rng, FLOATS)
    rows = function.draw(rng, max(1, min(60, 3000 // m)), m).astype(dtype)
    rows = rows[climb.inside(function, rows, m)]
    if len(rows):
        worst = climb.errors(function, LONG, rows, m).max()
        limit = function.limit(dtype)
        assert worst <= limit, f"{name}, M = {m}: {worst:.3g}, more than {limit:.3g}"


# Mixtures made otherwise


FITS = (
    *({"covariance_type": kind} for kind in ("full", "diag", "tied", "spherical")),
    {"background": True},
    {"allow_missing": True},
    {"covariance": np.float64([[1.0, 0.5], [0.5, 2.0]])},
)


def check_fit(rng):
    """A fitted mixture is legal, the heaviest component first; what is not finite is refused; covariances come back."""
    n, m = int(rng.integers(4, 40)), int(rng.integers(1, 4))
    given = {
        "points": rng.normal(size=(n, 2)) + 5 * rng.integers(0, 2, (n, 1)),
        "sample_weight": rng.exponential(size=n),
    }
    scale, options = pick(rng, (1.0, 1e-100, 1e100)), dict(pick(rng, FITS))
    given["points"] *= scale
    if "covariance" in options:
        options["covariance"] = options["covariance"] * scale**2
    name = pick(rng, (None, "sample_weight" if "allow_missing" in options else "points", "sample_weight"))
    if name:
        given[name][int(rng.integers(n))] = NAN
    elif "allow_missing" in options:
        given["points"][int(rng.integers(n)), int(rng.integers(2))] = NAN
    options |= given | {"n_components": m, "rng": int(rng.integers(1 << 30)), "restarts": 1}
    try:
        fit = cymdn.fit_mixture(**options)
        if chance(rng, 0.3):
            fit = cymdn.fit_mixture(**options, init=fit.mixture)
    except ValueError as error:
        message = str(error)
        assert message.startswith(name or "nothing"), f"refused: {message}"
        return
    assert not name, "not refused"
    assert np.isfinite([fit.log_likelihood, fit.bic]).all(), "no likelihood"
    assert 0 <= fit.background <= 1, "a background of another weight"
    mixture = fit.mixture
    weights, covariances = mixture.weights, mixture.covariances
    assert abs(weights.sum() - 1) <= 2.0**-49, "weights of another sum than 1"
    assert (np.diff(weights) <= 0).all(), "the heaviest is not first"
    assert (mixture.stddevs > 0).all(), "a stddev that is not positive"
    again = BivariateMixture.from_covariances(weights, mixture.means, covariances).covariances
    size = np.sqrt(covariances[:, :1, :1] * covariances[:, 1:, 1:])
    # roots, a quotient and products: some ten roundings
    assert (abs(again - covariances) <= 2.0**-49 * np.maximum(size, abs(covariances))).all(), "other covariances"


# Objects that lie

FALSE = np.zeros(100_000)  # what arrays say that they are


def raise_late(size):
    if size[-1] == 2:  # of normal numbers, which are drawn second
        raise ValueError("rng: no more numbers")
    return np.full(size, 0.5)


class Changing:
    """Another array each time; before it answers, it shrinks one that it is passed with, or writes to it."""

    def __init__(self, rng, array, victim):
        self.rng, self.array, self.victim = rng, array, victim

    def __array__(self, dtype=None, copy=None):
        if self.victim.base is None and chance(self.rng, 0.5):
            self.victim.resize((self.victim.shape[0] // 2, *self.victim.shape[1:]), refcheck=False)
        elif self.victim.size:
            self.victim[-1] = NAN
        return self.array if chance(self.rng, 0.7) else self.array[:-1]


class Number(int):
    """An integer that says it equals all others, and is another one to whoever asks."""

    __hash__ = int.__hash__

    def __eq__(self, other):
        return True

    def __int__(self):
        return int.__mul__(self, 3)

    __index__ = __float__ = __int__


MISERS = {
    "few": lambda size: np.zeros((1, 1, 1)),
    "none": lambda size: None,
    "text": lambda size: "0.5",
    "complex": lambda size: np.ones(size, complex),
    "other order": lambda size: np.asfortranarray(np.full(size, 0.5)),
    "one for all": lambda size: np.broadcast_to(0.5, size),
    "beyond": lambda size: np.full(size, 7.5),
    "NaN": lambda size: np.full(size, NAN),
    "raises": raise_late,
    "": lambda size: np.full(size, 0.5),
}
# What may stand in a state in the place of an item, which is an array in most
SPOILT = (
    lambda a: None,
    lambda a: "text",
    lambda a: object(),
    lambda a: np.dtype("i8"),
    lambda a: np.float64(1.0),
    lambda a: [a, 1.0],
    lambda a: a - 9.0,
    lambda a: Number(1),
    lambda a: [a],
    np.float32,
    lambda a: np.asarray(a, object),
    lambda a: np.zeros(0),
    lambda a: np.zeros((3, 0, 6)),
    lambda a: np.asarray(a)[..., :0],
    lambda a: np.zeros(6 * 5),
    *(lambda a, value=value: np.full(np.shape(a), value) for value in (NAN, INF, -INF, 1e300, -1.0)),
    lambda a: np.reshape(a, (1,) * 45 + np.shape(a)),
    lambda a: np.asarray(a)[..., :-1],
    lambda a: np.asarray(a)[..., None],
    lambda a: np.asarray(a).T,
    lambda a: np.broadcast_to(a, (4, *np.shape(a))),
    lambda a: np.asarray(a).astype(">f8"),
    lambda a: lie(np.asarray(a), FALSE),
)
# What is asked of an object that such a state was taken for its own
QUESTIONS = {
    BivariateMixture: lambda m: (m.logpdf([0.5, 1.0]), m.probability([-1.0, -1.0], [1.0, INF]), m.mode(), m.mean()),
    cymdn.UnivariateMixture: lambda m: (m.logpdf(0.5), m.probability(-1.0, 1.0), m.ppf(0.3), m.mean()),
}


def check_state(rng, mixture):
    """A state with one item spoilt, or lost, is refused and changes nothing, or all methods can work with it."""
    state, kind, forged = list(mixture.__getstate__()), type(mixture), copy.copy(mixture)
    k = int(rng.integers(len(state)))
    try:
        state[k : k + 1] = [pick(rng, SPOILT)(state[k])] if chance(rng, 0.9) else []
    except (TypeError, ValueError, IndexError):
        return  # it has no such item
    try:
        forged.__setstate__(tuple(state) if chance(rng, 0.95) else None)
    except ValueError as error:
        message = str(error)
        assert message.startswith(f"state: expected that of a {kind.__name__}, got "), f"not refused as it: {message}"
        assert_same_bits(forged.__getstate__()[0], mixture.__getstate__()[0])
        return
    draws = forged.sample(2, rng=0)
    shape = forged.batch_shape
    assert kind is not BivariateMixture or not np.isnan(draws).any(), "a state that no mixture has"
    assert forged.dtype in FLOATS, "answers of a dtype that no mixture has"
    assert draws.shape[1 : 1 + len(shape)] == shape, "draws of another shape"
    assert all(answer.shape[: len(shape)] == shape for answer in QUESTIONS[kind](forged)), "answers of another shape"
    assert forged == forged or np.isnan(draws).any(), "not equal to itself"


FORGED = ("out", "argument", "generator", "changing", "number", "state")


def check_forged(rng):
    """A right result or an error, and never memory that is not the arguments' or the result's."""
    n, kind = int(rng.integers(1, 40)), pick(rng, FORGED)
    raw, x = rng.normal(size=(n, 6)), rng.normal(size=(n, 2))
    if kind == "state":
        mixture = BivariateMixture.from_network_output(raw[0] if chance(rng, 0.3) else raw[:3])
        check_state(rng, mixture if chance(rng, 0.5) else mixture.marginal(0))
        return
    try:
        if kind == "out":
            out, wanted = np.zeros(pick(rng, (1, n))), cymdn.mdn_loss(raw, x, reduction="none")
            cymdn.mdn_loss(raw, x, reduction="none", out=lie(out, FALSE))
            assert_same_bits(out, wanted)
        elif kind == "argument":
            wanted = cymdn.mdn_loss(raw, x, reduction="none")
            assert_same_bits(cymdn.mdn_loss(lie(raw, FALSE), lie(x, FALSE), reduction="none"), wanted)
        elif kind == "generator":
            draws = cymdn.mdn_sample(np.zeros((n, 6)), size=3, rng=Forged(MISERS[pick(rng, MISERS)]))
            assert len(np.unique(draws.x)) == 1, "points of other numbers than those given"
        elif kind == "changing":
            raw, out = rng.normal(size=(n, 9)), np.zeros(n)  # with pens; each owns its memory
            victim = pick(rng, (raw, x, out))
            name, array = pick(rng, (("pen", np.eye(3)[rng.integers(3, size=n)]), ("sample_weight", np.ones(n))))
            given = {"pen": np.ones((n, 3)), name: Changing(rng, array, victim)}
            cymdn.mdn_loss(raw, x, **given, reduction="none", out=out, workers=pick(rng, (None, 2)))
        else:
            name = pick(rng, ("pen", "size", "bias", "temperature", "stddev_floor"))
            given = {name: Number(rng.integers(-2, 4)), "rng": 0}
            draws = cymdn.mdn_sample(np.zeros((n, pick(rng, (6, 7, 9, 12)))), **given)
            assert draws.x.shape[-2:] == (n, 2), "points of another shape"
    except (TypeError, ValueError, AttributeError, RuntimeError):
        pass


def check_case(seed, number):
    """Make the calls of a case; AssertionError if anything is wrong."""
    rng = np.random.default_rng([seed, number])
    with np.errstate(all="ignore"):
        if number % 10 == 0:
            check_accuracy(rng)
            return
        if number % 10 == 1:
            (check_forged if chance(rng, 0.8) else check_fit)(rng)
            return
        call = pick(rng, DRAWS)(rng)
        check_case.last = call
        expected = check_plain(rng, call)
        if expected is not None:
            check_sum(call)
            check_otherwise(rng, call, expected)
            check_alone(rng, call, expected)


# Running


def describe(seed, number):
    """Return what the last call was, and how to make it again."""
    call = check_case.last
    shapes = ", ".join(f"{name} {a.dtype}{list(a.shape)}" for name, a in call.arrays.items()) if call else ""
    of = f"{call.function}: {shapes}, {call.options}" if call else "no call"
    return f"{of}\nAgain: python tests/attack.py --seed {seed} --case {number}"


def run(seed, numbers, seconds, current):
    """Check cases until the time is over or one fails; return whether one did."""
    end, made = time.monotonic() + seconds, Counter()
    for number in numbers:
        if time.monotonic() > end:
            break
        current.value, check_case.last = number, None
        try:
            check_case(seed, number)
        except Exception:
            traceback.print_exc()
            print(f"\n{describe(seed, number)}", flush=True)
            return True
        made[getattr(check_case.last and check_case.last.function, "__name__", "others")] += 1
    print(f"seed {seed}: {made.total()} cases, of {dict(made)}", flush=True)
    return False


def run_and_exit(given, numbers, current):
    seconds = 60 * given.minutes
    failed = not given.search_only and run(given.seed, numbers, seconds / (1 if given.calls_only else 2), current)
    current.value = -1
    if given.case is None and not given.calls_only:
        minutes = given.minutes / (1 if given.search_only else 2)
        failed |= climb.search(given.seed, minutes, given.function, given.components, given.dtype) > 0
    raise SystemExit(failed)


def main():
    parser = argparse.ArgumentParser(description="Attack the contract of cymdn.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1.5)
    parser.add_argument("--case", type=int, help="check this one alone")
    parser.add_argument("--calls-only", action="store_true")
    parser.add_argument("--search-only", action="store_true")
    parser.add_argument("--function", action="append", default=[], choices=climb.SEARCHED, help="to be searched")
    parser.add_argument("--components", type=int, nargs="+", default=[1, 2, 3, 5], help="to be searched")
    parser.add_argument("--dtype", nargs="+", default=["float64", "float32"], help="to be searched")
    given = parser.parse_args()
    numbers = range(2**62) if given.case is None else range(given.case, given.case + 1)
    context = multiprocessing.get_context("spawn")
    current = context.Value("q", -1)
    process = context.Process(target=run_and_exit, args=(given, numbers, current))
    process.start()
    process.join()
    if process.exitcode not in (0, 1):
        print(f"Ended by {process.exitcode} in: python tests/attack.py --seed {given.seed} --case {current.value}")
    raise SystemExit(process.exitcode != 0)


if __name__ == "__main__":
    main()
