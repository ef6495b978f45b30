"""What a typed config's values must obey, as far as that needs no machine."""

from __future__ import annotations

import math
import re
from typing import Any

from cbs.errors import InputError, nearest
from cbs.options import (
    AdaBeliefConfig,
    BigGANConfig,
    DCGANConfig,
    ExtragradientConfig,
    LoggerConfig,
    OptimizerConfig,
    SRFBConfig,
    SVREConfig,
)
from cbs.outcome import METRICS
from cbs.schedules import Stall
from cbs.schema import BranchConfig, Config, DatasetConfig, TargetConfig

# Franci & Grammatico (2020): with less the shadow doesn't hold the step back enough.
_LEAST_RELAXATION = 2 / (1 + math.sqrt(5))
_WITHOUT_CLASSES = ("celeba", "lsun_bedroom")


def one_of(name: str, value: object, allowed: Any) -> None:
    if value not in allowed:
        raise InputError(f"{name} is {value!r}: {nearest(str(value), map(str, allowed))}.")


def at_least(name: str, value: float, bound: float) -> None:
    if not value >= bound:
        raise InputError(f"{name} is {value:g}: it must be at least {bound:g}.")


def _above(name: str, value: float, bound: float) -> None:
    if not (value > bound and value < float("inf")):
        raise InputError(f"{name} is {value:g}: it must be a finite number above {bound:g}.")


def _fraction(name: str, value: float) -> None:
    if not 0.0 <= value < 1.0:
        raise InputError(f"{name} is {value:g}: it must be at least 0 and below 1.")


def check(config: Config) -> None:
    """Raise InputError at the first rule that a typed config breaks."""
    if not re.fullmatch(r"[\w.\-]+", config.name) or config.name in (".", ".."):
        raise InputError(f"name is {config.name!r}: use letters, digits, '.', '_' and '-' (it names a folder).")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device):
        raise InputError(f"device is {config.device!r}: it must be auto, cpu, cuda or cuda:<index>.")
    one_of("precision", config.precision, ("fp32", "tf32", "bf16"))
    if isinstance(config.micro_batch, str):
        one_of("micro_batch", config.micro_batch, ("auto",))
    elif config.micro_batch is not None:
        at_least("micro_batch", config.micro_batch, 1)
    if isinstance(config.stack, str):
        one_of("stack", config.stack, ("auto",))
    else:
        at_least("stack", config.stack, 1)
    at_least("seeds", config.seeds, 1)
    at_least("checkpoint_minutes", config.checkpoint_minutes, 0)
    at_least("max_failures", config.max_failures, 1)
    if config.noise_batches < 3 and config.noise_batches != 0:
        raise InputError(f"noise_batches is {config.noise_batches}: it must be 0 (off) or at least 3.")
    _check_model(config)
    _check_optimizer(config.optimizer)
    _check_update(config)
    _check_parallel(config)
    _check_target(config.target)
    if config.parent is not None:
        _check_branch(config, config.branch_from, config.parent)
    _check_cadence(config)
    _check_budget(config)
    _check_logger(config.logger)


def _check_branch(config: Config, branch: BranchConfig | None, parent: Config) -> None:
    assert branch is not None
    if (branch.step is None) == (branch.epochs is None):
        raise InputError(
            f"branch_from.step is {branch.step}, epochs is {branch.epochs}: exactly one of them must be given."
        )
    at_least("branch_from.batch_size", branch.batch_size, 1)
    _check_parallel(parent)
    if branch.optimizer is not None:
        _check_optimizer(branch.optimizer)
    if not config.batch_size.is_constant and config.batch_size.initial != branch.batch_size:
        raise InputError(
            f"batch_size.initial is {config.batch_size.initial}: a schedule must begin with branch_from.batch_size, "
            f"{branch.batch_size}."
        )
    if branch.epochs is not None:
        _above("branch_from.epochs", branch.epochs, 0)
    if branch.step is not None:
        at_least("branch_from.step", branch.step, 1)


def _check_parallel(config: Config) -> None:
    n, b = config.gpus_per_trial, config.batch_size.smallest
    at_least("gpus_per_trial", n, 1)
    if b < n:
        raise InputError(f"batch_size is {b}: with gpus_per_trial={n} it must be at least {n}, an image for each.")
    if isinstance(config.micro_batch, int) and config.micro_batch < n:
        raise InputError(
            f"micro_batch is {config.micro_batch}: with gpus_per_trial={n} it must be at least {n}, an image for each."
        )
    if n > 1 and ":" in config.device:
        raise InputError(f"device is {config.device!r}: with gpus_per_trial={n} it must be auto, cpu or cuda.")


def _check_model(config: Config) -> None:
    model, dataset = config.model, config.dataset
    one_of("task.name", config.task.name, ("gan",))
    one_of("model.loss", model.loss, ("nonsaturating", "hinge", "wasserstein"))
    if isinstance(model, DCGANConfig):
        one_of("model.discriminator_norm", model.discriminator_norm, ("batch", "instance", "none"))
    one_of("model.batch_norm", model.batch_norm, ("global", "replica"))
    at_least("model.width", model.width, 1)
    at_least("model.latent", model.latent, 1)
    at_least("model.penalty", model.penalty, 0)
    at_least("model.critic_steps", model.critic_steps, 1)
    one_of("dataset.image_size", dataset.image_size, (8, 16, 32, 64, 128, 256))
    one_of("dataset.channels", dataset.channels, (1, 3))
    one_of("dataset.fit", dataset.fit, ("exact", "stretch", "crop"))
    one_of("dataset.corrupt", dataset.corrupt, ("refuse", "skip"))
    if isinstance(model, BigGANConfig):
        _check_biggan(model, dataset)


def latent_chunks(image_size: int) -> int:
    """How many chunks a BigGAN's latent is cut into: one for the first layer, of side 4 (2 at 8x8), one a doubling."""
    return image_size.bit_length() - (2 if image_size > 8 else 1)


def _check_biggan(model: BigGANConfig, dataset: DatasetConfig) -> None:
    if dataset.name in _WITHOUT_CLASSES:
        raise InputError(f"model.name is 'biggan': it needs classes to condition on, and {dataset.name} has none.")
    at_least("model.shared_embedding", model.shared_embedding, 1)
    at_least("model.orthogonal_penalty", model.orthogonal_penalty, 0)
    chunks = latent_chunks(dataset.image_size)
    if model.latent % chunks:
        raise InputError(
            f"model.latent is {model.latent}: with dataset.image_size={dataset.image_size} it must be a multiple of "
            f"{chunks}, because it is cut into as many equal chunks."
        )
    if model.attention is not None:
        sides = [dataset.image_size >> halvings for halvings in range(1, chunks - 1)]
        one_of("model.attention", model.attention, sides)


def _check_optimizer(optimizer: OptimizerConfig) -> None:
    _above("optimizer.lr_generator", optimizer.lr_generator, 0)
    _above("optimizer.lr_discriminator", optimizer.lr_discriminator, 0)
    for name in ("beta1", "beta2", "alpha", "momentum"):
        if hasattr(optimizer, name):
            _fraction(f"optimizer.{name}", getattr(optimizer, name))
    if isinstance(optimizer, AdaBeliefConfig) and optimizer.beta1 == 0:
        raise InputError(
            "optimizer.beta1 is 0: AdaBelief divides by how far gradients are from their average, which then is "
            "the gradient itself; it must be above 0."
        )
    for name in ("eps", "weight_decay"):
        if hasattr(optimizer, name):
            at_least(f"optimizer.{name}", getattr(optimizer, name), 0)
    if getattr(optimizer, "nesterov", False) and getattr(optimizer, "momentum", 0) == 0:
        raise InputError("optimizer.nesterov is True: it needs optimizer.momentum above 0.")


def _check_update(config: Config) -> None:
    rule, n = config.update, config.gpus_per_trial
    if rule.name != "alternating" and config.model.critic_steps != 1:
        raise InputError(
            f"model.critic_steps is {config.model.critic_steps}: with update={rule.name} both networks step at once, "
            "and it must be 1."
        )
    if isinstance(rule, SRFBConfig) and not _LEAST_RELAXATION <= rule.relaxation <= 1:
        raise InputError(
            f"update.relaxation is {rule.relaxation}: it must be at least 2/(1+√5) = {_LEAST_RELAXATION} and at most 1."
        )
    if isinstance(rule, ExtragradientConfig):
        one_of("update.extrapolation", rule.extrapolation, ("fresh", "past"))
    if isinstance(rule, SVREConfig):
        _above("update.snapshot_factor", rule.snapshot_factor, 0)
        given = rule.snapshot_micro_batch
        least = 2 * n if n > 1 else 1  # parts of the set are as even as can be: down to half as large
        if given is None:
            at_least("batch_size", config.batch_size.initial, least)
        else:
            at_least("update.snapshot_micro_batch", given, least)


def _check_target(target: TargetConfig) -> None:
    one_of("target.metric", target.metric, METRICS)
    for metric in target.extra:
        one_of("target.extra", metric, METRICS)
    one_of("target.generator", target.generator, ("eval", "batch", "ema"))
    _fraction("target.ema_decay", target.ema_decay)
    at_least("target.ema_start_step", target.ema_start_step, 0)
    one_of("target.features", target.features, ("inception", "digits", "pixels"))
    one_of("target.normalisation", target.normalisation, ("fixed", "per_image"))
    if not target.thresholds:
        raise InputError("target.thresholds is empty: give at least one number above 0.")
    for threshold in target.thresholds:
        _above("target.thresholds", threshold, 0)
    at_least("target.samples", target.samples, 2)
    at_least("target.first_gradients", target.first_gradients, 1)
    _above("target.precision", target.precision, 0)
    at_least("target.confirmations", target.confirmations, 0)
    at_least("target.evaluations_after", target.evaluations_after, 0)
    if target.every_steps is not None:
        at_least("target.every_steps", target.every_steps, 1)
    if target.every_epochs is not None:
        _above("target.every_epochs", target.every_epochs, 0)


def _check_cadence(config: Config) -> None:
    target, images = config.target, config.dataset.images
    if target.budget_gradients is None and target.budget_steps is None:
        raise InputError("target.budget_gradients and target.budget_steps are null: at least one must be given.")
    if images is not None:
        at_least("dataset.images", images, 1)
    if target.every_epochs is not None and target.every_steps is not None:
        raise InputError(
            f"target.every_epochs is {target.every_epochs:g} and target.every_steps {target.every_steps}: "
            "one of them must be null."
        )
    if isinstance(config.batch_size.schedule, Stall) and (
        target.every_steps is None or target.budget_gradients is not None
    ):
        raise InputError(
            f"batch_size is {config.batch_size.label}: gradients that depend on when the metric stalls can't be "
            "counted beforehand; give target.every_steps and target.budget_steps, with target.budget_gradients=null."
        )
    if config.counts_epochs and images is None:
        raise InputError(
            "dataset.images is null: evaluations or a budget that count epochs need the number of images in one."
        )


def _check_budget(config: Config) -> None:
    target = config.target
    for name in ("budget_gradients", "budget_steps"):
        if getattr(target, name) is not None:
            at_least(f"target.{name}", getattr(target, name), 1)
    first, budget = config.cadence.following(0), config.budget
    if budget < first:
        name = "budget_steps" if budget == target.budget_steps else "budget_gradients"
        enough = first if name == "budget_steps" else config.gradients(first)
        raise InputError(
            f"target.{name} is {getattr(target, name)}: it must be at least {enough}, to reach the first evaluation, "
            f"at step {first}."
        )
    branch = config.branch_from
    if branch is not None and branch.step is not None and branch.step >= budget:
        raise InputError(f"branch_from.step is {branch.step}: it must be below the budget, {budget} steps.")
    if target.grant_steps is not None and not first <= target.grant_steps <= budget:
        raise InputError(
            f"target.grant_steps is {target.grant_steps}: it must be null, or from the first evaluation, at step "
            f"{first}, to the budget, {budget} steps."
        )


def _check_logger(logger: LoggerConfig) -> None:
    mode = getattr(logger, "mode", None)
    if mode is not None:
        one_of("logger.mode", mode, ("online", "offline"))
    for name in ("project", "experiment"):
        if not getattr(logger, name, name).strip():
            raise InputError(f"logger.{name} is empty: it must be a name.")
