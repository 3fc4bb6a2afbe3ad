"""Reductions over the components of a row, in an order that depends on the row alone.

Eight partial sums, as many as an AVX-512 register holds. Each number of a sum is rounded only a few times, however many
numbers there are: partial sums end after 64 numbers, and the rounding errors of adding up blocks are added at the end.
"""

from cymdn cimport _bivariate as bivariate
from cymdn cimport _elementary as elementary
from cymdn._block cimport Rows
from cymdn._columns cimport double_out


cdef enum:
    SHORT = 64  # numbers in eight partial sums


cdef inline double short_sum(Py_ssize_t columns, const double *values) noexcept nogil:
    cdef double s0 = 0.0, s1 = 0.0, s2 = 0.0, s3 = 0.0, s4 = 0.0, s5 = 0.0, s6 = 0.0, s7 = 0.0
    cdef Py_ssize_t j = 0
    while j + 8 <= columns:
        s0 += values[j]
        s1 += values[j + 1]
        s2 += values[j + 2]
        s3 += values[j + 3]
        s4 += values[j + 4]
        s5 += values[j + 5]
        s6 += values[j + 6]
        s7 += values[j + 7]
        j += 8
    if j + 4 <= columns:
        s0 += values[j]
        s1 += values[j + 1]
        s2 += values[j + 2]
        s3 += values[j + 3]
        j += 4
    while j < columns:
        s4 += values[j]
        j += 1
    return ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))


cdef inline double row_sum(Py_ssize_t columns, const double *values) noexcept nogil:
    # over a block
    cdef double total
    cdef Py_ssize_t j = SHORT
    if columns <= SHORT:
        return short_sum(columns, values)
    total = short_sum(SHORT, values)
    while j < columns:
        total += short_sum(min(<Py_ssize_t> SHORT, columns - j), values + j)
        j += SHORT
    return total


cdef inline double larger(double a, double b) noexcept nogil:
    # b, if a is NaN
    return a if a > b else b


cdef inline double row_top(Py_ssize_t columns, const double *values) noexcept nogil:
    # starts from a finite number: if every exponent is -inf, there is no -inf - -inf
    cdef double t0 = -bivariate.DBL_MAX, t1 = t0, t2 = t0, t3 = t0, t4 = t0, t5 = t0, t6 = t0, t7 = t0
    cdef Py_ssize_t j = 0
    while j + 8 <= columns:
        t0 = larger(values[j], t0)
        t1 = larger(values[j + 1], t1)
        t2 = larger(values[j + 2], t2)
        t3 = larger(values[j + 3], t3)
        t4 = larger(values[j + 4], t4)
        t5 = larger(values[j + 5], t5)
        t6 = larger(values[j + 6], t6)
        t7 = larger(values[j + 7], t7)
        j += 8
    while j < columns:
        t0 = larger(values[j], t0)
        j += 1
    t0 = larger(larger(t0, t4), larger(t2, t6))
    return larger(t0, larger(larger(t1, t5), larger(t3, t7)))


cdef inline double scaled_row_sum(Py_ssize_t columns, const double *values, double scale) noexcept nogil:
    # infinite values count as the largest number: in a sum of both signs, inf - inf would be NaN
    cdef double total = 0.0
    cdef Py_ssize_t j
    for j in range(columns):
        total += bivariate.bounded(values[j], bivariate.DBL_MAX) * scale
    return total


cdef inline void row_sums(
    Py_ssize_t rows, Py_ssize_t columns, const double *plane, double_out total
) noexcept nogil:
    # rows of one block
    cdef Py_ssize_t i
    if columns == 1:
        for i in range(rows):
            total[i] = 0.0 + plane[i]
        return
    for i in range(rows):
        total[i] = row_sum(columns, plane + i * columns)


cdef inline void add(double value, double *total, double *lost) noexcept nogil:
    # the rounding errors of the sum are summed as well (Knuth's two-sum)
    cdef double before = total[0], after = before + value, added = after - before
    lost[0] += (before - (after - added)) + (value - added)
    total[0] = after


cdef inline double sum_of(double total, double lost) noexcept nogil:
    return total + lost if total - total == 0.0 else total


cdef inline void row_tops(Py_ssize_t rows, Py_ssize_t columns, const double *plane, double_out top) noexcept nogil:
    cdef Py_ssize_t i
    if columns == 1:
        for i in range(rows):
            top[i] = larger(plane[i], top[i])
        return
    for i in range(rows):
        top[i] = larger(row_top(columns, plane + i * columns), top[i])


cdef inline void mixture_values(Py_ssize_t rows, Rows *w) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(rows):
        # top last: it is large far from all components, and only one sum has a rounding error of its size
        w.value[i] = w.top[i] + ((elementary.log(w.total[i]) - elementary.log(w.weights[i])) - bivariate.LOG_TWO_PI)
