"""Single convolutions as subjects: every case of cases.py × forward, grad_input, grad_weight (with bias), backward.

Ours and the framework's are called as operators, below autograd, with real tensors for whatever they take. Backward is
both gradients, as autograd calls for them: in one call of the framework's and of our CPU library's, in two elsewhere.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import torch

from myconv2d import backends

from . import precision
from .cases import CASES, Case
from .implementations import ORACLE, RESULTS, Implementation, backend
from .operands import Values, draw
from .subjects import BESIDE, OURS, RIVAL, SETS, Contestant, Ready, Results, Subject
from .variants import Variant, variants

PASSES = {  # and the operators that it consists of
    "forward": ("conv2d",),
    "grad_input": ("conv2d_grad_input",),
    "grad_weight": ("conv2d_grad_weight",),
    "backward": ("conv2d_grad_input", "conv2d_grad_weight"),
}
_CORRECTNESS = {"weird", "blocks", "empty"}  # tags of cases too small or too odd to time
_UNREPEATED = ([],) * 4  # no axis of any operand is expanded


def subjects(device: torch.device, compiled: bool) -> Iterator[Subject]:
    for case in CASES.values():
        if not case.tags & _CORRECTNESS:
            yield from (layer(case, pass_name, device, compiled) for pass_name in PASSES)


def layer(case: Case, pass_name: str, device: torch.device, compiled: bool = False) -> Subject:
    """One pass of one convolution."""
    operators = PASSES[pass_name]
    sizes = case.input_size, case.weight_size, case.output_size
    itemsize = precision.current().dtype.itemsize
    input, weight, output = (itemsize * math.prod(size) for size in sizes)
    both = pass_name == "backward"  # then input and weight are read, and their gradients written
    return Subject(
        case.name,
        pass_name,
        "layer",
        case.tags,
        lambda: list(_contestants(case, pass_name, device, compiled)),
        lambda: exact(case, operators, device),
        flop=lambda: len(operators) * case.flop,
        bytes=output + (2 if both else 1) * (input + weight),
        pixels=case.batch * case.height * case.width,
    )


def _operands(case: Case, device: torch.device) -> tuple[Values, ...]:
    return _drawn(case, device, precision.current().dtype)


@functools.lru_cache(maxsize=1)
def _drawn(case: Case, device: torch.device, dtype: torch.dtype) -> tuple[Values, ...]:
    """Sets of the same random numbers in other places, as drawing takes longer than anything that we time."""
    first = draw(case, dtype, device, _UNREPEATED)
    moved = (first.map(lambda t, by=by: t.roll(by)) for by in range(1, SETS))  # as one row of elements
    return first, *moved


@functools.lru_cache(maxsize=2)
def _exact(case: Case, operator: str, device: torch.device, dtype: torch.dtype) -> Results:
    return ORACLE.run(operator, case, _drawn(case, device, dtype)[0].map(torch.Tensor.double))


def exact(case: Case, operators: tuple[str, ...], device: torch.device) -> Results:
    dtype = precision.current().dtype
    return {k: v for operator in operators for k, v in _exact(case, operator, device, dtype).items()}


def _contestants(case: Case, pass_name: str, device: torch.device, compiled: bool) -> Iterator[Contestant]:
    dtype = precision.current().dtype
    weight = case.weight_size, case.numbers[3]
    chosen = backends.choose_for_layer(device.type, dtype, *weight, backends.wanted).backend
    ours = backend(chosen, device.type)
    # The framework's compiler has no gradients of convolutions of its own, and on the CPU no convolution either.
    compiled = compiled and device.type == "cuda" and pass_name == "forward"
    for variant in variants(device, compiled=False):
        prepare = functools.partial(_ours, ours, case, pass_name, device, variant)
        yield Contestant(f"ours {variant.name}", OURS, prepare)
    if device.type == "cuda":  # the backend that is not the first choice here
        for name in ("triton", "native"):
            if name != chosen and backends.problem(name, device.type, dtype) is None:
                variant = Variant("channels_last", graph=True, device=device.type)
                prepare = functools.partial(_ours, backend(name, device.type), case, pass_name, device, variant)
                yield Contestant(f"our {name}, {variant.name}", BESIDE, prepare)
    for variant in variants(device, compiled):
        prepare = functools.partial(_framework, case, pass_name, device, variant)
        yield Contestant(f"torch {variant.name}", RIVAL, prepare)
    if device.type == "cpu" and pass_name == "forward" and not precision.current().short:
        yield Contestant("ONNX Runtime", RIVAL, functools.partial(_onnx_runtime, case))


def _ready(
    run: Callable[[Values], object], names: list[str], case: Case, device: torch.device, variant: Variant
) -> Ready:
    def lay_out(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.contiguous(memory_format=variant.memory_format) if tensor.dim() == 4 else tensor

    sets = [values.map(lay_out) for values in _operands(case, device)]
    call = variant.ready(lambda number: run(sets[number]), SETS)

    def results() -> Results:
        found = call(0)
        return dict(zip(names, [found] if isinstance(found, torch.Tensor) else found, strict=True))

    return Ready(call, results)


def _names(pass_name: str) -> list[str]:
    return [name for operator in PASSES[pass_name] for name in RESULTS[operator]]


def _ours(ours: Implementation, case: Case, pass_name: str, device: torch.device, variant: Variant) -> Ready:
    size, weight_size, numbers = case.input_size, case.weight_size, case.numbers

    def forward(v: Values):
        return ours.conv2d(v.input, v.weight, v.bias if case.bias else None, *numbers)

    def grad_input(v: Values):
        return ours.conv2d_grad_input(v.grad_output, v.weight, size, *numbers)

    def grad_weight(v: Values):
        return ours.conv2d_grad_weight(v.grad_output, v.input, weight_size, *numbers, case.bias)

    def backward(v: Values):
        if ours.conv2d_backward is not None:
            return ours.conv2d_backward(v.grad_output, v.input, v.weight, *numbers, case.bias)
        return grad_input(v), *grad_weight(v)

    run = {"forward": forward, "grad_input": grad_input, "grad_weight": grad_weight, "backward": backward}
    return _ready(run[pass_name], _names(pass_name), case, device, variant)


def _framework(case: Case, pass_name: str, device: torch.device, variant: Variant) -> Ready:
    *geometry, groups = case.numbers
    if pass_name == "forward":

        def conv2d(v: Values):
            return torch.conv2d(v.input, v.weight, v.bias if case.bias else None, *case.numbers)

        return _ready(variant.compile(conv2d), _names(pass_name), case, device, variant)
    wants_input, wants_weight = pass_name != "grad_weight", pass_name != "grad_input"
    wanted = [wants_input, wants_weight, wants_weight and case.bias]
    bias_size = [case.out_channels]

    def backward(v: Values):
        found = torch.ops.aten.convolution_backward(
            v.grad_output, v.input, v.weight, bias_size, *geometry, False, [0, 0], groups, wanted
        )
        grads = found[0 if wants_input else 1 : 3 if wants_weight else 1]
        return [v.bias.new_empty(0) if grad is None else grad for grad in grads]

    return _ready(backward, _names(pass_name), case, device, variant)


def _onnx_runtime(case: Case) -> Ready:
    from .ort import convolution, session

    sets = _operands(case, torch.device("cpu"))
    model = convolution(case, sets[0].weight, sets[0].bias if case.bias else None)
    call = session(model, [(values.input,) for values in sets], case.output_size)
    return Ready(call, lambda: {"output": call(0)})
