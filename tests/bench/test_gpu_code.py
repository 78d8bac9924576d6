"""`bench gpu-code`: one table of the machine code of both kinds of GPU kernels, and what makes it fail."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("triton.language", reason="Triton is not installed")

from bench import gpu_code
from bench.__main__ import app
from myconv2d import cuda_gemm_report, cuda_report
from myconv2d.triton import compile_report, plans
from myconv2d.triton.compile_cases import Layer, convolution

if (why := gpu_code.problem(gpu_code.Chosen())) is not None:
    pytest.skip(why, allow_module_level=True)


@pytest.fixture
def one_case(monkeypatch: pytest.MonkeyPatch) -> str:
    """One convolution for Triton, two layers of the CUDA library; the key of the plan that serves the first."""
    case = convolution(Layer(64, 64, 8), "forward", "bf16")
    monkeypatch.setattr(compile_report, "SOURCES", [lambda: [case]])
    report, gemm_report = cuda_report.report, cuda_gemm_report.report
    layers = [cuda_report.Layer(1, 32, 32), cuda_report.Layer(64, 32, 8)]
    gemm_cases = [("tf32", "channels_last", cuda_report.Layer(64, 64, 8))]
    monkeypatch.setattr(cuda_report, "report", lambda **options: report(layers, **options))
    monkeypatch.setattr(cuda_gemm_report, "report", lambda **options: gemm_report(gemm_cases, **options))
    (row,) = compile_report.report([case])
    return row.plan


def invoke(*options: str):
    return CliRunner().invoke(app, ["gpu-code", *options])


def test_one_table_with_versions(one_case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shipped = plans.shipped()
    monkeypatch.setattr(plans, "shipped", lambda: shipped._replace(plans={one_case: shipped.plans[one_case]}))
    run = invoke("--out", str(tmp_path))
    assert run.exit_code == 0, run.output
    (file,) = tmp_path.iterdir()
    text = file.read_text()
    assert f"Written: {file}" in run.output
    assert "**nothing spills; every case for tensor cores has their instructions; wgmma has asynch" in text
    assert all(f"| {name} | " in text for name in ("commit", "torch", "triton", "ptxas (Triton's)"))
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("| halo_gemm | ")
    ]
    (
        (_, operator, _, type, _, programs, registers, spills, shared, _, matrix, *_, asynchronous, _, plan),
    ) = rows
    assert (operator, type, spills, matrix, plan) == ("forward", "bf16", "0", "wgmma", one_case)
    assert int(programs) > 0 and int(registers) > 0 and int(shared) > 0
    assert asynchronous.startswith("box")
    for element in "float", "__half", "__nv_bfloat16":
        assert text.count(f"| few_in<{element}> | forward | 1→32 @32 |") == 1
    for arithmetic in "Tf32", "Fp16", "Bf16":
        assert text.count(f"| halo<{arithmetic}, 32> | forward | 64→32 @8 |") == 1
    assert text.count("| correlate<MmaTile<Tf32, 128, 64>, true> | forward | 64→64 @8 | tf32 |") == 1
    assert text.count("| correlate<MmaTile<Tf32, 128, 64>, true> | – |") == 1


def test_a_plan_that_serves_nothing_and_a_spill_fail(one_case: str, monkeypatch, tmp_path: Path) -> None:
    run = invoke("--out", str(tmp_path))
    assert run.exit_code == 1
    unserving = plans.shipped().plans.keys() - {one_case}
    assert run.output.count("no case is served by the shipped plan") == len(unserving) > 0
    read = compile_report.read
    monkeypatch.setattr(compile_report, "read", lambda compiled: read(compiled)._replace(spills=3))
    run = invoke("--type", "bf16", "--out", str(tmp_path / "none"))
    assert run.exit_code == 1
    assert "halo_gemm, forward, 64→64 @8, bf16, channels_last: spills registers" in run.output
    assert not (tmp_path / "none").exists()  # of a part there is no file


def test_what_is_in_no_case_is_refused() -> None:
    run = invoke("--type", "tf33")
    assert run.exit_code == 2
    assert "--type tf33 is in no case; there are bf16, fp16, fp32, fp64, tf32" in run.output
