"""Layers whose weight is divided by its largest singular value (Miyato, Kataoka, Koyama & Yoshida 2018).

torch.nn.utils.parametrizations.spectral_norm estimates otherwise than the authors of BigGAN: it starts its step from
the other vector, and evaluates with both as the last step left them, which is wrong for averaged weights. It also
takes almost three times as long to read a weight, which small networks notice.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cbs.machine import whole_floats

_EPS = 1e-6  # Brock, Donahue & Simonyan 2019


class Spectral(nn.Module):
    """A layer with the weight W/σ, σ = uᵀWv, W as a matrix of one row per output.

    One step of power iteration, v = Wᵀu/|Wᵀu|, u = Wv/|Wv|, estimates σ in each forward pass; σ has a gradient for W,
    u and v are constants. Training keeps u for the next step; evaluation changes nothing.
    """

    weight: torch.Tensor
    bias: Any  # a tensor or None; torch annotates it in two ways
    u: torch.Tensor

    def _remember(self) -> None:
        """Register u, which `initialise` draws."""
        self.register_buffer("u", torch.ones(len(self._matrix())))

    def _matrix(self) -> torch.Tensor:
        """W with one row per output."""
        return self.weight.flatten(1)

    def initialise(self, generator: torch.Generator) -> None:
        """Orthogonal weight, bias of nn.Linear and nn.Conv2d (uniform within ±1/√inputs), u ~ N(0, 1)."""
        nn.init.orthogonal_(self.weight, generator=generator)
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound, generator=generator)
        nn.init.normal_(self.u, generator=generator)

    def scale(self) -> torch.Tensor:
        """1/σ, ()"""
        with whole_floats(self.weight.device.type):  # 8 bits are too few for an iteration
            return self._scale()

    def _scale(self) -> torch.Tensor:
        matrix = self._matrix()
        with torch.no_grad():
            v = torch.mv(matrix.t(), self.u)
            v /= torch.linalg.vector_norm(v).clamp_min(_EPS)
        image = torch.mv(matrix, v)
        with torch.no_grad():
            u = image / torch.linalg.vector_norm(image).clamp_min(_EPS)
            if self.training:
                self.u.copy_(u)  # a copy, because the next pass may come before this one's gradient
        return torch.dot(u, image).reciprocal()

    def normalised(self) -> torch.Tensor:
        """W/σ in the shape of W"""
        return self.weight * self.scale()


class Conv2d(Spectral, nn.Conv2d):
    """A convolution that keeps the size, or divides it by its stride: of an odd side, or of side 4 with stride 2."""

    def __init__(self, inputs: int, outputs: int, side: int, bias: bool = True, stride: int = 1) -> None:
        nn.Conv2d.__init__(self, inputs, outputs, side, stride, padding=(side - 1) // 2, bias=bias)
        self._remember()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, inputs, height, width) -> (b, outputs, height / stride, width / stride)"""
        return F.conv2d(x, self.normalised(), self.bias, self.stride, self.padding)


class ConvTranspose2d(Spectral, nn.ConvTranspose2d):
    """A transposed convolution of side 4 that doubles the size, without bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        nn.ConvTranspose2d.__init__(self, inputs, outputs, 4, stride=2, padding=1, bias=False)
        self._remember()

    def _matrix(self) -> torch.Tensor:
        return self.weight.transpose(0, 1).flatten(1)

    def forward(self, x: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """(b, inputs, height, width) -> (b, outputs, 2 height, 2 width)"""
        return F.conv_transpose2d(x, self.normalised(), None, stride=2, padding=1)


class Linear(Spectral, nn.Linear):
    """A linear map."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        nn.Linear.__init__(self, inputs, outputs, bias)
        self._remember()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, inputs) -> (b, outputs)"""
        return F.linear(x, self.normalised(), self.bias)


class Embedding(Spectral, nn.Embedding):
    """A vector for each class."""

    bias = None

    def __init__(self, classes: int, outputs: int) -> None:
        nn.Embedding.__init__(self, classes, outputs)
        self._remember()

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        """(b,) -> (b, outputs)"""
        return F.embedding(y, self.weight) * self.scale()  # scales b rows, not all
