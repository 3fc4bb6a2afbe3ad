"""Train a small network in two processes and in one, with the same losses and gradients.

`DistributedDataParallel` gives each process its share of the batch and averages the gradients.
`cymdn.torch.MDNLoss` is used like any other loss. Both processes run on this machine and
communicate through gloo; they find each other by a file. On several machines only this rendezvous
differs.

Run it (a few seconds):

    python -m pip install ".[torch]" && python examples/ddp_torch.py

The average of the processes' means is the mean over all rows because the shares are equal. If
they are not, or if rows have weights, use MDNLoss("sum"), divide by the total weight of all
processes, and multiply by the number of processes.
"""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from cymdn.torch import MDNLoss

PROCESSES = 2
ROWS, FEATURES, COMPONENTS = 512, 16, 20
STEPS, LEARNING_RATE = 5, 0.1
TIME_LIMIT = timedelta(seconds=60)  # for which a process waits for the other

Step = tuple[torch.Tensor, torch.Tensor]  # loss, and gradient of all parameters in one vector


def make_network() -> torch.nn.Module:
    torch.manual_seed(0)
    width = 1 + 6 * COMPONENTS
    return torch.nn.Sequential(torch.nn.Linear(FEATURES, 64), torch.nn.Tanh(), torch.nn.Linear(64, width))


def make_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The input of each row, the points to predict, and where strokes end."""
    generator = torch.Generator().manual_seed(1)
    known = torch.randn(ROWS, FEATURES, generator=generator)
    return known, known[:, :2].sin() + 0.1 * torch.randn(ROWS, 2, generator=generator), (known[:, 2] > 1).float()


def train(network: torch.nn.Module, rows: slice) -> list[Step]:
    """Gradient descent on some rows of the batch; return loss and gradient of each step."""
    criterion, optimizer = MDNLoss(), torch.optim.SGD(network.parameters(), LEARNING_RATE)
    known, x, pen = (tensor[rows] for tensor in make_batch())
    steps = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = criterion(network(known), x, pen)
        loss.backward()  # with several processes, this also averages their gradients
        steps.append((loss.detach(), torch.cat([p.grad.flatten() for p in network.parameters()])))
        optimizer.step()
    return steps


def train_a_share(rank: int, folder: str) -> None:
    """One of the processes: join the others, train on its rows, save the steps."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder, "meeting point")), PROCESSES)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=PROCESSES, timeout=TIME_LIMIT)
    share = ROWS // PROCESSES
    steps = train(DistributedDataParallel(make_network()), slice(rank * share, (rank + 1) * share))
    torch.save(steps, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(train_a_share, (folder,), PROCESSES)
        shares = [torch.load(Path(folder, f"{rank}.pt")) for rank in range(PROCESSES)]
    print(f"{ROWS} rows, {COMPONENTS} components\n")
    print(f"step  loss, {PROCESSES} processes  loss, 1 process  gradients differ by")
    for k, (loss, gradient) in enumerate(train(make_network(), slice(ROWS)), start=1):
        losses, gradients = zip(*(steps[k - 1] for steps in shares), strict=True)
        difference = max((g - gradient).abs().max() / gradient.abs().max() for g in gradients)
        print(f"{k:4}{sum(losses) / PROCESSES:20.6f}{loss:17.6f}{difference:21.1e}")


if __name__ == "__main__":
    main()
