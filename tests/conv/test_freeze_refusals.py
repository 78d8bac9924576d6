"""freeze() refuses by name what cannot be recorded or replayed, when it is made and when it is called."""

import pytest
import torch
import torch.nn.functional as F
from freezing import Uses, needs_native, network, pictures
from torch import nn
from torch.autograd import forward_ad

import myconv2d
from myconv2d import ConvBlock, MyConv2d, freeze, native, use_backend

pytestmark = needs_native


def _by_value(self, input):
    return self.layer(input) if input.sum() > 0 else self.layer(-input)


def _random_weight(self, input):
    return myconv2d.conv2d(input, torch.ones(1, 1, 3, 3))


def _twice(image):
    return F.interpolate(image, scale_factor=2)


@pytest.mark.parametrize(
    "work, words",
    [
        (lambda self, x: F.relu(self.layer(x)), "aten.relu"),
        (lambda self, x: self.layer(x).sigmoid(), "aten.sigmoid"),
        (lambda self, x: self.layer(x) + 1, "aten.add"),
        (lambda self, x: self.layer(x).mul_(2), "aten.mul_"),
        (lambda self, x: self.layer(F.pad(x, (1, 1, 1, 1))), "aten.constant_pad_nd"),
        (lambda self, x: F.interpolate(self.layer(x), scale_factor=2), "enlarges an image that no fused"),
        (lambda self, x: self.layer(F.interpolate(x, scale_factor=3)), "aten.upsample_nearest2d"),
        (lambda self, x: self.layer(F.interpolate(x, scale_factor=(2, 1))), "aten.upsample_nearest2d"),
        (lambda self, x: self.layer(F.interpolate(x, scale_factor=2, mode="bilinear")), "aten.upsample_bilinear2d"),
        (lambda self, x: self.layer(_twice(_twice(x))), "more than twice"),
        (lambda self, x: F.conv2d(x, self.layer.weight), "aten.convolution"),
        (_by_value, "aten.sum"),
        (_random_weight, "aten.ones"),
        (lambda self, x: self.layer(x * (x.max().item() > 0)), "aten.max"),
        (lambda self, x: self.layer(torch.from_numpy(x.numpy().copy())), "Tensor.numpy"),
        (lambda self, x: self.layer(x) if x.tolist()[0] else None, "Tensor.tolist"),
        (lambda self, x: (self.layer(x), x), "tuple where only"),
        (lambda self, x: x, "gives its input back"),
        (lambda self, x: self.layer.weight, "where only the input"),
        (lambda self, x: self.layer(x)[:, 1:], "some of the batch, of the channels"),
        (lambda self, x: self.layer(x)[..., ::2], "every few pixels"),
    ],
)
def test_what_cannot_be_recorded_is_named(work, words):
    with pytest.raises(RuntimeError, match=r"freeze\(\): .*" + words.replace(".", r"\.")):
        freeze(Uses(work), pictures(1, 1, 8, 8))


def test_weights_from_elsewhere_are_refused():
    stray = torch.ones(1, 1, 3, 3)
    with pytest.raises(RuntimeError, match="neither a parameter nor a buffer"):
        freeze(Uses(lambda self, x: myconv2d.conv2d(x, stray)), pictures(1, 1, 8, 8))


def test_batch_statistics_are_refused():
    model = nn.Sequential(ConvBlock(1, 8))
    model[0].norm = nn.BatchNorm2d(8, track_running_stats=False)
    with pytest.raises(RuntimeError, match="statistics of the batch"):
        freeze(model, pictures(2, 1, 8, 8))


def test_a_batch_norm_that_is_not_fused_is_named():
    with pytest.raises(RuntimeError, match=r"the network calls aten\.native_batch_norm"):
        freeze(nn.Sequential(MyConv2d(1, 8, 1), nn.BatchNorm2d(8)), pictures(1, 1, 8, 8))


def test_what_the_network_refuses_it_says_itself():
    """Not that it called, on the way there, what cannot be recorded."""
    frozen = freeze(nn.Sequential(ConvBlock(1, 8, resize="pool")), pictures(1, 1, 8, 8))
    with pytest.raises(RuntimeError, match="Output size is too small"):
        frozen(pictures(1, 1, 1, 1))


def test_hooks_see_plain_modules_and_so_are_refused():
    model = network()
    model.rfconv.conv.register_forward_hook(lambda *args: None)
    with pytest.raises(RuntimeError, match="aten"):
        freeze(model, pictures(1, 1, 8, 8))


def test_a_program_that_differs_from_its_network_is_refused(monkeypatch):
    from myconv2d import recording

    fold = recording._folded
    monkeypatch.setattr(recording, "_folded", lambda *args: (fold(*args)[0], fold(*args)[1] + 0.1))
    with pytest.raises(RuntimeError, match="differs from the network by"):
        freeze(network(), pictures(1, 1, 16, 16))


@pytest.mark.parametrize(
    "bad", [pictures(1, 8, 8), pictures(1, 1, 8, 8).double(), torch.empty(1, 1, 8, 8, device="meta"), [1.0]]
)
def test_bad_inputs(bad):
    with pytest.raises(TypeError, match="a frozen network takes"):
        freeze(network(), bad)
    frozen = freeze(network(), pictures(1, 1, 8, 8))
    with pytest.raises(TypeError, match="a frozen network takes"):
        frozen(bad)


def test_the_same_shape_of_another_type():
    frozen = freeze(network(), pictures(1, 1, 8, 8))
    for bad in (pictures(1, 1, 8, 8).double(), torch.empty(1, 1, 8, 8, device="meta")):
        with pytest.raises(TypeError, match="float32"):
            frozen(bad)


def test_no_derivatives():
    frozen, input = freeze(network(), pictures(1, 1, 8, 8)), pictures(1, 1, 8, 8).requires_grad_()
    with pytest.raises(RuntimeError, match="no derivatives"):
        frozen(input)
    with torch.no_grad():
        assert not frozen(input).requires_grad


@pytest.mark.parametrize("transform", [
    lambda f, x: torch.func.jvp(f, (x,), (x,)),
    lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
    lambda f, x: torch.func.vmap(f)(x[None]),
], ids=["jvp", "grad", "vmap"])  # fmt: skip
def test_no_transforms(transform):
    """… which would find a derivative of zero."""
    input = pictures(1, 1, 8, 8)
    frozen = freeze(network(), input)
    with pytest.raises(RuntimeError, match=r"no derivatives|cannot be transformed by torch\.func"):
        transform(frozen, input)
    with forward_ad.dual_level():
        assert frozen(input).shape == (1, 24, 8, 8)
        with pytest.raises(RuntimeError, match="no derivatives"):
            frozen(forward_ad.make_dual(input, input))


def test_no_module_and_no_library(monkeypatch):
    with pytest.raises(TypeError, match=r"must be an nn\.Module, got function"):
        freeze(lambda x: x, pictures(1, 1, 8, 8))
    with use_backend("reference"), pytest.raises(RuntimeError, match="not by 'reference'"):
        freeze(network(), pictures(1, 1, 8, 8))
    monkeypatch.setattr(native.cpu, "problem", "it was not built")
    with pytest.raises(RuntimeError, match="it was not built"):
        freeze(network(), pictures(1, 1, 8, 8))


def test_a_program_out_of_bounds_is_refused_natively():
    frozen, input = freeze(network(), pictures(1, 1, 8, 8)), pictures(1, 1, 8, 8)
    program = frozen._programs[input.shape]
    for column, value in [
        (0, 9),
        (1, 7),
        (3, 90),
        (5, 0),
        (5, 10**6),
        (10, 2**60),
        (14, 0),
        (17, 10**9),
        (18, 10**9),
        (19, 10**9),
    ]:
        steps = program.steps.clone()
        steps[1, column] = value
        with pytest.raises(RuntimeError, match="myconv2d"):
            torch.ops.myconv2d.replay(input, steps, program.constants)


def test_sizes_that_overflow_are_refused_natively():
    """An image of 2⁶² channels that nothing reads; its elements, and its weights, are 0 modulo 2⁶⁴."""
    frozen, input = freeze(network(), pictures(1, 1, 8, 8)), pictures(1, 1, 8, 8)
    program = frozen._programs[input.shape]
    steps = program.steps.clone()
    steps[2, 5], steps[2, 18] = 2**62, -1  # without a bias
    steps[3:, 1:4] = torch.tensor([0, 0, -1])
    with pytest.raises(RuntimeError, match="myconv2d: a weight of a program is too large"):
        torch.ops.myconv2d.replay(input, steps, program.constants)
