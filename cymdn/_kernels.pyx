"""The kernels: blocks of components are read, prepared, evaluated, reduced, differentiated and written.

They return no numbers, allocate nothing and raise nothing. _bivariate.pxd has the formulas of one component at one
point, _block.pxd the loops over a block, _pen.pxd and _drop_in.pxd those of the pen and of the drop-in level. Here are
one driver for components, one for mixtures, one for the loss, and the doors through which Python calls them.
"""

from libc.math cimport INFINITY
from libc.stdint cimport uintptr_t
from libc.string cimport memset

from cymdn cimport _arithmetic
from cymdn cimport _bivariate as bivariate
from cymdn cimport _block
from cymdn cimport _cpu
from cymdn cimport _drop_in
from cymdn cimport _elementary as elementary
from cymdn cimport _pen
from cymdn._block cimport Block, Column, Place, Rows, larger, read, read_two, real, rounded, write, write_two
from cymdn._pen cimport Pens

cpdef enum:
    BLOCK = _block.BLOCK
    CHUNK = 2048  # rows whose losses are summed together: fixed, so that a sum does not depend on how work was split

cdef enum:
    ALIGNMENT = 64  # of the planes: a cache line


cdef struct Problem:
    Py_ssize_t n
    Py_ssize_t m
    bint unconstrained          # parameters are logits, logarithms of stddevs, atanh of correlations
    bint derivatives
    bint density                # of a mixture: the density for a value
    double smooth_eps           # below 0, but for the drop-in level
    Column[2] x
    Column[6] parameters        # weights or logits, means 0, means 1, stddevs 0, stddevs 1, correlations
    Column value                # of each component, or of each row
    Column responsibilities
    Column[6] gradient          # with respect to the parameters
    Column[2] x_gradient
    Rows *rows
    Block *blocks


cdef struct Head:
    # what the loss has beside a mixture
    Py_ssize_t pens
    Column[3] logit
    Column[3] target
    Column[3] gradient
    Column weight               # of the rows; NULL: 1
    double scale                # of the gradient
    double *sums                # of the losses of each CHUNK of rows; NULL: losses of rows
    Pens *pen


# Blocks of a problem


cdef inline Py_ssize_t parts(const Problem *p) noexcept nogil:
    return (p.m + BLOCK - 1) // BLOCK


cdef inline Py_ssize_t rows_of_block(const Problem *p, Py_ssize_t left) noexcept nogil:
    return min(max(<Py_ssize_t> 1, BLOCK // p.m), left)


cdef inline Place place_of(const Problem *p, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t part) noexcept nogil:
    cdef Place at
    at.row = row
    at.rows = rows
    at.column = part * BLOCK
    at.columns = min(<Py_ssize_t> BLOCK, p.m - part * BLOCK)
    return at


cdef inline Place place_of_rows(Py_ssize_t row, Py_ssize_t rows) noexcept nogil:
    cdef Place at
    at.row = row
    at.rows = rows
    at.column = 0
    at.columns = 1
    return at


cdef inline bint one_mixture(const Problem *p) noexcept nogil:
    # serves every row, and is prepared once
    cdef Py_ssize_t k, rows = 0
    for k in range(6):
        rows += p.parameters[k].row
    return rows == 0


cdef void largest_logits(const Problem *p, Py_ssize_t rows) noexcept nogil:
    cdef Py_ssize_t k
    cdef Place at
    _block.set_plane(rows, -bivariate.DBL_MAX, p.rows.top)
    for k in range(parts(p)):
        at = place_of(p, 0, rows, k)
        _block.row_tops(rows, at.columns, p.blocks[k].weight, p.rows.top)


cdef void prepare(const Problem *p, Py_ssize_t i, Py_ssize_t rows) noexcept nogil:
    cdef Py_ssize_t k
    cdef Place at
    cdef Block *b
    for k in range(parts(p)):
        at = place_of(p, i, rows, k)
        b = p.blocks + k
        if p.parameters[0].first == NULL:  # a component that stands alone
            _block.set_plane(rows * at.columns, 0.0 if p.unconstrained else 1.0, b.weight)
        else:
            read(&p.parameters[0], &at, b.weight)
        read_two(&p.parameters[1], &at, b.mean0, b.mean1)
        read_two(&p.parameters[3], &at, b.inverse0, b.inverse1)
        read(&p.parameters[5], &at, b.r)
        if not p.unconstrained and p.smooth_eps < 0.0:
            _block.prepare_natural(rows * at.columns, b)
    if not p.unconstrained:
        return
    largest_logits(p, rows)
    for k in range(parts(p)):
        at = place_of(p, i, rows, k)
        b = p.blocks + k
        _block.spread(rows, at.columns, p.rows.top, b.row0)
        _block.prepare_unconstrained(rows * at.columns, b)


cdef void evaluate(const Problem *p, Py_ssize_t i, Py_ssize_t rows) noexcept nogil:
    # exponents, and slopes where they are wanted, of components at their points
    cdef Py_ssize_t k, count
    cdef Place at = place_of_rows(i, rows)
    cdef Block *b
    if i == 0 or not one_mixture(p):
        prepare(p, i, rows)
    read_two(p.x, &at, p.rows.x0, p.rows.x1)
    for k in range(parts(p)):
        at = place_of(p, i, rows, k)
        b = p.blocks + k
        count = rows * at.columns
        _block.spread_two(rows, at.columns, p.rows.x0, p.rows.x1, b)
        if p.smooth_eps >= 0.0:
            _drop_in.evaluate(count, p.smooth_eps, p.derivatives, b)
        elif p.derivatives:
            _block.evaluate_with_slopes(count, b)
        else:
            _block.evaluate(count, b)


cdef void write_gradient(const Problem *p, const Place *at, const Block *b) noexcept nogil:
    write(&p.gradient[0], at, b.dlogit)
    write_two(&p.gradient[1], at, b.slope0, b.slope1)
    write_two(&p.gradient[3], at, b.u, b.v)
    write(&p.gradient[5], at, b.datanh)


# Components


cdef void components(const Problem *p) noexcept nogil:
    cdef Py_ssize_t i = 0, k, rows, count
    cdef Place at
    cdef Block *b
    while i < p.n:
        rows = rows_of_block(p, p.n - i)
        evaluate(p, i, rows)
        for k in range(parts(p)):
            at = place_of(p, i, rows, k)
            b = p.blocks + k
            count = rows * at.columns
            if p.smooth_eps < 0.0:
                _block.component_values(count, b)
            write(&p.value, &at, b.exponent)
            if not p.derivatives:
                continue
            if p.smooth_eps < 0.0:
                _block.component_shares(count, p.value.single, b)
                _block.set_plane(count, 1.0, b.row0)
                _block.differentiate(count, b)
            write_gradient(p, &at, b)
            _block.negate(count, b.slope0)
            _block.negate(count, b.slope1)
            write_two(p.x_gradient, &at, b.slope0, b.slope1)
        i += rows


# Mixtures


cdef void reduce_rows(const Problem *p, Py_ssize_t rows) noexcept nogil:
    # `value`: the log-density of each row's mixture
    cdef Py_ssize_t k
    cdef Rows *w = p.rows
    cdef Place at
    _block.set_plane(rows, -bivariate.DBL_MAX, w.top)
    _block.set_plane(rows, 0.0, w.total)
    _block.set_plane(rows, 0.0 if p.unconstrained else 1.0, w.weights)
    for k in range(parts(p)):
        at = place_of(p, 0, rows, k)
        _block.row_tops(rows, at.columns, p.blocks[k].exponent, w.top)
    for k in range(parts(p)):
        at = place_of(p, 0, rows, k)
        _block.spread(rows, at.columns, w.top, p.blocks[k].row0)
        _block.weigh(rows * at.columns, p.blocks + k)
        _block.row_sums(rows, at.columns, p.blocks[k].exponent, w.total)
        if p.unconstrained:  # the weights are still to be divided by their sum
            _block.row_sums(rows, at.columns, p.blocks[k].weight, w.weights)
    _block.mixture_values(rows, w)


cdef void differentiate(const Problem *p, Py_ssize_t rows) noexcept nogil:
    # by the rows' scales
    cdef Py_ssize_t j, k
    cdef Place at
    cdef Block *b
    for k in range(parts(p)):
        at = place_of(p, 0, rows, k)
        b = p.blocks + k
        _block.spread_two(rows, at.columns, p.rows.scale, p.rows.weight_scale, b)
        _block.differentiate(rows * at.columns, b)
        for j in range(rows):
            if p.rows.live[j] == 0.0:
                _block.no_gradient(at.columns, j * at.columns, b)


cdef void differentiate_rows(const Problem *p, Py_ssize_t rows) noexcept nogil:
    # with respect to the point: less the sum of the derivatives with respect to the means
    cdef Py_ssize_t k
    cdef Rows *w = p.rows
    cdef Place at
    _block.set_plane(rows, 0.0, w.x0)
    _block.set_plane(rows, 0.0, w.x1)
    for k in range(parts(p)):
        at = place_of(p, 0, rows, k)
        _block.row_sums(rows, at.columns, p.blocks[k].slope0, w.x0)
        _block.row_sums(rows, at.columns, p.blocks[k].slope1, w.x1)
    _block.negate(rows, w.x0)
    _block.negate(rows, w.x1)


cdef void write_derivatives(const Problem *p, Py_ssize_t i, Py_ssize_t rows) noexcept nogil:
    cdef Py_ssize_t k
    cdef Place at
    for k in range(parts(p)):
        at = place_of(p, i, rows, k)
        write(&p.responsibilities, &at, p.blocks[k].exponent)
        write_gradient(p, &at, p.blocks + k)
    if p.x_gradient[0].first != NULL:
        at = place_of_rows(i, rows)
        differentiate_rows(p, rows)
        write_two(p.x_gradient, &at, p.rows.x0, p.rows.x1)


cdef void scale_log_density(const Problem *p, Py_ssize_t rows) noexcept nogil:
    # where every component underflows, the point tells nothing: the weights remain
    cdef Py_ssize_t j, k, column
    cdef Place at
    cdef Rows *w = p.rows
    for j in range(rows):
        w.live[j] = 0.0 if rounded(w.value[j], p.x[0].single) == -INFINITY else 1.0
        w.weight_scale[j] = -1.0
        w.scale[j] = 1.0 / (w.weights[j] if w.total[j] == 0.0 else w.total[j])
        for k in range(parts(p) if w.total[j] == 0.0 else 0):
            at = place_of(p, 0, rows, k)
            for column in range(j * at.columns, (j + 1) * at.columns):
                p.blocks[k].exponent[column] = p.blocks[k].weight[column]


cdef void mixtures(const Problem *p) noexcept nogil:
    cdef Py_ssize_t i = 0, rows
    cdef Place at
    while i < p.n:
        rows = rows_of_block(p, p.n - i)
        at = place_of_rows(i, rows)
        evaluate(p, i, rows)
        reduce_rows(p, rows)
        scale_log_density(p, rows)
        if p.density:  # here, where it has not been rounded to the dtype yet
            _block.exponentiate(rows, p.rows.value)
        write(&p.value, &at, p.rows.value)
        if p.derivatives or p.responsibilities.first != NULL:
            differentiate(p, rows)
            write_derivatives(p, i, rows)
        i += rows


# The loss


cdef void score_pens(const Head *h, const Place *at) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(h.pens):
        read(&h.logit[k], at, h.pen.logit[k])
        read(&h.target[k], at, h.pen.target[k])
    if h.pens == 0:
        _block.set_plane(at.rows, 0.0, h.pen.loss)
    elif h.pens == 1:
        _pen.bernoulli(at.rows, h.pen)
    else:
        _pen.categorical(at.rows, h.pen)


cdef void scale_loss(const Problem *p, const Head *h, Py_ssize_t rows) noexcept nogil:
    # `value`: weighted losses of rows; the rows' scales are those of the loss's gradient
    cdef Py_ssize_t j
    cdef double loss, scale, weight
    cdef bint single = p.x[0].single
    cdef Rows *w = p.rows
    for j in range(rows):
        weight = w.weight[j]
        loss = h.pen.loss[j] - w.value[j]
        loss = INFINITY if rounded(loss, single) == INFINITY else loss
        w.live[j] = 0.0 if weight == 0.0 or loss == INFINITY else 1.0
        scale = weight * h.scale if loss == loss else loss
        w.scale[j] = -scale / w.total[j]
        w.weight_scale[j] = scale / w.weights[j]
        w.weight[j] = scale
        w.value[j] = 0.0 if weight == 0.0 else weight * loss


cdef void write_pen_gradient(const Problem *p, const Head *h, const Place *at) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(h.pens):
        _block.scale_rows(at.rows, p.rows, h.pen.slope[k])
        write(&h.gradient[k], at, h.pen.slope[k])


cdef void add_losses(Py_ssize_t rows, const double *loss, double *total, double *lost) noexcept nogil:
    # what rounding the sum loses is summed as well (Knuth's two-sum)
    cdef Py_ssize_t j
    cdef double before, after, added
    for j in range(rows):
        before = total[0]
        after = before + loss[j]
        added = after - before
        lost[0] += (before - (after - added)) + (loss[j] - added)
        total[0] = after


cdef void losses(const Problem *p, const Head *h) noexcept nogil:
    cdef Py_ssize_t i = 0, rows, chunk_end = 0
    cdef double total = 0.0, lost = 0.0
    cdef Place at
    while i < p.n:
        if i == chunk_end:
            chunk_end = min(p.n, i + CHUNK)
            total = 0.0
            lost = 0.0
        rows = rows_of_block(p, chunk_end - i)
        at = place_of_rows(i, rows)
        evaluate(p, i, rows)
        reduce_rows(p, rows)
        score_pens(h, &at)
        if h.weight.first == NULL:
            _block.set_plane(rows, 1.0, p.rows.weight)
        else:
            read(&h.weight, &at, p.rows.weight)
        scale_loss(p, h, rows)
        write(&p.value, &at, p.rows.value)
        if p.derivatives:
            differentiate(p, rows)
            write_derivatives(p, i, rows)
            write_pen_gradient(p, h, &at)
        i += rows
        if h.sums != NULL:
            add_losses(rows, p.rows.value, &total, &lost)
            if i == chunk_end:
                h.sums[(i - 1) // CHUNK] = total + lost if total - total == 0.0 else total


# Doors. Each returns whether the arrays fit each other, and does nothing if they do not, so that a caller need not look
# at them first. An input of one row serves all rows.


cdef inline bint fits2(const real[:, ::1] a, Py_ssize_t rows, Py_ssize_t columns) noexcept nogil:
    # of this shape, or of one row; not empty; aligned
    return (
        a.shape[1] == columns > 0 and (a.shape[0] == rows > 0 or a.shape[0] == 1)
        and <uintptr_t> &a[0, 0] % sizeof(real) == 0
    )


cdef inline bint fits3(
    const real[:, :, ::1] a, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t width
) noexcept nogil:
    return (
        a.shape[2] == width > 0 and a.shape[1] == columns > 0 and (a.shape[0] == rows > 0 or a.shape[0] == 1)
        and <uintptr_t> &a[0, 0, 0] % sizeof(real) == 0
    )


cdef inline Column column(const real *first, Py_ssize_t rows, Py_ssize_t width) noexcept nogil:
    cdef Column c
    c.first = <void *> first
    c.row = width if rows > 1 else 0
    c.single = sizeof(real) == sizeof(float)
    c.paired = False
    return c


cdef inline void pairs(const real *first, Py_ssize_t rows, Py_ssize_t width, Column *columns) noexcept nogil:
    columns[0] = column(first, rows, width)
    columns[1] = column(first + 1, rows, width)
    columns[0].paired = columns[1].paired = True


cdef inline void packed(
    const real *first, Py_ssize_t rows, Py_ssize_t width, Py_ssize_t m, Column *columns
) noexcept nogil:
    # the order of raw network output
    cdef Py_ssize_t k
    for k in range(6):
        columns[k] = column(first + k * m, rows, width)


cdef Problem problem_of(Py_ssize_t n, Py_ssize_t m, double[::1] scratch):
    cdef Problem p
    cdef uintptr_t memory = (<uintptr_t> &scratch[0] + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    memset(&p, 0, sizeof(p))
    p.n = n
    p.m = m
    p.smooth_eps = -1.0
    p.rows = <Rows *> memory
    p.blocks = <Block *> (memory + sizeof(Rows) + sizeof(Pens))
    return p


def scratch_size(Py_ssize_t m):
    """Return how many float64 numbers of scratch memory the kernels need for mixtures of m components."""
    return (ALIGNMENT + sizeof(Rows) + sizeof(Pens) + (m + BLOCK - 1) // BLOCK * sizeof(Block)) // sizeof(double)


cdef void run(void (*driver)(const Problem *) noexcept nogil, const Problem *p) noexcept:
    cdef _arithmetic.arithmetic before
    with nogil:
        before = _arithmetic.use_ieee_arithmetic()
        driver(p)
        _arithmetic.restore_arithmetic(before)


def density(
    const real[:, :, ::1] x not None,            # (n or 1, 1, 2)
    const real[:, :, ::1] mean not None,         # (n or 1, m, 2)
    const real[:, :, ::1] stddev not None,       # (n or 1, m, 2)
    const real[:, :, ::1] correlation not None,  # (n or 1, m, 1)
    double[::1] scratch not None,                # (scratch_size(m),)
    real[:, :, ::1] density_out not None,        # (n, m, 1), not empty
    real[:, :, ::1] dmean_out=None,              # (n, m, 2) or None: no derivatives
    real[:, :, ::1] dstddev_out=None,            # (n, m, 2)
    real[:, :, ::1] dcorrelation_out=None,       # (n, m, 1)
    double smooth_eps=1e-10,
):
    """Smoothed density of each component; with outputs for them, the derivatives of its logarithm."""
    cdef Py_ssize_t n = density_out.shape[0], m = density_out.shape[1]
    cdef Problem p
    if not (
        fits3(x, n, 1, 2) and fits3(mean, n, m, 2) and fits3(stddev, n, m, 2) and fits3(correlation, n, m, 1)
    ):
        return False
    p = problem_of(n, m, scratch)
    p.smooth_eps = smooth_eps
    pairs(&x[0, 0, 0], x.shape[0], 2, p.x)
    pairs(&mean[0, 0, 0], mean.shape[0], 2 * m, &p.parameters[1])
    pairs(&stddev[0, 0, 0], stddev.shape[0], 2 * m, &p.parameters[3])
    p.parameters[5] = column(&correlation[0, 0, 0], correlation.shape[0], m)
    p.value = column(&density_out[0, 0, 0], n, m)
    if dmean_out is not None:
        p.derivatives = True
        pairs(&dmean_out[0, 0, 0], n, 2 * m, &p.gradient[1])
        pairs(&dstddev_out[0, 0, 0], n, 2 * m, &p.gradient[3])
        p.gradient[5] = column(&dcorrelation_out[0, 0, 0], n, m)
    run(components, &p)
    return True


def gaussian_logpdf(
    const real[:, ::1] x not None,            # (n or 1, 2)
    const real[:, :, ::1] mean not None,      # (n or 1, m, 2)
    const real[:, :, ::1] stddev not None,    # (n or 1, m, 2)
    const real[:, ::1] correlation not None,  # (n or 1, m)
    double[::1] scratch not None,             # (scratch_size(m),)
    real[:, ::1] value_out not None,          # (n, m), not empty
    real[:, :, ::1] mean_out=None,            # (n, m, 2) or None: no gradient
    real[:, :, ::1] log_stddev_out=None,      # (n, m, 2)
    real[:, ::1] atanh_correlation_out=None,  # (n, m)
    real[:, :, ::1] x_out=None,               # (n, m, 2)
):
    """Log-density of each component and, with outputs for it, its gradient."""
    cdef Py_ssize_t n = value_out.shape[0], m = value_out.shape[1]
    cdef Problem p
    if not (fits2(x, n, 2) and fits3(mean, n, m, 2) and fits3(stddev, n, m, 2) and fits2(correlation, n, m)):
        return False
    p = problem_of(n, m, scratch)
    pairs(&x[0, 0], x.shape[0], 2, p.x)
    pairs(&mean[0, 0, 0], mean.shape[0], 2 * m, &p.parameters[1])
    pairs(&stddev[0, 0, 0], stddev.shape[0], 2 * m, &p.parameters[3])
    p.parameters[5] = column(&correlation[0, 0], correlation.shape[0], m)
    p.value = column(&value_out[0, 0], n, m)
    if mean_out is not None:
        p.derivatives = True
        pairs(&mean_out[0, 0, 0], n, 2 * m, &p.gradient[1])
        pairs(&log_stddev_out[0, 0, 0], n, 2 * m, &p.gradient[3])
        p.gradient[5] = column(&atanh_correlation_out[0, 0], n, m)
        pairs(&x_out[0, 0, 0], n, 2 * m, p.x_gradient)
    run(components, &p)
    return True


def mixture_logpdf(
    const real[:, ::1] x not None,            # (n or 1, 2)
    const real[:, ::1] weights not None,      # (n or 1, m)
    const real[:, :, ::1] mean not None,      # (n or 1, m, 2)
    const real[:, :, ::1] stddev not None,    # (n or 1, m, 2)
    const real[:, ::1] correlation not None,  # (n or 1, m)
    double[::1] scratch not None,             # (scratch_size(m),)
    real[::1] value_out not None,             # (n,), not empty
    real[:, ::1] logits_out=None,             # (n, m) or None: no gradient
    real[:, :, ::1] mean_out=None,            # (n, m, 2)
    real[:, :, ::1] log_stddev_out=None,      # (n, m, 2)
    real[:, ::1] atanh_correlation_out=None,  # (n, m)
    real[:, ::1] x_out=None,                  # (n, 2)
):
    """Log-density of each row's mixture and, with outputs for it, its gradient."""
    cdef Py_ssize_t n = value_out.shape[0], m = weights.shape[1]
    cdef Problem p
    if not (
        fits2(x, n, 2) and fits2(weights, n, m)
        and fits3(mean, n, m, 2) and fits3(stddev, n, m, 2) and fits2(correlation, n, m)
    ):
        return False
    p = problem_of(n, m, scratch)
    pairs(&x[0, 0], x.shape[0], 2, p.x)
    p.parameters[0] = column(&weights[0, 0], weights.shape[0], m)
    pairs(&mean[0, 0, 0], mean.shape[0], 2 * m, &p.parameters[1])
    pairs(&stddev[0, 0, 0], stddev.shape[0], 2 * m, &p.parameters[3])
    p.parameters[5] = column(&correlation[0, 0], correlation.shape[0], m)
    p.value = column(&value_out[0], n, 1)
    if logits_out is not None:
        p.derivatives = True
        p.gradient[0] = column(&logits_out[0, 0], n, m)
        pairs(&mean_out[0, 0, 0], n, 2 * m, &p.gradient[1])
        pairs(&log_stddev_out[0, 0, 0], n, 2 * m, &p.gradient[3])
        p.gradient[5] = column(&atanh_correlation_out[0, 0], n, m)
        pairs(&x_out[0, 0], n, 2, p.x_gradient)
    run(mixtures, &p)
    return True


# Of a BivariateMixture: packed parameters, in the order of raw network output, natural or unconstrained. They are
# doubles whatever the dtype of the points, so that what a bias or a temperature made of them is not rounded.


def packed_components(
    const real[:, ::1] x not None,             # (n or 1, 2)
    const double[:, ::1] parameters not None,  # (n or 1, 6 m)
    double[::1] scratch not None,              # (scratch_size(m),)
    real[:, ::1] value_out not None,           # (n, m), not empty
    bint unconstrained,
):
    """Log-density of each component."""
    cdef Py_ssize_t n = value_out.shape[0], m = value_out.shape[1]
    cdef Problem p
    if not (fits2(x, n, 2) and fits2(parameters, n, 6 * m)):
        return False
    p = problem_of(n, m, scratch)
    p.unconstrained = unconstrained
    pairs(&x[0, 0], x.shape[0], 2, p.x)
    packed(&parameters[0, 0], parameters.shape[0], 6 * m, m, p.parameters)
    p.parameters[0].first = NULL
    p.value = column(&value_out[0, 0], n, m)
    run(components, &p)
    return True


def packed_mixture(
    const real[:, ::1] x not None,             # (n or 1, 2)
    const double[:, ::1] parameters not None,  # (n or 1, 6 m)
    double[::1] scratch not None,              # (scratch_size(m),)
    real[::1] value_out,                       # (n,), not empty, or None
    real[:, ::1] responsibilities_out,         # (n, m) or None
    real[:, ::1] score_out,                    # (n, 2) or None: one of the three at least
    bint unconstrained,
    bint density=False,                        # the density itself for a value; then without a score
):
    """Log-density of each row's mixture, its components' responsibilities, its gradient with respect to the point."""
    cdef Py_ssize_t n = max(x.shape[0], parameters.shape[0]), m = parameters.shape[1] // 6
    cdef Problem p
    if value_out is not None:
        n = value_out.shape[0]
    if not (fits2(x, n, 2) and fits2(parameters, n, 6 * m)):
        return False
    p = problem_of(n, m, scratch)
    p.unconstrained = unconstrained
    p.density = density
    pairs(&x[0, 0], x.shape[0], 2, p.x)
    packed(&parameters[0, 0], parameters.shape[0], 6 * m, m, p.parameters)
    if value_out is not None:
        p.value = column(&value_out[0], n, 1)
    if responsibilities_out is not None:
        p.responsibilities = column(&responsibilities_out[0, 0], n, m)
    if score_out is not None:
        p.derivatives = True
        pairs(&score_out[0, 0], n, 2, p.x_gradient)
    run(mixtures, &p)
    return True


def mdn_loss(
    const real[:, ::1] raw not None,   # (n, pens + 6 m)
    const real[:, ::1] x not None,     # (n, 2)
    const double[:, ::1] pen,          # (n, pens) or None: no pen
    const double[::1] sample_weight,   # (n,) or None: 1
    double scale,                      # of the gradient
    double[::1] scratch not None,      # (scratch_size(m),)
    real[::1] loss_out,                # (n,) or None: weighted losses of the rows
    double[::1] sums_out,              # (ceil(n / CHUNK),) or None: sums of the same
    real[:, ::1] gradient_out,         # (n, pens + 6 m) or None
    real[:, ::1] x_gradient_out=None,  # (n, 2) or None; not without the gradient
):
    """Loss of raw network output, row by row or in sums, and its gradient."""
    cdef Py_ssize_t n = raw.shape[0], width = raw.shape[1], k
    cdef Head h
    cdef Problem p
    cdef _arithmetic.arithmetic before
    memset(&h, 0, sizeof(h))
    h.pens = 0 if pen is None else pen.shape[1]
    cdef Py_ssize_t m = (width - h.pens) // 6
    if not (
        m > 0 and fits2(raw, n, h.pens + 6 * m) and fits2(x, n, 2) and x.shape[0] == n
        and (h.pens == 0 or (h.pens <= 3 and fits2(pen, n, h.pens) and pen.shape[0] == n))
    ):
        return False
    p = problem_of(n, m, scratch)
    p.unconstrained = True
    pairs(&x[0, 0], n, 2, p.x)
    packed(&raw[0, h.pens], n, width, m, p.parameters)
    for k in range(h.pens):
        h.logit[k] = column(&raw[0, k], n, width)
        h.target[k] = column(&pen[0, k], n, h.pens)
    if gradient_out is not None:
        p.derivatives = True
        packed(&gradient_out[0, h.pens], n, width, m, p.gradient)
        for k in range(h.pens):
            h.gradient[k] = column(&gradient_out[0, k], n, width)
    if x_gradient_out is not None:
        pairs(&x_gradient_out[0, 0], n, 2, p.x_gradient)
    if sample_weight is not None:
        h.weight = column(&sample_weight[0], n, 1)
    if loss_out is not None:
        p.value = column(&loss_out[0], n, 1)
    h.scale = scale
    h.sums = &sums_out[0] if sums_out is not None else NULL
    h.pen = <Pens *> (p.rows + 1)
    with nogil:
        before = _arithmetic.use_ieee_arithmetic()
        losses(&p, &h)
        _arithmetic.restore_arithmetic(before)
    return True


# For the tests: the elementary functions over arrays, in this very build

ctypedef double (*function)(double) noexcept nogil


cdef inline void each(function f, Py_ssize_t count, const double *x, _block.double_out out) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        out[k] = f(x[k])


def apply_elementary(str name not None, const double[::1] x not None, double[::1] values_out not None):
    """Write the elementary function of that name of each x."""
    cdef Py_ssize_t count = values_out.shape[0]
    if name == "exp":
        each(elementary.exp, count, &x[0], &values_out[0])
    elif name == "exp_nonpositive":
        each(elementary.exp_nonpositive, count, &x[0], &values_out[0])
    elif name == "exp_normal":
        each(elementary.exp_normal, count, &x[0], &values_out[0])
    elif name == "exp_flushed":
        each(elementary.exp_flushed, count, &x[0], &values_out[0])
    elif name == "one_minus_exp":
        each(elementary.one_minus_exp, count, &x[0], &values_out[0])
    elif name == "log":
        each(elementary.log, count, &x[0], &values_out[0])
    elif name == "log1p":
        each(elementary.log1p, count, &x[0], &values_out[0])


# What _builds.py asks of a build


def offered_level():
    """Return the x86-64 level that CPU and operating system offer, from 1; 0 on other processors."""
    return _cpu.cpu_level()


def fused():
    """Return whether this build multiplies and adds in one rounding."""
    return elementary.HAS_FMA != 0


def compiler():
    """Return the name and version of the compiler that made this build."""
    return _cpu.COMPILER.decode()
