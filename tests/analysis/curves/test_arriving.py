"""Other definitions of arriving, on trajectories whose answers are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.curves.arriving import MEDIAN, SECOND, by_median, by_second
from analysis.curves.studies import from_runs, from_study, read_study
from analysis.fitting.fit import fit
from cbs.outcome import METRICS, Censored, Diverged, Evaluation, Outcome, Reached

FID = METRICS["fid"]


def along(*values: float) -> list[Evaluation]:
    """Evaluations at steps 10, 20, …"""
    return [Evaluation(10 * i, 0, 0.0, value) for i, value in enumerate(values, 1)]


@pytest.mark.parametrize(
    ("values", "confirmed", "median", "second"),
    [
        # A lucky dip at 30 counts as the confirmed crossing; the median crosses at 60, of 4.5, 3.8 and 3.9.
        ((9, 8, 3.9, 7, 4.5, 3.8, 3.9, 3.7), Reached(20, 30), Reached(50, 60), Reached(40, 60)),
        # It stays below: the median crosses at the confirmed one, which every second evaluation sees too.
        ((9, 8, 7, 3.9, 3.8, 3.7), Reached(30, 40), Reached(30, 40), Reached(20, 40)),
        # It stops at its crossing: what follows is unknown, and the median at 30 with it.
        ((9, 8, 3.9), Reached(20, 30), Censored(20), Censored(20)),
        # It never arrived: the last median is short whatever follows.
        ((9, 8, 7, 6), Censored(40), Censored(40), Censored(40)),
        ((9, 8, 7, 6, 5), Censored(50), Censored(50), Censored(40)),
        ((9, 8), Diverged(25), Diverged(25), Diverged(25)),
        # Below at the first evaluation already: only an upper end is known.
        ((3, 3, 3), Reached(0, 10), Reached(0, 10), Reached(0, 20)),
    ],
)
def test_when_a_run_arrives(values: tuple[float, ...], confirmed: Outcome, median: Outcome, second: Outcome) -> None:
    seen = along(*values)
    assert by_median(seen, 4.0, FID, confirmed) == median
    assert by_second(seen, 4.0, FID, confirmed) == second


def test_of_a_rising_metric_the_other_side_counts() -> None:
    seen = along(1, 2, 6.1, 3, 5.5, 6.2, 6.1, 6.3)
    assert by_median(seen, 6.0, METRICS["inception_score"], Reached(20, 30)) == Reached(50, 60)
    assert by_second(seen, 6.0, METRICS["inception_score"], Reached(20, 30)) == Reached(40, 60)


def test_a_studys_curves_carry_them_where_runs_went_on(study: Path) -> None:
    """Runs are made to go on for three evaluations past the crossing; without that, no median is known there."""
    for run in read_study(study):
        last = run.trajectory[-1]
        rows = [json.dumps({"schema": 1, **replace(last, step=last.step + k).to_dict()}) for k in (1, 2, 3)]
        with run.folder.trajectory_path.open("a") as file:
            file.write("".join(f"{row}\n" for row in rows))
    runs = read_study(study)
    for one in from_runs(runs, study, 175.0):
        reached = int((one.frame["outcome"] == "reached").sum())
        found = one.variants()
        assert set(found) <= {MEDIAN, SECOND}
        assert MEDIAN in found or reached == 0
        for name, other in found.items():
            assert len(other.frame) == len(one.frame)
            assert (other.optimizer, other.threshold, other.about) == (one.optimizer, one.threshold, one.about)
            both = one.frame.merge(other.frame, on=["batch_size", "seed"])
            arrived = both[(both["outcome_x"] == "reached") & (both["outcome_y"] == "reached")]
            if name == SECOND:
                assert (arrived["steps_y"] >= arrived["steps_x"]).all()
        assert set(fit(one).variants) == set(found)


def test_what_was_trained_is_named(study: Path) -> None:
    assert {one.about for one in from_study(study)} == {"(rates 2e-3, 2e-3), DCGAN on digits"}
