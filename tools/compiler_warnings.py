"""Compiles the kernels with more warnings than the build, and fails on each warning that is not known.

    python tools/compiler_warnings.py gcc clang

Most of the C code is Cython's own: wrappers, memoryviews, the import of modules. Line directives make a compiler name
our files if it warns about our code. Each compiler must first find the faults planted in a few lines of C: a check that
cannot fail proves nothing.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from kernels import ROOT, for_every_compiler, options_of, settings, translate

WARNINGS = ["-O2", "-Wall", "-Wextra", "-Wconversion", "-Wshadow"]  # -O3 finds no more and takes longer
MORE = {"clang": ["-Wshorten-64-to-32"]}

# A pattern of the file or the function, a pattern of the message, and the reason why such a warning may stay
KNOWN = [
    (
        r"(cymdn/.*|\w+\.px[di])",
        "(?=.*double')(?=.*'float').*",
        "float32 results are float64 results rounded once: this rounding",
    ),
    (r"cython_utility", ".*", "Cython's own C, the same in every extension"),
    (r"__pyx_ff_map_.*", ".*", "Cython's choice among the types of a fused function"),
    (r"__Pyx_CreateCodeObjects", ".*'short unsigned int:10'.*", "line numbers, which Cython keeps in bit fields"),
]

PLANTED = """
int planted;
int planted_narrowing(long number);
int planted_narrowing(long number) { return number; }
int planted_shadow(int planted);
int planted_shadow(int planted) { return planted; }
"""
EXPECTED = {"conversion", "shadow"}


class Found(NamedTuple):
    """A warning: the file and line that the compiler names, the function if known, the message with its option."""

    file: str
    line: str
    function: str
    message: str


def is_known(found):
    """Whether a warning is of a kind that may stay."""
    return any(
        any(re.fullmatch(place, name) for name in (found.file, found.function)) and re.fullmatch(message, found.message)
        for place, message, _ in KNOWN
    )


def warnings_of(compiler, source, options):
    """Compile a C file and return the compiler's warnings."""
    command = [compiler, *options, *WARNINGS, *MORE.get(compiler, []), "-c", source, "-o", os.devnull]
    # messages in English, with plain quotation marks
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "LC_ALL": "C"})
    if run.returncode:
        sys.exit(run.stderr)
    found, function = [], ""
    for line in run.stderr.splitlines():
        if match := re.fullmatch(r".*: In function '(\w+)':", line):
            function = match[1]
        elif match := re.fullmatch(r"([^:]+):(\d+):\d+: warning: (.*)", line):
            found.append(Found(match[1], match[2], function, match[3]))
    return found


def check_that_planted_ones_are_found(compiler, folder):
    """Exit with an error if the compiler does not warn about the planted faults."""
    source = folder / "planted.c"
    source.write_text(PLANTED)
    messages = " ".join(found.message for found in warnings_of(compiler, source, []))
    missed = [name for name in EXPECTED if name not in messages]
    if missed:
        sys.exit(f"{compiler} does not warn of what is planted: {', '.join(missed)}")


def main(compilers):
    """Check every extension with every compiler; exit with an error if a warning is not known."""
    directives, flags, extensions = settings()
    unknown = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for compiler in compilers:
            check_that_planted_ones_are_found(compiler, folder)
        for extension in for_every_compiler(extensions):
            source = extension.sources[0]
            c_file = translate(source, directives, folder)
            for compiler in compilers:
                found = warnings_of(compiler, c_file, options_of(extension, flags))
                news = [warning for warning in found if not is_known(warning)]
                unknown += len(news)
                for warning in news:
                    print(f"{compiler}: {warning.file}:{warning.line} {warning.function}: {warning.message}")
                print(f"{compiler}: {source}: {len(found) - len(news)} known warnings, {len(news)} others")
    sys.exit(1 if unknown else 0)


if __name__ == "__main__":
    main(sys.argv[1:] or ["gcc"])
