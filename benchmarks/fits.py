"""Compare fits with scikit-learn's with ten starts, set by set: mean log-density of the points, and CPU seconds.

    python benchmarks/fits.py [--seeds 10] [--workers 1] [WORD ...]

Each coordinate has variance 1, so that scikit-learn's reg_covar of 1e-6 is a floor of 1e-3 of the spread, the largest
default of cymdn. The best and the median seed of scikit-learn are shown, and the worst and the median of cymdn:
`worst - best` should not be below -0.001. Both run one after the other in one process and thread.
"""

import argparse
import itertools
import os
import time
import warnings
from pathlib import Path

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
from sklearn import datasets
from sklearn.mixture import GaussianMixture

import cymdn

TABLE = Path(__file__).resolve().parents[1] / "examples" / "old_faithful.csv"


def standardised(points):
    points = np.asarray(points, float)
    return np.ascontiguousarray((points - points.mean(axis=0)) / points.std(axis=0))


def sets():
    """Return the sets by name, each with its number of components."""
    geyser = np.loadtxt(TABLE, delimiter=",", skiprows=1)
    wine, cancer = datasets.load_wine().data, datasets.load_breast_cancer().data
    digits = datasets.load_digits().data
    digits = digits - digits.mean(axis=0)
    digits = digits @ np.linalg.svd(digits, full_matrices=False)[2][:2].T
    found = {
        "old faithful/2": (geyser, 2),
        "old faithful/4": (geyser, 4),
        "wine 9, 12/5": (wine[:, [9, 12]], 5),
        "cancer 0, 1/3": (cancer[:, :2], 3),
        "cancer 2, 6/6": (cancer[:, [2, 6]], 6),
        "digits/10": (digits, 10),
        "moons/8": (datasets.make_moons(3000, noise=0.06, random_state=5)[0], 8),
    }
    rng = np.random.default_rng(1)
    found["nested/3"] = np.concatenate([rng.normal(0, s, (n, 2)) for s, n in ((1, 1500), (0.15, 500), (6, 500))]), 3
    rng = np.random.default_rng(2)
    sticks = []
    for _ in range(6):
        t = rng.uniform(0, np.pi)
        turn = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
        sticks.append(rng.normal(size=(400, 2)) * [3, 0.1] @ turn.T + rng.uniform(-4, 4, 2))
    found["elongated/6"] = np.concatenate(sticks), 6
    rng = np.random.default_rng(3)
    counts, sizes = (5000, 2000, 1000, 500, 200, 100, 50, 30), (3, 2, 1, 0.5, 0.5, 0.3, 0.3, 0.2)
    blobs = [rng.normal(size=(n, 2)) * s + rng.uniform(-10, 10, 2) for n, s in zip(counts, sizes, strict=True)]
    found["unequal/8"] = np.concatenate(blobs), 8
    rng = np.random.default_rng(4)
    cells = [rng.normal(size=(100, 2)) * 0.25 + cell for cell in itertools.product(range(5), range(5))]
    found["grid/25"] = np.concatenate(cells), 25
    rng = np.random.default_rng(6)
    t = rng.uniform(0, 4 * np.pi, 4000)
    found["spiral/15"] = np.stack([t * np.cos(t), t * np.sin(t)], axis=-1) + rng.normal(0, 0.4, (4000, 2)), 15
    rng = np.random.default_rng(7)
    found["overlap/3"] = np.concatenate([rng.normal(size=(2000, 2)) + m for m in ((0, 0), (1.5, 0), (0, 1.5))]), 3
    found["one blob of 20,000/5"] = np.random.default_rng(8).normal(size=(20_000, 2)), 5
    found["one blob of 100,000/5"] = np.random.default_rng(9).normal(size=(100_000, 2)), 5
    iris = datasets.load_iris().data
    for (a, b), m in itertools.product(itertools.combinations(range(4), 2), (3, 4, 5)):
        found[f"iris {a}, {b}/{m}"] = iris[:, [a, b]], m
    for (a, b), m in itertools.product(((0, 1), (0, 6), (6, 9), (9, 12), (2, 11), (5, 10), (8, 12)), (3, 4, 5)):
        found[f"wine {a}, {b}/{m}"] = wine[:, [a, b]], m
    return {name: (standardised(points), m) for name, (points, m) in found.items()}


def timed(fit, score, seeds):
    """Return scores and CPU seconds of fits with each seed."""
    scores, seconds = [], []
    for seed in range(seeds):
        start = time.process_time()
        fitted = fit(seed)
        seconds.append(time.process_time() - start)
        scores.append(score(fitted))
    return np.array(scores), np.array(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="of the names of sets to go through")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--theirs", type=int, help="seeds of scikit-learn, if fewer")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)  # convergence warnings of scikit-learn
    head = f"{'set/M':24}{'n':>7} |{'best':>9}{'median':>9}{'s':>7} |{'worst':>9}{'median':>9}{'s':>7}"
    print(f"{head} | worst - best  time")
    for name, (points, m) in sets().items():
        if arguments.words and not any(word in name for word in arguments.words):
            continue
        theirs, their_seconds = timed(
            lambda seed, m=m, points=points: GaussianMixture(m, n_init=10, random_state=seed).fit(points),
            lambda fitted, points=points: fitted.score(points),
            arguments.theirs or arguments.seeds,
        )
        ours, our_seconds = timed(
            lambda seed, m=m, points=points: cymdn.fit_mixture(points, m, rng=seed),
            lambda fitted, points=points: fitted.mixture.logpdf(points).mean(),
            arguments.seeds,
        )
        print(
            f"{name:24}{len(points):7} |{theirs.max():9.4f}{np.median(theirs):9.4f}{their_seconds.mean():7.2f}"
            f" |{ours.min():9.4f}{np.median(ours):9.4f}{our_seconds.mean():7.2f}"
            f" |{ours.min() - theirs.max():+12.4f}{our_seconds.mean() / their_seconds.mean():7.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
