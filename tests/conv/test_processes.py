"""Threads, processes and DistributedDataParallel: nothing of a convolution is shared by accident."""

import multiprocessing
import subprocess
import sys
import threading

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from myconv2d import MyConv2d, conv2d
from myconv2d.native import cpu


def problem(seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = (2, 4 + seed % 3, 9 + seed, 8), (5, 4 + seed % 3, 3, 3), (5,)
    return [torch.randn(size, generator=generator).requires_grad_() for size in sizes]


def results(convolution, seed):
    operands = problem(seed)
    output = convolution(*operands, padding=1)
    return [t.detach() for t in (output, *torch.autograd.grad(output.square().sum(), operands))]


def assert_right(found, seed):
    for our, their in zip(found, results(F.conv2d, seed), strict=True):
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-4)


def test_sixteen_threads_at_once():
    """Different convolutions in many Python threads: all as if alone, to the bit."""
    torch.set_num_threads(2)
    alone = [results(conv2d, seed) for seed in range(16)]
    together = [[] for _ in alone]
    start = threading.Barrier(len(alone))

    def work(seed):
        start.wait()
        for _ in range(10):
            together[seed].append(results(conv2d, seed))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(len(alone))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, (one, many) in enumerate(zip(alone, together, strict=True)):
        assert len(many) == 10
        for again in many:
            assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True)), seed
    assert_right(alone[3], 3)


NO_ROOM = """if True:
    import resource, torch, myconv2d
    torch.set_num_threads(2)
    wide, weight = torch.randn(2, 4, 1, 2**19), torch.randn(8, 4, 3, 3)  # two tasks, each with 75 MB to work in
    myconv2d.conv2d(wide[..., :8], weight, padding=1)                    # the threads are there
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (70 << 20), -1))
    try:
        myconv2d.conv2d(wide, weight, padding=1)
    except MemoryError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    print(myconv2d.conv2d(wide, weight, padding=1).shape)
"""


@pytest.mark.skipif(cpu.problem is not None, reason=str(cpu.problem))
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_worker_throws_is_said():
    run = subprocess.run([sys.executable, "-c", NO_ROOM], capture_output=True, text=True)
    assert "myconv2d: out of memory" in run.stdout and "bytes to work in" in run.stdout, run.stderr
    assert "torch.Size([2, 8, 1, 524288])" in run.stdout


def _in_child(seed, pipe):
    torch.set_num_threads(1)  # as DataLoader does: the framework's threads do not survive a fork
    pipe.send([t.numpy() for t in results(conv2d, seed)])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_child_processes(method):
    """In a child, also one forked after the parent has used the kernels."""
    expected = results(conv2d, 5)
    context = multiprocessing.get_context(method)
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(5, send))
    child.start()
    assert receive.poll(60), "the child gave no answer"
    found = [torch.from_numpy(array) for array in receive.recv()]
    child.join(60)
    assert child.exitcode == 0
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class Blurred(Dataset):
    """Pictures that are convolved where they are loaded."""

    weight = torch.full((1, 1, 3, 3), 1 / 9)

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return conv2d(torch.full((1, 6, 6), float(index)), self.weight)


def test_data_loader_workers():
    conv2d(torch.ones(1, 1, 6, 6), Blurred.weight)
    batches = list(DataLoader(Blurred(), batch_size=4, num_workers=2))
    expected = torch.arange(8.0)[:, None, None, None].expand(8, 1, 4, 4)
    torch.testing.assert_close(torch.cat(batches), expected)


def _train(rank, world, store, errors):
    try:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", store=dist.FileStore(store, world), rank=rank, world_size=world)
        found = []
        for module in (MyConv2d, nn.Conv2d):
            torch.manual_seed(0)
            model = nn.Sequential(
                module(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), module(8, 4, 3, groups=2)
            )
            parallel = DistributedDataParallel(model, gradient_as_bucket_view=True)
            pictures = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(rank))
            for _ in range(2):
                parallel(pictures).square().mean().backward()
            found.append([p.grad for p in model.parameters()])
        for our, their in zip(*found, strict=True):
            torch.testing.assert_close(our, their)
            mean = our.clone()
            dist.all_reduce(mean)
            torch.testing.assert_close(mean / world, our)  # all have the same
        dist.destroy_process_group()
        errors.put(None)
    except BaseException as error:
        errors.put(repr(error))
        raise


def test_distributed_data_parallel(tmp_path):
    """Two processes average their gradients and find those of the framework's module."""
    context = multiprocessing.get_context("spawn")
    errors = context.Queue()
    workers = [
        context.Process(target=_train, args=(rank, 2, str(tmp_path / "store"), errors)) for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    assert [errors.get(timeout=100) for _ in workers] == [None, None]
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
