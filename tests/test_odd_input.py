"""Odd but legal input to gaussian_density_batch gives the bits of the plain call, warns of nothing, is left as it was.

The plain call has contiguous, aligned, native, fresh arrays of one float dtype. Every row of the tables here is another
way to hand over the same numbers. No test here has a tolerance: the same numbers give the same bits.
"""

import array
import collections
import fractions
import itertools
from functools import partial

import numpy as np
import pytest
from builds import BLOCK
from checks import assert_same_bits, each_dtype
from problems import (
    LAYOUTS,
    HasArray,
    Subclass,
    density_outputs,
    density_problem,
    each_layout,
    integer_density_problem,
    plain,
)

from cymdn import gaussian_density_batch

ARGUMENTS = ("x", "mean", "stddev", "correlation")
SHARED = [names for k in range(1, 5) for names in itertools.combinations(ARGUMENTS, k)]


def evaluate(arguments, **keywords):
    """All outputs by name; asserts that no argument that is an array was modified."""
    before = {name: a.tobytes() for name, a in arguments.items() if isinstance(a, np.ndarray)}
    outputs = density_outputs(gaussian_density_batch(**arguments, compute_derivatives=True, **keywords))
    assert {type(a) for a in outputs.values()} == {np.ndarray}
    assert before == {name: a.tobytes() for name, a in arguments.items() if isinstance(a, np.ndarray)}
    return outputs


def evaluate_plain(arguments, dtype=None):
    return evaluate({name: plain(a, dtype) for name, a in arguments.items()})


STRANGE = {
    **{f"x {value}": ("x", value) for value in (np.nan, np.inf, -np.inf, 3e38)},
    "NaN mean": ("mean", np.nan),
    "inf mean": ("mean", np.inf),
    "-inf mean": ("mean", -np.inf),
    "largest mean": ("mean", 3e38),
    "NaN stddev": ("stddev", np.nan),
    "inf stddev": ("stddev", np.inf),
    "-inf stddev": ("stddev", -np.inf),
    "negative stddev": ("stddev", -1.0),
    "stddev 0": ("stddev", 0.0),
    "stddev -0": ("stddev", -0.0),
    "denormal stddev": ("stddev", 1e-45),
    "largest stddev": ("stddev", 3e38),
    "stddev that cancels smooth_eps": ("stddev", -1e-10),
    "NaN correlation": ("correlation", np.nan),
    "inf correlation": ("correlation", np.inf),
    "correlation 1": ("correlation", 1.0),
    "correlation -1": ("correlation", -1.0),
    "correlation beyond 1": ("correlation", 1.5),
    "correlation beyond -1": ("correlation", -1.5),
    "correlation just beyond 1": ("correlation", np.nextafter(1.0, 2.0)),
    "largest correlation": ("correlation", 3e38),
}


# Layouts


@each_dtype
@each_layout
def test_layouts_of_the_helpers_hold_the_same_numbers(layout, dtype):
    original = density_problem(dtype=dtype)["mean"]
    laid_out = layout(original)
    assert_same_bits(plain(laid_out), original)
    flags = laid_out.flags
    odd = not (flags.c_contiguous and flags.aligned and flags.writeable and laid_out.dtype.isnative)
    assert odd or layout in (LAYOUTS[name] for name in ("contiguous", "offset_by_one_element", "subclass"))


def with_one_row(*names):
    return {name: a[:1] if name in names else a for name, a in density_problem(100, 3).items()}


def with_strange_values():
    arguments = density_problem(30, 20)
    for k, (name, strange) in enumerate(STRANGE.values()):
        _, m, width = arguments[name].shape
        arguments[name][k, k % m, k % width] = strange
    return arguments


LAID_OUT = {
    "float32": lambda: density_problem(30, 20, np.float32),
    "float64": lambda: density_problem(30, 20),
    "int16": lambda: integer_density_problem(30, 20, np.int16),
    **{f"m = {m}": lambda m=m: density_problem(7, m) for m in (1, 3, BLOCK - 1, BLOCK, BLOCK + 1, 300)},
    "one x": lambda: with_one_row("x"),
    "one mixture": lambda: with_one_row("mean", "stddev", "correlation"),
    "one stddev": lambda: with_one_row("stddev"),
    "strange values": with_strange_values,
}


@pytest.mark.parametrize("what", LAID_OUT)
@each_layout
def test_layout_of_all_arguments_and_of_each_one_does_not_matter(layout, what):
    arguments = LAID_OUT[what]()
    n, dtype = max(map(len, arguments.values())), np.result_type(arguments["mean"], np.float32)
    expected = evaluate_plain({name: np.broadcast_to(a, (n, *a.shape[1:])) for name, a in arguments.items()}, dtype)
    odd = {name: layout(a) for name, a in arguments.items()}
    assert_same_bits(evaluate(odd), expected)
    assert_same_bits(gaussian_density_batch(**odd)[0], expected["density"])
    for name in ARGUMENTS:
        assert_same_bits(evaluate({**arguments, name: odd[name]}), expected)


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(LAYOUTS, 2)))
def test_layout_on_layout_does_not_matter(first, second):
    arguments = density_problem()
    odd = {name: LAYOUTS[second](LAYOUTS[first](a)) for name, a in arguments.items()}
    assert_same_bits(evaluate(odd), evaluate(arguments))


@each_dtype
@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_axes_of_stride_0_are_as_good_as_copies(axes, dtype):
    first = tuple(slice(0, 1) if k in axes else slice(None) for k in range(3))
    odd = {name: np.broadcast_to(a[first], a.shape) for name, a in density_problem(30, 20, dtype).items()}
    assert_same_bits(evaluate(odd), evaluate_plain(odd))


@each_dtype
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_memory_mapped_files_are_as_good_as_arrays(tmp_path, mode, dtype):
    arguments = density_problem(n=30, m=20, dtype=dtype)
    odd = {}
    for name, a in arguments.items():
        (tmp_path / name).write_bytes(b"head." + a.tobytes())  # 5 bytes: the data are misaligned
        odd[name] = np.memmap(tmp_path / name, dtype, mode, offset=5, shape=a.shape)
    assert_same_bits(evaluate(odd), evaluate(arguments))


def test_arguments_that_are_one_array_or_views_of_one_work():
    table = np.random.default_rng(0).uniform(0.1, 0.9, (30, 20, 5))
    odd = {"x": table[:, :1, :2], "mean": table[..., :2], "stddev": table[..., 2:4], "correlation": table[..., 4:]}
    for arguments in (odd, odd | {"mean": odd["stddev"]}):
        assert_same_bits(evaluate(arguments), evaluate_plain(arguments))


# Dtypes

# What other dtypes become: as np.result_type(dtype, np.float32) says
PROMOTED = {
    "?": np.float32,
    "i1": np.float32,
    "u1": np.float32,
    "i2": np.float32,
    "u2": np.float32,
    "f2": np.float32,
    "i4": np.float64,
    "u4": np.float64,
    "i8": np.float64,
    "u8": np.float64,
}


ORDERED = (">i2", "<i2", ">i4", "<i4", ">i8", "<i8", ">u8", "<u8", ">f2", "<f2")


@pytest.mark.parametrize("dtype", [*PROMOTED, *ORDERED])
def test_integers_bool_and_float16_of_any_byte_order_give_the_bits_of_the_float_they_become(dtype):
    arguments = integer_density_problem(n=30, m=20, dtype=dtype)
    assert_same_bits(evaluate(arguments), evaluate_plain(arguments, PROMOTED[dtype[-2:]]))


def test_float16_of_any_value_gives_the_bits_of_float32():
    arguments = density_problem(n=30, m=20, dtype=np.float16)
    assert_same_bits(evaluate(arguments), evaluate_plain(arguments, np.float32))


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize(("one", "others"), list(itertools.product([*PROMOTED, "f4", "f8"], ["f4", "f8"])))
def test_one_argument_of_another_dtype_gives_the_bits_of_the_common_dtype(one, others, name):
    arguments = integer_density_problem(dtype=others)
    arguments[name] = arguments[name].astype(one)
    common = np.result_type(one, others, np.float32)
    assert common == np.result_type({**PROMOTED, "f4": "f4", "f8": "f8"}[one], others)
    outputs = evaluate(arguments)
    assert {a.dtype for a in outputs.values()} == {common}
    assert_same_bits(outputs, evaluate_plain(arguments, common))


@pytest.mark.parametrize(
    ("dtype", "unlucky"), [("i8", 2**24 + 1), ("i8", 2**53 + 1), ("i8", 2**63 - 1), ("u8", 2**64 - 1)]
)
def test_large_integers_are_rounded_once_to_float64(unlucky, dtype):
    arguments = integer_density_problem(dtype=dtype)
    for name in ("x", "mean"):
        arguments[name] = arguments[name] + np.array(unlucky - 1, dtype)
    assert_same_bits(evaluate(arguments), evaluate_plain(arguments, np.float64))


def test_dtype_with_metadata_is_the_dtype():
    arguments = density_problem()
    odd = {name: a.astype(np.dtype(a.dtype, metadata={"unit": "mm"})) for name, a in arguments.items()}
    assert_same_bits(evaluate(odd), evaluate(arguments))


# Not arrays


class HasInterface:
    """Tells where its memory is."""

    def __init__(self, a):
        self.a = a
        self.__array_interface__ = a.__array_interface__


def tuples(nested):
    return tuple(map(tuples, nested)) if isinstance(nested, list) else nested


def with_numpy_scalars(a):
    return [[[a[i, j, k] for k in range(a.shape[2])] for j in range(a.shape[1])] for i in range(a.shape[0])]


# How to hand over an array as something else that converts to the same dtype
ARRAY_LIKES = {
    "nested lists": lambda a: a.tolist(),
    "nested tuples": lambda a: tuples(a.tolist()),
    "list of tuples of lists": lambda a: [tuple(rows) for rows in a.tolist()],
    "list of matrices": list,
    "tuple of matrices": tuple,
    "list of lists of vectors": lambda a: [list(rows) for rows in a],
    "lists of NumPy's scalars": with_numpy_scalars,
    "lists of 0-d arrays": lambda a: [[[np.array(item) for item in row] for row in rows] for rows in a],
    "deque": lambda a: collections.deque(a.tolist()),
    "UserList": lambda a: collections.UserList(a.tolist()),
    "lists of array.array": lambda a: [[array.array("d", row) for row in rows] for rows in a],
    "lists of Python's memoryview": lambda a: [[memoryview(row) for row in rows] for rows in a],
    "memoryview": memoryview,
    "strided memoryview": lambda a: memoryview(np.asfortranarray(a)),
    "__array__": lambda a: HasArray(lambda: a),
    "list of objects with __array__": lambda a: [HasArray(partial(np.asarray, rows)) for rows in a],
    "__array_interface__": HasInterface,
    "subclass that takes over": lambda a: a.view(Subclass),
    "list of subclasses": lambda a: [rows.view(Subclass) for rows in a],
    "memory-mapped view": lambda a: a.view(np.memmap),
    "record array's field": lambda a: np.rec.fromarrays([a, a], names="one,two").one,
    "recarray": lambda a: a.view(np.recarray),
    "other byte order": lambda a: a.astype(np.dtype("d").newbyteorder("S")),
}


@pytest.mark.parametrize("what", ARRAY_LIKES)
def test_array_likes_are_as_good_as_arrays_all_and_one_among_arrays(what):
    arguments = density_problem()
    odd, expected = {name: ARRAY_LIKES[what](a) for name, a in arguments.items()}, evaluate(arguments)
    assert_same_bits(evaluate(odd), expected)
    for name in ARGUMENTS:
        assert_same_bits(evaluate({**arguments, name: odd[name]}), expected)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_list_of_python_numbers_among_float32_makes_float64(name):
    # a list of Python's floats is an array of float64, as everywhere in NumPy; only a bare number would be weak
    arguments = density_problem(dtype=np.float32)
    mixed = {**arguments, name: arguments[name].tolist()}
    assert_same_bits(evaluate(mixed), evaluate_plain(arguments, np.float64))


@pytest.mark.parametrize("numbers", [(0, 1), (False, True), (0.0, 1), (True, 0.5), (np.float32(0.5), 1), (-0.0, 2**62)])
def test_lists_may_mix_kinds_of_python_numbers(numbers):
    first, second = numbers
    odd = {"x": [[[first, second]]], "mean": [[[second, first]]], "stddev": [[[1, 2.0]]], "correlation": [[[first]]]}
    assert_same_bits(evaluate(odd), evaluate_plain(odd, np.float64))


@pytest.mark.parametrize(("some", "dtype"), [([True, False], np.float32), (range(2), np.float64)])
def test_lists_of_bools_make_float32_and_ranges_are_lists_of_integers(some, dtype):
    odd = {"x": [[some]], "mean": [[some]], "stddev": [[[some[-1] + 1 if dtype is np.float64 else True] * 2]]}
    odd["correlation"] = [[[False if dtype is np.float32 else 0]]]
    assert_same_bits(evaluate(odd), evaluate_plain(odd, dtype))


REALS = (0, 0.0, -0.0, True, np.float32(1e-3), np.int8(1), np.array(1e-3), np.float16(0.5), fractions.Fraction(1, 1024))


@pytest.mark.parametrize("eps", REALS)
def test_any_real_number_can_be_smooth_eps(eps):
    arguments = density_problem()
    assert_same_bits(evaluate(arguments, smooth_eps=eps), evaluate(arguments, smooth_eps=float(eps)))


@pytest.mark.parametrize("asked", [1, np.True_, np.array(True), 0, None, np.False_, np.array(False)])
def test_what_is_true_asks_for_derivatives_and_what_is_false_for_none(asked):
    _, derivatives = gaussian_density_batch(**density_problem(), compute_derivatives=asked)
    assert (derivatives is not None) == bool(asked)


# Shapes


def assert_shapes(arguments, n, m, dtype):
    outputs = evaluate(arguments)
    expected = {"density": (n, m, 1), "dmean": (n, m, 2), "dstddev": (n, m, 2), "dcorrelation": (n, m, 1)}
    assert {name: a.shape for name, a in outputs.items()} == expected
    assert {a.dtype for a in outputs.values()} == {np.dtype(dtype)}


@each_dtype
@pytest.mark.parametrize(
    ("n", "m"), [(0, 3), (3, 0), (0, 0), (1, 0), (0, 1), (1, 1), (5, 1), (1, 300), (600, 1), (2, 3)]
)
def test_shapes_and_dtypes_of_outputs_follow_the_arguments(n, m, dtype):
    assert_shapes(density_problem(n, m, dtype), n, m, dtype)


@pytest.mark.parametrize("m", [0, 1, 3])
@pytest.mark.parametrize("empty", SHARED)
def test_no_rows_and_one_row_broadcast_to_no_rows_and_lists_are_taken(empty, m):
    arguments = {name: a[:0] if name in empty else a for name, a in density_problem(1, m).items()}
    if "x" not in empty:
        arguments["x"] = arguments["x"].tolist()
    assert_shapes(arguments, 0, m, np.float64)


@pytest.mark.parametrize("dtype", [*PROMOTED, ">f8", ">f4"])
def test_empty_arguments_of_any_dtype_work(dtype):
    common = np.result_type(np.dtype(dtype).newbyteorder("="), np.float32)
    assert_shapes(integer_density_problem(0, 3, dtype), 0, 3, common)


@each_dtype
@pytest.mark.parametrize(("n", "m"), [(600, 1), (300, 2), (100, 3), (30, 20), (5, 255), (5, BLOCK), (5, 257), (3, 600)])
@pytest.mark.parametrize("shared", SHARED)
def test_one_row_is_as_good_as_n_copies_of_it(shared, n, m, dtype):
    arguments = density_problem(n, m, dtype)
    one = {name: a[:1] if name in shared else a for name, a in arguments.items()}
    rows = 1 if len(shared) == 4 else n
    copies = {name: np.repeat(a, rows, axis=0) if len(a) == 1 else a for name, a in one.items()}
    assert_same_bits(evaluate(one), evaluate(copies))


@each_dtype
@pytest.mark.parametrize(("n", "m"), [(100_003, 1), (3001, 20), (9, 300)])
def test_a_batch_can_be_cut_between_any_rows(n, m, dtype):
    arguments = density_problem(n, m, dtype)
    whole = evaluate(arguments)
    cuts = sorted({0, 1, 2, n // 3, n // 2 + 1, n - 1, n})
    pieces = [evaluate({name: a[i:j] for name, a in arguments.items()}) for i, j in itertools.pairwise(cuts)]
    assert_same_bits({name: np.concatenate([piece[name] for piece in pieces]) for name in whole}, whole)


@pytest.mark.parametrize("cut", [1, 7, 8, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 599])
def test_a_row_can_be_cut_between_any_components(cut):
    arguments = density_problem(5, 600)
    whole = evaluate(arguments)
    x = {"x": arguments.pop("x")}
    left = evaluate(x | {name: a[:, :cut] for name, a in arguments.items()})
    right = evaluate(x | {name: a[:, cut:] for name, a in arguments.items()})
    assert_same_bits({name: np.concatenate([left[name], right[name]], axis=1) for name in whole}, whole)


# What is returned


@each_dtype
@pytest.mark.parametrize("m", [0, 3, 20])
def test_results_are_fresh_contiguous_writeable_arrays_of_their_own_which_the_next_call_leaves_alone(m, dtype):
    arguments = density_problem(30, m, dtype)
    outputs, again = evaluate(arguments), evaluate(arguments)
    for one, other in itertools.combinations([*arguments.values(), *outputs.values(), *again.values()], 2):
        assert not np.shares_memory(one, other)
    kept = {name: a.copy() for name, a in outputs.items()}
    evaluate(density_problem(30, m, dtype, seed=1))
    evaluate({name: a[:7] for name, a in arguments.items()})
    assert_same_bits(outputs, kept)
    for a in outputs.values():
        assert a.base is None
        assert a.flags.owndata
        assert a.flags.writeable
        assert a.flags.c_contiguous
        assert a.flags.aligned
        assert a.dtype.isnative


def test_the_result_is_the_tuple_it_replaces_with_names_beside_it():
    arguments = density_problem()
    result = density, (dmean, dstddev, dcorrelation) = gaussian_density_batch(*arguments.values(), True)
    assert type(result) is type(result[1][1:]) is tuple
    assert isinstance(result[1], tuple)
    assert result[1]._fields == ("dmean", "dstddev", "dcorrelation")
    assert (result[1].dmean is dmean, result[1].dstddev is dstddev, result[1][-1] is dcorrelation) == (True,) * 3
    assert_same_bits(density_outputs(result), evaluate(arguments))
    assert_same_bits(gaussian_density_batch(**arguments), (density, None))


# Values: any may stand in an array. None raises or warns (warnings are errors here), each stays in its own component.

# Row and component, at and about the ends of vectors and blocks
PLACES = {
    (600, 1): [(0, 0), (7, 0), (8, 0), (BLOCK - 1, 0), (BLOCK, 0), (BLOCK + 1, 0), (511, 0), (512, 0), (599, 0)],
    (30, 20): [(0, 0), (0, 19), (1, 0), (11, 19), (12, 0), (23, 19), (24, 0), (29, 19)],  # blocks of 12 rows
    (3, BLOCK): [(0, 0), (0, BLOCK - 1), (1, 0), (1, 100), (2, BLOCK - 1)],
    (3, 300): [(0, 0), (0, BLOCK - 1), (0, BLOCK), (0, 299), (1, 0), (2, BLOCK), (2, 299)],
    (1, 1): [(0, 0)],
    (1, 3): [(0, 0), (0, 1), (0, 2)],
}


def others_than(outputs, rows, components):
    """The outputs, with 0 in place of the components chosen."""
    outputs = {name: a.copy() for name, a in outputs.items()}
    for a in outputs.values():
        a[rows, components] = 0
    return outputs


@each_dtype
@pytest.mark.parametrize("shape", PLACES, ids=str)
@pytest.mark.parametrize("what", STRANGE)
def test_strange_value_in_one_component_or_point_leaves_the_bits_of_all_others(what, shape, dtype):
    name, strange = STRANGE[what]
    arguments = density_problem(*shape, dtype)
    expected = evaluate(arguments)
    for i, j in PLACES[shape]:
        spoilt, touched = {**arguments, name: arguments[name].copy()}, slice(None) if name == "x" else j
        spoilt[name][i, 0 if name == "x" else j, (i + j) % spoilt[name].shape[-1]] = strange
        assert_same_bits(others_than(evaluate(spoilt), i, touched), others_than(expected, i, touched))


@each_dtype
@pytest.mark.parametrize("name", ARGUMENTS)
def test_nan_in_an_argument_gives_nan_density_and_derivatives(name, dtype):
    for k in range(density_problem()[name].shape[-1]):
        arguments = density_problem(1, 3, dtype)
        arguments[name][0, 0, k] = np.nan
        outputs = evaluate(arguments)
        assert np.isnan(outputs["density"][0, 0, 0])
        assert np.isnan(outputs["dcorrelation"][0, 0, 0])
        assert np.isnan(outputs["dmean"][0, 0]).any()
        assert np.isnan(outputs["dstddev"][0, 0]).any()


@each_dtype
@pytest.mark.parametrize("negative", [-1.0, -1e-30, -1e30, -np.inf, -1e-10])
@pytest.mark.parametrize("axes", [[0], [1], [0, 1]], ids=str)
def test_negative_stddev_gives_nan_density(axes, negative, dtype):
    arguments = density_problem(30, 20, dtype)
    arguments["stddev"][..., axes] = negative
    assert np.isnan(evaluate(arguments)["density"]).all()


def test_stddev_of_minus_0_is_stddev_0():
    arguments = density_problem()
    zero = {**arguments, "stddev": np.zeros_like(arguments["stddev"])}
    outputs, expected = evaluate({**zero, "stddev": -zero["stddev"]}), evaluate(zero)
    for name in expected:
        np.testing.assert_array_equal(outputs[name], expected[name])  # the sign of a 0 may be another


FULL = {what: {name: value} for what, (name, value) in STRANGE.items()}
FULL |= {
    f"all {value!r}": dict.fromkeys(ARGUMENTS, value)
    for value in (np.nan, np.inf, -np.inf, 0.0, -0.0, 5e-324, -5e-324, 1.7e308, -1.7e308)
}


@pytest.mark.parametrize("what", FULL)
@each_dtype
def test_arrays_full_of_a_strange_value_raise_and_warn_of_nothing(dtype, what):
    arguments = density_problem(30, 20, dtype)
    with np.errstate(over="ignore", under="ignore"):
        arguments |= {name: np.full_like(arguments[name], value) for name, value in FULL[what].items()}
    with np.errstate(all="raise"):
        evaluate(arguments)


def test_float64_beyond_float32_overflows_without_a_warning():
    # stddev 1e-30 and smooth_eps 0: the density is about 1e59
    arguments = {name: a.astype(np.float32) for name, a in density_problem(1, 1).items()}
    arguments["mean"][...] = arguments["x"]
    arguments["stddev"][...] = 1e-30
    with np.errstate(all="raise"):
        assert evaluate(arguments, smooth_eps=0.0)["density"] == np.inf
