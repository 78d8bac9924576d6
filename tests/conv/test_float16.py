"""Half precision (csrc/cpu/stored.h) one by one and by vectors, by instructions or, where the compiler has no type for
it, by hand."""

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
#include "stored.h"
using namespace myconv2d::bits;
using V = Vector<float>::type;
constexpr int lanes = Vector<float>::lanes;

template <typename T>
void widen(const T* from, float* to, int n, int by_vectors) {
  for (int i = 0; !by_vectors && i < n; ++i) to[i] = load<float>(from[i]);
  for (int i = 0; by_vectors && i < n; i += lanes) store_lanes(to + i, load_lanes<V>(from + i));
}
template <typename T>
void narrowed(const float* from, T* to, int n, int by_vectors) {
  for (int i = 0; !by_vectors && i < n; ++i) to[i] = narrow<T, float>(from[i]);
  for (int i = 0; by_vectors && i < n; i += lanes) store_lanes(to + i, load_lanes<V>(from + i));
}
extern "C" {
void widen_float16(const float16* from, float* to, int n, int by_vectors) { widen(from, to, n, by_vectors); }
void narrow_float16(const float* from, float16* to, int n, int by_vectors) { narrowed(from, to, n, by_vectors); }
void widen_bfloat16(const bfloat16* from, float* to, int n, int by_vectors) { widen(from, to, n, by_vectors); }
void narrow_bfloat16(const float* from, bfloat16* to, int n, int by_vectors) { narrowed(from, to, n, by_vectors); }
}
"""
EVERY = torch.arange(-(2**15), 2**15, dtype=torch.int16)
TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_BY_HAND = "-DMYCONV2D_FLOAT16_OF_BITS"
_AVX512 = "-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq"
BUILDS = {  # flags, bytes of a vector, what the processor must have
    "by hand": (_BY_HAND, 16, lambda: True),
    "by hand, with instructions": (f"-mf16c {_BY_HAND}", 16, torch.cpu._is_avx2_supported),
    "by the compiler": ("", 16, lambda: True),
    "avx2": ("-mavx2 -mfma -mf16c", 32, torch.cpu._is_avx2_supported),
    "avx512": (_AVX512, 64, torch.cpu._is_avx512_supported),
}


@pytest.fixture(scope="module", params=BUILDS)
def library(request, tmp_path_factory) -> ctypes.CDLL:
    flags, vector_bytes, is_there = BUILDS[request.param]
    if not is_there():
        pytest.skip("this processor has no such instructions")
    folder = tmp_path_factory.mktemp("float16")
    (folder / "bits.cpp").write_text(SOURCE)
    isa = ["-DMYCONV2D_ISA=bits", f"-DMYCONV2D_VECTOR_BYTES={vector_bytes}", f"-I{CSRC / 'cpu'}", *flags.split()]
    options = ["-std=c++20", "-O1", "-fPIC", "-shared", *isa]
    subprocess.run([COMPILER, *options, "bits.cpp", "-o", "bits.so"], cwd=folder, check=True)
    return ctypes.CDLL(str(Path(folder, "bits.so")))


def converted(function, from_: Tensor, dtype: torch.dtype, by_vectors: bool) -> Tensor:
    to = torch.empty(from_.shape, dtype=dtype)
    function(ctypes.c_void_p(from_.data_ptr()), ctypes.c_void_p(to.data_ptr()), from_.numel(), by_vectors)
    return to


def assert_same(ours: Tensor, theirs: Tensor, bits: torch.dtype) -> None:
    """Bit for bit, but for which NaN it is."""
    number = ~theirs.isnan()
    assert torch.equal(ours.isnan(), ~number)
    assert torch.equal(ours[number].view(bits), theirs[number].view(bits))


@pytest.mark.parametrize("by_vectors", [False, True], ids=["one by one", "by vectors"])
@pytest.mark.parametrize("name", TYPES)
def test_every_half_becomes_the_float_that_it_is(library, name: str, by_vectors: bool) -> None:
    halves = EVERY.view(TYPES[name])
    floats = converted(getattr(library, f"widen_{name}"), halves, torch.float32, by_vectors)
    assert_same(floats, halves.float(), torch.int32)


@pytest.mark.parametrize("by_vectors", [False, True], ids=["one by one", "by vectors"])
@pytest.mark.parametrize("name", TYPES)
def test_floats_are_rounded_as_the_framework_does(library, name: str, by_vectors: bool) -> None:
    """Every half, what lies between two of them, the floats on either side of all these, and floats of every size."""
    dtype = TYPES[name]
    halves = EVERY.view(dtype)
    halves = halves[halves.isfinite()]
    between = (halves.float() + halves.nextafter(torch.tensor(0.0, dtype=dtype)).float()) / 2
    bits = torch.cat([halves.float(), between]).view(torch.int32)
    near = torch.cat([bits + step for step in (-1, 0, 1)]).view(torch.float32)
    anything = torch.randint(-(2**31), 2**31, (200_000,)).to(torch.int32).view(torch.float32)
    limits = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 65520.0, 65519.996, 3.4e38])
    floats = torch.cat([near, anything, limits])
    floats = torch.cat([floats, limits[:1].repeat(-len(floats) % 16)])  # whole vectors
    rounded = converted(getattr(library, f"narrow_{name}"), floats, dtype, by_vectors)
    assert_same(rounded, floats.to(dtype), torch.int16)
