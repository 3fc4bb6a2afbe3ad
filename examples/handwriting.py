"""Train small networks to read and to write: where the pen goes next, and whether it lifts.

A mixture density network (Graves 2013, arXiv:1308.0850, section 4) gets the last 24 moves of a
pen and predicts a distribution: a mixture of 20 correlated Gaussians for the next move (dx, dy),
and the probabilities that the stroke continues, that it ends, and that the letter ends. The
networks are plain NumPy. `cymdn.mdn_loss_and_gradient` computes the loss and its gradient with
respect to raw output in one call; `cymdn.mdn_sample` samples a move from raw output.

The strokes are words in the Hershey single-stroke fonts. The reader gets the strokes alone. Three
fonts are held out; they show whether the reader has learned the shapes of letters or memorised
its fonts. The writer is told which letter to write, in which of two hands (as in Graves' section
5, except that his network has to learn when a letter is done). It writes one move at a time and
gets what it wrote; it is supposed to memorise its two fonts.

Run it (about two minutes):

    python -m pip install ".[demo]" && python examples/handwriting.py [--seed 0] [--out handwriting.png]

After each epoch of the reader it prints the loss on the epoch's training batches and on the
held-out fonts, and the losses of two models that ignore the past: one Gaussian, and one mixture
of 20 Gaussians. Losses are in nats per pen point; 0.69 nats less means twice the probability
density. Then it prints the writer's loss, the time of one move, and the parts of the training
time. It writes two pictures: `handwriting.png` shows the reader's predictions at every step of a
word in a held-out font, `handwriting_samples.png` what the writer wrote with three biases and
three temperatures.
"""

from __future__ import annotations

import argparse
import math
import os
import string
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

# Before NumPy is imported: the matrices are small here, and a second thread that waits for a busy processor costs more
# than it gains.
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

# The package lists 32 fonts, but some alphabets have two or three names (futural = rowmans =
# meteorology, cursive = scripts, futuram = rowmand, rowmant = timesrb, music = timesi). These
# eight are the different Latin ones without blackletter. No letter of a held-out font has the
# same strokes as in a training font.
TRAINING_FONTS = ("scripts", "futural", "timesr", "timesrb", "timesib")
HELD_OUT_FONTS = ("scriptc", "futuram", "timesi")
N_TRAINING_POINTS, N_HELD_OUT_POINTS = 200_000, 20_000
HANDS = ("scripts", "futural")  # of the writer: joined and printed
N_WRITER_POINTS = 320_000

WORDS = (  # from pangrams, so that every letter occurs
    "the quick brown fox jumps over lazy dog sphinx of black quartz judge my vow pack box with "
    "five dozen liquor jugs how vexingly daft zebras waltz bad nymph for jigs vex glib jocks "
    "quiz to amaze few crazy wizards hexing dwarf plunge"
).split()
ALPHABET = list(string.ascii_lowercase)

# Lengths are in units of the fonts' grid, on which a capital is 21 high.
CAP_HEIGHT = 21.0
STEP = 3.0  # between two pen points
TREMOR = 0.2  # standard deviation of a pen point's noise

# The states of a pen point: the pen continues, or lifts, possibly because the letter is done.
# Joined letters are separate strokes, too; the pen lifts between them and lands where it was.
GOES_ON, STROKE_ENDS, LETTER_ENDS = range(3)
N_PENS = 3

WINDOW = 24  # moves in the input of a network, about one letter; 16 or 32 change the loss by at most 0.03
N_COMPONENTS = 20  # as in Graves 2013 and in the sketch-rnn paper (arXiv:1704.03477)
HIDDEN = (256, 256)
READER_DROPOUT = 0.25  # without it the loss on the held-out fonts increases from the second epoch on
WRITER_DROPOUT = 0.0  # it writes no other fonts
BATCH = 256
LEARNING_RATE = 2e-3


# --------------------------------------------------------------------- from fonts to pen points


@dataclass
class PenLines:
    """Concatenated lines of text as pen points."""

    points: Array  # (n, 2), y up, the baseline at 0, each line starting near the origin
    state: Array  # (n, 3), one-hot: GOES_ON, STROKE_ENDS or LETTER_ENDS
    count: Array  # (n,), number of earlier points of its letter: 0, 1, .., 0, 1, ..
    told: Array  # (n, k), the writer's instruction for the point, see `instruction`; k = 0 for a reader
    line: Array  # (n,), the line of the point: 0, 0, .., 1, 1, ..


@dataclass
class PenMoves:
    """The same lines as input of a network. Before each line the pen rests for WINDOW moves."""

    moves: Array  # (m, 3): dx, dy to a point, and 1 if the pen lifts there
    state: Array  # (m, 3): of the pen at that point
    height: Array  # (m,): of that point above the baseline, in capitals
    progress: Array  # (m, 2): of the letter before that point, see `letter_progress`
    told: Array  # (m, k)
    rows: Array  # (n,): the rows of `moves` that are points, not rest

    def inputs(self, rows: Array) -> Array:
        """The input of a network for each of the rows -> (b, 3 WINDOW + 1), or (b, 3 WINDOW + 3 + k) for a writer."""
        # (b, 3, WINDOW): a window ends one row before the row to predict
        past = sliding_window_view(self.moves, WINDOW, axis=0)[rows - WINDOW]
        known = [past.reshape(len(rows), -1), self.height[rows - 1]]
        if self.told.shape[1]:
            known += [self.progress[rows], self.told[rows]]
        return np.column_stack(known)

    def targets(self, rows: Array) -> tuple[Array, Array]:
        """The moves (b, 2) and the pen states (b, 3) to predict."""
        return self.moves[rows, :2], self.state[rows]


def random_text(rng: np.random.Generator) -> str:
    """Two words, each a real one or random letters, so that any letter may follow any other."""
    words = []
    for _ in range(2):
        invented = "".join(rng.choice(ALPHABET, size=rng.integers(2, 8)))
        word = invented if rng.random() < 0.5 else str(rng.choice(WORDS))
        cases = word, word.capitalize(), word.upper()
        words.append(cases[rng.choice(3, p=(0.6, 0.25, 0.15))])
    return " ".join(words)


def letters_of(font: HersheyFonts, text: str) -> list[list[Array]]:
    """The strokes of each character, polylines (n, 2); a space has none."""
    letters, x = [], 0.0
    for glyph in font.glyphs_for_text(text):
        strokes: list[Array] = []
        for polyline in glyph.strokes:
            # The fonts' y axis points down.
            stroke = (np.array(polyline) - (glyph.left_offset, glyph.base_line)) * (1.0, -1.0) + (x, 0.0)
            # The pen does not lift if it does not move.
            if strokes and np.array_equal(strokes[-1][-1], stroke[0]):
                strokes[-1] = np.concatenate([strokes[-1], stroke[1:]])
            else:
                strokes.append(stroke)
        letters.append(strokes)
        x += glyph.char_width
    return letters


def resample(stroke: Array, rng: np.random.Generator) -> Array:
    """Cut the segments of a polyline into pieces of about STEP; the corners are kept.

    The fonts have short segments in curves, so the pen is slower there, like a hand. The cuts are
    shifted at random by up to a third of a step: with pieces of equal length all moves would be on
    one circle, on which the density can increase, and the loss decrease, without bound.
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


def load_font(name: str) -> HersheyFonts:
    font = HersheyFonts()
    font.load_default_font(name)
    return font


def set_line(font: HersheyFonts, text: str, rng: np.random.Generator, hand: int | None = None) -> PenLines:
    """One line of text; with instructions if it is in a hand."""
    letters = []
    for i, outline in enumerate(letters_of(font, text)):
        if outline:
            strokes = [resample(stroke, rng) for stroke in outline]
            count = np.arange(sum(len(stroke) for stroke in strokes))
            told = np.tile(instruction(text, i, hand), (count.size, 1))
            letters.append(PenLines(np.concatenate(strokes), pen_states(strokes), count, told, np.zeros_like(count)))
    return join(letters)


def pen_states(strokes: list[Array]) -> Array:
    """The pen states (n, 3) at the points of a letter's strokes."""
    ends = np.cumsum([len(stroke) for stroke in strokes]) - 1
    states = np.full(ends[-1] + 1, GOES_ON)
    states[ends] = STROKE_ENDS
    states[-1] = LETTER_ENDS
    return np.eye(N_PENS, dtype=np.float32)[states]


def instruction(text: str, i: int, hand: int | None) -> Array:
    """The writer's instruction for letter i of a text -> (k,): whether it begins a word, and one-hot
    the letter and the hand. Without a hand it is empty, k = 0."""
    if hand is None:
        return np.zeros(0, np.uint8)
    begins_word = i == 0 or text[i - 1] == " "
    letter = [text[i] == other for other in string.ascii_letters]
    return np.array([begins_word, *letter, *(np.arange(len(HANDS)) == hand)], np.uint8)


def set_lines(font_names: tuple[str, ...], n_points: int, rng: np.random.Generator, told: bool = False) -> PenLines:
    """Random lines in each of the fonts, about n_points in total, the same number in each."""
    lines: list[PenLines] = []
    n = 0
    for i, name in enumerate(font_names):
        font = load_font(name)
        while n < (i + 1) * n_points / len(font_names):
            line = set_line(font, random_text(rng), rng, i if told else None)
            line.line[:] = len(lines)
            lines.append(line)
            n += len(line.points)
    return join(lines)


def join(parts: list[PenLines]) -> PenLines:
    """Concatenated letters or lines."""
    return PenLines(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(PenLines)))


def in_other_hands(lines: PenLines, rng: np.random.Generator) -> PenLines:
    """Every line with its own random slant, size and bent letters.

    Five fonts have only 260 letters. With new distortions in each epoch (elastic distortions:
    Simard, Steinkraus & Platt 2003) the network learns shapes instead of these letters.
    """
    n_lines, points = lines.line[-1] + 1, lines.points
    for _ in range(2):
        # One wave per line, about 50 units long, moves x and y by up to one unit.
        wave = rng.normal(0.0, 0.1, (n_lines, 2, 2))
        phase = rng.uniform(0.0, 2 * np.pi, (n_lines, 2))
        points = points + np.sin(transform(points, wave[lines.line]) + phase[lines.line])
    hand = np.zeros((n_lines, 2, 2))
    hand[:, 0, 0], hand[:, 1, 1] = np.exp(rng.normal(0.0, 0.08, (2, n_lines)))
    hand[:, 1, 0] = rng.normal(0.0, 0.12, n_lines)  # slant: y changes x
    return replace(lines, points=transform(points, hand[lines.line]))


def transform(points: Array, matrix: Array) -> Array:
    """Each point (n, 2) times its own matrix (n, 2, 2) -> (n, 2)."""
    return np.einsum("ni,nij->nj", points, matrix)


def move_pen(lines: PenLines, unit: float, rng: np.random.Generator) -> PenMoves:
    """The moves from point to point, in `unit`, of a pen with tremor.

    As in Graves 2013, the move from one stroke to the next is a move like any other: the lift
    before it says that the pen is up. Without the tremor a straight line would be determined by
    its first two points, and the loss would have no lower bound. The tremor is smaller than the
    rounding error of the fonts' integer grid (standard deviation 0.29).
    """
    points = lines.points + rng.normal(0.0, TREMOR, lines.points.shape)
    first = np.diff(lines.line, prepend=-1) > 0
    # The first move of a line starts from the origin.
    start = np.where(first[:, None], 0.0, np.roll(points, 1, axis=0))
    rows = np.arange(len(points)) + WINDOW * (lines.line + 1)
    moves = np.tile(np.array([0, 0, 1], np.float32), (rows[-1] + 1, 1))
    moves[rows] = np.column_stack([(points - start) / unit, 1 - lines.state[:, GOES_ON]])
    height = (points[:, 1] / CAP_HEIGHT).astype(np.float32)
    progress = letter_progress(points, start, lines.count)
    return PenMoves(moves, *(spread(values, rows) for values in (lines.state, height, progress, lines.told)), rows)


def letter_progress(points: Array, pen: Array, count: Array) -> Array:
    """The progress of a letter when `count` of its points are drawn and the pen (n, 2) is about to
    move to the next -> (n, 2): their number, in units of 20, and the distance to the right of the
    first of them, in capitals."""
    first = points[np.arange(len(points)) - count]
    way = np.where(count > 0, pen[:, 0] - first[:, 0], 0.0)
    return np.column_stack([count / 20, way / CAP_HEIGHT]).astype(np.float32)


def spread(values: Array, rows: Array) -> Array:
    """Values (n, ...) at these rows, 0 in all others -> (m, ...)."""
    out = np.zeros((rows[-1] + 1, *values.shape[1:]), values.dtype)
    out[rows] = values
    return out


# --------------------------------------------------------------------- two models without memory


def fit_one_gaussian(moves: Array, states: Array) -> Array:
    """One Gaussian and one pen state, fitted in closed form -> raw vector (9,)."""
    log_stddev = np.log(moves.std(axis=0))
    correlation = np.corrcoef(moves.T)[0, 1]
    return np.array([*np.log(states.mean(axis=0)), 0.0, *moves.mean(axis=0), *log_stddev, np.arctanh(correlation)])


def fit_one_mixture(moves: Array, states: Array, rng: np.random.Generator) -> Array:
    """One mixture and one pen state: a 'network' that is a single raw vector (D,)."""
    moves, states = moves.astype(np.float64), states.astype(np.float64)
    start = np.zeros(N_PENS + 6 * N_COMPONENTS)
    _, _, mean, log_stddev, _ = split_raw(start)
    mean[:] = rng.choice(moves, N_COMPONENTS).T
    log_stddev[:] = -1.0

    def loss_and_gradient(raw: Array) -> tuple[float, Array]:
        rows = np.broadcast_to(raw, (len(moves), raw.size))
        loss, gradient = cymdn.mdn_loss_and_gradient(rows, moves, states)
        return float(loss), gradient.sum(axis=0)

    # After 200 steps the loss no longer changes in its second decimal.
    options = {"maxiter": 200}
    return minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options=options).x


def loss_of_constant(raw: Array, data: PenMoves) -> float:
    """Loss of a model with constant output, raw (D,)."""
    rows = np.broadcast_to(raw, (len(data.rows), raw.size))
    return float(cymdn.mdn_loss(rows, *data.targets(data.rows)))


def split_raw(raw: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Views of raw output (..., 3 + 6 M): pen logits (..., 3), mixture logits (..., M), means
    (..., 2, M), log standard deviations (..., 2, M), atanh correlations (..., M)."""
    mixture = raw[..., N_PENS:].reshape(*raw.shape[:-1], 6, -1)
    logits, atanh_correlation = mixture[..., 0, :], mixture[..., 5, :]
    return raw[..., :N_PENS], logits, mixture[..., 1:3, :], mixture[..., 3:5, :], atanh_correlation


# ---------------------------------------------------------------------------------- the network


class Network:
    """Fully connected layers with ReLU and dropout; all parameters in one flat float32 vector."""

    def __init__(self, sizes: tuple[int, ...], output_bias: Array, dropout: float, rng: np.random.Generator):
        self.sizes, self.keep = sizes, 1 - dropout
        n_parameters = sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes))
        self.parameters = np.zeros(n_parameters, np.float32)
        self.layers = self.split(self.parameters)
        for weight, _ in self.layers:
            weight[:] = rng.normal(0.0, np.sqrt(2 / len(weight)), weight.shape)
        # With weights near 0 and this bias, the untrained network predicts the best constant.
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
        return self.forward(inputs)[0]

    def forward(self, inputs: Array, rng: np.random.Generator | None = None) -> tuple[Array, list[Array]]:
        """Raw output (b, D) and the inputs of all layers; with a generator, hidden units are dropped."""
        layer_inputs = [inputs]
        for weight, bias in self.layers[:-1]:
            hidden = layer_inputs[-1] @ weight
            hidden += bias
            np.maximum(hidden, 0, out=hidden)
            if rng is not None and self.keep < 1:
                kept = rng.random(hidden.shape, dtype=np.float32) < self.keep
                hidden *= kept * np.float32(1 / self.keep)
            layer_inputs.append(hidden)
        weight, bias = self.layers[-1]
        return layer_inputs[-1] @ weight + bias, layer_inputs

    def backward(self, layer_inputs: list[Array], gradient: Array) -> Array:
        """Gradient of the parameters, flat, from the gradient (b, D) of the raw output."""
        flat = np.empty_like(self.parameters)
        out = self.split(flat)
        for i in range(len(self.layers) - 1, -1, -1):
            np.matmul(layer_inputs[i].T, gradient, out=out[i][0])
            np.sum(gradient, axis=0, out=out[i][1])
            if i > 0:
                # A unit that is 0, by ReLU or by dropout, has gradient 0.
                gradient = gradient @ self.layers[i][0].T
                gradient *= (layer_inputs[i] > 0) * np.float32(1 / self.keep)
        return flat


class Adam:
    """Kingma & Ba 2015, arXiv:1412.6980."""

    def __init__(self, parameters: Array):
        self.parameters, self.change = parameters, np.empty_like(parameters)
        self.mean, self.square = np.zeros_like(parameters), np.zeros_like(parameters)
        self.n_steps = 0

    def step(self, gradient: Array, rate: float) -> None:
        self.n_steps += 1
        rate *= math.sqrt(1 - 0.999**self.n_steps) / (1 - 0.9**self.n_steps)
        change = self.change  # new arrays of this size would take longer than the arithmetic
        np.subtract(gradient, self.mean, out=change)
        change *= 0.1
        self.mean += change
        np.multiply(gradient, gradient, out=change)
        change -= self.square
        change *= 0.001
        self.square += change
        np.sqrt(self.square, out=change)
        change += 1e-8
        np.divide(self.mean, change, out=change)
        change *= rate
        self.parameters -= change


# ------------------------------------------------------------------------------------- training


@dataclass
class Training:
    """A network, its training data, and the results of training."""

    network: Network
    lines: PenLines
    unit: float  # of the moves, in grid units
    rng: np.random.Generator
    losses: list[float] = field(default_factory=list)  # one per epoch
    network_seconds: float = 0.0
    loss_seconds: float = 0.0


@dataclass
class Reading:
    """The reader, and its losses on fonts that it is not trained on."""

    training: Training
    held_out: PenMoves
    baselines: tuple[float, float]  # held-out loss of one Gaussian and of one mixture
    losses: list[float] = field(default_factory=list)  # of the network, one per epoch


def prepare_reader(rng: np.random.Generator) -> Reading:
    """Generate the lines, fit the two models without memory, make the network."""
    lines = set_lines(TRAINING_FONTS, N_TRAINING_POINTS, rng)
    training, *constants = prepare(lines, READER_DROPOUT, rng)
    held_out = move_pen(set_lines(HELD_OUT_FONTS, N_HELD_OUT_POINTS, rng), training.unit, rng)
    gaussian, mixture = (loss_of_constant(raw, held_out) for raw in constants)
    return Reading(training, held_out, (gaussian, mixture))


def prepare_writer(rng: np.random.Generator) -> Training:
    """The same for lines with instructions."""
    return prepare(set_lines(HANDS, N_WRITER_POINTS, rng, told=True), WRITER_DROPOUT, rng)[0]


def prepare(lines: PenLines, dropout: float, rng: np.random.Generator) -> tuple[Training, Array, Array]:
    """An untrained network, and raw vectors of one Gaussian and of one mixture."""
    unit = float(np.diff(lines.points, axis=0)[np.diff(lines.line) == 0].std())
    data = move_pen(in_other_hands(lines, rng), unit, rng)
    moves, states = data.targets(data.rows)
    sample = rng.choice(len(moves), min(10_000, len(moves)), replace=False)
    mixture = fit_one_mixture(moves[sample], states[sample], rng)
    network = Network((data.inputs(data.rows[:1]).size, *HIDDEN, mixture.size), mixture, dropout, rng)
    return Training(network, lines, unit, rng), fit_one_gaussian(moves, states), mixture


def train(training: Training, n_epochs: int) -> Iterator[float]:
    """Adam on mini-batches, with a cosine schedule of the learning rate down to 0. Yields the loss of each epoch."""
    adam = Adam(training.network.parameters)
    n_batches = len(training.lines.points) // BATCH
    n_steps = n_epochs * n_batches
    steps = iter(range(n_steps))
    with tqdm(total=n_steps, unit="batch") as progress:
        for _ in range(n_epochs):
            data = move_pen(in_other_hands(training.lines, training.rng), training.unit, training.rng)
            order = training.rng.permutation(data.rows)[: n_batches * BATCH]
            losses = []
            for rows in order.reshape(n_batches, BATCH):
                rate = LEARNING_RATE * (1 + math.cos(math.pi * next(steps) / n_steps)) / 2
                losses.append(train_on(training, data, rows, adam, rate))
                progress.update()
            training.losses.append(float(np.mean(losses)))
            yield training.losses[-1]


def train_on(training: Training, data: PenMoves, rows: Array, adam: Adam, rate: float) -> float:
    """One step of Adam on a batch -> its loss."""
    start = time.perf_counter()
    moves, states = data.targets(rows)
    raw, layer_inputs = training.network.forward(data.inputs(rows), training.rng)
    before_loss = time.perf_counter()
    loss, gradient = cymdn.mdn_loss_and_gradient(raw, moves, states)
    after_loss = time.perf_counter()
    adam.step(training.network.backward(layer_inputs, gradient), rate)
    training.loss_seconds += after_loss - before_loss
    training.network_seconds += time.perf_counter() - start - (after_loss - before_loss)
    return float(loss)


def evaluate(network: Network, data: PenMoves) -> float:
    """Mean loss, without dropout."""
    raw = network(data.inputs(data.rows))
    return float(cymdn.mdn_loss(raw, *data.targets(data.rows)))


def report_setting(reading: Reading) -> str:
    """The compared data, and the head of the table."""
    return (
        f"training on {len(reading.training.lines.points)} pen points of {', '.join(TRAINING_FONTS)}\n"
        f"held out: {len(reading.held_out.rows)} pen points of {', '.join(HELD_OUT_FONTS)}\n"
        f"nats per pen point, moves in units of {reading.training.unit:.2f} grid units\n\n"
        "       network                    no memory, held-out fonts\n"
        "epoch  training  held-out fonts  one Gaussian  one mixture"
    )


def report_line(reading: Reading) -> str:
    losses = reading.training.losses
    gaussian, mixture = reading.baselines
    return f"{len(losses):5}{losses[-1]:10.3f}{reading.losses[-1]:16.3f}{gaussian:14.3f}{mixture:13.3f}"


# ------------------------------------------------------------------------------------- writing

MAX_POINTS = 100  # of a letter, if its end is missed; the longest in the two hands, a joined M, has 52


class Pen:
    """A pen that is moved by the writer: each move is sampled from the output for the moves before."""

    def __init__(self, writer: Training, rng: np.random.Generator, **sharpness: float):
        self.network, self.unit, self.rng = writer.network, writer.unit, rng
        self.sharpness = sharpness  # bias or temperature
        self.position = np.zeros(2)  # in grid units
        self.inputs = np.zeros((1, self.network.sizes[0]), np.float32)
        # Views, in the order of PenMoves.inputs; at first the pen rests.
        past, self.height, self.progress, self.told = np.split(self.inputs[0], 3 * WINDOW + np.array([0, 1, 3]))
        self.past = past.reshape(3, WINDOW)
        self.past[2] = 1
        self.network_seconds: list[float] = []  # of each move
        self.sample_seconds: list[float] = []

    def write(self, text: str, hand: int) -> list[Array]:
        """Write a line -> its strokes (n, 2), in grid units from where the pen was."""
        letters = [self.write_letter(instruction(text, i, hand)) for i in range(len(text)) if text[i] != " "]
        return [stroke for letter in letters for stroke in letter]

    def write_letter(self, told: Array) -> list[Array]:
        """Write one letter -> its strokes (n, 2)."""
        self.told[:] = told
        self.progress[:] = 0
        strokes: list[list[Array]] = [[]]
        for count in range(1, MAX_POINTS + 1):
            state = self.move()
            strokes[-1].append(self.position)
            if state == LETTER_ENDS:
                break
            if state == STROKE_ENDS:
                strokes.append([])
            self.progress[:] = count / 20, (self.position[0] - strokes[0][0][0]) / CAP_HEIGHT
        return [np.array(stroke) for stroke in strokes if stroke]

    def move(self) -> int:
        """Sample one move and make it -> the state of the pen after it."""
        start = time.perf_counter()
        raw = self.network(self.inputs)
        before_sample = time.perf_counter()
        moves, states, _ = cymdn.mdn_sample(raw, pen=N_PENS, rng=self.rng, **self.sharpness)
        after_sample = time.perf_counter()
        self.network_seconds.append(before_sample - start)
        self.sample_seconds.append(after_sample - before_sample)
        self.position = self.position + moves[0] * self.unit
        self.past[:, :-1] = self.past[:, 1:]
        self.past[:, -1] = *moves[0], 1 - states[0, GOES_ON]
        self.height[0] = self.position[1] / CAP_HEIGHT
        return int(states[0].argmax())


# ------------------------------------------------------------------------ picture of the reader

PICTURE_FONT, PICTURE_WORD = "timesi", "Density"
PIXEL = 0.2  # lengths in the picture are in grid units
REACH = 45.0  # distance from the pen up to which a prediction is drawn; the rest is invisible
MARGIN = 5.0
PAPER, INK = "#0a0612", "#ece7f2"
PATH, LIFTED, DONE, HEAT, FAINT = "#ffffff", "#55d6e8", "#f5c15b", "#f0706a", "#8d86a0"


def draw_reader(reading: Reading, out: Path) -> None:
    """Save a picture of the predictions along a word of a held-out font, and of the losses."""
    rng, unit = np.random.default_rng(1), reading.training.unit
    data = move_pen(set_line(load_font(PICTURE_FONT), PICTURE_WORD, rng), unit, rng)
    moves, states = data.targets(data.rows)
    raw = reading.training.network(data.inputs(data.rows)).astype(np.float64)
    # (n + 1, 2): the origin, then all pen points
    points = np.vstack([np.zeros(2), np.cumsum(moves, axis=0)]) * unit
    with plt.rc_context(picture_style()):
        figure = plt.figure(figsize=(13, 8))
        figure.set_layout_engine("constrained", h_pad=0.12, w_pad=0.12, hspace=0.04, wspace=0.03)
        grid = figure.add_gridspec(2, 2, height_ratios=(1.9, 1), width_ratios=(2, 1))
        top = figure.add_subplot(grid[0, :])
        draw_densities(top, raw, points, states, unit)
        label_densities(top, len(raw), float(cymdn.mdn_loss(raw, moves, states)))
        draw_lifts(figure.add_subplot(grid[1, 0]), raw, states)
        draw_learning(figure.add_subplot(grid[1, 1]), reading)
        figure.savefig(out, dpi=200)
    plt.close(figure)


def picture_style() -> dict[Any, Any]:
    """Light lines on a dark background."""
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
    """The sum of the densities of all steps, each relative to the pen, on a grid of pixels; its extent.

    The sum is the number of pen points that the network expects per unit of area.
    """
    low, high = points.min(axis=0) - MARGIN, points.max(axis=0) + MARGIN
    # the centres of the pixels
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


def draw_densities(axes: Axes, raw: Array, points: Array, states: Array, unit: float) -> None:
    """The heat map, and the true path of the pen."""
    density, extent = density_map(raw, points, unit)
    # A power below 1 also shows the wide, low predictions of where a lifted pen lands.
    norm = PowerNorm(0.5, 0.0, float(np.quantile(density, 0.998)))
    image = axes.imshow(density, cmap="magma", norm=norm, extent=extent, origin="lower", interpolation="bilinear")
    # (n - 1, 2, 2): from each pen point to the next
    steps = np.stack([points[1:-1], points[2:]], axis=1)
    lifted = states[:-1, GOES_ON] == 0
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
        f"summed (as in Graves 2013, fig. 10). Loss of this word: {loss:.2f} nats per point"
    )
    axes.text(0, 1.03, subtitle, transform=axes.transAxes, color=FAINT, fontsize=10.5)
    axes.set(xlabel=f"grid units of the font {PICTURE_FONT} (a capital is {CAP_HEIGHT:.0f} high)")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def draw_lifts(axes: Axes, raw: Array, states: Array) -> None:
    """The probability that the pen lifts, at every pen point."""
    odds = np.exp(raw[:, :N_PENS] - raw[:, :N_PENS].max(axis=1, keepdims=True))
    probability = 1 - odds[:, GOES_ON] / odds.sum(axis=1)
    n, true = np.arange(1, len(states) + 1), states.argmax(axis=1)
    answers = ("no", HEAT), ("the stroke ended", LIFTED), ("the letter ended", DONE)
    for state, (answer, color) in enumerate(answers):
        axes.bar(n[true == state], probability[true == state], width=0.9, color=color, label=answer)
        if state != GOES_ON:
            axes.plot(n[true == state], np.full(np.sum(true == state), 1.06), "v", color=color, markersize=5)
    axes.set(xlim=(0, len(states) + 1), ylim=(0, 1.12), yticks=(0, 0.5, 1))
    axes.set(xlabel="pen point along the word", ylabel="predicted probability")
    axes.set_title("Does the pen lift here?")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1.02), ncols=3, borderaxespad=0, columnspacing=1.2)


def draw_learning(axes: Axes, reading: Reading) -> None:
    """Loss by epoch, with those of the two models without memory."""
    epochs = np.arange(1, len(reading.losses) + 1)
    names = "one Gaussian", "one mixture"
    for loss, name in zip(reading.baselines, names, strict=True):
        axes.axhline(loss, color=FAINT, linestyle="--", linewidth=1)
        axes.annotate(
            f"{name}, no memory  {loss:.2f}", (1, loss), (0, 4), va="bottom", ha="right",
            xycoords=("axes fraction", "data"), textcoords="offset points", color=FAINT,
        )  # fmt: skip
    curves = (
        ("held-out fonts", reading.losses, LIFTED),
        ("training fonts", reading.training.losses, HEAT),
    )
    for name, losses, color in curves:
        label = f"network, {name}  {losses[-1]:.2f}"
        axes.plot(epochs, losses, "o-", color=color, markersize=4, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper right", bbox_to_anchor=(1.0, 0.5), borderaxespad=0)
    axes.set_ylim(top=1.15 * max(reading.baselines))
    axes.set(xlabel="epoch", ylabel="nats per pen point")
    axes.set_title("Loss (lower is better)")


# ------------------------------------------------------------------------ picture of the writer

TEXT = "Mixtures of Gaussians write by hand"  # of these words only "of" is one of WORDS
SHARPNESS = (
    ({"bias": 0.0}, "as the network has it"),
    ({"bias": 1.0}, "neater"),
    ({"bias": 3.0}, "nearly without chance"),
    ({"temperature": 1.5}, "wilder"),
    ({"temperature": 0.5}, "neater"),
    ({"temperature": 0.1}, "nearly without chance"),
)
COLUMNS, LINE_SPACING = (0.0, 590.0), 48.0  # positions of the two hands, distance between lines


def draw_writer(writer: Training, out: Path, seed: int) -> list[Pen]:
    """Save a picture of the text in both fonts and as the network writes it -> the pens that wrote."""
    pens = []
    with plt.rc_context(picture_style()):
        figure = plt.figure(figsize=(13, 4.2))
        axes = figure.add_axes((0.01, 0.0, 0.98, 0.83))
        for column, (hand, name) in zip(COLUMNS, enumerate(HANDS), strict=True):
            font = [stroke for letter in letters_of(load_font(name), TEXT) for stroke in letter]
            draw_strokes(axes, font, (column, 0.0), FAINT)
            for row, (sharpness, _) in enumerate(SHARPNESS, start=1):
                # The same random numbers for every line: only bias or temperature differ.
                pens.append(Pen(writer, np.random.default_rng(seed), **sharpness))
                draw_strokes(axes, pens[-1].write(TEXT, hand), (column, -LINE_SPACING * row), PATH)
        label_writing(axes)
        figure.savefig(out, dpi=200)
    plt.close(figure)
    return pens


def draw_strokes(axes: Axes, strokes: list[Array], place: tuple[float, float], color: str) -> None:
    """One line of writing."""
    axes.add_collection(LineCollection([stroke + place for stroke in strokes], colors=color, linewidths=1.0))


def label_writing(axes: Axes) -> None:
    """Title, and labels of the lines."""
    labels = [("the two fonts", "that it learned from")]
    for sharpness, note in SHARPNESS:
        ((name, value),) = sharpness.items()
        labels.append((f"{name} {value:g}", note))
    for row, (label, note) in enumerate(labels):
        y = -LINE_SPACING * row
        axes.text(-30, y + 9, label, ha="right", color=INK if row else FAINT)
        axes.text(-30, y - 7, note, ha="right", color=FAINT, fontsize=9)
    axes.set(xlim=(-205, 1235), ylim=(-LINE_SPACING * len(SHARPNESS) - 25, 35), aspect="equal")
    axes.axis("off")
    axes.figure.text(0.02, 0.92, "A network writes the letters that it is told, one move at a time", fontsize=17)
    subtitle = (
        f"Each move is drawn by cymdn.mdn_sample from the mixture of {N_COMPONENTS} Gaussians that the network makes "
        f"of the {WINDOW} moves before, all lines from one seed"
    )
    axes.figure.text(0.02, 0.86, subtitle, color=FAINT, fontsize=10.5)


# ----------------------------------------------------------------------------------------- main


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4, help="of the reader")
    parser.add_argument("--writer-epochs", type=int, default=8, help="of the writer")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    parser.add_argument("--out", type=Path, default=Path("handwriting.png"), help="file name of the reader's picture")
    return parser.parse_args()


def learn_to_read(n_epochs: int, rng: np.random.Generator) -> Reading:
    """Train the reader, and print its loss after each epoch."""
    reading = prepare_reader(rng)
    print(report_setting(reading))
    for _ in train(reading.training, n_epochs):
        reading.losses.append(evaluate(reading.training.network, reading.held_out))
        tqdm.write(report_line(reading))
    return reading


def learn_to_write(n_epochs: int, rng: np.random.Generator) -> Training:
    """Train the writer, and print its loss."""
    writer = prepare_writer(rng)
    *_, loss = train(writer, n_epochs)
    points = f"{len(writer.lines.points)} pen points of {', '.join(HANDS)}"
    print(f"\nthe writer, told the text: {points}; loss {loss:.3f} after {n_epochs} epochs")
    return writer


def report_pens(pens: list[Pen]) -> str:
    """The time of one step: the next move, from the moves before."""
    network, sample = [t for pen in pens for t in pen.network_seconds], [t for pen in pens for t in pen.sample_seconds]
    return (
        f"wrote {len(pens)} lines in {len(network)} moves; a move takes (median) "
        f"{np.median(network) * 1e6:.0f} us in the network, {np.median(sample) * 1e6:.0f} us in mdn_sample"
    )


def report_time(trainings: tuple[Training, ...], seconds: float) -> str:
    """The parts of the training time."""
    loss, network = (sum(s) for s in zip(*[(t.loss_seconds, t.network_seconds) for t in trainings], strict=True))
    n_rows = sum(len(t.losses) * (len(t.lines.points) // BATCH) * BATCH for t in trainings)
    each = loss / (n_rows * N_COMPONENTS) * 1e9
    return (
        f"training: networks {network:.1f} s, loss and gradient {loss:.1f} s "
        f"({loss / (loss + network):.1%}; {each:.0f} ns per component); in all {seconds:.1f} s"
    )


def main() -> None:
    start = time.perf_counter()
    arguments = parse_arguments()
    rng = np.random.default_rng(arguments.seed)
    reading = learn_to_read(arguments.epochs, rng)
    draw_reader(reading, arguments.out)
    writer = learn_to_write(arguments.writer_epochs, rng)
    samples = arguments.out.with_stem(arguments.out.stem + "_samples")
    pens = draw_writer(writer, samples, arguments.seed)
    print(report_pens(pens))
    print(f"drawn: {arguments.out}, {samples}")
    print(report_time((reading.training, writer), time.perf_counter() - start))


if __name__ == "__main__":
    main()
