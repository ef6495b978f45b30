"""The training loop: steps, evaluations, and when to stop. It knows no network and no metric."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch

from cbs.outcome import BUDGET, METRICS, Censored, Diverged, Evaluation, Measurement, Metric, Outcome, Reached
from cbs.target import Ask, Cadence, crossing

# Losses are read back in blocks, so that an accelerator never waits for the host.
BLOCK = 64
# How often, in seconds, a run looks up from its steps.
LOOK_UP_SECONDS = 0.5


class Task(Protocol):
    """What is trained: networks, data, losses, one step."""

    @property
    def loss_names(self) -> tuple[str, ...]:
        """What the losses of a step are called."""
        ...

    @property
    def samples(self) -> int:
        """Real samples consumed so far."""
        ...

    @property
    def gradients(self) -> Mapping[str, int]:
        """Per-sample gradients evaluated so far, of each network."""
        ...

    def step(self) -> tuple[torch.Tensor, ...]:
        """Train one step; return the detached losses, one scalar tensor per name, unread."""
        ...

    def saw(self, evaluations: Sequence[Evaluation]) -> None:
        """Take in the run's evaluations so far: before its first step here, and after each of them."""
        ...

    def finite(self) -> bool:
        """Whether every parameter is finite."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything the next step depends on."""
        ...

    def load(self, state: dict[str, Any]) -> None: ...


class Unrepeatable(Exception):
    """A threshold needs a fresh-noise repeat at an evaluation whose networks are gone."""


@dataclass
class Progress:
    """How far a run is; with the task's state, all that a checkpoint holds."""

    step: int = 0
    training_seconds: float = 0.0
    evaluating_seconds: float = 0.0
    evaluations: list[Evaluation] = field(default_factory=list)
    loss_sums: list[float] = field(default_factory=list)
    loss_count: int = 0
    diverged_at: int | None = None
    energy_joules: float | None = 0.0  # None: the device doesn't say

    @property
    def evaluated_step(self) -> int:
        """The last step that was evaluated; a run may have been cut between a step and its evaluation."""
        return self.evaluations[-1].step if self.evaluations else 0

    def state(self) -> dict[str, Any]:
        return {**vars(self), "evaluations": [e.to_dict() for e in self.evaluations]}

    @classmethod
    def from_state(cls, raw: dict[str, Any]) -> Progress:
        before = {"energy_joules": None}  # of checkpoints that don't know it
        return cls(**{**before, **raw, "evaluations": [Evaluation.from_dict(e) for e in raw["evaluations"]]})


@dataclass(frozen=True)
class Goal:
    """When a run has arrived: its thresholds, how a crossing is confirmed, its last evaluation and why that is it.

    metric: which side of a threshold is the better one. evaluations_after: how many evaluations follow the crossing of
    the hardest threshold, up to the last one.
    """

    thresholds: tuple[float, ...]
    confirmations: int
    cadence: Cadence
    last_step: int
    reason: str = BUDGET
    metric: Metric = METRICS["fid"]
    evaluations_after: int = 0

    def outcome(self, progress: Progress, threshold: float) -> Outcome | Ask | None:
        """What is known of one threshold by now; None while the run must go on."""
        found = crossing(progress.evaluations, threshold, self.confirmations, self.metric)
        if found is not None:
            return found
        if progress.diverged_at is not None:
            return Diverged(progress.diverged_at)
        if progress.evaluated_step >= self.last_step:
            return Censored(progress.evaluated_step, self.reason)
        return None

    def goes_on(self, progress: Progress, outcomes: Mapping[float, Outcome]) -> bool:
        """Whether a run that has every outcome still owes evaluations after its last crossing."""
        last = outcomes[self.metric.hardest(self.thresholds)]
        if not isinstance(last, Reached) or progress.diverged_at is not None:
            return False
        after = sum(evaluation.step > last.first_below for evaluation in progress.evaluations)
        return after < self.evaluations_after and progress.evaluated_step < self.last_step


Measure = Callable[[int, int], Measurement]
"""(step, repeat) -> the metric of the task as it is now, with noise that depends on those two only.

Of a repeat, only the value is read."""


@dataclass
class Hooks:
    """What the loop tells its surroundings.

    evaluated: after each evaluation. looked_up: about twice a second, between two steps; it may save
    a checkpoint, and may raise to stop the run there.
    """

    evaluated: Callable[[Progress], None]
    looked_up: Callable[[Progress], None]


def train(task: Task, measure: Measure, goal: Goal, progress: Progress, hooks: Hooks) -> dict[float, Outcome]:
    """Train until every threshold has its outcome, and for goal.evaluations_after more; return the outcomes.

    Raises Unrepeatable where a crossing would need networks that are no longer there.
    """
    task.saw(progress.evaluations)
    while True:
        outcomes = settled(measure, goal, progress, hooks)
        if outcomes is not None:
            return outcomes
        _advance(task, progress, goal.cadence.following(progress.evaluated_step), hooks)
        if progress.diverged_at is None:
            evaluate(task, measure, progress, hooks)


def reach(task: Task, measure: Measure, goal: Goal, progress: Progress, hooks: Hooks, step: int) -> None:
    """Train to exactly this step, whatever is reached before, as `train` would have passed it; or to a divergence.

    Raises Unrepeatable as `train` does.
    """
    task.saw(progress.evaluations)
    while True:
        settled(measure, goal, progress, hooks)
        if progress.diverged_at is not None or progress.evaluated_step >= step:
            return
        following = goal.cadence.following(progress.evaluated_step)
        _advance(task, progress, min(following, step), hooks)
        if progress.diverged_at is None and progress.step == following:
            evaluate(task, measure, progress, hooks)
        elif progress.step == step:
            return


def settled(measure: Measure, goal: Goal, progress: Progress, hooks: Hooks) -> dict[float, Outcome] | None:
    """Each threshold's outcome, after the repeats that crossings ask for; None where there must be more steps."""
    while True:
        outcomes = {t: goal.outcome(progress, t) for t in goal.thresholds}
        asked = [o.index for o in outcomes.values() if isinstance(o, Ask)]
        if not asked:
            known = {t: o for t, o in outcomes.items() if isinstance(o, Reached | Censored | Diverged)}
            return known if len(known) == len(outcomes) and not goal.goes_on(progress, known) else None
        _repeat(measure, progress, min(asked), hooks)


def _advance(task: Task, progress: Progress, until: int, hooks: Hooks) -> None:
    """Step up to the next evaluation, or to the block in which a loss stopped being finite."""
    pending: list[tuple[torch.Tensor, ...]] = []
    started = time.perf_counter()
    look_up = started + LOOK_UP_SECONDS
    while progress.step < until and progress.diverged_at is None:
        pending.append(task.step())
        progress.step += 1
        if len(pending) == BLOCK or progress.step == until:
            _read(task, progress, pending)
        now = time.perf_counter()
        if now >= look_up:
            _read(task, progress, pending)
            now = time.perf_counter()
            progress.training_seconds += now - started
            hooks.looked_up(progress)
            started = time.perf_counter()
            look_up = started + LOOK_UP_SECONDS
    progress.training_seconds += time.perf_counter() - started


def _read(task: Task, progress: Progress, pending: list[tuple[torch.Tensor, ...]]) -> None:
    """Read the losses of the last steps back, row by row, so that no block's length changes a sum."""
    if not pending:
        return
    names = len(task.loss_names)
    values = torch.stack([loss for row in pending for loss in row]).tolist()
    take(progress, [values[at : at + names] for at in range(0, len(values), names)])
    pending.clear()


def take(progress: Progress, rows: Sequence[Sequence[float]]) -> None:
    """Take in the losses of the last steps, up to the first that isn't finite."""
    if progress.diverged_at is not None:
        return
    sums = progress.loss_sums or [0.0] * len(rows[0])
    for step, losses in enumerate(rows, progress.step - len(rows) + 1):
        if not all(map(math.isfinite, losses)):
            progress.diverged_at = step
            break
        sums = [total + loss for total, loss in zip(sums, losses, strict=True)]
        progress.loss_count += 1
    progress.loss_sums = sums


def evaluate(task: Task, measure: Measure, progress: Progress, hooks: Hooks) -> None:
    """Measure the task as it is; a metric or a parameter that isn't finite is a divergence."""
    started = time.perf_counter()
    found = measure(progress.step, 0) if task.finite() else Measurement(math.nan)
    progress.evaluating_seconds += time.perf_counter() - started
    if not math.isfinite(found.value):
        progress.diverged_at = progress.step
        return
    means = [total / max(progress.loss_count, 1) for total in progress.loss_sums]
    progress.evaluations.append(
        Evaluation(
            step=progress.step,
            samples=task.samples,
            seconds=progress.training_seconds + progress.evaluating_seconds,
            value=found.value,
            losses=dict(zip(task.loss_names, means, strict=True)),
            sampling_error=found.sampling_error,
            extra=found.extra,
            noise=found.noise,
            gradients=dict(task.gradients),
        )
    )
    progress.loss_sums, progress.loss_count = [], 0
    task.saw(progress.evaluations)
    hooks.evaluated(progress)


def _repeat(measure: Measure, progress: Progress, index: int, hooks: Hooks) -> None:
    evaluation = progress.evaluations[index]
    if evaluation.step != progress.step:
        raise Unrepeatable(f"the crossing at step {evaluation.step} was not confirmed when the run passed it")
    started = time.perf_counter()
    value = measure(progress.step, len(evaluation.repeats) + 1).value
    progress.evaluating_seconds += time.perf_counter() - started
    progress.evaluations[index] = replace(evaluation, repeats=(*evaluation.repeats, value))
    hooks.evaluated(progress)


def timing(progress: Progress) -> dict[str, float]:
    """Seconds spent training and evaluating, over all attempts."""
    return {"training": progress.training_seconds, "evaluating": progress.evaluating_seconds}
