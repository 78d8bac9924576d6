"""The epoch that is timed beside ours is the same work: same losses and scores; and the result says if it is not."""

import json

import pytest
import torch
from typer.testing import CliRunner

from bench import epoch as module
from bench import plain
from bench.__main__ import app
from colourize.files import UserError
from colourize.settings import Settings
from colourize.training import load_data, train

SETTINGS = Settings("classification", "unet", limit=40, epochs=3, batch_size=16)


def test_both_sides_learn_and_score_the_same(tmp_path):
    run, split = train(SETTINGS, tmp_path / "run", device="cpu"), load_data(SETTINGS)
    seconds, losses = module._plain(run, split, tmp_path)
    assert len(seconds) == 3 and min(seconds) > 0
    for loss, row in zip(losses, run.metrics, strict=True):
        assert loss == pytest.approx(row["train_loss"], rel=2e-3)
    network = plain.create("unet").eval()
    network.load_state_dict(run.load_network().state_dict())
    examples = module._prepared(run.task, split.validation.batch(torch.arange(len(split.validation))))
    scores = module._scores(network, examples, run, SETTINGS.batch_size)
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + SETTINGS.epochs
    for name, value in scores.items():
        assert value == pytest.approx(run.metrics[-1][name], rel=1e-3), name
    assert {path.name for path in tmp_path.glob("*.pt")} == {
        "model.pt", "best.pt", "checkpoint-0.pt", "checkpoint-1.pt"
    }  # fmt: skip


@pytest.mark.parametrize("alike", [True, False])
def test_command_writes_samples_and_a_table(tmp_path, monkeypatch, alike):
    if not alike:
        honest = module._plain
        monkeypatch.setattr(module, "_plain", lambda *args: (honest(*args)[0], [0.5, 0.5]))
    options = ["--data", "photos", "--limit", "20", "--epochs", "2", "--rounds", "2", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["epoch", *options])
    assert result.exit_code == (0 if alike else 1), result.output
    facts = json.loads(next(tmp_path.glob("*-epoch-cpu-*.json")).read_text())
    assert {side: len(samples) for side, samples in facts["seconds"].items()} == {"ours": 2, "plain PyTorch": 2}
    assert "data_dir" not in facts["settings"]
    table = next(tmp_path.glob("*-epoch-cpu-*.md")).read_text()
    assert "| ours | 2 |" in table and "| plain PyTorch | 2 |" in table
    assert ("did not do the same" in table) is not alike


@pytest.mark.parametrize("finished", [0, 1])
def test_ctrl_c_keeps_the_rounds_that_are_finished(tmp_path, monkeypatch, finished):
    honest, turns = module._plain, iter(range(3))

    def plain_side(*args):
        if next(turns) == finished:
            raise KeyboardInterrupt
        return honest(*args)

    monkeypatch.setattr(module, "_plain", plain_side)
    options = ["--data", "photos", "--limit", "20", "--epochs", "3", "--rounds", "3", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["epoch", *options])
    assert result.exit_code == 130, result.output
    files = sorted(tmp_path.iterdir())
    assert [path.suffix for path in files] == [".json", ".md"] * finished
    assert ("nothing" in result.output) is (finished == 0)
    if finished:
        facts = json.loads(files[0].read_text())
        assert {side: len(samples) for side, samples in facts["seconds"].items()} == {"ours": 2, "plain PyTorch": 2}
        assert "1 of 3 rounds" in files[1].read_text()


def test_a_network_that_plain_pytorch_has_not_is_refused(tmp_path):
    result = CliRunner().invoke(app, ["epoch", "--network", "dilated-unet", "--out", str(tmp_path)])
    assert result.exit_code == 2 and "'unet', 'cnn'" in result.output


def test_a_folder_that_nothing_would_be_read_from_is_refused(tmp_path):
    words = ["epoch", "--data", "photos", "--data-dir", str(tmp_path), "--out", str(tmp_path)]
    with pytest.raises(UserError, match="--data-dir .* is for --data cifar10"):
        CliRunner().invoke(app, words, catch_exceptions=False)
