"""The rivals compute what ours compute, from the same weights, and the plain networks have nothing of ours."""

from __future__ import annotations

import importlib.util
import inspect

import pytest
import torch
from torch import nn

import myconv2d
from bench import accuracy, plain
from bench.blocks import BLOCKS, BlockCase, block
from bench.cases import CASES
from bench.catalogue import choose, subjects
from bench.layers import PASSES, layer
from bench.modules import gradients, randomise
from bench.networks import NetworkCase, inference, training
from bench.rows import Row
from bench.subjects import SETS
from bench.tables import UNITS, beside_cells
from bench.variants import variants
from colourize import networks
from myconv2d import backends

CPU = torch.device("cpu")
_HAS_ONNX_RUNTIME = all(
    importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")
)  # of the extra [bench]


def test_nothing_of_ours_is_in_the_plain_networks() -> None:
    source = inspect.getsource(plain)
    imports = [line for line in source.splitlines() if line.startswith(("import", "from"))]
    assert all(line.startswith(("import torch", "from torch", "from __future__")) for line in imports)


@pytest.mark.parametrize("name", networks.HANDOUT)
def test_plain_networks_equal_ours(name: str) -> None:
    ours, theirs = networks.create(name), randomise(plain.create(name))
    assert ours.load_state_dict(theirs.state_dict(), strict=True)
    grey = torch.randn(3, 1, 16, 20)
    for train in (False, True):
        outputs = [network.train(train)(grey) for network in (ours, theirs)]
        torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-4)
    for output in outputs:
        output.square().mean().backward()
    found = gradients(ours)
    assert found.keys() == gradients(theirs).keys() and len(found) == 11
    for key, expected in gradients(theirs).items():
        assert (found[key] - expected).norm() <= 1e-2 * expected.norm(), key
    for key, expected in theirs.state_dict().items():  # the running statistics too
        torch.testing.assert_close(ours.state_dict()[key], expected, atol=1e-5, rtol=1e-4)


def _check(subject) -> None:
    """Everybody's results, in a subject, against float64."""
    exact = subject.exact()
    bounds = accuracy.bounds(exact, subject.kinks)
    contestants = subject.contestants()
    assert {contestant.side for contestant in contestants} >= {"ours", "rival"}
    for contestant in contestants:
        if contestant.name == "ONNX Runtime" and not _HAS_ONNX_RUNTIME:
            continue
        ready = contestant.prepare()
        found = ready.results()
        assert found.keys() == exact.keys(), contestant.name
        errors = accuracy.errors(found, exact, subject.kinks)
        assert all(errors[name] <= bound for name, bound in bounds.items()), (contestant.name, errors)
        for number in range(SETS):
            ready.call(number)


@pytest.mark.parametrize("pass_name", PASSES)
@pytest.mark.parametrize("name", ["no-bias", "stride-dilation-groups", "1x1-padded"])
def test_layers(name: str, pass_name: str) -> None:
    _check(layer(CASES[name], pass_name, CPU))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "case", [BlockCase(2, (1,), 8, 8, "pool"), BlockCase(3, (8, 8), 5, 4, "upsample")], ids=str
)
def test_blocks(case: BlockCase, training: bool) -> None:
    _check(block(case, training, CPU))


@pytest.mark.parametrize("make", [training, inference])
@pytest.mark.parametrize("name", ["unet", "regression-cnn"])
def test_networks(name: str, make) -> None:
    _check(make(NetworkCase(name, 2, 8), CPU, compiled=False))


@pytest.mark.parametrize("wrong", [False, True])
def test_of_a_recorded_step_the_replay_is_checked(wrong: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results come from a replay as it is timed, not from the calls that precede the recording."""
    made = []

    def recorded(step):
        made.append(myconv2d.Recorded(step))

        def call(*tensors):
            loss, grads = made[-1](*tensors)
            return (1.01 * loss if wrong and made[-1].recordings else loss), grads

        call.problem = None
        return call

    monkeypatch.setattr(myconv2d, "recorded", recorded)
    subject = training(NetworkCase("unet", 2, 8), CPU, compiled=False)
    [contestant] = [c for c in subject.contestants() if c.name == "ours contiguous recorded"]
    found = contestant.prepare().results()
    error = accuracy.errors(found, subject.exact(), subject.kinks)["loss"]
    assert made[-1].recordings == 1
    assert (error > 1e-3) == wrong


def test_a_step_that_cannot_be_recorded_does_not_compete_as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(myconv2d.Recorded, "_record", lambda self, signature, tensors: self._give_up("a reason"))
    subject = training(NetworkCase("unet", 2, 8), CPU, compiled=False)
    [contestant] = [c for c in subject.contestants() if c.name == "ours contiguous recorded"]
    refused = pytest.raises(RuntimeError, match="not recorded: a reason")
    with pytest.warns(UserWarning, match="is not recorded"), refused:
        contestant.prepare().results()


def test_on_a_gpu_the_framework_competes_in_cuda_graphs_too() -> None:
    names = {variant.name for variant in variants(torch.device("cuda"), compiled=True)}
    layouts = {
        f"{layout}{compiled}" for layout in ("contiguous", "channels_last") for compiled in ("", " compiled")
    }
    assert names == layouts | {f"{name} in a CUDA graph" for name in layouts}
    assert {variant.name for variant in variants(CPU, compiled=True)} == layouts


@pytest.mark.parametrize(("name", "other"), [("c64-k64-8px-n1", "native"), ("c3-k3-32px-n1", "triton")])
def test_on_a_gpu_the_other_backend_is_shown_beside(name: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours is the one that serves the layer: the CUDA library, where there are few channels."""
    monkeypatch.setattr(backends, "problem", lambda *args: None)
    backends.choose.cache_clear()
    subject = layer(CASES[name], "forward", torch.device("cuda"))
    beside = [contestant.name for contestant in subject.contestants() if contestant.side == "beside"]
    backends.choose.cache_clear()
    assert beside == [f"our {other}, channels_last in a CUDA graph"]


def test_the_other_backend_s_time_is_compared_with_ours() -> None:
    row = Row("a", "forward", "layer", [], sides={"our native": "beside", "ours": "ours"})
    row.samples = {"our native": [3e-6] * 5, "ours": [2e-6] * 5}
    assert list(beside_cells([row], UNITS["cuda"])) == [("a", "forward", "our native", "3", "1.50×")]


def test_blocks_are_those_of_the_unet() -> None:
    found = []
    resizes = {nn.MaxPool2d: "pool", nn.Upsample: "upsample", nn.ReLU: None}

    def note(module, args, output) -> None:
        channels, size = args[0].shape[1:3]
        found.append((channels, output.shape[1], size, resizes[type(module[-1])]))

    network = plain.create("unet")
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            module.register_forward_hook(note)
    network(torch.zeros(1, 1, 32, 32))
    assert found == [(sum(b.in_channels), b.out_channels, b.size, b.resize) for b in BLOCKS]


def test_operations_are_those_of_the_layers() -> None:
    everything = subjects(CPU)
    unet = [case for case in CASES.values() if "unet" in case.tags and case.batch == 100]
    forward = sum(case.flop for case in unet)
    [step] = [s for s in choose(everything, ["unet-32px-n100"]) if s.pass_name == "training step"]
    [infer] = [s for s in choose(everything, ["unet-32px-n100"]) if s.pass_name == "inference"]
    first = CASES["c1-k32-32px-n100"].flop  # the picture wants no gradient
    assert infer.flop() == forward
    assert step.flop() == 3 * forward - first
