"""One process working on a stack: from the runs' states to their records."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from cbs import checkpoint, energy, loggers
from cbs.attempt import RETRY_SECONDS, run_state
from cbs.claim import Claim
from cbs.loop import LOOK_UP_SECONDS, Hooks, Progress
from cbs.machine import tf32
from cbs.record import Result, RunFolder
from cbs.recording import Ground, Interrupted, Recording, Report, on_device, room
from cbs.schema import Config, Request
from cbs.stack import StackFolder
from cbs.stack_width import alone_seconds
from cbs.tasks.gan import GAN
from cbs.tasks.stack import Stack
from cbs.together import Course, advance


class Member(Recording):
    """One run of a stack."""

    course: Course
    known: Result | None

    def __init__(
        self, config: Config, folder: RunFolder, report: Callable[[Report], None], ground: Ground, task: GAN
    ) -> None:
        """Claim the run. Raises claim.Busy where another process works on it."""
        self.life = contextlib.ExitStack()
        claim = Claim.acquire(folder.claims_path)
        self.life.callback(claim.release)
        logger = self.life.enter_context(loggers.opened(config, folder))
        super().__init__(config, folder, claim, logger, report, ground)
        self.task = task

    def start(self, state: dict[str, Any] | None, request: Request) -> None:
        """Go on from a checkpoint's state, or begin."""
        self.known = self.open()
        progress = Progress()
        if state is not None:
            self.same_data(state["data"])
            self.task.load(state["task"])
            progress = Progress.from_state(state["progress"])
            self.stack = state.get("stack", [])
        hooks = Hooks(self._evaluated, lambda _: None)
        self.course = Course(self.task, progress, self.goal(request), partial(self._measure, progress), hooks)
        self.course.waited = 0.0 if state is None else state.get("waited", 0.0)

    def state(self) -> dict[str, Any]:
        return {**run_state(self, self.course.progress), "waited": self.course.waited}

    def waited(self) -> float:
        return self.course.waited


class StackAttempt:
    """One process working on a stack."""

    def __init__(
        self,
        config: Config,
        report: Callable[[int, Report], None],
        stopped: Callable[[], bool],
        ended: Callable[[int, Result], None],
    ) -> None:
        """ended: takes each run's result as it leaves."""
        self.config, self._report, self._stopped, self._ended = config, report, stopped, ended
        self.ground = Ground(config)
        self._data = on_device(self.ground.packed, self.ground.device)
        self.members: list[Member] = []
        self._joint: Stack | None = None
        self._life = contextlib.ExitStack()
        self._energy = energy.Meter(self.ground.device)
        self._saved_at = time.monotonic()

    def __enter__(self) -> StackAttempt:
        return self

    def __exit__(self, *_: object) -> None:
        self._life.close()

    def form(self, folders: Sequence[RunFolder], request: Request) -> bool:
        """Make a stack of runs that are in none; whether they are all at one step, as they must be."""
        self.folder = StackFolder.new(folders[0].trial)
        self._claim(folders)
        for member in self.members:
            member.start(checkpoint.load(member.folder.checkpoint_path), request)
        steps = {(m.course.progress.step, m.course.progress.evaluated_step) for m in self.members}
        if len(steps) > 1 or any(member.folder.stack_path.exists() for member in self.members):
            return False
        self.folder.form(self._step, self._seeds, request, alone_seconds(self.config))
        self._save()
        for member in self.members:
            self.folder.point(member.folder)
        return True

    def resume(self, folder: StackFolder) -> None:
        """Take up a stack with the members and the width that it had, letting go of runs that had left it.

        Where not every member knew yet that it was to be in it, or its checkpoint is lost, no run is in it afterwards.
        """
        self.folder = folder
        self._claim(folder.bound())
        found = checkpoint.load(folder.checkpoint_path)
        states: dict[int, Any] = {} if found is None else found["members"]
        whole = states.keys() <= {member.seed for member in self.members}
        for member in list(self.members):
            if not whole or member.seed not in states:
                member.folder.stack_path.unlink(missing_ok=True)
                self._dismiss(member)
        for member in self.members:
            member.start(states[member.seed], folder.request(self.config.cadence))

    def _claim(self, folders: Sequence[RunFolder]) -> None:
        for folder in sorted(folders, key=lambda one: one.seed):
            task = GAN(self.config, folder.seed, self._data, self.ground.device)

            def tell(now: Report, seed: int = folder.seed) -> None:
                self._report(seed, now)

            member = Member(self.config, folder, tell, self.ground, task)
            self._life.callback(member.life.close)
            self.members.append(member)

    def _dismiss(self, member: Member) -> None:
        self.members.remove(member)
        member.life.close()

    @property
    def _seeds(self) -> list[int]:
        return [member.seed for member in self.members]

    @property
    def _step(self) -> int:
        return self.members[0].course.progress.step

    def train(self) -> None:
        """Train until every run has left. Raises Interrupted, after saving, where it is asked to stop."""
        self._energy.lap()  # what building took is no part of a run's cost
        with tf32(self.config.precision == "tf32"):
            while self.members:
                self._share_energy()
                self._part()
                if self.members:
                    # Of one run: of each it would take a large part of what stacking saves.
                    self.members[0].noise_batches = self.config.noise_batches
                    self._joint = self._joint or Stack(self.config, [member.task for member in self.members])
                    courses = [member.course for member in self.members]
                    advance(self._joint, courses, self._looked_up, LOOK_UP_SECONDS)

    def _part(self) -> None:
        """Let those go that have arrived, and those of whom the journal says that they went here.

        The last one goes too, to train on alone, which is faster.
        """
        step, noted = self._step, self.folder.left(self._step)
        outcomes = {member.seed: member.course.settled() for member in self.members}
        leaving = [m for m in self.members if outcomes[m.seed] is not None or m.seed in noted]
        if not leaving:
            return
        if len(leaving) == len(self.members) - 1:
            leaving = list(self.members)
        if self._joint is not None:
            self._joint.give_back(optimizers=True)
        staying = [member for member in self.members if member not in leaving]
        fresh = {member.seed for member in leaving} - noted
        if fresh:
            self.folder.part(step, sorted(fresh), [member.seed for member in staying])
        for member in leaving:  # from here on it could go on alone, but for its stack.json
            member.stack = [*member.stack, *self.folder.history(member.seed, step)]
            member.claim.check()
            checkpoint.save(member.folder.checkpoint_path, run_state(member, member.course.progress))
        self.members, self._joint = staying, None
        self._save()
        for member in leaving:
            member.folder.stack_path.unlink(missing_ok=True)
            arrived = outcomes[member.seed]
            if arrived is not None:
                self._ended(member.seed, member.finish(arrived, member.course.progress, member.known))
            member.life.close()

    def _save(self) -> None:
        """One checkpoint of all; raises claim.Superseded where another process has taken over one of the runs."""
        for member in self.members:
            member.claim.check()
        self._saved_at = time.monotonic() - 60 * self.config.checkpoint_minutes + RETRY_SECONDS  # if this fails
        if self._joint is not None:
            self._joint.give_back(optimizers=True)
        checkpoint.save(self.folder.checkpoint_path, {"members": {m.seed: m.state() for m in self.members}})
        self._saved_at = time.monotonic()

    def _share_energy(self) -> None:
        """What the device drew since this was last done is every run's in equal parts, as the time in steps is."""
        drawn = self._energy.lap()
        for progress in (member.course.progress for member in self.members):
            known = progress.energy_joules
            progress.energy_joules = None if drawn is None or known is None else known + drawn / len(self.members)

    def _looked_up(self) -> None:
        self._share_energy()
        for member in self.members:
            member.tell(member.course.progress)
        stopped = self._stopped()
        if stopped or time.monotonic() - self._saved_at >= 60 * self.config.checkpoint_minutes:
            with room(f"the checkpoint of {self.folder.path}"):
                self._save()
        if stopped:
            raise Interrupted(f"stopped at step {self._step}")
