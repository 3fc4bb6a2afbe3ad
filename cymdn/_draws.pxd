"""Random samples from one row of packed parameters, made of uniform and standard normal numbers."""

from libc.stdint cimport int64_t

from cymdn cimport _bivariate as bivariate
from cymdn cimport _elementary as elementary
from cymdn._columns cimport double_out, real
from cymdn._component cimport Component, component

cdef struct Draws:
    Py_ssize_t count        # samples from each row
    Py_ssize_t rows         # rows; one sample of each, then the next of each
    Py_ssize_t m
    Py_ssize_t pens
    bint unconstrained
    double sharpness        # factor of the mixture logits
    double pen_sharpness    # factor of the pen logits
    double log_scale        # added to logarithms of standard deviations
    const double *uniform
    const double *normal
    int64_t *component      # output
    double *cumulative      # scratch memory
    Component *components


cdef inline void exponentiate(
    const real *logits, Py_ssize_t count, double sharpness, double largest, double_out terms_out
) noexcept nogil:
    # the difference first: sharpness * inf - sharpness * inf is NaN
    cdef Py_ssize_t j
    for j in range(count):
        terms_out[j] = elementary.exp_flushed(sharpness * (logits[j] - largest))


cdef inline void accumulate(Py_ssize_t count, double *terms) noexcept nogil:
    # in place
    cdef Py_ssize_t j
    for j in range(1, count):
        terms[j] += terms[j - 1]


cdef inline void accumulate_softmax(
    const real *logits, Py_ssize_t count, double sharpness, double *cumulative_out
) noexcept nogil:
    cdef Py_ssize_t j
    cdef double largest = logits[0]
    for j in range(1, count):
        largest = logits[j] if logits[j] > largest else largest
    exponentiate(logits, count, sharpness, largest, cumulative_out)
    accumulate(count, cumulative_out)


cdef inline void accumulate_weights(const real *weights, Py_ssize_t count, double *cumulative_out) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(count):
        cumulative_out[j] = weights[j]
    accumulate(count, cumulative_out)


cdef inline Py_ssize_t choose(const double *cumulative, Py_ssize_t count, double uniform) noexcept nogil:
    """The first index whose cumulative weight exceeds `uniform` times the total; -1 if a weight is NaN."""
    cdef Py_ssize_t j, chosen = 0
    cdef double total = cumulative[count - 1], target = uniform * total
    if total != total:
        return -1
    for j in range(count):  # counting instead of searching: no branch to mispredict
        chosen += cumulative[j] <= target
    if chosen == count:  # only a user-defined generator returns 1 or more
        chosen = 0
        for j in range(count):
            chosen += cumulative[j] < total
    return chosen


cdef inline void write_point(const Component *c, const double *normal, real *x_out) noexcept nogil:
    # the second coordinate given the first: no covariance matrix, which could fail to be positive definite
    x_out[0] = <real> (c.mean0 + c.sigma0 * normal[0])
    x_out[1] = <real> (c.mean1 + c.sigma1 * (c.r * normal[0] + c.decoupled * normal[1]))


cdef inline void write_pen(
    const real *logits, Py_ssize_t pens, double sharpness, double uniform, real *pen_out
) noexcept nogil:
    # the Bernoulli pen is the softmax of 0 and its logit: sigmoid(logit) is the probability of the second
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


cdef inline void prepare_components(const Draws *d, const real *parameters) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(d.m):
        d.components[j] = component(parameters, d.m, j, d.unconstrained, d.log_scale)


cdef inline void draw_row(
    const Draws *d, Py_ssize_t row, const real *logits, real *x_out, real *pen_out
) noexcept nogil:
    """All samples from one row of raw output or of packed parameters; the outputs begin at its first sample."""
    cdef Py_ssize_t i, j, k, uniforms = 2 if d.pens else 1
    cdef const real *parameters = logits + d.pens
    cdef const double *uniform = d.uniform + row * uniforms
    cdef const double *normal = d.normal + 2 * row
    cdef bint prepared = d.count > d.m  # else only chosen components are prepared
    if d.unconstrained:
        accumulate_softmax(parameters, d.m, d.sharpness, d.cumulative)
    else:
        accumulate_weights(parameters, d.m, d.cumulative)
    if prepared:
        prepare_components(d, parameters)
    for i in range(d.count):
        k = i * d.rows
        j = choose(d.cumulative, d.m, uniform[k * uniforms])
        d.component[row + k] = j
        if j < 0:
            x_out[2 * k] = <real> bivariate.NAN
            x_out[2 * k + 1] = <real> bivariate.NAN
        else:
            if not prepared:
                d.components[j] = component(parameters, d.m, j, d.unconstrained, d.log_scale)
            write_point(d.components + j, normal + 2 * k, x_out + 2 * k)
        if d.pens:
            write_pen(logits, d.pens, d.pen_sharpness, uniform[2 * k + 1], pen_out + k * d.pens)
