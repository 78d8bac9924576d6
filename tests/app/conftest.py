"""Fixtures for the tests of the application."""

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from colourize import cli, files
from colourize.settings import Settings

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """What is this small is soonest done by one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """A process that was started in the background ignores Ctrl-C; the tests of Ctrl-C must not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data sets that lies beside the project on its build machines."""
    if not SHARED.is_dir():
        pytest.skip("the data sets of ../shared/data are not here")
    return SHARED


@pytest.fixture
def said(monkeypatch, caplog):
    """A function that returns what was said to the user so far; nothing counts as said before the test."""
    monkeypatch.setattr(files, "_said", set())
    return lambda: caplog.messages


@pytest.fixture
def colourize(capsys, monkeypatch):
    """Runs a command line; returns its exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(line, *more):
        arguments = [*line.split(), *map(str, more)]
        monkeypatch.setattr("sys.argv", ["colourize", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def small_pictures(tmp_path_factory) -> Path:
    """A folder of 40 pictures, 16 × 16: skies above fields, each a little different."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for number in range(40):
        picture = np.empty((16, 16, 3), np.uint8)
        horizon = random.integers(4, 12)
        picture[:horizon] = [90, 140, 220]
        picture[horizon:] = [60, 110, 40]
        picture += random.integers(0, 30, picture.shape, dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="session")
def tiny(small_pictures) -> Settings:
    """Settings of a training that takes a second."""
    return Settings(
        "classification",
        "unet",
        data=f"folder:{small_pictures}",
        size=16,
        colours=4,
        filters=4,
        epochs=3,
        batch_size=7,
        lr=0.01,
        seed=3,  # 36 of the pictures train and 4 validate
    )
