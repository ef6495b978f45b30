"""The DCGAN pair for any power-of-two size from 8 to 256 (Radford, Metz & Chintala 2016).

At 64x64x3, width 64 and latent 100 these are the networks of Sato & Iiduka (ICML 2023): 3,576,704 and
2,765,568 parameters, convolutions without biases. WGAN-GP uses the same pair.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from cbs.machine import whole_floats


def _base(size: int) -> int:
    """The side of the smallest feature maps: 4, but 2 at 8x8, so that every network has a hidden strided layer."""
    return 4 if size > 8 else 2


class Stem(nn.ConvTranspose2d):
    """A transposed convolution of one pixel, as the matrix product that it is.

    Its weight has the shape that ConvTranspose2d gives it; at small batch sizes the product takes a
    fraction of a convolution's time.
    """

    def __init__(self, latent: int, channels: int, side: int) -> None:
        super().__init__(latent, channels, kernel_size=side, bias=False)

    def forward(self, z: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """(b, latent) -> (b, channels, side, side)"""
        return torch.mm(z, self.weight.flatten(1)).view(-1, *self.weight.shape[1:])


class Up(nn.ConvTranspose2d):
    """A 4x4 transposed convolution that doubles a map's side.

    What it makes of a map of at most 4x4 is nearly dense in it: in evaluation mode, many images take one matrix product
    on a CPU, a fraction of a convolution's time.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=4, stride=2, padding=1, bias=False)

    def forward(self, x: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """(b, inputs, h, w) -> (b, outputs, 2h, 2w)"""
        images, inputs, h, w = x.shape
        if self.training or x.device.type != "cpu" or h * w > 16 or images < 2 * inputs * h * w:
            return super().forward(x)
        return torch.mm(x.flatten(1), self._dense(h, w)).view(images, -1, 2 * h, 2 * w)

    def _dense(self, h: int, w: int) -> torch.Tensor:
        """(inputs·h·w, outputs·2h·2w): what each number of a map adds to each of the next."""
        inputs, outputs = self.weight.shape[:2]
        padded = self.weight.new_zeros(inputs, h, w, outputs, 2 * h + 2, 2 * w + 2)
        for y in range(h):
            for x in range(w):
                padded[:, y, x, :, 2 * y : 2 * y + 4, 2 * x : 2 * x + 4] = self.weight
        return padded[..., 1:-1, 1:-1].reshape(inputs * h * w, -1)


class Head(nn.Conv2d):
    """A convolution of a whole feature map to one number, as the matrix product that it is."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__(channels, 1, kernel_size=side, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, channels, side, side) -> (b,)"""
        with whole_floats(x.device.type):  # the loss is taken of these
            return torch.mv(x.flatten(1).to(self.weight.dtype), self.weight.flatten())


def _normaliser(kind: str, channels: int) -> list[nn.Module]:
    if kind == "batch":
        return [nn.BatchNorm2d(channels)]
    if kind == "instance":
        return [nn.InstanceNorm2d(channels, affine=True)]
    return []


class Generator(nn.Sequential):
    """(b, latent) -> (b, channels, size, size) in [-1, 1]"""

    def __init__(self, size: int, channels: int, width: int, latent: int) -> None:
        doublings = int(math.log2(size // _base(size))) - 1
        inner = width * 2**doublings
        layers: list[nn.Module] = [Stem(latent, inner, _base(size)), nn.BatchNorm2d(inner), nn.ReLU(inplace=True)]
        for _ in range(doublings):
            layers += [
                Up(inner, inner // 2),
                nn.BatchNorm2d(inner // 2),
                nn.ReLU(inplace=True),
            ]
            inner //= 2
        layers += [Up(inner, channels), nn.Tanh()]
        super().__init__(*layers)


class Discriminator(nn.Sequential):
    """(b, channels, size, size) -> (b,) logits"""

    def __init__(self, size: int, channels: int, width: int, norm: str) -> None:
        doublings = int(math.log2(size // _base(size))) - 1
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
        for _ in range(doublings):
            layers += [
                nn.Conv2d(width, width * 2, 4, 2, 1, bias=False),
                *_normaliser(norm, width * 2),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            width *= 2
        super().__init__(*layers, Head(width, _base(size)))


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Weights N(0, 0.02); normalisers' weights N(1, 0.02), biases 0 (the authors' scripts)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02, generator=generator)
        elif isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d) and module.affine:
            nn.init.normal_(module.weight, 1.0, 0.02, generator=generator)
            nn.init.zeros_(module.bias)
