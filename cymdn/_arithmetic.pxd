"""IEEE arithmetic for the kernels, whatever the thread is set to."""

cdef extern from *:
    """
    /*
     * Whether the smallest (subnormal) numbers are flushed to zero, and how results are rounded, is a setting of each
     * thread. JAX flushes in the threads it calls from, PyTorch on demand, a library linked with -ffast-math where it
     * is loaded; the kernels' formulas and the promise of the same bits everywhere need the standard's arithmetic.
     */
    #if defined(__SSE2__) || defined(_M_X64)
    #include <xmmintrin.h>
    typedef unsigned cymdn_arithmetic;
    #define CYMDN_READ(mode) ((mode) = _mm_getcsr())
    #define CYMDN_WRITE(mode) _mm_setcsr(mode)
    #define CYMDN_STANDARD 0x1f80u /* the state a process starts in: to nearest, no flushing, no traps */
    #elif defined(__aarch64__)
    typedef unsigned long long cymdn_arithmetic;
    #define CYMDN_READ(mode) __asm__ volatile("mrs %0, fpcr" : "=r"(mode))
    #define CYMDN_WRITE(mode) __asm__ volatile("msr fpcr, %0" : : "r"(mode))
    #define CYMDN_STANDARD 0ull
    #else /* no such setting known */
    typedef int cymdn_arithmetic;
    #define CYMDN_READ(mode) ((mode) = 0)
    #define CYMDN_WRITE(mode) ((void) (mode))
    #define CYMDN_STANDARD 0
    #endif

    #if defined(__GNUC__)
    #define CYMDN_IN_ORDER __asm__ volatile("" : : : "memory") /* no arithmetic on arrays moves across */
    #else
    #define CYMDN_IN_ORDER
    #endif

    static cymdn_arithmetic cymdn_use_ieee_arithmetic(void)
    {
        cymdn_arithmetic before;
        CYMDN_READ(before);
        CYMDN_WRITE(CYMDN_STANDARD);
        CYMDN_IN_ORDER;
        return before;
    }

    static void cymdn_restore_arithmetic(cymdn_arithmetic before)
    {
        CYMDN_IN_ORDER;
        CYMDN_WRITE(before);
    }
    """
    ctypedef unsigned long long arithmetic "cymdn_arithmetic"
    arithmetic use_ieee_arithmetic "cymdn_use_ieee_arithmetic"() noexcept nogil
    void restore_arithmetic "cymdn_restore_arithmetic"(arithmetic before) noexcept nogil
