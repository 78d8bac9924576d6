from __future__ import annotations

import pytest
import torch

from bench.cases import CASES, TAGS, Case, select
from colourize import networks
from myconv2d import MyConv2d

NETWORKS = {  # tags of cases.py, and the networks that they stand for
    "regression-cnn": ("regression-cnn", {}),
    "cnn": ("cnn", {}),
    "cnn-3": ("cnn", {"bottleneck": 3}),
    "unet": ("unet", {}),
    "superres-cnn": ("cnn", {"in_channels": 3}),
    "superres-unet": ("unet", {"in_channels": 3}),
}


def test_names_and_tags_are_apart() -> None:
    assert not set(CASES) & set(TAGS)


@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_every_case_is_a_convolution_that_the_framework_takes(case: Case) -> None:
    if case.in_channels == 0:
        return  # the framework returns nonsense
    with torch.device("meta"):
        stride, padding, dilation, groups = case.numbers
        module = torch.nn.Conv2d(
            case.in_channels, case.out_channels, case.kernel, stride, padding, dilation, groups, case.bias
        )
        assert module.weight.shape == case.weight_size
        assert module(torch.empty(case.input_size)).shape == case.output_size


@pytest.mark.parametrize("tag", NETWORKS)
def test_handout_layers_are_those_of_the_networks(tag: str) -> None:
    name, settings = NETWORKS[tag]
    found = set()

    def note(module: MyConv2d, args, output) -> None:
        found.add((tuple(args[0].shape), tuple(module.weight.shape), tuple(output.shape)))

    network = networks.create(name, **settings)
    for module in network.modules():
        if isinstance(module, MyConv2d):
            module.register_forward_hook(note)
    network.eval()(torch.zeros(10, settings.get("in_channels", 1), 32, 32))
    cases = [case for case in select(tag) if case.batch == 10]
    assert found == {(case.input_size, case.weight_size, case.output_size) for case in cases}


def test_select_by_name_tag_and_pattern() -> None:
    assert [case.name for case in select("odd")] == ["odd"]
    assert select("unet") == [case for case in CASES.values() if "unet" in case.tags]
    assert {case.name for case in select("kernelbench-2-*", "odd")} >= {"kernelbench-2-54", "odd"}
    assert len(select("ten")) == 10
    assert {case.batch for case in select("handout")} == {1, 10, 100, 400}


def test_select_says_what_there_is() -> None:
    with pytest.raises(
        ValueError, match=r"no case has a name or tag like 'unett'; the tags are blocks, cnn, "
    ):
        select("odd", "unett")
