"""Measurements on a noisy machine: one thread, pairs of calls, peak memory, imports; and `Bench`, a run of them.

Importing this module restricts every library to one thread and this process to one CPU, so it must be imported before
NumPy. Most libraries read the variables once, when they are imported. XLA ignores its own (observed: 1.7 CPUs in use
with them set); torch and XLA choose the sizes of their pools by the CPUs that the process may use.
"""

import gc
import math
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # no compiler processes during the measurements
}
CPUS = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _use(cpus: set[int]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


os.environ.update(ONE_THREAD)
_use({max(CPUS)})  # the first CPU serves more interrupts than the last

import numpy as np
import problems

Call = Callable[[], Any]

SAMPLE_SECONDS = 2e-3  # a sample repeats its call for at least this time: the clock and the loop cost < 0.1 % of it
SLOW_SECONDS = 0.05  # above this a sample is one call, below it the least of REPEATS
REPEATS = 3
SHORT_SECONDS, BEST_SECONDS = 2e-4, 0.2  # of a sample of `best`, and of all its samples
QUIET = 0.95  # least share of the CPU of an undisturbed process
PATIENCE = 2  # times as many pairs are tried, at most, to get enough quiet ones
ENOUGH = 7  # quiet pairs for a median; with fewer, all pairs count
LIMIT_SECONDS = 4.0  # after this, ENOUGH pairs of either kind are sufficient,
VERY_SLOW_SECONDS, FEW = 1.0, 3  # and FEW pairs of calls that take longer than this
MIB = 2**20


@contextmanager
def all_cpus() -> Iterator[None]:
    """Let threads started from here use every CPU."""
    _use(CPUS)
    try:
        yield
    finally:
        _use({max(CPUS)})


# Time


class Sample(NamedTuple):
    """The least of a few repeats."""

    seconds: float  # per call
    cpus: float  # CPU time of this process over wall time: below 1 if another process ran


# The process has one CPU, so the CPU time of all its threads is the wall time minus that of other processes
CPU_TIME = time.process_time


class Pair(NamedTuple):
    """The result of a paired measurement."""

    ours: float  # seconds per call, median of the samples
    theirs: float
    ratio: float  # theirs / ours: median over the pairs
    low: float  # quartiles of that ratio
    high: float
    our_cpus: float  # CPU time over wall time, median: above 1 if more than one thread was used
    their_cpus: float
    undisturbed: int  # pairs during which no other process took the CPU


def paired(ours: Call, theirs: Call, pairs: int, clock: Call = CPU_TIME) -> Pair:
    """Time two calls alternately, A B A B ..., and take the median of the ratios of pairs.

    Another process that slows the machine for a second slows both calls of a pair, so their ratio hardly changes; a
    ratio of two separate measurements would. Both are called before, so that compilation and cold caches are not timed.
    """
    settle_allocator()
    with collector_off():
        slowest = max(_once(ours), _once(theirs))
        repeats = 1 if slowest > SLOW_SECONDS else REPEATS  # equal for both: a minimum of more repeats would be lower
        enough = FEW if slowest > VERY_SLOW_SECONDS else ENOUGH
        numbers = [_calls_a_sample(call) for call in (ours, theirs)]
        quiet, disturbed, start = [], [], time.perf_counter()
        while len(quiet) < pairs and len(quiet) + len(disturbed) < PATIENCE * pairs:
            if len(quiet) + len(disturbed) >= enough and time.perf_counter() - start > LIMIT_SECONDS:
                break
            pair = _sample(ours, numbers[0], repeats, clock), _sample(theirs, numbers[1], repeats, clock)
            (quiet if min(pair[0].cpus, pair[1].cpus) > QUIET else disturbed).append(pair)
    # a call of 20 ms is interrupted more often than one of 1 ms, so disturbed pairs favour the faster call
    return _summary(quiet if len(quiet) >= ENOUGH else quiet + disturbed, len(quiet))


def alone(call: Call, samples: int) -> float:
    """Seconds per call, median of samples as in a pair."""
    settle_allocator()
    with collector_off():
        repeats = 1 if _once(call) > SLOW_SECONDS else REPEATS
        number = _calls_a_sample(call)
        return median(_sample(call, number, repeats).seconds for _ in range(samples))


def best(call: Call) -> float:
    """Seconds per call, least of many short samples: the time of an undisturbed call."""
    settle_allocator()
    with collector_off():
        number = math.ceil(SHORT_SECONDS / max(_once(call), 1e-7))
        end = CPU_TIME() + BEST_SECONDS
        seconds = [_once(call)]
        while CPU_TIME() < end:
            seconds.append(_sample_once(call, number).seconds)
    return min(seconds)


def importing(times: int) -> float:
    """Seconds of `import cymdn` after `import numpy`, the least of several new processes."""
    code = "import time, numpy; start = time.process_time(); import cymdn; print(time.process_time() - start)"
    # -P: import the installed package, not the current folder
    command = [sys.executable, "-P", "-c", code]
    return min(float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(times))


def _calls_a_sample(call: Call) -> int:
    return math.ceil(SAMPLE_SECONDS / max(_once(call), 1e-7))


def _summary(pairs: list[tuple[Sample, Sample]], undisturbed: int) -> Pair:
    ratios = sorted(b.seconds / a.seconds for a, b in pairs)
    quarter = len(ratios) // 4
    return Pair(
        median(a.seconds for a, _ in pairs),
        median(b.seconds for _, b in pairs),
        median(ratios),
        ratios[quarter],
        ratios[-1 - quarter],
        median(a.cpus for a, _ in pairs),
        median(b.cpus for _, b in pairs),
        undisturbed,
    )


def _sample(call: Call, number: int, repeats: int, clock: Call = CPU_TIME) -> Sample:
    return min(_sample_once(call, number, clock) for _ in range(repeats))


def _once(call: Call) -> float:
    return _sample_once(call, 1).seconds


def _sample_once(call: Call, number: int, clock: Call = CPU_TIME) -> Sample:
    wall, cpu, start = time.perf_counter(), time.process_time(), clock()
    for _ in range(number):
        call()
    seconds = clock() - start
    return Sample(seconds / number, (time.process_time() - cpu) / (time.perf_counter() - wall))


def settle_allocator() -> None:
    """Bring the C library's allocator into the state that it has in a program after some time.

    glibc returns every freed block of 128 KiB to the system, so that the next call has to map its pages again, until a
    block of up to 32 MiB is freed. Without this the first rows of a run are up to twice as slow as later ones.
    """
    np.empty(31 * 2**20, np.uint8)


@contextmanager
def collector_off() -> Iterator[None]:
    """Keep the garbage collector out of the samples."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# Memory


def traced(call: Call) -> float:
    """MiB that Python and NumPy allocate, beyond the outputs."""
    call()  # fill caches: their memory is not that of each call
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        output = call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (peak - before - problems.nbytes(output)) / MIB


# A run


@dataclass
class Bench:
    """Options of a run, and its notes."""

    pairs: int = 11
    quick: bool = False
    only: list[tuple[str, str]] = field(default_factory=list)  # parts of names of rows and of peers
    deadline: float = math.inf  # of time.monotonic(): later cases of the sweep have no peers
    notes: dict[str, None] = field(default_factory=dict)  # what could not be run or is suspicious: an ordered set
    skipped: dict[str, dict[str, None]] = field(default_factory=dict)  # reason -> names, ordered
    comparisons: int = 0
    disturbed: int = 0  # number of these that other processes disturbed

    def wants(self, row: str, label: str = "") -> bool:
        """Whether the filters select this row or, with a label, this peer in it."""
        row, label = row.lower(), label.lower()
        return not self.only or any(part in row and (not label or peer in label) for part, peer in self.only)

    def late(self) -> bool:
        """Whether the time for peers in the sweep is up."""
        return time.monotonic() > self.deadline

    def note(self, text: str) -> None:
        """Store a line that is printed at the end, once."""
        self.notes[text] = None

    def skip(self, reason: str, what: str) -> None:
        """Store what was skipped, and the reason."""
        self.skipped.setdefault(reason, {})[what] = None

    def all_notes(self) -> list[str]:
        """Return the lines that are printed at the end."""
        skipped = [f"skipped, {reason}: {', '.join(whats)}" for reason, whats in self.skipped.items()]
        busy = f"other processes disturbed {self.disturbed} of {self.comparisons} comparisons: run it again"
        return [*self.notes, *skipped, *([busy] if self.disturbed else [])]

    def pair(self, ours: Call, theirs: Call, more: int = 1) -> Pair:
        """Time two calls alternately, in `more` times as many pairs; count it if other processes disturbed it."""
        pair = paired(ours, theirs, more * self.pairs)
        self.comparisons += 1
        self.disturbed += pair.undisturbed < min(ENOUGH, self.pairs)
        return pair

    def compare(self, ours, theirs, work: str, size: problems.Size) -> Pair | str:
        """Check the results of a peer against those of cymdn, then time both. Return the reason if that fails."""
        try:
            why = self._why_not(ours, theirs, work, size)
            if why:
                self.note(f"{theirs.label}, {work} {size}: not timed: {why}")
                return why
            problem = problems.make(work, size)
            pair = self.pair(ours.prepare(problem), theirs.prepare(problem))
        except Exception as error:  # a peer that fails must not end the run of the others
            return self.failed(theirs.label, error)
        if pair.their_cpus > 1.1:
            self.note(f"{theirs.label}, {work} {size}: used {pair.their_cpus:.1f} CPUs where one was meant")
        return pair

    def failed(self, label: str, error: Exception) -> str:
        """Note that something could not be run; return the reason, briefly."""
        text = " ".join(str(error).split())
        self.note(f"{label}: could not be run: {type(error).__name__}: {text[:160]}")
        return "not installed" if isinstance(error, ModuleNotFoundError) else "failed, see the notes"

    def _why_not(self, ours, theirs, work: str, size: problems.Size) -> str:
        if not theirs.has_results:
            return ""
        problem = problems.for_check(work, size)
        error = problems.disagreement(work, ours.prepare(problem)(), theirs.prepare(problem)())
        gc.collect()
        return f"its results are {error:.1e} away" if error > problems.tolerance(work, size) else ""

    def two_workers(self, prepare: Callable[..., Call], work: str, size: problems.Size) -> Pair:
        """Time cymdn with two workers (ours) against one (theirs), on all CPUs."""
        problem = problems.make(work, size)
        two, one = prepare(problem, workers=2), prepare(problem, workers=1)
        with all_cpus():
            if not all(map(np.array_equal, problems.arrays(two()), problems.arrays(one()))):
                self.note(f"two workers: {work} {size}: other bits than with one")
            pair = paired(two, one, self.pairs, time.perf_counter)
        if size[0] * size[1] > problems.SURELY_SHARED and pair.our_cpus < 1.5:
            self.note(f"two workers: {work} {size}: had only {pair.our_cpus:.1f} CPUs: is the machine busy?")
        return pair
