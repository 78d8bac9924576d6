"""Properties that hold for every convolution: hypothesis looks for one for which they do not."""

import itertools
from contextlib import contextmanager

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from bench.cases import Case
from bench.check import check
from bench.implementations import OPERATORS, RESULTS, backend
from bench.operands import LAYOUTS, Format, Layout
from myconv2d import native, reference
from myconv2d.operators import overload
from myconv2d.shapes import Numbers

if native.cpu.problem is not None:
    pytest.skip(native.cpu.problem, allow_module_level=True)

FLOATING = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
ISAS = [name for name, here in native.cpu.isas().items() if here]


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def convolutions(draw, channels=5, pixels=12) -> Case:
    """Any convolution; the sizes are chosen to fit the kernel, so none is refused."""
    kernel, stride, dilation = draw(pairs(1, 4)), draw(pairs(1, 4)), draw(pairs(1, 3))
    padding = draw(pairs(0, 5))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    reach = [dilation[i] * (kernel[i] - 1) + 1 for i in range(2)]
    height, width = (max(1, reach[i] - 2 * padding[i]) + draw(st.integers(0, pixels)) for i in range(2))
    in_channels, out_channels = (groups * draw(st.integers(1, channels)) for _ in range(2))
    numbers = kernel, stride, padding, dilation, groups, draw(st.booleans())
    return Case("drawn", draw(st.integers(1, 3)), in_channels, out_channels, height, width, *numbers)


@st.composite
def network_layers(draw) -> Case:
    """What networks are made of, for which there are algorithms of their own: square kernels at stride 1."""
    size = draw(st.sampled_from([1, 3, 3, 3, 5]))
    groups = draw(st.sampled_from([1, 1, 1, 2]))
    in_channels, out_channels = (groups * draw(st.sampled_from([1, 3, 4, 8, 13, 24])) for _ in range(2))
    height, width = draw(pairs(max(1, size - 2), 18))
    numbers = (size, size), (1, 1), (size // 2, size // 2), (1, 1), groups, draw(st.booleans())
    return Case("layer", draw(st.integers(1, 3)), in_channels, out_channels, height, width, *numbers)


FORMATS = st.builds(
    Format,
    order=st.sampled_from(list(itertools.permutations(range(4)))),
    gap=st.sampled_from([1, 1, 2, 3]),
    offset=st.integers(0, 9),
    repeated=st.sampled_from([(), (), (), (0,), (1,), (2, 3), (0, 1, 2, 3)]),
)
CASES = st.one_of(convolutions(), network_layers())
MEMORY = st.one_of(
    st.sampled_from(list(LAYOUTS.values())), st.builds(Layout, FORMATS, FORMATS, FORMATS, FORMATS)
)


@contextmanager
def instruction_set(name):
    before = native.cpu.isa()
    native.cpu.use_isa(name)
    try:
        yield
    finally:
        native.cpu.use_isa(before)


def assert_exact_to_rounding(implementation, case, memory, dtype):
    """Values within the oracle's bound, the promised form, operands untouched, the same bits twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LAYOUTS, "drawn", memory)
        report = check(backend(implementation), case, dtype, "drawn")
    assert report.passed, f"{case!r}, {memory}\n{report}"


def test_native():
    """Every instruction set, and every algorithm among the drawn convolutions."""
    seen = set()

    @settings(max_examples=400)
    @given(case=CASES, memory=MEMORY, dtype=st.sampled_from(FLOATING), isa=st.sampled_from(ISAS))
    def holds(case, memory, dtype, isa):
        with instruction_set(isa):
            assert_exact_to_rounding("native", case, memory, dtype)
        sizes = case.input_size, case.output_size, case.weight_size
        seen.update(native.cpu.algorithms(*sizes, Numbers(*case.numbers), dtype).items())

    holds()
    phases = "direct, phases as channels"  # of a strided gradient alone
    algorithms = {algorithm for _, algorithm in seen} - {phases}
    assert len(algorithms) >= 4
    expected = {*itertools.product(native.cpu.PASSES, algorithms), ("grad_input", phases)}
    assert seen == expected, "some were never drawn"


@settings(max_examples=100)
@given(case=CASES, memory=MEMORY, dtype=st.sampled_from(INTEGERS))
def test_native_integers(case, memory, dtype):
    assert_exact_to_rounding("native", case, memory, dtype)


@settings(max_examples=100)
@given(case=CASES, memory=MEMORY, dtype=st.sampled_from(FLOATING + INTEGERS))
def test_reference(case, memory, dtype):
    assert_exact_to_rounding("reference", case, memory, dtype)


def operands(case, dtype=torch.float64):
    """input, weight, grad_output: small integers, so that float64 arithmetic on them is exact."""
    generator = torch.Generator().manual_seed(case.flop)
    sizes = case.input_size, case.weight_size, case.output_size
    return [torch.randint(-8, 9, size, generator=generator).to(dtype) for size in sizes]


def dot(a, b):
    return (a * b).sum()


@settings(max_examples=200)
@given(case=convolutions())
def test_three_derivatives_of_one_form(case):
    """⟨g, conv2d(x, w)⟩ = ⟨conv2d_grad_input(g, w), x⟩ = ⟨conv2d_grad_weight(g, x), w⟩, exactly."""
    x, w, g = operands(case)
    conv2d, grad_input, grad_weight = (overload(operator, "native") for operator in OPERATORS)
    form = dot(g, conv2d(x, w, None, *case.numbers))
    assert form == dot(grad_input(g, w, case.input_size, *case.numbers), x)
    to_weight, to_bias = grad_weight(g, x, case.weight_size, *case.numbers, True)
    assert form == dot(to_weight, w)
    assert torch.equal(to_bias, g.sum((0, 2, 3)))


@settings(max_examples=100)
@given(case=convolutions(), scale=st.integers(-8, 8))
def test_linearity(case, scale):
    """Linear in each of the two operands, exactly, and affine in the bias."""
    x, w, g = operands(case)
    x2, w2, g2 = (t.flip(0).roll(1, -1) - 3 for t in (x, w, g))
    bias = w.sum((1, 2, 3))
    conv2d, grad_input, grad_weight = (overload(operator, "native") for operator in OPERATORS)

    def forward(x, w):
        return conv2d(x, w, None, *case.numbers)

    def to_input(g, w):
        return grad_input(g, w, case.input_size, *case.numbers)

    def to_weight(g, x):
        return grad_weight(g, x, case.weight_size, *case.numbers, False)[0]

    for operator, (a, a2), (b, b2) in (
        (forward, (x, x2), (w, w2)), (to_input, (g, g2), (w, w2)), (to_weight, (g, g2), (x, x2)),
    ):  # fmt: skip
        assert torch.equal(operator(a * scale + a2, b), operator(a, b) * scale + operator(a2, b))
        assert torch.equal(operator(a, b * scale + b2), operator(a, b) * scale + operator(a, b2))
    assert torch.equal(conv2d(x, w, bias, *case.numbers), forward(x, w) + bias[:, None, None])


@settings(max_examples=100)
@given(case=convolutions(pixels=6), steps=st.tuples(*[st.integers(0, 3)] * 4), data=st.data())
def test_overlapping_operands(case, steps, data):
    """Operands whose elements share memory (as_strided with any strides) count as their copies do."""
    x, w, g = operands(case)
    strange = []
    for tensor in (x, w, g):
        strides = data.draw(st.permutations(steps))
        reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, strides, strict=True))
        assume(reach < tensor.numel())
        strange.append(tensor.as_strided(tensor.shape, strides))
    x, w, g = strange
    for operator, first, second, size in zip(
        OPERATORS, (x, g, g), (w, w, x), ((None,), (case.input_size,), (case.weight_size,)), strict=True
    ):
        more = (False,) if operator == "conv2d_grad_weight" else ()
        result = overload(operator, "native")(first, second, *size, *case.numbers, *more)
        truth = getattr(reference, operator)(first.clone(), second.clone(), *size, *case.numbers, *more)
        for our, their in zip(
            *((r,) if isinstance(r, torch.Tensor) else r for r in (result, truth)), strict=True
        ):
            assert torch.equal(our, their)


@settings(max_examples=50)
@given(case=CASES, threads=st.sampled_from([2, 3, 5]))
@example(Case("many pixels", 5, 3, 4, 33, 31, padding=(1, 1)), 2)
def test_threads_do_not_matter(case, threads):
    """The same bits for every number of threads."""
    values = [t.sin() for t in operands(case, torch.float32)]
    results = []
    for count in (1, threads):
        torch.set_num_threads(count)
        x, w, g = values
        results.append((
            overload("conv2d", "native")(x, w, None, *case.numbers),
            overload("conv2d_grad_input", "native")(g, w, case.input_size, *case.numbers),
            *overload("conv2d_grad_weight", "native")(g, x, case.weight_size, *case.numbers, True),
        ))  # fmt: skip
    torch.set_num_threads(1)
    names = [name for operator in OPERATORS for name in RESULTS[operator]]
    for name, one, many in zip(names, *results, strict=True):
        assert torch.equal(one, many), name
