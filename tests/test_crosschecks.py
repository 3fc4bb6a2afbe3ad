"""The same numbers from other software, where it is installed: PyTorch, JAX, SciPy, scikit-learn."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest
from checks import each_pen
from problems import loss_problem
from reference import EXACT, raw_components

from cymdn import gaussian_density_batch, gaussian_logpdf, mdn_loss_and_gradient, mixture_logpdf_and_gradient

# log N is some tens at these points, its derivatives up to 1e3: a few hundred eps of their terms in either program
CLOSE = {"rtol": 1e-11, "atol": 1e-11}


def one_mixture(m, seed=0):
    """100 points; weights, mean, stddev, correlation, covariance of one mixture."""
    rng = np.random.default_rng(seed)
    stddev, correlation = np.exp(0.5 * rng.normal(size=(m, 2))), np.tanh(rng.normal(size=m))
    off_diagonal = correlation * stddev.prod(axis=-1)
    covariance = np.stack([stddev[:, 0] ** 2, off_diagonal, off_diagonal, stddev[:, 1] ** 2], -1).reshape(m, 2, 2)
    weights, mean = rng.dirichlet(np.ones(m)), rng.normal(size=(m, 2))
    return rng.normal(size=(100, 2)), weights, mean, stddev, correlation, covariance


# The loss as one writes it in a framework; `lib` has the functions of torch and of jax.numpy under the same names


def plain_losses(lib, logsumexp, raw, x, targets):
    pens = 0 if targets is None else 1 if targets.ndim == 1 else 3
    m = (raw.shape[1] - pens) // 6
    logits, mean0, mean1, log_s0, log_s1, a = (raw[:, pens + k * m : pens + (k + 1) * m] for k in range(6))
    u, v = (x[:, :1] - mean0) * lib.exp(-log_s0), (x[:, 1:] - mean1) * lib.exp(-log_s1)

    def softplus(z):
        return lib.logaddexp(z, lib.zeros_like(z))

    # the sums of squares of docs/formulas.md: no tanh, no 1 - r^2
    distance = ((u + v) ** 2 * (1 + lib.exp(-2 * a)) + (u - v) ** 2 * (1 + lib.exp(2 * a))) / 4
    log_cosh = softplus(2 * a) - a - np.log(2)
    log_n = -np.log(2 * np.pi) - log_s0 - log_s1 + log_cosh - distance / 2
    losses = logsumexp(logits, 1) - logsumexp(logits + log_n, 1)
    if pens == 1:
        losses = losses + targets * softplus(-raw[:, 0]) + (1 - targets) * softplus(raw[:, 0])
    elif pens == 3:
        losses = losses + logsumexp(raw[:, :3], 1) - (targets * raw[:, :3]).sum(1)
    return losses


def by_torch(raw, x, targets, weight):
    """Weighted losses, and the gradient of their sum."""
    torch = pytest.importorskip("torch")
    tensors = [None if a is None else torch.from_numpy(a) for a in (raw.copy(), x, targets, weight)]
    losses = tensors[3] * plain_losses(torch, torch.logsumexp, tensors[0].requires_grad_(), *tensors[1:3])
    losses.sum().backward()
    return losses.detach().numpy(), tensors[0].grad.numpy()


def by_jax(raw, x, targets, weight):
    jax = pytest.importorskip("jax")

    def summed(raw):
        losses = weight * plain_losses(jax.numpy, jax.scipy.special.logsumexp, raw, x, targets)
        return losses.sum(), losses

    with jax.enable_x64(True):
        gradient, losses = jax.grad(summed, has_aux=True)(jax.numpy.asarray(raw))
        return np.asarray(losses), np.asarray(gradient)


@each_pen
@pytest.mark.parametrize("m", [1, 5])
@pytest.mark.parametrize("framework", [by_torch, by_jax])
def test_loss_and_gradient_are_those_of_autograd(framework, m, pen):
    raw, x, targets = loss_problem((40,), m, pen)
    if pen == "bernoulli":
        targets = 0.25 + targets / 2
    weight = np.random.default_rng(3).exponential(size=40)
    expected, expected_gradient = framework(raw, x, targets, weight)
    loss, gradient = mdn_loss_and_gradient(raw, x, targets, sample_weight=weight, reduction="none")
    np.testing.assert_allclose(loss, expected, **CLOSE)
    np.testing.assert_allclose(gradient, expected_gradient, **CLOSE)
    loss, gradient = mdn_loss_and_gradient(raw, x, targets, sample_weight=weight)
    np.testing.assert_allclose(loss, expected.sum() / weight.sum(), **CLOSE)
    np.testing.assert_allclose(gradient, expected_gradient / weight.sum(), **CLOSE)


def test_log_density_is_that_of_torch_distributions():
    torch = pytest.importorskip("torch")
    x, weights, mean, stddev, correlation, covariance = one_mixture(4)
    components = torch.distributions.MultivariateNormal(torch.from_numpy(mean), torch.from_numpy(covariance))
    shares = torch.distributions.Categorical(torch.from_numpy(weights))
    point = torch.from_numpy(x).requires_grad_()
    expected = torch.distributions.MixtureSameFamily(shares, components).log_prob(point)
    expected.sum().backward()
    value, gradient = mixture_logpdf_and_gradient(x, weights, mean, stddev, correlation)
    np.testing.assert_allclose(value, expected.detach().numpy(), **CLOSE)
    np.testing.assert_allclose(gradient.x, point.grad.numpy(), **CLOSE)


def test_densities_are_those_of_scipy():
    stats, special = pytest.importorskip("scipy.stats"), pytest.importorskip("scipy.special")
    x, weights, mean, stddev, correlation, covariance = one_mixture(6)
    own = np.stack([stats.multivariate_normal(*each).logpdf(x) for each in zip(mean, covariance, strict=True)], -1)
    np.testing.assert_allclose(gaussian_logpdf(x, mean, stddev, correlation), own, **CLOSE)
    value, _ = mixture_logpdf_and_gradient(x, weights, mean, stddev, correlation)
    np.testing.assert_allclose(value, special.logsumexp(own, b=weights, axis=-1), **CLOSE)
    parameters = mean[None], stddev[None], correlation[None, :, None]
    density, _ = gaussian_density_batch(x[:, None], *parameters, smooth_eps=0.0)
    np.testing.assert_allclose(density[..., 0], np.exp(own), rtol=1e-10, atol=0)  # SciPy's eigenvalues set it


def test_log_density_and_responsibilities_are_those_of_sklearn():
    sklearn_mixture = pytest.importorskip("sklearn.mixture")
    x, weights, mean, stddev, correlation, covariance = one_mixture(6)
    theirs = sklearn_mixture.GaussianMixture(6)
    theirs.weights_, theirs.means_, theirs.covariances_ = weights, mean, covariance
    theirs.precisions_cholesky_ = np.linalg.inv(np.linalg.cholesky(covariance)).transpose(0, 2, 1)
    value, gradient = mixture_logpdf_and_gradient(x, weights, mean, stddev, correlation)
    np.testing.assert_allclose(value, theirs.score_samples(x), **CLOSE)
    np.testing.assert_allclose(gradient.logits + weights, theirs.predict_proba(x), **CLOSE)


# The recipes of docs/moving/trajectories.md: mixtures of whole trajectories

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "moving" / "trajectories.md").read_text("utf-8")


def by_recipe(*arguments):
    """Loss and gradients to logits and raw, by the recipe for NumPy."""
    examples = doctest.DocTestParser().get_examples(PAGE)
    (source,) = (example.source for example in examples if "def trajectory_loss" in example.source)
    names = {"np": np, "logsumexp": pytest.importorskip("scipy.special").logsumexp}
    exec("from cymdn import mdn_loss_and_gradient\n" + source, names)
    return names["trajectory_loss"](*arguments)


def by_recipe_in_torch(*arguments):
    torch = pytest.importorskip("torch")
    (source,) = re.findall(r"```python\n(import torch.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(source, names)
    logits, raw, *others = map(torch.from_numpy, arguments)
    loss = names["trajectory_loss"](logits.requires_grad_(), raw.requires_grad_(), *others)
    return loss.item(), *(part.numpy() for part in torch.autograd.grad(loss, (logits, raw)))


@pytest.mark.parametrize("recipe", [by_recipe, by_recipe_in_torch])
def test_loss_of_trajectories_is_that_of_its_definition(recipe):
    rng, b, k, t = np.random.default_rng(0), 5, 3, 30
    logits, raw, x, valid = (rng.normal(size=shape) for shape in ((b, k), (b, k, t, 6), (b, t, 2), (b, t)))
    raw[..., 0], valid = 0.0, valid > -0.5
    loss, of_logits, of_raw = recipe(logits, raw, x, valid)
    component = raw_components(EXACT, x[:, None], raw[..., 1:3], raw[..., 3:5], raw[..., 5])
    here = valid[:, None]
    weights = EXACT.exp(EXACT.real(logits))
    weights = weights / weights.sum(-1, keepdims=True)
    joint = weights * EXACT.exp((component.value.exact * here).sum(-1))
    shares = joint / joint.sum(-1, keepdims=True)
    derivatives = np.stack([derivative.exact * here for derivative in component.derivatives], -1)
    # errors of up to 8 eps of the terms of a step, of which the sum has some 1e3 in some 1e2 nats
    assert abs(loss + EXACT.log(joint.sum(-1)).mean()) <= 1e-12 * abs(loss)
    assert np.max(abs(of_logits - (weights - shares) / b)) <= 1e-12
    errors = abs(of_raw[..., 1:] + shares[..., None, None] * derivatives / b)
    assert np.max(errors) <= 1e-12 * np.max(abs(of_raw))
