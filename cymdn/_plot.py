"""Drawing, by matplotlib: imported on demand."""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Axes: TypeAlias = Any  # of matplotlib, which need not be installed
Mixture: TypeAlias = Any  # a BivariateMixture; its module imports this one
Doubles = NDArray[np.float64]

GRID = 256  # points along each axis
REACH = 4.0  # standard deviations around the means of components that the grid covers
LIGHTEST = 1e-3  # weight, in units of the largest, from which on a component counts for the extent of the grid


class PlotArtists(NamedTuple):
    """What was drawn: contours of equal mass, ellipses of the components."""

    contours: Any
    components: Any


def plot(mixture: Mixture, ax: Axes | None, mass: ArrayLike) -> PlotArtists:
    """Draw a single mixture."""
    try:
        from matplotlib.collections import EllipseCollection
        from matplotlib.pyplot import gca
    except ImportError as error:
        raise ImportError("plot: needs matplotlib, which is not installed: python -m pip install matplotlib") from error
    labels = _labels(mixture, mass)
    axes = gca() if ax is None else ax
    x0, x1 = _grid(mixture)
    density = mixture.pdf(np.stack(np.meshgrid(x0, x1), axis=-1))
    contours = axes.contour(x0, x1, density, levels=list(labels), colors="C0")
    axes.clabel(contours, fmt=labels)
    components = EllipseCollection(
        *_ellipses(mixture.covariances.astype(np.float64)),
        units="xy",
        offsets=mixture.means,
        offset_transform=axes.transData,
        facecolors="none",
        edgecolors="C3",
        alpha=np.clip(mixture.weights / mixture.weights.max(), 0.1, 1.0),
    )
    axes.add_collection(components)
    return PlotArtists(contours, components)


def _labels(mixture: Mixture, mass: ArrayLike) -> dict[float, str]:
    """Return what to write on each level, in ascending order; a level of several masses has one."""
    levels = np.asarray(mixture.credible_level(mass), np.float64)
    if levels.ndim > 1:
        raise ValueError(f"mass: expected shape () or (n,), got {levels.shape}")
    pairs = zip(levels.reshape(-1).tolist(), np.reshape(mass, -1).tolist(), strict=True)
    return {level: f"{100 * m:g} %" for level, m in sorted(pairs)}


def _grid(mixture: Mixture) -> Doubles:
    """Return coordinates (2, GRID) that span all components of some weight."""
    counts = mixture.weights >= LIGHTEST * mixture.weights.max()
    means, reach = mixture.means[counts], REACH * mixture.stddevs[counts]
    grid: Doubles = np.linspace((means - reach).min(axis=0), (means + reach).max(axis=0), GRID, axis=-1)
    return grid


def _ellipses(covariances: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Return full widths, full heights and angles in degrees of ellipses of one standard deviation."""
    variances, axes = np.linalg.eigh(covariances)
    width, height = 2.0 * np.sqrt(np.maximum(variances, 0.0)).T
    return width, height, np.degrees(np.arctan2(axes[:, 1, 0], axes[:, 0, 0]))
