"""Optimizers against what others wrote."""

from __future__ import annotations

import contextlib
import io

import pytest
import torch
from adabelief_pytorch import AdaBelief as Reference

from cbs import optim
from cbs.optim import adabelief
from cbs.optim.adabelief import AdaBelief
from tests.conftest import config


def quadratic(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x**2 * torch.arange(1.0, 6.0)).sum() + ((y - 1) ** 4).sum() + (x.sum() * y).mean()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("betas", [(0.5, 0.999), (0.9, 0.99), (0.1, 0.9)])
@pytest.mark.parametrize("eps", [1e-16, 1e-8])
@pytest.mark.parametrize("capturable", [False, True])
def test_adabelief_is_the_authors_package(
    weight_decay: float, betas: tuple[float, float], eps: float, capturable: bool
) -> None:
    generator = torch.Generator().manual_seed(3)
    start = [torch.randn(5, generator=generator), torch.randn(2, 3, generator=generator)]
    ours = [s.clone().requires_grad_() for s in start]
    theirs = [s.clone().requires_grad_() for s in start]
    mine = AdaBelief(ours, 1e-3, betas, eps, weight_decay, capturable)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = Reference(
            theirs, 1e-3, betas, eps, weight_decay, weight_decouple=True, rectify=True, print_change_log=False
        )
    for _ in range(60):
        for optimizer, parameters in ((mine, ours), (reference, theirs)):
            optimizer.zero_grad()
            quadratic(*parameters).backward()
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(block: int) -> list[torch.Tensor]:
        monkeypatch.setattr(adabelief, "_BLOCK", block)
        generator = torch.Generator().manual_seed(3)
        parameters = [torch.randn(shape, generator=generator).requires_grad_() for shape in ((50,), (30, 7), (2, 2))]
        optimizer = AdaBelief(parameters, 1e-2)
        for _ in range(12):
            for p in parameters:
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()
        return parameters

    for ours, theirs in zip(trained(32), trained(2**16), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("capturable", [False, True])
def test_adabelief_resumes_from_its_state(capturable: bool) -> None:
    def trained(steps: int, state: dict | None = None, start: torch.Tensor | None = None) -> tuple:
        p = (torch.ones(4) if start is None else start.clone()).requires_grad_()
        optimizer = AdaBelief([p], 1e-2, (0.5, 0.999), capturable=capturable)
        if state:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            optimizer.zero_grad()
            quadratic(torch.cat([p, p[:1]]), p).backward()
            optimizer.step()
        return p.detach(), optimizer.state_dict()

    whole, _ = trained(20)
    half, state = trained(9)
    assert torch.equal(trained(11, state, half)[0], whole)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("adam", lambda p: torch.optim.Adam(p, 0.01, (0.5, 0.999), foreach=False)),
        ("rmsprop", lambda p: torch.optim.RMSprop(p, 0.01, 0.99, 1e-8, foreach=False)),
        ("sgd", lambda p: torch.optim.SGD(p, 0.01, 0.9, foreach=False)),
    ],
)
def test_options_build_the_optimizer_they_name(name: str, reference) -> None:
    ours, theirs = torch.ones(5).requires_grad_(), torch.ones(5).requires_grad_()
    built = optim.build(config(f"optimizer={name}").optimizer, [ours], 0.01)
    plain = reference([theirs])
    for _ in range(10):
        for optimizer, p in ((built, ours), (plain, theirs)):
            optimizer.zero_grad()
            quadratic(p, p[:3]).backward()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
