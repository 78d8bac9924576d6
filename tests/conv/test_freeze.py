"""freeze(): the same results as the model for every network and shape, and a refusal of what cannot be recorded."""

import copy
import io
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import myconv2d
from bench.modules import randomise
from colourize import networks
from myconv2d import ConvBlock, MyConv2d, conv_concat, freeze, native, use_backend

pytestmark = pytest.mark.skipif(native.cpu.problem is not None, reason="no native CPU library")

BOUND = 5e-6  # of the largest value: folding batch norm moves roundings through six layers


def network(name: str = "unet", **settings: int) -> nn.Module:
    torch.manual_seed(0)
    return randomise(networks.create(name, **settings)).eval()


def pictures(*size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(sum(size)))


def assert_same(frozen: nn.Module, model: nn.Module, input: torch.Tensor) -> None:
    """The program's result, not the first call's, which is the model's own."""
    with torch.no_grad():
        expected = model.eval()(input)
    frozen(input)
    replayed = frozen(input)
    assert replayed is not expected and replayed.shape == expected.shape
    assert (replayed - expected).abs().max() <= BOUND * expected.abs().max()


@pytest.mark.parametrize("name", networks.HANDOUT)
@pytest.mark.parametrize("size", [(1, 32, 32), (100, 32, 32), (2, 33, 30), (3, 5, 7), (1, 1, 1), (2, 64, 20)])
def test_networks_of_the_handout_at_any_batch_and_size(name, size):
    model = network(name)
    frozen = freeze(model, pictures(1, 1, 32, 32))
    batch, height, width = size
    assert_same(frozen, model, pictures(batch, 1, height, width))


@pytest.mark.parametrize("isa", [name for name, here in native.cpu.isas().items() if here])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layouts_and_instruction_sets(layout, isa):
    before = native.cpu.isa()
    try:
        native.cpu.use_isa(isa)
        model, input = network("unet", in_channels=3), pictures(2, 3, 24, 36).contiguous(memory_format=layout)
        frozen = freeze(model, input)
        assert_same(frozen, model, input)
        assert frozen(input).is_contiguous(memory_format=torch.channels_last)
        strided = pictures(2, 3, 24, 72)[..., ::2]
        assert_same(frozen, model, strided)
    finally:
        native.cpu.use_isa(before)


def test_a_program_made_with_other_vectors_still_gives_the_same():
    others = [name for name, here in native.cpu.isas().items() if here and name != native.cpu.isa()]
    before, model, input = native.cpu.isa(), network(), pictures(1, 1, 32, 32)
    frozen = freeze(model, input)
    try:
        for isa in others:
            native.cpu.use_isa(isa)
            assert_same(frozen, model, input)
    finally:
        native.cpu.use_isa(before)


def test_weights_are_packed_for_the_resolution_that_reads_them():
    """At 100 points for each of the 24 + 4·1 channels at the low resolution, else at 36 for each of 25."""
    weight = torch.randn(24, 25, 3, 3)
    (low, low_maker), (high, high_maker) = (
        torch.ops.myconv2d.pack(weight, None, (1, 25, 32, 32), (1, 1), 24, upsampled, False)
        for upsampled in (True, False)
    )
    assert low_maker != high_maker
    assert low.numel() / high.numel() == (100 * 28) / (36 * 25)
    with pytest.raises(RuntimeError, match="first image has some of its channels"):
        torch.ops.myconv2d.pack(weight, None, (1, 25, 32, 32), (1, 1), 26, True, False)


class Convolutions(nn.Module):
    """Layers that are no blocks: strided, dilated, grouped, large, depthwise, 1×1."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            MyConv2d(3, 8, 5, stride=2, padding=2),
            MyConv2d(8, 12, 3, dilation=2, padding=2, bias=False),
            MyConv2d(12, 12, 3, groups=12, padding="same"),
            MyConv2d(12, 16, 7, padding=3),
            MyConv2d(16, 8, 1, groups=4),
            MyConv2d(8, 3, 4, padding=(1, 2), padding_mode="replicate"),
            MyConv2d(3, 5, 3),
        )

    def forward(self, input):
        return self.layers(input)


class Blocks(nn.Module):
    """Blocks without norm, activation or resizing, pending or not, and a convolution of two concatenated images."""

    def __init__(self):
        super().__init__()
        self.a = ConvBlock(2, 6, norm=False)
        self.b = ConvBlock(6, 9, activation=False, bias=False, resize="pool")
        self.c = ConvBlock(9, 4, 5, norm=False, resize="upsample")
        self.last = MyConv2d(10, 7, 3, padding=1)

    def forward(self, input):
        a = self.a(input)
        return conv_concat(self.last, self.c(self.b(a, pending=True), pending=True), a).detach()[
            :, :, 1:-2, 3:
        ]


@pytest.mark.parametrize("make, channels", [(Convolutions, 3), (Blocks, 2)])
def test_other_layers(make, channels):
    torch.manual_seed(1)
    model = randomise(make())
    frozen = freeze(model, pictures(1, channels, 16, 20))
    assert_same(frozen, model, pictures(1, channels, 16, 20))
    assert_same(frozen, model, pictures(3, channels, 22, 18))


def test_inference_mode():
    model, input = network(), pictures(1, 1, 13, 18)
    with torch.inference_mode():
        assert_same(freeze(model, input), model, input)
        with pytest.raises(RuntimeError, match=r"freeze\(\): the network calls aten"):
            freeze(Uses(lambda self, x: F.silu(self.layer(x))), input)
    frozen = freeze(model, input)
    with torch.inference_mode():
        input = pictures(2, 1, 13, 18)
        assert_same(frozen, model, input)
    assert_same(frozen, model, input)


def test_an_empty_batch():
    model = network()
    assert freeze(model, pictures(1, 1, 8, 8))(pictures(0, 1, 8, 8)).shape == (0, 24, 8, 8)


def test_size_decides_what_python_does():
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.small, self.large = MyConv2d(1, 2, 3, padding=1), MyConv2d(1, 3, 3, padding=1)

        def forward(self, input):
            return self.small(input) if input.shape[0] * input.shape[3] < 20 else self.large(input)

    model = Fickle()
    frozen = freeze(model, pictures(1, 1, 8, 8))
    for size in [(1, 1, 8, 8), (1, 1, 8, 30), (4, 1, 8, 8)]:
        assert_same(frozen, model, pictures(*size))


def test_weights_are_copied():
    model, input = network(), pictures(1, 1, 16, 16)
    frozen = freeze(model, input)
    before = frozen(input)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(frozen(input), before)
    assert frozen(pictures(2, 1, 16, 16)).abs().max() > 0


def test_a_network_in_training_mode_is_frozen_in_evaluation_mode():
    model, input = network().train(), pictures(2, 1, 16, 16)
    frozen = freeze(model, input)
    assert model.training and not frozen.training
    assert_same(frozen, model, input)
    with pytest.raises(RuntimeError, match="cannot be trained"):
        frozen.train()


def test_results_do_not_depend_on_threads_or_neighbours():
    frozen, input, threads = (
        freeze(network(), pictures(1, 1, 32, 32)),
        pictures(1, 1, 32, 32),
        torch.get_num_threads(),
    )
    frozen(input)
    expected = frozen(input)
    try:
        torch.set_num_threads(1)
        assert torch.equal(frozen(input), expected)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(frozen(input), expected)


def test_several_threads_at_once():
    model = network()
    frozen = freeze(model, pictures(1, 1, 32, 32))
    inputs = [pictures(1 + i % 3, 1, 16 + 4 * (i % 5), 32) for i in range(15)]
    with torch.no_grad():
        expected = [model(input) for input in inputs]
    wrong: list[int] = []

    def work(first: int) -> None:
        for i in [*range(first, len(inputs)), *range(first)] * 3:
            if not (frozen(inputs[i]) - expected[i]).abs().max() <= BOUND * expected[i].abs().max():
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(first,)) for first in range(0, 12, 3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies(how):
    model, input = network(), pictures(2, 1, 20, 20)
    frozen = freeze(model, input)
    if how == "deepcopy":
        again = copy.deepcopy(frozen)
    else:
        file = io.BytesIO()
        torch.save(frozen, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
    assert again is not frozen
    assert_same(again, model, input)


def test_more_shapes_than_are_kept():
    model = network("regression-cnn")
    frozen = freeze(model, pictures(1, 1, 4, 4))
    for width in [*range(1, 70), 1, 2]:
        assert_same(frozen, model, pictures(1, 1, 4, width))


class Uses(nn.Module):
    def __init__(self, work):
        super().__init__()
        self.layer, self.work = MyConv2d(1, 8, 3, padding=1), work

    def forward(self, input):
        return self.work(self, input)


def _by_value(self, input):
    return self.layer(input) if input.sum() > 0 else self.layer(-input)


def _random_weight(self, input):
    return myconv2d.conv2d(input, torch.ones(1, 1, 3, 3))


@pytest.mark.parametrize(
    "work, words",
    [
        (lambda self, x: F.relu(self.layer(x)), "aten.relu"),
        (lambda self, x: self.layer(x).sigmoid(), "aten.sigmoid"),
        (lambda self, x: self.layer(x) + 1, "aten.add"),
        (lambda self, x: self.layer(x).mul_(2), "aten.mul_"),
        (lambda self, x: self.layer(F.pad(x, (1, 1, 1, 1))), "aten.constant_pad_nd"),
        (lambda self, x: F.interpolate(self.layer(x), scale_factor=2), "aten.upsample_nearest2d"),
        (lambda self, x: F.conv2d(x, self.layer.weight), "aten.convolution"),
        (_by_value, "aten.sum"),
        (_random_weight, "aten.ones"),
        (lambda self, x: self.layer(x * (x.max().item() > 0)), "aten.max"),
        (lambda self, x: self.layer(torch.from_numpy(x.numpy().copy())), "Tensor.numpy"),
        (lambda self, x: self.layer(x) if x.tolist()[0] else None, "Tensor.tolist"),
        (lambda self, x: (self.layer(x), x), "tuple where only"),
        (lambda self, x: x, "gives its input back"),
        (lambda self, x: self.layer.weight, "where only the input"),
        (lambda self, x: self.layer(x)[:, 1:], "some of the batch, of the channels"),
        (lambda self, x: self.layer(x)[..., ::2], "every few pixels"),
    ],
)
def test_what_cannot_be_recorded_is_named(work, words):
    with pytest.raises(RuntimeError, match=r"freeze\(\): .*" + words.replace(".", r"\.")):
        freeze(Uses(work), pictures(1, 1, 8, 8))


def test_weights_from_elsewhere_are_refused():
    stray = torch.ones(1, 1, 3, 3)
    with pytest.raises(RuntimeError, match="neither a parameter nor a buffer"):
        freeze(Uses(lambda self, x: myconv2d.conv2d(x, stray)), pictures(1, 1, 8, 8))


def test_batch_statistics_are_refused():
    model = nn.Sequential(ConvBlock(1, 8))
    model[0].norm = nn.BatchNorm2d(8, track_running_stats=False)
    with pytest.raises(RuntimeError, match="statistics of the batch"):
        freeze(model, pictures(2, 1, 8, 8))


def test_hooks_see_plain_modules_and_so_are_refused():
    model = network()
    model.rfconv.conv.register_forward_hook(lambda *args: None)
    with pytest.raises(RuntimeError, match="aten"):
        freeze(model, pictures(1, 1, 8, 8))


def test_a_program_that_differs_from_its_network_is_refused(monkeypatch):
    from myconv2d import recording

    fold = recording._folded
    monkeypatch.setattr(recording, "_folded", lambda *args: (fold(*args)[0], fold(*args)[1] + 0.1))
    with pytest.raises(RuntimeError, match="differs from the network by"):
        freeze(network(), pictures(1, 1, 16, 16))


@pytest.mark.parametrize(
    "bad", [pictures(1, 8, 8), pictures(1, 1, 8, 8).double(), torch.empty(1, 1, 8, 8, device="meta"), [1.0]]
)
def test_bad_inputs(bad):
    with pytest.raises(TypeError, match="a frozen network takes"):
        freeze(network(), bad)
    frozen = freeze(network(), pictures(1, 1, 8, 8))
    with pytest.raises(TypeError, match="a frozen network takes"):
        frozen(bad)


def test_the_same_shape_of_another_type():
    frozen = freeze(network(), pictures(1, 1, 8, 8))
    for bad in (pictures(1, 1, 8, 8).double(), torch.empty(1, 1, 8, 8, device="meta")):
        with pytest.raises(TypeError, match="float32"):
            frozen(bad)


def test_no_derivatives():
    frozen, input = freeze(network(), pictures(1, 1, 8, 8)), pictures(1, 1, 8, 8).requires_grad_()
    with pytest.raises(RuntimeError, match="no derivatives"):
        frozen(input)
    with torch.no_grad():
        assert not frozen(input).requires_grad


def test_no_module_and_no_library(monkeypatch):
    with pytest.raises(TypeError, match=r"must be an nn\.Module, got function"):
        freeze(lambda x: x, pictures(1, 1, 8, 8))
    with use_backend("reference"), pytest.raises(RuntimeError, match="not by 'reference'"):
        freeze(network(), pictures(1, 1, 8, 8))
    monkeypatch.setattr(native.cpu, "problem", "it was not built")
    with pytest.raises(RuntimeError, match="it was not built"):
        freeze(network(), pictures(1, 1, 8, 8))


def test_a_program_out_of_bounds_is_refused_natively():
    frozen, input = freeze(network(), pictures(1, 1, 8, 8)), pictures(1, 1, 8, 8)
    program = frozen._programs[input.shape]
    for column, value in [
        (0, 9),
        (1, 7),
        (3, 90),
        (5, 0),
        (5, 10**6),
        (14, 0),
        (17, 10**9),
        (18, 10**9),
        (19, 10**9),
    ]:
        steps = program.steps.clone()
        steps[1, column] = value
        with pytest.raises(RuntimeError, match="myconv2d"):
            torch.ops.myconv2d.replay(input, steps, program.constants)
