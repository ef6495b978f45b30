"""One process working on one run: from its last checkpoint to its record."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch

from cbs import checkpoint, energy, loggers, memory
from cbs.branch_state import begun
from cbs.claim import Claim
from cbs.loop import Goal, Hooks, Progress, Unrepeatable, reach, train
from cbs.machine import onednn, tf32
from cbs.outcome import Outcome, Reached
from cbs.parallel import Led, Team
from cbs.record import Result, RunFolder
from cbs.recording import Ground, Interrupted, Recording, Report, on_device, room
from cbs.schema import Config, Request
from cbs.streams import stream
from cbs.tasks.gan import GAN
from cbs.tasks.pacing import trains_through_onednn

# When saving is tried again after the disk was full.
RETRY_SECONDS = 10.0
T = TypeVar("T")
Origin = Callable[[Sequence[float]], dict[str, Any] | None]


class Attempt(Recording):
    """One process working on a run."""

    def __init__(
        self,
        config: Config,
        seed: int,
        folder: RunFolder,
        claim: Claim,
        logger: loggers.Logger,
        report: Callable[[Report], None],
        stopped: Callable[[], bool],
        team: Team,
        origin: Origin = lambda _: None,
    ) -> None:
        """origin: thresholds -> the state to begin with, if it is another run's, its crossings of them confirmed."""
        assert seed == folder.seed
        super().__init__(config, folder, claim, logger, report, Ground(config))
        self._stopped, self._team = stopped, team
        self.noise_batches = config.noise_batches if team.size == 1 else 0
        self._kept, self._origin = checkpoint.load(folder.checkpoint_path), origin
        first = self._kept or origin(Request.of(config).thresholds)
        self.branched_from = first and first.get("branched_from")
        self._first = None if first is self._kept else first
        self._settled = self._settle()
        self.task = self._build_fitting()
        self._energy = energy.Meter(self.ground.device)
        self._saved_at = time.monotonic()

    def _settle(self) -> Config:
        """The config with the micro-batch that this run has, or is to have."""
        if self._kept is not None and "micro_batch" in self._kept:
            return replace(self.config, micro_batch=self._kept["micro_batch"])
        return memory.fitted(self.config, self.ground.packed.classes, self.ground.device)

    def work(self, request: Request) -> Result:
        known = self.open(self._team.size)
        goal = self.goal(request)
        progress = self._restore()
        try:
            outcomes = self._train(goal, progress)
        except Unrepeatable:
            # A threshold easier than one that was already passed: the same run again, asked for both at once.
            return self._again(self.goal(request if known is None else self._both(request, known)), known)
        return self._close(outcomes, progress, known)

    def _both(self, request: Request, known: Result) -> Request:
        """What is asked and what is on record, so that training again from the start takes nothing off the record."""
        thresholds = tuple(self.config.target.direction.ordered([*request.thresholds, *known.outcomes]))
        last = known.outcomes.get(thresholds[-1])
        after = request.cadence.count(last.first_below, known.last_step) if isinstance(last, Reached) else 0
        return replace(
            request,
            thresholds=thresholds,
            last_step=max(request.last_step, known.last_step),
            evaluations_after=max(request.evaluations_after, after),
        )

    def reach(self, step: int) -> dict[str, Any]:
        """Train to exactly this step, whatever is reached before; save and return the run's state there."""
        known = self.open(self._team.size)
        request = Request.of(self.config)
        thresholds = tuple({*request.thresholds, *(known.outcomes if known else ())})
        progress = self._restore()
        self._through(partial(reach, step=step), self.goal(replace(request, thresholds=thresholds)), progress)
        progress.energy_joules = self._energy.added_to(progress.energy_joules)
        self._save(progress)
        self._write_progress(progress, rests=True)
        return run_state(self, progress)

    def _again(self, goal: Goal, known: Result | None) -> Result:
        self.claim.check()
        checkpoint.remove(self.folder.checkpoint_path)
        self._first = self._origin(goal.thresholds)
        self.task = self._build()
        progress = self._begin()
        outcomes = self._train(goal, progress)
        return self._close(outcomes, progress, known)

    def _close(self, outcomes: dict[float, Outcome], progress: Progress, known: Result | None) -> Result:
        progress.energy_joules = self._energy.added_to(progress.energy_joules)
        self._save(progress)
        return self.finish(outcomes, progress, known)

    def _build(self) -> GAN:
        self._team.tell("build", (self.seed, self.ground.packed.digest, self._settled))
        data = on_device(self.ground.packed, self.ground.device)
        task = GAN(self._settled, self.seed, data, self.ground.device, self._team)
        self._team.meet()
        return task

    def _build_fitting(self) -> GAN:
        """The task, after a step and a part of an evaluation have shown that a GPU has room for them."""
        if self.ground.device.type != "cuda" or self._team.size > 1 or self._kept is not None:
            return self._build()
        while True:
            try:
                task = self._build()
                self._rehearse(task)
                del task
                return self._build()
            except torch.OutOfMemoryError as error:
                self._settled = memory.smaller(self.config, self._settled, self.ground.device, error)

    def _rehearse(self, task: GAN) -> None:
        if not self.config.batch_size.is_constant:
            task.resize(self.config.batch_size.largest)
        task.step()
        noise = stream(self.seed, "rehearsal")
        self.ground.meter.rehearse(next(iter(task.sample(self.config.target.samples, noise))))

    def _train(self, goal: Goal, progress: Progress) -> dict[float, Outcome]:
        return self._through(train, goal, progress)

    def _through(self, loop: Callable[..., T], goal: Goal, progress: Progress) -> T:
        """What the loop returns, on this machine, in this run's arithmetic."""
        self._energy.lap()  # what building took is no part of a run's cost, nor of its seconds
        with onednn(trains_through_onednn(self.config, self.task.b)), tf32(self.config.precision == "tf32"):
            led, hooks = Led(self.task, self._team), Hooks(self._evaluated, self._looked_up)
            return loop(led, partial(self._measure, progress), goal, progress, hooks)

    def _restore(self) -> Progress:
        state, self._kept = self._kept, None
        return self._begin() if state is None else self._take(state, state["task"])

    def _begin(self) -> Progress:
        state, self._first = self._first, None
        if state is None:
            return Progress()
        branch, own = self.config.branch_from, self.config.optimizer.name
        same_optimizer = branch is None or branch.optimizer is None or branch.optimizer.name == own
        return self._take(state, begun(self.task.state(), state["task"], same_optimizer))

    def _take(self, state: dict[str, Any], of_task: dict[str, Any]) -> Progress:
        self.same_data(state["data"])
        self.stack = state.get("stack", [])
        Led(self.task, self._team).load(of_task)
        return Progress.from_state(state["progress"])

    def _save(self, progress: Progress) -> None:
        self.claim.check()
        self._saved_at = time.monotonic() - 60 * self.config.checkpoint_minutes + RETRY_SECONDS  # if this fails
        state = run_state(self, progress)
        try:
            checkpoint.save(self.folder.checkpoint_path, state)
        except FileNotFoundError:
            self.claim.check()  # a newer attempt may have moved what this one had just written
            raise
        self._saved_at = time.monotonic()

    def _looked_up(self, progress: Progress) -> None:
        progress.energy_joules = self._energy.added_to(progress.energy_joules)
        self.tell(progress)
        stopped = self._stopped()
        if stopped or time.monotonic() - self._saved_at >= 60 * self.config.checkpoint_minutes:
            with room(f"the checkpoint of {self.folder.path}"):
                self._save(progress)
        if stopped:
            raise Interrupted(f"stopped at step {progress.step}")


def run_state(run: Recording, progress: Progress) -> dict[str, Any]:
    """What a run's checkpoint holds."""
    return {
        "task": run.task.state(),
        "progress": progress.state(),
        "data": run.ground.packed.digest,
        "micro_batch": run.task.micro_batch,
        **({"stack": run.stack} if run.stack else {}),
        **({"branched_from": run.branched_from} if run.branched_from else {}),
    }
