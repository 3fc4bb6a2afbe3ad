"""What test files share to run on and to judge by: dtypes, pens, constants, arithmetic, comparison bit by bit."""

import ctypes
import os
import platform
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

FLOATS = (np.float32, np.float64)
EPS = {np.float32: 2.0**-23, np.float64: 2.0**-52}
PENS = {"none": 0, "bernoulli": 1, "categorical": 3}  # and how many logits each takes
REDUCTIONS = ("none", "sum", "mean")
FALSE_ALARM = 1e-6  # probability that one statistical test fails a right sampler, under another seed
INF, NAN = np.inf, np.nan
COMPILE_QUICKLY = {"xla_backend_optimization_level": 0}  # options of jax.jit for what is called only once or twice

each_dtype = pytest.mark.parametrize("dtype", FLOATS)
each_pen = pytest.mark.parametrize("pen", PENS)
each_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
# Each pen and each reduction once, where a pair takes seconds: neither of them sees the other
each_pen_or_reduction = pytest.mark.parametrize(("pen", "reduction"), list(zip(PENS, REDUCTIONS, strict=True)))


def flat(result):
    """The arrays of a result, nested or not, as a list; without None."""
    if isinstance(result, dict):
        result = tuple(result.values())
    if isinstance(result, (tuple, list)):
        return [array for part in result for array in flat(part)]
    return [] if result is None else [result]


def assert_same_bits(actual, expected):
    """Assert that arrays, or results that hold them, agree in dtype, shape and every bit; all NaNs count as one."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
    for ours, theirs in zip(flat(actual), flat(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)
        number = ~np.isnan(theirs)
        signs = np.signbit(np.asarray(ours)[number]), np.signbit(np.asarray(theirs)[number])
        np.testing.assert_array_equal(*signs, "signs of zeros")


def rows_of(result, index):
    """The same rows of all arrays of a result."""
    return tuple(array[index] for array in flat(result))


def without_row(result, row):
    return tuple(np.delete(array, row, axis=0) for array in flat(result))


def assert_no_nan(result):
    for array in flat(result):
        assert not np.isnan(array).any()


def run_python(*arguments, cwd="/", **environment):
    """Run a Python of its own, and return it when it has ended, with what it printed; one that hangs is killed."""
    command, environment = [sys.executable, *map(str, arguments)], {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120)


FLUSH = 0x8040  # of MXCSR: results below the normal numbers become zero (FTZ), and arguments do (DAZ)
CAN_FLUSH = sys.platform == "linux" and platform.machine() == "x86_64"  # only there is it known here how to


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
