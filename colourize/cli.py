"""`colourize`: puts the commands together; `colourize --help`."""

from __future__ import annotations

import errno
import io
import logging
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.logging import RichHandler

from . import __version__, distributed
from .commands import palette
from .commands.activations import activations
from .commands.apply import apply
from .commands.demo import demo
from .commands.evaluate import evaluate
from .commands.export import export
from .commands.info import info
from .commands.options import errors, print_error
from .commands.report import report
from .commands.serve import serve
from .commands.sweep import sweep
from .commands.train import train
from .files import UserError

_UsageError = typer.BadParameter.__base__  # click's, which newer versions of typer bring themselves

app = typer.Typer(
    help="Colour for grey pictures, and large pictures from small ones.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
for _command in (train, sweep, evaluate, apply, activations, report, export, serve, info, demo):
    app.command()(_command)
app.add_typer(palette.app, name="palette")


def _print_version(asked: bool) -> None:
    if asked:
        print(f"colourize {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="print the version and end")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the commands. Exit codes: 0 success, 1 an error that was named, 2 wrong usage, 130 interrupted."""
    handler = RichHandler(console=errors, show_time=False, show_path=False)
    logging.basicConfig(format="%(message)s", handlers=[handler])
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name that cannot be printed ends nothing
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        print_error(error)
        distributed.leave(error.exit_code)
    except OSError as error:  # what is read and written says so itself (`files`): left are names that cannot even be
        if error.filename is not None:  # looked up, and what is printed, into a full disk
            print_error(UserError(f"cannot use {error.filename}: {error.strerror}"))
        elif error.errno == errno.ENOSPC:
            print_error(UserError(f"cannot write the output: {error.strerror}"))
        else:
            raise
        distributed.leave(1)
    except SystemExit as ended:
        distributed.leave(ended.code)


def _run(words: Sequence[str]) -> None:
    if distributed.launched() == 1:
        app(words, prog_name="colourize")
    distributed.check_command(words)
    try:
        code = app(words, prog_name="colourize", standalone_mode=False)  # so that wrong usage is ours to say, once
    except _UsageError as error:
        try:
            distributed.refuse(error.format_message())
        except UserError as refusal:
            refusal.exit_code = error.exit_code
            raise
    sys.exit(code)
