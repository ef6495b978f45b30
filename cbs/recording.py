"""One run's record as it grows: what is measured of its task, and what is written down."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from cbs import loggers, memory
from cbs.claim import Claim
from cbs.data.packed import Packed
from cbs.data.sampler import Pictures
from cbs.loop import Goal, Progress, timing
from cbs.machine import environment, onednn, resolve_device, settle_numerics, sharing, tf32
from cbs.metrics import features
from cbs.metrics.meter import Meter
from cbs.outcome import Measurement, Outcome
from cbs.preflight import preflight
from cbs.record import SCHEMA, RecordError, Result, RunFolder, write_atomic, write_json
from cbs.schema import Config, Request
from cbs.streams import stream
from cbs.tasks import noise
from cbs.tasks.gan import GAN

# How often a run writes down how far it is.
_PROGRESS_SECONDS = 5.0


class Interrupted(Exception):
    """The run was asked to stop; its checkpoint is saved, if the disk had room for it."""


@dataclass
class Report:
    """What a run tells while it trains.

    training_seconds: that its steps took; in a stack those of all its runs.
    """

    step: int
    value: float | None
    training_seconds: float


class Ground:
    """What runs of one trial share in this process: device, data, and how images are measured."""

    def __init__(self, config: Config) -> None:
        """Raises what preflight raises."""
        self.device = resolve_device(config.device)
        settle_numerics(self.device)
        self.packed = preflight(config)
        data = Path(config.paths.data)
        shape = (config.dataset.image_size, config.dataset.channels)
        extractor = features.build(config.target.features, data, *shape, self.device)
        self.features_digest = extractor.digest
        self.meter = Meter(config.target, self.packed, extractor, data, self.device)


class Recording:
    """One run of a task, whoever trains it."""

    task: GAN
    noise_batches = 0
    """Batches behind each measurement of gradient noise; 0: none is taken."""
    stack: list[dict[str, Any]]
    """The stacks that the run was trained in: id, from which step on, and how many runs there were."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        claim: Claim,
        logger: loggers.Logger,
        report: Callable[[Report], None],
        ground: Ground,
    ) -> None:
        self.config, self.seed, self.folder, self.claim = config, folder.seed, folder, claim
        self.logger, self._report, self.ground = logger, report, ground
        self.stack = []
        self.branched_from: dict[str, Any] | None = None
        self._told_at = -_PROGRESS_SECONDS

    def open(self, processes: int = 1) -> Result | None:
        """Write down what is known before the run trains; return what an earlier attempt found."""
        write_trial(self.config, self.folder.trial)
        about = {"schema": SCHEMA, **environment(self.ground.device), "processes": processes, "sharing": sharing()}
        about |= {"branched_from": self.branched_from} if self.branched_from else {}
        write_json(self.folder.path / "environment.json", about)
        known = self.folder.result()
        if known is not None:
            self.same_data(known.dataset["sha256"])
        return known

    def goal(self, request: Request) -> Goal:
        """When the run has arrived."""
        target = self.config.target
        return Goal(
            request.thresholds,
            target.confirmations,
            self.config.cadence,
            request.last_step,
            request.reason,
            target.direction,
            request.evaluations_after,
        )

    def _measure(self, progress: Progress, step: int, repeat: int) -> Measurement:
        latents = stream(self.seed, "evaluation", step, repeat)
        subsets = stream(self.seed, "evaluation subsets", step, repeat)
        with onednn(True), tf32(False):
            images = self.task.sample(self.config.target.samples, latents)
            if repeat:
                return Measurement(self.ground.meter.value(images, subsets))
            found = self.ground.meter.measure(images, subsets)
        if not noise.due(progress.evaluations, step, self.noise_batches):
            return found
        return replace(found, noise=noise.measure(self.task, self.seed, step, self.noise_batches))

    def _evaluated(self, progress: Progress) -> None:
        self.claim.check()
        with room(f"the trajectory of {self.folder.path}"):
            self.folder.write_trajectory(progress.evaluations)
            self._keep_samples(progress)
        self.logger.log(progress.evaluations)
        self.tell(progress)

    def tell(self, progress: Progress) -> None:
        """Say how far the run is: to who started it, and now and then to its folder."""
        value = progress.evaluations[-1].value if progress.evaluations else None
        self._report(Report(progress.step, value, progress.training_seconds + self.waited()))
        if time.monotonic() - self._told_at >= _PROGRESS_SECONDS:
            self._told_at = time.monotonic()
            with room(f"the progress of {self.folder.path}"):
                self._write_progress(progress)

    def waited(self) -> float:
        """Seconds in which others' steps were taken between this run's."""
        return 0.0

    def _write_progress(self, progress: Progress, rests: bool = False) -> None:
        """For `python -m launch status`, from whichever machine. rests: it has done what others need of it."""
        now = {"schema": SCHEMA, "step": progress.step, "seconds": timing(progress), "waited": self.waited()}
        now |= {"rests": True} if rests else {}
        self.claim.check()
        write_json(self.folder.progress_path, now, sync=False)

    def same_data(self, digest: str) -> None:
        """Raise RecordError where the run was trained on other data."""
        here = self.ground.packed.digest
        if digest != here:
            raise RecordError(
                f"{self.folder.path} was trained on other data (sha256 {digest[:12]}, now {here[:12]}): "
                "use another study name, or bring the data back."
            )

    def finish(self, outcomes: dict[float, Outcome], progress: Progress, known: Result | None) -> Result:
        """Write the result, with the outcomes that were known before."""
        self.folder.write_trajectory(progress.evaluations)
        self._draw_samples(self.folder.path / "samples.png")
        result = Result(
            key=self.folder.key,
            seed=self.seed,
            outcomes={**(known.outcomes if known else {}), **outcomes},
            last_step=progress.step,
            seconds=timing(progress),
            parameters=self.task.sizes,
            dataset=self._dataset(),
            features_digest=self.ground.features_digest,
            micro_batch=self.task.micro_batch,
            peak_memory_bytes=memory.peak_bytes(self.ground.device),
            energy_joules=progress.energy_joules,
            stack=self.stack or (known.stack if known else []),
            branched_from=self.branched_from,
            diverged_at=progress.diverged_at,
        )
        write_json(self.folder.result_path, result.to_dict())
        self.logger.finish(progress.evaluations, result.outcomes)
        return result

    def _dataset(self) -> dict[str, Any]:
        """Which images it was trained on."""
        packed = self.ground.packed
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
def room(what: str) -> Iterator[None]:
    """A full disk holds up what can be written again later, not the training."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"cbs: no room for {what} ({error.strerror}): trying again later.", file=sys.stderr)


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
