"""One process working on a run: from its last checkpoint to its record."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from cbs import checkpoint, energy, loggers, memory
from cbs.claim import Claim
from cbs.data.packed import Packed
from cbs.data.sampler import Pictures
from cbs.loop import Goal, Hooks, Progress, Unrepeatable, timing, train
from cbs.machine import environment, onednn, prefers_onednn, resolve_device, settle_numerics, sharing, tf32
from cbs.metrics import features
from cbs.metrics.meter import Meter
from cbs.outcome import Measurement, Outcome
from cbs.parallel import Led, Team
from cbs.preflight import preflight
from cbs.record import SCHEMA, RecordError, Result, RunFolder, write_atomic, write_json
from cbs.schema import Config, Request
from cbs.streams import stream
from cbs.tasks import noise
from cbs.tasks.gan import GAN

# How often a run writes down how far it is.
_PROGRESS_SECONDS = 5.0
# When saving is tried again after the disk was full.
_RETRY_SECONDS = 10.0


class Interrupted(Exception):
    """The run was asked to stop; its checkpoint is saved, if the disk had room for it."""


@dataclass
class Report:
    """What a run tells while it trains."""

    step: int
    value: float | None
    training_seconds: float


class Attempt:
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
    ) -> None:
        self.config, self.seed, self.folder, self.claim = config, seed, folder, claim
        self.logger, self._report, self._stopped, self._team = logger, report, stopped, team
        self.device = resolve_device(config.device)
        settle_numerics(self.device)
        self.packed = preflight(config)
        self._kept = checkpoint.load(folder.checkpoint_path)
        self._settled = self._settle()
        data = Path(config.paths.data)
        shape = (config.dataset.image_size, config.dataset.channels)
        extractor = features.build(config.target.features, data, *shape, self.device)
        self.features_digest = extractor.digest
        self.meter = Meter(config.target, self.packed, extractor, data, self.device)
        self.task = self._build_fitting()
        self._energy = energy.Meter(self.device)
        self._saved_at = time.monotonic()
        self._told_at = -_PROGRESS_SECONDS

    def _settle(self) -> Config:
        """The config with the micro-batch that this run has, or is to have."""
        if self._kept is not None and "micro_batch" in self._kept:
            return replace(self.config, micro_batch=self._kept["micro_batch"])
        return memory.fitted(self.config, self.packed.classes, self.device)

    def work(self, request: Request) -> Result:
        write_trial(self.config, self.folder.trial)
        beside = {"processes": self._team.size, "sharing": sharing()}
        write_json(self.folder.path / "environment.json", {"schema": SCHEMA, **environment(self.device), **beside})
        known = self.folder.result()
        if known is not None:
            self._same_ground(known.dataset["sha256"])
        goal = self._goal(request)
        progress = self._restore()
        try:
            outcomes = self._train(goal, progress)
        except Unrepeatable:
            # A threshold above one that was already passed: the same run again, asked for both at once.
            if known is not None:
                last_step = max(request.last_step, known.last_step)  # else a shorter budget would undo an outcome
                goal = self._goal(Request(tuple({*request.thresholds, *known.outcomes}), last_step, request.reason))
            return self._again(goal, known)
        return self._finish(outcomes, progress, known)

    def _again(self, goal: Goal, known: Result | None) -> Result:
        self.claim.check()
        checkpoint.remove(self.folder.checkpoint_path)
        self.task = self._build()
        progress = Progress()
        outcomes = self._train(goal, progress)
        return self._finish(outcomes, progress, known)

    def _build(self) -> GAN:
        self._team.tell("build", (self.seed, self.packed.digest, self._settled.micro_batch))
        data = on_device(self.packed, self.device)
        task = GAN(self._settled, self.seed, data, self.device, self._team)
        self._team.meet()
        return task

    def _build_fitting(self) -> GAN:
        """The task, after a step and a part of an evaluation have shown that a GPU has room for them."""
        if self.device.type != "cuda" or self._team.size > 1 or self._kept is not None:
            return self._build()
        while True:
            try:
                task = self._build()
                self._rehearse(task)
                del task
                return self._build()
            except torch.OutOfMemoryError as error:
                self._settled = memory.smaller(self.config, self._settled, self.device, error)

    def _rehearse(self, task: GAN) -> None:
        task.step()
        noise = stream(self.seed, "rehearsal")
        self.meter.rehearse(next(iter(task.sample(self.config.target.samples, noise))))

    def _train(self, goal: Goal, progress: Progress) -> dict[float, Outcome]:
        self._energy.lap()  # what building took is no part of a run's cost, nor of its seconds
        with onednn(trains_through_onednn(self.config)), tf32(self.config.precision == "tf32"):
            led, hooks = Led(self.task, self._team), Hooks(self._evaluated, self._looked_up)
            return train(led, partial(self._measure, progress), goal, progress, hooks)

    def _goal(self, request: Request) -> Goal:
        target = self.config.target
        return Goal(request.thresholds, target.confirmations, target.cadence, request.last_step, request.reason)

    def _measure(self, progress: Progress, step: int, repeat: int) -> Measurement:
        latents = stream(self.seed, "evaluation", step, repeat)
        subsets = stream(self.seed, "evaluation subsets", step, repeat)
        with onednn(True), tf32(False):
            images = self.task.sample(self.config.target.samples, latents)
            if repeat:
                return Measurement(self.meter.value(images, subsets))
            found = self.meter.measure(images, subsets)
        batches = self.config.noise_batches if self._team.size == 1 else 0
        if not noise.due(progress.evaluations, step, batches):
            return found
        return replace(found, noise=noise.measure(self.task, self.seed, step, batches))

    def _restore(self) -> Progress:
        state, self._kept = self._kept, None
        if state is None:
            return Progress()
        self._same_ground(state["data"])
        Led(self.task, self._team).load(state["task"])
        return Progress.from_state(state["progress"])

    def _save(self, progress: Progress) -> None:
        self.claim.check()
        self._saved_at = time.monotonic() - 60 * self.config.checkpoint_minutes + _RETRY_SECONDS  # if this fails
        state = {
            "task": self.task.state(),
            "progress": progress.state(),
            "data": self.packed.digest,
            "micro_batch": self._settled.micro_batch,
        }
        try:
            checkpoint.save(self.folder.checkpoint_path, state)
        except FileNotFoundError:
            self.claim.check()  # a newer attempt may have moved what this one had just written
            raise
        self._saved_at = time.monotonic()

    def _evaluated(self, progress: Progress) -> None:
        self.claim.check()
        with _room(f"the trajectory of {self.folder.path}"):
            self.folder.write_trajectory(progress.evaluations)
            self._keep_samples(progress)
        self.logger.log(progress.evaluations)
        self._tell(progress)

    def _looked_up(self, progress: Progress) -> None:
        progress.energy_joules = self._energy.added_to(progress.energy_joules)
        self._tell(progress)
        stopped = self._stopped()
        if stopped or time.monotonic() - self._saved_at >= 60 * self.config.checkpoint_minutes:
            with _room(f"the checkpoint of {self.folder.path}"):
                self._save(progress)
        if stopped:
            raise Interrupted(f"stopped at step {progress.step}")

    def _tell(self, progress: Progress) -> None:
        value = progress.evaluations[-1].value if progress.evaluations else None
        self._report(Report(progress.step, value, progress.training_seconds))
        if time.monotonic() - self._told_at >= _PROGRESS_SECONDS:
            self._told_at = time.monotonic()
            with _room(f"the progress of {self.folder.path}"):
                self._write_progress(progress)

    def _write_progress(self, progress: Progress) -> None:
        """For `python -m launch status`, from whichever machine."""
        now = {"schema": SCHEMA, "step": progress.step, "seconds": timing(progress)}
        self.claim.check()
        write_json(self.folder.progress_path, now, sync=False)

    def _same_ground(self, digest: str) -> None:
        if digest != self.packed.digest:
            raise RecordError(
                f"{self.folder.path} was trained on other data (sha256 {digest[:12]}, now {self.packed.digest[:12]}): "
                "use another study name, or bring the data back."
            )

    def _finish(self, outcomes: dict[float, Outcome], progress: Progress, known: Result | None) -> Result:
        progress.energy_joules = self._energy.added_to(progress.energy_joules)
        self._save(progress)
        self.folder.write_trajectory(progress.evaluations)
        self._draw_samples(self.folder.path / "samples.png")
        result = Result(
            key=self.folder.key,
            seed=self.seed,
            outcomes={**(known.outcomes if known else {}), **outcomes},
            last_step=progress.step,
            seconds=timing(progress),
            parameters=self.task.sizes,
            dataset=self._ground(),
            features_digest=self.features_digest,
            micro_batch=self.task.micro_batch,
            peak_memory_bytes=memory.peak_bytes(self.device),
            energy_joules=progress.energy_joules,
        )
        write_json(self.folder.result_path, result.to_dict())
        self.logger.finish(progress.evaluations, result.outcomes)
        return result

    def _ground(self) -> dict[str, Any]:
        """Which images it was trained on."""
        packed = self.packed
        known = {"name": self.config.dataset.name, "count": packed.count, "sha256": packed.digest}
        return {**known, "skipped": packed.skipped} if packed.skipped else known

    def _keep_samples(self, progress: Progress) -> None:
        """A grid at the first evaluation, and at each whose step is at least twice the last grid's."""
        last = 0
        for evaluation in progress.evaluations:
            if evaluation.step >= 2 * last:
                last = evaluation.step
        path = self.folder.path / "samples" / f"{last:09d}.png"
        if last == progress.step and not path.exists():
            self._draw_samples(path)

    def _draw_samples(self, path: Path) -> None:
        """64 images of the generator as it is now, from the same noise every time."""
        from torchvision.utils import save_image

        path.parent.mkdir(exist_ok=True)
        drawing = path.with_name(f".{path.stem}-{os.getpid()}.png")
        images = next(iter(self.task.sample(64, stream(self.seed, "sample grid"))))
        save_image(images, drawing, nrow=8, normalize=True, value_range=(-1, 1))
        os.replace(drawing, path)


@contextlib.contextmanager
def _room(what: str) -> Iterator[None]:
    """A full disk holds up what can be written again later, not the training."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"cbs: no room for {what} ({error.strerror}): trying again later.", file=sys.stderr)


def trains_through_onednn(config: Config) -> bool:
    widest = 4 if config.model.name == "biggan" else 1  # its narrowest feature maps at few pixels have 4 widths
    return prefers_onednn(widest * config.model.width, config.batch_size.initial // config.gpus_per_trial)


def on_device(packed: Packed, device: torch.device) -> Pictures:
    """The images where batches are gathered: on the device where they take under half of its free memory."""
    images, labels = torch.from_numpy(packed.images()), packed.labels()
    if device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
        images = images.to(device)
    return Pictures(images, None if labels is None else torch.from_numpy(labels).to(images.device), packed.classes)


def write_trial(config: Config, folder: Path) -> None:
    """Keep the composed config beside the runs, whatever this one was granted; the first write stands."""
    path = folder / "trial.yaml"
    if not path.exists():
        head = {"schema": SCHEMA, "key": folder.name}
        write_atomic(path, yaml.safe_dump({**head, "config": config.granted(None).to_dict()}, sort_keys=False).encode())
