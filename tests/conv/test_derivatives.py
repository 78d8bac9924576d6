"""Derivatives of any order, in every mode, of the three operators: they are closed under differentiation."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from bench.implementations import OPERATORS
from myconv2d import MyConv2d, autograd, conv2d
from myconv2d.shapes import Numbers, output_size

# (input size, weight size, stride, padding, dilation, groups): each number differs from its default somewhere
CASES = {
    "plain": ((2, 2, 4, 3), (3, 2, 3, 2), (1, 1), (0, 0), (1, 1), 1),
    "strided": ((1, 1, 6, 5), (2, 1, 3, 2), (2, 3), (1, 0), (1, 1), 1),
    "dilated": ((1, 2, 5, 6), (1, 2, 2, 3), (1, 1), (2, 1), (3, 2), 1),
    "strided and dilated": ((1, 1, 7, 5), (1, 1, 2, 3), (2, 2), (1, 3), (2, 3), 1),
    "grouped": ((1, 4, 3, 3), (6, 2, 2, 2), (1, 2), (1, 1), (1, 1), 2),
    "depthwise": ((2, 3, 4, 4), (3, 1, 3, 3), (1, 1), (1, 1), (1, 1), 3),
    "small groups": ((1, 4, 3, 4), (4, 2, 2, 3), (1, 2), (0, 1), (2, 1), 2),
    "pointwise": ((2, 3, 2, 2), (2, 3, 1, 1), (1, 1), (0, 0), (1, 1), 1),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


def call_and_operands(operator, case, *, bias=True, backend=None, device="cpu"):
    """One of the three operators as a function of its differentiable operands, and those."""
    numbers = Numbers(*case[2:], backend)
    sizes = case[0], case[1], case[1][:1], output_size(*case[:5])
    x, w, b, g = (torch.randn(s, dtype=torch.float64, device=device, requires_grad=True) for s in sizes)
    if operator == "conv2d":
        return lambda x, w, b=None: autograd.conv2d(x, w, b, numbers), (x, w, b) if bias else (x, w)
    if operator == "conv2d_grad_input":
        return lambda g, w: autograd.conv2d_grad_input(g, w, case[0], numbers), (g, w)
    if bias:
        return lambda g, x: autograd.conv2d_grad_weight(g, x, case[1], True, numbers), (g, x)
    return lambda g, x: autograd.conv2d_grad_weight(g, x, case[1], False, numbers)[0], (g, x)


@cases
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_first_and_second_derivatives(operator, case, bias):
    call, operands = call_and_operands(operator, case, bias=bias)
    modes = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert gradcheck(call, operands, **modes, fast_mode=False)
    assert gradgradcheck(
        call, operands, check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True
    )


@cases
def test_frozen_operands(case):
    """With any subset of input, weight and bias frozen."""
    call, operands = call_and_operands("conv2d", case)
    for wanted in itertools.product((True, False), repeat=3):
        if any(wanted):
            some = tuple(t.detach().requires_grad_(wants) for t, wants in zip(operands, wanted, strict=True))
            assert gradcheck(call, some, check_forward_ad=True, fast_mode=True)
            assert gradgradcheck(call, some, fast_mode=True)


@pytest.mark.parametrize("operator", OPERATORS)
def test_derivatives_on_every_backend(place, operator):
    """The formulas are written once, but each backend's own operators must serve them."""
    call, operands = call_and_operands(operator, CASES["grouped"], backend=place.backend, device=place.device)
    node = torch.utils._pytree.tree_leaves(call(*operands))[0].grad_fn
    assert node.numbers.backend == place.backend
    assert gradcheck(call, operands, fast_mode=True)
    assert gradgradcheck(call, operands, fast_mode=True)


def test_complex_derivatives():
    sizes = (1, 2, 3, 3), (2, 1, 2, 3), (2,)
    x, w, b = (torch.randn(size, dtype=torch.complex128, requires_grad=True) for size in sizes)

    def call(x, w, b):
        return conv2d(x, w, b, stride=(1, 2), padding=1, groups=2)

    assert gradcheck(call, (x, w, b), check_forward_ad=True)
    assert gradgradcheck(call, (x, w, b))


def test_third_derivative():
    sizes = (1, 1, 3, 3), (1, 1, 2, 2), (1, 1, 3, 3)
    x, w, v = (torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes)

    def second(convolution):
        y = convolution(x.square(), w.square(), padding=1).square().sum()
        (first,) = torch.autograd.grad(y, x, create_graph=True)
        (again,) = torch.autograd.grad((first * v).sum(), w, create_graph=True)
        return torch.autograd.grad(again.square().sum(), (x, w, v))

    for our, their in zip(second(conv2d), second(F.conv2d), strict=True):
        torch.testing.assert_close(our, their)


def losses(convolution):
    def loss(x, w, b):
        return convolution(x, w, b, stride=2, padding=1, dilation=1, groups=2).sin().sum()

    return loss


FUNC_OPERANDS = ((2, 2, 4, 3), (4, 1, 2, 3), (4,))


@pytest.mark.parametrize("argument", range(3), ids=["input", "weight", "bias"])
@pytest.mark.parametrize("transform", ["grad", "jacrev", "jacfwd", "hessian"])
def test_torch_func(transform, argument):
    operands = [torch.randn(size, dtype=torch.float64) for size in FUNC_OPERANDS]
    our, their = (
        getattr(torch.func, transform)(losses(c), argnums=argument)(*operands) for c in (conv2d, F.conv2d)
    )
    torch.testing.assert_close(our, their)
    assert our.abs().sum() > 0


@pytest.mark.parametrize("operator", OPERATORS)
def test_forward_mode_of_forward_mode(operator):
    """… of operands that are themselves functions, so that their tangents have tangents."""
    call, operands = call_and_operands(operator, CASES["grouped"], bias=False)
    operands = [t.detach() for t in operands]
    scalars = torch.linspace(0.5, 1, len(operands), dtype=torch.float64)

    def loss(scalars):
        return call(*((s * t).sin() for s, t in zip(scalars, operands, strict=True))).sin().sum()

    twice = torch.func.jacfwd(torch.func.jacfwd(loss))
    torch.testing.assert_close(twice(scalars), torch.func.hessian(loss)(scalars))
    torch.testing.assert_close(torch.func.jacfwd(twice)(scalars), torch.func.jacrev(twice)(scalars))


def test_vjp_and_jvp():
    operands = tuple(torch.randn(size, dtype=torch.float64) for size in FUNC_OPERANDS)
    tangents = tuple(torch.randn_like(t) for t in operands)
    results = []
    for convolution in (conv2d, F.conv2d):

        def call(x, w, b, convolution=convolution):
            return convolution(x, w, b, padding="same", groups=2)

        output, pullback = torch.func.vjp(call, *operands)
        with torch.no_grad():
            _, pushed = torch.func.jvp(call, operands, tangents)
            _, linear = torch.func.linearize(call, *operands)
        results.append((output, *pullback(output), pushed, linear(*tangents)))
    for our, their in zip(*results, strict=True):
        torch.testing.assert_close(our, their)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("operator", OPERATORS)
def test_vmap_is_a_loop(operator, groups):
    """Every combination of vmapped operands, at every position of the vmapped axis, forward and backward."""
    case = ((2, 4, 4, 3), (6, 4 // groups, 2, 3), (2, 1), (1, 1), (1, 2), groups)
    call, operands = call_and_operands(operator, case)
    for batched in itertools.product((False, True), repeat=len(operands)):
        if not any(batched):
            continue
        for position in (0, -1):
            dims = tuple(position if b else None for b in batched)
            stacked = [
                torch.stack([torch.randn_like(t) for _ in range(3)], position).requires_grad_() if b else t
                for t, b in zip(operands, batched, strict=True)
            ]
            pairs = list(zip(stacked, batched, strict=True))
            slices = [[t.select(position, i) if b else t for t, b in pairs] for i in range(3)]
            results = torch.vmap(call, dims)(*stacked)
            expected = [call(*one) for one in slices]
            if isinstance(results, tuple):
                expected = tuple(torch.stack(part) for part in zip(*expected, strict=True))
            else:
                results, expected = (results,), (torch.stack(expected),)
            for result, truth in zip(results, expected, strict=True):
                torch.testing.assert_close(result, truth)
            gradients, truths = (
                torch.autograd.grad(sum(t.sin().sum() for t in outputs), stacked, retain_graph=True)
                for outputs in (results, expected)
            )
            for gradient, truth in zip(gradients, truths, strict=True):
                torch.testing.assert_close(gradient, truth)


def test_jacobian_of_an_empty_batch():
    x, w = torch.randn(0, 2, 4, 4), torch.randn(3, 2, 3, 3)
    jacobians = [torch.func.jacrev(lambda x, f=f: f(x, w))(x) for f in (conv2d, F.conv2d)]
    assert jacobians[0].shape == jacobians[1].shape == (0, 3, 2, 2, 0, 2, 4, 4)


def test_nested_vmap():
    x, w, b = (torch.randn(s, dtype=torch.float64) for s in ((2, 3, 1, 2, 4, 4), (3, 4, 1, 2, 2), (2, 4)))

    def call(x, w, b):
        return conv2d(x, w, b, groups=2)

    nested = torch.vmap(torch.vmap(call, (0, 0, None)), (0, None, 0))(x, w, b)
    for i, j in itertools.product(range(2), range(3)):
        torch.testing.assert_close(nested[i, j], call(x[i, j], w[j], b[i]))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_per_sample_gradients(groups):
    """vmap(grad) gives the gradients of each picture by itself."""
    module = MyConv2d(4, 8, 3, padding=1, stride=2, groups=groups, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    pictures = torch.randn(5, 4, 6, 5, dtype=torch.float64)

    def loss(parameters, picture):
        return torch.func.functional_call(module, parameters, (picture[None],)).tanh().sum()

    per_sample = torch.vmap(torch.func.grad(loss), (None, 0))(parameters, pictures)
    for i, picture in enumerate(pictures):
        for name, gradient in torch.func.grad(loss)(parameters, picture).items():
            torch.testing.assert_close(per_sample[name][i], gradient)


def test_ensembles():
    """stack_module_state and functional_call: several networks at once, with their gradients."""
    networks = [torch.nn.Sequential(MyConv2d(2, 3, 3), torch.nn.ReLU(), MyConv2d(3, 2, 2)) for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(networks)
    pictures = torch.randn(2, 2, 6, 6)

    def call(parameters, buffers, pictures):
        return torch.func.functional_call(networks[0], (parameters, buffers), (pictures,))

    outputs = torch.vmap(call, (0, 0, None))(parameters, buffers, pictures)
    torch.testing.assert_close(outputs, torch.stack([network(pictures) for network in networks]))
    gradients = torch.autograd.grad(outputs.square().sum(), list(parameters.values()))
    for (name, _), gradient in zip(parameters.items(), gradients, strict=True):
        for network, one in zip(networks, gradient, strict=True):
            truth = torch.autograd.grad(network(pictures).square().sum(), network.get_parameter(name))[0]
            torch.testing.assert_close(one, truth)


def test_without_private_names(monkeypatch):
    """Where the framework's private fast path is missing, the public one gives the same."""
    operands = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in FUNC_OPERANDS]

    def everything():
        loss = losses(conv2d)
        value = loss(*operands)
        first = torch.autograd.grad(value, operands, create_graph=True)
        second = torch.autograd.grad(sum(g.sin().sum() for g in first), operands)
        return (
            value,
            *first,
            *second,
            torch.func.jacfwd(loss)(*operands),
            torch.vmap(loss, (0, None, None))(operands[0][:, None], *operands[1:]),
        )

    fast = everything()
    monkeypatch.setattr(autograd, "_BELOW_PYTHON", False)
    for slow, quick in zip(everything(), fast, strict=True):
        assert torch.equal(slow, quick)


def test_checkpointing_and_hooks():
    """Saved tensors can be recomputed (torch.utils.checkpoint) or packed (saved_tensors_hooks)."""
    x, w, b = (torch.randn(size, dtype=torch.float64, requires_grad=True) for size in FUNC_OPERANDS)
    expected = torch.autograd.grad(losses(conv2d)(x, w, b), (x, w, b))
    recomputed = torch.utils.checkpoint.checkpoint(losses(conv2d), x, w, b, use_reentrant=False)
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t.clone(), lambda t: t):
        hooked = losses(conv2d)(x, w, b)
    assert len(packed) >= 2
    for value in (recomputed, hooked):
        for gradient, truth in zip(torch.autograd.grad(value, (x, w, b)), expected, strict=True):
            assert torch.equal(gradient, truth)


def test_changed_operands_are_noticed():
    """Backward through an operand that was changed in place is refused, as everywhere in the framework."""
    x, w = torch.randn(1, 2, 4, 4), torch.randn(2, 2, 3, 3, requires_grad=True)
    output = conv2d(x, w)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()
