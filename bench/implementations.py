"""Who can be asked for a convolution, all with the same three operators: our backends, the oracle, torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from myconv2d import reference
from myconv2d.operators import overload

from .cases import Case
from .operands import Values, same_bits

RESULTS = {
    "conv2d": ("output",),
    "conv2d_grad_input": ("grad_input",),
    "conv2d_grad_weight": ("grad_weight", "grad_bias"),
}
OPERATORS = tuple(RESULTS)


class Implementation(NamedTuple):
    """Callables with the operators' signatures (myconv2d/operators.py), and their name in words."""

    name: str
    conv2d: Callable[..., Tensor]
    conv2d_grad_input: Callable[..., Tensor]
    conv2d_grad_weight: Callable[..., tuple[Tensor, Tensor]]
    conv2d_backward: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None  # both gradients at once
    winograd: bool = False  # may serve 3×3 kernels by minimal filtering, whose errors differ (oracle.py)

    def run(self, operator: str, case: Case, values: Values) -> dict[str, Tensor]:
        """The results of one operator by name."""
        input, weight, grad_output, bias = values
        if operator == "conv2d":
            results = (self.conv2d(input, weight, bias if case.bias else None, *case.numbers),)
        elif operator == "conv2d_grad_input":
            results = (self.conv2d_grad_input(grad_output, weight, case.input_size, *case.numbers),)
        else:
            results = self.conv2d_grad_weight(grad_output, input, case.weight_size, *case.numbers, case.bias)
        return dict(zip(RESULTS[operator], results, strict=True))


def backend(name: str, device: str = "cpu") -> Implementation:
    """One of this package's backends, on a device."""
    operators = (overload(operator, name) for operator in OPERATORS)
    cpu_library = (name, device) == ("native", "cpu")
    at_once = torch.ops.myconv2d.conv2d_backward.default if cpu_library else None
    return Implementation(name, *operators, at_once, winograd=cpu_library)


def changed_together(implementation: Implementation, case: Case, values: Values) -> list[str]:
    """The gradients whose bits are others where both are asked for in one call, if that is offered."""
    if implementation.conv2d_backward is None:
        return []
    apart = {k: v for operator in OPERATORS[1:] for k, v in implementation.run(operator, case, values).items()}
    input, weight, grad_output, _ = values
    together = implementation.conv2d_backward(grad_output, input, weight, *case.numbers, case.bias)
    pairs = zip(apart.items(), together, strict=True)
    return [name for (name, a), b in pairs if a.stride() != b.stride() or not same_bits(a, b)]


ORACLE = Implementation("oracle", *(getattr(reference, operator) for operator in OPERATORS))


def _backward(grad_output, input, weight, numbers, wanted):
    *geometry, groups = numbers
    tensors = grad_output, input, weight, [weight.shape[0]]
    return torch.ops.aten.convolution_backward(*tensors, *geometry, False, [0, 0], groups, wanted)


def _framework_grad_input(grad_output, weight, input_size, *numbers):
    input = grad_output.new_empty(1).expand(input_size)
    return _backward(grad_output, input, weight, numbers, [True, False, False])[0]


def _framework_grad_weight(grad_output, input, weight_size, stride, padding, dilation, groups, bias):
    weight = input.new_empty(1).expand(weight_size)
    numbers = stride, padding, dilation, groups
    _, grad_weight, grad_bias = _backward(grad_output, input, weight, numbers, [False, True, bias])
    return grad_weight, grad_bias if bias else input.new_empty(0)


FRAMEWORK = Implementation("framework", torch.conv2d, _framework_grad_input, _framework_grad_weight)
