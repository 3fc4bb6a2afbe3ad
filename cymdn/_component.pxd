"""One component of a row of packed parameters, for samples, modes and rectangles.

Packed parameters are in the order of raw network output after its pen logits. Natural ones are m weights, m means of
coordinate 0, m of coordinate 1, m standard deviations of each in the same way, and m correlations. Unconstrained ones
have logits, logarithms of standard deviations and inverse hyperbolic tangents of correlations instead.
"""

from libc.math cimport sqrt

from cymdn cimport _bivariate as bivariate
from cymdn cimport _elementary as elementary
from cymdn._columns cimport real

cdef struct Component:
    double mean0
    double mean1
    double sigma0
    double sigma1
    double inverse0
    double inverse1
    double r
    double t          # -1, 0 or 1, close to r
    double cross      # kappa (t - r)
    double kappa      # cosh a
    double decoupled  # 1 / kappa, sqrt(1 - r^2)


cdef inline void stay_finite(double *sigma, double *inverse, double log_sigma) noexcept nogil:
    cdef double limited = bivariate.bounded(log_sigma, bivariate.LARGEST_EXPONENT)
    sigma[0] = elementary.exp_normal(limited)
    inverse[0] = elementary.exp_normal(-limited)


cdef inline Component component(
    const real *parameters, Py_ssize_t m, Py_ssize_t j, bint unconstrained, double log_scale
) noexcept nogil:
    """Component j of a row; `log_scale` is added to logarithms of standard deviations."""
    cdef Component c
    cdef double a = parameters[5 * m + j], n, rest, joint, growth, less_square, d
    c.mean0 = parameters[m + j]
    c.mean1 = parameters[2 * m + j]
    if unconstrained:
        stay_finite(&c.sigma0, &c.inverse0, parameters[3 * m + j] + log_scale)
        stay_finite(&c.sigma1, &c.inverse1, parameters[4 * m + j] + log_scale)
        n = bivariate.decay(a)
        rest = bivariate.decay_rest(a)
        joint = bivariate.joint_inverse(n)
        growth = bivariate.growth_of_decay(n, rest, joint)
        less_square = bivariate.one_less_square(a, n, rest)
        c.kappa = bivariate.kappa_of_decay(n, rest, joint)
        c.r = bivariate.correlation_of_decay(n, less_square, joint)
        c.t = bivariate.strong_sign(c.r)
        c.cross = bivariate.cross_of_decay(c.t, n, less_square, growth)
        c.decoupled = 2.0 * n / (1.0 + n * n)
    else:
        c.sigma0 = parameters[3 * m + j]
        c.sigma1 = parameters[4 * m + j]
        c.inverse0 = bivariate.inverse_stddev(c.sigma0)
        c.inverse1 = bivariate.inverse_stddev(c.sigma1)
        c.r = a
        c.t = bivariate.strong_sign(a)
        d = c.t - a
        c.kappa = bivariate.kappa_of_correlation(a, c.t, d)
        c.cross = c.kappa * d
        c.decoupled = sqrt(bivariate.one_minus_square(a, c.t, d))
    return c
