"""Fixtures for the tests of the convolution: where it runs."""

from typing import NamedTuple

import pytest
import torch
from block_cases import OVERLOADS

from myconv2d import block_operators, native, use_backend


class Place(NamedTuple):
    """One backend on one device."""

    device: str
    backend: str


PLACES = [Place("cpu", "native"), Place("cpu", "reference")]
if torch.cuda.is_available():
    PLACES += [Place("cuda", "native"), Place("cuda", "triton"), Place("cuda", "reference")]


def _param(place: Place):
    marks = [pytest.mark.gpu] if place.device == "cuda" else []
    return pytest.param(place, id=f"{place.device}-{place.backend}", marks=marks)


@pytest.fixture(params=[_param(place) for place in PLACES])
def place(request) -> Place:
    """Every backend on every device of this machine; the convolutions of the test run there."""
    with use_backend(request.param.backend):
        yield request.param


@pytest.fixture
def isa():
    """A function that switches the CPU library's instruction set for the rest of the test."""
    before = native.cpu.isa()
    yield native.cpu.use_isa
    native.cpu.use_isa(before)


@pytest.fixture(params=OVERLOADS)
def fused(request, monkeypatch) -> torch.dtype:
    """Every implementation of the block operators serves the blocks of the test; gives the type to test it in."""
    if request.param == "native":
        return torch.float32
    choose = block_operators.choose

    def choose_reference(*tensors, wanted=None):
        return ("reference", "of the test") if wanted is None else choose(*tensors, wanted=wanted)

    monkeypatch.setattr(block_operators, "choose", choose_reference)
    return torch.float64
