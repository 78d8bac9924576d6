"""The Python examples of the pages run, one page in one namespace, from top to bottom."""

from __future__ import annotations

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
    """What the README takes its reader to have: modules, pictures, a network."""
    tensors = {name: torch.rand(2, 16, 8, 8) for name in ("input", "skip")}
    tensors |= {"weight": torch.rand(8, 16, 3, 3), "logits": torch.rand(2, 5, 8, 8)}
    tensors |= {"pictures": torch.rand(3, 1, 32, 32), "target": torch.zeros(2, 8, 8).long()}
    network = colourize.networks.create("unet", filters=4).eval()
    return {"torch": torch, "myconv2d": myconv2d, "network": network, **tensors}


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
    assert [target for target in targets if not (page.parent / target).exists()] == []
