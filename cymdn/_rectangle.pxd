"""The probability of a rectangle under one correlated normal distribution in the plane, to relative accuracy.

Let x be the standardised first coordinate, and r x + s y the standardised second one, s^2 = 1 - r^2. In the coordinates
x, y the distribution is round, and the rectangle is a parallelogram: between x = l0 and x = u0, and between the lines
r x + s y = l1 and r x + s y = u1. A slice has a constant x if |r| <= s, else a constant y, so that its ends move by at
most 1 for each unit. It is an interval of _normal.pxd. Slices are integrated by Gauss-Legendre quadrature over pieces
between the corners and the point nearest to 0. In each piece the integrand is smooth; a piece ends where the integrand
has fallen by exp(-37). No difference of tails is computed: the sum over corners, which other methods use, has no digit
left at 15 standard deviations.

A negative r is made positive by reflection. The gap of a corner, k - r x = s y, loses no digits as r goes to 1.
"""

from libc.math cimport INFINITY, NAN, fabs, sqrt

from cymdn cimport _bivariate as bivariate
from cymdn cimport _elementary as elementary
from cymdn._component cimport Component, component
from cymdn._legendre cimport RULE_12, RULE_16, RULE_28, Point
from cymdn._normal cimport (
    FARTHEST, Sum, add, between, fall_to_high, fall_to_low, is_short, larger, log_of, nearest, probability_of,
    short_term,
)

cdef extern from *:
    """
    #define CYMDN_FALL 37.0 /* exp of its negative is negligible in a sum of doubles */
    #define CYMDN_LOST 1e-12 /* largest relative error of squares of distances */
    #define CYMDN_LONG 1e3 /* lengths above which differences of positions are as exact */
    /* Length of a piece, and change of its exponents, below which 12 points are enough, then 16 */
    #define CYMDN_FEW_LENGTH 2.0
    #define CYMDN_FEW_FALL 8.0
    #define CYMDN_SOME_LENGTH 3.5
    #define CYMDN_SOME_FALL 18.0
    #define CYMDN_MOST_ABOVE 1.0 /* excess of an exponent over that of a piece's near end: more is a rounding error */
    #define CYMDN_NEGLIGIBLE 46.0 /* a component whose logarithm is smaller by this changes no digit, nor do 1,000 */
    #define CYMDN_AFAR 1e290 /* square of a distance beyond which nothing is computed: no number has such a logarithm */
    """
    const double FALL "CYMDN_FALL", LOST "CYMDN_LOST", LONG "CYMDN_LONG", AFAR "CYMDN_AFAR"
    const double MOST_ABOVE "CYMDN_MOST_ABOVE", NEGLIGIBLE "CYMDN_NEGLIGIBLE"
    const double FEW_LENGTH "CYMDN_FEW_LENGTH", FEW_FALL "CYMDN_FEW_FALL"
    const double SOME_LENGTH "CYMDN_SOME_LENGTH", SOME_FALL "CYMDN_SOME_FALL"

cdef enum:
    MOST_POINTS = 28

cdef struct Rectangle:
    # in standard deviations of a component, from its mean
    double l0
    double u0
    double w0      # u0 - l0
    double l1
    double u1
    double w1
    double r       # of the component, >= 0
    double t
    double cross
    double kappa
    double s
    bint along     # slices have a constant y

cdef struct Slice:
    double at      # x, or y
    double a
    double b
    double width   # b - a
    double ahead   # distance from the first corner; NaN: known only from `at`


cdef inline double gap(const Rectangle *p, double x, double k) noexcept nogil:
    # k - r x
    return (k - p.t * x) + (p.cross * p.s) * x


cdef inline double height(const Rectangle *p, double x, double k) noexcept nogil:
    # y, if the second coordinate is k
    return bivariate.bounded(bivariate.scaled_decorrelated(k, x, p.t, p.kappa, p.cross), FARTHEST)


cdef inline double limit(double offset, double inverse) noexcept nogil:
    return bivariate.bounded(bivariate.standardised(offset, inverse, 0.0), FARTHEST)


cdef inline Rectangle rectangle(const Component *c, const double *lower, const double *upper) noexcept nogil:
    cdef Rectangle p
    cdef double low, high
    p.l0, p.u0 = limit(lower[0] - c.mean0, c.inverse0), limit(upper[0] - c.mean0, c.inverse0)
    p.w0 = limit(upper[0] - lower[0], c.inverse0)
    low, high = limit(lower[1] - c.mean1, c.inverse1), limit(upper[1] - c.mean1, c.inverse1)
    p.w1 = limit(upper[1] - lower[1], c.inverse1)
    p.l1, p.u1 = (low if c.r >= 0.0 else -high), (high if c.r >= 0.0 else -low)
    p.r, p.t, p.cross = fabs(c.r), fabs(c.t), (c.cross if c.r >= 0.0 else -c.cross)
    p.kappa, p.s = c.kappa, c.decoupled
    p.along = p.r > p.s
    return p


cdef inline Slice made(double at, double a, double b, double width, double ahead) noexcept nogil:
    cdef Slice q
    q.at, q.a, q.b, q.width, q.ahead = at, a, b, width, ahead
    return q


cdef inline Slice slice_at(const Rectangle *p, double at, double ahead) noexcept nogil:
    """A slice; if slices have a constant y, one that is not at a corner."""
    cdef double y = p.s * at, a = p.l0, b = p.u0, width = p.w0
    cdef bint low, high
    if not p.along:
        return made(at, height(p, at, p.l1), height(p, at, p.u1), bivariate.bounded(p.kappa * p.w1, FARTHEST), ahead)
    # each end is on an upright side or on a slanted one
    low, high = gap(p, p.l0, p.l1) > y, gap(p, p.u0, p.u1) < y
    if low:
        a = (p.l1 - y) / p.r
        width = p.w1 / p.r if high else (y - gap(p, p.u0, p.l1)) / p.r
    elif high:
        width = (gap(p, p.l0, p.u1) - y) / p.r
    if high:
        b = (p.u1 - y) / p.r
    return made(at, a, b, width, ahead)


# The point of the rectangle nearest to 0: the square of its distance, and the position of the slice through it


cdef inline void keep_nearer(const Rectangle *p, double x, double y, double *square, double *at) noexcept nogil:
    if x * x + y * y < square[0]:
        square[0] = x * x + y * y
        at[0] = y if p.along else x


cdef inline void nearest_on_upright(const Rectangle *p, double x, double *square, double *at) noexcept nogil:
    keep_nearer(p, x, nearest(height(p, x, p.l1), height(p, x, p.u1)), square, at)


cdef inline void nearest_on_slanted(const Rectangle *p, double k, double *square, double *at) noexcept nogil:
    # on the whole line it is (r k, s k)
    cdef double x = p.r * k
    if x < p.l0:
        keep_nearer(p, p.l0, height(p, p.l0, k), square, at)
    elif x > p.u0:
        keep_nearer(p, p.u0, height(p, p.u0, k), square, at)
    else:
        keep_nearer(p, x, p.s * k, square, at)


cdef inline double nearest_point(const Rectangle *p, double *at) noexcept nogil:
    cdef double square = INFINITY
    at[0] = 0.0
    if p.l0 <= 0.0 <= p.u0 and p.l1 <= 0.0 <= p.u1:
        return 0.0
    nearest_on_upright(p, p.l0, &square, at)
    nearest_on_upright(p, p.u0, &square, at)
    nearest_on_slanted(p, p.l1, &square, at)
    nearest_on_slanted(p, p.u1, &square, at)
    return square


# Pieces


cdef inline double smaller(double a, double b) noexcept nogil:
    return a if a < b else b


cdef inline double change(double a0, double a, double da, double b0, double b, double db) noexcept nogil:
    # displacement of the slice's point nearest to 0, without a difference of large numbers
    cdef double beyond = db if b0 < 0.0 and b < 0.0 else nearest(a, b) - nearest(a0, b0)
    return da if a0 > 0.0 and a > 0.0 else beyond


cdef inline double sum_of_slices(
    const Slice *start, double step, double da, double db, const Point *rule, int count
) noexcept nogil:
    """The integral over a step from the start to either side, in units of exp of the start's exponent."""
    # each slice is mirrored if necessary, so that its high end is farther from 0
    cdef double[MOST_POINTS] low, high, width, tail, factor, term
    cdef double c = nearest(start.a, start.b), total = 0.0, at, a, b, moved
    cdef bint mirrored, short = False
    cdef int i, k
    for i in range(count):
        at = step * rule[i].at
        a = start.a + da * at
        b = start.b + db * at
        moved = change(start.a, a, da * at, start.b, b, db * at)
        mirrored = a + b < 0.0
        low[i] = -b if mirrored else a
        high[i] = -a if mirrored else b
        width[i] = larger(start.width + (db - da) * at, 0.0)
        term[i] = smaller(-0.5 * (at * (2.0 * start.at + at) + moved * (2.0 * c + moved)), MOST_ABOVE)
    for i in range(count):
        tail[i] = elementary.mills(fabs(low[i]))
    for i in range(count):
        tail[i] *= elementary.exp_nonpositive(fall_to_low(low[i]))
    for i in range(count):
        factor[i] = elementary.mills(high[i])
    for i in range(count):
        factor[i] *= elementary.exp_nonpositive(fall_to_high(low[i], high[i], width[i]))
    for i in range(count):
        factor[i] = between(low[i], tail[i], factor[i])
        term[i] = rule[i].weight * elementary.exp_nonpositive(term[i])
    for i in range(count):
        short = short or is_short(high[i], width[i])
    if short:
        for i in range(count):
            tail[i] = 0.0
        for k in range(7):
            for i in range(count):
                tail[i] += short_term(low[i], width[i], k)
        for i in range(count):
            factor[i] = tail[i] if is_short(high[i], width[i]) else factor[i]
    for i in range(count):
        total += term[i] * factor[i]
    return fabs(step) * total


cdef inline void add_smooth_piece(
    const Slice *start, double sign, double length, double da, double db, double rate, double square,
    double log_weight, Sum *sum
) noexcept nogil:
    """Add the integral over a length; `rate` is that of the far end's exponent, 0 where that end does not matter."""
    cdef double c = nearest(start.a, start.b), fall, slope, steepness, total
    cdef double height = start.at * start.at + c * c
    if 0.5 * (height - square) > FALL + LOST * square:
        return
    slope = larger(sign * (start.at + c * (da if c > 0.0 else db)), 0.0)
    fall = 2.0 * FALL / (slope + sqrt(slope * slope + 2.0 * FALL))
    length = smaller(length, fall)
    steepness = length * (slope + rate)
    if length < FEW_LENGTH and steepness < FEW_FALL:
        total = sum_of_slices(start, sign * length, da, db, RULE_12, 12)
    elif length < SOME_LENGTH and steepness < SOME_FALL:
        total = sum_of_slices(start, sign * length, da, db, RULE_16, 16)
    else:
        total = sum_of_slices(start, sign * length, da, db, RULE_28, MOST_POINTS)
    add(sum, log_weight - 0.5 * height, total)


cdef inline void add_piece(
    const Slice *start, double sign, double length, double da, double db, double square, double log_weight, Sum *sum
) noexcept nogil:
    """Add the integral over a length from a slice on, to the right or left; ends move by da and db for each unit.

    At a corner a slice has no width. Where the corner is far from 0, the integral of a slice grows within a thin layer
    from 0 to that of an infinite slice. The layer ends where the far end's exponent is larger than the near end's by
    FALL, and there the piece is cut.
    """
    cdef double more = 0.5 * start.width * fabs(start.a + start.b), cut
    cdef double rate = sign * (db - da) * larger(fabs(start.a), fabs(start.b))
    cdef Slice q
    if start.a <= 0.0 <= start.b or rate == 0.0:
        add_smooth_piece(start, sign, length, da, db, 0.0, square, log_weight, sum)
        return
    cut = (FALL - more) / rate
    if not 0.0 < cut < length:
        rate = fabs(rate) if more < FALL else 0.0
        add_smooth_piece(start, sign, length, da, db, rate, square, log_weight, sum)
        return
    q = made(
        start.at + sign * cut, start.a + da * sign * cut, start.b + db * sign * cut,
        larger(start.width + (db - da) * sign * cut, 0.0), NAN
    )
    add_smooth_piece(start, sign, cut, da, db, larger(rate, 0.0), square, log_weight, sum)
    add_smooth_piece(&q, sign, length - cut, da, db, larger(-rate, 0.0), square, log_weight, sum)


cdef inline bint is_before(const Slice *q, const Slice *other) noexcept nogil:
    # positions of corners are rounded, and may be out of order if an ulp of the limits is a standard deviation
    if q.ahead < LONG and other.ahead < LONG:
        return q.ahead < other.ahead
    return q.at < other.at


cdef inline int put(Slice *cuts, int *count, const Slice *q) noexcept nogil:
    """Insert a slice among sorted ones; return its index."""
    cdef int k = count[0]
    while k > 0 and is_before(q, cuts + k - 1):
        cuts[k] = cuts[k - 1]
        k -= 1
    cuts[k] = q[0]
    count[0] += 1
    return k


cdef inline int cut_at_corners(const Rectangle *p, Slice *cuts) noexcept nogil:
    """Write the slices through the corners, in order; return their number."""
    cdef double at, other, whole = p.w1 / p.r if p.w1 < p.r * p.w0 else p.w0
    cdef double low = p.kappa * (p.r * p.w0), high = p.kappa * p.w1
    cdef int count = 0
    cdef Slice q
    if not p.along:
        q = slice_at(p, p.l0, 0.0)
        put(cuts, &count, &q)
        q = slice_at(p, p.u0, p.w0)
        put(cuts, &count, &q)
        return count
    q = made(height(p, p.u0, p.l1), p.u0, p.u0, 0.0, 0.0)
    put(cuts, &count, &q)
    at = height(p, p.l0, p.l1)
    other = (p.u1 - p.s * at) / p.r
    q = made(at, p.l0, other if other < p.u0 else p.u0, whole, low)
    put(cuts, &count, &q)
    at = height(p, p.u0, p.u1)
    other = (p.l1 - p.s * at) / p.r
    q = made(at, other if other > p.l0 else p.l0, p.u0, whole, high)
    put(cuts, &count, &q)
    q = made(height(p, p.l0, p.u1), p.l0, p.l0, 0.0, low + high)
    put(cuts, &count, &q)
    return count


cdef inline void add_rectangle(
    const Component *c, double log_weight, const double *lower, const double *upper, Sum *sum
) noexcept nogil:
    """Add 2 pi times the probability of the rectangle under a component of this weight."""
    cdef Rectangle p = rectangle(c, lower, upper)
    cdef double near, square = nearest_point(&p, &near), length
    cdef double tilt = -p.s / p.r if p.along else -p.kappa * p.r, da, db
    cdef Slice[5] cuts
    cdef Slice q
    cdef int count, i, middle = -1
    # at most pi exp(-square / 2) lies beyond a line at this distance
    if not square < AFAR or log_weight - 0.5 * square < log_of(sum) - NEGLIGIBLE:
        return
    count = cut_at_corners(&p, cuts)
    for i in range(count):
        if cuts[i].at == near:
            middle = i
    if middle < 0 and cuts[count - 1].ahead * (1.0 + sqrt(square)) < 1.0:
        middle = 0  # the integrand hardly changes: another cut would only lose digits
    if middle < 0:
        q = slice_at(&p, near, NAN)
        middle = put(cuts, &count, &q)
    for i in range(count - 1):
        length = cuts[i + 1].at - cuts[i].at
        if cuts[i].ahead < LONG and cuts[i + 1].ahead < LONG:
            length = cuts[i + 1].ahead - cuts[i].ahead
        if not length > 0.0:
            continue
        da = tilt if not p.along or cuts[i + 1].at <= height(&p, p.l0, p.l1) else 0.0
        db = tilt if not p.along or cuts[i].at >= height(&p, p.u0, p.u1) else 0.0
        if i >= middle:
            add_piece(cuts + i, 1.0, length, da, db, square, log_weight, sum)
        else:
            add_piece(cuts + i + 1, -1.0, length, da, db, square, log_weight, sum)


cdef inline double rectangle_of_mixture(
    const double *row, Py_ssize_t m, bint unconstrained, const double *lower, const double *upper, bint logarithm
) noexcept nogil:
    """The probability of a rectangle, or its logarithm, under a mixture of packed parameters."""
    cdef Sum probability, weights
    cdef Component c
    cdef Py_ssize_t j
    cdef double log_weight, top = -INFINITY
    if lower[0] != lower[0] or upper[0] != upper[0] or lower[1] != lower[1] or upper[1] != upper[1]:
        return NAN
    if lower[0] >= upper[0] or lower[1] >= upper[1]:
        return -INFINITY if logarithm else 0.0
    probability.top, probability.total = -INFINITY, 0.0
    weights.top, weights.total = -INFINITY, 0.0
    for j in range(m):
        top = larger(row[j], top)
    for j in range(m):
        log_weight = row[j] - top if unconstrained else elementary.log(row[j])
        if log_weight > -INFINITY:
            c = component(row, m, j, unconstrained, 0.0)
            add_rectangle(&c, log_weight, lower, upper, &probability)
            add(&weights, log_weight, 1.0)
    if unconstrained:  # exponentials of logits have any sum
        probability.top -= weights.top
        probability.total /= weights.total
    return probability_of(&probability, bivariate.TWO_PI, logarithm)
