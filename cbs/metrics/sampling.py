"""How far a Fréchet distance would lie from itself, had other images been generated."""

from __future__ import annotations

import math

import torch
from torch.linalg import vecdot

from cbs.metrics.frechet import Statistics

# Rows that are looked at together.
_BLOCK = 8192


def sampling_error(features: torch.Tensor, a: Statistics, b: Statistics, root_b: torch.Tensor) -> float | None:
    """The standard error of frechet_distance(a, b) that a.count samples leave, b taken as exact.

    features: (m, d), those behind `a` or an even part of them. None where there are no more samples than the
    directions that b spans: the distance then says too little of the generator to differentiate it.

    The delta method. With z = x − μa and G = L S^{-1/2} Lᵀ, S = Lᵀ Σa L, Σb = L Lᵀ, the transport from a to b,
    the distance moves with a sample x by ψ(x)/n, ψ = 2 (μa − μb)ᵀz + zᵀ(I − G)z, so its variance is Var ψ / n.
    But ψ is itself estimated from the samples, and where the distance is mostly its own bias that noise is all
    there is: the distance's second-order term is the mean over pairs of h(x, x′), which enters Var ψ with
    4 E h²/n and the distance's variance with half of that (Hoeffding's decomposition), so half is taken off.
    With y = (S^{-1/4} in S's eigenbasis) Lᵀz, hence zᵀGz′ = y·y′, p = y∘y′ and s² the eigenvalues of S,

        h = Σ p + ½ (Σₖₗ pₖ pₗ / (sₖ + sₗ) − ½ |y|² − ½ |y′|² + ½ Σ s),

    from ∂² tr S^{1/2} = −½ Σₖₗ ∂Sₖₗ² / (sₖ sₗ (sₖ + sₗ)).
    """
    if a.count <= root_b.shape[1]:
        return None
    values, vectors = torch.linalg.eigh(root_b.T @ a.cov @ root_b)
    keep = values > values[-1] * len(values) * torch.finfo(torch.float64).eps
    s = values[keep].sqrt()
    transport = (root_b @ vectors[:, keep] / s.sqrt()).float()
    coupling = (0.5 / (s[:, None] + s)).float()
    mean, pull = a.mean.float(), (2 * (a.mean - b.mean)).float()
    constant = 0.25 * float(s.sum())
    slopes, pairs = [], []
    for block in features.split(_BLOCK):
        half = len(block) // 2
        z = block[: 2 * half] - mean
        y = z @ transport
        length = vecdot(y, y)
        slopes.append(vecdot(z, z + pull) - length)
        p = y[:half] * y[half:]
        pairs.append(vecdot(p, 1 + p @ coupling) - 0.25 * (length[:half] + length[half:]) + constant)
    variance = float(torch.cat(slopes).double().var())
    noise = 2 * float(torch.cat(pairs).double().square().mean()) / a.count
    return math.sqrt((variance - min(noise, variance / 2)) / a.count)
