"""The layer table says what is in the network."""

import pytest

from colourize import networks
from colourize.summary import layers


def test_unet_for_the_handout():
    rows = {row.name: row for row in layers(networks.create("unet"))}
    assert [*rows] == ["downconv1", "downconv2", "rfconv", "upconv1", "upconv2", "finalconv"]
    assert rows["upconv1"][1:] == ("conv, BN, ReLU, upsample", (3, 3), 128, 32, (16, 16), 36960, 4718592)
    assert rows["finalconv"][1:] == ("conv", (3, 3), 25, 24, (32, 32), 5424, 2 * 25 * 24 * 9 * 1024)


@pytest.mark.parametrize("name", [name for name in networks.NAMES if not networks.enlarges(name)])
def test_totals(name):
    rows = layers(networks.create(name), size=64)
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in networks.create(name).parameters())
    before = {"pool": 4, "upsample": 1 / 4}  # pixels of the convolution for each of the layer's
    for row in rows:
        operations = row.operations.split(", ")
        pixels = row.output[0] * row.output[1]
        for operation in operations:
            pixels *= before.get(operation, 1)
        if operations[0] == "transposed conv":
            pixels /= 4  # it is counted by the pixels of its input
        expected = 0 if row.name == "prior" else 2 * 9 * row.channels * row.filters * pixels
        assert row.flops == expected


def test_enlarger_block_by_block():
    network = networks.create("enlarger", filters=8, depth=2, factor=3)
    count = sum(p.numel() for p in network.parameters())
    rows = {row.name: row for row in layers(network, size=10)}
    assert list(rows) == ["inconv", "blocks.0", "blocks.1", "outconv"]
    assert rows["blocks.1"][1:] == ("conv, ReLU, conv, sum", (3, 3), 8, 8, (10, 10), 2 * 584, 2 * 2 * 9 * 64 * 100)
    assert rows["outconv"][1:] == ("conv", (3, 3), 8, 9, (10, 10), 9 * 73, 2 * 9 * 72 * 100)
    assert sum(row.parameters for row in rows.values()) == count


def test_operations_stand_in_their_order():
    found = layers(networks.create("cnn", order="norm-resize-relu"))
    assert [row.operations for row in found[:3]] == ["conv, BN, pool, ReLU"] * 2 + ["conv, BN, ReLU"]
    assert layers(networks.create("pool-upsample"))[3].operations == "conv, upsample, BN, ReLU"
    assert layers(networks.create("conv-transpose"))[3].operations == "transposed conv, BN, ReLU"
    assert layers(networks.create("colour-unet"))[-1].operations == "table of 256 levels"


def test_shape_of_an_odd_picture():
    assert layers(networks.create("cnn"), size=30)[-1].output == (32, 32)
