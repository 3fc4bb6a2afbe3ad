"""PyTorch on the CPU: forward, then backward to the raw output; one thread."""

import math

import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

torch.set_num_threads(1)

LOG_2PI = math.log(2 * math.pi)


def eager(problem):
    """Operation by operation."""
    return _step(loss, problem)


def compiled(problem):
    """Do the same through torch.compile, specialised for this shape: its fastest form."""
    torch.compiler.reset()
    return _step(torch.compile(loss, dynamic=False), problem)


def distributions(problem):
    """Give the textbook answer: MixtureSameFamily of MultivariateNormal."""
    return _step(loss_by_distributions, problem)


def _step(function, problem):
    raw, x = map(torch.from_numpy, problem)
    raw = raw.clone().requires_grad_()

    def call():
        value = function(raw, x)
        (gradient,) = torch.autograd.grad(value, raw)
        return value.detach(), gradient

    return call


def loss(raw, x):
    """Mean negative log-density by log_softmax and logsumexp."""
    logits, mean0, mean1, log_s0, log_s1, a = raw.unflatten(-1, (6, -1)).unbind(-2)  # (n, m) each
    u, v = (x[:, :1] - mean0) * torch.exp(-log_s0), (x[:, 1:] - mean1) * torch.exp(-log_s1)
    r = torch.tanh(a)
    q = 1 - r * r
    log_normal = -LOG_2PI - log_s0 - log_s1 - 0.5 * (torch.log(q) + (u * u + v * v - 2 * r * u * v) / q)
    return -torch.logsumexp(torch.log_softmax(logits, dim=-1) + log_normal, dim=-1).mean()


def loss_by_distributions(raw, x):
    """Build the known Cholesky factors, so that none is computed; argument checks are off."""
    logits, mean0, mean1, log_s0, log_s1, a = raw.unflatten(-1, (6, -1)).unbind(-2)
    s0, s1, r = torch.exp(log_s0), torch.exp(log_s1), torch.tanh(a)
    factor = torch.stack([s0, torch.zeros_like(s0), r * s1, torch.sqrt(1 - r * r) * s1], dim=-1).unflatten(-1, (2, 2))
    mean = torch.stack([mean0, mean1], dim=-1)
    components = MultivariateNormal(mean, scale_tril=factor, validate_args=False)
    weights = Categorical(logits=logits, validate_args=False)
    return -MixtureSameFamily(weights, components, validate_args=False).log_prob(x).mean()
