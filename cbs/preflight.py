"""What must hold on this machine before a trial starts."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from cbs import loggers
from cbs.branch import check_branch
from cbs.data.packed import Packed, prepare
from cbs.errors import InputError
from cbs.machine import resolve_device
from cbs.metrics import features, weights
from cbs.metrics.meter import check_metrics
from cbs.record import write_atomic
from cbs.schema import Config


def preflight(config: Config) -> Packed:
    """Everything that must hold on this machine before a trial starts; makes the packed data set.

    Raises InputError: no such device, missing data or weights, features that don't fit the images, metrics that
    don't fit the features, a batch size over |S|, epochs of another |S|, a results folder that can't be written, a
    logger that isn't installed.
    """
    loggers.check_installed(config.logger)
    if resolve_device(config.device).type == "cpu" and config.precision == "tf32":
        raise InputError("precision is 'tf32', which only GPUs have: on a CPU it must be fp32 or bf16.")
    shape = (config.dataset.image_size, config.dataset.channels)
    features.check_images(config.target, *shape)
    check_metrics(config.target, *shape)
    if config.target.features == "inception":
        weights.inception_path(Path(config.paths.data))
    for name, path in (("paths.results", config.study_dir), ("paths.data", Path(config.paths.data))):
        try:
            path.mkdir(parents=True, exist_ok=True)
            _try_writing(path)
        except OSError as error:
            raise InputError(
                f"{name} is {str(path)!r}: it can't be written, or files have no hard links there ({error.strerror})."
            ) from error
    packed = prepare(config.dataset, Path(config.paths.data))
    if config.batch_size.largest > packed.count:
        raise InputError(
            f"batch_size is {config.batch_size.largest}: {config.dataset.name} has {packed.count} images, "
            "and a batch takes each at most once."
        )
    if config.counts_epochs and config.dataset.images != packed.count:
        raise InputError(
            f"dataset.images is {config.dataset.images}: {config.dataset.name} has {packed.count} images here, "
            "and evaluations or the budget count epochs of them."
        )
    check_branch(config, packed.count)
    return packed


def _try_writing(folder: Path) -> None:
    """Raises OSError where a file, or a hard link to it, which claims need, can't be made."""
    trial = folder / f".writable-{secrets.token_hex(4)}"
    link = trial.with_suffix(".link")
    try:
        write_atomic(trial, b"whole")
        os.link(trial, link)
    finally:
        for path in (trial, link):
            path.unlink(missing_ok=True)
