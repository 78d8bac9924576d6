"""A trained network for those who run it elsewhere: ONNX, torch.export, or a plain state dict.

Nothing of this package is needed to run what is written: convolutions become the framework's own, for which blocks are
composed of plain operators, and are exported for any batch, height and width. Every file is read back and compared with
the run's network before it gets its name; one that differs is never left behind.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as shapes_config

from myconv2d import MyConv2d, MyConvTranspose2d

from . import __version__
from .files import UserError, atomic_file, atomic_write
from .runs import Run

SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "plain": ".safetensors"}
FORMATS = tuple(SUFFIXES)
SHAPES = (1, 1, 1), (2, 5, 4), (3, 33, 30), (1, 64, 7), (1, 96, 128)  # N, H, W that an export is compared at
TOLERANCE = 1e-4  # of the largest output: rounding in another order stays far below, a wrong layer far above
_ONNX_PACKAGES = "onnx", "onnxscript", "onnxruntime"
_PLAIN = {MyConv2d: nn.Conv2d, MyConvTranspose2d: nn.ConvTranspose2d}
_LAYERS = {  # and what makes them
    nn.Conv2d: "in_channels out_channels kernel_size stride padding dilation groups padding_mode",
    nn.ConvTranspose2d: "in_channels out_channels kernel_size stride padding output_padding dilation groups",
    nn.BatchNorm2d: "num_features eps momentum",
}
Function = Callable[[Tensor], Tensor]


class Parity(NamedTuple):
    """The largest difference from the run's network at SHAPES, and the largest output."""

    difference: float
    largest: float


def export(run: Run, format: str, path: str | os.PathLike[str], *, weights: str = "last") -> Parity:
    """Writes the network of `run` to `path`, in one of FORMATS; "plain" also writes PATH's stem with .json.

    Raises `UserError` if packages are missing, the file cannot be written, or its results are not the network's.
    """
    if format not in FORMATS:
        raise UserError(f"format must be one of {', '.join(FORMATS)}, not {format!r}")
    if format == "onnx":
        check_packages()
    network, path = run.load_network(weights), Path(path)
    if format == "plain" and path.suffix == ".json":
        raise UserError(f"{path} is for the notes, beside the tensors: give a name such as {path.stem}.safetensors")
    notes = describe(run, weights)
    write, read = {"onnx": (_write_onnx, _read_onnx), "pt2": (_write_pt2, _read_pt2)}.get(
        format, (_write_plain, lambda file: _read_plain(file, run.create_network(), notes["layers"]))
    )
    if format == "plain":
        notes["layers"] = layers(network)
    with atomic_file(path) as file:
        write(network, notes, file)
        file.flush()
        file.seek(0)
        parity = compare(network, read(file))
        if format == "plain":
            atomic_write(path.with_suffix(".json"), lambda beside: beside.write(json.dumps(notes, indent=1).encode()))
    return parity


def check_packages() -> None:
    missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'onnx needs {", ".join(missing)}, of the extra [onnx]: pip install -e ".[onnx]"')


def describe(run: Run, weights: str) -> dict[str, Any]:
    """What it takes to use the network: its task, its input and output in words, what its classes stand for."""
    task = run.task
    notes = {
        "made by": f"colourize {__version__}",
        "task": task.name,
        "network": run.settings.network,
        "weights": weights,
        "input": f"(N, {task.in_channels}, H, W) float32, any N, H, W: {task.reads}",
        "output": f"(N, {task.out_channels}, {_times(task)}H, {_times(task)}W) float32: {task.gives}",
    }
    if task.has_classes:
        notes |= {"palette": task.legend.tolist(), "temperature": task.temperature}
    return notes


def _times(task: Any) -> str:
    return f"{task.enlarges}·" if task.network_enlarges else ""


def plain(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode with the framework's convolutions: the inverse of `myconv2d.convert`."""
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format).eval()
    for module in network.modules():
        module.__class__ = _PLAIN.get(type(module), type(module))
    return network


def program(network: nn.Module) -> ExportedProgram:
    """`network` in plain operators, for any batch, height and width from 1 up."""
    example = torch.zeros(2, network.in_channels, 12, 20)
    sizes = {0: Dim("batch", min=1), 2: Dim("height", min=1), 3: Dim("width", min=1)}
    # Otherwise strides are compared as if no size were ever 1, and small pictures excluded.
    with shapes_config.patch(backed_size_oblivious=True):
        exported = torch.export.export(plain(network), (example,), dynamic_shapes=(sizes,))
    for module in exported.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # it names files of this machine
    return exported


def compare(network: nn.Module, other: Function) -> Parity:
    """Raises `UserError` where `other` does not give what `network` gives."""
    random = torch.Generator().manual_seed(0)
    differences, largest = [], 0.0
    for batch, height, width in SHAPES:
        input = torch.rand(batch, network.in_channels, height, width, generator=random)
        with torch.inference_mode():
            expected = network(input)
        found = other(input)
        if found.shape != expected.shape:
            sizes = f"{tuple(found.shape)} in place of {tuple(expected.shape)}"
            raise UserError(f"the export gives pictures of {sizes}; nothing is kept")
        differences.append((found - expected).abs().max())
        largest = max(largest, expected.abs().max().item())
    difference = torch.stack(differences).max().item()  # NaN, where any is
    if not difference <= TOLERANCE * largest:
        raise UserError(
            f"the export differs from the network by {difference:.2g}, where outputs reach {largest:.2g} and "
            f"{TOLERANCE * largest:.2g} is allowed; nothing is kept"
        )
    return Parity(difference, largest)


def _write_pt2(network: nn.Module, notes: dict[str, Any], file: BinaryIO) -> None:
    with _quiet():
        torch.export.save(program(network), file, extra_files={"colourize.json": json.dumps(notes)})


def _read_pt2(file: BinaryIO) -> Function:
    with _quiet():
        return torch.inference_mode()(torch.export.load(file).module())


def _write_onnx(network: nn.Module, notes: dict[str, Any], file: BinaryIO) -> None:
    import onnx

    with _quiet():
        exported = torch.onnx.export(
            program(network), dynamo=True, verbose=False, input_names=["input"], output_names=["output"]
        )
    model = exported.model_proto
    graph = model.graph
    del graph.value_info[:]  # sizes in symbols of the exporter's own; whoever needs them can infer them
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    for value, name in ((graph.input[0], "input"), (graph.output[0], "output")):
        batch, _, *sides = value.type.tensor_type.shape.dim
        times = getattr(network, "factor", 1) if name == "output" else 1
        batch.dim_param = "N"
        for side, symbol in zip(sides, "HW", strict=True):
            side.dim_param = symbol if times == 1 else f"{times}*{symbol}"
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in notes.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.checker.check_model(model, full_check=True)
    file.write(model.SerializeToString())


def _read_onnx(file: BinaryIO) -> Function:
    import onnxruntime

    session = onnxruntime.InferenceSession(file.read(), providers=["CPUExecutionProvider"])
    return lambda input: torch.from_numpy(session.run(None, {"input": input.numpy()})[0])


def layers(network: nn.Module) -> dict[str, dict[str, Any]]:
    """Every layer that has parameters: its class in torch.nn and the arguments that make it, by its name.

    A parameter outside such layers is listed with its shape.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, module in plain(network).named_modules():
        if (arguments := _LAYERS.get(type(module))) is not None:
            found[name] = {"class": type(module).__name__} | {key: getattr(module, key) for key in arguments.split()}
            if hasattr(module, "bias") and module.bias is None:
                found[name]["bias"] = False
        else:
            for key, parameter in module.named_parameters(name, recurse=False):
                found[key] = {"class": "Parameter", "shape": list(parameter.shape)}
    return found


def _write_plain(network: nn.Module, notes: dict[str, Any], file: BinaryIO) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    file.write(safetensors.torch.save(tensors, {"format": "pt", "task": notes["task"], "network": notes["network"]}))


def _read_plain(file: BinaryIO, network: nn.Module, settings: dict[str, dict[str, Any]]) -> Function:
    """`network` with its layers made anew of what the JSON says."""
    network = plain(network)
    for name, arguments in json.loads(json.dumps(settings)).items():
        if (kind := arguments.pop("class")) != "Parameter":
            network.set_submodule(name, getattr(nn, kind)(**arguments))
    network.load_state_dict(safetensors.torch.load(file.read()))
    return torch.inference_mode()(network.eval())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say of themselves: of packages not needed here, of what they will change."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
