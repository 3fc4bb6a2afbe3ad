"""Lists the lines of the Cython sources that no test reaches, by gcov, which also sees inlined and GIL-free lines.

    python tools/cython_coverage.py build FOLDER     compile the kernels with counters into the installed package
    pytest
    python tools/cython_coverage.py report FOLDER    list the lines that were not run

Cython's C code names the source line of each statement, but a statement may take several lines of C, which the compiler
would count as the source lines that follow: `build` repeats the mark before each. A line counts as run if any build ran
it, for one of the types.

Exits with 1 if a line was not run.
"""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from kernels import ROOT, installed_package, options_of, settings, translate

SOURCES = {path.name: path for path in (ROOT / "cymdn").iterdir() if path.suffix in (".pyx", ".pxd")}
MARK = re.compile(r'#line \d+ ".*"')


def build(folder):
    """Compile every extension with counters, in place of the one that is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    package = installed_package()
    directives, _, extensions = settings()
    c_files = {}
    for source in {extension.sources[0] for extension in extensions}:
        c_files[source] = translate(source, directives, folder)
        c_files[source].write_text(with_repeated_marks(c_files[source].read_text()))
    for extension in extensions:
        name = extension.name.rpartition(".")[2]
        (installed,) = package.glob(f"{name}.*so")
        command = ["gcc", *options_of(extension, ["-O0", "--coverage", "-w"])]
        subprocess.run([*command, "-c", c_files[extension.sources[0]], "-o", folder / f"{name}.o"], check=True)
        subprocess.run(["gcc", "--coverage", "-shared", folder / f"{name}.o", "-o", installed], check=True)


def with_repeated_marks(text):
    """Return C in which each line after a mark is marked, except inside macros and comments."""
    lines, mark, whole, comment = [], None, True, False
    for line in text.splitlines():
        if MARK.fullmatch(line):
            mark = line
        elif mark and whole and not comment and not line.startswith("#"):
            lines.append(mark)
        lines.append(line)
        whole = not line.endswith("\\")
        comment = "*/" not in line if comment else line.rfind("/*") > line.rfind("*/")
    return "\n".join(lines) + "\n"


def counts_of(folder):
    """Return the largest count of each line of each source."""
    counts = defaultdict(lambda: defaultdict(int))
    for counters in folder.glob("*.gcda"):
        command = ["gcov", "--json-format", "--stdout", counters]
        printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
        for found in (file for report in printed.splitlines() for file in json.loads(report)["files"]):
            of_file = counts[Path(found["file"]).name]
            for line in found["lines"]:
                of_file[line["line_number"]] = max(of_file[line["line_number"]], line["count"])
    return counts


def report(folder):
    """Print the lines that were not run; return their number."""
    missed = 0
    for name, counts in sorted(counts_of(folder).items()):
        if name not in SOURCES:
            continue
        lines = SOURCES[name].read_text().splitlines()
        counts = {number: count for number, count in counts.items() if number <= len(lines)}
        not_run = sorted(number for number, count in counts.items() if not count)
        print(f"{name}: {len(counts)} lines, {len(not_run)} of them not run")
        print(*(f"  {number}: {lines[number - 1].strip()}\n" for number in not_run), sep="", end="")
        missed += len(not_run)
    return missed


if __name__ == "__main__":
    verb, folder = sys.argv[1:]
    os.environ["LC_ALL"] = "C"
    sys.exit(bool({"build": build, "report": report}[verb](Path(folder).resolve())))
