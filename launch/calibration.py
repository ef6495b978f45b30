"""What calibrations found: `<results>/calibration.json`, by device, by kind of run and optimizer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cbs.pace import Pace
from cbs.record import SCHEMA, RecordError, read_json, write_json
from cbs.schema import Config
from launch.cost import first_paces, pace_of

NAME = "calibration.json"


def keep(results: Path, device: str, found: Mapping[str, Sequence[Any]]) -> None:
    """Add what was measured on a device: cbs.calibration.Measured by kind and optimizer.

    A damaged file is begun anew.
    """
    path = results / NAME
    known: dict[str, Any] = {"schema": SCHEMA, "devices": {}}
    with suppress(FileNotFoundError, RecordError):
        known = read_json(path)
    kinds = known["devices"].setdefault(device, {})
    for name, points in found.items():
        kinds[name] = {"written": time.time(), "points": [asdict(one) for one in points]}
    write_json(path, known)


def calibrated(results: Path, device: str | None = None) -> dict[str, Pace]:
    """What calibrations found, by kind and optimizer: on this device, or on any, the latest."""
    try:
        devices = read_json(results / NAME)["devices"]
    except (FileNotFoundError, RecordError):
        return {}
    chosen = [kinds for name, kinds in devices.items() if device in (None, name)]
    newest = sorted(((kept["written"], name, kept["points"]) for kinds in chosen for name, kept in kinds.items()))
    return {name: _pace(points) for _, name, points in newest}


def _pace(points: list[dict[str, Any]]) -> Pace:
    """One pace through the batch sizes that were measured."""
    b_last = max(one["b"] for one in points)
    rough = Pace(0.0, max(one["step_seconds"] for one in points) / b_last)  # all arithmetic, if one point is all
    found = rough.through({one["b"]: one["step_seconds"] for one in points})
    watts = [one["watts"] for one in points if one["watts"] is not None]
    return replace(
        found,
        evaluation_seconds=statistics.median(one["evaluation_seconds"] for one in points),
        start_seconds=statistics.median(one["start_seconds"] for one in points),
        watts=statistics.median(watts) if watts else None,
    )


def reckoned(configs: Sequence[Config], step_ms: float, tflops: float | None, device: str | None) -> dict[str, Pace]:
    """The pace of each kind before there are records: as calibrated in their results folder, else by arithmetic."""
    known = calibrated(Path(configs[0].paths.results), device) if configs else {}
    return known | first_paces([config for config in configs if pace_of(config, known) is None], step_ms, tflops)
