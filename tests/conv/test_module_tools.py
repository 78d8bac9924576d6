"""The framework's tools take ours for an nn.Conv2d: hooks, parametrisations, fusion; and `convert`."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from myconv2d import ConvBlock, MyConv2d, MyConvTranspose2d, conv2d, convert, fuse


def test_hooks():
    """Forward, backward and tensor hooks of modules and tensors."""
    counts = {}
    for module in (MyConv2d(4, 6, 3), nn.Conv2d(4, 6, 3)):
        heard = counts.setdefault(type(module), [])
        module.register_forward_pre_hook(lambda m, args, heard=heard: heard.append(("pre", args[0].shape)))
        module.register_forward_hook(lambda m, args, out, heard=heard: heard.append(("forward", out.shape)))
        module.register_full_backward_hook(
            lambda m, gin, gout, heard=heard: heard.append(("backward", gin[0].shape, gout[0].shape))
        )
        module.weight.register_hook(lambda g, heard=heard: heard.append(("weight", g.shape)))
        module.bias.register_post_accumulate_grad_hook(
            lambda p, heard=heard: heard.append(("bias", p.grad.shape))
        )
        module(torch.randn(2, 4, 7, 6, requires_grad=True)).sum().backward()
    ours, theirs = counts.values()
    assert sorted(map(str, ours)) == sorted(map(str, theirs)) and len(ours) == 5


@pytest.mark.parametrize("tool", [
    parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal,
    lambda m: prune.l1_unstructured(m, "weight", 0.5), lambda m: prune.ln_structured(m, "weight", 0.5, 2, 0),
], ids=["weight_norm", "spectral_norm", "orthogonal", "prune", "prune structured"])  # fmt: skip
def test_reparametrised(tool):
    """Tools that replace the weight see an nn.Conv2d, and training goes through them."""
    ours, theirs = MyConv2d(4, 6, 3), nn.Conv2d(4, 6, 3)
    ours.load_state_dict(theirs.state_dict())
    results = []
    for module in (ours, theirs):
        torch.manual_seed(1)
        module = tool(module)
        x = torch.randn(2, 4, 6, 6)
        output = module.eval()(x)
        results.append((output, *torch.autograd.grad(output.square().mean(), list(module.parameters()))))
    assert isinstance(ours, MyConv2d)
    for our, their in zip(*results, strict=True):
        torch.testing.assert_close(our, their)


def test_numbers_set_after_construction():
    """One integer, or a list, where the constructor leaves a pair: the framework's modules take these too."""
    x = torch.randn(2, 4, 7, 6)
    for value in (1, [1], [1, 1]):
        plain = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.ConvTranspose2d(6, 4, 3, stride=2))
        for name in ("stride", "dilation", "padding"):
            setattr(plain[0], name, value)
            if name != "padding":  # of a transposed one, the framework wants a pair
                setattr(plain[3], name, value)
        ours = fuse(copy.deepcopy(plain))
        ours[3].__class__ = MyConvTranspose2d
        torch.testing.assert_close(ours(x), plain(x), rtol=1e-4, atol=1e-5)
        block = ConvBlock(4, 6)
        block.conv.padding = value
        assert block.hindrance(x) is None and block(x).shape == (2, 6, 7, 6)


def test_fusion_with_batch_norm():
    conv, norm = MyConv2d(4, 6, 3).eval(), nn.BatchNorm2d(6)
    norm(torch.randn(8, 6, 5, 5) * 3 + 1)
    norm.eval()
    fused = nn.utils.fusion.fuse_conv_bn_eval(conv, norm)
    x = torch.randn(2, 4, 6, 6)
    assert type(fused) is MyConv2d
    torch.testing.assert_close(fused(x), norm(conv(x)))


def test_symbolic_trace():
    """torch.fx records one call of our function (of nn.Conv2d, one of the module)."""
    module = nn.Sequential(MyConv2d(4, 6, 3, padding="same"), nn.ReLU())
    traced = torch.fx.symbolic_trace(module)
    assert [node.target for node in traced.graph.nodes if node.op == "call_function"] == [conv2d]
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(traced(x), module(x))


class Own(nn.Conv2d):
    def forward(self, input):
        return super().forward(input) + 1


def test_convert():
    """In place: parameters shared, hooks and modes kept, subclasses left alone, once is enough."""
    model = nn.ModuleDict({"a": nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()), "own": Own(4, 4, 1)})
    model["b"] = model["a"]  # shared
    model["a"][0].register_forward_hook(lambda module, args, output: output * 2)
    model["a"][0].weight.requires_grad_(False)
    model.eval()
    x = torch.randn(1, 4, 5, 5)
    before = {id(p) for p in model.parameters()}, list(model.state_dict()), model["own"](model["a"](x))
    for _ in range(2):
        assert convert(model) is model
        assert type(model["a"][0]) is MyConv2d and type(model["own"]) is Own
        assert model["b"][0] is model["a"][0] and not model["a"][0].training
        assert ({id(p) for p in model.parameters()}, list(model.state_dict())) == before[:2]
        torch.testing.assert_close(model["own"](model["a"](x)), before[2])
    assert type(convert(nn.Conv2d(1, 1, 1))) is MyConv2d
    others = convert(nn.Sequential(nn.ConvTranspose2d(1, 1, 1), nn.Conv1d(1, 1, 1), nn.Conv3d(1, 1, 1)))
    assert [type(m).__name__ for m in others] == ["ConvTranspose2d", "Conv1d", "Conv3d"]


def test_lazy_modules():
    """A LazyConv2d is converted when it knows its size, whether convert came before or after."""
    x = torch.randn(2, 4, 6, 6)
    early = convert(nn.Sequential(nn.LazyConv2d(3, 3)))
    late = nn.Sequential(nn.LazyConv2d(3, 3))
    for model in (early, late):
        model(x)
    late = convert(late)
    for model in (early, late):
        assert type(model[0]) is MyConv2d and model[0].in_channels == 4
        torch.testing.assert_close(model(x), F.conv2d(x, model[0].weight, model[0].bias))
