"""Every value and derivative, against values by hand and 60-digit arithmetic (reference.py), within the stated bounds.

`python tests/test_accuracy.py` prints the tables of docs/formulas.md.
"""

from functools import cache

import numpy as np
import pytest
import reference
from checks import EPS, FLOATS, PENS, each_dtype
from problems import density_outputs
from reference import EXACT, LONG, Number, error_in_terms

import cymdn
from cymdn import gaussian_density_batch, gaussian_logpdf_and_gradient, mdn_loss_and_gradient

BOUND = 8.0  # eps of the terms, of rows that nobody searched for: less than the promise (reference.py)
COMPONENTS = {1: 30, 2: 20, 5: 10}  # rows for each number of components; attack.py tries many more

# Largest |atanh r| whose r is not 1 in the dtype, for functions that take r itself
LARGEST_ATANH = {np.float32: 8.3, np.float64: 18.0}


# Groups of rows: unconstrained parameters (n, M, ...) and points (n, 2)


def ordinary(rng, n, m):
    """Points about 1 sigma from the first component."""
    mean, log_stddev = rng.normal(size=(n, m, 2)), rng.normal(size=(n, m, 2))
    x = mean[:, 0] + np.exp(log_stddev[:, 0]) * rng.normal(size=(n, 2))
    logits, a = rng.normal(size=(n, m)), rng.normal(size=(n, m))
    return {"x": x, "logits": logits, "mean": mean, "log_stddev": log_stddev, "a": a}


def out_to_10000_sigma(rng, n, m):
    p = ordinary(rng, n, m)
    direction = rng.normal(size=(n, 2))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    distance = 10.0 ** rng.uniform(0, 4, size=(n, 1))
    p["x"] = p["mean"][:, 0] + np.exp(p["log_stddev"][:, 0]) * distance * direction
    return p


def correlation_up_to_18(rng, n, m):
    """Half of the points lie along the main axis of the first component, where u - v cancels."""
    p = ordinary(rng, n, m)
    p["a"] = rng.uniform(-18, 18, size=(n, m))
    u = rng.normal(size=(n, 2))
    u[::2, 1] = np.tanh(p["a"][::2, 0]) * u[::2, 0]
    p["x"] = p["mean"][:, 0] + np.exp(p["log_stddev"][:, 0]) * u
    return p


def correlation_18_along_the_axis_far_away(rng, n, m):
    p = correlation_up_to_18(rng, n, m)
    p["a"] = rng.choice([-1.0, 1.0], size=(n, m)) * rng.uniform(12, 18, size=(n, m))
    u = 10.0 ** rng.uniform(-2, 4, size=n)
    p["mean"][:, 0] = 0.0  # the points stay where they are put
    sigma = np.exp(p["log_stddev"][:, 0])
    p["x"] = np.stack([sigma[:, 0] * u, sigma[:, 1] * u * np.sign(p["a"][:, 0])], axis=-1)
    return p


def log_stddev_up_to_40(rng, n, m):
    p = ordinary(rng, n, m)
    p["log_stddev"] = rng.uniform(-40, 40, size=(n, m, 2))
    sigma = np.exp(p["log_stddev"][:, 0])
    p["mean"][:, 0] = sigma * rng.normal(size=(n, 2))
    p["x"] = p["mean"][:, 0] + sigma * rng.normal(size=(n, 2))
    return p


def stddev_1e_8(rng, n, m):
    p = ordinary(rng, n, m)
    p["log_stddev"] += np.log(1e-8)
    p["mean"] *= 1e-7
    p["x"] = p["mean"][:, 0] + 1e-8 * rng.normal(size=(n, 2))
    return p


def logits_1000_apart(rng, n, m):
    p = ordinary(rng, n, m)
    p["logits"] = rng.choice([-1000.0, 0.0, 1000.0], size=(n, m)) + rng.normal(size=(n, m))
    return p


def responsibilities_that_underflow(rng, n, m):
    """Components some 10 to 1000 sigma away, beside one nearby: exponents on both sides of where exp is denormal."""
    p = ordinary(rng, n, m)
    p["mean"][:, 1:] += np.exp(p["log_stddev"][:, 1:]) * 10.0 ** rng.uniform(1, 3, size=(n, m - 1, 1))
    # the second one where its responsibility is between 1e-330 and 1e-290
    for k in range(n if m > 1 else 0):
        p["log_stddev"][k, 1] = p["a"][k, 1] = 0.0
        p["mean"][k, 1] = p["x"][k] + [np.sqrt(2 * rng.uniform(668, 760)), 0.0]
    return p


def near_the_mean(rng, n, m):
    """A quarter of the points exactly at the mean of the first component."""
    p = ordinary(rng, n, m)
    p["mean"][:, 0] *= 1e-3
    distance = 10.0 ** rng.uniform(-12, -3, size=(n, 1)) * (np.arange(n)[:, None] % 4 > 0)
    p["x"] = p["mean"][:, 0] + np.exp(p["log_stddev"][:, 0]) * distance * rng.normal(size=(n, 2))
    return p


GROUPS = {
    "ordinary": ordinary,
    "points out to 1e4 sigma": out_to_10000_sigma,
    "abs(a) up to 18": correlation_up_to_18,
    "abs(a) of 12 to 18, points along the axis out to 1e4 sigma": correlation_18_along_the_axis_far_away,
    "log sigma in [-40, 40]": log_stddev_up_to_40,
    "sigma 1e-8": stddev_1e_8,
    "logits 1000 apart": logits_1000_apart,
    "responsibilities that underflow": responsibilities_that_underflow,
    "x near the mean": near_the_mean,
}


def rounded(group, m, dtype):
    """The unconstrained parameters of a group, rounded to the dtype."""
    p = GROUPS[group](np.random.default_rng(m), COMPONENTS[m], m)
    return {name: array.astype(dtype) for name, array in p.items()}


def natural(p):
    """x, weights, mean, stddev, correlation, rounded to the dtype and inside the domain."""
    dtype = p["x"].dtype
    limit = LARGEST_ATANH[dtype.type]
    wide = {name: array.astype(np.float64) for name, array in p.items()}
    weights = np.exp(wide["logits"] - wide["logits"].max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    correlation = np.tanh(np.clip(wide["a"], -limit, limit)).astype(dtype)
    assert (abs(correlation) < 1).all()
    return p["x"], weights.astype(dtype), p["mean"], np.exp(wide["log_stddev"]).astype(dtype), correlation


def raw_output(p, pen="none"):
    """raw, x and pen of a call of mdn_loss; pens certain and uncertain, logits small and large."""
    n = len(p["x"])
    columns = [p["logits"], *np.moveaxis(p["mean"], -1, 0), *np.moveaxis(p["log_stddev"], -1, 0), p["a"]]
    rng = np.random.default_rng(7)
    target = {
        "none": None,
        "bernoulli": rng.choice([0.0, 1.0, 0.25], size=n),
        "categorical": np.eye(3)[rng.integers(0, 3, size=n)],
    }[pen]
    pen_logits = rng.normal(size=(n, PENS[pen])) * 10.0 ** rng.uniform(-2, 3, size=(n, 1))
    return np.concatenate([pen_logits.astype(p["x"].dtype), *columns], axis=-1), p["x"], target


# Each level: (value, gradient) as computed, and exact


@cache  # the same for components and mixtures
def exact_components(group, m, dtype):
    x, _, *parameters = natural(rounded(group, m, dtype))
    return reference.natural_components(EXACT, x[:, None], *parameters)


def gaussian_level(group, m, dtype):
    x, _, *parameters = natural(rounded(group, m, dtype))
    value, gradient = gaussian_logpdf_and_gradient(x, *parameters)
    np.testing.assert_array_equal(cymdn.gaussian_logpdf(x, *parameters), value)
    return value, gradient, reference.gaussian(EXACT, x, *parameters, exact_components(group, m, dtype))


def mixture_level(group, m, dtype):
    arguments = natural(rounded(group, m, dtype))
    value, gradient = cymdn.mixture_logpdf_and_gradient(*arguments)
    np.testing.assert_array_equal(cymdn.mixture_logpdf(*arguments), value)
    log_weights = reference.log_weights(EXACT, arguments[1])
    mixed = reference.mix(EXACT, log_weights, exact_components(group, m, dtype))
    return value, gradient, reference.mixture(EXACT, *arguments, mixed)


def loss_level(pen, floor=None):
    def level(group, m, dtype):
        raw, x, target = raw_output(rounded(group, m, dtype), pen)
        keywords = {"stddev_floor": floor, "reduction": "none"}
        loss, gradient = mdn_loss_and_gradient(raw, x, target, **keywords)
        np.testing.assert_array_equal(cymdn.mdn_loss(raw, x, target, **keywords), loss)
        targets = None if target is None else target.reshape(len(x), -1)
        return loss, (gradient,), reference.loss(EXACT, raw, x, targets, exact_raw_mixture(group, m, dtype, floor))

    return level


@cache  # the same for every pen
def exact_raw_mixture(group, m, dtype, floor):
    raw, x, _ = raw_output(rounded(group, m, dtype))
    return reference.raw_mixture(EXACT, x, raw, floor=floor)


LEVELS = {
    "gaussian_logpdf": gaussian_level,
    "mixture_logpdf": mixture_level,
    **{f"mdn_loss, pen {pen}": loss_level(pen) for pen in PENS},
    **{f"mdn_loss, stddev_floor {floor}": loss_level("none", floor) for floor in (0.3, (1e-3, 0.0))},
}


def error_in_places(got, number):
    """Errors of float32 numbers in units of their last place, above what their terms in float64 allow."""
    exact = number.exact.astype(float)
    with np.errstate(over="ignore"):
        nearest = exact.astype(np.float32)
    error = np.maximum(0, abs(EXACT.real(got) - number.exact) - BOUND * 2.0**-52 * number.terms)
    places = (error / np.spacing(np.where(np.isinf(nearest), 1, abs(nearest))).astype(float)).astype(float)
    places = np.where(np.isfinite(got), places, np.inf)
    return np.where(np.isinf(nearest), np.where(got == nearest, 0.0, np.inf), places)


ERROR = {np.float64: error_in_terms, np.float32: error_in_places}
LIMIT = {np.float64: BOUND, np.float32: 0.5}  # a float32 result is the float64 one, rounded


def worst_errors(level, group, dtype):
    """Largest errors over a group: of the values, of the derivatives."""
    worst = np.zeros(2)
    for m in COMPONENTS:
        value, gradient, exact = LEVELS[level](group, m, dtype)
        batch = value.shape
        got = np.concatenate([a.reshape(*batch, -1) for a in (value, *gradient)], axis=-1)
        number = reference.side_by_side(batch, exact)
        errors = ERROR[dtype](got, number)
        # where the value is beyond the dtype, the gradient is to be exactly 0
        beyond = abs(number.exact[..., 0]) > float(np.finfo(dtype).max)
        errors[beyond, 0] = np.where(np.isinf(value[beyond]), 0, np.inf)
        errors[beyond, 1:] = np.where(got[beyond, 1:] == 0, 0, np.inf)
        worst = np.maximum(worst, [errors[..., 0].max(), errors[..., 1:].max()])
    return worst


@each_dtype
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("level", LEVELS)
def test_error_is_within_the_promise(level, group, dtype):
    value, derivative = worst_errors(level, group, dtype)
    assert value <= LIMIT[dtype]
    assert derivative <= LIMIT[dtype]


# Where the standardised offsets are exact, p = u + v and m = u - v are too, up to one rounding. The terms are those of
# the formulas in p and m, which do not cancel: right digits of Q are left where the expanded form has none.


def assert_within_eps_of_terms_in_p_and_m(got, exact, x, a):
    """Value, mean 0, 1, log stddev 0, 1, atanh correlation of the standard normal with this correlation."""
    (u, v), e = abs(x.T), np.exp(2 * a)
    p, m = abs(x[:, 0] + x[:, 1]), abs(x[:, 0] - x[:, 1])
    dmean = (p * (1 + 1 / e) + m * (1 + e)) / 4
    q = p**2 * (1 + 1 / e) / 4 + m**2 * (1 + e) / 4
    terms = [2 + abs(a) + q / 2, dmean, dmean, u * dmean + 1, v * dmean + 1, 1 + (p**2 / e + m**2 * e) / 4]
    assert (error_in_terms(got, Number(exact, np.stack(terms, axis=-1))) <= BOUND).all()


@pytest.mark.parametrize("from_raw_output", [True, False])
def test_exact_offsets_lose_nothing(from_raw_output):
    # correlations up to atanh 18, half of the points along the main axis; mean 0 and sigma 1
    rng = np.random.default_rng(11)
    a = rng.uniform(-18, 18, size=200)
    x = rng.choice([-1.0, 1.0], size=(200, 1)) * 10.0 ** rng.uniform(-3, 3, size=(200, 2))
    x[::2, 1] = x[::2, 0] * np.sign(a[::2])
    if from_raw_output:
        raw = np.stack([0 * a] * 5 + [a], axis=-1)
        loss, gradient = mdn_loss_and_gradient(raw, x, reduction="none")
        got = np.concatenate([loss[:, None], gradient[:, 1:]], axis=-1)
        value, slopes = reference.loss(EXACT, raw, x)
        exact = np.concatenate([value.exact[:, None], slopes.exact[:, 1:]], axis=-1)
        assert_within_eps_of_terms_in_p_and_m(got, exact, x, a)
        return
    r = np.tanh(a)
    value, gradient = gaussian_logpdf_and_gradient(x, np.zeros((1, 2)), np.ones((1, 2)), r[:, None])
    got = np.concatenate([part.reshape(200, -1) for part in (value, *gradient[:3])], axis=-1)
    exact = reference.gaussian(EXACT, x, np.zeros((1, 2)), np.ones((1, 2)), r[:, None])
    exact = reference.side_by_side((200,), exact).exact[:, :6]
    # sizes of terms need no digits, but must be those of the rounded correlation: beyond 10, atanh has lost some
    assert_within_eps_of_terms_in_p_and_m(got, exact, x, np.copysign(np.log((1 + abs(r)) / (1 - abs(r))) / 2, a))


@pytest.mark.skipif(not reference.EXTENDED, reason="long double is double here")
@pytest.mark.parametrize("group", GROUPS)
def test_long_double_is_exact_enough_to_judge_by(group):
    p = rounded(group, 2, np.float64)
    arguments, (raw, x, pen) = natural(p), raw_output(p, "categorical")
    for function, inputs in ((reference.mixture, arguments), (reference.loss, (raw, x, pen))):
        with np.errstate(all="ignore"):
            ours, exact = (reference.side_by_side((len(x),), function(of, *inputs)) for of in (LONG, EXACT))
        high = ours.exact.astype(float)
        off = abs(EXACT.real(high) + EXACT.real((ours.exact - high).astype(float)) - exact.exact)
        # the terms hold values of at most 2^-940 of themselves apart
        assert (off <= 2.0**-58 * exact.terms + 2.0**-990).all()
        # errors of shares are exp of up to 700 eps of terms of 1e15 and more
        assert (abs(ours.terms.astype(float) - exact.terms) <= 1e-4 * exact.terms).all()


# The drop-in level


REGIONS = {
    "ordinary": {},
    "30 sigma away": {"distance": 30.0},
    "sigma near the epsilon": {"stddev": 1e-8},
    "wide": {"stddev": 1e6},
    **{f"correlation {r:g}": {"correlation": r} for r in (0.0, 0.9, -0.9)},
    **{f"correlation {r!r}": {"correlation": r} for r in (0.9999999, -0.9999999)},
    **{f"correlation {r:g}": {"correlation": r} for r in (1.0, -1.0)},
}


def region(n, m, dtype=np.float64, seed=0, stddev=1.0, distance=1.0, correlation=None):
    """Random arguments; the points lie about `distance` standard deviations from the means."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=(n, m, 2))
    sigma = stddev * np.exp(rng.normal(size=(n, m, 2)))
    x = mean[:, :1] + distance * sigma[:, :1] * rng.normal(size=(n, 1, 2))
    r = np.tanh(rng.normal(size=(n, m, 1))) if correlation is None else np.full((n, m, 1), correlation)
    return tuple(a.astype(dtype) for a in (x, mean, sigma, r))


def densities(*arguments, **keywords):
    """The six outputs side by side, (n, m, 6), in float64."""
    outputs = density_outputs(gaussian_density_batch(*arguments, True, **keywords))
    return np.concatenate(list(outputs.values()), axis=-1, dtype=np.float64)


def densities_numpy(x, mean, stddev, correlation, smooth_eps=1e-10):
    """The same in plain NumPy: what a user would write, in the dtype of the arguments."""
    eps = mean.dtype.type(smooth_eps)
    offset = (x - mean) / (stddev + eps)
    u, v = offset[..., :1], offset[..., 1:]
    z = np.maximum(u**2 + v**2 - 2 * correlation * u * v, 0)
    q = 1 - correlation**2
    norm = 2 * np.pi * stddev[..., :1] * stddev[..., 1:] * np.sqrt(q + eps) + eps
    density = np.exp(-z / (2 * q + eps)) / norm
    c = 1 / (q + eps)
    dmean = c / (stddev + eps) * (offset - correlation * offset[..., ::-1])
    parts = [density, dmean, offset * stddev * dmean - 1, u * v + correlation * (1 - c * z)]
    return np.concatenate(parts, axis=-1, dtype=np.float64)


def worst_density_errors(arguments, arithmetic=EXACT):
    """Per output, the largest errors of ours and of NumPy's over components (n, 1), in eps of the dtype of terms."""
    x, mean, stddev, correlation = arguments
    dtype = mean.dtype.type
    number = reference.density(arithmetic, x, mean, stddev, correlation[..., 0])
    # below, the spacing of numbers is what limits
    counts = (number.exact == 0) | (abs(number.exact) > float(np.finfo(dtype).tiny))
    for function in (densities, densities_numpy):
        with np.errstate(all="ignore"):
            errors = error_in_terms(function(*arguments), number) * EPS[np.float64] / EPS[dtype]
        yield np.where(counts, errors, 0).max(axis=(0, 1))


@each_dtype
@pytest.mark.parametrize("name", REGIONS)
def test_density_is_within_a_few_eps(name, dtype):
    kernel, _ = worst_density_errors(region(200, 1, dtype, **REGIONS[name]))
    # half an eps for each rounding on the longest way, to dcorrelation: 3 in u and v, 3 more in w0 and w1, both of
    # which go into the product, 3 in c, 4 after it; in float32, the one of the result
    assert kernel.max() <= (5.0 if dtype is np.float64 else 0.5001)


@pytest.mark.skipif(not reference.EXTENDED, reason="long double is double here")
@pytest.mark.parametrize("name", REGIONS)
def test_density_is_as_near_to_the_exact_value_as_numpy(name):
    # enough points for the worst of both: of 200, NumPy's happen to be 1 eps better than of 2,000
    kernel, numpy = worst_density_errors(region(2000, 1, **REGIONS[name]), LONG)
    # 1 / q, and what saves the digits near a correlation of 1, are up to five roundings more than NumPy's where that
    # has them all; 2.1 eps is the most seen in 10,000 points of each region
    for output, ours, theirs in zip(reference.OUTPUTS, kernel, numpy, strict=True):
        assert ours <= theirs + 2.5, f"{output}: {ours:.2f} eps, NumPy {theirs:.2f} eps"


@pytest.mark.parametrize("name", REGIONS)
def test_float32_density_is_the_float64_result_rounded_once(name):
    arguments = region(300, 3, np.float32, **REGIONS[name])
    wide = tuple(a.astype(np.float64) for a in arguments)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(densities(*arguments), densities(*wide).astype(np.float32))


def test_tiny_densities_come_out_denormal_not_zero():
    # at 38.3 sigma the density is about 1e-320, below the smallest normal number
    arguments = np.array([[[38.3, 0.0]]]), np.zeros((1, 1, 2)), np.ones((1, 1, 2)), np.zeros((1, 1, 1))
    exact = float(reference.density(EXACT, *arguments[:3], arguments[3][..., 0]).exact[0, 0, 0])
    assert 0 < exact < 2.3e-308
    # eps of the terms (argument 733, 3 roundings) and the spacing of denormals
    density, _ = gaussian_density_batch(*arguments)
    np.testing.assert_allclose(density, exact, rtol=3 * 733 * EPS[np.float64], atol=2 * 5e-324)


def test_zero_stddev_is_smoothed_not_divided_by():
    zero = np.zeros((1, 1, 2))
    density, derivatives = gaussian_density_batch(zero, zero, zero, zero[..., :1], True)
    np.testing.assert_allclose(density, 1e10, rtol=EPS[np.float64], atol=0)
    assert all(np.isfinite(derivative).all() for derivative in derivatives)


def print_tables():
    """Print the tables of docs/formulas.md, "How near": worst errors, region by region and group by group."""
    print("| components | float64 | NumPy float64 | float32 | NumPy float32 |\n|---|---|---|---|---|")
    for name, keywords in REGIONS.items():
        both = [worst_density_errors(region(1000, 1, dtype, **keywords)) for dtype in FLOATS[::-1]]
        cells = [errors.max() for pair in both for errors in pair]
        print(f"| {name} | {' | '.join(f'{cell:.2g}' for cell in cells)} |")
    # float64: in eps of the terms; float32: in units of the last place of the result
    columns = [f"{dtype.__name__} {what}" for dtype in FLOATS[::-1] for what in ("value", "derivative")]
    print(f"\n| function | group | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}")
    for level in LEVELS:
        for group in GROUPS:
            cells = [f"{error:.2g}" for dtype in FLOATS[::-1] for error in worst_errors(level, group, dtype)]
            print(f"| `{level.replace(', ', '`, ', 1)}{'' if ',' in level else '`'} | {group} | {' | '.join(cells)} |")


if __name__ == "__main__":
    print_tables()
