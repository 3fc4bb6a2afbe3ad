"""Instructions a component of mdn_loss_and_gradient, by callgrind: what does not depend on how busy the machine is.

    python benchmarks/instructions.py        needs valgrind; half a minute

The difference between programs with three calls and with one is two calls. Kernel level v4 is unknown to valgrind.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROWS, COMPONENTS = 6400, 20
PROGRAM = f"""
import numpy as np
from cymdn import mdn_loss_and_gradient
rng = np.random.default_rng(0)
raw, x = rng.normal(size=({ROWS}, 1 + 6 * {COMPONENTS})), rng.normal(size=({ROWS}, 2))
pen = (rng.random({ROWS}) < 0.1).astype(float)
for _ in range(CALLS):
    mdn_loss_and_gradient(raw, x, pen)
"""
LINE = re.compile(r"^\s*([\d,]+) \(.*?\)\s+\S*?:(\S+) \[.*_kernels")


def instructions(calls):
    """Return the instructions of each function of the kernels, in a program with so many calls."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        program = PROGRAM.replace("CALLS", str(calls))
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", sys.executable, "-c", program]
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        text = subprocess.run(
            ["callgrind_annotate", "--threshold=100", str(out)], check=True, capture_output=True, text=True
        ).stdout
    matches = filter(None, map(LINE.match, text.splitlines()))
    return {match[2]: int(match[1].replace(",", "")) for match in matches}


def main():
    one, three = instructions(1), instructions(3)
    counts = {name: (count - one.get(name, 0)) / (2 * ROWS * COMPONENTS) for name, count in three.items()}
    for name, count in sorted(counts.items(), key=lambda item: -item[1]):
        if count >= 0.5:
            print(f"{count:6.1f}  {re.sub('^.*_kernels_(?:[0-9]+)?|[.].*$', '', name)}")
    print(f"{sum(counts.values()):6.1f}  in all, a component")


if __name__ == "__main__":
    main()
