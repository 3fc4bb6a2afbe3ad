"""The doors to draws, modes and the normal distribution function. The same rules as in _kernels.pyx.

One build serves every CPU: these loops branch on what was drawn or found, and would not become vector code.
"""

from libc.math cimport INFINITY, erfc
from libc.stdint cimport int64_t

from cymdn cimport _arithmetic
from cymdn._component cimport Component, component, real
from cymdn._draws cimport Draws, draw_row
from cymdn._modes cimport Search, View, find_mode, height_of

cdef extern from *:
    """
    #define CYMDN_SQRT_HALF 0.7071067811865476 /* sqrt(1/2), correctly rounded */
    """
    const double SQRT_HALF "CYMDN_SQRT_HALF"

cpdef enum:
    DRAW_PLANES = 12  # cumulative weights, and components of 11 numbers
    MODE_PLANES = 18  # components, views of 5, heights, terms


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
    cdef Py_ssize_t n = x_out.shape[1], i
    cdef real *pen = NULL
    cdef Draws d
    cdef _arithmetic.arithmetic before
    d.count = x_out.shape[0]
    d.rows = n
    d.m = (parameters.shape[1] - pens) // 6
    d.pens = pens
    d.unconstrained = unconstrained
    d.sharpness = sharpness
    d.pen_sharpness = pen_sharpness
    d.log_scale = log_scale
    d.uniform = &uniform[0, 0, 0]
    d.normal = &normal[0, 0, 0]
    d.component = &component_out[0, 0]
    d.cumulative = &scratch[0, 0]
    d.components = <Component *> &scratch[1, 0]
    with nogil:
        before = _arithmetic.use_ieee_arithmetic()
        for i in range(n):
            if pens:
                pen = &pen_out[0, i, 0]
            draw_row(&d, i, &parameters[i, 0], &x_out[0, i, 0], pen)
        _arithmetic.restore_arithmetic(before)


cdef void prepare_search(const double *parameters, bint unconstrained, Search *s) noexcept nogil:
    cdef Py_ssize_t j
    cdef double largest = parameters[0]
    for j in range(s.m):
        largest = parameters[j] if parameters[j] > largest else largest
    for j in range(s.m):
        s.components[j] = component(parameters, s.m, j, unconstrained, 0.0)
        s.heights[j] = height_of(parameters, s.m, j, unconstrained, largest, s.components + j)


def modes(
    const double[:, ::1] parameters not None,  # (n, 6 m)
    bint unconstrained,
    Py_ssize_t first,                          # of the 2 m starts of a mixture; 0 begins
    Py_ssize_t last,
    double[:, ::1] scratch not None,           # (MODE_PLANES, m)
    double[::1] highest_out not None,          # (n,): the highest log-density found so far, up to a constant
    double[:, ::1] mode_out not None,          # (n, 2): its point
):
    """The point of highest density of each row's mixture; the first mean where no density is above 0.

    A call goes on with what `highest_out` and `mode_out` hold, so that a long search can be interrupted.
    """
    cdef Py_ssize_t i
    cdef Search s
    cdef _arithmetic.arithmetic before
    s.m = parameters.shape[1] // 6
    s.components = <Component *> &scratch[0, 0]
    s.views = <View *> &scratch[11, 0]
    s.heights = &scratch[16, 0]
    s.terms = &scratch[17, 0]
    with nogil:
        before = _arithmetic.use_ieee_arithmetic()
        for i in range(mode_out.shape[0]):
            prepare_search(&parameters[i, 0], unconstrained, &s)
            if first == 0:
                highest_out[i] = -INFINITY
                mode_out[i, 0] = s.components[0].mean0
                mode_out[i, 1] = s.components[0].mean1
            find_mode(&s, first, last, &highest_out[i], &mode_out[i, 0])
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
