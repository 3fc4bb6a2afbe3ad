"""IEEE arithmetic for the kernels, in whatever mode the calling thread is."""

cdef extern from *:
    """
    /*
     * Each thread has its own mode: it may flush subnormal numbers to zero and change the rounding. JAX flushes in the
     * threads it calls from, PyTorch on demand, a library linked with -ffast-math in the thread that loads it. The
     * kernels' formulas, and the promise of equal bits everywhere, need the arithmetic of the standard.
     */
    #if defined(__SSE2__) || defined(_M_X64)
    #include <xmmintrin.h>
    typedef unsigned cymdn_arithmetic;
    #define CYMDN_READ(mode) ((mode) = _mm_getcsr())
    #define CYMDN_WRITE(mode) _mm_setcsr(mode)
    #define CYMDN_STANDARD 0x1f80u /* of a new process: rounding to nearest, no flushing, no traps */
    #elif defined(__aarch64__)
    typedef unsigned long long cymdn_arithmetic;
    #define CYMDN_READ(mode) __asm__ volatile("mrs %0, fpcr" : "=r"(mode))
    #define CYMDN_WRITE(mode) __asm__ volatile("msr fpcr, %0" : : "r"(mode))
    #define CYMDN_STANDARD 0ull
    #else /* no known mode */
    typedef int cymdn_arithmetic;
    #define CYMDN_READ(mode) ((mode) = 0)
    #define CYMDN_WRITE(mode) ((void) (mode))
    #define CYMDN_STANDARD 0
    #endif

    #if defined(__GNUC__)
    #define CYMDN_IN_ORDER __asm__ volatile("" : : : "memory") /* no arithmetic on arrays is moved across it */
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
