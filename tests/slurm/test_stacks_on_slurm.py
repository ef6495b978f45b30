"""Stacked seeds on a real Slurm."""

from __future__ import annotations

from pathlib import Path

import pytest

from cbs.record import run_folders
from tests.conftest import command
from tests.slurm.conftest import SWEEP, Site
from tests.slurm.test_faults import PAUSE, tasks, whole
from tests.test_sweep import records


@pytest.mark.slow
def test_stacks_go_back_into_the_queue_and_go_on(site: Site, tmp_path: Path) -> None:
    """Two seeds train as one network in each task; both tasks are told to stop, twice."""
    here = tmp_path / "here"
    here.mkdir()
    done = command(*(one for one in SWEEP if not one.startswith("hydra.launcher")), "stack=2", cwd=here)
    assert done.returncode == 0, done.stderr
    site.environment[PAUSE] = "0.06"
    site.submit("stack=2")
    for attempt in ("0001.json", "0002.json"):
        site.cluster.wait(lambda: all((f.claims_path / attempt).exists() for f in run_folders(site.study)), 90, attempt)  # noqa: B023
        site.wait_for_training(4)
        for task in tasks(site.cluster):
            site.cluster.ask("scancel", "--signal=USR2", task)
    site.cluster.wait_until_empty()
    whole(site, records(here / "results"), 4)
    for folder in run_folders(site.study):
        result = folder.result()
        assert result is not None
        assert [part["width"] for part in result.stack] == [2]
