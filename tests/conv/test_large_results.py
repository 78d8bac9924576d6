"""Results larger than the caches, which the direct product stores past them, in whole and aligned vectors."""

import pytest
import torch

from myconv2d.native import cpu

pytestmark = pytest.mark.skipif(cpu.problem is not None, reason=str(cpu.problem))
ISAS = [name for name, runs_here in cpu.isas().items() if runs_here] if cpu.problem is None else []
GROUPS = 4  # of 36 channels: whole vectors, and a group that begins within one
CHANNELS = GROUPS * 36


@pytest.mark.parametrize("operator", ["conv2d", "conv2d_grad_input"])
@pytest.mark.parametrize("name", ISAS)
def test_groups_that_begin_within_a_vector(name, operator, isa) -> None:
    isa(name)
    image = torch.randn(1, CHANNELS, 180, 180).to(memory_format=torch.channels_last)
    weight = torch.randn(CHANNELS, CHANNELS // GROUPS, 1, 1)
    assert 2 * image.nbytes > 32 << 20 > image.nbytes

    def run(image):
        third = None if operator == "conv2d" else image.shape  # the bias, or the input's size
        return getattr(torch.ops.myconv2d, operator)(image, weight, third, [1, 1], [0, 0], [1, 1], GROUPS)

    assert torch.equal(run(image), torch.cat([run(half) for half in image.split(90, 2)], 2))
