"""One GAN step against a plain PyTorch one, the losses, and that evaluating changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cbs.data.sampler import Pictures
from cbs.streams import stream
from cbs.tasks.gan import GAN
from cbs.tasks.losses import discriminator_loss, generator_loss, gradient_penalty
from tests.conftest import config

IMAGES = torch.randint(0, 256, (50, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def gan(*overrides: str, seed: int = 0) -> GAN:
    return GAN(config("batch_size=6", *overrides), seed, Pictures(IMAGES), torch.device("cpu"))


def flat(state: Any) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [t for v in values for t in flat(v)]


def parameters(task: GAN) -> list[torch.Tensor]:
    return [p for player in task.players for p in player.parameters]


def same(a: GAN, b: GAN) -> bool:
    pairs = list(zip(flat(a.state()), flat(b.state()), strict=True))
    return all(torch.equal(x, y) for x, y in pairs) and a.samples == b.samples


def test_dcgan_step_is_the_plain_one() -> None:
    """Authors' order: D on real and on fakes, then G on the same fakes through the new D."""
    task, plain = gan(), gan()
    g, d = plain.generator, plain.discriminator
    rates = config().optimizer
    optimizer_g = torch.optim.Adam(g.parameters(), rates.lr_generator, (0.5, 0.999))
    optimizer_d = torch.optim.Adam(d.parameters(), rates.lr_discriminator, (0.5, 0.999))
    criterion = torch.nn.BCEWithLogitsLoss()
    noise = stream(0, "latent")
    for _ in range(5):
        losses = task.step()
        real = plain.sampler.draw(6, [slice(6)])[0].images
        fake = g(torch.randn(6, 32, generator=noise))
        optimizer_d.zero_grad()
        loss_d = criterion(d(real), torch.ones(6)) + criterion(d(fake.detach()), torch.zeros(6))
        loss_d.backward()
        optimizer_d.step()
        optimizer_g.zero_grad()
        loss_g = criterion(d(fake), torch.ones(6))
        loss_g.backward()
        optimizer_g.step()
        torch.testing.assert_close(torch.stack(losses), torch.stack([loss_d, loss_g]))
    for ours, theirs in zip(
        [*task.generator.parameters(), *task.discriminator.parameters()],
        [*g.parameters(), *d.parameters()],
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adam", "adabelief", "rmsprop", "sgd"])
@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
def test_gradients_reach_the_optimizer_as_backward_would_leave_them(optimizer: str, norm: str) -> None:
    """The plain step of WGAN-GP: zero_grad, backward, step. (The optimizers trust that layouts are alike.)"""
    choice = ("model=wgan_gp", f"optimizer={optimizer}", f"model.discriminator_norm={norm}")
    task, plain = gan(*choice), gan(*choice)
    noise, mixing = stream(0, "latent"), stream(0, "gradient penalty")
    task.step()
    d, g, real = plain.discriminator, plain.generator, plain.sampler.draw(6, [slice(6)])[0].images
    z = torch.randn(6, 32, generator=noise)
    fake = g(z).detach()
    loss = discriminator_loss("wasserstein", d(real), d(fake))
    (loss + 10 * gradient_penalty(d, real, fake, torch.rand(6, 1, 1, 1, generator=mixing))).backward()
    plain.optimizer_d.step()
    generator_loss("wasserstein", d(g(z))).backward(inputs=list(g.parameters()))
    plain.optimizer_g.step()
    for ours, theirs in zip(parameters(task), parameters(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_losses_by_hand() -> None:
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    assert discriminator_loss("hinge", real, fake).item() == pytest.approx((0 + 2 + 1.5 + 0) / 2)
    assert discriminator_loss("wasserstein", real, fake).item() == pytest.approx(-1.25 - 0.5)
    expected = F.binary_cross_entropy(real.sigmoid(), torch.ones(2))
    expected += F.binary_cross_entropy(fake.sigmoid(), torch.zeros(2))
    torch.testing.assert_close(discriminator_loss("nonsaturating", real, fake), expected)
    torch.testing.assert_close(generator_loss("nonsaturating", fake), -fake.sigmoid().log().mean())
    assert generator_loss("hinge", fake).item() == pytest.approx(1.25)
    assert generator_loss("wasserstein", fake).item() == pytest.approx(1.25)


def test_gradient_penalty_of_a_linear_critic_is_known() -> None:
    """D(x) = w·x has the gradient w everywhere: the penalty is (|w| − 1)², with the gradient 2(|w|−1) w/|w|."""
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    critic = torch.nn.Module()
    critic.forward = lambda x: x.flatten(1) @ w  # type: ignore[method-assign]
    shape = (5, 2, 1, 1)
    penalty = gradient_penalty(critic, torch.randn(shape), torch.randn(shape), torch.rand(5, 1, 1, 1))
    assert penalty.item() == pytest.approx(16.0)
    penalty.backward()
    torch.testing.assert_close(w.grad, 8 * w.detach() / 5)


@pytest.mark.parametrize("model", ["dcgan", "wgan_gp"])
@pytest.mark.parametrize("optimizer", ["adam", "adabelief", "rmsprop", "sgd"])
@pytest.mark.parametrize("loss", ["nonsaturating", "hinge", "wasserstein"])
def test_every_combination_steps_and_resumes_exactly(model: str, optimizer: str, loss: str) -> None:
    choice = (f"model={model}", f"optimizer={optimizer}", f"model.loss={loss}", "model.critic_steps=2")
    whole, half = gan(*choice), gan(*choice)
    for _ in range(12):
        whole.step()
    for _ in range(5):
        half.step()
    again = gan(*choice, seed=1)
    again.load(half.state())
    again.sampler._order._seed = 0  # the data order is a function of the run's seed, not of its state
    for _ in range(7):
        again.step()
    assert same(again, whole)
    assert whole.finite()
    assert whole.samples == 12 * 2 * 6


def test_evaluating_changes_no_training_state() -> None:
    watched, plain = gan(), gan()
    for _ in range(4):
        watched.step()
        plain.step()
        torch.cat(list(watched.sample(33, stream(0, "evaluation", 1, 0))))
    assert same(watched, plain)
    assert watched.generator.training


def test_samples_are_a_function_of_their_noise() -> None:
    task = gan()
    first, second = (torch.cat(list(task.sample(33, stream(0, "evaluation", 1, r)))) for r in (0, 1))
    again = torch.cat(list(task.sample(33, stream(0, "evaluation", 1, 0))))
    assert first.shape == (33, 1, 8, 8)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_divergence_is_seen_in_the_parameters() -> None:
    task = gan()
    assert task.finite()
    with torch.no_grad():
        next(task.discriminator.parameters()).view(-1)[3] = float("inf")
    assert not task.finite()
