"""The notebooks run from top to bottom, and hold what such a run gave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return request.param


def test_runs(notebook, tmp_path, monkeypatch):
    """On few pictures and for one epoch."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("COLOURIZE_EPOCHS", "1")
    monkeypatch.setenv("COLOURIZE_LIMIT", "60")
    content = nbformat.read(notebook, as_version=4)
    nbclient.NotebookClient(content, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    kinds = {kind for cell in content.cells for output in cell.get("outputs", ()) for kind in output.get("data", ())}
    assert kinds >= {"image/png", "image/jpeg", "text/html"}


def test_holds_a_whole_run(notebook):
    """Its outputs are of one run in order, without an error, with pictures, and small."""
    cells = [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)
    assert sum("image/jpeg" in output.get("data", ()) for output in outputs) >= 3
    assert notebook.stat().st_size < 400 * 1024
