"""cross_entropy in the framework's place: its words, further derivatives, transforms, compilers and modes."""

import pytest
import torch
import torch.nn.functional as F
from listening import Listener
from losses import LAYOUTS, REDUCTIONS, needs_native, problem

from myconv2d import cross_entropy, use_backend


@pytest.mark.parametrize("arguments, options", [
    ((torch.randn(2, 5, 3, 3), torch.full((2, 3, 3), 99)), {}),
    ((torch.randn(2, 5, 3, 3), torch.full((2, 3, 3), -1)), {}),
    ((torch.randn(2, 5, 3, 3), torch.full((2, 3, 3), 5)), {"ignore_index": 6}),
    ((torch.randn(2, 5, 3, 3), torch.full((2, 3, 4), 1)), {}),
    ((torch.randn(2, 5, 3, 3), torch.full((2, 1, 3, 3), 1)), {}),
    ((torch.randn(2, 5), torch.full((3,), 1)), {}),
    ((torch.randn(2, 5), torch.full((2,), 1, dtype=torch.int32)), {}),
    ((torch.randn(2, 5), torch.full((2,), 1)), {"reduction": "average"}),
    ((torch.randn(2, 5), torch.full((2,), 1)), {"label_smoothing": 2.0}),
    ((torch.randn(2, 5), torch.full((2,), 1)), {"weight": torch.ones(4)}),
    ((torch.randn(2, 5), [1, 2]), {}),
    (([[1.0, 2.0]], torch.full((1,), 1)), {}),
])  # fmt: skip
@pytest.mark.parametrize("wanted", [True, False])
def test_mistakes(arguments, options, wanted):
    """The framework's type of error and its words."""
    logits, target = arguments
    logits = logits.clone().requires_grad_(wanted) if isinstance(logits, torch.Tensor) else logits
    with pytest.raises(Exception) as theirs:
        F.cross_entropy(logits, target, **options)
    with pytest.raises(theirs.type) as ours:
        cross_entropy(logits, target, **options)
    assert str(ours.value).partition("\n")[0] == str(theirs.value).partition("\n")[0]


@needs_native
def test_first_bad_target_is_named():
    target = torch.zeros(4, 40, 40, dtype=torch.int64)
    target[1, 30, 7], target[3, 2, 1] = 24, 1000
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with pytest.raises(IndexError, match=r"^Target 24 is out of bounds\.$"):
            cross_entropy(torch.zeros(4, 24, 40, 40), target)
    with pytest.raises(RuntimeError, match=r"logits \(N, K, H, W\) and a target \(N, H, W\)"):
        torch.ops.myconv2d.cross_entropy(torch.zeros(4, 24, 40, 40), target[:, :-1], 1, -100)
    with pytest.raises(RuntimeError, match="float32"):
        torch.ops.myconv2d.cross_entropy(torch.zeros(4, 24, 40, 40).double(), target, 1, -100)


def test_derivatives_of_the_gradient(place):
    """Double backward, to the logits and to what the gradient is multiplied by."""
    for reduction in REDUCTIONS:
        logits, target = problem(4, (2, 3, 5))
        found = []
        for f, x in ((cross_entropy, logits), (F.cross_entropy, logits.double())):
            x = x.requires_grad_()
            loss = f(x, target, reduction=reduction)
            outer = torch.linspace(1, 2, loss.numel(), dtype=x.dtype).view(loss.shape).requires_grad_()
            (gradient,) = torch.autograd.grad(loss, x, outer, create_graph=True)
            found.append((gradient, *torch.autograd.grad(gradient.square().sum(), (x, outer))))
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)


def test_backward_more_than_once():
    """Every backward of a retained graph gives the same, whatever was done to the gradients given before."""
    logits, target = problem(24, (2, 5, 6))
    for factor in (1.0, 3.0):
        leaf = logits.clone().requires_grad_()
        loss = cross_entropy(leaf, target) * factor
        (expected,) = torch.autograd.grad(F.cross_entropy(leaf, target) * factor, leaf)
        for _ in range(3):
            loss.backward(retain_graph=True)
            torch.testing.assert_close(leaf.grad, expected)
            leaf.grad.zero_()
        loss.backward()
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()


def test_one_loss_in_two_sums():
    """The same loss used twice, and the same logits in two losses."""
    logits, target = problem(5, (2, 5, 6))
    gradients = []
    for f in (cross_entropy, F.cross_entropy):
        x = logits.clone().requires_grad_()
        loss = f(x, target)
        (loss + 0.5 * loss + f(x, target) + f(x.square(), target)).backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)


def test_transforms():
    """torch.func, forward mode and batched gradients see through it."""
    logits, target = problem(5, (3, 4, 2))
    for ours, theirs in zip(*(transformed(f, logits, target) for f in (cross_entropy, F.cross_entropy)), strict=True):
        torch.testing.assert_close(ours, theirs)


def transformed(f, logits, target):
    yield torch.func.grad(f)(logits, target)
    yield torch.func.hessian(f)(logits[:1], target[:1])
    yield torch.func.vmap(torch.func.grad(f))(logits[:, None], target[:, None])
    yield torch.func.jvp(lambda x: f(x, target), (logits,), (logits.cos(),))[1]
    x = logits.clone().requires_grad_()
    yield torch.autograd.grad(f(x, target), x, torch.arange(4.0), is_grads_batched=True)[0]


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_compile(reduction):
    """In one graph, with sizes that change, and inside a transform."""
    torch._dynamo.reset()

    def loss(x, t):
        return cross_entropy(x * 2, t, reduction=reduction).sum() * 3

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for size in ((2, 5, 6), (3, 7, 4), (4, 8, 8)):
        logits, target = problem(6, size)
        x = logits.requires_grad_()
        torch.testing.assert_close(compiled(x, target), loss(x, target))
        torch.testing.assert_close(*(torch.autograd.grad(f(x, target), x)[0] for f in (compiled, loss)))
        inner = torch.compile(lambda x, t: torch.func.grad(loss)(x, t), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(inner(x.detach(), target), torch.func.grad(loss)(x.detach(), target))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reduction", range(3))
def test_opcheck(layout, reduction):
    """Schemas, fakes and derivatives as the framework's own checks see them."""
    logits, target = problem(5, (2, 4, 6))
    logits = LAYOUTS[layout](logits)
    for name, wanted in (("cross_entropy", True), ("cross_entropy", False), ("cross_entropy_with_gradient", False)):
        arguments = (logits.detach().requires_grad_(wanted), target, reduction, -100)
        report = torch.library.opcheck(getattr(torch.ops.myconv2d, name).default, arguments)
        assert set(report.values()) == {"SUCCESS"}


def test_backends_and_subclasses():
    """use_backend("reference") goes round the kernel; modes and subclasses hear of the call."""
    logits, target = problem(5, (2, 4, 6))
    with Listener() as listener:
        cross_entropy(logits, target)
    assert listener.heard[0] is cross_entropy
    with use_backend("reference"):
        assert torch.equal(cross_entropy(logits, target), F.cross_entropy(logits, target))

    class Tagged(torch.Tensor):
        pass

    assert type(cross_entropy(logits.as_subclass(Tagged), target)) is Tagged


def test_requires_grad_and_modes():
    logits, target = problem(5, (2, 4, 6))
    assert not cross_entropy(logits, target).requires_grad
    assert cross_entropy(logits.requires_grad_(), target).requires_grad
    with torch.inference_mode():
        assert cross_entropy(logits, target).is_inference()
    logits = logits.detach().requires_grad_()
    changed = logits * 1
    loss = cross_entropy(changed, target)
    changed.mul_(2)  # as the framework's, what backward needs is kept
    torch.testing.assert_close(*(torch.autograd.grad(f, logits)[0] for f in (loss, F.cross_entropy(logits, target))))
    with torch.autocast("cpu", torch.bfloat16):
        assert cross_entropy(logits, target).dtype == torch.float32
