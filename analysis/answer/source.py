"""What an answer is about: a study or a file, with its curves fitted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from analysis.curves.studies import Run
from analysis.fitting.fit import Fit


@dataclass(frozen=True)
class Source:
    """One study, or one file: what is analysed. runs is empty for a file."""

    path: Path
    fits: list[Fit]
    runs: list[Run]
