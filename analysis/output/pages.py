"""Self-contained HTML pages."""

from __future__ import annotations

import base64

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def environment(room: str) -> Environment:
    """Templates of one room, as in "analysis.answer", and those of this one, which every page extends."""
    folders = [PackageLoader(package, ".") for package in (room, "analysis.output")]
    environment = Environment(
        loader=ChoiceLoader(folders), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["data_uri"] = _data_uri
    return environment


def _data_uri(content: str | bytes, kind: str) -> str:
    raw = content.encode() if isinstance(content, str) else content
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}"
