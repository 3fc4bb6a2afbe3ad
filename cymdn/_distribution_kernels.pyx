"""The doors to sampling, modes, fits and one-dimensional mixtures. They have the rules of _kernels.pyx.

There is one build for all CPUs: most of these loops branch on sampled or found values, and cannot become vector code.
"""

from cpython.buffer cimport PyBUF_WRITABLE
from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from libc.string cimport memset

from cymdn cimport _arithmetic
from cymdn cimport _elementary as elementary
from cymdn cimport _normal
from cymdn._buffers cimport Buffers, hold, hold_each, release
from cymdn._columns cimport Column
from cymdn._component cimport Component, component
from cymdn._draws cimport Draws, draw_row
from cymdn._expectation cimport PART, Gaussian, Model, Moments, Points, Worth, expect, inspect, maximise
from cymdn._modes cimport Search, View, find_mode, height_of

cpdef enum:
    DRAW_PLANES = 12  # cumulative weights, and components of 11 numbers
    MODE_PLANES = 21  # components, views of 5, heights, terms, points visited and their number
    FIT_PLANES = PART  # terms


cdef void draw_rows(const Draws *d, const Column *rows, const Column *x, const Column *pen) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(d.rows):
        if rows.single:
            draw_row(
                d, i, <const float *> rows.first + i * rows.row, <float *> x.first + 2 * i,
                <float *> pen.first + d.pens * i,
            )
        else:
            draw_row(
                d, i, <const double *> rows.first + i * rows.row, <double *> x.first + 2 * i,
                <double *> pen.first + d.pens * i,
            )


def draw(
    Py_ssize_t s, Py_ssize_t n, Py_ssize_t m,
    parameters,              # (n, pens + 6 m)
    Py_ssize_t pens,         # 0, 1 or 3
    bint unconstrained,
    double sharpness,        # factor of the mixture logits
    double pen_sharpness,    # factor of the pen logits
    double log_scale,        # added to logarithms of standard deviations
    uniform,                 # (s, n, 1, or 2 with a pen), float64, in [0, 1)
    normal,                  # (s, n, 2), float64
    scratch,                 # (DRAW_PLANES, m), float64
    x_out,                   # (s, n, 2)
    pen_out,                 # (s, n, pens), None without a pen
    component_out,           # (s, n), int64
):
    """Draw points, pens and components from each row of parameters, s times; return whether the arrays fit."""
    cdef Draws d
    cdef Buffers held
    cdef Column rows, uniforms, normals, memory, x, pen, chosen
    cdef _arithmetic.arithmetic before
    held.count = 0
    held.fit = s > 0 and n > 0 and m > 0 and (pens == 0 or pens == 1 or pens == 3)
    try:
        memset(&pen, 0, sizeof(pen))
        held.itemsize = parameters.itemsize
        hold_each(&held, parameters, held.itemsize, n, pens + 6 * m, 0, &rows)
        hold_each(&held, uniform, sizeof(double), s, n, 2 if pens else 1, &uniforms)
        hold_each(&held, normal, sizeof(double), s, n, 2, &normals)
        hold(&held, scratch, sizeof(double), PyBUF_WRITABLE, DRAW_PLANES, m, 0, &memory)
        hold(&held, x_out, held.itemsize, PyBUF_WRITABLE, s, n, 2, &x)
        if pens:
            hold(&held, pen_out, held.itemsize, PyBUF_WRITABLE, s, n, pens, &pen)
        hold(&held, component_out, sizeof(int64_t), PyBUF_WRITABLE, s, n, 0, &chosen)
        if not held.fit:
            return False
        rows.row = pens + 6 * m
        d.count, d.rows, d.m, d.pens, d.unconstrained = s, n, m, pens, unconstrained
        d.sharpness, d.pen_sharpness, d.log_scale = sharpness, pen_sharpness, log_scale
        d.uniform, d.normal = <const double *> uniforms.first, <const double *> normals.first
        d.component = <int64_t *> chosen.first
        d.cumulative = <double *> memory.first
        d.components = <Component *> (d.cumulative + m)
        with nogil:
            before = _arithmetic.use_ieee_arithmetic()
            draw_rows(&d, &rows, &x, &pen)
            _arithmetic.restore_arithmetic(before)
        return True
    finally:
        release(&held)


cdef void prepare_search(const double *parameters, bint unconstrained, Search *s) noexcept nogil:
    cdef Py_ssize_t j
    cdef double largest = parameters[0]
    for j in range(s.m):
        largest = parameters[j] if parameters[j] > largest else largest
    s.log_double = elementary.log(2.0 * <double> s.m)
    for j in range(s.m):
        s.components[j] = component(parameters, s.m, j, unconstrained, 0.0)
        s.heights[j] = height_of(parameters, s.m, j, unconstrained, largest, s.components + j)


def modes(
    parameters,          # (n, 6 m), float64, as are all
    bint unconstrained,
    Py_ssize_t first,    # of the 2 m starts of a mixture; 0 begins a search
    Py_ssize_t last,
    scratch,             # (MODE_PLANES, m)
    highest_out,         # (n,): the highest log-density found so far, up to a constant
    mode_out,            # (n, 2): its point
):
    """Find the point of highest density of each row's mixture; the first mean if no density is above 0.

    A call continues from the contents of `highest_out` and `mode_out`, so that a long search can be interrupted.
    """
    cdef Py_ssize_t n = parameters.shape[0], m = parameters.shape[1] // 6, i
    cdef Search s
    cdef Buffers held
    cdef Column rows, memory, highest, point
    cdef double *x
    cdef _arithmetic.arithmetic before
    held.count = 0
    held.fit = n > 0 and m > 0
    try:
        hold_each(&held, parameters, sizeof(double), n, 6 * m, 0, &rows)
        hold(&held, scratch, sizeof(double), PyBUF_WRITABLE, MODE_PLANES, m, 0, &memory)
        hold(&held, highest_out, sizeof(double), PyBUF_WRITABLE, n, 0, 0, &highest)
        hold(&held, mode_out, sizeof(double), PyBUF_WRITABLE, n, 2, 0, &point)
        if not held.fit:
            return False
        s.m = m
        s.components = <Component *> memory.first
        s.views = <View *> (<double *> memory.first + 11 * m)
        s.heights = <double *> memory.first + 16 * m
        s.terms = s.heights + m
        s.visited = s.terms + m
        s.count = s.visited + 2 * m
        with nogil:
            before = _arithmetic.use_ieee_arithmetic()
            for i in range(n):
                prepare_search(<const double *> rows.first + 6 * m * i, unconstrained, &s)
                x = <double *> point.first + 2 * i
                if first == 0:
                    s.count[0] = 0.0
                    (<double *> highest.first)[i] = -INFINITY
                    x[0], x[1] = s.components[0].mean0, s.components[0].mean1
                find_mode(&s, first, last, <double *> highest.first + i, x)
            _arithmetic.restore_arithmetic(before)
        return True
    finally:
        release(&held)


# Fits: common arguments
#     planes       (3, n): coordinates 0, coordinates 1, weights; sorted by the known coordinates
#     both, first  index of the first point with the first coordinate alone, and of the first with the second alone
#     estimate     (6 m + 1,): weight, mean and Cholesky factor of each component, weight of the background
#     settings     (5,): floors; log-densities of the background for both coordinates, the first, the second
#     scratch      (FIT_PLANES, m)
#     sums         (6 m + 2,): moments of each component, mass of the background, log-likelihood


cdef int hold_model(Buffers *held, Py_ssize_t m, int covariance_type, settings, Model *model) except -1:
    cdef Column numbers
    cdef const double *first
    cdef int k
    hold_each(held, settings, sizeof(double), 5, 0, 0, &numbers)
    model.m, model.covariance_type = m, covariance_type
    if held.fit:
        first = <const double *> numbers.first
        model.floor0, model.floor1 = first[0], first[1]
        for k in range(3):
            model.log_uniform[k] = first[2 + k]
    return 0


cdef int hold_points(Buffers *held, planes, Py_ssize_t both, Py_ssize_t first, Points *points) except -1:
    cdef Column numbers
    cdef Py_ssize_t n = planes.shape[1]
    hold_each(held, planes, sizeof(double), 3, n, 0, &numbers)
    held.fit = held.fit and n > 0 and 0 <= both <= first <= n
    points.x = <const double *> numbers.first
    points.y, points.weight = points.x + n, points.x + 2 * n
    points.both, points.first, points.count = both, first, n
    return 0


cdef int hold_fit(
    Buffers *held, planes, Py_ssize_t both, Py_ssize_t first, int covariance_type, settings, estimate, int flags,
    scratch, Points *points, Model *model, Column *parameters, Column *memory,
) except -1:
    """Hold the arguments of all doors except the M step; `flags` are those of the estimate."""
    cdef Py_ssize_t m = scratch.shape[1]
    held.fit = m > 0
    hold_model(held, m, covariance_type, settings, model)
    hold_points(held, planes, both, first, points)
    hold(held, estimate, sizeof(double), flags, 6 * m + 1, 0, 0, parameters)
    hold(held, scratch, sizeof(double), PyBUF_WRITABLE, FIT_PLANES, m, 0, memory)
    held.fit = held.fit and parameters.row > 0
    return 0


def expect_moments(
    planes, Py_ssize_t both, Py_ssize_t first, int covariance_type, settings, estimate, scratch,
    Py_ssize_t begin, Py_ssize_t end,   # range of points
    sums_out,
):
    """The E step."""
    cdef Py_ssize_t m = scratch.shape[1]
    cdef Buffers held
    cdef Column parameters, memory, sums
    cdef Model model
    cdef Points points
    cdef _arithmetic.arithmetic before
    held.count = 0
    try:
        hold_fit(
            &held, planes, both, first, covariance_type, settings, estimate, 0, scratch,
            &points, &model, &parameters, &memory,
        )
        hold(&held, sums_out, sizeof(double), PyBUF_WRITABLE, 6 * m + 2, 0, 0, &sums)
        if not (held.fit and 0 <= begin <= end <= points.count):
            return False
        with nogil:
            before = _arithmetic.use_ieee_arithmetic()
            expect(
                &points, begin, end, <const Gaussian *> parameters.first, &model, <double *> memory.first,
                <Moments *> sums.first, <double *> sums.first + 6 * m,
            )
            _arithmetic.restore_arithmetic(before)
        return True
    finally:
        release(&held)


def maximise_moments(sums, int covariance_type, settings, estimate):
    """The M step, in place."""
    cdef Py_ssize_t m = estimate.shape[0] // 6
    cdef Buffers held
    cdef Column parameters, moments
    cdef Model model
    cdef _arithmetic.arithmetic before
    held.count = 0
    held.fit = m > 0
    try:
        hold_model(&held, m, covariance_type, settings, &model)
        hold_each(&held, sums, sizeof(double), 6 * m + 2, 0, 0, &moments)
        hold(&held, estimate, sizeof(double), PyBUF_WRITABLE, 6 * m + 1, 0, 0, &parameters)
        if not held.fit:
            return False
        before = _arithmetic.use_ieee_arithmetic()
        maximise(
            <const Moments *> moments.first, <const double *> moments.first + 6 * m, &model,
            <Gaussian *> parameters.first,
        )
        _arithmetic.restore_arithmetic(before)
        return True
    finally:
        release(&held)


cdef void climb_steps(
    const Points *points, Gaussian *g, const Model *model, double *terms, Moments *sums, double *rest,
    Py_ssize_t steps, double gain, double last,
) noexcept nogil:
    while True:
        expect(points, 0, points.count, g, model, terms, sums, rest)
        steps -= 1
        if steps <= 0 or rest[1] - last < gain:
            return
        last = rest[1]
        maximise(sums, rest, model, g)


def climb(
    planes, Py_ssize_t both, Py_ssize_t first, int covariance_type, settings, estimate, scratch,
    Py_ssize_t steps,   # at most
    double gain,        # of log-likelihood: a step that gains less is the last one
    double last,        # log-likelihood before the call
    sums_out,           # of the final estimate
):
    """Steps of expectation-maximisation, in place."""
    cdef Py_ssize_t m = scratch.shape[1]
    cdef Buffers held
    cdef Column parameters, memory, sums
    cdef Model model
    cdef Points points
    cdef _arithmetic.arithmetic before
    held.count = 0
    try:
        hold_fit(
            &held, planes, both, first, covariance_type, settings, estimate, PyBUF_WRITABLE, scratch,
            &points, &model, &parameters, &memory,
        )
        hold(&held, sums_out, sizeof(double), PyBUF_WRITABLE, 6 * m + 2, 0, 0, &sums)
        if not held.fit:
            return False
        with nogil:
            before = _arithmetic.use_ieee_arithmetic()
            climb_steps(
                &points, <Gaussian *> parameters.first, &model, <double *> memory.first, <Moments *> sums.first,
                <double *> sums.first + 6 * m, steps, gain, last,
            )
            _arithmetic.restore_arithmetic(before)
        return True
    finally:
        release(&held)


def inspect_components(
    planes, Py_ssize_t both, Py_ssize_t first, int covariance_type, settings, estimate, scratch,
    worth_out,   # (m, 7): see Worth
):
    """For each component, the drop of the log-likelihood without it, and its fourth moments."""
    cdef Py_ssize_t m = scratch.shape[1]
    cdef Buffers held
    cdef Column parameters, memory, worth
    cdef Model model
    cdef Points points
    cdef _arithmetic.arithmetic before
    held.count = 0
    try:
        hold_fit(
            &held, planes, both, first, covariance_type, settings, estimate, 0, scratch,
            &points, &model, &parameters, &memory,
        )
        hold(&held, worth_out, sizeof(double), PyBUF_WRITABLE, m, 7, 0, &worth)
        if not held.fit:
            return False
        with nogil:
            before = _arithmetic.use_ieee_arithmetic()
            inspect(
                &points, <const Gaussian *> parameters.first, &model, <double *> memory.first, <Worth *> worth.first
            )
            _arithmetic.restore_arithmetic(before)
        return True
    finally:
        release(&held)


# Arithmetic around kernels


def call_in_ieee_arithmetic(function, tuple arguments, dict keywords):
    """Call a Python function with the thread in IEEE mode: denormal numbers are kept, rounding is to nearest.

    The mode of the thread is restored even if Ctrl-C interrupts the call.
    """
    cdef _arithmetic.arithmetic before = _arithmetic.use_ieee_arithmetic()
    try:
        return function(*arguments, **keywords)
    finally:
        _arithmetic.restore_arithmetic(before)


# One-dimensional mixtures ("lines"): a row (3 m) has logarithms of weights, means, logarithms of standard deviations.
# These doors have the arguments that run_over_batch passes to any kernel. All arrays are float64.

ctypedef double (*of_line)(
    const double *line, Py_ssize_t m, double first, double second, bint logarithm
) noexcept nogil


cdef bint evaluate(
    of_line f, Py_ssize_t n, Py_ssize_t m, first, second, lines, out, bint logarithm
) except -1:
    """Write f of each of n lines and of two numbers."""
    cdef Py_ssize_t i
    cdef Buffers held
    cdef Column firsts, seconds, rows, values
    cdef _arithmetic.arithmetic before
    held.count = 0
    held.fit = m > 0
    try:
        hold(&held, first, sizeof(double), 0, n, 0, 0, &firsts)
        hold(&held, second, sizeof(double), 0, n, 0, 0, &seconds)
        hold(&held, lines, sizeof(double), 0, n, 3 * m, 0, &rows)
        hold(&held, out, sizeof(double), PyBUF_WRITABLE, n, 0, 0, &values)
        if not held.fit:
            return False
        with nogil:
            before = _arithmetic.use_ieee_arithmetic()
            for i in range(n):
                (<double *> values.first)[i] = f(
                    <const double *> rows.first + i * rows.row, m, (<const double *> firsts.first)[i * firsts.row],
                    (<const double *> seconds.first)[i * seconds.row], logarithm,
                )
            _arithmetic.restore_arithmetic(before)
        return True
    finally:
        release(&held)


cdef double quantile(const double *line, Py_ssize_t m, double p, double same, bint logarithm) noexcept nogil:
    return _normal.quantile(line, m, p)


def intervals(Py_ssize_t n, Py_ssize_t m, lower, upper, lines, scratch, out, bint logarithm):
    """Probabilities of intervals, or their logarithms."""
    return evaluate(_normal.probability, n, m, lower, upper, lines, out, logarithm)


def quantiles(Py_ssize_t n, Py_ssize_t m, p, lines, scratch, out):
    """Points below which the probability is p."""
    return evaluate(quantile, n, m, p, p, lines, out, False)
