"""Files that are downloaded once, checked, and kept in the cache folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

from rich import progress
from rich.console import Console

from .files import UserError, atomic_file, cache_folder

_BLOCK = 1 << 20


class Checksum(NamedTuple):
    """How the digest of a file begins, in hexadecimal, by an algorithm of hashlib."""

    algorithm: str
    begin: str


def cached(url: str, checksum: Checksum, remedy: str, *, name: str | None = None) -> Path:
    """The file of `url` in the cache folder, called `name` or as in the address; downloaded and checked if not there.

    What is there is not checked again, so its name has to stand for its content. Raises UserError if it cannot be had,
    with the words of `remedy`, or is another; nothing is kept then.
    """
    path = cache_folder() / (name or url.rpartition("/")[2])
    if path.is_file():
        return path
    digest = hashlib.new(checksum.algorithm, usedforsecurity=False)
    with atomic_file(path) as file:
        for block in _blocks(url, remedy):
            digest.update(block)
            file.write(block)
        if not digest.hexdigest().startswith(checksum.begin):
            raise UserError(
                f"the download of {url} is incomplete or damaged: {checksum.algorithm.upper()} "
                f"{digest.hexdigest()}, not {checksum.begin}"
            )
    return path


def _blocks(url: str, remedy: str) -> Iterator[bytes]:
    try:
        with urlopen(url, timeout=30) as response:
            total = int(response.headers.get("Content-Length", 0))
            name = url.rpartition("/")[2]
            bar = {"description": f"Downloading {name}", "console": Console(stderr=True)}  # stdout may be JSON
            with progress.wrap_file(response, total, **bar) as content:
                while block := content.read(_BLOCK):
                    yield block
    except (OSError, ValueError) as error:  # a URL that is none is a ValueError
        raise UserError(f"cannot download {url}: {error}; {remedy}") from error
