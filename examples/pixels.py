"""Train on points that lie on a pixel grid, with and without `stddev_floor`, and draw both losses.

    python -m pip install ".[demo]" && python examples/pixels.py

A pen moves smoothly; its positions are rounded to pixels, so its offsets are integers, and many are equal. A layer of
random features and a trained layer predict each offset from the two before it. Without a floor, a component collapses
onto a lattice point and the loss has no lower bound. With the standard deviation of the rounding, 1 / sqrt(12), as a
floor, the loss is that of points known to half a pixel.
"""

import argparse

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from cymdn import diagnose, mdn_loss, mdn_loss_and_gradient

COMPONENTS, FEATURES, BATCH = 10, 128, 256
FLOOR = 1 / 12**0.5  # pixels: the standard deviation of the rounding error


def offsets(rng, strokes, length):
    """Offsets (n, 2) between rounded positions of smooth strokes, and the two offsets before each."""
    velocity = np.zeros((strokes, length, 2))
    for t in range(1, length):
        velocity[:, t] = 0.95 * velocity[:, t - 1] + 0.15 * rng.normal(size=(strokes, 2))
    moves = np.diff(np.round(np.cumsum(velocity, axis=1)), axis=1)
    return moves[:, 2:].reshape(-1, 2), np.concatenate([moves[:, :-2], moves[:, 1:-1]], axis=-1).reshape(-1, 4)


def train(floor, steps, seed=0):
    """Adam on the mean loss; return training and held-out losses over the steps, and the final diagnosis."""
    rng = np.random.default_rng(seed)
    (x, past), (x_held, past_held) = offsets(rng, 200, 100), offsets(rng, 50, 100)
    hidden, shift = rng.normal(size=(4, FEATURES)) / 2, rng.uniform(-3, 3, FEATURES)

    def features(past):
        return np.hstack([np.tanh(past @ hidden + shift) / 4, np.ones((len(past), 1))])

    inputs, inputs_held = features(past), features(past_held)
    weights = 0.01 * rng.normal(size=(FEATURES + 1, 6 * COMPONENTS))
    weights[-1, COMPONENTS : 3 * COMPONENTS] = rng.normal(size=2 * COMPONENTS)
    first, second, losses = np.zeros_like(weights), np.zeros_like(weights), []
    for step in range(1, steps + 1):
        rows = rng.integers(0, len(x), BATCH)
        loss, gradient = mdn_loss_and_gradient(inputs[rows] @ weights, x[rows], stddev_floor=floor)
        slope = inputs[rows].T @ gradient
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        weights -= 0.005 * first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        if step % 10 == 0:
            losses.append((step, loss, mdn_loss(inputs_held @ weights, x_held, stddev_floor=floor)))
    return np.array(losses), diagnose(inputs_held @ weights, x_held, stddev_floor=floor)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", default="pixels.png")
    options = parser.parse_args()
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), constrained_layout=True)
    for ax, floor, title in zip(axes, (None, FLOOR), ("without a floor", "stddev_floor=1/sqrt(12)"), strict=True):
        losses, found = train(floor, options.steps)
        print(f"{title}: training {losses[-1, 1]:.2f}, held out {losses[-1, 2]:.2f} nats\n{found}\n")
        ax.plot(*losses.T[[0, 1]], color="#9cc3e3", linewidth=0.8, label="training, a batch")
        ax.plot(*losses.T[[0, 2]], color="#1f4e79", label="held out")
        ax.set(title=title, xlabel="step", ylabel="loss (nats per point)")
        ax.legend(frameon=False)
    figure.savefig(options.out, dpi=110)
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
