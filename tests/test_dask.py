"""Scoring in chunks with Dask: the single call's bits, on threads and on a cluster, in memory bounded by the chunk."""

import contextlib
import importlib.util
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from checks import assert_same_bits, each_dtype, run_python
from problems import loss_problem, mixture_problem

import cymdn

da = pytest.importorskip("dask.array", reason="the extra `dask` is not installed")
distributed = pytest.importorskip("distributed", reason="the extra `dask` is not installed")

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "dask_score.py"
SECONDS = 120  # to start a cluster or to wait for a result; what hangs fails


def load_example():
    pytest.importorskip("resource", reason="the example measures memory by what only POSIX has")
    spec = importlib.util.spec_from_file_location("dask_score", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def client():
    """Two processes of one thread."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, timeout=SECONDS
        ) as cluster,
        distributed.Client(cluster, timeout=SECONDS, set_as_default=False) as client,
    ):
        yield client


def scores_of_one_mixture(chunks, shape=(60,), dtype=np.float64):
    """A chunked call and the single one, not yet compared."""
    _, *parameters = mixture_problem((), 5, dtype)
    x = np.random.default_rng(3).normal(scale=3, size=(*shape, 2)).astype(dtype)
    chunked = load_example().log_densities(da.from_array(x, chunks=(*chunks, 2)), *parameters)
    return chunked, cymdn.mixture_logpdf(x, *parameters)


def scores_of_many_mixtures(chunks):
    arguments = mixture_problem((60,), 5)
    chunked = load_example().log_densities(*(da.from_array(a, chunks=(chunks, *a.shape[1:])) for a in arguments))
    return chunked, cymdn.mixture_logpdf(*arguments)


def losses(chunks, pen="bernoulli"):
    arguments = loss_problem((60,), 5, pen, np.float32)
    chunked = load_example().losses(*(da.from_array(a, chunks=(chunks, *a.shape[1:])) for a in arguments))
    return chunked, cymdn.mdn_loss(*arguments, reduction="none")


ROWS = {"one chunk": 60, "single rows": 1, "even": 20, "uneven": (1, 30, 7, 22)}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("score", [lambda rows: scores_of_one_mixture((rows,)), scores_of_many_mixtures, losses])
def test_chunks_on_threads_give_the_bits_of_a_single_call(score, rows):
    chunked, single = score(ROWS[rows])
    assert_same_bits(chunked.compute(scheduler="threads"), single)


@each_dtype
@pytest.mark.parametrize("chunks", [(7, 9), (3, 4), (1, 9), ((2, 5), (8, 1))])
def test_chunks_of_a_grid_give_the_bits_of_a_single_call(chunks, dtype):
    chunked, single = scores_of_one_mixture(chunks, (7, 9), dtype)
    assert chunked.dtype == dtype
    assert_same_bits(chunked.compute(scheduler="threads"), single)


@pytest.mark.parametrize("rows", ["even", "uneven"])
@pytest.mark.parametrize("score", [lambda rows: scores_of_one_mixture((rows,)), scores_of_many_mixtures, losses])
def test_chunks_on_a_cluster_give_the_bits_of_a_single_call(client, score, rows):
    chunked, single = score(ROWS[rows])
    assert_same_bits(client.compute(chunked).result(timeout=SECONDS), single)
    assert len({*client.run(os.getpid).values()} - {os.getpid()}) == 2  # other processes


def test_chunks_that_do_not_match_and_a_row_cut_into_chunks_are_refused():
    raw, x, pen = loss_problem((60,), 5)
    with pytest.raises(ValueError, match="different chunksize"):
        load_example().losses(da.from_array(raw, chunks=(20, 31)), da.from_array(x, chunks=(17, 2)), pen)
    with pytest.raises(ValueError, match="Core dimension"):
        load_example().losses(da.from_array(raw, chunks=(60, 10)), x, pen)


@pytest.mark.parametrize("name", [name for name in cymdn.__all__ if callable(getattr(cymdn, name))])
def test_functions_travel_by_name(name):
    public = getattr(cymdn, name)
    assert pickle.loads(pickle.dumps(public)) is public


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks of memory are read from Linux's /proc")
def test_memory_of_a_worker_is_bounded_by_the_chunk(client):
    # functions within this one travel by value: workers cannot import this file

    def memory(what):
        """Bytes: VmRSS is what is in use, VmHWM its peak."""
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
        return 1024 * int(line.split()[1])

    def start():
        """Forget the peak so far, return what is in use."""
        with contextlib.suppress(OSError):  # where that is forbidden, the peak so far counts too
            Path("/proc/self/clear_refs").write_text("5")
        return memory("VmRSS:")

    def growth(work):
        """By how much each worker's peak is above what it had in use before."""
        before = client.run(start)
        with client.as_current():
            distributed.wait(client.persist(work), timeout=SECONDS)
        return [peak - before[worker] for worker, peak in client.run(memory, "VmHWM:").items()]

    def scores(points, chunk):
        x = da.random.default_rng(0).normal(size=(points, 2), chunks=(chunk, 2))
        return load_example().log_densities(x, *parameters)

    _, *parameters = mixture_problem((), 3)
    points, chunk = 8_000_000, 200_000
    bytes_a_point = 24  # two coordinates and a score
    growth(scores(20_000, 1000).sum())  # imports what it needs
    # One chunk at work, in which random numbers are made before they are points, and one before it that the allocator
    # has not given back: less than 4 chunks. 16 MiB for all that is not arrays.
    assert max(growth(scores(points, chunk).sum())) <= 4 * bytes_a_point * chunk + 2**24
    # where all scores are kept, which is a third, the same measure shows it
    assert sum(growth(scores(points, chunk))) > bytes_a_point * points / 3


def test_the_example_prints_what_it_promises():
    pytest.importorskip("resource", reason="the example measures memory by what only POSIX has")
    run = run_python(EXAMPLE, "--points", "100000", "--chunk", "30001", "--limit", "500MB")
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0] == "100,000 points in 4 chunks, a mixture of 20 components"
    assert lines[-1] == "equal to a single call, bit for bit: True"
