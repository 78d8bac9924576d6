"""The one interface to a set of training pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor


class Images(ABC):
    """A set of pictures of one size, read by index."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, indices: Tensor) -> Tensor:
        """The pictures at `indices` (B,), as uint8 (B, 3, H, W)."""

    @abstractmethod
    def first(self, count: int) -> Images:
        """The first `count` pictures, or all where there are fewer."""


class TensorImages(Images):
    """Pictures in memory: `tensor` is uint8 (N, 3, H, W)."""

    def __init__(self, tensor: Tensor) -> None:
        if tensor.dtype != torch.uint8 or tensor.ndim != 4 or tensor.shape[1] != 3:
            raise ValueError(f"tensor must be uint8 (N, 3, H, W), got {tensor.dtype} {tuple(tensor.shape)}")
        self.tensor = tensor

    def __len__(self) -> int:
        return len(self.tensor)

    def batch(self, indices: Tensor) -> Tensor:
        return self.tensor[indices]

    def first(self, count: int) -> TensorImages:
        return TensorImages(self.tensor[:count])


class Split(NamedTuple):
    """What is learnt from, what is measured on, and what to call both."""

    train: Images
    validation: Images
    name: str

    def limited(self, count: int) -> Split:
        """At most `count` pictures in each part."""
        return Split(self.train.first(count), self.validation.first(count), self.name)
