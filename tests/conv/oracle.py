"""What the operators are held to: float64, and the error that a sum of so many products may have.

The bound is componentwise (Higham, Accuracy and Stability of Numerical Algorithms, §3.1): a sum of n products that is
accumulated with unit roundoff u differs from the exact one by at most n·u·Σ|products|, in any order; rounding errors
being as good as independent, √n instead of n holds with a small constant (Higham & Mary 2019).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from myconv2d import reference
from myconv2d.operators import overload
from myconv2d.shapes import output_size

OPERATORS = ("conv2d", "conv2d_grad_input", "conv2d_grad_weight")
SAFETY = 4.0  # the constant of Higham & Mary's bound


class Problem(NamedTuple):
    """A convolution with operands: input (N, C, H, W), weight (K, C/groups, R, S), grad_output (N, K, P, Q)."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    grad_output: Tensor
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def arguments(self, operator: str) -> tuple:
        """Those of one of the three operators, in the order of its schema."""
        numbers = self[4:]
        if operator == "conv2d":
            return self.input, self.weight, self.bias, *numbers
        if operator == "conv2d_grad_input":
            return self.grad_output, self.weight, list(self.input.shape), *numbers
        return self.grad_output, self.input, list(self.weight.shape), *numbers, self.bias is not None

    def depth(self, operator: str) -> int:
        """How many products each element of the result sums at most."""
        k, c, r, s = self.weight.shape
        if operator == "conv2d":
            return c * r * s + 1
        if operator == "conv2d_grad_input":
            return k // self.groups * r * s
        return self.grad_output.shape[0] * self.grad_output.shape[2] * self.grad_output.shape[3]

    def map(self, change) -> Problem:
        """The same convolution of changed tensors."""
        return self._replace(**{
            name: change(tensor) for name, tensor in zip(self._fields[:4], self[:4]) if tensor is not None
        })  # fmt: skip


def make_problem(
    input_size, weight_size, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, *,
    bias=True, dtype=torch.float64, device="cpu",
) -> Problem:  # fmt: skip
    """A convolution of normally distributed operands (integers from −4 to 4)."""

    def draw(*size):
        if dtype.is_floating_point or dtype.is_complex:
            return torch.randn(size, dtype=torch.float64).to(device, dtype)
        return torch.randint(0 if dtype is torch.uint8 else -4, 5, size).to(device, dtype)

    out = output_size(input_size, weight_size, stride, padding, dilation)
    operands = draw(*input_size), draw(*weight_size), draw(weight_size[0]) if bias else None, draw(*out)
    return Problem(*operands, stride, padding, dilation, groups)


def tensors(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def exact(operator: str, problem: Problem) -> tuple[Tensor, ...]:
    """The operator's results in float64 (integers in int64)."""
    wide = torch.float64 if problem.input.is_floating_point() else torch.int64
    return tensors(getattr(reference, operator)(*problem.map(lambda t: t.to(wide)).arguments(operator)))


def bounds(operator: str, problem: Problem) -> tuple[Tensor, ...]:
    """For each element of the operator's results, how far from `exact` a correct kernel may be."""
    dtype = problem.input.dtype
    accumulator = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    unit = torch.finfo(accumulator).eps / 2
    sums = exact(operator, problem.map(torch.abs))
    store, tiny = (torch.finfo(dtype).eps / 2, torch.finfo(dtype).tiny * torch.finfo(dtype).eps)
    accumulate = SAFETY * unit * (problem.depth(operator) + 1) ** 0.5
    return tuple(accumulate * s + store * e.abs() + tiny for s, e in zip(sums, exact(operator, problem)))


def check(operator: str, problem: Problem, backend: str | None = None) -> tuple[Tensor, ...]:
    """Runs the operator on a backend and asserts every element to be within its bound; returns the results."""
    results = tensors(overload(operator, backend)(*problem.arguments(operator)))
    for name, result, truth, bound in zip(
        (operator, "grad_bias"), results, exact(operator, problem), bounds_or_zero(operator, problem)
    ):
        assert result.shape == truth.shape, f"{name}: {list(result.shape)} instead of {list(truth.shape)}"
        assert result.dtype == problem.input.dtype, f"{name}: {result.dtype}"
        if not problem.input.is_floating_point():
            truth = truth.to(result.dtype)  # integers wrap
            assert torch.equal(result, truth), f"{name}: integers must be exact"
            continue
        excess = (result.double() - truth).abs() / bound
        worst = excess.max().item() if excess.numel() else 0.0
        assert worst <= 1, f"{name}: {worst:.3g} times the bound, at {excess.argmax().item()} of {list(result.shape)}"
    return results


def bounds_or_zero(operator: str, problem: Problem) -> tuple:
    return bounds(operator, problem) if problem.input.is_floating_point() else (0, 0)
