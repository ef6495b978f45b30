"""PIL's antialiased bicubic resampling of float images, as two matrix products on the device."""

from __future__ import annotations

from functools import cache

import torch

# Blocks of rows that a resampling matrix is cut into.
_BANDS = 8


def _bicubic(x: float, a: float = -0.5) -> float:
    """Keys' cubic kernel with a = −1/2, as PIL uses it."""
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    if x < 2:
        return (((x - 5) * x + 8) * x - 4) * a
    return 0.0


@cache
def coefficients(source: int, target: int) -> torch.Tensor:
    """The (target, source) float32 matrix that resamples one axis, support widened when shrinking."""
    scale = source / target
    stretch = max(scale, 1.0)
    matrix = torch.zeros(target, source, dtype=torch.float64)
    for row in range(target):
        centre = (row + 0.5) * scale
        low = max(0, int(centre - 2 * stretch + 0.5))
        high = min(source, int(centre + 2 * stretch + 0.5))
        weights = [_bicubic((x - centre + 0.5) / stretch) for x in range(low, high)]
        matrix[row, low:high] = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    return matrix.to(torch.float32)


@cache
def _bands(source: int, target: int, device: torch.device) -> list[tuple[slice, slice, torch.Tensor]]:
    """The matrix as blocks of rows and the columns that these see: near a diagonal, the rest is zeros."""
    found = []
    for rows in torch.arange(target).tensor_split(_BANDS):
        block = coefficients(source, target)[rows]
        seen = block.any(0).nonzero()
        columns = slice(int(seen[0]), int(seen[-1]) + 1)
        found.append((slice(int(rows[0]), int(rows[-1]) + 1), columns, block[:, columns].contiguous().to(device)))
    return found


def _rows(images: torch.Tensor, size: int, layout: torch.memory_format) -> torch.Tensor:
    """(n, c, h, w) -> (n, c, size, w)"""
    n, channels, height, width = images.shape
    shape = (n, channels, size, width)
    found = torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=layout)
    for rows, columns, weights in _bands(height, size, images.device):
        found[:, :, rows] = weights @ images[:, :, columns]
    return found


def clean_resize(
    images: torch.Tensor, size: int = 299, layout: torch.memory_format = torch.contiguous_format, white: float = 255.0
) -> torch.Tensor:
    """clean-fid's "clean" resizing: (n, c, h, w) float32 in 0..white -> (n, c, size, size), clipped to 0..white.

    Parmar, Zhang & Zhu (CVPR 2022): bicubic with antialiasing, no rounding afterwards. layout: of the result in memory.
    """
    across = _rows(images.mT, size, torch.contiguous_format).mT
    return _rows(across, size, layout).clamp_(0, white)
