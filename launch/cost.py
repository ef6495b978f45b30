"""What a run will cost: seconds a step as a function of b, from records, or from how much arithmetic it is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
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
    evaluation_seconds: of one evaluation, where the steps' seconds don't contain their part of it.
    """

    step_seconds: float
    image_seconds: float
    evaluation_seconds: float = 0.0

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


# What is taken of a run of which neither records nor a submission say anything.
_GUESS = Pace(0.004, 0.00005)
# Sustained in training, in 1e12 operations a second: about a third of an A100's peak; a core's with no GPU.
_TFLOPS = {"fp32": 7.0, "tf32": 50.0, "bf16": 100.0}
_TFLOPS_OF_A_CORE = 0.03


def kind(config: Config) -> str:
    """Runs of one kind should step at the same pace at the same b."""
    model, data, target = config.model, config.dataset, config.target
    where = "cpu" if config.device == "cpu" else "gpu"
    measured = f"{target.features}-{target.samples}"
    return f"{model.name}-{model.width}/{data.name}-{data.image_size}/{config.precision}/{where}/{measured}"


def first_paces(configs: Sequence[Config], step_ms: float, tflops: float | None) -> dict[str, Pace]:
    """The pace of each kind of run before there are records: its arithmetic, at so many 1e12 operations a second."""
    return {name: _first_pace(config, step_ms, tflops) for name, config in {kind(c): c for c in configs}.items()}


def _first_pace(config: Config, step_ms: float, tflops: float | None) -> Pace:
    from cbs import trial

    def seconds(operations: float, precision: str) -> float:
        rate = tflops or (_TFLOPS_OF_A_CORE if config.device == "cpu" else _TFLOPS[precision])
        return operations / (1e12 * rate)

    work = trial.work(config)
    return Pace(step_ms / 1000, seconds(work.image, config.precision), seconds(work.evaluation, "fp32"))


def as_record(paces: Mapping[str, Pace]) -> dict[str, list[float]]:
    """Paces for a manifest, which `from_record` reads."""
    return {name: [pace.step_seconds, pace.image_seconds, pace.evaluation_seconds] for name, pace in paces.items()}


def from_record(raw: Mapping[str, Sequence[float]]) -> dict[str, Pace]:
    return {name: Pace(*parts) for name, parts in raw.items()}


def known_paces(paces: Mapping[str, Pace]) -> Callable[[Config], Pace]:
    """The pace of a config's kind; a guess where it isn't among these."""
    return lambda config: paces.get(kind(config), _GUESS)


def estimates(runs: Sequence[Run], done: Mapping[Run, Result], default: Callable[[Config], Pace]) -> list[Estimate]:
    """How long each run takes: its steps times its pace, longest first.

    Steps are the median of the trial's seeds that arrived, else all that is asked for. done: runs with records.
    default: the pace of a config of whose kind there are none.
    """
    measured: dict[str, dict[int, list[float]]] = {}
    of_kind: dict[str, Config] = {}
    steps: dict[str, list[int]] = {}
    for run, result in done.items():
        seconds = sum(result.seconds.values()) / max(result.last_step, 1)
        of_kind[kind(run.config)] = run.config
        by_size = measured.setdefault(kind(run.config), {})
        by_size.setdefault(run.config.batch_size.initial, []).append(seconds)
        outcome = result.outcomes.get(min(run.config.target.thresholds))
        if isinstance(outcome, Reached):
            steps.setdefault(run.folder.key, []).append(outcome.first_below)
    paces = {
        name: default(of_kind[name]).through({b: statistics.median(seconds) for b, seconds in by_size.items()})
        for name, by_size in measured.items()
    }
    found = []
    for run in runs:
        config = run.config
        b, name = config.batch_size.initial, kind(config)
        pace = paces[name] if name in paces else default(config)
        wanted = min(config.target.asked_steps, statistics.median(steps.get(run.folder.key, [math.inf])))
        at = run.folder.progress().get("step", 0)
        evaluations = config.target.cadence.count(at, int(wanted))
        seconds = _START_SECONDS + max(0, wanted - at) * pace.seconds(b) + evaluations * pace.evaluation_seconds
        found.append(Estimate(run, wanted, seconds, pace.share(b), name in paces, config.gpus_per_trial))
    return sorted(found, key=lambda one: -one.seconds)
