"""`import myconv2d` never fails: whatever is missing or broken, it says so once and the next backend serves.

Each case runs a copy of the package in a process of its own; the real package is not touched.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import myconv2d

PACKAGE = Path(myconv2d.__file__).parent
LIBRARY = "libmyconv2d_cpu.so"

# Imports the package, convolves twice, and tells what happened.
SCRIPT = """
import importlib.machinery, json, os, sys, warnings
import torch
import torch.nn.functional as F

if os.environ.get("WITHOUT_TRITON"):
    find = importlib.machinery.PathFinder.find_spec
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] == "triton" else find(name, path, target)
    importlib.machinery.PathFinder.find_spec = find_spec
import torch.utils.flop_counter  # imports Triton where there is one

before = set(sys.modules)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import myconv2d
    imported = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
    dynamo = "torch._dynamo" in sys.modules
    x, w, b = torch.randn(2, 4, 6, 5), torch.randn(6, 4, 3, 3), torch.randn(6)
    operands = [t.requires_grad_() for t in (x, w, b)]
    results = []
    for convolution in (myconv2d.conv2d, myconv2d.conv2d, torch.ops.myconv2d.conv2d.default, F.conv2d):
        numbers = (1, 1), (1, 1), (1, 1), 1
        output = convolution(x, w, b, *numbers)
        results.append((output, *torch.autograd.grad(output.square().sum(), operands)))
    for found in results[:-1]:
        for ours, theirs in zip(found, results[-1], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
said = [str(w.message) for w in caught if "myconv2d" in str(w.message).lower()]
explained = myconv2d.explain(x, w, b)
told = {"said": said, "info": myconv2d.info(), "explained": explained, "imported": imported, "dynamo": dynamo}
print(json.dumps(told))
"""


class Case(NamedTuple):
    """What is done to the copy, the environment it runs in, and what must come of it."""

    harm: Callable[[Path], None] | None = None
    environment: dict[str, str] = {}
    backend: str = "native"
    said: tuple[str, ...] = ()  # one warning for each, which contains it
    info: dict[str, str] = {}  # what the lines of info() contain


def truncate(library: Path) -> None:
    library.write_bytes(library.read_bytes()[:5000])


def garbage(library: Path) -> None:
    library.write_bytes(b"this is no library\n" * 1000)


def rename_symbol(name: bytes) -> Callable[[Path], None]:
    def harm(library: Path) -> None:
        content = library.read_bytes()
        assert name in content
        library.write_bytes(content.replace(name, name[:-1] + b"#"))

    return harm


def not_built(library: Path) -> None:
    library.unlink()
    library.with_name("cpu.txt").write_text("left out on purpose\n")


def broken(harm: Callable[[Path], None], reason: str) -> Case:
    return Case(
        harm,
        backend="reference",
        said=(reason,),
        info={"native library (CPU)": reason, "active on cpu": reason},
    )


CASES = {
    "all well": Case(),
    "library missing": broken(Path.unlink, "was not built: reinstall"),
    "library left out": broken(not_built, "was not built: left out on purpose"),
    "library truncated": broken(truncate, "is incomplete"),
    "library garbage": broken(garbage, "does not load"),
    "symbol of torch missing": broken(rename_symbol(b"aoti_torch_get_dim"), "does not load"),
    "library of another version": broken(rename_symbol(b"myconv2d_cpu_build_info"), "does not load"),
    "backend reference": Case(
        None, {"MYCONV2D_BACKEND": "reference"}, "reference", info={"backend asked for": "reference"}
    ),
    "backend auto": Case(None, {"MYCONV2D_BACKEND": "auto"}, info={"backend asked for": "automatic"}),
    "backend unknown": Case(None, {"MYCONV2D_BACKEND": "cudnn"}, said=("BACKEND='cudnn' is ignored",)),
    "backend that cannot": Case(None, {"MYCONV2D_BACKEND": "triton"}, said=("triton cannot",)),
    "no triton": Case(
        None, {"MYCONV2D_BACKEND": "triton", "WITHOUT_TRITON": "1"}, said=("triton cannot",),
        info={"triton on cpu": "unavailable"},
    ),
    "instruction set": Case(None, {"MYCONV2D_ISA": "portable"}, info={"instruction set in use": "portable"}),
    "instruction set unknown": Case(None, {"MYCONV2D_ISA": "avx1024"}, said=("ISA='avx1024' is ignored",)),
}  # fmt: skip


def run(case: Case, folder: Path) -> subprocess.CompletedProcess:
    shutil.copytree(PACKAGE, folder / "myconv2d", ignore=shutil.ignore_patterns("__pycache__", "*cuda*"))
    library = folder / "myconv2d" / "lib" / LIBRARY
    if case.harm is not None:
        case.harm(library)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MYCONV2D", "TRITON"))}
    environment |= {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"} | case.environment
    command = [sys.executable, "-c", SCRIPT]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, subprocess.CompletedProcess]:
    """All cases, two at a time."""
    if not (PACKAGE / "lib" / LIBRARY).exists():
        pytest.skip("the CPU library is not built")
    folders = [tmp_path_factory.mktemp("package") for _ in CASES]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(CASES, pool.map(run, CASES.values(), folders), strict=True))


@pytest.fixture(params=CASES)
def outcome(request, outcomes):
    process = outcomes[request.param]
    assert process.returncode == 0, process.stderr
    return CASES[request.param], process, json.loads(process.stdout.splitlines()[-1])


def test_serves_all_the_same(outcome):
    """A convolution and its gradients are right (the script checks), by the backend that should serve."""
    case, _, told = outcome
    assert told["explained"].startswith(f"{case.backend} serves this call")
    assert told["info"]["active on cpu"].startswith(case.backend)


def test_says_why_once(outcome):
    case, process, told = outcome
    assert len(told["said"]) == len(case.said), told["said"]
    for phrase, message in zip(case.said, told["said"], strict=True):
        assert phrase in message
    assert "Traceback" not in process.stderr


def test_info_shows_it(outcome):
    case, _, told = outcome
    for line, phrase in case.info.items():
        assert phrase in told["info"][line], told["info"]
    assert told["info"]["torch"] == torch.__version__


def test_import_is_light(outcomes):
    """Only the package itself is imported: no picture library, no Triton, no compiler."""
    told = json.loads(outcomes["all well"].stdout)
    foreign = {"PIL", "matplotlib", "skimage", "scipy", "triton", "sympy", "colourize", "bench"}
    assert "myconv2d" in told["imported"]
    assert not foreign & set(told["imported"])
    assert not told["dynamo"]
