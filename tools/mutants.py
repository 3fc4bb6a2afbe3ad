"""Run mutmut on the Python wrapper and compare what survives with the explained list: `python tools/mutants.py`.

    NAME ...          mutants to try, as mutmut names them, with wildcards; all by default

mutmut changes one thing at a time, and a change that neither the types nor the tests notice survives. Each survivor has
to be in mutants_that_survive.toml with the reason why it may: by function, line and what becomes of the line, so that
an entry outlives the numbers that mutmut gives. pyproject.toml has mutmut's settings.

mutmut imports its mutants from src/, in a copy of the project: there lie the installed package with its compiled
kernels, and beside it the tests, whose conftest.py keeps the checkout off sys.path but has nothing against src/.

The interpreter needs the package, what the tests need, mutmut and mypy. Exits with 1 if a survivor is not on the list.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "tools" / "mutants_that_survive.toml"
# Also those that end a process or never end. What is not among these survives, as do mutants that no test reaches.
CAUGHT = {"killed", "timeout", "crash", "caught by type check"}


class Mutant(NamedTuple):
    """A change of one line of a function; several lines are joined."""

    function: str
    text: str
    becomes: str


def read_list():
    entries = tomllib.loads(LIST.read_text()).get("survivor", [])
    return [Mutant(entry["function"], entry["text"], becomes) for entry in entries for becomes in entry["becomes"]]


def prepare(folder):
    """Lay out what mutmut works on."""
    package = Path(find_spec("cymdn").origin).parent
    shutil.copytree(package, folder / "src" / "cymdn", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)


def run_mutmut(folder, names):
    """Run mutmut, one mutant at a time: its time limits are of the clock."""
    bin_folder = Path(sys.executable).parent
    path = os.pathsep.join([str(bin_folder), os.environ["PATH"]])  # for mypy
    command = [bin_folder / "mutmut", "run", "--max-children=1", *names]
    subprocess.run(command, cwd=folder, check=True, env={**os.environ, "PATH": path})


def results(folder, of_all):
    """Return the mutants and what became of each; those that were not tried count if all should have been."""
    os.chdir(folder)  # mutmut's own functions look there
    found = []
    for meta in sorted(Path("mutants").rglob("*.meta")):
        source = str(meta.relative_to("mutants").with_suffix(""))
        for name, exit_code in json.loads(meta.read_text())["exit_code_by_key"].items():
            if of_all or exit_code is not None:
                found.append((mutant_of(name, get_diff_for_mutant(name, path=source)), status_of(exit_code)))
    os.chdir(ROOT)
    return found


def status_of(exit_code):
    status = status_by_exit_code[exit_code]
    by_signal = exit_code is not None and exit_code < 0 and status != "timeout"
    return "crash" if by_signal else status  # of kernels, by what they should not get


def mutant_of(name, diff):
    function = re.fullmatch(r"cymdn\.(\w+\.)x_(\w+)__mutmut_\d+", name)
    lines = {"-": [], "+": []}
    for line in diff.splitlines()[2:]:  # after the names of files
        if line[0] in lines:
            lines[line[0]].append(line[1:].strip())
    return Mutant(function[1] + function[2], *(" ".join(part) for part in lines.values()))


def as_entry(mutant):
    """Return what a survivor would look like on the list, but for the reason."""
    function, text, becomes = mutant
    lines = ["[[survivor]]", f'function = "{function}"', f"text = '''{text}'''", f"becomes = ['''{becomes}''']"]
    return "\n".join([*lines, 'why = ""', ""])


def main(names):
    """Run mutmut and compare; exit with an error if a survivor is not on the list."""
    listed = read_list()
    with tempfile.TemporaryDirectory(prefix="cymdn-mutants-") as temporary:
        folder = Path(temporary)
        prepare(folder)
        run_mutmut(folder, names)
        found = results(folder, of_all=not names)
    survivors = {mutant for mutant, status in found if status not in CAUGHT}
    news = sorted(survivors - set(listed))
    print(*map(as_entry, news), sep="\n")
    if not names:
        print(*(f"no longer survives: {mutant}" for mutant in listed if mutant not in survivors), sep="\n")
    counts = Counter(status for _, status in found)
    print(*(f"{count} {status}" for status, count in sorted(counts.items())), sep=", ")
    print(f"{len(survivors) - len(news)} of the survivors on the list, {len(news)} not")
    sys.exit(1 if news or not found else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
