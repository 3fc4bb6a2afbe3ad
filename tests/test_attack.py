"""A short run of the attack (attack.py has the long one), and proof that it finds what it is there to find."""

from functools import partial

import attack
import climb
import numpy as np
import pytest
from checks import assert_same_bits, flat
from problems import Forged, HasArray, mixture

import cymdn


@pytest.mark.parametrize("seed", range(8))
def test_random_calls_keep_the_contract(seed):
    for number in range(150):
        try:
            attack.check_case(seed, number)
        except Exception as error:
            raise AssertionError(attack.describe(seed, number)) from error


# Functions that are wrong in one way, and what the attack says of them


def changing(change):
    """Return what makes of a function one whose result is changed, in `out` as well; change may take the arguments."""

    def flawed(function, **arguments):
        value, out = function(**arguments), arguments.get("out")
        wrong = np.asarray(change(np.asarray(value), arguments)).astype(value.dtype)
        if out is None:
            return wrong[()]
        out[...] = wrong
        return out

    return flawed


def less_if(condition):
    """Take a place off, which is less than the promise grants."""
    return changing(lambda value, given: np.nextafter(value, -np.inf) if condition(value, given) else value)


def is_strided(array):
    return isinstance(array, np.ndarray) and not array.flags.c_contiguous


def modifying(function, **arguments):
    value, x = function(**arguments), arguments["x"]
    if isinstance(x, np.ndarray) and x.flags.writeable:
        x[...] = 0
    return value


def writing_beside(function, out=None, **arguments):
    value = function(out=out, **arguments)
    if out is not None:
        contents = out.copy()
        attack.memory_of(out)[...] = 1
        out[...] = contents
    return value


def leaving_the_first_unwritten(function, out=None, **arguments):
    held = None if out is None else out.copy()
    value = function(out=out, **arguments)
    if out is not None and out.size:
        out.flat[0] = held.flat[0]
    return value


def warning(function, **arguments):
    np.log(-np.ones(1))
    return function(**arguments)


OTHER_BITS = "Arrays are not equal"
FLAWS = {
    "a number for NaN": (changing(lambda value, _: np.nan_to_num(value, nan=-1.0)), "not NaN in a row that has to be"),
    "NaN for inf": (changing(lambda value, _: np.where(np.isinf(value), np.nan, value)), "NaN for finite"),
    "minding workers": (less_if(lambda _, given: given.get("workers", 1) != 1), OTHER_BITS),
    "minding layout": (less_if(lambda _, given: is_strided(given["x"])), OTHER_BITS),
    "minding the number of rows": (less_if(lambda value, _: value.size > 2), OTHER_BITS),
    "minding other rows": (
        changing(lambda value, _: value * np.nan if np.isnan(value).any() else value),
        f"NaN for finite|{OTHER_BITS}",
    ),
    "modifying an argument": (modifying, "an argument was modified"),
    "writing beside outputs": (writing_beside, "written beside an output"),
    "leaving outputs unwritten": (leaving_the_first_unwritten, OTHER_BITS),
    "returning another array": (lambda f, **given: np.array(f(**given))[()], "not the array given as out"),
    "warning": (warning, "invalid value encountered in log"),
}


def draw_value(rng):
    """A call of mixture_logpdf."""
    while (call := attack.draw_mixture(rng)).value_only or "weights" not in call.arrays:
        pass
    return call


def check_cases(count):
    for number in range(count):
        attack.check_case(0, number)


@pytest.mark.parametrize("name", FLAWS)
def test_a_flaw_is_found(name, monkeypatch):
    flawed, message = FLAWS[name]
    monkeypatch.setattr(cymdn, "mixture_logpdf", partial(flawed, cymdn.mixture_logpdf))
    monkeypatch.setattr(attack, "DRAWS", (draw_value,))
    with pytest.raises((AssertionError, FloatingPointError), match=message):
        check_cases(1000)


@pytest.mark.parametrize("part", ["value", "gradient"])
def test_an_error_beyond_the_promise_is_found(part, monkeypatch):
    right = climb.mixture_logpdf_and_gradient

    def wrong(*arguments, **keywords):
        value, gradient = right(*arguments, **keywords)
        if part == "value":
            value = value * (1 + 2.0**-48)
        else:
            gradient[2][...] *= 1 + 2.0**-48
        return value, gradient

    monkeypatch.setattr(climb, "mixture_logpdf_and_gradient", wrong)
    assert climb.search(0, 1 / 60, ["mixture_logpdf"], [2], ["float64"]) == 1


# Objects that lie: what each is refused for, by name


def normal():
    return np.random.default_rng(0).normal(size=(30, 2))


def fitted(**given):
    return cymdn.fit_mixture(**{"points": normal(), "n_components": 2, "rng": 0, "restarts": 1} | given)


class Pair(tuple):
    """A tuple that says it has two items."""

    __slots__ = ()

    def __len__(self):
        return 2


class Pretender:
    """Says that it is an array."""

    __class__ = np.ndarray

    def __array__(self, dtype=None, copy=None):
        return np.zeros(5)


def nested(depth):
    out = np.zeros(5)
    for _ in range(depth):
        out = (out,)
    return out


def loss(**given):
    return cymdn.mdn_loss(np.zeros((5, 6)), np.zeros((5, 2)), reduction="none", **given)


def sample(**given):
    return cymdn.mdn_sample(np.zeros((5, 12)), **given)


def mixtures(n):
    return cymdn.BivariateMixture.from_network_output(np.zeros((n, 12)))


TWICE = np.lib.stride_tricks.as_strided
LIES = {
    "floor of three numbers": (lambda: loss(stddev_floor=Pair((1.0, 2.0, 3.0))), "stddev_floor: .* got 3 numbers"),
    "temperature of none": (lambda: sample(temperature=Pair()), "temperature: .* got 0 numbers"),
    "pens equal to 0, 1 and 3": (lambda: sample(pen=attack.Number(6)), "pen: .* got 6"),
    "axis equal to 0 and 1": (lambda: mixtures(1).marginal(attack.Number(-1)), "axis: expected 0 or 1, got -1"),
    "draws of another order": (lambda: sample(rng=Forged(attack.MISERS["other order"])), "rng: .* C-contiguous"),
    "output with one number for all": (
        lambda: loss(out=TWICE(np.zeros(1), (5,), (0,))),
        r"out \(loss\): .* do not overlap",
    ),
    "output over itself": (lambda: loss(out=TWICE(np.zeros(9), (5,), (4,))), r"out \(loss\): .* do not overlap"),
    "output that says it is an array": (lambda: loss(out=Pretender()), r"out \(loss\): .* got Pretender"),
    "components equal to those of init": (
        lambda: fitted(n_components=attack.Number(3), init=mixtures(1)[0]),
        "init: expected n_components = 3 components, got 2",
    ),
    "points of another shape": (
        lambda: fitted(points=HasArray(normal, shape=(3, 30, 2)), init=mixtures(3)),
        r"init: .* shape \(\) or \(\), ",
    ),
    "layout beyond memory": (lambda: cymdn.Layout("xys", 10**12), "n_components: .* at most 1000000"),
}


@pytest.mark.parametrize("name", LIES)
def test_what_a_lie_leads_to_is_refused_by_name(name):
    call, message = LIES[name]
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        call()


def test_outputs_in_any_number_of_tuples_are_found():
    assert loss(out=nested(10_000)).shape == (5,)


def test_strides_of_outputs_that_only_look_entangled_are_taken():
    memory = np.zeros((4, 7, 5), order="F")
    for out in (memory[0, 0], memory[1, ::-2, 1][:4], memory.T[2, :, 3], TWICE(np.zeros(1), (5,), (0,))[:1]):
        n = len(out)
        assert cymdn.mdn_loss(np.zeros((n, 6)), np.zeros((n, 2)), reduction="none", out=out) is out
        assert out.all()


class Shrinking:
    """A number of workers; to say which, it shrinks the arguments of the call."""

    def __init__(self, *arrays):
        self.arrays = arrays

    def __index__(self):
        for array in self.arrays:
            array.resize((2, *array.shape[1:]), refcheck=False)
        return 2


def test_workers_are_asked_before_arrays_are_looked_at():
    for method in ("logpdf", "pdf", "component_logpdf", "responsibilities", "score", "cdf", "log_probability"):
        x = np.zeros((100, 2))
        arguments = (x, np.ones(2)) if method == "log_probability" else (x,)
        assert len(getattr(mixtures(1)[0], method)(*arguments, workers=Shrinking(x))) == 2, method
    for function in (cymdn.gaussian_logpdf, cymdn.gaussian_logpdf_and_gradient):
        x, out = np.zeros((100, 2)), np.zeros((100, 1))
        given = (x, np.zeros((1, 2)), np.ones((1, 2)), np.zeros(1))
        with pytest.raises((TypeError, ValueError), match=r"^out"):
            function(*given, out=out, workers=Shrinking(x))
        assert not out.any()
    x = np.zeros((100, 2))
    assert len(mixtures(1)[0].marginal(0).ppf(x[:, 0] + 0.5, workers=2)) == 100


def test_without_threads_to_start_one_does_all(monkeypatch):
    raw, x = np.random.default_rng(0).normal(size=(2, 60_000, 2))
    raw = np.tile(raw, 3)
    expected = cymdn.mdn_loss_and_gradient(raw, x)
    tried = []

    def start(thread):
        tried.append(thread)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(attack.running.threading.Thread, "start", start)
    assert_same_bits(flat(cymdn.mdn_loss_and_gradient(raw, x, workers=3)), flat(expected))
    assert tried


@pytest.mark.parametrize(
    "whole", [mixture(2, (3,)), mixtures(3), mixtures(3).marginal(1)], ids=("natural", "raw", "line")
)
@pytest.mark.parametrize("spoil", attack.SPOILT)
def test_each_spoilt_state_is_refused_or_a_good_one(spoil, whole, monkeypatch):
    monkeypatch.setattr(attack, "SPOILT", (spoil,))
    for seed in range(12):
        attack.check_state(np.random.default_rng(seed), whole)
