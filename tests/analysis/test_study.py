"""A real study, fitted, drawn, and read at other thresholds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from analysis.__main__ import _at_thresholds
from analysis.answer import figures, summary
from analysis.answer.source import Source
from analysis.curves.studies import from_study, read_study, trajectories
from analysis.curves.targets import curves_at, from_evaluations
from analysis.fitting.fit import fit_all
from analysis.output import canvas
from cbs.errors import InputError
from tests.conftest import TINY, command


def test_a_study_is_fitted_and_drawn(study: Path, tmp_path: Path) -> None:
    curves = from_study(study, threshold=175.0)
    assert [c.label for c in curves] == ["adam", "rmsprop"]
    assert [c.threshold for c in from_study(study)] == [165.0, 165.0]
    assert len(curves[0].frame) == 6
    assert curves[0].facts["dataset_size"] == 1797
    with pytest.raises(InputError, match=r"threshold is 7: .* was run at 165, 175"):
        from_study(study, threshold=7.0)
    done = command("plots", "results/sweep", "--threshold", "175", cwd=tmp_path, module="analysis")
    assert done.returncode == 0, done.stderr
    for name in ("overview", "steps_to_target", "sfo", "metric_vs_steps", "crossings_adam", "targets"):
        for suffix in ("png", "svg"):
            assert (study / "figures" / f"{name}.{suffix}").stat().st_size > 5000
    shown = json.loads(command("fit", "results/sweep", "--json", cwd=tmp_path, module="analysis").stdout)
    assert {c["optimizer"] for c in shown["curves"]} == {"adam", "rmsprop"}


def test_another_width_is_another_curve_and_two_studies_stand_side_by_side(
    study: Path, swept: Path, tmp_path: Path
) -> None:
    shutil.copytree(swept / "data", tmp_path / "data")
    more = ("-m", *TINY, "batch_size=4,16,64", "model.width=5", "target.thresholds=[175,165]")
    assert command(*more, cwd=tmp_path).returncode == 0
    assert command(*more, "name=other", cwd=tmp_path).returncode == 0
    assert [c.label for c in from_study(study)] == ["adam width=4", "adam width=5", "rmsprop"]
    done = command("fit", "results/sweep", "results/other", cwd=tmp_path, module="analysis")
    assert done.returncode == 0, done.stderr
    assert "sweep: Adam width=4" in done.stdout
    assert "other: Adam" in done.stdout


def test_a_study_and_a_file_side_by_side(study: Path, tmp_path: Path) -> None:
    rows = "\n".join(f"{b},{s},reached,{1000 + 3000 // b + 10 * s}" for b in (4, 8, 16, 32) for s in range(3))
    (tmp_path / "mine.csv").write_text(f"batch_size,seed,outcome,steps\n{rows}\n")
    for action in ("plots", "report"):
        done = command(action, "results/sweep", "--csv", "mine.csv", cwd=tmp_path, module="analysis")
        assert done.returncode == 0, done.stderr
    assert "mine: all" in (study / "report.html").read_text()


@pytest.mark.slow
def test_a_study_in_which_nothing_arrived_is_drawn_and_says_so(tmp_path: Path) -> None:
    assert command("-m", *TINY, "batch_size=16,64", "target.budget_steps=30", cwd=tmp_path).returncode == 0
    for action in ("plots", "report"):
        done = command(action, "results/sweep", cwd=tmp_path, module="analysis")
        assert done.returncode == 0, done.stderr
    assert "b* is not known: no run reached the target; 2 runs, 2 never arrived." in done.stdout


def test_a_folder_without_records_is_one_sentence(tmp_path: Path) -> None:
    done = command("fit", "results/none", cwd=tmp_path, module="analysis")
    assert done.returncode == 2
    assert "holds no finished run" in done.stderr


def test_thresholds_are_read_off_afterwards(study: Path, tmp_path: Path) -> None:
    done = command("targets", "results/sweep", "--thresholds", "165,170,185", cwd=tmp_path, module="analysis")
    assert done.returncode == 0, done.stderr
    assert (study / "figures" / "targets.png").stat().st_size > 5000
    table = pd.read_csv(study / "figures" / "targets.csv")
    adam = table[table["curve"] == "adam"].set_index("FID ≤")
    assert list(adam.index) == [185, 170, 165]
    assert adam["censored"].is_monotonic_increasing
    assert adam.loc[165, "unconfirmed"] == 0
    runs = read_study(study)
    for threshold in (170.0, 185.0):
        for curve in curves_at(runs, study, threshold):
            reached = curve.frame[curve.frame["outcome"] == "reached"]
            assert curve.unconfirmed <= len(reached)
            of = {(r.batch_size, r.folder.seed): r for r in runs if r.group == curve.group}
            for _, row in reached.iterrows():
                values = {e.step: e.value for e in of[row["batch_size"], row["seed"]].trajectory}
                assert values[row["steps"]] <= threshold
                assert all(v > threshold for step, v in values.items() if step < row["steps"])


def mirrored(study: Path, to: Path) -> Path:
    """The same study as if it had been trained to an Inception Score: every value and threshold v is 300 − v."""
    shutil.copytree(study, to)
    for path in to.glob("trials/*/trial.yaml"):
        raw = yaml.safe_load(path.read_text())
        raw["config"]["target"] |= {"metric": "inception_score", "thresholds": [125.0, 135.0]}
        path.write_text(yaml.safe_dump(raw))
    for path in to.glob("trials/*/seed-*/result.json"):
        raw = json.loads(path.read_text())
        raw["outcomes"] = [{**row, "threshold": 300 - row["threshold"]} for row in raw["outcomes"]]
        path.write_text(json.dumps(raw))
    for path in to.glob("trials/*/seed-*/trajectory.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row |= {"value": 300 - row["value"], "repeats": [300 - value for value in row["repeats"]]}
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return to


def test_a_study_of_a_rising_metric_reads_as_its_mirror(study: Path, tmp_path: Path) -> None:
    """Curves, crossings read afterwards and smoothed ones are the same; words and figures name the other side."""
    other = mirrored(study, tmp_path / "results" / "scores")
    falling, rising = read_study(study), read_study(other)
    for threshold in (None, 175.0):
        at = None if threshold is None else 300 - threshold
        for one, two in zip(from_study(study, threshold), from_study(other, at), strict=True):
            pd.testing.assert_frame_equal(one.frame, two.frame)
            assert (one.target, two.target) == (f"FID ≤ {one.threshold:g}", f"IS ≥ {two.threshold:g}")
    for threshold in (165.0, 170.0, 185.0):
        for smoothed in (False, True):
            ours, theirs = (
                curves_at(falling, study, threshold, smoothed),
                curves_at(rising, other, 300 - threshold, smoothed),
            )
            for one, two in zip(ours, theirs, strict=True):
                pd.testing.assert_frame_equal(one.frame, two.frame)
                assert one.unconfirmed == two.unconfirmed
    plain, log = (next(iter(trajectories(runs).values())) for runs in (falling, rising))
    (one,), (two,) = from_evaluations(plain, 185.0), from_evaluations(log, 115.0, "inception_score")
    pd.testing.assert_frame_equal(one.frame, two.frame)
    with pytest.raises(InputError, match=r"runs of .* stopped at 135, so what they would have done above is unknown"):
        curves_at(rising, other, 136.0)

    fits = fit_all(from_study(other))
    at_thresholds = _at_thresholds([Source(other, fits, rising)])
    assert list(at_thresholds) == [135, 114, 95.5, 80.3, 67.5]
    drawn = figures.everything(fits, trajectories(rising), at_thresholds, None)
    assert drawn["targets"].axes[0].get_xlabel() == "threshold (IS ≥)"
    (score,) = {drawn[name].axes[0].get_ylabel() for name in drawn if name.startswith("crossings")}
    assert score == "IS"
    assert canvas.target(fits) == "target: IS ≥ 135"
    made = summary.thresholds({135.0: fits, 125.0: fits}, {135.0: fits, 125.0: fits})
    assert made.columns[1] == "IS ≥"
    assert [row[1].text for row in made.rows[:2]] == ["125", "135"]
    assert rising[0].command(140).endswith("'target.thresholds=[125,135,140]'")


def test_a_threshold_below_the_lowest_is_refused_with_the_command_that_continues(study: Path, tmp_path: Path) -> None:
    done = command("targets", "results/sweep", "--thresholds", "150,170", cwd=tmp_path, module="analysis")
    assert done.returncode == 2
    assert "threshold is 150: runs of results/sweep stopped at 165" in done.stderr
    continuing = done.stderr.split("To continue them: ")[1].strip()
    assert continuing.startswith("python -m cbs.run -m ")
    assert continuing.endswith("'target.thresholds=[175,165,150]'")
    for wrong in ("0", "x", "170,nan"):
        refused = command("targets", "results/sweep", "--thresholds", wrong, cwd=tmp_path, module="analysis")
        assert refused.returncode == 2
        assert "numbers above 0 between commas" in refused.stderr
