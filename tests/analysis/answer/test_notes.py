"""What is said beside the numbers of a fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis import describe, fit
from analysis.answer import sentences
from analysis.answer.notes import notes
from analysis.answer.numbers import to_dict
from analysis.curves.studies import read_study
from analysis.curves.targets import curves_at
from tests.analysis.simulation import FOUR, Rows, curve, runs, simulated

TELLING = [
    ([(b, s, "censored", 100, 100) for b in (2, 4, 8) for s in range(2)], "No run reached its target within 100"),
    ([(2, 0, "censored", 100, 100), (4, 0, "reached", 50, 60), (8, 0, "reached", 40, 50)], "at 2 batch sizes only"),
    ([(4, 0, "reached", 50, 60)], "at 1 batch size only: a fit needs three; b0 is below the smallest"),
    ([*runs((8, 50), seeds=3, spread=0.02), *[(4, s, "censored", 500, 500) for s in range(3)]], "and b* ≥"),
    (runs(*((b, 1000 + 2000 / b) for b in FOUR)), "Every run reached its target"),
    (runs(*((b, 1000) for b in FOUR)), "The least N·b is at the smallest"),
    (runs(*((b, 1000 * 1.01 ** (b % 5)) for b in FOUR)), "b0 can't be told from 0: only b* ≤"),
    (runs(*((b, 40000 / b**1.5) for b in FOUR)), "at the largest batch size swept, 32"),
    (runs(*((b, 100 * b**0.5) for b in FOUR), seeds=2, spread=0.02), "N(b) rises"),
    ([(b, 0, "diverged", 9, 9) for b in (4, 8)], "left out of the fit: 1 of 1 at b = 4, 1 of 1 at b = 8"),
    ([(b, s, "reached", 0, 100) for b in FOUR for s in (0, 1)], "had passed the target at their first evaluation"),
    (runs((4, 50), (8, 40), (16, 30)), "One seed"),
    ([*runs((2, 90)), *runs((4, 60), (8, 50), (16, 50), seeds=2, spread=0.1)], "Fewer runs than the 2"),
]


@pytest.mark.parametrize(("rows", "words"), TELLING, ids=[words for _, words in TELLING])
def test_what_can_not_be_told_is_said(rows: Rows, words: str) -> None:
    found = fit(curve(rows))
    assert any(words in note for note in notes(found)), notes(found)
    assert all(note.endswith(".") for note in notes(found))
    json.dumps(to_dict([found]), allow_nan=False)
    assert words.split()[0] in sentences.text([found])
    assert found.curve.name in describe(found)


def test_what_to_sweep_next_is_said() -> None:
    sizes = (16, 32, 64, 128)
    pinned = runs(*((b, 1000 + 2000 / b) for b in sizes))
    assert "Sweep next: batch_size=8,4,2, until a trial is censored." in notes(fit(curve(pinned)))
    steep = runs(*((b, 1e6 / b**2) for b in sizes))
    assert any("batch_size=256,512" in note for note in notes(fit(curve(steep))))
    assert not any("Sweep next" in note for note in notes(fit(simulated(3.2, 0.1, 5))))


def test_a_fit_is_described() -> None:
    text = describe(fit(simulated(3.2, 0.15, 3)))
    assert "b* =" in text
    assert "95 %" in text
    assert "N∞ (1 + (b_c/b)ᵖ)" in text


def test_runs_without_an_outcome_at_the_threshold_are_counted(study: Path) -> None:
    found = read_study(study)
    path = found[0].folder.trajectory_path
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:1]))
    (one,) = [c for c in curves_at(found, study, 185.0) if c.group == found[0].group]
    assert any("1 runs have no outcome at this threshold" in note for note in notes(fit(one)))
