"""The fused block's derivatives, and `Pending`, the image that one block hands to the next.

An activation relu(scale·raw + shift) is never stored between two blocks: the next one computes it as it loads, from the
raw convolution and two vectors, and enlarges and concatenates by indexing (block_reference.py has the formulas).

First derivatives are operators. What these cannot be derived through (double backward, forward mode, torch.func,
torch.compile) sees the same block composed of plain operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from . import autograd, backends, block_operators, block_reference
from .autograd import _BELOW_PYTHON, _Operator
from .operators import overload
from .shapes import Numbers, output_size
from .sync_norm import Across


class Pending(NamedTuple):
    """An image (N, C, H, W) that is not computed yet: relu(scale·tensor + shift), or the tensor itself without a scale,
    enlarged twice (nearest) if `upsample`.

        >>> pending = myconv2d.ConvBlock(1, 8, resize="upsample")(torch.rand(1, 1, 16, 16), pending=True)
        >>> isinstance(pending, myconv2d.Pending), pending.shape
        (True, (1, 8, 32, 32))
        >>> pending.materialise().shape
        torch.Size([1, 8, 32, 32])
    """

    tensor: Tensor
    scale: Tensor | None = None
    shift: Tensor | None = None
    upsample: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the image."""
        n, c, h, w = self.tensor.shape
        return (n, c, 2 * h, 2 * w) if self.upsample else (n, c, h, w)

    def materialise(self) -> Tensor:
        """The image itself, in channels_last if anything had to be computed."""
        if self.scale is not None:
            backend, _ = block_operators.choose(None, *self[:3], wanted=backends.wanted)
            if backend is not None and hindrance() is None:
                return _activate(*self, backend)
            return block_reference.activate(*self)
        return F.interpolate(self.tensor, scale_factor=2, mode="nearest") if self.upsample else self.tensor


def hindrance() -> str | None:
    """Who is watching that the fused operators, or their derivatives, cannot be shown to; None if nobody is."""
    if torch.compiler.is_compiling():
        return "torch.compile fuses the plain operators itself"
    if not _BELOW_PYTHON or torch._C._are_functorch_transforms_active():
        return "torch.func transforms plain operators"
    if forward_ad._current_level >= 0:
        return "forward-mode derivatives are those of plain operators"
    if autograd.is_traced():
        return "a trace records plain operators"
    return None


def block(
    first: Pending,
    second: Pending | None,
    weight: Tensor,
    bias: Tensor | None,
    padding: tuple[int, int],
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    eps: float = 0.0,
    pool: bool = False,
    *,
    backend: str,
    across: Across | None = None,
) -> tuple[Tensor, ...]:
    """(raw, scale, shift, mean, var) of the convolution of one feed, or of two concatenated, differentiable.

    The next feed is (raw, scale, shift); mean and var (biased) are those of the convolution, without gradient. All
    vectors are empty without `gamma`. With it, raw is to be read through scale and shift: then the bias has no effect,
    and its first derivative is given as zero. `across`: the statistics are those of all processes' images.
    """
    args = *first, *(second or _NOTHING), weight, bias, padding, gamma, beta, eps, pool
    if _tracked(args):
        return _Block.call(backend, across, *args)
    raw, _, _, *vectors = _run(backend, across, *args)
    return raw, *vectors


_NOTHING = (None, None, None, False)


def _activate(
    raw: Tensor, scale: Tensor | None, shift: Tensor | None, upsample: bool, backend: str
) -> Tensor:
    args = raw, scale, shift, upsample
    return _Activate.call(backend, *args) if _tracked(args) else overload("activate", backend)(*args)


def _tracked(args: Sequence[Any]) -> bool:
    return torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args)


def _run(backend: str, across: Across | None, *args: Any) -> tuple[Tensor, ...]:
    """The operator, and its vectors as they are across all processes."""
    results = overload("block", backend)(*args)
    if across is None:
        return results
    raw, full, index, _, _, mean, var = results
    weight, _, padding, gamma, beta, eps, _ = args[8:]
    n, _, p, q = output_size(Pending(*args[:4]).shape, weight.shape, (1, 1), padding, (1, 1))
    kind = mean.dtype
    mean, var = across.join(mean, var, n * p * q)
    scale = gamma * (var + eps).rsqrt()
    shift = beta - mean * scale
    return raw, full, index, scale.to(gamma.dtype), shift.to(beta.dtype), mean.to(kind), var.to(kind)


class _Block(_Operator):
    @staticmethod
    def forward(ctx, backend, across, *args):
        raw, full, index, *vectors = _run(backend, across, *args)
        weight, bias, ctx.padding, gamma, beta, ctx.eps, ctx.pool = args[8:]
        ctx.backend, ctx.enlarged, ctx.bias = backend, (args[3], args[7]), bias is not None
        ctx.across = across
        y = None if gamma is None else full if ctx.pool else raw
        operands = *args[:3], *args[4:7], weight, bias, gamma, beta
        ctx.save_for_backward(*operands, *(vectors[2:] if gamma is not None else (None, None)), y, index)
        ctx.mark_non_differentiable(*vectors[2:] if gamma is not None else vectors)
        ctx.set_materialize_grads(False)
        ctx.twice = False
        return raw, *vectors

    @staticmethod
    def backward(ctx, grad_raw, grad_scale, grad_shift, *_):
        if grad_raw is None and grad_scale is None and grad_shift is None:
            return (None,) * len(ctx.needs_input_grad)
        saved = ctx.saved_tensors
        *first, skip, skip_scale, skip_shift, weight, bias, gamma, beta, mean, var, y, index = saved
        first, second = (*first, ctx.enlarged[0]), (skip, skip_scale, skip_shift, ctx.enlarged[1])
        if torch.is_grad_enabled():
            if ctx.across is not None:
                raise NotImplementedError("second derivatives through batch norm across processes are not supported")
            ctx.twice = True
            args = *first, *second, weight, bias, ctx.padding, gamma, beta, ctx.eps, ctx.pool
            composition = _composition(ctx.backend)
            return None, None, *_differentiable_grads(composition, args, (grad_raw, grad_scale, grad_shift))
        needed = ctx.needs_input_grad[2:]  # of the arguments of the operator
        wanted = [any(needed[:3]), any(needed[4:7]), any(needed[8:])]
        if grad_raw is None:
            grad_raw = torch.zeros_like(index if ctx.pool else y, dtype=y.dtype)
        if ctx.across is not None:
            square = (var.double() + ctx.eps).reciprocal()
            grad_scale, grad_shift, mean = ctx.across.spread(grad_scale, grad_shift, mean, square)
        grads = overload("block_backward", ctx.backend)(
            grad_raw, grad_scale, grad_shift, *first, *second, weight, ctx.padding, gamma, mean, var, ctx.eps,
            grad_raw if y is None else y, index, ctx.pool, ctx.bias, wanted,
        )  # fmt: skip
        to_weight, to_bias, to_gamma, to_beta = grads[6:]
        if ctx.twice and ctx.bias and gamma is not None:
            # Only all derivatives of a second derivative together do not depend on the bias; this is one of them.
            to_bias = grad_raw.sum((0, 2, 3))
            if grad_shift is not None:
                to_bias -= gamma * (var + ctx.eps).rsqrt() * grad_shift
        by_position = (
            *grads[:3],
            None,
            *grads[3:6],
            None,
            to_weight,
            to_bias,
            None,
            to_gamma,
            to_beta,
            None,
            None,
        )
        return None, None, *(grad if wants else None for grad, wants in zip(by_position, needed, strict=True))


class _Activate(_Operator):
    @staticmethod
    def forward(ctx, backend, raw, scale, shift, upsample):
        ctx.backend, ctx.upsample = backend, upsample
        ctx.save_for_backward(raw, scale, shift)
        return overload("activate", backend)(raw, scale, shift, upsample)

    @staticmethod
    def backward(ctx, grad):
        args = *ctx.saved_tensors, ctx.upsample
        if torch.is_grad_enabled():
            return None, *_differentiable_grads(lambda *a: (block_reference.activate(*a),), args, (grad,))
        return None, *overload("activate_backward", ctx.backend)(grad, *args), None


def _composition(backend: str) -> Callable[..., tuple[Tensor, ...]]:
    def convolution(input, weight, bias, stride, padding, dilation, groups):
        bias = None if bias is None else bias.to(input.dtype)
        return autograd.conv2d(input, weight, bias, Numbers(stride, padding, dilation, groups, backend))

    def run(*args):
        raw, _, _, scale, shift, _, _ = block_reference.block(*args, convolution=convolution)
        return raw, scale, shift

    return run


def _differentiable_grads(
    function: Callable[..., tuple[Tensor, ...]], args: Sequence[Any], grad_outputs: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradients of `function` at `args`, for each of them, such that they can be derived again."""
    with torch.enable_grad():
        # Views, because one tensor may be several of the arguments.
        args = [a.view_as(a) if isinstance(a, Tensor) and a.requires_grad else a for a in args]
        wanted = [a for a in args if isinstance(a, Tensor) and a.requires_grad]
        pairs = zip(function(*args), grad_outputs, strict=True)
        outputs, seeds = zip(*((o, g) for o, g in pairs if g is not None), strict=True)
        grads = iter(torch.autograd.grad(outputs, wanted, seeds, create_graph=True, allow_unused=True))
    return [next(grads) if any(a is w for w in wanted) else None for a in args]
