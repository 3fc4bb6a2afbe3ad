"""What import and calls leave alone in the process that they run in: how it computes, warns and fails."""

import os
import subprocess
import sys

import pytest

from cymdn import _dispatch

BUILDS = [level for level in _dispatch.LEVELS if _dispatch.why_not(level) is None]

# A library built with -ffast-math makes its whole process flush denormals; a stray rounding mode shifts every sum.
PROGRAM = """
import numpy as np

def mode():
    tiny, one = np.array([5e-324, -5e-324, 1e-310]), np.array([1.0, -1.0])
    half = 2.0**-53  # half a place of 1
    return [
        *(tiny * 1.0), *(tiny / 2.0), *(np.float32(1e-45) * np.array([1.0, 0.75], np.float32)),
        *(one + half), *(one - half), *(one + 3 * half), *(one - 3 * half),
        np.geterr(), np.get_printoptions(),
    ]

before = mode()
assert before[0] == 5e-324, "NumPy alone flushes denormals here"
import warnings
filters = list(warnings.filters)

import cymdn
from cymdn import _dispatch

_dispatch.WORKER_COMPONENTS = 1  # so that there are threads, which inherit the mode and must not change it either
rng = np.random.default_rng(0)
for dtype in (np.float32, np.float64):
    x, mean = rng.normal(size=(50, 2)).astype(dtype), rng.normal(size=(50, 5, 2)).astype(dtype)
    stddev, correlation = np.exp(mean), np.tanh(mean[..., 0])
    raw, pen = (100 * rng.normal(size=(50, 31))).astype(dtype), np.zeros(50)
    for workers in (1, 2):
        cymdn.gaussian_density_batch(x[:, None], mean, stddev, correlation[..., None], True, workers=workers)
        cymdn.gaussian_logpdf_and_gradient(x, mean, stddev, correlation, workers=workers)
        cymdn.mixture_logpdf_and_gradient(x, correlation**2, mean, stddev, correlation, workers=workers)
        cymdn.mdn_loss_and_gradient(raw, x, pen, workers=workers)
        cymdn.mdn_loss_and_gradient(raw * dtype(np.nan), x, pen, workers=workers)

assert mode() == before
assert list(warnings.filters) == filters
print("unchanged")
"""


@pytest.mark.parametrize("level", BUILDS)
def test_import_and_calls_leave_the_floating_point_mode_as_it_is(level):
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, "CYMDN_CPU_LEVEL": level},
    )
    assert (run.stdout, run.stderr) == ("unchanged\n", "")
