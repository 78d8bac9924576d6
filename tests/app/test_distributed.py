"""Several processes train what one would have trained, resume to the bit, and end together when one of them does."""

import csv
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from processes import Processes, launch, options

from colourize import checkpoint, cli, distributed, networks, sharing, tasks, training
from colourize import step as steps
from colourize.data import TensorImages
from colourize.distributed import SaidElsewhere, World
from colourize.examples import Examples
from colourize.files import UserError
from colourize.runs import CHECKPOINTS, WEIGHTS
from colourize.training import train

FILES = {"settings.toml", "palette.npy", "metrics.csv", "curves.png", "samples.png", *CHECKPOINTS, *WEIGHTS.values()}


def metrics(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def eights(tiny):
    """36 pictures in batches of 8: the last one has 4."""
    return tiny.replace(batch_size=8, epochs=2, schedule="constant")


@pytest.fixture(scope="module")
def two(eights, tmp_path_factory):
    """The run of two processes, by torchrun, and what these said."""
    out = tmp_path_factory.mktemp("two") / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line = [*torchrun, "-m", "colourize", *options(eights, out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return out, subprocess.run(line, env=environment, capture_output=True, text=True, timeout=200)


def test_two_processes_have_the_losses_of_one(eights, two, tmp_path):
    folder, done = two
    assert done.returncode == 0, done.stderr
    assert len(re.findall("epoch +2/2", done.stdout)) == len(re.findall("last epoch, 2", done.stdout)) == 1
    assert {path.name for path in folder.iterdir()} == FILES
    train(eights, tmp_path / "run")
    for ours, theirs in zip(metrics(folder), metrics(tmp_path / "run"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_checkpoint_is_that_of_one_process(eights, two, tmp_path):
    """Same names, shapes and layouts; one process can go on with it."""
    folder, _ = two
    train(eights, tmp_path / "one")
    for name in (*CHECKPOINTS, *WEIGHTS.values()):
        ours, theirs = (checkpoint.load(path / name)[0] for path in (folder, tmp_path / "one"))
        assert {n: (t.dtype, t.shape) for n, t in ours.items()} == {n: (t.dtype, t.shape) for n, t in theirs.items()}
    run = train(eights.replace(epochs=3), folder, resume=True)
    assert [row["epoch"] for row in run.metrics] == [1, 2, 3]


def check_resumption(settings, folder):
    with distributed.joined(1) as world:
        train(settings, folder / "whole", world=world)
        train(settings.replace(epochs=1), folder / "parts", world=world)
        train(settings, folder / "parts", resume=True, world=world)


def test_resumed_by_as_many_processes_is_the_same_to_the_bit(eights, tmp_path):
    """Three, so that sums of floats depend on their order; 10 pictures in batches of 9, so that the last has one."""
    processes = Processes(3, tmp_path, check_resumption, eights.replace(batch_size=9, limit=10), tmp_path)
    assert processes.codes() == [0, 0, 0], processes.printed()
    for name in ("metrics.csv", *CHECKPOINTS, *WEIGHTS.values()):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name


def check_steps():
    """A few steps of SGD, on batches whose shares are equal, unequal, and not to be had."""
    random = torch.Generator().manual_seed(0)
    images = TensorImages(torch.randint(0, 256, (20, 3, 16, 16), dtype=torch.uint8, generator=random))
    with distributed.joined(1) as world:
        for name in ("unet", "conv-transpose-unet"):  # fused blocks, and plain modules
            task = tasks.kind("regression")()
            examples, made = Examples(images, task), []
            for kind in (steps.Step, sharing.SharedStep):
                torch.manual_seed(0)
                network = networks.create(name, filters=4, **task.network_settings)
                optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
                more = {"world": world} if kind is sharing.SharedStep else {}
                made.append((network, kind(network, optimizer, task, examples, "fp32", **more)))
            (one, alone), (many, shared) = made
            for indices in (torch.arange(6), torch.arange(6, 11), torch.arange(11, 13), torch.tensor([5])):
                for step in (alone, shared):
                    step.network.train()
                    step(indices, 0.1)
                for ours, theirs in zip(many.state_dict().values(), one.state_dict().values(), strict=True):
                    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
            assert shared.total() == pytest.approx(alone.total(), rel=1e-6)
            mine = [tensor.tolist() for tensor in many.state_dict().values()]
            assert all(mine == theirs for theirs in world.gathered(mine))  # every process has the same bits


def check_talk():
    with distributed.joined(1) as world:
        assert world.from_first(lambda: f"made by {world.rank}") == "made by 0"
        assert world.gathered(world.rank) == [0, 1, 2]
        assert torch.equal(torch.cat(world.gathered(world.share(torch.arange(7)))), torch.arange(7))
        assert sum(world.gathered(world.first_to_say("good morning"))) == 1
        with pytest.raises(UserError, match=r"no disk \(process 1 of 3, on "), world.together():
            if world.rank == 1:
                raise UserError("no disk")
        with pytest.raises(UserError if world.rank == 0 else SaidElsewhere, match="no disk$"), world.together():
            raise UserError("no disk")


@pytest.mark.parametrize("check", [check_steps, check_talk])
def test_three_processes(check, tmp_path):
    processes = Processes(3, tmp_path, check)
    assert processes.codes() == [0, 0, 0], processes.printed()


def begun(processes, folder):
    """Waits for the first finished epoch."""
    end = time.monotonic() + 120
    while not (folder / "metrics.csv").exists():
        assert time.monotonic() < end and all(process.is_alive() for process in processes.all), processes.printed()
        time.sleep(0.05)


def test_when_one_process_dies_the_other_ends_and_the_run_goes_on(eights, tmp_path):
    folder = tmp_path / "run"
    processes = launch(2, eights.replace(epochs=5000), folder)
    begun(processes, folder)
    processes.all[1].kill()
    assert processes.codes() == [1, -signal.SIGKILL]
    said = processes.printed()[0]
    assert said.count("another process of this training has ended") == 1 and "--resume" in said
    assert "Traceback" not in said
    assert not list(folder.glob(".*"))  # nothing half-written
    done = len(metrics(folder))
    again = launch(2, eights.replace(epochs=done + 1), folder, TORCHELASTIC_RESTART_COUNT="1")  # as by --max-restarts
    assert again.codes() == [0, 0], again.printed()
    assert len(metrics(folder)) == done + 1


def test_sigterm_ends_all_with_the_way_to_go_on(eights, tmp_path):
    folder = tmp_path / "run"
    processes = launch(2, eights.replace(epochs=5000), folder)
    begun(processes, folder)
    for process in processes.all:
        process.terminate()
    assert processes.codes()[0] == 128 + signal.SIGTERM
    said = processes.printed()[0]
    assert "Stopped by SIGTERM" in said and "--resume" in said and "Traceback" not in said
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 7}, "7 cannot be shared equally among 2: choose a multiple of 2, such as 6 or 8"),
        ({"colours": 1}, "colours must be at least 2"),
        ({"data": "folder:/nowhere"}, "no such folder"),
        ({"lr": "1e30"}, "the loss became"),
    ],
)
def test_an_error_is_said_once(eights, tmp_path, change, message):
    bad = options(eights, tmp_path / "run")
    for name, value in change.items():
        bad[bad.index(f"--{name.replace('_', '-')}") + 1] = str(value)
    processes = Processes(2, tmp_path, cli.main, bad)
    assert processes.codes() == [1, 1]
    said = "".join(processes.printed())
    assert said.count(message) == 1 and "Traceback" not in said, said
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_other_commands_are_for_one_process(tmp_path):
    processes = Processes(2, tmp_path, cli.main, ["evaluate", "run"])
    assert processes.codes() == [1, 1]
    assert "".join(processes.printed()).count("run colourize evaluate run without it") == 1


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (["--epohcs", "1"], "No such option"),
        (["--epochs", "many"], "Invalid value for '--epochs'"),
    ],
)
def test_wrong_usage_is_said_once(tmp_path, mistake, message):
    processes = Processes(2, tmp_path, cli.main, ["train", "classification", "unet", *mistake])
    assert processes.codes() == [2, 2]
    said = "".join(processes.printed())
    assert said.count(message) == 1 and "Traceback" not in said, said


def test_batch_size_must_divide():
    World(1, 4).check(100)
    with pytest.raises(UserError, match="102 cannot be shared equally among 4: choose .* such as 100 or 104"):
        World(1, 4).check(102)
    with pytest.raises(UserError, match="3 cannot be shared equally among 4: choose .* such as 4"):
        World(1, 4).check(3)


def test_a_gpu_each(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert World(5, 8, local_rank=1).device(None) == "cuda:1" and chosen == [1]
    assert World(5, 8, local_rank=1).device("cpu") == "cpu" and World().device("cuda:1") == "cuda:1"
    with pytest.raises(UserError, match="cuda:0 is one for 8 processes"):
        World(5, 8, local_rank=1).device("cuda:0")
    with pytest.raises(UserError, match="this machine has 2 GPUs"):
        World(5, 8, local_rank=2).device("cuda")


def test_what_another_process_says_is_not_said_again(colourize, monkeypatch):
    def said(*args, **more):
        raise SaidElsewhere("once is enough")

    monkeypatch.setattr(training, "train", said)
    code, output, errors = colourize("train classification unet")
    assert code == 1 and "once" not in output + errors


def test_cores_are_shared_unless_the_environment_says_otherwise(monkeypatch, said):
    used = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(12), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    distributed._share_cores(None, 4)
    assert used == [3] and not said()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    distributed._share_cores(2, 4)
    assert used == [3] and not said()
    distributed._share_cores(None, 4)
    assert used == [3] and "--threads 3" in said()[0]
