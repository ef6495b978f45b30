"""TensorBoard, W&B and MLflow, each behind the same four calls; cbs.loggers decides when and in which thread."""

from __future__ import annotations

import logging
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cbs.claim import alone
from cbs.options import LoggerConfig, MLflowConfig, WandbConfig

# Seconds until W&B gives up reaching its server, at the start and for the last uploads.
_WANDB_INIT_SECONDS, _WANDB_FINISH_SECONDS = 60.0, 20.0


@dataclass(frozen=True)
class About:
    """What a service is told of a run. settings: every field that shapes it, nested as in the config."""

    study: Path
    key: str
    name: str
    settings: dict[str, Any]


class Service(Protocol):
    """Where evaluations go. Every call may raise anything, and may hang.

    destination: tells logs apart that have no runs in common.
    appends: whether a resumed run is gone on with; otherwise each attempt logs every evaluation again.
    """

    destination: str
    appends: bool

    def open(self, run: str) -> None:
        """Start the run of this name, or go on with it."""
        ...

    def log(self, step: int, values: dict[str, float]) -> None: ...

    def finish(self, numbers: dict[str, float], words: dict[str, str]) -> None:
        """Keep the outcomes."""
        ...

    def close(self, settled: bool) -> None: ...


def service(config: LoggerConfig, about: About) -> Service:
    """The service that a config asks for; nothing is imported or opened yet."""
    if isinstance(config, WandbConfig):
        return Wandb(config, about)
    if isinstance(config, MLflowConfig):
        return MLflow(config, about)
    return TensorBoard(about)


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


class TensorBoard:
    """One folder per run; the events of each attempt take the place of those before it."""

    destination, appends = "tensorboard", False

    def __init__(self, about: About) -> None:
        self._about = about

    def open(self, run: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = self._about.study / "tensorboard" / f"{self._about.name} {self._about.key}"
        self._writer = SummaryWriter(str(folder), purge_step=0)

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, numbers: dict[str, float], words: dict[str, str]) -> None:
        from torch.utils.tensorboard.summary import hparams

        file = self._writer.file_writer
        assert file is not None  # since open
        settings = _flat(self._about.settings)
        shown = {name: v if isinstance(v, bool | int | float | str) else str(v) for name, v in settings.items()}
        for summary in hparams(shown, numbers):
            file.add_summary(summary)  # add_hparams would make a run of its own of it
        for name, value in numbers.items():
            self._writer.add_scalar(name, value)
        for name, word in words.items():
            self._writer.add_text(name, word)

    def close(self, settled: bool) -> None:
        self._writer.close()


class Wandb:
    """A W&B run, in the study's group."""

    appends = True

    def __init__(self, config: WandbConfig, about: About) -> None:
        self._config, self._about = config, about
        self.destination = f"wandb {config.entity}/{config.project}"

    def open(self, run: str) -> None:
        import wandb

        config, about = self._config, self._about
        mode = config.mode or os.environ.get("WANDB_MODE", "online")
        if mode == "online" and not wandb.login(prompt=False):  # wandb.init would ask, and wait
            raise RuntimeError("no W&B login: run `wandb login`, set WANDB_API_KEY or use logger.mode=offline")
        self._run = wandb.init(
            project=config.project,
            entity=config.entity,
            mode="offline" if mode == "offline" else "online",
            group=about.study.name,
            name=about.name,
            id=run,
            resume="allow",
            reinit="create_new",
            config=about.settings,
            dir=str(about.study),
            settings=wandb.Settings(
                init_timeout=_WANDB_INIT_SECONDS,
                finish_timeout=_WANDB_FINISH_SECONDS,
                finish_timeout_raises=True,
                silent=True,
                console="off",
            ),
        )
        # W&B's own step only rises; against one of ours, a resumed run may say more about an earlier step.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log({"step": step, **values})

    def finish(self, numbers: dict[str, float], words: dict[str, str]) -> None:
        self._run.summary.update({**numbers, **words})

    def close(self, settled: bool) -> None:
        import wandb

        self._run.finish(exit_code=0 if settled else 1)
        wandb.teardown()  # its service dies with this process, and a sweep's worker runs no exit handlers


class MLflow:
    """An MLflow run, found again by its tag."""

    appends = True

    def __init__(self, config: MLflowConfig, about: About) -> None:
        self._config, self._about = config, about
        self.destination = f"mlflow {config.tracking_uri} {config.experiment}"

    def open(self, run: str) -> None:
        # Runs that make the tables of one SQLite file at the same time break each other's.
        with alone(self._about.study.parent / ".mlflow"):
            self._open(run)

    def _open(self, run: str) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # else it tells of every table that it makes
        warnings.filterwarnings("ignore", "Unnamed CHECK constraint")  # so does alembic
        self._client = MlflowClient(tracking_uri=self._config.tracking_uri)
        experiment = self._experiment()
        found = self._client.search_runs([experiment], f"tags.`cbs.run` = '{run}'")
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            tags = {"cbs.run": run, "study": self._about.study.name}
            self._id = self._client.create_run(experiment, run_name=self._about.name, tags=tags).info.run_id
            params = [Param(name, str(value)) for name, value in _flat(self._about.settings).items()]
            self._client.log_batch(self._id, params=params)

    def _experiment(self) -> str:
        name = self._config.experiment
        found = self._client.get_experiment_by_name(name)
        if found is None:
            return self._client.create_experiment(name)
        return found.experiment_id

    def log(self, step: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._id, metrics=[Metric(name, v, now, step) for name, v in values.items()])

    def finish(self, numbers: dict[str, float], words: dict[str, str]) -> None:
        for name, value in numbers.items():
            self._client.log_metric(self._id, name, value)
        for name, word in words.items():
            self._client.set_tag(self._id, name, word)

    def close(self, settled: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if settled else "KILLED")
