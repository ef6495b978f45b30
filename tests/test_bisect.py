"""The adaptive sweep: what it takes next from records, and real sweeps that are killed, shared and gone on with."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from analysis.adaptive.design import State
from analysis.curves.studies import from_study
from cbs.claim import Claim
from cbs.errors import InputError
from cbs.outcome import Censored, Diverged, Outcome, Reached
from cbs.record import Result, RunFolder, run_folders, write_json
from cbs.schema import Config
from launch.bisect_display import AdaptiveDisplay, answer, lines, summary
from launch.bisect_search import Adaptive, searches
from launch.bisect_settings import Settings
from launch.plan import Run, Sweep
from launch.status import status
from tests.conftest import ROOT, TINY, command
from tests.test_sweep import descendants, records, start

Tiny = Callable[..., Config]

GIVEN: dict[str, Any] = {
    "width_octaves": 1.0,
    "within": None,
    "half_octaves": False,
    "budget_gpu_hours": None,
    "budget_sfo": None,
    "cost": "sfo",
    "seeds": 16,
    "at_once": 16,
}
SIZES = (2, 4, 8, 16, 32, 64, 128)


def adaptive(configs: Sequence[Config], **given: Any) -> Adaptive:
    """An adaptive sweep over these trials, as it stands after a look at their records."""
    settings = Settings.of({**GIVEN, **given})
    found = Adaptive(settings, searches(configs, settings))
    found.reckon("cpu", 4.0, None)
    found.look({})
    return found


@pytest.fixture
def trials(tiny: Tiny) -> Callable[..., list[Config]]:
    """One trial per batch size, with a budget of 20,000 steps."""
    common = ("target.budget_steps=20000", "target.first_gradients=400", "target.precision=0.05")
    return lambda *more: [tiny(*common, f"batch_size={b}", *more) for b in SIZES]


def record(run: Run, outcome: Outcome, seconds: float = 10.0) -> None:
    """Leave what an attempt at this run leaves."""
    from cbs.trial import write_trial

    last = outcome.first_below if isinstance(outcome, Reached) else outcome.step
    write_trial(run.config, run.folder.trial)
    result = Result(
        run.folder.key,
        run.seed,
        {1.0: outcome},
        last,
        {"training": seconds, "evaluating": 0.0},
        {"generator": 1},
        {"count": 9},
        "0",
    )
    write_json(run.folder.result_path, result.to_dict())


def true_steps(b: int, seed: int) -> int:
    """N(b) = 1000 b/(b − 3) and some spread; far beyond any budget at or below 3."""
    return round(1000 * b / (b - 3) * (1 + 0.05 * ((7 * seed + b) % 5 - 2))) if b > 3 else 10**9


def train(run: Run) -> None:
    """What a worker would record of a run whose truth is `true_steps`."""
    cadence, n = run.config.cadence, true_steps(run.config.batch_size.initial, run.seed)
    last = cadence.last(run.config.asked_steps)
    if n <= last:
        return record(run, Reached(cadence.last(n), cadence.following(n)))
    whole = last == cadence.last(run.config.budget)
    record(run, Censored(last, "budget" if whole else "abandoned"))


def work_off(found: Adaptive, at_once: int = 1, most: int = 200) -> list[tuple[str, int, int]]:
    """Do what is proposed until nothing is; what was done, in order."""
    done = []
    for _ in range(most):
        runs = found.next(at_once)
        if not runs:
            return done
        for run in runs:
            found.started(run)
            train(run)
            done.append((run.name, run.seed, run.config.asked_steps))
        found.look({})
    raise AssertionError(f"no end after {most} rounds: {done[-5:]}")


def test_it_ends_decided_for_less_than_a_grid(trials: Any) -> None:
    found = adaptive(trials())
    work_off(found)
    (search,) = found.searches
    assert search.state.decided
    low, high = search.state.interval
    assert low is not None
    assert high is not None
    assert low <= 6 <= high
    grid = sum(min(true_steps(b, seed), 20000) * b for b in SIZES for seed in range(3))
    assert found.sfo < grid / 2
    words = summary(found)
    assert re.search(r"adam: b\* = [\d.]+ \(95 %: [\d.]+ to [\d.]+\), decided: the 95 % set is ", words)
    assert f"python -m analysis plots {found.study}" in words
    assert any("o" in line and "N(" in line for line in lines(found))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (State(None, (None, None), None, None, False, "no run has arrived yet"), "no b* yet, open: no run"),
        (State(8, (None, None), 9.0, 0.5, False, "why"), "b* can't be told yet, open: why"),
        (State(8, (None, None), 9.0, 0.05, True, "why"), "any batch size may be b*, decided: why"),
        (State(6.4, (5.1, 9.2), 0.85, 0.05, True, "why"), "b* = 6.4 (95 %: 5.1 to 9.2), decided: why"),
        (State(3, (None, 4.0), 2.0, 0.05, True, "why"), "b* ≤ 4 (95 %), decided: why"),
        (State(1024, (1024.0, None), 0.0, 0.05, True, "why"), "b* ≥ 1,024 (95 %), decided: why"),
    ],
)
def test_b_star_is_never_told_without_its_set(found: State, words: str) -> None:
    assert answer(found).startswith(words)


def test_the_display_fits_eighty_columns(trials: Any) -> None:
    """The medians as far as the runs tell: one that was stopped says from where on, one that diverged nothing."""
    for config in trials():
        for seed in range(10):
            train(run_of(config, seed))
    for config, outcome in zip(trials()[:2], (Diverged(40), Censored(100, "abandoned")), strict=True):
        record(run_of(config, 10), outcome)
    found = adaptive(trials())
    console = Console(width=80)
    with console.capture() as capture:
        console.print(AdaptiveDisplay(Sweep([]), found)._table(0.0))
    shown = capture.get()
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "median N" in shown
    assert "…" not in shown
    assert all(re.search(rf"\b{b}\b", shown) for b in SIZES)


def test_the_same_records_give_the_same_proposals_and_end(trials: Any, tmp_path: Path) -> None:
    """Whatever an earlier process knew: a new one, at every step, does what the old one would have done."""
    found = adaptive(trials())
    at_once = work_off(found)
    end = found.searches[0].state
    for path in sorted((tmp_path / "results").rglob("result.json")):
        path.unlink()
    again: list[tuple[str, int, int]] = []
    for _ in range(8):
        fresh = adaptive(trials())
        (run,) = fresh.next(1)
        train(run)
        again.append((run.name, run.seed, run.config.asked_steps))
    assert again + work_off(adaptive(trials())) == at_once
    assert adaptive(trials()).searches[0].state == end


def test_grants_end_at_evaluations_and_more_may_follow(trials: Any) -> None:
    found = adaptive(trials())
    for _ in range(12):
        for run in found.next(1):
            cadence, until = run.config.cadence, run.config.asked_steps
            assert cadence.last(until) == until <= 20000
            train(run)
        found.look({})


def test_curves_share_the_slots(trials: Any) -> None:
    found = adaptive([*trials(), *trials("optimizer=rmsprop")])
    first = found.next(2)
    assert sorted(run.label for run in first) == ["adam", "rmsprop"]
    at_work = {run.id: run.config.asked_steps for run in first[:1]}
    found.look(at_work)
    assert found.next(1)[0].label == first[1].label
    assert first[0].id not in [run.id for run in found.next(4)]


def test_what_others_work_on_is_left_to_them(trials: Any) -> None:
    found = adaptive(trials())
    (run,) = found.next(1)
    train(replace(run, config=run.config.granted(60)))
    claim = Claim.acquire(run.folder.claims_path)
    found.look({})
    assert [(one.batch_size, one.seed) for one in found.searches[0].known.pending] == [(16, 0)]
    assert run.id not in [one.id for one in found.next(3)]
    claim.release()
    found.look({})
    assert not found.searches[0].known.pending


@pytest.mark.parametrize("budget", [50_000, 100_000])
def test_a_budget_of_gradients_is_kept(budget: int, trials: Any) -> None:
    found = adaptive(trials(), budget_sfo=budget, width_octaves=0.05)
    work_off(found, at_once=2)
    assert 0.7 * budget < found.sfo <= budget
    assert "the budget is spent" in summary(found)
    assert not adaptive(trials(), budget_sfo=budget, width_octaves=0.05).next(2)
    assert adaptive(trials(), budget_sfo=2 * budget, width_octaves=0.05).next(4)


def test_a_budget_of_hours_is_kept(trials: Any) -> None:
    found = adaptive(trials(), budget_gpu_hours=100 / 3600, width_octaves=0.05)
    work_off(found)
    assert found.spent or found.exhausted
    assert found.seconds < 120  # every record says 10 s


def test_a_grids_records_are_a_start_like_any_other(trials: Any, tiny: Tiny) -> None:
    """Batch sizes between its own too, and seeds beyond; but not another curve's."""
    for config in [*trials(), replace_size(trials()[0], 24)]:
        for seed in range(3):
            train(run_of(config, seed))
    train(run_of(trials("model.width=5")[3], 0))
    found = adaptive(trials())
    assert {run.batch_size for run in found.searches[0].known.seen} == {*SIZES, 24}
    assert len(found.searches[0].known.seen) == 3 * (len(SIZES) + 1)
    assert found.decided
    assert not found.next(4)


def replace_size(config: Config, b: int) -> Config:
    return replace(config, batch_size=replace(config.batch_size, label=str(b), initial=b))


def run_of(config: Config, seed: int) -> Run:
    from cbs.key import trial_folder

    return Run(config, RunFolder(trial_folder(config), seed), config.optimizer.name)


def test_a_batch_size_that_fails_is_left_out_and_said(trials: Any) -> None:
    found = adaptive(trials())
    (cursed,) = found.next(1)
    for _ in range(2):
        (run,) = found.next(1)
        assert run.id == cursed.id
        found.started(run)
        found.look({})
    b = cursed.config.batch_size.initial
    others = found.next(3) or found.next(3)
    assert b not in [run.config.batch_size.initial for run in others]
    assert f"b = {b} is left out: failed 2 times" in summary(found)
    fresh = adaptive(trials())
    for _ in range(3):
        cursed.folder.write_failure("RuntimeError: cursed")
    assert b not in [run.config.batch_size.initial for run in fresh.next(3) or fresh.next(3)]
    assert fresh.aside == [cursed]


def test_records_say_what_was_abandoned(trials: Any) -> None:
    for b, outcome in ((2, Censored(100, "abandoned")), (8, Reached(900, 1000)), (16, Diverged(40))):
        (config,) = (one for one in trials() if one.batch_size.initial == b)
        record(run_of(config, 0), outcome)
    study = trials()[0].study_dir
    now = status(study)
    assert now.counts == {**dict.fromkeys(now.counts, 0), "censored": 1, "finished": 1, "diverged": 1}
    assert now.abandoned == 1
    (curve,) = from_study(study)
    assert curve.abandoned == 1
    assert curve.frame["outcome"].tolist() == ["censored", "reached", "diverged"]


def test_a_run_that_reached_its_target_is_done_whatever_it_owes_after_its_crossing(trials: Any) -> None:
    """Its grant ended at the crossing: the sweep neither proposes it nor waits for it, even while a grid goes on."""
    configs = trials("target.evaluations_after=2")
    (config,) = (one for one in configs if one.batch_size.initial == 8)
    cadence = config.cadence
    last = cadence.last(1000)
    run = run_of(config, 0)
    record(run, Reached(cadence.last(last - 1), last))
    assert run.finished() is None  # a grid takes the two evaluations
    assert replace(run, config=config.granted(last)).finished() is not None
    claim = Claim.acquire(run.folder.claims_path)
    found = adaptive(configs)
    assert [(one.batch_size, one.outcome) for one in found.searches[0].known.seen] == [(8, "reached")]
    assert not found.searches[0].known.pending
    assert run.id not in [one.id for one in found.next(4)]
    claim.release()
    assert status(config.study_dir).counts["finished"] == 1


def test_each_batch_size_has_its_own_budget_in_steps(trials: Any) -> None:
    """250,000 gradients are 125,000 steps at 2 and 1,953 at 128; no run is granted more."""
    found = adaptive(trials("target.budget_steps=null", "target.budget_gradients=250000"))
    (search,) = found.searches
    for b, most in search.options.most_steps.items():
        assert 250_000 / b / 1.06 <= most <= 250_000 / b
    done = work_off(found)
    assert all(until * int(name.split()[0].removeprefix("b=")) <= 250_000 for name, _, until in done)
    assert found.decided


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"width_octaves": 0}, "hydra.sweeper.width_octaves is 0: it must be null or a number above 0."),
        ({"width_octaves": "wide"}, "hydra.sweeper.width_octaves is 'wide'"),
        ({"within": True}, "hydra.sweeper.within is True: it must be null or a number above 0."),
        ({"width_octaves": None}, "hydra.sweeper.width_octaves and within are null: one of them must say when"),
        ({"half_octaves": 1}, "hydra.sweeper.half_octaves is 1: it must be true or false."),
        ({"budget_sfo": -1}, "hydra.sweeper.budget_sfo is -1: it must be null or a number above 0."),
        ({"budget_gpu_hours": 0}, "hydra.sweeper.budget_gpu_hours is 0"),
        ({"cost": "money"}, "hydra.sweeper.cost is 'money': allowed: seconds, sfo."),
        ({"seeds": 0}, "hydra.sweeper.seeds is 0: it must be a whole number, 1 or more."),
        ({"at_once": 1.5}, "hydra.sweeper.at_once is 1.5"),
        ({"widht_octaves": 1}, "hydra.sweeper.widht_octaves is no setting: did you mean width_octaves"),
    ],
)
def test_bad_settings_are_one_sentence(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        Settings.of({**GIVEN, **given})


def test_the_range_gives_octaves_or_halves() -> None:
    whole, halves = (Settings.of({**GIVEN, "half_octaves": halves}) for halves in (False, True))
    assert whole.sizes(["2", "4", "8", "1024"]) == tuple(2**k for k in range(1, 11))
    assert whole.sizes(["100", "3"]) == (3, 6, 12, 24, 48, 96)
    assert halves.sizes(["2", "16"]) == (2, 3, 4, 6, 8, 11, 16)
    assert halves.sizes(["1", "4"]) == (1, 2, 3, 4)
    for given in (["64"], ["20", "30"]):
        with pytest.raises(InputError, match="needs a range of at least an octave"):
            whole.sizes(given)


ASKED = (*TINY, "target.thresholds=[120]", "target.budget_steps=null", "target.budget_gradients=2400")
BISECT = ("-m", "hydra/sweeper=bisect", "hydra.sweeper.cost=sfo", *ASKED)
SMALL = (*BISECT, "batch_size=2,4,...,64", "hydra.sweeper.budget_sfo=4000", "hydra.launcher.workers=1")


def test_mistakes_end_with_exit_code_2_before_training(tmp_path: Path) -> None:
    done = command(*BISECT, "batch_size=64", cwd=tmp_path)
    assert done.returncode == 2
    assert "cbs: batch_size is 64: an adaptive sweep needs a range" in done.stderr
    assert not list(tmp_path.glob("results/*/trials"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which SMALL was done."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = command(*SMALL, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "→ b=8 adam seed 0, to step " in done.stderr
    assert "decided:" in done.stdout or "the budget is spent" in done.stdout
    return folder


def spent(results: Path) -> int:
    rows = [rows for _, rows in records(results).values()]
    return sum(found[-1][1] for found in rows)


@pytest.mark.slow
def test_a_real_sweep_keeps_its_budget_and_a_later_grid_goes_on_with_it(undisturbed: Path, tmp_path: Path) -> None:
    found = records(undisturbed / "results")
    assert 2_000 < spent(undisturbed / "results") <= 4_000
    reasons = [outcome.reason for run, _ in found.values() for outcome in run.values() if isinstance(outcome, Censored)]
    assert "abandoned" in reasons
    subprocess.run(["cp", "-r", undisturbed / "results", tmp_path], check=True)
    grid = ("-m", *ASKED, "batch_size=2,4,...,64")
    (tmp_path / "alone").mkdir()
    for folder in (tmp_path, tmp_path / "alone"):
        done = command(*grid, cwd=folder)
        assert done.returncode == 0, done.stderr
    after, alone = records(tmp_path / "results"), records(tmp_path / "alone" / "results")
    assert {name: after[name] for name in alone} == alone


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_and_trains_nothing_twice(undisturbed: Path, tmp_path: Path) -> None:
    kills = 0
    settled: dict[Path, float] = {}
    for _ in range(8):
        process = start(tmp_path, *SMALL)
        deadline = time.monotonic() + 240
        while process.poll() is None and kills < 2 and time.monotonic() < deadline:
            # After two results, and once a run has arrived.
            results = [folder.result() for folder in run_folders(tmp_path / "results" / "sweep")]
            known = [found.outcomes[120.0] for found in results if found is not None]
            if len(known) >= 2 and (kills == 0 or any(isinstance(outcome, Reached) for outcome in known)):
                break
            time.sleep(0.02)
        if kills == 2 or process.poll() is not None:
            process.communicate(timeout=300)
            break
        for victim in descendants(process):
            victim.send_signal(signal.SIGKILL)
        process.kill()
        process.communicate()
        kills += 1
        for folder in run_folders(tmp_path / "results" / "sweep"):
            result = folder.result()
            if result is not None and result.outcomes[120.0] != Censored(result.last_step, "abandoned"):
                settled.setdefault(folder.result_path, os.stat(folder.result_path).st_mtime_ns)
    assert kills == 2
    assert process.returncode == 0
    assert settled
    assert all(os.stat(path).st_mtime_ns == written for path, written in settled.items())
    assert records(tmp_path / "results") == records(undisturbed / "results")


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    process = start(
        tmp_path, *BISECT, "batch_size=2,4,...,64", "target.budget_gradients=1600000", "target.thresholds=[1]"
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("results/sweep/trials/*/seed-*/trajectory.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Give the same command again to go on." in err
    assert "; stopped." in out
    assert list(tmp_path.glob("results/sweep/trials/*/seed-*/checkpoint.pt"))


@pytest.mark.slow
def test_a_slow_run_holds_up_nobody(tmp_path: Path) -> None:
    """Two optimizers on two workers; Adam's first run crawls."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\n"
        "if os.environ.get('CBS_TEST_CRAWL'):\n"
        "    import cbs.tasks.gan as g\n"
        "    build = g.GAN.__init__\n"
        "    step = g.GAN.step\n"
        "    def building(self, config, seed, *rest):\n"
        "        self.crawls = (config.optimizer.name, config.batch_size.initial, seed) == ('adam', 8, 0)\n"
        "        build(self, config, seed, *rest)\n"
        "    def crawling(self):\n"
        "        time.sleep(0.5 if self.crawls else 0.0)\n"
        "        return step(self)\n"
        "    g.GAN.__init__, g.GAN.step = building, crawling\n"
    )
    arguments = (*BISECT, "batch_size=2,4,...,64", "hydra.sweeper.budget_sfo=3000", "hydra.launcher.workers=2")
    done = subprocess.run(
        [sys.executable, "-m", "cbs.run", *arguments, "optimizer=adam,rmsprop"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
            "CBS_TEST_CRAWL": "1",
        },
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    ended = [line for line in done.stderr.splitlines() if re.search(r"FID (≤|above)", line)]
    first = next(at for at, line in enumerate(ended) if " adam " in line)
    assert first >= 2, done.stderr
    assert {"adam", "rmsprop"} <= set(re.findall(r"^(\w+): ", done.stdout, re.MULTILINE))


def test_a_dry_run_shows_the_first_proposals_and_trains_nothing(tmp_path: Path) -> None:
    done = command(*BISECT, "batch_size=2,4,...,64", "hydra/launcher=dry", "device=cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "→ b=8 adam seed 0, to step " in done.stdout
    assert "#SBATCH" in done.stdout
    assert "Nothing was submitted." in done.stdout
    assert not list(tmp_path.glob("results/*/trials"))
