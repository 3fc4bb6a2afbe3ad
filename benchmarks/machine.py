"""Where and with what the numbers were measured."""

import contextlib
import datetime
import importlib.metadata
import io
import os
import platform
from pathlib import Path

import one_thread

PACKAGES = ("cymdn", "numpy", "scipy", "scikit-learn", "numba", "torch", "jax")


def describe() -> dict[str, object]:
    """Return processor, system, versions, date and load, as printed and stored."""
    return {
        "processor": processor(),
        "cpus": len(one_thread.CPUS),
        "vector": vector_features(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "load": load(),
        "cymdn_config": cymdn_config(),
    }


def processor() -> str:
    """Return the model's name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def vector_features() -> str:
    """Return the widest vector instructions that the processor offers."""
    flags = _cpuinfo("flags").split()
    return next((flag for flag in ("avx512f", "avx2", "avx", "sse2") if flag in flags), "unknown")


def version(package: str) -> str | None:
    """Return the installed version, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def load() -> float | None:
    """Return the average number of running processes in the last minute: above 1 on entry, others use the machine."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def cymdn_config() -> str:
    """Return what cymdn says of itself, once it can."""
    import cymdn

    if not hasattr(cymdn, "show_config"):
        return ""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        returned = cymdn.show_config()
    return text.getvalue().strip() or str(returned)


def lines(facts: dict[str, object]) -> list[str]:
    """Return the facts as lines of text."""
    versions = ", ".join(f"{name} {number or 'missing'}" for name, number in facts["versions"].items())
    first = f"{facts['processor']}, {facts['cpus']} CPUs, {facts['vector']}, {facts['system']}, {facts['date']}"
    return [
        first,
        f"Python {facts['python']}, {versions}",
        f"load average at the start: {facts['load']} (of other processes; the quieter, the better)",
        *(f"cymdn: {line}" for line in str(facts["cymdn_config"]).splitlines()),
    ]


def _cpuinfo(field: str) -> str:
    path = Path("/proc/cpuinfo")
    rows = path.read_text().splitlines() if path.exists() else []
    return next((row.partition(":")[2].strip() for row in rows if row.startswith(field)), "")
