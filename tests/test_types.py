"""The types that myconv2d states: mypy finds them right in the package, and of use in programs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typed_program

import myconv2d

ROOT = Path(__file__).parent.parent
WRONG = {  # and what mypy has to say of it, if the types reach the user and are not Any
    "myconv2d.conv2d([1.0], weight)": "arg-type",
    "myconv2d.conv2d(weight, weight).strides": "attr-defined",
    "myconv2d.MyConv2d(3, 8)": "call-arg",
    "myconv2d.ConvBlock(3, 8, resize=2)": "arg-type",
    "myconv2d.convert(weight)": "type-var",
    "myconv2d.explain(weight, weight).decode()": "attr-defined",
}


def test_mypy(tmp_path):
    """Of the package, of a program that uses all of it, and of a wrong one, it complains of the last alone."""
    pytest.importorskip("mypy")
    wrong = tmp_path / "wrong.py"
    wrong.write_text("\n".join(["import torch", "import myconv2d", "weight = torch.ones(3, 3, 3, 3)", *WRONG]))
    sources = "kernels/myconv2d", "tests/typed_program.py", wrong
    command = [sys.executable, "-m", "mypy", "--cache-dir", tmp_path, *sources]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    found = re.findall(r"^(.*?):(\d+): error:.*\[([a-z-]+)\]$", said, re.MULTILINE)
    expected = [(str(wrong), str(line), kind) for line, kind in enumerate(WRONG.values(), 4)]
    assert found == expected, said


def test_the_program_runs_and_uses_every_public_name():
    assert "torch" in typed_program.program()
    text = Path(typed_program.__file__).read_text()
    assert [name for name in myconv2d.__all__ if not re.search(rf"\b{name}\b", text)] == []
    assert (Path(myconv2d.__file__).parent / "py.typed").exists()
