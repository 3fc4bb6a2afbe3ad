"""Score more points than fit in memory: log-densities and losses chunk by chunk, on a cluster, with Dask.

    python -m pip install ".[dask]" && python examples/dask_score.py

cymdn's functions treat leading axes like NumPy's generalised ufuncs: they broadcast them, and rows are independent.
dask.array.apply_gufunc is made for such functions. It takes the core axes from a signature, broadcasts the other axes,
determines shape and chunks of the result, and rejects core axes with several chunks and arguments whose chunks do not
match (dask.array.unify_chunks makes them match); with map_blocks the caller would have to do all this. The functions
can be imported by name, so they can be sent to other processes and machines.

Here the cluster is two processes on this machine, each with a memory limit; with an address instead it can be any other
cluster. Each chunk of points is generated on the worker that scores it, as it would be read from storage there, and its
scores are written to disk. So a worker holds some chunks at a time, for any length of the array: its peak is printed,
and the size of the whole. The scores are bit-identical to those of one call for the whole array. (Linux or macOS.)
"""

import argparse
import resource
import sys
import tempfile
from pathlib import Path

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

from cymdn import mdn_loss, mixture_logpdf

COMPONENTS = 20
MEGABYTE = 1e6


def log_densities(points, weights, mean, stddev, correlation):
    """Log-densities (...) of mixtures at a Dask array of points (..., 2); leading axes broadcast, chunked or not."""
    return da.apply_gufunc(
        mixture_logpdf,
        "(xy),(m),(m,xy),(m,xy),(m)->()",
        *(points, weights, mean, stddev, correlation),
        output_dtypes=points.dtype,
    )


def losses(raw, x, pen):
    """Losses (...) of rows of raw network output (..., 1 + 6 M), each at its point (..., 2) and pen (...)."""
    # "sum" and "mean" would be those of each chunk: reduce the result instead
    return da.apply_gufunc(mdn_loss, "(output),(xy),()->()", raw, x, pen, reduction="none", output_dtypes=raw.dtype)


def make_mixture(rng):
    """Weights, means, standard deviations and correlations."""
    mean = rng.normal(scale=3.0, size=(COMPONENTS, 2))
    stddev = np.exp(rng.normal(scale=0.5, size=(COMPONENTS, 2)))
    return rng.dirichlet(np.ones(COMPONENTS)), mean, stddev, np.tanh(rng.normal(size=COMPONENTS))


def peak_memory():
    """The peak memory of this process, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts kibibytes


def score_on_cluster(points, mixture, folder, limit):
    """Write the scores into the folder, one file per chunk; return the peak memory of each worker before and after."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, memory_limit=limit, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        before = client.run(peak_memory)
        da.to_npy_stack(folder, log_densities(points, *mixture))
        return list(zip(before.values(), client.run(peak_memory).values(), strict=True))


def main():
    """Score on the cluster, print the memory it took, compare with a single call."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=24_000_000)
    parser.add_argument("--chunk", type=int, default=500_000, help="points a chunk")
    parser.add_argument("--limit", default="250MB", help="memory of each worker")
    arguments = parser.parse_args()

    mixture = make_mixture(np.random.default_rng(0))
    points = da.random.default_rng(0).normal(scale=4.0, size=(arguments.points, 2), chunks=(arguments.chunk, 2))
    with tempfile.TemporaryDirectory() as folder:
        peaks = score_on_cluster(points, mixture, folder, arguments.limit)
        files = [Path(folder) / f"{k}.npy" for k in range(points.numblocks[0])]
        scores = np.concatenate([np.load(file) for file in files])

    row = points.dtype.itemsize * 3  # two coordinates and a score
    print(f"{len(scores):,} points in {len(files)} chunks, a mixture of {COMPONENTS} components")
    print(f"points and scores        {len(scores) * row / MEGABYTE:8.0f} MB")
    print(f"one chunk of them        {min(arguments.chunk, len(scores)) * row / MEGABYTE:8.0f} MB")
    for k, (before, after) in enumerate(peaks):
        print(
            f"peak of worker {k}         {after / MEGABYTE:8.0f} MB, {before / MEGABYTE:.0f} MB before its first chunk"
        )
    print(f"mean log-density         {scores.mean():8.3f}, lowest {scores.min():.3f}")

    # for comparison, all points in this process, in one call
    single = mixture_logpdf(points.compute(scheduler="synchronous"), *mixture)
    same = np.array_equal(scores.view(np.uint64), single.view(np.uint64))
    print(f"equal to a single call, bit for bit: {same}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
