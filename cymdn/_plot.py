"""Plots with matplotlib, which is imported on demand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cymdn._quadrature import points_of

Axes: TypeAlias = Any  # of matplotlib, which need not be installed
Mixture: TypeAlias = Any  # a BivariateMixture; its module imports this one
Doubles = NDArray[np.float64]

GRID, HALVINGS = 64, 5  # cells along each axis of the plot; how often one may be halved: down to the size of a pixel
BEND = 0.04  # difference between the log-density at a cell's centre and the mean of its corners that is tolerated
RINGS, SPOKES = 12, 24  # points of a component, which reveal a ridge inside a cell
REACH = 4.0  # standard deviations around the means of components that the plot covers
LIGHTEST = 1e-3  # smallest weight, in units of the largest, of a component that affects the extent of the plot
MOST_PANELS = 64


class PlotArtists(NamedTuple):
    """The artists of a plot: contours of the credible regions, ellipses of the components."""

    contours: Any
    components: Any


def plot(mixture: Mixture, ax: Axes | None, mass: ArrayLike) -> PlotArtists | list[PlotArtists]:
    """Draw a mixture, or each mixture of a batch on its own axes."""
    try:
        import matplotlib.tri  # noqa: F401
    except ImportError as error:
        raise ImportError("plot: needs matplotlib, which is not installed: python -m pip install matplotlib") from error
    if not mixture.batch_shape:
        drawn, legend = _draw(mixture, _current() if ax is None else ax, mass)
        drawn.contours.axes.legend(*legend, fontsize="small")
        return drawn
    indices = list(np.ndindex(*mixture.batch_shape))
    if not 0 < len(indices) <= MOST_PANELS:
        raise ValueError(
            f"plot: expected a batch of 1 to {MOST_PANELS} mixtures, got batch_shape {mixture.batch_shape}; take some "
            "by their index"
        )
    panels = _panels(len(indices)) if ax is None else list(np.ravel(np.asarray(ax, object)))
    if len(panels) != len(indices):
        raise ValueError(f"ax: expected {len(indices)} axes, one for each mixture, got {len(panels)}")
    pairs = [_draw(mixture[index], panel, mass) for panel, index in zip(panels, indices, strict=True)]
    for panel, index in zip(panels, indices, strict=True):
        panel.set_title(str(index[0] if len(index) == 1 else index))
    _, legend = pairs[0]
    if ax is None:
        panels[0].figure.legend(*legend, fontsize="small", loc="outside lower center", ncols=2)
    else:
        panels[0].legend(*legend, fontsize="small")
    return [drawn for drawn, _ in pairs]


def _current() -> Axes:
    from matplotlib.pyplot import gca

    return gca()


def _panels(count: int) -> Sequence[Axes]:
    from matplotlib.pyplot import subplots

    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    _, axes = subplots(rows, columns, squeeze=False, figsize=(3.2 * columns, 3.2 * rows), layout="constrained")
    for unused in axes.flat[count:]:
        unused.set_axis_off()
    panels: list[Axes] = list(axes.flat[:count])
    return panels


def _draw(mixture: Mixture, axes: Axes, mass: ArrayLike) -> tuple[PlotArtists, tuple[list[Any], list[str]]]:
    """Draw a mixture; return its artists, and handles and labels of its legend."""
    from matplotlib.collections import EllipseCollection
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch
    from matplotlib.tri import Triangulation

    if not hasattr(axes, "tricontour"):
        raise TypeError(f"ax: expected axes of matplotlib, got {type(axes).__name__}")
    low, high = _extent(mixture)
    labels = _labels(mixture, mass)
    with np.errstate(divide="ignore"):
        levels = np.log(list(labels))
    points, value = _mesh(mixture, low, high, levels)
    # in units of the plot, for well-shaped triangles
    triangles = Triangulation(points[:, 0], points[:, 1]).triangles
    x0, x1 = (low + points * (high - low)).T
    shades = np.linspace(0.45, 1.0, len(levels))[:, None]
    contours = axes.tricontour(
        Triangulation(x0, x1, triangles),
        np.maximum(value, levels[0] - 50.0),
        levels=levels,
        colors=list(1.0 - shades * (1.0 - np.array(to_rgb("C0")))),
    )
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
    lines, _ = contours.legend_elements()
    handles = [*lines[::-1], Patch(facecolor="none", edgecolor="C3")]
    return PlotArtists(contours, components), (handles, [*list(labels.values())[::-1], "components, one stddev"])


def _labels(mixture: Mixture, mass: ArrayLike) -> dict[float, str]:
    """Return the label of each level, in ascending order; a level of several masses has one label."""
    levels = np.asarray(mixture.credible_level(mass), np.float64)
    if levels.ndim > 1 or not levels.size:
        raise ValueError(f"mass: expected shape () or (n,) with n >= 1, got {levels.shape}")
    pairs = zip(levels.reshape(-1).tolist(), np.reshape(mass, -1).tolist(), strict=True)
    return {level: f"{100 * m:g} %" for level, m in sorted(pairs)}


def _extent(mixture: Mixture) -> tuple[Doubles, Doubles]:
    """Return corners of a rectangle that holds all components of sufficient weight."""
    counts = mixture.weights >= LIGHTEST * mixture.weights.max()
    means, reach = (array[counts].astype(np.float64) for array in (mixture.means, REACH * mixture.stddevs))
    return (means - reach).min(axis=0), (means + reach).max(axis=0)


def _mesh(mixture: Mixture, low: Doubles, high: Doubles, levels: Doubles) -> tuple[Doubles, Doubles]:
    """Return points, in units of the plot, and their log-densities: a grid that is refined where a level bends.

    A cell is halved if a level passes through it and the log-density is not nearly linear there.
    """
    seeds = (_points_of_components(mixture) - low) / (high - low)
    seeds = seeds[((seeds >= 0.0) & (seeds < 1.0)).all(axis=-1)]
    heights = mixture.logpdf(low + seeds * (high - low))
    cells = np.stack(np.meshgrid(np.arange(GRID), np.arange(GRID)), axis=-1).reshape(-1, 2)
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.5, 0.5]])
    found = []
    for count in GRID * 2 ** np.arange(HALVINGS + 1):
        points = (cells[:, None] + corners) / count
        value = mixture.logpdf(low + points * (high - low))
        found.append((points.reshape(-1, 2), value.reshape(-1)))
        # known values in each cell: its corners, its centre, and the seeds in it
        least, most = value.min(axis=-1), value.max(axis=-1)
        bent = np.abs(value[:, 4] - value[:, :4].mean(axis=-1)) > BEND
        flat = np.array([count, 1])
        keys, order = cells @ flat, np.argsort(cells @ flat)
        key = np.floor(seeds * count).astype(np.int64) @ flat
        place = order[np.minimum(np.searchsorted(keys, key, sorter=order), len(keys) - 1)]
        held = keys[place] == key
        np.minimum.at(least, place[held], heights[held])
        np.maximum.at(most, place[held], heights[held])
        bent |= most > value.max(axis=-1) + BEND
        passed = ((least[:, None] < levels) & (levels <= most[:, None])).any(axis=-1)
        cells = (2 * cells[bent & passed][:, None] + corners[:4].astype(np.int64)).reshape(-1, 2)
        if not len(cells):
            break
    points, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
    points, first = np.unique(points, axis=0, return_index=True)
    return points, values[first]


def _points_of_components(mixture: Mixture) -> Doubles:
    """Return points (k, 2) in and around each component."""
    radius = REACH * np.arange(RINGS)[:, None] / RINGS
    angle = 2.0 * np.pi * (np.arange(SPOKES) + 0.5 * (np.arange(RINGS)[:, None] % 2)) / SPOKES
    n0, n1 = (radius * np.cos(angle)).reshape(-1), (radius * np.sin(angle)).reshape(-1)
    return points_of(mixture._parameters, n0, n1).reshape(-1, 2)


def _ellipses(covariances: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Return full widths, full heights and angles in degrees of ellipses of one standard deviation."""
    variances, axes = np.linalg.eigh(covariances)
    width, height = 2.0 * np.sqrt(np.maximum(variances, 0.0)).T
    return width, height, np.degrees(np.arctan2(axes[:, 1, 0], axes[:, 0, 0]))
