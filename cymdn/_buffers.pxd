"""Arrays of the caller, held while a kernel runs.

Buffers instead of typed memoryviews: memoryviews take a third of the time of a call with one row, and most of the
compile time. An array cannot be resized while it is held, and the shape of its buffer is checked. The caller ensures
that its numbers are native floats, not integers of the same size.
"""

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uintptr_t

from cymdn._columns cimport Column

cdef enum:
    MOST = 12  # arrays of a call, in mixture_logpdf

cdef struct Buffers:
    Py_ssize_t count
    bint fit
    Py_ssize_t itemsize  # of arrays of the caller's dtype: that of the first one
    Py_buffer[MOST] views


cdef inline int hold(
    Buffers *held, object array, Py_ssize_t itemsize, int flags, Py_ssize_t n, Py_ssize_t a, Py_ssize_t b, Column *c
) except -1:
    """Hold an array of n rows of a x b numbers; of a numbers if b is 0, of one if a is 0 too.

    An input may have one row, which is used for all n. `fit` becomes False if shape, item size or alignment do not fit.
    """
    cdef Py_buffer *view = &held.views[held.count]
    c.first, c.size, c.row, c.single = NULL, 0, 0, False
    PyObject_GetBuffer(array, view, PyBUF_C_CONTIGUOUS | flags)
    held.count += 1
    if not (
        n > 0 and view.itemsize == itemsize and <uintptr_t> view.buf % <uintptr_t> itemsize == 0
        and view.ndim == 1 + (a > 0) + (b > 0)
        and (view.shape[0] == n or (view.shape[0] == 1 and not flags))
        and (a == 0 or view.shape[1] == a) and (b == 0 or view.shape[2] == b)
    ):
        held.fit = False
        return 0
    c.first = view.buf
    c.size = view.len // itemsize
    c.row = 0 if view.shape[0] == 1 else c.size // n
    c.single = itemsize == sizeof(float)
    return 0


cdef inline int hold_each(
    Buffers *held, object array, Py_ssize_t itemsize, Py_ssize_t n, Py_ssize_t a, Py_ssize_t b, Column *c
) except -1:
    """Hold an input with n rows, not one row for all."""
    hold(held, array, itemsize, 0, n, a, b, c)
    held.fit = held.fit and (n == 1 or c.row > 0)
    return 0


cdef inline void release(Buffers *held) noexcept:
    cdef Py_ssize_t k
    for k in range(held.count):
        PyBuffer_Release(&held.views[k])
