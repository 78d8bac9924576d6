"""What a fused block is made of, whether the fused operators can serve it, and how they do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from . import backends, block_operators
from .block import Pending, block
from .functional import AUTOCAST_DEVICES, autocast, pair
from .modules import MyConv2d
from .operators import overload
from .shapes import output_size
from .sync_norm import Across, SyncBatchNorm2d, update

Image = Tensor | Pending


class Parts(NamedTuple):
    """convolution → batch norm → ReLU → resize, each but the first optional."""

    conv: MyConv2d
    norm: nn.BatchNorm2d | None
    activation: bool
    resize: str | None  # "pool" or "upsample"

    def operands(self, input: Image, skip: Image | None = None) -> Operands | str:
        """What the fused operators take, or why they cannot serve; nobody may be watching (`block.hindrance`)."""
        norm = self.norm
        others: tuple[Tensor | None, ...] = ()
        if norm is not None:
            if (why_not := changed(norm, nn.BatchNorm2d, nn.SyncBatchNorm, SyncBatchNorm2d)) is not None:
                return why_not
            others = norm.weight, norm.bias, norm.running_mean, norm.running_var
            if others[0] is None or others[1] is None or (others[2] is None) != (others[3] is None):
                return "batch norm without scale and shift, or with half of its running statistics"
        operands = convolution_operands(self.conv, input, skip, *others)
        if isinstance(operands, str):
            return operands
        n, _, p, q = operands.size
        if self.resize == "pool" and min(p, q) < 2:
            return f"nothing is left of {p}×{q} after pooling"
        if (normalising := self._normalising()) is not None:
            if not self.activation:
                return "batch norm without ReLU"
            if normalising.eps <= 0:
                return "batch norm whose eps is not positive"  # the framework refuses it
            return "batch statistics of fewer than two values" if n * p * q < 2 else operands
        if torch.is_grad_enabled() and _requires_grad(operands, others):
            return "gradients through running statistics, or without batch norm"
        return operands

    def run(self, operands: Operands) -> Pending:
        """The block's result, by the fused operators."""
        norm = self._normalising()
        return self._infer(operands) if norm is None else self._train(norm, operands)

    def _normalising(self) -> nn.BatchNorm2d | None:
        """The batch norm, where it takes the statistics of the batch."""
        norm = self.norm
        return norm if norm is not None and (norm.training or norm.running_mean is None) else None

    def _train(self, norm: nn.BatchNorm2d, operands: Operands) -> Pending:
        across = Across.of(norm)
        vectors = norm.weight, norm.bias, norm.eps
        raw, scale, shift, mean, var = block(
            *operands[:5], *vectors, self.resize == "pool", backend=operands.backend, across=across
        )
        if norm.training and norm.track_running_stats:
            n, _, p, q = operands.size
            _update(norm, mean, var, n * p * q if across is None else across.count, operands.backend)
        return Pending(raw, scale, shift, self.resize == "upsample")

    def _infer(self, operands: Operands) -> Pending:
        first, second, weight, bias, padding = operands[:5]
        norm = self.norm
        statistics: tuple[Any, ...] = (None, None, None, None, 0.0)
        if norm is not None:
            statistics = norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps
        if first.scale is not None:
            first = Pending(first.materialise())
        if second is not None and second.scale is not None:
            second = Pending(second.materialise())
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


def materialised(input: Image, skip: Image | None) -> Tensor:
    images = [i.materialise() if isinstance(i, Pending) else i for i in _given(input, skip)]
    return images[0] if skip is None else torch.cat(images, dim=-3)


def _given(input: Image, skip: Image | None) -> tuple[Image, ...]:
    return (input,) if skip is None else (input, skip)


class Operands(NamedTuple):
    """Of a fused convolution of stride 1."""

    first: Pending
    second: Pending | None
    weight: Tensor
    bias: Tensor | None
    padding: tuple[int, int]
    size: tuple[int, int, int, int]  # of the convolution's output
    backend: str
    reason: str  # why that one


def convolution_operands(
    conv: MyConv2d, input: Image, skip: Image | None, *others: Tensor | None
) -> Operands | str:
    """What the fused operators take, or why they cannot serve; `others` are tensors that they would take as well."""
    if (why_not := changed(conv, MyConv2d)) is not None:
        return why_not
    padding = _padding(conv)
    if conv.stride != (1, 1) or conv.dilation != (1, 1) or conv.groups != 1 or padding is None:
        return "fused kernels have stride 1, dilation 1, one group and zero padding, the same on both sides"
    feeds = [i if isinstance(i, Pending) else Pending(i) for i in _given(input, skip)]
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
    if device in AUTOCAST_DEVICES and torch.is_autocast_enabled(device):
        if block_operators.preferred(device, backends.wanted) != "triton":
            return "autocast narrows plain operators"
        # Images and weights as in the framework's autocast; vectors and statistics stay wide.
        weight, *images = autocast(weight, *(feed.tensor for feed in feeds))
        feeds = [feed._replace(tensor=image) for feed, image in zip(feeds, images, strict=True)]
    size = output_size((n, channels, *pixels), weight.shape, (1, 1), padding, (1, 1))
    if channels != weight.shape[1] or min(size[2:]) < 1:
        return "weight does not fit the input"
    vectors = (*others, *(vector for feed in feeds for vector in feed[1:3]))
    tensors = (feed.tensor for feed in feeds)
    backend, reason = block_operators.choose(weight, bias, *tensors, *vectors, wanted=backends.wanted)
    if backend is None:
        return reason
    return Operands(
        feeds[0], feeds[1] if skip is not None else None, weight, bias, padding, size, backend, reason
    )


_OWN = {"forward", "_conv_forward"}  # where an instance has these, people put them there


def changed(module: nn.Module, kind: type[nn.Module], *others: type[nn.Module]) -> str | None:
    """Whether calling the module does anything but what its class, one of these, does."""
    if type(module) not in (kind, *others):
        return f"{type(module).__name__} in place of {kind.__name__}"
    forward = module._forward_hooks or module._forward_pre_hooks
    own = not _OWN.isdisjoint(module.__dict__)
    if own or forward or module._backward_hooks or module._backward_pre_hooks or _has_any_global_hook():
        return f"hooks on {kind.__name__} see plain tensors"
    return None


def _padding(conv: nn.Conv2d) -> tuple[int, int] | None:
    """Zeros on each side, vertically and horizontally; None if it is not so simple."""
    if conv.padding_mode != "zeros":
        return None
    if not isinstance(conv.padding, str):
        return pair(conv.padding, "padding")
    if conv.padding == "valid":
        return 0, 0
    r, s = conv.weight.shape[2:]
    return (r // 2, s // 2) if r % 2 and s % 2 else None


def _requires_grad(operands: Operands, others: Iterable[Tensor | None]) -> bool:
    feeds = (*operands.first[:3], *(operands.second or ())[:3])
    return any(t is not None and t.requires_grad for t in (*feeds, operands.weight, operands.bias, *others))


def _update(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor, count: int | Tensor, backend: str) -> None:
    """`update`, in one kernel where there is one."""
    running_mean, running_var, momentum = norm.running_mean, norm.running_var, norm.momentum
    plain = backend != "triton" or isinstance(count, Tensor)
    if plain or momentum is None or running_mean is None or running_var is None:
        update(norm, mean, var, count)
        return
    from .triton import block_statistics as kernel  # imports triton

    unbias = float(count / (count - 1))
    kernel.update(mean, var, running_mean, running_var, norm.num_batches_tracked, momentum, unbias)
