"""The E step and the M step of expectation-maximisation (Dempster, Laird & Rubin, J. R. Stat. Soc. B 39, 1977).

Symbols
    g             a component: weight w, mean m, Cholesky factor of its covariance matrix, C = L L',
                  L = [[l00, 0], [l10, l11]]
    u, k          a point in the component's own coordinates, L^-1 (x - m): u = (x0 - m0) / l00,
                  k = (x1 - m1 - (l10 / l00)(x0 - m0)) / l11
    f             the floor: each point is taken to have an error from N(0, F), F = diag(f0^2, f1^2)
    density       exp of the expected log-density of such a point,
                  w exp(-(u^2 + k^2) / 2) / (2 pi l00 l11) exp(-t / 2), t = trace(C^-1 F)
    share         the posterior probability of a component, times the point's weight
    moments       sums over points of share times (1, u, k, u^2, u k, k^2): all that the M step needs

E step: likelihood and moments. M step, from the mean W of (u, k)(u, k)' about its own mean: C <- L W L' + F, which
maximises the expected log-density. With W = [[a^2, a b], [a b, b^2 + c^2]], L W L' has the Cholesky factor p = l00 a,
q = l10 a + l11 b, s = l11 c, and C

    l00^2 = p^2 + f0^2,    l10 = p q / l00,    l11^2 = s^2 + f1^2 + (f0 q / l00)^2

Moments in the component's own coordinates keep their digits, however small, far away or narrow it is. Nothing cancels
in the last line: the determinant l00^2 l11^2 is exact up to rounding, where C00 C11 - C01^2 may cancel completely.

A point with a missing coordinate has the marginal density of the other one. With z its standardised offset and d
the direction of that coordinate in (u, k), E (u, k) = z d and E (u, k)(u, k)' = z^2 d d' + (1 - d d'): its moments
follow from the sums of share (1, z, z^2).
"""

from libc.math cimport sqrt
from libc.string cimport memset

from cymdn cimport _elementary as elementary
from cymdn._columns cimport double_in, double_out

cdef extern from *:
    """
    #define CYMDN_LOG_2_PI 1.8378770664093456 /* log(2 pi), correctly rounded */
    #define CYMDN_NEVER -1.7976931348623157e308
    #define CYMDN_LEAST_REST 1e-3 /* of the other components' share: a point adds at most 7 nats to `lost` */
    """
    const double LOG_2_PI "CYMDN_LOG_2_PI"
    const double NEVER "CYMDN_NEVER"  # log-densities are above it
    const double LEAST_REST "CYMDN_LEAST_REST"

cdef enum:
    PART = 128     # points whose terms are held at once
    CHAINS = 4     # partial sums of each sum: it becomes vector code, in the same order on every processor

cdef enum:
    BOTH = 0       # which coordinates of a point are known
    FIRST = 1
    SECOND = 2

cdef enum:
    FULL = 0       # types of covariance matrices; _points.py has the same numbers
    DIAGONAL = 1
    TIED = 2       # the same for all components
    SPHERICAL = 3
    KNOWN = 4

cdef struct Gaussian:
    double weight
    double mean0
    double mean1
    double l00
    double l10
    double l11

cdef struct Moments:
    double mass
    double u
    double k
    double uu
    double uk
    double kk

cdef struct Model:
    int covariance_type
    Py_ssize_t m
    double floor0
    double floor1
    double[3] log_uniform   # log-density of the background, by the known coordinates

cdef struct Points:
    # sorted by their known coordinates: both, the first alone, the second alone
    const double *x
    const double *y
    const double *weight
    Py_ssize_t both         # index of the first point with the first coordinate alone
    Py_ssize_t first        # of the first point with the second alone
    Py_ssize_t count

cdef struct Part:
    # some points, padded with copies of weight 0 to a multiple of CHAINS
    Py_ssize_t count
    double[PART] x
    double[PART] y
    double[PART] weight
    double[PART] top        # largest log-density of a component, then that of the mixture
    double[PART] total
    double[PART] term       # of the background


cdef inline double squared(double x) noexcept nogil:
    return x * x


cdef inline double log_height(const Gaussian *g, const Model *model) noexcept nogil:
    # log (w exp(-t / 2))
    cdef double trace = squared(model.floor0 / g.l00) + squared(model.floor1 / g.l11)
    trace += squared(model.floor0 * (g.l10 / g.l00) / g.l11)
    return elementary.log(g.weight) - 0.5 * trace


# ---------------------------------------------------------------- loops over the points of a part

cdef inline void log_terms_both(
    const Gaussian *g, double height, Py_ssize_t count, double_in x, double_in y, double_out terms_out
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double inverse0 = 1.0 / g.l00, inverse1 = 1.0 / g.l11, slope = g.l10 / g.l00, dx, u, k
    cdef double top = height - LOG_2_PI - elementary.log(g.l00) - elementary.log(g.l11)
    for i in range(count):
        dx = x[i] - g.mean0
        u = dx * inverse0
        k = ((y[i] - g.mean1) - slope * dx) * inverse1
        terms_out[i] = top - 0.5 * (u * u + k * k)


cdef inline void log_terms_one(
    double mean, double stddev, double height, Py_ssize_t count, double_in x, double_out terms_out
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double inverse = 1.0 / stddev, z, top = height - 0.5 * LOG_2_PI - elementary.log(stddev)
    for i in range(count):
        z = (x[i] - mean) * inverse
        terms_out[i] = top - 0.5 * (z * z)


cdef inline void raise_top(Py_ssize_t count, double_in terms, double_out top_out) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        top_out[i] = terms[i] if terms[i] > top_out[i] else top_out[i]


cdef inline void exponentiate(Py_ssize_t count, double_in top, double_out terms, double_out total) noexcept nogil:
    # both in place
    cdef Py_ssize_t i
    for i in range(count):
        terms[i] = elementary.exp_flushed(terms[i] - top[i])
        total[i] += terms[i]


cdef inline void share_out(Py_ssize_t count, double_in weight, double_out total, double_out top) noexcept nogil:
    # in place: total becomes the factor that turns terms into shares, top the log-density
    cdef Py_ssize_t i
    for i in range(count):
        top[i] += elementary.log(total[i])
        total[i] = weight[i] / total[i]


cdef inline double weighted_sum(Py_ssize_t count, double_in weight, double_in values) noexcept nogil:
    cdef Py_ssize_t i, c
    cdef double[CHAINS] sums
    for c in range(CHAINS):
        sums[c] = 0.0
    for i in range(count // CHAINS):
        for c in range(CHAINS):
            sums[c] += weight[CHAINS * i + c] * values[CHAINS * i + c]
    return (sums[0] + sums[2]) + (sums[1] + sums[3])


cdef inline void add_both(
    const Gaussian *g, Py_ssize_t count, double_in x, double_in y, double_in factor, double_in terms, Moments *sums
) noexcept nogil:
    cdef Py_ssize_t i, c
    cdef double inverse0 = 1.0 / g.l00, inverse1 = 1.0 / g.l11, slope = g.l10 / g.l00, dx, u, k, share
    cdef double[CHAINS] mass, su, sk, suu, suk, skk
    for c in range(CHAINS):
        mass[c] = su[c] = sk[c] = suu[c] = suk[c] = skk[c] = 0.0
    for i in range(count // CHAINS):
        for c in range(CHAINS):
            dx = x[CHAINS * i + c] - g.mean0
            u = dx * inverse0
            k = ((y[CHAINS * i + c] - g.mean1) - slope * dx) * inverse1
            share = terms[CHAINS * i + c] * factor[CHAINS * i + c]
            mass[c] += share
            su[c] += share * u
            sk[c] += share * k
            suu[c] += share * u * u
            suk[c] += share * u * k
            skk[c] += share * k * k
    sums.mass += (mass[0] + mass[2]) + (mass[1] + mass[3])
    sums.u += (su[0] + su[2]) + (su[1] + su[3])
    sums.k += (sk[0] + sk[2]) + (sk[1] + sk[3])
    sums.uu += (suu[0] + suu[2]) + (suu[1] + suu[3])
    sums.uk += (suk[0] + suk[2]) + (suk[1] + suk[3])
    sums.kk += (skk[0] + skk[2]) + (skk[1] + skk[3])


cdef inline void add_one(
    double mean, double stddev, double d0, double d1, Py_ssize_t count, double_in x, double_in factor, double_in terms,
    Moments *sums,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double inverse = 1.0 / stddev, z, share, mass = 0.0, sz = 0.0, szz = 0.0
    for i in range(count):
        z = (x[i] - mean) * inverse
        share = terms[i] * factor[i]
        mass += share
        sz += share * z
        szz += share * z * z
    sums.mass += mass
    sums.u += d0 * sz
    sums.k += d1 * sz
    sums.uu += d0 * d0 * szz + (1.0 - d0 * d0) * mass
    sums.uk += d0 * d1 * (szz - mass)
    sums.kk += d1 * d1 * szz + (1.0 - d1 * d1) * mass


# ---------------------------------------------------------------- the E step

cdef inline void read_part(
    const double *x, const double *y, const double *weight, Py_ssize_t count, Part *part
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        part.x[i], part.y[i], part.weight[i] = x[i], y[i], weight[i]
    part.count = count
    while part.count % CHAINS:
        part.x[part.count], part.y[part.count], part.weight[part.count] = x[0], y[0], 0.0
        part.count += 1


cdef inline void log_terms(const Gaussian *g, const Model *model, int known, Part *part, double *terms) noexcept nogil:
    cdef double height = log_height(g, model)
    if known == BOTH:
        log_terms_both(g, height, part.count, part.x, part.y, terms)
    elif known == FIRST:
        log_terms_one(g.mean0, g.l00, height, part.count, part.x, terms)
    else:
        log_terms_one(g.mean1, sqrt(squared(g.l10) + squared(g.l11)), height, part.count, part.y, terms)


cdef inline void add_moments(
    const Gaussian *g, int known, Part *part, const double *terms, Moments *sums
) noexcept nogil:
    cdef double stddev1
    if known == BOTH:
        add_both(g, part.count, part.x, part.y, part.total, terms, sums)
    elif known == FIRST:
        add_one(g.mean0, g.l00, 1.0, 0.0, part.count, part.x, part.total, terms, sums)
    else:
        stddev1 = sqrt(squared(g.l10) + squared(g.l11))
        add_one(
            g.mean1, stddev1, g.l10 / stddev1, g.l11 / stddev1, part.count, part.y, part.total, terms, sums
        )


cdef inline void evaluate_part(
    const Gaussian *g, const Model *model, int known, Part *part, double *terms
) noexcept nogil:
    """Write terms of the components, PART for each: shares are terms times `total`; `top` becomes the log-density."""
    cdef Py_ssize_t i, j
    cdef double background = (<const double *> (g + model.m))[0]  # stored after the components
    cdef double log_background = elementary.log(background) + model.log_uniform[known]
    for i in range(part.count):
        part.top[i] = NEVER
        part.total[i] = 0.0
        part.term[i] = log_background if background > 0.0 else 0.0
    for j in range(model.m):
        log_terms(g + j, model, known, part, terms + j * PART)
        raise_top(part.count, terms + j * PART, part.top)
    if background > 0.0:
        raise_top(part.count, part.term, part.top)
        exponentiate(part.count, part.top, part.term, part.total)
    for j in range(model.m):
        exponentiate(part.count, part.top, terms + j * PART, part.total)
    share_out(part.count, part.weight, part.total, part.top)


cdef inline Py_ssize_t next_part(
    const Points *points, Py_ssize_t i, Py_ssize_t last, int *known, Part *part
) noexcept nogil:
    """Read points from i on with the same known coordinates, at most a part; return where the next part begins."""
    cdef Py_ssize_t end = min(i + PART, last)
    known[0] = BOTH if i < points.both else FIRST if i < points.first else SECOND
    if known[0] == BOTH:
        end = min(end, points.both)
    elif known[0] == FIRST:
        end = min(end, points.first)
    read_part(points.x + i, points.y + i, points.weight + i, end - i, part)
    return end


cdef inline void expect(
    const Points *points, Py_ssize_t first, Py_ssize_t last, const Gaussian *g, const Model *model, double *terms,
    Moments *sums_out, double *rest_out,
) noexcept nogil:
    """Sum moments of the components over some points, the mass of the background and the log-likelihood."""
    cdef Py_ssize_t j
    cdef int known
    cdef Part part
    memset(sums_out, 0, <size_t> model.m * sizeof(Moments))
    rest_out[0] = rest_out[1] = 0.0
    while first < last:
        first = next_part(points, first, last, &known, &part)
        evaluate_part(g, model, known, &part, terms)
        for j in range(model.m):
            add_moments(g + j, known, &part, terms + j * PART, sums_out + j)
        rest_out[0] += weighted_sum(part.count, part.total, part.term)
        rest_out[1] += weighted_sum(part.count, part.weight, part.top)


cdef struct Worth:
    double lost     # drop of the log-likelihood without the component
    double mass     # of points with both coordinates
    double uuuu     # fourth moments of these
    double uuuk
    double uukk
    double ukkk
    double kkkk


cdef inline void add_worth(
    const Gaussian *g, const Part *part, bint both, const double *terms, Worth *worth
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double inverse0 = 1.0 / g.l00, inverse1 = 1.0 / g.l11, slope = g.l10 / g.l00, dx, u, k, share
    for i in range(part.count):
        share = part.total[i] * terms[i]
        if share > 0.0:  # then the weight is above 0, too
            worth.lost -= part.weight[i] * elementary.log(max(LEAST_REST, 1.0 - share / part.weight[i]))
            if both:
                dx = part.x[i] - g.mean0
                u = dx * inverse0
                k = ((part.y[i] - g.mean1) - slope * dx) * inverse1
                worth.mass += share
                worth.uuuu += share * squared(u * u)
                worth.uuuk += share * (u * u) * (u * k)
                worth.uukk += share * squared(u * k)
                worth.ukkk += share * (u * k) * (k * k)
                worth.kkkk += share * squared(k * k)


cdef inline void inspect(
    const Points *points, const Gaussian *g, const Model *model, double *terms, Worth *worth_out
) noexcept nogil:
    """For each component, the drop of the log-likelihood without it, and its fourth moments."""
    cdef Py_ssize_t j, first = 0
    cdef int known
    cdef Part part
    memset(worth_out, 0, <size_t> model.m * sizeof(Worth))
    while first < points.count:
        first = next_part(points, first, points.count, &known, &part)
        evaluate_part(g, model, known, &part, terms)
        for j in range(model.m):
            add_worth(g + j, &part, known == BOTH, terms + j * PART, worth_out + j)


# ---------------------------------------------------------------- the M step

cdef struct Spread:
    # the Cholesky factor of L W L': p, 0, q, s
    double p
    double q
    double s


cdef inline double nonnegative(double x) noexcept nogil:
    return x if x > 0.0 else 0.0


cdef inline Spread spread_of(const Gaussian *g, const Moments *sums) noexcept nogil:
    cdef Spread spread
    cdef double u = sums.u / sums.mass, k = sums.k / sums.mass
    cdef double a = sqrt(nonnegative(sums.uu / sums.mass - u * u))
    cdef double b = (sums.uk / sums.mass - u * k) / a if a > 0.0 else 0.0
    spread.p = g.l00 * a
    spread.q = g.l10 * a + g.l11 * b
    spread.s = g.l11 * sqrt(nonnegative(sums.kk / sums.mass - k * k - b * b))
    return spread


cdef inline void set_covariance(const Spread *spread, const Model *model, Gaussian *g) noexcept nogil:
    # of [[p^2, p q], [p q, q^2 + s^2]] plus the floor
    cdef double f0 = squared(model.floor0), f1 = squared(model.floor1), variance
    cdef double pp = squared(spread.p), qq = squared(spread.q), ss = squared(spread.s)
    if model.covariance_type == SPHERICAL:
        variance = 0.5 * ((pp + f0) + (qq + ss + f1))
        g.l00, g.l10, g.l11 = sqrt(variance), 0.0, sqrt(variance)
    elif model.covariance_type == DIAGONAL:
        g.l00, g.l10, g.l11 = sqrt(pp + f0), 0.0, sqrt(qq + ss + f1)
    else:
        g.l00 = sqrt(pp + f0)
        g.l10 = spread.p * spread.q / g.l00
        g.l11 = sqrt(ss + f1 + qq * (f0 / (pp + f0)))


cdef inline void tie(const Moments *sums, const Model *model, Gaussian *g) noexcept nogil:
    """Give all components the mean of their covariance matrices, weighted by mass; with the same L moments add up."""
    cdef Py_ssize_t j
    cdef Moments pooled
    cdef Gaussian shared = g[0]
    cdef Spread spread
    cdef double u, k
    pooled.mass = pooled.u = pooled.k = pooled.uu = pooled.uk = pooled.kk = 0.0
    for j in range(model.m):
        if sums[j].mass > 0.0:
            u, k = sums[j].u / sums[j].mass, sums[j].k / sums[j].mass
            pooled.mass += sums[j].mass
            pooled.uu += sums[j].uu - u * sums[j].u
            pooled.uk += sums[j].uk - u * sums[j].k
            pooled.kk += sums[j].kk - k * sums[j].k
    if pooled.mass > 0.0:
        spread = spread_of(&shared, &pooled)
        set_covariance(&spread, model, &shared)
    for j in range(model.m):
        g[j].l00, g[j].l10, g[j].l11 = shared.l00, shared.l10, shared.l11


cdef inline void maximise(
    const Moments *sums, const double *rest, const Model *model, Gaussian *g
) noexcept nogil:
    """Update the estimate by the moments, in place. A component without mass keeps all but its weight."""
    cdef Py_ssize_t j
    cdef Spread spread
    cdef double total = rest[0], u, k, l00, l10, l11
    for j in range(model.m):
        total += sums[j].mass
    (<double *> (g + model.m))[0] = rest[0] / total
    for j in range(model.m):
        g[j].weight = sums[j].mass / total
        if not sums[j].mass > 0.0:
            continue
        u, k = sums[j].u / sums[j].mass, sums[j].k / sums[j].mass
        l00, l10, l11 = g[j].l00, g[j].l10, g[j].l11
        if model.covariance_type != KNOWN and model.covariance_type != TIED:
            spread = spread_of(g + j, sums + j)
            set_covariance(&spread, model, g + j)
        g[j].mean0 += l00 * u
        g[j].mean1 += l10 * u + l11 * k
    if model.covariance_type == TIED:
        tie(sums, model, g)
