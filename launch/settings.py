"""What the Slurm launcher is told: conf/hydra/launcher/slurm.yaml, typed and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from cbs.errors import InputError, nearest
from cbs.schema import Config

# Options of sbatch by which a sweep's jobs are found again.
_OURS = ("job-name", "array", "output", "error", "clusters", "chdir", "signal", "requeue", "no-requeue")


@dataclass(frozen=True)
class Settings:
    """conf/hydra/launcher/slurm.yaml, typed."""

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    gpus_per_task: int
    cpus_per_task: int
    mem_gb: float | None
    timeout_min: int
    array_parallelism: int
    pack: str | int
    fill_min: int | None
    signal_delay_s: int
    max_requeues: int
    setup: list[str]
    sbatch: dict[str, Any]
    step_ms: float
    tflops: float | None
    prepare: bool
    wait: bool

    @classmethod
    def of(cls, given: dict[str, Any]) -> Settings:
        """Settings from a launcher's config. Raises InputError where one is unknown, missing or can't be."""
        known = [one.name for one in fields(cls)]
        for name in given:
            if name not in known:
                raise InputError(f"hydra.launcher.{name} is no setting: {nearest(name, known)}.")
        for name in known:
            if name not in given:
                raise InputError(
                    f"hydra.launcher.{name} is missing: start from hydra/launcher=slurm (defaults: [slurm])."
                )
        settings = cls(**given)
        settings.check()
        return settings

    @classmethod
    def recorded(cls, kept: dict[str, Any]) -> Settings:
        """Settings from a manifest, of this version or of an earlier one, which had image_ms and not tflops."""
        return cls.of({"tflops": None, **{name: value for name, value in kept.items() if name != "image_ms"}})

    def check(self) -> None:
        """Raise InputError at the first setting that can't be."""
        for name in ("cpus_per_task", "timeout_min", "array_parallelism"):
            _whole(name, getattr(self, name), 1)
        for name in ("gpus_per_task", "max_requeues"):
            _whole(name, getattr(self, name), 0)
        _whole("signal_delay_s", self.signal_delay_s, 30)
        if self.signal_delay_s >= 60 * self.timeout_min:
            raise InputError(
                f"hydra.launcher.signal_delay_s is {self.signal_delay_s}: it must be below the time limit, "
                f"{60 * self.timeout_min} s (hydra.launcher.timeout_min)."
            )
        for name in ("prepare", "wait"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"hydra.launcher.{name} is {getattr(self, name)!r}: it must be true or false.")
        if self.pack != "auto":
            _whole("pack", self.pack, 1, "auto or ")
        if self.fill_min is not None:
            _whole("fill_min", self.fill_min, 1, "null or ")
        for name in ("step_ms", *(name for name in ("tflops", "mem_gb") if getattr(self, name) is not None)):
            if not isinstance(getattr(self, name), int | float) or not getattr(self, name) > 0:
                raise InputError(f"hydra.launcher.{name} is {getattr(self, name)!r}: it must be a number above 0.")
        if not isinstance(self.setup, list) or not all(isinstance(line, str) for line in self.setup):
            raise InputError(f"hydra.launcher.setup is {self.setup!r}: it must be a list of shell lines, [line, line].")
        if not isinstance(self.sbatch, dict):
            raise InputError(
                f"hydra.launcher.sbatch is {self.sbatch!r}: it must be options with values, {{exclude: node7}}."
            )
        for name in self.sbatch:
            if name.replace("_", "-") in _OURS:
                raise InputError(f"hydra.launcher.sbatch has {name!r}: that option is the launcher's own.")

    def fitted(self, configs: Sequence[Config]) -> Settings:
        """These settings with as many GPUs to a task as a trial needs; InputError where its cores are too few."""
        most = max(config.gpus_per_trial for config in configs)
        if self.cpus_per_task < most:
            raise InputError(
                f"hydra.launcher.cpus_per_task is {self.cpus_per_task}: with gpus_per_trial={most} "
                f"it must be at least {most}, one for each process."
            )
        gpus = (
            0 if all(config.device == "cpu" for config in configs) else max(self.gpus_per_task, most if most > 1 else 0)
        )
        return replace(self, gpus_per_task=gpus)


def _whole(name: str, value: object, least: int, other: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"hydra.launcher.{name} is {value!r}: it must be {other}a whole number, {least} or more.")
