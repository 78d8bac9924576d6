"""`train --tensorboard` writes each epoch's numbers and pictures, on through a resumption."""

import pytest

from colourize import training
from colourize.files import UserError
from colourize.training import train


@pytest.fixture(scope="module")
def twice(tiny):
    """Of two epochs, which can be followed by more."""
    return tiny.replace(epochs=2, schedule="constant")


def test_events_for_tensorboard(twice, tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(twice, tmp_path / "run", events=True)
    run = train(twice.replace(epochs=3), tmp_path / "run", resume=True, events=True)
    found = reader.EventAccumulator(str(run.folder / "tensorboard"))
    found.Reload()
    for tag, name in (("loss/train", "train_loss"), ("psnr/validation", "validation_psnr")):
        expected = [(row["epoch"], pytest.approx(row[name])) for row in run.metrics]
        assert [(event.step, event.value) for event in found.Scalars(tag)] == expected
    assert [event.step for event in found.Images("samples")] == [2, 3]


def test_without_tensorboard_its_extra_is_named(twice, tmp_path, monkeypatch):
    monkeypatch.setattr(training.tensorboard.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--tensorboard needs tensorboard, of the extra \[tensorboard\]"):
        train(twice, tmp_path / "run", events=True)
    assert not (tmp_path / "run").exists()
