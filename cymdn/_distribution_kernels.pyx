"""Draws from mixtures, their modes, and the normal distribution function. The same rules as in _kernels.pyx.

One build serves every CPU: these loops branch on what was drawn or found, and would not become vector code.

Parameters are packed in the order of raw network output, after its pen logits: m each of weights or logits, means 0,
means 1, standard deviations 0 or their logarithms, the same 1, correlations or their inverse hyperbolic tangents;
natural, or unconstrained.
"""

from libc.math cimport erfc, sqrt
from libc.stdint cimport int64_t

from cymdn cimport _arithmetic
from cymdn cimport _bivariate as bivariate
from cymdn cimport _elementary as elementary

ctypedef fused real:
    float
    double

cdef extern from *:
    """
    typedef double *__restrict cymdn_double_out;
    #define CYMDN_SQRT_HALF 0.7071067811865476 /* sqrt(1/2), correctly rounded */
    """
    ctypedef double *double_out "cymdn_double_out"
    const double SQRT_HALF "CYMDN_SQRT_HALF"

cpdef enum:
    DRAW_PLANES = 12  # cumulative weights, and components of 11 numbers
    MODE_PLANES = 18  # components, views of 5, heights, terms


# One component of a row of packed parameters


cdef struct Component:
    double mean0
    double mean1
    double sigma0
    double sigma1
    double inverse0
    double inverse1
    double r
    double t          # r rounded to an integer
    double cross      # kappa (t - r)
    double kappa      # cosh a
    double decoupled  # 1 / kappa, sqrt(1 - r^2)


cdef inline void stay_finite(double *sigma, double *inverse, double log_sigma) noexcept nogil:
    cdef double limited = bivariate.bounded(log_sigma, bivariate.LARGEST_EXPONENT)
    sigma[0] = elementary.exp_normal(limited)
    inverse[0] = elementary.exp_normal(-limited)


cdef Component component(
    const real *parameters, Py_ssize_t m, Py_ssize_t j, bint unconstrained, double log_scale
) noexcept nogil:
    """Component j of a row; `log_scale` is added to logarithms of standard deviations."""
    cdef Component c
    cdef double a = parameters[5 * m + j], n, joint, d
    c.mean0 = parameters[m + j]
    c.mean1 = parameters[2 * m + j]
    if unconstrained:
        stay_finite(&c.sigma0, &c.inverse0, parameters[3 * m + j] + log_scale)
        stay_finite(&c.sigma1, &c.inverse1, parameters[4 * m + j] + log_scale)
        n = bivariate.decay(a)
        joint = bivariate.joint_inverse(n)
        c.kappa = bivariate.kappa_of_decay(n, joint)
        c.r = bivariate.correlation_of_decay(a, n, bivariate.one_less_decay(a), joint)
        c.t = bivariate.nearest_integer(c.r)
        c.cross = bivariate.cross_of_decay(c.r, c.t, n, c.kappa)
        c.decoupled = 2.0 * n / (1.0 + n * n)
    else:
        c.sigma0 = parameters[3 * m + j]
        c.sigma1 = parameters[4 * m + j]
        c.inverse0 = bivariate.inverse_stddev(c.sigma0)
        c.inverse1 = bivariate.inverse_stddev(c.sigma1)
        c.r = a
        c.t = bivariate.nearest_integer(a)
        d = c.t - a
        c.kappa = bivariate.kappa_of_correlation(a, c.t, d)
        c.cross = c.kappa * d
        c.decoupled = sqrt(bivariate.one_minus_square(a, c.t, d))
    return c


# Draws


cdef void exponentiate(
    const real *logits, Py_ssize_t count, double sharpness, double largest, double_out terms_out
) noexcept nogil:
    # the difference first: sharpness * inf - sharpness * inf is a NaN
    cdef Py_ssize_t j
    for j in range(count):
        terms_out[j] = elementary.exp_flushed(sharpness * (logits[j] - largest))


cdef void accumulate(Py_ssize_t count, double *terms) noexcept nogil:
    # in place
    cdef Py_ssize_t j
    for j in range(1, count):
        terms[j] += terms[j - 1]


cdef void accumulate_softmax(
    const real *logits, Py_ssize_t count, double sharpness, double *cumulative_out
) noexcept nogil:
    cdef Py_ssize_t j
    cdef double largest = logits[0]
    for j in range(1, count):
        largest = logits[j] if logits[j] > largest else largest
    exponentiate(logits, count, sharpness, largest, cumulative_out)
    accumulate(count, cumulative_out)


cdef void accumulate_weights(const real *weights, Py_ssize_t count, double *cumulative_out) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(count):
        cumulative_out[j] = weights[j]
    accumulate(count, cumulative_out)


cdef Py_ssize_t choose(const double *cumulative, Py_ssize_t count, double uniform) noexcept nogil:
    """The first index whose cumulative weight exceeds the uniform number's share; -1 if the weights hold a NaN."""
    cdef Py_ssize_t j, chosen = 0
    cdef double total = cumulative[count - 1], target = uniform * total
    if total != total:
        return -1
    for j in range(count):  # counting, not searching: no branch to guess wrong
        chosen += cumulative[j] <= target
    if chosen == count:  # only a generator of somebody's own gives 1 and more
        chosen = 0
        for j in range(count):
            chosen += cumulative[j] < total
    return chosen


cdef void write_point(const Component *c, const double *normal, real *x_out) noexcept nogil:
    # the second coordinate given the first: no covariance matrix, hence none that is not positive definite
    x_out[0] = <real> (c.mean0 + c.sigma0 * normal[0])
    x_out[1] = <real> (c.mean1 + c.sigma1 * (c.r * normal[0] + c.decoupled * normal[1]))


cdef void write_pen(
    const real *logits, Py_ssize_t pens, double sharpness, double uniform, real *pen_out
) noexcept nogil:
    # the Bernoulli pen is the softmax of 0 and its logit: sigmoid(logit) is the chance of the second
    cdef double[3] cumulative
    cdef real[2] pair
    cdef Py_ssize_t k, states = max(<Py_ssize_t> 2, pens), chosen
    if pens == 1:
        pair[0] = 0.0
        pair[1] = logits[0]
        logits = pair
    accumulate_softmax(logits, states, sharpness, cumulative)
    chosen = choose(cumulative, states, uniform)
    for k in range(pens):
        pen_out[k] = <real> (bivariate.NAN if chosen < 0 else 1.0 if chosen == k + states - pens else 0.0)


cdef void draw_row(
    Py_ssize_t draws, Py_ssize_t step, Py_ssize_t m, Py_ssize_t pens, bint unconstrained, double sharpness,
    double pen_sharpness, double log_scale, const real *row, const double *uniform, const double *normal,
    double *cumulative, Component *components, real *x_out, real *pen_out, int64_t *component_out,
) noexcept nogil:
    """All draws from one row; `step` rows of the outputs lie between two of them."""
    cdef Py_ssize_t i, j, k, uniforms = 2 if pens else 1
    cdef bint prepared = draws > m  # else only what is drawn is worth preparing
    if unconstrained:
        accumulate_softmax(row + pens, m, sharpness, cumulative)
    else:
        accumulate_weights(row + pens, m, cumulative)
    if prepared:
        for j in range(m):
            components[j] = component(row + pens, m, j, unconstrained, log_scale)
    for i in range(draws):
        k = i * step
        j = choose(cumulative, m, uniform[k * uniforms])
        component_out[k] = j
        if j < 0:
            x_out[2 * k] = <real> bivariate.NAN
            x_out[2 * k + 1] = <real> bivariate.NAN
        else:
            if not prepared:
                components[j] = component(row + pens, m, j, unconstrained, log_scale)
            write_point(components + j, normal + 2 * k, x_out + 2 * k)
        if pens:
            write_pen(row, pens, pen_sharpness, uniform[2 * k + 1], pen_out + k * pens)


def draw(
    const real[:, ::1] parameters not None,    # (n, pens + 6 m)
    Py_ssize_t pens,                           # 0, 1 or 3
    bint unconstrained,
    double sharpness,                          # factor of the mixture logits
    double pen_sharpness,                      # factor of the pen logits
    double log_scale,                          # added to logarithms of standard deviations
    const double[:, :, ::1] uniform not None,  # (s, n, 1, or 2 with a pen), in [0, 1)
    const double[:, :, ::1] normal not None,   # (s, n, 2)
    double[:, ::1] scratch not None,           # (DRAW_PLANES, m)
    real[:, :, ::1] x_out not None,            # (s, n, 2), not empty
    real[:, :, ::1] pen_out,                   # (s, n, pens), None without a pen
    int64_t[:, ::1] component_out not None,    # (s, n)
):
    """Points, pens and components drawn from each row of parameters, s times."""
    cdef Py_ssize_t draws = x_out.shape[0], n = x_out.shape[1], m = (parameters.shape[1] - pens) // 6, i
    cdef double *cumulative = &scratch[0, 0]
    cdef Component *components = <Component *> &scratch[1, 0]
    cdef real *pen = NULL
    cdef _arithmetic.arithmetic before
    with nogil:
        before = _arithmetic.use_ieee_arithmetic()
        for i in range(n):
            if pens:
                pen = &pen_out[0, i, 0]
            draw_row(
                draws, n, m, pens, unconstrained, sharpness, pen_sharpness, log_scale, &parameters[i, 0],
                &uniform[0, i, 0], &normal[0, i, 0], cumulative, components,
                &x_out[0, i, 0], pen, &component_out[0, i],
            )
        _arithmetic.restore_arithmetic(before)


# Modes. A maximum is looked for in the coordinates y of one component, x = mean + L y, L L^T its covariance: there that
# component is round, however nearly singular it is in x, and any other one is Q = |A y + c|^2, A lower triangular.


cdef struct View:
    double a00
    double a10
    double a11
    double c0
    double c1

cdef struct Place:
    double y0
    double y1
    double value      # log-density, up to a constant
    double g0         # its gradient
    double g1
    double h00        # its Hessian
    double h01
    double h11
    double s00        # mean of A^T A, each component weighed by its responsibility
    double s01
    double s11

cdef extern from *:
    """
    #define CYMDN_LARGEST_RATIO 1e100 /* so that products of two stay finite */
    #define CYMDN_MODE_STEPS 500      /* where two maxima merge, Newton's method gains a third a step: some 60 */
    #define CYMDN_MODE_NEAR 1e-8      /* square of a step so small that rounding hides whether it ascends */
    #define CYMDN_MODE_DONE 1e-26     /* square of the last step */
    """
    const double LARGEST_RATIO "CYMDN_LARGEST_RATIO"
    const int MODE_STEPS "CYMDN_MODE_STEPS"
    const double MODE_NEAR "CYMDN_MODE_NEAR"
    const double MODE_DONE "CYMDN_MODE_DONE"


cdef double height_of(
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


cdef View view_of(const Component *seen, const Component *origin) noexcept nogil:
    cdef View w
    cdef double ratio0 = bivariate.bounded(origin.sigma0 * seen.inverse0, LARGEST_RATIO)
    cdef double ratio1 = bivariate.bounded(origin.sigma1 * seen.inverse1, LARGEST_RATIO)
    cdef double kappa = bivariate.bounded(seen.kappa, LARGEST_RATIO)
    cdef double d = origin.cross * origin.decoupled  # t - r
    cdef double u = bivariate.standardised(origin.mean0 - seen.mean0, seen.inverse0)
    cdef double v = bivariate.standardised(origin.mean1 - seen.mean1, seen.inverse1)
    w.a00 = ratio0
    # kappa (ratio1 r - seen.r ratio0), as two nearly equal numbers only where r and seen.r are on either side of 1/2
    w.a10 = bivariate.bounded(
        kappa * (ratio1 * origin.t - seen.t * ratio0) + (seen.cross * ratio0 - kappa * ratio1 * d), LARGEST_RATIO
    )
    w.a11 = bivariate.bounded(kappa * origin.decoupled * ratio1, LARGEST_RATIO)
    w.c0 = bivariate.bounded(u, LARGEST_RATIO)
    w.c1 = bivariate.bounded(bivariate.scaled_decorrelated(v, u, seen.t, kappa, seen.cross), LARGEST_RATIO)
    return w


cdef void survey(
    Py_ssize_t m, const View *views, const double *heights, double *terms, Place *p
) noexcept nogil:
    """The log-density at a place, its gradient and Hessian."""
    cdef Py_ssize_t k
    cdef double e0, e1, b0, b1, g, top = -bivariate.DBL_MAX, total = 0.0
    for k in range(m):
        e0 = views[k].a00 * p.y0 + views[k].c0
        e1 = (views[k].a10 * p.y0 + views[k].a11 * p.y1) + views[k].c1
        terms[k] = heights[k] - bivariate.half_distance(e0, e1)
        top = terms[k] if terms[k] > top else top
    for k in range(m):
        terms[k] = elementary.exp_flushed(terms[k] - top)
        total += terms[k]
    p.value = top + elementary.log(total)
    p.g0 = p.g1 = p.h00 = p.h01 = p.h11 = p.s00 = p.s01 = p.s11 = 0.0
    for k in range(m):
        g = terms[k] / total
        if g == 0.0:  # of no influence here, and perhaps too far away for finite squares
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


cdef Place moved(const Place *p, double a00, double a01, double a11) noexcept nogil:
    """The place that solves A (y' - y) = gradient, A positive definite."""
    cdef Place q = p[0]
    cdef double determinant = a00 * a11 - a01 * a01
    q.y0 = p.y0 + (a11 * p.g0 - a01 * p.g1) / determinant
    q.y1 = p.y1 + (a00 * p.g1 - a01 * p.g0) / determinant
    return q


cdef void climb(Py_ssize_t m, const View *views, const double *heights, double *terms, Place *p) noexcept nogil:
    """Move a surveyed place to the maximum above it.

    By Newton's method where the log-density is concave and the step ascends; else by mean shift (Carreira-Perpinan,
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
        survey(m, views, heights, terms, &q)
        d0 = q.y0 - p.y0
        d1 = q.y1 - p.y1
        size = p.s00 * (d0 * d0) + 2.0 * p.s01 * (d0 * d1) + p.s11 * (d1 * d1)
        if newton and size > MODE_NEAR and not q.value > p.value:
            q = moved(p, p.s00, p.s01, p.s11)
            survey(m, views, heights, terms, &q)
            newton = False
        elif not (newton or q.value > p.value):  # no slope left that rounding does not hide
            return
        p[0] = q
        if newton and (size <= MODE_DONE or (size <= MODE_NEAR and size >= last)):
            return
        last = size


cdef void keep_higher(
    const Place *p, const Component *origin, double *highest, double *x0_out, double *x1_out
) noexcept nogil:
    if p.value > highest[0]:
        highest[0] = p.value
        x0_out[0] = origin.mean0 + origin.sigma0 * p.y0
        x1_out[0] = origin.mean1 + origin.sigma1 * (origin.r * p.y0 + origin.decoupled * p.y1)


cdef void meet(const View *w, Place *p) noexcept nogil:
    """Where the product of the density seen and of that at the origin is largest: (1 + A^T A) y = -A^T c."""
    cdef double s00 = 1.0 + (w.a00 * w.a00 + w.a10 * w.a10), s01 = w.a10 * w.a11, s11 = 1.0 + w.a11 * w.a11
    cdef double b0 = -(w.a00 * w.c0 + w.a10 * w.c1), b1 = -w.a11 * w.c1
    cdef double determinant = (1.0 + w.a00 * w.a00) * s11 + w.a10 * w.a10
    p.y0 = (s11 * b0 - s01 * b1) / determinant
    p.y1 = (s00 * b1 - s01 * b0) / determinant


cdef void find_mode(
    Py_ssize_t m, const double *parameters, bint unconstrained, Component *components, View *views, double *heights,
    double *terms, double *x0_out, double *x1_out,
) noexcept nogil:
    """The highest of the maxima above all means; then above the meeting points that are half as high already.

    Where two long components cross, the highest maximum can lie at the crossing, with each mean under a lower one.
    """
    cdef Place p
    cdef Py_ssize_t j, k
    cdef double largest = parameters[0], highest = -bivariate.INFINITY
    for j in range(m):
        largest = parameters[j] if parameters[j] > largest else largest
    for j in range(m):
        components[j] = component(parameters, m, j, unconstrained, 0.0)
        heights[j] = height_of(parameters, m, j, unconstrained, largest, components + j)
    x0_out[0] = components[0].mean0  # for sigmas so large that every height is -inf
    x1_out[0] = components[0].mean1
    for j in range(m):
        for k in range(m):
            views[k] = view_of(components + k, components + j)
        p.y0 = p.y1 = 0.0
        survey(m, views, heights, terms, &p)
        climb(m, views, heights, terms, &p)
        keep_higher(&p, components + j, &highest, x0_out, x1_out)
    for j in range(m):
        for k in range(m):
            views[k] = view_of(components + k, components + j)
        for k in range(j + 1, m):
            meet(views + k, &p)
            survey(m, views, heights, terms, &p)
            if p.value > highest - bivariate.LOG_TWO:
                climb(m, views, heights, terms, &p)
                keep_higher(&p, components + j, &highest, x0_out, x1_out)


def modes(
    const double[:, ::1] parameters not None,  # (n, 6 m)
    bint unconstrained,
    double[:, ::1] scratch not None,           # (MODE_PLANES, m)
    double[:, ::1] mode_out not None,          # (n, 2)
):
    """The point of highest density of each row's mixture; the first mean where no density is above 0."""
    cdef Py_ssize_t n = mode_out.shape[0], m = parameters.shape[1] // 6, i
    cdef Component *components = <Component *> &scratch[0, 0]
    cdef View *views = <View *> &scratch[11, 0]
    cdef double *heights = &scratch[16, 0]
    cdef double *terms = &scratch[17, 0]
    cdef _arithmetic.arithmetic before
    with nogil:
        before = _arithmetic.use_ieee_arithmetic()
        for i in range(n):
            find_mode(
                m, &parameters[i, 0], unconstrained, components, views, heights, terms,
                &mode_out[i, 0], &mode_out[i, 1],
            )
        _arithmetic.restore_arithmetic(before)


# One-dimensional mixtures


def normal_cdf(const double[::1] z not None, double[::1] cdf_out not None):
    """The standard normal distribution function, by the C library's erfc: right in the lower tail too."""
    cdef Py_ssize_t i
    cdef _arithmetic.arithmetic before
    with nogil:
        before = _arithmetic.use_ieee_arithmetic()
        for i in range(cdf_out.shape[0]):
            cdf_out[i] = 0.5 * erfc(-z[i] * SQRT_HALF)
        _arithmetic.restore_arithmetic(before)
