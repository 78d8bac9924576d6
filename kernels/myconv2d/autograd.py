"""The derivatives of the three operators, once for every backend.

With X the input, W the weight and G a gradient of the output, the trilinear form T(G, X, W) = ⟨G, X ∗ W⟩ has the
partial derivatives

    conv2d(X, W) = ∂T/∂G        conv2d_grad_input(G, W) = ∂T/∂X        conv2d_grad_weight(G, X) = ∂T/∂W

and since T is linear in each argument, deriving any of these again gives the third operator of the triple. That is
all of backward, double backward and forward mode below. (vmap: batching.py.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import backends, batching
from .operators import LIBRARY, overload
from .shapes import Numbers

_BELOW_PYTHON = hasattr(torch._C, "_FunctionBase") and hasattr(torch._C, "_are_functorch_transforms_active")


class _Operator(torch.autograd.Function):
    """One of the three operators, differentiable in every mode."""

    @classmethod
    def call(cls, *args: Any) -> Any:
        """`apply`, without its binding of signatures (36 µs) where no transform needs that."""
        if not _BELOW_PYTHON or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return cls.apply(*args)
        base: Any = super(torch.autograd.Function, cls)
        return base.apply(*args)


def is_traced() -> bool:
    """Whether torch.jit.trace records this call, as the default overload, which has the derivatives as well."""
    return torch._C._get_tracing_state() is not None


def untracked(*tensors: Tensor | None) -> bool:
    """Whether no derivative and no transform can see this call, so that the bare operator will do."""
    if torch.compiler.is_compiling() or not _BELOW_PYTHON or torch._C._are_functorch_transforms_active():
        return False
    if forward_ad._current_level >= 0 or is_traced():
        return False
    return not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors))


def _run(name: str, numbers: Numbers, *operands: Any) -> Any:
    """The bare operator on the backend that serves it; an exported program or a trace chooses where it will run."""
    stride, padding, dilation, groups, wanted = numbers
    backend = None
    if not (torch.compiler.is_exporting() or is_traced()):
        backend = backends.serving(name, operands, groups, wanted).backend
    flag = operands[3:]  # conv2d_grad_weight's `bias`
    return overload(name, backend)(*operands[:3], stride, padding, dilation, groups, *flag)


def _share_a_pass(grad_output: Tensor, input: Tensor, weight: Tensor, numbers: Numbers) -> bool:
    """Whether the CPU library gives both gradients, which nobody derives again, in one call with the same results."""
    if not (grad_output.is_cpu and untracked(grad_output, input, weight)):
        return False
    return backends.choose("cpu", grad_output.dtype, numbers.backend).backend == "native"


def _sum(terms: Sequence[Tensor | None]) -> Tensor | None:
    present = [term for term in terms if term is not None]
    return sum(present[1:], present[0]) if present else None


def _maybe(tensor: Tensor | None, derivative: Callable[..., Any], *args: Any) -> Any:
    return None if tensor is None else derivative(*args)


@contextmanager
def _lower_levels(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """For a `jvp`: the operands without the tangents of its own level, while those of the levels below are followed.

    The framework follows none there, so that jacfwd of jacfwd would lose second derivatives.
    """
    with forward_ad._set_fwd_grad_enabled(True):
        yield [forward_ad.unpack_dual(tensor, level=0).primal for tensor in tensors]  # the number of every level


def _per_channel(vector: Tensor, size: Sequence[int]) -> Tensor:
    return vector[:, None, None].expand(size)


class _Conv2d(_Operator):
    @staticmethod
    def forward(input, weight, bias, numbers):
        return _run("conv2d", numbers, input, weight, bias)

    @staticmethod
    def setup_context(ctx, inputs, output):
        input, weight, bias, ctx.numbers = inputs
        ctx.has_bias = bias is not None
        ctx.output_size = output.shape
        ctx.save_for_backward(input, weight)
        ctx.save_for_forward(input, weight)

    @staticmethod
    def backward(ctx, grad_output):
        input, weight = ctx.saved_tensors
        wants_input, wants_weight, wants_bias, _ = ctx.needs_input_grad
        grad_input = grad_weight = grad_bias = None
        if wants_input and wants_weight and _share_a_pass(grad_output, input, weight, ctx.numbers):
            grad_input, grad_weight, grad_bias = torch.ops.myconv2d.conv2d_backward.default(
                grad_output, input, weight, *ctx.numbers[:4], wants_bias
            )
            return grad_input, grad_weight, grad_bias if wants_bias else None, None
        if wants_input:
            grad_input = conv2d_grad_input(grad_output, weight, input.shape, ctx.numbers)
        if wants_weight:
            grad_weight, grad_bias = conv2d_grad_weight(
                grad_output, input, weight.shape, wants_bias, ctx.numbers
            )
        elif wants_bias:
            grad_bias = grad_output.sum((0, 2, 3))
        return grad_input, grad_weight, grad_bias if wants_bias else None, None

    @staticmethod
    def jvp(ctx, input_t, weight_t, bias_t, _):
        with _lower_levels(ctx.saved_tensors) as (input, weight):
            return _sum((
                _maybe(input_t, conv2d, input_t, weight, None, ctx.numbers),
                _maybe(weight_t, conv2d, input, weight_t, None, ctx.numbers),
                _maybe(bias_t, _per_channel, bias_t, ctx.output_size),
            ))  # fmt: skip

    @staticmethod
    def vmap(info, in_dims, input, weight, bias, numbers):
        return batching.conv2d(conv2d, info.batch_size, in_dims, input, weight, bias, numbers)


class _GradInput(_Operator):
    @staticmethod
    def forward(grad_output, weight, input_size, numbers):
        return _run("conv2d_grad_input", numbers, grad_output, weight, input_size)

    @staticmethod
    def setup_context(ctx, inputs, output):
        grad_output, weight, ctx.input_size, ctx.numbers = inputs
        ctx.save_for_backward(grad_output, weight)
        ctx.save_for_forward(grad_output, weight)

    @staticmethod
    def backward(ctx, grad):  # of the size of the input
        grad_output, weight = ctx.saved_tensors
        wants_grad_output, wants_weight, *_ = ctx.needs_input_grad
        to_grad_output = conv2d(grad, weight, None, ctx.numbers) if wants_grad_output else None
        to_weight = None
        if wants_weight:
            to_weight, _ = conv2d_grad_weight(grad_output, grad, weight.shape, False, ctx.numbers)
        return to_grad_output, to_weight, None, None

    @staticmethod
    def jvp(ctx, grad_output_t, weight_t, *_):
        with _lower_levels(ctx.saved_tensors) as (grad_output, weight):
            return _sum((
                _maybe(grad_output_t, conv2d_grad_input, grad_output_t, weight, ctx.input_size, ctx.numbers),
                _maybe(weight_t, conv2d_grad_input, grad_output, weight_t, ctx.input_size, ctx.numbers),
            ))  # fmt: skip

    @staticmethod
    def vmap(info, in_dims, grad_output, weight, input_size, numbers):
        return batching.grad_input(
            conv2d_grad_input, info.batch_size, in_dims, grad_output, weight, input_size, numbers
        )


class _GradWeight(_Operator):
    @staticmethod
    def forward(grad_output, input, weight_size, bias, numbers):
        return _run("conv2d_grad_weight", numbers, grad_output, input, weight_size, bias)

    @staticmethod
    def setup_context(ctx, inputs, output):
        grad_output, input, ctx.weight_size, ctx.bias, ctx.numbers = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad_output, input)
        ctx.save_for_forward(grad_output, input)

    @staticmethod
    def backward(ctx, grad_weight, grad_bias):  # of the sizes of the weight and the bias
        grad_output, input = ctx.saved_tensors
        wants_grad_output, wants_input, *_ = ctx.needs_input_grad
        grad_bias = grad_bias if ctx.bias else None
        to_grad_output = to_input = None
        if wants_grad_output and grad_weight is not None:
            to_grad_output = conv2d(input, grad_weight, grad_bias, ctx.numbers)
        elif wants_grad_output and grad_bias is not None:
            to_grad_output = _per_channel(grad_bias, grad_output.shape)
        if wants_input and grad_weight is not None:
            to_input = conv2d_grad_input(grad_output, grad_weight, input.shape, ctx.numbers)
        return to_grad_output, to_input, None, None, None

    @staticmethod
    def jvp(ctx, grad_output_t, input_t, *_):
        size, numbers = ctx.weight_size, ctx.numbers
        with _lower_levels(ctx.saved_tensors) as (grad_output, input):
            none = None, None
            by_grad_output = (
                _maybe(grad_output_t, conv2d_grad_weight, grad_output_t, input, size, ctx.bias, numbers) or none
            )
            by_input = _maybe(input_t, conv2d_grad_weight, grad_output, input_t, size, False, numbers) or none
            grad_bias = by_grad_output[1]
            if grad_bias is None:  # grad_bias does not depend on the input
                grad_bias = input.new_zeros(size[0] if ctx.bias else 0)
            return _sum((by_grad_output[0], by_input[0])), grad_bias

    @staticmethod
    def vmap(info, in_dims, grad_output, input, weight_size, bias, numbers):
        return batching.grad_weight(
            conv2d_grad_weight, info.batch_size, in_dims, grad_output, input, weight_size, bias, numbers
        )


def conv2d(input: Tensor, weight: Tensor, bias: Tensor | None, numbers: Numbers) -> Tensor:
    """output (N, K, P, Q) of input (N, C, H, W), weight (K, C/groups, R, S) and bias (K,) or None."""
    if torch.compiler.is_dynamo_compiling():
        _show_dynamo()
        return _one_node(input, weight, bias, *numbers)
    if untracked(input, weight, bias) or is_traced():
        return _run("conv2d", numbers, input, weight, bias)
    return _Conv2d.call(input, weight, bias, numbers)


def _one_node(input: Tensor, weight: Tensor, bias: Tensor | None, *numbers: Any) -> Tensor:
    """What Dynamo puts into its graph as it stands, for AOTAutograd to trace.

    It would refuse to look into an autograd.Function that has a `jvp`, and inside torch.func's transforms it
    would take the bare operator out of it, whose gradient is zero.
    """
    return _Conv2d.apply(input, weight, bias, Numbers(*numbers))


def _grad_input_node(grad_output: Tensor, weight: Tensor, input_size: Sequence[int], *numbers: Any) -> Tensor:
    """As `_one_node`, for a transposed convolution."""
    return _GradInput.apply(grad_output, weight, input_size, Numbers(*numbers))


def _show_dynamo() -> None:
    """Dynamo itself runs this as it traces, so that importing this package need not import all of Dynamo."""
    torch.compiler.allow_in_graph([_one_node, _grad_input_node])


# torch.compiler.assume_constant_result, which imports all of Dynamo
vars(_show_dynamo)["_dynamo_marked_constant"] = True


def conv2d_grad_input(
    grad_output: Tensor, weight: Tensor, input_size: Sequence[int], numbers: Numbers
) -> Tensor:
    """grad_input of size `input_size` of grad_output (N, K, P, Q) and weight (K, C/groups, R, S)."""
    if torch.compiler.is_dynamo_compiling():
        _show_dynamo()
        return _grad_input_node(grad_output, weight, input_size, *numbers)
    if untracked(grad_output, weight) or is_traced():
        return _run("conv2d_grad_input", numbers, grad_output, weight, input_size)
    return _GradInput.call(grad_output, weight, input_size, numbers)


def conv2d_grad_weight(
    grad_output: Tensor, input: Tensor, weight_size: Sequence[int], bias: bool, numbers: Numbers
) -> tuple[Tensor, Tensor]:
    """(grad_weight of size `weight_size`, grad_bias (K,) or (0,) unless `bias`) of grad_output and input."""
    if untracked(grad_output, input) or is_traced():
        return _run("conv2d_grad_weight", numbers, grad_output, input, weight_size, bias)
    return _GradWeight.call(grad_output, input, weight_size, bias, numbers)


def _differentiable(name: str, function: type[_Operator]) -> None:
    """Gives the default overload, which is what exported programs and traces call, the derivatives as well."""
    operator: Any = overload(name, None)

    def derived(*args: Any) -> Any:
        operands, flag = args[:3], args[7:]  # around the numbers
        return function.call(*operands, *flag, Numbers(*args[3:7]))

    def call(keys: torch._C.DispatchKeySet, *args: Any) -> Any:
        wanted = torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args)
        if wanted or forward_ad._current_level >= 0:
            return derived(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return operator.redispatch(keys & torch._C._after_autograd_keyset, *args)

    LIBRARY.impl(name, call, "Autograd", with_keyset=True)
    LIBRARY.impl(name, derived, "FuncTorchDynamicLayerFrontMode")  # torch.func's transforms


for _name, _function in (
    ("conv2d", _Conv2d),
    ("conv2d_grad_input", _GradInput),
    ("conv2d_grad_weight", _GradWeight),
):
    _differentiable(_name, _function)
