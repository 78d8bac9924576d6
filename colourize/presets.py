"""Settings with a name that says what they are good for: `colourize train PRESET`.

Each is a starting point: whatever is given beside it takes its place.

Those for colour were chosen with the last 500 training horses held out. Without moving the pictures, a colour-unet of
10 epochs knows its training pictures better than others (cross-entropy .733 and .756); moved by up to 3 pixels, it does
not (.750 and .754), and may be trained for longer. A third halving of the picture learns no faster; a moving average of
the weights gains nothing where the rate falls to zero.
After 20 epochs of half the horses it is .732 and .767 again; stretched as well .747 and .766, at half the rate .744 and
.765; all of the horses and 32 epochs so end at .689, and .742 for the test's. The mean with the mirror image gained
.002 in those tries, and makes the .742 .734, for twice the time of a picture. What tells the network the grey more
sharply is learnt by heart: an embedding of the grey level in its place ends at .746 and .768 after 10 epochs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .files import UserError


class Preset(NamedTuple):
    """Settings that differ from their defaults, and what they are for."""

    purpose: str
    settings: dict[str, Any]


_COLOUR = {
    **{"network": "colour-unet", "flips": True, "shifts": 3},
    **{"batch_size": 50, "weight_decay": 0.1, "epochs": 24},
}
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
        "the most right colours out of a palette",
        {"task": "classification", **_COLOUR, "stretches": 2, "lr": 5e-4, "epochs": 32, "mirror": True},
    ),
    "best-mean": Preset("the least error of R, G and B", {"task": "regression", **_COLOUR, "epochs": 14}),
    "vivid-colour": Preset(
        "colours as vivid as the pictures' own, rare ones included",
        {"task": "lab-classification", "loss": "rebalanced", **_COLOUR, "epochs": 8},
    ),
}
_SUPERRES = {"network": "enlarger", "depth": 4, "batch_size": 16, "flips": True, "turns": True, "epochs": 16}
for _name, _factor in {"best-superres": 2, "best-superres3": 3, "best-superres4": 4}.items():
    PRESETS[_name] = Preset(
        f"{_factor} times as large; best with --data crops:FOLDER",
        # crops of 24 × 24 small pixels, and a tenth of the usual rate, as nothing is normalised
        {"task": f"enlarge{_factor}", "size": 24 * _factor, "lr": 1e-4, **_SUPERRES},
    )
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
