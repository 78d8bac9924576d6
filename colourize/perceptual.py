"""A perceptual loss (Johnson et al. 2016): how far two pictures differ in what a network trained to see makes of them.

The feature reconstruction loss of a layer is ‖φ(made) − φ(picture)‖² / (C·H·W), φ its activations in VGG-16 (Simonyan &
Zisserman 2015), whose weights stay as they are. A layer is named after its stage, which a pooling ends, and its place
there: the paper takes relu2_2 for super-resolution, still near to the pixels, and relu1_2, relu2_2, relu3_3 and relu4_3
for style. The losses of several layers are added.

Weights come from a file, .safetensors or what torch.save made of a state dict, in torchvision's naming:
features.0.weight, features.0.bias, features.2.weight and so on. How many filters a layer has is read from there.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myconv2d import MyConv2d

from .colour import WHITE
from .download import Checksum, cached
from .files import UserError

WEIGHTS = "https://download.pytorch.org/models/vgg16-397923af.pth"  # 528 MB; the name ends with how its SHA-256 begins
LAYER = "relu2_2"
_STAGES = 2, 2, 3, 3, 3  # convolutions before each pooling
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, where white is 1
_CHECKSUM = re.compile(r"#sha256=([0-9a-f]{8,64})$|-([0-9a-f]{8,64})\.[a-z]+$")


def _numbered() -> dict[str, int]:
    """Layer → the number of its convolution among torchvision's `features`, where ReLUs and poolings count too."""
    found, number = {}, 0
    for stage, count in enumerate(_STAGES, start=1):
        for convolution in range(1, count + 1):
            found[f"relu{stage}_{convolution}"] = number
            number += 2
        number += 1
    return found


_NUMBERS = _numbered()
LAYERS = tuple(_NUMBERS)


def layers(names: str) -> tuple[str, ...]:
    """The layers of "relu1_2+relu2_2", in the network's order; UserError for one that VGG-16 has not."""
    chosen = names.split("+")
    for name in chosen:
        if name not in LAYERS:
            raise UserError(f"loss_layers must be one or more of {', '.join(LAYERS)}, joined by +, not {names!r}")
    return tuple(name for name in LAYERS if name in chosen)


class Features(nn.Module):
    """VGG-16 up to the last of some layers: pictures in unit scale (N, 3, H, W) → the activations of each of them."""

    def __init__(self, weights: Mapping[str, Tensor], names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names
        self.convs = nn.ModuleDict()
        for name in LAYERS[: LAYERS.index(names[-1]) + 1]:
            weight, bias = (weights[f"features.{_NUMBERS[name]}.{part}"] for part in ("weight", "bias"))
            conv = MyConv2d(weight.shape[1], weight.shape[0], 3, padding=1, device="meta")
            conv.weight, conv.bias = (nn.Parameter(part.float(), requires_grad=False) for part in (weight, bias))
            self.convs[name] = conv
        scale = torch.tensor(_DEVIATION)[:, None, None] * WHITE
        self.register_buffer("scale", 1 / scale)
        self.register_buffer("shift", -torch.tensor(_MEAN)[:, None, None] * WHITE / scale)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        found, x = [], pictures * self.scale + self.shift
        for name, conv in self.convs.items():
            if name.endswith("_1") and name != LAYERS[0]:
                x = F.max_pool2d(x, 2)
            x = F.relu(conv(x))
            if name in self.names:
                found.append(x)
        return found


class PerceptualLoss:
    """The loss on the layers `names` by the weights of `source`, a file or a URL; WEIGHTS, downloaded once, if None.

    They are read by `load`, or when they are first needed.
    """

    def __init__(self, source: str | None = None, names: str | None = None) -> None:
        self.source, self.names = source or WEIGHTS, layers(names or LAYER)
        self._features: Features | None = None

    def load(self) -> Features:
        """UserError, naming file or URL, for weights that cannot be had, are damaged or not those of VGG-16."""
        if self._features is None:
            with torch.inference_mode(False):  # an evaluation may come before a training
                features = Features(_read(_local(self.source), self.names), self.names)
                self._features = features.to(memory_format=torch.channels_last)
        return self._features

    def __call__(self, made: Tensor, pictures: Tensor) -> Tensor:
        """Of each of two sets of pictures in unit scale (N, 3, H, W) → (N,)."""
        smallest = 2 ** (int(self.names[-1][4]) - 1)
        if min(made.shape[2:]) < smallest:
            height, width = made.shape[2:]
            raise UserError(f"{self.names[-1]} takes {smallest} × {smallest} pixels or more, not {height} × {width}")
        features = self.load()
        if features.scale.device != made.device:
            with torch.inference_mode(False):
                features.to(made.device)
        with torch.no_grad():
            wanted = features(pictures)
        found = features(made)
        return torch.stack([(a - b).square().mean((1, 2, 3)) for a, b in zip(found, wanted, strict=True)]).sum(0)


def _local(source: str) -> Path:
    if not source.startswith(("http://", "https://")):
        return Path(source).expanduser()
    if (checksum := _CHECKSUM.search(source)) is None:
        raise UserError(f"{source}: a URL must end with #sha256=DIGEST, or its file's name with how that begins")
    remedy = "with a copy at hand, give its place as --loss-weights"
    url, begin = source.partition("#")[0], checksum[1] or checksum[2]
    name = f"{begin[:16]}-{url.rpartition('/')[2]}" if checksum[1] else None  # else it is in the file's own
    return cached(url, Checksum("sha256", begin), remedy, name=name)


def _read(path: Path, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors that `Features` takes, checked."""
    found, channels, result = _tensors(path), 3, {}
    for name in LAYERS[: LAYERS.index(names[-1]) + 1]:
        for part, shape in (("weight", ("K", channels, 3, 3)), ("bias", ("K",))):
            key = f"features.{_NUMBERS[name]}.{part}"
            if key not in found:
                raise UserError(f"{path} does not hold VGG-16 in torchvision's naming: it lacks {key}, for {name}")
            tensor = result[key] = found[key]
            if part == "weight":
                filters = tensor.shape[0] if tensor.ndim else 0
            expected = tuple(filters if side == "K" else side for side in shape)
            if tensor.shape != expected or filters < 1 or not tensor.is_floating_point():
                wanted = ", ".join(map(str, shape))
                raise UserError(f"{path}: {key} must be floats ({wanted}), not {tensor.dtype} {tuple(tensor.shape)}")
            if not tensor.isfinite().all():
                raise UserError(f"{path}: {key} holds values that are not finite")
        channels = filters
    return result


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file whose names begin with "features."; nothing else in it is run or kept."""
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if name.startswith("features.")]  # noqa: SIM118 (not a dict)
                return {name: file.get_tensor(name) for name in names}
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"cannot read {path}: there is no such file") from None
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise UserError(f"cannot read {path}: it is damaged or holds more than tensors ({reason})") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path} does not hold VGG-16 in torchvision's naming: it is a {type(content).__name__}")
    return {
        name: tensor
        for name, tensor in content.items()
        if isinstance(name, str) and name.startswith("features.") and isinstance(tensor, Tensor)
    }
