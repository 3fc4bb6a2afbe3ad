"""Fit mixtures of correlated Gaussians to the eruptions of Old Faithful, choose their number, and use the result.

    python -m pip install ".[demo]" && python examples/old_faithful.py

The table old_faithful.csv in this folder has the lengths of 272 eruptions of the geyser and the waiting times until the
next one, in minutes: A. Azzalini and A. W. Bowman, "A look at some data on the Old Faithful geyser", Applied
Statistics 39 (1990), 357-365.

cymdn.fit_mixture fits one to five components; the Bayesian information criterion selects two. Their fit is printed next
to the known maximum, and plotted into a PNG: regions that hold given shares of the probability, and the waiting time
given the length of the eruption, which is regression by conditioning.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from cymdn import fit_mixture

TABLE = Path(__file__).with_name("old_faithful.csv")
MOST_COMPONENTS = 5

BLUES = ["#eef4fb", "#dbe8f5", "#c1d9ee", "#9cc3e3", "#74a9d4"]  # light, because points are drawn on top of them
SHARES = [0.99, 0.95, 0.8, 0.5, 0.2]
LOWER, MIDDLE, UPPER = 0.1, 0.5, 0.9  # quantiles of the waiting time

# The known maximum for two components, to all known digits: printed next to the fit.
KNOWN_LOG_LIKELIHOOD = -1130.26396
KNOWN = {
    "weight": [0.64412711, 0.35587289],
    "mean eruption": [4.28966204, 2.03638853],
    "mean waiting": [79.968116, 54.47851715],
    "stddev eruption": [0.41227218, 0.26299759],
    "stddev waiting": [6.00384868, 5.80493638],
    "correlation": [0.38000998, 0.28504142],
}


def choose(points):
    """Return the fits with each number of components, and the best: that with the lowest criterion."""
    fits = [fit_mixture(points, m, rng=0, tolerance=1e-9) for m in range(1, MOST_COMPONENTS + 1)]
    best = min(fits, key=lambda fit: fit.bic)
    return fits, best


def report(fits, best):
    """Print the fit next to the known maximum."""
    for fit in fits:
        m = fit.mixture.n_components
        print(
            f"{m} components: log-likelihood {fit.log_likelihood:9.3f}, BIC {fit.bic:8.2f}" + "  best" * (fit is best)
        )
    mixture = best.mixture
    found = {
        "weight": mixture.weights,
        "mean eruption": mixture.means[:, 0],
        "mean waiting": mixture.means[:, 1],
        "stddev eruption": mixture.stddevs[:, 0],
        "stddev waiting": mixture.stddevs[:, 1],
        "correlation": mixture.correlations,
    }
    print(f"\nlog-likelihood {best.log_likelihood:.3f}   (known maximum {KNOWN_LOG_LIKELIHOOD:.3f})\n")
    print(f"{'':16}{'long eruptions':>24}{'short eruptions':>24}")
    print(f"{'':16}{'found':>12}{'known':>12}{'found':>12}{'known':>12}")
    for name, known in KNOWN.items():
        row = "".join(f"{found[name][j]:12.5f}{known[j]:12.5f}" for j in range(2))
        print(f"{name:16}{row}")


def waiting_after(mixture, eruptions):
    """Return quantiles (3, n) and the mean (n) of the waiting time, given the length of the eruption."""
    given = [mixture.conditional(0, eruption) for eruption in eruptions]
    quantiles = np.array([np.ravel(one.ppf([LOWER, MIDDLE, UPPER])) for one in given])
    return quantiles.T, np.array([one.mean() for one in given])


def draw(mixture, points, path):
    """Plot the eruptions, regions of the fitted density, and the expected waiting time."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained", sharex=True, sharey=True)
    x, y = np.meshgrid(np.linspace(1.2, 5.6, 241), np.linspace(35.0, 101.0, 241))
    density = mixture.pdf(np.stack([x, y], axis=-1))  # (241, 241)
    levels = mixture.credible_level(SHARES)
    left.contourf(x, y, density, levels=[*levels, density.max()], colors=BLUES)
    lines = left.contour(x, y, density, levels=levels, colors="#1f4e79", linewidths=0.8)
    left.clabel(lines, levels=levels[:3], fmt=dict(zip(levels, map("{:.0%}".format, SHARES), strict=True)), fontsize=8)
    labels = mixture.predict(points)
    for component, color in enumerate(("#c0392b", "#d68910")):
        left.plot(*points[labels == component].T, "o", color=color, markersize=3.5, markeredgewidth=0, alpha=0.75)
    left.set_title("Regions that hold shares of the probability; labels", fontsize=10.5)

    eruptions = np.linspace(1.4, 5.4, 201)
    (lower, median, upper), mean = waiting_after(mixture, eruptions)
    right.plot(*points.T, "o", color="#c0392b", markersize=3.5, markeredgewidth=0, alpha=0.4)
    right.fill_between(eruptions, lower, upper, color="#9cc3e3", alpha=0.6, label="80 % of the waiting times")
    right.plot(eruptions, median, color="#1f4e79", label="median")
    right.plot(eruptions, mean, "--", color="#1f4e79", linewidth=1.0, label="mean")
    right.legend(fontsize=8.5, loc="lower right")
    right.set_title("The waiting time, given the length of the eruption", fontsize=10.5)

    left.set_ylabel("waiting time until the next one (minutes)")
    for axes in (left, right):
        axes.set_xlabel("length of the eruption (minutes)")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main():
    """Fit, choose, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("old_faithful.png"), help="where to draw the picture")
    arguments = parser.parse_args()

    points = np.loadtxt(TABLE, delimiter=",", skiprows=1)  # (272, 2)
    fits, best = choose(points)
    report(fits, best)
    draw(best.mixture, points, arguments.out)
    print(f"\npicture: {arguments.out}")


if __name__ == "__main__":
    main()
