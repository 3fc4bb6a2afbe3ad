"""Mixtures of correlated 2-D Gaussians and every derivative of them, compiled.

The layers, each importing only from those below it:

    __init__              re-exports, no logic
    _diagnose             what is out of order in a network's output
    _fit                  fits of mixtures to points
    _distribution         mixtures as an object, over _univariate (1-D mixtures), _plot, _quadrature and _affine
    _estimation           maximum likelihood: _search for a start, _acceleration from there; _points, _chunked
    _gaussian, _mixture, _mdn, _sampling   the levels of the API: check, allocate, call, return; their documentation
    _running              runs kernels: workers, scratch memory, batches that broadcast
    _builds               the builds of the kernels, and which is used
    _portable             the loss in operations that frameworks share
    _layout               the order of raw network output, and of other code's
    _arrays               converts arrays, checks shapes, raises
    _kernels.pyx          loops over components and points; allocates nothing, raises nothing
    _distribution_kernels.pyx   draws, modes and mixtures on a line; the same
    _bivariate.pxd        the formulas of one component at one point
    _elementary.pxd       branch-free elementary functions
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

__version__ = "0.1.0"
