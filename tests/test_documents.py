"""The Python examples of the pages run, one page in one namespace, from top to bottom; and those of the docstrings."""

from __future__ import annotations

import doctest
import inspect
import re
from pathlib import Path

import pytest
import torch

import colourize.networks
import myconv2d

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "README.md"]
_EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _at_hand():
    """What the README takes its reader to have: modules, pictures, a network, a training step."""
    tensors = {name: torch.rand(2, 16, 8, 8) for name in ("input", "skip")}
    tensors |= {"weight": torch.rand(8, 16, 3, 3), "logits": torch.rand(2, 5, 8, 8)}
    tensors |= {"pictures": torch.rand(3, 1, 32, 32), "target": torch.zeros(2, 8, 8).long()}
    network = colourize.networks.create("unet", filters=4).eval()
    step = {"step": lambda grey: network(grey).square().mean(), "batches": [(tensors["pictures"],)] * 4}
    return {"torch": torch, "network": network, **step, **tensors}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page):
    text = page.read_text(encoding="utf-8")
    examples = _EXAMPLE.finditer(text)
    torch.manual_seed(0)
    namespace = {"__name__": page.stem, **(_at_hand() if page.name == "README.md" else {})}
    for example in examples:
        line = text.count("\n", 0, example.start(1))
        exec(compile("\n" * line + example[1], page, "exec"), namespace)  # so that errors name the page's own line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    if not (ROOT / "bench" / "results").exists():  # as in an sdist
        targets = [target for target in targets if "bench/results/" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_are_headings(page):
    """As GitHub makes them: lower case, without punctuation, blanks as hyphens."""
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        target = page.parent / path if path else page
        headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_have_as_many_cells_in_every_row(page):
    for table in re.findall(r"(?:^\|.*\n)+", page.read_text(encoding="utf-8"), re.MULTILINE):
        rows = [re.sub(r"`[^`]*`|\\\|", "", row) for row in table.splitlines()]
        assert {row.count("|") for row in rows} == {rows[1].count("|")}, table


@pytest.mark.parametrize("name", ["", *myconv2d.__all__])
def test_every_public_name_has_an_example_that_runs(name):
    """In its docstring; and the package in its own."""
    text = inspect.getdoc(getattr(myconv2d, name) if name else myconv2d)
    given = {"torch": torch, "myconv2d": myconv2d}
    example = doctest.DocTestParser().get_doctest(text, given, name, None, None)
    assert any(f"myconv2d.{name}" in step.source for step in example.examples)
    wanted = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    said = []
    assert doctest.DocTestRunner(optionflags=wanted).run(example, out=said.append).failed == 0, "".join(said)
