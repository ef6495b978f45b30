"""The Fréchet distance between two Gaussians fitted to features (Dowson & Landau 1982; Heusel et al. 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

# Rows that enter the moments at once where all features are at hand.
_BLOCK = 8192
# Columns of the scatter that are computed at once.
_PANEL = 512


@dataclass(frozen=True)
class Statistics:
    """Mean (d,) and covariance (d, d) of features, float64, and the number of images behind them."""

    mean: torch.Tensor
    cov: torch.Tensor
    count: int

    @classmethod
    def of(cls, features: torch.Tensor) -> Statistics:
        """features: (n, d), two rows or more"""
        moments = Moments(features.shape[1], features.device)
        for block in features.split(_BLOCK):
            moments.add(block)
        return moments.statistics()


class Moments:
    """Streaming mean and covariance in float64, by pairwise updates (Chan, Golub & LeVeque 1983)."""

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self._mean = torch.zeros(size, dtype=torch.float64, device=device)
        self._scatter = torch.zeros(size, size, dtype=torch.float64, device=device)
        self._waiting: list[torch.Tensor] = []

    def add(self, features: torch.Tensor) -> None:
        """features: (n, d)"""
        self._waiting.append(features)
        # An update reads and writes the whole d x d scatter, which only some more rows are worth.
        if sum(map(len, self._waiting)) >= 2 * len(self._mean):
            self._update()

    def _update(self) -> None:
        features = torch.cat(self._waiting).to(torch.float64)
        self._waiting.clear()
        n = len(features)
        total = self.count + n
        mean = features.mean(0)
        centred = features - mean
        shift = mean - self._mean
        for start in range(0, len(mean), _PANEL):  # what is above the diagonal is below it too
            panel = slice(start, start + _PANEL)
            product = centred[:, start:].T @ centred[:, panel]
            self._scatter[start:, panel] += product
            self._scatter[panel, start + _PANEL :] += product[_PANEL:].T
        self._scatter += torch.outer(shift, shift) * (self.count * n / total)
        self._mean += shift * (n / total)
        self.count = total

    def statistics(self) -> Statistics:
        """Mean and unbiased covariance; needs two images or more."""
        if self._waiting:
            self._update()
        return Statistics(self._mean.clone(), self._scatter / (self.count - 1), self.count)


def root(cov: torch.Tensor, rank: int) -> torch.Tensor:
    """L (d, r) with L Lᵀ = cov, r the numerical rank, at most `rank`.

    Directions that n images can't span carry only rounding noise, whose square root would be seven
    digits larger than itself: they are left out.
    """
    values, vectors = torch.linalg.eigh(cov)
    floor = values[-1].clamp_min(0) * len(values) * torch.finfo(torch.float64).eps
    keep = values > floor
    keep[: max(0, len(values) - rank)] = False
    return vectors[:, keep] * values[keep].sqrt()


def frechet_distance(a: Statistics, b: Statistics, root_b: torch.Tensor | None = None) -> float:
    """|μa − μb|² + tr(Σa + Σb − 2 (Σa Σb)^½), in units of squared features.

    The trace of the root is the sum of the singular values of LaᵀLb, Σ = L Lᵀ, taken from the
    eigenvalues of Lbᵀ Σa Lb where both have full rank and exactly otherwise.
    root_b: `root(b.cov, …)`, where it is known already. NaN where a feature of `a` is not finite.
    """
    if not a.mean.isfinite().all():
        return math.nan
    if root_b is None:
        root_b = root(b.cov, b.count - 1)
    d = len(a.mean)
    if root_b.shape[1] == d and a.count > d:
        values = torch.linalg.eigvalsh(root_b.T @ a.cov @ root_b)
        overlap = values.clamp_min(0).sqrt().sum()
    else:
        overlap = torch.linalg.svdvals(root(a.cov, a.count - 1).T @ root_b).sum()
    gap = (a.mean - b.mean).square().sum()
    return float(gap + a.cov.trace() + b.cov.trace() - 2 * overlap)
