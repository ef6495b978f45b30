"""What a run will cost: seconds a step as a function of b, from records where there are any."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cbs.outcome import Reached
from cbs.record import Result
from cbs.schema import Config
from launch.plan import Run

# From a process's birth to its first step.
_START_SECONDS = 5.0


@dataclass(frozen=True)
class Pace:
    """Seconds of one step at batch size b: step_seconds + b·image_seconds.

    The first part is what starting a step's kernels takes, whatever b; the second is arithmetic and memory.
    """

    step_seconds: float
    image_seconds: float

    def seconds(self, b: int) -> float:
        return self.step_seconds + b * self.image_seconds

    def share(self, b: int) -> float:
        """Which part of a device one run keeps busy, between 0 and 1."""
        return b * self.image_seconds / self.seconds(b)

    def through(self, points: Mapping[int, float]) -> Pace:
        """The pace nearest to what was measured, {b: seconds a step}, in relative terms.

        With one point, or points that say nothing of one part, this pace is scaled instead.
        """
        from scipy.optimize import nnls

        b, seconds = np.array(list(points)), np.array(list(points.values()))
        if len(points) > 1:
            (step, image), _ = nnls(np.stack([1 / seconds, b / seconds], axis=1), np.ones(len(b)))
            if step > 0 and image > 0:
                return Pace(float(step), float(image))
        scale = statistics.median(measured / self.seconds(int(size)) for size, measured in points.items())
        return Pace(scale * self.step_seconds, scale * self.image_seconds)


@dataclass(frozen=True)
class Estimate:
    """What one run is expected to take on its own.

    steps: in all. seconds: for those that are left. share: of a device, that it keeps busy. known: whether
    records say so, or only the settings. processes: that share its batches, one per GPU.
    """

    run: Run
    steps: float
    seconds: float
    share: float
    known: bool
    processes: int = 1


def _kind(config: Config) -> tuple[str, int, str, int]:
    """Runs that should step at the same pace at the same b."""
    return (config.model.name, config.model.width, config.dataset.name, config.dataset.image_size)


def estimates(runs: Sequence[Run], done: Mapping[Run, Result], default: Pace) -> list[Estimate]:
    """How long each run takes: its steps times its pace, longest first.

    Steps are the median of the trial's seeds that arrived, else the whole budget. done: runs with records.
    """
    measured: dict[tuple[str, int, str, int], dict[int, list[float]]] = {}
    steps: dict[str, list[int]] = {}
    for run, result in done.items():
        seconds = sum(result.seconds.values()) / max(result.last_step, 1)
        by_size = measured.setdefault(_kind(run.config), {})
        by_size.setdefault(run.config.batch_size.initial, []).append(seconds)
        outcome = result.outcomes.get(min(run.config.target.thresholds))
        if isinstance(outcome, Reached):
            steps.setdefault(run.folder.key, []).append(outcome.first_below)
    paces = {
        kind: default.through({b: statistics.median(seconds) for b, seconds in by_size.items()})
        for kind, by_size in measured.items()
    }
    found = []
    for run in runs:
        b, kind = run.config.batch_size.initial, _kind(run.config)
        pace = paces.get(kind, default)
        wanted = statistics.median(steps.get(run.folder.key, [run.config.target.budget_steps]))
        left = max(0, wanted - run.folder.progress().get("step", 0))
        seconds = _START_SECONDS + left * pace.seconds(b)
        found.append(Estimate(run, wanted, seconds, pace.share(b), kind in paces, run.config.gpus_per_trial))
    return sorted(found, key=lambda one: -one.seconds)
