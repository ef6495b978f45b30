"""Gradient noise: the estimator against distributions that are known, the measurement against many batches."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cbs import checkpoint, loop, trial
from cbs.data.sampler import Pictures
from cbs.errors import InputError
from cbs.key import trial_folder
from cbs.outcome import Evaluation, Noise
from cbs.record import RunFolder
from cbs.schema import Config
from cbs.streams import stream
from cbs.tasks import noise
from cbs.tasks.gan import GAN
from tests.conftest import config
from tests.test_gan import IMAGES, same

Tiny = Callable[..., Config]
MODELS = {
    "dcgan": (),
    "dcgan, ema": ("target.generator=ema",),
    "dcgan, micro-batches": ("micro_batch=4",),
    "wgan_gp": ("model=wgan_gp", "model.critic_steps=2"),
    "wgan_gp, instance norm": ("model=wgan_gp", "model.discriminator_norm=instance"),
    "biggan": ("model=biggan", "model.latent=6", "model.orthogonal_penalty=1e-3"),
    "sagan": ("model=sagan", "model.width=4", "model.latent=6"),
    "biggan, micro-batches": ("model=biggan", "model.latent=6", "micro_batch=4"),
}


def gan(name: str, b: int = 6) -> GAN:
    found = config(f"batch_size={b}", *MODELS[name])
    return GAN(found, 0, Pictures(IMAGES, torch.arange(50) % 10, 10), torch.device("cpu"))


def products(gradients: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"all": (gradients @ gradients.t()).double()}


def drawn(random: np.random.Generator, b: int, m: int) -> tuple[Noise, float, float]:
    """An estimate from m batches of b of x ~ N(μ, AAᵀ), the gradient of E |θ − x|²/2 at θ = 0 but for its sign."""
    fixed = np.random.default_rng(0)
    mean, mix = fixed.normal(size=5), fixed.normal(size=(5, 5)) * 2
    x = mean + random.normal(size=(m, b, 5)) @ mix.T
    found = noise.of_products(products(torch.from_numpy(x.mean(1))), b)
    return found, float((mix @ mix.T).trace()), float(mean @ mean)


@pytest.mark.parametrize(("b", "m"), [(1, 3), (4, 6), (32, 12)])
def test_estimates_of_a_quadratic_problem_are_unbiased(b: int, m: int) -> None:
    random = np.random.default_rng(1)
    found = [drawn(random, b, m) for _ in range(1500)]
    for name, truth in (("sigma2", found[0][1]), ("norm2", found[0][2])):
        values = np.array([getattr(one[0], name) for one in found])
        error = values.std() / np.sqrt(len(values))
        assert abs(values.mean() - truth) < 4 * error
        told = np.sqrt(np.mean([getattr(one[0], f"{name}_error") ** 2 for one in found]))
        assert 0.93 < told / values.std() < 1.05 * np.sqrt(2 * (m - 1) / (m - 2))


def test_the_ratios_error_is_its_spread() -> None:
    random = np.random.default_rng(2)
    found = [drawn(random, 32, 24)[0] for _ in range(500)]
    scales = np.array([one.scale for one in found], float)
    assert 0.8 < np.median([one.scale_error for one in found]) / scales.std() < 1.3


@given(st.integers(3, 9), st.integers(1, 64), st.integers(0, 2**32))
def test_they_are_mccandlishs_two_batch_sizes(m: int, b: int, seed: int) -> None:
    """Appendix A.1: (B_big |G_big|² − B_small |G_small|²)/(B_big − B_small), and tr Σ likewise."""
    g = torch.randn(m, 7, generator=stream(seed, "test"), dtype=torch.float64) + 1
    found = noise.of_products({"one": products(g[:, :3])["all"], "two": products(g[:, 3:])["all"]}, b)
    small, big = float(g.square().sum(1).mean()), float(g.mean(0).square().sum())
    assert found.norm2 == pytest.approx((m * b * big - b * small) / (m * b - b))
    assert found.sigma2 == pytest.approx((small - big) / (1 / b - 1 / (m * b)), abs=1e-9)
    layers = np.array([found.layers["one"], found.layers["two"]])
    assert layers.sum(0) == pytest.approx([found.sigma2, found.norm2], rel=1e-2, abs=1e-2)
    assert (found.scale is None) == (found.norm2 <= 0)


@pytest.mark.parametrize("name", MODELS)
def test_training_does_not_notice(name: str) -> None:
    watched, plain = gan(name), gan(name)
    for step in range(4):
        losses = watched.step(), plain.step()
        assert all(torch.equal(x, y) for x, y in zip(*losses, strict=True))
        assert set(noise.measure(watched, 0, step, 3)) == {"generator", "discriminator"}
        assert same(watched, plain)


@pytest.mark.parametrize("name", MODELS)
def test_a_measurement_depends_on_networks_seed_and_step_only(name: str) -> None:
    task, other = gan(name), gan(name)
    for _ in range(3):
        task.step()
    other.load(copy.deepcopy(task.state()))
    found = noise.measure(task, 0, 3, 3)
    assert noise.measure(other, 0, 3, 3) == found
    assert noise.measure(task, 0, 4, 3) != found
    assert noise.measure(task, 1, 3, 3) != found


@pytest.mark.parametrize("name", ["dcgan", "wgan_gp", "biggan", "sagan"])
def test_measured_gradients_are_those_of_training(name: str) -> None:
    """What optimizers get in a step with the same draws, in which the discriminator stays as it is."""
    task, other = gan(name), gan(name)
    drawn: list = []
    original = task._cut

    def kept(*arguments):
        drawn.append(original(*arguments))
        return drawn[-1]

    task._cut = kept  # type: ignore[method-assign]
    of_g, of_d = task.fresh_gradients(stream(0, "test"))
    other.optimizer_d.param_groups[0]["lr"] = 0.0
    other._learn([[drawn[0], drawn[-1]]])
    trained = [*other.generator.parameters(), *other.discriminator.parameters()]
    for ours, parameter in zip([*of_g, *of_d], trained, strict=True):
        torch.testing.assert_close(ours, parameter.grad)


@pytest.mark.parametrize("name", ["dcgan", "wgan_gp"])
def test_measured_noise_is_that_of_many_batches(name: str, one_thread: None) -> None:
    """Frozen networks: the variance of 800 batches' gradients and their mean, against the mean of many estimates."""
    task = gan(name, b=8)
    for _ in range(20):
        task.step()
    sums: dict[str, list[torch.Tensor]] = {}
    chance, n = stream(0, "test"), 800
    kept = copy.deepcopy(task.state())
    for _ in range(n):
        for network, gradients in zip(("generator", "discriminator"), task.fresh_gradients(chance), strict=True):
            g = torch.cat([gradient.flatten() for gradient in gradients]).double()
            first, second = sums.setdefault(network, [torch.zeros_like(g), torch.zeros(1, dtype=torch.float64)])
            first += g
            second += g.square().sum()
    task.load(kept)
    found = [noise.measure(task, 1, step, 8) for step in range(25)]
    for network, (first, second) in sums.items():
        mean2 = float((first / n).square().sum())
        variance = (float(second) - n * mean2) / (n - 1)
        for field, truth in (("sigma2", 8 * variance), ("norm2", mean2 - variance / n)):
            values = np.array([getattr(one[network], field) for one in found])
            assert abs(values.mean() - truth) < 4.5 * values.std() / np.sqrt(len(values)) + 0.02 * abs(truth), field


# 20, 30, 45, 67, 100 and 150 steps at 5.
AT_FIVE = ("batch_size=5", "target.first_gradients=99")


def evaluations(found: Config) -> list[Evaluation]:
    return [replace(e, seconds=0.0) for e in RunFolder(trial_folder(found), 0).trajectory()]


def test_a_record_holds_it_and_is_otherwise_the_same(tiny: Tiny, tmp_path: Path) -> None:
    found = tiny(*AT_FIVE, "noise_batches=3", "target.confirmations=0")
    trial.run(found, 0)
    measured = evaluations(found)
    # Three batches wait for 75 steps.
    assert [e.step for e in measured if e.noise] == [100]
    of_g = next(e.noise["generator"] for e in measured if e.noise)
    assert of_g.batches == 3
    assert list(of_g.layers) == ["0", "1", "3", "4", "6"]
    shutil.rmtree(tmp_path / "results")
    without = tiny(*AT_FIVE, "noise_batches=0", "target.confirmations=0")
    assert trial_folder(without) == trial_folder(found)
    trial.run(without, 0)
    assert evaluations(without) == [replace(e, noise={}) for e in measured]


def test_a_run_that_is_stopped_again_and_again_measures_the_same(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tiny(*AT_FIVE, "model=wgan_gp", "noise_batches=3", "target.budget_steps=400")
    trial.run(found, 0)
    undisturbed = evaluations(found)
    assert len([e for e in undisturbed if e.noise]) == 3
    shutil.rmtree(tmp_path / "results")
    monkeypatch.setattr(loop, "LOOK_UP_SECONDS", 0.0)
    count = 0

    def every_seventieth() -> bool:
        nonlocal count
        count += 1
        return count % 70 == 0

    attempts = 1
    while True:
        try:
            trial.run(found, 0, stopped=every_seventieth)
            break
        except trial.Interrupted:
            attempts += 1
    assert attempts > 4
    assert evaluations(found) == undisturbed


def test_records_and_checkpoints_of_before_are_read(tiny: Tiny) -> None:
    raw = Evaluation(5, 10, 0.25, 40.5).to_dict()
    del raw["noise"]
    assert Evaluation.from_dict(raw).noise == {}
    found = tiny(*AT_FIVE, "noise_batches=3", "target.budget_steps=67")
    trial.run(found, 0)
    folder = RunFolder(trial_folder(found), 0)
    state = checkpoint.load(folder.checkpoint_path)
    assert state is not None
    for evaluation in state["progress"]["evaluations"]:
        del evaluation["noise"]
    checkpoint.save(folder.checkpoint_path, state)
    trial.run(tiny(*AT_FIVE, "noise_batches=3", "target.budget_steps=150"), 0)
    assert [e.step for e in evaluations(found) if e.noise] == [100]
    plain = found.to_dict()
    del plain["noise_batches"]
    assert Config.from_dict(plain).noise_batches == 0


def test_too_few_batches_are_refused() -> None:
    with pytest.raises(InputError, match=r"noise_batches is 2: it must be 0 \(off\) or at least 3"):
        config("noise_batches=2")


def test_a_gradient_that_is_not_finite_is_no_measurement() -> None:
    task = gan("dcgan")
    next(task.generator.parameters()).data.fill_(float("inf"))
    assert noise.measure(task, 0, 1, 3) == {}
