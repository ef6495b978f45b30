"""Optimizers by name: torch's own, and AdaBelief."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from cbs.optim.adabelief import AdaBelief
from cbs.schema import AdaBeliefConfig, AdamConfig, OptimizerConfig, RMSPropConfig


def build(config: OptimizerConfig, parameters: Iterable[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """One network's optimizer, with its own learning rate (the two time-scale rule)."""
    if isinstance(config, AdaBeliefConfig):
        betas = (config.beta1, config.beta2)
        return AdaBelief(parameters, lr, betas, config.eps, config.weight_decay)
    if isinstance(config, AdamConfig):
        betas = (config.beta1, config.beta2)
        return torch.optim.Adam(parameters, lr, betas, config.eps, fused=True)
    if isinstance(config, RMSPropConfig):
        return torch.optim.RMSprop(parameters, lr, config.alpha, config.eps, foreach=True)
    return torch.optim.SGD(parameters, lr, config.momentum, nesterov=config.nesterov, fused=True)
