"""Mixtures and raw network output to ask things of: shared by the tests of BivariateMixture and of mdn_sample."""

import numpy as np

from cymdn import BivariateMixture


def parameters(m=3, batch=(), dtype=np.float64, seed=0):
    """Weights, means, stddevs, correlations of ordinary sizes: components that overlap and differ."""
    rng = np.random.default_rng(seed)
    weights = rng.exponential(size=(*batch, m)) + 0.1
    arrays = (
        weights / weights.sum(axis=-1, keepdims=True),
        2.0 * rng.normal(size=(*batch, m, 2)),
        np.exp(0.5 * rng.normal(size=(*batch, m, 2))),
        np.tanh(rng.normal(size=(*batch, m))),
    )
    return tuple(array.astype(dtype) for array in arrays)


def mixture(m=3, batch=(), dtype=np.float64, seed=0):
    return BivariateMixture(*parameters(m, batch, dtype, seed))


def network_output(m=3, batch=(), pens=0, dtype=np.float64, seed=0):
    """Raw output of ordinary sizes: pen logits, logits, means 0 and 1, log stddevs 0 and 1, atanh correlations."""
    rng = np.random.default_rng(seed)
    columns = [rng.normal(size=(*batch, pens)), rng.normal(size=(*batch, m)), 2.0 * rng.normal(size=(*batch, 2 * m))]
    columns += [0.5 * rng.normal(size=(*batch, 2 * m)), rng.normal(size=(*batch, m))]
    return np.concatenate(columns, axis=-1).astype(dtype)


def planes(raw, pens=0):
    """Logits, means 0 and 1, log stddevs 0 and 1, atanh correlations of raw output, each (..., M)."""
    m = (raw.shape[-1] - pens) // 6
    return [raw[..., pens + k * m : pens + (k + 1) * m] for k in range(6)]


def elements(batch):
    """The mixtures of a batch, or a single one, by their indices."""
    return {(): batch} if not batch.batch_shape else {index: batch[index] for index in np.ndindex(batch.batch_shape)}
