"""What a step takes as a function of the batch size: something for the step, and something for each image."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np


def line(points: Mapping[int, float]) -> tuple[float, float]:
    """step and image ≥ 0 for which step + b·image is nearest to what was measured at each b, in relative terms.

    points: {b: what a step takes}, above 0. With one batch size, all of it is the step's.
    """
    from scipy.optimize import nnls

    b, taken = np.array(list(points), float), np.array(list(points.values()), float)
    if len(points) == 1:
        return float(taken[0]), 0.0
    (step, image), _ = nnls(np.stack([1 / taken, b / taken], axis=1), np.ones(len(b)))
    return float(step), float(image)


@dataclass(frozen=True)
class Pace:
    """Seconds of one step at batch size b: step_seconds + b·image_seconds.

    The first part is what starting a step's kernels takes, whatever b; the second is arithmetic and memory.
    evaluation_seconds: of one evaluation, where the steps' seconds don't contain their part of it.
    start_seconds: from a process's birth to its first step. watts: what the device draws meanwhile, for
    all that runs on it; None where it doesn't say.
    """

    step_seconds: float
    image_seconds: float
    evaluation_seconds: float = 0.0
    start_seconds: float = 5.0
    watts: float | None = None

    def seconds(self, b: int) -> float:
        return self.step_seconds + b * self.image_seconds

    def share(self, b: int) -> float:
        """Which part of a device one run keeps busy, between 0 and 1."""
        return b * self.image_seconds / self.seconds(b)

    def through(self, points: Mapping[int, float]) -> Pace:
        """This pace with its steps brought nearest to what was measured, {b: seconds a step}, in relative terms.

        With one point, or points that say nothing of one part, the steps are scaled instead.
        """
        step, image = line(points)
        if step > 0 and image > 0:
            return replace(self, step_seconds=step, image_seconds=image)
        scale = statistics.median(measured / self.seconds(b) for b, measured in points.items())
        return replace(self, step_seconds=scale * self.step_seconds, image_seconds=scale * self.image_seconds)
