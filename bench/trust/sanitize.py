"""The native CPU library under the compilers' sanitizers, AddressSanitizer with UBSan and ThreadSanitizer, and with its
memory between pages that nobody may touch.

Each has a build folder of its own, build/sanitize-…/, with a copy of the Python package (links) whose library is the
instrumented one. Python is not instrumented, so the sanitizer's runtime is loaded before it, and what Python and torch
leak is no finding of ours. Findings are what the sanitizer prints, each with the beginning of its stack.

The tests run with two threads. How torch's thread pool hands work over, which ThreadSanitizer cannot see,
csrc/thread_pool.h tells it. Masked and streaming intrinsics GCC does not instrument: what AVX2 and AVX-512 access with
them is seen in the portable kernels, and, of the library as it is shipped, by the pages around each tensor (guard.c).
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from .. import ROOT
from .outcome import Outcome

TESTS = (
    "tests/conv/test_operators.py",
    "tests/conv/test_backends.py",
    "tests/conv/test_properties.py",
    "tests/conv/test_few_channels.py",
    "tests/conv/test_depthwise.py",
    "tests/conv/test_block_operators.py",
    "tests/conv/test_block_calls.py",
    "tests/conv/test_block_derivatives.py",
    "tests/conv/test_freeze.py",
    "tests/conv/test_freeze_refusals.py",
    "tests/conv/test_loss.py",
    "tests/conv/test_loss_drop_in.py",
    "tests/conv/test_bad_input.py",
    "tests/bench/test_trust.py::test_sixteen_threads_at_once",
)
_FINDING = re.compile(
    r"^(?:.*runtime error: .*|==\d+==ERROR: AddressSanitizer.*|WARNING: ThreadSanitizer.*"
    r"|.*Fatal Python error: (?:Segmentation fault|Bus error).*)$",
    re.MULTILINE,
)
_NUMBERS = re.compile(r"0x[0-9a-f]+|==\d+==|pid=\d+")  # that differ where the finding is the same
_PASSED = re.compile(r"(\d+) passed")


class Sanitizer(NamedTuple):
    flags: str  # of -fsanitize; none: the code as it is shipped, but with all memory from malloc
    runtimes: tuple[str, ...]  # loaded first; a source is compiled
    options: dict[str, str]

    @property
    def words(self) -> str:
        return self.flags or f"guard pages, blocks at their {self.options['GUARD']}"


SANITIZERS = {
    "address": Sanitizer(
        "address,undefined",
        ("libasan.so", "libubsan.so"),
        {
            "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1:detect_stack_use_after_return=0",
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=0",
        },
    ),
    "thread": Sanitizer(
        "thread",
        ("libtsan.so",),
        {"TSAN_OPTIONS": "halt_on_error=0:report_signal_unsafe=0:ignore_noninstrumented_modules=1"},
    ),
    "guard-end": Sanitizer("", ("guard.c",), {"GUARD": "end"}),
    "guard-begin": Sanitizer("", ("guard.c",), {"GUARD": "begin"}),
}


def build(name: str, isas: Sequence[str]) -> Path:
    """Builds the instrumented library; returns the folder to put first on PYTHONPATH."""
    folder = ROOT / "build" / f"sanitize-{name.partition('-')[0]}"
    compiled = folder / "c"
    flags = SANITIZERS[name].flags
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "MYCONV2D_CUDA": "OFF",
        "MYCONV2D_ISAS": ";".join(isas),
        "MYCONV2D_SANITIZE": flags,
        "CMAKE_CXX_FLAGS": "" if flags else "-DMYCONV2D_SANITIZED",
        "TORCH_FOLDER": Path(torch.__file__).parent,
        "TORCH_VERSION": torch.__version__,
    }
    defines = [f"-D{key}={value}" for key, value in options.items()]
    subprocess.run(
        ["cmake", "-S", ROOT, "-B", compiled, "-G", "Ninja", *defines], check=True, stdout=subprocess.DEVNULL
    )
    subprocess.run(["cmake", "--build", compiled, "-j1"], check=True)
    package = folder / "python" / "myconv2d"
    shutil.rmtree(package, ignore_errors=True)
    (package / "lib").mkdir(parents=True)
    for path in (ROOT / "kernels" / "myconv2d").iterdir():
        if path.name not in ("lib", "__pycache__"):
            (package / path.name).symlink_to(path)
    (package / "lib" / "libmyconv2d_cpu.so").symlink_to(compiled / "libmyconv2d_cpu.so")
    return package.parent


def runtime(name: str) -> str:
    """The full path of a sanitizer's library, as the compiler knows it, or of what a source here becomes."""
    if name.endswith(".c"):
        library = ROOT / "build" / Path(name).with_suffix(".so")
        library.parent.mkdir(exist_ok=True)
        source = Path(__file__).with_name(name)
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", source, "-o", library, "-ldl"], check=True)
        return str(library)
    found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def run(name: str, python: Path, tests: Sequence[str], minutes: float) -> Iterator[tuple[str, str, int]]:
    """Each of the tests, what it prints, and its exit status; what is late is ended."""
    sanitizer, deadline = SANITIZERS[name], time.monotonic() + 60 * minutes
    environment = os.environ | sanitizer.options | {"TEST_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    environment["LD_PRELOAD"] = ":".join(map(runtime, (*sanitizer.runtimes, "libstdc++.so")))
    environment["PYTHONPATH"] = os.pathsep.join([str(python), str(ROOT)])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--capture=no"]
    for test in tests:
        process = subprocess.Popen(
            [*command, test], cwd=ROOT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            output = process.communicate()[0] + f"\nnot done after {minutes:g} minutes"
        print(f"{test}: {output.strip().rpartition(chr(10))[2]}", flush=True)
        yield test, output, process.returncode


def findings(output: str) -> list[str]:
    """Each distinct finding with those lines of its first stacks that are of this repository."""
    output = output.replace(f"{ROOT}/", "")
    matches = list(_FINDING.finditer(output))
    found: dict[str, str] = {}
    for match, following in itertools.zip_longest(matches, matches[1:]):
        stack = output[match.end() : following and following.start()].split("\n")[:24]
        frames = [line for line in stack if "csrc/" in line or "libmyconv2d" in line]
        place = match[0] if "csrc/" in match[0] else "".join(frames[:1])
        found.setdefault(_NUMBERS.sub("", match[0] + place), "\n".join([match[0], *frames]))
    return list(found.values())


def sanitize(name: str, isas: Sequence[str], tests: Sequence[str], minutes: float) -> Outcome:
    """Builds, runs the tests (TESTS if none are named) and reports."""
    begin = time.time()
    python = build(name, isas)
    built = time.time()
    passed, problems = 0, []
    for test, output, status in run(name, python, tests or TESTS, minutes):
        passed += sum(int(n) for n in _PASSED.findall(output))
        found = [f"{test}: {finding}" for finding in findings(output)]
        problems += found or [f"{test} ends with {status}:\n{output[-2000:]}"] * bool(status)
    built_for = ", ".join((*isas, "portable"))
    figure = f"{passed} tests under {SANITIZERS[name].words} ({built_for}): {len(problems)} findings"
    numbers = {
        "tests": passed,
        "build seconds": round(built - begin),
        "run seconds": round(time.time() - built),
    }
    return Outcome(f"sanitize-{name}", figure, numbers, problems)
