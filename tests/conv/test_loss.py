"""cross_entropy's numbers, and its gradient's: the framework's in float64 as the oracle, its own where that serves."""

import pytest
import torch
import torch.nn.functional as F
from losses import LAYOUTS, REDUCTIONS, needs_native, problem

from myconv2d import cross_entropy, native

ISAS = [name for name, here in native.cpu.isas().items() if here] if native.cpu.problem is None else []
SIZES = [(2, 5, 7), (1, 1, 1), (3, 1, 65), (1, 33, 31), (2, 64, 32)]
CLASSES = [1, 2, 3, 16, 24, 25, 100, 313]
EPS = torch.finfo(torch.float32).eps


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
