"""Fixtures for the tests of the application."""

from pathlib import Path

import pytest

from colourize import files

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data sets that lies beside the project on its build machines."""
    if not SHARED.is_dir():
        pytest.skip("the data sets of ../shared/data are not here")
    return SHARED


@pytest.fixture
def said(monkeypatch, caplog):
    """A function that returns what was said to the user so far; nothing counts as said before the test."""
    monkeypatch.setattr(files, "_said", set())
    return lambda: caplog.messages
