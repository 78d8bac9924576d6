"""What a network calls while it runs, recorded as a program that the native library replays (csrc/program.h).

Every operator, the framework's or ours, passes the recorder. It knows a few by name; any other is an error, so that
nothing can be computed on the way and be missing from the program.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from . import block_operators
from .operators import LIBRARY

REPLAYED = (
    "fused ConvBlocks, conv_concat, MyConv2d, enlarging twice (nearest) before one of these, padding that repeats the "
    "border, and cropping"
)
_BLOCK, _CONVOLUTION, _PAD, _CROP = range(4)
_LINE = 16  # floats of a cache line: where constants begin

LIBRARY.define("replay(Tensor input, Tensor steps, Tensor constants) -> Tensor")
LIBRARY.define(
    "pack(Tensor weight, Tensor? bias, int[4] input_size, int[2] padding, int first_channels, bool first_upsampled, "
    "bool second_upsampled) -> (Tensor, int)"
)
_REPLAY = torch.ops.myconv2d.replay.default


class Program(NamedTuple):
    """What `replay` takes beside the input; on the CPU."""

    steps: Tensor
    constants: Tensor

    def __call__(self, input: Tensor) -> Tensor:
        return _REPLAY(input, self.steps, self.constants)


class Step(NamedTuple):
    """One step in the order of csrc/program.h, weight and bias still tensors."""

    kind: int
    first: int
    first_upsampled: bool = False
    second: int = -1
    second_upsampled: bool = False
    weight: Tensor | None = None
    bias: Tensor | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    relu: bool = False
    pool: bool = False
    numbers: tuple[int, int, int, int] = (0, 0, 0, 0)
    input_size: tuple[int, ...] = ()  # of what is convolved
    first_channels: int = 0  # of these, the first image's


class Refused(RuntimeError):
    """The network does what no program can."""


class Recorder(TorchDispatchMode):
    """Records one run of a network whose parameters and buffers are `constants`."""

    def __init__(self, input: Tensor, constants: Iterable[Tensor]) -> None:
        super().__init__()
        self._images = {id(input): 0}
        self._enlarged: dict[int, int] = {}  # twice, of these images; whoever convolves them does it
        self._constants = {id(tensor) for tensor in constants}
        self._alive: list[Any] = [input]  # as long as their ids mean them
        self.steps: list[Step] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is _EMPTY:  # a batch norm makes one first; what reads it is refused
            return func(*args, **kwargs)
        if func not in _SAME and func not in _RECORDED and not _doubles(func, args):
            with self, suppress(Refused):  # under inference_mode the framework has not taken it apart yet
                if (output := func.decompose(*args, **kwargs)) is not NotImplemented:
                    return output
            raise Refused(
                f"freeze(): the network calls {func}, which a frozen network cannot replay; it replays {REPLAYED}. "
                "Freeze the part of the network that is made of these"
            )
        output = func(*args, **kwargs)
        self._alive.append(output)
        if func in _RECORDED:
            self.steps.append(_RECORDED[func](self, *args, **kwargs))
            self._images[id(output if isinstance(output, Tensor) else output[0])] = len(self.steps)
        elif id(args[0]) in self._constants:
            self._constants.add(id(output))
        elif func in _ENLARGE or id(args[0]) in self._enlarged:
            self._enlarged[id(output)], _ = self.feed(args[0], func in _ENLARGE)
        else:
            self._images[id(output)] = self.image(args[0])
        return output

    def image(self, value: Any) -> int:
        """The number of an image that the input is or a step gave; refused for anything else."""
        if id(value) in self._enlarged:
            raise Refused("freeze(): the network enlarges an image that no fused convolution of stride 1 reads")
        if id(value) not in self._images:
            what = f"a tensor of {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise Refused(f"freeze(): the network has {what} where only the input or a recorded image can be")
        return self._images[id(value)]

    def feed(self, value: Any, upsample: bool) -> tuple[int, bool]:
        """An image for a convolution, and whether this one is to enlarge it."""
        if id(value) not in self._enlarged:
            return self.image(value), upsample
        if upsample:
            raise Refused("freeze(): the network enlarges an image more than twice before a convolution")
        return self._enlarged[id(value)], True

    def constant(self, tensor: Tensor | None) -> Tensor | None:
        """A weight that stays; refused for any other, which may differ from call to call."""
        if tensor is not None and id(tensor) not in self._constants:
            size = list(tensor.shape)
            raise Refused(f"freeze(): a weight of {size} is neither a parameter nor a buffer of the network")
        return tensor

    def program(self, output: Any) -> Program:
        """The steps up to `output`, weights packed ahead."""
        last = self.image(output)
        if last == 0:
            raise Refused("freeze(): the network gives its input back")
        constants = _Constants()
        rows = [constants.row(step) for step in self.steps[:last]]
        return Program(torch.tensor(rows, device="cpu"), torch.cat(constants.parts))

    # ---- how each operator is recorded; arguments as in its schema ----

    def _block_inference(self, input, upsample, skip, skip_upsample, weight, bias, padding, gamma, beta, mean, var, eps,
                         relu, pool) -> Step:  # fmt: skip
        for tensor in (gamma, beta, mean, var):
            self.constant(tensor)
        step = self._fused(input, upsample, skip, skip_upsample, weight, bias, padding)
        weight, bias = step.weight, step.bias
        if gamma is not None:
            weight, bias = _folded(weight, bias, gamma, beta, mean, var, eps)
        return step._replace(weight=weight, bias=bias, relu=relu, pool=pool)

    def _block(self, input, scale, shift, upsample, skip, skip_scale, skip_shift, skip_upsample, weight, bias, padding,
               gamma, beta, eps, pool) -> Step:  # fmt: skip
        if not (scale is skip_scale is gamma is None):
            raise Refused("freeze(): batch norm by the statistics of the batch; call eval() on the network")
        return self._fused(input, upsample, skip, skip_upsample, weight, bias, padding)

    def _fused(self, input, upsample, skip, skip_upsample, weight, bias, padding) -> Step:
        first = self.feed(input, upsample)
        second = (-1, False) if skip is None else self.feed(skip, skip_upsample)
        n, first_channels, *pixels = input.shape
        channels = first_channels + (0 if skip is None else skip.shape[1])
        return Step(
            _BLOCK, *first, *second, self.constant(weight), self.constant(bias),
            padding=tuple(padding), input_size=(n, channels, *(s * 2 if upsample else s for s in pixels)),
            first_channels=first_channels,
        )  # fmt: skip

    def _conv2d(self, input, weight, bias, stride, padding, dilation, groups) -> Step:
        plain = groups == 1 and {*stride, *dilation} == {1}
        kind = _BLOCK if plain and block_operators.problem("native", weight, input) is None else _CONVOLUTION
        first = self.feed(input, False) if kind == _BLOCK else (self.image(input), False)
        weights = self.constant(weight), self.constant(bias)
        step = Step(
            kind, *first, -1, False, *weights, tuple(stride), tuple(padding), tuple(dilation), groups
        )  # fmt: skip
        return step._replace(input_size=tuple(input.shape), first_channels=input.shape[1])

    def _pad(self, input, padding) -> Step:
        left, right, top, bottom = padding
        return Step(_PAD, self.image(input), numbers=(top, bottom, left, right))

    def _crop(self, input, dim=0, start=None, end=None, step=1) -> Step:
        size = input.shape[dim]
        start, end, step = slice(start, end, step).indices(size)
        dim %= input.dim()
        if step != 1 or dim < 2 and (start, end) != (0, size):
            raise Refused("freeze(): the network takes some of the batch, of the channels, or of every few pixels")
        y, x = (start if dim == axis else 0 for axis in (2, 3))
        height, width = (max(0, end - start) if dim == axis else input.shape[axis] for axis in (2, 3))
        return Step(_CROP, self.image(input), numbers=(y, x, height, width))


_ATEN, _OURS = torch.ops.aten, torch.ops.myconv2d
_EMPTY = _ATEN.empty.memory_format
_ENLARGE = {_ATEN.upsample_nearest2d.default, _ATEN.upsample_nearest2d.vec}
_SAME = {_ATEN.detach.default, _ATEN.alias.default, _ATEN.clone.default}  # the same values
_RECORDED: dict[Any, Callable[..., Step]] = {
    _OURS.block_inference.native: Recorder._block_inference,
    _OURS.block.native: Recorder._block,
    _OURS.conv2d.default: Recorder._conv2d,
    _OURS.conv2d.native: Recorder._conv2d,
    _ATEN.replication_pad2d.default: Recorder._pad,
    _ATEN.slice.Tensor: Recorder._crop,
}


def _doubles(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operator enlarges an image exactly twice."""
    if func not in _ENLARGE:
        return False
    input, size, *factors = args
    if size is not None and list(size) != [2 * n for n in input.shape[2:]]:
        return False
    return all(factor in (None, 2.0, [2.0, 2.0]) for factor in factors)


def _folded(weight, bias, gamma, beta, mean, var, eps) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that batch norm by these statistics follows, and of both together."""
    scale = gamma.double() / (var.double() + eps).sqrt()
    centred = -mean.double() if bias is None else bias.double() - mean.double()
    weight = weight.double() * scale[:, None, None, None]
    return weight.float(), (centred * scale + beta.double()).float()


class _Constants:
    """Everything that steps read beside images, one behind the other, each on a cache line of its own."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = [torch.zeros(_LINE, dtype=torch.float32, device="cpu")]  # whatever the defaults
        self._size = _LINE

    def _add(self, tensor: Tensor | None) -> int:
        if tensor is None or tensor.numel() == 0:
            return -1
        begin, padding = self._size, -tensor.numel() % _LINE
        self.parts += tensor.detach().contiguous().flatten(), tensor.new_zeros(padding)
        self._size += tensor.numel() + padding
        return begin

    def row(self, step: Step) -> list[int]:
        """The step's numbers, in the order of csrc/program.h."""
        weight, bias, packed, maker = step.weight, step.bias, None, 0
        if weight is not None and step.kind == _BLOCK:
            weight = weight.contiguous()
            feeds = step.first_channels, step.first_upsampled, step.second_upsampled
            packed, maker = _OURS.pack(weight, bias, step.input_size, step.padding, *feeds)
        size = (weight.shape[0], *weight.shape[2:]) if weight is not None else (0, 0, 0)
        images = step.first, step.first_upsampled, step.second, step.second_upsampled
        numbers = *step.stride, *step.padding, *step.dilation, step.groups, step.relu, step.pool
        places = self._add(weight), self._add(bias), self._add(packed)
        floats = 0 if packed is None else packed.numel()
        fields = itertools.chain((step.kind,), images, size, numbers, places, (floats, maker), step.numbers)
        return [int(field) for field in fields]


LOOKS = {Tensor.numpy, Tensor.tolist, Tensor.data_ptr, Tensor.untyped_storage, Tensor.__array__, Tensor.__dlpack__}


class NoLooking(TorchFunctionMode):
    """Refuses what looks at values past the operators, where no recorder sees it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in LOOKS:
            name = f"Tensor.{func.__name__}"
            raise Refused(f"freeze(): the network reads values by {name}, so it may go other ways for others")
        return func(*args, **(kwargs or {}))
