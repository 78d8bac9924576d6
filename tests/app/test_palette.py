"""Palettes: the nearest colours, those that k-means finds, and files of every kind."""

import json
import zipfile

import numpy as np
import pytest
import torch
from scipy.cluster.vq import vq
from skimage import color

from colourize import data
from colourize.colour import to_unit
from colourize.files import UserError
from colourize.lab import to_lab
from colourize.palette import SPACES, Palette


def random_images(count=3, height=17, width=13, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def random_palette(colours=24, seed=0):
    return Palette(np.random.default_rng(seed).random((colours, 3)))


def places(unit, space):
    """R, G, B (P, 3) in unit scale, in `space`, as scikit-image has it."""
    return color.rgb2lab(unit * 256 / 255) if space == "lab" else unit


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("colours", [2, 24, 313])
def test_labels_are_the_nearest_colours(colours, space):
    images, palette = random_images(), Palette(random_palette(colours).centres, space)
    pixels = images.permute(0, 2, 3, 1).reshape(-1, 3).double().numpy() / 256
    expected, _ = vq(places(pixels, space), places(palette.centres.double().numpy(), space))
    labels = palette.quantise(images)
    assert labels.dtype == torch.int64
    assert np.array_equal(labels.flatten().numpy(), expected)


@pytest.mark.parametrize("space", SPACES)
def test_labels_do_not_depend_on_chunks_layout_or_type(space):
    images, palette = random_images(), Palette(random_palette().centres, space)
    labels = palette.quantise(images)
    assert torch.equal(palette.quantise(images, chunk=7), labels)
    assert torch.equal(palette.quantise(to_unit(images)), labels)
    assert torch.equal(palette.quantise(images.to(memory_format=torch.channels_last)), labels)
    assert torch.equal(palette.quantise(images.flip(0)).flip(0), labels)


def test_labels_of_no_images():
    assert random_palette().quantise(random_images(0)).shape == (0, 17, 13)


def test_colours_turn_labels_back():
    palette = random_palette()
    labels = torch.randint(24, (2, 5, 4))
    images = palette.colours(labels)
    assert images.shape == (2, 3, 5, 4)
    assert torch.equal(images[1, :, 4, 2], palette.centres[labels[1, 4, 2]])
    assert torch.equal(palette.quantise(images), labels)


@pytest.mark.parametrize("space", SPACES)
def test_fit_finds_planted_colours(space):
    planted = np.array([[0.1, 0.1, 0.1], [0.9, 0.2, 0.1], [0.2, 0.3, 0.9], [0.9, 0.9, 0.8]])
    random = np.random.default_rng(0)
    pixels = planted[random.integers(4, size=(4, 30, 30))] + random.normal(scale=0.01, size=(4, 30, 30, 3))
    palette = Palette.fit(torch.from_numpy(pixels).permute(0, 3, 1, 2), colours=4, space=space)
    expected = planted[np.argsort(planted.mean(axis=1))]  # dark to light
    np.testing.assert_allclose(palette.centres, expected, atol=2e-3)


def test_fit_is_repeatable_and_leaves_the_global_generators_alone():
    images = random_images()
    np.random.seed(1)
    torch.manual_seed(1)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    first, again, other = (Palette.fit(images, seed=seed).centres for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


def test_centres_are_means_in_their_own_space():
    colours = torch.tensor([[40, 40, 40], [120, 120, 120], [255, 0, 255]], dtype=torch.uint8)
    images = colours.T[None, :, None].expand(1, 3, 40, 3)
    greys = np.array([[40.0], [120.0]]).repeat(3, 1) / 255
    expected = {"rgb": greys.mean(0), "lab": color.lab2rgb(color.rgb2lab(greys).mean(0))}
    assert expected["lab"][0] < expected["rgb"][0] - 0.005
    for space in SPACES:
        found = Palette.fit(images, 2, space=space).centres * 256 / 255
        grey = found[(found.amax(1) - found.amin(1)).argmin()]
        np.testing.assert_allclose(grey, expected[space], atol=1e-3)


def test_an_unknown_space_is_named():
    with pytest.raises(ValueError, match="space must be one of rgb, lab, not 'hsv'"):
        Palette(random_palette().centres, "hsv")


@pytest.mark.parametrize("colours", [-1, 1, 6])
def test_fit_names_a_number_of_colours_that_cannot_be_found(colours):
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 8, 8)
    with pytest.raises(UserError, match=rf"between 2 and the 5 that these images hold, got {colours}"):
        Palette.fit(images, colours)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".json"])
def test_saved_palettes_come_back_to_the_bit(tmp_path, suffix):
    palette = random_palette()
    palette.save(tmp_path / f"palette{suffix}")
    assert torch.equal(Palette.load(tmp_path / f"palette{suffix}").centres, palette.centres)


def test_save_names_a_suffix_it_does_not_know(tmp_path):
    with pytest.raises(UserError, match=r"palette\.txt: a palette is saved as \.npy, \.npz or \.json"):
        random_palette().save(tmp_path / "palette.txt")


def test_loads_the_handouts_pickled_form(tmp_path):
    original = np.empty(2, dtype=object)
    original[:] = [np.random.default_rng(0).random((24, 3)), np.float64(0.07)]
    np.save(tmp_path / "original.npy", original, allow_pickle=True)
    assert torch.equal(Palette.load(tmp_path / "original.npy").centres, random_palette().centres)


def test_loads_the_handouts_own_file(shared_data):
    palette = Palette.load(shared_data / "colour_kmeans24_cat7.npy")
    plain = np.load(shared_data / "colour_kmeans24_cat7_plain.npy")
    assert np.array_equal(palette.centres.numpy(), plain.astype(np.float32))


def _bad_palettes():
    good = np.full((24, 3), 0.5)
    yield "short.npy", lambda path: np.save(path, good[:, :2]), r"shape \(M, 3\)"
    yield "one.npy", lambda path: np.save(path, good[:1]), "M ≥ 2"
    yield "bytes.npy", lambda path: np.save(path, good * 255), "between 0 and 1"
    yield "nan.npy", lambda path: np.save(path, good * np.nan), "between 0 and 1"
    yield "words.npy", lambda path: np.save(path, np.array(["red", "green"])), "not a palette"
    yield "text.npy", lambda path: path.write_text("red, green, blue"), r"not an \.npy file"
    yield "empty.npy", lambda path: path.write_bytes(b""), r"not an \.npy file"
    yield "empty.npz", lambda path: path.write_bytes(b""), "not a palette"
    yield "text.npz", lambda path: path.write_text("red, green, blue"), "not a palette"
    yield "other.npz", lambda path: np.savez(path, colours=good), "centres"
    yield "text.json", lambda path: path.write_text("{"), "not a palette"
    yield "list.json", lambda path: path.write_text("[1]"), "not a palette"
    yield "ragged.json", lambda path: path.write_text(json.dumps({"colours": [[1], [1, 2]]})), "not a palette"
    yield "missing.npy", lambda path: None, "No such file"
    yield "folder.npy", lambda path: path.mkdir(), "directory|Permission"


@pytest.mark.parametrize(("name", "make", "words"), list(_bad_palettes()), ids=lambda value: str(value)[:12])
def test_bad_palettes_are_named(tmp_path, name, make, words):
    make(tmp_path / name)
    with pytest.raises(UserError, match=words) as raised:
        Palette.load(tmp_path / name)
    assert name in str(raised.value)


def test_a_truncated_palette_is_named(tmp_path):
    path = tmp_path / "palette.npy"
    random_palette().save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"palette\.npy"):
        Palette.load(path)


def test_a_hostile_palette_runs_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    array = np.empty(2, dtype=object)
    array[:] = [Hostile(), 0.0]
    np.save(tmp_path / "hostile.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match="only numpy arrays are admitted"):
        Palette.load(tmp_path / "hostile.npy")
    assert not (tmp_path / "ran").exists()


def test_fitted_palettes_are_as_good_as_the_original_on_horses(shared_data):
    """In R, G and B as in CIELAB, each measured where it was fitted."""
    horses = data.load("cifar10", data_dir=shared_data)
    original = shared_data / "colour_kmeans24_cat7.npy"
    images = horses.validation.tensor
    for space, place in (("rgb", to_unit), ("lab", to_lab)):

        def distortion(palette, place=place):
            return (place(images) - place(palette.colours(palette.quantise(images)))).norm(dim=1).mean()

        fitted = Palette.fit(horses.train.tensor, space=space)
        assert distortion(fitted) < distortion(Palette.load(original, space))


def test_palette_that_unpacks_to_a_gigabyte_is_refused_unread(tmp_path):
    """A file of a megabyte can hold any number of zeros."""
    header = {"descr": "<f8", "fortran_order": False, "shape": (2**27, 3)}
    packed = zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED)
    with packed as archive, archive.open("centres.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(1 << 20))
    with pytest.raises(UserError, match=r"134217728 × 3 numbers are more than 1048576"):
        Palette.load(tmp_path / "bomb.npz")
