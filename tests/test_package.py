"""The installed package: where it comes from, what it contains, which way its imports go, what importing it costs."""

import ast
import importlib.metadata
import re
from pathlib import Path

import pytest
from checks import run_python

import cymdn

ROOT = Path(__file__).resolve().parents[1]

# Each layer and those it may import from; docs and the docstring of cymdn tell why.
ARROWS = {
    "__main__": {"show_config"},
    "__init__": {
        "_builds", "_diagnose", "_distribution", "_fit", "_gaussian", "_layout", "_mixture", "_mdn", "_sampling",
        "_univariate",
    },
    "_diagnose": {"_arrays", "_layout", "_mdn"},
    "activations": {"_layout"},
    "torch": {
        "BivariateMixture", "_arrays", "_builds", "_layout", "_mdn", "_portable", "_portable_draws", "_sampling",
    },
    "jax": {"_arrays", "_layout", "_mdn", "_portable", "_portable_draws", "_sampling"},
    "_portable_draws": {"_layout", "_portable", "_sampling"},
    "_portable": {"_layout"},
    "_distribution": {
        "_affine",
        "_arrays",
        "_batch",
        "_distribution_kernels",
        "_estimation",
        "_layout",
        "_parameters",
        "_plot",
        "_quadrature",
        "_running",
        "_sampling",
        "_univariate",
    },
    "_fit": {"_arrays", "_distribution", "_estimation", "_parameters", "_sampling"},
    "_estimation": {
        "_acceleration", "_arrays", "_chunked", "_parameters", "_points", "_running", "_sampling", "_search", "_units",
    },
    "_chunked": {"_arrays", "_points"},
    "_units": {"_parameters", "_points", "_search"},
    "_acceleration": {"_points", "_search"},
    "_search": {"_distribution_kernels", "_points", "_running"},
    "_points": {"_arrays", "_distribution_kernels", "_running"},
    "_plot": {"_quadrature"},
    "_quadrature": {"_parameters", "_univariate"},
    "_affine": set(),
    "_univariate": {"_arrays", "_batch", "_distribution_kernels", "_layout", "_running", "_sampling"},
    "_batch": set(),
    "_sampling": {"_arrays", "_distribution_kernels", "_layout"},
    "_gaussian": {"_arrays", "_builds", "_running"},
    "_mixture": {"_arrays", "_running"},
    "_mdn": {"_arrays", "_builds", "_layout", "_running"},
    "_running": {"_arrays", "_builds"},
    "_parameters": {"_affine", "_layout", "_portable", "_univariate"},
    "_layout": {"_arrays"},
    "_builds": {"__version__", "_kernels"},
    "_arrays": {"_distribution_kernels"},
    "_distribution_kernels": {
        "_arithmetic", "_buffers", "_columns", "_component", "_draws", "_elementary", "_expectation", "_modes",
        "_normal",
    },
    "_expectation": {"_columns", "_elementary"},
    "_draws": {"_bivariate", "_columns", "_component", "_elementary"},
    "_modes": {"_bivariate", "_component", "_elementary"},
    "_component": {"_bivariate", "_columns", "_elementary"},
    "_kernels": {
        "_arithmetic",
        "_block",
        "_buffers",
        "_columns",
        "_cpu",
        "_drop_in",
        "_elementary",
        "_pen",
        "_pipeline",
        "_rectangle",
    },
    "_rectangle": {"_bivariate", "_component", "_elementary", "_legendre", "_normal"},
    "_normal": {"_bivariate", "_elementary", "_legendre"},
    "_legendre": set(),
    "_buffers": {"_columns"},
    "_pipeline": {"_bivariate", "_block", "_columns", "_pen", "_rows"},
    "_rows": {"_bivariate", "_block", "_columns", "_elementary"},
    "_pen": {"_bivariate", "_block", "_columns", "_elementary"},
    "_drop_in": {"_bivariate", "_block", "_columns", "_elementary"},
    "_block": {"_bivariate", "_columns", "_elementary"},
    "_columns": set(),
    "_bivariate": {"_elementary"},
    "_elementary": set(),
    "_cpu": set(),
    "_arithmetic": set(),
}  # fmt: skip

OPTIONAL = {"jax", "torch"}  # modules that `import cymdn` leaves alone: each needs more than NumPy


def imports_of(path):
    """The modules of cymdn that a Python or Cython file names in its imports."""
    text = path.read_text()
    if path.suffix in (".pyx", ".pxd"):
        return set(re.findall(r"^\s*from cymdn(?: cimport |\.)(\w+)", text, re.MULTILINE))
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "cymdn":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cymdn."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("cymdn") for alias in node.names), "write: from cymdn import ..."
    return found


def test_imports_go_down_only():
    files = [path for path in (ROOT / "cymdn").iterdir() if path.suffix in (".py", ".pyx", ".pxd")]
    assert {path.stem for path in files} == set(ARROWS)
    for path in files:
        assert imports_of(path) <= ARROWS[path.stem], path.name


def test_tests_run_against_the_installed_package_whose_version_is_that_of_the_distribution():
    assert Path(cymdn.__file__).resolve().parent != ROOT / "cymdn"
    assert cymdn.__version__ == importlib.metadata.version("cymdn")


def test_import_of_the_sources_says_what_is_wrong():
    run = run_python("-c", "import cymdn", cwd=ROOT)
    assert run.stderr.splitlines()[-1].startswith("ImportError: cymdn: no compiled kernels beside ")
    assert run.stderr.count("Traceback") == 1
    assert "use python -P, or another folder" in run.stderr


def test_wheel_holds_only_what_a_user_needs():
    files = [Path(file) for file in importlib.metadata.files("cymdn")]
    package = {file.name for file in files if file.parent == Path("cymdn")}
    modules = {f"{stem}.py" for stem in ARROWS if (ROOT / "cymdn" / f"{stem}.py").exists()}
    compiled = {name for name in package if name.endswith((".so", ".pyd"))}
    # one build of the kernels for each CPU level, which _builds.py knows by these names; none twice, as left over
    # from a build of another kind
    names = [name.partition(".")[0] for name in compiled]
    assert len(names) == len(set(names))
    assert set(names) <= {"_distribution_kernels", "_kernels", "_kernels_v3", "_kernels_v4"}
    assert package == modules | compiled | {"_distribution_kernels.pyi", "_kernels.pyi", "py.typed"}
    elsewhere = [file for file in files if file.parent != Path("cymdn") and "__pycache__" not in file.parts]
    assert all(file.parts[0].endswith(".dist-info") for file in elsewhere)


def test_public_names_are_those_of_the_documentation():
    table = (ROOT / "docs" / "api" / "index.md").read_text()
    functions = re.findall(r"^\| `(\w+)\(", table, re.MULTILINE)
    types = re.findall(r"`(\w+)`", re.search(r"^Types of results, for annotations: (.*)$", table, re.MULTILINE)[1])
    assert sorted(cymdn.__all__) == sorted(["__version__", *functions, *types])
    public = {name for name in vars(cymdn) if not name.startswith("_")}
    assert public <= set(cymdn.__all__) | OPTIONAL | {"activations"}  # other tests may have imported these


@pytest.mark.parametrize("statement", ["import cymdn", "from cymdn import *"])
def test_import_needs_only_numpy_and_warns_of_nothing(statement):
    program = f"""
import sys
import numpy
before = set(sys.modules)
{statement}
new = {{name.split(".")[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names)
print(*sorted(name for name in new if "cython" not in name.lower()))
"""
    # Cython registers a module of its own for the types that its extensions share, hence its name is left out
    run = run_python("-X", "dev", "-W", "error", "-c", program)
    assert set(run.stdout.split()) <= {"cymdn", "numpy"}  # numpy loads parts of itself on demand
    assert run.stderr == ""


@pytest.mark.parametrize("name", sorted(OPTIONAL))
def test_an_optional_module_is_left_alone_and_without_its_package_says_what_to_install(name):
    program = f"import sys, cymdn; print(*[module for module in ('cymdn.{name}', '{name}') if module in sys.modules])"
    assert run_python("-c", program).stdout == "\n"
    run = run_python("-c", f"import sys; sys.modules['{name}'] = None; import cymdn.{name}")
    message = rf"ImportError: cymdn\.{name} needs \w+: python -m pip install {name}"
    assert re.fullmatch(message, run.stderr.splitlines()[-1])


@pytest.mark.parametrize("name", sorted(OPTIONAL))
def test_optional_module_hides_no_fault_of_its_package(name, tmp_path):
    (tmp_path / f"{name}.py").write_text("import no_such_module")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import cymdn.{name}"
    run = run_python("-c", program)
    assert run.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'no_such_module'"
