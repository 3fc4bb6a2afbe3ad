"""Results, machine and versions as plain text; the table of docs/performance.md."""

import contextlib
import datetime
import importlib.metadata
import io
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

import measure
import peers

PACKAGES = ("cymdn", "numpy", "scipy", "scikit-learn", "numba", "torch", "jax")
TITLES = {
    "density": "gaussian_density_batch(..., compute_derivatives=True)",
    "mdn": "mdn_loss_and_gradient(raw, x)",
}


# The machine


def describe() -> dict[str, object]:
    """Return processor, system, versions, date and load, as printed and stored."""
    return {
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cpus": len(measure.CPUS),
        "vector": vector_features(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "load": load(),
        "cymdn_config": _cymdn_config(),
    }


def load() -> float | None:
    """Return the average number of running processes in the last minute; above 1 at the start: the machine is busy."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def lines(facts: dict[str, object]) -> list[str]:
    """Return the facts as lines of text."""
    versions = ", ".join(f"{name} {number or 'missing'}" for name, number in facts["versions"].items())
    first = f"{facts['processor']}, {facts['cpus']} CPUs, {facts['vector']}, {facts['system']}, {facts['date']}"
    return [
        first,
        f"Python {facts['python']}, {versions}",
        f"load average at the start: {facts['load']} (of other processes; the quieter, the better)",
        *(f"cymdn: {line}" for line in str(facts["cymdn_config"]).splitlines()),
    ]


def vector_features() -> str:
    """Return the widest vector instructions that the processor supports."""
    flags = _cpuinfo("flags").split()
    return next((flag for flag in ("avx512f", "avx2", "avx", "sse2") if flag in flags), "unknown")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cymdn_config() -> str:
    """Return the output of cymdn.show_config, which includes the kernel build."""
    import cymdn

    text = io.StringIO()
    with measure.all_cpus(), contextlib.redirect_stdout(text):
        cymdn.show_config()
    return text.getvalue().strip()


def _cpuinfo(field: str) -> str:
    path = Path("/proc/cpuinfo")
    rows = path.read_text().splitlines() if path.exists() else []
    return next((row.partition(":")[2].strip() for row in rows if row.startswith(field)), "")


# Tables


def goals(found: Sequence) -> list[str]:
    """Lay out the lines of goals.py."""
    head = ("work", "against", "cymdn", "measured", "quartiles", "goal", "")
    rows = [
        (
            line.row,
            line.against,
            "" if line.seconds is None else seconds(line.seconds),
            line.shown,
            "" if line.spread is None else "{:.2f} .. {:.2f}".format(*line.spread),
            "" if line.goal is None else f"{'<=' if line.at_most else '>='} {line.goal:g}",
            line.verdict,
        )
        for line in found
    ]
    return render(head, rows) if rows else []


def sweep(cases: Sequence[Sequence]) -> list[str]:
    """Lay out a table for each function and dtype."""
    text = []
    for work, dtype in sorted({(row[0].work, row[0].dtype) for row in cases}, key=_order):
        rows = [_case(row) for row in sorted(cases, key=_by_size) if (row[0].work, row[0].dtype) == (work, dtype)]
        labels = list(dict.fromkeys(label for _, times in rows for label in times))
        head = ("n", "M", "cymdn", "ns", "MiB", "2 workers", *labels)
        body = [(*fields, *(times.get(label, "-") for label in labels)) for fields, times in rows]
        text += ["", f"{TITLES[work]}, {dtype}: ns per component (times cymdn's)", *render(head, body)]
    return text


def _case(cells: Sequence) -> tuple[list[str], dict[str, str]]:
    """Return the fields of one case of the sweep: cymdn's, then one for each peer."""
    ours, *others = cells
    fields = [f"{ours.n}", f"{ours.m}", seconds(ours.seconds), _digits(ours.nanoseconds, 3), f"{ours.memory:.3f}"]
    fields.append("-" if ours.two_workers is None else seconds(ours.two_workers))
    times = {cell.label: f"{_digits(cell.nanoseconds, 3)} ({_digits(cell.ratio, 2)}x)" for cell in others}
    return fields, times


def resident(found: Iterable, sizes: Sequence[tuple[int, int, str]]) -> list[str]:
    """Lay out the peak memory of whole processes at these sizes."""
    head = ("MiB beyond inputs and outputs", "", *(f"{dtype} n={n}" for n, _, dtype in sizes))
    rows = [(TITLES[work], label, *(f"{mib:.1f}" for mib in mibs)) for work, label, mibs in found]
    return render(head, rows) if rows else []


SHOWN = {
    peers.NUMPY: "the loss by hand in NumPy",
    peers.NUMBA: "Numba, loops by hand, `fastmath`",
    peers.TORCH: "PyTorch, eager",
    peers.TORCH_COMPILE: "`torch.compile`",
    peers.JAX: "`jax.jit`",
    peers.TORCH_DISTRIBUTIONS: "`torch.distributions` (`MixtureSameFamily`)",
}
SHOWN_ROWS = {1: "1 row", 64: "64 rows", 6400: "6400 rows", 200_000: "200,000 rows"}


def readme(cases: Sequence[Sequence]) -> list[str]:
    """Return the table of docs/performance.md in Markdown, with a dash for missing measurements."""
    ratios = {
        (cell.label, cell.n): f"{cell.ratio:.{0 if cell.ratio >= 10 else 1}f}x"
        for cells in cases
        for cell in cells
        if (cell.work, cell.dtype, cell.m) == ("mdn", "float64", 20) and cell.ratio is not None
    }
    rows = [[name, *(ratios.get((label, n), "-") for n in SHOWN_ROWS)] for label, name in SHOWN.items()]
    head = ["`mdn_loss_and_gradient` is faster than", *SHOWN_ROWS.values()]
    text = [f"| {' | '.join(row)} |" for row in [head, *rows]]
    return [text[0], "|---" * len(head) + "|", *text[1:]] if ratios else []


def render(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Align columns: words to the left, numbers to the right."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [any(field[:1].isdigit() for field in column[1:]) for column in columns]
    text = ["  ".join(map(_align, row, widths, numeric)) for row in [head, *rows]]
    return [line.rstrip() for line in [text[0], "-" * len(text[0]), *text[1:]]]


def seconds(time: float) -> str:
    """Return a time with a suitable unit."""
    for unit, factor in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if time * factor >= 1:
            return f"{time * factor:.3g} {unit}"
    return f"{time * 1e9:.3g} ns"


def _digits(number: float, digits: int) -> str:
    """Return a number with at least this many digits, without an exponent."""
    return f"{number:.0f}" if number >= 10 ** (digits - 1) else f"{number:.{digits}g}"


def _align(field: str, width: int, right: bool) -> str:
    return field.rjust(width) if right else field.ljust(width)


def _order(table: tuple[str, str]) -> tuple[str, bool]:
    work, dtype = table
    return work, dtype != "float64"


def _by_size(row: Sequence) -> tuple[int, int]:
    return row[0].m, row[0].n
