"""PIL's antialiased bicubic resampling of float images, as two matrix products on the device."""

from __future__ import annotations

from functools import cache

import torch


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


def clean_resize(images: torch.Tensor, size: int = 299) -> torch.Tensor:
    """clean-fid's "clean" resizing: (n, c, h, w) float in 0..255 -> (n, c, size, size), clipped to 0..255.

    Parmar, Zhang & Zhu (CVPR 2022): bicubic with antialiasing, no rounding afterwards.
    """
    across = coefficients(images.shape[3], size).to(images.device)
    down = coefficients(images.shape[2], size).to(images.device)
    return (down @ (images @ across.T)).clamp_(0, 255)
