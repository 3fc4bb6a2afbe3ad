"""Memory: nothing beyond inputs and outputs that grows with the batch, and nothing that stays after a call."""

import array
import gc
import mmap
import sys
import tracemalloc
from functools import cache

import numpy as np
import pytest
from checks import each_dtype
from problems import Told, arguments_of_calls, calls_of

import cymdn

ROWS, COMPONENTS = 150_000, 6
MIB = 2**20


@cache  # the arguments take 80 MB and a second
def calls(dtype, rows=ROWS, m=COMPONENTS):
    x, *mixtures, raw, _, _ = arguments = arguments_of_calls(dtype, rows, m)
    functions = calls_of(*arguments)
    natural = cymdn.BivariateMixture(*(a[0] for a in mixtures))
    network = cymdn.BivariateMixture.from_network_output(raw, pen=1)
    return functions | {
        "densities of a mixture": lambda: natural.pdf(x),
        "responsibilities": lambda: network.responsibilities(x),
        "scores": lambda: network.score(x),
        "modes": lambda: network[:100].mode(),
        "draws": lambda: cymdn.mdn_sample(raw, pen=1, rng=0),
        "draws of one": lambda: cymdn.mdn_sample(raw[0], pen=1, size=rows, rng=0),
        "two workers": lambda: functions["loss"](workers=2),
    }


def size(result):
    if isinstance(result, tuple):
        return sum(map(size, result))
    return 0 if result is None else result.nbytes


def traced(call):
    """Return the result of a call and the most memory that it held at a time."""
    tracemalloc.start()
    try:
        result = call()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@each_dtype
@pytest.mark.parametrize("name", calls(np.float64, rows=1))
def test_no_more_than_a_mebibyte_beyond_inputs_and_outputs(name, dtype):
    call = calls(dtype)[name]
    call()  # what is imported or cached at the first call
    result, peak = traced(call)
    assert peak - size(result) <= MIB


@pytest.mark.parametrize("name", ["components", "mixture", "losses"])
def test_no_more_than_a_mebibyte_where_out_takes_the_results(name):
    call = calls(np.float64)[name]
    out = call()
    assert traced(lambda: call(out=out))[1] <= MIB


@pytest.mark.parametrize("name", ["components", "mixture", "losses"])
def test_no_more_than_a_mebibyte_of_any_allocation_where_out_takes_the_results(name, tmp_path):
    # tracemalloc sees what Python and NumPy allocate, memray every allocation of the process
    memray = pytest.importorskip("memray", reason="memray is not installed")
    call = calls(np.float64)[name]
    out = call()
    with memray.Tracker(tmp_path / "allocations"):
        call(out=out)
    assert memray.FileReader(tmp_path / "allocations").metadata.peak_memory <= MIB


def bad_calls():
    """Calls that are refused: by the kernel's own checks, by those of shapes, of types and of values."""
    x, weights, *components, raw, pen, weight = arguments_of_calls(np.float64, 3, 4)
    return [
        lambda: cymdn.mdn_loss(raw[:, 1:-2], x, pen),
        lambda: cymdn.mdn_loss_and_gradient(raw, x, pen, sample_weight=-1 - weight),
        lambda: cymdn.mdn_loss_and_gradient(raw, x, pen, out=(None, components[0])),
        lambda: cymdn.mixture_logpdf_and_gradient(x, weights[:, 1:], *components),
        lambda: cymdn.gaussian_logpdf(x.astype(complex), *components),
        lambda: cymdn.gaussian_density_batch(x, *components),
    ]


def refused(call):
    try:  # pytest.raises would take most of the time
        call()
    except (TypeError, ValueError):
        return
    pytest.fail("was not refused")


def test_thousands_of_good_and_bad_calls_leave_no_memory_behind():
    good = list(calls(np.float64, rows=3, m=4).values())
    bad = bad_calls()

    def growth(times):
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(times):
            for call in good:
                call()
            for call in bad:
                refused(call)
        gc.collect()
        return sys.getallocatedblocks() - before

    growth(20)
    # A leak of one object by one of these 12 calls would be 500 each time. Caches of Python and NumPy fill once, with
    # some 200 objects over the first thousands of calls.
    assert min(growth(500) for _ in range(3)) < 250


def test_good_and_bad_calls_give_back_every_reference():
    held = arguments_of_calls(np.float64, 3, 4)
    x, weights, mean, stddev, correlation, raw, pen, weight = held
    outs = [np.empty(shape) for shape in ((), raw.shape)]
    watched = [*held, *outs, np.ndarray, cymdn.mdn_loss]  # no dtypes: NumPy 2.4 counts float64 up itself, in np.empty

    def many():
        for _ in range(100):
            cymdn.gaussian_density_batch(x[:, None], mean, stddev, correlation[..., None], True)
            cymdn.gaussian_logpdf_and_gradient(x, mean, stddev, correlation)
            cymdn.mixture_logpdf_and_gradient(x, weights, mean, stddev, correlation)
            cymdn.mdn_loss_and_gradient(raw, x, pen, sample_weight=weight, out=tuple(outs))
            cymdn.mdn_loss_and_gradient(raw, x, pen)
            refused(lambda: cymdn.mdn_loss_and_gradient(raw, x, pen, out=(outs[0], raw[1:])))
            refused(lambda: cymdn.mixture_logpdf(x, weights, mean, stddev, raw))

    many()  # what is cached at the first call
    gc.collect()
    before = [sys.getrefcount(thing) for thing in watched]
    many()
    gc.collect()
    assert [sys.getrefcount(thing) for thing in watched] == before


# Memory of 960 bytes, and what frees it
FREED = {
    "bytearray": lambda: (owner := bytearray(960), owner.clear),
    "array.array": lambda: (owner := array.array("d", bytes(960)), lambda: owner.extend([0.0] * 9)),
    "mmap": lambda: (owner := mmap.mmap(-1, 960), owner.close),
    "array": lambda: (owner := np.zeros(120), lambda: owner.resize(3)),
}


@pytest.mark.parametrize("kind", FREED)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_nothing_that_a_call_reads_can_be_freed_meanwhile(kind, axes):
    owner, free = FREED[kind]()
    raw = np.frombuffer(owner).reshape((20, 6) if axes == 2 else (2, 10, 6) if axes == 3 else -1)
    with pytest.raises((BufferError, ValueError), match=r"export|resize|references"):
        cymdn.mdn_sample(raw, rng=Told(0.5, lambda size: free() or 0.0))
    assert cymdn.mdn_sample(raw, rng=0).x.shape == (*raw.shape[:-1], 2)
