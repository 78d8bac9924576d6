"""The source `crops:PATH`."""

import numpy as np
import pytest
import torch

from colourize import pictures
from colourize.data import load
from colourize.files import UserError


@pytest.fixture
def folder(tmp_path):
    """Ten pictures, each of one colour, with a gradient along both sides."""
    for number in range(10):
        rgb = np.zeros((20 + number, 30, 3), np.uint8)
        rgb[..., 0] = number * 25
        rgb[..., 1] = np.arange(rgb.shape[0])[:, None]
        rgb[..., 2] = np.arange(30)
        pictures.write(tmp_path / f"{number}.png", rgb)
    return tmp_path


def test_crops_are_squares_of_the_pictures_at_their_own_resolution(folder):
    split = load(f"crops:{folder}", size=16)
    train, validation = (part.batch(torch.arange(len(part))) for part in split[:2])
    assert split.name == f"crops:{folder}"
    assert train.shape[1:] == validation.shape[1:] == (3, 16, 16)
    for crops in (train, validation):
        rows, columns = crops[:, 1].int(), crops[:, 2].int()
        assert (rows[:, 1:] - rows[:, :-1] == 1).all()
        assert (columns[..., 1:] - columns[..., :-1] == 1).all()
    numbers = [set((crops[:, 0, 0, 0] // 25).tolist()) for crops in (train, validation)]
    assert len(numbers[0]) == 9 and len(numbers[1]) == 1 and not numbers[0] & numbers[1]
    assert rows.max() > rows.min() + 16  # not all from one place


def test_the_seed_decides(folder):
    first, same, other = (load(f"crops:{folder}", size=16, seed=seed, limit=50) for seed in (1, 1, 2))
    index = torch.arange(50)
    assert torch.equal(first.train.batch(index), same.train.batch(index))
    assert not torch.equal(first.train.batch(index), other.train.batch(index))


def test_small_and_damaged_pictures_are_left_out(folder, caplog):
    pictures.write(folder / "small.png", np.zeros((8, 90, 3), np.uint8))
    (folder / "damaged.png").write_bytes(b"\x89PNG nothing")
    load(f"crops:{folder}", size=16, seed=1)
    assert "small.png is smaller than 16 × 16" in caplog.text and "damaged.png" in caplog.text


def test_too_few_pictures_are_refused(folder):
    with pytest.raises(UserError, match=r"crops:.*at least 64 × 64"):
        load(f"crops:{folder}", size=64)
    with pytest.raises(UserError, match="no such folder"):
        load(f"crops:{folder}/none", size=16)
