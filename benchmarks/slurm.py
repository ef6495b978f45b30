"""A sweep on a real Slurm on this machine: what submitting costs, and packed against unpacked.

`python -m benchmarks.slurm`, or as a part of `make bench`; it needs Debian's slurm-wlm and munge, and root.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import ROOT, TINY
from tests.slurm.cluster import Cluster, why_not

_LAUNCHER = ("hydra/launcher=slurm", "device=cpu", "hydra.launcher.cpus_per_task=2", "hydra.launcher.mem_gb=2")
_RATES = ",".join(f"{0.001 + 0.0001 * k:.4f}" for k in range(50))


def _given(cluster: Cluster, folder: Path, *arguments: str) -> float:
    """Seconds that a sweep's command takes to return."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "cbs.run", "-m", *TINY, *_LAUNCHER, f"paths.results={folder}", *arguments]
    environment = {**cluster.environment, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - started


def _swept(cluster: Cluster, folder: Path, pack: str) -> float:
    """Seconds from a sweep's command to its last run's end: 16 runs of 20 steps, four of a node's cores in use."""
    folder.mkdir()
    started = time.perf_counter()
    sweep = ("batch_size=4,8,...,32", "seeds=4", "target.budget_steps=20", "target.first_gradients=80")
    _given(
        cluster,
        folder,
        *sweep,
        "hydra.launcher.array_parallelism=2",
        f"hydra.launcher.pack={pack}",
        "hydra.launcher.wait=false",
    )
    while cluster.queue():
        time.sleep(0.1)
    return time.perf_counter() - started


def report() -> None:
    """Print both, as Markdown."""
    reason = why_not()
    if reason is not None:
        print(f"Not measured: {reason}.")
        return
    with Cluster() as cluster, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _given(cluster, folder, "batch_size=8,16", "name=first", "hydra.launcher.pack=1")  # packs the data set
        none = _given(cluster, folder, "batch_size=8,16", "name=few", "hydra.launcher.pack=1")
        cluster.ask("scancel", "-u", "root")
        two_hundred = ("batch_size=8,16,32,64", f"optimizer.lr_generator={_RATES}")
        many = _given(cluster, folder, *two_hundred, "name=many", "hydra.launcher.pack=1")
        cluster.ask("scancel", "-u", "root")
        cluster.wait(lambda: not cluster.queue(), 120, "empty queue")
        print(f"Submitting 2 runs takes {none:.1f} s, 200 runs in as many tasks {many:.1f} s: ", end="")
        print(f"{(many - none) / 198 * 1000:.0f} ms more per trial.\n", flush=True)
        apart, together = _swept(cluster, folder / "apart", "1"), _swept(cluster, folder / "together", "auto")
        print(f"16 short runs, two tasks at a time: a task each {apart:.0f} s, packed {together:.0f} s: ", end="")
        print(f"{apart / together:.1f}×", flush=True)


if __name__ == "__main__":
    report()
