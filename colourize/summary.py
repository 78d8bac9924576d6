"""The layers of a network as a table, measured on the network itself so that it cannot be out of date."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


class Layer(NamedTuple):
    """One block of a network, for one picture."""

    name: str
    operations: str
    kernel: tuple[int, int]
    channels: int  # of the input, a skip included
    filters: int
    output: tuple[int, int]  # height, width
    parameters: int
    flops: int  # of the convolution; a multiply-add is two


def layers(network: nn.Module, size: int = 32) -> list[Layer]:
    """The blocks of `network`, which is moved to "meta", in the order they run on a size × size picture."""
    network = network.to("meta").eval()
    found: list[Layer] = []
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        seen = 0

        def record(name: str, module: nn.Module, output: Tensor) -> None:
            nonlocal seen
            total = counter.get_total_flops()
            found.append(_layer(name, module, output, total - seen))
            seen = total

        handles = [
            module.register_forward_hook(lambda module, _, output, name=name: record(name, module, output))
            for name, module in network.named_children()
        ]
        network(torch.empty(1, network.in_channels, size, size, device="meta"))
    for handle in handles:
        handle.remove()
    return found


def _layer(name: str, module: nn.Module, output: Tensor, flops: int) -> Layer:
    conv = module if isinstance(module, nn.Conv2d) else module.conv
    norm, activation, resize = (getattr(module, part, None) for part in ("norm", "activation", "resize"))
    operations = ["conv"] + ["BN"] * bool(norm) + ["ReLU"] * bool(activation) + [resize] * bool(resize)
    return Layer(
        name,
        ", ".join(operations),
        tuple(conv.kernel_size),
        conv.in_channels,
        conv.out_channels,
        tuple(output.shape[2:]),
        sum(parameter.numel() for parameter in module.parameters()),
        flops,
    )
