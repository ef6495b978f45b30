"""Crossings read off trajectories afterwards."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from analysis.curves.arriving import running_median
from analysis.curves.studies import from_study, read_study, trajectories
from analysis.curves.targets import curves_at, from_evaluations
from cbs.errors import InputError
from cbs.outcome import Evaluation


def test_a_log_of_evaluations_gives_the_curves_that_the_study_gives(study: Path) -> None:
    """What a W&B or TensorBoard export becomes, against the records of the same runs."""
    runs = read_study(study)
    parts = trajectories(runs).items()
    log = pd.concat([part.assign(optimizer=json.loads(group)["optimizer"]["name"]) for group, part in parts])
    for ours, theirs in zip(from_evaluations(log, 185.0), curves_at(runs, study, 185.0), strict=True):
        assert ours.optimizer == theirs.optimizer
        one, other = (c.frame.sort_values(["batch_size", "seed"], ignore_index=True) for c in (ours, theirs))
        pd.testing.assert_frame_equal(one, other, check_dtype=False)
    broken = pd.DataFrame({"batch_size": 8, "step": [10, 20, 30], "value": [90.0, math.nan, 5.0]})
    (curve,) = from_evaluations(broken, 50.0)
    assert curve.frame[["outcome", "steps"]].to_numpy().tolist() == [["diverged", 20]]
    with pytest.raises(InputError, match="no column 'value'"):
        from_evaluations(broken.drop(columns="value"), 50.0)


def test_a_threshold_that_was_trained_for_keeps_its_confirmed_outcomes(study: Path) -> None:
    runs = read_study(study)
    for ours, theirs in zip(curves_at(runs, study, 175.0), from_study(study, 175.0), strict=True):
        pd.testing.assert_frame_equal(ours.frame, theirs.frame, check_dtype=False)
        assert ours.unconfirmed == 0


def test_a_trajectory_that_is_shorter_than_its_record_is_left_out(study: Path) -> None:
    """As while a run is trained again from its start."""
    runs = read_study(study)
    run = next(run for run in runs if len(run.folder.trajectory()) > 1)
    path = run.folder.trajectory_path
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:1]))
    (curve,) = [c for c in curves_at(runs, study, 185.0) if c.group == run.group]
    assert curve.left_out == 1


def test_a_running_median_ignores_one_lucky_evaluation() -> None:
    values = [9.0, 3.0, 8.0, 7.0, 4.0, 4.5]
    smooth = running_median([Evaluation(i + 1, 0, 0.0, v) for i, v in enumerate(values)])
    assert [e.value for e in smooth] == [9.0, 8.0, 7.0, 7.0, 4.5, 4.5]
    stopped = [Evaluation(10 * i, 0, 0.0, v) for i, v in enumerate((90.0, 70.0, 49.0), 1)]
    assert running_median(stopped)[-1].value == 49.0  # a run that stopped there had arrived
    confirmed = [*(Evaluation(i + 1, 0, 0.0, v) for i, v in enumerate(values)), Evaluation(7, 0, 0.0, 3.9, (3.8,))]
    assert running_median(confirmed)[-1].value == 3.9
