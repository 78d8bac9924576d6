import numpy as np
import pytest
import torch
from PIL import Image

from colourize import data, pictures
from colourize.data.folder import divided
from colourize.files import UserError


@pytest.fixture
def folder(tmp_path):
    """Twenty pictures of flat grey 10, 20, ... 200, in two folders, of several formats and shapes."""
    (tmp_path / "more").mkdir()
    for number in range(20):
        name = f"{number:02}.{('png', 'bmp', 'PNG', 'tiff')[number % 4]}"
        path = tmp_path / ("more" if number % 3 else "") / name
        Image.new("RGB", (20 + number, 40 - number), (10 * (number + 1),) * 3).save(path)
    return tmp_path


def levels(images):
    """The grey level of each picture: which file it is."""
    batch = images.batch(torch.arange(len(images)))
    assert (batch == batch[:, :1, :1, :1]).all()
    return batch[:, 0, 0, 0].tolist()


def test_every_picture_is_in_one_part(folder):
    (folder / "notes.txt").write_text("not a picture, and not called one")
    split = data.load(f"folder:{folder}")
    assert (len(split.train), len(split.validation)) == (19, 1)
    assert split.train.batch(torch.tensor([0, 5])).shape == (2, 3, 32, 32)
    assert sorted(levels(split.train) + levels(split.validation)) == list(range(10, 201, 10))
    assert split.name == f"folder:{folder}"


def test_the_seed_alone_divides_a_folder(folder):
    first, again, other = (data.load(f"folder:{folder}", seed=seed) for seed in (0, 0, 1))
    assert levels(first.train) == levels(again.train)
    assert levels(first.train) != levels(other.train)


@pytest.mark.parametrize("kind", ["folder", "crops"])
def test_in_a_folder_that_grows_nothing_trained_on_comes_to_be_measured_on(folder, kind):
    def parts() -> list[set]:
        return [{path.name for path in part} for part in divided(f"{kind}:{folder}", str(folder), 3)]

    train, validation = parts()
    for number in range(20, 60):
        Image.new("RGB", (30, 30)).save(folder / "more" / f"{number}.png")
        grown_train, grown_validation = parts()
        assert not grown_validation & train and len(grown_train | grown_validation) == number + 1
        train, validation = grown_train, grown_validation
    assert 2 <= len(validation) <= 12


def test_a_folder_of_two_has_one_in_each_part(tmp_path):
    for seed in range(300):  # in which both are chosen now and then
        for name in "ab":
            (tmp_path / f"{name}.png").touch()
        assert list(map(len, divided("folder", str(tmp_path), seed))) == [1, 1]


def test_limit_and_size(folder):
    split = data.load(f"folder:{folder}", size=7, limit=3)
    assert (len(split.train), len(split.validation)) == (3, 1)
    assert split.train.batch(torch.tensor([1])).shape == (1, 3, 7, 7)


def test_pictures_are_cut_square_at_the_centre(tmp_path):
    stripes = np.zeros((8, 24, 3), np.uint8)
    stripes[:, 8:16] = 200
    for name in "ab":
        Image.fromarray(stripes).save(tmp_path / f"{name}.png")
        Image.fromarray(stripes.swapaxes(0, 1)).save(tmp_path / f"{name}-upright.png")
    split = data.load(f"folder:{tmp_path}", size=8)
    assert (split.train.batch(torch.arange(3)) == 200).all()


def test_pictures_are_read_when_needed_and_once(folder, monkeypatch):
    reads = []
    read = pictures.read
    monkeypatch.setattr(pictures, "read", lambda path: reads.append(path) or read(path))
    split = data.load(f"folder:{folder}")
    assert len(reads) == 2  # one of each part, to see that there is something to read
    for _ in range(3):
        split.train.batch(torch.tensor([3, 4, 3]))
    assert len(reads) == 4


def test_large_sets_are_not_kept(folder, monkeypatch):
    monkeypatch.setattr("colourize.data.folder.MEMORY", 1000)
    split = data.load(f"folder:{folder}")
    read, reads = pictures.read, []
    monkeypatch.setattr(pictures, "read", lambda path: reads.append(path) or read(path))
    assert torch.equal(split.train.batch(torch.tensor([3])), split.train.batch(torch.tensor([3])))
    assert len(reads) == 2


def test_unreadable_pictures_are_named_once_and_skipped(folder, said):
    (folder / "00.png").write_bytes(b"not a picture")
    (folder / "more" / "01.bmp").write_bytes(b"")
    split = data.load(f"folder:{folder}")
    for _ in range(2):
        found = levels(split.train) + levels(split.validation)
    assert set(found) == set(range(30, 201, 10))  # the others, two of them twice
    assert sorted(said()) == [
        f"cannot read {folder / '00.png'}: not a picture in any known format; it is skipped",
        f"cannot read {folder / 'more' / '01.bmp'}: the file is empty; it is skipped",
    ]


def test_what_replaces_an_unreadable_picture_does_not_depend_on_the_order(folder):
    (folder / "00.png").write_bytes(b"not a picture")
    first, second = (data.load(f"folder:{folder}").train for _ in range(2))
    backwards = torch.arange(len(first)).flip(0)
    assert torch.equal(first.batch(backwards).flip(0), second.batch(torch.arange(len(second))))


def test_a_folder_with_nothing_readable_is_named(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=rf"none of 1 pictures can be read, {tmp_path}"):
        data.load(f"folder:{tmp_path}")


def test_folders_that_cannot_do_are_named(tmp_path):
    with pytest.raises(UserError, match=rf"folder:{tmp_path}/missing: there is no such folder"):
        data.load(f"folder:{tmp_path}/missing")
    Image.new("RGB", (9, 9)).save(tmp_path / "one.png")
    with pytest.raises(UserError, match=r"holds 1 pictures; at least 2 are needed"):
        data.load(f"folder:{tmp_path}")


def test_real_photographs(shared_data):
    split = data.load(f"folder:{shared_data / 'CBSD68'}", size=64)
    assert (len(split.train), len(split.validation)) == (62, 6)
    batch = split.train.batch(torch.arange(8))
    assert batch.shape == (8, 3, 64, 64)
    assert batch.float().std() > 30
