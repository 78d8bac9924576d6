"""Examples are what the task makes of the pictures, kept or not, in the layout that networks want."""

import pytest
import torch

from colourize import examples, tasks
from colourize.data import TensorImages
from colourize.examples import Examples
from colourize.palette import Palette

COUNT = 10
PALETTE = Palette(torch.rand(5, 3, generator=torch.Generator().manual_seed(1)))


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return TensorImages(torch.randint(0, 256, (COUNT, 3, 8, 12), dtype=torch.uint8, generator=generator))


@pytest.mark.parametrize("memory", [0, 1 << 20])
@pytest.mark.parametrize("name", tasks.NAMES)
def test_examples_are_those_of_the_task(images, monkeypatch, name, memory):
    monkeypatch.setattr(examples, "MEMORY", memory)
    monkeypatch.setattr(examples, "_CHUNK", 3)
    task, ready = tasks.kind(name)(PALETTE), []
    found = Examples(images, task, advance=ready.append)
    assert sum(ready) == (COUNT if memory else 0)
    assert len(found) == COUNT
    indices = torch.tensor([7, 0, 7, 9, 2])
    batch, pictures = found.batch(indices), images.tensor[indices]
    assert len(batch) == 5
    assert torch.equal(batch.pictures, pictures)
    assert torch.equal(batch.input, task.degrade(pictures))
    assert torch.equal(batch.target, task.target(pictures))
    assert batch.input.is_contiguous(memory_format=torch.channels_last)


def test_kept_examples_do_not_read_the_pictures_again(images, monkeypatch):
    found = Examples(images, tasks.Regression())
    monkeypatch.setattr(images, "batch", None)
    assert len(found.batch(torch.tensor([1, 2]))) == 2


def test_what_does_not_fit_is_not_kept(images, monkeypatch):
    bytes_each = 8 * 12 * (4 + 3 * 4 + 3)  # grey and colours in float32, pixels in uint8
    for memory, kept in ((COUNT * bytes_each, True), (COUNT * bytes_each - 1, False)):
        monkeypatch.setattr(examples, "MEMORY", memory)
        ready = []
        Examples(images, tasks.Regression(), advance=ready.append)
        assert bool(ready) is kept


def test_batches_are_placed_with_one_copy(images):
    """On a device (of type meta: values are not looked at) as on the CPU."""
    order = torch.arange(COUNT).flip(0)
    on_cpu = Examples(images, tasks.Regression())
    assert torch.equal(torch.cat(list(on_cpu.placed(order.split(4)))), order)
    on_cpu.device = torch.device("meta")
    batches = list(on_cpu.placed(order.split(4)))
    assert [(len(batch), batch.device.type) for batch in batches] == [(4, "meta"), (4, "meta"), (2, "meta")]
    assert len({batch.untyped_storage()._cdata for batch in batches}) == 1


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_a_batch_is_overwritten_where_it_lies(images, monkeypatch, memory):
    monkeypatch.setattr(examples, "MEMORY", memory)
    found = Examples(images, tasks.Regression())
    batch = found.batch(torch.tensor([1, 2, 3]))
    places = [tensor.data_ptr() for tensor in batch]
    again = found.batch(torch.tensor([5, 9, 0]), batch)
    assert [tensor.data_ptr() for tensor in again] == places
    assert all(map(torch.equal, again, found.batch(torch.tensor([5, 9, 0]))))
