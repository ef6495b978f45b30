"""The networks: counts, shapes, and that the matrix products are the convolutions they replace."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cbs.models import count
from cbs.models.dcgan import Discriminator, Generator, Head, Stem, Up, initialise
from cbs.streams import stream


def test_the_papers_parameter_counts() -> None:
    """Sato & Iiduka (ICML 2023), table 2."""
    assert count(Generator(64, 3, 64, 100)) == 3_576_704
    assert count(Discriminator(64, 3, 64, "batch")) == 2_765_568
    assert count(Discriminator(64, 3, 64, "instance")) == 2_765_568


@pytest.mark.parametrize("size", [8, 16, 32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
def test_shapes(size: int, channels: int, norm: str) -> None:
    images = Generator(size, channels, 4, 5)(torch.randn(2, 5))
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1
    assert Discriminator(size, channels, 4, norm)(images).shape == (2,)


@pytest.mark.parametrize("side", [2, 4])
def test_stem_and_head_are_the_convolutions_that_they_replace(side: int) -> None:
    stem, head = Stem(5, 6, side), Head(6, side)
    z, x = torch.randn(3, 5), torch.randn(3, 6, side, side)
    torch.testing.assert_close(stem(z), F.conv_transpose2d(z[:, :, None, None], stem.weight))
    torch.testing.assert_close(head(x), F.conv2d(x, head.weight).flatten())


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_many_small_maps_are_doubled_as_the_convolution_doubles_them(side: int) -> None:
    """In evaluation mode, by another kernel than the convolution's; in training by that one alone."""
    layer = Up(3, 5).double()
    maps = torch.randn(2 * 3 * side * side, 3, side, side, dtype=torch.float64)
    expected = F.conv_transpose2d(maps, layer.weight, stride=2, padding=1)
    assert torch.equal(layer(maps), expected)
    torch.testing.assert_close(layer.eval()(maps), expected)
    assert torch.equal(layer(maps[1:]), expected[1:])  # too few to pay


def test_initialisation_is_the_authors_and_depends_on_its_generator_only() -> None:
    network = Generator(64, 3, 64, 100)
    initialise(network, stream(0, "a"))
    convolutions = [m for m in network.modules() if isinstance(m, nn.ConvTranspose2d)]
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for m in convolutions:
        assert abs(m.weight.std().item() - 0.02) < 0.001
    assert abs(torch.cat([m.weight for m in norms]).mean().item() - 1) < 0.01
    assert abs(torch.cat([m.weight for m in norms]).std().item() - 0.02) < 0.003
    assert all((m.bias == 0).all() for m in norms)
    torch.manual_seed(99)
    again = Generator(64, 3, 64, 100)
    initialise(again, stream(0, "a"))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
