"""AdaBelief, rectified and decoupled (Zhuang et al., NeurIPS 2020, algorithm 2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch


class AdaBelief(torch.optim.Optimizer):
    """The update of the authors' package adabelief-pytorch 0.2 with rectify and weight_decouple on.

        m ← β1 m + (1−β1) g        s ← β2 s + (1−β2) (g−m)² + ε        θ ← (1−lr·decay) θ
        θ ← θ − lr · ρ/(1−β1^t) · m / (√s + ε)      while the rectification ρ is defined,
        θ ← θ − lr · 1/(1−β1^t) · m                 before that (the first steps),
        ρ = √((1−β2^t) · (n−4)/(n∞−4) · (n−2)/n · n∞/(n∞−2)),
        n∞ = 2/(1−β2) − 1,    n = n∞ − 2 t β2^t/(1−β2^t)     (Liu et al. 2020, RAdam)

    As in that package, ε enters s at every step, and s carries no bias correction of its own: ρ has it.

    capturable: count the steps on the parameters' device, so that a CUDA graph can hold an update.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
        capturable: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "step": 0})
        self._capturable = capturable

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if self._capturable:
                group["step"] = torch.as_tensor(group["step"], dtype=torch.float64, device=group["params"][0].device)
            group["step"] += 1
            if parameters:
                self._update(group, parameters)

    def _update(self, group: dict[str, Any], parameters: list[torch.Tensor]) -> None:
        beta1, beta2 = group["betas"]
        for p in parameters:
            if not self.state[p]:
                self.state[p] = {"m": torch.zeros_like(p), "s": torch.zeros_like(p)}
        grads = [p.grad for p in parameters if p.grad is not None]
        m = [self.state[p]["m"] for p in parameters]
        s = [self.state[p]["s"] for p in parameters]
        torch._foreach_lerp_(m, grads, 1 - beta1)
        surprise = torch._foreach_sub(grads, m)
        torch._foreach_mul_(s, beta2)
        torch._foreach_addcmul_(s, surprise, surprise, value=1 - beta2)
        torch._foreach_add_(s, group["eps"])
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        if self._capturable:
            _move_by_tensors(group, parameters, m, s)
            return
        size = -group["lr"] / (1 - beta1 ** group["step"])
        rectification = _rectification(group["step"], beta2)
        if rectification is None:
            torch._foreach_add_(parameters, m, alpha=size)
        else:
            scale = torch._foreach_sqrt(s)
            torch._foreach_add_(scale, group["eps"])
            torch._foreach_addcdiv_(parameters, m, scale, value=size * rectification)


def _move_by_tensors(
    group: dict[str, Any], parameters: list[torch.Tensor], m: list[torch.Tensor], s: list[torch.Tensor]
) -> None:
    """The same with a step count in a tensor: nothing is decided on the host."""
    step, (beta1, beta2) = group["step"], group["betas"]
    decayed = beta2**step
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * decayed / (1 - decayed)
    rectified = length >= 5
    ratio = (length - 4) / (longest - 4) * (length - 2) / length * longest / (longest - 2)
    size = -group["lr"] / (1 - beta1**step) * torch.where(rectified, ((1 - decayed) * ratio).clamp_min(0).sqrt(), 1.0)
    scale = torch._foreach_sqrt(s)
    torch._foreach_add_(scale, group["eps"])
    torch._foreach_mul_(scale, rectified.to(scale[0].dtype))  # … or one
    torch._foreach_add_(scale, (~rectified).to(scale[0].dtype))
    moves = torch._foreach_div(m, scale)
    torch._foreach_mul_(moves, size.to(moves[0].dtype))
    torch._foreach_add_(parameters, moves)


def _rectification(step: int, beta2: float) -> float | None:
    """ρ of RAdam, or None while the variance of the adaptive rate is undefined (n < 5)."""
    decayed = beta2**step
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * decayed / (1 - decayed)
    if length < 5:
        return None
    ratio = (length - 4) / (longest - 4) * (length - 2) / length * longest / (longest - 2)
    return math.sqrt((1 - decayed) * ratio)
