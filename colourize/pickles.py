"""Numpy arrays out of other people's pickles, and nothing else.

CIFAR-10 and the original palette are distributed as Python-2 pickles. A pickle is a program: the ordinary
unpickler runs whatever it names. This one can name four things, all of them parts of a numpy array, and numpy trusts
what it is told of these: a type of objects that calls itself one of numbers would make pointers of the file's bytes. So
types are made here, of numbers and objects alone, and what a file would change of them is looked at.
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
_MODULES = {"numpy": "numpy", "numpy.core.multiarray": "multiarray", "numpy._core.multiarray": "multiarray"}
_NUMBERS_AND_OBJECTS = "biufcO"
_AS_IT_IS = None, None, None, -1, -1  # no parts, and the size and alignment that a type has


def _dtype(name: str | bytes, align: bool = False, copy: bool = False) -> np.dtype:
    made = np.dtype(name, align, copy)
    if made.kind not in _NUMBERS_AND_OBJECTS:
        raise pickle.UnpicklingError(f"it holds {made}, and only numbers and objects are admitted")
    return made


def _empty(*_: object) -> np.ndarray:
    """What numpy begins with: `__setstate__` gives it shape, type and content."""
    return np.empty(0, np.int8)


_PARTS = {
    ("multiarray", "_reconstruct"): _empty,
    ("multiarray", "scalar"): multiarray.scalar,
    ("numpy", "ndarray"): object(),  # what `_reconstruct` is to make; not to be called
    ("numpy", "dtype"): _dtype,
}


class _ArrayUnpickler(pickle._Unpickler):  # the one in Python: only that lets `load_build` be replaced
    def load_build(self) -> None:
        instance, state = self.stack[-2:]
        if isinstance(instance, np.dtype):
            if state[2:] not in (_AS_IT_IS, (*_AS_IT_IS, instance.flags)):
                raise pickle.UnpicklingError(f"it says of {instance} what is not true of it")
        elif not isinstance(instance, np.ndarray):
            raise pickle.UnpicklingError(f"it would change a {type(instance).__name__}")
        super().load_build()

    dispatch = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}

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
    except EOFError as error:
        raise UserError(f"cannot read {name}: pickle data was truncated") from error
    except LookupError as error:  # an instruction, or a place in what was read so far, that there is not
        raise UserError(f"cannot read {name}: not a pickle, or damaged") from error
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
