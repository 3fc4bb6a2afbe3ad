"""The examples give the answers that they promise. (CI runs the long one, handwriting.py, as README says.)"""

import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from checks import run_python

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def example(name):
    pytest.importorskip("matplotlib", reason="the extra `demo` is not installed")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_floor_of_pixels_bounds_the_loss_from_below():
    losses, found = example("pixels").train(1.0, 20)
    assert losses.shape == (2, 3)
    assert (losses[:, 1:] > np.log(2 * np.pi)).all()
    assert min(found.smallest_stddevs) >= 1.0


def test_old_faithful_reaches_the_known_maximum(monkeypatch, tmp_path, capsys):
    picture = tmp_path / "old_faithful.png"
    monkeypatch.setattr(sys, "argv", ["old_faithful.py", "--out", str(picture)])
    example("old_faithful").main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith("best") for line in lines[:5]] == [False, True, False, False, False]
    assert lines[6] == "log-likelihood -1130.264   (known maximum -1130.264)"
    rows = [line.split() for line in lines[10:16]]
    assert len(rows) == 6
    for *_, found0, known0, found1, known1 in rows:
        # the default floor is 1e-3 of the spread: 5e-6 of the variance of a component
        assert float(found0) == pytest.approx(float(known0), rel=1e-5, abs=1e-5)
        assert float(found1) == pytest.approx(float(known1), rel=1e-5, abs=1e-5)
    assert picture.stat().st_size > 10_000


def test_network_learns_the_same_by_either_loss(monkeypatch, capsys):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra `torch`)")
    for package in ("matplotlib", "HersheyFonts", "scipy", "tqdm"):
        pytest.importorskip(package, reason="the extra `demo` is not installed")
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # as handwriting.py would for good
    data = importlib.import_module("handwriting")
    monkeypatch.setattr(data, "N_TRAINING_POINTS", 12_000)
    monkeypatch.setattr(data, "N_HELD_OUT_POINTS", 2_000)
    monkeypatch.setattr(sys, "argv", ["handwriting_torch.py", "--steps", "3"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        importlib.import_module("handwriting_torch").main()
    finally:
        torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    step, *losses = map(float, lines[3].split())
    assert step == 3
    # float32 by hand against float64 rounded: some 1e-6 of losses of about 2 after so few steps, and four decimals
    assert losses[:2] == pytest.approx(losses[2:], abs=2e-4)
    network, forward, backward, total, share = (float(number.rstrip("%")) for number in lines[6].split()[1:])
    assert total == pytest.approx(network + forward + backward, abs=0.2)
    assert share == pytest.approx(100 * (forward + backward) / total, rel=0.1, abs=0.1)


def test_two_processes_have_the_losses_and_gradients_of_one():
    pytest.importorskip("torch", reason="PyTorch is not installed (the extra `torch`)")
    run = run_python(EXAMPLES / "ddp_torch.py")
    assert run.returncode == 0, run.stderr
    rows = [line.split() for line in run.stdout.splitlines()[3:]]
    assert len(rows) == 5
    for _, two, one, difference in rows:
        # the mean of two halves rounds once more than the mean of all, in float32, as do sums over 512 rows; a step of
        # gradient descent passes this on
        assert float(two) == pytest.approx(float(one), rel=1e-6)
        assert float(difference) < 1e-6
