"""How many seeds of a trial should train as one network on this machine: measured in a moment, then remembered."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from cbs.data.sampler import Pictures
from cbs.machine import onednn, resolve_device, settle_numerics, tf32
from cbs.memory import LITTLE, free_bytes, step_bytes
from cbs.record import RecordError, read_json, write_json
from cbs.schema import Config
from cbs.tasks.gan import GAN
from cbs.tasks.pacing import trains_through_onednn
from cbs.tasks.stack import Stack

# A stack must train so many times as fast as one run alone.
_LEAST_GAIN = 1.15
_WIDEST = 32
_SECONDS = 0.05
_ROUNDS = 3
# Of the memory that is free, what a stack may take.
_SHARE = 0.5


def chosen(config: Config, count: int, workers: int) -> int:
    """How many of `count` runs of a trial to train as one; 1: none.

    workers: the processes that these runs have to themselves, this one included. A number as config.stack is the most
    there may be, and isn't measured.
    """
    if isinstance(config.stack, int):
        return min(config.stack, count)
    seconds = _known(config, min(count, _WIDEST))
    return best(seconds, count, workers)


def alone_seconds(config: Config) -> float | None:
    """A step's of one run by itself, where it was measured in this study."""
    path, name = config.study_dir / "stacking.json", _name(config, resolve_device(config.device))
    known = _read(path).get(name, {}).get("1")
    return None if known is None else float(known)


def best(seconds: dict[int, float], count: int, workers: int) -> int:
    """The width at which `count` runs on so many workers take a step each in the least time; the least of equals.

    seconds: a step's, by width, 1 included. Widths between those measured are interpolated, wider ones not used.
    """

    def time_taken(width: int) -> float:
        took = _between(seconds, width)
        if width > 1 and width * seconds[1] < _LEAST_GAIN * took:
            return math.inf
        return math.ceil(math.ceil(count / width) / workers) * took

    return min(range(1, min(count, max(seconds)) + 1), key=time_taken)


def _between(seconds: dict[int, float], width: int) -> float:
    for low, high in itertools.pairwise(sorted(seconds)):
        if low <= width <= high:
            return seconds[low] + (seconds[high] - seconds[low]) * (width - low) / (high - low)
    return seconds[width]


def _known(config: Config, most: int) -> dict[int, float]:
    """A step's seconds by width, up to `most`: from the study's file, else measured and written there."""
    device = resolve_device(config.device)
    path = config.study_dir / "stacking.json"
    name = _name(config, device)
    seconds = {int(width): value for width, value in _read(path).get(name, {}).items()}
    widths = [*itertools.takewhile(lambda w: w < most, (2**k for k in range(10))), most]
    if not seconds or max(seconds) < most:
        seconds = measured(config, device, widths)
        write_json(path, {"schema": 1, **_read(path), name: {str(w): s for w, s in seconds.items()}})
    return seconds


def _read(path: Path) -> dict[str, Any]:
    """What other measurements have found; a file that can't be read is none."""
    with suppress(OSError, RecordError):
        return read_json(path)
    return {}


def _name(config: Config, device: torch.device) -> str:
    """What a step's time depends on."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    data = (config.dataset.image_size, config.dataset.channels)
    what = json.dumps([vars(config.model), data, vars(config.optimizer), config.precision], sort_keys=True)
    digest = hashlib.sha256(what.encode()).hexdigest()[:8]
    label = f"{config.model.name} {config.dataset.name} {config.optimizer.name}"
    return f"{kind}, {label} ({digest}), b={config.batch_size.initial}"


def measured(config: Config, device: torch.device, widths: list[int]) -> dict[int, float]:
    """A training step's seconds at these widths, as far as the memory reaches: the least of a few rounds."""
    settle_numerics(device)
    b, data = config.batch_size.initial, config.dataset
    images = torch.randint(0, 256, (max(b, 64), data.channels, data.image_size, data.image_size), dtype=torch.uint8)
    pictures = Pictures(images.to(device))
    little = max(widths) * b * data.image_size**2 * config.model.width <= LITTLE
    room = max(widths) if little else max(1, int(_SHARE * free_bytes(device) / step_bytes(config, 0)))
    found: dict[int, float] = {}
    for width in (w for w in widths if w <= room):
        members = [GAN(config, seed, pictures, device) for seed in range(width)]
        task = members[0] if width == 1 else Stack(config, members)
        with onednn(trains_through_onednn(config, config.batch_size.initial)), tf32(config.precision == "tf32"):
            found[width] = _step_seconds(task, device)
    return found


def _step_seconds(task: GAN, device: torch.device) -> float:
    def steps(n: int) -> float:
        started = clock()
        for _ in range(n):
            task.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock() - started

    # On a CPU other processes' time doesn't count.
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    steps(20 if device.type == "cuda" else 2)  # a CUDA graph is recorded meanwhile
    n = max(1, int(_SECONDS / max(steps(1), 1e-6)))
    return min(steps(n) for _ in range(_ROUNDS)) / n
