"""Random calls of the public functions, each with what judges its result. fuzz.py makes them.

To add a function: write `draw_...(rng)`, which returns a Call, and enter it in DRAWS. Most numbers drawn are inside the
domain of the promised accuracy, where results are known; all that is merely legal, and some that is not, is mixed in.
"""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import fuzz_contract as contract
import numpy as np
from checks import INF, NAN
from fuzz_contract import EPS, FLOAT32, FLOAT64

from cymdn import BivariateMixture

FLOATS = (FLOAT32, FLOAT64)
OTHERS = tuple(map(np.dtype, ("?", "i1", "u1", "i2", "i4", "i8", "u8", "f2")))
BAD_WORKERS = (0, -10_000, 1.5, "2", [1])
BAD_SEEDS = ("seed", -1, 1.5)


def fits(cores, batching, shapes):
    """Whether arrays of these shapes are a legal call, told independently of cymdn."""
    sizes, batches = {}, []
    for name, shape in shapes.items():
        split = len(shape) - len(cores[name])
        if split < 0:
            return False
        for axis, size in zip(cores[name], shape[split:], strict=True):
            if (sizes.setdefault(axis, size) if isinstance(axis, str) else axis) != size:
                return False
        batches.append(shape[:split])
    if batching == "n" and {len(batch) for batch in batches} != {1}:
        return False
    try:
        np.broadcast_shapes(*batches)
    except ValueError:
        return False
    return True


class Call(NamedTuple):
    """A call of a public function of cymdn, or of one of those at the end of this file."""

    function: str
    arrays: dict[str, np.ndarray]
    options: dict[str, Any]
    cores: dict[str, tuple]  # axes that the arrays end in; those before are the batch
    outputs: list[tuple]  # shapes of the results
    judge: Callable[..., None]  # of the arrays as doubles, the results and their dtype: AssertionError, or nothing
    batching: str = "broadcast"  # or "n": each array has one batch axis, of n or 1
    by_rows: bool = True  # whether the results have the batch axes first, rows independent of each other
    bad_options: dict[str, tuple] = MappingProxyType({})
    uncounted: tuple = ()  # arrays that do not count for the dtype
    refusal: str | None = None  # the argument that a ValueError has to name
    has_out: bool = True
    has_workers: bool = True
    value_only: str | None = None  # the function without the gradient
    fits: Callable[..., bool] = fits

    @property
    def dtype(self):
        return np.result_type(*(a for name, a in self.arrays.items() if name not in self.uncounted), np.float32)

    @property
    def batch(self):
        return np.broadcast_shapes(*(a.shape[: a.ndim - len(self.cores[name])] for name, a in self.arrays.items()))

    def plain(self):
        """The arrays as the kernels see them: contiguous, of the result's dtype."""
        return {name: a.astype(FLOAT64 if name in self.uncounted else self.dtype) for name, a in self.arrays.items()}

    def whole(self):
        """The same, with the whole batch each."""
        batch, arrays = self.batch, self.plain()
        return {
            name: np.broadcast_to(a, batch + a.shape[a.ndim - len(self.cores[name]) :]) for name, a in arrays.items()
        }


# Random choices, shapes and dtypes


def chance(rng, probability):
    return rng.random() < probability


def pick(rng, options, weights=None):
    options, weights = list(options), None if weights is None else np.array(list(weights))
    return options[rng.choice(len(options), p=None if weights is None else weights / weights.sum())]


# Numbers of components and how often: on either side of a block of 256, and of a vector register
COMPONENTS = {1: 8, 2: 8, 3: 8, 4: 4, 5: 4, 7: 2, 8: 2, 20: 3, 100: 1, 255: 0.5, 256: 0.5, 257: 0.5, 300: 0.5}
# Numbers of rows: on either side of a block's rows, and of a chunk of 2048
ROWS = (1, 2, 3, 4, 5, 9, 33, 85, 86, 128, 129, 256, 257, 300, 2047, 2048, 2049, 4100)


def draw_sizes(rng, most=2000):
    """Return numbers of rows and components of a product that is not too large; mostly small ones."""
    m = pick(rng, COMPONENTS, COMPONENTS.values())
    most = 10 * most if chance(rng, 0.01) else most
    rows = pick(rng, [rows for rows in ROWS if rows * m <= most or rows == 1])
    return (0 if chance(rng, 0.02) else min(rows, 6) if chance(rng, 0.7) else rows), m


def draw_batch(rng, rows):
    """Return a shape of so many rows."""
    factors = [d for d in (2, 3, 5, 16, 43) if rows and rows % d == 0]
    if rows == 1 and chance(rng, 0.4):
        return ()
    if factors and chance(rng, 0.4):
        d = pick(rng, factors)
        return pick(rng, [(d, rows // d), (rows // d, d), (rows // d, 1, d)])
    return (1,) * int(rng.integers(0, 2)) + (rows,)


def draw_part(rng, batch):
    """Return a shape that broadcasts to the batch."""
    if chance(rng, 0.5):
        return batch
    shape = tuple(1 if chance(rng, 0.4) else size for size in batch)
    return shape[int(rng.integers(0, len(shape) + 1)) :]


def in_dtypes(rng, arrays):
    """Convert the arguments: mostly to one float dtype, at times each to its own."""
    one = pick(rng, FLOATS) if chance(rng, 0.8) else None
    weights = [4, 4, *[1] * len(OTHERS)]
    return {name: converted(a, one or pick(rng, (*FLOATS, *OTHERS), weights)) for name, a in arrays.items()}


def converted(values, dtype):
    """Return values in a dtype, as far as that can hold them."""
    if dtype.kind in "iu":
        values = np.clip(np.nan_to_num(np.rint(values)), 0 if dtype.kind == "u" else -100, 100)
    return np.asarray(values).astype(dtype)


# Random values

ODD_COORDINATES = (NAN, INF, -INF, 1.7e308, -1.7e308, 1e200, 5e-324)
ODD_STDDEVS = (NAN, INF, -INF, 0.0, -0.0, -1.0, 5e-324, 1e-310, 1e308)
ODD_CORRELATIONS = (NAN, INF, -INF, 1.0, -1.0, 1.5, -1 - EPS)
ODD_WEIGHTS = (NAN, INF, -1.0, -0.0, 0.0, 5e-324, 1e308)
ODD_RAW = (NAN, INF, -INF, 1.7e308, -1.7e308, 5e-324, 1e30, 745.0)
ODD_PENS = (NAN, INF, -INF, -0.1, 1.1, -0.0, 5e-324)
ODD_ROW_WEIGHTS = (NAN, INF, -1.0, -0.0, 5e-324, 1e300)
ODD_VALUES = (INF, -INF, 1e200)


def spoilt(rng, values, odd, probability=0.1):
    """Put odd numbers at a few places, at times."""
    if values.size and chance(rng, probability):
        values = np.array(values)
        for _ in range(int(rng.integers(1, 4))):
            values.reshape(-1)[rng.integers(values.size)] = pick(rng, odd)
    return values


def powers_of_ten(rng, low, high, shape):
    return 10.0 ** rng.uniform(low, high, shape)


def lognormal(rng, shape):
    return np.exp(rng.normal(size=shape))


def either_sign(rng, numbers):
    return rng.choice([-1.0, 1.0], numbers.shape) * numbers


# How numbers of a kind are drawn, and how often; points on means, ties and zeros come of few numbers
COORDINATES = {
    lambda rng, shape: rng.normal(size=shape): 8,
    lambda rng, shape: rng.choice([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0], shape): 3,
    lambda rng, shape: rng.normal(size=shape) * powers_of_ten(rng, -6, 5, shape): 3,
    lambda rng, shape: either_sign(rng, powers_of_ten(rng, -323, 308, shape)): 1,
}
STDDEVS = {
    lognormal: 8,
    lambda rng, shape: np.ones(shape): 2,
    lambda rng, shape: np.exp(rng.uniform(-40, 40, shape)): 3,
    lambda rng, shape: powers_of_ten(rng, -323, 308, shape): 1,
}
CORRELATIONS = {
    lambda rng, shape: np.tanh(rng.normal(size=shape)): 6,
    lambda rng, shape: rng.choice([0.0, -0.0, 0.5, -0.5], shape): 2,
    lambda rng, shape: either_sign(rng, 1 - 2.0 ** -rng.integers(1, 54, shape)): 2,
}
WEIGHTS = {
    lambda rng, shape: of_sum(rng.exponential(size=shape)): 6,
    lambda rng, shape: of_sum(
        rng.exponential(size=shape) * (rng.random(shape) < 0.6) + 1e-3 * (np.arange(shape[-1]) == 0)
    ): 3,
    lambda rng, shape: rng.exponential(size=shape): 2,
    lambda rng, shape: powers_of_ten(rng, -323, 200, shape): 1,
}
LOG_STDDEVS = {
    lambda rng, shape: rng.normal(size=shape): 7,
    lambda rng, shape: rng.uniform(-40, 40, shape): 3,
    lambda rng, shape: rng.choice([0, -40, 40, 353, -700, 708, -708.5, 745.2, 1e4, -1e30, 1.7e308], shape): 1,
}
ATANH_CORRELATIONS = {
    lambda rng, shape: rng.normal(size=shape): 7,
    lambda rng, shape: rng.uniform(-18, 18, shape): 3,
    lambda rng, shape: rng.choice([0, 18, -20, 37, 354.9, -400, 708, -708.5, 1e30, -1.7e308], shape): 1,
}


def of_sum(weights):
    return weights / weights.sum(axis=-1, keepdims=True)


def draw(rng, kinds, shape):
    return pick(rng, kinds, kinds.values())(rng, shape)


def draw_logits(rng, shape):
    return rng.normal(size=shape) * pick(rng, (1.0, 0.0, 30.0, 1e3, 1e8, 1e30, 1e307), [6, 1, 2, 2, 1, 1, 1])


def draw_raw(rng, batch, m, pens):
    kinds = (COORDINATES, COORDINATES, LOG_STDDEVS, LOG_STDDEVS, ATANH_CORRELATIONS)
    logits = draw_logits(rng, (*batch, pens)), draw_logits(rng, (*batch, m))
    return spoilt(rng, np.concatenate([*logits, *(draw(rng, kind, (*batch, m)) for kind in kinds)], axis=-1), ODD_RAW)


def draw_natural(rng, batches, m, *, odd=0.1):
    """Points, weights and parameters by their usual names, from the shape of the batch of each."""
    return {
        "x": spoilt(rng, draw(rng, COORDINATES, (*batches[0], 2)), ODD_COORDINATES),
        "weights": spoilt(rng, draw(rng, WEIGHTS, (*batches[1], m)), ODD_WEIGHTS, odd),
        "mean": spoilt(rng, draw(rng, COORDINATES, (*batches[2], m, 2)), ODD_COORDINATES, odd),
        "stddev": spoilt(rng, draw(rng, STDDEVS, (*batches[3], m, 2)), ODD_STDDEVS, odd),
        "correlation": spoilt(rng, draw(rng, CORRELATIONS, (*batches[4], m)), ODD_CORRELATIONS, odd),
    }


def draw_pen(rng, batch, pens):
    certain = chance(rng, 0.6)
    if pens == 1:
        pen = rng.integers(0, 2, batch) * 1.0 if certain else rng.random(batch)
    else:
        pen = np.eye(3)[rng.integers(0, 3, batch)] if certain else rng.dirichlet([1, 1, 1], batch)
    return spoilt(rng, pen, ODD_PENS)


def draw_row_weights(rng, batch):
    weight = rng.exponential(size=batch) * (rng.random(batch) < pick(rng, (1.0, 0.7, 0.0), [6, 3, 1]))
    return spoilt(rng, weight, ODD_ROW_WEIGHTS)


# Functions


def draw_density(rng):
    rows, m = draw_sizes(rng)
    m = 0 if chance(rng, 0.02) else m
    n = [(rows if chance(rng, 0.75) else 1,) for _ in range(5)]
    arrays = draw_natural(rng, n, m)
    arrays["x"], arrays["correlation"] = arrays["x"][:, None], arrays["correlation"][..., None]
    del arrays["weights"]
    derivatives = chance(rng, 0.7)
    eps = pick(rng, (1e-10, 0.0, 1e-3, 1, 1e-300, np.float32(1e-6)), [6, 2, 1, 1, 1, 1])
    call = Call(
        "gaussian_density_batch",
        in_dtypes(rng, arrays),
        {"compute_derivatives": derivatives, "smooth_eps": eps},
        {"x": (1, 2), "mean": ("m", 2), "stddev": ("m", 2), "correlation": ("m", 1)},
        [],
        partial(contract.judge_density, smooth_eps=float(eps)),
        batching="n",
        bad_options={
            "smooth_eps": (-1.0, NAN, INF, None, "0"),
            "workers": BAD_WORKERS,
            "compute_derivatives": (np.ones(2),),
        },
        has_out=False,
    )
    one, two = (*call.batch, m, 1), (*call.batch, m, 2)
    return call._replace(outputs=[one, two, two, one] if derivatives else [one])


def draw_mixture(rng):
    rows, m = draw_sizes(rng)
    m = 0 if chance(rng, 0.01) else m
    batch = draw_batch(rng, rows)
    gradient = chance(rng, 0.7)
    call = Call(
        "mixture_logpdf" + ("_and_gradient" if gradient else ""),
        in_dtypes(rng, draw_natural(rng, [draw_part(rng, batch) for _ in range(5)], m)),
        {},
        {"x": (2,), "weights": ("M",), "mean": ("M", 2), "stddev": ("M", 2), "correlation": ("M",)},
        [],
        contract.judge_mixture,
        bad_options={"workers": BAD_WORKERS},
        value_only="mixture_logpdf" if gradient else None,
        refusal=None if m else "weights",
    )
    batch, one, two = call.batch, (*call.batch, m), (*call.batch, m, 2)
    return call._replace(outputs=[batch, one, two, two, one, (*batch, 2)] if gradient else [batch])


def draw_gaussian(rng):
    call = draw_mixture(rng)
    gradient = call.value_only is not None
    call = call._replace(
        function="gaussian_logpdf" + ("_and_gradient" if gradient else ""),
        arrays={name: a for name, a in call.arrays.items() if name != "weights"},
        judge=contract.judge_gaussian,
        value_only="gaussian_logpdf" if gradient else None,
        refusal=None,
    )
    one = (*call.batch, call.arrays["correlation"].shape[-1])
    two = (*one, 2)
    return call._replace(outputs=[one, two, two, one, two] if gradient else [one])


def draw_loss(rng):
    rows, m = draw_sizes(rng)
    pens, batch = pick(rng, (0, 1, 3)), draw_batch(rng, rows)
    x = spoilt(rng, draw(rng, COORDINATES, (*batch, 2)), ODD_COORDINATES)
    arrays = {"raw": draw_raw(rng, batch, m, pens), "x": x}
    if pens:
        arrays["pen"] = draw_pen(rng, batch, pens)
    if chance(rng, 0.4):
        arrays["sample_weight"] = draw_row_weights(rng, batch)
    arrays = in_dtypes(rng, arrays)
    gradient, reduction = chance(rng, 0.7), pick(rng, ("none", "sum", "mean"))
    value = batch if reduction == "none" else ()
    return Call(
        "mdn_loss" + ("_and_gradient" if gradient else ""),
        arrays,
        {"reduction": reduction},
        {"raw": ("W",), "x": (2,), "pen": (3,) if pens == 3 else (), "sample_weight": ()},
        [value, (*batch, pens + 6 * m)] if gradient else [value],
        partial(contract.judge_loss, reduction=reduction, pens=pens),
        by_rows=reduction == "none",
        bad_options={"reduction": ("max", None, 1), "workers": BAD_WORKERS},
        uncounted=("pen", "sample_weight"),
        refusal=refused_loss(arrays.get("sample_weight"), batch, reduction),
        value_only="mdn_loss" if gradient else None,
        fits=fits_loss,
    )


def refused_loss(weight, batch, reduction):
    if weight is not None and not (np.isfinite(weight) & (weight >= 0)).all():
        return "sample_weight"
    nothing = 0 in batch or (weight is not None and not weight.any())
    return "reduction" if reduction == "mean" and nothing else None


def fits_loss(_cores, _batching, shapes):
    if not shapes["raw"]:
        return False
    *batch, width = shapes["raw"]
    pens = {None: 0, tuple(batch): 1, (*batch, 3): 3}.get(shapes.get("pen"), -1)
    rows_fit = shapes["x"] == (*batch, 2) and shapes.get("sample_weight", tuple(batch)) == tuple(batch)
    return rows_fit and pens >= 0 and is_width(width, pens)


def is_width(width, pens):
    return width - pens >= 6 and (width - pens) % 6 == 0


def fits_network(cores, batching, shapes, pens):
    return is_width((0, *shapes["raw"])[-1], pens) and fits(cores, batching, shapes)


def draw_sharpening(rng):
    if chance(rng, 0.7):
        return {}
    return {"bias": pick(rng, (0.0, 0.5, 3, 1e300)), "temperature": pick(rng, (1, 0.1, 2.5, 1e-300, 1e300))}


BAD_SHARPENING = {"bias": (-1.0, NAN, None, "1"), "temperature": (0.0, -1.0, INF, None), "pen": (2, None, np.ones(3))}


def draw_sample(rng):
    rows, m = draw_sizes(rng, most=600)
    pens, batch = pick(rng, (0, 1, 3)), draw_batch(rng, rows)
    size, sharpening = pick(rng, (None, 1, 3, (2, 3), (), 0, m + 1)), draw_sharpening(rng)
    shape = (*(() if size is None else size if isinstance(size, tuple) else (size,)), *batch)
    return Call(
        "mdn_sample",
        in_dtypes(rng, {"raw": draw_raw(rng, batch, m, pens)}),
        {"pen": pens, "size": size, "rng": int(rng.integers(1 << 30)), **sharpening},
        {"raw": ("W",)},
        [(*shape, 2), *([(*shape, 3) if pens == 3 else shape] if pens else []), shape],
        partial(contract.judge_sample, pens=pens, sharpened=bool(sharpening)),
        by_rows=False,
        bad_options={**BAD_SHARPENING, "size": (-1, 1.5, "3", (2, -1)), "rng": BAD_SEEDS},
        has_out=False,
        has_workers=False,
        fits=partial(fits_network, pens=pens),
    )


# Methods of BivariateMixture, and how many components in all they are tried with
OF_POINTS = {"logpdf": 2000, "pdf": 1000, "component_logpdf": 1000, "responsibilities": 1000, "score": 1000}
OF_VALUES = {"line": 600, "conditional": 600}
METHODS = {
    **OF_POINTS,
    **OF_VALUES,
    **dict.fromkeys(("mean", "covariance", "marginal", "parts", "sample"), 600),
    "mode": 60,
    "credible_level": 4,
}
NATURAL_CORES = {"weights": ("M",), "means": ("M", 2), "stddevs": ("M", 2), "correlations": ("M",)}


def draw_object(rng):
    method = pick(rng, METHODS)
    rows, m = draw_sizes(rng, most=METHODS[method])
    batch, pens = draw_batch(rng, rows), pick(rng, (0, 1, 3))
    natural, options = chance(rng, 0.5), {}
    drawn = draw_natural(rng, [draw_part(rng, batch) for _ in range(5)], m, odd=0.02)
    if natural:
        arrays = of_sum_1(drawn)
    else:
        arrays, options = {"raw": draw_raw(rng, draw_part(rng, batch), m, pens)}, {"pen": pens, **draw_sharpening(rng)}
    if method in OF_POINTS:
        arrays["x"] = drawn["x"]
    if method in OF_VALUES:
        values = spoilt(rng, draw(rng, COORDINATES, draw_part(rng, batch)), ODD_VALUES)
        arrays["x" if method == "line" else "value"], options["axis"] = values, int(rng.integers(0, 2))
    arrays = in_dtypes(rng, arrays)
    judge = contract.judge_at_points if method in OF_POINTS else contract.judge_whole
    call = Call(
        "of_natural" if natural else "of_network",
        arrays,
        {"method": method, **options},
        {**NATURAL_CORES, "raw": ("W",), "x": () if method == "line" else (2,), "value": ()},
        [],
        partial(judge, method=method, options={name: option for name, option in options.items() if name != "axis"}),
        by_rows=method != "sample",
        bad_options={
            **({} if natural else BAD_SHARPENING),
            **({"workers": BAD_WORKERS} if method in OF_POINTS else {"axis": (2, "0")} if method in OF_VALUES else {}),
        },
        refusal=refused_natural(arrays) if natural else None if np.isfinite(arrays["raw"]).all() else "raw",
        has_out=False,
        has_workers=method in OF_POINTS,
        fits=fits if natural else partial(fits_network, pens=pens),
    )
    return call._replace(outputs=object_outputs(method, call.batch, m))


def of_sum_1(drawn):
    """Arguments of BivariateMixture."""
    total = np.maximum(drawn["weights"].sum(axis=-1, keepdims=True), 5e-324)
    rest = {name + "s": drawn[name] for name in ("mean", "stddev", "correlation")}
    return {"weights": drawn["weights"] / total, **rest}


def refused_natural(arrays):
    """The first argument that the constructor must refuse."""
    weights, stddevs = arrays["weights"], arrays["stddevs"]
    total = weights.sum(axis=-1, dtype=float)
    good = {
        "weights": (np.isfinite(weights) & (weights >= 0)).all() and (abs(total - 1) <= 1e-6).all(),
        "means": np.isfinite(arrays["means"]).all(),
        "stddevs": (np.isfinite(stddevs) & (stddevs > 2.0**-1022)).all(),
        "correlations": (abs(arrays["correlations"]) < 1).all(),
    }
    return next((name for name, fine in good.items() if not fine), None)


def object_outputs(method, batch, m):
    one, two, pair = (*batch, m), (*batch, m, 2), (*batch, 2)
    return {
        "component_logpdf": [one],
        "responsibilities": [one],
        "score": [pair],
        "mean": [pair],
        "mode": [pair],
        "covariance": [(*pair, 2)],
        "sample": [(3, *pair)],
        "credible_level": [(*batch, 3)],
        "parts": [one, two, two, one, (*two, 2)],
        "line": [batch] * 3,
        "marginal": [one, one, one, batch, batch],
        "conditional": [one, one, one, batch, batch],
    }.get(method, [batch])


def draw_covariances(rng):
    rows, m = draw_sizes(rng, most=300)
    batch = draw_batch(rng, rows)
    drawn = draw_natural(rng, [draw_part(rng, batch) for _ in range(5)], m, odd=0.0)
    stddev = np.exp(rng.normal(size=(*draw_part(rng, batch), m, 2)))
    covariances = stddev[..., :, None] * stddev[..., None, :]
    covariances[..., [0, 1], [1, 0]] *= rng.uniform(-0.99, 0.99, (*stddev.shape[:-1], 1))
    good = not covariances.size or chance(rng, 0.8)
    if not good:  # for certain: a NaN, a negative variance, a correlation beyond 1, no symmetry
        held = np.reshape([[NAN, 0, 0, 1], [1, 0, 0, -1], [1, 1.1, 1.1, 1], [1, 0.5, -0.5, 1]], (-1, 2, 2))
        covariances.reshape(-1, 2, 2)[rng.integers(covariances.size // 4)] = pick(rng, held)
    arrays = {"weights": of_sum_1(drawn)["weights"], "means": rng.normal(size=drawn["mean"].shape)}
    arrays["covariances"] = covariances
    dtype = pick(rng, FLOATS)
    arrays = {name: a.astype(dtype) for name, a in arrays.items()}
    call = Call(
        "of_covariances",
        arrays,
        {},
        {"weights": ("M",), "means": ("M", 2), "covariances": ("M", 2, 2)},
        [],
        contract.judge_covariances,
        refusal=None if good else "covariances",
        has_out=False,
        has_workers=False,
    )
    fine = (abs(arrays["weights"].sum(axis=-1, dtype=float) - 1) <= 1e-6).all()
    outputs = object_outputs("parts", call.batch, m)
    return call._replace(outputs=outputs, refusal=call.refusal if fine else "(weights|covariances)")


def draw_fit(rng):
    n, m = int(rng.integers(1, 40)), int(rng.integers(1, 4))
    points = rng.normal(size=(n, 2)) + 5 * rng.integers(0, 2, (n, 1))
    arrays = {"points": spoilt(rng, points * pick(rng, (1.0, 1e-100, 1e100)), (NAN, INF))}
    if chance(rng, 0.3):
        arrays["sample_weight"] = spoilt(rng, rng.exponential(size=n), (NAN, -1.0))
    arrays = {name: a.astype(FLOAT64) for name, a in arrays.items()}
    weight = arrays.get("sample_weight", np.ones(n))
    refusal = "points" if not np.isfinite(arrays["points"]).all() or n < m else None
    if not (np.isfinite(weight) & (weight >= 0)).all():
        refusal = "(points|sample_weight)" if refusal else "sample_weight"
    return Call(
        "of_fit",
        arrays,
        {"n_components": m, "rng": int(rng.integers(1 << 30)), "restarts": 1, "stddev_floor": None if n > 1 else 1.0},
        {"points": (2,), "sample_weight": ()},
        object_outputs("parts", (), m),
        contract.judge_fit,
        batching="n",
        by_rows=False,
        bad_options={"n_components": (0, 1.5), "rng": BAD_SEEDS, "restarts": (0, "1"), "stddev_floor": (0.0, NAN, "1")},
        uncounted=("sample_weight",),
        refusal=refusal,
        has_out=False,
        fits=lambda cores, batching, shapes: (
            fits(cores, batching, shapes) and len({s[:1] for s in shapes.values()}) == 1
        ),
    )


DRAWS = {
    draw_density: 2,
    draw_gaussian: 2,
    draw_mixture: 3,
    draw_loss: 4,
    draw_sample: 2,
    draw_object: 3,
    draw_covariances: 0.3,
    draw_fit: 0.1,
}


# What takes all arrays of a call and returns arrays


def of_natural(method, weights, means, stddevs, correlations, **arguments):
    """A method of mixtures of natural parameters."""
    return result_of(method, BivariateMixture(weights, means, stddevs, correlations), **arguments)


def of_network(method, raw, pen=0, bias=0.0, temperature=1.0, **arguments):
    """A method of mixtures made from raw network output."""
    mixture = BivariateMixture.from_network_output(raw, pen=pen, bias=bias, temperature=temperature)
    return result_of(method, mixture, **arguments)


def of_covariances(weights, means, covariances):
    """Parameters of mixtures made from covariance matrices."""
    return result_of("parts", BivariateMixture.from_covariances(weights, means, covariances))


def of_fit(points, n_components, **arguments):
    """Parameters of a fitted mixture."""
    return result_of("parts", BivariateMixture.fit(points, n_components, **arguments))


def result_of(method, mixture, x=None, workers=None, axis=0, value=None):
    """What a method returns; of mixtures of one dimension, which some return, what these say of themselves."""
    if method in OF_POINTS:
        return getattr(mixture, method)(x, workers=workers)
    if method == "sample":
        return mixture.sample(3, rng=0)
    if method == "credible_level":
        return mixture.credible_level([0.1, 0.5, 0.9])
    if method == "parts":
        return mixture.weights, mixture.means, mixture.stddevs, mixture.correlations, mixture.covariances
    if method == "line":
        line = mixture.marginal(axis)
        return line.logpdf(x), line.pdf(x), line.cdf(x)
    if method in ("marginal", "conditional"):
        line = mixture.marginal(axis) if method == "marginal" else mixture.conditional(axis, value)
        return line.weights, line.means, line.stddevs, line.mean(), line.variance()
    return getattr(mixture, method)()
