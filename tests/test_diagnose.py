"""diagnose: each thing that may be out of order is found, counted and named; nothing else is."""

import numpy as np
import pytest
from checks import INF, NAN, each_dtype

from cymdn import diagnose, mdn_loss_and_gradient

N, M = 400, 4


def healthy(dtype=np.float64, pens=0):
    """raw (N, P + 6 M) of components that overlap, and points."""
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(N, pens + 6 * M)) * 0.3
    raw[:, pens + M : pens + 3 * M] = rng.normal(size=(1, 2 * M))
    return raw.astype(dtype), (3 * rng.normal(size=(N, 2))).astype(dtype)


@each_dtype
def test_numbers_of_a_healthy_network_are_those_of_their_definitions(dtype):
    raw, x = healthy(dtype, pens=3)
    pen = np.eye(3)[np.arange(N) % 3]
    found = diagnose(raw, x, pen)
    loss, gradient = mdn_loss_and_gradient(raw.astype(np.float64), x.astype(np.float64), pen, reduction="none")
    planes = raw[:, 3:].reshape(N, 6, M).astype(np.float64)
    weights = np.exp(planes[:, 0]) / np.exp(planes[:, 0]).sum(-1, keepdims=True)
    above = np.sort(loss)[::-1] - np.sort(loss)[N // 2 - 1]
    groups = np.split(gradient, 3 + M * np.array([0, 1, 3, 5]), axis=1)
    expected = {
        "loss": loss.mean(),
        "spread": x.std(0),
        "smallest_stddevs": np.exp(planes[:, 3:5].min((0, 2))),
        "largest_stddevs": np.exp(planes[:, 3:5].max((0, 2))),
        "effective_components": (1 / (weights**2).sum(-1)).mean(),
        "heaviest_share": above[: N // 100].sum() / np.maximum(above, 0).sum(),
        "gradient_norms": [np.sqrt((group**2).sum() / N) for group in groups],
    }
    for name, numbers in expected.items():
        got = getattr(found, name)
        got = list(got.values()) if isinstance(got, dict) else got
        np.testing.assert_allclose(got, numbers, rtol=1e-4 if dtype is np.float32 else 1e-12, err_msg=name)
    assert list(found.gradient_norms) == ["pen", "logits", "mean", "log_stddev", "atanh_correlation"]
    assert (found.rows, found.n_components, found.heaviest[0]) == (N, M, (loss.argmax(),))
    assert found[3:6] == ((0, None),) * 3
    assert (found.collapsed, found.saturated, found.dead) == ((), (0, 0), ())
    assert str(found).endswith("nothing out of order")


def spoil_nan(raw, x):
    raw[5, 0] = raw[7, 3] = NAN


def spoil_inf(raw, x):
    x[6] = 1e300


def spoil_collapsed(raw, x):
    x[::2] = [1.5, -2.0]
    raw[:, [M + 1, 2 * M + 1]], raw[:, 3 * M + 1] = [1.5, -2.0], -9.0


def spoil_correlation(raw, x):
    raw[: N // 2, 5 * M], raw[: N // 4, 5 * M] = 10.0, -19.0


def spoil_weight(raw, x):
    raw[:, 2] = -15.0


@pytest.mark.parametrize(
    ("spoil", "fields", "line"),
    [
        (spoil_nan, {"nan": (2, (5,))}, "2 rows, the first (5,): loss NaN"),
        (spoil_inf, {"infinite": (1, (6,))}, "1 rows, the first (6,): loss inf"),
        (spoil_correlation, {"saturated": (1 / 2 / M, 1 / 4 / M)}, "beyond 9: 12.50%, beyond 18: 6.25%"),
        (spoil_weight, {"dead": (2,)}, "dead components 2:"),
        (spoil_collapsed, {}, "component 1 has collapsed onto (1.5, -2), stddevs (0.00012"),
    ],
)
def test_what_is_out_of_order_is_named_and_nothing_else(spoil, fields, line):
    raw, x = healthy()
    spoil(raw, x)
    found = diagnose(raw, x)
    for name, value in fields.items():
        assert getattr(found, name) == value
    assert str(found).count("\n- ") == 1
    assert line in str(found).splitlines()[-1]
    if spoil is spoil_collapsed:
        (collapse,) = found.collapsed
        assert collapse[:3] == (1, (1.5, -2.0), N // 2)
        floored = diagnose(raw, x, stddev_floor=(0.5, 0.1))
        assert not floored.collapsed
        assert floored.smallest_stddevs[0] == pytest.approx(0.5, rel=1e-6)


def test_pens_that_are_no_probabilities_are_named_by_index_in_the_batch():
    raw, x = healthy(pens=1)
    pen = np.zeros((20, 20))
    pen[3, 4], pen[5, 5] = 1.5, -1.0
    found = diagnose(raw.reshape(20, 20, -1), x.reshape(20, 20, 2), pen)
    assert found.bad_pens == found.nan == (2, (3, 4))
    assert len(found.heaviest[0]) == 2


def test_rows_of_weight_0_do_not_count():
    raw, x = healthy()
    raw[:10] = NAN
    weight = np.arange(N) >= 10
    found = diagnose(raw, x, sample_weight=weight)
    assert found == diagnose(raw[10:], x[10:])._replace(heaviest=found.heaviest)
    assert [index[0] - 10 for index in found.heaviest] == [index[0] for index in diagnose(raw[10:], x[10:]).heaviest]
    with pytest.raises(ValueError, match=r"^raw: expected a row of a weight above 0"):
        diagnose(raw, x, sample_weight=0 * weight)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e308, -1e308])
def test_any_output_is_reported_without_a_warning(value):
    raw, x = np.full((3, 12), value), np.zeros((3, 2))
    assert diagnose(raw, x).rows == 3
    assert "gradient norms per row" in str(diagnose(raw, x))


def test_tensors_are_taken_as_they_are():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra `torch`)")
    raw, x = healthy(np.float32)
    tensor = torch.from_numpy(raw).requires_grad_()
    assert diagnose(tensor, torch.from_numpy(x)) == diagnose(raw, x)
    assert diagnose(tensor.bfloat16(), torch.from_numpy(x)).rows == N
