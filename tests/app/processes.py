"""Processes of one training, started as torchrun would start them, and what they print."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket

import torch

from colourize import cli

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["colourize.cli", "torch._dynamo"])  # once for all processes of these tests


def become(rank, size, port, output, more, target, *args):
    """In a process of its own: is started as torchrun would start it, and calls `target`."""
    with open(f"{output}.{rank}", "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    os.environ.update({name: str(number) for name, number in numbers.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "COLUMNS": "200", **more})
    torch.set_num_threads(1)
    target(*args)


class Processes:
    """So many processes that call `target`, and what they print."""

    def __init__(self, size, folder, target, *args, **environment):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.output = folder / f"output-{port}"
        common = size, port, str(self.output), environment, target, *args
        self.all = [CONTEXT.Process(target=become, args=(rank, *common)) for rank in range(size)]
        for process in self.all:
            process.start()

    def codes(self):
        """Their exit codes; none of them may take forever."""
        for process in self.all:
            process.join(120)
        hanging = [process for process in self.all if process.exitcode is None]
        for process in hanging:
            process.kill()
        assert not hanging, self.printed()
        return [process.exitcode for process in self.all]

    def printed(self):
        texts = [self.output.with_name(f"{self.output.name}.{rank}") for rank in range(len(self.all))]
        return [text.read_text() if text.exists() else "" for text in texts]


def options(settings, out, *more):
    """The command line that means these settings."""
    line = ["train", settings.task, settings.network, "--threads", "1", "--out", str(out)]
    for name in ("data", "size", "colours", "filters", "epochs", "batch_size", "lr", "schedule", "limit", "seed"):
        if (value := getattr(settings, name)) is not None:
            line += [f"--{name.replace('_', '-')}", str(value)]
    return [*line, *more]


def launch(size, settings, out, *more, **environment):
    return Processes(size, out.parent, cli.main, options(settings, out, *more), **environment)
