"""The throughput of a training as a subject: epochs of what `colourize train` does between two validations.

Ours is the application's own step on its own examples, in a CUDA graph where there is a GPU. The rival reads the same
examples, from the device, in an ordinary loop over the plain UNet: forward, loss, backward, fused Adam; like ours it
asks for the loss once an epoch. The numbers are random; whether they are right is checked step by step (networks.py).
A whole training, evaluation and saving included, is timed by epoch.py.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from colourize import networks, step, training
from colourize.data import TensorImages
from colourize.examples import Examples
from colourize.palette import Palette
from colourize.tasks import Classification

from . import plain, precision
from .modules import laid_out
from .networks import COLOURS
from .subjects import OURS, RIVAL, Contestant, Ready, Subject
from .variants import Variant

BATCH, SIZE, LR = 100, 32, 1e-3
COUNT = {"cpu": 500, "cuda": 10_000}  # pictures


def subjects(device: torch.device, compiled: bool) -> Iterator[Subject]:
    yield epoch(device, COUNT[device.type], compiled)


def epoch(device: torch.device, count: int, compiled: bool = False) -> Subject:
    return Subject(
        f"unet-{SIZE}px-n{BATCH}",
        "epoch",
        "network",
        frozenset({"throughput"}),
        lambda: list(_contestants(device, count, compiled)),
        pixels=count * SIZE**2,
        images=count,
    )


@functools.lru_cache(maxsize=1)
def _examples(device: torch.device, count: int) -> tuple[Examples, list[Tensor]]:
    """Random pictures with a random palette, and an order."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    task = Classification(Palette(torch.rand(COLOURS, 3, generator=generator)))
    examples = Examples(TensorImages(pictures), task, device)
    return examples, list(examples.placed(torch.randperm(count, generator=generator).split(BATCH)))


def _contestants(device: torch.device, count: int, compiled: bool) -> Iterator[Contestant]:
    yield Contestant("ours, colourize train", OURS, lambda: _ours(device, count))
    for layout in ("contiguous", "channels_last"):
        for variant in (Variant(layout), Variant(layout, True))[: 1 + compiled]:
            variant = variant._replace(device=device.type)
            prepare = functools.partial(_plain, device, count, variant)
            yield Contestant(f"torch {variant.name}, plain loop", RIVAL, prepare)


def _ours(device: torch.device, count: int) -> Ready:
    examples, order = _examples(device, count)
    network = networks.create("unet").to(device, memory_format=torch.channels_last)
    optimizer = step.adam(network.parameters(), LR, device)
    arguments = network, optimizer, examples.task, examples, precision.name()
    one = step.create(*arguments, size=BATCH, graph=None)
    return Ready(lambda _: training.train_epoch(one, order, [LR] * len(order)), dict)


def _plain(device: torch.device, count: int, variant: Variant) -> Ready:
    examples, order = _examples(device, count)
    module = plain.create("unet")
    module = laid_out(module, module, variant, device)
    optimizer = torch.optim.Adam(module.parameters(), LR, fused=True)
    objective = variant.compile(lambda grey, target: F.cross_entropy(module(grey), target))

    def run(_: int) -> float:
        total = torch.zeros((), device=device)
        for indices in order:
            batch = examples.batch(indices)
            grey = batch.input.contiguous(memory_format=variant.memory_format)
            optimizer.zero_grad(set_to_none=True)
            with precision.autocast(device):
                loss = objective(grey, batch.target)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return total.item()

    return Ready(run, dict)
