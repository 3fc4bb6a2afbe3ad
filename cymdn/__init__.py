"""Mixtures of correlated 2-D Gaussians and every derivative of them, compiled.

The loss of a mixture density network, from its raw output:

    mdn_loss, mdn_loss_and_gradient     the loss; the loss and its gradient
    mdn_sample                          random points and pens
    diagnose                            a report on rows, components and gradients that are out of order
    Layout                              the column order of other networks

Densities from weights, means, standard deviations and correlations:

    mixture_logpdf, gaussian_logpdf     of mixtures; of single components
    ..._and_gradient                    the same with all derivatives
    gaussian_density_batch              the smoothed density, a drop-in for the NumPy function of that name

Distributions as objects:

    BivariateMixture                    evaluate, sample, transform, integrate, plot
    UnivariateMixture                   its marginal and conditional distributions
    fit_mixture                         fit a mixture to points

`cymdn.torch` and `cymdn.jax` have the loss, with its backward pass, for PyTorch and JAX; `cymdn.activations` has
softplus, ELU + 1 and softsign for networks that use them. `show_config()` prints which compiled kernels are in use.

A first call:

>>> import numpy as np
>>> from cymdn import mdn_loss_and_gradient
>>> raw, x = np.zeros((5, 6 * 20)), np.ones((5, 2))     # network output of 20 components, points
>>> loss, gradient = mdn_loss_and_gradient(raw, x)
>>> loss.round(4), gradient.shape
(np.float64(2.8379), (5, 120))
"""

from cymdn._builds import show_config
from cymdn._diagnose import diagnose
from cymdn._distribution import BivariateMixture
from cymdn._fit import MixtureFit, fit_mixture
from cymdn._gaussian import GaussianGradient, gaussian_density_batch, gaussian_logpdf, gaussian_logpdf_and_gradient
from cymdn._layout import Layout
from cymdn._mdn import mdn_loss, mdn_loss_and_gradient
from cymdn._mixture import MixtureGradient, mixture_logpdf, mixture_logpdf_and_gradient
from cymdn._sampling import MdnSample, mdn_sample
from cymdn._univariate import UnivariateMixture

__all__ = [
    "BivariateMixture",
    "GaussianGradient",
    "Layout",
    "MdnSample",
    "MixtureFit",
    "MixtureGradient",
    "UnivariateMixture",
    "__version__",
    "diagnose",
    "fit_mixture",
    "gaussian_density_batch",
    "gaussian_logpdf",
    "gaussian_logpdf_and_gradient",
    "mdn_loss",
    "mdn_loss_and_gradient",
    "mdn_sample",
    "mixture_logpdf",
    "mixture_logpdf_and_gradient",
    "show_config",
]

__version__ = "0.2.0"
