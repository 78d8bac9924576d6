"""The report: its page is whole and stands alone, its sentences follow the numbers, its trainings are kept."""

import base64
import dataclasses
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from colourize import cli, measures, plots, report
from colourize.evaluation import Evaluation
from colourize.files import UserError
from colourize.report import blocks, large, order, regression, results, skips, tuning
from colourize.report.experiment import Experiment
from colourize.report.html import Html, tag
from colourize.report.results import Result, Results, folder_name
from colourize.report.sentences import Score
from colourize.settings import Settings
from colourize.training import load_data

LETTERS = ["A", "B", "C", "D", "E", "F1", "F2", "F3", "F4"]
VOID = {"img", "meta"}


class Page(HTMLParser):
    """Checks that elements nest, and collects them with their text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open and self.open.pop() == name

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, name):
        return [attributes for found, attributes in self.elements if found == name]


@pytest.fixture(scope="module")
def base(small_pictures):
    data = {"data": f"folder:{small_pictures}", "size": 16, "colours": 4, "filters": 4}
    return Settings("classification", "unet", **data, epochs=1, batch_size=18, lr=0.01)


@pytest.fixture(scope="module")
def small():
    """Fewer resamples, rounds and photographs than a report for people has, and no pictures in the runs themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "_RESAMPLES", 20)
        patch.setattr(order, "_ROUNDS", 3)
        patch.setattr(large, "_NAMES", ("cat",))
        patch.setattr(plots, "curves", lambda *args: None)
        patch.setattr(plots, "samples", lambda *args: None)
        yield


@pytest.fixture(scope="module")
def folder(base, small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    report.write(base, folder, device="cpu")
    return folder


@pytest.fixture(scope="module")
def text(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


@pytest.fixture
def made(base, folder):
    """The results of an experiment out of the kept trainings."""
    split = load_data(base)

    def results_of(experiment):
        device = torch.device("cpu")
        kept = {n: results.obtain(s, folder / "runs", split, device, None) for n, s in experiment.runs.items()}
        return Results(kept, split, device)

    return results_of


def test_one_validation_picture_is_refused(base, tmp_path):
    with pytest.raises(UserError, match="by 95 % intervals.* at least 2 validation pictures, not 1 of folder:"):
        report.write(base.replace(limit=1), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_section_is_there_and_in_the_contents(page):
    assert [attributes["id"] for attributes in page.of("section")] == [*map(str.lower, LETTERS), "references"]
    targets = [attributes["href"] for attributes in page.of("a")]
    assert targets == [f"#{attributes['id']}" for attributes in page.of("section")]
    assert len(page.of("details")) == len(LETTERS)


def test_ids_are_unique_and_pictures_have_words(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    pictures = page.of("img")
    assert len(pictures) > 50
    assert all(attributes["alt"].strip() for attributes in pictures)


def test_the_page_needs_nothing_else(page, text):
    assert not {name for name, _ in page.elements} & {"script", "link", "iframe", "object", "base"}
    for _, attributes in page.elements:
        assert attributes.keys().isdisjoint({"srcset", "onload", "action", "style"})
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    drawings = [a["src"].partition("base64,")[2] for a in page.of("img") if "svg" in a["src"][:30]]
    assert drawings
    for drawing in map(base64.b64decode, drawings):
        assert not re.search(rb'(href|src)="(?!#)', drawing)
        assert b"currentColor" in drawing


def test_no_path_of_the_machine_is_on_the_page(text, folder, small_pictures):
    assert str(folder) not in text
    assert str(small_pictures) not in text


def test_each_table_has_the_baselines_and_a_best_value(text):
    for letter in ("a", "b", "c", "f1"):
        section = text.split(f'<section id="{letter}">')[1].split("</section>")[0]
        assert "of the grey level" in section
        assert "<strong>" in section
    section = text.split('<section id="d">')[1].split("</section>")[0]
    assert all(f"{mode} × 4" in section for mode in ("nearest", "bilinear", "bicubic"))


def test_a_report_made_again_trains_nothing(base, folder, text, monkeypatch):
    monkeypatch.setattr(results, "train", lambda *args, **options: pytest.fail("trained again"))
    again = report.write(base, folder, device="cpu").read_text(encoding="utf-8")
    timed = '<section id="f2">'
    assert again.split(timed)[0] == text.split(timed)[0]


@pytest.fixture
def two_trainings(base, monkeypatch):
    """A report of nothing but two trainings, whose settings this is."""
    runs = {"first": base, "second": base.replace(seed=1)}
    experiment = Experiment("X", "Nothing", "None.", runs, lambda results: [])
    monkeypatch.setattr(report, "_PARTS", (SimpleNamespace(experiment=lambda base: experiment),))
    return runs


def test_what_was_interrupted_goes_on(base, two_trainings, small, tmp_path, monkeypatch):
    trained, train = [], results.train

    def interrupted(settings, folder, **options):
        run = train(settings, folder, **options)
        trained.append(folder.name)
        if len(trained) == 2:
            raise KeyboardInterrupt  # trained, but not evaluated
        return run

    monkeypatch.setattr(results, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        report.write(base, tmp_path, device="cpu")
    assert not (tmp_path / "report.html").exists()
    kept = (tmp_path / "runs" / trained[1] / "model.safetensors").read_bytes()
    assert report.write(base, tmp_path, device="cpu").exists()
    assert trained == [*map(folder_name, two_trainings.values()), trained[1]]
    assert (tmp_path / "runs" / trained[1] / "model.safetensors").read_bytes() == kept


def test_a_folder_that_was_hardly_begun_is_begun_again(base, two_trainings, small, tmp_path):
    begun = tmp_path / "runs" / folder_name(base)
    begun.mkdir(parents=True)
    (begun / "palette.npy").write_bytes(b"half")
    assert report.write(base, tmp_path, device="cpu").exists()


def test_the_name_of_a_folder_follows_the_settings_but_not_where_pictures_lie(base):
    assert folder_name(base) == folder_name(base.replace(data_dir="/elsewhere"))
    names = {folder_name(base.replace(**change)) for change in ({}, {"seed": 1}, {"epochs": 7}, {"limit": 9})}
    assert len(names) == 4


def faked(result: Result, **scores: tuple[float, float, float]) -> Result:
    """A result whose network has these scores: value, low, high."""
    found, intervals = result.evaluation.scores, result.evaluation.intervals
    values = {metric: score[0] for metric, score in scores.items()}
    ends = {metric: score[1:] for metric, score in scores.items()}
    evaluation = Evaluation(
        "faked",
        {**found, "network": {**found["network"], **values}},
        {**intervals, "network": {**intervals["network"], **ends}},
    )
    return dataclasses.replace(result, evaluation=evaluation)


@pytest.mark.parametrize(
    ("cnn", "expected"),
    [
        ((0.5, 0.49, 0.51), "Accuracy is higher for UNet, which is better: UNet 60.0% (59.0 to 61.0%)"),
        ((0.7, 0.69, 0.71), "Accuracy is lower for UNet, which is worse: UNet 60.0% (59.0 to 61.0%)"),
        ((0.58, 0.57, 0.595), "No difference in accuracy is shown: UNet 60.0% (59.0 to 61.0%), CNN 58.0%"),
    ],
)
def test_the_sentence_on_skips_follows_the_numbers(base, made, cnn, expected):
    experiment = skips.experiment(base)
    real = made(experiment)
    fakes = {
        **real.of,
        "UNet": faked(real["UNet"], accuracy=(0.6, 0.59, 0.61)),
        "CNN": faked(real["CNN"], accuracy=cnn),
    }
    section = "".join(experiment.blocks(dataclasses.replace(real, of=fakes)))
    assert expected in section


@pytest.mark.parametrize(
    ("loss", "verdict"),
    [
        ((1.0, 0.9, 1.1), "So, by validation loss, “filters 8” is shown to be better than the given setting."),
        ((1.9, 1.8, 2.1), "So, by validation loss, nothing here is shown to be better than the given setting."),
    ],
)
def test_a_hyper_parameter_is_better_only_where_that_is_shown(base, made, loss, verdict):
    experiment = tuning.experiment(base)
    real = made(experiment)
    fakes = {name: faked(result, loss=(2.0, 1.95, 2.05)) for name, result in real.of.items()}
    fakes["filters 8"] = faked(real["filters 8"], loss=loss)
    assert verdict in "".join(experiment.blocks(dataclasses.replace(real, of=fakes)))


def test_the_best_of_a_column_is_bold_and_colourfulness_has_no_best(base, made):
    task = made(skips.experiment(base))["UNet"].run.task
    low, high = Score(1.0, 0.9, 1.1), Score(1.3, 1.2, 1.4)
    rows = {"a": {"loss": low, "psnr": low, "colourfulness": low}, "b": {"loss": high, "psnr": high}, "c": {}}
    found = blocks.score_table(rows, ("loss", "psnr", "ssim", "colourfulness"), task)
    assert re.findall("<strong>(.*?)</strong>", found) == ["1", "1.30 dB"]
    assert "SSIM" not in found
    assert found.count("–") == 4


def test_five_hyper_parameters_are_changed_each_alone(base):
    changes = tuning.changes(base)
    assert len({name for change in changes.values() for name in change}) == 5
    assert all(len(change) == 1 for change in changes.values())


def test_pairs_of_colours_are_equally_far_apart_in_rgb_and_not_to_the_eye():
    (low, high), pairs = regression._unequal_pairs()
    assert high > 3 * low > 0
    for name, shown in pairs.items():
        first, second = shown[..., :12], shown[..., 12:]
        distance = (first - second).square().sum(1).sqrt()
        np.testing.assert_allclose(distance.numpy(), regression._STEP, rtol=1e-5)
        difference = measures.ciede2000(first, second)
        assert abs(difference - (low if name.startswith("least") else high)).max() < (high - low) / 4


def test_text_is_escaped_and_markup_is_not():
    assert tag("p", "1 < 2", Html("<b>&amp;</b>"), class_='a"b') == '<p class="a&quot;b">1 &lt; 2<b>&amp;</b></p>'


def test_budgets():
    assert report.budget("handout") == {"epochs": 25}
    assert report.budget("quick") == {"epochs": 2, "limit": 500}
    assert report.budget("7") == {"epochs": 7}
    for name in ("0", "-1", "slow", ""):
        with pytest.raises(UserError, match="budget must be quick, handout or a number of epochs"):
            report.budget(name)


def test_the_command_names_a_wrong_budget(tmp_path, capsys):
    with pytest.raises(SystemExit, match="1"):
        cli.main(["report", "--budget", "slow", "--out", str(tmp_path)])
    assert "budget must be" in capsys.readouterr().err
