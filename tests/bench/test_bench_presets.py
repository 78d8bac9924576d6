"""The result file of a preset says what was trained, what it came to and what that took, and nothing of the machine."""

import json

import pytest

from bench import presets
from colourize.files import UserError


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    given = {"limit": 20, "epochs": 1, "filters": 4, "size": 16}
    names = ("best-mean", "vivid-colour", "best-superres")
    files = presets.measure(names, given, tmp_path_factory.mktemp("results"))
    return {name: (file, json.loads(file.read_text())) for name, file in zip(names, files, strict=True)}


def test_a_result_says_how_it_was_made(results):
    for name, (file, found) in results.items():
        assert file.name == f"{name}-{found['date']}.json"
        assert (found["preset"], found["settings"]["limit"], found["settings"]["seed"]) == (name, 20, 0)
        assert not {"data_dir", "palette"} & found["settings"].keys()
        assert "torch" in found["environment"]
        assert len(found["metrics"]) == 1
        assert found["seconds"]["training"] > 0
        assert set(found["scores"]) == set(found["intervals"]) > {"network"}


def test_ratios_are_those_of_the_scores(results):
    found = results["best-mean"][1]
    own, table = (found["scores"][name] for name in ("network", "mean colour of the grey level"))
    assert found["ratios"]["ΔE₀₀ over that of mean colour of the grey level"] == own["ciede2000"] / table["ciede2000"]
    truth = found["scores"]["the pictures themselves"]["colourfulness"]
    assert found["ratios"]["colourfulness over the pictures' own"] == own["colourfulness"] / truth


def test_what_is_timed_is_what_the_task_does(results):
    parts = {name: set(found["seconds"]["a megapixel"]) for name, (_, found) in results.items()}
    assert parts["best-superres"] == {"read", "made", "written"}
    assert parts["best-mean"] == parts["vivid-colour"] == parts["best-superres"] | {"made at full size"}


def test_a_palette_that_no_preset_has_is_refused(tmp_path):
    with pytest.raises(UserError, match="--palette .* is for the tasks"):
        presets.measure(["best-mean"], {"palette": "colours.npz"}, tmp_path)
    assert not list(tmp_path.iterdir())
