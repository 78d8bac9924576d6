"""Peak memory: who competes, by name, and that compiling is no part of it."""

from __future__ import annotations

import pytest
import torch

from bench import memory
from bench.networks import NetworkCase
from bench.rows import Row
from bench.tables import network_cells

CPU = torch.device("cpu")


@pytest.mark.parametrize("compiled", [True, False])
def test_the_compiled_rival_competes_where_it_is_asked(compiled: bool) -> None:
    subject = memory.step(CPU, compiled)
    contestants = {contestant.name: contestant.side for contestant in subject.contestants()}
    assert contestants == {
        **dict.fromkeys(("ours contiguous", "ours channels_last"), "ours"),
        **dict.fromkeys(("torch contiguous", "torch channels_last"), "rival"),
        **(dict.fromkeys(("torch contiguous compiled", "torch channels_last compiled"), "rival") if compiled else {}),
    }
    samples = {name: [float(number)] * 3 for number, name in enumerate(contestants, start=1)}
    [row] = [Row("unet", subject.pass_name, "memory", [], unit="B", sides=contestants, samples=samples)]
    assert any(cells[2] == f"**{row.rival}**" for cells in network_cells([row]))


def test_compiling_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CASE", NetworkCase("unet", 2, 8))
    assert 0 <= memory.measure("torch channels_last compiled", "cpu") < 16 << 20
