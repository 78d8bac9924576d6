"""What a release consists of: the files of the sdist, and the wheel's tag (CONTRIBUTING.md, "Making a release")."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

import colourize
import myconv2d

ROOT = Path(__file__).parent.parent
LEFT_OUT = re.compile(r"bench/results/|\.ci/|\.gitignore$")  # of what the repository tracks
MADE = re.compile(r"PKG-INFO$|setup\.cfg$|[^/]+\.egg-info/")


def tracked() -> set[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.split("\0") if name}


def run_setup(*arguments: str) -> str:
    command = [sys.executable, "setup.py", "-q", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_sdist_has_all_that_is_tracked_but_results(tmp_path):
    expected = {name for name in tracked() if not LEFT_OUT.match(name)}
    run_setup("egg_info", "--egg-base", str(tmp_path), "sdist", "--dist-dir", str(tmp_path))
    (archive,) = tmp_path.glob("colourize-*.tar.gz")
    with tarfile.open(archive) as content:
        names = {member.name.partition("/")[2] for member in content if member.isfile()}
    found = {name for name in names if not MADE.match(name)}
    assert found - expected == set() and expected - found == set()
    assert archive.stat().st_size < 4 * 2**20


def test_wheel_has_all_of_the_packages(tmp_path):
    run_setup("build_py", "--build-lib", str(tmp_path))
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    inside = (name.removeprefix("kernels/") for name in tracked())
    assert found == {name for name in inside if name.startswith(("myconv2d/", "colourize/"))}


def test_wheel_is_for_every_python():
    """The native libraries know LibTorch's stable ABI and no Python; so the tag names the platform alone."""
    ask = """if True:
        import setuptools
        from distutils.core import run_setup
        wheel = run_setup("setup.py", ["bdist_wheel"], stop_after="commandline").get_command_obj("bdist_wheel")
        wheel.ensure_finalized()
        print(*wheel.get_tag())
    """
    said = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["py3", "none", re.sub("[-.]", "_", sysconfig.get_platform())]


@pytest.mark.parametrize("package", [colourize, myconv2d], ids=lambda package: package.__name__)
def test_every_promised_name_is_there(package):
    pytest.importorskip("triton")
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.endswith("__main__"):
            module = importlib.import_module(found.name)
            missing = [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)]
            assert missing == [], found.name
