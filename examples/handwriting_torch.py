"""Train Graves' network to write, in PyTorch, with cymdn's loss and with a manual one.

The network is a small version of that of Graves 2013 (arXiv:1308.0850, section 4, figure 1): two
LSTM layers, with skip connections from the input to each of them and from each of them to the
output. It reads a pen's moves one by one. After each it predicts a mixture of 20 correlated
Gaussians for the next move, and the probabilities that the stroke continues, that it ends, and
that the letter ends. The data are those of the reader in handwriting.py: words in the Hershey
single-stroke fonts, three of which are held out.

Run it (about two minutes on two cores):

    python -m pip install ".[demo,torch]"
    python examples/handwriting_torch.py [--loss both] [--steps 250] [--seed 0] [--device cpu] [--precision fp32]

`--loss cymdn` trains with `cymdn.torch.MDNLoss`, `--loss torch` with `LossByHand` below, `both`
with both in parallel, on the same batches from the same start: their curves differ only by
rounding errors, which training amplifies. Losses are in nats per pen point. At the end it prints
the time of a step with 64 sequences of 100 points, and the loss's share of it.

`--device cuda` trains on a GPU. `--precision bf16` runs the network under torch.autocast, on any
device: raw output is then bfloat16, and both losses compute in float32 with it.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from handwriting import N_COMPONENTS, N_PENS, PenMoves, Reading, in_other_hands, move_pen, prepare_reader
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn
from tqdm import tqdm

from cymdn.torch import MDNLoss

BATCH, LENGTH = 64, 100  # sequences, and moves in each
HIDDEN, LAYERS = 128, 2
LEARNING_RATE, LARGEST_GRADIENT = 5e-3, 1.0
ROUND = 25  # steps per line of the table; all lines are distorted anew in each round

Loss = Callable[..., Tensor]  # of raw output, next moves, ends of strokes, sample_weight=


class Network(nn.Module):
    """Moves (b, t, 3) -> raw output (b, t, 3 + 6 M) for the move after each of them."""

    def __init__(self, output_bias: np.ndarray):
        super().__init__()
        # each layer also gets the input
        self.layers = nn.ModuleList(nn.LSTM(3 + HIDDEN * (k > 0), HIDDEN, batch_first=True) for k in range(LAYERS))
        self.output = nn.Linear(LAYERS * HIDDEN, output_bias.size)
        # with weights near 0 and this bias, the untrained network predicts the best constant
        with torch.no_grad():
            self.output.weight *= 0.1
            self.output.bias.copy_(torch.from_numpy(output_bias))

    def forward(self, moves: Tensor) -> Tensor:
        hidden: list[Tensor] = []
        with torch.autocast("cpu", enabled=False):  # oneDNN has no bfloat16 LSTM on some CPUs; no effect on a GPU
            for layer in self.layers:
                hidden.append(layer(torch.cat([moves, *hidden[-1:]], dim=-1))[0])
        return self.output(torch.cat(hidden, dim=-1))


class LossByHand(nn.Module):
    """The loss as a careful user writes it: in the log domain, with logsumexp.

    It is NaN for |a| of 9 or more, where tanh is 1 in float32; here |a| is much smaller.
    """

    def forward(self, raw: Tensor, x: Tensor, pen: Tensor, *, sample_weight: Tensor) -> Tensor:
        raw = raw.float()
        logits, mean0, mean1, log_s0, log_s1, a = raw[..., N_PENS:].unflatten(-1, (6, N_COMPONENTS)).unbind(-2)
        u, v = (x[..., :1] - mean0) * torch.exp(-log_s0), (x[..., 1:] - mean1) * torch.exp(-log_s1)
        r = torch.tanh(a)
        q = 1 - r * r
        distance = (u * u + v * v - 2 * r * u * v) / q
        log_normal = -math.log(2 * math.pi) - log_s0 - log_s1 - 0.5 * (torch.log(q) + distance)
        log_density = torch.logsumexp(torch.log_softmax(logits, dim=-1) + log_normal, dim=-1)
        cross_entropy = -(pen * torch.log_softmax(raw[..., :N_PENS], dim=-1)).sum(-1)
        return (sample_weight * (cross_entropy - log_density)).sum() / sample_weight.sum()


LOSSES: dict[str, Loss] = {"cymdn": MDNLoss(), "torch": LossByHand()}


# ----------------------------------------------------------------------------------------- data


@dataclass
class Sequences:
    """Moves, and the targets after each of them."""

    moves: Tensor  # (b, t, 3)
    x: Tensor  # (b, t, 2): the next move
    pen: Tensor  # (b, t, 3): the pen's state after it, one-hot
    weight: Tensor  # (b, t): 1 for moves, 0 where the pen rests between two lines

    def to(self, device: torch.device) -> Sequences:
        return Sequences(*(tensor.to(device) for tensor in (self.moves, self.x, self.pen, self.weight)))


def cut(data: PenMoves, starts: np.ndarray) -> Sequences:
    """The sequences of LENGTH moves that start at these rows."""
    is_move = np.zeros(len(data.moves), np.float32)
    is_move[data.rows] = 1.0
    table = np.column_stack([data.moves, data.state, is_move])
    windows = torch.from_numpy(sliding_window_view(table, LENGTH + 1, axis=0)[starts].swapaxes(1, 2))
    after = windows[:, 1:]
    x, pen = after[..., :2].contiguous(), after[..., 3 : 3 + N_PENS].contiguous()
    return Sequences(windows[:, :-1, :3].contiguous(), x, pen, after[..., -1])


def random_batch(data: PenMoves, rng: np.random.Generator) -> Sequences:
    return cut(data, rng.integers(0, len(data.moves) - LENGTH, BATCH))


def all_of(data: PenMoves) -> Sequences:
    return cut(data, np.arange(0, len(data.moves) - LENGTH, LENGTH))


# ------------------------------------------------------------------------------------- training


@dataclass
class Training:
    """A network that is trained with one of the losses, and the time of its steps."""

    loss: Loss
    network: Network
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    autocast: torch.autocast
    losses: list[float] = field(default_factory=list)  # of all steps
    held_out_losses: list[float] = field(default_factory=list)  # of all rounds
    network_seconds: float = 0.0
    forward_seconds: float = 0.0  # of the loss
    backward_seconds: float = 0.0  # of the loss

    def step(self, batch: Sequences) -> None:
        batch = batch.to(self.device)
        times = [self.now()]
        with self.autocast:
            raw = self.network(batch.moves)
        times.append(self.now())
        # the graph is split here, to measure the time of the loss alone; the results are the same
        leaf = raw.detach().requires_grad_()
        loss = self.loss(leaf, batch.x, batch.pen, sample_weight=batch.weight)
        times.append(self.now())
        loss.backward()
        times.append(self.now())
        self.optimizer.zero_grad()
        raw.backward(leaf.grad)
        nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        self.optimizer.step()
        self.schedule.step()
        times.append(self.now())
        forward, loss_forward, loss_backward, backward = np.diff(times)
        self.network_seconds += forward + backward
        self.forward_seconds += loss_forward
        self.backward_seconds += loss_backward
        self.losses.append(loss.item())

    @torch.no_grad()
    def evaluate(self, held_out: Sequences) -> None:
        held_out = held_out.to(self.device)
        with self.autocast:
            raw = self.network(held_out.moves)
        self.held_out_losses.append(self.loss(raw, held_out.x, held_out.pen, sample_weight=held_out.weight).item())

    @property
    def device(self) -> torch.device:
        return self.network.output.weight.device

    def now(self) -> float:
        """The time at which all work of the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.network_seconds + self.forward_seconds + self.backward_seconds


def start(loss: Loss, reading: Reading, arguments: argparse.Namespace) -> Training:
    """Return the untrained network, which is the same for all losses."""
    torch.manual_seed(arguments.seed)
    _, output_bias = reading.training.network.layers[-1]
    network = Network(output_bias).to(arguments.device)
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, arguments.steps)
    device = torch.device(arguments.device).type
    autocast = torch.autocast(device, torch.bfloat16, enabled=arguments.precision == "bf16")
    return Training(loss, network, optimizer, schedule, autocast)


def train(trainings: dict[str, Training], reading: Reading, steps: int) -> None:
    held_out = all_of(reading.held_out)
    lines, unit, rng = reading.training.lines, reading.training.unit, reading.training.rng
    with tqdm(total=steps, unit="step") as progress:
        for done in range(0, steps, ROUND):
            data = move_pen(in_other_hands(lines, rng), unit, rng)
            for _ in range(min(ROUND, steps - done)):
                batch = random_batch(data, rng)
                for training in trainings.values():
                    training.step(batch)
                progress.update()
            for training in trainings.values():
                training.evaluate(held_out)
            tqdm.write(report_line(trainings))


# -------------------------------------------------------------------------------------- reports


def report_head(names: list[str]) -> str:
    return "step" + "".join(f"{name + ', training':>18}{name + ', held out':>18}" for name in names)


def report_line(trainings: dict[str, Training]) -> str:
    """Mean loss of the last round's steps, and the loss on the held-out fonts after it."""
    columns = ((np.mean(training.losses[-ROUND:]), training.held_out_losses[-1]) for training in trainings.values())
    steps = max(len(training.losses) for training in trainings.values())
    return f"{steps:4}" + "".join(f"{training:18.4f}{held_out:18.4f}" for training, held_out in columns)


def report_time(trainings: dict[str, Training]) -> str:
    lines = [
        f"ms per step of {BATCH} x {LENGTH} points          network  loss forward  loss backward  in all  loss's share"
    ]
    for name, training in trainings.items():
        seconds = training.network_seconds, training.forward_seconds, training.backward_seconds, training.seconds
        network, forward, backward, total = (1e3 * s / len(training.losses) for s in seconds)
        share = (forward + backward) / total
        lines.append(f"{name:>41}{network:9.1f}{forward:14.2f}{backward:15.2f}{total:8.1f}{share:14.1%}")
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss", choices=[*LOSSES, "both"], default="both")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    names = list(LOSSES) if arguments.loss == "both" else [arguments.loss]
    reading = prepare_reader(np.random.default_rng(arguments.seed))
    trainings = {name: start(LOSSES[name], reading, arguments) for name in names}
    gaussian, mixture = reading.baselines
    print(
        f"nats per pen point; without memory, held-out fonts: one Gaussian {gaussian:.3f}, one mixture {mixture:.3f}\n"
    )
    print(report_head(names))
    train(trainings, reading, arguments.steps)
    print(f"\n{report_time(trainings)}")


if __name__ == "__main__":
    main()
