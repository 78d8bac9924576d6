"""ConvBlock gives what the framework's modules give, in training and evaluation."""

import pytest
import torch
import torch.nn.functional as F
from block_modules import Net, Plain, PlainNet, close, same_state, warm
from torch import nn

from myconv2d import ConvBlock, MyConv2d, Pending, conv_concat

OPTIONS = [
    {},
    {"resize": "pool"},
    {"resize": "upsample"},
    {"bias": False, "resize": "pool"},
    {"padding": "valid"},
    {"padding": "same"},
    {"padding": 0, "resize": "pool"},
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


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


def test_vectors_with_gaps(fused):
    """Parameters, statistics and gradients of vectors that are views of something larger, or of something smaller."""
    ours = ConvBlock(3, 8, dtype=fused)
    for owner, name in ((ours.conv, "bias"), (ours.norm, "weight"), (ours.norm, "bias")):
        setattr(owner, name, nn.Parameter(torch.randn(16, dtype=fused)[::2]))
    ours.norm.running_mean, ours.norm.running_var = torch.rand(8, 2, dtype=fused).unbind(1)
    theirs, x = Plain(ours), torch.randn(2, 3, 6, 6, dtype=fused)
    outputs = ours(x), theirs(x)
    close(*outputs)
    grads = (
        torch.autograd.grad(output.square().sum(), module.parameters())
        for output, module in zip(outputs, (ours, theirs), strict=True)
    )
    for our, their in zip(*grads, strict=True):
        close(our, their, x.numel())
    same_state(ours, theirs)
    with torch.no_grad():
        assert ours.eval().hindrance(x) is None
        close(ours(x), theirs.eval()(x))
    _, *vectors, _ = pending = ours.train()(x, pending=True)
    apart = Pending(pending.tensor, *(torch.stack((v, v), 1)[:, 0] for v in vectors))
    close(apart.materialise(), pending.materialise())
    ones = torch.ones(8, dtype=fused), torch.ones(1, dtype=fused).expand(8)
    dense, expanded = (
        torch.autograd.grad(vectors, ours.conv.weight, (one, one), retain_graph=True) for one in ones
    )
    assert torch.equal(*dense, *expanded)


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
@pytest.mark.parametrize(
    "options", [*OPTIONS, {"norm": False}, {"activation": False, "resize": "pool"}], ids=str
)
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
    pairs = [
        (torch.autograd.grad(m(*inputs).square().sum(), [*inputs, *m.parameters()])) for m in (ours, theirs)
    ]
    for our, their in zip(*pairs, strict=True):
        close(our, their)
    ours.requires_grad_(False)
    frozen = [tensor.detach() for tensor in inputs]
    assert ours.hindrance(*frozen) is None
    close(ours(*frozen), theirs(*frozen))


@pytest.mark.parametrize("resize", [None, "pool", "upsample"])
def test_one_picture(resize):
    """Without a batch, where there is no batch norm, which refuses that; with a skip or without."""
    block = ConvBlock(5, 4, norm=False, resize=resize)
    x, skip = torch.randn(3, 6, 8), torch.randn(2, 6, 8)
    close(block(x, skip), block(x[None], skip[None])[0])
    close(block(torch.cat((x, skip))), block(x[None], skip[None])[0])


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


@pytest.mark.parametrize("eps", [0.0, -1e-5])
def test_an_eps_that_is_not_positive_is_the_framework_s_affair(eps):
    """Newer versions refuse it in training."""
    block, image = ConvBlock(3, 8), torch.randn(2, 3, 8, 8)
    block.norm.eps = eps
    assert "eps" in (block.hindrance(image) or "")
    try:
        expected = F.relu(block.norm(block.conv(image)))
    except ValueError as error:
        with pytest.raises(ValueError) as raised:
            block(image)
        assert str(raised.value) == str(error)
    else:
        torch.testing.assert_close(block(image), expected, equal_nan=True)
