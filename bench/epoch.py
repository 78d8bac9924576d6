"""`python -m bench epoch`: what a user waits for, an epoch of `colourize train`, beside the same in plain PyTorch.

An epoch is everything from the end of one to the end of the next: batches in a new order, steps, evaluation, saving,
and whatever a training does between. The plain side does the same with the framework alone: the networks of plain.py in
channels_last, fused Adam, the same weights to begin with, batches, learning rates and scores, targets made once, and
torch.save of the same things. The sides take turns, a whole training each; the first epoch of each is not counted.
(throughput.py has the steps alone, on a GPU too.)
"""

from __future__ import annotations

import copy
import csv
import json
import math
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from colourize.data import Split
from colourize.files import atomic_write
from colourize.runs import Run
from colourize.schedule import rate
from colourize.settings import Settings
from colourize.training import load_data, shuffled, train

from . import plain
from .environment import environment
from .names import dated
from .stats import median, spread

_ALIKE = 0.02  # the losses of the first epoch differ by rounding alone


def epoch(settings: Settings, rounds: int, out: Path) -> int:
    """Measures and writes DATE-epoch-….json and .md into `out`, anew after every round: Ctrl-C keeps what is finished.

    Returns:
        The exit status: 0; 1 where the two sides' first epochs do not come to the same loss; 130 interrupted.
    """
    seconds: dict[str, list[float]] = {"ours": [], "plain PyTorch": []}
    facts = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "settings": {k: v for k, v in vars(settings).items() if k not in ("data_dir", "palette")},
        "threads": torch.get_num_threads(),
        "environment": environment("cpu"),
        "seconds": seconds,
    }
    stem = dated(out, facts["date"], f"epoch-cpu-{facts['threads']}-threads")
    try:
        with tempfile.TemporaryDirectory() as folder:
            split = load_data(settings)
            for turn in range(rounds):
                watch = _Watch()
                run = train(settings, Path(folder) / f"{turn}", console=watch, device="cpu")
                taken, theirs = _plain(run, split, Path(folder))
                ours = [row["train_loss"] for row in run.metrics]
                seconds["ours"] += watch.seconds()
                seconds["plain PyTorch"] += taken[1:]
                facts["rounds"] = f"{turn + 1} of {rounds}"
                facts["train_loss"] = {"ours": ours, "plain PyTorch": theirs}
                facts["alike"] = math.isclose(ours[0], theirs[0], rel_tol=_ALIKE)
                _write(facts, stem)
                print(f"round {turn + 1}/{rounds}: {_sentence(seconds)}", flush=True)
    except KeyboardInterrupt:
        kept = stem.with_suffix(".md") if "rounds" in facts else "nothing, as no round was finished"
        print(f"interrupted; kept: {kept}")
        return 130
    print(stem.with_suffix(".md"))
    return 0 if facts["alike"] else 1


def _write(facts: dict[str, Any], stem: Path) -> None:
    for suffix, text in {".json": json.dumps(facts, indent=1) + "\n", ".md": markdown(facts)}.items():
        atomic_write(stem.with_suffix(suffix), lambda file, text=text: file.write(text.encode()))


def markdown(facts: dict[str, Any]) -> str:
    settings, seconds = facts["settings"], facts["seconds"]
    lines = [
        f"# An epoch of training, {facts['date']}",
        "",
        f"**{_sentence(seconds)}**",
        "",
        f"{settings['task']}, {settings['network']}, {settings['data']}, batch {settings['batch_size']}, "
        f"{facts['threads']} threads, wall clock, steps, evaluation and saving (bench/epoch.py). The sides take turns: "
        f"{facts['rounds']} rounds.",
        "",
        "| side | epochs | median, s | fastest | slowest | IQR | loss of the first epoch |",
        "|---|---|---|---|---|---|---|",
    ]
    for side, samples in seconds.items():
        cells = f"{median(samples):.3f}", f"{min(samples):.3f}", f"{max(samples):.3f}", f"{spread(samples):.0%}"
        loss = facts["train_loss"][side][0]
        lines.append(f"| {side} | {len(samples)} | {' | '.join(cells)} | {loss:.4f} |")
    if not facts["alike"]:
        lines += ["", "**The losses differ by more than rounding: the two sides did not do the same.**"]
    lines += ["", "|  |  |", "|---|---|"]
    lines += [f"| {name} | {fact} |" for name, fact in facts["environment"].items()]
    return "\n".join(lines) + "\n"


def _sentence(seconds: dict[str, list[float]]) -> str:
    ours, theirs = (median(samples) for samples in seconds.values())
    return f"an epoch takes {ours:.2f} s, in plain PyTorch {theirs:.2f} s: {theirs / ours:.2f}×"


class _Watch(Console):
    """A console on which a training reports the end of each epoch; it notes when."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self._ends: list[float] = []

    def print(self, *objects: Any, **options: Any) -> None:
        if objects:  # an older rich refreshes its progress bar by printing nothing
            self._ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Of every epoch but the first."""
        return [end - begin for begin, end in zip(self._ends, self._ends[1:], strict=False)]


def _plain(run: Run, split: Split, folder: Path) -> tuple[list[float], list[float]]:
    """The training that `run` was, in plain PyTorch: seconds and training loss of each epoch."""
    settings, task = run.settings, run.task
    network = plain.create(settings.network)
    network.load_state_dict(run.create_network().state_dict())
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.lr, fused=True)
    seen, unseen = (_prepared(task, images.batch(torch.arange(len(images)))) for images in split[:2])
    count = len(seen[0])
    steps = math.ceil(count / settings.batch_size)
    seconds, rows, best = [], [], None
    for epoch in range(1, settings.epochs + 1):
        start = time.perf_counter()
        network.train()
        total, step = 0.0, (epoch - 1) * steps
        for indices in shuffled(count, settings.batch_size, settings.seed, epoch):
            for group in optimizer.param_groups:
                group["lr"] = rate(settings.schedule, settings.lr, step, steps * settings.epochs)
            optimizer.zero_grad(set_to_none=True)
            loss = _loss(network(_images(seen[0], indices)), seen[1][indices])
            loss.backward()
            optimizer.step()
            total, step = total + loss.detach() * len(indices), step + 1
        row = {"epoch": epoch, "train_loss": (total / count).item()}
        rows.append(row | _scores(network.eval(), unseen, run, settings.batch_size))
        if rows[-1] is min(rows, key=lambda row: row["validation_loss"]):
            best = copy.deepcopy(network.state_dict())
        state = {"network": network.state_dict(), "best": best, "optimizer": optimizer.state_dict(), "rows": rows}
        torch.save(state, folder / f"checkpoint-{epoch % 2}.pt")
        torch.save(network.state_dict(), folder / "model.pt")
        torch.save(best, folder / "best.pt")
        with (folder / "metrics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        seconds.append(time.perf_counter() - start)
    return seconds, [row["train_loss"] for row in rows]


def _prepared(task, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets and pictures, made once; images as rows of pixels, so that a batch of them is channels_last."""
    targets = torch.cat([task.target(some) for some in pictures.split(256)])
    inputs = task.degrade(pictures)
    return _as_rows(inputs), _as_rows(targets) if targets.dim() == 4 else targets, _as_rows(pictures)


def _as_rows(images: Tensor) -> Tensor:
    return images.permute(0, 2, 3, 1).contiguous()


def _images(rows: Tensor, indices: Tensor) -> Tensor:
    return rows[indices].permute(0, 3, 1, 2)


def _loss(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target)


@torch.inference_mode()
def _scores(network: nn.Module, examples: tuple[Tensor, ...], run: Run, batch_size: int) -> dict[str, float]:
    """Loss, PSNR and accuracy over the validation pictures."""
    inputs, targets, pictures = examples
    centres = run.task.palette.centres
    totals = torch.zeros(3, dtype=torch.float64)
    for indices in torch.arange(len(inputs)).split(batch_size):
        output, target = network(_images(inputs, indices)), targets[indices]
        labels = output.argmax(1)
        made, real = centres[labels].permute(0, 3, 1, 2), _images(pictures, indices).float() / 256
        error = (made - real).square().flatten(1).mean(1).double()
        psnr, accuracy = (-10 * error.clamp(min=1e-10).log10()).mean(), (labels == target).double().mean()
        totals += torch.stack([_loss(output, target).double(), psnr, accuracy]) * len(indices)
    names = "validation_loss", "validation_psnr", "validation_accuracy"
    return dict(zip(names, (totals / len(inputs)).tolist(), strict=True))
