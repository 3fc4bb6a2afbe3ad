"""The formulas of ONE component at ONE point: scalar, double, inline. Loops stand in _kernels.pyx.

Symbols, here and in every loop:

    sigma0, sigma1   standard deviations
    u, v             standardised offsets (x - mean) / sigma of the two coordinates
    r                correlation; t is r rounded to the nearest of -1, 0, 1, and d = t - r
    w0, w1           decorrelated offsets u - r v and v - r u
    q                1 - r^2
    z                u^2 + v^2 - 2 r u v
    e                smooth_eps of the drop-in level;  c = 1 / (q + e)

Everything is made of u, v, w0 and w1, because products and sums of squares of these lose nothing where the textbook
forms subtract nearly equal numbers: z and the derivative with respect to atanh r do so as r -> +-1.
Each formula names the form it replaces.
"""

from libc.math cimport NAN, sqrt

from cymdn cimport _elementary

cdef extern from *:
    """
    #define CYMDN_TWO_PI 6.283185307179586      /* 2 pi, correctly rounded */
    #define CYMDN_TO_INTEGER 6755399441055744.0 /* 1.5 * 2^52: added, then subtracted, it rounds to integers */
    """
    const double TWO_PI "CYMDN_TWO_PI"
    const double TO_INTEGER "CYMDN_TO_INTEGER"


cdef inline double nearest_integer(double r) noexcept nogil:
    return (r + TO_INTEGER) - TO_INTEGER


cdef inline double decorrelated(double u, double v, double t, double d) noexcept nogil:
    # u - r v as (u - t v) + (t - r) v. At |r| near 1 the direct form rounds r v, which is as large as u, before the two
    # cancel; here t v and t - r (Sterbenz) are exact and u - t v is rounded at the size of what is left.
    return (u - t * v) + d * v


cdef inline double one_minus_square(double r, double t, double d) noexcept nogil:
    # 1 - r * r loses half its digits near |r| = 1, (1 - r) * (1 + r) rounds once too often near 0. As
    # (1 - t^2) + (t - r) (t + r) it is the better of the two, two roundings everywhere.
    return (1.0 - t * t) + d * (t + r)


# The drop-in level: the smoothed density (Graves 2013, arXiv:1308.0850, eq. 24 and 25, with epsilons) and the gradient
# of the log-density (eq. 34 to 37).


cdef inline double positive_or_nan(double sigma) noexcept nogil:
    # a negative sigma would come out as a negative density
    return sigma if sigma >= 0.0 else NAN


cdef inline double squared_distance(double u, double w1, double q) noexcept nogil:
    # u^2 + v^2 - 2 r u v = q u^2 + w1^2, two terms >= 0. Only q < 0, outside the domain, can bring it below 0; a NaN
    # fails the comparison and stays.
    cdef double z = q * (u * u) + w1 * w1
    return 0.0 if z < 0.0 else z


cdef inline double smoothed_density(double z, double q, double sigma0, double sigma1, double e) noexcept nogil:
    return _elementary.exp(-z / (2.0 * q + e)) / (TWO_PI * sigma0 * sigma1 * sqrt(q + e) + e)


cdef inline double smoothed_dcorrelation(
    double u, double v, double w0, double w1, double r, double c, double e
) noexcept nogil:
    # u v + r (1 - c z), where u v and r c z nearly cancel: both are as large as the log-density. Their difference is
    # c (w0 w1 + e u v), by q z = (q u)^2 + q w1^2 and the definitions of w0 and w1.
    return r + c * (w0 * w1 + e * (u * v))
