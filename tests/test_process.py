"""What import and calls leave alone in their process: how it computes, warns and fails.

Nor do results depend on whether the calling thread flushes subnormal numbers to zero. JAX calls from threads that do;
PyTorch does on demand, a library linked with -ffast-math where it is loaded.
"""

import builds
import numpy as np
import pytest
from checks import CAN_FLUSH, REDUCTIONS, assert_same_bits, each_dtype, flushing, run_python
from test_builds import calls, digest, golden, results

from cymdn import BivariateMixture, gaussian_logpdf, mdn_loss, mdn_loss_and_gradient, mixture_logpdf

# A library built with -ffast-math makes its whole process flush denormals; a stray rounding mode shifts every sum.
PROGRAM = f"""
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
{builds.SHARE}  # so that there are threads, which inherit the mode and must not change it either
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


@pytest.mark.parametrize("level", builds.BUILDS)
def test_import_and_calls_leave_the_floating_point_mode_as_it_is(level):
    run = run_python("-W", "error", "-c", PROGRAM, **{builds.FORCE: level})
    assert (run.stdout, run.stderr) == ("unchanged\n", "")


knows_how_to_flush = pytest.mark.skipif(
    not CAN_FLUSH, reason="only for x86-64 Linux is it known here how to set the arithmetic of a thread"
)


def half_of_the_smallest_normal():
    return np.array([np.finfo(float).tiny])[0] * 0.5


@knows_how_to_flush
@pytest.mark.parametrize("level", builds.BUILDS)
@pytest.mark.parametrize("workers", [1, 2])
@each_dtype
def test_the_golden_bits_come_out_where_numbers_are_flushed(dtype, workers, level, monkeypatch):
    builds.use(monkeypatch, level)
    builds.share(monkeypatch, 100)  # so that 67 rows are shared
    with flushing():
        found = results(dtype, workers=workers)
    # the digest's own arithmetic is the usual one again
    assert {name: digest(result) for name, result in found.items()} == golden()[dtype.__name__, builds.kind(level)]


@knows_how_to_flush
def test_a_mixtures_results_are_the_same_where_numbers_are_flushed():
    raw = np.random.default_rng(0).normal(size=(20, 6 * 5))
    raw[::2] *= 60  # components whose share is below the normal numbers

    def answers():
        mixture = BivariateMixture.from_network_output(raw)
        x = mixture.sample(7, rng=1)
        return x, mixture.mode(), mixture.logpdf(x), mixture.marginal(0).cdf(x[..., 0])

    expected = answers()
    with flushing():
        flushed = answers()
    assert_same_bits(flushed, expected)


TINY, TINY32 = np.array([1e-320, 3e-310]), np.array([1e-40, 1e-44], np.float32)
LIGHT = BivariateMixture([1.0, 1e-320], [[0.0, 0.0], [1000.0, 1.0]], [[3e-308, 3e-308], [1.0, 1.0]], [0.0, 0.5])
WIDE = BivariateMixture([1.0], [[0.0, 0.0]], [[1e155, 1e155]], [0.0])
RAW, X = np.random.default_rng(0).normal(size=(2, 13)), np.random.default_rng(1).normal(size=(2, 2))
SHARP = np.array([[-1e300, *RAW[0, 1:]], RAW[1]])
ROUND = np.zeros((1, 2)), np.ones((1, 2)), np.zeros(1)
AROUND_KERNELS = {  # what NumPy converts, multiplies or adds for them
    "weights": lambda: [mdn_loss_and_gradient(RAW[:, 1:], X, sample_weight=TINY, reduction=r) for r in REDUCTIONS],
    "float32 pens": lambda: mdn_loss(SHARP, X, TINY32),
    "float32 weights": lambda: mixture_logpdf(X, TINY32[:1], *ROUND),
    "float32 stddevs": lambda: gaussian_logpdf(0.0 * X, ROUND[0], TINY32[None], ROUND[2]),
    "a float32 result": lambda: mdn_loss(*map(np.float32, (RAW[:, 1:], X)), sample_weight=TINY32, reduction="sum"),
    "densities": lambda: (
        LIGHT.pdf([1010.0, 33.0]),
        LIGHT.marginal(0).pdf([1e3, 1e3 + 33]),
        LIGHT.marginal(0).cdf(-1e-307),
    ),
    "shares": lambda: (LIGHT.responsibilities([1000.0, 1.0]), LIGHT.conditional(1, 1.0).weights),
    "a level": lambda: WIDE.credible_level([0.5]),
    "covariances": lambda: BivariateMixture.from_covariances([1.0], [[0, 0]], [[[1e-310, 0.0], [0.0, 1e-309]]]).stddevs,
}


@knows_how_to_flush
@pytest.mark.parametrize("name", AROUND_KERNELS)
def test_what_is_done_around_kernels_is_the_same_where_numbers_are_flushed(name):
    expected = AROUND_KERNELS[name]()
    with flushing():
        flushed = AROUND_KERNELS[name]()
    assert_same_bits(flushed, expected)


@knows_how_to_flush
def test_the_thread_flushes_as_before_after_a_call():
    with flushing():
        for call in calls(np.float64).values():
            call()
            assert half_of_the_smallest_normal() == 0.0
    assert half_of_the_smallest_normal() > 0.0
