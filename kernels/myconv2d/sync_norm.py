"""Batch norm over the batches of all processes: the same numbers as in one process with all of their pictures.

Each process has mean and variance of its own part; the parts are gathered and joined in the order of the ranks (Chan et
al. 1979), in float64, so that every process has the same bits. In the backward pass, the two sums over pixels that a
batch norm needs are taken over all processes. `ConvBlock` does this between its fused operators, for the framework's
`SyncBatchNorm`, which by itself is for GPUs alone, and for `SyncBatchNorm2d`, which serves any device.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_AXES = (0, 2, 3)  # all but the channels


class Across:
    """One call of a batch norm, seen by all processes of `group` (None: all there are)."""

    count: Tensor  # of values per channel, in all processes, once they are joined
    _share: Tensor  # of these that are here
    _mean: Tensor  # of those

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._group = group

    @classmethod
    def of(cls, norm: nn.Module) -> Across | None:
        """Of this layer as it is now; None if its statistics are those of its own batch, or running ones."""
        if not isinstance(norm, (nn.SyncBatchNorm, SyncBatchNorm2d)) or not norm.training:
            return None
        if not getattr(norm, "joint", True):
            return None
        if not dist.is_available() or not dist.is_initialized() or dist.get_world_size(norm.process_group) < 2:
            return None
        return cls(norm.process_group)

    def join(self, mean: Tensor, var: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Mean and biased variance (C,) of all processes' values, float64, from those of the `count` ones here."""
        channels = len(mean)
        own = torch.cat((mean.double(), var.double(), mean.new_full((1,), count, dtype=torch.float64)))
        means, variances, counts = self._gathered(own).split((channels, channels, 1), 1)
        self.count = counts.sum()
        self._share, self._mean = count / self.count, mean.double()
        mean = (counts * means).sum(0) / self.count
        return mean, (counts * (variances + (means - mean).square())).sum(0) / self.count

    def total(self, *vectors: Tensor) -> Tensor:
        """The sum over all processes of each of these vectors (C,), float64 (vectors, C)."""
        return self._gathered(torch.stack([vector.double() for vector in vectors])).sum(0)

    def spread(
        self, grad_scale: Tensor | None, grad_shift: Tensor | None, mean: Tensor, square: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the backward of a block is to take for the gradients of its scale and shift and for its mean, such that
        it gives the gradients of the joint batch norm, whose mean is `mean`, with 1 / (var + eps) = `square`.

        A block divides by the number of its own values: so these are all processes' sums times its share. It may take
        its own mean for granted, as it is that of the values that it computes again: so it gets that one, and what the
        joint one is apart goes into the gradient of the shift. The gradients of gamma and beta come out as shares that
        add up to the whole.
        """
        known = [torch.zeros_like(mean) if grad is None else grad for grad in (grad_scale, grad_shift)]
        by_scale, by_shift = self._share * self.total(*known)
        centred = by_scale - mean.double() * by_shift
        by_shift = by_shift + centred * square.double() * (self._mean - mean.double())
        by_scale = centred + self._mean * by_shift
        return by_scale.to(known[0].dtype), by_shift.to(known[1].dtype), self._mean.to(mean.dtype)

    def _gathered(self, own: Tensor) -> Tensor:
        """Every process's tensor, stacked by rank."""
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size(self._group))]
        dist.all_gather(parts, own, group=self._group)
        return torch.stack(parts)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d with the statistics of all processes of `process_group`; by itself while `joint` is False.

    (No nn.SyncBatchNorm: DistributedDataParallel refuses these on a CPU.)
    """

    joint = True
    process_group: dist.ProcessGroup | None = None  # all there are

    def forward(self, input: Tensor) -> Tensor:
        across = Across.of(self)
        if across is None:
            return super().forward(input)
        self._check_input_dim(input)
        weight = input.new_ones(self.num_features) if self.weight is None else self.weight
        bias = torch.zeros_like(weight) if self.bias is None else self.bias
        output, mean, var = _SyncBatchNorm.apply(input, weight, bias, self.eps, across)
        if self.track_running_stats:
            update(self, mean, var, across.count)
        return output


class _SyncBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, weight, bias, eps, across):
        values = input.double()
        var, mean = torch.var_mean(values, _AXES, correction=0)
        mean, var = across.join(mean, var, input.numel() // input.shape[1])
        r = (var + eps).rsqrt()
        scale = weight * r
        output = (_image(scale) * values + _image(bias - mean * scale)).to(input.dtype)
        ctx.save_for_backward(input, weight, mean, r)
        ctx.across = across
        ctx.mark_non_differentiable(mean, var)
        return output, mean, var

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, *_):
        input, weight, mean, r = ctx.saved_tensors
        centred, grad = input.double() - _image(mean), grad.double()
        along, level = (grad * centred).sum(_AXES), grad.sum(_AXES)
        slope, offset = ctx.across.total(along, level) / ctx.across.count
        to_input = _image(weight * r) * (grad - _image(offset) - _image(r.square() * slope) * centred)
        return to_input.to(input.dtype), (r * along).to(weight.dtype), level.to(weight.dtype), None, None


def _image(vector: Tensor) -> Tensor:
    return vector[:, None, None]


def update(norm: _BatchNorm, mean: Tensor, var: Tensor, count: int | Tensor) -> None:
    """The running statistics, as the framework keeps them: the variance of `count` values unbiased."""
    momentum = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:  # the mean over all batches
            momentum = 1.0 / float(norm.num_batches_tracked)
    if norm.running_mean is not None and norm.running_var is not None:
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum or 0.0)
        norm.running_var.lerp_((var * (count / (count - 1))).to(norm.running_var.dtype), momentum or 0.0)


def synchronise(model: nn.Module) -> list[SyncBatchNorm2d]:
    """Makes every nn.BatchNorm2d of a model a SyncBatchNorm2d, in place, and returns all that it has."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
    return [module for module in model.modules() if isinstance(module, SyncBatchNorm2d)]
