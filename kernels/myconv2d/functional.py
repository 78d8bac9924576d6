"""conv2d(): arguments checked once, autocast, complex numbers, and the way into the derivatives."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from . import autograd, backends, native
from .shapes import Numbers

IntPair = int | tuple[int, ...] | list[int]

AUTOCAST_DEVICES = [d for d in ("cpu", "cuda", "mps", "xpu") if torch.amp.autocast_mode.is_autocast_available(d)]
_PLAIN = (Tensor, torch.nn.Parameter)
_CPU_LIBRARY = (None, "native") if native.cpu.problem is None else ()  # the wanted backends that it serves as
_AT_ONCE = torch.ops.myconv2d.conv2d_at_once.default
_watched = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)  # by how many modes, such as a FLOP counter
_TYPES = {*backends.NATIVE_TYPES["cpu"], torch.complex32, torch.complex64, torch.complex128}


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: str | IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
) -> Tensor:
    """2-D convolution (cross-correlation): a drop-in for `torch.nn.functional.conv2d`.

        >>> input, sobel = torch.eye(4)[None, None], torch.tensor([[[[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]]])
        >>> myconv2d.conv2d(input, sobel)
        tensor([[[[ 0., -2.],
                  [ 2.,  0.]]]])

    Args:
        input: (N, C, H, W), or (C, H, W) for one image. Any strides; channels_last in, channels_last out.
        weight: (K, C/groups, R, S).
        bias: (K,) or None.
        stride: pixels from one output to the next, one number or (vertical, horizontal).
        padding: zeros on each side, one number, (vertical, horizontal), "valid" (none) or "same" (output as large as
            the input; stride 1 only).
        dilation: pixels from one kernel element to the next, one number or (vertical, horizontal).
        groups: how many independent convolutions the channels are divided into; divides C and K.

    Returns:
        (N, K, P, Q), or (K, P, Q) for one image, with P = ⌊(H + 2·padding − dilation·(R − 1) − 1) / stride⌋ + 1.

    Error: accumulated in float32 for 16-bit types and rounded once, else in the type itself. On the CPU, kernels of
    3×3 and larger, of stride 1 and with 8 channels or more, may go through Winograd's F(4×4, 3×3), 3×3 of stride 2 and
    16 channels or more through F(4×4, 2×2), and those of few in channels, of stride 1 or 5×5 to 7×7 of stride 2,
    through F(2, 3) (`myconv2d.explain` names the algorithm): their errors, some 3e-6, are relative to the largest
    values around, and an infinity, a NaN or a float32 beyond 1/64 of the largest (5e36) makes the whole tile around it
    undefined; infinity and NaN do so too in grad_input of few channels with a stride, and in grad_weight of few
    channels one in the last or first columns may reach taps that do not meet it. Of a weight that is infinite or NaN,
    products with padding may count or not.

    What the framework's function does otherwise: an input without channels gives (N, K, P, Q) as stated above,
    not (N, 0, P, Q); an input without pixels is computed if its padding makes room for the kernel, not refused;
    every tensor must be on one device, "meta" included, and dense (no mkldnn layout).

    Raises:
        RuntimeError, TypeError: as `torch.nn.functional.conv2d` does, naming the argument.
    """
    if has_torch_function_variadic(input, weight, bias):
        everything = input, weight, bias, stride, padding, dilation, groups
        return handle_torch_function(conv2d, (input, weight, bias), *everything)
    if (output := _at_once(input, weight, bias, stride, padding, dilation, groups)) is not None:
        return output
    input, weight, bias, numbers = prepare(input, weight, bias, stride, padding, dilation, groups)
    if input.dim() == 3:
        return _by_type(input.unsqueeze(0), weight, bias, numbers).squeeze(0)
    return _by_type(input, weight, bias, numbers)


def _at_once(
    input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any
) -> Tensor | None:
    """The CPU library's own convolution, where nothing but it takes part in the call; else None.

    It checks all sizes itself, in plain words. So what a tiny layer would wait longer for than for its result is done
    only for calls that it refuses: `prepare`, which says what is wrong with them, and the way through autograd.
    """
    if type(input) not in _PLAIN or type(weight) not in _PLAIN or not (bias is None or type(bias) in _PLAIN):
        return None
    if not autograd.untracked(input, weight, bias):
        return None
    if backends.wanted not in _CPU_LIBRARY or not input.is_cpu or torch.is_autocast_enabled("cpu") or _watched():
        return None
    stride_h, stride_w = stride if type(stride) is tuple and len(stride) == 2 else (stride, stride)
    padding_h, padding_w = padding if type(padding) is tuple and len(padding) == 2 else (padding, padding)
    dilation_h, dilation_w = dilation if type(dilation) is tuple and len(dilation) == 2 else (dilation, dilation)
    numbers = stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, groups
    for number in numbers:
        if type(number) is not int:
            return None
    try:
        return _AT_ONCE(input, weight, bias, *numbers)
    except Exception:
        return None


def prepare(
    input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any
) -> tuple[Tensor, Tensor, Tensor | None, Numbers]:
    """The tensors as autocast and padding="same" want them, and the numbers; raises what `conv2d` raises."""
    check_tensors(input, weight, bias)
    input, weight, bias = autocast(input, weight, bias)
    numbers = _check(input, weight, bias, stride, padding, dilation, groups)
    if padding == "same":
        input, numbers = _pad_same(input, weight, numbers)
    return input, weight, bias, numbers


def check_tensors(input: Any, weight: Any, bias: Any, function: str = "conv2d") -> None:
    for name, tensor in (("input", input), ("weight", weight), ("bias", bias)):
        if not isinstance(tensor, Tensor) and (tensor is not None or name != "bias"):
            raise TypeError(f"{function}(): argument {name!r} must be Tensor, not {type(tensor).__name__}")


def _by_type(input: Tensor, weight: Tensor, bias: Tensor | None, numbers: Numbers) -> Tensor:
    if not input.is_complex():
        return autograd.conv2d(input, weight, bias, numbers)
    output = of_complex(lambda x, w: autograd.conv2d(x, w, None, numbers), input, weight)
    return output if bias is None else output + bias[:, None, None]


def of_complex(convolution: Callable[[Tensor, Tensor], Tensor], input: Tensor, weight: Tensor) -> Tensor:
    """A convolution is bilinear: four real ones make a complex one, derivatives included."""
    (a, b), (c, d) = ((t.real.clone(), t.imag.clone()) for t in (input, weight))  # dense, in the same layout
    real = convolution(a, c) - convolution(b, d)
    imag = convolution(a, d) + convolution(b, c)
    return torch.complex(real, imag)


def autocast(*tensors: Any) -> tuple[Any, ...]:
    """The framework's rule for convolutions: under autocast, floating types but float64 become the low precision.

    Of tensors, some of which may be None, as they come.
    """
    device = tensors[0].device.type
    if device not in AUTOCAST_DEVICES or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(
        t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t
        for t in tensors
    )


def _pad_same(input: Tensor, weight: Tensor, numbers: Numbers) -> tuple[Tensor, Numbers]:
    """padding="same" in numbers; where the total is odd, the extra pixel goes behind, as in the framework."""
    total = [numbers.dilation[i] * (weight.shape[2 + i] - 1) for i in range(2)]
    if total[0] % 2 or total[1] % 2:
        input = F.pad(input, (0, total[1] % 2, 0, total[0] % 2))
    return input, numbers._replace(padding=pair((total[0] // 2, total[1] // 2), "padding"))


def _integer(value: Any, name: str) -> int:
    if type(value) is int:
        return value
    if isinstance(value, torch.SymInt):
        return cast(int, value)  # as the framework's own annotations have it
    if not isinstance(value, bool):
        try:
            return operator.index(value)  # numpy's and tensors' integers
        except TypeError:
            pass
    raise TypeError(f"conv2d(): {name} must be made of integers, got {value!r} ({type(value).__name__})")


def pair(value: Any, name: str) -> tuple[int, int]:
    """(vertical, horizontal) of what the framework takes for it: one integer, or one or two in a sequence."""
    if type(value) is tuple and len(value) == 2 and type(value[0]) is int and type(value[1]) is int:
        return value
    values = value if isinstance(value, (tuple, list)) else (value,)
    if len(values) not in (1, 2):
        raise RuntimeError(
            f"conv2d(): expected {name} to be a single integer value or a list of 2 values to match the convolution "
            f"dimensions, but got {name}={value}"
        )
    return _integer(values[0], name), _integer(values[-1], name)


def _check(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: Any
) -> Numbers:
    """The numbers of a valid call; the framework's error, naming the argument, for any other."""
    if weight.dim() != 4:
        raise RuntimeError(
            f"conv2d(): Expected {max(weight.dim(), 1)}-dimensional input for {weight.dim()}-dimensional weight "
            f"{list(weight.shape)}: weight must have 4 dimensions (out_channels, in_channels/groups, height, width)"
        )
    if input.dim() not in (3, 4):
        raise RuntimeError(
            f"Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: {list(input.shape)}"
        )
    groups = _integer(groups, "groups")
    if groups <= 0:
        raise RuntimeError(f"conv2d(): non-positive groups is not supported, got groups={groups}")
    stride, dilation = pair(stride, "stride"), pair(dilation, "dilation")
    if stride[0] <= 0 or stride[1] <= 0:
        raise RuntimeError(f"conv2d(): non-positive stride is not supported, got stride={stride}")
    if dilation[0] <= 0 or dilation[1] <= 0:
        raise RuntimeError(f"conv2d(): dilation should be greater than zero, got dilation={dilation}")
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise RuntimeError(
                f"conv2d(): padding must be 'valid', 'same', an int or two ints, got {padding!r}"
            )
        if padding == "same" and stride != (1, 1):
            raise RuntimeError(
                f"padding='same' is not supported for strided convolutions, got stride={stride}"
            )
        pads = [dilation[i] * (weight.shape[2 + i] - 1) for i in range(2)] if padding == "same" else [0, 0]
        numbers = Numbers(stride, (0, 0), dilation, groups, backends.wanted)
    else:
        padding = pair(padding, "padding")
        if padding[0] < 0 or padding[1] < 0:
            raise RuntimeError(f"conv2d(): negative padding is not supported, got padding={padding}")
        pads = [2 * padding[0], 2 * padding[1]]
        numbers = Numbers(stride, padding, dilation, groups, backends.wanted)
    _check_tensors(input, weight, bias, dilation, groups, pads)
    return numbers


def _check_tensors(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dilation: tuple[int, int],
    groups: int,
    pads: Sequence[int],
) -> None:
    channels, out_channels = input.shape[-3], weight.shape[0]
    if out_channels < groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be at least {groups} at dimension 0, but got weight of size "
            f"{list(weight.shape)} instead"
        )
    if out_channels % groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, but got weight of "
            f"size {list(weight.shape)} instead"
        )
    if channels != weight.shape[1] * groups:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {list(weight.shape)}, expected input{list(input.shape)} to have "
            f"{weight.shape[1] * groups} channels, but got {channels} channels instead"
        )
    check_alike(input, weight, bias)
    if bias is not None and (bias.dim() != 1 or bias.shape[0] != out_channels):
        raise RuntimeError(
            f"Given weight of size {list(weight.shape)}, expected bias to be 1-dimensional with {out_channels} "
            f"elements, but got bias of size {list(bias.shape)} instead"
        )
    if weight.shape[2] == 0 or weight.shape[3] == 0:
        raise RuntimeError(f"conv2d(): weight of size {list(weight.shape)} has an empty kernel")
    padded = [input.shape[i - 2] + pads[i] for i in range(2)]
    reach = [dilation[i] * (weight.shape[2 + i] - 1) + 1 for i in range(2)]
    if padded[0] < reach[0] or padded[1] < reach[1]:
        raise RuntimeError(
            f"Calculated padded input size per channel: ({padded[0]} x {padded[1]}). Kernel size: ({reach[0]} x "
            f"{reach[1]}). Kernel size can't be greater than actual input size"
        )


def check_alike(input: Tensor, weight: Tensor, bias: Tensor | None, function: str = "conv2d") -> None:
    """The framework's errors for tensors of other types, devices or layouts than each other's, or than are served."""
    for name, other in (("weight", weight), ("bias", bias)):
        if other is None:
            continue
        if other.dtype != input.dtype:
            raise RuntimeError(
                f"Input type ({input.dtype}) and {name} type ({other.dtype}) should be the same"
            )
        if other.device != input.device:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but input is on {input.device} and {name} on "
                f"{other.device}"
            )
    if input.dtype not in _TYPES:
        names = ", ".join(sorted(str(dtype) for dtype in _TYPES))
        raise NotImplementedError(
            f"{function}(): not implemented for input of type {input.dtype}, only for {names}"
        )
    if input.layout is not torch.strided or weight.layout is not torch.strided:
        raise RuntimeError(
            f"{function}(): input and weight should be the same kind of dense tensor, got layouts {input.layout} and "
            f"{weight.layout}"
        )
