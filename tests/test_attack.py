"""A short run of the attack (attack.py has the long one), and proof that it finds what it is there to find."""

from functools import partial

import attack
import climb
import numpy as np
import pytest

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


def spoiling(spoil):
    """Return what spoils `out` after the call, from what it held before."""

    def flawed(function, **arguments):
        out = arguments.get("out")
        held = None if out is None else out.copy()
        value = function(**arguments)
        if out is not None and out.size:
            spoil(out, held)
        return value

    return flawed


def write_beside(out, _):
    contents = out.copy()
    attack.memory_of(out)[...] = 1
    out[...] = contents


def leave_the_first_unwritten(out, held):
    out[(0,) * out.ndim] = held[(0,) * out.ndim]


def refusing(error):
    """Return what refuses as it should, but with another error, or with none."""

    def flawed(function, **arguments):
        try:
            return function(**arguments)
        except (TypeError, ValueError):
            if error is None:
                return np.float64(0)
            raise error from None

    return flawed


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
    "writing beside outputs": (spoiling(write_beside), "written beside an output"),
    "leaving outputs unwritten": (spoiling(leave_the_first_unwritten), OTHER_BITS),
    "returning another array": (lambda f, **given: np.array(f(**given))[()], "not the array given as out"),
    "refusing without a name": (refusing(ValueError("invalid input")), "not by the name of"),
    "refusing nothing": (refusing(None), "not refused"),
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
    with pytest.raises((AssertionError, RuntimeWarning), match=message):
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
