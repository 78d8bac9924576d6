"""Whole networks as subjects: training steps, inference, and the overhead of one tiny call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import myconv2d
from colourize import networks
from myconv2d import MyConv2d
from myconv2d import cross_entropy as our_cross_entropy

from . import plain, precision
from .modules import count_flop, gradients, laid_out, random_inputs, randomise
from .subjects import OURS, RIVAL, SETS, Contestant, Ready, Results, Subject
from .variants import Variant, variants

COLOURS = 24


@dataclass(frozen=True)
class NetworkCase:
    """One network of the handout on a batch of square pictures."""

    network: str
    batch: int
    size: int = 32

    @property
    def name(self) -> str:
        return f"{self.network}-{self.size}px-n{self.batch}"

    @property
    def classifies(self) -> bool:
        return self.network != "regression-cnn"

    @property
    def output_size(self) -> tuple[int, ...]:
        return self.batch, COLOURS if self.classifies else 3, self.size, self.size

    def operands(self, number: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Grey pictures and their targets: classes of the pixels, or colours."""
        grey, colours = random_inputs(
            [(self.batch, 1, self.size, self.size), self.output_size], number, device
        )
        return grey, colours.argmax(1) if self.classifies else colours

    def loss(self, ours: bool) -> Callable[[Tensor, Tensor], Tensor]:
        if not self.classifies:
            return F.mse_loss
        return our_cross_entropy if ours else F.cross_entropy


TRAINED = tuple(NetworkCase(name, 100) for name in ("unet", "cnn", "regression-cnn"))
INFERRED = (*TRAINED, NetworkCase("unet", 1), NetworkCase("unet", 1, 512))


def subjects(device: torch.device, compiled: bool) -> Iterator[Subject]:
    for case in TRAINED:
        yield training(case, device, compiled)
    for case in INFERRED:
        yield inference(case, device, compiled)
    if device.type == "cpu":
        yield training(TRAINED[0], device, compiled, threads=1)
    yield overhead(device)


def training(case: NetworkCase, device: torch.device, compiled: bool, threads: int | None = None) -> Subject:
    """Forward, loss, backward and a step of Adam."""
    return Subject(
        case.name + ("-1-thread" if threads == 1 else ""),
        "training step",
        "network",
        frozenset({"networks", "training"}),
        lambda: list(_trainers(case, device, compiled)),
        lambda: _exact_training(case, device),
        flop=lambda: _flop(case, training=True),
        pixels=case.batch * case.size**2,
        kinks=5,
        threads=threads,
    )


def inference(case: NetworkCase, device: torch.device, compiled: bool) -> Subject:
    return Subject(
        case.name,
        "inference",
        "network",
        frozenset({"networks", "inference"}),
        lambda: list(_inferrers(case, device, compiled)),
        lambda: _infer(_exact_network(case, device).eval(), case.operands(0, device)[0].double()),
        flop=lambda: _flop(case, training=False),
        pixels=case.batch * case.size**2,
        kinks=5,
    )


def _flop(case: NetworkCase, training: bool) -> int:
    def work() -> None:
        output = plain.create(case.network)(torch.empty(case.batch, 1, case.size, case.size))
        if training:
            output.sum().backward()

    return count_flop(work)


@functools.lru_cache(maxsize=1)
def _weights(network: str) -> nn.Module:
    torch.manual_seed(0)
    return randomise(plain.create(network))


def _exact_network(case: NetworkCase, device: torch.device) -> nn.Module:
    return laid_out(
        plain.create(case.network), _weights(case.network), Variant("contiguous"), device
    ).double()


def _exact_training(case: NetworkCase, device: torch.device) -> Results:
    module, (grey, target) = _exact_network(case, device), case.operands(0, device)
    target = target if case.classifies else target.double()
    loss = case.loss(False)(module(grey.double()), target)
    loss.backward()
    return {"loss": loss.detach(), **gradients(module)}


def _made(ours: Callable[[nn.Module], nn.Module], network: str) -> nn.Module:
    return ours(plain.create(network))


def _trainers(case: NetworkCase, device: torch.device, compiled: bool) -> Iterator[Contestant]:
    prepare = functools.partial(trainer, case, device)
    for variant in variants(device, compiled=False):
        ours = functools.partial(prepare, networks.create, variant, ours=True)
        yield Contestant(f"ours {variant.name}", OURS, ours)
        if device.type == "cpu":
            yield Contestant(f"ours {variant.name} recorded", OURS, functools.partial(ours, record=True))
    for variant in variants(device, compiled):
        yield Contestant(f"torch {variant.name}", RIVAL, functools.partial(prepare, plain.create, variant))
    yield from _drop_ins(prepare, device)
    if device.type == "cpu":
        for variant in variants(device, compiled=False):
            made = functools.partial(prepare, functools.partial(_made, myconv2d.fuse), variant, record=True)
            yield Contestant(f"torch {variant.name} fused by us, recorded", "converted", made)
            made = functools.partial(prepare, plain.create, variant, record=True)
            yield Contestant(f"torch {variant.name} recorded by us", "converted", made)


def _drop_ins(prepare: Callable[..., Ready], device: torch.device) -> Iterator[Contestant]:
    """The plain networks after `convert`, and after `fuse`, in every layout: what a line in anybody's code is worth."""
    for variant in variants(device, compiled=False):
        for function, words in ((myconv2d.convert, "with our convolutions"), (myconv2d.fuse, "fused by us")):
            made = functools.partial(prepare, functools.partial(_made, function), variant)
            yield Contestant(f"torch {variant.name} {words}", "converted", made)


def trainer(
    case: NetworkCase,
    device: torch.device,
    create,
    variant: Variant,
    *,
    ours: bool = False,
    record: bool = False,
) -> Ready:
    """A training step of `create(name)`; `record`: replayed by myconv2d.recorded."""
    weights = _weights(case.network)
    module = laid_out(create(case.network), weights, variant, device)
    optimizer = torch.optim.Adam(module.parameters(), fused=True, capturable=variant.graph)
    criterion = case.loss(ours)
    objective = variant.compile(lambda grey, target: criterion(module(grey), target))
    sets = []
    for number in range(SETS):
        grey, target = case.operands(number, device)
        sets.append((grey.contiguous(memory_format=variant.memory_format), target))

    def step(grey: Tensor, target: Tensor) -> tuple[Tensor, list[Tensor]]:
        optimizer.zero_grad(set_to_none=True)
        with precision.autocast(device):
            loss = objective(grey, target)
        loss.backward()
        optimizer.step()
        return loss.detach(), [parameter.grad for parameter in module.parameters()]

    work = myconv2d.recorded(step) if record else step
    call = variant.ready(lambda number: work(*sets[number]), SETS)

    def results() -> Results:
        if record:  # what is checked is the third call, a replay, as what is timed
            call(0), call(0)
            if work.problem:
                raise RuntimeError(f"not recorded: {work.problem}")
        module.load_state_dict(weights.state_dict())
        loss, grads = call(0)  # of a graph the gradients are its own, whatever `.grad` is by now
        for parameter, grad in zip(module.parameters(), grads, strict=True):
            parameter.grad = grad
        return {"loss": loss, **gradients(module)}

    return Ready(call, results)


def _inferrers(case: NetworkCase, device: torch.device, compiled: bool) -> Iterator[Contestant]:
    prepare = functools.partial(_inferrer, case, device)
    for variant in variants(device, compiled=False):
        yield Contestant(f"ours {variant.name}", OURS, functools.partial(prepare, networks.create, variant))
    for variant in variants(device, compiled):
        yield Contestant(f"torch {variant.name}", RIVAL, functools.partial(prepare, plain.create, variant))
    yield from _drop_ins(prepare, device)
    if device.type == "cpu" and not precision.current().short:
        yield Contestant("ours frozen", OURS, functools.partial(_frozen, case))
        yield Contestant("ONNX Runtime", RIVAL, functools.partial(_onnx_runtime, case))


def _frozen(case: NetworkCase) -> Ready:
    """As the rivals are: torch compiled with its weights frozen, ONNX Runtime by nature."""
    variant = Variant("channels_last")
    return _inferrer(case, torch.device("cpu"), networks.create, variant, freeze=myconv2d.freeze)


def _inferrer(case: NetworkCase, device: torch.device, create, variant: Variant, *, freeze=None) -> Ready:
    dtype = precision.current().dtype
    module = laid_out(create(case.network), _weights(case.network), variant, device).eval().to(dtype)
    pictures = [case.operands(number, device)[0] for number in range(SETS)]
    pictures = [tensor.to(dtype, memory_format=variant.memory_format) for tensor in pictures]
    function = freeze(module, pictures[0]) if freeze else variant.compile(module, freeze=True)

    @torch.no_grad()
    def infer(number: int) -> Tensor:
        return function(pictures[number])

    call = variant.ready(infer, SETS)
    return Ready(call, lambda: {"output": call(0)})


def _infer(module: nn.Module, pictures: Tensor) -> Results:
    with torch.no_grad():
        return {"output": module(pictures)}


def _onnx_runtime(case: NetworkCase) -> Ready:
    from .ort import exported, session

    sets = [(case.operands(number, torch.device("cpu"))[0],) for number in range(SETS)]
    call = session(exported(_weights(case.network).eval(), sets[0]), sets, case.output_size)
    return Ready(call, lambda: {"output": call(0)})


def overhead(device: torch.device) -> Subject:
    """A convolution so small that calling it is all that takes time: 3×3 on one picture of 8×8, no gradient."""

    def prepare(layer: type[nn.Conv2d]) -> Ready:
        torch.manual_seed(0)
        module = layer(1, 1, 3, padding=1, device=device).requires_grad_(False)
        pictures = [random_inputs([(1, 1, 8, 8)], number, device)[0] for number in range(SETS)]
        return Ready(lambda number: module(pictures[number]), lambda: {"output": module(pictures[0])})

    def exact() -> Results:
        torch.manual_seed(0)
        module = nn.Conv2d(1, 1, 3, padding=1, device=device).double()
        return _infer(module, random_inputs([(1, 1, 8, 8)], 0, device)[0].double())

    def contestants() -> list[Contestant]:
        return [
            Contestant("ours", OURS, lambda: prepare(MyConv2d)),
            Contestant("torch", RIVAL, lambda: prepare(nn.Conv2d)),
        ]

    tags = frozenset({"overhead"})
    return Subject("call-c1-k1-8px-n1", "forward", "overhead", tags, contestants, exact)
