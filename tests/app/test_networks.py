"""The networks are those of the handout, for pictures of any size."""

import copy
import math

import pytest
import torch

from colourize import networks
from colourize.colour import upscale
from colourize.files import UserError
from myconv2d import ConvBlock, MyConv2d, block_operators, use_backend


@pytest.mark.parametrize(
    ("name", "settings", "parameters"),
    [
        ("regression-cnn", {}, 75_549),
        ("cnn", {}, 86_784),
        ("cnn", {"bottleneck": 3}, 76_137),
        ("unet", {}, 112_344),
        ("cnn", {"in_channels": 3}, 87_360),
        ("unet", {"in_channels": 3}, 113_352),
        ("dilated-unet", {}, 112_344),
        ("pool-upsample", {}, 86_784),
        ("conv-transpose", {}, 86_784),
        ("conv-transpose-unet", {}, 112_344),
    ],
)
def test_parameters_of_the_handout(name, settings, parameters):
    network = networks.create(name, **settings)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("name", networks.HANDOUT)
def test_built_from_our_convolution(name):
    children = dict(networks.create(name).named_children())
    assert [*children] == ["downconv1", "downconv2", "rfconv", "upconv1", "upconv2", "finalconv"]
    assert type(children.pop("finalconv")) is MyConv2d
    assert all(type(block) is ConvBlock for block in children.values())


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
@pytest.mark.parametrize("name", ["unet", "conv-transpose", "colour-unet"])
def test_mean_with_the_mirror_image(name, size):
    """… in evaluation alone. Where the width is no multiple of 4 both are of the picture with its repeated border."""
    network = networks.create(name, filters=4).eval()
    picture = torch.rand(2, 1, *size)
    wide = torch.nn.functional.pad(picture, (0, -size[1] % 4, 0, -size[0] % 4), mode="replicate")
    expected = (network(wide) + network(wide.flip(-1)).flip(-1))[..., : size[0], : size[1]] / 2
    network.mirror = True
    torch.testing.assert_close(network(picture), expected)
    assert not torch.allclose(expected, network.train()(picture), atol=1e-3)


@pytest.mark.parametrize("name", networks.NAMES)
def test_no_convolution_of_the_framework(name):
    kinds = {type(module) for module in networks.create(name).modules()}
    assert not kinds & {torch.nn.Conv2d, torch.nn.ConvTranspose2d}


SAME_SIZE = [name for name in networks.NAMES if not networks.enlarges(name)]


@pytest.mark.parametrize("name", SAME_SIZE)
@pytest.mark.parametrize("size", [(1, 1), (2, 7), (8, 8), (33, 30)])
def test_any_size(name, size):
    network = networks.create(name, filters=4).eval()
    output = network(torch.rand(2, 1, *size))
    assert output.shape == (2, 3 if name == "regression-cnn" else 24, *size)
    assert output.isfinite().all()


def test_padding_repeats_the_border():
    network = networks.create("unet", filters=4).eval()
    picture = torch.rand(1, 1, 6, 9)
    padded = torch.nn.functional.pad(picture, (0, 3, 0, 2), mode="replicate")
    torch.testing.assert_close(network(picture), network(padded)[..., :6, :9])


def results(network, picture):
    """Output, its loss's gradients, and the buffers, after a step of training; and the output of evaluation."""
    picture = picture.clone().requires_grad_()
    output = network.train()(picture)
    gradients = torch.autograd.grad(output.square().mean(), [picture, *network.parameters()])
    with torch.no_grad():
        evaluated = network.eval()(picture)
    return [output, evaluated, *gradients, *(b.clone() for b in network.buffers() if b.is_floating_point())]


@pytest.mark.parametrize("fused", ["reference", "native"])
@pytest.mark.parametrize("name", SAME_SIZE)
@pytest.mark.parametrize("size", [(16, 16), (13, 10)])
def test_blocks_fused_and_composed(name, size, fused, monkeypatch):
    """Pending images change nothing: within 1e-9 of the largest value in float64, 1e-3 in float32.

    (What is behind batch norm and ReLU passes errors of 1e-6 on some hundredfold, through six layers.)
    """
    if fused == "native" and block_operators.unavailable() is not None:
        pytest.skip(block_operators.unavailable())
    torch.manual_seed(0)
    network = networks.create(name, filters=8)
    picture = torch.rand(6, 1, *size)
    with use_backend("reference"):  # whose blocks are composed of plain modules
        composed = results(copy.deepcopy(network).double(), picture.double())
    if fused == "reference":
        network, picture = network.double(), picture.double()
        monkeypatch.setattr(block_operators, "choose", lambda *tensors, wanted: ("reference", "of the test"))
    if "dilated" not in name and "transpose" not in name:
        assert all(b.hindrance(picture[:, :1].expand(-1, b.conv.in_channels, -1, -1)) is None
                   for b in network.children() if type(b) is ConvBlock)  # fmt: skip
    bound = 1e-9 if fused == "reference" else 1e-3
    largest = max(t.abs().max() for t in composed[2:-1])
    for ours, theirs in zip(results(network, picture), composed, strict=True):
        assert (ours.double() - theirs).abs().max() <= bound * max(theirs.abs().max(), 0.1 * largest)


def test_activations_can_be_looked_at():
    """A hook on any layer sees the layer's output as a tensor, whatever the others hand on."""
    network, seen = networks.create("unet", filters=4), {}
    for name, layer in network.named_children():
        layer.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output.shape[1:]}))
        layer.register_forward_hook(lambda _, __, output: output.relu())
    network(torch.rand(2, 1, 8, 8))
    sizes = [(4, 4, 4), (8, 2, 2), (8, 2, 2), (4, 4, 4), (24, 8, 8), (24, 8, 8)]
    assert list(map(tuple, seen.values())) == sizes


def test_skips_reach_the_output():
    """With everything at the bottom silenced, a UNet still tells pictures apart; a CNN cannot."""
    for name, differs in (("unet", True), ("cnn", False)):
        network = networks.create(name, filters=4).eval()
        torch.nn.init.zeros_(network.rfconv.norm.weight)
        first, second = network(torch.rand(1, 1, 8, 8)), network(torch.rand(1, 1, 8, 8))
        assert torch.equal(first, second) is not differs


def test_initial_weights_are_uniform_within_the_bound():
    conv = networks.create("unet").rfconv.conv
    bound = 1 / math.sqrt(64 * 9)
    for values in (conv.weight, conv.bias):
        assert values.abs().max() <= bound
    assert conv.weight.abs().max() > 0.99 * bound
    assert conv.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize(("name", "kernel_size"), [("unet", 1), ("unet", 5), *((n, 3) for n in SAME_SIZE)])
def test_halo_holds_all_that_a_pixel_depends_on(name, kernel_size):
    """Gradients reach at most `halo` from an output pixel, and more than `halo` less one cell."""
    torch.manual_seed(0)
    network = networks.create(name, filters=8, kernel_size=kernel_size).double().eval()
    side = 2 * network.halo + 8
    reach = 0
    for offset in range(4):  # where the pixel lies in its cell of 4
        picture = torch.rand(1, 1, side, side, dtype=torch.float64, requires_grad=True)
        centre = network.halo + offset
        network(picture)[0, :, centre, centre].sum().backward()
        rows = picture.grad[0, 0].abs().sum(1).nonzero().flatten()
        reach = max(reach, centre - rows.min().item(), rows.max().item() - centre)
    assert network.halo - 4 < reach <= network.halo


@pytest.mark.parametrize("name", ["cnn", "unet", "dilated-unet"])
def test_orders_of_the_block(name):
    """ReLU before or after max-pooling is one function (F2 of the handout); batch norm after it is another."""
    torch.manual_seed(0)
    picture = torch.rand(4, 1, 16, 16)
    whole = networks.create(name, filters=4)
    made = {}
    for order in networks.ORDERS:
        network = networks.create(name, filters=4, order=order)
        network.load_state_dict(whole.state_dict())
        made[order] = network.train()(picture)
    first, second, third = made.values()
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)
    assert (first - third).abs().max() > 0.01


def test_prior_is_added_pixel_by_pixel():
    network = networks.create("colour-unet", filters=4, out_channels=5).eval()
    picture = torch.rand(2, 1, 7, 9)
    before = network(picture)
    table = torch.randn(256, 5)
    network.prior.start(table)
    levels = (picture[:, 0] * 256).long()
    torch.testing.assert_close(network(picture) - before, table[levels].movedim(-1, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_enlarger_begins_as_bicubic_interpolation_and_stays_local(factor):
    torch.manual_seed(0)
    network = networks.create("enlarger", filters=4, depth=2, factor=factor).double()
    side = 2 * network.halo // factor + 8
    picture = torch.rand(1, 3, side, side - 1, dtype=torch.float64, requires_grad=True)
    output = network(picture)
    assert output.shape == (1, 3, factor * side, factor * (side - 1))
    torch.testing.assert_close(output, upscale(picture, factor, "bicubic"), atol=0.05, rtol=0)  # which is clamped
    torch.nn.init.normal_(network.outconv.weight)
    lacking = network(picture) - upscale(picture, factor, "bicubic")
    torch.testing.assert_close(lacking, lacking[:, :1].expand(-1, 3, -1, -1))  # luma alone
    centre = factor * side // 2
    network(picture)[0, :, centre, centre].sum().backward()
    rows = picture.grad[0].abs().sum((0, 2)).nonzero().flatten() * factor
    assert network.halo - 2 * factor <= max(centre - rows.min(), rows.max() - centre) <= network.halo


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnet", {}, "regression-cnn, cnn, unet"),
        ("unet", {"depth": 3}, "'depth'.*in_channels"),
        ("unet", {"filters": 0}, "filters.*0"),
        ("unet", {"filters": 2.5}, "filters.*2.5"),
        ("unet", {"kernel_size": 4}, "kernel_size.*odd.*4"),
        ("unet", {"order": "relu-norm"}, "order.*norm-relu-resize.*'relu-norm'"),
        ("enlarger", {"in_channels": 1}, "enlarger gives as many channels as it takes: not 3 for 1"),
        ("colour-unet", {"bottleneck": 3}, "colour-unet has no setting 'bottleneck'"),
    ],
)
def test_bad_settings_are_named(name, settings, message):
    with pytest.raises(UserError, match=message):
        networks.create(name, **settings)


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 3, 8, 8), (1, 1, 0, 8)])
def test_bad_shapes_are_named(shape):
    with pytest.raises(ValueError, match=r"\(N, 1, H, W\)"):
        networks.create("cnn", filters=4)(torch.zeros(shape))
