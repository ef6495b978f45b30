"""Shared by the tests: composing configs, tiny trials, running the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import settings
from omegaconf import DictConfig

from cbs.batch_sizes import quoted
from cbs.config import CONF_DIR, typed
from cbs.schema import Config

# A machine that is busy with something else is no failure.
settings.register_profile("cbs", deadline=None)
settings.load_profile("cbs")
ROOT = Path(__file__).resolve().parent.parent
# A trial of a second: a coarse cadence, few samples, a budget that ends it, and each seed on its own.
TINY = (
    "stack=1",
    "model.width=4",
    "model.latent=4",
    "model.rates.adam={generator: 2.0e-3, discriminator: 2.0e-3}",
    "model.rates.adabelief={generator: 2.0e-3, discriminator: 2.0e-3}",
    "model.rates.rmsprop={generator: 2.0e-3, discriminator: 2.0e-3}",
    "target.samples=128",
    "target.first_gradients=316",  # 20, 30, 45, 67, 100 and 150 steps at 16
    "target.precision=0.5",
    "target.budget_steps=150",
    "target.budget_gradients=null",
    "target.evaluations_after=0",
    "target.thresholds=[1.0]",
)


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("config", overrides=[quoted(o) for o in overrides])


def config(*overrides: str) -> Config:
    return typed(composed(*overrides))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch as runs have it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Config]:
    """Compose a tiny trial whose folders lie in a temporary one."""
    here = (f"paths.results={tmp_path}/results", f"paths.data={tmp_path}/data")
    return lambda *overrides: config(*TINY, *here, *overrides)


def command(*arguments: str, cwd: Path, module: str = "cbs.run", timeout: float = 300) -> subprocess.CompletedProcess:
    """Run the command line as a user would, in a folder of its own."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


SEVERAL = ("-m", *TINY, "batch_size=4,16,64", "optimizer=adam,rmsprop", "seeds=2", "target.thresholds=[175,165]")


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a real study in results/sweep: two optimizers, three batch sizes, two seeds, two thresholds.

    Shared by tests that read it or write beside it; none trains in it.
    """
    folder = tmp_path_factory.mktemp("swept")
    done = command(*SEVERAL, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes a real disk of a size, as in "1m"; only root may mount one, which CI is."""
    mounted: list[Path] = []

    def made(size: str) -> Path:
        folder = tmp_path / f"disk-{size}"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        done = subprocess.run(mount, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield made
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)
