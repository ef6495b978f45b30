"""b* of a GAN on digits by the grid and by the adaptive sweep, each from scratch: `make bench-sweep`.

`python -m benchmarks.sweep [optimizer,...]`; the simulation over many curves is benchmarks.adaptive.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from analysis.curves.studies import Run, from_study, read_study
from analysis.fitting.fit import Fit, fit
from analysis.output.tables import short, with_interval
from benchmarks.timing import seconds

_WAYS = {
    "grid, 2 to 1,024, 3 seeds": ("batch_size=2,4,...,1024", "seeds=3"),
    "adaptive, to one octave": ("hydra/sweeper=bisect", "batch_size=2,4,...,1024"),
}


@dataclass(frozen=True)
class Sweep:
    """What one way of sweeping took (wall: seconds), and what it found."""

    wall: float
    runs: list[Run]
    fits: list[Fit]

    @property
    def sfo(self) -> float:
        return sum(run.batch_size * run.result.last_step for run in self.runs)

    @property
    def core_seconds(self) -> float:
        return sum(sum(run.result.seconds.values()) for run in self.runs)


def swept(optimizers: str, choice: tuple[str, ...], folder: Path) -> Sweep:
    """Run a sweep as a user does."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = (f"paths.results={folder}", f"paths.data={folder}/data", "name=sweep")
    command = [sys.executable, "-m", "cbs.run", "-m", f"optimizer={optimizers}", *choice, *paths]
    environment = {**os.environ, "PYTHONPATH": root}
    wall = seconds(lambda: subprocess.run(command, env=environment, check=True, capture_output=True))
    study = folder / "sweep"
    return Sweep(wall, read_study(study), [fit(curve) for curve in from_study(study)])


def main() -> None:
    optimizers = sys.argv[1] if len(sys.argv) > 1 else "adam"
    print(f"\n## The grid and the adaptive sweep on digits, {os.cpu_count()} cores\n")
    print("| | wall | core time | SFO | runs | b* (95 %) |")
    print("|---|---|---|---|---|---|")
    found = []
    for name, choice in _WAYS.items():
        with tempfile.TemporaryDirectory() as folder:
            one = swept(optimizers, choice, Path(folder))
        found.append(one)
        answers = ", ".join(f"{f.curve.name}: {with_interval(f.b_star, f.b_star_ci)}" for f in one.fits)
        times = f"{one.wall:,.0f} s | {one.core_seconds:,.0f} s"
        print(f"| {name} | {times} | {one.sfo:,.0f} | {len(one.runs)} | {answers} |", flush=True)
    grid, adaptive = found
    parts = (
        f"{short(grid.wall / adaptive.wall)}× in wall time",
        f"{short(grid.core_seconds / adaptive.core_seconds)}× in core time",
        f"{short(grid.sfo / adaptive.sfo)}× in SFO",
    )
    print(f"\nThe adaptive sweep takes less by {', '.join(parts)}.")


if __name__ == "__main__":
    main()
