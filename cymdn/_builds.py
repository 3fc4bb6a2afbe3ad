"""The builds of the kernels, one for each CPU level; the highest level that this machine supports is used."""

import os
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import numpy as np

try:
    from cymdn import _kernels
except ImportError:
    if find_spec("cymdn._kernels"):
        raise
    raise ImportError(
        f"cymdn: no compiled kernels beside {__file__}. Python imports the sources in the current folder, not the "
        "installed package: use python -P, or another folder"
    ) from None

BLOCK, CHUNK = _kernels.BLOCK, _kernels.CHUNK
scratch_size = _kernels.scratch_size

LEVELS = ("baseline", "v3", "v4")
FORCE_LEVEL = "CYMDN_CPU_LEVEL"


def module_of(level: str) -> str:
    """Return the name of the module that holds the kernels of a level."""
    return "cymdn._kernels" if level == "baseline" else f"cymdn._kernels_{level}"


def why_not(level: str) -> str | None:
    """Return why a level cannot be used here; None if it can."""
    if level == "baseline":
        return None
    offered = _kernels.offered_level()
    if offered < int(level[1:]):
        here = f"x86-64-v{max(offered, 1)}" if offered else "none of the x86-64 levels"
        return f"this CPU and operating system offer {here}, {level} needs x86-64-{level}"
    if find_spec(module_of(level)) is None:
        return f"this wheel has no {level} build"
    return None


def choose(forced: str | None) -> tuple[str, str]:
    """Return the level to use, and why: the requested one, or else the highest that can be used here."""
    if not forced:
        return [level for level in LEVELS if why_not(level) is None][-1], "the highest that this machine offers"
    if forced not in LEVELS:
        raise ImportError(f"{FORCE_LEVEL}: expected one of {', '.join(LEVELS)}, got {forced!r}")
    reason = why_not(forced)
    if reason:
        raise ImportError(f"{FORCE_LEVEL}: {forced!r} is impossible: {reason}")
    return forced, f"forced by {FORCE_LEVEL}"


def load(level: str) -> ModuleType:
    """Return the kernels of a level."""
    return import_module(module_of(level))


level, reason = choose(os.environ.get(FORCE_LEVEL))
kernels = load(level)


def show_config() -> None:
    """Print the version, the kernel build in use and why, the builds that can be used here, and the compiler.

    Examples
    --------
    >>> from cymdn import show_config
    >>> show_config()  # doctest: +SKIP
    cymdn 0.2.0, NumPy 2.4.6
    kernels: v3 (the highest that this machine offers)
      baseline  available
      v3        available
      v4        this CPU and operating system offer x86-64-v3, v4 needs x86-64-v4
    compiler: GCC 12.2.0
    CPUs: 2
    """
    from cymdn import __version__

    print(f"cymdn {__version__}, NumPy {np.__version__}")
    print(f"kernels: {level} ({reason})")
    for name in LEVELS:
        print(f"  {name:9} {why_not(name) or 'available'}")
    print(f"compiler: {_kernels.compiler()}")
    print(f"CPUs: {cpu_count()}")


def cpu_count() -> int:
    """Return the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
