"""The formulas of ONE component at ONE point: scalar, double, inline. Loops are in _block.pxd, _drop_in.pxd.

Symbols, here and in every loop:

    sigma0, sigma1   standard deviations
    u, v             standardised offsets (x - mean) / sigma of the two coordinates
    r                correlation; t is -1, 0 or 1, close to r, and d = t - r
    w0, w1           decorrelated offsets u - r v and v - r u
    q                1 - r^2
    z                u^2 + v^2 - 2 r u v
    e                smooth_eps of the smoothed density;  c = 1 / (q + e)

Everything is computed from u, v, w0 and w1: their products and sums of squares do not cancel where textbook forms
subtract nearly equal numbers, as those of z and of the derivative with respect to atanh r do for r -> +-1.
Each formula names the form it replaces.
"""

from libc.float cimport DBL_MAX, DBL_MIN
from libc.math cimport INFINITY, NAN, copysign, fabs, sqrt

from cymdn cimport _elementary
from cymdn._elementary cimport fma

cdef extern from *:
    """
    #define CYMDN_TWO_PI 6.283185307179586      /* 2 pi, correctly rounded */
    #define CYMDN_TO_INTEGER 6755399441055744.0 /* 1.5 * 2^52: adding, then subtracting it rounds to an integer */
    #define CYMDN_THRESHOLD 0.8125              /* 1/2 divided by the |r| above which t is not 0 */
    #define CYMDN_LOG_TWO_PI 1.8378770664093456 /* log(2 pi), correctly rounded */
    #define CYMDN_LOG_TWO 0.6931471805599453    /* log 2, correctly rounded */
    #define CYMDN_LARGEST_EXPONENT 708.0        /* exp of it and of its negative are finite and not denormal */
    #define CYMDN_LARGEST_OFFSET 1e300          /* its square is inf, twice its value is finite */
    #define CYMDN_LARGEST_FLOOR_RATIO 1e307           /* its inverse is normal */
    #define CYMDN_FAR_ABOVE_1 1e150             /* the square of its inverse is negligible against 1 */
    #define CYMDN_TWO_TO_54 18014398509481984.0
    """
    const double TWO_PI "CYMDN_TWO_PI"
    const double LOG_TWO_PI "CYMDN_LOG_TWO_PI"
    const double LOG_TWO "CYMDN_LOG_TWO"
    const double LARGEST_EXPONENT "CYMDN_LARGEST_EXPONENT"
    const double LARGEST_OFFSET "CYMDN_LARGEST_OFFSET"
    const double LARGEST_FLOOR_RATIO "CYMDN_LARGEST_FLOOR_RATIO"
    const double FAR_ABOVE_1 "CYMDN_FAR_ABOVE_1"
    const double TWO_TO_54 "CYMDN_TWO_TO_54"
    const double TO_INTEGER "CYMDN_TO_INTEGER"
    const double THRESHOLD "CYMDN_THRESHOLD"


cdef inline double strong_sign(double r) noexcept nogil:
    # t: 1 or -1 if |r| is above 8/13, else 0. Close to 8/13 both forms of k0 and k1 have a rounding error: with t, that
    # of u - t v, which is larger than u - r v; without it, that of r v
    return fma(r, THRESHOLD, TO_INTEGER) - TO_INTEGER


cdef inline double decorrelated(double u, double v, double t, double d) noexcept nogil:
    # u - r v as (u - t v) + (t - r) v. Near |r| = 1 the direct form rounds r v, which is as large as u, before the two
    # cancel; here t v and t - r (Sterbenz) are exact, and u - t v is rounded after the cancellation.
    return fma(d, v, fma(-t, v, u))


cdef inline double one_minus_square(double r, double t, double d) noexcept nogil:
    # 1 - r * r loses half of its digits near |r| = 1; (1 - r) * (1 + r) has an extra rounding near 0.
    # (1 - t^2 + 2 t d) - d^2 is accurate for every t: all but the last difference is exact.
    return fma(-d, d, fma(t + t, d, 1.0 - t * t))


# The smoothed density (Graves 2013, arXiv:1308.0850, eq. 24 and 25, with epsilons) and the gradient of the log-density
# (eq. 34 to 37).


cdef inline double positive_or_nan(double sigma) noexcept nogil:
    # a negative sigma would give a negative density
    return sigma if sigma >= 0.0 else NAN


cdef inline double squared_distance(double u, double w1, double q) noexcept nogil:
    # u^2 + v^2 - 2 r u v = q u^2 + w1^2, two terms >= 0. It is below 0 only if q < 0, outside the domain; a NaN fails
    # the comparison, so it propagates. q u first: u^2 may be inf and q 0.
    cdef double z = fma(q * u, u, w1 * w1)
    return 0.0 if z < 0.0 else z


cdef inline double smoothed_density(
    double z, double q, double sigma0, double sigma1, double e, double least
) noexcept nogil:
    # least: e, or the smallest number if e is 0; it prevents 0 / 0 if the product of the sigmas underflows
    return _elementary.exp_nonpositive(-z / (2.0 * q + e)) / (TWO_PI * sigma0 * sigma1 * sqrt(q + e) + least)


cdef inline double smoothed_dlog_stddev(double u, double sigma, double inverse, double slope) noexcept nogil:
    # sigma times inverse first: it is at most 1, but slope times inverse may be inf where u sigma is 0
    return fma(u * (sigma * inverse), slope, -1.0)


cdef inline double smoothed_dcorrelation(
    double u, double v, double w0, double w1, double r, double c, double e, bint far
) noexcept nogil:
    # u v + r (1 - c z), where u v and r c z nearly cancel: both are as large as the log-density. Their difference is
    # c (w0 w1 + e u v), by q z = (q u)^2 + q w1^2 and the definitions of w0 and w1. e u first: e may be 0 and u v inf.
    return fma(c, fma(w0, w1, finite_if(far, (e * u) * v)), r)


# Log-densities. No epsilon and no clip: quantities are bounded only so that an overflow gives inf where inf is right,
# and never inf - inf or 0 * inf.
#
#     inverse0, inverse1   1 / sigma0, 1 / sigma1
#     kappa                1 / sqrt(1 - r^2) = cosh a,  a = atanh r
#     cross                kappa d
#     k0, k1               kappa w0, kappa w1
#     Q                    z / (1 - r^2) = u^2 + k1^2 = v^2 + k0^2
#     shift, factor        the normaliser weight / (sigma0 sigma1 sqrt(1 - r^2)) as exp(shift) * factor, with a
#                          factor of moderate size, so that mixtures need no logarithm of a component
#
#     log N = shift + log factor - Q / 2 - log 2 pi
#
# A component is prepared once for all points, from natural parameters or from raw network output. All later formulas
# are the same for both.


cdef inline double bounded(double x, double bound) noexcept nogil:
    # A NaN fails the comparison, so it propagates. One comparison of |x| instead of two with constants: GCC would
    # evaluate what depends on a constant separately and then select among integers, which SSE2 cannot do.
    return copysign(bound, x) if fabs(x) > bound else x


# From natural parameters. First they are made valid: those outside the domain become NaN, and those of a component of
# weight 0, which is excluded whatever its other parameters are, get values that cause no NaN. These selections have a
# loop of their own: in the next loop GCC would turn their constants into integers, among which SSE2 cannot select.


cdef inline double valid_stddev(double weight, double sigma) noexcept nogil:
    cdef double valid = sigma if sigma > DBL_MIN else NAN  # the inverse of a denormal sigma may be inf
    return 1.0 if weight == 0.0 else valid


cdef inline double valid_correlation(double weight, double r) noexcept nogil:
    cdef double valid = r if fabs(r) < 1.0 else NAN
    return 0.0 if weight == 0.0 else valid


cdef inline double valid_mean(double weight, double mean) noexcept nogil:
    return 0.0 if weight == 0.0 else mean


cdef inline double inverse_stddev(double sigma) noexcept nogil:
    # finite; denormal for the largest sigmas, 0 for inf
    return 1.0 / sigma


cdef inline double smoothed_inverse(double sigma) noexcept nogil:
    # sigma + e may be 0 or denormal, and inf * 0 would be NaN at the mean
    return bounded(1.0 / sigma, DBL_MAX)


cdef inline double finite_if(bint far, double x) noexcept nogil:
    # far is a constant after inlining
    return bounded(x, DBL_MAX) if far else x


cdef inline double kappa_of_correlation(double r, double t, double d) noexcept nogil:
    return 1.0 / sqrt(one_minus_square(r, t, d))


cdef inline double normal_weight(double weight) noexcept nogil:
    # the weight, times 2^54 if it is below 1, so that it is not denormal
    return weight * (TWO_TO_54 if weight < 1.0 else 1.0)


cdef inline double normal_inverse(double inverse) noexcept nogil:
    # neither denormal nor inf, for any sigma above the smallest normal number
    return 4.0 * inverse


cdef inline double shift_of_factors(double weight, double inverse0, double inverse1) noexcept nogil:
    # log of the powers of two in weight / (sigma0 sigma1), which itself may overflow
    cdef double k0 = _elementary.binary_exponent(normal_inverse(inverse0))
    cdef double k1 = _elementary.binary_exponent(normal_inverse(inverse1))
    cdef double lifted = 54.0 if weight < 1.0 else 0.0
    return LOG_TWO * ((_elementary.binary_exponent(normal_weight(weight)) - lifted) + (k0 + k1 - 4.0))


cdef inline double shift_or_limit(double shift, double weight, double inverse0, double inverse1) noexcept nogil:
    # the density is 0 if the component is excluded or a sigma is inf; log_density adds the NaN of another parameter
    cdef double smaller = inverse0 if inverse0 < inverse1 else inverse1
    cdef double limited = -INFINITY if smaller == 0.0 else shift
    return -INFINITY if weight == 0.0 else limited


cdef inline double factor_of_factors(double weight, double inverse0, double inverse1, double kappa) noexcept nogil:
    # the rest of the normaliser: below 3e8, because 1 - r^2 is above 2^-53; NaN unless the weight is >= 0 and finite
    cdef double factor = (_elementary.significand(normal_weight(weight)) * kappa) * (
        _elementary.significand(normal_inverse(inverse0)) * _elementary.significand(normal_inverse(inverse1))
    )
    return fma(weight, 0.0, factor) if weight >= 0.0 else NAN


# From raw network output: log sigma, and a = atanh r. With n = exp(-|a|), n2 = n^2:
#
#     cosh a = (1 / n + n) / 2     sinh |a| = (1 - n2) / n / 2
#     tanh |a| = (1 - n2) / (1 + n2)    1 - tanh |a| = 2 n2 / (1 + n2)
#
# so that 1 - r is accurate where tanh a rounds to 1. With fused multiply-add 1 / (n (1 + n2)) is the only division.
# kappa enters the derivatives three times, so it is corrected for the rounding errors of n and of 1 / n.


cdef inline double inverse_scale_of_log(double log_sigma) noexcept nogil:
    # 1 / sigma = scale + scale rest, where scale is a power of two: of offset / sigma only one sum is rounded. The
    # logarithm is bounded, so that scale is neither 0 nor inf and has an inverse
    return _elementary.exp_scale(bounded(-log_sigma, LARGEST_EXPONENT))


cdef inline double inverse_rest_of_log(double log_sigma) noexcept nogil:
    return _elementary.expm1_rest(bounded(-log_sigma, LARGEST_EXPONENT))


cdef inline double decay(double a) noexcept nogil:
    return _elementary.exp_normal(-bounded(fabs(a), LARGEST_EXPONENT))


cdef inline double decay_rest(double a) noexcept nogil:
    # exp(-|a|) minus the rounded n
    return _elementary.exp_rest(-bounded(fabs(a), LARGEST_EXPONENT))


cdef inline double factor_of_decay(double n) noexcept nogil:
    # log cosh a = |a| + log((1 + n2) / 2)
    return 0.5 * fma(n, n, 1.0)


cdef inline double joint_inverse(double n) noexcept nogil:
    return 1.0 / (n * fma(n, n, 1.0))


cdef inline double rough_growth(double n, double joint) noexcept nogil:
    # 1 / (2 n). growth_error corrects it by a Newton step, whose residual only fma can compute
    return factor_of_decay(n) * joint if _elementary.HAS_FMA else 0.5 / n


cdef inline double growth_error(double n, double rest, double growth) noexcept nogil:
    cdef double wrong = fma(-(n + n), growth, 1.0) if _elementary.HAS_FMA else 0.0
    return growth * fma(-2.0 * rest, growth, wrong)


cdef inline double growth_of_decay(double n, double rest, double joint) noexcept nogil:
    cdef double growth = rough_growth(n, joint)
    return growth + growth_error(n, rest, growth)


cdef inline double one_less_square(double a, double n, double rest) noexcept nogil:
    # 1 - n2 = (1 - n) (1 + n), without cancellation for small a; with the sign of a
    return copysign(((1.0 - n) - rest) * (1.0 + n), a)


cdef inline double kappa_of_decay(double n, double rest, double joint) noexcept nogil:
    # rounded only once if n is small
    cdef double growth = rough_growth(n, joint)
    return growth + fma(0.5, n, growth_error(n, rest, growth))


cdef inline double correlation_of_decay(double n, double less_square, double joint) noexcept nogil:
    return less_square * (n * joint)


cdef inline double cross_of_decay(double t, double n, double less_square, double growth) noexcept nogil:
    # kappa (t - r): -sinh a if t is 0, else t n, which neither rounds nor underflows
    return -less_square * growth if t == 0.0 else t * n


cdef inline double shift_of_logs(double logit, double log_sigma0, double log_sigma1, double a) noexcept nogil:
    # bounded, because inf - Q / 2 must not become inf - inf
    cdef double shift = ((logit - log_sigma0) - log_sigma1) + fabs(a)
    return DBL_MAX if shift > DBL_MAX else shift


# Under a floor f of the standard deviations: a component convolved with N(0, diag(f0^2, f1^2)). With t = f / sigma,
# c^2 = 1 / (1 + t^2) and s = t^2 c^2, its inverse stddevs are c / sigma, its correlation is r c0 c1, and
#
#     1 - (r c0 c1)^2 = (1 - r^2) c0^2 c1^2 + s0 + s1 c0^2
#
# a sum of terms >= 0: nothing cancels, however close to 1 |r| is.


cdef inline double reachable(double inverse, double floor) noexcept nogil:
    # t must not overflow; sigma is negligible against f long before that
    cdef double limit = LARGEST_FLOOR_RATIO / floor
    return limit if inverse > limit else inverse


cdef inline double kept(double ratio) noexcept nogil:
    # c
    cdef double root = sqrt(fma(ratio, ratio, 1.0))
    return 1.0 / (ratio if ratio > FAR_ABOVE_1 else root)


cdef inline double whole_inverse(double scale, double rest) noexcept nogil:
    return fma(scale, rest, scale)


cdef inline double inverse_kappa_of_decay(double n, double joint) noexcept nogil:
    return 2.0 * (n * (n * joint))


cdef inline double floored_one_minus_square(double product, double s0, double s1, double c0) noexcept nogil:
    # product: sqrt(1 - r^2) c0 c1. The result is at least the smallest normal number: its inverse must be finite
    cdef double q = fma(product, product, fma(s1, c0 * c0, s0))
    return DBL_MIN if q < DBL_MIN else q


cdef inline double floored_cross(double r, double t, double root, double kappa) noexcept nogil:
    # kappa (t - r), where 1 - |r| = root^2 / (1 + |r|)
    cdef double nearly = t * (root / (1.0 + fabs(r)))
    return -kappa * r if t == 0.0 else nearly


cdef inline double shift_of_inverses(double logit, double inverse0, double inverse1) noexcept nogil:
    # with factor_of_inverses: the normaliser, whose plain product may overflow
    return fma(LOG_TWO, _elementary.binary_exponent(inverse0) + _elementary.binary_exponent(inverse1), logit)


cdef inline double factor_of_inverses(double inverse0, double inverse1, double kappa) noexcept nogil:
    return kappa * (_elementary.significand(inverse0) * _elementary.significand(inverse1))


# At a point


cdef inline double standardised(double offset, double scale, double rest) noexcept nogil:
    # Beyond the bound Q is inf anyway; without it, infinite u and v could give inf - inf.
    cdef double scaled = bounded(offset * scale, LARGEST_OFFSET)
    return fma(scaled, rest, scaled)


cdef inline double scaled_decorrelated(double u, double v, double t, double kappa, double cross) noexcept nogil:
    # kappa (u - r v), as in decorrelated; cross = kappa d is accurate even if r rounds to 1, where d may underflow
    return fma(cross, v, kappa * fma(-t, v, u))


cdef inline double half_distance(double u, double k1) noexcept nogil:
    return 0.5 * fma(u, u, k1 * k1)


cdef inline double log_density(double shift, double u, double k1) noexcept nogil:
    # up to log(factor) - log 2 pi
    return fma(-0.5, fma(u, u, k1 * k1), shift)


# Derivatives. They are bounded too: a component of responsibility 0 must contribute 0, not 0 * inf, if its own
# derivative overflows. GCC would compile a ternary in the loops over them to a conditional load, which SSE2 lacks.


cdef inline double slope(double kappa, double k) noexcept nogil:
    # sigma0 d/dmean0 = kappa^2 (u - r v)
    return bounded(kappa * k, DBL_MAX)


cdef inline double dlog_stddev(double u, double slope0) noexcept nogil:
    return bounded(fma(u, slope0, -1.0), DBL_MAX)


cdef inline double datanh_correlation(double r, double k0, double k1) noexcept nogil:
    # tanh a + (p^2 exp(-2a) - m^2 exp(2a)) / 4 with p = u + v, m = u - v: the difference of squares as a product
    return bounded(fma(k0, k1, r), DBL_MAX)


cdef inline double within_range(double log_density) noexcept nogil:
    # in place of the responsibility of a component without a mixture: 0 if its log-density is beyond the dtype
    return 0.0 if log_density == -INFINITY else 1.0
