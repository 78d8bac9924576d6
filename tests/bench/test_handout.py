"""The table of the handout's trainings says what was trained, what it came to, and whether that is enough."""

import pytest

from bench.handout import _table, collect
from colourize.files import UserError
from colourize.settings import Settings


def run(losses, accuracies, **settings):
    known = {"task": "classification", "network": "unet", "schedule": "cosine", "lr": 1e-3, "seed": 4}
    rows = zip(losses, accuracies, strict=True)
    metrics = [{"validation_loss": loss, "validation_accuracy": accuracy} for loss, accuracy in rows]
    scores = {"network": {}, "a table": {"loss": 0.5, "accuracy": 0.64, "psnr": 24.0}}
    return {"settings": known | settings, "metrics": metrics, "scores": scores}


@pytest.mark.parametrize(
    ("loss", "accuracy", "verdict"), [(1.349, 0.48, "yes"), (1.35, 0.48, "no"), (1.3, 0.4799, "no")]
)
def test_last_epoch_is_what_counts(loss, accuracy, verdict):
    table = "\n".join(_table([run([1.2, loss], [0.5, accuracy])], "2000-01-01"))
    figures = f"{loss:.4g} | {100 * accuracy:.1f} % | 1.349 | 48.0 % | {verdict} | 1.2 | 50.0 % |"
    assert f"| classification, unet | cosine, lr 0.001 | 2 | 4 | {figures}" in table
    assert "| classification | a table | 0.5 | 64.0 % | 24.00 dB |" in table


def test_a_run_beside_which_nothing_was_published_is_refused(tmp_path):
    Settings("lab-regression", "unet").save(tmp_path / "settings.toml")
    with pytest.raises(UserError, match="is lab-regression, unet, of which the handout published nothing; .*cnn"):
        collect([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()
