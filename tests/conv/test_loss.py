"""cross_entropy against the framework's: float64 as the oracle, its words and its behaviour everywhere else."""

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from myconv2d import cross_entropy, native, use_backend

needs_native = pytest.mark.skipif(native.cpu.problem is not None, reason=str(native.cpu.problem))
ISAS = [name for name, here in native.cpu.isas().items() if here] if native.cpu.problem is None else []
LAYOUTS = {
    "contiguous": torch.Tensor.contiguous,
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "permuted": lambda t: t.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
    "sliced": lambda t: torch.cat([t, t], 3)[..., 1 : 2 * t.shape[3] : 2],
    "some of the classes": lambda t: torch.cat([t, t], 1).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)[:, ::2],
    "expanded": lambda t: t[:1, :, :1].expand(t.shape),
}  # fmt: skip
SIZES = [(2, 5, 7), (1, 1, 1), (3, 1, 65), (1, 33, 31), (2, 64, 32)]
CLASSES = [1, 2, 3, 16, 24, 25, 100, 313]
REDUCTIONS = ["mean", "sum", "none"]
EPS = torch.finfo(torch.float32).eps


def problem(classes, size, ignored=0.2, spread=3.0):
    n, h, w = size
    target = torch.randint(classes, (n, h, w))
    target[torch.rand(n, h, w) < ignored] = -100
    return torch.randn(n, classes, h, w) * spread, target


def derived(loss, logits):
    """The loss and its gradient, under a weighting that tells the pixels apart."""
    weights = torch.linspace(1, 2, loss.numel(), dtype=loss.dtype).view(loss.shape)
    return loss.detach(), torch.autograd.grad((loss * weights).sum(), logits)[0]


def check(logits, target, **options):
    """Against float64, within float32's rounding of numbers of these sizes and of a sum over the classes."""
    logits = logits.detach().requires_grad_()
    loss, gradient = derived(cross_entropy(logits, target, **options), logits)
    exact = logits.detach().double().requires_grad_()
    exact_loss, exact_gradient = derived(F.cross_entropy(exact, target.long(), **options), exact)
    assert loss.dtype == gradient.dtype == torch.float32 and loss.shape == exact_loss.shape
    classes, largest = logits.shape[1], exact.detach().abs().nan_to_num(0, 0, 0).max() if exact.numel() else 0
    bound = EPS * (8 + classes / 8 + 2 * largest)
    torch.testing.assert_close(loss.double(), exact_loss, rtol=bound, atol=bound, equal_nan=True)
    counted = (target != options.get("ignore_index", -100)).sum().item()
    scale = 2 / max(counted, 1) if options.get("reduction", "mean") == "mean" else 2  # of softmax less one-hot
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=bound, atol=bound * scale, equal_nan=True)
    with torch.no_grad():
        assert torch.equal(cross_entropy(logits, target, **options).nan_to_num(-1), loss.nan_to_num(-1))
    return gradient


@needs_native
@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_instruction_set(layout, name, isa):
    isa(name)
    for i, classes in enumerate(CLASSES):
        for size in SIZES if classes < 100 else SIZES[:2]:
            logits, target = problem(classes, size)
            check(LAYOUTS[layout](logits), target, reduction=REDUCTIONS[i % 3])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_reductions(layout, reduction, place):
    logits, target = problem(24, (2, 9, 8))
    logits = LAYOUTS[layout](logits)
    gradient = check(logits, target, reduction=reduction)
    if place.backend == "native":
        assert gradient.stride() == torch.empty_like(logits).stride()
    check(logits, target.clamp(0).byte(), reduction=reduction)
    check(logits, target.transpose(1, 2).contiguous().transpose(1, 2), reduction=reduction)


@pytest.mark.parametrize("shape", [(7, 5), (70, 24), (3, 5, 9), (2, 4, 3, 5, 6), (2, 3, 1, 2, 1, 4)], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_any_number_of_axes(shape, reduction):
    logits, target = torch.randn(shape), torch.randint(shape[1], (shape[0], *shape[2:]))
    check(logits, target, reduction=reduction)
    check(logits.transpose(0, -1).contiguous().transpose(0, -1), target, reduction=reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("index", [-100, 0, 3, 255, -1])
def test_ignore_index(index, reduction):
    """A class too can be ignored; where nothing counts, the mean is NaN and every gradient zero."""
    logits, target = problem(5, (2, 4, 9), ignored=0)
    check(logits, target.where(target != 2, index), reduction=reduction, ignore_index=index)
    nothing = torch.full_like(target, index)
    gradient = check(logits, nothing, reduction=reduction, ignore_index=index)
    assert gradient.count_nonzero() == 0


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (0, 3)], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_pixels(shape, reduction):
    check(torch.randn(shape), torch.zeros(shape[0], *shape[2:], dtype=torch.int64), reduction=reduction)


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("values", [(1e30, -1e30), (88.0, -88.0), (1e36, -1e36), (-INF,), (-INF, 1e36), (INF,), (NAN,),
                                    (INF, -INF), (NAN, -INF), (1e-40, -1e-40)], ids=str)  # fmt: skip
def test_extreme_logits(values, reduction, layout):
    """Each value in some classes of some pixels, right, wrong and ignored ones: the framework's numbers, NaN too.

    (Beyond 1e36 the framework's sum over the pixels overflows, which ours, in double, does not.)
    """
    for value in values:
        logits, target = problem(4, (1, 3, 30))
        logits[torch.rand(logits.shape) < 0.15] = value
        logits[0, :, 1, 5] = value  # a whole pixel
        logits = LAYOUTS[layout](logits).requires_grad_()
        found = (derived(f(logits, target, reduction=reduction), logits) for f in (cross_entropy, F.cross_entropy))
        for ours, theirs in zip(*found, strict=True):
            largest = theirs.nan_to_num(0, 0, 0).abs().max().item()
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * largest, equal_nan=True)


@needs_native
def test_exponential(isa):
    """The kernel's exp: within 4 units in the last place over its whole range, subnormal numbers and zero included.

    Two classes with logits 0 and x < 0 and the first as the target: the second's gradient is eˣ / (1 + eˣ).
    """
    x = -torch.cat([torch.logspace(-8, 2.1, 200_000), torch.linspace(0, 110, 200_001)]).view(1, 1, 1, -1)
    exact = torch.sigmoid(x.double())
    for name in ISAS:
        isa(name)
        logits = torch.cat([torch.zeros_like(x), x], 1).requires_grad_()
        loss = cross_entropy(logits, torch.zeros(1, 1, x.numel(), dtype=torch.int64), reduction="sum")
        gradient = torch.autograd.grad(loss, logits)[0][:, 1:]
        unit = exact.clamp(min=2.0**-126) * EPS  # subnormal numbers have the units of the smallest normal one
        assert ((gradient - exact).abs() <= 4 * unit).all()
        assert (gradient[x < -104] == 0).all() and (gradient[x == 0] == 0.5).all()


@needs_native
@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_bits_on_any_number_of_threads(layout):
    logits, target = problem(24, (5, 40, 41))
    logits = LAYOUTS[layout](logits).requires_grad_()
    found = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        loss = cross_entropy(logits, target)
        found.append((loss.detach(), torch.autograd.grad(loss, logits)[0]))
    for loss, gradient in found[1:]:
        assert torch.equal(loss, found[0][0]) and torch.equal(gradient, found[0][1])


@pytest.mark.parametrize("options", [
    {"weight": torch.rand(5)}, {"label_smoothing": 0.1}, {"weight": torch.rand(5), "label_smoothing": 0.3},
], ids=["weight", "smoothing", "both"])  # fmt: skip
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_what_the_framework_serves(options, reduction):
    logits, target = problem(5, (2, 4, 3))
    for x, t in (
        (logits, target),
        (logits.double(), target),
        (logits.bfloat16(), target),
        (logits, torch.rand(2, 5, 4, 3)),
        (logits[0, :, 0, 0], torch.tensor(3)),
    ):
        if x.dtype == torch.bfloat16:
            options = {name: v.bfloat16() if name == "weight" else v for name, v in options.items()}
        else:
            options = {name: v.to(x.dtype) if name == "weight" else v for name, v in options.items()}
        ours, theirs = (f(x, t, reduction=reduction, **options) for f in (cross_entropy, F.cross_entropy))
        assert torch.equal(ours, theirs)


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

    class Listener(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            heard.append(func)
            return func(*args, **(kwargs or {}))

    heard = []
    with Listener():
        cross_entropy(logits, target)
    assert heard[0] is cross_entropy
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
