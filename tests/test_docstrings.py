"""Every example in a public docstring runs and prints what it says."""

import doctest
import importlib

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
