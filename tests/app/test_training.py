"""Training learns from every picture once an epoch, keeps the best one beside the last, and names what it cannot do."""

import pytest
import torch

from colourize import lookup, training
from colourize.files import UserError
from colourize.palette import Palette
from colourize.runs import CHECKPOINTS, WEIGHTS, Run
from colourize.training import train

RESULTS = (*WEIGHTS.values(), "metrics.csv", *CHECKPOINTS)


@pytest.mark.parametrize(
    ("task", "network"),
    [("regression", "regression-cnn"), ("classification", "cnn"), ("superres", "unet")],
)
def test_loss_falls(tiny, tmp_path, task, network):
    run = train(tiny.replace(task=task, network=network, epochs=6), tmp_path / "run")
    losses = [row["validation_loss"] for row in run.metrics]
    assert losses[-1] < 0.75 * losses[0]
    left = {path.name for path in run.folder.iterdir()}
    expected = {"settings.toml", *RESULTS, "curves.png", "samples.png"}
    assert left == expected | ({"palette.npy"} if task != "regression" else set())


def test_bad_data_leaves_nothing_behind(tiny, tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        train(tiny.replace(data=f"folder:{tmp_path}/nowhere"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_loss_that_is_no_number_stops_before_it_is_saved(tiny, tmp_path):
    with pytest.raises(UserError, match=r"loss became .* in epoch 1.*lr"):
        train(tiny.replace(task="regression", network="unet", lr=1e30), tmp_path / "run")
    assert not any((tmp_path / "run" / name).exists() for name in RESULTS)


@pytest.fixture
def losses(monkeypatch):
    """The list of validation losses that trainings from here on will find, epoch by epoch."""
    chosen = []
    monkeypatch.setattr(training, "mean_scores", lambda *_: {"loss": chosen.pop(0), "psnr": 20.0})
    return chosen


def weights(run, which):
    return run.load_network(which).state_dict()


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_best_epoch_is_kept_beside_the_last(tiny, tmp_path, losses):
    losses += [3.0, 1.0]
    constant = tiny.replace(schedule="constant")
    second = weights(train(constant.replace(epochs=2), tmp_path / "run"), "last")
    (tmp_path / "run" / "best.safetensors").unlink()
    losses += [2.0]
    run = train(constant, tmp_path / "run", resume=True)
    assert run.best_row["epoch"] == 2
    assert same(weights(run, "best"), second)
    assert not same(weights(run, "last"), second)
    with pytest.raises(UserError, match="weights must be last or best, not 'first'"):
        run.load_network("first")


@pytest.mark.parametrize("seconds", [0, 1000])
def test_pictures_are_drawn_now_and_then_and_at_the_end(tiny, tmp_path, monkeypatch, seconds):
    drawn = []
    monkeypatch.setattr(training, "_REDRAW", seconds)
    monkeypatch.setattr(training.plots, "curves", lambda path, metrics, title: drawn.append(len(metrics)))
    train(tiny, tmp_path / "run")
    assert drawn == ([1, 2, 3] if seconds == 0 else [3])


def test_every_picture_once_an_epoch_in_a_new_order():
    orders = []
    for epoch in (1, 2, 1):
        batches = list(training.shuffled(36, 7, 0, epoch))
        assert [len(batch) for batch in batches] == [7] * 5 + [1]
        orders.append(torch.cat(batches).tolist())
        assert sorted(orders[-1]) == list(range(36))
    assert orders[0] == orders[2] != orders[1]


def test_every_picture_is_seen_once_an_epoch_and_its_view_chosen_anew():
    orders = [torch.cat(list(training.shuffled(36, 7, 0, epoch, views=3))) for epoch in (1, 2)]
    for order in orders:
        assert sorted((order % 36).tolist()) == list(range(36))
        assert all(4 < (order // 36 == view).sum() < 20 for view in range(3))
    views = [order[(order % 36).argsort()] // 36 for order in orders]
    assert not torch.equal(*views)


def test_lookup_prior_starts_from_the_training_pictures(tiny, tmp_path):
    """At a rate of next to nothing, a network that begins as the table is as good as the table."""
    run = train(tiny.replace(epochs=1, network="colour-unet", lr=1e-12), tmp_path / "run")
    split = training.load_data(run.settings)
    table = lookup.table(run.task, split.train)
    torch.testing.assert_close(run.load_network().prior.table.detach(), table.float(), atol=1e-6, rtol=0)


def test_labels_of_a_run_are_nearest_where_it_says(tiny, tmp_path):
    run = train(tiny.replace(epochs=1, space="lab"), tmp_path / "run")
    opened, pictures = Run.open(run.folder).task, training.load_data(tiny).train.batch(torch.arange(36))
    expected = Palette(opened.palette.centres, "lab").quantise(pictures)
    assert torch.equal(opened.target(pictures), expected)
    assert not torch.equal(expected, Palette(opened.palette.centres).quantise(pictures))


def test_given_palette_is_used_and_kept(tiny, tmp_path):
    train(tiny.replace(epochs=1), tmp_path / "first")
    palette = str(tmp_path / "first" / "palette.npy")
    train(tiny.replace(epochs=1, palette=palette, seed=3), tmp_path / "second")
    first, second = Run.open(tmp_path / "first"), Run.open(tmp_path / "second")
    assert torch.equal(first.task.palette.centres, second.task.palette.centres)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "warp"])
def test_device_that_is_not_there_is_named(device):
    with pytest.raises(UserError, match=device):
        training.choose_device(device)
