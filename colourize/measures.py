"""How near pictures come to others, and how colourful they are; one float64 number for each picture.

Pictures are (N, 3, H, W), uint8 or in unit scale. A measure of a set is the mean over its pictures; `interval` says how
far that would move with other pictures.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .colour import WHITE, luma, to_unit

_RESAMPLES = 2000
_WINDOW, _SIGMA = 11, 1.5  # of SSIM


def psnr(made: Tensor, pictures: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB over R, G and B, with the handout's peak of 1 (256); at most 100 dB."""
    error = (to_unit(made) - to_unit(pictures)).square().flatten(1).mean(1, dtype=torch.float64)
    return -10 * error.clamp(min=1e-10).log10()


def luma_psnr(made: Tensor, pictures: Tensor, border: int = 0) -> Tensor:
    """PSNR in dB of the luma Y of BT.601, without `border` pixels on each side, as super-resolution is measured.

    Y spans 16..235, and the peak is 255 (MATLAB's rgb2ycbcr).
    """
    difference = _luma(made) - _luma(pictures)
    height, width = difference.shape[1:]
    inner = difference[:, border : height - border, border : width - border]
    error = inner.square().flatten(1).mean(1)
    return 10 * (255.0**2 / error.clamp(min=1e-6)).log10()


def ssim(made: Tensor, pictures: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004): a Gaussian window of 11 pixels, σ 1.5, mean of R, G and B.

    NaN for pictures smaller than the window.
    """
    first, second = (to_unit(images).double() / WHITE for images in (made, pictures))
    if min(first.shape[2:]) < _WINDOW:
        return torch.full((len(first),), torch.nan, dtype=torch.float64)
    mean_1, mean_2 = _blurred(first), _blurred(second)
    var_1 = _blurred(first.square()) - mean_1.square()
    var_2 = _blurred(second.square()) - mean_2.square()
    covariance = _blurred(first * second) - mean_1 * mean_2
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mean_1 * mean_2 + c1) * (2 * covariance + c2)
    return (index / ((mean_1.square() + mean_2.square() + c1) * (var_1 + var_2 + c2))).flatten(1).mean(1)


def ciede2000(made: Tensor, pictures: Tensor) -> Tensor:
    """The mean colour difference ΔE₀₀ (Sharma et al. 2005) over the pixels; 1 is about what the eye just sees."""
    from skimage.color import deltaE_ciede2000  # slow to import

    return torch.from_numpy(deltaE_ciede2000(*map(_lab, (made, pictures))).mean((1, 2)))


def colourfulness(pictures: Tensor) -> Tensor:
    """M³ of Hasler & Süsstrunk 2003, on the scale of 0..255: 0 is grey, 15 slightly, 59 quite, 109 extremely so."""
    red, green, blue = (to_unit(pictures).double() * 256).flatten(2).unbind(1)
    opponents = torch.stack((red - green, (red + green) / 2 - blue))
    deviation = opponents.var(2, correction=0).sum(0).sqrt()
    return deviation + 0.3 * opponents.mean(2).square().sum(0).sqrt()


def interval(values: Tensor) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean of `values` (N,): where the means of resampled sets lie."""
    random = np.random.default_rng(0)
    numbers = values.numpy()
    means = [numbers[random.integers(0, len(numbers), len(numbers))].mean() for _ in range(_RESAMPLES)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _luma(images: Tensor) -> Tensor:
    return luma(to_unit(images).double())[:, 0] / WHITE * 219 + 16


def _blurred(images: Tensor) -> Tensor:
    """Means under the window, where it fits."""
    offsets = torch.arange(_WINDOW, dtype=torch.float64, device=images.device) - _WINDOW // 2
    window = (-0.5 * (offsets / _SIGMA).square()).exp()
    window = (window / window.sum()).expand(images.shape[1], 1, 1, _WINDOW)
    rows = F.conv2d(images, window, groups=images.shape[1])
    return F.conv2d(rows, window.mT, groups=images.shape[1])


def _lab(images: Tensor) -> np.ndarray:
    from skimage.color import rgb2lab

    return rgb2lab((to_unit(images).double() / WHITE).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy())
