"""torch.compile, torch.export and torch.jit.trace: one graph, no recompilations, the same numbers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import AotEagerAndRecordGraphs, CompileCounterWithBackend

from myconv2d import ConvBlock, MyConv2d, conv2d, use_backend


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def compiled():
    """compiled(f) is f compiled in one graph; compiled.graphs tells how many were made."""
    counter = CompileCounterWithBackend("aot_eager")

    def compile(function, **options):
        return torch.compile(function, fullgraph=True, backend=counter, **options)

    compile.counter = counter
    return compile


def network(**options):
    return nn.Sequential(
        MyConv2d(3, 8, 3, padding=1, **options), nn.ReLU(),
        MyConv2d(8, 8, 3, stride=2, padding=1, groups=2, **options), nn.ReLU(),
        MyConv2d(8, 4, (2, 3), padding="same", dilation=2, bias=False, **options),
    )  # fmt: skip


def results(module, input):
    """The output and the gradients of the input and every parameter."""
    input = input.detach().requires_grad_()
    output = module(input)
    return output, *torch.autograd.grad(output.square().mean(), [input, *module.parameters()])


def assert_same(ours, theirs):
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their)
        assert our.stride() == their.stride()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_forward_and_backward(compiled, memory_format):
    module = network()
    input = torch.randn(2, 3, 9, 8).contiguous(memory_format=memory_format)
    assert_same(results(compiled(module), input), results(module, input))
    assert compiled.counter.frame_count == 1


def test_inductor():
    """The default compiler, with a pointwise epilogue to fuse."""
    module = nn.Sequential(
        MyConv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), MyConv2d(6, 2, 3, groups=2)
    )
    input = torch.randn(2, 3, 9, 8)
    assert_same(results(torch.compile(module, fullgraph=True), input), results(module, input))


def test_dynamic_sizes_compile_once(compiled):
    """Any batch, height and width with one graph, forward and backward."""
    module = network()
    fast = compiled(module, dynamic=True)
    for size in ((2, 3, 9, 8), (3, 3, 9, 8), (7, 3, 12, 11), (4, 3, 6, 30)):
        input = torch.randn(size)
        assert_same(results(fast, input), results(module, input))
    assert compiled.counter.frame_count == 1


def test_marked_dynamic(compiled):
    """mark_dynamic refuses to be specialised: nothing in the checks fixes a size."""
    module = network()
    fast = compiled(module)
    for batch, height, width in ((2, 9, 8), (5, 10, 7)):
        input = torch.randn(batch, 3, height, width)
        for axis in (0, 2, 3):
            torch._dynamo.mark_dynamic(input, axis)
        assert_same((fast(input),), (module(input),))
    assert compiled.counter.frame_count == 1


def test_automatic_dynamic_batch(compiled):
    """Without being told: one graph for the first batch size, one for all others."""
    module = network()
    fast = compiled(module)
    for batch in (2, 3, 5, 8, 13):
        input = torch.randn(batch, 3, 9, 8)
        assert_same((fast(input),), (module(input),))
    assert compiled.counter.frame_count == 2


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_without_gradients(compiled, mode):
    module = network()
    input = torch.randn(2, 3, 9, 8)
    with mode():
        output = compiled(module)(input)
        assert_same((output,), (module(input),))
    assert not output.requires_grad


def test_numbers_as_arguments(compiled):
    """stride, padding and dilation that change from call to call."""

    def function(x, w, stride, padding, dilation):
        return conv2d(x, w, None, stride, padding, dilation)

    fast = compiled(function, dynamic=True)
    x, w = torch.randn(2, 3, 20, 18), torch.randn(4, 3, 3, 3)
    for numbers in ((2, 2, 2), (3, 4, 2), (4, 5, 3), ((2, 1), (0, 1), (1, 2)), ([1, 1], "same", [1, 1])):
        assert_same((fast(x, w, *numbers),), (F.conv2d(x, w, None, *numbers),))
    assert_same((compiled(function)(x, w, (2,), "valid", 1),), (F.conv2d(x, w, None, 2),))


def test_use_backend_inside():
    """The backend is part of the compiled code, and a change of it outside recompiles."""
    x, w = torch.randn(1, 2, 5, 5), torch.randn(2, 2, 3, 3, requires_grad=True)

    def fixed(x, w):
        with use_backend("reference"):
            return conv2d(x, w)

    def overloads(function):
        recorder = AotEagerAndRecordGraphs()
        output = torch.compile(function, fullgraph=True, backend=recorder)(x, w)
        torch.testing.assert_close(output, conv2d(x, w))
        (graph,) = recorder.fw_graphs
        return {str(node.target) for node in graph.graph.nodes if "myconv2d" in str(node.target)}

    assert overloads(fixed) == {"myconv2d.conv2d.reference"}
    for backend in ("native", "reference", None):
        with use_backend(backend):
            assert overloads(conv2d) == {f"myconv2d.conv2d.{backend or 'native'}"}


def test_autocast(compiled):
    module = network()
    input = torch.randn(2, 3, 9, 8)

    def function(x):
        with torch.autocast("cpu", torch.bfloat16):
            return module(x)

    assert_same((compiled(function)(input),), (function(input),))
    assert function(input).dtype == torch.bfloat16


def test_errors_in_the_graph(compiled):
    """A mistake is found while tracing, with the same words."""
    with pytest.raises(Exception, match="expected input.* to have 3 channels, but got 2"):
        compiled(network())(torch.randn(1, 2, 9, 8))


def test_transforms_inside(compiled):
    """torch.func's grad and vmap within compiled code."""

    def function(x, w):
        def loss(w, x):
            return conv2d(x[None], w, padding=1).square().sum()

        return torch.vmap(torch.func.grad(loss), (None, 0))(w, x)

    x, w = torch.randn(3, 2, 5, 5), torch.randn(4, 2, 3, 3)
    torch.testing.assert_close(compiled(function)(x, w), function(x, w))


def test_forward_mode_inside(compiled):
    """… which Dynamo enters without the framework's Python knowing its level."""

    def function(x, w):
        def loss(x):
            return conv2d(conv2d(x, w).sin(), w).sin().sum()

        return torch.func.jvp(lambda x: torch.func.jvp(loss, (x,), (x,))[1], (x,), (x.sin(),))

    x, w = torch.randn(2, 2, 6, 5, dtype=torch.float64), torch.randn(2, 2, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(compiled(function)(x, w), function(x, w))


def test_training_loop(compiled):
    """Several steps of an optimiser through compiled code follow those through plain code."""
    torch.manual_seed(1)
    plain = nn.Sequential(ConvBlock(3, 8, resize="pool"), ConvBlock(8, 4, resize="upsample", norm=False))
    fast = nn.Sequential(ConvBlock(3, 8, resize="pool"), ConvBlock(8, 4, resize="upsample", norm=False))
    fast.load_state_dict(plain.state_dict())
    input, target = torch.randn(4, 3, 8, 8), torch.randn(4, 4, 8, 8)
    for module, call in ((plain, plain), (fast, compiled(fast))):
        optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(3):
            optimiser.zero_grad()
            F.mse_loss(call(input), target).backward()
            optimiser.step()
    for our, their in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(our, their)


OPERATORS = {torch.ops.myconv2d.conv2d.default}


def operators(program):
    return {node.target for node in program.graph.nodes if "conv" in str(node.target)}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_export(dynamic, strict, tmp_path):
    """An exported program gives the module's results, also once saved and loaded."""
    module = network().eval()
    auto = torch.export.Dim.AUTO
    dynamic_shapes = {"input": {0: torch.export.Dim("batch", max=64), 2: auto, 3: auto}} if dynamic else None
    program = torch.export.export(
        module, (torch.randn(2, 3, 10, 8),), dynamic_shapes=dynamic_shapes, strict=strict
    )
    assert operators(program) == OPERATORS
    torch.export.save(program, tmp_path / "program.pt2")
    loaded = torch.export.load(tmp_path / "program.pt2")
    for each in (program, loaded, program.run_decompositions()):
        for size in ((2, 3, 10, 8), (7, 3, 13, 16)) if dynamic else ((2, 3, 10, 8),):
            other = torch.randn(size)
            assert_same((each.module()(other),), (module(other),))


def test_exported_program_trains(tmp_path):
    """An exported program, also a loaded one, has the module's gradients, first and second."""
    module = network(dtype=torch.float64)
    input = torch.randn(2, 3, 10, 8, dtype=torch.float64)
    torch.export.save(torch.export.export(module, (input,)), tmp_path / "program.pt2")
    loaded = torch.export.load(tmp_path / "program.pt2").module()
    assert loaded.state_dict().keys() == module.state_dict().keys()

    def second(call, parameters):
        first = torch.autograd.grad(call(input).square().mean(), parameters, create_graph=True)
        return *first, *torch.autograd.grad(sum(g.square().sum() for g in first), parameters)

    ours = second(loaded, [loaded.get_parameter(name) for name, _ in module.named_parameters()])
    assert_same(ours, second(module, list(module.parameters())))


def test_exported_program_chooses_its_backend():
    """An exported program is served by what is asked for where it runs, not where it was exported."""
    with use_backend("reference"):
        program = torch.export.export(network(), (torch.randn(2, 3, 10, 8),))
    assert operators(program) == OPERATORS


TRANSFORMS = {
    "grad": lambda f, x: torch.func.grad(f)(x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,)),
    "jacfwd": lambda f, x: torch.func.jacfwd(f)(x),
    "hessian": lambda f, x: torch.func.hessian(f)(x[:1, :, :3, :3]),
    "vmap": lambda f, x: torch.vmap(f)(torch.stack([x, x.sin()])),
    "vmapped gradients": lambda f, x: torch.vmap(torch.func.grad(f))(torch.stack([x, x.sin()])),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=list(TRANSFORMS))
def test_exported_program_is_transformed(transform):
    """torch.func sees an exported program as it sees the module."""
    module, sizes = MyConv2d(2, 3, 3, padding=1, dtype=torch.float64), dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    input = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    program = torch.export.export(module, (input,), dynamic_shapes=(sizes,)).module()
    found, expected = (transform(lambda x, f=f: f(x).sin().sum(), input) for f in (program, module))
    torch.testing.assert_close(found, expected)


def test_forward_mode_of_an_exported_program():
    """… also where no gradients are wanted."""
    module, input = MyConv2d(2, 3, 3, bias=False), torch.randn(2, 2, 5, 4)
    program = torch.export.export(module, (input,)).module()
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(input, input)
        primal, tangent = torch.autograd.forward_ad.unpack_dual(program(dual))
    assert torch.equal(primal, tangent)


def test_exported_program_compiles(compiled):
    module = network()
    input = torch.randn(2, 3, 10, 8)
    exported = torch.export.export(module, (input,)).module()
    assert_same((compiled(exported)(input),), (module(input),))


@pytest.mark.parametrize("grad", [True, False], ids=["with gradients", "without"])
def test_jit_trace(grad, tmp_path):
    """A traced module gives the module's results and gradients for other sizes too, saved and loaded."""
    module = network()
    with torch.set_grad_enabled(grad):
        torch.jit.trace(module, torch.randn(2, 3, 10, 8)).save(str(tmp_path / "traced.pt"))
    loaded = torch.jit.load(str(tmp_path / "traced.pt"))
    for size in ((2, 3, 10, 8), (3, 3, 7, 12)):
        input = torch.randn(size)
        assert_same(results(loaded, input), results(module, input))
        with torch.no_grad():
            torch.testing.assert_close(loaded(input), module(input))
