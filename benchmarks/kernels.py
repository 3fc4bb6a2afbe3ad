"""cymdn against itself, without peers: for changes of the kernels.

Without options it times the kernel builds that this machine can run, alternately in one process. `--against FOLDER`
times another cymdn, installed by `pip install --no-deps --target FOLDER ...`. `--instructions` counts the instructions
per component of the loss and gradient by valgrind's callgrind; the counts do not depend on the load of the machine.
Callgrind cannot run v4.
"""

import argparse
import contextlib
import importlib
import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import measure  # isort: split

import numpy as np
import peers
import problems
import report

import cymdn

LEVELS = ("baseline", "v3", "v4")
FORCE_LEVEL = "CYMDN_CPU_LEVEL"
M = 20


# Other builds and versions in this process


def load(folder=None, level=None):
    """Return another copy of the package, from this folder or with the kernels of this level; may raise ImportError."""
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_ours(name)}
    forced, path = os.environ.get(FORCE_LEVEL), list(sys.path)
    os.environ |= {FORCE_LEVEL: level} if level else {}
    sys.path[:0] = [str(folder)] if folder else []
    try:
        return importlib.import_module("cymdn")
    finally:
        for name in filter(_is_ours, list(sys.modules)):
            del sys.modules[name]
        sys.modules |= kept
        sys.path[:] = path
        os.environ.pop(FORCE_LEVEL, None)
        os.environ |= {FORCE_LEVEL: forced} if forced else {}


def _is_ours(name):
    return name.partition(".")[0] == "cymdn"


def builds():
    """Return a copy of the package for each kernel build that this machine can run, the highest first."""
    found = {}
    for level in reversed(LEVELS):
        with contextlib.suppress(ImportError):
            found[level] = load(level=level)
    return found


def in_use(module=cymdn):
    """Return the kernel build that a copy of the package uses."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        module.show_config()
    return re.search(r"^kernels: (\w+)", text.getvalue(), re.MULTILINE)[1]


# Timed calls


def into(problem):
    """Return the options that write the loss and gradient of each row into existing arrays."""
    return {"reduction": "none", "out": (np.empty(len(problem.raw), problem.raw.dtype), np.empty_like(problem.raw))}


def loss_and_gradient(problem, module):
    """Time it with `out=`."""
    return peers.ours_mdn(problem, module, **into(problem))


def loss(problem, module):
    """Time the loss alone, with `out=`."""
    return peers.ours_mdn_loss(problem, module, reduction="none", out=into(problem)["out"][0])


CASES = [  # name, function that makes the problem, function that makes the call, sizes
    ("loss and gradient", problems.mdn_with_pen, loss_and_gradient, [(n, M) for n in (1, 640, 6400, 200_000)]),
    ("loss and gradient, no pen", problems.mdn, loss_and_gradient, [(6400, m) for m in (1, 5, 100)]),
    ("loss", problems.mdn_with_pen, loss, [(640, M), (6400, M)]),
    ("drop-in", problems.density, peers.ours_density, [(n, M) for n in (1, 640, 6400, 200_000)]),
    ("grid, one mixture", problems.grid, peers.ours_grid, [(512, M)]),
    ("sample", problems.sample, peers.ours_sample, [(1, M), (6400, M)]),
]


def compare(name, module, others, options):
    """Print the times of a copy of the package and of others, {name: module}, each alternately with the first."""
    head = ["", "dtype", "n", "M", f"{name}, us", "ns/component", *(f"{other} takes (quartiles)" for other in others)]
    rows = []
    for work, make, prepare, sizes in CASES:
        if any(part in work for part in options.only or [""]):
            for dtype in ("float64", "float32"):
                for n, m in sizes:
                    seconds, *ratios = _times(prepare, make(n, m, dtype), module, others.values(), options.pairs)
                    components = m * n * (n if make is problems.grid else 1)
                    times = f"{seconds * 1e6:.1f}", f"{seconds / components * 1e9:.1f}"
                    rows.append([work, dtype, f"{n}", f"{m}", *times, *ratios])
    print("\n".join(report.render(head, rows)))


def _times(prepare, problem, module, others, pairs):
    call = prepare(problem, module)
    found = [measure.best(call)]
    for other in others:
        try:
            pair = measure.paired(call, prepare(problem, other), pairs)
            found.append(f"{pair.ratio:.2f}x ({pair.low:.2f} .. {pair.high:.2f})")
        except (AttributeError, TypeError) as error:  # an older version may lack it
            found.append(f"failed: {error}"[:40])
    return found


# Instructions

PROGRAM = f"""
import numpy as np
from cymdn import mdn_loss_and_gradient
rng = np.random.default_rng(0)
raw, x = rng.normal(size=(ROWS, 1 + 6 * {M})).astype("DTYPE"), rng.normal(size=(ROWS, 2)).astype("DTYPE")
pen = (rng.random(ROWS) < 0.1).astype("DTYPE")
for _ in range(CALLS):
    mdn_loss_and_gradient(raw, x, pen)
"""
LINE = re.compile(r"^\s*([\d,]+) \(.*?\)\s+\S*?:(\S+) \[.*/cymdn/_[^/]*\]")
ROWS = 6400


def count_instructions(dtype):
    """Print the instructions per component of each function of the kernels.

    They are the difference between programs with three calls and with one: two calls.
    """
    one, three = _callgrind(1, dtype), _callgrind(3, dtype)
    counts = {name: (count - one.get(name, 0)) / (2 * ROWS * M) for name, count in three.items()}
    print(f"{dtype}, {ROWS} rows of {M} components with a pen")
    for name, count in sorted(counts.items(), key=lambda item: -item[1]):
        if count >= 0.5:
            print(f"{count:6.1f}  {re.sub('^.*_kernels_(?:[0-9]+)?|[.].*$', '', name)}")
    print(f"{sum(counts.values()):6.1f}  in all, per component")


def _callgrind(calls, dtype):
    """Return the instructions of each function of the kernels, in a program with this many calls."""
    program = PROGRAM.replace("CALLS", str(calls)).replace("ROWS", str(ROWS)).replace("DTYPE", dtype)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", sys.executable, "-c", program]
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        annotate = ["callgrind_annotate", "--threshold=100", str(out)]
        text = subprocess.run(annotate, check=True, capture_output=True, text=True).stdout
    matches = filter(None, map(LINE.match, text.splitlines()))
    return {match[2]: int(match[1].replace(",", "")) for match in matches}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="time another cymdn in turn with this one")
    parser.add_argument("--instructions", action="store_true", help="count them instead")
    parser.add_argument("--only", action="append", metavar="PART", help="cases named so; may be repeated")
    parser.add_argument("--pairs", type=int, default=11, help="pairs of samples (default: 11)")
    options = parser.parse_args()
    print("\n".join(report.lines(report.describe())))
    if options.instructions:
        for dtype in ("float64", "float32"):
            count_instructions(dtype)
    elif options.against:
        other = load(options.against.resolve(strict=True))
        compare(f"cymdn ({in_use()})", cymdn, {f"the other ({in_use(other)})": other}, options)
    else:
        found = builds()
        highest = next(iter(found))
        compare(highest, found.pop(highest), found, options)


if __name__ == "__main__":
    main()
