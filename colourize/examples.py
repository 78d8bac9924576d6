"""What a network learns from, ready to use: inputs and targets of a set of pictures, made once where they fit.

Making them, labels above all, takes as long as a good part of a training step, and they are the same in every
epoch. So they are kept, on the training's device, if a set's own come to no more than MEMORY bytes, and otherwise made
batch by batch: the numbers are the same either way.

Layout: pictures lie channels last, (N, H, W, C), so that a batch is gathered row by row and reaches the network as the
channels_last (N, C, H, W) that convolutions are fastest in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from .data import Images
from .tasks import Batch, Task
from .views import PLAIN, Views

MEMORY = 1 << 30  # bytes, for one set
_CHUNK = 256  # pictures at a time


class Examples:
    """The examples of `task` in `images`, on `device`. `advance` hears of so many more that are ready.

    An index beyond them is a view of one: that of view v of picture i is v · len(self) + i.
    """

    def __init__(
        self,
        images: Images,
        task: Task,
        device: torch.device | str = "cpu",
        *,
        views: Views = PLAIN,
        advance: Callable[[int], object] = lambda count: None,
    ) -> None:
        self._images, self.task, self.device = images, task, torch.device(device)
        self._views = views
        self._kept: Batch | None = None
        first = self._make(torch.arange(min(1, len(images))))
        self._height = first.pictures.shape[2]
        if sum(tensor.nbytes for tensor in first) * len(images) > MEMORY:
            return
        kept = Batch(*(tensor.new_empty((len(images), *tensor.shape[1:])) for tensor in map(_rows, first)))
        for indices in torch.arange(len(images)).split(_CHUNK):
            for rows, made in zip(kept, self._make(indices), strict=True):
                rows[indices[0] : indices[-1] + 1] = _rows(made)
            advance(len(indices))
        self._kept = kept

    def __len__(self) -> int:
        return len(self._images)

    def batches(self, size: int) -> Iterator[Batch]:
        """All examples in their order, `size` at a time; the last batch may be smaller."""
        return (self.batch(indices) for indices in torch.arange(len(self)).split(size))

    def placed(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """The indices of batches, all of them where `batch` looks them up: with one copy, not one for each."""
        batches = list(batches)
        if self._kept is not None and self.device.type != "cpu":
            batches = torch.cat(batches).to(self.device).split(list(map(len, batches)))
        return iter(batches)

    def batch(self, indices: Tensor, into: Batch | None = None) -> Batch:
        """The examples at `indices` (B,), on the CPU or as `placed` gives them; overwrites `into`, where given."""
        views, pictures = indices // len(self), indices % len(self)
        if self._kept is None:
            rows, pictures = map(_rows, self._make(pictures)), torch.arange(len(indices))
        else:
            rows = self._kept
        if into is None:
            return Batch(*(_pictures(part) for part in self._select(rows, pictures, views)))
        for old, new in zip(into, self._select(rows, pictures, views), strict=True):
            _rows(old).copy_(new)
        return into

    def _select(self, rows: Iterable[Tensor], pictures: Tensor, views: Tensor) -> Iterator[Tensor]:
        """From `rows` of input, target and full pictures, those of `views` of `pictures`, both (B,)."""
        pictures, views = pictures.to(self.device), views.to(self.device)
        for tensor in rows:
            if self._views.count == 1:
                yield tensor.index_select(0, pictures)
                continue
            size = tensor.shape[1:3]
            unit = self._views.unit * size[0] // self._height  # an input may be smaller than its picture
            at = self._views.pixels(pictures, views, size, unit)
            yield tensor.flatten(0, 2).index_select(0, at.flatten()).view(*at.shape, *tensor.shape[3:])

    def _make(self, indices: Tensor) -> Batch:
        pictures = self._images.batch(indices).to(self.device)
        made = Batch(self.task.degrade(pictures), self.task.target(pictures), pictures)
        return Batch(*(_pictures(_rows(tensor).contiguous()) for tensor in made))


def _rows(tensor: Tensor) -> Tensor:
    """(N, C, H, W) → (N, H, W, C); labels (N, H, W) as they are."""
    return tensor.movedim(1, -1) if tensor.ndim == 4 else tensor


def _pictures(rows: Tensor) -> Tensor:
    """The inverse of `_rows`, a channels_last view."""
    return rows.movedim(-1, 1) if rows.ndim == 4 else rows
