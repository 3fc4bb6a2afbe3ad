"""Blocks of at most 256 components in planes, one plane for each quantity, and the loops over them.

Reasons for this design:

- A plane is an array inside a struct, so planes cannot overlap by the rules of C: GCC and Clang turn each loop into
  vector code without `restrict` and without a list of pointers. Only the caller's memory is restrict-qualified.
- Loops run over all components of a block, whatever the number of components in a row. What belongs to a row (its
  point, its largest exponent, its scale) is first spread over its components.
- All arithmetic is double, so float32 results are float64 results rounded once. _columns.pxd reads and writes them.
- A row of more than BLOCK components takes several blocks. Every other loop handles one block.
"""

from libc.math cimport sqrt

from cymdn cimport _bivariate as bivariate
from cymdn cimport _elementary as elementary
from cymdn._columns cimport Column, Place, double_in, double_out, float_in, float_out, real_in, real_out, within
from cymdn._elementary cimport fma

cdef enum:
    BLOCK = 256  # components: the planes in use at a time fit the L1 and L2 caches
    PLANE = 264  # 64 bytes more, so that the numbers of one component do not compete for one set of the L1 cache

cdef struct Block:
    # parameters as read; then what `prepare_...` replaces them by
    double[PLANE] weight      # weight, or logit; prepare_unconstrained: exp(logit - the row's largest)
    double[PLANE] mean0
    double[PLANE] mean1
    double[PLANE] inverse0    # sigma0, or its logarithm; prepare_...: 1 / sigma0
    double[PLANE] inverse1
    double[PLANE] r           # r, or atanh r; prepare_...: r
    # other prepared quantities
    double[PLANE] cross
    double[PLANE] kappa
    double[PLANE] rest0       # 1 / sigma0 is inverse0 + inverse0 rest0
    double[PLANE] rest1
    double[PLANE] shift
    double[PLANE] factor
    # under a floor of the stddevs: derivatives of the floored parameters, for the chain rule
    double[PLANE] kept0       # of floored log sigma0 with respect to log sigma0
    double[PLANE] kept1
    double[PLANE] turned0     # of floored atanh r with respect to log sigma0
    double[PLANE] turned1
    double[PLANE] turned      # of floored atanh r with respect to atanh r
    # components at points
    double[PLANE] u           # standardised offset; differentiate: d/dlog sigma0
    double[PLANE] v
    double[PLANE] exponent    # weigh: weight * density; differentiate: responsibility times the row's scale
    double[PLANE] slope0      # sigma0 d/dmean0; differentiate: d/dmean0
    double[PLANE] slope1
    double[PLANE] datanh
    double[PLANE] dlogit
    # numbers of a row, repeated for each of its components; each function says which
    double[PLANE] row0
    double[PLANE] row1
    double[PLANE] row2

cdef struct Rows:
    double[PLANE] x0          # the point; differentiate_rows: d/dx0
    double[PLANE] x1
    double[PLANE] top         # largest logit, then largest exponent
    double[PLANE] total       # sum of weight * density, up to exp(top)
    double[PLANE] weights     # sum of the weights, if these are exponentials of logits; else 1
    double[PLANE] value       # log-density of the mixture
    double[PLANE] scale       # of weight * density in the derivatives
    double[PLANE] weight_scale
    double[PLANE] live        # 0: a row without derivatives; else a factor of these, 1 except for huge weights
    double[PLANE] weight      # of the row in the loss


# All six columns of packed rows in one loop: these rows are short, and a loop for each column would cost more than the
# numbers that it moves.


cdef inline void read_packed_numbers(
    real_in numbers, Py_ssize_t distance, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t columns, Block *b
) noexcept nogil:
    cdef Py_ssize_t i, j, k, at
    if columns == 1:
        for i in range(rows):
            at = i * row
            b.weight[i] = numbers[at]
            b.mean0[i] = numbers[at + distance]
            b.mean1[i] = numbers[at + 2 * distance]
            b.inverse0[i] = numbers[at + 3 * distance]
            b.inverse1[i] = numbers[at + 4 * distance]
            b.r[i] = numbers[at + 5 * distance]
        return
    for i in range(rows):
        for j in range(columns):
            k = i * columns + j
            at = i * row + j
            b.weight[k] = numbers[at]
            b.mean0[k] = numbers[at + distance]
            b.mean1[k] = numbers[at + 2 * distance]
            b.inverse0[k] = numbers[at + 3 * distance]
            b.inverse1[k] = numbers[at + 4 * distance]
            b.r[k] = numbers[at + 5 * distance]


cdef inline void write_three(
    Py_ssize_t columns, const double *plane0, const double *plane1, const double *plane2,
    real_out numbers0, real_out numbers1, real_out numbers2,
) noexcept nogil:
    # three restrict-qualified pointers: the compiler has to know that the outputs do not overlap
    cdef Py_ssize_t j
    for j in range(columns):
        numbers0[j] = plane0[j]
        numbers1[j] = plane1[j]
        numbers2[j] = plane2[j]


cdef inline void write_packed_numbers(
    const Block *b, Py_ssize_t distance, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t columns, real_out numbers
) noexcept nogil:
    cdef Py_ssize_t i, k
    cdef real_out second
    if columns == 1:
        for i in range(rows):
            k = i * row
            numbers[k] = b.dlogit[i]
            numbers[k + distance] = b.slope0[i]
            numbers[k + 2 * distance] = b.slope1[i]
            numbers[k + 3 * distance] = b.u[i]
            numbers[k + 4 * distance] = b.v[i]
            numbers[k + 5 * distance] = b.datanh[i]
        return
    for i in range(rows):
        k = i * columns
        second = numbers + 3 * distance
        write_three(
            columns, b.dlogit + k, b.slope0 + k, b.slope1 + k, numbers, numbers + distance, numbers + 2 * distance
        )
        write_three(columns, b.u + k, b.v + k, b.datanh + k, second, second + distance, second + 2 * distance)
        numbers = numbers + row


cdef inline void read_packed(const Column *c, Py_ssize_t m, const Place *at, Block *b) noexcept nogil:
    cdef Py_ssize_t offset = at.row * c.row + at.column
    within(offset, offset + (at.rows - 1) * c.row + 5 * m + at.columns - 1, c.size)
    if c.single:
        read_packed_numbers(<float_in> (<const float *> c.first + offset), m, c.row, at.rows, at.columns, b)
    else:
        read_packed_numbers(<double_in> (<const double *> c.first + offset), m, c.row, at.rows, at.columns, b)


cdef inline void write_packed(const Column *c, Py_ssize_t m, const Place *at, const Block *b) noexcept nogil:
    cdef Py_ssize_t offset = at.row * c.row + at.column
    within(offset, offset + (at.rows - 1) * c.row + 5 * m + at.columns - 1, c.size)
    if c.single:
        write_packed_numbers(b, m, c.row, at.rows, at.columns, <float_out> (<float *> c.first + offset))
    else:
        write_packed_numbers(b, m, c.row, at.rows, at.columns, <double_out> (<double *> c.first + offset))


cdef inline void spread(
    Py_ssize_t rows, Py_ssize_t columns, const double *values, double_out plane
) noexcept nogil:
    cdef Py_ssize_t i, j
    if columns == 1:
        for i in range(rows):
            plane[i] = values[i]
        return
    for i in range(rows):
        for j in range(columns):
            plane[i * columns + j] = values[i]


cdef inline void spread_two(
    Py_ssize_t rows, Py_ssize_t columns, const double *values0, const double *values1, Block *b
) noexcept nogil:
    # into row0 and row1, in half the time of two loops
    cdef Py_ssize_t i, j
    if columns == 1:
        spread(rows, 1, values0, b.row0)
        spread(rows, 1, values1, b.row1)
        return
    for i in range(rows):
        for j in range(columns):
            b.row0[i * columns + j] = values0[i]
            b.row1[i * columns + j] = values1[i]


cdef inline void spread_three(Py_ssize_t rows, Py_ssize_t columns, const Rows *w, Block *b) noexcept nogil:
    # the point and the largest logit
    cdef Py_ssize_t i, j
    if columns == 1:
        spread_two(rows, 1, w.x0, w.x1, b)
        spread(rows, 1, w.top, b.row2)
        return
    for i in range(rows):
        for j in range(columns):
            b.row0[i * columns + j] = w.x0[i]
            b.row1[i * columns + j] = w.x1[i]
            b.row2[i * columns + j] = w.top[i]


cdef inline void set_plane(Py_ssize_t count, double value, double_out plane) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        plane[k] = value


cdef inline void negate(Py_ssize_t count, double_out plane) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        plane[k] = -plane[k]


cdef inline void exponentiate(Py_ssize_t count, double_out plane) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        plane[k] = elementary.exp(plane[k])


cdef inline void scale_rows(Py_ssize_t rows, const double *live, const double *scale, double_out values) noexcept nogil:
    # 0 in a row without derivatives, even if the value is NaN
    cdef Py_ssize_t i
    for i in range(rows):
        values[i] = 0.0 if live[i] == 0.0 else scale[i] * values[i]


# Preparing components


cdef inline void make_valid(Py_ssize_t count, Block *b) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        b.mean0[k] = bivariate.valid_mean(b.weight[k], b.mean0[k])
        b.mean1[k] = bivariate.valid_mean(b.weight[k], b.mean1[k])
        b.inverse0[k] = bivariate.valid_stddev(b.weight[k], b.inverse0[k])
        b.inverse1[k] = bivariate.valid_stddev(b.weight[k], b.inverse1[k])
        b.r[k] = bivariate.valid_correlation(b.weight[k], b.r[k])


cdef inline void prepare_natural(Py_ssize_t count, Block *b) noexcept nogil:
    cdef Py_ssize_t k
    cdef double t, d, kappa, i0, i1
    make_valid(count, b)
    for k in range(count):
        t = bivariate.strong_sign(b.r[k])
        d = t - b.r[k]
        kappa = bivariate.kappa_of_correlation(b.r[k], t, d)
        i0 = bivariate.inverse_stddev(b.inverse0[k])
        i1 = bivariate.inverse_stddev(b.inverse1[k])
        b.shift[k] = bivariate.shift_or_limit(
            bivariate.shift_of_factors(b.weight[k], i0, i1), b.weight[k], i0, i1
        )
        b.factor[k] = bivariate.factor_of_factors(b.weight[k], i0, i1, kappa)
        b.inverse0[k] = i0
        b.inverse1[k] = i1
        b.rest0[k] = 0.0
        b.rest1[k] = 0.0
        b.cross[k] = kappa * d
        b.kappa[k] = kappa


cdef inline void exponentiate_logits(Py_ssize_t count, Block *b) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        b.weight[k] = elementary.exp_flushed(b.weight[k] - b.row2[k])


cdef inline void decay(Py_ssize_t count, Block *b) noexcept nogil:
    # for correlate: n = exp(-|a|) into kappa, its rounding error into cross
    cdef Py_ssize_t k
    for k in range(count):
        b.kappa[k] = bivariate.decay(b.r[k])
        b.cross[k] = bivariate.decay_rest(b.r[k])


cdef inline void correlate(Py_ssize_t count, Block *b) noexcept nogil:
    cdef Py_ssize_t k
    cdef double a, n, rest, joint, growth, less_square, r
    for k in range(count):
        a = b.r[k]
        n = b.kappa[k]
        rest = b.cross[k]
        joint = bivariate.joint_inverse(n)
        growth = bivariate.growth_of_decay(n, rest, joint)
        less_square = bivariate.one_less_square(a, n, rest)
        r = bivariate.correlation_of_decay(n, less_square, joint)
        b.shift[k] = bivariate.shift_of_logs(b.weight[k] - b.row2[k], b.inverse0[k], b.inverse1[k], a)
        b.factor[k] = bivariate.factor_of_decay(n)
        b.r[k] = r
        b.cross[k] = bivariate.cross_of_decay(bivariate.strong_sign(r), n, less_square, growth)
        b.kappa[k] = bivariate.kappa_of_decay(n, rest, joint)


cdef inline void invert_logs(Py_ssize_t count, Block *b) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        b.rest0[k] = bivariate.inverse_rest_of_log(b.inverse0[k])
        b.inverse0[k] = bivariate.inverse_scale_of_log(b.inverse0[k])
    for k in range(count):
        b.rest1[k] = bivariate.inverse_rest_of_log(b.inverse1[k])
        b.inverse1[k] = bivariate.inverse_scale_of_log(b.inverse1[k])


cdef inline void prepare_unconstrained(Py_ssize_t count, Block *b) noexcept nogil:
    # Five short loops: in one long loop, a processor sees too little of the next iteration to overlap it (2 to 7 %).
    # row2: the row's largest logit.
    decay(count, b)
    correlate(count, b)
    invert_logs(count, b)
    exponentiate_logits(count, b)


cdef inline void correlate_floored(Py_ssize_t count, double floor0, double floor1, Block *b) noexcept nogil:
    # after decay and invert_logs. row2: the row's largest logit
    cdef Py_ssize_t k
    cdef double n, joint, i0, i1, t0, t1, c0, c1, s0, s1, less_square, inverse, product, root, kappa, r
    for k in range(count):
        n = b.kappa[k]
        joint = bivariate.joint_inverse(n)
        inverse = bivariate.inverse_kappa_of_decay(n, joint)
        i0 = bivariate.reachable(bivariate.whole_inverse(b.inverse0[k], b.rest0[k]), floor0)
        i1 = bivariate.reachable(bivariate.whole_inverse(b.inverse1[k], b.rest1[k]), floor1)
        t0 = floor0 * i0
        t1 = floor1 * i1
        c0 = bivariate.kept(t0)
        c1 = bivariate.kept(t1)
        s0 = (t0 * c0) * (t0 * c0)
        s1 = (t1 * c1) * (t1 * c1)
        less_square = bivariate.one_less_square(b.r[k], n, b.cross[k])
        r = bivariate.correlation_of_decay(n, less_square, joint) * (c0 * c1)
        product = c0 * c1 * inverse
        root = sqrt(bivariate.floored_one_minus_square(product, s0, s1, c0))
        kappa = 1.0 / root
        i0 = i0 * c0
        i1 = i1 * c1
        b.shift[k] = bivariate.shift_of_inverses(b.weight[k] - b.row2[k], i0, i1)
        b.factor[k] = bivariate.factor_of_inverses(i0, i1, kappa)
        b.inverse0[k] = i0
        b.inverse1[k] = i1
        b.rest0[k] = 0.0
        b.rest1[k] = 0.0
        b.cross[k] = bivariate.floored_cross(r, bivariate.strong_sign(r), root, kappa)
        b.kappa[k] = kappa
        b.r[k] = r
        b.kept0[k] = c0 * c0
        b.kept1[k] = c1 * c1
        b.turned0[k] = (s0 * (kappa * kappa)) * r
        b.turned1[k] = (s1 * (kappa * kappa)) * r
        b.turned[k] = (product * kappa) * (inverse * kappa)


cdef inline void prepare_floored(Py_ssize_t count, double floor0, double floor1, Block *b) noexcept nogil:
    decay(count, b)
    invert_logs(count, b)
    correlate_floored(count, floor0, floor1, b)
    exponentiate_logits(count, b)


# Components at points


cdef inline void evaluate(Py_ssize_t count, Block *b) noexcept nogil:
    # row0, row1: the point
    cdef Py_ssize_t k
    cdef double u, v, k1
    for k in range(count):
        u = bivariate.standardised(b.row0[k] - b.mean0[k], b.inverse0[k], b.rest0[k])
        v = bivariate.standardised(b.row1[k] - b.mean1[k], b.inverse1[k], b.rest1[k])
        k1 = bivariate.scaled_decorrelated(v, u, bivariate.strong_sign(b.r[k]), b.kappa[k], b.cross[k])
        b.exponent[k] = bivariate.log_density(b.shift[k], u, k1)


cdef inline void evaluate_with_slopes(Py_ssize_t count, Block *b) noexcept nogil:
    cdef Py_ssize_t k
    cdef double u, v, t, k0, k1
    for k in range(count):
        u = bivariate.standardised(b.row0[k] - b.mean0[k], b.inverse0[k], b.rest0[k])
        v = bivariate.standardised(b.row1[k] - b.mean1[k], b.inverse1[k], b.rest1[k])
        t = bivariate.strong_sign(b.r[k])
        k0 = bivariate.scaled_decorrelated(u, v, t, b.kappa[k], b.cross[k])
        k1 = bivariate.scaled_decorrelated(v, u, t, b.kappa[k], b.cross[k])
        b.exponent[k] = bivariate.log_density(b.shift[k], u, k1)
        b.slope0[k] = bivariate.slope(b.kappa[k], k0)
        b.slope1[k] = bivariate.slope(b.kappa[k], k1)
        b.datanh[k] = bivariate.datanh_correlation(b.r[k], k0, k1)
        b.u[k] = u
        b.v[k] = v


cdef inline void weigh(Py_ssize_t count, Block *b) noexcept nogil:
    # row0: the row's largest exponent
    cdef Py_ssize_t k
    for k in range(count):
        b.exponent[k] = b.factor[k] * elementary.exp_flushed(b.exponent[k] - b.row0[k])


cdef inline void differentiate(Py_ssize_t count, Block *b) noexcept nogil:
    # row0: the factor of weight * density; row1: that of a weight in the derivative with respect to its logit
    cdef Py_ssize_t k
    cdef double g
    for k in range(count):
        g = b.exponent[k] * b.row0[k]
        b.exponent[k] = g
        b.dlogit[k] = fma(b.weight[k], b.row1[k], g)
        b.u[k] = g * bivariate.dlog_stddev(b.u[k], b.slope0[k])
        b.v[k] = g * bivariate.dlog_stddev(b.v[k], b.slope1[k])
        b.slope0[k] = g * b.slope0[k] * fma(b.inverse0[k], b.rest0[k], b.inverse0[k])
        b.slope1[k] = g * b.slope1[k] * fma(b.inverse1[k], b.rest1[k], b.inverse1[k])
        b.datanh[k] = g * b.datanh[k]


cdef inline void differentiate_floor(Py_ssize_t count, Block *b) noexcept nogil:
    # from derivatives with respect to floored log stddevs and atanh correlations to those with respect to parameters
    cdef Py_ssize_t k
    for k in range(count):
        b.u[k] = fma(b.turned0[k], b.datanh[k], b.kept0[k] * b.u[k])
        b.v[k] = fma(b.turned1[k], b.datanh[k], b.kept1[k] * b.v[k])
        b.datanh[k] = b.turned[k] * b.datanh[k]


cdef inline void component_values(Py_ssize_t count, Block *b) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        b.exponent[k] = b.exponent[k] + (elementary.log(b.factor[k]) - bivariate.LOG_TWO_PI)


cdef inline double rounded(double value, bint single) noexcept nogil:
    return <double> <float> value if single else value


cdef inline void component_shares(Py_ssize_t count, bint single, Block *b) noexcept nogil:
    # 0 if a log-density is beyond the dtype, else 1
    cdef Py_ssize_t k
    for k in range(count):
        b.exponent[k] = bivariate.within_range(rounded(b.exponent[k], single))


cdef inline void no_gradient(Py_ssize_t columns, Py_ssize_t first, Block *b) noexcept nogil:
    # 0 for a row that is beyond the dtype or skipped, even if its derivatives are NaN
    set_plane(columns, 0.0, b.dlogit + first)
    set_plane(columns, 0.0, b.slope0 + first)
    set_plane(columns, 0.0, b.slope1 + first)
    set_plane(columns, 0.0, b.u + first)
    set_plane(columns, 0.0, b.v + first)
    set_plane(columns, 0.0, b.datanh + first)
