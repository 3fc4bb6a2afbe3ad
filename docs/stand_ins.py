"""Stand-ins for frameworks that are not installed, so that autodoc can import the modules that need them.

Sphinx's own, `autodoc_mock_imports`, know no `Tensor | None`, which those modules evaluate for their annotations.
"""

import sys
from functools import update_wrapper
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from inspect import isfunction


class StandIn:
    """Any attribute, call, operator or item of it is another one; as a base class it is object."""

    def __init__(self, function=None):
        if function is not None:
            update_wrapper(self, function)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return StandIn()

    def __call__(self, *args, **_):
        """Return one; called on a function, as a decorator is, one with the function's signature and docstring."""
        return StandIn(next(filter(isfunction, args), None))

    def __getitem__(self, _):
        return StandIn()

    def __or__(self, _):
        return StandIn()

    __ror__ = __or__

    def __mro_entries__(self, _):
        return (object,)


class Finder(MetaPathFinder, Loader):
    """Finds a stand-in for each of some packages, and for all that is in them."""

    def __init__(self, packages):
        self.packages = packages

    def find_spec(self, name, path=None, target=None):
        """Return how to load a name in one of the packages, else None."""
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in self.packages else None

    def create_module(self, spec):
        """Return what is imported."""
        return StandIn()

    def exec_module(self, module):
        """Run nothing."""


def install(*packages):
    """Let `import` find stand-ins for these packages, even if the packages are there."""
    sys.meta_path.insert(0, Finder(packages))
