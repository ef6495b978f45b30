"""The self-attention pair without residual blocks, for any power-of-two size from 8 to 256.

At 32x32x3, width 64 and latent 128 these are the networks of table 3.1 of the thesis on growing batches, which says
that they are those of Chavdarova et al. (NeurIPS 2019), after Zhang et al. (arXiv 1805.08318v1, 2018); the code of
github.com/heykeetae/Self-Attention-GAN has the same family. 1,209,461 and 745,218 parameters. The table says nothing of
biases: here every layer has them that isn't followed by BatchNorm, which would take them away again (that code has
these too, 448 more).
"""

from __future__ import annotations

import math

import torch
from torch import nn

from cbs.machine import whole_floats
from cbs.models.attention import attend
from cbs.models.spectral import Conv2d, ConvTranspose2d, Spectral

# Attention compares every pixel of a feature map with every other: above this side that would be most of the work.
_MOST_SIDE = 32
_SLOPE = 0.1


def sides(size: int) -> list[int]:
    """The sides of a generator's feature maps, from the first on: 4 (2 at 8x8), then doubled up to half an image's."""
    first = 4 if size > 8 else 2
    return [first << doublings for doublings in range(int(math.log2(size // first)))]


def attended(size: int) -> list[int]:
    """Those that attend: the largest two, of at most 32, that a doubling has made. At 32x32: 8 and 16."""
    return [side for side in sides(size)[1:] if side <= _MOST_SIDE][-2:]


class Attention(nn.Module):
    """Self-attention over a feature map (Zhang et al., arXiv 1805.08318v1, eq. 1-3): y = x + γ h softmax(gᵀf)ᵀ.

    As in the paper's first version, which has no fourth convolution and no pooling (BigGAN's has both), and as in the
    code named above: γ = 0 at the start, and no spectral normalisation, which the table names layer by layer.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 8)
        self.f = nn.Conv2d(channels, inner, 1)
        self.g = nn.Conv2d(channels, inner, 1)
        self.h = nn.Conv2d(channels, channels, 1)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, channels, side, side) -> the same shape"""
        read = attend(self.g(x).flatten(2), self.f(x).flatten(2), self.h(x).flatten(2))
        return torch.addcmul(x, read.view(x.shape), self.gain)


class Stem(ConvTranspose2d):
    """A transposed convolution of one pixel to a feature map of this side, as the matrix product that it is."""

    def __init__(self, latent: int, channels: int, side: int) -> None:
        nn.ConvTranspose2d.__init__(self, latent, channels, side, bias=False)
        self._remember()

    def forward(self, z: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """(b, latent) -> (b, channels, side, side)"""
        return torch.mm(z, self.normalised().flatten(1)).view(-1, *self.weight.shape[1:])


class Head(nn.Linear):
    """A convolution of a whole feature map to one number, as the matrix product that it is."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__(channels * side**2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, channels, side, side) -> (b,)"""
        with whole_floats(x.device.type):  # the loss is taken of these
            return super().forward(x.flatten(1).to(self.weight.dtype)).squeeze(1)


class Generator(nn.Sequential):
    """(b, latent) -> (b, channels, size, size) in [-1, 1]"""

    def __init__(self, size: int, channels: int, width: int, latent: int) -> None:
        first, *rest = sides(size)
        inner = width << len(rest)
        layers: list[nn.Module] = [Stem(latent, inner, first), nn.BatchNorm2d(inner), nn.ReLU(inplace=True)]
        for side in rest:
            layers += [ConvTranspose2d(inner, inner // 2), nn.BatchNorm2d(inner // 2), nn.ReLU(inplace=True)]
            inner //= 2
            if side in attended(size):
                layers.append(Attention(inner))
        super().__init__(*layers, nn.ConvTranspose2d(inner, channels, 4, 2, 1), nn.Tanh())


class Discriminator(nn.Sequential):
    """(b, channels, size, size) -> (b,) logits; its last feature maps attend."""

    def __init__(self, size: int, channels: int, width: int) -> None:
        side, *rest = sides(size)
        outputs = [width << doublings for doublings in range(len(rest) + 1)]
        layers: list[nn.Module] = []
        for before, after in zip([channels, *outputs], outputs, strict=False):
            layers += [Conv2d(before, after, 4, stride=2), nn.LeakyReLU(_SLOPE, inplace=True)]
        super().__init__(*layers, Attention(outputs[-1]), Head(outputs[-1], side))


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Weights and biases as torch draws them (uniform within ±1/√inputs), u ~ N(0, 1).

    The other parameters stay as a network is built: BatchNorm's gains 1 and biases 0, attention's gain 0.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        if isinstance(module, Spectral):
            nn.init.normal_(module.u, generator=generator)
