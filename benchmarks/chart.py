"""Draw the time per component over the number of rows, one line for each implementation.

`python benchmarks/chart.py RESULTS.json PATH.png` draws it from stored results, and prints the table of
docs/performance.md.
"""

import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import peers
import report
from matplotlib.axes import Axes
from matplotlib.figure import Figure

M, DTYPE = 20, "float64"

PANELS = {
    "density": "gaussian_density_batch, with derivatives",
    "mdn": "mdn_loss_and_gradient",
}
INK, PALE = "#22272e", "#8a929c"
OURS = "#d6304f"
COLOURS = {
    peers.NUMPY: "#3f6fb5",
    peers.NUMBA: "#2a9d8f",
    peers.JAX: "#8e5bb5",
    peers.TORCH: "#e08a2c",
    peers.TORCH_COMPILE: "#a9713a",
    peers.TORCH_DISTRIBUTIONS: "#c9a227",
    peers.COPY: PALE,
}
SHOWN = ("cymdn", "numpy", "numba", "torch", "jax")  # libraries in the chart
LABEL_HEIGHT = 0.043  # of the axes: the least distance between the centres of two labels

Series = dict[str, dict[str, tuple[list[int], list[float]]]]  # work -> label -> n, nanoseconds per component


def series(cases: Sequence[Sequence]) -> Series:
    """Select the cases of the sweep that the chart shows."""
    found: Series = {work: {} for work in PANELS}
    cells = [cell for cells in cases for cell in cells if (cell.m, cell.dtype) == (M, DTYPE) and cell.work in PANELS]
    for cell in sorted(cells, key=lambda cell: cell.n):
        sizes, times = found[cell.work].setdefault(cell.label, ([], []))
        sizes.append(cell.n)
        times.append(cell.seconds / (cell.n * cell.m) * 1e9)
    return found


def draw(found: Series, facts: dict, path: Path) -> None:
    """Draw both functions side by side and write a PNG."""
    if not any(found.values()):
        raise SystemExit(f"nothing to draw: no case of the sweep with M={M} and {DTYPE} was measured")
    mpl.use("Agg")
    with mpl.rc_context({"font.size": 10, "text.color": INK, "axes.labelcolor": INK, "font.family": "sans-serif"}):
        figure = Figure(figsize=(12.0, 6.0), dpi=160, facecolor="white")
        panels = figure.subplots(1, len(PANELS), sharey=True)
        figure.subplots_adjust(left=0.062, right=0.845, top=0.80, bottom=0.175, wspace=0.40)
        for axes, work in zip(panels, PANELS, strict=True):
            _panel(axes, work, found[work])
        for axes, work in zip(panels, PANELS, strict=True):
            _label_ends(axes, found[work])  # when the limits, which the panels share, are known
        _words(figure, panels[0], facts)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def _panel(axes: Axes, work: str, lines: dict[str, tuple[list[int], list[float]]]) -> None:
    for label, (sizes, times) in lines.items():
        style = {"color": COLOURS.get(label, PALE), "lw": 1.5, "ms": 3.5, "alpha": 0.9, "zorder": 3}
        if label == "cymdn":
            style = {"color": OURS, "lw": 3.2, "ms": 6.5, "alpha": 1.0, "zorder": 5}
        if label == peers.COPY:
            style |= {"ls": (0, (3, 2)), "marker": ""}
        axes.plot(sizes, times, **({"marker": "o", "markeredgewidth": 0} | style), solid_capstyle="round")
    axes.set(xscale="log", yscale="log", xlabel="rows n")
    axes.set_title(PANELS[work], loc="left", fontsize=11, fontweight="bold", family="monospace", pad=10)
    axes.xaxis.set_major_locator(mpl.ticker.LogLocator(10))
    axes.xaxis.set_major_formatter(_plain)
    axes.yaxis.set_major_formatter(_plain)
    axes.minorticks_off()
    axes.grid(axis="y", color="#e6e9ed", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#c4cad1")
    axes.tick_params(colors="#59626d", length=0, labelsize=9.5)


def _label_ends(axes: Axes, lines: dict[str, tuple[list[int], list[float]]]) -> None:
    """Write each line's name at its right end, in its colour; names that would overlap move apart."""
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = {label: to_axes.transform((sizes[-1], times[-1])) for label, (sizes, times) in lines.items()}
    order = sorted(ends, key=lambda label: ends[label][1])
    heights = spread([ends[label][1] for label in order], LABEL_HEIGHT)
    for label, height in zip(order, heights, strict=True):
        ours = label == "cymdn"
        x, y = ends[label]
        leader = {"color": "#c4cad1", "lw": 0.7, "transform": axes.transAxes, "clip_on": False, "zorder": 1}
        axes.plot([x + 0.012, 1.0, 1.012], [y, height, height], **leader)
        axes.text(
            1.022,
            height,
            f"{label}  {_plain(lines[label][1][-1])}" + " ns" * ours,
            color=OURS if ours else COLOURS.get(label, PALE),
            fontsize=12 if ours else 9.5,
            fontweight="bold" if ours else "normal",
            va="center",
            transform=axes.transAxes,
        )


def spread(heights: Sequence[float], distance: float) -> list[float]:
    """Move sorted heights apart to at least `distance`, by as little as possible.

    Least squares with a fixed order: neighbours that touch form a block, which keeps the mean of its members.
    """
    blocks: list[tuple[float, int]] = []  # sum of the members' heights, each minus its offset; their number
    for k, height in enumerate(heights):
        blocks.append((height - k * distance, 1))
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            (a, m), (b, n) = blocks.pop(-2), blocks.pop()
            blocks.append((a + b, m + n))
    shifted = [total / count for total, count in blocks for _ in range(count)]
    return [height + k * distance for k, height in enumerate(shifted)]


def _words(figure: Figure, first: Axes, facts: dict) -> None:
    left = 0.03
    figure.text(left, 0.935, "Nanoseconds per component", fontsize=17, fontweight="bold")
    figure.text(
        left,
        0.89,
        f"one thread, {DTYPE}, M = {M} components a row; both axes logarithmic; numbers: the last point of each line",
        fontsize=10.5,
        color="#59626d",
    )
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items() if number and name in SHOWN)
    machine = f"{facts['processor']} ({facts['vector']}), {facts['system']}, Python {facts['python']}, {versions}"
    small = textwrap.fill(f"{machine}. {facts['date']}. Medians, by benchmarks/run.py", 175)
    figure.text(left, 0.035, small, fontsize=8.5, color=PALE, va="bottom", linespacing=1.5)


def _plain(number: float, _: object = None) -> str:
    """At most three digits, thousands as k."""
    if number >= 1000:
        return f"{number / 1000:.3g}k"
    return f"{number:.2g}" if number < 100 else f"{np.round(number):.0f}"


if __name__ == "__main__":
    from types import SimpleNamespace

    record = json.loads(Path(sys.argv[1]).read_text())
    cells = [[SimpleNamespace(**cell) for cell in cells] for cells in record["sweep"]]
    draw(series(cells), record["machine"], Path(sys.argv[2]))
    print("\n".join(report.readme(cells)))
