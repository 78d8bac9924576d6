"""`python -m bench`: the commands of the ruler. They read options; the work is done elsewhere."""

from __future__ import annotations

import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from colourize.files import UserError

from .isa import Isa, limit
from .options import RESULTS, Out
from .trainings import epoch, handout, presets, superres
from .trust.commands import app as trust

app = typer.Typer(
    help="The ruler: what is right, and what it is worth.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_WORKERS = max(1, min(14, (os.cpu_count() or 1) - 1))


class Device(str, Enum):
    cuda = "cuda"
    cpu = "cpu"


class Arch(str, Enum):
    sm_80 = "80"
    sm_90 = "90"


class Precision(str, Enum):
    """As in precision.py, which cannot be imported before the instruction set is chosen."""

    fp32 = "fp32"
    tf32 = "tf32"
    bf16 = "bf16"
    fp16 = "fp16"


@app.command()
def gpu_check(
    device: Annotated[
        Device, typer.Option(help="cpu: everything but the device itself, to try the command")
    ] = Device.cuda,
    out: Out = RESULTS,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="correctness of a few cases and types: about a minute and a half of it"),
    ] = False,
    only: Annotated[str, typer.Option(metavar="PATTERN", help='jobs to run, such as "triton*"')] = "*",
    cases: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="names or tags of cases")] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes at a time")] = _WORKERS,
    minutes: Annotated[float, typer.Option(min=0.1, help="for everything; every part has its share")] = 9.0,
    parts: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help='of parts to run, such as "steps*"')
    ] = None,
) -> None:
    """Checks a GPU: is everything right, and how fast is it beside PyTorch? Writes dated results and pictures.

    The parts, in order: correctness (every backend over the table of cases, and behaviours such as CUDA graphs), cases
    (layers), steps (of training and inference, in CUDA graphs), plans (of Triton's kernels, the best of a dozen each,
    into a file of the folder; MYCONV2D_CACHE=FOLDER uses it), steps against torch.compile, throughput (images per
    second of a training), large, bf16, blocks, layers against torch.compile. What is finished is on the disk.

    Exit status: 0 if all passed, 1 if not, 2 if there is nothing to check.

    Example: python -m bench gpu-check --out bench/results
    """
    from .gpu_check import gpu_check

    options = device.value, out, quick, only, cases or (), workers, minutes, parts or ()
    raise typer.Exit(gpu_check(*options))


@app.command()
def gpu_code(
    operator: Annotated[
        list[str] | None, typer.Option(help="only this one, such as grad_weight; may be given several times")
    ] = None,
    type: Annotated[
        list[str] | None, typer.Option(help="only this one, such as bf16; may be given several times")
    ] = None,
    arch: Annotated[Arch, typer.Option(help="compute capability × 10")] = Arch.sm_90,
    out: Out = RESULTS,
) -> None:
    """Compiles every GPU kernel without a GPU; prints registers, spills, occupancy, instructions and bytes of each.

    A file is written where nothing is left out.

    Exit status: 0 done, 1 a kernel spills registers or lacks its instructions, 2 nothing can be compiled here.

    Example: python -m bench gpu-code
    """
    from .gpu_code import Chosen, problem
    from .gpu_code import gpu_code as run

    chosen = Chosen(int(arch.value), operator or (), type or ())
    if (why := problem(chosen)) is not None:
        typer.echo(why, err=True)
        raise typer.Exit(2)
    raise typer.Exit(run(chosen, out))


@app.command()
def report(
    cases: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="names or tags of cases, shell style; may be given several times"
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="the main cases, without torch.compile: a minute")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="of ours and of every rival; torch's if not given")
    ] = None,
    isa: Annotated[
        Isa | None, typer.Option(help="holds ours and torch to it; who knows no such limit does not compete")
    ] = None,
    compile: Annotated[bool, typer.Option(help="torch.compile among the rivals; it takes minutes")] = True,
    budget: Annotated[
        float, typer.Option(min=0.01, help="seconds for one pass of a layer; networks get eight times that")
    ] = 3.0,
    cpu_time: Annotated[
        bool, typer.Option("--cpu-time", help="processor time, with --threads 1: where others compute too")
    ] = False,
    device: Annotated[Device, typer.Option(help="where to measure")] = Device.cpu,
    precision: Annotated[
        Precision | None, typer.Option(help="of both sides; not given: tf32 on a GPU, else fp32")
    ] = None,
    contestants: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help='who is asked, such as "*in a CUDA graph"')
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="after this long nothing new is begun")
    ] = None,
    add: Annotated[
        Path | None, typer.Option(metavar="FILE", help="an earlier report's .json: its rows are kept")
    ] = None,
    out: Out = RESULTS,
) -> None:
    """Measures speed beside the best rivals, checks accuracy in the same run; writes samples, tables and pictures.

    Tags: networks (training, inference, memory), throughput, overhead, fused, fused-large (blocks), ten, handout (unet,
    cnn, …), large, wide, strided, dilated, grouped, depthwise, kernels, kernelbench; NAME:PASS is one pass of it, as in
    ten:forward.
    Files are written after every row: whatever ends the command, what was measured so far is there.

    Exit status: 0 done, 1 a result of ours is not accurate, 2 nothing to measure, 130 interrupted.

    Examples:

    python -m bench report --quick

    python -m bench report --cases ten --cases "unet-*" --threads 1 --out speed

    python -m bench report --device cuda --precision bf16 --cases networks
    """
    excluded = limit(isa) if isa else {}  # before torch is imported
    import torch

    from colourize.precision import default

    from .report import Settings
    from .report import report as run

    isa_name = isa.value if isa else None
    settings = Settings(
        device.value,
        cases or (),
        quick,
        threads,
        isa_name,
        compile,
        budget,
        cpu_time,
        precision.value if precision else default(torch.device(device.value)),
        contestants or (),
        minutes,
        add,
        out,
        excluded,
    )
    raise typer.Exit(run(settings))


@app.command()
def draw(report: Annotated[Path, typer.Argument(metavar="REPORT", help="the .json of a report")]) -> None:
    """Draws the pictures of a report anew, beside its file.

    Example: python -m bench draw report.json
    """
    from .charts import draw_all
    from .rows import load

    try:
        rows, facts = load(report)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="REPORT") from error
    for file in draw_all(rows, facts, report.with_suffix("")):
        typer.echo(file)


@app.command()
def compare(
    old: Annotated[Path, typer.Argument(help="the .json of a report")],
    new: Annotated[Path, typer.Argument(help="the .json of a later one")],
) -> None:
    """Shows what a change did: old over new times of ours, with 95 % intervals, and whether the rivals stayed.

    Example: python -m bench compare before.json after.json
    """
    from .compare import compare as run

    raise typer.Exit(run(old, new))


for _command in (handout, superres, epoch, presets):
    app.command()(_command)
app.add_typer(trust, name="trust")


def main() -> None:
    """Runs the commands; what the person at the keyboard can put right is said in one line, with status 1."""
    try:
        app(prog_name="python -m bench")
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
