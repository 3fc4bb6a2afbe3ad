"""A report on a network that does not train: rows, components and gradients that are out of order."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cymdn._arrays import FLOAT32, Floor, Shape, check_floor, check_numbers
from cymdn._layout import planes
from cymdn._mdn import check_layout, check_weights, mdn_loss_and_gradient

COLLAPSED = 1e-3  # of the spread of x: a standard deviation that only repeated points ask for
SATURATED = (9.0, 18.0)  # atanh correlations at which 1 - r^2 is gone from float32 and from float64
DEAD = 1e-4  # largest weight in any row of a component that is of no use
GROUPS = ("logits", "mean", "log_stddev", "atanh_correlation")
ROUNDING = 1e-6  # of a pen, as in the kernels
FIRST = 3  # of a list, to be printed


class Rows(NamedTuple):
    """Rows of one kind: their number, and the index of the first of them, or None."""

    number: int
    first: Shape | None


class Collapse(NamedTuple):
    """A component that has collapsed onto a repeated point."""

    component: int
    point: tuple[float, float]
    rows: int
    stddevs: tuple[float, float]


class Diagnosis(NamedTuple):
    """What `cymdn.diagnose` found; print it. Rows of weight 0 are ignored.

    Attributes
    ----------
    rows, n_components : int
        Their numbers.
    loss : float
        Mean of the finite losses, in nats.
    nan, infinite, bad_pens : Rows
        Rows whose loss is NaN or inf, and rows with a pen outside [0, 1]: their number and the index of the first.
    spread : tuple of float
        Standard deviations of the two coordinates of x.
    smallest_stddevs, largest_stddevs : tuple of float
        Of all components, for each coordinate.
    collapsed : tuple of Collapse
        Components with less than a thousandth of the spread at a repeated point, sorted by number of rows.
    saturated : tuple of float
        Fractions of atanh correlations beyond 9 and beyond 18.
    dead : tuple of int
        Components whose weight is below 1e-4 in every row.
    effective_components : float
        Mean over rows of 1 / sum(weights^2).
    heaviest : tuple of tuple of int
        Indices of the rows with the largest finite losses, the largest first.
    heaviest_share : float
        Fraction of the sum of all losses above their median that is due to the largest hundredth of the rows.
    gradient_norms : dict of float
        Root mean square over the rows of the norm of the gradient with respect to each group of columns.
    """

    rows: int
    n_components: int
    loss: float
    nan: Rows
    infinite: Rows
    bad_pens: Rows
    spread: tuple[float, float]
    smallest_stddevs: tuple[float, float]
    largest_stddevs: tuple[float, float]
    collapsed: tuple[Collapse, ...]
    saturated: tuple[float, float]
    dead: tuple[int, ...]
    effective_components: float
    heaviest: tuple[Shape, ...]
    heaviest_share: float
    gradient_norms: dict[str, float]

    def __str__(self) -> str:
        """Return a readable report: a line for each number, and advice where one is out of order."""
        norms = ", ".join(f"{name} {norm:.2g}" for name, norm in self.gradient_norms.items())
        lines = [
            f"{self.rows} rows, {self.n_components} components, mean loss {self.loss:.4g} nats",
            f"stddevs {_pair(self.smallest_stddevs)} to {_pair(self.largest_stddevs)}; of x {_pair(self.spread)}",
            f"components in use: {self.effective_components:.1f} of {self.n_components} on average",
            f"gradient norms per row: {norms}",
            f"the heaviest 1 % of rows has {100 * self.heaviest_share:.0f} % of the loss above the median, the first "
            f"row {self.heaviest[0] if self.heaviest else None}",
        ]
        return "\n".join([*lines, *(f"- {finding}" for finding in self._findings())])

    def _findings(self) -> list[str]:
        """Return what is out of order, with what to do about it."""
        found = []
        for rows, what in (
            (self.nan, "loss NaN: look for NaN or inf in the input of the network, then for a step too long"),
            (self.infinite, "loss inf: points beyond reach of every component; check units, clip the gradient's norm"),
            (self.bad_pens, "a pen outside [0, 1]: clip the targets"),
        ):
            if rows.number:
                found.append(f"{rows.number} rows, the first {rows.first}: {what} (see Questions)")
        for collapse in self.collapsed[:FIRST]:
            found.append(
                f"component {collapse.component} has collapsed onto {_pair(collapse.point)}, stddevs "
                f"{_pair(collapse.stddevs)}, {collapse.rows} rows: set a stddev_floor (see Questions)"
            )
        if any(self.saturated):
            found.append(
                f"atanh correlations beyond 9: {self.saturated[0]:.2%}, beyond 18: {self.saturated[1]:.2%}: points on "
                "a line, or a learning rate too high (see Numerics)"
            )
        if self.dead:
            names = ", ".join(map(str, self.dead[:10])) + ", ..." * (len(self.dead) > 10)
            found.append(f"dead components {names}: use fewer, or spread the initial means over x (see Questions)")
        return found or ["nothing out of order"]


def diagnose(
    raw: ArrayLike,
    x: ArrayLike,
    pen: ArrayLike | None = None,
    *,
    sample_weight: ArrayLike | None = None,
    stddev_floor: Floor = None,
) -> Diagnosis:
    """Report what makes the loss NaN or keeps it from falling, from raw network output and its points.

    Parameters
    ----------
    raw, x, pen, sample_weight : array_like
        As in `mdn_loss`, or tensors of PyTorch on any device. Rows of weight 0 are ignored.
    stddev_floor : float or pair of floats, optional
        As in `mdn_loss`; the reported standard deviations include the floor.

    Returns
    -------
    Diagnosis
        Named tuple of numbers, which prints as a short report.

    Raises
    ------
    TypeError, ValueError
        As in `mdn_loss`; also if there is no row of a weight above 0.

    See Also
    --------
    mdn_loss : The loss.

    Notes
    -----
    It takes a few times as long as the loss with its gradient, and as much memory as `raw`.

    Examples
    --------
    Half of the points are equal, as those of a pen at rest, and one component has collapsed onto them:

    >>> import numpy as np
    >>> from cymdn import diagnose
    >>> x = np.random.default_rng(0).normal(size=(1000, 2))
    >>> x[::2] = 0.0
    >>> raw = np.zeros((1000, 12))
    >>> raw[:, [6, 8]] = -12.0  # log stddevs of component 0
    >>> print(diagnose(raw, x))
    1000 rows, 2 components, mean loss -8.95 nats
    stddevs (6.1e-06, 6.1e-06) to (1, 1); of x (0.72, 0.72)
    components in use: 2.0 of 2 on average
    gradient norms per row: logits 0.71, mean 1, log_stddev 1.8, atanh_correlation 0.71
    the heaviest 1 % of rows has 2 % of the loss above the median, the first row (239,)
    - component 0 has collapsed onto (0, 0), stddevs (6.1e-06, 6.1e-06), 500 rows: set a stddev_floor (see Questions)
    """
    raw_array, x_array = check_numbers("raw", _detached(raw)), check_numbers("x", _detached(x))
    target = None if pen is None else check_numbers("pen", _detached(pen))
    weight = None if sample_weight is None else check_numbers("sample_weight", _detached(sample_weight))
    pen_shape, weight_shape = (None if array is None else array.shape for array in (target, weight))
    batch_shape, pens, components = check_layout(raw_array.shape, x_array.shape, pen_shape, weight_shape)
    if weight is not None:
        check_weights("sample_weight", weight)
        raw_array, x_array = raw_array[weight > 0], x_array[weight > 0]
        target = None if target is None else target[weight > 0]
    floor = check_floor(stddev_floor)
    losses, gradient = mdn_loss_and_gradient(raw_array, x_array, target, stddev_floor=floor, reduction="none")
    if not losses.size:
        raise ValueError("raw: expected a row of a weight above 0, got none")
    index = None if weight is None else np.flatnonzero(weight)

    def at(row: int) -> Shape:
        return tuple(map(int, np.unravel_index(row if index is None else index[row], batch_shape)))

    def rows_where(condition: NDArray[Any]) -> Rows:
        number = int(np.count_nonzero(condition))
        return Rows(number, at(int(condition.argmax())) if number else None)

    loss = losses.reshape(-1)
    good = np.isfinite(loss)
    parts = [array.reshape(len(loss), -1) for array in (raw_array, x_array, gradient)]
    good_raw, good_x, good_gradient = parts if good.all() else [part[good] for part in parts]
    heaviest, share = _heaviest(np.where(good, loss, -np.inf), int(np.count_nonzero(good)))
    return Diagnosis(
        rows=len(loss),
        n_components=components,
        loss=float(loss.mean(dtype=np.float64, where=good)) if good.any() else np.nan,
        nan=rows_where(np.isnan(loss)),
        infinite=rows_where(loss == np.inf),
        bad_pens=rows_where(_outside(target, len(loss))),
        heaviest=tuple(map(at, heaviest)),
        heaviest_share=share,
        gradient_norms=_norms(good_gradient, pens),
        **_of_components(good_raw, good_x, good_gradient, pens, floor),
    )


def _outside(target: NDArray[Any] | None, rows: int) -> NDArray[np.bool_]:
    """Return which rows have a pen that is no probability."""
    if target is None:
        return np.zeros(rows, np.bool_)
    inside = (target >= -ROUNDING) & (target <= 1 + ROUNDING)
    return ~np.asarray(inside.reshape(rows, -1).all(-1))


def _of_components(
    raw: NDArray[Any], x: NDArray[Any], gradient: NDArray[Any], pens: int, floor: tuple[float, float]
) -> dict[str, Any]:
    """Return the fields that the components of rows with a finite loss decide."""
    if not len(raw):
        nothing, names = (np.nan, np.nan), ("spread", "smallest_stddevs", "largest_stddevs", "saturated")
        return {**dict.fromkeys(names, nothing), "collapsed": (), "dead": (), "effective_components": np.nan}
    spread = _pair_of(np.ascontiguousarray(x.T, np.float64).std(-1))
    # column by column, in one pass
    smallest, largest = (extreme[pens:].astype(np.float64) for extreme in (raw.min(0), raw.max(0)))
    logits, _, _, *log_stddevs, a = planes(raw[:, pens:])
    weights = _softmax(logits)
    with np.errstate(over="ignore", divide="ignore"):
        smallest_stddevs = _pair_of(np.hypot(np.exp([plane.min() for plane in planes(smallest)[3:5]]), floor))
        largest_stddevs = _pair_of(np.hypot(np.exp([plane.max() for plane in planes(largest)[3:5]]), floor))
        threshold = np.log(COLLAPSED) + np.log(spread)
        narrow = (np.log(smallest_stddevs) < threshold).any()
    collapsed: tuple[Collapse, ...] = ()
    if narrow:
        shares = weights - planes(gradient[:, pens:])[0]
        collapsed = _collapses(x, shares.argmax(-1), log_stddevs, threshold, floor)
    saturated = (0.0, 0.0)
    if max(-planes(smallest)[5].min(), planes(largest)[5].max()) > SATURATED[0]:
        saturated = _pair_of([np.mean(np.abs(a) > limit) for limit in SATURATED])
    return {
        "spread": spread,
        "smallest_stddevs": smallest_stddevs,
        "largest_stddevs": largest_stddevs,
        "collapsed": collapsed,
        "saturated": saturated,
        "dead": tuple(map(int, np.flatnonzero(weights.max(0) < DEAD))),
        "effective_components": float(np.mean(1 / np.einsum("nm,nm->n", weights, weights), dtype=np.float64)),
    }


def _softmax(logits: NDArray[Any]) -> NDArray[Any]:
    if logits.shape[-1] == 1:  # reductions over one number are NumPy's slowest
        return np.ones_like(logits)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    weights: NDArray[Any] = powers / powers.sum(-1, keepdims=True)
    return weights


def _heaviest(loss: NDArray[Any], finite: int) -> tuple[list[int], float]:
    """Return the rows of the largest losses, and the share of a hundredth of the rows in what is above the median."""
    if not finite:
        return [], 0.0
    hundredth, count = max(finite // 100, 1), min(max(finite // 100, FIRST), finite)
    middle = len(loss) - finite // 2 - 1
    order = np.argpartition(loss, (middle, len(loss) - count))
    top = order[-count:][np.argsort(-loss[order[-count:]], kind="stable")]
    above = loss[order[middle:]].astype(np.float64) - loss[order[middle]]
    total = float(above.sum())
    share = float((loss[top[:hundredth]].astype(np.float64) - loss[order[middle]]).sum())
    return [int(row) for row in top[:FIRST]], share / total if total else 0.0


def _collapses(
    x: NDArray[Any],
    leader: NDArray[Any],
    log_stddevs: list[NDArray[Any]],
    threshold: NDArray[Any],
    floor: tuple[float, float],
) -> tuple[Collapse, ...]:
    """Return the repeated points that their leading component answers with next to no stddev."""
    of_leader = np.stack([np.take_along_axis(log_s, leader[:, None], -1)[:, 0] for log_s in log_stddevs], -1)
    stddevs = np.hypot(np.exp(of_leader.astype(np.float64)), floor)
    with np.errstate(divide="ignore"):
        rows = np.flatnonzero((np.log(stddevs) < threshold).any(-1))
    places = np.column_stack([leader[rows], x[rows]])
    unique, first, counts = np.unique(places, axis=0, return_index=True, return_counts=True)
    order = [k for k in np.argsort(-counts, kind="stable") if counts[k] > 1]
    return tuple(
        Collapse(int(unique[k, 0]), _pair_of(unique[k, 1:]), int(counts[k]), _pair_of(stddevs[rows[first[k]]]))
        for k in order
    )


def _norms(gradient: NDArray[Any], pens: int) -> dict[str, float]:
    """Return the root mean square over rows of the norm of each group of columns."""
    with np.errstate(over="ignore"):
        squares = np.einsum("nm,nm->m", gradient, gradient, dtype=np.float64) / max(len(gradient), 1)
    groups = {"pen": squares[:pens]} if pens else {}
    logits, mean0, mean1, log_s0, log_s1, a = planes(squares[pens:])
    groups |= dict(zip(GROUPS, (logits, mean0 + mean1, log_s0 + log_s1, a), strict=True))
    return {name: float(np.sqrt(group.sum())) for name, group in groups.items()}


def _pair_of(numbers: Any) -> tuple[float, float]:
    first, second = map(float, numbers)
    return first, second


def _pair(numbers: tuple[float, float]) -> str:
    return f"({numbers[0]:.2g}, {numbers[1]:.2g})"


def _detached(value: Any) -> Any:
    """Return a tensor of PyTorch as one that NumPy takes, anything else as it is."""
    if not hasattr(value, "detach"):
        return value
    value = value.detach().cpu()
    return value.float() if value.dtype.itemsize < FLOAT32.itemsize and value.dtype.is_floating_point else value
