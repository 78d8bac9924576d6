"""The captured step trains as the eager one does, to the bit, and neither waits for the device.

No GPU is needed: `bench.tape.Tape` stands for the CUDA graph.
"""

from unittest.mock import MagicMock, Mock, call, create_autospec

import pytest
import torch

from bench.tape import Tape
from colourize import step as steps
from colourize import training
from colourize.data import TensorImages
from colourize.examples import Examples
from colourize.runs import CHECKPOINTS, Run
from colourize.step import GraphedStep, Step, graph_hindrance
from colourize.tasks import Regression
from colourize.training import train
from myconv2d import recorded, use_backend

SIZE = 7  # of a batch; 36 pictures are 5 of these and a last one of 1


class Refusing(Tape):
    def capture(self, work):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


@pytest.fixture(autouse=True)
def plain_operators():
    """What a step is made of where the CPU's own kernels do not serve."""
    with use_backend("reference"):
        yield


@pytest.fixture
def graphs(monkeypatch):
    """Lets trainings on the CPU believe that they have CUDA graphs; the list of those made."""
    made = []

    def graph(device):
        made.append(Tape())
        return made[-1]

    def capturable(parameters, lr, device, weight_decay):
        options = {"weight_decay": weight_decay, "decoupled_weight_decay": True, "capturable": True}
        return torch.optim.Adam(parameters, lr=torch.tensor(lr), fused=True, **options)

    captured = lambda *args, size: GraphedStep(*args, size=size, graph=steps.CudaGraph(args[3].device))  # noqa: E731
    monkeypatch.setattr(steps, "_captured", captured)
    monkeypatch.setattr(steps, "CudaGraph", graph)
    monkeypatch.setattr(steps, "adam", capturable)
    return made


def results(folder):
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "metrics.csv", *CHECKPOINTS)}


@pytest.mark.parametrize(("precision", "memory"), [("fp32", 1 << 30), ("bf16", 0)])
def test_graph_and_eager_train_the_same_to_the_bit(tiny, tmp_path, monkeypatch, graphs, precision, memory):
    monkeypatch.setattr("colourize.examples.MEMORY", memory)
    settings = tiny.replace(precision=precision)
    train(settings, tmp_path / "graph")
    assert [(tape.warm_ups, tape.replays) for tape in graphs] == [(3, 15)]  # the last of 6 batches is smaller
    train(settings, tmp_path / "eager", graph=False)
    assert len(graphs) == 1
    assert results(tmp_path / "graph") == results(tmp_path / "eager")


def test_graph_and_resumption_end_the_same(tiny, tmp_path, graphs):
    constant = tiny.replace(schedule="constant")
    train(constant, tmp_path / "straight")
    train(constant.replace(epochs=1), tmp_path / "run")
    train(constant, tmp_path / "run", resume=True)
    assert len(graphs) == 3
    assert results(tmp_path / "run") == results(tmp_path / "straight")


@pytest.mark.parametrize(
    "change", [{}, {"task": "lab-classification", "network": "colour-unet", "loss": "rebalanced"}], ids=str
)
def test_a_step_never_waits_for_the_device(tiny, tmp_path, graphs, change):
    train(tiny.replace(epochs=1, **change), tmp_path / "run")
    names = graphs[0].names
    assert {"aten::_fused_adam_", "aten::native_batch_norm_backward", "aten::convolution"} & names
    assert not names & {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal"}


def test_a_capture_that_fails_is_said_and_costs_nothing(tiny, tmp_path, monkeypatch, graphs, said):
    train(tiny.replace(epochs=1), tmp_path / "graph")
    monkeypatch.setattr(steps, "CudaGraph", lambda device: Refusing())
    train(tiny.replace(epochs=1), tmp_path / "run")
    assert said() == [
        "the training step is not captured in a CUDA graph, so it runs eagerly: "
        "operation not permitted when stream is capturing"
    ]
    assert results_of_one(tmp_path / "run") == results_of_one(tmp_path / "graph")


def results_of_one(folder):
    return (folder / "model.safetensors").read_bytes(), (folder / "metrics.csv").read_bytes()


def test_warming_up_leaves_no_trace(tiny):
    """Network, running statistics, optimizer and losses are those of before."""
    network, images = torch.nn.BatchNorm2d(1), torch.randint(0, 256, (SIZE, 3, 8, 8), dtype=torch.uint8)
    optimizer = torch.optim.Adam(network.parameters(), lr=torch.tensor(0.1), fused=True, capturable=True)
    task = Regression()
    task.loss = lambda output, target: (output - target).square().mean()
    examples = Examples(TensorImages(images), task)
    indices = torch.arange(SIZE)
    for begin in (lambda: None, lambda: Step(network, optimizer, task, examples, "fp32")(indices, 0.1)):
        begin()
        step = GraphedStep(network, optimizer, task, examples, "fp32", size=SIZE, graph=Tape())
        before = [tensor.clone() for tensor in step._state()]
        monitor = Refusing()
        step._graph, step._batch = monitor, examples.batch(indices)
        assert "not permitted" in step._capture()
        assert monitor.warm_ups == 3
        after = step._state()
        assert all(torch.equal(*pair) for pair in zip(before, after, strict=False))
        assert all((tensor == 0).all() for tensor in after[len(before) :])


def test_the_framework_s_graph_is_asked_in_the_right_order(monkeypatch):
    """Of torch.cuda, which does nothing here, only the calls: their names, arguments and order."""
    told = Mock()
    for name in ("CUDAGraph", "Stream", "current_stream", "stream", "graph", "device"):
        double = create_autospec(getattr(torch.cuda, name))
        if name in ("stream", "graph", "device"):
            double.return_value = MagicMock()
        told.attach_mock(double, name)
        monkeypatch.setattr(torch.cuda, name, double)
    gpu = torch.device("cuda:1")
    graph = steps.CudaGraph(gpu)
    side, here = torch.cuda.Stream.return_value, torch.cuda.current_stream.return_value
    graph.warm_up(lambda: told.warm_up())
    graph.capture(lambda: told.capture())
    graph.replay()
    order = [
        call for call in told.mock_calls if call[0] in ("warm_up", "capture", "stream", "graph", "device")
    ]
    recorded = torch.cuda.CUDAGraph.return_value
    assert order == [
        call.device(gpu),
        *(call.stream(side), call.warm_up()),
        *(
            call.device(gpu),
            call.graph(recorded, stream=side, capture_error_mode="thread_local"),
            call.capture(),
        ),
        call.device(gpu),
    ]
    side.wait_stream.assert_called_once_with(here)
    here.wait_stream.assert_called_once_with(side)
    recorded.replay.assert_called_once_with()


def test_where_a_graph_does_not_serve_is_said(tiny, tmp_path, said):
    other, gpu = torch.device("meta"), torch.device("cuda")
    assert "needs a CUDA device or the CPU, and this training runs on meta" in graph_hindrance(other, 36, 7)
    assert "with 6 pictures and a batch size of 7" in graph_hindrance(gpu, 6, 7)
    assert graph_hindrance(gpu, 7, 7) is None
    large = tiny.replace(epochs=1, batch_size=1000)
    train(large, tmp_path / "silent")
    assert said() == []
    train(large, tmp_path / "asked", graph=True)
    assert [message.partition(":")[0] for message in said()] == ["the training step is not captured"]
    assert results_of_one(tmp_path / "asked") == results_of_one(tmp_path / "silent")


@pytest.mark.parametrize(
    "change",
    [{}, {"precision": "bf16"}, {"task": "lab-classification", "network": "colour-unet", "loss": "rebalanced"}],
    ids=str,
)
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_recorded_and_eager_train_the_same_to_the_bit(tiny, tmp_path, monkeypatch, backend, change):
    recordings = []
    monkeypatch.setattr(steps, "recorded", lambda f: recordings.append(recorded(f)) or recordings[-1])
    with use_backend(backend):
        train(tiny.replace(**change), tmp_path / "recorded")
        train(tiny.replace(**change), tmp_path / "eager", graph=False)
    assert [(r.recordings, r.problem) for r in recordings] == [(1, None)]
    assert results(tmp_path / "recorded") == results(tmp_path / "eager")


def test_loss_is_read_only_when_it_is_asked_for(tiny, tmp_path, monkeypatch):
    train(tiny.replace(epochs=1), tmp_path / "run")
    run = Run.open(tmp_path / "run")
    network = run.load_network()
    images = training.load_data(tiny).train
    step = Step(network, steps.adam(network.parameters(), 0.1, torch.device("cpu")), run.task,
                Examples(images, run.task), "fp32")  # fmt: skip
    asked, item = [], torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda self: asked.append(self) or item(self))
    order = torch.arange(len(images)).split(SIZE)
    heard = []
    mean = training.train_epoch(step, order, [0.0] * len(order), lambda count, loss: heard.append(loss))
    assert len(asked) == 1 and len(heard) == len(order)
    assert heard[-1]() == mean
