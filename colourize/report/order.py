"""F2: max-pool before or after ReLU: are the outputs the same, and what does each order cost?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from ..measures import interval
from ..networks import ORDERS
from ..runs import Run
from ..settings import Settings
from . import blocks
from .experiment import Experiment
from .html import Html, table
from .results import Results
from .sentences import Score

_RUN = "RegressionCNN"
_ROUNDS, _REPEATS = 40, 3


def experiment(base: Settings) -> Experiment:
    runs = {_RUN: base.replace(task="regression", network="regression-cnn", palette=None)}
    question = "In RegressionCNN, what changes if max-pooling and ReLU change places?"
    return Experiment("F2", "Max-pool and ReLU", question, runs, _blocks)


@torch.inference_mode()
def _blocks(results: Results) -> list[Html]:
    run = results[_RUN].run
    networks = {}
    for order in ORDERS[:2]:
        network = Run(run.folder, run.settings.replace(order=order), run.task).create_network()
        network.load_state_dict(run.load_network().state_dict())
        networks[order] = network.eval()
    pictures = blocks.some_pictures(results, run.settings.batch_size)
    input = run.task.degrade(pictures)
    first, second = (networks[order] for order in ORDERS[:2])
    difference = (first(input) - second(input)).abs().max().item()

    raw = torch.randn(len(input), run.settings.filters, *input.shape[2:]).contiguous(memory_format=torch.channels_last)
    pairs = {
        "ReLU and max-pool alone, as torch has them": (
            lambda: F.max_pool2d(F.relu(raw), 2),
            lambda: F.relu(F.max_pool2d(raw, 2)),
        ),
        "the whole network: ReLU first runs in fused blocks, max-pool first as plain modules": (
            lambda: first(input),
            lambda: second(input),
        ),
    }
    costs = {name: cost(*pair) for name, pair in pairs.items()}
    rows = [
        (name, f"{1e3 * one:.3g} ms", f"{1e3 * two:.3g} ms", f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})")
        for name, (one, two, ratio) in costs.items()
    ]
    header = ["", "ReLU, max-pool", "max-pool, ReLU", "second / first"]
    return [
        blocks.answers([outputs(difference, len(input)), *sentences(costs)]),
        table(header, rows, f"Forward, {len(input)} pictures, processor, threads: {torch.get_num_threads()}"),
        blocks.theory(
            "ReLU never decreases, so the largest of four values stays the largest: max(relu(x)) = relu(max(x)). After "
            "pooling there are a quarter as many values for ReLU. With average pooling the two would differ."
        ),
    ]


def outputs(difference: float, count: int) -> str:
    """Whether the two orders gave the same."""
    if difference == 0:
        return f"The outputs of both orders are equal to the bit, on {count} validation pictures."
    return f"The outputs of both orders differ by at most {difference:.2g}, on {count} validation pictures."


def cost(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float, Score]:
    """Seconds of either, the least of all rounds, and the ratio second / first with its interval over the rounds."""
    times: list[list[float]] = []
    for _ in range(_ROUNDS):
        times.append([min(_seconds(function) for _ in range(_REPEATS)) for function in (first, second)])
    measured = torch.tensor(times, dtype=torch.float64)
    ratios = measured[:, 1] / measured[:, 0]
    return *measured.amin(0).tolist(), Score(ratios.mean().item(), *interval(ratios))


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def sentences(costs: Mapping[str, tuple[float, float, Score]]) -> list[str]:
    """Which order takes longer."""
    found = []
    for name, (_, _, ratio) in costs.items():
        if ratio.low <= 1 <= ratio.high:
            found.append(f"No difference in time is shown for {name}: {ratio.low:.2f} to {ratio.high:.2f} times.")
        else:
            word = "longer" if ratio.value > 1 else "less long"
            found.append(f"Max-pool before ReLU takes {word}, {ratio.value:.2f} times, for {name}.")
    return found
