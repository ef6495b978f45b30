"""The DCGAN pairs of R replicas as one: batched matrix products, with the replicas first and the channels last.

Feature maps are (R, p, b, H, W, C). The p passes share the weights and are normalised apart, as a discriminator's
passes over real and over generated images are. A strided convolution is a product with columns of its input: at small
batch sizes and widths that takes a fraction of a grouped convolution's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cbs.machine import whole_floats
from cbs.models import dcgan

_Shape = tuple[int, ...]


class _Columns(torch.autograd.Function):
    """(…, 2h, 2w, C) -> (R, …·h·w, 4·4·C): what a 4x4 kernel with stride 2 and padding 1 sees at each place."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.shape = x.shape
        r, p, b, height, width, c = x.shape
        padded = x.new_zeros(r, p * b, height + 2, width + 2, c)
        padded[:, :, 1:-1, 1:-1] = x.view(r, p * b, height, width, c)
        of_r, of_n, of_y, of_x, _ = padded.stride()
        seen = padded.as_strided(
            (r, p * b, height // 2, width // 2, 4, 4, c), (of_r, of_n, 2 * of_y, 2 * of_x, of_y, of_x, 1)
        )
        return seen.reshape(r, -1, 16 * c)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _Places.apply(gradient, ctx.shape)


class _Places(torch.autograd.Function):
    """The adjoint of _Columns, which is its gradient and whose gradient it is: columns added up where they lie."""

    @staticmethod
    def forward(ctx: Any, columns: torch.Tensor, shape: _Shape) -> torch.Tensor:
        r, p, b, height, width, c = shape
        h, w = height // 2, width // 2
        # Kernel rows 2i + k and columns 2j + l; padded rows 2(y + i) + k.
        parts = columns.view(r, p * b, h, w, 2, 2, 2, 2, c)
        padded = columns.new_zeros(r, p * b, h + 1, 2, w + 1, 2, c)
        for i in (0, 1):
            for j in (0, 1):
                padded[:, :, i : i + h, :, j : j + w] += parts[:, :, :, :, i, :, j].transpose(3, 4)
        return padded.view(r, p, b, height + 2, width + 2, c)[:, :, :, 1:-1, 1:-1].contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Columns.apply(gradient), None


class _Weighted(nn.Module):
    """A layer of R replicas with weights (R, m, n, side, side), m and n a replica's channels; n lies innermost."""

    def __init__(self, replicas: Sequence[Any]) -> None:
        super().__init__()
        weights = torch.stack([one.weight.detach() for one in replicas])
        self.weight = nn.Parameter(_channels_last(weights))

    def matrix(self) -> torch.Tensor:
        """(R, …, …·side·side)"""
        return self.weight.permute(0, 1, 3, 4, 2).flatten(2)


def _channels_last(weights: torch.Tensor) -> torch.Tensor:
    """The same (R, m, n, side, side) numbers, n innermost in memory."""
    return weights.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)


class Stem(_Weighted):
    """As cbs.models.dcgan.Stem."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(R, b, latent) -> (R, 1, b, side, side, C)"""
        r, _, c, side, _ = self.weight.shape
        return torch.bmm(z, self.matrix()).view(r, 1, -1, side, side, c)


class Up(_Weighted):
    """As cbs.models.dcgan.Up."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(R, p, b, h, w, inputs) -> (R, p, b, 2h, 2w, outputs)"""
        r, p, b, h, w, c = x.shape
        columns = torch.bmm(x.view(r, -1, c), self.matrix())
        return _Places.apply(columns, (r, p, b, 2 * h, 2 * w, self.weight.shape[2]))


class Down(_Weighted):
    """A 4x4 convolution with stride 2 and padding 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(R, p, b, 2h, 2w, inputs) -> (R, p, b, h, w, outputs)"""
        r, p, b, height, width, _ = x.shape
        return torch.bmm(_Columns.apply(x), self.matrix().transpose(1, 2)).view(r, p, b, height // 2, width // 2, -1)


class Head(_Weighted):
    """As cbs.models.dcgan.Head."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(R, p, b, side, side, C) -> (R, p, b)"""
        with whole_floats(x.device.type):
            r, p, b, *_ = x.shape
            seen = x.to(self.weight.dtype).view(r, p * b, -1)
            return torch.bmm(seen, self.matrix().transpose(1, 2)).view(r, p, b)


class _Affine(nn.Module):
    """A normaliser of R replicas: weights and biases (R, C)."""

    def __init__(self, replicas: Sequence[Any]) -> None:
        super().__init__()
        self.eps: float = replicas[0].eps
        self.weight = nn.Parameter(torch.stack([one.weight.detach() for one in replicas]))
        self.bias = nn.Parameter(torch.stack([one.bias.detach() for one in replicas]))

    def normalised(
        self, x: torch.Tensor, mean: torch.Tensor | None, variance: torch.Tensor | None, momentum: float
    ) -> torch.Tensor:
        """x: (R, n, k, C), normalised over its k; mean, variance: (R·n·C,) running statistics."""
        r, n, k, c = x.shape
        apart = x.transpose(2, 3).reshape(1, -1, k)
        weight, bias = (v.unsqueeze(1).expand(r, n, c).flatten() for v in (self.weight, self.bias))
        y = F.batch_norm(apart, mean, variance, weight, bias, True, momentum, self.eps)
        return y.view(r, n, c, k).transpose(2, 3).contiguous()


class BatchNorm(_Affine):
    """Each replica's BatchNorm2d in training, pass by pass; the running statistics take one pass after the other."""

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def __init__(self, replicas: Sequence[nn.BatchNorm2d]) -> None:
        super().__init__(replicas)
        assert replicas[0].momentum is not None
        self._momentum = replicas[0].momentum
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, torch.stack([getattr(one, name) for one in replicas]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(R, p, b, H, W, C) -> the same shape"""
        r, p, c = x.shape[0], x.shape[1], x.shape[-1]
        self.num_batches_tracked += p
        running = (self.running_mean, self.running_var)
        if p == 1:
            mean, variance = (kept.view(-1) for kept in running)
            return self.normalised(x.view(r, 1, -1, c), mean, variance, self._momentum).view(x.shape)
        latest = [x.new_zeros(r * p * c) for _ in running]
        y = self.normalised(x.view(r, p, -1, c), latest[0], latest[1], 1.0)
        for kept, found in zip(running, latest, strict=True):
            for of_pass in found.view(r, p, c).unbind(1):
                kept.lerp_(of_pass, self._momentum)
        return y.view(x.shape)


class InstanceNorm(_Affine):
    """Each replica's InstanceNorm2d."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(R, p, b, H, W, C) -> the same shape"""
        r, p, b, h, w, c = x.shape
        return self.normalised(x.view(r, p * b, h * w, c), None, None, 0.0).view(x.shape)


_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    dcgan.Stem: Stem,
    dcgan.Head: Head,
    nn.Conv2d: Down,
    dcgan.Up: Up,
    nn.BatchNorm2d: BatchNorm,
    nn.InstanceNorm2d: InstanceNorm,
}


def stacked(networks: Sequence[nn.Module]) -> nn.Sequential:
    """Generators or discriminators of DCGAN's as one, with copies of their weights.

    Its parameters and buffers have their names, and their shapes after the replicas' dimension.
    """
    layers = []
    for replicas in zip(*(network.children() for network in networks), strict=True):
        kind = _LAYERS.get(type(replicas[0]))
        layers.append(replicas[0] if kind is None else kind(replicas))
    return nn.Sequential(*layers)
