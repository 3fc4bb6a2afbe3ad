"""Results do not depend on whether the calling thread flushes subnormal numbers to zero; a call leaves that as it was.

JAX calls from threads that flush; PyTorch does on demand, a library linked with -ffast-math where it is loaded.
"""

import ctypes
import inspect
import platform
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from test_builds import BUILDS, GOLDEN, calls, digest

import cymdn
from cymdn import BivariateMixture, _dispatch

FLUSH = 0x8040  # of MXCSR: results below the normal numbers become zero (FTZ), and arguments do (DAZ)

pytestmark = pytest.mark.skipif(
    not (sys.platform == "linux" and platform.machine() == "x86_64"),
    reason="only for x86-64 Linux is it known here how to set the arithmetic of a thread",
)


class FloatingPointEnvironment(ctypes.Structure):
    """C's fenv_t on x86-64 Linux: 28 bytes for the x87, then the setting of the SSE unit."""

    _fields_ = (("x87", ctypes.c_uint32 * 7), ("mxcsr", ctypes.c_uint32))


@contextmanager
def flushing():
    """Flush in this thread."""
    libm = ctypes.CDLL("libm.so.6")
    before, changed = FloatingPointEnvironment(), FloatingPointEnvironment()
    libm.fegetenv(ctypes.byref(before))
    libm.fegetenv(ctypes.byref(changed))
    changed.mxcsr |= FLUSH
    libm.fesetenv(ctypes.byref(changed))
    try:
        yield
    finally:
        libm.fesetenv(ctypes.byref(before))


def half_of_the_smallest_normal():
    return np.array([np.finfo(float).tiny])[0] * 0.5


@pytest.fixture(params=BUILDS)
def build(request, monkeypatch):
    monkeypatch.setattr(_dispatch, "kernels", _dispatch.load(request.param))
    return request.param


@pytest.mark.usefixtures("build")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_golden_bits_come_out_where_numbers_are_flushed(dtype, workers, monkeypatch):
    monkeypatch.setattr(_dispatch, "WORKER_COMPONENTS", 100)  # so that 67 rows are shared
    results = {}
    for name, call in calls(dtype).items():
        function = getattr(cymdn, name.split()[0], None)  # None: a method
        options = {"workers": workers} if function and "workers" in inspect.signature(function).parameters else {}
        with flushing():
            results[name] = call(**options)
    # the digest's own arithmetic is the usual one again
    golden = {f"{name} {dtype.__name__}": digest(result) for name, result in results.items()}
    assert golden.items() <= GOLDEN.items()


def test_a_mixtures_results_are_the_same_where_numbers_are_flushed():
    raw = np.random.default_rng(0).normal(size=(20, 6 * 5))
    raw[::2] *= 60  # components whose share is below the normal numbers

    def results():
        mixture = BivariateMixture.from_network_output(raw)
        x = mixture.sample(7, rng=1)
        return x, mixture.mode(), mixture.logpdf(x), mixture.marginal(0).cdf(x[..., 0])

    expected = results()
    with flushing():
        flushed = results()
    for array, expected_array in zip(flushed, expected, strict=True):
        np.testing.assert_array_equal(array, expected_array)


def test_the_thread_flushes_as_before_after_a_call():
    with flushing():
        for call in calls(np.float64).values():
            call()
            assert half_of_the_smallest_normal() == 0.0
    assert half_of_the_smallest_normal() > 0.0
