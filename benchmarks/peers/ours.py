"""cymdn itself, through its public functions as installed."""

import inspect

import cymdn


def density(problem, **options):
    """Densities and derivatives of each component."""
    return lambda: cymdn.gaussian_density_batch(*problem, compute_derivatives=True, **options)


def mdn(problem, **options):
    """Mean loss and its gradient with respect to the raw output."""
    return lambda: cymdn.mdn_loss_and_gradient(*problem, **options)


def grid(problem, **options):
    """Log-density of one mixture on a grid."""
    return lambda: cymdn.mixture_logpdf(*problem, **options)


FUNCTIONS = {
    "density": cymdn.gaussian_density_batch,
    "mdn": cymdn.mdn_loss_and_gradient,
    "grid": cymdn.mixture_logpdf,
}


def has_workers(work: str) -> bool:
    """Whether this version of the function can use more than one thread."""
    return "workers" in inspect.signature(FUNCTIONS[work]).parameters
