"""Networks, one family per file."""

from __future__ import annotations

import torch
from torch import nn

from cbs.models import biggan, dcgan, sagan
from cbs.options import BigGANConfig, DCGANConfig, SAGANConfig
from cbs.schema import DatasetConfig


def build(
    model: DCGANConfig | BigGANConfig | SAGANConfig, data: DatasetConfig, classes: int
) -> tuple[nn.Module, nn.Module]:
    """A config's generator and discriminator, not initialised.

    classes: of the data; networks that condition on none leave it aside.
    """
    size, channels = data.image_size, data.channels
    if isinstance(model, BigGANConfig):
        shape = (model.shared_embedding, model.attention)
        return (
            biggan.Generator(size, channels, model.width, model.latent, classes, *shape),
            biggan.Discriminator(size, channels, model.width, classes, model.attention),
        )
    if isinstance(model, SAGANConfig):
        return (
            sagan.Generator(size, channels, model.width, model.latent),
            sagan.Discriminator(size, channels, model.width),
        )
    generator = dcgan.Generator(size, channels, model.width, model.latent)
    return generator, dcgan.Discriminator(size, channels, model.width, model.discriminator_norm)


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw a new network's weights, as its authors do."""
    for family in (biggan, sagan, dcgan):
        if isinstance(network, family.Generator | family.Discriminator):
            family.initialise(network, generator)


def count(network: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in network.parameters())
