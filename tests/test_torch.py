"""cymdn.torch: the numbers of cymdn, and what PyTorch expects of a loss function, an operator and a module.

Other devices than the CPU compute by PyTorch's operations. Tests with the fixture `path` run on the CPU's kernels, and,
with these switched off, on the operations, still on the CPU.
"""

import copy
import doctest
import importlib
import io
import math
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import assert_same_bits

import cymdn

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra `torch`)")
cymdn_torch = importlib.import_module("cymdn.torch")
mdn_loss, MDNLoss, mdn_sample, MDNHead = (
    getattr(cymdn_torch, name) for name in ("mdn_loss", "MDNLoss", "mdn_sample", "MDNHead")
)
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap  # noqa: E402

# PyTorch still uses inside what it warns its users of
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

DTYPES = (torch.float32, torch.float64)
REDUCTIONS = ("none", "sum", "mean")
PENS = {"none": 0, "bernoulli": 1, "categorical": 3}  # and how many logits they take
BATCHES = [(), (4,), (2, 3), (3, 1, 2)]
INF, NAN = math.inf, math.nan


@pytest.fixture(params=["kernels", "operations"])
def path(request, monkeypatch):
    """What computes the loss on the CPU: the kernels, or the operations that other devices use."""
    if request.param == "operations":
        monkeypatch.setattr(cymdn_torch, "_has_kernels", lambda raw: False)
    return request.param


# Good arguments to start from


def network_output(pen="bernoulli", batch=(6,), m=3, dtype=torch.float64, seed=0):
    """raw and x, which require grad, and the pen."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(*batch, PENS[pen] + 6 * m, dtype=dtype, generator=generator)
    x = torch.randn(*batch, 2, dtype=dtype, generator=generator)
    targets = {
        "none": None,
        "bernoulli": torch.randint(2, batch, generator=generator).double(),
        "categorical": torch.nn.functional.one_hot(torch.randint(3, batch, generator=generator), 3),
    }
    return raw.requires_grad_(), x.requires_grad_(), targets[pen]


def weights(batch=(6,)):
    return torch.rand(batch, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5


def array(tensor):
    return None if tensor is None else tensor.detach().numpy()


def of_numpy(raw, x, pen, weight=None, reduction="mean"):
    """Loss and gradient as cymdn returns them for arrays."""
    return cymdn.mdn_loss_and_gradient(
        array(raw), array(x), array(pen), sample_weight=array(weight), reduction=reduction
    )


def gradients(loss, *tensors):
    """Derivatives of the sum of a loss of any shape."""
    return torch.autograd.grad(loss, tensors, torch.ones_like(loss))


def assert_same_tensor(actual, expected):
    assert_same_bits(array(actual), np.asarray(expected) if isinstance(expected, np.generic) else array(expected))


# The numbers


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("pen", PENS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_loss_and_gradient_have_the_bits_of_numpy(reduction, weighted, pen, batch, dtype):
    raw, x, targets = network_output(pen, batch, dtype=dtype)
    weight = weights(batch) if weighted else None
    loss = mdn_loss(raw, x, targets, sample_weight=weight, reduction=reduction)
    (gradient,) = gradients(loss, raw)
    expected_loss, expected_gradient = of_numpy(raw, x, targets, weight, reduction)
    assert_same_bits(array(loss), np.asarray(expected_loss))
    assert_same_bits(array(gradient), expected_gradient)
    with torch.no_grad():
        assert_same_tensor(mdn_loss(raw, x, targets, sample_weight=weight, reduction=reduction), loss)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [1, 2, 20, 300])
@pytest.mark.parametrize("pen", PENS)
def test_gradient_to_x_is_minus_the_sum_of_those_to_the_means(pen, m, dtype):
    raw, x, targets = network_output(pen, (50,), m, dtype)
    loss = mdn_loss(raw, x, targets, reduction="none")
    raw_gradient, x_gradient = (array(gradient) for gradient in gradients(loss, raw, x))
    means = raw_gradient[:, PENS[pen] + m : PENS[pen] + 3 * m].reshape(50, 2, m).astype(np.float64)
    exact = [[-math.fsum(terms) for terms in row] for row in means]
    # the means' derivatives are rounded already, to half an eps each; the sum adds as much, once in float32, and in
    # float64 for each division and the additions that a term goes through, a few where PyTorch sums in lanes
    bound = 4 * np.finfo(raw_gradient.dtype).eps * abs(means).sum(-1)
    assert (abs(x_gradient - exact) <= bound).all()


@pytest.mark.parametrize("pen", PENS)
def test_gradient_to_x_is_that_of_the_log_density(pen):
    raw, x, targets = network_output(pen, (40,), 5)
    (x_gradient,) = gradients(mdn_loss(raw, x, targets, reduction="none"), x)
    mixture = array(raw)[:, PENS[pen] :].reshape(40, 6, 5)
    weight = np.exp(mixture[:, 0])
    _, gradient = cymdn.mixture_logpdf_and_gradient(
        array(x),
        weight / weight.sum(-1, keepdims=True),
        mixture[:, 1:3].swapaxes(1, 2),
        np.exp(mixture[:, 3:5]).swapaxes(1, 2),
        np.tanh(mixture[:, 5]),
    )
    # correlations up to 0.99: tanh has lost two digits there, and derivatives are up to 1e3
    np.testing.assert_allclose(array(x_gradient), -gradient.x, rtol=1e-11, atol=1e-11)


def by_distributions(raw, x, pen):
    """Losses of the rows as PyTorch's own distributions and losses give them."""
    pens = 0 if pen is None else 1 if pen.ndim == 1 else 3
    logits, mean0, mean1, log_s0, log_s1, a = raw[:, pens:].unflatten(-1, (6, -1)).unbind(-2)
    s0, s1, r = log_s0.exp(), log_s1.exp(), a.tanh()
    factor = torch.stack([s0, torch.zeros_like(s0), r * s1, (1 - r * r).sqrt() * s1], -1).unflatten(-1, (2, 2))
    components = torch.distributions.MultivariateNormal(torch.stack([mean0, mean1], -1), scale_tril=factor)
    losses = -torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=logits), components
    ).log_prob(x)
    functional = torch.nn.functional
    if pens == 1:
        return losses + functional.binary_cross_entropy_with_logits(raw[:, 0], pen, reduction="none")
    return losses + functional.cross_entropy(raw[:, :3], pen.double(), reduction="none") if pens else losses


@pytest.mark.parametrize("pen", PENS)
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_gradients_are_those_of_torch_distributions(weighted, pen):
    raw, x, targets = network_output(pen, (40,), 5)
    weight = weights((40,)) if weighted else torch.ones(40, dtype=torch.float64)
    expected = (weight * by_distributions(raw, x, targets)).sum() / weight.sum()
    loss = mdn_loss(raw, x, targets, sample_weight=weight if weighted else None)
    for ours, theirs in zip((loss, *gradients(loss, raw, x)), (expected, *gradients(expected, raw, x)), strict=True):
        # their 1 - r^2 loses two digits at correlations of 0.99, where derivatives are up to 1e3
        np.testing.assert_allclose(array(ours), array(theirs), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("pen", PENS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradcheck_passes(reduction, pen):
    raw, x, targets = network_output(pen, (4,))
    weight = weights((4,))

    def loss(raw, x):
        return mdn_loss(raw, x, targets, sample_weight=weight, reduction=reduction)

    # differences of second order in steps of 1e-6: their rounding is 1e-9 of a loss of some tens; the batched gradients
    # are those that torch.vmap over the backward pass gives
    torch.autograd.gradcheck(loss, (raw, x), eps=1e-6, rtol=1e-6, atol=1e-6, check_batched_grad=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_scaled_by_what_follows_the_loss(dtype):
    raw, x, targets = network_output(dtype=dtype)
    factors = torch.tensor([1.0, -2.0, 0.25, 3.0, 0.0, 1e-3], dtype=dtype)
    (gradient,) = gradients(factors * mdn_loss(raw, x, targets, reduction="none"), raw)
    _, rows = of_numpy(raw, x, targets, reduction="none")
    np.testing.assert_array_equal(array(gradient), factors.numpy()[:, None] * rows)
    (gradient,) = gradients(-3.0 * mdn_loss(raw, x, targets, reduction="sum"), raw)
    np.testing.assert_array_equal(array(gradient), rows.dtype.type(-3.0) * rows)


def test_positive_pen_logit_means_that_the_stroke_ends():
    raw = torch.zeros(2, 7)
    raw[:, 0] = 3.0
    stays, ends = mdn_loss(raw, torch.zeros(2, 2), torch.tensor([0, 1]), reduction="none")
    # log sigmoid(3) against log sigmoid(-3)
    torch.testing.assert_close(stays - ends, torch.tensor(3.0))


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32])
def test_pen_and_weights_of_any_dtype_give_the_same_bits(kind):
    raw, x, targets = network_output()
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    expected = mdn_loss(raw, x, targets, sample_weight=weight)
    assert_same_tensor(mdn_loss(raw, x, targets.to(kind), sample_weight=weight.to(kind)), expected)


# Layouts: each takes a tensor to one of the same values that lies differently in memory


def every_other(tensor):
    larger = torch.full([2 * size for size in tensor.shape], 99.0, dtype=tensor.dtype)
    view = larger[tuple(slice(None, None, 2) for _ in tensor.shape)]
    return view.copy_(tensor)


def axes_swapped(tensor):
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)


def columns_of_a_table(tensor):
    return torch.cat([tensor, torch.full_like(tensor, 99.0)], -1)[..., : tensor.shape[-1]]


def one_element_on(tensor):
    return torch.cat([torch.zeros(1, dtype=tensor.dtype), tensor.reshape(-1)])[1:].view(tensor.shape)


def minus_sign_pending(tensor):
    return torch.complex(torch.zeros_like(tensor), -tensor).conj().imag


LAYOUTS = (every_other, axes_swapped, columns_of_a_table, one_element_on, minus_sign_pending)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pen", ["bernoulli", "categorical"])
def test_any_layout_gives_the_same_bits(pen, layout):
    raw, x, targets = network_output(pen, (4, 3))
    weight = weights((4, 3))
    expected = mdn_loss(raw, x, targets, sample_weight=weight, reduction="none")
    moved = [layout(t.detach().double()) for t in (raw, x, targets, weight)]
    moved[:2] = [t.requires_grad_() for t in moved[:2]]
    loss = mdn_loss(*moved[:3], sample_weight=moved[3], reduction="none")
    assert_same_tensor(loss, expected)
    for ours, theirs in zip(gradients(loss, *moved[:2]), gradients(expected, raw, x), strict=True):
        assert_same_tensor(ours, theirs)


def test_expanded_tensors_give_the_bits_of_the_repeated_ones():
    raw, x, _ = network_output("none", (1,))
    pen = torch.zeros(())
    many = raw.expand(5, -1), x.expand(5, 2)
    loss = mdn_loss(torch.cat([torch.zeros(5, 1), many[0]], -1), many[1], pen.expand(5))
    assert loss == mdn_loss(torch.cat([torch.zeros(1, 1), raw], -1), x, pen.expand(1))
    (gradient,) = gradients(mdn_loss(*many, reduction="sum"), raw)
    torch.testing.assert_close(gradient, 5 * gradients(mdn_loss(raw, x), raw)[0])


# What is computed, and from which memory


@pytest.fixture
def calls(monkeypatch):
    """The calls of cymdn's own functions: name, arguments, keywords."""
    made = []

    def watched(name, function):
        def call(*arguments, **keywords):
            made.append((name, arguments, keywords))
            return function(*arguments, **keywords)

        return call

    for name in ("mdn_loss", "mdn_loss_and_gradient"):
        monkeypatch.setattr(cymdn_torch._mdn, name, watched(name, getattr(cymdn_torch._mdn, name)))
    return made


def test_gradient_is_computed_where_one_is_needed_and_only_there(calls):
    raw, x, pen = network_output()
    for raw_needs, x_needs, mode in [(True, True, True), (True, False, True), (False, True, True)]:
        with torch.set_grad_enabled(mode):
            loss = mdn_loss(raw.detach().requires_grad_(raw_needs), x.detach().requires_grad_(x_needs), pen)
        assert loss.requires_grad
    assert [name for name, *_ in calls] == ["mdn_loss_and_gradient"] * 3
    calls.clear()
    assert not mdn_loss(raw.detach(), x.detach(), pen).requires_grad
    with torch.no_grad():
        mdn_loss(raw, x, pen)
    with torch.inference_mode():
        mdn_loss(raw, x, pen)
    assert [name for name, *_ in calls] == ["mdn_loss"] * 3


def test_backward_computes_no_loss_again(calls):
    raw, x, pen = network_output()
    loss = mdn_loss(raw, x, pen)
    loss.backward(retain_graph=True)
    first = raw.grad.clone()
    loss.backward()
    assert len(calls) == 1
    assert_same_tensor(raw.grad, 2 * first)


def test_only_the_gradients_asked_for_are_returned():
    raw, x, pen = network_output()
    raw_gradient, x_gradient = gradients(mdn_loss(raw, x, pen), raw, x)
    (alone,) = gradients(mdn_loss(raw.detach(), x, pen), x)
    assert_same_tensor(alone, x_gradient)
    (alone,) = gradients(mdn_loss(raw, x.detach(), pen), raw)
    assert_same_tensor(alone, raw_gradient)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", [True, False])
def test_contiguous_tensors_are_not_copied(mode, dtype, calls):
    raw, x, pen = network_output(dtype=dtype)
    weight = weights()
    with torch.set_grad_enabled(mode):
        mdn_loss(raw, x, pen, sample_weight=weight)
    _, arrays, keywords = calls[0]  # float32 ones are computed again, in float64, for the gradient to x
    for given_to_numpy, tensor in zip((*arrays, keywords["sample_weight"]), (raw, x, pen, weight), strict=True):
        assert given_to_numpy.ctypes.data == tensor.data_ptr()
        assert given_to_numpy.strides == tuple(tensor.element_size() * stride for stride in tensor.stride())


def test_arguments_are_not_modified():
    raw, x, pen = network_output()
    weight = weights()
    before = [t.detach().clone() for t in (raw, x, pen, weight)]
    mdn_loss(raw, x, pen, sample_weight=weight).backward()
    for tensor, copied in zip((raw, x, pen, weight), before, strict=True):
        assert_same_tensor(tensor, copied)


@pytest.fixture
def threads():
    """Sets PyTorch's number of threads, for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("number", [1, 2, 1000])
def test_workers_are_the_threads_of_torch_and_at_most_one_a_cpu(number, threads, calls):
    raw, x, pen = network_output()
    threads(number)
    mdn_loss(raw, x, pen)
    assert calls[0][2]["workers"] == min(number, cymdn._dispatch.cpu_count())


def test_any_number_of_threads_gives_the_same_bits(threads):
    raw, x, pen = network_output(batch=(20_000,), m=4)
    results = []
    for number in (1, 2):
        threads(number)
        loss = mdn_loss(raw, x, pen)
        results.append((loss, *gradients(loss, raw, x)))
    for one, two in zip(*results, strict=True):
        assert_same_tensor(two, one)


# The contract: finite tensors never give NaN, a row of weight 0 is skipped


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_finite_tensors_give_no_nan(dtype, data):
    largest = torch.finfo(dtype).max
    special = [0.0, 1.0, -1.0, 400.0, -400.0, -709.0, 1e-30, 1e30, -1e30, largest, -largest]
    numbers = st.one_of(st.floats(-4, 4, width=32), st.sampled_from(special))
    m = data.draw(st.integers(1, 3))
    raw = torch.tensor([data.draw(st.lists(numbers, min_size=6 * m, max_size=6 * m))], dtype=dtype, requires_grad=True)
    x = torch.tensor([data.draw(st.lists(numbers, min_size=2, max_size=2))], dtype=dtype, requires_grad=True)
    factor = data.draw(st.sampled_from([0.0, 1.0, -1e30, largest, INF]))
    loss = mdn_loss(raw, x, reduction="none")
    upstream = torch.full_like(loss, factor)
    for tensor in (loss, *torch.autograd.grad(loss, (raw, x), upstream)):
        assert not tensor.isnan().any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_row_beyond_the_dtype_has_gradient_0_whatever_follows_the_loss(dtype):
    raw, x, _ = network_output("none", (3,), 2, dtype)
    with torch.no_grad():
        x[1] = INF
    losses = mdn_loss(raw, x, reduction="none")
    assert losses[1] == INF
    for gradient in gradients(losses.square(), raw, x):  # its own gradient is 2 inf there
        np.testing.assert_array_equal(array(gradient)[1], 0)
        assert gradient.isfinite().all()
        assert gradient[[0, 2]].all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_to_the_means_that_overflow_both_ways_give_no_nan_to_x(dtype):
    # x halfway between two narrow means: their derivatives are infinite, of opposite signs
    exponent = {torch.float32: 85.0, torch.float64: 705.0}[dtype]
    size = math.exp(-exponent)
    raw = torch.tensor([[0, 0, size, -size, 0, 0, *[-exponent] * 4, 0, 0]], dtype=dtype, requires_grad=True)
    x = torch.zeros(1, 2, dtype=dtype, requires_grad=True)
    weight = torch.tensor([1e6], dtype=torch.float64)
    raw_gradient, x_gradient = gradients(mdn_loss(raw, x, sample_weight=weight, reduction="none"), raw, x)
    assert array(raw_gradient)[0, 2:4].tolist() == [INF, -INF]
    assert not x_gradient.isnan().any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("held", [NAN, INF, 1e30])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_row_of_weight_0_is_skipped_whatever_it_holds(reduction, held, dtype):
    raw, x, pen = network_output(dtype=dtype)
    weight = torch.tensor([1.0, 0.0, 2.0, 0.0, 0.5, 1.0])
    expected = mdn_loss(raw, x, pen, sample_weight=weight, reduction=reduction)
    spoilt_raw, spoilt_x = raw.detach().clone(), x.detach().clone()
    spoilt_raw[1], spoilt_x[3], pen[1] = held, held, held
    spoilt = spoilt_raw.requires_grad_(), spoilt_x.requires_grad_()
    loss = mdn_loss(*spoilt, pen, sample_weight=weight, reduction=reduction)
    assert_same_tensor(loss, expected)
    for ours, theirs in zip(gradients(loss, *spoilt), gradients(expected, raw, x), strict=True):
        assert_same_tensor(ours, theirs)
        np.testing.assert_array_equal(array(ours)[weight == 0], 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_row_that_the_caller_masks_has_gradient_0_whatever_it_holds(dtype):
    raw, x, _ = network_output("none", (4,), dtype=dtype)
    keep = torch.tensor([True, False, True, False])
    with torch.no_grad():
        raw[1], x[3] = NAN, INF
    losses = mdn_loss(raw, x, reduction="none")
    for gradient in gradients(torch.where(keep, losses, 0.0), raw, x):
        np.testing.assert_array_equal(array(gradient)[~keep], 0)
        assert gradient[keep].all()


def test_nan_in_a_row_makes_its_gradient_nan_and_touches_no_other():
    raw, x, pen = network_output()
    expected = gradients(mdn_loss(raw, x, pen, reduction="none"), raw, x)
    with torch.no_grad():
        raw[2, 4] = NAN
    others = [0, 1, 3, 4, 5]
    for gradient, before in zip(gradients(mdn_loss(raw, x, pen, reduction="none"), raw, x), expected, strict=True):
        assert gradient[2].isnan().all()
        assert_same_tensor(gradient[others], before[others])


# Autograd beyond the gradient


def test_create_graph_gives_the_same_gradient():
    raw, x, pen = network_output()
    loss = mdn_loss(raw, x, pen)
    for ours, theirs in zip(
        torch.autograd.grad(loss, (raw, x), create_graph=True), gradients(mdn_loss(raw, x, pen), raw, x), strict=True
    ):
        assert_same_tensor(ours, theirs)


def test_checkpointing_gives_the_same_gradient():
    raw, x, pen = network_output()
    loss = torch.utils.checkpoint.checkpoint(mdn_loss, raw, x, pen, use_reentrant=False)
    for ours, theirs in zip(gradients(loss, raw, x), gradients(mdn_loss(raw, x, pen), raw, x), strict=True):
        assert_same_tensor(ours, theirs)


# torch.vmap and torch.func


@pytest.mark.parametrize("pen", PENS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_vmap_gives_the_bits_of_the_calls_one_by_one(reduction, pen):
    raw, x, targets = network_output(pen, (4, 3))

    def loss(raw, x, targets=None):
        return mdn_loss(raw, x, targets, reduction=reduction)

    rows = [t for t in (raw, x, targets) if t is not None]
    mapped = torch.vmap(loss)(*rows)
    expected = torch.stack([loss(*row) for row in zip(*rows, strict=True)])
    assert_same_tensor(mapped, expected)
    for ours, theirs in zip(gradients(mapped, raw, x), gradients(expected, raw, x), strict=True):
        np.testing.assert_array_equal(array(ours), array(theirs))  # -0 becomes 0 where PyTorch adds slices up


def test_vmap_over_another_axis_and_over_one_argument_only():
    raw, x, _ = network_output("none", (4, 3))
    mapped = torch.vmap(lambda raw, x: mdn_loss(raw, x, reduction="none"), in_dims=(1, None), out_dims=1)(raw, x[:, 0])
    expected = mdn_loss(raw, x[:, :1].expand(4, 3, 2), reduction="none")
    assert_same_tensor(mapped, expected)


def test_vmap_of_rows_is_one_call(calls):
    raw, x, pen = network_output(batch=(100,))
    torch.vmap(lambda *row: mdn_loss(*row, reduction="none"))(raw, x, pen)
    assert len(calls) == 1


def test_vectorised_jacobian_holds_the_gradients_of_the_rows():
    raw, x, pen = network_output()
    jacobian = torch.autograd.functional.jacobian(
        lambda raw: mdn_loss(raw, x.detach(), pen, reduction="none"), raw.detach(), vectorize=True
    )
    _, rows = of_numpy(raw, x, pen, reduction="none")
    np.testing.assert_array_equal(array(jacobian), np.eye(6)[:, :, None] * rows)


def test_func_grad_has_the_bits_of_the_kernels():
    raw, x, pen = network_output()
    gradient = grad(lambda raw: mdn_loss(raw, x.detach(), pen))(raw.detach())
    assert_same_bits(array(gradient), of_numpy(raw, x, pen)[1])


# Derivatives of any order, against those of the same formulas left to PyTorch


def by_hand(raw, x, pen, sample_weight=None, reduction="mean"):
    logits, mean0, mean1, log_s0, log_s1, a = raw[..., 1:].unflatten(-1, (6, -1)).unbind(-2)
    u, v, r = (x[..., :1] - mean0) * torch.exp(-log_s0), (x[..., 1:] - mean1) * torch.exp(-log_s1), torch.tanh(a)
    q = 1 - r * r
    log_normal = -math.log(2 * math.pi) - log_s0 - log_s1 - 0.5 * (torch.log(q) + (u * u + v * v - 2 * r * u * v) / q)
    losses = -torch.logsumexp(torch.log_softmax(logits, -1) + log_normal, -1)
    losses = losses + torch.nn.functional.softplus(raw[..., 0]) - pen * raw[..., 0]
    total = losses.shape.numel() if sample_weight is None else sample_weight.sum()
    losses = losses if sample_weight is None else losses * sample_weight
    return {"none": lambda: losses, "sum": lambda: losses.sum(), "mean": lambda: losses.sum() / total}[reduction]()


def derivatives(loss):
    """Names and derivatives of a loss (raw, x, pen, **keywords)."""
    raw, x, pen = (t.detach() for t in network_output(batch=(4,), m=2))
    more_raw, more_x = torch.stack([raw, raw + 1]), torch.stack([x, x - 1])
    for reduction in REDUCTIONS:
        for weight in (None, weights((4,))):
            keywords = {"sample_weight": weight, "reduction": reduction}

            def f(raw, x, keywords=keywords):
                return loss(raw, x, pen, **keywords)

            name = f"{reduction}, {'weighted' if weight is not None else 'plain'}"
            yield f"jacrev, {name}", lambda f=f: jacrev(f, (0, 1))(raw, x)
            yield f"jacfwd, {name}", lambda f=f: jacfwd(f, (0, 1))(raw, x)
            yield f"jvp, {name}", lambda f=f: jvp(f, (raw, x), (torch.cos(raw), torch.sin(x)))
            yield f"hessian, {name}", lambda f=f: hessian(f, (0, 1))(raw, x)
            yield f"jacrev of jacrev, {name}", lambda f=f: jacrev(jacrev(f, 1), 0)(raw, x)
            yield f"jacrev of jacfwd, {name}", lambda f=f: jacrev(jacfwd(f, 0), 1)(raw, x)

    def one(raw, x, pen):
        return loss(raw[None], x[None], pen[None])

    yield "third", lambda: grad(lambda raw: hessian(lambda r: loss(r, x, pen))(raw).square().sum())(raw)
    yield "vmap(grad)", lambda: vmap(grad(one, (0, 1)))(raw, x, pen)
    yield "vmap(hessian)", lambda: vmap(hessian(one))(raw, x, pen)
    yield "vmap of grad of a mean", lambda: vmap(grad(lambda r, y: loss(r, y, pen), (0, 1)))(more_raw, more_x)
    yield "grad(vmap)", lambda: grad(lambda r: vmap(lambda r, y: loss(r, y, pen))(r, more_x).prod())(more_raw)
    yield "jvp(vmap)", lambda: jvp(lambda r: vmap(lambda q: loss(q, x, pen))(r), (more_raw,), (torch.cos(more_raw),))
    yield "jvp(grad)", lambda: jvp(grad(lambda r: loss(r, x, pen)), (raw,), (torch.cos(raw),))
    parameters = {"weight": torch.linspace(-1, 1, 39).double().view(13, 3), "bias": torch.zeros(13).double()}
    layer, past = torch.nn.Linear(3, 13), torch.linspace(-1, 2, 12).double().view(4, 3)

    def of_sample(parameters, past, x, pen):
        return one(functional_call(layer, parameters, (past,)), x, pen)

    yield "of each sample to parameters", lambda: vmap(grad(of_sample), (None, 0, 0, 0))(parameters, past, x, pen)


NAMES = [name for name, _ in derivatives(by_hand)]


@pytest.mark.parametrize("name", NAMES)
def test_derivative_is_that_of_the_formulas(name, path):
    ours, theirs = (torch.utils._pytree.tree_leaves(dict(derivatives(loss))[name]()) for loss in (mdn_loss, by_hand))
    for got, expected in zip(ours, theirs, strict=True):
        # correlations of up to 0.97: their 1 - r^2 has lost a digit or two, derivatives are up to 1e3, second ones 1e5
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradgradcheck_passes(reduction, path):
    raw, x, pen = network_output(batch=(2,), m=2)

    def loss(raw, x):
        return mdn_loss(raw, x, pen, sample_weight=weights((2,)), reduction=reduction)

    assert torch.autograd.gradcheck(loss, (raw, x), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(loss, (raw, x), check_fwd_over_rev=True, check_batched_grad=True)


def test_second_derivative_is_there_where_the_first_is_0(path):
    raw, x = torch.zeros(2, 13).double(), torch.zeros(2, 2).double()  # on the means, of equal components
    pen = torch.zeros(2).double()
    for got, expected in zip(
        torch.utils._pytree.tree_leaves(hessian(lambda *t: mdn_loss(*t, pen), (0, 1))(raw, x)),
        torch.utils._pytree.tree_leaves(hessian(lambda *t: by_hand(*t, pen), (0, 1))(raw, x)),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)
        assert expected.any()


def test_forward_mode_within_forward_mode_is_refused(path):
    raw, x, pen = (t.detach() for t in network_output())
    with pytest.raises(NotImplementedError, match=r"^mdn_loss: forward mode within forward mode"):
        jacfwd(jacfwd(lambda raw: mdn_loss(raw, x, pen)))(raw)
    with pytest.raises(NotImplementedError, match=r"^mdn_loss: forward mode within forward mode"):
        jvp(lambda r: jvp(lambda q: mdn_loss(q, x, pen), (r,), (r,))[1], (raw,), (raw,))


@pytest.mark.parametrize("argument", ["pen", "sample_weight"])
def test_forward_mode_with_respect_to_targets_is_refused(argument):
    raw, x, pen = (t.detach() for t in network_output())
    targets = {"pen": pen, "sample_weight": weights()}

    def loss(value):
        return mdn_loss(raw, x, **targets | {argument: value})

    value = targets[argument]
    with pytest.raises(NotImplementedError, match=r"^mdn_loss: there is no derivative with respect to pen or sample_w"):
        jvp(loss, (value,), (value,))


def test_targets_may_be_overwritten_before_the_backward_pass_but_not_before_a_second_derivative():
    raw, x, pen = network_output()
    loss = mdn_loss(raw, x, pen)
    expected = of_numpy(raw, x, pen)[1]
    pen.fill_(0.25)
    assert_same_bits(array(torch.autograd.grad(loss, raw, retain_graph=True)[0]), expected)
    with pytest.raises(RuntimeError, match=r"^mdn_loss: pen or sample_weight was modified in place"):
        torch.autograd.grad(loss, raw, create_graph=True)


# Other devices, as far as the CPU shows; half precision


def test_operations_give_the_numbers_of_the_kernels(monkeypatch):
    monkeypatch.setattr(cymdn_torch, "_has_kernels", lambda raw: False)
    for dtype in DTYPES:
        for reduction in REDUCTIONS:
            for weight in (None, weights((50,))):
                raw, x, pen = network_output(batch=(50,), dtype=dtype)
                loss = mdn_loss(raw, x, pen, sample_weight=weight, reduction=reduction)
                expected, gradient = of_numpy(raw, x, pen, weight, reduction)
                eps = torch.finfo(dtype).eps
                # errors of some eps of terms that are up to some 30 times as large as the sum
                np.testing.assert_allclose(array(loss), expected, rtol=100 * eps, atol=100 * eps)
                ours = array(gradients(loss, raw)[0])
                np.testing.assert_allclose(ours, gradient, rtol=100 * eps, atol=100 * eps * abs(gradient).max())


@pytest.mark.parametrize("held", [NAN, INF, 1e30])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_operations_skip_a_row_of_weight_0(reduction, held, monkeypatch):
    monkeypatch.setattr(cymdn_torch, "_has_kernels", lambda raw: False)
    raw, x, pen = network_output()
    weight = torch.tensor([1.0, 0.0, 2.0, 0.0, 0.5, 1.0])
    expected = mdn_loss(raw, x, pen, sample_weight=weight, reduction=reduction)
    spoilt = [t.detach().clone() for t in (raw, x)]
    spoilt[0][1], spoilt[1][3] = held, held
    spoilt = [t.requires_grad_() for t in spoilt]
    loss = mdn_loss(*spoilt, pen, sample_weight=weight, reduction=reduction)
    assert_same_tensor(loss, expected)
    for ours, theirs in zip(gradients(loss, *spoilt), gradients(expected, raw, x), strict=True):
        np.testing.assert_array_equal(array(ours), array(theirs))
        np.testing.assert_array_equal(array(ours)[weight == 0], 0)


@pytest.mark.parametrize("bad", [-1.0, NAN, INF])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_operations_make_nan_of_weights_that_are_none(reduction, bad, monkeypatch):
    monkeypatch.setattr(cymdn_torch, "_has_kernels", lambda raw: False)
    raw, x, pen = network_output()
    weight = weights()
    weight[2] = bad
    loss = mdn_loss(raw, x, pen, sample_weight=weight, reduction=reduction)
    assert loss.isnan().tolist() == ([False] * 2 + [True] + [False] * 3 if reduction == "none" else True)


def test_operations_sum_weights_that_overflow(monkeypatch):
    monkeypatch.setattr(cymdn_torch, "_has_kernels", lambda raw: False)
    raw, x, pen = network_output(dtype=torch.float32)
    weight = torch.full((6,), 3e38)
    torch.testing.assert_close(mdn_loss(raw, x, pen, sample_weight=weight), mdn_loss(raw, x, pen))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_that_of_its_numbers_in_float32(dtype, path):
    raw, x, pen = network_output(dtype=torch.float32)
    halves = [t.detach().to(dtype).requires_grad_() for t in (raw, x)]
    loss = mdn_loss(*halves, pen.to(dtype))
    expected = mdn_loss(*(singles := [t.detach().float().requires_grad_() for t in halves]), pen)
    assert_same_tensor(loss, expected)
    for ours, theirs in zip(gradients(loss, *halves), gradients(expected, *singles), strict=True):
        assert_same_tensor(ours.float(), theirs.to(dtype).float())
    mixed = mdn_loss(halves[0], singles[1], pen)
    assert_same_tensor(mixed, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_leaves_the_loss_in_float32(dtype, path):
    torch.manual_seed(0)
    layer, (_, x, pen) = torch.nn.Linear(4, 19), network_output(dtype=torch.float32)
    with torch.autocast("cpu", dtype):
        raw = layer(torch.ones(6, 4))
        loss = mdn_loss(raw, x.detach(), pen)
    assert (raw.dtype, loss.dtype) == (dtype, torch.float32)
    assert_same_tensor(loss, mdn_loss(raw.float(), x.detach(), pen))
    (2.0**15 * loss).backward()  # as a GradScaler does
    assert layer.weight.grad.isfinite().all()
    assert layer.weight.grad.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_meta_tensors_give_shapes(dtype):
    raw = torch.empty(4, 3, 19, device="meta", dtype=dtype, requires_grad=True)
    losses = mdn_loss(
        raw, torch.empty(4, 3, 2, device="meta", dtype=dtype), torch.empty(4, 3, device="meta"), reduction="none"
    )
    losses.sum().backward()
    assert (losses.shape, losses.dtype) == ((4, 3), torch.float64 if dtype == torch.float64 else torch.float32)
    assert (raw.grad.shape, raw.grad.dtype) == (raw.shape, dtype)
    with pytest.raises(ValueError, match=r"^raw: expected shape \(\.\.\., P \+ 6 M\)"):
        mdn_loss(raw[..., 1:], torch.empty(4, 3, 2, device="meta", dtype=dtype), torch.empty(4, 3, device="meta"))
    with pytest.raises(ValueError, match=r'^reduction: the "mean" of no rows'):
        mdn_loss(raw[:0], torch.empty(0, 3, 2, device="meta", dtype=dtype), torch.empty(0, 3, device="meta"))


def test_traced_operations_depend_on_their_arguments():
    raw, x, pen = (t.detach() for t in network_output())
    traced = torch.fx.experimental.proxy_tensor.make_fx(grad(lambda raw: mdn_loss(raw, x, pen)))(raw)
    assert_same_tensor(traced(raw + 1), grad(lambda raw: mdn_loss(raw, x, pen))(raw + 1))


# Operators, graphs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pen", PENS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_opcheck_passes(reduction, pen, dtype):
    raw, x, targets = network_output(pen, (4,), dtype=dtype)
    weight = weights((4,))
    for operator, arguments in (
        (cymdn_torch._loss_operator, (raw.detach(), x.detach(), targets, weight, reduction)),
        (cymdn_torch._gradient_operator, (raw, x, targets, weight, reduction, True)),
        (cymdn_torch._gradient_operator, (raw, x.detach(), targets, weight, reduction, False)),
    ):
        passed = torch.library.opcheck(operator, arguments)
        assert len(passed) == 4
        assert set(passed.values()) == {"SUCCESS"}


@pytest.mark.parametrize("upstream", [torch.tensor(2.0), torch.tensor([1.0, 0.0, INF, -1.0])])
def test_opcheck_of_the_scaling_passes(upstream):
    gradient = torch.randn(4, 13, generator=torch.Generator().manual_seed(0))
    passed = torch.library.opcheck(cymdn_torch._scale_operator, (gradient, upstream, upstream.clone()))
    assert set(passed.values()) == {"SUCCESS"}


@pytest.fixture
def compiler():
    """torch.compile that forgets all at the end, without breaks in the graph."""
    torch.compiler.reset()
    yield lambda function, **keywords: torch.compile(function, fullgraph=True, **keywords)
    torch.compiler.reset()


@pytest.mark.parametrize("pen", PENS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_compiled_loss_has_the_same_bits(reduction, pen, compiler):
    raw, x, targets = network_output(pen)
    weight = weights()

    def loss(raw, x):
        return mdn_loss(raw, x, targets, sample_weight=weight, reduction=reduction)

    compiled, expected = compiler(loss, backend="aot_eager")(raw, x), loss(raw, x)
    assert_same_tensor(compiled, expected)
    for ours, theirs in zip(gradients(compiled, raw, x), gradients(expected, raw, x), strict=True):
        assert_same_tensor(ours, theirs)


def test_compiled_loss_takes_other_batch_sizes_without_compiling_again(compiler, path):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    compiled = compiler(mdn_loss, backend=backend, dynamic=True)
    for rows in (6, 7, 100):
        raw, x, pen = network_output(batch=(rows,))
        assert_same_tensor(compiled(raw, x, pen), mdn_loss(raw, x, pen))
    assert len(graphs) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_operations_give_the_same_numbers(dtype, compiler, monkeypatch):
    monkeypatch.setattr(cymdn_torch, "_has_kernels", lambda raw: False)
    (raw, x, pen), weight = network_output(dtype=dtype), weights()

    def loss(raw, x):
        return mdn_loss(raw, x, pen, sample_weight=weight)

    compiled, expected = compiler(loss, backend="aot_eager")(raw, x), loss(raw, x)
    assert_same_tensor(compiled, expected)
    for ours, theirs in zip(gradients(compiled, raw, x), gradients(expected, raw, x), strict=True):
        assert_same_tensor(ours.float(), theirs.float())


def test_compiled_vmap_is_that_of_the_calls(compiler):
    raw, x, pen = (t.detach() for t in network_output(batch=(4, 3)))
    for reduction in REDUCTIONS:
        mapped = compiler(vmap(lambda *row: mdn_loss(*row, reduction=reduction)), backend="aot_eager")(raw, x, pen)  # noqa: B023
        assert_same_tensor(
            mapped, torch.stack([mdn_loss(*row, reduction=reduction) for row in zip(raw, x, pen, strict=True)])
        )


def test_forward_mode_in_a_compiled_graph_of_the_cpu_is_refused(compiler):
    raw, x, pen = (t.detach() for t in network_output())
    with pytest.raises(Exception, match=r"mdn_loss: there is no forward mode in compiled graphs of the CPU"):
        compiler(lambda raw: jvp(lambda r: mdn_loss(r, x, pen), (raw,), (raw,))[1], backend="aot_eager")(raw)


def test_compiled_module_is_one_graph_of_one_operator(compiler):
    module = torch.nn.Sequential(torch.nn.Linear(3, 19), torch.nn.Tanh())
    criterion = MDNLoss()

    def step(past, x, pen):
        return criterion(module(past), x, pen)

    report = torch._dynamo.explain(step)(torch.zeros(4, 3), torch.zeros(4, 2), torch.zeros(4))
    assert (report.graph_count, report.graph_break_count) == (1, 0)
    called = [str(operator) for operator in report.ops_per_graph[0]]
    assert [name for name in called if "cymdn" in name] == ["cymdn.mdn_loss_and_gradient.default"]


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler")
def test_inductor_gives_the_same_numbers(compiler, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # leaves nothing behind, and finds nothing
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 19).double()
    past, (_, x, pen) = torch.randn(6, 3, dtype=torch.float64), network_output()

    def loss(past, x):
        return mdn_loss(layer(past), x, pen)

    compiled, expected = compiler(loss)(past, x), loss(past, x)
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(gradients(compiled, layer.weight, x), gradients(expected, layer.weight, x))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("mode", [False, True])
def test_exported_module_is_saved_and_loaded(mode, strict):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.criterion = torch.nn.Linear(3, 19), MDNLoss()

        def forward(self, past, x, pen):
            return self.criterion(self.layer(past), x, pen)

    torch.manual_seed(0)
    network, arguments = Network(), (torch.randn(5, 3), torch.randn(5, 2), torch.zeros(5))
    rows = torch.export.Dim("rows", min=2)
    with torch.set_grad_enabled(mode):
        program = torch.export.export(network, arguments, dynamic_shapes=({0: rows},) * 3, strict=strict)
    operator = "cymdn.mdn_loss_and_gradient.default" if mode else "cymdn.mdn_loss.default"
    assert [str(node.target) for node in program.graph.nodes if "cymdn" in str(node.target)] == [operator]
    stored = io.BytesIO()
    torch.export.save(program, stored)
    loaded = torch.export.load(io.BytesIO(stored.getvalue())).module()
    others = torch.randn(8, 3), torch.randn(8, 2), torch.ones(8)
    for given_tensors in (arguments, others):
        assert_same_tensor(loaded(*given_tensors), network(*given_tensors))


# The module


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_module_returns_what_the_function_returns(reduction):
    raw, x, pen = network_output()
    weight = weights()
    loss = MDNLoss(reduction)(raw, x, pen, sample_weight=weight)
    assert_same_tensor(loss, mdn_loss(raw, x, pen, sample_weight=weight, reduction=reduction))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_module_is_copied_and_pickled(copied):
    module = copied(MDNLoss("sum").eval())
    assert repr(module) == "MDNLoss(reduction='sum')"
    assert not module.training


def test_module_has_no_state():
    assert MDNLoss().state_dict() == {}
    assert list(MDNLoss().parameters()) == []


def test_module_refuses_another_reduction_when_it_is_made():
    with pytest.raises(ValueError, match=r"^reduction: expected one of 'none', 'sum', 'mean', got 'batchmean'$"):
        MDNLoss("batchmean")


def test_public_names():
    assert cymdn_torch.__all__ == ["MDNHead", "MDNLoss", "mdn_loss", "mdn_sample"]


@pytest.mark.parametrize("name", cymdn_torch.__all__)
def test_example_in_the_docstring_runs(name):
    (test,) = doctest.DocTestFinder(recurse=False).find(getattr(cymdn_torch, name), name, globs={})
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


# Draws


def counts(component, m=3):
    return np.stack([np.bincount(np.asarray(c), minlength=m) for c in np.asarray(component).T])


@pytest.mark.parametrize(("bias", "temperature"), [(0.0, 1.0), (0.5, 0.7), (0.0, 2.0)])
@pytest.mark.parametrize("pens", [0, 1, 3])
def test_draws_are_those_of_numpy(pens, bias, temperature):
    n, generator = 100_000, torch.Generator().manual_seed(1)
    raw = torch.randn(2, pens + 18, generator=generator)
    ours = mdn_sample(raw, pen=pens, bias=bias, temperature=temperature, size=n, generator=generator)
    theirs = cymdn.mdn_sample(raw.numpy(), pen=pens, bias=bias, temperature=temperature, size=n, rng=1)
    assert type(ours) is type(theirs)
    # differences in their standard errors: in all these tests some 150 numbers, of which one exceeds 5.5 by chance once
    # in 1.7e5 runs, if all is right; and the seeds are fixed
    a, b = array(ours.x).astype(float), theirs.x.astype(float)
    for f in (lambda x: x, lambda x: x[..., 0] * x[..., 1], np.square):
        difference = (f(a).mean(0) - f(b).mean(0)) / np.sqrt((f(a).var(0) + f(b).var(0)) / n)
        assert (abs(difference) < 5.5).all()
    ours_drawn, theirs_drawn = counts(ours.component), counts(theirs.component)
    assert (abs(ours_drawn - theirs_drawn) < 5.5 * np.sqrt(ours_drawn + theirs_drawn)).all()
    if pens:
        p = theirs.pen.mean(0)
        assert (abs(array(ours.pen).mean(0) - p) <= 5.5 * np.sqrt(2 * p * (1 - p) / n)).all()
        assert set(array(ours.pen).ravel().tolist()) == {0.0, 1.0}
        assert pens == 1 or (ours.pen.sum(-1) == 1).all()
    else:
        assert ours.pen is None


def test_weights_and_spread_may_have_temperatures_of_their_own():
    raw = torch.randn(1, 18, generator=torch.Generator().manual_seed(0))
    heaviest = int(raw[0, :3].argmax())
    draws = mdn_sample(raw, temperature=(0.0, 4.0), size=20_000)
    assert (draws.component == heaviest).all()
    # variance times 4; a standard error of the standard deviation is 1 / 200 of it
    deviation = draws.x.std(0) / torch.exp(raw[0, [9 + heaviest, 12 + heaviest]])
    assert ((deviation - 2.0).abs() < 0.06).all()
    draws = mdn_sample(raw, temperature=(1.0, 0.0), size=2000)
    assert len(set(draws.component.ravel().tolist())) > 1
    means = torch.stack([raw[0, 3:6], raw[0, 6:9]], -1)
    assert_same_tensor(draws.x, means[draws.component])


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
def test_greedy_draw_is_the_mean_of_the_heaviest_component_and_the_likeliest_pen(dtype):
    raw = torch.randn(5, 21, generator=torch.Generator().manual_seed(2)).to(dtype)
    x, pen, component = mdn_sample(raw, pen=3, temperature=0.0)
    assert x.dtype == pen.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    j = raw[:, 3:6].argmax(-1)
    assert torch.equal(component, j)
    rows = torch.arange(5)
    assert_same_tensor(x, torch.stack([raw[rows, 6 + j], raw[rows, 9 + j]], -1).to(x.dtype))
    assert torch.equal(pen.argmax(-1), raw[:, :3].argmax(-1))
    assert torch.equal(mdn_sample(raw[:, 2:], pen=1, temperature=0.0).pen == 1, raw[:, 2] > 0)


def test_draws_of_rows_with_nan():
    raw = torch.zeros(5, 1 + 12)
    raw[0, 1], raw[1, 1], raw[2, 0], raw[3, 1:3], raw[4, 1] = NAN, INF, NAN, -INF, -INF
    x, pen, component = mdn_sample(raw, pen=1, size=50)
    assert (component[:, [0, 1, 3]] == -1).all()
    assert (component[:, 4] == 1).all()
    assert x.isnan().all(-1).any(0).tolist() == [True, True, False, True, False]
    assert pen.isnan().any(0).tolist() == [False, False, True, False, False]
    state = mdn_sample(torch.tensor([[NAN, 0, 0] + [0] * 6, [0, 0, 0] + [0] * 6]), pen=3).pen
    assert state.isnan().all(-1).tolist() == [True, False]


@pytest.mark.parametrize("dtype", DTYPES)
def test_draws_from_finite_output_are_never_nan(dtype):
    largest, generator = torch.finfo(dtype).max, torch.Generator().manual_seed(0)
    special = torch.tensor([0.0, 1.0, -400.0, 400.0, 1e4, largest, -largest], dtype=dtype)
    raw = special[torch.randint(len(special), (20_000, 1 + 12), generator=generator)]
    for temperature in (0.0, 1e-300, 1.0, 1e300):
        x, pen, component = mdn_sample(raw, pen=1, temperature=temperature, generator=generator)
        assert not x.isnan().any()
        assert not pen.isnan().any()
        assert (component >= 0).all()


def test_reparameterised_draws_have_the_gradient_of_the_drawn_component():
    raw = torch.randn(4, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert not mdn_sample(raw, pen=1).x.requires_grad
    generator = torch.Generator()

    def draw(raw):
        return mdn_sample(
            raw, pen=1, bias=0.3, temperature=0.8, generator=generator.manual_seed(7), reparameterized=True
        )

    assert torch.autograd.gradcheck(lambda raw: draw(raw).x, raw)
    (gradient,) = torch.autograd.grad(draw(raw).x.sum(), raw)
    assert not gradient[:, :3].any()  # pen and logits
    drawn = torch.nn.functional.one_hot(draw(raw).component, 2)
    assert_same_tensor(gradient[:, 3:5], drawn.double())


def test_size_generator_and_shapes_of_draws():
    raw = torch.zeros(2, 3, 13)
    for size, shape in ((None, (2, 3)), (4, (4, 2, 3)), ((5, 1), (5, 1, 2, 3)), (0, (0, 2, 3))):
        x, pen, component = mdn_sample(raw, pen=1, size=size)
        assert (x.shape, pen.shape, component.shape) == ((*shape, 2), shape, shape)
        assert component.dtype == torch.int64
    one, other = (mdn_sample(raw, pen=1, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.x, other.x)
    assert mdn_sample(raw.to("meta"), pen=1).x.shape == (2, 3, 2)


def test_draws_are_compiled_in_one_graph(compiler):
    raw = torch.randn(5, 13, generator=torch.Generator().manual_seed(0))
    drawn = compiler(lambda raw: mdn_sample(raw, pen=1, size=1000), backend="aot_eager")(raw)
    assert drawn.x.shape == (1000, 5, 2)
    assert set(drawn.component.unique().tolist()) == {0, 1}


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
def test_bad_argument_of_a_draw_is_refused_by_name(keywords, exception, pattern):
    with pytest.raises(exception, match=f"^{pattern}"):
        mdn_sample(torch.zeros(2, 13), **{"pen": 1} | keywords)


# The head


def prediction(n=2048, unit=1.0, middle=0.0):
    """Features and points that depend on them."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(n, 8, generator=generator)
    points = torch.stack([torch.tanh(h[:, 0]), h[:, 1] * h[:, 2]], -1) + 0.1 * torch.randn(n, 2, generator=generator)
    return h, middle + unit * points


def train(criterion, parameters, h, x):
    """The loss before and after an epoch."""
    optimizer, losses = torch.optim.Adam(parameters, 1e-2), [criterion(h, x).item()]
    for rows in torch.arange(len(h)).split(64):
        optimizer.zero_grad()
        criterion(h[rows], x[rows]).backward()
        optimizer.step()
    return *losses, criterion(h, x).item()


@pytest.mark.parametrize(("unit", "middle"), [(1.0, 0.0), (300.0, 900.0), (1e-3, 0.0)])
def test_head_starts_near_one_gaussian_and_learns_in_any_unit(unit, middle):
    torch.manual_seed(0)
    h, x = prediction(unit=unit, middle=middle)
    head = MDNHead(8, 5)
    head.init_from(x)
    first, then = train(head.loss, head.parameters(), h, x)
    gaussian = cymdn.mdn_loss(np.zeros((len(x), 6)), array((x - x.mean(0)) / x.std(0))) + math.log(x.std(0).prod())
    assert first < gaussian + 1.0
    assert then < gaussian - 0.7
    layer = torch.nn.Linear(8, 30)
    first_of_layer, then_of_layer = train(lambda h, x: mdn_loss(layer(h), x), layer.parameters(), h, x)
    assert first < first_of_layer + 0.5
    assert then < then_of_layer


def test_head_has_loss_draws_and_mixture():
    torch.manual_seed(0)
    head, (h, x) = MDNHead(8, 4, pen=3), prediction(20)
    head.init_from(x)
    raw, pen = head(h), torch.eye(3)[torch.arange(20) % 3]
    assert raw.shape == (20, 27)
    assert head.loss(h, x, pen, reduction="sum") == mdn_loss(raw, x, pen, reduction="sum")
    assert head.sample(h, size=3, temperature=0.0).pen.shape == (3, 20, 3)
    mixture = head.mixture(h)
    assert (mixture.batch_shape, mixture.n_components) == ((20,), 4)
    pens = torch.nn.functional.cross_entropy(raw[:, :3], pen, reduction="none")
    np.testing.assert_allclose(
        -mixture.logpdf(array(x)), array(head.loss(h, x, pen, reduction="none") - pens), rtol=1e-4
    )
    assert repr(head).startswith("MDNHead(\n  n_components=4, pen=3")


def test_head_is_saved_with_its_units_and_moves_them():
    h, x = prediction(50, unit=7.0, middle=3.0)
    head, other = MDNHead(8, 2), MDNHead(8, 2)
    head.init_from(x)
    other.load_state_dict(head.state_dict())
    assert_same_tensor(other(h), head(h))
    assert MDNHead(8, 2).to("meta").scale.device.type == "meta"
    with torch.autocast("cpu", torch.bfloat16):
        assert head(h).dtype == torch.float32


def test_head_takes_units_from_finite_points_and_at_least_one():
    head = MDNHead(8, 2)
    head.init_from(torch.tensor([[[5.0, NAN], [1.0, 2.0], [3.0, 2.0]]]))
    assert head.offset.unflatten(0, (6, 2))[1:3, 0].tolist() == [2.0, 2.0]
    assert head.scale.unflatten(0, (6, 2))[1:3, 0].tolist() == [1.0, 1.0]  # the second coordinate has no size
    with pytest.raises(ValueError, match=r"^x: expected at least one finite row, got shape \(1, 2\)"):
        head.init_from(torch.full((1, 2), NAN))
    with pytest.raises(ValueError, match=r"^pen: "):
        MDNHead(8, 2, pen=2)
    with pytest.raises(ValueError, match=r"^n_components: expected an integer of at least 1, got 0"):
        MDNHead(8, 0)


# Errors: each a good call with one argument spoilt, the exception, and its message


ERRORS = {
    "raw an array": ("raw", lambda t: array(t), TypeError, r"raw: expected a torch.Tensor, got ndarray"),
    "x an array": ("x", lambda t: array(t), TypeError, r"x: expected a torch.Tensor, got ndarray"),
    "pen an array": ("pen", lambda t: array(t), TypeError, r"pen: expected a torch.Tensor, got ndarray"),
    "pen a list": ("pen", lambda t: t.tolist(), TypeError, r"pen: expected a torch.Tensor, got list"),
    "weight a float": ("sample_weight", lambda t: 1.0, TypeError, r"sample_weight: expected a torch.Tensor, got float"),
    "raw None": ("raw", lambda t: None, TypeError, r"raw: expected a torch.Tensor, got NoneType"),
    "x on meta": (
        "x", lambda t: t.to("meta"), TypeError, r"x: expected a tensor on cpu, where raw is, got one on meta",
    ),
    "pen on meta": (
        "pen", lambda t: t.to("meta"), TypeError, r"pen: expected a tensor on cpu, where raw is, got one on meta",
    ),
    "x half of a float64 raw": (
        "x", lambda t: t.half(), TypeError,
        r"x: expected dtype torch.float64, as raw has, got torch.float32; pass x\.to\(raw\.dtype\)",
    ),
    "raw integer": (
        "raw", lambda t: t.detach().long(), TypeError,
        r"raw: expected dtype float32, float64, float16 or bfloat16, got torch.int64",
    ),
    "raw complex": (
        "raw", lambda t: t.to(torch.complex128), TypeError,
        r"raw: expected dtype float32, float64, float16 or bfloat16, got torch.complex128",
    ),
    "x of another dtype": (
        "x", lambda t: t.float(), TypeError,
        r"x: expected dtype torch.float64, as raw has, got torch.float32; pass x\.to\(raw\.dtype\)",
    ),
    "raw sparse": (
        "raw", lambda t: t.detach().to_sparse(), TypeError,
        r"raw: expected a strided tensor, got layout torch.sparse_coo; pass raw\.to_dense\(\)",
    ),
    "weight complex": (
        "sample_weight", lambda t: t.to(torch.complex64), TypeError,
        r"sample_weight: expected a dtype of real numbers, got torch.complex64",
    ),
    "pen requires grad": (
        "pen", lambda t: t.clone().requires_grad_(), ValueError,
        r"pen: expected a tensor that does not require grad, got one that does: .*; pass pen\.detach\(\)",
    ),
    "weight requires grad": (
        "sample_weight", lambda t: t.clone().requires_grad_(), ValueError,
        r"sample_weight: expected a tensor that does not require grad, got one .*; pass sample_weight\.detach\(\)",
    ),
    "raw too narrow": (
        "raw", lambda t: t[:, :-1], ValueError,
        r"raw: expected shape \(\.\.\., P \+ 6 M\), P = 1 pen logits with this pen and M >= 1, got \(6, 18\)",
    ),
    "x too wide": ("x", lambda t: torch.cat([t, t], -1), ValueError, r"x: expected shape \(\.\.\., 2\), got \(6, 4\)"),
    "x of fewer rows": (
        "x", lambda t: t[:5], ValueError,
        r"x: expected leading axes that broadcast with \(6,\) of the arguments before it, got \(5, 2\)",
    ),
    "pen of fewer rows": ("pen", lambda t: t[:5], ValueError, r"pen: expected shape \(6,\), got \(5,\)"),
    "negative weight": (
        "sample_weight", lambda t: -t, ValueError,
        r"sample_weight: expected finite numbers >= 0, got -.* at index \(0,\)",
    ),
    "weights all 0": (
        "sample_weight", lambda t: 0 * t, ValueError,
        'reduction: the "mean" over rows of total weight 0 is undefined; use "sum" or "none"',
    ),
    "another reduction": (
        "reduction", lambda name: "median", ValueError,
        r"reduction: expected one of 'none', 'sum', 'mean', got 'median'",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("argument", "spoil", "exception", "pattern"), ERRORS.values(), ids=ERRORS)
def test_bad_argument_is_refused_by_name(argument, spoil, exception, pattern):
    raw, x, pen = network_output()
    arguments = {"raw": raw, "x": x, "pen": pen, "sample_weight": weights(), "reduction": "mean"}
    arguments[argument] = spoil(arguments[argument])
    with pytest.raises(exception, match=f"^{pattern}$"):
        mdn_loss(**arguments)


def test_pen_that_requires_grad_is_taken_where_no_gradient_is_computed():
    raw, x, pen = network_output()
    with torch.no_grad():
        assert mdn_loss(raw, x, pen.clone().requires_grad_()) == mdn_loss(raw, x, pen)


@pytest.mark.parametrize("spoilt", ["negative weight", "raw too narrow", "x of fewer rows", "weights all 0"])
def test_compiled_loss_refuses_with_the_same_message(spoilt, compiler):
    argument, spoil, exception, pattern = ERRORS[spoilt]
    raw, x, pen = network_output()
    arguments = {"raw": raw, "x": x, "pen": pen, "sample_weight": weights()}
    arguments[argument] = spoil(arguments[argument].detach())  # a leaf again, as a compiled function likes them
    with pytest.raises(exception, match=f"^{pattern}$"):
        compiler(mdn_loss, backend="aot_eager")(**arguments)


# Other processes: each test starts a fresh Python, which a time limit ends; a fork of this one has lost its threads


LOADER = '''
import sys

import numpy as np
import torch

import cymdn
from cymdn.torch import mdn_loss


class Losses(torch.utils.data.Dataset):
    """Losses and gradients of eight batches, each computed by the worker that loads it."""

    def __len__(self):
        return 8

    def __getitem__(self, k):
        rng = np.random.default_rng(k)
        raw, x = rng.normal(size=(3000, 121)), rng.normal(size=(3000, 2))
        loss, gradient = cymdn.mdn_loss_and_gradient(raw, x, np.zeros(3000), workers=2)
        tensor = torch.from_numpy(raw).requires_grad_()
        mdn_loss(tensor, torch.from_numpy(x), torch.zeros(3000)).backward()
        assert np.array_equal(tensor.grad.numpy(), gradient)
        return loss, gradient


if __name__ == "__main__":
    torch.set_num_threads(2)
    data = Losses()
    expected = [data[k] for k in range(8)]  # this process has used its threads before it starts others
    loader = torch.utils.data.DataLoader(
        data, batch_size=None, num_workers=2, multiprocessing_context=sys.argv[1], timeout=60
    )
    for (loss, gradient), (expected_loss, expected_gradient) in zip(loader, expected, strict=True):
        assert loss == expected_loss
        assert np.array_equal(gradient, expected_gradient)
    print("same bits")
'''


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_a_data_loader_give_the_same_bits(start, tmp_path):
    if start not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f"no {start} on this system")
    program = tmp_path / "loader.py"
    program.write_text(LOADER)
    run = subprocess.run(
        [sys.executable, str(program), start], capture_output=True, text=True, timeout=100, cwd=tmp_path
    )
    assert run.stdout == "same bits\n", run.stderr
