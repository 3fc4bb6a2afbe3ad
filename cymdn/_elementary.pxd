"""exp, log, log1p and Mills' ratio of one double without a branch or a call, for use inside loops.

GCC turns a loop over any of them into packed instructions at every x86-64 level. Only + - * / and
fused multiply-add of doubles, comparisons and integer operations on their bits are used, in the
order the parentheses show: every processor with fused multiply-add gives the same bits, whatever
the compiler. This requires no contraction and value-safe arithmetic:
`-O3 -fno-math-errno -fno-trapping-math -ffp-contract=off` (MSVC: `/O2 /fp:precise`), rounding to
nearest, denormals kept.

`fma(a, b, c)` is a * b + c rounded once where the build has the instruction (x86-64-v3 and v4,
arm64), and rounded twice elsewhere: the baseline build has the same accuracy, but other last bits.
Without the instruction, a correctly rounded fma would be a call, tens of times slower.

Symbols
    exp           x = k ln 2 + r, |r| <= ln(2)/2;  r = (x - k LN2_HIGH) - k LN2_LOW, where the first
                  difference is exact;  expm1 r = r + r^2 E(r)
    log, log1p    argument = 2^k (1 + f), sqrt(1/2) <= 1 + f < sqrt 2;  s = f/(2 + f), z = s^2,
                  log(1 + f) = 2 atanh s = 2 s + s z L(z)
    mills         exp(x^2 / 2) times the integral of exp(-y^2 / 2) from x to inf, x >= 0:
                  P(t) / (1 + x), t = (x - 5) / (x + 5)
    E, L, P       minimax polynomials; elementary_coefficients.py computes their coefficients
    shifted       a number added to 1.5 2^52 (or 2^52), so that the lowest bits of the sum hold its
                  integer part. This replaces the conversions and arithmetic shifts that SSE2 and
                  AVX2 lack for 64-bit integers

Largest error found, in units in the last place of the result (ulp), denormal results included
    exp 0.97    exp_nonpositive 0.97    exp_normal 0.97    exp_flushed 0.97 (down to -708)
    one_minus_exp 3    log 0.88    log1p 0.89    mills 2.8

NaN gives NaN, and every limit (+-0, +-inf, the ends of the domain, overflow) is that of C99.

Method: the reductions of P. T. P. Tang (ACM TOMS 15, 1989; 16, 1990) without his tables, the
arrangement of log(1 + f) of K. C. Ng (fdlibm, 1993), and the single polynomial for all x of M. M. Shepherd
and J. G. Laframboise (Mathematics of Computation 36, 1981). No code is taken from these.
"""

cimport cython
from libc.stdint cimport uint64_t


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* CYMDN_WITHOUT_FMA: for an extension with one build for all processors, so that all give the same bits */
    #if (defined(__FMA__) || defined(__aarch64__)) && !defined(CYMDN_WITHOUT_FMA)
    #define CYMDN_HAS_FMA 1
    static inline double cymdn_fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
    #else
    #define CYMDN_HAS_FMA 0
    static inline double cymdn_fma(double a, double b, double c) { return a * b + c; }
    #endif

    /* log2(e), ln 2, E, L and P, computed by elementary_coefficients.py */
    #define CYMDN_LOG2_E 1.4426950408889634
    #define CYMDN_LN2_HIGH 0.693147180559663
    #define CYMDN_LN2_LOW 2.8235290563031577e-13
    #define CYMDN_EXP_2 0.5000000000000006
    #define CYMDN_EXP_3 0.1666666666666659
    #define CYMDN_EXP_4 0.041666666666576826
    #define CYMDN_EXP_5 0.00833333333338945
    #define CYMDN_EXP_6 0.001388888893153832
    #define CYMDN_EXP_7 0.00019841269719220276
    #define CYMDN_EXP_8 2.4801505308285132e-05
    #define CYMDN_EXP_9 2.7557407376332977e-06
    #define CYMDN_EXP_10 2.7626023368544597e-07
    #define CYMDN_EXP_11 2.505381643484868e-08
    #define CYMDN_LOG_3 0.6666666666666734
    #define CYMDN_LOG_5 0.39999999999414715
    #define CYMDN_LOG_7 0.28571428742381255
    #define CYMDN_LOG_9 0.22222198573753668
    #define CYMDN_LOG_11 0.18183564299359614
    #define CYMDN_LOG_13 0.15314051192626335
    #define CYMDN_LOG_15 0.14795943535412595
    #define CYMDN_MILLS_0 1.1568486282918946
    #define CYMDN_MILLS_1 -0.22948753825211315
    #define CYMDN_MILLS_2 0.07778159886873504
    #define CYMDN_MILLS_3 0.025072179301637677
    #define CYMDN_MILLS_4 -0.06617760077897016
    #define CYMDN_MILLS_5 0.06150504584021487
    #define CYMDN_MILLS_6 -0.038026592188191155
    #define CYMDN_MILLS_7 0.016348231280698042
    #define CYMDN_MILLS_8 -0.004201290306572931
    #define CYMDN_MILLS_9 1.9530640523431184e-05
    #define CYMDN_MILLS_10 0.0004570437951615758
    #define CYMDN_MILLS_11 -0.00013437428711408973
    #define CYMDN_MILLS_12 -2.4805376147918e-05
    #define CYMDN_MILLS_13 2.2709634587385483e-05
    #define CYMDN_MILLS_14 -1.774280132043555e-07
    #define CYMDN_MILLS_15 -3.2773243544951284e-06
    #define CYMDN_MILLS_16 3.2227537523689537e-07
    #define CYMDN_MILLS_17 4.920364749017536e-07
    #define CYMDN_MILLS_18 -6.769875218609472e-08
    #define CYMDN_MILLS_19 -7.761292923079409e-08
    #define CYMDN_MILLS_20 1.0290620298688569e-08
    #define CYMDN_MILLS_21 1.1042973922841312e-08
    #define CYMDN_MILLS_22 -1.1632886937595764e-09
    #define CYMDN_MILLS_23 -9.583494046757434e-10
    #define CYMDN_MILLS_24 7.589963649412057e-11

    /* the format: powers of two, and bit patterns of doubles */
    #define CYMDN_TWO_52 4503599627370496.0
    #define CYMDN_TWO_54 18014398509481984.0
    #define CYMDN_SHIFTER 6755399441057790.0                /* 1.5 2^52 + 2 * 1023 */
    #define CYMDN_EXPONENT_BIAS 1023ULL
    #define CYMDN_NORMAL_LIMIT -708.0                       /* exp of it is normal */
    #define CYMDN_LIMIT 746.0
    #define CYMDN_LIMIT_BITS 0x4087500000000000ULL           /* of 746.0 */
    #define CYMDN_SMALLEST_NORMAL 2.2250738585072014e-308
    #define CYMDN_TWO_52_BITS 0x4330000000000000ULL
    #define CYMDN_ONE_BITS 0x3FF0000000000000ULL
    #define CYMDN_SQRT_HALF_BITS 0x3FE6A09E667F3BCDULL
    #define CYMDN_SIGN_BIT 0x8000000000000000ULL
    #define CYMDN_FRACTION_BITS 0x000FFFFFFFFFFFFFULL
    #define CYMDN_INF_BITS 0x7FF0000000000000ULL
    #define CYMDN_NAN_BITS 0x7FF8000000000000ULL

    /* memcpy reads the bits of a double without undefined behaviour; it compiles to nothing */
    static inline uint64_t cymdn_bits_of(double x) { uint64_t b; memcpy(&b, &x, 8); return b; }
    static inline double cymdn_double_of(uint64_t b) { double x; memcpy(&x, &b, 8); return x; }
    """
    const double LOG2_E "CYMDN_LOG2_E", LN2_HIGH "CYMDN_LN2_HIGH", LN2_LOW "CYMDN_LN2_LOW"
    const double EXP_2 "CYMDN_EXP_2", EXP_3 "CYMDN_EXP_3", EXP_4 "CYMDN_EXP_4"
    const double EXP_5 "CYMDN_EXP_5", EXP_6 "CYMDN_EXP_6", EXP_7 "CYMDN_EXP_7"
    const double EXP_8 "CYMDN_EXP_8", EXP_9 "CYMDN_EXP_9", EXP_10 "CYMDN_EXP_10"
    const double EXP_11 "CYMDN_EXP_11"
    const double LOG_3 "CYMDN_LOG_3", LOG_5 "CYMDN_LOG_5", LOG_7 "CYMDN_LOG_7"
    const double LOG_9 "CYMDN_LOG_9", LOG_11 "CYMDN_LOG_11", LOG_13 "CYMDN_LOG_13"
    const double LOG_15 "CYMDN_LOG_15"
    const double MILLS_0 "CYMDN_MILLS_0", MILLS_1 "CYMDN_MILLS_1", MILLS_2 "CYMDN_MILLS_2"
    const double MILLS_3 "CYMDN_MILLS_3", MILLS_4 "CYMDN_MILLS_4", MILLS_5 "CYMDN_MILLS_5"
    const double MILLS_6 "CYMDN_MILLS_6", MILLS_7 "CYMDN_MILLS_7", MILLS_8 "CYMDN_MILLS_8"
    const double MILLS_9 "CYMDN_MILLS_9", MILLS_10 "CYMDN_MILLS_10", MILLS_11 "CYMDN_MILLS_11"
    const double MILLS_12 "CYMDN_MILLS_12", MILLS_13 "CYMDN_MILLS_13", MILLS_14 "CYMDN_MILLS_14"
    const double MILLS_15 "CYMDN_MILLS_15", MILLS_16 "CYMDN_MILLS_16", MILLS_17 "CYMDN_MILLS_17"
    const double MILLS_18 "CYMDN_MILLS_18", MILLS_19 "CYMDN_MILLS_19", MILLS_20 "CYMDN_MILLS_20"
    const double MILLS_21 "CYMDN_MILLS_21", MILLS_22 "CYMDN_MILLS_22", MILLS_23 "CYMDN_MILLS_23"
    const double MILLS_24 "CYMDN_MILLS_24"
    const double TWO_52 "CYMDN_TWO_52", TWO_54 "CYMDN_TWO_54", SHIFTER "CYMDN_SHIFTER"
    const double SMALLEST_NORMAL "CYMDN_SMALLEST_NORMAL", LIMIT "CYMDN_LIMIT"
    const double NORMAL_LIMIT "CYMDN_NORMAL_LIMIT"
    const uint64_t LIMIT_BITS "CYMDN_LIMIT_BITS", EXPONENT_BIAS "CYMDN_EXPONENT_BIAS"
    const uint64_t TWO_52_BITS "CYMDN_TWO_52_BITS", ONE_BITS "CYMDN_ONE_BITS"
    const uint64_t SQRT_HALF_BITS "CYMDN_SQRT_HALF_BITS", SIGN_BIT "CYMDN_SIGN_BIT"
    const uint64_t FRACTION_BITS "CYMDN_FRACTION_BITS"
    const uint64_t INF_BITS "CYMDN_INF_BITS", NAN_BITS "CYMDN_NAN_BITS"
    const bint HAS_FMA "CYMDN_HAS_FMA"
    double fma "cymdn_fma"(double a, double b, double c) noexcept nogil
    uint64_t bits_of "cymdn_bits_of"(double x) noexcept nogil
    double double_of "cymdn_double_of"(uint64_t bits) noexcept nogil


# ---------------------------------------------------------------- exp

cdef inline double clamped(double x) noexcept nogil:
    # exp is 0 below -745.14 and inf above 709.79; a NaN fails the comparison, so it propagates. One
    # bound with the sign of x instead of two constants: GCC would evaluate what depends on a
    # constant separately and then select among integers, which SSE2 cannot do
    cdef uint64_t sign = bits_of(x) & SIGN_BIT
    cdef double bound = double_of(sign | LIMIT_BITS)
    return bound if double_of(bits_of(x) ^ sign) > LIMIT else x


cdef inline double shifted_quotient(double x) noexcept nogil:
    # SHIFTER + k, k = x / ln 2 rounded: its lowest bits hold k + 2046, > 0 for every clamped x
    return fma(x, LOG2_E, SHIFTER)


cdef inline double expm1_of_rest(double x, double shifted) noexcept nogil:
    # expm1(r). k LN2_HIGH is exact: LN2_HIGH has 41 bits and k 11. Pairs (Estrin) instead of Horner: 15 % faster
    cdef double k = shifted - SHIFTER
    cdef double r = fma(-k, LN2_LOW, fma(-k, LN2_HIGH, x))
    cdef double z = r * r
    cdef double y = z * z
    cdef double p = fma(y, fma(EXP_11, r, EXP_10), fma(z, fma(EXP_9, r, EXP_8), fma(EXP_7, r, EXP_6)))
    return fma(z, fma(y, p, fma(z, fma(EXP_5, r, EXP_4), fma(EXP_3, r, EXP_2))), r)


cdef inline double half_power(double shifted) noexcept nogil:
    # 2^floor(k/2): the bits hold 2 * 1023 + k, half of that is a biased exponent; << 52 drops the rest
    return double_of((bits_of(shifted) >> 1) << 52)


cdef inline double other_half_power(double shifted) noexcept nogil:
    # 2^ceil(k/2). Two factors, because 2^k overflows at k = 1024 and underflows to 0 below -1074
    cdef uint64_t bits = bits_of(shifted)
    return double_of((bits - (bits >> 1)) << 52)


cdef inline double exp_inside(double x) noexcept nogil:
    # |x| <= LIMIT or NaN
    cdef double shifted = shifted_quotient(x)
    cdef double exp_r = 1.0 + expm1_of_rest(x, shifted)
    # the first product is exact, so that a denormal result is rounded only once
    return (exp_r * half_power(shifted)) * other_half_power(shifted)


cdef inline double exp(double x) noexcept nogil:
    # for any x: the reference for the cheaper functions below
    return exp_inside(clamped(x))


cdef inline double exp_nonpositive(double x) noexcept nogil:
    # exp for x <= 0 or NaN: the same bits in 15 to 20 % less time, because one bound is enough
    return exp_inside(-LIMIT if x < -LIMIT else x)


cdef inline double whole_power(double shifted) noexcept nogil:
    # 2^k, if that is normal
    return double_of((bits_of(shifted) - EXPONENT_BIAS) << 52)


cdef inline double exp_normal(double x) noexcept nogil:
    # exp for |x| <= 708 or NaN: the same bits with one factor and no bound
    cdef double shifted = shifted_quotient(x)
    return (1.0 + expm1_of_rest(x, shifted)) * whole_power(shifted)


cdef inline double exp_flushed(double x) noexcept nogil:
    # exp for x <= 0 or NaN, the same bits down to -708, and 0 below instead of numbers under 3.4e-308
    cdef double value = exp_normal(x)
    return 0.0 if x < NORMAL_LIMIT else value


cdef inline double exp_scale(double x) noexcept nogil:
    # exp_normal of the same x is scale + scale rest, rounded: scale is a power of two, the rest within +-0.42
    return whole_power(shifted_quotient(x))


cdef inline double expm1_rest(double x) noexcept nogil:
    return expm1_of_rest(x, shifted_quotient(x))


cdef inline double exp_rest(double x) noexcept nogil:
    # the rounding error of 1 + expm1 r in exp_normal of the same x, exactly; almost free if that is computed too
    cdef double shifted = shifted_quotient(x)
    cdef double small = expm1_of_rest(x, shifted)
    return (small - ((1.0 + small) - 1.0)) * whole_power(shifted)


cdef inline double one_minus_exp(double x) noexcept nogil:
    # -expm1 for -708 <= x <= 0 or NaN: if k is 0, the first difference is exact
    return (1.0 - exp_normal(x)) - exp_rest(x)


# ---------------------------------------------------------------- log, log1p

cdef inline uint64_t rebased_bits(double x) noexcept nogil:
    # the exponent field holds k + 1023: it steps at 2^k sqrt(1/2) instead of at 2^k
    return bits_of(x) + (ONE_BITS - SQRT_HALF_BITS)


cdef inline double exponent_of(uint64_t rebased, double bias) noexcept nogil:
    return double_of((rebased >> 52) | TWO_52_BITS) - (TWO_52 + bias)


cdef inline double fraction_of(uint64_t rebased) noexcept nogil:
    # f, exact
    return double_of((rebased & FRACTION_BITS) + SQRT_HALF_BITS) - 1.0


@cython.cdivision(True)
cdef inline double atanh_argument(double f) noexcept nogil:
    return f / (2.0 + f)


cdef inline double log_sum(double f, double s, double k, double low) noexcept nogil:
    # k LN2_HIGH (exact) + log(1 + f) + low, with 2 s = f - s f and s f = f^2/2 - s f^2/2: f is
    # exact and much larger than the rest, and s, which is rounded, enters only the small terms
    cdef double z = s * s
    cdef double w = z * z
    cdef double half_square = (0.5 * f) * f
    cdef double p = fma(w, fma(w, LOG_15, fma(LOG_13, z, LOG_11)), fma(LOG_9, z, LOG_7))
    p = z * fma(w, p, fma(LOG_5, z, LOG_3))
    cdef double correction = fma(s, half_square + p, low)
    return fma(k, LN2_HIGH, f - (half_square - correction))


cdef inline double log_or_limit(double x, double value) noexcept nogil:
    # `value` if 0 < x < inf; else the limit of log replaces it
    cdef double outside = -double_of(INF_BITS) if x == 0.0 else double_of(NAN_BITS)
    cdef double result = value if x > 0.0 else outside
    return result if x < double_of(INF_BITS) else x


cdef inline double log(double x) noexcept nogil:
    # a denormal has no exponent field of its own: times 2^54 it is normal
    cdef double normal = x * TWO_54 if x < SMALLEST_NORMAL else x
    cdef double bias = 1077.0 if x < SMALLEST_NORMAL else 1023.0
    cdef uint64_t rebased = rebased_bits(normal)
    cdef double k = exponent_of(rebased, bias)
    cdef double f = fraction_of(rebased)
    return log_or_limit(x, log_sum(f, atanh_argument(f), k, k * LN2_LOW))


cdef inline double log1p(double x) noexcept nogil:
    # log(u + c), u + c = 1 + x exactly. With c' = c / 2^k that is k ln 2 + log(1 + f) + c'/(1 + f).
    # 1/(1 + f) = (1 - s)/(1 + s) = 1 - 2 s + 2 s^2 to 1.3 %: enough for c', and no second division
    cdef double larger = x if x > 1.0 else 1.0
    cdef double smaller = 1.0 if x > 1.0 else x
    cdef double u = 1.0 + x
    cdef double c = smaller - (u - larger)
    cdef uint64_t rebased = rebased_bits(u)
    cdef double k = exponent_of(rebased, 1023.0)
    cdef double f = fraction_of(rebased)
    cdef double s = atanh_argument(f)
    # 2^(1 - k) and half the factor: 2^-k has no exponent field at k = 1024
    cdef double scale = double_of(INF_BITS - (rebased & INF_BITS))
    cdef double low = fma(c * scale, 0.5 - fma(-s, s, s), k * LN2_LOW)
    # the result has the sign of x; this sets that of a zero
    cdef uint64_t value = bits_of(log_sum(f, s, k, low)) | (bits_of(x) & SIGN_BIT)
    return log_or_limit(u, double_of(value))


# ---------------------------------------------------------------- the tail of the normal distribution

cdef inline double four(double t, double z, double c0, double c1, double c2, double c3) noexcept nogil:
    return fma(z, fma(c3, t, c2), fma(c1, t, c0))


cdef inline double mills(double x) noexcept nogil:
    # for x >= 0; about 1 / x if x is large. A NaN propagates
    cdef double t = 1.0 - 10.0 / (x + 5.0)
    cdef double z = t * t
    cdef double y = z * z
    cdef double p = fma(y, MILLS_24, four(t, z, MILLS_20, MILLS_21, MILLS_22, MILLS_23))
    p = fma(y, p, four(t, z, MILLS_16, MILLS_17, MILLS_18, MILLS_19))
    p = fma(y, p, four(t, z, MILLS_12, MILLS_13, MILLS_14, MILLS_15))
    p = fma(y, p, four(t, z, MILLS_8, MILLS_9, MILLS_10, MILLS_11))
    p = fma(y, p, four(t, z, MILLS_4, MILLS_5, MILLS_6, MILLS_7))
    p = fma(y, p, four(t, z, MILLS_0, MILLS_1, MILLS_2, MILLS_3))
    return p / (1.0 + x)


# ------------------------------------------------- products of many factors without a logarithm of each

cdef inline double binary_exponent(double x) noexcept nogil:
    # k of x = 2^k s, sqrt(1/2) <= s < sqrt 2, for x > 0, finite and not denormal
    return exponent_of(rebased_bits(x), 1023.0)


cdef inline double significand(double x) noexcept nogil:
    # s of the same
    return 1.0 + fraction_of(rebased_bits(x))
