"""Numpy arrays out of other people's pickles, and nothing else.

CIFAR-10 and the original palette are distributed as Python-2 pickles. A pickle is a program: the ordinary
unpickler runs whatever it names. This one can name four things, all of them parts of a numpy array.
"""

from __future__ import annotations

import math
import pickle
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from .files import UserError

try:  # numpy 2 moved it
    from numpy._core import multiarray
except ImportError:
    from numpy.core import multiarray

MOST = 1 << 20
_PARTS = {
    ("multiarray", "_reconstruct"): multiarray._reconstruct,
    ("multiarray", "scalar"): multiarray.scalar,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
_MODULES = {"numpy": "numpy", "numpy.core.multiarray": "multiarray", "numpy._core.multiarray": "multiarray"}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        part = _PARTS.get((_MODULES.get(module, ""), name))
        if part is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only numpy arrays are admitted")
        return part


def load(file: BinaryIO, name: str) -> Any:
    """The object pickled in `file`: numpy arrays and plain Python containers; Python-2 strings come as bytes.

    Raises UserError, with `name`, for anything else and for a damaged file.
    """
    try:
        return _ArrayUnpickler(file, encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(f"cannot read {name}: {_reason(error)}") from error


def load_npy(file: BinaryIO, name: str) -> np.ndarray:
    """The array of an .npy file, of at most MOST numbers; an array of objects goes through `load`.

    Raises UserError, with `name`. A packed file may claim far more than it holds: its size is looked at first.
    """
    try:
        version = npy.read_magic(file)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = header(file)
        if math.prod(shape) > MOST:
            raise ValueError(f"{' × '.join(map(str, shape))} numbers are more than {MOST}")
        if not dtype.hasobject:
            file.seek(0)
            return npy.read_array(file, allow_pickle=False)
    except Exception as error:
        raise UserError(f"cannot read {name}: not an .npy file, or damaged ({_reason(error)})") from error
    array = load(file, name)
    if not isinstance(array, np.ndarray):
        raise UserError(f"cannot read {name}: it holds {type(array).__name__}, not a numpy array")
    return array


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
