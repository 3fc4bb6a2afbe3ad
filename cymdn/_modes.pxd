"""The maxima of a mixture's density.

A maximum is searched in the coordinates y of one component, x = mean + L y with covariance L L^T. In y that component
is round, even if it is nearly singular in x, and any other one has Q = |A y + c|^2 with a lower triangular A.
"""

from cymdn cimport _bivariate as bivariate
from cymdn cimport _elementary as elementary
from cymdn._component cimport Component

cdef struct View:
    double a00
    double a10
    double a11
    double c0
    double c1

cdef struct Search:
    # a mixture and scratch memory
    Py_ssize_t m
    Component *components
    double *heights   # logarithms of weight times density at the mean, up to a constant
    double log_double  # log of 2 m
    View *views
    double *terms
    double *visited   # 2 m numbers: starting points of climbs
    double *count     # number of these points

cdef struct Place:
    double y0
    double y1
    double value      # log-density, up to a constant
    double g0         # its gradient
    double g1
    double h00        # its Hessian
    double h01
    double h11
    double s00        # mean of A^T A, weighted by the responsibilities
    double s01
    double s11

cdef extern from *:
    """
    #define CYMDN_LARGEST_RATIO 1e100 /* products of two are finite */
    #define CYMDN_MODE_STEPS 500      /* about 60 where maxima merge: a Newton step reduces the error by a third */
    #define CYMDN_MODE_NEAR 1e-8      /* square of a step for which rounding hides whether it ascends */
    #define CYMDN_MODE_DONE 1e-26     /* square of the last step */
    #define CYMDN_MODE_SAME 0.1       /* square of the distance below which two climbs lead to the same maximum */
    #define CYMDN_MODE_SHARE 1e-3     /* of the largest term: less is negligible, seen from a corner some sigma away */
    """
    const double LARGEST_RATIO "CYMDN_LARGEST_RATIO"
    const int MODE_STEPS "CYMDN_MODE_STEPS"
    const double MODE_NEAR "CYMDN_MODE_NEAR"
    const double MODE_DONE "CYMDN_MODE_DONE"
    const double SAME "CYMDN_MODE_SAME"
    const double SHARE "CYMDN_MODE_SHARE"


cdef inline double height_of(
    const double *parameters, Py_ssize_t m, Py_ssize_t j, bint unconstrained, double largest, const Component *c
) noexcept nogil:
    """Logarithm of a component's weight times its density at its mean, up to a constant of the row."""
    cdef double a = parameters[5 * m + j]
    if unconstrained:
        return (
            bivariate.shift_of_logs(parameters[j] - largest, parameters[3 * m + j], parameters[4 * m + j], a)
            + elementary.log(bivariate.factor_of_decay(bivariate.decay(a)))
        )
    return (
        (elementary.log(parameters[j]) + elementary.log(c.kappa))
        + (elementary.log(c.inverse0) + elementary.log(c.inverse1))
    )


cdef inline View view_of(const Component *seen, const Component *origin) noexcept nogil:
    cdef inline View w
    cdef double ratio0 = bivariate.bounded(origin.sigma0 * seen.inverse0, LARGEST_RATIO)
    cdef double ratio1 = bivariate.bounded(origin.sigma1 * seen.inverse1, LARGEST_RATIO)
    cdef double kappa = bivariate.bounded(seen.kappa, LARGEST_RATIO)
    cdef double d = origin.cross * origin.decoupled  # t - r
    cdef double u = bivariate.standardised(origin.mean0 - seen.mean0, seen.inverse0, 0.0)
    cdef double v = bivariate.standardised(origin.mean1 - seen.mean1, seen.inverse1, 0.0)
    w.a00 = ratio0
    # kappa (ratio1 r - seen.r ratio0), which cancels only if r and seen.r are on either side of the threshold of t
    w.a10 = bivariate.bounded(
        kappa * (ratio1 * origin.t - seen.t * ratio0) + (seen.cross * ratio0 - kappa * ratio1 * d), LARGEST_RATIO
    )
    w.a11 = bivariate.bounded(kappa * origin.decoupled * ratio1, LARGEST_RATIO)
    w.c0 = bivariate.bounded(u, LARGEST_RATIO)
    w.c1 = bivariate.bounded(bivariate.scaled_decorrelated(v, u, seen.t, kappa, seen.cross), LARGEST_RATIO)
    return w


cdef inline void survey(const Search *s, Place *p) noexcept nogil:
    """Evaluate the log-density at a place, its gradient and Hessian."""
    cdef const View *views = s.views
    cdef double *terms = s.terms
    cdef Py_ssize_t k
    cdef double e0, e1, b0, b1, g, top = -bivariate.DBL_MAX, total = 0.0
    for k in range(s.m):
        e0 = views[k].a00 * p.y0 + views[k].c0
        e1 = (views[k].a10 * p.y0 + views[k].a11 * p.y1) + views[k].c1
        terms[k] = s.heights[k] - bivariate.half_distance(e0, e1)
        top = terms[k] if terms[k] > top else top
    for k in range(s.m):
        terms[k] = elementary.exp_flushed(terms[k] - top)
        total += terms[k]
    p.value = top + elementary.log(total)
    p.g0 = p.g1 = p.h00 = p.h01 = p.h11 = p.s00 = p.s01 = p.s11 = 0.0
    for k in range(s.m):
        g = terms[k] / total
        if g == 0.0:  # negligible here, and perhaps so far away that squares overflow
            continue
        e0 = views[k].a00 * p.y0 + views[k].c0
        e1 = (views[k].a10 * p.y0 + views[k].a11 * p.y1) + views[k].c1
        b0 = views[k].a00 * e0 + views[k].a10 * e1
        b1 = views[k].a11 * e1
        p.g0 -= g * b0
        p.g1 -= g * b1
        p.h00 += g * (b0 * b0)
        p.h01 += g * (b0 * b1)
        p.h11 += g * (b1 * b1)
        p.s00 += g * (views[k].a00 * views[k].a00 + views[k].a10 * views[k].a10)
        p.s01 += g * (views[k].a10 * views[k].a11)
        p.s11 += g * (views[k].a11 * views[k].a11)
    p.h00 -= p.s00 + p.g0 * p.g0
    p.h01 -= p.s01 + p.g0 * p.g1
    p.h11 -= p.s11 + p.g1 * p.g1


cdef inline Place moved(const Place *p, double a00, double a01, double a11) noexcept nogil:
    """The place that solves A (y' - y) = gradient, A positive definite."""
    cdef Place q = p[0]
    cdef double determinant = a00 * a11 - a01 * a01
    q.y0 = p.y0 + (a11 * p.g0 - a01 * p.g1) / determinant
    q.y1 = p.y1 + (a00 * p.g1 - a01 * p.g0) / determinant
    return q


cdef inline void climb(const Search *s, Place *p) noexcept nogil:
    """Move a surveyed place uphill to a maximum.

    By Newton's method if the log-density is concave and the step ascends; else by mean shift (Carreira-Perpinan,
    "Mode-finding for mixtures of Gaussian distributions", IEEE PAMI 22, 2000, section 4), which always ascends.
    """
    cdef Place q
    cdef double d0, d1, size, last = bivariate.INFINITY
    cdef bint newton
    cdef int _step
    for _step in range(MODE_STEPS):
        newton = p.h00 < 0.0 and p.h00 * p.h11 - p.h01 * p.h01 > 0.0
        if newton:
            q = moved(p, -p.h00, -p.h01, -p.h11)
        else:
            q = moved(p, p.s00, p.s01, p.s11)
        survey(s, &q)
        d0 = q.y0 - p.y0
        d1 = q.y1 - p.y1
        size = p.s00 * (d0 * d0) + 2.0 * p.s01 * (d0 * d1) + p.s11 * (d1 * d1)
        if newton and size > MODE_NEAR and not q.value > p.value:
            q = moved(p, p.s00, p.s01, p.s11)
            survey(s, &q)
            newton = False
        elif not (newton or q.value > p.value):  # rounding hides the rest of the slope
            return
        p[0] = q
        if newton and (size <= MODE_DONE or (size <= MODE_NEAR and size >= last)):
            return
        last = size


cdef inline double x0_of(const Place *p, const Component *origin) noexcept nogil:
    return origin.mean0 + origin.sigma0 * p.y0


cdef inline double x1_of(const Place *p, const Component *origin) noexcept nogil:
    return origin.mean1 + origin.sigma1 * (origin.r * p.y0 + origin.decoupled * p.y1)


cdef inline void keep_higher(
    const Place *p, const Component *origin, double *highest, double *x
) noexcept nogil:
    if p.value > highest[0]:
        highest[0] = p.value
        x[0], x[1] = x0_of(p, origin), x1_of(p, origin)


cdef inline void meet(const View *w, Place *p) noexcept nogil:
    """The maximum of the product of two densities, that seen and that at the origin: (1 + A^T A) y = -A^T c."""
    cdef double s00 = 1.0 + (w.a00 * w.a00 + w.a10 * w.a10), s01 = w.a10 * w.a11, s11 = 1.0 + w.a11 * w.a11
    cdef double b0 = -(w.a00 * w.c0 + w.a10 * w.c1), b1 = -w.a11 * w.c1
    cdef double determinant = (1.0 + w.a00 * w.a00) * s11 + w.a10 * w.a10
    p.y0 = (s11 * b0 - s01 * b1) / determinant
    p.y1 = (s00 * b1 - s01 * b0) / determinant


cdef inline bint gather(const Search *s, Place *p) noexcept nogil:
    """Write the maximum of the product of the components that matter at a surveyed place; return if they are three.

    Where long components cross in pairs, at the corners of a small triangle, the highest point may be inside it.
    """
    cdef Py_ssize_t k, count = 0
    cdef const View *w
    cdef double least = 0.0, s00 = 0.0, s01 = 0.0, s11 = 0.0, b0 = 0.0, b1 = 0.0, determinant
    for k in range(s.m):
        least = s.terms[k] if s.terms[k] > least else least
    least *= SHARE
    for k in range(s.m):
        if s.terms[k] < least:
            continue
        w = s.views + k
        count += 1
        s00 += w.a00 * w.a00 + w.a10 * w.a10
        s01 += w.a10 * w.a11
        s11 += w.a11 * w.a11
        b0 -= w.a00 * w.c0 + w.a10 * w.c1
        b1 -= w.a11 * w.c1
    determinant = s00 * s11 - s01 * s01
    if count < 3 or not determinant > 0.0:
        return False
    p.y0 = (s11 * b0 - s01 * b1) / determinant
    p.y1 = (s00 * b1 - s01 * b0) / determinant
    return True


cdef inline bint is_visited(const Search *s, const Component *origin, const Place *p) noexcept nogil:
    """Whether a climb began nearby, in standard deviations of what matters here; if not, store the place."""
    cdef Py_ssize_t count = <Py_ssize_t> s.count[0], i
    cdef double y0, y1
    for i in range(count):
        y0 = bivariate.standardised(s.visited[2 * i] - origin.mean0, origin.inverse0, 0.0)
        y1 = bivariate.standardised(s.visited[2 * i + 1] - origin.mean1, origin.inverse1, 0.0)
        y1 = bivariate.scaled_decorrelated(y1, y0, origin.t, origin.kappa, origin.cross) - p.y1
        y0 -= p.y0
        if p.s00 * (y0 * y0) + 2.0 * p.s01 * (y0 * y1) + p.s11 * (y1 * y1) < SAME:
            return True
    if count < s.m:
        s.visited[2 * count], s.visited[2 * count + 1] = x0_of(p, origin), x1_of(p, origin)
        s.count[0] = <double> (count + 1)
    return False


cdef inline void climb_if_high(
    const Search *s, const Component *origin, Place *p, double *highest, double *x
) noexcept nogil:
    if p.value > highest[0] - bivariate.LOG_TWO and not is_visited(s, origin, p):
        climb(s, p)
        keep_higher(p, origin, highest, x)


cdef inline bint stands_low(const Search *s, Py_ssize_t j, Py_ssize_t k, const Place *p, double highest) noexcept nogil:
    """Whether neither of two components can be the largest term at their meeting point, if that is high enough.

    If other components make the meeting point high, these meet there too.
    """
    cdef const View *w = s.views + k
    cdef double e0 = w.a00 * p.y0 + w.c0, e1 = (w.a10 * p.y0 + w.a11 * p.y1) + w.c1
    cdef double own = s.heights[j] - bivariate.half_distance(p.y0, p.y1)
    cdef double other = s.heights[k] - bivariate.half_distance(e0, e1)
    return (own if own > other else other) + s.log_double < highest


cdef inline void find_mode(
    const Search *s, Py_ssize_t first, Py_ssize_t last, double *highest, double *x
) noexcept nogil:
    """Continue from some starts: 0 to m - 1 are means, m to 2 m - 1 the meeting points of a component with later ones.

    Climb from all means; then from the meeting points that are at least half as high as the highest maximum so far:
    where two long components cross, the highest maximum can be at the crossing, while each mean is below a lower one.
    Climb from the common meeting point of all components that matter at a meeting point, too.
    """
    cdef Place p, q
    cdef bint gathered
    cdef Py_ssize_t start, j, k
    for start in range(first, last):
        j = start % s.m
        for k in range(s.m):
            s.views[k] = view_of(s.components + k, s.components + j)
        if start < s.m:
            p.y0 = p.y1 = 0.0
            survey(s, &p)
            climb(s, &p)
            keep_higher(&p, s.components + j, highest, x)
            continue
        for k in range(j + 1, s.m):
            meet(s.views + k, &p)
            if stands_low(s, j, k, &p, highest[0]):
                continue
            survey(s, &p)
            gathered = gather(s, &q)
            climb_if_high(s, s.components + j, &p, highest, x)
            if gathered:
                survey(s, &q)
                climb_if_high(s, s.components + j, &q, highest, x)
