"""Builds the compiled kernels. Everything else about the package stands in pyproject.toml."""

import os
import platform
from pathlib import Path

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

# On x86-64 the same kernels once more for each CPU level; _dispatch.py chooses at import.
LEVELS = ["v3", "v4"] if platform.machine() in ("x86_64", "AMD64") else []


class BuildWithFlags(build_ext):
    """Choose the flags by the compiler that is really used, not by the platform."""

    def build_extensions(self):
        self.force = True  # what the environment asked for last time does not show in the files' times
        if self.compiler.compiler_type == "msvc":
            self.extensions = [extension for extension in self.extensions if not level_of(extension)]
        super().build_extensions()

    def build_extension(self, extension):
        family = "msvc" if self.compiler.compiler_type == "msvc" else "unix"
        level = level_of(extension)
        extension.extra_compile_args = FLAGS[family] + ([f"-march=x86-64-{level}"] if level else [])
        top = self.build_temp
        self.build_temp = str(Path(top) / extension.name)  # one source, an object a level
        super().build_extension(extension)
        self.build_temp = top


def level_of(extension):
    """Return the CPU level that the extension's name ends in, or an empty string."""
    return extension.name.partition("_kernels_")[2]


def at_level(kernels, level):
    """Return the same extension under another name, which its C code takes by macro."""
    name = f"_kernels_{level}"
    macros = [("PyInit__kernels", f"PyInit_{name}")]
    # optional: a compiler that does not know the level builds a wheel without it
    return Extension(f"cymdn.{name}", kernels.sources, define_macros=macros, optional=True)


kernels, distribution_kernels = cythonize(
    [
        Extension("cymdn._kernels", ["cymdn/_kernels.pyx"]),
        Extension("cymdn._distribution_kernels", ["cymdn/_distribution_kernels.pyx"]),
    ],
    build_dir="build/checked" if CHECKED else "build/cython",  # the generated C stays out of the package
    compiler_directives=DIRECTIVES,
)

setup(
    ext_modules=[kernels, distribution_kernels, *(at_level(kernels, level) for level in LEVELS)],
    cmdclass={"build_ext": BuildWithFlags},
)
