"""Seed single faults into the package and see that the tests find each: `python tools/seeded_faults.py`.

    --list            name the faults
    --only NAME       seed those whose name or file contains it; may be repeated
    --processes N     as many at a time, 1 by default

seeded_faults.toml has the faults: a text that occurs once in a file, what takes its place, and why somebody could write
that. Each is put into a copy of the checkout; what it changes is compiled again, the baseline kernels alone and at -O1,
because it is the formulas that are on trial; and the tests run on it until one fails. A run without a fault must pass,
or everything would be caught for another reason.

The interpreter needs what the tests need, setuptools and Cython. Exits with 1 if a fault survives.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_suffix(".toml")
NOT_COPIED = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "*.so")

# Fast tests of properties first, so that what is reported is a property where one notices. The fuzzer comes after all
# that was written for a purpose; the hashes of the results, which change with every bit, come last.
FIRST = ("identities", "contract", "density", "elementary", "univariate", "distribution", "sampling", "modes", "fit")
LAST = ("memory", "process", "fuzz", "builds")
# what a build of the baseline kernels cannot pass, or needs the wheel and the repository
DESELECTED = (
    "tests/test_builds.py::test_more_than_the_baseline_is_tested_where_the_machine_offers_it",
    "tests/test_package.py::test_wheel_holds_only_what_a_user_needs",
)
TIME_LIMIT = 1800  # seconds; a fault can make a loop endless


class Fault(NamedTuple):
    """A change of one place."""

    name: str
    file: str
    text: str
    becomes: str
    why: str


class Outcome(NamedTuple):
    """What became of a fault."""

    fault: Fault
    verdict: str  # "caught", "SURVIVED", or "BROKEN": it could not be tried
    by: str
    seconds: float


# setup.py builds for each CPU level; one is enough
BASELINE_ALONE = Fault("baseline alone", "setup.py", 'LEVELS = ["v3", "v4"]', "LEVELS = []", "")


def read_faults():
    faults = [
        Fault(**{key: value.strip("\n") for key, value in f.items()}) for f in tomllib.loads(LIST.read_text())["fault"]
    ]
    names = [fault.name for fault in faults]
    repeated = {name for name in names if names.count(name) > 1}
    stale = [problem for fault in faults if (problem := problem_of(ROOT, fault))]
    if repeated or stale:
        raise SystemExit("\n".join([*(f"{LIST.name}: {name!r} stands there twice" for name in repeated), *stale]))
    return faults


def problem_of(root, fault):
    """Return why a fault cannot be put into the sources; None if it can."""
    count = (root / fault.file).read_text().count(fault.text)
    if count == 1 and fault.text != fault.becomes:
        return None
    return f"{LIST.name}: {fault.name!r}: the text has to occur once in {fault.file}, not {count} times:\n{fault.text}"


def put(root, fault):
    path = root / fault.file
    path.write_text(path.read_text().replace(fault.text, fault.becomes))


def run(*command, cwd, **environment):
    """Return the exit status and what was printed; a negative status is that of a signal."""
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return -signal.SIGALRM, "the time limit"
    return process.returncode, printed


def prepare(folder):
    """Copy the checkout, and install a build of it beside the copy."""
    shutil.copytree(ROOT, folder / "checkout", ignore=NOT_COPIED)
    put(folder / "checkout", BASELINE_ALONE)
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", "--no-compile")
    status, printed = run(*pip, "--target", folder / "site", ".", cwd=folder / "checkout", CFLAGS="-O1")
    if status:
        raise SystemExit(f"The build without a fault failed:\n{printed}")


def build(folder, fault):
    """Bring the fault into the installed package; return what is wrong if that fails."""
    put(folder / "checkout", fault)
    if fault.file.endswith(".py"):
        shutil.copy(folder / "checkout" / fault.file, folder / "site" / fault.file)
        return None
    before = binaries(folder)
    command = (sys.executable, "setup.py", "-q", "build_ext", "--build-lib", folder / "site")
    status, printed = run(*command, cwd=folder / "checkout", CFLAGS="-O1")
    # a fault that never reached the kernels would look like one that no test finds
    return printed if status else "the same binaries as without it" if binaries(folder) == before else None


def binaries(folder):
    return [path.read_bytes() for path in sorted((folder / "site" / "cymdn").glob("_*kernels*.so"))]


def test(folder):
    """Return the exit status of the tests and the first that failed."""
    found = sorted(path.stem.removeprefix("test_") for path in (folder / "checkout" / "tests").glob("test_*.py"))
    middle = [name for name in found if name not in FIRST + LAST]
    order = [f"tests/test_{name}.py" for name in (*FIRST, *middle, *LAST) if name in found]
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--hypothesis-seed=0", "--no-header"]
    deselected = [f"--deselect={name}" for name in DESELECTED]
    status, printed = run(
        *(sys.executable, "-m", "pytest", *options, *deselected, *order),
        cwd=folder / "checkout",
        PYTHONPATH=str(folder / "site"),
        CYMDN_CPU_LEVEL="baseline",
    )
    failed = re.search(r"^(?:FAILED|ERROR) (tests/test_.*?)(?: - .*)?$", printed, re.MULTILINE)
    return status, failed[1] if failed else printed.strip()[-2000:]


def try_fault(control, fault):
    """Seed a fault into a copy of the control and test it."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cymdn-fault-") as temporary:
        folder = Path(temporary)
        shutil.copytree(control, folder, dirs_exist_ok=True)
        problem = build(folder, fault)
        verdict, by = ("BROKEN", f"did not build:\n{problem}") if problem else verdict_of(*test(folder))
    return Outcome(fault, verdict, by, time.monotonic() - start)


def verdict_of(status, what):
    if status == 0:
        return "SURVIVED", ""
    if status < 0:
        return "caught", f"{signal.Signals(-status).name}, after {what.splitlines()[-1] if what else 'nothing'}"
    return ("caught", what) if status == 1 else ("BROKEN", what)  # 2 and more: the tests did not run


def main():
    parser = argparse.ArgumentParser(description="Seed faults and see that the tests catch them.")
    parser.add_argument("--list", action="store_true", help="name the faults and stop")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="part of a name, or of a file's")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    faults = read_faults()
    if arguments.only:
        faults = [fault for fault in faults if any(part in f"{fault.name} {fault.file}" for part in arguments.only)]
    if arguments.list or not faults:
        print(*(f"{fault.file:36} {fault.name}" for fault in faults), sep="\n")
        raise SystemExit(not faults)
    with tempfile.TemporaryDirectory(prefix="cymdn-faults-") as temporary:
        control = Path(temporary)
        start = time.monotonic()
        prepare(control)
        status, what = test(control)
        if status:
            raise SystemExit(f"The tests fail without a fault:\n{what}")
        print(f"{'passed':9} {time.monotonic() - start:5.0f} s  without a fault", flush=True)
        with ThreadPoolExecutor(arguments.processes) as pool:
            outcomes = []
            for outcome in pool.map(lambda fault: try_fault(control, fault), faults):
                outcomes.append(outcome)
                by = f"  < {outcome.by}" if outcome.by else ""
                print(
                    f"{outcome.verdict:9} {outcome.seconds:5.0f} s  {outcome.fault.file}: {outcome.fault.name}{by}",
                    flush=True,
                )
    verdicts = [outcome.verdict for outcome in outcomes]
    print(*(f"{verdicts.count(verdict)} {verdict}" for verdict in sorted(set(verdicts), key=str.lower)), sep=", ")
    raise SystemExit(set(verdicts) != {"caught"})


if __name__ == "__main__":
    main()
