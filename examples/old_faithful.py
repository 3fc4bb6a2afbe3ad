"""Fit a mixture of two correlated Gaussians to the eruptions of Old Faithful by maximum likelihood.

    python -m pip install ".[demo]" && python examples/old_faithful.py

The table old_faithful.csv beside this file holds the length of 272 eruptions of the geyser and the waiting time until
the next one, both in minutes: A. Azzalini and A. W. Bowman, "A look at some data on the Old Faithful geyser", Applied
Statistics 39 (1990), 357-365.

SciPy's L-BFGS-B minimises the negative log-likelihood over unconstrained coordinates: mixture logits, means, logarithms
of standard deviations, inverse hyperbolic tangents of correlations. cymdn.mixture_logpdf_and_gradient gives the
log-likelihood and, in just these coordinates, its gradient. The fit is printed beside the known maximum and drawn into
a PNG.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax

from cymdn import mixture_logpdf, mixture_logpdf_and_gradient

TABLE = Path(__file__).with_name("old_faithful.csv")
COMPONENTS = 2

BLUES = ["#eef4fb", "#dbe8f5", "#c1d9ee", "#9cc3e3", "#74a9d4"]  # light enough for the points on top of them

# The known maximum, to the digits it is known to: printed beside the fit.
KNOWN_LOG_LIKELIHOOD = -1130.26396
KNOWN = {
    "weight": [0.35587289, 0.64412711],
    "mean eruption": [2.03638853, 4.28966204],
    "mean waiting": [54.47851715, 79.968116],
    "stddev eruption": [0.26299759, 0.41227218],
    "stddev waiting": [5.80493638, 6.00384868],
    "correlation": [0.28504142, 0.38000998],
}


def unpack(theta):
    """Split the vector of unconstrained coordinates into logits, means, log stddevs and atanh correlations."""
    logits, mean, log_stddev, atanh_correlation = np.split(theta, np.cumsum([1, 2, 2]) * COMPONENTS)
    return logits, mean.reshape(COMPONENTS, 2), log_stddev.reshape(COMPONENTS, 2), atanh_correlation


def mixture(theta):
    """Weights, means, standard deviations and correlations of the coordinates."""
    logits, mean, log_stddev, atanh_correlation = unpack(theta)
    return softmax(logits), mean, np.exp(log_stddev), np.tanh(atanh_correlation)


def negative_log_likelihood(theta, points):
    """Value and gradient, in the unconstrained coordinates."""
    # one mixture serves all points; the gradient has a row for each of them
    value, gradient = mixture_logpdf_and_gradient(points, *mixture(theta))
    parts = (gradient.logits, gradient.mean, gradient.log_stddev, gradient.atanh_correlation)
    return -value.sum(), -np.concatenate([part.sum(axis=0).ravel() for part in parts])


def starting_point(points):
    """Two round-ish components, left and right of the median of the eruptions."""
    short = points[:, 0] < np.median(points[:, 0])
    halves = [points[short], points[~short]]
    return np.concatenate(
        [
            np.zeros(COMPONENTS),
            np.ravel([half.mean(axis=0) for half in halves]),
            np.log(np.ravel([half.std(axis=0) for half in halves])),
            np.zeros(COMPONENTS),
        ]
    )


def fit(points):
    """Return the coordinates of the maximum and the log-likelihood there."""
    result = minimize(
        negative_log_likelihood,
        starting_point(points),
        args=(points,),
        jac=True,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-8, "maxiter": 1000},
    )
    return result.x, -result.fun, result.nfev


def report(theta, log_likelihood):
    """Print what was found beside what is known."""
    weights, mean, stddev, correlation = mixture(theta)
    found = {
        "weight": weights,
        "mean eruption": mean[:, 0],
        "mean waiting": mean[:, 1],
        "stddev eruption": stddev[:, 0],
        "stddev waiting": stddev[:, 1],
        "correlation": correlation,
    }
    print(f"log-likelihood {log_likelihood:.3f}   (known maximum {KNOWN_LOG_LIKELIHOOD:.3f})\n")
    print(f"{'':16}{'short eruptions':>24}{'long eruptions':>24}")
    print(f"{'':16}{'found':>12}{'known':>12}{'found':>12}{'known':>12}")
    for name, known in KNOWN.items():
        row = "".join(f"{found[name][j]:12.5f}{known[j]:12.5f}" for j in range(COMPONENTS))
        print(f"{name:16}{row}")


def draw(theta, points, path):
    """Draw the eruptions and, as contours, the fitted density."""
    eruptions = np.linspace(1.2, 5.6, 241)
    waiting = np.linspace(35.0, 101.0, 241)
    grid = np.stack(np.meshgrid(eruptions, waiting), axis=-1)  # (241, 241, 2)
    density = np.exp(mixture_logpdf(grid, *mixture(theta)))  # (241, 241)

    # contours that hold given shares of the probability: the density's values at those quantiles of the mass
    falling = np.sort(density.ravel())[::-1]
    mass = np.cumsum(falling) / falling.sum()
    shares = [0.99, 0.95, 0.8, 0.5, 0.2]
    levels = [falling[np.searchsorted(mass, share)] for share in shares]

    figure, axes = plt.subplots(figsize=(7.5, 5.5), layout="constrained")
    axes.contourf(*np.moveaxis(grid, -1, 0), density, levels=[*levels, density.max()], colors=BLUES)
    lines = axes.contour(*np.moveaxis(grid, -1, 0), density, levels=levels, colors="#1f4e79", linewidths=0.8)
    labels = {level: f"{share:.0%}" for level, share in zip(levels, shares, strict=True)}
    axes.clabel(lines, levels=levels[:3], fmt=labels, fontsize=8)
    axes.plot(*points.T, "o", color="#c0392b", markersize=3.5, markeredgewidth=0, alpha=0.75)
    axes.set_title("Old Faithful: 272 eruptions and the fitted mixture of two correlated Gaussians", fontsize=10.5)
    axes.set_xlabel("length of the eruption (minutes)")
    axes.set_ylabel("waiting time until the next one (minutes)")
    axes.text(
        0.985,
        0.02,
        "contours hold the stated share\nof the probability",
        transform=axes.transAxes,
        ha="right",
        va="bottom",
        fontsize=8.5,
        color="#1f4e79",
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=160)


def main():
    """Fit, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("old_faithful.png"), help="where to draw the picture")
    arguments = parser.parse_args()

    points = np.loadtxt(TABLE, delimiter=",", skiprows=1)  # (272, 2)
    theta, log_likelihood, evaluations = fit(points)
    print(f"{len(points)} eruptions, {evaluations} evaluations of the likelihood and its gradient")
    report(theta, log_likelihood)
    draw(theta, points, arguments.out)
    print(f"\npicture: {arguments.out}")


if __name__ == "__main__":
    main()
