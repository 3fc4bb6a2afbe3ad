"""The compared implementations, each written as a competent user of its library would write it.

Each function takes a problem, converts it for its library, and returns a call without arguments, which is timed. Its
outputs are those of cymdn, in the same order. Libraries are imported where they are needed, so that a missing library
does not affect the others.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import cymdn

LOG_2PI = math.log(2 * math.pi)


# cymdn, as installed, or another build or version of it (see kernels.load)


def ours_density(problem, module=cymdn, **options):
    """Densities and derivatives of each component."""
    return lambda: module.gaussian_density_batch(*problem, compute_derivatives=True, **options)


def ours_mdn(problem, module=cymdn, **options):
    """Loss and its gradient with respect to the raw output."""
    return lambda: module.mdn_loss_and_gradient(*problem, **options)


def ours_mdn_loss(problem, module=cymdn, **options):
    """Loss alone."""
    return lambda: module.mdn_loss(*problem, **options)


def ours_grid(problem, module=cymdn, **options):
    """Log-density of one mixture on a grid."""
    return lambda: module.mixture_logpdf(*problem, **options)


def ours_sample(problem, module=cymdn):
    """Sample points and pens."""
    rng = np.random.default_rng(0)
    size = None if problem.count == 1 else problem.count
    return lambda: module.mdn_sample(problem.raw, pen=1, size=size, rng=rng)


# NumPy, in the dtype of the input


def numpy_density(problem):
    """Densities and derivatives of each component."""
    return lambda: density_and_derivatives(np, *problem)


def density_and_derivatives(xp, x, mean, stddev, correlation, eps=1e-10):
    """Evaluate the formulas of docs/formulas.md in a namespace `xp` that is compatible with NumPy."""
    offset = (x - mean) / (stddev + eps)
    u, v = offset[..., :1], offset[..., 1:]
    z = xp.maximum(u * u + v * v - 2 * correlation * u * v, 0)
    q = 1 - correlation * correlation
    norm = 2 * math.pi * stddev[..., :1] * stddev[..., 1:] * xp.sqrt(q + eps) + eps
    value = xp.exp(-z / (2 * q + eps)) / norm
    c = 1 / (q + eps)
    dmean = c / (stddev + eps) * (offset - correlation * offset[..., ::-1])
    dstddev = offset * stddev * dmean - 1
    dcorrelation = u * v + correlation * (1 - c * z)
    return value, (dmean, dstddev, dcorrelation)


def numpy_mdn(problem):
    """Mean loss and manual gradient; each exponential is computed once."""
    return lambda: _numpy_loss_and_gradient(problem.raw, problem.x)


def _numpy_loss_and_gradient(raw, x):
    n = len(raw)
    logits, mean0, mean1, log_s0, log_s1, a = np.moveaxis(raw.reshape(n, 6, -1), 1, 0)  # (n, m) each
    inverse_s0, inverse_s1, r = np.exp(-log_s0), np.exp(-log_s1), np.tanh(a)
    u, v, q = (x[:, :1] - mean0) * inverse_s0, (x[:, 1:] - mean1) * inverse_s1, 1 - r * r
    du, dv = (u - r * v) / q, (v - r * u) / q
    log_normal = -LOG_2PI - log_s0 - log_s1 - 0.5 * (np.log(q) + u * du + v * dv)
    weights, log_weight_sum = _softmax(logits)
    share, log_sum = _softmax(logits + log_normal)
    gradient = np.empty((n, 6, logits.shape[1]), raw.dtype)
    gradient[:, 0] = weights - share
    gradient[:, 1] = -share * du * inverse_s0
    gradient[:, 2] = -share * dv * inverse_s1
    gradient[:, 3] = share * (1 - u * du)
    gradient[:, 4] = share * (1 - v * dv)
    gradient[:, 5] = -share * (r + q * du * dv)
    gradient /= n
    return np.mean(log_weight_sum - log_sum), gradient.reshape(raw.shape)


def _softmax(t):
    """Return the rows' softmax and the logarithms of the rows' sums of exponentials."""
    top = t.max(axis=1, keepdims=True)
    terms = np.exp(t - top)
    total = terms.sum(axis=1, keepdims=True)
    return terms / total, top + np.log(total)


def numpy_sample(problem):
    """Sample a component by cumulative weights, and a point from the conditional distributions."""
    rng = np.random.default_rng(3)
    return lambda: _numpy_draws(problem.raw, problem.count, rng)


def _numpy_draws(raw, count, rng):
    end = rng.random((count, len(raw))) < 1 / (1 + np.exp(-raw[:, 0]))
    logits, mean0, mean1, log_s0, log_s1, a = np.split(raw[:, 1:], 6, axis=1)
    cumulative = np.exp(logits - logits.max(axis=1, keepdims=True)).cumsum(axis=1)
    target = rng.random((count, len(raw))) * cumulative[:, -1]
    rows = np.arange(len(raw))
    if len(raw) == 1:
        j = np.searchsorted(cumulative[0], target, side="right")
    else:
        j = (cumulative <= target[..., None]).sum(axis=-1)
    n0, n1 = rng.standard_normal((2, count, len(raw)))
    r = np.tanh(a[rows, j])
    x0 = mean0[rows, j] + np.exp(log_s0[rows, j]) * n0
    x1 = mean1[rows, j] + np.exp(log_s1[rows, j]) * (r * n0 + np.sqrt(1 - r * r) * n1)
    return np.stack([x0, x1], axis=-1), end


def copy_everything(problem):
    """Copy as many bytes as inputs and outputs have in total: each is read and written once."""
    outputs = (problem.correlation, problem.mean, problem.stddev, problem.correlation)  # of these shapes
    nbytes = sum(array.nbytes for array in (*problem, *outputs))
    source, target = np.ones(nbytes, np.uint8), np.zeros(nbytes, np.uint8)
    return lambda: np.copyto(target, source)


def five_exp(n, m, dtype):
    """Compute five exponentials for each component: no loss needs fewer."""
    rng = np.random.default_rng(0)
    inputs = [-np.abs(rng.standard_normal((n, m), dtype)) for _ in range(5)]
    outputs = [np.empty_like(array) for array in inputs]

    def call():
        for array, out in zip(inputs, outputs, strict=True):
            np.exp(array, out=out)

    return call


# Numba: manually fused loops


def numba_density(problem):
    """Densities and derivatives of each component."""
    import fused_numba

    return lambda: fused_numba.density_and_derivatives(*problem)


def numba_mdn(problem):
    """Mean loss and its gradient with respect to the raw output."""
    import fused_numba

    dtype = problem.raw.dtype.type

    def call():
        loss, gradient = fused_numba.mdn_loss_and_gradient(problem.raw, problem.x)
        return dtype(loss), gradient  # Numba returns every scalar as a Python float

    return call


# PyTorch and JAX on the CPU


def _framework_loss(xp, log_softmax, logsumexp):
    """Return the mean negative log-density as a function of the columns of `raw`, (n, m) each, and of x."""

    def loss(columns, x):
        logits, mean0, mean1, log_s0, log_s1, a = columns
        u, v = (x[:, :1] - mean0) * xp.exp(-log_s0), (x[:, 1:] - mean1) * xp.exp(-log_s1)
        r = xp.tanh(a)
        q = 1 - r * r
        log_normal = -LOG_2PI - log_s0 - log_s1 - 0.5 * (xp.log(q) + (u * u + v * v - 2 * r * u * v) / q)
        return -logsumexp(log_softmax(logits) + log_normal).mean()

    return loss


def _torch():
    import torch

    torch.set_num_threads(1)
    return torch


def torch_eager(problem, *, compiled=False):
    """Forward, then backward to the raw output, operation by operation."""
    torch = _torch()
    loss_of_columns = _framework_loss(torch, partial(torch.log_softmax, dim=-1), partial(torch.logsumexp, dim=-1))

    def loss(raw, x):
        return loss_of_columns(raw.unflatten(-1, (6, -1)).unbind(-2), x)

    if compiled:
        torch.compiler.reset()
        loss = torch.compile(loss, dynamic=False)  # for this shape, which is fastest
    return _torch_step(torch, loss, problem)


def torch_distributions(problem):
    """Use the textbook form: MixtureSameFamily of MultivariateNormal."""
    torch = _torch()
    return _torch_step(torch, lambda raw, x: -_torch_mixture(torch, raw).log_prob(x).mean(), problem)


def _torch_step(torch, loss, problem):
    raw, x = torch.from_numpy(problem.raw).clone().requires_grad_(), torch.from_numpy(problem.x)

    def call():
        value = loss(raw, x)
        (gradient,) = torch.autograd.grad(value, raw)
        return value.detach(), gradient

    return call


def _torch_mixture(torch, raw):
    """Build the mixture from known Cholesky factors, so that none is computed; argument checks are off."""
    from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

    logits, mean0, mean1, log_s0, log_s1, a = raw.unflatten(-1, (6, -1)).unbind(-2)
    s0, s1, r = torch.exp(log_s0), torch.exp(log_s1), torch.tanh(a)
    factor = torch.stack([s0, torch.zeros_like(s0), r * s1, torch.sqrt(1 - r * r) * s1], dim=-1).unflatten(-1, (2, 2))
    components = MultivariateNormal(torch.stack([mean0, mean1], dim=-1), scale_tril=factor, validate_args=False)
    return MixtureSameFamily(Categorical(logits=logits, validate_args=False), components, validate_args=False)


def torch_sample(problem):
    """Sample from torch.distributions."""
    torch = _torch()
    raw, count = torch.from_numpy(problem.raw), (problem.count,)

    def call():
        end = torch.distributions.Bernoulli(logits=raw[:, 0], validate_args=False)
        with torch.no_grad():
            return _torch_mixture(torch, raw[:, 1:]).sample(count), end.sample(count)

    return call


def _jax():
    import jax

    jax.config.update("jax_enable_x64", True)  # without it, float64 input is computed in float32
    return jax


def jax_density(problem):
    """Densities and derivatives of each component, from the same source as NumPy's."""
    jax = _jax()
    return _jax_call(jax, jax.jit(partial(density_and_derivatives, jax.numpy)), problem)


def jax_mdn(problem):
    """Mean loss and its gradient with respect to the raw output."""
    jax = _jax()
    loss_of_columns = _framework_loss(jax.numpy, jax.nn.log_softmax, partial(jax.nn.logsumexp, axis=-1))

    def loss(raw, x):
        return loss_of_columns(jax.numpy.moveaxis(raw.reshape(len(raw), 6, -1), 1, 0), x)

    return _jax_call(jax, jax.jit(jax.value_and_grad(loss)), problem[:2])


def _jax_call(jax, function, arguments):
    arguments = jax.device_put(tuple(arguments))
    return lambda: jax.block_until_ready(function(*arguments))  # JAX returns before the computation ends


# SciPy and scikit-learn. Preparations that depend on the mixture alone are not timed.


def scipy_grid(problem):
    """Freeze a distribution for each component; then logsumexp."""
    from scipy.special import logsumexp
    from scipy.stats import multivariate_normal

    weights = problem.weights[:, None, None]
    components = list(map(multivariate_normal, problem.mean, _covariances(problem)))
    return lambda: logsumexp([component.logpdf(problem.x) for component in components], axis=0, b=weights)


def sklearn_grid(problem):
    """Call GaussianMixture.score_samples of a model whose parameters are given, not fitted."""
    from sklearn.mixture import GaussianMixture

    covariances = _covariances(problem)
    model = GaussianMixture(len(covariances), covariance_type="full")
    model.weights_, model.means_, model.covariances_ = problem.weights, problem.mean, covariances
    model.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(covariances))
    points = problem.x.reshape(-1, 2)
    return lambda: model.score_samples(points)


def _covariances(problem):
    s0, s1 = problem.stddev.T
    cross = problem.correlation * s0 * s1
    return np.stack([s0 * s0, cross, cross, s1 * s1], axis=-1).reshape(-1, 2, 2)


# The catalogue


class Peer(NamedTuple):
    """An implementation: its name in tables, and the function that returns the timed call."""

    label: str
    prepare: Callable[[Any], Callable[[], Any]]
    has_results: bool = True  # which are checked against cymdn's


NUMPY, NUMBA, JAX = "NumPy", "Numba", "jax.jit"
TORCH, TORCH_COMPILE, TORCH_DISTRIBUTIONS = "PyTorch eager", "torch.compile", "torch.distributions"
SCIPY, SKLEARN, COPY = "SciPy", "scikit-learn", "np.copyto"

OURS = {
    work: Peer("cymdn", prepare)
    for work, prepare in {
        "density": ours_density,
        "mdn": ours_mdn,
        "grid": ours_grid,
        "sample": ours_sample,
        "draws": ours_sample,
    }.items()
}
CATALOGUE = {
    "density": [
        Peer(NUMPY, numpy_density),
        Peer(NUMBA, numba_density),
        Peer(JAX, jax_density),
        Peer(COPY, copy_everything, has_results=False),
    ],
    "mdn": [
        Peer(NUMPY, numpy_mdn),
        Peer(NUMBA, numba_mdn),
        Peer(TORCH, torch_eager),
        Peer(TORCH_COMPILE, partial(torch_eager, compiled=True)),
        Peer(TORCH_DISTRIBUTIONS, torch_distributions),
        Peer(JAX, jax_mdn),
    ],
    "grid": [Peer(SCIPY, scipy_grid), Peer(SKLEARN, sklearn_grid)],
    "sample": [Peer(NUMPY, numpy_sample), Peer(TORCH_DISTRIBUTIONS, torch_sample)],
}
CATALOGUE["draws"] = CATALOGUE["sample"]


def find(work: str, label: str) -> Peer:
    """Return the peer of this name for this work; cymdn itself counts."""
    return next(peer for peer in [OURS[work], *CATALOGUE[work]] if peer.label == label)
