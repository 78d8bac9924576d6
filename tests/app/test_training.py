"""Training learns, can be stopped at any moment and goes on to the bit, and never overwrites or loses a
run.
"""

import errno
import os
import signal

import pytest
import torch

from colourize import files, lookup, training
from colourize.files import UserError
from colourize.palette import Palette
from colourize.runs import CHECKPOINTS, Run
from colourize.schedule import rate
from colourize.step import Step
from colourize.training import train

RESULTS = ("model.safetensors", "best.safetensors", "metrics.csv", *CHECKPOINTS)


def results(folder):
    return {name: (folder / name).read_bytes() for name in RESULTS}


@pytest.fixture(scope="module")
def straight(tiny, tmp_path_factory):
    """What an uninterrupted training of `tiny` leaves behind."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    train(tiny, folder)
    return results(folder)


def disturb(monkeypatch, step, action):
    """Calls `action` at a step of the training, once."""
    begin, steps = Step._set_rate, iter(range(10**9))

    def disturbed(self, lr):
        if next(steps) == step:
            action()
        begin(self, lr)

    monkeypatch.setattr(Step, "_set_rate", disturbed)


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


def test_same_seed_same_run_other_seed_other_run(tiny, tmp_path, straight):
    train(tiny, tmp_path / "again")
    assert results(tmp_path / "again") == straight
    train(tiny.replace(seed=1), tmp_path / "other")
    assert results(tmp_path / "other")["model.safetensors"] != straight["model.safetensors"]


@pytest.mark.parametrize("step", [0, 8])  # 36 pictures in batches of 7: 6 steps an epoch
def test_interrupted_and_resumed_is_the_same_to_the_bit(tiny, tmp_path, monkeypatch, straight, step):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        disturb(patch, step, lambda: signal.raise_signal(signal.SIGINT))
        train(tiny, tmp_path / "run")
    assert results_so_far(tmp_path / "run") == step // 6
    train(tiny, tmp_path / "run", resume=True)
    assert results(tmp_path / "run") == straight


def results_so_far(folder):
    table = folder / "metrics.csv"
    return len(table.read_text().splitlines()) - 1 if table.exists() else 0


def test_trained_further_is_the_same_as_trained_for_long(tiny, tmp_path):
    constant = tiny.replace(schedule="constant")
    train(constant, tmp_path / "long")
    train(constant.replace(epochs=1), tmp_path / "run")
    train(constant, tmp_path / "run", resume=True)
    assert results(tmp_path / "run") == results(tmp_path / "long")
    assert Run.open(tmp_path / "run").settings == constant.replace(precision="fp32")


def test_trained_further_than_the_schedule_is_said_to_be_another(tiny, tmp_path, caplog, straight):
    train(tiny.replace(epochs=1), tmp_path / "run")
    assert not caplog.messages
    train(tiny, tmp_path / "run", resume=True)
    assert "epochs was 1 and becomes 3" in caplog.text
    assert results(tmp_path / "run") != straight


def test_another_precision_is_said_to_be_another_training(tiny, tmp_path, caplog):
    train(tiny.replace(epochs=1, schedule="constant"), tmp_path / "run")
    assert Run.open(tmp_path / "run").settings.precision == "fp32"
    train(tiny.replace(schedule="constant", epochs=2, precision="bf16"), tmp_path / "run", resume=True)
    assert "precision was fp32 and becomes bf16" in caplog.text
    assert Run.open(tmp_path / "run").settings.precision == "bf16"


@pytest.mark.parametrize("write", [2, 3, 4, 5, 6, 7, 13])
def test_full_disk_loses_nothing(tiny, tmp_path, monkeypatch, straight, write):
    """Whichever file it is that does not fit any more, what is on the disk can be resumed."""
    sync, writes = os.fsync, iter(range(10**9))

    def full(descriptor):
        if os.path.isfile(f"/proc/self/fd/{descriptor}") and next(writes) == write:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(UserError, match=f"cannot write {tmp_path}.*No space left"):
            train(tiny, tmp_path / "run")
    train(tiny, tmp_path / "run", resume=True)
    assert results(tmp_path / "run") == straight


def halved(content):
    return content[: len(content) // 2]


def changed(content):
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


@pytest.mark.parametrize("damage", [halved, changed])
def test_damaged_checkpoint_falls_back_to_the_one_before(tiny, tmp_path, caplog, straight, damage):
    train(tiny, tmp_path / "run")
    newest = tmp_path / "run" / CHECKPOINTS[tiny.epochs % 2]
    newest.write_bytes(damage(newest.read_bytes()))
    train(tiny, tmp_path / "run", resume=True)
    assert any(str(newest) in message and "after epoch 2" in message for message in caplog.messages)
    assert results(tmp_path / "run") == straight


def test_no_good_checkpoint_left_is_an_error(tiny, tmp_path):
    train(tiny.replace(epochs=1), tmp_path / "run")
    for name in CHECKPOINTS:
        (tmp_path / "run" / name).write_bytes(b"")
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match=f"{CHECKPOINTS[0]}.*{CHECKPOINTS[1]}"):
        train(tiny, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def test_checkpoint_of_other_settings_is_an_error(tiny, tmp_path):
    train(tiny.replace(epochs=1), tmp_path / "run")
    other = tiny.replace(filters=5)
    other.save(tmp_path / "run" / "settings.toml")
    with pytest.raises(UserError, match=r"checkpoint-odd.safetensors does not fit.*settings"):
        train(other, tmp_path / "run", resume=True)
    with pytest.raises(UserError, match=r"model.safetensors does not fit.*settings"):
        Run.open(tmp_path / "run").load_network()


def test_nothing_that_exists_is_overwritten(tiny, tmp_path):
    run = tmp_path / "run"
    train(tiny.replace(epochs=1), run)
    before = {path: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(UserError, match=f"{run} already holds a run.*--resume"):
        train(tiny, run)
    with pytest.raises(UserError, match="lr was 0.01.*cannot become 0.5"):
        train(tiny.replace(lr=0.5), run, resume=True)
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    own = tmp_path / "own"
    own.mkdir()
    (own / "settings.txt").write_text("mine")
    with pytest.raises(UserError, match=f"{own} exists and is not an empty folder"):
        train(tiny, own)


def test_resume_needs_a_run(tiny, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        train(tiny, tmp_path, resume=True)


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


def test_pictures_are_drawn_of_what_an_interruption_leaves(tiny, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        disturb(monkeypatch, 8, lambda: signal.raise_signal(signal.SIGINT))
        train(tiny, tmp_path / "run")
    left = {name: (tmp_path / "run" / name).read_bytes() for name in ("curves.png", "samples.png")}
    train(tiny.replace(epochs=1), tmp_path / "run", resume=True)
    assert left == {name: (tmp_path / "run" / name).read_bytes() for name in left}


def test_learning_rate_follows_the_schedule_through_a_resumption(tiny, tmp_path, monkeypatch):
    used = []
    set_rate = Step._set_rate

    def watched(self, lr):
        set_rate(self, lr)
        used.append(self.optimizer.param_groups[0]["lr"].item())

    monkeypatch.setattr(Step, "_set_rate", watched)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        disturb(patch, 8, lambda: signal.raise_signal(signal.SIGINT))
        train(tiny, tmp_path / "run")
    del used[6:]  # those of the epoch that was not finished
    train(tiny, tmp_path / "run", resume=True)
    assert used == [rate(tiny.schedule, tiny.lr, number, 18) for number in range(18)]


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


@pytest.mark.parametrize(
    "options",
    [
        {"flips": True, "turns": True, "shifts": 2, "stretches": 2, "weight_decay": 0.1},
        {"loss": "rebalanced"},
        {"task": "lab-classification"},
        {"task": "lab-regression", "network": "colour-unet"},
        {"network": "colour-unet", "loss": "rebalanced"},
        {"task": "enlarge2", "network": "enlarger", "depth": 1},
        {"network": "conv-transpose-unet"},
    ],
    ids=str,
)
def test_every_kind_of_training_resumes_to_the_bit(options, tiny, tmp_path):
    settings = tiny.replace(epochs=2, **options)
    train(settings.replace(epochs=1, schedule="constant"), tmp_path / "parts")
    train(settings.replace(schedule="constant"), tmp_path / "parts", resume=True)
    train(settings.replace(schedule="constant"), tmp_path / "constant")
    first, second = (Run.open(tmp_path / name) for name in ("constant", "parts"))
    for name, tensor in first.load_network().state_dict().items():
        assert torch.equal(tensor, second.load_network().state_dict()[name]), name


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
