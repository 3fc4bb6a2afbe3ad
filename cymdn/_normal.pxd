"""Probabilities of intervals under mixtures of normal distributions on a line, and their quantiles.

    interval      the integral of exp(-y^2 / 2) from a to b is exp(-c^2 / 2) F, c the point of the interval nearest to 0

F is a difference of Mills' ratios, each exp(x^2 / 2) times the tail beyond x: no tail underflows, and cancellation is
harmless. If the interval is so short that they would cancel, F is a Gauss-Legendre sum.
"""

from libc.math cimport INFINITY, NAN, fabs

from cymdn cimport _bivariate as bivariate
from cymdn cimport _elementary as elementary
from cymdn._legendre cimport RULE_7

cdef extern from *:
    """
    #define CYMDN_SQRT_TWO_PI 2.5066282746310007    /* correctly rounded */
    #define CYMDN_FARTHEST 1e150                    /* standard deviations: its square is finite */
    #define CYMDN_LOWEST -4e299                     /* the logarithm of a density at nearly that distance */
    #define CYMDN_QUANTILE_REACH 39.0               /* standard deviations beyond which a tail is below the numbers */
    #define CYMDN_QUANTILE_STEPS 1200               /* more than bisection of any interval takes */
    #define CYMDN_QUANTILE_DONE 2e-16               /* error of a logarithm */
    """
    const double SQRT_TWO_PI "CYMDN_SQRT_TWO_PI"
    const double FARTHEST "CYMDN_FARTHEST", LOWEST "CYMDN_LOWEST"
    const double QUANTILE_REACH "CYMDN_QUANTILE_REACH", QUANTILE_DONE "CYMDN_QUANTILE_DONE"
    const int QUANTILE_STEPS "CYMDN_QUANTILE_STEPS"


# Sums of exp(exponent) factor, whose exponents may be far beyond the range of exp

cdef struct Sum:
    double top
    double total


cdef inline void add(Sum *s, double exponent, double factor) noexcept nogil:
    if exponent <= LOWEST:  # also for an excluded component
        return
    if exponent > s.top:
        s.total = s.total * elementary.exp_nonpositive(s.top - exponent) + factor
        s.top = exponent
    else:  # also for a NaN
        s.total += factor * elementary.exp_nonpositive(exponent - s.top)


cdef inline double log_of(const Sum *s) noexcept nogil:
    return s.top + elementary.log(s.total)


cdef inline double probability_of(const Sum *s, double scale, bint logarithm) noexcept nogil:
    """exp(top) total / scale, or its logarithm: at most 1, even after rounding."""
    cdef double value = log_of(s) - elementary.log(scale)
    if logarithm:
        return 0.0 if value > 0.0 else value
    if s.top > -bivariate.LARGEST_EXPONENT:
        value = elementary.exp(s.top) * (s.total / scale)
    else:
        value = elementary.exp(value)
    return 1.0 if value > 1.0 else value


# One interval


cdef inline double nearest(double a, double b) noexcept nogil:
    # the point of [a, b] nearest to 0
    return a if a > 0.0 else (b if b < 0.0 else 0.0)


cdef inline double larger(double a, double b) noexcept nogil:
    return a if a > b else b


cdef inline bint is_short(double high, double width) noexcept nogil:
    # whether seven points are enough
    return width * larger(high, 1.0) < 0.7


# F of an interval whose point nearest to 0 is 0 or the low end, |low| <= high; without a branch


cdef inline double fall_to_low(double low) noexcept nogil:
    # half of c^2 - low^2
    cdef double inside = low if low < 0.0 else 0.0
    return -0.5 * (inside * inside)


cdef inline double fall_to_high(double low, double high, double width) noexcept nogil:
    cdef double beyond = width * (low + high), outside = high * high
    return -0.5 * (outside if low < 0.0 else beyond)


cdef inline double between(double low, double low_tail, double high_tail) noexcept nogil:
    cdef double inside = (SQRT_TWO_PI - low_tail) - high_tail, beyond = low_tail - high_tail
    return inside if low < 0.0 else beyond


cdef inline double short_term(double low, double width, int k) noexcept nogil:
    # one of seven terms
    cdef double c = larger(low, 0.0)
    cdef double y = (low - c) + width * RULE_7[k].at  # beyond c
    return (width * RULE_7[k].weight) * elementary.exp_nonpositive(-0.5 * (y * (2.0 * c + y)))


cdef inline double interval_factor(double a, double b, double width) noexcept nogil:
    """F of [a, b]; `width` is b - a, which the caller may know more exactly."""
    cdef double low = -b if a + b < 0.0 else a, high = -a if a + b < 0.0 else b, factor = 0.0
    cdef int k
    if not is_short(high, width):
        return between(
            low,
            elementary.mills(fabs(low)) * elementary.exp_nonpositive(fall_to_low(low)),
            elementary.mills(high) * elementary.exp_nonpositive(fall_to_high(low, high, width)),
        )
    for k in range(7):
        factor += short_term(low, width, k)
    return factor


# A mixture on a line: m logarithms of weights, m means, m logarithms of standard deviations


cdef inline double standardised(double offset, double log_stddev) noexcept nogil:
    # in two steps: the square root of a standard deviation and its inverse are normal numbers
    cdef double root = elementary.exp_normal(bivariate.bounded(-0.5 * log_stddev, bivariate.LARGEST_EXPONENT))
    return bivariate.bounded(offset * root * root, FARTHEST)


cdef inline double probability(
    const double *line, Py_ssize_t m, double lower, double upper, bint logarithm
) noexcept nogil:
    """Probability of an interval; 0 if `upper` is not above `lower`."""
    cdef Sum s
    cdef Py_ssize_t j
    cdef double a, b, c
    s.top, s.total = -INFINITY, 0.0
    if not lower <= upper:
        return NAN if lower != lower or upper != upper else (-INFINITY if logarithm else 0.0)
    for j in range(m):
        a = standardised(lower - line[m + j], line[2 * m + j])
        b = standardised(upper - line[m + j], line[2 * m + j])
        c = nearest(a, b)
        add(&s, line[j] - 0.5 * (c * c), interval_factor(a, b, standardised(upper - lower, line[2 * m + j])))
    return probability_of(&s, SQRT_TWO_PI, logarithm)


cdef inline double quantile(const double *line, Py_ssize_t m, double p) noexcept nogil:
    """Quantile of p, from the smaller tail, p or 1 - p: by Newton's method for its logarithm, within brackets."""
    cdef double side, aim, low, high, x, after, t, reach, gap, last = INFINITY, excess = -1.0
    cdef Sum tail, density
    cdef Py_ssize_t j
    cdef int _step
    if not 0.0 < p < 1.0:
        return -INFINITY if p == 0.0 else (INFINITY if p == 1.0 else NAN)
    for j in range(m):
        excess += elementary.exp(line[j])
    if fabs(excess) <= 4e-16 * <double> m:  # weights sum to 1 up to rounding
        excess = 0.0
    side = 1.0 if p <= 0.5 else -1.0  # the upper tail is the lower one of the mirrored mixture
    aim = p if p <= 0.5 else (1.0 - p) + excess
    if not aim > 0.0:
        return INFINITY
    aim = elementary.log(aim) + elementary.log(SQRT_TWO_PI)
    low, high = bivariate.DBL_MAX, -bivariate.DBL_MAX
    for j in range(m):
        if line[j] == -INFINITY:
            continue
        t = elementary.exp_normal(bivariate.bounded(0.5 * line[2 * m + j], bivariate.LARGEST_EXPONENT))
        reach = (QUANTILE_REACH * t) * t
        x = bivariate.bounded(side * line[m + j] - reach, bivariate.DBL_MAX)
        low = x if x < low else low
        x = bivariate.bounded(side * line[m + j] + reach, bivariate.DBL_MAX)
        high = x if x > high else high
    x = 0.5 * low + 0.5 * high
    for _step in range(QUANTILE_STEPS):
        tail.top, tail.total, density.top, density.total = -INFINITY, 0.0, -INFINITY, 0.0
        for j in range(m):
            t = standardised(x - side * line[m + j], line[2 * m + j])
            if t < 0.0:
                add(&tail, line[j] - 0.5 * t * t, elementary.mills(-t))
            else:
                add(&tail, line[j], interval_factor(-FARTHEST, t, FARTHEST))
            add(&density, (line[j] - line[2 * m + j]) - 0.5 * t * t, 1.0)
        gap = aim - log_of(&tail)
        if fabs(gap) <= QUANTILE_DONE * (1.0 + fabs(aim)):
            break
        if gap > 0.0:
            low = x
        else:
            high = x
        after = x + gap * elementary.exp(log_of(&tail) - log_of(&density))
        if not low < after < high or fabs(gap) > 0.5 * last:
            after = 0.5 * low + 0.5 * high
            last = INFINITY
        else:
            last = fabs(gap)
        if after == x or after == low or after == high:
            break
        x = after
    return side * x
