"""A task's batch size and learning rates, kept to its schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from cbs.machine import prefers_onednn
from cbs.outcome import METRICS, Evaluation
from cbs.schedules import Constant, Pace, Phase
from cbs.schema import Config

if TYPE_CHECKING:
    from cbs.tasks.gan import GAN


def trains_through_onednn(config: Config, b: int) -> bool:
    """Whether a CPU's steps of b images convolve through oneDNN."""
    widest = 4 if config.model.name == "biggan" else 1  # its narrowest feature maps at few pixels have 4 widths
    return prefers_onednn(widest * config.model.width, b // config.gpus_per_trial)


class Pacing:
    """Follows a schedule. Nothing of it is in a checkpoint: all of it follows from how far the run is."""

    def __init__(self, config: Config, images: int) -> None:
        """images: in the data set."""
        self._config = config
        schedule, branch = config.batch_size.schedule, config.branch_from
        since = 0 if branch is None else branch.steps(images, config.batches_per_step)
        self._rates = config.optimizer.lr_generator, config.optimizer.lr_discriminator
        self._phase = Phase(config.batch_size.initial)
        self._pace = None
        if not isinstance(schedule, Constant):
            rising = METRICS[config.target.metric].rising
            self._pace = Pace(config.batch_size.initial, schedule, images, rising, since)

    def saw(self, evaluations: Sequence[Evaluation]) -> None:
        """Take in every evaluation so far."""
        if self._pace is not None:
            self._pace.saw(evaluations)

    def keep(self, task: GAN) -> None:
        """Give the task the batch size and the learning rates of its next step."""
        if self._pace is None:
            return
        phase = self._pace.phase(task.steps, task.samples)
        for optimizer, lr in zip((task.optimizer_g, task.optimizer_d), self._rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * phase.lr
        if phase != self._phase:  # other learning rates too: a recorded step has them in it
            self._phase = phase
            task.resize(phase.b)
            torch.backends.mkldnn.set_flags(trains_through_onednn(self._config, phase.b))
