"""Each test reads its configuration in an empty folder, and no variable of the environment is set."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.upper().startswith("PGHERALD_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
