"""What else is said of generated images: FID extrapolated, KID, Inception Score."""

from __future__ import annotations

from collections.abc import Callable

import torch

from cbs.metrics.frechet import Statistics, frechet_distance

# Into how many parts of equal size the samples are split for the extrapolation.
PARTS = (1, 2, 4)
# KID's subsets, and Inception Score's splits, as everybody takes them.
_SUBSETS, _SUBSET_SIZE = 100, 1000
_SPLITS = 10


def fid_infinity(features: torch.Tensor, real: Statistics, root: torch.Tensor) -> float:
    """The Fréchet distance of infinitely many samples (Chong & Forsyth, CVPR 2020).

    features: (n, d). The distance is a line in 1/n to first order; it is fitted to the mean distance of the parts
    that the samples split into, and read at 1/n = 0. The paper draws 15 overlapping subsets of growing size; disjoint
    parts weigh every sample alike, which adds a fraction of that variance and takes half as many distances.
    """
    rows = []
    for parts in PARTS:
        found = [Statistics.of(features[first::parts]) for first in range(parts)]
        rows.append(sum(frechet_distance(one, real, root) for one in found) / parts)
    values = torch.tensor(rows, dtype=torch.float64)
    inverse = torch.tensor(PARTS, dtype=torch.float64)  # of the samples in a part, in units of 1/n
    centred = inverse - inverse.mean()
    slope = (centred * values).sum() / centred.square().sum()
    return float(values.mean() - slope * inverse.mean())


def kid(generated: torch.Tensor, real: torch.Tensor, draw: torch.Generator) -> float:
    """The kernel inception distance (Bińkowski et al., ICLR 2018): MMD² with the kernel (x·y/d + 1)³, unbiased.

    generated: (n, d). real: (m, d). The mean over 100 subsets of 1,000 of each, fewer where there are fewer;
    `draw` is a generator on the CPU. May be below 0.
    """
    size = min(len(generated), len(real), _SUBSET_SIZE)
    return sum(_mmd(_subset(generated, size, draw), _subset(real, size, draw)) for _ in range(_SUBSETS)) / _SUBSETS


def _subset(features: torch.Tensor, size: int, draw: torch.Generator) -> torch.Tensor:
    chosen = torch.randperm(len(features), generator=draw)[:size]
    return features[chosen.to(features.device)].double()


def _mmd(x: torch.Tensor, y: torch.Tensor) -> float:
    n, d = x.shape

    def cubes(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """The sum of the kernel over all pairs, and over those of equal index."""
        k = torch.addmm(one.new_ones(1), one, other.T, alpha=1 / d)
        return torch.stack([torch.dot(k.square().flatten(), k.flatten()), k.diagonal().pow(3).sum()])

    both = cubes(x, x) + cubes(y, y)
    return float((both[0] - both[1]) / (n * (n - 1)) - 2 * cubes(x, y)[0] / n**2)


def inception_score(features: torch.Tensor, logits: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """exp E KL(p(class | image) ‖ p(class)), the mean of ten splits (Salimans et al., NeurIPS 2016, section 4).

    features: (n, d). logits: (n, d) -> (n, classes).
    """
    scores = []
    for part in features.tensor_split(min(_SPLITS, len(features))):
        given = logits(part).double().log_softmax(1)
        overall = given.logsumexp(0) - torch.tensor(len(part), dtype=torch.float64).log()
        scores.append((given.exp() * (given - overall)).sum(1).mean().exp())
    return float(torch.stack(scores).mean())
