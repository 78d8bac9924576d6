"""Plans: their files, which one goes before which, and the measuring of new ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton.language", reason="Triton is not installed")

from myconv2d import triton as kernels
from myconv2d.triton import launch, measure, plans, tuning
from myconv2d.triton.launch import Gpu, assumed, set_in
from myconv2d.triton.plans import Plan, PlanFile, Shape

SHAPE = Shape("halo", "half", "channels_last", 64, 32, (3, 3), (8, 8), (1, 1))
PLAN = Plan(256, 128, 32, 8, 4)
GPU = "NVIDIA Test 80GB"


@pytest.fixture
def user_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of measured plans, in a folder that does not exist yet."""
    monkeypatch.setenv("MYCONV2D_CACHE", str(tmp_path / "cache"))
    forget()
    yield plans.user_path(GPU)
    forget()


def forget() -> None:
    plans.user_file.cache_clear()
    plans.find.cache_clear()


def test_words() -> None:
    assert str(SHAPE) == "halo half channels_last small 32 64-32 3x3 8x8 stride 1x1"
    assert SHAPE._replace(image=(8, 9), outputs=3).words[3:5] == ("large", "16")


def test_a_plan_reads_as_it_is_written() -> None:
    assert str(PLAN) == "256 pixels × 128 outputs × 32 channels, 8 warps, 4 stages"
    assert Plan.parse(str(PLAN)) == PLAN
    copied = PLAN._replace(copied=True)
    assert str(copied) == f"{PLAN}, of a copy" and Plan.parse(str(copied)) == copied


@pytest.mark.parametrize(
    "text",
    [
        "", None, "128 × 64 × 64, 4 warps, 3 stages",
        "100 pixels × 64 outputs × 64 channels, 4 warps, 3 stages",
        "8 pixels × 64 outputs × 64 channels, 4 warps, 3 stages",
        "512 pixels × 64 outputs × 64 channels, 4 warps, 3 stages",
        "128 pixels × 64 outputs × 64 channels, 3 warps, 3 stages",
        "128 pixels × 64 outputs × 64 channels, 4 warps, 0 stages",
        "128 pixels × 64 outputs × 64 channels, 4 warps, 3 stages, of copies",
    ],
)  # fmt: skip
def test_no_plans(text: str | None) -> None:
    with pytest.raises(ValueError):
        Plan.parse(text)


def test_there_is_a_shipped_plan_for_every_kernel_and_arithmetic() -> None:
    for kernel, arithmetic in (
        *(
            (kernel, a)
            for kernel in ("gather", "grad_weight_gather")
            for a in ("half", "tf32", "fp32", "fp64")
        ),
        *((k, a) for k in ("halo", "halo_nchw", "grad_weight_halo", "grad_weight_nchw") for a in ("half", "tf32")),
        *((f"block_{part}", a) for part in ("forward", "grad_input", "grad_weight") for a in ("half", "tf32", "fp32")),
    ):
        if "gather" in kernel:
            layouts = ("wide", "narrow", *("contiguous",) * (arithmetic in ("half", "tf32")))
        else:
            layouts = ("contiguous",) if "nchw" in kernel else ("channels_last",)
        if "block" in kernel and arithmetic != "fp32":
            layouts += ("boxes",)
        for layout in layouts:
            choice = plans.find(Shape(kernel, arithmetic, layout, 24, 24, (3, 3), (5, 5), (1, 1)), None)
            assert choice.key.startswith(f"{kernel} {arithmetic}")
            assert choice.origin == "shipped, not measured"


def test_the_longest_key_serves() -> None:
    general, special = PLAN, PLAN._replace(stages=2)
    file = PlanFile("", {"halo half": general, str(SHAPE): special, "halo half contiguous": special})
    assert file.find(SHAPE) == (str(SHAPE), special)
    assert file.find(SHAPE._replace(channels=48)) == ("halo half", general)
    assert file.find(SHAPE._replace(arithmetic="tf32")) is None


def test_files_read_as_they_are_written(tmp_path: Path) -> None:
    file = PlanFile("by hand", {str(SHAPE): PLAN, "gather": PLAN._replace(warps=4)})
    plans.write(tmp_path / "new folder" / "plans.json", file)
    assert plans.read(tmp_path / "new folder" / "plans.json") == file
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["plans.json"]


def test_a_failing_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plans.json"
    plans.write(path, PlanFile("old", {}))
    monkeypatch.setattr(plans.json, "dump", lambda *arguments, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        plans.write(path, PlanFile("new", {}))
    monkeypatch.undo()
    assert plans.read(path).origin == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["plans.json"]


def test_measured_plans_go_before_shipped_ones_and_add_up(user_path: Path) -> None:
    shipped = plans.find(SHAPE, GPU)
    assert shipped.origin == "shipped, not measured"
    other = SHAPE._replace(channels=48)
    plans.remember(GPU, {str(SHAPE): PLAN})
    plans.remember(GPU, {str(other): PLAN._replace(stages=1)})
    assert plans.find(SHAPE, GPU) == (PLAN, str(SHAPE), f"measured: {user_path}")
    assert plans.find(other, GPU).plan.stages == 1
    assert plans.find(SHAPE, "another GPU") == plans.find(SHAPE, None) == shipped
    assert plans.read(user_path).origin == f"measured on {GPU}"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "Expecting value"),
        ("[]", "not a plan file"),
        ('{"version": 1, "plans": 3}', "not a plan file"),
        (json.dumps({"version": plans.VERSION + 1, "plans": {}}), "of version 2, and this is version 1"),
        (json.dumps({"version": plans.VERSION, "plans": {str(SHAPE): "as fast as you can"}}), "is not like"),
        (json.dumps({"version": plans.VERSION, "plans": {"halo": f"{PLAN}, of a copy"}}), "only what is contiguous"),
        (b"\xff\xfe", "codec"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_ignored(
    user_path: Path, content: str | bytes, said: str
) -> None:
    user_path.parent.mkdir()
    user_path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.warns(UserWarning, match=f"{user_path.name} are ignored: .*{said}"):
        choice = plans.find(SHAPE, GPU)
    assert choice == plans.find(SHAPE, None)
    with pytest.warns(UserWarning, match="are ignored"):
        plans.remember(GPU, {str(SHAPE): PLAN})  # replaces it
    assert plans.find(SHAPE, GPU).plan == PLAN


@pytest.mark.filterwarnings("ignore:.*are ignored")
def test_where_plans_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MYCONV2D_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert plans.user_path(GPU) == tmp_path / "myconv2d" / "plans-NVIDIA-Test-80GB.json"
    monkeypatch.setenv("MYCONV2D_CACHE", "~/plans")
    assert plans.user_path(GPU) == Path.home() / "plans" / "plans-NVIDIA-Test-80GB.json"


def test_the_fastest_candidate_is_remembered(user_path: Path, capsys: pytest.CaptureFixture) -> None:
    ran = []

    def timer(action) -> float:
        action()
        plan = ran[-1]
        if plan.stages == 2:
            raise tuning.OutOfResources(1, 2, "shared memory")
        return (
            abs(plan.block_m - 128)
            + plan.warps
            + plan.block_n / 1000
            + plan.block_c / 1e6
            + plan.stages / 1e9
        )

    tuning.measure(SHAPE, tuning.candidates(SHAPE), ran.append, timer, GPU)
    assert ran == tuning.candidates(SHAPE)
    assert plans.find(SHAPE, GPU)[:2] == (Plan(128, 32, 16, 4, 3), str(SHAPE))
    said = capsys.readouterr().err
    assert f"{SHAPE}: {Plan(128, 32, 16, 4, 3)}: 4.0 µs, the best of " in said
    assert "the shipped one: 68.1 µs" in said


def test_where_no_plan_can_be_launched_the_kernel_the_layer_and_the_reason_are_named(user_path: Path) -> None:
    def timer(action) -> float:
        raise tuning.OutOfResources(300_000, 232_448, "shared memory")

    layer = str(SHAPE).removeprefix(f"{SHAPE.kernel} ")
    message = f"of 3 plans of the {SHAPE.kernel} kernel for {layer} can be launched on {GPU}; .*shared memory.*232448"
    with pytest.raises(RuntimeError, match=message):
        tuning.measure(SHAPE, tuning.candidates(SHAPE)[:3], lambda plan: None, timer, GPU)
    assert not user_path.exists()


def test_a_shape_is_measured_once_if_asked_for(user_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a device that only pretends."""
    capturing, timed, ran = False, [], []
    monkeypatch.setattr(launch, "_gpu", lambda device: Gpu((9, 0), GPU))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    monkeypatch.setattr(tuning, "device_time", lambda action, device: timed.append(action()) or -len(timed))

    def serve() -> None:
        tuning.serve(SHAPE, torch.device("cuda"), ran.append)

    serve()
    assert (len(ran), len(timed), user_path.exists()) == (1, 0, False)
    with set_in(tuning.requested, tuning.candidates):
        capturing = True
        with pytest.warns(UserWarning, match="CUDA graph is being captured"):
            serve()
        assert (len(ran), len(timed)) == (2, 0)
        capturing = False
        serve()
        candidates = tuning.candidates(SHAPE)
        assert ran[2:] == [*candidates, candidates[-1]]  # each later one seemed faster
        serve()
        assert ran[-1] == candidates[-1]
        assert len(timed) == len(candidates)
    serve()
    assert ran[-1] == candidates[-1]


def test_candidates() -> None:
    candidates = tuning.candidates(SHAPE)
    assert candidates[0] == plans.find(SHAPE, None).plan
    assert len(set(candidates)) == len(candidates) > 10
    assert all(Plan.parse(str(plan)) == plan for plan in candidates)
    near = tuning.near(SHAPE)
    assert near[0] == candidates[0] and set(near) < set(candidates) and 5 < len(near) < 15


NCHW = SHAPE._replace(kernel="halo_nchw", layout="contiguous")


@pytest.mark.parametrize(
    ("kernel", "of_copy"),
    [
        ("halo_nchw", "halo"), ("gather", "halo"),
        ("grad_weight_nchw", "grad_weight_halo"), ("grad_weight_gather", "grad_weight_halo"),
    ],
)  # fmt: skip
def test_candidates_for_nchw_are_in_place_or_of_a_copy(kernel: str, of_copy: str) -> None:
    shape = NCHW._replace(kernel=kernel)
    of_copies = [plan._replace(copied=True) for plan in tuning.candidates(SHAPE._replace(kernel=of_copy))]
    found = tuning.candidates(shape)
    assert found[-len(of_copies) :] == of_copies
    assert not any(plan.copied for plan in found[: -len(of_copies)])
    assert [plan for plan in tuning.near(shape) if plan.copied] == of_copies[:1]
    if "gather" in kernel:
        assert not any(plan.copied for plan in tuning.candidates(shape._replace(layout="narrow")))


def test_of_every_plan_the_kernels_can_be_looked_at(user_path: Path) -> None:
    ran = []
    with set_in(tuning.every, tuning.near):
        tuning.serve(SHAPE, torch.device("meta"), ran.append)
    assert ran == tuning.near(SHAPE)


def test_explain_names_kernel_reason_and_plan(user_path: Path) -> None:
    input = torch.empty(2, 64, 8, 8, dtype=torch.float16).contiguous(memory_format=torch.channels_last)
    weight = torch.empty(32, 64, 3, 3, dtype=torch.float16)
    plans.remember(GPU, {str(SHAPE): PLAN})
    with set_in(assumed, Gpu((9, 0), GPU)):
        forward, grad_input, grad_weight = kernels.explain(input, weight, ((1, 1), (1, 1), (1, 1), 1), True)
        strided = kernels.explain(input, weight, ((2, 2), (1, 1), (1, 1), 1), True)
        odd = kernels.explain(input[..., :7], weight, ((2, 2), (1, 1), (1, 1), 1), True)
    assert (
        forward
        == f"forward: halo kernel (boxes by the copy engine), {PLAN} ('{SHAPE}', measured: {user_path})"
    )
    assert grad_input.startswith("grad_input: halo kernel")
    assert "shipped, not measured" in grad_weight
    kernels_of_strides = ["forward: halo", "grad_input: halo", "grad_weight: grad_weight_halo"]
    assert [line.split(" kernel (boxes by the copy engine), ")[0] for line in strided] == kernels_of_strides
    assert odd[0].startswith("forward: gather kernel (a stride of 2×2 does not divide 8×7 pixels)")
    plans.remember(GPU, {str(NCHW): PLAN._replace(copied=True)})
    with set_in(assumed, Gpu((9, 0), GPU)):
        of_copy, in_place, _ = kernels.explain(input.contiguous(), weight, ((1, 1), (1, 1), (1, 1), 1), True)
    asked_for = "boxes by the copy engine, from a copy: so the plan wants it"
    assert of_copy.startswith(f"forward: halo kernel ({asked_for}), {PLAN}, of a copy ('{NCHW}', measured")
    assert in_place.startswith("grad_input: halo_nchw kernel (boxes by the copy engine, from NCHW as it lies), ")
    with set_in(assumed, Gpu((8, 0), None)):
        older = kernels.explain(input, weight, ((1, 1), (1, 1), (1, 1), 1), True)
    assert "gather kernel (this GPU has no copy engine for tensors)" in older[0]


def test_explain_of_a_block_names_kernels_plans_and_copies(user_path: Path) -> None:
    shape = Shape("block_grad_weight", "fp32", "channels_last", 4, 8, (3, 3), (6, 6), (1, 1))
    plans.remember(GPU, {str(shape): PLAN})
    picture = torch.empty(2, 3, 6, 6)
    skip = torch.empty(2, 1, 3, 3, requires_grad=True)
    weight, vector = torch.empty(8, 4, 3, 3), torch.empty(8)
    arguments = picture, None, None, False, skip, None, None, True, weight, vector, (1, 1), vector, vector, 0.1, True
    with set_in(assumed, Gpu((9, 0), GPU)):
        copied, forward, to_skip, to_weight = kernels.explain_block(*arguments, allow_tf32=False)
    assert copied == "input: copied to channels_last first"  # the skip of one channel is both
    said = "(fused, ordinary loads: a feed is enlarged)"
    assert forward.startswith(f"forward: block_forward kernel {said}, 64 pixels × 32 outputs × 16 channels, 4 warps")
    assert to_skip.startswith("backward: block_grad_input kernel (fused, ordinary loads: the gradient is pooled), ")
    assert to_skip.endswith("shipped, not measured)")
    pooled = said.replace("a feed is enlarged", "the gradient is pooled")
    assert to_weight == f"backward: block_grad_weight kernel {pooled}, {PLAN} ('{shape}', measured: {user_path})"


def test_explain_of_a_block_says_where_boxes_serve() -> None:
    raw, weight = torch.empty(2, 16, 6, 6).to(memory_format=torch.channels_last), torch.empty(24, 16, 3, 3)
    vector = torch.empty(24)
    feeds = raw, vector[:16], vector[:16], False, None, None, None, False
    block = *feeds, weight, vector, (1, 1), None, None, 0.0, False
    for allow_tf32, said in ((True, "boxes by the copy engine"), (False, "ordinary loads: there is no wgmma in fp32")):
        with set_in(assumed, Gpu((9, 0), None)):
            forward, to_weight = kernels.explain_block(*block, allow_tf32=allow_tf32)
        assert forward.startswith(f"forward: block_forward kernel (fused, {said}), ")
        assert to_weight.startswith(f"backward: block_grad_weight kernel (fused, {said}), ")
    with set_in(assumed, Gpu((8, 0), None)):
        older, *_ = kernels.explain_block(*block, allow_tf32=True)
    assert "(fused, ordinary loads: this GPU has no copy engine for tensors)" in older


def test_only_a_gpu_can_be_measured_on() -> None:
    with pytest.raises(ValueError, match="CUDA devices, and input is on cpu"):
        kernels.tune(torch.empty(1, 1, 3, 3), torch.empty(1, 1, 3, 3))


@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure")
def test_the_command_says_that_there_is_no_gpu(capsys: pytest.CaptureFixture) -> None:
    assert measure.main(["1x2x3x4:5x6x7"]) == 1
    assert "torch sees none here" in capsys.readouterr().err


def test_the_command_says_what_a_layer_looks_like(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        measure.main(["64x3x3"])
    assert "'64x3x3' is not like 100x64x8x8:32x3x3" in capsys.readouterr().err


@pytest.mark.parametrize(("value", "requested"), [(None, False), ("", False), ("0", False), ("1", True)])
def test_the_environment_asks_for_measuring(value: str | None, requested: bool, monkeypatch) -> None:
    monkeypatch.delenv("MYCONV2D_TUNE", raising=False)
    if value is not None:
        monkeypatch.setenv("MYCONV2D_TUNE", value)
    assert tuning.asked_for() is requested
