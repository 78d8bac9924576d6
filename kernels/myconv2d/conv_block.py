"""ConvBlock, the block that the networks are made of: fused where the native kernels serve, else plain modules."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from . import backends, block_operators
from .block import Pending, block, hindrance
from .functional import IntPair
from .info import explain
from .modules import MyConv2d
from .operators import overload
from .shapes import output_size

Image = Tensor | Pending


class ConvBlock(nn.Module):
    """convolution → batch norm → ReLU → resize, each but the first optional.

    Shape: input (N, C, H, W), and a skip (N, C', H, W) concatenated behind it, with C + C' = in_channels →
    (N, out_channels, P, Q); "pool" halves P and Q (max-pool 2), "upsample" doubles them (nearest).

    Either input may be another block's `Pending` result, which this one computes as it loads; with `pending=True` the
    result may be one too. `explain_block` says whether a call is fused, and if not, why.

    Args:
        padding: None keeps the size of the picture at stride 1 (dilation · (kernel_size // 2)).
        resize: None, "pool" or "upsample".
        norm, activation: whether batch norm and ReLU are there.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: IntPair = 1,
        padding: str | IntPair | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        norm: bool = True,
        activation: bool = True,
        resize: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if resize not in (None, "pool", "upsample"):
            raise ValueError(f"ConvBlock: resize must be None, 'pool' or 'upsample', got {resize!r}")
        if padding is None:
            padding = dilation * (kernel_size // 2)
        options = {"device": device, "dtype": dtype}
        self.conv = MyConv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, **options
        )
        self.norm = nn.BatchNorm2d(out_channels, **options) if norm else None
        self.activation = activation
        self.resize = resize

    def extra_repr(self) -> str:
        return f"activation={self.activation}, resize={self.resize}"

    def forward(self, input: Image, skip: Image | None = None, *, pending: bool = False) -> Image:
        if self.hindrance(input, skip) is not None:
            return self._composed(_materialised(input, skip))
        output = (self._train if self._batch_statistics() else self._infer)(_feed(input), _feed(skip))
        return output if pending else output.materialise()

    def hindrance(self, input: Image, skip: Image | None = None) -> str | None:
        """Why this call would be composed of plain modules; None if it would be fused."""
        if (why_not := hindrance()) is not None:
            return why_not
        if (why_not := _changed(self, type(self))) is not None:
            return why_not
        norm, others = self.norm, ()
        if norm is not None:
            if (why_not := _changed(norm, nn.BatchNorm2d)) is not None:
                return why_not
            others = norm.weight, norm.bias, norm.running_mean, norm.running_var
            if (others[0] is None) or (others[2] is None) != (others[3] is None):
                return "batch norm without scale and shift, or with half of its running statistics"
        if (why_not := _conv_hindrance(self.conv, input, skip, *others)) is not None:
            return why_not
        n, _, p, q = _convolved_size(self.conv, input)
        if self.resize == "pool" and min(p, q) < 2:
            return f"nothing is left of {p}×{q} after pooling"
        if self._batch_statistics():
            if not self.activation:
                return "batch norm without ReLU"
            return "batch statistics of one value" if n * p * q < 2 else None
        if torch.is_grad_enabled() and _requires_grad(self.conv.weight, self.conv.bias, *others, input, skip):
            return "gradients through running statistics, or without batch norm"
        return None

    def _batch_statistics(self) -> bool:
        norm = self.norm
        return norm is not None and (norm.training or norm.running_mean is None)

    def _train(self, first: Pending, second: Pending | None) -> Pending:
        conv, norm, pool = self.conv, self.norm, self.resize == "pool"
        raw, scale, shift, mean, var = block(
            first, second, conv.weight, conv.bias, _padding(conv), norm.weight, norm.bias, norm.eps, pool
        )
        if norm.training and norm.track_running_stats and norm.running_mean is not None:
            n, _, p, q = _convolved_size(conv, first)
            _update(norm, mean, var, n * p * q)
        return Pending(raw, scale, shift, self.resize == "upsample")

    def _infer(self, first: Pending, second: Pending | None) -> Pending:
        weight, bias = self.conv.weight, self.conv.bias
        if self.norm is not None:
            weight, bias = _folded(weight, bias, self.norm)
        first, second = (f if f is None or f.scale is None else Pending(f.materialise()) for f in (first, second))
        skip, enlarged = (None, False) if second is None else (second.tensor, second.upsample)
        output = overload("block_inference", "native")(
            first.tensor, first.upsample, skip, enlarged, weight, bias, _padding(self.conv),
            self.activation, self.resize == "pool",
        )  # fmt: skip
        return Pending(output, upsample=self.resize == "upsample")

    def _composed(self, input: Tensor) -> Tensor:
        x = self.conv(input)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation:
            x = F.relu(x)
        if self.resize == "pool":
            return F.max_pool2d(x, 2)
        if self.resize == "upsample":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return x


def conv_concat(conv: MyConv2d, input: Image, skip: Image | None = None) -> Tensor:
    """conv(concatenation of `input` and `skip` along the channels); where fused, neither is activated or copied."""
    if (hindrance() or _conv_hindrance(conv, input, skip)) is not None:
        return conv(_materialised(input, skip))
    return block(_feed(input), _feed(skip), conv.weight, conv.bias, _padding(conv))[0]


def explain_block(block: ConvBlock, input: Image, skip: Image | None = None) -> str:
    """Whether a block would be fused with these arguments, or why not and which backend serves its convolution."""
    if (why_not := block.hindrance(input, skip)) is None:
        return "native serves this block, fused"
    conv = block.conv
    numbers = conv.stride, conv.padding, conv.dilation, conv.groups
    served = explain(_materialised(input, skip), conv.weight, conv.bias, *numbers)
    return f"composed of plain modules: {why_not}\nconvolution: {served}"


def _feed(image: Image | None) -> Pending | None:
    return image if image is None or isinstance(image, Pending) else Pending(image)


def _materialised(input: Image, skip: Image | None) -> Tensor:
    images = [i.materialise() if isinstance(i, Pending) else i for i in (input, skip) if i is not None]
    return images[0] if skip is None else torch.cat(images, dim=-3)


def _changed(module: nn.Module, kind: type[nn.Module]) -> str | None:
    """Whether calling the module does anything but what its class does."""
    if type(module) is not kind:
        return f"{type(module).__name__} in place of {kind.__name__}"
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    if hooks or _has_any_global_hook() or "forward" in module.__dict__:
        return f"hooks on {kind.__name__} see plain tensors"
    return None


def _conv_hindrance(conv: nn.Module, input: Image, skip: Image | None, *others: Tensor | None) -> str | None:
    if (why_not := _changed(conv, MyConv2d)) is not None:
        return why_not
    if backends.wanted not in (None, "native"):
        return f"backend {backends.wanted!r} has no fused kernels"
    if conv.stride != (1, 1) or conv.dilation != (1, 1) or conv.groups != 1 or _padding(conv) is None:
        return "fused kernels have stride 1, dilation 1, one group and zero padding, the same on both sides"
    weight, channels, size = conv.weight, 0, None
    for image in (input, skip):
        if image is None:
            continue
        tensors = image if isinstance(image, Pending) else (image,)
        if type(tensors[0]) not in (Tensor, nn.Parameter) or tensors[0].dim() != 4:
            return "input or skip is no plain tensor of 4 dimensions"
        others += tensors[:3]
        n, c, *pixels = image.shape
        if size not in (None, (n, *pixels)):
            return "input and skip differ in size"
        channels, size = channels + c, (n, *pixels)
    if channels != weight.shape[1] or min(_convolved_size(conv, input)) < 1:
        return "weight does not fit the input"
    return block_operators.problem(weight, conv.bias, *others)


def _padding(conv: nn.Conv2d) -> tuple[int, int] | None:
    """Zeros on each side, vertically and horizontally; None if it is not so simple."""
    if conv.padding_mode != "zeros":
        return None
    if not isinstance(conv.padding, str):
        return conv.padding
    r, s = conv.kernel_size
    if conv.padding == "valid":
        return 0, 0
    return (r // 2, s // 2) if r % 2 and s % 2 else None


def _convolved_size(conv: nn.Conv2d, input: Image) -> tuple[int, int, int, int]:
    return output_size(input.shape, conv.weight.shape, (1, 1), _padding(conv), (1, 1))


def _requires_grad(*operands: Image | None) -> bool:
    tensors = (t for o in operands for t in (o[:3] if isinstance(o, Pending) else (o,)))
    return any(t is not None and t.requires_grad for t in tensors)


@torch.no_grad()
def _update(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor, count: int) -> None:
    """The running statistics, as nn.BatchNorm2d keeps them: the variance unbiased."""
    momentum = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:  # the mean over all batches
            momentum = 1.0 / float(norm.num_batches_tracked)
    momentum = momentum or 0.0
    norm.running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
    norm.running_var.mul_(1 - momentum).add_(var, alpha=momentum * count / (count - 1))


def _folded(weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does its batch norm as well.

    Computed anew for every call: it takes some 15 µs, and no cache would notice a change through `parameter.data`.
    """
    scale = (norm.running_var + norm.eps).rsqrt_().mul_(norm.weight)
    centre = -norm.running_mean if bias is None else bias - norm.running_mean
    return weight * scale[:, None, None, None], torch.addcmul(norm.bias, centre, scale)
