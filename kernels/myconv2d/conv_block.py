"""ConvBlock, the block that the networks are made of: fused where a backend's kernels serve, else plain modules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from . import backends, block_operators
from .block import Pending, block, hindrance
from .functional import _AUTOCAST_DEVICES, IntPair, _autocast
from .info import explain
from .modules import MyConv2d
from .operators import overload
from .shapes import output_size
from .sync_norm import Across, SyncBatchNorm2d, update
from .triton import UNTRIED

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
        operands = self._operands(input, skip)
        if isinstance(operands, str):
            return self._composed(_materialised(input, skip))
        output = self._train(operands) if self._batch_statistics() else self._infer(operands)
        return output if pending else output.materialise()

    def hindrance(self, input: Image, skip: Image | None = None) -> str | None:
        """Why this call would be composed of plain modules; None if it would be fused."""
        operands = self._operands(input, skip)
        return operands if isinstance(operands, str) else None

    def _operands(self, input: Image, skip: Image | None) -> _Operands | str:
        """What the fused operators take, or why they cannot serve."""
        norm, others = self.norm, ()
        if (why_not := hindrance() or _changed(self, type(self))) is not None:
            return why_not
        if norm is not None:
            if (why_not := _changed(norm, nn.BatchNorm2d, nn.SyncBatchNorm, SyncBatchNorm2d)) is not None:
                return why_not
            others = norm.weight, norm.bias, norm.running_mean, norm.running_var
            if others[0] is None or others[1] is None or (others[2] is None) != (others[3] is None):
                return "batch norm without scale and shift, or with half of its running statistics"
        operands = _operands(self.conv, input, skip, *others)
        if isinstance(operands, str):
            return operands
        n, _, p, q = operands.size
        if self.resize == "pool" and min(p, q) < 2:
            return f"nothing is left of {p}×{q} after pooling"
        if self._batch_statistics():
            if not self.activation:
                return "batch norm without ReLU"
            return "batch statistics of fewer than two values" if n * p * q < 2 else operands
        if torch.is_grad_enabled() and _requires_grad(operands, others):
            return "gradients through running statistics, or without batch norm"
        return operands

    def _batch_statistics(self) -> bool:
        norm = self.norm
        return norm is not None and (norm.training or norm.running_mean is None)

    def _train(self, operands: _Operands) -> Pending:
        norm, across = self.norm, Across.of(self.norm)
        vectors = norm.weight, norm.bias, norm.eps
        raw, scale, shift, mean, var = block(
            *operands[:5], *vectors, self.resize == "pool", backend=operands.backend, across=across
        )
        if norm.training and norm.track_running_stats:
            n, _, p, q = operands.size
            _update(norm, mean, var, n * p * q if across is None else across.count, operands.backend)
        return Pending(raw, scale, shift, self.resize == "upsample")

    def _infer(self, operands: _Operands) -> Pending:
        first, second, weight, bias, padding = operands[:5]
        norm, statistics = self.norm, (None, None, None, None, 0.0)
        if norm is not None:
            statistics = norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps
        first, second = (
            f if f is None or f.scale is None else Pending(f.materialise()) for f in (first, second)
        )
        skip, enlarged = (None, False) if second is None else (second.tensor, second.upsample)
        output = overload("block_inference", operands.backend)(
            first.tensor,
            first.upsample,
            skip,
            enlarged,
            weight,
            bias,
            padding,
            *statistics,
            self.activation,
            self.resize == "pool",
        )
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
    operands = hindrance() or _operands(conv, input, skip)
    if isinstance(operands, str):
        return conv(_materialised(input, skip))
    return block(*operands[:5], backend=operands.backend)[0]


def explain_block(block: ConvBlock, input: Image, skip: Image | None = None) -> str:
    """Whether a block would be fused with these arguments, or why not and which backend serves its convolution."""
    operands = block._operands(input, skip)
    if not isinstance(operands, str):
        untried = f" ({UNTRIED})" if operands.backend == "triton" else ""
        return f"{operands.backend} serves this block, fused: {operands.reason}{untried}"
    conv = block.conv
    numbers = conv.stride, conv.padding, conv.dilation, conv.groups
    served = explain(_materialised(input, skip), conv.weight, conv.bias, *numbers)
    return f"composed of plain modules: {operands}\nconvolution: {served}"


def _materialised(input: Image, skip: Image | None) -> Tensor:
    images = [i.materialise() if isinstance(i, Pending) else i for i in (input, skip) if i is not None]
    return images[0] if skip is None else torch.cat(images, dim=-3)


class _Operands(NamedTuple):
    """Of a fused convolution of stride 1."""

    first: Pending
    second: Pending | None
    weight: Tensor
    bias: Tensor | None
    padding: tuple[int, int]
    size: tuple[int, int, int, int]  # of the convolution's output
    backend: str
    reason: str  # why that one


def _operands(conv: nn.Module, input: Image, skip: Image | None, *others: Tensor | None) -> _Operands | str:
    """What the fused operators take, or why they cannot serve; `others` are tensors that they would take as well."""
    if (why_not := _changed(conv, MyConv2d)) is not None:
        return why_not
    padding = _padding(conv)
    if conv.stride != (1, 1) or conv.dilation != (1, 1) or conv.groups != 1 or padding is None:
        return "fused kernels have stride 1, dilation 1, one group and zero padding, the same on both sides"
    feeds = [i if isinstance(i, Pending) else Pending(i) for i in (input, skip) if i is not None]
    for feed in feeds:
        if type(feed.tensor) not in (Tensor, nn.Parameter) or feed.tensor.dim() != 4:
            return "input or skip is no plain tensor of 4 dimensions"
    n, channels, *pixels = feeds[0].shape
    if skip is not None:
        m, more, *others_pixels = feeds[1].shape
        if m != n or others_pixels != pixels:
            return "input and skip differ in size"
        channels += more
    weight, bias = conv.weight, conv.bias
    device = weight.device.type
    if device in _AUTOCAST_DEVICES and torch.is_autocast_enabled(device):
        if block_operators.preferred(device, backends.wanted) != "triton":
            return "autocast narrows plain operators"
        # Images and weights as in the framework's autocast; vectors and statistics stay wide.
        weight, *images = _autocast(weight, *(feed.tensor for feed in feeds))
        feeds = [feed._replace(tensor=image) for feed, image in zip(feeds, images, strict=True)]
    size = output_size((n, channels, *pixels), weight.shape, (1, 1), padding, (1, 1))
    if channels != weight.shape[1] or min(size[2:]) < 1:
        return "weight does not fit the input"
    vectors = (*others, *(vector for feed in feeds for vector in feed[1:3]))
    images = (feed.tensor for feed in feeds)
    backend, reason = block_operators.choose(weight, bias, *images, *vectors, wanted=backends.wanted)
    if backend is None:
        return reason
    return _Operands(feeds[0], feeds[1] if skip is not None else None, weight, bias, padding, size, backend, reason)


def _changed(module: nn.Module, kind: type[nn.Module], *others: type[nn.Module]) -> str | None:
    """Whether calling the module does anything but what its class, one of these, does."""
    if type(module) not in (kind, *others):
        return f"{type(module).__name__} in place of {kind.__name__}"
    forward = module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
    if forward or module._backward_hooks or module._backward_pre_hooks or _has_any_global_hook():
        return f"hooks on {kind.__name__} see plain tensors"
    return None


def _padding(conv: nn.Conv2d) -> tuple[int, int] | None:
    """Zeros on each side, vertically and horizontally; None if it is not so simple."""
    if conv.padding_mode != "zeros":
        return None
    if not isinstance(conv.padding, str):
        return conv.padding
    if conv.padding == "valid":
        return 0, 0
    r, s = conv.kernel_size
    return (r // 2, s // 2) if r % 2 and s % 2 else None


def _requires_grad(operands: _Operands, others: Iterable[Tensor | None]) -> bool:
    feeds = (*operands.first[:3], *(operands.second or ())[:3])
    return any(t is not None and t.requires_grad for t in (*feeds, operands.weight, operands.bias, *others))


def _update(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor, count: int | Tensor, backend: str) -> None:
    """`update`, in one kernel where there is one."""
    if backend != "triton" or norm.momentum is None or norm.running_mean is None or isinstance(count, Tensor):
        update(norm, mean, var, count)
        return
    from .triton import block_statistics as kernel  # imports triton

    running = norm.running_mean, norm.running_var, norm.num_batches_tracked
    kernel.update(mean, var, *running, norm.momentum, count / (count - 1))
