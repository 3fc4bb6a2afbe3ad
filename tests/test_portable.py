"""Loss and draws of both frameworks on the CPU: by their operations, near the exact numbers, by the same contract."""

import contextlib
import importlib
from functools import cache, partial

import builds
import numpy as np
import pytest
import reference
from checks import COMPILE_QUICKLY, EPS, INF, NAN, PENS, assert_no_nan, assert_same_bits, each_dtype, each_reduction
from reference import EXTENDED, LONG
from test_accuracy import BOUND, GROUPS, raw_output
from test_contract import any_finite

import cymdn
from cymdn import _portable

PIECE = 300  # rows of a call of the operations
UNDER_A_FLOOR = 12.0  # eps of the terms, by the operations: 10.5 is the most of 24,000 random rows; a search finds 17

each_framework = pytest.mark.parametrize("framework", ["torch", "jax"], indirect=True)


@pytest.fixture
def framework(request):
    """A framework, in which float64 stays that, and its arrays for NumPy's."""
    module = pytest.importorskip(request.param, reason=f"the extra `{request.param}` is not installed")
    with module.enable_x64(True) if request.param == "jax" else contextlib.nullcontext():
        yield module


def arrays(framework, *of_numpy):
    make = framework.from_numpy if framework.__name__ == "torch" else framework.numpy.asarray
    return [None if array is None else make(array) for array in of_numpy]


@cache  # so that JAX compiles it once for arrays of the same shapes
def rows_of(framework):
    if framework.__name__ == "torch":
        return partial(_portable.rows, framework)
    return framework.jit(partial(_portable.rows, framework.numpy), static_argnums=(3, 4))


def by_operations(framework, raw, x, pen=None, floor=None):
    """Losses of rows and gradients to raw and x, in their own dtype; computed in PIECEs, for which JAX compiles."""
    given, pieces = [raw, x, None if pen is None else pen.astype(raw.dtype)], []
    for start in range(0, len(raw), PIECE):
        piece = (None if array is None else array[start : start + PIECE] for array in given)
        pieces.append(map(np.asarray, rows_of(framework)(*arrays(framework, *piece), True, floor or (0.0, 0.0))))
    return list(map(np.concatenate, zip(*pieces, strict=True)))


def by_kernels(framework, raw, x, pen=None, floor=None):
    """The same by the public functions, of 200 rows or more."""
    module, (raw, x, pen) = importlib.import_module(f"cymdn.{framework.__name__}"), arrays(framework, raw, x, pen)
    keywords = {"stddev_floor": floor, "reduction": "none"}
    if framework.__name__ == "torch":
        loss = module.mdn_loss(raw.requires_grad_(), x.requires_grad_(), pen, **keywords)
        gradients = framework.autograd.grad(loss.sum(), (raw, x))
        return [tensor.detach().numpy() for tensor in (loss, *gradients)]
    loss, pullback = framework.vjp(lambda raw, x: module.mdn_loss(raw, x, pen, **keywords), raw, x)
    return list(map(np.asarray, (loss, *pullback(framework.numpy.ones_like(loss)))))


each_way = pytest.mark.parametrize("way", [by_operations, by_kernels])


def eps_of(way, dtype):
    """The eps of the arithmetic."""
    return EPS[dtype if way is by_operations else np.float64]


def allowed(way, number, dtype, floor=None):
    """Errors that numbers may have: of the arithmetic, of the result's rounding."""
    # JAX flushes what is below the smallest normal number, and may multiply it by 1 / sigma afterwards
    inverse = 1.0 if floor is None else 1 / max(floor)
    bound = BOUND if floor is None or way is by_kernels else UNDER_A_FLOOR
    return bound * (eps_of(way, dtype) * number.terms + np.finfo(dtype).tiny * inverse) + EPS[dtype] * abs(number.exact)


# The loss


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
@each_framework
@each_dtype
@pytest.mark.parametrize(
    ("way", "pen", "floor"),
    [
        *((by_operations, pen, None) for pen in PENS),
        *((by_operations, "none", floor) for floor in ((0.3, 0.3), (1e-3, 0.0))),
        *((by_kernels, pen, None) for pen in ("none", "categorical")),  # the same as NumPy's: see test_accuracy.py
        (by_kernels, "none", (1e-3, 0.0)),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
@pytest.mark.parametrize("group", GROUPS)
def test_errors_are_within_8_eps_of_the_terms(way, group, pen, floor, dtype, framework):
    raw, x, target, exact = rows_and_exact(group, pen, floor, dtype, eps_of(way, dtype))
    for got, number in zip(way(framework, raw, x, target, floor), exact, strict=True):
        assert (abs(got - number.exact) <= allowed(way, number, dtype, floor)).all()


@each_framework
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
def test_finite_rows_give_no_nan_and_an_infinite_loss_gradient_0(m, pen, floor, dtype, framework):
    rng, n = np.random.default_rng(m), 16 * PIECE
    raw, x = any_finite(rng, (n, PENS[pen] + 6 * m), dtype), any_finite(rng, (n, 2), dtype)
    raw[::2, PENS[pen] :][:, : m * int(rng.integers(1, 6))] = 0.5  # so that not all losses are infinite
    x[::7] = raw[::7, PENS[pen] + m : PENS[pen] + 3 * m : m]  # on a mean
    state = np.arange(n) % 3
    target = {"none": None, "bernoulli": state / 2, "categorical": np.eye(3)[state]}[pen]
    loss, *gradients = by_operations(framework, raw, x, target, floor)
    assert_no_nan((loss, *gradients))
    assert 0.05 < np.isfinite(loss).mean() < 0.95
    for gradient in gradients:
        assert not gradient[loss == INF].any()


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
@each_framework
@pytest.mark.parametrize(("dtype", "log_stddev"), [(np.float32, -88.0), (np.float64, -88.0), (np.float64, -707.0)])
@pytest.mark.parametrize("m", [1, 3, 20, 1000])
@each_way
def test_gradient_to_x_is_minus_the_sum_of_those_to_the_means_which_may_overflow(way, m, dtype, log_stddev, framework):
    raw, x, number = rows_far_from_means(m, dtype, log_stddev, eps_of(way, dtype))
    got, error, largest = way(framework, raw, x)[2], allowed(way, number, dtype), LONG.real(np.finfo(dtype).max)
    assert not np.isnan(got).any()
    if way is by_kernels and log_stddev < -700:
        return  # in float64 they count an infinite derivative as the largest number
    beyond, within = abs(number.exact) > largest + error, abs(number.exact) < largest - error
    np.testing.assert_array_equal(got[beyond], np.sign(number.exact[beyond]) * INF)
    assert (abs(got - number.exact) <= error)[within].all()
    assert within.any() or m == 1


def weighed_apart(framework, mdn_loss, *arrays_and_weights, reduction="sum", second=False):
    """Loss, gradients, and the Hessian times ones if wanted, of raw, x, pen and two weights."""
    given = arrays(framework, *arrays_and_weights)
    if framework.__name__ == "torch":
        tensors = [tensor.requires_grad_() for tensor in given[:2]]
        loss = mdn_loss(*tensors, given[2], sample_weight=given[3], pen_weight=given[4], reduction=reduction)
        first = framework.autograd.grad(loss.sum(), tensors, create_graph=second)
        results = [loss, *first]
        if second:
            results += framework.autograd.grad(sum(part.sum() for part in first), tensors)
        return [tensor.detach().numpy() for tensor in results]
    return list(map(np.asarray, derivatives_in_jax(mdn_loss, reduction, second)(*given)))


@cache  # so that JAX compiles it once
def derivatives_in_jax(mdn_loss, reduction, second):
    import jax

    def loss(raw, x, pen, w, v):
        return mdn_loss(raw, x, pen, sample_weight=w, pen_weight=v, reduction=reduction)

    def derivatives(*given):
        slope = jax.grad(lambda *given: loss(*given).sum(), (0, 1))
        turn = jax.grad(lambda *given: sum(part.sum() for part in slope(*given)), (0, 1))
        return loss(*given), *slope(*given), *(turn(*given) if second else ())

    return jax.jit(derivatives, compiler_options=COMPILE_QUICKLY)


@pytest.fixture
def loss_of(framework, monkeypatch):
    """mdn_loss of a framework, by its operations or by the kernels."""

    def of(operations):
        if framework.__name__ == "jax":
            return builds.jax_module(INF if operations else 0).mdn_loss
        module = importlib.import_module("cymdn.torch")
        monkeypatch.setattr(module, "_has_kernels", lambda raw: not operations)
        return module.mdn_loss

    return of


def weighed_pens(n, pens):
    """Raw output, points, pens, and weights of both."""
    rng = np.random.default_rng(0)
    raw, x = rng.normal(size=(n, pens + 12)), rng.normal(size=(n, 2))
    pen = rng.integers(0, 2, n) / 1.0 if pens == 1 else np.eye(3)[np.arange(n) % 3]
    return raw, x, pen, rng.uniform(1, 2, n), rng.uniform(1, 2, n)


each_path = pytest.mark.parametrize("operations", [False, True], ids=["kernels", "operations"])


@each_framework
@each_path
@each_reduction
@pytest.mark.parametrize(("held", "dtype"), [(NAN, np.float32), (INF, np.float64), (1e30, np.float32)])
def test_a_row_of_weight_0_is_skipped_whatever_it_holds(held, dtype, reduction, operations, framework, loss_of):
    raw, x, pen = (array.astype(dtype) for array in weighed_pens(6, 1)[:3])
    weight = np.array([1.0, 0.0, 2.0, 0.0, 0.5, 1.0])
    evaluate = partial(weighed_apart, framework, loss_of(operations), reduction=reduction)
    expected = evaluate(raw, x, pen, weight, None)
    raw[1], x[3], pen[1] = held, held, held
    loss, *gradients = got = evaluate(raw, x, pen, weight, None)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for array in gradients if reduction != "none" else (loss, *gradients):
        np.testing.assert_array_equal(array[weight == 0], 0)


@each_framework
@each_path
@each_reduction
@pytest.mark.parametrize("bad", [-1.0, NAN, INF])
def test_weights_that_are_none_give_nan_where_values_cannot_be_refused(bad, reduction, operations, framework, loss_of):
    raw, x, pen, weight, _ = weighed_pens(6, 1)
    weight[2] = bad
    evaluate = partial(weighed_apart, framework, loss_of(operations), raw, x, pen, weight, None, reduction=reduction)
    if framework.__name__ == "torch" and not operations:
        with pytest.raises(ValueError, match=r"^sample_weight: expected finite numbers >= 0, got"):
            evaluate()
        return
    loss, *gradients = evaluate()
    spoilt = np.arange(6) == 2 if reduction == "none" else np.full(6, True)
    np.testing.assert_array_equal(np.isnan(loss), spoilt if reduction == "none" else True)
    for gradient in gradients:
        np.testing.assert_array_equal(np.isnan(gradient).any(-1), spoilt)


def slopes(framework, function, *of_numpy):
    """Derivatives of the sum of what a function of arrays returns."""
    given = arrays(framework, *of_numpy)
    if framework.__name__ == "torch":
        tensors = [tensor.requires_grad_() for tensor in given]
        return [part.numpy() for part in framework.autograd.grad(function(*tensors).sum(), tensors)]
    return list(
        map(np.asarray, framework.grad(lambda *given: function(*given).sum(), tuple(range(len(given))))(*given))
    )


@each_framework
@each_path
@each_dtype
def test_a_row_that_the_caller_masks_has_gradient_0_whatever_it_holds(dtype, operations, framework, loss_of):
    raw, x, *_ = weighed_pens(4, 3)
    raw, x, lib = raw[:, 3:].astype(dtype), x.astype(dtype), getattr(framework, "numpy", framework)
    losses, keep = partial(loss_of(operations), reduction="none"), np.array([True, False, True, False])
    raw[1], x[3] = NAN, INF
    for gradient in slopes(framework, losses, raw, x):
        np.testing.assert_array_equal(np.isnan(gradient), [[row == 1] * gradient.shape[1] for row in range(4)])
    (mask,) = arrays(framework, keep)
    for gradient in slopes(framework, lambda *given: lib.where(mask, losses(*given), 0.0), raw, x):
        np.testing.assert_array_equal(gradient[~keep], 0)
        assert gradient[keep].any(axis=-1).all()


@each_framework
@each_path
def test_a_gradient_of_0_stays_0_whatever_follows(operations, framework, loss_of):
    lib, losses = getattr(framework, "numpy", framework), partial(loss_of(operations), reduction="none")
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


@each_framework
@pytest.mark.parametrize(
    ("reduction", "pens", "operations"), [("none", 1, True), ("sum", 3, False), ("sum", 1, True), ("mean", 3, True)]
)
def test_pens_may_have_weights_of_their_own(reduction, pens, operations, framework, loss_of):
    raw, x, pen, w, v = weighed_pens(9, pens)
    w[[0, 1]] = v[[1, 2]] = 0
    raw[0, -1], raw[2, 0] = NAN, INF  # of what is skipped
    loss, *_, of_x = evaluated = cymdn._mdn.loss_and_gradients(
        raw, x, pen, sample_weight=w, pen_weight=v, reduction=reduction
    )
    got = weighed_apart(framework, loss_of(operations), raw, x, pen, w, v, reduction=reduction)
    for ours, expected in zip(got, evaluated, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-13)
    assert np.shape(loss) == ((9,) if reduction == "none" else ())
    assert not of_x[w == 0].any()


@each_framework
def test_weighed_terms_add_up_with_their_second_derivatives(framework, loss_of):
    *given, w, v = weighed_pens(6, 3)
    evaluate = partial(weighed_apart, framework, loss_of(operations=True), *given, second=True)
    whole, points, of_pens, same, alone = (
        evaluate(*weights) for weights in ((w, v), (w, 0 * v), (0 * w, v), (w, w), (w, None))
    )
    for ours, *parts in (*zip(whole, points, of_pens, strict=True), *zip(same, alone, strict=True)):
        np.testing.assert_allclose(ours, sum(parts), rtol=1e-11, atol=1e-11)


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
        drawn = drawing_in_jax(module.mdn_sample, **keywords)(framework.random.key(seed), raw)
        return type(drawn)(*(None if array is None else np.asarray(array) for array in drawn))

    return by_torch if framework.__name__ == "torch" else by_jax


@cache  # so that JAX compiles it once
def drawing_in_jax(mdn_sample, **keywords):
    import jax

    return jax.jit(partial(mdn_sample, **keywords), compiler_options=COMPILE_QUICKLY)


def raw_rows(n, width, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(dtype)


@each_framework
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


@each_framework
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


@each_framework
@each_dtype
def test_greedy_draw_is_the_mean_of_the_heaviest_component_and_the_likeliest_pen(dtype, draw):
    raw, rows = raw_rows(5, 21, dtype), np.arange(5)
    x, pen, component = draw(raw, pen=3, temperature=0.0)
    heaviest = raw[:, 3:6].argmax(-1)
    np.testing.assert_array_equal(component, heaviest)
    assert_same_bits(x, np.stack([raw[rows, 6 + heaviest], raw[rows, 9 + heaviest]], -1))
    assert_same_bits(pen, np.eye(3, dtype=dtype)[raw[:, :3].argmax(-1)])
    assert_same_bits(draw(raw[:, 2:], pen=1, temperature=0.0).pen, (raw[:, 2] > 0).astype(dtype))


@each_framework
def test_reparameterised_draws_have_the_gradient_of_the_drawn_component(framework):
    module, raw = importlib.import_module(f"cymdn.{framework.__name__}"), raw_rows(4, 13, np.float64)

    def draw(raw):
        if framework.__name__ == "torch":
            chance = {"generator": framework.Generator().manual_seed(7)}
        else:
            chance = {"key": framework.random.key(7)}
        return module.mdn_sample(raw=raw, **chance, pen=1, bias=0.3, temperature=0.8, reparameterized=True)

    def difference(step):
        above, below = (np.asarray(draw(*arrays(framework, raw + sign * step)).x) for sign in (1, -1))
        return (above - below).sum(axis=-1) / 2e-6

    (gradient,) = slopes(framework, lambda raw: draw(raw).x, raw)
    assert not gradient[:, :3].any()  # pen and logits
    drawn = np.eye(2)[np.asarray(draw(*arrays(framework, raw)).component)]
    np.testing.assert_array_equal(gradient[:, 3:7], np.tile(drawn, 2))
    # differences of numbers of size 1, which are rounded, over the step
    differences = np.transpose([difference(step) for step in 1e-6 * np.eye(13)])
    np.testing.assert_allclose(gradient, differences, rtol=0, atol=1e-8)


@each_framework
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


@each_framework
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


@each_framework
@pytest.mark.parametrize(
    ("size", "shape"), [(None, (2, 3)), (4, (4, 2, 3)), ((5, 1), (5, 1, 2, 3)), (0, (0, 2, 3))], ids=str
)
def test_size_goes_before_the_axes_of_raw_and_a_seed_fixes_draws(size, shape, draw):
    raw = np.zeros((2, 3, 13), np.float32)
    drawn = draw(raw, pen=1, size=size)
    assert [array.shape for array in drawn] == [(*shape, 2), shape, shape]
    assert_same_bits(draw(raw, pen=1, size=size), drawn)


@each_framework
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
