"""The caller's memory as columns: the only module that knows its layout, and that tells float32 from float64."""

cdef extern from *:
    """
    typedef float *__restrict cymdn_float_out;
    typedef double *__restrict cymdn_double_out;
    typedef const float *__restrict cymdn_float_in;
    typedef const double *__restrict cymdn_double_in;

    #if defined(__GNUC__)
    #define CYMDN_PREFETCH(address, write) __builtin_prefetch((address), (write), 2)
    #else
    #define CYMDN_PREFETCH(address, write) ((void) (address))
    #endif
    static inline void cymdn_prefetch(const char *memory, ptrdiff_t bytes, int write)
    {
        if (write)
            for (ptrdiff_t k = 0; k < bytes; k += 64) CYMDN_PREFETCH(memory + k, 1);
        else
            for (ptrdiff_t k = 0; k < bytes; k += 64) CYMDN_PREFETCH(memory + k, 0);
    }

    /* the build with bounds checks: both ends of what each block touches are checked */
    #ifdef CYMDN_BOUNDS_CHECKS
    #include <stdio.h>
    #include <stdlib.h>
    static inline void cymdn_within(ptrdiff_t first, ptrdiff_t last, ptrdiff_t size)
    {
        if (first < 0 || last >= size) {
            fprintf(stderr, "cymdn: numbers %td to %td of %td\\n", first, last, size);
            abort();
        }
    }
    #else
    static inline void cymdn_within(ptrdiff_t first, ptrdiff_t last, ptrdiff_t size)
    {
        (void) first, (void) last, (void) size;
    }
    #endif
    """
    void prefetch "cymdn_prefetch"(const char *memory, Py_ssize_t bytes, int write) noexcept nogil
    void within "cymdn_within"(Py_ssize_t first, Py_ssize_t last, Py_ssize_t size) noexcept nogil
    ctypedef float *float_out "cymdn_float_out"
    ctypedef double *double_out "cymdn_double_out"
    ctypedef const float *float_in "cymdn_float_in"
    ctypedef const double *double_in "cymdn_double_in"

ctypedef fused real:
    float
    double

ctypedef fused real_in:
    float_in
    double_in

ctypedef fused real_out:
    float_out
    double_out


cdef struct Column:
    # one parameter, or one output, of each component of each row
    void *first         # NULL: an output that is not requested
    Py_ssize_t size     # numbers from the first on
    Py_ssize_t row      # numbers from one row to the next; 0: one row for all
    bint single         # float32

cdef struct Place:
    # the part of the caller's rows and columns that a block holds
    Py_ssize_t row
    Py_ssize_t column
    Py_ssize_t rows
    Py_ssize_t columns


cdef inline void fetch_ahead(
    const Column *c, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t part, Py_ssize_t parts, bint to_write
) noexcept nogil:
    # prefetch a part of some rows into the L2 cache during other computations
    cdef Py_ssize_t bytes = c.row * <Py_ssize_t> (sizeof(float) if c.single else sizeof(double))
    cdef const char *memory = <const char *> c.first + row * bytes
    prefetch(memory + rows * bytes * part // parts, rows * bytes // parts, to_write)


# The loops below handle rows of one component separately: an inner loop of one iteration costs three times as much.


cdef inline void read_numbers(
    real_in numbers, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t columns, double_out plane
) noexcept nogil:
    cdef Py_ssize_t i, j
    if columns == 1:
        for i in range(rows):
            plane[i] = numbers[i * row]
        return
    for i in range(rows):
        for j in range(columns):
            plane[i * columns + j] = numbers[i * row + j]


cdef inline void read_pairs(
    real_in numbers, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t columns, double_out plane0, double_out plane1
) noexcept nogil:
    cdef Py_ssize_t i, j
    for i in range(rows):
        for j in range(columns):
            plane0[i * columns + j] = numbers[i * row + 2 * j]
            plane1[i * columns + j] = numbers[i * row + 2 * j + 1]


cdef inline void write_numbers(
    const double *plane, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t columns, real_out numbers
) noexcept nogil:
    cdef Py_ssize_t i, j
    if columns == 1:
        for i in range(rows):
            numbers[i * row] = plane[i]
        return
    for i in range(rows):
        for j in range(columns):
            numbers[i * row + j] = plane[i * columns + j]


cdef inline void write_pairs(
    const double *plane0, const double *plane1, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t columns, real_out numbers
) noexcept nogil:
    cdef Py_ssize_t i, j
    for i in range(rows):
        for j in range(columns):
            numbers[i * row + 2 * j] = plane0[i * columns + j]
            numbers[i * row + 2 * j + 1] = plane1[i * columns + j]


cdef inline void read(const Column *c, const Place *at, double *plane) noexcept nogil:
    cdef Py_ssize_t offset = at.row * c.row + at.column, rows = at.rows, columns = at.columns
    if c.row == columns:  # contiguous rows are one row
        columns *= rows
        rows = 1
    within(offset, offset + (rows - 1) * c.row + columns - 1, c.size)
    if c.single:
        read_numbers(<float_in> (<const float *> c.first + offset), c.row, rows, columns, <double_out> plane)
    else:
        read_numbers(<double_in> (<const double *> c.first + offset), c.row, rows, columns, <double_out> plane)


cdef inline void read_two(const Column *c, const Place *at, double *plane0, double *plane1) noexcept nogil:
    # two columns whose numbers alternate; c is the first
    cdef Py_ssize_t offset = at.row * c.row + 2 * at.column, rows = at.rows, columns = at.columns
    if c.row == 2 * columns:
        columns *= rows
        rows = 1
    within(offset, offset + (rows - 1) * c.row + 2 * columns - 1, c.size)
    if c.single:
        read_pairs(
            <float_in> (<const float *> c.first + offset), c.row, rows, columns,
            <double_out> plane0, <double_out> plane1,
        )
    else:
        read_pairs(
            <double_in> (<const double *> c.first + offset), c.row, rows, columns,
            <double_out> plane0, <double_out> plane1,
        )


cdef inline void write(const Column *c, const Place *at, const double *plane) noexcept nogil:
    cdef Py_ssize_t offset = at.row * c.row + at.column, rows = at.rows, columns = at.columns
    if c.first == NULL:
        return
    if c.row == columns:
        columns *= rows
        rows = 1
    within(offset, offset + (rows - 1) * c.row + columns - 1, c.size)
    if c.single:
        write_numbers(plane, c.row, rows, columns, <float_out> (<float *> c.first + offset))
    else:
        write_numbers(plane, c.row, rows, columns, <double_out> (<double *> c.first + offset))


cdef inline void write_two(
    const Column *c, const Place *at, const double *plane0, const double *plane1
) noexcept nogil:
    cdef Py_ssize_t offset = at.row * c.row + 2 * at.column, rows = at.rows, columns = at.columns
    if c.first == NULL:
        return
    if c.row == 2 * columns:
        columns *= rows
        rows = 1
    within(offset, offset + (rows - 1) * c.row + 2 * columns - 1, c.size)
    if c.single:
        write_pairs(plane0, plane1, c.row, rows, columns, <float_out> (<float *> c.first + offset))
    else:
        write_pairs(plane0, plane1, c.row, rows, columns, <double_out> (<double *> c.first + offset))
