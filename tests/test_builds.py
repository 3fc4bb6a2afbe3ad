"""The kernel builds: the same bits in each, the choice among them, workers, threads and forks."""

import functools
import hashlib
import multiprocessing
import os
import subprocess
import sys
import threading
import types

import numpy as np
import pytest

import cymdn
from cymdn import _dispatch

BUILDS = [level for level in _dispatch.LEVELS if _dispatch.why_not(level) is None]
DTYPES = [np.float32, np.float64]

# SHA-256 of the bytes of all results, from golden(): the same at every level, with GCC and Clang, on every machine.
# `python tests/test_builds.py` prints them. A change here is a change of results: say so in CHANGELOG.md.
GOLDEN = {
    "gaussian_density_batch float32": "a753595b1d22508df5e35924d0a51d58418293cf51f621c9fdd48577e9e66774",
    "gaussian_logpdf float32": "11976ad342a22e89665dabbb50edab3562e3b8bdbc5bb7b51dfd3877b3f7600b",
    "mixture_logpdf float32": "cba8862d006d57a58ba1ea2295207678f496f1e9b72a6efd242ddaa534e4120f",
    "mixture_logpdf of a grid float32": "eb30a817178aa4622cfdf02b1b3d29b4eca5f3b81509949a12c52d2be482aa5c",
    "mdn_loss float32": "09da1f3737bad43a62cce131c8fc9f39df72b0393cba1a3e679855ca5e5e870b",
    "mdn_loss with pen float32": "abd54d4e51466afada2409527a14e9420dec9b54f1f313008cee7042737a9b83",
    "mdn_loss with pen state float32": "7420d453c204c6c0a9588b9f6be74f0feb307650a5568e57048b5669811556fa",
    "pdf of a natural mixture float32": "f5c5ca96802a0ee51b013b6cfa8344b6ed397f003e6a496e890079838e3134d3",
    "logpdf of a natural mixture float32": "8a08e063f20ac89e93e42f1f147e96e0660d1a1d1ace5f369e57a821d9056a78",
    "component_logpdf of a natural mixture float32": "79e9cb01956d49a8c602099cadd154af6f4ae900778bf9f7558ce3fe1fc17887",
    "responsibilities of a natural mixture float32": "7d22df2043b482d425e5faf6ee8bc4359a407809cb01c54d4e524210ebbd69ff",
    "score of a natural mixture float32": "9e96580f75433aa50b37e3a3a036d0d24d6d2226126f719e6ddf57166e8a3aa1",
    "mode of a natural mixture float32": "29212fb22338fa3961b968a8a3467a53c38ead04caf98f64111d8b519542fc76",
    "sample of a natural mixture float32": "69baae883b5eb2e60a8a0e3f631f6ea83131b6ae552eb3ff1cbda68ef03248cb",
    "pdf of a raw mixture float32": "fc28dfe5322a14e5c7fd9db1407a86ab46fe6661048516a9b0a2b30af3c25e88",
    "logpdf of a raw mixture float32": "0f551bc487adec567e6f5946f0ff5a020055f1e5acbd1eeac3a7724d703dc3a5",
    "component_logpdf of a raw mixture float32": "54cfc1c3d6ad2eb9d4fdd37117cbf0a13fc1a26aae7c3526c903d16a1be64afe",
    "responsibilities of a raw mixture float32": "3df49c4fac9a8cb4b10cd4881be10ab77ee4995d55ab6b60c426e3e3ad526b4c",
    "score of a raw mixture float32": "ec827077133322933c4abbe1ac5d657ba616794dd552f46affecd9be08f4d9e0",
    "mode of a raw mixture float32": "435db0a65300287f96b20e87ba7b44b73cff4e558e1e952b199461b31d30d10b",
    "sample of a raw mixture float32": "1749f10fd814f1e8de516f0180bbfc8203d8d02a09c6c66c5a61d973d08b2e97",
    "mdn_sample float32": "9b44c5967badd037f0fe63d8571905035e17537563a87c626e33e7f51f2f708b",
    "mdn_sample with pen float32": "9ee2fb69ec405ef2454fd8505662e5d931a54da424b0e197e84e2ebacb49cab8",
    "mdn_sample with pen state float32": "6139fc181e932cc13b545fdb357e7fcfc40036c983429177da78e718485a679c",
    "gaussian_density_batch float64": "33c952f8708fcff2530bf5e2145bccf1be0bbbed39395a05f636e0129955128e",
    "gaussian_logpdf float64": "57c16f37d296966d181c450c46b8bb54d0c00c1757e38b30d58e7c89ddb1eb34",
    "mixture_logpdf float64": "c4ab3d043b272643ebc0981e3d6110ff75a759861c7f352f12cf2236dae79475",
    "mixture_logpdf of a grid float64": "2bd9b389f7cb752f04beb2ce0fb6fcbd48721d127d11571e7ff265c81fcd6e25",
    "mdn_loss float64": "c2029b44d28b3ead888fc2bfc922d21af08c0250d5dba3a7b3d5748884978729",
    "mdn_loss with pen float64": "51475c8a23efcc5e1800dcca7ac214474739da1babe29126b3c550fa8c12f6c9",
    "mdn_loss with pen state float64": "fb99ff4a71b8f47fb9002e090b23887962a614c4281ea79bb15f7382c15ee46e",
    "pdf of a natural mixture float64": "7d7efa8c9b3b667ca5f8166f178da1b06a3b24bc2b7186f76446b94e9b3afdad",
    "logpdf of a natural mixture float64": "49f7317bc0bfc6eb961fd2fee7516c32496ab8d70721444116ac183ef2de79f2",
    "component_logpdf of a natural mixture float64": "b6ff4ed8203c91ffd7b3420debe5edf9933c0dd3f8a0334811a82db801c24eb5",
    "responsibilities of a natural mixture float64": "8cc9ef572e227bc2336fb5d6f3e3d22c98192a049b5f00eb030d88536c7f2dc7",
    "score of a natural mixture float64": "3d95ad5194fa79bd72c12b645f74907821a7975675194e14d5870ad0966468fe",
    "mode of a natural mixture float64": "0cc84adc3bc50ec5931bb9d3167650bed494b970dc704901234682ef2593a7d9",
    "sample of a natural mixture float64": "111b2f4a6baec22cb9ad24c0dfa75d4918a3af7cf4df731224582423dec23bff",
    "pdf of a raw mixture float64": "f2e11ff1546231cddf8aa7c922235ed6aac439e489fb1125ed4b68592cec49e6",
    "logpdf of a raw mixture float64": "560aa1465c93f57b5d20cd1e1be4e75c231d5fa4cc61778d0f60745f7180b869",
    "component_logpdf of a raw mixture float64": "c87adb3b6fb314f7904799644ad5963667e8ca9d1de91cb9de2f0a8960063dec",
    "responsibilities of a raw mixture float64": "3673b21a5a7a1be55d10e4ad8f9972e1fbed933db592989d1b95456734f5f477",
    "score of a raw mixture float64": "fceb98e90ad004653319008b5cda612f3a732517a95c7f1b2c227a25092197b3",
    "mode of a raw mixture float64": "3c7b711c466f4070f880d7787d5c7051c52b3ca195f6ba75239285742f66f77c",
    "sample of a raw mixture float64": "4e912cea6e6c98cb34a37142f3e0ababbf29c2d6c36d4af33872ce97f2075294",
    "mdn_sample float64": "e9a2c4cf0365c41160f39ab84c6b8268977d9029df7acd11f32fd8b654181125",
    "mdn_sample with pen float64": "f269877e04c3bfad5e8793781ded8a81166bd193a56308449aa00815d6964fde",
    "mdn_sample with pen state float64": "3d3dc0ba4f959ed0699a6a4875dee6b52fe144808f6c8ebf8ca2077dbf39bffc",
}


def integers(count, seed):
    """Pseudo-random integers below 2^32, from a generator that is ten characters of arithmetic (Numerical Recipes)."""
    values = np.empty(count, np.uint64)
    state = seed
    for i in range(count):
        state = (1664525 * state + 1013904223) % 2**32
        values[i] = state
    return values


def uniform(shape, seed, low, high, dtype):
    """Numbers that any machine makes with the same bits: multiples of 2^-16."""
    share = (integers(int(np.prod(shape)), seed) >> np.uint64(16)).astype(np.float64) / 2**16
    return (low + (high - low) * share).reshape(shape).astype(dtype)


def flat(result):
    if isinstance(result, tuple):
        return [array for part in result for array in flat(part)]
    return [] if result is None else [np.asarray(result)]


class Told(np.random.Generator):
    """A generator of numbers that any machine makes; NumPy's may change from version to version."""

    def __init__(self):
        super().__init__(np.random.PCG64(0))

    def random(self, size):
        return uniform(size, 10, 0, 1, np.float64)

    def standard_normal(self, size):
        return uniform(size, 11, -4, 4, np.float64)


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
        **{
            f"{name} of a {kind} mixture": functools.partial(evaluate, mixture, name, x)
            for kind, mixture in (("natural", natural), ("raw", network))
            for name in ("pdf", "logpdf", "component_logpdf", "responsibilities", "score", "mode", "sample")
        },
        "mdn_sample": lambda: cymdn.mdn_sample(raw[:, 3:], size=5, rng=Told()),
        "mdn_sample with pen": lambda: cymdn.mdn_sample(raw[:, 2:], pen=1, bias=0.5, size=5, rng=Told()),
        "mdn_sample with pen state": lambda: cymdn.mdn_sample(raw, pen=3, size=5, rng=Told()),
    }


def evaluate(mixture, name, x):
    """Ask a batch of mixtures, and its first one alone."""
    arguments = {"mode": (), "sample": (5, Told())}.get(name, (x,))
    return getattr(mixture, name)(*arguments), getattr(mixture[0], name)(*arguments)


def digest(result):
    sha = hashlib.sha256()
    for array in flat(result):
        # a NaN has many bit patterns, and compilers may choose; all others are fixed. + 0 makes one zero of two.
        plain = np.where(np.isnan(array), np.float64("nan"), array + 0).astype(array.dtype.newbyteorder("<"))
        sha.update(plain.tobytes())
    return sha.hexdigest()


def golden():
    return {f"{name} {dtype.__name__}": digest(call()) for dtype in DTYPES for name, call in calls(dtype).items()}


@pytest.fixture(params=BUILDS)
def build(request, monkeypatch):
    monkeypatch.setattr(_dispatch, "kernels", _dispatch.load(request.param))
    return request.param


@pytest.mark.usefixtures("build")
def test_every_build_gives_the_golden_bits():
    assert golden() == GOLDEN


def test_more_than_the_baseline_is_tested_where_the_machine_offers_it():
    assert len(BUILDS) == max(1, _dispatch._kernels.offered_level() - 1)


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="/", env={**os.environ, **environment}
    )


@pytest.mark.parametrize("level", BUILDS)
def test_the_environment_forces_a_level(level):
    shown = run("import cymdn; cymdn.show_config()", CYMDN_CPU_LEVEL=level).stdout
    assert f"kernels: {level} (forced by CYMDN_CPU_LEVEL)" in shown


def test_an_unknown_level_is_refused():
    failed = run("import cymdn", CYMDN_CPU_LEVEL="v5")
    assert failed.stderr.splitlines()[-1] == (
        "ImportError: CYMDN_CPU_LEVEL: expected one of baseline, v3, v4, got 'v5'"
    )


def test_an_unknown_level_is_refused_with_those_there_are():
    with pytest.raises(ImportError, match=r"^CYMDN_CPU_LEVEL: expected one of baseline, v3, v4, got 'v5'$"):
        _dispatch.choose("v5")


def test_an_impossible_level_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr(_dispatch, "why_not", {"baseline": None, "v3": None, "v4": "this is a test"}.get)
    with pytest.raises(ImportError, match=r"^CYMDN_CPU_LEVEL: 'v4' is impossible: this is a test$"):
        _dispatch.choose("v4")


@pytest.mark.parametrize("highest", _dispatch.LEVELS)
def test_the_highest_level_that_can_be_used_is_chosen(highest, monkeypatch):
    usable = _dispatch.LEVELS[: _dispatch.LEVELS.index(highest) + 1]
    monkeypatch.setattr(_dispatch, "why_not", lambda level: None if level in usable else "this is a test")
    assert _dispatch.choose(None) == (highest, "the highest that this machine offers")


@pytest.mark.parametrize(
    ("offered", "here"), [(0, "none of the x86-64 levels"), (1, "x86-64-v1"), (3, "x86-64-v3")], ids=repr
)
def test_a_level_beyond_the_machine_is_said_to_be(offered, here, monkeypatch):
    monkeypatch.setattr(_dispatch, "_kernels", types.SimpleNamespace(offered_level=lambda: offered))
    assert _dispatch.why_not("v4") == f"this CPU and operating system offer {here}, v4 needs x86-64-v4"
    assert _dispatch.why_not("baseline") is None


def test_a_level_that_was_not_built_is_said_to_be(monkeypatch):
    monkeypatch.setattr(_dispatch, "_kernels", types.SimpleNamespace(offered_level=lambda: 4))
    monkeypatch.setattr(_dispatch, "find_spec", {"cymdn._kernels_v4": "found"}.get)
    assert _dispatch.why_not("v3") == "this wheel has no v3 build"
    assert _dispatch.why_not("v4") is None


def test_each_level_has_its_module():
    names = [_dispatch.module_of(level) for level in _dispatch.LEVELS]
    assert names == ["cymdn._kernels", "cymdn._kernels_v3", "cymdn._kernels_v4"]


def test_the_configuration_names_each_level_and_why_it_cannot_be_used(monkeypatch, capsys):
    monkeypatch.setattr(_dispatch, "why_not", {"baseline": None, "v3": None, "v4": "this is a test"}.get)
    cymdn.show_config()
    version, kernels, *levels, compiler, cpus = capsys.readouterr().out.splitlines()
    assert version == f"cymdn {cymdn.__version__}, NumPy {np.__version__}"
    assert kernels == f"kernels: {_dispatch.level} ({_dispatch.reason})"
    assert levels == ["  baseline  available", "  v3        available", "  v4        this is a test"]
    assert compiler == f"compiler: {_dispatch._kernels.compiler()}"
    assert cpus == f"CPUs: {_dispatch.cpu_count()}"


def test_module_prints_the_configuration():
    shown = subprocess.run([sys.executable, "-m", "cymdn"], capture_output=True, text=True, check=True, cwd="/").stdout
    assert shown.startswith(f"cymdn {cymdn.__version__}, NumPy {np.__version__}\nkernels: {_dispatch.level} (")
    assert "compiler: " in shown


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
    monkeypatch.setattr(_dispatch, "os", types.SimpleNamespace(**system))
    assert _dispatch.cpu_count() == expected


def big_calls(dtype, n=9001, m=9):
    rng = np.random.default_rng(3)
    raw, x = rng.normal(size=(n, 1 + 6 * m)).astype(dtype), rng.normal(size=(n, 2)).astype(dtype)
    pen, weight = rng.random(n), rng.random(n)
    mean, stddev = rng.normal(size=(n, m, 2)).astype(dtype), np.exp(rng.normal(size=(n, m, 2))).astype(dtype)
    correlation, weights = np.tanh(rng.normal(size=(n, m))).astype(dtype), rng.random((n, m)).astype(dtype)
    return {
        "density": lambda **k: cymdn.gaussian_density_batch(
            x[:, None], mean, stddev, correlation[..., None], True, **k
        ),
        "density, one mixture": lambda **k: cymdn.gaussian_density_batch(
            x[:, None], mean[:1], stddev[:1], correlation[:1, :, None], True, **k
        ),
        "components": lambda **k: cymdn.gaussian_logpdf_and_gradient(x, mean, stddev, correlation, **k),
        "mixture": lambda **k: cymdn.mixture_logpdf_and_gradient(x, weights, mean, stddev, correlation, **k),
        "grid": lambda **k: cymdn.mixture_logpdf_and_gradient(x, weights[0], mean[0], stddev[0], correlation[0], **k),
        "one point": lambda **k: cymdn.mixture_logpdf(x[0], weights, mean, stddev, correlation, **k),
        "loss": lambda **k: cymdn.mdn_loss_and_gradient(raw, x, pen, **k),
        "weighted loss": lambda **k: cymdn.mdn_loss_and_gradient(raw, x, pen, sample_weight=weight, **k),
        "losses": lambda **k: cymdn.mdn_loss_and_gradient(raw, x, pen, reduction="none", **k),
        "sum": lambda **k: cymdn.mdn_loss(raw, x, pen, reduction="sum", **k),
    }


def test_negative_workers_count_from_the_cpus(monkeypatch):
    monkeypatch.setattr(_dispatch, "cpu_count", lambda: 4)
    wanted = {None: 1, 1: 1, 3: 3, 9: 9, -1: 4, -4: 1}
    assert {workers: _dispatch.check_workers(workers) for workers in wanted} == wanted
    with pytest.raises(ValueError, match=r"^workers: expected a number other than 0 and not below -4, the CPUs here; "):
        _dispatch.check_workers(-5)


def test_work_is_shared_where_two_workers_have_enough_to_do():
    enough = 2 * _dispatch.WORKER_COMPONENTS
    assert _dispatch.is_worth_sharing(enough, 2)
    assert not _dispatch.is_worth_sharing(enough - 1, 2)
    assert not _dispatch.is_worth_sharing(enough, 1)
    assert not _dispatch.is_worth_sharing(enough, None)


def test_rows_are_cut_into_slices_worth_a_worker():
    enough = _dispatch.WORKER_COMPONENTS
    assert _dispatch.split(3, enough, 3) == [(0, 1), (1, 2), (2, 3)]
    assert _dispatch.split(3, enough, 2) == [(0, 1), (1, 3)]
    assert _dispatch.split(3, enough - 1, 9) == [(0, 1), (1, 3)]
    assert _dispatch.split(9, enough, 3, 2) == [(0, 2), (2, 6), (6, 9)]
    assert _dispatch.split(3, enough, 3, 4) == [(0, 3)]


@pytest.mark.parametrize("parts", [2, 40])
def test_slices_are_worked_on_at_the_same_time(parts):
    all_here = threading.Barrier(parts, timeout=20)
    _dispatch.run(lambda start, stop: all_here.wait(), [(k, k + 1) for k in range(parts)])


def test_points_and_mixtures_are_cut_only_where_one_call_cannot_do_them():
    assert list(_dispatch._pieces((5, 4), (5, 4))) == [()]
    assert list(_dispatch._pieces((5, 4), (1, 1))) == [()]
    assert list(_dispatch._pieces((1, 1), (5, 4))) == [()]
    assert list(_dispatch._pieces((2, 2), (2, 1))) == [(0,), (1,)]
    assert list(_dispatch._pieces((2, 1), (2, 2))) == [(0,), (1,)]
    assert list(_dispatch._pieces((2, 1, 4), (1, 3, 4))) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


@pytest.mark.parametrize("workers", [2, 3, 7, -1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_workers_gives_the_same_bits(workers, dtype, monkeypatch):
    monkeypatch.setattr(_dispatch, "WORKER_COMPONENTS", 100)  # so that each of them gets something to do
    for name, call in big_calls(dtype).items():
        assert digest(call(workers=workers)) == digest(call()), name


@pytest.mark.parametrize("workers", [2, 7])
@pytest.mark.parametrize("n", [2, 84, 85, 86, 120, 171])  # a block is 85 rows of 3 components
def test_workers_of_less_than_a_block_share_one_mixture(n, workers, monkeypatch):
    monkeypatch.setattr(_dispatch, "WORKER_COMPONENTS", 1)
    calls_of_n = big_calls(np.float64, n=n, m=3)
    for name in ("density, one mixture", "grid"):
        assert digest(calls_of_n[name](workers=workers)) == digest(calls_of_n[name]()), name


def test_an_input_that_serves_all_rows_goes_whole_to_each_worker(monkeypatch):
    monkeypatch.setattr(_dispatch, "WORKER_COMPONENTS", 1)
    lengths = []

    def kernel(point, mixtures, scratch, values):
        lengths.append((len(point), len(mixtures), len(values)))

    _dispatch._run_rows(kernel, [np.zeros((1, 2)), np.zeros((10, 3))], [np.zeros(10)], 3, 2)
    assert lengths == [(1, 5, 5), (1, 5, 5)]


@pytest.mark.parametrize("n", [2047, 2048, 2049, 4096, 6000])
def test_sums_do_not_depend_on_where_the_work_is_cut(n, monkeypatch):
    monkeypatch.setattr(_dispatch, "WORKER_COMPONENTS", 100)
    calls_of_n = big_calls(np.float64, n=n, m=2)
    for name in ("loss", "weighted loss", "sum"):
        assert digest(calls_of_n[name](workers=5)) == digest(calls_of_n[name]()), name


@pytest.mark.thread_unsafe(reason="counts the threads of the process")
def test_no_thread_outlives_a_call():
    before = threading.active_count()
    big_calls(np.float64)["loss"](workers=2)
    assert threading.active_count() == before


def test_threads_of_the_caller_do_not_disturb_each_other():
    expected = {name: digest(call()) for name, call in big_calls(np.float64, n=500).items()}
    wrong = []

    def work():
        mine = big_calls(np.float64, n=500)
        wrong.extend(name for _ in range(5) for name, call in mine.items() if digest(call()) != expected[name])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


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


if __name__ == "__main__":
    for key, value in golden().items():
        print(f'    "{key}": "{value}",')
