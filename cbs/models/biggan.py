"""The BigGAN pair for 32, 64, 128 and 256 pixels (Brock, Donahue & Simonyan 2019), and ours for 8 and 16.

At 128x128x3, width 96, latent 120, a shared embedding of 128, attention at 64 and 1,000 classes these are the networks
of the authors' PyTorch code: 70,433,988 and 87,982,370 parameters. Sato & Iiduka (ICML 2023) print 193 and 1 fewer:
they leave out the output's BatchNorm (192) and the gains of attention.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from cbs.machine import whole_floats
from cbs.models.attention import attend
from cbs.models.spectral import Conv2d, Embedding, Linear, Spectral

# Channels, as multiples of the width. A generator's: of its first feature maps, then after each block, which doubles
# the side; 8 and 16 pixels have the authors' 32 with fewer blocks.
_GENERATOR = {
    8: (4, 4, 4),
    16: (4, 4, 4),
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
}
# A discriminator's: after each block. Below 64 pixels the first two halve the side, from 64 all but the last.
_DISCRIMINATOR = {
    8: (4, 4, 4, 4),
    16: (4, 4, 4, 4),
    32: (4, 4, 4, 4),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
    256: (1, 2, 4, 8, 8, 16, 16),
}


class Attention(nn.Module):
    """Self-attention over a feature map, onto its 2x2 maxima (Zhang et al. 2019, and the authors' code).

    y = x + γ O(g softmax(θᵀφ)ᵀ), with γ = 0 at the start.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner, half = max(1, channels // 8), max(1, channels // 2)
        self.theta = Conv2d(channels, inner, 1, bias=False)
        self.phi = Conv2d(channels, inner, 1, bias=False)
        self.g = Conv2d(channels, half, 1, bias=False)
        self.o = Conv2d(half, channels, 1, bias=False)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, channels, side, side) -> the same shape; side even"""
        theta = self.theta(x).flatten(2)
        phi = F.max_pool2d(self.phi(x), 2).flatten(2)
        g = F.max_pool2d(self.g(x), 2).flatten(2)
        read = attend(theta, phi, g).view(x.shape[0], -1, *x.shape[2:])
        return torch.addcmul(x, self.o(read), self.gain)


class ConditionalNorm(nn.Module):
    """BatchNorm whose gains and biases are linear maps of a condition: (1 + Gc) ∘ BatchNorm(x) + Bc."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.gain = Linear(condition, channels, bias=False)
        self.bias = Linear(condition, channels, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=False)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """(b, channels, height, width) and (b, condition) -> (b, channels, height, width)"""
        gain = 1 + self.gain(condition)
        bias = self.bias(condition)
        return torch.addcmul(bias[:, :, None, None], self.norm(x), gain[:, :, None, None])


class GeneratorBlock(nn.Module):
    """A residual block that doubles the side of its feature maps."""

    def __init__(self, inputs: int, outputs: int, condition: int, attend: bool) -> None:
        super().__init__()
        self.norm1 = ConditionalNorm(inputs, condition)
        self.conv1 = Conv2d(inputs, outputs, 3)
        self.norm2 = ConditionalNorm(outputs, condition)
        self.conv2 = Conv2d(outputs, outputs, 3)
        self.shortcut = Conv2d(inputs, outputs, 1)
        self.attention = Attention(outputs) if attend else nn.Identity()

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """(b, inputs, side, side) and (b, condition) -> (b, outputs, 2 side, 2 side)"""
        h = F.relu(self.norm1(x, condition), inplace=True)
        h = self.conv1(F.interpolate(h, scale_factor=2))
        h = self.conv2(F.relu(self.norm2(h, condition), inplace=True))
        # The authors enlarge first. A 1x1 convolution gives the same after, at a quarter of the cost.
        return self.attention(h + F.interpolate(self.shortcut(x), scale_factor=2))


class Generator(nn.Module):
    """Latent vectors and classes to images.

    The latent is cut into equal chunks: one for the first layer and one for each block (`cbs.rules.latent_chunks`).
    attention: side of the feature maps that get it; None: none do.
    """

    def __init__(
        self,
        size: int,
        channels: int,
        width: int,
        latent: int,
        classes: int,
        shared_embedding: int,
        attention: int | None,
    ) -> None:
        super().__init__()
        first, *rest = (width * multiple for multiple in _GENERATOR[size])
        self.side = size >> len(rest)
        self.chunk = latent // (len(rest) + 1)
        self.embedding = nn.Embedding(classes, shared_embedding)
        self.linear = Linear(self.chunk, first * self.side**2)
        self.blocks = nn.ModuleList()
        inputs, side = first, self.side
        for outputs in rest:
            side *= 2
            block = GeneratorBlock(inputs, outputs, shared_embedding + self.chunk, attend=side == attention)
            self.blocks.append(block)
            inputs = outputs
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = Conv2d(inputs, channels, 3)

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(b, latent) and (b,) int64 -> (b, channels, size, size) in [-1, 1]"""
        first, *rest = z.split(self.chunk, 1)
        shared = self.embedding(y)
        h = self.linear(first).view(z.shape[0], -1, self.side, self.side)
        for block, chunk in zip(self.blocks, rest, strict=True):
            h = block(h, torch.cat([shared, chunk], 1))
        return self.conv(F.relu(self.norm(h), inplace=True)).tanh()


class DiscriminatorBlock(nn.Module):
    """A residual block; the first of a discriminator has no activation before its first convolution."""

    def __init__(self, inputs: int, outputs: int, first: bool, halve: bool) -> None:
        super().__init__()
        self.first, self.halve = first, halve
        self.conv1 = Conv2d(inputs, outputs, 3)
        self.conv2 = Conv2d(outputs, outputs, 3)
        self.shortcut = Conv2d(inputs, outputs, 1) if halve or inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, inputs, side, side) -> (b, outputs, side, side), or half the side"""
        h = self.conv1(x if self.first else F.relu(x))
        h = self.conv2(F.relu(h, inplace=True))
        if self.halve:
            # In most blocks the authors convolve the shortcut first. A 1x1 convolution gives the same after.
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        return h + self.shortcut(x)


class Discriminator(nn.Module):
    """Images and classes to logits, by projection (Miyato & Koyama 2018).

    attention: as for the generator. Asked for 16 at 32 pixels the authors' code attends four times, because its table
    has 16 for the sides of 8 too; this network attends once.
    """

    def __init__(self, size: int, channels: int, width: int, classes: int, attention: int | None) -> None:
        super().__init__()
        outputs = [width * multiple for multiple in _DISCRIMINATOR[size]]
        halvings = 2 if size < 64 else len(outputs) - 1
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip([channels, *outputs], outputs, strict=False)):
            layers.append(DiscriminatorBlock(before, after, first=i == 0, halve=i < halvings))
            if size >> min(i + 1, halvings) == attention:
                layers.append(Attention(after))
        self.features = nn.Sequential(*layers)
        self.linear = Linear(outputs[-1], 1)
        self.embedding = Embedding(classes, outputs[-1])

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(b, channels, size, size) and (b,) int64 -> (b,)"""
        h = F.relu(self.features(x))
        with whole_floats(x.device.type):  # the loss is taken of these
            h = h.to(self.linear.weight.dtype).sum((2, 3))
            return self.linear(h).squeeze(1) + (self.embedding(y) * h).sum(1)


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Orthogonal convolutions, linear maps and embeddings, biases as torch draws them (the authors' code).

    The other parameters stay as a network is built: BatchNorm's gains 1 and biases 0, attention's gain 0.
    """
    for module in network.modules():
        if isinstance(module, Spectral):
            module.initialise(generator)
        elif isinstance(module, nn.Embedding):
            nn.init.orthogonal_(module.weight, generator=generator)


def orthogonality(network: nn.Module) -> torch.Tensor:
    """Σ ‖WWᵀ ∘ (1 − I)‖² over a network's weights as matrices of one row per output, () (eq. 3, for Wᵀ).

    All weights but the generator's shared embedding, as they are before spectral normalisation. The authors' code adds
    half of this function's gradient, so their strength 1e-4 is ours of 5e-5.
    """
    return torch.stack([_overlap(m.weight.flatten(1)) for m in network.modules() if isinstance(m, Spectral)]).sum()


def _overlap(w: torch.Tensor) -> torch.Tensor:
    """The sum of the squared products of different rows, (n, m) -> ()"""
    if len(w) <= w.shape[1]:
        return 2 * (w @ w.t()).triu(1).square().sum()
    # ‖WWᵀ‖ = ‖WᵀW‖, which is far smaller for the first layer of a generator. Little cancels: so many rows overlap.
    return (w.t() @ w).square().sum() - w.square().sum(1).square().sum()
