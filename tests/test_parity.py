"""FID without PNG files against clean-fid's own pipeline: save_image, a folder, its resizing, its distance."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid import fid as cleanfid
from cleanfid.inception_torchscript import InceptionV3W
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchvision.models import inception_v3
from torchvision.utils import make_grid, save_image

from cbs.data.packed import Packed
from cbs.metrics import features, weights
from cbs.metrics.features import Features
from cbs.metrics.meter import Meter
from cbs.metrics.resize import clean_resize
from cbs.metrics.rounding import to_bytes
from tests.conftest import config

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
KINDS = [(size, channels) for size in (8, 32, 64, 256) for channels in (1, 3)]
RANGES: dict[str, dict] = {"fixed": {"value_range": (-1, 1)}, "per_image": {}}


def generated(count: int, size: int, channels: int, seed: int = 0) -> torch.Tensor:
    """What a generator with a tanh might return: smooth images of every contrast, some of them saturated."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, channels, 4, 4, generator=draw) * torch.rand(count, 1, 1, 1, generator=draw) * 2
    shift = torch.randn(count, channels, 1, 1, generator=draw) / 2
    return torch.tanh(nn.functional.interpolate(coarse, size=(size, size), mode="bicubic") + shift)


def written(images: torch.Tensor, folder: Path, normalisation: str) -> str:
    """One PNG per image, as the authors write them."""
    folder.mkdir()
    for i, image in enumerate(images):
        save_image(image, folder / f"{i:05d}.png", normalize=True, **RANGES[normalisation])
    return str(folder)


def packed(images: np.ndarray, folder: Path) -> Packed:
    folder.mkdir()
    np.save(folder / "images.npy", images)
    return Packed(folder, len(images), images.shape[1:], hashlib.sha256(images.tobytes()).hexdigest(), 0, 0)


class Light(nn.Module):
    """A feature extractor of Inception's interface: (n, 3, 299, 299) in 0..255 -> (n, 8)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 20, 20), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        nn.init.normal_(self.layers[0].weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1:] == (3, 299, 299)
        return self.layers(x / 128 - 1)


@pytest.mark.parametrize("normalisation", ["fixed", "per_image"])
@pytest.mark.parametrize(("size", "channels"), KINDS)
def test_fid_is_that_of_cleanfids_folders(size: int, channels: int, normalisation: str, tmp_path: Path) -> None:
    network = Light()
    fakes = generated(24, size, channels)
    reals = np.random.default_rng(0).integers(0, 256, (20, channels, size, size), dtype=np.uint8)
    reals[:15] = to_bytes(generated(15, size, channels, 1), "fixed").numpy()
    # The authors' loader: ToTensor, Normalize(0.5, 0.5).
    loaded = torch.from_numpy(reals).float().div(255).sub(0.5).div(0.5)
    folders = [written(x, tmp_path / name, normalisation) for x, name in ((fakes, "fakes"), (loaded, "reals"))]
    theirs = cleanfid.compare_folders(*folders, network, mode="clean", num_workers=0, device=CPU, verbose=False)
    their_features = cleanfid.get_folder_features(folders[0], network, num_workers=0, device=CPU, verbose=False)

    ours = Features(8, "light", lambda images: network(clean_resize(images).expand(-1, 3, -1, -1)))
    np.testing.assert_allclose(ours(to_bytes(fakes, normalisation)), their_features, atol=1e-3)
    target = replace(config("target=celeba").target, normalisation=normalisation)
    meter = Meter(target, packed(reals, tmp_path / "packed"), ours, tmp_path, CPU)
    found = meter.measure(fakes.split(7), torch.Generator())
    assert found.value == pytest.approx(theirs, rel=1e-4)
    assert theirs > 0.01


@given(st.integers(0, 10**6), st.sampled_from([1, 3]), st.floats(-6, 1), st.floats(-1, 1), st.booleans())
def test_rounding_is_save_images(seed: int, channels: int, exponent: float, shift: float, few: bool) -> None:
    """To the bit, also for narrow ranges and for images of few levels, some of which lie half way between bytes."""
    image = torch.randn(channels, 12, 12, generator=torch.Generator().manual_seed(seed)) * 10**exponent + shift
    if few:
        image = (image * 127.5).round() / 127.5
    for normalisation, how in RANGES.items():
        theirs = make_grid(image, normalize=True, **how).mul(255).add_(0.5).clamp_(0, 255).to(torch.uint8)
        ours = to_bytes(image.unsqueeze(0), normalisation)[0]
        assert torch.equal(ours.expand(3, -1, -1), theirs.float())


def test_rounding_is_that_of_the_files(tmp_path: Path) -> None:
    images = torch.cat([generated(8, 16, 3), torch.full((1, 3, 16, 16), 0.3)])
    for normalisation in RANGES:
        written(images, tmp_path / normalisation, normalisation)
        files = sorted((tmp_path / normalisation).iterdir())
        theirs = np.stack([np.asarray(Image.open(file)) for file in files])
        ours = to_bytes(images, normalisation).permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(ours, theirs)


class Trunk(nn.Module):
    """torchvision's Inception v3 with random weights and statistics, behind the interface of clean-fid's file."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        network = inception_v3(weights=None, aux_logits=False, init_weights=False, transform_input=False)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.7, 1.3)
                nn.init.normal_(module.bias, 0, 0.2)
                nn.init.normal_(module.running_mean, 0, 0.2)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
        kept = [child for name, child in network.named_children() if name not in ("dropout", "fc")]
        self.layers = nn.Sequential(*kept)
        self.output = nn.Linear(2048, 1008)

    def forward(self, x: torch.Tensor, return_features: bool = True) -> torch.Tensor:
        found = self.layers(x).flatten(1)
        return found if return_features else self.output(found).softmax(1)


@pytest.fixture(scope="module")
def inceptions(tmp_path_factory: pytest.TempPathFactory) -> tuple[InceptionV3W, Features]:
    """One TorchScript file as clean-fid's wrapper reads it, and as CBS_INCEPTION names it to us."""
    folder = tmp_path_factory.mktemp("inception")
    file = folder / weights.INCEPTION_NAME
    torch.jit.script(Trunk().eval()).save(str(file))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CBS_INCEPTION", str(file))
        return InceptionV3W(str(folder), download=False), features.build("inception", folder, 64, 3, CPU)


@pytest.mark.parametrize(("size", "channels"), KINDS)
def test_inceptions_features_are_cleanfids(
    inceptions: tuple[InceptionV3W, Features], tmp_path: Path, size: int, channels: int
) -> None:
    wrapper, ours = inceptions
    images = generated(2, size, channels)
    folder = written(images, tmp_path / "images", "per_image")
    theirs = cleanfid.get_folder_features(folder, wrapper, num_workers=0, device=CPU, verbose=False)
    found = ours(to_bytes(images, "per_image"))
    assert theirs.std() > 0.1
    np.testing.assert_allclose(found, theirs, atol=1e-3)
    assert torch.equal(found, ours(to_bytes(images, "per_image")))


def test_inceptions_fid_is_cleanfids(inceptions: tuple[InceptionV3W, Features], tmp_path: Path) -> None:
    """Of eight of its features, because clean-fid's square root of a 2,048 x 2,048 matrix takes a minute."""
    wrapper, whole = inceptions
    fakes, reals = generated(11, 64, 3), to_bytes(generated(10, 64, 3, 1), "fixed")
    folders = [written(fakes, tmp_path / "fakes", "fixed"), written(reals / 127.5 - 1, tmp_path / "reals", "fixed")]
    theirs = cleanfid.compare_folders(
        *folders, lambda x: wrapper(x)[:, ::256], mode="clean", num_workers=0, device=CPU, verbose=False
    )
    ours = Features(8, "eight", lambda images: whole(images)[:, ::256])
    data = packed(reals.numpy().astype(np.uint8), tmp_path / "packed")
    meter = Meter(config("target=celeba").target, data, ours, tmp_path, CPU)
    assert meter.measure([fakes[:8], fakes[8:]], torch.Generator()).value == pytest.approx(theirs, rel=1e-4)


class Cast(nn.Module):
    """Layers as NVIDIA's file has them: weights cast to the images' type, batch normalisation without a weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(2048, 3, 16, 16) / 16)
        self.beta, self.mean, self.var = (nn.Parameter(torch.rand(2048) + 0.5) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.conv2d(x, self.weight.to(x.dtype), None, stride=64)
        mean, var = self.mean.to(x.dtype), self.var.to(x.dtype)
        x = nn.functional.batch_norm(x, mean, var, None, self.beta.to(x.dtype), False, 0.0, 0.001)
        return nn.functional.relu(x).mean([2, 3], keepdim=True)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = Cast()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_a_file_written_as_nvidias_is_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / weights.INCEPTION_NAME
    torch.jit.script(Plain()).save(str(file))
    monkeypatch.setenv("CBS_INCEPTION", str(file))
    images = generated(3, 32, 3)
    folder = written(images, tmp_path / "images", "fixed")
    wrapper = InceptionV3W(str(tmp_path), download=False)
    theirs = cleanfid.get_folder_features(folder, wrapper, num_workers=0, device=CPU, verbose=False)
    ours = features.build("inception", tmp_path, 32, 3, CPU)
    np.testing.assert_allclose(ours(to_bytes(images, "fixed")), theirs, atol=1e-3)
    assert ours.digest == hashlib.sha256(file.read_bytes()).hexdigest()
