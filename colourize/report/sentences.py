"""Conclusions in words that follow the numbers: a difference is said only where two 95 % intervals lie apart.

The same pictures stand behind both intervals, so two that overlap may still differ; nothing is claimed of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..evaluation import HIGHER_IS_BETTER
from ..tables import written

_NAMES = {
    "loss": "validation loss", "accuracy": "accuracy", "top-5": "top-5 accuracy", "psnr": "PSNR",
    "luma psnr": "PSNR of Y", "ssim": "SSIM", "ciede2000": "ΔE₀₀", "colourfulness": "colourfulness",
}  # fmt: skip


class Score(NamedTuple):
    """A mean over pictures and its 95 % interval."""

    value: float
    low: float
    high: float


class Measure(NamedTuple):
    """What a score is of: its name in a sentence, how it is written, whether more is better (None: neither)."""

    name: str
    write: Callable[[float], str]
    higher_is_better: bool | None = None


def measure(metric: str) -> Measure:
    """The measure of one of the scores of an evaluation."""
    return Measure(_NAMES[metric], lambda value: written(metric, value), HIGHER_IS_BETTER.get(metric))


def differ(first: Score, second: Score) -> bool:
    """Whether the intervals lie apart."""
    return first.low > second.high or second.low > first.high


def best(of: Measure, scores: Mapping[str, Score]) -> str:
    """The name with the best value, whether or not it is shown to be better."""
    choose = max if of.higher_is_better else min
    return choose(scores, key=lambda name: scores[name].value)


def quoted(of: Measure, score: Score) -> str:
    """Value and interval."""
    low, high = of.write(score.low), of.write(score.high)
    unit = low.lstrip("0123456789.-e+")
    return f"{of.write(score.value)} ({low.removesuffix(unit)} to {high})"


def compare(of: Measure, first: str, one: Score, second: str, two: Score) -> str:
    """Two scores side by side: higher, lower, better, worse, or no difference shown."""
    figures = f"{first} {quoted(of, one)}, {second} {quoted(of, two)}"
    if not differ(one, two):
        return f"No difference in {of.name} is shown: {figures}."
    higher = one.value > two.value
    verdict = f"{_capital(of.name)} is {'higher' if higher else 'lower'} for {first}"
    if of.higher_is_better is not None:
        verdict += ", which is " + ("better" if higher == of.higher_is_better else "worse")
    return f"{verdict}: {figures}."


def against(of: Measure, name: str, score: Score, others: Mapping[str, Score]) -> str:
    """One score beside several: which it is better than, which it loses to, which it is not shown to differ from."""
    groups: dict[str, list[str]] = {"better than": [], "worse than": [], "not shown to differ from": []}
    for other, value in others.items():
        if not differ(score, value):
            key = "not shown to differ from"
        else:
            better = (score.value > value.value) == of.higher_is_better
            key = "better than" if better else "worse than"
        groups[key].append(f"“{other}” ({of.write(value.value)})")
    parts = [f"{key} {listed(names)}" for key, names in groups.items() if names]
    return f"By {of.name}, {name}, at {quoted(of, score)}, is {'; '.join(parts)}."


def ranking(of: Measure, scores: Mapping[str, Score]) -> str:
    """The best of several, those that are not shown to differ from it, and those that are worse."""
    top = best(of, scores)
    others = [name for name in scores if name != top]
    equal = [name for name in others if not differ(scores[name], scores[top])]
    worse = [f"{name} ({of.write(scores[name].value)})" for name in others if name not in equal]
    text = f"By {of.name}, the best value is that of {top}, {quoted(of, scores[top])}."
    if equal:
        equal = [f"{name} ({of.write(scores[name].value)})" for name in equal]
        text += f" No difference from it is shown for {listed(equal)}."
    return text + (f" Worse: {listed(worse)}." if worse else "")


def steps(of: Measure, scores: Mapping[str, Score]) -> str:
    """What each step along an ordered setting does."""
    names = list(scores)
    parts = []
    for before, after in zip(names, names[1:], strict=False):
        one, two = scores[before], scores[after]
        if not differ(one, two):
            word = "no difference shown"
        elif of.higher_is_better is None:
            word = "higher" if two.value > one.value else "lower"
        else:
            word = "better" if (two.value > one.value) == of.higher_is_better else "worse"
        parts.append(f"from {before} to {after}, {word} ({of.write(one.value)} → {of.write(two.value)})")
    return f"{_capital(of.name)}: {'; '.join(parts)}."


def course(name: str, values: Mapping[str, float]) -> str:
    """How a number without an interval, such as a training loss, goes along an ordered setting."""
    numbers = list(values.values())
    pairs = list(zip(numbers, numbers[1:], strict=False))
    if all(before > after for before, after in pairs):
        word = "falls with each step"
    elif all(before < after for before, after in pairs):
        word = "rises with each step"
    else:
        word = "neither falls nor rises throughout"
    figures = listed([f"{value:.4g} at {at}" for at, value in values.items()])
    return f"The {name} {word}: {figures} (one training each, so without intervals)."


def agreement(rows: Mapping[str, Mapping[str, Score]], first: Measure, second: Measure, keys: tuple[str, str]) -> str:
    """In how many pairs of rows two measures show opposite orders, of those in which both show one."""
    names, pairs, opposite = list(rows), 0, []
    for index, one in enumerate(names):
        for two in names[index + 1 :]:
            orders = [
                (rows[one][key].value > rows[two][key].value) == of.higher_is_better
                for of, key in zip((first, second), keys, strict=True)
                if differ(rows[one][key], rows[two][key])
            ]
            if len(orders) == 2:
                pairs += 1
                if orders[0] is not orders[1]:
                    opposite.append(f"“{one}” and “{two}”")
    if not pairs:
        return f"{first.name} and {second.name}: no pair is shown to differ in both."
    text = f"{first.name} and {second.name} put {len(opposite)} of {pairs} pairs in opposite orders"
    return f"{text}, such as {opposite[0]}." if opposite else f"{text}."


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def listed(names: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
