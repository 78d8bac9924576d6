"""Random configurations without end; what fails is made small and printed as a program.

Case `i` of a seed is drawn from (seed, i) alone, so it is found again without those before it.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from pathlib import Path
from typing import Any

from myconv2d import native

from ..environment import environment
from .block_configurations import Block
from .configurations import Convolution
from .outcome import Outcome, newest
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


def fuzz(
    seed: int | None, cases: int, minutes: float, first: int = 0, earlier: Path | None = None
) -> Outcome:
    """Runs `cases` configurations, or for `minutes`, whichever ends first.

    A run that begins where the newest result in the folder `earlier` ended, with its seed, is joined to that.
    """
    seed = random.randrange(2**31) if seed is None else seed
    print(f"seed {seed}", flush=True)
    trial = watched(functools.partial(_case, seed), cases, minutes, first)
    run = {
        "first": first,
        "cases": trial.tried,
        "seconds": round(trial.seconds),
        "commit": environment("cpu")["commit"],
    }
    runs, kinds, problems = [run], Counter(trial.notes), trial.problems
    before = newest(earlier).get("fuzz") if earlier else None
    if before and before["numbers"]["seed"] == seed and _end(before["numbers"]["runs"][-1]) == first:
        runs = [*before["numbers"]["runs"], run]
        kinds, problems = kinds + Counter(before["numbers"]["kinds"]), before["problems"] + problems
    tried, seconds = (sum(run[what] for run in runs) for what in ("cases", "seconds"))
    figure = (
        f"{tried:,} random configurations, {len(problems)} failures (seed {seed}, cases {runs[0]['first']:,} to "
        f"{_end(run) - 1:,}, {tried / max(1, seconds):.0f} a second)"
    )
    return Outcome("fuzz", figure, {"seed": seed, "kinds": kinds, "runs": runs}, problems)


def _end(run: dict[str, Any]) -> int:
    return run["first"] + run["cases"]
