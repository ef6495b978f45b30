"""A study for the tests of analysis."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def study(swept: Path, tmp_path: Path) -> Path:
    """A copy to write beside."""
    return Path(shutil.copytree(swept / "results" / "sweep", tmp_path / "results" / "sweep"))
