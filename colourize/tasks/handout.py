"""The handout's tasks, in RGB: colours by regression, colours out of a palette, and super-resolution in its colours."""

from __future__ import annotations

from torch import Tensor

from myconv2d import cross_entropy

from ..colour import downscale, grey, to_unit, upscale
from ..measures import luma_psnr
from ..palette import Palette
from .base import Batch, Task, annealed, regression_losses, share, tinted


class _Colouring(Task):
    """Input: the grey of the picture. What `apply` writes keeps it and has only the tint from the network."""

    in_channels = 1
    reads = "grey, the mean of R, G and B of 8 bits, divided by 256"
    keeps_grey = True

    def degrade(self, pictures: Tensor) -> Tensor:
        return grey(pictures)

    def prepare(self, pictures: Tensor) -> Tensor:
        return grey(pictures)


class Regression(_Colouring):
    """Grey → R, G, B."""

    name = "regression"
    loss_names = ("mse", "huber", "perceptual")
    out_channels = 3
    gives = "R, G, B of 8 bits, divided by 256; to be clamped"

    def target(self, pictures: Tensor) -> Tensor:
        return to_unit(pictures)

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        if self.loss_name == "perceptual":
            return self.perceived(output, target)
        return regression_losses(self.loss_name, output, target)

    def decode(self, output: Tensor, input: Tensor) -> Tensor:
        return output.clamp(0, 1)

    def colourless(self, input: Tensor) -> Tensor:
        return input.expand(-1, 3, -1, -1)

    def finish(self, output: Tensor, pictures: Tensor) -> Tensor:
        return tinted(pictures, output.clamp(0, 1))


class _Labelling(Task):
    """Output: a score for each of the palette's colours at each pixel; the likeliest one is the network's answer."""

    loss_names = ("cross-entropy", "rebalanced", "perceptual")
    has_classes = needs_palette = True
    gives = (
        "a score for each colour of the palette (R, G, B of 8 bits, divided by 256): the likeliest is the answer; "
        "softmax(score / temperature) · palette blends them"
    )
    palette: Palette

    @property
    def out_channels(self) -> int:
        return len(self.palette)

    @property
    def legend(self) -> Tensor:
        return self.palette.centres

    def target(self, pictures: Tensor) -> Tensor:
        return self.palette.quantise(pictures)

    def labels(self, target: Tensor) -> Tensor:
        return target

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        if self.loss_name == "perceptual":
            return self.perceived(self.blend(output), self.palette.colours(target))
        losses, weights = cross_entropy(output, target, reduction="none"), self.class_weights(output.device)
        return (losses if weights is None else losses * weights[target]).mean((1, 2))

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        if self.loss_name == "cross-entropy":
            return cross_entropy(output, target)  # in one pass
        return super().loss(output, target)

    def decode(self, output: Tensor, input: Tensor) -> Tensor:
        return self.palette.colours(output.argmax(1))

    def score_pictures(self, made: Tensor, batch: Batch) -> dict[str, Tensor]:
        accuracy = share(self.palette.quantise(made) == batch.target)
        return {**super().score_pictures(made, batch), "accuracy": accuracy}

    def comparisons(self, pictures: Tensor) -> dict[str, Tensor]:
        return {f"{len(self.palette)} colours": self.palette.colours(self.target(pictures))}

    def blend(self, output: Tensor) -> Tensor:
        """The annealed mean: like `decode`, but with no steps between neighbouring colours."""
        return annealed(output, self.legend, self.temperature)


class Classification(_Labelling, _Colouring):
    """Grey → the nearest of the palette's colours."""

    name = "classification"

    def finish(self, output: Tensor, pictures: Tensor) -> Tensor:
        return tinted(pictures, self.blend(output))


class SuperResolution(_Labelling):
    """A picture a quarter as large, enlarged by repeating its pixels → the palette's colours of the full picture.

    What `apply` writes agrees with the small picture: each of its pixels is the mean of the 16 that it became, up to a
    smooth correction.
    """

    name = "superres"
    in_channels = 3
    reads = "R, G, B of 8 bits, divided by 256, each pixel of the small picture repeated 4 × 4"
    size_multiple = enlarges = 4
    finish_reach = 8  # the bilinear correction reads the next pixel of the small picture
    result = "large"

    def degrade(self, pictures: Tensor) -> Tensor:
        return self.prepare(downscale(pictures, self.enlarges))

    def prepare(self, pictures: Tensor) -> Tensor:
        return upscale(pictures, self.enlarges, "nearest")

    def comparisons(self, pictures: Tensor) -> dict[str, Tensor]:
        bilinear = upscale(downscale(pictures, self.enlarges), self.enlarges, "bilinear")
        return {"bilinear": bilinear, **super().comparisons(pictures)}

    def measure(self, made: Tensor, batch: Batch, output: Tensor | None = None) -> dict[str, Tensor]:
        return {
            **super().measure(made, batch, output),
            "luma psnr": luma_psnr(made, batch.pictures, border=self.enlarges),
        }

    def finish(self, output: Tensor, pictures: Tensor) -> Tensor:
        enlarged = self.blend(output)
        missing = to_unit(pictures) - downscale(enlarged, self.enlarges)
        return (enlarged + upscale(missing, self.enlarges, "bilinear")).clamp(0, 1)
