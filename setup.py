"""Builds the compiled kernels. Everything else about the package is in pyproject.toml."""

import os
import platform
import shlex
import sys
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# CYMDN_BOUNDS_CHECKS=1 adds checks of both ends of what each block touches; the test suite passes on it, too.
CHECKED = os.environ.get("CYMDN_BOUNDS_CHECKS", "0") != "0"

# One wheel for CPython 3.11 and later: the Limited API has had the buffer protocol since 3.11. Free-threaded builds and
# PyPy have no Limited API. CYMDN_LIMITED_API=0 builds for this version alone, which makes small calls faster.
HAS_LIMITED_API = sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")
LIMITED = HAS_LIMITED_API and os.environ.get("CYMDN_LIMITED_API", "1") != "0"

# A folder for each kind of build: setuptools also packs what an earlier build left in the folder.
BUILD = f"build/{'abi3' if LIMITED else 'version'}{'-checked' if CHECKED else ''}"

DIRECTIVES = {
    "language_level": "3",
    "boundscheck": CHECKED,
    "initializedcheck": CHECKED,
    "wraparound": False,
    "cdivision": True,  # C division: a test for zero would prevent vectorisation of the loops
    "embedsignature": False,
    "freethreading_compatible": True,
}

# Results must not depend on the compiler or the CPU: no contraction of a * b + c into one rounding, and nothing of the
# -ffast-math family. Two flags only declare that errno and the floating-point exception flags are not read. With hidden
# visibility a build exports only its init function. CFLAGS of the environment come last, so they take precedence.
FLAGS = {
    "unix": ["-O3", "-g0", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"],
    "msvc": ["/O2", "/fp:precise"],
}

# On x86-64 the same kernels are also built for each CPU level; _builds.py chooses one at import.
LEVELS = ["v3", "v4"] if platform.machine() in ("x86_64", "AMD64") else []


class BuildWithFlags(build_ext):
    """Choose the flags by the compiler that is actually used, not by the platform."""

    def run(self):
        # here, not at the top: setup.py runs three times for one installation, and two of these runs build nothing
        own = [extension for extension in self.extensions if not level_of(extension)]
        translated = cythonize(
            own,
            build_dir=f"{BUILD}/cython",  # the generated C stays out of the package
            compiler_directives=DIRECTIVES,
            force=True,  # Cython 3.3 overlooks that `from cymdn cimport _bivariate` depends on _bivariate.pxd
        )
        c_files = {pyx.sources[0]: Path(c.sources[0]) for pyx, c in zip(own, translated, strict=True)}
        for extension in self.extensions:
            extension.sources = [str(source_of(extension, c_files[extension.sources[0]]))]
        super().run()

    def build_extensions(self):
        self.force = True  # file times do not show which environment variables an earlier build had
        self.parallel = self.parallel or os.cpu_count()
        if self.compiler.compiler_type == "msvc":
            self.extensions = [extension for extension in self.extensions if not level_of(extension)]
        else:
            # a Python with a run path adds it to all that it builds; these extensions need only libc
            linker = self.compiler.linker_so
            self.compiler.linker_so = [word for word in linker if not word.startswith("-Wl,-rpath,")]
        super().build_extensions()

    def build_extension(self, extension):
        family = "msvc" if self.compiler.compiler_type == "msvc" else "unix"
        level = level_of(extension)
        flags = FLAGS[family] + ([f"-march=x86-64-{level}"] if level else [])
        extension.extra_compile_args = flags + shlex.split(os.environ.get("CFLAGS", ""))
        super().build_extension(extension)


def level_of(extension):
    """Return the CPU level that the extension's name ends in, or an empty string."""
    return extension.name.partition("_kernels_")[2]


def extension_of(name, sources, macros=(), **options):
    """Return an extension of the package, under the Limited API if there is one."""
    macros = [
        *macros,
        *([("Py_LIMITED_API", "0x030B0000")] if LIMITED else []),
        *([("CYMDN_BOUNDS_CHECKS", None)] if CHECKED else []),
    ]
    return Extension(f"cymdn.{name}", sources, define_macros=macros, py_limited_api=LIMITED, **options)


def source_of(extension, c_file):
    """Return the C file of an extension; each level has its own, so that levels can be compiled in parallel."""
    level = level_of(extension)
    if not level:
        return c_file
    source = c_file.with_stem(f"_kernels_{level}")
    source.write_text(f'#include "{c_file.name}"\n')
    return source


extensions = [
    extension_of("_kernels", ["cymdn/_kernels.pyx"]),
    # one build for all processors, so that all give the same bits
    extension_of("_distribution_kernels", ["cymdn/_distribution_kernels.pyx"], [("CYMDN_WITHOUT_FMA", None)]),
    # optional: a compiler that does not know a level builds a wheel without it
    *(
        extension_of(
            f"_kernels_{level}",
            ["cymdn/_kernels.pyx"],
            [("PyInit__kernels", f"PyInit__kernels_{level}")],
            optional=True,
        )
        for level in LEVELS
    ),
]

setup(
    ext_modules=extensions,
    cmdclass={"build_ext": BuildWithFlags},
    options={"build": {"build_base": BUILD}, "bdist_wheel": {"py_limited_api": "cp311"} if LIMITED else {}},
)
