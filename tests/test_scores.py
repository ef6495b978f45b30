"""The FID's sampling error, FID∞, KID and Inception Score: against brute force, clean-fid and NVIDIA's formula."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from cleanfid.fid import kernel_distance
from hypothesis import given
from hypothesis import strategies as st

from cbs.metrics.frechet import Statistics, frechet_distance, root
from cbs.metrics.sampling import sampling_error
from cbs.metrics.scores import fid_infinity, inception_score, kid


@dataclass
class World:
    """A real side known exactly, and a generator whose features can be drawn again and again.

    shift, change: how far the generator's mean and covariance are from the real ones. tails: 1 for a Gaussian.
    """

    d: int
    shift: float
    change: float
    tails: float

    def __post_init__(self) -> None:
        self.draws = torch.Generator().manual_seed(0)
        spread = torch.logspace(0, -1.5, self.d, dtype=torch.float64)
        mixing = self.noise(self.d) * spread
        self.mixing = mixing + self.change * self.noise(self.d) * spread
        self.mean = self.shift * self.noise(1)[0] / math.sqrt(self.d)
        self.real = Statistics(torch.zeros(self.d, dtype=torch.float64), mixing.T @ mixing, 10**9)
        self.root = root(self.real.cov, 10**9)

    def noise(self, n: int) -> torch.Tensor:
        return torch.randn(n, self.d, dtype=torch.float64, generator=self.draws)

    def samples(self, n: int) -> torch.Tensor:
        z = self.noise(n)
        return (z.abs() ** self.tails * z.sign() @ self.mixing + self.mean).float()

    def fid(self, features: torch.Tensor) -> float:
        return frechet_distance(Statistics.of(features), self.real, self.root)

    def error(self, features: torch.Tensor, part: int = 1) -> float:
        found = sampling_error(features[::part], Statistics.of(features), self.real, self.root)
        assert found is not None
        return found


pytestmark = pytest.mark.usefixtures("one_thread")
FAR, NEAR, THERE = (1.0, 0.5), (0.2, 0.1), (0.0, 0.0)


@pytest.mark.parametrize("tails", [1.0, 1.5])
@pytest.mark.parametrize("distance", [FAR, NEAR, THERE])
@pytest.mark.parametrize(("n", "d"), [(400, 32), (600, 16)])
def test_the_sampling_error_is_the_spread_of_fresh_draws(
    n: int, d: int, distance: tuple[float, float], tails: float
) -> None:
    """Also where the distance is nothing but its bias, and Var ψ alone would say √2 of the truth."""
    world = World(d, *distance, tails)
    values = np.array([world.fid(world.samples(n)) for _ in range(400)])
    predicted = np.array([world.error(world.samples(n)) for _ in range(60)])
    assert np.sqrt((predicted**2).mean()) == pytest.approx(values.std(), rel=0.15)


def test_the_sampling_error_of_a_part_of_the_features_is_that_of_all() -> None:
    world = World(16, *FAR, 1.0)
    features = world.samples(6000)
    assert world.error(features, part=3) == pytest.approx(world.error(features), rel=0.1)


def test_the_sampling_error_falls_with_the_root_of_the_samples() -> None:
    world = World(16, *FAR, 1.0)
    few, many = (np.mean([world.error(world.samples(n)) for _ in range(10)]) for n in (2000, 8000))
    assert many == pytest.approx(few / 2, rel=0.1)


@pytest.mark.parametrize("n", [5, 16, 17])
def test_with_no_more_samples_than_directions_there_is_no_sampling_error(n: int) -> None:
    world = World(16, *FAR, 1.0)
    features = world.samples(n)
    found = sampling_error(features, Statistics.of(features), world.real, world.root)
    assert (found is None) == (n <= 16)


def test_directions_that_the_data_lack_change_no_sampling_error() -> None:
    """A feature that is always 0, as in a network with dead units."""
    world = World(8, *FAR, 1.0)
    features = world.samples(500)
    wider = torch.nn.functional.pad(features, (0, 3))
    cov = torch.nn.functional.pad(world.real.cov, (0, 3, 0, 3))
    real = Statistics(torch.nn.functional.pad(world.real.mean, (0, 3)), cov, world.real.count)
    found = sampling_error(wider, Statistics.of(wider), real, root(cov, real.count - 1))
    assert found == pytest.approx(world.error(features), rel=1e-4)


@pytest.mark.parametrize("distance", [FAR, NEAR, THERE])
def test_fid_infinity_is_what_many_more_samples_give(distance: tuple[float, float]) -> None:
    world = World(16, *distance, 1.0)
    truth = world.fid(world.samples(500_000))
    found = []
    biased = []
    for _ in range(60):
        features = world.samples(500)
        found.append(fid_infinity(features, world.real, world.root))
        biased.append(world.fid(features))
    bias = np.mean(biased) - truth
    error = np.std(found) / math.sqrt(len(found))
    assert bias > 5 * error
    assert abs(np.mean(found) - truth) < 0.1 * bias + 3 * error
    assert np.std(found) < 1.4 * np.std(biased)


def test_fid_infinity_is_the_end_of_a_line() -> None:
    world = World(6, *FAR, 1.0)
    features = world.samples(333)
    values = [np.mean([world.fid(features[k::parts]) for k in range(parts)]) for parts in (1, 2, 4)]
    assert fid_infinity(features, world.real, world.root) == pytest.approx(np.polyfit([1, 2, 4], values, 1)[1])


@given(st.integers(2, 40), st.integers(1, 12), st.integers(0, 1000))
def test_kid_of_all_samples_is_cleanfids(n: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    real, fake = rng.normal(size=(n, d)), rng.normal(size=(n, d)) * 1.3 + 0.2
    found = kid(torch.from_numpy(fake), torch.from_numpy(real), torch.Generator().manual_seed(seed))
    assert found == pytest.approx(kernel_distance(real, fake, num_subsets=1), rel=1e-9, abs=1e-12)


def test_kid_of_subsets_is_unbiased_and_follows_its_draws() -> None:
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(1800, 8)), rng.normal(size=(2500, 8)) + 0.2
    one = [torch.from_numpy(x).float() for x in (fake, real)]
    found = [kid(*one, torch.Generator().manual_seed(seed)) for seed in (0, 1, 0)]
    assert found[0] == found[2] != found[1]
    whole = float(kernel_distance(real, fake, num_subsets=1, max_subset_size=10**9))
    assert found[0] == pytest.approx(whole, rel=0.1)
    same = kid(one[1], torch.from_numpy(rng.normal(size=(3000, 8))).float(), torch.Generator().manual_seed(0))
    assert abs(same) < 0.05 * whole


def _nvidias(probabilities: np.ndarray, splits: int = 10) -> float:
    """Inception Score as StyleGAN's metrics write it."""
    n, scores = len(probabilities), []
    for i in range(splits):
        part = probabilities[i * n // splits : (i + 1) * n // splits]
        kl = part * (np.log(part) - np.log(np.mean(part, axis=0, keepdims=True)))
        scores.append(np.exp(np.mean(np.sum(kl, axis=1))))
    return float(np.mean(scores))


@given(st.integers(1, 20), st.integers(2, 12), st.floats(0.01, 30), st.integers(0, 1000))
def test_inception_score_is_nvidias(tens: int, classes: int, sharpness: float, seed: int) -> None:
    features = torch.randn(10 * tens, classes, generator=torch.Generator().manual_seed(seed)) * sharpness
    found = inception_score(features, lambda x: x)
    assert 1 - 1e-9 <= found <= classes + 1e-9
    assert found == pytest.approx(_nvidias(features.double().softmax(1).numpy()), rel=1e-9)


def test_inception_score_knows_its_extremes() -> None:
    """All classes alike or one image class only: 1; every class equally often, and certainly: their number."""
    certain = 2000.0 * torch.eye(10).repeat(30, 1)
    assert inception_score(certain, lambda x: x) == pytest.approx(10)
    assert inception_score(certain[:1].repeat(50, 1), lambda x: x) == pytest.approx(1)
    assert inception_score(torch.zeros(50, 10), lambda x: x) == pytest.approx(1)
    assert inception_score(torch.zeros(3, 10), lambda x: x) == pytest.approx(1)
