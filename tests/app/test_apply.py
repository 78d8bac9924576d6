"""Pictures of any size and kind come out whole, the same by tiles as in one go, and in bounded memory."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image

from colourize import apply, networks, pictures, tasks
from colourize.apply import apply_to_file, render
from colourize.files import UserError
from colourize.palette import Palette

PALETTE = Palette(torch.rand(5, 3, generator=torch.Generator().manual_seed(0)))


def make(task, network=None, **settings):
    """A task and a network with batch norms that have seen something, and no weights that are zero."""
    task = tasks.kind(task)(PALETTE)
    torch.manual_seed(0)
    network = network or ("enlarger" if task.network_enlarges else "unet")
    network = networks.create(network, **task.network_settings, **{"filters": 4, **settings})
    if task.network_enlarges:
        torch.nn.init.normal_(network.outconv.weight, std=0.1)
    network(torch.rand(8, task.in_channels, 32, 32))
    return network.eval(), task


def picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("task", tasks.NAMES)
def test_tiles_make_the_whole_picture(task, kernel_size, raw, mirror):
    network, task = make(task, kernel_size=kernel_size)
    network.mirror = mirror  # which those that enlarge do not know
    rgb = picture(71 // task.enlarges, 138 // task.enlarges)
    whole = render(network, task, rgb, raw=raw)
    tiled = render(network, task, rgb, raw=raw, tile=32)
    assert whole.shape == (rgb.shape[0] * task.enlarges, rgb.shape[1] * task.enlarges, 3)
    differences = np.abs(whole.astype(int) - tiled)
    # Sums in another order may turn a rounding, and between two colours almost alike the choice.
    assert np.mean(differences > 0) < 1e-3
    assert raw or differences.max() <= 1


def test_tiles_need_their_overlap(monkeypatch):
    network, task = make("regression")
    rgb = picture(100, 100)
    whole = render(network, task, rgb)
    monkeypatch.setattr(type(network), "halo", 8)
    assert np.mean(render(network, task, rgb, tile=32) != whole) > 0.01


def test_network_never_sees_more_than_a_tile_and_its_overlap():
    network, task = make("regression")
    seen = []
    network.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    render(network, task, picture(40, 1000), tile=64)
    assert max(shape[3] for shape in seen) == 64 + 2 * network.halo
    assert len(seen) == 16


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 2)])
@pytest.mark.parametrize("task", tasks.NAMES)
def test_smallest_pictures(task, size):
    network, task = make(task)
    height, width, channels = render(network, task, picture(*size)).shape
    assert (height, width, channels) == (size[0] * task.enlarges, size[1] * task.enlarges, 3)


@pytest.mark.parametrize("reduce", [1, 3])
def test_colouring_keeps_the_grey(reduce):
    network, task = make("classification")
    rgb = picture(64, 50) // 4 + 96
    made = render(network, task, rgb, reduce=reduce)
    assert np.abs(made.mean(axis=2) - rgb.mean(axis=2)).max() <= 1
    assert np.abs(made.astype(int) - made.mean(axis=2, keepdims=True)).max() > 1


def test_reduced_colours_are_those_of_the_smaller_picture():
    network, task = make("regression")
    rgb = np.kron(picture(6, 8) // 4 + 96, np.ones((8, 8, 1), np.uint8))
    small = render(network, task, np.ascontiguousarray(rgb[::8, ::8]))
    made = render(network, task, rgb, reduce=8)
    tint = small - small.mean(axis=2, keepdims=True)
    middle = (made - made.mean(axis=2, keepdims=True))[4::8, 4::8]
    assert np.corrcoef(tint.ravel(), middle.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "I;16", "CMYK"])
def test_files_of_every_kind(tmp_path, mode):
    network, task = make("classification")
    rgb = Image.fromarray(picture(20, 30))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    elif mode == "RGBA":
        image = rgb.copy()
        image.putalpha(100)
    else:
        image = rgb.convert(mode)
    source = tmp_path / ("picture.tif" if mode in ("CMYK", "I;16") else "picture.png")
    image.save(source)
    target = apply_to_file(network, task, source, tmp_path / "out")
    assert target == tmp_path / "out" / "picture-colour.png"
    with Image.open(target) as made:
        assert made.size == (30, 20)
        assert made.mode == ("RGBA" if mode == "RGBA" else "RGB")
        if mode == "RGBA":
            assert made.getchannel("A").getextrema() == (100, 100)


def test_enlarged_file_has_enlarged_transparency(tmp_path):
    network, task = make("superres")
    image = Image.fromarray(picture(5, 7))
    image.putalpha(Image.fromarray(picture(5, 7)[..., 0]))
    image.save(tmp_path / "a.png")
    target = apply_to_file(network, task, tmp_path / "a.png", tmp_path)
    assert target.name == "a-large.png"
    with Image.open(target) as made:
        assert made.size == (28, 20)
        assert np.array_equal(np.asarray(made.getchannel("A"))[::4, ::4], picture(5, 7)[..., 0])


def test_files_that_exist_are_kept(tmp_path):
    network, task = make("regression")
    Image.fromarray(picture(8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a-colour.png").write_text("precious")
    with pytest.raises(UserError, match=r"a-colour.png exists already.*--overwrite"):
        apply_to_file(network, task, tmp_path / "a.png", tmp_path)
    assert (tmp_path / "a-colour.png").read_text() == "precious"
    apply_to_file(network, task, tmp_path / "a.png", tmp_path, overwrite=True)
    assert pictures.read(tmp_path / "a-colour.png").rgb.shape == (8, 8, 3)


def test_what_would_be_too_large_is_refused_before_any_work(tmp_path, monkeypatch):
    network, task = make("superres")
    Image.fromarray(picture(10, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(pictures, "MAX_PIXELS", 16 * 99)
    with pytest.raises(UserError, match="a.png.*99 pixels"):
        apply_to_file(network, task, tmp_path / "a.png", tmp_path)


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros((4, 4), np.uint8), {}, "rgb must be"),
        (np.zeros((4, 4, 3)), {}, "rgb must be uint8"),
        (np.zeros((0, 4, 3), np.uint8), {}, "rgb must be"),
        (np.zeros((4, 4, 3), np.uint8), {"tile": 30}, "tile must be a multiple of 4, not 30"),
        (np.zeros((4, 4, 3), np.uint8), {"reduce": 2, "raw": True}, "reduce must be 1"),
        (np.zeros((4, 4, 3), np.uint8), {"reduce": 0}, "reduce must be 1"),
    ],
)
def test_bad_arguments_are_named(array, options, message):
    with pytest.raises(ValueError, match=message):
        render(*make("regression"), array, **options)


def test_fifty_megapixels_in_bounded_memory(tmp_path):
    """Beside the picture itself, as read, enlarged and tinted, a fixed amount."""
    Image.new("L", (8000, 6250), 77).save(tmp_path / "large.png")
    script = f"""
        import resource
        from colourize import networks, tasks
        from colourize.apply import apply_to_file
        network = networks.create("regression-cnn").eval()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        apply_to_file(network, tasks.Regression(), {str(tmp_path / "large.png")!r}, {str(tmp_path)!r})
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    with Image.open(tmp_path / "large-colour.png") as made:
        assert made.size == (8000, 6250)
    one_picture = 8000 * 6250 * 3 / 2**20
    assert float(done.stdout) < 6 * one_picture + 200


def test_reduction_follows_the_shorter_side():
    sizes = [(1, 1), (100, 5000), (300, 451), (6000, 8000)]
    assert [apply.colour_reduction(np.zeros((*size, 3), np.uint8)) for size in sizes] == [1, 1, 3, 54]
