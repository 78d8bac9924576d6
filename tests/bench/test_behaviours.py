from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from bench import behaviours
from myconv2d import MyConv2d, use_backend

COMPILATION = "compiles without a break"  # slow, and tests/conv/test_torch_compile.py tries it


@pytest.mark.parametrize("name", [name for name in behaviours.names("cpu") if name != COMPILATION])
def test_behaviour_on_the_cpu(name: str) -> None:
    with use_backend("native"):
        behaviours.try_out(name, torch.device("cpu"))


def test_a_wrong_gradient_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: MyConv2d, input, weight, bias):
        return nn.Conv2d._conv_forward(self, input, weight.detach() + 2 * (weight - weight.detach()), bias)

    monkeypatch.setattr(MyConv2d, "_conv_forward", forward)
    with pytest.raises(AssertionError):
        behaviours.try_out("gradients match the framework", torch.device("cpu"))


def test_a_backend_that_does_not_serve_is_noticed() -> None:
    fallen_back = pytest.raises(AssertionError, match="native serves torch.float32: triton cannot: ")
    with use_backend("triton"), fallen_back, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        behaviours.try_out("the backend asked for serves", torch.device("cpu"))


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_the_frameworks_own_loss_is_not_held_to_the_same_bits(backend: str) -> None:
    with use_backend(backend), pytest.raises(behaviours.NotHere, match="in any order"):
        behaviours.try_out("cross entropy matches the framework", torch.device("cuda"))


def test_torch_compile_is_not_asked_for_where_triton_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behaviours.backends, "problem", lambda *asked: "no compiler")
    with pytest.raises(behaviours.NotHere, match="needs Triton on CUDA: no compiler"):
        behaviours.try_out(COMPILATION, torch.device("cuda"))
