"""The checks of bench/trust: their quick forms pass, and each finds what it is there for."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from bench import ROOT
from bench.__main__ import app
from bench.cases import Case
from bench.implementations import backend
from bench.operands import Format
from bench.trust import concurrency, corrupt, fuzz, sanitize, watched
from bench.trust.block_configurations import Block
from bench.trust.configurations import Convolution
from bench.trust.outcome import rows
from bench.trust.shrink import shrunk
from bench.trust.specimens import Specimen, hostile, specimens
from colourize.files import UserError
from myconv2d import native
from myconv2d.operators import overload

if native.cpu.problem is not None:
    pytest.skip(native.cpu.problem, allow_module_level=True)

QUICK = {
    "fuzz": ("--quick", "--seed", "0"),
    "corrupt": ("--quick",),
    "kill": ("--quick",),
    "concurrency": ("--quick",),
    "overflow": (),
    "framework": ("--quick",),
    "memory": ("--quick",),
}


@pytest.mark.parametrize("check", QUICK)
def test_quick(check, tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["trust", check, *QUICK[check], "--out", str(tmp_path)])
    assert run.exit_code == 0, run.output
    (result,) = tmp_path.glob("*.json")
    content = json.loads(result.read_text())
    assert content["check"] == check and content["problems"] == []
    assert rows(tmp_path) == [result.with_suffix(".md").read_text().strip()]


def test_the_page_shows_the_newest_results() -> None:
    page = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
    _, table = page.split("|---|---|---|---|\n")
    expected = rows(ROOT / "bench" / "results")
    assert expected
    assert table.split("\n\n")[0].splitlines() == expected


def test_runs_of_fuzz_are_joined_where_they_meet() -> None:
    a, b, c = (fuzz.Run(first, 10, 1, "x", []) for first in (0, 10, 20))
    repaired = replace(b, commit="y")
    assert fuzz.joined([], b) == [b]
    assert fuzz.joined([a, b], c) == [a, b, c]
    assert fuzz.joined([a], c) == [c]
    assert fuzz.joined([a, b, c], repaired) == [a, repaired, c]


def test_a_configuration_is_the_program_that_makes_it() -> None:
    for index in (0, 1, 2, 5, 8):
        configuration = fuzz.drawn(3, index)
        names = {}
        exec(fuzz.program(configuration).rpartition("\n")[0], names)
        assert eval(repr(configuration), names) == configuration


def test_a_wrong_convolution_is_found_and_made_small() -> None:
    """One that forgets the last column of pictures wider than 4, in float32."""
    right = backend("native")

    def conv2d(input, *args):
        output = right.conv2d(input, *args)
        if input.shape[3] > 4 and input.dtype == torch.float32:
            output[..., -1] = 0
        return output

    wrong = right._replace(conv2d=conv2d)
    isas = [name for name, here in native.cpu.isas().items() if here]
    drawn = (Convolution.draw(random.Random(seed), isas) for seed in range(100))
    failing = next(c for c in drawn if c.problems(wrong))
    small = shrunk(failing, lambda c: c.problems(wrong))
    assert "output is wrong" in small.problems(wrong)[0]
    assert not small.problems()
    case = small.case
    assert (case.batch, case.in_channels, case.out_channels, case.height, case.width) == (1, 1, 1, 1, 5)
    assert case.kernel == case.stride == case.dilation == (1, 1) and case.padding == (0, 0)
    assert (small.threads, small.isa, small.formats) == (1, "portable", (Format(),) * 4)


@pytest.mark.parametrize(
    "operator, result, spoil",
    [
        ("block", 0, lambda t: t * (1 + 1e-4)),
        ("block", 3, lambda t: t * (1 + 1e-4)),
        ("block", 6, lambda t: t * (1 + 1e-4)),
        ("block_backward", 0, lambda t: t * (torch.arange(len(t)) > 0)[:, None, None, None]),
        ("block_backward", 6, lambda t: t.half().float()),
        ("block_backward", 8, lambda t: t * 1.001),
        ("block_inference", 0, lambda t: t * (1 + 1e-4)),
    ],
)
def test_a_wrong_block_is_found(operator, result, spoil) -> None:
    def run(name, suffix):
        right = overload(name, suffix)

        def wrong(*args):
            results = right(*args)
            tensors = results if isinstance(results, tuple) else (results,)
            if name == operator:
                tensors[result].copy_(spoil(tensors[result].clone()))
            return results

        return wrong

    blocks = (fuzz.drawn(5, index) for index in itertools.count(2, 3))
    many = (block for block in blocks if block.norm and not block.pool and block.channels >= 16)
    for block in itertools.islice(many, 3):
        assert isinstance(block, Block) and not block.problems()
        assert block.problems(run), block


def test_other_threads_other_bits_are_found() -> None:
    right = backend("native")

    def conv2d(*args):
        return right.conv2d(*args) + torch.get_num_threads()

    drawn = fuzz.drawn(0, 0)
    assert any(
        "differs from run to run" in p
        for p in replace(drawn, threads=3).problems(right._replace(conv2d=conv2d))
    )


def _dies(index: int) -> tuple[str, str | None]:
    if index == 1:
        os.abort()
    return "fine", "bad" if index == 3 else None


def test_a_case_that_ends_its_process_is_a_problem() -> None:
    trial = watched.watched(_dies, 5, 5)
    assert trial.tried == 5 and trial.notes == {"fine": 4}
    assert trial.problems == ["case 1: the process ended with -6", "case 3: bad"]


def test_what_corrupt_looks_at(tmp_path: Path) -> None:
    def refuses(path):
        raise UserError("no")

    def executes(path):
        (tmp_path / "canary").touch()

    def grows(path):
        os.urandom(1 << 10) * (150 << 10)

    def judged(read, right=lambda result: True):
        return corrupt.problem(Specimen("file", ".x", b"", read, right, 50 << 20), b"", tmp_path)[1] or ""

    assert judged(lambda path: 1) == ""
    assert "not right" in judged(lambda path: 1, lambda result: False)
    assert "without naming the file" in judged(refuses)
    assert "raises ZeroDivisionError" in judged(lambda path: 1 / 0)
    assert "is executed" in judged(executes)
    assert "takes 1" in judged(grows)


def test_sound_specimens_are_read(tmp_path: Path) -> None:
    for specimen in specimens(tmp_path):
        assert corrupt.problem(specimen, specimen.content, tmp_path) == ("read", None)


def test_hostile_pickles_would_execute(tmp_path: Path) -> None:
    """Read by whoever trusts them, they make the canary: so its absence says something."""
    import pickle

    canary = tmp_path / "canary"
    made = 0
    for name, content in hostile(canary):
        if name == "CIFAR-10 batch":
            try:
                pickle.loads(content)
            except Exception:
                continue
            made += canary.exists()
            canary.unlink(missing_ok=True)
    assert made >= 9


@pytest.mark.parametrize("kind", ["threads", "modules", "frozen"])
def test_sixteen_threads_at_once(kind) -> None:
    for seed in range(3):
        assert concurrency.KINDS[kind](seed) is None


@pytest.fixture(scope="module")
def races(tmp_path_factory) -> Path:
    """races.cpp, built with ThreadSanitizer."""
    program, torch_folder = tmp_path_factory.mktemp("races") / "races", Path(torch.__file__).parent
    flags = ("-std=c++20", "-O1", "-g1", "-fsanitize=thread", "-DTORCH_TARGET_VERSION=0x020a000000000000")
    libraries = (f"-L{torch_folder / 'lib'}", f"-Wl,-rpath,{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10")
    source = Path(__file__).with_name("races.cpp")
    include = ("-I", ROOT / "csrc", "-isystem", torch_folder / "include")
    if not shutil.which("g++"):
        pytest.skip("no g++")
    subprocess.run(["g++", *flags, *include, source, *libraries, "-o", program], check=True)
    return program


@pytest.mark.parametrize("race", ["none", "one sum for all", "the neighbour's task"])
def test_races_between_workers_are_found(races, race) -> None:
    """And what lies before and after parallel work is none."""
    environment = os.environ | sanitize.SANITIZERS["thread"].options | {"OMP_NUM_THREADS": "2"}
    run = subprocess.run([races, race], env=environment, text=True, capture_output=True)
    if "FATAL: ThreadSanitizer" in run.stderr:
        pytest.skip(run.stderr.strip())  # it does not run on this kernel
    found = sanitize.findings(run.stderr)
    assert found == [] if race == "none" else "data race" in found[0], run.stderr


def test_findings_of_sanitizers() -> None:
    output = (
        "ok\na.h:3:4: runtime error: signed integer overflow: 1\n  #0 f csrc/a.h:3\n  #1 main /usr/m.c:1\n"
        "==7==ERROR: AddressSanitizer: heap\n"
    )
    found = sanitize.findings(output + output.replace("==7==", "==8=="))
    assert found == [
        "a.h:3:4: runtime error: signed integer overflow: 1\n  #0 f csrc/a.h:3",
        "==7==ERROR: AddressSanitizer: heap",
    ]


BEYOND = """
import ctypes, sys
where = sys.argv[1]
libc, block = ctypes.CDLL(None), ctypes.c_void_p()
libc.free.argtypes = [ctypes.c_void_p]
for size in (1, 100, 4096, 5000):
    assert libc.posix_memalign(ctypes.byref(block), 64, size) == 0 and block.value % 64 == 0
    ctypes.memset(block, 1, size)
    kept = block.value
    if where in ("freed", "none"): libc.free(block)
    if where == "freed": ctypes.string_at(kept, 1)
    if where == "after": ctypes.string_at(kept + (size + 63) // 64 * 64, 1)
    if where == "before": ctypes.string_at(kept - 1, 1)
print("alive")
"""


@pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc")
@pytest.mark.parametrize(
    "where, seen_at", [("none", ""), ("freed", "begin end"), ("after", "end"), ("before", "begin")]
)
@pytest.mark.parametrize("guard", ["begin", "end"])
def test_guard_pages(guard, where, seen_at) -> None:
    environment = os.environ | {"LD_PRELOAD": sanitize.runtime("guard.c"), "GUARD": guard}
    run = subprocess.run([sys.executable, "-c", BEYOND, where], env=environment, text=True, capture_output=True)
    if guard in seen_at:
        assert run.returncode == -signal.SIGSEGV
    elif where == "none":
        assert run.stdout == "alive\n", run.stderr


def test_smaller_cases_are_convolutions() -> None:
    start = Convolution(
        Case("x", 2, 6, 4, 9, 8, (3, 2), (2, 1), (1, 2), (2, 1), 2),
        torch.float16,
        (Format(),) * 4,
        3,
        "portable",
        0,
    )
    candidates = list(start.smaller())
    assert len(candidates) > 20
    assert all(min(c.case.output_size) > 0 and c.case.in_channels % c.case.groups == 0 for c in candidates)
