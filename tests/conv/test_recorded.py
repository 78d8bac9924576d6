"""recorded(): the same bits as the function, and nothing silently stale."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import myconv2d
from bench import plain
from bench.modules import randomise
from colourize import networks


def trainers(network, criterion, *, lr=1e-3, **options):
    """A step of Adam, twice: as it is and recorded, on copies of a network; both give loss and gradients."""

    def trainer(network):
        rate = torch.tensor(lr, dtype=torch.float64)
        optimizer = torch.optim.Adam(network.parameters(), lr=rate, fused=True, **options)

        def step(grey, target):
            optimizer.zero_grad()
            loss = criterion(network(grey), target)
            loss.backward()
            optimizer.step()
            return {"loss": loss, "grads": [p.grad for p in network.parameters()]}

        return step, network, rate

    return trainer(network), trainer(copy.deepcopy(network))


def equal(a, b):
    a, b = (torch.utils._pytree.tree_flatten(x) for x in (a, b))
    return a[1] == b[1] and all(torch.equal(x, y) for x, y in zip(a[0], b[0], strict=True))


@pytest.mark.parametrize("make", [networks.create, plain.create, lambda name: myconv2d.fuse(plain.create(name)),
                                  lambda name: myconv2d.convert(plain.create(name))],
                         ids=["ours", "plain", "fused", "converted"])  # fmt: skip
@pytest.mark.parametrize("name", ["unet", "cnn", "regression-cnn"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_training_has_the_same_bits(name, make, layout):
    torch.manual_seed(0)
    network = randomise(make(name)).to(memory_format=layout)
    criterion = F.mse_loss if name == "regression-cnn" else myconv2d.cross_entropy
    (step, network, rate), (other, copied, other_rate) = trainers(network, criterion, weight_decay=1e-2)
    replayed = myconv2d.recorded(other)
    for i in range(6):
        rate.fill_(1e-3 * (i + 1))
        other_rate.fill_(1e-3 * (i + 1))
        grey = torch.rand(3, 1, 16, 16)
        out = network(grey).shape
        target = torch.rand(out) if name == "regression-cnn" else torch.randint(24, (3, 16, 16))
        copied.load_state_dict(network.state_dict())  # the forward pass above moved the statistics
        assert equal(step(grey, target), replayed(grey, target)), i
        assert equal(network.state_dict(), copied.state_dict()), i
    assert replayed.recordings == 1 and replayed.problem is None


def test_the_last_batch_is_recorded_apart():
    (step, network, _), (other, copied, _) = trainers(myconv2d.ConvBlock(1, 4), F.mse_loss)
    replayed = myconv2d.recorded(other)
    for n in (3, 2, 3, 2, 3, 2):
        grey, target = torch.rand(n, 1, 8, 8), torch.rand(n, 4, 8, 8)
        assert equal(step(grey, target), replayed(grey, target))
    assert replayed.recordings == 2 and equal(network.state_dict(), copied.state_dict())


def test_random_operators_draw_anew_and_results_are_detached():
    dropped = myconv2d.recorded(lambda x: F.dropout(x * layer.weight, 0.5))
    layer = nn.Linear(64, 1)
    results = [dropped(torch.ones(1, 64)) for _ in range(5)]
    assert not any(r.requires_grad for r in results) and dropped.recordings == 1
    assert len({tuple((r[0] != 0).tolist()) for r in results}) == 5
    torch.manual_seed(7)
    expected = F.dropout(torch.ones(1, 64) * layer.weight, 0.5)
    torch.manual_seed(7)
    assert torch.equal(dropped(torch.ones(1, 64)), expected)


def test_inputs_that_are_one_tensor():
    """… are not taken for each other where they are two."""
    difference = myconv2d.recorded(lambda a, b: a - 2 * b)
    x, y = torch.rand(3), torch.rand(3)
    for a, b in ((x, x), (x, x), (x, x), (x, y), (x, y), (x, y), (y, x)):
        assert torch.equal(difference(a, b), a - 2 * b)


def test_structures_lists_and_tensors_from_outside():
    table = torch.zeros(3)

    def function(x):
        table.add_(x[0])
        first, second = x.split([1, 1])
        lowest, _ = first.min(1)
        return {"rows": (first, second), "table": table, "word": "same", "lowest": lowest}

    replayed, total = myconv2d.recorded(function), torch.zeros(3)
    for _ in range(5):
        x = torch.rand(2, 3)
        total += x[0]
        found = replayed(x)
        assert torch.equal(found["table"], total) and found["word"] == "same"
        assert torch.equal(torch.cat(found["rows"]), x) and torch.equal(found["lowest"], x[:1].min(1)[0])
    assert replayed.recordings == 1


class Called(TorchDispatchMode):
    """The operators that reached the kernels."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def test_gradients_are_not_copied():
    """While it records, autograd sees that the tape has them too; a replay takes them over, as autograd does."""
    (step, _, _), (other, _, _) = trainers(networks.create("regression-cnn"), F.mse_loss)
    replayed = myconv2d.recorded(other)
    batch = torch.rand(2, 1, 16, 16), torch.rand(2, 3, 16, 16)
    for _ in range(3):
        expected, found = step(*batch), replayed(*batch)
    with Called() as called:
        expected, found = step(*batch), replayed(*batch)
    assert equal(expected, found) and "aten::copy_" not in called.names


@pytest.mark.parametrize("function", [
    lambda x: (y := x * 2, copied(y).add_(1)),
    lambda x: ((y := x * 2)[:1], copied(y).add_(1)),
    lambda x: (copied(y := x * 2).add_(1), y + 1),
    lambda x: (copied(x).add_(1), x * 1),
    lambda x: copied(copied(x * 2)).add_(1),
    lambda x: (y := copied(x * 2), copied(y).add_(1)),
], ids=["given", "seen through a view", "read later", "an input", "a copy's", "a copy's, given"])  # fmt: skip
def test_other_copies_are_made(function):
    replayed = myconv2d.recorded(function)
    for _ in range(4):
        x = torch.rand(2, 3)
        assert equal(replayed(x), function(x.clone()))
    assert replayed.recordings == 1


def copied(x):
    return x.new_empty_strided(x.shape, x.stride()).copy_(x)


def test_no_tensor_of_the_recording_is_kept():
    """… nor one of a replay longer than it is used."""
    seen = []

    def function(x):
        y = x * 2
        seen.append(weakref.ref(y))
        return y.sum()

    replayed = myconv2d.recorded(function)
    for _ in range(3):
        replayed(torch.rand(8))
    gc.collect()
    assert all(ref() is None for ref in seen) and len(seen) == 2


def test_autocast_is_what_it_was():
    layer = nn.Linear(8, 8)
    replayed = myconv2d.recorded(lambda x: layer(x))
    x = torch.rand(4, 8)
    plain_result = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = layer(x)
        for _ in range(4):
            assert torch.equal(replayed(x), narrow)
    for _ in range(4):
        assert torch.equal(replayed(x), plain_result)
    assert narrow.dtype is torch.bfloat16 and replayed.recordings == 2


def test_a_first_call_that_fails_counts_for_nothing():
    """An optimizer makes its state in the first step that succeeds, which is not the one to record."""
    failing = iter([True, False, False, False, False])

    def late(grey, target):
        if next(failing):
            raise KeyError("no such file")
        return other(grey, target)

    (step, network, _), (other, copied, _) = trainers(nn.Conv2d(1, 3, 3), F.mse_loss)
    replayed, batch = myconv2d.recorded(late), (torch.rand(2, 1, 8, 8), torch.rand(2, 3, 6, 6))
    with pytest.raises(KeyError):
        replayed(*batch)
    for _ in range(4):
        assert equal(step(*batch), replayed(*batch))
    assert replayed.recordings == 1 and equal(network.state_dict(), copied.state_dict())


def test_literals_are_made_anew():
    """… also where the function, or who calls it, changes them."""

    def function(x):
        total = torch.tensor(1.0)
        total += x.sum()
        return total, torch.tensor([2.0])

    replayed = myconv2d.recorded(function)
    for _ in range(5):
        total, given = replayed(torch.ones(2))
        assert (total.item(), given.item()) == (3.0, 2.0)
        given.add_(1)
    assert replayed.recordings == 1


def test_weights_that_autocast_narrowed_before():
    """The framework keeps them as long as the context lasts: a recording in it must not."""
    layer, x = nn.Linear(8, 8), torch.rand(4, 8)
    replayed = myconv2d.recorded(lambda x: layer(x))
    with torch.autocast("cpu"):
        for _ in range(3):
            replayed(x)
    with torch.no_grad():
        layer.weight.mul_(2)
    with torch.autocast("cpu"):
        assert torch.equal(replayed(x), layer(x))
    with torch.autocast("cpu", torch.float16):
        assert replayed(x).dtype is torch.float16
    assert replayed.recordings == 1


def test_an_input_as_the_result_has_no_derivatives():
    same = myconv2d.recorded(lambda x: x)
    for _ in range(4):
        x = torch.rand(2, requires_grad=True)
        assert torch.equal(same(x), x) and not same(x).requires_grad
    assert same.recordings == 1


def test_numbers_that_nobody_uses_are_drawn_all_the_same():
    def function(x):
        torch.rand(4)
        return x + torch.rand(4)

    replayed = myconv2d.recorded(function)
    for seed in range(4):
        found, expected = (torch.manual_seed(seed) and f(torch.zeros(4)) for f in (replayed, function))
        assert torch.equal(found, expected)
    assert replayed.recordings == 1
