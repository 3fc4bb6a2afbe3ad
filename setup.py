"""Builds the compiled kernels. Everything else about the package stands in pyproject.toml."""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# CYMDN_BOUNDS_CHECKS=1 builds with every memoryview access checked; the test suite passes on it too.
CHECKED = os.environ.get("CYMDN_BOUNDS_CHECKS", "0") != "0"

DIRECTIVES = {
    "language_level": "3",
    "boundscheck": CHECKED,
    "initializedcheck": CHECKED,
    "wraparound": False,
    "cdivision": True,  # C division: no test for zero, which would keep the loops from vectorising
    "embedsignature": False,
    "freethreading_compatible": True,
}

# Results must not depend on the compiler or the CPU, hence no contraction of a * b + c into one rounding and none of
# the -ffast-math family. The other two flags only say that nobody reads errno or the floating-point exception flags.
FLAGS = {
    "unix": ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"],
    "msvc": ["/O2", "/fp:precise"],
}


class BuildWithFlags(build_ext):
    """Choose the flags by the compiler that is really used, not by the platform."""

    def build_extensions(self):
        self.force = True  # what the environment asked for last time does not show in the files' times
        family = "msvc" if self.compiler.compiler_type == "msvc" else "unix"
        for extension in self.extensions:
            extension.extra_compile_args = FLAGS[family]
        super().build_extensions()


setup(
    ext_modules=cythonize(
        [Extension("cymdn._kernels", ["cymdn/_kernels.pyx"])],
        build_dir="build/checked" if CHECKED else "build/cython",  # the generated C stays out of the package
        compiler_directives=DIRECTIVES,
    ),
    cmdclass={"build_ext": BuildWithFlags},
)
