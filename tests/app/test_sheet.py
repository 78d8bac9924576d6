"""A sheet shows every picture beside the others, enlarged in even squares."""

import numpy as np
import pytest
import torch
from drawn import random_rgb

from colourize import pictures


def test_sheet_holds_every_picture_enlarged_in_even_squares():
    images = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8)
    page = np.array(pictures.sheet({"truth": images, "prediction": images / 256}, cell=64))
    for image in images:
        square = image.permute(1, 2, 0).repeat_interleave(8, 0).repeat_interleave(8, 1).numpy()
        places = np.lib.stride_tricks.sliding_window_view(page, square.shape)[..., 0, :, :, :]
        rows, columns = np.nonzero((places[..., 0, 0, :] == square[0, 0]).all(-1))
        found = {x for y, x in zip(rows, columns, strict=True) if np.array_equal(places[y, x], square)}
        assert len(found) == 2  # once in either column


def test_sheet_takes_all_kinds_of_pictures_and_sizes():
    columns = {
        "grey": torch.rand(2, 1, 5, 7),
        "large": [random_rgb(300, 100), random_rgb(100, 300)],
        "a very long label × ü": [random_rgb()[..., 0], random_rgb()],
    }
    page = pictures.sheet(columns, cell=50)
    assert page.mode == "RGB"
    assert np.array(page)[[0, -1]].min() == 255  # an even white border, nothing cut
    assert np.array(page)[:, [0, -1]].min() == 255


@pytest.mark.parametrize(
    "columns", [{}, {"a": []}, {"a": torch.rand(2, 3, 4, 4), "b": torch.rand(1, 3, 4, 4)}]
)
def test_sheet_names_uneven_columns(columns):
    with pytest.raises(ValueError, match="columns must hold the same number of pictures, at least one"):
        pictures.sheet(columns)
