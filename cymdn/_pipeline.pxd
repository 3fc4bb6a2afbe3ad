"""The stages of a block: read, prepare, evaluate at points, reduce, differentiate, write.

One driver for components, one for mixtures, one for the loss. _block.pxd has the loops over a block's components.
"""

from libc.math cimport INFINITY, fabs

from cymdn cimport _bivariate as bivariate
from cymdn cimport _block
from cymdn cimport _pen
from cymdn cimport _rows
from cymdn._block cimport BLOCK, Block, Rows, rounded
from cymdn._columns cimport Column, Place, double_out, fetch_ahead, read, read_two, write, write_two
from cymdn._pen cimport Pens

cdef enum:
    FITS_CACHES = 1 << 17  # numbers of raw output: 1 MiB in float64
    BLOCK_NUMBERS = sizeof(Block) // sizeof(double)
    CHUNK = 2048  # rows whose losses are summed together: fixed, so that a sum does not depend on how the work is split


cdef extern from *:
    """
    #define CYMDN_HUGE 1e150 /* weight of a row above which intermediate products with derivatives may overflow */
    """
    const double HUGE "CYMDN_HUGE"

cdef struct Problem:
    Py_ssize_t n
    Py_ssize_t m
    bint unconstrained          # parameters are logits, logarithms of stddevs, atanh of correlations
    bint derivatives
    bint density                # of mixtures: values are densities, not logarithms
    bint packed                 # parameters are in the order of raw network output, from the first column on
    bint packed_gradient
    bint unweighted             # components without a mixture
    bint floored                # unconstrained, under a floor of the stddevs
    double[2] floor
    Column[2] x
    Column[6] parameters        # weights or logits, means 0, means 1, stddevs 0, stddevs 1, correlations
    Column value                # of each component, or of each row
    Column responsibilities
    Column[6] gradient          # with respect to the parameters
    Column[2] x_gradient
    Rows *rows
    Block *blocks


cdef struct Head:
    # what the loss has in addition to a mixture
    Py_ssize_t pens
    Column[3] logit
    Column[3] target
    Column[3] gradient
    Column weight               # of the rows, or of their points; NULL: 1
    Column pen_weight           # of their pens; NULL: that of the points
    double scale                # of the gradient
    double *sums                # of the losses of each CHUNK of rows; NULL: not requested
    Pens *pen


ctypedef void (*driver)(const Problem *, const Head *) noexcept nogil


cdef inline Column column_after(const Column *c, Py_ssize_t numbers) noexcept nogil:
    cdef Column later = c[0]
    if c.first != NULL:
        later.first = <char *> c.first + numbers * <Py_ssize_t> (sizeof(float) if c.single else sizeof(double))
        later.size -= numbers
    return later


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
    # one mixture for all rows, prepared once
    cdef Py_ssize_t k, rows = 0
    for k in range(6):
        rows += p.parameters[k].row
    return rows == 0


cdef inline void largest_logits(const Problem *p, Py_ssize_t rows) noexcept nogil:
    cdef Py_ssize_t k
    cdef Place at
    _block.set_plane(rows, -bivariate.DBL_MAX, p.rows.top)
    for k in range(parts(p)):
        at = place_of(p, 0, rows, k)
        _rows.row_tops(rows, at.columns, p.blocks[k].weight, p.rows.top)


cdef inline void read_parameters(const Problem *p, Py_ssize_t i, Py_ssize_t rows) noexcept nogil:
    cdef Py_ssize_t k
    cdef Place at
    cdef Block *b
    for k in range(parts(p)):
        at = place_of(p, i, rows, k)
        b = p.blocks + k
        if p.packed:
            _block.read_packed(p.parameters, p.m, &at, b)
        else:
            if not p.unweighted:
                read(&p.parameters[0], &at, b.weight)
            read_two(&p.parameters[1], &at, b.mean0, b.mean1)
            read_two(&p.parameters[3], &at, b.inverse0, b.inverse1)
            read(&p.parameters[5], &at, b.r)
        if p.unweighted:
            _block.set_plane(rows * at.columns, 0.0 if p.unconstrained else 1.0, b.weight)


cdef inline void evaluate(const Problem *p, Py_ssize_t i, Py_ssize_t rows) noexcept nogil:
    # exponents of components at their points, and slopes if these are requested
    cdef Py_ssize_t k, count
    cdef bint fresh = i == 0 or not one_mixture(p)
    cdef Place at = place_of_rows(i, rows)
    cdef Block *b
    if fresh:
        read_parameters(p, i, rows)
        if p.unconstrained:
            largest_logits(p, rows)
    read_two(p.x, &at, p.rows.x0, p.rows.x1)
    for k in range(parts(p)):
        at = place_of(p, i, rows, k)
        b = p.blocks + k
        count = rows * at.columns
        _block.spread_three(rows, at.columns, p.rows, b)
        if fresh and p.floored:
            _block.prepare_floored(count, p.floor[0], p.floor[1], b)
        elif fresh and p.unconstrained:
            _block.prepare_unconstrained(count, b)
        elif fresh:
            _block.prepare_natural(count, b)
        if p.derivatives:
            _block.evaluate_with_slopes(count, b)
        else:
            _block.evaluate(count, b)


cdef inline void write_gradient(const Problem *p, const Place *at, const Block *b) noexcept nogil:
    if p.packed_gradient:
        _block.write_packed(p.gradient, p.m, at, b)
        return
    write(&p.gradient[0], at, b.dlogit)
    write_two(&p.gradient[1], at, b.slope0, b.slope1)
    write_two(&p.gradient[3], at, b.u, b.v)
    write(&p.gradient[5], at, b.datanh)


# Components


cdef inline void components(const Problem *p, const Head *_head) noexcept nogil:
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
            _block.component_values(count, b)
            write(&p.value, &at, b.exponent)
            if p.derivatives:
                _block.component_shares(count, p.value.single, b)
                _block.set_plane(count, 1.0, b.row0)
                _block.differentiate(count, b)
                write_gradient(p, &at, b)
                _block.negate(count, b.slope0)
                _block.negate(count, b.slope1)
                write_two(p.x_gradient, &at, b.slope0, b.slope1)
        i += rows


# Mixtures


cdef inline void sum_over_blocks(
    const Problem *p, Py_ssize_t rows, const double *plane, double_out total
) noexcept nogil:
    # sums over rows; `plane` belongs to the first block
    cdef Py_ssize_t k
    cdef Place at = place_of(p, 0, rows, 0)
    cdef double sum = 0.0, lost = 0.0
    if parts(p) == 1:
        _rows.row_sums(rows, at.columns, plane, total)
        return
    for k in range(parts(p)):
        at = place_of(p, 0, 1, k)
        _rows.add(_rows.row_sum(at.columns, plane + k * BLOCK_NUMBERS), &sum, &lost)
    total[0] = _rows.sum_of(sum, lost)


cdef inline void reduce_rows(const Problem *p, Py_ssize_t rows) noexcept nogil:
    # `value`: the log-density of each row's mixture
    cdef Py_ssize_t k
    cdef Rows *w = p.rows
    cdef Place at
    _block.set_plane(rows, -bivariate.DBL_MAX, w.top)
    if not p.unconstrained:
        _block.set_plane(rows, 1.0, w.weights)
    for k in range(parts(p)):
        at = place_of(p, 0, rows, k)
        _rows.row_tops(rows, at.columns, p.blocks[k].exponent, w.top)
    for k in range(parts(p)):
        at = place_of(p, 0, rows, k)
        _block.spread(rows, at.columns, w.top, p.blocks[k].row0)
        _block.weigh(rows * at.columns, p.blocks + k)
    sum_over_blocks(p, rows, &p.blocks.exponent[0], w.total)
    if p.unconstrained:  # the weights are not divided by their sum yet
        sum_over_blocks(p, rows, &p.blocks.weight[0], w.weights)
    _rows.mixture_values(rows, w)


cdef inline void scale_gradient(double scale, Py_ssize_t columns, Py_ssize_t first, Block *b) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(first, first + columns):
        b.dlogit[k] *= scale
        b.slope0[k] *= scale
        b.slope1[k] *= scale
        b.u[k] *= scale
        b.v[k] *= scale
        b.datanh[k] *= scale


cdef inline void differentiate(const Problem *p, Py_ssize_t rows) noexcept nogil:
    # times the scales of the rows
    cdef Py_ssize_t j, k
    cdef Place at
    cdef Block *b
    for k in range(parts(p)):
        at = place_of(p, 0, rows, k)
        b = p.blocks + k
        _block.spread_two(rows, at.columns, p.rows.scale, p.rows.weight_scale, b)
        _block.differentiate(rows * at.columns, b)
        if p.floored:
            _block.differentiate_floor(rows * at.columns, b)
        for j in range(rows):
            if p.rows.live[j] == 0.0:
                _block.no_gradient(at.columns, j * at.columns, b)
            elif p.rows.live[j] != 1.0:
                scale_gradient(p.rows.live[j], at.columns, j * at.columns, b)


cdef inline double sum_within_range(const Problem *p, Py_ssize_t rows, Py_ssize_t j, bint second) noexcept nogil:
    # the sum of slope0 or slope1 over a row, if the plain sum is not finite: with this scale m terms cannot overflow
    cdef Py_ssize_t k
    cdef double total = 0.0, scale = 0.5 / <double> p.m
    cdef Place at
    cdef const double *slope
    for k in range(parts(p)):
        at = place_of(p, 0, rows, k)
        if second:
            slope = p.blocks[k].slope1
        else:
            slope = p.blocks[k].slope0
        total += _rows.scaled_row_sum(at.columns, slope + j * at.columns, scale)
    return total / scale


cdef inline void differentiate_rows(const Problem *p, Py_ssize_t rows) noexcept nogil:
    # with respect to the point: minus the sum of the derivatives with respect to the means
    cdef Py_ssize_t j
    cdef Rows *w = p.rows
    sum_over_blocks(p, rows, &p.blocks.slope0[0], w.x0)
    sum_over_blocks(p, rows, &p.blocks.slope1[0], w.x1)
    for j in range(rows):
        if w.x0[j] - w.x0[j] != 0.0:
            w.x0[j] = sum_within_range(p, rows, j, False)
        if w.x1[j] - w.x1[j] != 0.0:
            w.x1[j] = sum_within_range(p, rows, j, True)
    _block.negate(rows, w.x0)
    _block.negate(rows, w.x1)


cdef inline void write_derivatives(const Problem *p, Py_ssize_t i, Py_ssize_t rows) noexcept nogil:
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


cdef inline void scale_log_density(const Problem *p, Py_ssize_t rows) noexcept nogil:
    # if every component underflows, the responsibilities are the weights
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


cdef inline void mixtures(const Problem *p, const Head *_head) noexcept nogil:
    cdef Py_ssize_t i = 0, rows
    cdef Place at
    while i < p.n:
        rows = rows_of_block(p, p.n - i)
        at = place_of_rows(i, rows)
        evaluate(p, i, rows)
        reduce_rows(p, rows)
        scale_log_density(p, rows)
        if p.density:  # before it is rounded to the dtype
            _block.exponentiate(rows, p.rows.value)
        write(&p.value, &at, p.rows.value)
        if p.derivatives or p.responsibilities.first != NULL:
            differentiate(p, rows)
            write_derivatives(p, i, rows)
        i += rows


# The loss


cdef inline void score_pens(const Head *h, const Place *at) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(h.pens):
        read(&h.logit[k], at, h.pen.logit[k])
        read(&h.target[k], at, h.pen.target[k])
        _pen.round_targets(at.rows, h.pen.target[k])
    if h.pens == 0:
        _block.set_plane(at.rows, 0.0, h.pen.loss)
    elif h.pens == 1:
        _pen.bernoulli(at.rows, h.pen)
    else:
        _pen.categorical(at.rows, h.pen)


cdef inline double weighted(double weight, double loss) noexcept nogil:
    # a term of weight 0 is skipped, even if it is inf or NaN
    return 0.0 if weight == 0.0 else weight * loss


cdef inline bint is_infinite(double loss, bint single) noexcept nogil:
    return rounded(loss, single) == INFINITY


cdef inline void scale_loss(const Problem *p, const Head *h, Py_ssize_t rows) noexcept nogil:
    # sets `value` to the weighted losses of the rows, and the scales of the rows to those of the loss's gradient
    cdef Py_ssize_t j
    cdef double loss, point, scale, weight, pen_weight
    cdef bint beyond, single = p.x[0].single, apart = h.pen_weight.first != NULL
    cdef Rows *w = p.rows
    for j in range(rows):
        weight = w.weight[j]
        if apart:
            pen_weight = h.pen.weight[j]
            point = -w.value[j]
            loss = weighted(weight, point) + weighted(pen_weight, h.pen.loss[j])
            if is_infinite(weighted(weight, point), single) or is_infinite(weighted(pen_weight, h.pen.loss[j]), single):
                if point == point and h.pen.loss[j] == h.pen.loss[j]:
                    loss = INFINITY  # not inf - inf
            beyond = is_infinite(loss, single) or is_infinite(loss * h.scale, single)
            w.value[j] = loss
        else:
            pen_weight = weight
            loss = h.pen.loss[j] - w.value[j]
            loss = INFINITY if is_infinite(loss, single) else loss
            beyond = loss == INFINITY or is_infinite(weight * h.scale * loss, single)
            w.value[j] = weighted(weight, loss)
        scale = weight * h.scale if loss == loss else loss
        w.live[j] = 0.0 if weight == 0.0 or beyond else 1.0
        h.pen.live[j] = 0.0 if pen_weight == 0.0 or beyond else 1.0
        h.pen.scale[j] = pen_weight * h.scale if loss == loss else loss
        if fabs(scale) > HUGE and w.live[j] != 0.0:  # zeros must stay 0: scale after all other products
            w.live[j] = scale
            scale = 1.0
        w.scale[j] = -scale / w.total[j]
        w.weight_scale[j] = scale / w.weights[j]


cdef inline void write_pen_gradient(const Problem *p, const Head *h, const Place *at) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(h.pens):
        _block.scale_rows(at.rows, h.pen.live, h.pen.scale, h.pen.slope[k])
        write(&h.gradient[k], at, h.pen.slope[k])


cdef inline void add_losses(Py_ssize_t rows, const double *loss, double *total, double *lost) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(rows):
        _rows.add(loss[j], total, lost)


cdef inline void fetch_next(const Problem *p, Py_ssize_t i, Py_ssize_t rows, Py_ssize_t part) noexcept nogil:
    # prefetch a third of the next block's rows, unless all rows fit the caches
    if p.n * p.parameters[0].row < FITS_CACHES or i + 2 * rows > p.n:
        return
    fetch_ahead(p.parameters, i + rows, rows, part, 3, False)
    if p.derivatives:
        fetch_ahead(p.gradient, i + rows, rows, part, 3, True)


cdef inline void losses(const Problem *p, const Head *h) noexcept nogil:
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
        fetch_next(p, i, rows, 0)
        evaluate(p, i, rows)
        fetch_next(p, i, rows, 1)
        reduce_rows(p, rows)
        fetch_next(p, i, rows, 2)
        score_pens(h, &at)
        if h.weight.first == NULL:
            _block.set_plane(rows, 1.0, p.rows.weight)
        else:
            read(&h.weight, &at, p.rows.weight)
        if h.pen_weight.first != NULL:
            read(&h.pen_weight, &at, h.pen.weight)
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
                h.sums[(i - 1) // CHUNK] = _rows.sum_of(total, lost)
