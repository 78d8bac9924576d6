"""Colour spaces and measures are those of scikit-image, and of their papers."""

import numpy as np
import pytest
import torch
from skimage import color, metrics

from colourize import lab, measures


@pytest.fixture
def pictures():
    return torch.randint(0, 256, (4, 3, 24, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def made(pictures):
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(1)) * 20
    return (pictures + noise).round().clamp(0, 255).byte()


def images(tensor):
    return tensor.permute(0, 2, 3, 1).numpy()


def test_lab_is_that_of_scikit_image(pictures):
    corners = torch.tensor([[[0, 255], [1, 9]]], dtype=torch.uint8).expand(3, 2, 2)[None]  # black, white, near black
    for rgb in (pictures, corners):
        np.testing.assert_allclose(images(lab.to_lab(rgb)), color.rgb2lab(images(rgb)), atol=2e-3)


def test_lab_and_back_is_the_same_picture(pictures):
    torch.testing.assert_close(lab.from_lab(lab.to_lab(pictures)) * 256, pictures.float(), atol=0.02, rtol=0)


def test_colours_outside_srgb_are_clamped_as_in_scikit_image():
    generator = torch.Generator().manual_seed(0)
    some = (torch.rand(1, 3, 30, 30, generator=generator) - torch.tensor([0, 0.5, 0.5])[:, None, None])
    some = some * torch.tensor([100.0, 200, 200])[:, None, None]
    with pytest.warns(UserWarning, match="negative Z"):
        expected = color.lab2rgb(images(some))
    np.testing.assert_allclose(images(lab.from_lab(some)) * 256 / 255, expected, atol=2e-3)


def test_gradients_of_lab_are_finite_everywhere():
    grey = torch.tensor([0.0, 1e-9, 0.003, 0.04, 0.5, 255 / 256]).expand(1, 3, 1, 6).clone().requires_grad_()
    lab.from_lab(lab.to_lab(grey)).sum().backward()
    assert torch.isfinite(grey.grad).all()
    torch.testing.assert_close(grey.grad[..., 1:-1], torch.ones(1, 3, 1, 4), atol=1e-2, rtol=0)


def test_ssim_is_that_of_scikit_image(made, pictures):
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    for found, m, p in zip(measures.ssim(made, pictures), images(made), images(pictures), strict=True):
        whole = metrics.structural_similarity(m, p, channel_axis=2, full=True, **options)[1]
        assert found.item() == pytest.approx(whole[5:-5, 5:-5].mean(), abs=1e-6)
    assert measures.ssim(pictures, pictures).tolist() == [1, 1, 1, 1]
    assert measures.ssim(made[..., :10], pictures[..., :10]).isnan().all()


def test_colour_difference_is_that_of_scikit_image(made, pictures):
    expected = color.deltaE_ciede2000(color.rgb2lab(images(made)), color.rgb2lab(images(pictures)))
    assert measures.ciede2000(made, pictures).tolist() == pytest.approx(expected.mean((1, 2)))


def test_psnr_is_that_of_scikit_image(made, pictures):
    pairs = zip(pictures.numpy(), made.numpy(), strict=True)
    expected = [metrics.peak_signal_noise_ratio(*pair, data_range=256) for pair in pairs]
    assert measures.psnr(made, pictures).tolist() == pytest.approx(expected)
    assert measures.psnr(pictures, pictures).tolist() == [100] * 4


def test_luma_psnr_is_that_of_scikit_image(made, pictures):
    for border in (0, 3):
        cut = slice(border, -border or None)
        expected = [
            metrics.peak_signal_noise_ratio(*(color.rgb2ycbcr(x)[cut, cut, 0] for x in pair), data_range=255)
            for pair in zip(images(pictures), images(made), strict=True)
        ]
        assert measures.luma_psnr(made, pictures, border).tolist() == pytest.approx(expected)


def test_colourfulness_by_hand():
    flat = torch.tensor([200, 100, 50], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 4, 4)
    assert measures.colourfulness(flat).item() == pytest.approx(0.3 * np.hypot(100, 100))
    grey = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    assert measures.colourfulness(grey).item() == 0
    striped = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    striped[:, 0, 0] = 100  # rg is 100 or 0, yb 50 or 0
    expected = np.hypot(50, 25) + 0.3 * np.hypot(50, 25)
    assert measures.colourfulness(striped).item() == pytest.approx(expected)


def test_interval_holds_the_mean_and_narrows_with_more_pictures():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = measures.interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std().item() / 20, rel=0.1)
    assert measures.interval(values[:2].mean().expand(5)) == (pytest.approx(values[:2].mean()),) * 2
