"""One run, end to end on real digits: records, resuming, asking for more, and what is refused."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from cbs import attempt, checkpoint, loop, trial
from cbs.errors import InputError
from cbs.key import trial_folder
from cbs.outcome import Censored, Diverged, Evaluation, Measurement, Reached
from cbs.record import RecordError, RunFolder
from cbs.schema import Config
from tests.conftest import config

Tiny = Callable[..., Config]


def evaluations(found: Config, seed: int = 0) -> list[tuple]:
    """A run's trajectory without its seconds, which no two attempts share."""
    rows: list[Evaluation] = RunFolder(trial_folder(found), seed).trajectory()
    return [(e.step, e.samples, e.value, e.repeats, e.sampling_error, e.extra, e.losses) for e in rows]


def test_a_run_leaves_a_whole_record(tiny: Tiny) -> None:
    found = tiny("batch_size=16", "target.thresholds=[170,1]")
    result = trial.run(found, 0)
    assert isinstance(result.outcomes[170.0], Reached)
    assert result.outcomes[1.0] == Censored(150)
    folder = trial_folder(found) / "seed-0"
    raw = json.loads((folder / "result.json").read_text())
    assert raw["schema"] == 1
    assert [row["outcome"] for row in raw["outcomes"]] == ["reached", "censored"]
    assert raw["dataset"]["count"] == 1797
    assert raw["parameters"] == {
        "generator": 4 * 8 * 4 + 16 + 8 * 4 * 16 + 8 + 4 * 16,
        "discriminator": 4 * 16 + 4 * 8 * 16 + 16 + 8 * 4,
    }
    assert [e[0] for e in evaluations(found)] == [20, 30, 45, 67, 100, 150]
    assert [e[1] for e in evaluations(found)] == [16 * s for s in (20, 30, 45, 67, 100, 150)]
    kept = yaml.safe_load((trial_folder(found) / "trial.yaml").read_text())
    assert kept["key"] == trial_folder(found).name
    assert kept["config"] == found.to_dict()
    environment = json.loads((folder / "environment.json").read_text())
    assert {"torch", "python", "device", "host", "revision"} <= set(environment)
    with Image.open(folder / "samples.png") as image:
        assert np.asarray(image).shape == (82, 82, 3)


def test_the_same_run_gives_the_same_record(tiny: Tiny, tmp_path: Path) -> None:
    found = tiny("batch_size=7")
    trial.run(found, 0)
    first = evaluations(found)
    shutil.rmtree(tmp_path / "results")
    trial.run(found, 0)
    assert evaluations(found) == first
    trial.run(found, 1)
    assert evaluations(found, 1) != first


@pytest.mark.parametrize("model", ["dcgan", "wgan_gp"])
@pytest.mark.parametrize("optimizer", ["adam", "adabelief"])
def test_a_run_that_is_stopped_again_and_again_gives_the_same_record(
    model: str, optimizer: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tiny("batch_size=5", f"model={model}", f"optimizer={optimizer}", "target.thresholds=[170,1]")
    whole = trial.run(found, 0)
    undisturbed = evaluations(found)
    shutil.rmtree(tmp_path / "results")
    monkeypatch.setattr(loop, "LOOK_UP_SECONDS", 0.0)
    count = 0

    def every_seventeenth() -> bool:
        nonlocal count
        count += 1
        return count % 17 == 0

    attempts = 0
    while True:
        attempts += 1
        try:
            result = trial.run(found, 0, stopped=every_seventeenth)
            break
        except trial.Interrupted:
            continue
    assert attempts > 5
    assert evaluations(found) == undisturbed
    assert result.outcomes == whole.outcomes


def test_asking_for_more_goes_on_with_the_same_numbers(tiny: Tiny, tmp_path: Path) -> None:
    """A larger budget and a lower threshold, against a run that was asked for both at first."""
    first = tiny("batch_size=16", "target.thresholds=[180]", "target.budget_steps=60")
    more = tiny("batch_size=16", "target.thresholds=[150]", "target.budget_steps=60")
    most = tiny("batch_size=16", "target.thresholds=[150,90]", "target.budget_steps=150")
    assert trial_folder(first) == trial_folder(most)
    trial.run(first, 0)
    steps = [e[0] for e in evaluations(first)]
    trial.run(more, 0)
    assert [e[0] for e in evaluations(first)][: len(steps)] == steps
    extended = trial.run(most, 0)
    assert set(extended.outcomes) == {180.0, 150.0, 90.0}
    stepwise = [e[:3] for e in evaluations(most)]
    shutil.rmtree(tmp_path / "results")
    at_once = trial.run(most, 0)
    assert [e[:3] for e in evaluations(most)] == stepwise
    assert at_once.outcomes == {t: extended.outcomes[t] for t in (150.0, 90.0)}


def test_a_run_that_was_abandoned_goes_on_to_the_record_it_would_have_had(tiny: Tiny, tmp_path: Path) -> None:
    whole = tiny("batch_size=16")
    undisturbed = trial.run(whole, 0).outcomes, evaluations(whole)
    shutil.rmtree(tmp_path / "results")
    for grant, stops in ((40, 30), (20, 30), (149, 100)):  # less than there is asks for nothing
        granted = whole.granted(grant)
        assert trial.run(granted, 0).outcomes == {1.0: Censored(stops, "abandoned")}
        assert trial_folder(granted) == trial_folder(whole)
    assert yaml.safe_load((trial_folder(whole) / "trial.yaml").read_text())["config"] == whole.to_dict()
    assert trial.run(whole.granted(150), 0).outcomes == undisturbed[0] == {1.0: Censored(150)}
    assert evaluations(whole) == undisturbed[1]


def test_a_threshold_above_one_already_passed_is_answered_by_the_same_run_again(tiny: Tiny, tmp_path: Path) -> None:
    low = tiny("batch_size=16", "target.thresholds=[155]")
    both = tiny("batch_size=16", "target.thresholds=[175,155]")
    assert isinstance(trial.run(low, 0).outcomes[155.0], Reached)
    result = trial.run(tiny("batch_size=16", "target.thresholds=[175]"), 0)
    shutil.rmtree(tmp_path / "results")
    assert trial.run(both, 0).outcomes == result.outcomes


def test_training_again_with_a_shorter_budget_undoes_no_outcome(tiny: Tiny) -> None:
    known = trial.run(tiny("batch_size=16", "target.thresholds=[155]"), 0).outcomes[155.0]
    assert isinstance(known, Reached)
    short = tiny("batch_size=16", "target.thresholds=[175]", "target.budget_steps=60")
    assert trial.run(short, 0).outcomes[155.0] == known


def test_a_finished_run_is_not_trained_again(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tiny("batch_size=16")
    first = trial.run(found, 0)
    monkeypatch.setattr(trial, "Attempt", lambda *_: pytest.fail("trained again"))
    assert trial.run(found, 0) == first


def test_divergence_is_an_outcome(tiny: Tiny) -> None:
    found = tiny("batch_size=16", "optimizer=sgd", "optimizer.lr_generator=1e30", "optimizer.lr_discriminator=1e30")
    result = trial.run(found, 0)
    outcome = result.outcomes[1.0]
    assert isinstance(outcome, Diverged)
    assert 1 <= outcome.step <= 20


def test_a_crash_is_no_outcome_keeps_its_traceback_and_is_retried(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tiny("batch_size=16")
    folder = RunFolder(trial_folder(found), 0)
    with monkeypatch.context() as patched:
        patched.setattr(attempt.Attempt, "_measure", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trial.run(found, 0)
    assert folder.result() is None
    assert "ZeroDivisionError" in str(folder.last_failure())
    assert trial.run(found, 0).outcomes == {1.0: Censored(150)}
    assert folder.result() is not None


def test_a_damaged_checkpoint_is_not_used(tiny: Tiny, tmp_path: Path) -> None:
    found = tiny("batch_size=16", "target.budget_steps=60")
    longer = tiny("batch_size=16")
    trial.run(found, 0)
    path = RunFolder(trial_folder(found), 0).checkpoint_path
    path.write_bytes(path.read_bytes()[:-1])
    trial.run(longer, 0)
    resumed = evaluations(longer)
    assert list(path.parent.glob("damaged-*"))
    shutil.rmtree(tmp_path / "results")
    trial.run(longer, 0)
    assert evaluations(longer) == resumed
    assert checkpoint.load(path) is not None


def test_a_run_on_other_data_is_refused(tiny: Tiny) -> None:
    found = tiny("batch_size=16", "target.budget_steps=60")
    trial.run(found, 0)
    path = RunFolder(trial_folder(found), 0).result_path
    raw = json.loads(path.read_text())
    raw["dataset"]["sha256"] = "0" * 64
    path.write_text(json.dumps(raw))
    with pytest.raises(RecordError, match="was trained on other data"):
        trial.run(tiny("batch_size=16"), 0)
    path.unlink()  # an interrupted run has a checkpoint only
    state = checkpoint.load(path.parent / "checkpoint.pt")
    assert state is not None
    checkpoint.save(path.parent / "checkpoint.pt", {**state, "data": "0" * 64})
    with pytest.raises(RecordError, match="was trained on other data"):
        trial.run(tiny("batch_size=16"), 0)


def test_superseded_attempts_write_nothing_more(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from cbs.claim import Superseded

    found = tiny("batch_size=16")
    folder = RunFolder(trial_folder(found), 0)
    monkeypatch.setattr(loop, "LOOK_UP_SECONDS", 0.0)

    def taken_over(now: trial.Report) -> None:
        if now.step == 50:
            (folder.claims_path / "0002.json").write_text("{}")

    with pytest.raises(Superseded):
        trial.run(found, 0, taken_over)
    assert [e.step for e in folder.trajectory()] == [20, 30, 45]
    assert folder.result() is None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["batch_size=1798"], "batch_size is 1798: digits has 1797 images"),
        (["device=cuda:7"], "device is 'cuda:7': this machine has"),
        (
            [
                "dataset=folder",
                "dataset.source=/nowhere",
                "dataset.image_size=8",
                "target=digits",
                "target.features=pixels",
            ],
            "/nowhere",
        ),
        (["target.features=digits", "dataset.channels=3"], "sees 8x8 grey images only"),
    ],
)
def test_what_the_machine_lacks_is_said_first(overrides: list[str], words: str, tiny: Tiny) -> None:
    with pytest.raises(InputError) as refused:
        trial.preflight(tiny(*overrides))
    assert words in str(refused.value)


def test_a_folder_without_hard_links_is_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with pytest.raises(InputError, match=r"paths.results is .* no hard links there"):
        trial.preflight(tiny())


@pytest.mark.parametrize("which", ["results", "data"])
def test_a_folder_that_can_not_be_written_is_refused(which: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    paths = {"results": tmp_path / "r", "data": tmp_path / "d", which: tmp_path / "file" / "below"}
    found = config(f"paths.results={paths['results']}", f"paths.data={paths['data']}")
    with pytest.raises(InputError, match=f"paths.{which} is .* it can't be written"):
        trial.preflight(found)
    if os.geteuid() != 0:  # root writes anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        paths[which] = tmp_path / "locked" / "below"
        found = config(f"paths.results={paths['results']}", f"paths.data={paths['data']}")
        with pytest.raises(InputError, match="can't be written"):
            trial.preflight(found)


def test_a_run_goes_on_after_its_crossing_and_never_past_its_budget(tiny: Tiny, tmp_path: Path) -> None:
    """At 16 evaluations are at 20, 30, 45, 67, 100 and 150 steps; the hardest of two thresholds counts."""
    asked = ("batch_size=16", "target.thresholds=[175,165]")
    first = trial.run(tiny(*asked), 0)
    reached = first.outcomes[165.0]
    assert isinstance(reached, Reached)
    assert first.last_step == reached.first_below
    steps = [20, 30, 45, 67, 100, 150]
    rows = evaluations(tiny(*asked))
    at = steps.index(reached.first_below)
    for after in (1, 2, 9):
        found = tiny(*asked, f"target.evaluations_after={after}")
        assert trial_folder(found) == trial_folder(tiny(*asked))
        result = trial.run(found, 0)  # goes on from its checkpoint
        assert result.outcomes == first.outcomes
        assert result.last_step == steps[min(at + after, 5)]
        assert [e[0] for e in evaluations(found)] == steps[: at + after + 1]
        assert evaluations(found)[: len(rows)] == rows
    whole = evaluations(found)
    granted = found.granted(steps[at + 1])
    shutil.rmtree(tmp_path / "results")
    assert trial.run(granted, 0).last_step == steps[at + 1]  # nor past what is granted
    assert trial.run(found, 0).last_step == 150
    assert evaluations(found) == whole


def test_a_run_that_has_its_evaluations_after_the_crossing_is_finished(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tiny("batch_size=16", "target.thresholds=[175]", "target.evaluations_after=2")
    first = trial.run(found, 0)
    monkeypatch.setattr(trial, "Attempt", lambda *_: pytest.fail("trained again"))
    for fewer in (2, 1, 0):
        asked = tiny("batch_size=16", "target.thresholds=[175]", f"target.evaluations_after={fewer}")
        assert trial.run(asked, 0) == first


def test_a_run_stopped_again_and_again_after_its_crossing_gives_the_same_record(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tiny("batch_size=16", "target.thresholds=[175]", "target.evaluations_after=2")
    whole = trial.run(found, 0)
    undisturbed = evaluations(found)
    shutil.rmtree(tmp_path / "results")
    monkeypatch.setattr(loop, "LOOK_UP_SECONDS", 0.0)
    looks = attempts = 0

    def stopped() -> bool:
        nonlocal looks
        looks += 1
        return looks % 11 == 0

    while not RunFolder(trial_folder(found), 0).result():
        attempts += 1
        with contextlib.suppress(trial.Interrupted):
            trial.run(found, 0, stopped=stopped)
    assert attempts > 3
    assert trial.run(found, 0).outcomes == whole.outcomes
    assert evaluations(found) == undisturbed


def test_a_divergence_after_the_crossing_is_on_record_and_final(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tiny("batch_size=16", "target.thresholds=[175]", "target.evaluations_after=2")
    measure = attempt.Attempt._measure
    outcome = trial.run(tiny("batch_size=16", "target.thresholds=[175]"), 0).outcomes[175.0]
    assert isinstance(outcome, Reached)

    def spoilt(self: attempt.Attempt, progress: loop.Progress, step: int, repeat: int) -> Measurement:
        return measure(self, progress, step, repeat) if step <= outcome.first_below else Measurement(math.nan)

    monkeypatch.setattr(attempt.Attempt, "_measure", spoilt)
    result = trial.run(found, 0)
    assert result.outcomes == {175.0: outcome}
    assert result.diverged_at == result.last_step > outcome.first_below
    assert RunFolder(trial_folder(found), 0).result() == result
    monkeypatch.setattr(trial, "Attempt", lambda *_: pytest.fail("trained again"))
    assert trial.run(found, 0) == result


def test_training_again_from_the_start_keeps_the_evaluations_after_a_crossing(tiny: Tiny) -> None:
    low = tiny("batch_size=16", "target.thresholds=[165]", "target.evaluations_after=1")
    known = trial.run(low, 0)
    rows = [e[:3] for e in evaluations(low)]
    easier = tiny("batch_size=16", "target.thresholds=[179]")
    assert trial.run(easier, 0).last_step == known.last_step
    assert [e[:3] for e in evaluations(low)] == rows


def test_a_budget_of_gradients_ends_runs_of_every_batch_size_alike(tiny: Tiny) -> None:
    budget = ("target.budget_steps=null", "target.budget_gradients=1100")
    for b, last in ((8, 134), (16, 67), (64, 17)):  # 1,066 gradients are the last mark within: 134·8, 67·16, 17·64
        assert trial.run(tiny(f"batch_size={b}", *budget), 0).outcomes == {1.0: Censored(last)}
