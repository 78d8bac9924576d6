"""Which backend, and which kernel of the CUDA library, serves a layer on a GPU; decided by shape, so no GPU needed."""

from __future__ import annotations

import re

import pytest
import torch
from torch._subclasses import FakeTensorMode

import myconv2d
from myconv2d import autograd, backends, native, triton
from myconv2d.shapes import Numbers, few_channels, output_size

needs_library = pytest.mark.skipif(native.cuda.problem is not None, reason=str(native.cuda.problem))
GEMM, HALO = "implicit GEMM", "halo by wgmma"
ANYWHERE = native.Setting(allow_tf32=True, channels_last=False, capability=80)
HOPPER = native.Setting(allow_tf32=True, channels_last=True, capability=90)

# (C, K, R, S, stride, groups): the kernel of forward, grad_input, grad_weight
KERNELS = {
    (1, 32, 3, 3, 1, 1): ("few in channels", "few out channels", "few channels"),
    (3, 96, 3, 3, 1, 1): ("few in channels", "few out channels", "few channels"),
    (3, 64, 7, 7, 2, 1): ("few in channels", "few out channels", "few channels"),
    (32, 3, 3, 3, 1, 1): ("few out channels", "few in channels", "few channels"),
    (3, 3, 3, 3, 1, 1): ("few out channels", "few out channels", "few channels"),
    (32, 3, 3, 3, 2, 1): ("few out channels", "few in channels", GEMM),
    (3, 32, 8, 8, 8, 1): (GEMM, GEMM, GEMM),
    (64, 64, 3, 3, 1, 1): (GEMM, GEMM, GEMM),
    (5, 5, 3, 3, 1, 1): (GEMM, GEMM, GEMM),
    (32, 32, 3, 3, 1, 32): (GEMM, GEMM, GEMM),
}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):
    """A machine on which every backend serves everything, as far as the choice can tell."""
    monkeypatch.setattr(backends, "problem", lambda backend, device, dtype: None)
    monkeypatch.setattr(triton, "explain", lambda *arguments: [])  # it asks the GPU which one it is
    backends.choose.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield
    backends.choose.cache_clear()


def sizes(layer: tuple) -> tuple:
    c, k, r, s, stride, groups = layer
    numbers = Numbers((stride, stride), (r // 2, s // 2), (1, 1), groups)
    input_size, weight_size = (2, c, 32, 32), (k, c // groups, r, s)
    return input_size, output_size(input_size, weight_size, *numbers[:3]), weight_size, numbers


def kernels(layer: tuple, dtype: torch.dtype, setting: native.Setting = ANYWHERE) -> tuple[str, ...]:
    return tuple(native.cuda.algorithms(*sizes(layer), dtype, *setting).values())


@needs_library
@pytest.mark.parametrize("layer", KERNELS, ids=str)
def test_kernels(layer: tuple) -> None:
    for dtype in torch.float32, torch.float16, torch.bfloat16:
        assert kernels(layer, dtype) == KERNELS[layer]
    assert kernels(layer, torch.float64) == (GEMM, GEMM, GEMM)


@needs_library
@pytest.mark.parametrize("channels", [(32, 64), (64, 64), (64, 32), (128, 32), (64, 128), (64, 24), (8, 8)], ids=str)
def test_layers_of_3x3_have_the_halo_kernel_on_hopper(channels: tuple[int, int]) -> None:
    for dtype in torch.float32, torch.float16, torch.bfloat16:
        assert kernels((*channels, 3, 3, 1, 1), dtype, HOPPER) == (HALO, HALO, GEMM)


@needs_library
@pytest.mark.parametrize(
    ("why", "layer", "dtype", "setting"),
    [
        ("compute capability 9.0", (64, 64, 3, 3, 1, 1), torch.half, HOPPER._replace(capability=100)),
        ("compute capability 9.0", (64, 64, 3, 3, 1, 1), torch.half, HOPPER._replace(capability=0)),
        ("not in channels_last", (64, 64, 3, 3, 1, 1), torch.half, HOPPER._replace(channels_last=False)),
        ("and TF32", (64, 64, 3, 3, 1, 1), torch.float32, HOPPER._replace(allow_tf32=False)),
        ("and TF32", (64, 64, 3, 3, 1, 1), torch.float64, HOPPER),
        ("3x3 kernels", (64, 64, 5, 5, 1, 1), torch.half, HOPPER),
        ("3x3 kernels", (64, 64, 3, 3, 2, 1), torch.half, HOPPER),
        ("3x3 kernels", (64, 64, 3, 3, 1, 2), torch.half, HOPPER),
        ("units of 16 bytes", (12, 64, 3, 3, 1, 1), torch.half, HOPPER),
        ("do not fit", (360, 64, 3, 3, 1, 1), torch.half, HOPPER),
        ("do not fit", (180, 64, 3, 3, 1, 1), torch.float32, HOPPER),
        ("more than 32767 channels", (32768, 64, 3, 3, 1, 1), torch.half, HOPPER),
        ("more than 32767 channels", (64, 32768, 3, 3, 1, 1), torch.half, HOPPER),
    ],
    ids=str,
)
def test_what_the_halo_kernel_does_not_serve(why: str, layer: tuple, dtype: torch.dtype, setting) -> None:
    assert kernels(layer, dtype, setting)[0] == GEMM
    problem = native.cuda.halo_problem(*sizes(layer), dtype=dtype, pass_name="forward", setting=setting)
    assert why in problem


@needs_library
@pytest.mark.parametrize(("batch", "height", "width"), [(2**31, 1, 1), (1, 2**31, 1), (2**16, 2**10, 2**11)], ids=str)
def test_the_halo_kernel_counts_in_32_bits(batch: int, height: int, width: int) -> None:
    def problem(n: int, h: int, w: int) -> str | None:
        size, numbers = (n, 64, h, w), Numbers((1, 1), (1, 1), (1, 1), 1)
        sizes = size, size, (64, 64, 3, 3), numbers
        return native.cuda.halo_problem(*sizes, dtype=torch.half, pass_name="forward", setting=HOPPER)

    assert "beyond 32 bits" in problem(batch, height, width)
    assert problem(batch // 2 or 1, height // 2 or 1, width // 2 or 1) is None


@needs_library
def test_the_widest_layers_of_the_halo_kernel() -> None:
    """As docs/gpu.md has them: of the image that is read."""
    for channels, dtype in (352, torch.half), (352, torch.bfloat16), (176, torch.float32):
        assert kernels((channels, 64, 3, 3, 1, 1), dtype, HOPPER)[:2] == (HALO, HALO)
        assert kernels((64, channels + 8, 3, 3, 1, 1), dtype, HOPPER)[:2] == (HALO, GEMM)


@needs_library
def test_the_choice_takes_a_whole_setting() -> None:
    with pytest.raises(TypeError, match="at least 6 arguments"):
        native.cuda.algorithms(*sizes((64, 64, 3, 3, 1, 1)), torch.half)


@needs_library
@pytest.mark.parametrize("layer", KERNELS, ids=str)
def test_few_channels_means_that_the_library_has_kernels(layer: tuple) -> None:
    c, k, r, s, _, groups = layer
    few = few_channels((k, c // groups, r, s), groups)
    assert few == (KERNELS[layer][:2] != (GEMM, GEMM))


@needs_library
def test_many_channels_that_do_not_fit_are_for_the_implicit_gemm() -> None:
    assert kernels((4000, 3, 3, 3, 1, 1), torch.float32)[0] == GEMM


@pytest.mark.parametrize("channels", [(1, 32), (3, 3), (32, 3)])
def test_few_channels_go_to_the_cuda_library(gpu, channels: tuple[int, int]) -> None:
    c, k = channels
    x, weight = torch.empty(2, c, 8, 8, device="cuda"), torch.empty(k, c, 3, 3, device="cuda")
    g = torch.empty(2, k, 8, 8, device="cuda")
    for name, operands in {
        "conv2d": (x, weight, None),
        "conv2d_grad_input": (g, weight, x.shape),
        "conv2d_grad_weight": (g, x, weight.shape, True),
    }.items():
        assert backends.serving(name, operands, 1, None).backend == "native"
        assert backends.serving(name, operands, 1, "triton").backend == "triton"
    assert myconv2d.explain(x, weight, padding=1).startswith("native serves this call: first choice for few channels")


def test_other_layers_go_to_triton(gpu) -> None:
    for c, k, groups, dtype in (64, 64, 1, torch.half), (32, 32, 32, torch.half), (1, 32, 1, torch.float64):
        x = torch.empty(2, c, 8, 8, device="cuda", dtype=dtype)
        weight = torch.empty(k, c // groups, 3, 3, device="cuda", dtype=dtype)
        assert backends.serving("conv2d", (x, weight, None), groups, None).backend == "triton"
        said = myconv2d.explain(x, weight, padding=1, groups=groups)
        assert said.startswith("triton serves this call: first choice on cuda")


def test_without_the_cuda_library_triton_serves_few_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    why = {"native": "not built"}
    monkeypatch.setattr(backends, "problem", lambda backend, device, dtype: why.get(backend))
    backends.choose.cache_clear()
    with pytest.warns(UserWarning, match="native cannot: not built"):
        choice = backends.choose_for_layer("cuda", torch.float32, (32, 1, 3, 3), 1, None)
    backends.choose.cache_clear()
    assert choice.backend == "triton"


@needs_library
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_cannot_run_the_library_goes_to_the_next_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here there is none, which CUDA itself says, as it does of a driver that is too old."""
    assert backends.problem("native", "cuda", torch.float32) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(triton, "unsupported", lambda device, dtype: None)
    said = backends.problem("native", "cuda", torch.float32)
    assert re.fullmatch(r"libmyconv2d_cuda.so cannot run here: .*(driver|device).* \(nvcc .*\)", said)
    backends.choose.cache_clear()
    with pytest.warns(UserWarning, match="native cannot: libmyconv2d_cuda.so cannot run here"):
        choice = backends.choose_for_layer("cuda", torch.float32, (32, 1, 3, 3), 1, None)
    backends.choose.cache_clear()
    assert choice.backend == "triton"


def test_an_operator_runs_where_the_choice_says(gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(autograd, "overload", lambda name, backend: lambda *args: called.append(backend))
    for c in 1, 64:
        x, weight = torch.empty(2, c, 8, 8, device="cuda"), torch.empty(32, c, 3, 3, device="cuda")
        autograd._run("conv2d", Numbers((1, 1), (1, 1), (1, 1), 1), x, weight, None)
    assert called == ["native", "triton"]


@needs_library
def test_explain_names_the_kernels_and_says_that_no_gpu_has_run_them(gpu) -> None:
    x, weight = torch.empty(2, 1, 8, 8, device="cuda"), torch.empty(32, 1, 3, 3, device="cuda")
    _, *lines = myconv2d.explain(x, weight, padding=1).splitlines()
    assert [line.split(", ")[0] for line in lines] == [
        "forward: few in channels",
        "grad_input: few out channels",
        "grad_weight: few channels",
    ]
    assert all(line.endswith("not yet run on a GPU") for line in lines)


@needs_library
def test_explain_names_the_halo_kernel_or_says_why_not(gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    x = torch.empty(2, 64, 8, 8, device="cuda", dtype=torch.half)
    weight = torch.empty(32, 64, 3, 3, device="cuda", dtype=torch.half)
    assert "halo by wgmma" not in myconv2d.explain(x, weight, padding=1)  # Triton's, unless asked for
    with myconv2d.use_backend("native"):
        said = myconv2d.explain(x.to(memory_format=torch.channels_last), weight, padding=1)
        assert said.count("halo by wgmma, CUDA, not yet run on a GPU") == 2
        assert "not the halo kernel: image or result is not in channels_last" in myconv2d.explain(x, weight, padding=1)
