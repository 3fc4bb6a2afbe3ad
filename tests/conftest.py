"""The tests run against the installed package, never against the checkout they lie in."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# `python -m pytest` and editors put the current folder on sys.path; there the checkout would hide the installed wheel
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
