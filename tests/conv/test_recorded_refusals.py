"""What recorded() does not replay: it goes on as the function is, and says why once."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import myconv2d


@pytest.mark.parametrize("function", [
    lambda x: x * 2 if x.sum() > 0 else x,
    lambda x: x * x.max().item(),
    lambda x: x[x > 0],
    lambda x: x.numpy().sum() + x,
    lambda x: x + sum(x.tolist()),
], ids=["branch", "item", "size", "numpy", "list"])  # fmt: skip
def test_what_python_sees_is_not_recorded(function):
    """It goes on as it is, right for inputs that take the other way, and says so once."""
    replayed = myconv2d.recorded(function)
    inputs = [torch.arange(4.0) * sign + 1 for sign in (1, 1, -1, 1, -1)]
    replayed(inputs[0])
    with pytest.warns(UserWarning, match="not recorded and runs as it is"):
        assert torch.equal(replayed(inputs[1]), function(inputs[1]))
    for x in inputs[2:]:
        assert torch.equal(replayed(x), function(x))
    assert replayed.recordings == 0 and replayed.problem


@pytest.mark.parametrize("preserved", [True, False], ids=["the same masks", "others"])
def test_checkpoints_draw_the_same_masks_again(preserved):
    """… for which they set the generator back; without that, all is recorded."""
    layer = nn.Linear(64, 64)

    def step(x):
        layer.zero_grad()
        options = {"use_reentrant": False, "preserve_rng_state": preserved}
        output = checkpoint(lambda x: F.dropout(layer(x), 0.5), x, **options)
        output.sum().backward()
        return output[0], layer.bias.grad

    replayed, x = myconv2d.recorded(step), torch.rand(1, 64)
    replayed(x)
    if not preserved:
        for _ in range(3):
            replayed(x)
        assert replayed.recordings == 1
        return
    with pytest.warns(UserWarning, match="the state of a random generator is set in between"):
        replayed(x)
    for _ in range(3):
        output, gradient = replayed(x)
        assert torch.equal(output != 0, gradient != 0)


def test_a_generator_that_is_seeded_anew():
    generator = torch.Generator().manual_seed(1)
    drawn = myconv2d.recorded(lambda x: x + torch.rand(4, generator=generator))
    assert len({tuple(drawn(torch.zeros(4)).tolist()) for _ in range(5)}) == 5 and drawn.recordings == 1

    def seeded(x):
        x = x + torch.rand(4, generator=generator)
        return x + torch.rand(4, generator=generator.manual_seed(7))

    drawn = myconv2d.recorded(seeded)
    drawn(torch.zeros(4))
    with pytest.warns(UserWarning, match="the state of a random generator is set in between"):
        again = drawn(torch.zeros(4))
    assert torch.equal(drawn(torch.zeros(4)), again)


@pytest.mark.parametrize("made", [
    torch.from_numpy,
    torch.as_tensor,
    lambda array: torch.frombuffer(array, dtype=torch.float32),
], ids=["from_numpy", "as_tensor", "frombuffer"])  # fmt: skip
def test_a_tensor_of_a_numpy_array_is_another_in_each_call(made):
    calls = iter(range(99))
    shifted = myconv2d.recorded(lambda x: x + made(np.full(4, next(calls), np.float32)))
    shifted(torch.zeros(4))
    with pytest.warns(UserWarning, match="memory that is not torch's in every call, as torch.from_numpy does"):
        shifted(torch.zeros(4))
    assert [shifted(torch.zeros(4))[0].item() for _ in range(3)] == [2, 3, 4]


def test_a_tensor_of_a_numpy_array_may_stay():
    array = np.zeros(4, np.float32)
    own = torch.from_numpy(array)
    shifted = myconv2d.recorded(lambda x: x + own)
    for value in range(4):
        array[:] = value
        assert shifted(torch.zeros(4)).tolist() == 4 * [value]
    assert shifted.recordings == 1


def accumulating():
    """A step of the optimizer in every second call, so that its state is made in the one that would be recorded."""
    layer, calls = nn.Linear(4, 4), iter(range(99))
    optimizer = torch.optim.Adam(layer.parameters(), lr=torch.tensor(0.1), fused=True)

    def step(x):
        loss = layer(x).square().mean()
        loss.backward()
        if next(calls) % 2:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    return step


def averaging():
    state = {"mean": torch.zeros(3, 4)}

    def step(x):
        state["mean"] = 0.9 * state["mean"] + 0.1 * x
        return state["mean"]

    return step


def assigning():
    layer = nn.Linear(4, 4)

    def step(x):
        layer.weight.data = layer.weight.data * 0.5
        return layer(x)

    return step


def counting():
    def step(x):
        total = torch.zeros(1)
        total[0] += x.sum()
        return x * total.item()

    return step


def sparse():
    return lambda x: torch.sparse.mm(x.to_sparse(), x.t())


@pytest.mark.parametrize(("make", "said"), [
    (accumulating, "keeps a tensor that it makes"), (averaging, "keeps a tensor that it makes"),
    (assigning, "Tensor.data is set"), (counting, "gives Python a number"), (sparse, "is not strided"),
], ids=["state", "rebound", "data", "a view's number", "sparse"])  # fmt: skip
def test_what_a_replay_would_not_do(make, said):
    torch.manual_seed(0)
    function = make()
    torch.manual_seed(0)
    replayed = myconv2d.recorded(make())
    inputs = [torch.rand(3, 4) for _ in range(6)]
    expected, found = [function(x) for x in inputs], [replayed(inputs[0])]
    with pytest.warns(UserWarning, match=said):
        found.append(replayed(inputs[1]))
    found += map(replayed, inputs[2:])
    assert all(map(torch.equal, found, expected)) and replayed.recordings == 0


@pytest.mark.parametrize("to_none", [True, False], ids=["replaced", "set to zero"])
def test_gradients_of_before(to_none):
    """Where somebody puts others in their place, the function adds to these, and says why it is not replayed."""

    def weight(wrap):
        torch.manual_seed(0)
        layer = nn.Linear(4, 4)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        add = wrap(lambda x: layer(x).square().mean().backward())
        for _ in range(3):
            add(torch.rand(3, 4))
            add(torch.rand(3, 4))
            optimizer.step()
            optimizer.zero_grad(set_to_none=to_none)
        return layer.weight

    said = pytest.warns(UserWarning, match="takes gradients of before, and these are others now")
    with said if to_none else nullcontext():
        replayed = weight(myconv2d.recorded)
    assert torch.equal(replayed, weight(lambda function: function))


def test_what_only_complains_is_replayed():
    def checked(x):
        torch._assert_async((x > 0).all())
        return 2 * x

    replayed = myconv2d.recorded(checked)
    for _ in range(3):
        replayed(torch.ones(2))
    with pytest.raises(RuntimeError):
        replayed(-torch.ones(2))
    assert replayed.recordings == 1


def test_another_backend_is_recorded_apart():
    input, weight = torch.rand(1, 16, 16, 16), torch.rand(16, 16, 3, 3)
    replayed = myconv2d.recorded(lambda input: myconv2d.conv2d(input, weight))
    for _ in range(3):
        native = replayed(input)
    with myconv2d.use_backend("reference"):
        for _ in range(3):
            assert torch.equal(replayed(input), myconv2d.conv2d(input, weight))
    assert torch.equal(replayed(input), native) and replayed.recordings == 2


def test_the_first_problem_is_the_one_that_is_named():
    replayed = myconv2d.recorded(lambda x: [x * x.max().item(), *x.unbind()])
    replayed(torch.ones(2))
    with pytest.warns(UserWarning, match="_local_scalar_dense.default gives Python a number"):
        replayed(torch.ones(2))


def test_too_many_kinds_of_inputs():
    replayed = myconv2d.recorded(lambda x: x + 1)
    for n in range(1, 17):
        replayed(torch.rand(n))
    with pytest.warns(UserWarning, match="more than 16 kinds"):
        assert replayed(torch.zeros(17)).tolist() == [1.0] * 17
    assert replayed(torch.zeros(18)).tolist() == [1.0] * 18


@pytest.mark.parametrize("wrong", [3, torch.zeros(2, device="meta"), [torch.zeros(2)]], ids=["number", "meta", "list"])
def test_arguments(wrong):
    said = r"recorded\(\): argument 1 must be a plain tensor on the CPU, got (int|Tensor on meta|list)"
    with pytest.raises(TypeError, match=said):
        myconv2d.recorded(lambda a, b: a)(torch.zeros(2), wrong)
