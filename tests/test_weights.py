"""Where Inception's weights come from, and what is said when they don't."""

from __future__ import annotations

import hashlib
import http.client
import io
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from cbs.errors import InputError
from cbs.metrics import features, weights

CPU = torch.device("cpu")


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of a machine without the file and without a network."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.delenv("CBS_INCEPTION", raising=False)
    monkeypatch.setattr(weights.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return tmp_path / "data"


def test_missing_weights_say_what_to_put_where(nowhere: Path) -> None:
    with pytest.raises(InputError) as missing:
        weights.inception_path(nowhere)
    for part in (nowhere / "weights" / weights.INCEPTION_NAME, "CBS_INCEPTION", "95,607,719 bytes", "SHA-256 f58cb9b6"):
        assert str(part) in str(missing.value)


def test_a_download_that_breaks_off_is_not_kept(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *_: io.BytesIO(b"<html>please log in</html>"))
    with pytest.raises(InputError, match="what arrived are 26 other bytes"):
        weights.inception_path(nowhere)

    def broken(*_: object) -> None:
        raise http.client.IncompleteRead(b"half")

    monkeypatch.setattr("urllib.request.urlopen", broken)
    with pytest.raises(InputError, match="can't be downloaded"):
        weights.inception_path(nowhere)
    assert list((nowhere / "weights").iterdir()) == []


def test_the_original_is_taken_from_where_it_is(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that clean-fid is still writing is passed over; one in the data folder must be the original."""
    shared = Path(weights.tempfile.gettempdir()) / weights.INCEPTION_NAME
    shared.write_bytes(b"half a fi")
    with pytest.raises(InputError, match="can't be downloaded"):
        weights.inception_path(nowhere)
    shared.write_bytes(b"the whole file")
    monkeypatch.setattr(weights, "INCEPTION_SHA256", hashlib.sha256(b"the whole file").hexdigest())
    assert weights.inception_path(nowhere) == shared
    kept = nowhere / "weights" / weights.INCEPTION_NAME
    shutil.copy(shared, kept)
    assert weights.inception_path(nowhere) == kept
    kept.write_bytes(b"the whole fi")
    with pytest.raises(InputError, match=r"is not the original: it has 12 bytes and SHA-256 [0-9a-f]{64}, not 95,607,"):
        weights.inception_path(nowhere)


def test_what_arrives_whole_is_kept(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *_: io.BytesIO(b"the whole file"))
    original = hashlib.sha256(b"the whole file").hexdigest()
    monkeypatch.setattr(weights, "INCEPTION_SHA256", original)
    assert weights.inception_path(nowhere).read_bytes() == b"the whole file"
    assert weights.digest("inception", nowhere) == original


class Other(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_a_named_file_that_is_no_inception_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "network.pt"
    monkeypatch.setenv("CBS_INCEPTION", str(file))
    with pytest.raises(InputError, match=r"CBS_INCEPTION is .*: it must be the file .*95,607,719 bytes"):
        weights.inception_path(tmp_path)

    torch.jit.script(Other(2048)).save(str(file))
    assert features.build("inception", tmp_path, 32, 3, CPU).size == 2048
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"its [\d,]+ bytes are no whole TorchScript file"):
        weights.inception_path(tmp_path)

    torch.jit.script(Other(5)).save(str(file))
    with pytest.raises(InputError, match=r"is not Inception as clean-fid has it \(an image has 5 features\)"):
        features.build("inception", tmp_path, 32, 3, CPU)
    torch.jit.script(nn.Linear(2, 2)).save(str(file))
    with pytest.raises(InputError, match=r"is not Inception as clean-fid has it .*layers"):
        features.build("inception", tmp_path, 32, 3, CPU)
    with zipfile.ZipFile(file, "w") as other:
        other.writestr("readme.txt", "not a network")
    with pytest.raises(InputError, match="is not Inception as clean-fid has it"):
        features.build("inception", tmp_path, 32, 3, CPU)
