"""The loop, on a task that is no GAN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch

from cbs.loop import Goal, Hooks, Progress, Unrepeatable, train
from cbs.outcome import Censored, Diverged, Evaluation, Measurement, Reached
from cbs.target import Cadence, Even


class Descent:
    """A number that shrinks at each step, with a loss that can turn bad."""

    loss_names = ("loss",)
    gradients: ClassVar[dict[str, int]] = {}

    def __init__(self, bad_at: int | None = None) -> None:
        self.x, self.samples, self.bad_at, self.steps = torch.tensor(1000.0), 0, bad_at, 0

    def step(self) -> tuple[torch.Tensor, ...]:
        self.steps += 1
        self.samples += 2
        self.x = self.x * 0.99
        return (torch.tensor(float("inf")) if self.steps == self.bad_at else self.x,)

    def saw(self, evaluations: Sequence[Evaluation]) -> None:
        self.seen = [e.step for e in evaluations]

    def finite(self) -> bool:
        return bool(self.x.isfinite())

    def state(self) -> dict[str, Any]:
        return {"x": self.x, "samples": self.samples, "steps": self.steps}

    def load(self, state: dict[str, Any]) -> None:
        self.x, self.samples, self.steps = state["x"], state["samples"], state["steps"]


def goal(*thresholds: float, budget: int = 1000, confirmations: int = 1, after: int = 0) -> Goal:
    cadence = Cadence(Even(50), int)
    return Goal(tuple(thresholds), confirmations, cadence, cadence.last(budget), evaluations_after=after)


def run(task: Descent, wanted: Goal, progress: Progress | None = None, hooks: Hooks | None = None) -> tuple:
    progress = progress or Progress()
    hooks = hooks or Hooks(lambda _: None, lambda _: None)

    def measure(step: int, repeat: int) -> Measurement:
        return Measurement(float(task.x) + repeat * 0.01, float(step), {"side": -float(task.x)})

    outcomes = train(task, measure, wanted, progress, hooks)
    return outcomes, progress


def test_every_threshold_gets_its_outcome() -> None:
    outcomes, progress = run(Descent(), goal(500.0, 100.0, 0.001, budget=520))
    assert outcomes == {500.0: Reached(50, 100), 100.0: Reached(200, 250), 0.001: Censored(500)}
    assert progress.step == 500
    assert [e.step for e in progress.evaluations] == list(range(50, 501, 50))
    assert [len(e.repeats) for e in progress.evaluations if e.repeats] == [1, 1]
    assert progress.evaluations[1].samples == 200
    assert [e.sampling_error for e in progress.evaluations] == [float(e.step) for e in progress.evaluations]
    assert all(e.extra == {"side": -e.value} for e in progress.evaluations)


def test_a_lower_threshold_or_a_larger_budget_goes_on() -> None:
    task = Descent()
    _, progress = run(task, goal(500.0))
    assert progress.step == 100
    outcomes, progress = run(task, goal(100.0, budget=200), progress)
    assert outcomes == {100.0: Censored(200)}
    outcomes, progress = run(task, goal(100.0), progress)
    at_once, whole = run(Descent(), goal(500.0, 100.0))
    assert outcomes[100.0] == at_once[100.0]
    assert [(e.step, e.value, e.losses) for e in progress.evaluations] == [
        (e.step, e.value, e.losses) for e in whole.evaluations
    ]


def test_a_run_goes_on_for_the_evaluations_asked_after_its_hardest_crossing() -> None:
    short, _ = run(Descent(), goal(500.0, 100.0))
    for after, last in ((1, 300), (3, 400), (99, 1000)):  # never past the budget
        outcomes, progress = run(Descent(), goal(500.0, 100.0, after=after))
        assert outcomes == short == {500.0: Reached(50, 100), 100.0: Reached(200, 250)}
        assert progress.evaluated_step == progress.step == last
        assert [e.step for e in progress.evaluations if e.repeats] == [100, 250]
    outcomes, progress = run(Descent(), goal(500.0, 0.001, budget=520, after=3))
    assert progress.step == 500  # censored at the hardest: nothing comes after


def test_evaluations_after_a_crossing_may_be_asked_for_later() -> None:
    task = Descent()
    _, progress = run(task, goal(100.0))
    assert progress.step == 250
    outcomes, progress = run(task, goal(100.0, after=2), progress)
    _, at_once = run(Descent(), goal(100.0, after=2))
    assert outcomes == {100.0: Reached(200, 250)}
    assert [(e.step, e.value, e.repeats, e.losses) for e in progress.evaluations] == [
        (e.step, e.value, e.repeats, e.losses) for e in at_once.evaluations
    ]


def test_a_divergence_after_the_crossing_leaves_the_outcome() -> None:
    outcomes, progress = run(Descent(bad_at=270), goal(500.0, 100.0, after=3))
    assert outcomes == {500.0: Reached(50, 100), 100.0: Reached(200, 250)}
    assert progress.diverged_at == 270
    assert progress.evaluated_step == 250


def test_a_threshold_that_was_passed_unconfirmed_can_not_be_answered() -> None:
    task = Descent()
    _, progress = run(task, goal(100.0))
    with pytest.raises(Unrepeatable):
        run(task, goal(500.0), progress)


@pytest.mark.parametrize("bad_at", [1, 49, 50, 51, 64, 65, 130])
def test_divergence_names_its_step(bad_at: int) -> None:
    outcomes, progress = run(Descent(bad_at), goal(500.0, 0.1))
    assert outcomes[0.1] == Diverged(bad_at)
    assert all(e.step < bad_at for e in progress.evaluations)
    assert outcomes[500.0] == (Reached(50, 100) if bad_at > 100 else Diverged(bad_at))


def test_parameters_or_a_metric_that_are_not_finite_diverge_at_the_evaluation() -> None:
    class Silent(Descent):
        def step(self) -> tuple[torch.Tensor, ...]:
            self.x = torch.tensor(float("nan"))
            return (torch.tensor(1.0),)

    assert run(Silent(), goal(1.0))[0] == {1.0: Diverged(50)}
    task = Descent()
    hooks = Hooks(lambda _: None, lambda _: None)
    assert train(task, lambda *_: Measurement(float("nan")), goal(1.0), Progress(), hooks) == {1.0: Diverged(50)}


def test_losses_are_means_since_the_last_evaluation_wherever_a_run_was_cut() -> None:
    whole = run(Descent(), goal(1.0, budget=200))[1]
    for cut in (1, 30, 50, 77, 163):
        task, progress = Descent(), Progress()

        def stop(now: Progress, cut: int = cut) -> None:
            if now.step == cut:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("cbs.loop.LOOK_UP_SECONDS", 0.0)
            with pytest.raises(KeyboardInterrupt):
                run(task, goal(1.0, budget=200), progress, Hooks(lambda _: None, stop))
        again, resumed = Descent(), Progress.from_state(progress.state())
        again.load(task.state())
        run(again, goal(1.0, budget=200), resumed)
        assert [(e.value, e.losses) for e in resumed.evaluations] == [(e.value, e.losses) for e in whole.evaluations]
