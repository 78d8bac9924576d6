"""Sound files of every kind that the application reads, how each is read, and what a right result is."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from colourize import checkpoint, pictures
from colourize.data import cifar10
from colourize.palette import Palette
from colourize.settings import Settings

_MIB = 1 << 20


class Specimen(NamedTuple):
    """`read` takes the path; `right` judges what it returns; `memory` is the most that it may need, in bytes."""

    name: str
    suffix: str
    content: bytes
    read: Callable[[Path], Any]
    right: Callable[[Any], bool]
    memory: int = 256 * _MIB


def _written(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def _tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"weight": torch.randn(8, 3, 3, 3, generator=generator), "steps": torch.arange(5)}


def _checkpoint_is_whole(loaded: tuple[Mapping[str, torch.Tensor], Mapping[str, str]]) -> bool:
    tensors, notes = loaded
    whole = _tensors()
    return (
        notes == {"epoch": "3"}
        and tensors.keys() == whole.keys()
        and all(torch.equal(tensors[name], value) for name, value in whole.items())
    )


def _is_palette(palette: Palette) -> bool:
    centres = palette.centres
    return (
        centres.dtype == torch.float32
        and centres.dim() == 2
        and bool(((centres >= 0) & (centres <= 1)).all())
    )


def _is_picture(picture: pictures.Picture) -> bool:
    return picture.rgb.dtype == np.uint8 and picture.rgb.ndim == 3 and picture.rgb.shape[2] == 3


def _are_images(split: Any) -> bool:
    return all(
        images.tensor.dtype == torch.uint8 and images.tensor.shape[1:] == (3, 32, 32) for images in split[:2]
    )


def _read_batch(path: Path) -> Any:
    """A folder of CIFAR-10 whose third batch is this file."""
    folder = path.parent / "cifar"
    folder.mkdir(exist_ok=True)
    for name in ("data_batch_1", "data_batch_2", "data_batch_4", "data_batch_5", "test_batch"):
        if not (folder / name).exists():
            (folder / name).write_bytes(_batch())
    os.replace(path, folder / "data_batch_3")
    return cifar10.load(folder, "horse")


@cache
def _batch() -> bytes:
    data = np.random.default_rng(0).integers(0, 256, (10, 3072), dtype=np.uint8)
    return pickle.dumps({b"data": data, b"labels": [7, 1] * 5}, protocol=3)  # bytes as bytes


def _archive() -> bytes:
    def write(buffer):
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name in (
                "data_batch_1",
                "data_batch_2",
                "data_batch_3",
                "data_batch_4",
                "data_batch_5",
                "test_batch",
            ):
                member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                member.size = len(_batch())
                archive.addfile(member, io.BytesIO(_batch()))

    return _written(write)


@cache
def specimens(folder: Path) -> tuple[Specimen, ...]:
    """All kinds; `folder` is for what is written on the way."""
    path = folder / "sound.safetensors"
    checkpoint.save(path, _tensors(), {"epoch": "3"})
    settings = folder / "sound.toml"
    Settings("classification", "unet", limit=100, temperature=0.4).save(settings)
    centres = np.linspace(0, 1, 24 * 3, dtype=np.float32).reshape(24, 3)
    boxed = np.empty(2, dtype=object)
    boxed[0], boxed[1] = centres, 0.5
    rgb = Image.fromarray(np.random.default_rng(1).integers(0, 256, (37, 41, 3), dtype=np.uint8))
    smooth = rgb.resize((64, 48))

    def picture(kind: str, image: Image.Image = smooth) -> Specimen:
        content = _written(lambda buffer: image.save(buffer, format=kind))
        return Specimen(f"{kind} picture", f".{kind.lower()}", content, pictures.read, _is_picture,
                        16 * pictures.MAX_PIXELS)  # fmt: skip

    palettes = {
        ".npy": _written(lambda buffer: np.save(buffer, centres)),
        ".json": json.dumps({"colours": centres.tolist()}).encode(),
        ".npz": _written(lambda buffer: np.savez(buffer, centres=centres)),
    }
    return (
        Specimen("checkpoint", ".safetensors", path.read_bytes(), checkpoint.load, _checkpoint_is_whole),
        Specimen(
            "settings", ".toml", settings.read_bytes(), Settings.load, lambda s: isinstance(s, Settings)
        ),
        *(
            Specimen(f"{suffix} palette", suffix, content, Palette.load, _is_palette)
            for suffix, content in palettes.items()
        ),
        Specimen(
            "pickled palette",
            ".npy",
            _written(lambda b: np.save(b, boxed, allow_pickle=True)),
            Palette.load,
            _is_palette,
        ),
        Specimen("CIFAR-10 batch", ".batch", _batch(), _read_batch, _are_images),
        Specimen(
            "CIFAR-10 archive", ".tar.gz", _archive(), lambda path: cifar10.load(path, "horse"), _are_images
        ),
        *(picture(kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")),
        picture("GIF", smooth.convert("P")),
        picture("PNG", Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64))),  # 16 bits
    )


def bombs() -> list[tuple[str, bytes]]:
    """(which specimen it is given for, a small file that unfolds into much)."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    def png(width, height):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        packed = zlib.compress(bytes(_MIB)) * 4
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", packed) + chunk(b"IEND", b"")

    def npz(buffer):
        with (
            zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("centres.npy", "w") as file,
        ):
            file.write(npy_header((1 << 26, 3)))
            for _ in range(3 * 256):
                file.write(bytes(_MIB))

    def npy_header(shape, kind="<f4"):
        text = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode()
        text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text

    def archive(buffer):
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
            member.size = 512 * _MIB
            tar.addfile(member, _Zeros(member.size))

    def safetensors(size):
        header = json.dumps(
            {"weight": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}}
        ).encode()
        return struct.pack("<Q", len(header)) + header

    counted = b"\x80\x02]" + b"(" + b"K\x01" * 1000 + b"e."
    return [
        *(("PNG picture", png(*size)) for size in ((60_000, 60_000), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1))),
        (".npz palette", _written(npz)),
        *((".npy palette", npy_header(shape)) for shape in ((2**40, 3), (2**62, 3), (10**30, 3))),
        ("pickled palette", npy_header((2**40,), "|O") + counted),
        ("CIFAR-10 batch", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40)),  # bytes of a terabyte
        ("CIFAR-10 batch", b"\x80\x02r" + struct.pack("<I", 0xFFFFFFF0) + b"."),  # memo slot 2³²
        ("CIFAR-10 archive", _written(archive)),
        *(("checkpoint", safetensors(size)) for size in (2**40, 2**62, 2**61)),
        ("checkpoint", struct.pack("<Q", 1 << 50)),
        ("settings", b"a = " + b"[" * 100_000),
        ("settings", b'task = "' + b"x" * 10_000_000 + b'"'),
        (".json palette", b"[" * 1_000_000),
        (".json palette", b'{"colours": ' + b"9" * 100_000 + b"}"),
    ]


class _Zeros(io.RawIOBase):
    def __init__(self, size: int) -> None:
        self.left = size

    def read(self, size: int = -1) -> bytes:
        size = self.left if size < 0 else min(size, self.left)
        self.left -= size
        return bytes(size)


class _Executes:
    """Pickled, this is a program that makes a file."""

    def __init__(self, function: Callable, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple:
        return self.call


def hostile(canary: Path) -> list[tuple[str, bytes]]:
    """(which specimen it is given for, a file that makes `canary` when whoever reads it trusts it)."""
    source = f"open({str(canary)!r}, 'w').close()"
    programs = [
        _Executes(os.system, f"touch '{canary}'"),
        _Executes(open, str(canary), "w"),
        _Executes(eval, source),
        _Executes(exec, source),
        _Executes(np.fromfile, str(canary)),
        _Executes(getattr, "", "join"),
    ]
    found = []
    for program in programs:
        for protocol in (0, 2, 4):
            found.append(("CIFAR-10 batch", pickle.dumps({b"data": program, b"labels": [7]}, protocol)))
        boxed = np.empty(1, dtype=object)
        boxed[0] = program
        found.append(
            ("pickled palette", _written(lambda b, boxed=boxed: np.save(b, boxed, allow_pickle=True)))
        )
        found.append((".npz palette", _written(lambda b, boxed=boxed: np.savez(b, centres=boxed))))
        found.append(("checkpoint", pickle.dumps(program)))
        found.append(("checkpoint", _written(lambda b, program=program: torch.save(program, b))))
    found.append(("settings", f"task = \"__import__('os').system('touch {canary}')\"".encode()))
    return found
