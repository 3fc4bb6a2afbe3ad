"""JAX on the CPU, compiled for the shape; one thread (see one_thread.py)."""

import functools
import math

import jax
import jax.numpy as jnp

from peers.plain_numpy import density_and_derivatives

jax.config.update("jax_enable_x64", True)  # without it, float64 input is computed in float32

LOG_2PI = math.log(2 * math.pi)


def density(problem):
    """Densities and derivatives of each component, from the same source as NumPy's."""
    return _blocking(jax.jit(functools.partial(density_and_derivatives, jnp)), problem)


def mdn(problem):
    """Mean loss and its gradient with respect to the raw output."""
    return _blocking(jax.jit(jax.value_and_grad(loss)), problem)


def _blocking(function, problem):
    arguments = jax.device_put(tuple(problem))
    return lambda: jax.block_until_ready(function(*arguments))  # JAX returns before it has computed


def loss(raw, x):
    """Mean negative log-density by log_softmax and logsumexp."""
    logits, mean0, mean1, log_s0, log_s1, a = jnp.moveaxis(raw.reshape(len(raw), 6, -1), 1, 0)  # (n, m) each
    u, v = (x[:, :1] - mean0) * jnp.exp(-log_s0), (x[:, 1:] - mean1) * jnp.exp(-log_s1)
    r = jnp.tanh(a)
    q = 1 - r * r
    log_normal = -LOG_2PI - log_s0 - log_s1 - 0.5 * (jnp.log(q) + (u * u + v * v - 2 * r * u * v) / q)
    return -jax.nn.logsumexp(jax.nn.log_softmax(logits) + log_normal, axis=-1).mean()
