"""Holds every library to one thread, and this process to one CPU.

Most libraries read these variables once, when they are imported. XLA ignores its own (seen: 1.7 CPUs in use with them
set), and torch and XLA size their pools by the CPUs that the process may use, hence the second measure.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # no compiler processes left running beside the measurements
}

CPUS = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def pin() -> None:
    """Set the variables for this process and its children. To be called before NumPy is imported."""
    os.environ.update(VARIABLES)
    _use({max(CPUS)})  # interrupts are served by the first CPU more often than by the last


@contextmanager
def all_cpus() -> Iterator[None]:
    """Let threads started from here use every CPU."""
    _use(CPUS)
    try:
        yield
    finally:
        _use({max(CPUS)})


def _use(cpus: set[int]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)
