"""The three operators: schemas, fakes, FLOP formulas, and who implements them.

A convolution is a trilinear form ⟨grad_output, input ∗ weight⟩. The operators are its three partial derivatives, and
every derivative of one of them is one of the three again (autograd.py).

Each operator has one overload per backend. The default overload is the automatic choice, made when it runs: on the
CPU it is the native library itself, everywhere else `backends.serving`.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from . import backends, native, reference
from .shapes import empty_beside, output_size

_NUMBERS = "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, SymInt groups"
_AT_ONCE = (  # numbers one by one: the framework takes twice as long to unpack lists as a tiny convolution takes
    "Tensor input, Tensor weight, Tensor? bias, int stride_h, int stride_w, int padding_h, int padding_w, "
    "int dilation_h, int dilation_w, int groups"
)
_BACKWARD = f"Tensor grad_output, Tensor input, Tensor weight, {_NUMBERS}, bool bias"
SCHEMAS = {
    "conv2d": (f"Tensor input, Tensor weight, Tensor? bias, {_NUMBERS}", "Tensor"),
    "conv2d_grad_input": (f"Tensor grad_output, Tensor weight, SymInt[] input_size, {_NUMBERS}", "Tensor"),
    "conv2d_grad_weight": (
        f"Tensor grad_output, Tensor input, SymInt[] weight_size, {_NUMBERS}, bool bias",
        "(Tensor, Tensor)",
    ),
}


def _conv2d_fake(input, weight, bias, stride, padding, dilation, groups) -> Tensor:
    return empty_beside(input, weight, output_size(input.shape, weight.shape, stride, padding, dilation))


def _grad_input_fake(grad_output, weight, input_size, stride, padding, dilation, groups) -> Tensor:
    return empty_beside(grad_output, weight, input_size)


def _grad_weight_fake(grad_output, input, weight_size, stride, padding, dilation, groups, bias):
    grad_bias = input.new_empty(weight_size[0] if bias else 0)
    return empty_beside(grad_output, input, weight_size), grad_bias


def _backward_fake(grad_output, input, weight, stride, padding, dilation, groups, bias):
    grad_bias = input.new_empty(weight.shape[0] if bias else 0)
    like_input, like_weight = (grad_output, weight, input.shape), (grad_output, input, weight.shape)
    return empty_beside(*like_input), empty_beside(*like_weight), grad_bias


_FAKES: dict[str, Callable] = {
    "conv2d": _conv2d_fake,
    "conv2d_grad_input": _grad_input_fake,
    "conv2d_grad_weight": _grad_weight_fake,
}


def allow_tf32() -> bool:
    """The framework's switch for TF32 in convolutions."""
    cudnn: Any = torch.backends.cudnn  # whose annotations leave `conv` out
    return cudnn.conv.fp32_precision == "tf32"


def _triton(name: str) -> Callable:
    def run(*args):
        kernels = importlib.import_module(".triton", __package__)  # imports triton, which takes a second
        return getattr(kernels, name)(*args, allow_tf32=allow_tf32())

    return run


def _reference(name: str) -> Callable:
    def run(*args):
        first: Tensor = args[0]
        with torch.autocast(first.device.type, enabled=False):  # it consists of operators that autocast would narrow
            return getattr(reference, name)(*args)

    return run


def _native_cuda(name: str) -> Callable:
    operator = getattr(torch.ops.myconv2d, f"{name}_cuda")
    return lambda *args: operator(*args, allow_tf32())


def _automatic(name: str) -> Callable:
    operator = getattr(torch.ops.myconv2d, name)

    def run(*args):
        return getattr(operator, backends.serving(name, args, args[6], None).backend)(*args)

    return run


@functools.cache
def overload(name: str, backend: str | None) -> Callable:
    """The operator `name` on one backend, or on the automatic choice."""
    return getattr(getattr(torch.ops.myconv2d, name), backend or "default")


def _define() -> torch.library.Library:
    library = torch.library.Library("myconv2d", "DEF")
    for name, (arguments, result) in SCHEMAS.items():
        for suffix in ("", *(f".{backend}" for backend in backends.BACKENDS)):
            library.define(f"{name}{suffix}({arguments}) -> {result}", tags=(torch.Tag.pt2_compliant_tag,))
            torch.library.register_fake(f"myconv2d::{name}{suffix}", _FAKES[name], lib=library)
        library.define(f"{name}_cuda({arguments}, bool allow_tf32) -> {result}")  # in the CUDA library
        library.impl(name, _automatic(name), "CompositeExplicitAutograd")
        library.impl(f"{name}.reference", _reference(name), "CompositeExplicitAutograd")
        for key in ("CPU", "CUDA"):
            library.impl(f"{name}.triton", _triton(name), key)
        library.impl(f"{name}.native", _native_cuda(name), "CUDA")
    # In the CPU library alone. Both gradients in one call, because there they can share a pass over grad_output:
    library.define(f"conv2d_backward({_BACKWARD}) -> (Tensor, Tensor, Tensor)")
    torch.library.register_fake("myconv2d::conv2d_backward", _backward_fake, lib=library)
    library.define(f"conv2d_at_once({_AT_ONCE}) -> Tensor")
    return library


LIBRARY = _define()
native.cpu.load()
native.cuda.load()
if native.cpu.problem is not None:  # a library of another version may have left its kernels behind
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _name in SCHEMAS:
            LIBRARY.impl(_name, _automatic(_name), "CPU", allow_override=True)


@register_flop_formula(torch.ops.myconv2d.conv2d)
def _conv2d_flop(input_size, weight_size, *args, out_shape: Sequence[int], **kwargs) -> int:
    return conv_flop_count(input_size, weight_size, [*out_shape])


@register_flop_formula(torch.ops.myconv2d.conv2d_grad_input)
def _grad_input_flop(grad_output_size, weight_size, input_size, *args, **kwargs) -> int:
    return conv_flop_count(input_size, weight_size, grad_output_size)


@register_flop_formula(torch.ops.myconv2d.conv2d_grad_weight)
def _grad_weight_flop(grad_output_size, input_size, weight_size, *args, **kwargs) -> int:
    return conv_flop_count(input_size, weight_size, grad_output_size)


@register_flop_formula(torch.ops.myconv2d.conv2d_backward)
def _backward_flop(grad_output_size, input_size, weight_size, *args, **kwargs) -> int:
    return 2 * conv_flop_count(input_size, weight_size, grad_output_size)
