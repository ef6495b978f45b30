"""Which weights the features come from, and their digests (no torch: planning a sweep needs them)."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from functools import cache
from http.client import HTTPException
from pathlib import Path

from cbs.errors import InputError

DIGITS = Path(__file__).with_name("digits.npz")
INCEPTION_NAME = "inception-2015-12-05.pt"
INCEPTION_BYTES = 95_607_719
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
_ORIGINAL = f"{INCEPTION_BYTES:,} bytes, SHA-256 {INCEPTION_SHA256}"


@cache
def _sha256(path: Path, stamp: tuple[int, int]) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_digest(path: Path) -> str:
    stat = path.stat()
    return _sha256(path, (stat.st_size, stat.st_mtime_ns))


def inception_path(data: Path) -> Path:
    """Inception's weights: $CBS_INCEPTION, then <data>/weights, then clean-fid's cache, else downloaded.

    Raises InputError saying where to put the file, or that it is another one. CBS_INCEPTION may name any
    TorchScript file with the same interface.
    """
    given = os.environ.get("CBS_INCEPTION")
    if given:
        path = Path(given)
        if not path.is_file():
            raise InputError(f"CBS_INCEPTION is {given!r}: it must be the file {INCEPTION_NAME} ({_ORIGINAL}).")
        if not zipfile.is_zipfile(path):
            raise InputError(
                f"CBS_INCEPTION is {given!r}: its {path.stat().st_size:,} bytes are no whole TorchScript file; "
                f"{INCEPTION_NAME} has {_ORIGINAL}."
            )
        return path
    kept = data / "weights" / INCEPTION_NAME
    if kept.is_file():
        if _file_digest(kept) != INCEPTION_SHA256:
            raise InputError(
                f"{kept} is not the original: it has {kept.stat().st_size:,} bytes and SHA-256 {_file_digest(kept)}, "
                f"not {_ORIGINAL}; remove it and run the same command again, or set CBS_INCEPTION to it if it is meant."
            )
        return kept
    shared = Path(tempfile.gettempdir()) / INCEPTION_NAME  # clean-fid writes it in place, so it may be half there
    if shared.is_file() and _file_digest(shared) == INCEPTION_SHA256:
        return shared
    _download(kept)
    return kept


def _download(path: Path) -> None:
    from cleanfid.downloads_helper import check_download_inception, inception_url

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        try:
            found = Path(check_download_inception(folder))
            if _file_digest(found) != INCEPTION_SHA256:
                raise OSError(f"what arrived are {found.stat().st_size:,} other bytes")
        except (OSError, HTTPException) as error:
            raise InputError(
                f"target.features is 'inception', and its weights can't be downloaded ({error}): "
                f"fetch {inception_url} elsewhere ({_ORIGINAL}) and put it at {path}, "
                "or set CBS_INCEPTION to where it lies."
            ) from error
        os.replace(found, path)


def digest(features: str, data: Path) -> str:
    """The SHA-256 of a feature network's weights; "none" for features without weights.

    Inception's is known before they are here: `inception_path` lets no other file pass.
    """
    if features == "digits":
        return _file_digest(DIGITS)
    if features == "inception":
        return _file_digest(inception_path(data)) if os.environ.get("CBS_INCEPTION") else INCEPTION_SHA256
    return "none"
