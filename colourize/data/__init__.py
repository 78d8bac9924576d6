"""Where training pictures come from: `load("photos")`, `"cifar10"`, `"folder:PATH"`, `"crops:PATH"`."""

from __future__ import annotations

import os

from ..files import UserError
from .images import Images, Split, TensorImages

SOURCES = ("photos", "cifar10", "folder:PATH", "crops:PATH")

__all__ = ["SOURCES", "Images", "Split", "TensorImages", "load"]


def load(
    source: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    class_name: str = "horse",
    size: int = 32,
    limit: int | None = None,
    seed: int = 0,
) -> Split:
    """The training and validation images of a source, as uint8 (N, 3, size, size).

    - `photos`: crops of the photographs that scikit-image brings along; the right third of each validates.
    - `cifar10`: the images of `class_name`, from `data_dir` (the folder cifar-10-batches-py, its parent, or
      the .tar.gz), or downloaded once; the test images validate. `size` must be 32.
    - `folder:PATH`: the pictures below PATH, cut square, resized, read when they are first needed; one in
      ten or so validates, chosen by its name, so that more may come to the folder.
    - `crops:PATH`: squares of the pictures below PATH, at their own resolution, divided likewise.

    `limit` keeps at most that many images in each part; `seed` chooses the crops and divides a folder.
    Raises UserError for an unknown source or class, and for files that are missing or damaged.
    """
    if size < 1 or (limit is not None and limit < 1):
        raise UserError(f"size and limit must be at least 1, got size {size} and limit {limit}")
    kind, _, path = source.partition(":")
    if source == "photos":
        from . import photos

        split = photos.load(size=size, seed=seed)
    elif source == "cifar10":
        from . import cifar10

        if size != 32:
            raise UserError(f"the images of cifar10 are 32 × 32, got size {size}")
        split = cifar10.load(data_dir, class_name)
    elif kind == "folder" and path:
        from . import folder

        split = folder.load(path, size=size, seed=seed)
    elif kind == "crops" and path:
        from . import crops

        split = crops.load(path, size=size, seed=seed)
    else:
        raise UserError(f"unknown data source {source!r}; known sources: {', '.join(SOURCES)}")
    return split if limit is None else split.limited(limit)
