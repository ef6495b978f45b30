"""What a sweep's configs are made of: when none of it changed, neither did they."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from cbs import batch_sizes

_ROOT = Path(__file__).resolve().parent.parent
# The code that composes and checks; what it imports for that, by version.
_CODE = (*sorted((_ROOT / "cbs").glob("*.py")), *sorted((_ROOT / "launch").glob("*.py")))
_LIBRARIES = ("hydra-core", "omegaconf", "PyYAML")
# ${dataset} or ${..rates.adam}: its value stands in the config itself.
_WITHIN = re.compile(r"\$\{\.*(?!hydra\b)\w+([.\[][\w.\-\[\]]*)?\}")
# A file's content goes elsewhere than into Hydra's settings.
_PACKAGE = re.compile(r"@package\s+(?!hydra\b)")
_ENVIRONMENT = re.compile(r"\$\{oc\.env:[^${}]*\}")


@dataclass(frozen=True)
class Sources:
    """The digest of everything configs are made of, but for a trial's own overrides; the interpolations in all of it.

    known: whether every place on Hydra's search path is one whose content can be read.
    """

    digest: str
    known: bool
    interpolations: tuple[str, ...]

    @property
    def closed(self) -> bool:
        """Whether the same sources and overrides always give the same config."""
        return self.known and not any(_reaches_out(text) for text in self.interpolations)

    @property
    def steady(self) -> bool:
        """Whether they do within one process: the environment may enter."""
        inner = (_ENVIRONMENT.sub("-", text) for text in self.interpolations)
        return self.known and not any(_reaches_out(text) for text in inner)

    @property
    def read_batch_size(self) -> bool:
        """Whether anything may follow from the choice of a batch size."""
        return any("batch_size" in text for text in self.interpolations)


def read(loader: Any, master: Any, jobs: Sequence[Sequence[str]], apart: Sequence[Path]) -> Sources:
    """Read every YAML file on Hydra's search path, except under the folders `apart`."""
    places = [(place.scheme(), str(place.path)) for place in loader.get_sources()]
    used = [(place["schema"], place["path"]) for place in master.hydra.runtime.config_sources]
    folders = [_folder(*place) for place in places]
    found = {line for job in jobs for line in job if "${" in line}
    # A folder's content counts, wherever it lies.
    kinds = [scheme if scheme == "file" else f"{scheme}://{path}" for scheme, path in places]
    versions = [version(name) for name in _LIBRARIES]
    digest = hashlib.sha256(repr((kinds, versions, master.hydra.job.config_name)).encode())
    for path in _CODE:
        _add(digest, path.name, path.read_bytes())
    for folder in filter(None, folders):
        _add(digest, "folder", b"")
        for path in _files(folder, apart):
            name, data = path.relative_to(folder).as_posix(), _content(path)
            _add(digest, name, data)
            found.update(_interpolations(name, data))
    # hydra.searchpath makes the two differ.
    return Sources(digest.hexdigest(), None not in folders and places == used, tuple(sorted(found)))


def _content(path: Path) -> bytes:
    """Nothing where it can't be read: if it is needed, Hydra says so."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _add(digest: Any, name: str, data: bytes) -> None:
    digest.update(f"{name} {len(data)}\n".encode() + data)


def _folder(scheme: str, path: str) -> Path | None:
    """Where a place's files lie; a folder that isn't there where its content is code; None where it can't be known."""
    if scheme in ("structured", batch_sizes.SCHEME):
        return Path(os.devnull)
    if scheme == "file":
        return Path(path)
    spec = importlib.util.find_spec(path.replace("/", ".")) if scheme == "pkg" else None
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _files(folder: Path, apart: Sequence[Path]) -> Iterator[Path]:
    seen = {*apart, folder.resolve()}  # and each folder once: links may lead in circles
    for here, folders, names in os.walk(folder, followlinks=True):
        places = {name: Path(here, name).resolve() for name in sorted(folders)}
        folders[:] = [name for name, place in places.items() if place not in seen]
        seen.update(places.values())
        yield from (Path(here, name) for name in sorted(names) if name.endswith(".yaml"))


def _interpolations(name: str, data: bytes) -> Iterator[str]:
    """Every text of a file with an interpolation in it, but for those in Hydra's own settings."""
    text = data.decode(errors="replace")
    everywhere = "_global_" in text or "/" not in name  # such a file's `hydra` is the config's
    hydras = name.startswith("hydra/") and not _PACKAGE.search(text)
    if "${" not in text or hydras:
        return
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:  # what else it holds is for Hydra to refuse
        yield text
        return
    if everywhere and isinstance(content, dict):
        content.pop("hydra", None)
    yield from _texts(content)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif "${" in str(value):
        yield str(value)


def _reaches_out(text: str) -> bool:
    """Whether an interpolation in it takes a value from elsewhere: the environment, the clock, Hydra's run."""
    while (fewer := _WITHIN.sub("-", text)) != text:  # from the innermost
        text = fewer
    return "${" in text
