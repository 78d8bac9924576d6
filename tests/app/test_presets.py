"""Presets are settings that exist, and what is given beside one takes its place."""

import pytest

from colourize import presets
from colourize.files import UserError
from colourize.settings import Settings


@pytest.mark.parametrize("name", presets.NAMES)
def test_every_preset_is_a_training(name):
    settings = Settings(**presets.complete(name, None, {}))
    assert (settings.task, settings.network) == (
        presets.PRESETS[name].settings["task"],
        presets.PRESETS[name].settings["network"],
    )


def test_what_is_given_takes_its_place():
    found = presets.complete("best-colour", "unet", {"epochs": 3})
    assert (found["network"], found["epochs"], found["task"]) == ("unet", 3, "classification")
    assert presets.complete("regression", "cnn", {"lr": 0.1}) == {"task": "regression", "network": "cnn", "lr": 0.1}


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("best", "'best' is neither a preset.*best-colour.*nor a task.*superres"),
        ("regression", "needs a NETWORK.*unet"),
    ],
)
def test_unknown_names_list_the_known_ones(first, message):
    with pytest.raises(UserError, match=message):
        presets.complete(first, None, {})
