"""The source `cifar10`: one class of CIFAR-10 (Krizhevsky 2009).

The handout's split: the class's 5,000 training images train, its 1,000 test images validate.
"""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from .. import pickles
from ..download import Checksum, cached
from ..files import UserError
from .images import Split, TensorImages

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"

_FOLDER = "cifar-10-batches-py"
_TRAIN = [f"data_batch_{number}" for number in range(1, 6)]
_TEST = "test_batch"


def load(data_dir: str | os.PathLike[str] | None, class_name: str) -> Split:
    """The images of one class; see `colourize.data.load` for `data_dir`."""
    if class_name not in CLASSES:
        raise UserError(f"unknown class {class_name!r}; the classes of cifar10 are {', '.join(CLASSES)}")
    label = CLASSES.index(class_name)
    path = Path(data_dir).expanduser() if data_dir else download()
    batches = {name: _pixels(file, f"{path}: {name}", label) for name, file in _batches(path)}
    missing = [name for name in [*_TRAIN, _TEST] if name not in batches]
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)}: give the folder {_FOLDER}, its parent, or the .tar.gz"
        )
    train = torch.cat([batches[name] for name in _TRAIN])
    validation = batches[_TEST]
    if not len(train) or not len(validation):
        raise UserError(
            f"{path} holds {len(train)} training and {len(validation)} test images of {class_name}"
        )
    return Split(TensorImages(train), TensorImages(validation), f"cifar10 {class_name}")


def _batches(path: Path) -> Iterator[tuple[str, BinaryIO]]:
    """Name and content of each batch in a folder or an archive, of which nothing is unpacked to disk."""
    names = {*_TRAIN, _TEST}
    if path.is_dir():
        folder = path / _FOLDER if (path / _FOLDER).is_dir() else path
        for name in sorted(names):
            if (folder / name).is_file():
                with open(folder / name, "rb") as file:
                    yield name, file
        return
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                if member.isfile() and name in names:
                    yield name, archive.extractfile(member)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _pixels(file: BinaryIO, name: str, label: int) -> Tensor:
    batch = pickles.load(file, name)
    try:
        data, labels = batch[b"data"], np.array(batch[b"labels"])
        if data.dtype != np.uint8 or data.shape != (len(labels), 3072):
            raise ValueError(f"{data.dtype} {data.shape} for {len(labels)} images")
        return torch.from_numpy(data[labels == label].reshape(-1, 3, 32, 32))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{name} is not a batch of CIFAR-10: {error}") from error


def download() -> Path:
    """The archive in the cache folder; downloaded, and checked against the official MD5, if not there yet."""
    return cached(URL, Checksum("md5", MD5), "with a copy at hand, give its place as --data-dir")
