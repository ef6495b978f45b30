"""Networks, one family per file."""

from __future__ import annotations

import torch
from torch import nn

from cbs.models import dcgan
from cbs.models.dcgan import Discriminator, Generator
from cbs.schema import DatasetConfig, DCGANConfig, ModelConfig


def build(model: ModelConfig, data: DatasetConfig, classes: int) -> tuple[nn.Module, nn.Module]:
    """A config's generator and discriminator, not initialised."""
    assert isinstance(model, DCGANConfig)
    generator = Generator(data.image_size, data.channels, model.width, model.latent)
    return generator, Discriminator(data.image_size, data.channels, model.width, model.discriminator_norm)


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw a network's weights from the generator, as its family does."""
    dcgan.initialise(network, generator)


def orthogonality(network: nn.Module) -> torch.Tensor:
    raise NotImplementedError


def count(network: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in network.parameters())
