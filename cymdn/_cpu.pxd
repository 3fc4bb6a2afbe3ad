"""The x86-64 level (psABI microarchitecture levels) that CPU and operating system support; 0 on other processors."""

cdef extern from *:
    """
    #if (defined(__x86_64__) || defined(_M_X64)) && (defined(__GNUC__) || defined(__clang__))
    #include <cpuid.h>

    /* XCR0: which wide registers the operating system saves */
    static unsigned cymdn_saved_state(void)
    {
        unsigned low, high;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        return low;
    }

    static int cymdn_cpu_level(void)
    {
        /* FMA, MOVBE, OSXSAVE, AVX, F16C; BMI1, AVX2, BMI2; AVX512F, DQ, CD, BW, VL; LZCNT */
        const unsigned v3_1c = 1u << 12 | 1u << 22 | 1u << 27 | 1u << 28 | 1u << 29;
        const unsigned v3_7b = 1u << 3 | 1u << 5 | 1u << 8;
        const unsigned v4_7b = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31;
        const unsigned v3_81c = 1u << 5;
        unsigned a, b, c1, d, b7, c7, c81;
        if (!__get_cpuid(1, &a, &b, &c1, &d) || (c1 & v3_1c) != v3_1c) return 1;
        if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d) || (b7 & v3_7b) != v3_7b) return 1;
        if (!__get_cpuid(0x80000001, &a, &b, &c81, &d) || !(c81 & v3_81c)) return 1;
        if ((cymdn_saved_state() & 0x06) != 0x06) return 1;
        return (b7 & v4_7b) == v4_7b && (cymdn_saved_state() & 0xe6) == 0xe6 ? 4 : 3;
    }
    #else
    static int cymdn_cpu_level(void) { return 0; }
    #endif

    #if defined(__VERSION__) && defined(__clang__)
    #define CYMDN_COMPILER __VERSION__
    #elif defined(__VERSION__)
    #define CYMDN_COMPILER "GCC " __VERSION__
    #else
    #define CYMDN_COMPILER "unknown"
    #endif
    """
    int cpu_level "cymdn_cpu_level"() noexcept nogil
    const char *COMPILER "CYMDN_COMPILER"
