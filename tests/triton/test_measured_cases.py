"""What is measured where no layers are named, and its kernels compiled ahead: all that a launch will ask for."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton.language", reason="Triton is not installed")

from myconv2d.triton.interpreter import INTERPRETED

if INTERPRETED:
    pytest.skip("TRITON_INTERPRET=1: kernels are interpreted, not compiled", allow_module_level=True)

from triton.runtime import driver

from myconv2d.triton import launch, measure, measured_cases, plans, tuning
from myconv2d.triton.compile_cases import Case, Layer, convolution
from myconv2d.triton.launch import Gpu, intercept, set_in
from myconv2d.triton.machine_code import SM_90

CASE = convolution(Layer(64, 64, 8), "forward", "bf16")
GPU = "NVIDIA Test 80GB"


@pytest.fixture
def one_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_cases, "cases", lambda *options: [CASE])


def test_cases() -> None:
    found = measured_cases.cases(["tf32", "fp64"])
    assert len(found) == len({case[:4] for case in found})
    blocks = {case.operator for case in found if case.task == "64+64→32 @8"}
    assert blocks == {"block", "block_backward"}
    of_layer = {(case.operator, case.arithmetic) for case in found if case.task == "64→24 @16"}
    assert of_layer == {(o, a) for o in ("forward", "grad_input", "grad_weight") for a in ("tf32", "fp64")}
    assert not any(case.task.startswith("1→32 @32") for case in found)  # the CUDA library's
    assert all(case.arithmetic == "tf32" for case in found if "block" in case.operator)


class Driver:
    """Of a GPU that is asked for nothing but what it is."""

    def get_current_target(self):
        return SM_90

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def test_a_launch_finds_every_plan_in_the_cache(one_case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    measured_cases._compile(["bf16"], "channels_last", (9, 0), 0, math.inf)
    binaries = set(tmp_path.rglob("*.cubin"))
    (shape,) = shapes_of(CASE)
    assert len(binaries) == len(tuning.near(shape)) > 5

    def warm_up(kernel, programs, arguments, options) -> None:
        kernel.warmup(*arguments, grid=(programs,), **options)

    monkeypatch.setattr(driver, "_active", Driver())
    with set_in(tuning.every, tuning.near), set_in(intercept, warm_up):
        CASE.run()
    assert set(tmp_path.rglob("*.cubin")) == binaries


def shapes_of(case: Case) -> list[plans.Shape]:
    seen: list[tuning.Decision] = []
    with set_in(tuning.decisions, seen), set_in(intercept, lambda *launch: None):
        case.run()
    return [decision.shape for decision in seen]


def test_when_the_time_is_up_processes_compile_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    measured_cases.compile_ahead(["bf16"], "channels_last", (9, 0), 1, 0.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("minutes", [1.0, 0.0])
def test_what_is_measured_is_remembered_until_the_time_is_up(
    minutes: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """With a device that only pretends."""
    monkeypatch.setenv("MYCONV2D_CACHE", str(tmp_path))
    plans.user_file.cache_clear()
    plans.find.cache_clear()
    (shape,) = shapes_of(CASE)
    asked = []

    def run() -> None:
        tuning.serve(shape, torch.device("cuda"), lambda plan: None)

    monkeypatch.setattr(launch, "_gpu", lambda device: Gpu((9, 0), GPU))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(tuning, "device_time", lambda action, device: asked.append(action) or len(asked))
    monkeypatch.setattr(measure, "compile_ahead", lambda *given: asked.clear())
    monkeypatch.setattr(measure, "cases", lambda *given: [CASE._replace(run=run)])
    measure.measure_cases(["bf16"], "channels_last", True, minutes)
    assert len(asked) == (len(tuning.near(shape)) if minutes else 0)
    assert ("1 of 1 left out" in capsys.readouterr().err) == (not minutes)
    assert plans.user_path(GPU).exists() == bool(minutes)
    plans.user_file.cache_clear()
    plans.find.cache_clear()
