"""What the emulations of the CUDA kernels share: a convolution in numbers, how they are compiled, run and judged."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import astuple, dataclass
from pathlib import Path

CSRC = Path(__file__).parents[2] / "csrc"
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


def with_slip(folder: Path, name: str, right: str, wrong: str) -> Path:
    """A copy of the sources, in `folder`, in which csrc/cuda/NAME says `wrong` where it says `right`."""
    copy = Path(shutil.copytree(CSRC, folder / "csrc"))
    file = copy / "cuda" / name
    text = file.read_text()
    assert text.count(right) == 1
    file.write_text(text.replace(right, wrong))
    return copy


def emulate(program: Path, case: Case, *how: object) -> subprocess.CompletedProcess[str]:
    """Runs one case, in the way that the first arguments of the emulation say."""
    arguments = [*map(str, how), *case.arguments()]
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120)


def assert_right(result: subprocess.CompletedProcess[str]) -> None:
    """Every element is that of the naive convolution."""
    assert result.returncode == 0, f"{' '.join(result.args[1:])}: {result.stdout}{result.stderr}"


def assert_caught(result: subprocess.CompletedProcess[str]) -> None:
    """The emulation says which element is wrong, or what the machine does not allow."""
    assert result.returncode == 1, result.stdout + result.stderr
    assert re.search("expected|not allowed", result.stdout), result.stdout + result.stderr
