"""Settings with a name that says what they are good for: `colourize train PRESET`.

Each is a starting point: whatever is given beside it takes its place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .files import UserError


class Preset(NamedTuple):
    """Settings that differ from their defaults, and what they are for."""

    purpose: str
    settings: dict[str, Any]


_COLOUR = {"network": "colour-unet", "flips": True, "batch_size": 50, "weight_decay": 0.1, "epochs": 14}
PRESETS = {
    "handout-regression": Preset(
        "the handout's RegressionCNN as it was trained there",
        {"task": "regression", "network": "regression-cnn", "schedule": "constant"},
    ),
    "handout-cnn": Preset(
        "the handout's CNN as it was trained there",
        {"task": "classification", "network": "cnn", "schedule": "constant"},
    ),
    "handout-unet": Preset(
        "the handout's UNet as it was trained there",
        {"task": "classification", "network": "unet", "schedule": "constant"},
    ),
    "handout-superres": Preset(
        "the handout's UNet for super-resolution as it was trained there",
        {"task": "superres", "network": "unet", "schedule": "constant"},
    ),
    "best-colour": Preset(
        "the most right colours out of a palette", {"task": "classification", **_COLOUR}
    ),
    "best-mean": Preset("the least error of R, G and B", {"task": "regression", **_COLOUR}),
    "vivid-colour": Preset(
        "colours as vivid as the pictures' own, rare ones included",
        {"task": "lab-classification", "loss": "rebalanced", **_COLOUR},
    ),
    "best-superres": Preset(
        "twice as large; best with --data crops:FOLDER",
        {"task": "enlarge2", "network": "enlarger", "size": 48, "batch_size": 16, "flips": True, "epochs": 30},
    ),
}
NAMES = tuple(PRESETS)


def complete(first: str, network: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """The settings that the command line means: of a preset, or of a task and a network, and those `given` beside.

    Raises `UserError` for a name that is neither, and for a task without a network.
    """
    if first in PRESETS:
        chosen = dict(PRESETS[first].settings)
        if network is not None:
            chosen["network"] = network
        return chosen | given
    if network is None:
        from . import networks, tasks

        if first in tasks.NAMES:
            raise UserError(f"task {first} needs a NETWORK: {', '.join(networks.NAMES)}")
        raise UserError(
            f"{first!r} is neither a preset ({', '.join(NAMES)}) nor a task ({', '.join(tasks.NAMES)})"
        )
    return {"task": first, "network": network, **given}
