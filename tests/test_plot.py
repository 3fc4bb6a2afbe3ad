"""BivariateMixture.plot: what it draws, where, and what it leaves alone."""

import sys

import numpy as np
import pytest
from checks import each_dtype
from problems import mixture

from cymdn import BivariateMixture, _plot


@pytest.fixture
def ax():
    """Axes of a figure that pyplot does not know, as in a web server."""
    pytest.importorskip("matplotlib", reason="plot needs matplotlib, which is not installed")
    from matplotlib.figure import Figure

    return Figure().add_subplot()


@pytest.fixture
def pyplot():
    matplotlib = pytest.importorskip("matplotlib", reason="plot needs matplotlib, which is not installed")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.close("all")  # what another test left open
    yield pyplot
    pyplot.close("all")


def test_it_returns_the_artists_that_it_put_on_the_axes(ax):
    from matplotlib.collections import EllipseCollection
    from matplotlib.contour import ContourSet

    contours, components = mixture().plot(ax)
    assert isinstance(contours, ContourSet)
    assert isinstance(components, EllipseCollection)
    assert contours.axes is ax
    assert components in ax.collections
    ax.figure.draw_without_rendering()


@pytest.mark.parametrize("mass", [(0.5, 0.9, 0.99), (0.9, 0.5), [0.25], 0.75, np.float32(0.5), (0.5, 0.5, 0.9)])
def test_contours_are_at_the_levels_of_their_masses(ax, mass):
    single = mixture()
    contours, _ = single.plot(ax, mass=mass)
    masses = np.unique(mass)
    np.testing.assert_array_equal(contours.levels, np.log(single.credible_level(masses[::-1])))
    entries = [text.get_text() for text in ax.get_legend().get_texts()]
    assert entries == [*(f"{100 * m:g} %" for m in masses), "components, one stddev"]


@pytest.mark.parametrize(
    ("means", "stddevs", "correlations"),
    [
        ([[0.0, 0.0], [3.0, 1.0]], [[1.0, 1.0], [0.5, 2.0]], [0.0, 0.9]),
        ([[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [0.9999, 0.9999]),  # a ridge
        ([[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [0.999, -0.999]),  # two that cross
        ([[0.0, 0.0], [300.0, 0.0]], [[1.0, 1.0], [0.5, 0.5]], [0.0, 0.0]),  # small peaks far apart
    ],
)
def test_contours_hold_their_masses(ax, means, stddevs, correlations):
    from matplotlib.path import Path

    single, masses = BivariateMixture([0.5, 0.5], means, stddevs, correlations), [0.5, 0.9, 0.99]
    contours, _ = single.plot(ax, mass=masses)
    x = single.sample(20_000, rng=0)
    for path, mass in zip(contours.get_paths(), masses[::-1], strict=True):
        crossed = sum(Path(part).contains_points(x).astype(int) for part in path.to_polygons(closed_only=False))
        assert abs((crossed % 2).mean() - mass) < 0.015  # three deviations of a mean are 0.011


def test_ellipses_are_of_one_standard_deviation(ax):
    means, stddevs = [[1.0, -2.0], [0.0, 3.0]], [[3.0, 0.5], [1.0, 2.0]]
    _, ellipses = BivariateMixture([0.75, 0.25], means, stddevs, [0.0, 0.6]).plot(ax)
    np.testing.assert_array_equal(ellipses.get_offsets(), means)
    for width, height, angle, (s0, s1), r in zip(
        ellipses.get_widths(), ellipses.get_heights(), ellipses.get_angles(), stddevs, [0.0, 0.6], strict=True
    ):
        turn = np.deg2rad(angle)
        turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        covariance = turned @ np.diag([(width / 2) ** 2, (height / 2) ** 2]) @ turned.T
        np.testing.assert_allclose(covariance, [[s0**2, r * s0 * s1], [r * s0 * s1, s1**2]], rtol=0, atol=1e-12)
    np.testing.assert_allclose(ellipses.get_alpha(), [1.0, 1 / 3], rtol=1e-12, atol=0)


@each_dtype
@pytest.mark.parametrize("m", [1, 20, 30])
def test_any_number_of_components_is_drawn_on_axes_that_are_given(ax, m, dtype, monkeypatch, pyplot):
    if m == 30:  # all of them light, as a thousand and one equal ones are
        monkeypatch.setattr(_plot, "LIGHTEST", 0.2)
    assert len(mixture(m, dtype=dtype).plot(ax).components.get_offsets()) == m
    assert pyplot.get_fignums() == []


def test_without_axes_it_draws_on_the_current_ones(pyplot):
    figure, axes = pyplot.subplots(1, 2)
    pyplot.sca(axes[0])
    contours, _ = mixture().plot()
    assert contours.axes is axes[0]
    assert pyplot.get_fignums() == [figure.number]


BETWEEN = r"mass: expected numbers between 0 and 1, got "
REFUSED = [
    ((0.5, 0.0), BETWEEN + r"0.0 at index \(1,\)$"),
    ((0.5, 1.5), BETWEEN + r"1.5 at index \(1,\)$"),
    (np.nan, BETWEEN + r"nan$"),
    ("half", r"mass: expected an array of real numbers"),
    (None, r"mass: expected an array of real numbers"),
    ([[0.5, 0.9]], r"mass: expected shape \(\) or \(n,\) with n >= 1, got \(1, 2\)$"),
    ([], r"mass: expected shape \(\) or \(n,\) with n >= 1, got \(0,\)$"),
]


@pytest.mark.parametrize(("mass", "pattern"), REFUSED)
def test_bad_masses_and_batches_are_refused(ax, mass, pattern):
    with pytest.raises((TypeError, ValueError), match=f"^{pattern}"):
        mixture().plot(ax, mass=mass)
    for batch in ((0,), (65,)):
        with pytest.raises(
            ValueError, match=r"^plot: expected a batch of 1 to 64 mixtures, got batch_shape \((0|65),\)"
        ):
            mixture(2, batch).plot()
    with pytest.raises(ValueError, match=r"^ax: expected 3 axes, one for each mixture, got 1$"):
        mixture(2, (3,)).plot(ax)


def test_what_are_no_axes_is_refused(pyplot):
    with pytest.raises(TypeError, match=r"^ax: expected axes of matplotlib, got Figure$"):
        mixture().plot(pyplot.figure())


def test_a_batch_is_drawn_as_panels(pyplot):
    panels = mixture(2, (5,)).plot()
    axes = pyplot.gcf().axes
    assert [panel.contours.axes for panel in panels] == axes[:5]
    assert [ax.get_title() for ax in axes] == ["0", "1", "2", "3", "4", ""]
    assert not axes[5].axison
    (legend,) = pyplot.gcf().legends
    assert len(legend.get_texts()) == 4
    _, given = pyplot.subplots(2, 1)
    panels = mixture(2, (2, 1)).plot(given)
    assert [panel.contours.axes for panel in panels] == list(given)
    assert given[1].get_title() == "(1, 0)"
    assert [ax.get_legend() is not None for ax in (*axes, *given)] == [False] * 6 + [True, False]


def test_without_matplotlib_the_error_says_what_to_do(monkeypatch):
    for name in ("matplotlib", "matplotlib.tri", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"^plot: needs matplotlib.*python -m pip install matplotlib"):
        mixture().plot()
