"""freeze(): a trained network for inference, replayed by the native library in one call."""

from __future__ import annotations

import copy
import threading
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from . import backends, native
from .autograd import is_traced
from .recording import NoLooking, Program, Recorder, Refused

_MOST_SHAPES = 64  # whose programs are kept
_ROUNDING = 1e-4  # of the largest value: what a program may differ by from its network


def freeze(model: nn.Module, example: Tensor) -> Frozen:
    """A copy of `model` for inference alone: batch norm folded into the weights, the weights transformed ahead, and all
    layers run in one call of the native library.

        >>> network = torch.nn.Sequential(myconv2d.ConvBlock(1, 8), myconv2d.ConvBlock(8, 3))
        >>> frozen = myconv2d.freeze(network, torch.rand(1, 1, 32, 32))
        >>> frozen(torch.rand(5, 1, 32, 32)).shape
        torch.Size([5, 3, 32, 32])

    The network is run once, in evaluation mode, and every operator that it calls is recorded; its output for `example`
    is compared with the recording's. Inputs of other shapes are accepted too: for each new shape (batch included) this
    is done again at the first call, because a network's Python may go other ways for other sizes.

    What can be recorded: fused `ConvBlock`s and `conv_concat` (`explain_block` says whether a block is fused),
    `MyConv2d`, enlarging twice (nearest) before one of these, padding that repeats the border, and cropping. Anything
    else is refused by its name. What only Python knows, such as the time or a random number of its own, cannot be seen
    and stays as it was.

    Args:
        model: float32, on the CPU; it is copied: what becomes of it later, its weights included, does not show.
        example: float32 (N, C, H, W), contiguous or channels_last, such as `model` takes.

    Returns:
        A module that gives what `model.eval()` does, in channels_last, up to rounding (some 1e-6 of the largest value).
        Its own `load_state_dict` and conversions make it record anew; weights that are changed in any other way, in
        place or by `torch.func.functional_call`, do not show.
        It has no derivatives, and may be called by several threads at once, copied and pickled. `torch.export` and
        traces see the network's own operators; `torch.compile` leaves the call to the library (a graph break).

    Raises:
        RuntimeError: the native library is not there or not wanted, or the network does what cannot be recorded.
        TypeError: `model` is no module, or `example` no float32 tensor of 4 dimensions on the CPU.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"freeze(): model must be an nn.Module, got {type(model).__name__}")
    if (problem := native.cpu.problem) is not None:
        raise RuntimeError(f"freeze(): a frozen network is run by the native CPU library: {problem}")
    if backends.wanted not in (None, "native"):
        raise RuntimeError(
            f"freeze(): a frozen network is run by the native backend, not by {backends.wanted!r}"
        )
    frozen = Frozen(model)
    frozen(example)
    return frozen


class Frozen(nn.Module):
    """What `freeze` makes: a module with a network's evaluation mode and nothing else.

        >>> frozen = myconv2d.freeze(myconv2d.ConvBlock(1, 3), torch.rand(1, 1, 8, 8))
        >>> isinstance(frozen, myconv2d.Frozen), frozen.training, any(p.requires_grad for p in frozen.parameters())
        (True, False, False)
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.training = False
        self._lock = threading.Lock()
        self._programs: dict[torch.Size, Program] = {}

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_exporting() or is_traced():
            return self.model(input)  # whoever reads the graph knows no programs
        program = self._programs.get(_checked(input).shape)
        return self._record(input) if program is None else program(input)

    def train(self, mode: bool = True) -> Frozen:
        """Refused for True: only evaluation mode is left."""
        if mode:
            raise RuntimeError("a frozen network cannot be trained: its weights are part of a program")
        return self

    def _apply(self, *args: Any, **kwargs: Any) -> Frozen:
        """Whatever moves or converts the weights; programs have those of before."""
        self._programs.clear()
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """`load_state_dict` does this first."""
        self._programs.clear()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Without the programs, which are for this processor; they are recorded again."""
        return {k: v for k, v in self.__dict__.items() if k != "_lock"} | {"_programs": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._lock = threading.Lock()

    def _record(self, input: Tensor) -> Tensor:
        """The program's output, where it is known to be the model's; else the model's own."""
        with self._lock, torch.no_grad(), torch.autocast("cpu", enabled=False):
            recorder = Recorder(input, (*self.model.parameters(), *self.model.buffers()))
            try:
                with NoLooking(), recorder:
                    output = self.model(input)
            except Refused:
                self.model(input)  # whose own error, if this input is one, says more
                raise
            program = recorder.program(output)
            replayed = program(input)
            if _same(replayed, output):
                while len(self._programs) >= _MOST_SHAPES:
                    del self._programs[next(iter(self._programs))]
                self._programs[input.shape] = program
                return replayed  # as all later calls: the same bits
        return output


def _checked(input: Tensor) -> Tensor:
    if not isinstance(input, Tensor):
        raise TypeError(f"a frozen network takes a tensor, got {type(input).__name__}")
    if input.dtype is not torch.float32 or not input.is_cpu or input.dim() != 4:
        raise TypeError(
            f"a frozen network takes float32 (N, C, H, W) on the CPU, got {input.dtype} {tuple(input.shape)} on "
            f"{input.device}"
        )
    if input.requires_grad and torch.is_grad_enabled() or _has_tangent(input):
        raise RuntimeError(
            "a frozen network has no derivatives: call it under torch.no_grad(), or keep the model"
        )
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError("a frozen network cannot be transformed by torch.func: keep the model")
    return input


def _has_tangent(input: Tensor) -> bool:
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(input).tangent is not None


def _same(replayed: Tensor, output: Tensor) -> bool:
    """Whether the model's output can be judged by, and the program's is the same.

    Raises:
        Refused: it is another, so the network does something that was not seen.
    """
    if replayed.shape != output.shape:
        raise Refused(
            f"freeze(): the recording gives {tuple(replayed.shape)}, the network {tuple(output.shape)}"
        )
    if output.numel() == 0:
        return True
    scale, error = output.abs().max(), (replayed - output).abs().max()
    if error > _ROUNDING * scale:
        raise Refused(
            f"freeze(): the recording differs from the network by {error:.2g}, where the largest value is {scale:.2g}"
        )
    return bool(scale.isfinite() and error.isfinite())
