"""Fit a mixture to more points than fit in memory, with Dask: a search on a sample, then passes over all chunks.

    python -m pip install ".[dask]" && python examples/dask_fit.py

cymdn.fit_mixture accepts a Dask array of shape (n, 2). A step needs six sums over all points for each component: each
worker computes those of its chunks, and returns a few hundred bytes. So a worker holds some chunks at a time, for any
length of the array, and the caller holds none. Weights are another Dask array, with any chunks; with allow_missing a
NaN is a missing coordinate. The fit is that of an array in memory, except for the order in which sums are rounded.

Here the cluster is two processes on this machine, each with a memory limit; with an address instead it can be any other
cluster. Each chunk is generated on the worker that uses it, again in each step, as it would be read from storage there.
(Linux or macOS.)
"""

import argparse
import resource
import sys
import time

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

from cymdn import fit_mixture

MEGABYTE = 1e6
MEANS, SPREAD = np.array([[0.0, 0.0], [6.0, 1.0], [-5.0, 4.0]]), np.array([[1.0, 2.0], [0.5, 0.5], [2.0, 0.3]])
SHARES = [0.5, 0.3, 0.2]


def chunk_of_points(block, seed):
    """Return points of the mixture for a block; every twentieth has no second coordinate."""
    rng = np.random.default_rng([seed, *block[0, :1].astype(np.int64)])
    component = rng.choice(len(SHARES), size=len(block), p=SHARES)
    points = MEANS[component] + SPREAD[component] * rng.standard_normal((len(block), 2))
    points[::20, 1] = np.nan
    return points


def make_points(number, chunk, seed=0):
    """Return a Dask array of points, which are generated when they are needed."""
    rows = da.arange(number, chunks=chunk)[:, None] * da.ones(2, chunks=2)
    return rows.map_blocks(chunk_of_points, seed, dtype=np.float64)


def peak_memory():
    """The peak memory of this process, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts kibibytes


def main():
    """Fit on the cluster, print the memory it took, compare with a fit in memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=4_000_000)
    parser.add_argument("--chunk", type=int, default=250_000, help="points a chunk")
    parser.add_argument("--limit", default="400MB", help="memory of each worker")
    arguments = parser.parse_args()

    points = make_points(arguments.points, arguments.chunk)
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, memory_limit=arguments.limit, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        before = client.run(peak_memory)
        start = time.perf_counter()
        fit = fit_mixture(points, 3, allow_missing=True, rng=0)
        seconds = time.perf_counter() - start
        peaks = list(zip(before.values(), client.run(peak_memory).values(), strict=True))

    size = points.nbytes / MEGABYTE
    print(f"{len(points):,} points in {points.numblocks[0]} chunks, {size:.0f} MB")
    print(f"{fit.steps} steps in {seconds:.0f} s")
    for k, (first, last) in enumerate(peaks):
        print(f"peak of worker {k}  {last / MEGABYTE:6.0f} MB, {first / MEGABYTE:.0f} MB before its first chunk")
    for weight, mean, stddev in zip(fit.mixture.weights, fit.mixture.means, fit.mixture.stddevs, strict=True):
        print(f"weight {weight:.4f}  mean {mean.round(3)}  stddev {stddev.round(3)}")

    # for comparison, all points in this process
    single = fit_mixture(points.compute(scheduler="synchronous"), 3, allow_missing=True, rng=0)
    difference = abs(fit.log_likelihood - single.log_likelihood) / len(points)
    print(f"log-likelihood a point {fit.log_likelihood / len(points):.6f}, in memory the same to {difference:.0e}")
    return 0 if difference < 1e-12 else 1


if __name__ == "__main__":
    sys.exit(main())
