"""Random configurations without end; what fails is made small and printed as a program.

Case `i` of a seed is drawn from (seed, i) alone, so it is found again without those before it.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from pathlib import Path

from myconv2d import native

from ..environment import environment
from .block_configurations import Block
from .configurations import Convolution
from .outcome import Outcome, newest
from .shrink import shrunk
from .watched import watched

_BLOCKS = 3  # every third case is a block


@dataclass(frozen=True)
class Run:
    """Some cases in a row, by one commit."""

    first: int
    cases: int
    seconds: int
    commit: str
    problems: list[str]

    @property
    def end(self) -> int:
        return self.first + self.cases


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

    The newest result in the folder `earlier`, if of the same seed, is gone on with: a run that begins where its runs
    end is added to them, and one of the same cases as one of them, such as after a repair, takes its place.
    """
    seed = random.randrange(2**31) if seed is None else seed
    print(f"seed {seed}", flush=True)
    trial = watched(functools.partial(_case, seed), cases, minutes, first)
    commit = environment("cpu")["commit"]
    run = Run(first, trial.tried, round(trial.seconds), commit, list(trial.problems))
    before = newest(earlier).get("fuzz") if earlier else None
    same_seed = before is not None and before["numbers"]["seed"] == seed
    runs = joined([Run(**numbers) for numbers in before["numbers"]["runs"]] if same_seed else [], run)
    tried, seconds = sum(run.cases for run in runs), sum(run.seconds for run in runs)
    problems = [problem for run in runs for problem in run.problems]
    figure = (
        f"{tried:,} random configurations, {len(problems)} failures (seed {seed}, cases {runs[0].first:,} to "
        f"{runs[-1].end - 1:,}, {tried / max(1, seconds):.0f} a second)"
    )
    return Outcome("fuzz", figure, {"seed": seed, "runs": [vars(run) for run in runs]}, problems)


def joined(runs: list[Run], new: Run) -> list[Run]:
    """One unbroken row of runs that ends with the new one, or has it in the middle; or the new one alone."""
    if new.first in [run.end for run in runs[-1:]]:
        return [*runs, new]
    if (new.first, new.end) in [(run.first, run.end) for run in runs]:
        return [new if run.first == new.first else run for run in runs]
    return [new]
