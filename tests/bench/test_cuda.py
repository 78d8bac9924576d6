"""Timing on a GPU, on a device of the tests' own: work is queued, takes its own time and ends in order.

What this shows is the arithmetic of events and the place of the flush; that a real device behaves so, only one can.
"""

from __future__ import annotations

import pytest
import torch

from bench import blocks, cuda, layers, networks
from bench.accuracy import bounds, errors
from bench.blocks import BlockCase, block
from bench.cases import CASES
from bench.cuda import EventTimer, graphed
from bench.layers import layer
from bench.measure import StoppingRule, interleave
from bench.networks import NetworkCase, inference, training
from bench.roofs import measure_roofs
from bench.subjects import SETS
from bench.tape import Tape
from bench.variants import Variant
from myconv2d import use_backend

CPU = torch.device("cpu")
L2 = 1000  # bytes


class FakeDevice:
    """A queue: every piece of work waits for the one before, and takes longer if its data is not in the cache."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.cached, self.flushes, self.waited = 0.0, None, 0, True
        device = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at, device.waited = device.now, False

            def elapsed_time(self, other: Event) -> float:
                assert device.waited, "an event was read before it had come"
                return 1e3 * (other.at - self.at)

        class Flush:
            def zero_(self) -> None:
                device.now += 1.0
                device.cached, device.flushes = None, device.flushes + 1

        def empty(size: int, **options) -> Flush:
            assert size >= 2 * L2
            return Flush()

        def synchronize() -> None:
            self.waited = True

        properties = type("Properties", (), {"L2_cache_size": L2})
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        monkeypatch.setattr(cuda.torch, "empty", empty)

    def kernel(self, name: str, hot: float, cold: float):
        def call(number: int) -> None:
            self.now += hot if self.cached == (name, number) else cold
            self.cached = name, number

        return call


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    return FakeDevice(monkeypatch)


def test_cold_calls_find_nothing_in_the_cache_and_the_flush_is_not_timed(device: FakeDevice) -> None:
    call = device.kernel("a", hot=1e-3, cold=4e-3)
    assert EventTimer(cold=True)(call, [0, 0, 0]) == pytest.approx(4e-3)
    assert device.flushes == 3


def test_hot_calls_follow_one_another(device: FakeDevice) -> None:
    call = device.kernel("a", hot=1e-3, cold=4e-3)
    assert EventTimer(cold=False)(call, [0] * 4) == pytest.approx((4e-3 + 3 * 1e-3) / 4)
    assert device.flushes == 0


def test_contestants_are_timed_alike_whoever_comes_before(device: FakeDevice) -> None:
    calls = {"a": device.kernel("a", 1e-3, 4e-3), "b": device.kernel("b", 1e-3, 2e-3)}
    sides = {"a": "ours", "b": "rival"}
    rule = StoppingRule(min_rounds=5, max_rounds=9)
    samples = interleave(calls, sides, rule, sets=3, timer=EventTimer(cold=True))
    assert samples == {"a": pytest.approx([4e-3] * 5), "b": pytest.approx([2e-3] * 5)}


def test_a_graph_is_warmed_up_captured_once_and_returns_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    events = []

    class Graph:
        def warm_up(self, work) -> None:
            events.append("warm up")
            work()

        def capture(self, work) -> None:
            events.append("capture")
            work()

        def replay(self) -> None:
            events.append("replay")

    monkeypatch.setattr(cuda, "CudaGraph", Graph)
    made = iter(range(100))
    replay = graphed(lambda: next(made))
    assert [replay(), replay()] == [cuda.WARM_UPS] * 2  # what the capture made
    assert events == ["warm up"] * cuda.WARM_UPS + ["capture", "replay", "replay"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: training(NetworkCase("unet", 2, 8), CPU, compiled=False),
        lambda: inference(NetworkCase("cnn", 2, 8), CPU, compiled=False),
        lambda: block(BlockCase(2, (8, 8), 5, 8, "upsample"), True, CPU),
        lambda: block(BlockCase(2, (8,), 5, 8, "pool"), False, CPU),
        lambda: layer(CASES["c3-k3-32px-n1"], "backward", CPU),
    ],
)
def test_results_of_graphs_are_their_own(make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operand set has a graph; what is checked is what the first one has just written."""
    tapes = []

    def tape() -> Tape:
        tapes.append(Tape())
        return tapes[-1]

    monkeypatch.setattr(cuda, "CudaGraph", tape)
    for module in (networks, blocks, layers):
        monkeypatch.setattr(
            module, "variants", lambda device, compiled: [Variant("channels_last", graph=True)]
        )
    with use_backend("reference"):
        subject = make()
        exact = subject.exact()
        allowed = bounds(exact, subject.kinks)
        for contestant in subject.contestants():
            if "graph" not in contestant.name or "recorded" in contestant.name:
                continue  # recorded steps are the CPU's, which has no graphs
            tapes.clear()
            ready = contestant.prepare()
            assert [tape.warm_ups for tape in tapes] == [cuda.WARM_UPS] * SETS
            for number in range(SETS):
                ready.call(number)
            found = errors(ready.results(), exact, subject.kinks)
            assert all(found[name] <= bound for name, bound in allowed.items()), (contestant.name, found)
            assert [tape.replays for tape in tapes] == [2, 1, 1]


def test_roofs_are_those_of_every_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def mm(a: torch.Tensor, b: torch.Tensor) -> None:
        seen.append((a.dtype, torch.backends.cuda.matmul.fp32_precision == "tf32"))

    def randn(*size: int, device: str) -> torch.Tensor:
        return torch.zeros(200, 200)

    def timer(call, numbers) -> float:
        call(0)
        return 1e-3

    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr(torch, "randn", randn)
    found = measure_roofs("cuda", timer)
    assert set(seen) == {
        *((torch.float32, False), (torch.float32, True)),
        *((torch.bfloat16, False), (torch.float16, False)),
    }
    products = {name: value for name, value in found.items() if name != "GB/s"}
    assert products == dict.fromkeys(
        ("fp32 GF/s", "tf32 GF/s", "bf16 GF/s", "fp16 GF/s"), pytest.approx(2e-9 * 8192**3 / 1e-3)
    )
    assert found["GB/s"] == pytest.approx(2 * 4 * 200 * 200 / 1e-3 / 1e9, abs=0.05)
