"""What tests know of the package's inside: the one place to change where that is arranged anew."""

import importlib.util
from functools import cache

import numpy as np

from cymdn import _builds as choosing  # the build in use: level, reason, kernels, LEVELS, choose, why_not, load
from cymdn import _distribution_kernels, _gaussian, _kernels, _mdn, _sampling
from cymdn import _running as running  # workers: check_workers, split, run, is_worth_sharing; pieces

BLOCK, CHUNK = _kernels.BLOCK, _kernels.CHUNK  # components of a block; rows of a partial sum of losses
PIECE = _sampling.PIECE  # draws that are made at a time
LEVELS = choosing.LEVELS
BUILDS = [level for level in LEVELS if choosing.why_not(level) is None]  # those that can be used here
FORCE = "CYMDN_CPU_LEVEL"

# What programs that other processes run are to begin with, so that even little work is shared among workers
SHARE = "from cymdn import _running as running; running.WORKER_COMPONENTS = 1"


def kind(level):
    """Return which results a build gives: "fused" where the processor multiplies and adds at once, or "baseline"."""
    return "fused" if importlib.import_module(choosing.module_of(level)).fused() else "baseline"


def use(monkeypatch, level):
    """Make calls run on the build of a level."""
    monkeypatch.setattr(choosing, "kernels", choosing.load(level))


def share(monkeypatch, components=1):
    """Give work to a worker that has so many components to do."""
    monkeypatch.setattr(running, "WORKER_COMPONENTS", components)


class Declining:
    """Kernels that do nothing, and say so."""

    def __getattr__(self, name):
        return lambda *arguments, **options: False


def decline(monkeypatch):
    """Replace the kernels by those that do nothing."""
    monkeypatch.setattr(choosing, "kernels", Declining())


def misfits():
    """Calls of kernels that Python's checks stand before, with an output of another number of rows."""
    numbers, parameters, two, three = np.zeros(2), np.zeros((2, 6)), np.zeros((2, 2)), np.zeros(3)
    scratch = np.zeros((_distribution_kernels.MODE_PLANES, 1))
    return {
        "intervals": lambda: _distribution_kernels.intervals(
            2, 1, numbers, numbers, np.zeros((2, 3)), None, three, True
        ),
        "quantiles": lambda: _distribution_kernels.quantiles(2, 1, numbers, np.zeros((2, 3)), None, three),
        "rectangles": lambda: _kernels.rectangles(
            2, 1, np.zeros((2, 2)), np.ones((2, 2)), np.zeros((2, 6)), None, three, True, True
        ),
        "modes": lambda: _distribution_kernels.modes(parameters, True, 0, 2, scratch, three, two),
        "maximise_moments": lambda: _distribution_kernels.maximise_moments(np.zeros(7), 0, np.zeros(5), np.zeros(7)),
        "apply_elementary": lambda: _kernels.apply_elementary("exp", numbers, three),
    }


def forbid_checks(monkeypatch):
    """Make the checks in Python fail, which plain arrays are not to reach."""
    for module, name in ((_mdn, "_check_problem"), (_gaussian, "check_arguments"), (_sampling, "check_arguments")):
        monkeypatch.setattr(module, name, None)


@cache
def jax_module(few):
    """Return a copy of cymdn.jax that leaves fewer rows than these to JAX; what another has traced does not count."""
    module = importlib.util.module_from_spec(importlib.import_module("cymdn.jax").__spec__)
    module.__spec__.loader.exec_module(module)
    module.FEW = few
    return module


def offered_level():
    """Return the x86-64 level that CPU and operating system offer; 0 on other processors."""
    return _kernels.offered_level()


def compiler():
    """Return the compiler of the kernels."""
    return _kernels.compiler()


def apply_elementary(level, name, x):
    """Return an elementary function of _elementary.pxd, as the build of a level has it."""
    x = np.ascontiguousarray(x, dtype=np.float64)
    values = np.empty_like(x)
    importlib.import_module(choosing.module_of(level)).apply_elementary(name, x, values)
    return values
