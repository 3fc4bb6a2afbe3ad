"""Compute the coefficients in _elementary.pxd and _legendre.pxd.

    python tools/elementary_coefficients.py                print the constants and their errors
    python tools/elementary_coefficients.py --check FILES  exit with 1 if one is in none of these files

The polynomials are minimax (Remez exchange on a Chebyshev grid, 60 digits), then rounded to double; the nodes and
weights of Gauss-Legendre quadrature are those of [0, 1].
"""

import argparse
import re
import sys
from functools import cache
from pathlib import Path

from mpmath import atanh, cos, erfc, exp, expm1, floor, legendre, ln, lu_solve, matrix, mp, mpf, pi, polyval, sqrt

mp.dps = 60
LN2 = ln(2)
ULP = mpf(2) ** -53  # relative spacing just below 1, where it is widest for its binade


def chebyshev_grid(low, high, count=400):
    """An even count: no point falls on 0, where the weights vanish."""
    middle, half = (low + high) / 2, (high - low) / 2
    return [middle - half * cos(pi * (2 * i + 1) / (2 * count)) for i in range(count)]


def alternation(grid, error):
    """The grid point of largest |error| in each run of one sign."""
    best = []
    for x, e in zip(grid, error, strict=True):
        if best and best[-1][1] * e > 0:
            best[-1] = max(best[-1], (x, e), key=lambda pair: abs(pair[1]))
        else:
            best.append((x, e))
    return best


def minimax(function, weight, low, high, count):
    """`count` coefficients, lowest power first, of the polynomial of least weighted error."""
    grid = chebyshev_grid(low, high)
    reference = [grid[i * (len(grid) - 1) // count] for i in range(count + 1)]
    value, weights = [function(x) for x in grid], [weight(x) for x in grid]
    for _ in range(12):
        rows = [[x**j for j in range(count)] + [(-1) ** i / weight(x)] for i, x in enumerate(reference)]
        solution = list(lu_solve(matrix(rows), matrix([function(x) for x in reference])))
        coefficients, level = solution[:-1], abs(solution[-1])
        error = [w * (polyval(coefficients[::-1], x) - v) for x, v, w in zip(grid, value, weights, strict=True)]
        peaks = alternation(grid, error)
        while len(peaks) > count + 1:  # one run too many: drop the weaker end
            peaks.pop(0 if abs(peaks[0][1]) < abs(peaks[-1][1]) else -1)
        reference = [x for x, _ in peaks]
        if max(map(abs, error)) < level * mpf("1.0001"):
            return [float(c) for c in coefficients]
    raise ArithmeticError("the exchange did not settle")


def error_in_ulp(coefficients, function, weight, low, high):
    grid = chebyshev_grid(low, high, 1000)
    reverse = [mpf(c) for c in reversed(coefficients)]
    return float(max(abs(weight(x) * (polyval(reverse, x) - function(x))) for x in grid) / ULP)


def split(value, bits):
    """`value` as high + low, where high has `bits` bits, so high * (small integer) is exact."""
    unit = mpf(2) ** (floor(ln(value) / LN2) + 1 - bits)
    high = floor(value / unit) * unit
    return float(high), float(value - high)


def gauss_legendre(count):
    """Nodes and weights of the rule of `count` points on [0, 1]."""
    for i in range(count):
        z = cos(pi * (i + mpf("0.75")) / (count + mpf("0.5")))
        for _ in range(8):  # Newton's method
            slope = count * (z * legendre(count, z) - legendre(count - 1, z)) / (z * z - 1)
            z -= legendre(count, z) / slope
        yield float((1 - z) / 2), float(1 / ((1 - z * z) * slope**2))


def constants():
    """{name in the pxd: its number}, {polynomial: approximation error in ulp}."""
    ln2_high, ln2_low = split(LN2, 41)  # |k| <= 1077 takes 11 more bits: 52 of 53
    numbers = {"LOG2_E": float(1 / LN2), "LN2_HIGH": ln2_high, "LN2_LOW": ln2_low}

    # exp r = 1 + r + r^2 E(r), least error relative to expm1 r; the bound leaves room for the
    # rounding of x log2(e)
    bound = LN2 / 2 * (1 + mpf(2) ** -40)
    problem = (lambda r: (expm1(r) - r) / r**2, lambda r: r**2 / abs(expm1(r)), -bound, bound)
    powers = minimax(*problem, 10)
    numbers |= {f"EXP_{i + 2}": c for i, c in enumerate(powers)}
    errors = {"expm1": error_in_ulp(powers, *problem)}

    # 2 atanh s = 2 s + s z L(z), z = s^2, s = f / (2 + f), 1 + f in [sqrt 1/2, sqrt 2]
    widest = ((sqrt(2) - 1) / (sqrt(2) + 1)) ** 2 * (1 + mpf(2) ** -40)
    problem = (lambda z: 2 * (atanh(sqrt(z)) / sqrt(z) - 1) / z, lambda z: z / 2, mpf(0), widest)
    powers = minimax(*problem, 7)
    numbers |= {f"LOG_{2 * i + 3}": c for i, c in enumerate(powers)}
    errors["log"] = error_in_ulp(powers, *problem)

    # (x + 1) mills(x) for x = 5 (1 + s) / (1 - s), s in [-1, 1): smooth to the limit 1 at s = 1, of all x >= 0
    problem = (scaled_mills, lambda s: 1 / scaled_mills(s), mpf(-1), mpf(1))
    powers = minimax(*problem, 25)
    numbers |= {f"MILLS_{i}": c for i, c in enumerate(powers)}
    errors["mills"] = error_in_ulp(powers, *problem)

    return numbers, errors


@cache
def scaled_mills(s):
    x = 5 * (1 + s) / (1 - s)
    return (x + 1) * sqrt(pi / 2) * erfc(x / sqrt(mpf(2))) * exp(x * x / 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", type=Path, nargs="+", metavar="FILE")
    paths = parser.parse_args().check
    numbers, errors = constants()
    lines = [f"#define CYMDN_{name} {number!r}" for name, number in numbers.items()]
    lines += [f"{{{at!r}, {weight!r}}}," for count in (7, 12, 16, 28) for at, weight in gauss_legendre(count)]
    if paths is None:
        print(*lines, sep="\n")
        for name, error in errors.items():
            print(f"/* {name}: approximation error {error:.4f} ulp */")
        return 0
    present = {re.sub(r"\s+", " ", line.strip()) for path in paths for line in path.read_text().splitlines()}
    missing = [line for line in lines if line not in present]
    print(*(f"in none of the files: {line}" for line in missing), sep="\n", end="\n" * bool(missing))
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main())
