"""Sweeps: every combination trained as if alone, skipped when finished, named when it fails, compared in one table."""

import csv
import re
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from colourize import cli, training
from colourize.evaluation import evaluate
from colourize.files import UserError
from colourize.runs import Run
from colourize.settings import Settings
from colourize.step import Step
from colourize.sweeps import Plan, Sweep, read_values
from colourize.sweeps.scores import Scores

FIXED = {"task": "classification", "network": "cnn"}
RUNS = ["lr=0.01,filters=2", "lr=0.01,filters=3", "lr=0.001,filters=2", "lr=0.001,filters=3"]


@pytest.fixture(scope="module")
def options(small_pictures):
    """Options of trainings that take a moment each."""
    network = "--size 16 --batch-size 12 --epochs 2"
    return ["--data", f"folder:{small_pictures}", *network.split()]


@pytest.fixture(scope="module")
def swept(options, tmp_path_factory):
    """The folder of a finished sweep of four runs."""
    folder = tmp_path_factory.mktemp("sweep") / "sweep"
    vary = ["--vary", "lr=1e-2,1e-3", "--vary", "filters=2,3"]
    with pytest.raises(SystemExit, match="0"):
        cli.main(["sweep", "classification", "cnn", *options, *vary, "--out", str(folder)])
    return folder


def table(folder):
    rows = csv.DictReader((folder / "sweep.csv").read_text().splitlines())
    return {row["run"]: row for row in rows}


def models(folder):
    return {path.parent.name: path.read_bytes() for path in folder.glob("*/model.safetensors")}


def test_values_have_the_type_of_their_setting():
    found = read_values(["lr=1e-3, 1", "kernel-size=3,5", "order=norm-relu-resize,resize-norm-relu", "temperature=0"])
    order = ["norm-relu-resize", "resize-norm-relu"]
    assert found == {"lr": [0.001, 1.0], "kernel_size": [3, 5], "order": order, "temperature": [0.0]}
    assert [type(values[0]) for values in found.values()] == [float, int, str, float]


@pytest.mark.parametrize("setting", [name for name in vars(Settings(**FIXED)) if name not in FIXED])
def test_every_setting_can_be_varied(setting):
    valid = {"size": "32,64", "kernel_size": "3,5", "order": "norm-relu-resize", "loss": "cross-entropy"}
    valid |= {"schedule": "constant,cosine", "flips": "true,no", "turns": "true,no", "mirror": "true,no"}
    valid |= {"precision": "fp32,bf16", "space": "rgb,lab"}
    valid |= dict.fromkeys(("data", "data_dir", "class_name", "palette"), "a,b")
    network = "enlarger" if setting == "depth" else "cnn"
    fixed = {"task": "enlarge2" if setting == "depth" else "classification", "network": network}
    valid |= {"loss_layers": "relu1_2,relu1_2+relu2_2", "loss_weights": "a,b"}
    vary = read_values([f"{setting}={valid.get(setting, '2,3')}"])
    plan = Plan(fixed, vary)
    assert [getattr(settings, setting) for settings in plan.runs.values()] == vary[setting]


def test_all_combinations_or_one_to_one():
    vary = {"lr": [0.01, 1e-5], "filters": [16, 32]}
    grid = Plan(FIXED, vary)
    assert list(grid.runs) == ["lr=0.01,filters=16", "lr=0.01,filters=32", "lr=1e-05,filters=16", "lr=1e-05,filters=32"]
    assert grid.runs["lr=1e-05,filters=32"] == Settings(**FIXED, lr=1e-5, filters=32)
    assert list(Plan(FIXED, vary, paired=True).runs) == ["lr=0.01,filters=16", "lr=1e-05,filters=32"]


def test_names_of_runs_are_names_of_folders_and_tell_them_apart():
    plan = Plan(FIXED, {"data": ["folder:a/b", "photos"], "lr": [0.123456789, 0.12345678]})
    assert list(plan.runs)[:2] == ["data=folder-a-b,lr=0.123456789", "data=folder-a-b,lr=0.12345678"]
    with pytest.raises(UserError, match="two runs would be called data=folder-a-b"):
        Plan(FIXED, {"data": ["folder:a/b", "folder:a-b"]})


def test_a_plan_survives_its_file(tmp_path):
    fixed = {**FIXED, "data": 'folder:"ü\\\n', "lr": 1e-5}
    plan = Plan(fixed, {"epochs": [1, 2], "schedule": ["constant", "cosine"]}, paired=True)
    plan.save(tmp_path / "sweep.toml")
    assert Plan.load(tmp_path / "sweep.toml") == plan
    for damaged in ("paired", "paired = true", "paired = true\n[fixed]\n[vary]\nlr = 3", "x = 1\n[vary]"):
        (tmp_path / "sweep.toml").write_text(damaged)
        with pytest.raises(UserError, match=r"sweep\.toml does not hold a sweep"):
            Plan.load(tmp_path / "sweep.toml")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cnn --vary speed=1,2", "'speed' is unknown; known are task, network, data.*seed"),
        ("cnn --vary filters=16,many", "filters must be a whole number, not 'many'"),
        ("cnn --vary filters=1.5", "filters must be a whole number"),
        ("cnn --vary lr=fast", "lr must be a number"),
        ("cnn --vary lr=1e-3,-1", "lr=-1: lr must be a positive number"),
        ("cnn --vary lr=1,2 --vary lr=3", "lr is varied twice"),
        ("cnn --vary lr=1e-3,0.001", "lr is varied over 0.001 twice"),
        ("cnn --lr 1 --vary lr=1,2", "lr is both fixed, to 1.0, and varied"),
        ("cnn --vary lr", "'lr' is not of the form"),
        ("cnn --vary lr=1,", "'lr=1,' is not of the form"),
        ("cnn", "nothing to vary"),
        ("cnn --vary task=regression", "leave out --vary task"),
        ("cnn --vary network=unet", "leave out --vary network"),
        ("cnn,resnet", "network=resnet: network 'resnet' is unknown"),
        ("cnn --list --vary lr=1,2 --vary filters=3", "lr has 2, filters has 1"),
        ("cnn --vary order=a", "order must be one of norm-relu-resize"),
        ("cnn --vary seed=" + ",".join(map(str, range(101))), "101 runs, more than 100: say --yes"),
        ("cnn --data nowhere --vary lr=1,2", "nowhere"),
        ("cnn --device warp --vary lr=1,2", "warp"),
        ("cnn --resume --vary lr=1,2", "runs/sweep-classification-cnn holds no sweep"),
    ],
)
def test_bad_input_is_refused_before_any_work(colourize, tmp_path, monkeypatch, line, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = colourize(f"sweep classification {line}")
    assert (code, len(err.splitlines())) == (1, 1)
    assert re.search(words, err)
    assert list(tmp_path.iterdir()) == []


def test_what_a_sweep_leaves(swept):
    left = {path.name for path in swept.iterdir()}
    assert left == {"sweep.toml", "sweep.csv", "sweep.md", "curves.png", "samples.png", *RUNS}
    for name in ("curves.png", "samples.png"):
        with Image.open(swept / name) as picture:
            assert picture.width > 600 and np.asarray(picture.convert("L")).std() > 10


def test_every_run_is_what_train_makes_of_its_settings(swept, tmp_path):
    settings = Sweep.resume(swept, {}, {}).plan.runs[RUNS[1]]
    training.train(settings, tmp_path / "alone")
    assert (tmp_path / "alone" / "model.safetensors").read_bytes() == models(swept)[RUNS[1]]


def test_table_holds_the_metrics_of_the_runs_and_baselines(swept):
    rows = table(swept)
    assert list(rows)[:4] == RUNS
    for name in RUNS:
        metrics = list(csv.DictReader((swept / name / "metrics.csv").read_text().splitlines()))
        best = min(metrics, key=lambda row: float(row["validation_loss"]))
        assert [rows[name][key] for key in ("lr", "filters")] == re.findall(r"=([^,]+)", name)
        assert (rows[name]["epochs"], rows[name]["best_epoch"]) == ("2", best["epoch"])
        for metric in ("loss", "accuracy", "psnr"):
            assert rows[name][f"last_{metric}"] == metrics[-1][f"validation_{metric}"]
            assert rows[name][f"best_{metric}"] == best[f"validation_{metric}"]
        assert float(rows[name]["images_per_second"]) > 0
    run = Run.open(swept / RUNS[0])
    result = evaluate(run, training.load_data(run.settings))
    for name in ("the grey itself", "most frequent colour of the grey level"):
        for metric, value in result.scores[name].items():
            if metric in ("loss", "accuracy", "psnr"):
                assert float(rows[name][f"last_{metric}"]) == pytest.approx(value, rel=1e-5)
    assert len(rows) == 6


def test_best_values_are_bold(swept):
    rows = [line.strip("| ").split(" | ") for line in (swept / "sweep.md").read_text().splitlines() if " | " in line]
    assert rows[0] == ["run", "epoch", "cross-entropy", "accuracy", "PSNR", "images/s"]
    scores = table(swept)
    lowest = min(RUNS, key=lambda name: float(scores[name]["last_loss"]))
    highest = max(RUNS, key=lambda name: float(scores[name]["last_psnr"]))
    bold = {(row[0], column) for row in rows for column in (2, 4) if row[column].startswith("**") and "=" in row[0]}
    assert bold == {(lowest, 2), (highest, 4)}


def test_resuming_skips_what_is_finished_and_adds_values(colourize, options, swept, tmp_path):
    shutil.copytree(swept, tmp_path, dirs_exist_ok=True)
    (tmp_path / RUNS[1] / "metrics.csv").write_text("torn")  # goes on from its checkpoint
    (tmp_path / RUNS[2] / "settings.toml").unlink()  # never began
    for path in (tmp_path / RUNS[2]).iterdir():
        if path.name != "palette.npy":
            path.unlink()
    before = (tmp_path / RUNS[0] / "model.safetensors").stat().st_mtime_ns
    speed = table(swept)[RUNS[0]]["images_per_second"]
    code, out, _ = colourize("sweep classification cnn --resume --vary lr=1e-4,1e-3 --vary filters=2 --out", tmp_path)
    assert code == 0
    assert f"run 1/6  {RUNS[0]}: finished" in out and f"run 2/6  {RUNS[1]}\n" in out
    assert (tmp_path / RUNS[0] / "model.safetensors").stat().st_mtime_ns == before
    assert {name: models(tmp_path)[name] for name in RUNS} == models(swept)
    rows = table(tmp_path)
    assert list(rows)[4:6] == ["lr=0.0001,filters=2", "lr=0.0001,filters=3"]
    assert rows[RUNS[0]]["images_per_second"] == speed
    for line, words in [
        ("--epochs 3", "epochs was 2 when the sweep was begun, not 3"),
        ("--lr 0.1", "lr is varied in this sweep, over 0.01, 0.001, 0.0001, and cannot be fixed"),
        ("--vary seed=1", "seed is not varied in this sweep, only lr, filters"),
        ("--list", "without --list"),
    ]:
        code, _, err = colourize(f"sweep classification cnn --resume {line} --out", tmp_path)
        assert (code, len(err.splitlines())) == (1, 1)
        assert words in err
    code, _, err = colourize("sweep classification cnn --vary lr=1e-2,1e-3 --out", tmp_path)
    assert code == 1 and "already holds a sweep" in err


def test_a_damaged_run_is_named(swept, tmp_path):
    shutil.copytree(swept, tmp_path / "sweep")
    (tmp_path / "sweep" / RUNS[0] / "settings.toml").write_text("epochs = ")
    sweep = Sweep.resume(tmp_path / "sweep", {}, {})
    errors = [result.error for result in sweep.train()]
    assert "does not hold the settings of a run" in errors[0]
    assert errors[1:] == [None, None, None]


def test_pairs_are_added_as_pairs():
    plan = Plan(FIXED, {"lr": [1.0, 2.0], "filters": [1, 2]}, paired=True)
    more = plan.extended({}, {"filters": [2, 3], "lr": [2.0, 2.0]})
    assert list(more.runs) == ["lr=1,filters=1", "lr=2,filters=2", "lr=2,filters=3"]
    with pytest.raises(UserError, match="give lr too"):
        plan.extended({}, {"filters": [3]})


def test_foreign_files_are_never_removed(tiny, tmp_path):
    plan = Plan(FIXED | {"data": tiny.data, "size": 16, "epochs": 1}, {"filters": [2]})
    sweep = Sweep.begin(tmp_path / "sweep", plan)
    sweep.results[0].folder.mkdir(parents=True)
    (sweep.results[0].folder / "notes.txt").write_text("mine")
    [result] = sweep.train()
    assert "not an empty folder" in result.error
    assert (result.folder / "notes.txt").read_text() == "mine"


def test_a_run_that_fails_is_named_and_the_others_go_on(colourize, options, tmp_path):
    line = "sweep regression regression-cnn --filters 2 --vary lr=1e30,1e-3 --schedule constant --out"
    code, out, err = colourize(line, tmp_path / "sweep", *options)
    assert code == 1 and "Traceback" not in err
    rows = table(tmp_path / "sweep")
    assert re.search("failed: the loss became (nan|inf) in epoch", rows["lr=1e+30"]["note"])
    assert (rows["lr=0.001"]["note"], rows["lr=0.001"]["epochs"]) == ("", "2")
    assert re.search(r"lr=1e\+30 – failed", out)
    assert "lr=1e+30 – failed" in (tmp_path / "sweep" / "sweep.md").read_text()
    assert {"mean colour of the grey level", "the grey itself"} <= rows.keys()


def test_ctrl_c_says_how_to_go_on_and_the_end_is_the_same(colourize, options, swept, tmp_path, monkeypatch):
    begin, steps = Step._set_rate, iter(range(10**9))

    def disturbed(self, lr):
        if next(steps) == 8:  # 36 pictures in batches of 12, 2 epochs: in the second run
            signal.raise_signal(signal.SIGINT)
        begin(self, lr)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "_set_rate", disturbed)
        line = "sweep classification cnn --vary lr=1e-2,1e-3 --vary filters=2,3 --out"
        code, out, err = colourize(line, tmp_path / "sweep", *options)
    assert code == 130
    assert re.search(f"\n  {RUNS[0]}  +2 ", out)
    assert re.search(rf"{RUNS[1]} –[\s–]*not begun", out)  # a narrow table wraps it
    command = err.split("go on with: colourize ")[1].strip()
    assert command.endswith("--resume")
    assert colourize(command)[0] == 0
    assert models(tmp_path / "sweep") == models(swept)


def test_what_is_not_drawn_yet_is_not_named(colourize, options, tmp_path, monkeypatch):
    monkeypatch.setattr(Step, "_set_rate", lambda *_: signal.raise_signal(signal.SIGINT))
    code, out, _ = colourize("sweep classification cnn --vary lr=1e-2,1e-3 --out", tmp_path / "sweep", *options)
    assert code == 130
    assert out.endswith(f"files: {tmp_path / 'sweep'}: sweep.csv, sweep.md\n")


def test_several_networks_and_their_own_baselines(tiny, tmp_path):
    """Seeds divide a folder, and so decide the baselines; networks do not."""
    fixed = {"task": "regression", "data": tiny.data, "size": 16, "epochs": 1, "filters": 2, "batch_size": 12}
    sweep = Sweep.begin(tmp_path / "sweep", Plan(fixed, {"network": ["cnn", "unet"], "seed": [0, 1]}))
    scores = Scores(sweep)
    for _ in sweep.train():
        scores.update()
    names = [row.name for row in scores.baselines]
    assert names[:2] == ["the grey itself, seed=0", "the grey itself, seed=1"]
    assert len(names) == 4
    assert scores.title == "regression: network × seed, 4 runs"
    scores.runs[0].scores["last", "psnr"] = float("nan")
    scores.runs[1].competes = False
    left = [row.scores["last", "psnr"] for row in scores.runs[2:]]
    assert scores.best("last", "psnr") == max(left)
