"""cymdn.jax: the numbers of cymdn.mdn_loss_and_gradient, through JAX's transformations, or a clear error.

Few rows, and other platforms, compute by JAX's operations. Tests run on the kernels, however few the rows; those with
the fixture `path` on both: they compile functions of their own, for JAX knows those of this module by one loss.
"""

import re
import tracemalloc
from functools import cache

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the extra `jax` is not installed")

import jax.numpy as jnp  # noqa: E402
from builds import jax_module  # noqa: E402
from checks import (  # noqa: E402
    COMPILE_QUICKLY,
    EPS,
    INF,
    assert_same_bits,
    each_pen_or_reduction,
    each_reduction,
    flat,
    run_python,
)
from problems import loss_problem  # noqa: E402
from test_crosschecks import plain_losses  # noqa: E402

import cymdn  # noqa: E402
from cymdn.jax import mdn_sample  # noqa: E402

mdn_loss = jax_module(0).mdn_loss
MODES = {"as it is": lambda function: function, "jit": jax.jit}
each_mode = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(params=[np.float32, np.float64])
def dtype(request):
    with jax.enable_x64(request.param is np.float64):
        yield request.param


@pytest.fixture(params=["kernels", "operations"])
def path(request, monkeypatch):
    """What computes the loss on the CPU."""
    if request.param == "operations":
        monkeypatch.setattr(request.module, "mdn_loss", jax_module(INF).mdn_loss)
    return request.param


def problem(batch_shape=(6,), m=3, pen="bernoulli", dtype=np.float32):
    """raw, x, pen and weights in [0, 2] of rows of any shape."""
    raw, x, targets = loss_problem(batch_shape, m, pen, dtype)
    targets = None if targets is None else targets.astype(np.float32)
    return [raw, x, targets, np.random.default_rng(1).uniform(0, 2, batch_shape).astype(np.float32)]


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
    assert_same_bits(*(list(map(flushed, flat(result))) for result in (got, expected)))


# The same numbers


@each_mode
@each_pen_or_reduction
def test_loss_and_gradient_are_those_of_cymdn(reduction, pen, mode, dtype):
    raw, x, targets, weight = problem(pen=pen, dtype=dtype)

    def ours(raw, x, targets, weight):
        return loss_and_gradient(raw, x, targets, sample_weight=weight, reduction=reduction)

    expected = cymdn.mdn_loss_and_gradient(raw, x, targets, sample_weight=weight, reduction=reduction)
    assert_equal(MODES[mode](ours)(raw, x, targets, weight), expected)
    loss = MODES[mode](lambda *a: mdn_loss(*a[:3], sample_weight=a[3], reduction=reduction))(raw, x, targets, weight)
    assert_equal([loss], expected[:1])


@pytest.mark.parametrize(
    ("batch_shape", "m", "reduction"),
    [
        *(((*shape,), 3, "none") for shape in ((), (1,), (4,), (3, 2), (2, 1, 3), (0,))),
        *(
            ((rows,), 20, "mean") for rows in (1, 300, 5000)
        ),  # results that are copied, and such as are written in place
        ((0,), 3, "sum"),
    ],
)
def test_leading_axes_may_be_any(batch_shape, m, reduction):
    raw, x, pen, weight = problem(batch_shape, m)
    keywords = {"sample_weight": weight, "reduction": reduction}
    ours = jax.jit(lambda *a: loss_and_gradient(*a, **keywords))(raw, x, pen)
    assert_equal(ours, cymdn.mdn_loss_and_gradient(raw, x, pen, **keywords))


@pytest.mark.parametrize("kind", [bool, np.int8, np.int32, np.uint16, np.float16])
def test_pens_and_weights_of_other_dtypes(kind):
    raw, x, pen, _ = problem()
    mask = np.array([1, 0, 1, 1, 0, 1])
    ours = jax.jit(loss_and_gradient)(raw, x, pen.astype(kind), sample_weight=mask.astype(kind))
    assert_equal(ours, cymdn.mdn_loss_and_gradient(raw, x, pen, sample_weight=mask))


def test_float64_of_numpy_becomes_what_jax_makes_of_it_and_two_dtypes_give_the_larger_and_each_its_gradient():
    raw, x, pen, _ = problem(dtype=np.float64)
    assert mdn_loss(raw, x, pen) == cymdn.mdn_loss(raw.astype(np.float32), x.astype(np.float32), pen)
    with jax.enable_x64(True):
        both = raw.astype(np.float32), x, pen
        loss, (raw_gradient, x_gradient) = jax.value_and_grad(mdn_loss, argnums=(0, 1))(*both)
        expected_loss, expected = cymdn.mdn_loss_and_gradient(*both)
        assert_equal((loss, raw_gradient), (expected_loss, expected.astype(np.float32)))
        assert x_gradient.dtype == np.float64


@each_reduction
def test_few_rows_are_left_to_operations_which_give_the_same_numbers(reduction, losses_called, dtype, path):
    arrays, keywords = problem((50,), dtype=dtype), {"reduction": reduction}
    keywords["sample_weight"] = arrays.pop()
    ours = jax.jit(lambda *arrays: loss_and_gradient(*arrays, **keywords), compiler_options=COMPILE_QUICKLY)
    got = jax.block_until_ready(ours(*arrays))
    assert len(losses_called) == (path == "kernels")
    # errors of some eps of terms that are up to some 30 times as large as the sum
    tolerance = 100 * EPS[dtype]
    for ours, theirs in zip(got, cymdn.mdn_loss_and_gradient(*arrays, **keywords), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * abs(theirs).max())


@pytest.mark.parametrize("half", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_that_of_its_numbers_in_float32(half, path):
    raw, x, pen, weight = problem()
    halves = [jnp.asarray(array).astype(half) for array in (raw, x)]

    def loss_and_gradients(raw, x):
        return jax.value_and_grad(mdn_loss, argnums=(0, 1))(raw, x, pen, sample_weight=weight)

    loss, gradients = loss_and_gradients(*halves)
    expected, of_singles = loss_and_gradients(*(array.astype(jnp.float32) for array in halves))
    assert_equal(loss, expected)
    for ours, theirs in zip(gradients, of_singles, strict=True):
        assert ours.dtype == half
        assert_equal(ours.astype(jnp.float32), theirs.astype(half).astype(jnp.float32))


# Transformations


def each(raw, x, pen, weight, reduction):
    """What vmap should give: cymdn's results one by one."""
    results = [
        cymdn.mdn_loss_and_gradient(r, y, p, sample_weight=w, reduction=reduction)
        for r, y, p, w in zip(raw, x, pen, [None] * len(raw) if weight is None else weight, strict=True)
    ]
    return [np.array(parts) for parts in zip(*results, strict=True)]


@pytest.mark.parametrize("batch_shape", [(4,), ()])
@pytest.mark.parametrize("weighted", [False, True])
@each_reduction
def test_under_vmap_each_element_has_its_own_reduction(reduction, weighted, batch_shape):
    raw, x, pen, weight = problem((5, *batch_shape))
    weight = weight if weighted else None

    def element(raw, x, pen, weight):
        return loss_and_gradient(raw, x, pen, sample_weight=weight, reduction=reduction)

    got = jax.jit(jax.vmap(element, in_axes=(0, 0, 0, 0 if weighted else None)))(raw, x, pen, weight)
    assert_equal(got, each(raw, x, pen, weight, reduction))


@pytest.mark.parametrize(
    ("mapped", "reduction"), [((0, None, None), "none"), ((None, 0, None), "mean"), ((None, None, 0), "sum")]
)
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
    assert_equal(got, np.array(expected))


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
    assert_equal(gradient, expected_gradient)
    # seven sums of float32 instead of one
    np.testing.assert_allclose(value, expected, rtol=7 * np.finfo(np.float32).eps)


def test_the_chain_rule_multiplies_each_rows_gradient_with_and_without_remat():
    raw, x, pen, weight = problem()

    def network(weight):
        return mdn_loss(jnp.tanh(raw * weight), x, pen)

    assert_equal(jax.jit(jax.grad(jax.checkpoint(network)))(1.5), jax.jit(jax.grad(network))(1.5))
    gradient = jax.grad(lambda raw: (weight * mdn_loss(raw, x, pen, reduction="none")).sum())(raw)
    _, expected = cymdn.mdn_loss_and_gradient(raw, x, pen, reduction="none")
    assert_equal([gradient], [weight[:, None] * expected])


def test_the_gradient_is_computed_only_where_it_is_asked_for(losses_called):
    raw, x, pen, _ = problem()
    jax.block_until_ready(jax.jit(mdn_loss)(raw, x, pen))
    jax.block_until_ready(jax.jit(jax.value_and_grad(mdn_loss))(raw, x, pen))
    assert [name for name, *_ in losses_called] == ["mdn_loss", "mdn_loss_and_gradient"]


def test_nothing_but_the_call_is_compiled():
    raw, x, pen, _ = problem()
    program = jax.jit(jax.value_and_grad(mdn_loss)).lower(raw, x, pen).compile().as_text()
    operations = re.findall(r"^ .* = \S.* ([\w-]+)\(", program, re.MULTILINE)
    # reading a tuple's elements costs nothing; a copy, or what _vary_alike adds, would show here
    assert sorted(set(operations) - {"get-tuple-element", "tuple"}) == ["custom-call", "parameter"]


@pytest.mark.parametrize("argnums", [0, (0, 1)])
def test_a_large_batch_is_read_and_written_where_it_is(argnums):
    raw, x, pen, weight = problem((20_000,), m=6)
    step = jax.jit(jax.value_and_grad(mdn_loss, argnums=argnums))
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


@each_reduction
def test_tiny_and_huge_weights_do_what_they_do_in_cymdn(reduction):
    raw, x = np.zeros((3, 6), np.float32), np.array([[60.0, 0.0], [1.0, 0.0], [0.0, 0.0]], np.float32)
    weight = np.array([1e-45, 3e-45, 2e-38] if reduction == "mean" else [1e36, 2.0, 1.0], np.float32)

    def loss(raw):
        return mdn_loss(raw, x, sample_weight=weight, reduction=reduction)

    expected, gradient = cymdn.mdn_loss_and_gradient(raw, x, sample_weight=weight, reduction=reduction)
    np.testing.assert_allclose(loss(raw), expected, rtol=8 * EPS[np.float32], atol=0)
    # a weighted loss that is inf has gradient 0
    got = jax.grad(lambda raw: loss(raw).sum())(jnp.asarray(raw))
    np.testing.assert_allclose(got, gradient, rtol=8 * EPS[np.float32], atol=1e-37)


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
    assert_equal((loss, raw_gradient), (expected, expected_gradient))
    assert not np.isnan(x_gradient).any()


def test_there_is_no_mean_over_weights_of_0_but_of_another_element():
    raw, x, pen, weight = problem((3, 4))
    weight[1] = 0
    loss = jax.vmap(lambda r, y, p, w: mdn_loss(r, y, p, sample_weight=w))(raw, x, pen, weight)
    np.testing.assert_array_equal(np.isnan(loss), [False, True, False])


def test_draws_are_traced():
    raw, _, _, _ = problem((4,), 2)

    def draw(raw):
        return mdn_sample(jax.random.key(7), raw, pen=1)

    assert jax.jit(draw)(raw).x.shape == (4, 2)
    assert jax.eval_shape(draw, jnp.asarray(raw, jnp.bfloat16)).x.dtype == jnp.float32
    assert not jax.jit(jax.grad(lambda raw: draw(raw).x.sum()))(raw).any()  # without reparameterized=True


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


FLOAT, REAL = (
    "expected dtype float32, float64, float16 or bfloat16, got ",
    "expected real numbers of a dtype of NumPy, got ",
)
BAD_DTYPES = {
    "raw integers": ("raw", np.int32, FLOAT + "int32; convert it: raw.astype("),
    "raw complex": ("raw", np.complex64, FLOAT + "complex64"),
    "x integers": ("x", np.int8, FLOAT + "int8; convert it"),
    "weights complex": ("sample_weight", np.complex64, REAL + "complex64"),
}


@pytest.mark.parametrize("name", BAD_DTYPES)
def test_dtypes_are_refused_with_what_to_do(name):
    argument, kind, message = BAD_DTYPES[name]
    arguments = good()
    arguments[argument] = jnp.asarray(arguments[argument]).astype(kind)
    for mode in MODES.values():
        with pytest.raises(TypeError, match=re.escape(f"{argument}: {message}")):
            mode(lambda arguments: mdn_loss(**arguments))(arguments)


NO_NUMBERS = [
    (np.ma.masked_array(np.zeros((6, 19)), mask=True), r".* masked array"),
    (np.array([["1"] * 19] * 6), r"expected an array of real numbers"),
    (np.zeros((6, 19), np.longdouble), r"expected an array of real numbers of at most 64 bits"),
    ("text", r"expected an array of numbers, got str"),
    (None, r"expected an array of numbers, got NoneType"),
    ([None] * 6, r"expected an array of numbers, got list"),
]


@pytest.mark.parametrize(("value", "message"), NO_NUMBERS)
def test_what_is_no_array_of_numbers_is_refused(value, message):
    with pytest.raises(TypeError, match=f"^raw: {message}"):
        mdn_loss(**good(raw=value))


@each_mode
@pytest.mark.parametrize("argument", ["pen", "sample_weight"])
def test_there_is_no_derivative_with_respect_to(argument, mode):
    def loss(value):
        return mdn_loss(**good(**{argument: value}))

    value = good()[argument]
    pattern = rf"^{argument}: has no derivative here; pass jax.lax.stop_gradient\({argument}"
    with pytest.raises(TypeError, match=pattern):
        MODES[mode](jax.grad(loss))(value)
    # as a constant it may come from anywhere
    zero = MODES[mode](jax.grad(lambda value: loss(jax.lax.stop_gradient(value))))(value)
    np.testing.assert_array_equal(zero, 0)


def by_hand(raw, x, pen, weight, reduction):
    losses = weight * plain_losses(jnp, jax.scipy.special.logsumexp, raw, x, pen)
    return losses if reduction == "none" else losses.sum() / (weight.sum() if reduction == "mean" else 1)


def ours(raw, x, pen, weight, reduction):
    return mdn_loss(raw, x, pen, sample_weight=weight, reduction=reduction)


def derivatives(loss, reduction):
    """Second and third derivatives in all ways that JAX has, by name, as functions of raw, x, pen, weights."""

    def total(*arrays):
        return loss(*arrays, reduction).sum()

    def slope(*arrays):
        return sum(jnp.sin(part).sum() for part in jax.grad(total, (0, 1))(*arrays))

    def along(raw, x, *others):
        return jax.jvp(lambda raw, x: jax.grad(total, (0, 1))(raw, x, *others), (raw, x), (jnp.cos(raw), jnp.sin(x)))

    def turn(raw, *others):
        return jax.jvp(lambda raw: jax.grad(total)(raw, *others), (raw,), (jnp.cos(raw),))[1]

    def of_each(*arrays):
        return total(*(array[None] for array in arrays))

    return {
        "hessian": jax.hessian(total, (0, 1)),
        "grad of grad": jax.grad(slope, (0, 1)),
        "jvp of grad": along,
        "third": jax.grad(lambda raw, *others: (turn(raw, *others) ** 2).sum()),
        "vmap of hessian": jax.vmap(jax.hessian(of_each)),
        "grad of vmap of grad": jax.grad(lambda *arrays: (jax.vmap(jax.grad(of_each))(*arrays) ** 2).sum()),
    }


DERIVATIVES = [("grad of grad", "none"), *((name, "mean") for name in derivatives(ours, "mean"))]
OF_KERNELS = [("grad of grad", "none"), ("vmap of hessian", "mean")]


@cache
def derivative_by(loss, name, reduction):
    """A derivative by a loss at two problems: an ordinary one, and where the first derivatives to the means are 0."""
    with jax.enable_x64(True):
        arrays = [array.astype(np.float64) for array in problem((3,), 2)]
        on_the_means = [0 * array for array in arrays[:3]] + [arrays[3]]
        function = jax.jit(derivatives(loss, reduction)[name], compiler_options=COMPILE_QUICKLY)
        return [list(map(np.asarray, jax.tree.leaves(function(*given)))) for given in (arrays, on_the_means)]


@pytest.mark.parametrize(
    ("path", "name", "reduction"),
    # second derivatives are those of the operations everywhere
    [*(("operations", *case) for case in DERIVATIVES), *(("kernels", *case) for case in OF_KERNELS)],
    indirect=["path"],
)
def test_derivative_is_that_of_the_formulas(name, reduction, path):
    for got, expected in zip(
        derivative_by.__wrapped__(ours, name, reduction), derivative_by(by_hand, name, reduction), strict=True
    ):
        largest = max(abs(other).max() for other in expected)
        assert largest
        for one, other in zip(got, expected, strict=True):
            # correlations of up to 0.97: derivatives are up to 1e3, second ones 1e5
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10 * abs(other).max() + 1e-14 * largest)


def test_loss_and_derivatives_are_exported_for_other_platforms():
    from jax import export

    platforms = ("cuda", "rocm", "tpu")
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((500, 19), (500, 2), (500,))]
    for function in (mdn_loss, jax.value_and_grad(mdn_loss, (0, 1)), jax.hessian(mdn_loss)):
        program = export.export(jax.jit(function), platforms=platforms)(*shapes)
        assert program.platforms == platforms
        assert "callback" not in program.mlir_module()


@each_mode
def test_forward_mode_is_refused_by_jax(mode):
    raw, x, pen, _ = problem()
    with pytest.raises(TypeError, match="forward-mode"):
        MODES[mode](lambda raw: jax.jvp(lambda raw: mdn_loss(raw, x, pen), (raw,), (raw,)))(raw)


@each_mode
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


# Processes of their own: one CPU, several devices


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
    result = run_python("-W", "error", "-c", program, JAX_PLATFORMS="cpu")
    assert result.stdout == "done\n", result.stderr


def test_on_several_devices_each_has_the_loss_of_its_rows():
    program = """
import jax, jax.numpy as jnp, numpy as np, cymdn, cymdn.jax
from jax.sharding import Mesh, PartitionSpec as P
from cymdn.jax import mdn_loss
cymdn.jax.FEW = 0
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
np.testing.assert_array_equal(own, expected)  # halves and quarters are exact
sharded = [jax.device_put(array, jax.sharding.NamedSharding(mesh, rows)) for array in (raw, x, pen)]
assert jax.jit(mdn_loss)(*sharded) == loss
try:
    on_each(mdn_loss, (rows,) * 3, P())(raw, x, pen)
except ValueError as error:
    assert "replicat" in str(error)
    print(len(jax.devices()), "devices")
"""
    flags = "--xla_force_host_platform_device_count=2"
    result = run_python("-W", "error", "-c", program, JAX_PLATFORMS="cpu", XLA_FLAGS=flags)
    assert result.stdout == "2 devices\n", result.stderr


def test_a_tracer_is_sent_to_the_module_for_it():
    with pytest.raises(
        TypeError, match=r"^raw: expected an array of numbers, got \w+; convert it to NumPy, or use cymdn.jax"
    ):
        jax.jit(cymdn.mdn_loss)(jnp.zeros((4, 6)), jnp.zeros((4, 2)))
