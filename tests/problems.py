"""What test files share to call with: good arguments, and the same arrays in every layout that NumPy knows."""

from functools import partial

import numpy as np
import pytest
from checks import PENS

import cymdn
from cymdn import BivariateMixture

# Good arguments


def density_problem(n=4, m=3, dtype=np.float64, seed=0):
    """Arguments of gaussian_density_batch, by name."""
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
    rng, shapes = np.random.default_rng(seed), {"x": (n, 1, 2), "mean": (n, m, 2), "correlation": (n, m, 1)}
    arguments = {name: rng.integers(0, 2, shape).astype(dtype) for name, shape in shapes.items()}
    return arguments | {"stddev": np.ones((n, m, 2), dtype)}


def density_outputs(result):
    """The arrays that gaussian_density_batch returns, by name."""
    density, derivatives = result
    return {"density": density, **(derivatives._asdict() if derivatives else {})}


def mixture_problem(batch=(6,), m=3, dtype=np.float64, seed=0):
    """x, weights, mean, stddev, correlation."""
    return np.random.default_rng(seed).normal(size=(*batch, 2)).astype(dtype), *parameters(m, batch, dtype, seed + 1)


def component_problem(*args, **keywords):
    """x, mean, stddev, correlation."""
    x, _, *rest = mixture_problem(*args, **keywords)
    return x, *rest


def loss_problem(batch=(6,), m=3, pen="bernoulli", dtype=np.float64, seed=0):
    """raw, x and pen, with correlations up to 0.99, where plain formulas still have their digits."""
    rng = np.random.default_rng(seed)
    raw, x = (rng.normal(size=(*batch, width)).astype(dtype) for width in (PENS[pen] + 6 * m, 2))
    targets = {
        "none": None,
        "bernoulli": rng.integers(0, 2, size=batch).astype(float),
        "categorical": np.eye(3)[rng.integers(0, 3, size=batch)],
    }
    return raw, x, targets[pen]


def row_weights(batch=(6,), seed=1):
    return np.random.default_rng(seed).uniform(0.5, 1.5, batch)


def calls_of(x, weights, mean, stddev, correlation, raw, pen, weight):
    """Calls of the functions of arrays by name, each to be given options; raw (n, 1 + 6 M)."""
    one = weights[0], mean[0], stddev[0], correlation[0]
    drop_in = x[:, None], mean, stddev, correlation[..., None]
    return {
        "density": lambda **k: cymdn.gaussian_density_batch(*drop_in, True, **k),
        "density, one mixture": lambda **k: cymdn.gaussian_density_batch(
            drop_in[0], *(a[:1] for a in drop_in[1:]), True, **k
        ),
        "components": lambda **k: cymdn.gaussian_logpdf_and_gradient(x, mean, stddev, correlation, **k),
        "mixture": lambda **k: cymdn.mixture_logpdf_and_gradient(x, weights, mean, stddev, correlation, **k),
        "grid": lambda **k: cymdn.mixture_logpdf_and_gradient(x, *one, **k),
        "one point": lambda **k: cymdn.mixture_logpdf(x[0], weights, mean, stddev, correlation, **k),
        "loss": lambda **k: cymdn.mdn_loss_and_gradient(raw, x, pen, **k),
        "weighted loss": lambda **k: cymdn.mdn_loss_and_gradient(raw, x, pen, sample_weight=weight, **k),
        "losses": lambda **k: cymdn.mdn_loss_and_gradient(raw, x, pen, reduction="none", **k),
        "sum": lambda **k: cymdn.mdn_loss(raw, x, pen, reduction="sum", **k),
    }


def arguments_of_calls(dtype, n, m):
    """Arguments of calls_of, of ordinary sizes."""
    rng = np.random.default_rng(3)
    raw = rng.normal(size=(n, 1 + 6 * m)).astype(dtype)
    return *mixture_problem((n,), m, dtype), raw, rng.random(n).astype(dtype), rng.random(n).astype(dtype)


def parameters(m=3, batch=(), dtype=np.float64, seed=0):
    """Weights, means, stddevs, correlations of ordinary sizes: components that overlap and differ."""
    rng = np.random.default_rng(seed)
    weights = rng.exponential(size=(*batch, m)) + 0.1
    arrays = (
        weights / weights.sum(axis=-1, keepdims=True),
        2.0 * rng.normal(size=(*batch, m, 2)),
        np.exp(0.5 * rng.normal(size=(*batch, m, 2))),
        np.tanh(rng.normal(size=(*batch, m))),
    )
    return tuple(array.astype(dtype) for array in arrays)


def mixture(m=3, batch=(), dtype=np.float64, seed=0):
    return BivariateMixture(*parameters(m, batch, dtype, seed))


# What mixtures can be asked, by name: functions that return an array or a tuple of them

OF_POINTS = ("pdf", "logpdf", "component_logpdf", "responsibilities", "score", "predict", "cdf")
PARTS = ("weights", "means", "stddevs", "log_stddevs", "correlations", "atanh_correlations", "covariances")
MASSES = (0.05, 0.1, 0.45, 0.5, 0.55, 0.9, 0.99)


def parameters_of(line):
    return line.weights, line.means, line.stddevs, line.mean(), line.variance()


def values_of(line, at):
    quarter = np.full(np.shape(at), 0.25, np.result_type(at, np.float32))
    values = [getattr(line, name)(at) for name in ("pdf", "logpdf", "cdf")]
    values += [getattr(line, name)(np.float32(-1), at) for name in ("probability", "log_probability")]
    return *values, line.ppf(quarter)


def questions(mixtures):
    """The questions that do not depend on points."""
    asked = {name: getattr(mixtures, name) for name in ("mean", "covariance", "mode")}
    asked |= {"parts": lambda: tuple(getattr(mixtures, name) for name in PARTS)}
    asked |= {"credible_level": partial(mixtures.credible_level, MASSES), "sample": partial(mixtures.sample, 5, 0)}
    asked |= {"sample of lines": lambda: tuple(mixtures.marginal(k).sample(5, 0) for k in (0, 1))}
    return asked | {f"marginal {k}": lambda k=k: parameters_of(mixtures.marginal(k)) for k in (0, 1)}


def questions_of_points(mixtures, x, at=None):
    """The questions about points; those about lines are about numbers `at`, by default the second coordinates."""
    given = np.asarray(x)
    at, lower = given[..., 1] if at is None else at, np.array([-1, -np.inf], np.result_type(given, np.float32))

    def conditional(axis):
        line = mixtures.conditional(axis, given[..., axis])
        return *parameters_of(line), *values_of(line, at)

    asked = {name: partial(getattr(mixtures, name), x) for name in OF_POINTS}
    asked |= {name: partial(getattr(mixtures, name), lower, x) for name in ("probability", "log_probability")}
    asked |= {"turned": lambda: mixtures.transform(np.int8([[0, -1], [1, 0]])).logpdf(x)}
    asked |= {f"marginal {k} at numbers": lambda k=k: values_of(mixtures.marginal(k), at) for k in (0, 1)}
    return asked | {f"conditional {k}": partial(conditional, k) for k in (0, 1)}


def answers(mixtures, x, at=None):
    """The answers to all questions."""
    return {name: ask() for name, ask in (questions(mixtures) | questions_of_points(mixtures, x, at)).items()}


def network_output(m=3, batch=(), pens=0, dtype=np.float64, seed=0):
    """Raw output of ordinary sizes: pen logits, logits, means 0 and 1, log stddevs 0 and 1, atanh correlations."""
    rng = np.random.default_rng(seed)
    columns = [rng.normal(size=(*batch, pens)), rng.normal(size=(*batch, m)), 2.0 * rng.normal(size=(*batch, 2 * m))]
    columns += [0.5 * rng.normal(size=(*batch, 2 * m)), rng.normal(size=(*batch, m))]
    return np.concatenate(columns, axis=-1).astype(dtype)


def planes(raw, pens=0):
    """Logits, means 0 and 1, log stddevs 0 and 1, atanh correlations of raw output, each (..., M)."""
    return np.split(raw[..., pens:], 6, axis=-1)


def elements(batch):
    """The mixtures of a batch, or a single one, by their indices."""
    return {(): batch} if not batch.batch_shape else {index: batch[index] for index in np.ndindex(batch.batch_shape)}


def softmax(logits):
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


class Forged(np.random.Generator):
    """A generator that returns whatever a function of the size does."""

    def __init__(self, returned):
        super().__init__(np.random.PCG64(0))
        self.random = self.standard_normal = returned


class Told(Forged):
    """A generator of the numbers that it is told; arrays, or functions of the size."""

    def __init__(self, uniform, normal=0.0):
        super().__init__(None)
        self.random, self.standard_normal = partial(self._told, uniform), partial(self._told, normal)

    def _told(self, numbers, size):
        return np.broadcast_to(np.asarray(numbers(size) if callable(numbers) else numbers, float), size).copy()


class Liar(np.ndarray):
    """Says that it has the shape and the dtype of another array, and shares no memory with it."""

    shape, dtype = property(lambda self: self.told.shape), property(lambda self: self.told.dtype)
    ndim, size = property(lambda self: self.told.ndim), property(lambda self: self.told.size)
    nbytes = property(lambda self: self.told.nbytes)
    view = __array__ = __array_function__ = reshape = None


def lie(array, told):
    array = np.ndarray.view(array, Liar)
    array.told = told
    return array


def plain(array, dtype=None):
    """Return a contiguous, aligned, native, writeable, fresh copy."""
    array = np.asarray(array)
    return np.array(array, dtype=dtype or array.dtype.newbyteorder("="), order="C", copy=True)


def strided(array):
    """Every other element of every axis of a larger array, whose other elements are 99."""
    larger = np.full([2 * size for size in array.shape], 99, array.dtype)
    view = larger[(..., *[slice(None, None, 2)] * array.ndim)]  # with the ellipsis an array of no axes is a view too
    view[...] = array
    return view


def columns_of_a_table(array):
    """The first columns of a wider array: rows are contiguous, the whole is not."""
    wider = np.full((*array.shape[:-1], array.shape[-1] + 3), 99, array.dtype)
    wider[..., : array.shape[-1]] = array
    return wider[..., : array.shape[-1]]


def reversed_everywhere(array):
    backwards = (..., *[slice(None, None, -1)] * array.ndim)
    return array[backwards].copy()[backwards]


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def byte_swapped(array):
    # copies twice, so that the strides of the argument stay as they are
    swapped = array.byteswap()
    return swapped.view(swapped.dtype.newbyteorder())


def at_byte(offset, array):
    memory = np.zeros(offset + array.nbytes, np.uint8)
    view = np.frombuffer(memory.data, array.dtype, array.size, offset).reshape(array.shape)
    view[...] = array
    return view


def field_of_records(array):
    """A field of a packed structured array: strided and misaligned."""
    records = np.zeros(array.shape, [("flag", "i1"), ("value", array.dtype)])
    records["value"] = array
    return records["value"]


class Subclass(np.ndarray):
    """An array of another library, which takes over NumPy's functions; none may be called with it."""

    def __array_ufunc__(self, *arguments, **keywords):
        raise AssertionError("a ufunc was called with a subclass")

    def __array_function__(self, *arguments, **keywords):
        raise AssertionError("a function was called with a subclass")


class HasArray:
    """Converts itself to what a function returns; has other attributes at will."""

    def __init__(self, convert, **attributes):
        self.convert = convert
        self.__dict__.update(attributes)

    def __array__(self, dtype=None, copy=None):
        array = self.convert()
        return array if dtype is None else array.astype(dtype)


# Each takes an array to one of the same dtype and values that lies differently in memory
LAYOUTS = {
    "contiguous": lambda array: array.copy(),
    "strided": strided,
    "columns_of_a_table": columns_of_a_table,
    "reversed_rows": lambda array: array[::-1].copy()[::-1],
    "reversed_everywhere": reversed_everywhere,
    "fortran_ordered": lambda array: array.copy(order="F"),
    "transposed": lambda array: array.swapaxes(0, 1).copy().swapaxes(0, 1),  # the second axis varies slowest
    "read_only": read_only,
    "byte_swapped": byte_swapped,
    "misaligned": partial(at_byte, 1),  # starts one byte after an address that suits the dtype
    "offset_by_one_element": lambda array: at_byte(array.itemsize, array),  # aligned, but for no vector load
    "field_of_records": field_of_records,
    "subclass": lambda array: array.copy().view(Subclass),
}

each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
