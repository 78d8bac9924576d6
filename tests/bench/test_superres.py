"""The command that trains and measures super-resolution, on a few crops."""

import json

import numpy as np
import pytest
from PIL import Image

from bench import superres
from colourize import presets
from colourize.files import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Pictures to train and to measure on; every preset a training of a second."""
    for preset in superres.PRESETS:
        known = presets.PRESETS[preset]
        settings = {**known.settings, "epochs": 1, "limit": 4, "depth": 1, "filters": 4, "batch_size": 2}
        monkeypatch.setitem(presets.PRESETS, preset, known._replace(settings=settings))
    random = np.random.default_rng(0)
    for place, count in (("crops", 3), ("Set5", 2)):
        (tmp_path / place).mkdir()
        for number in range(count):
            picture = random.integers(0, 256, (97, 99, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / place / f"{number}.png")
    return tmp_path


def test_what_cannot_be_measured_is_said_before_any_training(folder):
    places = [folder / "Set5", folder / "Set14"], folder / "runs", folder / "out"
    with pytest.raises(UserError, match="Set14: there is no such file or folder"):
        superres.superres(["best-superres"], folder / "crops", *places)
    (folder / "runs" / "best-superres").mkdir(parents=True)
    (folder / "runs" / "best-superres" / "settings.toml").touch()
    with pytest.raises(UserError, match="best-superres holds a training that was not timed .* another --runs"):
        superres.superres(["best-superres"], folder / "crops", places[0][:1], *places[1:])
    assert not (folder / "out").exists()


def test_results_of_every_preset(folder):
    places = folder / "crops", [folder / "Set5"], folder / "runs", folder / "out"
    page = superres.superres(list(superres.PRESETS), *places)
    result = json.loads(page.with_suffix(".json").read_text())
    assert [run["preset"] for run in result["runs"]] == list(superres.PRESETS)
    assert str(folder) not in page.with_suffix(".json").read_text()  # no path of the machine
    for run, (name, factor) in zip(result["runs"], superres.PRESETS.items(), strict=True):
        assert run["settings"]["task"] == f"enlarge{factor}" and run["settings"]["data"] == "crops:crops"
        scores = run["sets"]["Set5"]["scores"]
        before, after = scores[f"bicubic × {factor}"]["luma psnr"], scores["network"]["luma psnr"]
        figures = f"{before:.2f} | {after:.2f} | {after - before:+.2f} | {superres.SRCNN['Set5', factor]:+.2f}"
        assert f"| `{name}`, × {factor} | Set5 | {figures} |" in page.read_text()
    with Image.open(page.with_suffix(".jpg")) as image:
        assert image.width > 4 * 240 and image.height > 3 * 240

    weights = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/model.safetensors")}
    again = superres.superres(list(superres.PRESETS), *places)  # what is finished is not trained again
    assert again.name == f"{page.stem}-2.md"
    assert {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/model.safetensors")} == weights
    assert json.loads(again.with_suffix(".json").read_text())["runs"] == result["runs"]
    assert json.loads(page.with_suffix(".json").read_text()) == result
