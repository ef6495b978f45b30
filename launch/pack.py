"""Runs into array tasks, so that each fills its GPU, or its cores, and its time limit."""

from __future__ import annotations

import math
from collections.abc import Sequence

from launch.cost import Estimate
from launch.submissions import Load


def lanes(estimate: Estimate, cores: int, gpus: int) -> int:
    """How many runs like this one share a task: one per core, or as many as it takes to keep its GPUs busy.

    At small b a run waits for its kernels to start and many share a GPU; at large b one fills it. A power
    of two to each GPU, so that runs of neighbouring b come together; a process needs a core in either case,
    and where several share a trial, each needs a GPU of its own.
    """
    if not gpus:
        return max(1, cores // estimate.processes)
    if estimate.processes > 1:
        return max(1, min(gpus, cores) // estimate.processes)
    each = max(1, min(math.floor(1 / max(estimate.share, 1e-3)), cores // gpus))
    return max(1, min(cores, gpus * 2 ** math.floor(math.log2(each))))


def packed(found: Sequence[Estimate], pack: str | int, cores: int, gpus: int, hours: float) -> list[Load]:
    """Loads of places in `found` (longest first), the longest load first.

    pack: "auto", or the number of runs that a task carries. hours: what a load may take.
    """
    if isinstance(pack, int):
        starts = range(0, len(found), pack)
        loads = [
            _load(list(range(at, min(at + pack, len(found)))), found, _fewest(found, at, pack, cores, gpus))
            for at in starts
        ]
        return sorted(loads, key=lambda load: -load.hours)
    groups: dict[int, list[int]] = {}
    for place, estimate in enumerate(found):
        groups.setdefault(lanes(estimate, cores, gpus), []).append(place)
    loads = [load for width, places in groups.items() for load in _filled(places, found, width, hours)]
    return sorted(loads, key=lambda load: -load.hours)


def _fewest(found: Sequence[Estimate], at: int, pack: int, cores: int, gpus: int) -> int:
    chunk = found[at : at + pack]
    return min(len(chunk), *(lanes(one, cores, gpus) for one in chunk))


def _filled(places: Sequence[int], found: Sequence[Estimate], width: int, hours: float) -> list[Load]:
    """As few loads of this many lanes as take `hours` each, every run to the one with least to do so far."""
    total = sum(found[place].seconds for place in places) / 3600
    # Runs longer than the limit are requeued; they must not get tasks with lanes to spare for that.
    count = max(1, min(math.ceil(total / (width * hours)), math.ceil(len(places) / width)))
    loads: list[list[int]] = [[] for _ in range(count)]
    filled = [0.0] * count
    for place in places:
        least = filled.index(min(filled))
        loads[least].append(place)
        filled[least] += found[place].seconds
    return [_load(load, found, min(width, len(load))) for load in loads if load]


def _load(places: list[int], found: Sequence[Estimate], width: int) -> Load:
    seconds = [found[place].seconds for place in places]
    return Load(places, width, max(max(seconds), sum(seconds) / width) / 3600)
