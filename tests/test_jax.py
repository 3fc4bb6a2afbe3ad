"""cymdn.jax: the numbers of cymdn.mdn_loss_and_gradient, through JAX's transformations, or a clear error.

A few rows are computed by jax.numpy, many by the kernels on the CPU. The problems here are small, so that most tests
switch the former off; those with the fixture `few` do not.
"""

import doctest
import math
import os
import re
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the extra `jax` is not installed")

import jax.numpy as jnp  # noqa: E402
from problems import assert_same_bits  # noqa: E402
from test_contract import PENS, network_output  # noqa: E402
from test_crosschecks import plain_losses  # noqa: E402

import cymdn  # noqa: E402
import cymdn.jax  # noqa: E402
from cymdn.jax import mdn_loss, mdn_sample  # noqa: E402

REDUCTIONS = ("none", "sum", "mean")
MODES = {"as it is": lambda function: function, "jit": jax.jit}
NAN, INF = np.nan, np.inf


@pytest.fixture(autouse=True, scope="module")
def _kernels_for_any_number_of_rows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cymdn.jax, "FEW", 0)
        jax.clear_caches()
        yield
    jax.clear_caches()


@pytest.fixture
def few(monkeypatch):
    """Rows below this number are computed by jax.numpy: more than in any problem here."""
    monkeypatch.setattr(cymdn.jax, "FEW", 10**9)
    jax.clear_caches()  # of functions traced with the other choice
    yield
    jax.clear_caches()


@pytest.fixture(params=[np.float32, np.float64])
def dtype(request):
    with jax.enable_x64(request.param is np.float64):
        yield request.param


def problem(batch_shape=(6,), m=3, pen="bernoulli", dtype=np.float32, seed=0):
    """raw, x, pen and weights in [0, 2] of rows of any shape."""
    raw, x, targets = network_output(math.prod(batch_shape), m, pen, dtype, seed)
    targets = None if targets is None else targets.astype(np.float32)
    weight = np.random.default_rng(seed + 1).uniform(0, 2, len(raw)).astype(np.float32)
    return [None if a is None else a.reshape(batch_shape + a.shape[1:]) for a in (raw, x, targets, weight)]


def summed(raw, x, pen=None, **keywords):
    """The sum of the losses and themselves: what jax.grad can differentiate, whatever the reduction."""
    loss = mdn_loss(raw, x, pen, **keywords)
    return loss.sum(), loss


def loss_and_gradient(raw, x, pen=None, **keywords):
    (_, loss), gradient = jax.value_and_grad(summed, has_aux=True)(raw, x, pen, **keywords)
    return loss, gradient


def flushed(array):
    """Numbers below the smallest normal one made zeros of their sign, as JAX's arithmetic may make them."""
    array = np.asarray(array)
    return np.where(np.abs(array) < np.finfo(array.dtype).tiny, np.copysign(array.dtype.type(0), array), array)


def assert_equal(got, expected):
    for ours, theirs in zip(got, expected, strict=True):
        assert_same_bits(flushed(ours), flushed(theirs))


# The same numbers


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pen", PENS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_loss_and_gradient_are_those_of_cymdn(reduction, pen, mode, dtype):
    raw, x, targets, weight = problem(pen=pen, dtype=dtype)

    def ours(raw, x, targets, weight):
        return loss_and_gradient(raw, x, targets, sample_weight=weight, reduction=reduction)

    expected = cymdn.mdn_loss_and_gradient(raw, x, targets, sample_weight=weight, reduction=reduction)
    assert_equal(MODES[mode](ours)(raw, x, targets, weight), expected)
    loss = MODES[mode](lambda *a: mdn_loss(*a[:3], sample_weight=a[3], reduction=reduction))(raw, x, targets, weight)
    assert_equal([loss], expected[:1])


@pytest.mark.parametrize("batch_shape", [(), (1,), (4,), (3, 2), (2, 1, 3)])
def test_leading_axes_may_be_any(batch_shape):
    raw, x, pen, _ = problem(batch_shape)
    assert_equal(
        jax.jit(loss_and_gradient, static_argnames="reduction")(raw, x, pen, reduction="none"),
        cymdn.mdn_loss_and_gradient(raw, x, pen, reduction="none"),
    )


@pytest.mark.parametrize("rows", [1, 300, 5000])  # results that are copied, and such as are written in place
def test_long_batches(rows):
    raw, x, pen, weight = problem((rows,), m=20)
    assert_equal(
        jax.jit(loss_and_gradient)(raw, x, pen, sample_weight=weight),
        cymdn.mdn_loss_and_gradient(raw, x, pen, sample_weight=weight),
    )


def test_no_rows():
    raw, x, pen, _ = problem((0,))
    assert_equal([mdn_loss(raw, x, pen, reduction="sum")], [np.float32(0)])
    assert_equal(loss_and_gradient(raw, x, pen, reduction="none"), [np.empty(0, np.float32), raw])


@pytest.mark.parametrize("kind", [bool, np.int8, np.int32, np.uint16, np.float16])
def test_pens_and_weights_of_other_dtypes(kind):
    raw, x, pen, _ = problem()
    mask = np.array([1, 0, 1, 1, 0, 1])
    assert_equal(
        jax.jit(loss_and_gradient)(raw, x, pen.astype(kind), sample_weight=mask.astype(kind)),
        cymdn.mdn_loss_and_gradient(raw, x, pen, sample_weight=mask),
    )


def test_float64_of_numpy_becomes_what_jax_makes_of_it():
    raw, x, pen, _ = problem(dtype=np.float64)
    assert mdn_loss(raw, x, pen) == cymdn.mdn_loss(raw.astype(np.float32), x.astype(np.float32), pen)


def test_two_dtypes_give_the_larger_and_each_its_gradient():
    with jax.enable_x64(True):
        raw, x, pen, _ = problem()
        both = raw, x.astype(np.float64), pen
        loss, (raw_gradient, x_gradient) = jax.value_and_grad(mdn_loss, argnums=(0, 1))(*both)
        expected_loss, expected = cymdn.mdn_loss_and_gradient(*both)
        assert_equal([loss, raw_gradient], [expected_loss, expected.astype(np.float32)])
        assert x_gradient.dtype == np.float64


# The gradient with respect to the points


@pytest.mark.parametrize("pen", PENS)
def test_gradient_with_respect_to_x_is_that_of_plain_jax(pen):
    raw, x, targets, weight = problem((40,), 5, pen, np.float64)
    weight = weight.astype(np.float64)

    def plain(raw, x):
        losses = plain_losses(
            jnp, lambda t: jax.scipy.special.logsumexp(t, axis=1), lambda z: jnp.logaddexp(z, 0.0), raw, x, targets
        )
        return jnp.average(losses, weights=weight)

    with jax.enable_x64(True):
        expected = jax.jit(jax.grad(plain, argnums=(0, 1)))(raw, x)
        got = jax.jit(jax.grad(mdn_loss, argnums=(0, 1)))(raw, x, targets, sample_weight=weight)
    # derivatives up to 1e3: a few hundred eps of their terms in either program
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(got[1], expected[1], rtol=1e-11, atol=1e-11)


def test_float32_gradient_with_respect_to_x_is_the_sum_over_the_means():
    m = 20
    raw, x, _, _ = problem((50,), m, "none")
    got = jax.grad(lambda x: summed(raw, x, reduction="none")[0])(x)
    _, gradient = cymdn.mdn_loss_and_gradient(raw, x, reduction="none")
    terms = gradient[:, m : 3 * m].reshape(-1, 2, m).astype(np.float64)
    # each of the m - 1 additions rounds by half an eps at most, in whatever order
    bound = (m - 1) * np.finfo(np.float32).eps / 2 * np.abs(terms).sum(-1)
    assert (np.abs(got + terms.sum(-1)) <= bound).all()


def test_opposite_infinite_derivatives_do_not_make_x_nan():
    # a point half-way between two means, 1.5e19 sigma from either; its loss is finite, derivatives overflow float32
    raw = np.array([0, 0, -0.15, 0.15, 0, 0, -46, -46, 0, 0, 0, 0], np.float32)
    loss, (raw_gradient, x_gradient) = jax.value_and_grad(mdn_loss, argnums=(0, 1))(raw, np.zeros(2, np.float32))
    assert np.isfinite(loss)
    assert sorted(raw_gradient[2:4]) == [-INF, INF]
    assert_equal([x_gradient], [np.zeros(2, np.float32) * -1])


# Transformations


def each(raw, x, pen, weight, reduction):
    """What vmap should give: cymdn's results one by one."""
    results = [
        cymdn.mdn_loss_and_gradient(r, y, p, sample_weight=w, reduction=reduction)
        for r, y, p, w in zip(raw, x, pen, [None] * len(raw) if weight is None else weight, strict=True)
    ]
    return [np.array(parts) for parts in zip(*results, strict=True)]


@pytest.mark.parametrize("batch_shape", [(4,), (1,), ()])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_under_vmap_each_element_has_its_own_reduction(reduction, weighted, batch_shape):
    raw, x, pen, weight = problem((5, *batch_shape))
    weight = weight if weighted else None

    def element(raw, x, pen, weight):
        return loss_and_gradient(raw, x, pen, sample_weight=weight, reduction=reduction)

    got = jax.jit(jax.vmap(element, in_axes=(0, 0, 0, 0 if weighted else None)))(raw, x, pen, weight)
    assert_equal(got, each(raw, x, pen, weight, reduction))


@pytest.mark.parametrize("mapped", [(0, None, None), (None, 0, None), (None, None, 0)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_vmap_over_one_argument(reduction, mapped):
    raw, x, pen, _ = problem((3, 4))
    arrays = [array if axis == 0 else array[0] for array, axis in zip((raw, x, pen), mapped, strict=True)]
    repeated = [np.stack([array] * 3) if axis is None else array for array, axis in zip(arrays, mapped, strict=True)]
    got = jax.vmap(lambda *a: loss_and_gradient(*a, reduction=reduction), in_axes=mapped)(*arrays)
    assert_equal(got, each(*repeated, None, reduction))


def test_vmap_of_vmap_over_other_axes():
    raw, x, pen, _ = problem((2, 3, 4))
    got = jax.vmap(jax.vmap(mdn_loss), in_axes=1, out_axes=1)(*(a.swapaxes(1, 2) for a in (raw, x, pen)))
    expected = [[cymdn.mdn_loss(raw[i, :, k], x[i, :, k], pen[i, :, k]) for k in range(4)] for i in range(2)]
    # the outer vmap runs over the last batch axis of the original, the inner one over its first; rows are left
    assert_equal([got], [np.array(expected)])


@pytest.mark.parametrize("remat", [False, True])
def test_scan_over_time_steps(remat):
    raw, x, pen, weight = problem((7, 5))

    def step(total, at_t):
        *arrays, weight = at_t
        return total + mdn_loss(*arrays, sample_weight=weight, reduction="sum"), None

    def loss(raw):
        steps = raw, x, pen, weight
        return jax.lax.scan(jax.checkpoint(step) if remat else step, jnp.float32(0), steps)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(raw)
    expected, expected_gradient = cymdn.mdn_loss_and_gradient(raw, x, pen, sample_weight=weight, reduction="sum")
    assert_equal([gradient], [expected_gradient])
    # seven sums of float32 instead of one
    np.testing.assert_allclose(value, expected, rtol=7 * np.finfo(np.float32).eps)


def test_remat_of_a_network_gives_the_same_gradient():
    raw, x, pen, _ = problem()

    def network(weight):
        return mdn_loss(jnp.tanh(raw * weight), x, pen)

    assert_equal([jax.jit(jax.grad(jax.checkpoint(network)))(1.5)], [jax.jit(jax.grad(network))(1.5)])


def test_the_chain_rule_multiplies_each_rows_gradient():
    raw, x, pen, weight = problem()
    gradient = jax.grad(lambda raw: (weight * mdn_loss(raw, x, pen, reduction="none")).sum())(raw)
    _, expected = cymdn.mdn_loss_and_gradient(raw, x, pen, reduction="none")
    assert_equal([gradient], [weight[:, None] * expected])


def test_the_gradient_is_computed_only_where_it_is_asked_for(monkeypatch):
    called = []

    def note(name):
        function = getattr(cymdn._mdn, name)
        monkeypatch.setattr(cymdn._mdn, name, lambda *a, **k: (called.append(name), function(*a, **k))[1])

    note("mdn_loss")
    note("mdn_loss_and_gradient")
    raw, x, pen, _ = problem()
    jax.block_until_ready(jax.jit(mdn_loss)(raw, x, pen))
    assert called == ["mdn_loss"]
    jax.block_until_ready(jax.jit(jax.value_and_grad(mdn_loss))(raw, x, pen))
    assert called == ["mdn_loss", "mdn_loss_and_gradient"]


def test_nothing_but_the_call_is_compiled():
    raw, x, pen, _ = problem()
    program = jax.jit(jax.value_and_grad(mdn_loss)).lower(raw, x, pen).compile().as_text()
    operations = re.findall(r"^ .* = \S.* ([\w-]+)\(", program, re.MULTILINE)
    # reading a tuple's elements costs nothing; a copy, or what _vary_alike adds, would show here
    assert sorted(set(operations) - {"get-tuple-element", "tuple"}) == ["custom-call", "parameter"]


def test_a_large_batch_is_read_and_written_where_it_is():
    raw, x, pen, weight = problem((20_000,), m=6)
    step = jax.jit(jax.value_and_grad(mdn_loss))
    jax.block_until_ready(step(raw, x, pen, sample_weight=weight))
    tracemalloc.start()
    try:
        jax.block_until_ready(step(raw, x, pen, sample_weight=weight))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # raw and its gradient take 3 MB each; what XLA allocates itself is not traced
    assert peak <= 2**20


# Masks, and rows out of reach


def test_a_row_of_weight_0_is_skipped_whatever_it_holds():
    raw, x, pen, _ = problem()
    mask = np.array([True, False, True, True, False, True])
    spoilt = np.where(mask[:, None], raw, NAN), np.where(mask[:, None], x, INF), np.where(mask, pen, NAN)
    assert_equal(
        jax.jit(loss_and_gradient)(*spoilt, sample_weight=mask),
        cymdn.mdn_loss_and_gradient(raw, x, pen, sample_weight=mask),
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_row_that_has_no_part_in_the_result_has_gradient_0_whatever_it_holds(mode):
    raw, x, pen, _ = problem()
    mask = np.array([True, False, True, True, False, True])
    spoilt = np.where(mask[:, None], raw, NAN)

    def masked(raw, x):
        return jnp.where(mask, mdn_loss(raw, x, pen, reduction="none"), 0).sum()

    raw_gradient, x_gradient = MODES[mode](jax.grad(masked, argnums=(0, 1)))(spoilt, x)
    _, expected = cymdn.mdn_loss_and_gradient(raw, x, pen, sample_weight=mask, reduction="none")
    assert_equal([raw_gradient], [expected])
    np.testing.assert_array_equal(x_gradient[~mask], 0)


def far_out(dtype):
    """Raw output and points with exponents of all sizes, and zeros."""
    rng = np.random.default_rng(0)
    limits = np.finfo(dtype)

    def numbers(shape):
        exponent = rng.uniform(limits.minexp, limits.maxexp - 1, shape)
        exponent[: shape[0] // 2] = rng.uniform(-40, 12, (shape[0] // 2, shape[1]))
        return (np.exp2(exponent) * rng.choice([-1, 0, 1], shape, p=[0.4, 0.2, 0.4])).astype(dtype)

    return numbers((4000, 1 + 6 * 3)), numbers((4000, 2)), rng.integers(0, 2, 4000)


def test_rows_far_out_give_the_numbers_of_cymdn_and_no_nan(dtype):
    raw, x, pen = far_out(dtype)

    def ours(raw, x):
        loss, vjp = jax.vjp(lambda raw, x: mdn_loss(raw, x, pen, reduction="none"), raw, x)
        return loss, *vjp(jnp.ones_like(loss))

    loss, raw_gradient, x_gradient = map(np.asarray, jax.jit(ours)(raw, x))
    expected, expected_gradient = cymdn.mdn_loss_and_gradient(raw, x, pen, reduction="none")
    assert_equal([loss, raw_gradient], [expected, expected_gradient])
    assert not np.isnan(x_gradient).any()


@pytest.mark.parametrize("bad", [-1.0, NAN, INF])
def test_weights_that_are_none_give_nan(bad):
    raw, x, pen, weight = problem()
    weight[2] = bad
    for reduction in ("sum", "mean"):
        loss, gradient = loss_and_gradient(raw, x, pen, sample_weight=weight, reduction=reduction)
        assert np.isnan(loss)
        assert np.isnan(gradient).all()
    got = jax.jit(loss_and_gradient, static_argnames="reduction")(raw, x, pen, sample_weight=weight, reduction="none")
    weight[2] = 0
    expected = cymdn.mdn_loss_and_gradient(raw, x, pen, sample_weight=weight, reduction="none")
    for array in expected:
        array[2] = NAN
    assert_equal(got, expected)


def test_a_mean_over_weights_of_0_is_nan_and_only_that_of_its_element():
    raw, x, pen, weight = problem((3, 4))
    weight[1] = 0
    loss = jax.vmap(lambda r, y, p, w: mdn_loss(r, y, p, sample_weight=w))(raw, x, pen, weight)
    np.testing.assert_array_equal(np.isnan(loss), [False, True, False])


# Errors, raised when a function is traced


def good(**changes):
    raw, x, pen, weight = problem()
    return {"raw": raw, "x": x, "pen": pen, "sample_weight": weight} | changes


BAD_SHAPES = {
    "raw without axes": {"raw": np.float32(1)},
    "raw of a width that is no 1 + 6 m": {"raw": np.zeros((6, 20), np.float32)},
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


@pytest.mark.parametrize("name", BAD_SHAPES)
def test_shapes_are_refused_in_the_words_of_cymdn(name):
    arguments = good(**BAD_SHAPES[name])
    with pytest.raises(ValueError, match=r"\w: ") as expected:
        cymdn.mdn_loss(**arguments)
    reduction = {"reduction": arguments.pop("reduction")} if "reduction" in arguments else {}
    for mode in MODES.values():
        with pytest.raises(ValueError, match=re.escape(str(expected.value))):
            mode(lambda arguments: mdn_loss(**arguments, **reduction))(arguments)


FLOATS = "float32, float64, float16 or bfloat16"
BAD_DTYPES = {
    "raw integers": ("raw", np.int32, f"raw: expected dtype {FLOATS}, got int32; convert it: raw.astype(jnp.float32)"),
    "raw complex": ("raw", np.complex64, f"raw: expected dtype {FLOATS}, got complex64"),
    "x integers": ("x", np.int8, f"x: expected dtype {FLOATS}, got int8; convert it"),
    "weights complex": (
        "sample_weight",
        np.complex64,
        "sample_weight: expected real numbers of a dtype of NumPy, got c",
    ),
}


@pytest.mark.parametrize("name", BAD_DTYPES)
def test_dtypes_are_refused_with_what_to_do(name):
    argument, kind, message = BAD_DTYPES[name]
    arguments = good()
    arguments[argument] = jnp.asarray(arguments[argument]).astype(kind)
    for mode in MODES.values():
        with pytest.raises(TypeError, match=re.escape(message)):
            mode(lambda arguments: mdn_loss(**arguments))(arguments)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ma.masked_array(np.zeros((6, 19)), mask=True), r"^raw: .* masked array"),
        (np.array([["1"] * 19] * 6), r"^raw: expected an array of real numbers"),
        (np.zeros((6, 19), np.longdouble), r"^raw: expected an array of real numbers of at most 64 bits"),
        ("text", r"^raw: expected an array of numbers, got str"),
        (None, r"^raw: expected an array of numbers, got NoneType"),
        ([None] * 6, r"^raw: expected an array of numbers, got list"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(value, message):
    with pytest.raises(TypeError, match=message):
        mdn_loss(**good(raw=value))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("argument", ["pen", "sample_weight"])
def test_there_is_no_derivative_with_respect_to(argument, mode):
    def loss(value):
        return mdn_loss(**good(**{argument: value}))

    value = good()[argument]
    with pytest.raises(
        TypeError, match=rf"^{argument}: has no derivative here; pass jax.lax.stop_gradient\({argument}"
    ):
        MODES[mode](jax.grad(loss))(value)
    # as a constant it may come from anywhere
    zero = MODES[mode](jax.grad(lambda value: loss(jax.lax.stop_gradient(value))))(value)
    np.testing.assert_array_equal(zero, 0)


def gradient_of(raw):
    _, x, pen, _ = problem()
    return jax.grad(mdn_loss)(raw, x, pen)


# Derivatives of any order, against those of the same formulas left to JAX


def by_hand(raw, x, pen, sample_weight=None, reduction="mean"):
    losses = plain_losses(
        jnp, lambda t: jax.scipy.special.logsumexp(t, axis=-1), lambda z: jnp.logaddexp(z, 0.0), raw, x, pen
    )
    losses = losses if sample_weight is None else losses * sample_weight
    total = losses.size if sample_weight is None else sample_weight.sum()
    return {"none": losses, "sum": losses.sum(), "mean": losses.sum() / total}[reduction]


def derivatives(loss, raw, x, pen, weight):
    """By name, what a loss (raw, x, pen, **keywords) gives under a transformation."""
    weighted = {"sample_weight": weight, "reduction": "none"}
    stacks = jnp.stack([raw, raw + 1]), jnp.stack([x, x - 1])

    def mean(raw, x):
        return loss(raw, x, pen)

    return {
        "jacrev": lambda: jax.jacrev(lambda r, y: loss(r, y, pen, **weighted), (0, 1))(raw, x),
        "hessian": lambda: jax.hessian(mean, (0, 1))(raw, x),
        "hessian of weighted rows": lambda: jax.hessian(lambda r, y: loss(r, y, pen, **weighted), (0, 1))(raw, x),
        "jacrev of jacrev": lambda: jax.jacrev(jax.jacrev(mean, 0), 1)(raw, x),
        "jvp of grad": lambda: jax.jvp(jax.grad(mean), (raw, x), (jnp.cos(raw), jnp.sin(x))),
        "third": lambda: jax.grad(lambda r: (jax.hessian(mean)(r, x) ** 2).sum())(raw),
        "grad of the gradient's square": lambda: jax.grad(lambda r: (jax.grad(mean)(r, x) ** 2).sum())(raw),
        "vjp of value and grad": lambda: jax.vjp(jax.value_and_grad(mean), raw, x)[1]((1.0, jnp.sin(raw))),
        "vmap(hessian)": lambda: jax.vmap(jax.hessian(mean))(*stacks),
        "grad(vmap)": lambda: jax.grad(lambda r: jax.vmap(mean)(r, stacks[1]).prod())(stacks[0]),
        "grad(scan)": lambda: jax.grad(
            lambda r: jax.lax.scan(lambda total, each: (total + mean(*each), None), 0.0, (r, stacks[1]))[0]
        )(stacks[0]),
    }


@pytest.mark.parametrize("rows", ["by_numpy", "by_kernels"])
@pytest.mark.parametrize("name", derivatives(None, *[jnp.zeros(3)] * 4))
def test_derivative_is_that_of_the_formulas(name, rows, request):
    if rows == "by_numpy":
        request.getfixturevalue("few")
    elif name == "third":
        pytest.skip("takes a while to compile, and differs from the second ones in jax.numpy only")
    with jax.enable_x64(True):
        arguments = [jnp.asarray(a, np.float64) for a in problem((4,), 2, dtype=np.float64)]
        got, expected = (
            jax.tree.leaves(jax.jit(derivatives(loss, *arguments)[name])()) for loss in (mdn_loss, by_hand)
        )
    for ours, theirs in zip(got, expected, strict=True):
        # correlations of up to 0.97: 1 - r^2 has lost a digit or two there, derivatives are up to 1e3, second ones 1e5
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_second_derivative_is_there_where_the_first_is_0():
    raw, x, pen = np.zeros((2, 13), np.float32), np.zeros((2, 2), np.float32), np.zeros(2, np.float32)
    expected = jax.jit(jax.hessian(by_hand))(raw, x, pen)
    assert expected.any()
    np.testing.assert_allclose(jax.jit(jax.hessian(mdn_loss))(raw, x, pen), expected, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_forward_mode_of_the_loss_is_refused_by_jax(mode):
    raw, x, pen, _ = problem()
    with pytest.raises(TypeError, match="forward-mode"):
        MODES[mode](lambda raw: jax.jvp(lambda raw: mdn_loss(raw, x, pen), (raw,), (raw,)))(raw)


@pytest.mark.parametrize("argument", ["pen", "sample_weight"])
def test_a_gradient_has_no_derivative_with_respect_to(argument):
    def gradient(value):
        return jax.grad(lambda raw: mdn_loss(**good(**{"raw": raw, argument: value})))(good()["raw"])

    with pytest.raises(TypeError, match=rf"^{argument}: has no derivative here; pass jax.lax.stop_gradient"):
        jax.jacfwd(gradient)(good()[argument])


# A few rows; other platforms; half precision


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pen", PENS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_few_rows_have_the_numbers_of_cymdn(reduction, pen, mode, few, dtype):
    raw, x, targets, weight = problem(pen=pen, dtype=dtype)

    def ours(raw, x, targets, weight):
        return loss_and_gradient(raw, x, targets, sample_weight=weight, reduction=reduction)

    got = MODES[mode](ours)(raw, x, targets, weight)
    expected = cymdn.mdn_loss_and_gradient(raw, x, targets, sample_weight=weight, reduction=reduction)
    eps = np.finfo(dtype).eps
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == theirs.dtype
        # some eps of terms that are up to some 30 times as large as their sum
        np.testing.assert_allclose(ours, theirs, rtol=100 * eps, atol=100 * eps * abs(theirs).max())


@pytest.mark.parametrize("rows", [199, 200])
def test_the_number_of_rows_decides(rows, monkeypatch):
    monkeypatch.undo()
    called = []
    monkeypatch.setattr(cymdn.jax, "FEW", 200)
    jax.clear_caches()
    function = cymdn._mdn.mdn_loss
    monkeypatch.setattr(cymdn._mdn, "mdn_loss", lambda *a, **k: (called.append(len(a[0])), function(*a, **k))[1])
    raw, x, pen, _ = problem((rows,))
    jax.block_until_ready(jax.jit(mdn_loss)(raw, x, pen))
    assert called == [rows] * (rows >= 200)
    jax.clear_caches()


def test_a_few_rows_keep_the_contract(few):
    raw, x, pen, weight = problem()
    weight[1] = 0
    spoilt = raw.copy()
    spoilt[1], spoilt[2] = NAN, raw[2]
    for reduction in REDUCTIONS:
        got = loss_and_gradient(spoilt, x, pen, sample_weight=weight, reduction=reduction)
        expected = loss_and_gradient(raw, x, pen, sample_weight=weight, reduction=reduction)
        for ours, theirs in zip(got, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert not np.asarray(got[1])[1].any()
    mask = np.array([True, False, True, True, False, True])
    masked = jax.grad(lambda raw: jnp.where(mask, mdn_loss(raw, x, pen, reduction="none"), 0).sum())(spoilt)
    assert not np.asarray(masked)[1].any()
    assert np.isfinite(masked).all()
    weight[3] = -1
    assert np.isnan(mdn_loss(raw, x, pen, sample_weight=weight))


@pytest.mark.parametrize("rows", ["few", "by_kernels"])
def test_a_gradient_of_0_stays_0_whatever_follows(rows, request):
    if rows == "few":
        request.getfixturevalue("few")
    raw, x = jnp.zeros((2, 6)), jnp.array([[1e30, 0.0], [1.0, 0.0]])

    def beyond(raw):  # the loss of row 0 is inf, and so is the derivative of its square
        return (mdn_loss(raw, x, reduction="none") ** 2).sum()

    gradient = jax.grad(beyond)(raw)
    np.testing.assert_array_equal(gradient[0], 0)
    assert np.isfinite(gradient).all()
    steep = np.asarray(jax.grad(lambda raw: jnp.exp(mdn_loss(raw, jnp.array([[20.0, 0.0]]))))(raw[:1])[0])
    np.testing.assert_array_equal(steep[[0, 2]], 0)  # logit and mean 1, whose own derivatives are 0
    assert np.isinf(steep[1])


@pytest.mark.parametrize("rows", ["few", "by_kernels"])
@pytest.mark.parametrize("m", [4, 64])
def test_opposite_overflowing_derivatives_of_many_components_give_x_no_nan(m, rows, request):
    if rows == "few":
        request.getfixturevalue("few")
    raw = np.zeros((1, 6 * m), np.float32)
    raw[0, m : 2 * m] = np.where(np.arange(m) < m // 2, 1, -1) * np.float32(40 * np.exp(-88.0))
    raw[0, 3 * m : 5 * m] = -88.0
    x_gradient = jax.grad(mdn_loss, 1)(raw, np.zeros((1, 2), np.float32))
    assert not np.isnan(x_gradient).any()


@pytest.mark.parametrize("kind", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_that_of_its_numbers_in_float32(kind):
    raw, x, pen, _ = problem()
    halves = jnp.asarray(raw, kind), jnp.asarray(x, kind)
    loss, gradient = loss_and_gradient(*halves, pen)
    expected, of_singles = loss_and_gradient(*(a.astype(jnp.float32) for a in halves), pen)
    assert (loss.dtype, gradient.dtype) == (jnp.float32, kind)
    assert loss == expected
    np.testing.assert_array_equal(gradient, of_singles.astype(kind))
    assert mdn_loss(raw, x, jnp.asarray(pen, kind)) == mdn_loss(raw, x, pen)


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
def test_loss_and_derivatives_are_exported_for(platform):
    from jax import export

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((500, 19), (500, 2), (500,))]
    for function in (mdn_loss, jax.value_and_grad(mdn_loss, (0, 1)), jax.hessian(mdn_loss)):
        program = export.export(jax.jit(function), platforms=[platform])(*shapes)
        assert program.platforms == (platform,)
        assert "callback" not in program.mlir_module()


@pytest.mark.parametrize("mode", MODES)
def test_a_first_derivative_through_a_gradient_is_none_of_the_second(mode):
    raw, x, pen, _ = problem()
    _, expected = cymdn.mdn_loss_and_gradient(raw, x, pen)

    def value_beside_gradient(raw):
        return jax.value_and_grad(mdn_loss)(raw, x, pen)[0]

    def gradient_in_the_direction_of_itself(factor):
        return (jax.grad(lambda raw: factor * mdn_loss(raw, x, pen))(raw) * expected).sum()

    assert_equal([MODES[mode](jax.grad(value_beside_gradient))(raw)], [expected])
    slope = MODES[mode](jax.grad(gradient_in_the_direction_of_itself))(1.0)
    # a sum of 114 squares
    np.testing.assert_allclose(slope, (expected.astype(np.float64) ** 2).sum(), rtol=114 * np.finfo(np.float32).eps)


# Draws


@pytest.mark.parametrize(("bias", "temperature"), [(0.0, 1.0), (0.5, 0.7)])
@pytest.mark.parametrize("pens", [0, 1, 3])
def test_draws_are_those_of_numpy(pens, bias, temperature):
    n, keywords = 100_000, {"pen": pens, "bias": bias, "temperature": temperature, "size": 100_000}
    raw = np.random.default_rng(0).normal(size=(2, pens + 18)).astype(np.float32)
    ours = jax.jit(lambda key, raw: mdn_sample(key, raw, **keywords))(jax.random.key(1), raw)
    theirs = cymdn.mdn_sample(raw, rng=1, **keywords)
    assert type(ours) is type(theirs)
    # differences in their standard errors: some 100 numbers, of which one exceeds 5.5 by chance once in 2.6e5 runs, if
    # all is right; and the seeds are fixed
    a, b = np.asarray(ours.x, float), theirs.x.astype(float)
    for f in (lambda x: x, lambda x: x[..., 0] * x[..., 1], np.square):
        difference = (f(a).mean(0) - f(b).mean(0)) / np.sqrt((f(a).var(0) + f(b).var(0)) / n)
        assert (abs(difference) < 5.5).all()
    drawn = [np.stack([np.bincount(c, minlength=3) for c in np.asarray(d.component).T]) for d in (ours, theirs)]
    assert (abs(drawn[0] - drawn[1]) < 5.5 * np.sqrt(drawn[0] + drawn[1])).all()
    if pens:
        p = theirs.pen.mean(0)
        assert (abs(np.asarray(ours.pen).mean(0) - p) <= 5.5 * np.sqrt(2 * p * (1 - p) / n)).all()
        assert set(np.ravel(ours.pen).tolist()) == {0.0, 1.0}
    else:
        assert ours.pen is None


def test_greedy_draws_and_rows_with_nan():
    raw, key = np.random.default_rng(0).normal(size=(4, 21)).astype(np.float32), jax.random.key(0)
    x, pen, component = mdn_sample(key, raw, pen=3, temperature=0.0)
    j = raw[:, 3:6].argmax(-1)
    np.testing.assert_array_equal(component, j)
    np.testing.assert_array_equal(x, np.stack([raw[range(4), 6 + j], raw[range(4), 9 + j]], -1))
    np.testing.assert_array_equal(np.argmax(pen, -1), raw[:, :3].argmax(-1))
    raw[0, 4], raw[1, 0], raw[2, 3:6] = NAN, NAN, -INF
    x, pen, component = mdn_sample(key, raw, pen=3, size=10)
    assert (component[:, [0, 2]] == -1).all()
    assert np.isnan(x).all(-1).any(0).tolist() == [True, False, True, False]
    assert np.isnan(pen).all(-1).any(0).tolist() == [False, True, False, False]


def test_reparameterised_draws_have_the_gradient_of_the_drawn_component():
    raw, key = np.random.default_rng(0).normal(size=(4, 13)).astype(np.float32), jax.random.key(0)
    drawn = np.eye(2)[mdn_sample(key, raw, pen=1).component]
    gradient = jax.grad(lambda raw: mdn_sample(key, raw, pen=1, reparameterized=True).x.sum())(raw)
    np.testing.assert_array_equal(gradient[:, 3:5], drawn)
    assert not np.asarray(gradient)[:, :3].any()
    assert not np.asarray(jax.grad(lambda raw: mdn_sample(key, raw, pen=1).x.sum())(raw)).any()


def test_bad_argument_of_a_draw_is_refused_by_name():
    raw, key = np.zeros((2, 13), np.float32), jax.random.key(0)
    with pytest.raises(ValueError, match=r"^raw: expected shape"):
        mdn_sample(key, raw, pen=3)
    with pytest.raises(ValueError, match=r"^temperature: "):
        mdn_sample(key, raw, pen=1, temperature=-1.0)
    with pytest.raises(TypeError, match=r"^raw: expected dtype"):
        mdn_sample(key, raw.astype(int), pen=1)


# Processes of their own: one CPU, several devices


def run(program, **environment):
    """Run a program; what hangs is killed and fails."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=120,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )


def test_large_arrays_pass_where_there_is_one_cpu():
    # where jax.pure_callback waits for ever
    program = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax, jax.numpy as jnp, numpy as np, cymdn
from cymdn.jax import mdn_loss
raw, x = np.random.default_rng(0).normal(size=(200_000, 12)).astype(np.float32), np.zeros((200_000, 2), np.float32)
step = jax.jit(jax.value_and_grad(lambda raw, x: mdn_loss(jnp.sin(raw), x)))
jax.block_until_ready([step(raw, x) for _ in range(4)])
loss, gradient = jax.jit(jax.value_and_grad(mdn_loss))(raw, x)
expected, expected_gradient = cymdn.mdn_loss_and_gradient(raw, x)
assert loss == expected and (np.asarray(gradient) == expected_gradient).all()
print("done")
"""
    result = run(program)
    assert result.stdout == "done\n", result.stderr


@pytest.mark.parametrize("few", [0, 200])
def test_on_several_devices_each_has_the_loss_of_its_rows(few):
    program = f"import cymdn.jax; few = cymdn.jax.FEW = {few}"
    program += """
import jax, jax.numpy as jnp, numpy as np, cymdn
from jax.sharding import Mesh, PartitionSpec as P
from cymdn.jax import mdn_loss
rng = np.random.default_rng(0)
raw, x = rng.normal(size=(8, 19)).astype(np.float32), rng.normal(size=(8, 2)).astype(np.float32)
pen = np.arange(8) % 2
mesh = Mesh(np.array(jax.devices()), ("rows",))

def on_each(function, of, to):
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=of, out_specs=to))

def mean(factor, raw, x, pen):
    return jax.lax.pmean(mdn_loss(factor * raw, x, pen), "rows")

rows = P("rows")
specs = (P(), rows, rows, rows)
value, gradient = on_each(jax.value_and_grad(mean), specs, P())(jnp.float32(1), raw, x, pen)
loss, expected = cymdn.mdn_loss_and_gradient(raw, x, pen)
np.testing.assert_allclose(value, loss, rtol=1e-6)  # two roundings more
np.testing.assert_allclose(gradient, (expected * raw).sum(), rtol=1e-5)  # a sum of 152 products
own = on_each(jax.grad(mean, argnums=1), specs, rows)(jnp.float32(1), raw, x, pen)
np.testing.assert_allclose(own, expected, rtol=1e-4 if few else 0, atol=1e-6 if few else 0)  # else exact: halves
sharded = [jax.device_put(array, jax.sharding.NamedSharding(mesh, rows)) for array in (raw, x, pen)]
np.testing.assert_allclose(jax.jit(mdn_loss)(*sharded), loss, rtol=1e-6 if few else 0)
try:
    on_each(mdn_loss, (rows,) * 3, P())(raw, x, pen)
except ValueError as error:
    assert "replicat" in str(error)
    print(len(jax.devices()), "devices")
"""
    result = run(program, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert result.stdout == "2 devices\n", result.stderr


# Documentation


def test_public_names():
    assert cymdn.jax.__all__ == ["mdn_loss", "mdn_sample"]


@pytest.mark.parametrize("function", [mdn_loss, mdn_sample])
def test_example_runs(function):
    (test,) = doctest.DocTestFinder(recurse=False).find(function, function.__name__, globs={})
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0
