"""Peak memory of one call beyond its inputs and outputs.

Code that allocates through NumPy or Python is measured exactly, by tracemalloc. Other libraries have allocators of
their own: for them a fresh process makes the call and asks the Linux kernel for its peak.
"""

import ctypes
import gc
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peers
import problems

MIB = 2**20


def traced(call: Callable[[], Any]) -> float:
    """MiB beyond the outputs, of what Python and NumPy allocate."""
    call()  # caches of the first call are not the call's own
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        output = call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (peak - before - nbytes(output)) / MIB


def nbytes(output: Any) -> int:
    """Bytes of the arrays that a call returned."""
    return sum(array.nbytes for array in problems.arrays(output))


def resident(work: str, label: str, sizes: list[tuple[int, int, str]]) -> list[float]:
    """MiB beyond the outputs, of the whole process; for each (n, m, dtype), measured in one fresh process."""
    command = [sys.executable, __file__, work, label, json.dumps(sizes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(lines[-1])
    return json.loads(done.stdout.splitlines()[-1])


def _resident_here(work: str, label: str, n: int, m: int, dtype: str) -> float:
    call = peers.find(work, label).prepare(problems.make(work, (n, m, dtype)))
    for _ in range(2):
        call()
    gc.collect()
    _give_back()
    Path("/proc/self/clear_refs").write_text("5")  # the kernel's peak starts again from here
    before = _status("VmRSS")
    output = call()
    return max(0.0, (_status("VmHWM") - before - nbytes(output)) / MIB)  # below 0: outputs in memory kept from before


def _give_back() -> None:
    # the C library keeps memory that was freed; the next call would take it from there, unseen
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status(field: str) -> int:
    """Bytes of a field of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


if __name__ == "__main__":
    np.seterr(all="ignore")
    print(json.dumps([_resident_here(*sys.argv[1:3], *size) for size in json.loads(sys.argv[3])]))
