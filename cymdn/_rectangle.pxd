"""The probability of a rectangle under one correlated normal distribution in the plane, to relative accuracy.

In the white coordinates x, the standardised first coordinate, and y, where the second is r x + s y with s^2 = 1 - r^2,
the distribution is round and the rectangle a parallelogram: between x = l0 and u0, and between the lines
r x + s y = l1 and u1. It is sliced: across x where |r| < s, else across y, so that the ends of a slice move by at most 1
a unit. A slice is an interval of _normal.pxd. Slices are summed by Gauss-Legendre quadrature over pieces between the
corners and the point nearest to 0, in each of which the integrand is smooth; a piece is cut where it has fallen by
exp(-40). Nothing is a difference of tails: the sum over corners, of which other methods are made, has no digit left at
15 standard deviations.

A negative r is made positive by a mirror. The gap of a corner, k - r x = s y, is what loses nothing as r goes to 1.
"""

from libc.math cimport INFINITY, NAN, fabs, sqrt

from cymdn cimport _bivariate as bivariate
from cymdn cimport _elementary as elementary
from cymdn._component cimport Component, component
from cymdn._normal cimport (
    FARTHEST, Sum, add, between, fall_to_high, fall_to_low, is_short, larger, nearest, probability_of, short_term,
)

cdef extern from *:
    """
    #define CYMDN_FALL 40.0 /* exp of its negative is beside the rest of a sum below all that a double holds */
    #define CYMDN_LOST 1e-12 /* what squares of distances are off, at most, of themselves */
    #define CYMDN_AFAR 1e290 /* square of a distance that is not computed any more: no number has that logarithm */
    /* what these are: elementary_coefficients.py */
    #define CYMDN_NODE_24_0 0.00240639000148932
    #define CYMDN_WEIGHT_24_0 0.0061706148999936
    #define CYMDN_NODE_24_1 0.012635722014345251
    #define CYMDN_WEIGHT_24_1 0.014265694314466832
    #define CYMDN_NODE_24_2 0.030862723998633622
    #define CYMDN_WEIGHT_24_2 0.022138719408709904
    #define CYMDN_NODE_24_3 0.056792236497799485
    #define CYMDN_WEIGHT_24_3 0.02964929245771839
    #define CYMDN_NODE_24_4 0.08999900701304854
    #define CYMDN_WEIGHT_24_4 0.03667324070554015
    #define CYMDN_NODE_24_5 0.12993790421072282
    #define CYMDN_WEIGHT_24_5 0.04309508076597664
    #define CYMDN_NODE_24_6 0.17595317403151223
    #define CYMDN_WEIGHT_24_6 0.04880932605205694
    #define CYMDN_NODE_24_7 0.22728926430558022
    #define CYMDN_WEIGHT_24_7 0.05372213505798282
    #define CYMDN_NODE_24_8 0.2831032461869774
    #define CYMDN_WEIGHT_24_8 0.0577528340268628
    #define CYMDN_NODE_24_9 0.3424786601519183
    #define CYMDN_WEIGHT_24_9 0.060835236463901696
    #define CYMDN_NODE_24_10 0.40444056626319186
    #define CYMDN_WEIGHT_24_10 0.06291872817341415
    #define CYMDN_NODE_24_11 0.4679715535686972
    #define CYMDN_WEIGHT_24_11 0.06396909767337608
    #define CYMDN_NODE_24_12 0.5320284464313028
    #define CYMDN_WEIGHT_24_12 0.06396909767337608
    #define CYMDN_NODE_24_13 0.5955594337368082
    #define CYMDN_WEIGHT_24_13 0.06291872817341415
    #define CYMDN_NODE_24_14 0.6575213398480817
    #define CYMDN_WEIGHT_24_14 0.060835236463901696
    #define CYMDN_NODE_24_15 0.7168967538130225
    #define CYMDN_WEIGHT_24_15 0.0577528340268628
    #define CYMDN_NODE_24_16 0.7727107356944197
    #define CYMDN_WEIGHT_24_16 0.05372213505798282
    #define CYMDN_NODE_24_17 0.8240468259684878
    #define CYMDN_WEIGHT_24_17 0.04880932605205694
    #define CYMDN_NODE_24_18 0.8700620957892772
    #define CYMDN_WEIGHT_24_18 0.04309508076597664
    #define CYMDN_NODE_24_19 0.9100009929869515
    #define CYMDN_WEIGHT_24_19 0.03667324070554015
    #define CYMDN_NODE_24_20 0.9432077635022005
    #define CYMDN_WEIGHT_24_20 0.02964929245771839
    #define CYMDN_NODE_24_21 0.9691372760013663
    #define CYMDN_WEIGHT_24_21 0.022138719408709904
    #define CYMDN_NODE_24_22 0.9873642779856547
    #define CYMDN_WEIGHT_24_22 0.014265694314466832
    #define CYMDN_NODE_24_23 0.9975936099985107
    #define CYMDN_WEIGHT_24_23 0.0061706148999936
    static const double cymdn_node24[24] = {
        CYMDN_NODE_24_0, CYMDN_NODE_24_1, CYMDN_NODE_24_2, CYMDN_NODE_24_3, CYMDN_NODE_24_4, CYMDN_NODE_24_5,
        CYMDN_NODE_24_6, CYMDN_NODE_24_7, CYMDN_NODE_24_8, CYMDN_NODE_24_9, CYMDN_NODE_24_10, CYMDN_NODE_24_11,
        CYMDN_NODE_24_12, CYMDN_NODE_24_13, CYMDN_NODE_24_14, CYMDN_NODE_24_15, CYMDN_NODE_24_16, CYMDN_NODE_24_17,
        CYMDN_NODE_24_18, CYMDN_NODE_24_19, CYMDN_NODE_24_20, CYMDN_NODE_24_21, CYMDN_NODE_24_22, CYMDN_NODE_24_23
    };
    static const double cymdn_weight24[24] = {
        CYMDN_WEIGHT_24_0, CYMDN_WEIGHT_24_1, CYMDN_WEIGHT_24_2, CYMDN_WEIGHT_24_3, CYMDN_WEIGHT_24_4,
        CYMDN_WEIGHT_24_5, CYMDN_WEIGHT_24_6, CYMDN_WEIGHT_24_7, CYMDN_WEIGHT_24_8, CYMDN_WEIGHT_24_9,
        CYMDN_WEIGHT_24_10, CYMDN_WEIGHT_24_11, CYMDN_WEIGHT_24_12, CYMDN_WEIGHT_24_13, CYMDN_WEIGHT_24_14,
        CYMDN_WEIGHT_24_15, CYMDN_WEIGHT_24_16, CYMDN_WEIGHT_24_17, CYMDN_WEIGHT_24_18, CYMDN_WEIGHT_24_19,
        CYMDN_WEIGHT_24_20, CYMDN_WEIGHT_24_21, CYMDN_WEIGHT_24_22, CYMDN_WEIGHT_24_23
    };
    """
    const double FALL "CYMDN_FALL", LOST "CYMDN_LOST", AFAR "CYMDN_AFAR"
    const double *NODE "cymdn_node24"
    const double *WEIGHT "cymdn_weight24"

cdef enum:
    NODES = 24

cdef struct Rectangle:
    # in standard deviations of a component, around its mean
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
    bint along     # slices are across y

cdef struct Slice:
    double at      # x, or y
    double a
    double b
    double width   # b - a


cdef inline double gap(const Rectangle *p, double x, double k) noexcept nogil:
    # k - r x
    return (k - p.t * x) + (p.cross * p.s) * x


cdef inline double height(const Rectangle *p, double x, double k) noexcept nogil:
    # y where the second coordinate is k
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


cdef inline Slice made(double at, double a, double b, double width) noexcept nogil:
    cdef Slice q
    q.at, q.a, q.b, q.width = at, a, b, width
    return q


cdef inline Slice slice_at(const Rectangle *p, double at) noexcept nogil:
    """A slice that is not at a corner."""
    cdef double y = p.s * at, a = p.l0, b = p.u0, width = p.w0
    cdef bint low, high
    if not p.along:
        return made(at, height(p, at, p.l1), height(p, at, p.u1), bivariate.bounded(p.kappa * p.w1, FARTHEST))
    # an end is the rectangle's own, or on a slanted side
    low, high = gap(p, p.l0, p.l1) > y, gap(p, p.u0, p.u1) < y
    if low:
        a = (p.l1 - y) / p.r
        width = p.w1 / p.r if high else (y - gap(p, p.u0, p.l1)) / p.r
    elif high:
        width = (gap(p, p.l0, p.u1) - y) / p.r
    if high:
        b = (p.u1 - y) / p.r
    return made(at, a, b, width)


# The point of the rectangle that is nearest to 0: the square of its distance, and where the slice through it is


cdef inline void keep_nearer(const Rectangle *p, double x, double y, double *square, double *at) noexcept nogil:
    if x * x + y * y < square[0]:
        square[0] = x * x + y * y
        at[0] = y if p.along else x


cdef inline void nearest_on_upright(const Rectangle *p, double x, double *square, double *at) noexcept nogil:
    keep_nearer(p, x, nearest(height(p, x, p.l1), height(p, x, p.u1)), square, at)


cdef inline void nearest_on_slanted(const Rectangle *p, double k, double *square, double *at) noexcept nogil:
    # of the whole line it is (r k, s k)
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


cdef inline double change(double a0, double a, double da, double b0, double b, double db) noexcept nogil:
    # how much the point of a slice that is nearest to 0 has moved, without a difference of large numbers
    cdef double beyond = db if b0 < 0.0 and b < 0.0 else nearest(a, b) - nearest(a0, b0)
    return da if a0 > 0.0 and a > 0.0 else beyond


cdef inline double sum_of_slices(const Slice *start, double step, double da, double db) noexcept nogil:
    """The integral, in units of exp of the start's exponent, over slices at the nodes of a step to either side."""
    # the part of each slice that is farther from 0 counts as the high end
    cdef double[NODES] low, high, width, tail, factor, term
    cdef double c = nearest(start.a, start.b), total = 0.0, at, a, b, moved
    cdef bint mirrored, short = False
    cdef int i, k
    for i in range(NODES):
        at = step * NODE[i]
        a = start.a + da * at
        b = start.b + db * at
        moved = change(start.a, a, da * at, start.b, b, db * at)
        mirrored = a + b < 0.0
        low[i] = -b if mirrored else a
        high[i] = -a if mirrored else b
        width[i] = larger(start.width + (db - da) * at, 0.0)
        term[i] = -0.5 * (at * (2.0 * start.at + at) + moved * (2.0 * c + moved))
    for i in range(NODES):
        tail[i] = elementary.mills(fabs(low[i]))
    for i in range(NODES):
        tail[i] *= elementary.exp_nonpositive(fall_to_low(low[i]))
    for i in range(NODES):
        factor[i] = elementary.mills(high[i])
    for i in range(NODES):
        factor[i] *= elementary.exp_nonpositive(fall_to_high(low[i], high[i], width[i]))
    for i in range(NODES):
        factor[i] = between(low[i], tail[i], factor[i])
        term[i] = WEIGHT[i] * elementary.exp_nonpositive(term[i])
    for i in range(NODES):
        short = short or is_short(high[i], width[i])
    if short:
        for i in range(NODES):
            tail[i] = 0.0
        for k in range(7):
            for i in range(NODES):
                tail[i] += short_term(low[i], width[i], k)
        for i in range(NODES):
            factor[i] = tail[i] if is_short(high[i], width[i]) else factor[i]
    for i in range(NODES):
        total += term[i] * factor[i]
    return fabs(step) * total


cdef inline void add_piece(
    const Slice *start, double sign, double length, double da, double db, double square, double log_weight, Sum *sum
) noexcept nogil:
    """Add the integral over slices from one on, to the right or left, whose ends move by da and db a unit."""
    cdef double c = nearest(start.a, start.b), fall, slope
    cdef double height = start.at * start.at + c * c
    if 0.5 * (height - square) > FALL + LOST * square:
        return
    slope = larger(sign * (start.at + c * (da if c > 0.0 else db)), 0.0)
    fall = 2.0 * FALL / (slope + sqrt(slope * slope + 2.0 * FALL))
    add(sum, log_weight - 0.5 * height, sum_of_slices(start, sign * (fall if length > fall else length), da, db))


cdef inline void put(Slice *cuts, int *count, const Slice *q) noexcept nogil:
    """Insert a slice among sorted ones."""
    cdef int k = count[0]
    while k > 0 and cuts[k - 1].at > q.at:
        cuts[k] = cuts[k - 1]
        k -= 1
    cuts[k] = q[0]
    count[0] += 1


cdef inline void add_rectangle(
    const Component *component, double log_weight, const double *lower, const double *upper, Sum *sum
) noexcept nogil:
    """Add 2 pi times the probability of the rectangle under a component of this weight."""
    cdef Rectangle p = rectangle(component, lower, upper)
    cdef double near, square = nearest_point(&p, &near), whole, other
    cdef double tilt = -p.s / p.r if p.along else -p.kappa * p.r
    cdef double low_end = -INFINITY, high_end = INFINITY  # of the slices of which both ends are slanted
    cdef Slice[5] cuts
    cdef Slice q
    cdef int count = 0, i
    cdef bint at_corner = False, low, high
    if not square < AFAR:
        return
    if p.along:
        whole = p.w1 / p.r if p.w1 / p.r < p.w0 else p.w0
        high_end, low_end = height(&p, p.l0, p.l1), height(&p, p.u0, p.u1)
        q = made(height(&p, p.u0, p.l1), p.u0, p.u0, 0.0)
        put(cuts, &count, &q)
        other = (p.u1 - p.s * high_end) / p.r
        q = made(high_end, p.l0, other if other < p.u0 else p.u0, whole)
        put(cuts, &count, &q)
        other = (p.l1 - p.s * low_end) / p.r
        q = made(low_end, other if other > p.l0 else p.l0, p.u0, whole)
        put(cuts, &count, &q)
        q = made(height(&p, p.l0, p.u1), p.l0, p.l0, 0.0)
        put(cuts, &count, &q)
    else:
        q = slice_at(&p, p.l0)
        put(cuts, &count, &q)
        q = slice_at(&p, p.u0)
        put(cuts, &count, &q)
    for i in range(count):
        at_corner = at_corner or cuts[i].at == near
    if not at_corner:
        q = slice_at(&p, near)
        put(cuts, &count, &q)
    for i in range(count - 1):
        if not cuts[i].at < cuts[i + 1].at:
            continue
        low, high = cuts[i + 1].at <= high_end, cuts[i].at >= low_end
        if cuts[i].at >= near:
            add_piece(
                cuts + i, 1.0, cuts[i + 1].at - cuts[i].at, tilt if low else 0.0, tilt if high else 0.0,
                square, log_weight, sum,
            )
        else:
            add_piece(
                cuts + i + 1, -1.0, cuts[i + 1].at - cuts[i].at, tilt if low else 0.0, tilt if high else 0.0,
                square, log_weight, sum,
            )


cdef inline double rectangle_of_mixture(
    const double *row, Py_ssize_t m, bint unconstrained, const double *lower, const double *upper, bint logarithm
) noexcept nogil:
    """The probability of a rectangle, or its logarithm, under a mixture of packed parameters."""
    cdef Sum probability, weights
    cdef Component c
    cdef Py_ssize_t j
    cdef double log_weight
    if lower[0] != lower[0] or upper[0] != upper[0] or lower[1] != lower[1] or upper[1] != upper[1]:
        return NAN
    if lower[0] >= upper[0] or lower[1] >= upper[1]:
        return -INFINITY if logarithm else 0.0
    probability.top, probability.total = -INFINITY, 0.0
    weights.top, weights.total = -INFINITY, 0.0
    for j in range(m):
        log_weight = row[j] if unconstrained else elementary.log(row[j])
        if log_weight > -INFINITY:
            c = component(row, m, j, unconstrained, 0.0)
            add_rectangle(&c, log_weight, lower, upper, &probability)
            add(&weights, log_weight, 1.0)
    if unconstrained:  # logits
        probability.top -= weights.top
        probability.total /= weights.total
    return probability_of(&probability, bivariate.TWO_PI, logarithm)
