"""ConvBlock gives what the framework's modules give, fused or composed; and says which of the two it does."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from myconv2d import ConvBlock, MyConv2d, Pending, conv_concat, explain_block, use_backend

BOUND = {torch.float64: 1e-10, torch.float32: 1e-4}  # of the largest value, after several layers and steps
OPTIONS = [
    {},
    {"resize": "pool"},
    {"resize": "upsample"},
    {"bias": False, "resize": "pool"},
    {"padding": "valid"},
    {"padding": "same"},
    {"padding": 0, "resize": "pool"},
]


class Plain(nn.Module):
    """A ConvBlock of the framework's own modules, with the same state dict."""

    def __init__(self, block):
        super().__init__()
        conv, self.resize, self.activation = block.conv, block.resize, block.activation
        sizes = conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding
        self.conv = nn.Conv2d(*sizes, bias=conv.bias is not None, dtype=conv.weight.dtype)
        self.norm = copy.deepcopy(block.norm)
        self.load_state_dict(block.state_dict())
        self.train(block.training)

    def forward(self, input, skip=None):
        x = self.conv(input if skip is None else torch.cat((input, skip), 1))
        x = x if self.norm is None else self.norm(x)
        x = F.relu(x) if self.activation else x
        if self.resize == "pool":
            return F.max_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2) if self.resize == "upsample" else x


class Net(nn.Module):
    """Down, up with a skip, and a last convolution that reads the input too."""

    def __init__(self, kind=ConvBlock):
        super().__init__()
        self.down = ConvBlock(3, 8, resize="pool")
        self.up = ConvBlock(8, 6, resize="upsample")
        self.across = ConvBlock(6 + 3, 8)
        self.last = MyConv2d(8 + 3, 4, 3, padding=1)

    def forward(self, input):
        x = self.up(self.down(input, pending=True), pending=True)
        return conv_concat(self.last, self.across(x, input, pending=True), input)


class PlainNet(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.down, self.up, self.across = Plain(net.down), Plain(net.up), Plain(net.across)
        self.last = nn.Conv2d(11, 4, 3, padding=1, dtype=net.last.weight.dtype)
        self.load_state_dict(net.state_dict())

    def forward(self, input):
        x = self.across(self.up(self.down(input)), input)
        return self.last(torch.cat((x, input), 1))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def close(ours, theirs, factor=1.0):
    bound = BOUND[ours.dtype] * factor
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= bound * max(theirs.abs().max(), 1)


def warm(block, *inputs):
    """Parameters and running statistics that are not the initial ones."""
    if block.norm is not None:
        nn.init.normal_(block.norm.weight)
        nn.init.normal_(block.norm.bias)
    for _ in range(2):
        block(*inputs)
    return block


def same_state(ours, theirs):
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for one, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        close(one, other) if one.is_floating_point() else torch.testing.assert_close(one, other)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_training(fused, options, skip):
    """Outputs, gradients and running statistics over several steps of an optimiser."""
    ours = ConvBlock(3 + 2 * skip, 8, **options, dtype=fused)
    theirs = Plain(ours)
    optimisers = [torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (ours, theirs)]
    for _ in range(4):
        inputs = [torch.randn(3, c, 9, 8, dtype=fused, requires_grad=True) for c in (3, 2)[: 1 + skip]]
        assert ours.hindrance(*inputs) is None
        outputs, grads = [], []
        for module, optimiser in zip((ours, theirs), optimisers, strict=True):
            optimiser.zero_grad()
            output = module(*inputs)
            torch.manual_seed(1)
            loss = (output * torch.randn(output.shape).to(output)).sum()
            grads.append(torch.autograd.grad(loss, [*inputs, *module.parameters()]))
            for parameter, grad in zip(module.parameters(), grads[-1][len(inputs) :], strict=True):
                parameter.grad = grad
            outputs.append(output)
            optimiser.step()
        close(*outputs)
        largest = max(g.abs().max().item() for g in grads[1])
        for our, their in zip(*grads, strict=True):
            close(our, their, max(largest, 1))
        same_state(ours, theirs)
        theirs.load_state_dict(ours.state_dict())  # rounding must not add up: a ReLU may turn on it


@pytest.mark.parametrize(
    "change",
    [
        {"momentum": None},
        {"momentum": 0.0},
        {"momentum": 1.0},
        {"eps": 0.5},
        {"num_batches_tracked": None},
        {"track_running_stats": False},
        {"running_mean": None, "running_var": None},
    ],
    ids=str,
)
def test_batch_norms(fused, change):
    """Momentum, running statistics or none: what nn.BatchNorm2d does, in training and evaluation."""
    ours = ConvBlock(3, 8, dtype=fused)
    for name, value in change.items():
        setattr(ours.norm, name, value)
    theirs = Plain(ours)
    for _ in range(3):
        x = torch.randn(2, 3, 6, 6, dtype=fused)
        assert ours.hindrance(x) is None
        close(ours(x), theirs(x))
    same_state(ours, theirs)
    with torch.no_grad():
        assert ours.eval().hindrance(x) is None
        close(ours(x), theirs.eval()(x))
    same_state(ours, theirs)
    ours.train(), theirs.train()
    ours.norm.eval(), theirs.norm.eval()  # frozen statistics in a network that trains
    close(ours(x), theirs(x))
    same_state(ours, theirs)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("options", [*OPTIONS, {"norm": False}, {"activation": False, "resize": "pool"}], ids=str)
def test_evaluation(fused, options, skip):
    """Without gradients batch norm is folded into the convolution; with them the plain modules serve."""
    inputs = [torch.randn(3, c, 9, 8, dtype=fused) for c in (3, 2)[: 1 + skip]]
    ours = warm(ConvBlock(3 + 2 * skip, 8, **options, dtype=fused), *inputs).eval()
    theirs = Plain(ours)
    with torch.no_grad():
        assert ours.hindrance(*inputs) is None
        close(ours(*inputs), theirs(*inputs))
    for tensor in inputs:
        tensor.requires_grad_()
    assert "gradients" in ours.hindrance(*inputs)
    pairs = [(torch.autograd.grad(m(*inputs).square().sum(), [*inputs, *m.parameters()])) for m in (ours, theirs)]
    for our, their in zip(*pairs, strict=True):
        close(our, their)
    ours.requires_grad_(False)
    frozen = [tensor.detach() for tensor in inputs]
    assert ours.hindrance(*frozen) is None
    close(ours(*frozen), theirs(*frozen))


def edits():
    def step(block, x):
        optimiser = torch.optim.Adam(block.parameters(), 0.1, fused=True)
        block.train()(x).square().sum().backward()
        optimiser.step()

    def load(block, x):
        block.load_state_dict({k: v + 1 for k, v in block.state_dict().items()})

    def statistics(block, x):
        block.train()(x * 3)

    @torch.no_grad()
    def in_place(block, x):
        block.conv.weight.mul_(2)

    def data(block, x):
        block.conv.weight.data.mul_(2)
        block.norm.running_var.data.add_(1)

    def replaced(block, x):
        block.conv.bias = nn.Parameter(torch.ones_like(block.conv.bias))

    def eps(block, x):
        block.norm.eps = 1.0

    return [step, load, statistics, in_place, data, replaced, eps]


@pytest.mark.parametrize("edit", edits(), ids=lambda edit: edit.__name__)
def test_evaluation_after_changes(fused, edit):
    """Nothing of an earlier evaluation is left in the next one."""
    x = torch.randn(2, 3, 6, 6, dtype=fused)
    block = warm(ConvBlock(3, 8, dtype=fused), x).eval()
    with torch.no_grad():
        before = block(x)
    edit(block, x)
    with torch.no_grad():
        after = block.eval()(x)
        assert (after - before).abs().max() > 1e-3
        close(after, Plain(block)(x))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
def test_network(fused, size, training):
    """Pending images from block to block: losses, gradients and statistics are those of plain modules."""
    ours = Net().to(fused)
    theirs = PlainNet(ours)
    if training:
        for _ in range(3):
            x = torch.randn(4, 3, *size, dtype=fused, requires_grad=True)
            outputs = ours(x), theirs(x)
            close(*outputs)
            pairs = [
                torch.autograd.grad(output.square().mean(), [x, *net.parameters()])
                for output, net in zip(outputs, (ours, theirs), strict=True)
            ]
            for our, their in zip(*pairs, strict=True):
                close(our, their)
        same_state(ours, theirs)
    ours.eval(), theirs.eval()
    with torch.no_grad():
        x = torch.randn(4, 3, *size, dtype=fused)
        close(ours(x), theirs(x))


def test_second_derivatives(fused):
    ours = Net().to(fused)
    x = torch.randn(2, 3, 8, 8, dtype=fused, requires_grad=True)
    results = []
    for net in (ours, PlainNet(ours)):
        (first,) = torch.autograd.grad(net(x).square().mean(), x, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), [x, *net.parameters()], materialize_grads=True,
                                           allow_unused=True))  # fmt: skip
    for our, their in zip(*results, strict=True):
        close(our, their)


def test_pending(fused):
    """What stands for an image has its shape and becomes it."""
    block = ConvBlock(3, 8, resize="upsample", dtype=fused)
    x = torch.randn(2, 3, 6, 5, dtype=fused)
    truth = Plain(block)
    image = block(x, pending=True)
    assert isinstance(image, Pending) and image.upsample and image.tensor.shape == (2, 8, 6, 5)
    assert image.shape == (2, 8, 12, 10)
    close(image.materialise(), truth(x))
    assert isinstance(block(x), torch.Tensor)
    assert Pending(x).materialise() is x
    torch.testing.assert_close(Pending(x, upsample=True).materialise(), F.interpolate(x, scale_factor=2))
    with torch.no_grad():  # of a block that trains, to one that does not
        after = warm(ConvBlock(8, 4, dtype=fused), image).eval()
        close(after(image), Plain(after)(image.materialise()))
        conv = MyConv2d(8, 4, 3, padding=1, dtype=fused)
        close(conv_concat(conv, image), F.conv2d(image.materialise(), conv.weight, conv.bias, padding=1))


X = (2, 3, 6, 6)
HINDRANCES = {
    "stride": (lambda b: setattr(b.conv, "stride", (2, 2)), "stride 1"),
    "dilation": (lambda b: setattr(b.conv, "dilation", (2, 2)), "dilation 1"),
    "hook": (lambda b: b.register_forward_hook(lambda *a: None), "hooks on ConvBlock"),
    "inner hook": (lambda b: b.norm.register_forward_pre_hook(lambda *a: None), "hooks on BatchNorm2d"),
    "backward hook": (lambda b: b.conv.register_full_backward_hook(lambda *a: None), "hooks on MyConv2d"),
    "own forward": (lambda b: setattr(b.conv, "forward", b.conv.forward), "hooks on MyConv2d"),
    "subclass": (lambda b: setattr(b.norm, "__class__", type("Own", (nn.BatchNorm2d,), {})), "Own in place of"),
    "weight norm": (lambda b: parametrizations.weight_norm(b.conv), "ParametrizedMyConv2d in place of"),
    "pruned": (lambda b: prune.l1_unstructured(b.conv, "weight", 0.3), "hooks on MyConv2d"),
    "not affine": (lambda b: setattr(b.norm, "weight", None) or setattr(b.norm, "bias", None), "without scale"),
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
    assert explain_block(block, x) == "native serves this block, fused"
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
