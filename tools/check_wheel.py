"""Checks the compiled files of a Linux wheel: their dependencies, exports and instructions.

    python tools/check_wheel.py dist/cymdn-*.whl

Uses readelf, nm and objdump, which come with the compiler.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# approximations, whose bits differ between processor vendors
DIFFERENT_BITS = re.compile(r"\s(v?rcp\w+|v?rsqrt\w+|f(?:sin|cos|ptan|2xm1|yl2x\w*))\s")
FUSED = re.compile(r"\s(vfn?m(?:add|sub)\w+)\s")  # used by the levels from v3 on, and by no other build


def lines_of(*command):
    """Return the lines that a program prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def faults(library):
    """Yield the faults of a compiled file."""
    for line in lines_of("readelf", "-dW", library):
        if "PATH)" in line:
            yield f"has a run path: {line.split()[-1]}"
        if "(NEEDED)" in line and "[libc.so." not in line:
            yield f"needs more than libc: {line.split()[-1]}"
    exported = [line.split()[-1] for line in lines_of("nm", "-D", "--defined-only", library)]
    expected = [f"PyInit_{library.name.partition('.')[0]}"]
    if exported != expected:
        yield f"exports {exported}, expected {expected}"
    code = lines_of("objdump", "-d", library)
    found = {match[1] for line in code if (match := DIFFERENT_BITS.search(line))}
    fused = {match[1] for line in code if (match := FUSED.search(line))}
    level = library.name.partition(".")[0].partition("_kernels_")[2]
    if bool(fused) != bool(level):
        yield f"{'holds' if fused else 'lacks'} fused multiply-add"
    if found:
        yield f"holds instructions that give other bits elsewhere: {', '.join(sorted(found))}"


def main(wheels):
    """Check each wheel; exit with an error if something is wrong with one."""
    wrong = 0
    for wheel in wheels:
        with tempfile.TemporaryDirectory() as folder:
            zipfile.ZipFile(wheel).extractall(folder)
            libraries = sorted(Path(folder).rglob("*.so"))
            for library in libraries:
                for fault in faults(library):
                    print(f"{library.name} {fault}")
                    wrong += 1
        print(f"{Path(wheel).name}: {len(libraries)} compiled files, {wrong} faults")
        wrong += not libraries
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
