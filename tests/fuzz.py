"""A fuzzer: random calls of every public function against the contract. `python tests/fuzz.py --minutes 2 --seed 0`.

Seed and number determine a case: `--seed 0 --case 123` makes that one again. A case (fuzz_calls.py) is a function,
arrays of random shapes, dtypes and values (NaN, infinities, denormal and huge numbers, ties, zeros), options, and a
judge (fuzz_contract.py). Checked are

- the plain call, of contiguous arrays of one dtype: shape and dtype of the results; NaN where the contract says so and
  nowhere else; numbers within 8 eps of their terms (reference.py); inf with gradient 0 beyond the dtype;
- the same numbers in arrays of any layout and any dtype, with `out=` of any layout or overlapping an argument, shared
  among workers: the same bits, outputs written whole and nothing beside them, arguments as they were;
- some of the rows, in any order: the same bits, so that no row touches another;
- the call with one thing wrong: TypeError or ValueError, in a message that begins with the name of an argument.

A failure is printed as code that makes the failing call. The cases run in a process of their own, so that a case that
ends it, as a sanitizer does, is named too.
"""

import argparse
import multiprocessing
import re
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import fuzz_calls
import numpy as np
from builds import running
from checks import assert_same_bits, flat
from fuzz_calls import DRAWS, chance, pick
from problems import LAYOUTS

import cymdn

nan, inf = np.nan, np.inf  # as they are printed

SENTINEL = -1.25e30  # in outputs before a call
OF_FEW_AXES = ("contiguous", "strided", "reversed_everywhere", "read_only", "byte_swapped", "misaligned")
NOT_TO_WRITE = ("read_only", "subclass")
MOST_CODE = 5000  # characters to be printed
ROOM = 1 << 14  # bytes behind an argument that outputs may lie over


# A call as it is made, and as code


class Name(str):
    """The name of another argument."""


class Made(NamedTuple):
    """An argument that a function of this file makes anew for each call."""

    function: Callable
    arguments: tuple

    def code(self):
        return f"{self.function.__name__}({', '.join(map(code_of, self.arguments))})"


def laid_out(values, layout):
    """Return numbers in an array of a layout of problems.py, in lists, of stride 0, or with room behind."""
    if layout == "list":
        return values.tolist()
    if layout == "broadcast":
        return np.broadcast_to(values[:1], values.shape)
    if layout == "roomy":
        memory = np.zeros(values.nbytes + ROOM, np.uint8)
        array = memory[: values.nbytes].view(values.dtype).reshape(values.shape)
        array[...] = values
        return array
    return LAYOUTS[layout](values)


def blank(shape, dtype, layout):
    """Return an array to be written to."""
    return laid_out(np.full(shape, SENTINEL, dtype), layout)


def over(array, shape, dtype, offset):
    """Return an array to be written to in the memory of a roomy argument, from so many bytes after its beginning."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return memory_of(array)[offset : offset + size].view(dtype).reshape(shape)


def memory_of(array):
    """Return the whole memory that an array is a view of, as bytes."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    if array.base is not None:
        return np.frombuffer(array.base, np.uint8)
    return array.ravel(order="K").view(np.uint8)  # contiguous, in some order of the axes


def literal(values):
    if values.size > 500:
        memory = f"np.frombuffer(bytes.fromhex({values.tobytes().hex()!r}), {values.dtype.str!r})"
    else:
        memory = f"np.array({values.ravel().tolist()}, {values.dtype.str!r})"
    return f"{memory}.reshape({values.shape})"


def code_of(value):
    if isinstance(value, Made):
        return value.code()
    if isinstance(value, Name):
        return str(value)
    if isinstance(value, np.ndarray):
        return literal(value)
    return f"({', '.join(map(code_of, value))},)" if type(value) is tuple and value else repr(value)


def made_of(value, arrays):
    """Make an argument, from those before it."""
    if isinstance(value, Made):
        return value.function(*(made_of(part, arrays) for part in value.arguments))
    if isinstance(value, Name):
        return arrays[value]
    return tuple(made_of(part, arrays) for part in value) if type(value) is tuple else value


class Invocation(NamedTuple):
    """A call that was made: the function, its arguments as they were drawn, what a worker must have to do."""

    function: str
    arguments: dict[str, Any]
    worker_components: int

    def code(self):
        """Return the call as a program."""
        lines = ["# in tests/", "from fuzz import *", f"running.WORKER_COMPONENTS = {self.worker_components}"]
        lines += [f"{name} = {code_of(value)}" for name, value in self.arguments.items()]
        names = ", ".join(f"{name}={name}" for name in self.arguments)
        return "\n".join([*lines, f"result = resolve({self.function!r})({names})", "print(result)"])


def resolve(function):
    return getattr(cymdn, function, None) or getattr(fuzz_calls, function)


last = Invocation("show_config", {}, 0)
made = Counter()


def invoke(function, arguments):
    """Make a call; return its arrays, flat, and those that were given for them. Arguments must stay as they are."""
    global last
    last = Invocation(function, arguments, running.WORKER_COMPONENTS)
    made[function] += 1
    arrays = {}
    for name, value in arguments.items():
        arrays[name] = made_of(value, arrays)
    specified, given = parts(arguments.get("out")), parts(arrays.get("out"))
    overlapped = {out.arguments[0] for out in specified if made_by(out, over)}
    inputs = [a for name, a in arrays.items() if isinstance(a, np.ndarray) and name not in {"out", *overlapped}]
    before = [a.tobytes() for a in inputs]
    apart = [(a, memory_of(a).copy()) for out, a in zip(specified, given, strict=True) if made_by(out, blank)]
    try:
        with warnings.catch_warnings(action="error"):
            results = flat(resolve(function)(**arrays))
    finally:
        assert before == [a.tobytes() for a in inputs], "an argument was modified"
    for array, memory in apart:
        assert_nothing_beside(array, memory)
    return results, given


def made_by(value, function):
    return isinstance(value, Made) and value.function is function


def parts(out):
    """The arrays to write to, nested or not, as a list; None stays."""
    return [array for part in out for array in parts(part)] if type(out) is tuple else [out]


def assert_nothing_beside(array, memory):
    """Check that only the elements of an output were written to, not the memory between and around them."""
    contents = array.copy()
    array[...] = SENTINEL
    assert (memory_of(array) == memory).all(), "written beside an output"
    array[...] = contents


# What is checked


def check_case(seed, number):
    """Make the calls of a case; AssertionError if anything is wrong."""
    rng = np.random.default_rng([seed, number])
    with np.errstate(all="ignore"):
        call = pick(rng, DRAWS, DRAWS.values())(rng)
    if chance(rng, 0.15):
        check_refusal(rng, call)
    elif call.refusal:
        assert_refused(call.function, call.arrays | call.options, [call.refusal])
    else:
        outputs = check_plain(call)
        if call.value_only:
            (value,), _ = invoke(call.value_only, call.plain() | call.options)
            assert_same_bits(np.asarray(value), outputs[0])
        check_odd(rng, call, outputs)
        if call.by_rows and 0 not in call.batch:
            check_rows(rng, call, outputs)


def check_plain(call):
    """The call of contiguous arrays of one dtype: what comes is what the contract says."""
    plain = call.plain()
    results, _ = invoke(call.function, plain | call.options)
    shapes = [np.shape(result) for result in results]
    assert shapes == call.outputs, f"shapes {shapes}, not {call.outputs}"
    for result, shape in zip(results, call.outputs, strict=True):
        assert result.dtype in (call.dtype, np.int64), f"dtype {result.dtype}, not {call.dtype}"
        assert (type(result) is np.ndarray) == bool(shape), "neither an array nor a scalar"
    outputs = [np.asarray(result) for result in results]
    if all(a.size for a in plain.values()):
        with np.errstate(all="ignore"):
            call.judge({name: a.astype(np.float64) for name, a in call.whole().items()}, outputs, call.dtype)
    return outputs


def check_odd(rng, call, expected):
    """The same numbers in any layout and dtype, written to any array, by any number of workers: the same bits."""
    arguments = {name: Made(laid_out, (a, draw_layout(rng, a))) for name, a in call.arrays.items()} | call.options
    if call.has_workers and chance(rng, 0.5):
        arguments["workers"] = pick(rng, (1, 2, 3, 7, -1))
    if call.has_out and chance(rng, 0.7):
        arguments["out"] = draw_out(rng, call, expected, arguments)
    threshold, running.WORKER_COMPONENTS = running.WORKER_COMPONENTS, pick(rng, (1, 10, 100))
    try:
        results, given = invoke(call.function, arguments)
    finally:
        running.WORKER_COMPONENTS = threshold
    if "out" in arguments:
        for result, array in zip(results, given, strict=True):
            assert array is None or result is array, "not the array given as out"
    for result, wanted in zip(results, expected, strict=True):
        assert_same_bits(np.asarray(result, wanted.dtype), wanted)


def draw_layout(rng, values):
    if chance(rng, 0.1) and 0 < values.size <= 200 and values.dtype == np.float64:
        return "list"
    if chance(rng, 0.3) and values.ndim and len({row.tobytes() for row in values}) == 1:
        return "broadcast"
    return pick(rng, layouts_of(values))


def layouts_of(values):
    return LAYOUTS if values.ndim > 1 else OF_FEW_AXES if values.ndim else ("contiguous",)


def draw_out(rng, call, expected, arguments):
    """Return arrays to write to, some of them None; at times one of them shares memory with an argument."""
    layouts = [[name for name in layouts_of(a) if name not in NOT_TO_WRITE] for a in expected]
    out = [
        None if chance(rng, 0.2) and len(expected) > 1 else Made(blank, (a.shape, a.dtype.str, pick(rng, names)))
        for a, names in zip(expected, layouts, strict=True)
    ]
    name, k = pick(rng, call.arrays), int(rng.integers(len(out)))
    if chance(rng, 0.3) and expected[k].nbytes + 16 <= ROOM:
        arguments[name] = Made(laid_out, (call.arrays[name], "roomy"))
        offset = pick(rng, (0, 1, expected[k].itemsize, 16))
        out[k] = Made(over, (Name(name), expected[k].shape, expected[k].dtype.str, offset))
    if len(out) == 1:
        return out[0]
    return tuple(out) if chance(rng, 0.5) or len(out) == 2 else (out[0], tuple(out[1:]))


def check_rows(rng, call, expected):
    """Some rows alone, in any order: the same bits."""
    total = int(np.prod(call.batch))
    rows = {
        "one": rng.integers(total, size=1),
        "a slice": np.arange(*np.sort(rng.integers(0, total + 1, 2))),
        "any": rng.integers(total, size=min(total, 5)),
    }[pick(rng, ("one", "a slice", "any"))]
    chosen = {name: a.reshape(total, *a.shape[len(call.batch) :])[rows] for name, a in call.whole().items()}
    results, _ = invoke(call.function, chosen | call.options)
    for result, wanted in zip(results, expected, strict=True):
        assert_same_bits(result, wanted.reshape(total, *wanted.shape[len(call.batch) :])[rows])


# Calls with one thing wrong

# made of an array that is good
NOT_NUMBERS = (
    lambda a: a.astype(complex),
    lambda a: a.astype(object),
    lambda a: a.astype(str),
    lambda a: a.astype("m8[s]"),
    np.ma.masked_array,
    lambda a: "1.0",
    lambda a: object(),
    lambda a: {"values": a},
    lambda a: [[1.0, 2.0], [3.0]],
    lambda a: a.astype(np.longdouble if np.dtype(np.longdouble).itemsize > 8 else complex),
)
WRONG_OUTPUTS = (
    lambda a: np.zeros(a.shape, np.int64),
    lambda a: np.zeros((*a.shape, 1), a.dtype),
    lambda a: np.broadcast_to(np.zeros((), a.dtype), a.shape),  # read-only
    lambda a: a.tolist(),
)


def check_refusal(rng, call):
    """One thing wrong is refused by name; what else is wrong with the call may be named as well."""
    kind = pick(rng, ("type", "option", "shape", "out"))
    name, arguments = pick(rng, call.arrays), call.arrays | call.options
    if kind == "type":
        blamed, arguments[name] = [name], pick(rng, NOT_NUMBERS)(np.ones(call.arrays[name].shape))
    elif kind == "option" and call.bad_options:
        option = pick(rng, call.bad_options)
        blamed, arguments[option] = [option], pick(rng, call.bad_options[option])
    elif kind == "out" and call.has_out:
        blamed, arguments["out"] = ["out"], draw_wrong_out(rng, call)
    else:
        shape = draw_wrong_shape(rng, call.arrays[name].shape)
        shapes = {key: a.shape for key, a in call.arrays.items()} | {name: shape}
        if call.fits(call.cores, call.batching, shapes):
            return
        blamed, arguments[name] = list(call.arrays), np.ones(shape)
    assert_refused(call.function, arguments, [*blamed, *([call.refusal] if call.refusal else [])])


def draw_wrong_out(rng, call):
    good = [np.zeros(shape, call.dtype) for shape in call.outputs]
    if chance(rng, 0.2):
        return (*good, good[0]) if chance(rng, 0.5) or len(good) == 1 else good[0]
    k = int(rng.integers(len(good)))
    good[k] = pick(rng, WRONG_OUTPUTS)(good[k])
    return good[0] if len(good) == 1 else tuple(good)


def draw_wrong_shape(rng, shape):
    """Return a shape with an axis more, an axis less, or one of another size."""
    k, kind = int(rng.integers(len(shape) + 1)), pick(rng, ("more", "less", "other", "other"))
    if kind == "more" or k == len(shape):
        return (*shape[:k], int(rng.integers(1, 4)), *shape[k:])
    changed = () if kind == "less" else (abs(shape[k] + pick(rng, (-1, 1))),)
    return (*shape[:k], *changed, *shape[k + 1 :])


def assert_refused(function, arguments, names):
    try:
        invoke(function, arguments)
    except (TypeError, ValueError) as error:
        message = str(error)
        assert re.match(rf"({'|'.join(names)})\b", message), f"refused, but not by the name of {names}: {message}"
    else:
        raise AssertionError(f"not refused: something is wrong with {names}")


# Running


def describe(seed, number):
    """Return how to make the last call, of this case, again."""
    code, again = last.code(), f"python tests/fuzz.py --seed {seed} --case {number}"
    if len(code) > MOST_CODE:
        path = Path(tempfile.gettempdir(), f"fuzz_{seed}_{number}.py")
        path.write_text(code)
        code = f"The call, too long to be printed, is in {path}"
    return f"{code}\n\nAgain: {again}"


def run(seed, numbers, seconds, most_failures, current):
    """Check cases until the time is over, or so many failed; return how many did."""
    end, failures, done = time.monotonic() + seconds, 0, 0
    for number in numbers:
        if time.monotonic() > end:
            break
        current.value, done = number, done + 1
        try:
            check_case(seed, number)
        except Exception:
            failures += 1
            traceback.print_exc()
            print(f"\n{describe(seed, number)}\n", flush=True)
            if failures == most_failures:
                break
    print(f"seed {seed}: {done} cases, {sum(made.values())} calls, {failures} failures", flush=True)
    print(*(f"  {count:9d} {name}" for name, count in made.most_common()), sep="\n", flush=True)
    return failures


def run_and_exit(*arguments):
    raise SystemExit(min(run(*arguments), 1))


def main():
    parser = argparse.ArgumentParser(description="Fuzz every public function of cymdn.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--cases", type=int, default=2**62, help="how many, if the time suffices")
    parser.add_argument("--case", type=int, help="check this one alone")
    parser.add_argument("--failures", type=int, default=1, help="stop after so many")
    arguments = parser.parse_args()
    first, cases = (arguments.first, arguments.cases) if arguments.case is None else (arguments.case, 1)
    context = multiprocessing.get_context("spawn")
    current = context.Value("q", -1)
    process = context.Process(
        target=run_and_exit,
        args=(arguments.seed, range(first, first + cases), 60 * arguments.minutes, arguments.failures, current),
    )
    process.start()
    process.join()
    if process.exitcode not in (0, 1):
        print(f"Ended by {process.exitcode} in: python tests/fuzz.py --seed {arguments.seed} --case {current.value}")
    raise SystemExit(process.exitcode != 0)


if __name__ == "__main__":
    main()
