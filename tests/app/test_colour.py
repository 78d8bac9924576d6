import json
import zipfile

import numpy as np
import pytest
import torch
from scipy.cluster.vq import vq

from colourize import data
from colourize.colour import UPSCALE_MODES, Palette, downscale, grey, to_uint8, to_unit, upscale
from colourize.files import UserError


def random_images(count=3, height=17, width=13, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def random_palette(colours=24, seed=0):
    return Palette(np.random.default_rng(seed).random((colours, 3)))


def test_unit_is_the_handouts_scale_and_its_inverse_is_exact():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, -1)
    assert torch.equal(to_unit(levels), torch.arange(256.0).view(1, 1, 1, -1) / 256)
    assert torch.equal(to_uint8(to_unit(levels)), levels)


def test_to_uint8_clamps():
    assert to_uint8(torch.tensor([-0.5, 0.0, 1.0, 7.0])).tolist() == [0, 0, 255, 255]


def test_grey_is_the_mean_of_the_channels():
    images = random_images()
    expected = images.double().mean(dim=1, keepdim=True) / 256
    torch.testing.assert_close(grey(images).double(), expected, atol=1e-7, rtol=0)
    torch.testing.assert_close(grey(to_unit(images)), grey(images), atol=0, rtol=0)


@pytest.mark.parametrize("function", [grey, random_palette().quantise, Palette.fit])
def test_wrong_shapes_are_named(function):
    with pytest.raises(ValueError, match=r"images must have shape \(N, 3, H, W\), got \(2, 1, 4, 4\)"):
        function(torch.zeros(2, 1, 4, 4))


def test_downscale_takes_means():
    images = random_images(2, 12, 8)
    expected = images.double().view(2, 3, 3, 4, 2, 4).mean(dim=(3, 5)) / 256
    torch.testing.assert_close(downscale(images, 4).double(), expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("factor", [0, -1, 5])
def test_downscale_names_a_factor_that_does_not_divide(factor):
    with pytest.raises(ValueError, match=rf"factor .* divide 12 × 8, got {factor}"):
        downscale(random_images(1, 12, 8), factor)


def test_nearest_upscale_repeats_pixels():
    images = random_images()
    expected = to_unit(images).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    assert torch.equal(upscale(images, 4), expected)


@pytest.mark.parametrize("mode", UPSCALE_MODES)
def test_upscale_keeps_flat_colours_range_and_any_size(mode):
    flat = torch.full((1, 3, 1, 1), 200, dtype=torch.uint8)
    torch.testing.assert_close(upscale(flat, 4, mode), torch.full((1, 3, 4, 4), 200 / 256))
    stripes = torch.tensor([0, 255] * 4, dtype=torch.uint8).expand(1, 3, 8, 8)
    enlarged = upscale(stripes, 3, mode)
    assert enlarged.shape == (1, 3, 24, 24)
    assert enlarged.min() >= 0
    assert enlarged.max() <= 1


def test_upscale_names_an_unknown_mode():
    with pytest.raises(ValueError, match="mode must be one of nearest, bilinear, bicubic, got 'cubic'"):
        upscale(random_images(), 2, "cubic")


@pytest.mark.parametrize("colours", [2, 24, 313])
def test_labels_are_the_nearest_colours(colours):
    images, palette = random_images(), random_palette(colours)
    pixels = images.permute(0, 2, 3, 1).reshape(-1, 3).double().numpy() / 256
    expected, _ = vq(pixels, palette.centres.double().numpy())
    labels = palette.quantise(images)
    assert labels.dtype == torch.int64
    assert np.array_equal(labels.flatten().numpy(), expected)


def test_labels_do_not_depend_on_chunks_layout_or_type():
    images, palette = random_images(), random_palette()
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


def test_fit_finds_planted_colours():
    planted = np.array([[0.1, 0.1, 0.1], [0.9, 0.2, 0.1], [0.2, 0.3, 0.9], [0.9, 0.9, 0.8]])
    random = np.random.default_rng(0)
    pixels = planted[random.integers(4, size=(4, 30, 30))] + random.normal(scale=0.01, size=(4, 30, 30, 3))
    palette = Palette.fit(torch.from_numpy(pixels).permute(0, 3, 1, 2), colours=4)
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


@pytest.fixture(scope="module")
def horses(shared_data):
    return data.load("cifar10", data_dir=shared_data)


@pytest.fixture(scope="module")
def original(shared_data):
    return Palette.load(shared_data / "colour_kmeans24_cat7.npy")


def psnr(images, truth):
    """The mean over images, in dB."""
    return -10 * (images - to_unit(truth)).square().mean(dim=(1, 2, 3)).log10().mean()


def test_lookup_from_grey_to_the_most_frequent_colour_on_horses(horses, original):
    levels, labels = zip(
        *(
            ((grey(part.tensor) * 256).long().squeeze(1), original.quantise(part.tensor))
            for part in horses[:2]
        ),
        strict=True,
    )
    counts = torch.bincount((levels[0] * 24 + labels[0]).flatten(), minlength=256 * 24).view(256, 24)
    accuracy = (counts.argmax(1)[levels[1]] == labels[1]).float().mean()
    assert accuracy == pytest.approx(0.640, abs=5e-4)


def test_grey_as_colour_on_horses(horses):
    images = horses.validation.tensor
    assert (to_unit(images) - grey(images)).square().mean() == pytest.approx(0.0048, abs=5e-5)


def test_24_colours_cap_psnr_on_horses(horses, original):
    images = horses.validation.tensor
    assert psnr(original.colours(original.quantise(images)), images) == pytest.approx(27.2, abs=0.05)


def test_nearest_upscaling_of_horses(horses, original):
    images = horses.validation.tensor
    enlarged = upscale(downscale(images, 4), 4)
    assert psnr(enlarged, images) == pytest.approx(19.25, abs=5e-3)
    accuracy = (original.quantise(enlarged) == original.quantise(images)).float().mean()
    assert accuracy == pytest.approx(0.414, abs=5e-4)


def test_fitted_palettes_are_as_good_as_the_original_on_horses(horses, original):
    def distortion(palette):
        images = horses.validation.tensor
        return (to_unit(images) - palette.colours(palette.quantise(images))).norm(dim=1).mean()

    assert distortion(Palette.fit(horses.train.tensor)) < distortion(original)


def test_palette_that_unpacks_to_a_gigabyte_is_refused_unread(tmp_path):
    """A file of a megabyte can hold any number of zeros."""
    header = {"descr": "<f8", "fortran_order": False, "shape": (2**27, 3)}
    packed = zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED)
    with packed as archive, archive.open("centres.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(1 << 20))
    with pytest.raises(UserError, match=r"134217728 × 3 numbers are more than 1048576"):
        Palette.load(tmp_path / "bomb.npz")
