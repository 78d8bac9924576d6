"""An epoch of ours is the application's own, and the plain loop does the same work on the same pictures."""

from __future__ import annotations

import pytest
import torch

from bench import throughput
from bench.competition import compete
from bench.measure import StoppingRule
from bench.precision import pinned
from bench.tables import network_cells
from bench.throughput import BATCH, epoch

CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_both_see_every_picture_and_come_to_like_losses(precision: str) -> None:
    count = BATCH + 50  # so that the last batch is smaller
    examples, order = throughput._examples(CPU, count)
    assert sorted(torch.cat(order).tolist()) == list(range(count))
    with pinned(precision):
        ours, *plain = epoch(CPU, count).contestants()
        torch.manual_seed(0)
        found = [contestant.prepare().call(0) for contestant in (ours, *plain)]
    losses = [found[0], *(value / len(order) for value in found[1:])]
    assert [contestant.name for contestant in plain] == [
        "torch contiguous, plain loop",
        "torch channels_last, plain loop",
    ]
    assert all(2.5 < loss < 4.5 for loss in losses)  # of 24 random colours, at the beginning: log 24 is 3.2


def test_a_table_says_images_per_second() -> None:
    subject = epoch(CPU, BATCH)
    row = compete(subject, StoppingRule(budget=0, min_rounds=5), only=["ours*", "*channels_last*"])
    assert row.images == BATCH and row.ratio > 0 and row.holds is None
    (_, what, name, text, *_), *_ = network_cells([row])
    assert (what, name) == ("epoch of training", "**ours, colourize train**")
    assert text.endswith(f", {BATCH / row.median('ours, colourize train'):,.0f} images/s")
