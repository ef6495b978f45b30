"""How a generator is used between its training steps: statistics of the batch, an average along training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def normalisers(network: nn.Module) -> list[_BatchNorm]:
    """A network's BatchNorm layers."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


@contextmanager
def evaluating(network: nn.Module, batch_statistics: bool = False) -> Iterator[None]:
    """A network in evaluation mode, normalising by running statistics or by those of what it is given.

    Nothing that training depends on changes. A BatchNorm in evaluation mode without running statistics
    takes the batch's, and has none to move.
    """
    layers = normalisers(network) if batch_statistics else []
    kept = [(layer.running_mean, layer.running_var) for layer in layers]
    was_training = network.training
    network.eval()
    try:
        for layer in layers:
            layer.running_mean = layer.running_var = None
        yield
    finally:
        for layer, (mean, variance) in zip(layers, kept, strict=True):
            layer.running_mean, layer.running_var = mean, variance
        network.train(was_training)


@contextmanager
def untracked(network: nn.Module) -> Iterator[None]:
    """A network in training mode whose running statistics stay where they are."""
    layers = normalisers(network)
    kept = [(layer.running_mean, layer.running_var, layer.num_batches_tracked) for layer in layers]
    try:
        for layer in layers:
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
        yield
    finally:
        for layer, (mean, variance, seen) in zip(layers, kept, strict=True):
            layer.running_mean, layer.running_var, layer.num_batches_tracked = mean, variance, seen


class Average:
    """An exponential moving average of a network's weights and running statistics (Yazıcı et al. 2019).

    Before `start_step` it is the network itself, as in Brock et al. 2019. What isn't a number with a
    fraction, such as a count of batches, is copied.
    """

    def __init__(self, shadow: nn.Module, network: nn.Module, decay: float, start_step: int) -> None:
        """shadow: a network of the same structure, which becomes the average."""
        self.network = shadow.requires_grad_(False)
        shadow.load_state_dict(network.state_dict())
        self._decay, self._start = decay, start_step
        pairs = list(zip(shadow.state_dict().values(), network.state_dict().values(), strict=True))
        self._smooth = [pair for pair in pairs if pair[0].is_floating_point()]
        self._whole = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move towards the network as it is after this step."""
        weight = 1.0 if step < self._start else 1.0 - self._decay
        own, its = ([pair[i] for pair in self._smooth] for i in (0, 1))
        torch._foreach_lerp_(own, its, weight)
        for own_count, its_count in self._whole:
            own_count.copy_(its_count)
