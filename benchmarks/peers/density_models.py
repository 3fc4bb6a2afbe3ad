"""SciPy and scikit-learn: the log-density of one mixture at many points.

What depends on the mixture alone is prepared before, and not timed.
"""

import numpy as np
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture


def scipy(problem):
    """Freeze a distribution for each component; then logsumexp."""
    covariances = _covariances(problem)
    components = [
        multivariate_normal(mean, covariance) for mean, covariance in zip(problem.mean, covariances, strict=True)
    ]

    def call():
        return logsumexp([component.logpdf(problem.x) for component in components], axis=0, b=weights)

    weights = problem.weights[:, None, None]
    return call


def sklearn(problem):
    """Call GaussianMixture.score_samples of a model whose parameters are given, not fitted."""
    covariances = _covariances(problem)
    model = GaussianMixture(len(covariances), covariance_type="full")
    model.weights_, model.means_, model.covariances_ = problem.weights, problem.mean, covariances
    model.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(covariances))
    points = problem.x.reshape(-1, 2)
    return lambda: model.score_samples(points)


def _covariances(problem):
    s0, s1 = problem.stddev.T
    cross = problem.correlation * s0 * s1
    return np.stack([s0 * s0, cross, cross, s1 * s1], axis=-1).reshape(-1, 2, 2)
