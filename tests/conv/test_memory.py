"""Large results lie in memory that is kept: whole while they live, used again afterwards, given back when asked to."""

import os
import pickle
import random
import resource
import threading

import pytest
import torch

import myconv2d
from myconv2d import native

MIB = 2**20

kept = native.cpu.problem is None and native.cpu.kept_memory() is not None
pytestmark = pytest.mark.skipif(not kept, reason="this build, or torch before 2.11, leaves results to malloc")


def in_use():
    return native.cpu.kept_memory()[1]


def filled(value, mib, channels_last=False):
    """A result of so many MiB, of a convolution with one tap."""
    side = round((mib * MIB / 16) ** 0.5)
    image = torch.full((1, 1, side, side), float(value))
    if channels_last:
        image = image.to(memory_format=torch.channels_last)
    return myconv2d.conv2d(image, torch.ones(4, 1, 1, 1))


@pytest.fixture(autouse=True)
def nothing_kept():
    myconv2d.release_memory()
    yield
    myconv2d.release_memory()


def test_used_again_and_given_back():
    before = in_use()
    result = filled(1, 4)
    place, size = result.data_ptr(), in_use() - before
    assert 0 <= size - result.untyped_storage().nbytes() < 1024 and place % 64 == 0
    myconv2d.release_memory()
    assert in_use() == before + size and bool((result == 1).all())  # nothing of what is in use
    view = result[0, 1:]
    del result
    assert in_use() == before + size and view.sum() == view.numel()
    del view
    assert in_use() == before
    assert filled(2, 4).data_ptr() == place
    assert myconv2d.release_memory() >= size


def test_what_lies_between_the_layers_of_a_frozen_network_is_given_back():
    """16 MiB of it; its result is small."""
    blocks = myconv2d.ConvBlock(1, 16), myconv2d.ConvBlock(16, 1, resize="pool")
    frozen, picture = torch.nn.Sequential(*blocks), torch.rand(1, 1, 500, 500)
    frozen = myconv2d.freeze(frozen, picture)
    before = in_use()
    myconv2d.release_memory()
    frozen(picture)
    assert in_use() == before and myconv2d.release_memory() >= 16 * 500 * 500 * 4


def test_small_results_are_malloc_s():
    before = in_use()
    result = filled(1, 0.2)
    assert in_use() == before and result.untyped_storage().resizable()


def test_memory_is_used_again_and_not_faulted_in_again():
    image, weight = torch.zeros(1, 1, 1792, 1792), torch.ones(4, 1, 1, 1)  # → 49 MiB

    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        myconv2d.conv2d(image, weight)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults()
    again = [faults() for _ in range(5)]
    myconv2d.release_memory()
    assert min(again) < 10 and faults() > min(again) + 10  # of 25 huge pages, or 12,544 small ones


def test_many_sizes_from_many_threads_stay_whole():
    """Blocks are cut, joined and mapped anew; whoever got one that another still has would see other values."""
    wrong = []

    def work(seed):
        rng, alive = random.Random(seed), []
        for step in range(60):
            if alive and rng.random() < 0.5:
                value, tensor = alive.pop(rng.randrange(len(alive)))
                if not bool((tensor == value).all()):
                    wrong.append((seed, step))
            else:
                value = seed * 1000 + step
                alive.append((value, filled(value, rng.choice([0.3, 1, 2.5, 7, 70]), rng.random() < 0.5)))
        wrong.extend((seed, value) for value, tensor in alive if not bool((tensor == value).all()))

    before = in_use()
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and in_use() == before


def test_at_most_a_gib_is_kept_idle():
    results = [filled(i, 300) for i in range(5)]
    assert native.cpu.kept_memory()[0] > 1400 * MIB
    results.clear()
    assert 256 * MIB < native.cpu.kept_memory()[0] - in_use() <= 1024 * MIB


def test_a_forked_child_has_its_own():
    """It may use the heap, whatever other threads of its parent were doing there, and its writing is its own."""
    result, image = filled(3, 2), torch.full((1, 1, 300, 300), 7.0)
    weight, stop = torch.ones(4, 1, 1, 1), threading.Event()

    def busy():
        torch.set_num_threads(1)
        while not stop.is_set():
            myconv2d.conv2d(image, weight)

    thread = threading.Thread(target=busy)
    thread.start()
    for _ in range(20):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                result.fill_(4)
                native.cpu.kept_memory()
                del result
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    thread.join()
    assert bool((result == 3).all())


def test_what_people_do_with_tensors():
    result = filled(5, 1)
    assert torch.equal(pickle.loads(pickle.dumps(result)), result)
    assert torch.from_dlpack(result).data_ptr() == result.data_ptr() == result.numpy().ctypes.data
    assert result.clone().share_memory_().is_shared() and bool((result.share_memory_() == 5).all())
    other = filled(6, 1)
    assert other.resize_(2, 2).tolist() == [[6, 6], [6, 6]]
    with pytest.raises(RuntimeError, match="not resizable"):
        other.resize_(4, 4096, 4096)
