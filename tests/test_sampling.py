"""mdn_sample and BivariateMixture.sample: the right distribution, from any layout, whatever the parameters.

Draws are those of a twin in NumPy from the same numbers. Statistical tests, which know nothing of the twin, have fixed
seeds. Each compares p-values with FALSE_ALARM, so that a right sampler would fail one of the some 100 comparisons under
another seed with probability 1e-4 at most; a failure here is an error. The distribution
functions that points are compared with are tested against 60-digit arithmetic in test_univariate.py.
"""

import numpy as np
import pytest
from builds import PIECE
from checks import FALSE_ALARM, INF, assert_same_bits, each_dtype
from problems import Told, each_layout, network_output, parameters, planes, softmax
from reference import EPS
from scipy import stats

from cymdn import BivariateMixture, mdn_loss, mdn_sample

PENS = (0, 1, 3)


# The distribution


def assert_frequencies(chosen, probabilities):
    """Chi-square: numbers 0, 1, ... chosen with these probabilities; those expected fewer than 10 times are pooled."""
    counts = np.bincount(np.ravel(chosen), minlength=len(probabilities))
    assert len(counts) == len(probabilities)
    expected = np.asarray(probabilities) * np.size(chosen)
    rare = expected < 10
    assert (counts[expected == 0] == 0).all()
    counts, expected = (np.append(a[~rare], a[rare].sum()) for a in (counts, expected))
    counts, expected = counts[expected > 0], expected[expected > 0]
    if len(counts) > 1:
        assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > FALSE_ALARM


def assert_uniform(shares):
    """Kolmogorov's test of each of two columns in [0, 1], and chi-square of the pairs in 16 x 16 cells."""
    assert (shares >= 0).all()
    assert (shares <= 1).all()
    for column in shares.T:
        assert stats.kstest(column, "uniform", method="asymp").pvalue > FALSE_ALARM
    cells = np.minimum((16 * shares).astype(int), 15)
    assert_frequencies(16 * cells[:, 0] + cells[:, 1], np.full(256, 1 / 256))


def rosenblatt(mixture, x, first):
    """Distribution functions of one coordinate, and of the other one given it: independent and uniform."""
    given_first = mixture.conditional(first, x[:, first])
    return np.stack([mixture.marginal(first).cdf(x[:, first]), given_first.cdf(x[:, 1 - first])], axis=-1)


MIXTURES = {
    "one component": network_output(1, seed=1),
    "three": network_output(3, seed=2),
    "twenty": network_output(20, seed=3),
    "correlations of 0.9998 and -0.9998": np.concatenate([network_output(2, seed=4)[:-2], [4.6, -4.6]]),
    "sigmas a thousand apart": np.concatenate([network_output(2, seed=5)[:6], [-3.5, 3.5, 3.5, -3.5, 1.0, -1.0]]),
    **{f"natural parameters, M = {m}": parameters(m, seed=m) for m in (1, 3, 20)},
}


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("given", MIXTURES.values(), ids=MIXTURES)
def test_points_follow_their_density(given, first):
    natural = isinstance(given, tuple)
    mixture = BivariateMixture(*given) if natural else BivariateMixture.from_network_output(given)
    x = mixture.sample(40_000, rng=12) if natural else mdn_sample(given, size=40_000, rng=11).x
    assert_uniform(rosenblatt(mixture, x, first))


@pytest.mark.parametrize("weights", [[0.0, 1.0], [1.0, 0.0], [0.0, 0.5, 0.0, 0.0, 0.5, 0.0], [0.0, 0.0, 1.0]])
def test_a_weight_of_0_is_never_drawn(weights):
    m = len(weights)
    mixture = BivariateMixture(weights, np.arange(2.0 * m).reshape(m, 2), np.full((m, 2), 1e-9), np.zeros(m))
    component = np.rint(mixture.sample(10_000, rng=16)[:, 0] / 2).astype(int)
    assert_frequencies(component, weights)
    with np.errstate(divide="ignore"):
        logits = np.log(weights)
    raw = np.concatenate([logits, np.zeros(5 * m)])
    assert_frequencies(mdn_sample(raw, size=10_000, rng=17).component, weights)


@pytest.mark.parametrize(
    ("uniform", "expected"),
    [(0.0, 1), (np.nextafter(0.25, 0), 1), (0.25, 3), (1 - 2.0**-53, 3), (1.0, 3), (2.0, 3)],
    ids=repr,
)
def test_the_ends_of_the_uniform_numbers_choose_no_weight_of_0(uniform, expected):
    mixture = BivariateMixture(
        [0.0, 0.25, 0.0, 0.75, 0.0], np.stack([np.arange(5.0)] * 2, -1), np.ones((5, 2)), [0] * 5
    )
    np.testing.assert_array_equal(mixture.sample(rng=Told(uniform)), [expected] * 2)
    with np.errstate(divide="ignore"):
        raw = np.concatenate([np.log(mixture.weights), np.zeros(25)])
    assert mdn_sample(raw, rng=Told(uniform)).component == expected


def test_the_largest_uniform_number_is_within_any_weights():
    for seed in range(200):
        raw = network_output(7, seed=seed)
        assert mdn_sample(raw, rng=Told(1 - 2.0**-53)).component == 6


# Bias and temperature: Graves eq. 61 and 62; sketch-rnn, section 3.3

SHARPENINGS = [(0.0, 1.0), (0.5, 1.0), (3.0, 1.0), (0.0, 0.2), (0.0, 2.5), (1.0, 0.5)]


@pytest.mark.parametrize(("bias", "temperature"), SHARPENINGS)
def test_bias_and_temperature_do_to_parameters_what_their_formulas_say(bias, temperature):
    raw = network_output(4, (5,))
    logits, mean0, mean1, log_stddev0, log_stddev1, a = planes(raw)
    mixture = BivariateMixture.from_network_output(raw, bias=bias, temperature=temperature)
    log_stddevs = np.stack([log_stddev0, log_stddev1], axis=-1)
    # exp of some ten, rounded in its argument
    np.testing.assert_allclose(mixture.weights, softmax((1 + bias) / temperature * logits), rtol=40 * EPS, atol=0)
    expected = np.exp(log_stddevs - bias) * np.sqrt(temperature)
    np.testing.assert_allclose(mixture.stddevs, expected, rtol=40 * EPS, atol=0)
    np.testing.assert_array_equal(mixture.means, np.stack([mean0, mean1], axis=-1))
    np.testing.assert_array_equal(mixture.correlations, np.tanh(a))


@pytest.mark.parametrize("pens", PENS)
@pytest.mark.parametrize(("bias", "temperature"), SHARPENINGS)
def test_mixture_and_mdn_sample_draw_the_same_from_the_same_numbers(bias, temperature, pens):
    raw = network_output(4, (3, 5), pens)
    sharpening = {"pen": pens, "bias": bias, "temperature": temperature}
    mixture = BivariateMixture.from_network_output(raw, **sharpening)
    uniform, normal = np.random.default_rng(32).random((1, 15, 1)), np.random.default_rng(33).normal(size=(1, 15, 2))
    got = mixture.sample(rng=Told(uniform, normal))
    expected = mdn_sample(raw, rng=Told(np.repeat(uniform, 2 if pens else 1, axis=-1), normal), **sharpening).x
    # log stddev + log(temperature) / 2 - bias is rounded in one order or the other, at a size of some 4
    rounding = 20 * EPS * abs(expected).max() if (bias, temperature) != (0.0, 1.0) else 0.0
    np.testing.assert_allclose(got, expected, rtol=0, atol=rounding)


# Shapes and dtypes


@pytest.mark.parametrize("pens", PENS)
@pytest.mark.parametrize("batch", [(), (1,), (4,), (2, 3), (0,), (2, 0, 3)])
@pytest.mark.parametrize("size", [None, 0, 1, 5, np.int64(5), (), (2,), (3, 2), (0, 4)])
def test_size_goes_before_the_batch(size, batch, pens):
    shape = (*(() if size is None else size if isinstance(size, tuple) else (int(size),)), *batch)
    x, pen, component = mdn_sample(network_output(2, batch, pens), pen=pens, size=size, rng=0)
    assert x.shape == (*shape, 2)
    assert component.shape == shape
    assert component.dtype == np.int64
    assert np.shape(pen) == {0: (), 1: shape, 3: (*shape, 3)}[pens]
    assert np.isfinite(
        mdn_loss(np.broadcast_to(network_output(2, batch, pens), (*shape, pens + 12)), x, pen, reduction="sum")
    )
    mixture = BivariateMixture.from_network_output(network_output(2, batch))
    assert mixture.sample(size, rng=0).shape == (*shape, 2)
    assert np.shape(mixture.marginal(0).sample(size, rng=0)) == shape


@pytest.mark.parametrize("pens", PENS)
def test_float32_draws_are_those_of_float64_rounded(pens):
    raw = network_output(5, (40,), pens, np.float32)
    keywords = {"pen": pens, "bias": 0.3, "temperature": 0.7, "size": 9, "rng": 41}
    x, pen, component = mdn_sample(raw.astype(np.float64), **keywords)
    rounded = [None if a is None else a.astype(np.float32) for a in (x, pen)]
    assert_same_bits(mdn_sample(raw, **keywords), (*rounded, component))
    arrays = parameters(5, (40,), np.float32)
    wide = BivariateMixture(*(array.astype(np.float64) for array in arrays)).sample(9, rng=42)
    assert_same_bits(BivariateMixture(*arrays).sample(9, rng=42), wide.astype(np.float32))


# Where randomness comes from


RANDOM = np.random
SEEDS = [lambda: 5, lambda: np.int64(7), lambda: [1, 2], lambda: RANDOM.SeedSequence(9), lambda: RANDOM.PCG64(3)]
SEEDS += [lambda: RANDOM.Philox(4), lambda: RANDOM.Generator(RANDOM.MT19937(5))]


@pytest.mark.parametrize("make", SEEDS, ids=lambda make: type(make()).__name__)
def test_rng_is_what_default_rng_takes(make):
    raw = network_output(3, (4,), 1)
    expected = mdn_sample(raw, pen=1, rng=np.random.default_rng(make()))
    assert_same_bits(mdn_sample(raw, pen=1, rng=make()), expected)
    line = BivariateMixture.from_network_output(raw, pen=1).marginal(0)
    assert_same_bits(line.sample(rng=make()), line.sample(rng=np.random.default_rng(make())))


def test_a_generator_advances_a_seed_does_not_and_none_draws_anew_and_leaves_the_global_generator_alone():
    raw, rng, before = network_output(3, (4,)), np.random.default_rng(0), np.random.get_state()[1].tolist()  # noqa: NPY002
    first, second = mdn_sample(raw, rng=rng), mdn_sample(raw, rng=rng)
    assert (first.x != second.x).all()
    assert_same_bits(mdn_sample(raw, rng=0), first)
    assert_same_bits(mdn_sample(raw, rng=0), first)
    assert (mdn_sample(raw).x != mdn_sample(raw).x).all()
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


@pytest.mark.parametrize("pens", PENS)
def test_a_draw_takes_the_documented_count_of_numbers(pens):
    asked = []

    def counted(size):
        asked.append(np.prod(size))
        return 0.5

    mdn_sample(network_output(3, (4,), pens), pen=pens, size=6, rng=Told(counted, counted))
    assert asked == [24 * (2 if pens else 1), 24 * 2]


SIZES = {
    "a piece": (PIECE, None),
    "one row more": (PIECE + 1, None),
    "rows of some pieces": (2 * PIECE + 5, None),
    "each row more than once": (PIECE + 7, 3),
    "half a piece of rows": (PIECE // 2 + 1, 3),
    "many draws of few rows": (7, PIECE // 7 + 3),
    "many draws of one row": (1, 2 * PIECE + 1),
    "two axes of draws": (3, (2, PIECE // 3)),
}


@pytest.mark.parametrize("pens", PENS)
@pytest.mark.parametrize(("rows", "size"), SIZES.values(), ids=SIZES)
def test_every_draw_is_written_and_from_its_own_row(rows, size, pens):
    # all is certain: row i has component i % 2, at the point (i, -i), and pen state i % 3, or a stroke's end if odd
    i = np.arange(rows)
    raw = np.zeros((rows, pens + 12))
    logits, mean0, mean1, log_stddev0, log_stddev1, _ = planes(raw, pens)
    logits[i, i % 2] = 1000.0
    mean0[...], mean1[...] = i[:, None], -i[:, None]
    log_stddev0[...] = log_stddev1[...] = -30.0
    if pens == 1:
        raw[:, 0] = np.where(i % 2, 1000.0, -1000.0)
    elif pens == 3:
        raw[i, i % 3] = 1000.0
    x, pen, component = mdn_sample(raw, pen=pens, size=size, rng=51)
    np.testing.assert_array_equal(component, np.broadcast_to(i % 2, component.shape))
    # 10 sigma of 1e-13
    np.testing.assert_allclose(x, np.broadcast_to(np.stack([i, -i], axis=-1), x.shape), rtol=EPS, atol=1e-12)
    if pens == 1:
        np.testing.assert_array_equal(pen, np.broadcast_to(i % 2, pen.shape))
    elif pens == 3:
        np.testing.assert_array_equal(pen, np.broadcast_to(np.eye(3)[i % 3], pen.shape))


@pytest.mark.parametrize(("rows", "size"), [(PIECE + 1000, 2), (3, PIECE), (1, 3 * PIECE)])
def test_pieces_are_distributed_right_and_do_not_repeat_each_other(rows, size):
    raw = network_output(3, seed=6)
    x = mdn_sample(np.broadcast_to(raw, (rows, raw.size)), size=size, rng=52).x.reshape(-1, 2)
    assert len(np.unique(x[:, 0])) == len(x)
    assert_uniform(rosenblatt(BivariateMixture.from_network_output(raw), x, 1))


# Extreme parameters: never NaN, never a warning (pytest makes them errors)


def assert_drawn(sample):
    x, pen, component = sample
    assert not np.isnan(x).any()
    assert (component >= 0).all()
    assert pen is None or np.isin(pen, [0, 1]).all()


@each_dtype
@pytest.mark.parametrize("pens", PENS)
@pytest.mark.parametrize("scale", [1e2, 1e4, 1e15, 1e37, 1e307])
def test_raw_output_however_large_gives_no_nan(scale, pens, dtype):
    raw, largest = network_output(3, (100,), pens) * scale, np.finfo(dtype).max
    assert_drawn(mdn_sample(np.clip(raw, -largest, largest).astype(dtype), pen=pens, size=10, rng=61))


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e300, 1.7e308])
@pytest.mark.parametrize("bias", [0.0, 1e300, 1.7e308])
@pytest.mark.parametrize("pens", PENS)
def test_bias_and_temperature_however_large_give_no_nan(pens, bias, temperature):
    assert_drawn(mdn_sample(network_output(3, (50,), pens), pen=pens, bias=bias, temperature=temperature, rng=62))


@each_dtype
@pytest.mark.parametrize("keywords", [{"temperature": 1e-300}, {"temperature": 0.0}, {"bias": INF}], ids=str)
def test_a_greedy_draw_is_the_mean_of_the_heaviest_component(keywords, dtype):
    raw = network_output(3, (50,)).astype(dtype)
    logits, mean0, mean1, *_ = planes(raw)
    x, _, component = mdn_sample(raw, stddev_floor=0.5, rng=63, **keywords)
    best = logits.argmax(axis=-1)[:, None]
    np.testing.assert_array_equal(component, best[:, 0])
    means = np.concatenate([np.take_along_axis(mean, best, -1) for mean in (mean0, mean1)], axis=-1)
    np.testing.assert_array_equal(x, means)  # sigma is 1e-150 of itself, or 0


def test_a_greedy_draw_takes_the_likeliest_pen_and_the_first_of_equals():
    raw = network_output(3, (50,), 3)
    x, pen, _ = mdn_sample(raw, pen=3, temperature=0.0)
    np.testing.assert_array_equal(pen.argmax(axis=-1), raw[:, :3].argmax(axis=-1))
    x, pen, component = mdn_sample(np.zeros(1 + 12), pen=1, temperature=0.0, size=100)
    assert not np.concatenate([x.ravel(), pen, component]).any()


def test_logits_and_variances_may_have_temperatures_of_their_own():
    raw = network_output(3, seed=9)
    drawn = mdn_sample(raw, temperature=(0.0, 4.0), size=20_000, rng=1)
    heaviest = planes(raw)[0].argmax()
    assert (drawn.component == heaviest).all()
    mixture = BivariateMixture.from_network_output(raw[heaviest::3], temperature=(1.0, 4.0))
    assert_uniform(rosenblatt(mixture, drawn.x, 0))
    drawn = mdn_sample(raw, temperature=(2.0, 0.0), size=20_000, rng=2)
    assert_frequencies(drawn.component, softmax(planes(raw)[0] / 2.0))
    np.testing.assert_array_equal(drawn.x, np.stack([planes(raw)[1], planes(raw)[2]], -1)[drawn.component])


@pytest.mark.parametrize("keywords", [{}, {"bias": 0.7, "temperature": 0.5}], ids=str)
def test_draws_under_a_floor_follow_the_density_of_the_floored_mixture(keywords):
    raw = network_output(3, seed=10)
    floored = BivariateMixture.from_network_output(raw, stddev_floor=(0.5, 0.1), **keywords)
    sample = mdn_sample(raw, stddev_floor=(0.5, 0.1), size=40_000, rng=33, **keywords)
    assert_frequencies(sample.component, floored.weights)
    assert_uniform(rosenblatt(floored, sample.x, 0))


def test_equal_logits_stay_equal_at_any_sharpness():
    raw = np.zeros(1 + 12)
    _, pen, component = mdn_sample(raw, pen=1, bias=1e308, temperature=1e-300, size=20_000, rng=64)
    assert_frequencies(component, [0.5, 0.5])
    assert_frequencies(pen.astype(int), [0.5, 0.5])


def test_a_logit_of_minus_infinity_excludes_its_component_and_one_of_infinity_is_not_a_weight():
    raw = network_output(3, (1000,))
    planes(raw)[0][:, 1] = -np.inf
    planes(raw)[0][1, 2] = np.inf  # as in mdn_loss, whose loss is NaN
    x, _, component = mdn_sample(raw, rng=66)
    assert component[1] == -1
    assert set(np.delete(component, 1)) == {0, 2}
    np.testing.assert_array_equal(np.isnan(x).nonzero(), ([1, 1], [0, 1]))


@pytest.mark.parametrize("size", [None, 2, 50])
@pytest.mark.parametrize("pens", PENS)
def test_a_nan_matters_where_it_is_drawn_from_and_touches_nothing_else(pens, size):
    raw = network_output(3, (4,), pens)
    good = mdn_sample(raw, pen=pens, size=size, rng=67)
    for column in range(pens + 18):
        spoilt, plane = raw.copy(), (column - pens) // 3  # pen logits, logits, then parameters of components
        spoilt[2, column] = np.nan
        x, pen, component = (None if a is None else a.copy() for a in good)
        if plane < 0:
            pen[..., 2, *[slice(None)] * (pens == 3)] = np.nan
        elif plane == 0:
            x[..., 2, :], component[..., 2] = np.nan, -1
        else:  # means 0 and 1, stddevs 0 and 1, and the correlation, which moves the second coordinate
            x[..., 2, (0, 1, 0, 1, 1)[plane - 1]][component[..., 2] == (column - pens) % 3] = np.nan
        assert_same_bits(mdn_sample(spoilt, pen=pens, size=size, rng=67), (x, pen, component))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("a", [30.0, 400.0, 1e30])
def test_points_of_a_correlation_that_is_1_to_the_last_bit_lie_on_the_line(a, sign):
    x = mdn_sample([0.0, 0.0, 0.0, 0.0, 0.0, sign * a], size=1000, rng=70).x
    # off by sech(30) = 2e-13 sigma at most; a sigma is up to 6
    np.testing.assert_allclose(x[:, 1], sign * x[:, 0], rtol=0, atol=(1e-12 if a == 30.0 else 0.0))
    assert stats.kstest(x[:, 0], "norm").pvalue > FALSE_ALARM


@pytest.mark.parametrize("m", [1, 2, 100, 1000])
@pytest.mark.parametrize("size", [None, 1, 2, 3000])
def test_any_number_of_components_works(m, size):
    sample = x, _, component = mdn_sample(network_output(m), size=size, rng=71)
    assert sample._fields == ("x", "pen", "component")
    assert np.isfinite(x).all()
    assert (component >= 0).all()
    assert (component < m).all()


# Against a twin in NumPy, on anything


def choose_numpy(shares, uniform):
    cumulative = np.cumsum(shares, axis=-1)
    return (cumulative <= uniform[..., None] * cumulative[..., -1:]).sum(axis=-1)


def sample_numpy(raw, pens, bias, temperature, uniform, normal):
    """mdn_sample of rows (n, P + 6 M) from numbers (s, n, 1 or 2) and (s, n, 2), in float64."""
    logits, *rest = planes(raw, pens)
    component = choose_numpy(softmax((1 + bias) / temperature * logits), uniform[..., 0])
    mean0, mean1, log_stddev0, log_stddev1, a = (p[np.arange(len(raw)), component] for p in rest)
    scale = np.sqrt(temperature) * np.exp(-bias)
    x0 = mean0 + np.exp(log_stddev0) * scale * normal[..., 0]
    x1 = mean1 + np.exp(log_stddev1) * scale * (np.tanh(a) * normal[..., 0] + normal[..., 1] / np.cosh(a))
    pen_logits = raw[:, :3] if pens == 3 else np.stack([0 * raw[:, 0], raw[:, 0]], axis=-1)
    state = choose_numpy(softmax(pen_logits / temperature), uniform[..., 1]) if pens else None
    return np.stack([x0, x1], axis=-1), np.eye(3)[state] if pens == 3 else state, component


@each_layout
@pytest.mark.parametrize("pens", PENS)
@each_dtype
@pytest.mark.parametrize("seed", range(3))
def test_draws_are_those_of_a_twin_in_numpy(seed, dtype, pens, layout):
    rng = np.random.default_rng(seed)
    # more draws than components, and fewer, take other ways
    m, n, count = rng.integers(1, 9, 3)
    bias, temperature = rng.uniform(0, 4), 10.0 ** rng.uniform(-1.3, 1.3)
    raw = network_output(m, (n, 1), pens, dtype, seed) * dtype(rng.choice([0.1, 1, 4]))
    told = uniform, normal = rng.random((count, n, 2 if pens else 1)), rng.normal(size=(count, n, 2))
    keywords = {"pen": pens, "bias": bias, "temperature": temperature, "size": int(count), "rng": Told(*told)}
    odd = layout(raw)
    before = odd.tobytes()
    x, pen, component = mdn_sample(odd, **keywords)
    assert odd.tobytes() == before
    assert x.dtype == dtype
    wide = raw[:, 0].astype(np.float64)
    expected, state, chosen = sample_numpy(wide, pens, bias, temperature, uniform, normal)
    np.testing.assert_array_equal(component[..., 0], chosen)
    if pens:
        np.testing.assert_array_equal(pen[:, :, 0], state)
    # log sigma is within 20 and rounds in exp to 20 eps of a point's distance from the mean, below 10 sigma
    _, mean0, mean1, log_stddev0, log_stddev1, _ = planes(wide, pens)
    sigma = np.exp(np.maximum(log_stddev0, log_stddev1).max()) * max(1.0, np.sqrt(temperature))
    size = 10 * sigma + abs(mean0).max() + abs(mean1).max()
    np.testing.assert_allclose(x[..., 0, :], expected, rtol=np.finfo(dtype).eps, atol=20 * EPS * size)
