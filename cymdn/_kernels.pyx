"""The loops over components and points. They return no numbers, allocate nothing and raise nothing.

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

from libc.math cimport fabs

from cymdn cimport _arithmetic
from cymdn cimport _bivariate as bivariate
from cymdn cimport _cpu
from cymdn cimport _elementary as elementary

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


cdef inline const real *in_rows(const real[:, ::1] a, Py_ssize_t row, Py_ssize_t rows) except NULL nogil:
    cdef const real *last = &a[row + rows - 1, a.shape[1] - 1]
    return &a[row, 0] if last != NULL else NULL


cdef inline real *out_rows(real[:, ::1] a, Py_ssize_t row, Py_ssize_t rows) except NULL nogil:
    cdef real *last = &a[row + rows - 1, a.shape[1] - 1]
    return &a[row, 0] if last != NULL else NULL


cdef inline bint fits3(
    const real[:, :, ::1] a, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t width
) noexcept nogil:
    # of this shape, not empty, aligned
    return (
        0 < rows == a.shape[0] and 0 < columns == a.shape[1] and width == a.shape[2]
        and <size_t> &a[0, 0, 0] % sizeof(real) == 0
    )


cdef inline bint fits2(const real[:, ::1] a, Py_ssize_t rows, Py_ssize_t columns) noexcept nogil:
    return 0 < rows == a.shape[0] and 0 < columns == a.shape[1] and <size_t> &a[0, 0] % sizeof(real) == 0


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
    cdef double sigma0, sigma1, u, v, r, t, d, q, z
    for k in range(count):
        sigma0 = bivariate.positive_or_nan(stddev[2 * k])
        sigma1 = bivariate.positive_or_nan(stddev[2 * k + 1])
        r = correlation[k]
        t = bivariate.nearest_integer(r)
        d = t - r
        q = bivariate.one_minus_square(r, t, d)
        u = (x0[k] - mean[2 * k]) / (sigma0 + e)
        v = (x1[k] - mean[2 * k + 1]) / (sigma1 + e)
        z = bivariate.squared_distance(u, bivariate.decorrelated(v, u, t, d), q)
        density_out[k] = bivariate.smoothed_density(z, q, sigma0, sigma1, e)


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
    cdef double sigma0, sigma1, u, v, r, t, d, q, c, z, w0, w1, dmean0, dmean1
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
        dmean0 = c * w0 / (sigma0 + e)
        dmean1 = c * w1 / (sigma1 + e)
        z = bivariate.squared_distance(u, w1, q)
        density_out[k] = bivariate.smoothed_density(z, q, sigma0, sigma1, e)
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

    Parameters of fewer rows than the outputs are one row, repeated t times: t rows make a block. Returns whether the
    inputs fit the outputs, and does nothing if they do not, so that a caller need not look at them first.
    """
    cdef Py_ssize_t n = density_out.shape[0], components = density_out.shape[1]
    cdef bint one_point = x.shape[0] < n, one_mixture = mean.shape[0] < n, derivatives = dmean_out is not None
    cdef Py_ssize_t block_rows = mean.shape[0] if one_mixture else max(1, BLOCK // max(1, components))
    cdef Py_ssize_t i = 0, j, k, rows, columns
    cdef double[BLOCK] x0
    cdef double[BLOCK] x1
    cdef _arithmetic.arithmetic before
    if not (
        fits3(x, 1 if one_point else n, 1, 2) and fits3(mean, mean.shape[0] if one_mixture else n, components, 2)
        and fits3(stddev, mean.shape[0], components, 2) and fits3(correlation, mean.shape[0], components, 1)
    ):
        return False
    with nogil:
        before = _arithmetic.use_ieee_arithmetic()
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
        _arithmetic.restore_arithmetic(before)
    return True


# The log-domain levels.
#
# Scratch memory comes from the caller, PLANES rows of at least BLOCK or one row of components; nothing in it outlives a
# block. A stage reads planes and writes planes, or arrays, that are not among those it reads unless it says "in place".

cdef struct Planes:
    # prepared components
    double *mean0
    double *mean1
    double *inverse0    # before `prepare`: sigma or log sigma
    double *inverse1
    double *r           # before `prepare`: r or atanh r
    double *cross       # kappa d
    double *kappa
    double *shift
    double *factor
    double *weight      # before `prepare`: weight, or logit less the row's largest
    # components at a point
    double *u           # before `evaluate`: x - mean
    double *v
    double *exponent    # after `weigh`: weight * density, up to a factor of the row
    double *slope0
    double *slope1
    double *datanh
    double *dmean0
    double *dmean1
    # rows
    double *top         # the largest exponent
    double *total       # sum of the weighed exponents
    double *weights     # sum of the weights
    double *value       # log-density of the mixture
    double *pen_logit   # Bernoulli pens only
    double *pen_target
    double *pen_slope   # derivative of the pen's loss with respect to its logit
    double *pen_loss

cpdef enum:
    PLANES = 26
    CHUNK = 2048  # rows whose losses are summed together: fixed, so that a sum does not depend on how work was split


cdef Planes planes_of(double[:, ::1] scratch) except *:
    cdef Planes s
    s.mean0 = &scratch[0, 0]
    s.mean1 = &scratch[1, 0]
    s.inverse0 = &scratch[2, 0]
    s.inverse1 = &scratch[3, 0]
    s.r = &scratch[4, 0]
    s.cross = &scratch[5, 0]
    s.kappa = &scratch[6, 0]
    s.shift = &scratch[7, 0]
    s.factor = &scratch[8, 0]
    s.weight = &scratch[9, 0]
    s.u = &scratch[10, 0]
    s.v = &scratch[11, 0]
    s.exponent = &scratch[12, 0]
    s.slope0 = &scratch[13, 0]
    s.slope1 = &scratch[14, 0]
    s.datanh = &scratch[15, 0]
    s.dmean0 = &scratch[16, 0]
    s.dmean1 = &scratch[17, 0]
    s.top = &scratch[18, 0]
    s.total = &scratch[19, 0]
    s.weights = &scratch[20, 0]
    s.value = &scratch[21, 0]
    s.pen_logit = &scratch[22, 0]
    s.pen_target = &scratch[23, 0]
    s.pen_slope = &scratch[24, 0]
    s.pen_loss = &scratch[25, 0]
    return s


# Reading a block into planes


cdef void read_pairs(
    Py_ssize_t count, const real *pairs, double_out first_out, double_out second_out
) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        first_out[k] = pairs[2 * k]
        second_out[k] = pairs[2 * k + 1]


cdef void read(Py_ssize_t count, const real *values, double_out values_out) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        values_out[k] = values[k]


cdef void read_column(Py_ssize_t rows, const real *values, Py_ssize_t step, double_out values_out) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(rows):
        values_out[i] = values[i * step]


cdef void repeat(Py_ssize_t columns, Py_ssize_t rows, double *plane) noexcept nogil:
    # in place: the first row of a plane, again and again
    cdef Py_ssize_t k
    for k in range(columns, rows * columns):
        plane[k] = plane[k - columns]


cdef void read_natural(
    const real *mean, const real *stddev, const real *correlation, Py_ssize_t columns, Py_ssize_t rows,
    bint one_mixture, const Planes *s,
) noexcept nogil:
    cdef Py_ssize_t count = columns if one_mixture else rows * columns
    read_pairs(count, mean, s.mean0, s.mean1)
    read_pairs(count, stddev, s.inverse0, s.inverse1)
    read(count, correlation, s.r)
    if one_mixture:
        repeat(columns, rows, s.mean0)
        repeat(columns, rows, s.mean1)
        repeat(columns, rows, s.inverse0)
        repeat(columns, rows, s.inverse1)
        repeat(columns, rows, s.r)


cdef void read_weights(
    const real *weights, Py_ssize_t columns, Py_ssize_t rows, bint one_mixture, double *weight
) noexcept nogil:
    read(columns if one_mixture else rows * columns, weights, weight)
    if one_mixture:
        repeat(columns, rows, weight)


cdef void subtract_means(
    const real *points, Py_ssize_t step, Py_ssize_t rows, Py_ssize_t columns,
    const double *mean0, const double *mean1, double_out offset0_out, double_out offset1_out,
) noexcept nogil:
    cdef Py_ssize_t i, j, k
    cdef double x0, x1
    for i in range(rows):
        x0 = points[i * step]
        x1 = points[i * step + 1]
        for j in range(columns):
            k = i * columns + j
            offset0_out[k] = x0 - mean0[k]
            offset1_out[k] = x1 - mean1[k]


cdef void read_logits(Py_ssize_t columns, const real *logits, double_out logits_out) noexcept nogil:
    # less the largest, so that the softmax cannot overflow; NaN is no comparison's larger and stays
    cdef Py_ssize_t j
    cdef double largest = logits[0]
    for j in range(1, columns):
        largest = logits[j] if logits[j] > largest else largest
    for j in range(columns):
        logits_out[j] = logits[j] - largest


cdef void read_raw(
    const real *raw, Py_ssize_t pens, Py_ssize_t rows, Py_ssize_t columns, const Planes *s
) noexcept nogil:
    cdef Py_ssize_t i, k, width = pens + 6 * columns
    cdef const real *row
    if columns == 1:  # a loop over one component at a time costs three times as much
        for i in range(rows):
            s.weight[i] = raw[i * width + pens] - raw[i * width + pens]  # 0, unless it is no number
        read_column(rows, raw + pens + 1, width, s.mean0)
        read_column(rows, raw + pens + 2, width, s.mean1)
        read_column(rows, raw + pens + 3, width, s.inverse0)
        read_column(rows, raw + pens + 4, width, s.inverse1)
        read_column(rows, raw + pens + 5, width, s.r)
        return
    for i in range(rows):
        k = i * columns
        row = raw + i * width + pens
        read_logits(columns, row, s.weight + k)
        read(columns, row + columns, s.mean0 + k)
        read(columns, row + 2 * columns, s.mean1 + k)
        read(columns, row + 3 * columns, s.inverse0 + k)
        read(columns, row + 4 * columns, s.inverse1 + k)
        read(columns, row + 5 * columns, s.r + k)


# Preparing components, in place


cdef void make_valid(
    Py_ssize_t count, const double *weight, double_out mean0, double_out mean1,
    double_out stddev0, double_out stddev1, double_out r,
) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        mean0[k] = bivariate.valid_mean(weight[k], mean0[k])
        mean1[k] = bivariate.valid_mean(weight[k], mean1[k])
        stddev0[k] = bivariate.valid_stddev(weight[k], stddev0[k])
        stddev1[k] = bivariate.valid_stddev(weight[k], stddev1[k])
        r[k] = bivariate.valid_correlation(weight[k], r[k])


cdef void prepare_natural(
    Py_ssize_t count, const double *weight, double_out inverse0, double_out inverse1, const double *r,
    double_out cross_out, double_out kappa_out, double_out shift_out, double_out factor_out,
) noexcept nogil:
    cdef Py_ssize_t k
    cdef double t, d, kappa, i0, i1
    for k in range(count):
        t = bivariate.nearest_integer(r[k])
        d = t - r[k]
        kappa = bivariate.kappa_of_correlation(r[k], t, d)
        i0 = bivariate.inverse_stddev(inverse0[k])
        i1 = bivariate.inverse_stddev(inverse1[k])
        shift_out[k] = bivariate.shift_or_limit(
            bivariate.shift_of_factors(weight[k], i0, i1), weight[k], i0, i1
        )
        factor_out[k] = bivariate.factor_of_factors(weight[k], i0, i1, kappa)
        inverse0[k] = i0
        inverse1[k] = i1
        cross_out[k] = kappa * d
        kappa_out[k] = kappa


cdef void prepare_natural_block(Py_ssize_t count, const Planes *s) noexcept nogil:
    make_valid(count, s.weight, s.mean0, s.mean1, s.inverse0, s.inverse1, s.r)
    prepare_natural(count, s.weight, s.inverse0, s.inverse1, s.r, s.cross, s.kappa, s.shift, s.factor)


cdef void prepare_raw(
    Py_ssize_t count, const double *logit, const double *log_stddev0, const double *log_stddev1, double_out r_,
    double_out cross_out, double_out kappa_out, double_out shift_out, double_out factor_out,
) noexcept nogil:
    cdef Py_ssize_t k
    cdef double a, n, joint, kappa, r
    for k in range(count):
        a = r_[k]
        n = bivariate.decay(a)
        joint = bivariate.joint_inverse(n)
        kappa = bivariate.kappa_of_decay(n, joint)
        r = bivariate.correlation_of_decay(a, n, bivariate.one_less_decay(a), joint)
        shift_out[k] = bivariate.shift_of_logs(logit[k], log_stddev0[k], log_stddev1[k], a)
        factor_out[k] = bivariate.factor_of_decay(n)
        r_[k] = r
        cross_out[k] = bivariate.cross_of_decay(r, bivariate.nearest_integer(r), n, kappa)
        kappa_out[k] = kappa


cdef void invert_logs(Py_ssize_t count, double_out inverse) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        inverse[k] = bivariate.inverse_stddev_of_log(inverse[k])


cdef void exponentiate(Py_ssize_t count, double_out weight) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        weight[k] = elementary.exp_flushed(weight[k])


cdef void prepare_raw_block(Py_ssize_t count, const Planes *s) noexcept nogil:
    # four short loops: in one long one, a processor sees too little of the next iteration to overlap them (7 %)
    prepare_raw(count, s.weight, s.inverse0, s.inverse1, s.r, s.cross, s.kappa, s.shift, s.factor)
    invert_logs(count, s.inverse0)
    invert_logs(count, s.inverse1)
    exponentiate(count, s.weight)


# Components at points


cdef void evaluate(
    Py_ssize_t count, const double *inverse0, const double *inverse1, const double *r, const double *cross,
    const double *kappa, const double *shift, double_out u_, double_out v_, double_out exponent_out,
) noexcept nogil:
    cdef Py_ssize_t k
    cdef double u, v, k1
    for k in range(count):
        u = bivariate.standardised(u_[k], inverse0[k])
        v = bivariate.standardised(v_[k], inverse1[k])
        k1 = bivariate.scaled_decorrelated(v, u, bivariate.nearest_integer(r[k]), kappa[k], cross[k])
        exponent_out[k] = shift[k] - bivariate.half_distance(u, k1)


cdef void evaluate_and_differentiate(
    Py_ssize_t count, const double *inverse0, const double *inverse1, const double *r, const double *cross,
    const double *kappa, const double *shift, double_out u_, double_out v_, double_out exponent_out,
    double_out slope0_out, double_out slope1_out, double_out datanh_out,
) noexcept nogil:
    cdef Py_ssize_t k
    cdef double u, v, t, k0, k1
    for k in range(count):
        u = bivariate.standardised(u_[k], inverse0[k])
        v = bivariate.standardised(v_[k], inverse1[k])
        t = bivariate.nearest_integer(r[k])
        k0 = bivariate.scaled_decorrelated(u, v, t, kappa[k], cross[k])
        k1 = bivariate.scaled_decorrelated(v, u, t, kappa[k], cross[k])
        exponent_out[k] = shift[k] - bivariate.half_distance(u, k1)
        slope0_out[k] = bivariate.slope(kappa[k], k0)
        slope1_out[k] = bivariate.slope(kappa[k], k1)
        datanh_out[k] = bivariate.datanh_correlation(r[k], k0, k1)
        u_[k] = u
        v_[k] = v


cdef void evaluate_block(Py_ssize_t count, const Planes *s, bint derivatives) noexcept nogil:
    if derivatives:
        evaluate_and_differentiate(
            count, s.inverse0, s.inverse1, s.r, s.cross, s.kappa, s.shift, s.u, s.v, s.exponent,
            s.slope0, s.slope1, s.datanh,
        )
    else:
        evaluate(count, s.inverse0, s.inverse1, s.r, s.cross, s.kappa, s.shift, s.u, s.v, s.exponent)


# Component level


cdef void write_logpdf(
    Py_ssize_t count, const double *exponent, const double *factor, real_out value_out
) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        value_out[k] = exponent[k] + (elementary.log(factor[k]) - bivariate.LOG_TWO_PI)


cdef void write_component_gradient(
    Py_ssize_t count, const real *value, const double *inverse0, const double *inverse1,
    const double *u, const double *v, const double *slope0, const double *slope1, const double *datanh,
    real_out mean_out, real_out log_stddev_out, real_out atanh_correlation_out, real_out x_out,
) noexcept nogil:
    cdef Py_ssize_t k
    cdef double part, dmean0, dmean1
    for k in range(count):
        part = bivariate.within_range(value[k])
        dmean0 = part * slope0[k] * inverse0[k]
        dmean1 = part * slope1[k] * inverse1[k]
        mean_out[2 * k] = dmean0
        mean_out[2 * k + 1] = dmean1
        x_out[2 * k] = -dmean0
        x_out[2 * k + 1] = -dmean1
        log_stddev_out[2 * k] = part * bivariate.dlog_stddev(u[k], slope0[k])
        log_stddev_out[2 * k + 1] = part * bivariate.dlog_stddev(v[k], slope1[k])
        atanh_correlation_out[k] = part * datanh[k]


def gaussian_logpdf(
    const real[:, ::1] x not None,            # (n or 1, 2)
    const real[:, :, ::1] mean not None,      # (n or 1, m, 2)
    const real[:, :, ::1] stddev not None,    # (n or 1, m, 2)
    const real[:, ::1] correlation not None,  # (n or 1, m)
    double[:, ::1] scratch not None,          # (PLANES, at least max(BLOCK, m))
    real[:, ::1] value_out not None,          # (n, m), not empty
    real[:, :, ::1] mean_out=None,            # (n, m, 2) or None: no gradient
    real[:, :, ::1] log_stddev_out=None,      # (n, m, 2)
    real[:, ::1] atanh_correlation_out=None,  # (n, m)
    real[:, :, ::1] x_out=None,               # (n, m, 2)
):
    """Log-density of each component and, with outputs for it, its gradient."""
    cdef Py_ssize_t n = value_out.shape[0], m = value_out.shape[1], i = 0, rows, count
    cdef bint one_point = x.shape[0] < n, one_mixture = mean.shape[0] < n, derivatives = mean_out is not None
    cdef Py_ssize_t block_rows = max(1, BLOCK // m)
    cdef Planes s = planes_of(scratch)
    cdef Py_ssize_t k
    cdef _arithmetic.arithmetic before
    with nogil:
        before = _arithmetic.use_ieee_arithmetic()
        for k in range(max(<Py_ssize_t> BLOCK, m)):
            s.weight[k] = 1.0
        while i < n:
            rows = min(block_rows, n - i)
            count = rows * m
            if i == 0 or not one_mixture:
                read_natural(
                    in_block(mean, i, 0, 1 if one_mixture else rows, m),
                    in_block(stddev, i, 0, 1 if one_mixture else rows, m),
                    in_rows(correlation, i, 1 if one_mixture else rows),
                    m, rows, one_mixture, &s,
                )
                prepare_natural_block(count, &s)
            subtract_means(
                in_rows(x, 0 if one_point else i, 1 if one_point else rows), 0 if one_point else 2,
                rows, m, s.mean0, s.mean1, s.u, s.v,
            )
            evaluate_block(count, &s, derivatives)
            write_logpdf(count, s.exponent, s.factor, out_rows(value_out, i, rows))
            if derivatives:
                write_component_gradient(
                    count, &value_out[i, 0], s.inverse0, s.inverse1, s.u, s.v, s.slope0, s.slope1, s.datanh,
                    out_block(mean_out, i, 0, rows, m), out_block(log_stddev_out, i, 0, rows, m),
                    out_rows(atanh_correlation_out, i, rows), out_block(x_out, i, 0, rows, m),
                )
            i += rows
        _arithmetic.restore_arithmetic(before)


# Mixture level and network head: reductions over the components of a row, in an order fixed by the row alone


cdef double row_sum(Py_ssize_t columns, const double *values) noexcept nogil:
    # four chains of additions instead of one: as many as an AVX2 register holds
    cdef double s0 = 0.0, s1 = 0.0, s2 = 0.0, s3 = 0.0
    cdef Py_ssize_t j = 0
    while j + 4 <= columns:
        s0 += values[j]
        s1 += values[j + 1]
        s2 += values[j + 2]
        s3 += values[j + 3]
        j += 4
    while j < columns:
        s0 += values[j]
        j += 1
    return (s0 + s2) + (s1 + s3)


cdef inline double larger(double a, double b) noexcept nogil:
    # b, if a is NaN
    return a if a > b else b


cdef double subtract_top(Py_ssize_t columns, double *exponent) noexcept nogil:
    # In place. Starts from a finite number: where every exponent is -inf, nothing becomes -inf - -inf.
    cdef double t0 = -bivariate.DBL_MAX, t1 = t0, t2 = t0, t3 = t0
    cdef Py_ssize_t j = 0
    while j + 4 <= columns:
        t0 = larger(exponent[j], t0)
        t1 = larger(exponent[j + 1], t1)
        t2 = larger(exponent[j + 2], t2)
        t3 = larger(exponent[j + 3], t3)
        j += 4
    while j < columns:
        t0 = larger(exponent[j], t0)
        j += 1
    t0 = larger(larger(t0, t2), larger(t1, t3))
    for j in range(columns):
        exponent[j] -= t0
    return t0


cdef void weigh(Py_ssize_t count, const double *factor, double_out exponent) noexcept nogil:
    # in place
    cdef Py_ssize_t k
    for k in range(count):
        exponent[k] = factor[k] * elementary.exp_flushed(exponent[k])


cdef void mixture_value(
    Py_ssize_t rows, const double *top, const double *total, const double *weights, double_out value_out
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(rows):
        value_out[i] = (top[i] + (elementary.log(total[i]) - elementary.log(weights[i]))) - bivariate.LOG_TWO_PI


cdef void reduce_rows(Py_ssize_t rows, Py_ssize_t columns, const Planes *s, bint softmax) noexcept nogil:
    # `value`: the log-density of each row's mixture; `softmax` where the weights are still to be divided by their sum
    cdef Py_ssize_t i
    for i in range(rows):
        s.top[i] = subtract_top(columns, s.exponent + i * columns)
    weigh(rows * columns, s.factor, s.exponent)
    for i in range(rows):
        s.total[i] = row_sum(columns, s.exponent + i * columns)
        s.weights[i] = row_sum(columns, s.weight + i * columns) if softmax else 1.0
    mixture_value(rows, s.top, s.total, s.weights, s.value)


cdef void take_exp(Py_ssize_t count, double_out values) noexcept nogil:
    # in place
    cdef Py_ssize_t k
    for k in range(count):
        values[k] = elementary.exp(values[k])


cdef void fill(Py_ssize_t count, real_out values_out) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        values_out[k] = 0.0


cdef void write_mixture_gradient_row(
    Py_ssize_t columns, double scale, const double *weighed, const double *weight,
    const double *inverse0, const double *inverse1,
    const double *u, const double *v, const double *slope0, const double *slope1, const double *datanh,
    real_out logits_out, real_out mean_out, real_out log_stddev_out, real_out atanh_correlation_out,
    double_out dmean0_out, double_out dmean1_out,
) noexcept nogil:
    cdef Py_ssize_t j
    cdef double g, dmean0, dmean1
    for j in range(columns):
        g = weighed[j] * scale
        dmean0 = g * slope0[j] * inverse0[j]
        dmean1 = g * slope1[j] * inverse1[j]
        logits_out[j] = g - weight[j]
        mean_out[2 * j] = dmean0
        mean_out[2 * j + 1] = dmean1
        log_stddev_out[2 * j] = g * bivariate.dlog_stddev(u[j], slope0[j])
        log_stddev_out[2 * j + 1] = g * bivariate.dlog_stddev(v[j], slope1[j])
        atanh_correlation_out[j] = g * datanh[j]
        dmean0_out[j] = dmean0
        dmean1_out[j] = dmean1


def mixture_logpdf(
    const real[:, ::1] x not None,            # (n or 1, 2)
    const real[:, ::1] weights not None,      # (n or 1, m)
    const real[:, :, ::1] mean not None,      # (n or 1, m, 2)
    const real[:, :, ::1] stddev not None,    # (n or 1, m, 2)
    const real[:, ::1] correlation not None,  # (n or 1, m)
    double[:, ::1] scratch not None,          # (PLANES, at least max(BLOCK, m))
    real[::1] value_out not None,             # (n,), not empty; m > 0
    real[:, ::1] logits_out=None,             # (n, m) or None: no gradient
    real[:, :, ::1] mean_out=None,            # (n, m, 2)
    real[:, :, ::1] log_stddev_out=None,      # (n, m, 2)
    real[:, ::1] atanh_correlation_out=None,  # (n, m)
    real[:, ::1] x_out=None,                  # (n, 2)
):
    """Log-density of each row's mixture and, with outputs for it, its gradient."""
    cdef Py_ssize_t n = value_out.shape[0], m = weights.shape[1], i = 0, j, k, rows, count
    cdef bint one_point = x.shape[0] < n, one_mixture = mean.shape[0] < n, derivatives = mean_out is not None
    cdef Py_ssize_t block_rows = max(1, BLOCK // m)
    cdef Planes s = planes_of(scratch)
    cdef _arithmetic.arithmetic before
    with nogil:
        before = _arithmetic.use_ieee_arithmetic()
        while i < n:
            rows = min(block_rows, n - i)
            count = rows * m
            if i == 0 or not one_mixture:
                read_weights(in_rows(weights, i, 1 if one_mixture else rows), m, rows, one_mixture, s.weight)
                read_natural(
                    in_block(mean, i, 0, 1 if one_mixture else rows, m),
                    in_block(stddev, i, 0, 1 if one_mixture else rows, m),
                    in_rows(correlation, i, 1 if one_mixture else rows),
                    m, rows, one_mixture, &s,
                )
                prepare_natural_block(count, &s)
            subtract_means(
                in_rows(x, 0 if one_point else i, 1 if one_point else rows), 0 if one_point else 2,
                rows, m, s.mean0, s.mean1, s.u, s.v,
            )
            evaluate_block(count, &s, derivatives)
            reduce_rows(rows, m, &s, False)
            for j in range(rows):
                value_out[i + j] = <real> s.value[j]
                if not derivatives:
                    continue
                if value_out[i + j] == -bivariate.INFINITY:  # beyond the dtype: gradient 0
                    fill(m, out_rows(logits_out, i + j, 1))
                    fill(2 * m, out_block(mean_out, i + j, 0, 1, m))
                    fill(2 * m, out_block(log_stddev_out, i + j, 0, 1, m))
                    fill(m, out_rows(atanh_correlation_out, i + j, 1))
                    fill(2, out_rows(x_out, i + j, 1))
                    continue
                k = j * m
                write_mixture_gradient_row(
                    m, 1.0 / s.total[j], s.exponent + k, s.weight + k, s.inverse0 + k, s.inverse1 + k,
                    s.u + k, s.v + k, s.slope0 + k, s.slope1 + k, s.datanh + k,
                    out_rows(logits_out, i + j, 1), out_block(mean_out, i + j, 0, 1, m),
                    out_block(log_stddev_out, i + j, 0, 1, m), out_rows(atanh_correlation_out, i + j, 1),
                    s.dmean0, s.dmean1,
                )
                x_out[i + j, 0] = <real> -row_sum(m, s.dmean0)
                x_out[i + j, 1] = <real> -row_sum(m, s.dmean1)
            i += rows
        _arithmetic.restore_arithmetic(before)


# Mixtures as an object: packed parameters, in the order of raw network output, natural or unconstrained. They are
# doubles whatever the dtype of the points, so that what a bias or a temperature made of them is not rounded.


cdef void constant(Py_ssize_t count, double value, double_out values_out) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        values_out[k] = value


cdef void read_packed(
    const double *parameters, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t repeats, bint unconstrained,
    const Planes *s,
) noexcept nogil:
    cdef Py_ssize_t i, count = rows * columns
    read_raw(parameters, 0, rows, columns, s)
    if not unconstrained:  # weights as they are, not logits less the largest
        for i in range(rows):
            read(columns, parameters + i * 6 * columns, s.weight + i * columns)
    repeat(count, repeats, s.mean0)
    repeat(count, repeats, s.mean1)
    repeat(count, repeats, s.inverse0)
    repeat(count, repeats, s.inverse1)
    repeat(count, repeats, s.r)
    repeat(count, repeats, s.weight)


cdef void prepare_packed_block(Py_ssize_t count, bint unconstrained, const Planes *s) noexcept nogil:
    if unconstrained:
        prepare_raw_block(count, s)
    else:
        prepare_natural_block(count, s)


cdef void write_scaled(
    Py_ssize_t count, double scale, const double *values, real_out values_out
) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        values_out[k] = scale * values[k]


cdef void weigh_slopes(
    Py_ssize_t count, double scale, const double *weighed, const double *inverse0, const double *inverse1,
    const double *slope0, const double *slope1, double_out dmean0_out, double_out dmean1_out,
) noexcept nogil:
    cdef Py_ssize_t j
    cdef double g
    for j in range(count):
        g = weighed[j] * scale
        dmean0_out[j] = g * slope0[j] * inverse0[j]
        dmean1_out[j] = g * slope1[j] * inverse1[j]


def packed_components(
    const real[:, ::1] x not None,             # (n or 1, 2)
    const double[:, ::1] parameters not None,  # (n or 1, 6 m)
    double[:, ::1] scratch not None,           # (PLANES, at least max(BLOCK, m))
    real[:, ::1] value_out not None,           # (n, m), not empty
    bint unconstrained,
):
    """Log-density of each component."""
    cdef Py_ssize_t n = value_out.shape[0], m = value_out.shape[1], i = 0, rows, distinct
    cdef bint one_point = x.shape[0] < n, one_mixture = parameters.shape[0] < n
    cdef Py_ssize_t block_rows = max(1, BLOCK // m)
    cdef Planes s = planes_of(scratch)
    cdef _arithmetic.arithmetic before
    with nogil:
        before = _arithmetic.use_ieee_arithmetic()
        while i < n:
            rows = min(block_rows, n - i)
            if i == 0 or not one_mixture:
                distinct = 1 if one_mixture else rows
                read_packed(in_rows(parameters, i, distinct), distinct, m, rows // distinct, unconstrained, &s)
                constant(rows * m, 0.0 if unconstrained else 1.0, s.weight)
                prepare_packed_block(rows * m, unconstrained, &s)
            subtract_means(
                in_rows(x, 0 if one_point else i, 1 if one_point else rows), 0 if one_point else 2,
                rows, m, s.mean0, s.mean1, s.u, s.v,
            )
            evaluate_block(rows * m, &s, False)
            write_logpdf(rows * m, s.exponent, s.factor, out_rows(value_out, i, rows))
            i += rows
        _arithmetic.restore_arithmetic(before)


cdef Py_ssize_t rows_of(const real[::1] value, const real[:, ::1] responsibilities, const real[:, ::1] score):
    if value is not None:
        return value.shape[0]
    return score.shape[0] if responsibilities is None else responsibilities.shape[0]


def packed_mixture(
    const real[:, ::1] x not None,             # (n or 1, 2)
    const double[:, ::1] parameters not None,  # (n or 1, 6 m)
    double[:, ::1] scratch not None,           # (PLANES, at least max(BLOCK, m))
    real[::1] value_out,                       # (n,), not empty, or None; m > 0
    real[:, ::1] responsibilities_out,         # (n, m) or None
    real[:, ::1] score_out,                    # (n, 2) or None: one of the three at least
    bint unconstrained,
    bint density=False,                        # the density itself for a value; then without a score
):
    """Log-density of each row's mixture, its components' responsibilities, its gradient with respect to the point."""
    cdef Py_ssize_t n = rows_of(value_out, responsibilities_out, score_out)
    cdef Py_ssize_t m = parameters.shape[1] // 6, i = 0, j, k, rows, distinct
    cdef bint one_point = x.shape[0] < n, one_mixture = parameters.shape[0] < n
    cdef Py_ssize_t block_rows = max(1, BLOCK // m)
    cdef real value
    cdef Planes s = planes_of(scratch)
    cdef _arithmetic.arithmetic before
    with nogil:
        before = _arithmetic.use_ieee_arithmetic()
        while i < n:
            rows = min(block_rows, n - i)
            if i == 0 or not one_mixture:
                distinct = 1 if one_mixture else rows
                read_packed(in_rows(parameters, i, distinct), distinct, m, rows // distinct, unconstrained, &s)
                prepare_packed_block(rows * m, unconstrained, &s)
            subtract_means(
                in_rows(x, 0 if one_point else i, 1 if one_point else rows), 0 if one_point else 2,
                rows, m, s.mean0, s.mean1, s.u, s.v,
            )
            evaluate_block(rows * m, &s, score_out is not None)
            reduce_rows(rows, m, &s, unconstrained)
            if density:  # here, where it has not been rounded to the dtype yet
                take_exp(rows, s.value)
            for j in range(rows):
                k = j * m
                value = <real> s.value[j]
                if value_out is not None:
                    value_out[i + j] = value
                if responsibilities_out is not None:
                    # where every component underflows, the point tells nothing: the weights remain
                    if s.total[j] == 0.0:
                        write_scaled(m, 1.0 / s.weights[j], s.weight + k, out_rows(responsibilities_out, i + j, 1))
                    else:
                        write_scaled(m, 1.0 / s.total[j], s.exponent + k, out_rows(responsibilities_out, i + j, 1))
                if score_out is None:
                    continue
                if value == -bivariate.INFINITY:  # beyond the dtype: gradient 0
                    fill(2, out_rows(score_out, i + j, 1))
                    continue
                weigh_slopes(
                    m, 1.0 / s.total[j], s.exponent + k, s.inverse0 + k, s.inverse1 + k, s.slope0 + k, s.slope1 + k,
                    s.dmean0, s.dmean1,
                )
                score_out[i + j, 0] = <real> -row_sum(m, s.dmean0)
                score_out[i + j, 1] = <real> -row_sum(m, s.dmean1)
            i += rows
        _arithmetic.restore_arithmetic(before)


# The pen's cross-entropy and its gradient. A target outside [0, 1] gives NaN, as a component outside its domain does.


cdef inline double target_or_nan(double target) noexcept nogil:
    return target if (target >= 0.0 and target <= 1.0) else bivariate.NAN


cdef void bernoulli(
    Py_ssize_t rows, const double *logit, const double *target, double_out loss_out, double_out slope_out
) noexcept nogil:
    # target log(1 + exp(-logit)) + (1 - target) log(1 + exp(logit)), of terms >= 0 that cannot overflow
    cdef Py_ssize_t i
    cdef double size, small, against, share
    for i in range(rows):
        size = fabs(logit[i])
        small = elementary.exp_flushed(-size)
        against = 1.0 - target[i] if logit[i] > 0.0 else target[i]
        share = 1.0 if logit[i] > 0.0 else small
        loss_out[i] = size * target_or_nan(against) + elementary.log1p(small)
        slope_out[i] = share / (1.0 + small) - target[i]


cdef double categorical_loss(Py_ssize_t pens, const real *logits, const double *target) noexcept nogil:
    # Sum of target * (log sum exp - logit), of terms >= 0; a target of 0 counts 0 whatever its logit. The 1 that is exp
    # of the largest logit less itself is left to log1p: a right and confident answer keeps its digits.
    cdef Py_ssize_t k, top = 0
    cdef double others = 0.0, loss = 0.0
    for k in range(1, pens):
        top = k if logits[k] > logits[top] else top
    for k in range(pens):
        if k != top:
            others += elementary.exp_nonpositive(<double> logits[k] - logits[top])
    others = elementary.log1p(others)
    for k in range(pens):
        if target[k] != 0.0:
            loss += target_or_nan(target[k]) * ((<double> logits[top] - logits[k]) + others)
    return loss if others == others else others


cdef void write_categorical_gradient(
    Py_ssize_t pens, const real *logits, const double *target, double scale, real *gradient_out
) noexcept nogil:
    # softmax * (sum of the targets) - target
    cdef Py_ssize_t k
    cdef double largest = logits[0], total = 0.0, targets = 0.0, share
    for k in range(1, pens):
        largest = logits[k] if logits[k] > largest else largest
    for k in range(pens):
        total += elementary.exp_nonpositive(logits[k] - largest)
        targets += target[k]
    for k in range(pens):
        share = elementary.exp_nonpositive(logits[k] - largest) / total
        gradient_out[k] = <real> (scale * (share * targets - target[k]))


cdef void score_pens(
    Py_ssize_t rows, Py_ssize_t pens, Py_ssize_t width, const real *raw, const double *target, const Planes *s
) noexcept nogil:
    cdef Py_ssize_t i
    if pens == 1:
        read_column(rows, raw, width, s.pen_logit)
        read_column(rows, target, 1, s.pen_target)
        bernoulli(rows, s.pen_logit, s.pen_target, s.pen_loss, s.pen_slope)
        return
    for i in range(rows):
        s.pen_loss[i] = categorical_loss(pens, raw + i * width, target + i * pens) if pens else 0.0


# Network head


cdef double within_dtype(double loss, const real *dtype) noexcept nogil:
    # inf where the dtype of the array cannot hold a loss
    return bivariate.INFINITY if <double> <real> loss == bivariate.INFINITY else loss


cdef void add_to(double term, double *total, double *lost) noexcept nogil:
    # what rounding the sum loses is summed as well (Knuth's two-sum)
    cdef double before = total[0]
    cdef double after = before + term
    cdef double added = after - before
    lost[0] += (before - (after - added)) + (term - added)
    total[0] = after


cdef void write_raw_gradient_row(
    Py_ssize_t columns, double component_scale, double weight_scale, const double *weighed, const double *weight,
    const double *inverse0, const double *inverse1,
    const double *u, const double *v, const double *slope0, const double *slope1, const double *datanh,
    real_out logits_out, real_out mean0_out, real_out mean1_out,
    real_out log_stddev0_out, real_out log_stddev1_out, real_out atanh_correlation_out,
) noexcept nogil:
    # of the loss, hence a negative component_scale
    cdef Py_ssize_t j
    cdef double g
    for j in range(columns):
        g = weighed[j] * component_scale
        logits_out[j] = weight[j] * weight_scale + g
        mean0_out[j] = g * slope0[j] * inverse0[j]
        mean1_out[j] = g * slope1[j] * inverse1[j]
        log_stddev0_out[j] = g * bivariate.dlog_stddev(u[j], slope0[j])
        log_stddev1_out[j] = g * bivariate.dlog_stddev(v[j], slope1[j])
        atanh_correlation_out[j] = g * datanh[j]


cdef void write_raw_gradient(
    Py_ssize_t columns, Py_ssize_t pens, const Planes *s, Py_ssize_t i, double scale, const real *raw,
    const double *target, real *out,
) noexcept nogil:
    # one row: pen logits, then M each of logits, means, log stddevs and atanh correlations
    cdef Py_ssize_t k = i * columns
    if pens == 1:
        out[0] = <real> (scale * s.pen_slope[i])
    elif pens:
        write_categorical_gradient(pens, raw, target, scale, out)
    out += pens
    write_raw_gradient_row(
        columns, -scale / s.total[i], scale / s.weights[i], s.exponent + k, s.weight + k,
        s.inverse0 + k, s.inverse1 + k, s.u + k, s.v + k, s.slope0 + k, s.slope1 + k, s.datanh + k,
        out, out + columns, out + 2 * columns, out + 3 * columns, out + 4 * columns, out + 5 * columns,
    )


def mdn_loss(
    const real[:, ::1] raw not None,   # (n, pens + 6 m)
    const real[:, ::1] x not None,     # (n, 2)
    const double[:, ::1] pen,          # (n, pens) or None: no pen
    const double[::1] sample_weight,   # (n,) or None: 1
    double scale,                      # of the gradient
    double[:, ::1] scratch not None,   # (PLANES, at least max(BLOCK, m))
    real[::1] loss_out,                # (n,) or None: weighted losses of the rows
    double[::1] sums_out,              # (ceil(n / CHUNK),) or None: sums of the same
    real[:, ::1] gradient_out,         # (n, pens + 6 m) or None
):
    """Loss of raw network output, row by row or in sums, and its gradient.

    Returns whether the inputs fit each other, and does nothing if they do not.
    """
    cdef Py_ssize_t n = raw.shape[0], pens = 0 if pen is None else pen.shape[1]
    cdef Py_ssize_t m = (raw.shape[1] - pens) // 6, i = 0, j, rows, chunk_end = 0
    cdef Py_ssize_t width = raw.shape[1], block_rows = max(1, BLOCK // max(1, m))
    cdef bint derivatives = gradient_out is not None, weighted = sample_weight is not None
    cdef bint row_by_row = loss_out is not None
    cdef const double *targets = NULL
    cdef const real *block
    cdef real *gradient
    cdef double weight = 1.0, loss, total = 0.0, lost = 0.0
    cdef Planes s = planes_of(scratch)
    cdef _arithmetic.arithmetic before
    if not (m > 0 and fits2(raw, n, pens + 6 * m) and fits2(x, n, 2) and (pens == 0 or fits2(pen, n, pens))):
        return False
    with nogil:
        before = _arithmetic.use_ieee_arithmetic()
        while i < n:
            if i == chunk_end:
                chunk_end = min(n, i + CHUNK)
                total = 0.0
                lost = 0.0
            rows = min(block_rows, chunk_end - i)
            block = in_rows(raw, i, rows)
            if pens:
                targets = in_rows(pen, i, rows)
            read_raw(block, pens, rows, m, &s)
            prepare_raw_block(rows * m, &s)
            subtract_means(in_rows(x, i, rows), 2, rows, m, s.mean0, s.mean1, s.u, s.v)
            evaluate_block(rows * m, &s, derivatives)
            reduce_rows(rows, m, &s, True)
            score_pens(rows, pens, width, block, targets, &s)
            for j in range(rows):
                if weighted:
                    weight = sample_weight[i + j]
                loss = within_dtype(s.pen_loss[j] - s.value[j], block)
                if derivatives:
                    gradient = out_rows(gradient_out, i + j, 1)
                    if weight == 0.0 or loss == bivariate.INFINITY:  # skipped, or beyond the dtype
                        fill(width, gradient)
                    else:
                        write_raw_gradient(
                            m, pens, &s, j, weight * scale if loss == loss else loss,
                            block + j * width, targets + j * pens, gradient,
                        )
                loss = 0.0 if weight == 0.0 else weight * loss
                if row_by_row:
                    loss_out[i + j] = <real> loss
                else:
                    add_to(loss, &total, &lost)
            i += rows
            if i == chunk_end and not row_by_row:
                sums_out[(i - 1) // CHUNK] = total + lost if total - total == 0.0 else total
        _arithmetic.restore_arithmetic(before)
    return True


# For the tests: the elementary functions over arrays, in this very build


cdef void each_exp(Py_ssize_t count, const double *x, double_out out) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        out[k] = elementary.exp(x[k])


cdef void each_exp_nonpositive(Py_ssize_t count, const double *x, double_out out) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        out[k] = elementary.exp_nonpositive(x[k])


cdef void each_exp_normal(Py_ssize_t count, const double *x, double_out out) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        out[k] = elementary.exp_normal(x[k])


cdef void each_exp_flushed(Py_ssize_t count, const double *x, double_out out) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        out[k] = elementary.exp_flushed(x[k])


cdef void each_one_minus_exp(Py_ssize_t count, const double *x, double_out out) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        out[k] = elementary.one_minus_exp(x[k])


cdef void each_log(Py_ssize_t count, const double *x, double_out out) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        out[k] = elementary.log(x[k])


cdef void each_log1p(Py_ssize_t count, const double *x, double_out out) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        out[k] = elementary.log1p(x[k])


def apply_elementary(str name not None, const double[::1] x not None, double[::1] values_out not None):
    """Write the elementary function of that name of each x."""
    cdef Py_ssize_t count = values_out.shape[0]
    if name == "exp":
        each_exp(count, &x[0], &values_out[0])
    elif name == "exp_nonpositive":
        each_exp_nonpositive(count, &x[0], &values_out[0])
    elif name == "exp_normal":
        each_exp_normal(count, &x[0], &values_out[0])
    elif name == "exp_flushed":
        each_exp_flushed(count, &x[0], &values_out[0])
    elif name == "one_minus_exp":
        each_one_minus_exp(count, &x[0], &values_out[0])
    elif name == "log":
        each_log(count, &x[0], &values_out[0])
    elif name == "log1p":
        each_log1p(count, &x[0], &values_out[0])


# What _dispatch.py asks of the baseline build


def offered_level():
    """Return the x86-64 level that CPU and operating system offer, from 1; 0 on other processors."""
    return _cpu.cpu_level()


def compiler():
    """Return the name and version of the compiler that made this build."""
    return _cpu.COMPILER.decode()
