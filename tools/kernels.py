"""Builds the compiled modules of setup.py in another way: with checks, counters, sanitizers or a fault.

    python tools/kernels.py [FOLDER]    build the sources in FOLDER, or the checkout's, into the installed package

Each source is compiled once, in the build that every compiler supports: the CPU levels share their sources. With
CYMDN_CPU_LEVEL=baseline the package uses it. CFLAGS, LDFLAGS, CC and CYMDN_BOUNDS_CHECKS work as for pip.
"""

import os
import runpy
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]


class Settings(NamedTuple):
    """The settings of setup.py: Cython's directives, flags of GCC and Clang, extensions."""

    directives: dict
    flags: list
    extensions: list


def settings():
    """Run setup.py without building."""
    with patch("setuptools.setup") as setup, patch("Cython.Build.cythonize", lambda extensions, **_: extensions):
        variables = runpy.run_path(str(ROOT / "setup.py"))
    return Settings(variables["DIRECTIVES"], variables["FLAGS"]["unix"], setup.call_args.kwargs["ext_modules"])


def for_every_compiler(extensions):
    """Return the extensions that are not optional, one for each source."""
    return [extension for extension in extensions if not extension.optional]


def installed_package():
    return Path(find_spec("cymdn").submodule_search_locations[0])


def translate(source, directives, folder, root=ROOT):
    """Translate a Cython file to C, with line directives; return the C file."""
    target = folder / Path(source).with_suffix(".c").name
    options = [word for name, value in directives.items() for word in ("-X", f"{name}={value}")]
    command = [sys.executable, "-m", "cython", "--line-directives", *options, source, "-o", target]
    subprocess.run(command, check=True, cwd=root)
    return target


def options_of(extension, flags):
    """Return the options that an extension is compiled with."""
    macros = [f"-D{name}={value}" for name, value in extension.define_macros]
    return [*flags, "-fPIC", f"-I{sysconfig.get_path('include')}", *macros]


def build(package, root=ROOT):
    """Compile the sources in a folder into an installed package."""
    directives, flags, extensions = settings()
    cflags, ldflags = (shlex.split(os.environ.get(name, "")) for name in ("CFLAGS", "LDFLAGS"))
    with tempfile.TemporaryDirectory() as folder:
        for extension in for_every_compiler(extensions):
            c_file = translate(extension.sources[0], directives, Path(folder), root)
            (library,) = package.glob(f"{extension.name.rpartition('.')[2]}.*so")
            options = [*options_of(extension, flags), "-w", *cflags, *ldflags]
            subprocess.run([os.environ.get("CC", "gcc"), *options, "-shared", c_file, "-o", library], check=True)


if __name__ == "__main__":
    build(installed_package(), *(Path(folder).resolve() for folder in sys.argv[1:]))
