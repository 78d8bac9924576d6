"""Plans: the tile, warps and stages of a kernel, by shape class; those shipped and those measured on this machine.

A plan file is JSON:

    {"version": 1, "origin": "…", "plans": {"halo half channels_last small": "64 pixels × 64 outputs × …"}}

A key is the beginning of a shape in words (`Shape.words`), and the longest one that fits serves: "gather fp32" all
strict fp32 gathers, "gather half wide large 64 64-64 3x3 16x16 stride 1x1" that very layer, whatever the batch.
plans.json beside this file has a plan for every shape; what tuning.py measures stands in a file of its own per GPU,
and goes before it.
"""

from __future__ import annotations

import functools
import json
import os
import re
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from .launch import power_of_two

VERSION = 1  # of the format and of what the kernels make of a plan: a file of another version is not read
SHIPPED = Path(__file__).with_name("plans.json")
PLAN = re.compile(r"(\d+) pixels × (\d+) outputs × (\d+) channels, (\d+) warps, (\d+) stages(, of a copy)?")


class Plan(NamedTuple):
    """A tile of block_m pixels × block_n outputs, block_c channels a step; grad_weight: of block_n outputs × block_c
    channels, block_m pixels a step. Outputs and channels are limits: no tile is made larger than the layer needs.
    `copied`: images in NCHW are copied to channels_last first, and the kernel is that of channels_last.
    """

    block_m: int
    block_n: int
    block_c: int
    warps: int
    stages: int
    copied: bool = False

    def __str__(self) -> str:
        m, n, c, warps, stages, copied = self
        numbers = f"{m} pixels × {n} outputs × {c} channels, {warps} warps, {stages} stages"
        return f"{numbers}, of a copy" if copied else numbers

    @classmethod
    def parse(cls, text: str) -> Plan:
        """The inverse of `str`.

        Raises:
            ValueError: not a plan, or not one that a kernel can have.
        """
        match = PLAN.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f"{text!r} is not like {str(Plan(128, 64, 64, 4, 3))!r}")
        *numbers, copied = match.groups()
        plan = cls(*map(int, numbers), copied is not None)
        if not all(size == power_of_two(size) and 16 <= size <= 256 for size in plan[:3]):
            raise ValueError(f"{text!r}: sizes are powers of two from 16 to 256")
        if plan.warps not in (1, 2, 4, 8, 16) or not 1 <= plan.stages <= 8:
            raise ValueError(f"{text!r}: 1, 2, 4, 8 or 16 warps and 1 to 8 stages")
        return plan


class Shape(NamedTuple):
    """A kernel's task without its batch size: channels → outputs of one group, on result images of rows × columns."""

    kernel: str
    arithmetic: str  # "half" (fp16, bf16), "tf32", "fp32" or "fp64"
    # "channels_last" (of a block whose images come by boxes, "boxes"); "contiguous" (NCHW, a plan may copy it); other
    # gathers: "wide" (16 B) or "narrow"
    layout: str
    channels: int
    outputs: int
    taps: tuple[int, int]
    image: tuple[int, int]
    stride: tuple[int, int]

    @property
    def words(self) -> tuple[str, ...]:
        """The class in words, from the general to the particular; the last ones tell this layer from all others."""
        rows, columns = self.image
        return (
            self.kernel,
            self.arithmetic,
            self.layout,
            "small" if rows * columns <= 64 else "large",
            str(max(16, min(64, power_of_two(self.outputs)))),
            f"{self.channels}-{self.outputs}",
            "{}x{}".format(*self.taps),
            f"{rows}x{columns}",
            "stride {}x{}".format(*self.stride),
        )

    def __str__(self) -> str:
        return " ".join(self.words)


class Choice(NamedTuple):
    """The plan that serves a shape, the key it stands under, and whose it is."""

    plan: Plan
    key: str
    origin: str

    def __str__(self) -> str:
        return f"{self.plan} ({self.key!r}, {self.origin})"


class PlanFile(NamedTuple):
    origin: str
    plans: Mapping[str, Plan]

    def find(self, shape: Shape) -> tuple[str, Plan] | None:
        """The longest key that begins the shape's words."""
        words = shape.words
        for length in range(len(words), 0, -1):
            if (plan := self.plans.get(key := " ".join(words[:length]))) is not None:
                return key, plan
        return None


def read(path: Path) -> PlanFile:
    """
    Raises:
        OSError, ValueError: no such file; not a plan file, or of another version.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("plans"), dict):
        raise ValueError("not a plan file")
    if content.get("version") != VERSION:
        raise ValueError(f"of version {content.get('version')}, and this is version {VERSION}")
    parsed = {key: Plan.parse(text) for key, text in content["plans"].items()}
    for key, plan in parsed.items():
        if plan.copied and key.split()[2:3] != ["contiguous"]:
            raise ValueError(f"{key!r}: only what is contiguous is copied")
    return PlanFile(str(content.get("origin")), parsed)


def write(path: Path, file: PlanFile) -> None:
    """Readable, and at once: whoever reads sees the old file or the new one."""
    content = {
        "version": VERSION, "origin": file.origin,
        "plans": {key: str(plan) for key, plan in sorted(file.plans.items())},
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=path.name, delete=False
    ) as temporary:
        try:
            json.dump(content, temporary, indent=2, ensure_ascii=False)
            temporary.write("\n")
            temporary.close()
            os.replace(temporary.name, path)
        except BaseException:
            os.unlink(temporary.name)
            raise


def user_path(device: str) -> Path:
    """Where the plans measured on a GPU of this name are kept: in $MYCONV2D_CACHE or the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = os.environ.get("MYCONV2D_CACHE") or os.path.join(cache, "myconv2d")
    return Path(folder).expanduser() / f"plans-{re.sub(r'[^A-Za-z0-9]+', '-', device)}.json"


@functools.cache
def user_file(path: Path) -> PlanFile | None:
    """The measured plans, read once; None if there are none, or none that can be used, which is said."""
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        warnings.warn(f"myconv2d: the measured plans in {path} are ignored: {error}", stacklevel=2)
        return None


def remember(gpu: str, measured: Mapping[str, Plan]) -> None:
    """Add plans measured on a GPU of this name to its file, which another process may have added to."""
    path = user_path(gpu)
    user_file.cache_clear()
    before = user_file(path)
    write(path, PlanFile(f"measured on {gpu}", {**(before.plans if before else {}), **measured}))
    user_file.cache_clear()
    find.cache_clear()


shipped = functools.cache(lambda: read(SHIPPED))


@functools.cache
def find(shape: Shape, gpu: str | None) -> Choice:
    """The plan that serves on a GPU of this name: a measured one before the shipped one."""
    path = gpu and user_path(gpu)
    measured = path and user_file(path)
    for file, origin in (measured, f"measured: {path}"), (shipped(), "shipped, not measured"):
        if file and (found := file.find(shape)):
            key, plan = found
            return Choice(plan, key, origin)
    raise KeyError(f"plans.json has no plan for {shape}")
