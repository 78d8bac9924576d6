"""Half precision where the compiler has no type for it (csrc/cpu/vector.h): bits, by instructions or by hand."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest
import torch
from changed_sources import CSRC
from compiled import COMPILER
from torch import Tensor

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler here")
SOURCE = """
#include "vector.h"
using namespace myconv2d::bits;
extern "C" void widen(const float16* from, float* to, int n) {
  for (int i = 0; i < n; ++i) to[i] = load<float>(from[i]);
}
extern "C" void narrowed(const float* from, float16* to, int n) {
  for (int i = 0; i < n; ++i) to[i] = narrow<float16, float>(from[i]);
}
"""
EVERY = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.float16)


@pytest.fixture(scope="module", params=["", "-mf16c"], ids=["by hand", "by instructions"])
def library(request, tmp_path_factory) -> ctypes.CDLL:
    if request.param and not torch.cpu._is_avx2_supported():
        pytest.skip("this processor has no such instructions")
    folder = tmp_path_factory.mktemp("float16")
    (folder / "bits.cpp").write_text(SOURCE)
    flags = ["-std=c++20", "-O1", "-fPIC", "-shared", *request.param.split(), "-DMYCONV2D_FLOAT16_OF_BITS"]
    isa = ["-DMYCONV2D_ISA=bits", "-DMYCONV2D_VECTOR_BYTES=16", f"-I{CSRC / 'cpu'}"]
    subprocess.run([COMPILER, *flags, *isa, "bits.cpp", "-o", "bits.so"], cwd=folder, check=True)
    return ctypes.CDLL(str(Path(folder, "bits.so")))


def converted(function, from_: Tensor, dtype: torch.dtype) -> Tensor:
    to = torch.empty(from_.shape, dtype=dtype)
    function(ctypes.c_void_p(from_.data_ptr()), ctypes.c_void_p(to.data_ptr()), from_.numel())
    return to


def assert_same(ours: Tensor, theirs: Tensor, bits: torch.dtype) -> None:
    """Bit for bit, but for which NaN it is."""
    number = ~theirs.isnan()
    assert torch.equal(ours.isnan(), ~number)
    assert torch.equal(ours[number].view(bits), theirs[number].view(bits))


def test_every_half_becomes_the_float_that_it_is(library) -> None:
    assert_same(converted(library.widen, EVERY, torch.float32), EVERY.float(), torch.int32)


def test_floats_are_rounded_as_the_framework_does(library) -> None:
    """Every half, what lies between two of them, the floats on either side of all these, and floats of every size."""
    halves = EVERY[EVERY.isfinite()]
    between = (halves.float() + halves.nextafter(torch.tensor(0.0).half()).float()) / 2
    bits = torch.cat([halves.float(), between]).view(torch.int32)
    near = torch.cat([bits + step for step in (-1, 0, 1)]).view(torch.float32)
    anything = torch.randint(-(2**31), 2**31, (200_000,)).to(torch.int32).view(torch.float32)
    limits = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 65520.0, 65519.996])
    floats = torch.cat([near, anything, limits])
    assert_same(converted(library.narrowed, floats, torch.float16), floats.half(), torch.int16)
