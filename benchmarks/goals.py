"""Measure the goals of speed and memory: one function for each group of rows, in the order of the printed table.

To measure another row, add it to a group, or add a group to `GROUPS`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import kernels
import measure
import numpy as np
import peers
import problems
import report
from measure import Bench, Pair
from peers import CATALOGUE, OURS

import cymdn

M = 20
SMALL, LARGE = 6400, 200_000


class Line(NamedTuple):
    """A line of the printed table."""

    row: str
    against: str
    measured: float | None = None
    goal: float | None = None
    at_most: bool = False
    unit: str = "x"
    seconds: float | None = None  # of a call of cymdn
    spread: tuple[float, float] | None = None  # quartiles of the measured values
    remark: str = ""

    @property
    def shown(self) -> str:
        """Return the measured value with its unit; a time relative to the other's is marked."""
        if self.measured is None:
            return ""
        return f"{self.measured:.3g}" + (f" {self.unit}" if self.unit != "x" else "x its time" if self.at_most else "x")

    @property
    def verdict(self) -> str:
        """Return whether the goal is reached, in words."""
        words = [self.remark] if self.remark else []
        if self.measured is None:
            return f"not measured: {self.remark}"
        if self.goal is not None:
            missing = self.measured / self.goal if self.at_most else self.goal / self.measured
            words.insert(0, "reached" if missing <= 1 else f"missed by {missing:.2f}x")
        return ", ".join(words)


def measure_all(bench: Bench) -> Iterator[Line]:
    """Yield the lines of the table as they are measured."""
    for group in GROUPS:
        yield from group(bench)


def _faster(row: str, against: str, pair: Pair, **goal) -> Line:
    """Return a line with the other's time over cymdn's."""
    return Line(row, against, pair.ratio, seconds=pair.ours, spread=(pair.low, pair.high), **goal)


def _its_time(row: str, against: str, pair: Pair, **goal) -> Line:
    """Return a line with cymdn's time over the other's."""
    spread = (1 / pair.high, 1 / pair.low)
    return Line(row, against, 1 / pair.ratio, at_most=True, seconds=pair.ours, spread=spread, **goal)


# Against a lower bound of a loss, and against itself


FIVE_EXP = {  # dtype, M, n: the goal for each kernel build
    ("float64", M, 640): {"v4": 2.1, "v3": 2.8},
    ("float64", M, SMALL): {"v4": 2.7, "v3": 3.6},
    ("float32", M, 640): {"v4": 3.4},
    ("float32", M, SMALL): {"v4": 4.3},
    ("float64", 1, SMALL): {"v4": 4.0},
}
SCALAR_EXP = "no goal without AVX-512, where NumPy's exp of float64 is scalar code"


def five_exp(bench: Bench) -> Iterator[Line]:
    """Compare with a lower bound: every loss needs five exponentials per component."""
    builds = kernels.builds()
    fair = report.vector_features() == "avx512f"
    for (dtype, m, n), goal in FIVE_EXP.items():
        for level in [kernels.in_use()] if bench.quick else builds:
            row = f"loss and gradient {dtype} M={m} n={n} {level}"
            if bench.wants(row, "five np.exp"):
                make = problems.mdn if m == 1 else problems.mdn_with_pen  # one component per row: no pen either
                ours = kernels.loss_and_gradient(make(n, m, dtype), builds[level])
                pair = bench.pair(ours, peers.five_exp(n, m, dtype), more=3)
                remark = SCALAR_EXP if dtype == "float64" and not fair else ""
                yield _its_time(row, "five np.exp", pair, goal=goal.get(level) if fair else None, remark=remark)


def loss_alone(bench: Bench) -> Iterator[Line]:
    """Compare the loss with the loss and its gradient."""
    for n in (640, SMALL):
        row = f"loss alone float64 n={n}"
        if bench.wants(row):
            problem = problems.mdn_with_pen(n, M, "float64")
            calls = kernels.loss(problem, cymdn), kernels.loss_and_gradient(problem, cymdn)
            yield _its_time(row, "loss and gradient", bench.pair(*calls, more=3), goal=0.75)


def long_batches(bench: Bench) -> Iterator[Line]:
    """Compare a batch that exceeds the caches with one that fits in them."""
    row = f"loss and gradient float64 n={LARGE}"
    if bench.wants(row):
        long, short = (kernels.loss_and_gradient(problems.mdn_with_pen(n, M, "float64"), cymdn) for n in (LARGE, 640))
        pair = bench.pair(long, lambda: [short() for _ in range(LARGE // 640)])  # 0.2 % fewer components
        yield _its_time(row, f"n=640, {LARGE // 640} times", pair, goal=1.2)


def one_row(bench: Bench) -> Iterator[Line]:
    """Time calls with one row, which consist mostly of overhead."""
    mdn = problems.mdn_with_pen(1, M, "float64")
    calls = {
        "drop-in": (peers.ours_density(problems.density(1, M, "float64")), 3.5),
        "loss and gradient": (peers.ours_mdn(mdn), 3.0),
        "step of mdn_sample": (peers.ours_sample(problems.sample(1, M, "float64")), 8.0),
    }
    for name, (call, goal) in calls.items():
        row = f"one row: {name}"
        if bench.wants(row):
            yield Line(row, "", measure.best(call) * 1e6, goal, at_most=True, unit="us")


def two_workers(bench: Bench) -> Iterator[Line]:
    """Compare two workers with one."""
    for work, n in (("density", LARGE), ("mdn", LARGE // 2), ("mdn", LARGE), ("grid", 512)):
        row = f"two workers: {work} n={n}"
        if bench.wants(row):
            if len(measure.CPUS) < 2:
                yield Line(row, "one worker", remark="one CPU")
                continue
            pair = bench.two_workers(OURS[work].prepare, work, (n, M, "float64"))
            busy = pair.our_cpus < 1.5
            remark = f"had {pair.our_cpus:.1f} CPUs" + ": no verdict on a busy machine" * busy
            yield _faster(row, "one worker", pair, goal=None if busy else 1.85, remark=remark)


# Against peers


def _against(bench: Bench, row: str, work: str, size: problems.Size, labels: list[str], goal: float | None = None):
    """Compare with each of the peers; the goal applies to the fastest of them."""
    if not bench.wants(row):
        return
    wanted = [label for label in labels if bench.wants(row, label)]
    found = {label: bench.compare(OURS[work], peers.find(work, label), work, size) for label in wanted}
    pairs = {label: pair for label, pair in found.items() if isinstance(pair, Pair)}
    fastest = min(pairs, key=lambda label: pairs[label].ratio, default=None)
    for label, pair in found.items():
        if isinstance(pair, Pair):
            yield _faster(row, label, pair, goal=goal if label == fastest else None)
        else:
            yield Line(row, label, remark=pair)


def against_peers(bench: Bench) -> Iterator[Line]:
    """Compare with common alternatives."""
    frameworks = [peers.TORCH, peers.TORCH_COMPILE, peers.JAX]
    small, small32, large = (SMALL, M, "float64"), (SMALL, M, "float32"), (LARGE, M, "float64")
    loss, drop_in = f"loss and gradient {{}} n={SMALL}", "drop-in float64 n={}"
    yield from _against(bench, loss.format("float64"), "mdn", small, frameworks, 5)
    yield from _against(bench, loss.format("float32"), "mdn", small32, frameworks, 2.2)
    yield from _against(bench, loss.format("float64"), "mdn", small, [peers.NUMBA], 5)
    yield from _against(bench, loss.format("float32"), "mdn", small32, [peers.NUMBA], 5)
    yield from _against(bench, drop_in.format(SMALL), "density", small, [peers.NUMPY], 12)
    yield from _against(bench, drop_in.format(SMALL), "density", small, [peers.NUMBA], 4)
    for line in _against(bench, drop_in.format(LARGE), "density", large, [peers.COPY]):
        low, high = line.spread
        yield line._replace(measured=1 / line.measured, spread=(1 / high, 1 / low), goal=1.2, at_most=True)
    grid = "one mixture on a grid of 512 x 512"
    yield from _against(bench, grid, "grid", (512, M, "float64"), [peers.SCIPY, peers.SKLEARN], 25)


def draws(bench: Bench) -> Iterator[Line]:
    """Compare sampling, which has no goal."""
    labels = [peer.label for peer in CATALOGUE["sample"]]
    for n in (1, SMALL):
        yield from _against(bench, f"mdn_sample float32 n={n}", "sample", (n, M, "float32"), labels)
    yield from _against(bench, "a million draws of one mixture", "draws", (10**6, M, "float64"), labels)


def fits(bench: Bench) -> Iterator[Line]:
    """Compare fits by likelihood and time, with default settings, except for ten starts of scikit-learn."""
    table = Path(__file__).resolve().parents[1] / "examples" / "old_faithful.csv"
    geyser = np.loadtxt(table, delimiter=",", skiprows=1, usecols=(-2, -1))
    means = 6.0 * np.stack(np.meshgrid(np.arange(3), np.arange(3)), axis=-1).reshape(9, 2)
    nine = cymdn.BivariateMixture(np.full(9, 1 / 9), means, np.ones((9, 2)), np.linspace(-0.8, 0.8, 9))
    for name, points, m in (("Old Faithful", geyser, 2), ("nine clusters", nine.sample(20_000, 4), 9)):
        row = f"fit {name} n={len(points)} M={m}"
        if not bench.wants(row, peers.SKLEARN):
            continue
        try:
            from sklearn.mixture import GaussianMixture
        except ImportError as error:
            yield Line(row, peers.SKLEARN, remark=bench.failed(peers.SKLEARN, error))
            continue
        ours = partial(cymdn.BivariateMixture.fit, points, m, rng=5)
        theirs = partial(GaussianMixture(m, n_init=10, random_state=5).fit, points)
        gain = ours().logpdf(points).mean() - theirs().score(points)
        remark = f"likelihood {gain:+.1e} nats per point" + " BELOW" * bool(gain < -1e-6)
        yield _its_time(row, f"{peers.SKLEARN}, n_init=10", bench.pair(ours, theirs), goal=1.0, remark=remark)


def probabilities(bench: Bench) -> Iterator[Line]:
    """Compare probabilities of rectangles with SciPy's distribution function, called for each component."""
    rng = np.random.default_rng(0)
    for m in (1, M):
        row = f"probability of 1000 rectangles M={m}"
        if not bench.wants(row, peers.SCIPY):
            continue
        try:
            from scipy.stats import multivariate_normal
        except ImportError as error:
            yield Line(row, peers.SCIPY, remark=bench.failed(peers.SCIPY, error))
            continue
        raw = rng.normal(size=6 * m)
        mixture = cymdn.BivariateMixture.from_network_output(raw)
        lower = mixture.sample(1000, rng) - 1.0
        frozen = [multivariate_normal(*each) for each in zip(mixture.means, mixture.covariances, strict=True)]
        theirs = partial(_weighted_cdf, mixture.weights, frozen, lower)
        pair = bench.pair(partial(mixture.probability, lower, lower + 2.0), theirs)
        yield _faster(row, f"{peers.SCIPY}, absolute accuracy", pair, goal=10.0)


def _weighted_cdf(weights, frozen, lower) -> np.ndarray:
    return sum(w * each.cdf(lower + 2.0, lower_limit=lower) for w, each in zip(weights, frozen, strict=True))


# Memory and import


def memory(bench: Bench) -> Iterator[Line]:
    """Measure memory, which should not grow with the batch, for any broadcasting."""
    for name, prepare in IN_MEMORY.items():
        row = f"memory: {name}"
        if bench.wants(row):
            yield Line(row, "inputs and outputs", measure.traced(prepare()), 1.0, at_most=True, unit="MiB")


def _mixture_logpdf(x, weights, mean, stddev, correlation) -> Callable:
    """Return a call for mixtures whose parameters have these batch axes, which broadcast."""
    rng = np.random.default_rng(0)
    parameters = (
        rng.dirichlet(np.ones(M), weights),
        rng.normal(size=(*mean, M, 2)),
        np.exp(0.3 * rng.normal(size=(*stddev, M, 2))),
        np.tanh(rng.normal(size=(*correlation, M))),
    )
    return partial(cymdn.mixture_logpdf, rng.normal(size=(*x, 2)), *parameters)


IN_MEMORY = {
    **{
        f"{work} n={n}": lambda work=work, n=n: OURS[work].prepare(problems.make(work, (n, M, "float64")))
        for work, n in (("density", LARGE), ("mdn", SMALL), ("mdn", LARGE), ("grid", 512))
    },
    "a mean a row, the rest shared, n=50000": lambda: _mixture_logpdf((50_000,), (), (50_000,), (), ()),
    "means 200 x 1, weights 1 x 250": lambda: _mixture_logpdf((200, 1), (1, 250), (200, 1), (), (1, 1)),
}


def importing(bench: Bench) -> Iterator[Line]:
    """Time the import."""
    if bench.wants("import cymdn"):
        extra = measure.importing(2 * bench.pairs)
        yield Line("import cymdn", "after numpy", extra * 1e3, 15.0, at_most=True, unit="ms")


GROUPS = (
    five_exp,
    loss_alone,
    long_batches,
    against_peers,
    one_row,
    two_workers,
    memory,
    importing,
    draws,
    fits,
    probabilities,
)
