"""Runs the tests of what the kernels compute in Triton's interpreter.

In a process of its own: Triton reads TRITON_INTERPRET when a kernel is defined, for the whole process, and
other tests need the compiled kind.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton.language", reason="Triton is not installed")


@pytest.mark.parametrize(
    "file",
    [
        *("test_kernels.py", "test_halo.py", "test_halo_nchw.py"),
        *("test_block.py", "test_block_boxes.py", "test_cross_entropy.py"),
    ],
)
def test_kernels_in_the_interpreter(file: str) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--color=no",
        file,
    ]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout
