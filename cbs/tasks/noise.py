"""Gradient noise of both networks, measured between two steps of a training that doesn't notice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from cbs.machine import tf32
from cbs.outcome import Evaluation, Noise
from cbs.streams import stream

if TYPE_CHECKING:
    from cbs.tasks.gan import GAN

# Both gradients of a batch cost about as much as a step: one batch for this many steps is 4 % of the training.
STEPS_PER_BATCH = 25
# What is kept of a layer's figures: a line of the trajectory has many, and their error is in the second digit.
_DIGITS = 4


def due(evaluations: Sequence[Evaluation], step: int, batches: int) -> bool:
    """Whether enough steps have passed since the last measurement to pay for one with this many batches."""
    last = max((e.step for e in evaluations if e.noise), default=0)
    return batches > 0 and step - last >= STEPS_PER_BATCH * batches


def measure(task: GAN, seed: int, step: int, batches: int) -> dict[str, Noise]:
    """The noise of `generator` and `discriminator` from independent batches of the trial's b images.

    A function of the networks, the seed and the step; nothing that training depends on changes. Empty where a
    gradient isn't finite, or where a GPU has no room for as many gradients.
    """
    chance = stream(seed, "gradient noise", step, device=task.device)
    networks = {"generator": task.generator, "discriminator": task.discriminator}
    buffers = [buffer for network in networks.values() for buffer in network.buffers()]
    kept = [buffer.clone() for buffer in buffers]
    try:
        rows = [_room(network, batches) for network in networks.values()]
        for k in range(batches):
            for of_network, gradients in zip(rows, task.fresh_gradients(chance), strict=True):
                for of_parameter, gradient in zip(of_network, gradients, strict=True):
                    of_parameter[k].copy_(gradient.flatten())
            _put_back(buffers, kept)  # every batch meets the same networks
        products = [_products(network, own) for network, own in zip(networks.values(), rows, strict=True)]
    except torch.OutOfMemoryError:
        return {}
    finally:
        _put_back(buffers, kept)
    if not all(bool(torch.stack(list(layers.values())).isfinite().all()) for layers in products):
        return {}
    return {name: of_products(layers, task.b) for name, layers in zip(networks, products, strict=True)}


def _room(network: nn.Module, batches: int) -> list[torch.Tensor]:
    """For each parameter of n numbers, (batches, n) to hold its gradients."""
    return [parameter.new_empty(batches, parameter.numel()) for parameter in network.parameters()]


def _put_back(buffers: list[torch.Tensor], kept: list[torch.Tensor]) -> None:
    for buffer, value in zip(buffers, kept, strict=True):
        buffer.copy_(value)


def _products(network: nn.Module, rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inner products of every two batches' gradients, layer by layer, (batches, batches) float64 on the host."""
    layers: dict[str, torch.Tensor] = {}
    with tf32(False):
        for (name, _), of_parameter in zip(network.named_parameters(), rows, strict=True):
            layer = name.rpartition(".")[0] or name
            layers[layer] = layers.get(layer, 0.0) + (of_parameter @ of_parameter.t()).double()
    together = torch.stack(list(layers.values())).cpu()
    return dict(zip(layers, together, strict=True))


def of_products(layers: dict[str, torch.Tensor], b: int) -> Noise:
    """A network's noise from the inner products g_i·g_j of m ≥ 3 independent batches' gradients, per layer (m, m).

        |G|² = Σ_{i≠j} g_i·g_j / (m(m−1))        tr Σ = b (Σ_i |g_i|²/m − |G|²)

    which is the unbiased estimator of two batch sizes, B_small = b (the batches) and B_big = mb (their mean), of
    McCandlish et al. (2018), appendix A.1, and for m = 2 tr Σ = b |g_1 − g_2|²/2, |G|² = g_1·g_2. Standard errors
    are the jackknife's over batches, on average never too small (Efron & Stein 1981), and where noise drowns the
    gradient up to √(2(m−1)/(m−2)) times the true ones; of the ratio, by the delta method.
    """
    total = torch.stack(list(layers.values())).sum(0)
    m, own, every = len(total), total.diag(), total.sum()
    sigma2, norm2 = (float(estimate) for estimate in _estimates(own.sum(), every, m, b))
    left = own.sum() - own, every - 2 * total.sum(1) + own  # without each batch
    without = torch.stack(_estimates(*left, m - 1, b))
    apart = without - without.mean(1, keepdim=True)
    (var_sigma2, both), (_, var_norm2) = ((m - 1) / m * apart @ apart.t()).tolist()
    scale = error = None
    if norm2 > 0:
        scale = sigma2 / norm2
        error = math.sqrt(max(var_sigma2 - 2 * scale * both + scale**2 * var_norm2, 0.0)) / norm2
    of_layers = {
        name: [_short(float(x)) for x in _estimates(known.trace(), known.sum(), m, b)] for name, known in layers.items()
    }
    return Noise(m, sigma2, math.sqrt(var_sigma2), norm2, math.sqrt(var_norm2), both, scale, error, of_layers)


def _estimates(own: torch.Tensor, every: torch.Tensor, m: int, b: int) -> tuple[torch.Tensor, torch.Tensor]:
    """tr Σ and |G|² from m batches' Σ_i |g_i|² and Σ_ij g_i·g_j, of any shape."""
    norm2 = (every - own) / (m * (m - 1))
    return b * (own / m - norm2), norm2


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
