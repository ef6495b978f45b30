"""One run of a trial: the one door through which a worker trains."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cbs import loggers, parallel
from cbs.attempt import Attempt
from cbs.branch import Branch
from cbs.branch_state import shared_state
from cbs.calibration import measure, place
from cbs.claim import Busy, Claim, Superseded
from cbs.data.packed import prepare
from cbs.errors import InputError
from cbs.key import trial_folder
from cbs.machine import onednn, resolve_device, settle_numerics, tf32
from cbs.parallel import ALONE, Team, check_size
from cbs.preflight import preflight
from cbs.record import Result, RunFolder
from cbs.recording import Interrupted, Report, on_device, write_trial
from cbs.schema import Config, Request
from cbs.stack import StackFolder
from cbs.stack_attempt import StackAttempt
from cbs.stack_width import chosen
from cbs.tasks.gan import GAN
from cbs.tasks.pacing import trains_through_onednn
from cbs.work import work

__all__ = [
    "Interrupted",
    "Report",
    "follow",
    "measure",
    "place",
    "preflight",
    "run",
    "run_together",
    "work",
    "write_trial",
]


def run(
    config: Config,
    seed: int,
    report: Callable[[Report], None] = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
    team: Team = ALONE,
) -> Result:
    """Train one seed of a trial until every threshold has its outcome, going on from its last checkpoint.

    team: rank 0's, where several processes share the trial; the others `follow`. Raises InputError where they
    are not config.gpus_per_trial, Interrupted after saving where `stopped` turned true, claim.Busy where
    another process works on this run, and whatever went wrong otherwise, its traceback kept in failures/.
    """
    check_size(config, team.size)
    request = Request.of(config)
    folder = RunFolder(trial_folder(config), seed)
    finished = folder.result()
    if finished is not None and request.settled_by(finished):
        return finished
    claim = Claim.acquire(folder.claims_path)
    if folder.stack() is not None:
        claim.release()
        run_together(config, [seed], 1, _of_one(seed, report), stopped)
        return run(config, seed, report, stopped, team)
    try:
        with loggers.opened(config, folder) as logger:
            origin = partial(_origin, config, seed, report, stopped, team)
            return Attempt(config, seed, folder, claim, logger, report, stopped, team, origin).work(request)
    except (Interrupted, Superseded, Busy, KeyboardInterrupt):
        raise
    except BaseException:
        with contextlib.suppress(OSError):  # a full disk must not hide what went wrong
            folder.write_failure(traceback.format_exc())
        raise
    finally:
        claim.release()


def _origin(
    config: Config,
    seed: int,
    report: Callable[[Report], None],
    stopped: Callable[[], bool],
    team: Team,
    thresholds: Sequence[float],
) -> dict[str, Any] | None:
    """The state that a branched run begins with; its parent is trained for it where nobody did. Raises claim.Busy."""
    branch = Branch.of(config, seed)
    if branch is None or config.branch_from is None:
        return None
    images = prepare(config.dataset, Path(config.paths.data)).count
    step = config.branch_from.steps(images, config.batches_per_step)
    parent = replace(branch.parent, target=replace(config.target, thresholds=list(thresholds)))

    def train(folder: RunFolder, claim: Claim) -> dict[str, Any]:
        with loggers.opened(parent, folder) as logger:
            return Attempt(parent, seed, folder, claim, logger, report, stopped, team).reach(step)

    return shared_state(branch, step, thresholds, train)


def run_together(
    config: Config,
    seeds: Sequence[int],
    workers: int,
    report: Callable[[int, Report], None],
    stopped: Callable[[], bool],
    joined: Callable[[list[int]], None] = lambda _: None,
    ended: Callable[[int, Result], None] = lambda *_: None,
) -> None:
    """Train seeds of a trial as one network, as many of them as pay, or go on with the stack that the first is in.

    workers: the processes that these seeds have to themselves. joined: is told which seeds train, before they do;
    ended: takes each one's result. The others, and those that left without a result, are where they were. Raises
    Interrupted after saving where `stopped` turned true, claim.Busy where another process works on one of them, and
    whatever went wrong otherwise, its traceback kept in failures/ of each run.
    """
    folders = [RunFolder(trial_folder(config), seed) for seed in seeds]
    known = folders[0].stack()
    width = len(seeds) if known is not None else chosen(config, len(seeds), workers)
    if width > 1 or known is not None:
        with StackAttempt(config, report, stopped, ended) as attempt:
            try:
                if known is not None:
                    attempt.resume(StackFolder(folders[0].trial, known))
                if known is not None or attempt.form(folders[:width], Request.of(config)):
                    joined([member.seed for member in attempt.members])
                    return attempt.train()
            except (Interrupted, Superseded, Busy, KeyboardInterrupt):
                raise
            except BaseException:
                for member in attempt.members:
                    with contextlib.suppress(OSError):  # a full disk must not hide what went wrong
                        member.folder.write_failure(traceback.format_exc())
                raise
    joined([seeds[0]])
    ended(seeds[0], run(config, seeds[0], lambda now: report(seeds[0], now), stopped))


def _of_one(seed: int, report: Callable[[Report], None]) -> Callable[[int, Report], None]:
    """Of a stack's reports, those of one run."""
    return lambda which, now: report(now) if which == seed else None


def follow(config: Config, team: Team) -> None:
    """Train beside rank 0, which runs the trial's seeds, until it ends.

    Raises InputError where the data set here is another one, RuntimeError where rank 0 died.
    """
    device = resolve_device(config.device)
    settle_numerics(device)

    def build(ground: tuple[int, str, Config]) -> GAN:
        seed, digest, settled = ground
        packed = prepare(config.dataset, Path(config.paths.data))
        if packed.digest != digest:
            raise InputError(
                f"paths.data is {config.paths.data!r}: rank {team.rank} finds other data there than rank 0."
            )
        task = GAN(replace(settled, device=config.device), seed, on_device(packed, device), device, team)
        torch.backends.mkldnn.set_flags(trains_through_onednn(settled, task.b))
        return task

    with onednn(trains_through_onednn(config, config.batch_size.initial)), tf32(config.precision == "tf32"):
        parallel.follow(team, build)
