"""What each task asks of a network, on pictures whose answers are known."""

import math

import pytest
import torch

from colourize import tasks
from colourize.colour import Palette, downscale, grey, to_unit
from colourize.files import UserError

PALETTE = Palette(torch.tensor([[0.0, 0.0, 0.0], [0.75, 0.25, 0.25], [0.25, 0.25, 0.75], [0.9, 0.9, 0.9]]))


@pytest.fixture
def pictures():
    return torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def make(name):
    return tasks.kind(name)(PALETTE)


def perfect_output(task, target):
    """The output of a network that knows the target."""
    if task.palette is None:
        return target
    return 50 * torch.nn.functional.one_hot(target, len(PALETTE)).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("name", tasks.NAMES)
def test_a_perfect_output_scores_perfectly(name, pictures):
    task = make(name)
    labelled = PALETTE.colours(PALETTE.quantise(pictures)) if task.palette else pictures
    target = task.target(labelled)
    output = perfect_output(task, target)
    assert output.shape[1] == task.out_channels
    scores = task.score(output, target, labelled)
    assert scores["loss"].item() == pytest.approx(0, abs=1e-6)
    assert scores["psnr"].item() == 100
    assert scores.get("accuracy", torch.ones(())).item() == 1


@pytest.mark.parametrize("name", tasks.NAMES)
def test_input_has_the_channels_and_size_of_the_network(name, pictures):
    task = make(name)
    assert task.degrade(pictures).shape == (3, task.in_channels, 8, 8)
    assert task.prepare(pictures).shape == (3, task.in_channels, 8 * task.enlarges, 8 * task.enlarges)


def test_regression_compares_unit_colours(pictures):
    task = make("regression")
    torch.testing.assert_close(task.target(pictures), pictures.float() / 256)
    output = task.target(pictures) + 0.5
    assert task.loss(output, task.target(pictures)).item() == pytest.approx(0.25)
    assert task.decode(output).max() == 1


def test_classification_compares_labels(pictures):
    task = make("classification")
    target = task.target(pictures)
    assert torch.equal(target, PALETTE.quantise(pictures))
    assert task.loss(torch.zeros(3, 4, 8, 8), target).item() == pytest.approx(math.log(4))


@pytest.mark.parametrize("name", tasks.NAMES)
def test_loss_and_scores_do_not_depend_on_the_number_of_threads(name):
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=generator)
    task, found = make(name), []
    output = torch.randn(40, task.out_channels, 32, 32, generator=generator)
    output = output.contiguous(memory_format=torch.channels_last)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(task.score(output, task.target(pictures), pictures))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", ["classification", "superres"])
def test_scores_of_labels_are_those_of_their_pictures(name, pictures):
    task = make(name)
    target = task.target(pictures)
    output = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = {"loss": torch.nn.functional.cross_entropy(output, target).double()}
    expected |= task.score_pictures(task.decode(output), target, pictures)
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.testing.assert_close(task.score(output.to(memory_format=layout), target, pictures), expected)


def test_superres_input_is_pooled_twice_and_repeated_twice(pictures):
    pooled = torch.nn.functional.avg_pool2d(torch.nn.functional.avg_pool2d(pictures.float() / 256, 2), 2)
    repeated = pooled.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    torch.testing.assert_close(make("superres").degrade(pictures), repeated)


@pytest.mark.parametrize("name", ["regression", "classification"])
def test_finished_colours_keep_the_grey(name, pictures):
    task = make(name)
    muted = (pictures // 4 + 96).byte()  # leaves room for any tint of these outputs
    output = 0.1 * torch.rand(3, task.out_channels, 8, 8)
    finished = task.finish(output, muted)
    torch.testing.assert_close(grey(finished), grey(muted))
    tint = task.blend(output) - grey(task.blend(output))
    torch.testing.assert_close(finished - grey(finished), tint)


def test_finished_enlargement_agrees_with_the_small_picture(pictures):
    task = make("superres")
    flat = torch.full((1, 3, 8, 8), 128, dtype=torch.uint8)
    finished = task.finish(torch.zeros(1, 4, 32, 32), flat)
    torch.testing.assert_close(downscale(finished, 4), to_unit(flat))
    detail = task.finish(torch.randn(3, 4, 32, 32), pictures)
    plain = task.blend(torch.randn(3, 4, 32, 32))
    small = to_unit(pictures)
    assert (downscale(detail, 4) - small).abs().mean() < 0.6 * (downscale(plain, 4) - small).abs().mean()


def test_psnr_is_that_of_the_definition(pictures):
    made = (to_unit(pictures) - 0.1).clamp(0, 1)
    expected = [
        -10 * math.log10((m - p).square().mean()) for m, p in zip(made, to_unit(pictures), strict=True)
    ]
    assert tasks.psnr(made, pictures).tolist() == pytest.approx(expected)


def test_unknown_task_is_named():
    with pytest.raises(UserError, match="'colouring'.*regression, classification, superres"):
        tasks.kind("colouring")


def test_labels_need_a_palette():
    with pytest.raises(ValueError, match="palette"):
        tasks.kind("classification")(None)
