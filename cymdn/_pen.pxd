"""The pen's cross-entropy and its derivatives: one logit (end of stroke), or three (states of sketch-rnn).

A target outside [0, 1] by more than rounding gives NaN, like a component outside its domain.
"""

from libc.math cimport fabs

from cymdn cimport _bivariate as bivariate
from cymdn cimport _elementary as elementary
from cymdn._block cimport PLANE
from cymdn._columns cimport double_out
from cymdn._elementary cimport fma

cdef extern from *:
    """
    #define CYMDN_ROUNDING 1e-6 /* of a target, or of a sum of three in float32 */
    """
    const double ROUNDING "CYMDN_ROUNDING"

cdef struct Pens:
    double[3][PLANE] logit
    double[3][PLANE] target
    double[PLANE] loss
    double[3][PLANE] slope  # derivatives of the loss with respect to the logits
    double[PLANE] weight    # of the pen's term
    double[PLANE] scale     # of its gradient
    double[PLANE] live      # 0: a pen without derivatives


cdef inline void round_targets(Py_ssize_t rows, double_out targets) noexcept nogil:
    # a target outside [0, 1] by a few roundings becomes the bound
    cdef Py_ssize_t i
    cdef double target
    for i in range(rows):
        target = targets[i]
        target = 0.0 if (target < 0.0 and target >= -ROUNDING) else target
        targets[i] = 1.0 if (target > 1.0 and target <= 1.0 + ROUNDING) else target


cdef inline double target_or_nan(double target) noexcept nogil:
    return target if (target >= 0.0 and target <= 1.0) else bivariate.NAN


cdef inline void bernoulli(Py_ssize_t rows, Pens *p) noexcept nogil:
    # target log(1 + exp(-logit)) + (1 - target) log(1 + exp(logit)), as terms >= 0 that cannot overflow
    cdef Py_ssize_t i
    cdef double logit, target, small, against, share
    for i in range(rows):
        logit = p.logit[0][i]
        target = p.target[0][i]
        small = elementary.exp_flushed(-fabs(logit))
        against = 1.0 - target if logit > 0.0 else target
        share = 1.0 if logit > 0.0 else small
        p.loss[i] = fma(fabs(logit), target_or_nan(against), elementary.log1p(small))
        p.slope[0][i] = share / (1.0 + small) - target


cdef inline double larger(double a, double b) noexcept nogil:
    return a if a > b else b


cdef inline double smaller(double a, double b) noexcept nogil:
    return a if a < b else b


cdef inline double or_nan(double value, double number) noexcept nogil:
    # the comparisons above may lose a NaN
    return value if number == number else number


cdef inline double entropy_term(double target, double distance, double others) noexcept nogil:
    # target * (log sum exp - logit), >= 0; 0 for a target of 0, whatever its logit is
    return 0.0 if target == 0.0 else target_or_nan(target) * (distance + others)


cdef inline void categorical(Py_ssize_t rows, Pens *p) noexcept nogil:
    # The largest of the three powers is 1, which log1p adds: the loss of a confident correct answer keeps its digits.
    cdef Py_ssize_t i
    cdef double a, b, c, high, power_a, power_b, power_c, others, share, targets, distances
    for i in range(rows):
        a = p.logit[0][i]
        b = p.logit[1][i]
        c = p.logit[2][i]
        high = larger(larger(a, b), c)
        power_a = elementary.exp_nonpositive(a - high)
        power_b = elementary.exp_nonpositive(b - high)
        power_c = elementary.exp_nonpositive(c - high)
        others = smaller(smaller(power_a, power_b), power_c) + larger(
            smaller(power_a, power_b), smaller(larger(power_a, power_b), power_c)
        )
        others = or_nan(or_nan(or_nan(others, a), b), c)
        share = 1.0 / (1.0 + others)
        targets = (p.target[0][i] + p.target[1][i]) + p.target[2][i]
        p.slope[0][i] = fma(power_a * share, targets, -p.target[0][i])
        p.slope[1][i] = fma(power_b * share, targets, -p.target[1][i])
        p.slope[2][i] = fma(power_c * share, targets, -p.target[2][i])
        others = elementary.log1p(others)
        distances = entropy_term(p.target[0][i], high - a, others) + entropy_term(p.target[1][i], high - b, others)
        p.loss[i] = or_nan(distances + entropy_term(p.target[2][i], high - c, others), others)
