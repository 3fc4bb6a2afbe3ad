"""What is JAX's alone: tracing, its control flow, exported programs, several devices; test_portable.py has the rest.

Tests run on the kernels, however few the rows.
"""

import re
import tracemalloc

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the extra `jax` is not installed")

import jax.numpy as jnp  # noqa: E402
from builds import jax_module  # noqa: E402
from checks import run_python  # noqa: E402
from problems import loss_problem  # noqa: E402
from test_portable import assert_same_but_for_denormals  # noqa: E402

import cymdn  # noqa: E402
from cymdn.jax import mdn_sample  # noqa: E402

mdn_loss = jax_module(0).mdn_loss
MODES = {"as it is": lambda function: function, "jit": jax.jit}
each_mode = pytest.mark.parametrize("mode", MODES)


def problem(batch_shape=(6,), m=3, dtype=np.float32):
    """raw, x, pen and weights in [0, 2] of rows of any shape."""
    raw, x, pen = loss_problem(batch_shape, m, "bernoulli", dtype)
    return [raw, x, pen.astype(np.float32), np.random.default_rng(1).uniform(0, 2, batch_shape).astype(np.float32)]


def test_float64_of_numpy_becomes_what_jax_makes_of_it_and_two_dtypes_give_the_larger_and_each_its_gradient():
    raw, x, pen, _ = problem(dtype=np.float64)
    assert mdn_loss(raw, x, pen) == cymdn.mdn_loss(raw.astype(np.float32), x.astype(np.float32), pen)
    with jax.enable_x64(True):
        both = raw.astype(np.float32), x, pen
        loss, (raw_gradient, x_gradient) = jax.value_and_grad(mdn_loss, argnums=(0, 1))(*both)
        expected_loss, expected = cymdn.mdn_loss_and_gradient(*both)
        assert_same_but_for_denormals((loss, raw_gradient), (expected_loss, expected.astype(np.float32)))
        assert x_gradient.dtype == np.float64


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
    assert_same_but_for_denormals(gradient, expected_gradient)
    # seven sums of float32 instead of one
    np.testing.assert_allclose(value, expected, rtol=7 * np.finfo(np.float32).eps)


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

    assert_same_but_for_denormals([MODES[mode](jax.grad(value_beside_gradient))(raw)], [expected])
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
