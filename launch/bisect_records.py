"""What the records of a study say of one curve: runs seen, runs at work, what they took."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.adaptive.design import Pending, Seen
from cbs.claim import holder
from cbs.key import curve_identity, trial_folder
from cbs.outcome import Outcome, Reached
from cbs.record import RunFolder, run_folders
from cbs.schema import Config
from launch.status import recorded

Id = tuple[str, int]
"""A run of a study: trial key and seed."""


@dataclass(frozen=True)
class Known:
    """What there is of one curve by now.

    seen, pending: for analysis.adaptive.design. steps: how far each run is. seconds, sfo: spent so far, of GPUs (or of
    cores) and in gradients. paces: seconds a step took, per batch size.
    """

    seen: list[Seen]
    pending: list[Pending]
    steps: dict[tuple[int, int], int]
    seconds: float
    sfo: float
    paces: dict[int, float]


class Trials:
    """The trials of a study by the curve they belong to, each read once."""

    def __init__(self, study: Path) -> None:
        self._study = study
        self._known: dict[str, tuple[str, int]] = {}

    def of(self, config: Config) -> dict[str, int]:
        """Keys and batch sizes of all trials that lie on the same curve as this one, whoever asked for them."""
        for path in self._study.glob("trials/*/trial.yaml"):
            if path.parent.name not in self._known:
                self._known[path.parent.name] = self._read(path, config)
        wanted = curve_identity(config.to_dict())
        return {key: b for key, (its, b) in self._known.items() if its == wanted}

    @staticmethod
    def _read(path: Path, config: Config) -> tuple[str, int]:
        found = recorded(path)
        here = replace(found, name=config.name, paths=config.paths)
        same_features = trial_folder(here).name == path.parent.name
        return curve_identity(found.to_dict()) if same_features else "", found.batch_size.initial


def known(config: Config, sizes: Mapping[str, int], at_work: Mapping[Id, int], shares: Mapping[Id, float]) -> Known:
    """Read the runs of the trials `sizes` ({key: batch size}) at the hardest threshold of `config`.

    at_work: how far runs may go that are known to be at work or queued; others are at work where somebody holds a
    claim. shares: of a GPU, that runs had in their Slurm tasks. Raises RecordError.
    """
    threshold = config.target.hardest
    of_b = {b: replace(config, batch_size=replace(config.batch_size, initial=b)) for b in sizes.values()}
    last = {b: one.cadence.last(one.budget) for b, one in of_b.items()}
    seen: list[Seen] = []
    untils = {(sizes[key], seed): until for (key, seed), until in at_work.items() if key in sizes}
    steps: dict[tuple[int, int], int] = {}
    paces: dict[int, list[float]] = {}
    seconds = sfo = 0.0
    for folder in (one for one in run_folders(config.study_dir) if one.key in sizes):
        b = sizes[folder.key]
        step, taken = _progress(folder)
        steps[b, folder.seed] = step
        seconds += taken * shares.get((folder.key, folder.seed), config.gpus_per_trial)
        sfo += step * b
        if step and taken:
            paces.setdefault(b, []).append(taken / step)
        result = folder.result()
        outcome = result.outcomes.get(threshold) if result else None
        if outcome is not None:
            seen.append(_seen(b, folder.seed, outcome))
        over = outcome is not None and (seen[-1].outcome != "censored" or seen[-1].steps >= last[b])
        if over:
            untils.pop((b, folder.seed), None)
        elif (b, folder.seed) not in untils and holder(folder.claims_path) is not None:
            untils[b, folder.seed] = last[b]  # whoever works on it did not say how far
    pending = [Pending(b, seed, until) for (b, seed), until in sorted(untils.items())]
    seen.sort(key=lambda run: (run.batch_size, run.seed))
    return Known(seen, pending, steps, seconds, sfo, {b: statistics.median(one) for b, one in paces.items()})


def _progress(folder: RunFolder) -> tuple[int, float]:
    """Steps and seconds so far, from the record or from what the last attempt said, whichever is further."""
    result, progress = folder.result(), folder.progress()
    said = (int(progress.get("step", 0)), float(sum(progress.get("seconds", {}).values())))
    return max(said, (result.last_step, sum(result.seconds.values()))) if result else said


def _seen(b: int, seed: int, outcome: Outcome) -> Seen:
    if isinstance(outcome, Reached):
        return Seen(b, seed, outcome.last_above, outcome.first_below, "reached")
    return Seen(b, seed, outcome.step, outcome.step, type(outcome).__name__.lower())
