"""Dask: scores in chunks have the single call's bits, fits its answer; on a cluster, in memory bounded by the chunk."""

import contextlib
import importlib.util
import os
import pickle
import tracemalloc
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from checks import assert_same_bits, each_dtype, run_python
from problems import loss_problem, mixture_problem

import cymdn

dask = pytest.importorskip("dask", reason="the extra `dask` is not installed")
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


# Fits


def cloud(n=9000, seed=0):
    """Points of three components, their weights, and the points without some coordinates."""
    rng = np.random.default_rng(seed)
    means, spread = np.array([[0.0, 0.0], [6.0, 1.0], [-5.0, 4.0]]), np.array([[1.0, 2.0], [0.5, 0.5], [2.0, 0.3]])
    component = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    points = means[component] + spread[component] * rng.standard_normal((n, 2))
    gone = points.copy()
    gone[::7, 0], gone[3::11, 1], gone[5] = np.nan, np.nan, np.nan
    return points, rng.random(n), gone


@cache  # the same for all chunks
def fits_of_all_points(**options):
    """Arrays, more options, the fit: of points, with weights, with missing coordinates."""
    points, weight, gone = cloud()
    cases = (points, {}), (points, {"sample_weight": weight}), (gone, {"allow_missing": True})
    return [(array, more, cymdn.fit_mixture(array, 3, rng=0, **options, **more)) for array, more in cases]


def assert_same_fit(chunked, single, n):
    """Assert the same answer, but for the order in which the sums of chunks round."""
    assert abs(chunked.log_likelihood - single.log_likelihood) <= 1e-12 * n
    assert chunked.n_points == pytest.approx(single.n_points, rel=1e-12)
    np.testing.assert_array_equal(chunked.stddev_floor, single.stddev_floor)
    # parameters are as far off as the square root of that, in standard deviations
    np.testing.assert_allclose(chunked.mixture.means, single.mixture.means, rtol=0, atol=1e-5)
    np.testing.assert_allclose(chunked.mixture.weights, single.mixture.weights, rtol=0, atol=1e-5)
    assert chunked.background == pytest.approx(single.background, abs=1e-6)


@pytest.mark.parametrize("chunks", [9000, 1000, (1, 4096, 4903)])
@pytest.mark.parametrize("options", [{}, {"covariance_type": "tied"}, {"background": True}, {"stddev_floor": 0.1}])
def test_a_fit_to_chunks_is_that_of_all_points(options, chunks):
    with dask.config.set(scheduler="synchronous"):
        for array, more, single in fits_of_all_points(**options):
            chunked = cymdn.fit_mixture(da.from_array(array, chunks=(chunks, 2)), 3, rng=0, **options, **more)
            assert_same_fit(chunked, single, len(array))


def test_a_fit_on_a_cluster_with_weights_and_missing_coordinates(client):
    _, weight, gone = cloud()
    with client.as_current():
        chunked = cymdn.fit_mixture(
            da.from_array(gone, chunks=(2000, 2)),
            3,
            sample_weight=da.from_array(weight, chunks=3500),
            allow_missing=True,
            background=True,
            rng=0,
        )
    single = cymdn.fit_mixture(gone, 3, sample_weight=weight, allow_missing=True, background=True, rng=0)
    assert_same_fit(chunked, single, len(gone))


def test_float32_and_columns_that_are_cut_are_taken_and_a_batch_is_not():
    points = cloud(600)[0].astype(np.float32)
    with dask.config.set(scheduler="synchronous"):
        fit = cymdn.fit_mixture(da.from_array(points, chunks=(100, 1)), 3, rng=0)
        assert fit.mixture.dtype == np.float32
        assert_same_fit(fit, cymdn.fit_mixture(points, 3, rng=0), 600)
        mixture = cymdn.BivariateMixture.fit(da.from_array(points, chunks=(100, 2)), 3, rng=0)
        assert_same_bits(mixture.means, fit.mixture.means)
        with pytest.raises(ValueError, match=r"^points: expected shape \(n, 2\) of a Dask array, got \(2, 3, 2\)$"):
            cymdn.fit_mixture(da.zeros((2, 3, 2)), 1)


@pytest.mark.parametrize(
    ("argument", "spoil", "message"),
    [
        (
            "points",
            lambda p, w: p.__setitem__((777, 1), np.inf),
            r"points: expected finite .*, got inf at index \(777, 1\)",
        ),
        ("weights", lambda p, w: w.__setitem__(501, -1.0), r"sample_weight: .* >= 0, got -1.0 at index \(501,\)"),
    ],
)
def test_the_first_bad_value_of_all_chunks_is_named(argument, spoil, message):
    points, weight, _ = cloud(1000)
    spoil(points, weight)
    with dask.config.set(scheduler="synchronous"), pytest.raises(ValueError, match=message):
        cymdn.fit_mixture(da.from_array(points, chunks=(100, 2)), 2, sample_weight=weight, rng=0)


def test_chunks_of_unknown_length_and_weights_of_another_are_refused():
    points = da.from_array(cloud(100)[0], chunks=(10, 2))
    with pytest.raises(ValueError, match=r"^points: expected a Dask array of known chunks"):
        cymdn.fit_mixture(points[points[:, 0] > 0], 2)
    with pytest.raises(ValueError, match=r"^sample_weight: expected shape \(100,\), got \(99,\)$"):
        cymdn.fit_mixture(points, 2, sample_weight=np.ones(99))


def test_memory_of_a_fit_is_bounded_by_the_chunk():
    def peak(chunks):
        points = da.random.default_rng(0).normal(size=(50_000 * chunks, 2), chunks=(50_000, 2))
        tracemalloc.start()
        cymdn.fit_mixture(points, 2, rng=0, stddev_floor=0.01, max_steps=3)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    with dask.config.set(scheduler="synchronous"):
        peak(1)  # imports
        # 0.8 MB a chunk: the tasks of the graph are all that grows
        assert peak(40) - peak(4) < 36 * 30_000


def test_the_example_of_a_fit_prints_what_it_promises():
    pytest.importorskip("resource", reason="the example measures memory by what only POSIX has")
    run = run_python(EXAMPLE.with_name("dask_fit.py"), "--points", "120000", "--chunk", "30001")
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0] == "120,000 points in 4 chunks, 2 MB"
    assert lines[-1].startswith("log-likelihood a point -3.6")
