"""Stacked seeds against seeds alone: trajectories in double precision, records, departures, ends and new beginnings."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cbs import loop, stack_attempt, trial
from cbs.data.sampler import Pictures
from cbs.key import trial_folder
from cbs.outcome import Censored, Outcome, Reached
from cbs.record import RecordError, Result, RunFolder, run_folders
from cbs.schema import Config, Request
from cbs.stack import StackFolder, entry_step, stackable
from cbs.stack_width import best, chosen
from cbs.tasks.gan import GAN
from cbs.tasks.stack import Stack
from tests.conftest import TINY, command, config
from tests.test_parallel import assert_close, double
from tests.test_sweep import descendants, start

Tiny = Callable[..., Config]
CPU = torch.device("cpu")
IMAGES = torch.randint(0, 256, (50, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
CASES = {
    "dcgan, adam": ("model=dcgan",),
    "dcgan, adabelief": ("model=dcgan", "optimizer=adabelief", "model.discriminator_norm=none"),
    "dcgan, rmsprop": ("model=dcgan", "optimizer=rmsprop", "model.discriminator_norm=instance", "target.generator=ema"),
    "dcgan, sgd": ("model=dcgan", "optimizer=sgd", "optimizer.momentum=0.9", "model.loss=hinge"),
    "wgan_gp, adam": ("model=wgan_gp",),
    "wgan_gp, adabelief": ("model=wgan_gp", "optimizer=adabelief", "model.critic_steps=2"),
    "wgan_gp, rmsprop": ("model=wgan_gp", "optimizer=rmsprop", "model.discriminator_norm=instance"),
    "wgan_gp, sgd": ("model=wgan_gp", "optimizer=sgd", "model.discriminator_norm=none", "model.redraw_fakes=false"),
}


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    return


def composed(name: str, *more: str) -> Config:
    return config("batch_size=5", "model.width=4", "model.latent=6", *CASES[name], *more)


def members(found: Config, seeds: range = range(3)) -> list[GAN]:
    return [GAN(found, seed, Pictures(IMAGES), CPU) for seed in seeds]


def steps(task: GAN, count: int) -> torch.Tensor:
    """(count, names[, R])"""
    return torch.stack([torch.stack(task.step()) for _ in range(count)])


@pytest.mark.parametrize("name", CASES)
def test_a_member_trains_as_it_would_alone(name: str) -> None:
    found = composed(name)
    with double():
        apart, together = members(found), members(found)
        before = [task.state() for task in members(found)]
        stack = Stack(found, together)
        losses = steps(stack, 50)
        alone = torch.stack([steps(task, 50) for task in apart], -1)
        torch.testing.assert_close(losses, alone, rtol=0, atol=1e-9)
        stack.give_back(optimizers=True)
        for one, other, start in zip(together, apart, before, strict=True):
            assert_close(one.state(), other.state())
            moved = one.state()["generator"]["0.weight"] - start["generator"]["0.weight"]
            assert moved.abs().max() > 1e-5
        # The members are tasks as any others: they go on alone, and as a narrower stack.
        rest = Stack(found, together[1:])
        torch.testing.assert_close(steps(rest, 5), torch.stack([steps(t, 5) for t in apart[1:]], -1), rtol=0, atol=1e-9)
        torch.testing.assert_close(steps(together[0], 5), steps(apart[0], 5), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["dcgan, adam", "wgan_gp, adam"])
def test_one_that_diverges_spoils_no_other(name: str) -> None:
    found = composed(name)
    with double():
        together, apart = members(found), members(found)
        with torch.no_grad():
            next(together[1].discriminator.parameters()).fill_(float("nan"))
        stack = Stack(found, together)
        losses = steps(stack, 10)
        assert losses[:, :, 1].isnan().all()
        for at in (0, 2):
            torch.testing.assert_close(losses[:, :, at], steps(apart[at], 10), rtol=0, atol=1e-9)
        stack.give_back()
        assert [task.finite() for task in together] == [True, False, True]


def test_a_stack_of_the_same_members_gives_the_same_bits_wherever_it_was_cut() -> None:
    found = composed("wgan_gp, adam")
    whole, cut = members(found), members(found)
    expected = steps(Stack(found, whole), 12)
    first = Stack(found, cut)
    losses = steps(first, 7)
    first.give_back(optimizers=True)
    again = members(found)
    for task, kept in zip(again, cut, strict=True):
        task.load(kept.state())
    assert torch.equal(torch.cat([losses, steps(Stack(found, again), 5)]), expected)


def test_only_what_can_be_stacked_is() -> None:
    assert stackable(config())
    for no in ("model=biggan", "model=sagan", "micro_batch=4", "micro_batch=auto", "gpus_per_trial=2", "stack=1"):
        assert not stackable(config(no))


def test_the_width_is_the_one_that_trains_most_a_second() -> None:
    free = {1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}  # a step takes as long whatever the width
    assert best(free, 8, 1) == 8
    assert best(free, 3, 1) == 3
    assert best(free, 8, 2) == 4  # no core idle for nothing
    assert best({1: 1.0, 2: 2.0, 4: 2.2, 8: 2.3}, 8, 2) == 4
    assert best({1: 1.0, 2: 1.7, 4: 3.0, 8: 3.2}, 16, 1) == 8
    dear = {1: 1.0, 2: 1.9, 4: 3.9, 8: 8.0}
    assert best(dear, 8, 1) == 1
    assert best({1: 1.0, 2: 1.2, 4: 2.0}, 2, 2) == 1


@given(st.integers(1, 40), st.integers(1, 8), st.lists(st.floats(0.2, 30), min_size=6, max_size=6))
def test_a_width_is_never_more_than_there_are_runs_or_was_measured(
    count: int, workers: int, times: list[float]
) -> None:
    assert 1 <= best(dict(zip((1, 2, 4, 8, 16, 32), times, strict=True)), count, workers) <= min(count, 32)


def test_measurements_are_remembered(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tiny("stack=auto", "batch_size=8")
    first = chosen(found, 3, 1)
    assert 1 <= first <= 3
    monkeypatch.setattr("cbs.stack_width.measured", lambda *_: pytest.fail("measured again"))
    assert chosen(found, 3, 1) == first
    assert chosen(tiny("stack=2"), 3, 1) == 2


# Seeds 0 to 2 arrive, seed 3 later, at different evaluations.
ASKED = ("batch_size=16", "stack=4", "seeds=4", "target.thresholds=[170,155]", "target.precision=0.1", "device=cpu")


def go(found: Config, seeds: list[int], stopped: Callable[[], bool] = lambda: False) -> dict[int, Result]:
    results: dict[int, Result] = {}
    trial.run_together(found, seeds, 1, lambda *_: None, stopped, ended=results.__setitem__)
    return results


def until_done(found: Config, seeds: list[int]) -> None:
    """As a crew does it: what has left its stack without an outcome goes on alone."""
    go(found, seeds)
    for seed in seeds:
        trial.run(found, seed)


def records(found: Config, seeds: list[int]) -> dict[int, Any]:
    kept = {}
    for seed in seeds:
        folder = RunFolder(trial_folder(found), seed)
        result = folder.result()
        assert result is not None
        rows = [(e.step, e.samples, e.value, e.repeats, e.sampling_error, e.losses) for e in folder.trajectory()]
        kept[seed] = (result.outcomes, [part["width"] for part in result.stack], result.last_step, rows)
    return kept


ALL = [0, 1, 2, 3]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, Any]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    found = config(*TINY, f"paths.results={folder}/results", f"paths.data={folder}/data", *ASKED)
    until_done(found, ALL)
    return folder, records(found, ALL)


def ended(outcome: Outcome) -> int:
    """The step of an outcome, whichever it is."""
    return outcome.first_below if isinstance(outcome, Reached) else outcome.step


def test_a_stack_leaves_the_records_of_runs_alone(tiny: Tiny, undisturbed: tuple[Path, dict[int, Any]]) -> None:
    here, stacked = undisturbed
    found = tiny(*ASKED)
    for seed in ALL:
        alone = trial.run(found, seed)
        outcomes, widths, _, rows = stacked[seed]
        for threshold, outcome in outcomes.items():
            assert ended(outcome) == pytest.approx(ended(alone.outcomes[threshold]), rel=0.25)  # two evaluations
        assert alone.stack == []
        assert "stack" not in json.loads((trial_folder(found) / f"seed-{seed}" / "result.json").read_text())
        assert widths[0] == 4
        for ours, theirs in zip(rows, RunFolder(trial_folder(found), seed).trajectory(), strict=False):
            assert ours[:2] == (theirs.step, theirs.samples)
            # In single precision rounding grows along a trajectory.
            assert ours[2] == pytest.approx(theirs.value, rel=1e-3 if theirs.step <= 30 else 0.1)
    (journal,) = (here / "results").glob("sweep/trials/*/stacks/*/journal.jsonl")
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    assert entries[0]["members"] == ALL
    assert entries[0]["thresholds"] == [170.0, 155.0]
    assert sorted(seed for entry in entries[1:] for seed in entry["left"]) == ALL
    assert len(entries) > 2  # not all at once
    assert not list((here / "results").glob("sweep/trials/*/seed-*/stack.json"))


def test_a_stack_that_is_stopped_again_and_again_gives_the_same_records(
    tiny: Tiny, undisturbed: tuple[Path, dict[int, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tiny(*ASKED)
    monkeypatch.setattr(stack_attempt, "LOOK_UP_SECONDS", 0.0)
    monkeypatch.setattr(loop, "LOOK_UP_SECONDS", 0.0)
    count = 0

    def every_seventeenth() -> bool:
        nonlocal count
        count += 1
        return count % 17 == 0

    attempts = 0
    while any(RunFolder(trial_folder(found), seed).result() is None for seed in ALL):
        attempts += 1
        left = [seed for seed in ALL if RunFolder(trial_folder(found), seed).result() is None]
        try:
            if RunFolder(trial_folder(found), left[-1]).stack() or attempts == 1:
                go(found, left, every_seventeenth)
            else:
                trial.run(found, left[-1], stopped=every_seventeenth)  # the last goes on alone
        except trial.Interrupted:
            continue
    assert attempts > 3
    assert records(found, ALL) == undisturbed[1]


def cut(monkeypatch: pytest.MonkeyPatch, at: str, call: int) -> None:
    """Die in the `call`th use of a function, as if killed: nothing after it is carried out."""
    owner = {"part": StackFolder, "save": stack_attempt.checkpoint, "finish": stack_attempt.Member}[at]
    real, calls = getattr(owner, at), 0

    def dying(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(owner, at, dying)


@pytest.mark.parametrize(
    ("at", "call"), [("part", 1), ("part", 2), ("save", 1), ("save", 2), ("save", 3), ("finish", 1)]
)
def test_a_stack_that_dies_while_one_leaves_gives_the_same_records(
    at: str, call: int, tiny: Tiny, undisturbed: tuple[Path, dict[int, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tiny(*ASKED)
    with monkeypatch.context() as patched:
        cut(patched, at, call)
        with pytest.raises(KeyboardInterrupt):
            go(found, ALL)
    if at == "save" and call == 1:  # the stack's first checkpoint: nobody knows of it yet
        assert not any(RunFolder(trial_folder(found), seed).stack() for seed in ALL)
        go(found, ALL)
    for seed in ALL:  # any of them brings the others along
        trial.run(found, seed)
    assert records(found, ALL) == undisturbed[1]


def test_a_stack_without_its_checkpoint_lets_its_runs_begin_anew(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tiny(*ASKED, "target.budget_steps=40")
    monkeypatch.setattr(stack_attempt, "LOOK_UP_SECONDS", 0.0)
    with pytest.raises(trial.Interrupted):
        go(found, ALL, lambda: True)
    folder = RunFolder(trial_folder(found), 2)
    stack = StackFolder(trial_folder(found), str(folder.stack()))
    assert entry_step(folder, Request.of(found)) is None
    for path in stack.path.glob("*checkpoint.pt"):
        path.unlink()
    assert trial.run(found, 2).stack == []
    assert not any(RunFolder(trial_folder(found), seed).stack() for seed in ALL)


def test_runs_that_were_censored_together_go_on_together(tiny: Tiny) -> None:
    short, long = tiny(*ASKED, "target.thresholds=[1]", "target.budget_steps=40"), tiny(*ASKED, "target.thresholds=[1]")
    first = go(short, ALL)
    assert {o for r in first.values() for o in r.outcomes.values()} == {Censored(r.last_step) for r in first.values()}
    steps_in = {entry_step(RunFolder(trial_folder(long), seed), Request.of(long)) for seed in ALL}
    assert steps_in == {first[0].last_step}
    second = go(long, ALL)
    assert [part["step"] for part in second[3].stack] == [0, first[0].last_step]
    higher = tiny(*ASKED, "target.thresholds=[500]")
    assert entry_step(RunFolder(trial_folder(long), 0), Request.of(higher)) is None


def test_a_stack_goes_on_after_its_members_crossings(tiny: Tiny, undisturbed: tuple[Path, dict[int, Any]]) -> None:
    """Each member leaves after the evaluations that it would have had alone; asked for later, it takes them then."""
    found = tiny(*ASKED, "target.evaluations_after=2")
    until_done(found, ALL)
    stacked = records(found, ALL)
    steps = [step := 0, *(step := found.cadence.following(step) for _ in range(40))]
    for seed in ALL:
        outcomes, widths, last, rows = stacked[seed]
        before = undisturbed[1][seed]
        assert widths[0] == 4
        # As their stack narrows at other steps than it did, rounding differs from there on.
        assert [ended(o) for o in outcomes.values()] == pytest.approx([ended(o) for o in before[0].values()], rel=0.25)
        assert last == rows[-1][0] == end(found, outcomes[155.0])
        assert [row[0] for row in rows] == steps[1 : steps.index(last) + 1]
        for row, without in zip(rows, before[3], strict=False):
            assert row[:2] == without[:2]
            assert row[2] == pytest.approx(without[2], rel=1e-3 if row[0] <= 30 else 0.1)
    more = tiny(*ASKED, "target.evaluations_after=4")
    folders = [RunFolder(trial_folder(more), seed) for seed in ALL]
    assert any(entry_step(folder, Request.of(more)) for folder in folders)
    until_done(more, ALL)
    for seed, (outcomes, _, last, rows) in records(more, ALL).items():
        assert outcomes == stacked[seed][0]
        assert last == rows[-1][0] == end(more, outcomes[155.0])
        assert rows[: len(stacked[seed][3])] == stacked[seed][3]


def end(found: Config, outcome: Outcome) -> int:
    """The last step of a run with this outcome."""
    return Request.of(found).end(outcome.first_below) if isinstance(outcome, Reached) else ended(outcome)


def test_a_result_that_misdescribes_its_stack_is_refused(tiny: Tiny) -> None:
    found = tiny("batch_size=16", "target.budget_steps=20")
    trial.run(found, 0)
    path = RunFolder(trial_folder(found), 0).result_path
    path.write_text(json.dumps({**json.loads(path.read_text()), "stack": [{"id": "x"}]}))
    with pytest.raises(RecordError, match="'stack' is no list of id, step, width"):
        RunFolder(trial_folder(found), 0).result()


def test_a_busy_member_holds_up_all_and_keeps_none(tiny: Tiny) -> None:
    from cbs.claim import Busy, Claim, holder

    found = tiny(*ASKED)
    claim = Claim.acquire(RunFolder(trial_folder(found), 2).claims_path)
    with pytest.raises(Busy):
        go(found, ALL)
    assert [holder(RunFolder(trial_folder(found), seed).claims_path) is not None for seed in ALL] == [
        seed == 2 for seed in ALL
    ]
    claim.release()


SWEEP = ("-m", *TINY, *ASKED, "batch_size=8,16", "target.budget_steps=400", "target.thresholds=[150,120]")


@pytest.mark.slow
def test_a_sweep_of_stacks_killed_at_random_moments_ends_with_the_same_records(tmp_path: Path) -> None:
    """SIGKILL to the launcher and every worker, at random moments."""
    once, often = tmp_path / "once", tmp_path / "often"
    for folder in (once, often):
        folder.mkdir()
    done = command(*SWEEP, cwd=once)
    assert done.returncode == 0, done.stderr
    chance, kills = random.Random(7), 0
    while True:
        process = start(often, *SWEEP, "checkpoint_minutes=0.003")
        deadline = time.monotonic() + 60
        known = len(list(often.glob("results/sweep/trials/*/stacks/*/checkpoint.pt")))
        while process.poll() is None and time.monotonic() < deadline and kills < 4:
            if len(list(often.glob("results/sweep/trials/*/stacks/*/checkpoint.pt"))) > min(known, 1):
                break
            time.sleep(0.02)
        time.sleep(chance.uniform(0.0, 1.5))
        if kills == 4 or process.poll() is not None:
            process.communicate(timeout=300)
            assert process.returncode == 0
            break
        victims = descendants(process)
        for victim in [*victims, process]:
            victim.kill()
        process.communicate()
        psutil.wait_procs(victims, timeout=30)
        kills += 1
    assert kills >= 2
    assert stacked(often) == stacked(once)
    shown = command("fit", str(once / "results" / "sweep"), cwd=once, module="analysis")
    assert shown.returncode == 0, shown.stderr


def stacked(folder: Path) -> dict[str, Any]:
    """Every run's record of a sweep, and in how wide a stack it was."""
    kept = {}
    for run in run_folders(folder / "results" / "sweep"):
        result = run.result()
        assert result is not None
        rows = [(e.step, e.value, e.repeats, e.losses) for e in run.trajectory()]
        kept[f"{run.key}/{run.seed}"] = (result.outcomes, [part["width"] for part in result.stack], rows)
    assert len(kept) == 8
    return kept


def test_a_trial_by_itself_stacks_its_seeds_and_a_sweep_by_its_own_choice(tmp_path: Path) -> None:
    arguments = (*TINY, "batch_size=8", "seeds=3", "device=cpu", "target.budget_steps=40")
    done = command(*arguments, "stack=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("above 1 at step 40 (censored)") == 3
    results = [run.result() for run in run_folders(tmp_path / "results" / "sweep")]
    assert [part["width"] for result in results for part in result.stack] == [3, 3, 3]  # type: ignore[union-attr]
    shutil.rmtree(tmp_path / "results")
    done = command("-m", *arguments, "stack=auto", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "[3/3]" in done.stderr
    measured = json.loads((tmp_path / "results" / "sweep" / "stacking.json").read_text())
    assert len(measured) == 2  # the schema, and one batch size
    wrong = command("stack=many", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "stack is 'many'" in wrong.stderr


@pytest.mark.slow
def test_stacked_seeds_take_as_many_steps_as_seeds_alone(tmp_path: Path) -> None:
    """The digits of the default study, b = 16: eight seeds stacked and the same eight alone.

    Rounding grows along a trajectory, so that a seed's N is another draw of the same distribution: the means of
    ln N must agree within three standard errors of their difference, the spreads within a factor of three.
    """
    logs = []
    for name, stack in (("together", 8), ("alone", 1)):
        found = config("batch_size=16", f"stack={stack}", f"paths.results={tmp_path}/{name}", f"paths.data={tmp_path}")
        if stack > 1:
            go(found, list(range(8)))
        outcomes = [trial.run(found, seed).outcomes[4.0] for seed in range(8)]
        logs.append(np.log([o.first_below for o in outcomes if isinstance(o, Reached)]))
        assert len(logs[-1]) == 8
    spread = [values.std(ddof=1) for values in logs]
    assert abs(logs[0].mean() - logs[1].mean()) < 3 * np.hypot(*spread) / np.sqrt(8)
    assert 1 / 3 < spread[0] / spread[1] < 3
    print([np.exp(values).round() for values in logs])
