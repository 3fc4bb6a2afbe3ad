"""The drop-in level: smoothed densities of a block of components, and the derivatives of their logarithms."""

from cymdn cimport _bivariate as bivariate
from cymdn._block cimport Block


cdef inline void make_positive(Py_ssize_t count, Block *b) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        b.inverse0[k] = bivariate.positive_or_nan(b.inverse0[k])
        b.inverse1[k] = bivariate.positive_or_nan(b.inverse1[k])


cdef inline void densities(Py_ssize_t count, double e, Block *b) noexcept nogil:
    cdef Py_ssize_t k
    cdef double sigma0, sigma1, u, v, t, d, q, z
    for k in range(count):
        sigma0 = b.inverse0[k]
        sigma1 = b.inverse1[k]
        t = bivariate.nearest_integer(b.r[k])
        d = t - b.r[k]
        q = bivariate.one_minus_square(b.r[k], t, d)
        u = (b.row0[k] - b.mean0[k]) * bivariate.inverse_stddev(sigma0 + e)
        v = (b.row1[k] - b.mean1[k]) * bivariate.inverse_stddev(sigma1 + e)
        z = bivariate.squared_distance(u, bivariate.decorrelated(v, u, t, d), q)
        b.exponent[k] = bivariate.smoothed_density(z, q, sigma0, sigma1, e)


cdef inline void densities_and_derivatives(Py_ssize_t count, double e, Block *b) noexcept nogil:
    cdef Py_ssize_t k
    cdef double sigma0, sigma1, inverse0, inverse1, u, v, r, t, d, q, c, z, w0, w1
    for k in range(count):
        sigma0 = b.inverse0[k]
        sigma1 = b.inverse1[k]
        inverse0 = bivariate.inverse_stddev(sigma0 + e)
        inverse1 = bivariate.inverse_stddev(sigma1 + e)
        r = b.r[k]
        t = bivariate.nearest_integer(r)
        d = t - r
        q = bivariate.one_minus_square(r, t, d)
        c = 1.0 / (q + e)
        u = (b.row0[k] - b.mean0[k]) * inverse0
        v = (b.row1[k] - b.mean1[k]) * inverse1
        w0 = bivariate.decorrelated(u, v, t, d)
        w1 = bivariate.decorrelated(v, u, t, d)
        z = bivariate.squared_distance(u, w1, q)
        b.exponent[k] = bivariate.smoothed_density(z, q, sigma0, sigma1, e)
        b.slope0[k] = c * w0 * inverse0
        b.slope1[k] = c * w1 * inverse1
        b.u[k] = bivariate.smoothed_dlog_stddev(u, sigma0, b.slope0[k])
        b.v[k] = bivariate.smoothed_dlog_stddev(v, sigma1, b.slope1[k])
        b.datanh[k] = bivariate.smoothed_dcorrelation(u, v, w0, w1, r, c, e)


cdef inline void evaluate(Py_ssize_t count, double e, bint derivatives, Block *b) noexcept nogil:
    # row0, row1: the point; inverse0, inverse1: still sigma0, sigma1
    make_positive(count, b)
    if derivatives:
        densities_and_derivatives(count, e, b)
    else:
        densities(count, e, b)
