"""Pixels as numbers, on pictures whose numbers are known by hand and on the horses."""

import pytest
import torch

from colourize import data
from colourize.colour import UPSCALE_MODES, downscale, grey, to_uint8, to_unit, upscale
from colourize.palette import Palette


def random_images(count=3, height=17, width=13, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def test_unit_is_the_handouts_scale_and_its_inverse_is_exact():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, -1)
    assert torch.equal(to_unit(levels), torch.arange(256.0).view(1, 1, 1, -1) / 256)
    assert torch.equal(to_uint8(to_unit(levels)), levels)


def test_to_uint8_clamps():
    assert to_uint8(torch.tensor([-0.5, 0.0, 1.0, 7.0])).tolist() == [0, 0, 255, 255]


def test_grey_is_the_mean_of_the_channels():
    images = random_images()
    expected = images.double().mean(dim=1, keepdim=True) / 256
    torch.testing.assert_close(grey(images).double(), expected, atol=1e-7, rtol=0)
    torch.testing.assert_close(grey(to_unit(images)), grey(images), atol=0, rtol=0)


@pytest.mark.parametrize("function", [grey, Palette([[0, 0, 0], [1, 1, 1]]).quantise, Palette.fit])
def test_wrong_shapes_are_named(function):
    with pytest.raises(ValueError, match=r"images must have shape \(N, 3, H, W\), got \(2, 1, 4, 4\)"):
        function(torch.zeros(2, 1, 4, 4))


def test_downscale_takes_means():
    images = random_images(2, 12, 8)
    expected = images.double().view(2, 3, 3, 4, 2, 4).mean(dim=(3, 5)) / 256
    torch.testing.assert_close(downscale(images, 4).double(), expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("factor", [0, -1, 5])
def test_downscale_names_a_factor_that_does_not_divide(factor):
    with pytest.raises(ValueError, match=rf"factor .* divide 12 × 8, got {factor}"):
        downscale(random_images(1, 12, 8), factor)


def test_nearest_upscale_repeats_pixels():
    images = random_images()
    expected = to_unit(images).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    assert torch.equal(upscale(images, 4), expected)


@pytest.mark.parametrize("mode", UPSCALE_MODES)
def test_upscale_keeps_flat_colours_range_and_any_size(mode):
    flat = torch.full((1, 3, 1, 1), 200, dtype=torch.uint8)
    torch.testing.assert_close(upscale(flat, 4, mode), torch.full((1, 3, 4, 4), 200 / 256))
    stripes = torch.tensor([0, 255] * 4, dtype=torch.uint8).expand(1, 3, 8, 8)
    enlarged = upscale(stripes, 3, mode)
    assert enlarged.shape == (1, 3, 24, 24)
    assert enlarged.min() >= 0
    assert enlarged.max() <= 1


def test_upscale_names_an_unknown_mode():
    with pytest.raises(ValueError, match="mode must be one of nearest, bilinear, bicubic, got 'cubic'"):
        upscale(random_images(), 2, "cubic")


@pytest.fixture(scope="module")
def horses(shared_data):
    return data.load("cifar10", data_dir=shared_data)


@pytest.fixture(scope="module")
def original(shared_data):
    return Palette.load(shared_data / "colour_kmeans24_cat7.npy")


def psnr(images, truth):
    """The mean over images, in dB."""
    return -10 * (images - to_unit(truth)).square().mean(dim=(1, 2, 3)).log10().mean()


def test_lookup_from_grey_to_the_most_frequent_colour_on_horses(horses, original):
    levels, labels = zip(
        *(
            ((grey(part.tensor) * 256).long().squeeze(1), original.quantise(part.tensor))
            for part in horses[:2]
        ),
        strict=True,
    )
    counts = torch.bincount((levels[0] * 24 + labels[0]).flatten(), minlength=256 * 24).view(256, 24)
    accuracy = (counts.argmax(1)[levels[1]] == labels[1]).float().mean()
    assert accuracy == pytest.approx(0.640, abs=5e-4)


def test_grey_as_colour_on_horses(horses):
    images = horses.validation.tensor
    assert (to_unit(images) - grey(images)).square().mean() == pytest.approx(0.0048, abs=5e-5)


def test_24_colours_cap_psnr_on_horses(horses, original):
    images = horses.validation.tensor
    assert psnr(original.colours(original.quantise(images)), images) == pytest.approx(27.2, abs=0.05)


def test_nearest_upscaling_of_horses(horses, original):
    images = horses.validation.tensor
    enlarged = upscale(downscale(images, 4), 4)
    assert psnr(enlarged, images) == pytest.approx(19.25, abs=5e-3)
    accuracy = (original.quantise(enlarged) == original.quantise(images)).float().mean()
    assert accuracy == pytest.approx(0.414, abs=5e-4)
