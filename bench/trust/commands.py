"""`python -m bench trust`: the options of each check."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from ..options import RESULTS, Out

app = typer.Typer(help="Looks for failures; one command a check.", no_args_is_help=True)

Seed = Annotated[int, typer.Option(min=0, help="the same seed draws the same cases")]
Minutes = Annotated[float, typer.Option(min=0.01, help="after so long nothing new is begun")]
Quick = Annotated[bool, typer.Option("--quick", help="a few seconds, as in the tests")]


def _run(check: str, out: Path, *options) -> None:
    """Imports a check, which takes seconds, runs it, and reports."""
    outcome = getattr(import_module(f".{check}", __package__), check)(*options)
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
    _run("fuzz", out, seed, 60 if quick else cases, minutes, first, out)


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
    _run("corrupt", out, seed, 100 if quick else cases, minutes)


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
    _run("kill", out, 3 if quick else times, 2 if quick else writes, seed)


@app.command()
def sanitize(
    sanitizer: Annotated[
        str, typer.Argument(help="address (with undefined behaviour), thread, guard-end or guard-begin")
    ] = "address",
    tests: Annotated[list[str] | None, typer.Argument(help="tests to run, as pytest names them")] = None,
    isas: Annotated[str, typer.Option(help="instruction sets to build, beside the portable one")] = (
        "avx512,avx2"
    ),
    minutes: Minutes = 30.0,
    out: Out = RESULTS,
) -> None:
    """Builds the native CPU library under a sanitizer, into build/, and runs tests with it; guard: between guard pages.

    Example: python -m bench trust sanitize address tests/conv/test_operators.py
    """
    from .sanitize import SANITIZERS

    if sanitizer not in SANITIZERS:
        raise typer.BadParameter(f"{sanitizer!r} is not one of {', '.join(SANITIZERS)}")
    _run("sanitize", out, sanitizer, [isa for isa in isas.split(",") if isa], tests or (), minutes)


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
    _run("concurrency", out, 5 if quick else rounds, seed, minutes)


@app.command()
def overflow(out: Out = RESULTS) -> None:
    """Sizes that no integer and no memory holds.

    Example: python -m bench trust overflow
    """
    _run("overflow", out)


@app.command()
def framework(quick: Quick = False, out: Out = RESULTS) -> None:
    """The framework's own test material for conv2d and Conv2d, counted for every backend and type.

    Example: python -m bench trust framework
    """
    _run("framework", out, quick)


@app.command()
def memory(
    minutes: Annotated[float, typer.Option(min=0.01, help="of training")] = 10.0,
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """Whether a long training grows.

    Example: python -m bench trust memory --minutes 60
    """
    _run("memory", out, *((0.02, 100) if quick else (minutes, 1000)))


@app.command()
def table(results: Annotated[Path, typer.Argument(help="folder of result files")] = RESULTS) -> None:
    """Prints the newest figure of every check, as docs/trust.md shows them."""
    from .outcome import rows

    typer.echo("\n".join(rows(results)))
