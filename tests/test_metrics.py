"""The Fréchet distance and its inputs, against clean-fid, PIL and exact arithmetic."""

from __future__ import annotations

import hashlib
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
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from cbs.data.packed import prepare
from cbs.errors import InputError
from cbs.metrics import features, weights
from cbs.metrics.fid import Distance, statistics, to_bytes
from cbs.metrics.frechet import Moments, Statistics, frechet_distance, root
from cbs.metrics.resize import clean_resize
from cbs.metrics.train_digits import train
from cbs.schema import DatasetConfig
from tests.conftest import config

CPU = torch.device("cpu")
warnings.filterwarnings("ignore", message="The `disp` argument", category=DeprecationWarning)


def of(samples: np.ndarray) -> Statistics:
    moments = Moments(samples.shape[1])
    for part in torch.from_numpy(samples).split(37):
        moments.add(part)
    return moments.statistics()


def gaussian(n: int, d: int, seed: int, rank: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(rank or d, d)) * rng.uniform(0.05, 2, size=d)
    return rng.normal(size=(n, rank or d)) @ mixing + rng.normal(size=d)


@given(st.integers(2, 200), st.integers(1, 12), st.integers(0, 1000))
def test_streaming_moments_are_numpys(n: int, d: int, seed: int) -> None:
    samples = gaussian(n, d, seed) + 1e4
    found = of(samples)
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


@pytest.mark.parametrize("size", [8, 16, 32, 64, 128, 256, 299, 400])
def test_resize_is_cleanfids(size: int) -> None:
    image = np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8)
    theirs = torch.from_numpy(build_resizer("clean")(image)).permute(2, 0, 1)
    ours = clean_resize(torch.from_numpy(image).permute(2, 0, 1).float().unsqueeze(0))[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


def test_images_become_the_bytes_that_a_png_would_hold(tmp_path: Path) -> None:
    from torchvision.utils import save_image

    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 1.4 - 0.7
    for i, image in enumerate(images):
        save_image(image, tmp_path / f"{i}-stretched.png", normalize=True)
        save_image(image, tmp_path / f"{i}-fixed.png", normalize=True, value_range=(-1, 1))
    for mode, name in (("per_image", "stretched"), ("fixed", "fixed")):
        theirs = np.stack([np.asarray(Image.open(tmp_path / f"{i}-{name}.png")) for i in range(4)])
        ours = to_bytes(images, mode).permute(0, 2, 3, 1).numpy()
        assert np.abs(ours - theirs).max() <= (1 if mode == "per_image" else 0)
        assert (ours != theirs).mean() < 0.01


class FakeInception(nn.Module):
    """The interface of clean-fid's TorchScript file: `.layers` maps normalised 299x299 images to 2048 features."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 32, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(8), nn.Flatten())

    def forward(self, x: torch.Tensor, return_features: bool = True) -> torch.Tensor:
        return self.layers(x)


def test_inception_path_is_cleanfids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images in memory against clean-fid's own network wrapper, resizing and PNG folder."""
    from cleanfid.inception_torchscript import InceptionV3W

    file = tmp_path / weights.INCEPTION_NAME
    torch.jit.script(FakeInception()).save(str(file))
    monkeypatch.setenv("CBS_INCEPTION", str(file))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    generated = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    images = to_bytes(generated, "fixed")
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy().astype(np.uint8)).save(pictures / f"{i}.png")
    theirs = cleanfid.get_folder_features(
        str(pictures), InceptionV3W(str(tmp_path), download=False), num_workers=0, device=CPU, verbose=False
    )
    extractor = features.build("inception", tmp_path, 32, 3, CPU)
    np.testing.assert_allclose(extractor(images), theirs, atol=1e-4)
    assert extractor.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    grey = extractor(images[:, :1])
    torch.testing.assert_close(grey, extractor(images[:, :1].repeat(1, 3, 1, 1)))


def test_missing_inception_weights_say_where_to_put_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CBS_INCEPTION", raising=False)
    monkeypatch.setattr(weights.tempfile, "gettempdir", lambda: str(tmp_path))

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(InputError) as missing:
        weights.digest("inception", tmp_path)
    assert str(tmp_path / "weights" / weights.INCEPTION_NAME) in str(missing.value)
    assert "CBS_INCEPTION" in str(missing.value)
    monkeypatch.setenv("CBS_INCEPTION", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="CBS_INCEPTION is"):
        weights.digest("inception", tmp_path)


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


def test_the_distance_of_the_digits_to_themselves_and_to_noise(tmp_path: Path) -> None:
    packed = prepare(DatasetConfig("digits", 8, 1, "exact", "all", None, "refuse"), tmp_path)
    extractor = features.build("digits", tmp_path, 8, 1, CPU)
    distance = Distance(packed, extractor, "fixed", tmp_path, CPU)
    real = torch.from_numpy(packed.images()).float() / 127.5 - 1
    assert distance([real]) == pytest.approx(0, abs=1e-6)
    noise = torch.rand(1000, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert distance([noise]) > 50
    # The last, partial chunk counts.
    assert distance([noise[:700], noise[700:]]) == pytest.approx(distance([noise]), rel=1e-9)


def test_the_real_side_is_cached_by_content_and_made_anew_when_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = prepare(DatasetConfig("digits", 8, 1, "exact", "all", None, "refuse"), tmp_path)
    extractor = features.build("pixels", tmp_path, 8, 1, CPU)
    images = [torch.zeros(5, 1, 8, 8) + torch.arange(5).view(5, 1, 1, 1) / 9]
    first = Distance(packed, extractor, "fixed", tmp_path, CPU)(images)
    (cached,) = (tmp_path / "statistics").glob("*.npz")
    cached.write_bytes(cached.read_bytes()[:-100])
    assert Distance(packed, extractor, "fixed", tmp_path, CPU)(images) == first
    monkeypatch.setattr("cbs.metrics.fid._real_chunks", lambda *_: pytest.fail("not read from the cache"))
    assert Distance(packed, extractor, "fixed", tmp_path, CPU)(images) == first
    plain = statistics([to_bytes(images[0], "fixed")], extractor, CPU)
    assert plain.count == 5


def test_features_that_can_not_see_the_images_are_refused() -> None:
    with pytest.raises(InputError, match="sees 8x8 grey images only, not 32x32x3"):
        features.check_images(config("dataset=cifar10", "target=digits").target, 32, 3)
    with pytest.raises(InputError, match="at most 4096"):
        features.check_images(config("target.features=pixels").target, 64, 3)
