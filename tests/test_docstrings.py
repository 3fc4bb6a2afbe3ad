"""Every example in a public docstring runs and prints what it says, and the code by hand is what it says it is."""

import doctest
import importlib
import pydoc
import re
from pathlib import Path

import numpy as np
import pytest

import cymdn
from cymdn import UnivariateMixture

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = [getattr(cymdn, name) for name in cymdn.__all__ if not name.startswith("_")]
METHODS = [
    method
    for owner in (cymdn.BivariateMixture, UnivariateMixture)
    for name, method in vars(owner).items()
    if not name.startswith("_") and not isinstance(method, (property, type(UnivariateMixture.__dict__["_means"])))
]


@pytest.mark.parametrize("public", [*PUBLIC, *METHODS], ids=lambda public: public.__qualname__)
def test_example_runs(public):
    function = getattr(public, "__func__", public)
    module = importlib.import_module(function.__module__)
    (test,) = doctest.DocTestFinder(recurse=False).find(function, public.__qualname__, globs=dict(vars(module)))
    if function.__name__ != "plot":  # its example is a figure
        assert test.examples, "no example"
    assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.parametrize("public", [*PUBLIC, *METHODS], ids=lambda public: public.__qualname__)
def test_help_begins_with_a_signature_of_names(public):
    title, signature = pydoc.plaintext.document(public).splitlines()[:2]
    assert "_typing" not in title + signature  # what ArrayLike and NDArray stand for, written out


def test_help_of_the_package_names_what_is_public_and_its_example_runs():
    words = re.findall(r"\w+", cymdn.__doc__)
    results = ("GaussianGradient", "MdnSample", "MixtureFit", "MixtureGradient")  # described where they are returned
    derived = [name for name in cymdn.__all__ if name.endswith("logpdf_and_gradient")]
    assert set(cymdn.__all__) - {*results, *derived, "__version__"} <= set(words)
    assert doctest.testmod(cymdn).failed == 0


OPTIONAL = {"torch": ["MDNHead", "MDNLoss", "mdn_loss", "mdn_sample"], "jax": ["mdn_loss", "mdn_sample"]}


@pytest.mark.parametrize("module", OPTIONAL)
def test_examples_of_the_optional_modules_run_and_nothing_else_is_public(module):
    pytest.importorskip(module, reason=f"the extra `{module}` is not installed")
    optional = importlib.import_module(f"cymdn.{module}")
    assert optional.__all__ == OPTIONAL[module]
    for name in optional.__all__:
        (test,) = doctest.DocTestFinder(recurse=False).find(getattr(optional, name), name, globs={})
        assert test.examples
        assert doctest.DocTestRunner().run(test).failed == 0


PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))]
FENCED = r"^```python\n(.*?)^```"


# doctests run as tests of their own; here they make what the code between them uses
@pytest.mark.parametrize(
    "page", [page for page in PAGES if re.search(r"^```python\n(?!>>>)", (ROOT / page).read_text(), re.MULTILINE)]
)
def test_code_of_a_page_runs_from_that_page_alone_torch_or_jax_too(page, monkeypatch, tmp_path):
    blocks = re.findall(FENCED, (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    imported = r"^(?:from|import) (?:cymdn\.)?(flax|jax|sklearn|torch|tqdm)\b"
    for module in re.findall(imported, "".join(blocks), re.MULTILINE):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)  # some write files
    namespace = {"__name__": page}
    for block in blocks:
        examples = "".join(example.source for example in doctest.DocTestParser().get_examples(block))
        exec(examples or block, namespace)


def test_the_loss_by_hand_is_the_same_loss():
    page = (ROOT / "docs" / "start.md").read_text()
    (by_hand,) = re.findall(r"```python\n(def mdn_loss_and_gradient.*?)```", page, re.DOTALL)
    namespace = {"np": np}
    exec(by_hand, namespace)
    rng = np.random.default_rng(0)
    raw, x, pen = rng.normal(size=(50, 121)), rng.normal(size=(50, 2)), (rng.random(50) < 0.1).astype(float)
    loss, gradient = cymdn.mdn_loss_and_gradient(raw, x, pen)
    expected_loss, expected_gradient = namespace["mdn_loss_and_gradient"](raw, x, pen)
    # both round some ten times, at ordinary values
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-14, atol=0)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=1e-14)
