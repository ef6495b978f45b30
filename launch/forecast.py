"""What is left of a sweep, before it starts: how long here, how many hours of devices, how much energy."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launch.calibration import calibrated
from launch.cost import Estimate, estimates, first_paces, kind, known_paces, pace_of
from launch.crew import Slot
from launch.display import spoken
from launch.plan import Run, Sweep

# A step of which nothing is known but its arithmetic.
_STEP_MS = {"cpu": 2.0, "gpu": 4.0}


@dataclass(frozen=True)
class Forecast:
    """seconds: until the last run ends. device_seconds: of GPUs, or of cores. joules: None where devices don't say."""

    seconds: float
    device_seconds: float
    joules: float | None


def forecast(found: Sequence[Estimate], places: Sequence[Slot]) -> Forecast:
    """Runs in this order, each to the place that is free first; places: the devices of each run at once.

    Runs that share a GPU are taken to slow each other down only where it is busy throughout.
    """
    free = [0.0] * len(places)
    for one in found:
        heapq.heapreplace(free, free[0] + one.seconds)
    devices = {device for slot in places for device in slot}
    on_gpus = devices != {"cpu"}
    each = len(places) * len(places[0]) / len(devices)  # runs that have a device at once
    taken = sum(one.seconds * one.processes for one in found)
    busy = sum(one.seconds * one.processes * one.share for one in found) / len(devices) if on_gpus else 0.0
    drawn = [one.seconds * one.processes * one.watts / each for one in found if one.watts is not None]
    joules = sum(drawn) if found and len(drawn) == len(found) else None
    return Forecast(max(*free, busy, 0.0), taken / each if on_gpus else taken, joules)


def opening(sweep: Sweep, places: Sequence[Slot]) -> str:
    """The forecast of what is waiting, in a line, with what it is based on."""
    from cbs.trial import place

    device = places[0][0]
    here = {run: replace(run, config=replace(run.config, device=device)) for run in (*sweep.waiting, *sweep.done)}
    waiting, done = [here[run] for run in sweep.waiting], {here[run]: found for run, found in sweep.done.items()}
    configs = [run.config for run in waiting]
    results = Path(configs[0].paths.results)
    paces = calibrated(results, place(device))
    measured = bool(paces)
    recorded = {kind(run.config) for run in done}
    unknown = [one for one in configs if kind(one) not in recorded and pace_of(one, paces) is None]
    paces |= first_paces(unknown, _STEP_MS["cpu" if device == "cpu" else "gpu"], None)
    by_run: dict[Run, Estimate] = {one.run: one for one in estimates(waiting, done, known_paces(paces))}
    found = [by_run[run] for run in waiting]
    return _sentence(found, forecast(found, places), places, measured and not unknown)


def _sentence(found: Sequence[Estimate], now: Forecast, places: Sequence[Slot], calibrated: bool) -> str:
    arriving = sum(one.arrives for one in found)
    if arriving == len(found):
        lead, steps = "about", "as many steps as their other seeds took"
    elif arriving:
        lead, steps = "at most about", f"{arriving} runs as many steps as their other seeds, the others their budget"
    else:
        lead, steps = "at most about", "every run its whole budget"
    if all(one.known for one in found):
        source = "paces from this sweep's records"
    elif calibrated:
        source = "paces as calibrated"
    else:
        source = "paces guessed from arithmetic: once with hydra/launcher=calibrate, they are measured"
    on_gpus = places[0][0] != "cpu"
    count = len({device for slot in places for device in slot}) if on_gpus else len(places)
    unit = "GPU" if on_gpus else "core"
    energy = "" if now.joules is None else f", {now.joules / 3.6e6:.2g} kWh"
    where = f"on {count} {unit}{'' if count == 1 else 's'}"
    hours = f"{now.device_seconds / 3600:.2g} {unit} hours{energy}"
    return f"{lead} {spoken(now.seconds)} {where}, {hours} ({steps}; {source})"
