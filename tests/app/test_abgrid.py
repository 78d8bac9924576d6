"""The classes of the a, b plane are those of Zhang et al. 2016, and soft labels are what the paper says."""

import pytest
import torch

from colourize import abgrid
from colourize.lab import to_lab


def test_classes_are_the_paper_s():
    classes = abgrid.classes()
    assert classes.shape == (313, 2)
    assert classes[:6].tolist() == [[-90, 50], [-90, 60], [-90, 70], [-90, 80], [-90, 90], [-80, 20]]
    assert classes[-1].tolist() == [100, 0]
    assert (classes % 10 == 0).all()
    assert len({tuple(row) for row in classes.tolist()}) == 313


def test_every_colour_has_a_class_nearby():
    levels = torch.arange(0, 256, 15, dtype=torch.uint8)
    ab = to_lab(torch.cartesian_prod(levels, levels, levels)[:, :, None, None])[:, 1:]
    nearest = abgrid.classes()[abgrid.labels(abgrid.codes(ab))].movedim(-1, 1)
    assert (nearest - ab).abs().max() <= 5.5  # half a square, and half a cell of the raster


def test_soft_labels_by_hand():
    ab = torch.tensor([3.0, -6.0]).view(1, 2, 1, 1)
    classes, weights = abgrid.soft(abgrid.codes(ab))
    distance = torch.cdist(ab.view(1, 2), abgrid.classes())[0]
    expected = distance.topk(5, largest=False)
    assert classes.flatten().tolist() == expected.indices.tolist()
    gauss = torch.exp(-expected.values.double() ** 2 / 50)
    assert weights.flatten().tolist() == pytest.approx((gauss / gauss.sum()).tolist(), rel=1e-5)
    assert weights.sum().item() == pytest.approx(1)


def test_colours_beyond_the_raster_are_taken_at_its_edge():
    far = torch.tensor([500.0, -500.0]).view(1, 2, 1, 1)
    edge = torch.tensor([127.0, -128.0]).view(1, 2, 1, 1)
    assert abgrid.codes(far).item() == abgrid.codes(edge).item() < 2**16
