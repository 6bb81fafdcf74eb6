"""The fixture that fails a test for what it leaves behind; `conftest.py` of the unit and contract tests imports it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import nothing_left_behind


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A TMPDIR of the test's own; a thread, child process or `claude-proxy-*` folder that stays fails the test."""
    folder = tmp_path_factory.mktemp("tmp")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with nothing_left_behind(folder):
        yield folder
