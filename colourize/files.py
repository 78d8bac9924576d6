"""What the application saves and says: atomic writes, the cache folder, messages for whoever runs it."""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

logger = logging.getLogger("colourize")


class UserError(Exception):
    """Something that the person at the keyboard can put right.

    The message is complete by itself: it names the file or argument, what was found and what is allowed.
    The command line prints it in one line without a traceback and ends with `exit_code`.
    """

    exit_code = 1


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file, open for reading and writing, that becomes `path` when the block ends well.

    It is written under a temporary name in the same folder (made if missing), flushed to the disk and
    renamed, so that `path` holds either what it held before or all of the new content, whatever happens.
    When the block raises, the temporary file is removed and the exception goes on; an OSError, such as a
    full disk, becomes a UserError.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))  # a link stays a link: the file behind it is replaced
    temporary = target.with_name(f".{target.name[:60]}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                raise IsADirectoryError(None, "there is a folder of that name")
            with open(temporary, "x+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
            _sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        state = "what it held before is untouched" if os.path.isfile(target) else "nothing was written"
        raise UserError(f"cannot write {path}: {error.strerror or error}; {state}") from error


def atomic_write(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Calls `write` with a binary file that becomes `path` when it returns (see `atomic_file`)."""
    with atomic_file(path) as file:
        write(file)


def _sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` survive a power failure, where the system can be asked for that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def cache_folder() -> Path:
    """Where downloads are kept: $COLOURIZE_CACHE, or the system's folder for caches. It may not exist yet."""
    if chosen := os.environ.get("COLOURIZE_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "colourize"


_said: set[str] = set()


def say_once(message: str, *, key: str | None = None) -> None:
    """Logs a warning, and nothing when the same `key` (by default the message itself) was said before."""
    key = key or message
    if key not in _said:
        _said.add(key)
        logger.warning(message)
