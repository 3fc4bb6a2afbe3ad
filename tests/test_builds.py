"""The kernel builds: golden bits, the choice among builds, workers, threads and forks.

Results have the same bits on every processor that multiplies and adds at once ("fused": v3, v4, arm64), with every
compiler, any number of workers, any split of a batch. The baseline build, for older processors, has its own.

`python tests/test_builds.py` prints the table of golden bits as the installed package gives them: of both kinds of
builds where both run, else of one, beside what the table has of the other. A change of it is a change of results: say
so in CHANGELOG.md.
"""

import functools
import hashlib
import inspect
import multiprocessing
import os
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor

import builds
import numpy as np
import pytest
from builds import BUILDS, LEVELS, choosing, running
from checks import FLOATS, each_dtype, flat, run_python
from problems import Told, arguments_of_calls, calls_of

import cymdn

# The first 16 digits of the SHA-256 of the bytes of all results, by dtype and kind of build.
COLUMNS = [(dtype, of) for dtype in ("float32", "float64") for of in ("fused", "baseline")]
GOLDEN = """
gaussian_density_batch                     a753595b1d22508d  a753595b1d22508d  02fc4c147617e690  0430cfad35dc3db3
gaussian_logpdf                            11976ad342a22e89  11976ad342a22e89  15b5f9417360ea6e  57b75b374cd417ef
mixture_logpdf                             cba8862d006d57a5  cba8862d006d57a5  8eb5af0469b10912  c1cdc6879e68ae03
mixture_logpdf of a grid                   eb30a817178aa462  eb30a817178aa462  6b4cb7519f488fef  0e22821ebcdc6984
mdn_loss                                   09da1f3737bad43a  09da1f3737bad43a  e5d58fbe5bcbce7a  7d4bdd706b575336
mdn_loss with pen                          abd54d4e51466afa  abd54d4e51466afa  d8b78991625569b1  b692e08abfaa117d
mdn_loss with pen state                    7420d453c204c6c0  7420d453c204c6c0  813666167abc8129  d18b45184bce7e5d
mdn_loss with floor                        87d353e0b1722d1e  c96306956134525e  5d6529b5b8ce3f74  40c64a6f83cb76d9
pdf of a natural mixture                   f5c5ca96802a0ee5  f5c5ca96802a0ee5  7bdb6afdeaa0c589  48981e7c3be1abaf
logpdf of a natural mixture                8a08e063f20ac89e  8a08e063f20ac89e  7a53234e6a75f0d4  4305c50f26674b76
component_logpdf of a natural mixture      79e9cb01956d49a8  79e9cb01956d49a8  65008ad5c17a77f9  7abc6041d33da3c6
responsibilities of a natural mixture      7d22df2043b482d4  7d22df2043b482d4  e157c2e48278ede7  0d9268299d2ac515
score of a natural mixture                 9e96580f75433aa5  9e96580f75433aa5  7a05deba998171a8  f8f1e4eeb29f5f95
mode of a natural mixture                  29212fb22338fa39  29212fb22338fa39  fdbd7bc7cb5228f9  fdbd7bc7cb5228f9
sample of a natural mixture                69baae883b5eb2e6  69baae883b5eb2e6  111b2f4a6baec22c  111b2f4a6baec22c
log_probability of a natural mixture       79688c03318c167d  79688c03318c167d  4fdd46e59fb3a7ef  305425328fc74c40
cdf of a natural mixture                   d873912e9983bb56  d873912e9983bb56  856a3bd375f8d4c0  d082db729f322905
pdf of a raw mixture                       fc28dfe5322a14e5  fc28dfe5322a14e5  f7eb325e5e7ade08  a405150ef4a5097d
logpdf of a raw mixture                    0f551bc487adec56  0f551bc487adec56  e7120585b66ec293  3f448ea5d0b7bf1b
component_logpdf of a raw mixture          54cfc1c3d6ad2eb9  54cfc1c3d6ad2eb9  7237d5120cd254c7  48dae3783bd0760d
responsibilities of a raw mixture          3df49c4fac9a8cb4  3df49c4fac9a8cb4  a124dc51890366fb  600925f78a7688e1
score of a raw mixture                     ec82707713332293  ec82707713332293  af73e06b5fd84c48  798de3cbf537f3f4
mode of a raw mixture                      31fde4aea43a2e42  31fde4aea43a2e42  2de8262c96a15531  2de8262c96a15531
sample of a raw mixture                    1749f10fd814f1e8  1749f10fd814f1e8  b4ea42ba7f63f89d  b4ea42ba7f63f89d
log_probability of a raw mixture           38e3680246a5cd35  38e3680246a5cd35  f5d6c36f8d356d37  2161fbb3619d82e7
cdf of a raw mixture                       cfa1d0d7dfb6d0a0  cfa1d0d7dfb6d0a0  40408c1b63850690  abdb8de65b985eb0
ppf of a line                              cb988662f65f0a7f  cb988662f65f0a7f  67ccc2a99d630f79  67ccc2a99d630f79
log_probability of a line                  190e29bc9930912a  190e29bc9930912a  da106808067d24f2  da106808067d24f2
mdn_sample                                 9b44c5967badd037  9b44c5967badd037  5893b555a2d08be1  5893b555a2d08be1
mdn_sample with pen                        9ee2fb69ec405ef2  9ee2fb69ec405ef2  df19f037a9393c0a  df19f037a9393c0a
mdn_sample with pen state                  6139fc181e932cc1  6139fc181e932cc1  7297d507f4d57d53  7297d507f4d57d53
"""


def golden():
    """The golden bits by column: the name of a call, and its digest."""
    rows = [line.rsplit(maxsplit=len(COLUMNS)) for line in GOLDEN.strip().splitlines()]
    return {column: {row[0]: row[k + 1] for row in rows} for k, column in enumerate(COLUMNS)}


@functools.cache
def integers(count, seed):
    """Pseudo-random integers below 2^32, from a generator that is ten characters of arithmetic (Numerical Recipes)."""
    values = np.empty(count, np.uint64)
    state = seed
    for i in range(count):
        state = (1664525 * state + 1013904223) % 2**32
        values[i] = state
    values.flags.writeable = False
    return values


def uniform(shape, seed, low, high, dtype):
    """Numbers that any machine makes with the same bits: multiples of 2^-16."""
    share = (integers(int(np.prod(shape)), seed) >> np.uint64(16)).astype(np.float64) / 2**16
    return (low + (high - low) * share).reshape(shape).astype(dtype)


def told():
    """A generator of numbers that any machine makes; NumPy's may change from version to version."""
    return Told(lambda size: uniform(size, 10, 0, 1, np.float64), lambda size: uniform(size, 11, -4, 4, np.float64))


def calls(dtype):
    """Each public function on inputs that reach its corners: 67 rows, 7 components."""
    n, m = 67, 7
    x = uniform((n, 2), 1, -3, 3, dtype)
    mean = uniform((n, m, 2), 2, -3, 3, dtype)
    stddev = uniform((n, m, 2), 3, 0.0625, 2, dtype)
    correlation = uniform((n, m), 4, -0.9990234375, 0.9990234375, dtype)
    weights = uniform((n, m), 5, 0, 0.25, dtype)
    raw = uniform((n, 3 + 6 * m), 6, -6, 6, dtype)
    raw[::5] *= 40  # components that underflow, correlations of 1, tiny and huge sigmas
    pen, pens = uniform((n,), 7, 0, 1, dtype), np.eye(3)[integers(n, 8).astype(int) % 3]
    weight = uniform((n,), 9, 0, 2, np.float64)
    # of sum 1 exactly: multiples of 2^-16
    shares = uniform((n, m), 12, 0, 0.125, dtype)
    shares[:, 0] += 1 - shares.sum(axis=-1)
    natural = cymdn.BivariateMixture(shares, mean, stddev, correlation)
    network = cymdn.BivariateMixture.from_network_output(raw, pen=3)
    return {
        "gaussian_density_batch": lambda **k: cymdn.gaussian_density_batch(
            x[:, None], mean, stddev, correlation[..., None], True, **k
        ),
        "gaussian_logpdf": lambda **k: cymdn.gaussian_logpdf_and_gradient(x, mean, stddev, correlation, **k),
        "mixture_logpdf": lambda **k: cymdn.mixture_logpdf_and_gradient(x, weights, mean, stddev, correlation, **k),
        "mixture_logpdf of a grid": lambda **k: cymdn.mixture_logpdf_and_gradient(
            x, weights[0], mean[0], stddev[0], correlation[0], **k
        ),
        "mdn_loss": lambda **k: cymdn.mdn_loss_and_gradient(raw[:, 3:], x, reduction="none", **k),
        "mdn_loss with pen": lambda **k: cymdn.mdn_loss_and_gradient(raw[:, 2:], x, pen, sample_weight=weight, **k),
        "mdn_loss with pen state": lambda **k: cymdn.mdn_loss_and_gradient(raw, x, pens, reduction="sum", **k),
        "mdn_loss with floor": lambda **k: cymdn.mdn_loss_and_gradient(raw[:, 3:], x, stddev_floor=(0.1, 0.5), **k),
        **{
            f"{name} of a {kind} mixture": functools.partial(ask, mixture, name, x)
            for kind, mixture in (("natural", natural), ("raw", network))
            for name, ask in ASKED.items()
        },
        "ppf of a line": lambda: natural.marginal(0).ppf(uniform((n,), 13, 0, 1, dtype)),
        "log_probability of a line": lambda: network.marginal(1).log_probability(x[:, 0], x[:, 0] + dtype(0.5)),
        "mdn_sample": lambda: cymdn.mdn_sample(raw[:, 3:], size=5, rng=told()),
        "mdn_sample with pen": lambda: cymdn.mdn_sample(raw[:, 2:], pen=1, bias=0.5, size=5, rng=told()),
        "mdn_sample with pen state": lambda: cymdn.mdn_sample(raw, pen=3, size=5, rng=told()),
    }


def evaluate(mixture, name, x):
    """Ask a batch of mixtures, and its first one alone."""
    arguments = {"mode": (), "sample": (5, told())}.get(name, (x,))
    return getattr(mixture, name)(*arguments), getattr(mixture[0], name)(*arguments)


def in_the_middle_and_in_the_tail(mixture, name, x):
    """Ask for a probability of each of a batch of mixtures."""
    upper = [(x + x.dtype.type(k),) for k in (0.5, 9)]
    return [getattr(mixture, name)(*((x,) if name != "cdf" else ()), *limit) for limit in upper]


ASKED = dict.fromkeys(("pdf", "logpdf", "component_logpdf", "responsibilities", "score", "mode", "sample"), evaluate)
ASKED |= dict.fromkeys(("log_probability", "cdf"), in_the_middle_and_in_the_tail)


def digest(result):
    sha = hashlib.sha256()
    for array in map(np.asarray, flat(result)):
        # a NaN has many bit patterns, and compilers may choose; all others are fixed. + 0 makes one zero of two.
        plain = np.where(np.isnan(array), np.float64("nan"), array + 0).astype(array.dtype.newbyteorder("<"))
        sha.update(plain.tobytes())
    return sha.hexdigest()[:16]


def results(dtype, **options):
    """What all calls return; options go to those that take them."""
    found = {}
    for name, call in calls(dtype).items():
        function = getattr(cymdn, name.split()[0], None)  # None: a method
        taken = inspect.signature(function).parameters if function else {}
        found[name] = call(**{key: value for key, value in options.items() if key in taken})
    return found


def digests(dtype):
    return {name: digest(result) for name, result in results(dtype).items()}


@pytest.fixture(params=BUILDS)
def build(request, monkeypatch):
    builds.use(monkeypatch, request.param)
    return request.param


@each_dtype
def test_every_build_gives_the_golden_bits(dtype, build):
    assert digests(dtype) == golden()[dtype.__name__, builds.kind(build)]


@each_dtype
def test_builds_of_one_kind_give_the_same_bits(dtype, monkeypatch):
    found = {}
    for level in BUILDS:
        builds.use(monkeypatch, level)
        results = {name: digest(call()) for name, call in big_calls(dtype, n=600, m=20).items()}
        assert found.setdefault(builds.kind(level), results) == results


def test_more_than_the_baseline_is_tested_where_the_machine_offers_it():
    assert len(BUILDS) == max(1, builds.offered_level() - 1)


@pytest.mark.parametrize("level", BUILDS)
def test_the_environment_forces_a_level(level):
    shown = run_python("-c", "import cymdn; cymdn.show_config()", **{builds.FORCE: level}).stdout
    assert f"kernels: {level} (forced by CYMDN_CPU_LEVEL)" in shown


def test_an_unknown_level_is_refused_with_those_there_are():
    message = "CYMDN_CPU_LEVEL: expected one of baseline, v3, v4, got 'v5'"
    assert run_python("-c", "import cymdn", **{builds.FORCE: "v5"}).stderr.splitlines()[-1] == f"ImportError: {message}"
    with pytest.raises(ImportError, match=f"^{message}$"):
        choosing.choose("v5")


@pytest.mark.parametrize("highest", LEVELS)
def test_the_highest_level_that_can_be_used_is_chosen_and_an_impossible_one_refused(highest, monkeypatch):
    usable = LEVELS[: LEVELS.index(highest) + 1]
    monkeypatch.setattr(choosing, "why_not", lambda level: None if level in usable else "this is a test")
    assert choosing.choose(None) == (highest, "the highest that this machine offers")
    for level in LEVELS[len(usable) :]:
        with pytest.raises(ImportError, match=rf"^CYMDN_CPU_LEVEL: '{level}' is impossible: this is a test$"):
            choosing.choose(level)


@pytest.mark.parametrize(
    ("offered", "here"), [(0, "none of the x86-64 levels"), (1, "x86-64-v1"), (3, "x86-64-v3")], ids=repr
)
def test_a_level_beyond_the_machine_or_not_built_is_said_to_be(offered, here, monkeypatch):
    monkeypatch.setattr(choosing, "_kernels", types.SimpleNamespace(offered_level=lambda: offered))
    assert choosing.why_not("v4") == f"this CPU and operating system offer {here}, v4 needs x86-64-v4"
    assert choosing.why_not("baseline") is None
    monkeypatch.setattr(choosing, "_kernels", types.SimpleNamespace(offered_level=lambda: 4))
    monkeypatch.setattr(choosing, "find_spec", {"cymdn._kernels_v4": "found"}.get)
    assert choosing.why_not("v3") == "this wheel has no v3 build"
    assert choosing.why_not("v4") is None


def test_each_level_has_its_module():
    assert list(map(choosing.module_of, LEVELS)) == ["cymdn._kernels", "cymdn._kernels_v3", "cymdn._kernels_v4"]


def test_the_configuration_names_each_level_and_why_it_cannot_be_used(monkeypatch, capsys):
    monkeypatch.setattr(choosing, "why_not", {"baseline": None, "v3": None, "v4": "this is a test"}.get)
    cymdn.show_config()
    version, kernels, *levels, compiler, cpus = capsys.readouterr().out.splitlines()
    assert version == f"cymdn {cymdn.__version__}, NumPy {np.__version__}"
    assert kernels == f"kernels: {choosing.level} ({choosing.reason})"
    assert levels == ["  baseline  available", "  v3        available", "  v4        this is a test"]
    assert compiler == f"compiler: {builds.compiler()}"
    assert cpus == f"CPUs: {choosing.cpu_count()}"


def test_module_prints_the_configuration():
    shown = run_python("-m", "cymdn").stdout
    assert shown.startswith(f"cymdn {cymdn.__version__}, NumPy {np.__version__}\nkernels: {choosing.level} (")


# Workers


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ({"sched_getaffinity": lambda process: {0, 5}, "cpu_count": lambda: 8}, 2),
        ({"cpu_count": lambda: 8}, 8),
        ({"cpu_count": lambda: None}, 1),
    ],
    ids=["affinity", "count", "unknown"],
)
def test_the_cpus_are_those_that_the_process_may_use(system, expected, monkeypatch):
    monkeypatch.setattr(choosing, "os", types.SimpleNamespace(**system))
    assert choosing.cpu_count() == expected


def big_calls(dtype, n=9001, m=9):
    return calls_of(*arguments_of_calls(dtype, n, m))


def test_negative_workers_count_from_the_cpus(monkeypatch):
    monkeypatch.setattr(choosing, "cpu_count", lambda: 4)
    wanted = {None: 1, 1: 1, 3: 3, 9: 9, -1: 4, -4: 1}
    assert {workers: running.check_workers(workers) for workers in wanted} == wanted
    with pytest.raises(ValueError, match=r"^workers: expected a number other than 0 and not below -4, the CPUs here; "):
        running.check_workers(-5)


def test_work_is_shared_and_rows_are_cut_into_slices_where_each_worker_has_enough_to_do():
    enough = running.WORKER_COMPONENTS
    assert running.is_worth_sharing(2 * enough, 2)
    assert not running.is_worth_sharing(2 * enough - 1, 2)
    assert not running.is_worth_sharing(2 * enough, 1)
    assert not running.is_worth_sharing(2 * enough, None)
    assert running.split(3, enough, 3) == [(0, 1), (1, 2), (2, 3)]
    assert running.split(3, enough, 2) == [(0, 1), (1, 3)]
    assert running.split(3, enough - 1, 9) == [(0, 1), (1, 3)]
    assert running.split(9, enough, 3, 2) == [(0, 2), (2, 6), (6, 9)]
    assert running.split(3, enough, 3, 4) == [(0, 3)]


@pytest.mark.parametrize("parts", [2, 40])
def test_slices_are_worked_on_at_the_same_time(parts):
    all_here = threading.Barrier(parts, timeout=20)
    running.run(lambda start, stop, memory: all_here.wait() >= 0, 1, [(k, k + 1) for k in range(parts)], 1)


def test_an_exception_in_one_worker_ends_the_others():
    begun = threading.Barrier(2, timeout=20)
    pieces = []

    def call(start, stop, memory):
        if start in (0, 1000):
            begun.wait()
        if start == 0:
            raise KeyboardInterrupt
        time.sleep(0.01)
        pieces.append(start)
        return True

    with pytest.raises(KeyboardInterrupt):
        running.run(call, 1, [(0, 1000), (1000, 2000)], 1)
    assert len(pieces) < 500


def test_a_long_call_is_many_calls_of_a_kernel(monkeypatch):
    pieces = []
    monkeypatch.setattr(running, "PIECE_COMPONENTS", 5 * 2048)
    running.run(lambda *rows: bool(pieces.append(rows[:2])) or True, 3, [(0, 9000)], running.piece_of(3, 2048))
    assert pieces == [(0, 2048), (2048, 4096), (4096, 6144), (6144, 8192), (8192, 9000)]


@pytest.mark.parametrize(
    ("shapes", "leading"),
    [
        ([(5, 4), (5, 4)], 0),
        ([(5, 4), (1, 1)], 0),
        ([(1, 1), (5, 4), (5, 4)], 0),
        ([(2, 2), (2, 1)], 1),
        ([(2, 1, 4), (1, 3, 4)], 2),
        ([(2, 1), (1, 3), (2, 3)], 1),
    ],
)
def test_a_batch_is_cut_only_where_one_call_cannot_do_it(shapes, leading):
    assert running._leading_axes(shapes, np.broadcast_shapes(*shapes)) == leading


SPLITS = [
    *((4200, 9, workers) for workers in (1, 2, 3, 7, -1)),
    *((n, 2, 5) for n in (2047, 2048, 2049, 4096, 6000)),  # about a chunk, whose losses are added up
    *((n, 3, workers) for n in (2, 84, 85, 86, 120, 171) for workers in (2, 7)),  # a block is 85 rows of 3 components
]


@pytest.mark.parametrize(("n", "m", "workers"), SPLITS)
@each_dtype
def test_any_number_of_workers_gives_the_same_bits(n, m, workers, dtype, build, monkeypatch):
    builds.share(monkeypatch, 100 if n > 200 else 1)  # so that each of them gets something to do
    for name, call in big_calls(dtype, n, m).items():
        assert digest(call(workers=workers)) == digest(call()), name


def test_an_input_that_serves_all_rows_goes_whole_to_each_worker():
    one = running._rows(np.zeros((1, 2)), (1,), (), (10,))
    each = running._rows(np.zeros((10, 3)), (10,), (), (10,))
    assert [(len(one(*part)), len(each(*part))) for part in ((0, 5), (5, 10))] == [(1, 5), (1, 5)]


@pytest.mark.thread_unsafe(reason="counts the threads of the process")
def test_no_thread_outlives_a_call():
    before = threading.active_count()
    big_calls(np.float64)["loss"](workers=2)
    assert threading.active_count() == before


def test_threads_of_the_caller_do_not_disturb_each_other():
    expected = {name: digest(call()) for name, call in big_calls(np.float64, n=500).items()}

    def wrong(_):
        mine = big_calls(np.float64, n=500)
        return [name for _ in range(5) for name, call in mine.items() if digest(call()) != expected[name]]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(wrong, range(4))) == [[]] * 4


def fork_child(queue):
    queue.put(digest(big_calls(np.float64)["loss"](workers=2)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12 warns of any thread, as of pytest's own
@pytest.mark.filterwarnings("ignore:os.fork.. was called:RuntimeWarning")  # JAX, if it runs; the child does without it
def test_a_forked_child_can_use_workers_after_its_parent_did():
    expected = digest(big_calls(np.float64)["loss"](workers=2))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=fork_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == expected
    child.join(timeout=60)
    assert child.exitcode == 0


def print_golden():
    """Print the table of golden bits, anew for the kinds of builds that run here."""
    table = golden()
    with pytest.MonkeyPatch.context() as monkeypatch:
        for level in BUILDS:
            builds.use(monkeypatch, level)
            table |= {(dtype.__name__, builds.kind(level)): digests(dtype) for dtype in FLOATS}
    for name in digests(np.float32):
        print(f"{name:42}", "  ".join(table[column].get(name, 16 * "-") for column in COLUMNS))


if __name__ == "__main__":
    print_golden()
