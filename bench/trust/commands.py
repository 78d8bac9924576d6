"""`python -m bench trust`: the options of each check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import ROOT

app = typer.Typer(help="Looks for failures; one command a check.", no_args_is_help=True)

Out = Annotated[Path, typer.Option(help="folder for the result files")]
Seed = Annotated[int, typer.Option(min=0, help="the same seed draws the same cases")]
Minutes = Annotated[float, typer.Option(min=0.01, help="after so long nothing new is begun")]
Quick = Annotated[bool, typer.Option("--quick", help="a few seconds, as in the tests")]
RESULTS = ROOT / "bench" / "results"


def _end(outcome, out: Path) -> None:
    raise typer.Exit(outcome.report(out))


@app.command()
def fuzz(
    seed: Annotated[int | None, typer.Option(min=0, help="drawn and printed, if not given")] = None,
    cases: Annotated[int, typer.Option(min=1, help="at most so many")] = 1_000_000_000,
    minutes: Minutes = 10.0,
    first: Annotated[
        int, typer.Option(min=0, help="case to begin with; joined to a result that ends there")
    ] = 0,
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """Random convolutions and fused blocks, every type, layout, instruction set and number of threads, beside float64.

    Example: python -m bench trust fuzz --cases 20000 --seed 1
    """
    from .fuzz import fuzz as run

    _end(run(seed, 60 if quick else cases, minutes, first, out), out)


@app.command()
def corrupt(
    cases: Annotated[int, typer.Option(min=1, help="damaged files; the hostile ones come first")] = 1000,
    seed: Seed = 0,
    minutes: Minutes = 30.0,
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """Damaged and hostile checkpoints, settings, palettes, CIFAR-10 batches and pictures.

    Example: python -m bench trust corrupt --cases 1000
    """
    from .corrupt import corrupt as run

    _end(run(seed, 100 if quick else cases, minutes), out)


@app.command()
def kill(
    times: Annotated[int, typer.Option(min=1, help="SIGKILLs that hit a training")] = 200,
    writes: Annotated[int, typer.Option(min=0, help="trainings on a full disk")] = 40,
    seed: Seed = 0,
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """A training killed and resumed again and again, and one on a full disk, beside one that was left alone.

    Example: python -m bench trust kill --times 200
    """
    from .kill import kill as run

    _end(run(3 if quick else times, 2 if quick else writes, seed), out)


@app.command()
def sanitize(
    sanitizer: Annotated[
        str, typer.Argument(help="address (with undefined behaviour) or thread")
    ] = "address",
    tests: Annotated[list[str] | None, typer.Argument(help="tests to run, as pytest names them")] = None,
    isas: Annotated[str, typer.Option(help="instruction sets to build, beside the portable one")] = "avx2",
    minutes: Minutes = 30.0,
    out: Out = RESULTS,
) -> None:
    """Builds the native CPU library under a sanitizer, into build/, and runs tests with it.

    Example: python -m bench trust sanitize address tests/conv/test_operators.py
    """
    from .sanitize import SANITIZERS
    from .sanitize import sanitize as run

    if sanitizer not in SANITIZERS:
        raise typer.BadParameter(f"{sanitizer!r} is not one of {', '.join(SANITIZERS)}")
    _end(run(sanitizer, [isa for isa in isas.split(",") if isa], tests or (), minutes), out)


@app.command()
def concurrency(
    rounds: Annotated[
        int, typer.Option(min=1, help="of threads, shared networks, forks and workers in turns")
    ] = 150,
    seed: Seed = 0,
    minutes: Minutes = 30.0,
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """Many threads, children forked in the middle, worker processes: the same bits as alone.

    Example: python -m bench trust concurrency --rounds 40
    """
    from .concurrency import concurrency as run

    _end(run(5 if quick else rounds, seed, minutes), out)


@app.command()
def overflow(out: Out = RESULTS) -> None:
    """Sizes that no integer and no memory holds.

    Example: python -m bench trust overflow
    """
    from .overflow import overflow as run

    _end(run(), out)


@app.command()
def framework(quick: Quick = False, out: Out = RESULTS) -> None:
    """The framework's own test material for conv2d and Conv2d, counted for every backend and type.

    Example: python -m bench trust framework
    """
    from .framework import framework as run

    _end(run(quick), out)


@app.command()
def memory(
    minutes: Annotated[float, typer.Option(min=0.01, help="of training")] = 10.0,
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """Whether a long training grows.

    Example: python -m bench trust memory --minutes 60
    """
    from .memory import memory as run

    _end(run(0.02, 100) if quick else run(minutes, 1000), out)


@app.command()
def table(results: Annotated[Path, typer.Argument(help="folder of result files")] = RESULTS) -> None:
    """Prints the newest figure of every check, as docs/trust.md shows them."""
    from .outcome import rows

    typer.echo("\n".join(rows(results)))
