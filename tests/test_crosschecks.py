"""The same numbers from other software, where it is installed: PyTorch, JAX, SciPy, scikit-learn."""

import numpy as np
import pytest

from cymdn import gaussian_logpdf, mdn_loss_and_gradient, mixture_logpdf, mixture_logpdf_and_gradient

PENS = ("none", "bernoulli", "categorical")
PEN_LOGITS = {"none": 0, "bernoulli": 1, "categorical": 3}

# log N is some tens at these points, its derivatives up to 1e3: a few hundred eps of their terms in either program
CLOSE = {"rtol": 1e-11, "atol": 1e-11}


def network_output(pen, n=40, m=5, seed=0):
    """raw, x and pen; correlations up to 0.99, where plain formulas still have their digits."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(n, PEN_LOGITS[pen] + 6 * m))
    targets = {"none": None, "bernoulli": rng.random(n), "categorical": np.eye(3)[rng.integers(0, 3, size=n)]}
    return raw, rng.normal(size=(n, 2)), targets[pen]


def mixture(m, seed=0):
    """weights, mean, stddev, correlation, covariance of one mixture."""
    rng = np.random.default_rng(seed)
    stddev, correlation = np.exp(0.5 * rng.normal(size=(m, 2))), np.tanh(rng.normal(size=m))
    off_diagonal = correlation * stddev.prod(axis=-1)
    covariance = np.stack([stddev[:, 0] ** 2, off_diagonal, off_diagonal, stddev[:, 1] ** 2], -1).reshape(m, 2, 2)
    return rng.dirichlet(np.ones(m)), rng.normal(size=(m, 2)), stddev, correlation, covariance


# The loss as one writes it in a framework; `lib` has the functions of torch and of jax.numpy under the same names


def plain_losses(lib, logsumexp, softplus, raw, x, targets):
    pens = 0 if targets is None else 1 if targets.ndim == 1 else 3
    m = (raw.shape[1] - pens) // 6
    logits, mean0, mean1, log_s0, log_s1, a = (raw[:, pens + k * m : pens + (k + 1) * m] for k in range(6))
    u, v = (x[:, :1] - mean0) * lib.exp(-log_s0), (x[:, 1:] - mean1) * lib.exp(-log_s1)
    # the sums of squares of section 3: no tanh, no 1 - r^2
    distance = ((u + v) ** 2 * (1 + lib.exp(-2 * a)) + (u - v) ** 2 * (1 + lib.exp(2 * a))) / 4
    log_cosh = softplus(2 * a) - a - np.log(2)
    log_n = -np.log(2 * np.pi) - log_s0 - log_s1 + log_cosh - distance / 2
    losses = logsumexp(logits) - logsumexp(logits + log_n)
    if pens == 1:
        losses = losses + targets * softplus(-raw[:, 0]) + (1 - targets) * softplus(raw[:, 0])
    elif pens == 3:
        losses = losses + logsumexp(raw[:, :3]) - (targets * raw[:, :3]).sum(1)
    return losses


def torch_losses(torch, raw, x, targets):
    def softplus(z):
        return torch.logaddexp(z, torch.zeros_like(z))

    return plain_losses(torch, lambda t: torch.logsumexp(t, 1), softplus, raw, x, targets)


def as_tensor(torch, array):
    return None if array is None else torch.from_numpy(array)


@pytest.mark.parametrize("pen", PENS)
@pytest.mark.parametrize("m", [1, 5])
def test_loss_and_gradient_are_those_of_torch_autograd(m, pen):
    torch = pytest.importorskip("torch")
    raw, x, targets = network_output(pen, m=m)
    tensor = torch.from_numpy(raw.copy()).requires_grad_()
    expected = torch_losses(torch, tensor, torch.from_numpy(x), as_tensor(torch, targets))
    expected.sum().backward()
    loss, gradient = mdn_loss_and_gradient(raw, x, targets, reduction="none")
    np.testing.assert_allclose(loss, expected.detach().numpy(), **CLOSE)
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), **CLOSE)


def test_reduced_weighted_gradient_is_that_of_torch_autograd():
    torch = pytest.importorskip("torch")
    raw, x, targets = network_output("bernoulli")
    weight = np.random.default_rng(3).exponential(size=len(raw))
    tensor = torch.from_numpy(raw.copy()).requires_grad_()
    losses = torch_losses(torch, tensor, torch.from_numpy(x), torch.from_numpy(targets))
    expected = (torch.from_numpy(weight) * losses).sum() / weight.sum()
    expected.backward()
    loss, gradient = mdn_loss_and_gradient(raw, x, targets, sample_weight=weight)
    np.testing.assert_allclose(loss, expected.item(), **CLOSE)
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), **CLOSE)


@pytest.mark.parametrize("pen", PENS)
def test_torch_gradcheck_passes(pen):
    torch = pytest.importorskip("torch")
    raw, x, targets = network_output(pen, n=4, m=3)

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, raw_tensor):
            loss, gradient = mdn_loss_and_gradient(raw_tensor.detach().numpy(), x, targets, reduction="none")
            ctx.save_for_backward(torch.from_numpy(gradient))
            return torch.from_numpy(loss)

        @staticmethod
        def backward(ctx, upstream):
            (gradient,) = ctx.saved_tensors
            return upstream[:, None] * gradient

    # differences of second order in steps of 1e-6: their rounding is 1e-9 of a loss of some tens
    torch.autograd.gradcheck(Loss.apply, torch.from_numpy(raw).requires_grad_(), eps=1e-6, rtol=1e-6, atol=1e-6)


def test_log_density_is_that_of_torch_distributions():
    torch = pytest.importorskip("torch")
    weights, mean, stddev, correlation, covariance = mixture(4)
    components = torch.distributions.MultivariateNormal(torch.from_numpy(mean), torch.from_numpy(covariance))
    theirs = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.from_numpy(weights)), components
    )
    x = np.random.default_rng(5).normal(size=(100, 2))
    point = torch.from_numpy(x).requires_grad_()
    expected = theirs.log_prob(point)
    expected.sum().backward()
    value, gradient = mixture_logpdf_and_gradient(x, weights, mean, stddev, correlation)
    np.testing.assert_allclose(value, expected.detach().numpy(), **CLOSE)
    np.testing.assert_allclose(gradient.x, point.grad.numpy(), **CLOSE)


@pytest.mark.parametrize("pen", PENS)
def test_loss_and_gradient_are_those_of_jax_grad(pen):
    jax = pytest.importorskip("jax")
    raw, x, targets = network_output(pen)

    def summed(raw_array):
        losses = plain_losses(
            jax.numpy,
            lambda t: jax.scipy.special.logsumexp(t, axis=1),
            lambda z: jax.numpy.logaddexp(z, 0.0),
            raw_array,
            x,
            targets,
        )
        return losses.sum(), losses

    with jax.enable_x64(True):
        expected_gradient, expected = jax.grad(summed, has_aux=True)(jax.numpy.asarray(raw))
    loss, gradient = mdn_loss_and_gradient(raw, x, targets, reduction="none")
    np.testing.assert_allclose(loss, np.asarray(expected), **CLOSE)
    np.testing.assert_allclose(gradient, np.asarray(expected_gradient), **CLOSE)


def test_log_densities_of_components_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    _, mean, stddev, correlation, covariance = mixture(6)
    x = np.random.default_rng(5).normal(size=(100, 2))
    value = gaussian_logpdf(x, mean, stddev, correlation)
    for j in range(6):
        expected = stats.multivariate_normal(mean[j], covariance[j]).logpdf(x)
        np.testing.assert_allclose(value[:, j], expected, **CLOSE)


def test_log_density_of_a_mixture_is_that_of_scipy():
    stats, special = pytest.importorskip("scipy.stats"), pytest.importorskip("scipy.special")
    weights, mean, stddev, correlation, covariance = mixture(6)
    x = np.random.default_rng(5).normal(size=(100, 2))
    own = [stats.multivariate_normal(m, c).logpdf(x) for m, c in zip(mean, covariance, strict=True)]
    expected = special.logsumexp(np.stack(own, axis=-1), b=weights, axis=-1)
    np.testing.assert_allclose(mixture_logpdf(x, weights, mean, stddev, correlation), expected, **CLOSE)


def test_log_density_and_responsibilities_are_those_of_sklearn():
    sklearn_mixture = pytest.importorskip("sklearn.mixture")
    weights, mean, stddev, correlation, covariance = mixture(6)
    theirs = sklearn_mixture.GaussianMixture(6)
    theirs.weights_, theirs.means_, theirs.covariances_ = weights, mean, covariance
    theirs.precisions_cholesky_ = np.linalg.inv(np.linalg.cholesky(covariance)).transpose(0, 2, 1)
    x = np.random.default_rng(5).normal(size=(100, 2))
    value, gradient = mixture_logpdf_and_gradient(x, weights, mean, stddev, correlation)
    np.testing.assert_allclose(value, theirs.score_samples(x), **CLOSE)
    np.testing.assert_allclose(gradient.logits + weights, theirs.predict_proba(x), **CLOSE)
