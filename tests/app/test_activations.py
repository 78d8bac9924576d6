"""What every block of a network makes of a picture: the values that the network computes with, on sheets to read."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from colourize import activations, networks, summary
from colourize.activations import LONGEST, blocks, from_file, record, sheet
from colourize.runs import create_task
from colourize.training import train


def created(settings):
    task = create_task(settings, None)
    torch.manual_seed(0)
    network = networks.create(settings.network, **{**task.network_settings, **settings.network_settings})
    return task, network.to(memory_format=torch.channels_last).eval()


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("activations") / "run"
    return train(tiny.replace(epochs=1), folder)


@pytest.mark.parametrize("name", networks.NAMES)
def test_blocks_of_every_network(tiny, name):
    """All blocks in the order they run, as large as the layer table says; and watching changes nothing."""
    enlarges = networks.enlarges(name)
    depth = 2 if enlarges else None
    task, network = created(tiny.replace(task="enlarge2" if enlarges else "regression", network=name, depth=depth))
    picture = torch.randint(0, 256, (1, 3, 16, 24), dtype=torch.uint8)
    with torch.inference_mode():
        plain = network(task.degrade(picture))
    found = record(network, task, picture)
    torch.testing.assert_close(found.output, plain, rtol=1e-4, atol=1e-5)
    assert set(found.blocks) == {name for name, _ in blocks(network)}
    assert not any(module._forward_hooks for module in network.modules())
    sizes = {block: tuple(channels.shape[1:]) for block, channels in found.blocks.items()}
    if enlarges:
        assert list(sizes) == ["inconv", "blocks.0", "blocks.1", "outconv"]
        assert set(sizes.values()) == {(8, 12)}
        assert found.blocks["outconv"].shape[0] == 4
    else:
        layers = summary.layers(network, 16)
        assert list(sizes) == [layer.name for layer in layers]
        expected = [(layer.filters, layer.output[0], layer.output[1] * 3 // 2) for layer in layers]
        assert [tuple(channels.shape) for channels in found.blocks.values()] == expected


def test_blocks_are_what_the_next_one_computes_with(tiny):
    """The chain of a CNN, block by block, from what was seen."""
    task, network = created(tiny.replace(task="regression", network="cnn"))
    found = record(network, task, torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8))
    names, input = list(found.blocks), found.input
    for name in names:
        with torch.inference_mode():
            made = getattr(network, name)(input)
        torch.testing.assert_close(made[0], found.blocks[name], rtol=1e-4, atol=1e-5)
        input = found.blocks[name][None]
    torch.testing.assert_close(found.output[0], found.blocks["finalconv"])


def test_channels_are_drawn_over_their_own_range(monkeypatch):
    ramp = torch.linspace(0, 1, 256).reshape(16, 16)
    channels = torch.stack([ramp, 1000 * ramp - 5, torch.full_like(ramp, 7)])
    said = []
    real = activations._description
    monkeypatch.setattr(activations, "_description", lambda *args: said.extend(real(*args)) or real(*args))
    pixels = np.asarray(sheet("rfconv", channels).convert("L"))
    top = np.flatnonzero((pixels == 128).sum(1) >= 96)[0]  # the still channel is grey all over
    tiles = [pixels[top : top + 96, left : left + 96] for left in lefts(pixels, top)]
    assert len(tiles) == 3
    for tile in tiles[:2]:  # six times six pixels of the same grey, and the whole range
        assert np.array_equal(tile[::6, ::6], (ramp * 255).round().numpy())
        assert np.array_equal(tile, tile[::6, ::6].repeat(6, 0).repeat(6, 1))
    assert (tiles[2] == 128).all()
    assert "rfconv: 3 channels of 16×16" in said[0]
    assert "values -5…1e+03" in said[1] and "1 channels" in said[1]
    assert "own range" in said[2]


def lefts(pixels, top):
    """Where the tiles of the row at `top` begin: columns that are not white in all 96 lines, in runs of 96."""
    inked = (pixels[top : top + 96] < 250).any(0)
    starts = np.flatnonzero(np.diff(np.concatenate(([0], inked.astype(int)))) == 1)
    return [start for start in starts if inked[start : start + 96].sum() > 90]


@pytest.mark.parametrize("count", [1, 3, 64, 313])
def test_grids_are_of_readable_size(count):
    page = sheet("finalconv", torch.randn(count, 8, 12))
    assert page.width <= 2000 and page.height <= 3000
    assert page.width * page.height >= count * 96 * 64


def test_command_leaves_a_folder_for_each_picture(colourize, run, small_pictures, tmp_path):
    image = small_pictures / "07.png"
    code, out, _ = colourize("activations --index 0 --index 3 --out", tmp_path, run.folder, "--image", image)
    assert code == 0
    assert str(tmp_path / "index-3") in out
    assert {path.name for path in tmp_path.iterdir()} == {"index-0", "index-3", "07"}
    sheets = ["downconv1", "downconv2", "rfconv", "upconv1", "upconv2", "finalconv"]
    expected = {f"{number:02}-{name}.png" for number, name in enumerate(sheets, 1)}
    for folder in tmp_path.iterdir():
        assert {path.name for path in folder.iterdir()} == expected | {"input.png", "truth.png", "output.png"}
    with Image.open(tmp_path / "07" / "truth.png") as truth, Image.open(image) as source:
        assert np.array_equal(np.asarray(truth)[::16, ::16], np.asarray(source))
    code, _, err = colourize("activations --index 3 --out", tmp_path, run.folder)
    assert (code, len(err.splitlines())) == (1, 1) and "--overwrite" in err
    assert colourize("activations --overwrite --index 3 --out", tmp_path, run.folder)[0] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--index 4", "from 0 to 3.*4"),
        ("--index 0 --index -1", "from 0 to 3.*-1"),
        ("--image none.png", "none.png"),
        ("--index 0 --index 0", "same name"),
    ],
)
def test_errors_come_before_any_work(colourize, run, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = colourize(f"activations --out out {options}", run.folder)
    assert (code, len(err.splitlines())) == (1, 1)
    assert re.search(words, err)
    assert list(tmp_path.iterdir()) == []


def test_large_pictures_are_reduced_and_cut(tmp_path):
    Image.new("RGB", (1000, 601)).save(tmp_path / "large.png")
    height, width = from_file(tmp_path / "large.png", 4).picture.shape[2:]
    assert (height % 4, width % 4) == (0, 0)
    assert LONGEST // 2 < max(height, width) <= LONGEST
