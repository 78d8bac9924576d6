"""Settings are checked when they are made and survive their file."""

import pytest

from colourize.files import UserError
from colourize.settings import Settings


def test_defaults_are_those_of_the_handout():
    settings = Settings("classification", "cnn")
    assert (settings.epochs, settings.batch_size, settings.lr, settings.colours) == (25, 100, 1e-3, 24)


def test_file_holds_every_setting(tmp_path):
    settings = Settings(
        "classification",
        "unet",
        data='folder:/a "b"\\c/é',
        data_dir="x",
        class_name="ship",
        size=64,
        limit=5,
        palette="p.npy",
        colours=7,
        space="lab",
        filters=8,
        kernel_size=5,
        bottleneck=3,
        order="resize-norm-relu",
        loss="rebalanced",
        loss_weights="vgg.pth",
        loss_layers="relu1_2+relu2_2",
        temperature=1,
        flips=True,
        turns=True,
        shifts=3,
        stretches=5,
        mirror=True,
        epochs=2,
        batch_size=9,
        lr=2e-5,
        weight_decay=0.1,
        schedule="cosine",
        precision="bf16",
        seed=11,
    )
    settings.save(tmp_path / "settings.toml")
    assert Settings.load(tmp_path / "settings.toml") == settings
    plain = Settings("regression", "cnn")
    plain.save(tmp_path / "settings.toml")
    assert Settings.load(tmp_path / "settings.toml") == plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "colouring"}, "'colouring'.*classification"),
        ({"network": "resnet"}, "'resnet'.*unet"),
        ({"epochs": 0}, "epochs.*at least 1.*0"),
        ({"batch_size": -3}, "batch_size.*-3"),
        ({"batch_size": "many"}, "batch_size must be int.*'many'"),
        ({"limit": 0}, "limit.*0"),
        ({"lr": 0.0}, "lr.*positive.*0"),
        ({"lr": float("nan")}, "lr.*nan"),
        ({"schedule": "linear"}, "schedule.*constant, cosine, one-cycle.*'linear'"),
        ({"precision": "fp16"}, "precision must be one of fp32, tf32, bf16, not 'fp16'"),
        ({"weight_decay": -0.1}, "weight_decay.*-0.1"),
        ({"seed": -1}, "seed.*-1"),
        ({"flips": 1}, "flips must be bool, not 1"),
        ({"shifts": -1}, "shifts must be from 0 to 31 for size 32, not -1"),
        ({"task": "superres", "shifts": 8}, "shifts must be from 0 to 7 for size 32, not 8"),
        ({"stretches": 16}, "stretches must be from 0 to 15 for task classification, size 32, not 16"),
        (
            {"task": "enlarge2", "network": "enlarger", "mirror": True},
            "mirror is for networks that keep a picture's size, not enlarger",
        ),
        ({"task": "superres", "stretches": 1}, "stretches must be from 0 to 0 for task superres, size 32, not 1"),
        ({"epochs": True}, "epochs must be int, not True"),
        ({"loss": "mse"}, "loss must be one of cross-entropy, rebalanced.*'mse'"),
        ({"temperature": -1.0}, "temperature.*-1"),
        ({"order": "relu"}, "order.*'relu'"),
        ({"network": "enlarger"}, "classification is for the networks.*unet.*not enlarger"),
        ({"task": "enlarge2"}, "enlarge2 is for the networks enlarger, not cnn"),
        ({"space": "hsv"}, "space must be one of rgb, lab, not 'hsv'"),
        ({"colours": 1}, "colours.*at least 2"),
        ({"kernel_size": 2}, "kernel_size.*odd"),
        ({"size": 4}, "size.*at least 8.*4"),
        ({"task": "superres", "size": 30}, "size.*multiple of 4.*30"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(UserError, match=message):
        Settings(**{"task": "classification", "network": "cnn", **change})


@pytest.mark.parametrize(
    "content",
    ["", "task = 1", 'task = "classification"\nnetwork = "cnn"\ncolour = 3', "task = ", "\0\xff", "a = " + "[" * 99999],
)
def test_bad_file_is_named(tmp_path, content):
    path = tmp_path / "settings.toml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=str(path)):
        Settings.load(path)
    with pytest.raises(UserError, match="missing.toml"):
        Settings.load(tmp_path / "missing.toml")
