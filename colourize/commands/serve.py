"""`colourize serve`"""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from .. import training, web
from ..conversion import Converter
from ..runs import Run
from .options import Device, Threads, Weights, Which, console


def serve(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="folders of runs")],
    host: Annotated[str, typer.Option("--host", help="address to listen at; 0.0.0.0 lets others in")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 for any that is free")] = 7860,
    weights: Weights = Which.last,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Opens a web page that colours or enlarges pictures with the networks of RUN...: one with a slider between before
    and after, or many at once.

    Needs the extra [web]. Nothing is sent anywhere else. Ctrl-C or SIGTERM ends it.

    Example: `colourize serve demo/run`
    """
    web.check_packages()
    where = training.choose_device(device)
    converters = [Converter(Run.open(run), weights=weights.value, device=where) for run in runs]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the pictures on the server are removed
    with web.served(converters, host=host, port=port) as address:
        console.print(f"Open {address} in a browser; Ctrl-C ends.", highlight=False, soft_wrap=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            console.print("Closed.")
