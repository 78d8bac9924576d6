"""Blocks as subjects, the UNet's five and larger ones: ConvBlock, fused, against the plain composition."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from myconv2d import ConvBlock

from . import plain, precision
from .modules import count_flop, gradients, laid_out, random_inputs, randomise
from .subjects import OURS, RIVAL, SETS, Contestant, Ready, Results, Subject
from .variants import Variant, variants


@dataclass(frozen=True)
class BlockCase:
    """convolution 3×3 → batch norm, or none → ReLU → resize; two inputs (with a skip) count as concatenated."""

    batch: int
    in_channels: tuple[int, ...]
    out_channels: int
    size: int
    resize: str | None = None
    norm: bool = True

    @property
    def name(self) -> str:
        rest = f"-{self.resize}" if self.resize else ""
        rest += "" if self.norm else "-no-norm"
        return f"block-c{sum(self.in_channels)}-k{self.out_channels}-{self.size}px{rest}-n{self.batch}"

    @property
    def input_sizes(self) -> list[tuple[int, ...]]:
        return [(self.batch, channels, self.size, self.size) for channels in self.in_channels]

    @property
    def output_size(self) -> tuple[int, ...]:
        side = {"pool": self.size // 2, "upsample": 2 * self.size}.get(self.resize, self.size)
        return self.batch, self.out_channels, side, side

    @property
    def first(self) -> bool:
        """Whether it is a network's first block, whose input wants no gradient."""
        return self.in_channels == (1,)

    def ours(self) -> nn.Module:
        return ConvBlock(sum(self.in_channels), self.out_channels, resize=self.resize, norm=self.norm)

    def plain(self) -> nn.Module:
        return plain.block(sum(self.in_channels), self.out_channels, self.resize, self.norm, plain.Joined)


BLOCKS = (
    BlockCase(100, (1,), 32, 32, "pool"),
    BlockCase(100, (32,), 64, 16, "pool"),
    BlockCase(100, (64,), 64, 8),
    BlockCase(100, (64, 64), 32, 8, "upsample"),
    BlockCase(100, (32, 32), 24, 16, "upsample"),
)
LARGE = (
    BlockCase(128, (64,), 128, 128, norm=False),  # convolution and ReLU alone, as in KernelBench's 2-1
    BlockCase(16, (64,), 64, 256, norm=False),
)


def subjects(device: torch.device, compiled: bool) -> Iterator[Subject]:
    for case in (*BLOCKS, *LARGE):
        for training in (True, False):
            yield block(case, training, device, compiled)


def block(case: BlockCase, training: bool, device: torch.device, compiled: bool = False) -> Subject:
    """Forward and backward with batch statistics, or inference."""
    ends = sum(torch.Size(size).numel() for size in (*case.input_sizes, case.output_size))
    return Subject(
        case.name,
        "training" if training else "inference",
        "block",
        frozenset({"fused" if case in BLOCKS else "fused-large"}),
        lambda: list(_contestants(case, training, device, compiled)),
        lambda: _exact(case, training, device),
        flop=lambda: count_flop(lambda: _run_once(case, training)),
        bytes=precision.current().dtype.itemsize * ends * (2 if training else 1),
        pixels=case.batch * case.size**2,
        kinks=1,
    )


def _run_once(case: BlockCase, training: bool) -> None:
    inputs = [torch.empty(size, requires_grad=training and not case.first) for size in case.input_sizes]
    output = case.plain().train(training).requires_grad_(training)(*inputs)
    if training:
        output.sum().backward()


@functools.lru_cache(maxsize=1)
def _weights(case: BlockCase) -> nn.Module:
    torch.manual_seed(0)
    return randomise(case.plain())


def _contestants(
    case: BlockCase, training: bool, device: torch.device, compiled: bool
) -> Iterator[Contestant]:
    prepare = functools.partial(_prepare, case, training, device)
    for variant in variants(device, compiled=False):
        yield Contestant(f"ours {variant.name}", OURS, functools.partial(prepare, case.ours, variant))
    for variant in variants(device, compiled):
        yield Contestant(f"torch {variant.name}", RIVAL, functools.partial(prepare, case.plain, variant))
    if device.type == "cpu" and not training and not precision.current().short:
        yield Contestant("ONNX Runtime", RIVAL, functools.partial(_onnx_runtime, case))


def _operands(case: BlockCase, number: int, device: torch.device) -> tuple[list[Tensor], Tensor]:
    dtype = precision.current().dtype  # as they come out of the blocks on either side
    drawn = random_inputs([*case.input_sizes, case.output_size], number, device)
    *inputs, grad_output = (tensor.to(dtype) for tensor in drawn)
    return inputs, grad_output


def _prepare(case: BlockCase, training: bool, device: torch.device, create, variant: Variant) -> Ready:
    module = laid_out(create(), _weights(case), variant, device).train(training).requires_grad_(training)
    if not training:
        module.to(precision.current().dtype)
    function = variant.compile(module, freeze=not training)
    sets = []
    for number in range(SETS):
        inputs, grad_output = _operands(case, number, device)
        inputs = [tensor.contiguous(memory_format=variant.memory_format) for tensor in inputs]
        inputs = [tensor.requires_grad_(training and not case.first) for tensor in inputs]
        sets.append((inputs, grad_output.contiguous(memory_format=variant.memory_format)))

    tensors = *sets[0][0], *module.parameters()

    def run(number: int) -> tuple[Tensor, list[Tensor | None]]:
        output = _run(function, training, module, *sets[number])
        return output.detach(), [tensor.grad for tensor in (*sets[number][0], *module.parameters())]

    call = variant.ready(run, SETS)

    def results() -> Results:
        output, grads = call(0)  # of a graph the gradients are its own, whatever `.grad` is by now
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad = grad
        return _results(output, module, sets[0][0])

    return Ready(call, results)


def _run(function, training: bool, module: nn.Module, inputs: list[Tensor], grad_output: Tensor) -> Tensor:
    """The output, and in training the gradients in `.grad`."""
    if not training:
        with torch.no_grad():
            return function(*inputs)
    for tensor in (*inputs, *module.parameters()):
        tensor.grad = None
    with precision.autocast(grad_output.device):  # float64 is never cast
        output = function(*inputs)
    output.backward(grad_output)
    return output


def _results(output: Tensor, module: nn.Module, inputs: list[Tensor]) -> Results:
    grads = {f"grad input{n}": tensor.grad for n, tensor in enumerate(inputs) if tensor.grad is not None}
    return {"output": output.detach(), **grads, **gradients(module)}


def _exact(case: BlockCase, training: bool, device: torch.device) -> Results:
    module = laid_out(case.plain(), _weights(case), Variant("contiguous"), device).double().train(training)
    inputs, grad_output = _operands(case, 0, device)
    inputs = [tensor.double().requires_grad_(training and not case.first) for tensor in inputs]
    return _results(_run(module, training, module, inputs, grad_output.double()), module, inputs)


def _onnx_runtime(case: BlockCase) -> Ready:
    from .ort import exported, session

    sets = [tuple(_operands(case, number, torch.device("cpu"))[0]) for number in range(SETS)]
    call = session(exported(_weights(case).eval(), sets[0]), sets, case.output_size)
    return Ready(call, lambda: {"output": call(0)})
