"""Compiles the emulations of the CUDA kernels."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from changed_sources import CSRC, Change, switch, with_changes


@pytest.fixture(scope="module")
def compile_emulation(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compiles a source of this folder with the system's C++ compiler: against csrc/, or a copy that offers changes."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")

    def build(name: str, *options: str, changes: Mapping[str, Change] | None = None) -> Path:
        folder = tmp_path_factory.mktemp("emulation")
        program, source, csrc = folder / "emulation", Path(__file__).with_name(name), CSRC
        if changes:
            csrc = with_changes(changes, folder)
            options = *options, *switch(csrc)
        subprocess.run(
            [compiler, "-std=c++17", *options, f"-I{csrc}", str(source), "-o", str(program)], check=True
        )
        return program

    return build
