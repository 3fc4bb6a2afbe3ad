"""Put the faults of faults.toml into the package, one at a time, and check that the tests find each.

    python tools/faults.py [WORD ...]             try those with one of the words in name or promise; default: all
    python tools/faults.py --check                check that each fault still has its function; nothing is compiled
    python tools/faults.py --plant FOLDER NAME    copy the sources to a folder, with one fault

A fault names a function, in any file of the package, and gives a wrong body for it, in which `right` is the original
function. It remains valid until the function's name, or a word of its body, is changed, which --check detects.

A function in Cython or C is renamed to `right` and followed by the wrong one; kernels.py compiles them at -O1. A
wrong function in Python is appended to its module. Then tests run on a copy of the package until one fails that passes
without the fault. The tests that the entry selects by `first` come first; hashes of results and the attack come last,
so that the test of a property is reported if one fails.

The interpreter needs the package, what the tests need, setuptools and Cython. Exits with 1 if a fault survives.
"""

import argparse
import ast
import builtins
import keyword
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from functools import cache
from pathlib import Path
from textwrap import indent
from typing import NamedTuple

import kernels

ROOT = Path(__file__).resolve().parents[1]
LISTS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
# in this order
SELECTIONS = ("not (golden or attack or torch or jax or dask)", "torch or jax or dask", "golden or attack")
TIME_LIMIT = 1200  # seconds; a fault can make a loop endless

# The parameters and the body of a function, after the name
CYTHON = r"^(?:cdef|def) [^\n(]*\b{}(?P<rest>\([^)]*\)[^\n:]*:\n)(?: .*\n|\n)+"
C = r"^ *static [^\n(]*\b{}(?P<rest>\([^)]*\)\s*{{\n)[^}}]*}}\n"


KNOWN = {*dir(builtins), *keyword.kwlist, "cdef", "right"}


class Seed(NamedTuple):
    """A file of the package, and its text with a fault."""

    file: Path
    text: str


def seed(fault):
    """Return the one file with the fault's function and all words of its body, changed; exit if there is not one."""
    seeds = [changed for file in sorted((ROOT / "cymdn").iterdir()) for changed in seeds_in(file, fault)]
    if len(seeds) != 1:
        sys.exit(f"{fault['name']}: {len(seeds)} functions {fault['function']} with the words of its body, expected 1")
    return seeds[0]


def seeds_in(file, fault):
    if file.suffix not in (".py", ".pyx", ".pxd"):
        return
    text, name, body = file.read_text(), fault["function"], fault["body"].strip("\n")
    local, known = set(re.findall(r"\b(\w+) = ", body)), names(text) if file.suffix == ".py" else words(text)
    if words(re.sub(r'"[^"]*"', "", body)) - known - KNOWN - local:
        return
    if file.suffix == ".py":
        for node in functions(ast.parse(text), name):
            wrong = f"def wrong({ast.unparse(node.args)}):\n{indent(body, '    ')}"
            yield Seed(file, f"{text}\n\nright = {name}\n\n\n{wrong}\n\n\n{name} = wrong\n")
        return
    for pattern, ending in ((CYTHON, "\n\n\n"), (C, "}\n")):
        for match in re.finditer(pattern.format(re.escape(name)), text, re.MULTILINE):
            start, head = text[: match.start()], text[match.start() : match.start("rest")]
            wrong = head + match["rest"] + indent(body, "    ") + ending
            right = head.removesuffix(name) + "right" + text[match.start("rest") : match.end()]
            yield Seed(file, start + fault.get("before", "") + right + wrong + text[match.end() :])


def words(text):
    return set(re.findall(r"(?<![.\w])[A-Za-z_]\w*", text))  # except attributes


def names(text):
    """Return the names in a module's code, without the words of docstrings."""
    attributes = ("id", "arg", "name", "asname")
    return {getattr(node, attribute, None) for node in ast.walk(ast.parse(text)) for attribute in attributes}


def functions(tree, name):
    """Return the last function of this name in a module or a class; those before it are overloads."""
    *titles, last = name.split(".")
    for title in titles:
        tree = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == title), None)
    return [node for node in getattr(tree, "body", ()) if isinstance(node, ast.FunctionDef) and node.name == last][-1:]


def plant(folder, fault=None):
    """Copy the sources, with a fault if one is given."""
    shutil.copytree(ROOT / "cymdn", folder / "cymdn", ignore=shutil.ignore_patterns("__pycache__"))
    if fault:
        file, text = seed(fault)
        (folder / "cymdn" / file.name).write_text(text)


def install(folder, package, fault=None):
    """Copy an installed package, and put a fault into the copy."""
    copy = shutil.copytree(package, folder / "site" / "cymdn")
    plant(folder / "source", fault)
    if fault and (file := seed(fault).file).suffix == ".py":
        shutil.copy(folder / "source" / "cymdn" / file.name, copy)
    else:
        kernels.build(copy, folder / "source")
    return copy


@cache
def run_tests(package, selection):
    """Return None if the selected tests pass, else the first failure."""
    options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "-k", selection, "tests"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(package.parent), "CYMDN_CPU_LEVEL": "baseline"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # together with the processes that tests started
        process.communicate()
        return "the time limit"
    if process.returncode in (0, 5):  # passed, or no tests are selected
        return None
    if process.returncode < 0:
        return signal.Signals(-process.returncode).name
    failed = re.search(r"^(?:FAILED|ERROR) (tests/.*?)(?: - .*)?$", printed, re.MULTILINE)
    return failed[1] if failed else sys.exit(printed)


def catch(fault, package, control):
    """Return the test that finds a fault; None if all pass."""
    for selection in (fault["first"], *SELECTIONS):
        found = run_tests(package, selection)
        if found and (without := run_tests(control, selection)):
            sys.exit(f"without a fault there fails {without}")
        if found:
            return found
    return None


def try_all(faults):
    """Return the number of faults that no test finds."""
    os.environ["CFLAGS"] = "-O1"
    survived = 0
    with tempfile.TemporaryDirectory(prefix="cymdn-faults-") as temporary:
        control = install(Path(temporary), kernels.installed_package())
        for number, fault in enumerate(faults):
            start = time.monotonic()
            folder = Path(temporary) / str(number)
            found = catch(fault, install(folder, control, fault), control)
            print(f"{time.monotonic() - start:4.0f} s  {fault['name']}: {found or 'SURVIVED'}", flush=True)
            shutil.rmtree(folder)
            survived += not found
    print(f"{len(faults)} faults, {survived} survived")
    return survived


def main():
    parser = argparse.ArgumentParser(description="Put faults into the package and see that the tests find each.")
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--plant", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    every = LISTS["fault"] + LISTS["planted"]
    chosen = [
        fault for fault in (every if arguments.check or arguments.plant else LISTS["fault"])
        if any(word in f"{fault['name']} {fault['promise']}" for word in arguments.words or [""])
    ]  # fmt: skip
    if arguments.check:
        print(f"{len([seed(fault) for fault in chosen])} faults have their functions")
    elif arguments.plant:
        (fault,) = chosen
        plant(arguments.plant, fault)
    else:
        sys.exit(bool(not chosen or try_all(chosen)))


if __name__ == "__main__":
    main()
