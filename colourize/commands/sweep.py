"""`colourize sweep`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .. import networks, tasks, training
from ..files import UserError
from ..sweeps import Plan, Sweep, drawing, read_values
from ..sweeps.plan import written
from ..sweeps.scores import Scores
from .options import Device, Threads, chosen, console, option, resumable, takes_settings
from .use import check_used

FILES = "sweep.csv", "sweep.md", "curves.png", "samples.png"
_MANY = 100  # runs that nobody asks for by mistake


@takes_settings
def sweep(
    task: Annotated[str, typer.Argument(metavar="TASK", help=" | ".join(tasks.NAMES))],
    network: Annotated[
        str, typer.Argument(metavar="NETWORK", help=f"one, or several with commas: {' | '.join(networks.NAMES)}")
    ],
    vary: Annotated[
        list[str] | None, typer.Option("--vary", metavar="SETTING=VALUE,VALUE", help="may be repeated")
    ] = None,
    paired: Annotated[bool, typer.Option("--list", help="pair the values one to one, not all with all")] = False,
    device: Device = None,
    threads: Threads = None,
    out: Annotated[Path | None, option("--out", "folder of the sweep", "runs/sweep-TASK-NETWORK")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the sweep in --out; --vary adds values")] = False,
    yes: Annotated[bool, typer.Option("--yes", help=f"even more than {_MANY} runs")] = False,
    **settings: Any,
) -> None:
    """Trains NETWORK for TASK once for every combination of the settings that vary, and compares the runs.

    A sweep is a folder with a run for each combination, a table of all (sweep.csv, sweep.md), their curves in one
    plot and the same pictures as each run makes them. A run that fails is named, the others go on, and the exit
    code is 1.

    Example: `colourize sweep classification unet --data cifar10 --vary lr=1e-3,3e-4 --vary batch_size=50,100`
    """
    folder = out or Path("runs") / f"sweep-{task}-{network.replace(',', '-')}"
    given = chosen(settings)
    fixed, varied = _asked(task, network, given, vary or [])
    asked = Sweep.resume(folder, fixed, varied) if resume else Sweep.begin(folder, Plan(fixed, varied, paired))
    if paired and not asked.plan.paired:
        raise UserError(f"{folder} was begun without --list: choose another --out")
    values = {name: ",".join(map(written, several)) for name, several in varied.items()}
    check_used(given | values, asked.plan.runs.values())
    if (count := len(asked.results)) > _MANY and not yes:
        raise UserError(f"these are {count} runs, more than {_MANY}: say --yes if they are meant")
    scores = Scores(asked, training.choose_device(device))
    with resumable():
        try:
            for _ in asked.train(device=device, console=console):
                scores.update()
        finally:
            _show(asked, scores)
    if any(result.note for result in asked.results):
        raise typer.Exit(1)


def _asked(task: str, network: str, given: dict[str, Any], vary: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is fixed and what varies."""
    varied = read_values(vary)
    for name in ("task", "network"):
        if name in varied:
            raise UserError(f"{name} is given as {name.upper()}: leave out --vary {name}=…")
    if "," in network:
        return {"task": task, **given}, {**read_values([f"network={network}"]), **varied}
    return {"task": task, "network": network, **given}, varied


def _show(sweep: Sweep, scores: Scores) -> None:
    """Prints and draws what there is."""
    if not (sweep.folder / "sweep.toml").is_file():
        return
    scores.update()
    console.print(scores.table())
    for line in scores.verdict:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if any(result.metrics for result in sweep.results):
        drawing.curves(sweep.folder / "curves.png", sweep.results, scores)
        drawing.samples(sweep.folder / "samples.png", sweep)
    files = ", ".join(name for name in FILES if (sweep.folder / name).is_file())
    console.print(f"files: {sweep.folder}: {files}", markup=False, highlight=False, soft_wrap=True)
