"""The kernel builds side by side, in pairs in one process: `python benchmarks/levels.py`. Needs no peers."""

import one_thread

one_thread.pin()

import problems
import timing

from cymdn import _dispatch, gaussian_density_batch, mdn_loss_and_gradient

PAIRS = 11
M = 20


def with_build(kernels, call):
    """Return a call that is made with the kernels of a build."""

    def made():
        _dispatch.kernels = kernels
        return call()

    return made


def main():
    builds = {level: _dispatch.load(level) for level in _dispatch.LEVELS if _dispatch.why_not(level) is None}
    *slower, highest = builds
    print(f"{'':34}{highest}, ns a component", *(f"   {level} takes" for level in slower))
    for n in (640, 6400):
        for dtype in problems.TOLERANCE:
            density, loss = problems.density(n, M, dtype), problems.mdn(n, M, dtype)
            calls = {
                "gaussian_density_batch": lambda density=density: gaussian_density_batch(*density, True),
                "mdn_loss_and_gradient": lambda loss=loss: mdn_loss_and_gradient(*loss),
            }
            for name, call in calls.items():
                fastest = with_build(builds[highest], call)
                found = [timing.paired(fastest, with_build(builds[level], call), PAIRS) for level in slower]
                ratios = [f"{pair.ratio:8.2f}x" for pair in found]
                print(f"{name:24}{dtype} {n:5}{found[-1].ours / (n * M) * 1e9:12.1f}", *ratios)


if __name__ == "__main__":
    main()
