"""Runs that share their first steps: bit for bit what each would have been alone, and trained once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cbs import checkpoint, loop, trial
from cbs.attempt import Attempt
from cbs.branch import Branch
from cbs.claim import Busy, Claim
from cbs.errors import InputError
from cbs.key import trial_folder, trial_key
from cbs.outcome import Reached
from cbs.record import RunFolder
from cbs.schema import Config
from launch.plan import runs
from launch.status import status
from tests.conftest import TINY, command, config
from tests.test_scheduled_runs import evaluations, interrupted

Tiny = Callable[..., Config]
SIZE = "batch_size.schedule"
GROWING = ("batch_size=at_steps", "batch_size.initial=8", f"{SIZE}.at=[45,90]", f"{SIZE}.factor=2")
TARGET = "target.thresholds=[170,1]"


@pytest.fixture
def tiny(tiny: Tiny) -> Tiny:
    """Evaluated after 20, 30, 45, 67, 100 and 150 steps at 8, the parents' batch size."""
    return lambda *overrides: tiny("target.first_gradients=158", *overrides)


def arm(tiny: Tiny, *overrides: str, step: int = 45) -> Config:
    return tiny(*overrides, TARGET, "branch_from.batch_size=8", f"branch_from.step={step}")


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every time that shared steps are trained: folder and step."""
    seen: list[tuple[str, int]] = []
    before = Attempt.reach

    def reach(self: Attempt, step: int) -> dict[str, Any]:
        seen.append((self.folder.path.name, step))
        return before(self, step)

    monkeypatch.setattr(Attempt, "reach", reach)
    return seen


@pytest.mark.parametrize("step", [30, 40, 45])
def test_a_branch_is_the_run_it_would_have_been_alone(step: int, tiny: Tiny) -> None:
    """On an evaluation and between two; the target of 170 is crossed behind or before it."""
    alone, shared = tiny(*GROWING, TARGET), arm(tiny, *GROWING, step=step)
    assert trial_folder(alone) != trial_folder(shared)
    expected = trial.run(alone, 0)
    result = trial.run(shared, 0)
    assert evaluations(shared) == evaluations(alone)
    assert result.outcomes == expected.outcomes
    assert result.branched_from == {"key": trial_folder(shared.parent).name, "seed": 0, "step": step}  # type: ignore[arg-type]
    about = json.loads((trial_folder(shared) / "seed-0" / "environment.json").read_text())
    assert about["branched_from"] == result.branched_from


def test_arms_share_what_the_first_of_them_trains(tiny: Tiny, reached: list, tmp_path: Path) -> None:
    arms = [arm(tiny, *GROWING), arm(tiny, *GROWING, f"{SIZE}.factor=4"), arm(tiny, "batch_size=32")]
    for one in arms:
        trial.run(one, 0)
    assert reached == [("seed-0", 45)]
    prefixes = {json.dumps([row for row in evaluations(one) if row[0] <= 45]) for one in arms}
    assert len(prefixes) == 1
    seconds = {RunFolder(trial_folder(one), 0).trajectory()[2].seconds for one in arms}
    assert len(seconds) == 1  # the shared steps cost each arm what they took once

    constant = arm(tiny, "batch_size=8")  # the arm that goes on as it began is the parent itself
    assert constant.branch_from is None
    assert trial.run(constant, 0).branched_from is None
    gone_on = evaluations(constant)
    shutil.rmtree(tmp_path / "results")
    trial.run(tiny("batch_size=8", TARGET), 0)
    assert evaluations(constant) == gone_on


def test_another_constant_size_takes_over_at_the_step(tiny: Tiny) -> None:
    spelt = tiny("batch_size=at_steps", "batch_size.initial=8", f"{SIZE}.at=45", f"{SIZE}.sizes=32", TARGET)
    branched = arm(tiny, "batch_size=32")
    trial.run(spelt, 0)
    trial.run(branched, 0)
    assert evaluations(branched) == evaluations(spelt)


def test_epochs_name_the_step_too(tiny: Tiny) -> None:
    found = tiny("batch_size=32", TARGET, "branch_from.batch_size=8", "branch_from.epochs=0.2")
    result = trial.run(found, 0)
    assert result.branched_from is not None
    assert result.branched_from["step"] == 45  # of 8 images each: the first step with 0.2·1797 = 359.4
    svre, exact = (arm_of(tiny, epochs, rule) for epochs, rule in ((0.2, "svre"), (2.2, "alternating")))
    assert svre.branch_from.steps(1797, svre.batches_per_step) == 23  # two batches a step
    assert exact.branch_from.steps(40_000, 1) == 11_000  # 2.2 as it is written


def arm_of(tiny: Tiny, epochs: float, rule: str) -> Any:
    return tiny("batch_size=32", f"update={rule}", "branch_from.batch_size=8", f"branch_from.epochs={epochs}")


def test_a_parents_batch_is_no_larger_than_the_set(tiny: Tiny) -> None:
    found = tiny("batch_size=32", TARGET, "branch_from.batch_size=1798", "branch_from.step=5")
    with pytest.raises(InputError, match=r"branch_from.batch_size is 1798: digits has 1797 images"):
        trial.preflight(found)


def test_an_evaluation_must_come_after_the_shared_steps(tiny: Tiny) -> None:
    found = tiny("batch_size=32", TARGET, "branch_from.batch_size=8", "branch_from.step=144", "target.budget_steps=145")
    with pytest.raises(InputError, match=r"shares 144 steps: the last evaluation within the budget of 145 steps is"):
        trial.preflight(found)


def test_a_score_that_rises_doesnt_undo_what_is_shared(tiny: Tiny, reached: list) -> None:
    """An early value below a rising metric's threshold is no crossing."""
    score = ("target.metric=inception_score", "target.thresholds=[6.9]", "target.features=digits")
    for b in (16, 32):
        trial.run(tiny(f"batch_size={b}", *score, "branch_from.batch_size=8", "branch_from.step=45"), 0)
    assert reached == [("seed-0", 45)]


def test_an_optimizer_that_looks_ahead_is_the_arms_own(tiny: Tiny) -> None:
    """SVRE's: of another kind than the parent's, and of the same kind with other betas."""
    rule = ("update=svre", "target.budget_steps=60", "target.thresholds=[1]", "+optimizer@branch_from.optimizer=adam")
    branch = ("branch_from.batch_size=8", "branch_from.step=21")
    other = tiny("batch_size=8", *rule, *branch, "optimizer=sgd")
    trial.run(other, 0)
    same = tiny("batch_size=8", *rule, *branch, "optimizer.beta1=0.25")
    trial.run(same, 0)
    for found in (other, same):
        state = checkpoint.load(RunFolder(trial_folder(found), 0).checkpoint_path)
        assert state is not None
        own = [state["task"][name]["param_groups"][0] for name in ("optimizer_g", "optimizer_d")]
        ahead = [one["param_groups"][0] for one in state["task"]["rule"]["ahead"]]
        names = [name for name in ahead[0] if name not in ("params", "lr")]
        assert sorted(str([one[n] for n in names]) for one in ahead) == sorted(str([o[n] for n in names]) for o in own)


def test_stopping_again_and_again_changes_nothing(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = arm(tiny, *GROWING)
    trial.run(found, 0)
    undisturbed = evaluations(found)
    shutil.rmtree(tmp_path / "results")
    assert interrupted(found, monkeypatch, every=11) > 5  # some of them in the parent's steps
    assert evaluations(found) == undisturbed


def test_a_parent_that_is_past_the_step_keeps_its_record(tiny: Tiny, reached: list) -> None:
    parent, found = tiny("batch_size=8", TARGET), arm(tiny, *GROWING, step=40)
    trial.run(parent, 0)
    folder = RunFolder(trial_folder(parent), 0)
    before = {path: path.read_bytes() for path in (folder.result_path, folder.trajectory_path, folder.checkpoint_path)}
    trial.run(found, 0)
    assert reached == [("step-40", 40)]
    assert {path: path.read_bytes() for path in before} == before
    alone = tiny(*GROWING, TARGET)
    trial.run(alone, 0)
    assert evaluations(found) == evaluations(alone)


def test_a_threshold_that_was_passed_unconfirmed_is_answered(tiny: Tiny, tmp_path: Path) -> None:
    def asked(thresholds: str) -> Config:
        branch = ("branch_from.batch_size=8", "branch_from.step=40", f"target.thresholds=[{thresholds}]")
        return tiny("batch_size=32", *branch)

    trial.run(asked("1"), 0)
    easy = round(1.5 * evaluations(asked("1"))[0][2], 1)  # crossed at once; nobody asked for it
    answered = trial.run(asked(f"{easy},1"), 0)
    assert answered.outcomes[easy] == Reached(0, 20)
    rows = evaluations(asked("1"))
    shutil.rmtree(tmp_path / "results")
    assert trial.run(asked(f"{easy},1"), 0).outcomes == answered.outcomes
    assert evaluations(asked("1")) == rows


def test_another_optimizer_begins_with_no_moments(tiny: Tiny) -> None:
    found = arm(tiny, "batch_size=8", "optimizer=sgd", "+optimizer@branch_from.optimizer=adam")
    assert found.parent is not None
    assert (found.optimizer.name, found.parent.optimizer.name) == ("sgd", "adam")
    assert trial_folder(found.parent) == trial_folder(tiny("batch_size=8", TARGET))
    trial.run(found, 0)
    rows = evaluations(found)
    trial.run(tiny("batch_size=8", TARGET), 0)
    assert rows[:3] == evaluations(tiny("batch_size=8", TARGET))[:3]
    assert rows[3] != evaluations(tiny("batch_size=8", TARGET))[3]


def test_other_learning_rates_are_the_arms_own(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    found = arm(tiny, "batch_size=8", "optimizer.lr_generator=1e-4", "+optimizer@branch_from.optimizer=adam")
    seen: set[float] = set()
    before = loop.train

    def train(task: Any, *rest: Any) -> Any:
        seen.add(task._task.optimizer_g.param_groups[0]["lr"])
        return before(task, *rest)

    monkeypatch.setattr("cbs.attempt.train", train)
    trial.run(found, 0)
    assert seen == {1e-4}


def test_a_parent_at_work_is_waited_for(tiny: Tiny) -> None:
    found = arm(tiny, *GROWING)
    branch = Branch.of(found, 0)
    assert branch is not None
    assert not branch.held_up()
    claim = Claim.acquire(branch.folder.claims_path)
    assert branch.held_up()
    with pytest.raises(Busy):
        trial.run(found, 0)
    assert RunFolder(trial_folder(found), 0).failures() == 0
    claim.release()
    trial.run(found, 0)
    assert not branch.held_up()


def test_parents_come_last_and_on_their_own(tiny: Tiny) -> None:
    """A first arm trains the shared steps, and the parent goes on from there; a stack would pass them."""
    arms = [arm(tiny, "batch_size=8", "stack=auto", "seeds=2"), arm(tiny, *GROWING, "stack=auto", "seeds=2")]
    found = runs(arms)
    assert [(run.config.batch_size.label, run.seed) for run in found] == [
        ("at_steps", 0),
        ("at_steps", 1),
        ("8", 0),
        ("8", 1),
    ]
    assert [run.config.stack for run in found] == ["auto", "auto", 1, 1]


def test_a_sweep_over_arms_trains_shared_steps_once(tmp_path: Path) -> None:
    sweep = (
        "-m",
        *(one for one in TINY if not one.startswith("stack")),
        "batch_size=8,16",
        "seeds=2",
        "branch_from.batch_size=8",
        "branch_from.step=45",
        "hydra.launcher.workers=2",
        TARGET.replace("[170,1]", "[1]"),
    )
    done = command(*sweep, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    now = status(tmp_path / "results" / "sweep")
    assert [row.state for row in now.rows] == ["censored"] * 4
    parent = [row.run.folder for row in now.rows if row.run.config.branch_from is None]
    for folder in parent:
        claims = sorted(folder.claims_path.glob("*.json"))
        assert len(claims) == 2  # the arm's for the shared steps, then its own
        assert not (folder.path / "branches" / "step-45").exists()


def test_a_parent_that_nobody_asked_for_is_no_open_run(tiny: Tiny) -> None:
    found = arm(tiny, *GROWING)
    trial.run(found, 0)
    now = status(found.study_dir)
    assert [row.run.config.batch_size.label for row in now.rows] == ["at_steps"]


def key(*overrides: str) -> str:
    return trial_key(config(*overrides).to_dict(), "digest")


def test_a_key_depends_on_the_parent_and_the_step() -> None:
    branch = ("branch_from.batch_size=8", "branch_from.step=400")
    known = {
        key("batch_size=32"),
        key("batch_size=32", *branch),
        key("batch_size=32", "branch_from.batch_size=16", "branch_from.step=400"),
        key("batch_size=32", "branch_from.batch_size=8", "branch_from.step=500"),
        key("batch_size=32", "branch_from.batch_size=8", "branch_from.epochs=4"),
        key("batch_size=32", *branch, "+optimizer@branch_from.optimizer=sgd"),
    }
    assert len(known) == 6
    assert key("batch_size=8", *branch) == key("batch_size=8")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["branch_from.step=9"], "branch_from.batch_size has no value here"),
        (["branch_from.batch_size=8"], "branch_from.step is None, epochs is None: exactly one of them"),
        (
            ["branch_from.batch_size=8", "branch_from.step=9", "branch_from.epochs=1"],
            "branch_from.step is 9, epochs is 1.0: exactly one of them",
        ),
        (["branch_from.batch_size=0", "branch_from.step=9"], "branch_from.batch_size is 0: it must be at least 1"),
        (["branch_from.batch_size=8", "branch_from.step=0"], "branch_from.step is 0: it must be at least 1"),
        (
            ["branch_from.batch_size=8", "branch_from.step=99999"],
            "branch_from.step is 99999: it must be below the budget",
        ),
        (["branch_from.batch_size=8", "branch_from.epochs=0"], "branch_from.epochs is 0"),
        (["branch_from.batch_size=8", "branch_from.step=9", "+branch_from.seed=1"], "branch_from.seed is no setting"),
        (
            ["branch_from.batch_size=8", "branch_from.step=9", "batch_size=grow_64_at_32_96"],
            "batch_size.initial is 64: a schedule must begin with branch_from.batch_size, 8",
        ),
    ],
)
def test_bad_branches_get_one_sentence(overrides: list[str], words: str) -> None:
    with pytest.raises(InputError) as refused:
        config(*overrides)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_schedule_may_not_begin_within_the_shared_steps(tiny: Tiny) -> None:
    with pytest.raises(InputError, match=r"at begins with 45: it must not be before the 46 steps that branch_from"):
        trial.preflight(arm(tiny, *GROWING, step=46))
    epochs = ("batch_size=at_epochs", "batch_size.initial=8", f"{SIZE}.at=0.2", f"{SIZE}.factor=2")
    trial.preflight(arm(tiny, *epochs, step=44))
    trial.preflight(arm(tiny, *epochs, step=45))  # 0.2 epochs are within the 45th step
    with pytest.raises(InputError, match=r"at begins with 0.2: it must not be before the 0.\d+ epochs"):
        trial.preflight(arm(tiny, *epochs, step=46))
