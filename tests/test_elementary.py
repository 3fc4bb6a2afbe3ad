"""The elementary functions of _elementary.pxd against mpmath: error in ulp, special values, equal bits in any loop.

All of it in every kernel build: those with fused multiply-add have other last bits than the baseline.
"""

import math
import sys
from functools import cache, partial
from pathlib import Path

import builds
import mpmath
import numpy as np
import pytest
from checks import assert_same_bits

ROOT = Path(__file__).resolve().parents[1]
INF, NAN, TINY, HUGE = math.inf, math.nan, 5e-324, sys.float_info.max
# the bounds of the header of _elementary.pxd, rounded up
MAX_ULP = {"exp": 1.0, "exp_nonpositive": 1.0, "one_minus_exp": 3.0, "log": 1.0, "log1p": 1.0, "mills": 3.0}
COUNT = 1000

rng = np.random.default_rng(20240229)
uniform = rng.uniform
LN2 = math.log(2)


def magnitudes(low, high):
    return 10.0 ** uniform(low, high, COUNT)


def both_signs(x):
    return np.concatenate([x, -x])


def near(points):
    """Each point and the doubles up to 3 places beside it."""
    steps = np.arange(-3, 4)
    return (np.asarray(points)[:, None] + steps * np.spacing(points)[:, None]).ravel()


RANDOM_BITS = rng.integers(0, 2**64, COUNT, dtype=np.uint64).view(np.float64)
REDUCTION = near((rng.permutation(np.arange(-1070, 1020))[:200] + 0.5) * LN2)
POWERS = near(math.sqrt(0.5) * 2.0 ** np.arange(-200, 200))

EXP_REGIONS = {
    "reduced": uniform(-0.36, 0.36, COUNT),
    "one step of the reduction": both_signs(uniform(0.33, 1.05, COUNT)),
    "moderate": uniform(-40, 40, COUNT),
    "all finite": uniform(-708, 709.7, COUNT),
    "denormal result": uniform(-745.2, -708, COUNT),
    "reduction boundaries": REDUCTION,
    "near 0": both_signs(magnitudes(-320, 0)),
    "where 2^k - 1 rounds": uniform(34, 40, COUNT),
}
REGIONS = {
    "exp": EXP_REGIONS,
    "exp_nonpositive": {name: -abs(x) for name, x in EXP_REGIONS.items()},
    "one_minus_exp": {name: -abs(x[abs(x) <= 708]) for name, x in EXP_REGIONS.items() if name != "denormal result"},
    "log": {
        "one binade": uniform(0.5, 2, COUNT),
        "cancellation with ln 2": uniform(0.35, 0.75, COUNT),
        "near 1": 1 + both_signs(magnitudes(-16, -1)),
        "random bits": abs(RANDOM_BITS),
        "denormal": magnitudes(-323, -307),
        "reduction boundaries": POWERS,
    },
    "log1p": {
        "unit": uniform(-1, 1, COUNT),
        "reduced": uniform(-0.3, 0.42, COUNT),
        "cancellation with ln 2": uniform(-0.7, -0.25, COUNT),
        "near 0": both_signs(magnitudes(-323, -0.001)),
        "where 1 + x rounds": both_signs(magnitudes(-17, -14)),
        "near -1": -1 + magnitudes(-15.9, -1),
        "above 1": magnitudes(0, 20),
        "random bits": abs(RANDOM_BITS),
        "reduction boundaries": np.concatenate([POWERS[POWERS > 0.1] - 1, near([-0.5, 1.0, 3.0])]),
    },
    "mills": {"near 0": magnitudes(-300, 0), "moderate": uniform(0, 40, COUNT), "large": magnitudes(1, 9)},
}
EXACT = {
    "exp": mpmath.exp,
    "exp_nonpositive": mpmath.exp,
    "one_minus_exp": lambda x: -mpmath.expm1(x),
    "log": mpmath.log,
    "log1p": mpmath.log1p,
    "mills": lambda x: mpmath.sqrt(mpmath.pi / 2) * mpmath.erfc(x / mpmath.sqrt(2)) * mpmath.exp(x * x / 2),
}

SPECIAL = {
    "exp": [
        *[(0.0, 1.0), (-0.0, 1.0), (TINY, 1.0), (-TINY, 1.0), (INF, INF), (-INF, 0.0), (NAN, NAN)],
        *[(709.782712893384, 1.7976931348622732e308), (709.7827128933841, INF), (HUGE, INF)],
        *[(-745.1332191019411, TINY), (-745.1332191019412, 0.0), (-746.5, 0.0), (-HUGE, 0.0)],
    ],
    "log": [
        *[(1.0, 0.0), (0.0, -INF), (-0.0, -INF), (-TINY, NAN), (-1.0, NAN), (-HUGE, NAN), (-INF, NAN), (INF, INF)],
        *[(NAN, NAN), (HUGE, 709.782712893384), (TINY, -744.4400719213812)],
    ],
    "log1p": [
        *[(0.0, 0.0), (-0.0, -0.0), (TINY, TINY), (-TINY, -TINY), (1e-300, 1e-300), (-1e-300, -1e-300), (-1.0, -INF)],
        *[(-1.0000000000000002, NAN), (-HUGE, NAN), (-INF, NAN), (INF, INF), (NAN, NAN), (HUGE, 709.782712893384)],
    ],
}
SPECIAL["mills"] = [(0.0, 1.2533141373155003), (1e300, 1e-300), (INF, 0.0), (NAN, NAN)]
SPECIAL["one_minus_exp"] = [(0.0, 0.0), (-TINY, TINY), (-1e-300, 1e-300), (-40.0, 1.0), (-708.0, 1.0), (NAN, NAN)]
SPECIAL["exp_nonpositive"] = [(x, y) for x, y in SPECIAL["exp"] if not x > 0]


@pytest.fixture(params=builds.BUILDS)
def evaluate(request):
    """An elementary function of a build, by its name, of an array."""
    return partial(builds.apply_elementary, request.param)


def error_in_ulp(got, exact):
    """|got - exact| in units of the last place a double of the size of `exact` has."""
    _, exponent = mpmath.frexp(exact)
    return abs(mpmath.mpf(got) - exact) / mpmath.ldexp(1, max(int(exponent) - 53, -1074))


def bits(x):
    return np.asarray(x).view(np.uint64)


@cache  # the same for every build
def exact_region(name, region):
    """Arguments, and the exact values of the function at them."""
    x = REGIONS[name][region]
    x = x[np.isfinite(x) & (x != (0 if name == "log" else -1))]
    with mpmath.workprec(180):  # the error of the reference is nothing beside 1 ulp
        return x, [EXACT[name](mpmath.mpf(float(p))) for p in x]


@cache  # of the bits that builds share
def worst_error(name, region, values):
    """The largest error in ulp, and where it is."""
    x, exact = exact_region(name, region)
    with mpmath.workprec(180):
        errors = [
            error_in_ulp(got, value) if math.isfinite(got) else INF
            for value, got in zip(exact, np.frombuffer(values).tolist(), strict=True)
        ]
    worst = int(np.argmax(errors))
    return float(errors[worst]), float(x[worst])


@pytest.mark.parametrize(("name", "region"), [(n, r) for n in REGIONS for r in REGIONS[n]])
def test_error_is_within_the_stated_bound(name, region, evaluate):
    x, _ = exact_region(name, region)
    error, at = worst_error(name, region, evaluate(name, x).tobytes())
    assert error <= MAX_ULP[name], f"{error} ulp at {at!r}"


@pytest.mark.parametrize("name", SPECIAL)
def test_special_values_are_exact(name, evaluate):
    x, expected = (np.array(column) for column in zip(*SPECIAL[name], strict=True))
    # eight copies run the packed loop, one runs the scalar loop of the remainder
    packed = evaluate(name, np.repeat(x, 8))[::8]
    scalar = np.array([evaluate(name, [p])[0] for p in x])
    for got in (packed, scalar):
        np.testing.assert_array_equal(got, expected)
        number = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(got[number]), np.signbit(expected[number]))


def test_the_kinds_of_exp_have_the_bits_of_exp_where_they_serve(evaluate):
    x = np.concatenate([*EXP_REGIONS.values(), RANDOM_BITS, [0.0, INF, NAN, 708.0, 708.5, 1e300]])
    down = -abs(x)
    assert_same_bits(evaluate("exp_nonpositive", down), evaluate("exp", down))  # the sign of a NaN means nothing
    inside = x[~(abs(x) > 708)]
    assert_same_bits(evaluate("exp_normal", inside), evaluate("exp", inside))
    flushed = np.where(down < -708, 0.0, evaluate("exp", down))
    np.testing.assert_array_equal(evaluate("exp_flushed", down), flushed)


@pytest.mark.parametrize("name", REGIONS)
def test_the_scalar_remainder_of_a_loop_gives_the_same_bits(name, evaluate):
    x = np.concatenate([*REGIONS[name].values(), RANDOM_BITS, [p for p, _ in SPECIAL[name]]])
    packed = bits(evaluate(name, x))
    one_by_one = np.concatenate([evaluate(name, [p]) for p in x[::7]])
    np.testing.assert_array_equal(bits(one_by_one), packed[::7])


@pytest.mark.parametrize("name", ["exp", "log", "log1p"])
def test_values_do_not_fall_across_reduction_boundaries(name, evaluate):
    y = evaluate(name, np.unique(REDUCTION if name == "exp" else POWERS - (name == "log1p")))
    assert np.all(y[1:] >= y[:-1])


def test_log_of_every_power_of_two_is_within_half_a_place(evaluate):
    k = np.arange(-1074, 1024)
    with mpmath.workprec(180):
        expected = np.array([float(int(p) * mpmath.ln(2)) for p in k])
    np.testing.assert_array_equal(evaluate("log", np.ldexp(1.0, k)), expected)
