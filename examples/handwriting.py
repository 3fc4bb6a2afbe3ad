"""Train a small network to write: where the pen goes next, and whether it lifts.

A mixture density network (Graves 2013, arXiv:1308.0850, section 4) reads the last 24 moves of
a pen and answers with a distribution: a mixture of 20 correlated Gaussians over the next move
(dx, dy), and the probability that the stroke ends there. The network is plain NumPy. Its loss,
and the gradient of the loss with respect to its raw output, are one call:
`cymdn.mdn_loss_and_gradient`.

The strokes are words set in the Hershey single-stroke fonts. Three fonts are never trained on;
they show whether the network learned to write or learned its fonts by heart.

Run it (about a minute):

    python -m pip install ".[demo]" && python examples/handwriting.py [--epochs 6] [--seed 0] [--out handwriting.png]

After each epoch it prints the loss on the epoch's training batches and on the held-out fonts,
beside two models that ignore the past: one Gaussian, and one mixture of 20 Gaussians. Losses are
in nats per pen point; 0.69 nats less is twice the probability density. At the end it prints
where the time went, and draws what the network expected at every step of a word in a font it
has never seen.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

# Before NumPy is imported: its matrices are small here, and a second thread that has to wait for a busy processor costs
# more than it brings.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from HersheyFonts import HersheyFonts
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator
from numpy.lib.stride_tricks import sliding_window_view
from scipy.optimize import minimize
from tqdm import tqdm

import cymdn

Array = np.ndarray
Extent = tuple[float, float, float, float]  # left, right, bottom, top

# The package lists 32 fonts, but some alphabets come under two or three names (futural = rowmans
# = meteorology, cursive = scripts, futuram = rowmand, rowmant = timesrb, music = timesi). These
# eight are the different Latin ones, blackletter left out. No letter of a held-out font has the
# same strokes as in a training font.
TRAINING_FONTS = ("scripts", "futural", "timesr", "timesrb", "timesib")
HELD_OUT_FONTS = ("scriptc", "futuram", "timesi")
N_TRAINING_POINTS, N_HELD_OUT_POINTS = 200_000, 20_000

WORDS = (  # of pangrams, so that every letter occurs
    "the quick brown fox jumps over lazy dog sphinx of black quartz judge my vow pack box with "
    "five dozen liquor jugs how vexingly daft zebras waltz bad nymph for jigs vex glib jocks "
    "quiz to amaze few crazy wizards hexing dwarf plunge"
).split()
ALPHABET = list("abcdefghijklmnopqrstuvwxyz")

# Lengths are in units of the fonts' grid, on which a capital is 21 high.
CAP_HEIGHT = 21.0
STEP = 3.0  # between two pen points
TREMOR = 0.2  # standard deviation of a pen point's noise

WINDOW = 24  # moves the network sees, about one letter; 16 or 32 change the loss by 0.03 at most
N_COMPONENTS = 20  # as many as in Graves' and in the sketch-rnn paper (arXiv:1704.03477)
HIDDEN = (256, 256)
DROPOUT = 0.25  # without it the loss on the held-out fonts rises from the second epoch on
BATCH = 512
LEARNING_RATE = 2e-3


# --------------------------------------------------------------------- from fonts to pen points


@dataclass
class PenLines:
    """Lines of text as pen points, end to end."""

    points: Array  # (n, 2), y up, the baseline at 0, each line starting near the origin
    end_of_stroke: Array  # (n,), 1 at the last point of a stroke
    line: Array  # (n,), which line the point belongs to: 0, 0, .., 1, 1, ..


@dataclass
class PenMoves:
    """The same lines as a network sees them. Before each line the pen rests for WINDOW moves."""

    moves: Array  # (m, 3): dx, dy to a point, and 1 where the stroke ends at it
    height: Array  # (m,): of that point above the baseline, in capitals
    rows: Array  # (n,): the rows of `moves` that are points, not rest

    def inputs(self, rows: Array) -> Array:
        """What is known before each of the rows -> (b, 3 WINDOW + 1)."""
        # (b, 3, WINDOW): a window ends one row before the row to predict
        past = sliding_window_view(self.moves, WINDOW, axis=0)[rows - WINDOW]
        return np.column_stack([past.reshape(len(rows), -1), self.height[rows - 1]])

    def targets(self, rows: Array) -> tuple[Array, Array]:
        """The moves (b, 2) and the ends of strokes (b,) to predict."""
        return self.moves[rows, :2], self.moves[rows, 2]


def random_text(rng: np.random.Generator) -> str:
    """Two words, each a real one or a random run of letters, so that any letter follows any."""
    words = []
    for _ in range(2):
        invented = "".join(rng.choice(ALPHABET, size=rng.integers(2, 8)))
        word = invented if rng.random() < 0.5 else str(rng.choice(WORDS))
        words.append(word.capitalize() if rng.random() < 0.3 else word)
    return " ".join(words)


def strokes_of(font: HersheyFonts, text: str) -> list[Array]:
    """Polylines (n, 2) of a text; a stroke that starts where the last one ended continues it."""
    strokes: list[Array] = []
    for polyline in font.strokes_for_text(text):
        # The fonts' y axis points down.
        stroke = np.array(list(polyline)) * (1.0, -1.0) + (0.0, font.render_options.base_line)
        # This joins the letters of the script fonts: the pen does not lift where it does not move.
        if strokes and np.array_equal(strokes[-1][-1], stroke[0]):
            strokes[-1] = np.concatenate([strokes[-1], stroke[1:]])
        else:
            strokes.append(stroke)
    return strokes


def resample(stroke: Array, rng: np.random.Generator) -> Array:
    """Cut the segments of a polyline into pieces of about STEP; its corners stay.

    The fonts' curves are drawn with short segments, so the pen slows down in curves as a hand
    does. The cuts are shifted at random by up to a third of a step: pieces of exactly one length
    would put all moves on one circle, on which a density can grow, and the loss fall, for ever.
    """
    length = np.hypot(*np.diff(stroke, axis=0).T)
    pieces = np.maximum(1, np.rint(length / STEP)).astype(int)
    segment = np.repeat(np.arange(pieces.size), pieces)
    # 0, 1, .. within each segment; 0 is the corner
    cut = np.arange(segment.size) - (np.cumsum(pieces) - pieces)[segment]
    shift = np.where(cut == 0, 0.0, rng.uniform(-1 / 3, 1 / 3, cut.size))
    position = np.append(segment + (cut + shift) / pieces[segment], pieces.size)
    corners = np.arange(len(stroke))
    return np.stack([np.interp(position, corners, axis) for axis in stroke.T], axis=-1)


def set_lines(font_names: tuple[str, ...], n_points: int, rng: np.random.Generator) -> PenLines:
    """Random lines in each of the fonts, about n_points in all, as many in one as in another."""
    lines: list[list[Array]] = []
    n = 0
    for done, name in enumerate(font_names, start=1):
        font = HersheyFonts()
        font.load_default_font(name)
        while n < done * n_points / len(font_names):
            strokes = [resample(stroke, rng) for stroke in strokes_of(font, random_text(rng))]
            lines.append(strokes)
            n += sum(len(stroke) for stroke in strokes)
    return join_lines(lines)


def join_lines(lines: list[list[Array]]) -> PenLines:
    """Lines, each a list of strokes (n, 2), end to end."""
    strokes = [stroke for line in lines for stroke in line]
    points = np.concatenate(strokes)
    end_of_stroke = np.zeros(len(points))
    end_of_stroke[np.cumsum([len(stroke) for stroke in strokes]) - 1] = 1.0
    line_lengths = [sum(len(stroke) for stroke in line) for line in lines]
    return PenLines(points, end_of_stroke, np.repeat(np.arange(len(lines)), line_lengths))


def in_other_hands(lines: PenLines, rng: np.random.Generator) -> PenLines:
    """Every line with a slant, a size and bent letters of its own.

    Five fonts have only 260 letters. Distorted anew each epoch (elastic distortions: Simard,
    Steinkraus & Platt 2003) they teach shapes instead of themselves.
    """
    n_lines, points = lines.line[-1] + 1, lines.points
    for _ in range(2):
        # One wave a line, some 50 units long, moves x and y by up to one unit.
        wave = rng.normal(0.0, 0.1, (n_lines, 2, 2))
        phase = rng.uniform(0.0, 2 * np.pi, (n_lines, 2))
        points = points + np.sin(transform(points, wave[lines.line]) + phase[lines.line])
    hand = np.zeros((n_lines, 2, 2))
    hand[:, 0, 0], hand[:, 1, 1] = np.exp(rng.normal(0.0, 0.08, (2, n_lines)))
    hand[:, 1, 0] = rng.normal(0.0, 0.12, n_lines)  # slant: y moves x
    return PenLines(transform(points, hand[lines.line]), lines.end_of_stroke, lines.line)


def transform(points: Array, matrix: Array) -> Array:
    """Each point (n, 2) times its own matrix (n, 2, 2) -> (n, 2)."""
    return np.einsum("ni,nij->nj", points, matrix)


def move_pen(lines: PenLines, unit: float, rng: np.random.Generator) -> PenMoves:
    """The moves from point to point, in `unit`, of a pen that trembles.

    As in Graves 2013, the move from one stroke to the next is a move like any other: the end of
    stroke before it says that the pen is up. Without the tremor a straight line would be known
    exactly from its first two points, and the loss would have no lower bound. It is smaller than
    the rounding error of the fonts' integer grid (standard deviation 0.29).
    """
    points = lines.points + rng.normal(0.0, TREMOR, lines.points.shape)
    first = np.diff(lines.line, prepend=-1) > 0
    # The first move of a line starts from the origin.
    start = np.where(first[:, None], 0.0, np.roll(points, 1, axis=0))
    rows = np.arange(len(points)) + WINDOW * (lines.line + 1)
    moves = np.tile(np.array([0, 0, 1], np.float32), (rows[-1] + 1, 1))
    moves[rows] = np.column_stack([(points - start) / unit, lines.end_of_stroke])
    height = np.zeros(len(moves), np.float32)
    height[rows] = points[:, 1] / CAP_HEIGHT
    return PenMoves(moves, height, rows)


# --------------------------------------------------------------------- two models without memory


def fit_one_gaussian(moves: Array, ends: Array) -> Array:
    """One Gaussian and one pen probability, fitted in closed form -> raw vector (7,)."""
    pen = np.log(ends.mean() / (1 - ends.mean()))
    log_stddev = np.log(moves.std(axis=0))
    correlation = np.corrcoef(moves.T)[0, 1]
    return np.array([pen, 0.0, *moves.mean(axis=0), *log_stddev, np.arctanh(correlation)])


def fit_one_mixture(moves: Array, ends: Array, rng: np.random.Generator) -> Array:
    """One mixture and one pen probability: a 'network' that is a single raw vector (D,)."""
    moves, ends = moves.astype(np.float64), ends.astype(np.float64)
    start = np.zeros(1 + 6 * N_COMPONENTS)
    _, _, mean, log_stddev, _ = split_raw(start)
    mean[:] = rng.choice(moves, N_COMPONENTS).T
    log_stddev[:] = -1.0

    def loss_and_gradient(raw: Array) -> tuple[float, Array]:
        rows = np.broadcast_to(raw, (len(moves), raw.size))
        loss, gradient = cymdn.mdn_loss_and_gradient(rows, moves, ends)
        return float(loss), gradient.sum(axis=0)

    # After 200 steps the loss no longer changes in its second decimal.
    options = {"maxiter": 200}
    return minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options=options).x


def loss_of_constant(raw: Array, data: PenMoves) -> float:
    """Loss of a model that always gives the same answer, raw (D,)."""
    rows = np.broadcast_to(raw, (len(data.rows), raw.size))
    return float(cymdn.mdn_loss(rows, *data.targets(data.rows)))


def split_raw(raw: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Views of raw output (..., 1 + 6 M): pen logit (...), mixture logits (..., M), means
    (..., 2, M), log standard deviations (..., 2, M), atanh correlations (..., M)."""
    mixture = raw[..., 1:].reshape(*raw.shape[:-1], 6, -1)
    logits, atanh_correlation = mixture[..., 0, :], mixture[..., 5, :]
    return raw[..., 0], logits, mixture[..., 1:3, :], mixture[..., 3:5, :], atanh_correlation


# ---------------------------------------------------------------------------------- the network


class Network:
    """Fully connected layers with ReLU and dropout; all parameters in one flat float32 vector."""

    def __init__(self, sizes: tuple[int, ...], output_bias: Array, rng: np.random.Generator):
        self.sizes = sizes
        n_parameters = sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes))
        self.parameters = np.zeros(n_parameters, np.float32)
        self.layers = self.split(self.parameters)
        for weight, _ in self.layers:
            weight[:] = rng.normal(0.0, np.sqrt(2 / len(weight)), weight.shape)
        # Near-zero weights and this bias: the untrained network answers like the best constant.
        self.layers[-1][0][:] *= 0.1
        self.layers[-1][1][:] = output_bias

    def split(self, flat: Array) -> list[tuple[Array, Array]]:
        """Views of a flat vector, as (weight (n_in, n_out), bias (n_out,)) of each layer."""
        layers, at = [], 0
        for n_in, n_out in pairwise(self.sizes):
            weight_end, end = at + n_in * n_out, at + (n_in + 1) * n_out
            layers.append((flat[at:weight_end].reshape(n_in, n_out), flat[weight_end:end]))
            at = end
        return layers

    def __call__(self, inputs: Array) -> Array:
        """Raw output (b, D) for inputs (b, n)."""
        return self.forward(inputs, keep=1.0)[0]

    def forward(self, inputs: Array, keep: float, rng: np.random.Generator | None = None) -> tuple[Array, list[Array]]:
        """Raw output (b, D) and the inputs of all layers; hidden units are kept with `keep`."""
        layer_inputs = [inputs]
        for weight, bias in self.layers[:-1]:
            hidden = layer_inputs[-1] @ weight
            hidden += bias
            np.maximum(hidden, 0, out=hidden)
            if rng is not None:
                kept = rng.random(hidden.shape, dtype=np.float32) < keep
                hidden *= kept * np.float32(1 / keep)
            layer_inputs.append(hidden)
        weight, bias = self.layers[-1]
        return layer_inputs[-1] @ weight + bias, layer_inputs

    def backward(self, layer_inputs: list[Array], gradient: Array, keep: float) -> Array:
        """Gradient of the parameters, flat, from the gradient (b, D) of the raw output."""
        flat = np.empty_like(self.parameters)
        out = self.split(flat)
        for i in range(len(self.layers) - 1, -1, -1):
            np.matmul(layer_inputs[i].T, gradient, out=out[i][0])
            np.sum(gradient, axis=0, out=out[i][1])
            if i > 0:
                # A unit that is 0, by ReLU or by dropout, passes nothing back.
                gradient = gradient @ self.layers[i][0].T
                gradient *= (layer_inputs[i] > 0) * np.float32(1 / keep)
        return flat


class Adam:
    """Kingma & Ba 2015, arXiv:1412.6980."""

    def __init__(self, parameters: Array):
        self.parameters = parameters
        self.mean, self.square = np.zeros_like(parameters), np.zeros_like(parameters)
        self.n_steps = 0

    def step(self, gradient: Array, rate: float) -> None:
        self.n_steps += 1
        self.mean += 0.1 * (gradient - self.mean)
        self.square += 0.001 * (gradient * gradient - self.square)
        rate *= np.sqrt(1 - 0.999**self.n_steps) / (1 - 0.9**self.n_steps)
        self.parameters -= rate * self.mean / (np.sqrt(self.square) + 1e-8)


# ------------------------------------------------------------------------------------- training


@dataclass
class Experiment:
    """What training needs and what it leaves behind."""

    lines: PenLines  # to train on
    held_out: PenMoves
    unit: float  # of the moves, in grid units
    network: Network
    baselines: tuple[float, float]  # held-out loss of one Gaussian and of one mixture
    rng: np.random.Generator
    training_losses: list[float]  # one an epoch
    held_out_losses: list[float]
    network_seconds: float = 0.0
    loss_seconds: float = 0.0


def prepare(seed: int) -> Experiment:
    """Set the lines, fit the two models without memory, make the network."""
    rng = np.random.default_rng(seed)
    lines = set_lines(TRAINING_FONTS, N_TRAINING_POINTS, rng)
    unit = float(np.diff(lines.points, axis=0)[np.diff(lines.line) == 0].std())
    held_out = move_pen(set_lines(HELD_OUT_FONTS, N_HELD_OUT_POINTS, rng), unit, rng)
    training = move_pen(in_other_hands(lines, rng), unit, rng)
    moves, ends = training.targets(training.rows)
    gaussian = fit_one_gaussian(moves, ends)
    sample = rng.choice(len(moves), 10_000, replace=False)
    mixture = fit_one_mixture(moves[sample], ends[sample], rng)
    network = Network((3 * WINDOW + 1, *HIDDEN, mixture.size), mixture, rng)
    baselines = loss_of_constant(gaussian, held_out), loss_of_constant(mixture, held_out)
    return Experiment(lines, held_out, unit, network, baselines, rng, [], [])


def train(experiment: Experiment, n_epochs: int) -> None:
    """Adam on mini-batches; the learning rate falls along half a cosine to 0."""
    adam = Adam(experiment.network.parameters)
    n_batches = len(experiment.lines.points) // BATCH
    with tqdm(total=n_epochs * n_batches, unit="batch") as progress:
        for _ in range(n_epochs):
            training = move_pen(in_other_hands(experiment.lines, experiment.rng), experiment.unit, experiment.rng)
            order = experiment.rng.permutation(training.rows)[: n_batches * BATCH]
            losses = []
            for rows in order.reshape(n_batches, BATCH):
                rate = LEARNING_RATE * (1 + np.cos(np.pi * progress.n / progress.total)) / 2
                losses.append(train_on(experiment, training, rows, adam, rate))
                progress.update()
            experiment.training_losses.append(float(np.mean(losses)))
            experiment.held_out_losses.append(evaluate(experiment.network, experiment.held_out))
            tqdm.write(report_line(experiment))


def train_on(experiment: Experiment, data: PenMoves, rows: Array, adam: Adam, rate: float) -> float:
    """One step of Adam on a batch -> its loss."""
    start = time.perf_counter()
    network, keep = experiment.network, 1 - DROPOUT
    moves, ends = data.targets(rows)
    raw, layer_inputs = network.forward(data.inputs(rows), keep, experiment.rng)
    before_loss = time.perf_counter()
    loss, gradient = cymdn.mdn_loss_and_gradient(raw, moves, ends)
    after_loss = time.perf_counter()
    adam.step(network.backward(layer_inputs, gradient, keep), rate)
    experiment.loss_seconds += after_loss - before_loss
    experiment.network_seconds += time.perf_counter() - start - (after_loss - before_loss)
    return float(loss)


def evaluate(network: Network, data: PenMoves) -> float:
    """Mean loss, without dropout."""
    raw = network(data.inputs(data.rows))
    return float(cymdn.mdn_loss(raw, *data.targets(data.rows)))


def report_setting(experiment: Experiment) -> str:
    """What is compared, and the head of the table."""
    return (
        f"training on {len(experiment.lines.points)} pen points of {', '.join(TRAINING_FONTS)}\n"
        f"held out: {len(experiment.held_out.rows)} pen points of {', '.join(HELD_OUT_FONTS)}\n"
        f"nats per pen point, moves in units of {experiment.unit:.2f} grid units\n\n"
        "       network                    no memory, held-out fonts\n"
        "epoch  training  held-out fonts  one Gaussian  one mixture"
    )


def report_line(experiment: Experiment) -> str:
    losses = experiment.training_losses
    held_out = experiment.held_out_losses[-1]
    gaussian, mixture = experiment.baselines
    return f"{len(losses):5}{losses[-1]:10.3f}{held_out:16.3f}{gaussian:14.3f}{mixture:13.3f}"


# -------------------------------------------------------------------------------------- picture

PICTURE_FONT, PICTURE_WORD = "timesi", "Density"
PIXEL = 0.2  # lengths of the picture are in grid units
REACH = 45.0  # how far from the pen a prediction is drawn; the rest is too thin to see
MARGIN = 5.0
PAPER, INK = "#0a0612", "#ece7f2"
PATH, LIFTED, HEAT, FAINT = "#ffffff", "#55d6e8", "#f0706a", "#8d86a0"


def draw(experiment: Experiment, out: str) -> None:
    """Save what the network expected along a word of a held-out font, and how it learned."""
    rng = np.random.default_rng(1)
    font = HersheyFonts()
    font.load_default_font(PICTURE_FONT)
    word = join_lines([[resample(stroke, rng) for stroke in strokes_of(font, PICTURE_WORD)]])
    data = move_pen(word, experiment.unit, rng)
    moves, ends = data.targets(data.rows)
    raw = experiment.network(data.inputs(data.rows)).astype(np.float64)
    # (n + 1, 2): the origin, then all pen points
    points = np.vstack([np.zeros(2), np.cumsum(moves, axis=0)]) * experiment.unit
    with plt.rc_context(picture_style()):
        figure = plt.figure(figsize=(13, 8))
        figure.set_layout_engine("constrained", h_pad=0.12, w_pad=0.12, hspace=0.04, wspace=0.03)
        grid = figure.add_gridspec(2, 2, height_ratios=(1.9, 1), width_ratios=(2, 1))
        top = figure.add_subplot(grid[0, :])
        draw_densities(top, raw, points, ends, experiment.unit)
        label_densities(top, len(raw), float(cymdn.mdn_loss(raw, moves, ends)))
        draw_ends(figure.add_subplot(grid[1, 0]), raw, ends)
        draw_learning(figure.add_subplot(grid[1, 1]), experiment)
        figure.savefig(out, dpi=200)
    plt.close(figure)


def picture_style() -> dict[Any, Any]:
    """Light ink on dark paper."""
    light = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor")
    dark = ("figure.facecolor", "axes.facecolor")
    return {
        **dict.fromkeys(light, INK),
        **dict.fromkeys(dark, PAPER),
        "font.size": 11,
        "axes.titlesize": 12.5,
        "axes.titlelocation": "left",
        "axes.titlepad": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }


def density_map(raw: Array, points: Array, unit: float) -> tuple[Array, Extent]:
    """Densities of all steps on a grid of pixels, each placed where the pen was, and its extent.

    Their sum is the number of pen points that the network expects in a unit of area.
    """
    low, high = points.min(axis=0) - MARGIN, points.max(axis=0) + MARGIN
    # the middles of the pixels
    x, y = (np.arange(a, b, PIXEL) + PIXEL / 2 for a, b in zip(low, high, strict=True))
    density = np.zeros((y.size, x.size))
    for pen, row in zip(points, raw, strict=False):
        near = np.ix_(np.abs(y - pen[1]) < REACH, np.abs(x - pen[0]) < REACH)
        # (rows, columns, 2): the moves from the pen to these pixels
        moves = np.stack(np.meshgrid(x[near[1][0]], y[near[0][:, 0]]), axis=-1) - pen
        density[near] += np.exp(mixture_logpdf_of(row, moves / unit)) / unit**2
    return density, (low[0], x[-1] + PIXEL / 2, low[1], y[-1] + PIXEL / 2)


def mixture_logpdf_of(raw: Array, moves: Array) -> Array:
    """Log-density of moves (..., 2) under the mixture of one row of raw output (D,) -> (...)."""
    _, logits, mean, log_stddev, atanh_correlation = split_raw(raw)
    weights = np.exp(logits - logits.max())
    weights /= weights.sum()
    return cymdn.mixture_logpdf(moves, weights, mean.T, np.exp(log_stddev).T, np.tanh(atanh_correlation))


def draw_densities(axes: Axes, raw: Array, points: Array, ends: Array, unit: float) -> None:
    """The heat map, and on it the way the pen really went."""
    density, extent = density_map(raw, points, unit)
    # A power below 1 shows the wide, thin predictions of where a lifted pen lands, too.
    norm = PowerNorm(0.5, 0.0, float(np.quantile(density, 0.998)))
    image = axes.imshow(density, cmap="magma", norm=norm, extent=extent, origin="lower", interpolation="bilinear")
    # (n - 1, 2, 2): from each pen point to the next
    steps = np.stack([points[1:-1], points[2:]], axis=1)
    lifted = ends[:-1] > 0
    drawn = LineCollection(list(steps[~lifted]), colors=PATH, linewidths=0.9, label="true path")
    jumps = LineCollection(list(steps[lifted]), colors=LIFTED, linewidths=1.0, linestyles=":", label="pen lifted")
    axes.add_collection(drawn, autolim=False)
    axes.add_collection(jumps, autolim=False)
    axes.plot(*points[1:].T, ".", color=PATH, markersize=2.2)
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, -0.15), ncols=2, borderaxespad=0)
    bar = axes.figure.colorbar(image, cax=axes.inset_axes((1.015, 0.0, 0.014, 1.0)), extend="max")
    bar.set_label("expected pen points per square unit")
    bar.outline.set_visible(False)


def label_densities(axes: Axes, n_points: int, loss: float) -> None:
    """Title and axis labels of the heat map."""
    axes.set_title("Where a network that never saw this font expects the pen to go next", fontsize=17, pad=32)
    subtitle = (
        f"Predicted densities of all {n_points} pen points, each from the {WINDOW} moves before, "
        f"summed (as in Graves 2013, fig. 10). Loss of this word: {loss:.2f} nats a point"
    )
    axes.text(0, 1.03, subtitle, transform=axes.transAxes, color=FAINT, fontsize=10.5)
    axes.set(xlabel=f"grid units of the font {PICTURE_FONT} (a capital is {CAP_HEIGHT:.0f} high)")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def draw_ends(axes: Axes, raw: Array, ends: Array) -> None:
    """The probability that the stroke ends, at every pen point."""
    probability = 1 / (1 + np.exp(-raw[:, 0]))
    n, true = np.arange(1, len(ends) + 1), ends > 0
    axes.bar(n[~true], probability[~true], width=0.9, color=HEAT, label="no, it went on")
    axes.bar(n[true], probability[true], width=0.9, color=LIFTED, label="yes, it ended")
    axes.plot(n[true], np.full(true.sum(), 1.06), "v", color=LIFTED, markersize=5)
    axes.set(xlim=(0, len(ends) + 1), ylim=(0, 1.12), yticks=(0, 0.5, 1))
    axes.set(xlabel="pen point along the word", ylabel="predicted probability")
    axes.set_title("Does the stroke end at this point?")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1.02), ncols=2, borderaxespad=0)


def draw_learning(axes: Axes, experiment: Experiment) -> None:
    """Loss by epoch, beside the two models without memory."""
    epochs = np.arange(1, len(experiment.held_out_losses) + 1)
    names = "one Gaussian", "one mixture"
    for loss, name in zip(experiment.baselines, names, strict=True):
        axes.axhline(loss, color=FAINT, linestyle="--", linewidth=1)
        axes.annotate(
            f"{name}, no memory  {loss:.2f}", (1, loss), (0, 4), va="bottom", ha="right",
            xycoords=("axes fraction", "data"), textcoords="offset points", color=FAINT,
        )  # fmt: skip
    curves = (
        ("held-out fonts", experiment.held_out_losses, LIFTED),
        ("training fonts", experiment.training_losses, HEAT),
    )
    for name, losses, color in curves:
        label = f"network, {name}  {losses[-1]:.2f}"
        axes.plot(epochs, losses, "o-", color=color, markersize=4, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper right", bbox_to_anchor=(1.0, 0.55), borderaxespad=0)
    axes.set_ylim(top=1.15 * max(experiment.baselines))
    axes.set(xlabel="epoch", ylabel="nats per pen point")
    axes.set_title("Loss (lower is better)")


# ----------------------------------------------------------------------------------------- main


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="handwriting.png", help="file name of the picture")
    return parser.parse_args()


def report_time(experiment: Experiment, seconds: float) -> str:
    """Where the time went."""
    loss, network = experiment.loss_seconds, experiment.network_seconds
    n_rows = len(experiment.training_losses) * (len(experiment.lines.points) // BATCH) * BATCH
    each = loss / (n_rows * N_COMPONENTS) * 1e9
    return (
        f"training: network {network:.1f} s, loss and gradient {loss:.1f} s "
        f"({loss / (loss + network):.1%}; {each:.0f} ns a component); in all {seconds:.1f} s"
    )


def main() -> None:
    start = time.perf_counter()
    arguments = parse_arguments()
    experiment = prepare(arguments.seed)
    print(report_setting(experiment))
    train(experiment, arguments.epochs)
    draw(experiment, arguments.out)
    print(report_time(experiment, time.perf_counter() - start))


if __name__ == "__main__":
    main()
