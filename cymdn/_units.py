"""The units of a fit, its floor, and mixtures in these units: from the user's numbers to those of the kernels."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cymdn._parameters import Parameters
from cymdn._points import COVARIANCE_TYPES, SMALLEST, Doubles, Summary, Units
from cymdn._search import components

FLOOR = 1e-3  # relative to the smallest size of a component
TIED = 0.1  # share of points that repeat a coordinate, above which it is taken as rounded
SAME = 1e-9  # of the spread: smaller differences are rounding errors
FARTHEST = 1e60  # largest offset of an initial mean from the points
BACKGROUND = 0.05  # initial weight of the background


Callback = Callable[[int, float], object]


class Options(NamedTuple):
    """The options of a fit, checked."""

    components: int
    covariance_type: int
    known: Parameters | None
    init: Parameters | None
    background: bool
    floor: Doubles | None
    restarts: int
    tolerance: float
    most: int
    workers: int
    callback: Callback | None


def measure(summary: Summary, sample: Doubles, options: Options, which: str) -> tuple[Units, Doubles]:
    """Return units in which the points have size 1, and the floor in the user's units."""
    given = np.zeros(2) if options.floor is None else options.floor
    _, size = np.frexp(np.maximum(summary.largest, given))
    points, weight = np.ldexp(sample[:, :2], -size), np.ldexp(sample[:, 2], -summary.weight)
    center, spread = np.zeros(2), np.zeros(2)
    for axis in range(2):
        known = ~np.isnan(points[:, axis])
        values, share = points[known, axis], weight[known]
        if not len(values):
            raise ValueError(f"points: expected some whose coordinate {axis} is not missing, got none{which}")
        if summary.low[axis] == summary.high[axis]:
            center[axis] = values[0]
            if options.floor is None and options.known is None:
                raise ValueError(
                    f"stddev_floor: expected a value, because all points agree in coordinate {axis}; got None{which}"
                )
        else:
            center[axis] = share @ values / share.sum()
            offset = values - center[axis]
            largest = np.abs(offset).max() or np.ldexp(summary.high - summary.low, -size)[axis]
            # squares of the offsets themselves may be 0
            if largest > 0:  # not 0 after scaling by a huge floor
                spread[axis] = largest * max(np.sqrt(share @ (offset / largest) ** 2 / share.sum()), SMALLEST)
    if options.floor is None:
        floor = np.zeros(2) if options.known else default_floor(points, spread, options.components)
    else:
        floor = np.ldexp(options.floor, -size)
    _, scale = np.frexp(np.maximum(np.maximum(spread, floor), SMALLEST))
    if options.covariance_type == COVARIANCE_TYPES.index("spherical"):
        if options.floor is None:
            floor[:] = np.ldexp(floor, size).min()
            floor = np.ldexp(floor, -size)
        together = (size + scale).max()
        scale = together - size
    used = np.ldexp(floor, size) if options.floor is None else options.floor
    return Units(size, center, scale, summary.weight), used


def default_floor(points: Doubles, spread: Doubles, count: int) -> Doubles:
    """Return the default floor of points: small relative to the smallest plausible component.

    This is a thousandth of the points' spread, or of the width of the shortest interval that holds half a component's
    share of the points if that is smaller: clusters may be small and far apart, and one distant point must not matter.
    For rounded values, the standard deviation of the rounding error is a floor, too.
    """
    floor = np.empty(2)
    for axis in range(2):
        values = np.sort(points[~np.isnan(points[:, axis]), axis])
        held = max(len(values) // (2 * count), 1)
        widths = values[held:] - values[:-held]
        steps = np.diff(values)
        steps = steps[steps > SAME * spread[axis]]
        shortest = FLOOR * widths[widths > 0].min(initial=spread[axis])
        rounded = len(steps) + 1 < (1.0 - TIED) * len(values)
        step = steps.min() / np.sqrt(12.0) if rounded and len(steps) else 0.0
        floor[axis] = min(FLOOR * spread[axis], max(shortest, step))
    return floor


def settings(summary: Summary, units: Units, floor: Doubles, background: bool, which: str) -> Doubles:
    """Return the floors, and the log-densities of a background over the box that holds all points, in these units."""
    numbers = np.zeros(5)
    low, high = (np.ldexp(np.ldexp(end, -units.size), -units.scale) for end in (summary.low, summary.high))
    if background:
        for axis in range(2):
            if not high[axis] > low[axis]:
                raise ValueError(
                    f"background: expected False, because all points agree in coordinate {axis}; got True{which}"
                )
        numbers[3:] = -np.log(high - low)
        numbers[2] = numbers[3] + numbers[4]
    numbers[:2] = np.where(floor > 0, np.maximum(units.of_lengths(floor), SMALLEST), 0.0)
    return numbers


def spread_out(options: Options, units: Units) -> Doubles:
    """Return an estimate of components at the centre, as wide as the points or of known covariance."""
    found = np.zeros(6 * options.components + 1)
    each = components(found)
    each[:, 3] = each[:, 5] = 1.0
    if options.known is not None:
        each[:, 3:] = factors(options.known, options.components, units)
        if not (np.abs(np.log(each[:, [3, 5]])) < -np.log(SMALLEST)).all():
            raise ValueError("covariance: expected matrices of the size of the points, to a factor of 1e70")
    found[-1] = BACKGROUND * options.background
    each[:, 0] = (1.0 - found[-1]) / options.components
    return found


def to_estimate(init: Parameters, options: Options, units: Units) -> Doubles:
    """Return a mixture as an estimate, with covariance matrices of the requested type."""
    found = spread_out(options, units)
    each = components(found)
    each[:, 0] *= options.components * init.weights()
    each[:, 1:3] = np.clip(units.of_points(init.means()), -FARTHEST, FARTHEST)
    if options.known is None:
        each[:, 3:] = factors(init, options.components, units)
        each[:, 3:] = np.clip(each[:, 3:], [SMALLEST, -1.0 / SMALLEST, SMALLEST], 1.0 / SMALLEST)
        constrain(each, options.covariance_type)
    return found


def factors(parameters: Parameters, count: int, units: Units) -> Doubles:
    """Return l00, l10 and l11 of the components, (M, 3)."""
    stddevs = units.of_lengths(parameters.stddevs())
    l10, l11 = stddevs[:, 1] * parameters.correlations(), stddevs[:, 1] * np.exp(-parameters.log_kappa())
    return np.broadcast_to(np.stack([stddevs[:, 0], l10, l11], axis=-1), (count, 3))


def constrain(each: Doubles, covariance_type: int) -> None:
    """Constrain covariance matrices to a type, in place."""
    name = COVARIANCE_TYPES[covariance_type]
    if name == "full":
        return
    l00, l10, l11 = each[:, 3:].T
    v00, v01, v11 = l00**2, l00 * l10, l10**2 + l11**2
    if name == "tied":
        v00, v01, v11 = (np.full_like(v, each[:, 0] @ v / each[:, 0].sum()) for v in (v00, v01, v11))
    else:
        v01 = np.zeros_like(v01)
    if name == "spherical":
        v00 = v11 = 0.5 * (v00 + v11)
    each[:, 3] = np.sqrt(v00)
    each[:, 4] = v01 / each[:, 3]
    each[:, 5] = np.sqrt(v11 - each[:, 4] ** 2)


def log_jacobian(summary: Summary, units: Units) -> float:
    """Return the weighted log-likelihood in these units minus that in the user's units."""
    first, second = np.log(2.0) * (units.size + units.scale)
    return float(summary.masses @ [first + second, first, second])
