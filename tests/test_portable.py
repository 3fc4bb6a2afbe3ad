"""What cymdn.torch and cymdn.jax promise alike: the numbers of cymdn, derivatives of any order, its contract, draws.

Either computes a loss by the compiled kernels or by the operations of cymdn/_portable.py; both run on the CPU here.
What one of the frameworks alone has is in test_torch.py and test_jax.py.
"""

import contextlib
import importlib
import re
from functools import cache, partial
from itertools import product

import builds
import numpy as np
import pytest
import reference
from checks import (
    COMPILE_QUICKLY,
    EPS,
    FLOATS,
    INF,
    NAN,
    PENS,
    REDUCTIONS,
    assert_no_nan,
    assert_same_bits,
    each_dtype,
    each_pen_or_reduction,
    each_reduction,
    flat,
)
from problems import loss_problem, row_weights
from reference import EXTENDED, LONG
from test_accuracy import BOUND, GROUPS, raw_output
from test_contract import any_finite
from test_crosschecks import plain_losses

import cymdn

FRAMEWORKS, PATHS = ("torch", "jax"), ("kernels", "operations")
PIECE = 300  # rows of a call of the operations
UNDER_A_FLOOR = 12.0  # eps of the terms, by the operations: 10.5 is the most of 24,000 random rows; a search finds 17

# PyTorch still uses inside what it warns its users of
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
kernels_alone = pytest.mark.parametrize("path", ["kernels"], indirect=True)
operations_alone = pytest.mark.parametrize("path", ["operations"], indirect=True)


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    """A framework, in which float64 stays that."""
    module = pytest.importorskip(request.param, reason=f"the extra `{request.param}` is not installed")
    with module.enable_x64(True) if request.param == "jax" else contextlib.nullcontext():
        yield module


@pytest.fixture(params=PATHS)
def path(request):
    """What computes the loss."""
    return request.param


@pytest.fixture
def mdn_loss(framework, path, monkeypatch):
    """mdn_loss of a framework, by a path."""
    if framework.__name__ == "jax":
        return builds.jax_module(0 if path == "kernels" else INF).mdn_loss
    module = importlib.import_module("cymdn.torch")
    monkeypatch.setattr(module, "_has_kernels", lambda raw: path == "kernels")
    return module.mdn_loss


def library(framework):
    """The module of a framework's operations."""
    return getattr(framework, "numpy", framework)


def transforms(framework):
    """The module of grad, vmap and others, which PyTorch has under JAX's names."""
    return getattr(framework, "func", framework)


def arrays(framework, *of_numpy):
    return [None if array is None else library(framework).asarray(array) for array in of_numpy]


def cast(array, dtype):
    """An array of a framework in another dtype; what follows is differentiated through it."""
    return array.to(dtype) if hasattr(array, "requires_grad") else array.astype(dtype)


def numbers(*of_framework):
    return [array.detach().numpy() if hasattr(array, "detach") else np.asarray(array) for array in of_framework]


def summed(function):
    """A function that returns a factor times the sum of what another one returns, and this."""

    def of(*given, upstream=1.0):
        value = function(*given)
        return (upstream * value).sum(), value

    return of


def quickly(framework, function):
    return function if framework.__name__ == "torch" else framework.jit(function, compiler_options=COMPILE_QUICKLY)


@cache  # so that JAX compiles once what several tests compute
def slopes_in_jax(jax, function, asked, optimized):
    return (jax.jit if optimized else partial(quickly, jax))(jax.grad(summed(function), asked, has_aux=True))


def value_and_slopes(framework, function, *of_numpy, asked=(0, 1), upstream=1.0, optimized=False):
    """What a function of arrays returns, and the derivatives of its sum, or of a multiple, to those asked for."""
    given = arrays(framework, *of_numpy)
    if not asked:
        return numbers(function(*given))
    if framework.__name__ == "jax":
        slopes, value = slopes_in_jax(framework, function, asked, optimized)(*given, upstream=upstream)
        return numbers(value, *slopes)
    tensors = [given[k].requires_grad_() for k in asked]
    value = function(*given)
    return numbers(value, *framework.autograd.grad(value, tensors, framework.full_like(value, upstream)))


def slopes(framework, function, *of_numpy):
    return value_and_slopes(framework, function, *of_numpy, asked=tuple(range(len(of_numpy))))[1:]


@cache
def by_position(mdn_loss, **keywords):
    """mdn_loss as a function of raw, x, pen, weights and weights of pens."""

    def loss(raw, x, pen=None, weight=None, own=None):
        return mdn_loss(raw, x, pen, sample_weight=weight, pen_weight=own, **keywords)

    return loss


@pytest.fixture
def evaluate(framework, mdn_loss):
    """Loss and gradients, from arrays of NumPy by position."""
    return lambda *given, **keywords: value_and_slopes(framework, by_position(mdn_loss, **keywords), *given)


@pytest.fixture
def evaluate_as_users_do(framework, mdn_loss):
    """The same for raw, x and pen, of whole programs that JAX has optimized, which takes seconds."""

    def of(raw, x, pen=None, floor=None, upstream=1.0):
        loss = by_position(mdn_loss, stddev_floor=floor, reduction="none")
        return value_and_slopes(framework, loss, raw, x, pen, upstream=upstream, optimized=True)

    return of


def flushed(array):
    """Numbers below the smallest normal one made zeros of their sign, as JAX's arithmetic may make them."""
    array = np.asarray(array)
    return np.where(np.abs(array) < np.finfo(array.dtype).tiny, np.copysign(array.dtype.type(0), array), array)


def assert_same_but_for_denormals(got, expected):
    assert_same_bits(*(list(map(flushed, flat(result))) for result in (got, expected)))


@pytest.fixture
def assert_same(framework):
    """Assert that results have the same bits, as far as a framework's arithmetic lets them."""
    return assert_same_bits if framework.__name__ == "torch" else assert_same_but_for_denormals


# The numbers of cymdn


def problem(batch=(6,), m=3, pen="bernoulli", dtype=np.float64):
    """raw, x, pen and weights."""
    return *loss_problem(batch, m, pen, dtype), row_weights(batch)


def of_numpy(raw, x, pen=None, weight=None, reduction="mean"):
    """Loss and gradients as cymdn returns them."""
    return cymdn._mdn.loss_and_gradients(raw, x, pen, sample_weight=weight, reduction=reduction)


@kernels_alone
@pytest.mark.parametrize(
    ("framework", "batch", "m", "pen", "dtype", "weighted", "reduction"),
    [
        *product(["torch"], [(6,)], [3], PENS, FLOATS, [False, True], REDUCTIONS),
        # JAX compiles each
        *(
            ("jax", (6,), 3, pen, dtype, weighted, reduction)
            for dtype, weighted in product(FLOATS, [False, True])
            for pen, reduction in zip(PENS, REDUCTIONS, strict=True)
        ),
        *product(FRAMEWORKS, [(), (1,), (3, 2), (2, 1, 3), (0,)], [3], ["bernoulli"], [np.float64], [True], ["none"]),
        *product(FRAMEWORKS, [(), (1,), (3, 2), (2, 1, 3)], [3], ["categorical"], [np.float64], [True], ["mean"]),
        *product(FRAMEWORKS, [(0,)], [3], ["bernoulli"], [np.float64], [True], ["sum"]),
        # JAX copies few results, and has many written in place
        *product(FRAMEWORKS, [(1,), (300,), (5000,)], [20], ["bernoulli"], [np.float32], [True], ["mean"]),
    ],
    indirect=["framework"],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_loss_and_gradients_have_the_bits_of_numpy(batch, m, pen, dtype, weighted, reduction, evaluate, assert_same):
    given = problem(batch, m, pen, dtype)[: 3 + weighted]
    before = [array.copy() for array in flat(given)]
    assert_same(evaluate(*given, reduction=reduction), of_numpy(*given, reduction=reduction))
    assert_same_bits(given, before)


KINDS = ("bool", "uint8", "int8", "int32", "int64", "float16", "bfloat16", "float32")


@kernels_alone
@pytest.mark.parametrize(
    ("framework", "kind"), [*product(FRAMEWORKS, KINDS), ("jax", "uint16")], indirect=["framework"]
)
def test_pens_and_weights_may_be_of_any_dtype(kind, framework, mdn_loss, assert_same):
    raw, x, pen, _ = problem()
    mask, kind = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0]), getattr(library(framework), kind)
    targets = (cast(array, kind) for array in arrays(framework, pen, mask))
    got = value_and_slopes(framework, by_position(mdn_loss), raw, x, *targets)
    assert_same(got, of_numpy(raw, x, pen, mask))


@kernels_alone
@pytest.mark.parametrize(
    ("asked", "called"),
    [
        ((), "mdn_loss"),
        ((0,), "mdn_loss_and_gradient"),
        ((1,), "loss_and_gradients"),
        ((0, 1), "loss_and_gradients"),
    ],
    ids=str,
)
def test_only_the_gradients_asked_for_are_computed(asked, called, framework, mdn_loss, losses_called, assert_same):
    given = problem()[:3]
    got = value_and_slopes(framework, mdn_loss, *given, asked=asked)
    assert [name for name, *_ in losses_called] == [called]
    loss, *gradients = of_numpy(*given)
    assert_same(got, [loss, *(gradients[k] for k in asked)])


@kernels_alone
@each_dtype
def test_rows_are_scaled_by_what_follows_the_loss(dtype, framework, mdn_loss, assert_same):
    given = problem(dtype=dtype)[:3]
    factors = np.array([1.0, -2.0, 0.25, 3.0, 0.0, 1e-3], dtype)
    (factor,), (loss, *rows) = arrays(framework, factors), of_numpy(*given, reduction="none")
    got = value_and_slopes(framework, lambda *a: factor * mdn_loss(*a, reduction="none"), *given)
    assert_same(got, [factors * loss, *(factors[:, None] * gradient for gradient in rows)])
    _, *got = value_and_slopes(framework, lambda *a: -3.0 * mdn_loss(*a, reduction="sum"), *given)
    assert_same(got, [dtype(-3.0) * gradient for gradient in rows])


@operations_alone
@each_dtype
@each_reduction
def test_operations_give_the_numbers_of_numpy(reduction, dtype, evaluate, losses_called):
    given = problem((50,), dtype=dtype)
    got = evaluate(*given, reduction=reduction)
    assert not losses_called
    # errors of some eps of terms that are up to some 30 times as large as the sum
    tolerance = 100 * EPS[dtype]
    for ours, theirs in zip(got, of_numpy(*given, reduction=reduction), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * abs(theirs).max())


@pytest.mark.parametrize(
    ("framework", "path", "half"),
    [
        *product(["torch"], PATHS, ["float16", "bfloat16"]),
        ("jax", "kernels", "float16"),
        ("jax", "operations", "bfloat16"),
    ],
    indirect=["framework", "path"],
)
def test_half_precision_is_that_of_its_numbers_in_float32(half, framework, mdn_loss, assert_same):
    single, half = (getattr(library(framework), name) for name in ("float32", half))
    loss = by_position(mdn_loss)

    def in_half(raw, x, pen, weight):
        return loss(cast(raw, half), cast(x, half), cast(pen, half), weight)

    def mixed(raw, x, pen, weight):
        return loss(cast(raw, half), x, pen, weight)

    def rounded(array):
        return numbers(*(cast(cast(a, half), single) for a in arrays(framework, array)))[0]

    raw, x, *targets = problem(dtype=np.float32)
    given = rounded(raw), rounded(x), *targets
    expected, of_raw, of_x = value_and_slopes(framework, loss, *given)
    # a cast rounds the gradient that it gets
    assert_same(value_and_slopes(framework, in_half, *given), [expected, rounded(of_raw), rounded(of_x)])
    assert_same(value_and_slopes(framework, mixed, *given), [expected, rounded(of_raw), of_x])


# The exact numbers, and the contract: finite rows never give NaN, a row of weight 0 is skipped


def eps_of(path, dtype):
    """The eps of the arithmetic."""
    return EPS[dtype if path == "operations" else np.float64]


def allowed(path, number, dtype, floor=None):
    """Errors that numbers may have: of the arithmetic, of the result's rounding."""
    # JAX flushes what is below the smallest normal number, and may multiply it by 1 / sigma afterwards
    inverse = 1.0 if floor is None else 1 / max(floor)
    bound = BOUND if floor is None or path == "kernels" else UNDER_A_FLOOR
    of_arithmetic = eps_of(path, dtype) * number.terms + np.finfo(dtype).tiny * inverse
    return bound * of_arithmetic + EPS[dtype] * abs(number.exact)


@cache  # the same for both frameworks
def rows_and_exact(group, pen, floor, dtype, eps):
    """Raw output, points and pens of a group; their losses and gradients, exact."""
    p = {name: array.astype(dtype) for name, array in GROUPS[group](np.random.default_rng(0), PIECE, 3).items()}
    raw, x, target = raw_output(p, pen)
    targets = None if target is None else target.reshape(len(x), -1)
    mixed = reference.raw_mixture(LONG, x, raw, PENS[pen], eps, floor)
    exact = *reference.loss(LONG, raw, x, targets, mixed, eps), reference.negative(reference.score(mixed))
    return raw, x, target, exact


@pytest.mark.skipif(not EXTENDED, reason="long double is double here")
@each_dtype
@pytest.mark.parametrize(
    ("path", "pen", "floor"),
    [
        *(("operations", pen, None) for pen in PENS),
        *(("operations", "none", floor) for floor in ((0.3, 0.3), (1e-3, 0.0))),
        *(("kernels", pen, None) for pen in ("none", "categorical")),  # the same as NumPy's: see test_accuracy.py
        ("kernels", "none", (1e-3, 0.0)),
    ],
    ids=str,
    indirect=["path"],
)
@pytest.mark.parametrize("group", GROUPS)
def test_errors_are_within_8_eps_of_the_terms(group, pen, floor, dtype, path, evaluate_as_users_do):
    raw, x, target, exact = rows_and_exact(group, pen, floor, dtype, eps_of(path, dtype))
    results = evaluate_as_users_do(raw, x, target, floor)
    for got, number in zip(results, exact, strict=True):
        assert (abs(got - number.exact) <= allowed(path, number, dtype, floor)).all()


@each_dtype
@pytest.mark.parametrize(
    ("m", "pen", "floor"),
    [
        *((3, pen, None) for pen in PENS),
        *((m, "none", None) for m in (1, 20)),
        *((3, "none", floor) for floor in ((1e-3, 0.0), (1e10, 1e-30))),
    ],
    ids=str,
)
def test_finite_rows_give_no_nan_whatever_follows_and_an_infinite_loss_gradient_0(
    m, pen, floor, dtype, path, evaluate_as_users_do, assert_same
):
    rng, n = np.random.default_rng(m), 16 * PIECE
    raw, x = any_finite(rng, (n, PENS[pen] + 6 * m), dtype), any_finite(rng, (n, 2), dtype)
    raw[::2, PENS[pen] :][:, : m * int(rng.integers(1, 6))] = 0.5  # so that not all losses are infinite
    x[::7] = raw[::7, PENS[pen] + m : PENS[pen] + 3 * m : m]  # on a mean
    state = np.arange(n) % 3
    target = {"none": None, "bernoulli": state / 2, "categorical": np.eye(3)[state]}[pen]

    def by_pieces(upstream):  # of the shape for which JAX has compiled
        pieces = (
            evaluate_as_users_do(raw[rows], x[rows], None if target is None else target[rows], floor, upstream)
            for rows in np.split(np.arange(n), 16)
        )
        return list(map(np.concatenate, zip(*pieces, strict=True)))

    for upstream in (0.0, -1e30, 3e38, INF, 1.0):
        loss, *gradients = by_pieces(upstream)
        assert_no_nan((loss, *gradients))
        for gradient in gradients:
            assert not gradient[loss == INF].any()
    assert 0.05 < np.isfinite(loss).mean() < 0.95
    if path == "kernels":
        assert_same(
            (loss, *gradients), cymdn._mdn.loss_and_gradients(raw, x, target, stddev_floor=floor, reduction="none")
        )


@cache  # the same for both frameworks
def rows_far_from_means(m, dtype, log_stddev, eps):
    """Raw output, points, and the exact gradient to the points."""
    # means 40 sigma away, whose derivatives may be 40 / sigma: beyond float32 at -88. In half of the rows components
    # tie and derivatives cancel; in the others, correlated, a few components have all of the density
    rng, sigma, n = np.random.default_rng(m), np.exp(log_stddev), PIECE
    means = 40 * sigma * rng.choice([-1.0, 1.0], (n, 2 * m))
    a = 0.01 * rng.normal(size=(n, m)) * (np.arange(n) % 2)[:, None]
    raw = np.hstack([rng.normal(size=(n, m)), means, np.full((n, 2 * m), log_stddev), a]).astype(dtype)
    x = np.zeros((n, 2), dtype)
    return raw, x, reference.negative(reference.score(reference.raw_mixture(LONG, x, raw, eps=eps)))


@pytest.mark.skipif(not EXTENDED, reason="long double is double here")
@pytest.mark.parametrize(("dtype", "log_stddev"), [(np.float32, -88.0), (np.float64, -88.0), (np.float64, -707.0)])
@pytest.mark.parametrize("m", [1, 3, 20, 1000])
def test_gradient_to_x_is_minus_the_sum_of_those_to_the_means_which_may_overflow(
    m, dtype, log_stddev, path, evaluate_as_users_do
):
    raw, x, number = rows_far_from_means(m, dtype, log_stddev, eps_of(path, dtype))
    got = evaluate_as_users_do(raw, x)[2]
    error, largest = allowed(path, number, dtype), LONG.real(np.finfo(dtype).max)
    assert not np.isnan(got).any()
    if path == "kernels" and log_stddev < -700:
        return  # in float64 they count an infinite derivative as the largest number
    beyond, within = abs(number.exact) > largest + error, abs(number.exact) < largest - error
    np.testing.assert_array_equal(got[beyond], np.sign(number.exact[beyond]) * INF)
    assert (abs(got - number.exact) <= error)[within].all()
    assert within.any() or m == 1


@each_reduction
@pytest.mark.parametrize(("held", "dtype"), [(NAN, np.float32), (INF, np.float64), (1e30, np.float32)])
def test_a_row_of_weight_0_is_skipped_whatever_it_holds(held, dtype, reduction, evaluate):
    raw, x, pen, _ = problem(dtype=dtype)
    weight = np.array([1.0, 0.0, 2.0, 0.0, 0.5, 1.0])
    expected = evaluate(raw, x, pen, weight, reduction=reduction)
    raw[1], x[3], pen[1] = held, held, held
    loss, *gradients = got = evaluate(raw, x, pen, weight, reduction=reduction)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for array in gradients if reduction != "none" else (loss, *gradients):
        np.testing.assert_array_equal(array[weight == 0], 0)


@each_reduction
@pytest.mark.parametrize("bad", [-1.0, NAN, INF])
def test_weights_that_are_none_give_nan_where_values_cannot_be_refused(bad, reduction, framework, path, evaluate):
    raw, x, pen, weight = problem()
    weight[2] = bad
    if framework.__name__ == "torch" and path == "kernels":
        with pytest.raises(ValueError, match=r"^sample_weight: expected finite numbers >= 0, got .* at index \(2,\)$"):
            evaluate(raw, x, pen, weight, reduction=reduction)
        return
    loss, *gradients = evaluate(raw, x, pen, weight, reduction=reduction)
    spoilt = np.arange(6) == 2 if reduction == "none" else np.full(6, True)
    np.testing.assert_array_equal(np.isnan(loss), spoilt if reduction == "none" else True)
    for gradient in gradients:
        np.testing.assert_array_equal(np.isnan(gradient).any(-1), spoilt)


def test_there_is_no_mean_over_weights_of_0_but_of_another_element(framework, path, mdn_loss):
    raw, x, pen, weight = problem((3, 4))
    weight[1] = 0
    mapped = transforms(framework).vmap(by_position(mdn_loss))
    given = arrays(framework, raw, x, pen, weight)
    if framework.__name__ == "torch" and path == "kernels":
        with pytest.raises(ValueError, match=r'^reduction: the "mean" over rows of total weight 0 is undefined; use'):
            mapped(*given)
        return
    np.testing.assert_array_equal(np.isnan(*numbers(mapped(*given))), [False, True, False])


@pytest.mark.parametrize(
    ("reduction", "weight"),
    [("none", [1e36, 2.0, 1.0]), ("sum", [1e36, 2.0, 1.0]), ("mean", [1e-45, 3e-45, 2e-38]), ("mean", [3e38] * 3)],
)
def test_tiny_and_huge_weights_do_what_they_do_in_cymdn(reduction, weight, evaluate):
    raw, x = np.zeros((3, 6), np.float32), np.array([[60.0, 0.0], [1.0, 0.0], [0.0, 0.0]], np.float32)
    given = raw, x, None, np.array(weight, np.float32)
    loss, gradient, _ = evaluate(*given, reduction=reduction)
    expected, expected_gradient, _ = of_numpy(*given, reduction=reduction)
    np.testing.assert_allclose(loss, expected, rtol=8 * EPS[np.float32], atol=0)
    # a weighted loss that is inf has gradient 0
    np.testing.assert_allclose(gradient, expected_gradient, rtol=8 * EPS[np.float32], atol=1e-37)


@each_dtype
def test_a_row_that_the_caller_masks_has_gradient_0_whatever_it_holds(dtype, framework, mdn_loss):
    raw, x, *_ = problem((4,), pen="none", dtype=dtype)
    lib = library(framework)
    losses, keep = partial(mdn_loss, reduction="none"), np.array([True, False, True, False])
    raw[1], x[3] = NAN, INF
    for gradient in slopes(framework, losses, raw, x):
        np.testing.assert_array_equal(np.isnan(gradient), [[row == 1] * gradient.shape[1] for row in range(4)])
    (mask,) = arrays(framework, keep)
    for gradient in slopes(framework, lambda *given: lib.where(mask, losses(*given), 0.0), raw, x):
        np.testing.assert_array_equal(gradient[~keep], 0)
        assert gradient[keep].any(axis=-1).all()


def test_a_gradient_of_0_stays_0_whatever_follows(framework, mdn_loss):
    lib, losses = library(framework), partial(mdn_loss, reduction="none")
    raw, x = np.zeros((2, 6), np.float32), np.array([[1e30, 0.0], [1.0, 0.0]], np.float32)
    # the loss of row 0 is inf, and so is the derivative of its square
    gradient, _ = slopes(framework, lambda *given: lib.square(losses(*given)), raw, x)
    np.testing.assert_array_equal(gradient[0], 0)
    assert np.isfinite(gradient).all()
    assert gradient[1].any()
    x[0, 0] = 20.0  # the loss is finite, and exp of it is not
    steep, _ = slopes(framework, lambda *given: lib.exp(losses(*given)), raw, x)
    np.testing.assert_array_equal(steep[0, [0, 2]], 0)  # logit and mean 1, whose own derivatives are 0
    assert np.isinf(steep[0, 1])


@pytest.mark.parametrize(
    ("reduction", "pen", "path"),
    [
        ("none", "bernoulli", "operations"),
        ("sum", "bernoulli", "operations"),
        ("mean", "categorical", "operations"),
        ("sum", "categorical", "kernels"),
    ],
    indirect=["path"],
)
def test_pens_may_have_weights_of_their_own(reduction, pen, evaluate):
    raw, x, pen, w = problem((9,), pen=pen)
    v = row_weights((9,), seed=2)
    w[[0, 1]] = v[[1, 2]] = 0
    raw[0, -1], raw[2, 0] = NAN, INF  # of what is skipped
    loss, *_, of_x = evaluated = cymdn._mdn.loss_and_gradients(
        raw, x, pen, sample_weight=w, pen_weight=v, reduction=reduction
    )
    for ours, expected in zip(evaluate(raw, x, pen, w, v, reduction=reduction), evaluated, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-13)
    assert np.shape(loss) == ((9,) if reduction == "none" else ())
    assert not of_x[w == 0].any()


@operations_alone
def test_weighed_terms_add_up_with_their_second_derivatives(framework, mdn_loss):
    *given, w = problem(pen="categorical")
    v = row_weights(seed=2)
    loss = by_position(mdn_loss, reduction="sum")

    def slope(*given):
        return sum(part.sum() for part in transforms(framework).grad(loss, (0, 1))(*given))

    whole, points, of_pens, same, alone = (
        [part for function in (loss, slope) for part in value_and_slopes(framework, function, *given, *weights)]
        for weights in ((w, v), (w, 0 * v), (0 * w, v), (w, w), (w, None))
    )
    for ours, *parts in (*zip(whole, points, of_pens, strict=True), *zip(same, alone, strict=True)):
        np.testing.assert_allclose(ours, sum(parts), rtol=1e-11, atol=1e-11)


# Transforms


def one_by_one(reduction, raw, x, pen, weight):
    """What vmap should give: cymdn's results for each element."""
    given = raw, x, *([None] * len(raw) if array is None else array for array in (pen, weight))
    results = (of_numpy(*element, reduction) for element in zip(*given, strict=True))
    return list(map(np.array, zip(*results, strict=True)))


def mapped_gradients(framework, loss, axes, *given):
    """Loss and gradients by vmap of the function that returns them."""
    api = transforms(framework)
    mapped = api.vmap(api.grad(summed(loss), (0, 1), has_aux=True), axes)
    gradients, value = quickly(framework, mapped)(*arrays(framework, *given))
    return numbers(value, *gradients)


@kernels_alone
@each_pen_or_reduction
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch", [(4,), ()], ids=str)
def test_under_vmap_each_element_has_its_own_reduction(
    batch, weighted, reduction, pen, framework, mdn_loss, assert_same
):
    *given, weight = problem((5, *batch), pen=pen)
    given.append(weight if weighted else None)
    axes = tuple(None if array is None else 0 for array in given)
    loss, expected = by_position(mdn_loss, reduction=reduction), one_by_one(reduction, *given)
    assert_same(mapped_gradients(framework, loss, axes, *given), expected)
    got = value_and_slopes(framework, transforms(framework).vmap(loss, axes), *given)
    # -0 becomes 0 where PyTorch adds slices up
    assert_same([part + 0.0 for part in got], [part + 0.0 for part in expected])


@kernels_alone
@pytest.mark.parametrize(
    ("axes", "reduction"), [((1, None, None), "none"), ((None, 0, None), "mean"), ((None, None, 0), "sum")]
)
def test_vmap_over_one_argument_is_one_call_if_nothing_is_reduced(
    axes, reduction, framework, mdn_loss, losses_called, assert_same
):
    given = problem((3, 4))[:3]
    repeated = (np.stack([array[0]] * 3) if axis is None else array for array, axis in zip(given, axes, strict=True))
    expected = one_by_one(reduction, *repeated, None)
    losses_called.clear()
    given = (array[0] if axis is None else np.moveaxis(array, 0, axis) for array, axis in zip(given, axes, strict=True))
    got = mapped_gradients(framework, by_position(mdn_loss, reduction=reduction), axes, *given)
    assert len(losses_called) == (1 if reduction == "none" else 3)
    assert_same(got, expected)


@kernels_alone
def test_vmap_of_vmap_over_other_axes(framework, mdn_loss, assert_same):
    vmap, given = transforms(framework).vmap, problem((2, 3, 4), dtype=np.float32)[:3]
    got = vmap(vmap(mdn_loss), 1, 1)(*arrays(framework, *(array.swapaxes(1, 2) for array in given)))
    # the outer vmap runs over the last batch axis of the original, the inner one over its first; rows are left
    expected = [[cymdn.mdn_loss(*(array[i, :, k] for array in given)) for k in range(4)] for i in range(2)]
    assert_same(numbers(got), np.array(expected))


# Derivatives of any order, against those of the same formulas left to the framework


def by_hand(framework, raw, x, pen, *, sample_weight, pen_weight, reduction):
    of_torch = framework.__name__ == "torch"
    logsumexp = framework.logsumexp if of_torch else framework.scipy.special.logsumexp
    losses = plain_losses(library(framework), logsumexp, raw, x, pen)
    weight = library(framework).ones_like(losses) if sample_weight is None else sample_weight
    losses = weight * losses
    return losses if reduction == "none" else losses.sum() / (weight.sum() if reduction == "mean" else 1.0)


def derivatives(framework, loss):
    """Functions of the arguments of the loss: raw, x, pen, and weights if there are any."""
    lib, api = library(framework), transforms(framework)
    grad, hessian, jacfwd, jacrev, jvp, vmap = api.grad, api.hessian, api.jacfwd, api.jacrev, api.jvp, api.vmap

    def total(*given):
        return loss(*given).sum()

    def of_row(*given):
        return total(*(array[None] for array in given))

    def slope(*given):
        return sum(lib.sin(part).sum() for part in grad(total, (0, 1))(*given))

    def along(function):
        """Its value, and its derivative in one direction."""
        return lambda raw, x, *others: jvp(
            lambda raw, x: function(raw, x, *others), (raw, x), (lib.cos(raw), lib.sin(x))
        )

    def of_two(function):
        """Its values for two problems, by vmap."""
        return lambda raw, x, *others: vmap(lambda raw, x: function(raw, x, *others))(
            lib.stack([raw, raw + 1]), lib.stack([x, x - 1])
        )

    return {
        "grad of grad": grad(slope, (0, 1)),
        "hessian": hessian(loss, (0, 1)),
        "jvp of grad": along(grad(total, (0, 1))),
        "third": grad(lambda *given: (along(grad(total))(*given)[1] ** 2).sum()),
        "vmap of hessian": vmap(hessian(of_row)),
        "grad of vmap of grad": grad(lambda *given: (vmap(grad(of_row))(*given) ** 2).sum()),
        "value": loss,
        "jacrev": jacrev(loss, (0, 1)),
        "jacfwd": jacfwd(loss, (0, 1)),
        "jvp": along(loss),
        "jacrev of jacrev": jacrev(jacrev(loss, 1), 0),
        "jacrev of jacfwd": jacrev(jacfwd(loss, 0), 1),
        "grad of hessian": grad(lambda *given: (hessian(loss)(*given) ** 2).sum()),
        "vmap of grad": vmap(grad(of_row, (0, 1))),
        "vmap of grad of two": of_two(grad(total, (0, 1))),
        "grad of vmap of two": grad(lambda *given: of_two(loss)(*given).prod()),
        "jvp of vmap of two": along(of_two(loss)),
    }


BY_REDUCTION = ("value", "jacrev", "jacfwd", "jvp", "hessian", "jacrev of jacrev", "jacrev of jacfwd")
BY_TORCH = (
    "jvp of grad",
    "grad of hessian",
    "vmap of grad",
    "vmap of grad of two",
    "grad of vmap of two",
    "jvp of vmap of two",
)
BY_BOTH = ("grad of grad", "hessian", "third", "vmap of hessian", "grad of vmap of grad")
DERIVATIVES = [
    *product(["torch"], PATHS, BY_REDUCTION, REDUCTIONS, [True]),
    *product(["torch"], PATHS, dict.fromkeys([*BY_REDUCTION, *BY_TORCH, *BY_BOTH]), ["mean"], [False]),
    # second derivatives are those of the operations everywhere; JAX has to compile each
    *(("jax", "operations", name, "mean", True) for name in BY_BOTH[1:]),
    ("jax", "operations", "grad of grad", "none", True),
    ("jax", "kernels", "grad of grad", "none", True),
    ("jax", "kernels", "vmap of hessian", "mean", True),
]


def differentiated(framework, loss, name, reduction, weighted):
    """A derivative at two problems: an ordinary one, and one where the first derivatives to the means are 0."""
    derivative = quickly(framework, derivatives(framework, by_position(loss, reduction=reduction))[name])
    raw, x, pen, weight = problem((3,), 2)
    weights = (weight,) if weighted else ()
    problems = (raw, x, pen, *weights), (0 * raw, 0 * x, 0 * pen, *weights)
    return [numbers(*flat(derivative(*arrays(framework, *given)))) for given in problems]


@cache  # the same for both paths
def of_formulas(framework, *case):
    return differentiated(framework, partial(by_hand, framework), *case)


@pytest.mark.parametrize(
    ("framework", "path", "name", "reduction", "weighted"), DERIVATIVES, indirect=["framework", "path"]
)
def test_derivative_is_that_of_the_formulas(name, reduction, weighted, framework, mdn_loss):
    case = name, reduction, weighted
    ours, theirs = differentiated(framework, mdn_loss, *case), of_formulas(framework, *case)
    for got, expected in zip(ours, theirs, strict=True):
        assert max(abs(other).max() for other in expected)
        for one, other in zip(got, expected, strict=True):
            # correlations of up to 0.97: their 1 - r^2 has lost a digit or two, derivatives are up to 1e5
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


# Errors: a good call with one argument spoilt


def good():
    return dict(zip(("raw", "x", "pen", "sample_weight"), problem(dtype=np.float32), strict=True))


def assert_refused(framework, mdn_loss, arguments, error, pattern):
    """Assert that mdn_loss, in JAX under jit, too, refuses these arguments of NumPy."""
    calls, reduction = [mdn_loss], arguments.pop("reduction", "mean")
    if framework.__name__ == "jax":
        calls.append(framework.jit(mdn_loss, static_argnames="reduction"))
    arguments = dict(zip(arguments, arrays(framework, *arguments.values()), strict=True))
    for call in calls:
        with pytest.raises(error, match=rf"^{pattern}(\n|$)"):
            call(**arguments, reduction=reduction)


BAD = {
    "raw without axes": {"raw": np.float32(1)},
    "raw of a width that is no 1 + 6 m": {"raw": np.zeros((6, 20), np.float32)},
    "raw of a width for no pen": {"raw": np.zeros((6, 18), np.float32)},
    "raw without components": {"raw": np.zeros((6, 1), np.float32)},
    "x of three coordinates": {"x": np.zeros((6, 3), np.float32)},
    "x of other rows": {"x": np.zeros((5, 2), np.float32)},
    "x that would broadcast": {"x": np.zeros((1, 2), np.float32)},
    "pen of other rows": {"pen": np.zeros(5, np.float32)},
    "pen of two states": {"pen": np.zeros((6, 2), np.float32)},
    "weights of other rows": {"sample_weight": np.ones(5, np.float32)},
    "weights with an axis too many": {"sample_weight": np.ones((6, 1), np.float32)},
    "another reduction": {"reduction": "average"},
    "a mean of nothing": {
        "raw": np.zeros((0, 19), np.float32),
        "x": np.zeros((0, 2), np.float32),
        "pen": np.zeros(0, np.float32),
        "sample_weight": None,
    },
}


@pytest.mark.parametrize("what", BAD)
def test_shapes_and_reductions_are_refused_in_the_words_of_cymdn(what, framework, mdn_loss):
    arguments = good() | BAD[what]
    with pytest.raises(ValueError, match=r"^\w+: ") as expected:
        cymdn.mdn_loss(**arguments)
    assert_refused(framework, mdn_loss, arguments, ValueError, re.escape(str(expected.value)))


FLOAT = "expected dtype float32, float64, float16 or bfloat16"


@kernels_alone
@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("raw", "int32", FLOAT),
        ("raw", "complex64", FLOAT),
        ("x", "int8", FLOAT),
        ("sample_weight", "complex64", "expected .*real numbers.*"),
    ],
)
def test_other_dtypes_are_refused(name, kind, expected, framework, mdn_loss):
    kind_of_framework = {"torch": rf"torch\.{kind}", "jax": rf"{kind}; convert it: {name}\.astype\(jnp\.float32\)"}
    arguments = good()
    arguments[name] = arguments[name].astype(kind)
    pattern = f"{name}: {expected}, got {kind_of_framework[framework.__name__]}"
    assert_refused(framework, mdn_loss, arguments, TypeError, pattern)


def test_what_the_functions_for_numpy_cannot_take_is_sent_to_the_module_for_it(framework):
    message = (
        rf"^raw: expected an array of numbers, got \w+; convert it to NumPy, or use cymdn.{framework.__name__}(\n|$)"
    )
    with pytest.raises(TypeError, match=message):
        slopes(framework, cymdn.mdn_loss, np.zeros((4, 6)), np.zeros((4, 2)))


# Draws, which PyTorch and JAX share but for the random numbers


@pytest.fixture
def draw(framework):
    """mdn_sample of a framework from a NumPy array, with a seed; gives NumPy arrays."""
    module = importlib.import_module(f"cymdn.{framework.__name__}")

    def by_torch(raw, seed=0, **keywords):
        generator = framework.Generator().manual_seed(seed)
        drawn = module.mdn_sample(*arrays(framework, raw), generator=generator, **keywords)
        return type(drawn)(*(None if tensor is None else tensor.numpy() for tensor in drawn))

    def by_jax(raw, seed=0, **keywords):
        drawn = drawing_in_jax(framework, module.mdn_sample, **keywords)(framework.random.key(seed), raw)
        return type(drawn)(*(None if array is None else np.asarray(array) for array in drawn))

    return by_torch if framework.__name__ == "torch" else by_jax


@cache  # so that JAX compiles it once
def drawing_in_jax(jax, mdn_sample, **keywords):
    return quickly(jax, partial(mdn_sample, **keywords))


def raw_rows(n, width, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(dtype)


@pytest.mark.parametrize(("bias", "temperature"), [(0.0, 1.0), (0.5, 0.7)])
@pytest.mark.parametrize("pens", [0, 1, 3])
def test_draws_are_those_of_numpy(pens, bias, temperature, draw):
    n, raw = 50_000, raw_rows(2, pens + 18)
    keywords = {"pen": pens, "bias": bias, "temperature": temperature, "size": n}
    ours, theirs = draw(raw, 1, **keywords), cymdn.mdn_sample(raw, rng=1, **keywords)
    assert type(ours) is type(theirs)
    # differences in their standard errors: in all these tests some 200 numbers, of which one exceeds 5.5 by chance once
    # in 1e5 runs, if all is right; and the seeds are fixed
    a, b = ours.x.astype(float), theirs.x.astype(float)
    for f in (lambda x: x, lambda x: x[..., 0] * x[..., 1], np.square):
        difference = (f(a).mean(0) - f(b).mean(0)) / np.sqrt((f(a).var(0) + f(b).var(0)) / n)
        assert (abs(difference) < 5.5).all()
    of_us, of_them = ((drawn.component[..., None] == np.arange(3)).sum(0) for drawn in (ours, theirs))
    assert (abs(of_us - of_them) < 5.5 * np.sqrt(of_us + of_them)).all()
    if not pens:
        assert ours.pen is None
        return
    p = theirs.pen.mean(0)
    assert (abs(ours.pen.mean(0) - p) <= 5.5 * np.sqrt(2 * p * (1 - p) / n)).all()
    assert set(np.unique(ours.pen)) == {0.0, 1.0}
    assert pens == 1 or (ours.pen.sum(-1) == 1).all()


def test_weights_and_spread_may_have_temperatures_of_their_own(draw):
    raw = raw_rows(1, 18)
    heaviest = raw[0, :3].argmax()
    drawn = draw(raw, temperature=(0.0, 4.0), size=20_000)
    assert (drawn.component == heaviest).all()
    # variance times 4; a standard error of the standard deviation is 1 / 200 of it
    assert (abs(drawn.x[:, 0].std(0) / np.exp(raw[0, [9 + heaviest, 12 + heaviest]]) - 2.0) < 0.06).all()
    drawn = draw(raw, temperature=(1.0, 0.0), size=2000)
    assert len(np.unique(drawn.component)) > 1
    assert_same_bits(drawn.x, raw[0, 3:9].reshape(2, 3).T[drawn.component])


@each_dtype
def test_greedy_draw_is_the_mean_of_the_heaviest_component_and_the_likeliest_pen(dtype, draw):
    raw, rows = raw_rows(5, 21, dtype), np.arange(5)
    x, pen, component = draw(raw, pen=3, temperature=0.0)
    heaviest = raw[:, 3:6].argmax(-1)
    np.testing.assert_array_equal(component, heaviest)
    assert_same_bits(x, np.stack([raw[rows, 6 + heaviest], raw[rows, 9 + heaviest]], -1))
    assert_same_bits(pen, np.eye(3, dtype=dtype)[raw[:, :3].argmax(-1)])
    assert_same_bits(draw(raw[:, 2:], pen=1, temperature=0.0).pen, (raw[:, 2] > 0).astype(dtype))


def test_reparameterised_draws_have_the_gradient_of_the_drawn_component(framework):
    module, raw = importlib.import_module(f"cymdn.{framework.__name__}"), raw_rows(4, 13, np.float64)

    def draw(raw):
        if framework.__name__ == "torch":
            chance = {"generator": framework.Generator().manual_seed(7)}
        else:
            chance = {"key": framework.random.key(7)}
        return module.mdn_sample(raw=raw, **chance, pen=1, bias=0.3, temperature=0.8, reparameterized=True)

    compiled = quickly(framework, draw)

    def difference(step):
        above, below = (np.asarray(compiled(*arrays(framework, raw + sign * step)).x) for sign in (1, -1))
        return (above - below).sum(axis=-1) / 2e-6

    (gradient,) = slopes(framework, lambda raw: draw(raw).x, raw)
    assert not gradient[:, :3].any()  # pen and logits
    drawn = np.eye(2)[np.asarray(compiled(*arrays(framework, raw)).component)]
    np.testing.assert_array_equal(gradient[:, 3:7], np.tile(drawn, 2))
    # differences of numbers of size 1, which are rounded, over the step
    differences = np.transpose([difference(step) for step in 1e-6 * np.eye(13)])
    np.testing.assert_allclose(gradient, differences, rtol=0, atol=1e-8)


def test_nan_in_a_row_gives_it_nan_and_touches_no_other(draw):
    raw = np.zeros((5, 1 + 12), np.float32)
    raw[0, 1], raw[1, 1], raw[2, 0], raw[3, 1:3], raw[4, 1] = NAN, INF, NAN, -INF, -INF
    x, pen, component = draw(raw, pen=1, size=50)
    assert (component[:, [0, 1, 3]] == -1).all()
    assert (component[:, 4] == 1).all()
    assert np.isnan(x).all(-1).any(0).tolist() == [True, True, False, True, False]
    assert np.isnan(pen).any(0).tolist() == [False, False, True, False, False]
    state = draw(np.array([[NAN, *[0] * 8], [0] * 9], np.float32), pen=3).pen
    assert np.isnan(state).all(-1).tolist() == [True, False]


@each_dtype
def test_draws_from_finite_output_are_never_nan(dtype, draw):
    raw = any_finite(np.random.default_rng(0), (20_000, 1 + 12), dtype)
    for temperature in (0.0, 1e-300, 1.0, 1e300):
        drawn = draw(raw, pen=1, temperature=temperature)
        assert_no_nan(drawn)
        assert (drawn.component >= 0).all()
        # ties stay so whatever the temperature
        undecided = drawn.pen[raw[:, 0] == 0]
        assert (0.4 < undecided.mean() < 0.6) if temperature else not undecided.any()


@pytest.mark.parametrize(
    ("size", "shape"), [(None, (2, 3)), (4, (4, 2, 3)), ((5, 1), (5, 1, 2, 3)), (0, (0, 2, 3))], ids=str
)
def test_size_goes_before_the_axes_of_raw_and_a_seed_fixes_draws(size, shape, draw):
    raw = np.zeros((2, 3, 13), np.float32)
    drawn = draw(raw, pen=1, size=size)
    assert [array.shape for array in drawn] == [(*shape, 2), shape, shape]
    assert_same_bits(draw(raw, pen=1, size=size), drawn)


@pytest.mark.parametrize(
    ("keywords", "exception", "pattern"),
    [
        ({"pen": 2}, ValueError, "pen: expected the number of pen logits"),
        ({"pen": 3}, ValueError, r"raw: expected shape \(\.\.\., P \+ 6 M\), P = 3"),
        ({"bias": -1.0}, ValueError, "bias: expected a finite number >= 0"),
        ({"temperature": -1.0}, ValueError, "temperature: expected a finite number >= 0"),
        ({"temperature": (1.0, 1.0, 1.0)}, ValueError, "temperature: expected a number or a pair, got 3"),
        ({"temperature": "hot"}, TypeError, "temperature: expected a real number"),
        ({"size": 1.5}, TypeError, "size: expected an integer"),
    ],
)
def test_bad_argument_of_a_draw_is_refused_by_name(keywords, exception, pattern, draw):
    with pytest.raises(exception, match=f"^{pattern}"):
        draw(np.zeros((2, 13), np.float32), **{"pen": 1} | keywords)
