"""The arithmetic of a training: what its fp32 products are rounded to, and where bf16 stands in.

- `fp32`: products in full.
- `tf32`: on a GPU, the factors of convolutions and matrix products rounded to 11 bits, sums in fp32: what the framework
  does with convolutions by default, and so the default here.
- `bf16`: autocast: weights and their gradients in fp32, convolutions on factors of 8 bits; other products as in tf32.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .files import UserError

NAMES = ("fp32", "tf32", "bf16")


def default(device: torch.device) -> str:
    """The precision of a training that names none."""
    return "tf32" if device.type == "cuda" else "fp32"


def choose(name: str | None, device: torch.device) -> str:
    """The precision of that name, or the device's own; `UserError` for one that it does not have."""
    if name == "tf32" and device.type != "cuda":
        raise UserError(
            f"precision tf32 needs a CUDA device, and this training runs on {device.type}: choose fp32"
        )
    return name or default(device)


@contextmanager
def tf32_products(allowed: bool) -> Iterator[None]:
    """Whether fp32 products on a GPU, the framework's and ours, may round their factors to TF32 inside the block.

    By the framework's older switches, which set its newer ones (`fp32_precision`) too: after these alone, reading the
    older ones raises, and its compiler does that. (Some versions warn of the older ones, once. The setter below
    `cudnn.allow_tf32` is never frozen.)
    """
    conv, matmul = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = conv.fp32_precision == "tf32", matmul.fp32_precision == "tf32"

    def switch(convolutions: bool, products: bool) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch._C._set_cudnn_allow_tf32(convolutions)
            matmul.allow_tf32 = products

    try:
        switch(allowed, allowed)
        yield
    finally:
        switch(*before)


def autocast(name: str, device: torch.device) -> torch.autocast:
    """What the forward pass of a network runs in."""
    return torch.autocast(device.type, torch.bfloat16, enabled=name == "bf16")
