"""Precisions: the device's own, those that it lacks, and switches that are put back."""

import pytest
import torch

from colourize.files import UserError
from colourize.precision import autocast, choose, tf32_products

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def switches():
    return [
        switch.fp32_precision == "tf32" for switch in (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    ]


def test_every_device_has_its_own():
    assert (choose(None, CPU), choose(None, GPU)) == ("fp32", "tf32")
    assert choose("bf16", CPU) == "bf16"
    with pytest.raises(UserError, match="precision tf32 needs a CUDA device.*cpu"):
        choose("tf32", CPU)


def test_both_families_of_switches_agree_and_are_put_back():
    before = switches()
    for allowed in (True, False):
        with pytest.raises(KeyboardInterrupt), tf32_products(allowed):
            assert switches() == [allowed, allowed]
            assert torch._C._get_cudnn_allow_tf32() == torch._C._get_cublas_allow_tf32() == allowed
            raise KeyboardInterrupt
        assert switches() == before


def test_only_bf16_is_autocast():
    for name in ("fp32", "tf32", "bf16"):
        with autocast(name, CPU):
            assert torch.is_autocast_enabled("cpu") is (name == "bf16")
