"""Random configurations without end, in a process that may die; what fails is made small and printed as a program.

Case `i` of a seed is drawn from (seed, i) alone, so it is found again without those before it. The cases run in a child
process, which says what it begins: one that ends it (a signal) or stops it (a deadlock) is a finding like any other, and
a new child goes on behind it.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from typing import NamedTuple

import torch

from myconv2d import native

from .block_configurations import Block
from .configurations import Convolution
from .outcome import Outcome
from .shrink import shrunk

_PATIENCE = 120.0  # seconds without a sign of life, for cases of milliseconds
_BLOCKS = 3  # every third case is a block
_ENOUGH = 20  # failures, after which more say nothing new


class Failure(NamedTuple):
    index: int
    problems: list[str]
    program: str

    def __str__(self) -> str:
        return f"case {self.index}: {'; '.join(self.problems)}\n\n{self.program}"


def drawn(seed: int, index: int) -> Convolution | Block:
    """Case `index` of a seed."""
    isas = [name for name, here in native.cpu.isas().items() if here]
    kind = Block if index % _BLOCKS == _BLOCKS - 1 else Convolution
    return kind.draw(random.Random(f"{seed}/{index}"), isas)


def program(configuration: Convolution | Block) -> str:
    """A Python program that shows the problems of a configuration."""
    return (
        "import torch\n"
        "from bench.cases import Case\n"
        "from bench.operands import Format\n"
        "from bench.trust.block_configurations import Block, FeedShape\n"
        "from bench.trust.configurations import Convolution, Overlapping\n"
        f"print({configuration!r}.problems())"
    )


def problems_of(configuration: Convolution | Block) -> list[str]:
    """What is wrong; an exception is."""
    try:
        return configuration.problems()
    except Exception as error:
        return [f"raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"]


def _work(seed: int, first: int, last: int, deadline: float, pipe) -> None:
    torch.set_num_threads(1)  # the oracle's; its products are tiny
    for index in range(first, last):
        if time.time() > deadline:
            break
        pipe.send(index)
        configuration = drawn(seed, index)
        if problems := problems_of(configuration):
            small = shrunk(configuration, problems_of)
            pipe.send(Failure(index, problems_of(small) or problems, program(small)))
    pipe.send(None)


def fuzz(seed: int | None, cases: int, minutes: float, first: int = 0) -> Outcome:
    """Runs `cases` configurations, or for `minutes`, whichever ends first."""
    seed = random.randrange(2**31) if seed is None else seed
    print(f"seed {seed}")
    begin, context = time.time(), multiprocessing.get_context("spawn")
    deadline, failures = begin + 60 * minutes, []
    index, last = first - 1, first + cases
    running = True
    while running and index + 1 < last and len(failures) < _ENOUGH:
        receive, send = context.Pipe(duplex=False)
        child = context.Process(target=_work, args=(seed, index + 1, last, deadline, send), daemon=True)
        child.start()
        send.close()
        while len(failures) < _ENOUGH:
            try:
                message = receive.recv() if receive.poll(_PATIENCE) else "no sign of life"
            except EOFError:
                child.join()
                message = f"ended its process with {child.exitcode}"
            if message is None:
                running = False
            elif isinstance(message, int):
                index = message
                if (done := index - first) and done % 1000 == 0:
                    print(f"{done:,} cases, {done / (time.time() - begin):.0f} a second, {len(failures)} failures")
                continue
            else:
                new = message if isinstance(message, Failure) else Failure(index, [message], program(drawn(seed, index)))
                failures.append(new)
                print(f"FAILED {new}", flush=True)
                if isinstance(message, Failure):
                    continue
            break
        child.kill()
        child.join()
    tried, seconds = index + 1 - first, time.time() - begin
    figure = f"{tried:,} random configurations, {len(failures)} failures"
    numbers = {"seed": seed, "first": first, "cases": tried, "seconds": round(seconds), "a second": round(tried / seconds, 1)}
    return Outcome("fuzz", f"{figure} (seed {seed}, {tried / seconds:.0f} a second)", numbers, [*map(str, failures)])
