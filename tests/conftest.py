"""The tests run against the installed package, never against the checkout they lie in."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# `python -m pytest` and editors put the current folder on sys.path; there the checkout would hide the installed wheel
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]


@pytest.fixture
def losses_called(monkeypatch):
    """The calls of cymdn's losses that integrations make: name, arguments, keywords."""
    from cymdn import _mdn

    made = []

    def watched(name, function):
        def call(*arguments, **keywords):
            made.append((name, arguments, keywords))
            return function(*arguments, **keywords)

        return call

    for name in ("mdn_loss", "mdn_loss_and_gradient", "loss_and_gradients"):
        monkeypatch.setattr(_mdn, name, watched(name, getattr(_mdn, name)))
    return made
