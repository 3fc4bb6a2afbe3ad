"""The sequence methods of a batch of distributions: length, elements, comparison."""

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T", bound="Batch")


class Batch:
    """A batch of distributions; `_key` returns their parameters, as arrays and other values."""

    __slots__ = ()

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch."""
        raise NotImplementedError

    def __getitem__(self: T, index: Any) -> T:
        raise NotImplementedError

    def _key(self) -> tuple[Any, ...]:
        raise NotImplementedError

    def _check_batch(self, what: str) -> None:
        if not self.batch_shape:
            raise TypeError(f"a single {type(self).__name__} has no {what}; see batch_shape and n_components")

    def __len__(self) -> int:
        self._check_batch("length")
        return self.batch_shape[0]

    def __iter__(self: T) -> Iterator[T]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Whether the other has the same parameters, of the same kind and dtype."""
        if not isinstance(other, Batch) or type(self) is not type(other):
            return NotImplemented
        return all(
            np.array_equal(mine, its) if isinstance(mine, np.ndarray) else mine == its
            for mine, its in zip(self._key(), other._key(), strict=True)
        )

    def __hash__(self) -> int:
        # equal batches must have equal hashes: -0.0 + 0.0 is 0.0
        return hash(tuple((key + 0.0).tobytes() if isinstance(key, np.ndarray) else key for key in self._key()))
