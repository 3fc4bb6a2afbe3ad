"""Paired timing for noisy machines: A B A B ..., and the median of the pairs' own ratios.

A neighbour that slows the machine for a second slows both calls of a pair, so their ratio hardly changes; a ratio of
two separate measurements would.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, NamedTuple

import numpy as np

Call = Callable[[], Any]

SAMPLE_SECONDS = 2e-3  # a sample repeats its call until it takes so long: the clock and the loop then cost < 0.1 %
SLOW_SECONDS = 0.05  # from here on a sample is one call; below it is the least of REPEATS
REPEATS = 3
QUIET = 0.95  # a process that has a CPU to itself gets so much of it at least
PATIENCE = 2  # times as many pairs as wanted are tried to get that many quiet ones
ENOUGH = 7  # quiet pairs that make a median; with fewer, all pairs count
LIMIT_SECONDS = 4.0  # then ENOUGH pairs of either kind must do


class Sample(NamedTuple):
    """The least of a few repeats."""

    seconds: float  # a call
    cpus: float  # CPU time of this process over wall time: below 1, another process ran in between


class Pair(NamedTuple):
    """What a paired measurement found."""

    ours: float  # seconds a call, median of the samples
    theirs: float
    ratio: float  # theirs / ours: median over the pairs
    low: float  # quartiles of that ratio
    high: float
    our_cpus: float  # CPU time over wall time, median: above 1, more than one thread was used
    their_cpus: float
    undisturbed: int  # pairs during which no other process took the CPU


def paired(ours: Call, theirs: Call, pairs: int) -> Pair:
    """Time two calls in turn. Both are called first, so that nothing is compiled or cold in the samples."""
    settle_allocator()
    with collector_off():
        slowest = max(once(ours), once(theirs))
        repeats = 1 if slowest > SLOW_SECONDS else REPEATS  # the same for both: a minimum of more would be lower
        numbers = [_calls_a_sample(call) for call in (ours, theirs)]
        quiet, disturbed, start = [], [], time.perf_counter()
        while len(quiet) < pairs and len(quiet) + len(disturbed) < PATIENCE * pairs:
            if len(quiet) + len(disturbed) >= ENOUGH and time.perf_counter() - start > LIMIT_SECONDS:
                break
            pair = sample(ours, numbers[0], repeats), sample(theirs, numbers[1], repeats)
            (quiet if min(pair[0].cpus, pair[1].cpus) > QUIET else disturbed).append(pair)
    # a call of 20 ms is always interrupted where one of 1 ms is not, so disturbed pairs flatter the faster call
    return _summary(quiet if len(quiet) >= ENOUGH else quiet + disturbed, len(quiet))


def alone(call: Call, samples: int) -> float:
    """Seconds a call, median of samples as in a pair."""
    settle_allocator()
    with collector_off():
        repeats = 1 if once(call) > SLOW_SECONDS else REPEATS
        number = _calls_a_sample(call)
        return median(sample(call, number, repeats).seconds for _ in range(samples))


def _calls_a_sample(call: Call) -> int:
    return math.ceil(SAMPLE_SECONDS / max(once(call), 1e-7))


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


def sample(call: Call, number: int, repeats: int) -> Sample:
    """Time a call: the least of a few repeats, each the mean over `number` calls."""
    return min(_sample_once(call, number) for _ in range(repeats))


def once(call: Call) -> float:
    """Seconds that one call takes."""
    return _sample_once(call, 1).seconds


def _sample_once(call: Call, number: int) -> Sample:
    cpu, start = time.process_time(), time.perf_counter()
    for _ in range(number):
        call()
    wall = time.perf_counter() - start
    return Sample(wall / number, (time.process_time() - cpu) / wall)


def settle_allocator() -> None:
    """Bring the C library's allocator into the state of a program that has run for a while.

    glibc returns every freed block of 128 KiB to the system, and the next call pays for its pages again, until it
    has seen a block of up to 32 MiB freed. Without this the first rows of a run are up to twice as slow as later ones.
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
