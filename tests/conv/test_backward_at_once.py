"""Both gradients in one call of the CPU library: who makes it, and that it gives the bits of the two operators."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.cases import Case, select
from bench.implementations import backend, changed_together
from bench.operands import LAYOUTS, draw, place
from myconv2d import conv2d, use_backend
from myconv2d.native import cpu

pytestmark = pytest.mark.skipif(cpu.problem is not None, reason=str(cpu.problem))
TYPES = (torch.float32, torch.float64, torch.float16, torch.int16)


@pytest.mark.parametrize("case", select("weird", "blocks", "empty"), ids=str)
def test_bits_of_the_two_operators(case: Case, isa):
    cpu_device = torch.device("cpu")
    for name in (name for name, runs_here in cpu.isas().items() if runs_here):
        isa(name)
        for dtype, layout in itertools.product(TYPES, LAYOUTS.values()):
            values = draw(case, dtype, cpu_device, layout.repeated)
            values = type(values)(*(place(v, f, cpu_device).tensor for v, f in zip(values, layout, strict=True)))
            assert changed_together(backend("native"), case, values) == []


def test_bits_do_not_depend_on_threads():
    """… of a layer of several ranges of sums, whose tiles do not divide evenly."""
    case = Case("several ranges", 11, 20, 36, 37, 30)
    values = draw(case, torch.float32, torch.device("cpu"), ([],) * 4)
    found = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        operands = values.grad_output, values.input, values.weight
        found.append(backend("native").conv2d_backward(*operands, *case.numbers, True))
    assert all(torch.equal(a, b) for others in found[1:] for a, b in zip(found[0], others, strict=True))


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **kwargs or {})


def calls_of_backward(wanted=(True, True, True), **options):
    operands = (torch.randn(2, 4, 9, 8), torch.randn(6, 4, 3, 3), torch.randn(6))
    operands = [t.requires_grad_(flag) for t, flag in zip(operands, wanted, strict=True)]
    output = conv2d(*operands, padding=1)
    with Calls() as calls:
        grads = torch.autograd.grad(output.sum(), [t for t in operands if t.requires_grad], **options)
    assert all(g is not None for g in grads)
    return [name.removeprefix("myconv2d.conv2d_") for name in calls.names if "conv2d" in name]


def test_who_calls_it():
    """Where both are wanted, the CPU library serves, and nobody derives them again."""
    assert calls_of_backward() == calls_of_backward((True, True, False)) == ["backward.default"]
    assert calls_of_backward((True, False, True)) == ["grad_input.native"]
    assert calls_of_backward((False, True, True)) == ["grad_weight.native"]
    assert calls_of_backward(create_graph=True) == ["grad_input.native", "grad_weight.native"]
    with use_backend("reference"):
        assert calls_of_backward() == ["grad_input.reference", "grad_weight.reference"]


def test_opcheck():
    """Nothing but the declared effects, and a fake that agrees with the results, in every layout."""
    case = select("weird")[0]
    for layout, bias in itertools.product(LAYOUTS.values(), (True, False)):
        values = draw(case, torch.float32, torch.device("cpu"), layout.repeated)
        input, weight, grad_output, _ = (
            place(v, f, torch.device("cpu")).tensor for v, f in zip(values, layout, strict=True)
        )
        args = grad_output, input, weight, *case.numbers, bias
        operator = torch.ops.myconv2d.conv2d_backward.default
        report = torch.library.opcheck(operator, args, test_utils=("test_schema", "test_faketensor"))
        assert set(report.values()) == {"SUCCESS"}


@pytest.mark.parametrize("wrong", ["grad_output", "input", "weight"])
def test_sizes_that_do_not_fit_are_refused(wrong):
    sizes = {"grad_output": (1, 4, 8, 8), "input": (1, 3, 8, 8), "weight": (4, 3, 3, 3), wrong: (1, 5, 7, 7)}
    operands = {name: torch.randn(size) for name, size in sizes.items()}
    with pytest.raises(RuntimeError, match="myconv2d: .*(size|groups|fit)"):
        torch.ops.myconv2d.conv2d_backward(*operands.values(), (1, 1), (1, 1), (1, 1), 1, True)
