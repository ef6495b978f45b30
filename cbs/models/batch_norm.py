"""BatchNorm over a batch that several processes share."""

from __future__ import annotations

import torch
from torch import nn

from cbs.parallel import Team


def synchronise(network: nn.Module, team: Team) -> None:
    """Put a fresh GlobalBatchNorm2d in the place of each of a network's BatchNorm2d."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(network, name, GlobalBatchNorm2d(child.num_features, child.affine, team))
        else:
            synchronise(child, team)


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the parts of all ranks: what nn.BatchNorm2d computes of the whole batch.

    nn.SyncBatchNorm has neither a second derivative nor a CPU. Statistics take two passes, like torch's on one
    device: E x² − (E x)² would lose the digits that the two share.
    """

    def __init__(self, channels: int, affine: bool, team: Team) -> None:
        super().__init__(channels, affine=affine)
        self._team = team

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """This rank's (n, channels, height, width) -> the same shape"""
        if not self.training:
            return super().forward(x)
        each, over = (1, -1, 1, 1), (0, 2, 3)
        count = x.new_full((1,), x.numel() // x.shape[1])
        sums = self._team.total(torch.cat([x.sum(over), count]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean.view(each)
        variance = self._team.total(centred.square().sum(over)) / count
        self._track(mean, variance * (count / (count - 1)))
        scale = torch.rsqrt(variance + self.eps)
        if not self.affine:
            return centred * scale.view(each)
        scale = self.weight * scale
        return torch.addcmul(self.bias.view(each), centred, scale.view(each))

    @torch.no_grad()
    def _track(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Move the running statistics, which evaluation uses, towards these, unless they are put aside."""
        if self.running_mean is None:
            return
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
