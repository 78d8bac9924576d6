"""What is exported runs without this package, for any size and number of pictures, and gives what the network gives."""

import importlib.util
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from colourize import checkpoint, cli, export, networks, tasks
from colourize.files import UserError
from colourize.palette import Palette
from colourize.runs import Run, create_task
from colourize.settings import Settings
from myconv2d import MyConv2d

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="the packages of the extra [onnx] are not installed")
FORMATS = [pytest.param(name, marks=needs_onnx if name == "onnx" else ()) for name in export.FORMATS]
PALETTE = Palette(torch.rand(5, 3, generator=torch.Generator().manual_seed(0)))
STANDARD = {  # operators of ONNX
    *("Conv", "ConvTranspose", "BatchNormalization", "Relu", "MaxPool", "Resize", "DepthToSpace", "Add", "Sub", "Mul"),
    *("Div", "Pad", "Clip", "Concat", "Slice", "Gather", "GatherND", "Shape", "Reshape", "Transpose", "Squeeze"),
    *("Unsqueeze", "Cast"),
}


def make_run(folder, task, network) -> Run:
    """A run whose network has weights, statistics and a prior as training leaves them: none zero, none one."""
    settings = Settings(task, network, size=24, filters=4, colours=5)
    run = Run.begin(folder, settings, create_task(settings, PALETTE if tasks.kind(task).needs_palette else None))
    module = run.create_network()
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=random), alpha=0.1)
    checkpoint.save(folder / "model.safetensors", module.state_dict(), {})
    checkpoint.save(folder / "best.safetensors", {k: v * 2 for k, v in module.state_dict().items()}, {})
    return run


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("export") / "unet", "classification", "unet")


def task_of(network):
    return "enlarge3" if networks.enlarges(network) else "lab-regression"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("network", networks.NAMES)
def test_every_network_in_every_format(tmp_path, network, format):
    run = make_run(tmp_path / "run", task_of(network), network)
    path = tmp_path / f"exported{export.SUFFIXES[format]}"
    difference, largest = export.export(run, format, path)
    assert largest > 0.1
    assert difference <= export.TOLERANCE * largest
    content = path.read_bytes()
    assert str(Path(export.__file__).parent).encode() not in content  # nothing of this machine
    if format == "onnx":
        check_onnx(content, run, largest)


def check_onnx(content, run, largest):
    import onnx
    import onnxruntime

    model = onnx.load_from_string(content)
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    assert {node.op_type for node in model.graph.node} <= STANDARD
    module, channels = run.load_network(), run.task.in_channels
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["N", channels, "H", "W"]
    for size in ((1, 2, 3), (4, 17, 1), (2, 40, 101)):  # none of those that the export compares by itself
        input = torch.rand(size[0], channels, *size[1:])
        with torch.no_grad():
            expected = module(input).numpy()
        (found,) = session.run(None, {"input": input.numpy()})
        np.testing.assert_allclose(found, expected, rtol=0, atol=export.TOLERANCE * largest)


@pytest.mark.parametrize("task", tasks.NAMES)
def test_notes_say_how_to_use_it(tmp_path, task):
    network = "enlarger" if tasks.kind(task).network_enlarges else "unet"
    run = make_run(tmp_path / "run", task, network)
    export.export(run, "plain", tmp_path / "a.safetensors")
    notes = json.loads((tmp_path / "a.json").read_text())
    assert notes["task"] == task and notes["network"] == network and notes["weights"] == "last"
    assert re.match(rf"\(N, {run.task.in_channels}, H, W\) float32, any N, H, W: .*divided by", notes["input"])
    assert f"(N, {run.task.out_channels}, " in notes["output"]
    assert ("palette" in notes) is run.task.has_classes
    if run.task.has_classes:
        assert len(notes["palette"]) == run.task.out_channels
        assert notes["temperature"] == run.task.temperature


def test_notes_suffice_to_decode(unet, tmp_path):
    """The words of a classification's notes, followed by hand, are what `apply` does."""
    export.export(unet, "plain", tmp_path / "a.safetensors")
    notes = json.loads((tmp_path / "a.json").read_text())
    pictures = torch.randint(0, 256, (1, 3, 12, 20), dtype=torch.uint8)
    grey = pictures.float().mean(1, keepdim=True) / 256
    scores = unet.load_network()(grey)
    palette = torch.tensor(notes["palette"])
    blended = torch.einsum("nkhw,kc->nchw", (scores / notes["temperature"]).softmax(1), palette)
    torch.testing.assert_close(blended, unet.task.blend(scores))
    torch.testing.assert_close(palette[scores.argmax(1)].movedim(-1, 1), unet.task.decode(scores, grey))
    torch.testing.assert_close(grey, unet.task.prepare(pictures))


@needs_onnx
def test_notes_are_in_the_onnx_file_too(unet, tmp_path):
    import onnx

    export.export(unet, "onnx", tmp_path / "a.onnx", weights="best")
    properties = {entry.key: entry.value for entry in onnx.load(tmp_path / "a.onnx").metadata_props}
    assert properties["task"] == "classification" and properties["weights"] == "best"
    assert json.loads(properties["palette"]) == unet.task.palette.centres.tolist()


@needs_onnx
def test_equal_runs_make_equal_files(unet, tmp_path):
    for name in "ab":
        export.export(unet, "onnx", tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_program_loads_where_this_package_is_not(unet, tmp_path):
    export.export(unet, "pt2", tmp_path / "a.pt2")
    input = torch.rand(2, 1, 9, 14)
    output = unet.load_network()(input).detach().contiguous()
    safetensors.torch.save_file({"input": input, "output": output}, tmp_path / "example")
    script = """
        import json, sys
        for name in ("myconv2d", "colourize"):
            sys.modules[name] = None  # importing it fails
        import safetensors.torch, torch
        notes = {"colourize.json": ""}
        program = torch.export.load("a.pt2", extra_files=notes)
        example = safetensors.torch.load_file("example")
        torch.testing.assert_close(program.module()(example["input"]), example["output"])
        targets = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
        assert not any("myconv2d" in target for target in targets), targets
        print(json.loads(notes["colourize.json"])["task"])
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "classification"), done.stderr


def test_plain_tensors_load_into_modules_of_the_framework(unet, tmp_path):
    export.export(unet, "plain", tmp_path / "a.safetensors")
    layers = json.loads((tmp_path / "a.json").read_text())["layers"]
    tensors = safetensors.torch.load_file(tmp_path / "a.safetensors")
    for name, settings in layers.items():
        module = getattr(nn, settings.pop("class"))(**settings)
        own = {key: tensors.pop(key) for key in list(tensors) if key.startswith(f"{name}.")}
        module.load_state_dict({key.removeprefix(f"{name}."): value for key, value in own.items()})
    assert tensors == {}
    assert [*layers][:2] == ["downconv1.conv", "downconv1.norm"]


def test_tensors_are_not_written_where_their_notes_go(unet, tmp_path):
    with pytest.raises(UserError, match="x.json is for the notes.* give a name such as x.safetensors"):
        export.export(unet, "plain", tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == []


def test_exporting_leaves_the_network_as_it_is(unet):
    network = unet.load_network()
    export.program(network)
    assert type(network.finalconv) is MyConv2d
    assert network.finalconv.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("format", FORMATS)
def test_wrong_results_are_refused_and_not_left_behind(unet, tmp_path, monkeypatch, format):
    right = export.plain

    def wrong(network):
        network = right(network)
        if hasattr(network, "rfconv"):
            network.rfconv.norm.eps = 0.1
        return network

    monkeypatch.setattr(export, "plain", wrong)
    with pytest.raises(UserError, match="differs from the network by .* nothing is kept"):
        export.export(unet, format, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_not_a_number_is_refused(unet):
    network = unet.load_network()
    with pytest.raises(UserError, match="differs from the network by nan"):
        export.compare(network, lambda input: network(input).detach() * float("nan"))


def test_missing_packages_are_named(unet, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(UserError, match=r"onnxscript.*\[onnx\]"):
        export.export(unet, "onnx", tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_command(unet, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(["export", str(unet.folder), *arguments])
        return ended.value.code or 0, *capsys.readouterr()

    code, out, _ = run("--format", "plain")
    assert code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"unet.safetensors", "unet.json"}
    assert re.search(r"differs by at most \d", out)
    code, _, err = run("--format", "plain")
    assert code == 1 and "unet.safetensors exists already" in err
    assert run("--format", "plain", "--overwrite")[0] == 0
    assert run("--format", "tflite")[0] == 2
