"""Fits of mixtures to points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cymdn._arrays import FloatArray, check_count, check_numbers, without_underflow
from cymdn._distribution import BivariateMixture
from cymdn._estimation import Estimate, estimate, is_chunked
from cymdn._parameters import Parameters
from cymdn._sampling import Seed


class Fields(NamedTuple):
    """The fields of `MixtureFit`."""

    mixture: BivariateMixture
    background: float | NDArray[np.float64]
    converged: bool | NDArray[np.bool_]
    steps: int | NDArray[np.int64]
    log_likelihood: float | NDArray[np.float64]
    n_parameters: int
    stddev_floor: FloatArray


class MixtureFit(Fields):
    """A fitted mixture and a report on the fit: the named tuple that `fit_mixture` returns.

    Attributes
    ----------
    mixture : BivariateMixture
        The mixture. Its components are sorted by weight, the largest first.
    background : float
        Weight of the background, which has a constant density over the smallest box that holds all points. The density
        of the points is (1 - background) times that of the mixture, plus background / area of the box. 0.0 without a
        background.
    converged : bool
        True if the fit stopped because the likelihood no longer increased, False if it stopped after `max_steps`.
    steps : int
        Number of steps over all points: E steps of expectation-maximisation.
    log_likelihood : float
        Sum of the log-densities of all points, each times its weight. If a coordinate of a point is missing, it is the
        marginal log-density of the other one.
    n_parameters : int
        Number of free parameters.
    stddev_floor : ndarray, shape (2,)
        The floor that was used, in the units of the points; 0 with a known covariance.
    n_points : float
        Number of points, or the sum of their weights.

    See Also
    --------
    fit_mixture : Fits a mixture.

    Notes
    -----
    For a batch of fits all attributes except ``n_parameters`` are arrays of the batch's shape.

    Examples
    --------
    >>> import numpy as np
    >>> from cymdn import fit_mixture
    >>> rng = np.random.default_rng(0)
    >>> points = np.concatenate([rng.normal(0.0, 1.0, (300, 2)), rng.normal(8.0, 1.0, (100, 2))])
    >>> fits = [fit_mixture(points, m, rng=0) for m in range(1, 5)]
    >>> min(fits, key=lambda fit: fit.bic).mixture.n_components
    2
    """

    n_points: float | NDArray[np.float64]

    def _replace(self, **values: Any) -> MixtureFit:
        fit = super()._replace(**values)
        fit.n_points = self.n_points
        return fit

    __replace__ = _replace  # of copy.replace

    def __eq__(self, other: object) -> bool:
        """Whether all fields are equal."""
        if not isinstance(other, MixtureFit):
            return NotImplemented
        return (
            all(np.array_equal(mine, its) for mine, its in zip(self[1:], other[1:], strict=True))
            and self[0] == other[0]
        )

    def __hash__(self) -> int:
        return hash(self.mixture)

    @property
    def aic(self) -> float | NDArray[np.float64]:
        """Akaike's information criterion, 2 p - 2 log L for p parameters: the lower, the better."""
        return 2.0 * self.n_parameters - 2.0 * self.log_likelihood

    @property
    def bic(self) -> float | NDArray[np.float64]:
        """Bayesian information criterion, p log n - 2 log L for p parameters and n points: the lower, the better."""
        return self.n_parameters * np.log(self.n_points) - 2.0 * self.log_likelihood


@without_underflow
def fit_mixture(
    points: ArrayLike,
    n_components: int,
    *,
    covariance_type: str = "full",
    covariance: ArrayLike | None = None,
    init: BivariateMixture | None = None,
    background: bool = False,
    allow_missing: bool = False,
    sample_weight: ArrayLike | None = None,
    rng: Seed = None,
    stddev_floor: ArrayLike | None = None,
    restarts: int = 8,
    tolerance: float = 1e-2,
    max_steps: int = 1000,
    workers: int | None = None,
    callback: Callable[[int, float], object] | None = None,
) -> MixtureFit:
    r"""Fit a mixture to points by maximum likelihood.

    Parameters
    ----------
    points : array_like, shape (..., n, 2)
        Finite points, n >= `n_components`. Leading axes are a batch: a mixture is fitted to each set of n points. Also
        a Dask array of shape (n, 2), each chunk of which is processed where it is stored; the caller holds only a few
        thousand points.
    n_components : int
        Number M of components.
    covariance_type : {"full", "diag", "tied", "spherical"}, optional
        Covariance matrices without restriction, without correlations, equal for all components, or multiples of the
        unit matrix.
    covariance : array_like, shape (2, 2) or (M, 2, 2), optional
        Known covariance matrices, in the units of the points; only means and weights are fitted.
    init : BivariateMixture, optional
        A mixture of M components to start from, instead of a search: for points that arrive later, or for starting
        values of your own. For a batch of sets of points, one mixture or a batch of mixtures.
    background : bool, optional
        Whether some points may be from a uniform distribution over the smallest box that holds all of them.
    allow_missing : bool, optional
        Whether a NaN means that a coordinate of a point is missing (at random); otherwise it is an error. Points that
        lack both coordinates are ignored.
    sample_weight : array_like, shape (..., n) or (n,), optional
        Weights of the points, finite and >= 0, not all 0. A point of weight 0 is skipped, whatever it holds, and one of
        weight 2 counts as two points.
    rng : numpy.random.Generator or seed, optional
        For the search, as in `mdn_sample`. The same seed gives the same fit, for any number of workers.
    stddev_floor : float or array_like of shape (2,), optional
        A standard deviation in the units of the points, whose square is added to the variances of each component, as if
        every point were known with such an error. It keeps components from collapsing onto a point, where the
        likelihood is unbounded. For rounded points use the rounding step / sqrt(12). The default for each coordinate is
        a thousandth of the points' standard deviation, or of the width of the shortest interval that holds half a
        component's share of the points, if that is smaller. In the latter case it is the standard deviation of the
        rounding error, if that is larger and many points share their values. The result contains the floor.
    restarts : int, optional
        Number of starts of each search, at most a million; the best one is run to convergence.
    tolerance : float, optional
        The fit stops when five steps together increase the log-likelihood of all points by no more than this, in nats,
        for weights of mean 1.
    max_steps : int, optional
        Maximum number of steps over all points.
    workers : int, optional
        As in `mdn_loss`. Dask uses its own workers.
    callback : callable, optional
        Called as ``callback(step, log_likelihood)`` after each step over all points, including steps that are rejected
        afterwards; with `tqdm`, ``lambda *_: bar.update()``. An exception that it raises ends the fit. The
        log-likelihood is that of points with errors of the floor's size.

    Returns
    -------
    MixtureFit
        A named tuple of mixture, background, converged, steps, log_likelihood, n_parameters and stddev_floor, with
        attributes aic, bic and n_points.

    Raises
    ------
    TypeError, ValueError
        An argument is invalid; all points have the same value in a coordinate, and there is no `stddev_floor`, or there
        is a `background`; a coordinate is missing in all points; the points are so close to each other that a standard
        deviation would be below 2.23e-308.

    See Also
    --------
    BivariateMixture.fit : Returns only the mixture, and warns if the fit has not converged.

    Notes
    -----
    The search uses at most 4096 points. It runs k-means from starts by greedy k-means++ (Arthur & Vassilvitskii, SODA
    2007). Then it removes components that contribute little and splits those that fit badly, as long as the likelihood
    increases (Ueda et al., Neural Comput. 12, 2000); for few points it does so several times. The result is refined on
    all points by expectation-maximisation (Dempster, Laird & Rubin, J. R. Stat. Soc. B 39, 1977) with Anderson mixing
    that never decreases the likelihood. Sums are taken in each component's own coordinates, so that the accuracy does
    not depend on its size and place.

    The search does not look for components that have shrunk to the floor around less than a fraction 1 / (2 M) of the
    points, half a component's share, but a start may lead to one.

    The fit maximises the likelihood of points with errors of the floor's size, for which a component's density is exp
    of the expected log-density. For a small floor this is the likelihood itself. ``log_likelihood`` of the result is
    the likelihood itself for any floor.

    Examples
    --------
    >>> import numpy as np
    >>> from cymdn import fit_mixture
    >>> rng = np.random.default_rng(0)
    >>> points = np.concatenate([rng.normal(0.0, 1.0, (300, 2)), rng.normal(8.0, 1.0, (100, 2))])
    >>> fit = fit_mixture(points, 2, rng=0)
    >>> fit.mixture.weights.round(2), fit.converged
    (array([0.75, 0.25]), True)
    >>> points[::10, 1] = np.nan
    >>> fit_mixture(points, 2, covariance_type="spherical", allow_missing=True, rng=0).mixture.stddevs.round(1).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    components = check_count("n_components", n_components, 1)
    given: Any = points if is_chunked(points) else check_numbers("points", points)
    found = estimate(
        given,
        components,
        covariance_type=covariance_type,
        known=None if covariance is None else check_covariance(covariance, components),
        init=None if init is None else check_init(init, components, given.shape[:-2]),
        background=background,
        allow_missing=allow_missing,
        sample_weight=sample_weight,
        rng=rng,
        stddev_floor=stddev_floor,
        restarts=restarts,
        tolerance=tolerance,
        max_steps=max_steps,
        workers=workers,
        callback=callback,
    )
    return as_fit(found)


def check_covariance(covariance: ArrayLike, components: int) -> Parameters:
    """Return known covariance matrices, (2, 2) or (M, 2, 2), as parameters of M components, or of one."""
    try:
        given = check_numbers("covariance", covariance)
        if given.shape not in ((2, 2), (components, 2, 2)):
            raise ValueError(f"covariance: expected shape (2, 2) or ({components}, 2, 2), got {given.shape}")
        matrices = given.reshape(-1, 2, 2)
        count = len(matrices)
        mixture = BivariateMixture.from_covariances(np.full(count, 1.0 / count), np.zeros((count, 2)), matrices)
    except (TypeError, ValueError) as error:  # of another argument's name
        raise type(error)(str(error).replace("covariances:", "covariance:", 1)) from None
    return mixture._parameters


def check_init(init: object, components: int, batch: tuple[int, ...]) -> Parameters:
    """Return the parameters of a mixture to go on from."""
    if not isinstance(init, BivariateMixture):
        raise TypeError(f"init: expected a BivariateMixture, got {type(init).__name__}")
    if init.n_components != components:
        raise ValueError(f"init: expected n_components = {components} components, got {init.n_components}")
    if init.batch_shape not in ((), batch):
        raise ValueError(f"init: expected batch shape () or {batch}, that of the points; got {init.batch_shape}")
    return init._parameters


def as_fit(found: Estimate) -> MixtureFit:
    """Return an estimate as the user gets it: numbers for a single set of points, else arrays."""
    mixture = BivariateMixture._made_of(found.parameters, found.dtype)
    report: list[Any] = [found.background, found.converged, found.steps, found.log_likelihood, found.n_points]
    if not found.background.shape:
        report = [number.item() for number in report]
    background, converged, steps, log_likelihood, n_points = report
    fit = MixtureFit(mixture, background, converged, steps, log_likelihood, found.n_parameters, found.stddev_floor)
    fit.n_points = n_points
    return fit
