import io
import pickle

import numpy as np
import pytest

from colourize import pickles
from colourize.files import UserError


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize(
    "array", [np.arange(12.0).reshape(3, 4), np.arange(5, dtype=np.uint8), np.zeros((0, 3))]
)
def test_arrays_come_back(array, protocol):
    found = pickles.load(io.BytesIO(pickle.dumps({"a": [array]}, protocol)), "file")["a"][0]
    assert np.array_equal(found, array)
    assert found.dtype == array.dtype


@pytest.mark.parametrize(
    "name",
    [
        "builtins eval",
        "os system",
        "numpy load",
        "numpy.core.multiarray fromfile",
        "numpy._core._methods _mean",
    ],
)
def test_nothing_else_is_admitted(name):
    content = b"c" + name.replace(" ", "\n").encode() + b"\n."
    with pytest.raises(
        UserError, match=rf"cannot read file: it asks for {name.replace(' ', '.')}, and only numpy"
    ):
        pickles.load(io.BytesIO(content), "file")


def test_dotted_names_do_not_reach_further():
    module, name = "numpy", "ndarray.__class__.__base__"
    content = b"\x80\x04\x8c" + bytes([len(module)]) + module.encode()
    content += b"\x8c" + bytes([len(name)]) + name.encode() + b"\x93."
    with pytest.raises(UserError, match="only numpy arrays are admitted"):
        pickles.load(io.BytesIO(content), "file")


def test_npy_files_of_objects_must_hold_an_array():
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "|O", "fortran_order": False, "shape": (2,)})
    content.write(pickle.dumps([1, 2]))
    content.seek(0)
    with pytest.raises(UserError, match="cannot read file: it holds list, not a numpy array"):
        pickles.load_npy(content, "file")
