"""The operators as the framework's dispatcher sees them: schemas, fakes, FLOP counts, determinism."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from bench.implementations import OPERATORS
from myconv2d import MyConv2d, conv2d, use_backend
from myconv2d.operators import overload
from myconv2d.shapes import output_size

OVERLOADS = ["default", "native", "reference"]


def channels_last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last)


LAYOUTS = {
    "contiguous": torch.Tensor.contiguous,
    "channels_last": channels_last,
    "permuted": lambda t: t.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
    "sliced": lambda t: torch.cat([t, t], 3)[..., 1 : 2 * t.shape[3] : 2],
    "expanded": lambda t: t[:1, :, :1].expand(t.shape),
}


def arguments(operator, input_size, weight_size, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, *,
              layouts=("contiguous", "contiguous"), dtype=torch.float32, bias=True):  # fmt: skip
    """The arguments of one of the operators, its two 4-D operands in two layouts."""
    numbers = stride, padding, dilation, groups
    sizes = input_size, weight_size, output_size(input_size, weight_size, stride, padding, dilation)
    x, w, g = (torch.randn(size).to(dtype) for size in sizes)
    first, second = {"conv2d": (x, w), "conv2d_grad_input": (g, w), "conv2d_grad_weight": (g, x)}[operator]
    first, second = (
        LAYOUTS[layout](t) if t.numel() else t for layout, t in zip(layouts, (first, second), strict=True)
    )
    if operator == "conv2d":
        return first, second, torch.randn(weight_size[0]).to(dtype) if bias else None, *numbers
    if operator == "conv2d_grad_input":
        return first, second, list(input_size), *numbers
    return first, second, list(weight_size), *numbers, bias


@pytest.mark.parametrize("suffix", OVERLOADS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_opcheck(operator, suffix):
    """Nothing but the declared effects, and fakes that agree with the results, for every pair of layouts."""
    call = getattr(getattr(torch.ops.myconv2d, operator), suffix)
    for layouts in itertools.product(LAYOUTS, LAYOUTS):
        args = arguments(operator, (2, 4, 5, 6), (6, 2, 3, 2), (2, 1), (1, 0), (1, 2), 2, layouts=layouts)
        report = torch.library.opcheck(call, args, test_utils=("test_schema", "test_faketensor"))
        assert set(report.values()) == {"SUCCESS"}


# Only the default overloads are differentiable by themselves, for exported programs; else the derivatives lie
# above the operators, so that torch.func works, and opcheck's utilities that ask for them do not apply.
@pytest.mark.parametrize("operator", OPERATORS)
def test_opcheck_of_derivatives(operator):
    """The default overloads have an autograd formula, which AOTAutograd can trace with dynamic sizes."""
    call = overload(operator, None)
    utilities = ("test_autograd_registration", "test_aot_dispatch_static", "test_aot_dispatch_dynamic")
    for layout, wanted in (
        ("contiguous", True),
        ("channels_last", True),
        ("permuted", True),
        ("contiguous", False),
    ):
        args = arguments(
            operator, (3, 4, 5, 6), (6, 2, 3, 2), (2, 1), (1, 0), (1, 2), 2, layouts=(layout, layout)
        )
        args = [a.detach().requires_grad_(wanted) if isinstance(a, torch.Tensor) else a for a in args]
        report = torch.library.opcheck(call, args, test_utils=utilities if wanted else utilities[1:])
        assert set(report.values()) == {"SUCCESS"}


GRID = [
    (n, c, h, w, k, kernel, groups)
    for n in (0, 1, 2)
    for c, k, groups in ((1, 1, 1), (1, 3, 1), (2, 2, 2), (4, 1, 1), (4, 6, 2))
    for h, w in ((1, 1), (1, 4), (3, 1), (4, 5))
    for kernel in ((1, 1), (1, 3), (3, 3))
]


@pytest.mark.parametrize("suffix", OVERLOADS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_fakes_agree(operator, suffix):
    """Sizes, types and strides of fake and real results, also where axes of size 1 leave the layout open."""
    call = getattr(getattr(torch.ops.myconv2d, operator), suffix)
    formats = list(itertools.product(("contiguous", "channels_last", "permuted"), repeat=2))
    for i, (n, c, h, w, k, kernel, groups) in enumerate(GRID):
        layouts = formats[i % len(formats)]
        padding = tuple(size // 2 for size in kernel)
        dtype = (torch.float32, torch.bfloat16, torch.float64)[i % 3]
        size, weight_size = (n, c, h, w), (k, c // groups, *kernel)
        options = {
            "padding": padding,
            "groups": groups,
            "layouts": layouts,
            "dtype": dtype,
            "bias": i % 2 == 0,
        }
        args = arguments(operator, size, weight_size, **options)
        real = tree_leaves(call(*args))
        with FakeTensorMode() as mode:
            fake = tree_leaves(
                call(*[mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in args])
            )
        for ours, promised in zip(real, fake, strict=True):
            for what in ("shape", "dtype", "device"):
                assert getattr(ours, what) == getattr(promised, what), (what, size, weight_size, layouts)
            assert ours.stride() == promised.stride(), (size, weight_size, layouts)


@pytest.mark.parametrize("operator", OPERATORS)
def test_fakes_with_symbols(operator):
    """Fakes of unknown sizes compute with symbols and fix none of them."""
    args = arguments(operator, (3, 4, 7, 8), (6, 2, 3, 5), (2, 1), (1, 2), (1, 1), 2)
    mode = FakeTensorMode(shape_env=ShapeEnv())

    def unknown(tensor):
        context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC] * tensor.dim())
        return mode.from_tensor(tensor, symbolic_context=context)

    with mode:
        symbolic = [unknown(a) if isinstance(a, torch.Tensor) else a for a in args]
        first = symbolic[0]
        if operator == "conv2d_grad_input":
            symbolic[2] = [first.shape[0], 4, 2 * first.shape[2], first.shape[3]]
        result = tree_leaves(overload(operator, None)(*symbolic))[0]
    if operator != "conv2d_grad_weight":
        assert isinstance(result.shape[0], torch.SymInt) and str(result.shape[0]) == str(first.shape[0])
        assert isinstance(result.shape[2], torch.SymInt)


def counted(convolution, bias, frozen=False, **options):
    x = torch.randn(2, 4, 9, 8, requires_grad=not frozen)
    w = torch.randn(6, 4 // options.get("groups", 1), 3, 2, requires_grad=True)
    b = torch.randn(6, requires_grad=True) if bias else None
    with FlopCounterMode(display=False) as forward:
        output = convolution(x, w, b, **options)
    with FlopCounterMode(display=False) as backward:
        output.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"padding": 2, "dilation": 2}, {"padding": "same"},
                                     {"groups": 2}, {"groups": 2, "stride": (2, 1)}], ids=str)  # fmt: skip
def test_flop_counter(options, bias, frozen):
    """As the framework's own, which counts a grouped grad_weight `groups` times too often."""
    ours, theirs = (counted(convolution, bias, frozen, **options) for convolution in (conv2d, F.conv2d))
    surplus = (options.get("groups", 1) - 1) * ours[0]
    assert ours == (theirs[0], theirs[1] - surplus)
    assert ours[0] > 0 and ours[1] == ours[0] * (1 if frozen else 2)


def test_flop_counter_names_modules():
    model = torch.nn.Sequential(MyConv2d(3, 8, 3), torch.nn.ReLU(), MyConv2d(8, 2, 1))
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(2, 3, 10, 10))
    counts = counter.get_flop_counts()
    assert sum(counts["Sequential.0"].values()) == 2 * 2 * 8 * 8 * 8 * 3 * 9
    assert sum(counts["Sequential.2"].values()) == 2 * 2 * 8 * 8 * 2 * 8


@pytest.mark.parametrize("suffix", OVERLOADS)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(
    "sizes", [((7, 16, 33, 31), (24, 8, 3, 3)), ((2, 32, 16, 16), (64, 16, 1, 1))], ids=str
)
def test_deterministic(operator, suffix, sizes):
    """The same bits from run to run, whatever else the threads do, and from 1 thread to 2."""
    args = arguments(operator, *sizes, padding=(1, 1), groups=2)
    call = getattr(getattr(torch.ops.myconv2d, operator), suffix)
    first = tree_leaves(call(*args))
    for threads in (1, 2, 2, 2):
        torch.set_num_threads(threads)
        for one, again in zip(first, tree_leaves(call(*args)), strict=True):
            if suffix == "reference" and threads == 2:
                torch.testing.assert_close(one, again)  # its matrix products are the framework's
            else:
                assert torch.equal(one, again)


def test_framework_switch_for_determinism():
    """Nothing here needs the switch, so nothing complains when it is on."""
    x, w = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(4, 3, 3, 3, requires_grad=True)
    plain = torch.autograd.grad(conv2d(x, w).square().sum(), (x, w))
    try:
        torch.use_deterministic_algorithms(True)
        strict = torch.autograd.grad(conv2d(x, w).square().sum(), (x, w))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(plain, strict, strict=True))


@pytest.mark.parametrize("operator", OPERATORS)
def test_default_overload_is_the_automatic_choice(operator):
    args = arguments(operator, (2, 4, 6, 5), (6, 4, 3, 3))
    for default, native in zip(
        *(tree_leaves(overload(operator, name)(*args)) for name in (None, "native")), strict=True
    ):
        assert torch.equal(default, native)


@pytest.mark.parametrize("operator", OPERATORS)
def test_schema_and_tags(operator):
    """One schema for all overloads; results are new tensors; compile-safe."""
    packet = getattr(torch.ops.myconv2d, operator)
    assert set(packet.overloads()) == {"default", "native", "triton", "reference"}
    for name in packet.overloads():
        schema = getattr(packet, name)._schema
        assert not schema.is_mutable and torch.Tag.pt2_compliant_tag in getattr(packet, name).tags
        assert str(schema).partition("(")[2] == str(packet.default._schema).partition("(")[2]


def test_forward_uses_the_operators_only():
    """No convolution of the framework stands behind any backend."""

    class Names(torch.utils._python_dispatch.TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(str(func))
            return func(*args, **(kwargs or {}))

    x, w = torch.randn(2, 4, 6, 6, requires_grad=True), torch.randn(6, 4, 3, 3, requires_grad=True)
    for backend in ("native", "reference"):
        with use_backend(backend), Names() as seen:
            output = conv2d(x, w)
            first = torch.autograd.grad(output.square().sum(), (x, w), create_graph=True)
            torch.autograd.grad(sum(t.square().sum() for t in first), (x, w))
        assert any("myconv2d" in name for name in seen.names)
        assert not [name for name in seen.names if "aten" in name and "conv" in name]
