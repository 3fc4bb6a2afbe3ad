"""The implementations that are compared, each in the form that a competent user of its library would write.

A module here has one function for each kind of work: it takes a problem, converts it to what its library wants, and
returns a call without arguments, which is what is timed. Its outputs are those of cymdn, in cymdn's order.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple


class Peer(NamedTuple):
    """An implementation: its name in tables, and where it is."""

    label: str
    module: str
    function: str
    has_results: bool = True  # to be checked against cymdn's

    def prepare(self, problem: Any) -> Callable[[], Any]:
        """Import the library, which may fail, and return the call to time."""
        return getattr(importlib.import_module(f"peers.{self.module}"), self.function)(problem)


NUMPY, NUMBA, JAX = "NumPy", "Numba", "jax.jit"
TORCH, TORCH_COMPILE, TORCH_DISTRIBUTIONS = "PyTorch eager", "torch.compile", "torch.distributions"
SCIPY, SKLEARN = "SciPy", "scikit-learn"
COPY, COPY_TRAFFIC = "np.copyto", "np.copyto, half"

OURS = {work: Peer("cymdn", "ours", work) for work in ("density", "mdn", "grid")}

CATALOGUE = {
    "density": [
        Peer(NUMPY, "plain_numpy", "density"),
        Peer(NUMBA, "fused_numba", "density"),
        Peer(JAX, "jax_jit", "density"),
        Peer(COPY, "copying", "everything", has_results=False),
        Peer(COPY_TRAFFIC, "copying", "same_traffic", has_results=False),
    ],
    "mdn": [
        Peer(NUMPY, "plain_numpy", "mdn"),
        Peer(NUMBA, "fused_numba", "mdn"),
        Peer(TORCH, "pytorch", "eager"),
        Peer(TORCH_COMPILE, "pytorch", "compiled"),
        Peer(TORCH_DISTRIBUTIONS, "pytorch", "distributions"),
        Peer(JAX, "jax_jit", "mdn"),
    ],
    "grid": [
        Peer(SCIPY, "density_models", "scipy"),
        Peer(SKLEARN, "density_models", "sklearn"),
    ],
}


def find(work: str, label: str) -> Peer:
    """Return the peer of this name for this work; cymdn itself counts."""
    return next(peer for peer in [OURS[work], *CATALOGUE[work]] if peer.label == label)
