"""Batch norm across processes: two of them with unequal shares find what one finds, in float64, with all pictures."""

import copy
import multiprocessing

import pytest
import torch
import torch.distributed as dist
from torch import nn

from myconv2d import ConvBlock
from myconv2d.sync_norm import SyncBatchNorm2d, synchronise

SHARES = 3, 2


def networks():
    """Blocks fused and not, each with an oracle in float64 that is composed of plain modules."""
    torch.manual_seed(0)
    for options in ({}, {"dilation": 2}):
        network = nn.ModuleList([ConvBlock(2, 20, resize="pool"), ConvBlock(20, 5, resize="upsample", **options)])
        with torch.no_grad():
            for block in network:
                block.norm.weight.copy_(torch.randn_like(block.norm.weight))  # of both signs, as pooling asks for it
                block.norm.bias.normal_()
        yield network, not options


def run(network, pictures, weights):
    """Outputs and gradients of a loss that is no mean, so that every picture counts differently."""
    first, second = network
    output = second(first(pictures, pending=True))
    grads = torch.autograd.grad((output * weights).sum(), list(network.parameters()))
    statistics = [buffer.clone() for buffer in network.buffers()]
    return output.detach(), grads, statistics


def check(rank):
    random = torch.Generator().manual_seed(1)
    pictures, weights = (torch.randn(sum(SHARES), c, 12, 10, generator=random) for c in (2, 5))
    own = [tensor.split(SHARES)[rank] for tensor in (pictures, weights)]
    for network, fused in networks():
        oracle = copy.deepcopy(network).double()
        output, grads, statistics = run(oracle, pictures.double(), weights.double())
        _, plain_grads, _ = run(copy.deepcopy(network), pictures, weights)
        expected = output.split(SHARES)[rank]
        made = copy.deepcopy(network)
        assert len(synchronise(made)) == 2
        alternatives = [made, nn.SyncBatchNorm.convert_sync_batchnorm(network)] if fused else [made]
        for synchronised in alternatives:
            assert synchronised[1].hindrance(torch.randn(1, 20, 6, 5)) is None or not fused
            found, parts, own_statistics = run(synchronised, *own)
            torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
            for ours, theirs in zip(own_statistics, statistics, strict=True):
                torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=1e-6)
            for part, plain, exact in zip(parts, plain_grads, grads, strict=True):
                total = part.double()
                dist.all_reduce(total)
                assert_as_exact(total, plain, exact)
    check_alone(made, network, own[0])
    check_second_derivatives(own[0])


def assert_as_exact(found, plain, exact):
    """As near to the float64 result as one process's float32 is."""
    rounding = torch.maximum((plain - exact).abs().max(), 2**-20 * exact.abs().max().clamp(min=1))
    assert (found - exact).abs().max() <= 4 * rounding, ((found - exact).abs().max(), rounding)


def check_alone(made, network, pictures):
    """Without gradients, in evaluation, and with `joint` False, nothing waits for the other process."""
    with torch.no_grad():
        before = made[0].norm.running_mean.clone()
        made[0](pictures)
        mean = made[0].norm.running_mean
        parts = [torch.empty_like(mean) for _ in SHARES]
        dist.all_gather(parts, mean)
        assert torch.equal(*parts) and not torch.equal(parts[0], before)
    if dist.get_rank() == 0:
        torch.testing.assert_close(made.eval()[0](pictures), made[0]._composed(pictures), rtol=1e-4, atol=1e-5)
        made.train()[1].norm.joint = False
        network.train()
        plain = nn.BatchNorm2d(5)
        plain.load_state_dict(made[1].norm.state_dict())
        x = torch.randn(2, 5, 3, 3)
        torch.testing.assert_close(made[1].norm(x), plain(x))


def check_second_derivatives(pictures):
    block = ConvBlock(2, 3)
    synchronise(block)
    output = block(pictures.clone().requires_grad_())
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.grad(output.sum(), block.conv.weight, create_graph=True)


def child(rank, store, errors):
    try:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
        check(rank)
        dist.destroy_process_group()
        errors.put(None)
    except BaseException as error:
        errors.put(repr(error))
        raise


def test_two_processes_find_what_one_finds(tmp_path):
    context = multiprocessing.get_context("spawn")
    errors = context.Queue()
    children = [context.Process(target=child, args=(rank, str(tmp_path / "store"), errors)) for rank in range(2)]
    for process in children:
        process.start()
    assert [errors.get(timeout=100) for _ in children] == [None, None]
    for process in children:
        process.join(30)
        assert process.exitcode == 0


def test_alone_it_is_the_framework_s():
    ours, theirs = ConvBlock(2, 3), ConvBlock(2, 3)
    theirs.load_state_dict(ours.state_dict())
    synchronise(ours)
    assert type(ours.norm) is SyncBatchNorm2d
    x = torch.randn(2, 2, 6, 6)
    assert torch.equal(ours(x), theirs(x))
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
