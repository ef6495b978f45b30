"""What a trial's step, evaluation and start take on a device, and how much memory: measured in seconds."""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cbs import energy, memory
from cbs.machine import device_name, onednn, resolve_device, settle_numerics, tf32
from cbs.metrics import features
from cbs.metrics.meter import Meter
from cbs.preflight import preflight
from cbs.recording import on_device
from cbs.schema import Config
from cbs.streams import stream
from cbs.tasks.gan import GAN
from cbs.tasks.pacing import trains_through_onednn

# Measuring goes on for so long, and no longer than this where a step or an evaluation takes longer.
_SECONDS, _MOST_SECONDS = 1.0, 5.0
_BLOCK = 4  # steps, before their losses are read
# On a GPU, steps are recorded as a graph after the first sixteen.
_WARM_UP = {"cpu": 3, "cuda": 20}


@dataclass(frozen=True)
class Measured:
    """One trial on one device.

    b: batch size. step_seconds: of a training step. evaluation_seconds: of an evaluation.
    start_seconds: from its process's birth to the end of its first step. peak_bytes, estimated_bytes: the most
    memory there was (cbs.memory.peak_bytes), and what cbs.memory.step_bytes says of a step. micro_batch: None for
    whole batches. watts: drawn by the device while it trained alone; None where it doesn't say.
    """

    device: str
    b: int
    step_seconds: float
    evaluation_seconds: float
    start_seconds: float
    peak_bytes: int
    estimated_bytes: int
    micro_batch: int | None
    watts: float | None


def place(device: str) -> str:
    """What a device is called among those that a results folder may see; a CPU by its machine too."""
    found = resolve_device(device)
    return device_name(found) if found.type == "cuda" else f"{device_name(found)} in {platform.node()}"


def measure(config: Config, born: float) -> Measured:
    """Train a few steps of a trial and evaluate once; nothing is recorded.

    born: when this process was started, as time.time() has it. Where several processes share a trial, one of them is
    measured, on its part of the batch. Raises InputError where the batch size doesn't fit, torch.OutOfMemoryError too.
    """
    device = resolve_device(config.device)
    settle_numerics(device)
    n = -(-config.batch_size.initial // config.gpus_per_trial)
    part = replace(config, batch_size=replace(config.batch_size, initial=n), gpus_per_trial=1)
    packed, data = preflight(config), Path(config.paths.data)
    settled = memory.fitted(part, packed.classes, device)
    assert not isinstance(settled.micro_batch, str)
    extractor = features.build(config.target.features, data, config.dataset.image_size, config.dataset.channels, device)
    meter = Meter(config.target, packed, extractor, data, device)
    task = GAN(settled, 0, on_device(packed, device), device)
    with onednn(trains_through_onednn(config, config.batch_size.initial)), tf32(config.precision == "tf32"):
        first = _timed(lambda: _steps(task, 1))
        start_seconds = time.time() - born
        step_seconds, watts = _pace(task, device, first)
    with onednn(True), tf32(False):
        evaluation_seconds = _evaluation(task, meter, config.target.samples)
    peak = memory.peak_bytes(device)
    estimated = memory.step_bytes(settled, packed.classes)
    b, micro_batch = config.batch_size.initial, settled.micro_batch
    taken = (step_seconds, evaluation_seconds, start_seconds, peak, estimated)
    return Measured(place(config.device), b, *taken, micro_batch, watts)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _steps(task: GAN, count: int) -> None:
    """Steps, and their losses read back as the loop does, which waits for an accelerator."""
    rows = [task.step() for _ in range(count)]
    torch.stack([loss for row in rows for loss in row]).tolist()


def _pace(task: GAN, device: torch.device, first: float) -> tuple[float, float | None]:
    """Seconds of a step, and watts meanwhile. The mean: what else the machine does takes its part of a run too."""
    if first > _MOST_SECONDS:
        return first, None
    for _ in range(_WARM_UP[device.type]):
        _steps(task, 1)
    counter = energy.Meter(device)
    blocks: list[float] = []
    while sum(blocks) < _SECONDS or (len(blocks) < 3 and sum(blocks) < _MOST_SECONDS):
        blocks.append(_timed(lambda: _steps(task, _BLOCK)))
    joules = counter.lap()
    return statistics.mean(blocks) / _BLOCK, None if joules is None else joules / sum(blocks)


def _evaluation(task: GAN, meter: Meter, samples: int) -> float:
    """Seconds of one evaluation; of a long one, its images alone, by those of a chunk."""
    noise = stream(0, "calibration")
    images = next(iter(task.sample(samples, noise)))
    meter.rehearse(images)

    def chunk() -> None:
        meter.rehearse(next(iter(task.sample(samples, noise))))

    seconds = _timed(chunk) * math.ceil(samples / len(images))
    if seconds > _MOST_SECONDS:
        return seconds
    return _timed(lambda: meter.measure(task.sample(samples, noise), stream(0, "calibration subsets")))
