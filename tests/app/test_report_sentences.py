"""The report's sentences: better, worse or no difference is said as the intervals have it."""

from colourize.report import large, order, sentences
from colourize.report.sentences import Score, measure

LOW, MIDDLE, HIGH = Score(1.0, 0.9, 1.1), Score(1.15, 1.05, 1.25), Score(1.3, 1.2, 1.4)


def test_lower_is_better_for_a_loss_and_colourfulness_has_no_better():
    loss, colour = measure("loss"), measure("colourfulness")
    assert sentences.compare(loss, "a", LOW, "b", HIGH).startswith("Validation loss is lower for a, which is better:")
    assert sentences.compare(loss, "a", LOW, "b", MIDDLE).startswith("No difference in validation loss is shown:")
    found = sentences.compare(colour, "a", HIGH, "b", LOW)
    assert found.startswith("Colourfulness is higher for a: a 1.3 (1.2 to 1.4)")


def test_a_network_beside_baselines():
    found = sentences.against(measure("loss"), "the network", MIDDLE, {"x": Score(9, 8, 10), "y": Score(0.1, 0, 0.2)})
    assert found == (
        "By validation loss, the network, at 1.15 (1.05 to 1.25), is better than “x” (9); worse than “y” (0.1)."
    )
    assert "not shown to differ from “x”" in sentences.against(measure("loss"), "the network", MIDDLE, {"x": HIGH})


def test_a_ranking_calls_worse_only_what_lies_apart():
    found = sentences.ranking(measure("loss"), {"high": HIGH, "middle": MIDDLE, "low": LOW})
    assert "the best value is that of low, 1 (0.9 to 1.1)" in found
    assert "No difference from it is shown for middle (1.15)." in found
    assert "Worse: high (1.3)." in found
    assert "of high" in sentences.ranking(measure("psnr"), {"high": HIGH, "middle": MIDDLE, "low": LOW})


def test_steps_and_courses():
    found = sentences.steps(measure("accuracy"), {"1": LOW, "2": MIDDLE, "3": Score(0.1, 0, 0.2)})
    assert "from 1 to 2, no difference shown" in found
    assert "from 2 to 3, worse" in found
    assert "falls with each step" in sentences.course("training loss", {"1": 3.0, "2": 2.0, "3": 1.0})
    assert "rises with each step" in sentences.course("training loss", {"1": 1.0, "2": 2.0})
    assert "neither" in sentences.course("training loss", {"1": 1.0, "2": 2.0, "3": 1.5})


def test_measures_that_disagree_are_counted_where_both_show_an_order():
    rows = {"a": {"psnr": HIGH, "ssim": LOW}, "b": {"psnr": LOW, "ssim": HIGH}, "c": {"psnr": MIDDLE, "ssim": MIDDLE}}
    psnr, ssim = measure("psnr"), measure("ssim")
    found = sentences.agreement(rows, psnr, ssim, ("psnr", "ssim"))
    assert found == "PSNR and SSIM put 1 of 1 pairs in opposite orders, such as “a” and “b”."
    rows["b"] = {"psnr": LOW, "ssim": Score(0.1, 0, 0.2)}
    assert "0 of 1 pairs" in sentences.agreement(rows, psnr, ssim, ("psnr", "ssim"))
    assert "no pair" in sentences.agreement({"a": rows["a"], "c": rows["c"]}, psnr, ssim, ("psnr", "ssim"))


def test_orders_and_seams_say_what_was_measured():
    assert "equal to the bit" in order.outputs(0.0, 5)
    assert "differ by at most 3e-07" in order.outputs(3e-7, 5)
    costs = {"x": (1.0, 2.0, Score(2.0, 1.9, 2.1)), "y": (1.0, 1.0, Score(1.01, 0.9, 1.1))}
    costs["z"] = 1.0, 0.5, Score(0.5, 0.4, 0.6)
    longer, same, less = order.sentences(costs)
    assert "takes longer, 2.00 times, for x" in longer
    assert "No difference in time is shown for y" in same
    assert "takes less long, 0.50 times, for z" in less
    assert "no seams" in large.seams(0, 3)
    assert "at most 2 of 255" in large.seams(2, 3)
