"""A run's evaluations on their way to TensorBoard, W&B or MLflow: live, and never in the way of training."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import secrets
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cbs.errors import InputError
from cbs.key import REQUEST
from cbs.options import LoggerConfig
from cbs.outcome import Evaluation, Outcome, Reached, sfo
from cbs.record import RunFolder, write_atomic
from cbs.schema import Config
from cbs.services import About, Service, service

# What a logger may take at the end to catch up before it is left behind; less than a sweep's grace for its runs.
CLOSE_SECONDS = 30.0
_SHAPING = ("task", "model", "dataset", "optimizer", "update", "batch_size", "branch_from", "target")


def check_installed(config: LoggerConfig) -> None:
    """Raise InputError where a config's logger is not installed; imports nothing."""
    if config.name == "none":
        return
    spec = importlib.util.find_spec(config.name)
    if spec is None or spec.origin is None:  # no origin: a mere folder of that name, as W&B leaves one
        raise InputError(f"logger is {config.name!r}: it isn't installed; run pip install 'cbs-gan[{config.name}]'.")


class Logger:
    """Takes what a run shows, and does nothing with it: `logger=none`."""

    def log(self, evaluations: Sequence[Evaluation]) -> None:
        """Take every evaluation so far, those of earlier attempts included."""

    def finish(self, evaluations: Sequence[Evaluation], outcomes: dict[float, Outcome]) -> None:
        """Take the outcomes too."""

    def close(self) -> None:
        """Come to an end, within CLOSE_SECONDS."""


@contextlib.contextmanager
def opened(config: Config, folder: RunFolder) -> Iterator[Logger]:
    """The logger of a run. None of its calls raises or waits for the service, but for `close`."""
    logger: Logger = Logger()
    if config.logger.name != "none":
        about = describe(config, folder)
        logger = Feed(service(config.logger, about), about.name, config.target.metric, folder)
    try:
        yield logger
    finally:
        logger.close()


def describe(config: Config, folder: RunFolder) -> About:
    """What a run is called, and the settings that shape it."""
    settings = {group: value for group, value in config.to_dict().items() if group in _SHAPING and value}
    settings["target"] = {name: value for name, value in settings["target"].items() if name not in REQUEST}
    rule = "" if config.update.name == "alternating" else f" {config.update.name}"
    return About(
        study=config.study_dir,
        key=folder.key,
        name=f"b={config.batch_size.label} {config.optimizer.name}{rule} seed {folder.seed}",
        settings={"study": config.name, "key": folder.key, "seed": folder.seed, **settings},
    )


class Feed(Logger):
    """Brings evaluations to a service in a thread of its own.

    It holds the latest trajectory, not a queue: whatever the service has missed, while it was slow or
    failed, follows with the next evaluation. logger.json in the run's folder keeps what it has.
    """

    def __init__(self, to: Service, name: str, metric: str, folder: RunFolder) -> None:
        self._service, self._name, self._metric = to, name, metric
        self._ledger_path, self._failure_path = folder.path / "logger.json", folder.path / "logger.txt"
        self._changed = threading.Condition()
        self._evaluations: tuple[Evaluation, ...] = ()
        self._outcomes: dict[float, Outcome] | None = None
        self._ledger: _Ledger | None = None  # set where the service is open
        self._news = self._closing = self._told = False
        self._thread: threading.Thread | None = None

    def log(self, evaluations: Sequence[Evaluation]) -> None:
        self._hand_over(tuple(evaluations), None)

    def finish(self, evaluations: Sequence[Evaluation], outcomes: dict[float, Outcome]) -> None:
        self._hand_over(tuple(evaluations), dict(outcomes))

    def close(self) -> None:
        if self._thread is None:
            return
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._tell(f"still busy {CLOSE_SECONDS:g} seconds after the run came to its end", "")

    def _hand_over(self, evaluations: tuple[Evaluation, ...], outcomes: dict[float, Outcome] | None) -> None:
        with self._changed:
            self._evaluations, self._outcomes, self._news = evaluations, outcomes, True
            self._changed.notify()
        if self._thread is None:
            with self._surviving():
                thread = threading.Thread(target=self._work, name="logger", daemon=True)
                thread.start()
                self._thread = thread

    def _work(self) -> None:
        closing = behind = False
        while not closing:
            with self._changed:
                self._changed.wait_for(lambda: self._news or self._closing)
                closing, behind = self._closing, self._news or behind
                self._news = False
                evaluations, outcomes = self._evaluations, self._outcomes
            with self._surviving():
                if behind:
                    self._bring(evaluations, outcomes)
                    behind = False
        with self._surviving():
            if self._ledger is not None:
                self._service.close(settled=outcomes is not None)

    def _bring(self, evaluations: tuple[Evaluation, ...], outcomes: dict[float, Outcome] | None) -> None:
        if self._ledger is None:
            ledger = _Ledger(self._ledger_path, self._service)
            ledger.save()  # first: a run that is killed while its log opens must find the same log again
            self._service.open(ledger.run)
            self._ledger = ledger
        logged = self._ledger.logged
        try:
            for evaluation in evaluations:
                for number, values in enumerate(said(evaluation, self._metric)):
                    if number >= logged.get(str(evaluation.step), 0):
                        self._service.log(evaluation.step, values)
                        logged[str(evaluation.step)] = number + 1
        finally:
            self._ledger.save()
        if outcomes is not None:
            self._service.finish(*ended(outcomes, evaluations))

    @contextlib.contextmanager
    def _surviving(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:  # a library may also exit or panic: none of it reaches the run
            first = (str(error).strip().splitlines() or [""])[0]
            self._tell(f"{type(error).__name__}: {first}", traceback.format_exc())

    def _tell(self, what: str, details: str) -> None:
        """Say once on stderr, and keep in logger.txt, why the log is behind."""
        if self._told:
            return
        self._told = True
        with contextlib.suppress(Exception):
            print(f"cbs: {self._name}: its logger fails, the run goes on: {what}", file=sys.stderr, flush=True)
            write_atomic(self._failure_path, f"{what}\n{details}".encode())


class _Ledger:
    """What a service has of a run, in a file beside the record. run: what the service calls it."""

    def __init__(self, path: Path, to: Service) -> None:
        self._path, self._destination, self._kept = path, to.destination, to.appends
        known = self._read().get(self._destination) or {}
        self.run: str = known.get("run") or secrets.token_hex(8)
        self.logged: dict[str, int] = known.get("logged") or {}

    def _read(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self._path.read_text())
            return found if isinstance(found, dict) else {}
        return {}

    def save(self) -> None:
        if self._kept:
            mine = {self._destination: {"run": self.run, "logged": self.logged}}
            write_atomic(self._path, json.dumps({**self._read(), **mine}).encode())


def said(evaluation: Evaluation, metric: str) -> list[dict[str, float]]:
    """What is logged of an evaluation, piece by piece as it becomes known: first its values, then each repeat."""
    error = evaluation.sampling_error
    first = {
        metric: evaluation.value,
        **({} if error is None else {f"{metric}_sampling_error": error}),
        **evaluation.extra,
        **evaluation.losses,
        **{f"noise_scale_{name}": of.scale for name, of in evaluation.noise.items() if of.scale is not None},
        "samples": float(evaluation.samples),
        "seconds": evaluation.seconds,
        "sfo": sfo(evaluation),
    }
    return [first, *({f"{metric}_repeat_{k}": value} for k, value in enumerate(evaluation.repeats, start=1))]


def ended(outcomes: dict[float, Outcome], evaluations: Sequence[Evaluation]) -> tuple[dict[str, float], dict[str, str]]:
    """What is logged of outcomes: steps and SFO to each target that was reached, and each outcome's kind."""
    numbers: dict[str, float] = {}
    at = {evaluation.step: evaluation for evaluation in evaluations}
    for threshold, outcome in outcomes.items():
        if isinstance(outcome, Reached):
            numbers[f"steps_to_target/{threshold:g}"] = float(outcome.first_below)
            numbers[f"sfo_to_target/{threshold:g}"] = sfo(at[outcome.first_below])
    return numbers, {f"outcome/{t:g}": type(o).__name__.lower() for t, o in outcomes.items()}
