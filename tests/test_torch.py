"""cymdn.torch: the numbers of cymdn, and what PyTorch expects of a loss function, an operator and a module.

Other devices than the CPU compute by PyTorch's operations. Tests with the fixture `path` run on the CPU's kernels, and,
with these switched off, on the operations, still on the CPU; those with `operations` on the latter alone.
"""

import copy
import importlib
import io
import math
import pickle
import shutil

import numpy as np
import pytest
from builds import choosing
from checks import INF, NAN, REDUCTIONS, assert_same_bits, each_pen, each_pen_or_reduction, each_reduction, run_python
from problems import loss_problem, row_weights
from test_contract import any_finite
from test_crosschecks import plain_losses

import cymdn

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra `torch`)")
cymdn_torch = importlib.import_module("cymdn.torch")
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

mdn_loss, MDNLoss, mdn_sample, MDNHead = (
    getattr(cymdn_torch, name) for name in ("mdn_loss", "MDNLoss", "mdn_sample", "MDNHead")
)

# PyTorch still uses inside what it warns its users of
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

DTYPES = {torch.float32: np.float32, torch.float64: np.float64}
BATCHES = [(), (4,), (2, 3), (3, 1, 2)]
HALVES = [torch.float16, torch.bfloat16]
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


@pytest.fixture
def operations(monkeypatch):
    """Makes the CPU compute as other devices do."""
    monkeypatch.setattr(cymdn_torch, "_has_kernels", lambda raw: False)


@pytest.fixture(params=["kernels", "operations"])
def path(request):
    """What computes the loss on the CPU."""
    if request.param == "operations":
        request.getfixturevalue("operations")
    return request.param


# Good arguments to start from


def network_output(pen="bernoulli", batch=(6,), m=3, dtype=torch.float64):
    """raw and x, which require grad, and the pen."""
    raw, x, targets = (None if a is None else torch.tensor(a) for a in loss_problem(batch, m, pen, DTYPES[dtype]))
    return raw.requires_grad_(), x.requires_grad_(), targets


def weights(batch=(6,)):
    return torch.tensor(row_weights(batch))


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


def assert_same_tensors(actual, expected):
    """Tensors, or tuples of tensors or arrays, with the same bits."""
    actual, expected = (result if isinstance(result, tuple) else (result,) for result in (actual, expected))
    for ours, theirs in zip(actual, expected, strict=True):
        assert_same_bits(array(ours), array(theirs) if isinstance(theirs, torch.Tensor) else np.asarray(theirs))


# The numbers


@each_dtype
@pytest.mark.parametrize("batch", BATCHES)
@each_pen
@pytest.mark.parametrize("weighted", [False, True])
@each_reduction
def test_loss_and_gradient_have_the_bits_of_numpy(reduction, weighted, pen, batch, dtype):
    raw, x, targets = network_output(pen, batch, dtype=dtype)
    weight = weights(batch) if weighted else None
    loss = mdn_loss(raw, x, targets, sample_weight=weight, reduction=reduction)
    assert_same_tensors((loss, *gradients(loss, raw)), of_numpy(raw, x, targets, weight, reduction))
    with torch.no_grad():
        assert_same_tensors(mdn_loss(raw, x, targets, sample_weight=weight, reduction=reduction), loss)


@each_pen_or_reduction
def test_gradcheck_passes(reduction, pen):
    raw, x, targets = network_output(pen, (4,))
    weight = weights((4,))

    def loss(raw, x):
        return mdn_loss(raw, x, targets, sample_weight=weight, reduction=reduction)

    # differences of second order in steps of 1e-6: their rounding is 1e-9 of a loss of some tens; the batched gradients
    # are those that torch.vmap over the backward pass gives
    torch.autograd.gradcheck(loss, (raw, x), eps=1e-6, rtol=1e-6, atol=1e-6, check_batched_grad=True)


@each_dtype
def test_rows_are_scaled_by_what_follows_the_loss(dtype):
    raw, x, targets = network_output(dtype=dtype)
    factors = torch.tensor([1.0, -2.0, 0.25, 3.0, 0.0, 1e-3], dtype=dtype)
    (gradient,) = gradients(factors * mdn_loss(raw, x, targets, reduction="none"), raw)
    _, rows = of_numpy(raw, x, targets, reduction="none")
    np.testing.assert_array_equal(array(gradient), factors.numpy()[:, None] * rows)
    (gradient,) = gradients(-3.0 * mdn_loss(raw, x, targets, reduction="sum"), raw)
    np.testing.assert_array_equal(array(gradient), rows.dtype.type(-3.0) * rows)


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64, *HALVES, torch.float32])
def test_pen_and_weights_of_any_dtype_give_the_same_bits(kind):
    raw, x, targets = network_output()
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    expected = mdn_loss(raw, x, targets, sample_weight=weight)
    assert_same_tensors(mdn_loss(raw, x, targets.to(kind), sample_weight=weight.to(kind)), expected)


# Layouts: each takes a tensor to one of the same values that lies differently in memory


LAYOUTS = {
    "every other": lambda t: torch.full([2 * n for n in t.shape], 99.0, dtype=t.dtype)[
        tuple(slice(None, None, 2) for _ in t.shape)
    ].copy_(t),
    "axes swapped": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "columns of a table": lambda t: torch.cat([t, torch.full_like(t, 99.0)], -1)[..., : t.shape[-1]],
    "one element on": lambda t: torch.cat([torch.zeros(1, dtype=t.dtype), t.reshape(-1)])[1:].view(t.shape),
    "a minus sign pending": lambda t: torch.complex(torch.zeros_like(t), -t).conj().imag,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pen", ["bernoulli", "categorical"])
def test_any_layout_gives_the_same_bits(pen, layout):
    raw, x, targets = network_output(pen, (4, 3))
    weight = weights((4, 3))
    expected = mdn_loss(raw, x, targets, sample_weight=weight, reduction="none")
    moved = [LAYOUTS[layout](t.detach().double()) for t in (raw, x, targets, weight)]
    moved[:2] = [t.requires_grad_() for t in moved[:2]]
    loss = mdn_loss(*moved[:3], sample_weight=moved[3], reduction="none")
    assert_same_tensors(loss, expected)
    assert_same_tensors(gradients(loss, *moved[:2]), gradients(expected, raw, x))


def test_expanded_tensors_give_the_bits_of_the_repeated_ones():
    raw, x, _ = network_output("none", (1,))
    pen = torch.zeros(())
    many = raw.expand(5, -1), x.expand(5, 2)
    loss = mdn_loss(torch.cat([torch.zeros(5, 1), many[0]], -1), many[1], pen.expand(5))
    assert loss == mdn_loss(torch.cat([torch.zeros(1, 1), raw], -1), x, pen.expand(1))
    (gradient,) = gradients(mdn_loss(*many, reduction="sum"), raw)
    torch.testing.assert_close(gradient, 5 * gradients(mdn_loss(raw, x), raw)[0])


# What is computed, and from which memory


def test_gradient_is_computed_where_one_is_needed_and_only_there(losses_called):
    raw, x, pen = network_output()
    for raw_needs, x_needs, mode in [(True, True, True), (True, False, True), (False, True, True)]:
        with torch.set_grad_enabled(mode):
            loss = mdn_loss(raw.detach().requires_grad_(raw_needs), x.detach().requires_grad_(x_needs), pen)
        assert loss.requires_grad
    assert [name for name, *_ in losses_called] == ["loss_and_gradients", "mdn_loss_and_gradient", "loss_and_gradients"]
    losses_called.clear()
    assert not mdn_loss(raw.detach(), x.detach(), pen).requires_grad
    with torch.no_grad():
        mdn_loss(raw, x, pen.clone().requires_grad_())  # which is refused where a gradient is computed
    with torch.inference_mode():
        mdn_loss(raw, x, pen)
    assert [name for name, *_ in losses_called] == ["mdn_loss"] * 3


def test_backward_computes_no_loss_again_and_only_the_gradients_asked_for(losses_called):
    raw, x, pen = network_output()
    loss = mdn_loss(raw, x, pen)
    loss.backward(retain_graph=True)
    first = raw.grad.clone()
    loss.backward()
    assert len(losses_called) == 1
    assert_same_tensors(raw.grad, 2 * first)
    raw_gradient, x_gradient = gradients(mdn_loss(raw, x, pen), raw, x)
    assert_same_tensors(gradients(mdn_loss(raw.detach(), x, pen), x), (x_gradient,))
    assert_same_tensors(gradients(mdn_loss(raw, x.detach(), pen), raw), (raw_gradient,))


@each_dtype
@pytest.mark.parametrize("mode", [True, False])
def test_contiguous_tensors_are_not_copied(mode, dtype, losses_called):
    raw, x, pen = network_output(dtype=dtype)
    weight = weights()
    with torch.set_grad_enabled(mode):
        mdn_loss(raw, x, pen, sample_weight=weight)
    ((_, arrays, keywords),) = losses_called
    for given_to_numpy, tensor in zip((*arrays, keywords["sample_weight"]), (raw, x, pen, weight), strict=True):
        assert given_to_numpy.ctypes.data == tensor.data_ptr()
        assert given_to_numpy.strides == tuple(tensor.element_size() * stride for stride in tensor.stride())


def test_arguments_are_not_modified():
    raw, x, pen = network_output()
    weight = weights()
    before = [t.detach().clone() for t in (raw, x, pen, weight)]
    mdn_loss(raw, x, pen, sample_weight=weight).backward()
    assert_same_tensors((raw, x, pen, weight), tuple(before))


@pytest.fixture
def threads():
    """Sets PyTorch's number of threads, for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_workers_are_the_threads_of_torch_and_at_most_one_a_cpu_and_give_the_same_bits(threads, losses_called):
    raw, x, pen = network_output(batch=(20_000,), m=4)
    results = []
    for number in (1, 2, 1000):
        threads(number)
        loss = mdn_loss(raw, x, pen)
        results.append((loss, *gradients(loss, raw, x)))
        assert losses_called[-1][2]["workers"] == min(number, choosing.cpu_count())
        assert_same_tensors(results[-1], results[0])


# The contract: finite tensors never give NaN, a row of weight 0 is skipped


@each_dtype
@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("factor", [0.0, 1.0, -1e30, 3e38, INF])
def test_any_finite_tensors_give_no_nan(factor, m, dtype):
    rng = np.random.default_rng(m)
    raw, x = (torch.tensor(any_finite(rng, (2000, width), DTYPES[dtype]), requires_grad=True) for width in (6 * m, 2))
    loss = mdn_loss(raw, x, reduction="none")
    for tensor in (loss, *torch.autograd.grad(loss, (raw, x), torch.full_like(loss, factor))):
        assert not tensor.isnan().any()


# Autograd beyond the gradient


def test_create_graph_and_checkpointing_give_the_same_gradient():
    raw, x, pen = network_output()
    expected = gradients(mdn_loss(raw, x, pen), raw, x)
    assert_same_tensors(torch.autograd.grad(mdn_loss(raw, x, pen), (raw, x), create_graph=True), expected)
    loss = torch.utils.checkpoint.checkpoint(mdn_loss, raw, x, pen, use_reentrant=False)
    assert_same_tensors(gradients(loss, raw, x), expected)


# torch.vmap and torch.func


@each_pen
@each_reduction
def test_vmap_gives_the_bits_of_the_calls_one_by_one(reduction, pen):
    raw, x, targets = network_output(pen, (4, 3))

    def loss(raw, x, targets=None):
        return mdn_loss(raw, x, targets, reduction=reduction)

    rows = [t for t in (raw, x, targets) if t is not None]
    mapped = torch.vmap(loss)(*rows)
    expected = torch.stack([loss(*row) for row in zip(*rows, strict=True)])
    assert_same_tensors(mapped, expected)
    for ours, theirs in zip(gradients(mapped, raw, x), gradients(expected, raw, x), strict=True):
        np.testing.assert_array_equal(array(ours), array(theirs))  # -0 becomes 0 where PyTorch adds slices up


def test_vmap_over_another_axis_and_over_one_argument_only_is_one_call(losses_called):
    raw, x, _ = network_output("none", (4, 3))
    mapped = torch.vmap(lambda raw, x: mdn_loss(raw, x, reduction="none"), in_dims=(1, None), out_dims=1)(raw, x[:, 0])
    assert len(losses_called) == 1
    expected = mdn_loss(raw, x[:, :1].expand(4, 3, 2), reduction="none")
    assert_same_tensors(mapped, expected)


# Derivatives of any order, against those of the same formulas left to PyTorch


def by_hand(raw, x, pen, sample_weight=None, reduction="mean"):
    losses = plain_losses(torch, torch.logsumexp, raw, x, pen)
    weight = torch.ones_like(losses) if sample_weight is None else sample_weight
    losses, total = weight * losses, weight.sum() if reduction == "mean" else 1.0
    return losses if reduction == "none" else losses.sum() / total


def derivatives(loss):
    """Names and derivatives of a loss (raw, x, pen, **keywords), as functions; the value is the first of them."""
    raw, x, pen = (t.detach() for t in network_output(batch=(4,), m=2))
    more_raw, more_x = torch.stack([raw, raw + 1]), torch.stack([x, x - 1])
    weight = weights((4,))
    for name, keywords in {
        "plain": {},
        **{reduction: {"sample_weight": weight, "reduction": reduction} for reduction in REDUCTIONS},
    }.items():

        def f(raw, x, keywords=keywords):
            return loss(raw, x, pen, **keywords)

        yield f"value, {name}", lambda f=f: f(raw, x)
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
    ours, theirs = (tree_leaves(dict(derivatives(loss))[name]()) for loss in (mdn_loss, by_hand))
    for got, expected in zip(ours, theirs, strict=True):
        # correlations of up to 0.97: their 1 - r^2 has lost a digit or two, derivatives are up to 1e3, second ones 1e5
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_second_derivative_is_there_where_the_first_is_0(path):
    raw, x = torch.zeros(2, 13).double(), torch.zeros(2, 2).double()  # on the means, of equal components
    pen = torch.zeros(2).double()
    ours, theirs = (tree_leaves(hessian(loss, (0, 1))(raw, x, pen)) for loss in (mdn_loss, by_hand))
    for got, expected in zip(ours, theirs, strict=True):
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
    with pytest.raises(NotImplementedError, match=r"^mdn_loss: there is no derivative with respect to pen or weights"):
        jvp(loss, (value,), (value,))


def test_targets_may_be_overwritten_before_the_backward_pass_but_not_before_a_second_derivative():
    raw, x, pen = network_output()
    loss = mdn_loss(raw, x, pen)
    expected = of_numpy(raw, x, pen)[1]
    pen.fill_(0.25)
    assert_same_bits(array(torch.autograd.grad(loss, raw, retain_graph=True)[0]), expected)
    with pytest.raises(RuntimeError, match=r"^mdn_loss: pen or weights were modified in place"):
        torch.autograd.grad(loss, raw, create_graph=True)


# Other devices, as far as the CPU shows; half precision


def test_operations_sum_weights_that_overflow(operations):
    raw, x, pen = network_output(dtype=torch.float32)
    weight = torch.full((6,), 3e38)
    torch.testing.assert_close(mdn_loss(raw, x, pen, sample_weight=weight), mdn_loss(raw, x, pen))


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_is_that_of_its_numbers_in_float32(dtype, path):
    raw, x, pen = network_output(dtype=torch.float32)
    halves = [t.detach().to(dtype).requires_grad_() for t in (raw, x)]
    loss = mdn_loss(*halves, pen.to(dtype))
    expected = mdn_loss(*(singles := [t.detach().float().requires_grad_() for t in halves]), pen)
    assert_same_tensors(loss, expected)
    for ours, theirs in zip(gradients(loss, *halves), gradients(expected, *singles), strict=True):
        assert_same_tensors(ours.float(), theirs.to(dtype).float())
    mixed = mdn_loss(halves[0], singles[1], pen)
    assert_same_tensors(mixed, expected)


@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_leaves_the_loss_in_float32(dtype, path):
    torch.manual_seed(0)
    layer, (_, x, pen) = torch.nn.Linear(4, 19), network_output(dtype=torch.float32)
    with torch.autocast("cpu", dtype):
        raw = layer(torch.ones(6, 4))
        loss = mdn_loss(raw, x.detach(), pen)
    assert (raw.dtype, loss.dtype) == (dtype, torch.float32)
    assert_same_tensors(loss, mdn_loss(raw.float(), x.detach(), pen))
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
    assert_same_tensors(traced(raw + 1), grad(lambda raw: mdn_loss(raw, x, pen))(raw + 1))


# Operators, graphs


@each_dtype
@each_pen_or_reduction
def test_opcheck_passes(reduction, pen, dtype):
    raw, x, targets = network_output(pen, (4,), dtype=dtype)
    for operator, tensors, more in (
        (cymdn_torch._loss_operator, (raw.detach(), x.detach()), ()),
        (cymdn_torch._gradient_operator, (raw, x), (True,)),
        (cymdn_torch._gradient_operator, (raw, x.detach()), (False,)),
    ):
        passed = torch.library.opcheck(operator, (*tensors, targets, weights((4,)), None, reduction, [0.5, 0.0], *more))
        assert len(passed) == 4
        assert set(passed.values()) == {"SUCCESS"}


@pytest.mark.parametrize("upstream", [2.0, [1.0, 0.0, INF, -1.0]])
def test_opcheck_passes_for_what_scales_gradients(upstream):
    upstream = torch.tensor(upstream)
    tensors = torch.randn(4, 13, generator=torch.Generator().manual_seed(0)), upstream, upstream.clone()
    assert set(torch.library.opcheck(cymdn_torch._scale_operator, tensors).values()) == {"SUCCESS"}


@pytest.fixture
def compiler():
    """torch.compile that forgets all at the end, without breaks in the graph."""
    torch.compiler.reset()
    yield lambda function, **keywords: torch.compile(function, fullgraph=True, **keywords)
    torch.compiler.reset()


@each_pen_or_reduction
def test_compiled_loss_has_the_same_bits(reduction, pen, compiler):
    raw, x, targets = network_output(pen)
    weight = weights()

    def loss(raw, x):
        return mdn_loss(raw, x, targets, sample_weight=weight, reduction=reduction)

    compiled, expected = compiler(loss, backend="aot_eager")(raw, x), loss(raw, x)
    assert_same_tensors(compiled, expected)
    assert_same_tensors(gradients(compiled, raw, x), gradients(expected, raw, x))


def test_compiled_loss_takes_other_batch_sizes_without_compiling_again(compiler, path):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    compiled = compiler(mdn_loss, backend=backend, dynamic=True)
    for rows in (6, 7, 100):
        raw, x, pen = network_output(batch=(rows,))
        assert_same_tensors(compiled(raw, x, pen), mdn_loss(raw, x, pen))
    assert len(graphs) == 1


def test_compiled_operations_give_the_same_numbers(compiler, operations):
    *tensors, pen = network_output(dtype=torch.float32)
    (raw, x), weight = (t.detach().bfloat16().requires_grad_() for t in tensors), weights()

    def loss(raw, x):
        return mdn_loss(raw, x, pen, sample_weight=weight)

    compiled, expected = compiler(loss, backend="aot_eager")(raw, x), loss(raw, x)
    assert_same_tensors(compiled, expected)
    for ours, theirs in zip(gradients(compiled, raw, x), gradients(expected, raw, x), strict=True):
        assert_same_tensors(ours.float(), theirs.float())


def test_compiled_vmap_is_that_of_the_calls(compiler):
    raw, x, pen = (t.detach() for t in network_output(batch=(4, 3)))
    criterion = MDNLoss("mean")
    mapped = compiler(vmap(criterion), backend="aot_eager")(raw, x, pen)
    assert_same_tensors(mapped, torch.stack([criterion(*row) for row in zip(raw, x, pen, strict=True)]))


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
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)  # starts no processes for one graph
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 19).double()
    past, (_, x, pen) = torch.randn(6, 3, dtype=torch.float64), network_output()

    def loss(past, x):
        return mdn_loss(layer(past), x, pen)

    compiled, expected = compiler(loss)(past, x), loss(past, x)
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(gradients(compiled, layer.weight, x), gradients(expected, layer.weight, x))


@pytest.mark.parametrize(("mode", "strict"), [(False, True), (True, False)])
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
        assert_same_tensors(loaded(*given_tensors), network(*given_tensors))


@each_reduction
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_module_and_its_copies_return_what_the_function_returns_and_have_no_state(copied, reduction):
    module, (raw, x, pen), weight = copied(MDNLoss(reduction).eval()), network_output(), weights()
    loss = module(raw, x, pen, sample_weight=weight)
    assert_same_tensors(loss, mdn_loss(raw, x, pen, sample_weight=weight, reduction=reduction))
    assert repr(module) == f"MDNLoss(reduction='{reduction}')"
    assert not module.training
    assert module.state_dict() == {}
    assert list(module.parameters()) == []


def test_module_refuses_another_reduction_when_it_is_made():
    with pytest.raises(ValueError, match=r"^reduction: expected one of 'none', 'sum', 'mean', got 'batchmean'$"):
        MDNLoss("batchmean")


# Draws; those of all frameworks are in test_portable.py


def test_draws_have_the_dtypes_of_tensors_and_pass_on_any_device():
    raw = torch.zeros(2, 3, 13)
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        drawn = mdn_sample(raw.to(dtype), pen=1)
        assert [tensor.dtype for tensor in drawn] == [expected, expected, torch.int64]
    assert not mdn_sample(raw.requires_grad_(), pen=1).x.requires_grad
    assert mdn_sample(raw.to("meta"), pen=1).x.shape == (2, 3, 2)


def test_draws_are_compiled_in_one_graph(compiler):
    raw = torch.randn(5, 13, generator=torch.Generator().manual_seed(0))
    drawn = compiler(lambda raw: mdn_sample(raw, pen=1, size=1000), backend="aot_eager")(raw)
    assert drawn.x.shape == (1000, 5, 2)
    assert set(drawn.component.unique().tolist()) == {0, 1}


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


@pytest.mark.parametrize(("unit", "middle"), [(300.0, 900.0), (1e-3, 0.0)])
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
    assert_same_tensors(other(h), head(h))
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


TENSOR, FLOAT = r"a torch.Tensor, got ", r"dtype float32, float64, float16 or bfloat16, got torch."
ELSEWHERE, REAL = "a tensor on cpu, where raw is, got one on meta", "a dtype of real numbers, got torch."
LIKE_RAW = r"dtype torch.float64, as raw has, got torch.float32; pass x\.to\(raw\.dtype\)"
SPARSE = r"a strided tensor, got layout torch.sparse_coo; pass raw\.to_dense\(\)"
NO_GRAD = r"a tensor that does not require grad, got one that does: .*; pass "
NARROW = r"shape \(\.\.\., P \+ 6 M\), P = 1 pen logits and M >= 1, got \(6, 18\); P = 0 would fit"
ERRORS = {  # of what is expected
    TypeError: {
        "raw an array": ("raw", lambda t: array(t), TENSOR + "ndarray"),
        "x an array": ("x", lambda t: array(t), TENSOR + "ndarray"),
        "pen an array": ("pen", lambda t: array(t), TENSOR + "ndarray"),
        "pen a list": ("pen", lambda t: t.tolist(), TENSOR + "list"),
        "weight a float": ("sample_weight", lambda t: 1.0, TENSOR + "float"),
        "raw None": ("raw", lambda t: None, TENSOR + "NoneType"),
        "x on meta": ("x", lambda t: t.to("meta"), ELSEWHERE),
        "pen on meta": ("pen", lambda t: t.to("meta"), ELSEWHERE),
        "raw integer": ("raw", lambda t: t.detach().long(), FLOAT + "int64"),
        "raw complex": ("raw", lambda t: t.to(torch.complex128), FLOAT + "complex128"),
        "x of another dtype": ("x", lambda t: t.float(), LIKE_RAW),
        "x half of a float64 raw": ("x", lambda t: t.half(), LIKE_RAW),
        "raw sparse": ("raw", lambda t: t.detach().to_sparse(), SPARSE),
        "weight complex": ("sample_weight", lambda t: t.to(torch.complex64), REAL + "complex64"),
    },
    ValueError: {
        "pen requires grad": ("pen", lambda t: t.clone().requires_grad_(), NO_GRAD + r"pen\.detach\(\)"),
        "weight requires grad": ("sample_weight", lambda t: t.clone().requires_grad_(), NO_GRAD + r"sample_weight.*"),
        "raw too narrow": ("raw", lambda t: t[:, :-1], NARROW),
        "x too wide": ("x", lambda t: torch.cat([t, t], -1), r"shape \(6, 2\), got \(6, 4\)"),
        "x of fewer rows": ("x", lambda t: t[:5], r"shape \(6, 2\), got \(5, 2\)"),
        "pen of fewer rows": ("pen", lambda t: t[:5], r"shape \(6,\), got \(5,\)"),
        "negative weight": ("sample_weight", lambda t: -t, r"finite numbers >= 0, got -.* at index \(0,\)"),
        "another reduction": ("reduction", lambda name: "median", r"one of 'none', 'sum', 'mean', got 'median'"),
    },
}
NO_MEAN = 'reduction: the "mean" over rows of total weight 0 is undefined; use "sum" or "none"'
CASES = {"weights all 0": (ValueError, "sample_weight", lambda t: 0 * t, NO_MEAN)}
for error, cases in ERRORS.items():
    CASES |= {what: (error, name, spoil, f"{name}: expected {rest}") for what, (name, spoil, rest) in cases.items()}


def spoilt_arguments(what):
    raw, x, pen = network_output()
    arguments = {"raw": raw, "x": x, "pen": pen, "sample_weight": weights(), "reduction": "mean"}
    error, name, spoil, pattern = CASES[what]
    arguments[name] = spoil(arguments[name])
    return arguments, error, f"^{pattern}$"


@pytest.mark.parametrize("what", CASES)
def test_bad_argument_is_refused_by_name(what):
    arguments, error, pattern = spoilt_arguments(what)
    with pytest.raises(error, match=pattern):
        mdn_loss(**arguments)


@pytest.mark.parametrize("what", ["negative weight", "raw too narrow", "x of fewer rows", "weights all 0"])
def test_compiled_loss_refuses_with_the_same_message(what, compiler):
    arguments, error, pattern = spoilt_arguments(what)
    # leaves again, as a compiled function likes them
    arguments = {name: t.detach() if isinstance(t, torch.Tensor) else t for name, t in arguments.items()}
    with pytest.raises(error, match=pattern):
        compiler(mdn_loss, backend="aot_eager")(**arguments)


# Other processes: each test starts a fresh Python, which a time limit ends; a fork of this one has lost its threads


LOADER = '''
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
    for start, workers in {"fork": 2, "spawn": 1}.items():
        if start not in torch.multiprocessing.get_all_start_methods():
            continue
        loader = torch.utils.data.DataLoader(
            data, batch_size=None, num_workers=workers, multiprocessing_context=start, timeout=60
        )
        for (loss, gradient), (expected_loss, expected_gradient) in zip(loader, expected, strict=True):
            assert loss == expected_loss
            assert np.array_equal(gradient, expected_gradient)
    print("same bits")
'''


def test_workers_of_a_data_loader_give_the_same_bits(tmp_path):
    program = tmp_path / "loader.py"
    program.write_text(LOADER)
    run = run_python(program, cwd=tmp_path)
    assert run.stdout == "same bits\n", run.stderr


def test_a_tensor_that_numpy_cannot_take_is_sent_to_the_module_for_it():
    raw = torch.zeros(4, 6, requires_grad=True)
    with pytest.raises(
        TypeError, match=r"^raw: expected an array of numbers, got Tensor; convert it to NumPy, or use cymdn.torch$"
    ):
        cymdn.mdn_loss(raw, torch.zeros(4, 2))
