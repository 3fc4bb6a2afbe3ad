"""A short run of the fuzzer (fuzz.py has the long one), and proof that it finds what it is there to find."""

from functools import partial

import builds
import fuzz
import fuzz_calls
import numpy as np
import pytest
from checks import assert_same_bits, flat

import cymdn


@pytest.mark.parametrize("seed", range(8))
def test_random_calls_keep_the_contract(seed):
    for number in range(150):
        try:
            fuzz.check_case(seed, number)
        except Exception as error:
            raise AssertionError(fuzz.describe(seed, number)) from error


# Functions that are wrong in one way, and what the fuzzer says of them. Arguments come as keywords.


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
    """Take a place off float64, which is less than the promise grants; a place of float32 is more."""

    def change(value, arguments):
        wrong = value.dtype == np.float64 and condition(value, arguments)
        return np.nextafter(value, -np.inf) if wrong else value

    return changing(change)


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
    fuzz.memory_of(out)[...] = 1
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
    "inaccurate": (changing(lambda value, _: value * (1 + 2.0**-48)), "eps of the terms"),
    "a number for NaN": (changing(lambda value, _: np.nan_to_num(value, nan=-1.0)), "not NaN in a row that has to be"),
    "a number for inf": (changing(lambda value, _: np.nan_to_num(value, nan=np.nan)), "not inf in a row beyond"),
    "NaN for inf": (changing(lambda value, _: np.where(np.isinf(value), np.nan, value)), "not inf|NaN for finite"),
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


def check_cases(count):
    for number in range(count):
        fuzz.check_case(0, number)


def draw_value(rng):
    """A call of mixture_logpdf."""
    while (call := fuzz_calls.draw_mixture(rng)).value_only:
        pass
    return call


@pytest.mark.parametrize("name", FLAWS)
def test_a_flaw_is_found(name, monkeypatch):
    flawed, message = FLAWS[name]
    monkeypatch.setattr(fuzz, "DRAWS", {draw_value: 1})
    monkeypatch.setattr(cymdn, "mixture_logpdf", partial(flawed, cymdn.mixture_logpdf))
    with pytest.raises((AssertionError, RuntimeWarning), match=message):
        check_cases(1000)


def test_printed_code_makes_the_same_call(monkeypatch, capsys):
    builds.share(monkeypatch, builds.running.WORKER_COMPONENTS)  # the code sets it
    repeated = 0
    for number in range(100):
        fuzz.check_case(1, number)
        made = fuzz.last
        try:
            results, _ = fuzz.invoke(made.function, made.arguments)
        except (TypeError, ValueError):
            continue
        namespace = {}
        exec(made.code(), namespace)
        assert_same_bits(flat(namespace["result"]), results)
        repeated += 1
    assert repeated > 50


def test_a_case_is_determined_by_seed_and_number():
    for number in range(20):
        fuzz.check_case(2, number)
        code = fuzz.last.code()
        fuzz.check_case(2, number)
        assert fuzz.last.code() == code
