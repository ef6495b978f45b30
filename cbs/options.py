"""The types of what a group of a config can be: networks, optimizers, update rules, loggers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    name: str
    width: int
    latent: int
    loss: str
    penalty: float
    critic_steps: int
    batch_norm: str


@dataclass(frozen=True)
class DCGANConfig(ModelConfig):
    redraw_fakes: bool
    discriminator_norm: str


@dataclass(frozen=True)
class BigGANConfig(ModelConfig):
    shared_embedding: int
    attention: int | None
    orthogonal_penalty: float


@dataclass(frozen=True)
class SAGANConfig(ModelConfig):
    redraw_fakes: bool


MODELS: dict[str, type[ModelConfig]] = {
    "dcgan": DCGANConfig,
    "wgan_gp": DCGANConfig,
    "biggan": BigGANConfig,
    "sagan": SAGANConfig,
}


@dataclass(frozen=True)
class AdamConfig:
    name: str
    lr_generator: float
    lr_discriminator: float
    beta1: float
    beta2: float
    eps: float


@dataclass(frozen=True)
class AdaBeliefConfig(AdamConfig):
    weight_decay: float


@dataclass(frozen=True)
class RMSPropConfig:
    name: str
    lr_generator: float
    lr_discriminator: float
    alpha: float
    eps: float


@dataclass(frozen=True)
class SGDConfig:
    name: str
    lr_generator: float
    lr_discriminator: float
    momentum: float
    nesterov: bool


OptimizerConfig = AdamConfig | AdaBeliefConfig | RMSPropConfig | SGDConfig
OPTIMIZERS: dict[str, type[OptimizerConfig]] = {
    "adam": AdamConfig,
    "adabelief": AdaBeliefConfig,
    "rmsprop": RMSPropConfig,
    "sgd": SGDConfig,
}


@dataclass(frozen=True)
class UpdateConfig:
    name: str


@dataclass(frozen=True)
class SRFBConfig(UpdateConfig):
    relaxation: float


@dataclass(frozen=True)
class ExtragradientConfig(UpdateConfig):
    extrapolation: str


@dataclass(frozen=True)
class SVREConfig(ExtragradientConfig):
    snapshot_factor: float
    snapshot_micro_batch: int | None


UPDATES: dict[str, type[UpdateConfig]] = {
    "alternating": UpdateConfig,
    "simultaneous": UpdateConfig,
    "srfb": SRFBConfig,
    "extragradient": ExtragradientConfig,
    "svre": SVREConfig,
}


@dataclass(frozen=True)
class LoggerConfig:
    name: str


@dataclass(frozen=True)
class WandbConfig(LoggerConfig):
    project: str
    entity: str | None
    mode: str | None


@dataclass(frozen=True)
class MLflowConfig(LoggerConfig):
    tracking_uri: str | None
    experiment: str


LOGGERS: dict[str, type[LoggerConfig]] = {
    "none": LoggerConfig,
    "tensorboard": LoggerConfig,
    "wandb": WandbConfig,
    "mlflow": MLflowConfig,
}
