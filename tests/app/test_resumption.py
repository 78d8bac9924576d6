"""A training can be stopped at any moment and goes on to the bit, and never overwrites or loses a run."""

import errno
import os
import signal

import pytest
import torch

from colourize import files
from colourize.files import UserError
from colourize.runs import CHECKPOINTS, WEIGHTS, Run
from colourize.schedule import rate
from colourize.step import Step
from colourize.training import train

RESULTS = (*WEIGHTS.values(), "metrics.csv", *CHECKPOINTS)


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


def test_fewer_epochs_than_are_finished_are_refused(tiny, tmp_path, caplog):
    train(tiny.replace(epochs=2), tmp_path / "run")
    before = (tmp_path / "run" / "settings.toml").read_bytes()
    with pytest.raises(UserError, match="epochs cannot become 1: 2 are finished in .*run"):
        train(tiny.replace(epochs=1), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "settings.toml").read_bytes() == before and caplog.messages == []


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
