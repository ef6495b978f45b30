"""What self-attention reads: shared by the families whose feature maps attend."""

from __future__ import annotations

import torch


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Each query's mean of the values, weighted by softmax(queryᵀ key) over the m keys, not scaled.

    query: (b, c, n). key: (b, c, m). value: (b, d, m) -> (b, d, n).
    """
    weights = torch.bmm(query.transpose(1, 2), key).softmax(-1)
    return torch.bmm(value, weights.transpose(1, 2))
