"""freeze(): the same results as the model, for every network and shape, in every mode, thread and copy."""

import copy
import io
import threading

import pytest
import torch
import torch.nn.functional as F
from freezing import Uses, needs_native, network, pictures
from torch import nn

from bench.modules import randomise
from colourize import networks
from myconv2d import ConvBlock, MyConv2d, conv_concat, freeze, native

pytestmark = needs_native

BOUND = 5e-6  # of the largest value: folding batch norm moves roundings through six layers


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
    with pytest.raises(RuntimeError, match="input_size takes four values"):
        torch.ops.myconv2d.pack(weight, None, (1, 25, 32), (1, 1), 24, True, False)


def test_whatever_the_default_type_and_device():
    model, input = network(), pictures(1, 1, 8, 8)
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"):
            frozen = freeze(model, input)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same(frozen, model, input)


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


class Enlarging(nn.Module):
    """Images that are enlarged as tensors, by a block and by the framework, and read alone and beside another."""

    def __init__(self):
        super().__init__()
        self.a = ConvBlock(3, 6, resize="pool")
        self.b = nn.Sequential(ConvBlock(6, 9, resize="upsample"), ConvBlock(9, 5))
        self.c = MyConv2d(6, 4, 3, padding=1)
        self.last = MyConv2d(9, 3, 3, padding=1)

    def forward(self, input):
        a = self.a(input)
        c = self.c(F.interpolate(a, scale_factor=2).contiguous())
        return conv_concat(self.last, self.b(a), c)


@pytest.mark.parametrize("make, channels", [(Convolutions, 3), (Blocks, 2), (Enlarging, 3)])
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
        enlarging = Enlarging()
        assert_same(freeze(enlarging, pictures(1, 3, 16, 16)), enlarging, pictures(1, 3, 16, 16))
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


def test_weights_that_are_loaded_or_converted_are_those_that_serve():
    model, input = network(), pictures(1, 1, 16, 16)
    frozen, other = freeze(model, input), randomise(network())
    frozen.load_state_dict(freeze(other, input).state_dict())
    assert_same(frozen, other, input)
    with pytest.raises(RuntimeError, match="type"):
        frozen.double()(input)


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


def test_exporters_and_traces_see_the_networks_own_operators():
    model, input = network(), pictures(1, 1, 32, 32)
    frozen = freeze(model, input)
    exported = torch.export.export(frozen, (input,))
    operators = {node.target for node in exported.graph.nodes if node.op == "call_function"}
    assert torch.ops.myconv2d.replay.default not in operators
    assert_same(exported.module(), model, input)
    assert_same(torch.jit.trace(frozen, (input,)), model, input)
