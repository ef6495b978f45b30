"""What a run will cost: from records, from a calibration, or from how much arithmetic it is, in this order."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from cbs.outcome import Reached
from cbs.pace import Pace
from cbs.record import Result
from cbs.schema import Config, Request
from launch.plan import Run


@dataclass(frozen=True)
class Estimate:
    """What one run is expected to take on its own.

    steps: in all. seconds: for those that are left. share: of a device, that it keeps busy. known: whether
    records say so, or only the settings. processes: that share its batches, one per GPU. arrives: whether other
    seeds of its trial did, in so many steps; else they are its budget. watts: what its device draws, where it says.
    """

    run: Run
    steps: float
    seconds: float
    share: float
    known: bool
    processes: int = 1
    arrives: bool = False
    watts: float | None = None


# What is taken of a run of which neither records nor a submission say anything.
_GUESS = Pace(0.004, 0.00005)
# Sustained in training, in 1e12 operations a second: about a third of an A100's peak; a core's with no GPU.
_TFLOPS = {"fp32": 7.0, "tf32": 50.0, "bf16": 100.0}
_TFLOPS_OF_A_CORE = 0.03
# From a process's birth, forked where everything is imported already, to its first step.
_START_SECONDS = {"cpu": 1.0, "gpu": 5.0}


def kind(config: Config) -> str:
    """Runs of one kind should step at the same pace at the same b."""
    model, data, target = config.model, config.dataset, config.target
    where = "cpu" if config.device == "cpu" else "gpu"
    measured = f"{target.features}-{target.samples}"
    return f"{model.name}-{model.width}/{data.name}-{data.image_size}/{config.precision}/{where}/{measured}"


def exactly(config: Config) -> str:
    """A kind, its optimizer, whose part of a step counts where networks are small, and how a step uses it."""
    rule = config.update.name
    return f"{kind(config)}/{config.optimizer.name}{'' if rule == 'alternating' else f'-{rule}'}"


def pace_of(config: Config, paces: Mapping[str, Pace]) -> Pace | None:
    """The pace of exactly such runs, else of their kind, else of their kind with another optimizer."""
    nearest = (exactly(config), kind(config), *(name for name in paces if name.startswith(f"{kind(config)}/")))
    return next((paces[name] for name in nearest if name in paces), None)


def first_paces(configs: Sequence[Config], step_ms: float, tflops: float | None) -> dict[str, Pace]:
    """The pace of each kind of run before there are records: its arithmetic, at so many 1e12 operations a second."""
    return {name: _first_pace(config, step_ms, tflops) for name, config in {kind(c): c for c in configs}.items()}


def _first_pace(config: Config, step_ms: float, tflops: float | None) -> Pace:
    from cbs import trial

    def seconds(operations: float, precision: str) -> float:
        rate = tflops or (_TFLOPS_OF_A_CORE if config.device == "cpu" else _TFLOPS[precision])
        return operations / (1e12 * rate)

    work = trial.work(config)
    start = _START_SECONDS["cpu" if config.device == "cpu" else "gpu"]
    return Pace(step_ms / 1000, seconds(work.image, config.precision), seconds(work.evaluation, "fp32"), start)


def as_record(paces: Mapping[str, Pace]) -> dict[str, list[float | None]]:
    """Paces for a manifest, which `from_record` reads."""
    return {name: list(vars(pace).values()) for name, pace in paces.items()}


def from_record(raw: Mapping[str, Sequence[float]]) -> dict[str, Pace]:
    """Paces of a manifest of this version, or of earlier ones, which had the first parts only."""
    return {name: Pace(*parts) for name, parts in raw.items()}


def known_paces(paces: Mapping[str, Pace]) -> Callable[[Config], Pace]:
    """The pace of a config's kind; a guess where it isn't among these."""
    return lambda config: pace_of(config, paces) or _GUESS


def estimates(runs: Sequence[Run], done: Mapping[Run, Result], default: Callable[[Config], Pace]) -> list[Estimate]:
    """How long each run takes: its steps and evaluations times its pace, longest first; with its largest batch size.

    Steps are the median of the trial's seeds that arrived, else all that is asked for. done: runs with records.
    default: the pace of a config of whose kind there are none.
    """
    of_kind: dict[str, dict[Run, Result]] = {}
    steps: dict[str, list[int]] = {}
    for run, result in done.items():
        of_kind.setdefault(exactly(run.config), {})[run] = result
        outcome = result.outcomes.get(run.config.target.hardest)
        if isinstance(outcome, Reached):
            steps.setdefault(run.folder.key, []).append(Request.of(run.config).end(outcome.first_below))
    paces = {name: recorded_pace(known, default(next(iter(known)).config)) for name, known in of_kind.items()}
    found = []
    for run in runs:
        config = run.config
        b, recorded = config.batch_size.largest, pace_of(config, paces)
        pace = recorded or default(config)
        wanted = min(config.asked_steps, statistics.median(steps.get(run.folder.key, [math.inf])))
        at = run.folder.progress().get("step", 0)
        evaluations = config.cadence.count(at, int(wanted))
        seconds = pace.start_seconds + max(0, wanted - at) * pace.seconds(b) + evaluations * pace.evaluation_seconds
        arrives = run.folder.key in steps
        share, processes = pace.share(b), config.gpus_per_trial
        found.append(Estimate(run, wanted, seconds, share, recorded is not None, processes, arrives, pace.watts))
    return sorted(found, key=lambda one: -one.seconds)


def _size(run: Run) -> int:
    """A finished run's batch size; where it changed, the mean over its steps."""
    config = run.config
    seen = run.folder.trajectory() if not config.batch_size.is_constant or config.branch_from else []
    return round(seen[-1].samples / (seen[-1].step * config.batches_per_step)) if seen else config.batch_size.initial


def recorded_pace(done: Mapping[Run, Result], default: Pace) -> Pace:
    """The pace that finished runs of one kind had, each batch size by its median run."""
    training: dict[int, list[float]] = {}
    evaluating, watts = [], []
    for run, result in done.items():
        a_step = result.seconds["training"] / max(result.last_step, 1)
        training.setdefault(_size(run), []).append(a_step)
        evaluations = run.config.cadence.count(0, result.last_step)
        evaluating.append(result.seconds["evaluating"] / max(evaluations, 1))
        if result.energy_joules is not None:
            watts.append(result.energy_joules / max(sum(result.seconds.values()), 1e-9))
    found = default.through({b: statistics.median(seconds) for b, seconds in training.items()})
    drawn = statistics.median(watts) if watts else default.watts
    return replace(found, evaluation_seconds=statistics.median(evaluating), watts=drawn)
