"""What was measured, as plain text."""

from collections.abc import Iterable, Sequence

from goals import Line, seconds
from sweep import MEMORY_SIZES, Cell, Resident

TITLES = {
    "density": "gaussian_density_batch(..., compute_derivatives=True)",
    "mdn": "mdn_loss_and_gradient(raw, x)",
}


def goals(lines: Sequence[Line]) -> list[str]:
    """Lay out the rows with a goal."""
    head = ("work", "against", "goal", "cymdn", "peer", "measured", "quartiles", "")
    return render(head, [(*line[:6], _spread(line), line.verdict) for line in lines])


def case(cells: Sequence[Cell]) -> tuple[list[str], dict[str, str]]:
    """Return the fields of one case of the sweep: cymdn's, then one for each peer."""
    ours, *others = cells
    fields = [f"{ours.n}", f"{ours.m}", seconds(ours.seconds), _digits(ours.nanoseconds, 3), f"{ours.memory:.3f}"]
    fields.append("-" if ours.two_workers is None else seconds(ours.two_workers))
    times = {cell.label: f"{_digits(cell.nanoseconds, 3)} ({_digits(cell.ratio, 2)}x)" for cell in others}
    return fields, times


def sweep(cells: Sequence[Sequence[Cell]]) -> list[str]:
    """Lay out a table for each function and dtype."""
    text = []
    for work, dtype in sorted({(row[0].work, row[0].dtype) for row in cells}, key=_order):
        rows = [case(row) for row in sorted(cells, key=_by_size) if (row[0].work, row[0].dtype) == (work, dtype)]
        labels = list(dict.fromkeys(label for _, times in rows for label in times))
        head = ("n", "M", "cymdn", "ns", "MiB", "2 workers", *labels)
        body = [(*fields, *(times.get(label, "-") for label in labels)) for fields, times in rows]
        text += ["", f"{TITLES[work]}, {dtype}: ns a component (times cymdn's)", *render(head, body)]
    return text


def resident(found: Iterable[Resident]) -> list[str]:
    """Lay out the peak memory of whole processes."""
    head = ("MiB beyond inputs and outputs", "", *(f"{dtype} n={n}" for n, _, dtype in MEMORY_SIZES))
    rows = [(TITLES[work], label, *(f"{mib:.1f}" for mib in mibs)) for work, label, mibs in found]
    return render(head, rows) if rows else []


def render(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Align columns: words to the left, numbers to the right."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [any(field[:1].isdigit() for field in column[1:]) for column in columns]
    lines = ["  ".join(map(_align, row, widths, numeric)) for row in [head, *rows]]
    return [line.rstrip() for line in [lines[0], "-" * len(lines[0]), *lines[1:]]]


def _digits(number: float, digits: int) -> str:
    """Return so many digits at least, without an exponent."""
    return f"{number:.0f}" if number >= 10 ** (digits - 1) else f"{number:.{digits}g}"


def _align(field: str, width: int, right: bool) -> str:
    return field.rjust(width) if right else field.ljust(width)


def _order(table: tuple[str, str]) -> tuple[str, bool]:
    work, dtype = table
    return work, dtype != "float64"


def _by_size(row: Sequence[Cell]) -> tuple[int, int]:
    return row[0].m, row[0].n


def _spread(line: Line) -> str:
    return "" if line.spread is None else "{:.2f} .. {:.2f}".format(*line.spread)
