"""What blocks and networks have in common: modules with shared random weights, laid out, and their results by name."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .variants import Variant


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms with weights, biases and running statistics that are not 1 and 0."""
    generator = torch.Generator().manual_seed(seed)

    def around(tensor: Tensor, centre: float, width: float) -> None:
        drawn = torch.rand(tensor.shape, generator=generator)
        tensor.data.copy_(centre + width * (2 * drawn - 1))

    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            around(norm.weight, 1, 0.5)
            around(norm.bias, 0, 0.5)
            around(norm.running_mean, 0, 0.2)
            around(norm.running_var, 1, 0.5)
    return module


def laid_out(module: nn.Module, weights: nn.Module, variant: Variant, device: torch.device) -> nn.Module:
    """A copy of `module` with the weights of `weights`, in the variant's memory format."""
    module = copy.deepcopy(module)
    module.load_state_dict(weights.state_dict())
    return module.to(device, memory_format=variant.memory_format)


def random_inputs(sizes: list[tuple[int, ...]], number: int, device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(number)
    return [torch.randn(size, generator=generator).to(device) for size in sizes]


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Of every module that has parameters, in one vector: what they are is small beside the module's largest."""
    found = {}
    for name, part in module.named_modules():
        parameters = [parameter for parameter in part.parameters(recurse=False) if parameter.grad is not None]
        if parameters:
            found[f"grad {name}"] = torch.cat([parameter.grad.flatten() for parameter in parameters])
    return found


def count_flop(work: Callable[[], object]) -> int:
    """Operations of the convolutions in `work`, counted directly; it runs on the meta device, so takes no time."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()
