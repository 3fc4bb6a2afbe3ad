"""The loops over components and points. They return nothing, allocate nothing and raise nothing.

Why it looks like this:

- The formulas stand in _bivariate.pxd, one component at one point; here are only loops over them.
- Arrays come as C-contiguous memoryviews of one fused type, `real`; all arithmetic is double, so float32 results are
  float64 results rounded once.
- Work goes in blocks of at most BLOCK components. A block's points are first spread over its components (`spread`),
  so that one flat loop runs over rows and components alike and the number of components in a row does not matter to
  its speed.
- GCC and Clang turn these flat loops into vector code if outputs cannot overlap anything (`real_out` is
  restrict-qualified, the caller guarantees it), nothing branches and every call is inlined.
- A block's first and last elements are taken through the memoryview: in the build with bounds checks, each access to a
  block is thereby checked at both ends of the contiguous run that it is.
"""

from cymdn cimport _bivariate as bivariate

cdef extern from *:
    """
    typedef float *__restrict cymdn_float_out;
    typedef double *__restrict cymdn_double_out;
    """
    ctypedef float *float_out "cymdn_float_out"
    ctypedef double *double_out "cymdn_double_out"

ctypedef fused real:
    float
    double

ctypedef fused real_out:
    float_out
    double_out

cpdef enum:
    BLOCK = 256  # components: the two planes of offsets are 4 KiB, the block's inputs and outputs fit the L1 cache


cdef inline const real *in_block(
    const real[:, :, ::1] a, Py_ssize_t row, Py_ssize_t column, Py_ssize_t rows, Py_ssize_t columns
) except NULL nogil:
    cdef const real *last = &a[row + rows - 1, column + columns - 1, a.shape[2] - 1]
    return &a[row, column, 0] if last != NULL else NULL


cdef inline real *out_block(
    real[:, :, ::1] a, Py_ssize_t row, Py_ssize_t column, Py_ssize_t rows, Py_ssize_t columns
) except NULL nogil:
    cdef real *last = &a[row + rows - 1, column + columns - 1, a.shape[2] - 1]
    return &a[row, column, 0] if last != NULL else NULL


cdef void spread(
    const real *points, Py_ssize_t step, Py_ssize_t rows, Py_ssize_t columns, double_out x0_out, double_out x1_out
) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef double x0, x1
    for i in range(rows):
        x0 = points[i * step]
        x1 = points[i * step + 1]
        for j in range(columns):
            x0_out[i * columns + j] = x0
            x1_out[i * columns + j] = x1


cdef void density_block(
    Py_ssize_t count,
    const double *x0,
    const double *x1,
    const real *mean,
    const real *stddev,
    const real *correlation,
    double e,
    real_out density_out,
) noexcept nogil:
    cdef Py_ssize_t k
    cdef double sigma0, sigma1, u, v, r, t, d, q, w1
    for k in range(count):
        sigma0 = bivariate.positive_or_nan(stddev[2 * k])
        sigma1 = bivariate.positive_or_nan(stddev[2 * k + 1])
        r = correlation[k]
        t = bivariate.nearest_integer(r)
        d = t - r
        q = bivariate.one_minus_square(r, t, d)
        u = (x0[k] - mean[2 * k]) / (sigma0 + e)
        v = (x1[k] - mean[2 * k + 1]) / (sigma1 + e)
        w1 = bivariate.decorrelated(v, u, t, d)
        density_out[k] = bivariate.smoothed_density(bivariate.squared_distance(u, w1, q), q, sigma0, sigma1, e)


cdef void density_and_gradient_block(
    Py_ssize_t count,
    const double *x0,
    const double *x1,
    const real *mean,
    const real *stddev,
    const real *correlation,
    double e,
    real_out density_out,
    real_out dmean_out,
    real_out dstddev_out,
    real_out dcorrelation_out,
) noexcept nogil:
    cdef Py_ssize_t k
    cdef double sigma0, sigma1, u, v, r, t, d, q, c, w0, w1, dmean0, dmean1
    for k in range(count):
        sigma0 = bivariate.positive_or_nan(stddev[2 * k])
        sigma1 = bivariate.positive_or_nan(stddev[2 * k + 1])
        r = correlation[k]
        t = bivariate.nearest_integer(r)
        d = t - r
        q = bivariate.one_minus_square(r, t, d)
        c = 1.0 / (q + e)
        u = (x0[k] - mean[2 * k]) / (sigma0 + e)
        v = (x1[k] - mean[2 * k + 1]) / (sigma1 + e)
        w0 = bivariate.decorrelated(u, v, t, d)
        w1 = bivariate.decorrelated(v, u, t, d)
        dmean0 = c / (sigma0 + e) * w0
        dmean1 = c / (sigma1 + e) * w1
        density_out[k] = bivariate.smoothed_density(bivariate.squared_distance(u, w1, q), q, sigma0, sigma1, e)
        dmean_out[2 * k] = dmean0
        dmean_out[2 * k + 1] = dmean1
        dstddev_out[2 * k] = u * sigma0 * dmean0 - 1.0
        dstddev_out[2 * k + 1] = v * sigma1 * dmean1 - 1.0
        dcorrelation_out[k] = bivariate.smoothed_dcorrelation(u, v, w0, w1, r, c, e)


def density(
    const real[:, :, ::1] x not None,            # (n or 1, 1, 2)
    const real[:, :, ::1] mean not None,         # (n or t, m, 2)
    const real[:, :, ::1] stddev not None,       # (n or t, m, 2)
    const real[:, :, ::1] correlation not None,  # (n or t, m, 1)
    double smooth_eps,
    real[:, :, ::1] density_out not None,        # (n, m, 1), not empty
    real[:, :, ::1] dmean_out=None,              # (n, m, 2) or None: no derivatives
    real[:, :, ::1] dstddev_out=None,            # (n, m, 2)
    real[:, :, ::1] dcorrelation_out=None,       # (n, m, 1)
):
    """Smoothed density of each component; with outputs for them, the derivatives of its logarithm.

    Parameters of fewer rows than the outputs are one row, repeated t times: t rows make a block.
    """
    cdef Py_ssize_t n = density_out.shape[0], components = density_out.shape[1]
    cdef bint one_point = x.shape[0] < n, one_mixture = mean.shape[0] < n, derivatives = dmean_out is not None
    cdef Py_ssize_t block_rows = mean.shape[0] if one_mixture else max(1, BLOCK // components)
    cdef Py_ssize_t i = 0, j, k, rows, columns
    cdef double[BLOCK] x0
    cdef double[BLOCK] x1
    with nogil:
        while i < n:
            rows = min(block_rows, n - i)
            k = 0 if one_mixture else i
            j = 0
            while j < components:  # more than once only where a single row is wider than a block
                columns = min(<Py_ssize_t> BLOCK, components - j)
                spread(&x[0 if one_point else i, 0, 0], 0 if one_point else 2, rows, columns, x0, x1)
                if derivatives:
                    density_and_gradient_block(
                        rows * columns, x0, x1,
                        in_block(mean, k, j, rows, columns),
                        in_block(stddev, k, j, rows, columns),
                        in_block(correlation, k, j, rows, columns),
                        smooth_eps,
                        out_block(density_out, i, j, rows, columns),
                        out_block(dmean_out, i, j, rows, columns),
                        out_block(dstddev_out, i, j, rows, columns),
                        out_block(dcorrelation_out, i, j, rows, columns),
                    )
                else:
                    density_block(
                        rows * columns, x0, x1,
                        in_block(mean, k, j, rows, columns),
                        in_block(stddev, k, j, rows, columns),
                        in_block(correlation, k, j, rows, columns),
                        smooth_eps,
                        out_block(density_out, i, j, rows, columns),
                    )
                j += columns
            i += rows
