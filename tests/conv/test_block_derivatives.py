"""The derivatives of the fused block: of both orders, with whatever requires them, and what is kept for them."""

import gc
import weakref

import pytest
import torch
from block_cases import BOUND, EPS, NOT_KEPT, OVERLOADS, POSITIONS, Case, composed, error, wide

from myconv2d import Pending, block_operators, block_reference
from myconv2d.block import _activate, block
from myconv2d.operators import overload

CASES = [
    Case(("plain",), (2,), 3, size=(4, 5), norm=False),
    Case(("affine",), (2,), 3, size=(5, 4), pool=True),
    Case(("both", "affine"), (2, 1), 3, size=(4, 6), kernel=(2, 3), padding=(1, 0)),
    Case(("plain", "both"), (1, 2), 2, size=(4, 4), pool=True),
    Case(("affine", "plain"), (2, 2), 3, size=(4, 4), norm=False, bias=False),
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def fused(*args, backend="reference"):
    """The arguments of the operator `block` → the activated image, by way of a pending one."""
    second = None if args[4] is None else Pending(*args[4:8])
    first, padding = Pending(*args[:4]), tuple(args[10])
    raw, scale, shift, _, _ = block(first, second, *args[8:10], padding, *args[11:], backend=backend)
    return raw if args[11] is None else _activate(raw, scale, shift, False, backend)


def with_grad(args):
    return [a.requires_grad_() if isinstance(a, torch.Tensor) else a for a in args]


def of_operands(function, args):
    """`function` as one of the tensors among `args` alone, and these."""
    places = [i for i in POSITIONS if args[i] is not None]

    def call(*tensors):
        filled = list(args)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        return function(*filled)

    return call, tuple(args[i] for i in places)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradcheck(case):
    args = case.arguments(torch.float64)
    if case.norm:
        args[11][0] = -1  # where gamma is 0, pooling turns from the smallest to the largest
    call, operands = of_operands(fused, with_grad(args))
    assert torch.autograd.gradcheck(call, operands, eps=1e-7, atol=1e-5, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, operands, eps=1e-7, atol=1e-4, fast_mode=True)


@pytest.mark.parametrize("backend", OVERLOADS)
@pytest.mark.parametrize(
    "case",
    [
        *CASES,
        Case(("both", "affine"), (16, 8), 16, size=(16, 16), pool=True),
        Case(("both", "affine"), (24, 1), 24, size=(8, 10)),
        *NOT_KEPT[:4],
    ],
    ids=str,
)
def test_both_orders(backend, case):
    """In the type that the backend takes, against the framework's own functions in float64."""
    dtype = torch.float64 if backend == "reference" else torch.float32
    args = with_grad(case.arguments(dtype))
    if backend == "native" and (why_not := block_operators.problem("native", args[8])) is not None:
        pytest.skip(why_not)
    truth = with_grad([a.detach() if isinstance(a, torch.Tensor) else a for a in wide(args)])
    seeds = [torch.randn_like(args[i]) for i in POSITIONS if args[i] is not None]
    results = []
    for function, given in ((lambda *a: fused(*a, backend=backend), args), (composed, truth)):
        call, operands = of_operands(function, given)
        output = call(*operands)
        torch.manual_seed(1)
        seed = torch.randn(output.shape).to(output.dtype)
        plain = torch.autograd.grad(output, operands, seed, retain_graph=True)
        first = torch.autograd.grad(output, operands, seed, create_graph=True)
        loss = sum((g * s).sum() for g, s in zip(first, seeds, strict=True))
        second = torch.autograd.grad(loss, operands, allow_unused=True)
        second = [torch.zeros_like(o) if g is None else g for g, o in zip(second, operands, strict=True)]
        results.append((output, *plain, *first, *second))
    largest = max(t.abs().max() for t in results[1][1:])
    for our, their in zip(*results, strict=True):
        assert (our.double() - their).abs().max() < 10 * BOUND[dtype] * max(largest, 1)
    assert error(results[0][0], results[1][0]) < 5 * BOUND[dtype]


@pytest.mark.skipif("native" not in OVERLOADS, reason="no native blocks here")
@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_exact_where_the_convolution_is_not_kept(mean):
    """The gradient of the weight has at most twice the framework's own error, however far from zero a picture is."""
    args = list(NOT_KEPT[0].arguments(torch.float32))
    args[0] += mean
    gradients = []
    for function, given in (
        (lambda *a: fused(*a, backend="native"), list(args)),
        (composed, list(args)),
        (composed, list(wide(args))),
    ):
        weight = given[8] = given[8].detach().clone().requires_grad_()
        output = function(*given)
        torch.manual_seed(1)
        seed = torch.randn(output.shape).to(output.dtype)
        gradients += torch.autograd.grad(output, weight, seed)
    ours, theirs, truth = gradients
    assert error(ours, truth) <= 2 * error(theirs, truth)


def test_one_tensor_as_both_feeds():
    x, w = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True), torch.randn(3, 4, 3, 3).double()
    nothing = (None, None, False)
    args = (x, *nothing, x, *nothing, w, None, [1, 1], None, None, EPS, False)
    for create_graph in (False, True):
        ours, truth = (
            torch.autograd.grad(f(*args).square().sum(), x, create_graph=create_graph)[0]
            for f in (fused, composed)
        )
        torch.testing.assert_close(ours, truth)


@pytest.mark.parametrize("alone", POSITIONS)
def test_only_one_requires_gradients(alone):
    args = list(Case(("both", "affine"), (2, 3), pool=True).arguments(torch.float64))
    args[alone].requires_grad_()
    weights = torch.randn(composed(*args).shape, dtype=torch.float64)
    ours, truth = (torch.autograd.grad((f(*args) * weights).sum(), args[alone])[0] for f in (fused, composed))
    torch.testing.assert_close(ours, truth)


@pytest.mark.parametrize("used", [(0,), (1,), (2,), (1, 2)], ids=str)
def test_part_of_the_results(used):
    """Where some of raw, scale and shift are not used, their gradient is zero."""
    args = with_grad(Case(("affine",), (2,), 3, pool=True).arguments(torch.float64))
    operands = [args[i] for i in (0, 1, 8, 11)]
    ours = block(Pending(*args[:4]), None, *args[8:10], (1, 1), *args[11:], backend="reference")
    raw, _, _, *vectors = block_reference.block(*args)  # differentiable by itself
    loss, truth = (sum(results[i].sin().sum() for i in used) for results in (ours, (raw, *vectors)))
    expected = torch.autograd.grad(truth, operands, allow_unused=True, materialize_grads=True)
    for create_graph in (False, True):
        found = torch.autograd.grad(
            loss,
            operands,
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
        for gradient, correct in zip(found, expected, strict=True):
            torch.testing.assert_close(gradient, correct)


def test_statistics_have_no_gradient():
    args = with_grad(Case(("plain",), (2,)).arguments(torch.float64))
    *_, mean, var = block(Pending(*args[:4]), None, *args[8:10], (1, 1), *args[11:], backend="reference")
    assert not mean.requires_grad and not var.requires_grad


def test_checkpointing_and_hooks():
    """Saved tensors can be recomputed (torch.utils.checkpoint) or packed (saved_tensors_hooks)."""
    args = with_grad(CASES[1].arguments(torch.float64))
    call, operands = of_operands(fused, args)
    expected = torch.autograd.grad(call(*operands).sin().sum(), operands)
    recomputed = torch.utils.checkpoint.checkpoint(
        lambda *t: call(*t).sin().sum(), *operands, use_reentrant=False
    )
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda t: t):
        hooked = call(*operands).sin().sum()
    for value in (recomputed, hooked):
        for gradient, truth in zip(torch.autograd.grad(value, operands), expected, strict=True):
            assert torch.equal(gradient, truth)


def test_no_image_is_kept_but_raw_ones():
    """For its backward a block keeps its feeds' images as they came, its convolution, and where pooling looked."""
    args = with_grad(Case(("both", "affine"), (2, 3), pool=True).arguments(torch.float64))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        block(Pending(*args[:4]), Pending(*args[4:8]), *args[8:10], (1, 1), *args[11:], backend="reference")
    images = [t for t in kept if t.dim() == 4 and t is not args[8]]
    sizes = [(2, 2, 3, 4), (2, 3, 6, 8), (2, 5, 6, 8), (2, 5, 3, 4)]
    assert sorted(tuple(t.shape) for t in images) == sorted(sizes)
    assert images[-1].dtype == torch.uint8
    assert {t.data_ptr() for t in images} >= {args[0].data_ptr(), args[4].data_ptr()}


def test_changed_operands_are_noticed():
    args = with_grad(CASES[1].arguments(torch.float64))
    output = fused(*args)
    with torch.no_grad():
        args[8].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_no_reference_cycles():
    gc.collect()
    gc.disable()
    try:
        args = with_grad(CASES[3].arguments(torch.float64))
        output = fused(*args)
        watched = [weakref.ref(args[0]), weakref.ref(output), weakref.ref(output.grad_fn)]
        output.sum().backward()
        del args, output
        assert [ref() for ref in watched] == [None] * 3
    finally:
        gc.enable()


def test_every_operator_has_all_overloads():
    for name in block_operators.SCHEMAS:
        packet = getattr(torch.ops.myconv2d, name)
        assert set(packet.overloads()) == {"default", *block_operators.BACKENDS}
        for suffix in packet.overloads():
            assert torch.Tag.pt2_compliant_tag in overload(name, suffix).tags
            schemas = (str(one._schema).partition("(")[2] for one in (overload(name, suffix), packet.default))
            assert len({*schemas}) == 1
