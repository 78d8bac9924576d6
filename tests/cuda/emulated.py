"""What the emulations of the CUDA kernels share: a convolution in numbers, how they are compiled, run and judged."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import astuple, dataclass
from pathlib import Path

SANITIZE = ("-fsanitize=address,alignment,bounds", "-fno-sanitize-recover")
NOT_SERVED = 3  # exit code: the shape is not for these kernels


@dataclass(frozen=True)
class Case:
    """A convolution in the numbers that the emulations take."""

    N: int
    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def arguments(self) -> list[str]:
        numbers = [n for field in astuple(self) for n in (field if isinstance(field, tuple) else (field,))]
        return [str(n) for n in numbers]


def emulate(program: Path, case: Case, *how: object, change: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs one case, in the way that the first arguments of the emulation say; with a change of changed_sources.py.
    The first race that ThreadSanitizer sees is the end."""
    command = [program, *map(str, how), *case.arguments()]
    environment = {**os.environ, "ACTIVE_CHANGE": str(change), "TSAN_OPTIONS": "halt_on_error=1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def assert_right(result: subprocess.CompletedProcess[str]) -> None:
    """Every element is that of the naive convolution."""
    assert result.returncode == 0, f"{' '.join(result.args[1:])}: {result.stdout}{result.stderr}"


def assert_caught(result: subprocess.CompletedProcess[str]) -> None:
    """The emulation says which element is wrong, or what the machine does not allow."""
    assert result.returncode == 1, result.stdout + result.stderr
    assert re.search("expected|not allowed", result.stdout), result.stdout + result.stderr
