"""Baselines are what they claim to be, and a network that loses to one is told so."""

import io

import numpy as np
import pytest
import torch
from rich.console import Console

from colourize import pictures, tables, tasks
from colourize.baselines import baselines
from colourize.data import Split, TensorImages, load
from colourize.evaluation import HIGHER_IS_BETTER, Evaluation, _whole, evaluate, mean_scores
from colourize.examples import Examples
from colourize.files import UserError
from colourize.measures import colourfulness
from colourize.palette import Palette
from colourize.summary import layers
from colourize.training import train

CLASSIFICATION = "most frequent colour of the grey level"


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    return train(tiny.replace(epochs=1), tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def split():
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=generator) for n in (50, 20)]
    return Split(*map(TensorImages, pictures), "noise")


def scores(task, split):
    examples = Examples(split.validation, task)
    return {name: mean_scores(p, task, examples, 7) for name, p in baselines(task, split.train).items()}


def test_table_of_colours_counts_as_numpy_does(split):
    palette = Palette.fit(split.train.tensor, 5)
    task = tasks.Classification(palette)
    counts = np.ones((256, 5))
    level = {part: part.tensor.numpy().astype(int).sum(1) // 3 for part in split[:2]}
    label = {part: palette.quantise(part.tensor).numpy() for part in split[:2]}
    np.add.at(counts, (level[split.train], label[split.train]), 1)
    table = counts / counts.sum(1, keepdims=True)
    seen, truth = level[split.validation], label[split.validation]
    result = scores(task, split)[CLASSIFICATION]
    assert result["loss"] == pytest.approx(-np.log(table[seen, truth]).mean(), rel=1e-5)
    assert result["accuracy"] == pytest.approx((table.argmax(1)[seen] == truth).mean())


def test_mean_colours_are_those_of_numpy(split):
    train, validation = (part.tensor.numpy().transpose(0, 2, 3, 1) / 256 for part in split[:2])
    level = {len(part): (part.mean(3) * 256).astype(int) for part in (train, validation)}
    known = np.unique(level[50])
    means = np.stack([train[level[50] == value].mean(0) for value in known])
    table = np.stack([np.interp(np.arange(256), known, channel) for channel in means.T], 1)
    result = scores(tasks.Regression(), split)
    expected = ((table[level[20]] - validation) ** 2).mean()
    assert result["mean colour of the grey level"]["loss"] == pytest.approx(expected, rel=1e-5)
    expected = ((validation.mean(3, keepdims=True) - validation) ** 2).mean()
    assert result["the grey itself"]["loss"] == pytest.approx(expected, rel=1e-5)


def test_baselines_on_the_horses_are_the_published_ones(shared_data):
    horses = load("cifar10", data_dir=shared_data)
    palette = Palette.load(shared_data / "colour_kmeans24_cat7.npy")
    table = scores(tasks.Classification(palette), horses)[CLASSIFICATION]
    assert table["accuracy"] == pytest.approx(0.640, abs=0.0005)
    assert table["loss"] == pytest.approx(0.884, abs=0.0005)
    grey, mean = scores(tasks.Regression(), horses).values()
    assert grey["loss"] == pytest.approx(0.0048, abs=0.00005)
    assert mean["loss"] == pytest.approx(0.0035, abs=0.00005)
    nearest = scores(tasks.SuperResolution(palette), horses)["nearest × 4"]
    assert nearest["psnr"] == pytest.approx(19.25, abs=0.005)
    assert nearest["accuracy"] == pytest.approx(0.414, abs=0.0005)


def test_scores_do_not_depend_on_the_batch(split):
    task = tasks.Classification(Palette.fit(split.train.tensor, 5))
    predictor = baselines(task, split.train)[CLASSIFICATION]
    examples = Examples(split.validation, task)
    whole = mean_scores(predictor, task, examples, 20)
    assert mean_scores(predictor, task, examples, 3) == pytest.approx(whole, rel=1e-6)


def test_network_stands_first_beside_every_baseline(run, split):
    result = evaluate(run, split)
    assert [*result.scores] == ["network", "the grey itself", CLASSIFICATION, "the pictures themselves"]
    assert result.data == "the validation pictures of noise"
    network = result.scores["network"]
    assert network.keys() == {"loss", "accuracy", "top-5", "psnr", "ciede2000", "colourfulness"}  # too small for SSIM
    for name, (low, high) in result.intervals["network"].items():
        assert low <= network[name] <= high
    assert result.scores["the grey itself"]["colourfulness"] == pytest.approx(0, abs=1e-5)
    truth = colourfulness(split.validation.tensor).mean().item()
    assert result.scores["the pictures themselves"] == {"colourfulness": pytest.approx(truth)}
    assert {metric for metric, _ in result.defeats} <= set(HIGHER_IS_BETTER)


@pytest.mark.parametrize("width", [40, 80])
def test_a_narrow_terminal_cuts_nothing_off(run, split, width):
    console = Console(width=width, file=io.StringIO())
    console.print(tables.evaluation(evaluate(run, split), run.task))
    console.print(tables.layers(layers(run.create_network()), "layers"))
    assert "…" not in console.file.getvalue()


def test_defeat_is_said_in_words(run):
    better = {"loss": 1.0, "accuracy": 0.5, "psnr": 20.0}
    worse = {"loss": 2.0, "accuracy": 0.25, "psnr": 20.0}
    lost = Evaluation("noise", {"network": worse, "table": better}, {})
    assert sorted(lost.defeats) == [("accuracy", "table"), ("loss", "table")]
    words = tables.verdict(lost, run.task)
    assert "loses to “table”" in words
    assert "accuracy (25.0% against 50.0%)" in words
    won = Evaluation("noise", {"network": better, "table": worse}, {})
    assert won.defeats == []
    assert "loses to none" in tables.verdict(won, run.task)


def test_whole_pictures_take_the_place_of_the_validation_pictures(run, split, small_pictures):
    paths = sorted(small_pictures.iterdir())[:3]
    result = evaluate(run, split, whole=paths)
    assert result.data == "3 whole pictures"
    network, truth = run.load_network(), []
    for path in paths:
        picture = torch.from_numpy(pictures.read(path).rgb).permute(2, 0, 1)[None]
        with torch.inference_mode():
            output = network(run.task.degrade(picture))
        truth.append(torch.nn.functional.cross_entropy(output, run.task.target(picture)).item())
    assert result.scores["network"]["loss"] == pytest.approx(np.mean(truth), rel=1e-5)


def test_one_picture_has_no_spread(run, split, small_pictures):
    result = evaluate(run, split, whole=[small_pictures / "00.png"])
    assert result.data == "1 whole picture"
    assert not any(result.intervals.values())
    console = Console(file=io.StringIO(), width=120)
    console.print(tables.evaluation(result, run.task))
    said = console.file.getvalue()
    assert "dB" in said and "±" not in said


def test_whole_pictures_are_cut_to_what_the_task_can_divide(tmp_path):
    pictures.write(tmp_path / "odd.png", np.full((17, 14, 3), 100, np.uint8))
    batch = next(_whole(tasks.kind("enlarge3")(), [tmp_path / "odd.png"], "cpu")[0]())
    assert batch.pictures.shape == (1, 3, 15, 12)
    assert batch.input.shape == (1, 3, 5, 4)
    pictures.write(tmp_path / "tiny.png", np.full((2, 9, 3), 100, np.uint8))
    with pytest.raises(UserError, match="tiny.png is smaller than 3 × 3"):
        list(_whole(tasks.kind("enlarge3")(), [tmp_path / "tiny.png"], "cpu")[0]())
