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


GLOBAL = {
    "dtype": b"cnumpy\ndtype\n",
    "ndarray": b"cnumpy\nndarray\n",
    "reconstruct": b"cnumpy.core.multiarray\n_reconstruct\n",
}
OBJECTS = GLOBAL["dtype"] + b"(X\x02\x00\x00\x00O8I0\nI1\ntR"
PLAIN = b"NNNI-1\nI-1\n"


def built(state):
    """A pickle of a type of objects, and what it says of it."""
    return OBJECTS + b"(I3\nX\x01\x00\x00\x00|" + state + b"tb."


def test_a_type_of_objects_is_what_it_is():
    assert pickles.load(io.BytesIO(built(PLAIN + b"I63\n")), "file") == np.dtype("O")


@pytest.mark.parametrize(
    "content",
    [
        built(PLAIN + b"I0\n"),  # objects that say they are none: bytes would become pointers
        built(b"NNNI1\nI-1\nI63\n"),
        built(b"N(X\x01\x00\x00\x00at}I-1\nI-1\nI63\n"),
        GLOBAL["dtype"] + b"(X\x04\x00\x00\x00O,i8I0\nI1\ntR.",
        GLOBAL["ndarray"] + b"(I1\ntR.",
        GLOBAL["reconstruct"] + b"(N}X\x0c\x00\x00\x00__defaults__)stb.",
    ],
)
def test_what_numpy_would_not_write_is_refused(content):
    with pytest.raises(UserError, match="cannot read file"):
        pickles.load(io.BytesIO(content), "file")


def test_npy_files_of_objects_must_hold_an_array():
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "|O", "fortran_order": False, "shape": (2,)})
    content.write(pickle.dumps([1, 2]))
    content.seek(0)
    with pytest.raises(UserError, match="cannot read file: it holds list, not a numpy array"):
        pickles.load_npy(content, "file")
