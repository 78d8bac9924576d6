"""Tensors on disk that are either whole or refused: safetensors files, with a digest and without pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from .files import UserError, atomic_write

_NOTES = "colourize"  # the one entry of the metadata, so that equal content makes equal files


def save(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """Writes named tensors and text notes atomically, with a digest of both."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {_NOTES: json.dumps({"sha256": _digest(tensors, notes), "notes": dict(notes)})}
    atomic_write(path, lambda file: file.write(safetensors.torch.save(tensors, metadata)))


def load(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `save` wrote, on the CPU. Raises `UserError`, naming the file, if a byte is missing or changed."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise UserError(f"cannot read {path}: there is no such file") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"cannot read {path}: it is damaged or no safetensors file ({error})") from error
    try:
        entry = json.loads(metadata[_NOTES])
        digest, notes = entry["sha256"], entry["notes"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"cannot read {path}: it is damaged or was not saved by colourize") from error
    if digest != _digest(tensors, notes):
        raise UserError(f"cannot read {path}: it is damaged (its content does not match its digest)")
    return tensors, notes


def part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Those of `tensors` that are called `name`.<rest>, by their rest."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def load_network(network: nn.Module, tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Fills `network` with `tensors` that came from `path`; raises `UserError` where they are not its own."""
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).split("\n\t", 1)[-1].split("\n", 1)[0]
        raise UserError(f"{path} does not fit the run's settings: {reason}") from error


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors of an optimizer's state, as `optimizer.<parameter number>.<name>`."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{name}": value for i, values in state.items() for name, value in values.items()}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `pack_optimizer` took; other names in `tensors` are not looked at."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in part(tensors, "optimizer").items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, values in optimizer.state.items():  # a fused step expects them in the parameter's own layout
        for name, value in values.items():
            if value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)


def _digest(tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(sorted(notes.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
