"""Optimizers by name: torch's own, and AdaBelief."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from cbs.optim.adabelief import AdaBelief
from cbs.options import AdaBeliefConfig, AdamConfig, OptimizerConfig, RMSPropConfig


def build(config: OptimizerConfig, parameters: Iterable[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """One network's optimizer, with its own learning rate (the two time-scale rule).

    On a GPU its state lies there whole, so that a CUDA graph can hold an update.
    """
    parameters = list(parameters)
    on_gpu = parameters[0].is_cuda
    if isinstance(config, AdaBeliefConfig):
        betas = (config.beta1, config.beta2)
        return AdaBelief(parameters, lr, betas, config.eps, config.weight_decay, capturable=on_gpu)
    if isinstance(config, AdamConfig):
        betas = (config.beta1, config.beta2)
        return torch.optim.Adam(parameters, lr, betas, config.eps, fused=True, capturable=on_gpu)
    if isinstance(config, RMSPropConfig):
        return torch.optim.RMSprop(parameters, lr, config.alpha, config.eps, foreach=True, capturable=on_gpu)
    return torch.optim.SGD(parameters, lr, config.momentum, nesterov=config.nesterov, fused=True)


def laid_out_as(parameter: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """A gradient that lies in memory as its parameter does.

    Fused optimizers read it so. What a convolution's second derivative returns doesn't lie like that, and only
    `backward` would have laid it out.
    """
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
