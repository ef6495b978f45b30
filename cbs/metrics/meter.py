"""What a target asks of generated images, from one pass over them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch

from cbs.data.packed import Packed
from cbs.errors import InputError
from cbs.metrics import scores
from cbs.metrics.features import Features, size_of
from cbs.metrics.frechet import Moments, Statistics, frechet_distance
from cbs.metrics.reference import FRECHET, Reference
from cbs.metrics.rounding import to_bytes
from cbs.metrics.sampling import sampling_error
from cbs.outcome import Measurement
from cbs.schema import TargetConfig

# What the features of generated images may take, as float32: 131,072 images of Inception's.
_KEPT_BYTES = 2**30


def wanted(target: TargetConfig) -> list[str]:
    """A target's metric, and those recorded beside it."""
    return list(dict.fromkeys([target.metric, *target.extra]))


def check_metrics(target: TargetConfig, image_size: int, channels: int) -> None:
    """Raise InputError where a metric can't be had from these features or from so many samples."""
    size, samples = size_of(target.features, image_size, channels), target.samples
    if "inception_score" in wanted(target):
        _check_inception_score(target)
    fewest = max(scores.PARTS) * (size + 1)
    if "fid_infinity" in wanted(target) and samples < fewest:
        raise InputError(
            f"target.samples is {samples}: fid_infinity splits them into quarters, "
            f"and with {size:,} features it needs at least {fewest:,}."
        )
    most = _KEPT_BYTES // (4 * size)
    if samples > most and set(wanted(target)) != {"fid"}:
        raise InputError(
            f"target.samples is {samples}: with {size:,} features, metrics other than fid can have at most {most:,}."
        )


def _check_inception_score(target: TargetConfig) -> None:
    if target.features == "pixels":
        raise InputError(f"{_asks(target)}: target.features=pixels knows no classes; use digits or inception.")
    for threshold in target.thresholds if target.metric == "inception_score" else ():
        if threshold <= 1:
            raise InputError(f"target.thresholds has {threshold:g}: an Inception Score is never below 1; give more.")


def _asks(target: TargetConfig) -> str:
    """Which field asks for an Inception Score."""
    asked = "metric is" if target.metric == "inception_score" else "extra has"
    return f"target.{asked} 'inception_score'"


class Meter:
    """Measures images against one data set.

    Raises InputError where the weights of the features are of no classifier and Inception Score is asked for.
    """

    def __init__(
        self, target: TargetConfig, packed: Packed, features: Features, data: Path, device: torch.device
    ) -> None:
        self._metric, self._wanted = target.metric, wanted(target)
        self._features, self._normalisation, self._device = features, target.normalisation, device
        self._stride = -(-4 * features.size * target.samples // _KEPT_BYTES)
        if "inception_score" in self._wanted and features.logits is None:
            raise InputError(f"{_asks(target)}: the file that CBS_INCEPTION names knows no classes.")
        self.reference = Reference(self._wanted, packed, features, target.normalisation, data, device)

    def rehearse(self, images: torch.Tensor) -> None:
        """What a chunk of generated images takes of the device's memory is taken once."""
        self._features(to_bytes(images, self._normalisation))

    def measure(self, generated: Iterable[torch.Tensor], draw: torch.Generator) -> Measurement:
        """All that is asked for. generated: chunks of (n, c, h, w) in [-1, 1]; draw: for subsets, on the CPU."""
        statistics, features = self._pass(generated, keep=True)
        if not statistics.mean.isfinite().all():
            return Measurement(math.nan)
        found = {name: self._of(name, statistics, features, draw) for name in self._wanted}
        error = None
        if self._metric in FRECHET:
            error = sampling_error(features, statistics, self.reference.statistics, self.reference.root)
        return Measurement(found.pop(self._metric), error, found)

    def value(self, generated: Iterable[torch.Tensor], draw: torch.Generator) -> float:
        """The target's metric alone."""
        statistics, features = self._pass(generated, keep=self._metric != "fid")
        return self._of(self._metric, statistics, features, draw)

    def _pass(self, generated: Iterable[torch.Tensor], keep: bool) -> tuple[Statistics, torch.Tensor]:
        """The features' statistics, and the features themselves: evenly spread ones where all would take too much."""
        moments, kept, count = Moments(self._features.size, self._device), [], 0
        for images in generated:
            found = self._features(to_bytes(images, self._normalisation))
            moments.add(found)
            if keep:
                kept.append(found[-count % self._stride :: self._stride])
            count += len(found)
        return moments.statistics(), torch.cat(kept) if keep else torch.empty(0)

    def _of(self, metric: str, statistics: Statistics, features: torch.Tensor, draw: torch.Generator) -> float:
        real = self.reference
        if metric == "fid":
            return frechet_distance(statistics, real.statistics, real.root)
        if metric == "fid_infinity":
            return scores.fid_infinity(features, real.statistics, real.root)
        if metric == "kid":
            return scores.kid(features, real.sample, draw)
        assert self._features.logits is not None
        return scores.inception_score(features, self._features.logits)
