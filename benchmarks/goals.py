"""The rows that have a goal: what cymdn promises, measured."""

from collections.abc import Iterator
from typing import NamedTuple

import importing
import one_thread
import peers
from bench import Bench, Size
from peers import CATALOGUE, OURS


class Goal(NamedTuple):
    """A goal for the ratio of a peer's time to cymdn's: at least `factor`."""

    row: str
    work: str
    size: Size
    factor: float
    labels: tuple[str, ...]  # the goal holds against the fastest of these
    others: tuple[str, ...] = ()  # shown beside them


class Line(NamedTuple):
    """A line of the printed table."""

    row: str
    against: str
    goal: str
    ours: str
    theirs: str
    measured: str
    verdict: str
    value: float | None  # the measured number
    spread: tuple[float, float] | None  # its quartiles


FRAMEWORKS = (peers.TORCH, peers.TORCH_COMPILE, peers.JAX)
BESIDE = (peers.TORCH_DISTRIBUTIONS, peers.NUMPY)
SMALL, LARGE = 6400, 200_000
M = 20

GOALS = (
    Goal("drop-in float64 n=6400", "density", (SMALL, M, "float64"), 20, (peers.NUMPY,)),
    Goal("drop-in float64 n=200000", "density", (LARGE, M, "float64"), 20, (peers.NUMPY,)),
    Goal("drop-in float64 n=200000", "density", (LARGE, M, "float64"), 1 / 2, (peers.COPY,), (peers.COPY_TRAFFIC,)),
    Goal("drop-in float64 n=1", "density", (1, M, "float64"), 8, (peers.NUMPY,)),
    Goal("drop-in float64 n=6400", "density", (SMALL, M, "float64"), 4, (peers.NUMBA,), (peers.JAX,)),
    Goal("mdn loss+grad float64 n=6400", "mdn", (SMALL, M, "float64"), 15, FRAMEWORKS, BESIDE),
    Goal("mdn loss+grad float32 n=6400", "mdn", (SMALL, M, "float32"), 8, FRAMEWORKS, BESIDE),
    Goal("mdn loss+grad float64 n=6400", "mdn", (SMALL, M, "float64"), 5, (peers.NUMBA,)),
    Goal("mdn loss+grad float32 n=6400", "mdn", (SMALL, M, "float32"), 5, (peers.NUMBA,)),
    Goal("grid 512x512, one mixture", "grid", (512, M, "float64"), 20, (peers.SCIPY, peers.SKLEARN)),
)
WORKERS_ROW, MEMORY_ROW, IMPORT_ROW = "two workers", "memory", "import"
WORKERS_FACTOR, MEMORY_MIB, IMPORT_MS = 1.8, 1.0, 30.0


def measure(bench: Bench) -> Iterator[Line]:
    """Yield the lines of the table as they are measured."""
    for goal in GOALS:
        if bench.wants(goal.row):
            yield from _against_peers(bench, goal)
    if bench.wants(WORKERS_ROW):
        yield from _two_workers(bench)
    if bench.wants(MEMORY_ROW):
        yield from _memory(bench)
    if bench.wants(IMPORT_ROW):
        yield _import(bench)


def _against_peers(bench: Bench, goal: Goal) -> list[Line]:
    pairs = {}
    for peer in CATALOGUE[goal.work]:
        if peer.label in goal.labels + goal.others and bench.wants(goal.row, peer.label):
            pair = bench.compare(goal.work, peer, goal.size)
            if pair is not None:
                pairs[peer.label] = pair
    judged = [label for label in pairs if label in goal.labels]
    fastest = min(judged, key=lambda label: pairs[label].ratio, default=None)
    return [_line(goal, label, pair, judge=label == fastest) for label, pair in pairs.items()]


def _line(goal: Goal, label, pair, *, judge: bool) -> Line:
    as_multiple = goal.factor < 1  # "at most twice its time" reads better than "at least half its speed"
    shown, spread = pair.ratio, (pair.low, pair.high)
    text = f">= {goal.factor:g}x"
    if as_multiple:
        shown, spread, text = 1 / pair.ratio, (1 / pair.high, 1 / pair.low), f"<= {1 / goal.factor:g}x its time"
    verdict = _verdict(goal.factor / pair.ratio) if judge else ""
    return Line(
        goal.row,
        label,
        text if judge else "",
        seconds(pair.ours),
        seconds(pair.theirs),
        f"{shown:.2f}x" + (" its time" if as_multiple else ""),
        verdict,
        shown,
        spread,
    )


def _verdict(missing: float) -> str:
    """Words for the factor by which the goal is missed."""
    return "reached" if missing <= 1 else f"short by a factor of {missing:.2f}"


def _two_workers(bench: Bench) -> Iterator[Line]:
    for work in ("density", "mdn", "grid"):
        size = (512, M, "float64") if work == "grid" else (LARGE, M, "float64")
        with one_thread.all_cpus():
            pair = bench.two_workers(work, size) if len(one_thread.CPUS) > 1 else None
        if pair is not None:
            yield Line(
                f"{WORKERS_ROW}: {work} n={size[0]}",
                "one worker",
                f">= {WORKERS_FACTOR}x",
                seconds(pair.ours),
                seconds(pair.theirs),
                f"{pair.ratio:.2f}x",
                f"{_verdict(WORKERS_FACTOR / pair.ratio)} (had {pair.our_cpus:.1f} CPUs)",
                pair.ratio,
                (pair.low, pair.high),
            )


def _memory(bench: Bench) -> Iterator[Line]:
    for work in ("density", "mdn", "grid"):
        sizes = [(512, M, "float64")] if work == "grid" else [(SMALL, M, "float64"), (LARGE, M, "float64")]
        found = [bench.memory(work, OURS[work], size) for size in sizes]
        most = max(mib for mib in found if mib is not None)
        yield Line(
            f"{MEMORY_ROW}: {work} n={', '.join(str(size[0]) for size in sizes)}",
            "inputs and outputs",
            f"<= {MEMORY_MIB:g} MiB",
            "",
            "",
            f"{most:.3f} MiB",
            _verdict(most / MEMORY_MIB),
            most,
            None,
        )


def _import(bench: Bench) -> Line:
    found = importing.paired(bench.pairs)
    extra = found.extra * 1e3
    return Line(
        "import cymdn",
        "import numpy",
        f"<= +{IMPORT_MS:g} ms",
        seconds(found.cymdn),
        seconds(found.numpy),
        f"{extra:+.1f} ms",
        _verdict(extra / IMPORT_MS),
        extra,
        None,
    )


def seconds(time: float) -> str:
    """Return a time with a unit that suits it."""
    for unit, factor in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if time * factor >= 1:
            return f"{time * factor:.3g} {unit}"
    return f"{time * 1e9:.3g} ns"
