"""Compare cymdn with its peers: `python benchmarks/run.py`. See README.md in this folder."""

import argparse
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import measure  # isort: split

import goals
import kernels
import report
import sweep

PAIRS = 11
FEWER_PAIRS = 7  # with --quick, and in the sweep


@dataclass
class Found:
    """All results."""

    machine: dict = field(default_factory=dict)
    goals: list = field(default_factory=list)
    sweep: list = field(default_factory=list)
    resident: list = field(default_factory=list)
    notes: list = field(default_factory=list)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, store, draw."""
    options = _parse(arguments)
    only = [(row, peer) for row, _, peer in (part.lower().partition("/") for part in options.only)]
    bench = measure.Bench(FEWER_PAIRS if options.quick else PAIRS, options.quick, only)
    found = Found()
    _measure(bench, options, found)
    if options.out:
        _store(found, options.out)
    if options.plot:
        import chart  # needs Matplotlib

        chart.draw(chart.series(found.sweep), found.machine, options.plot)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="the goals only, of the kernel build in use, with fewer pairs"
    )
    parser.add_argument("--out", type=Path, metavar="PATH.json", help="store all numbers, e.g. for chart.py")
    parser.add_argument("--minutes", type=float, default=8, help="time for peers in the sweep (default: 8)")
    parser.add_argument("--plot", type=Path, metavar="PATH.png", help="draw the time per component over n")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="ROW/PEER",
        help="rows (and peers) whose names contain this: 'mdn', 'sweep mdn float32/jax', '/numba'; may be repeated",
    )
    return parser.parse_args(arguments)


def _measure(bench: measure.Bench, options: argparse.Namespace, found: Found) -> None:
    found.machine = report.describe()
    _print(report.lines(found.machine))
    for line in goals.measure_all(bench):
        _progress(f"{line.row}, {line.against}: {line.measured}")
        found.goals.append(line)
    if found.goals:
        build = f"kernel build {kernels.in_use()} on {found.machine['processor']}, {found.machine['vector']}"
        _print(["", f"Goals, {build}", *report.goals(found.goals)])
    bench.pairs = FEWER_PAIRS
    bench.deadline = time.monotonic() + 60 * options.minutes
    cases = sweep.for_plot() if options.quick and options.plot else [] if options.quick else sweep.everything()
    for cells in sweep.measure_all(bench, cases):
        _progress(f"{cells[0].work} {cells[0].dtype} n={cells[0].n} M={cells[0].m}")
        found.sweep.append(cells)
    _print([*report.sweep(found.sweep), "", *report.readme(found.sweep)])
    if options.quick:
        bench.note("--quick: no sweep over sizes" + " but for the plot" * bool(options.plot) + ", no memory of peers")
    else:
        found.resident = list(sweep.measure_resident(bench))
        _print(["", *report.resident(found.resident, sweep.MEMORY_SIZES)])
    found.notes = bench.all_notes()
    _print(["", "Notes", "-----", *(found.notes or ["everything was run"])])
    _print([f"load average at the end: {report.load()}"])


def _store(found: Found, path: Path) -> None:
    record = {
        "machine": found.machine,
        "goals": [line._asdict() | {"verdict": line.verdict} for line in found.goals],
        "sweep": [[cell._asdict() for cell in cells] for cells in found.sweep],
        "resident": [entry._asdict() for entry in found.resident],
        "notes": found.notes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def _print(lines: list[str]) -> None:
    print("\n".join(lines), flush=True)


def _progress(text: str) -> None:
    """Update one line on a terminal; print nothing to a file."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
