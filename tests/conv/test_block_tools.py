"""What cannot be fused is composed, says so and is right: hooks, transforms, compilers, copies, bad input."""

import copy
import io
import pickle

import pytest
import torch
from block_modules import Net, Plain, PlainNet, close, same_state
from torch import nn
from torch.nn.utils import parametrizations, prune

from myconv2d import ConvBlock, MyConv2d, Pending, explain_block, use_backend


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


X = (2, 3, 6, 6)
HINDRANCES = {
    "stride": (lambda b: setattr(b.conv, "stride", (2, 2)), "stride 1"),
    "dilation": (lambda b: setattr(b.conv, "dilation", (2, 2)), "dilation 1"),
    "hook": (lambda b: b.register_forward_hook(lambda *a: None), "hooks on ConvBlock"),
    "inner hook": (lambda b: b.norm.register_forward_pre_hook(lambda *a: None), "hooks on BatchNorm2d"),
    "backward hook": (lambda b: b.conv.register_full_backward_hook(lambda *a: None), "hooks on MyConv2d"),
    "own forward": (lambda b: setattr(b.conv, "forward", b.conv.forward), "hooks on MyConv2d"),
    "own convolution": (  # as people make layers tile
        lambda b: setattr(b.conv, "_conv_forward", lambda x, *vectors: 2 * MyConv2d._conv_forward(b.conv, x, *vectors)),
        "hooks on MyConv2d",
    ),
    "subclass": (
        lambda b: setattr(b.norm, "__class__", type("Own", (nn.BatchNorm2d,), {})),
        "Own in place of",
    ),
    "weight norm": (lambda b: parametrizations.weight_norm(b.conv), "ParametrizedMyConv2d in place of"),
    "pruned": (lambda b: prune.l1_unstructured(b.conv, "weight", 0.3), "hooks on MyConv2d"),
    "not affine": (
        lambda b: setattr(b.norm, "weight", None) or setattr(b.norm, "bias", None),
        "without scale",
    ),
    "no ReLU": (lambda b: setattr(b, "activation", False), "without ReLU"),
    "no norm": (lambda b: setattr(b, "norm", None), "without batch norm"),
}


@pytest.mark.parametrize("name", HINDRANCES)
def test_hindrances(fused, name):
    """What cannot be fused is composed, says why, and is right."""
    hinder, words = HINDRANCES[name]
    block = ConvBlock(3, 4, dtype=fused)
    x = torch.randn(X, dtype=fused, requires_grad=True)
    expected = None
    if "hook" in name or name in ("own forward", "subclass"):
        expected = Plain(block)(x)
    hinder(block)
    assert words in block.hindrance(x)
    output = block(x, pending=True)
    assert isinstance(output, torch.Tensor)
    if expected is not None:
        close(output, expected)
    output.sum().backward()
    with use_backend("reference"):
        close(output, block(x), factor=2)
        assert "backend 'reference'" in block.hindrance(x) or words in block.hindrance(x)


def test_hooks_see_tensors(fused):
    """Activations can be looked at while the rest of the network hands on pending images."""
    net, seen = Net().to(fused), {}
    x = torch.randn(2, 3, 8, 8, dtype=fused)
    expected = PlainNet(net)(x)
    for name, module in net.named_modules():
        if name in ("down", "across.norm", "last"):
            module.register_forward_hook(lambda m, _, output, name=name: seen.update({name: output}))
    close(net(x), expected)
    assert all(isinstance(output, torch.Tensor) for output in seen.values()) and len(seen) == 3
    assert seen["down"].shape == (2, 8, 4, 4) and seen["down"].min() == 0
    handle = nn.modules.module.register_module_forward_hook(lambda m, _, o: seen.update({type(m): o}))
    try:
        net(x)
    finally:
        handle.remove()
    assert isinstance(seen[ConvBlock], torch.Tensor) and {MyConv2d, nn.BatchNorm2d} < set(seen)


def test_contexts(fused):
    """Whoever watches plain operators finds plain operators."""
    net = Net().to(fused)
    x = torch.randn(2, 3, 8, 8, dtype=fused)
    plain = PlainNet(net)
    says = []

    def call(x):
        says.append(net.down.hindrance(x))
        return net.eval()(x)

    plain.eval()
    close(torch.func.jacrev(lambda x: call(x).mean())(x), torch.func.jacrev(lambda x: plain(x).mean())(x))
    tangent = torch.randn_like(x)
    close(torch.func.jvp(call, (x,), (tangent,))[1], torch.func.jvp(plain, (x,), (tangent,))[1])
    with torch.autograd.forward_ad.dual_level():
        dual = call(torch.autograd.forward_ad.make_dual(x, tangent))
        assert torch.autograd.forward_ad.unpack_dual(dual).tangent is not None
    close(torch.vmap(call)(x[:, None])[:, 0], plain(x))
    with torch.autocast("cpu", torch.bfloat16):
        output = call(x)
    assert output.dtype == (torch.float64 if fused == torch.float64 else torch.bfloat16)
    net.requires_grad_(False)
    traced = torch.jit.trace(call, x, check_trace=False)
    close(traced(x + 1), plain(x + 1))
    words = ("torch.func", "torch.func", "forward-mode", "torch.func", "autocast", "trace")
    assert all(word in said for word, said in zip(words, says, strict=True))


@pytest.mark.parametrize("training", [True, False])
def test_compiled(training):
    """One graph, of unknown sizes, with gradients."""
    torch._dynamo.reset()
    net = Net().train(training)
    twin = PlainNet(net).train(training)
    call = torch.compile(net, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((2, 3, 8, 8), (3, 3, 4, 12)):
        x = torch.randn(size, requires_grad=True)
        outputs = call(x), twin(x)
        close(*outputs)
        for our, their in zip(
            *(torch.autograd.grad(o.square().mean(), [x, *n.parameters()])
              for o, n in zip(outputs, (net, twin), strict=True)), strict=True
        ):  # fmt: skip
            close(our, their)
    same_state(net, twin)


def test_symbolic_trace():
    """torch.fx records the plain modules, except that a convolution is one call."""
    block = ConvBlock(3, 4, resize="pool")
    traced = torch.fx.symbolic_trace(block, concrete_args={"skip": None})
    x = torch.randn(X)
    close(traced(x), block(x))
    assert "norm" in [node.target for node in traced.graph.nodes]


def test_inference_mode(fused):
    net, x = Net().to(fused), torch.randn(2, 3, 8, 8, dtype=fused)
    plain = PlainNet(net)
    with torch.inference_mode():
        close(net(x), plain(x))
        same_state(net, plain)
        close(net.eval()(x), plain.eval()(x))


def test_meta():
    net = Net().to("meta")
    for mode in (net.train(), net.eval()):
        output = mode(torch.empty(2, 3, 8, 6, device="meta"))
        assert output.shape == (2, 4, 8, 6) and output.is_meta
    assert "not torch.float32 on meta" in net.down.hindrance(torch.empty(2, 3, 8, 6, device="meta"))


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies(fused, way):
    net = Net().to(fused)
    x = torch.randn(2, 3, 8, 8, dtype=fused)
    net(x)
    with torch.no_grad():
        expected = net.eval()(x)
    keys = list(net.state_dict())
    if way == "deepcopy":
        other = copy.deepcopy(net)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(net))
    else:
        buffer = io.BytesIO()
        torch.save(net, buffer)
        buffer.seek(0)
        other = torch.load(buffer, weights_only=False)
    with torch.no_grad():
        assert torch.equal(other(x), expected)
        other.down.conv.weight.zero_()
        assert torch.equal(net(x), expected) and not torch.equal(other(x), expected)
    assert keys == list(other.state_dict()) == list(PlainNet(net).state_dict())


def test_bad_input(fused):
    """Refused as the plain modules refuse it, in the words of the convolution."""
    block = ConvBlock(3, 4, resize="pool", dtype=fused)
    x = torch.randn(1, 3, 4, 4, dtype=fused)
    with pytest.raises(RuntimeError, match="to have 3 channels, but got 4"):
        block(x, skip=x[:, :1])
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        ConvBlock(4, 4, dtype=fused)(x, skip=x[:, :1, :2])
    with pytest.raises(RuntimeError, match="Output size is too small"):
        block(torch.randn(2, 3, 1, 4, dtype=fused))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ConvBlock(3, 4, dtype=fused)(x[..., :1, :1])
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        ConvBlock(3, 4, padding=0, dtype=fused)(x[..., :2, :2])
    assert ConvBlock(3, 4, dtype=fused)(x[:0]).shape == (0, 4, 4, 4)


def test_explain_block(fused):
    block, x = ConvBlock(3, 4, dtype=fused), torch.randn(X, dtype=fused)
    backend = "native serves this block, fused: first choice on cpu"
    assert explain_block(block, x) == backend if fused == torch.float32 else "of the test" in explain_block(block, x)
    block.conv.dilation = (2, 2)
    block.conv.padding = (2, 2)
    text = explain_block(block, Pending(x))
    assert text.startswith("composed of plain modules: fused kernels have stride 1, dilation 1")
    assert "convolution: native serves this call" in text


def test_types_that_are_not_fused():
    """float64 and bfloat16 through the plain modules."""
    for dtype in (torch.float64, torch.bfloat16):
        block = ConvBlock(3, 4, dtype=dtype)
        x = torch.randn(X, dtype=dtype)
        assert str(dtype) in block.hindrance(x)
        torch.testing.assert_close(block(x), Plain(block)(x))
