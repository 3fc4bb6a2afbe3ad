"""One run: which measurements are wanted, how often, and what could not be done."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import memory
import numpy as np
import problems
import timing
from peers import OURS, Peer, ours

Size = tuple[int, int, str]  # n (of a grid: its side), M, dtype

SURELY_SHARED = 1_000_000  # components, which two workers share however small a share they accept

LARGEST = 4_000_000  # components; beyond it peers need gigabytes and seconds a call


@dataclass
class Bench:
    """Options of a run, and its notes."""

    pairs: int = 11
    only: list[tuple[str, str]] = field(default_factory=list)  # parts of names of rows and of peers
    notes: dict[str, None] = field(default_factory=dict)  # what could not be run or looks odd: a set, in order
    skipped: dict[str, dict[str, None]] = field(default_factory=dict)  # reason -> what, in order
    deadline: float = float("inf")  # of time.monotonic(): the sweep leaves the peers out from then on
    comparisons: int = 0
    disturbed: int = 0  # of these: by other processes

    def wants(self, row: str, label: str = "") -> bool:
        """Whether the filters let this row through, or with a label, this peer in it."""
        row, label = row.lower(), label.lower()
        return not self.only or any(part in row and (not label or peer in label) for part, peer in self.only)

    def late(self) -> bool:
        """Whether the time for peers in the sweep is up."""
        return time.monotonic() > self.deadline

    def note(self, text: str) -> None:
        """Remember a line to be printed at the end, once."""
        self.notes[text] = None

    def skip(self, reason: str, what: str) -> None:
        """Remember what was skipped, under its reason."""
        self.skipped.setdefault(reason, {})[what] = None

    def all_notes(self) -> list[str]:
        """Return all that is to be said at the end."""
        skipped = [f"skipped, {reason}: {', '.join(whats)}" for reason, whats in self.skipped.items()]
        busy = f"other processes disturbed {self.disturbed} of {self.comparisons} comparisons: run it again"
        return [*self.notes, *skipped, *([busy] if self.disturbed else [])]

    def compare(self, work: str, peer: Peer, size: Size) -> timing.Pair | None:
        """Check a peer's results against cymdn's, then time both in turn. None, and a note, where it cannot be run."""
        problem = problems.make(work, size)
        call = OURS[work].prepare(problem)
        try:
            other = peer.prepare(problem)
            if peer.has_results and not self._agree(f"{peer.label}, {work} {size}", size[2], call, other):
                return None
            pair = timing.paired(call, other, self.pairs)
        except Exception as error:  # a peer that fails must not end the run of the others
            self.note(f"{peer.label}: could not be run: {_short(error)}")
            return None
        self.comparisons += 1
        self.disturbed += pair.undisturbed < timing.ENOUGH
        if pair.their_cpus > 1.1:
            self.note(f"{peer.label}, {work} {size}: used {pair.their_cpus:.1f} CPUs where one was meant")
        return pair

    def two_workers(self, work: str, size: Size) -> timing.Pair | None:
        """Time cymdn with two workers (ours) against one (theirs)."""
        if not ours.has_workers(work):
            self.note(f"two workers: not run: this cymdn has no workers= on {ours.FUNCTIONS[work].__name__}")
            return None
        problem, prepare = problems.make(work, size), getattr(ours, work)
        two, one = prepare(problem, workers=2), prepare(problem, workers=1)
        if not all(map(np.array_equal, problems.arrays(two()), problems.arrays(one()))):
            self.note(f"two workers: {work} {size}: other bits than with one")
        pair = timing.paired(two, one, self.pairs)
        if size[0] * size[1] > SURELY_SHARED and pair.our_cpus < 1.5:
            self.note(f"two workers: {work} {size}: had only {pair.our_cpus:.1f} CPUs: is the machine busy?")
        return pair

    def memory(self, work: str, peer: Peer, size: Size) -> float | None:
        """MiB beyond inputs and outputs of code that allocates through NumPy."""
        return self._try(peer.label, lambda: memory.traced(peer.prepare(problems.make(work, size))))

    def resident_memory(self, work: str, peer: Peer, sizes: list[Size]) -> list[float] | None:
        """MiB beyond inputs and outputs of any code, for each size."""
        return self._try(f"{peer.label}, peak memory", lambda: memory.resident(work, peer.label, sizes))

    def _agree(self, what: str, dtype: str, call: Callable[[], Any], other: Callable[[], Any]) -> bool:
        error = problems.disagreement(call(), other())
        gc.collect()
        if error > problems.TOLERANCE[dtype]:
            self.note(f"{what}: not timed: its results are {error:.1e} away from cymdn's")
        return error <= problems.TOLERANCE[dtype]

    def _try(self, what: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # as above
            self.note(f"{what}: could not be run: {_short(error)}")
            return None


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}"
