"""The kernels: entry points ("doors") that pass arrays from Python to the drivers of _pipeline.pxd.

They return no numbers, allocate nothing and raise nothing. _bivariate.pxd has the formulas of one component at one
point, _block.pxd the loops over a block, _pen.pxd and _drop_in.pxd those of the pen and of the smoothed density.

Each door takes the number of rows n and of components m, and returns whether the arrays fit; it does nothing if they do
not. Inputs have n rows, or one row for all.
"""

from cpython.buffer cimport PyBUF_WRITABLE
from libc.stdint cimport uintptr_t
from libc.string cimport memset

from cymdn cimport _arithmetic
from cymdn cimport _cpu
from cymdn cimport _elementary as elementary
from cymdn cimport _pipeline
from cymdn._block cimport Block, Rows
from cymdn._buffers cimport Buffers, hold, hold_each, release
from cymdn._columns cimport Column, double_out
from cymdn._drop_in cimport DropIn, drop_in
from cymdn._pen cimport Pens
from cymdn._pipeline cimport Head, Problem
from cymdn._rectangle cimport rectangle_of_mixture

cpdef enum:
    BLOCK = _pipeline.BLOCK
    CHUNK = _pipeline.CHUNK

cdef enum:
    ALIGNMENT = 64  # of the planes: a cache line

cdef inline int take(Buffers *held, object array, Py_ssize_t n, Py_ssize_t a, Py_ssize_t b, Column *c) except -1:
    return hold(held, array, held.itemsize, 0, n, a, b, c)


cdef inline int give(Buffers *held, object array, Py_ssize_t n, Py_ssize_t a, Py_ssize_t b, Column *c) except -1:
    # None: an output that is not requested
    return 0 if array is None else hold(held, array, held.itemsize, PyBUF_WRITABLE, n, a, b, c)


cdef inline int take_pairs(Buffers *held, object array, Py_ssize_t n, Py_ssize_t m, Column *columns) except -1:
    # only the first of the two columns is set
    return take(held, array, n, m, 2, columns) if m else take(held, array, n, 2, 0, columns)


cdef inline int give_pairs(Buffers *held, object array, Py_ssize_t n, Py_ssize_t m, Column *columns) except -1:
    return give(held, array, n, m, 2, columns) if m else give(held, array, n, 2, 0, columns)


cdef inline void pack(const Column *rows, Py_ssize_t pens, Py_ssize_t m, Column *columns) noexcept:
    # the order of raw network output: pen logits, then six columns of m numbers
    cdef Py_ssize_t k
    for k in range(6):
        columns[k] = _pipeline.column_after(rows, pens + k * m)


def scratch_size(Py_ssize_t m):
    """Return how many float64 numbers of scratch memory the kernels need for mixtures of m components."""
    cdef Py_ssize_t rows = sizeof(Rows) + sizeof(Pens), block = sizeof(Block)
    return (ALIGNMENT + rows + (m + BLOCK - 1) // BLOCK * block) // <Py_ssize_t> sizeof(double)


cdef int begin(
    Buffers *held, Problem *p, Py_ssize_t n, Py_ssize_t m, object x, Py_ssize_t axes, object scratch
) except -1:
    """Start a problem of points x (n, 2), or (n, 1, 2) for `axes` of 1."""
    cdef Column memory
    cdef uintptr_t first
    memset(p, 0, sizeof(Problem))
    held.fit = n > 0 and m > 0
    p.n = n
    p.m = m
    hold(held, scratch, sizeof(double), PyBUF_WRITABLE, scratch_size(m), 0, 0, &memory)
    held.itemsize = x.itemsize
    take_pairs(held, x, n, axes, p.x)
    if held.fit:
        first = (<uintptr_t> memory.first + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        p.rows = <Rows *> first
        p.blocks = <Block *> (first + sizeof(Rows) + sizeof(Pens))
    return 0


cdef bint run(Buffers *held, const Problem *p, const Head *h, _pipeline.driver drive) noexcept:
    cdef _arithmetic.arithmetic before
    if held.fit:
        with nogil:
            before = _arithmetic.use_ieee_arithmetic()
            drive(p, h)
            _arithmetic.restore_arithmetic(before)
    return held.fit


# Doors


def density(
    Py_ssize_t n, Py_ssize_t m,
    x,                       # (n, 1, 2)
    mean,                    # (n, m, 2)
    stddev,                  # (n, m, 2)
    correlation,             # (n, m, 1)
    scratch,                 # (scratch_size(m),)
    density_out,             # (n, m, 1)
    dmean_out=None,          # (n, m, 2) or None: no derivatives
    dstddev_out=None,        # (n, m, 2)
    dcorrelation_out=None,   # (n, m, 1)
    double smooth_eps=1e-10,
):
    """Smoothed density of each component; with outputs for them, the derivatives of its logarithm."""
    cdef Problem p
    cdef DropIn d
    cdef Buffers held
    cdef _arithmetic.arithmetic before
    held.count = 0
    try:
        begin(&held, &p, n, m, x, 1, scratch)
        memset(&d, 0, sizeof(d))
        take(&held, mean, n, m, 2, &d.mean)
        take(&held, stddev, n, m, 2, &d.stddev)
        take(&held, correlation, n, m, 1, &d.correlation)
        give(&held, density_out, n, m, 1, &d.density)
        give(&held, dmean_out, n, m, 2, &d.dmean)
        give(&held, dstddev_out, n, m, 2, &d.dstddev)
        give(&held, dcorrelation_out, n, m, 1, &d.dcorrelation)
        if held.fit:
            d.n, d.m, d.smooth_eps, d.derivatives = n, m, smooth_eps, dmean_out is not None
            d.x, d.block = p.x[0], p.blocks
            with nogil:
                before = _arithmetic.use_ieee_arithmetic()
                drop_in(&d)
                _arithmetic.restore_arithmetic(before)
        return held.fit
    finally:
        release(&held)


def gaussian_logpdf(
    Py_ssize_t n, Py_ssize_t m,
    x,                           # (n, 2)
    mean,                        # (n, m, 2)
    stddev,                      # (n, m, 2)
    correlation,                 # (n, m)
    scratch,                     # (scratch_size(m),)
    value_out,                   # (n, m)
    mean_out=None,               # (n, m, 2) or None: no gradient
    log_stddev_out=None,         # (n, m, 2)
    atanh_correlation_out=None,  # (n, m)
    x_out=None,                  # (n, m, 2)
):
    """Log-density of each component and, with outputs for it, its gradient."""
    cdef Problem p
    cdef Buffers held
    held.count = 0
    try:
        begin(&held, &p, n, m, x, 0, scratch)
        p.derivatives = mean_out is not None
        p.unweighted = True
        take_pairs(&held, mean, n, m, &p.parameters[1])
        take_pairs(&held, stddev, n, m, &p.parameters[3])
        take(&held, correlation, n, m, 0, &p.parameters[5])
        give(&held, value_out, n, m, 0, &p.value)
        give_pairs(&held, mean_out, n, m, &p.gradient[1])
        give_pairs(&held, log_stddev_out, n, m, &p.gradient[3])
        give(&held, atanh_correlation_out, n, m, 0, &p.gradient[5])
        give_pairs(&held, x_out, n, m, p.x_gradient)
        return run(&held, &p, NULL, _pipeline.components)
    finally:
        release(&held)


def mixture_logpdf(
    Py_ssize_t n, Py_ssize_t m,
    x,                           # (n, 2)
    weights,                     # (n, m)
    mean,                        # (n, m, 2)
    stddev,                      # (n, m, 2)
    correlation,                 # (n, m)
    scratch,                     # (scratch_size(m),)
    value_out,                   # (n,)
    logits_out=None,             # (n, m) or None: no gradient
    mean_out=None,               # (n, m, 2)
    log_stddev_out=None,         # (n, m, 2)
    atanh_correlation_out=None,  # (n, m)
    x_out=None,                  # (n, 2)
):
    """Log-density of each row's mixture and, with outputs for it, its gradient."""
    cdef Problem p
    cdef Buffers held
    held.count = 0
    try:
        begin(&held, &p, n, m, x, 0, scratch)
        p.derivatives = logits_out is not None
        take(&held, weights, n, m, 0, &p.parameters[0])
        take_pairs(&held, mean, n, m, &p.parameters[1])
        take_pairs(&held, stddev, n, m, &p.parameters[3])
        take(&held, correlation, n, m, 0, &p.parameters[5])
        give(&held, value_out, n, 0, 0, &p.value)
        give(&held, logits_out, n, m, 0, &p.gradient[0])
        give_pairs(&held, mean_out, n, m, &p.gradient[1])
        give_pairs(&held, log_stddev_out, n, m, &p.gradient[3])
        give(&held, atanh_correlation_out, n, m, 0, &p.gradient[5])
        give_pairs(&held, x_out, n, 0, p.x_gradient)
        return run(&held, &p, NULL, _pipeline.mixtures)
    finally:
        release(&held)


# For BivariateMixture: packed parameters in the order of raw network output, natural or unconstrained. They are float64
# for points of either dtype, so that parameters changed by a bias or a temperature are not rounded.


def packed_components(
    Py_ssize_t n, Py_ssize_t m,
    x,           # (n, 2)
    parameters,  # (n, 6 m), float64
    scratch,     # (scratch_size(m),)
    value_out,   # (n, m)
    bint unconstrained,
):
    """Log-density of each component."""
    cdef Problem p
    cdef Buffers held
    cdef Column rows
    held.count = 0
    try:
        begin(&held, &p, n, m, x, 0, scratch)
        p.unconstrained = unconstrained
        memset(&rows, 0, sizeof(rows))
        hold(&held, parameters, sizeof(double), 0, n, 6 * m, 0, &rows)
        pack(&rows, 0, m, p.parameters)
        p.packed = p.unweighted = True
        give(&held, value_out, n, m, 0, &p.value)
        return run(&held, &p, NULL, _pipeline.components)
    finally:
        release(&held)


def packed_mixture(
    Py_ssize_t n, Py_ssize_t m,
    x,                     # (n, 2)
    parameters,            # (n, 6 m), float64
    scratch,               # (scratch_size(m),)
    value_out,             # (n,) or None
    responsibilities_out,  # (n, m) or None
    score_out,             # (n, 2) or None
    bint unconstrained,
    bint density=False,    # value_out is the density itself; then without a score
):
    """Log-density of each row's mixture, its components' responsibilities, its gradient with respect to the point."""
    cdef Problem p
    cdef Buffers held
    cdef Column rows
    held.count = 0
    try:
        begin(&held, &p, n, m, x, 0, scratch)
        p.unconstrained = unconstrained
        p.density = density
        p.derivatives = score_out is not None
        memset(&rows, 0, sizeof(rows))
        hold(&held, parameters, sizeof(double), 0, n, 6 * m, 0, &rows)
        pack(&rows, 0, m, p.parameters)
        p.packed = True
        give(&held, value_out, n, 0, 0, &p.value)
        give(&held, responsibilities_out, n, m, 0, &p.responsibilities)
        give_pairs(&held, score_out, n, 0, p.x_gradient)
        return run(&held, &p, NULL, _pipeline.mixtures)
    finally:
        release(&held)


def mdn_loss(
    Py_ssize_t n, Py_ssize_t m,
    raw,                  # (n, pens + 6 m)
    x,                    # (n, 2)
    pen,                  # (n, pens), float64, or None: no pen
    sample_weight,        # (n,), float64, or None: 1
    pen_weight,           # (n,), float64, or None: sample_weight
    double scale,         # of the gradient
    double floor0,        # of the stddevs; both 0: none
    double floor1,
    scratch,              # (scratch_size(m),)
    loss_out,             # (n,) or None: weighted losses of the rows
    sums_out,             # (ceil(n / CHUNK),), float64, or None: sums of these
    gradient_out,         # (n, pens + 6 m) or None
    x_gradient_out=None,  # (n, 2) or None; not without the gradient
):
    """Loss of raw network output, row by row or in sums, and its gradient."""
    cdef Py_ssize_t pens = 0, k
    cdef Problem p
    cdef Head h
    cdef Buffers held
    cdef Column rows, targets, gradient, sums
    held.count = 0
    try:
        begin(&held, &p, n, m, x, 0, scratch)
        memset(&h, 0, sizeof(h))
        memset(&rows, 0, sizeof(rows))
        memset(&gradient, 0, sizeof(gradient))
        memset(&sums, 0, sizeof(sums))
        if pen is not None:
            pens = pen.shape[1]
            held.fit = held.fit and (pens == 1 or pens == 3)
            hold_each(&held, pen, sizeof(double), n, pens, 0, &targets)
        hold_each(&held, raw, held.itemsize, n, pens + 6 * m, 0, &rows)
        give(&held, gradient_out, n, pens + 6 * m, 0, &gradient)
        give(&held, loss_out, n, 0, 0, &p.value)
        give_pairs(&held, x_gradient_out, n, 0, p.x_gradient)
        if sample_weight is not None:
            hold_each(&held, sample_weight, sizeof(double), n, 0, 0, &h.weight)
        if pen_weight is not None:
            hold_each(&held, pen_weight, sizeof(double), n, 0, 0, &h.pen_weight)
        if sums_out is not None:
            hold(&held, sums_out, sizeof(double), PyBUF_WRITABLE, (n + CHUNK - 1) // CHUNK, 0, 0, &sums)
        held.fit = held.fit and (n == 1 or p.x[0].row > 0)
        p.unconstrained = True
        p.floored = floor0 > 0.0 or floor1 > 0.0
        p.floor[0] = floor0
        p.floor[1] = floor1
        p.derivatives = gradient_out is not None
        pack(&rows, pens, m, p.parameters)
        pack(&gradient, pens, m, p.gradient)
        p.packed = p.packed_gradient = True
        h.pens = pens
        for k in range(pens if held.fit else 0):
            h.logit[k] = _pipeline.column_after(&rows, k)
            h.target[k] = _pipeline.column_after(&targets, k)
            h.gradient[k] = _pipeline.column_after(&gradient, k)
        h.scale = scale
        h.sums = <double *> sums.first
        h.pen = <Pens *> (p.rows + 1)
        return run(&held, &p, &h, _pipeline.losses)
    finally:
        release(&held)


def rectangles(
    Py_ssize_t n, Py_ssize_t m,
    lower,               # (n, 2); all arrays are float64
    upper,               # (n, 2)
    packed,              # (n, 6 m)
    scratch,             # not needed
    out,                 # (n,)
    bint unconstrained,
    bint logarithm,
):
    """Probabilities of rectangles under mixtures, or their logarithms."""
    cdef Py_ssize_t i
    cdef Buffers held
    cdef Column lows, highs, rows, values
    cdef _arithmetic.arithmetic before
    held.count = 0
    held.fit = m > 0
    try:
        hold(&held, lower, sizeof(double), 0, n, 2, 0, &lows)
        hold(&held, upper, sizeof(double), 0, n, 2, 0, &highs)
        hold(&held, packed, sizeof(double), 0, n, 6 * m, 0, &rows)
        hold(&held, out, sizeof(double), PyBUF_WRITABLE, n, 0, 0, &values)
        if not held.fit:
            return False
        with nogil:
            before = _arithmetic.use_ieee_arithmetic()
            for i in range(n):
                (<double *> values.first)[i] = rectangle_of_mixture(
                    <const double *> rows.first + i * rows.row, m, unconstrained,
                    <const double *> lows.first + i * lows.row, <const double *> highs.first + i * highs.row, logarithm,
                )
            _arithmetic.restore_arithmetic(before)
        return True
    finally:
        release(&held)


# For the tests: the elementary functions of this build over arrays

ctypedef double (*function)(double) noexcept nogil


cdef inline void each(function f, Py_ssize_t count, const double *x, double_out out) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        out[k] = f(x[k])


def apply_elementary(str name not None, x, values_out):
    """Write the elementary function of this name for each of the float64 numbers x."""
    cdef Py_ssize_t count = len(x)
    cdef Buffers held
    cdef Column read, written
    cdef const double *values
    cdef double *out
    held.count = 0
    held.fit = True
    try:
        hold_each(&held, x, sizeof(double), count, 0, 0, &read)
        hold(&held, values_out, sizeof(double), PyBUF_WRITABLE, count, 0, 0, &written)
        if not held.fit:
            return False
        values, out = <const double *> read.first, <double *> written.first
        if name == "exp":
            each(elementary.exp, count, values, out)
        elif name == "exp_nonpositive":
            each(elementary.exp_nonpositive, count, values, out)
        elif name == "exp_normal":
            each(elementary.exp_normal, count, values, out)
        elif name == "exp_flushed":
            each(elementary.exp_flushed, count, values, out)
        elif name == "one_minus_exp":
            each(elementary.one_minus_exp, count, values, out)
        elif name == "log":
            each(elementary.log, count, values, out)
        elif name == "log1p":
            each(elementary.log1p, count, values, out)
        elif name == "mills":
            each(elementary.mills, count, values, out)
        return True
    finally:
        release(&held)


# Queries of _builds.py


def offered_level():
    """Return the x86-64 level that CPU and operating system support, from 1; 0 on other processors."""
    return _cpu.cpu_level()


def fused():
    """Return whether this build uses fused multiply-add."""
    return elementary.HAS_FMA != 0


def compiler():
    """Return the name and version of the compiler that made this build."""
    return _cpu.COMPILER.decode()
