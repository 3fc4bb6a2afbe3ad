"""A search for the worst errors, by hill climbing; attack.py runs it.

Some thousand climbers each hold the arguments of a call for one row. A step changes these by units in the last place,
by a part of themselves, or to others, and is taken where the error of one result, in what the promise allows, grows.
The errors are measured against long double (reference.py: formulas of textbooks), those of the winners once more in
80 digits. Only the domain of the promise is searched: atanh correlations up to 18, log stddevs within [-40, 40],
points within 10,000 sigma of every component.
"""

import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import reference
from checks import flat
from mpmath import mp
from reference import EPS, EXACT, LONG, PROMISED, Number, side_by_side

from cymdn import (
    _portable,
    gaussian_density_batch,
    gaussian_logpdf_and_gradient,
    mdn_loss_and_gradient,
    mixture_logpdf_and_gradient,
)
from cymdn._mdn import loss_and_gradients

CLIMBERS = 3000
LEAST, MOST = 1e-100, 1e100  # what a coordinate may be, if not 0: squares are neither denormal nor infinite
LEAST_TERMS = 1e-290  # of a float64 number whose digits are all there
LIMIT_OF_FLOAT32 = 0.5 + 1e-6
UNDER_A_FLOOR = 30 * EPS  # the errors promised there: docs/formulas.md


class Function(NamedTuple):
    """What is searched: rows of numbers, the call that they are arguments of, and its exact results."""

    draw: Callable  # rng, rows, m: (rows, d)
    split: Callable  # rows, m: arguments by name
    call: Callable  # arguments: results (rows, k)
    number: Callable  # arithmetic, arguments: Number (rows, k)
    promised: float = PROMISED
    own_arithmetic: bool = False  # whether float32 is computed in float32; then `number` takes its eps

    def limit(self, dtype):
        """What errors of the dtype, as `errors` counts them, may be."""
        return self.promised / EPS if self.own_arithmetic or dtype == np.float64 else LIMIT_OF_FLOAT32


# Rows are raw output and a point, then targets of a pen; or the same of natural parameters.


def spread(rng, shape):
    """Return numbers of many sizes."""
    return rng.normal(size=shape) * 10.0 ** rng.uniform(-3, 0.5, shape)


def draw_raw(rng, n, m, pens=0):
    either = partial(lambda one, other: np.where(rng.random((n, 1)) < 0.5, one, other))
    logits, means = spread(rng, (n, pens + m)), spread(rng, (n, 2 * m)) * (rng.random((n, 1)) < 0.5)
    log_stddev = either(rng.normal(size=(n, 2 * m)), rng.uniform(-40, 40, (n, 2 * m)))
    a = either(rng.normal(size=(n, m)), rng.uniform(-18, 18, (n, m)))
    x = means[:, [0, m]] + np.exp(log_stddev[:, [0, m]]) * rng.normal(size=(n, 2)) * 10.0 ** rng.uniform(-4, 3, (n, 2))
    targets = np.eye(pens)[rng.integers(pens, size=n)] if pens > 1 else rng.integers(0, 2, (n, pens)) * 1.0
    return np.concatenate([logits, means, log_stddev, a, x, targets], axis=1)


def split_raw(rows, m, pens=0):
    raw, x, pen = np.split(rows, [pens + 6 * m, pens + 6 * m + 2], axis=1)
    arguments = {"raw": np.ascontiguousarray(raw), "x": np.ascontiguousarray(x)}
    return arguments | ({"pen": np.ascontiguousarray(pen, np.float64)} if pens else {})


def draw_natural(rng, n, m):
    rows = draw_raw(rng, n, m)
    weights = np.exp(rows[:, :m])
    rows[:, :m] = weights / weights.sum(axis=1, keepdims=True)
    rows[:, 3 * m : 5 * m] = np.exp(rows[:, 3 * m : 5 * m])
    rows[:, 5 * m : 6 * m] = np.tanh(rows[:, 5 * m : 6 * m])
    return rows


def split_natural(rows, m, weighted=True):
    weights, *parts, x = np.split(rows, [m, 2 * m, 3 * m, 4 * m, 5 * m, 6 * m], axis=1)
    parameters = np.stack(parts[:2], axis=-1), np.stack(parts[2:4], axis=-1), np.ascontiguousarray(parts[4])
    arguments = dict(zip(("mean", "stddev", "correlation"), parameters, strict=True))
    return {"x": np.ascontiguousarray(x)} | ({"weights": np.ascontiguousarray(weights)} if weighted else {}) | arguments


split_components = partial(split_natural, weighted=False)


# Calls, and their exact results: the same name ends in _number


def in_rows(results, n):
    return np.concatenate([np.reshape(array, (n, -1)) for array in flat(results)], axis=1)


def value_and_gradient(numbers):
    return side_by_side(numbers[0].exact.shape[:1], numbers)


def loss_number(of, raw, x, pen=None):
    return value_and_gradient(reference.loss(of, raw, x, pen))


def x_gradient(raw, x):
    return loss_and_gradients(raw, x, None, reduction="none")[2]


def x_gradient_number(of, raw, x):
    return reference.negative(reference.score(reference.raw_mixture(of, x, raw)))


def components_number(of, **given):
    return value_and_gradient(reference.gaussian(of, **given))


def mixtures(**given):
    return in_rows(mixture_logpdf_and_gradient(**given), len(given["x"]))


def mixtures_number(of, **given):
    return value_and_gradient(reference.mixture(of, **given))


def density_number(of, x, mean, stddev, correlation, smooth_eps):
    number = reference.density(of, x[:, None], mean, stddev, correlation, smooth_eps)
    # what is denormal on the way has lost digits
    small = number.exact[..., :1] < 1e-250
    return side_by_side((len(x),), [Number(number.exact, np.where(small, np.inf, number.terms))])


def density(x, mean, stddev, correlation, smooth_eps):
    value, derivatives = gaussian_density_batch(
        x[:, None], mean, stddev, correlation[..., None], True, smooth_eps=smooth_eps
    )
    return np.concatenate([value, *derivatives], axis=-1).reshape(len(x), -1)


def components(x, mean, stddev, correlation):
    value, gradient = gaussian_logpdf_and_gradient(x, mean, stddev, correlation)
    derivatives = np.concatenate([a.reshape(*value.shape, -1) for a in gradient], axis=-1)
    return in_rows([value, derivatives], len(x))


def losses(raw, x, pen=None):
    pen = pen[:, 0] if pen is not None and pen.shape[1] == 1 else pen
    return in_rows(mdn_loss_and_gradient(raw, x, pen, reduction="none"), len(x))


def losses_under_a_floor(raw, x, floor):
    return in_rows(loss_and_gradients(raw, x, None, stddev_floor=floor, reduction="none"), len(x))


def floored_number(of, raw, x, floor):
    mixed = reference.raw_mixture(of, x, raw, floor=floor)
    return value_and_gradient([*reference.loss(of, raw, x, mixed=mixed), reference.negative(reference.score(mixed))])


def by_operations(raw, x):
    torch = import_module("torch")
    tensors = (torch.from_numpy(np.ascontiguousarray(a)) for a in (raw, x))
    return in_rows([tensor.numpy() for tensor in _portable.rows(torch, *tensors)], len(x))


def operations_number(of, raw, x, eps):
    mixed = reference.raw_mixture(of, x, raw, eps=eps)
    value, gradient = reference.loss(of, raw, x, mixed=mixed, eps=eps)
    return value_and_gradient([value, gradient, reference.negative(reference.score(mixed))])


def floor_function(floor):
    call, number = partial(losses_under_a_floor, floor=floor), partial(floored_number, floor=floor)
    return Function(draw_raw, split_raw, call, number, UNDER_A_FLOOR)


def loss_function(pens):
    return Function(partial(draw_raw, pens=pens), partial(split_raw, pens=pens), losses, loss_number)


def density_function(smooth_eps):
    call, number = partial(density, smooth_eps=smooth_eps), partial(density_number, smooth_eps=smooth_eps)
    return Function(draw_natural, split_components, call, number)


FUNCTIONS = {
    "mdn_loss": loss_function(0),
    "mdn_loss, pen of one": loss_function(1),
    "mdn_loss, pen of three": loss_function(3),
    "gradient in x": Function(draw_raw, split_raw, x_gradient, x_gradient_number),
    "gaussian_logpdf": Function(draw_natural, split_components, components, components_number),
    "mixture_logpdf": Function(draw_natural, split_natural, mixtures, mixtures_number),
    "gaussian_density_batch": density_function(1e-10),
    "gaussian_density_batch, smooth_eps 0": density_function(0.0),
    "mdn_loss, floor of 0.3": floor_function((0.3, 0.3)),
    "mdn_loss, floor of (0.001, 0)": floor_function((1e-3, 0.0)),
}
SEARCHED = dict(FUNCTIONS)
if find_spec("torch"):
    SEARCHED["PyTorch's operations"] = Function(
        draw_raw, split_raw, by_operations, operations_number, own_arithmetic=True
    )


def inside(function, rows, m):
    """Whether rows are in the domain of the promise."""
    given = function.split(rows, m)
    if "raw" in given:
        pens = given["pen"].shape[1] if "pen" in given else 0
        logits, mean, log_stddev, a = reference.raw_parts(given["raw"], pens)
        good = (abs(given["raw"][:, :pens]) <= 700).all(axis=1) & (abs(logits) <= 700).all(axis=1)
    else:
        mean, log_stddev, a = given["mean"], np.log(given["stddev"]), np.arctanh(given["correlation"])
        weights = given.get("weights", np.ones(1))
        good = ((weights > 1e-200) & (weights < 2)).all(axis=-1)
    if "pen" in given:
        pen = given["pen"]
        good &= ((pen == 0) | ((pen > LEAST) & (pen <= 1))).all(axis=1)
    distance = abs(given["x"][:, None] - mean) * np.exp(-log_stddev)
    coordinates = np.concatenate([mean.reshape(len(rows), -1), given["x"]], axis=1)
    good &= ((coordinates == 0) | ((abs(coordinates) > LEAST) & (abs(coordinates) < MOST))).all(axis=1)
    good &= (abs(log_stddev) <= 40).all(axis=(1, 2)) & (abs(a) <= 18).all(axis=1)
    return good & (distance <= 1e4).all(axis=(1, 2))


def errors(function, of, rows, m):
    """Errors of results, (rows, k): in eps of the terms; of float32, in places beside what float64 terms allow."""
    given, eps = function.split(rows, m), float(np.finfo(rows.dtype).eps) if function.own_arithmetic else EPS
    options = {"eps": eps} if function.own_arithmetic else {}
    number = function.number(of, **{name: a.astype(np.float64) for name, a in given.items()}, **options)
    got = function.call(**given)
    real = np.longdouble if of is LONG else EXACT.real
    error = abs(real(got.astype(np.float64)) - number.exact)
    known = np.isfinite(got) & (number.terms < MOST)
    least = np.where(number.terms == 0, LEAST, LEAST_TERMS)
    if function.own_arithmetic and rows.dtype == np.float32:
        least, known = float(np.finfo(np.float32).tiny) / eps, known & (number.terms < 3e38)
    elif rows.dtype == np.float32:
        excess = np.maximum(error - function.promised * number.terms, 0)
        nearest = abs(number.exact).astype(np.float64).clip(0, 3e38).astype(np.float32)
        known &= nearest < 3e38
        scaled = excess / np.spacing(nearest).astype(np.float64)
        return np.where(known, np.where(error == 0, 0, scaled), 0).astype(float)
    scaled = error / (eps * np.maximum(number.terms, least))
    return np.where(known, np.where(error == 0, 0, scaled), 0).astype(float)


# Climbing


def changed(rng, function, rows, m):
    """Return rows like these, each changed in its own way."""
    n, width = rows.shape
    kind = rng.integers(0, 5, n)[:, None]
    chosen = rng.random((n, width)) < np.where(rng.random((n, 1)) < 0.6, 1.5 / width, 0.5)
    by_places = rows + np.spacing(abs(rows)) * rng.integers(-4, 5, rows.shape).astype(rows.dtype)
    by_parts = rows * (1 + rng.normal(size=rows.shape) * 10.0 ** rng.uniform(-15, 0, (n, 1)))
    others = function.draw(rng, n, m)
    new = np.where(kind < 2, by_places, np.where(kind < 4, by_parts, others)).astype(rows.dtype)
    new = np.where(chosen, new, rows)
    return np.where(inside(function, new, m)[:, None], new, rows)


class Found(NamedTuple):
    """The worst errors of a search, where they are, and how many steps it took."""

    worst: np.ndarray  # (k,)
    at: np.ndarray  # (k, d)
    steps: int


def climb(function, m, dtype, rng, seconds, climbers=CLIMBERS):
    """Search for rows with the largest errors of each result."""
    rows = function.draw(rng, climbers, m).astype(dtype)
    rows = rows[inside(function, rows, m)]
    error = errors(function, LONG, rows, m)
    n, k = error.shape
    aim = np.arange(n) % k
    best, steps, end = error[np.arange(n), aim], 0, time.monotonic() + seconds
    worst, at = error.max(axis=0), rows[error.argmax(axis=0)]
    step = 0
    while time.monotonic() < end:
        step += 1
        if step % 20 == 0:  # the worst fifth of those with one aim start again where the best are
            for result in range(k):
                order = np.flatnonzero(aim == result)
                order = order[np.argsort(best[order])]
                some = len(order) // 5
                rows[order[:some]], best[order[:some]] = rows[order[-some:]], best[order[-some:]]
        if step % 1500 == 0:  # and most of all anew
            fresh = function.draw(rng, n, m).astype(dtype)
            again = inside(function, fresh, m) & (rng.random(n) < 0.8)
            rows[again], best[again] = fresh[again], 0
        new = changed(rng, function, rows, m)
        error = errors(function, LONG, new, m)
        steps += n
        larger = error[np.arange(n), aim] > best
        rows[larger], best[larger] = new[larger], error[np.arange(n), aim][larger]
        top = error.argmax(axis=0)
        for result in np.flatnonzero(error.max(axis=0) > worst):
            worst[result], at[result] = error[top[result], result], new[top[result]]
    return Found(worst, at, steps)


def confirmed(function, found, m):
    """Return the worst errors once more, in 80 digits."""
    with mp.workdps(80):
        return np.diagonal(errors(function, EXACT, found.at, m))


def search(seed, minutes, names=(), numbers=(1, 2, 3, 5), dtypes=("float64", "float32")):
    """Search each function in its turn; print the worst errors and return how many are beyond the promise."""
    plan = [(name, m, np.dtype(d)) for d in dtypes for m in numbers for name in SEARCHED if name in (names or SEARCHED)]
    beyond = 0
    for number, (name, m, dtype) in enumerate(plan):
        rng = np.random.default_rng([seed, number])
        with np.errstate(all="ignore"):
            found = climb(SEARCHED[name], m, dtype, rng, 60 * minutes / len(plan))
            worst = confirmed(SEARCHED[name], found, m)
        top, limit = int(worst.argmax()), SEARCHED[name].limit(dtype)
        print(f"{name}, M = {m}, {dtype}: {worst[top]:.3g} of {limit:.3g}, {found.steps} steps", flush=True)
        if not worst[top] <= limit:
            beyond += 1
            print(f"  result {top} of {found.at[top].tolist()}", flush=True)
    return beyond
