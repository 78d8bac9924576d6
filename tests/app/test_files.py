import errno
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from colourize.files import UserError, atomic_file, atomic_write, cache_folder, say_once


@pytest.fixture
def target(tmp_path):
    """A file that holds b"old"; the test ends with no temporary file beside it."""
    path = tmp_path / "folder" / "run.bin"
    path.parent.mkdir()
    path.write_bytes(b"old")
    yield path
    assert [file.name for file in path.parent.iterdir()] == ["run.bin"]


def test_writes_new_content(target):
    atomic_write(target, lambda file: file.write(b"new"))
    assert target.read_bytes() == b"new"


def test_old_content_stays_until_the_end(target):
    with atomic_file(target) as file:
        file.write(b"new")
        file.flush()
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"


def test_makes_missing_folders(tmp_path):
    atomic_write(tmp_path / "a" / "b" / "file", lambda file: file.write(b"x"))
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"x"


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt(), UserError("a message")])
def test_a_failing_writer_changes_nothing(target, error):
    with pytest.raises(type(error)) as raised, atomic_file(target) as file:
        file.write(b"half of it")
        raise error
    assert raised.value is error
    assert target.read_bytes() == b"old"


def test_a_full_disk_is_said_and_changes_nothing(target):
    def write(file):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(
        UserError, match=r"run\.bin: No space left on device; what it held before is untouched"
    ):
        atomic_write(target, write)
    assert target.read_bytes() == b"old"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit on file sizes to reach")
def test_a_real_refusal_by_the_system_changes_nothing(target):
    program = (
        "import resource, sys; from colourize.files import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: atomic_write(sys.argv[1], lambda file: file.write(bytes(10000)))\n"
        "except UserError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", program, target], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"cannot write {target}: File too large; what it held before is untouched"
    assert target.read_bytes() == b"old"


def test_names_a_folder_that_is_in_the_way(target):
    with pytest.raises(UserError, match=r"folder: there is a folder of that name; nothing was written"):
        atomic_write(target.parent, lambda file: file.write(b"x"))


def test_names_a_file_that_is_in_the_way(target):
    with pytest.raises(UserError, match=r"cannot write .*run\.bin.below: .*; nothing was written"):
        atomic_write(target / "below", lambda file: file.write(b"x"))


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are different there")
def test_permissions_follow_the_umask(tmp_path):
    previous = os.umask(0o027)
    try:
        atomic_write(tmp_path / "file", lambda file: file.write(b"x"))
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_link_stays_a_link(target, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(target)
    atomic_write(link, lambda file: file.write(b"new"))
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_long_names_are_written(tmp_path):
    path = tmp_path / ("ü" * 120)  # 240 bytes, of the 255 that are allowed
    atomic_write(path, lambda file: file.write(b"x"))
    assert path.read_bytes() == b"x"


def test_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("COLOURIZE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


def test_cache_folder_is_the_system_s(monkeypatch, tmp_path):
    monkeypatch.delenv("COLOURIZE_CACHE", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "colourize"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("~/.cache/colourize").expanduser()


def test_says_once(said, caplog):
    for _ in range(3):
        say_once("a.png is odd", key="odd")
        say_once("something else")
    assert said() == ["a.png is odd", "something else"]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
