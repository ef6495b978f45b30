"""The Fréchet distance and its inputs, against clean-fid, PIL and exact arithmetic."""

from __future__ import annotations

import hashlib
import math
import warnings
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from cleanfid import fid as cleanfid
from cleanfid.resize import build_resizer
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from cbs.errors import InputError
from cbs.machine import tf32
from cbs.metrics import features, weights
from cbs.metrics.frechet import Moments, Statistics, frechet_distance, root
from cbs.metrics.resize import clean_resize
from cbs.metrics.train_digits import train
from tests.conftest import config

warnings.filterwarnings("ignore", message="The `disp` argument", category=DeprecationWarning)


def of(samples: np.ndarray, chunk: int = 37) -> Statistics:
    moments = Moments(samples.shape[1])
    for part in torch.from_numpy(samples).split(chunk):
        moments.add(part)
    return moments.statistics()


def gaussian(n: int, d: int, seed: int, rank: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(rank or d, d)) * rng.uniform(0.05, 2, size=d)
    return rng.normal(size=(n, rank or d)) @ mixing + rng.normal(size=d)


@given(st.integers(2, 200), st.integers(1, 12), st.integers(0, 1000), st.integers(1, 60))
def test_streaming_moments_are_numpys(n: int, d: int, seed: int, chunk: int) -> None:
    """However many rows come at once, more or fewer than there are features."""
    samples = gaussian(n, d, seed) + 1e4
    found = of(samples, chunk)
    np.testing.assert_allclose(found.mean, samples.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.cov, np.cov(samples, rowvar=False).reshape(d, d), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("n", "d"), [(500, 16), (300, 64), (3000, 128)])
def test_distance_is_cleanfids(n: int, d: int) -> None:
    a, b = gaussian(n, d, 1), gaussian(n + 50, d, 2)
    theirs = cleanfid.frechet_distance(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))
    assert frechet_distance(of(a), of(b)) == pytest.approx(theirs, rel=1e-8)


@pytest.mark.parametrize(("n", "m", "d"), [(20, 30, 64), (20, 500, 64), (500, 20, 64), (40, 60, 256)])
def test_distance_is_cleanfids_with_fewer_samples_than_features(n: int, m: int, d: int) -> None:
    a, b = gaussian(n, d, 3), gaussian(m, d, 4)
    theirs = cleanfid.frechet_distance(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))
    assert frechet_distance(of(a), of(b)) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("rank", [2, 5])
def test_distance_of_deficient_covariances_is_exact(rank: int) -> None:
    """Against fifty-digit arithmetic: tr (Σa Σb)^½ from the eigenvalues of the samples' small product."""
    a, b = gaussian(40, 12, 5, rank=rank), gaussian(50, 12, 6, rank=rank)
    with mpmath.workdps(50):

        def centred(x: np.ndarray) -> mpmath.matrix:
            m = mpmath.matrix(x.tolist())
            means = [mpmath.fsum(m[i, j] for i in range(m.rows)) / m.rows for j in range(m.cols)]
            return mpmath.matrix(m.rows, m.cols) + mpmath.matrix(
                [[m[i, j] - means[j] for j in range(m.cols)] for i in range(m.rows)]
            ), means

        (ca, mean_a), (cb, mean_b) = centred(a), centred(b)
        cov_a, cov_b = ca.T * ca / (ca.rows - 1), cb.T * cb / (cb.rows - 1)
        values = mpmath.eig(cov_a * cov_b, left=False, right=False)
        overlap = mpmath.fsum(mpmath.sqrt(abs(v)) for v in values if abs(v) > mpmath.mpf(10) ** -25)
        gap = mpmath.fsum((x - y) ** 2 for x, y in zip(mean_a, mean_b, strict=True))
        traces = mpmath.fsum(cov_a[i, i] + cov_b[i, i] for i in range(12))
        exact = float(gap + traces - 2 * overlap)
    assert frechet_distance(of(a), of(b)) == pytest.approx(exact, rel=1e-7)


@given(st.integers(3, 60), st.integers(1, 20), st.integers(0, 100))
def test_distance_is_symmetric_and_zero_to_itself(n: int, d: int, seed: int) -> None:
    a, b = of(gaussian(n, d, seed)), of(gaussian(n + 5, d, seed + 1))
    scale = float(a.cov.trace() + b.cov.trace())
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6, abs=1e-7 * scale)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6 * scale)
    assert frechet_distance(a, b, root(b.cov, b.count - 1)) == frechet_distance(a, b)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_have_no_distance(bad: float) -> None:
    samples = gaussian(50, 4, 0)
    samples[7, 2] = bad
    assert math.isnan(frechet_distance(of(samples), of(gaussian(50, 4, 1))))


@pytest.mark.parametrize("size", [8, 16, 32, 64, 128, 256, 299, 400])
def test_resize_is_cleanfids(size: int) -> None:
    image = np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8)
    theirs = torch.from_numpy(build_resizer("clean")(image)).permute(2, 0, 1)
    ours = clean_resize(torch.from_numpy(image).permute(2, 0, 1).float().unsqueeze(0))[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


@pytest.mark.parametrize("size", [8, 64, 400])
def test_resizing_divided_images_gives_the_bits_of_dividing_resized_ones(size: int) -> None:
    images = torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(size)).float()
    divided = clean_resize(images / 128, white=255 / 128).sub_(1)
    assert torch.equal(divided, clean_resize(images).sub_(128).div_(128))


def test_digit_features_come_from_the_committed_weights_and_know_digits() -> None:
    assert weights.digest("digits", Path("unused")) == hashlib.sha256(weights.DIGITS.read_bytes()).hexdigest()
    network = features.DigitNet()
    with np.load(weights.DIGITS) as saved:
        network.load_state_dict({k: torch.from_numpy(saved[k]) for k in saved.files})
    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * 255 / 16)).float().unsqueeze(1)
    with torch.no_grad():
        accuracy = (network(images).argmax(1).numpy() == digits.target).mean()
    assert accuracy > 0.99


@pytest.mark.slow
def test_the_committed_weights_can_be_trained_again() -> None:
    network, accuracy = train()
    assert accuracy > 0.97
    with np.load(weights.DIGITS) as saved:
        for key, value in network.state_dict().items():
            np.testing.assert_allclose(value, saved[key], atol=0.1)


def test_features_that_can_not_see_the_images_are_refused() -> None:
    with pytest.raises(InputError, match="sees 8x8 grey images only, not 32x32x3"):
        features.check_images(config("dataset=cifar10", "target=digits").target, 32, 3)
    with pytest.raises(InputError, match="at most 4096"):
        features.check_images(config("target.features=pixels").target, 64, 3)


def test_features_are_in_whole_float32_whatever_training_uses() -> None:
    seen = []

    def spy(images: torch.Tensor) -> torch.Tensor:
        backends = torch.backends
        seen.append((backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32))
        return images.flatten(1) @ torch.ones(64, 2)

    with tf32(True), torch.autocast("cpu", torch.bfloat16):
        found = features.Features(2, "spy", spy)(torch.full((2, 1, 8, 8), 1.001))
        assert seen == [(False, False)]
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (True, True)
    torch.testing.assert_close(found, torch.full((2, 2), 64 * 1.001), rtol=1e-6, atol=0)
