"""Columns of other code's output, and its activations: for arrays of NumPy, PyTorch and JAX, with their derivatives."""

import contextlib
from functools import cache

import mpmath
import numpy as np
import pytest
from checks import EPS, assert_same_bits, each_dtype
from mpmath import mpf

from cymdn import Layout, activations

M = 2
# columns, P, what the network's columns are, by name of the parameter and number of the component
ORDERS = {
    "pwxystr": (1, "p w0 w1 x0 x1 y0 y1 s0 s1 t0 t1 r0 r1"),
    "wstrxyp": (1, "w0 w1 s0 s1 t0 t1 r0 r1 x0 x1 y0 y1 p"),
    "(wxystr)p": (3, "w0 x0 y0 s0 t0 r0 w1 x1 y1 s1 t1 r1 p q u"),
    "(xy)(st)w": (0, "x0 y0 x1 y1 s0 t0 s1 t1 w0 w1"),
    "(xystr)w": (0, "x0 y0 s0 t0 r0 x1 y1 s1 t1 r1 w0 w1"),
    "(xys)": (0, "x0 y0 s0 x1 y1 s1"),
}
HERE = ["p", "q", "u", "w0", "w1", "x0", "x1", "y0", "y1", "s0", "s1", "t0", "t1", "r0", "r1"]
each_framework = pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])


@contextlib.contextmanager
def maker_for(framework):
    """What makes an array of the framework of NumPy's."""
    module = pytest.importorskip(framework, reason=f"the extra `{framework}` is not installed")
    make = {"numpy": lambda m: m.asarray, "torch": lambda m: m.from_numpy, "jax": lambda m: m.numpy.asarray}
    with module.enable_x64(True) if framework == "jax" else contextlib.nullcontext():
        yield make[framework](module)


def derivative_of(framework, function, array, upstream):
    """The derivative by the framework's automatic differentiation."""
    if framework == "torch":
        import torch

        given = torch.from_numpy(array).requires_grad_()
        return torch.autograd.grad(function(given), given, torch.from_numpy(upstream))[0].numpy()
    import jax

    return np.asarray(jax.vjp(function, jax.numpy.asarray(array))[1](jax.numpy.asarray(upstream))[0])


# Layouts


@each_framework
@each_dtype
@pytest.mark.parametrize("columns", ORDERS)
def test_columns_come_in_our_order_and_gradients_in_theirs(columns, dtype, framework):
    pen, names = ORDERS[columns]
    names, layout = names.split(), Layout(columns, M, pen)
    assert layout.width == len(names)
    raw = np.random.default_rng(0).normal(size=(2, 3, layout.width)).astype(dtype)
    ours = HERE[:pen] + HERE[3:]
    # what the network lacks: a second stddev is the first one, all else 0
    sources = [name if name in names else name.replace("t", "s") if name[0] == "t" else None for name in ours]
    expected = np.stack([np.zeros((2, 3), dtype) if s is None else raw[..., names.index(s)] for s in sources], axis=-1)
    gradient = np.random.default_rng(1).normal(size=expected.shape).astype(dtype)
    back = np.stack(
        [sum(gradient[..., k] for k, source in enumerate(sources) if source == name) for name in names], axis=-1
    )
    with maker_for(framework) as make:
        assert_same_bits(np.asarray(layout.to_cymdn(make(raw))), expected)
        assert_same_bits(np.asarray(layout.gradient(make(gradient))), back)
        if framework != "numpy":
            assert_same_bits(derivative_of(framework, layout.to_cymdn, raw, gradient), back)


def test_a_column_that_is_absent_is_0_whatever_stands_elsewhere():
    moved = Layout("xys", 1).to_cymdn(np.array([[np.nan, np.inf, 1.0]]))
    np.testing.assert_array_equal(moved, [[0, np.nan, np.inf, 1, 1, 0]])


@pytest.mark.parametrize("columns", ["xx", "(xys", "((x)y)s", "xysq", " xys", "(pxys)", "pwxy", "wxys", ""])
def test_columns_of_another_form_are_refused(columns):
    with pytest.raises(ValueError, match=r"^columns: expected"):
        Layout(columns, M, 1)


def test_bad_arguments_of_a_layout_are_refused_by_name():
    with pytest.raises(TypeError, match=r"^columns: expected a string, got int"):
        Layout(6, M)
    with pytest.raises(ValueError, match=r"^n_components: expected an integer of at least 1, got 0"):
        Layout("xys", 0)
    with pytest.raises(ValueError, match=r"^pen: expected the number of pen logits"):
        Layout("pxys", M, 2)
    layout = Layout("pwxys", M, 1)
    with pytest.raises(ValueError, match=r"^raw: expected shape \(\.\.\., 9\), got \(3, 10\)"):
        layout.to_cymdn(np.zeros((3, 10)))
    with pytest.raises(ValueError, match=r"^gradient: expected shape \(\.\.\., 13\), got \(9,\)"):
        layout.gradient(np.zeros(9))
    assert repr(layout) == "Layout('pwxys', 2, pen=1)"


# Activations

# value and derivative, exactly
EXACT = {
    "log_softplus": lambda s: (
        mpmath.log(mpmath.log1p(mpmath.exp(s))),
        1 / (1 + mpmath.exp(-s)) / mpmath.log1p(mpmath.exp(s)),
    ),
    "log_elu_plus_one": lambda s: (s, 1) if s < 0 else (mpmath.log1p(s), 1 / (1 + s)),
    "atanh_softsign": lambda s: (mpmath.atanh(s / (1 + abs(s))), 1 / (1 + 2 * abs(s))),
}


@cache
def arguments_and_exact(name, dtype):
    rng = np.random.default_rng(0)
    s = np.concatenate([rng.uniform(-800, 800, 300), rng.normal(size=300), [-41, -39, -2, -0.0, 0.0, 0.5413, 1e-30]])
    s = s.astype(dtype)
    with mpmath.workdps(400):  # exp of -800 beside 1
        return s, [EXACT[name](mpf(float(number))) for number in s]


@each_framework
@each_dtype
@pytest.mark.parametrize("name", EXACT)
def test_activations_are_exact_to_a_few_eps_and_so_are_their_derivatives(name, dtype, framework):
    function, (s, exact) = getattr(activations, name), arguments_and_exact(name, dtype)
    with maker_for(framework) as make:
        value, derivative = map(np.asarray, function(make(s), True))
        assert value.dtype == derivative.dtype == dtype
        got = {"value": (value, 0), "derivative": (derivative, 1)}
        assert_same_bits(np.asarray(function(make(s))), value)
        if framework != "numpy":
            got["automatic"] = (derivative_of(framework, function, s, np.ones_like(s)), 1)
    for what, (numbers, k) in got.items():
        errors = [abs(mpf(float(n)) - e[k]) / max(1, abs(e[k])) for n, e in zip(numbers, exact, strict=True)]
        # exp and log of JAX, and those of NumPy in float32, are less exact
        bound = 1 if what == "value" and dtype is np.float64 and framework != "jax" else 3
        assert max(errors) <= bound * EPS[dtype], what
