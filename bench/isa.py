"""Holds this process, ours and the rivals alike, to an instruction set. To be called before torch is imported."""

from __future__ import annotations

import os
from enum import Enum


class Isa(str, Enum):
    avx512 = "avx512"
    avx2 = "avx2"
    portable = "portable"


_LIMITS = {  # ATen and the compiler's vectors, oneDNN, MKL, the compiler's own compiler
    Isa.avx512: (),
    Isa.avx2: ("avx2", "AVX2", "AVX2", "haswell"),
    Isa.portable: ("default", "SSE41", "SSE4_2"),
}
_VARIABLES = "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "TORCHINDUCTOR_CPP_MARCH"


def limit(isa: Isa) -> dict[str, str]:
    """Sets the environment; returns the rivals that know no such limit, and so cannot compete, with the reason."""
    os.environ["MYCONV2D_ISA"] = isa.value
    os.environ.update(zip(_VARIABLES, _LIMITS[isa], strict=False))
    if not _LIMITS[isa]:
        return {}
    unlimited = ("ONNX Runtime",) if isa is Isa.avx2 else ("ONNX Runtime", "torch.compile")
    return dict.fromkeys(unlimited, f"cannot be held to {isa.value}")
