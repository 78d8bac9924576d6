"""Random configurations without end; what fails is made small and printed as a program.

Case `i` of a seed is drawn from (seed, i) alone, so it is found again without those before it.
"""

from __future__ import annotations

import functools
import random

from myconv2d import native

from .block_configurations import Block
from .configurations import Convolution
from .outcome import Outcome
from .shrink import shrunk
from .watched import watched

_BLOCKS = 3  # every third case is a block


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
        return [f"raised {type(error).__name__}: {str(error).partition(chr(10))[0]}"]


def _case(seed: int, index: int) -> tuple[str, str | None]:
    configuration = drawn(seed, index)
    if not problems_of(configuration):
        return type(configuration).__name__, None
    small = shrunk(configuration, problems_of)
    said = "; ".join(problems_of(small))
    if small != configuration:
        said += f"\n(made small; as drawn: {'; '.join(problems_of(configuration))})"
    return type(configuration).__name__, f"{said}\n\n{program(small)}\n"


def fuzz(seed: int | None, cases: int, minutes: float, first: int = 0) -> Outcome:
    """Runs `cases` configurations, or for `minutes`, whichever ends first."""
    seed = random.randrange(2**31) if seed is None else seed
    print(f"seed {seed}", flush=True)
    trial = watched(functools.partial(_case, seed), cases, minutes, first)
    rate = trial.tried / trial.seconds
    figure = f"{trial.tried:,} random configurations, {len(trial.problems)} failures (seed {seed}, {rate:.0f} a second)"
    numbers = {
        "seed": seed,
        "first": first,
        "cases": trial.tried,
        "kinds": trial.notes,
        "seconds": round(trial.seconds),
    }
    return Outcome("fuzz", figure, numbers, trial.problems)
