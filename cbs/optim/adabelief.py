"""AdaBelief, rectified and decoupled (Zhuang et al., NeurIPS 2020, algorithm 2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
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
        for p in parameters:
            if not self.state[p]:
                self.state[p] = {"m": torch.zeros_like(p), "s": torch.zeros_like(p)}
        tensors = [[p, p.grad, self.state[p]["m"], self.state[p]["s"]] for p in parameters]
        blocks = tensors if parameters[0].is_cuda else [block for row in tensors for block in _blocks(row)]
        for some in _groups(blocks):
            self._update_block(group, *(list(column) for column in zip(*some, strict=True)))

    def _update_block(
        self,
        group: dict[str, Any],
        parameters: list[torch.Tensor],
        grads: list[torch.Tensor],
        m: list[torch.Tensor],
        s: list[torch.Tensor],
    ) -> None:
        beta1, beta2 = group["betas"]
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


# What stays in a core's cache while nine operations go over it.
_BLOCK = 2**18


def _blocks(row: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """A parameter with its gradient and moments, cut into blocks; the parts are views."""
    if row[0].numel() <= _BLOCK or not all(tensor.is_contiguous() for tensor in row):
        return [row]
    return [list(parts) for parts in zip(*(tensor.view(-1).split(_BLOCK) for tensor in row), strict=True)]


def _groups(rows: list[list[torch.Tensor]]) -> Iterator[list[list[torch.Tensor]]]:
    """Rows in their order, together as long as they make a block; on a GPU all at once."""
    some: list[list[torch.Tensor]] = []
    for row in rows:
        if some and not row[0].is_cuda and sum(r[0].numel() for r in some) + row[0].numel() > _BLOCK:
            yield some
            some = []
        some.append(row)
    yield some


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
