"""Compiles the emulations of the CUDA kernels."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def compile_emulation(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compiles a source of this folder against a folder of kernel sources with the system's C++ compiler."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")

    def build(name: str, csrc: Path, *options: str) -> Path:
        program = tmp_path_factory.mktemp("emulation") / "emulation"
        source = Path(__file__).with_name(name)
        subprocess.run(
            [compiler, "-std=c++17", *options, f"-I{csrc}", str(source), "-o", str(program)], check=True
        )
        return program

    return build
