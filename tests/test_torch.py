"""What PyTorch alone expects of a loss function, an operator and a module; test_portable.py has the rest.

Other devices than the CPU compute by PyTorch's operations. Tests with the fixture `path` run on the CPU's kernels, and,
with these switched off, on the operations, still on the CPU; those with `operations` on the latter alone.
"""

import copy
import importlib
import io
import math
import pickle
import re
import shutil

import numpy as np
import pytest
from builds import choosing
from checks import INF, NAN, assert_same_bits, each_pen_or_reduction, each_reduction, run_python
from problems import loss_problem, row_weights

import cymdn

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra `torch`)")
cymdn_torch = importlib.import_module("cymdn.torch")
from torch.func import functional_call, grad, jacfwd, jvp, vmap  # noqa: E402

mdn_loss, MDNLoss, mdn_sample, MDNHead = (
    getattr(cymdn_torch, name) for name in ("mdn_loss", "MDNLoss", "mdn_sample", "MDNHead")
)

# PyTorch still uses inside what it warns its users of
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

DTYPES = {torch.float32: np.float32, torch.float64: np.float64}
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


def gradients(loss, *tensors):
    """Derivatives of the sum of a loss of any shape."""
    return torch.autograd.grad(loss, tensors, torch.ones_like(loss))


def assert_same_tensors(actual, expected):
    """Tensors, or tuples of tensors or arrays, with the same bits."""
    actual, expected = (result if isinstance(result, tuple) else (result,) for result in (actual, expected))
    for ours, theirs in zip(actual, expected, strict=True):
        assert_same_bits(array(ours), array(theirs) if isinstance(theirs, torch.Tensor) else np.asarray(theirs))


# Derivatives


@each_pen_or_reduction
def test_gradcheck_passes(reduction, pen):
    raw, x, targets = network_output(pen, (4,))
    weight = weights((4,))

    def loss(raw, x):
        return mdn_loss(raw, x, targets, sample_weight=weight, reduction=reduction)

    # differences of second order in steps of 1e-6: their rounding is 1e-9 of a loss of some tens; the batched gradients
    # are those that torch.vmap over the backward pass gives
    torch.autograd.gradcheck(loss, (raw, x), eps=1e-6, rtol=1e-6, atol=1e-6, check_batched_grad=True)


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


def test_no_gradient_is_computed_where_none_is_wanted(losses_called):
    raw, x, pen = network_output()
    loss = mdn_loss(raw, x, pen)
    losses_called.clear()
    with torch.no_grad():  # a pen that requires grad is refused where a gradient is computed
        assert_same_tensors(mdn_loss(raw, x, pen.clone().requires_grad_()), loss)
    with torch.inference_mode():
        assert_same_tensors(mdn_loss(raw, x, pen), loss)
    assert not mdn_loss(raw.detach(), x.detach(), pen).requires_grad
    assert [name for name, *_ in losses_called] == ["mdn_loss"] * 3


def test_backward_computes_no_loss_again(losses_called):
    raw, x, pen = network_output()
    loss = mdn_loss(raw, x, pen)
    loss.backward(retain_graph=True)
    first = raw.grad.clone()
    loss.backward()
    assert len(losses_called) == 1
    assert_same_tensors(raw.grad, 2 * first)


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


# Autograd beyond the gradient


def test_create_graph_and_checkpointing_give_the_same_gradient():
    raw, x, pen = network_output()
    expected = gradients(mdn_loss(raw, x, pen), raw, x)
    assert_same_tensors(torch.autograd.grad(mdn_loss(raw, x, pen), (raw, x), create_graph=True), expected)
    loss = torch.utils.checkpoint.checkpoint(mdn_loss, raw, x, pen, use_reentrant=False)
    assert_same_tensors(gradients(loss, raw, x), expected)


# torch.vmap and torch.func


def test_vmap_gives_the_gradients_of_each_sample_to_the_parameters(path):
    _, x, pen = (t.detach() for t in network_output(batch=(4,), m=2))
    layer, past = torch.nn.Linear(3, 13).double(), torch.linspace(-1, 2, 12).double().view(4, 3)
    parameters = {name: t.detach() for name, t in layer.named_parameters()}

    def of_sample(parameters, past, x, pen):
        return mdn_loss(functional_call(layer, parameters, (past[None],)), x[None], pen[None])

    got = vmap(grad(of_sample), (None, 0, 0, 0))(parameters, past, x, pen)
    for k in range(4):
        expected = torch.autograd.grad(mdn_loss(layer(past[k]), x[k], pen[k]), tuple(layer.parameters()))
        for ours, theirs in zip(got.values(), expected, strict=True):
            torch.testing.assert_close(ours[k], theirs, rtol=1e-10, atol=1e-10)


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
    _, expected = cymdn.mdn_loss_and_gradient(*map(array, (raw, x, pen)))
    pen.fill_(0.25)
    assert_same_bits(array(torch.autograd.grad(loss, raw, retain_graph=True)[0]), expected)
    with pytest.raises(RuntimeError, match=r"^mdn_loss: pen or weights were modified in place"):
        torch.autograd.grad(loss, raw, create_graph=True)


# Other devices, as far as the CPU shows; half precision


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


TENSOR, ELSEWHERE = "a torch.Tensor, got ", "a tensor on cpu, where raw is, got one on meta"
LIKE_RAW = r"dtype torch.float64, as raw has, got torch.float32; pass x\.to\(raw\.dtype\)"
SPARSE = r"a strided tensor, got layout torch.sparse_coo; pass raw\.to_dense\(\)"
NO_GRAD = r"a tensor that does not require grad, got one that does: .*; pass "
CASES = {
    "raw an array": (TypeError, "raw", lambda t: array(t), TENSOR + "ndarray"),
    "x an array": (TypeError, "x", lambda t: array(t), TENSOR + "ndarray"),
    "pen an array": (TypeError, "pen", lambda t: array(t), TENSOR + "ndarray"),
    "pen a list": (TypeError, "pen", lambda t: t.tolist(), TENSOR + "list"),
    "weight a float": (TypeError, "sample_weight", lambda t: 1.0, TENSOR + "float"),
    "raw None": (TypeError, "raw", lambda t: None, TENSOR + "NoneType"),
    "x on meta": (TypeError, "x", lambda t: t.to("meta"), ELSEWHERE),
    "pen on meta": (TypeError, "pen", lambda t: t.to("meta"), ELSEWHERE),
    "x of another dtype": (TypeError, "x", lambda t: t.float(), LIKE_RAW),
    "x half of a float64 raw": (TypeError, "x", lambda t: t.half(), LIKE_RAW),
    "raw sparse": (TypeError, "raw", lambda t: t.detach().to_sparse(), SPARSE),
    "pen requires grad": (ValueError, "pen", lambda t: t.clone().requires_grad_(), NO_GRAD + r"pen\.detach\(\)"),
    "weight requires grad": (
        *(ValueError, "sample_weight", lambda t: t.clone().requires_grad_()),
        NO_GRAD + r"sample_weight\.detach\(\)",
    ),
}


def spoilt(name, spoil):
    raw, x, pen = network_output()
    arguments = {"raw": raw, "x": x, "pen": pen, "sample_weight": weights()}
    return arguments | {name: spoil(arguments[name])}


@pytest.mark.parametrize("what", CASES)
def test_what_is_no_tensor_for_it_is_refused_by_name(what):
    error, name, spoil, expected = CASES[what]
    with pytest.raises(error, match=f"^{name}: expected {expected}$"):
        mdn_loss(**spoilt(name, spoil))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("sample_weight", lambda t: -t),
        ("sample_weight", lambda t: 0 * t),
        ("raw", lambda t: t[:, :-1]),
        ("x", lambda t: t[:5]),
    ],
)
def test_compiled_loss_refuses_with_the_same_message(name, spoil, compiler):
    arguments = {name: t.detach() for name, t in spoilt(name, spoil).items()}  # leaves, as a compiled function likes
    with pytest.raises(ValueError, match=f"^{name if name != 'sample_weight' else ''}") as expected:
        mdn_loss(**arguments)
    with pytest.raises(ValueError, match=f"^{re.escape(str(expected.value))}$"):
        compiler(mdn_loss, backend="aot_eager")(**arguments)


# Other processes: each test starts a fresh Python, which a time limit ends; a fork of this one has lost its threads


LOADER = '''
import numpy as np
import torch

import cymdn
from cymdn.torch import mdn_loss


def loss_and_gradient(k):
    """Of a batch, computed by the worker that loads it."""
    rng = np.random.default_rng(k)
    raw, x = rng.normal(size=(3000, 121)), rng.normal(size=(3000, 2))
    loss, gradient = cymdn.mdn_loss_and_gradient(raw, x, np.zeros(3000), workers=2)
    tensor = torch.from_numpy(raw).requires_grad_()
    mdn_loss(tensor, torch.from_numpy(x), torch.zeros(3000)).backward()
    assert np.array_equal(tensor.grad.numpy(), gradient)
    return loss, gradient


if __name__ == "__main__":
    torch.set_num_threads(2)
    expected = list(map(loss_and_gradient, range(8)))  # this process has used its threads before it starts others
    for start, workers in {"fork": 2, "spawn": 1}.items():
        if start not in torch.multiprocessing.get_all_start_methods():
            continue
        loader = torch.utils.data.DataLoader(
            range(8),
            batch_size=None,
            collate_fn=loss_and_gradient,
            num_workers=workers,
            multiprocessing_context=start,
            timeout=60,
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
