"""An experiment as data: a question, the trainings that it wants, and what its answer is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..files import UserError
from ..settings import Settings
from .html import Html
from .results import Results


@dataclass(frozen=True)
class Experiment:
    """`runs` by the names under which tables show them; `blocks` turns their results into a section."""

    letter: str
    title: str
    question: str
    runs: Mapping[str, Settings]
    blocks: Callable[[Results], list[Html]]


BUDGETS = {"quick": {"epochs": 2, "limit": 500}, "handout": {"epochs": 25}}


def budget(name: str) -> dict[str, int]:
    """Settings by the name of a budget, or by a number of epochs."""
    if name in BUDGETS:
        return BUDGETS[name]
    if not name.isdecimal() or int(name) < 1:
        raise UserError(f"budget must be {', '.join(BUDGETS)} or a number of epochs, not {name!r}")
    return {"epochs": int(name)}
