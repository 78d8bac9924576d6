"""Convolutions from many Python threads, in forked children and DataLoader workers, between torch's own operators.

Every call's result must be, to the bit, what it was when nothing else ran. Each round is a case of its own in a child
process (watched.py), so that a deadlock is found and not waited for. What calls cost each other is seen in the
processor's time: that of sixteen threads at once, over that of the same calls one after another, torch's own
convolution beside ours.
"""

from __future__ import annotations

import functools
import multiprocessing
import random
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from myconv2d import ConvBlock, MyConv2d, conv2d, freeze, native

from .outcome import Outcome
from .watched import watched

_THREADS = 16
_CALLS = 8


def _work(seed: int) -> list[Tensor]:
    """Some convolutions and their gradients, between operators of torch's own that use the same pool."""
    generator = torch.Generator().manual_seed(seed)
    chance = random.Random(seed)
    c, k, groups = chance.choice([1, 3, 8, 16]), chance.choice([2, 8, 24]), 1
    image = torch.randn(2, c, 9 + seed % 7, 12, generator=generator).requires_grad_()
    weight = torch.randn(k, c, 3, 3, generator=generator).requires_grad_()
    mixed = torch.randn(64, 64, generator=generator)
    output = conv2d(image, weight, padding=1, stride=1 + seed % 2, groups=groups)
    mixed = (mixed @ mixed).softmax(1)
    gradients = torch.autograd.grad((output.sin() * mixed.mean()).sum(), (image, weight))
    return [output.detach(), *gradients]


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _at_once(work: Callable[[int], Any]) -> list[Any]:
    """work(i) of as many threads, which begin together."""
    start = threading.Barrier(_THREADS)

    def one(i: int) -> Any:
        start.wait()
        return work(i)

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(one, range(_THREADS)))


def _judged(same: list[bool]) -> str | None:
    wrong = [i for i, right in enumerate(same) if not right]
    return f"threads {wrong} have other results together" if wrong else None


def _threads(seed: int) -> str | None:
    alone = [_work(seed * _THREADS + i) for i in range(_THREADS)]

    def run(i: int) -> bool:
        return all(_same(_work(seed * _THREADS + i), alone[i]) for _ in range(_CALLS))

    return _judged(_at_once(run))


def _shared(seed: int, form: Callable[[torch.nn.Module], Callable[[Tensor], Tensor]]) -> str | None:
    """One network, in some form, shared by all threads in inference."""
    torch.manual_seed(seed)
    network = form(torch.nn.Sequential(MyConv2d(3, 8, 3, padding=1), ConvBlock(8, 16, resize="pool")).eval())
    pictures = torch.randn(_THREADS, 2, 3, 16, 16)
    with torch.inference_mode():
        alone = [network(picture) for picture in pictures]

    def run(i: int) -> bool:
        with torch.inference_mode():
            return all(torch.equal(network(pictures[i]), alone[i]) for _ in range(_CALLS))

    return _judged(_at_once(run))


def _modules(seed: int) -> str | None:
    return _shared(seed, lambda network: network)


def _frozen(seed: int) -> str | None:
    return _shared(seed, lambda network: freeze(network, torch.rand(1, 3, 16, 16)))


def _cost(convolution: Callable[..., Tensor], repeats: int = 5) -> float:
    """Processor's time of sixteen threads at once, over that of the same calls one after another.

    The results are small: large ones malloc takes from the system anew for every call, but not in the main thread.
    """
    image, weight = torch.randn(2, 32, 16, 16), torch.randn(32, 32, 3, 3)

    def run(_: int) -> float:
        convolution(image, weight, padding=1)  # a thread's first call takes memory to work in
        begin = time.thread_time()
        for _ in range(4 * _CALLS):
            convolution(image, weight, padding=1)
        return time.thread_time() - begin

    return statistics.median(sum(_at_once(run)) / sum(map(run, range(_THREADS))) for _ in range(repeats))


def _in_child(seed: int, pipe) -> None:
    torch.set_num_threads(1)  # as DataLoader does: torch's own threads do not survive a fork
    pipe.send([t.numpy() for t in _work(seed)])


def _fork(seed: int) -> str | None:
    """Children forked while other threads are in the middle of convolutions."""
    context, expected, stop = multiprocessing.get_context("fork"), _work(seed), threading.Event()

    def busy() -> None:
        while not stop.is_set():
            _work(seed + 1)

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            receive, send = context.Pipe(duplex=False)
            child = context.Process(target=_in_child, args=(seed, send))
            child.start()
            if not receive.poll(60):
                child.kill()
                return "a forked child gives no answer"
            found = [torch.from_numpy(array) for array in receive.recv()]
            child.join()
            if not _same(found, expected):
                return "a forked child has other results"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return None


class _Pictures(Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        return _work(index * 2)[0].sum()


def _workers(seed: int) -> str | None:
    expected = torch.stack([_Pictures()[i] for i in range(8)])
    loader = DataLoader(_Pictures(), batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=120)
    return None if torch.equal(torch.cat(list(loader)), expected) else "workers have other results"


KINDS = {"threads": _threads, "modules": _modules, "frozen": _frozen, "fork": _fork, "workers": _workers}


def _case(seed: int, index: int) -> tuple[str, str | None]:
    name = list(KINDS)[index % len(KINDS)]
    isas = [isa for isa, here in native.cpu.isas().items() if here]
    native.cpu.use_isa(isas[index // len(KINDS) % len(isas)])
    torch.set_num_threads(1 if name in ("fork", "workers") else 2)
    problem = KINDS[name](seed + index)
    return name, problem and f"{name}, seed {seed + index}, {native.cpu.isa()}: {problem}"


def concurrency(rounds: int, seed: int, minutes: float) -> Outcome:
    trial = watched(functools.partial(_case, seed), rounds, minutes)
    torch.set_num_threads(1)
    cost = {"ours": round(_cost(conv2d), 2), "torch": round(_cost(torch.conv2d), 2)}
    rounds_of = ", ".join(f"{count} of {name}" for name, count in trial.notes.items())
    figure = (
        f"{trial.tried} rounds ({rounds_of}), {_THREADS} threads each: {len(trial.problems)} problems; "
        f"together {cost['ours']} times the processor's time alone (torch: {cost['torch']})"
    )
    numbers = {"seed": seed, "rounds": trial.tried, **trial.notes, "cost": cost}
    return Outcome("concurrency", figure, numbers, trial.problems)
