"""Memory: nothing beyond inputs and outputs that grows with the batch, and nothing that stays after a call."""

import gc
import sys
import tracemalloc

import numpy as np
import pytest

import cymdn

ROWS, COMPONENTS = 150_000, 6
MIB = 2**20


def arrays(dtype, rows=ROWS, m=COMPONENTS):
    rng = np.random.default_rng(0)
    x, mean = rng.normal(size=(rows, 2)).astype(dtype), rng.normal(size=(rows, m, 2)).astype(dtype)
    stddev, correlation = np.exp(mean), np.tanh(mean[..., 0])
    weights, raw = np.full((rows, m), 1 / m, dtype), rng.normal(size=(rows, 1 + 6 * m)).astype(dtype)
    return x, mean, stddev, correlation, weights, raw, np.zeros(rows, dtype), np.ones(rows, dtype)


def calls(dtype, rows=ROWS, m=COMPONENTS):
    x, mean, stddev, correlation, weights, raw, pen, weight = arrays(dtype, rows, m)
    points, r = x[:, None], correlation[..., None]
    return {
        "density": lambda: cymdn.gaussian_density_batch(points, mean, stddev, r, True),
        "components": lambda: cymdn.gaussian_logpdf_and_gradient(x, mean, stddev, correlation),
        "mixture": lambda: cymdn.mixture_logpdf_and_gradient(x, weights, mean, stddev, correlation),
        "grid": lambda: cymdn.mixture_logpdf(x, weights[0], mean[0], stddev[0], correlation[0]),
        "loss": lambda: cymdn.mdn_loss_and_gradient(raw, x, pen, sample_weight=weight),
        "two workers": lambda: cymdn.mdn_loss_and_gradient(raw, x, pen, workers=2),
    }


def size(result):
    if isinstance(result, tuple):
        return sum(map(size, result))
    return 0 if result is None else result.nbytes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", calls(np.float64, rows=1))
def test_no_more_than_a_mebibyte_beyond_inputs_and_outputs(name, dtype):
    call = calls(dtype)[name]
    call()  # what is imported or cached at the first call
    tracemalloc.start()
    try:
        result = call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - size(result) <= MIB


def test_calls_leave_no_memory_behind():
    good = list(calls(np.float64, rows=3, m=4).values())

    def bad():
        for shape in ((3, 24), (3, 26)):
            with pytest.raises(ValueError, match=r"^raw: "):
                cymdn.mdn_loss(np.zeros(shape), np.zeros((3, 2)), np.zeros(3))

    def many(times):
        for _ in range(times):
            for call in good:
                call()
            bad()

    many(20)
    gc.collect()
    before = sys.getallocatedblocks()
    many(200)
    gc.collect()
    # a leak of one object a call would be 200 and more
    assert sys.getallocatedblocks() - before < 100
