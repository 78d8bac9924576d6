"""Builds the native libraries with CMake and Ninja; everything else about the package is in pyproject.toml.

Against the torch of the environment that is being installed into, where there is one, else against one that pip is
asked for. No compiler: installed without native libraries. No nvcc: without the CUDA one. Both are said in a line
here and again by `colourize info`.

Environment: MAX_JOBS (parallel compilations), MYCONV2D_CUDA=0 (leave CUDA out), CUDAARCHS (GPU architectures, as
CMake spells them), CXX, CUDACXX.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Command, Distribution, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build

ROOT = Path(__file__).parent.resolve()
PACKAGE = ROOT / "kernels" / "myconv2d"
OLDEST_TORCH = (2, 11)


def find_torch() -> Path | None:
    """torch's folder. In pip's isolated build, sysconfig still names the environment that is installed into."""
    folders = [Path(sysconfig.get_path(key)) / "torch" for key in ("purelib", "platlib")]
    if (spec := importlib.util.find_spec("torch")) is not None and spec.origin:
        folders.insert(0, Path(spec.origin).parent)
    return next((folder for folder in folders if (folder / "include" / "torch").is_dir()), None)


def torch_version(torch: Path) -> str:
    version = re.search(r"__version__ = '([^']+)'", (torch / "version.py").read_text())[1]
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TORCH:
        raise SystemExit(f"colourize needs torch {'.'.join(map(str, OLDEST_TORCH))} or newer, found {version}")
    return version


def jobs() -> int:
    """Parallel compilations: one per core, as far as the free memory goes (about 1.5 GB each)."""
    if asked := os.environ.get("MAX_JOBS"):
        return max(1, int(asked))
    try:
        free = int(re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[1]) >> 10
    except (OSError, TypeError):
        free = 4096
    return max(1, min(os.cpu_count() or 1, free // 1536))


def program(*names: str | None) -> str | None:
    """The first of these programs that is there; those that pip installed, on PATH or not, before the system's."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    return next((found for name in names if name and (found := shutil.which(name.split()[0], path=path))), None)


class BuildNative(Command):
    """Compiles csrc/ into myconv2d/lib."""

    description = "build the native libraries"
    user_options: list = []
    editable_mode = False

    def initialize_options(self) -> None:
        self.build_lib = None

    def finalize_options(self) -> None:
        self.set_undefined_options("build", ("build_lib", "build_lib"))
        package = PACKAGE if self.editable_mode else Path(self.build_lib) / "myconv2d"
        self.folder = package.resolve() / "lib"

    def run(self) -> None:
        build_folder = ROOT / "build" / f"cmake-{sysconfig.get_platform()}"  # kept, so that a reinstall is incremental
        self.built = build_folder / "lib"
        shutil.rmtree(self.built, ignore_errors=True)
        self.built.mkdir(parents=True)
        self.build(build_folder)
        shutil.rmtree(self.folder, ignore_errors=True)  # only now: a failed build leaves the old libraries
        shutil.copytree(self.built, self.folder)

    def build(self, build_folder: Path) -> None:
        if program(os.environ.get("CXX"), "c++", "g++", "clang++") is None:
            return self.leave_out("cpu", "no C++ compiler was found when the package was installed")
        cuda = os.environ.get("MYCONV2D_CUDA", "1") != "0"
        if not cuda:
            self.leave_out("cuda", "MYCONV2D_CUDA=0 was set when the package was installed")
        elif program(os.environ.get("CUDACXX"), "nvcc", "/usr/local/cuda/bin/nvcc") is None:
            cuda = False
            self.leave_out("cuda", "nvcc was not found when the package was installed")
        torch = find_torch()
        self.cmake(
            f"-S{ROOT}", f"-B{build_folder}", "-GNinja", "--fresh", "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_MAKE_PROGRAM={program('ninja')}", f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={self.built}",
            f"-DMYCONV2D_CUDA={'ON' if cuda else 'OFF'}",
            f"-DTORCH_FOLDER={torch}", f"-DTORCH_VERSION={torch_version(torch)}",
        )  # fmt: skip
        self.cmake("--build", str(build_folder), "--parallel", str(jobs()))

    def leave_out(self, library: str, reason: str) -> None:
        print(f"myconv2d: built without the {library.upper()} library: {reason}", file=sys.stderr)
        (self.built / f"{library}.txt").write_text(f"{reason}\n")

    def cmake(self, *arguments: str) -> None:
        subprocess.run([program("cmake"), *arguments], check=True)

    def get_source_files(self) -> list[str]:
        sources = [path for path in (ROOT / "csrc").rglob("*") if path.is_file()]
        return [str(path.relative_to(ROOT)) for path in (ROOT / "CMakeLists.txt", *sources)]

    def get_outputs(self) -> list[str]:
        return [str(path) for path in self.folder.glob("*")]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class Wheel(bdist_wheel):
    """One wheel for every Python: the libraries use torch's stable ABI and nothing of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class NativeDistribution(Distribution):
    def has_ext_modules(self) -> bool:
        return True


build.sub_commands.append(("build_native", None))
version = re.search(r'__version__ = "([^"]+)"', (PACKAGE / "__init__.py").read_text())[1]
oldest = ".".join(map(str, OLDEST_TORCH))

setup(
    version=version,
    packages=[*find_packages("kernels"), *find_packages(".", include=["colourize", "colourize.*"])],
    package_dir={"myconv2d": "kernels/myconv2d", "colourize": "colourize"},
    cmdclass={"build_native": BuildNative, "bdist_wheel": Wheel},
    distclass=NativeDistribution,
    setup_requires=[] if find_torch() else [f"torch>={oldest}"],  # pip adds it to the isolated build
)
