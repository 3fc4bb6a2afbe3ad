"""Every example in a public docstring runs and prints what it says, and README's code by hand is what it says it is."""

import doctest
import importlib
import re
from pathlib import Path

import numpy as np
import pytest

import cymdn

FUNCTIONS = [name for name in cymdn.__all__ if not name.startswith("_")]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_example_runs(name):
    function = getattr(cymdn, name)
    module = importlib.import_module(function.__module__)
    (test,) = (test for test in doctest.DocTestFinder(recurse=False).find(function, name, globs=dict(vars(module))))
    assert test.examples, "no example"
    assert doctest.DocTestRunner().run(test).failed == 0


def test_the_loss_by_hand_in_the_readme_is_the_same_loss():
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text()
    (by_hand,) = re.findall(r"```python\n(def mdn_loss_and_gradient.*?)```", readme, re.DOTALL)
    namespace = {"np": np}
    exec(by_hand, namespace)
    rng = np.random.default_rng(0)
    raw, x, pen = rng.normal(size=(50, 121)), rng.normal(size=(50, 2)), (rng.random(50) < 0.1).astype(float)
    loss, gradient = cymdn.mdn_loss_and_gradient(raw, x, pen)
    expected_loss, expected_gradient = namespace["mdn_loss_and_gradient"](raw, x, pen)
    # both round some ten times, at ordinary values
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-14, atol=0)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=1e-14)
