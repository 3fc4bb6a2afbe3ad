"""Draws and fits against NumPy, torch.distributions and scikit-learn: `python benchmarks/distribution.py`.

Paired as in run.py, one thread. A peer that is not installed is left out. Draws cannot be compared one by one: the
peers' first two moments are checked against cymdn's before they are timed; fits, by the log-likelihood they reach.
"""

from collections.abc import Callable
from pathlib import Path

import one_thread

one_thread.pin()  # before anything imports NumPy

import machine
import numpy as np
from timing import Pair, paired

import cymdn

PAIRS = 11
M = 20
SAME_MOMENTS = 0.02  # of a standard deviation; with 2e5 draws and more, eight times what chance allows
SAME_LIKELIHOOD = 1e-8  # nats a point
RNG = np.random.default_rng(3)


def main() -> None:
    """Measure and print."""
    print("\n".join(machine.lines(machine.describe())))
    print(f"\n{'work':46} {'against':22} {'cymdn':>10} {'peer':>10} {'ratio':>8}  quartiles")
    for work, label, ours, theirs in [*steps(), *draws(), *fits()]:
        _print(work, label, paired(ours, theirs, PAIRS))


def _print(work: str, label: str, pair: Pair) -> None:
    times = f"{1e6 * pair.ours:8.1f}us {1e6 * pair.theirs:8.1f}us"
    print(f"{work:46} {label:22} {times} {pair.ratio:7.2f}x  {pair.low:.2f} to {pair.high:.2f}", flush=True)


def peers() -> list[tuple[str, Callable]]:
    """Return name and function (raw (n, 1 + 6 M), draws) -> points (draws, n, 2), pens."""
    found: list[tuple[str, Callable]] = [("NumPy", by_numpy)]
    try:
        import torch
    except ImportError:
        print("torch.distributions: not installed")
        return found
    torch.set_num_threads(1)
    return [*found, ("torch.distributions", by_torch)]


def steps():
    """Draw one autoregressive step, and batches of them, pen included."""
    rng = np.random.default_rng(0)
    for n in (1, 64, 6400):
        raw = rng.normal(size=(n, 1 + 6 * M)).astype(np.float32)
        for label, peer in peers():
            _same_moments(raw[:1], peer)
            yield f"mdn_sample float32, {n} rows, M = {M}, pen", label, _ours(raw, 1, rng), _theirs(peer, raw, 1)


def draws():
    """Draw a million points of one mixture."""
    rng = np.random.default_rng(1)
    raw = rng.normal(size=(1, 1 + 6 * M))
    for label, peer in peers():
        yield f"10^6 draws of one mixture, M = {M}", label, _ours(raw, 10**6, rng), _theirs(peer, raw, 10**6)


def _ours(raw, count, rng):
    return lambda: cymdn.mdn_sample(raw, pen=1, size=count, rng=rng)


def _theirs(peer, raw, count):
    return lambda: peer(raw, count)


def _same_moments(raw, peer) -> None:
    """Raise unless a peer draws from the same distribution."""
    count = 200_000
    ours, ends, _ = cymdn.mdn_sample(raw, pen=1, size=count, rng=2)
    theirs, their_ends = peer(raw, count)
    for a, b in zip(
        [*ours[:, 0].T, ends[:, 0]], [*np.asarray(theirs)[:, 0].T, np.asarray(their_ends)[:, 0]], strict=True
    ):
        spread = a.std()
        if abs(a.mean() - b.mean()) > SAME_MOMENTS * spread or abs(b.std() / spread - 1) > SAME_MOMENTS:
            raise RuntimeError(f"a peer draws from another distribution: {a.mean()}, {a.std()}; {b.mean()}, {b.std()}")


def by_numpy(raw, count, rng=RNG):
    """Use array operations: component by cumulative weights, point by the conditional form."""
    end = rng.random((count, len(raw))) < 1 / (1 + np.exp(-raw[:, 0]))
    logits, mean0, mean1, log_s0, log_s1, a = np.split(raw[:, 1:], 6, axis=1)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    cumulative = weights.cumsum(axis=1)
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


def by_torch(raw, count):
    """MixtureSameFamily of MultivariateNormal, argument checks off; the known Cholesky factors, so none is computed."""
    import torch
    from torch.distributions import Bernoulli, Categorical, MixtureSameFamily, MultivariateNormal

    raw = torch.from_numpy(raw)
    logits, mean0, mean1, log_s0, log_s1, a = raw[:, 1:].unflatten(-1, (6, -1)).unbind(-2)
    s0, s1, r = torch.exp(log_s0), torch.exp(log_s1), torch.tanh(a)
    factor = torch.stack([s0, torch.zeros_like(s0), r * s1, torch.sqrt(1 - r * r) * s1], dim=-1).unflatten(-1, (2, 2))
    components = MultivariateNormal(torch.stack([mean0, mean1], dim=-1), scale_tril=factor, validate_args=False)
    mixture = MixtureSameFamily(Categorical(logits=logits, validate_args=False), components, validate_args=False)
    end = Bernoulli(logits=raw[:, 0], validate_args=False)
    with torch.no_grad():
        return mixture.sample((count,)), end.sample((count,))


def fits():
    """Fit to the same answer."""
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError:
        print("scikit-learn: not installed")
        return
    table = Path(__file__).resolve().parents[1] / "examples" / "old_faithful.csv"
    geyser = np.loadtxt(table, delimiter=",", skiprows=1, usecols=(-2, -1))
    rng = np.random.default_rng(4)
    means = 6.0 * np.stack(np.meshgrid(np.arange(3), np.arange(3)), axis=-1).reshape(9, 2)
    large = cymdn.BivariateMixture(np.full(9, 1 / 9), means, np.ones((9, 2)), np.linspace(-0.8, 0.8, 9)).sample(
        100_000, rng
    )
    for name, points, m, starts in (("Old Faithful, 272 points", geyser, 2, 8), ("100,000 points", large, 9, 2)):

        def ours(points=points, m=m, starts=starts):
            return cymdn.BivariateMixture.fit(points, m, restarts=starts, rng=5)

        def theirs(points=points, m=m, starts=starts):
            # tol is the gain a point, as cymdn's; reg_covar is added to variances, in the units of the points
            model = GaussianMixture(m, tol=1e-10, reg_covar=1e-9, max_iter=2000, n_init=starts, random_state=5)
            return model.fit(points)

        reached, theirs_reached = ours().logpdf(points).mean(), theirs().score(points)
        if abs(reached - theirs_reached) > SAME_LIKELIHOOD:
            print(f"fit, {name}: cymdn reaches {reached:.9f} nats a point, scikit-learn {theirs_reached:.9f}")
        yield f"fit, {name}, M = {m}, {starts} starts", "scikit-learn", ours, theirs


if __name__ == "__main__":
    main()
