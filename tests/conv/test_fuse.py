"""fuse() changes how fast a model of nn.Sequential is, and nothing else."""

import copy
import pickle

import pytest
import torch
from block_modules import close, same_state
from torch import nn

import myconv2d
from myconv2d import FusedSequential, MyConv2d, fuse


def conv(c, k, size=3, **options):
    return nn.Conv2d(c, k, size, padding=size // 2, **options)


MODELS = {
    "block": lambda: nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
    "two blocks": lambda: nn.Sequential(
        *(conv(3, 8, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        *(conv(8, 6, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True)),
    ),
    "down and up": lambda: nn.Sequential(
        *(conv(3, 8), nn.BatchNorm2d(8), nn.MaxPool2d((2, 2), stride=2), nn.ReLU()),
        *(conv(8, 5), nn.BatchNorm2d(5), nn.ReLU(), nn.Upsample(scale_factor=2)),
        conv(5, 4),
    ),
    "up first": lambda: nn.Sequential(
        *(conv(3, 8), nn.BatchNorm2d(8), nn.UpsamplingNearest2d(scale_factor=2), nn.ReLU()),
        *(conv(8, 2, 1), nn.BatchNorm2d(2), nn.ReLU()),
    ),
    "others between": lambda: nn.Sequential(
        *(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.0)),
        *(conv(8, 8, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Sequential(conv(8, 4), nn.BatchNorm2d(4), nn.ReLU()), nn.Flatten(), nn.LazyLinear(3)),
    ),
    "not quite": lambda: nn.Sequential(
        *(conv(3, 8), nn.BatchNorm2d(8), nn.LeakyReLU(0.1), nn.MaxPool2d(3, 2, 1)),
        *(conv(8, 8), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True), nn.Upsample(scale_factor=2, mode="bilinear")),
        *(conv(8, 8, groups=2), nn.BatchNorm2d(8, affine=False), nn.ReLU(), nn.Upsample((9, 9)), nn.ReLU()),
    ),
    "nested": lambda: nn.Sequential(
        nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Sequential(conv(8, 8), nn.BatchNorm2d(8)), nn.ReLU()),
        nn.Sequential(nn.Upsample(scale_factor=2), conv(8, 4)),
    ),
    "no norm": lambda: nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8, 5), nn.MaxPool2d(2), nn.ReLU(), conv(8, 1)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def pair(name, dtype=torch.float32, memory_format=torch.contiguous_format):
    """A model, fused, and as it was."""
    plain = MODELS[name]().to(dtype)
    plain(torch.rand(2, 3, 12, 12, dtype=dtype))
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    plain = plain.to(memory_format=memory_format)
    fused = fuse(copy.deepcopy(plain))
    assert type(fused) is FusedSequential
    return fused, plain


def layout(image):
    return [
        image.is_contiguous(memory_format=f)
        for f in (torch.contiguous_format, torch.channels_last)
        if image.dim() == 4
    ]


@pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"]
)
@pytest.mark.parametrize("name", MODELS)
def test_training(fused, name, memory_format):
    """Outputs, their layout, gradients and running statistics over several steps; then in evaluation."""
    ours, theirs = pair(name, fused, memory_format)
    optimisers = [torch.optim.SGD(m.parameters(), 0.05) for m in (ours, theirs)]
    for _ in range(3):
        x = torch.randn(3, 3, 12, 12, dtype=fused).to(memory_format=memory_format)
        grads = []
        for module, optimiser in zip((ours, theirs), optimisers, strict=True):
            input = x.clone().requires_grad_()
            optimiser.zero_grad()
            output = module(input)
            (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
            grads.append([output, input.grad, *(parameter.grad for parameter in module.parameters())])
            optimiser.step()
        assert layout(grads[0][0]) == layout(grads[1][0])
        largest = max(grad.abs().max().item() for grad in grads[1])
        for our, their in zip(*grads, strict=True):
            close(our, their, max(largest, 1))
        same_state(ours, theirs)
        theirs.load_state_dict(ours.state_dict())  # rounding must not add up: a ReLU may turn on it
    with torch.no_grad():
        our, their = ours.eval()(x), theirs.eval()(x)
    assert layout(our) == layout(their)
    close(our, their)


NCHW, NHWC = torch.contiguous_format, torch.channels_last


@pytest.mark.parametrize(("model_format", "format", "between"), [
    (NCHW, NCHW, 1), (NCHW, NCHW, 6), (NCHW, NHWC, 6), (NHWC, NCHW, 6), (NHWC, NHWC, 6),
])  # fmt: skip
def test_layout_of_grey_pictures(model_format, format, between):
    """Of one channel, strides alone tell one layout from the other: the framework goes by these."""
    model = nn.Sequential(conv(1, 4), nn.ReLU(), nn.MaxPool2d(2), conv(4, between), nn.ReLU(), conv(between, 3))
    model, x = model.to(memory_format=model_format), torch.rand(2, 1, 8, 6).contiguous(memory_format=format)
    for last in range(1, len(model) + 1):
        plain = model[:last]
        with torch.no_grad():
            assert fuse(copy.deepcopy(plain))(x).stride() == plain(x).stride(), last


def test_layout_after_batch_norm_of_one_channel():
    model = nn.Sequential(conv(8, 1), nn.BatchNorm2d(1), nn.ReLU(), conv(1, 3), nn.BatchNorm2d(3), nn.ReLU())
    x = torch.rand(2, 8, 6, 6).contiguous(memory_format=NHWC)
    for last in (3, 6):
        plain = model[:last]
        assert fuse(copy.deepcopy(plain))(x).stride() == plain(x).stride(), last


def test_lazy_modules():
    model = fuse(nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU()))
    x = torch.rand(2, 3, 8, 8)
    model(x)
    assert model.explain(x) == "0 to 2: fused, by native"


def test_what_is_fused():
    model = fuse(MODELS["down and up"]())
    x = torch.rand(2, 3, 8, 8)
    assert model.explain(x).splitlines() == [
        "0 to 3: fused, by native",
        "4 to 7: fused, by native",
        "8: plain modules: gradients through running statistics, or without batch norm",
    ]
    with torch.no_grad():
        assert model.explain(x).count("fused, by native") == 3
        assert "autocast" in explained_under(torch.autocast("cpu", torch.bfloat16), model, x)
    model[1].register_forward_hook(lambda *_: None)
    model[6].register_forward_pre_hook(lambda *_: None)
    assert "0 to 3: plain modules: hooks on BatchNorm2d see plain tensors" in model.explain(x)
    assert "4 to 7: plain modules: hooks on ReLU see plain tensors" in model.explain(x)
    assert model[1].num_batches_tracked == 0  # explain() runs a copy
    assert "0: plain modules: Flatten is no part of a block" in fuse(
        nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (8, 8)), conv(3, 3))
    ).explain(x)


def test_nested_sequentials_are_one():
    model, x = fuse(MODELS["nested"]()), torch.rand(2, 3, 8, 8)
    said = ["0.0 to 0.3: fused, by native", "1.0.0 to 2.0: fused, by native"]
    assert model.explain(x).splitlines()[:2] == said
    seen = []
    model[1].register_forward_hook(lambda *_: seen.append(1))
    assert model.explain(x).splitlines()[1] == "1: plain modules: FusedSequential is no part of a block"
    assert len(seen) == 1


def explained_under(context, model, x):
    with context:
        return model.explain(x)


def test_the_last_convolution_reads_what_is_not_computed(monkeypatch):
    """Also in training: nothing is enlarged or activated before it."""
    calls = []
    monkeypatch.setattr(myconv2d.Pending, "materialise", lambda *_: calls.append(1))
    fuse(MODELS["down and up"]())(torch.rand(2, 3, 8, 8))
    assert not calls


def test_only_exact_classes_change():
    class Mine(nn.Sequential):
        pass

    model = nn.ModuleDict({
        "mine": Mine(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU()),
        "none": nn.Sequential(nn.Linear(3, 3)),
        "deep": nn.Sequential(nn.Sequential(conv(3, 4)), nn.ReLU()),
        "other": nn.Sequential(nn.ModuleList([conv(3, 4)])),
    })  # fmt: skip
    assert fuse(model) is model
    assert type(model["mine"]) is Mine and type(model["mine"][0]) is MyConv2d
    assert type(model["none"]) is type(model["other"]) is nn.Sequential
    assert type(model["deep"]) is type(model["deep"][0]) is FusedSequential


def test_it_stays_a_sequential():
    """Slices, appended, replaced and deleted modules, copies and pickles."""
    ours, theirs = pair("down and up")
    x = torch.rand(2, 3, 8, 8)
    for model in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        close(model(x), theirs(x))
    close(ours[:4](x), theirs[:4](x))
    for model in (ours, theirs):
        model[2] = nn.MaxPool2d(3, 3)
        del model[7]
        model.append(nn.Sigmoid())
    close(ours(x), theirs(x))
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_hooks_see_what_they_saw():
    ours, theirs = pair("down and up")
    x, seen = torch.rand(2, 3, 8, 8), []
    for model in (ours, theirs):
        for module in model:
            module.register_forward_hook(lambda _, inputs, output: seen.append(output))
        model(x)
    half = len(seen) // 2
    assert half == len(theirs)
    for our, their in zip(seen[:half], seen[half:], strict=True):
        close(our, their)


def test_transforms_and_second_derivatives():
    ours, theirs = pair("down and up")
    x = torch.randn(2, 3, 8, 8)

    def second(model):
        input = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(model(input).square().sum(), input, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), input)[0]

    their = second(theirs)
    close(second(ours), their, max(their.abs().max().item(), 1))
    ours.eval(), theirs.eval()
    close(torch.func.grad(lambda x: ours(x).sum())(x), torch.func.grad(lambda x: theirs(x).sum())(x))
    with torch.no_grad():
        close(torch.jit.trace(ours, x)(x), theirs(x))


def test_exported():
    ours, theirs = pair("down and up")
    x = torch.randn(2, 3, 8, 8)
    program = torch.export.export(ours.eval(), (x,))
    close(program.module()(x), theirs.eval()(x))


@pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"]
)
def test_frozen(memory_format):
    ours, theirs = pair("down and up")
    x = torch.randn(2, 3, 8, 8).to(memory_format=memory_format)
    with torch.no_grad():
        close(myconv2d.freeze(ours, x)(x), theirs.eval()(x))


def test_inputs_that_are_no_batch_of_pictures():
    ours, theirs = (m.eval() for m in pair("no norm"))
    close(ours(torch.ones(3, 8, 8)), theirs(torch.ones(3, 8, 8)))
    for x in (
        torch.ones(2, 4, 8, 8),
        torch.ones(2, 3, 0, 8),
        torch.ones(3),
        torch.ones(2, 3, 8, 8).int(),
        None,
    ):
        errors = []
        for model in (ours, theirs):
            with pytest.raises((RuntimeError, TypeError, AttributeError)) as error:
                model(x)
            errors.append(error.type)
        assert errors[0] is errors[1]
