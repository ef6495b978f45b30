"""One real cluster for these tests, and sweeps on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cbs.record import run_folders
from launch.submissions import submissions
from tests.conftest import ROOT, TINY, command
from tests.slurm.cluster import Cluster, cluster, why_not
from tests.test_sweep import records

# Steps that take at least this long leave time for faults, however fast the machine.
PAUSED = '''
import importlib.util, os, sys

class Slowly:
    """Pauses after each step of a GAN; nothing is imported before its time."""

    def find_spec(self, name, path, target=None):
        if name != "cbs.tasks.gan":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def patched(module):
            import time
            execute(module)
            step = module.GAN.step

            def slow(self):
                time.sleep(float(os.environ["CBS_TEST_PAUSE"]))
                if os.environ.get("CBS_TEST_CURSED") == str(self.b):
                    raise RuntimeError(f"b={self.b} is cursed")
                return step(self)

            module.GAN.step = slow

        spec.loader.exec_module = patched
        return spec

sys.meta_path.insert(0, Slowly())
'''
# Four runs in two tasks of two.
SWEEP = (
    *("-m", *TINY, "batch_size=8,16", "seeds=2", "target.budget_steps=340", "checkpoint_minutes=0.02", "device=cpu"),
    *("hydra.launcher.pack=2", "hydra.launcher.cpus_per_task=2", "hydra.launcher.mem_gb=4"),
)


def here(folder: Path, *more: str) -> dict[str, Any]:
    """The records of SWEEP as this machine alone makes them."""
    done = command(*(one for one in SWEEP if not one.startswith("hydra.launcher")), *more, cwd=folder)
    assert done.returncode == 0, done.stderr
    return records(folder / "results")


@pytest.fixture(scope="session")
def lab() -> Iterator[Cluster]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with cluster() as running:
        yield running


class Site:
    """A folder of a user's on the cluster."""

    def __init__(self, cluster: Cluster, folder: Path, results: Path | None = None) -> None:
        self.cluster, self.folder = cluster, folder
        self.results = results or folder / "results"
        (folder / "sitecustomize.py").write_text(PAUSED)
        self.environment = {
            **cluster.environment,
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "CBS_TEST_PAUSE": "0.02",
        }

    @property
    def study(self) -> Path:
        return self.results / "sweep"

    def start(self, *arguments: str, module: str = "cbs.run") -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, module: str = "cbs.run") -> subprocess.CompletedProcess:
        process = self.start(*arguments, module=module)
        out, err = process.communicate(timeout=600)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def submit(self, *more: str, sweep: tuple[str, ...] = SWEEP) -> str:
        """Give the sweep's command; return what it said."""
        done = self.run(*sweep, f"paths.results={self.results}", "hydra/launcher=slurm", *more)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def launch(self, *arguments: str) -> subprocess.CompletedProcess:
        return self.run(*arguments, module="launch")

    def training(self) -> int:
        """How many runs have an evaluation on record and no result."""
        return sum(f.trajectory_path.exists() and not f.result_path.exists() for f in run_folders(self.study))

    def wait_for_training(self, runs: int = 1) -> None:
        self.cluster.wait(lambda: self.training() >= runs, 120, f"{runs} runs at work")

    def submitted(self) -> Counter[tuple[str, int]]:
        """How often each run was handed to Slurm."""
        return Counter(id for one in submissions(self.study) for id in one.ids)

    def output(self) -> str:
        """What the tasks wrote."""
        return "".join(path.read_text() for path in sorted((self.study / "submissions").rglob("*.out")))

    def records(self) -> dict[str, Any]:
        return records(self.results)


@pytest.fixture
def site(lab: Cluster, tmp_path: Path) -> Iterator[Site]:
    yield Site(lab, tmp_path)
    lab.ask("scancel", "-u", "root", check=False)
    lab.wait_until_empty(60)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The records of SWEEP as this machine alone makes them."""
    return here(tmp_path_factory.mktemp("undisturbed"))
