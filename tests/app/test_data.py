import pytest
import torch

from colourize import data
from colourize.data import TensorImages, photos
from colourize.files import UserError


@pytest.fixture(scope="module")
def split():
    return data.load("photos")


def test_batches_are_the_pictures_asked_for():
    tensor = torch.randint(256, (7, 3, 4, 5), dtype=torch.uint8)
    images = TensorImages(tensor)
    assert len(images) == 7
    assert torch.equal(images.batch(torch.tensor([6, 0, 6])), tensor[[6, 0, 6]])
    assert torch.equal(images.first(3).tensor, tensor[:3])


@pytest.mark.parametrize("shape", [(7, 4, 5), (7, 1, 4, 5)])
def test_wrong_tensors_are_named(shape):
    with pytest.raises(ValueError, match=r"tensor must be uint8 \(N, 3, H, W\), got torch.uint8"):
        TensorImages(torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"got torch.float32"):
        TensorImages(torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize("source", ["", "photo", "folder", "folder:", "cifar100", "photos:here"])
def test_unknown_sources_are_named(source):
    with pytest.raises(UserError, match=rf"unknown data source '{source}'; .* photos, cifar10, folder:PATH"):
        data.load(source)


@pytest.mark.parametrize("settings", [{"size": 0}, {"size": -1}, {"limit": 0}])
def test_sizes_and_limits_below_one_are_named(settings):
    with pytest.raises(UserError, match="size and limit must be at least 1"):
        data.load("photos", **settings)


def test_photos_are_a_few_thousand_crops(split):
    assert split.name == "photos"
    assert split.train.tensor.shape == (4000, 3, 32, 32)
    assert split.validation.tensor.shape == (500, 3, 32, 32)
    assert split.train.tensor.dtype == torch.uint8


def test_photos_show_something(split):
    """The crops are colourful and mostly textured; a loader gone wrong yields flat or grey ones."""
    crops = split.train.tensor.float()
    assert (crops.amax(dim=1) - crops.amin(dim=1)).mean() > 30
    assert (crops.std(dim=(2, 3)).mean(dim=1) > 5).float().mean() > 0.75


def test_photos_depend_on_the_seed_alone(split):
    again, other = data.load("photos"), data.load("photos", seed=1)
    assert torch.equal(split.train.tensor, again.train.tensor)
    assert torch.equal(split.validation.tensor, again.validation.tensor)
    assert not torch.equal(split.train.tensor, other.train.tensor)


def test_photos_of_another_size_and_number():
    split = data.load("photos", size=96, limit=10)
    assert split.train.tensor.shape == split.validation.tensor.shape == (10, 3, 96, 96)


def test_photos_cannot_be_larger_than_they_are():
    with pytest.raises(UserError, match="size must be at most 150 for photos, got 151"):
        data.load("photos", size=151)


def test_photos_are_parted_without_overlap():
    for name in photos.NAMES:
        seen, unseen = photos.parts(name)
        whole = photos.photograph(name)
        assert seen.shape[1] + unseen.shape[1] == whole.shape[1]
        assert (seen == whole[:, : seen.shape[1]]).all()
        assert (unseen == whole[:, seen.shape[1] :]).all()


def test_training_never_sees_what_validates(monkeypatch):
    def marked(name):
        whole = photos._READERS[name]() * 0
        whole[:, round(whole.shape[1] * photos.TRAIN_SHARE) :] = 255
        return whole

    monkeypatch.setattr(photos, "photograph", marked)
    split = data.load("photos", size=48)
    assert split.train.tensor.max() == 0
    assert split.validation.tensor.min() == 255
