"""What each task asks of a network, on pictures whose answers are known."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from colourize import abgrid, tasks
from colourize.colour import downscale, grey, to_unit
from colourize.files import UserError
from colourize.palette import Palette
from colourize.tasks import Batch

PALETTE = Palette(torch.tensor([[0.0, 0.0, 0.0], [0.75, 0.25, 0.25], [0.25, 0.25, 0.75], [0.9, 0.9, 0.9]]))


@pytest.fixture
def pictures():
    return torch.randint(0, 256, (3, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def make(name, **options):
    task = tasks.kind(name)(PALETTE, **options)
    if task.needs_frequencies:
        task.frequencies = torch.arange(task.out_channels).double() + 1
    return task


def examples(task, pictures):
    return Batch(task.degrade(pictures), task.target(pictures), pictures)


def perfect_output(task, target):
    """The output of a network that knows the target."""
    if not task.has_classes:
        return target
    return 50 * torch.nn.functional.one_hot(task.labels(target), task.out_channels).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("name", tasks.NAMES)
def test_a_perfect_output_scores_perfectly(name, pictures):
    task = make(name)
    labelled = PALETTE.colours(PALETTE.quantise(pictures)) if task.palette else pictures
    batch = examples(task, labelled)
    output = perfect_output(task, batch.target)
    assert output.shape[1] == task.out_channels
    scores = task.score(output, batch)
    assert {values.shape for values in scores.values()} == {(3,)}
    assert scores.get("accuracy", torch.ones(3)).tolist() == [1, 1, 1]
    if name == "lab-classification":  # its classes are coarser than colours
        assert scores["psnr"].min() > 20
        return
    assert scores["loss"].tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    assert scores["psnr"].min() > (80 if name == "lab-regression" else 99.9)


@pytest.mark.parametrize("name", tasks.NAMES)
def test_input_has_the_channels_and_size_of_the_network(name, pictures):
    task = make(name)
    reduced, enlarged = (task.enlarges, 1) if task.network_enlarges else (1, task.enlarges)
    assert task.degrade(pictures).shape == (3, task.in_channels, 12 // reduced, 12 // reduced)
    assert task.prepare(pictures).shape == (3, task.in_channels, 12 * enlarged, 12 * enlarged)


def test_regression_compares_unit_colours(pictures):
    task = make("regression")
    torch.testing.assert_close(task.target(pictures), pictures.float() / 256)
    output = task.target(pictures) + 0.5
    assert task.loss(output, task.target(pictures)).item() == pytest.approx(0.25)
    assert task.decode(output, task.degrade(pictures)).max() == 1


def test_classification_compares_labels(pictures):
    task = make("classification")
    target = task.target(pictures)
    assert torch.equal(target, PALETTE.quantise(pictures))
    assert task.loss(torch.zeros(3, 4, 12, 12), target).item() == pytest.approx(math.log(4))


@pytest.mark.parametrize("name", tasks.NAMES)
def test_loss_and_scores_do_not_depend_on_the_number_of_threads(name):
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (40, 3, 24, 24), dtype=torch.uint8, generator=generator)
    task, found = make(name), []
    output = torch.randn(40, task.out_channels, 24, 24, generator=generator)
    output = output.contiguous(memory_format=torch.channels_last)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(task.score(output, examples(task, pictures)))
    finally:
        torch.set_num_threads(threads)
    for score, values in found[0].items():
        if name.startswith("lab") and score == "psnr":  # the framework's powers differ in the last bit
            torch.testing.assert_close(values, found[1][score], rtol=1e-6, atol=0)
        else:
            assert torch.equal(values, found[1][score]) and torch.equal(values, found[2][score])


@pytest.mark.parametrize("name", ["classification", "superres"])
def test_scores_of_labels_are_those_of_their_pictures(name, pictures):
    task = make(name)
    batch = examples(task, pictures)
    output = torch.randn(3, 4, 12, 12, generator=torch.Generator().manual_seed(1))
    losses = torch.nn.functional.cross_entropy(output, batch.target, reduction="none").mean((1, 2)).double()
    expected = {"loss": losses, **task.score_pictures(task.decode(output, batch.input), batch)}
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.testing.assert_close(task.score(output.to(memory_format=layout), batch), expected)
    torch.testing.assert_close(task.loss(output, batch.target).double(), losses.mean())


@pytest.mark.parametrize("name", [name for name in tasks.NAMES if tasks.kind(name).has_classes])
def test_top_5_counts_the_right_label_among_five(name, pictures):
    task = make(name)
    batch = examples(task, pictures)
    output = torch.randn(3, task.out_channels, 12, 12, generator=torch.Generator().manual_seed(1))
    best = output.topk(min(5, task.out_channels), 1).indices
    expected = (best == task.labels(batch.target)[:, None]).any(1).double().mean((1, 2))
    found = task.measure(task.decode(output, batch.input), batch, output)["top-5"]
    assert found.tolist() == expected.tolist()


def test_a_table_that_knows_nothing_is_not_right_in_its_first_five(pictures):
    """All classes alike: as argmax says the first of them, the five likeliest are the first five."""
    task = make("lab-classification")
    batch = examples(task, pictures)
    output = torch.zeros(3, task.out_channels, 12, 12)
    expected = (task.labels(batch.target) < 5).double().mean((1, 2))
    found = task.measure(task.decode(output, batch.input), batch, output)["top-5"]
    assert found.tolist() == expected.tolist() and found.max() < 1


@pytest.mark.parametrize("name", [name for name in tasks.NAMES if tasks.kind(name).has_classes])
def test_rebalanced_loss_weighs_every_pixel_by_its_class(name, pictures):
    plain, weighed = make(name, loss="cross-entropy"), make(name, loss="rebalanced")
    p = weighed.frequencies / weighed.frequencies.sum()
    weights = 1 / (0.5 * p + 0.5 / len(p))
    weights /= (weights * p).sum()
    given = weighed.class_weights(pictures.device)
    torch.testing.assert_close(given, weights.float())
    assert weighed.class_weights(pictures.device) is given  # a captured step reads it where it lies
    pixel = pictures[:1, :, :1, :1]  # one pixel, one weight
    output = torch.randn(1, plain.out_channels, 1, 1, generator=torch.Generator().manual_seed(1))
    target = plain.target(pixel)
    own = weights[plain.labels(target).item()].item()
    assert weighed.loss(output, target).item() == pytest.approx(own * plain.loss(output, target).item(), rel=1e-5)


def test_rebalanced_loss_without_frequencies_is_refused(pictures):
    task = tasks.kind("classification")(PALETTE, loss="rebalanced")
    with pytest.raises(ValueError, match="frequencies"):
        task.loss(torch.zeros(3, 4, 12, 12), task.target(pictures))


@pytest.mark.parametrize(("name", "scale"), [("regression", 1), ("lab-regression", 1)])
def test_huber_loss_is_the_framework_s(name, scale, pictures):
    task = make(name, loss="huber")
    target = task.target(pictures)
    output = target + 0.3 * torch.randn(target.shape, generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.huber_loss(output, target, delta=0.1) / 0.1
    torch.testing.assert_close(task.loss(output, target), expected)


def test_unknown_loss_is_named():
    with pytest.raises(UserError, match="mse, huber, perceptual for task regression, not 'cross-entropy'"):
        make("regression", loss="cross-entropy")


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_enlarging_starts_from_what_the_field_starts_from(factor, pictures):
    """Bicubic reduction as PIL has it, rounded to 8 bits; and bicubic enlargement as the picture beside it."""
    task = make(f"enlarge{factor}")
    small = task.degrade(pictures)
    size = 12 // factor
    for found, picture in zip(small, pictures, strict=True):
        image = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.BICUBIC)
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        assert ((found * 256).round() - expected).abs().max() <= 1
    assert torch.equal((small * 256).round(), small * 256)
    bicubic = task.comparisons(pictures)["bicubic"]
    image = Image.fromarray((small[0] * 256).byte().permute(1, 2, 0).numpy())
    expected = torch.from_numpy(np.array(image.resize((12, 12), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    assert ((bicubic[0] * 256).round() - expected).abs().max() <= 1


def test_superres_input_is_pooled_twice_and_repeated_twice(pictures):
    pooled = torch.nn.functional.avg_pool2d(torch.nn.functional.avg_pool2d(pictures.float() / 256, 2), 2)
    repeated = pooled.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    torch.testing.assert_close(make("superres").degrade(pictures), repeated)


@pytest.mark.parametrize("name", ["lab-regression", "lab-classification"])
def test_finished_colours_keep_the_lightness(name, pictures):
    task = make(name)
    muted = (pictures // 8 + 112).byte()
    finished = task.finish(0.1 * torch.rand(3, task.out_channels, 12, 12), muted)
    torch.testing.assert_close(task.degrade(finished), task.degrade(muted), atol=1e-4, rtol=0)


def test_temperature_goes_from_the_likeliest_class_to_the_mean(pictures):
    output = torch.randn(3, 313, 12, 12, generator=torch.Generator().manual_seed(1))
    likeliest = abgrid.classes()[output.argmax(1)].movedim(-1, 1)
    torch.testing.assert_close(make("lab-classification", temperature=0.0).tint(output), likeliest)
    nearly = make("lab-classification", temperature=1e-3).tint(1e3 * output)
    torch.testing.assert_close(nearly, likeliest, atol=1e-3, rtol=0)
    mean = torch.einsum("nmhw,mc->nchw", output.softmax(1), abgrid.classes())
    torch.testing.assert_close(make("lab-classification", temperature=1.0).tint(output), mean)
    assert make("lab-classification").temperature == 0.38


@pytest.mark.parametrize("name", ["regression", "classification"])
def test_finished_colours_keep_the_grey(name, pictures):
    task = make(name)
    muted = (pictures // 4 + 96).byte()  # leaves room for any tint of these outputs
    output = 0.1 * torch.rand(3, task.out_channels, 12, 12)
    finished = task.finish(output, muted)
    torch.testing.assert_close(grey(finished), grey(muted))
    made = task.blend(output) if task.palette else output
    tint = made - grey(made)
    torch.testing.assert_close(finished - grey(finished), tint)


def test_finished_enlargement_agrees_with_the_small_picture(pictures):
    task = make("superres")
    flat = torch.full((1, 3, 8, 8), 128, dtype=torch.uint8)
    finished = task.finish(torch.zeros(1, 4, 32, 32), flat)
    torch.testing.assert_close(downscale(finished, 4), to_unit(flat))
    detail = task.finish(torch.randn(3, 4, 48, 48), pictures)
    plain = task.blend(torch.randn(3, 4, 48, 48))
    small = to_unit(pictures)
    assert (downscale(detail, 4) - small).abs().mean() < 0.6 * (downscale(plain, 4) - small).abs().mean()


def test_unknown_task_is_named():
    with pytest.raises(UserError, match="'colouring'.*regression, classification, superres, lab"):
        tasks.kind("colouring")


def test_labels_need_a_palette():
    with pytest.raises(ValueError, match="palette"):
        tasks.kind("classification")(None)
