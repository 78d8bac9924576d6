"""Networks that know nothing of this package, converted: the same outputs, gradients, buffers and checkpoints."""

import copy
import re

import pytest
import torch
from papers import NETWORKS
from torch import nn

import myconv2d

EPS = torch.finfo(torch.float32).eps
FINER = torch.finfo(torch.float64).eps / EPS


def monai(name, *arguments, **options):
    return getattr(pytest.importorskip("monai.networks.nets"), name)(*arguments, **options)


def transformers(model, **options):
    package = pytest.importorskip("transformers")
    config = getattr(package, re.sub("(Model|ForImageSuperResolution)$", "Config", model))
    return getattr(package, model)(config(**options))


SMALL = {"hidden_sizes": [8, 16], "depths": [1, 1]}
LIBRARIES = {  # which are installed on few machines
    "monai UNet": lambda: monai("UNet", 2, 3, 2, (8, 16, 32), (2, 2), num_res_units=2),
    "monai SegResNet": lambda: monai("SegResNet", 2, 8, 3, 2, blocks_down=(1, 1), blocks_up=(1,)),
    "monai AttentionUnet": lambda: monai("AttentionUnet", 2, 3, 2, (8, 16), (2,)),
    "monai DenseNet": lambda: monai("DenseNet", 2, 3, 10, 8, 4, (2, 2)),
    "transformers ResNet": lambda: transformers("ResNetModel", embedding_size=8, **SMALL),
    "transformers RegNet": lambda: transformers("RegNetModel", embedding_size=8, groups_width=4, **SMALL),
    "transformers ConvNext": lambda: transformers("ConvNextModel", num_stages=2, **SMALL),
    "transformers Segformer": lambda: transformers(
        "SegformerModel", num_encoder_blocks=2, hidden_sizes=[8, 16], depths=[1, 1], sr_ratios=[2, 1],
        patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2], drop_path_rate=0.0,
    ),
    "transformers Swin2SR": lambda: transformers(
        "Swin2SRForImageSuperResolution", embed_dim=12, depths=[1], num_heads=[2], window_size=4,
    ),
}  # fmt: skip


PICTURES = torch.rand(2, 3, 48, 44, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=NETWORKS)
def network(request):
    """Not yet converted."""
    network = {**NETWORKS, **LIBRARIES}[request.param]()
    network.eval()(PICTURES)  # for lazy layers
    return network


def run(network, training, dtype):
    """Everything that a step of training computes; of a copy."""
    network, x = copy.deepcopy(network).to(dtype).train(training), PICTURES.to(dtype, copy=True).requires_grad_()
    torch.manual_seed(0)  # of dropout
    output = first_tensor(network(x))
    output.backward(torch.linspace(-1, 2, output.numel(), dtype=dtype).view_as(output))
    found = {"output": output.detach(), "input": x.grad, **{f"buffer {n}": b for n, b in network.named_buffers()}}
    return found | {n: p.grad for n, p in network.named_parameters() if p.grad is not None}


def first_tensor(output):
    """Of a tensor, or of the named results that some libraries give."""
    return output if isinstance(output, torch.Tensor) else output[0]


def errors(found, truth):
    """‖found − truth‖ / ‖truth‖ of each result. Some gradients vanish, as those of a bias before a batch norm do: so a
    thousandth of the largest parameter's counts as the least that a gradient can be."""
    assert found.keys() == truth.keys()
    largest = max(t.norm() for name, t in truth.items() if not name.startswith(("output", "input", "buffer")))
    floor = {name: 0 if name in ("output", "input") else largest / 1000 for name in truth}
    return {n: float((found[n].double() - t).norm() / (t.double().norm() + floor[n])) for n, t in truth.items()}


@pytest.mark.parametrize("network", [*NETWORKS, *LIBRARIES], indirect=True)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_results(network, training):
    """Beside the framework's float64: in float32 not ten times as far from it as the framework's own, whose error tells
    how well conditioned each result is (Winograd's few digits less are in the ten); in float64 as much nearer as the
    type is finer, times a hundred."""
    truth, theirs = (run(network, training, dtype) for dtype in (torch.float64, torch.float32))
    assert myconv2d.convert(network) is network
    assert sum(type(m) is myconv2d.MyConv2d for m in network.modules()) > 1
    assert not any(type(m) is nn.Conv2d for m in network.modules())
    exact, ours = (run(network, training, dtype) for dtype in (torch.float64, torch.float32))
    theirs, ours, exact = (errors(found, truth) for found in (theirs, ours, exact))
    scale = {name: error + 2 * EPS for name, error in theirs.items()}
    assert {n: (ours[n], theirs[n]) for n in ours if ours[n] > 10 * scale[n]} == {}
    assert {n: (exact[n], theirs[n]) for n in exact if exact[n] > 100 * scale[n] * FINER} == {}


def test_checkpoints(network):
    """The same keys in the same order, and the very same tensors; they load both ways."""
    before, plain = network.state_dict(), copy.deepcopy(network)
    after = myconv2d.convert(network).state_dict()
    assert [*before] == [*after]
    assert all(after[n].data_ptr() == t.data_ptr() for n, t in before.items())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)
    plain.load_state_dict(network.state_dict())
    network.load_state_dict(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), plain.parameters(), strict=True))


def test_training_goes_on(network):
    """An optimizer that was made before, and has momentum, trains the converted network to the same weights."""
    ends = []
    for convert in (False, True):
        trained = copy.deepcopy(network).double().train()
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.01, momentum=0.9)
        for step in range(4):
            if convert and step == 2:
                myconv2d.convert(trained)
            torch.manual_seed(step)
            optimizer.zero_grad()
            loss = (first_tensor(trained(PICTURES.double())) - 1).square().mean()
            loss.backward()
            optimizer.step()
        ends.append([loss.detach(), *trained.state_dict().values()])
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-9)
