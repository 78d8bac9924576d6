"""cross_entropy(): log-softmax, negative log-likelihood and their gradient in one pass over the logits.

Two operators: `cross_entropy` gives the loss and is differentiable; `cross_entropy_with_gradient`, which its
derivative is made of, gives the loss and ∂loss/∂logits at once, so that backward has next to nothing to do. On the CPU
the native library implements them (csrc/loss.cpp), on a GPU Triton (triton/loss.py), elsewhere plain torch.
Losses are float32 whatever the logits' type.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import handle_torch_function, has_torch_function_variadic

from . import backends, native, triton
from .operators import LIBRARY

_REDUCTIONS = ("none", "mean", "sum")  # their numbers in the operators, as the framework numbers them
_TARGETS = (torch.int64, torch.uint8)
_PLAIN = (Tensor, torch.nn.Parameter)


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    reduction: str = "mean",
    ignore_index: int = -100,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of classes: `torch.nn.functional.cross_entropy`, in one pass over the logits.

    Args:
        logits: (N, K), (N, K, H, W) or (N, K, d1, …), scores of K classes. Any strides; the gradient has the same.
        target: (N), (N, H, W) or (N, d1, …), the classes, 0 … K − 1, or `ignore_index` where a pixel does not count.
        reduction: "mean" over the pixels that count, "sum", or "none".

    Returns:
        A scalar, or with "none" the loss of each pixel, of the target's shape.

        >>> logits, target = torch.zeros(2, 24, 32, 32), torch.zeros(2, 32, 32, dtype=torch.uint8)
        >>> print(f"{myconv2d.cross_entropy(logits, target):.4f}")  # log 24
        3.1781

    The framework's own function serves what this package's kernels do not: other types than float32 (on a GPU float16
    and bfloat16 too, and at most 1,024 classes) with int64 or uint8 targets, targets that are probabilities, `weight`,
    `label_smoothing`, other devices, subclasses of Tensor, torch.func's transforms and forward mode, a backend other
    than native (on a GPU: Triton; not yet run there), the derivative of the gradient, and on a GPU `torch.compile`.

    Error: computed in float32, the loss summed in double. It and the gradient are the same bit for bit for any number
    of threads, and on a GPU from call to call.

    Raises:
        IndexError, RuntimeError, ValueError: as `torch.nn.functional.cross_entropy` does; but on a GPU, where no call
            waits for an answer, a class that does not exist makes the loss NaN.
    """
    if has_torch_function_variadic(logits, target, weight):
        options: dict[str, Any] = {"reduction": reduction, "ignore_index": ignore_index, "weight": weight}
        options["label_smoothing"] = label_smoothing
        return handle_torch_function(cross_entropy, (logits, target, weight), logits, target, **options)
    simple = weight is None and label_smoothing == 0.0 and reduction in _REDUCTIONS
    if not simple or not _served(logits, target):
        if isinstance(target, Tensor) and target.dtype == torch.uint8:
            target = target.long()  # the framework takes uint8 of some shapes only
        return F.cross_entropy(
            logits, target, weight, None, ignore_index, None, reduction, label_smoothing=label_smoothing
        )
    missing = 4 - logits.dim()
    if missing > 0:
        pixels, classes = target[(..., *[None] * missing)], logits[(..., *[None] * missing)]
    else:
        pixels, classes = target.flatten(2) if missing else target, logits.flatten(3) if missing else logits
    loss = torch.ops.myconv2d.cross_entropy(classes, pixels, _REDUCTIONS.index(reduction), ignore_index)
    if not torch.is_autocast_enabled(logits.device.type):  # whose losses are float32
        loss = loss.to(logits.dtype)
    return loss.view(target.shape) if missing and reduction == "none" else loss


def _served(logits: Any, target: Any) -> bool:
    """Whether a kernel takes these, and nothing but reverse mode can see the call."""
    return (
        type(logits) in _PLAIN
        and type(target) in _PLAIN
        and target.dtype in _TARGETS
        and logits.device == target.device
        and logits.layout == target.layout == torch.strided
        and logits.dim() >= 2
        and logits.shape[1] > 0
        and target.shape == (logits.shape[0], *logits.shape[2:])
        and _has_kernel(logits)
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


def _has_kernel(logits: Tensor) -> bool:
    device, wanted = logits.device.type, backends.wanted
    if device == "cpu":
        return logits.dtype == torch.float32 and wanted in (None, "native") and native.cpu.problem is None
    return (
        device == "cuda"
        and not torch.compiler.is_compiling()  # which fuses the framework's own
        and logits.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and logits.shape[1] <= triton.MOST_CLASSES
        and wanted in (None, "triton")
        and backends.problem("triton", device, logits.dtype) is None
    )


def _gradient(logits: Tensor, target: Tensor, reduction: int, ignore_index: int) -> Tensor:
    """∂loss/∂logits in plain torch, differentiable: softmax less one-hot, over the number of pixels for "mean"."""
    counts = target != ignore_index
    right = torch.zeros_like(logits).scatter(1, target.where(counts, 0).long().unsqueeze(1), 1)
    gradient = (logits.softmax(1) - right) * counts.unsqueeze(1)
    return gradient / counts.sum().clamp(min=1) if _REDUCTIONS[reduction] == "mean" else gradient


def _reference(logits: Tensor, target: Tensor, reduction: int, ignore_index: int) -> Tensor:
    with torch.autocast(logits.device.type, enabled=False):
        logits, target = logits.float(), target.long()
        return F.cross_entropy(logits, target, ignore_index=ignore_index, reduction=_REDUCTIONS[reduction])


def _reference_with_gradient(logits: Tensor, target: Tensor, *numbers: int) -> tuple[Tensor, Tensor]:
    gradient = torch.empty_like(logits).copy_(_gradient(logits, target, *numbers))
    return _reference(logits, target, *numbers), gradient


def _fake(logits: Tensor, target: Tensor, reduction: int, ignore_index: int) -> Tensor:
    return logits.new_empty(target.shape if _REDUCTIONS[reduction] == "none" else (), dtype=torch.float32)


def _fake_with_gradient(logits: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return _fake(logits, *others), torch.empty_like(logits)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target, reduction, ignore_index):
        ctx.save_for_backward(logits, target)
        ctx.numbers = reduction, ignore_index
        loss, ctx.gradient = _WITH_GRADIENT(logits, target, *ctx.numbers)
        return loss

    @staticmethod
    def backward(ctx, grad_loss):
        each = grad_loss.unsqueeze(1) if grad_loss.dim() else grad_loss
        if torch.is_grad_enabled():  # create_graph=True
            return _gradient(*ctx.saved_tensors, *ctx.numbers) * each, None, None, None
        # Whoever gets the gradient may change it, so it is given away once; retain_graph=True computes it again.
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            gradient = _WITH_GRADIENT(*ctx.saved_tensors, *ctx.numbers)[1]
        if not _concrete(each):
            return gradient * each, None, None, None
        if each.dim() or each.is_cuda or each.item() != 1:  # a GPU is not waited for
            gradient.mul_(each)
        return gradient, None, None, None


def _concrete(tensor: Tensor) -> bool:
    """Whether a tensor is one of numbers in memory, not one that is traced or vmapped."""
    functorch = torch._C._functorch
    transformed = torch._C._are_functorch_transforms_active() or functorch.is_legacy_batchedtensor(tensor)
    return type(tensor) is Tensor and not transformed


def _with_derivative(keys: torch._C.DispatchKeySet, logits: Tensor, *others: Any) -> Tensor:
    if torch.is_grad_enabled() and logits.requires_grad:
        return _CrossEntropy.apply(logits, *others)
    with torch._C._AutoDispatchBelowAutograd():
        return _LOSS.redispatch(keys & torch._C._after_autograd_keyset, logits, *others)


_ARGUMENTS = "(Tensor logits, Tensor target, int reduction, SymInt ignore_index)"
for _name, _result, _fake_of, _plain in (
    ("cross_entropy", "Tensor", _fake, _reference),
    ("cross_entropy_with_gradient", "(Tensor, Tensor)", _fake_with_gradient, _reference_with_gradient),
):
    LIBRARY.define(f"{_name}{_ARGUMENTS} -> {_result}", tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.register_fake(f"myconv2d::{_name}", _fake_of, lib=LIBRARY)
    LIBRARY.impl(_name, _plain, "CompositeExplicitAutograd")
LIBRARY.impl("cross_entropy", _with_derivative, "Autograd", with_keyset=True)
LIBRARY.impl("cross_entropy", lambda *arguments: triton.cross_entropy(*arguments, gradient=False)[0], "CUDA")
LIBRARY.impl("cross_entropy_with_gradient", lambda *arguments: triton.cross_entropy(*arguments, gradient=True), "CUDA")
_LOSS = torch.ops.myconv2d.cross_entropy.default
_WITH_GRADIENT = torch.ops.myconv2d.cross_entropy_with_gradient.default
