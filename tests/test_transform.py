"""Mixtures that are moved, joined, compared, carried to other code and back; what they are as wholes."""

import json

import mpmath
import numpy as np
import pytest
from checks import INF, assert_same_bits, each_dtype
from mpmath import mpf
from problems import elements, mixture, network_output, parameters
from reference import EPS, EXACT

from cymdn import BivariateMixture

RNG = np.random.default_rng


def turn(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


# Affine maps, against 60 digits. An error is measured by what rounding the arguments does to the exact result.


def exact_map(t, l0, l1, a):
    """Log stddevs and atanh correlation of T x, by the textbook: rows of T L."""
    s0, s1, r, s = mpmath.exp(l0), mpmath.exp(l1), mpmath.tanh(a), mpmath.sech(a)
    p, q = ((row[0] * s0 + row[1] * s1 * r, row[1] * s1 * s) for row in t)
    sinh = (p[0] * q[0] + p[1] * q[1]) / (abs(t[0][0] * t[1][1] - t[0][1] * t[1][0]) * s0 * s1 * s)
    return [mpmath.log(mpmath.hypot(*p)), mpmath.log(mpmath.hypot(*q)), mpmath.asinh(sinh)]


def sensitivity(t, arguments):
    """How much an eps of each log stddev and of the atanh correlation moves the results."""
    base, step = exact_map(t, *arguments), mpf(10) ** -25
    total = [EPS * max(1, abs(value)) for value in base]
    for k, argument in enumerate(arguments):
        moved = exact_map(t, *(x + step * (i == k) for i, x in enumerate(arguments)))
        size = EPS * (abs(argument) if k == 2 else max(1, abs(argument)))
        total = [
            sum_ + abs(after - before) / step * size for sum_, after, before in zip(total, moved, base, strict=True)
        ]
    return base, total


def near_singular(rng):
    first = rng.normal(size=2)
    return np.outer(first, first[::-1]) + 1e-12 * rng.normal(size=(2, 2))


MAPS = {
    "moderate": lambda rng: (rng.normal(size=2), rng.uniform(-3, 3), rng.normal(size=(2, 2))),
    "narrow": lambda rng: (rng.normal(size=2), rng.choice([-1, 1]) * rng.uniform(8, 18), rng.normal(size=(2, 2))),
    "narrow, of unequal sigma": lambda rng: (rng.uniform(-7, 7, 2), rng.uniform(-18, 18), rng.normal(size=(2, 2))),
    "sigma from e^-40 to e^40": lambda rng: (rng.uniform(-40, 40, 2), rng.uniform(-18, 18), rng.normal(size=(2, 2))),
    "a ridge turned to an axis": lambda rng: (np.full(2, 0.3), rng.choice([-18.0, 18.0]), turn(np.pi / 4)),
    "a shear": lambda rng: (np.full(2, rng.normal()), 18.0, np.array([[1.0, -1.0], [0.0, 1.0]])),
    "nearly singular": lambda rng: (rng.normal(size=2), rng.uniform(-18, 18), near_singular(rng)),
    "diagonal": lambda rng: (rng.uniform(-40, 40, 2), rng.uniform(-18, 18), np.diag(rng.normal(size=2))),
    "rows of other sizes": lambda rng: (
        rng.normal(size=2), rng.uniform(-18, 18), rng.normal(size=(2, 2)) * 10.0 ** rng.uniform(-150, 150, (2, 1))
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MAPS)
def test_a_moved_component_is_off_by_no_more_than_a_rounding_of_its_parameters(kind):
    for seed in range(25):
        log_stddevs, a, t = MAPS[kind](RNG(seed))
        moved = BivariateMixture.from_network_output([0.0, 0.0, 0.0, *log_stddevs, a]).transform(t)
        exact, size = sensitivity(EXACT.real(t), [mpf(float(x)) for x in (*log_stddevs, a)])
        got = [*moved.log_stddevs[0], moved.atanh_correlations[0]]
        errors = [abs(mpf(float(x)) - y) / z for x, y, z in zip(got, exact, size, strict=True)]
        assert max(errors) <= 1.5


@pytest.mark.parametrize("a", [0.0, 3.0, -20.0, 300.0, -5000.0])
def test_no_size_of_a_correlation_or_stddev_is_too_large(a):
    for log_stddevs in ((0.0, 0.0), (600.0, -700.0), (-2000.0, 3000.0)):
        m = BivariateMixture.from_network_output([0.0, 0.0, 0.0, *log_stddevs, a])
        moved = m.transform(turn(0.7))
        assert np.isfinite(moved.to_network_output()).all()
        # the determinant is that of before
        size = abs(a) + abs(np.array(log_stddevs)).sum()
        before, after = (x.log_stddevs.sum() - x._parameters.log_kappa()[0] for x in (m, moved))
        np.testing.assert_allclose(after, before, rtol=0, atol=16 * EPS * (1 + size))


def test_what_would_underflow_on_the_way_does_not():
    moved = BivariateMixture([1.0], [[0.0, 0.0]], [[1e150, 1e-150]], [0.0]).transform([[1e-170, 1.0], [1e-170, 2.0]])
    # rows (1e-20, 1e-150) and (1e-20, 2e-150), determinant 1e-170
    np.testing.assert_allclose(moved.atanh_correlations, np.log(2e130), rtol=1e-14, atol=0)
    moved = BivariateMixture.from_network_output([0.0, 0.0, 0.0, 0.0, 0.0, 1000.0]).transform([[1.0, -1.0], [0.0, 1.0]])
    # an atanh correlation beyond 708 counts as that where nothing else is left
    assert -708 <= moved.log_stddevs[0, 0] <= -700
    small = BivariateMixture(np.float32([1.0]), np.float32([[1e3, 0.0]]), np.float32([[1.0, 1.0]]), np.float32([0.0]))
    with pytest.raises(ValueError, match=r"^offset: expected means within the range of numbers, got inf"):
        small.transform(np.float32([[1e37, 0.0], [0.0, 1.0]]))


def test_means_are_moved_without_cancellation():
    rng = RNG(0)
    means = rng.normal(size=(50, 2)) * 10.0 ** rng.uniform(-70, 70, (50, 1))
    for k, mean in enumerate(means):
        t = rng.normal(size=(2, 2))
        t[0] = [mean[1], -mean[0] * (1 + k * EPS)]  # the first product nearly cancels
        moved = BivariateMixture([1.0], [mean], [[1.0, 1.0]], [0.0]).transform(t)
        exact = EXACT.real(t) @ EXACT.real(mean)
        assert (abs(EXACT.real(moved.means[0]) - exact) <= 2 * EPS * abs(exact)).all()


@pytest.mark.parametrize("kind", ["natural", "network"])
def test_the_density_of_what_is_moved_is_that_of_before(kind):
    m = mixture(4) if kind == "natural" else BivariateMixture.from_network_output(network_output(4))
    rng = RNG(0)
    for _ in range(10):
        t, b, x = rng.normal(size=(2, 2)), rng.normal(size=2), rng.normal(size=(20, 2))
        moved = m.transform(t, b)
        after = moved.logpdf(x @ t.T + b) + np.log(abs(np.linalg.det(t)))
        np.testing.assert_allclose(after, m.logpdf(x), rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(moved.mean(), t @ m.mean() + b, rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(moved.covariance(), t @ m.covariance() @ t.T, rtol=1e-12, atol=1e-12)
        back = moved.transform(np.linalg.inv(t), -np.linalg.solve(t, b))
        np.testing.assert_allclose(back.to_network_output(), m.transform().to_network_output(), rtol=0, atol=1e-11)
        assert_same_bits(moved.weights, m.transform().weights)


@pytest.mark.parametrize("a", [3.0, 6.0, 8.0, 9.5, 20.0])
def test_normalised_points_go_back_to_the_units_of_the_data(a):
    # of float32 output whose correlation rounds to 1
    scale, shift = np.float32([71.3754, 40.0]), np.float32([320.0, 240.0])
    raw = np.float32([0.0, 0.2, -0.1, -1.0, -1.2, a])
    learned = BivariateMixture.from_network_output(raw)
    data = learned.transform(np.diag(scale), shift)
    assert data.dtype == np.float32
    x = np.float64([0.25, -0.06]) * scale + shift
    z = (EXACT.real(x) - EXACT.real(shift)) / EXACT.real(scale)
    m0, m1, l0, l1, a = (mpf(float(value)) for value in raw[1:])
    u, v = (z[0] - m0) / mpmath.exp(l0), (z[1] - m1) / mpmath.exp(l1)
    p, m = (u + v) ** 2 * (1 + mpmath.exp(-2 * a)) / 4, (u - v) ** 2 * (1 + mpmath.exp(2 * a)) / 4
    logs = l0 + l1 + sum(mpmath.log(mpf(float(s))) for s in scale)
    exact = -mpmath.log(2 * mpmath.pi) - logs + mpmath.log(mpmath.cosh(a)) - (p + m) / 2
    assert abs(mpf(float(data.logpdf(x))) - exact) <= 1e-11 * (1 + abs(exact))


def test_maps_broadcast_with_the_batch():
    m, t, b = mixture(2, (3, 1)), RNG(0).normal(size=(4, 2, 2)), RNG(1).normal(size=2)
    moved = m.transform(t, b)
    assert moved.batch_shape == (3, 4)
    for (i, _), single in elements(m).items():
        for j in range(4):
            assert moved[i, j] == single.transform(t[j], b)
    assert m.transform(np.empty((0, 1, 1, 2, 2))).batch_shape == (0, 3, 1)


# Carried


@each_dtype
@pytest.mark.parametrize("a", [2.0, 7.0, 9.2, 12.0, 19.5])
def test_a_mixture_is_restored_from_what_it_says_of_itself(a, dtype):
    raw = np.array([0.0, 0.05, 0.04, -1.0, -1.0, a], dtype)
    m = BivariateMixture.from_network_output(raw)
    told = [
        json.loads(json.dumps(getattr(m, name).tolist())) for name in ("weights", "means", "stddevs", "correlations")
    ]
    # by the four parameters: as well as a correlation tells; never refused
    restored = BivariateMixture(*(np.array(value, dtype) for value in told))
    assert abs(restored.correlations[0]) < 1
    # by the unconstrained ones: the very same
    kept = json.loads(json.dumps(m.to_network_output().tolist()))
    assert BivariateMixture.from_network_output(np.array(kept, dtype)) == m
    columns = [m.weights * 0, *m.means.T, *m.log_stddevs.T, m.atanh_correlations]
    assert_same_bits(np.concatenate(columns), raw)


@each_dtype
def test_a_file_of_arrays_keeps_a_mixture(dtype, tmp_path):
    natural, network = (
        mixture(3, (2,), dtype),
        BivariateMixture.from_network_output(network_output(3, (2,), dtype=dtype)),
    )
    np.savez(tmp_path / "natural.npz", *parameters(3, (2,), dtype))
    np.savez(tmp_path / "network.npz", raw=network.to_network_output())
    assert BivariateMixture(*np.load(tmp_path / "natural.npz").values()) == natural
    assert BivariateMixture.from_network_output(np.load(tmp_path / "network.npz")["raw"]) == network
    absent = BivariateMixture([0.0, 1.0], [[5.0, 5.0], [3.0, 1.0]], [[1.0, 1.0], [0.5, 2.0]], [0.0, 0.9])
    for m in (absent.transform(), BivariateMixture.concatenate([absent, absent.transform()], [1.0, 0.0])):
        assert BivariateMixture.from_network_output(m.to_network_output()) == m
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(natural.to_network_output()[..., :3], np.log(natural.weights), rtol=1e-6, atol=0)


def test_covariances_made_in_float32_are_taken():
    rng = RNG(0)
    for _ in range(200):
        t = turn(rng.uniform(0, 7)).astype(np.float32)
        c = (t @ np.diag(np.float32(rng.uniform(0.1, 9, 2))) @ t.T).astype(np.float64)
        m = BivariateMixture.from_covariances([1.0], [[0.0, 0.0]], [c])
        np.testing.assert_allclose(m.covariances[0], (c + c.T) / 2, rtol=1e-14, atol=1e-14)
    with pytest.raises(ValueError, match="symmetric"):
        BivariateMixture.from_covariances([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5001, 1.0]]])


def test_mixtures_are_equal_by_value():
    first, second, other = mixture(), mixture(), mixture(seed=1)
    assert first == second
    assert first != other
    assert len({first, second, other}) == 2
    assert first != mixture(dtype=np.float32)
    assert first != first.transform()  # of other parameters inside
    assert first != mixture(batch=(1,))
    assert first != "a mixture"
    zeros = [1.0], [[0.0, 0.0]], [[1.0, 1.0]], [0.0]
    negative = [1.0], [[-0.0, 0.0]], [[1.0, 1.0]], [-0.0]
    assert hash(BivariateMixture(*zeros)) == hash(BivariateMixture(*negative))
    lines = mixture(2, (3,)).marginal(0), mixture(2, (3,)).marginal(0)
    assert lines[0] == lines[1] != mixture(2, (3,)).marginal(1)


# Joined


def test_the_mixture_of_mixtures_has_the_weighted_density():
    first, second = mixture(3, seed=0), BivariateMixture.from_network_output(network_output(2))
    x = RNG(0).normal(size=(20, 2))
    for weights in (None, [0.25, 0.75], [1.0, 0.0]):
        joined = BivariateMixture.concatenate([first, second], weights)
        w0, w1 = weights or (0.5, 0.5)
        np.testing.assert_allclose(joined.pdf(x), w0 * first.pdf(x) + w1 * second.pdf(x), rtol=1e-13, atol=0)
        assert joined.n_components == 5
    natural = BivariateMixture.concatenate([first, mixture(2)])
    assert_same_bits(natural.means, np.concatenate([first.means, mixture(2).means]))
    assert BivariateMixture.concatenate([first]) == first


def test_joined_batches_broadcast():
    batch, single = mixture(2, (3,)), mixture(1, dtype=np.float32)
    joined = BivariateMixture.concatenate([batch, single], RNG(0).dirichlet([1.0, 1.0], size=(4, 1)))
    assert joined.batch_shape == (4, 3)
    assert joined.dtype == np.float64
    assert_same_bits(joined[2, 1].means[:2], batch[1].means)
    assert BivariateMixture.concatenate([single, single]).dtype == np.float32


# Labels, entropy, divergence


def test_labels_are_of_the_likeliest_component():
    m, x = mixture(4, (2, 1)), RNG(0).normal(size=(50, 2)) * 3
    labels = m.predict(x)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, m.responsibilities(x).argmax(axis=-1))
    np.testing.assert_array_equal(m.predict([np.nan, 0.0]), [[-1], [-1]])
    assert m[0, 0].predict([0.0, 0.0]).shape == ()


def by_grid(f, m):
    """Integral of f over a fine grid that holds the mixture."""
    low, high = (m.means - 9 * m.stddevs).min(axis=0), (m.means + 9 * m.stddevs).max(axis=0)
    x0, x1 = (np.linspace(a, b, 600) for a, b in zip(low, high, strict=True))
    x = np.stack(np.meshgrid(x0, x1), axis=-1)
    return f(x).sum() * (x0[1] - x0[0]) * (x1[1] - x1[0])


@pytest.mark.parametrize(("m", "spread"), [(1, 1.0), (2, 0.5), (5, 1.0), (5, 5.0), (20, 1.0)])
def test_entropy_and_divergence_are_the_integrals(m, spread):
    for seed in range(2):
        rng = RNG(seed)
        p, q = (
            BivariateMixture(
                rng.dirichlet(np.ones(m)), spread * rng.normal(size=(m, 2)), np.exp(rng.uniform(-2.0, 0.0, (m, 2))),
                np.tanh(rng.uniform(-1.5, 1.5, m)),
            )
            for _ in range(2)
        )  # fmt: skip
        entropy = by_grid(lambda x, p=p: -p.pdf(x) * p.logpdf(x), p)
        assert abs(p.entropy() - entropy) <= 2e-4
        divergence = by_grid(lambda x, p=p, q=q: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), p)
        assert abs(p.kl_divergence(q) - divergence) <= 2e-4 * (1 + divergence)


@pytest.mark.parametrize(
    ("stddevs", "correlations", "expected"),
    [
        ([[1.0, 1.0], [1.0, 1.0]], [0.0, 0.9999], 1.35036),
        ([[0.05, 1.0], [1.0, 0.05]], [0.0, 0.0], None),
        ([[1.0, 1.0], [1.0, 0.02]], [0.0, 0.0], None),
    ],
)
def test_entropy_sees_ridges(stddevs, correlations, expected):
    m = BivariateMixture([0.5, 0.5], [[0.0, 0.0], [0.0, 0.0]], stddevs, correlations)
    if expected is None:  # by Gauss-Legendre over pieces that fit all widths
        nodes, weights = np.polynomial.legendre.leggauss(20)
        cuts = np.array([0.0, 0.01, 0.02, 0.04, 0.08, 0.16, 0.3, 0.6, 1.0, 2.0, 4.0, 6.0, 9.0])
        half = np.diff(cuts) / 2
        x, w = (cuts[:-1, None] + half[:, None] * (1 + nodes)).reshape(-1), (half[:, None] * weights).reshape(-1)
        points = np.stack(np.meshgrid(x, x), axis=-1)
        expected = -4 * (w[:, None] * w * m.pdf(points) * m.logpdf(points)).sum()
    assert abs(m.entropy() - expected) <= 2e-4


def test_entropy_of_components_that_do_not_overlap_is_exact():
    for a in (0.0, 10.0, 40.0, 1000.0):
        raw = np.array([[0.0, 0.0], [0.0, 1e6], [0.0, 0.0], [3.0, 2.0], [-1.0, 0.5], [a, -a]])
        m = BivariateMixture.from_network_output(raw.reshape(-1))
        alone = 1 + np.log(2 * np.pi) + (raw[3] + raw[4]) - (a + np.log1p(np.exp(-2 * a)) - np.log(2))
        # far apart: the mean of both and the entropy of the weights
        np.testing.assert_allclose(m.entropy(), alone.mean() + np.log(2), rtol=1e-12, atol=1e-12)
        single = BivariateMixture.from_network_output(raw[:, 0])
        np.testing.assert_allclose(single.entropy(), alone[0], rtol=1e-12, atol=1e-12)


def test_divergence_has_its_bounds_and_is_known_of_single_components():
    p = BivariateMixture([1.0], [[0.0, 0.0]], [[1.0, 2.0]], [0.5])
    q = BivariateMixture([1.0], [[1.0, -1.0]], [[2.0, 1.5]], [-0.25])
    c, d = p.covariances[0], q.covariances[0]
    offset = q.means[0]
    exact = np.trace(np.linalg.solve(d, c)) + offset @ np.linalg.solve(d, offset) - 2
    exact = (exact + np.log(np.linalg.det(d) / np.linalg.det(c))) / 2
    np.testing.assert_allclose(p.kl_divergence(q), exact, rtol=1e-12, atol=0)
    m = mixture(5)
    assert m.kl_divergence(m) == 0.0
    # what shares half of its mass is nearer than log 2
    assert 0.0 <= m.kl_divergence(BivariateMixture.concatenate([m, p])) <= np.log(2)
    assert p.kl_divergence(BivariateMixture([1.0], [[0.0, 0.0]], [[1e-200, 1.0]], [0.0])) == INF


def test_divergences_broadcast():
    p, q = mixture(2, (3, 1)), mixture(3, (2,), seed=1)
    value = p.kl_divergence(q, workers=2)
    assert value.shape == (3, 2)
    assert_same_bits(value[2, 1], p[2, 0].kl_divergence(q[1]))
    assert p.entropy(workers=2).shape == (3, 1)
    assert mixture(2, dtype=np.float32).entropy().dtype == np.float32
