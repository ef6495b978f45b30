"""A real study, fitted, drawn, and read at other thresholds."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml

from analysis import canvas, figures
from analysis.__main__ import _at_thresholds
from analysis.fit import fit_all
from analysis.studies import Source, from_study, read_study, trajectories
from analysis.targets import curves_at, from_evaluations, running_median, table
from cbs.errors import InputError
from cbs.labels import labels
from cbs.outcome import Evaluation
from cbs.schema import ADDED_TO_GROUPS
from tests.conftest import TINY, command


@pytest.fixture
def study(swept: Path, tmp_path: Path) -> Path:
    """A copy to write beside."""
    return Path(shutil.copytree(swept / "results" / "sweep", tmp_path / "results" / "sweep"))


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


def test_what_earlier_versions_did_not_know_belongs_to_the_same_curve(study: Path) -> None:
    """And arithmetic that does shape a trajectory makes another one."""
    paths = sorted(study.glob("trials/*/trial.yaml"))
    raw = {path: yaml.safe_load(path.read_text()) for path in paths}
    adams = [path for path in paths if raw[path]["config"]["optimizer"]["name"] == "adam"]
    old = raw[adams[0]]["config"]
    for name in ("precision", "micro_batch"):
        del old[name]
    for group, added in ADDED_TO_GROUPS.items():
        for name in added:
            del old[group][name]
    adams[0].write_text(yaml.safe_dump(raw[adams[0]]))
    assert [(c.label, len(c.frame)) for c in from_study(study)] == [("adam", 6), ("rmsprop", 6)]
    for path, name, value in ((adams[1], "precision", "bf16"), (adams[2], "micro_batch", 2)):
        raw[path]["config"][name] = value
        path.write_text(yaml.safe_dump(raw[path]))
    found = {c.label: len(c.frame) for c in from_study(study)}
    shapes = ("fp32 micro_batch=None", "bf16 micro_batch=None", "fp32 micro_batch=2")
    assert found == {**{f"adam precision={shape}": 2 for shape in shapes}, "rmsprop": 6}


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
    assert "no fitted b*, nothing measured; 2 of 2 runs censored" in done.stdout


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
    at_thresholds = _at_thresholds([Source(other, fits, rising)], False)
    assert list(at_thresholds) == [135, 114, 95.5, 80.3, 67.5]
    drawn = figures.everything(fits, trajectories(rising), at_thresholds, None)
    assert drawn["targets"].axes[0].get_xlabel() == "threshold (IS ≥)"
    (score,) = {drawn[name].axes[0].get_ylabel() for name in drawn if name.startswith("crossings")}
    assert score == "IS"
    assert canvas.target(fits) == "target: IS ≥ 135"
    made = table({135.0: fits, 125.0: fits}, {135.0: fits, 125.0: fits})
    assert made.columns[1] == "IS ≥"
    assert [row[1].text for row in made.rows[:2]] == ["125", "135"]
    assert rising[0].command(140).endswith("'target.thresholds=[125,135,140]'")


def test_a_threshold_that_was_trained_for_keeps_its_confirmed_outcomes(study: Path) -> None:
    runs = read_study(study)
    for ours, theirs in zip(curves_at(runs, study, 175.0), from_study(study, 175.0), strict=True):
        pd.testing.assert_frame_equal(ours.frame, theirs.frame, check_dtype=False)
        assert ours.unconfirmed == 0


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


def test_a_trajectory_that_is_shorter_than_its_record_is_left_out(study: Path) -> None:
    """As while a run is trained again from its start."""
    runs = read_study(study)
    run = next(run for run in runs if len(run.folder.trajectory()) > 1)
    path = run.folder.trajectory_path
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:1]))
    (curve,) = [c for c in curves_at(runs, study, 185.0) if c.group == run.group]
    assert curve.left_out == 1
    assert any("1 runs have no outcome at this threshold" in note for note in curve.fit().notes)


def test_a_running_median_ignores_one_lucky_evaluation() -> None:
    values = [9.0, 3.0, 8.0, 7.0, 4.0, 4.5]
    smooth = running_median([Evaluation(i + 1, 0, 0.0, v) for i, v in enumerate(values)])
    assert [e.value for e in smooth] == [9.0, 8.0, 7.0, 7.0, 4.5, 4.5]
    stopped = [Evaluation(10 * i, 0, 0.0, v) for i, v in enumerate((90.0, 70.0, 49.0), 1)]
    assert running_median(stopped)[-1].value == 49.0  # a run that stopped there had arrived
    confirmed = [*(Evaluation(i + 1, 0, 0.0, v) for i, v in enumerate(values)), Evaluation(7, 0, 0.0, 3.9, (3.8,))]
    assert running_median(confirmed)[-1].value == 3.9


def test_metrics_on_the_side_make_no_other_curve(study: Path) -> None:
    run = read_study(study)[0]
    target = {**run.config["target"], "extra": ["kid"]}
    other = replace(run, config={**run.config, "target": target})
    assert other.group == run.group
    assert labels([run.config, other.config]) == ["adam", "adam"]
    assert replace(run, config={**run.config, "target": {**target, "samples": 5}}).group != run.group


def test_a_curve_holds_any_number_of_processes_unless_each_normalises_apart(study: Path) -> None:
    """Records that know neither setting are one process's."""
    run = read_study(study)[0]

    def group(n: int, batch_norm: str) -> str:
        model = {**run.config["model"], "batch_norm": batch_norm}
        return replace(run, config={**run.config, "gpus_per_trial": n, "model": model}).group

    del run.config["gpus_per_trial"], run.config["model"]["batch_norm"]
    assert {run.group, group(1, "replica"), group(4, "global")} == {run.group}
    assert len({run.group, group(2, "replica"), group(4, "replica")}) == 3
