"""Every size and dtype: time per call and per component, memory, two workers; with all peers.

Run as a program it measures the peak memory of one implementation, for `measure_resident`.
"""

import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import measure
import numpy as np
import peers
import problems
from measure import Bench, Pair
from peers import CATALOGUE, OURS
from problems import Size

LARGEST = 4_000_000  # components; beyond it peers need gigabytes and seconds per call

NS = (1, 64, 6400, 200_000)
MS = (1, 5, 20, 100)
DTYPES = ("float64", "float32")
WORKS = ("density", "mdn")

# The lines of the plot: more sizes of the most important case.
PLOT_NS = (1, 8, 64, 640, 6400, 200_000)
PLOT_M, PLOT_DTYPE = 20, "float64"

# torch.compile takes about 6 s for each new shape
COMPILED = {*((n, PLOT_M, PLOT_DTYPE) for n in PLOT_NS), (6400, PLOT_M, "float32")}

MEMORY_SIZES = [(n, PLOT_M, dtype) for dtype in DTYPES for n in (6400, 200_000)]


class Cell(NamedTuple):
    """One implementation at one size."""

    work: str
    dtype: str
    n: int
    m: int
    label: str
    seconds: float
    ratio: float | None  # to cymdn's time, pair by pair
    memory: float | None = None  # MiB beyond inputs and outputs
    two_workers: float | None = None  # seconds

    @property
    def nanoseconds(self) -> float:
        """Nanoseconds per component."""
        return self.seconds / (self.n * self.m) * 1e9


class Resident(NamedTuple):
    """Peak memory of a whole process beyond inputs and outputs, at each of MEMORY_SIZES."""

    work: str
    label: str
    mib: list[float]


def everything() -> list[tuple[str, Size]]:
    """Return all cases, the plot's included."""
    grid = [(n, m, dtype) for dtype in DTYPES for m in MS for n in NS]
    return [(work, size) for size in sorted({*grid, *_plot_sizes()}, key=_order) for work in WORKS]


def for_plot() -> list[tuple[str, Size]]:
    """Return the cases that the plot shows."""
    return [(work, size) for work in WORKS for size in _plot_sizes()]


def measure_all(bench: Bench, cases: list[tuple[str, Size]]) -> Iterator[list[Cell]]:
    """Yield a list of cells for each case, cymdn's first."""
    for work, size in cases:
        if bench.wants(row_name(work, size)):
            yield list(_cells(bench, work, size))


def measure_resident(bench: Bench) -> Iterator[Resident]:
    """Yield the peak memory of each implementation, each in its own process."""
    for work in WORKS:
        for peer in [OURS[work], *CATALOGUE[work]]:
            if peer.has_results and bench.wants(f"memory {work}", peer.label):
                command = [sys.executable, __file__, work, peer.label]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    error = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
                    bench.note(f"{peer.label}, peak memory: could not be run: {error[:160]}")
                else:
                    yield Resident(work, peer.label, json.loads(done.stdout.splitlines()[-1]))


def row_name(work: str, size: Size) -> str:
    """Name of a case for --only."""
    return "sweep {} {} n={} M={}".format(work, size[2], *size[:2])


def _cells(bench: Bench, work: str, size: Size) -> Iterator[Cell]:
    n, m, dtype = size
    others = [Cell(work, dtype, n, m, label, pair.theirs, pair.ratio) for label, pair in _pairs(bench, work, size)]
    # also alone: the result must not depend on which peers could be run
    call = OURS[work].prepare(problems.make(work, size))
    ours = measure.alone(call, bench.pairs)
    workers = bench.two_workers(OURS[work].prepare, work, size) if n * m <= LARGEST else None
    extra = measure.traced(call)
    yield Cell(work, dtype, n, m, OURS[work].label, ours, None, extra, workers.ours if workers else None)
    yield from others


def _pairs(bench: Bench, work: str, size: Size) -> Iterator[tuple[str, Pair]]:
    for peer in CATALOGUE[work]:
        if not bench.wants(row_name(work, size), peer.label):
            continue
        if _skipped(bench, work, peer, size):
            continue
        pair = bench.compare(OURS[work], peer, work, size)
        if isinstance(pair, Pair):
            yield peer.label, pair


def _skipped(bench: Bench, work: str, peer: peers.Peer, size: Size) -> bool:
    """Whether to leave out a peer; stores the reason."""
    n, m, dtype = size
    row = row_name(work, size).removeprefix("sweep ")
    if n * m > LARGEST:
        bench.skip(f"over {LARGEST:,} components peers take gigabytes and seconds a call", row)
    elif bench.late():
        bench.skip("the time for peers was up (--minutes)", row)
    elif peer.label == peers.TORCH_COMPILE and size not in COMPILED:
        bench.skip("it compiles for seconds for each shape", f"{peer.label} other than at M={PLOT_M}, {dtype}")
    else:
        return False
    return True


def _plot_sizes() -> list[Size]:
    return [(n, PLOT_M, PLOT_DTYPE) for n in PLOT_NS]


def _order(size: Size) -> tuple[bool, int, int, int]:
    n, m, dtype = size
    return m != PLOT_M, m, DTYPES.index(dtype), n  # the cases of the plot first, in case the time is up


# Peak memory, for libraries whose allocators tracemalloc does not see: a new process asks the Linux kernel


def _peak(work: str, label: str, size: Size) -> float:
    """Peak memory of this whole process in MiB, beyond the outputs."""
    call = peers.find(work, label).prepare(problems.make(work, size))
    for _ in range(2):
        call()
    gc.collect()
    # the C library keeps freed memory; the next call would reuse it, which would not be measured
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the kernel's peak
    before = _status("VmRSS")
    output = call()
    # below 0 if outputs are in memory that was kept
    return max(0.0, (_status("VmHWM") - before - problems.nbytes(output)) / measure.MIB)


def _status(field: str) -> int:
    """Bytes of a field of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


if __name__ == "__main__":
    np.seterr(all="ignore")
    print(json.dumps([_peak(*sys.argv[1:], size) for size in MEMORY_SIZES]))
