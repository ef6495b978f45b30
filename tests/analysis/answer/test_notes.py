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

EARLY = [*runs((8, 500), (16, 450), seeds=3), *[(4, s, "censored", 800, 800) for s in range(3)]]
TELLING = [
    ([(b, s, "censored", 100, 100) for b in (2, 4, 8) for s in range(2)], "No run reached its target within 100"),
    (
        [(2, 0, "censored", 100, 100), (4, 0, "reached", 50, 60), (8, 0, "reached", 40, 50)],
        "needs three batch sizes that arrived, and there are 2",
    ),
    ([(4, 0, "reached", 50, 60)], "needs three batch sizes that arrived, and there are 1"),
    (runs(*((b, 1000 + 2000 / b) for b in FOUR)), "it can only answer less than 8, twice the smallest size"),
    (runs(*((b, 1000) for b in FOUR)), "reaches the smallest size tried, 4: a smaller one may be cheaper"),
    (runs(*((b, 40000 / b**1.5) for b in FOUR)), "reaches the largest size tried, 32: a larger one may be cheaper"),
    (runs(*((b, 100 * b**0.5) for b in FOUR), seeds=2, spread=0.02), "N(b) rises"),
    ([(b, 0, "diverged", 9, 9) for b in (4, 8)], "Diverged: 1 of 1 at b = 4, 1 of 1 at b = 8"),
    (
        [*runs((8, 500), (16, 450), seeds=3), *[(4, s, "censored", 800, 800) for s in range(3)]],
        "which can't be told apart",
    ),
    ([*runs((8, 500), (16, 450), seeds=3), *[(4, s, "censored", 800, 800) for s in range(3)]], "steps at b = 4"),
    (runs((2, 5000), (4, 1400), (8, 1000), (16, 999), (32, 998), seeds=3, spread=0.01), "The paper's form"),
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
    assert "Sweep next: batch_size=8,4,2, until N·b rises." in notes(fit(curve(pinned)))
    steep = runs(*((b, 1e6 / b**2) for b in sizes))
    assert any("batch_size=256,512" in note for note in notes(fit(curve(steep))))
    narrow = fit(simulated(3.2, 0.1, 5))
    assert narrow.cheapest is not None
    assert narrow.cheapest.octaves < 1
    assert not any("Sweep next" in note for note in notes(narrow))
    wide = fit(simulated(6.0, 0.4, 2))
    assert wide.cheapest is not None
    assert wide.cheapest.octaves > 1
    (told,) = [note for note in notes(wide) if "Sweep next" in note]
    low, high = wide.b_star_ci
    assert low < int(told.split("batch_size=")[1].rstrip(".")) < high  # type: ignore[operator]


def test_runs_that_stopped_before_they_spent_what_the_best_takes_are_told_how_far_to_go() -> None:
    """b = 4 was stopped at 3,200 gradients, where 8 takes 4,000: it must go on for at least 4,000 / 4 steps."""
    rows = [*runs((8, 500), (16, 450), (32, 440), seeds=3, spread=0.02)]
    stopped = fit(curve([*rows, *[(4, s, "censored", 800, 800) for s in range(3)]]))
    (told,) = [note for note in notes(stopped) if note.startswith("Stopped before")]
    assert "b = 4 after 3,200" in told
    steps = float(told.split("go on to ")[1].split(" steps")[0].replace(",", ""))
    assert 4000 / 4 < steps < 2 * 4000 / 4
    assert stopped.b_star_ci[0] is None
    assert not any("batch_size=2" in note for note in notes(stopped))  # going on tells more than a smaller size
    assert stopped.measured_b_star is None
    gone = fit(curve([*rows, *[(4, s, "censored", steps, steps) for s in range(3)]]))
    assert gone.measured_b_star == 8
    assert not any(note.startswith("Stopped") for note in notes(gone))


def test_a_fit_is_described() -> None:
    text = describe(fit(simulated(3.2, 0.15, 3)))
    assert text.startswith("simulated: b* = ")
    assert "P(cheapest)" in text
    assert "30 runs, " in text
    assert "the paper's form holds (p = " in text
    assert "N∞ (1 + (b_c/b)ᵖ)" in text


def test_runs_without_an_outcome_at_the_threshold_are_counted(study: Path) -> None:
    found = read_study(study)
    run = next(run for run in found if len(run.folder.trajectory()) > 1)
    path = run.folder.trajectory_path
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:1]))
    (one,) = [c for c in curves_at(found, study, 185.0) if c.group == run.group]
    assert any("1 runs have no outcome at this threshold" in note for note in notes(fit(one)))
