"""Which weights the features come from, and their digests (no torch: planning a sweep needs them)."""

from __future__ import annotations

import hashlib
import os
import tempfile
from functools import cache
from pathlib import Path

from cbs.errors import InputError

DIGITS = Path(__file__).with_name("digits.npz")
INCEPTION_NAME = "inception-2015-12-05.pt"


@cache
def _sha256(path: Path, stamp: tuple[int, int]) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_digest(path: Path) -> str:
    stat = path.stat()
    return _sha256(path, (stat.st_size, stat.st_mtime_ns))


def inception_path(data: Path) -> Path:
    """Inception's weights: $CBS_INCEPTION, then <data>/weights, then clean-fid's cache, else downloaded.

    Raises InputError saying where to put the file.
    """
    given = os.environ.get("CBS_INCEPTION")
    if given:
        if not Path(given).is_file():
            raise InputError(f"CBS_INCEPTION is {given!r}: it must be the file {INCEPTION_NAME}.")
        return Path(given)
    kept = data / "weights" / INCEPTION_NAME
    for place in (kept, Path(tempfile.gettempdir()) / INCEPTION_NAME):
        if place.is_file():
            return place
    _download(kept)
    return kept


def _download(path: Path) -> None:
    from cleanfid.downloads_helper import check_download_inception, inception_url

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        try:
            os.replace(check_download_inception(folder), path)
        except OSError as error:
            raise InputError(
                f"target.features is 'inception', and its weights can't be downloaded ({error}): "
                f"fetch {inception_url} elsewhere and put it at {path}, or set CBS_INCEPTION to where it lies."
            ) from error


def digest(features: str, data: Path) -> str:
    """The SHA-256 of a feature network's weights; "none" for features without weights."""
    if features == "digits":
        return _file_digest(DIGITS)
    if features == "inception":
        return _file_digest(inception_path(data))
    return "none"
