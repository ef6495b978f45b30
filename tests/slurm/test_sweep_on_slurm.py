"""Submitting, watching and steering sweeps on a real Slurm."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from cbs.record import run_folders
from launch.submissions import submissions
from tests.conftest import TINY
from tests.slurm.conftest import SWEEP, Site, here
from tests.slurm.test_faults import tasks
from tests.test_sweep import records


@pytest.mark.slow
def test_an_array_runs_at_most_so_many_tasks_at_once(site: Site, undisturbed: dict[str, Any]) -> None:
    said = site.submit("hydra.launcher.pack=1", "hydra.launcher.array_parallelism=2")
    assert "2 trials, 4 runs: 4 to do" in said
    assert "Submitted 4 runs in 4 tasks" in said
    most = 0
    while site.cluster.queue():
        most = max(most, len(tasks(site.cluster)))
        time.sleep(0.2)
    assert most == 2
    assert site.records() == undisturbed
    assert "4 finished already, 0 to do" in site.submit()


@pytest.mark.slow
def test_status_follows_a_sweep_to_its_end(site: Site) -> None:
    site.environment["CBS_TEST_PAUSE"] = "0.05"
    site.submit("hydra.launcher.array_parallelism=1")
    site.wait_for_training(2)
    shown = site.launch("status", str(site.study))
    assert shown.returncode == 3
    assert "2 queued, 2 running" in shown.stdout
    assert "n1" in shown.stdout or "n2" in shown.stdout
    running = json.loads(site.launch("status", "--json", str(site.study), "running").stdout)["runs"]
    assert len(running) == 2
    assert all(run["step"] > 0 and run["value"] > 0 and run["threshold"] == 1.0 for run in running)
    ended = site.launch("status", "--watch", str(site.study))
    assert ended.returncode == 0
    assert "4 censored" in ended.stdout
    logs = site.launch("logs", str(site.study), "b=8", "seed=1").stdout
    assert "== b=8 adam seed 1: censored" in logs
    assert "step 300, FID" in logs  # 2,398 gradients at 8
    assert "its task's own output: " in logs


def test_waiting_for_the_end(site: Site, undisturbed: dict[str, Any]) -> None:
    said = site.submit("hydra.launcher.wait=true")
    assert "Submitted 4 runs in 2 tasks" in said
    assert site.records() == undisturbed


@pytest.mark.slow
def test_cancel_and_resubmit(site: Site, undisturbed: dict[str, Any]) -> None:
    site.environment["CBS_TEST_PAUSE"] = "0.05"
    site.submit()
    site.wait_for_training(4)
    refused = site.launch("cancel", str(site.study), "b=8", "seed=0")
    assert refused.returncode == 2
    assert "also carries" in refused.stderr
    done = site.launch("cancel", str(site.study))
    assert "Cancelled 2 tasks" in done.stdout
    site.cluster.wait_until_empty()
    shown = site.launch("status", str(site.study))
    assert shown.returncode == 3
    assert "4 open" in shown.stdout
    assert all(f.checkpoint_path.exists() for f in run_folders(site.study))
    again = site.launch("resubmit", str(site.study))
    assert "Submitted 4 runs in 2 tasks" in again.stderr
    site.cluster.wait_until_empty()
    assert site.records() == undisturbed


def test_a_refusal_of_sbatch_is_one_sentence(site: Site) -> None:
    done = site.run(*SWEEP, f"paths.results={site.results}", "hydra/launcher=slurm", "hydra.launcher.partition=gold")
    assert done.returncode == 2
    assert "invalid partition specified: gold" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Submitted 4 runs" in site.submit()  # what was refused stands in nobody's way


def test_a_task_that_can_not_start_leaves_its_words(site: Site) -> None:
    site.submit("hydra.launcher.setup=[echo no such module,exit 7]")
    site.cluster.wait_until_empty()
    shown = site.launch("status", str(site.study))
    assert shown.returncode == 3
    assert "4 open" in shown.stdout
    assert "no such module" in site.launch("logs", str(site.study), "b=8", "seed=0").stdout


def test_gpus_are_asked_for(site: Site) -> None:
    sweep = [one for one in SWEEP if one != "device=cpu"]
    site.submit("hydra.launcher.gpus_per_task=1", sweep=tuple(sweep))
    site.cluster.wait(lambda: len(tasks(site.cluster)) == 2, 60, "running tasks")
    told = site.cluster.ask("scontrol", "show", "job")
    assert told.count("gres/gpu=1") >= 2 or told.count("TresPerNode=gres:gpu:1") >= 2, told


@pytest.mark.slow
def test_trials_of_two_processes(site: Site) -> None:
    """In float32 two processes round otherwise than one: what they ended with is the same, their FID nearly."""
    shorter = ("target.budget_steps=45", "gpus_per_trial=2", "hydra.launcher.cpus_per_task=4")
    site.environment["CBS_TEST_PAUSE"] = "0"
    site.submit(*shorter)
    site.cluster.wait_until_empty()
    alone = site.run(*[one for one in SWEEP if "launcher" not in one], "target.budget_steps=45", "paths.results=alone")
    assert alone.returncode == 0, alone.stderr
    found, expected = site.records(), records(site.folder / "alone")
    assert found.keys() == expected.keys()
    for key, (outcomes, rows) in expected.items():
        assert found[key][0] == outcomes
        assert [row[2] for row in found[key][1]] == pytest.approx([row[2] for row in rows], rel=0.01)
    environments = [json.loads((f.path / "environment.json").read_text()) for f in run_folders(site.study)]
    assert [one["processes"] for one in environments] == [2] * 4


@pytest.mark.slow
def test_two_hundred_trials_in_one_sweep(site: Site) -> None:
    site.environment["CBS_TEST_PAUSE"] = "0"
    rates = ",".join(f"{0.001 + 0.0001 * k:.4f}" for k in range(20))
    sweep = (
        "-m",
        *TINY,
        "batch_size=2,4,...,20",
        "target.budget_steps=20",
        "target.first_gradients=40",
        f"optimizer.lr_generator={rates}",
    )
    fitting = ("hydra.launcher.cpus_per_task=4", "hydra.launcher.mem_gb=6", "device=cpu", "hydra.launcher.fill_min=3")
    said = site.submit(*fitting, sweep=sweep)
    assert "200 trials, 200 runs: 200 to do" in said
    assert "Submitted 200 runs" in said
    site.cluster.wait_until_empty(900)
    assert len(site.records()) == 200
    assert set(site.submitted().values()) == {1}
    assert "200 finished already, 0 to do" in site.submit(*fitting, sweep=sweep)


ADAPTIVE = (
    *(
        "-m",
        "hydra/sweeper=bisect",
        "hydra.sweeper.cost=sfo",
        "hydra.sweeper.budget_sfo=3000",
        "hydra.sweeper.at_once=2",
    ),
    *(*TINY, "batch_size=2,4,...,64", "target.thresholds=[120]", "device=cpu"),
    *("target.budget_steps=null", "target.budget_gradients=2400"),
    *("hydra/launcher=slurm", "hydra.launcher.pack=1", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=4"),
)


@pytest.mark.slow
def test_an_adaptive_sweep_is_killed_and_goes_on(site: Site) -> None:
    """Rounds of runs until the budget is spent; its process is killed while runs are at work."""
    process = site.start(*ADAPTIVE, "hydra.launcher.wait=true")
    try:
        site.cluster.wait(lambda: any(run_folders(site.study)), 400, "a run at work")
    finally:
        process.kill()
        process.communicate()
    done = site.run(*ADAPTIVE, "hydra.launcher.wait=true")
    assert done.returncode == 0, done.stderr
    assert "decided: " in done.stdout or "the budget is spent" in done.stdout
    site.cluster.wait_until_empty()
    found = site.records()
    assert len(found) >= 3
    assert sum(rows[-1][1] for _, rows in found.values()) <= 3_000
    granted = [
        (id, one.run(at).config.target.grant_steps) for one in submissions(site.study) for at, id in enumerate(one.ids)
    ]
    assert len(set(granted)) == len(granted), "a grant was submitted twice"
    again = site.run(*ADAPTIVE, "hydra.launcher.wait=true")
    assert "Submitted" not in again.stderr
    assert site.records() == found


@pytest.mark.slow
def test_an_adaptive_sweep_that_is_not_waited_for_says_how_to_go_on(site: Site) -> None:
    done = site.run(*ADAPTIVE)
    assert done.returncode == 0, done.stderr
    assert "→ b=8 adam seed 0, to step " in done.stderr
    assert "Give the same command again to go on" in done.stderr
    shown = site.launch("status", str(site.study))
    assert "queued" in shown.stdout or "running" in shown.stdout
    site.cluster.wait_until_empty()
    assert "Submitted" in site.run(*ADAPTIVE).stderr


@pytest.mark.slow
def test_arms_that_share_their_first_steps(site: Site, tmp_path: Path) -> None:
    """One run in each task: of every seed, whichever comes first trains the shared steps, and the other waits."""
    alone = tmp_path / "alone"
    alone.mkdir()
    choice = ("branch_from.batch_size=8", "branch_from.step=100")
    undisturbed = here(alone, *choice)
    site.submit(*choice, "hydra.launcher.pack=1")
    site.cluster.wait_until_empty()
    assert site.records() == undisturbed
    assert set(site.submitted().values()) == {1}
    results = [folder.result() for folder in run_folders(site.study)]
    assert sum(result is not None and result.branched_from is not None for result in results) == 2
