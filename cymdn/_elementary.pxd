cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static inline uint64_t cymdn_bits_of(double x) { uint64_t b; memcpy(&b, &x, sizeof b); return b; }
    static inline double cymdn_double_of(uint64_t b) { double x; memcpy(&x, &b, sizeof x); return x; }
    """
    ctypedef unsigned long long uint64_t
    uint64_t bits_of "cymdn_bits_of"(double x) noexcept nogil
    double double_of "cymdn_double_of"(uint64_t b) noexcept nogil

cdef inline double exp(double x) noexcept nogil:
    cdef double t, k, r, p
    cdef uint64_t b
    x = -746.0 if x < -746.0 else x
    x = 710.0 if x > 710.0 else x
    t = x * 1.4426950408889634 + (6755399441055744.0 + 2046.0)
    k = t - (6755399441055744.0 + 2046.0)
    r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10
    p = 1.0/479001600.0
    p = p*r+1.0/39916800.0
    p = p*r+1.0/3628800.0
    p = p*r+1.0/362880.0
    p = p*r+1.0/40320.0
    p = p*r+1.0/5040.0
    p = p*r+1.0/720.0
    p = p*r+1.0/120.0
    p = p*r+1.0/24.0
    p = p*r+1.0/6.0
    p = p*r+0.5
    p = 1.0 + (r + (r*r)*p)
    b = bits_of(t)
    return (p * double_of((b >> 1) << 52)) * double_of((b - (b >> 1)) << 52)
