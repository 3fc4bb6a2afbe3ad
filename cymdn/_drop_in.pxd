"""The smoothed density, a drop-in replacement: densities of components, and the derivatives of their logarithms.

One loop reads the caller's arrays, computes, and writes, without planes: nothing is summed over a row, and if the
arrays exceed the caches the memory traffic overlaps with the computation. Only the points are spread over their
components before; parameters that have one row for all are repeated once, for a block of rows.
"""

from libc.math cimport fabs
from libc.stdint cimport uint64_t

from cymdn cimport _bivariate as bivariate
from cymdn cimport _elementary as elementary
from cymdn._block cimport BLOCK, Block
from cymdn._columns cimport Column, double_out, float_out, real_out, within
from cymdn._elementary cimport fma

cdef extern from *:
    """
    #define CYMDN_SMALLEST 4.9406564584124654e-324
    #define CYMDN_FAR 1e250
    """
    const double SMALLEST "CYMDN_SMALLEST"
    const double FAR "CYMDN_FAR"

cdef struct DropIn:
    Py_ssize_t n
    Py_ssize_t m
    double smooth_eps
    bint derivatives
    Column x
    Column mean
    Column stddev
    Column correlation
    Column density
    Column dmean
    Column dstddev
    Column dcorrelation
    Block *block         # row0, row1: the points of the components
    Py_ssize_t count     # components in the block


# If offsets are so large that squares may overflow, intermediate factors may be inf where others are 0. The loops
# return whether this is so, and are run again with these factors bounded: one branch for each block instead of work for
# each component.


cdef inline uint64_t is_far(double number) noexcept nogil:
    # the highest bit is 1 if the number is above FAR or NaN: SSE2 can subtract 64-bit integers, but not compare them
    cdef uint64_t bits = elementary.bits_of(number)
    return (elementary.bits_of(FAR) - bits) | bits


cdef inline uint64_t densities(
    const DropIn *p, bint far, real_out mean, real_out stddev, real_out correlation, real_out density_out
) noexcept nogil:
    cdef uint64_t some = 0
    cdef Py_ssize_t k
    cdef const Block *b = p.block
    cdef double e = p.smooth_eps, least = max(e, SMALLEST), sigma0, sigma1, u, v, t, d, q, z
    for k in range(p.count):
        sigma0 = bivariate.positive_or_nan(stddev[2 * k])
        sigma1 = bivariate.positive_or_nan(stddev[2 * k + 1])
        t = bivariate.strong_sign(correlation[k])
        d = t - correlation[k]
        q = bivariate.one_minus_square(correlation[k], t, d)
        u = bivariate.finite_if(far, (b.row0[k] - mean[2 * k]) * bivariate.smoothed_inverse(sigma0 + e))
        v = bivariate.finite_if(far, (b.row1[k] - mean[2 * k + 1]) * bivariate.smoothed_inverse(sigma1 + e))
        z = bivariate.squared_distance(u, bivariate.decorrelated(v, u, t, d), q)
        density_out[k] = bivariate.smoothed_density(z, q, sigma0, sigma1, e, least)
        some |= is_far(fma(u, u, v * v))
    return some >> 63


cdef inline uint64_t densities_and_derivatives(
    const DropIn *p, bint far, real_out mean, real_out stddev, real_out correlation,
    real_out density_out, real_out dmean_out, real_out dstddev_out, real_out dcorrelation_out,
) noexcept nogil:
    cdef uint64_t some = 0
    cdef Py_ssize_t k
    cdef const Block *b = p.block
    cdef double e = p.smooth_eps, sigma0, sigma1, inverse0, inverse1, u, v, r, t, d, q, c, z, w0, w1, slope0, slope1
    cdef double least = max(e, SMALLEST)
    for k in range(p.count):
        sigma0 = bivariate.positive_or_nan(stddev[2 * k])
        sigma1 = bivariate.positive_or_nan(stddev[2 * k + 1])
        inverse0 = bivariate.smoothed_inverse(sigma0 + e)
        inverse1 = bivariate.smoothed_inverse(sigma1 + e)
        r = correlation[k]
        t = bivariate.strong_sign(r)
        d = t - r
        q = bivariate.one_minus_square(r, t, d)
        c = 1.0 / (q + e)
        u = bivariate.finite_if(far, (b.row0[k] - mean[2 * k]) * inverse0)
        v = bivariate.finite_if(far, (b.row1[k] - mean[2 * k + 1]) * inverse1)
        w0 = bivariate.decorrelated(u, v, t, d)
        w1 = bivariate.decorrelated(v, u, t, d)
        z = bivariate.squared_distance(u, w1, q)
        slope0 = bivariate.finite_if(far, c * w0)
        slope1 = bivariate.finite_if(far, c * w1)
        density_out[k] = bivariate.smoothed_density(z, q, sigma0, sigma1, e, least)
        dmean_out[2 * k] = slope0 * inverse0
        dmean_out[2 * k + 1] = slope1 * inverse1
        dstddev_out[2 * k] = bivariate.smoothed_dlog_stddev(u, sigma0, inverse0, slope0)
        dstddev_out[2 * k + 1] = bivariate.smoothed_dlog_stddev(v, sigma1, inverse1, slope1)
        dcorrelation_out[k] = bivariate.smoothed_dcorrelation(u, v, w0, w1, r, c, e, far)
        # without smoothing c may be inf: its products have to be bounded before they are multiplied by 0
        some |= is_far(fma(u, u, v * v)) | is_far(fabs(c))
    return some >> 63


cdef inline void repeat(Column *c, Py_ssize_t width, Py_ssize_t rows, real_out memory) noexcept nogil:
    # one row for all becomes a block of copies of it
    cdef Py_ssize_t k
    if c.row == 0 and rows > 1:
        for k in range(rows * width):
            memory[k] = (<real_out> c.first)[k % width]
        c.first = memory
        c.size = rows * width


cdef inline void spread_points(
    const DropIn *p, Py_ssize_t i, Py_ssize_t rows, Py_ssize_t columns, real_out x
) noexcept nogil:
    cdef Py_ssize_t j, k
    for j in range(rows):
        for k in range(j * columns, (j + 1) * columns):
            p.block.row0[k] = x[(i + j) * p.x.row]
            p.block.row1[k] = x[(i + j) * p.x.row + 1]


cdef inline void drop_in_block(
    DropIn *p, Py_ssize_t i, Py_ssize_t rows, Py_ssize_t j, Py_ssize_t columns, real_out density
) noexcept nogil:
    # rows from i on, components from j on: contiguous, because a block of several rows has all components
    cdef Py_ssize_t out = i * p.m + j, at = i * p.correlation.row + j
    cdef real_out mean = <real_out> p.mean.first + i * p.mean.row + 2 * j
    cdef real_out stddev = <real_out> p.stddev.first + i * p.stddev.row + 2 * j
    cdef real_out correlation = <real_out> p.correlation.first + at
    p.count = rows * columns
    within(at, at + p.count - 1, p.correlation.size)
    within(out, out + p.count - 1, p.density.size)
    spread_points(p, i, rows, columns, <real_out> p.x.first)
    if p.derivatives:
        if densities_and_derivatives(
            p, False, mean, stddev, correlation, density + out, <real_out> p.dmean.first + 2 * out,
            <real_out> p.dstddev.first + 2 * out, <real_out> p.dcorrelation.first + out,
        ):
            densities_and_derivatives(
                p, True, mean, stddev, correlation, density + out, <real_out> p.dmean.first + 2 * out,
                <real_out> p.dstddev.first + 2 * out, <real_out> p.dcorrelation.first + out,
            )
    elif densities(p, False, mean, stddev, correlation, density + out):
        densities(p, True, mean, stddev, correlation, density + out)


cdef inline void drop_in_rows(DropIn *p, real_out density) noexcept nogil:
    cdef Py_ssize_t i = 0, j, rows, block_rows = max(<Py_ssize_t> 1, BLOCK // p.m)
    repeat(&p.mean, 2 * p.m, min(block_rows, p.n), <real_out> p.block.mean0)  # and mean1
    repeat(&p.stddev, 2 * p.m, min(block_rows, p.n), <real_out> p.block.inverse0)  # and inverse1
    repeat(&p.correlation, p.m, min(block_rows, p.n), <real_out> p.block.r)
    while i < p.n:
        rows = min(block_rows, p.n - i)
        j = 0
        while j < p.m:
            drop_in_block(p, i, rows, j, min(<Py_ssize_t> BLOCK, p.m - j), density)
            j += BLOCK
        i += rows


cdef inline void drop_in(DropIn *p) noexcept nogil:
    if p.density.single:
        drop_in_rows(p, <float_out> p.density.first)
    else:
        drop_in_rows(p, <double_out> p.density.first)
