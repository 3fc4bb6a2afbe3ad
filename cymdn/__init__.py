"""Mixtures of correlated 2-D Gaussians and every derivative of them, compiled.

The layers, each importing only from those below it:

    __init__              re-exports, no logic
    _gaussian             the levels of the API: check, allocate, call, return; all user documentation
    _arrays               converts arrays, checks shapes, raises
    _kernels.pyx          loops over components and points; allocates nothing, raises nothing
    _bivariate.pxd        the formulas of one component at one point
    _elementary.pxd       branch-free elementary functions
"""

from cymdn._gaussian import gaussian_density_batch

__all__ = ["__version__", "gaussian_density_batch"]

__version__ = "0.1.0"
