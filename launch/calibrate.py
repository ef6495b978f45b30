"""What runs take on this machine, measured before there are records: `hydra/launcher=calibrate`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from cbs.errors import InputError
from cbs.schema import Config
from launch.calibration import NAME, keep
from launch.cost import exactly
from launch.crew import nursery, slots
from launch.forecast import opening
from launch.plan import planned, preflight, runs

_MIB = 2**20


def calibrate(configs: Sequence[Config], workers: int | str) -> None:
    """Measure every kind of run at its smallest, a middle and its largest batch size that fits, and say what it means.

    What is found is kept in the results folder, for every study there. Raises InputError where nothing fits.
    """
    places = slots(configs[0].device, workers, configs[0].gpus_per_trial)
    here = [replace(config, device=places[0][0]) for config in configs]
    preflight(here)
    found: dict[str, list[Any]] = {}
    for name, sizes in _sizes(here).items():
        found[name] = list(_measured(sizes))
    from cbs.trial import place

    results = Path(here[0].paths.results)
    keep(results, place(here[0].device), found)
    print(_table(found))
    sweep = planned(runs(configs))
    print(sweep.opening())
    if sweep.waiting:
        print(opening(sweep, places))
    print(f"Kept in {results / NAME}, for every study there. Nothing was trained.", file=sys.stderr)


def _sizes(configs: Sequence[Config]) -> dict[str, list[Config]]:
    """By kind and optimizer, one config per batch size, rising; of one that changes, its ends."""
    found: dict[str, dict[int, Config]] = {}
    for config in configs:
        for b in (config.batch_size.smallest, config.batch_size.largest):
            found.setdefault(exactly(config), {})[b] = config.at(b)
    return {name: [by_size[b] for b in sorted(by_size)] for name, by_size in found.items()}


def _measured(sizes: list[Config]) -> Iterator[Any]:
    """The largest that fits first, then the smallest and one in the middle, each in a process of its own."""
    last, top = None, 0
    for top in reversed(range(len(sizes))):
        try:
            last = _in_a_process(sizes[top])
            break
        except InputError:
            if not top:
                raise
    yield last
    for at in sorted({0, top // 2} - {top}):
        yield _in_a_process(sizes[at])


def _in_a_process(config: Config) -> Any:
    """Its memory is its own, and it starts as a run does. Raises InputError where it can't be measured."""
    ours, theirs = nursery().Pipe()
    process = nursery().Process(target=_child, args=(config, time.time(), theirs), daemon=True)
    process.start()
    theirs.close()
    found: Any = "its process died (out of memory?)"
    with suppress(EOFError):
        found = ours.recv()
    process.join()
    if isinstance(found, str):
        raise InputError(f"b={config.batch_size.label} {config.optimizer.name} can't be measured: {found}")
    return found


def _child(config: Config, born: float, pipe: Connection) -> None:
    from cbs import trial

    try:
        pipe.send(trial.measure(config, born))
    except Exception as error:  # a sentence, or a device that is out of memory
        pipe.send(str(error).strip().partition("\n")[0] or type(error).__name__)


def _table(found: dict[str, list[Any]]) -> str:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    titles = ("kind of run", "b", "a step", "an evaluation", "start", "memory", "a step's, estimated", "power")
    for title in titles:
        table.add_column(title, justify="left" if title == titles[0] else "right", no_wrap=True)
    for name, points in found.items():
        for one in sorted(points, key=lambda p: p.b):
            times = (1000 * one.step_seconds, one.evaluation_seconds, one.start_seconds)
            step, evaluation, start = (f"{value:.3g}" for value in times)
            mib = [f"{count / _MIB:,.0f} MiB" for count in (one.peak_bytes, one.estimated_bytes)]
            power = "–" if one.watts is None else f"{one.watts:.0f} W"
            table.add_row(name, f"{one.b:,}", f"{step} ms", f"{evaluation} s", f"{start} s", *mib, power)
    console = Console(width=160)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()
