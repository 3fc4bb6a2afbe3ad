"""BivariateMixture: what it evaluates, against 60-digit arithmetic and against the functions; the batch as an object.

Its modes, one-dimensional mixtures, fit and plot have files of their own.
"""

import copy
import itertools
import pickle
from functools import partial

import numpy as np
import pytest
import reference
from checks import FLOATS, assert_same_bits, each_dtype, flat
from problems import answers, elements, mixture, network_output, parameters, questions_of_points, values_of
from reference import EPS, EXACT, Number, error_in_terms, score
from test_accuracy import BOUND, GROUPS, natural, raw_output
from test_contract import any_finite

from cymdn import (
    BivariateMixture,
    Layout,
    fit_mixture,
    gaussian_logpdf,
    mdn_loss,
    mdn_sample,
    mixture_logpdf_and_gradient,
)

EVALUATIONS = ("pdf", "logpdf", "component_logpdf", "responsibilities", "score")  # each by a kernel
KINDS = ("natural", "network")
each_kind = pytest.mark.parametrize("kind", KINDS)


def points(batch=(), dtype=np.float64, seed=1):
    return (3.0 * np.random.default_rng(seed).normal(size=(*batch, 2))).astype(dtype)


def made(kind, m=3, batch=(), dtype=np.float64, of=None):
    """A batch of mixtures with natural or with unconstrained parameters inside; `of` numbers of another dtype."""
    if kind == "natural":
        return BivariateMixture(*(array.astype(dtype) for array in parameters(m, batch, of or dtype)))
    return BivariateMixture.from_network_output(network_output(m, batch, 0, of or dtype).astype(dtype))


@each_dtype
@pytest.mark.parametrize("m", [1, 3, 20, 300])
def test_natural_parameters_give_the_bits_of_the_functions(m, dtype):
    x, arrays = points((70,), dtype), parameters(m, (70,), dtype)
    batch = BivariateMixture(*arrays)
    value, gradient = mixture_logpdf_and_gradient(x, *arrays)
    assert_same_bits(batch.logpdf(x), value)
    assert_same_bits(batch.score(x), gradient.x)
    assert_same_bits(batch.component_logpdf(x), gaussian_logpdf(x, *arrays[1:]))


@each_dtype
@pytest.mark.parametrize("spread", [1.0, 6.0, 40.0])
@pytest.mark.parametrize("pens", [0, 1, 3])
def test_raw_output_gives_the_bits_of_the_loss(pens, spread, dtype):
    # a spread of 40: atanh correlations beyond 18, sigmas from e^-100 to e^100, responsibilities of 0
    x, raw = points((70,), dtype), network_output(5, (70,), pens, dtype) * dtype(spread)
    batch = BivariateMixture.from_network_output(raw, pen=pens)
    assert_same_bits(-batch.logpdf(x), mdn_loss(raw[:, pens:].copy(), x, reduction="none"))


# Values: 60 digits

ROWS = 12
COMPONENTS = (1, 4)


@pytest.fixture(scope="module", params=GROUPS)
def problem(request):
    """Unconstrained parameters and points of a group of test_accuracy, of one and of four components."""
    return [GROUPS[request.param](np.random.default_rng(m), ROWS, m) for m in COMPONENTS]


def assert_within_the_promise(batch, x, exact, components):
    """All evaluations of mixtures at points, against the exact mixtures and log-densities of components."""
    for name, number in (
        ("logpdf", exact.value),
        ("responsibilities", exact.shares),
        ("score", score(exact)),
        ("component_logpdf", components),
    ):
        assert (error_in_terms(getattr(batch, name)(x), number) <= BOUND).all(), name
    # exp makes an absolute error a relative one; below the range of float64 (1e-300) the density is denormal or 0
    density = EXACT.exp(exact.value.exact)
    bound = BOUND * EPS * density * (1 + exact.value.terms) + 1e-300
    assert (abs(EXACT.real(batch.pdf(x)) - density) <= bound).all()


def test_what_mixtures_evaluate_to_is_within_the_promise(problem):
    for p in problem:
        x, *arrays = natural(p)
        components = reference.natural_components(EXACT, x[:, None], *arrays[1:]).value
        exact = reference.natural_mixture(EXACT, x, *arrays)
        assert_within_the_promise(BivariateMixture(*arrays), x, exact, components)
        raw, x, _ = raw_output(p)
        components = reference.raw_components(EXACT, x[:, None], *reference.raw_parts(raw)[1:]).value
        exact = reference.raw_mixture(EXACT, x, raw)
        assert_within_the_promise(BivariateMixture.from_network_output(raw), x, exact, components)


# Values: limits


@each_kind
@pytest.mark.parametrize("position", [(1e6, -1e6), (1e150, 0.0)])
def test_a_far_point_has_a_log_density_and_a_responsible_component(kind, position):
    single = made(kind)
    assert np.isfinite(single.logpdf(position))
    assert single.pdf(position) == 0.0
    assert single.responsibilities(position).max() == 1.0
    # downhill, toward the mixture
    assert (single.score(position) * position).sum() < 0


@each_kind
@pytest.mark.parametrize("position", [(1e200, 0.0), (np.inf, 0.0), (-np.inf, np.inf)])
def test_a_point_beyond_all_densities_has_the_weights_for_responsibilities(kind, position):
    single = made(kind)
    assert single.logpdf(position) == -np.inf
    assert single.pdf(position) == 0.0
    np.testing.assert_array_equal(single.score(position), [0.0, 0.0])
    np.testing.assert_array_equal(single.component_logpdf(position), [-np.inf] * 3)
    np.testing.assert_allclose(single.responsibilities(position), single.weights, rtol=4 * EPS, atol=0)


@each_kind
def test_a_nan_in_a_point_touches_no_other(kind):
    single, x = made(kind), points((5,))
    good = {name: getattr(single, name)(x) for name in EVALUATIONS}
    x[2, 1] = np.nan
    for name in EVALUATIONS:
        got = getattr(single, name)(x)
        assert np.isnan(got[2]).all()
        np.testing.assert_array_equal(got[[0, 1, 3, 4]], good[name][[0, 1, 3, 4]])


def with_an_absent_component(kind):
    """A batch of mixtures of which components have weight 0, their places, and the mixtures without them."""
    if kind == "natural":  # one far away, one that would be the mode
        arrays = parameters(2, (5,))
        absent = 0.0, [[1e200, -1e200], [0.5, 0.5]], [[1e-200, 1e200], [1e-9, 1e-9]], [0.9, 0.0]
        more = (np.insert(a, [2, 2], held, axis=1) for a, held in zip(arrays, absent, strict=True))
        return BivariateMixture(*more), [2, 3], BivariateMixture(*arrays)
    raw = network_output(3, (5,))
    columns = np.arange(18).reshape(6, 3)[:, 1]
    without = BivariateMixture.from_network_output(np.delete(raw, columns, axis=-1))
    raw[:, columns] = np.nan
    raw[:, 1] = -np.inf
    return BivariateMixture.from_network_output(raw, temperature=1.0), [1], without


@each_kind
def test_an_absent_component_takes_no_part_whatever_it_holds(kind):
    mixtures, absent, without = with_an_absent_component(kind)
    x, exact = points((20, 1)), kind == "natural"
    for name in ("pdf", "logpdf", "score"):
        got, expected = (getattr(m, name)(x) for m in (mixtures, without))
        np.testing.assert_allclose(got, expected, rtol=0 if exact else 4 * EPS, atol=0, err_msg=name)
    for name in ("mean", "covariance", "mode"):
        got, expected = (getattr(m, name)() for m in (mixtures, without))
        size = {"natural": 0 if name != "mode" else 1e-13, "network": 1e-12}[kind]
        np.testing.assert_allclose(got, expected, rtol=size if not exact else 0, atol=size, err_msg=name)
    of_all = ((m.weights, m.responsibilities(x)) for m in (mixtures, without))
    for weights, expected in zip(*of_all, strict=True):
        np.testing.assert_array_equal(weights[..., absent], 0.0)
        np.testing.assert_array_equal(np.delete(weights, absent, axis=-1), expected)
    limits = [-1.0, 0.0], [2.0, 2.0]
    np.testing.assert_array_equal(mixtures.probability(*limits), without.probability(*limits))
    turned = [[0.6, -0.8], [0.8, 0.6]]
    assert not mixtures.transform(turned).weights[..., absent].any()
    assert np.isfinite(mixtures.transform(turned).logpdf([0.0, 0.0])).all()
    assert pickle.loads(pickle.dumps(mixtures)) == mixtures


# dtypes


@each_kind
def test_float32_answers_are_those_of_float64_rounded_once(kind):
    x = points((50, 1), np.float32)
    expected = answers(made(kind, 4, (6,), of=np.float32), x)
    for name, got in answers(made(kind, 4, (6,), np.float32), x).items():
        assert_same_bits(got, [a if a.dtype == np.int64 else a.astype(np.float32) for a in flat(expected[name])])


PROMOTED = {**dict.fromkeys(["f2", "f4", "?", "i1", "i2", "u2"], "f4"), **dict.fromkeys(["f8", "i4", "i8", "u8"], "f8")}


@pytest.mark.parametrize(("dtype", "expected"), PROMOTED.items())
def test_dtype_of_mixtures_and_of_draws_is_promoted_as_everywhere(dtype, expected):
    arrays = [np.array(a, dtype) for a in ([1], [[0, 0]], [[1, 1]], [0])]
    assert BivariateMixture(*arrays).dtype == expected
    assert BivariateMixture.from_network_output(np.zeros(6, dtype)).dtype == expected
    assert BivariateMixture.from_covariances(*arrays[:2], np.array([[[1, 0], [0, 1]]], dtype)).dtype == expected
    x, pen, component = mdn_sample(np.zeros((4, 9), dtype), pen=3, rng=0)
    assert (x.dtype, pen.dtype, component.dtype) == (expected, expected, np.int64)
    assert mdn_sample([0] * 6, rng=0).x.dtype == np.float64


# Shapes

BATCHES = [(), (1,), (4,), (3, 4), (3, 1), (2, 3, 4), (2, 1, 1), (0,), (3, 0)]
# those that broadcast: from the last axis on, sizes are equal or one of them is 1
PAIRS = [
    (ours, theirs)
    for ours, theirs in itertools.product(BATCHES, BATCHES)
    if all(len({a, b} - {1}) < 2 for a, b in zip(ours[::-1], theirs[::-1], strict=False))
]


@each_kind
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_points_and_mixtures_broadcast_to_the_bits_of_single_calls(ours, theirs, kind):
    batch, x = made(kind, 3, ours), points(theirs)
    shape = np.broadcast_shapes(ours, theirs)
    each = np.broadcast_to(np.arange(np.prod(ours, dtype=int)).reshape(ours), shape)
    singles, x_each = list(elements(batch).values()), np.broadcast_to(x, (*shape, 2))
    got = {name: flat(ask()) for name, ask in questions_of_points(batch, x).items()}
    for name, arrays in got.items():
        cores = {"component_logpdf": (3,), "responsibilities": (3,), "score": (2,)}
        assert np.shape(arrays[-1]) == (*shape, *cores.get(name, ()))  # of lines, the quantiles
    n = np.prod(shape, dtype=int)
    for index in list(np.ndindex(shape))[min(1, n - 1) :: max(1, n // 2)] if n else []:
        single = questions_of_points(singles[each[index]], x_each[index])
        for name, arrays in got.items():
            assert_same_bits([array[index] for array in arrays], single[name]())


@each_dtype
@each_kind
def test_answers_of_a_batch_are_those_of_its_elements(kind, dtype):
    batch, x = made(kind, 3, (2, 5), dtype), points((), dtype)
    whole = answers(batch, x, x[0])
    for index, single in elements(batch).items():
        for name, answer in answers(single, x, x[0]).items():
            if not name.startswith("sample"):
                assert_same_bits(answer, [a[index] for a in flat(whole[name])])
    assert made(kind, 3, (2, 0), dtype).mode().shape == (2, 0, 2)


@pytest.mark.parametrize("m", [1, 7, 255, 256, 257, 600])
@each_kind
def test_any_number_of_components_and_points_broadcasts(kind, m):
    batch, x, grid = made(kind, m, (3,)), points((4, 1)), points((40, 30))  # beyond a block of the kernel's
    for name in EVALUATIONS:
        got = getattr(batch, name)(x)
        np.testing.assert_array_equal(got[2, 1], getattr(batch[1], name)(x[2, 0]))
        got = getattr(batch[1], name)(grid)
        for index in [(0, 0), (1, 6), (1, 7), (20, 15), (39, 29)]:
            np.testing.assert_array_equal(got[index], getattr(batch[1], name)(grid[index]))


# Parameters


@each_dtype
def test_parameters_are_those_given(dtype):
    arrays = parameters(3, (4,), dtype)
    batch = BivariateMixture(*arrays)
    for name, array in zip(("weights", "means", "stddevs", "correlations"), arrays, strict=True):
        assert_same_bits(getattr(batch, name), array)
    assert (batch.n_components, batch.batch_shape, batch.dtype) == (3, (4,), dtype)


@each_kind
def test_covariances_are_products_of_the_other_parameters(kind):
    batch = made(kind, 3, (4,))
    (s0, s1), r = np.moveaxis(batch.stddevs, -1, 0), batch.correlations
    expected = np.moveaxis(np.array([[s0 * s0, r * s0 * s1], [r * s0 * s1, s1 * s1]]), (0, 1), (-2, -1))
    np.testing.assert_allclose(batch.covariances, expected, rtol=2 * EPS, atol=0)
    np.testing.assert_array_equal(batch.covariances, np.swapaxes(batch.covariances, -1, -2))


def test_arguments_broadcast_to_one_batch():
    weights, means, stddevs, correlations = parameters(3)
    batch = BivariateMixture(weights, means + np.arange(4.0)[:, None, None], stddevs, np.stack([correlations] * 4))
    assert batch.batch_shape == (4,)
    np.testing.assert_array_equal(batch.weights, [weights] * 4)
    np.testing.assert_array_equal(batch[2].means, means + 2.0)


# Mean and covariance


def moments_exact(*arrays):
    """Mean, and the three entries of the covariance."""
    w, means, stddevs, r = (EXACT.real(array) for array in arrays)
    mu, s = means.T, stddevs.T
    center = [(w * mu[k]).sum() for k in (0, 1)]
    numbers = [Number(center[k], abs(w * mu[k]).sum()) for k in (0, 1)]
    for a, b in ((0, 0), (0, 1), (1, 1)):
        own = s[a] * s[b] * (r if a != b else 1)
        terms = w * (own + (mu[a] - center[a]) * (mu[b] - center[b]))
        size = w * (s[a] * s[b] + (abs(mu[a]) + abs(center[a])) * (abs(mu[b]) + abs(center[b])))
        numbers.append(Number(terms.sum(), size.sum()))
    return Number(*(np.array(part) for part in zip(*numbers, strict=True)))


@pytest.mark.parametrize("m", [1, 2, 5, 20])
def test_mean_and_covariance_are_exact_to_rounding(m):
    for seed in range(5):
        arrays = parameters(m, seed=seed)
        single = BivariateMixture(*arrays)
        got = [*single.mean(), *single.covariance()[np.triu_indices(2)]]
        # exp(log w), the center, offsets, squares, and sums over up to 20 components
        assert (error_in_terms(got, moments_exact(*arrays)) <= 8).all()
        np.testing.assert_array_equal(single.covariance(), single.covariance().T)


def test_moments_of_raw_output_with_huge_correlations_are_those_of_its_parameters():
    raw = network_output(3)
    raw[-3:] = [30.0, -400.0, 1e30]
    single = BivariateMixture.from_network_output(raw)
    nearest = np.nextafter(1.0, 0.0)  # to 1, which no correlation is
    np.testing.assert_array_equal(single.correlations, [nearest, -nearest, nearest])
    expected = (single.weights[:, None, None] * single.covariances).sum(axis=0)
    offset = single.means - single.mean()
    expected = expected + (single.weights[:, None] * offset).T @ offset
    np.testing.assert_allclose(single.covariance(), expected, rtol=16 * EPS, atol=0)


# Credible levels


@each_kind
def test_the_level_of_one_component_is_the_known_one(kind):
    single = made(kind, 1)
    mass = np.array([0.001, 0.1, 0.5, 0.9, 0.99, 0.999])
    # density falls from its peak by 1 - mass at the ellipse that holds mass
    held = 1.0 - single.credible_level(mass) / single.pdf(single.means[0])
    np.testing.assert_allclose(held, mass, rtol=0, atol=2e-4)


def mixture_of_any_width(seed):
    rng = np.random.default_rng(seed)
    m = int(rng.choice([2, 3, 10]))
    weights, means, stddevs, _ = parameters(m, seed=seed)
    return BivariateMixture(weights, means, stddevs * 10.0 ** rng.uniform(-1, 1), np.tanh(2 * rng.normal(size=m)))


def narrow_components_on_the_points_of_a_plain_spiral(seed):
    # did all points lie there, the mass of 0.9 would be 0.024 off
    k, m = np.linspace(2048, 4095, 100).astype(int), 101
    radius, angle = np.sqrt(-2.0 * np.log1p(-(k + 0.5) / 4096)), np.pi * (3.0 - np.sqrt(5.0)) * k
    means, stddevs = np.zeros((m, 2)), np.full((m, 2), 1e-4)
    means[1:], stddevs[0] = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1), 1.0
    return BivariateMixture([1 - 1e-4, *[1e-6] * 100], means, stddevs, np.zeros(m))


@pytest.mark.parametrize(
    ("make", "seed"),
    [*((mixture_of_any_width, seed) for seed in range(6)), (narrow_components_on_the_points_of_a_plain_spiral, 0)],
)
def test_the_region_of_a_level_holds_its_mass(make, seed):
    single = make(seed)
    mass, n = np.array([0.05, 0.5, 0.9, 0.99]), 200_000
    held = (single.pdf(single.sample(n, rng=seed))[:, None] >= single.credible_level(mass)).mean(axis=0)
    # 0.002 as documented, and 5 standard errors: a false alarm among 28 comparisons has probability 1e-5
    assert (abs(held - mass) <= 0.002 + 5 * np.sqrt(mass * (1 - mass) / n)).all()


@each_kind
def test_levels_have_the_axes_of_the_batch_and_of_the_masses(kind):
    batch, mass = made(kind, 2, (2, 3)), np.array([[0.1, 0.5, 0.9, 0.99]] * 5)
    levels = batch.credible_level(mass)
    assert levels.shape == (2, 3, 5, 4)
    assert (np.diff(levels, axis=-1) < 0).all()
    assert batch.credible_level(0.5).shape == (2, 3)
    assert batch.credible_level([]).shape == (2, 3, 0)
    assert made(kind, 2, (0,)).credible_level(0.5).shape == (0,)


@each_dtype
def test_from_covariances_is_the_inverse_of_covariances(dtype):
    arrays = parameters(4, (5,), dtype)
    batch = BivariateMixture(*arrays)
    back = BivariateMixture.from_covariances(*arrays[:2], batch.covariances)
    assert back.dtype == dtype
    eps = np.finfo(dtype).eps
    np.testing.assert_array_equal(back.weights, arrays[0])
    np.testing.assert_array_equal(back.means, arrays[1])
    np.testing.assert_allclose(back.stddevs, arrays[2], rtol=2 * eps, atol=0)
    np.testing.assert_allclose(back.correlations, arrays[3], rtol=4 * eps, atol=0)


# The batch

INDICES = [0, -1, np.int64(1), slice(1, 3), slice(None, None, -1), slice(0, 0), ..., None, [0, 2, 2], [], ()]
INDICES += [(1, 2), (slice(None), 1), (..., 0), (None, 1), (1, slice(None, None, 2)), (0, [True, False, True, False])]
INDICES += [np.array([[0], [1]]), (np.array([0, 1]), np.array([1, 3])), np.array([True, False, True])]
INDICES += [np.arange(12).reshape(3, 4) % 2 == 0]


@pytest.mark.parametrize("kind", [*KINDS, "line"])
@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_an_index_takes_the_mixtures_that_it_takes_of_an_array(index, kind):
    batch = made(kind, 2, (3, 4)) if kind != "line" else mixture(2, (3, 4)).marginal(1)
    taken = batch[index]
    for name in ("weights", "means", "stddevs", *(["correlations"] if kind != "line" else [])):
        rest = getattr(batch, name).shape[2:]
        expected = getattr(batch, name).reshape(12, *rest)[np.arange(12).reshape(3, 4)[index]]
        assert_same_bits(getattr(taken, name), expected)
    assert taken.batch_shape == np.zeros((3, 4))[index].shape
    assert (taken.n_components, taken.dtype) == (2, batch.dtype)
    x = points() if kind != "line" else 0.5
    np.testing.assert_array_equal(taken.logpdf(x), batch.logpdf(x)[index])


@pytest.mark.parametrize("index", [3, -4, (0, 4), (0, 0, 0), (0, 0, slice(None)), 1.0, "a", [True, False], ([5],)])
def test_an_index_outside_the_batch_is_an_index_error(index):
    with pytest.raises(IndexError):
        mixture(2, (3, 4))[index]


@pytest.mark.parametrize("what", [lambda m: m, lambda m: m.marginal(1)], ids=["mixtures", "lines"])
def test_a_batch_has_a_length_and_elements_and_its_answers_are_arrays(what):
    batch = what(mixture(2, (3, 4)))
    assert len(batch) == 3
    assert [element.batch_shape for element in batch] == [(4,)] * 3
    np.testing.assert_array_equal([element.means for element in batch], batch.means)
    assert len(what(mixture(2, (0, 4)))) == 0
    assert list(what(mixture(2, (0, 4)))) == []
    assert repr(batch) == f"{type(batch).__name__}(n_components=2, batch_shape=(3, 4), dtype=float64)"


@pytest.mark.parametrize("use", [len, iter, list, lambda single: single[0], lambda single: single[...]])
def test_a_single_mixture_has_no_length_and_no_elements_and_its_answers_are_scalars(use):
    single = mixture()
    for one in (single, single.marginal(0)):
        with pytest.raises(TypeError, match=f"a single {type(one).__name__} has no .*see batch_shape"):
            use(one)
    for value in (single.pdf([0, 0]), single.logpdf([0, 0]), single.credible_level(0.5), single.marginal(0).mean()):
        assert isinstance(value, np.float64)


def through_memory_outside(batch):
    buffers = []
    data = pickle.dumps(batch, 5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[bytes(buffer) for buffer in buffers])


COPIES = {
    "copied": copy.copy,
    "copied deep": copy.deepcopy,
    "pickled with its memory outside": through_memory_outside,
    **{
        f"pickled, protocol {p}": lambda batch, p=p: pickle.loads(pickle.dumps(batch, p))
        for p in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


def a_fit(dtype):
    return fit_mixture(np.random.default_rng(0).normal(size=(30, 2)).astype(dtype), 2, rng=0, restarts=1)


COPIED = {
    **{kind: partial(made, kind, 3, (4,)) for kind in KINDS},
    "slice": lambda dtype: mixture(3, (4, 5), dtype)[1:],
    "marginal": lambda dtype: mixture(3, (4,), dtype).marginal(0),
    "conditional": lambda dtype: made("network", dtype=dtype).conditional(1, dtype(0.5)),
    "conditional of NaN": lambda dtype: mixture(dtype=dtype).conditional(0, dtype(np.nan)),
    "fit": a_fit,
    "layout": lambda dtype: Layout("(xy)(st)w", 2),
}


def numbers_of(thing):
    """All numbers of a thing that is copied, and of what is taken from it."""
    if isinstance(thing, Layout):
        return thing.to_cymdn(np.arange(10.0))
    if hasattr(thing, "bic"):
        return [*map(np.asarray, thing[1:]), thing.bic, thing.n_points, *numbers_of(thing.mixture)]
    x = points() if isinstance(thing, BivariateMixture) else 0.5
    parts = [thing, thing[-1], thing[...]] if thing.batch_shape else [thing]
    return [a for m in parts for a in (m.weights, m.means, m.stddevs, m.logpdf(x))]


@pytest.mark.parametrize("how", COPIES)
@each_dtype
@pytest.mark.parametrize("what", COPIED)
def test_a_copied_or_pickled_thing_is_the_same(what, dtype, how):
    thing = COPIED[what](dtype=dtype)
    back = COPIES[how](thing)
    assert type(back) is type(thing)
    assert repr(back) == repr(thing)
    assert back == thing or what in ("conditional of NaN", "layout")
    assert_same_bits(numbers_of(back), numbers_of(thing))
    if hasattr(thing, "weights"):
        with pytest.raises(AttributeError):
            back.weights = 1.0


@pytest.mark.parametrize("offset", [-1e300, -1e16, 1e4, 1e15, 1e300])
def test_what_all_logits_share_changes_no_bit(offset):
    # numbers that the offset does not round
    raw = network_output(4)
    raw[:4] = [0.0, 0.0, 8.0, 8.0] if abs(offset) <= 1e15 else 0.0
    plain, x = BivariateMixture.from_network_output(raw), points()
    raw[:4] += offset
    shifted = BivariateMixture.from_network_output(raw)
    assert_same_bits(answers(shifted, x), answers(plain, x))


# Immutability


@each_kind
def test_parameters_are_read_only_and_no_door_to_what_is_inside(kind):
    whole, part, single = made(kind, dtype=np.float32), made(kind, 3, (4,))[1:], made(kind)
    planes_and_lines = {whole: [0.0, 0.0], part: [0.0, 0.0], single.marginal(0): 0.0, single.conditional(0, 0.5): 0.0}
    for owner, x in planes_and_lines.items():
        names = ("weights", "means", "stddevs", *(("correlations", "covariances") if np.ndim(x) else ()))
        for name in (*names, "n_components", "batch_shape", "dtype", "new"):
            with pytest.raises(AttributeError):
                setattr(owner, name, 1.0)
            with pytest.raises(AttributeError):
                delattr(owner, name)
        for name in names:
            array, before = getattr(owner, name), owner.logpdf(x)
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0.0
            array.flags.writeable = True
            array[...] = 0.5
            np.testing.assert_array_equal(owner.logpdf(x), before)


@each_dtype
def test_the_callers_arrays_stay_writeable_and_apart(dtype):
    arrays, raw = parameters(3, (4,), dtype), network_output(3, (4,), 0, dtype)
    covariances, values = np.array(BivariateMixture(*arrays).covariances), np.ones(4, dtype)
    made_of = {
        "conditional": (BivariateMixture(*arrays).conditional(0, values), [values]),
        "natural": (BivariateMixture(*arrays), arrays),
        "network": (BivariateMixture.from_network_output(raw), [raw]),
        "covariances": (BivariateMixture.from_covariances(*arrays[:2], covariances), [covariances]),
    }
    x = {name: 0.0 if name == "conditional" else [0.0, 0.0] for name in made_of}
    before = {name: batch.logpdf(x[name]) for name, (batch, _) in made_of.items()}
    for name, (batch, given_arrays) in made_of.items():
        for array in given_arrays:
            assert array.flags.writeable
            array[...] = 0.25
        np.testing.assert_array_equal(batch.logpdf(x[name]), before[name])


def test_results_are_the_callers_own_and_points_are_not_modified():
    batch, x = mixture(3, (4,)), points((4,))
    before = x.copy()
    evaluations = [partial(getattr(batch, name), x) for name in EVALUATIONS]
    for ask in (batch.mean, batch.covariance, batch.mode, lambda: batch.sample(rng=0), *evaluations):
        first = ask()
        assert first.flags.writeable
        first[...] = 77.0
        assert (ask() != 77.0).all()
    np.testing.assert_array_equal(x, before)


# Extreme parameters: never NaN, never a warning (pytest makes them errors)


def assert_all_numbers(single, *points):
    """No method gives NaN or a warning."""
    x = np.array(points)
    found = answers(single, x, np.array([[-1.0], [0.0], [1.0], *single.means[0][:, None]]))
    for k in (0, 1):
        line = single.conditional(k, x[:, k])
        found[f"conditional {k} at a mean"] = [*values_of(line, line.means[..., 0]), line.sample(5, rng=0)]
    levels = found["credible_level"]
    assert (levels[1:] <= levels[:-1]).all(), "a larger mass has a higher level"
    variances = np.diagonal(found["covariance"])
    if not np.isfinite(variances).all():  # then so is the covariance, as documented
        found["covariance"] = variances
    for name, answer in found.items():
        assert not any(np.isnan(array).any() for array in flat(answer)), name


def extreme_mixtures():
    raw, network = network_output(3), BivariateMixture.from_network_output
    for scale, dtype, seed in itertools.product((30.0, 1e3, 1e8, 1e20), FLOATS, range(5)):
        yield network(network_output(3, seed=seed, dtype=dtype) * dtype(scale))
    for scale, sharpening in itertools.product((1.0, 1e20), ({"bias": 1e300}, {"temperature": 1e-300})):
        yield network(raw * scale, **sharpening)
        yield network(raw * scale, temperature=1e300)
    for scale in (2.3e-308, 1e-200, 1e-30, 1e30, 1e153, 1.7e308):
        stddevs = [[scale, 1.0], [1.0, scale], [scale, scale]]
        yield BivariateMixture([0.25, 0.25, 0.5], np.zeros((3, 2)), stddevs, [0.0, 0.9, -0.9])
    largest = np.nextafter(1.0, 0.0)
    yield BivariateMixture([0.5, 0.5], np.zeros((2, 2)), np.ones((2, 2)), [largest, -largest])
    yield network([*np.zeros(15), 30.0, -800.0, 1e300])
    # log stddevs 0, then 1: that of the first component leaves it no width, and levels nowhere to fall
    yield network([0.0, 0.0, -0.3235, -2.4576, 0.0, 0.5, 344.75, 345.4, -1.7e308, 319.24, -0.6377, -1.0824])
    for seed in range(60):
        rng = np.random.default_rng(seed)
        m = int(rng.integers(1, 5))
        sharpening = rng.choice([{}, {"bias": 1.0}, {"bias": 1e300}, {"temperature": 1e-300}, {"temperature": 1e300}])
        yield network(any_finite(rng, 6 * m, np.float64), **sharpening)
        shares, correlations = rng.choice([1.0, 0.5, 1e-9, 1e-200, 0.0], m), np.tanh(any_finite(rng, m, np.float64))
        weights = shares / shares.sum() if shares.any() else np.full(m, 1 / m)
        means, stddevs = (any_finite(rng, (m, 2), np.float64) for _ in range(2))
        yield BivariateMixture(weights, means, np.maximum(abs(stddevs), 2.3e-308), correlations * largest)


def test_extreme_mixtures_give_no_nan():
    for single in extreme_mixtures():
        assert_all_numbers(single, (0.0, 0.0), (0.5, -0.5), (1.0, -1.0), (1e300, -1e-300))


def test_sharpening_that_excludes_a_component_without_width_gives_no_nan():
    raw, x = np.zeros(18), [(0.0, 0.0), (1.0, -1.0)]
    raw[[2, 13]] = 2.0, -1.79e308  # the logit of the last component, log stddev 1 of the second
    sharpening = {"bias": 1e307, "temperature": 1e-300}
    sharpened = BivariateMixture.from_network_output(raw, **sharpening)
    assert_all_numbers(sharpened, *x)
    np.testing.assert_array_equal(sharpened.responsibilities(x), [[0, 0, 1]] * 2)
    assert mdn_sample(raw, **sharpening, rng=0).component == 2


# What raw output may hold besides


def test_a_mixture_under_a_floor_has_the_density_of_the_loss():
    raw, x = network_output(3, (200,)), np.random.default_rng(0).normal(size=(200, 2))
    raw[:50, 9:15] = -700.0  # sigma of 1e-304
    mixture = BivariateMixture.from_network_output(raw, stddev_floor=(0.3, 1e-3))
    loss = mdn_loss(raw, x, stddev_floor=(0.3, 1e-3), reduction="none")
    # two log stddevs and an atanh correlation are rounded once more: by an eps each, of up to 10 in distances of 1e6
    np.testing.assert_allclose(mixture.logpdf(x), -loss, rtol=1e-14, atol=1e-14)
    assert (mixture.stddevs >= [0.3, 1e-3]).all()
