"""Networks, one family per file."""

from __future__ import annotations

from torch import nn

from cbs.models.dcgan import Discriminator, Generator
from cbs.schema import DatasetConfig, DCGANConfig, ModelConfig


def build(model: ModelConfig, data: DatasetConfig) -> tuple[nn.Module, nn.Module]:
    """A config's generator and discriminator, not initialised."""
    assert isinstance(model, DCGANConfig)
    generator = Generator(data.image_size, data.channels, model.width, model.latent)
    return generator, Discriminator(data.image_size, data.channels, model.width, model.discriminator_norm)
