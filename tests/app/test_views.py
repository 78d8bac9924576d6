"""Views are the picture mirrored, moved and stretched, and what is learnt from them is what the task makes of them."""

import itertools

import numpy as np
import pytest
import torch

from colourize import examples, tasks
from colourize.data import TensorImages
from colourize.examples import Examples
from colourize.palette import Palette
from colourize.views import Views

PALETTE = Palette(torch.rand(5, 3, generator=torch.Generator().manual_seed(1)))
COUNT, SIZE = 5, (8, 12)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return TensorImages(torch.randint(0, 256, (COUNT, 3, *SIZE), dtype=torch.uint8, generator=generator))


def moved(picture, up, left, above, beside, quarters, mirrored):
    """By hand: the border mirrored by numpy, what is seen of it taken at evenly spaced points, turned and mirrored."""
    height, width = picture.shape[1:]
    wide = np.pad(picture.numpy(), ((0, 0), (height, height), (width, width)), mode="symmetric")
    rows, columns = (
        np.floor(np.linspace(start - more, start + extent + more, 2 * extent + 1)[1::2] + 1e-9).astype(int)
        for extent, start, more in ((height, height + up, above), (width, width + left, beside))
    )
    cut = np.rot90(wide[:, rows][:, :, columns], quarters, axes=(1, 2))
    return cut[:, :, ::-1] if mirrored else cut


@pytest.mark.parametrize("memory", [0, 1 << 20])
@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize(("shifts", "stretches"), [(0, 0), (1, 0), (2, 0), (0, 2), (1, 1)])
def test_every_view_is_there_once(images, monkeypatch, memory, flips, turns, shifts, stretches):
    monkeypatch.setattr(examples, "MEMORY", memory)
    if turns:
        images = TensorImages(images.tensor[..., :8])
    views = Views(flips, turns, shifts, stretches=stretches)
    found = Examples(images, tasks.Regression(), views=views)
    for number, picture in enumerate(images.tensor):
        got = found.batch(number + len(found) * torch.arange(views.count)).pictures
        assert torch.equal(got[0], picture)
        places, extents = range(-shifts, shifts + 1), range(-stretches, stretches + 1)
        choices = itertools.product(places, places, extents, extents, range(1 + 3 * turns), range(1 + flips))
        expected = {moved(picture, *choice).tobytes() for choice in choices}
        assert len(expected) == views.count
        assert {view.numpy().tobytes() for view in got} == expected


@pytest.mark.parametrize("memory", [0, 1 << 20])
@pytest.mark.parametrize("name", tasks.NAMES)
def test_views_of_examples_are_examples_of_views(images, monkeypatch, name, memory):
    """A shift by the pixels of a small picture, and then reduced, is reduced and then shifted."""
    monkeypatch.setattr(examples, "MEMORY", memory)
    kind = tasks.kind(name)
    if SIZE[1] % kind.size_multiple or SIZE[0] % kind.size_multiple:
        images = TensorImages(images.tensor[:, :, :6])
    task = kind(PALETTE)
    views = Views(True, False, 1, kind.size_multiple, 1 if kind.enlarges == 1 else 0)
    batch = Examples(images, task, views=views).batch(torch.arange(len(images) * views.count))
    if name.startswith("enlarge"):  # bicubic reduction looks beyond the border, where a picture that moved has more
        batch = type(batch)(*(tensor[: 2 * COUNT] for tensor in batch))
    expected = task.degrade(batch.pictures)
    assert expected.shape == batch.input.shape
    torch.testing.assert_close(batch.input, expected, atol=0 if not name.startswith("enlarge") else 1 / 256, rtol=0)
    assert torch.equal(batch.target, task.target(batch.pictures))
    assert batch.input.is_contiguous(memory_format=torch.channels_last)


def test_a_batch_of_views_is_overwritten_where_it_lies(images):
    found = Examples(images, tasks.Regression(), views=Views(True, False, 1))
    batch = found.batch(torch.tensor([1, 2, 40]))
    places = [tensor.data_ptr() for tensor in batch]
    again = found.batch(torch.tensor([35, 9, 0]), batch)
    assert [tensor.data_ptr() for tensor in again] == places
    assert all(map(torch.equal, again, found.batch(torch.tensor([35, 9, 0]))))
