"""A setting that nothing would look at is refused by name before any work; what is looked at stays silent."""

import re

import pytest

from colourize.commands.use import check_used
from colourize.settings import Settings


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train regression cnn --palette x.npy", "--palette x.npy is for the tasks classification, superres,"),
        ("train lab-classification unet --palette x.npy", "--palette x.npy is for the tasks classification, superres,"),
        ("train best-mean --colours 24", "--colours 24 is for the tasks classification, superres, without --palette"),
        ("train classification cnn --colours 8 --palette x.npy", "--colours 8 is for .* without --palette"),
        ("train regression cnn --space lab", "--space lab is for the tasks classification, superres,"),
        ("train classification cnn --class ship", "--class ship is for --data cifar10,"),
        ("train classification cnn --data-dir x", "--data-dir x is for --data cifar10,"),
        ("train classification cnn --loss-weights x.pth", "--loss-weights x.pth is for --loss perceptual,"),
        ("train enlarge2 enlarger --loss l1 --loss-layers relu1_2", "--loss-layers relu1_2 is for --loss perceptual,"),
        ("train regression cnn --temperature 0", "--temperature 0.0 is for the tasks .*, lab-classification,"),
        ("sweep regression cnn --vary colours=4,8", "--colours 4,8 is for"),
        ("sweep regression cnn,unet --vary loss=mse,huber --loss-layers relu1_2", "--loss-layers relu1_2 is for"),
        ("palette fit --class ship --out x.npy", "--class ship is for"),
        ("report --class ship", "--class ship is for"),
        ("info --filters 8", "--filters 8 is for a NETWORK: regression-cnn, "),
        ("info --size 32", "--size 32 is for a NETWORK"),
    ],
)
def test_what_nothing_looks_at_is_refused(colourize, tmp_path, monkeypatch, line, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = colourize(line)
    assert (code, out) == (1, "")
    assert re.match(f"colourize: {words}", err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "others"),
    [
        ({"palette": "x.npy", "space": "lab", "temperature": 0.5}, {"task": "superres"}),
        ({"colours": 24}, {}),
        ({"class_name": "ship", "data_dir": "x"}, {"data": "cifar10"}),
        ({"loss_weights": "x.pth", "loss_layers": "relu1_2"}, {"task": "regression", "loss": "perceptual"}),
        ({"temperature": 0.0}, {"task": "lab-classification"}),
        ({"flips": False, "seed": 1, "limit": 3}, {"task": "regression"}),
    ],
)
def test_what_is_looked_at_stays_silent(given, others):
    used = Settings(**{"task": "classification", "network": "unet", **others, **given})
    unused = Settings("regression", "unet")
    check_used(given, [unused, used])
