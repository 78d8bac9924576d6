"""Several processes, on one machine or many, that work as one: `torchrun --nproc-per-node 2 -m colourize train …`

How they find each other, what they tell each other, and how they end: whatever ends one of them ends all, with one
message (docs/scale.md). What they do with one another in a training is in sharing.py.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .files import UserError, say_once

TIMEOUT = timedelta(minutes=30)  # how long a process waits for another that says nothing, such as one that downloads
_LOST = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "timed out")

logger = logging.getLogger("colourize")
T = TypeVar("T")


class SaidElsewhere(UserError):
    """A `UserError` that another process prints."""


class Stopped(KeyboardInterrupt):
    """SIGTERM, by which torchrun stops all processes when one of them has ended."""


def launched() -> int:
    """The number of processes that torchrun, or whoever sets the variables of `env://`, has started; 1 if nobody."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def rank() -> int:
    """The number of this process among them."""
    return int(os.environ["RANK"]) if launched() > 1 else 0


def restarted() -> bool:
    """Whether torchrun (`--max-restarts`) has started these processes in place of others that failed."""
    return launched() > 1 and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def check_command(words: Sequence[str]) -> None:
    """Raises `UserError` for a command that several processes must not run."""
    if launched() > 1 and words[:1] != ["train"]:
        refuse(f"torchrun is for `colourize train`: run {shlex.join(['colourize', *words])} without it")


def refuse(message: str) -> NoReturn:
    """Raises a `UserError` for what all processes find wrong; one of them prints it."""
    with joined() as world, world.together():
        raise UserError(message)


def leave(code: int | str | None) -> NoReturn:
    """Ends the process; one of several at once, without taking the connections down: that may wait for processes that
    are gone, or, with Python's lock, for a thread that waits for this lock."""
    if launched() == 1:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else bool(code))


class World:
    """The processes of one training, as one of them sees the others; by default, it is the only one."""

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, store: dist.Store | None = None) -> None:
        self.rank, self.size, self.local_rank, self._store = rank, size, local_rank, store

    def gathered(self, value: T) -> list[T]:
        """Every process's value, by rank."""
        values: list[Any] = [value]
        if self.size > 1:
            values *= self.size
            with connected():
                dist.all_gather_object(values, value)
        return values

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` returns in the first process, in all of them."""
        made: list[Any] = [None]
        with self.together():
            if self.rank == 0:
                made = [make()]
        if self.size > 1:
            with connected():
                dist.broadcast_object_list(made, src=0)
        return made[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block without collectives that all processes leave well, or all by the first one's UserError, which is
        `SaidElsewhere` in the others."""
        problem = None
        try:
            yield
        except UserError as error:
            if self.size == 1:
                raise
            problem = f"{error}"
            _finish()
        problems = self.gathered((problem, socket.gethostname()))
        for number, (found, host) in enumerate(problems):
            if found is not None:
                everywhere = all(other == found for other, _ in problems)
                where = "" if number == 0 or everywhere else f" (process {number} of {self.size}, on {host})"
                raise (UserError if number == self.rank else SaidElsewhere)(found + where)

    def first_to_say(self, message: str) -> bool:
        """Whether no other process has asked this for the same message."""
        if self._store is None:
            return True
        try:
            return self._store.add(f"said {message}", 1) == 1
        except RuntimeError:  # whoever kept the store is gone
            return True

    def share(self, items: Tensor) -> Tensor:
        """This process's part of what all of them are to do."""
        return items.tensor_split(self.size)[self.rank]

    def check(self, batch_size: int) -> None:
        """Raises `UserError` unless every process gets the same number of a full batch's pictures."""
        if batch_size % self.size:
            below, above = batch_size // self.size * self.size, -(-batch_size // self.size) * self.size
            fitting = f"{below} or {above}" if below else above
            raise UserError(
                f"batch_size is that of all processes together, and {batch_size} cannot be shared equally among "
                f"{self.size}: choose a multiple of {self.size}, such as {fitting}"
            )

    def device(self, name: torch.device | str | None) -> torch.device | str | None:
        """The device for this process: one GPU each, by its number on its machine; otherwise `name`."""
        wanted = str(name) if name is not None else "cuda" if torch.cuda.is_available() else "cpu"
        if self.size == 1 or not wanted.startswith("cuda"):
            return name
        if wanted != "cuda":
            raise UserError(f"device {wanted} is one for {self.size} processes: give cuda, of which each takes its own")
        if self.local_rank >= torch.cuda.device_count():
            raise UserError(
                f"this machine has {torch.cuda.device_count()} GPUs, one for each process: give that as "
                f"--nproc-per-node, or --device cpu"
            )
        torch.cuda.set_device(self.local_rank)
        return f"cuda:{self.local_rank}"


ALONE = World()


@contextmanager
def connected() -> Iterator[None]:
    """A block of collectives: where these fail, a process is gone, and this one is to end in peace."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        if not isinstance(error, dist.DistError) and not any(word in reason.lower() for word in _LOST):
            raise
        logger.debug("%s", reason)
        _finish()
        raise UserError(
            "another process of this training has ended or cannot be reached, so all of them stop. Finished epochs "
            "are kept: go on by the same command with --resume"
        ) from error


@contextmanager
def joined(threads: int | None = None) -> Iterator[World]:
    """The processes that torchrun has started, connected from here on (see `leave`); `ALONE` if it is only this one."""
    if launched() == 1:
        yield ALONE
        return
    signal.signal(signal.SIGTERM, _stop)
    local_rank, neighbours = (int(os.environ.get(name, 0)) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with connected():
        store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    world = World(rank, size, local_rank, store)
    once = lambda record: world.first_to_say(record.getMessage())  # noqa: E731
    logger.addFilter(once)
    try:
        _share_cores(threads, neighbours or 1)
        yield world
    except SaidElsewhere:
        raise
    except UserError as error:
        _finish()
        raise error if world.first_to_say(str(error)) else SaidElsewhere(str(error)) from error
    finally:
        logger.removeFilter(once)


def _stop(*_: object) -> None:
    _finish()
    raise Stopped


def _finish() -> None:
    """From here on, this process ends by itself: torchrun's SIGTERM, which may follow, must not cut its last words."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _share_cores(threads: int | None, processes: int) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    own = max(1, cores // processes)
    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(own)
    elif threads is None and torch.get_num_threads() < own and not torch.cuda.is_available():
        say_once(
            f"every process works with OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}, which torchrun sets to 1; its "
            f"share of the cores is --threads {own}"
        )
