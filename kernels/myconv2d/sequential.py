"""fuse(): the blocks of a model that exists already, fused where it stands.

People write a block as nn.Sequential(convolution, batch norm, ReLU, pool). `FusedSequential` finds such runs among its
modules and gives each to the fused operators of ConvBlock, handing what is between two of them on without computing it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format

from .block import Pending, hindrance
from .conv_block import conv_concat
from .modules import Model, MyConv2d, convert
from .parts import Image, Operands, Parts, changed
from .triton import UNTRIED


def fuse(model: Model) -> Model:
    """Makes every `nn.Sequential` with an `nn.Conv2d` in it a `FusedSequential`, and every `nn.Conv2d` a `MyConv2d`.

        >>> from torch import nn
        >>> layers = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)
        >>> model = myconv2d.fuse(nn.Sequential(*layers))
        >>> model(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 8, 16, 16])

    In place; modules, parameters, state dict, hooks and results stay as they are, up to rounding. What runs as one is a
    convolution with whichever of batch norm, ReLU and a resize by two (max-pool or nearest upsampling) follow it in the
    same Sequential, or in one nested in it; the last two in either order, which gives the same.
    `FusedSequential.explain` says what does, and why not.

    Subclasses of `nn.Sequential` keep their own forward and are left alone.

    Returns:
        The same model.
    """
    for module in convert(model).modules():
        if type(module) is nn.Sequential and _convolves(module):
            module.__class__ = FusedSequential
    return model


def _convolves(module: nn.Module) -> bool:
    """Whether there is a convolution in it, or in a Sequential in it."""
    if type(module) in (nn.Sequential, FusedSequential):
        return any(map(_convolves, module.children()))
    return type(module) in (MyConv2d, nn.LazyConv2d)  # which will be a MyConv2d


class Stage(NamedTuple):
    """Modules that follow each other: a block's, or a single other one."""

    names: tuple[str, ...]
    modules: tuple[nn.Module, ...]
    parts: Parts | None

    def operands(self, input: Any) -> Operands | str:
        """What the fused operators take, or why they cannot serve."""
        if not isinstance(input, Image):
            return f"the input is of type {type(input).__name__}"
        if self.parts is None:
            return f"{type(self.modules[0]).__name__} is no part of a block"
        for module in self.modules:
            if (why_not := changed(module, type(module))) is not None:
                return why_not
        return self.parts.operands(input)


class FusedSequential(nn.Sequential):
    """`nn.Sequential` whose blocks are fused; see `fuse`. Results have the layout that the plain modules give them.

        >>> from torch import nn
        >>> model = myconv2d.fuse(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()))
        >>> isinstance(model, myconv2d.FusedSequential)
        True
        >>> print(model.explain(torch.rand(2, 3, 32, 32)))
        0 to 2: fused, by native
    """

    def forward(self, input: Tensor) -> Tensor:
        return self._run(input) if hindrance() is None else super().forward(input)

    def explain(self, input: Tensor) -> str:
        """How each stage would run with this input, a line each; runs a copy of the modules to know."""
        report: list[str] = []
        copy.deepcopy(self)._run(input, report)
        return "\n".join(report)

    def _run(self, input: Tensor, report: list[str] | None = None) -> Tensor:
        watched = hindrance()
        x: Image = input
        last = _channels_last(input)
        for stage in _stages(_named(self)):
            parts, operands = stage.parts, watched or stage.operands(x)
            if parts is not None and isinstance(operands, Operands):
                x = parts.run(operands)
                last = last or _channels_last(parts.conv.weight)
                if parts.norm is not None and parts.conv.out_channels == 1:
                    last = False  # the framework's batch norm of one channel takes it for contiguous
            elif parts is not None and isinstance(x, Pending) and len(stage.modules) == 1:
                x = conv_concat(parts.conv, x)
                x = x if last else _contiguous(x)
            else:
                x = _image(x, last)
                for module in stage.modules:
                    x = module(x)
                last = _channels_last(x)
            if report is not None:
                report.append(_sentence(stage, operands))
        return _image(x, last)


def _named(sequential: FusedSequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules in the order in which they run, those of nested Sequentials where nobody watches these."""
    for name, module in sequential._modules.items():
        if type(module) is FusedSequential and changed(module, FusedSequential) is None:
            yield from _named(module, f"{prefix}{name}.")
        else:
            yield prefix + name, module


def _stages(named: Iterable[tuple[str, nn.Module]]) -> Iterator[Stage]:
    rest = list(named)
    while rest:
        parts, count = _block([module for _, module in rest])
        names, modules = zip(*rest[:count], strict=True)
        yield Stage(names, modules, parts)
        del rest[:count]


def _block(modules: Sequence[nn.Module]) -> tuple[Parts | None, int]:
    """The block that these modules begin with, if they do, and of how many it is."""
    conv, *rest = modules
    if type(conv) is not MyConv2d:
        return None, 1
    norm = rest[0] if rest and type(rest[0]) is nn.BatchNorm2d else None
    activation, resize, count = False, None, 1 if norm is None else 2
    for module in modules[count:]:
        if type(module) is nn.ReLU and not activation:
            activation = True
        elif resize is None and (by := _resize(module)) is not None:
            resize = by
        else:
            break
        count += 1
    return Parts(conv, norm, activation, resize), count


def _resize(module: nn.Module) -> str | None:
    """The block's name for a module that changes height and width by two; None for any other."""
    if type(module) is nn.MaxPool2d:
        m = module
        simple = all(n in (2, (2, 2)) for n in (m.kernel_size, m.stride)) and m.padding in (0, (0, 0))
        simple = simple and m.dilation in (1, (1, 1)) and not m.ceil_mode and not m.return_indices
        return "pool" if simple else None
    if type(module) in (nn.Upsample, nn.UpsamplingNearest2d):
        simple = module.mode == "nearest" and module.size is None and module.scale_factor in (2, (2, 2))
        return "upsample" if simple else None
    return None


def _channels_last(x: Any) -> bool:
    """Whether a tensor counts as channels_last in the framework; of one channel, strides alone say it."""
    return isinstance(x, Tensor) and x.dim() == 4 and suggest_memory_format(x) == torch.channels_last


def _image(x: Image, last: bool) -> Tensor:
    if not isinstance(x, Pending):
        return x
    image = x.materialise()
    return image if last else _contiguous(image)


def _contiguous(image: Tensor) -> Tensor:
    """… in its strides too, where there is one channel: by these the framework chooses the layout of what follows."""
    image = image.contiguous()
    return image.view(-1).view(image.shape) if image.shape[1] == 1 else image


def _sentence(stage: Stage, operands: Operands | str) -> str:
    where = stage.names[0] if len(stage.names) == 1 else f"{stage.names[0]} to {stage.names[-1]}"
    if isinstance(operands, str):
        return f"{where}: plain modules: {operands}"
    untried = f" ({UNTRIED})" if operands.backend == "triton" else ""
    return f"{where}: fused, by {operands.backend}{untried}"
