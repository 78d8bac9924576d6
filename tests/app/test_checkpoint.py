"""A file of tensors is read whole or refused."""

import pytest
import torch

from colourize import checkpoint
from colourize.files import UserError


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "state.safetensors"
    tensors = {
        "a": torch.randn(3, 5).T,
        "b": torch.tensor(7),
        "empty": torch.zeros(0, 2, dtype=torch.bfloat16),
    }
    checkpoint.save(path, tensors, {"epoch": "3"})
    return path


def test_round_trip(path):
    tensors, notes = checkpoint.load(path)
    assert notes == {"epoch": "3"}
    assert tensors["a"].shape == (5, 3)
    assert tensors["b"].item() == 7
    assert tensors["empty"].dtype is torch.bfloat16


def test_every_changed_byte_is_noticed(path):
    content = path.read_bytes()
    for position in range(0, len(content), 3):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(changed)
        try:
            tensors, notes = checkpoint.load(path)
        except UserError as error:
            assert str(path) in str(error)
        else:  # only blanks between the header's entries may change without changing what is read
            path.write_bytes(content)
            original, original_notes = checkpoint.load(path)
            assert notes == original_notes
            assert all(torch.equal(tensors[name], original[name]) for name in original)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_is_refused(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=f"{path}.*damaged"):
        checkpoint.load(path)


def test_missing_or_foreign_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        checkpoint.load(tmp_path / "none.safetensors")
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(UserError, match="pickle.safetensors"):
        checkpoint.load(tmp_path / "pickle.safetensors")


def test_optimizer_goes_on_to_the_bit():
    def made():
        torch.manual_seed(0)
        network = torch.nn.Linear(4, 4)
        return network, torch.optim.Adam(network.parameters(), lr=0.1, fused=True)

    def steps(network, optimizer, seeds):
        for seed in seeds:
            input = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
            optimizer.zero_grad()
            network(input).square().sum().backward()
            optimizer.step()

    straight, optimizer = made()
    steps(straight, optimizer, range(6))
    first, optimizer = made()
    steps(first, optimizer, range(3))
    second, fresh = made()
    second.load_state_dict(first.state_dict())
    checkpoint.unpack_optimizer(fresh, checkpoint.pack_optimizer(optimizer))
    steps(second, fresh, range(3, 6))
    assert torch.equal(second.weight, straight.weight)


def test_tensors_of_another_network_are_refused():
    with pytest.raises(UserError, match=r"model.safetensors does not fit.*weight"):
        checkpoint.load_network(
            torch.nn.Linear(2, 2), torch.nn.Linear(3, 2).state_dict(), "model.safetensors"
        )
