"""The commands, as people type them: what they print, what they leave behind, how they end."""

import io
import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from colourize import __version__, checkpoint, cli, demo, tasks
from colourize.data import photos
from colourize.palette import Palette
from colourize.runs import Run

COMMANDS = (
    *("train", "sweep", "evaluate", "apply", "activations", "report", "export", "serve", "palette fit"),
    *("palette show", "info", "demo"),
)


@pytest.fixture(scope="module")
def options(small_pictures):
    """Options of a training that takes a second."""
    network = "--size 16 --filters 4 --batch-size 9 --epochs 2"
    return ["--data", f"folder:{small_pictures}", *network.split()]


@pytest.fixture(scope="module")
def run(options, tmp_path_factory):
    """The folder of a trained run."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    with pytest.raises(SystemExit, match="0"):
        cli.main(["train", "classification", "unet", *options, "--out", str(folder)])
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(colourize, command):
    code, out, _ = colourize(f"{command} --help")
    assert code == 0
    assert f"Example: colourize {command}" in out


def test_training_leaves_a_run_and_a_summary(colourize, options, tmp_path):
    code, out, _ = colourize("train regression regression-cnn --out", tmp_path / "run", *options)
    assert code == 0
    assert "epoch   1/2" in out
    assert re.search(r"[\d,]+ images/s \([\d,]+ with validation and saving\)", out)
    assert "model.safetensors, best.safetensors" in out
    assert re.search(r"best epoch, [12]", out)
    assert (tmp_path / "run" / "metrics.csv").read_text().startswith("epoch,train_loss,validation_loss,")


def test_precision_is_recorded(colourize, options, tmp_path):
    command = "train classification unet --precision bf16 --device cpu --out"
    code, out, _ = colourize(command, tmp_path / "run", *options)
    assert code == 0
    assert "seed 0, bf16" in out
    assert 'precision = "bf16"' in (tmp_path / "run" / "settings.toml").read_text()


def test_second_training_is_refused_and_resuming_goes_on(colourize, options, run):
    before = (run / "metrics.csv").read_bytes()
    code, _, err = colourize("train classification unet --out", run, *options)
    assert (code, len(err.splitlines())) == (1, 1)
    assert "already holds a run" in err
    assert (run / "metrics.csv").read_bytes() == before
    code, out, _ = colourize("train classification unet --resume --epochs 3 --out", run)
    assert code == 0
    assert "epoch   3/3" in out
    assert "epoch   2/3" not in out
    assert (run / "metrics.csv").read_bytes().startswith(before)


def test_ctrl_c_says_how_to_go_on(colourize, options, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tasks.Classification, "loss", lambda *_: signal.raise_signal(signal.SIGINT))
        code, _, err = colourize("train classification unet --out", tmp_path / "run", *options)
    assert code == 130
    command = err.split("go on with: colourize ")[1].strip()
    assert command.startswith("train classification unet") and command.endswith("--resume")
    code, out, _ = colourize(command)
    assert code == 0
    assert "epoch   2/2" in out


def test_evaluation_as_a_table_and_as_json(colourize, run):
    code, out, _ = colourize("evaluate", run)
    assert code == 0
    assert "network" in out and "most frequent colour of the grey level" in out
    assert "The network loses to" in out
    code, out, _ = colourize("evaluate --json", run)
    result = json.loads(out)
    assert code == 0
    network = result["scores"]["network"]
    assert network.keys() == {"loss", "accuracy", "psnr", "ssim", "ciede2000", "colourfulness", "top-5"}
    low, high = result["intervals"]["network"]["psnr"]
    assert low <= network["psnr"] <= high
    assert {"score": "psnr", "baseline": "most frequent colour of the grey level"} in result["loses_to"]


def test_best_weights_on_demand(colourize, run, small_pictures, tmp_path):
    """A copy of the run whose best weights are another network's."""
    for path in run.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    network = Run.open(run).create_network()
    checkpoint.save(tmp_path / "best.safetensors", network.state_dict(), {})
    plain = colourize("evaluate --json", tmp_path)[1]
    assert colourize("evaluate --json --weights last", tmp_path)[1] == plain
    code, out, _ = colourize("evaluate --json --weights best", tmp_path)
    assert code == 0
    assert json.loads(out)["scores"]["network"] != json.loads(plain)["scores"]["network"]
    made = [
        colourize(f"apply --weights {which} --out", tmp_path / which, tmp_path, small_pictures / "00.png")
        for which in ("last", "best")
    ]
    assert [code for code, *_ in made] == [0, 0]
    last, best = ((tmp_path / which / "00-colour.png").read_bytes() for which in ("last", "best"))
    assert last != best


def test_threads_are_set(colourize, run, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    assert colourize("evaluate --threads 3", run)[0] == 0
    assert asked == [3]


def test_damaged_model_is_named(colourize, run, tmp_path):
    for name in ("settings.toml", "palette.npy", "model.safetensors"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:-5])
    for command in ("evaluate", "apply"):
        code, _, err = colourize(command, tmp_path, *(["x.png"] if command == "apply" else []))
        assert (code, len(err.splitlines())) == (1, 1)
        assert f"{tmp_path / 'model.safetensors'}" in err and "damaged" in err


def test_apply_does_what_it_can_and_names_the_rest(colourize, run, small_pictures, tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    good = [small_pictures / "00.png", small_pictures / "01.png"]
    bad = [tmp_path / "text.png", tmp_path / "none.png"]
    code, out, err = colourize("apply --out", tmp_path / "out", run, good[0], *bad, good[1])
    assert code == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00-colour.png", "01-colour.png"]
    assert str(tmp_path / "out" / "01-colour.png") in out
    assert [line.split(":")[1] for line in err.splitlines()] == [f" cannot read {path}" for path in bad]
    assert colourize("apply --overwrite --out", tmp_path / "out", run, small_pictures / "00.png")[0] == 0


def test_apply_goes_on_after_a_name_that_is_too_long(colourize, run, small_pictures, tmp_path):
    """As long as a file's may be: that of the result would be longer."""
    long = shutil.copy(small_pictures / "00.png", tmp_path / ("x" * 251 + ".png"))
    code, out, err = colourize("apply --out", tmp_path / "out", run, long, small_pictures / "01.png")
    assert code == 1
    assert "01-colour.png" in out and "File name too long" in err


def test_evaluate_says_that_its_defaults_are_those_of_the_run(colourize):
    out = colourize("evaluate --help")[1]
    assert out.count("(default: the run's)") == 3


def test_apply_makes_no_picture_twice(colourize, run, small_pictures, tmp_path):
    """Two pictures may differ in their suffix alone."""
    with Image.open(small_pictures / "00.png") as picture:
        picture.save(tmp_path / "00.bmp")
    for _ in range(2):
        code, out, err = colourize(
            "apply --overwrite --out", tmp_path / "out", run, small_pictures / "00.png", tmp_path / "00.bmp"
        )
        assert (code, len(out.splitlines())) == (1, 1)
        assert f"{tmp_path / '00.bmp'}: {tmp_path / 'out' / '00-colour.png'} was made just now" in err


def test_a_name_that_cannot_be_printed_ends_nothing(colourize, run, small_pictures, tmp_path, monkeypatch):
    """In a terminal of UTF-8, a name from days before it; and any name in one that lacks its letters."""
    for encoding, name in (("utf-8", "caf\udce9.png"), ("ascii", "café.png")):
        content = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(content, encoding, errors="strict", write_through=True))
        (tmp_path / name).write_bytes((small_pictures / "00.png").read_bytes())
        code, *_ = colourize("apply --out", tmp_path / encoding, run, tmp_path / name, small_pictures / "01.png")
        assert code == 0
        assert sorted(path.name for path in (tmp_path / encoding).iterdir())[0] == "01-colour.png"
        assert rb"\udce9.png" in content.getvalue() or rb"caf\xe9.png" in content.getvalue()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full, a disk that is always full, is not here")
@pytest.mark.parametrize("command", ["evaluate", "evaluate --json"])
def test_output_to_a_full_disk_is_named(colourize, run, monkeypatch, command):
    with open("/dev/full", "wb", 0) as full:
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(full, "utf-8", write_through=True))
        code, _, err = colourize(command, run)
        monkeypatch.undo()
    assert (code, err) == (1, "colourize: cannot write the output: No space left on device\n")


def test_reducing_an_enlargement_is_refused(colourize, options, tmp_path, small_pictures):
    assert colourize("train superres cnn --out", tmp_path / "run", *options)[0] == 0
    code, _, err = colourize("apply --reduce 2", tmp_path / "run", small_pictures / "00.png")
    assert code == 1
    assert "--reduce 2" in err and "superres" in err


def test_enlarging_is_evaluated_on_whole_pictures_without_those_of_the_training(colourize, tmp_path, small_pictures):
    pictures = tmp_path / "pictures"
    shutil.copytree(small_pictures, pictures)
    options = "--size 8 --limit 4 --filters 4 --depth 1 --epochs 1 --batch-size 4"
    line = f"train enlarge2 enlarger {options} --data crops:{pictures} --out"
    assert colourize(line, tmp_path / "run")[0] == 0
    shutil.rmtree(pictures)
    assert colourize("evaluate", tmp_path / "run", "--whole", small_pictures)[0] == 0
    code, _, err = colourize("evaluate --limit 3", tmp_path / "run", "--whole", small_pictures)
    assert code == 1
    assert "--limit 3 is for tasks other than enlarge2, where there is --whole, and would change nothing" in err
    assert colourize("evaluate", tmp_path / "run")[0] == 1


def test_palettes(colourize, options, tmp_path):
    file = tmp_path / "palette.npy"
    code, out, _ = colourize("palette fit --colours 5 --out", file, *options[:4])
    assert code == 0
    assert out.count("#") == len(Palette.load(file)) == 5
    assert colourize("palette fit --colours 5 --out", file, *options[:4])[0] == 1
    assert colourize("palette show", file)[:2] == (0, out)
    code, other, _ = colourize("palette fit --colours 5 --space lab --out", tmp_path / "lab.npy", *options[:4])
    assert code == 0
    assert other != out


def test_version(colourize):
    assert colourize("--version") == (0, f"colourize {__version__}\n", "")


def test_info(colourize):
    code, out, _ = colourize("info unet --in-channels 3")
    assert code == 0
    assert "113,352" in out
    code, out, _ = colourize("info")
    assert code == 0
    assert torch.__version__ in out
    assert "training in" in out and "--precision fp32 | tf32 | bf16" in out


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("train classification resnet", 1, "'resnet'.*unet"),
        ("train painting unet", 1, "'painting'.*superres"),
        ("train classification unet --epochs 0", 1, "epochs.*0"),
        ("train classification unet --epochs many", 2, "--epochs"),
        ("train classification unet --schedule linear", 1, "'linear'"),
        ("train classification unet --precision half", 1, "'half'"),
        ("train classification unet --precision tf32 --device cpu", 1, "tf32 needs a CUDA device"),
        ("train classification unet --threads 0", 2, "--threads"),
        ("train classification unet --threads 100000", 2, "--threads"),
        ("train classification unet --device meta", 1, "meta cannot be used"),
        ("train classification unet --data folder:caf\udce9", 1, "data must be in UTF-8"),
        ("evaluate --weights first nowhere", 2, "--weights"),
        ("train classification unet --data nowhere", 1, "nowhere.*photos"),
        ("train classification unet --resume --out nowhere", 1, "nowhere holds no run"),
        ("train classification unet --device warp", 1, "warp"),
        ("evaluate nowhere", 1, "nowhere holds no run"),
        ("evaluate " + "x" * 300, 1, "cannot use x+.*: File name too long"),
        ("train regression cnn --data folder:" + "x" * 300, 1, "cannot use x+: File name too long"),
        ("info resnet", 1, "'resnet'"),
        ("palette show nowhere.npy", 1, "nowhere.npy"),
        ("palette fit --data folder:nowhere --out palette.txt", 1, "cannot write palette.txt: a palette is saved as"),
        ("paint", 2, "paint"),
    ],
)
def test_errors_are_clear_and_end_with_their_code(colourize, tmp_path, monkeypatch, line, code, words):
    monkeypatch.chdir(tmp_path)
    ended, _, err = colourize(line)
    assert ended == code
    assert "Traceback" not in err
    assert re.search(words, err)
    assert list(tmp_path.iterdir()) == []


def test_demo_makes_its_picture(monkeypatch, tmp_path):
    crops = photos.load(size=16, seed=0).limited(40)
    monkeypatch.setattr("colourize.data.load", lambda *_, **__: crops)
    tiny = demo.SETTINGS.replace(filters=4, epochs=1, size=16, batch_size=20)
    path = demo.demo(tmp_path / "demo", settings=tiny)
    with Image.open(path) as picture:
        pixels = np.asarray(picture).astype(int)
    assert pixels.shape[1] > 1000
    third = pixels.shape[0] // 3
    saturation = [np.ptp(pixels[n * third : (n + 1) * third], axis=2).mean() for n in range(3)]
    assert saturation[0] < 1 < saturation[1]
    assert demo.demo(tmp_path / "demo", settings=tiny) == path


def test_a_demo_that_is_interrupted_says_how_to_go_on(colourize, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "train", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    code, _, err = colourize("demo --out", tmp_path / "demo")
    assert code == 130
    assert f"kept in {tmp_path / 'demo'}; the same command goes on" in err
