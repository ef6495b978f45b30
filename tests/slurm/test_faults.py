"""A real sweep on a real Slurm, and what befalls it: each test ends with records equal to an undisturbed sweep's."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from cbs.record import run_folders
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import SWEEP, Site, here

PAUSE = "CBS_TEST_PAUSE"


def whole(site: Site, undisturbed: dict[str, Any], faults: int, submitted: int = 1) -> None:
    """Everything is finished as if nothing had happened, and every run was submitted so often."""
    assert site.records() == undisturbed
    assert set(site.submitted().values()) == {submitted}
    done = site.launch("status", str(site.study))
    assert done.returncode == 0, done.stdout
    print(f"{faults} faults injected")
    assert faults > 0


def tasks(cluster: Cluster, state: str = "RUNNING") -> list[str]:
    return cluster.ask("squeue", "-h", "-r", "-t", state, "-o", "%i").split()


@pytest.mark.slow
def test_time_limits_requeue_and_lose_nothing(site: Site, undisturbed: dict) -> None:
    """Slurm's warning, twice, as at a time limit: each time every run saves, and its job goes back into the queue."""
    site.environment[PAUSE] = "0.06"
    site.submit()
    faults = 0
    for _ in range(2):
        site.wait_for_training(4)
        for task in tasks(site.cluster):
            site.cluster.ask("scancel", "--signal=USR2", task)
            faults += 1
        site.cluster.wait(lambda: not tasks(site.cluster) or site.training() == 0, 60, "requeueing")
        site.cluster.wait(lambda: not site.cluster.queue() or tasks(site.cluster), 60, "second start")
        time.sleep(8)  # Python starts
    site.cluster.wait_until_empty()
    assert site.output().count("Requeued job") >= 2
    whole(site, undisturbed, faults)


@pytest.mark.slow
def test_a_real_time_limit_is_hit_twice(site: Site, undisturbed: dict) -> None:
    site.environment[PAUSE] = "0.55"
    site.submit("hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=45")
    site.cluster.wait_until_empty(900)
    requeued = site.output().count("Requeued job")
    assert requeued >= 4, site.output()
    whole(site, undisturbed, requeued)


@pytest.mark.slow
def test_a_cancelled_task_is_submitted_again_alone(site: Site, undisturbed: dict) -> None:
    site.environment[PAUSE] = "0.1"
    site.submit()
    site.wait_for_training(4)
    first, second = tasks(site.cluster)
    site.cluster.ask("scancel", first)
    site.cluster.wait(lambda: len(site.cluster.queue()) == 1, 60, "end of the cancelled task")
    assert tasks(site.cluster) == [second]
    said = site.submit()
    assert "2 at work" in said
    assert "Submitted 2 runs in 1 task" in said
    site.cluster.wait_until_empty()
    assert sorted(site.submitted().values()) == [1, 1, 2, 2]
    assert site.records() == undisturbed
    print("1 fault injected")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["USR2", "TERM"])
def test_preemption_requeues(site: Site, undisturbed: dict, how: str) -> None:
    """USR2: Slurm sends it (preempt_send_user_signal). TERM: all that other clusters send."""
    site.environment[PAUSE] = "0.06"
    site.submit()
    site.wait_for_training(4)
    if how == "USR2":
        wrap = ("--wrap", "sleep 3", "-o", "/dev/null")
        site.cluster.ask("sbatch", "-p", "high", "-N2", "--exclusive", *wrap)
        site.cluster.wait(lambda: site.output().count("Requeued job") == 2, 90, "preemption")
    else:
        for task in tasks(site.cluster):
            site.cluster.ask("scancel", "--signal=TERM", task)
        site.cluster.wait(lambda: site.output().count("Preempted: back") == 2, 90, "preemption")
    site.cluster.wait_until_empty()
    whole(site, undisturbed, 2)


def node_of_all(site: Site) -> str:
    """The node that runs every task."""
    (node,) = set(site.cluster.ask("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%N").split())
    return node


@pytest.mark.slow
def test_a_node_that_dies_with_its_job(site: Site, undisturbed: dict) -> None:
    site.environment[PAUSE] = "0.06"
    site.submit()
    site.wait_for_training(4)
    node = node_of_all(site)
    site.cluster.kill_node(node)
    site.cluster.wait(lambda: not tasks(site.cluster), 90, "dead node")
    site.cluster.start_node(node)
    site.cluster.wait_until_empty()
    assert all(f.claims_path.joinpath("0002.json").exists() for f in run_folders(site.study))
    whole(site, undisturbed, 1)


@pytest.mark.slow
def test_two_copies_of_a_job_and_the_older_yields(site: Site, undisturbed: dict) -> None:
    """Slurm loses sight of a node, starts its jobs elsewhere, and the old copies still run."""
    site.environment[PAUSE] = "0.2"
    site.submit()
    site.wait_for_training(4)
    old, node = owners(site), node_of_all(site)
    site.cluster.kill_daemon(node)
    site.cluster.wait(
        lambda: all(f.claims_path.joinpath("0002.json").exists() for f in run_folders(site.study)), 120, "second copy"
    )
    both = [pid for pid in old if psutil.pid_exists(pid)]
    print(f"{len(both)} old processes were there when the new ones had claimed the runs")
    site.cluster.wait(lambda: not any(psutil.pid_exists(pid) for pid in old), 60, "end of the older copies")
    site.cluster.start_node(node)
    site.cluster.wait_until_empty()
    assert both
    assert "superseded" in site.output()
    for folder in run_folders(site.study):
        assert folder.last_failure() is None
    whole(site, undisturbed, 1)


def owners(site: Site) -> list[int]:
    claims = [path for f in run_folders(site.study) for path in f.claims_path.glob("0*.json")]
    return [json.loads(path.read_text())["pid"] for path in claims]


@pytest.mark.slow
def test_a_run_killed_inside_a_task_is_tried_again_there(site: Site, undisturbed: dict) -> None:
    site.submit()
    site.wait_for_training(4)
    os.kill(owners(site)[0], signal.SIGKILL)
    site.cluster.wait_until_empty()
    assert site.output().count("done after") == 4
    whole(site, undisturbed, 1)


@pytest.mark.slow
def test_the_controller_is_restarted(site: Site, undisturbed: dict) -> None:
    site.environment[PAUSE] = "0.2"
    site.submit()
    site.wait_for_training(4)
    site.cluster.stop_controller()
    try:
        refused = site.run(*SWEEP, f"paths.results={site.results}", "hydra/launcher=slurm")
        shown = site.launch("status", str(site.study))
    finally:
        site.cluster.start_controller()
    assert refused.returncode == 2
    assert "scontrol says" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "The queue is unknown" in shown.stdout
    assert "4 running" in shown.stdout
    assert "0 to do" in site.submit()
    site.cluster.wait_until_empty()
    whole(site, undisturbed, 1)


def fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


@pytest.mark.slow
def test_a_full_disk(lab: Cluster, tmp_path: Path, disk: Callable[[str], Path], undisturbed: dict) -> None:
    results = disk("6m")
    site = Site(lab, tmp_path, results=results)
    site.submit()
    site.wait_for_training(4)
    filler = results / "filler"
    with pytest.raises(OSError, match="No space"):
        fill(filler)
    time.sleep(1.5)
    site.cluster.wait_until_empty()
    assert "launch/job.py" not in site.output()  # no traceback of ours: the tasks outlived it
    left = 4 - sum(f.result_path.exists() for f in run_folders(site.study))
    print(f"{left} of 4 runs could not write their result")
    assert left > 0
    filler.unlink()
    said = site.submit()
    assert f"Submitted {left} runs" in said
    site.cluster.wait_until_empty()
    assert site.records() == undisturbed
    print("1 fault injected")


@pytest.mark.slow
def test_two_submitters_at_once(site: Site, undisturbed: dict) -> None:
    arguments = (*SWEEP, f"paths.results={site.results}", "hydra/launcher=slurm")
    both = [site.start(*arguments) for _ in range(3)]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert all(process.returncode == 0 for process in both), said
    assert sum("Submitted" in one for one in said) == 1, said
    site.cluster.wait_until_empty()
    whole(site, undisturbed, 2)


@pytest.mark.slow
def test_what_fails_alike_is_set_aside_and_its_neighbours_are_not(site: Site, undisturbed: dict) -> None:
    site.environment["CBS_TEST_CURSED"] = "16"
    site.submit("hydra.launcher.pack=4")
    site.cluster.wait_until_empty()
    finished = [f for f in run_folders(site.study) if f.result_path.exists()]
    failed = [f for f in run_folders(site.study) if not f.result_path.exists()]
    assert len(finished) == len(failed) == 2
    assert [f.failed_alike() for f in failed] == [2, 2]  # twice in a task: the node may be to blame
    assert "Submitted 2 runs" in site.submit("hydra.launcher.pack=4")
    site.cluster.wait_until_empty()
    assert [f.failed_alike() for f in failed] == [3, 3]
    shown = site.launch("status", str(site.study))
    assert shown.returncode == 1
    assert "set aside: RuntimeError: b=16 is cursed" in " ".join(shown.stdout.split())
    refused = site.run(*SWEEP, f"paths.results={site.results}", "hydra/launcher=slurm")
    assert refused.returncode == 1
    assert "2 set aside" in refused.stderr
    assert f"python -m launch resubmit --failed {site.study}" in refused.stderr
    assert sorted(site.submitted().values()) == [1, 1, 2, 2]
    del site.environment["CBS_TEST_CURSED"]
    again = site.launch("resubmit", "--failed", str(site.study))
    assert "Submitted 2 runs" in again.stderr, again.stderr
    site.cluster.wait_until_empty()
    assert site.records() == undisturbed
    print("6 faults injected")


@pytest.mark.slow
def test_stacks_go_back_into_the_queue_and_go_on(site: Site, tmp_path: Path) -> None:
    """Two seeds train as one network in each task; both tasks are told to stop, twice."""
    alone = tmp_path / "alone"
    alone.mkdir()
    undisturbed = here(alone, "stack=2")
    site.environment[PAUSE] = "0.06"
    site.submit("stack=2")

    def begun(attempt: str) -> bool:
        return all((folder.claims_path / attempt).exists() for folder in run_folders(site.study))

    for attempt in ("0001.json", "0002.json"):
        site.cluster.wait(partial(begun, attempt), 90, attempt)
        site.wait_for_training(4)
        for task in tasks(site.cluster):
            site.cluster.ask("scancel", "--signal=USR2", task)
    site.cluster.wait_until_empty()
    whole(site, undisturbed, 4)
    for folder in run_folders(site.study):
        result = folder.result()
        assert result is not None
        assert [part["width"] for part in result.stack] == [2]
