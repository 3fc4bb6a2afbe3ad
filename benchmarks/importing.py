"""Time of `import cymdn` against `import numpy`, each in fresh processes, in turn."""

import subprocess
import sys
from statistics import median
from typing import NamedTuple


class Import(NamedTuple):
    """Seconds, medians over the pairs."""

    cymdn: float
    numpy: float
    extra: float  # cymdn - numpy, pair by pair


def paired(pairs: int) -> Import:
    """Import either in turn. The first pair, which may read from the disk, does not count."""
    samples = [(_seconds("cymdn"), _seconds("numpy")) for _ in range(pairs + 1)][1:]
    return Import(median(a for a, _ in samples), median(b for _, b in samples), median(a - b for a, b in samples))


def _seconds(module: str) -> float:
    code = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
    # -P: the package that is installed, not the folder we stand in
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)
