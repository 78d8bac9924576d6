"""The layers of a network as a table, measured on the network itself so that it cannot be out of date."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .networks import ORDERS
from .networks.base import LookupPrior, blocks


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
            for name, module in blocks(network)
        ]
        network(torch.empty(1, network.in_channels, size, size, device="meta"))
    for handle in handles:
        handle.remove()
    return found


def _layer(name: str, module: nn.Module, output: Tensor, flops: int) -> Layer:
    if isinstance(module, LookupPrior):
        levels, channels = module.table.shape
        kind = f"table of {levels} levels", (1, 1), 1, channels
    else:
        conv = next(part for part in module.modules() if hasattr(part, "kernel_size"))
        operations = getattr(module, "operations", None) or _operations(module, conv)
        kind = operations, tuple(conv.kernel_size), conv.in_channels, conv.out_channels
    return Layer(
        name,
        *kind,
        tuple(output.shape[2:]),
        sum(parameter.numel() for parameter in module.parameters()),
        flops,
    )


def _operations(module: nn.Module, conv: nn.Module) -> str:
    """In the order they run."""
    first = "transposed conv" if isinstance(conv, nn.ConvTranspose2d) else "conv"
    parts = {"norm": "BN", "relu": "ReLU", "resize": getattr(module, "resize", None)}
    if getattr(module, "norm", None) is None:
        del parts["norm"]
    if not getattr(module, "activation", False):
        del parts["relu"]
    order = getattr(module, "order", ORDERS[0]).split("-")
    return ", ".join([first, *(parts[name] for name in order if parts.get(name))])
