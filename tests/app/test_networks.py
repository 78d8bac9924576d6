"""The networks are those of the handout, for pictures of any size."""

import math

import pytest
import torch

from colourize import networks
from colourize.files import UserError
from myconv2d import ConvBlock, MyConv2d


@pytest.mark.parametrize(
    ("name", "settings", "parameters"),
    [
        ("regression-cnn", {}, 75_549),
        ("cnn", {}, 86_784),
        ("cnn", {"bottleneck": 3}, 76_137),
        ("unet", {}, 112_344),
        ("cnn", {"in_channels": 3}, 87_360),
        ("unet", {"in_channels": 3}, 113_352),
    ],
)
def test_parameters_of_the_handout(name, settings, parameters):
    network = networks.create(name, **settings)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("name", networks.NAMES)
def test_built_from_our_convolution(name):
    children = dict(networks.create(name).named_children())
    assert [*children] == ["downconv1", "downconv2", "rfconv", "upconv1", "upconv2", "finalconv"]
    assert type(children.pop("finalconv")) is MyConv2d
    assert all(type(block) is ConvBlock for block in children.values())


@pytest.mark.parametrize("name", networks.NAMES)
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


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_halo_holds_all_that_a_pixel_depends_on(kernel_size):
    """Gradients reach at most `halo` from an output pixel, and more than `halo` less one cell."""
    network = networks.create("unet", filters=4, kernel_size=kernel_size).double().eval()
    torch.manual_seed(0)
    side = 2 * network.halo + 8
    reach = 0
    for offset in range(4):  # where the pixel lies in its cell of 4
        picture = torch.rand(1, 1, side, side, dtype=torch.float64, requires_grad=True)
        centre = network.halo + offset
        network(picture)[0, :, centre, centre].sum().backward()
        rows = picture.grad[0, 0].abs().sum(1).nonzero().flatten()
        reach = max(reach, centre - rows.min().item(), rows.max().item() - centre)
    assert network.halo - 4 < reach <= network.halo


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnet", {}, "regression-cnn, cnn, unet"),
        ("unet", {"depth": 3}, "'depth'.*in_channels"),
        ("unet", {"filters": 0}, "filters.*0"),
        ("unet", {"filters": 2.5}, "filters.*2.5"),
        ("unet", {"kernel_size": 4}, "kernel_size.*odd.*4"),
    ],
)
def test_bad_settings_are_named(name, settings, message):
    with pytest.raises(UserError, match=message):
        networks.create(name, **settings)


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 3, 8, 8), (1, 1, 0, 8)])
def test_bad_shapes_are_named(shape):
    with pytest.raises(ValueError, match=r"\(N, 1, H, W\)"):
        networks.create("cnn", filters=4)(torch.zeros(shape))
