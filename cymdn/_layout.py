"""The layout of raw network output, and of packed parameters: P pen logits, then six columns of M numbers.

The kernels know it too: `packed` in _kernels.pyx and `component` in _draws.pxd.
"""

import re
import sys
from operator import index
from typing import Any, Literal, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from cymdn._arrays import Core, Shape, check_count

Pens: TypeAlias = Literal[0, 1, 3]
ArrayT = TypeVar("ArrayT")  # of NumPy, PyTorch or JAX

# logit (or weight), means 0, means 1, log stddevs (or stddevs) 0, the same 1, atanh correlations (or correlations)
PARAMETERS = 6
WEIGHT, MEAN, STDDEV, CORRELATION = 0, 1, 3, 5

MOST_COMPONENTS = 1_000_000  # of a Layout, which holds lists of all columns

RAW: dict[str, Core] = {"raw": ("P + 6 M",)}


def components_of(raw: Shape, pens: int, expected: int | None = None) -> int:
    """Return M of raw network output with so many pen logits."""
    if expected is not None:
        width = pens + PARAMETERS * check_count("n_components", expected, 1)
        if raw[-1:] != (width,):
            raise ValueError(f"raw: expected shape (..., {width}) for n_components = {expected}, P = {pens}, got {raw}")
    width = raw[-1] if raw else 0
    components, rest = divmod(width - pens, PARAMETERS)
    if components < 1 or rest:
        other = width % PARAMETERS  # the P of this width, if it has one
        hint = f"; P = {other} would fit" if width > PARAMETERS and other in (0, 1, 3) and other != pens else ""
        raise ValueError(f"raw: expected shape (..., P + 6 M), P = {pens} pen logits and M >= 1, got {raw}{hint}")
    return components


def planes(parameters: NDArray[Any]) -> list[NDArray[Any]]:
    """Return views (..., M) of the six columns of packed parameters (..., 6 M)."""
    m = parameters.shape[-1] // PARAMETERS
    return [parameters[..., k * m : (k + 1) * m] for k in range(PARAMETERS)]


def pack(batch_shape: Shape, *columns: NDArray[Any]) -> NDArray[np.float64]:
    """Return six columns (..., M) that broadcast with the batch as packed parameters."""
    parameters = np.empty((*batch_shape, PARAMETERS * columns[0].shape[-1]))
    for plane, column in zip(planes(parameters), columns, strict=True):
        plane[...] = column
    return parameters


class Layout:
    """The order of the columns of a network's raw output, if it is not that of cymdn.

    Parameters
    ----------
    columns : str
        The columns in the network's order, by letters: `p` pen logits, `w` mixture logits, `x` and `y` means, `s` and
        `t` log stddevs of coordinate 0 and 1, `r` atanh correlations. A letter stands for a block of M columns, `p` for
        P; letters in parentheses alternate, component by component. Without `w` the components have equal weights,
        without `t` both coordinates have the same log stddev, and without `r` there is no correlation.
    n_components : int
        The number M of Gaussians, at most a million.
    pen : {0, 1, 3}, optional
        The number P of pen logits.

    Attributes
    ----------
    columns, n_components, pen
        The arguments.
    width : int
        The number of columns of the network.

    Raises
    ------
    TypeError
        `columns` is not a string, or a number not an integer.
    ValueError
        `columns` is not of this form, lacks `x`, `y` or `s`, or lacks `p` where `pen` is not 0; `n_components` is
        below 1 or above a million; `pen` is none of the three.

    See Also
    --------
    mdn_loss : Takes what `to_cymdn` returns.

    Notes
    -----
    These are the orders of public code:

    ================================  =============
    write-rnn, sketch-rnn (magenta)   ``pwxystr``
    sjvasquez                         ``wstrxyp``
    alexis-jacq                       ``(wxystr)p``
    keras-mdn-layer                   ``(xy)(st)w``
    one component after the other     ``(xystr)w``
    ================================  =============

    If a network uses other functions than exp and tanh, convert its parameters with `cymdn.activations`, before or
    after `to_cymdn`.

    Both methods only move columns, so they work on arrays of NumPy, PyTorch and JAX, under `torch.compile`, `jax.jit`
    and automatic differentiation. With automatic differentiation `gradient` is not needed.

    Examples
    --------
    A diagonal network of two components, 5 M columns:

    >>> import numpy as np
    >>> from cymdn import Layout, mdn_loss_and_gradient
    >>> layout = Layout("(xy)(st)w", 2)
    >>> raw, x = np.random.default_rng(0).normal(size=(100, layout.width)), np.zeros((100, 2))
    >>> loss, gradient = mdn_loss_and_gradient(layout.to_cymdn(raw), x)
    >>> layout.gradient(gradient).shape
    (100, 10)
    """

    columns: str
    n_components: int
    pen: Pens
    width: int

    def __init__(self, columns: str, n_components: int, pen: Pens = 0) -> None:
        if not isinstance(columns, str):
            raise TypeError(f"columns: expected a string, got {type(columns).__name__}")
        pen = check_pens(pen)
        count = check_count("n_components", n_components, 1, MOST_COMPONENTS)
        self.columns, self.n_components, self.pen = str(columns), count, pen
        m, at = self.n_components, 0
        places: dict[str, range] = {}
        for letters in _blocks(columns, pen):
            size = pen if letters == "p" else m * len(letters)
            places.update({letter: range(at + k, at + size, len(letters)) for k, letter in enumerate(letters)})
            at += size
        self.width = at
        # of each column here, the network's, or -1
        origins = [k for letter in "pwxystr" for k in places.get(letter, [-1] * (pen if letter == "p" else m))]
        if "t" not in places:
            first = pen + (STDDEV + 1) * m
            origins[first : first + m] = places["s"]
        self._origins = origins
        destinations: list[list[int]] = [[] for _ in range(at)]
        for k, origin in enumerate(origins):
            if origin >= 0:
                destinations[origin].append(k)
        # of each column of the network, the one or two here that it goes to
        self._first = [columns_here[0] for columns_here in destinations]
        self._second = [columns_here[1] if columns_here[1:] else -1 for columns_here in destinations]

    def __reduce__(self) -> tuple[type["Layout"], tuple[str, int, Pens]]:
        """Pickle the arguments, which are checked where they come back."""
        return type(self), (self.columns, self.n_components, self.pen)

    def __repr__(self) -> str:
        """Return the call that makes this layout."""
        return f"Layout({self.columns!r}, {self.n_components}, pen={self.pen})"

    def to_cymdn(self, raw: ArrayT) -> ArrayT:
        """Return raw output (..., width) of the network in the order of cymdn.

        Parameters
        ----------
        raw : array or tensor, shape (..., width)
            Of NumPy, PyTorch or JAX, of any dtype.

        Returns
        -------
        array or tensor, shape (..., P + 6 M)
            Of the same kind.

        Raises
        ------
        ValueError
            The last axis has another length than `width`.
        """
        moved: ArrayT = _take("raw", raw, self.width, self._origins)
        return moved

    def gradient(self, gradient: ArrayT) -> ArrayT:
        """Return a gradient with respect to what `to_cymdn` returned as one with respect to its argument.

        Parameters
        ----------
        gradient : array or tensor, shape (..., P + 6 M)
            Of NumPy, PyTorch or JAX.

        Returns
        -------
        array or tensor, shape (..., width)
            Of the same kind. If a column is used for two parameters, its derivative is the sum of both.

        Raises
        ------
        ValueError
            The last axis has another length than P + 6 M.
        """
        width = len(self._origins)
        moved: Any = _take("gradient", gradient, width, self._first)
        second = self._second
        total: ArrayT = moved if max(second) < 0 else moved + _take("gradient", gradient, width, second)
        return total


def check_pens(pen: object) -> Pens:
    """Return a number of pen logits."""
    number = index(pen) if isinstance(pen, (int, np.integer)) else -1
    if number not in (0, 1, 3):
        came = f"an array of shape {pen.shape}" if isinstance(pen, np.ndarray) else repr(pen)
        raise ValueError(f"pen: expected the number of pen logits, 0, 1 or 3, got {came}")
    return cast("Pens", number)


def _blocks(columns: str, pen: int) -> list[str]:
    """Return the groups of letters, in their order."""
    blocks = [a or b for a, b in re.findall(r"\(([wxystr]+)\)|([pwxystr])", columns)]
    letters = "".join(blocks)
    if not re.fullmatch(r"(\([wxystr]+\)|[pwxystr])*", columns) or len(set(letters)) < len(letters):
        raise ValueError(
            "columns: expected each of the letters pwxystr at most once, all but p grouped by parentheses or not, got "
            f"{columns!r}"
        )
    missing = sorted(set("xysp" if pen else "xys") - set(letters))
    if missing:
        raise ValueError(f"columns: expected the letters {', '.join(missing)}, too, for pen = {pen}, got {columns!r}")
    return blocks


def _take(name: str, array: Any, width: int, columns: list[int]) -> Any:
    """Return these columns of an array of any kind, 0 for column -1."""
    array, xp, on = namespace_of(array)
    if tuple(array.shape[-1:]) != (width,):
        raise ValueError(f"{name}: expected shape (..., {width}), got {tuple(array.shape)}")
    # by lists, which are constants to compilers; PyTorch's take is another function
    taken = xp.take(array, xp.asarray(columns), axis=-1) if not on else array[..., columns]
    return taken if min(columns) >= 0 else xp.where(xp.asarray(columns, **on) >= 0, taken, 0)


def namespace_of(array: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Return an array of NumPy, PyTorch or JAX, the module with its functions, and what makes others on its device."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return array, torch, {"device": array.device}
    array = array if hasattr(array, "__array_namespace__") else np.asarray(array)
    return array, array.__array_namespace__(), {}
