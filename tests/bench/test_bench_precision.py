"""One arithmetic for both sides of a measurement: tensors, switches, bounds, and what is left out."""

from __future__ import annotations

import pytest
import torch

from bench import precision
from bench.accuracy import bounds, errors
from bench.blocks import BlockCase, block
from bench.cases import CASES
from bench.competition import compete
from bench.layers import layer
from bench.measure import StoppingRule
from bench.networks import NetworkCase, inference, training
from bench.precision import PRECISIONS, pinned
from bench.rows import Row, peak, with_precision
from colourize.settings import Settings

CPU = torch.device("cpu")
SUBJECTS = {
    "layer": lambda: layer(CASES["c3-k3-32px-n1"], "backward", CPU),
    "block": lambda: block(BlockCase(2, (8,), 8, 8, "pool"), True, CPU),
    "block inference": lambda: block(BlockCase(2, (8,), 8, 8, norm=False), False, CPU),
    "training": lambda: training(NetworkCase("unet", 2, 8), CPU, compiled=False),
    "inference": lambda: inference(NetworkCase("cnn", 2, 8), CPU, compiled=False),
}


def test_a_pin_is_taken_out_again() -> None:
    switches = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [switch.fp32_precision == "tf32" for switch in switches], torch.backends.cudnn.benchmark
    with pytest.raises(KeyboardInterrupt), pinned("tf32"):
        assert [switch.fp32_precision for switch in switches] == ["tf32", "tf32"]
        assert torch.backends.cudnn.benchmark
        with pinned("bf16"):
            assert precision.current().dtype == torch.bfloat16
            assert not any(switch.fp32_precision == "tf32" for switch in switches)
        assert precision.name() == "tf32"
        raise KeyboardInterrupt
    assert precision.name() == "fp32"
    assert before == (
        [switch.fp32_precision == "tf32" for switch in switches],
        torch.backends.cudnn.benchmark,
    )


@pytest.mark.parametrize("name", SUBJECTS)
def test_both_sides_compute_in_bf16(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody's errors are those of bf16, well above fp32's and within the bound of bf16 or of twice the rival's."""
    with pinned("bf16"):
        subject = SUBJECTS[name]()
        exact = subject.exact()
        for contestant in subject.contestants():
            found = errors(contestant.prepare().results(), exact, subject.kinks)
            assert max(found.values()) > 2.0**-10, contestant.name
            allowed = bounds(exact, subject.kinks, precision.current().bound)
            assert all(found[key] <= 4 * bound for key, bound in allowed.items()), (contestant.name, found)
        assert not any(contestant.name == "ONNX Runtime" for contestant in subject.contestants())


def test_a_row_says_its_precision() -> None:
    with pinned("bf16"):
        subject = layer(CASES["c3-k3-32px-n1"], "forward", CPU)
        row = compete(subject, StoppingRule(budget=0, min_rounds=5), only=["*contiguous"])
    half, whole = subject.bytes, layer(CASES["c3-k3-32px-n1"], "forward", CPU).bytes
    assert (row.precision, 2 * half) == ("bf16", whole)
    assert row.samples.keys() == row.sides.keys() == {"ours contiguous", "torch contiguous"}
    assert row.title == "c3-k3-32px-n1 bf16" and with_precision("x", "fp32") == "x"
    assert row.key == ("c3-k3-32px-n1", "forward", "bf16")
    assert row.bounds == {"output": PRECISIONS["bf16"].bound}
    assert row.holds
    assert row.bandwidth("ours contiguous") == pytest.approx(half / row.median("ours contiguous") / 1e9)


def test_roofs_are_those_of_the_precision() -> None:
    roofs = {"fp32 GF/s": 50.0, "bf16 GF/s": 800.0, "GB/s": 1000.0}
    assert [peak(roofs, name) for name in ("fp32", "bf16")] == [50, 800]
    assert peak({"GF/s": 7.0}, "bf16") == 7
    row = Row(
        "a", "forward", "layer", [], flop=10**9, bytes=10**6, precision="bf16", samples={"x": [1e-3] * 5}
    )
    assert row.share_of_roof("x", roofs) == pytest.approx(1000 / 800)


def test_bounds_grow_with_the_roundings() -> None:
    found = [PRECISIONS[name].bound for name in ("fp32", "tf32", "bf16")]
    assert found == sorted(found) and found[-1] < 0.02
    assert PRECISIONS["tf32"].bound == PRECISIONS["fp16"].bound


def test_what_is_not_measured_has_a_reason() -> None:
    assert "fp16 needs a loss that is scaled" in precision.unfit("network", "training step", "fp16")
    assert precision.unfit("network", "training step", "bf16") is None
    assert precision.unfit("memory", "peak memory of a step", "tf32") == "peak memory of a step: in fp32 only"
    assert "GPUs" in precision.missing("tf32", "cpu") and precision.missing("bf16", "cpu") is None


def test_trainings_know_no_other_names() -> None:
    for name in ("fp32", "tf32", "bf16"):
        assert Settings("regression", "cnn", precision=name).precision in PRECISIONS
